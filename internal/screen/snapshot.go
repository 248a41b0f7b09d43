package screen

import (
	"bytes"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Snapshot is a sequence of terminal output that redraws this screen: both
// screens' content, cursor, saved cursors, colours, modes, tab stops, title and
// the beginning of a sequence that is still to be completed. A Screen of the same
// size to which it is written, new or not, is [Screen.Equal] to this one
// afterwards and stays so with the same further input; a real terminal of that
// size shows the same. It is the keyframe of a recording. It begins with the size
// (XTWINOPS 8), which [Restore] takes from there.
//
// It holds a few KiB for an ordinary screen and in no case more than 100 bytes a
// cell and 64 KiB.
func (s *Screen) Snapshot() []byte {
	d := drawing{s: s, out: make([]byte, 0, 4096)}
	d.sequence('t', 8, s.rows, s.columns)
	d.text("\x1bc\x1b]2;" + s.title + "\x1b\\")
	d.tabs()
	d.grid(s.screens[0])
	d.savedCursor(s.saved[0], s.screens[0])
	if s.active == 1 {
		d.style(style{})
		d.text("\x1b[?47h")
		d.grid(s.screens[1])
		d.savedCursor(s.saved[1], s.screens[1])
	}
	d.modes()
	d.cursor()
	return s.parser.tail(d.out)
}

// Restore makes the Screen of which data is a Snapshot. It takes any bytes: without
// a size at their beginning, the screen is of columns and rows.
func Restore(data []byte, columns, rows int) *Screen {
	if rest, ok := bytes.CutPrefix(data, []byte("\x1b[8;")); ok {
		if end := bytes.IndexByte(rest[:min(len(rest), 16)], 't'); end > 0 {
			height, width, _ := strings.Cut(string(rest[:end]), ";")
			h, errHeight := strconv.Atoi(height)
			w, errWidth := strconv.Atoi(width)
			if errHeight == nil && errWidth == nil {
				columns, rows = w, h
			}
		}
	}
	s := New(columns, rows)
	_, _ = s.Write(data) // takes everything
	return s
}

// drawing is a snapshot in the making and what the terminal's pen is at its end.
type drawing struct {
	s   *Screen
	out []byte
	pen style
}

func (d *drawing) text(t string) { d.out = append(d.out, t...) }

// sequence appends ESC [ with parameters and a final byte.
func (d *drawing) sequence(final byte, parameters ...int) {
	d.out = append(d.out, 0x1b, '[')
	for i, p := range parameters {
		if i > 0 {
			d.out = append(d.out, ';')
		}
		d.out = strconv.AppendInt(d.out, int64(p), 10)
	}
	d.out = append(d.out, final)
}

// tabs sets the tab stops if they are not the usual ones.
func (d *drawing) tabs() {
	usual := true
	for x := range d.s.columns {
		usual = usual && d.s.tab(x) == (x%8 == 0)
	}
	if usual {
		return
	}
	d.text("\x1b[3g")
	for x := range d.s.columns {
		if d.s.tab(x) {
			d.sequence('G', x+1)
			d.text("\x1bH")
		}
	}
	d.text("\r")
}

// grid draws the content of a screen that is blank.
func (d *drawing) grid(g *grid) {
	continued := false
	for y := range g.rows {
		r := g.row(y)
		end, tail := r.content()
		if r.wrapped {
			end = d.s.columns
		}
		if continued && end == 0 {
			end = 1
		}
		if end > 0 || tail != blank {
			if !continued {
				d.sequence('H', y+1)
			}
			d.row(r, end, continued)
			if end < d.s.columns && tail != blank {
				d.style(style{tail.fg, tail.bg})
				d.text("\x1b[K")
			}
		}
		continued = r.wrapped
	}
}

// content is the number of cells before those at the end that are alike and as
// erasing leaves them.
func (r *row) content() (end int, tail cell) {
	end = len(r.cells)
	tail = r.at(end - 1)
	if tail.glyph != ' ' || tail.fg != 0 || tail.bg&^colourMask != 0 {
		return end, blank
	}
	for end > 0 && r.at(end-1) == tail {
		end--
	}
	return end, tail
}

// row draws the first end cells of a row from column 0. If the row continues
// the one before, the first cell must be printed to cause the wrap.
func (d *drawing) row(r *row, end int, continued bool) {
	const worthASkip = 6
	for x := 0; x < end; {
		c := r.at(x)
		if c == blank && (x > 0 || !continued) {
			n := x
			for n < end && r.at(n) == blank {
				n++
			}
			if n-x >= worthASkip && n < end {
				d.sequence('G', n+1)
				x = n
				continue
			}
		}
		// What was drawn as a character of its own must not join the one before.
		switch base := rune(c.glyph & runeMask); {
		case base < 0x2000 || !isEmoji(base, Width(base)):
		case x > 0:
			d.sequence('G', x+1)
		case continued:
			d.text(" \r")
		}
		x += d.cell(r, x)
		// Terminals differ in the width of such characters.
		if c.glyph&flagMarks != 0 && x < end {
			d.sequence('G', x+1)
		}
	}
}

// cell prints the character at x and returns its width.
func (d *drawing) cell(r *row, x int) int {
	c := r.at(x)
	d.style(style{c.fg, c.bg})
	d.out = utf8.AppendRune(d.out, rune(c.glyph&runeMask))
	var marks [marksPerCell]rune
	for _, m := range r.marksOf(marks[:0], x) {
		d.out = utf8.AppendRune(d.out, m)
	}
	if c.glyph&flagWide != 0 {
		return 2
	}
	return 1
}

// savedCursor brings the cursor where it was saved, and saves it.
func (d *drawing) savedCursor(c savedCursor, g *grid) {
	if c == unsaved {
		return
	}
	if c.origin {
		d.text("\x1b[?6h")
	}
	d.sequence('H', c.y+1, c.x+1)
	if c.pending {
		d.printLast(g.row(c.y), c.x)
	}
	d.style(c.pen)
	d.charsets(c.charsets, c.shift)
	d.text("\x1b7")
	d.charsets(unsaved.charsets, 0)
	if c.origin {
		d.text("\x1b[?6l")
	}
}

// printLast prints the character in the last column x again, so that the
// terminal stands before a wrap.
func (d *drawing) printLast(r *row, x int) {
	if r.at(x).glyph&flagRest != 0 {
		x--
		d.sequence('G', x+1)
	}
	d.cell(r, x)
}

// charsets designates G0 and G1 and shifts.
func (d *drawing) charsets(sets [2]byte, shift int) {
	d.out = append(d.out, 0x1b, '(', sets[0], 0x1b, ')', sets[1], 0x0f-byte(shift))
}

// modes sets what is not as after a reset, but for those that would disturb the
// drawing of the cursor.
func (d *drawing) modes() {
	s := d.s
	for _, number := range [...]int{1, 5, 9, 1000, 1002, 1003, 1004, 1005, 1006, 1007, 1015, 2004} {
		if s.modes&privateMode(number) != 0 {
			d.text("\x1b[?" + strconv.Itoa(number) + "h")
		}
	}
	if s.modes&modeKeypad != 0 {
		d.text("\x1b=")
	}
	if s.modes&modeCursor == 0 {
		d.text("\x1b[?25l")
	}
	if s.cursorStyle != 0 {
		d.text("\x1b[" + strconv.Itoa(s.cursorStyle) + " q")
	}
	if s.modes&modeWrap == 0 {
		d.text("\x1b[?7l")
	}
	if s.top != 0 || s.bottom != s.rows-1 {
		d.sequence('r', s.top+1, s.bottom+1)
	}
	if s.modes&modeOrigin != 0 {
		d.text("\x1b[?6h")
	}
}

// cursor brings the cursor to its place, by printing the last character again
// if what follows may refer to it.
func (d *drawing) cursor() {
	s := d.s
	y := s.y + 1
	if s.modes&modeOrigin != 0 {
		y -= s.top
	}
	if s.last != 0 {
		d.sequence('H', y, s.lastX+1)
		d.cell(s.row(), s.lastX)
	} else {
		d.sequence('H', y, s.x+1)
	}
	d.style(s.pen)
	if s.charsets != unsaved.charsets || s.shift != 0 {
		d.charsets(s.charsets, s.shift)
	}
	if s.modes&modeInsert != 0 {
		d.text("\x1b[4h")
	}
	if s.modes&modeNewline != 0 {
		d.text("\x1b[20h")
	}
}

// style changes the pen by the shortest SGR that is easily found.
func (d *drawing) style(to style) {
	if to == d.pen {
		return
	}
	parameters := make([]int, 0, 24)
	from := d.pen
	if (from.fg^to.fg)&^colourMask != 0 || (from.bg^to.bg)&^colourMask != 0 || to == (style{}) {
		parameters = append(parameters, 0)
		from = style{}
		for _, a := range [...]struct{ bit, number int }{
			{attrBold, 1}, {attrFaint, 2}, {attrItalic, 3}, {attrBlink, 5},
			{attrInverse, 7}, {attrInvisible, 8},
		} {
			if to.fg&uint32(a.bit) != 0 {
				parameters = append(parameters, a.number)
			}
		}
		if to.bg&attrStrike != 0 {
			parameters = append(parameters, 9)
		}
		if to.bg&attrOverline != 0 {
			parameters = append(parameters, 53)
		}
	}
	if (from.fg^to.fg)&colourMask != 0 {
		parameters = appendColour(parameters, to.fg, 30)
	}
	if (from.bg^to.bg)&colourMask != 0 {
		parameters = appendColour(parameters, to.bg, 40)
	}
	d.out = append(d.out, 0x1b, '[')
	for i, p := range parameters {
		if i > 0 {
			d.out = append(d.out, ';')
		}
		d.out = strconv.AppendInt(d.out, int64(p), 10)
	}
	// Only the plain underline has a number that every terminal knows.
	if kind := to.bg & underlineMask >> underlineShift; from == (style{}) && kind != 0 {
		if len(parameters) > 0 {
			d.out = append(d.out, ';')
		}
		d.out = append(d.out, '4')
		if kind > 1 {
			d.out = append(d.out, ':', '0'+byte(kind))
		}
	}
	d.out = append(d.out, 'm')
	d.pen = to
}

// appendColour appends the parameters of a colour; base is 30 or 40.
func appendColour(parameters []int, word uint32, base int) []int {
	switch value := int(word & 0xffffff); word & colourKind {
	case colourIndexed:
		switch {
		case value < 8:
			return append(parameters, base+value)
		case value < 16:
			return append(parameters, base+60+value-8)
		}
		return append(parameters, base+8, 5, value)
	case colourRGB:
		return append(parameters, base+8, 2, value>>16, value>>8&255, value&255)
	}
	return append(parameters, base+9)
}
