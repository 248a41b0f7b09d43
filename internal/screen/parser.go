package screen

import (
	"slices"
	"strconv"
	"unicode/utf8"
)

// state is where in a sequence the input stands.
type state uint8

const (
	ground       state = iota
	escape             // after ESC
	escapeMiddle       // after ESC and an intermediate byte
	control            // inside CSI
	oscString          // inside an operating system command
	otherString        // inside DCS, SOS, PM, APC or a title of screen: swallowed
	oscEscape          // after an ESC inside an operating system command
	otherEscape        // after an ESC inside another string
)

const (
	maxParameters = 32
	maxParameter  = 65535
	maxOSC        = 64 << 10
	maxTitle      = 1024 // bytes
)

type parser struct {
	state state

	// Of an escape or control sequence.
	private      byte // '<', '=', '>' or '?'
	intermediate byte
	broken       bool // bytes out of order: swallow it to its end
	values       [maxParameters]uint16
	count        int    // parameters, with the one being read
	given        uint32 // bit i: parameter i has digits
	colon        uint32 // bit i: parameter i was parted from the one before by a colon
	full         bool   // further parameters are dropped

	data     []byte // of an operating system command
	overlong bool

	// Of a character begun: its bytes, how many are to come, and the range that
	// the next one must lie in (Unicode, table 3-7).
	character       [4]byte
	have, need      int
	lowest, highest byte
}

func (p *parser) begin(st state) {
	p.state, p.private, p.intermediate, p.broken = st, 0, 0, false
	p.count, p.given, p.colon, p.full = 0, 0, 0, false
}

// parameter is the i-th one, or otherwise when it is missing or 0.
func (p *parser) parameter(i, otherwise int) int {
	if i >= p.count || p.values[i] == 0 {
		return otherwise
	}
	return int(p.values[i])
}

// Write lets the screen read what a program wrote. It takes everything and
// never returns an error.
func (s *Screen) Write(b []byte) (int, error) {
	if s.gone == nil {
		s.read(b)
		return len(b), nil
	}
	for part := range slices.Chunk(b, goneStep) {
		s.goneLeft = min(s.goneLeft+goneCells*len(part), maxGoneCells)
		s.read(part)
	}
	return len(b), nil
}

func (s *Screen) read(b []byte) {
	p := &s.parser
	for i := 0; i < len(b); {
		switch p.state {
		case ground:
			i += s.readGround(b[i:])
		case escape, escapeMiddle:
			s.readEscape(b[i])
			i++
		case control:
			s.readControl(b[i])
			i++
		case oscString:
			i += s.readOSC(b[i:])
		case otherString:
			i += s.readOther(b[i:])
		case oscEscape, otherEscape:
			// ESC \ ends the string; any other ESC breaks it off and begins anew.
			if b[i] == '\\' {
				if p.state == oscEscape {
					s.endOSC()
				}
				p.state = ground
				i++
			} else {
				p.dropData()
				p.begin(escape)
			}
		}
	}
}

// readGround prints characters and obeys single controls. It returns how many
// bytes it took, at least one.
func (s *Screen) readGround(b []byte) int {
	p := &s.parser
	c := b[0]
	switch {
	case p.have > 0:
		return s.readContinuation(c)
	case c >= 0x20 && c < 0x7f:
		n := 1
		for n < len(b) && b[n]-0x20 < 0x5f {
			n++
		}
		s.printASCII(b[:n])
		return n
	case c == 0x1b:
		p.begin(escape)
		return 1
	case c < 0x80:
		s.execute(c)
		return 1
	}
	if r, n := utf8.DecodeRune(b); n > 1 {
		s.print(r)
		return n
	}
	p.lowest, p.highest = 0x80, 0xbf
	switch {
	case c >= 0xc2 && c <= 0xdf:
		p.need = 1
	case c >= 0xe0 && c <= 0xef:
		p.need = 2
		if c == 0xe0 {
			p.lowest = 0xa0
		} else if c == 0xed {
			p.highest = 0x9f
		}
	case c >= 0xf0 && c <= 0xf4:
		p.need = 3
		if c == 0xf0 {
			p.lowest = 0x90
		} else if c == 0xf4 {
			p.highest = 0x8f
		}
	default:
		s.print(utf8.RuneError)
		return 1
	}
	p.character[0], p.have = c, 1
	return 1
}

// readContinuation takes a further byte of a character; a byte that cannot
// follow ends it as U+FFFD and is read again (0 bytes taken).
func (s *Screen) readContinuation(c byte) int {
	p := &s.parser
	if c < p.lowest || c > p.highest {
		p.have = 0
		s.print(utf8.RuneError)
		return 0
	}
	p.character[p.have] = c
	p.have++
	p.need--
	p.lowest, p.highest = 0x80, 0xbf
	if p.need == 0 {
		r, _ := utf8.DecodeRune(p.character[:p.have])
		p.have = 0
		s.print(r)
	}
	return 1
}

// readEscape reads a byte after ESC.
func (s *Screen) readEscape(c byte) {
	p := &s.parser
	switch {
	case c == 0x1b:
		p.begin(escape)
	case c == 0x18 || c == 0x1a:
		p.state = ground
	case c < 0x20:
		s.execute(c)
	case c < 0x30:
		if p.state == escapeMiddle {
			p.broken = true
		}
		p.intermediate, p.state = c, escapeMiddle
	case c >= 0x7f:
		if c > 0x7f {
			p.state = ground
		}
	case p.state == escape && c == '[':
		p.begin(control)
	case p.state == escape && c == ']':
		p.state, p.overlong = oscString, false
		p.data = p.data[:0]
	case p.state == escape && (c == 'P' || c == 'X' || c == '^' || c == '_' || c == 'k'):
		p.state = otherString
	default:
		p.state = ground
		if !p.broken {
			s.obeyEscape(p.intermediate, c)
		}
	}
}

// readControl reads a byte of a control sequence.
func (s *Screen) readControl(c byte) {
	p := &s.parser
	switch {
	case c >= '0' && c <= '9':
		if p.intermediate != 0 {
			p.broken = true
		}
		p.digit(c - '0')
	case c == ';' || c == ':':
		if p.intermediate != 0 {
			p.broken = true
		}
		p.separator(c == ':')
	case c >= '<' && c <= '?':
		if p.count > 0 || p.private != 0 || p.intermediate != 0 {
			p.broken = true
		}
		p.private = c
	case c >= 0x40 && c < 0x7f:
		p.state = ground
		if !p.broken {
			s.obeyControl(c)
		}
	case c >= 0x20 && c < 0x30:
		if p.intermediate != 0 {
			p.broken = true
		}
		p.intermediate = c
	case c == 0x1b:
		p.begin(escape)
	case c == 0x18 || c == 0x1a:
		p.state = ground
	case c < 0x20:
		s.execute(c)
	case c > 0x7f:
		p.broken = true
	}
}

func (p *parser) digit(d byte) {
	if p.full {
		return
	}
	if p.count == 0 {
		p.count, p.values[0] = 1, 0
	}
	i := p.count - 1
	p.given |= 1 << i
	p.values[i] = uint16(min(int(p.values[i])*10+int(d), maxParameter))
}

func (p *parser) separator(colon bool) {
	if p.count == 0 {
		p.count, p.values[0] = 1, 0
	}
	if p.count == maxParameters {
		p.full = true
		return
	}
	p.values[p.count] = 0
	if colon {
		p.colon |= 1 << p.count
	}
	p.count++
}

// readOSC collects an operating system command. Only BEL, ESC \ and the cancel
// controls end it: a byte 0x9C is a part of characters such as U+271C.
func (s *Screen) readOSC(b []byte) int {
	p := &s.parser
	n := 0
	for n < len(b) && b[n] >= 0x20 {
		n++
	}
	if n > 0 {
		if len(p.data)+n > maxOSC {
			p.dropData()
			p.overlong = true
		}
		if !p.overlong {
			p.data = append(p.data, b[:n]...)
		}
		return n
	}
	switch b[0] {
	case 0x07:
		s.endOSC()
		p.state = ground
	case 0x1b:
		p.state = oscEscape
	case 0x18, 0x1a:
		p.dropData()
		p.state = ground
	}
	return 1
}

// readOther swallows a string that has no meaning here.
func (s *Screen) readOther(b []byte) int {
	for i, c := range b {
		switch c {
		case 0x1b:
			s.parser.state = otherEscape
			return i + 1
		case 0x18, 0x1a:
			s.parser.state = ground
			return i + 1
		}
	}
	return len(b)
}

// dropData forgets the string; a large buffer is not kept for the next one.
func (p *parser) dropData() {
	if cap(p.data) > 4096 {
		p.data = nil
	}
	p.data = p.data[:0]
}

// endOSC obeys a finished operating system command.
func (s *Screen) endOSC() {
	p := &s.parser
	defer p.dropData()
	if p.overlong {
		return
	}
	number, digits := 0, 0
	for digits < len(p.data) && p.data[digits]-'0' < 10 && digits < 6 {
		number = number*10 + int(p.data[digits]-'0')
		digits++
	}
	data := p.data[digits:]
	if digits == 0 || len(data) > 0 && data[0] != ';' {
		return
	}
	if len(data) > 0 {
		data = data[1:]
	}
	switch number {
	case 0, 2:
		s.title = cleanTitle(data)
	case 1: // the icon's name
	default:
		if s.osc != nil {
			s.osc(number, data)
		}
	}
}

// cleanTitle cuts a title to maxTitle bytes of valid UTF-8 without controls.
func cleanTitle(data []byte) string {
	out := make([]byte, 0, min(len(data), maxTitle))
	for len(data) > 0 {
		r, n := utf8.DecodeRune(data)
		data = data[n:]
		if r < 0x20 || r >= 0x7f && r < 0xa0 {
			continue
		}
		if len(out)+utf8.RuneLen(r) > maxTitle {
			break
		}
		out = utf8.AppendRune(out, r)
	}
	return string(out)
}

// tail appends bytes that bring a fresh parser to this one's state: a sequence
// or character of which the end is still to come.
func (p *parser) tail(out []byte) []byte {
	switch p.state {
	case ground:
		return append(out, p.character[:p.have]...)
	case escape:
		return append(out, 0x1b)
	case escapeMiddle:
		out = append(out, 0x1b, p.intermediate)
		if p.broken {
			out = append(out, p.intermediate)
		}
		return out
	case control:
		return p.tailControl(out)
	case otherString:
		return append(out, 0x1b, 'X')
	case otherEscape:
		return append(out, 0x1b, 'X', 0x1b)
	}
	out = append(out, 0x1b, ']')
	if p.overlong {
		// A command without a number is told to nobody either.
		out = append(out, '!')
	} else {
		out = append(out, p.data...)
	}
	if p.state == oscEscape {
		out = append(out, 0x1b)
	}
	return out
}

func (p *parser) tailControl(out []byte) []byte {
	out = append(out, 0x1b, '[')
	if p.broken {
		return append(out, '0', '?')
	}
	if p.private != 0 {
		out = append(out, p.private)
	}
	for i := range p.count {
		if i > 0 {
			separator := byte(';')
			if p.colon&(1<<i) != 0 {
				separator = ':'
			}
			out = append(out, separator)
		}
		if p.given&(1<<i) != 0 {
			out = strconv.AppendUint(out, uint64(p.values[i]), 10)
		}
	}
	if p.full {
		out = append(out, ';')
	}
	if p.intermediate != 0 {
		out = append(out, p.intermediate)
	}
	return out
}
