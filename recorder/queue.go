package recorder

import (
	"encoding/binary"
	"sync"
	"sync/atomic"
	"time"
)

// queue holds the frames of a session between Append and its sealer, in clear
// and in memory only. It is a flat buffer: an idle session holds none.
type queue struct {
	limit  int
	buffer *sync.Pool    // of *[]byte
	all    *atomic.Int64 // bytes in the queues of all sessions
	wake   chan struct{} // of one place: the sealer has something to do

	mu      sync.Mutex // guards what follows
	room    sync.Cond
	frames  *[]byte // encoded; nil: none
	count   int
	eager   bool // wake the sealer for each frame: somebody follows
	urgent  bool // seal what there is: the journal needs room
	closing bool // no more frames are wanted
	stopped bool // nobody takes frames any more
	off     bool // frames are not kept: they rest in the journal only
}

const (
	// queueWake is how many bytes wait until the sealer is woken; before that the
	// first frame sets off its timer.
	queueWake      = 32 << 10
	queueFrameHead = 1 + 8 + 4
	keepQueue      = 2 << 20
)

func (q *queue) init(limit int, pool *sync.Pool, all *atomic.Int64) {
	q.limit, q.buffer, q.all, q.wake = limit, pool, all, make(chan struct{}, 1)
	q.room.L = &q.mu
}

func (q *queue) signal() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// waitForRoom returns true once a frame can be pushed, false if none will be.
func (q *queue) waitForRoom() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	for !q.closing && !q.stopped && q.frames != nil && len(*q.frames) >= q.limit {
		q.room.Wait()
	}
	return !q.closing && !q.stopped
}

func (q *queue) push(f Frame) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.off || q.stopped {
		return
	}
	if q.frames == nil {
		q.frames = q.buffer.Get().(*[]byte)
	}
	before := len(*q.frames)
	b := append(*q.frames, byte(f.Kind))
	b = binary.BigEndian.AppendUint64(b, uint64(f.Time.UnixMicro()))
	b = binary.BigEndian.AppendUint32(b, uint32(len(f.Data)))
	b = append(b, f.Data...)
	*q.frames = b
	q.all.Add(int64(len(b) - before))
	q.count++
	if q.count == 1 || q.eager || before < queueWake && len(b) >= queueWake {
		q.signal()
	}
}

// take hands over all frames. The caller gives the buffer back.
func (q *queue) take() (frames *[]byte, urgent, closing bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if frames, q.frames, q.count = q.frames, nil, 0; frames != nil {
		q.all.Add(-int64(len(*frames)))
	}
	q.room.Broadcast()
	urgent, q.urgent = q.urgent, false
	return frames, urgent, q.closing
}

// size is how many bytes wait.
func (q *queue) size() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.frames == nil {
		return 0
	}
	return len(*q.frames)
}

func (q *queue) recycle(frames *[]byte) {
	clear(*frames) // it is plaintext
	if cap(*frames) <= keepQueue {
		*frames = (*frames)[:0]
		q.buffer.Put(frames)
	}
}

func (q *queue) set(change func()) {
	q.mu.Lock()
	change()
	q.room.Broadcast()
	q.mu.Unlock()
	q.signal()
}

func (q *queue) close() { q.set(func() { q.closing = true }) }
func (q *queue) stop()  { q.set(func() { q.stopped = true; q.forget() }) }

// suspend forgets what waits and takes nothing more; Append goes on.
func (q *queue) suspend() { q.set(func() { q.off = true; q.forget() }) }

func (q *queue) forget() {
	if q.frames != nil {
		q.all.Add(-int64(len(*q.frames)))
		q.recycle(q.frames)
		q.frames, q.count = nil, 0
	}
}

// eachFrame decodes what push has encoded.
func eachFrame(b []byte, yield func(Frame) error) error {
	for len(b) > 0 {
		n := queueFrameHead + int(binary.BigEndian.Uint32(b[9:]))
		f := Frame{Kind: Kind(b[0]), Time: time.UnixMicro(int64(binary.BigEndian.Uint64(b[1:]))), Data: b[queueFrameHead:n:n]}
		if err := yield(f); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}
