package recorder

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"
)

func closeBench(b *testing.B, rec *Recording) {
	b.Helper()
	if _, err := rec.Close(context.Background(), "exit"); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkAppendDurable is the latency of one keystroke's frame in one session.
func BenchmarkAppendDurable(b *testing.B) {
	r := open(b, testOptions(b))
	rec := start(b, r, "S-BENCH", true, testKeys(b))
	defer closeBench(b, rec)
	took := make([]time.Duration, 0, b.N)
	data := []byte("x")
	b.ReportAllocs()
	b.ResetTimer()
	for range b.N {
		begin := time.Now()
		p, err := rec.Append(Frame{Kind: KindOutput, Data: data})
		if err == nil {
			err = rec.Wait(context.Background(), p)
		}
		if err != nil {
			b.Fatal(err)
		}
		took = append(took, time.Since(begin))
	}
	b.StopTimer()
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-µs")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-µs")
}

// BenchmarkAppendDurable64 is 64 sessions, each with one frame in flight.
func BenchmarkAppendDurable64(b *testing.B) {
	const sessions = 64
	r := open(b, testOptions(b))
	keys := testKeys(b)
	var recs []*Recording
	for i := range sessions {
		recs = append(recs, start(b, r, fmt.Sprintf("S-BENCH%d", i), false, keys))
	}
	var mu sync.Mutex
	var took []time.Duration
	var group sync.WaitGroup
	data := bytes.Repeat([]byte("x"), 512)
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
	slices.Sort(took)
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "frames/s")
	b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-µs")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-µs")
	for _, rec := range recs {
		closeBench(b, rec)
	}
}

// BenchmarkBulkDurable is one session that moves 32 KiB frames, 16 in flight.
func BenchmarkBulkDurable(b *testing.B) {
	r := open(b, testOptions(b))
	rec := start(b, r, "S-BENCH", false, testKeys(b))
	data := bytes.Repeat([]byte("0123456789abcdef"), 2048)
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	b.ResetTimer()
	var last Position
	for range b.N {
		p, err := rec.Append(Frame{Kind: KindOutput, Data: data})
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
}

// BenchmarkLedgerAppend is 16 writers that share commits.
func BenchmarkLedgerAppend(b *testing.B) {
	l, err := OpenLedger(testOptions(b))
	must(b, err)
	defer l.Close()
	leaf := bytes.Repeat([]byte("x"), 512)
	var group sync.WaitGroup
	b.ResetTimer()
	for i := range 16 {
		group.Go(func() {
			for n := i + 1; n <= b.N; n += 16 {
				if err := l.Append(context.Background(), int64(n), leaf); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	group.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "leaves/s")
}
