package tlog

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"syscall"
	"testing"
)

// acknowledged is what callers of a log were told.
type acknowledged struct {
	entries []Entry
	seen    []Checkpoint
}

// work runs a log until it is done or the disk fails it.
func work(t *testing.T, m *memFS, random *rand.Rand, a *acknowledged, rounds int) {
	t.Helper()
	o := options("/log")
	o.BodiesDir, o.fs, o.appendLimit = "/bodies", m, 8<<10
	ring, err := newKeyRing(m, "/keys", bytes.Repeat([]byte{7}, 32), &counter{n: random.Uint64()}, nil)
	if err != nil {
		return
	}
	l, err := Open(o)
	if err != nil {
		if m.fail == nil {
			t.Fatal(err)
		}
		return
	}
	for range rounds {
		if random.IntN(4) == 0 {
			if l.Publish(context.Background()) != nil {
				break
			}
			continue
		}
		entries := make([]Entry, 1+random.IntN(120))
		for i := range entries {
			id := KeyID{[]string{"a", "b"}[random.IntN(2)], "2026q4"}
			if entries[i], err = ring.Seal(id, body(i)); err != nil {
				break
			}
		}
		if err != nil {
			break
		}
		first, err := l.AppendEntries(context.Background(), entries...)
		if err != nil {
			break
		}
		// What was not acknowledged before may have become durable: it stands between.
		for int64(len(a.entries)) < first {
			a.entries = append(a.entries, Entry{})
		}
		a.entries = append(a.entries, entries...)
		a.seen = append(a.seen, parse(t, l.Checkpoint()))
	}
	if err := l.Close(); err != nil && m.fail == nil {
		t.Fatal(err)
	}
}

// holds checks that everything acknowledged is there, readable, and that the
// log is an extension of every checkpoint that was shown.
func holds(t *testing.T, m *memFS, a *acknowledged) {
	t.Helper()
	m.fail, m.locked = nil, false
	o := options("/log")
	o.BodiesDir, o.fs = "/bodies", m
	l := open(t, o)
	ring := testRing(t, m, "/keys")
	for i, e := range a.entries {
		if e.Leaf == nil {
			continue
		}
		if got, err := l.Entry(int64(i)); err != nil || !bytes.Equal(got, e.Leaf) {
			t.Fatalf("entry %d of %d (log %d): %x %v", i, len(a.entries), l.Size(), got, err)
		}
		if i%17 == 0 {
			if _, err := l.ReadBody(int64(i), ring); err != nil {
				t.Fatalf("body %d: %v", i, err)
			}
		}
	}
	closeLog(t, l)
	r := mustVerify(t, VerifyOptions{Dir: "/log", BodiesDir: "/bodies", Keys: ring, Known: a.seen, fs: m})
	if r.Known != len(a.seen) || r.Bodies+r.Absent != r.Size {
		t.Fatalf("%d known checkpoints of %d; report %+v", r.Known, len(a.seen), r)
	}
	if int(r.Bodies) < len(a.entries) && r.Absent > 0 {
		t.Fatalf("bodies are missing: %+v", r)
	}
}

// TestCrashLosesNothingAcknowledged cuts the power at a random system call, lets
// the disk keep any part of what was not synced, and opens the log again; three
// times in a row on the same disk.
func TestCrashLosesNothingAcknowledged(t *testing.T) {
	runs := 150
	if testing.Short() {
		runs = 40
	}
	for seed := range runs {
		random := rand.New(rand.NewPCG(uint64(seed), 1))
		m := newMemFS()
		var a acknowledged
		for range 3 {
			left := random.IntN(400)
			m.fail = func(string, string) error {
				if left--; left < 0 {
					return syscall.EIO
				}
				return nil
			}
			work(t, m, random, &a, 40)
			m = m.crash(random)
			holds(t, m, &a)
		}
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

// TestEachSystemCallFailsOnce lets every call of a fixed run fail once, without a power cut.
func TestEachSystemCallFailsOnce(t *testing.T) {
	for _, failure := range []error{syscall.EIO, syscall.ENOSPC} {
		// Every 29th call, the two errors at different ones: the run has
		// about 3,200, and each opens and verifies a log again.
		for at := map[error]int{syscall.EIO: 0, syscall.ENOSPC: 3}[failure]; ; at += 29 {
			m := newMemFS()
			calls, hit := 0, false
			m.fail = func(operation, name string) error {
				calls++
				if calls-1 == at {
					hit = true
					return failure
				}
				return nil
			}
			var a acknowledged
			work(t, m, rand.New(rand.NewPCG(3, 3)), &a, 30)
			holds(t, m, &a)
			if !hit {
				t.Logf("%d calls", at)
				break
			}
		}
	}
}

// TestFailedSyncEndsTheLog: an fdatasync that failed once must not be asked again.
func TestFailedSyncEndsTheLog(t *testing.T) {
	m := newMemFS()
	o := options("/log")
	o.fs = m
	l := open(t, o)
	fill(t, l, 0, 5)
	syncs := 0
	m.mu.Lock()
	m.fail = func(operation, name string) error {
		if operation == "sync" {
			syncs++
			return syscall.EIO
		}
		return nil
	}
	m.mu.Unlock()
	before := l.Checkpoint()
	for range 3 {
		if _, err := l.Append(context.Background(), leaf(5)); !errors.Is(err, ErrFailed) || !errors.Is(err, syscall.EIO) {
			t.Fatalf("append after a failed fdatasync: %v", err)
		}
	}
	if syncs != 1 {
		t.Fatalf("%d fdatasyncs", syncs)
	}
	if !bytes.Equal(before, l.Checkpoint()) || l.Size() != 5 {
		t.Fatal("the failed batch is shown")
	}
	select {
	case <-l.Failed():
	default:
		t.Fatal("nobody is told")
	}
	if err := l.Close(); !errors.Is(err, ErrFailed) {
		t.Fatalf("close: %v", err)
	}
}
