package replay

import (
	"errors"
	"hash/maphash"
	"io"
	"iter"
	"time"
	"unicode/utf8"

	"sallyport/internal/screen"
	"sallyport/recorder"
	"sallyport/recorder/trec"
)

// Line is one line of text as the person saw it.
type Line struct {
	Position trec.Position // of the frame that wrote the end of it
	Offset   time.Duration // of that frame, since the start of the session
	Text     string        // at most 64 KiB of UTF-8, without controls but tabs
	// Screen reports that the line stood on the screen of a full-screen
	// program, such as an editor.
	Screen bool
}

const (
	// maxLineBytes is where a longer line is cut in two.
	maxLineBytes = 64 << 10
	// pictureAge is how long the screen of a full-screen program must have
	// stood for its text to count as seen.
	pictureAge = time.Second
	// maxSeen bounds what is remembered of the picture before.
	maxSeen = 4096
)

// Lines goes through a session line by line, in constant memory.
//
// A session with a terminal is drawn on a model of its screen: a line counts
// when it leaves the screen, or when the session ends, so that a command line
// stands as it was when Enter was pressed, and a progress bar once. Lines that a
// window broke are whole again. Of a full-screen program there are the lines
// of each picture that stood for a second and of the last, each line once. What was overwritten or deleted in its place
// is not there, nor what rushed by without a line feed. Rows of sequences that
// fill whole screens with a few bytes are left out once they exceed 64
// characters for each byte.
//
// Without a terminal the lines are those that were sent, without control
// sequences. A file transfer has none.
//
// The iteration ends with an error if the recording does.
func Lines(r *Reader) iter.Seq2[Line, error] {
	return func(yield func(Line, error) bool) {
		d := newRenderer(r.Meta(), func(l Line) error {
			if !yield(l, nil) {
				return errStop
			}
			return nil
		})
		err := d.all(r)
		if err != nil && !errors.Is(err, errStop) {
			yield(Line{}, err)
		}
	}
}

// errStop ends the drawing when nobody wants the lines any more.
var errStop = errors.New("no more lines are wanted")

// renderer turns frames into lines.
type renderer struct {
	meta  recorder.Meta
	emit  func(Line) error
	err   error // of emit
	model *screen.Screen
	plain *textWriter
	stamp screen.Stamp  // of the frame that is drawn
	shown time.Duration // when the screen changed last
	main  partial
	full  partial // of the full-screen program
	seed  maphash.Seed
	seen  map[uint64]struct{} // lines of the full-screen program that were emitted
}

// partial is the beginning of a line.
type partial struct {
	text  []byte
	stamp screen.Stamp
}

func newRenderer(m recorder.Meta, emit func(Line) error) *renderer {
	d := &renderer{meta: m, emit: emit, seed: maphash.MakeSeed(), seen: map[uint64]struct{}{}}
	if m.PTY {
		d.model = screen.New(windowOf(m))
		d.model.HandleGone(d.gone)
	} else {
		d.plain = newTextWriter(d)
	}
	return d
}

func (d *renderer) all(r *Reader) error {
	for {
		e, err := r.Next()
		if errors.Is(err, io.EOF) {
			return d.finish()
		}
		if err != nil {
			return err
		}
		if err := d.frame(e); err != nil {
			return err
		}
	}
}

func (d *renderer) frame(e trec.Entry) error {
	if d.meta.Action == actionSFTP || !shown(e.Kind) && e.Kind != trec.KindResize {
		return nil
	}
	at := max(e.Time.Sub(d.meta.Start), d.shown)
	if d.model == nil {
		d.stamp = stampOf(e.Position, at)
		if shown(e.Kind) {
			d.keep(d.plain.write(e.Data))
		}
		return d.err
	}
	if d.model.Alternate() && at-d.shown >= pictureAge {
		d.picture()
	}
	d.shown, d.stamp = at, stampOf(e.Position, at)
	d.model.SetStamp(d.stamp)
	feed(d.model, d.meta, e)
	if !d.model.Alternate() {
		clear(d.seen)
	}
	return d.err
}

// keep remembers the first error.
func (d *renderer) keep(err error) {
	if d.err == nil {
		d.err = err
	}
}

// actionSFTP is authz.ActionSFTP: the bytes of such a session are no text.
const actionSFTP = "sftp"

func stampOf(p trec.Position, at time.Duration) screen.Stamp {
	return screen.Stamp{Number: uint64(p), Time: int64(at)}
}

// finish emits what the screen shows at the end.
func (d *renderer) finish() error {
	if d.model == nil {
		d.keep(d.plain.finish())
		d.end(&d.main, false)
		return d.err
	}
	if d.model.Alternate() {
		_, _ = d.model.Write([]byte("\x18\x1b[?47l"))
	}
	_, _ = d.model.Write([]byte("\x18\x1b[2J"))
	d.end(&d.full, true)
	d.end(&d.main, false)
	return d.err
}

// picture emits what a full-screen program shows.
func (d *renderer) picture() {
	_, rows := d.model.Size()
	for y := range rows {
		d.row(&d.full, screen.Gone{Text: d.model.Row(y), Wrapped: d.model.Wrapped(y), Alternate: true, Stamp: d.model.Stamp(y)})
	}
	d.end(&d.full, true)
}

func (d *renderer) gone(g screen.Gone) {
	if g.Alternate {
		d.row(&d.full, g)
		return
	}
	d.row(&d.main, g)
}

// row joins the rows of a line and emits the line with its last row.
func (d *renderer) row(p *partial, g screen.Gone) {
	if g.Stamp != (screen.Stamp{}) {
		p.stamp = g.Stamp
	}
	p.text = append(p.text, g.Text...)
	if g.Wrapped && len(p.text) < maxLineBytes {
		return
	}
	d.flush(p, g.Alternate)
}

// end emits a line whose last row never came.
func (d *renderer) end(p *partial, full bool) {
	if len(p.text) > 0 {
		d.flush(p, full)
	}
}

func (d *renderer) flush(p *partial, full bool) {
	text, stamp := p.text, p.stamp
	p.text, p.stamp = p.text[:0], screen.Stamp{}
	if full && !d.fresh(text) {
		return
	}
	if stamp == (screen.Stamp{}) {
		stamp = d.stamp
	}
	// A row has up to nine runes in each of a thousand columns.
	for d.err == nil {
		cut := len(text)
		if cut > maxLineBytes {
			for cut = maxLineBytes; !utf8.RuneStart(text[cut]); cut-- {
			}
		}
		d.err = d.emit(Line{Position: trec.Position(stamp.Number), Offset: time.Duration(stamp.Time), Text: string(text[:cut]), Screen: full})
		if text = text[cut:]; len(text) == 0 {
			return
		}
	}
}

// fresh reports whether a line of a full-screen program is not blank and has
// not been emitted yet.
func (d *renderer) fresh(text []byte) bool {
	if len(text) == 0 {
		return false
	}
	sum := maphash.Bytes(d.seed, text)
	if _, ok := d.seen[sum]; ok {
		return false
	}
	if len(d.seen) >= maxSeen {
		clear(d.seen)
	}
	d.seen[sum] = struct{}{}
	return true
}

// Write takes the text of a session without a terminal.
func (d *renderer) Write(text []byte) (int, error) {
	for _, c := range text {
		if c == '\n' || len(d.main.text) >= maxLineBytes-utf8.UTFMax && utf8.RuneStart(c) {
			d.main.stamp = d.stamp
			d.flush(&d.main, false)
		}
		if c != '\n' {
			d.main.text = append(d.main.text, c)
		}
	}
	return len(text), d.err
}
