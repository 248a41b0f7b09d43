package replay

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"time"

	"sallyport/recorder/trec"
)

// Format names what Export writes.
type Format string

// The formats of Export.
const (
	FormatAsciicast  Format = "asciicast"    // version 3
	FormatAsciicast2 Format = "asciicast-v2" // for older players
	FormatText       Format = "text"         // the lines that the person saw, see Lines
	FormatJSONLines  Format = "jsonl"        // every frame, data in base64: nothing is lost
	FormatRaw        Format = "raw"          // the exact bytes of standard output
)

// Formats lists the formats, for help and completion.
func Formats() []Format {
	return []Format{FormatAsciicast, FormatAsciicast2, FormatText, FormatJSONLines, FormatRaw}
}

// ExportOptions say what Export writes.
type ExportOptions struct {
	Format Format
	// Input asks for what the client sent, too (asciicast and JSON lines).
	// What was typed in a terminal needs the strict identity besides.
	Input bool
}

// ExportResult says what Export wrote.
type ExportResult struct {
	Frames   uint64 // read
	Sealed   uint64 // typed frames that could not be opened
	Replaced int64  // bytes that an asciicast could not hold and that stand as U+FFFD
	LeftOut  int64  // rows that came faster than text may be written, see Lines
	Ending   Ending
}

// exporter is one format.
type exporter interface {
	frame(trec.Entry) error
	finish(at time.Time) error
}

// Export writes a session in a format of others, in constant memory.
func Export(w io.Writer, r *Reader, o ExportOptions) (ExportResult, error) {
	out := bufio.NewWriterSize(w, 64<<10)
	x, err := newExporter(out, r, o)
	if err != nil {
		return ExportResult{}, err
	}
	var result ExportResult
	last := r.Meta().Start
	for {
		e, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return result, errors.Join(err, out.Flush())
		}
		result.Frames++
		last = e.Time
		if err := x.frame(e); err != nil {
			return result, err
		}
	}
	result.Sealed, result.Ending = r.Sealed(), r.Ending()
	if err := x.finish(last); err != nil {
		return result, err
	}
	switch x := x.(type) {
	case *castWriter:
		result.Replaced = x.replaced
	case *textExporter:
		result.LeftOut = x.leftOut()
	}
	return result, out.Flush()
}

func newExporter(w io.Writer, r *Reader, o ExportOptions) (exporter, error) {
	switch o.Format {
	case FormatAsciicast:
		return newCastWriter(w, 3, r.Meta(), o.Input)
	case FormatAsciicast2:
		return newCastWriter(w, 2, r.Meta(), o.Input)
	case FormatText:
		return newTextExporter(w, r.Meta()), nil
	case FormatJSONLines:
		return newLines(w, r, o.Input)
	case FormatRaw:
		return rawExporter{w}, nil
	}
	return nil, fmt.Errorf("there is no export format %q", string(o.Format))
}

type rawExporter struct{ w io.Writer }

func (x rawExporter) frame(e trec.Entry) error {
	if e.Kind != trec.KindOutput {
		return nil
	}
	_, err := x.w.Write(e.Data)
	return err
}

func (rawExporter) finish(time.Time) error { return nil }

// linesExporter writes a description, then a line for each frame, then the end.
type linesExporter struct {
	w     io.Writer
	r     *Reader
	input bool
}

type jsonFrame struct {
	Position trec.Position `json:"position"`
	Time     time.Time     `json:"time"`
	Kind     string        `json:"kind"`
	Data     []byte        `json:"data"` // base64 in JSON
}

func newLines(w io.Writer, r *Reader, input bool) (exporter, error) {
	x := linesExporter{w, r, input}
	return x, x.line(map[string]any{"header": r.Header(), "meta": r.Meta()})
}

func (x linesExporter) line(v any) error {
	text, err := marshal(v)
	if err != nil {
		return err
	}
	_, err = x.w.Write(text)
	return err
}

func (x linesExporter) frame(e trec.Entry) error {
	if e.Kind == trec.KindInput && !x.input {
		return nil
	}
	return x.line(jsonFrame{e.Position, e.Time, string(rune(e.Kind)), e.Data})
}

func (x linesExporter) finish(time.Time) error {
	return x.line(struct {
		Ending Ending      `json:"ending"`
		End    *trec.Facts `json:"end,omitempty"`
		Sealed uint64      `json:"sealed_frames"`
	}{x.r.Ending(), x.r.End(), x.r.Sealed()})
}
