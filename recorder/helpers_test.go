package recorder

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"sallyport/internal/testkit"
	"sallyport/recorder/ledger"
	"sallyport/recorder/trec"
)

// testSigner is the same in every run.
func testSigner(seed byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, ed25519.SeedSize))
}

func testKeys(t testing.TB) EpochKeys {
	t.Helper()
	k, err := NewEpochKeys()
	must(t, err)
	return k
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// testOptions are those of a node whose state is in a folder of its own.
func testOptions(t testing.TB) Options {
	return optionsIn(t.TempDir())
}

func optionsIn(state string) Options {
	return Options{Dir: filepath.Join(state, "recordings"), Node: "N-test", Signer: testSigner(1), Secret: bytes.Repeat([]byte{7}, 32),
		JournalSize: 8 << 20, JournalFiles: 8}
}

func testMeta(session string, pty bool) Meta {
	return Meta{Session: session, Number: 1, Epoch: "2026Q3", User: "alice", Project: "genomics", Server: "db1",
		Account: "alice", Action: "shell", PTY: pty, Term: "xterm", Columns: 80, Rows: 24, RemoteAddr: "192.0.2.1"}
}

func open(t testing.TB, o Options) *Recorder {
	t.Helper()
	r, err := Open(o)
	must(t, err)
	t.Cleanup(func() { shut(t, r) })
	return r
}

func shut(t testing.TB, r *Recorder) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := r.Close(ctx); err != nil {
		t.Error(err)
	}
}

func start(t testing.TB, r *Recorder, session string, pty bool, k EpochKeys) *Recording {
	t.Helper()
	rec, err := r.Start(t.Context(), testMeta(session, pty), k.Keys())
	must(t, err)
	t.Cleanup(func() { _, _ = rec.Close(patience(t), "exited") }) // if the test has not
	return rec
}

func appendFrame(t testing.TB, rec *Recording, k Kind, data string) Position {
	t.Helper()
	p, err := rec.Append(Frame{Kind: k, Data: []byte(data)})
	must(t, err)
	return p
}

func appendDurable(t testing.TB, rec *Recording, k Kind, data string) Position {
	t.Helper()
	p := appendFrame(t, rec, k, data)
	must(t, rec.Wait(patience(t), p))
	return p
}

// plain is a recording read back with the auditors' keys.
type plain struct {
	entries []Entry
	ending  trec.Ending
	facts   *trec.Facts
	sealed  uint64
	err     error // what ended the reading, nil at the end of the file
}

// text is what the frames of a kind hold.
func (p plain) text(k Kind) string {
	var b strings.Builder
	for _, e := range p.entries {
		if e.Kind == k {
			b.Write(e.Data)
		}
	}
	return b.String()
}

// frames is how many frames there are, without keyframes.
func (p plain) frames() Position {
	n := Position(0)
	for _, e := range p.entries {
		if e.Kind != trec.KindKeyframe {
			n++
		}
	}
	return n
}

func trecKeys(t testing.TB, k EpochKeys) trec.Keys {
	t.Helper()
	ordinary, strict, err := k.Identities()
	must(t, err)
	return trec.Keys{Main: ordinary, Strict: strict, Node: testSigner(1).Public().(ed25519.PublicKey), Journal: JournalFrames{}}
}

func readBack(t testing.TB, path string, k EpochKeys) plain {
	t.Helper()
	f, err := os.Open(path)
	must(t, err)
	defer f.Close()
	var p plain
	r, err := trec.NewReader(f, trecKeys(t, k))
	if err != nil {
		p.err = err
		return p
	}
	for {
		e, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			p.err = err
			return p
		}
		e.Data = bytes.Clone(e.Data)
		p.entries = append(p.entries, e)
	}
	p.ending, p.facts, p.sealed = r.Ending(), r.Facts(), r.Sealed()
	return p
}

// leavesOf is what the ledger says of a session.
func leavesOf(t testing.TB, r *Recorder, session string) []ledger.Leaf {
	t.Helper()
	must(t, r.ledger.Publish(patience(t)))
	var leaves []ledger.Leaf
	for item, err := range ledger.Read(r.o.LedgerDir, r.ledger.Verifier(), nil) {
		must(t, err)
		if item.Leaf != nil && item.Leaf.Session == session {
			leaves = append(leaves, *item.Leaf)
		}
	}
	return leaves
}

// checkLedger holds a recording's file against the ledger: every leaf and the root
// are there once, and nothing else is.
func checkLedger(t testing.TB, r *Recorder, session string) {
	t.Helper()
	f, err := os.Open(r.Path(session))
	must(t, err)
	defer f.Close()
	var tree []trec.Leaf
	report, err := trec.Verify(f, r.publicKey(), func(l trec.Leaf) error { tree = append(tree, l); return nil })
	must(t, err)
	if !report.Intact || !report.Complete {
		t.Errorf("%s: %s", session, report.Text())
	}
	want := map[ledger.Leaf]int{}
	for _, l := range segmentLeaves(session, tree) {
		want[l]++
	}
	opens, closes := 0, 0
	for _, l := range leavesOf(t, r, session) {
		switch l.Kind {
		case ledger.KindOpen:
			opens++
		case ledger.KindClose:
			closes++
			if l.Hash != report.Root || l.Size != report.Bytes || l.Reason != report.Reason {
				t.Errorf("%s: the ledger closes with %+v, the file with %s, %d bytes, %s", session, l, report.Root, report.Bytes, report.Reason)
			}
		default:
			want[l]--
		}
	}
	for l, n := range want {
		if n != 0 {
			t.Errorf("%s: leaf %+v: %d more in the file than in the ledger", session, l, n)
		}
	}
	if opens != 1 || closes != 1 {
		t.Errorf("%s: %d opens and %d closes in the ledger", session, opens, closes)
	}
}

// faultyFile fails on demand.
type faultyFile struct {
	file
	mu       sync.Mutex
	writeErr error
	short    bool
	eintr    bool
	syncErr  error
	syncs    int
	block    chan struct{} // Sync waits for it
	entered  chan struct{} // Sync says that it waits
}

func (f *faultyFile) Write(b []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.writeErr != nil:
		n, _ := f.file.Write(b[:len(b)/2])
		return n, f.writeErr
	case f.short:
		return f.file.Write(b[:len(b)/2])
	case f.eintr:
		f.eintr = false
		n, _ := f.file.Write(b[:len(b)/2])
		return n, syscall.EINTR
	}
	return f.file.Write(b)
}

func (f *faultyFile) Sync() error {
	f.mu.Lock()
	f.syncs++
	err, block, entered := f.syncErr, f.block, f.entered
	f.mu.Unlock()
	if block != nil {
		entered <- struct{}{}
		<-block
	}
	if err != nil {
		return err
	}
	return f.file.Sync()
}

func (f *faultyFile) set(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}

// withFaults makes every recording of o write through a faultyFile; it returns the last.
func withFaults(o *Options) func() *faultyFile {
	var mu sync.Mutex
	var last *faultyFile
	o.create = func(path string) (file, error) {
		f, err := createFile(path)
		if err != nil {
			return nil, err
		}
		mu.Lock()
		defer mu.Unlock()
		last = &faultyFile{file: f}
		return last, nil
	}
	return func() *faultyFile {
		mu.Lock()
		defer mu.Unlock()
		return last
	}
}

func patience(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// copyState copies a state folder as it is, as a crash would leave it.
func copyState(t testing.TB, from string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "state")
	testkit.CopyState(t, to, from)
	return to
}
