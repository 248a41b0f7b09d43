package oracle

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"sallyport/recorder/tlog"

	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
	"github.com/transparency-dev/tessera/api"
	"github.com/transparency-dev/tessera/client"
	"github.com/transparency-dev/tessera/fsck"
)

const origin = "sallyport/oracle"

func newLog(t *testing.T, size int) (string, ed25519.PrivateKey) {
	t.Helper()
	key := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{1}, ed25519.SeedSize))
	dir := t.TempDir()
	l, err := tlog.Open(tlog.Options{Dir: dir, Origin: origin, Signer: key, PublishInterval: -1})
	if err != nil {
		t.Fatal(err)
	}
	var leaves [][]byte
	for i := range size {
		leaves = append(leaves, leaf(i))
	}
	for chunk := range slices.Chunk(leaves, 777) {
		if _, err := l.Append(context.Background(), chunk...); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	return dir, key
}

func leaf(i int) []byte { return tlog.Commit(tlog.Salt{}, fmt.Append(nil, i)) }

func hashBundle(b []byte) ([][]byte, error) {
	var bundle api.EntryBundle
	if err := bundle.UnmarshalText(b); err != nil {
		return nil, err
	}
	var out [][]byte
	for _, e := range bundle.Entries {
		out = append(out, rfc6962.DefaultHasher.HashLeaf(e))
	}
	return out, nil
}

func check(t *testing.T, dir string, key ed25519.PrivateKey) error {
	t.Helper()
	return checkOrigin(dir, origin, key)
}

func checkOrigin(dir, origin string, key ed25519.PrivateKey) error {
	v, err := tlog.NewVerifier(origin, key.Public().(ed25519.PublicKey))
	if err != nil {
		return err
	}
	// Its workers end at the first fault; enough of them, and of the room that
	// comes with them, keep it from waiting for ever for somebody to take the rest.
	return fsck.New(origin, v, client.FileFetcher{Root: dir}, hashBundle, fsck.Opts{N: 16}).Check(context.Background())
}

func TestTesseraAcceptsOurDirectory(t *testing.T) {
	for _, size := range []int{1, 2, 255, 256, 257, 1000, 65536, 70000} {
		dir, key := newLog(t, size)
		if err := check(t, dir, key); err != nil {
			t.Fatalf("size %d: %v", size, err)
		}
	}
}

func TestTesseraProvesFromOurTiles(t *testing.T) {
	const size = 1000
	dir, key := newLog(t, size)
	v, err := tlog.NewVerifier(origin, key.Public().(ed25519.PublicKey))
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	fetcher := client.FileFetcher{Root: dir}
	c, _, _, err := client.FetchCheckpoint(ctx, fetcher.ReadCheckpoint, v, origin)
	if err != nil {
		t.Fatal(err)
	}
	builder, err := client.NewProofBuilder(ctx, c.Size, fetcher.ReadTile)
	if err != nil {
		t.Fatal(err)
	}
	d, err := tlog.OpenDirectory(dir, origin, v)
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range []uint64{0, 1, 255, 256, 768, 999} {
		theirs, err := builder.InclusionProof(ctx, i)
		if err != nil {
			t.Fatal(err)
		}
		if err := proof.VerifyInclusion(rfc6962.DefaultHasher, i, c.Size, rfc6962.DefaultHasher.HashLeaf(leaf(int(i))), theirs, c.Hash); err != nil {
			t.Fatal(err)
		}
		ours, err := d.Prove(int64(i))
		if err != nil {
			t.Fatal(err)
		}
		for k, h := range ours.Hashes {
			if !bytes.Equal(h[:], theirs[k]) {
				t.Fatalf("entry %d: the proofs differ", i)
			}
		}
	}
}

// TestTesseraCanSayNo keeps the oracle honest.
func TestTesseraCanSayNo(t *testing.T) {
	dir, key := newLog(t, 1000)
	path := filepath.Join(dir, "tile/0/001")
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	data[5] ^= 1
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := check(t, dir, key); err == nil {
		t.Fatal("a changed tile was accepted")
	}
}
