package tlog

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/tlog"
)

// newLogDir makes a closed log of n entries and returns its directory and last checkpoint.
func newLogDir(t *testing.T, n int, change func(leaves [][]byte) [][]byte) (string, Checkpoint) {
	t.Helper()
	o := options(t.TempDir())
	l := open(t, o)
	leaves := make([][]byte, n)
	for i := range leaves {
		leaves[i] = leaf(i)
	}
	if change != nil {
		leaves = change(leaves)
	}
	for chunk := range slices.Chunk(leaves, 100) {
		if _, err := l.Append(context.Background(), chunk...); err != nil {
			t.Fatal(err)
		}
	}
	c := parse(t, l.Checkpoint())
	closeLog(t, l)
	return o.Dir, c
}

func edit(t *testing.T, path string, change func([]byte) []byte) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, change(data), 0o600); err != nil {
		t.Fatal(err)
	}
}

// bundleOf encodes leaves as an entry bundle.
func bundleOf(leaves ...int) []byte {
	var b []byte
	for _, i := range leaves {
		b = appendEntry(b, leaf(i))
	}
	return b
}

// TestPromise4_TamperedDirectoryIsFound changes a finished log of 700 entries in
// ways that do not need the node's key.
func TestPromise4_TamperedDirectoryIsFound(t *testing.T) {
	const entrySize = 2 + leafSize
	for _, c := range []struct {
		name, path string
		change     func([]byte) []byte
		entry      int64 // that must be named first, -1 for none
		offset     int64 // byte that must be named first, -1 for any
		meaning    string
	}{
		{"changed entry", "tile/entries/001", func(b []byte) []byte { b[10*entrySize+5] ^= 1; return b }, 266, 10 * entrySize, "entry was changed"},
		{"changed length", "tile/entries/001", func(b []byte) []byte { b[10*entrySize] = 0xff; return b }, 266, 10 * entrySize, "cut or its lengths"},
		{"dropped entry", "tile/entries/000", func(b []byte) []byte { return slices.Delete(b, 7*entrySize, 8*entrySize) }, 255, -1, "cut"},
		{"swapped entries", "tile/entries/000", func(b []byte) []byte {
			x, y := b[3*entrySize:4*entrySize], b[9*entrySize:10*entrySize]
			saved := slices.Clone(x)
			copy(x, y)
			copy(y, saved)
			return b
		}, 3, 3 * entrySize, "entry was changed"},
		{"truncated bundle", "tile/entries/002.p/188", func(b []byte) []byte { return b[:100*entrySize+1] }, 612, 100 * entrySize, "cut"},
		{"appended to bundle", "tile/entries/002.p/188", func(b []byte) []byte { return append(b, bundleOf(9)...) }, -1, 188 * entrySize, "added"},
		{"forged tile", "tile/0/001", func(b []byte) []byte { b[32*4] ^= 1; return b }, 260, 128, "tile was forged"},
		{"forged upper tile", "tile/1/000.p/2", func(b []byte) []byte { b[40] ^= 1; return b }, -1, 32, "tile was forged"},
		{"cut tile", "tile/0/000", func(b []byte) []byte { return b[:100] }, -1, 100, "checked against the root"},
		{"huge size in the checkpoint", "checkpoint", func(b []byte) []byte {
			return bytes.Replace(b, []byte("\n700\n"), []byte("\n4611686018427387903\n"), 1)
		}, -1, -1, "Nothing here is vouched for"},
		{"size cut in the checkpoint", "checkpoint", func(b []byte) []byte { return bytes.Replace(b, []byte("\n700\n"), []byte("\n600\n"), 1) }, -1, -1, "Nothing here is vouched for"},
		{"no checkpoint", "checkpoint", func([]byte) []byte { return nil }, -1, -1, "Nothing here is vouched for"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir, _ := newLogDir(t, 700, nil)
			edit(t, filepath.Join(dir, c.path), c.change)
			r := verify(t, VerifyOptions{Dir: dir})
			if r.OK() {
				t.Fatal("not found")
			}
			p := r.Problems[0]
			t.Log(p)
			if p.Entry != c.entry || c.offset >= 0 && p.Byte != c.offset || !strings.Contains(p.Meaning, c.meaning) {
				t.Fatalf("entry %d byte %d %q, want %d %d %q", p.Entry, p.Byte, p.Meaning, c.entry, c.offset, c.meaning)
			}
		})
	}
	t.Run("removed bundle", func(t *testing.T) {
		dir, _ := newLogDir(t, 700, nil)
		if err := os.Remove(filepath.Join(dir, "tile/entries/001")); err != nil {
			t.Fatal(err)
		}
		if r := verify(t, VerifyOptions{Dir: dir}); r.OK() || r.Problems[0].Entry != 256 {
			t.Fatalf("%v", r.Problems)
		}
	})
	t.Run("entry and tile changed together", func(t *testing.T) {
		dir, _ := newLogDir(t, 700, nil)
		edit(t, filepath.Join(dir, "tile/entries/000"), func(b []byte) []byte { copy(b, bundleOf(5000)); return b })
		edit(t, filepath.Join(dir, "tile/0/000"), func(b []byte) []byte { h := LeafHash(leaf(5000)); copy(b, h[:]); return b })
		if r := verify(t, VerifyOptions{Dir: dir}); r.OK() {
			t.Fatal("not found")
		}
	})
	t.Run("another node's log", func(t *testing.T) {
		o := options(t.TempDir())
		o.Origin = "sallyport/other"
		l := open(t, o)
		fill(t, l, 0, 5)
		closeLog(t, l)
		if r := verify(t, VerifyOptions{Dir: o.Dir}); r.OK() {
			t.Fatal("not found")
		}
	})
	t.Run("signed by another key", func(t *testing.T) {
		o := options(t.TempDir())
		o.Signer = testKey(2)
		l := open(t, o)
		fill(t, l, 0, 5)
		closeLog(t, l)
		if r := verify(t, VerifyOptions{Dir: o.Dir}); r.OK() {
			t.Fatal("not found")
		}
	})
}

// TestPromise4_EveryFlippedBitIsFound flips each bit of every file of a small log in turn.
func TestPromise4_EveryFlippedBitIsFound(t *testing.T) {
	dir, c := newLogDir(t, 9, nil)
	for _, name := range []string{"checkpoint", "tile/entries/000.p/9", "tile/0/000.p/9"} {
		path := filepath.Join(dir, name)
		good, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for bit := range len(good) * 8 {
			bad := slices.Clone(good)
			bad[bit/8] ^= 1 << (bit % 8)
			if err := os.WriteFile(path, bad, 0o600); err != nil {
				t.Fatal(err)
			}
			if r := verify(t, VerifyOptions{Dir: dir, Known: []Checkpoint{c}}); r.OK() {
				t.Fatalf("%s, bit %d: not found", name, bit)
			}
		}
		if err := os.WriteFile(path, good, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	mustVerify(t, VerifyOptions{Dir: dir, Known: []Checkpoint{c}})
}

// TestPromise4_RewrittenByTheNodeIsFoundByMemory lets the owner of the node's key
// make the log anew, with everything signed, and shows it to somebody who
// remembers an earlier checkpoint.
func TestPromise4_RewrittenByTheNodeIsFoundByMemory(t *testing.T) {
	_, known := newLogDir(t, 500, nil)
	for _, c := range []struct {
		name   string
		change func([][]byte) [][]byte
		count  int
	}{
		{"rewritten leaf", func(l [][]byte) [][]byte { l[5] = leaf(9999); return l }, 700},
		{"dropped leaf", func(l [][]byte) [][]byte { return slices.Delete(l, 100, 101) }, 700},
		{"swapped leaves", func(l [][]byte) [][]byte { l[1], l[2] = l[2], l[1]; return l }, 700},
		{"inserted leaf", func(l [][]byte) [][]byte { return slices.Insert(l, 0, leaf(9999)) }, 700},
		{"cut", nil, 400},
		{"rewritten at the same size", func(l [][]byte) [][]byte { l[499] = leaf(9999); return l }, 500},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir, _ := newLogDir(t, c.count, c.change)
			mustVerify(t, VerifyOptions{Dir: dir}) // in itself it is perfect
			if r := verify(t, VerifyOptions{Dir: dir, Known: []Checkpoint{known}}); r.OK() || r.Known != 0 {
				t.Fatalf("verify with a known checkpoint: %+v", r)
			} else {
				t.Log(r.Problems[0])
			}
			remembered := NewRemembered(t.TempDir())
			oldDir, _ := newLogDir(t, 500, nil)
			old, err := OpenDirectory(oldDir, testOrigin, testVerifier(t))
			if err != nil {
				t.Fatal(err)
			}
			if err := remembered.Update(old.Checkpoint(), testOrigin, testVerifier(t), old.ProveConsistency); err != nil {
				t.Fatal(err)
			}
			d, err := OpenDirectory(dir, testOrigin, testVerifier(t))
			if err != nil {
				t.Fatal(err)
			}
			err = remembered.Update(d.Checkpoint(), testOrigin, testVerifier(t), d.ProveConsistency)
			if !errors.Is(err, ErrRewritten) {
				t.Fatalf("remembered: %v", err)
			}
			if _, last, err := remembered.Last(testOrigin, testVerifier(t)); err != nil || last != known {
				t.Fatalf("what was remembered is gone: %+v %v", last, err)
			}
			if _, err := os.Stat(remembered.path(testOrigin) + ".conflict"); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func TestRememberedGrows(t *testing.T) {
	o := options(t.TempDir())
	remembered := NewRemembered(filepath.Join(t.TempDir(), "seen"))
	size := 0
	for range 4 {
		l := open(t, o)
		for range 2 {
			if err := remembered.Update(l.Checkpoint(), testOrigin, testVerifier(t), l.ProveConsistency); err != nil {
				t.Fatal(err)
			}
		}
		fill(t, l, size, 300)
		size += 300
		closeLog(t, l)
	}
	if _, c, err := remembered.Last(testOrigin, testVerifier(t)); err != nil || c.Size != 900 {
		t.Fatalf("%+v %v", c, err)
	}
	edit(t, remembered.path(testOrigin), func(b []byte) []byte { b[len(b)-10] ^= 1; return b })
	if _, _, err := remembered.Last(testOrigin, testVerifier(t)); err == nil {
		t.Fatal("a changed memory was taken")
	}
}

// TestPromise4_NodeRefusesToGoOnAfterTampering: the node itself does not build on a log that contradicts itself.
func TestPromise4_NodeRefusesToGoOnAfterTampering(t *testing.T) {
	lastAppendFile := func(dir string) string {
		firsts, err := listAppendFiles(disk{}, filepath.Join(dir, "append"))
		if err != nil || len(firsts) == 0 {
			t.Fatal(firsts, err)
		}
		return filepath.Join(dir, "append", appendName(firsts[len(firsts)-1]))
	}
	for _, c := range []struct {
		name   string
		tamper func(dir string)
	}{
		{"rolled back tiles and append file", func(dir string) {
			if err := os.Remove(filepath.Join(dir, integratedFile)); err != nil {
				t.Fatal(err)
			}
			if err := os.RemoveAll(filepath.Join(dir, "append")); err != nil {
				t.Fatal(err)
			}
		}},
		{"edge tile changed", func(dir string) {
			edit(t, filepath.Join(dir, "tile/0/002.p/188"), func(b []byte) []byte { b[0] ^= 1; return b })
		}},
		{"state of another size", func(dir string) {
			edit(t, filepath.Join(dir, integratedFile), func(b []byte) []byte { return bytes.Replace(b, []byte(":700,"), []byte(":600,"), 1) })
		}},
		{"batch changed with a good checksum", func(dir string) {
			if err := os.Remove(filepath.Join(dir, integratedFile)); err != nil {
				t.Fatal(err)
			}
			edit(t, lastAppendFile(dir), func(b []byte) []byte {
				raw, rest, err := cutBatch(b[len(appendMagic):])
				if err != nil {
					t.Fatal(err)
				}
				batch, err := decodeBatch(raw)
				if err != nil {
					t.Fatal(err)
				}
				batch.entries[0].Leaf = leaf(9999)
				return append(batch.encode([]byte(appendMagic)), rest...)
			})
		}},
		{"batch flipped in the middle", func(dir string) {
			if err := os.Remove(filepath.Join(dir, integratedFile)); err != nil {
				t.Fatal(err)
			}
			edit(t, lastAppendFile(dir), func(b []byte) []byte { b[100] ^= 1; return b })
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir, _ := newLogDir(t, 700, nil)
			c.tamper(dir)
			l, err := Open(options(dir))
			if err == nil {
				closeLog(t, l)
				t.Fatal("opened")
			}
			t.Log(err)
		})
	}
}

func TestPromise4_ExchangedBodiesAreFound(t *testing.T) {
	dir := t.TempDir()
	o := options(filepath.Join(dir, "log"))
	ring := testRing(t, disk{}, filepath.Join(dir, "keys"))
	id := KeyID{"genomics", "2026q4"}
	l := open(t, o)
	for i := range 10 {
		e, err := ring.Seal(id, body(i)[:30])
		if err != nil {
			t.Fatal(err)
		}
		if _, err := l.AppendEntries(context.Background(), e); err != nil {
			t.Fatal(err)
		}
	}
	closeLog(t, l)
	bodies := filepath.Join(o.Dir, "bodies")
	record := bodyHeader + nonceSize + saltSize + 30 + 16
	for _, c := range []struct {
		name, path string
		change     func([]byte) []byte
	}{
		{"flipped", "genomics/2026q4.bodies", func(b []byte) []byte { b[3*record+40] ^= 1; return b }},
		{"cut", "genomics/2026q4.bodies", func(b []byte) []byte { return b[:9*record+20] }},
		{"places swapped", bodiesPlaces, func(b []byte) []byte {
			copy(b[placeSize:], b[2*placeSize:3*placeSize])
			return b
		}},
		{"huge length", bodiesPlaces, func(b []byte) []byte { binary.BigEndian.PutUint32(b[4:], 1<<31); return b }},
		{"sealed exchanged with a good header", "genomics/2026q4.bodies", func(b []byte) []byte {
			index := slices.Clone(b[8:16])
			copy(b[:record], b[record:2*record])
			copy(b[8:16], index)
			return b
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := filepath.Join(bodies, c.path)
			good, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			edit(t, path, c.change)
			r := verify(t, VerifyOptions{Dir: o.Dir, Keys: ring})
			if r.OK() {
				t.Error("not found")
			} else {
				t.Log(r.Problems[0])
			}
			if err := os.WriteFile(path, good, 0o600); err != nil {
				t.Fatal(err)
			}
		})
	}
	mustVerify(t, VerifyOptions{Dir: o.Dir, Keys: ring})
}

// TestTailIsVerified covers entries that are durable and not yet in tiles, as in a copy of a live log.
func TestTailIsVerified(t *testing.T) {
	o := options(t.TempDir())
	l := open(t, o)
	fill(t, l, 0, 100)
	if err := l.Publish(context.Background()); err != nil {
		t.Fatal(err)
	}
	fill(t, l, 100, 50)
	fill(t, l, 150, 50)
	known := parse(t, l.Checkpoint())
	r := mustVerify(t, VerifyOptions{Dir: o.Dir, Known: []Checkpoint{known}})
	if r.Size != 100 || r.Tail != 100 || r.Known != 1 {
		t.Fatalf("%+v", r)
	}
	path := filepath.Join(o.Dir, "append", appendName(0))
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for cut := len(good) - 1; cut > len(good)-300; cut-- {
		if err := os.WriteFile(path, good[:cut], 0o600); err != nil {
			t.Fatal(err)
		}
		if r := verify(t, VerifyOptions{Dir: o.Dir, Known: []Checkpoint{known}}); r.OK() {
			t.Fatalf("cut at %d: not found with a known checkpoint", cut)
		}
		mustVerify(t, VerifyOptions{Dir: o.Dir}) // alone it looks like a crash
	}
	if err := os.WriteFile(path, good, 0o600); err != nil {
		t.Fatal(err)
	}
	closeLog(t, l)
}

func TestCheckpointText(t *testing.T) {
	good := Checkpoint{Origin: "a/b", Size: 7, Root: Hash{1}}
	if c, err := ParseCheckpoint(good.Text()); err != nil || c != good {
		t.Fatal(c, err)
	}
	root := tlog.Hash{1}.String()
	for _, bad := range []string{"", "a\n", "a\n1\n", "a\n1\n" + root, "\n1\n" + root + "\n", "a\n01\n" + root + "\n", "a\n-1\n" + root + "\n",
		"a\n+1\n" + root + "\n", "a\n9223372036854775807\n" + root + "\n", "a\n1\nAAAA\n", "a\n1\n" + root + "\n\n", "a\n1\n" + root + "\nx", "a\n0\n" + root + "\n"} {
		if _, err := ParseCheckpoint(bad); err == nil {
			t.Errorf("took %q", bad)
		}
	}
}
