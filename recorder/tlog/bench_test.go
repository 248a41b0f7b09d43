package tlog

import (
	"context"
	"fmt"
	"os"
	"slices"
	"sync"
	"testing"
	"time"
)

// BenchmarkAppend measures durable and signed appends of one leaf each, closed loop.
func BenchmarkAppend(b *testing.B) {
	for _, writers := range []int{1, 16, 256} {
		b.Run(fmt.Sprintf("writers=%d", writers), func(b *testing.B) {
			o := options(b.TempDir())
			o.PublishInterval = time.Second
			l := open(b, o)
			times := make([][]time.Duration, writers)
			b.ResetTimer()
			begun := time.Now()
			var group sync.WaitGroup
			for w := range writers {
				group.Go(func() {
					for i := w; i < b.N; i += writers {
						at := time.Now()
						if _, err := l.Append(context.Background(), leaf(i)); err != nil {
							b.Error(err)
							return
						}
						times[w] = append(times[w], time.Since(at))
					}
				})
			}
			group.Wait()
			report(b, begun, slices.Concat(times...))
			if err := l.Close(); err != nil {
				b.Fatal(err)
			}
		})
	}
}

func report(b *testing.B, begun time.Time, times []time.Duration) {
	b.StopTimer()
	slices.Sort(times)
	b.ReportMetric(float64(len(times))/time.Since(begun).Seconds(), "appends/s")
	b.ReportMetric(float64(times[len(times)/2].Nanoseconds())/1e3, "p50-µs")
	b.ReportMetric(float64(times[len(times)*99/100].Nanoseconds())/1e3, "p99-µs")
}

// BenchmarkRawSync is what the disk takes for 4 KiB and one fdatasync: the other figures are read beside it.
func BenchmarkRawSync(b *testing.B) {
	f, err := os.Create(b.TempDir() + "/raw")
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	block := make([]byte, 4096)
	var times []time.Duration
	begun := time.Now()
	for range b.N {
		at := time.Now()
		if _, err := f.Write(block); err != nil {
			b.Fatal(err)
		}
		if err := dataSync(f); err != nil {
			b.Fatal(err)
		}
		times = append(times, time.Since(at))
	}
	report(b, begun, times)
}

// BenchmarkVerify measures a full check, in entries.
func BenchmarkVerify(b *testing.B) {
	const size = 1 << 20
	o := options(b.TempDir())
	l := open(b, o)
	fill(b, l, 0, size)
	if err := l.Close(); err != nil {
		b.Fatal(err)
	}
	b.ResetTimer()
	for range b.N {
		mustVerify(b, VerifyOptions{Dir: o.Dir})
	}
	b.ReportMetric(float64(size)*float64(b.N)/b.Elapsed().Seconds(), "entries/s")
}

// BenchmarkProve measures inclusion proofs in a log of a million entries.
func BenchmarkProve(b *testing.B) {
	const size = 1 << 20
	l := open(b, options(b.TempDir()))
	fill(b, l, 0, size)
	b.ResetTimer()
	for i := range b.N {
		if _, err := l.ProveInclusion(int64(i)*7919%size, size); err != nil {
			b.Fatal(err)
		}
	}
	b.StopTimer()
	if err := l.Close(); err != nil {
		b.Fatal(err)
	}
}
