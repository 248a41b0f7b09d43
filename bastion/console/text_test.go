package console

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"sallyport/authz"
	"sallyport/bastion"
	"sallyport/internal/words"
	"sallyport/recorder"
)

func TestCleanHidesNothing(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"plain text, ümlaut, 漢字", "plain text, ümlaut, 漢字"},
		{"a\x1b[31mred", `a\x1b[31mred`},
		{"line\nbreak\ttab\r", `line\nbreak\ttab\r`},
		{"abc\u202egnp.exe", `abc\u202egnp.exe`},
		{"zero\u200bwidth", `zero\u200bwidth`},
		{"c1\u009b", `c1\u009b`},
		{"bad\xff\xfeutf8", `bad\xff\xfeutf8`},
		{"nbsp\u00a0", `nbsp\u00a0`},
		{`back\slash`, `back\slash`},
		{"del\x7f", `del\x7f`},
	} {
		if got := Clean(c.in); got != c.want {
			t.Errorf("Clean(%q) is %s, want %s", c.in, got, c.want)
		}
	}
}

func TestCauseNamesNoFiles(t *testing.T) {
	_, missing := os.Open("/no/such/folder/S-1.trec")
	linked := os.Link("/no/such/file", "/no/such/other")
	for _, c := range []struct {
		err  error
		want string
	}{
		{errors.New("session S-1 is still live; its recording is whole only at its end"), "session S-1 is still live; its recording is whole only at its end"},
		{fmt.Errorf("recording failed: session S-1: %w", missing), "recording failed: session S-1: no such file or directory"},
		{fmt.Errorf("%w: %w", recorder.ErrFailed, fmt.Errorf("write: %w", missing)), "recording failed: write: no such file or directory"},
		{linked, "no such file or directory"},
		{errors.New("open database: /srv/gate/state.db: locked"), "open database: a file of the node: locked"},
		{errors.New(`"/srv/x y" and genomics/db1 from 10.0.0.0/8`), `"a file of the node y" and genomics/db1 from 10.0.0.0/8`},
	} {
		if got := Cause(c.err); got != c.want {
			t.Errorf("%q is told as %q, want %q", c.err, got, c.want)
		}
	}
}

// FuzzClean checks that whatever a person writes, nothing but printable text comes out.
func FuzzClean(f *testing.F) {
	for _, s := range []string{"", "a\x1b]52;c;x\a", "\u2066\u2069", "\xf0\x9f", "👩‍👩‍👧", "e\u0301"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		out := Clean(text)
		if !utf8.ValidString(out) {
			t.Fatalf("%q is no UTF-8", out)
		}
		if strings.ContainsFunc(out, words.Hidden) {
			t.Fatalf("%q hides something", out)
		}
		for _, limit := range []int{1, 7, 80} {
			if short := shorten(out, limit); columnsOf(short) > limit {
				t.Fatalf("%q takes %d columns of %d", short, columnsOf(short), limit)
			}
			for _, line := range wrap(out, limit+1) { // a wide rune needs two
				if columnsOf(line) > limit+1 {
					t.Fatalf("line %q takes %d columns of %d", line, columnsOf(line), limit+1)
				}
			}
		}
		var back string
		if err := json.Unmarshal([]byte(quoted(text)), &back); err != nil || back != strings.ToValidUTF8(text, "\uFFFD") {
			t.Fatalf("quoted %q reads as %q, %v", text, back, err)
		}
		if strings.ContainsFunc(quoted(text), words.Hidden) {
			t.Fatalf("quoted %q hides something", quoted(text))
		}
	})
}

func TestTableFitsAnyWidth(t *testing.T) {
	for _, columns := range []int{40, 80, 132} {
		var out bytes.Buffer
		k := &call{out: &out, verb: bastion.Verb{Term: true, Columns: columns}}
		table := table{heads: []string{"!NO", "USER", "TEXT", "WIDE"}}
		table.add("1234567", strings.Repeat("u", 60), strings.Repeat("long ", 60), strings.Repeat("漢", 50))
		table.add("1", "bo", "short", "字")
		table.write(k)
		lines := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
		if len(lines) != 3 {
			t.Fatalf("%d lines: %q", len(lines), lines)
		}
		for _, line := range lines {
			if columnsOf(line) > columns {
				t.Errorf("%d columns in %d: %q", columnsOf(line), columns, line)
			}
		}
		if !strings.Contains(lines[1], "1234567") {
			t.Errorf("the number was cut: %q", lines[1])
		}
		if !strings.Contains(lines[2], "short") {
			t.Errorf("a short cell was cut: %q", lines[2])
		}
	}
}

func TestRowsOfOtherPeopleCannotBeForged(t *testing.T) {
	var out bytes.Buffer
	k := &call{out: &out}
	table := table{heads: []string{"USER", "REASON"}}
	table.add("eve", "harmless\nmallory  approved\x1b[2K")
	table.write(k)
	if n := strings.Count(out.String(), "\n"); n != 2 {
		t.Fatalf("%d lines:\n%s", n, out.String())
	}
	if strings.Contains(out.String(), "\x1b") {
		t.Fatal("an escape sequence came through")
	}
}

func TestFactsWrapAndAreNeverCut(t *testing.T) {
	var out bytes.Buffer
	k := &call{out: &out, verb: bastion.Verb{Term: true}}
	reason := strings.Repeat("because ", 40) + "END"
	var f facts
	f.add("reason", quoted(reason))
	f.write(k)
	for line := range strings.Lines(out.String()) {
		if columnsOf(line) > 80+1 { // with the line break
			t.Errorf("too wide: %q", line)
		}
	}
	if !strings.Contains(out.String(), "END") {
		t.Fatalf("the end is missing:\n%s", out.String())
	}
}

func TestJSONHidesNothing(t *testing.T) {
	var out bytes.Buffer
	k := &call{out: &out}
	in := map[string]string{"text": "a\u202eb\x1b\u0085\U000E0001c<&>"}
	if err := k.printJSON(in); err != nil {
		t.Fatal(err)
	}
	if strings.ContainsFunc(strings.ReplaceAll(out.String(), "\n", ""), words.Hidden) {
		t.Fatalf("hidden characters in %q", out.String())
	}
	var back map[string]string
	if err := json.Unmarshal(out.Bytes(), &back); err != nil || back["text"] != in["text"] {
		t.Fatalf("%q reads as %q, %v", out.String(), back, err)
	}
}

func TestSpreadsheetSafe(t *testing.T) {
	for in, want := range map[string]string{"": "", "-": "-", "=cmd()": "'=cmd()", "@x": "'@x", "+1": "'+1", "-x": "'-x", "|x": "'|x", "%x": "'%x", "\uff1dx": "'\uff1dx", "alice": "alice", "{\"a\":1}": "{\"a\":1}"} {
		if got := spreadsheetSafe(in); got != want {
			t.Errorf("%q becomes %q, want %q", in, got, want)
		}
	}
}

func TestQuarter(t *testing.T) {
	for _, c := range []struct {
		text string
		end  string
	}{{"2026Q4", "2027-01-01"}, {"2026Q1", "2026-04-01"}} {
		end, err := QuarterEnd(c.text)
		if err != nil || day(end) != c.end {
			t.Errorf("%s ends %s, %v", c.text, day(end), err)
		}
		if got := Quarter(end.Add(-1)); got != c.text {
			t.Errorf("the moment before %s is in %s", c.end, got)
		}
	}
	for _, text := range []string{"", "2026", "2026Q5", "2026Q0", "Q1", "2026Q+1", "20260Q1", "2026Q01"} {
		if _, err := QuarterEnd(text); ExitCode(err) != ExitUsage {
			t.Errorf("%q gives %v", text, err)
		}
	}
}

func TestParseLevel(t *testing.T) {
	l, err := parseLevel("second=security-admin:2")
	if err != nil || l.Name != "second" || l.Site != "security-admin" || l.Quorum != 2 || l.Eligible != "" {
		t.Errorf("read %+v, %v", l, err)
	}
	l, err = parseLevel("manager")
	if err != nil || l.Name != "manager" || l.Eligible != "manager" || l.Quorum != 1 {
		t.Errorf("read %+v, %v", l, err)
	}
	for _, text := range []string{"", "boss", "manager:0", "manager:x", "a=b:1"} {
		if _, err := parseLevel(text); ExitCode(err) != ExitUsage {
			t.Errorf("%q gives %v", text, err)
		}
	}
}

// Every verb of the contract is there, has a sentence, and fits the screen.
func TestTreeIsComplete(t *testing.T) {
	var have []string
	var collect func(prefix string, depth int)
	tree := Tree()
	collect = func(prefix string, depth int) {
		c, _, err := tree.Find(strings.Fields(prefix))
		if err != nil {
			t.Fatal(err)
		}
		for _, child := range c.Commands() {
			name := strings.TrimSpace(prefix + " " + child.Name())
			have = append(have, name)
			if child.Short == "" || len(child.Short) > 60 {
				t.Errorf("%s: its sentence is %q", name, child.Short)
			}
			collect(name, depth+1)
		}
	}
	collect("", 0)
	for noun, verbs := range map[string]string{
		"user":     "add ls show role os-user freeze unfreeze invite",
		"key":      "ls add rm",
		"factor":   "reset",
		"training": "set",
		"terms":    "set show accept",
		"project":  "add ls show set",
		"server":   "add ls set-host-key rm script",
		"member":   "add approve ls end",
		"access":   "explain",
		"request":  "create ls show approve deny cancel",
		"session":  "ls show commands kill fetch",
		"epoch":    "add ls destroy keep",
		"event":    "ls show export",
		"ledger":   "checkpoint",
		"ca":       "show",
	} {
		for v := range strings.FieldsSeq(verbs) {
			if !slices.Contains(have, noun+" "+v) {
				t.Errorf("the verb %s %s is missing", noun, v)
			}
		}
	}
	for _, v := range []string{"status", "version", "whoami", "scrub"} {
		if !slices.Contains(have, v) {
			t.Errorf("the verb %s is missing", v)
		}
	}
	for line := range strings.SplitSeq(tree.Long, "\n") {
		if columnsOf(line) > 80 {
			t.Errorf("help is too wide: %q", line)
		}
	}
}

// Faults of usage are found before anything is asked of the Authority, which is nil here.
func TestUsageFaults(t *testing.T) {
	c := New(Options{})
	for _, words := range [][]string{
		{"nonsense"}, {"user"}, {"user", "nonsense"}, {"user", "show"}, {"user", "show", "a", "b"},
		{"user", "add", "Bad Name"}, {"user", "add", "a", "--site-role", "king"}, {"user", "freeze", "a"},
		{"user", "freeze", "a", "--reason", "  "}, {"user", "ls", "--nonsense"}, {"user", "invite", "a", "--valid", "soon"},
		{"member", "add", "p", "u", "--reason", "r"}, {"member", "add", "p", "u", "--reason", "r", "--role", "king", "--until", "90d"},
		{"member", "add", "p", "u", "--reason", "r", "--role", "researcher", "--until", "soon"},
		{"server", "add", "p", "h"}, {"server", "add", "p/s", "h"}, {"server", "add", "p/s", "h", "--host-key", "x"},
		{"request", "deny", "3"}, {"request", "create", "p/s"}, {"request", "create", "p", "--reason", "r"},
		{"session", "ls", "--limit", "0"}, {"session", "ls", "--since", "whenever"}, {"session", "fetch", "3"},
		{"session", "fetch", "3", "--reason", "r", "--json"},
		{"event", "export", "--format", "xml"}, {"key", "add"}, {"help", "nonsense"}, {"access", "nonsense"},
		{"project", "add", "p", "--level", "type9"}, {"project", "add", "p", "--network", "10.0.0.0/99"},
	} {
		var out, errOut bytes.Buffer
		code := c.Run(t.Context(), bastion.Verb{Args: words, Stdin: strings.NewReader(""), Stdout: &out, Stderr: &errOut})
		if code != ExitUsage {
			t.Errorf("%q: exit code %d, %s", words, code, errOut.String())
		}
		if len(words) > 1 && (!strings.HasPrefix(errOut.String(), "sallyport: ") || strings.Count(errOut.String(), "\n") != 1) {
			t.Errorf("%q: not one sentence: %q", words, errOut.String())
		}
	}
}

func TestHelp(t *testing.T) {
	c := New(Options{})
	for _, words := range [][]string{nil, {"help"}, {"--help"}, {"user", "add", "--help"}, {"help", "project", "set"}, {"help", "event"}} {
		var out, errOut bytes.Buffer
		code := c.Run(t.Context(), bastion.Verb{Args: words, Stdout: &out, Stderr: &errOut})
		if code != ExitOK || out.Len() < 100 {
			t.Errorf("%q: exit code %d, %q %q", words, code, out.String(), errOut.String())
		}
		for line := range strings.Lines(out.String()) {
			if columnsOf(strings.TrimSuffix(line, "\n")) > 88 {
				t.Errorf("%q: too wide: %q", words, line)
			}
		}
	}
}

func TestEventsKeepTimeAndOperationOnNarrowTerminals(t *testing.T) {
	e := authz.Event{Sequence: 1234, Time: time.Date(2026, 11, 21, 9, 30, 15, 0, time.UTC), UserID: "alexandra.long-name", OpType: "factor.failure",
		ResourceType: "connection", ResourceID: "C-01M7ZZB0000000000000000000", Result: authz.ResultRefused, Details: map[string]any{"rule": "factor.blocked"}}
	for _, columns := range []int{60, 72, 80, 132} {
		var out bytes.Buffer
		k := &call{out: &out, verb: bastion.Verb{Term: true, Columns: columns}}
		table := eventTable(k.width())
		table.addEvent(e)
		table.write(k)
		for _, want := range []string{"1234", "2026-11-21 09:30:15Z", "factor.failure", "refuse"} {
			if !strings.Contains(out.String(), want) {
				t.Errorf("%d columns lack %q:\n%s", columns, want, out.String())
			}
		}
		for line := range strings.Lines(out.String()) {
			if columnsOf(strings.TrimSuffix(line, "\n")) > columns {
				t.Errorf("too wide for %d: %q", columns, line)
			}
		}
	}
}

// TestTheScriptTouchesNoForeignAccount runs the part that makes accounts, with the commands that change
// a system put in place of the real ones.
func TestTheScriptTouchesNoForeignAccount(t *testing.T) {
	dir := t.TempDir()
	ca, _ := newKey(t)
	k := &call{Options: Options{Name: "gate.test", UserCA: ca}}
	script, _, found := strings.Cut(k.script(authz.Server{Project: "genomics", Name: "db1"}, []string{"alice", "bob", "deploy", "stray", "sync"}), "# How sshd must behave")
	if !found {
		t.Fatal("the script has lost its second part")
	}
	if err := errors.Join(os.MkdirAll(filepath.Join(dir, "etc/ssh"), 0o700), os.WriteFile(filepath.Join(dir, "etc/login.defs"), []byte("UID_MIN\t\t\t 1000\n"), 0o600)); err != nil {
		t.Fatal(err)
	}
	stubs := `
log() { echo "$@" >> ` + dir + `/log; }
passwd() { case "$1" in
	alice) [ -e ` + dir + `/alice ] && echo "alice:x:1001:1001:sallyport member:` + dir + `/home/alice:/bin/bash" ;;
	bob) echo "bob:x:1002:1002:sallyport member:` + dir + `/home/bob:/bin/bash" ;;
	deploy) echo "deploy:x:1500:1500:Deploy,,,:` + dir + `/home/deploy:/bin/bash" ;;
	stray) echo "stray:x:1501:1501:sallyport member:/:/bin/bash" ;;
	sync) echo "sync:x:4:65534:sync:/bin:/bin/sync" ;;
esac; }
getent() { passwd "$2"; }
id() { passwd "$2" | cut -d: -f3 | grep .; }
useradd() { log useradd "$@"; for last; do :; done; mkdir -p ` + dir + `/home/alice; : > ` + dir + `/alice; }
chmod() { log chmod "$@"; }
stat() { case "$3" in */alice) echo 1001 ;; */bob) echo 1002 ;; */deploy) echo 1500 ;; *) echo 0 ;; esac; }
mkdir -p ` + dir + `/home/bob ` + dir + `/home/deploy
`
	c := exec.CommandContext(t.Context(), "sh")
	c.Stdin = strings.NewReader(stubs + strings.ReplaceAll(script, "/etc/", dir+"/etc/"))
	var told bytes.Buffer
	c.Stderr = &told
	if err := c.Run(); err != nil {
		t.Fatalf("%v: %s", err, told.String())
	}
	log, err := os.ReadFile(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	home := dir + "/home/"
	want := "useradd --create-home --shell /bin/bash --password * --comment sallyport member alice\nchmod 0700 " + home + "alice\nchmod 0700 " + home + "bob\nchmod 0700 " + home + "deploy\n"
	if string(log) != want {
		t.Errorf("done:\n%swant:\n%s", log, want)
	}
	for _, want := range []string{"the account deploy was here before", "the home / of stray is not its own", "sync is an account of the system"} {
		if strings.Count(told.String(), want) != 1 {
			t.Errorf("not told once: %q in\n%s", want, told.String())
		}
	}
	if strings.Count(told.String(), "\n") != 3 {
		t.Errorf("told:\n%s", told.String())
	}
	principals, err := filepath.Glob(filepath.Join(dir, "etc/ssh/auth_principals/*"))
	if err != nil || len(principals) != 4 {
		t.Errorf("principals of %v, %v", principals, err)
	}
}
