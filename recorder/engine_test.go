package recorder

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

func publicKey(o Options) ed25519.PublicKey { return o.Signer.Public().(ed25519.PublicKey) }

func TestRecordingRoundTrip(t *testing.T) {
	o := testOptions(t)
	r, keys := open(t, o), testKeys(t)
	rec := start(t, r, "S-1", true, keys)
	big := strings.Repeat("y", MaxFrame)
	want := []Entry{
		{1, KindOutput, time.Time{}, []byte("$ ")}, {2, KindInput, time.Time{}, []byte("ls\r")},
		{3, KindOutput, time.Time{}, []byte("\xff\xfe\x00")}, {4, KindOutput, time.Time{}, []byte(big)},
		{5, KindInput, time.Time{}, []byte("q")}, {6, KindGate, time.Time{}, nil},
		{7, KindExit, time.Time{}, EncodeExit(3, "")},
	}
	for _, e := range want {
		if p := appendFrame(t, rec, e.Kind, string(e.Data)); p != e.Position {
			t.Fatalf("position %d, want %d", p, e.Position)
		}
	}
	result, err := rec.Close(patience(t), "exit")
	must(t, err)
	p := readBack(t, readFile(t, r.Path("S-1")), keys, publicKey(o))
	must(t, p.err)
	if p.meta.User != "alice" || p.meta.Node != "N-test" || p.header.Session != "S-1" {
		t.Errorf("description %+v", p.meta)
	}
	got := map[Position]Entry{}
	for _, e := range p.entries {
		got[e.Position] = e
	}
	if len(got) != len(want) {
		t.Fatalf("%d frames, want %d", len(got), len(want))
	}
	for _, w := range want {
		if g := got[w.Position]; g.Kind != w.Kind || !bytes.Equal(g.Data, w.Data) {
			t.Errorf("frame %d: %q with %d bytes", w.Position, g.Kind, len(g.Data))
		}
	}
	end := p.end
	if end == nil || end.Reason != "exit" || end.Frames != 7 || end.BytesIn != 4 || end.BytesOut != int64(5+len(big)) || end.Blocks != uint64(p.blocks) {
		t.Errorf("end %+v of %d blocks", end, p.blocks)
	}
	if result.Reason != "exit" || result.Blocks != end.Blocks || len(result.Head) != 64 {
		t.Errorf("result %+v", result)
	}
	info, err := os.Stat(r.Path("S-1"))
	must(t, err)
	if info.Mode() != 0o600 {
		t.Errorf("mode %v", info.Mode())
	}
	if _, err := rec.Append(Frame{Kind: KindOutput}); !errors.Is(err, ErrClosed) {
		t.Errorf("append after close: %v", err)
	}
	if err := rec.Wait(t.Context(), 8); !errors.Is(err, ErrClosed) {
		t.Errorf("wait after close: %v", err)
	}
	must(t, rec.Wait(t.Context(), 7))
	if _, err := r.Start(t.Context(), testMeta("S-1", false), keys.Keys()); err == nil {
		t.Error("a session was recorded twice")
	}
}

func TestStartRefuses(t *testing.T) {
	o := testOptions(t)
	free := int64(99)
	o.MinFree = 100
	o.free = func(string) (int64, error) { return free, nil }
	r, keys := open(t, o), testKeys(t).Keys()
	if _, err := r.Start(t.Context(), testMeta("S-1", false), keys); !errors.Is(err, ErrNoSpace) {
		t.Errorf("full disk: %v", err)
	}
	free = 100
	for _, name := range []string{"", "S-", "../S-1", "S-1/..", "S-\x00", "C-1"} {
		if _, err := r.Start(t.Context(), testMeta(name, false), keys); err == nil {
			t.Errorf("session %q was started", name)
		}
	}
	if _, err := r.Start(t.Context(), testMeta("S-1", true), Keys{Recipient: keys.Recipient}); err == nil {
		t.Error("a terminal was recorded without a strict key")
	}
	if _, err := r.Start(t.Context(), testMeta("S-1", false), Keys{Recipient: "age1nonsense"}); err == nil {
		t.Error("a recording was sealed to nonsense")
	}
	rec, err := r.Start(t.Context(), testMeta("S-1", false), keys)
	must(t, err)
	if _, err := rec.Append(Frame{Kind: KindOutput, Data: make([]byte, MaxFrame+1)}); err == nil {
		t.Error("a frame above the limit was taken")
	}
	if _, err := rec.Append(Frame{Kind: kindLeaf}); err == nil {
		t.Error("an unknown kind was taken")
	}
	_, err = rec.Close(patience(t), "exit")
	must(t, err)
}

// TestPromise3_DurableOnlyAfterSync holds the disk back: nothing may count as
// durable before its sync has returned.
func TestPromise3_DurableOnlyAfterSync(t *testing.T) {
	o := testOptions(t)
	last := withFaults(&o)
	r, keys := open(t, o), testKeys(t)
	rec := start(t, r, "S-1", false, keys)
	disk := last()
	release, entered := make(chan struct{}), make(chan struct{}, 8)
	disk.set(func() { disk.block, disk.entered = release, entered })
	p := appendFrame(t, rec, KindOutput, "secret")
	<-entered // written, not yet synced
	if rec.Durable() != 0 {
		t.Error("a frame counts as durable before its sync returned")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := rec.Wait(ctx, p); !errors.Is(err, context.Canceled) {
		t.Errorf("wait: %v", err)
	}
	disk.set(func() { disk.block = nil })
	close(release)
	must(t, rec.Wait(patience(t), p))
	if rec.Durable() != p {
		t.Errorf("durable %d, want %d", rec.Durable(), p)
	}
	// What is acknowledged must be readable from the file at that moment.
	got := readBack(t, readFile(t, r.Path("S-1")), keys, publicKey(o))
	if len(got.entries) != 1 || string(got.entries[0].Data) != "secret" {
		t.Errorf("the acknowledged frame is not on the disk: %+v", got)
	}
	_, err := rec.Close(patience(t), "exit")
	must(t, err)
}

func TestPromise3_AnyWriteErrorIsFinal(t *testing.T) {
	faults := map[string]func(*faultyFile){
		"ENOSPC on write": func(f *faultyFile) { f.writeErr = syscall.ENOSPC },
		"EIO on write":    func(f *faultyFile) { f.writeErr = syscall.EIO },
		"EIO on sync":     func(f *faultyFile) { f.syncErr = syscall.EIO },
		"short write":     func(f *faultyFile) { f.short = true },
	}
	for name, inject := range faults {
		t.Run(name, func(t *testing.T) {
			o := testOptions(t)
			last := withFaults(&o)
			r, keys := open(t, o), testKeys(t)
			rec := start(t, r, "S-1", false, keys)
			disk := last()
			p := appendFrame(t, rec, KindOutput, "kept")
			must(t, rec.Wait(patience(t), p))
			disk.set(func() { inject(disk) })
			q := appendFrame(t, rec, KindOutput, "lost")
			if err := rec.Wait(patience(t), q); !errors.Is(err, ErrFailed) {
				t.Fatalf("wait: %v", err)
			}
			<-rec.Done()
			<-r.Failed()
			disk.set(func() { disk.writeErr, disk.syncErr, disk.short = nil, nil, false })
			syncs := disk.syncs
			if _, err := rec.Append(Frame{Kind: KindOutput}); !errors.Is(err, ErrFailed) {
				t.Errorf("append: %v", err)
			}
			if _, err := rec.Close(patience(t), "exit"); !errors.Is(err, ErrFailed) {
				t.Errorf("close: %v", err)
			}
			if err := r.Ready(); !errors.Is(err, ErrFailed) {
				t.Errorf("ready: %v", err)
			}
			if _, err := r.Start(t.Context(), testMeta("S-2", false), keys.Keys()); !errors.Is(err, ErrFailed) {
				t.Errorf("start: %v", err)
			}
			if rec.Durable() != p || disk.syncs != syncs {
				t.Errorf("a failed sync was tried again, or believed")
			}
			// The file is kept, and a restart closes it.
			again := open(t, Options{Dir: o.Dir, Node: o.Node, Signer: o.Signer})
			results, err := again.Recover(t.Context(), []string{"S-1"})
			must(t, err)
			if results["S-1"].Reason != ReasonCrashed {
				t.Errorf("recovered %+v", results)
			}
			got := readBack(t, readFile(t, r.Path("S-1")), keys, publicKey(o))
			if got.err != nil || len(got.entries) == 0 || string(got.entries[0].Data) != "kept" {
				t.Errorf("after recovery: %+v", got)
			}
		})
	}
}

func TestInterruptedWriteGoesOn(t *testing.T) {
	o := testOptions(t)
	last := withFaults(&o)
	r, keys := open(t, o), testKeys(t)
	rec := start(t, r, "S-1", false, keys)
	disk := last()
	disk.set(func() { disk.eintr = true })
	must(t, rec.Wait(patience(t), appendFrame(t, rec, KindOutput, "whole")))
	_, err := rec.Close(patience(t), "exit")
	must(t, err)
	if got := readBack(t, readFile(t, r.Path("S-1")), keys, publicKey(o)); got.err != nil || got.end == nil {
		t.Errorf("%+v", got)
	}
}

func TestPromise3_SlowDiskFailsTheRecording(t *testing.T) {
	o := testOptions(t)
	o.WarnAfter, o.FailAfter = time.Millisecond, 20*time.Millisecond
	last := withFaults(&o)
	r := open(t, o)
	rec := start(t, r, "S-1", false, testKeys(t))
	disk := last()
	release, entered := make(chan struct{}), make(chan struct{}, 1)
	disk.set(func() { disk.block, disk.entered = release, entered })
	p := appendFrame(t, rec, KindOutput, "x")
	<-entered
	if err := rec.Wait(patience(t), p); !errors.Is(err, ErrFailed) || !errors.Is(err, errSlowDisk) {
		t.Errorf("wait: %v", err)
	}
	close(release) // comes back after all: too late to count
	<-rec.stopped
	if rec.Durable() != 0 {
		t.Error("a commit that came too late was believed")
	}
}

// TestPromise3_BackPressureNeverDrops fills a small window behind a disk that
// is held back.
func TestPromise3_BackPressureNeverDrops(t *testing.T) {
	o := testOptions(t)
	o.MaxPending = 4096
	last := withFaults(&o)
	r, keys := open(t, o), testKeys(t)
	rec := start(t, r, "S-1", false, keys)
	disk := last()
	release, entered := make(chan struct{}), make(chan struct{}, 1000)
	disk.set(func() { disk.block, disk.entered = release, entered })
	const frames = 64
	sent := make(chan Position, frames)
	go func() {
		defer close(sent)
		for i := range frames {
			p, err := rec.Append(Frame{Kind: KindOutput, Data: fmt.Appendf(nil, "%04d%s", i, strings.Repeat(".", 508))})
			if err != nil {
				t.Error(err)
				return
			}
			sent <- p
		}
	}()
	<-entered
	if len(sent) > 16 {
		t.Errorf("%d frames were taken into a window of 4096 bytes", len(sent))
	}
	disk.set(func() { disk.block = nil })
	close(release)
	for range sent {
	}
	_, err := rec.Close(patience(t), "exit")
	must(t, err)
	got := readBack(t, readFile(t, r.Path("S-1")), keys, publicKey(o))
	if len(got.entries) != frames {
		t.Fatalf("%d frames, want %d", len(got.entries), frames)
	}
	for i, e := range got.entries {
		if string(e.Data[:4]) != fmt.Sprintf("%04d", i) {
			t.Fatalf("frame %d is %q", i, e.Data[:4])
		}
	}
}

func TestConcurrentAppendKeepsOneOrder(t *testing.T) {
	o := testOptions(t)
	r, keys := open(t, o), testKeys(t)
	rec := start(t, r, "S-1", true, keys)
	var mu sync.Mutex
	want := map[Position]string{}
	var group sync.WaitGroup
	for i := range 8 {
		group.Go(func() {
			buffer := make([]byte, 0, 64)
			for n := range 200 {
				kind := KindOutput
				if n%3 == 0 {
					kind = KindInput
				}
				buffer = fmt.Appendf(buffer[:0], "%d-%d", i, n) // reused: Append must copy
				p, err := rec.Append(Frame{Kind: kind, Data: buffer})
				if err == nil && n%50 == 0 {
					err = rec.Wait(t.Context(), p)
				}
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				want[p] = string(buffer)
				mu.Unlock()
			}
		})
	}
	group.Wait()
	_, err := rec.Close(patience(t), "exit")
	must(t, err)
	got := readBack(t, readFile(t, r.Path("S-1")), keys, publicKey(o))
	must(t, got.err)
	if len(got.entries) != len(want) {
		t.Fatalf("%d frames, want %d", len(got.entries), len(want))
	}
	for _, e := range got.entries {
		if want[e.Position] != string(e.Data) {
			t.Fatalf("frame %d is %q, want %q", e.Position, e.Data, want[e.Position])
		}
	}
}

// TestRecoverAfterAnyCut cuts a recording at every byte, as a crash could, and
// expects a closed, verifiable file with every frame of whole groups.
func TestRecoverAfterAnyCut(t *testing.T) {
	o := testOptions(t)
	r, keys := open(t, o), testKeys(t)
	rec := start(t, r, "S-1", true, keys)
	for i := range 3 {
		appendFrame(t, rec, KindOutput, "out")
		must(t, rec.Wait(patience(t), appendFrame(t, rec, KindInput, fmt.Sprint(i))))
	}
	_, err := rec.Close(patience(t), "exit")
	must(t, err)
	whole := readFile(t, r.Path("S-1"))
	b, err := NewBlockReader(bytes.NewReader(whole))
	must(t, err)
	for range 2 {
		_, err = b.Next()
		must(t, err)
	}
	headerEnd := int(b.Offset())
	for cut := range len(whole) {
		if cut < headerEnd && cut%97 != 0 && cut != headerEnd-1 {
			continue // inside the envelopes one byte is like another
		}
		dir := t.TempDir()
		path := filepath.Join(dir, "S-1.rec")
		must(t, os.WriteFile(path, whole[:cut], 0o600))
		again, err := Open(Options{Dir: dir, Node: o.Node, Signer: o.Signer})
		must(t, err)
		results, err := again.Recover(t.Context(), []string{"S-1"})
		must(t, err)
		if cut < headerEnd {
			kept := readFile(t, path+tornSuffix)
			if results["S-1"].Reason != ReasonMissing || !bytes.Equal(kept, whole[:cut]) {
				t.Fatalf("cut at %d: %+v", cut, results)
			}
			continue
		}
		p := readBack(t, readFile(t, path), keys, publicKey(o))
		if p.err != nil || p.end == nil || p.end.Reason != ReasonCrashed || p.end.Frames != uint64(len(p.entries)) {
			t.Fatalf("cut at %d: %+v", cut, p)
		}
		if p.end.Torn > 0 && int64(len(readFile(t, path+tornSuffix))) != p.end.Torn {
			t.Fatalf("cut at %d: the torn tail was not kept", cut)
		}
		if second, err := again.Recover(t.Context(), []string{"S-1"}); err != nil || second["S-1"] != results["S-1"] {
			t.Fatalf("recovered twice: %v %v", second, err)
		}
	}
}

func TestRecoverSetsAsideWhatIsNotATornTail(t *testing.T) {
	o := testOptions(t)
	r, keys := open(t, o), testKeys(t)
	rec := start(t, r, "S-1", false, keys)
	var last Position
	for range 40 {
		last = appendFrame(t, rec, KindOutput, strings.Repeat("z", 1<<20))
	}
	must(t, rec.Wait(patience(t), last))
	data := readFile(t, r.Path("S-1"))
	_, err := rec.Close(patience(t), "exit")
	must(t, err)
	data[1<<20] ^= 1 // 39 MiB before the end: no crash does that
	must(t, os.WriteFile(r.Path("S-1"), data, 0o600))
	results, err := r.Recover(t.Context(), []string{"S-1"})
	must(t, err)
	if results["S-1"].Reason != ReasonDamaged {
		t.Errorf("%+v", results)
	}
	if !bytes.Equal(readFile(t, r.Path("S-1")+damagedSuffix), data) {
		t.Error("the damaged recording was changed")
	}
}

func TestRecorderCloseWaits(t *testing.T) {
	r := open(t, testOptions(t))
	rec := start(t, r, "S-1", false, testKeys(t))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := r.Close(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("close with an open recording: %v", err)
	}
	if err := r.Ready(); !errors.Is(err, ErrClosed) {
		t.Errorf("ready: %v", err)
	}
	_, err := rec.Close(patience(t), "exit")
	must(t, err)
}

func TestExitAndResize(t *testing.T) {
	for _, c := range []struct {
		status uint32
		signal string
	}{{0, ""}, {255, ""}, {1 << 24, ""}, {0, "INT"}, {0, "TERM"}, {0, "USR1"}} {
		status, signal, err := DecodeExit(EncodeExit(c.status, c.signal))
		if err != nil || status != c.status || signal != c.signal {
			t.Errorf("%+v became %d %q %v", c, status, signal, err)
		}
	}
	for _, bad := range [][]byte{nil, {1}, {'s'}, {0, 0, 0, 0, 0}} {
		if _, _, err := DecodeExit(bad); err == nil {
			t.Errorf("%v is no exit", bad)
		}
	}
	w := Window{80, 24, 640, 480}
	if got, err := DecodeResize(EncodeResize(w)); err != nil || got != w {
		t.Errorf("%+v %v", got, err)
	}
	if _, err := DecodeResize(make([]byte, 15)); err == nil {
		t.Error("fifteen bytes are no window")
	}
}
