package screen

// mode is a set of the switches that programs turn.
type mode uint32

const (
	modeInsert     mode = 1 << iota // IRM
	modeNewline                     // LNM
	modeWrap                        // DECAWM
	modeOrigin                      // DECOM
	modeCursor                      // DECTCEM
	modeReverse                     // DECSCNM
	modeCursorKeys                  // DECCKM
	modeKeypad                      // DECKPAM
	modePaste                       // bracketed paste
	modeFocus
	modeAlternateScroll
	modeMouseX10
	modeMouseButtons
	modeMouseDrag
	modeMouseAll
	modeMouseUTF8
	modeMouseSGR
	modeMouseURXVT
)

// privateMode is the switch of a DEC private mode that needs no further act.
func privateMode(number int) mode {
	switch number {
	case 1:
		return modeCursorKeys
	case 5:
		return modeReverse
	case 9:
		return modeMouseX10
	case 25:
		return modeCursor
	case 66:
		return modeKeypad
	case 1000:
		return modeMouseButtons
	case 1002:
		return modeMouseDrag
	case 1003:
		return modeMouseAll
	case 1004:
		return modeFocus
	case 1005:
		return modeMouseUTF8
	case 1006:
		return modeMouseSGR
	case 1007:
		return modeAlternateScroll
	case 1015:
		return modeMouseURXVT
	case 2004:
		return modePaste
	}
	return 0
}

func (s *Screen) setMode(m mode, on bool) {
	if on {
		s.modes |= m
	} else {
		s.modes &^= m
	}
}

// execute obeys a single control.
func (s *Screen) execute(c byte) {
	switch c {
	case 0x08:
		s.moved()
		s.x = max(s.x-1, 0)
	case 0x09:
		s.forwardTabs(1)
	case 0x0a, 0x0b, 0x0c:
		s.moved()
		s.index()
		if s.modes&modeNewline != 0 {
			s.x = 0
		}
	case 0x0d:
		s.moved()
		s.x = 0
	case 0x0e:
		s.shift = 1
	case 0x0f:
		s.shift = 0
	}
}

// obeyEscape obeys ESC with an intermediate byte (0 for none) and a final one.
func (s *Screen) obeyEscape(intermediate, c byte) {
	switch intermediate {
	case 0:
	case '(', ')':
		if c != '0' {
			c = 'B' // national sets are not modelled
		}
		s.charsets[intermediate-'('] = c
		return
	case '#':
		if c == '8' { // DECALN
			s.top, s.bottom = 0, s.rows-1
			s.grid.clearRows(0, s.rows, cell{glyph: 'E'})
			s.place(0, 0)
		}
		return
	default:
		return
	}
	switch c {
	case '7':
		s.saveCursor()
	case '8':
		s.restoreCursor()
	case 'D', 'E':
		s.moved()
		s.index()
		if c == 'E' {
			s.x = 0
		}
	case 'H':
		s.setTab(s.x, true)
	case 'M':
		s.moved()
		if s.y == s.top {
			s.grid.scrollDown(s.top, s.bottom, 1, s.blank())
		} else if s.y > 0 {
			s.y--
		}
	case '=':
		s.modes |= modeKeypad
	case '>':
		s.modes &^= modeKeypad
	case 'c':
		s.reset()
	}
}

// obeyControl obeys a control sequence with the final byte c.
func (s *Screen) obeyControl(c byte) {
	p := &s.parser
	switch {
	case p.private == 0 && p.intermediate == 0:
		if !s.obeyMove(c) {
			s.obeyEdit(c)
		}
	case p.private == '?' && p.intermediate == 0:
		switch c {
		case 'h', 'l':
			for i := range p.count {
				s.setPrivate(int(p.values[i]), c == 'h')
			}
		case 'J':
			s.eraseDisplay(p.parameter(0, 0))
		case 'K':
			s.eraseLine(p.parameter(0, 0))
		}
	case p.private == 0 && p.intermediate == '!' && c == 'p':
		s.softReset()
	case p.private == 0 && p.intermediate == ' ' && c == 'q':
		if style := p.parameter(0, 0); style <= 6 {
			s.cursorStyle = style
		}
	}
}

// obeyMove obeys the sequences that move the cursor and reports whether it was one.
func (s *Screen) obeyMove(c byte) bool {
	p := &s.parser
	n := p.parameter(0, 1)
	switch c {
	case 'A':
		s.up(n)
	case 'B', 'e':
		s.down(n)
	case 'C', 'a':
		s.place(s.x+n, s.y)
	case 'D':
		s.place(s.x-n, s.y)
	case 'E':
		s.down(n)
		s.x = 0
	case 'F':
		s.up(n)
		s.x = 0
	case 'G', '`':
		s.place(n-1, s.y)
	case 'H', 'f':
		s.address(p.parameter(1, 1)-1, n-1)
	case 'I':
		s.forwardTabs(n)
	case 'Z':
		s.backwardTabs(n)
	case 'd':
		s.address(s.x, n-1)
	case 's':
		s.saveCursor()
	case 'u':
		s.restoreCursor()
	default:
		return false
	}
	return true
}

// obeyEdit obeys the other sequences without a prefix.
func (s *Screen) obeyEdit(c byte) {
	p := &s.parser
	n := p.parameter(0, 1)
	switch c {
	case 'm':
		s.selectGraphicRendition()
	case 'J':
		s.eraseDisplay(p.parameter(0, 0))
	case 'K':
		s.eraseLine(p.parameter(0, 0))
	case 'X':
		s.moved()
		s.row().erase(s.x, min(s.x+n, s.columns), s.blank())
	case '@':
		s.moved()
		s.row().insert(s.x, n, s.blank())
	case 'P':
		s.moved()
		s.row().remove(s.x, n, s.blank())
	case 'L', 'M':
		s.moved()
		if s.y < s.top || s.y > s.bottom {
			return
		}
		s.x = 0
		if c == 'L' {
			s.grid.scrollDown(s.y, s.bottom, n, s.blank())
		} else {
			s.grid.scrollUp(s.y, s.bottom, n, s.blank())
		}
	case 'S':
		s.moved()
		s.tellScrolled(s.top, min(n, s.bottom-s.top+1))
		s.grid.scrollUp(s.top, s.bottom, n, s.blank())
	case 'T', '^':
		if p.count <= 1 { // with five parameters it is about the mouse
			s.moved()
			s.grid.scrollDown(s.top, s.bottom, n, s.blank())
		}
	case 'b':
		s.repeat(n)
	case 'g':
		switch p.parameter(0, 0) {
		case 0:
			s.setTab(s.x, false)
		case 3:
			s.tabs = [len(s.tabs)]uint64{}
		}
	case 'h', 'l':
		for i := range p.count {
			switch p.values[i] {
			case 4:
				s.setMode(modeInsert, c == 'h')
			case 20:
				s.setMode(modeNewline, c == 'h')
			}
		}
	case 'r':
		top, bottom := n-1, min(p.parameter(1, s.rows), s.rows)-1
		if top < bottom {
			s.top, s.bottom = top, bottom
			s.address(0, 0)
		}
	}
}

// setPrivate sets or resets a DEC private mode.
func (s *Screen) setPrivate(number int, on bool) {
	switch number {
	case 6:
		s.setMode(modeOrigin, on)
		s.address(0, 0)
	case 7:
		s.setMode(modeWrap, on)
		s.moved()
	case 47, 1047:
		s.alternate(on)
	case 1048:
		if on {
			s.saveCursor()
		} else {
			s.restoreCursor()
		}
	case 1049:
		if on {
			s.saveCursor()
			s.alternate(true)
		} else {
			s.alternate(false)
			s.restoreCursor()
		}
	default:
		s.setMode(privateMode(number), on)
	}
}

// alternate shows the alternate or the main screen. The alternate one begins
// blank and is forgotten when it is left.
func (s *Screen) alternate(on bool) {
	if on == (s.active == 1) {
		return
	}
	s.moved()
	if !on {
		s.tellAll(s.grid, true)
		s.active, s.grid, s.saved[1] = 0, s.screens[0], unsaved
		return
	}
	if s.screens[1] == nil {
		s.screens[1] = newGrid(s.columns, s.rows)
	}
	s.screens[1].clearRows(0, s.rows, s.blank())
	s.active, s.grid = 1, s.screens[1]
}

func (s *Screen) saveCursor() {
	s.saved[s.active] = savedCursor{
		x: s.x, y: s.y, pending: s.pending, pen: s.pen,
		charsets: s.charsets, shift: s.shift, origin: s.modes&modeOrigin != 0,
	}
}

func (s *Screen) restoreCursor() {
	saved := s.saved[s.active]
	s.pen, s.charsets, s.shift = saved.pen, saved.charsets, saved.shift
	s.setMode(modeOrigin, saved.origin)
	s.place(saved.x, saved.y)
	if saved.origin {
		s.y = min(max(s.y, s.top), s.bottom)
	}
	if saved.pending && s.modes&modeWrap != 0 {
		s.pending = true
		s.lastX = s.x
		if s.row().at(s.x).glyph&flagRest != 0 {
			s.lastX--
		}
		s.last = rune(s.row().at(s.lastX).glyph & runeMask)
	}
}

// place moves the cursor to a column and row of the screen.
func (s *Screen) place(x, y int) {
	s.moved()
	s.x, s.y = min(max(x, 0), s.columns-1), min(max(y, 0), s.rows-1)
}

// address moves the cursor to a row counted from the region's top in origin mode.
func (s *Screen) address(x, y int) {
	if s.modes&modeOrigin != 0 {
		y = min(y+s.top, s.bottom)
	}
	s.place(x, y)
}

func (s *Screen) up(n int) {
	limit := 0
	if s.y >= s.top {
		limit = s.top
	}
	s.place(s.x, max(s.y-n, limit))
}

func (s *Screen) down(n int) {
	limit := s.rows - 1
	if s.y <= s.bottom {
		limit = s.bottom
	}
	s.place(s.x, min(s.y+n, limit))
}

func (s *Screen) forwardTabs(n int) {
	s.moved()
	for ; n > 0 && s.x < s.columns-1; n-- {
		s.x++
		for s.x < s.columns-1 && !s.tab(s.x) {
			s.x++
		}
	}
}

func (s *Screen) backwardTabs(n int) {
	s.moved()
	for ; n > 0 && s.x > 0; n-- {
		s.x--
		for s.x > 0 && !s.tab(s.x) {
			s.x--
		}
	}
}

// eraseDisplay is ED. There is no scrollback for parameter 3 to erase.
func (s *Screen) eraseDisplay(what int) {
	with := s.blank()
	switch what {
	case 0:
		if s.x == 0 && s.y == 0 && s.active == 0 {
			s.tellAll(s.grid, false)
		}
		s.eraseLine(0)
		s.grid.clearRows(s.y+1, s.rows, with)
	case 1:
		s.eraseLine(1)
		s.grid.clearRows(0, s.y, with)
	case 2:
		s.moved()
		if s.active == 0 {
			s.tellAll(s.grid, false)
		}
		s.grid.clearRows(0, s.rows, with)
	}
}

// eraseLine is EL.
func (s *Screen) eraseLine(what int) {
	s.moved()
	switch r := s.row(); what {
	case 0:
		r.erase(s.x, s.columns, s.blank())
	case 1:
		r.erase(0, s.x+1, s.blank())
	case 2:
		r.clear(s.blank())
	}
}
