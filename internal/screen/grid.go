package screen

import "slices"

// cell is one column of a row, in 12 bytes: 2 MiB a session has no place for
// more. The style's words come from [pack].
type cell struct {
	glyph  uint32 // the rune and the flags below
	fg, bg uint32
}

const (
	runeMask  = 1<<21 - 1
	flagMarks = 1 << 31 // more runes of this character are in the row's marks
	flagWide  = 1 << 30 // takes this column and the next
	flagRest  = 1 << 29 // the right half of a wide character; no rune of its own
)

var blank = cell{glyph: ' '}

// row is a line of cells. Cells from used on are all equal to fill and are not
// written out, which makes erasing cheap.
type row struct {
	cells   []cell
	used    int
	fill    cell
	wrapped bool // the text goes on in the next row, without a line feed
	stamp   Stamp
	// marks holds the further runes of the characters whose cell has flagMarks:
	// the column above bit 21, the rune below. Runes of a column stand in order.
	// Entries whose cell has no flag are stale.
	marks []uint32
}

const (
	marksPerCell   = 8
	marksPerScreen = 8192
)

func (r *row) at(x int) cell {
	if x < r.used {
		return r.cells[x]
	}
	return r.fill
}

// clear makes the whole row blank.
func (r *row) clear(with cell) {
	r.used, r.fill, r.wrapped, r.marks, r.stamp = 0, with, false, r.marks[:0], Stamp{}
}

// reach writes out the cells before x, so that x may be written.
func (r *row) reach(x int) {
	if r.used < x {
		spread(r.cells[r.used:x], r.fill)
		r.used = x
	}
}

// spread fills dst with c.
func spread(dst []cell, c cell) {
	for i := range dst {
		dst[i] = c
	}
}

// open prepares the cells from x to before end to be overwritten: a wide
// character that is cut in two by it becomes blanks.
func (r *row) open(x, end int) {
	r.reach(x)
	if end < r.used && r.cells[end].glyph&flagRest != 0 {
		c := r.cells[end-1]
		r.cells[end] = cell{glyph: ' ', fg: c.fg, bg: c.bg}
		r.cells[end-1] = cell{glyph: ' ', fg: c.fg, bg: c.bg}
	}
	if x < r.used && r.cells[x].glyph&flagRest != 0 {
		c := r.cells[x-1]
		r.cells[x] = cell{glyph: ' ', fg: c.fg, bg: c.bg}
		r.cells[x-1] = cell{glyph: ' ', fg: c.fg, bg: c.bg}
	}
	if r.used < end {
		r.used = end
	}
}

// erase blanks the cells from x to before end.
func (r *row) erase(x, end int, with cell) {
	if x >= end {
		return
	}
	if end < len(r.cells) {
		r.reach(end)
		r.open(x, end)
		spread(r.cells[x:end], with)
		return
	}
	if x == 0 {
		r.clear(with)
		return
	}
	r.reach(x)
	r.open(x, x)
	r.used, r.fill, r.wrapped = x, with, false
}

// insert shifts the cells from x by n to the right; those at the end are lost.
func (r *row) insert(x, n int, with cell) {
	columns := len(r.cells)
	n = min(n, columns-x)
	r.reach(columns)
	r.open(x, x)
	r.shiftMarks(x, n)
	copy(r.cells[x+n:], r.cells[x:columns-n])
	spread(r.cells[x:x+n], with)
	if last := &r.cells[columns-1]; last.glyph&flagWide != 0 {
		*last = cell{glyph: ' ', fg: last.fg, bg: last.bg}
	}
}

// remove takes n cells out at x and shifts the rest to the left.
func (r *row) remove(x, n int, with cell) {
	columns := len(r.cells)
	n = min(n, columns-x)
	r.reach(columns)
	r.open(x, x+n)
	spread(r.cells[x:x+n], with)
	r.shiftMarks(x+n, -n)
	copy(r.cells[x:], r.cells[x+n:])
	spread(r.cells[columns-n:], with)
}

// shiftMarks moves the marks of the columns from x on by n columns, before the
// cells themselves move.
func (r *row) shiftMarks(x, n int) {
	if len(r.marks) == 0 {
		return
	}
	r.dropStale()
	kept := r.marks[:0]
	for _, m := range r.marks {
		column := int(m >> 21)
		if column >= x {
			column += n
		}
		if column >= 0 && column < len(r.cells) {
			kept = append(kept, uint32(column)<<21|m&runeMask)
		}
	}
	r.marks = kept
}

// dropStale removes marks whose character is gone.
func (r *row) dropStale() {
	r.marks = slices.DeleteFunc(r.marks, func(m uint32) bool {
		return r.at(int(m>>21)).glyph&flagMarks == 0
	})
}

// marksOf appends the further runes of the character at x to dst.
func (r *row) marksOf(dst []rune, x int) []rune {
	if r.at(x).glyph&flagMarks == 0 {
		return dst
	}
	for _, m := range r.marks {
		if int(m>>21) == x {
			dst = append(dst, rune(m&runeMask))
		}
	}
	return dst
}

// lastMark is the newest further rune of the character at x, or 0.
func (r *row) lastMark(x int) rune {
	if r.at(x).glyph&flagMarks != 0 {
		for i := len(r.marks) - 1; i >= 0; i-- {
			if int(r.marks[i]>>21) == x {
				return rune(r.marks[i] & runeMask)
			}
		}
	}
	return 0
}

// addMark appends a rune to the character at x. A row keeps at most limit of
// them and a character marksPerCell; it reports whether there was room.
func (r *row) addMark(x int, m rune, limit int) bool {
	if r.at(x).glyph&flagMarks == 0 {
		r.marks = slices.DeleteFunc(r.marks, func(m uint32) bool { return int(m>>21) == x })
	}
	if len(r.marks) >= limit {
		r.dropStale()
		if len(r.marks) >= limit {
			return false
		}
	}
	if r.at(x).glyph&flagMarks != 0 {
		have := 0
		for _, m := range r.marks {
			if int(m>>21) == x {
				have++
			}
		}
		if have >= marksPerCell {
			return false
		}
	}
	if len(r.marks) == cap(r.marks) {
		grown := make([]uint32, len(r.marks), min(max(8, 2*cap(r.marks)), limit))
		copy(grown, r.marks)
		r.marks = grown
	}
	r.reach(x + 1)
	r.cells[x].glyph |= flagMarks
	r.marks = append(r.marks, uint32(x)<<21|uint32(m))
	return true
}

// grid is the content of one screen. Rows move by their number, not by copying.
type grid struct {
	rows  []row
	order []uint16 // order[y] is the place in rows of the row shown at y
}

func newGrid(columns, rows int) *grid {
	g := &grid{rows: make([]row, rows), order: make([]uint16, rows)}
	cells := make([]cell, columns*rows)
	for y := range g.rows {
		g.rows[y] = row{cells: cells[y*columns : (y+1)*columns : (y+1)*columns], fill: blank}
		g.order[y] = uint16(y)
	}
	return g
}

func (g *grid) row(y int) *row { return &g.rows[g.order[y]] }

// clearRows blanks the rows from y to before end.
func (g *grid) clearRows(y, end int, with cell) {
	for ; y < end; y++ {
		g.row(y).clear(with)
	}
}

// marksPerRow is how many further runes a row may hold.
func (g *grid) marksPerRow() int { return max(marksPerScreen/len(g.rows), 16) }

// scrollUp moves the rows from top to bottom, both included, up by n.
func (g *grid) scrollUp(top, bottom, n int, with cell) {
	n = min(n, bottom-top+1)
	var moved [MaxRows]uint16
	copy(moved[:n], g.order[top:top+n])
	copy(g.order[top:], g.order[top+n:bottom+1])
	copy(g.order[bottom+1-n:], moved[:n])
	g.clearRows(bottom+1-n, bottom+1, with)
	g.cutWrap(top-1, bottom-n)
}

// scrollDown moves the rows from top to bottom, both included, down by n.
func (g *grid) scrollDown(top, bottom, n int, with cell) {
	n = min(n, bottom-top+1)
	var moved [MaxRows]uint16
	copy(moved[:n], g.order[bottom+1-n:bottom+1])
	copy(g.order[top+n:bottom+1], g.order[top:])
	copy(g.order[top:], moved[:n])
	g.clearRows(top, top+n, with)
	g.cutWrap(top-1, bottom)
}

// cutWrap notes that the rows are no longer followed by the rest of their text.
func (g *grid) cutWrap(rows ...int) {
	for _, y := range rows {
		if y >= 0 {
			g.row(y).wrapped = false
		}
	}
}

// resized is a copy with other dimensions that begins with the row at from.
func (g *grid) resized(columns, rows, from int) *grid {
	out := newGrid(columns, rows)
	limit := out.marksPerRow()
	for y := 0; y < rows && from+y < len(g.rows); y++ {
		src, dst := g.row(from+y), out.row(y)
		dst.used, dst.fill, dst.stamp = min(src.used, columns), src.fill, src.stamp
		if columns > len(src.cells) {
			// What is new on the right is blank, whatever the row was erased with.
			src.reach(len(src.cells))
			dst.used, dst.fill = len(src.cells), blank
		}
		copy(dst.cells, src.cells[:dst.used])
		if dst.used > 0 {
			if last := &dst.cells[dst.used-1]; last.glyph&flagWide != 0 {
				*last = cell{glyph: ' ', fg: last.fg, bg: last.bg}
			}
		}
		dst.wrapped = src.wrapped && columns == len(src.cells) && y+1 < rows
		for x := range dst.used {
			if dst.cells[x].glyph&flagMarks == 0 {
				continue
			}
			dst.cells[x].glyph &^= flagMarks
			var marks [marksPerCell]rune
			widened := false
			for _, m := range src.marksOf(marks[:0], x) {
				if !dst.addMark(x, m, limit) {
					break
				}
				widened = widened || m == emojiStyle
			}
			// A symbol that lost its emoji style would be narrow again.
			if c := dst.cells[x]; c.glyph&flagWide != 0 && !widened && Width(rune(c.glyph&runeMask)) == 1 {
				spread(dst.cells[x:x+2], cell{glyph: ' ', fg: c.fg, bg: c.bg})
			}
		}
	}
	return out
}
