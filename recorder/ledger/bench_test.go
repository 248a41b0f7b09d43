package ledger

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// BenchmarkAppend measures events, closed loop, on a journal in the mode durable.
func BenchmarkAppend(b *testing.B) {
	for _, writers := range []int{1, 16, 256} {
		b.Run(fmt.Sprintf("writers=%d", writers), func(b *testing.B) {
			w := newWorld(b)
			times := make([][]time.Duration, writers)
			texts := make([][]byte, b.N)
			for i := range texts {
				texts[i] = event(int64(i+1), "genomics")
			}
			var next atomic.Int64
			b.ResetTimer()
			begun := time.Now()
			var group sync.WaitGroup
			for i := range writers {
				group.Go(func() {
					for n := next.Add(1); n <= int64(b.N); n = next.Add(1) {
						at := time.Now()
						if err := w.ledger.Append(context.Background(), n, texts[n-1]); err != nil {
							b.Error(err)
							return
						}
						times[i] = append(times[i], time.Since(at))
					}
				})
			}
			group.Wait()
			report(b, begun, slices.Concat(times...))
		})
	}
}

// BenchmarkRecord measures public leaves, closed loop.
func BenchmarkRecord(b *testing.B) {
	for _, writers := range []int{1, 256} {
		b.Run(fmt.Sprintf("writers=%d", writers), func(b *testing.B) {
			w := newWorld(b)
			times := make([][]time.Duration, writers)
			leaf := Leaf{Kind: KindSegment, Session: "S-01JQ5Y6Z7A8B9C0D1E2F3G4H5J", Segment: 3, Hash: root}
			b.ResetTimer()
			begun := time.Now()
			var group sync.WaitGroup
			for i := range writers {
				group.Go(func() {
					for range b.N / writers {
						at := time.Now()
						if _, err := w.ledger.Record(context.Background(), leaf); err != nil {
							b.Error(err)
							return
						}
						times[i] = append(times[i], time.Since(at))
					}
				})
			}
			group.Wait()
			if all := slices.Concat(times...); len(all) > 0 {
				report(b, begun, all)
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
