package recorder

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"sallyport/recorder/trec"
)

// reopen opens a copy of a state, as after kill -9, and closes its one session.
func reopen(t *testing.T, state string, sessions ...Left) (*Recorder, map[string]Recovered) {
	t.Helper()
	r := open(t, optionsIn(copyState(t, state)))
	found, err := r.Recover(t.Context(), sessions)
	must(t, err)
	return r, found
}

// waitFor polls until what was begun elsewhere has happened.
func waitFor(t *testing.T, what string, happened func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !happened(); {
		if time.Now().After(deadline) {
			t.Fatalf("%s did not happen", what)
		}
		time.Sleep(time.Millisecond)
	}
}

// TestPromise3_AFailedFileEndsItsSession takes the file of one session away:
// it ends, the others go on, and what was shown of it is found after a restart.
func TestPromise3_AFailedFileEndsItsSession(t *testing.T) {
	for name, fail := range map[string]func(*faultyFile){
		"write error": func(f *faultyFile) { f.writeErr = syscall.EIO },
		"full disk":   func(f *faultyFile) { f.writeErr = syscall.ENOSPC },
		"short write": func(f *faultyFile) { f.short = true },
		"sync error":  func(f *faultyFile) { f.syncErr = syscall.EIO },
	} {
		t.Run(name, func(t *testing.T) {
			state := t.TempDir()
			o := optionsIn(state)
			o.age = 5 * time.Millisecond
			last := withFaults(&o)
			r, keys := open(t, o), testKeys(t)
			rec := start(t, r, "S-1", true, keys)
			broken := last()
			m := testMeta("S-2", false)
			m.Number = 2
			other, err := r.Start(t.Context(), m, keys.Keys())
			must(t, err)
			broken.set(func() { fail(broken) })
			appendDurable(t, rec, KindOutput, "shown")
			<-rec.Done()
			if _, err := rec.Append(Frame{Kind: KindOutput, Data: []byte("more")}); !errors.Is(err, ErrFailed) {
				t.Errorf("append: %v", err)
			}
			if _, err := rec.Close(patience(t), "exited"); !errors.Is(err, ErrFailed) {
				t.Errorf("close: %v", err)
			}
			must(t, r.Ready(false))
			appendDurable(t, other, KindOutput, "goes on")
			_, err = other.Close(patience(t), "exited")
			must(t, err)
			checkLedger(t, r, "S-2")
			again, found := reopen(t, state, Left{"S-1", 1})
			got := readBack(t, again.Path("S-1"), keys)
			if got.text(KindOutput) != "shown" || got.err != nil || found["S-1"].Reason != ReasonCrashed {
				t.Errorf("recovered %+v: %+v", found, got)
			}
			checkLedger(t, again, "S-1")
		})
	}
}

// TestPromise3_RescueSessionOnAFullDisk goes on where an ordinary session ends.
func TestPromise3_RescueSessionOnAFullDisk(t *testing.T) {
	state := t.TempDir()
	o := optionsIn(state)
	o.age = 5 * time.Millisecond
	last := withFaults(&o)
	r, keys := open(t, o), testKeys(t)
	m := testMeta("S-1", true)
	m.Rescue = true
	rec, err := r.Start(t.Context(), m, keys.Keys())
	must(t, err)
	file := last()
	r.o.free = func(string) (int64, error) { return 0, nil }
	r.o.MinFree = 1
	if err := r.Ready(false); !errors.Is(err, ErrNoSpace) {
		t.Errorf("ready on a full disk: %v", err)
	}
	must(t, r.Ready(true))
	file.set(func() { file.writeErr = syscall.ENOSPC })
	var want strings.Builder
	for i := range 100 {
		text := fmt.Sprintf("rm old-%d\r\n", i)
		want.WriteString(text)
		appendDurable(t, rec, KindOutput, text)
		if i == 50 {
			waitFor(t, "the suspension of the sealer", func() bool {
				rec.queue.mu.Lock()
				defer rec.queue.mu.Unlock()
				return rec.queue.off
			})
		}
	}
	result, err := rec.Close(patience(t), "exited")
	if err != nil || result.Head != "" {
		t.Errorf("closed %+v: %v", result, err)
	}
	again, found := reopen(t, state, Left{"S-1", 1})
	got := readBack(t, again.Path("S-1"), keys)
	if got.err != nil || got.text(KindOutput) != want.String() || found["S-1"].Head == "" {
		t.Errorf("recovered %+v: %q, %v", found, got.text(KindOutput), got.err)
	}
	checkLedger(t, again, "S-1")
}

// TestPromise3_SlowDisk has a file that does not answer.
func TestPromise3_SlowDisk(t *testing.T) {
	o := testOptions(t)
	o.age, o.WarnAfter, o.FailAfter = 5*time.Millisecond, 50*time.Millisecond, time.Second
	last := withFaults(&o)
	r := open(t, o)
	rec := start(t, r, "S-1", false, testKeys(t))
	file := last()
	block, entered := make(chan struct{}), make(chan struct{}, 1)
	file.set(func() { file.block, file.entered = block, entered })
	appendDurable(t, rec, KindOutput, "shown")
	<-entered
	<-rec.Done()
	if err := rec.Err(); !errors.Is(err, ErrFailed) || !errors.Is(err, errSlowDisk) {
		t.Errorf("a slow disk: %v", err)
	}
	if _, err := rec.Close(patience(t), "exited"); !errors.Is(err, ErrFailed) {
		t.Errorf("close: %v", err)
	}
	must(t, r.Ready(false))
	close(block)
	<-rec.stopped
}

// TestPromise5_NothingRestsInClear looks at every byte on the disk.
func TestPromise5_NothingRestsInClear(t *testing.T) {
	state := t.TempDir()
	o := optionsIn(state)
	o.age = 10 * time.Millisecond
	r, keys := open(t, o), testKeys(t)
	rec := start(t, r, "S-1", true, keys)
	secrets := []string{"shown-on-the-screen", "typed-in-the-terminal", "alice", "genomics", "192.0.2.1"}
	for range 20 {
		appendFrame(t, rec, KindOutput, secrets[0])
		appendDurable(t, rec, KindInput, secrets[1])
	}
	look := func(when string) {
		must(t, filepath.WalkDir(state, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return nil // renamed meanwhile
			}
			data, err := os.ReadFile(path)
			for _, s := range secrets {
				if err == nil && bytes.Contains(data, []byte(s)) {
					t.Errorf("%s: %q rests in clear in %s", when, s, d.Name())
				}
			}
			return nil
		}))
	}
	look("live")
	crashed := copyState(t, state)
	_, err := rec.Close(patience(t), "exited")
	must(t, err)
	look("closed")
	state = crashed
	again := open(t, optionsIn(state))
	_, err = again.Recover(t.Context(), []Left{{"S-1", 1}})
	must(t, err)
	look("recovered")
	// What was moved out of the journal keeps its classes apart.
	k := trecKeys(t, keys)
	k.Strict = nil
	f, err := os.Open(again.Path("S-1"))
	must(t, err)
	defer f.Close()
	reader, err := trec.NewReader(f, k)
	must(t, err)
	for {
		e, err := reader.Next()
		if err != nil {
			break
		}
		if e.Kind == KindInput {
			t.Fatal("what was typed opens without the strict key")
		}
	}
	if reader.Sealed() == 0 || reader.Facts() == nil {
		t.Errorf("%d frames are sealed, facts %v", reader.Sealed(), reader.Facts())
	}
}

// TestOldKeysAreForgotten sees to it that a stream of the journal does not outlive
// its segment.
func TestOldKeysAreForgotten(t *testing.T) {
	o := testOptions(t)
	o.age = 5 * time.Millisecond
	r := open(t, o)
	rec := start(t, r, "S-1", true, testKeys(t))
	first := rec.current
	appendDurable(t, rec, KindOutput, "one")
	waitFor(t, "the change of the stream", func() bool { return first.Err() != nil })
	appendDurable(t, rec, KindOutput, "two")
	waitFor(t, "the release", func() bool { return r.unsealed.Load() == 0 })
	if _, err := rec.Close(patience(t), "exited"); err != nil {
		t.Error(err)
	}
}

// TestFramesWithoutARecording are set aside, whatever became of the file.
func TestFramesWithoutARecording(t *testing.T) {
	state := t.TempDir()
	o := optionsIn(state)
	r, keys := open(t, o), testKeys(t)
	rec := start(t, r, "S-1", true, keys)
	appendDurable(t, rec, KindOutput, "shown")
	for name, harm := range map[string]func(path string){
		"missing": func(path string) { must(t, os.Remove(path)) },
		"damaged": func(path string) {
			data, err := os.ReadFile(path)
			must(t, err)
			data[20] ^= 1
			must(t, os.WriteFile(path, append(data, make([]byte, 8<<20)...), 0o600))
		},
	} {
		t.Run(name, func(t *testing.T) {
			crashed := copyState(t, state)
			harm(filepath.Join(crashed, "recordings", "S-1.trec"))
			again, found := reopen(t, crashed, Left{"S-1", 1})
			if found["S-1"].Reason != name || found["S-1"].Head != "" {
				t.Errorf("recovered as %+v", found)
			}
			twice, err := again.Recover(t.Context(), []Left{{"S-1", 1}})
			if err != nil || twice["S-1"] != found["S-1"] {
				t.Errorf("recovered again as %+v: %v", twice, err)
			}
			aside := again.Moved().Aside
			if len(aside) != 1 {
				t.Fatalf("set aside: %v", aside)
			}
			if data, err := os.ReadFile(filepath.Join(again.o.Dir, aside[0])); err != nil || !bytes.HasPrefix(data, []byte(asideMagic)) || len(data) < 100 {
				t.Errorf("%d bytes were set aside: %v", len(data), err)
			}
			ends := 0
			for _, l := range leavesOf(t, again, "S-1") {
				if string(l.Kind) == name {
					ends++
				}
			}
			if ends != 1 {
				t.Errorf("%d leaves say %s", ends, name)
			}
		})
	}
}

// TestRecoverTwice moves frames again that a crash kept from being released.
func TestRecoverTwice(t *testing.T) {
	state := t.TempDir()
	o := optionsIn(state)
	r, keys := open(t, o), testKeys(t)
	rec := start(t, r, "S-1", true, keys)
	appendDurable(t, rec, KindOutput, "shown")
	crashed := copyState(t, state)
	// The journal as it was before, with the recording as it is after the move.
	first := open(t, optionsIn(copyState(t, crashed)))
	data, err := os.ReadFile(first.Path("S-1"))
	must(t, err)
	must(t, os.WriteFile(filepath.Join(crashed, "recordings", "S-1.trec"), data[:len(data)-3], 0o600))
	again, _ := reopen(t, crashed, Left{"S-1", 1})
	if got := readBack(t, again.Path("S-1"), keys); got.text(KindOutput) != "shown" || got.err != nil {
		t.Errorf("%+v", got)
	}
	must(t, os.WriteFile(filepath.Join(crashed, "recordings", "S-1.trec"), data, 0o600))
	again, _ = reopen(t, crashed, Left{"S-1", 1})
	if got := readBack(t, again.Path("S-1"), keys); got.text(KindOutput) != "shown" || got.err != nil || len(again.Moved().Sessions) != 0 {
		t.Errorf("%+v, moved %v", got, again.Moved())
	}
	checkLedger(t, again, "S-1")
}

// TestBusySessions has many sessions at once, each with a reader of what is durable.
func TestBusySessions(t *testing.T) {
	const sessions, frames = 64, 200
	o := testOptions(t)
	o.age = 20 * time.Millisecond
	r, keys := open(t, o), testKeys(t)
	var group sync.WaitGroup
	for i := range sessions {
		group.Go(func() {
			m := testMeta(fmt.Sprintf("S-%d", i), i%2 == 0)
			m.Number = int64(i + 1)
			rec, err := r.Start(t.Context(), m, keys.Keys())
			if err != nil {
				t.Error(err)
				return
			}
			for n := range frames {
				kind := KindOutput
				if n%5 == 0 {
					kind = KindInput
				}
				p, err := rec.Append(Frame{Kind: kind, Data: bytes.Repeat([]byte{byte('a' + i%26)}, 1+n*7%3000)})
				if err == nil && n%10 == 0 {
					err = rec.Wait(t.Context(), p)
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
			if _, err := rec.Close(t.Context(), "exited"); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	for i := range sessions {
		if got := readBack(t, r.Path(fmt.Sprintf("S-%d", i)), keys); got.err != nil || got.frames() != frames {
			t.Errorf("session %d: %d frames: %v", i, got.frames(), got.err)
		}
	}
	checkLedger(t, r, "S-7")
	if n := r.unsealed.Load(); n != 0 {
		t.Errorf("%d bytes count as unsealed", n)
	}
}
