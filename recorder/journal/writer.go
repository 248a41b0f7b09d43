package journal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync/atomic"
)

const (
	// shortChunk is what goes first into a batch: keystrokes and events.
	shortChunk = 8 << 10
	// turn is what a stream may add to a batch before the others' turn.
	turn = 128 << 10
)

// segment is one file in use.
type segment struct {
	name       string
	file       file
	header     FileHeader
	size       int64
	offset     int64        // of the next batch; the writer's
	rescueOnly bool         // guarded by Journal.mu
	pins       atomic.Int64 // streams with frames in it that were not released
}

// taken is what the writer has of a stream.
type taken struct {
	buffer  *buffer
	at      int      // how much of the buffer is in batches
	chain   [16]byte // after what is in batches
	segment *segment // the file that has the stream's opening
	bytes   int      // in this batch
	last    Position // of data in this batch, or 0
}

func (t *taken) left() []byte {
	if t.buffer == nil {
		return nil
	}
	return t.buffer.data[t.at:]
}

// writer is the one goroutine that writes batches.
type writer struct {
	j       *Journal
	queue   []*Stream // streams with something to write
	segment *segment
	out     []byte
	frames  uint32
	limit   int
	toRoom  bool // limit is the end of the file
	// What did not fit into the file: of streams without and with Rescue.
	ordinaryShort, rescueShort bool
	blocked                    bool // nothing can be done before the keeper does something
	rescueOnly                 bool // of segment, as of the begin of this batch
}

func (j *Journal) write() {
	w := &writer{j: j, out: make([]byte, batchHeaderSize, 64<<10)}
	for w.gather() {
		w.build()
		if w.frames == 0 && (w.ordinaryShort || w.rescueShort) {
			w.blocked = !w.rotate()
			continue
		}
		if w.frames > 0 && !w.commit() {
			break
		}
		w.publish()
		if w.ordinaryShort || w.rescueShort {
			w.rotate()
		}
	}
	w.end()
	j.commits.stop()
	j.starved.stop()
	j.mu.Lock()
	j.written = true
	j.mu.Unlock()
	j.poke()
}

// gather waits for work; false: there will be none.
func (w *writer) gather() bool {
	j := w.j
	j.mu.Lock()
	for {
		if j.err != nil {
			j.mu.Unlock()
			return false
		}
		if len(j.fresh) > 0 || j.starvedOut || len(w.queue) > 0 && (!w.blocked || j.changed) {
			break
		}
		if j.closing && len(w.queue) == 0 {
			j.mu.Unlock()
			return false
		}
		j.sleeping = true
		j.work.Wait()
		j.sleeping = false
	}
	fresh := len(w.queue)
	w.queue = append(w.queue, j.fresh...)
	clear(j.fresh)
	j.fresh = j.fresh[:0]
	starvedOut := j.starvedOut
	j.changed, j.starvedOut, w.blocked = false, false, false
	w.rescueOnly = w.segment != nil && w.segment.rescueOnly
	j.mu.Unlock()
	for _, s := range w.queue[fresh:] {
		s.mu.Lock()
		s.hand()
		s.mu.Unlock()
	}
	if starvedOut {
		w.giveUp()
	}
	return true
}

// hand gives the stream's buffer to the writer. The caller holds mu.
func (s *Stream) hand() {
	s.w.buffer, s.w.at, s.w.chain = s.buffer, 0, s.before
	s.buffer = nil
}

// build fills out with what fits: short chunks first, long ones by turns.
func (w *writer) build() {
	w.out, w.frames = w.out[:batchHeaderSize], 0
	w.ordinaryShort, w.rescueShort = false, false
	w.limit, w.toRoom = 0, true
	if w.segment != nil {
		w.limit = int(w.segment.size - blockSize - w.segment.offset)
	}
	if most := max(w.j.o.maxBatchForTests, padded(batchHeaderSize+openingSize(MaxName, MaxPublic)+frameOverhead+w.j.o.MaxFrame)); w.limit > most {
		w.limit, w.toRoom = most, false
	}
	for _, s := range w.queue {
		if len(s.w.left()) <= shortChunk {
			w.take(s, shortChunk)
		}
	}
	for more := true; more; {
		more = false
		for _, s := range w.queue {
			more = w.take(s, turn) || more
		}
	}
	// Whoever waits for room waits against the clock.
	if w.ordinaryShort || w.rescueShort {
		w.j.starved.start()
	} else {
		w.j.starved.stop()
	}
}

// take moves up to most bytes of whole frames of a stream into the batch, at
// least one frame, and reports whether it moved any.
func (w *writer) take(s *Stream, most int) bool {
	t := &s.w
	if len(t.left()) == 0 {
		return false
	}
	if w.rescueOnly && !s.rescue {
		w.ordinaryShort = true
		return false
	}
	moved := 0
	for left := t.left(); len(left) > 0; left = left[binary.BigEndian.Uint32(left[4:]):] {
		n := int(binary.BigEndian.Uint32(left[4:]))
		data := left[12] == typeData
		opening := 0
		if data && t.segment != w.segment {
			opening = openingSize(len(s.opening.Name), len(s.opening.Public))
		}
		if len(w.out)+opening+n > w.limit {
			w.ordinaryShort = w.ordinaryShort || w.toRoom && !s.rescue
			w.rescueShort = w.rescueShort || w.toRoom && s.rescue
			break
		}
		if moved > 0 && moved+n > most {
			break
		}
		mask := w.segment.header.mask()
		sequence := Position(binary.BigEndian.Uint64(left[16:]))
		if opening > 0 {
			o := s.opening
			o.Chain = t.chain
			w.out = appendOpening(w.out, s.number, sequence, &o, mask)
			w.frames++
			t.segment = w.segment
		}
		start := len(w.out)
		w.out = append(w.out, left[:n]...)
		maskCRC(w.out[start:], mask)
		w.frames++
		moved += n
		if data {
			t.last, t.chain = sequence, link(left[:n])
		}
	}
	t.at += moved
	t.bytes += moved
	return moved > 0
}

// commit makes the batch durable, or fails the journal.
func (w *writer) commit() bool {
	j := w.j
	j.batch++
	h := batchHeader{length: len(w.out), frames: w.frames, number: j.batch, time: j.o.Clock()}
	h.put(w.out, w.segment.header.mask())
	length := padded(len(w.out))
	if length > cap(w.out) {
		w.out = append(w.out, make([]byte, length-len(w.out))...)
	} else {
		used := len(w.out)
		w.out = w.out[:length]
		clear(w.out[used:])
	}
	j.commits.start()
	err := writeAt(w.segment.file, w.out, w.segment.offset)
	if err == nil && j.o.Mode == Durable {
		err = uninterrupted(w.segment.file.Sync)
	}
	j.commits.stop()
	if err != nil {
		j.fail(fmt.Errorf("%s: %w", w.segment.name, err))
		return false
	}
	w.segment.offset += int64(length)
	return j.Failure() == nil // too late is failed, whatever came of it
}

// publish tells all streams of the batch, and lets go of those with nothing left.
func (w *writer) publish() {
	kept, sum := w.queue[:0], 0
	for _, s := range w.queue {
		t := &s.w
		s.mu.Lock()
		if t.bytes > 0 {
			sum += t.bytes
			s.settle(w.segment)
		}
		if len(t.left()) == 0 {
			if t.buffer != nil {
				w.j.recycle(t.buffer)
			}
			s.hand()
		}
		if t.buffer == nil {
			s.queued = false
			if s.closing {
				w.j.forget(s)
			}
		} else {
			kept = append(kept, s)
		}
		s.mu.Unlock()
	}
	clear(w.queue[len(kept):])
	w.queue = kept
	w.j.unreserve(sum)
}

// settle notes that what the writer took is kept. The caller holds mu.
func (s *Stream) settle(in *segment) {
	t := &s.w
	s.pending -= t.bytes
	if t.last > 0 {
		if n := len(s.extents); n > 0 && s.extents[n-1].segment == in {
			s.extents[n-1].last = t.last
		} else {
			in.pins.Add(1)
			s.extents = append(s.extents, extent{in, t.last})
		}
		s.durable.Store(uint64(t.last))
	}
	t.bytes, t.last = 0, 0
	s.wake()
}

// rotate goes on to the next file, if there is one for those who need it.
func (w *writer) rotate() bool {
	j := w.j
	j.mu.Lock()
	next := j.next
	if next == nil || next.rescueOnly && !w.rescueShort {
		j.needRescue = w.rescueShort
		j.mu.Unlock()
		j.poke()
		return false
	}
	j.next = nil
	j.mu.Unlock()
	if w.segment != nil && !w.writeEnd(next.header.ID) {
		return false
	}
	j.mu.Lock()
	j.current, j.needRescue = next, false
	w.rescueOnly = next.rescueOnly
	j.mu.Unlock()
	w.segment = next
	j.poke()
	return true
}

// writeEnd ends the current file in the block that is kept for it. The id of
// the next file in it makes a loss of that file show.
func (w *writer) writeEnd(next [16]byte) bool {
	w.out = w.out[:batchHeaderSize]
	h := frameHeader{length: frameHeaderSize + 16, kind: typeEnd}
	var header [frameHeaderSize]byte
	h.put(header[:])
	w.out = append(append(w.out, header[:]...), next[:]...)
	frame := w.out[batchHeaderSize:]
	setCRC(frame)
	maskCRC(frame, w.segment.header.mask())
	w.frames = 1
	return w.commit()
}

// giveUp ends the streams that have waited for a file for FailAfter; those that
// may use the reserve only when there are no others.
func (w *writer) giveUp() {
	others := false
	for _, s := range w.queue {
		others = others || !s.rescue && len(s.w.left()) > 0
	}
	err := fmt.Errorf("%w: waited %s for a file", ErrNoSpace, w.j.o.FailAfter)
	kept := w.queue[:0]
	for _, s := range w.queue {
		if others && s.rescue {
			kept = append(kept, s)
			continue
		}
		if s.w.buffer != nil {
			w.j.recycle(s.w.buffer)
			s.w.buffer = nil
		}
		s.fail(err)
		s.mu.Lock()
		s.queued = false
		s.mu.Unlock()
	}
	clear(w.queue[len(kept):])
	w.queue = kept
	w.j.o.Log.Error("streams ended because the journal has no room", "error", err)
}

// end says that the journal was closed in order.
func (w *writer) end() {
	if w.j.Failure() == nil && w.segment != nil {
		w.writeEnd([16]byte{})
	}
}

var errSlowDisk = errors.New("the disk did not answer in time")

func (j *Journal) slowCommit() {
	j.o.Log.Warn("the disk of the journal is slow", "after", j.o.WarnAfter)
}

func (j *Journal) failedCommit() { j.fail(fmt.Errorf("%w (%s)", errSlowDisk, j.o.FailAfter)) }

func (j *Journal) slowSpace() {
	j.o.Log.Warn("frames wait for a file of the journal", "after", j.o.WarnAfter)
}

func (j *Journal) failedSpace() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.starvedOut = true
	j.work.Broadcast()
}
