package picture

import "unicode/utf8"

type scanState byte

const (
	ground     scanState = iota
	escape               // after ESC
	control              // inside CSI
	text                 // inside OSC, DCS, SOS, PM or APC, up to its terminator
	textEscape           // after ESC inside those
)

// maxSequence bounds what is kept of a control sequence; longer ones are no
// sequence that any terminal has.
const maxSequence = 256

// Scanner splits a stream of bytes into text, control characters and control
// sequences (ECMA-48, and what xterm adds). It keeps its place between calls, so
// that a sequence cut in two is still one. Strings (OSC and its like) are never
// handed on: they set titles, clipboards and colours, or ask for answers.
//
// Its functions must be set before the first Write.
type Scanner struct {
	state    scanState
	sequence []byte // ESC … as far as it was read
	tail     []byte // start of a UTF-8 character that is not whole yet
	long     bool
	Text     func(r rune)          // printable; U+FFFD for each invalid byte
	Control  func(c byte)          // control character other than ESC
	Sequence func(sequence []byte) // ESC x or CSI … x, whole; valid during the call
}

// Write scans what follows what was written before.
func (s *Scanner) Write(data []byte) {
	if len(s.tail) > 0 {
		data = append(s.tail, data...)
		s.tail = nil
	}
	for len(data) > 0 {
		r, size := utf8.DecodeRune(data)
		if r == utf8.RuneError && size == 1 && !utf8.FullRune(data) {
			s.tail = append([]byte(nil), data...)
			return
		}
		s.step(r)
		data = data[size:]
	}
}

// Finish hands on a character that never became whole.
func (s *Scanner) Finish() {
	for range s.tail {
		s.step(utf8.RuneError)
	}
	s.tail = nil
}

func (s *Scanner) step(r rune) {
	switch {
	case s.state == text || s.state == textEscape:
		s.inText(r)
	case r == 0x1b:
		s.begin(escape)
	case r == 0x18 || r == 0x1a: // CAN and SUB end a sequence
		s.state = ground
	case r < 0x20 || r == 0x7f: // acted upon even inside a sequence
		s.Control(byte(r))
	case r >= 0x80 && r < 0xa0:
		s.c1(r)
	case r >= 0x80: // no part of a sequence
		s.state = ground
		s.Text(r)
	case s.state == escape:
		s.afterEscape(r)
	case s.state == control:
		s.keep(byte(r))
		if r >= 0x40 {
			s.emit()
		}
	default:
		s.Text(r)
	}
}

func (s *Scanner) begin(state scanState) {
	s.state, s.long = state, false
	s.sequence = append(s.sequence[:0], 0x1b)
	if state == control {
		s.sequence = append(s.sequence, '[')
	}
}

func (s *Scanner) keep(c byte) {
	if len(s.sequence) >= maxSequence {
		s.long = true
		return
	}
	s.sequence = append(s.sequence, c)
}

func (s *Scanner) emit() {
	s.state = ground
	if !s.long {
		s.Sequence(s.sequence)
	}
}

func (s *Scanner) afterEscape(r rune) {
	if r >= 0x80 {
		s.state = ground
		return
	}
	s.keep(byte(r))
	switch {
	case r == '[' && len(s.sequence) == 2:
		s.state = control
	case len(s.sequence) == 2 && (r == ']' || r == 'P' || r == 'X' || r == '^' || r == '_'):
		s.state = text
	case r >= 0x20 && r < 0x30: // intermediate, e.g. ESC ( B
	default:
		s.emit()
	}
}

// c1 takes the one-character forms (U+009B for CSI) as their ESC forms.
func (s *Scanner) c1(r rune) {
	switch r {
	case 0x9b:
		s.begin(control)
	case 0x90, 0x98, 0x9d, 0x9e, 0x9f:
		s.state = text
	default:
		s.state = ground
	}
}

func (s *Scanner) inText(r rune) {
	switch {
	case r == 0x07 || r == 0x9c || r == 0x18 || r == 0x1a:
		s.state = ground
	case s.state == textEscape && r == '\\':
		s.state = ground
	case s.state == textEscape && r != 0x1b:
		// ESC ends the string, whatever follows it.
		s.begin(escape)
		s.afterEscape(r)
	case r == 0x1b:
		s.state = textEscape
	}
}
