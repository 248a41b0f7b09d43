package screen

import (
	"strings"
	"testing"
)

// show is the whole of a screen that a case looks at: the rows without those
// blank at the end, then the cursor.
func show(s *Screen) string {
	return strings.TrimRight(strings.Join(s.Lines(), "\n"), "\n")
}

type screenCase struct {
	name          string
	columns, rows int
	in            string
	want          string // the rows, parted by line feeds
	x, y          int
}

// cases follow what terminals do and shells rely on. Most are 10 columns by 4.
var cases = map[string][]screenCase{
	"text": {
		{"plain", 10, 4, "hello", "hello", 5, 0},
		{"line feed keeps the column", 10, 4, "ab\ncd", "ab\n  cd", 4, 1},
		{"carriage return", 10, 4, "ab\rc", "cb", 1, 0},
		{"backspace stops at the left", 10, 4, "a\b\b\bX", "X", 1, 0},
		{"tab", 20, 4, "a\tb", "a       b", 9, 0},
		{"tab at the end", 10, 4, "\t\tX", "         X", 9, 0},
		{"vertical tab and form feed are line feeds", 10, 4, "a\vb\fc", "a\n b\n  c", 3, 2},
		{"bell, null and delete show nothing", 10, 4, "a\a\x00\x7fb", "ab", 2, 0},
		{"scroll at the bottom", 10, 4, "1\r\n2\r\n3\r\n4\r\n5", "2\n3\n4\n5", 1, 3},
	},
	"wrap": {
		{"deferred at the last column", 10, 4, "0123456789", "0123456789", 9, 0},
		{"the next character wraps", 10, 4, "0123456789a", "0123456789\na", 1, 1},
		{"carriage return after the last column", 10, 4, "0123456789\rX", "X123456789", 1, 0},
		{"backspace after the last column", 10, 4, "0123456789\bX", "01234567X9", 9, 0},
		{"line feed after the last column", 10, 4, "0123456789\nX", "0123456789\n         X", 9, 1},
		{"colour keeps it pending", 10, 4, "0123456789\x1b[1mX", "0123456789\nX", 1, 1},
		{"erasing ends it", 10, 4, "0123456789\x1b[KX", "012345678X", 9, 0},
		{"off", 10, 4, "\x1b[?7l0123456789abc", "012345678c", 9, 0},
		{"scrolls at the bottom", 3, 2, "abcdefghi", "def\nghi", 2, 1},
		{"one column", 1, 3, "abc", "a\nb\nc", 0, 2},
		{"below the region it stays in its row", 4, 3, "\x1b[1;2r\x1b[3;1Habcdefgh", "\n\nefgh", 3, 2},
	},
	"wide": {
		{"takes two columns", 10, 4, "中a", "中a", 3, 0},
		{"does not fit and wraps", 5, 3, "abcd中", "abcd \n中", 2, 1},
		{"fits exactly", 4, 3, "ab中x", "ab中\nx", 1, 1},
		{"left half overwritten", 10, 4, "中\rX", "X", 1, 0},
		{"right half overwritten", 10, 4, "中\x1b[2GX", " X", 2, 0},
		{"wide over two halves", 10, 4, "中文\x1b[2G語", " 語", 3, 0},
		{"dropped where nothing wraps", 3, 2, "\x1b[?7lab中", "ab", 2, 0},
		{"dropped on one column", 1, 2, "中a", "a", 0, 0},
		{"erased by half", 10, 4, "a中b\x1b[3G\x1b[X", "a  b", 2, 0},
		{"deleted by half", 10, 4, "a中b\x1b[3G\x1b[P", "a b", 2, 0},
		{"pushed over the edge by half", 4, 2, "a中\x1b[1G\x1b[2@", "  a", 0, 0},
		{"Hangul from its parts", 10, 4, "\u1112\u1161\u11abx", "\u1112\u1161\u11abx", 3, 0},
	},
	"combining": {
		{"joins the one before", 10, 4, "e\u0301x", "e\u0301x", 2, 0},
		{"joins at the last column", 3, 2, "abe\u0301x", "abe\u0301\nx", 1, 1},
		{"nothing to join", 10, 4, "\u0301a", "a", 1, 0},
		{"joins a wide one", 10, 4, "中\u0301x", "中\u0301x", 3, 0},
		{"goes with its character", 10, 4, "ae\u0301b\r\x1b[2@\x1b[4G\x1b[P", "  ab", 3, 0},
		{"stays with its character", 10, 4, "e\u0301b\r\x1b[2@", "  e\u0301b", 0, 0},
		{"is overwritten with it", 10, 4, "e\u0301\re", "e", 1, 0},
		{"bidirectional controls are left out", 10, 4, "a\u202eb\u2066c", "abc", 3, 0},
		{"soft hyphen takes a column", 10, 4, "a\u00adb", "a\u00adb", 3, 0},
	},
	"emoji": {
		{"two columns", 10, 4, "👍x", "👍x", 3, 0},
		{"skin tone", 10, 4, "👍🏽x", "👍🏽x", 3, 0},
		{"joined family", 10, 4, "👨\u200d👩\u200d👧x", "👨\u200d👩\u200d👧x", 3, 0},
		{"symbol in emoji style", 10, 4, "❤\ufe0fx", "❤\ufe0fx", 3, 0},
		{"symbol in text style", 10, 4, "❤x", "❤x", 2, 0},
		{"flag", 10, 4, "🇩🇪x", "🇩🇪x", 3, 0},
		{"no join after a cursor move", 10, 4, "👨\u200d\x1b[3G👩x", "👨\u200d👩x", 5, 0},
		{"emoji style at the last column stays narrow", 3, 2, "ab❤\ufe0fx", "ab❤\nx", 1, 1},
	},
	"UTF-8": {
		{"broken off", 10, 4, "a\xe2\x82Ab", "a\ufffdAb", 4, 0},
		{"never valid", 10, 4, "a\xffb\xc0\xafc", "a\ufffdb\ufffd\ufffdc", 6, 0},
		{"surrogate", 10, 4, "\xed\xa0\x80x", "\ufffd\ufffd\ufffdx", 4, 0},
		{"broken off by a sequence", 10, 4, "\xf0\x9f\x91\x1b[1mx", "\ufffdx", 2, 0},
		{"C1 characters are no controls", 10, 4, "a\u009b31mb", "a31mb", 5, 0},
		{"raw C1 bytes are no controls", 10, 4, "a\x9b1", "a\ufffd1", 3, 0},
	},
	"cursor": {
		{"address", 10, 4, "\x1b[2;3HX", "\n  X", 3, 1},
		{"address beyond", 10, 4, "\x1b[99;99HX", "\n\n\n         X", 9, 3},
		{"zero is one", 10, 4, "\x1b[0;0HX", "X", 1, 0},
		{"up and down stop", 10, 4, "\x1b[99AX\x1b[99BY", "X\n\n\n Y", 2, 3},
		{"left and right stop", 10, 4, "\x1b[99CX\x1b[99DY", "Y        X", 1, 0},
		{"next and previous line", 10, 4, "ab\x1b[2EX\x1b[FY", "ab\nY\nX", 1, 1},
		{"column and row", 10, 4, "\x1b[5GX\x1b[3dY", "    X\n\n     Y", 6, 2},
		{"saved and restored", 10, 4, "ab\x1b7\x1b[4;4H\x1b8X", "abX", 3, 0},
		{"restored before a wrap", 3, 3, "abc\x1b7\x1b[3;1H\x1b8X", "abc\nX", 1, 1},
		{"restored without a save", 10, 4, "ab\x1b8X", "Xb", 1, 0},
		{"tab stops set and cleared", 20, 2, "\x1b[3g\x1b[5G\x1bH\r\tX\r\x1b[5G\x1b[g\r\tY", "    X              Y", 19, 0},
		{"back and forward tabs", 30, 2, "\x1b[2IX\x1b[2ZY", "        Y       X", 9, 0},
	},
	"lines": {
		{"index and next line", 10, 4, "a\x1bDb\x1bEc", "a\n b\nc", 1, 2},
		{"reverse index scrolls at the top", 10, 3, "1\r\n2\r\n3\x1b[H\x1bMX", "X\n1\n2", 1, 0},
		{"newline mode", 10, 4, "\x1b[20ha\nb", "a\nb", 1, 1},
		{"insert lines", 10, 4, "1\r\n2\r\n3\r\n4\x1b[2;2H\x1b[2L", "1\n\n\n2", 0, 1},
		{"delete lines", 10, 4, "1\r\n2\r\n3\r\n4\x1b[2;2H\x1b[2M", "1\n4", 0, 1},
		{"scroll up and down", 10, 4, "1\r\n2\r\n3\r\n4\x1b[2S\x1b[T", "\n3\n4", 1, 3},
		{"far too many", 10, 4, "1\r\n2\x1b[99999999999S", "", 1, 1},
		{"mouse tracking is no scroll", 10, 4, "1\x1b[1;2;3;4;5T", "1", 1, 0},
	},
	"region": {
		{"line feed scrolls inside", 10, 4, "1\r\n2\r\n3\r\n4\x1b[2;3r\x1b[3;1H\nX", "1\n3\nX\n4", 1, 2},
		{"line feed outside does not", 10, 4, "1\r\n2\r\n3\r\n4\x1b[1;2r\x1b[4;1H\nX", "1\n2\n3\nX", 1, 3},
		{"setting it homes", 10, 4, "ab\x1b[2;3rX", "Xb", 1, 0},
		{"one row is refused", 10, 4, "ab\x1b[2;2rX", "abX", 3, 0},
		{"origin mode", 10, 4, "\x1b[2;3r\x1b[?6hX\x1b[9;1HY", "\nX\nY", 1, 2},
		{"insert outside does nothing", 10, 4, "1\r\n2\x1b[3;4r\x1b[1;2H\x1b[L", "1\n2", 1, 0},
		{"cursor up stops at its top", 10, 4, "\x1b[2;4r\x1b[3;1H\x1b[9AX", "\nX", 1, 1},
		{"restoring private modes does not set it", 10, 4, "ab\x1b[?1;2rX", "abX", 3, 0},
	},
	"editing": {
		{"insert characters", 6, 2, "abcdef\x1b[2G\x1b[2@", "a  bcd", 1, 0},
		{"delete characters", 6, 2, "abcdef\x1b[2G\x1b[2P", "adef", 1, 0},
		{"erase characters", 6, 2, "abcdef\x1b[2G\x1b[2X", "a  def", 1, 0},
		{"erase line right, left, all", 6, 3, "abcdef\r\nabcdef\r\nabcdef\x1b[3G\x1b[2K\x1b[A\x1b[1K\x1b[A\x1b[K", "ab\n   def", 2, 0},
		{"erase display below", 6, 3, "11\r\n22\r\n33\x1b[2;2H\x1b[J", "11\n2", 1, 1},
		{"erase display above", 6, 3, "11\r\n22\r\n33\x1b[2;1H\x1b[1J", "\n 2\n33", 0, 1},
		{"erase display", 6, 3, "11\r\n22\x1b[2JX", "\n  X", 3, 1},
		{"selective erase erases", 6, 3, "11\x1b[?2JX", "  X", 3, 0},
		{"insert mode", 6, 2, "abcd\r\x1b[4hXY\x1b[4lZ", "XYZbcd", 3, 0},
		{"repeat", 10, 2, "ab\x1b[3b", "abbbb", 5, 0},
		{"repeat after a move does nothing", 10, 2, "ab\r\x1b[3b", "ab", 0, 0},
		{"repeat wraps", 4, 3, "a\x1b[4b", "aaaa\na", 1, 1},
		{"screen alignment", 3, 2, "\x1b#8", "EEE\nEEE", 0, 0},
	},
	"charset": {
		{"line drawing", 10, 2, "\x1b(0lqk\x1b(Bq", "┌─┐q", 4, 0},
		{"shift out and in", 10, 2, "\x1b)0a\x0eq\x0fq", "a─q", 3, 0},
		{"saved with the cursor", 10, 2, "\x1b(0\x1b7\x1b(B\x1b8q", "─", 1, 0},
		{"selecting UTF-8 shows nothing", 10, 2, "a\x1b%Gb", "ab", 2, 0},
	},
	"screens": {
		{"alternate and back", 10, 3, "main\x1b[?1049h\x1b[Halt\x1b[?1049l!", "main!", 5, 0},
		{"alternate begins blank", 10, 3, "main\x1b[?1049hX", "    X", 5, 0},
		{"47 keeps the cursor", 10, 3, "ab\x1b[?47h\x1b[2;2H\x1b[?47lX", "ab\n X", 2, 1},
		{"1047", 10, 3, "ab\x1b[?1047hcd\x1b[?1047lX", "ab  X", 5, 0},
		{"1048 saves the cursor", 10, 3, "ab\x1b[?1048h\r\x1b[?1048lX", "abX", 3, 0},
		{"entered twice", 10, 3, "ab\x1b[?1049h\x1b[2;2H\x1b[?1049h\x1b[?1049lX", "abX", 3, 0},
		{"reset leaves it", 10, 3, "ab\x1b[?1049hcd\x1bcX", "X", 1, 0},
	},
	"sequences": {
		{"title by BEL", 20, 2, "\x1b]0;title\aX", "X", 1, 0},
		{"title by ST", 20, 2, "\x1b]2;title\x1b\\X", "X", 1, 0},
		{"byte 9C in a title's character", 20, 2, "\x1b]0;\u271c still title\aX", "X", 1, 0},
		{"device control string", 20, 2, "\x1bPq#0;2;0\aabc\x1b\\X", "X", 1, 0},
		{"APC, PM and SOS", 20, 2, "\x1b_a\x1b\\\x1b^b\x1b\\\x1bXc\x1b\\X", "X", 1, 0},
		{"title of screen", 20, 2, "\x1bkname\x1b\\X", "X", 1, 0},
		{"broken off by another escape", 20, 2, "\x1b]0;ab\x1b[5GX", "    X", 5, 0},
		{"cancelled", 20, 2, "\x1b[12\x18X\x1b]0;t\x1aY", "XY", 2, 0},
		{"control inside a sequence", 20, 2, "ab\x1b[\r3CX", "ab X", 4, 0},
		{"private prefixes", 20, 2, "a\x1b[>4;2m\x1b[=1u\x1b[<1u\x1b[?u\x1b[>cX", "aX", 2, 0},
		{"unknown intermediates", 20, 2, "a\x1b[1$r\x1b[2\"p\x1b[!!p\x1b(%X\x1b[1 AX", "aX", 2, 0},
		{"prefix in the wrong place", 20, 2, "a\x1b[1?25lX", "aX", 2, 0},
		{"colours that are cut short", 20, 2, "\x1b[38;5m\x1b[38;2;1m\x1b[48mX\x1b[38:2mY", "XY", 2, 0},
		{"hyperlink", 20, 2, "\x1b]8;;http://x/\x1b\\link\x1b]8;;\x1b\\", "link", 4, 0},
		{"soft reset", 20, 3, "ab\x1b[2;3r\x1b[?6h\x1b[4h\x1b[!pX", "ab\nX", 1, 1},
	},
}

func TestCases(t *testing.T) {
	for group, list := range cases {
		t.Run(group, func(t *testing.T) {
			for _, c := range list {
				s := New(c.columns, c.rows)
				_, _ = s.Write([]byte(c.in))
				got, want := show(s), c.want
				// A row that wraps keeps its blanks.
				if strings.ReplaceAll(got, " \n", "\n") != strings.ReplaceAll(want, " \n", "\n") {
					t.Errorf("%s: %q shows\n%q, want\n%q", c.name, c.in, got, want)
				}
				if x, y, _ := s.Cursor(); x != c.x || y != c.y {
					t.Errorf("%s: %q leaves the cursor at %d,%d, want %d,%d", c.name, c.in, x, y, c.x, c.y)
				}
				checkSnapshot(t, s)
				checkChunks(t, c.columns, c.rows, c.in)
			}
		})
	}
}

// checkSnapshot demands that a snapshot makes an equal screen, from a new one
// and from one in disorder.
func checkSnapshot(t testing.TB, s *Screen) {
	t.Helper()
	shot := s.Snapshot()
	for _, before := range []string{"", "x\x1b[?1049h\x1b[?6h\x1b[4h\x1b(0\x1b[31m\x1b]0;ti"} {
		again := New(s.columns, s.rows)
		_, _ = again.Write([]byte(before))
		_, _ = again.Write(shot)
		if !s.Equal(again) {
			t.Fatalf("the snapshot %.2000q: %s", shot, difference(again, s))
		}
	}
}

// checkChunks demands that the input byte by byte does the same as at once.
func checkChunks(t testing.TB, columns, rows int, in string) {
	t.Helper()
	whole, bytewise := New(columns, rows), New(columns, rows)
	_, _ = whole.Write([]byte(in))
	for i := range len(in) {
		_, _ = bytewise.Write([]byte{in[i]})
	}
	if !whole.Equal(bytewise) {
		t.Fatalf("%q byte by byte: %s", in, difference(bytewise, whole))
	}
}

func TestWrappedRowsJoin(t *testing.T) {
	s := New(5, 4)
	_, _ = s.Write([]byte("ab cd  efgh\r\nnew"))
	if got := s.Text(); got != "ab cd  efgh\nnew\n" {
		t.Errorf("the text is %q", got)
	}
	if !s.Wrapped(0) || !s.Wrapped(1) || s.Wrapped(2) || s.Wrapped(-1) || s.Wrapped(99) {
		t.Errorf("wrapped rows: %v %v %v", s.Wrapped(0), s.Wrapped(1), s.Wrapped(2))
	}
	_, _ = s.Write([]byte("\x1b[1;3H\x1b[K"))
	if s.Wrapped(0) {
		t.Error("a row whose end was erased still goes on in the next")
	}
}

func TestStyles(t *testing.T) {
	red := Colour{Kind: 'i', Index: 1}
	for _, c := range []struct {
		in   string
		want Cell
	}{
		{"\x1b[31mX", Cell{Foreground: red}},
		{"\x1b[91;44mX", Cell{Foreground: Colour{Kind: 'i', Index: 9}, Background: Colour{Kind: 'i', Index: 4}}},
		{"\x1b[38;5;200mX", Cell{Foreground: Colour{Kind: 'i', Index: 200}}},
		{"\x1b[38;2;1;2;3;1mX", Cell{Foreground: Colour{Kind: 'r', Red: 1, Green: 2, Blue: 3}, Bold: true}},
		{"\x1b[48:2::1:2:3mX", Cell{Background: Colour{Kind: 'r', Red: 1, Green: 2, Blue: 3}}},
		{"\x1b[48:2:1:2:3mX", Cell{Background: Colour{Kind: 'r', Red: 1, Green: 2, Blue: 3}}},
		{"\x1b[38:5:7mX", Cell{Foreground: Colour{Kind: 'i', Index: 7}}},
		{"\x1b[1;2;3;4;5;7;8;9;53mX", Cell{Bold: true, Faint: true, Italic: true, Underline: 1,
			Blink: true, Inverse: true, Invisible: true, Strike: true, Overline: true}},
		{"\x1b[1;2;3;4;5;7;8;9;53m\x1b[22;23;24;25;27;28;29;55mX", Cell{}},
		{"\x1b[4:3mX", Cell{Underline: 3}},
		{"\x1b[21mX", Cell{Underline: 2}},
		{"\x1b[4:0mX", Cell{}},
		{"\x1b[58;5;1;3mX", Cell{Italic: true}},
		{"\x1b[58:2::1:1:1;3mX", Cell{Italic: true}},
		{"\x1b[31;41m\x1b[39;49mX", Cell{}},
		{"\x1b[31m\x1b[mX", Cell{}},
		{"\x1b[38;5;999mX", Cell{}},
		{"\x1b[31;1m\x1b7\x1b[m\x1b8X", Cell{Foreground: red, Bold: true}},
	} {
		s := New(10, 2)
		_, _ = s.Write([]byte(c.in))
		want := c.want
		want.Text, want.Width = "X", 1
		for _, colour := range []*Colour{&want.Foreground, &want.Background} {
			if colour.Kind == 0 {
				colour.Kind = 'd'
			}
		}
		if got := s.Cell(0, 0); got != want {
			t.Errorf("%q: %+v, want %+v", c.in, got, want)
		}
		checkSnapshot(t, s)
	}
	s := New(10, 3)
	_, _ = s.Write([]byte("abc\x1b[41m\x1b[2G\x1b[K\x1b[2;5H\x1b[1K\x1b[3;1H中"))
	if got := s.Cell(9, 0).Background; got != red {
		t.Errorf("erased cells have the background %v", got)
	}
	if got := s.Cell(1, 2); got.Text != "" || got.Width != 0 || got.Background != red {
		t.Errorf("the right half of a wide character is %+v", got)
	}
	if got := s.Cell(10, 0); got != (Cell{}) {
		t.Errorf("outside the screen stands %+v", got)
	}
	checkSnapshot(t, s)
}

func TestTitle(t *testing.T) {
	for in, want := range map[string]string{
		"\x1b]0;one\a":                               "one",
		"\x1b]2;two\x1b\\":                           "two",
		"\x1b]1;icon\a":                              "",
		"\x1b]0;\u271c cross\a":                      "\u271c cross",
		"\x1b]0;a\u009cb\u0085c\a":                   "abc",
		"\x1b]0;bad\xff\a":                           "bad\ufffd",
		"\x1b]0;a\x1b]2;b\a":                         "b",
		"\x1b]20;x\a\x1b]x;y\a\x1b]\a":               "",
		"\x1b]2;" + strings.Repeat("é", 5000) + "\a": strings.Repeat("é", maxTitle/2),
	} {
		s := New(10, 2)
		_, _ = s.Write([]byte(in))
		if got := s.Title(); got != want {
			t.Errorf("%.40q: the title is %.40q, want %.40q", in, got, want)
		}
		if show(s) != "" {
			t.Errorf("%.40q leaks %q to the screen", in, show(s))
		}
		checkSnapshot(t, s)
	}
}

func TestPromptMarksAreTold(t *testing.T) {
	s := New(20, 4)
	var told []string
	s.HandleOSC(func(number int, data []byte) {
		x, y, _ := s.Cursor()
		told = append(told, strings.Join([]string{string(rune('0' + x)), string(rune('0' + y)), string(data)}, " "))
		if number != 133 && number != 7 {
			t.Errorf("told of command %d", number)
		}
	})
	in := "\x1b]133;A\a$ \x1b]133;B\x1b\\ls\r\n\x1b]133;C\aout\r\n\x1b]133;D;0\a\x1b]7;file://h/\a" +
		"\x1b]133;" + strings.Repeat("x", maxOSC) + "\a\x1b]133;cut\x18\x1b]1330x;\a"
	for i := range len(in) {
		_, _ = s.Write([]byte{in[i]})
	}
	want := "0 0 A|2 0 B|0 1 C|0 2 D;0|0 2 file://h/"
	if got := strings.Join(told, "|"); got != want {
		t.Errorf("told %q, want %q", got, want)
	}
}

func TestResize(t *testing.T) {
	for _, c := range []struct {
		name          string
		in            string
		columns, rows int
		after, want   string
		x, y          int
	}{
		{"narrower cuts", "abcdef\r\nx", 3, 4, "", "abc\nx", 1, 1},
		{"narrower cuts a wide character", "ab中", 3, 4, "", "ab", 2, 0},
		{"wider adds blanks", "abcdefghij", 12, 4, "k", "abcdefghik", 10, 0},
		{"lower keeps the cursor's row", "1\r\n2\r\n3\r\n4", 10, 2, "", "3\n4", 1, 1},
		{"lower drops what is below", "1\r\n2\r\n3\x1b[1;2H", 10, 2, "X", "1X\n2", 2, 0},
		{"higher adds rows", "1\r\n2\r\n3\r\n4", 10, 6, "\nX", "1\n2\n3\n4\n X", 2, 4},
		{"the region is the whole screen again", "\x1b[1;2r\x1b[?6h", 10, 3, "\x1b[3;1HX", "\n\nX", 1, 2},
		{"the main screen behind the alternate", "1\r\n2\r\n3\r\n4\x1b[?1049hX", 10, 2, "\x1b[?1049lY", "3\n4Y", 2, 1},
		{"wide again after narrow", "abcdef", 2, 1, "\x1b[2;1H", "ab", 0, 0},
		{"nothing", "ab", -5, 0, "", "b", 0, 0},
		{"new columns have tab stops", "", 30, 2, "\t\t\tX", "                        X", 25, 0},
	} {
		s := New(10, 4)
		_, _ = s.Write([]byte(c.in))
		s.Resize(c.columns, c.rows)
		checkSnapshot(t, s)
		_, _ = s.Write([]byte(c.after))
		if c.name == "nothing" { // one cell: the row's first character is left
			c.want = "a"
		}
		if got := show(s); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
		if x, y, _ := s.Cursor(); x != c.x || y != c.y {
			t.Errorf("%s: cursor at %d,%d, want %d,%d", c.name, x, y, c.x, c.y)
		}
	}
	for _, c := range [][4]int{{65535, 65535, MaxColumns, MaxCells / MaxColumns}, {-1, 0, 1, 1}, {80, 65535, 80, MaxRows}} {
		columns, rows := New(c[0], c[1]).Size()
		if columns != c[2] || rows != c[3] {
			t.Errorf("%d by %d became %d by %d", c[0], c[1], columns, rows)
		}
	}
}

// TestSnapshotIsWhole takes a state apart from content: what a snapshot would
// most easily forget.
func TestSnapshotIsWhole(t *testing.T) {
	for _, in := range []string{
		"\x1b[?1;5;9;66;1000;1002;1003;1004;1005;1006;1007;1015;2004h\x1b[?25l\x1b[5 q",
		"\x1b[4h\x1b[20h\x1b[2;3r\x1b[?6hX", "\x1b[3g\x1b[4G\x1bH\x1b[7Gab", "0123456789", "\x1b(0\x1b)0\x0elq",
		"\x1b[31m0123456789\x1b7\x1b[2;1H", "\x1b[2;3r\x1b[?6h\x1b[2;2H\x1b7\x1b[?6l\x1b[r\x1b[4;4H",
		"main\x1b7\x1b[?1049halt\x1b7\x1b[41m\x1b[2J", "\x1b[41m\x1b[2J\x1b[2;2H\x1b[42mx\x1b[44m\x1b[K",
		"ab中文e\u0301👍🏽❤\ufe0fx", "👍\x1b[3G🏽", "❤\x1b[2G\ufe0f", "12345678👍\x1b[2;1Hx\x1b[1;9H\x1b[9G👨\u200d👩",
		"0123456789👨", "\x1b[?7l0123456789", "12345678👨\u200dab\x1b[2;1H👩", "01234567中文", "ab\x1b[1mc",
		// Sequences still to be completed.
		"\x1b", "\x1b[", "\x1b[3", "\x1b[3;;4", "\x1b[?25", "\x1b[38:2::1", "\x1b[1 ", "\x1b[1?", "\x1b(", "\x1b((",
		"\x1b]", "\x1b]0;ti", "\x1b]0;ti\x1b", "\x1bP1q", "\x1bX\x1b", "\xf0\x9f\x91", "\xe4",
		"\x1b]0;" + strings.Repeat("x", maxOSC+5), "\x1b[" + strings.Repeat("1;", 100),
	} {
		s := New(10, 4)
		_, _ = s.Write([]byte(in))
		checkSnapshot(t, s)
	}
	s := New(120, 40)
	for i := range 40 {
		_, _ = s.Write([]byte("\x1b[1;32muser@host\x1b[m:\x1b[34m/data\x1b[m$ ls -l " + strings.Repeat("x", i) + "\r\n"))
	}
	if n := len(s.Snapshot()); n > 4096 {
		t.Errorf("an ordinary screen's snapshot has %d bytes", n)
	}
}
