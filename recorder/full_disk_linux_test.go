package recorder

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

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
