package recorder

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"
)

// testSigner is the same in every run, so that golden files stay the same.
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

func testOptions(t testing.TB) Options {
	return Options{Dir: t.TempDir(), Node: "N-test", Signer: testSigner(1)}
}

func testMeta(session string, pty bool) Meta {
	return Meta{Session: session, Number: 1, Epoch: "2026Q3", User: "alice", Project: "genomics", Server: "db1",
		Account: "alice", Action: "shell", PTY: pty, Term: "xterm", Columns: 80, Rows: 24, RemoteAddr: "192.0.2.1"}
}

func open(t testing.TB, o Options) *Recorder {
	t.Helper()
	r, err := Open(o)
	must(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := r.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	return r
}

func start(t testing.TB, r *Recorder, session string, pty bool, k EpochKeys) *Recording {
	t.Helper()
	rec, err := r.Start(t.Context(), testMeta(session, pty), k.Keys())
	must(t, err)
	return rec
}

func appendFrame(t testing.TB, rec *Recording, k Kind, data string) Position {
	t.Helper()
	p, err := rec.Append(Frame{Kind: k, Data: []byte(data)})
	must(t, err)
	return p
}

// plain is a recording read back.
type plain struct {
	header  Header
	meta    Meta
	entries []Entry
	end     *End
	blocks  int
	err     error // what ended the reading, nil at the end of the file
}

// readBack reads a file as far as it goes, main and strict frames by position.
func readBack(t testing.TB, data []byte, k EpochKeys, key ed25519.PublicKey) plain {
	t.Helper()
	var p plain
	ordinary, strict, err := k.Identities()
	must(t, err)
	b, err := NewBlockReader(bytes.NewReader(data))
	if err != nil {
		p.err = err
		return p
	}
	var o *Opener
	for {
		block, err := b.Next()
		if errors.Is(err, io.EOF) {
			return p
		}
		if err != nil {
			p.err = err
			return p
		}
		if !block.SignedBy(key) {
			p.err = fmt.Errorf("block %d is not signed", block.Sequence)
			return p
		}
		p.blocks++
		switch block.Type {
		case BlockHeader:
			p.header, err = ParseHeader(block.Payload)
			must(t, err)
			o, err = NewOpener(p.header, ordinary, strict)
			must(t, err)
		case BlockMeta:
			p.meta, err = o.OpenMeta(block)
			must(t, err)
		case BlockEnd:
			end, err := ParseEnd(block.Payload)
			must(t, err)
			p.end = &end
		case BlockData:
			text, err := o.Open(block)
			must(t, err)
			d := NewFrameDecoder(block.BlockInfo, text)
			for {
				e, ok, err := d.Next()
				must(t, err)
				if !ok {
					break
				}
				e.Data = bytes.Clone(e.Data)
				p.entries = append(p.entries, e)
			}
		}
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

// withFaults makes every recording of o write through a faultyFile.
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

func readFile(t testing.TB, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	must(t, err)
	return data
}

func patience(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}
