package recorder

import (
	"encoding/json"
	"fmt"
	"time"
)

// The committer: the one goroutine of a recording that touches its file.

// keepBuffer is the largest buffer that goes back to a pool.
const keepBuffer = 4 << 20

// run writes the prelude, then what gathers, then the end.
func (r *Recording) run(prelude []byte) {
	defer close(r.stopped)
	defer r.r.forget(r)
	defer r.file.Close()
	if !r.commit(prelude, func() error { return syncDir(r.r.o.Dir) }) {
		return
	}
	close(r.started)
	var groups []*group
	for {
		more := true
		groups, more = r.take(groups[:0])
		if len(groups) > 0 && !r.commitGroups(groups) {
			return
		}
		if !more {
			break
		}
	}
	end, err := r.end()
	if err != nil {
		r.finish(r.r.fail(err))
		return
	}
	if r.commit(r.chain.append(nil, BlockInfo{Type: BlockEnd, Time: r.r.o.Clock()}, end, nil), nil) {
		r.mu.Lock()
		r.result = Result{Reason: r.reason, Blocks: r.chain.sequence, Head: r.chain.headHex()}
		r.mu.Unlock()
		r.finish(ErrClosed)
	}
}

// take waits for frames and takes them all; more is false when no others will come.
func (r *Recording) take(dst []*group) (groups []*group, more bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for len(r.groups) == 0 && !r.closing && r.err == nil {
		r.work.Wait()
	}
	groups = append(dst, r.groups...)
	r.groups = r.groups[:0]
	return groups, len(groups) > 0 || !r.closing && r.err == nil
}

func (r *Recording) commitGroups(groups []*group) bool {
	buffer := r.r.blocks.Get().(*[]byte)
	out := (*buffer)[:0]
	var size int64
	var last Position
	for _, g := range groups {
		i := BlockInfo{Type: BlockData, First: g.first, Span: g.span, Time: time.UnixMicro(g.base)}
		if g.main.count > 0 {
			i.Class, i.Count = ClassMain, g.main.count
			out = r.chain.append(out, i, g.main.data, r.main)
		}
		if g.strict.count > 0 {
			i.Class, i.Count = ClassStrict, g.strict.count
			out = r.chain.append(out, i, g.strict.data, r.strict)
		}
		size += g.bytes
		last = g.first + Position(g.span) - 1
		if g.size() <= keepBuffer {
			// Typed text must not wait in a pool for the next session.
			clear(g.main.data)
			clear(g.strict.data)
			r.r.groups.Put(g)
		}
	}
	ok := r.commit(out, nil)
	if *buffer = out; cap(out) <= keepBuffer {
		r.r.blocks.Put(buffer)
	}
	if ok {
		r.publish(last, size)
	}
	return ok
}

// commit makes out durable, or fails the recording for good.
func (r *Recording) commit(out []byte, after func() error) bool {
	r.deadline.arm()
	err := writeAll(r.file, out)
	if err == nil {
		err = r.file.Sync()
	}
	if err == nil && after != nil {
		err = after()
	}
	r.deadline.disarm()
	if r.Err() != nil {
		return false // too late: it has failed meanwhile, whatever came of it
	}
	if err != nil {
		r.finish(r.r.fail(fmt.Errorf("session %s: %w", r.session, err)))
		return false
	}
	return true
}

// watch makes the deadline of the recording's writes.
func (r *Recording) watch() {
	o := r.r.o
	r.deadline = deadline{warnAfter: o.WarnAfter, failAfter: o.FailAfter,
		warn: func() { o.Log.Warn("the disk of the recordings is slow", "session", r.session, "after", o.WarnAfter) },
		fail: func() { r.finish(r.r.fail(fmt.Errorf("session %s: %w (%s)", r.session, errSlowDisk, o.FailAfter))) }}
}

func (r *Recording) publish(p Position, bytes int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.durable = p
	r.pending -= bytes
	r.space.Broadcast()
	r.wake()
}

// wake must be called with mu held.
func (r *Recording) wake() {
	if r.notify != nil {
		close(r.notify)
		r.notify = nil
	}
}

// finish sets the final state once.
func (r *Recording) finish(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err != nil {
		return
	}
	r.err = err
	close(r.done)
	r.work.Broadcast()
	r.space.Broadcast()
	r.wake()
}

func (r *Recording) end() ([]byte, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return json.Marshal(End{Reason: r.reason, Frames: uint64(r.last), Blocks: r.chain.sequence + 1,
		Time: r.r.o.Clock().UTC(), BytesIn: r.in, BytesOut: r.out})
}
