package ledger

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sallyport/internal/testkit"
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

// TestHalfTakenOverJournalOpensAgain: a crash while the journal's files become spares leaves one that
// begins in the middle of a batch whose entries are in the tiles already.
func TestHalfTakenOverJournalOpensAgain(t *testing.T) {
	dir := t.TempDir()
	o := testOptions(dir)
	o.PublishInterval = -1
	jo := journal.Options{Dir: filepath.Join(dir, "journal"), Node: o.Node, FileSize: 2 << 20}
	must(t, os.MkdirAll(jo.Dir, 0o700))
	j, err := journal.Open(jo, nil)
	must(t, err)
	l, err := Open(o, j)
	must(t, err)
	for n := int64(1); n <= 21; n += 3 {
		must(t, l.AppendAll(patience(t), n, [][]byte{bigEvent(n), bigEvent(n + 1), bigEvent(n + 2)}))
	}
	crashed := t.TempDir()
	testkit.CopyState(t, crashed, dir)
	must(t, l.Close())
	must(t, j.Close(patience(t)))
	names, err := filepath.Glob(filepath.Join(crashed, "journal", "*.journal"))
	must(t, err)
	for cut := 1; cut < len(names); cut++ {
		at := t.TempDir()
		testkit.CopyState(t, at, crashed)
		o := testOptions(at)
		jo := jo
		jo.Dir = filepath.Join(at, "journal")
		visit := func(r *journal.Remains) error { return Recover(o, r) }
		// The ledger is recovered, and then some of the files are renamed.
		j, err := journal.Open(jo, visit)
		must(t, err)
		must(t, j.Close(patience(t)))
		must(t, os.RemoveAll(jo.Dir))
		must(t, os.Mkdir(jo.Dir, 0o700))
		testkit.CopyState(t, jo.Dir, filepath.Join(crashed, "journal"))
		for _, name := range names[:cut] {
			name = filepath.Join(jo.Dir, filepath.Base(name))
			must(t, os.Rename(name, strings.TrimSuffix(name, ".journal")+".spare"))
		}
		if j, err = journal.Open(jo, visit); err != nil {
			t.Fatalf("after %d of %d files became spares: %v", cut, len(names), err)
		}
		l, err := Open(o, j)
		must(t, err)
		if l.Last() != 21 {
			t.Fatalf("last %d", l.Last())
		}
		must(t, l.Close())
		must(t, j.Close(patience(t)))
	}
}
