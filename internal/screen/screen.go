package screen

import (
	"bytes"
	"slices"
)

// The largest screen that is modelled. A larger window is taken for one of this
// size, and then the model no longer is what its owner sees.
const (
	MaxColumns = 1000
	MaxRows    = 500
	// MaxCells bounds columns times rows; a window with more loses rows.
	MaxCells = 75000
)

// Screen is the model. It is not safe for use by several goroutines at once.
type Screen struct {
	columns, rows int
	screens       [2]*grid // the main screen and, once it was used, the alternate
	active        int
	grid          *grid // screens[active]

	x, y    int
	pending bool // the last column was written, the next character wraps
	pen     style
	// last is the character that was just printed in column lastX, for REP and
	// for what joins it; 0 after the cursor moved in another way.
	last  rune
	lastX int

	charsets    [2]byte // what G0 and G1 are: 'B' ASCII, '0' DEC graphics
	shift       int     // which of them is used
	saved       [2]savedCursor
	top, bottom int // the scroll region, both included
	tabs        [MaxColumns/64 + 1]uint64
	modes       mode
	cursorStyle int // DECSCUSR, 0 to 6
	title       string

	parser parser
	osc    func(number int, data []byte)

	gone     func(Gone)
	goneLeft int   // cells that may still be told
	leftOut  int64 // rows that were not told
	stamp    Stamp
}

// savedCursor is what DECSC keeps.
type savedCursor struct {
	x, y     int
	pending  bool
	pen      style
	charsets [2]byte
	shift    int
	origin   bool
}

var unsaved = savedCursor{charsets: [2]byte{'B', 'B'}}

// New is a blank screen. Dimensions out of range are clamped.
func New(columns, rows int) *Screen {
	s := &Screen{}
	s.columns, s.rows = clampSize(columns, rows)
	s.screens[0] = newGrid(s.columns, s.rows)
	s.reset()
	return s
}

func clampSize(columns, rows int) (int, int) {
	columns = min(max(columns, 1), MaxColumns)
	return columns, min(max(rows, 1), MaxRows, MaxCells/columns)
}

// HandleOSC calls f for each operating system command that is not a title, such
// as the prompt marks 133;A to D, at its place in the input: when f runs, the
// screen is what it was when the mark came. Data is what follows the number and
// its semicolon, and is only valid during the call. A command longer than 64 KiB
// is not told. f must not use the Screen's Write or Resize.
func (s *Screen) HandleOSC(f func(number int, data []byte)) { s.osc = f }

// reset is RIS: everything as after New, only the handler stays.
func (s *Screen) reset() {
	s.tellAll(s.screens[0], false)
	for _, g := range s.screens {
		if g != nil {
			g.clearRows(0, s.rows, blank)
		}
	}
	s.active, s.grid = 0, s.screens[0]
	s.x, s.y, s.pen = 0, 0, style{}
	s.moved()
	s.charsets, s.shift = unsaved.charsets, 0
	s.saved = [2]savedCursor{unsaved, unsaved}
	s.top, s.bottom = 0, s.rows-1
	s.modes = modeWrap | modeCursor
	s.cursorStyle, s.title = 0, ""
	s.defaultTabs(0)
}

// softReset is DECSTR.
func (s *Screen) softReset() {
	s.modes = s.modes&^(modeInsert|modeOrigin|modeCursorKeys|modeKeypad) | modeWrap | modeCursor
	s.top, s.bottom = 0, s.rows-1
	s.pen, s.charsets, s.shift = style{}, unsaved.charsets, 0
	s.saved[s.active] = unsaved
	s.moved()
}

// moved forgets what depends on the cursor standing behind the last character.
func (s *Screen) moved() { s.pending, s.last, s.lastX = false, 0, 0 }

// blank is what erasing leaves: a space on the pen's background.
func (s *Screen) blank() cell { return cell{glyph: ' ', bg: s.pen.bg & colourMask} }

func (s *Screen) row() *row { return s.grid.row(s.y) }

func (s *Screen) defaultTabs(from int) {
	for x := from; x < len(s.tabs)*64; x++ {
		if x%64 == 0 && x >= from {
			s.tabs[x/64] = 0x0101010101010101
			x += 63
			continue
		}
		s.setTab(x, x%8 == 0)
	}
}

func (s *Screen) setTab(x int, on bool) {
	if on {
		s.tabs[x/64] |= 1 << (x % 64)
	} else {
		s.tabs[x/64] &^= 1 << (x % 64)
	}
}

func (s *Screen) tab(x int) bool { return s.tabs[x/64]&(1<<(x%64)) != 0 }

// Resize changes the dimensions, which are clamped like those of New. As in
// xterm nothing is reflowed: columns are cut off or added on the right, rows on
// the bottom, and rows above go only to keep the cursor in sight.
func (s *Screen) Resize(columns, rows int) {
	columns, rows = clampSize(columns, rows)
	if columns == s.columns && rows == s.rows {
		return
	}
	for i, g := range s.screens {
		if g == nil {
			continue
		}
		y := s.y
		if i != s.active {
			y = s.saved[i].y
		}
		from := max(0, y-rows+1)
		if i == 0 && s.gone != nil {
			for gone := range min(from, len(g.rows)) {
				s.tell(g.row(gone), false)
			}
		}
		s.screens[i] = g.resized(columns, rows, from)
		if i == s.active {
			s.y -= from
		}
		saved := &s.saved[i]
		saved.y = min(max(saved.y-from, 0), rows-1)
		saved.x, saved.pending = min(saved.x, columns-1), false
	}
	if columns > s.columns {
		s.defaultTabs(s.columns)
	}
	s.columns, s.rows = columns, rows
	s.grid = s.screens[s.active]
	s.x = min(s.x, columns-1)
	s.top, s.bottom = 0, rows-1
	s.moved()
}

// Equal reports whether both screens look the same and will do the same with
// the same input.
func (s *Screen) Equal(o *Screen) bool {
	if s.columns != o.columns || s.rows != o.rows || s.active != o.active ||
		s.x != o.x || s.y != o.y || s.pending != o.pending || s.pen != o.pen ||
		s.last != o.last || s.lastX != o.lastX ||
		s.charsets != o.charsets || s.shift != o.shift || s.saved != o.saved ||
		s.top != o.top || s.bottom != o.bottom || s.modes != o.modes ||
		s.cursorStyle != o.cursorStyle || s.title != o.title ||
		!bytes.Equal(s.parser.tail(nil), o.parser.tail(nil)) {
		return false
	}
	for x := range s.columns {
		if s.tab(x) != o.tab(x) {
			return false
		}
	}
	for i := 0; i <= s.active; i++ {
		for y := range s.rows {
			if !s.screens[i].row(y).equal(o.screens[i].row(y)) {
				return false
			}
		}
	}
	return true
}

func (r *row) equal(o *row) bool {
	if r.wrapped != o.wrapped {
		return false
	}
	var a, b [marksPerCell]rune
	for x := range r.cells {
		c := r.at(x)
		if c != o.at(x) || !slices.Equal(r.marksOf(a[:0], x), o.marksOf(b[:0], x)) {
			return false
		}
	}
	return true
}
