package tlog

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/binary"
	"fmt"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"
)

const testOrigin = "sallyport/test-node"

func testKey(seed byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, ed25519.SeedSize))
}

func testVerifier(t testing.TB) note.Verifier {
	t.Helper()
	v, err := NewVerifier(testOrigin, testKey(1).Public().(ed25519.PublicKey))
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func options(dir string) Options {
	return Options{Dir: dir, Origin: testOrigin, Signer: testKey(1), PublishInterval: -1}
}

func open(t testing.TB, o Options) *Log {
	t.Helper()
	l, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func closeLog(t testing.TB, l *Log) {
	t.Helper()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

func leaf(i int) []byte {
	return Commit(Salt{}, binary.BigEndian.AppendUint64(nil, uint64(i)))
}

// fill appends leaves first to first+count-1, several in a call.
func fill(t testing.TB, l *Log, first, count int) {
	t.Helper()
	for count > 0 {
		n := min(count, 1000)
		leaves := make([][]byte, n)
		for i := range leaves {
			leaves[i] = leaf(first + i)
		}
		at, err := l.Append(context.Background(), leaves...)
		if err != nil {
			t.Fatal(err)
		}
		if at != int64(first) {
			t.Fatalf("first index %d, want %d", at, first)
		}
		first, count = first+n, count-n
	}
}

func verify(t testing.TB, o VerifyOptions) *Report {
	t.Helper()
	if o.Origin == "" {
		o.Origin = testOrigin
	}
	if o.Verifier == nil {
		o.Verifier = testVerifier(t)
	}
	r, err := Verify(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func mustVerify(t testing.TB, o VerifyOptions) *Report {
	t.Helper()
	r := verify(t, o)
	if !r.OK() {
		t.Fatalf("problems: %v", r.Problems)
	}
	return r
}

func parse(t testing.TB, signed []byte) Checkpoint {
	t.Helper()
	c, _, err := OpenCheckpoint(signed, testOrigin, testVerifier(t))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// counter is a deterministic source of distinct bytes.
type counter struct{ n uint64 }

func (c *counter) Read(b []byte) (int, error) {
	for i := range b {
		c.n = c.n*6364136223846793005 + 1442695040888963407
		b[i] = byte(c.n >> 56)
	}
	return len(b), nil
}

func testRing(t testing.TB, fsys fileSystem, dir string) *KeyRing {
	t.Helper()
	r, err := newKeyRing(fsys, dir, bytes.Repeat([]byte{7}, 32), &counter{}, func() time.Time {
		return time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func body(i int) []byte { return fmt.Appendf(nil, `{"event":"session.open","n":%d}`, i) }
