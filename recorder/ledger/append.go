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
// became durable.
func (l *Ledger) AppendAll(ctx context.Context, first int64, events [][]byte) error {
	var appending tlog.Appending
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
		var err error
		if appending, err = l.hand(ctx, first, first+int64(len(run))-1, run...); err != nil {
			return err
		}
		events, first = events[len(run):], first+int64(len(run))
		if len(events) == 0 {
			// What comes later in the log is durable later, so it is enough to wait for the last.
			return l.wait(ctx, appending)
		}
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
	entry, err := l.keys.Seal(id, event)
	if errors.Is(err, tlog.ErrDestroyed) && id.Project != NodeProject {
		// The clock went back, or the event is late: losing it would be worse than keeping it longer.
		l.o.Log.Warn("an event is kept under the node's key because the key of its project was destroyed",
			"sequence", sequence, "key", id.String())
		id.Project = NodeProject
		entry, err = l.keys.Seal(id, event)
	}
	if err != nil {
		return tlog.Entry{}, fmt.Errorf("ledger: event %d: %w", sequence, err)
	}
	return entry, nil
}

// hand gives events to the log when it is their turn.
func (l *Ledger) hand(ctx context.Context, first, last int64, entries ...tlog.Entry) (tlog.Appending, error) {
	l.mu.Lock()
	if l.accepted < first-1 {
		l.mu.Unlock()
		if err := l.awaitTurn(ctx, first); err != nil {
			return tlog.Appending{}, err
		}
		l.mu.Lock()
	}
	defer l.mu.Unlock()
	if first != l.accepted+1 {
		return tlog.Appending{}, fmt.Errorf("%w: entry %d came after entry %d", ErrOutOfOrder, first, l.accepted)
	}
	appending, err := l.log.Begin(entries...)
	if err != nil {
		return tlog.Appending{}, wrap(err)
	}
	l.accepted = last
	l.flight = append(l.flight, flying{last, appending})
	if l.turn != nil {
		close(l.turn)
		l.turn = nil
	}
	return appending, nil
}

// awaitTurn returns when the event before this one was handed over.
func (l *Ledger) awaitTurn(ctx context.Context, sequence int64) error {
	patience := time.NewTimer(orderPatience)
	defer patience.Stop()
	for {
		l.mu.Lock()
		accepted := l.accepted
		if l.turn == nil {
			l.turn = make(chan struct{})
		}
		turn := l.turn
		l.mu.Unlock()
		if accepted >= sequence-1 {
			return nil
		}
		if err := l.Err(); err != nil {
			return err
		}
		select {
		case <-turn:
		case <-l.Failed():
			return l.Err()
		case <-ctx.Done():
			return ctx.Err()
		case <-patience.C:
			return fmt.Errorf("%w: entry %d came after entry %d", ErrOutOfOrder, sequence, accepted)
		}
	}
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
