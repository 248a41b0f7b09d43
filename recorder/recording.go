package recorder

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"sallyport/recorder/journal"
	"sallyport/recorder/trec"
)

// Recording is the recording of one live session. Safe for concurrent use.
//
// Append seals a frame into the session's stream in the journal and leaves a
// copy for the sealer, which moves it into the file behind the user's back. The
// key that the journal seals under changes with the segments of the file, so
// there is a row of streams, of which the last takes frames; a stream ends when
// the next one is ready and is released once the file has all its frames.
type Recording struct {
	r       *Recorder
	session string
	number  int64
	strict  bool // input is sealed under the stricter key
	rescue  bool
	queue   queue
	sealer  *sealer
	next    atomic.Pointer[streamKeys] // of the stream that takes over from the current one
	// unsealed is how many bytes of its frames rest in the journal only.
	unsealed atomic.Int64
	done     chan struct{} // closed when err is set
	stopped  chan struct{} // closed when the sealer has returned

	appending sync.Mutex // held while a frame gets its position
	current   *journal.Stream
	base      Position // position of a frame is base and its position in current
	last      Position // of the last frame handed over

	mu      sync.Mutex // guards what follows
	parts   []part     // streams with frames that are not released, oldest first
	kept    Position   // all up to here is durable and released
	closing bool
	reason  string
	err     error
	result  Result
}

// part is one stream of a recording.
type part struct {
	stream *journal.Stream
	base   Position
	end    Position // last frame; 0: it still takes frames
}

// Classes of frames in the journal: the indices of a stream's keys.
const (
	journalMain   journal.Class = 0
	journalStrict journal.Class = 1
)

// Append takes ownership of a frame and returns its position. It blocks only
// while too much is waiting to become durable or to be sealed, and never drops.
// The frame's data is copied; its owner may use the slice again when Append returns.
func (r *Recording) Append(f Frame) (Position, error) {
	if len(f.Data) > MaxFrame {
		return 0, fmt.Errorf("a frame of %d bytes is larger than %d", len(f.Data), MaxFrame)
	}
	if !f.Kind.Known() {
		return 0, fmt.Errorf("unknown kind of frame %q", byte(f.Kind))
	}
	r.appending.Lock()
	defer r.appending.Unlock()
	if !r.queue.waitForRoom() {
		return 0, r.over()
	}
	// The time is taken here, so that times are in the order of positions.
	if f.Time.IsZero() {
		f.Time = r.r.o.Clock()
	}
	if err := r.takeNext(); err != nil {
		return 0, r.failed(err)
	}
	class := journalMain
	if r.strict && f.Kind == KindInput {
		class = journalStrict
	}
	p, err := r.current.Append(class, byte(f.Kind), f.Time, f.Data)
	if err != nil {
		return 0, r.failed(err)
	}
	r.last = r.base + Position(p)
	r.addUnsealed(int64(len(f.Data)))
	r.queue.push(f)
	return r.last, nil
}

// addUnsealed counts what rests in the journal only.
func (r *Recording) addUnsealed(n int64) {
	r.unsealed.Add(n)
	r.r.unsealed.Add(n)
}

// over says why nothing can be appended any more.
func (r *Recording) over() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err != nil {
		return r.err
	}
	return ErrClosed
}

// takeNext goes on in a stream under the keys that the sealer has left, if it has
// left any. The caller holds appending.
func (r *Recording) takeNext() error {
	keys := r.next.Swap(nil)
	if keys == nil {
		return nil
	}
	next, err := r.openStream(keys)
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	old := &r.parts[len(r.parts)-1]
	old.end = r.last
	old.stream.Close()
	if r.last == r.base { // nothing was ever in it
		r.parts = r.parts[:len(r.parts)-1]
	}
	r.parts = append(r.parts, part{stream: next, base: r.last})
	r.current, r.base = next, r.last
	if r.err != nil {
		next.Close()
	}
	return nil
}

// Durable is the highest position that will survive a crash, all before it included.
func (r *Recording) Durable() Position {
	r.mu.Lock()
	defer r.mu.Unlock()
	durable := r.kept
	for i := range r.parts {
		p := &r.parts[i]
		durable = max(durable, p.base+Position(p.stream.Durable()))
		if p.end == 0 || durable < p.end {
			break // streams may become durable out of order
		}
	}
	return durable
}

// Wait returns once p is durable, or with an error that wraps ErrFailed, or
// with ErrClosed when the recording ended before p, or with ctx's.
func (r *Recording) Wait(ctx context.Context, p Position) error {
	var at Position
	for {
		r.mu.Lock()
		at = max(at, r.kept)
		var stream *journal.Stream
		var base, end Position
		for _, one := range r.parts {
			if one.end == 0 || one.end > at {
				stream, base, end = one.stream, one.base, one.end
				break
			}
		}
		err := r.err
		r.mu.Unlock()
		if at >= p {
			return nil
		}
		if stream == nil {
			if err == nil {
				err = ErrClosed
			}
			return err
		}
		until := p
		if end > 0 {
			until = min(p, end)
		}
		werr := stream.Wait(ctx, journal.Position(until-base))
		switch {
		case werr == nil:
			at = until
		case ctx.Err() != nil && errors.Is(werr, ctx.Err()):
			return werr
		case errors.Is(werr, journal.ErrClosed) && err == nil && !r.ended():
			// The frame will be in the stream that followed.
		case errors.Is(werr, journal.ErrClosed) && err != nil:
			return err
		case errors.Is(werr, journal.ErrClosed):
			return ErrClosed
		default:
			return r.failed(werr)
		}
	}
}

func (r *Recording) ended() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.closing || r.err != nil
}

// Done is closed when the recording has failed or is closed; Err says which.
func (r *Recording) Done() <-chan struct{} { return r.done }

// Err is nil while all is well, ErrClosed after Close, else wraps ErrFailed.
func (r *Recording) Err() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.err
}

// Close seals what is left, appends the signed end, makes both durable and tells
// the ledger. Calls after the first wait for it and return the same result.
//
// The Head is empty, without an error, for a rescue session whose file had no
// room: its frames are durable in the journal, are moved into the file once it has room,
// and Recover ends the file later.
func (r *Recording) Close(ctx context.Context, reason string) (Result, error) {
	r.mu.Lock()
	if !r.closing {
		r.closing, r.reason = true, reason
	}
	r.mu.Unlock()
	r.queue.close()
	select {
	case <-r.done:
	case <-ctx.Done():
		return Result{}, ctx.Err()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if errors.Is(r.err, ErrFailed) {
		return r.result, r.err
	}
	return r.result, nil
}

// failed turns an error of the journal into one of the recording, and ends it.
func (r *Recording) failed(cause error) error {
	if errors.Is(cause, journal.ErrClosed) {
		return r.over()
	}
	return r.fail(cause)
}

// fail ends the recording for good; what the journal has is moved later, see letGo.
func (r *Recording) fail(cause error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err != nil {
		return r.err
	}
	r.err = fmt.Errorf("%w: %w", ErrFailed, cause)
	r.result = Result{Reason: r.reason}
	for _, p := range r.parts {
		p.stream.Close() // not released before the frames are moved
	}
	close(r.done)
	r.queue.stop()
	r.r.o.Log.Error("a recording failed", "session", r.session, "error", cause)
	return r.err
}

// finish ends the recording in order.
func (r *Recording) finish(result Result) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err != nil {
		return
	}
	r.err, r.result = ErrClosed, result
	for _, p := range r.parts {
		p.stream.Close()
	}
	close(r.done)
	r.queue.stop()
}

// rotate makes the journal go on under the key of the segment that is open now,
// so that the key of those that were sealed is forgotten.
func (r *Recording) rotate(w *trec.Writer) error {
	keys, err := r.journalKeys(w)
	if err != nil {
		return err
	}
	if unused := r.next.Swap(keys); unused != nil {
		unused.wipe()
	}
	// If a frame is just being appended, the next one, or the next commit, does it.
	if r.appending.TryLock() {
		defer r.appending.Unlock()
		return r.takeNext()
	}
	return nil
}

// release gives back the journal's room of all frames up to p, which are durable
// in the file. They become so in the journal first, if they are not yet.
func (r *Recording) release(ctx context.Context, upTo Position) error {
	for {
		r.mu.Lock()
		if len(r.parts) == 0 || r.parts[0].base >= upTo {
			r.mu.Unlock()
			return nil
		}
		p := r.parts[0]
		r.mu.Unlock()
		last := upTo
		if p.end > 0 {
			last = min(last, p.end)
		}
		// At once what can be: what is not durable yet may wait for just this room.
		if err := p.stream.Release(min(p.stream.Durable(), journal.Position(last-p.base))); err != nil {
			return err
		}
		if err := p.stream.Wait(ctx, journal.Position(last-p.base)); err != nil {
			return err
		}
		if err := p.stream.Release(journal.Position(last - p.base)); err != nil {
			return err
		}
		r.mu.Lock()
		r.kept = max(r.kept, last)
		// Its end may have been set meanwhile.
		done := r.parts[0].end > 0 && r.parts[0].end <= last
		if done {
			r.parts = append(r.parts[:0], r.parts[1:]...)
		}
		r.mu.Unlock()
		if !done {
			return nil
		}
	}
}

// releaseTime bounds how long the journal may take to keep what the file has.
const releaseTime = time.Minute
