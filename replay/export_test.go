package replay

import (
	"bufio"
	"bytes"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"sallyport/internal/words"
	"sallyport/recorder"
	"sallyport/recorder/trec"
)

func export(t *testing.T, path string, k Keys, o ExportOptions) (string, ExportResult) {
	t.Helper()
	r, err := OpenFile(path, k)
	must(t, err)
	defer r.Close()
	var out bytes.Buffer
	result, err := Export(&out, r, o)
	must(t, err)
	return out.String(), result
}

func (n *tape) mixed(t *testing.T) string {
	euro := "€" // three bytes, cut in two
	return n.record(t, "S-1", true,
		n.at(0, trec.KindMarker, "term=xterm"),
		n.at(500*time.Millisecond, trec.KindGate, "welcome\r\n"),
		n.at(time.Second, trec.KindOutput, "a"+euro[:1]),
		n.at(1100*time.Millisecond, trec.KindStderr, "e"),
		n.at(1500*time.Millisecond, trec.KindInput, "q\r"),
		n.at(2*time.Second, trec.KindOutput, euro[1:]+"\xffb<&>"),
		n.at(time.Second, trec.KindResize, string(recorder.EncodeResize(recorder.Window{Columns: 120, Rows: 40}))), // clock set back
		n.at(3*time.Second, trec.KindOutput, "\xe2\x82"),
		n.at(4*time.Second, trec.KindExit, string(recorder.EncodeExit(3, ""))))
}

func TestAsciicast3(t *testing.T) {
	n := newTape(t)
	path := n.mixed(t)
	got, result := export(t, path, n.keys(t, true), ExportOptions{Format: FormatAsciicast, Input: true})
	want := `{"version":3,"term":{"cols":100,"rows":30,"type":"xterm"},"timestamp":1772355600,"title":"S-1 alice@db1 (genomics)"}
[0.000000, "m", "term=xterm"]
[0.500000, "o", "welcome\r\n"]
[0.500000, "o", "a"]
[0.100000, "o", "e"]
[0.400000, "i", "q\r"]
[0.500000, "o", "€` + "\ufffd" + `b<&>"]
[0.000000, "r", "120x40"]
[2.000000, "x", "3"]
[0.000000, "o", "` + "\ufffd\ufffd" + `"]
# 3 bytes that are not UTF-8 stand as U+FFFD; the recording has them
`
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if result.Replaced != 3 || result.Sealed != 0 || result.Ending != EndingComplete {
		t.Errorf("%+v", result)
	}
	for i, line := range strings.Split(strings.TrimSpace(got), "\n") {
		if line[0] != '#' && !json.Valid([]byte(line)) {
			t.Errorf("line %d is not JSON: %s", i+1, line)
		}
	}
	for name, o := range map[string]ExportOptions{"not asked for": {Format: FormatAsciicast}} {
		if got, _ := export(t, path, n.keys(t, true), o); strings.Contains(got, `"i"`) {
			t.Errorf("%s: typed keys were exported", name)
		}
	}
	got, result = export(t, path, n.keys(t, false), ExportOptions{Format: FormatAsciicast, Input: true})
	if strings.Contains(got, `"i"`) || result.Sealed != 1 {
		t.Errorf("without the strict identity: %+v", result)
	}
}

func TestAsciicast2(t *testing.T) {
	n := newTape(t)
	got, _ := export(t, n.mixed(t), n.keys(t, false), ExportOptions{Format: FormatAsciicast2})
	lines := strings.Split(got, "\n")
	if lines[0] != `{"version":2,"width":100,"height":30,"timestamp":1772355600,"title":"S-1 alice@db1 (genomics)","env":{"TERM":"xterm"}}` {
		t.Errorf("header %s", lines[0])
	}
	if lines[3] != `[1.000000, "o", "a"]` || lines[7] != `[4.000000, "m", "exit 3"]` || strings.Contains(got, "#") {
		t.Errorf("got\n%s", got)
	}
}

func TestExitBySignal(t *testing.T) {
	n := newTape(t)
	path := n.record(t, "S-1", false, n.at(time.Second, trec.KindExit, string(recorder.EncodeExit(0, "TERM"))))
	got, _ := export(t, path, n.keys(t, false), ExportOptions{Format: FormatAsciicast})
	if !strings.HasSuffix(got, `[1.000000, "m", "ended by signal TERM"]`+"\n"+`[0.000000, "x", "143"]`+"\n") {
		t.Error(got)
	}
}

func TestRawAndLinesAreExact(t *testing.T) {
	n := newTape(t)
	every := make([]byte, 256)
	for i := range every {
		every[i] = byte(i)
	}
	path := n.record(t, "S-1", true, n.at(0, trec.KindOutput, string(every)), n.at(0, trec.KindInput, "typed"),
		n.at(0, trec.KindStderr, "not raw"), n.at(0, trec.KindOutput, string(every[128:])))
	raw, _ := export(t, path, n.keys(t, false), ExportOptions{Format: FormatRaw})
	if raw != string(every)+string(every[128:]) {
		t.Error("raw output is not what was sent")
	}
	text, _ := export(t, path, n.keys(t, true), ExportOptions{Format: FormatJSONLines, Input: true})
	scanner := bufio.NewScanner(strings.NewReader(text))
	scanner.Scan()
	var first struct{ Meta recorder.Meta }
	must(t, json.Unmarshal(scanner.Bytes(), &first))
	if first.Meta.User != "alice" {
		t.Errorf("%s", scanner.Text())
	}
	var kinds []string
	var out []byte
	for scanner.Scan() {
		var f jsonFrame
		must(t, json.Unmarshal(scanner.Bytes(), &f))
		kinds = append(kinds, f.Kind)
		if f.Kind == "o" {
			out = append(out, f.Data...)
		}
	}
	if !slices.Equal(kinds, []string{"o", "i", "e", "o", ""}) || string(out) != raw {
		t.Errorf("kinds %v", kinds)
	}
	if !strings.HasSuffix(text, `"sealed_frames":0}`+"\n") {
		t.Error("there is no last line")
	}
}

func TestUnknownFormat(t *testing.T) {
	n := newTape(t)
	r, err := OpenFile(n.mixed(t), n.keys(t, false))
	must(t, err)
	defer r.Close()
	if _, err := Export(&bytes.Buffer{}, r, ExportOptions{Format: "gif"}); err == nil {
		t.Error("gif was exported")
	}
}

func TestPlainText(t *testing.T) {
	cases := map[string]string{
		"plain\r\nlines\r\n":                          "plain\nlines\n",
		"\x1b[1;31mred\x1b[0m":                        "red\n",
		"\x1b]0;title\x07shown\x1b]8;;x\x1b\\!":       "shown!\n",
		"\x1bP+q544e\x1b\\a\x1b(Bb\x1b7c":             "abc\n",
		"10%\r20%\r\ndone":                            "10%\n20%\ndone\n",
		"lsx\b \b\r\n":                                "ls\n",
		"cut \x1b":                                    "cut \n",
		"tab\there\x00\x07":                           "tab\there\n",
		"\xff\xe2\x82":                                "\ufffd\ufffd\ufffd\n",
		"\u009b31mc1\u009d0;t\u009c!":                 "c1!\n",
		"\x1b[" + strings.Repeat("1;", 500) + "mlong": "long\n",
		"": "",
	}
	for in, want := range cases {
		for _, size := range []int{1, 2, 1000} { // however it was cut
			var out bytes.Buffer
			w := newTextWriter(&out)
			for part := range slices.Chunk([]byte(in), size) {
				must(t, w.write(part))
			}
			must(t, w.finish())
			if out.String() != want {
				t.Errorf("%q in pieces of %d became %q, want %q", in, size, out.String(), want)
			}
		}
	}
}

// What a terminal would obey stands in JSON as an escape, and is read back as it was.
func TestExportedJSONHasNothingThatATerminalObeys(t *testing.T) {
	n := newTape(t)
	hostile := "a\u009b2Jb\u009d0;title\u009c\x7f\x1b[31m\u202ec \U000e0041 \ue0b0"
	path := n.record(t, "S-1", true, n.at(0, trec.KindOutput, hostile), n.at(time.Second, trec.KindMarker, hostile))
	for _, format := range []Format{FormatAsciicast, FormatAsciicast2, FormatJSONLines} {
		got, _ := export(t, path, n.keys(t, false), ExportOptions{Format: format})
		for _, r := range got {
			if r != '\n' && words.Hidden(r) {
				t.Errorf("%s holds %U", format, r)
			}
		}
		if format == FormatJSONLines {
			continue // base64
		}
		var event []any
		must(t, json.Unmarshal([]byte(strings.Split(got, "\n")[1]), &event))
		if event[2] != hostile {
			t.Errorf("%s reads back as %q", format, event[2])
		}
	}
}
