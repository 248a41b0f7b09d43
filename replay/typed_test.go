package replay

import (
	"bytes"
	"slices"
	"testing"
	"time"

	"sallyport/recorder"
	"sallyport/recorder/trec"
)

func TestTypedLines(t *testing.T) {
	n := newTape(t)
	recording := n.write(t, recorder.Meta{Session: "S-1", PTY: true}, true,
		n.at(0, trec.KindOutput, "$ "),
		n.at(time.Second, trec.KindInput, "lx"), n.at(2*time.Second, trec.KindInput, "\x7fs -l\r"),
		n.at(3*time.Second, trec.KindInput, "\x1b[A\r\r"),
		n.at(4*time.Second, trec.KindInput, "gr\xc3"), n.at(5*time.Second, trec.KindInput, "\xbcn"))
	for strict, want := range map[bool][]string{true: {"2s ls -l", "5s grün"}, false: nil} {
		r, err := Open(bytes.NewReader(recording), n.keys(t, strict))
		must(t, err)
		var got []string
		for line, err := range TypedLines(r) {
			must(t, err)
			got = append(got, line.Offset.String()+" "+line.Text)
		}
		if !slices.Equal(got, want) {
			t.Errorf("with the strict key %t: %q, want %q", strict, got, want)
		}
	}
}
