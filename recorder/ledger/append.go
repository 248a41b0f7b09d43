package ledger

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"sallyport/recorder/tlog"
)

// MaxEvent is the longest text of an event, in bytes.
const MaxEvent = 256 << 10

// orderPatience is how long an event waits for the one before it, which another
// goroutine is about to append.
const orderPatience = 5 * time.Second

// Append makes an event durable; concurrent calls share one fdatasync. Sequences must be dense.
//
// The text is the event's JSON with its sequence, and its project and time when
// it has them. An event whose predecessor another goroutine is about to append
// waits for it; ErrOutOfOrder if it does not come. When ctx ends first the
// event may become durable all the same: Last tells.
func (l *Ledger) Append(ctx context.Context, sequence int64, event []byte) error {
	entry, err := l.seal(sequence, event)
	if err != nil {
		return err
	}
	appending, err := l.hand(ctx, sequence, sequence, entry)
	if err != nil {
		return err
	}
	return l.wait(ctx, appending)
}

// AppendAll makes a dense run of events durable, the first with the given
// sequence, in as few commits as they fit. On an error Last tells how many
// became durable; those that were handed over before it are waited for, unless ctx ends.
func (l *Ledger) AppendAll(ctx context.Context, first int64, events [][]byte) (err error) {
	var handed bool
	var appending tlog.Appending // the last that was handed over
	defer func() {
		if err != nil && handed {
			err = errors.Join(err, l.wait(ctx, appending))
		}
	}()
	for len(events) > 0 {
		var run []tlog.Entry
		size := 0
		for len(run) < len(events) {
			entry, err := l.seal(first+int64(len(run)), events[len(run)])
			if err != nil {
				return err
			}
			if size += entry.Size(); size > tlog.MaxAppend {
				break
			}
			run = append(run, entry)
		}
		next, err := l.hand(ctx, first, first+int64(len(run))-1, run...)
		if err != nil {
			return err
		}
		appending, handed = next, true
		events, first = events[len(run):], first+int64(len(run))
	}
	if handed {
		handed = false
		// What comes later in the log is durable later, so it is enough to wait for the last.
		return l.wait(ctx, appending)
	}
	return nil
}

// seal makes the entry of an event.
func (l *Ledger) seal(sequence int64, event []byte) (tlog.Entry, error) {
	if len(event) > MaxEvent {
		return tlog.Entry{}, fmt.Errorf("a ledger entry of %d bytes is larger than %d", len(event), MaxEvent)
	}
	var head eventHead
	if err := json.Unmarshal(event, &head); err != nil {
		return tlog.Entry{}, fmt.Errorf("ledger: event %d: %w", sequence, err)
	}
	if head.Sequence != sequence {
		return tlog.Entry{}, fmt.Errorf("ledger: event %d says that it is event %d", sequence, head.Sequence)
	}
	if head.Time.IsZero() {
		head.Time = l.o.Clock()
	}
	id := head.keyID()
	entry, err := l.sealUnder(id, event)
	if errors.Is(err, tlog.ErrDestroyed) && id.Project != NodeProject {
		// The clock went back, or the event is late: losing it would be worse than keeping it longer.
		l.o.Log.Warn("an event is kept under the node's key because the key of its project was destroyed",
			"sequence", sequence, "key", id.String())
		id.Project = NodeProject
		entry, err = l.sealUnder(id, event)
	}
	if err != nil {
		return tlog.Entry{}, fmt.Errorf("ledger: event %d: %w", sequence, err)
	}
	return entry, nil
}

// sealUnder seals a body. A disk of the keys that does not answer fails the ledger; the call is left behind.
func (l *Ledger) sealUnder(id tlog.KeyID, event []byte) (tlog.Entry, error) {
	type sealed struct {
		entry tlog.Entry
		err   error
	}
	done := make(chan sealed, 1)
	go func() {
		entry, err := l.keys.Seal(id, event)
		done <- sealed{entry, err}
	}()
	late := time.NewTimer(l.o.FailAfter)
	defer late.Stop()
	select {
	case s := <-done:
		return s.entry, s.err
	case <-late.C:
		return tlog.Entry{}, wrap(l.log.Fail(fmt.Errorf("the disk of the body keys has not answered for %v", l.o.FailAfter)))
	}
}

// early is events that came before those they follow.
type early struct {
	last      int64
	entries   []tlog.Entry
	appending tlog.Appending
	err       error
	done      chan struct{} // closed when it was their turn
}

// hand gives events to the log when it is their turn.
func (l *Ledger) hand(ctx context.Context, first, last int64, entries ...tlog.Entry) (tlog.Appending, error) {
	l.mu.Lock()
	if first == l.accepted+1 {
		defer l.mu.Unlock()
		appending, err := l.begin(last, entries)
		if err == nil {
			l.followers()
		}
		return appending, err
	}
	_, twice := l.early[first]
	if first <= l.accepted || twice {
		defer l.mu.Unlock()
		return tlog.Appending{}, fmt.Errorf("%w: entry %d came after entry %d", ErrOutOfOrder, first, max(l.accepted, first))
	}
	e := &early{last: last, entries: entries, done: make(chan struct{})}
	l.early[first] = e
	l.mu.Unlock()
	return l.awaitTurn(ctx, first, e)
}

// begin hands events to the log whose turn it is. l.mu is held.
func (l *Ledger) begin(last int64, entries []tlog.Entry) (tlog.Appending, error) {
	appending, err := l.log.Begin(entries...)
	if err != nil {
		return tlog.Appending{}, wrap(err)
	}
	l.accepted = last
	l.flight = append(l.flight, flying{last, appending})
	return appending, nil
}

// followers hands over the events that waited for those just handed over. l.mu is held.
func (l *Ledger) followers() {
	for {
		first := l.accepted + 1
		e := l.early[first]
		if e == nil {
			return
		}
		delete(l.early, first)
		e.appending, e.err = l.begin(e.last, e.entries)
		close(e.done)
		if e.err != nil {
			return
		}
	}
}

// awaitTurn waits until the events before these were handed over.
func (l *Ledger) awaitTurn(ctx context.Context, first int64, e *early) (tlog.Appending, error) {
	patience := time.NewTimer(orderPatience)
	defer patience.Stop()
	var err error
	select {
	case <-e.done:
		return e.appending, e.err
	case <-l.Failed():
		err = l.Err()
	case <-ctx.Done():
		err = ctx.Err()
	case <-patience.C:
		err = ErrOutOfOrder
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.early[first] != e { // their turn came in the same moment
		return e.appending, e.err
	}
	delete(l.early, first)
	if errors.Is(err, ErrOutOfOrder) {
		err = fmt.Errorf("%w: entry %d came after entry %d", err, first, l.accepted)
	}
	return tlog.Appending{}, err
}

func (l *Ledger) wait(ctx context.Context, appending tlog.Appending) error {
	_, err := appending.Wait(ctx)
	l.mu.Lock()
	l.land()
	l.mu.Unlock()
	return wrap(err)
}

// land takes note of what has become durable. l.mu is held.
func (l *Ledger) land() {
	n := 0
	for n < len(l.flight) {
		settled, err := l.flight[n].appending.Settled()
		if !settled || err != nil {
			break
		}
		l.durable = l.flight[n].last
		n++
	}
	if l.flight = l.flight[n:]; len(l.flight) == 0 {
		l.flight = nil
	}
}

// Last is the highest durable sequence, 0 for none.
func (l *Ledger) Last() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.land()
	return l.durable
}

// Record makes public leaves durable, in one batch with one signed checkpoint,
// and returns the index of the first.
func (l *Ledger) Record(ctx context.Context, leaves ...Leaf) (index int64, err error) {
	entries := make([]tlog.Entry, len(leaves))
	for i, f := range leaves {
		if entries[i].Leaf, err = f.Encode(); err != nil {
			return 0, err
		}
	}
	index, err = l.log.AppendEntries(ctx, entries...)
	return index, wrap(err)
}
