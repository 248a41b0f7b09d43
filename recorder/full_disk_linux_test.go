package recorder

import (
	"bytes"
	"errors"
	"testing"

	"golang.org/x/sys/unix"
)

// TestPromise3_FullDisk fills a real file system of 4 MiB. Where mounting is
// not permitted TestPromise3_AnyWriteErrorIsFinal stands for it.
func TestPromise3_FullDisk(t *testing.T) {
	o := testOptions(t)
	if err := unix.Mount("tmpfs", o.Dir, "tmpfs", 0, "size=4m"); err != nil {
		t.Logf("not permitted to mount (%v): the injected faults have to do", err)
		return
	}
	t.Cleanup(func() { must(t, unix.Unmount(o.Dir, unix.MNT_DETACH)) })
	o.MinFree = 1 << 20
	r, keys := open(t, o), testKeys(t)
	must(t, r.Ready())
	rec := start(t, r, "S-1", false, keys)
	data := bytes.Repeat([]byte("full"), 16<<10)
	var shown Position // what the user would have seen
	for {
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
	got := readBack(t, readFile(t, r.Path("S-1")), keys, publicKey(o))
	if shown == 0 || Position(len(got.entries)) < shown {
		t.Errorf("%d frames were shown, %d are recorded", shown, len(got.entries))
	}
	fresh := open(t, Options{Dir: t.TempDir(), Node: o.Node, Signer: o.Signer})
	fresh.o.Dir, fresh.o.MinFree = o.Dir, o.MinFree // as after a restart
	if err := fresh.Ready(); !errors.Is(err, ErrNoSpace) {
		t.Errorf("ready on a full disk: %v", err)
	}
}
