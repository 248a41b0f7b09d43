package screen

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"testing"
	"unicode"

	"golang.org/x/text/width"
)

var writeTable = flag.Bool("write-width-table", false, "write width_table.go anew from Unicode's data")

// wantWidth is the width by Unicode's properties, of which the table is made.
func wantWidth(r rune) int {
	prepended := r >= 0x600 && r <= 0x605 || r == 0x6dd || r == 0x70f || r == 0x890 || r == 0x891 ||
		r == 0x8e2 || r == 0x110bd || r == 0x110cd
	switch {
	case r < 0x20 || r >= 0x7f && r < 0xa0, r >= 0xd800 && r < 0xe000:
		return -1
	case r == 0x200c || r == zwj || r >= 0xe0020 && r < 0xe0080:
		return 0
	case r == 0xad || prepended:
		return 1
	case unicode.Is(unicode.Cf, r), unicode.Is(unicode.Zl, r), unicode.Is(unicode.Zp, r):
		return -1
	case unicode.In(r, unicode.Mn, unicode.Me):
		return 0
	case r >= 0x1160 && r < 0x1200, r >= 0xd7b0 && r < 0xd800:
		return 0 // vowels and finals of Hangul, which join the initial
	case r >= 0x1fa70 && r < 0x1fb00:
		return 2 // kept for emoji to come
	}
	switch width.LookupRune(r).Kind() {
	case width.EastAsianWide, width.EastAsianFullwidth:
		return 2
	}
	return 1
}

func TestWidthTableIsUnicodes(t *testing.T) {
	var out bytes.Buffer
	out.WriteString("package screen\n\n// widthTable holds the characters from U+0300 on that do not take one column, by\n" +
		"// Unicode " + unicode.Version + ". `go test ./internal/screen -run WidthTable -write-width-table` writes it.\n" +
		"var widthTable = [...]widthRange{\n")
	for r := rune(0x300); r <= unicode.MaxRune; {
		w, first := wantWidth(r), r
		for r <= unicode.MaxRune && wantWidth(r) == w {
			r++
		}
		if w != 1 {
			fmt.Fprintf(&out, "\t{%#x, %#x, %d},\n", first, r-1, w)
		}
	}
	out.WriteString("}\n")
	if *writeTable {
		if err := os.WriteFile("width_table.go", out.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	for r := rune(0); r <= unicode.MaxRune; r++ {
		if Width(r) != wantWidth(r) {
			t.Fatalf("U+%04X: width %d, Unicode says %d", r, Width(r), wantWidth(r))
		}
	}
	for i, e := range emojiStyled {
		if i > 0 && emojiStyled[i-1][1] >= e[0] || e[0] > e[1] {
			t.Errorf("emoji range %#x is out of order", e)
		}
		if Width(e[0]) != 1 || Width(e[1]) != 1 {
			t.Errorf("emoji range %#x holds wide characters", e)
		}
	}
}
