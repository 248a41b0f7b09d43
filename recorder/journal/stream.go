package journal

import (
	"context"
	"crypto/cipher"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// StreamOptions say what a stream is.
type StreamOptions struct {
	Name string // of the session, or of the kind of events; at most MaxName bytes
	// Keys are 1 to MaxClasses secrets of KeySize bytes; a frame's class is the
	// index of its key. They are copied; only what is derived from them is kept.
	Keys [][]byte
	// Public stands in clear before the stream's frames in every file: what an
	// auditor needs to find the keys. At most MaxPublic bytes.
	Public []byte
	// Rescue lets the stream use the files of the reserve when there is no
	// other room: for an administrator's session, and for the node's events.
	Rescue bool
}

// Stream is one row of frames in the journal. Safe for concurrent use.
type Stream struct {
	j       *Journal
	opening Opening // Chain and First are not used
	number  uint32
	rescue  bool
	durable atomic.Uint64

	mu       sync.Mutex // guards what follows
	space    sync.Cond  // for Append: less is pending, or all is over
	crowded  int        // how many wait for space
	ciphers  []cipher.AEAD
	with     associated
	chain    [16]byte // after the last frame
	last     Position
	buffer   *buffer  // sealed frames that the writer has not taken; nil: none
	before   [16]byte // the chain before the first frame in buffer
	queued   bool     // the writer knows of the buffer, or is about to look
	pending  int      // bytes of frames that are not durable
	waiters  []*waiter
	extents  []extent // where unreleased frames are, oldest first
	released Position
	closing  bool
	err      error

	w taken // belongs to the writer's goroutine
}

// extent says that a file holds frames of a stream, the last of them this one.
type extent struct {
	segment *segment
	last    Position
}

// buffer carries sealed frames from streams to the writer. Buffers are pooled,
// so that idle streams hold none.
type buffer struct{ data []byte }

// keepBuffer is the largest buffer that goes back to the pool.
const keepBuffer = 2 << 20

// waiter is one call of Wait. Waiters are pooled.
type waiter struct {
	position Position
	ready    chan struct{} // of one place
}

// OpenStream begins a stream. Nothing is written before its first frame.
func (j *Journal) OpenStream(o StreamOptions) (*Stream, error) {
	if o.Name == "" || len(o.Name) > MaxName || len(o.Public) > MaxPublic {
		return nil, fmt.Errorf("a stream needs a name of at most %d bytes, and has at most %d public bytes", MaxName, MaxPublic)
	}
	if len(o.Keys) < 1 || len(o.Keys) > MaxClasses {
		return nil, fmt.Errorf("a stream has 1 to %d keys, not %d", MaxClasses, len(o.Keys))
	}
	s := &Stream{j: j, rescue: o.Rescue, ciphers: make([]cipher.AEAD, len(o.Keys)),
		opening: Opening{Name: o.Name, Public: slices.Clone(o.Public), Classes: len(o.Keys)}}
	s.space.L = &s.mu
	if _, err := io.ReadFull(j.o.Random, s.opening.ID[:]); err != nil {
		return nil, fmt.Errorf("stream id: %w", err)
	}
	for class, key := range o.Keys {
		var err error
		if s.ciphers[class], err = newCipher(key, s.opening.ID, class); err != nil {
			return nil, err
		}
	}
	s.chain = s.opening.firstChain()
	j.mu.Lock()
	defer j.mu.Unlock()
	if err := j.unusable(); err != nil {
		return nil, err
	}
	j.streams[s] = struct{}{}
	j.lastStream++
	s.number = j.lastStream
	return s, nil
}

// Append seals a frame and hands it to the writer. It returns the frame's
// position at once; Wait and Durable say when it is kept. It blocks while too
// much is pending, and never drops. The data is copied. A zero time is now;
// times are kept to the microsecond.
func (s *Stream) Append(class Class, kind byte, at time.Time, data []byte) (Position, error) {
	if len(data) > s.j.o.MaxFrame {
		return 0, fmt.Errorf("a frame of %d bytes is larger than %d", len(data), s.j.o.MaxFrame)
	}
	if int(class) >= len(s.ciphers) {
		return 0, fmt.Errorf("class %d of a stream with %d keys", class, len(s.ciphers))
	}
	if at.IsZero() {
		at = s.j.o.Clock()
	}
	size := frameOverhead + len(data)
	if err := s.j.reserve(size); err != nil {
		return 0, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.err == nil && !s.closing && s.pending > 0 && s.pending+size > s.j.o.MaxPending {
		s.crowded++
		s.space.Wait()
		s.crowded--
	}
	if err := s.over(); err != nil {
		s.j.unreserve(size)
		return 0, err
	}
	s.pending += size
	s.last++
	s.seal(frameHeader{length: size, stream: s.number, kind: typeData, class: class, sequence: s.last}, kind, at, data)
	s.enqueue()
	return s.last, nil
}

// over says why nothing more can be appended. The caller holds mu.
func (s *Stream) over() error {
	if s.err != nil {
		return s.err
	}
	if s.closing {
		return fmt.Errorf("stream %s: %w", s.opening.Name, ErrClosed)
	}
	return nil
}

// seal appends a frame to the buffer. The caller holds mu.
func (s *Stream) seal(h frameHeader, kind byte, at time.Time, data []byte) {
	b := s.room(h.length)
	start := len(b.data)
	frame := b.data[start : start+h.length]
	h.put(frame)
	plain := frame[frameHeaderSize : h.length-tagSize]
	plain[0] = kind
	binary.BigEndian.PutUint64(plain[1:], uint64(at.UnixMicro()))
	copy(plain[sealedPrefix:], data)
	s.with.set(frame, h.sequence, &s.chain)
	s.ciphers[h.class].Seal(plain[:0], s.with.nonce[:], plain, s.with.data[:])
	s.chain = link(frame)
	setCRC(frame)
	b.data = b.data[:start+h.length]
}

// room returns a buffer that can take n bytes more. The caller holds mu.
func (s *Stream) room(n int) *buffer {
	if s.buffer == nil {
		s.buffer = s.j.buffers.Get().(*buffer)
		s.before = s.chain
	}
	s.buffer.data = slices.Grow(s.buffer.data, n)
	return s.buffer
}

// enqueue tells the writer of the buffer, once. The caller holds mu.
func (s *Stream) enqueue() {
	if s.queued {
		return
	}
	s.queued = true
	j := s.j
	j.mu.Lock()
	j.fresh = append(j.fresh, s)
	if j.sleeping {
		j.sleeping = false
		j.work.Signal()
	}
	j.mu.Unlock()
}

// Durable is the highest position that is kept (in the sense of the journal's Mode).
func (s *Stream) Durable() Position { return Position(s.durable.Load()) }

// Wait returns once p is kept, or with an error that wraps ErrFailed or
// ErrNoSpace, or with ErrClosed if the stream ended before p, or with ctx's.
func (s *Stream) Wait(ctx context.Context, p Position) error {
	var w *waiter
	for s.Durable() < p {
		s.mu.Lock()
		var err error
		switch {
		case s.Durable() >= p:
			s.mu.Unlock()
			return nil
		case s.err != nil:
			err = s.err
		case s.closing && p > s.last:
			err = s.over()
		}
		if err != nil {
			s.mu.Unlock()
			return err
		}
		w = s.j.waiters.Get().(*waiter)
		w.position = p
		s.waiters = append(s.waiters, w)
		s.mu.Unlock()
		select {
		case <-w.ready:
			s.j.waiters.Put(w)
		case <-ctx.Done():
			s.abandon(w)
			return ctx.Err()
		}
	}
	return nil
}

// abandon takes a waiter out of the list. Nobody signals it afterwards.
func (s *Stream) abandon(w *waiter) {
	s.mu.Lock()
	if i := slices.Index(s.waiters, w); i >= 0 {
		s.waiters = slices.Delete(s.waiters, i, i+1)
	} else {
		<-w.ready // it was signalled in the same moment
	}
	s.mu.Unlock()
	s.j.waiters.Put(w)
}

// wake signals those who need wait no longer. The caller holds mu.
func (s *Stream) wake() {
	over := s.err != nil
	durable := s.Durable()
	keep := s.waiters[:0]
	for _, w := range s.waiters {
		if w.position <= durable || over {
			w.ready <- struct{}{}
			continue
		}
		keep = append(keep, w)
	}
	clear(s.waiters[len(keep):])
	s.waiters = keep
	if s.crowded > 0 {
		s.space.Broadcast()
	}
}

// Release says that all frames up to p rest elsewhere, durably. The journal
// may use their room again, and does not hand them back after a crash.
func (s *Stream) Release(p Position) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p > s.Durable() {
		return fmt.Errorf("frame %d of stream %s is not durable and can't be released", p, s.opening.Name)
	}
	if p <= s.released {
		return nil
	}
	s.released = p
	n := 0
	for n < len(s.extents) && s.extents[n].last <= p {
		if s.extents[n].segment.pins.Add(-1) == 0 {
			s.j.poke()
		}
		n++
	}
	s.extents = slices.Delete(s.extents, 0, n)
	if errors.Is(s.err, ErrFailed) {
		return nil // nothing can be written any more; the room counts only after a restart
	}
	h := frameHeader{length: frameHeaderSize, stream: s.number, kind: typeRelease, sequence: p}
	b := s.room(h.length)
	frame := b.data[len(b.data) : len(b.data)+h.length]
	h.put(frame)
	setCRC(frame)
	b.data = b.data[:len(b.data)+h.length]
	s.pending += h.length
	s.j.pending.Add(int64(h.length))
	s.enqueue()
	return nil
}

// Close ends the stream. What was appended still becomes durable (Wait), and
// stays until it is released.
func (s *Stream) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return
	}
	s.closing = true
	s.wakeBeyond()
	if s.pending == 0 {
		s.j.forget(s)
	}
}

// wakeBeyond signals who waits for frames that will never come. The caller holds mu.
func (s *Stream) wakeBeyond() {
	keep := s.waiters[:0]
	for _, w := range s.waiters {
		if w.position > s.last {
			w.ready <- struct{}{}
			continue
		}
		keep = append(keep, w)
	}
	clear(s.waiters[len(keep):])
	s.waiters = keep
	s.space.Broadcast()
}

// fail ends the stream for good. What was not acknowledged is given up.
func (s *Stream) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.err = err
	}
	s.j.unreserve(s.pending)
	s.pending = 0
	if s.buffer != nil {
		s.j.recycle(s.buffer)
		s.buffer = nil
	}
	s.wake()
	if s.closing {
		s.j.forget(s)
	}
}

// Err is nil while frames can be appended.
func (s *Stream) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.over()
}
