package screen

const (
	zwj = 0x200d
	// emojiStyle (variation selector 16) asks for a symbol's coloured form.
	emojiStyle = 0xfe0f
)

// printASCII puts printable ASCII characters at the cursor.
func (s *Screen) printASCII(b []byte) {
	if s.charsets[s.shift] == '0' {
		for _, c := range b {
			s.print(rune(c))
		}
		return
	}
	glyphFg, glyphBg := s.pen.fg, s.pen.bg
	s.last = rune(b[len(b)-1])
	for len(b) > 0 {
		if s.pending {
			s.wrap()
		}
		n := min(len(b), s.columns-s.x)
		if s.modes&modeWrap == 0 && n < len(b) {
			// All that follows is written over the last column, one by one.
			n = max(n-1, 0)
			if n == 0 {
				b = b[len(b)-1:]
				n = 1
			}
		}
		r := s.row()
		if s.modes&modeInsert != 0 {
			r.insert(s.x, n, s.blank())
		} else {
			r.open(s.x, s.x+n)
		}
		r.stamp = s.stamp
		dst := r.cells[s.x : s.x+n]
		for i, c := range b[:n] {
			dst[i] = cell{uint32(c), glyphFg, glyphBg}
		}
		b = b[n:]
		s.lastX = s.x + n - 1
		s.advance(n)
	}
}

// advance moves the cursor over what was just written.
func (s *Screen) advance(n int) {
	s.x += n
	if s.x >= s.columns {
		s.x = s.columns - 1
		s.pending = s.modes&modeWrap != 0
	}
}

// wrap carries the cursor to the next row, which continues the text of this one.
func (s *Screen) wrap() {
	s.pending = false
	from := s.grid.order[s.y]
	s.x = 0
	moved := s.y != s.rows-1 || s.y == s.bottom
	s.index()
	if moved && s.y > 0 && s.grid.order[s.y-1] == from {
		s.grid.row(s.y - 1).wrapped = true
	}
}

// index moves the cursor down and scrolls at the bottom of the region.
func (s *Screen) index() {
	if s.y == s.bottom {
		s.tellScrolled(s.top, 1)
		s.grid.scrollUp(s.top, s.bottom, 1, s.blank())
	} else if s.y < s.rows-1 {
		s.y++
	}
}

// print puts one character at the cursor or joins it to the one before.
func (s *Screen) print(r rune) {
	if r < 0x80 && s.charsets[s.shift] == '0' {
		r = decGraphics(r)
	}
	width := Width(r)
	if width <= 0 {
		if width == 0 {
			s.combine(r)
		}
		return
	}
	if s.last != 0 && r >= 0x2000 && s.joins(r, width) {
		s.grid.row(s.y).addMark(s.lastX, r, s.grid.marksPerRow())
		return
	}
	s.put(r, width)
}

// put writes a character of one or two columns at the cursor.
func (s *Screen) put(r rune, width int) {
	if width > s.columns {
		return // a wide character on a screen of one column
	}
	if s.pending {
		s.wrap()
	}
	if s.x+width > s.columns {
		if s.modes&modeWrap == 0 {
			return
		}
		s.wrap()
	}
	line := s.row()
	if s.modes&modeInsert != 0 {
		line.insert(s.x, width, s.blank())
	} else {
		line.open(s.x, s.x+width)
	}
	c := cell{uint32(r), s.pen.fg, s.pen.bg}
	if width == 2 {
		c.glyph |= flagWide
		line.cells[s.x+1] = cell{flagRest, s.pen.fg, s.pen.bg}
	}
	line.cells[s.x] = c
	line.stamp = s.stamp
	s.last, s.lastX = r, s.x
	s.advance(width)
}

// joins reports whether r becomes a part of the emoji that was just printed.
func (s *Screen) joins(r rune, width int) bool {
	if !isEmoji(r, width) {
		return false
	}
	line := s.row()
	if r >= 0x1f3fb && r <= 0x1f3ff {
		base := rune(line.at(s.lastX).glyph & runeMask)
		if isEmoji(base, Width(base)) {
			return true
		}
	}
	return line.lastMark(s.lastX) == zwj
}

// combine adds a character without a width to the one before the cursor.
func (s *Screen) combine(r rune) {
	line := s.row()
	x := s.lastX
	if s.last == 0 {
		x = s.x - 1
		if x < 0 {
			return
		}
		if line.at(x).glyph&flagRest != 0 {
			x--
		}
	}
	base := line.at(x)
	widen := r == emojiStyle && base.glyph&flagWide == 0 && hasEmojiStyle(rune(base.glyph&runeMask))
	// Only what was just printed can still grow, and there must be a column for
	// it. Otherwise the symbol stays as it is.
	if widen && (s.last == 0 || s.x != x+1) {
		return
	}
	if !line.addMark(x, r, s.grid.marksPerRow()) || !widen {
		return
	}
	if s.modes&modeInsert != 0 {
		line.insert(x+1, 1, s.blank())
	} else {
		line.open(x+1, x+2)
	}
	line.cells[x].glyph |= flagWide
	line.cells[x+1] = cell{flagRest, base.fg, base.bg}
	s.advance(1)
}

// repeat is REP: the character that was just printed n times more. The count is
// clamped to the length of a row, which no program's own use exceeds.
func (s *Screen) repeat(n int) {
	if s.last == 0 {
		return
	}
	r, width := s.last, Width(s.last)
	for range min(n, s.columns) {
		s.put(r, width)
	}
}

// decGraphics is the character of the DEC special graphics set.
func decGraphics(r rune) rune {
	if r < 0x5f || r > 0x7e {
		return r
	}
	return [...]rune{
		' ', '◆', '▒', '␉', '␌', '␍', '␊', '°', '±', '␤', '␋', '┘', '┐', '┌', '└', '┼',
		'⎺', '⎻', '─', '⎼', '⎽', '├', '┤', '┴', '┬', '│', '≤', '≥', 'π', '≠', '£', '·',
	}[r-0x5f]
}
