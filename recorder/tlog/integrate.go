package tlog

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"
)

// snapshot is what the integrator brings to disk: a size that was committed
// and everything that is not in the directory yet.
type snapshot struct {
	size   int64
	note   []byte
	order  []tileID
	full   [][]byte // by order
	edges  [tileLevels][]Hash
	bundle []byte
	bodies []sealedBody
}

// integrator is the state of the goroutine that writes tiles.
type integrator struct {
	l       *Log
	dirs    map[string]bool // known to exist
	dirty   int             // full tiles since the last settle
	settled int64
	written int64           // size of the checkpoint on disk; -1 at first
	shown   map[tileID]int  // width of the partial tile written last
	stale   []string        // directories of partial tiles that are full now; removed after the next settle
	touched map[string]bool // files written since the last settle; nil when they are too many to name
	since   time.Time       // of the last settle
	watch   *time.Timer     // fails the log when the disk does not answer
}

// alive is called between the disk's answers: each of them may take FailAfter.
func (in *integrator) alive() {
	in.l.answers.Add(1)
	in.watch.Reset(in.l.o.FailAfter)
}

// integrateLoop brings tiles up to date behind the committer, at the publish
// interval, when much waits, when asked, and at the end.
func (l *Log) integrateLoop() {
	defer l.done.Done()
	in := &integrator{l: l, dirs: map[string]bool{}, settled: l.restored, written: -1, shown: map[tileID]int{},
		touched: map[string]bool{}, since: time.Now()}
	in.watch = time.AfterFunc(l.o.FailAfter, func() {
		_ = l.fail(fmt.Errorf("write tiles: the disk has not answered for %v", l.o.FailAfter)) // those who ask are told
	})
	in.watch.Stop()
	for level := entriesLevel; level < tileLevels && l.restored > 0; level++ {
		id := edgeTile(level, l.restored)
		in.shown[id] = id.widthAt(l.restored)
	}
	var tick <-chan time.Time
	if l.o.PublishInterval > 0 {
		t := time.NewTicker(l.o.PublishInterval)
		defer t.Stop()
		tick = t.C
	}
	var retry <-chan time.Time // while the disk is full
	for {
		var reply chan<- error
		final, calm, settle := false, false, false
		select {
		case <-tick:
			calm = true
		case <-retry:
			calm, retry = true, nil
		case <-l.kick:
			if retry != nil {
				continue // it is tried again in a moment
			}
		case p := <-l.publish:
			calm, reply, settle = true, p.reply, p.settle
		case <-l.stop:
			final = true
		}
		err := l.failure()
		if err == nil {
			if err = in.attempt(calm, settle, final); errors.Is(err, ErrNoSpace) && retry == nil {
				retry = time.After(retryFull)
			}
		}
		if reply != nil {
			reply <- err
		}
		if final {
			return
		}
	}
}

// attempt integrates. A lack of space is a state, and the error wraps
// ErrNoSpace; any other error ends the log.
func (in *integrator) attempt(calm, settle, final bool) error {
	in.alive()
	err := in.integrate(calm, settle, final)
	in.watch.Stop()
	if err == nil {
		return in.l.starve(nil)
	}
	if isFull(err) {
		return in.l.starve(err)
	}
	return in.l.fail(fmt.Errorf("write tiles: %w", err))
}

func (l *Log) snapshot() *snapshot {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := &snapshot{size: l.size, note: l.note, order: l.order[:len(l.order):len(l.order)],
		bodies: l.unstored[:len(l.unstored):len(l.unstored)], bundle: append([]byte(nil), l.bundle...)}
	for _, id := range s.order {
		s.full = append(s.full, l.pending[id])
	}
	for level := range l.edges {
		s.edges[level] = append([]Hash(nil), l.edges[level]...)
	}
	return s
}

// integrate brings the directory to the committed size. Between two ticks of a
// busy second it only writes full tiles.
func (in *integrator) integrate(calm, settle, final bool) error {
	s := in.l.snapshot()
	if s.size == in.written && !final {
		// A log that has come to rest must not keep its Durable from forgetting.
		if (settle || time.Since(in.since) >= settleAfter) && s.size != in.settled {
			return in.settle(s)
		}
		return nil
	}
	if err := in.l.bodies.write(s.bodies); err != nil {
		return err
	}
	for i, id := range s.order {
		if err := in.write(id, tileWidth, s.full[i]); err != nil {
			return err
		}
		delete(in.shown, id)
	}
	for _, id := range s.order { // once, however often it was tried
		in.stale = append(in.stale, filepath.Join(in.l.o.Dir, id.partialDir()))
	}
	in.dirty += len(s.order)
	in.l.integrated(s)
	if !calm && !final && in.dirty < settleAtLast {
		return nil
	}
	if err := in.showEdge(s); err != nil {
		return err
	}
	in.written = s.size
	late := (settle || time.Since(in.since) >= settleAfter) && s.size != in.settled
	if in.dirty >= settleTiles || late || final && s.size != in.settled || in.l.o.SettleFirst {
		return in.settle(s)
	}
	return nil
}

// showEdge writes the partial tiles and the checkpoint of the snapshot. The
// checkpoint is made durable at once: a torn one would look like a forgery
// after a crash.
func (in *integrator) showEdge(s *snapshot) error {
	for level := entriesLevel; level < tileLevels; level++ {
		id := edgeTile(level, s.size)
		width := id.widthAt(s.size)
		// One that is there already must not be written again: a restart may
		// depend on it, and the new copy is not durable.
		if width == 0 || in.shown[id] == width {
			continue
		}
		data := s.bundle
		if level >= 0 {
			data = appendHashes(nil, s.edges[level])
		}
		if err := in.write(id, width, data); err != nil {
			return err
		}
		in.shown[id] = width
	}
	if in.l.o.SettleFirst {
		if err := in.keep(s); err != nil {
			return err
		}
	}
	return replaceFile(in.l.o.fs, filepath.Join(in.l.o.Dir, CheckpointFile), s.note, true)
}

// write writes a tile that is not durable yet: until the next settle it can be made again.
func (in *integrator) write(id tileID, width int, data []byte) error {
	in.alive()
	path := filepath.Join(in.l.o.Dir, id.path(width))
	if dir := filepath.Dir(path); !in.dirs[dir] {
		if err := in.l.o.fs.MkdirAll(dir); err != nil {
			return err
		}
		if len(in.dirs) > 1024 {
			clear(in.dirs)
		}
		in.dirs[dir] = true
	}
	if in.touched != nil {
		in.touched[path] = true
	}
	if len(in.touched) > settleNamed {
		in.touched = nil
	}
	return replaceFile(in.l.o.fs, path, data, false)
}

// syncTiles makes the tiles written since the last settle durable: a few one
// by one, because what others write to the same file system then need not go to
// the disk as well; many with one call.
func (in *integrator) syncTiles() error {
	o := &in.l.o
	if in.touched == nil {
		return final(o.fs.SyncAll(o.Dir))
	}
	dirs := map[string]bool{}
	for path := range in.touched {
		in.alive()
		f, err := o.fs.Open(path, readWrite)
		if errors.Is(err, fs.ErrNotExist) {
			continue // a partial tile that is full now
		}
		if err != nil {
			return err
		}
		if err := errors.Join(f.Sync(), f.Close()); err != nil {
			return final(err)
		}
		for dir := filepath.Dir(path); !dirs[dir]; dir = filepath.Dir(dir) {
			dirs[dir] = true
			if err := o.fs.SyncDir(dir); err != nil {
				return final(err)
			}
			if dir == filepath.Clean(o.Dir) {
				break
			}
		}
	}
	return nil
}

// integrated takes what is readable from the directory now out of memory and
// lets appends go on that waited for it.
func (l *Log) integrated(s *snapshot) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, id := range s.order {
		delete(l.pending, id)
	}
	l.order = append([]tileID(nil), l.order[len(s.order):]...)
	for i := range s.bodies {
		delete(l.unstoredAt, s.bodies[i].index)
		l.unstoredBytes -= len(s.bodies[i].sealed)
	}
	l.unstored = append([]sealedBody(nil), l.unstored[len(s.bodies):]...)
	l.unstoredBase += len(s.bodies)
	signal(l.wake)
}

// settle makes tiles and bodies durable and lets go of what they replace.
// Partial tiles go last: until the new state is durable, a restart begins from them.
func (in *integrator) settle(s *snapshot) error {
	if s.size != in.settled {
		if err := in.keep(s); err != nil {
			return err
		}
	}
	o := &in.l.o
	in.dirty, in.since = 0, time.Now()
	in.alive()
	if err := in.l.durable.Forget(s.size); err != nil {
		return final(err)
	}
	for _, dir := range in.stale {
		if err := o.fs.RemoveAll(dir); err != nil {
			return err
		}
		delete(in.dirs, dir)
	}
	in.stale = nil
	return nil
}

// keep makes tiles and bodies durable: a restart begins from them.
func (in *integrator) keep(s *snapshot) error {
	o := &in.l.o
	in.alive()
	if err := in.syncTiles(); err != nil {
		return err
	}
	in.alive()
	if err := in.l.bodies.settle(); err != nil {
		return err
	}
	state, err := json.Marshal(integrated{Size: s.size, Checkpoint: string(s.note)})
	if err != nil {
		return err
	}
	in.alive()
	if err := replaceFile(o.fs, filepath.Join(o.Dir, integratedFile), append(state, '\n'), true); err != nil {
		return err
	}
	in.settled, in.touched = s.size, map[string]bool{}
	if o.SettleFirst {
		in.l.mu.Lock()
		in.l.kept = s.note
		in.l.mu.Unlock()
	}
	return nil
}
