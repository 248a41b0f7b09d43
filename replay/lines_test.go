package replay

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"sallyport/recorder"
	"sallyport/recorder/trec"
)

// textOf exports a session of output frames that come at the given seconds.
func (n *tape) textOf(t testing.TB, m recorder.Meta, frames ...trec.Frame) string {
	t.Helper()
	r, err := Open(bytes.NewReader(n.write(t, m, true, frames...)), n.keys(t, false))
	must(t, err)
	var out bytes.Buffer
	_, err = Export(&out, r, ExportOptions{Format: FormatText})
	must(t, err)
	return out.String()
}

func TestTextIsTheRenderedScreen(t *testing.T) {
	n := newTape(t)
	small := recorder.Meta{Session: "S-1", PTY: true, Columns: 20, Rows: 4}
	for _, c := range []struct {
		name   string
		frames []string
		want   string
	}{
		{"nothing", nil, ""},
		{"a line", []string{"$ ls\r\n"}, "$ ls\n"},
		{"corrected typing", []string{"$ lx", "\b \b", "s\r\n"}, "$ ls\n"},
		{"a progress bar", []string{"10%\r", "50%\r", "100%\r\ndone"}, "100%\ndone\n"},
		{"scrolled", []string{"1\r\n2\r\n3\r\n4\r\n5\r\n6"}, "1\n2\n3\n4\n5\n6\n"},
		{"long lines", []string{strings.Repeat("0123456789", 5) + "\r\nend", "\r\n\r\n\r\n\r\n"}, strings.Repeat("0123456789", 5) + "\nend\n"},
		{"cut characters", []string{"gr\xc3", "\xbc\xc3\x9fe \x1b[3", "1mred\x1b[m"}, "grüße red\n"},
		{"cleared", []string{"one\r\ntwo\r\n", "\x1b[H\x1b[2Jthree"}, "one\ntwo\nthree\n"},
		{"an editor", []string{"$ vi\r\n\x1b[?1049h\x1b[H~ hello", "\x1b[2;1Hworld", "\x1b[?1049l$ "},
			"[full-screen program]\n~ hello\nworld\n[end of full-screen program]\n$ vi\n$\n"},
		{"a pager left open", []string{"$ less\r\n\x1b[?1049hpage one", "\x1b[H\x1b[2Jpage two"},
			"[full-screen program]\npage one\npage two\n[end of full-screen program]\n$ less\n"},
	} {
		var frames []trec.Frame
		for i, f := range c.frames {
			frames = append(frames, n.at(time.Duration(i)*2*time.Second, trec.KindOutput, f))
		}
		if got := n.textOf(t, small, frames...); got != c.want {
			t.Errorf("%s: got %q, want %q", c.name, got, c.want)
		}
	}
	if got := n.textOf(t, recorder.Meta{Session: "S-1"}, n.at(0, trec.KindOutput, "a\tb\n"+strings.Repeat("x", 200)+"\n"), n.at(0, trec.KindStderr, "warning\n")); got != "a\tb\n"+strings.Repeat("x", 200)+"\nwarning\n" {
		t.Errorf("without a terminal: %q", got)
	}
}

func TestLinesTellTimeAndPlace(t *testing.T) {
	n := newTape(t)
	file := n.write(t, recorder.Meta{Session: "S-1", PTY: true, Columns: 20, Rows: 4}, true,
		n.at(0, trec.KindGate, "welcome\r\n"), n.at(time.Second, trec.KindInput, "ls\r"), n.at(2*time.Second, trec.KindOutput, "$ "),
		n.at(9*time.Second, trec.KindOutput, "ls\r\n"), n.at(10*time.Second, trec.KindOutput, "a\r\nb\r\nc\r\nd\r\n"))
	r, err := Open(bytes.NewReader(file), n.keys(t, true))
	must(t, err)
	var got []string
	for l, err := range Lines(r) {
		must(t, err)
		got = append(got, fmt.Sprintf("%d %v %s", l.Position, l.Offset, l.Text))
	}
	if want := []string{"1 0s welcome", "4 9s $ ls", "5 10s a", "5 10s b", "5 10s c", "5 10s d"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	r, err = Open(bytes.NewReader(file), n.keys(t, true))
	must(t, err)
	for range Lines(r) {
		break // must not go on
	}
	changed := bytes.Clone(file)
	changed[bytes.LastIndex(changed, []byte("reason"))-300] ^= 1
	if r, err = Open(bytes.NewReader(changed), n.keys(t, true)); err == nil {
		for _, err = range Lines(r) {
			if err != nil {
				break
			}
		}
	}
	var format *trec.FormatError
	if !errors.As(err, &format) {
		t.Errorf("a changed recording gave %v", err)
	}
}

// hostile makes a session of frames out of any bytes: the kind, the time and
// the length of each come from them.
func (n *tape) hostile(data []byte) []trec.Frame {
	kinds := []trec.Kind{trec.KindOutput, trec.KindOutput, trec.KindStderr, trec.KindGate, trec.KindInput, trec.KindResize, trec.KindExit, trec.KindMarker, trec.KindSignal, trec.KindGap}
	at := time.Duration(0)
	var frames []trec.Frame
	for len(data) > 2 {
		size := min(int(data[1])%32, len(data)-2)
		at += time.Duration(int8(data[0])) * 50 * time.Millisecond
		frames = append(frames, n.at(at, kinds[int(data[0])%len(kinds)], string(data[2:2+size])))
		data = data[2+size:]
	}
	return frames
}

// exportFrames runs an exporter over frames without a file between them.
func exportFrames(t testing.TB, x exporter, frames []trec.Frame) {
	t.Helper()
	last := time.Time{}
	for i, f := range frames {
		must(t, x.frame(trec.Entry{Position: trec.Position(i + 1), Kind: f.Kind, Time: f.Time, Data: f.Data}))
		last = f.Time
	}
	must(t, x.finish(last))
}

func fuzzSeeds(f *testing.F) {
	for _, s := range []string{"\x00\x05hello", "\x00\x08\x1b[?1049h\x14\x03abc\x00\x08\x1b[?1049l", "\x05\x10\x00\x00\x03\xe8\x00\x00\x01\xf4\x00\x00\x00\x00\x00\x00\x00\x00\x00\x1f\x1b#8\x1b[2J\x1b#8\x1b[2J\x1b#8\x1b[2J\x1b[2J",
		"\x00\x02\xe2\x82\x03\x01\xac\x00\x01\xac", "\x06\x04\x00\x00\x00\x01\x06\x03sHU", "\xff\x10\x1b[999999999999b\n"} {
		f.Add([]byte(s))
	}
}

// FuzzText draws hostile sessions: the text is valid, and not much more than what was sent.
func FuzzText(f *testing.F) {
	fuzzSeeds(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		n := tape{now: time.Unix(1e9, 0).UTC()}
		for _, pty := range []bool{true, false} {
			var out bytes.Buffer
			x := newTextExporter(&out, recorder.Meta{PTY: pty, Start: n.now, Columns: 40, Rows: 10})
			exportFrames(t, x, n.hostile(data))
			if got := out.Bytes(); !utf8.Valid(got) || bytes.ContainsFunc(got, func(r rune) bool { return r < 0x20 && r != '\n' && r != '\t' || r >= 0x7f && r < 0xa0 }) {
				t.Errorf("controls in %q", got)
			}
			// Each byte may stand for 64 columns of up to nine runes, and a picture for each frame.
			if limit := (len(data)*64 + 256<<10) * 9 * utf8.UTFMax; out.Len() > limit {
				t.Errorf("%d bytes became %d", len(data), out.Len())
			}
		}
	})
}

// FuzzAsciicast exports hostile sessions: each line is JSON, times do not fall,
// and no byte that UTF-8 can hold is lost or changed.
func FuzzAsciicast(f *testing.F) {
	fuzzSeeds(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		n := tape{now: time.Unix(1e9, 0).UTC()}
		frames := n.hostile(data)
		for _, version := range []int{2, 3} {
			var out bytes.Buffer
			c, err := newCastWriter(&out, version, recorder.Meta{PTY: true, Start: n.now, User: string(data)}, true)
			must(t, err)
			exportFrames(t, c, frames)
			typed, total := "", 0.0
			for i, line := range strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n") {
				if strings.HasPrefix(line, "#") {
					continue
				}
				var event []any
				if i == 0 {
					if !json.Valid([]byte(line)) {
						t.Fatalf("header %q", line)
					}
					continue
				}
				must(t, json.Unmarshal([]byte(line), &event))
				at := event[0].(float64)
				if at < 0 || version == 2 && at < total {
					t.Errorf("time falls: %s", line)
				}
				total = at
				if event[1] == "i" {
					typed += event[2].(string)
				}
			}
			var input []byte
			for _, f := range frames {
				if f.Kind == trec.KindInput {
					input = append(input, f.Data...)
				}
			}
			if want := strings.ToValidUTF8(string(input), ""); utf8.Valid(input) && typed != want {
				t.Errorf("input %q became %q", input, typed)
			}
		}
	})
}
