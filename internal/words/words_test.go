package words

import (
	"errors"
	"os/exec"
	"reflect"
	"slices"
	"strings"
	"testing"
)

func TestSplitWords(t *testing.T) {
	for _, c := range []struct {
		name string
		line string
		want []string
		err  error
	}{
		{"nothing", "", nil, nil},
		{"only blanks", " \t\n ", nil, nil},
		{"plain", "user ls --json", []string{"user", "ls", "--json"}, nil},
		{"blanks between", "  user\t ls\n", []string{"user", "ls"}, nil},
		{"single quotes", `deny 3 --reason 'no ticket $HOME \n'`, []string{"deny", "3", "--reason", `no ticket $HOME \n`}, nil},
		{"double quotes", `a "b \"c\" \\ \$ \x"`, []string{"a", `b "c" \ $ \x`}, nil},
		{"empty words", `'' "" a''b`, []string{"", "", "ab"}, nil},
		{"joined parts", `--reason='two words'" and"\ more`, []string{"--reason=two words and more"}, nil},
		{"a quote in quotes", `'it'\''s'`, []string{"it's"}, nil},
		{"joined line", "a \\\n b\\\nc", []string{"a", "bc"}, nil},
		{"line break in double quotes", "\"a\\\nb\nc\"", []string{"ab\nc"}, nil},
		{"shell characters mean nothing", "a|b;c &d >e #f *g", []string{"a|b;c", "&d", ">e", "#f", "*g"}, nil},
		{"bytes that are no UTF-8", "a\xff\xfe \x00b", []string{"a\xff\xfe", "\x00b"}, nil},
		{"open single", "a 'b", nil, ErrQuote},
		{"open double", `a "b\"`, nil, ErrQuote},
		{"double ends in a backslash", `a "b\`, nil, ErrQuote},
		{"lone backslash", `a b\`, nil, ErrBackslash},
		{"too many", strings.Repeat("a ", MaxWords+1), nil, ErrTooMany},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := SplitWords(c.line)
			if !errors.Is(err, c.err) {
				t.Fatalf("error %v, want %v", err, c.err)
			}
			if !reflect.DeepEqual(got, c.want) {
				t.Fatalf("%q splits into %q, want %q", c.line, got, c.want)
			}
		})
	}
}

func TestJoinWords(t *testing.T) {
	for _, c := range []struct {
		words []string
		want  string
	}{
		{[]string{"user", "ls", "--json"}, "user ls --json"},
		{[]string{""}, "''"},
		{[]string{"a b", "it's"}, `'a b' 'it'\''s'`},
		{[]string{"--reason=x", "=x", "~x"}, "--reason=x '=x' '~x'"},
	} {
		if got := JoinWords(c.words); got != c.want {
			t.Errorf("%q joins to %s, want %s", c.words, got, c.want)
		}
	}
}

// A shell must read what JoinWords wrote as SplitWords does: people paste such lines.
func TestJoinWordsMeansTheSameToAShell(t *testing.T) {
	in := []string{"a", "", "two words", `q'"\`, "$HOME `id` $(id)", "*", "~", "#", "!x", "=a", "a=b", "line\nbreak", "\xff\x01", "{a,b}"}
	out, err := exec.Command("/bin/sh", "-c", `printf '%s\0' `+JoinWords(in)).Output()
	if err != nil {
		t.Fatalf("sh: %v", err)
	}
	got := strings.Split(strings.TrimSuffix(string(out), "\x00"), "\x00")
	if !slices.Equal(got, in) {
		t.Fatalf("the shell read %q, want %q", got, in)
	}
}

// FuzzWords checks that any line either fails or splits into words that survive a round trip.
func FuzzWords(f *testing.F) {
	for _, s := range []string{"", "a b", `'a' "b" \c`, `"\$\x`, "\\\n", "'\x00\xff'", `a''b`, `"a"'b'\ c`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, line string) {
		first, err := SplitWords(line)
		if err != nil {
			return
		}
		again, err := SplitWords(JoinWords(first))
		if err != nil {
			t.Fatalf("own quoting of %q fails: %v", first, err)
		}
		if !slices.Equal(first, again) {
			t.Fatalf("%q became %q", first, again)
		}
		// Any bytes at all survive as one word.
		one, err := SplitWords(Quote(line))
		if err != nil || len(one) != 1 || one[0] != line {
			t.Fatalf("%q quoted and split is %q, %v", line, one, err)
		}
	})
}
