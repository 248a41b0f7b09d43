package journal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestFramesComeBack(t *testing.T) {
	disk := newMemory()
	o := small(disk)
	j := open(t, o)
	alice, bob := stream(t, j, "S-alice"), stream(t, j, "S-bob")
	at := time.Date(2026, 11, 21, 12, 0, 0, 123000, time.UTC)
	for i := range 50 {
		data := bytes.Repeat([]byte{byte(i)}, i*37)
		_, err := alice.Append(Class(i%2), 'o', at, data)
		must(t, err)
		p, err := bob.Append(0, 'i', at, data)
		must(t, err)
		must(t, bob.Wait(patience(t), p))
	}
	must(t, bob.Release(20))
	must(t, j.Close(patience(t)))
	if _, err := alice.Append(0, 'o', at, nil); !errors.Is(err, ErrClosed) {
		t.Errorf("append after close: %v", err)
	}
	found, err := reopen(o)
	must(t, err)
	if len(found) != 2 || len(found["S-alice"].frames) != 50 || len(found["S-bob"].frames) != 30 {
		t.Fatalf("%d streams", len(found))
	}
	if b := found["S-bob"]; b.First != 21 || b.Last != 50 || b.Released != 20 {
		t.Errorf("remains of S-bob: %d to %d, released %d", b.First, b.Last, b.Released)
	}
	for p, f := range found["S-alice"].frames {
		i := int(p) - 1
		if f.Class != Class(i%2) || f.Kind != 'o' || !f.Time.Equal(at) || !bytes.Equal(f.Data, bytes.Repeat([]byte{byte(i)}, i*37)) {
			t.Errorf("frame %d is %+v", p, f)
		}
	}
	if found, err = reopen(o); err != nil || len(found) != 0 {
		t.Errorf("handed back twice: %v %v", found, err)
	}
}

func TestRemainsNeedATaker(t *testing.T) {
	o := small(newMemory())
	j := open(t, o)
	s := stream(t, j, "S-1")
	_, err := s.Append(0, 'o', time.Time{}, []byte("x"))
	must(t, err)
	must(t, j.Close(patience(t)))
	if _, err := Open(o, nil); err == nil || !strings.Contains(err.Error(), "nobody takes them") {
		t.Errorf("opened over frames that were not released: %v", err)
	}
	refused := errors.New("no room there")
	if _, err := Open(o, func(*Remains) error { return refused }); !errors.Is(err, refused) {
		t.Errorf("visit's error was lost: %v", err)
	}
	if found, err := reopen(o); err != nil || len(found["S-1"].frames) != 1 {
		t.Errorf("the frame is gone: %v %v", found, err)
	}
}

// TestFilesAreUsedAgain writes many times what the files hold.
func TestFilesAreUsedAgain(t *testing.T) {
	disk := newMemory()
	o := small(disk)
	j := open(t, o)
	s, idle := stream(t, j, "S-busy"), stream(t, j, "S-idle")
	p, err := idle.Append(0, 'o', time.Time{}, []byte("a line of long ago"))
	must(t, err)
	must(t, idle.Wait(patience(t), p))
	must(t, idle.Release(p))
	data := bytes.Repeat([]byte("x"), 4000)
	for range 2000 { // 8 MB through files of 192 KiB
		p, err := s.Append(0, 'o', time.Time{}, data)
		must(t, err)
		must(t, s.Wait(patience(t), p))
		if p%16 == 0 {
			must(t, s.Release(p-8))
		}
	}
	disk.mu.Lock()
	files := len(disk.names)
	disk.mu.Unlock()
	if files > 10 {
		t.Errorf("%d files", files)
	}
	must(t, j.Close(patience(t)))
	found, err := reopen(o)
	must(t, err)
	k := found["S-busy"]
	if len(found) != 1 || k.First != 1993 || len(k.frames) != 8 {
		t.Errorf("%d streams, frames %d to %d", len(found), k.First, k.Last)
	}
}

func TestAppendWaitsButNeverDrops(t *testing.T) {
	disk := newMemory()
	hold, held := make(chan struct{}), make(chan struct{}, 100)
	o := small(disk)
	o.MaxPending, o.MaxPendingInSum = 10<<10, 20<<10
	j := open(t, o)
	disk.mu.Lock()
	disk.fault = func(_ int, what string) error {
		if what == "sync" {
			held <- struct{}{}
			<-hold
		}
		return nil
	}
	disk.mu.Unlock()
	var streams [4]*Stream
	var done sync.WaitGroup
	for i := range streams {
		s := stream(t, j, fmt.Sprintf("S-%d", i))
		streams[i] = s
		done.Go(func() {
			for range 20 {
				if _, err := s.Append(0, 'o', time.Time{}, make([]byte, 2000)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	<-held
	eventually(t, "appends wait", func() bool { return j.crowded.Load() > 0 })
	if n := j.pending.Load(); n > int64(o.MaxPendingInSum) {
		t.Errorf("%d bytes are pending", n)
	}
	close(hold)
	done.Wait()
	for _, s := range streams {
		must(t, s.Wait(patience(t), 20))
	}
	// Room is given back just after those who wait were woken.
	eventually(t, "no byte counts as pending any more", func() bool { return j.pending.Load() == 0 })
	must(t, j.Close(patience(t)))
}

func TestWaitEnds(t *testing.T) {
	j := open(t, small(newMemory()))
	s := stream(t, j, "S-1")
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := s.Wait(ctx, 1); !errors.Is(err, context.Canceled) {
		t.Errorf("wait: %v", err)
	}
	result := make(chan error)
	go func() { result <- s.Wait(patience(t), 2) }()
	eventually(t, "it waits", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return len(s.waiters) == 1
	})
	p, err := s.Append(0, 'o', time.Time{}, nil)
	must(t, err)
	must(t, s.Wait(patience(t), p))
	s.Close()
	if err := <-result; !errors.Is(err, ErrClosed) {
		t.Errorf("wait for a frame that never comes: %v", err)
	}
	if err := s.Release(5); err == nil {
		t.Error("released what was never written")
	}
}

func TestStreamIsChecked(t *testing.T) {
	j := open(t, small(newMemory()))
	for _, o := range []StreamOptions{
		{Keys: keys("x")},
		{Name: "S", Keys: nil},
		{Name: "S", Keys: [][]byte{make([]byte, 31)}},
		{Name: "S", Keys: [][]byte{nil}},
		{Name: strings.Repeat("S", 256), Keys: keys("x")},
		{Name: "S", Keys: keys("x"), Public: make([]byte, MaxPublic+1)},
	} {
		if _, err := j.OpenStream(o); err == nil {
			t.Errorf("opened %+v", o)
		}
	}
	s := stream(t, j, "S-1")
	if _, err := s.Append(2, 'o', time.Time{}, nil); err == nil {
		t.Error("a class without a key")
	}
	if _, err := s.Append(0, 'o', time.Time{}, make([]byte, 4<<10+1)); err == nil {
		t.Error("a frame that is too large")
	}
}

// TestPromise5_NothingInClear looks for what was appended on the disk.
func TestPromise5_NothingInClear(t *testing.T) {
	disk := newMemory()
	j := open(t, small(disk))
	s := stream(t, j, "S-1")
	p, err := s.Append(1, 'i', time.Time{}, []byte("the password of the patient's file"))
	must(t, err)
	must(t, s.Wait(patience(t), p))
	disk.mu.Lock()
	defer disk.mu.Unlock()
	for name, f := range disk.names {
		if bytes.Contains(f.content, []byte("password")) {
			t.Errorf("it stands in %s", name)
		}
	}
}

func TestClassWithoutKeyStaysSealed(t *testing.T) {
	o := small(newMemory())
	j := open(t, o)
	s := stream(t, j, "S-1")
	for i := range 6 {
		_, err := s.Append(Class(i%2), 'o', time.Time{}, []byte{byte(i)})
		must(t, err)
	}
	must(t, j.Close(patience(t)))
	read := func(r *Remains) error {
		opener, err := NewOpener(r.Opening, [][]byte{key("S-1", 0), nil})
		must(t, err)
		var opened int
		for f, err := range r.Frames() {
			must(t, err)
			if _, err := opener.Open(f); err == nil {
				opened++
			} else if !errors.Is(err, ErrSealed) || f.Class != 1 {
				t.Error(err)
			}
		}
		if opened != 3 {
			t.Errorf("%d frames opened", opened)
		}
		// Every changed byte of a frame, and every exchanged frame, is found.
		opener, err = NewOpener(r.Opening, keys("S-1"))
		must(t, err)
		for f := range r.Frames() {
			for i := range f.Raw {
				changed := SealedFrame{Raw: bytes.Clone(f.Raw)}
				changed.Raw[i] ^= 1
				fresh := *opener
				if _, err := fresh.Open(changed); err == nil && i >= 4 {
					t.Errorf("changed byte %d of frame %d was not found", i, f.Position)
				}
			}
			if _, err := opener.Open(f); err != nil {
				t.Error(err)
			}
			if _, err := opener.Open(f); err == nil {
				t.Error("the same frame twice")
			}
		}
		r.Opening.Public = []byte("another envelope")
		if _, err := NewOpener(r.Opening, keys("S-1")); err == nil {
			t.Error("a changed opening was not found")
		}
		return nil
	}
	j, err := Open(o, read)
	must(t, err)
	must(t, j.Close(patience(t)))
}

// TestShortChunksGoFirst puts a keystroke behind megabytes of others' bulk.
func TestShortChunksGoFirst(t *testing.T) {
	disk := newMemory()
	hold, held := make(chan struct{}), make(chan struct{}, 1000)
	o := small(disk)
	o.FileSize = 1 << 20
	j := open(t, o)
	first := stream(t, j, "S-first")
	settle(t, j, first)
	disk.mu.Lock()
	disk.fault = func(_ int, what string) error {
		if what == "sync" {
			held <- struct{}{}
			<-hold
		}
		return nil
	}
	disk.mu.Unlock()
	bulk, typed := stream(t, j, "S-bulk"), stream(t, j, "S-typed")
	_, err := bulk.Append(0, 'o', time.Time{}, nil)
	must(t, err)
	<-held // the first batch is under way, the next gathers
	for range 60 {
		_, err := bulk.Append(0, 'o', time.Time{}, make([]byte, 4000))
		must(t, err)
	}
	_, err = typed.Append(0, 'i', time.Time{}, []byte("x"))
	must(t, err)
	hold <- struct{}{}
	<-held
	hold <- struct{}{}
	must(t, typed.Wait(patience(t), 1))
	if d := bulk.Durable(); d > 40 {
		t.Errorf("%d bulk frames went first", d)
	}
	close(hold)
	must(t, bulk.Wait(patience(t), 61))
	must(t, j.Close(patience(t)))
}

func TestHotPathAllocatesNothing(t *testing.T) {
	o := Options{Dir: t.TempDir(), Node: "node-1", FileSize: 4 << 20, Mode: Written}
	j := open(t, o)
	s := stream(t, j, "S-1")
	data := make([]byte, 100)
	now := time.Now()
	ctx := patience(t)
	allocations := testing.AllocsPerRun(2000, func() {
		p, err := s.Append(0, 'o', now, data)
		if err == nil {
			err = s.Wait(ctx, p)
		}
		if err != nil {
			t.Error(err)
		}
	})
	// The race detector drops what is put into pools, now and then.
	if allocations > 0.5 && !raceDetector {
		t.Errorf("%v allocations a frame", allocations)
	}
	must(t, s.Release(s.Durable()))
}
