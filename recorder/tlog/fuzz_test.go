package tlog

import (
	"context"
	"testing"

	"golang.org/x/mod/sumdb/tlog"
)

// FuzzLedgerReader puts foreign bytes in the place of every file that a verifier
// reads and of everything that a person pastes: no panic, and nothing that was
// not signed is taken.
func FuzzLedgerReader(f *testing.F) {
	m := newMemFS()
	o := options("/log")
	o.fs = m
	l := open(f, o)
	ring := testRing(f, m, "/keys")
	for i := range 300 {
		e, err := ring.Seal(KeyID{"p", "2026q4"}, body(i))
		if err != nil {
			f.Fatal(err)
		}
		if _, err := l.AppendEntries(context.Background(), e); err != nil {
			f.Fatal(err)
		}
	}
	closeLog(f, l)
	l = open(f, o)
	fill(f, l, 300, 2)
	known := parse(f, l.Checkpoint())
	receipt, err := l.Receipt(3)
	if err != nil {
		f.Fatal(err)
	}
	proof, err := l.Prove(3)
	if err != nil {
		f.Fatal(err)
	}
	names := []string{"/log/checkpoint", "/log/append/" + appendName(0), "/log/tile/entries/000", "/log/tile/entries/001.p/44", "/log/tile/0/000",
		"/log/tile/0/001.p/44", "/log/tile/1/000.p/1", "/log/bodies/files.json", "/log/bodies/locations", "/log/bodies/p/2026q4.bodies"}
	good := map[string][]byte{}
	for name, file := range m.files {
		good[name] = append([]byte(nil), file.data...)
	}
	if err := l.Close(); err != nil {
		f.Fatal(err)
	}
	for i, name := range names {
		if good[name] == nil {
			f.Fatal(name)
		}
		f.Add(byte(i), good[name])
		f.Add(byte(i), good[name][:len(good[name])/2])
	}
	f.Add(byte(100), []byte(receipt.String()))
	f.Add(byte(100), proof.Format())
	f.Add(byte(1), []byte(appendMagic+batchMagic+"\xff\xff\xff\xff\x00\x00\x00\x00"))
	verifier := testVerifier(f)
	f.Fuzz(func(t *testing.T, which byte, data []byte) {
		if r, err := ParseReceipt(string(data)); err == nil && *r != *receipt {
			if _, err := r.Checkpoint(verifier); err == nil && (r.Root != receipt.Root || r.Size != receipt.Size) {
				t.Fatal("a receipt nobody signed was taken")
			}
		}
		if p, err := ParseProof(data); err == nil {
			if c, err := p.Verify(LeafHash(leaf(9999)), testOrigin, verifier); err == nil {
				t.Fatalf("a proof of a foreign entry was taken: %+v", c)
			}
		}
		if b, err := decodeBatch(data); err == nil {
			if _, err := decodeBatch(b.encode(nil)); err != nil {
				t.Fatal(err)
			}
		}
		if len(data) > 1<<20 {
			return
		}
		after := newMemFS()
		for name, content := range good {
			after.files[name] = &memFile{data: append([]byte(nil), content...)}
		}
		name := names[int(which)%len(names)]
		after.files[name] = &memFile{data: append([]byte(nil), data...)}
		r, err := Verify(context.Background(), VerifyOptions{Dir: "/log", Origin: testOrigin, Verifier: verifier, Keys: ring, Known: []Checkpoint{known}, fs: after})
		if err == nil && r.OK() && (r.Size+r.Tail != known.Size || r.Known != 1) {
			t.Fatalf("%s: taken for whole: %+v", name, r)
		}
		o := options("/log")
		o.fs = after
		opened, err := Open(o)
		if err != nil {
			return
		}
		if err := opened.Close(); err != nil {
			t.Log(err)
		}
	})
}

// FuzzCheckConsistency: no proof that is not the real one is taken.
func FuzzCheckConsistency(f *testing.F) {
	f.Add([]byte{}, int64(1), int64(2))
	f.Fuzz(func(t *testing.T, hashes []byte, older, newer int64) {
		var proof tlog.TreeProof
		proof = append(proof, parseHashes(hashes)...)
		a := Checkpoint{Size: older & maxSize, Root: Hash{1}}
		b := Checkpoint{Size: newer & maxSize, Root: Hash{2}}
		if err := CheckConsistency(proof, a, b); err == nil && a.Size != 0 {
			t.Fatal("taken")
		}
	})
}
