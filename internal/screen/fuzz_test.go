package screen

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
)

// tokens are what hostile and ordinary programs write, as pieces.
var tokens = []string{
	"a", "hello world ", "0123456789", " ", "中", "文字", "👍", "🏽", "👨\u200d👩\u200d👧", "❤\ufe0f", "\ufe0f", "\u200d", "❤", "🇩", "e\u0301", "\u0301",
	"\u1112", "\u1161", "\u202e", "\u00ad", "\xff", "\xe4\xb8", "\xad", "\xf0\x9f", "\x91\x8d", "\xed\xa0\x80", "\u009c", "\u271c",
	"\r", "\n", "\r\n", "\b", "\t", "\v", "\x0e", "\x0f", "\x18", "\x1a", "\x1b", "\x00", "\x7f", "\a",
	"\x1b[H", "\x1b[2;3H", "\x1b[99;99H", "\x1b[A", "\x1b[9B", "\x1b[C", "\x1b[2D", "\x1b[5G", "\x1b[3d", "\x1b[E", "\x1b[F", "\x1b[I", "\x1b[Z",
	"\x1b[J", "\x1b[1J", "\x1b[2J", "\x1b[3J", "\x1b[K", "\x1b[1K", "\x1b[2K", "\x1b[X", "\x1b[3X", "\x1b[@", "\x1b[4@", "\x1b[P", "\x1b[3P",
	"\x1b[L", "\x1b[2L", "\x1b[M", "\x1b[9M", "\x1b[S", "\x1b[2T", "\x1b[b", "\x1b[5b", "\x1b[65535b", "\x1b[2147483647I",
	"\x1b[2;4r", "\x1b[r", "\x1b[1;2r", "\x1b[?6h", "\x1b[?6l", "\x1b[?7h", "\x1b[?7l", "\x1b[4h", "\x1b[4l", "\x1b[20h", "\x1b[20l",
	"\x1b[?1049h", "\x1b[?1049l", "\x1b[?47h", "\x1b[?47l", "\x1b[?1047h", "\x1b[?1047l", "\x1b[?1048h", "\x1b[?25l", "\x1b[?2004h", "\x1b[?5h",
	"\x1b7", "\x1b8", "\x1b[s", "\x1b[u", "\x1bD", "\x1bE", "\x1bM", "\x1bH", "\x1b[g", "\x1b[3g", "\x1b#8", "\x1bc", "\x1b[!p", "\x1b=", "\x1b>",
	"\x1b(0", "\x1b(B", "\x1b)0", "lqk", "\x1b[m", "\x1b[1;31m", "\x1b[38;5;99m", "\x1b[48;2;1;2;3m", "\x1b[4:3m", "\x1b[41m", "\x1b[7m", "\x1b[22;39m",
	"\x1b]0;title\a", "\x1b]2;\u271c\x1b\\", "\x1b]133;A\a", "\x1b]", "\x1bP", "\x1b_x", "\x1b\\", "\x1bk", "\x1b[", "\x1b[?", "1;2", ":", ";;;", "m", "$", "<",
}

// sizes are what the fuzzed screens have.
var sizes = [][2]int{{1, 1}, {2, 2}, {10, 4}, {7, 3}, {80, 24}, {1, 30}, {30, 1}, {12, 6}}

// program is a list of writes and resizes made of arbitrary bytes: a byte below
// 0xf0 picks a token, 0xf0 to 0xf7 a size, the others pass the next byte as is.
func program(seed []byte) []any {
	var steps []any
	for i := 0; i < len(seed); i++ {
		switch c := seed[i]; {
		case c < 0xf0:
			steps = append(steps, tokens[int(c)%len(tokens)])
		case c < 0xf8:
			steps = append(steps, sizes[c-0xf0])
		case i+1 < len(seed):
			i++
			steps = append(steps, string(seed[i:i+1]))
		}
	}
	return steps
}

// checkProgram runs the steps on one screen in writes as long as they go, on one
// byte by byte, and on one that is made anew from a snapshot in the middle.
func checkProgram(t testing.TB, seed []byte) {
	t.Helper()
	steps := program(seed)
	whole, bytewise, again := New(10, 4), New(10, 4), New(10, 4)
	var run strings.Builder
	flush := func() {
		_, _ = whole.Write([]byte(run.String()))
		run.Reset()
	}
	for i, step := range steps {
		if i == len(steps)/2 {
			shot := again.Snapshot()
			fresh := New(again.columns, again.rows)
			_, _ = fresh.Write(shot)
			if !fresh.Equal(again) {
				t.Fatalf("%q: the snapshot %q: %s", steps[:i], shot, difference(fresh, again))
			}
			again = fresh
		}
		switch step := step.(type) {
		case string:
			run.WriteString(step)
			for j := range len(step) {
				_, _ = bytewise.Write([]byte{step[j]})
			}
			_, _ = again.Write([]byte(step))
		case [2]int:
			flush()
			for _, s := range []*Screen{whole, bytewise, again} {
				s.Resize(step[0], step[1])
			}
		}
		checkSound(t, again)
	}
	flush()
	if !whole.Equal(bytewise) {
		t.Fatalf("%q byte by byte: %s", steps, difference(bytewise, whole))
	}
	if !whole.Equal(again) {
		t.Fatalf("%q with a snapshot in the middle: %s", steps, difference(again, whole))
	}
	checkSnapshot(t, whole)
}

// checkSound demands what every state must keep.
func checkSound(t testing.TB, s *Screen) {
	t.Helper()
	if s.x < 0 || s.x >= s.columns || s.y < 0 || s.y >= s.rows || s.top < 0 || s.top > s.bottom || s.bottom >= s.rows {
		t.Fatalf("cursor %d,%d, region %d to %d on %d by %d", s.x, s.y, s.top, s.bottom, s.columns, s.rows)
	}
	if s.pending && (s.x != s.columns-1 || s.modes&modeWrap == 0 || s.last == 0) {
		t.Fatal("a wrap is pending where none can be")
	}
	for y := range s.rows {
		r := s.grid.row(y)
		if len(r.cells) != s.columns || r.used > s.columns || r.wrapped && y == s.rows-1 {
			t.Fatalf("row %d of %d: %d cells, %d used, wrapped %v", y, s.rows, len(r.cells), r.used, r.wrapped)
		}
		for x := range s.columns {
			wide := r.at(x).glyph&flagWide != 0
			rest := x+1 < s.columns && r.at(x+1).glyph&flagRest != 0
			if wide != rest || x == 0 && r.at(0).glyph&flagRest != 0 {
				t.Fatalf("half a wide character at %d,%d", x, y)
			}
		}
	}
}

// FuzzScreen looks for a panic, a result that depends on how the input is cut,
// and a snapshot that does not make an equal screen.
func FuzzScreen(f *testing.F) {
	f.Add([]byte("hello"))
	for seed := range uint64(60) {
		f.Add(randomProgram(seed, 400))
	}
	f.Fuzz(func(t *testing.T, seed []byte) {
		if len(seed) > 4000 {
			seed = seed[:4000]
		}
		checkProgram(t, seed)
	})
}

func randomProgram(seed uint64, length int) []byte {
	random := rand.New(rand.NewPCG(seed, 1))
	out := make([]byte, length)
	for i := range out {
		out[i] = byte(random.IntN(256))
		// Resizes and stray bytes are rare, or nothing else would be seen.
		if out[i] >= 0xf0 && random.IntN(8) != 0 {
			out[i] = byte(random.IntN(0xf0))
		}
	}
	return out
}

// TestRandomPrograms is the fuzz target's work on programs of its own seeds.
func TestRandomPrograms(t *testing.T) {
	for seed := range uint64(400 / slowdown) {
		checkProgram(t, randomProgram(seed+1000, 120))
	}
}

// difference names what is not equal between two screens.
func difference(a, b *Screen) string {
	for y := range min(a.rows, b.rows) {
		for x := range min(a.columns, b.columns) {
			if a.Cell(x, y) != b.Cell(x, y) {
				return fmt.Sprintf("cell %d,%d: %+v and %+v", x, y, a.Cell(x, y), b.Cell(x, y))
			}
		}
		if a.Wrapped(y) != b.Wrapped(y) {
			return fmt.Sprintf("row %d wraps: %v and %v", y, a.Wrapped(y), b.Wrapped(y))
		}
	}
	state := func(s *Screen) string {
		return fmt.Sprintf("size %d,%d alternate %d cursor %d,%d pending %v last %q at %d pen %x charsets %q %d region %d,%d modes %b style %d title %q saved %+v parser %q",
			s.columns, s.rows, s.active, s.x, s.y, s.pending, s.last, s.lastX, s.pen, s.charsets, s.shift,
			s.top, s.bottom, s.modes, s.cursorStyle, s.title, s.saved, s.parser.tail(nil))
	}
	return state(a) + "\nand\n" + state(b)
}
