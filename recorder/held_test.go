package recorder

import (
	"crypto/rand"
	"os"
	"syscall"
	"testing"
	"time"
)

// TestPromise3_AFailedRecordingGivesItsRoomBack lets another session write more than
// the journal holds, after the frames of one that failed.
func TestPromise3_AFailedRecordingGivesItsRoomBack(t *testing.T) {
	state := t.TempDir()
	o := optionsIn(state)
	o.JournalSize = 4 << 20
	o.age = 5 * time.Millisecond
	last := withFaults(&o)
	r, keys := open(t, o), testKeys(t)
	bad := start(t, r, "S-1", true, keys)
	last().set(func() { last().writeErr = syscall.EIO })
	appendDurable(t, bad, KindOutput, "shown")
	<-bad.Done()
	good, err := r.Start(t.Context(), numberedMeta(2), keys.Keys())
	must(t, err)
	data := make([]byte, 256<<10)
	for n := int64(0); n < 2*o.JournalSize*int64(o.JournalFiles); n += int64(len(data)) {
		_, _ = rand.Read(data)
		p, err := good.Append(Frame{Kind: KindOutput, Data: data})
		must(t, err)
		must(t, good.Wait(patience(t), p))
	}
	must(t, r.Ready(false))
	_, err = good.Close(patience(t), "exited")
	must(t, err)
	if n := r.unsealed.Load(); n != 0 {
		t.Errorf("%d bytes count as unsealed", n)
	}
	if got := readBack(t, r.Path("S-1"), keys); got.text(KindOutput) != "shown" {
		t.Errorf("the recording that failed has %q: %v", got.text(KindOutput), got.err)
	}
	again, found := reopen(t, state, Left{"S-1", 1})
	if found["S-1"].Reason != ReasonCrashed || len(again.Moved().Sessions) != 0 {
		t.Errorf("recovered as %+v, moved %+v", found, again.Moved())
	}
	checkLedger(t, again, "S-1")
}

// TestPromise3_HeldUntilTheFileTakesIt can't move what is held at first.
func TestPromise3_HeldUntilTheFileTakesIt(t *testing.T) {
	state := t.TempDir()
	o := optionsIn(state)
	o.age, o.FailAfter = 5*time.Millisecond, 1500*time.Millisecond
	last := withFaults(&o)
	r, keys := open(t, o), testKeys(t)
	bad := start(t, r, "S-1", false, keys)
	path := r.Path("S-1")
	must(t, os.Rename(path, path+".away"))
	must(t, os.Mkdir(path, 0o700)) // what is there can't be opened for writing
	last().set(func() { last().syncErr = syscall.EIO })
	appendDurable(t, bad, KindOutput, "shown")
	<-bad.stopped
	held := func() int {
		r.mu.Lock()
		defer r.mu.Unlock()
		return len(r.held)
	}
	if err := r.moveHeld(bad); err == nil || held() != 1 {
		t.Errorf("moved without a file: %v", err)
	}
	must(t, os.Remove(path))
	must(t, os.Rename(path+".away", path))
	waitFor(t, "the move", func() bool { return held() == 0 })
	if got := readBack(t, path, keys); got.text(KindOutput) != "shown" {
		t.Errorf("nothing was moved: %+v", got)
	}
}
