package ledger

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"sallyport/recorder/journal"
	"sallyport/recorder/tlog"
)

// StreamName is the name of the ledger's stream in the journal.
const StreamName = "ledger"

// Kinds of the stream's frames. A batch larger than a frame goes in parts.
const (
	framePart = 'p' // more of the batch follows
	frameLast = 'b' // the batch, or its last part

	// partSize is what one frame takes of a batch: so little that session frames
	// are not held up behind one, and below any journal.Options.MaxFrame in use.
	partSize = 256 << 10
	// maxBatch bounds what is put together from parts (tlog.MaxAppend and what goes round it).
	maxBatch = 16 << 20
)

// journaled is the tlog.Durable of an open ledger: a batch is one append to the
// journal, and rests there until its entries are durable in the tiles.
type journaled struct {
	stream *journal.Stream
	clock  func() time.Time

	mu    sync.Mutex // guards marks
	marks []mark     // of batches that rest in the journal, oldest first
}

// mark is a batch: its last frame, and the entry that follows it.
type mark struct {
	next     int64
	position journal.Position
}

// Commit implements tlog.Durable.
func (d *journaled) Commit(_, next int64, batch []byte) error {
	at := d.clock()
	for len(batch) > partSize {
		if _, err := d.stream.Append(0, framePart, at, batch[:partSize]); err != nil {
			return err
		}
		batch = batch[partSize:]
	}
	position, err := d.stream.Append(0, frameLast, at, batch)
	if err != nil {
		return err
	}
	// The journal bounds the time of a commit itself (journal.Options.FailAfter).
	if err := d.stream.Wait(context.Background(), position); err != nil {
		return err
	}
	d.mu.Lock()
	d.marks = append(d.marks, mark{next, position})
	d.mu.Unlock()
	return nil
}

// Replay implements tlog.Durable. Recover has brought everything into the tiles before.
func (d *journaled) Replay(int64, func([]byte) error) error { return nil }

// Forget implements tlog.Durable: a batch is released once all its entries are
// durable in the tiles.
func (d *journaled) Forget(size int64) error {
	d.mu.Lock()
	n := 0
	for n < len(d.marks) && d.marks[n].next <= size {
		n++
	}
	if n == 0 {
		d.mu.Unlock()
		return nil
	}
	position := d.marks[n-1].position
	d.marks = slices.Delete(d.marks, 0, n)
	d.mu.Unlock()
	return d.stream.Release(position)
}

// Close implements tlog.Durable.
func (d *journaled) Close() error {
	d.stream.Close()
	return nil
}

// remains is the tlog.Durable of Recover: it hands over what a journal still
// holds, and takes nothing.
type remains struct {
	from *journal.Remains
	key  []byte
	lost bool // frames were missing
}

func (d *remains) Commit(int64, int64, []byte) error {
	return errors.New("a ledger that is being recovered takes no entries")
}

// Replay implements tlog.Durable. A batch of which parts are missing was never
// told to anybody when a crash tore it; when the journal was damaged it is
// tlog's to find that entries are missing.
func (d *remains) Replay(_ int64, each func([]byte) error) error {
	opener, err := journal.NewOpener(d.from.Opening, [][]byte{d.key})
	if err != nil {
		return err
	}
	var batch []byte
	// Whether no part of the batch is missing. The journal may have given back the room of the first
	// parts, of a batch that rests in the tiles then: what remains begins in its middle.
	whole := d.from.First == 1
	for sealed, err := range d.from.Frames() {
		if err != nil {
			return err
		}
		frame, err := opener.Open(sealed)
		if errors.Is(err, journal.ErrGap) && d.from.Damaged {
			// The frame behind the gap can't be opened, and may have been the end of a batch or not.
			batch, whole, d.lost = nil, false, true
			continue
		}
		if err != nil {
			return fmt.Errorf("frame %d of the ledger in the journal: %w", sealed.Position, err)
		}
		if len(batch)+len(frame.Data) > maxBatch {
			return fmt.Errorf("frame %d of the ledger in the journal: a batch of more than %d bytes", frame.Position, maxBatch)
		}
		batch = append(batch, frame.Data...)
		switch frame.Kind {
		case framePart:
			continue
		case frameLast:
		default:
			return fmt.Errorf("frame %d of the ledger in the journal is of unknown kind %q", frame.Position, frame.Kind)
		}
		if whole || tlog.IsBatch(batch) {
			if err := each(batch); err != nil {
				return err
			}
		}
		batch, whole = nil, true
	}
	return nil
}

func (d *remains) Forget(int64) error { return nil }
func (d *remains) Close() error       { return nil }
