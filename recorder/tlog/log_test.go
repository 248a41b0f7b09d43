package tlog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/mod/sumdb/tlog"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestLogAgreesWithReferenceTree(t *testing.T) {
	for _, size := range []int{1, 2, 3, 255, 256, 257, 511, 512, 1000, 65535, 65536, 65537, 70000} {
		if testing.Short() && size > 1000 {
			continue
		}
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			o := options(t.TempDir())
			l := open(t, o)
			fill(t, l, 0, size)
			var stored []tlog.Hash
			reader := tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
				out := make([]tlog.Hash, len(indexes))
				for i, x := range indexes {
					out[i] = stored[x]
				}
				return out, nil
			})
			for i := range size {
				hashes, err := tlog.StoredHashes(int64(i), leaf(i), reader)
				if err != nil {
					t.Fatal(err)
				}
				stored = append(stored, hashes...)
			}
			want, err := tlog.TreeHash(int64(size), reader)
			if err != nil {
				t.Fatal(err)
			}
			c := parse(t, l.Checkpoint())
			if c.Size != int64(size) || c.Root != want {
				t.Fatalf("checkpoint %d %v, want %d %v", c.Size, c.Root, size, want)
			}
			closeLog(t, l)
			r := mustVerify(t, VerifyOptions{Dir: o.Dir})
			if r.Size != int64(size) || r.Tail != 0 {
				t.Fatalf("report %+v", r)
			}
			// C2SP's own example of what a tree of 70,000 looks like.
			if size == 70000 {
				for _, name := range []string{"tile/0/000", "tile/0/272", "tile/0/273.p/112", "tile/1/000", "tile/1/001.p/17", "tile/2/000.p/1", "tile/entries/273.p/112"} {
					if _, err := os.Stat(filepath.Join(o.Dir, name)); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
}

func TestTilePaths(t *testing.T) {
	for _, c := range []struct {
		id    tileID
		width int
		want  string
	}{
		{tileID{0, 0}, 256, "tile/0/000"},
		{tileID{4, 1234067}, 256, "tile/4/x001/x234/067"},
		{tileID{4, 1234067}, 8, "tile/4/x001/x234/067.p/8"},
		{tileID{entriesLevel, 1000}, 1, "tile/entries/x001/000.p/1"},
	} {
		if got := c.id.path(c.width); got != c.want {
			t.Errorf("got %s, want %s", got, c.want)
		}
	}
}

func TestLogReopensAndProves(t *testing.T) {
	o := options(t.TempDir())
	size := 0
	var seen []Checkpoint
	for _, grow := range []int{3, 0, 252, 1, 1, 700, 1023, 5} {
		l := open(t, o)
		fill(t, l, size, grow)
		size += grow
		seen = append(seen, parse(t, l.Checkpoint()))
		now := seen[len(seen)-1]
		for _, older := range seen {
			proof, err := l.ProveConsistency(older.Size, now.Size)
			if err != nil {
				t.Fatal(err)
			}
			if err := CheckConsistency(proof, older, now); err != nil {
				t.Fatal(err)
			}
		}
		for i := range size {
			proof, err := l.ProveInclusion(int64(i), now.Size)
			if err != nil {
				t.Fatal(err)
			}
			if err := tlog.CheckRecord(proof, now.Size, now.Root, int64(i), LeafHash(leaf(i))); err != nil {
				t.Fatalf("entry %d: %v", i, err)
			}
		}
		if size > 0 {
			if e, err := l.Entry(int64(size / 2)); err != nil || !bytes.Equal(e, leaf(size/2)) {
				t.Fatalf("entry %x %v", e, err)
			}
		}
		closeLog(t, l)
	}
	mustVerify(t, VerifyOptions{Dir: o.Dir, Known: seen})
	d, err := OpenDirectory(o.Dir, testOrigin, testVerifier(t))
	if err != nil {
		t.Fatal(err)
	}
	if e, err := d.Entry(700); err != nil || !bytes.Equal(e, leaf(700)) {
		t.Fatalf("entry %x %v", e, err)
	}
	p, err := d.Prove(700)
	if err != nil {
		t.Fatal(err)
	}
	if p, err = ParseProof(p.Format()); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Verify(LeafHash(leaf(700)), testOrigin, testVerifier(t)); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Verify(LeafHash(leaf(701)), testOrigin, testVerifier(t)); err == nil {
		t.Fatal("a proof of another entry was taken")
	}
}

func TestConcurrentAppendsGetDenseIndexes(t *testing.T) {
	o := options(t.TempDir())
	o.PublishInterval = time.Millisecond
	o.appendLimit = 16 << 10
	l := open(t, o)
	const writers, each = 16, 200
	var mu sync.Mutex
	got := map[int64][]byte{}
	var group sync.WaitGroup
	for w := range writers {
		group.Go(func() {
			for i := range each {
				pair := [][]byte{leaf(w*each + i), fmt.Appendf(nil, "second of %d", w*each+i)}
				first, err := l.Append(context.Background(), pair...)
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				got[first], got[first+1] = pair[0], pair[1]
				mu.Unlock()
			}
		})
	}
	group.Wait()
	if l.Size() != 2*writers*each || len(got) != 2*writers*each {
		t.Fatalf("size %d, indexes %d", l.Size(), len(got))
	}
	for i := range l.Size() {
		if e, err := l.Entry(i); err != nil || !bytes.Equal(e, got[i]) {
			t.Fatalf("entry %d: %q %v", i, e, err)
		}
	}
	closeLog(t, l)
	mustVerify(t, VerifyOptions{Dir: o.Dir})
	l = open(t, o)
	if l.Size() != 2*writers*each {
		t.Fatalf("size after reopening %d", l.Size())
	}
	closeLog(t, l)
}

func TestAppendRefusals(t *testing.T) {
	l := open(t, options(t.TempDir()))
	ctx := context.Background()
	if _, err := l.Append(ctx); err == nil {
		t.Error("an empty append was taken")
	}
	if _, err := l.Append(ctx, make([]byte, MaxEntry+1)); err == nil {
		t.Error("an entry that does not fit a bundle was taken")
	}
	big := make([][]byte, 200)
	for i := range big {
		big[i] = make([]byte, MaxEntry)
	}
	if _, err := l.Append(ctx, big...); err == nil {
		t.Error("an append larger than MaxAppend was taken")
	}
	if _, err := l.AppendEntries(ctx, Entry{Leaf: leaf(1), Key: KeyID{"../x", "2026q4"}, Sealed: []byte("x")}); err == nil {
		t.Error("a key that leaves the directory was taken")
	}
	if _, err := Open(l.o); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("a second process: %v", err)
	}
	if l.Size() != 0 {
		t.Errorf("size %d", l.Size())
	}
	fill(t, l, 0, 1)
	if _, err := l.Append(ctx, make([]byte, MaxEntry)); err != nil {
		t.Error(err)
	}
	closeLog(t, l)
	if _, err := l.Append(ctx, leaf(1)); !errors.Is(err, ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
	if err := l.Publish(ctx); !errors.Is(err, ErrClosed) {
		t.Errorf("Publish after Close: %v", err)
	}
}

func TestReceipt(t *testing.T) {
	o := options(t.TempDir())
	l := open(t, o)
	fill(t, l, 0, 300)
	r, err := l.Receipt(299)
	if err != nil {
		t.Fatal(err)
	}
	line := r.String()
	if len(line) > 260 || strings.ContainsAny(line, " \n") {
		t.Fatalf("%d characters: %s", len(line), line)
	}
	fill(t, l, 300, 500)
	closeLog(t, l)
	back, err := ParseReceipt("  " + line[:80] + "\n" + line[80:] + "\n")
	if err != nil {
		t.Fatal(err)
	}
	if *back != *r {
		t.Fatalf("%+v, want %+v", back, r)
	}
	d, err := OpenDirectory(o.Dir, testOrigin, testVerifier(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := back.Verify(d, testVerifier(t)); err != nil {
		t.Fatal(err)
	}
	other := *back
	other.Leaf[0] ^= 1
	if err := other.Verify(d, testVerifier(t)); err == nil {
		t.Fatal("a receipt for another entry was taken")
	}
	forged := *back
	forged.Root[0] ^= 1
	if err := forged.Verify(d, testVerifier(t)); err == nil {
		t.Fatal("a forged receipt was taken")
	}
	for _, bad := range []string{"", "sallyport-receipt-1.", line[:len(line)-2], line + "AA", strings.Repeat("x", 5000)} {
		if _, err := ParseReceipt(bad); err == nil {
			t.Errorf("took %q", shorten(bad))
		}
	}
}

func TestBodiesAreDestroyedAndTheTreeStillVerifies(t *testing.T) {
	dir := t.TempDir()
	o := options(filepath.Join(dir, "log"))
	o.BodiesDir = filepath.Join(dir, "bodies")
	ring := testRing(t, disk{}, filepath.Join(dir, "keys"))
	l := open(t, o)
	ids := []KeyID{{"genomics", "2026q3"}, {"genomics", "2026q4"}, {"trial", "2026q4"}}
	const count = 600
	for i := range count {
		e, err := ring.Seal(ids[i%3], body(i))
		if err != nil {
			t.Fatal(err)
		}
		if at, err := l.AppendEntries(context.Background(), e); err != nil || at != int64(i) {
			t.Fatal(at, err)
		}
	}
	check := func(when string) {
		t.Helper()
		for _, i := range []int{0, 1, 2, 255, 256, 599} {
			if b, err := l.ReadBody(int64(i), ring); err != nil || !bytes.Equal(b, body(i)) {
				t.Fatalf("%s: body %d: %q %v", when, i, b, err)
			}
		}
	}
	check("before tiles")
	if err := l.Publish(context.Background()); err != nil {
		t.Fatal(err)
	}
	check("after tiles")
	closeLog(t, l)
	l = open(t, o)
	check("reopened")
	if r := mustVerify(t, VerifyOptions{Dir: o.Dir, BodiesDir: o.BodiesDir, Keys: ring}); r.Bodies != count {
		t.Fatalf("report %+v", r)
	}
	if err := ring.Destroy(ids[1]); err != nil {
		t.Fatal(err)
	}
	if _, err := l.ReadBody(1, ring); !errors.Is(err, ErrDestroyed) || !strings.Contains(err.Error(), "2026-11-21") {
		t.Fatalf("after destruction: %v", err)
	}
	if _, err := ring.Seal(ids[1], body(1)); !errors.Is(err, ErrDestroyed) {
		t.Fatalf("a destroyed key was made again: %v", err)
	}
	again := testRing(t, disk{}, filepath.Join(dir, "keys"))
	if r := mustVerify(t, VerifyOptions{Dir: o.Dir, BodiesDir: o.BodiesDir, Keys: again}); r.Bodies != 400 || r.Destroyed != 200 {
		t.Fatalf("report %+v", r)
	}
	if r := mustVerify(t, VerifyOptions{Dir: o.Dir, BodiesDir: o.BodiesDir}); r.Sealed != count {
		t.Fatalf("report without keys %+v", r)
	}
	if err := os.RemoveAll(o.BodiesDir); err != nil {
		t.Fatal(err)
	}
	if r := mustVerify(t, VerifyOptions{Dir: o.Dir, BodiesDir: o.BodiesDir}); r.Absent != count {
		t.Fatalf("report without bodies %+v", r)
	}
	closeLog(t, l)
}

func TestKeyRingFindsChangedAndMovedKeys(t *testing.T) {
	dir := t.TempDir()
	ring := testRing(t, disk{}, dir)
	a, b := KeyID{"a", "2026q4"}, KeyID{"b", "2026q4"}
	for _, id := range []KeyID{a, b} {
		if _, err := ring.Sealing(id); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Rename(filepath.Join(dir, "a", "2026q4.key"), filepath.Join(dir, "b", "2026q4.key")); err != nil {
		t.Fatal(err)
	}
	fresh := testRing(t, disk{}, dir)
	if _, err := fresh.Reading(b); err == nil || errors.Is(err, ErrNoKey) {
		t.Errorf("a key under another name: %v", err)
	}
	if _, err := fresh.Reading(a); !errors.Is(err, ErrNoKey) {
		t.Errorf("a missing key: %v", err)
	}
	if got := QuarterOf(time.Date(2026, 12, 31, 23, 0, 0, 0, time.UTC)); got != "2026q4" {
		t.Error(got)
	}
	for _, bad := range []string{"", "a", "@q", "a@", "../a@q", "a@b@c", ".a@q", "A@q", "a/b@q", strings.Repeat("a", 200) + "@q"} {
		if _, err := ParseKeyID(bad); err == nil {
			t.Errorf("took %q", bad)
		}
	}
}
