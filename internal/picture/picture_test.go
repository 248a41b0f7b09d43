package picture

import (
	"bytes"
	"slices"
	"strings"
	"testing"
)

// TestPictureIsHarmless lists what a hostile server might try on an auditor.
func TestPictureIsHarmless(t *testing.T) {
	cases := map[string]string{
		"text\r\n\t\x1b[31;1mred\x1b[m\x1b[2J\x1b[10;5H":     "text\r\n\t\x1b[31;1mred\x1b[m\x1b[2J\x1b[10;5H",
		"\x1b[?1049h\x1b[?25l\x1b(0\x1b7\x1b8\x1bM":          "\x1b[?1049h\x1b[?25l\x1b(0\x1b7\x1b8\x1bM",
		"\x1b]52;c;cm0gLXJm\x07clipboard":                    "clipboard",
		"\x1b]0;title\x1b\\":                                 "",
		"\x1b[c\x1b[>c\x1b[6n\x1b[?6n\x1b[x\x1b[5n\x05\x1bZ": "",
		"\x1bP$qm\x1b\\\x1bP+q544e\x1b\\":                    "",
		"\x1b[?1000h\x1b[?2004h\x1b[?1004h\x1b[?1;1003h":     "",
		"\x1b[21t\x1b[8;1;1t\x1b[2h\x1b[20h":                 "",
		"\x1b[>4;2m\x1b[?u\x1b[>1u\x1b[!p\x1b[62\"p":         "",
		"\x1bc\x1b#8":             "",
		"\u009b6n\u0090x\u009cok": "ok",
	}
	for in, want := range cases {
		var out bytes.Buffer
		p := New(&out, false)
		for i := range len(in) {
			if _, err := p.Write([]byte{in[i]}); err != nil {
				t.Fatal(err)
			}
		}
		if out.String() != want {
			t.Errorf("%q became %q, want %q", in, out.String(), want)
		}
	}
}

// FuzzScanner feeds hostile terminal output to what faces an auditor's terminal.
func FuzzScanner(f *testing.F) {
	for _, s := range []string{"\x1b[c", "\x1b]52;c;aGk=\x07", "\x1bP$q\"p\x1b\\", "\x1b[?1000h", "\x9b6n", "\u009b5n", "\x1b[>q", "\x05", "\x1bZ", "a\x1b", "\x1b\x1b]"} {
		f.Add([]byte(s), uint8(1))
	}
	f.Fuzz(func(t *testing.T, data []byte, size uint8) {
		var out bytes.Buffer
		p := New(&out, false)
		for part := range slices.Chunk(data, int(size)%7+1) {
			if _, err := p.Write(part); err != nil {
				t.Fatal(err)
			}
		}
		got := out.String()
		if slices.ContainsFunc([]string{"\x05", "\u009b", "\u0090", "\u009d", "\x1b]", "\x1bP", "\x1bZ"},
			func(bad string) bool { return strings.Contains(got, bad) }) {
			t.Errorf("%q let %q through", data, got)
		}
	})
}
