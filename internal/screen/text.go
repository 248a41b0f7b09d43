package screen

import "strings"

// Colour is a foreground or background colour.
type Colour struct {
	// Kind is 'd' for the terminal's default, 'i' for an entry of its palette of
	// 256 in Index, 'r' for Red, Green and Blue.
	Kind             byte
	Index            uint8
	Red, Green, Blue uint8
}

// Cell is one column of the screen as a person sees it.
type Cell struct {
	// Text is the character with all that combines with it: " " where nothing
	// stands, "" for the right half of a wide character.
	Text  string
	Width int // columns of the character: 1 or 2; 0 for a right half

	Foreground, Background Colour

	Bold, Faint, Italic, Blink, Inverse, Invisible, Strike, Overline bool

	Underline int // 0 none, 1 single, 2 double, 3 curly, 4 dotted, 5 dashed
}

// Size is the number of columns and rows.
func (s *Screen) Size() (columns, rows int) { return s.columns, s.rows }

// Cursor is where the cursor stands, counted from 0, and whether it is shown.
// After a character in the last column it stands there until the next one.
func (s *Screen) Cursor() (x, y int, visible bool) { return s.x, s.y, s.modes&modeCursor != 0 }

// Title is the window's title, at most 1 KiB of printable text.
func (s *Screen) Title() string { return s.title }

// Alternate reports whether a full-screen program shows the alternate screen.
func (s *Screen) Alternate() bool { return s.active == 1 }

// Wrapped reports whether the text of row y goes on in the next row because it
// was too long, not because of a line feed.
func (s *Screen) Wrapped(y int) bool { return y >= 0 && y < s.rows && s.grid.row(y).wrapped }

// Cell is the cell in column x of row y, counted from 0; outside the screen it
// is the zero Cell.
func (s *Screen) Cell(x, y int) Cell {
	if x < 0 || x >= s.columns || y < 0 || y >= s.rows {
		return Cell{}
	}
	r := s.grid.row(y)
	c := r.at(x)
	out := Cell{
		Width:      1,
		Foreground: colour(c.fg), Background: colour(c.bg),
		Bold: c.fg&attrBold != 0, Faint: c.fg&attrFaint != 0, Italic: c.fg&attrItalic != 0,
		Blink: c.fg&attrBlink != 0, Inverse: c.fg&attrInverse != 0, Invisible: c.fg&attrInvisible != 0,
		Strike: c.bg&attrStrike != 0, Overline: c.bg&attrOverline != 0,
		Underline: int(c.bg & underlineMask >> underlineShift),
	}
	switch {
	case c.glyph&flagRest != 0:
		out.Width = 0
	case c.glyph&flagWide != 0:
		out.Width = 2
	}
	if out.Width > 0 {
		var marks [marksPerCell]rune
		out.Text = string(rune(c.glyph&runeMask)) + string(r.marksOf(marks[:0], x))
	}
	return out
}

func colour(word uint32) Colour {
	switch word & colourKind {
	case colourIndexed:
		return Colour{Kind: 'i', Index: uint8(word)}
	case colourRGB:
		return Colour{Kind: 'r', Red: uint8(word >> 16), Green: uint8(word >> 8), Blue: uint8(word)}
	}
	return Colour{Kind: 'd'}
}

// Row is the text of row y without the blanks at its end. A row that goes on in
// the next one keeps them, so that the two can be joined.
func (s *Screen) Row(y int) string {
	if y < 0 || y >= s.rows {
		return ""
	}
	return s.grid.row(y).text()
}

func (r *row) text() string {
	var out strings.Builder
	var marks [marksPerCell]rune
	end := r.used
	if r.wrapped || r.fill.glyph != ' ' {
		end = len(r.cells)
	}
	out.Grow(end)
	for x := range end {
		c := r.at(x)
		if c.glyph < 0x80 { // no flags, no marks
			out.WriteByte(byte(c.glyph))
			continue
		}
		if c.glyph&flagRest != 0 {
			continue
		}
		out.WriteRune(rune(c.glyph & runeMask))
		for _, m := range r.marksOf(marks[:0], x) {
			out.WriteRune(m)
		}
	}
	if r.wrapped {
		return out.String()
	}
	return strings.TrimRight(out.String(), " ")
}

// Lines is the text of each row as by [Screen.Row], from the top. Where
// [Screen.Wrapped] says so, a row and the next are one line of text.
func (s *Screen) Lines() []string {
	lines := make([]string, s.rows)
	for y := range lines {
		lines[y] = s.Row(y)
	}
	return lines
}

// Text is the whole screen as text: wrapped rows joined, a line feed after each
// line, without the blank lines at the end.
func (s *Screen) Text() string {
	var out strings.Builder
	for y := range s.rows {
		line := s.Row(y)
		if s.grid.row(y).wrapped {
			out.WriteString(line)
		} else {
			out.WriteString(strings.TrimRight(line, " "))
			out.WriteByte('\n')
		}
	}
	text := strings.TrimRight(out.String(), "\n")
	if text != "" {
		text += "\n"
	}
	return text
}
