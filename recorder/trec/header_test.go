package trec

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
)

// What a hostile file calls itself must not draw on a terminal, nor forge lines of a report.
func TestAHeadersIdsArePlain(t *testing.T) {
	e := testEpoch(t)
	for _, bad := range []string{"S-1\nBROKEN", "S-1 ", "S-\x1b[2J", "S-\u009b2J", "S-\u202e1", "S-é", "S-\x7f", `S-"`, `S-\\`, strings.Repeat("S", maxID+1)} {
		for i := range 3 {
			o := testOptions(t, e)
			*[]*string{&o.Session, &o.Node, &o.Epoch}[i] = bad
			if _, err := NewWriter(io.Discard, o); err == nil || !strings.Contains(err.Error(), "no plain id") {
				t.Errorf("a writer took %q: %v", bad, err)
			}
		}
	}
	for _, good := range []string{"S-1", "N-test", "genomics/2026Q4.2", "a_b", strings.Repeat("S", maxID)} {
		o := testOptions(t, e)
		o.Session, o.Node, o.Epoch = good, good, good
		newWriter(t, io.Discard, o)
	}
	var out bytes.Buffer
	newWriter(t, &out, testOptions(t, e))
	hostile := bytes.Replace(out.Bytes(), []byte(`"S-01TEST"`), []byte("\"S-\u009b2Jxy\""), 1)
	_, _, _, err := ReadHeader(bytes.NewReader(hostile))
	var fault *FormatError
	if !errors.As(err, &fault) || !strings.Contains(fault.Reason, "no plain id") {
		t.Errorf("a reader took it: %v", err)
	}
}
