package screen

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"
	"time"
)

func plainOutput() []byte {
	var b strings.Builder
	for i := range 2000 {
		fmt.Fprintf(&b, "drwxr-xr-x 2 root root %7d Jan  1 12:00 file-%d%s\r\n", i*17, i, strings.Repeat("x", i%40))
	}
	return []byte(b.String())
}

func colourOutput() []byte {
	var b strings.Builder
	for i := range 2000 {
		fmt.Fprintf(&b, "\x1b[0m\x1b[01;34mdir%d\x1b[0m  \x1b[38;5;%dmword\x1b[m \x1b[1;31merror:\x1b[39;22m something \x1b[38;2;1;2;%dmtext\x1b[m\r\n", i, i%256, i%256)
	}
	return []byte(b.String())
}

func fullScreenOutput() []byte {
	random := rand.New(rand.NewPCG(1, 2))
	var b strings.Builder
	b.WriteString("\x1b[?1049h")
	for range 300 {
		b.WriteString("\x1b[H\x1b[?25l")
		for y := range 40 {
			fmt.Fprintf(&b, "\x1b[%d;1H\x1b[%dm%5d\x1b[m %-12s \x1b[%dG%s\x1b[K", y+1, 31+y%7, random.IntN(99999), "process", 40, strings.Repeat("|", random.IntN(60)))
		}
	}
	return []byte(b.String())
}

func wideOutput() []byte {
	return []byte(strings.Repeat("日本語のテキストと絵文字👍🏽とcombining e\u0301\r\n", 2000))
}

func benchmark(b *testing.B, in []byte) {
	s := New(120, 40)
	b.SetBytes(int64(len(in)))
	b.ReportAllocs()
	for b.Loop() {
		_, _ = s.Write(in)
	}
}

func BenchmarkPlain(b *testing.B)      { benchmark(b, plainOutput()) }
func BenchmarkColour(b *testing.B)     { benchmark(b, colourOutput()) }
func BenchmarkFullScreen(b *testing.B) { benchmark(b, fullScreenOutput()) }
func BenchmarkWide(b *testing.B)       { benchmark(b, wideOutput()) }

func BenchmarkSnapshot(b *testing.B) {
	s := New(120, 40)
	_, _ = s.Write(fullScreenOutput())
	b.SetBytes(int64(len(s.Snapshot())))
	for b.Loop() {
		_ = s.Snapshot()
	}
}

// bombs are pieces that cost the most for their length, each repeated.
var bombs = []string{
	"\x1b[2J", "\x1b[41m\x1b[2J", "\x1b[J", "\x1b[1J", "\x1bc", "\x1b#8", "\x1b#8\x1b[2J", "\x1b[L", "\x1b[M", "\x1b[9L", "\x1b[999M", "\x1b[S", "\x1b[T",
	"\x1b[999S", "\x1b[999T", "\x1bM", "\n", "\x1b[65535b", "x\x1b[65535b", "中\x1b[65535b", "x\x1b[9b", "\x1b[2147483647I", "\x1b[99Z", "\t", "\x1b[I\r",
	"\x1b[?1049h\x1b[?1049l", "\x1b[?47h\x1b[?47l", "\x1b[4h\rx", "\r\x1b[4h中", "\x1b[@", "\x1b[P", "\r\x1b[@", "\r\x1b[9P", "\x1b[X", "\r\x1b[K",
	"\x1b[999X", "e\u0301", "\u0301", "\re\u0301\u0302", "\ra\u0301\x1b[@", "❤\ufe0f", "\u200d", "👍🏽", "中", "\x1b[", "\x1b[;", ";", "\x1b[1;1;1;1;1;1m",
	"\x1b[m", "\x1b]0;x\a", "\x1b]133;A\a", "\x1b]", "\x1bP", "\x1bP\x1b\\", "\xff", "\xe4", "\x1b[3g", "\x1b7\x1b8", "\x1b[2;3r", "\x1b[r", "\x1b[!p", "\x1b[?6h",
}

// TestNoInputCostsMuch holds a KiB of each bomb to 5 ms on the largest screens.
// It takes the best of several runs: a busy machine must not look like a slow model.
func TestNoInputCostsMuch(t *testing.T) {
	const limit = slowdown * 5 * time.Millisecond
	var worst time.Duration
	var of string
	for _, size := range [][2]int{{MaxColumns, MaxRows}, {150, MaxRows}, {300, 250}, {80, 24}} {
		s := New(size[0], size[1])
		for _, bomb := range bombs {
			in := []byte(strings.Repeat(bomb, 1024/len(bomb)))
			_, _ = s.Write([]byte("\x1bc\x1b[?1049h\x1b[?1049l\x1b#8" + strings.Repeat("e\u0301", 3000) + "\x1b[5;5H"))
			best := time.Hour
			for range 10 {
				start := time.Now()
				_, _ = s.Write(in)
				if best = min(best, time.Since(start)); best < limit/4 {
					break
				}
			}
			if best > worst {
				worst, of = best, bomb
			}
			if best > limit {
				t.Errorf("%d by %d: 1 KiB of %q takes %v", size[0], size[1], bomb, best)
			}
			_, _ = s.Write([]byte("\x18"))
		}
	}
	t.Logf("the worst is %q with %v", of, worst)
}

// TestLongStringsAndLists are the bombs that other models fell to.
func TestLongStringsAndLists(t *testing.T) {
	s := New(80, 24)
	_, _ = s.Write([]byte("\x1b]0;"))
	chunk := []byte(strings.Repeat("x", 1<<20))
	for range 50 {
		_, _ = s.Write(chunk)
		if cap(s.parser.data) > 2*maxOSC {
			t.Fatalf("an endless title keeps %d bytes", cap(s.parser.data))
		}
	}
	_, _ = s.Write([]byte("\aA\x1b[" + strings.Repeat("1;", 200000) + "mB\x1b[2147483647IC\x1bP"))
	for range 50 {
		_, _ = s.Write(chunk)
	}
	_, _ = s.Write([]byte("\x1b\\D"))
	if s.Title() != "" || !strings.HasPrefix(s.Row(0), "AB") || !strings.HasSuffix(s.Row(0), "C") || s.Row(1) != "D" {
		t.Errorf("title %q, rows %q", s.Title(), s.Lines()[:2])
	}
}

// TestMemoryIsBounded fills the largest screens with what takes most.
func TestMemoryIsBounded(t *testing.T) {
	const limit = 2 << 20
	for _, size := range [][2]int{{MaxColumns, MaxRows}, {150, MaxRows}, {250, 300}, {80, 24}, {1, MaxRows}} {
		heap := func() uint64 {
			runtime.GC()
			runtime.GC()
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			return m.HeapAlloc
		}
		before := heap()
		s := New(1, 1)
		s.Resize(size[0], size[1])
		cells := []byte(strings.Repeat("\x1b[38;2;1;2;3me\u0301\u0302中\u0301", min(size[0]*size[1], MaxCells)/3+1))
		_, _ = s.Write(cells)
		_, _ = s.Write([]byte("\x1b[?1049h"))
		_, _ = s.Write(cells)
		_, _ = s.Write([]byte("\x1b]0;" + strings.Repeat("t", 60000) + "\a\x1b]133;" + strings.Repeat("x", maxOSC-10)))
		clear(cells)
		cells = nil
		after := heap()
		t.Logf("%d by %d takes %d KiB", size[0], size[1], (int64(after)-int64(before))>>10)
		if after > before && after-before > limit {
			t.Errorf("%d by %d takes %d KiB", size[0], size[1], (after-before)>>10)
		}
		if got, most := len(s.Snapshot()), 100*2*s.columns*s.rows+maxOSC+4096; got > most {
			t.Errorf("%d by %d has a snapshot of %d bytes", size[0], size[1], got)
		}
		again := New(s.columns, s.rows)
		_, _ = again.Write(s.Snapshot())
		if !s.Equal(again) {
			t.Errorf("%d by %d: its snapshot is not equal: %s", size[0], size[1], difference(again, s))
		}
		runtime.KeepAlive(s)
	}
}

// TestSpeed is a floor far below what the benchmarks show, so that it holds on a
// busy machine: 20 MB/s of each kind of output.
func TestSpeed(t *testing.T) {
	const floor = 20e6 / slowdown
	for name, in := range map[string][]byte{
		"plain": plainOutput(), "colour": colourOutput(), "full screen": fullScreenOutput(), "wide": wideOutput(),
	} {
		s := New(120, 40)
		var best float64
		for range 10 {
			start := time.Now()
			_, _ = s.Write(in)
			if best = max(best, float64(len(in))/time.Since(start).Seconds()); best > 2*floor {
				break
			}
		}
		if best < floor {
			t.Errorf("%s: %.1f MB/s", name, best/1e6)
		}
	}
}
