package journal

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestPromise3_RealFullDisk fills a real file system of 12 MiB. Where mounting
// is not permitted TestPromise3_FullDiskAndRescue stands for it.
func TestPromise3_RealFullDisk(t *testing.T) {
	o := Options{Dir: t.TempDir(), Node: "node-1", FileSize: 3 << 20, WarnAfter: 100 * time.Millisecond, FailAfter: 500 * time.Millisecond}
	if err := unix.Mount("tmpfs", o.Dir, "tmpfs", 0, "size=12m"); err != nil {
		t.Logf("not permitted to mount (%v): the simulated disk has to do", err)
		return
	}
	t.Cleanup(func() { must(t, unix.Unmount(o.Dir, unix.MNT_DETACH)) })
	o.MaxFrame = MaxFrame
	j := open(t, o)
	rescueDurable(t, j, o)
	must(t, j.Close(patience(t)))
	found, err := reopen(o)
	must(t, err)
	if len(found["S-rescue"].frames) != 10 {
		t.Error("the rescue session was not recorded")
	}
}

// TestOneProcessOnly has the journal open.
func TestOneProcessOnly(t *testing.T) {
	o := Options{Dir: t.TempDir(), Node: "node-1", FileSize: 2 << 20}
	open(t, o)
	if _, err := Open(o, nil); err == nil {
		t.Error("opened twice")
	}
}
