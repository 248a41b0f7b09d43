package trec

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

func liveHeap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// bulk is text as a compiler, a log or a list would send, or noise.
func bulk(kind string, size int) []byte {
	random := rand.New(rand.NewPCG(5, 6))
	out := make([]byte, 0, size+200)
	m := &mixed{random: random, emit: func(f Frame) { out = append(out, f.Data...) }}
	for len(out) < size {
		if kind == "random" {
			out = append(out, byte(random.Uint32()))
			continue
		}
		m.out(fmt.Sprintf("%s/%s_%s_%04d.c:%d: %s %s is %08x where %s was %d\r\n", m.word(), m.word(), m.word(), random.IntN(10000), random.IntN(900), m.word(), m.word(), random.Uint32(), m.word(), random.IntN(1e6)))
	}
	return out[:size]
}

func BenchmarkSeal(b *testing.B) {
	for _, kind := range []string{"text", "random"} {
		data := bulk(kind, SegmentTarget-8<<10)
		for name, e := range map[string]Effort{"zstd": EffortBest, "zstd-fast": EffortFast, "s2": EffortBulk, "none": EffortNone} {
			b.Run(kind+"/"+name, func(b *testing.B) {
				w := newWriter(b, io.Discard, testOptions(b, testEpoch(b)))
				var sealed int64
				b.SetBytes(int64(len(data)))
				b.ReportAllocs()
				for b.Loop() {
					for rest := data; len(rest) > 0; rest = rest[min(len(rest), 32<<10):] {
						if _, err := w.Add(Frame{KindOutput, testStart, rest[:min(len(rest), 32<<10)]}); err != nil {
							b.Fatal(err)
						}
					}
					for _, l := range value[[]Leaf](b)(w.Seal(e)) {
						sealed += l.Size()
					}
				}
				b.ReportMetric(float64(b.N)*float64(len(data))/float64(sealed), "ratio")
			})
		}
	}
}

// BenchmarkSHA256 is what verifying could reach at most.
func BenchmarkSHA256(b *testing.B) {
	data := bulk("random", SegmentTarget)
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		sha256.Sum256(data)
	}
}

func BenchmarkVerify(b *testing.B) {
	for _, kind := range []string{"text", "random"} {
		e := testEpoch(b)
		data := bulkFile(b, e, kind)
		b.Run("verify/"+kind, func(b *testing.B) {
			b.SetBytes(int64(len(data)))
			for b.Loop() {
				if report := verify(b, data); !report.Complete {
					b.Fatal(report.Text())
				}
			}
		})
		b.Run("open/"+kind, func(b *testing.B) {
			b.SetBytes(int64(len(data)))
			for b.Loop() {
				r := value[*Reader](b)(NewReader(bytes.NewReader(data), e.keys()))
				for {
					if _, err := r.Next(); errors.Is(err, io.EOF) {
						break
					} else if err != nil {
						b.Fatal(err)
					}
				}
			}
		})
	}
}

func bulkFile(b testing.TB, e epoch, kind string) []byte {
	b.Helper()
	var out bytes.Buffer
	w := newWriter(b, &out, testOptions(b, e))
	data := bulk(kind, 32<<10)
	for range 2000 {
		add(b, w, Frame{KindOutput, testStart, data})
	}
	value[Summary](b)(w.Close(testStart, "exit"))
	return out.Bytes()
}

// BenchmarkSessionHour measures what an hour of people's work takes on disk.
func BenchmarkSessionHour(b *testing.B) {
	for name, seal := range map[string]time.Duration{"10s": SegmentAge, "60s": time.Minute} {
		b.Run(name, func(b *testing.B) {
			var size, raw, frames, hours float64
			for b.Loop() {
				for seed := range uint64(3) {
					var out bytes.Buffer
					r, f := recordEvery(b, &out, seed, seal)
					size, raw, frames, hours = size+float64(out.Len()), raw+float64(r), frames+float64(f), hours+1
				}
			}
			b.ReportMetric(size/hours/1000, "KB/session-hour")
			b.ReportMetric(raw/hours/1000, "rawKB/session-hour")
			b.ReportMetric(frames/hours, "frames/session-hour")
		})
	}
}

// recordEvery seals by age as Due does, but at another age, with the hybrid
// envelopes that are used in earnest.
func recordEvery(t testing.TB, out io.Writer, seed uint64, age time.Duration) (raw int, frames uint64) {
	t.Helper()
	w := newWriter(t, out, testOptions(t, hybridEpoch(t)))
	screen := []byte(strings.Repeat("0123456789abcdef", 60))
	since := 0
	mixedSession(seed, time.Hour, func(f Frame) {
		if w.frames() > 0 && f.Time.Sub(w.begin) >= age {
			value[[]Leaf](t)(w.Seal(EffortBest))
		}
		if since >= SegmentTarget {
			must(t, w.Keyframe(f.Time, screen))
			since = 0
		}
		add(t, w, f)
		raw, since = raw+len(f.Data), since+len(f.Data)
	})
	return raw, value[Summary](t)(w.Close(at(3600), "exit")).Facts.Frames
}

// TestASessionHourIsSmall holds the size to what docs/format-recording.md says.
func TestASessionHourIsSmall(t *testing.T) {
	var out bytes.Buffer
	raw, frames := recordEvery(t, &out, 1, SegmentAge)
	t.Logf("%d KB for an hour with %d frames and %d KB", out.Len()/1000, frames, raw/1000)
	if out.Len() > 250_000 {
		t.Errorf("an hour takes %d bytes, more than 250,000", out.Len())
	}
}

// longFile is a long recording on disk.
func longFile(t testing.TB, e epoch, length time.Duration) (*os.File, int64) {
	t.Helper()
	f := value[*os.File](t)(os.Create(filepath.Join(t.TempDir(), "long.trec")))
	t.Cleanup(func() { f.Close() })
	record(t, f, e, length, 11)
	info, err := f.Stat()
	must(t, err)
	return f, info.Size()
}

// BenchmarkSeek opens a recording of 24 hours and plays up to a random time.
func BenchmarkSeek(b *testing.B) {
	e := testEpoch(b)
	f, size := longFile(b, e, 24*time.Hour)
	random := rand.New(rand.NewPCG(1, 1))
	var took []time.Duration
	for b.Loop() {
		began := time.Now()
		seekTo(b, f, size, e, at(random.Float64()*24*3600))
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "ms-median")
	b.ReportMetric(float64(took[len(took)-1].Microseconds())/1000, "ms-max")
}

// seekTo opens the file afresh, as an auditor's first seek does.
func seekTo(t testing.TB, f *os.File, size int64, e epoch, when time.Time) {
	t.Helper()
	file := value[*File](t)(OpenAt(f, size, e.keys()))
	r, _, err := file.Seek(when)
	must(t, err)
	for {
		x, err := r.Next()
		if errors.Is(err, io.EOF) || err == nil && x.Time.After(when) {
			return
		}
		must(t, err)
	}
}

// TestReadingTakesConstantMemory plays a long recording from the disk.
func TestReadingTakesConstantMemory(t *testing.T) {
	e := testEpoch(t)
	f, size := longFile(t, e, 8*time.Hour)
	r := value[*Reader](t)(NewReader(io.NewSectionReader(f, 0, size), e.keys()))
	base, most := liveHeap(), int64(0)
	for n := 1; ; n++ {
		_, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		must(t, err)
		if n%20_000 == 0 {
			most = max(most, liveHeap()-base)
		}
	}
	if most > 8<<20 || r.Ending() != EndingComplete {
		t.Errorf("reading %d bytes took %d bytes of memory, %s", size, most, r.Ending())
	}
	began := time.Now()
	seekTo(t, f, size, e, at(7*3600))
	t.Logf("%d MB; %d KiB to read, %v to seek", size>>20, most>>10, time.Since(began))
}
