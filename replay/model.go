package replay

import (
	"bytes"

	"sallyport/internal/screen"
	"sallyport/recorder"
	"sallyport/recorder/trec"
)

// The size of sessions without a terminal, and of those that told none.
const (
	usualColumns = 80
	usualRows    = 24
)

// windowOf is the size of the terminal at the start of a session.
func windowOf(m recorder.Meta) (columns, rows int) {
	if m.Columns == 0 || m.Rows == 0 {
		return usualColumns, usualRows
	}
	return int(min(m.Columns, screen.MaxColumns)), int(min(m.Rows, screen.MaxRows))
}

// feed lets a model of the screen take a frame.
func feed(s *screen.Screen, m recorder.Meta, e trec.Entry) {
	switch {
	case e.Kind == trec.KindResize:
		if w, err := recorder.DecodeResize(e.Data); err == nil && w.Columns > 0 && w.Rows > 0 {
			s.Resize(int(min(w.Columns, screen.MaxColumns)), int(min(w.Rows, screen.MaxRows)))
		}
	case !shown(e.Kind):
	case m.PTY:
		_, _ = s.Write(e.Data) // a model takes everything
	default: // no terminal turned the line feeds into new lines
		_, _ = s.Write(bytes.ReplaceAll(e.Data, []byte("\n"), []byte("\r\n")))
	}
}
