package screen

// Stamp is what the owner of a Screen wants to know later about a row, such as
// the number and the time of the frame that wrote it. The Screen only keeps it.
type Stamp struct {
	Number uint64
	Time   int64
}

// Gone is a row that is no longer on the screen.
type Gone struct {
	Text string // as by [Screen.Row]
	// Wrapped reports that the text goes on in the row that follows it.
	Wrapped bool
	// Alternate reports that it stood on the alternate screen when that was left.
	Alternate bool
	// Stamp is that of the last character that was printed in the row; zero
	// for a row in which none was.
	Stamp Stamp
}

// What may be told of rows that are gone: so many cells for each byte of input,
// and so many at once. A program that is read by people stays far below;
// sequences of a few bytes that fill the whole screen do not.
const (
	goneCells    = 64
	maxGoneCells = 256 << 10
	goneStep     = 1 << 10 // bytes of input after which more may be told
)

// HandleGone calls f for each row of text that leaves the screen: at the top of
// the main screen by scrolling, with all of it by being erased (ED 2, ED 0 from
// the first column of the first row, RIS), by a window that becomes lower, and
// all rows of the alternate screen when it is left; from the top, without the
// blank rows at the end of what is erased or left. Rows that are overwritten,
// deleted, or scrolled out at the bottom are not told. f must not use the
// Screen.
//
// So that the work for a byte stays bounded, rows are left out when a few bytes
// of input fill whole screens again and again; see [Screen.LeftOut].
func (s *Screen) HandleGone(f func(Gone)) { s.gone, s.goneLeft = f, maxGoneCells }

// LeftOut is how many rows were not told to the function of [Screen.HandleGone].
func (s *Screen) LeftOut() int64 { return s.leftOut }

// SetStamp sets what the rows carry in which characters are printed from now on.
func (s *Screen) SetStamp(stamp Stamp) { s.stamp = stamp }

// Stamp is that of row y, see [Gone].
func (s *Screen) Stamp(y int) Stamp {
	if y < 0 || y >= s.rows {
		return Stamp{}
	}
	return s.grid.row(y).stamp
}

// tellScrolled tells the first n rows of the main screen, which are about to
// be scrolled out of a region that begins at top.
func (s *Screen) tellScrolled(top, n int) {
	if s.gone == nil || s.active != 0 || top != 0 {
		return
	}
	for y := range n {
		s.tell(s.grid.row(y), false)
	}
}

// tellAll tells the rows of a grid that is about to be erased or left.
func (s *Screen) tellAll(g *grid, alternate bool) {
	if s.gone == nil {
		return
	}
	end := len(g.rows)
	for end > 0 && g.row(end-1).empty() {
		end--
	}
	for y := range end {
		s.tell(g.row(y), alternate)
	}
}

// empty reports whether the row shows nothing but spaces.
func (r *row) empty() bool {
	if r.fill.glyph != ' ' && r.used < len(r.cells) {
		return false
	}
	for _, c := range r.cells[:r.used] {
		if c.glyph != ' ' {
			return false
		}
	}
	return true
}

func (s *Screen) tell(r *row, alternate bool) {
	cost := r.used + 1
	if r.wrapped || r.fill.glyph != ' ' {
		cost = len(r.cells) + 1
	}
	if cost > s.goneLeft {
		s.leftOut++
		return
	}
	s.goneLeft -= cost
	s.gone(Gone{Text: r.text(), Wrapped: r.wrapped, Alternate: alternate, Stamp: r.stamp})
}
