package witness

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/binary"
	"fmt"
	"testing"
	"time"

	"sallyport/recorder/tlog"

	"go.uber.org/goleak"
	"golang.org/x/mod/sumdb/note"
)

const testOrigin = "sallyport/test-node"

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func testKey(seed byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, ed25519.SeedSize))
}

func testClock() time.Time { return time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC) }

func logVerifier(t testing.TB) note.Verifier {
	t.Helper()
	v, err := tlog.NewVerifier(testOrigin, testKey(1).Public().(ed25519.PublicKey))
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// newLog opens a log with the node's own key and count leaves, changed as the test likes.
func newLog(t testing.TB, dir string, count int, change func([][]byte)) *tlog.Log {
	t.Helper()
	l, err := tlog.Open(tlog.Options{Dir: dir, Origin: testOrigin, Signer: testKey(1), PublishInterval: -1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	grow(t, l, count, change)
	return l
}

func grow(t testing.TB, l *tlog.Log, count int, change func([][]byte)) {
	t.Helper()
	first := int(l.Size())
	leaves := make([][]byte, count)
	for i := range leaves {
		leaves[i] = tlog.Commit(tlog.Salt{}, binary.BigEndian.AppendUint64(nil, uint64(first+i)))
	}
	if change != nil {
		change(leaves)
	}
	if count == 0 {
		return
	}
	if _, err := l.Append(context.Background(), leaves...); err != nil {
		t.Fatal(err)
	}
}

func testSigner(t testing.TB, n int) *Signer {
	t.Helper()
	s, err := NewSigner(fmt.Sprintf("witness.example/w%d", n), testKey(byte(100+n)), testClock)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func witnessKey(n int) string {
	return VerifierKey(fmt.Sprintf("witness.example/w%d", n), testKey(byte(100+n)).Public().(ed25519.PublicKey))
}

func newServer(t testing.TB, dir string, n int) *Server {
	t.Helper()
	s, err := NewServer(ServerOptions{Dir: dir, Signer: testSigner(t, n),
		Logs: []LogConfig{{Origin: testOrigin, Verifiers: []note.Verifier{logVerifier(t)}}}})
	if err != nil {
		t.Fatal(err)
	}
	return s
}
