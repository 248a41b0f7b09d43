package recorder

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"
)

// processor is the time that this process has computed so far.
func processor() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// busy starts a number of sessions.
func busy(b *testing.B, r *Recorder, sessions int) []*Recording {
	b.Helper()
	keys := testKeys(b)
	var all []*Recording
	for i := range sessions {
		all = append(all, start(b, r, fmt.Sprintf("S-BENCH%dOF%d", i, sessions), true, keys))
	}
	return all
}

// BenchmarkOpenLoop is 10 events a second in each of some busy sessions,
// whether or not the last one is durable, as people type. An event counts from
// when it was due. Compare it with the paced raw sync of package journal.
func BenchmarkOpenLoop(b *testing.B) {
	for _, sessions := range []int{1, 64, 256} {
		b.Run(fmt.Sprintf("sessions=%d", sessions), func(b *testing.B) {
			all := busy(b, open(b, benchOptions(b)), sessions)
			data := make([]byte, 64)
			var mu sync.Mutex
			var took []time.Duration
			var group sync.WaitGroup
			b.ResetTimer()
			begun := time.Now()
			for i, rec := range all {
				group.Go(func() {
					var mine []time.Duration
					for n := i; n < b.N; n += sessions {
						due := begun.Add(time.Duration(n) * (100 * time.Millisecond) / time.Duration(sessions))
						<-time.After(time.Until(due))
						p, err := rec.Append(Frame{Kind: KindOutput, Data: data})
						if err == nil {
							err = rec.Wait(context.Background(), p)
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
			report(b, took)
			for _, rec := range all {
				closeBench(b, rec)
			}
		})
	}
}

// BenchmarkEvents is 64 sessions that pipeline small frames, 64 each in flight,
// sealed, compressed and told to the ledger as they go.
func BenchmarkEvents(b *testing.B) {
	all := busy(b, open(b, benchOptions(b)), 64)
	data := bytes.Repeat([]byte("what a shell may say "), 5)[:100]
	var group sync.WaitGroup
	b.ReportAllocs()
	computed := processor()
	b.ResetTimer()
	for i, rec := range all {
		group.Go(func() {
			var last Position
			for n := i; n < b.N; n += len(all) {
				p, err := rec.Append(Frame{Kind: KindOutput, Data: data})
				if err == nil && p > 64 {
					err = rec.Wait(context.Background(), p-64)
				}
				if err != nil {
					b.Error(err)
					return
				}
				last = p
			}
			if err := rec.Wait(context.Background(), last); err != nil {
				b.Error(err)
			}
		})
	}
	group.Wait()
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
	b.ReportMetric(float64((processor()-computed).Nanoseconds())/float64(b.N), "cpu-ns/event")
	for _, rec := range all {
		closeBench(b, rec)
	}
}

// BenchmarkBulkProcessor is what a session that moves much costs in computing
// time, its sealing included: 32 KiB frames, 16 in flight, until it is closed.
func BenchmarkBulkProcessor(b *testing.B) {
	random := make([]byte, 32<<10)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(random)
	text := bytes.Repeat([]byte("chr7\t1402218\trs4988235\tA\tG\t0.4981\tPASS\n"), 900)[:32<<10]
	for name, data := range map[string][]byte{"text": text, "random": random} {
		b.Run(name, func(b *testing.B) {
			rec := busy(b, open(b, benchOptions(b)), 1)[0]
			b.SetBytes(int64(len(data)))
			computed := processor()
			b.ResetTimer()
			for range b.N {
				p, err := rec.Append(Frame{Kind: KindOutput, Data: data})
				if err == nil && p > 16 {
					err = rec.Wait(context.Background(), p-16)
				}
				if err != nil {
					b.Fatal(err)
				}
			}
			closeBench(b, rec)
			b.StopTimer()
			b.ReportMetric((processor()-computed).Seconds()/(float64(b.N)*float64(len(data))/1e9), "cpu-s/GB")
		})
	}
}

// BenchmarkSessionMemory is what one more session takes of heap and stacks,
// idle (after a screen of output) and while all of them are shown 4 KiB at a time.
// What all sessions share, compressors above all, is there before.
func BenchmarkSessionMemory(b *testing.B) {
	const sessions = 100
	for name, frames := range map[string]int{"idle": 1, "busy": 100} {
		b.Run(name, func(b *testing.B) {
			for range b.N {
				r := open(b, benchOptions(b))
				before := inUse()
				work(b, busy(b, r, 2*runtime.GOMAXPROCS(0)), 300)
				shared := inUse()
				all := busy(b, r, sessions)
				work(b, all, frames)
				b.ReportMetric(float64(inUse()-shared)/sessions/1000, "KB/session")
				b.ReportMetric(float64(shared-before)/1e6, "MB-shared")
				for _, rec := range all {
					closeBench(b, rec)
				}
			}
		})
	}
}

// work shows frames of 4 KiB in all sessions at once.
func work(b *testing.B, all []*Recording, frames int) {
	b.Helper()
	var group sync.WaitGroup
	for i, rec := range all {
		group.Go(func() {
			source := rand.NewChaCha8([32]byte{byte(i)})
			data := make([]byte, 4<<10)
			for range frames {
				_, _ = source.Read(data)
				if p, err := rec.Append(Frame{Kind: KindOutput, Data: data}); err != nil || rec.Wait(context.Background(), p) != nil {
					b.Error("a frame did not become durable")
					return
				}
			}
		})
	}
	group.Wait()
}

// inUse is the memory that the program needs now, in bytes.
func inUse() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapInuse + m.StackInuse)
}
