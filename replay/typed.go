package replay

import (
	"bytes"
	"errors"
	"io"
	"iter"
	"time"

	"sallyport/recorder/trec"
)

// TypedLines goes through what the person typed, line by line, in constant memory. It has what was
// sent before each Enter, without control sequences, with backspaces applied; what completion or the history of a shell put in
// is not there, but what was typed without being shown is, passwords too. What came in without a terminal is read in the same way. A
// file transfer has none. Frames that no identity opens are passed over; Reader.Sealed counts them.
func TypedLines(r *Reader) iter.Seq2[Line, error] {
	return func(yield func(Line, error) bool) {
		t := &typedLines{emit: func(l Line) error {
			if !yield(l, nil) {
				return errStop
			}
			return nil
		}}
		if err := t.all(r); err != nil && !errors.Is(err, errStop) {
			yield(Line{}, err)
		}
	}
}

// typedLines cuts input into lines.
type typedLines struct {
	emit func(Line) error
	text *textWriter
	rest []byte // of a line of which the writer gave a part
	at   trec.Position
	time time.Duration
}

func (t *typedLines) all(r *Reader) error {
	if r.Meta().Action == actionSFTP {
		return nil
	}
	t.text = newTextWriter(t)
	for {
		e, err := r.Next()
		if errors.Is(err, io.EOF) {
			return t.text.finish()
		}
		if err != nil {
			return err
		}
		if e.Kind != trec.KindInput {
			continue
		}
		t.at, t.time = e.Position, max(e.Time.Sub(r.Meta().Start), t.time)
		// Enter is a carriage return, and the key that takes back sends DEL.
		data := bytes.ReplaceAll(bytes.ReplaceAll(e.Data, []byte{'\r'}, []byte{'\n'}), []byte{0x7f}, []byte{'\b'})
		if err := t.text.write(data); err != nil {
			return err
		}
	}
}

// Write takes pieces of lines from the writer, of which each line ends with a line feed.
func (t *typedLines) Write(text []byte) (int, error) {
	t.rest = append(t.rest, text...)
	if !bytes.HasSuffix(t.rest, []byte("\n")) && len(t.rest) < maxLineBytes {
		return len(text), nil
	}
	line := string(bytes.TrimSuffix(t.rest, []byte("\n")))
	t.rest = t.rest[:0]
	if line == "" {
		return len(text), nil
	}
	return len(text), t.emit(Line{Position: t.at, Offset: t.time, Text: line})
}
