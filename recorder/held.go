package recorder

import (
	"context"
	"errors"
	"fmt"

	"sallyport/recorder/journal"
)

// Frames of a recording that failed, or had no room, keep the journal's files from
// being used again, and all that were written after them. So they are moved into
// the recording, still sealed, as soon as it takes them, and not only by the next Open.

// hold notes a recording that has ended with frames that only the journal has.
func (r *Recorder) hold(rec *Recording) {
	rec.mu.Lock()
	holds := len(rec.parts) > 0 && rec.err != nil && r.journal.Err() == nil
	if holds {
		last := rec.parts[len(rec.parts)-1]
		holds = rec.kept < last.base || last.stream.Last() > 0 && rec.kept < last.base+Position(last.stream.Last())
	}
	rec.mu.Unlock()
	if !holds {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.held = append(r.held, rec)
}

// letGo moves what is held, unless that is under way. It is not waited for while a
// disk hangs.
func (r *Recorder) letGo() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.lettingGo != nil || len(r.held) == 0 || r.err != nil || r.closed {
		return
	}
	held := append([]*Recording(nil), r.held...)
	done := make(chan struct{})
	r.lettingGo = done
	go func() {
		moved := map[*Recording]bool{}
		for _, rec := range held {
			if err := r.moveHeld(rec); err != nil {
				r.o.Log.Error("the journal keeps its room for a recording that failed, until the file takes its frames or the node restarts",
					"session", rec.session, "error", err)
				continue
			}
			moved[rec] = true
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		kept := r.held[:0]
		for _, rec := range r.held {
			if !moved[rec] {
				kept = append(kept, rec)
			}
		}
		clear(r.held[len(kept):])
		r.held, r.lettingGo = kept, nil
		close(done)
	}()
}

// moveHeld does for one recording what the next Open would.
func (r *Recorder) moveHeld(rec *Recording) (err error) {
	ctx, cancel := context.WithTimeout(context.Background(), r.o.FailAfter)
	defer cancel()
	// The mover asks the ledger's directory what is told of the file.
	if err := r.ledger.Publish(ctx); err != nil {
		return err
	}
	rec.appending.Lock() // no Append is under way any more
	rec.mu.Lock()
	parts := append([]part(nil), rec.parts...)
	rec.mu.Unlock()
	rec.appending.Unlock()
	m := mover{r: r}
	defer func() { err = errors.Join(err, m.close()) }()
	for _, p := range parts {
		// What was appended still becomes durable, unless the stream failed as well.
		if err := p.stream.Wait(ctx, p.stream.Last()); err != nil && ctx.Err() != nil {
			return err
		}
		remains, err := p.stream.Remains()
		if err != nil {
			return err
		}
		if remains == nil {
			continue
		}
		if err := m.visit(remains); err != nil {
			return fmt.Errorf("move its frames: %w", err)
		}
		if err := p.stream.Release(remains.Last); err != nil && !errors.Is(err, journal.ErrClosed) {
			return err
		}
	}
	r.unsealed.Add(-rec.unsealed.Swap(0))
	return nil
}

// awaitLetGo waits for what letGo has begun.
func (r *Recorder) awaitLetGo(ctx context.Context) error {
	r.mu.Lock()
	done := r.lettingGo
	r.mu.Unlock()
	if done == nil {
		return nil
	}
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("frames are still being moved: %w", ctx.Err())
	}
}
