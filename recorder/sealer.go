package recorder

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"sync"
	"time"

	"sallyport/recorder/ledger"
	"sallyport/recorder/trec"
)

// sealer moves the frames of one recording from its queue into its file. One
// goroutine (run) does everything but commits: of these at most one runs beside
// it, so that the next segments are made while the disk writes the last ones.
type sealer struct {
	rec      *Recording
	file     file
	w        *trec.Writer
	picture  *picture // nil without a terminal
	deadline deadline // of the write or commit that is under way
	timer    *time.Timer
	ticking  bool

	// What was sealed since the last commit began.
	leaves []ledger.Leaf
	sealed Position
	bytes  int64     // of frames
	open   int64     // bytes of frames in the open segment
	began  time.Time // when the open segment got its first frame

	commits   sync.WaitGroup
	committed chan error // of one place; nil while no commit runs
	suspended bool

	requests  chan followRequest
	followers map[*Follower]struct{} // guarded by followMu
	followMu  sync.Mutex
	over      bool // no follower is taken any more; guarded by followMu
}

const (
	// maxUncommitted is how many bytes of frames may be sealed while a commit
	// runs, before the sealer waits for it.
	maxUncommitted = 8 << 20
	// Backlogs, in bytes, at which a segment is compressed less hard: of the
	// session and of the node.
	fastBacklog, bulkBacklog         = 64 << 10, 256 << 10
	fastBacklogInSum, bulkBacklogSum = 4 << 20, 16 << 20
	// The time in which a full segment came together, for the same: zstd at its
	// better level is good for 200 MB/s on a core that has nothing else to do.
	fastFill, bulkFill = 50 * time.Millisecond, 8 * time.Millisecond
)

// errSuspended says that a rescue session goes on without its file.
var errSuspended = errors.New("the file has no room")

func (s *sealer) run() {
	defer close(s.rec.stopped)
	defer s.rec.r.forget(s.rec)
	s.commitLeaves(s.leaves, 0, 0)
	err := s.loop()
	if err != nil {
		err = s.rec.fail(err)
	}
	s.timer.Stop()
	s.endFollowers(err)
	s.commits.Wait()
	s.w.Wipe()
	if unused := s.rec.next.Swap(nil); unused != nil {
		unused.wipe()
	}
	if cerr := s.file.Close(); cerr != nil {
		s.rec.r.o.Log.Warn("close a recording", "session", s.rec.session, "error", cerr)
	}
	s.rec.r.hold(s.rec)
}

// loop returns when the recording is closed or failed.
func (s *sealer) loop() error {
	q := &s.rec.queue
	for {
		due := false
		var request *followRequest
		select {
		case <-q.wake:
		case <-s.timer.C:
			due, s.ticking = true, false
		case err := <-s.committed:
			s.committed = nil
			if err != nil {
				if err = s.trouble(err); err != nil {
					return err
				}
			}
		case q := <-s.requests:
			request = &q
		case <-s.rec.done:
			return nil
		}
		frames, urgent, closing := q.take()
		err := s.takeIn(frames)
		if request != nil {
			s.follow(*request) // with all that was appended before it
		}
		if err == nil && closing {
			return s.close()
		}
		if err == nil && (due || urgent) {
			err = s.seal()
		}
		if err == nil {
			err = s.commitSoon()
		}
		if err != nil {
			if err = s.trouble(err); err != nil {
				return err
			}
		}
		s.tick()
	}
}

// tick sets the timer off with the first frame of a segment.
func (s *sealer) tick() {
	if s.w.Pending() > 0 && !s.ticking && !s.suspended {
		s.timer.Reset(s.rec.r.o.age)
		s.ticking = true
	}
}

// takeIn adds frames to the open segment and seals those that are full.
func (s *sealer) takeIn(frames *[]byte) error {
	if frames == nil {
		return nil
	}
	defer s.rec.queue.recycle(frames)
	if s.suspended {
		return nil
	}
	flood := len(*frames) > floodBatch
	return eachFrame(*frames, func(f Frame) error {
		if s.picture != nil && s.picture.keyframeDue() {
			if err := s.keyframe(f.Time); err != nil {
				return err
			}
		}
		_, err := s.w.Add(f)
		if errors.Is(err, trec.ErrFull) {
			if err = s.seal(); err == nil {
				_, err = s.w.Add(f)
			}
		}
		if err != nil {
			return err
		}
		if s.open == 0 {
			s.began = time.Now()
		}
		s.open += int64(len(f.Data))
		if s.picture != nil {
			s.picture.show(f, flood)
		}
		s.tell(f)
		return nil
	})
}

// keyframe stores what the screen shows before the next frame.
func (s *sealer) keyframe(at time.Time) error {
	snapshot := s.picture.snapshot()
	if len(snapshot) == 0 || len(snapshot) > trec.MaxKeyframe {
		return nil
	}
	err := s.w.Keyframe(at, snapshot)
	if errors.Is(err, trec.ErrFull) {
		if err = s.seal(); err == nil {
			err = s.w.Keyframe(at, snapshot)
		}
	}
	return err
}

// effort is how hard to compress: the less the faster frames come, and the more
// of them wait.
func (s *sealer) effort() trec.Effort {
	own, all := s.rec.queue.size(), s.rec.r.queued.Load()
	fill := time.Hour
	if s.open >= trec.SegmentTarget/2 {
		fill = time.Since(s.began)
	}
	switch {
	case own >= bulkBacklog || all >= bulkBacklogSum || fill < bulkFill:
		return trec.EffortBulk
	case own >= fastBacklog || all >= fastBacklogInSum || fill < fastFill:
		return trec.EffortFast
	}
	return trec.EffortBest
}

// seal writes the open segment to the file.
func (s *sealer) seal() error {
	if s.suspended {
		return nil
	}
	if err := s.rec.Err(); err != nil {
		return err
	}
	s.deadline.arm()
	leaves, err := s.w.Seal(s.effort())
	s.deadline.disarm()
	if err != nil {
		return err
	}
	if len(leaves) > 0 {
		s.leaves = append(s.leaves, segmentLeaves(s.rec.session, leaves)...)
		s.sealed, s.bytes, s.open = Position(s.w.Last()), s.bytes+s.open, 0
	}
	if s.bytes >= maxUncommitted {
		if err := s.awaitCommit(); err != nil {
			return err
		}
		return s.commitSoon()
	}
	return nil
}

// segmentLeaves are the ledger's leaves for those of a recording's tree.
func segmentLeaves(session string, leaves []trec.Leaf) []ledger.Leaf {
	out := make([]ledger.Leaf, 0, len(leaves))
	for _, l := range leaves {
		number := uint32(0) // the part before the first segment
		if l.Type != 0 {
			number = l.Number + 1
		}
		out = append(out, ledger.Leaf{Kind: ledger.KindSegment, Session: session, Segment: number, Hash: hex.EncodeToString(l.Hash[:])})
	}
	return out
}

// awaitCommit returns when no commit runs.
func (s *sealer) awaitCommit() error {
	if s.committed == nil {
		return nil
	}
	select {
	case err := <-s.committed:
		s.committed = nil
		return err
	case <-s.rec.done: // the disk hangs
		return s.rec.Err()
	}
}

// commitSoon begins a commit of what was sealed, unless one runs: then its end does.
func (s *sealer) commitSoon() error {
	if s.committed != nil || s.suspended || s.sealed == 0 {
		return nil
	}
	if err := s.rec.rotate(s.w); err != nil {
		return err
	}
	s.commitLeaves(s.leaves, s.sealed, s.bytes)
	s.bytes = 0
	return nil
}

// commitLeaves begins a commit of segments that hold the frames up to sealed, or
// of the header's, which is durable already.
func (s *sealer) commitLeaves(leaves []ledger.Leaf, sealed Position, bytes int64) {
	s.leaves, s.sealed = nil, 0
	done := make(chan error, 1)
	s.committed = done
	s.commits.Go(func() { done <- s.commit(leaves, sealed, bytes) })
}

// commit makes sealed segments durable, tells the ledger, and then gives the
// journal its room back.
func (s *sealer) commit(leaves []ledger.Leaf, sealed Position, bytes int64) error {
	if sealed > 0 {
		if err := s.sync(); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), releaseTime)
	defer cancel()
	if _, err := s.rec.r.ledger.Record(ctx, leaves...); err != nil {
		return err
	}
	if err := s.rec.release(ctx, sealed); err != nil {
		return err
	}
	s.rec.addUnsealed(-bytes)
	return nil
}

// sync is one fdatasync. Few run at once, so that the journal's own goes first.
func (s *sealer) sync() error {
	if err := s.awaitTurn(); err != nil {
		return err
	}
	defer func() { <-s.rec.r.syncing }()
	var d deadline
	s.watch(&d)
	d.arm()
	defer d.disarm()
	err := s.file.Sync()
	s.rec.r.synced.Add(1)
	return err
}

// awaitTurn takes one of the places of those that sync. A row of others is no reason
// to give up, but a disk that ends no sync of anybody for FailAfter hangs: those that
// it holds never give back their places.
func (s *sealer) awaitTurn() error {
	r := s.rec.r
	select {
	case r.syncing <- struct{}{}:
		return nil
	default:
	}
	hung := time.NewTicker(r.o.FailAfter)
	defer hung.Stop()
	before := r.synced.Load()
	for {
		select {
		case r.syncing <- struct{}{}:
			return nil
		case <-s.rec.done:
			return s.rec.Err()
		case <-hung.C:
			now := r.synced.Load()
			if now == before {
				return fmt.Errorf("%w: longer than %v", errSlowDisk, r.o.FailAfter)
			}
			before = now
		}
	}
}

// watch fails the recording when its disk does not answer.
func (s *sealer) watch(d *deadline) {
	o := &s.rec.r.o
	d.warnAfter, d.failAfter = o.WarnAfter, o.FailAfter
	d.warn = func() {
		o.Log.Warn("the disk of the recordings is slow", "session", s.rec.session, "longer_than", o.WarnAfter)
	}
	d.fail = func() { s.rec.fail(fmt.Errorf("%w: longer than %v", errSlowDisk, o.FailAfter)) }
}

// trouble decides what an error of the file, the ledger or the journal ends. A
// rescue session on a full disk goes on in the journal.
func (s *sealer) trouble(err error) error {
	if s.suspended {
		return nil // it is about what the journal still has
	}
	if !s.rec.rescue || !noRoom(err) || s.rec.Err() != nil {
		return err
	}
	s.suspend()
	return nil
}

// suspend leaves the rest of the session to the journal and to recovery.
func (s *sealer) suspend() {
	s.suspended = true
	s.rec.r.o.Log.Warn("the recordings' disk is full: a rescue session goes on in the journal", "session", s.rec.session)
	s.rec.queue.suspend()
	s.w.Wipe()
	s.picture, s.leaves, s.sealed = nil, nil, 0
	s.endFollowers(errSuspended)
}

// close seals the rest, ends the file, and tells the ledger.
func (s *sealer) close() error {
	err := s.drain()
	if err == nil && !s.suspended {
		err = s.awaitCommit()
	}
	if err != nil {
		if err = s.trouble(err); err != nil {
			return err
		}
	}
	if s.suspended {
		return s.closeSuspended()
	}
	s.rec.mu.Lock()
	reason := s.rec.reason
	s.rec.mu.Unlock()
	last := s.w.Last()
	s.deadline.arm()
	summary, err := s.w.Close(s.rec.r.o.Clock(), reason)
	s.deadline.disarm()
	if err == nil {
		err = s.sync()
	}
	if err != nil {
		if s.rec.rescue && noRoom(err) {
			s.suspend()
			return s.closeSuspended()
		}
		return err
	}
	leaves := append(s.leaves, segmentLeaves(s.rec.session, summary.Leaves)...)
	leaves = append(leaves, ledger.Leaf{Kind: ledger.KindClose, Session: s.rec.session, Number: s.rec.number,
		Hash: hex.EncodeToString(summary.Root[:]), Size: summary.Size, Reason: reason})
	ctx, cancel := context.WithTimeout(context.Background(), releaseTime)
	defer cancel()
	first, err := s.rec.r.ledger.Record(ctx, leaves...)
	if err == nil {
		err = s.rec.release(ctx, last)
	}
	if err != nil {
		return err
	}
	s.rec.addUnsealed(-s.bytes - s.open)
	s.rec.finish(Result{Reason: reason, Segments: summary.Facts.Segments, Head: summary.Facts.Root, Index: first + int64(len(leaves)) - 1})
	if finished := s.rec.r.o.Finished; finished != nil {
		finished(s.rec.session)
	}
	return nil
}

// drainPause is how long to wait for an Append that is under way.
const drainPause = 2 * time.Millisecond

// drain takes in everything that was appended, an Append that is under way
// included. It seals meanwhile, because that Append may wait for the journal's room.
func (s *sealer) drain() error {
	for !s.rec.appending.TryLock() {
		frames, _, _ := s.rec.queue.take()
		err := s.takeIn(frames)
		if err == nil {
			err = s.seal()
		}
		if err == nil {
			if err = s.awaitCommit(); err == nil {
				err = s.commitSoon()
			}
		}
		if err != nil {
			return err
		}
		select {
		case <-s.rec.done:
			return s.rec.Err()
		case <-time.After(drainPause):
		}
	}
	s.rec.appending.Unlock()
	frames, _, _ := s.rec.queue.take()
	return s.takeIn(frames)
}

// closeSuspended ends a session whose frames rest in the journal.
func (s *sealer) closeSuspended() error {
	s.rec.appending.Lock()
	last := s.rec.last
	s.rec.appending.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), releaseTime)
	defer cancel()
	if err := s.rec.Wait(ctx, last); err != nil && !errors.Is(err, ErrClosed) {
		return err
	}
	s.rec.mu.Lock()
	reason := s.rec.reason
	s.rec.mu.Unlock()
	s.rec.finish(Result{Reason: reason})
	return nil
}
