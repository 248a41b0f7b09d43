package recorder

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
)

// FuzzReader reads hostile files: no panic, no endless loop, and no
// allocation beyond the largest block.
func FuzzReader(f *testing.F) {
	o := testOptions(f)
	r, keys := open(f, o), testKeys(f)
	rec := start(f, r, "S-1", true, keys)
	appendFrame(f, rec, KindOutput, "hello")
	appendFrame(f, rec, KindInput, "x")
	if _, err := rec.Close(f.Context(), "exit"); err != nil {
		f.Fatal(err)
	}
	data := readFile(f, r.Path("S-1"))
	f.Add(data)
	f.Add(data[:len(data)/2])
	f.Add([]byte(FileMagic))
	huge := bytes.Clone(data)
	copy(huge[len(FileMagic)+32:], "\xff\xff\xff\xff")
	f.Add(huge)
	ordinary, strict, err := keys.Identities()
	must(f, err)
	f.Fuzz(func(t *testing.T, data []byte) {
		b, err := NewBlockReader(bytes.NewReader(data))
		if err != nil {
			return
		}
		var opener *Opener
		for {
			k, err := b.Next()
			if err != nil {
				var format *FormatError
				if !errors.Is(err, io.EOF) && !errors.As(err, &format) {
					t.Fatalf("unexpected error %v", err)
				}
				return
			}
			if len(k.Payload) > maxPayload {
				t.Fatalf("a payload of %d bytes", len(k.Payload))
			}
			switch k.Type {
			case BlockHeader:
				if h, err := ParseHeader(k.Payload); err == nil {
					opener, _ = NewOpener(h, ordinary, strict)
				}
			case BlockEnd:
				_, _ = ParseEnd(k.Payload)
			case BlockData:
				text := k.Payload // as if the attacker held the key
				if opener != nil {
					if opened, err := opener.Open(k); err == nil {
						text = opened
					}
				}
				d := NewFrameDecoder(k.BlockInfo, text)
				for {
					e, ok, err := d.Next()
					if err != nil || !ok {
						break
					}
					if len(e.Data) > MaxFrame || e.Position < k.First || uint64(e.Position) >= uint64(k.First)+uint64(k.Span) {
						t.Fatalf("frame %d with %d bytes", e.Position, len(e.Data))
					}
				}
			}
		}
	})
}

// FuzzLedger opens hostile ledgers: it opens or refuses, and what it opens can
// be appended to and opened again.
func FuzzLedger(f *testing.F) {
	o := testOptions(f)
	l, err := OpenLedger(o)
	must(f, err)
	must(f, l.Append(f.Context(), 1, []byte("one")))
	must(f, l.Append(f.Context(), 2, []byte("two")))
	must(f, l.Close())
	data := readFile(f, ledgerPath(o))
	f.Add(data)
	f.Add(data[:len(data)-10])
	f.Add(append(bytes.Clone(data), 0, 0, 0))
	f.Add([]byte{})
	key := o.Signer.Public().(ed25519.PublicKey)
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, data []byte) {
		mine := o
		mine.Dir = dir
		must(t, os.WriteFile(filepath.Join(dir, LedgerFile), data, 0o600))
		l, err := OpenLedger(mine)
		if err != nil {
			return
		}
		last := l.Last()
		must(t, l.Append(t.Context(), last+1, []byte("next")))
		must(t, l.Checkpoint().Verify(key))
		must(t, l.Close())
		again, err := OpenLedger(mine)
		must(t, err)
		if again.Last() != last+1 {
			t.Fatalf("last %d, want %d", again.Last(), last+1)
		}
		must(t, again.Close())
	})
}
