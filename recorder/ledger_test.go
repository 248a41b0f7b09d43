package recorder

import (
	"bytes"
	"context"
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

func openLedger(t testing.TB, o Options) *Ledger {
	t.Helper()
	l, err := OpenLedger(o)
	must(t, err)
	t.Cleanup(func() { l.Close() })
	return l
}

func appendLeaves(t testing.TB, l *Ledger, from, to int64) {
	t.Helper()
	for i := from; i <= to; i++ {
		must(t, l.Append(patience(t), i, fmt.Appendf(nil, `{"sequence":%d}`, i)))
	}
}

func ledgerPath(o Options) string { return filepath.Join(o.Dir, LedgerFile) }

func TestLedgerReopens(t *testing.T) {
	o := testOptions(t)
	l := openLedger(t, o)
	if l.Last() != 0 {
		t.Fatalf("a new ledger has %d entries", l.Last())
	}
	appendLeaves(t, l, 1, 3)
	c := l.Checkpoint()
	must(t, c.Verify(publicKey(o)))
	must(t, l.Close())
	l = openLedger(t, o)
	if again := l.Checkpoint(); l.Last() != 3 || again.Head != c.Head {
		t.Errorf("reopened at %d, head %s, want 3, %s", l.Last(), again.Head, c.Head)
	}
	appendLeaves(t, l, 4, 4)
	if l.Last() != 4 || l.Checkpoint().Head == c.Head {
		t.Error("the head did not move")
	}
	for _, forged := range []func(*Checkpoint){
		func(c *Checkpoint) { c.Sequence++ }, func(c *Checkpoint) { c.Node = "N-other" },
		func(c *Checkpoint) { c.Head = strings.Repeat("0", 64) }, func(c *Checkpoint) { c.Time = c.Time.Add(1) },
		func(c *Checkpoint) { c.Signature = "" },
	} {
		f := c
		forged(&f)
		if f.Verify(publicKey(o)) == nil {
			t.Errorf("a forged checkpoint verifies: %+v", f)
		}
	}
}

func TestLedgerGroupsConcurrentAppends(t *testing.T) {
	o := testOptions(t)
	l := openLedger(t, o)
	const leaves = 500
	var group sync.WaitGroup
	for i := range 10 {
		group.Go(func() {
			for n := int64(i) + 1; n <= leaves; n += 10 {
				if err := l.Append(t.Context(), n, fmt.Appendf(nil, "leaf %d", n)); err != nil {
					t.Error(err)
					return
				}
				if l.Last() < n {
					t.Errorf("append of %d returned at %d", n, l.Last())
				}
			}
		})
	}
	group.Wait()
	must(t, l.Close())
	l = openLedger(t, o)
	if l.Last() != leaves {
		t.Errorf("last %d", l.Last())
	}
}

func TestLedgerAppendAll(t *testing.T) {
	o := testOptions(t)
	l := openLedger(t, o)
	must(t, l.AppendAll(patience(t), 1, nil))
	var leaves [][]byte
	for range 40 {
		leaves = append(leaves, make([]byte, 20<<10)) // more than one block
	}
	must(t, l.AppendAll(patience(t), 1, leaves))
	if l.Last() != 40 {
		t.Errorf("last %d", l.Last())
	}
	if err := l.AppendAll(patience(t), 40, leaves); !errors.Is(err, ErrOutOfOrder) {
		t.Errorf("a run that overlaps: %v", err)
	}
	must(t, l.Close())
	if openLedger(t, o).Last() != 40 {
		t.Error("the run is not in the file")
	}
}

func TestLedgerRefusesDisorder(t *testing.T) {
	o := testOptions(t)
	l := openLedger(t, o)
	appendLeaves(t, l, 1, 2)
	for _, n := range []int64{-1, 0, 1, 2} {
		if err := l.Append(t.Context(), n, nil); !errors.Is(err, ErrOutOfOrder) {
			t.Errorf("entry %d after 2: %v", n, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := l.Append(ctx, 9, nil); err == nil {
		t.Error("a gap was accepted")
	}
	if err := l.Append(t.Context(), 3, make([]byte, MaxLeaf+1)); err == nil {
		t.Error("a huge leaf was accepted")
	}
	appendLeaves(t, l, 3, 3)
	must(t, l.Close())
	if err := l.Append(t.Context(), 4, nil); !errors.Is(err, ErrClosed) {
		t.Errorf("append after close: %v", err)
	}
	other := o
	other.Node = "N-other"
	if _, err := OpenLedger(other); err == nil || !strings.Contains(err.Error(), "belongs to node") {
		t.Errorf("another node's ledger: %v", err)
	}
	other = o
	other.Signer = testSigner(2)
	if _, err := OpenLedger(other); err == nil {
		t.Error("a ledger of another key was opened")
	}
	openLedger(t, o)
	if _, err := OpenLedger(o); err == nil {
		t.Error("two processes could append to one ledger")
	}
}

// TestPromise4_LedgerOpenFindsDamage flips every byte. OpenLedger must refuse,
// or, for the signatures of earlier entries which only package replay checks,
// hold the same chain as before; it must never lose an entry in silence.
func TestPromise4_LedgerOpenFindsDamage(t *testing.T) {
	o := testOptions(t)
	l := openLedger(t, o)
	appendLeaves(t, l, 1, 4)
	head := l.Checkpoint().Head
	must(t, l.Close())
	whole := readFile(t, ledgerPath(o))
	for i := range whole {
		data := bytes.Clone(whole)
		data[i] ^= 0x01
		must(t, os.WriteFile(ledgerPath(o), data, 0o600))
		l, err := OpenLedger(o)
		if err != nil {
			continue
		}
		if l.Checkpoint().Head != head && l.Torn() == 0 {
			t.Errorf("byte %d: opened with another head and no report", i)
		}
		if l.Last() < 3 {
			t.Errorf("byte %d: cut back to entry %d", i, l.Last())
		}
		must(t, l.Close())
	}
}

func TestLedgerTornTail(t *testing.T) {
	o := testOptions(t)
	l := openLedger(t, o)
	appendLeaves(t, l, 1, 2)
	must(t, l.Close())
	two := readFile(t, ledgerPath(o))
	l = openLedger(t, o)
	appendLeaves(t, l, 3, 3)
	must(t, l.Close())
	three := readFile(t, ledgerPath(o))
	check := func(name string, data []byte, want int64) {
		t.Helper()
		must(t, os.WriteFile(ledgerPath(o), data, 0o600))
		l, err := OpenLedger(o)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if l.Last() != want {
			t.Errorf("%s: last %d, want %d", name, l.Last(), want)
		}
		appendLeaves(t, l, want+1, want+1)
		must(t, l.Close())
	}
	for cut := len(two); cut < len(three); cut++ {
		check(fmt.Sprintf("cut at %d", cut), three[:cut], 2)
	}
	for cut := range len(FileMagic) + 60 {
		check(fmt.Sprintf("cut at %d", cut), three[:cut], 0)
	}
	check("zeros at the end", append(bytes.Clone(three), make([]byte, 4096)...), 3)
	broken := append(bytes.Clone(three), "garbage that no crash writes, longer than a block's header"...)
	must(t, os.WriteFile(ledgerPath(o), broken, 0o600))
	if _, err := OpenLedger(o); err == nil || !strings.Contains(err.Error(), "after entry 3") {
		t.Errorf("garbage at the end: %v", err)
	}
}

// faultyLedger is a ledger whose disk fails on demand.
func faultyLedger(t *testing.T, o Options) (*Ledger, *faultyFile) {
	t.Helper()
	var disk *faultyFile
	o.reopen = func(path string) (*ledgerFiles, error) {
		files, err := openLedgerFiles(path)
		if err == nil {
			disk = &faultyFile{file: files.append}
			files.append = disk
		}
		return files, err
	}
	return openLedger(t, o), disk
}

// TestLedgerFailsOnADiskThatHangs holds the disk back: whoever waits for an
// entry is told in time, and an answer that comes after that does not count.
func TestLedgerFailsOnADiskThatHangs(t *testing.T) {
	o := testOptions(t)
	o.WarnAfter, o.FailAfter = time.Millisecond, 20*time.Millisecond
	l, disk := faultyLedger(t, o)
	release, entered := make(chan struct{}), make(chan struct{}, 1)
	disk.set(func() { disk.block, disk.entered = release, entered })
	result := make(chan error, 1)
	go func() { result <- l.Append(patience(t), 1, []byte("{}")) }()
	<-entered
	if err := <-result; !errors.Is(err, ErrFailed) || !errors.Is(err, errSlowDisk) {
		t.Errorf("append: %v", err)
	}
	<-l.Failed()
	if err := l.Append(patience(t), 2, nil); !errors.Is(err, ErrFailed) {
		t.Errorf("append after the failure: %v", err)
	}
	if err := l.Close(); !errors.Is(err, errSlowDisk) {
		t.Errorf("close while the disk hangs: %v", err)
	}
	close(release)
	<-l.stopped
	if l.Last() != 0 {
		t.Error("a commit that came too late was believed")
	}
	must(t, l.file.Close()) // as the end of the process would
	if again := openLedger(t, Options{Dir: o.Dir, Node: o.Node, Signer: o.Signer}); again.Last() != 1 {
		t.Errorf("a new start finds %d entries, the late one has reached the disk", again.Last())
	}
}

func TestLedgerFailureIsFinal(t *testing.T) {
	o := testOptions(t)
	l, disk := faultyLedger(t, o)
	appendLeaves(t, l, 1, 1)
	disk.set(func() { disk.syncErr = syscall.EIO })
	if err := l.Append(patience(t), 2, nil); !errors.Is(err, ErrFailed) {
		t.Errorf("append: %v", err)
	}
	<-l.Failed()
	disk.set(func() { disk.syncErr = nil })
	if err := l.Append(patience(t), 3, nil); !errors.Is(err, ErrFailed) {
		t.Errorf("append after the failure: %v", err)
	}
	if l.Last() != 1 {
		t.Errorf("last %d", l.Last())
	}
}
