package screen

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// goneOf writes input to a small screen and returns the rows that left it.
func goneOf(columns, rows int, input string) (lines []string, s *Screen) {
	s = New(columns, rows)
	s.HandleGone(func(g Gone) {
		text := g.Text
		if g.Wrapped {
			text += "~"
		}
		if g.Alternate {
			text = "alt:" + text
		}
		lines = append(lines, text)
	})
	_, _ = s.Write([]byte(input))
	return lines, s
}

func TestGone(t *testing.T) {
	for _, c := range []struct{ name, input, want string }{
		{"scrolled", "a\r\nb\r\nc\r\nd", "a"},
		{"wrapped", "0123456789\r\nb\r\nc\r\nd", "01234567~|89"},
		{"scrolled up", "a\r\nb\x1b[2S", "a|b"},
		{"cleared", "a\r\nb\x1b[H\x1b[2J", "a|b"},
		{"cleared from the top", "a\r\nb\x1b[H\x1b[J", "a|b"},
		{"cleared below the cursor", "a\r\nb\x1b[2;1H\x1b[J", ""},
		{"nothing to clear", "\x1b[2J\x1b[H\x1b[J\x1bc", ""},
		{"reset", "a\x1bc", "a"},
		{"alternate", "a\x1b[?1049hfull\r\nscreen\x1b[2J\x1b[Hlast\x1b[?1049l", "alt:last"},
		{"scrolled in the alternate", "\x1b[?1049ha\r\nb\r\nc\r\nd", ""},
		{"region below the top", "a\r\n\x1b[2;3rb\r\nc\r\nd\r\ne", ""},
		{"region at the top", "\x1b[1;2r1\r\n2\r\n3", "1"},
		{"deleted", "a\r\nb\x1b[H\x1b[M", ""},
	} {
		lines, _ := goneOf(8, 3, c.input)
		if got := strings.Join(lines, "|"); got != c.want {
			t.Errorf("%s: %q gave %q, want %q", c.name, c.input, got, c.want)
		}
	}
	lines, s := goneOf(8, 3, "a\r\nb\r\nc")
	if s.Resize(8, 1); len(lines) != 0 && lines[0] != "a" || s.Row(0) != "c" {
		t.Errorf("after the window became lower: %q, %q", lines, s.Lines())
	}
}

func TestStamp(t *testing.T) {
	s := New(10, 3)
	var gone []Gone
	s.HandleGone(func(g Gone) { gone = append(gone, g) })
	for i := range uint64(4) {
		s.SetStamp(Stamp{Number: i + 1, Time: int64(i) * 10})
		fmt.Fprintf(s, "%d\r\n", i)
	}
	if len(gone) != 2 || gone[1].Stamp != (Stamp{2, 10}) || s.Stamp(0) != (Stamp{3, 20}) || s.Stamp(2) != (Stamp{}) || s.Stamp(-1) != (Stamp{}) {
		t.Errorf("%+v, %v", gone, s.Stamp(0))
	}
}

// TestGoneIsBounded fills and erases the largest screen with a few bytes.
func TestGoneIsBounded(t *testing.T) {
	for _, piece := range []string{"\x1b#8\x1b[2J", "\x1b#8\x1bc", "\x1b[?47h\x1b#8\x1b[?47l", "\x1b#8\x1b[500S", "a\x1b[999b\n", "\x1b[999Gab\n", "\x1b[75S"} {
		part := []byte(strings.Repeat(piece, 1<<10/len(piece)))
		s, bytes := New(1000, 75), 0
		s.HandleGone(func(g Gone) { bytes += len(g.Text) })
		var spent []time.Duration
		for range 64 {
			begin := time.Now()
			_, _ = s.Write(part)
			spent = append(spent, time.Since(begin))
		}
		if most := goneCells*64*len(part) + maxGoneCells; bytes > most {
			t.Errorf("%q gave %d bytes of text, the limit is %d", piece, bytes, most)
		}
		// The median, since others use the processor, too.
		slices.Sort(spent)
		if spent[32] > 5*time.Millisecond*slowdown {
			t.Errorf("%q: 1 KiB took %v", piece, spent[32])
		}
		t.Logf("%q: %v", piece, spent[32])
	}
}

func TestRestore(t *testing.T) {
	s := New(33, 7)
	_, _ = s.Write([]byte("hello\r\n\x1b[31mred\x1b[?1049hfull"))
	if r := Restore(s.Snapshot(), 80, 24); !r.Equal(s) {
		t.Error("a restored screen is another")
	}
	for _, data := range []string{"", "\x1b[8;", "\x1b[8;5t", "\x1b[8;999999999;9999999999t", "\x1b[8;-1;-1t", "text"} {
		if w, h := Restore([]byte(data), 80, 24).Size(); w*h > MaxCells || w < 1 || h < 1 {
			t.Errorf("%q became a screen of %d by %d", data, w, h)
		}
	}
}
