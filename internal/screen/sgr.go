package screen

// style is how a cell is drawn. Each word holds a colour in the lower 26 bits:
// its kind above bit 24 and its value below; the bits above are attributes.
type style struct{ fg, bg uint32 }

const (
	colourMask    = 1<<26 - 1
	colourKind    = 3 << 24
	colourIndexed = 1 << 24
	colourRGB     = 2 << 24

	// In fg.
	attrBold      = 1 << 26
	attrFaint     = 1 << 27
	attrItalic    = 1 << 28
	attrBlink     = 1 << 29
	attrInverse   = 1 << 30
	attrInvisible = 1 << 31
	// In bg.
	attrStrike     = 1 << 26
	attrOverline   = 1 << 27
	underlineShift = 28 // 0 none, 1 single, 2 double, 3 curly, 4 dotted, 5 dashed
	underlineMask  = 7 << underlineShift
)

func (st *style) setUnderline(kind int) {
	st.bg = st.bg&^underlineMask | uint32(kind)<<underlineShift
}

// selectGraphicRendition is SGR.
func (s *Screen) selectGraphicRendition() {
	p := &s.parser
	if p.count == 0 {
		s.pen = style{}
		return
	}
	for i := 0; i < p.count; {
		next := i + 1
		for next < p.count && p.colon&(1<<next) != 0 {
			next++
		}
		switch v := p.values[i]; v {
		case 38, 48, 58:
			var colour uint32
			var ok bool
			if next > i+1 {
				colour, ok = colourByColons(p.values[i+1 : next])
			} else {
				var used int
				colour, used, ok = colourBySemicolons(p.values[i+1 : p.count])
				next += used
			}
			if ok && v == 38 {
				s.pen.fg = s.pen.fg&^colourMask | colour
			} else if ok && v == 48 {
				s.pen.bg = s.pen.bg&^colourMask | colour
			}
		case 4:
			kind := 1
			if next > i+1 {
				kind = int(p.values[i+1])
			}
			if kind <= 5 {
				s.pen.setUnderline(kind)
			}
		default:
			if next == i+1 {
				s.pen.set(int(v))
			}
		}
		i = next
	}
}

// set obeys one parameter that needs no other.
func (st *style) set(v int) {
	switch {
	case v == 0:
		*st = style{}
	case v >= 30 && v <= 37:
		st.fg = st.fg&^colourMask | colourIndexed | uint32(v-30)
	case v >= 40 && v <= 47:
		st.bg = st.bg&^colourMask | colourIndexed | uint32(v-40)
	case v >= 90 && v <= 97:
		st.fg = st.fg&^colourMask | colourIndexed | uint32(v-90+8)
	case v >= 100 && v <= 107:
		st.bg = st.bg&^colourMask | colourIndexed | uint32(v-100+8)
	case v == 39:
		st.fg &^= colourMask
	case v == 49:
		st.bg &^= colourMask
	case v == 1:
		st.fg |= attrBold
	case v == 2:
		st.fg |= attrFaint
	case v == 3:
		st.fg |= attrItalic
	case v == 5 || v == 6:
		st.fg |= attrBlink
	case v == 7:
		st.fg |= attrInverse
	case v == 8:
		st.fg |= attrInvisible
	case v == 9:
		st.bg |= attrStrike
	case v == 21:
		st.setUnderline(2)
	case v == 22:
		st.fg &^= attrBold | attrFaint
	case v == 23:
		st.fg &^= attrItalic
	case v == 24:
		st.setUnderline(0)
	case v == 25:
		st.fg &^= attrBlink
	case v == 27:
		st.fg &^= attrInverse
	case v == 28:
		st.fg &^= attrInvisible
	case v == 29:
		st.bg &^= attrStrike
	case v == 53:
		st.bg |= attrOverline
	case v == 55:
		st.bg &^= attrOverline
	}
}

// colourBySemicolons reads 5;n or 2;r;g;b and returns how many parameters those are.
func colourBySemicolons(v []uint16) (colour uint32, used int, ok bool) {
	switch {
	case len(v) == 0:
		return 0, 0, false
	case v[0] == 5 && len(v) >= 2:
		return colourIndexed | uint32(v[1]), 2, v[1] < 256
	case v[0] == 2 && len(v) >= 4:
		return rgb(v[1], v[2], v[3]), 4, v[1]|v[2]|v[3] < 256
	case v[0] == 5 || v[0] == 2:
		return 0, len(v), false
	}
	return 0, 1, false
}

// colourByColons reads 5:n, 2:r:g:b or 2:space:r:g:b (ITU-T T.416).
func colourByColons(v []uint16) (colour uint32, ok bool) {
	switch {
	case v[0] == 5 && len(v) >= 2:
		return colourIndexed | uint32(v[1]), v[1] < 256
	case v[0] == 2 && len(v) == 4:
		return rgb(v[1], v[2], v[3]), v[1]|v[2]|v[3] < 256
	case v[0] == 2 && len(v) > 4:
		return rgb(v[2], v[3], v[4]), v[2]|v[3]|v[4] < 256
	}
	return 0, false
}

func rgb(r, g, b uint16) uint32 {
	return colourRGB | uint32(r&255)<<16 | uint32(g&255)<<8 | uint32(b&255)
}
