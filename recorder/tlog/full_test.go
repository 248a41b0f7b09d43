package tlog

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"syscall"
	"testing"
	"time"
)

func (m *memFS) failWith(f func(operation, name string) error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fail = f
}

// full is a disk on which nothing can be written any more, except to the append files.
func full(failure error, count *int) func(operation, name string) error {
	return func(operation, name string) error {
		if operation == "write" && !strings.Contains(name, "/append/") {
			*count++
			return failure
		}
		return nil
	}
}

// TestFullDiskIsAState: while the disk of the tiles is full entries are still taken, publishing says why
// it can't, nothing grows by the attempts, and once there is space everything is there.
func TestFullDiskIsAState(t *testing.T) {
	for _, failure := range []error{syscall.ENOSPC, syscall.EDQUOT} {
		m := newMemFS()
		o := options("/log")
		o.BodiesDir, o.fs = "/bodies", m
		ring := testRing(t, m, "/keys")
		l := open(t, o)
		var entries []Entry
		append := func(n int) {
			for range n {
				e, err := ring.Seal(KeyID{"a", "2026q4"}, body(len(entries)))
				if err != nil {
					t.Fatal(err)
				}
				if at, err := l.AppendEntries(context.Background(), e); err != nil || at != int64(len(entries)) {
					t.Fatalf("entry %d is not taken: %v", len(entries), err)
				}
				entries = append(entries, e)
			}
		}
		append(10)
		tries := 0
		m.failWith(full(failure, &tries))
		for range 3 {
			append(300)
			if err := l.Publish(context.Background()); !errors.Is(err, ErrNoSpace) || !errors.Is(err, failure) {
				t.Fatalf("publish on a full disk: %v", err)
			}
		}
		if l.Err() != nil || !errors.Is(l.Full(), ErrNoSpace) {
			t.Fatalf("on a full disk: err %v, full %v", l.Err(), l.Full())
		}
		// Let it run full in the middle, each time a bit later.
		for after := range 12 {
			left := after
			m.failWith(func(operation, name string) error {
				if operation == "write" && !strings.Contains(name, "/append/") {
					if left--; left < 0 {
						return failure
					}
				}
				return nil
			})
			append(20)
			if err := l.Settle(context.Background()); err != nil && !errors.Is(err, ErrNoSpace) {
				t.Fatal(err)
			}
		}
		m.failWith(nil)
		if err := l.Settle(context.Background()); err != nil || l.Full() != nil {
			t.Fatalf("with space again: %v, full %v", err, l.Full())
		}
		for i, e := range entries {
			if got, err := l.Entry(int64(i)); err != nil || !bytes.Equal(got, e.Leaf) {
				t.Fatalf("entry %d: %v", i, err)
			}
		}
		closeLog(t, l)
		for name := range m.files {
			if strings.HasSuffix(name, ".tmp") {
				t.Fatalf("%s is left", name)
			}
		}
		r := mustVerify(t, VerifyOptions{Dir: "/log", BodiesDir: "/bodies", Keys: ring, fs: m})
		if r.Size != int64(len(entries)) || r.Bodies != r.Size {
			t.Fatalf("report %+v", r)
		}
	}
}

// TestFullDiskIsTriedAgain: nobody needs to ask.
func TestFullDiskIsTriedAgain(t *testing.T) {
	m := newMemFS()
	o := options("/log")
	o.fs, o.PublishInterval = m, 10*time.Millisecond
	l := open(t, o)
	tries := 0
	m.failWith(full(syscall.ENOSPC, &tries))
	fill(t, l, 0, 5)
	eventually(t, "it is full", func() bool { return l.Full() != nil })
	m.failWith(nil)
	eventually(t, "it is published", func() bool {
		m.mu.Lock()
		defer m.mu.Unlock()
		f := m.files["/log/"+CheckpointFile]
		return f != nil && bytes.Contains(f.data, []byte("\n5\n"))
	})
	eventually(t, "it is not full", func() bool { return l.Full() == nil })
	closeLog(t, l)
}

// TestClosedOnAFullDisk: the entries are not lost, and the next Open has them.
func TestClosedOnAFullDisk(t *testing.T) {
	m := newMemFS()
	o := options("/log")
	o.fs = m
	l := open(t, o)
	fill(t, l, 0, 300)
	tries := 0
	m.failWith(full(syscall.ENOSPC, &tries))
	fill(t, l, 300, 300)
	if err := l.Close(); !errors.Is(err, ErrNoSpace) || errors.Is(err, ErrFailed) {
		t.Fatalf("close: %v", err)
	}
	// It can be opened as it is, too.
	l = open(t, o)
	if l.Size() != 600 {
		t.Fatalf("%d entries", l.Size())
	}
	m.failWith(nil)
	closeLog(t, l)
	mustVerify(t, VerifyOptions{Dir: "/log", fs: m})
}

func eventually(t *testing.T, what string, yes func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !yes(); {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
		<-time.After(2 * time.Millisecond)
	}
}

// hungFS is a disk whose renames do not answer any more.
type hungFS struct {
	fileSystem
	stuck, goOn chan struct{}
}

func (f hungFS) Rename(from, to string) error {
	select {
	case <-f.stuck:
		<-f.goOn
	default:
	}
	return f.fileSystem.Rename(from, to)
}

// TestHungDiskEndsTheLog: a disk that does not answer fails the log in FailAfter, and Close waits no longer than that.
func TestHungDiskEndsTheLog(t *testing.T) {
	for _, closeFirst := range []bool{false, true} {
		h := hungFS{newMemFS(), make(chan struct{}), make(chan struct{})}
		o := options("/log")
		o.fs, o.FailAfter = h, 200*time.Millisecond
		l := open(t, o)
		fill(t, l, 0, 3)
		close(h.stuck)
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if !closeFirst {
			if err := l.Publish(ctx); !errors.Is(err, ErrFailed) {
				t.Fatalf("publish: %v", err)
			}
			if _, err := l.Append(ctx, leaf(3)); !errors.Is(err, ErrFailed) {
				t.Fatalf("append: %v", err)
			}
		}
		done := make(chan error, 1)
		go func() { done <- l.Close() }()
		select {
		case err := <-done:
			if !errors.Is(err, ErrFailed) {
				t.Fatalf("close: %v", err)
			}
		case <-ctx.Done():
			t.Fatal("Close hangs")
		}
		close(h.goOn)
		l.done.Wait()
	}
}

// forgetful is a Durable that loses what it took, as a journal in mode written does in a failure of power.
type forgetful struct{ forgotten int64 }

func (forgetful) Commit(int64, int64, []byte) error      { return nil }
func (forgetful) Replay(int64, func([]byte) error) error { return nil }
func (d *forgetful) Forget(size int64) error             { d.forgotten = size; return nil }
func (forgetful) Close() error                           { return nil }

// TestPublishedIsKeptFirst: with a Durable that may forget, no checkpoint that anybody can see is ahead
// of what the tiles have after a failure of power.
func TestPublishedIsKeptFirst(t *testing.T) {
	m := newMemFS()
	o := options("/log")
	d := &forgetful{}
	o.fs, o.Durable, o.SettleFirst = m, d, true
	l := open(t, o)
	if c := parse(t, l.Checkpoint()); c.Size != 0 {
		t.Fatalf("shown at first: %d", c.Size)
	}
	fill(t, l, 0, 300)
	if c := parse(t, l.Checkpoint()); c.Size != 0 {
		t.Fatalf("shown before it is durable: %d", c.Size)
	}
	if err := l.Publish(context.Background()); err != nil {
		t.Fatal(err)
	}
	if c := parse(t, l.Checkpoint()); c.Size != 300 || d.forgotten != 300 {
		t.Fatalf("shown %d, forgotten %d", c.Size, d.forgotten)
	}
	fill(t, l, 300, 10)
	// Only what was synced is left.
	after := newMemFS()
	for name, f := range m.durable {
		f = &memFile{data: bytes.Clone(f.durable), durable: f.durable, synced: true}
		after.files[name], after.durable[name] = f, f
	}
	o.fs, o.Durable = after, &forgetful{}
	again := open(t, o)
	if again.Size() != 300 || parse(t, again.Checkpoint()).Size != 300 {
		t.Fatalf("%d entries", again.Size())
	}
	fill(t, again, 300, 5)
	closeLog(t, again)
	mustVerify(t, VerifyOptions{Dir: "/log", fs: after})
	closeLog(t, l)
}
