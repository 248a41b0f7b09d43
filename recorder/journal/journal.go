package journal

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
)

// Journal is the log of one node. Safe for concurrent use.
type Journal struct {
	o       Options
	lock    io.Closer
	buffers sync.Pool // *buffer
	waiters sync.Pool // *waiter
	pending atomic.Int64
	crowded atomic.Int32  // how many wait in reserve
	failed  chan struct{} // closed when err is set
	pokes   chan struct{} // for the keeper, of one place
	stopped sync.WaitGroup
	commits deadline // of the commit that is under way
	starved deadline // of frames that wait for a file

	mu         sync.Mutex // guards what follows; taken after a stream's
	work       sync.Cond  // for the writer
	room       sync.Cond  // for reserve
	sleeping   bool       // the writer waits for work
	fresh      []*Stream  // streams whose buffers the writer does not know of
	streams    map[*Stream]struct{}
	lastStream uint32
	live       []*segment // files that may hold unreleased frames, oldest first; the last is the current one or next
	current    *segment
	next       *segment // ready to follow the current one; nil: there is none
	needRescue bool     // the writer asks for a file of the reserve
	spares     []spare
	full       error  // why there can be no more files; nil: there can
	changed    bool   // the keeper did something that the writer may wait for
	starvedOut bool   // frames have waited for a file for too long
	lastNumber uint64 // of a file
	lastSpare  uint64 // of a file that was made
	batch      uint64 // number of the last batch
	closing    bool
	written    bool // the writer has ended
	err        error
}

// Open makes a journal of what is in the directory. It reads all files, and
// calls visit for each stream that has frames which were not released. When
// visit returns nil those frames must rest elsewhere, durably: their room is
// used again. If a crash comes before that, visit is called again at the next
// Open, perhaps with fewer frames of the stream. If visit fails, or is nil
// while something remains, so does Open, and nothing was changed.
//
// A torn end of the last commit before a crash is no error: nobody was told
// that it was kept. Damage in the middle is (see Options.Damaged).
func Open(o Options, visit func(*Remains) error) (*Journal, error) {
	if err := o.fill(); err != nil {
		return nil, err
	}
	lock, err := o.files.Lock()
	if err != nil {
		return nil, fmt.Errorf("journal: %w", err)
	}
	j := &Journal{o: o, lock: lock, failed: make(chan struct{}), pokes: make(chan struct{}, 1),
		streams: map[*Stream]struct{}{}}
	j.work.L, j.room.L = &j.mu, &j.mu
	j.buffers.New = func() any { return new(buffer) }
	j.waiters.New = func() any { return &waiter{ready: make(chan struct{}, 1)} }
	j.commits.set(o.WarnAfter, o.FailAfter, j.slowCommit, j.failedCommit)
	j.starved.set(o.WarnAfter, o.FailAfter, j.slowSpace, j.failedSpace)
	if err := j.restore(visit); err != nil {
		return nil, errors.Join(fmt.Errorf("journal: %w", err), lock.Close())
	}
	if err := j.tend(); err != nil {
		j.closeFiles()
		return nil, errors.Join(fmt.Errorf("journal: %w", err), lock.Close())
	}
	if j.next == nil && len(j.spares) == 0 {
		return nil, errors.Join(fmt.Errorf("journal: %w", j.full), lock.Close())
	}
	j.stopped.Go(j.write)
	j.stopped.Go(j.keep)
	return j, nil
}

// Failed is closed when the journal can record no more.
func (j *Journal) Failed() <-chan struct{} { return j.failed }

// Err is nil while the journal can record, else wraps ErrFailed or ErrClosed.
func (j *Journal) Err() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.unusable()
}

func (j *Journal) unusable() error {
	if j.err != nil {
		return j.err
	}
	if j.closing {
		return ErrClosed
	}
	return nil
}

// Ready returns nil while a new stream could be recorded, else why not: an
// error that wraps ErrFailed, ErrClosed or ErrNoSpace. With rescue it counts the reserve.
func (j *Journal) Ready(rescue bool) error {
	j.mu.Lock()
	err, full := j.unusable(), j.full
	ordinary := j.next != nil && !j.next.rescueOnly || full == nil
	reserve := len(j.spares) > 0 || j.next != nil
	j.mu.Unlock()
	if err != nil || ordinary || rescue && reserve {
		return err
	}
	return full
}

// fail makes err final for the journal and all its streams.
func (j *Journal) fail(cause error) {
	j.mu.Lock()
	if j.err != nil {
		j.mu.Unlock()
		return
	}
	err := fmt.Errorf("%w: %w", ErrFailed, cause)
	j.err = err
	streams := make([]*Stream, 0, len(j.streams))
	for s := range j.streams {
		streams = append(streams, s)
	}
	j.work.Broadcast()
	j.room.Broadcast()
	j.mu.Unlock()
	j.o.Log.Error("the journal failed, nothing more is recorded", "error", cause)
	for _, s := range streams {
		s.fail(err)
	}
	close(j.failed) // after that no stream takes a frame
	j.poke()
}

// reserve takes n of the bytes that may be pending in all streams together.
func (j *Journal) reserve(n int) error {
	most := int64(j.o.MaxPendingInSum)
	for {
		now := j.pending.Load()
		if now == 0 || now+int64(n) <= most {
			if j.pending.CompareAndSwap(now, now+int64(n)) {
				return nil
			}
			continue
		}
		j.crowded.Add(1)
		j.mu.Lock()
		err := j.err
		if now = j.pending.Load(); err == nil && now != 0 && now+int64(n) > most {
			j.room.Wait()
		}
		j.mu.Unlock()
		j.crowded.Add(-1)
		if err != nil {
			return err
		}
	}
}

func (j *Journal) unreserve(n int) {
	j.pending.Add(-int64(n))
	if j.crowded.Load() > 0 {
		j.mu.Lock()
		j.room.Broadcast()
		j.mu.Unlock()
	}
}

// forget drops a stream that needs no word of a failure any more.
func (j *Journal) forget(s *Stream) {
	j.mu.Lock()
	defer j.mu.Unlock()
	delete(j.streams, s)
}

func (j *Journal) recycle(b *buffer) {
	if cap(b.data) <= keepBuffer {
		b.data = b.data[:0]
		j.buffers.Put(b)
	}
}

// Close makes durable what was appended, and ends the journal. Frames that
// were not released are handed back by the next Open. When ctx ends first,
// the journal fails and Close returns its error without waiting further.
func (j *Journal) Close(ctx context.Context) error {
	j.mu.Lock()
	streams := make([]*Stream, 0, len(j.streams))
	for s := range j.streams {
		streams = append(streams, s)
	}
	j.mu.Unlock()
	for _, s := range streams {
		s.Close()
	}
	j.mu.Lock()
	first := !j.closing
	j.closing = true
	j.work.Broadcast()
	j.mu.Unlock()
	j.poke()
	done := make(chan struct{})
	go func() {
		j.stopped.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-ctx.Done():
		j.fail(ctx.Err())
		return ctx.Err()
	}
	if !first {
		return j.Failure()
	}
	j.closeFiles()
	return errors.Join(j.Failure(), j.lock.Close())
}

// Failure is nil unless the journal has failed; other than Err it is nil after Close.
func (j *Journal) Failure() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.err
}
