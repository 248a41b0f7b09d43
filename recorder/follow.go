package recorder

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
)

// Follower is a live view of one session from the node's memory: the screen as
// it is, then frames as they become durable. It never slows the session: one
// that does not keep up is dropped.
type Follower struct {
	// Columns and Rows are the window's size, and Snapshot is terminal output
	// that draws what it shows; empty for a session without a terminal.
	Columns, Rows int
	Snapshot      []byte
	// Position is that of the last frame in the snapshot, or of the last before
	// the first that Next returns.
	Position Position

	sealer *sealer
	ready  chan struct{} // of one place

	mu     sync.Mutex // guards what follows
	frames []Entry
	bytes  int
	err    error // no more frames come
}

// maxFollow is how many bytes may wait for a follower.
const maxFollow = 1 << 20

// ErrSlowFollower ends a live view that did not keep up with its session.
var ErrSlowFollower = errors.New("this view is too slow for the session and was ended")

// ErrNotLive is returned by Follow for a session that is not being recorded here.
var ErrNotLive = errors.New("the session is not live on this node")

// followed are the kinds of frames that a live view shows. What was typed is not
// among them.
func followed(k Kind) bool {
	switch k {
	case KindOutput, KindStderr, KindGate, KindResize, KindExit:
		return true
	}
	return false
}

// Follow begins a live view, once what the snapshot shows is durable. The caller must
// call Close.
func (r *Recorder) Follow(ctx context.Context, session string) (*Follower, error) {
	r.mu.Lock()
	rec := r.open[session]
	var s *sealer
	if rec != nil {
		s = rec.sealer
	}
	r.mu.Unlock()
	if s == nil {
		return nil, fmt.Errorf("%s: %w", session, ErrNotLive)
	}
	f := &Follower{sealer: s, ready: make(chan struct{}, 1)}
	begun := make(chan struct{})
	select {
	case s.requests <- followRequest{f, begun}:
	case <-rec.done:
		return nil, fmt.Errorf("%s: %w", session, ErrNotLive)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	var err error
	select {
	case <-begun:
		err = rec.Wait(ctx, f.Position)
	case <-rec.done: // the disk may hang, so that the sealer does not come to it
		err = fmt.Errorf("%s: %w", session, ErrNotLive)
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

type followRequest struct {
	follower *Follower
	begun    chan struct{}
}

// follow takes a follower in; it runs in the sealer's goroutine.
func (s *sealer) follow(q followRequest) {
	f := q.follower
	if s.picture != nil {
		f.Columns, f.Rows, f.Snapshot = s.picture.now()
	}
	f.Position = s.w.Last()
	s.followMu.Lock()
	if s.over || s.suspended {
		f.end(ErrNotLive)
	} else {
		if s.followers == nil {
			s.followers = map[*Follower]struct{}{}
		}
		s.followers[f] = struct{}{}
	}
	s.followMu.Unlock()
	s.rec.queue.set(func() { s.rec.queue.eager = true })
	close(q.begun)
}

// tell hands a frame to all who follow.
func (s *sealer) tell(frame Frame) {
	s.followMu.Lock()
	defer s.followMu.Unlock()
	if len(s.followers) == 0 || !followed(frame.Kind) {
		return
	}
	e := Entry{Position: s.w.Last(), Kind: frame.Kind, Time: frame.Time.UTC(), Data: append([]byte(nil), frame.Data...)}
	for f := range s.followers {
		if !f.add(e) {
			delete(s.followers, f)
		}
	}
	s.calm()
}

// calm lets frames gather again when nobody follows. The caller holds followMu.
func (s *sealer) calm() {
	if len(s.followers) == 0 {
		s.rec.queue.set(func() { s.rec.queue.eager = false })
	}
}

// endFollowers says that no more frames come.
func (s *sealer) endFollowers(cause error) {
	if cause == nil {
		cause = io.EOF
	}
	s.followMu.Lock()
	defer s.followMu.Unlock()
	s.over = true
	for f := range s.followers {
		f.end(cause)
	}
	s.followers = nil
}

// add returns false when the follower is dropped.
func (f *Follower) add(e Entry) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err != nil {
		return false
	}
	if f.bytes+len(e.Data) > maxFollow && len(f.frames) > 0 {
		f.frames, f.bytes, f.err = nil, 0, ErrSlowFollower
	} else {
		f.frames, f.bytes = append(f.frames, e), f.bytes+len(e.Data)+queueFrameHead
	}
	f.signal()
	return f.err == nil
}

func (f *Follower) end(cause error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err == nil {
		f.err = cause
	}
	f.signal()
}

func (f *Follower) signal() {
	select {
	case f.ready <- struct{}{}:
	default:
	}
}

// Next returns the next frame once it is durable. It fails with io.EOF after the
// session's last one, with ErrSlowFollower, or with what ended the recording.
func (f *Follower) Next(ctx context.Context) (Entry, error) {
	for {
		f.mu.Lock()
		if len(f.frames) > 0 {
			e := f.frames[0]
			f.frames[0] = Entry{}
			f.frames = f.frames[1:]
			f.bytes -= len(e.Data) + queueFrameHead
			f.mu.Unlock()
			return e, f.sealer.rec.Wait(ctx, e.Position)
		}
		err := f.err
		f.mu.Unlock()
		if err != nil {
			return Entry{}, err
		}
		select {
		case <-f.ready:
		case <-ctx.Done():
			return Entry{}, ctx.Err()
		}
	}
}

// Close ends the view.
func (f *Follower) Close() {
	f.end(ErrClosed)
	s := f.sealer
	s.followMu.Lock()
	defer s.followMu.Unlock()
	if _, there := s.followers[f]; there {
		delete(s.followers, f)
		s.calm()
	}
}
