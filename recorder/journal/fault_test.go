package journal

import (
	"errors"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// TestPromise3_FailedSyncIsFinal also counts that it is not tried again.
func TestPromise3_FailedSyncIsFinal(t *testing.T) {
	disk := newMemory()
	j := open(t, small(disk))
	s, other := stream(t, j, "S-1"), stream(t, j, "S-2")
	settle(t, j, s)
	before := s.Durable()
	var syncs atomic.Int32
	disk.mu.Lock()
	disk.fault = func(_ int, what string) error {
		if what == "sync" {
			syncs.Add(1)
			return syscall.EIO
		}
		return nil
	}
	disk.mu.Unlock()
	p, err := s.Append(0, 'o', time.Time{}, []byte("x"))
	must(t, err)
	if err := s.Wait(patience(t), p); !errors.Is(err, ErrFailed) || !errors.Is(err, syscall.EIO) {
		t.Errorf("wait: %v", err)
	}
	<-j.Failed()
	if s.Durable() != before {
		t.Error("a frame counts as durable")
	}
	if _, err := other.Append(0, 'o', time.Time{}, nil); !errors.Is(err, ErrFailed) {
		t.Errorf("another stream went on: %v", err)
	}
	if _, err := j.OpenStream(StreamOptions{Name: "S-3", Keys: keys("S-3")}); !errors.Is(err, ErrFailed) {
		t.Errorf("another stream began: %v", err)
	}
	if err := j.Ready(true); !errors.Is(err, ErrFailed) {
		t.Errorf("ready: %v", err)
	}
	if err := j.Close(patience(t)); !errors.Is(err, ErrFailed) {
		t.Errorf("close: %v", err)
	}
	if n := syncs.Load(); n != 1 {
		t.Errorf("%d calls of fdatasync", n)
	}
}

// TestPromise3_SlowDisk is warned of, and then fails the journal.
func TestPromise3_SlowDisk(t *testing.T) {
	disk, log := newMemory(), &logged{}
	o := small(disk)
	o.Log, o.WarnAfter, o.FailAfter = log.logger(), 20*time.Millisecond, 200*time.Millisecond
	j := open(t, o)
	s := stream(t, j, "S-1")
	hold := make(chan struct{})
	disk.mu.Lock()
	disk.fault = func(_ int, what string) error {
		if what == "sync" {
			<-hold
		}
		return nil
	}
	disk.mu.Unlock()
	p, err := s.Append(0, 'o', time.Time{}, []byte("x"))
	must(t, err)
	begin := time.Now()
	if err := s.Wait(patience(t), p); !errors.Is(err, errSlowDisk) {
		t.Errorf("wait: %v", err)
	}
	if took := time.Since(begin); took < 150*time.Millisecond {
		t.Errorf("it failed after %s", took)
	}
	if !log.has("disk of the journal is slow") {
		t.Error("nobody was warned")
	}
	close(hold) // now the call returns, and is too late
	_ = j.Close(patience(t))
	if s.Durable() != 0 {
		t.Error("a frame of a failed journal became durable")
	}
}

// TestPromise3_FullDiskAndRescue: when there is no room for another file,
// sessions end and an administrator's goes on in the reserve.
func TestPromise3_FullDiskAndRescue(t *testing.T) {
	disk, log := newMemory(), &logged{}
	o := small(disk)
	o.Log, o.WarnAfter, o.FailAfter = log.logger(), 20*time.Millisecond, 200*time.Millisecond
	disk.capacity = 3 * o.FileSize // two to work with and the reserve
	j := open(t, o)
	rescueDurable(t, j, o)
	if !log.has("can't have more files") {
		t.Error("nobody was warned")
	}
	must(t, j.Close(patience(t)))
	found, err := reopen(o)
	must(t, err)
	if len(found["S-rescue"].frames) != 10 {
		t.Error("the rescue session was not recorded")
	}
}

// rescueDurable fills a journal until it is full, and then uses the reserve.
func rescueDurable(t *testing.T, j *Journal, o Options) {
	t.Helper()
	must(t, j.Ready(false))
	s := stream(t, j, "S-ordinary")
	data := make([]byte, o.MaxFrame)
	shown := Position(0)
	for {
		p, err := s.Append(0, 'o', time.Time{}, data)
		if err == nil {
			err = s.Wait(patience(t), p)
		}
		if errors.Is(err, ErrNoSpace) {
			break
		}
		must(t, err)
		shown = p
	}
	if shown == 0 || s.Durable() != shown {
		t.Errorf("%d frames shown, %d durable", shown, s.Durable())
	}
	if err := j.Ready(false); !errors.Is(err, ErrNoSpace) {
		t.Errorf("ready for ordinary sessions: %v", err)
	}
	must(t, j.Ready(true))
	must(t, j.Failure())
	r, err := j.OpenStream(StreamOptions{Name: "S-rescue", Keys: keys("S-rescue"), Public: []byte("public of S-rescue"), Rescue: true})
	must(t, err)
	for range 10 {
		p, err := r.Append(0, 'o', time.Time{}, []byte("df -h"))
		must(t, err)
		must(t, r.Wait(patience(t), p))
	}
	// There is room again: the frames were moved.
	must(t, s.Release(s.Durable()))
	eventually(t, "there is room again", func() bool { return j.Ready(false) == nil })
	again := stream(t, j, "S-again")
	p, err := again.Append(0, 'o', time.Time{}, data)
	must(t, err)
	must(t, again.Wait(patience(t), p))
	must(t, again.Release(p))
}

// TestWrittenModeNeverSyncs but still writes before it acknowledges.
func TestWrittenModeNeverSyncs(t *testing.T) {
	disk := newMemory()
	o := small(disk)
	o.Mode = Written
	j := open(t, o)
	s := stream(t, j, "S-1")
	p, err := s.Append(0, 'o', time.Time{}, []byte("x"))
	must(t, err)
	must(t, s.Wait(patience(t), p))
	// The keeper syncs the zeroes of files that it makes ready, so what counts is that the frame was not.
	if !disk.hasUnsyncedData() {
		t.Error("the frame was synced")
	}
	must(t, j.Close(patience(t)))
	if found, err := reopen(o); err != nil || len(found["S-1"].frames) != 1 {
		t.Errorf("%v %v", found, err)
	}
}
