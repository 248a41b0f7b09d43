// Package picture shows foreign terminal output to a person without letting it
// do anything else to the person's terminal. Recordings and live sessions are
// what a data server chose to send, so they may be hostile.
//
// It refuses what it does not know to draw: a list of what is let through stays
// right when terminals learn new ways to answer.
package picture

import (
	"bytes"
	"io"
	"unicode/utf8"
)

// Writer passes on to a terminal what changes its picture, and nothing else:
// sequences that make a terminal answer (the answer would be typed into
// whatever reads the keys), set the clipboard or the title, or report state
// are left out. Invalid UTF-8 becomes U+FFFD.
type Writer struct {
	scanner Scanner
	out     io.Writer
	buffer  []byte
	bare    bool
}

// New returns a Writer to w. With bareLineFeeds, for what was not sent to a
// terminal, a line feed alone begins a line.
func New(w io.Writer, bareLineFeeds bool) *Writer {
	p := &Writer{out: w, bare: bareLineFeeds}
	p.scanner.Text = func(r rune) { p.buffer = utf8.AppendRune(p.buffer, r) }
	p.scanner.Control = p.c0
	p.scanner.Sequence = p.escape
	return p
}

func (p *Writer) c0(c byte) {
	switch c {
	case '\n':
		if p.bare {
			p.buffer = append(p.buffer, '\r')
		}
		p.buffer = append(p.buffer, c)
	case '\r', '\t', '\b', 0x0b, 0x0c, 0x0e, 0x0f:
		p.buffer = append(p.buffer, c)
	}
}

// escape passes on sequences that only draw.
func (p *Writer) escape(s []byte) {
	final := s[len(s)-1]
	if s[1] == '[' {
		parameters := s[2 : len(s)-1]
		switch {
		case len(s) == 2:
			return
		case bytes.IndexByte([]byte("@ABCDEFGHIJKLMPSTXZ`abdefghlmrsu"), final) < 0:
			return
		case bytes.ContainsAny(parameters, "<=> !\"#$%&'()*+,-./"): // private forms and intermediates
			return
		case bytes.ContainsRune(parameters, '?') && bytes.IndexByte([]byte("hlJK"), final) < 0:
			return
		case final == 'h' || final == 'l':
			if !drawingModes(parameters) {
				return
			}
		}
		p.buffer = append(p.buffer, s...)
		return
	}
	if len(s) == 2 && bytes.IndexByte([]byte("78DEHM=>"), final) >= 0 ||
		len(s) == 3 && bytes.IndexByte([]byte("()*+"), s[1]) >= 0 {
		p.buffer = append(p.buffer, s...)
	}
}

// drawingModes keeps modes that make the terminal send by itself (mouse,
// focus, bracketed paste) and those that lock its keyboard away.
func drawingModes(parameters []byte) bool {
	if len(parameters) == 0 || parameters[0] != '?' {
		return string(parameters) == "4" // insert mode
	}
	for mode := range bytes.SplitSeq(parameters[1:], []byte(";")) {
		switch string(mode) {
		case "1", "5", "6", "7", "12", "25", "47", "1047", "1048", "1049", "2026":
		default:
			return false
		}
	}
	return true
}

// Write takes all of data; what is harmless of it goes out in one write.
func (p *Writer) Write(data []byte) (int, error) {
	p.scanner.Write(data)
	if len(p.buffer) == 0 {
		return len(data), nil
	}
	_, err := p.out.Write(p.buffer)
	p.buffer = p.buffer[:0]
	return len(data), err
}

// Reset is what a person's terminal is sent after the picture: it undoes what
// may have been left switched on.
const Reset = "\x1b(B\x1b[0m\x1b[r\x1b[?1049l\x1b[?25h\x1b[?7h\x1b[?5l\x1b[?6l\x1b[?1l\x1b>\x1b[4l"

const (
	// Clear resets and clears the screen, before a picture is drawn.
	Clear = Reset + "\x1b[2J\x1b[H"
	// Leave resets and puts the cursor below all that was drawn.
	Leave = Reset + "\x1b[999;1H\r\n"
)

// Title sets the title of a person's window. The text is the caller's own; it
// must not come from what is shown.
func Title(text string) string { return "\x1b]2;" + text + "\x1b\\" }
