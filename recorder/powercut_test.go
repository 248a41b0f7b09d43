package recorder

import (
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

var errPower = errors.New("the power is off")

// dyingDisk keeps recordings on a disk whose power goes off in the middle of
// one fdatasync: what was written since the one before may have reached the
// disk, in part or not at all.
type dyingDisk struct {
	entered chan struct{} // closed when that Sync has begun
	release chan struct{} // closed when it may fail

	mu   sync.Mutex // guards the rest
	left int        // calls of Sync until the power goes
	off  bool
}

type dyingFile struct {
	file
	disk    *dyingDisk
	durable atomic.Int64 // bytes, as of the last Sync
	size    atomic.Int64
}

func (f *dyingFile) Write(b []byte) (int, error) {
	f.disk.mu.Lock()
	off := f.disk.off
	f.disk.mu.Unlock()
	if off {
		return 0, errPower
	}
	n, err := f.file.Write(b)
	f.size.Add(int64(n))
	return n, err
}

func (f *dyingFile) Sync() error {
	f.disk.mu.Lock()
	f.disk.left--
	dies := f.disk.left == 0
	f.disk.off = f.disk.off || dies
	off := f.disk.off
	f.disk.mu.Unlock()
	if dies {
		close(f.disk.entered)
	}
	if off {
		<-f.disk.release
		return errPower
	}
	size := f.size.Load()
	err := f.file.Sync()
	if err == nil {
		f.durable.Store(size)
	}
	return err
}

// TestPromise3_PowerCutWhileSealing cuts the power at each fdatasync of a recording in
// turn, and lets of what was not yet durable come through any sectors: dropped, torn or
// whole. Every frame that was durable before is found again, from file and journal together.
func TestPromise3_PowerCutWhileSealing(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 3))
	for cut := 1; ; cut++ {
		if !powerCut(t, random, cut) {
			if cut < 4 {
				t.Errorf("the script has only %d calls of fdatasync", cut-1)
			}
			t.Logf("%d calls of fdatasync", cut-1)
			return
		}
	}
}

// powerCut plays a short session and cuts the power at one call of fdatasync; false
// when the session ended before that.
func powerCut(t *testing.T, random *rand.Rand, cut int) bool {
	t.Helper()
	state, keys := t.TempDir(), testKeys(t)
	o := optionsIn(state)
	o.age = 50 * time.Millisecond
	disk := &dyingDisk{entered: make(chan struct{}), release: make(chan struct{}), left: cut}
	var last atomic.Pointer[dyingFile]
	o.create = func(path string) (file, error) {
		real, err := createFile(path)
		if err != nil {
			return nil, err
		}
		f := &dyingFile{file: real, disk: disk}
		last.Store(f)
		return f, nil
	}
	r, err := Open(o)
	must(t, err)
	var shown atomic.Uint64 // position that was durable
	done := make(chan struct{})
	go func() {
		defer close(done)
		playUntilPowerCut(t, r, keys, &shown)
	}()
	died := false
	select {
	case <-disk.entered:
		died = true
		acknowledged := Position(shown.Load())
		durable := last.Load().durable.Load()
		left := copyState(t, state)
		for range 5 {
			afterPowerCut(t, random, left, keys, acknowledged, durable)
		}
	case <-done:
	}
	close(disk.release)
	<-done
	if err := r.Close(patience(t)); err != nil && !died {
		t.Error(err)
	}
	return died
}

// playUntilPowerCut is a session of a few segments.
func playUntilPowerCut(t *testing.T, r *Recorder, keys EpochKeys, shown *atomic.Uint64) {
	rec, err := r.Start(t.Context(), testMeta("S-1", true), keys.Keys())
	if err != nil {
		return
	}
	source := rand.New(rand.NewPCG(1, 1))
	for n := range 30 {
		if n%8 == 7 {
			awaitSeal(r.Path("S-1"), rec)
		}
		noise := make([]byte, 16<<10)
		for i := range noise {
			noise[i] = byte(source.Uint32())
		}
		p, err := rec.Append(Frame{Kind: KindOutput, Data: noise})
		if err == nil {
			p, err = rec.Append(Frame{Kind: KindInput, Data: []byte("key")})
		}
		if err == nil {
			err = rec.Wait(t.Context(), p)
		}
		if err != nil {
			break
		}
		shown.Store(uint64(p))
	}
	_, _ = rec.Close(t.Context(), "exited") // it fails when the power is off
}

// awaitSeal returns once the file has grown, so that the script has a commit here however
// fast the machine is, or when the recording has failed.
func awaitSeal(path string, rec *Recording) {
	size := func() int64 {
		info, err := os.Stat(path)
		if err != nil {
			return 0
		}
		return info.Size()
	}
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	before := size()
	for range 400 {
		if size() != before {
			return
		}
		select {
		case <-rec.Done():
			return
		case <-tick.C:
		}
	}
}

// afterPowerCut makes what a disk may hold afterwards, and recovers it.
func afterPowerCut(t *testing.T, random *rand.Rand, left string, keys EpochKeys, acknowledged Position, durable int64) {
	t.Helper()
	state := copyState(t, left)
	path := filepath.Join(state, "recordings", "S-1.trec")
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		text = nil
	} else {
		must(t, err)
		durable = min(durable, int64(len(text)))
		text = text[:durable+random.Int64N(int64(len(text))-durable+1)]
		for at := durable; at < int64(len(text)); at = at - at%512 + 512 {
			if random.IntN(3) == 0 { // this sector was never written
				clear(text[at:min(at-at%512+512, int64(len(text)))])
			}
		}
		must(t, os.WriteFile(path, text, 0o600))
	}
	r := open(t, optionsIn(state))
	found, err := r.Recover(t.Context(), []Left{{"S-1", 1}})
	must(t, err)
	defer shut(t, r)
	if acknowledged == 0 && found["S-1"].Reason != ReasonCrashed {
		return // nothing was shown, and the session never began
	}
	got := readBack(t, r.Path("S-1"), keys)
	if got.err != nil || got.frames() < acknowledged || got.sealed != 0 {
		t.Fatalf("of %d durable bytes and %d that may be, %d frames were shown, %d are recorded (%d sealed): %v; %+v",
			durable, int64(len(text))-durable, acknowledged, got.frames(), got.sealed, got.err, found)
	}
	if n := strings.Count(got.text(KindInput), "key"); Position(n) < acknowledged/2 {
		t.Errorf("%d keys are recorded, %d frames were shown", n, acknowledged)
	}
	checkLedger(t, r, "S-1")
}
