package ledger

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"sallyport/recorder/journal"
	"sallyport/recorder/tlog"
)

var (
	root = strings.Repeat("ab", 32)
	open = Leaf{Kind: KindOpen, Session: "S-1", Number: 1}
	done = Leaf{Kind: KindClose, Session: "S-1", Number: 1, Hash: root, Size: 4096, Reason: "ended"}
)

func TestAppendReopensAtTheNewestEvent(t *testing.T) {
	w := newWorld(t)
	if w.ledger.Last() != 0 || w.ledger.Size() != 0 {
		t.Fatalf("a new ledger has %d events", w.ledger.Last())
	}
	w.append(1, 3)
	if _, err := w.ledger.Record(patience(t), open, done); err != nil {
		t.Fatal(err)
	}
	if w.ledger.Last() != 3 || w.ledger.Size() != 5 {
		t.Fatalf("last %d of %d entries", w.ledger.Last(), w.ledger.Size())
	}
	w.stop()
	w.start()
	if w.ledger.Last() != 3 {
		t.Fatalf("reopened at %d", w.ledger.Last())
	}
	w.append(4, 4)
	if err := w.ledger.Append(patience(t), 4, event(4, "")); !errors.Is(err, ErrOutOfOrder) {
		t.Fatalf("event 4 twice: %v", err)
	}
}

func TestAppendRefusesDisorder(t *testing.T) {
	w := newWorld(t)
	w.append(1, 2)
	for _, n := range []int64{-1, 0, 1, 2} {
		if err := w.ledger.Append(t.Context(), n, event(n, "")); !errors.Is(err, ErrOutOfOrder) {
			t.Errorf("event %d after 2: %v", n, err)
		}
	}
	for name, text := range map[string][]byte{"other": event(9, ""), "none": nil, "long": append(event(3, ""), make([]byte, MaxEvent)...)} {
		if err := w.ledger.Append(t.Context(), 3, text); err == nil {
			t.Errorf("%s: a text that is not event 3 was taken", name)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := w.ledger.Append(ctx, 9, event(9, "")); !errors.Is(err, context.Canceled) {
		t.Errorf("event 9 after 2, cancelled: %v", err)
	}
	if w.ledger.Last() != 2 {
		t.Errorf("last %d", w.ledger.Last())
	}
	w.append(3, 3)
}

func TestAppendsFromManyKeepTheirOrder(t *testing.T) {
	w := newWorld(t)
	const events = 600
	var group sync.WaitGroup
	for i := range 12 {
		group.Go(func() {
			for n := int64(i) + 1; n <= events; n += 12 {
				if err := w.ledger.Append(t.Context(), n, event(n, "genomics")); err != nil {
					t.Error(err)
					return
				}
				if w.ledger.Last() < n {
					t.Errorf("append of %d returned at %d", n, w.ledger.Last())
				}
			}
		})
	}
	group.Wait()
	w.stop()
	next := int64(1)
	keys, err := w.options.Keys()
	must(t, err)
	for item, err := range Read(w.options.Dir, w.verifier(), keys) {
		must(t, err)
		if !bytes.Equal(item.Event, event(next, "genomics")) {
			t.Fatalf("entry %d is %s", item.Index, item.Event)
		}
		next++
	}
	if next != events+1 {
		t.Fatalf("%d events", next-1)
	}
}

func TestAppendAllSplitsWhatIsLarge(t *testing.T) {
	w := newWorld(t)
	must(t, w.ledger.AppendAll(patience(t), 1, nil))
	var events [][]byte
	for n := range int64(40) {
		text := bytes.TrimSuffix(event(n+1, "genomics"), []byte("}"))
		events = append(events, fmt.Appendf(nil, `%s,"more":%q}`, text, strings.Repeat("x", MaxEvent-200)))
	}
	must(t, w.ledger.AppendAll(patience(t), 1, events))
	if w.ledger.Last() != 40 {
		t.Fatalf("last %d", w.ledger.Last())
	}
	if err := w.ledger.AppendAll(patience(t), 40, events[39:]); !errors.Is(err, ErrOutOfOrder) {
		t.Errorf("a run that overlaps: %v", err)
	}
	after := w.crash() // more than one frame of the journal a batch
	after.start()
	if after.ledger.Last() != 40 {
		t.Errorf("after a crash: last %d", after.ledger.Last())
	}
}

// TestPromise3_TheLedgerOutlivesACrash: whatever Append or Record returned for is in the tiles after Recover,
// also when the crash came again in the middle of recovering.
func TestPromise3_TheLedgerOutlivesACrash(t *testing.T) {
	w := newWorld(t)
	w.append(1, 700)
	index, err := w.ledger.Record(patience(t), open)
	must(t, err)
	signed := w.ledger.Checkpoint()
	after := w.crash()

	visits := 0
	o := journal.Options{Dir: filepath.Join(after.dir, "journal"), Node: "N-test", FileSize: 16 << 20}
	_, err = journal.Open(o, func(r *journal.Remains) error {
		visits++
		must(t, Recover(after.options, r))
		return errors.New("the power went off again")
	})
	if err == nil || visits != 1 {
		t.Fatalf("%d visits: %v", visits, err)
	}
	must(t, after.open(&visits))
	if visits != 2 || after.ledger.Last() != 700 || after.ledger.Size() != index+1 {
		t.Fatalf("%d visits, last %d of %d", visits, after.ledger.Last(), after.ledger.Size())
	}
	if !bytes.Equal(after.ledger.Checkpoint(), signed) {
		t.Fatalf("the checkpoint is\n%snot\n%s", after.ledger.Checkpoint(), signed)
	}
	after.append(701, 702)
	after.stop()
	after.start() // nothing is left in the journal
	if after.ledger.Last() != 702 {
		t.Fatalf("last %d", after.ledger.Last())
	}
}

func TestPromise4_ARolledBackLedgerIsNotOpened(t *testing.T) {
	w := newWorld(t)
	w.append(1, 3)
	must(t, w.ledger.Publish(patience(t)))
	after := w.crash()
	must(t, os.RemoveAll(filepath.Join(after.dir, "journal")))
	err := after.open(nil)
	if !errors.Is(err, tlog.ErrInconsistent) {
		t.Fatalf("the journal is gone, the published checkpoint not: %v", err)
	}
	must(t, after.journal.Close(patience(t)))
	after.journal, after.ledger = nil, nil
}

// TestPromise9_DestroyedTextsLeaveALedgerThatGoesOn destroys the key of the newest events.
func TestPromise9_DestroyedTextsLeaveALedgerThatGoesOn(t *testing.T) {
	w := newWorld(t)
	must(t, w.ledger.Append(patience(t), 1, event(1, "")))
	w.append(2, 4)
	must(t, w.ledger.Keys().Destroy(tlog.KeyID{Project: "genomics", Quarter: "2026q4"}))
	w.append(5, 5) // under the node's key
	w.stop()
	w.start()
	if w.ledger.Last() != 5 {
		t.Fatalf("last %d", w.ledger.Last())
	}
	must(t, w.ledger.Keys().Destroy(tlog.KeyID{Project: NodeProject, Quarter: "2026q4"}))
	w.stop()
	w.start()
	if w.ledger.Last() != 5 {
		t.Fatalf("nothing can be read: last %d", w.ledger.Last())
	}
	keys, err := w.options.Keys()
	must(t, err)
	for item, err := range Read(w.options.Dir, w.verifier(), keys) {
		must(t, err)
		if item.Event != nil || !errors.Is(item.Unreadable, tlog.ErrDestroyed) {
			t.Errorf("entry %d: %s, %v", item.Index, item.Event, item.Unreadable)
		}
	}
}

func TestFailedJournalFailsTheLedger(t *testing.T) {
	w := newWorld(t)
	w.append(1, 1)
	ctx, cancel := context.WithCancel(t.Context())
	must(t, w.journal.Close(ctx))
	cancel()
	err := w.ledger.Append(patience(t), 2, event(2, ""))
	if !errors.Is(err, ErrFailed) || !errors.Is(w.ledger.Err(), ErrFailed) {
		t.Fatalf("append to a closed journal: %v", err)
	}
	select {
	case <-w.ledger.Failed():
	case <-patience(t).Done():
		t.Fatal("nobody is told")
	}
	if _, err := w.ledger.Record(patience(t), open); !errors.Is(err, ErrFailed) {
		t.Errorf("record: %v", err)
	}
	if w.ledger.Last() != 1 {
		t.Errorf("last %d", w.ledger.Last())
	}
	if err := w.ledger.Close(); !errors.Is(err, ErrFailed) {
		t.Errorf("close: %v", err)
	}
	w.ledger, w.journal = nil, nil
}

func TestReceiptIsCheckedAgainstACopy(t *testing.T) {
	w := newWorld(t)
	w.append(1, 300)
	index, err := w.ledger.Record(patience(t), done)
	must(t, err)
	line, err := w.ledger.Receipt(index)
	must(t, err)
	w.append(301, 600)
	w.stop()
	key := w.options.Signer.Public().(ed25519.PublicKey)
	item, err := VerifyReceipt(w.options.Dir, line, key)
	must(t, err)
	if item.Index != index || item.Leaf == nil || *item.Leaf != done {
		t.Fatalf("the receipt is of %+v", item)
	}
	other := newWorld(t)
	other.append(1, 900)
	other.stop()
	if _, err := VerifyReceipt(other.options.Dir, line, key); err == nil {
		t.Fatal("another log with the same key has the receipt's entry")
	}
}
