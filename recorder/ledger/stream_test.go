package ledger

import (
	"testing"
	"time"

	"sallyport/recorder/journal"
)

// TestTornBatchWasToldToNobody: a batch in parts whose last frame a crash took away is passed over,
// and what came before it is kept.
func TestTornBatchWasToldToNobody(t *testing.T) {
	w := newWorld(t)
	w.append(1, 3)
	key, err := w.options.derive(forStream)
	must(t, err)
	// The stream as another run of the node would write it, torn.
	stream, err := w.journal.OpenStream(journal.StreamOptions{Name: StreamName, Keys: [][]byte{key}})
	must(t, err)
	position, err := stream.Append(0, framePart, time.Now(), make([]byte, partSize))
	must(t, err)
	must(t, stream.Wait(patience(t), position))
	after := w.crash()
	after.start()
	if after.ledger.Last() != 3 {
		t.Fatalf("last %d", after.ledger.Last())
	}
	after.append(4, 4)
}

// TestForeignFramesAreRefused: whoever has the stream's key still cannot put anything into the tree.
func TestForeignFramesAreRefused(t *testing.T) {
	for name, frame := range map[string]struct {
		kind byte
		data []byte
	}{"unknown kind": {'x', nil}, "no batch": {frameLast, []byte("SPTB and nothing else")}, "empty": {frameLast, nil}} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			key, err := w.options.derive(forStream)
			must(t, err)
			stream, err := w.journal.OpenStream(journal.StreamOptions{Name: StreamName, Keys: [][]byte{key}})
			must(t, err)
			position, err := stream.Append(0, frame.kind, time.Now(), frame.data)
			must(t, err)
			must(t, stream.Wait(patience(t), position))
			after := w.crash()
			if err := after.open(nil); err == nil {
				t.Fatal("the ledger opens")
			}
			after.journal, after.ledger = nil, nil
		})
	}
}

// TestRoomComesBack: a ledger that nobody writes to any more lets the journal forget its batches.
func TestRoomComesBack(t *testing.T) {
	w := newWorld(t)
	w.append(1, 3)
	must(t, w.ledger.Close())
	w.ledger = nil
	must(t, w.journal.Close(patience(t)))
	w.journal = nil
	visits := 0
	must(t, w.open(&visits))
	if visits != 0 {
		t.Fatalf("after an orderly end the journal still held %d streams", visits)
	}
	if w.ledger.Last() != 3 {
		t.Fatalf("last %d", w.ledger.Last())
	}
}
