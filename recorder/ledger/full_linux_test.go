package ledger

import (
	"crypto/rand"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestFullDiskOfTheLedger fills a real file system under an open ledger: events are taken on, a start that
// needs space refuses and loses nothing, one that does not need it works, and with space all is there. Where mounting is
// not permitted tlog.TestFullDiskIsAState stands for it.
func TestFullDiskOfTheLedger(t *testing.T) {
	dir := t.TempDir()
	o := testOptions(dir)
	must(t, os.MkdirAll(o.Dir, 0o700))
	if err := unix.Mount("tmpfs", o.Dir, "tmpfs", 0, "size=2m"); err != nil {
		t.Logf("not permitted to mount (%v)", err)
		return
	}
	t.Cleanup(func() { must(t, unix.Unmount(o.Dir, unix.MNT_DETACH)) })
	w := &world{t: t, dir: dir, options: o}
	w.start()
	w.append(1, 20)
	must(t, w.ledger.Settle(patience(t)))
	filler := filepath.Join(o.Dir, "filler")
	fill(t, filler)
	w.append(21, 40)
	if err := w.ledger.Publish(patience(t)); !errors.Is(err, ErrNoSpace) {
		t.Fatalf("publish on a full disk: %v", err)
	}
	w.append(41, 60)
	must(t, w.ledger.Err())
	if err := w.ledger.Close(); !errors.Is(err, ErrNoSpace) {
		t.Fatalf("close on a full disk: %v", err)
	}
	must(t, w.journal.Close(patience(t)))
	for range 2 {
		// The test's own files take what the attempt before gave back.
		fill(t, filler)
		if err := w.open(nil); !errors.Is(err, ErrNoSpace) || !errors.Is(err, unix.ENOSPC) {
			t.Fatalf("a start on a full disk: %v", err)
		}
	}
	must(t, os.Remove(filler))
	w.start()
	if w.ledger.Last() != 60 {
		t.Fatalf("last %d", w.ledger.Last())
	}
	w.stop()
	fill(t, filler)
	w.start() // an orderly stop left nothing to do
	w.append(61, 62)
	must(t, os.Remove(filler))
	w.stop()
}

func fill(t *testing.T, name string) {
	t.Helper()
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	must(t, err)
	for block := make([]byte, 4096); err == nil; {
		_, err = f.Write(block)
	}
	if !errors.Is(err, unix.ENOSPC) {
		t.Fatal(err)
	}
	must(t, f.Close())
}

// hanging gives random bytes once it is let go.
type hanging chan struct{}

func (h hanging) Read(p []byte) (int, error) {
	<-h
	return rand.Read(p)
}

// TestHungKeysEndTheLedger: a key ring that does not answer fails the ledger in FailAfter.
func TestHungKeysEndTheLedger(t *testing.T) {
	dir := t.TempDir()
	o := testOptions(dir)
	o.FailAfter = 300 * time.Millisecond
	random := make(hanging)
	defer close(random) // lets the call end
	o.Random = random
	w := &world{t: t, dir: dir, options: o}
	w.start()
	if err := w.ledger.Append(patience(t), 1, event(1, "genomics")); !errors.Is(err, ErrFailed) {
		t.Fatalf("append: %v", err)
	}
	<-w.ledger.Failed()
	if err := w.ledger.Close(); !errors.Is(err, ErrFailed) {
		t.Fatalf("close: %v", err)
	}
	must(t, w.journal.Close(patience(t)))
}

// TestLastAfterAnError: when AppendAll has failed in the middle, Last tells at once what became durable.
func TestLastAfterAnError(t *testing.T) {
	for range 4 {
		w := newWorld(t)
		var events [][]byte
		for n := int64(1); n <= 40; n++ {
			events = append(events, bigEvent(n))
		}
		events[38] = []byte("no event")
		if err := w.ledger.AppendAll(patience(t), 1, events); err == nil {
			t.Fatal("no event was taken")
		}
		last := w.ledger.Last()
		must(t, w.ledger.Settle(patience(t)))
		if now := w.ledger.Last(); last == 0 || now != last {
			t.Fatalf("last was %d and then %d", last, now)
		}
		w.stop()
	}
}
