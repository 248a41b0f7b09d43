package replay

import (
	"io"
	"time"

	"sallyport/recorder"
	"sallyport/recorder/trec"
)

// textExporter writes the lines of a session as text. The lines of a
// full-screen program stand between two lines in square brackets.
type textExporter struct {
	renderer *renderer
	out      io.Writer
	full     bool
}

const (
	fullBegins = "[full-screen program]\n"
	fullEnds   = "[end of full-screen program]\n"
)

func newTextExporter(w io.Writer, m recorder.Meta) *textExporter {
	x := &textExporter{out: w}
	x.renderer = newRenderer(m, x.line)
	return x
}

func (x *textExporter) line(l Line) error {
	if err := x.bracket(l.Screen); err != nil {
		return err
	}
	_, err := io.WriteString(x.out, l.Text+"\n")
	return err
}

func (x *textExporter) bracket(full bool) error {
	if full == x.full {
		return nil
	}
	x.full = full
	text := fullEnds
	if full {
		text = fullBegins
	}
	_, err := io.WriteString(x.out, text)
	return err
}

func (x *textExporter) frame(e trec.Entry) error { return x.renderer.frame(e) }

func (x *textExporter) finish(time.Time) error {
	if err := x.renderer.finish(); err != nil {
		return err
	}
	return x.bracket(false)
}

func (x *textExporter) leftOut() int64 {
	if x.renderer.model == nil {
		return 0
	}
	return x.renderer.model.LeftOut()
}
