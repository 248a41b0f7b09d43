package bastion

import (
	"io"
	"strings"
	"unicode"
	"unicode/utf8"
)

// printable makes foreign text safe to show and to log: control, bidirectional
// and invalid characters become '?', and at most limit bytes remain.
func printable(s string, limit int) string {
	var b strings.Builder
	for _, r := range s {
		if b.Len()+utf8.RuneLen(r) > limit {
			b.WriteString("…")
			break
		}
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			r = '?'
		}
		b.WriteRune(r)
	}
	return b.String()
}

// lineWriter writes text for a person; on a terminal each line feed needs a
// carriage return.
type lineWriter struct {
	w   io.Writer
	pty bool
}

func (l lineWriter) say(text string) error {
	if l.pty {
		text = strings.ReplaceAll(text, "\n", "\r\n")
	}
	_, err := io.WriteString(l.w, text)
	return err
}
