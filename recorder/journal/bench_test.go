package journal

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"
)

// BenchmarkRawSync is what the disk itself costs at this moment: 4 KiB written
// into a file full of zeroes, and fdatasync; back to back, and 250 times a
// second (then counted from when it was due). Quote it beside the others.
func BenchmarkRawSync(b *testing.B) {
	for name, pace := range map[string]time.Duration{"closed": 0, "paced": time.Second / 250} {
		b.Run(name, func(b *testing.B) {
			f, err := os.Create(filepath.Join(b.TempDir(), "raw"))
			must(b, err)
			defer f.Close()
			const size = 64 << 20
			_, err = f.Write(make([]byte, size))
			must(b, err)
			must(b, f.Sync())
			block := make([]byte, blockSize)
			var took []time.Duration
			b.ResetTimer()
			begin := time.Now()
			for i := range b.N {
				if pace > 0 {
					begin = begin.Add(pace)
					<-time.After(time.Until(begin))
				} else {
					begin = time.Now()
				}
				_, err := f.WriteAt(block, int64(i)*blockSize%size)
				must(b, err)
				must(b, dataSync(f))
				took = append(took, time.Since(begin))
			}
			percentiles(b, took)
		})
	}
}

func percentiles(b *testing.B, took []time.Duration) {
	b.Helper()
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-µs")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-µs")
}

func processor() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func benchJournal(b *testing.B, streams int) []*Stream {
	b.Helper()
	j, err := Open(Options{Dir: b.TempDir(), Node: "node-1"}, nil)
	must(b, err)
	b.Cleanup(func() { must(b, j.Close(context.Background())) })
	var all []*Stream
	for i := range streams {
		s, err := j.OpenStream(StreamOptions{Name: fmt.Sprintf("S-%d", i), Keys: keys("S"), Public: make([]byte, 2000)})
		must(b, err)
		all = append(all, s)
	}
	return all
}

// BenchmarkAppendLatency is a closed loop: each stream has one frame of 512
// bytes in flight.
func BenchmarkAppendLatency(b *testing.B) {
	for _, count := range []int{1, 64, 256} {
		b.Run(fmt.Sprint(count), func(b *testing.B) {
			streams := benchJournal(b, count)
			data := make([]byte, 512)
			var mu sync.Mutex
			var took []time.Duration
			var group sync.WaitGroup
			b.ReportAllocs()
			b.ResetTimer()
			for i, s := range streams {
				group.Go(func() {
					mine := make([]time.Duration, 0, b.N/count+1)
					for n := i; n < b.N; n += count {
						begin := time.Now()
						p, err := s.Append(0, 'o', begin, data)
						if err == nil {
							err = s.Wait(context.Background(), p)
						}
						if err != nil {
							b.Error(err)
							return
						}
						mine = append(mine, time.Since(begin))
						if n/count%200 == 0 {
							_ = s.Release(p)
						}
					}
					mu.Lock()
					defer mu.Unlock()
					took = append(took, mine...)
				})
			}
			group.Wait()
			b.StopTimer()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
			percentiles(b, took)
		})
	}
}

// BenchmarkEvents is 64 streams that pipeline small frames, 64 each in flight.
func BenchmarkEvents(b *testing.B) {
	streams := benchJournal(b, 64)
	data := make([]byte, 100)
	var group sync.WaitGroup
	b.ReportAllocs()
	begin := processor()
	b.ResetTimer()
	for i, s := range streams {
		group.Go(func() {
			for n := i; n < b.N; n += len(streams) {
				p, err := s.Append(0, 'o', time.Time{}, data)
				if err == nil && p > 64 {
					err = s.Wait(context.Background(), p-64)
				}
				if err == nil && p%2000 == 0 {
					err = s.Release(s.Durable())
				}
				if err != nil {
					b.Error(err)
					return
				}
			}
			s.mu.Lock()
			last := s.last
			s.mu.Unlock()
			if err := s.Wait(context.Background(), last); err != nil {
				b.Error(err)
			}
		})
	}
	group.Wait()
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
	b.ReportMetric(float64((processor()-begin).Nanoseconds())/float64(b.N), "cpu-ns/event")
}

// BenchmarkBulk is one stream that moves 32 KiB frames, 16 in flight.
func BenchmarkBulk(b *testing.B) {
	s := benchJournal(b, 1)[0]
	data := make([]byte, 32<<10)
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	begin := processor()
	b.ResetTimer()
	var last Position
	for range b.N {
		p, err := s.Append(0, 'o', time.Time{}, data)
		if err == nil && p > 16 {
			err = s.Wait(context.Background(), p-16)
		}
		if err == nil && p%64 == 0 {
			err = s.Release(s.Durable())
		}
		if err != nil {
			b.Fatal(err)
		}
		last = p
	}
	must(b, s.Wait(context.Background(), last))
	b.StopTimer()
	b.ReportMetric((processor()-begin).Seconds()/(float64(b.N)*float64(len(data))/1e9), "cpu-s/GB")
}

// BenchmarkOpenLoop is 200 streams with 10 events a second each, whether or
// not the last one is durable. Compare it with BenchmarkRawSync/paced.
func BenchmarkOpenLoop(b *testing.B) {
	streams := benchJournal(b, 200)
	data := make([]byte, 64)
	var mu sync.Mutex
	var took []time.Duration
	var group sync.WaitGroup
	begin := processor()
	b.ResetTimer()
	start := time.Now()
	for i, s := range streams {
		group.Go(func() {
			var mine []time.Duration
			for n := i; n < b.N; n += len(streams) {
				due := start.Add(time.Duration(n) * time.Second / 2000)
				timer := time.NewTimer(time.Until(due))
				<-timer.C
				p, err := s.Append(0, 'o', time.Time{}, data)
				if err == nil {
					err = s.Wait(context.Background(), p)
				}
				if err != nil {
					b.Error(err)
					return
				}
				mine = append(mine, time.Since(due))
			}
			mu.Lock()
			defer mu.Unlock()
			took = append(took, mine...)
		})
	}
	group.Wait()
	b.StopTimer()
	percentiles(b, took)
	b.ReportMetric(100*(processor()-begin).Seconds()/b.Elapsed().Seconds(), "%-of-a-core")
}
