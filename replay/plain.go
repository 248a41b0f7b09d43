package replay

import (
	"io"
	"unicode/utf8"

	"sallyport/internal/picture"
)

// textWriter turns the output of a session without a terminal into plain text:
// control sequences are removed, a carriage return without a line feed begins
// a new line, and backspaces take back what was on the line. There was no
// screen, so none is drawn, and tabs and long lines stay as they were sent.
type textWriter struct {
	scanner  picture.Scanner
	out      io.Writer
	line     []rune
	returned bool // a carriage return whose line feed may follow
	err      error
}

// maxLine is how much of an unfinished line is kept for backspaces.
const maxLine = 16 << 10

func newTextWriter(w io.Writer) *textWriter {
	t := &textWriter{out: w}
	t.scanner.Text = func(r rune) { t.put(r) }
	t.scanner.Control = t.c0
	t.scanner.Sequence = func([]byte) {}
	return t
}

func (t *textWriter) put(r rune) {
	t.settle()
	t.line = append(t.line, r)
	if len(t.line) >= maxLine {
		t.flush("")
	}
}

func (t *textWriter) c0(c byte) {
	switch c {
	case '\n':
		t.returned = false
		t.flush("\n")
	case '\r':
		t.returned = true
	case '\t':
		t.put('\t')
	case '\b':
		t.settle()
		t.line = t.line[:max(len(t.line)-1, 0)]
	}
}

// settle ends the line of a carriage return that was no line feed's.
func (t *textWriter) settle() {
	if t.returned {
		t.returned = false
		if len(t.line) > 0 {
			t.flush("\n")
		}
	}
}

func (t *textWriter) flush(end string) {
	buffer := make([]byte, 0, len(t.line)+1)
	for _, r := range t.line {
		buffer = utf8.AppendRune(buffer, r)
	}
	t.line = t.line[:0]
	if t.err == nil {
		_, t.err = t.out.Write(append(buffer, end...))
	}
}

func (t *textWriter) write(data []byte) error {
	t.scanner.Write(data)
	return t.err
}

func (t *textWriter) finish() error {
	t.scanner.Finish()
	if len(t.line) > 0 {
		t.flush("\n")
	}
	return t.err
}
