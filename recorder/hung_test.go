package recorder

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

func numberedMeta(n int64) Meta {
	m := testMeta(fmt.Sprintf("S-%d", n), false)
	m.Number = n
	return m
}

// hangingFile hangs in Sync while the disk is stuck.
type hangingFile struct {
	file
	stuck *atomic.Bool
	goOn  chan struct{}
}

func (f *hangingFile) Sync() error {
	if f.stuck.Load() {
		<-f.goOn
	}
	return f.file.Sync()
}

// TestPromise3_HungDiskEndsEverySession has a disk that never answers, and more
// sessions than may sync at once.
func TestPromise3_HungDiskEndsEverySession(t *testing.T) {
	o := testOptions(t)
	o.age, o.WarnAfter, o.FailAfter = 5*time.Millisecond, 50*time.Millisecond, 3*time.Second
	var stuck atomic.Bool
	goOn := make(chan struct{})
	o.create = func(path string) (file, error) {
		f, err := createFile(path)
		return &hangingFile{f, &stuck, goOn}, err
	}
	r, err := Open(o)
	must(t, err)
	keys := testKeys(t)
	var all []*Recording
	for n := range int64(syncsAtOnce + 3) {
		rec, err := r.Start(t.Context(), numberedMeta(n+1), keys.Keys())
		must(t, err)
		all = append(all, rec)
	}
	stuck.Store(true)
	for _, rec := range all {
		appendDurable(t, rec, KindOutput, "shown")
	}
	for _, rec := range all {
		select {
		case <-rec.Done():
		case <-time.After(10 * time.Second):
			t.Fatalf("%s goes on without its disk", rec.session)
		}
		if err := rec.Err(); !errors.Is(err, ErrFailed) || !errors.Is(err, errSlowDisk) {
			t.Errorf("%s: %v", rec.session, err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	// Those that the disk still holds are named, and the journal is closed in order all the same.
	if err := r.Close(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("close: %v", err)
	}
	if err := r.journal.Failure(); err != nil {
		t.Errorf("the journal: %v", err)
	}
	close(goOn)
	for _, rec := range all {
		<-rec.stopped
	}
}

// TestCloseBesideAStart closes while a Start is about to fail.
func TestCloseBesideAStart(t *testing.T) {
	o := testOptions(t)
	starting, goOn := make(chan struct{}), make(chan struct{})
	o.create = func(string) (file, error) {
		close(starting)
		<-goOn
		return nil, syscall.EMFILE
	}
	r, err := Open(o)
	must(t, err)
	started := make(chan error, 1)
	go func() {
		_, err := r.Start(context.Background(), numberedMeta(1), testKeys(t).Keys())
		started <- err
	}()
	<-starting
	closed := make(chan error, 1)
	go func() { closed <- r.Close(patience(t)) }()
	waitFor(t, "the closing", func() bool { return errors.Is(r.Ready(false), ErrClosed) })
	close(goOn)
	if err := <-started; !errors.Is(err, syscall.EMFILE) {
		t.Errorf("start: %v", err)
	}
	if err := <-closed; err != nil || r.journal.Failure() != nil {
		t.Errorf("close: %v; the journal: %v", err, r.journal.Failure())
	}
}

// closeCounter counts how often files were closed.
type closeCounter struct {
	file
	closed *atomic.Int32
}

func (c *closeCounter) Close() error { c.closed.Add(1); return c.file.Close() }

// TestFailedStartKeepsNothing fails after the header was written.
func TestFailedStartKeepsNothing(t *testing.T) {
	o := testOptions(t)
	var closed atomic.Int32
	o.create = func(path string) (file, error) {
		f, err := createFile(path)
		return &closeCounter{&faultyFile{file: f, syncErr: syscall.EIO}, &closed}, err
	}
	r, keys := open(t, o), testKeys(t)
	for n := range int64(3) {
		if _, err := r.Start(t.Context(), numberedMeta(n+1), keys.Keys()); !errors.Is(err, syscall.EIO) {
			t.Errorf("start: %v", err)
		}
	}
	if n := closed.Load(); n != 3 {
		t.Errorf("%d of 3 files were closed", n)
	}
}

// TestPromise3_ASnapshotIsDurable begins views just behind what was appended.
func TestPromise3_ASnapshotIsDurable(t *testing.T) {
	r := open(t, testOptions(t))
	rec := start(t, r, "S-1", true, testKeys(t))
	for i := range 100 {
		text := fmt.Sprintf("line-%04d", i)
		appendFrame(t, rec, KindOutput, text+"\r\n")
		f, err := r.Follow(patience(t), "S-1")
		must(t, err)
		if !bytes.Contains(f.Snapshot, []byte(text)) {
			t.Errorf("the picture is without %s", text)
		}
		if durable := rec.Durable(); durable < f.Position {
			t.Fatalf("the picture shows frame %d, durable is %d", f.Position, durable)
		}
		f.Close()
	}
}

// TestFollowBesideStart is for the race detector.
func TestFollowBesideStart(t *testing.T) {
	r, keys := open(t, testOptions(t)), testKeys(t)
	for n := range int64(5) {
		stop, stopped := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(stopped)
			for {
				select {
				case <-stop:
					return
				default:
				}
				if f, err := r.Follow(context.Background(), numberedMeta(n+1).Session); err == nil {
					f.Close()
				}
			}
		}()
		rec, err := r.Start(t.Context(), numberedMeta(n+1), keys.Keys())
		must(t, err)
		close(stop)
		<-stopped
		_, err = rec.Close(patience(t), "exited")
		must(t, err)
	}
}
