package replay

import (
	"io"
	"math/rand/v2"
	"path/filepath"
	"testing"
	"time"
)

// BenchmarkSeek goes to places all over a recording of 24 hours, opening the
// file each time as a person's `sallyport replay --at` does, up to the picture
// on the terminal.
func BenchmarkSeek(b *testing.B) {
	for _, c := range []struct {
		name   string
		events int
	}{{"24h", 200_000}, {"24h-busy", 1_000_000}} {
		b.Run(c.name, func(b *testing.B) {
			n := newTape(b)
			path := filepath.Join(n.dir, "S-LARGE.trec")
			size := n.large(b, path, c.events)
			keys, random := n.keys(b, false), rand.New(rand.NewPCG(1, 2))
			var worst time.Duration
			for b.Loop() {
				begin := time.Now()
				file, err := OpenPath(path, keys)
				must(b, err)
				p := Player{File: file, Out: io.Discard, meta: file.Meta(), Speed: 1}
				must(b, p.seek(time.Duration(random.Int64N(int64(24*time.Hour)))))
				must(b, file.Close())
				worst = max(worst, time.Since(begin))
			}
			b.ReportMetric(float64(size)/1e6, "MB")
			b.ReportMetric(float64(worst.Microseconds())/1e3, "worst-ms")
		})
	}
}

// BenchmarkReindex makes the index of a recording that has none, as after a crash.
func BenchmarkReindex(b *testing.B) {
	n := newTape(b)
	path := filepath.Join(n.dir, "S-LARGE.trec")
	size := n.large(b, path, 200_000)
	file, err := OpenPath(path, n.keys(b, false))
	must(b, err)
	defer file.Close()
	b.SetBytes(size)
	for b.Loop() {
		must(b, file.file.Reindex())
	}
}

// BenchmarkExport writes a session in each format.
func BenchmarkExport(b *testing.B) {
	n := newTape(b)
	path := filepath.Join(n.dir, "S-LARGE.trec")
	size := n.large(b, path, 200_000)
	for _, format := range Formats() {
		b.Run(string(format), func(b *testing.B) {
			b.SetBytes(size)
			for b.Loop() {
				r, err := OpenFile(path, n.keys(b, true))
				must(b, err)
				_, err = Export(io.Discard, r, ExportOptions{Format: format, Input: true})
				must(b, err)
				must(b, r.Close())
			}
		})
	}
}
