package recorder

import (
	"bytes"
	"log/slog"

	"sallyport/internal/screen"
)

// picture is what a terminal shows, for keyframes and for those who begin to
// follow. It stands off the way of the bytes: behind a flood it skips, and makes
// no keyframe until it is known again what the screen shows.
type picture struct {
	log     *slog.Logger
	screen  *screen.Screen // nil after it has panicked
	since   int            // bytes of output since the last keyframe
	lost    bool           // bytes were skipped
	unsure  bool           // and they, or what follows, may have changed more than text
	skipped []byte         // the last of them
}

const (
	// keyframeEvery is how much output lies between keyframes, in bytes.
	keyframeEvery = 256 << 10
	// floodBatch is how much gathers behind a sealer that does not keep up.
	floodBatch = 128 << 10
	// tailSize is how much of what was skipped is kept: more than any screen shows.
	tailSize = 64 << 10

	defaultColumns, defaultRows = 80, 24
)

func newPicture(m Meta, log *slog.Logger) *picture {
	columns, rows := m.Columns, m.Rows
	if columns == 0 || rows == 0 {
		columns, rows = defaultColumns, defaultRows
	}
	return &picture{log: log, screen: screen.New(int(min(columns, screen.MaxColumns)), int(min(rows, screen.MaxRows)))}
}

// guarded keeps a fault of the model from the recording: it has none of its own then.
func (p *picture) guarded(f func()) {
	defer func() {
		if fault := recover(); fault != nil {
			p.log.Error("the screen model failed, this recording goes on without keyframes", "fault", fault)
			p.screen, p.skipped = nil, nil
		}
	}()
	if p.screen != nil {
		f()
	}
}

// show tells of a frame.
func (p *picture) show(f Frame, flood bool) {
	switch f.Kind {
	case KindOutput, KindStderr, KindGate:
		p.since += len(f.Data)
		if flood {
			p.skip(f.Data)
			return
		}
		p.guarded(func() {
			p.catchUp()
			_, _ = p.screen.Write(f.Data) // it never fails
			if p.unsure && bytes.Contains(f.Data, fullReset) {
				p.unsure = false
			}
		})
	case KindResize:
		w, err := DecodeResize(f.Data)
		if err != nil || w.Columns == 0 || w.Rows == 0 {
			return
		}
		p.guarded(func() {
			p.catchUp()
			p.screen.Resize(int(min(w.Columns, screen.MaxColumns)), int(min(w.Rows, screen.MaxRows)))
		})
	}
}

// fullReset is RIS: after it the screen is that of a new terminal.
var fullReset = []byte("\x1bc")

// skip passes over output. Plain text leaves nothing behind but what is on the
// screen, so the last lines of it are enough; control sequences may leave modes.
func (p *picture) skip(data []byte) {
	if p.screen == nil {
		return
	}
	p.lost = true
	if bytes.ContainsAny(data, "\x1b\x0e\x0f") {
		p.unsure = true
	}
	if len(data) >= tailSize {
		p.skipped = append(p.skipped[:0], data[len(data)-tailSize:]...)
		return
	}
	if over := len(p.skipped) + len(data) - tailSize; over > 0 {
		p.skipped = append(p.skipped[:0], p.skipped[over:]...)
	}
	p.skipped = append(p.skipped, data...)
}

// catchUp shows the last of what was skipped.
func (p *picture) catchUp() {
	if !p.lost {
		return
	}
	tail := p.skipped
	p.lost, p.skipped = false, nil
	_, rows := p.screen.Size()
	i := bytes.Index(tail, []byte("\r\n"))
	if i < 0 || bytes.Count(tail[i:], []byte("\n")) < 2*rows || p.screen.Alternate() {
		p.unsure = true
	}
	// CAN ends a sequence that was cut off; the carriage return, a line.
	_, _ = p.screen.Write([]byte("\x18\r"))
	_, _ = p.screen.Write(tail[max(i, 0):])
	if i := bytes.LastIndex(tail, fullReset); i >= 0 {
		p.unsure = false
	}
	clear(tail)
}

// keyframeDue reports whether a keyframe should stand before the next frame.
func (p *picture) keyframeDue() bool {
	return p.since >= keyframeEvery && p.screen != nil && !p.unsure && !p.lost
}

// snapshot is the screen as output that redraws it; empty if that is not known.
func (p *picture) snapshot() (out []byte) {
	p.since = 0
	p.guarded(func() { out = p.screen.Snapshot() })
	return out
}

// now is what a follower is shown at first, even if it is not sure.
func (p *picture) now() (columns, rows int, out []byte) {
	p.guarded(func() {
		p.catchUp()
		columns, rows = p.screen.Size()
		out = p.screen.Snapshot()
	})
	return columns, rows, out
}
