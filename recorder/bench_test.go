package recorder

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"
)

func benchOptions(b *testing.B) Options {
	o := testOptions(b)
	o.JournalSize, o.JournalFiles = 64<<20, 32
	return o
}

func closeBench(b *testing.B, rec *Recording) {
	b.Helper()
	if _, err := rec.Close(context.Background(), "exited"); err != nil {
		b.Fatal(err)
	}
}

// report adds the median and the 99th percentile of what one append took until
// it was durable.
func report(b *testing.B, took []time.Duration) {
	slices.Sort(took)
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "frames/s")
	b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-µs")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-µs")
}

// BenchmarkAppendDurable is the time until a frame is durable, with one frame in flight
// in each of some busy sessions.
func BenchmarkAppendDurable(b *testing.B) {
	for _, sessions := range []int{1, 64, 256} {
		b.Run(fmt.Sprintf("sessions=%d", sessions), func(b *testing.B) {
			r, keys := open(b, benchOptions(b)), testKeys(b)
			var recs []*Recording
			for i := range sessions {
				recs = append(recs, start(b, r, fmt.Sprintf("S-BENCH%d", i), true, keys))
			}
			data := bytes.Repeat([]byte("what a shell may say now "), 8)
			var mu sync.Mutex
			var took []time.Duration
			var group sync.WaitGroup
			b.ReportAllocs()
			b.ResetTimer()
			for i, rec := range recs {
				group.Go(func() {
					var mine []time.Duration
					for n := i; n < b.N; n += sessions {
						begin := time.Now()
						p, err := rec.Append(Frame{Kind: KindOutput, Data: data})
						if err == nil {
							err = rec.Wait(context.Background(), p)
						}
						if err != nil {
							b.Error(err)
							return
						}
						mine = append(mine, time.Since(begin))
					}
					mu.Lock()
					defer mu.Unlock()
					took = append(took, mine...)
				})
			}
			group.Wait()
			b.StopTimer()
			report(b, took)
			for _, rec := range recs {
				closeBench(b, rec)
			}
		})
	}
}

// BenchmarkBulkDurable is one session that moves 32 KiB frames, 16 in flight:
// text, and what does not compress.
func BenchmarkBulkDurable(b *testing.B) {
	random := make([]byte, 32<<10)
	source := rand.NewChaCha8([32]byte{1})
	_, _ = source.Read(random)
	text := bytes.Repeat([]byte("chr7\t1402218\trs4988235\tA\tG\t0.4981\tPASS\n"), 900)[:32<<10]
	for _, c := range []struct {
		name string
		data []byte
	}{{"text", text}, {"random", random}} {
		b.Run(c.name, func(b *testing.B) {
			r := open(b, benchOptions(b))
			rec := start(b, r, "S-BENCH", false, testKeys(b))
			b.SetBytes(int64(len(c.data)))
			b.ReportAllocs()
			b.ResetTimer()
			var last Position
			for range b.N {
				p, err := rec.Append(Frame{Kind: KindOutput, Data: c.data})
				if err == nil && p > 16 {
					err = rec.Wait(context.Background(), p-16)
				}
				if err != nil {
					b.Fatal(err)
				}
				last = p
			}
			if err := rec.Wait(context.Background(), last); err != nil {
				b.Fatal(err)
			}
			b.StopTimer()
			closeBench(b, rec)
		})
	}
}

// BenchmarkStart is what the opening of a session costs.
func BenchmarkStart(b *testing.B) {
	r, keys := open(b, benchOptions(b)), testKeys(b)
	var recs []*Recording
	for i := range b.N {
		recs = append(recs, start(b, r, fmt.Sprintf("S-BENCH%d", i), true, keys))
	}
	b.StopTimer()
	for _, rec := range recs {
		closeBench(b, rec)
	}
}
