package words

import (
	"fmt"
	"strings"
	"unicode"
)

// Hidden reports whether a rune does something other than to show itself:
// controls, format characters (bidirectional marks, zero width), line and
// paragraph separators, private use, and blanks other than the space.
func Hidden(r rune) bool {
	if r == ' ' {
		return false
	}
	return !unicode.IsPrint(r)
}

// EscapeJSON writes hidden characters of a JSON text as \u escapes. They can
// only stand inside strings, so the meaning stays the same. Line feeds stay.
func EscapeJSON(text string) string {
	escaped := func(r rune) bool { return r != '\n' && Hidden(r) }
	if strings.IndexFunc(text, escaped) < 0 {
		return text
	}
	var b strings.Builder
	for _, r := range text {
		switch {
		case !escaped(r):
			b.WriteRune(r)
		case r > 0xffff:
			r -= 0x10000
			fmt.Fprintf(&b, `\u%04x\u%04x`, 0xd800+(r>>10), 0xdc00+(r&0x3ff))
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
	}
	return b.String()
}
