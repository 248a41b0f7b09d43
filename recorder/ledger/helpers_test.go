package ledger

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"sallyport/internal/testkit"
	"sallyport/recorder/journal"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// patience bounds what a test waits for.
func patience(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// world is a node's folder with its journal and ledger.
type world struct {
	t       testing.TB
	dir     string
	options Options
	journal *journal.Journal
	ledger  *Ledger
}

func newWorld(t testing.TB) *world {
	t.Helper()
	dir := t.TempDir()
	w := &world{t: t, dir: dir, options: testOptions(dir)}
	w.start()
	t.Cleanup(func() { w.stop() })
	return w
}

func testOptions(dir string) Options {
	return Options{Dir: filepath.Join(dir, "ledger"), KeysDir: filepath.Join(dir, "ledger-keys"), Node: "N-test",
		Signer: ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, ed25519.SeedSize)), Secret: bytes.Repeat([]byte{9}, SecretSize)}
}

// open opens journal and ledger, and recovers what the journal holds.
func (w *world) open(visits *int) error {
	var err error
	o := journal.Options{Dir: filepath.Join(w.dir, "journal"), Node: w.options.Node, FileSize: 16 << 20}
	must(w.t, os.MkdirAll(o.Dir, 0o700))
	w.journal, err = journal.Open(o, func(r *journal.Remains) error {
		if visits != nil {
			*visits++
		}
		if r.Name != StreamName {
			return fmt.Errorf("a stream %q", r.Name)
		}
		return Recover(w.options, r)
	})
	if err != nil {
		return err
	}
	w.ledger, err = Open(w.options, w.journal)
	return err
}

func (w *world) start() {
	w.t.Helper()
	must(w.t, w.open(nil))
}

func (w *world) stop() {
	if w.ledger != nil {
		must(w.t, w.ledger.Close())
		w.ledger = nil
	}
	if w.journal != nil {
		must(w.t, w.journal.Close(patience(w.t)))
		w.journal = nil
	}
}

// crash copies the node's folder as it is, which is what a machine that loses
// its power leaves if every write had reached the disk, and goes on there.
func (w *world) crash() *world {
	w.t.Helper()
	dir := w.t.TempDir()
	testkit.CopyState(w.t, dir, w.dir)
	o := w.options
	o.Dir, o.KeysDir = filepath.Join(dir, "ledger"), filepath.Join(dir, "ledger-keys")
	after := &world{t: w.t, dir: dir, options: o}
	w.t.Cleanup(after.stop)
	return after
}

func event(sequence int64, project string) []byte {
	return fmt.Appendf(nil, `{"details":{"n":%d},"op_type":"test.event","project":%q,"sequence":%d,"time":"2026-11-21T12:00:00Z"}`,
		sequence, project, sequence)
}

// bigEvent is larger than a frame of the stream with another.
func bigEvent(n int64) []byte {
	return fmt.Appendf(nil, `{"details":{"n":%q},"op_type":"t","project":"genomics","sequence":%d,"time":"2026-11-21T12:00:00Z"}`,
		bytes.Repeat([]byte{'x'}, 250<<10), n)
}

func (w *world) append(from, to int64) {
	w.t.Helper()
	for n := from; n <= to; n++ {
		must(w.t, w.ledger.Append(patience(w.t), n, event(n, "genomics")))
	}
}

func (w *world) verifier() note.Verifier {
	v, err := VerifierOf(w.options.Node, w.options.Signer.Public().(ed25519.PublicKey))
	must(w.t, err)
	return v
}
