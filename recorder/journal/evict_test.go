package journal

import (
	"bytes"
	"testing"
	"time"
)

// TestRemainsOfAnEndedStream reads frames back while the journal goes on.
func TestRemainsOfAnEndedStream(t *testing.T) {
	j := open(t, small(newMemory()))
	s, other := stream(t, j, "S-1"), stream(t, j, "S-2")
	data := func(i int) []byte { return bytes.Repeat([]byte{byte(i)}, 3000) }
	const frames = 200
	for i := range frames {
		p, err := s.Append(0, 'o', time.Time{}, data(i+1))
		must(t, err)
		must(t, s.Wait(patience(t), p))
		if i%3 == 0 {
			p, err = other.Append(0, 'o', time.Time{}, data(0))
			must(t, err)
			must(t, other.Wait(patience(t), p))
			must(t, other.Release(p))
		}
		if i == 120 {
			must(t, s.Release(100))
		}
	}
	if _, err := s.Remains(); err == nil {
		t.Error("a stream that takes frames has no remains")
	}
	s.Close()
	r, err := s.Remains()
	must(t, err)
	if r.First != 101 || r.Last != frames || r.Name != "S-1" {
		t.Fatalf("remains of %s from %d to %d", r.Name, r.First, r.Last)
	}
	opener, err := NewOpener(r.Opening, keys("S-1"))
	must(t, err)
	n := int(r.First)
	for f, err := range r.Frames() {
		must(t, err)
		frame, err := opener.Open(f)
		must(t, err)
		if int(f.Position) != n || !bytes.Equal(frame.Data, data(n)) {
			t.Fatalf("frame %d where %d was expected", f.Position, n)
		}
		n++
	}
	if n != frames+1 {
		t.Errorf("the frames end before %d", n)
	}
	must(t, s.Release(r.Last))
	if r, err := s.Remains(); r != nil || err != nil {
		t.Errorf("after the release: %v, %v", r, err)
	}
}
