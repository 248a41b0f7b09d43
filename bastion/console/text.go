package console

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/width"

	"sallyport/internal/words"
)

// Clean makes text safe to show on a terminal: control characters, bytes that
// are no UTF-8, and characters that turn the direction of writing or show
// nothing are written as escapes. A backslash stays as it is: the aim is that
// nothing hides, not that the text can be read back.
func Clean(text string) string {
	if isClean(text) {
		return text
	}
	var b strings.Builder
	for i := 0; i < len(text); {
		r, size := utf8.DecodeRuneInString(text[i:])
		switch {
		case r == utf8.RuneError && size == 1:
			fmt.Fprintf(&b, `\x%02x`, text[i])
		case words.Hidden(r):
			quoted := strconv.QuoteRuneToASCII(r)
			b.WriteString(quoted[1 : len(quoted)-1])
		default:
			b.WriteRune(r)
		}
		i += size
	}
	return b.String()
}

func isClean(text string) bool {
	if !utf8.ValidString(text) {
		return false
	}
	for _, r := range text {
		if words.Hidden(r) {
			return false
		}
	}
	return true
}

// cleanLines is Clean for a text of several lines: line breaks and tabs stay.
func cleanLines(text string) string {
	lines := strings.Split(strings.ReplaceAll(text, "\r\n", "\n"), "\n")
	for i, line := range lines {
		parts := strings.Split(line, "\t")
		for j := range parts {
			parts[j] = Clean(parts[j])
		}
		lines[i] = strings.Join(parts, "\t")
	}
	return strings.Join(lines, "\n")
}

// quoted writes text as JSON does, in ASCII where a character could mislead,
// so that its beginning and end cannot be forged.
func quoted(text string) string {
	var b strings.Builder
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(strings.ToValidUTF8(text, "\uFFFD")); err != nil {
		return strconv.QuoteToASCII(text)
	}
	return words.EscapeJSON(strings.TrimSuffix(b.String(), "\n"))
}

// columnsOf is how many cells of a terminal a clean text takes.
func columnsOf(text string) int {
	n := 0
	for _, r := range text {
		n += runeColumns(r)
	}
	return n
}

func runeColumns(r rune) int {
	if unicode.In(r, unicode.Mn, unicode.Me) {
		return 0
	}
	switch width.LookupRune(r).Kind() {
	case width.EastAsianWide, width.EastAsianFullwidth:
		return 2
	}
	return 1
}

// shorten cuts a clean text to at most limit columns, with a sign that it was cut.
func shorten(text string, limit int) string {
	if columnsOf(text) <= limit {
		return text
	}
	var b strings.Builder
	used := 0
	for _, r := range text {
		n := runeColumns(r)
		if used+n > limit-1 {
			break
		}
		b.WriteRune(r)
		used += n
	}
	return b.String() + "…"
}

// minute, second and day are how times are shown; always UTC, which the letter Z says.
func minute(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Format("2006-01-02 15:04Z")
}

func second(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Format("2006-01-02 15:04:05Z")
}

func day(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Format("2006-01-02")
}

func dash(text string) string {
	if text == "" {
		return "-"
	}
	return text
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

// count is a number of things in words; the word for several may be given.
func count(n int, one string, several ...string) string {
	if n == 1 {
		return "1 " + one
	}
	if len(several) > 0 {
		return fmt.Sprintf("%d %s", n, several[0])
	}
	return fmt.Sprintf("%d %ss", n, one)
}

// byteCount writes a number of bytes with at most one decimal.
func byteCount(n int64) string {
	if n < 0 {
		return "?" // authz.Unknown
	}
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	value, unit := float64(n), ""
	for _, unit = range []string{"KiB", "MiB", "GiB", "TiB"} {
		value /= 1024
		if value < 1024 {
			break
		}
	}
	return fmt.Sprintf("%.1f %s", value, unit)
}
