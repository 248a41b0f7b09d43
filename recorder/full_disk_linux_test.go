package recorder

import (
	"bytes"
	"crypto/rand"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestPromise3_FullDisk fills a real file system. Where mounting is not permitted
// TestPromise3_AFailedFileEndsItsSession stands for it.
func TestPromise3_FullDisk(t *testing.T) {
	state := t.TempDir()
	o := optionsIn(state)
	must(t, os.MkdirAll(o.Dir, 0o700))
	if err := unix.Mount("tmpfs", o.Dir, "tmpfs", 0, "size=4m"); err != nil {
		t.Logf("not permitted to mount (%v): the injected faults have to do", err)
		return
	}
	t.Cleanup(func() { must(t, unix.Unmount(o.Dir, unix.MNT_DETACH)) })
	r, keys := open(t, o), testKeys(t)
	r.o.MinFree = 1 << 20
	must(t, r.Ready(false))
	m := testMeta("S-2", true)
	m.Number, m.Rescue = 2, true
	rescue, err := r.Start(t.Context(), m, keys.Keys())
	must(t, err)
	rec := start(t, r, "S-1", false, keys)
	data := make([]byte, 64<<10)
	var shown Position // what the user would have seen
	for i := byte(0); ; i++ {
		for j := range data {
			data[j] = byte(j*j>>3) ^ i*byte(j)
		}
		p, err := rec.Append(Frame{Kind: KindOutput, Data: data})
		if err == nil {
			err = rec.Wait(patience(t), p)
		}
		if err != nil {
			if !errors.Is(err, ErrFailed) || !errors.Is(err, unix.ENOSPC) {
				t.Fatal(err)
			}
			break
		}
		shown = p
	}
	if err := r.Ready(false); !errors.Is(err, ErrNoSpace) {
		t.Errorf("ready on a full disk: %v", err)
	}
	must(t, r.Ready(true))
	appendDurable(t, rescue, KindOutput, "making room")
	result, err := rescue.Close(patience(t), "exited")
	must(t, err)
	again, _ := reopen(t, state, Left{"S-1", 1}, Left{"S-2", 2})
	got := readBack(t, again.Path("S-1"), keys)
	if shown == 0 || got.frames() < shown || got.err != nil {
		t.Errorf("%d frames were shown, %d are recorded: %v", shown, got.frames(), got.err)
	}
	if got := readBack(t, again.Path("S-2"), keys); got.text(KindOutput) != "making room" {
		t.Errorf("the rescue session, closed as %+v, is recorded as %+v", result, got)
	}
	if names, err := filepath.Glob(filepath.Join(again.o.Dir, "*"+asideSuffix)); len(names) > 0 || err != nil {
		t.Errorf("set aside: %v, %v", names, err)
	}
	if bytes.Equal(data, nil) {
		t.Fatal("nothing was written")
	}
}

// fillDisk leaves no page free on dir's file system.
func fillDisk(t *testing.T, dir string) {
	t.Helper()
	f, err := os.Create(filepath.Join(dir, "filler"))
	must(t, err)
	defer f.Close()
	for page := make([]byte, 4096); err == nil; {
		_, err = f.Write(page)
	}
	if !errors.Is(err, unix.ENOSPC) {
		t.Fatal(err)
	}
}

// TestPromise3_NoRoomForAnEnd has no room for the end of a recording that a crash left: that
// is no damage, and passes.
func TestPromise3_NoRoomForAnEnd(t *testing.T) {
	state := t.TempDir()
	o := optionsIn(state)
	o.age = 5 * time.Millisecond
	r := open(t, o)
	rec := start(t, r, "S-1", false, testKeys(t))
	for n := Position(1); ; n++ {
		info, err := os.Stat(r.Path("S-1"))
		must(t, err)
		left := 4096 - info.Size()%4096 // of its last page
		if left < 150 {
			break
		}
		size := left - 180
		if size < 1 {
			size = 3800
		}
		data := make([]byte, size)
		_, _ = rand.Read(data)
		_, err = rec.Append(Frame{Kind: KindOutput, Data: data})
		must(t, err)
		waitFor(t, "the sealing", func() bool {
			rec.mu.Lock()
			defer rec.mu.Unlock()
			return rec.kept >= n
		})
	}
	must(t, r.ledger.Settle(patience(t)))
	o = optionsIn(copyState(t, state))
	full := t.TempDir()
	if err := unix.Mount("tmpfs", full, "tmpfs", 0, "size=1m"); err != nil {
		t.Logf("not permitted to mount: %v", err)
		return
	}
	t.Cleanup(func() { must(t, unix.Unmount(full, unix.MNT_DETACH)) })
	must(t, os.CopyFS(full, os.DirFS(o.Dir)))
	must(t, os.RemoveAll(o.Dir))
	must(t, os.Symlink(full, o.Dir))
	again := open(t, o)
	fillDisk(t, full)
	if _, err := again.Recover(t.Context(), []Left{{"S-1", 1}}); !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("recovered without room: %v", err)
	}
	must(t, os.Remove(filepath.Join(full, "filler")))
	found, err := again.Recover(t.Context(), []Left{{"S-1", 1}})
	if err != nil || found["S-1"].Head == "" {
		t.Errorf("recovered as %+v: %v", found, err)
	}
	checkLedger(t, again, "S-1")
}

// TestPromise3_RescueSessionStartsOnAFullDisk begins where not even a header finds room.
func TestPromise3_RescueSessionStartsOnAFullDisk(t *testing.T) {
	state := t.TempDir()
	o := optionsIn(state)
	must(t, os.MkdirAll(o.Dir, 0o700))
	if err := unix.Mount("tmpfs", o.Dir, "tmpfs", 0, "size=4m"); err != nil {
		t.Logf("not permitted to mount: %v", err)
		return
	}
	t.Cleanup(func() { must(t, unix.Unmount(o.Dir, unix.MNT_DETACH)) })
	r, keys := open(t, o), testKeys(t)
	fillDisk(t, o.Dir)
	if _, err := r.Start(t.Context(), testMeta("S-9", true), keys.Keys()); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("an ordinary session on a full disk: %v", err)
	}
	var left []Left
	for n := range int64(rescueFiles) {
		m := numberedMeta(n + 1)
		m.Rescue = true
		rec, err := r.Start(t.Context(), m, keys.Keys())
		must(t, err)
		for range 40 { // more than the room that was kept
			data := make([]byte, 8<<10)
			_, _ = rand.Read(data)
			_, err := rec.Append(Frame{Kind: KindOutput, Data: data})
			must(t, err)
		}
		appendDurable(t, rec, KindOutput, "making room")
		_, err = rec.Close(patience(t), "exited")
		must(t, err)
		left = append(left, Left{m.Session, n + 1})
	}
	must(t, os.Remove(filepath.Join(o.Dir, "filler")))
	again, _ := reopen(t, state, left...)
	for _, one := range left {
		if got := readBack(t, again.Path(one.Session), keys); got.err != nil || got.frames() != 41 {
			t.Errorf("%s: %d frames: %v", one.Session, got.frames(), got.err)
		}
		checkLedger(t, again, one.Session)
	}
}
