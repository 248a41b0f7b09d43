package oracle

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"sallyport/recorder"
	"sallyport/recorder/trec"
)

// TestTesseraAndAgeAcceptWhatANodeWrites lets both judge what the real recorder
// leaves on the disk: events and leaves of recordings in its ledger, and the
// envelope of a session's key.
func TestTesseraAndAgeAcceptWhatANodeWrites(t *testing.T) {
	ctx := context.Background()
	dir := t.TempDir()
	signer := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{3}, ed25519.SeedSize))
	r, err := recorder.Open(recorder.Options{Dir: filepath.Join(dir, "recordings"), Node: "N-oracle", Signer: signer,
		Secret: bytes.Repeat([]byte{9}, 32), JournalSize: 8 << 20, JournalFiles: 4})
	if err != nil {
		t.Fatal(err)
	}
	epoch, err := recorder.NewEpochKeys()
	if err != nil {
		t.Fatal(err)
	}
	var events [][]byte
	for i := range 300 {
		events = append(events, fmt.Appendf(nil, `{"sequence":%d,"project":"genomics","time":"2026-11-21T12:00:00Z"}`, i+1))
	}
	if err := r.Ledger().AppendAll(ctx, 1, events); err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		session(t, r, epoch, int64(i)+1)
	}
	if err := r.Close(ctx); err != nil {
		t.Fatal(err)
	}
	if err := checkOrigin(filepath.Join(dir, "ledger"), "sallyport/N-oracle", signer); err != nil {
		t.Error(err)
	}
	ageOpens(t, filepath.Join(dir, "recordings", "S-1.trec"), epoch)
}

func session(t *testing.T, r *recorder.Recorder, epoch recorder.EpochKeys, number int64) {
	t.Helper()
	rec, err := r.Start(context.Background(), recorder.Meta{Session: fmt.Sprintf("S-%d", number), Number: number, Epoch: "genomics/2026Q4", Start: time.Now(),
		Action: "shell", PTY: true, Columns: 80, Rows: 24}, epoch.Keys())
	if err != nil {
		t.Fatal(err)
	}
	for i := range 20 {
		if _, err := rec.Append(recorder.Frame{Kind: recorder.KindOutput, Time: time.Now(), Data: fmt.Appendf(nil, "line %d\r\n", i)}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := rec.Close(context.Background(), "exit"); err != nil {
		t.Fatal(err)
	}
}

// ageOpens builds the age command and lets it open both envelopes: each holds the key that
// the header commits to.
func ageOpens(t *testing.T, path string, epoch recorder.EpochKeys) {
	t.Helper()
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	h, envelope, strict, err := trec.ReadHeader(file)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	command := filepath.Join(dir, "age")
	if out, err := exec.Command("go", "build", "-o", command, "filippo.io/age/cmd/age").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, c := range []struct {
		name, identity, commit string
		envelope               []byte
	}{
		{"main", epoch.Identity, h.Commit, envelope},
		{"strict", epoch.StrictIdentity, h.CommitStrict, strict},
	} {
		identity := filepath.Join(dir, c.name+".key")
		if err := os.WriteFile(identity, []byte(c.identity+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		age := exec.Command(command, "--decrypt", "--identity", identity)
		age.Stdin = bytes.NewReader(c.envelope)
		key, err := age.Output()
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		commit, err := hkdf.Key(sha256.New, key, nil, "sallyport trec v1 commitment", sha256.Size)
		if err != nil || hex.EncodeToString(commit) != c.commit {
			t.Errorf("%s: the key of %d bytes is not the one that the header commits to: %v", c.name, len(key), err)
		}
		if other := exec.Command(command, "--decrypt", "--identity", identity); c.name == "main" {
			other.Stdin = bytes.NewReader(strict)
			if other.Run() == nil {
				t.Error("the ordinary identity opens what was typed")
			}
		}
	}
}
