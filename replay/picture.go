package replay

import (
	"bytes"
	"io"
	"unicode/utf8"
)

// pictureWriter passes on to an auditor's terminal what changes its picture,
// and nothing else. A recording is what a data server chose to send, so it may
// be hostile: sequences that make a terminal answer (the answer would be typed
// into whatever reads the keys), set the clipboard or the title, or report
// state are left out. Invalid UTF-8 becomes U+FFFD.
type pictureWriter struct {
	scanner scanner
	out     io.Writer
	buffer  []byte
	bare    bool // no terminal was recorded: a line feed alone begins a line
}

func newPictureWriter(w io.Writer, bareLineFeeds bool) *pictureWriter {
	p := &pictureWriter{out: w, bare: bareLineFeeds}
	p.scanner.onText = func(r rune, _ []byte) { p.buffer = utf8.AppendRune(p.buffer, r) }
	p.scanner.onC0 = p.c0
	p.scanner.onEscape = p.escape
	return p
}

func (p *pictureWriter) c0(c byte) {
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

// escape passes on sequences that only draw. A list of what is let through
// stays right when terminals learn new ways to answer.
func (p *pictureWriter) escape(s []byte) {
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

func (p *pictureWriter) write(data []byte) error {
	p.scanner.write(data)
	if len(p.buffer) == 0 {
		return nil
	}
	_, err := p.out.Write(p.buffer)
	p.buffer = p.buffer[:0]
	return err
}
