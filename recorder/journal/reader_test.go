package journal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
)

// written is a file of a journal with a few batches, as bytes.
func written(t testing.TB, batches int) []byte {
	t.Helper()
	disk := newMemory()
	o := small(disk)
	o.Random = rand.NewChaCha8([32]byte{byte(batches)}) // the fuzzer wants the same seeds each time
	o.Clock = func() time.Time { return time.Unix(1, 0) }
	j, err := Open(o, nil)
	must(t, err)
	s := stream(t, j, "S-1")
	for i := range batches {
		for range i%3 + 1 {
			_, err := s.Append(Class(i%2), 'o', time.UnixMicro(int64(i)), bytes.Repeat([]byte{byte(i)}, 10+i*200))
			must(t, err)
		}
		s.mu.Lock()
		last := s.last
		s.mu.Unlock()
		must(t, s.Wait(patience(t), last))
	}
	disk.mu.Lock()
	content := slices.Clone(disk.names[journalName(1)].content)
	disk.mu.Unlock()
	must(t, j.Close(patience(t)))
	return content
}

// readAll returns what can be read, and the first damage.
func readAll(content []byte) (raw [][]byte, at []int64, err error) {
	r, err := NewReader(bytes.NewReader(content), int64(len(content)), "file")
	if err != nil {
		return nil, nil, err
	}
	for {
		record, err := r.Next()
		if errors.Is(err, io.EOF) {
			return raw, at, nil
		}
		if err != nil {
			return raw, at, err
		}
		if record.Data != nil {
			raw, at = append(raw, bytes.Clone(record.Data.Raw)), append(at, record.Offset)
		}
	}
}

// TestEveryBitCounts flips one bit of each byte that means something.
func TestEveryBitCounts(t *testing.T) {
	content := written(t, 6)
	want, at, err := readAll(content)
	must(t, err)
	end := int(at[len(at)-1]) + len(want[len(want)-1])
	lastBatch := end / blockSize * blockSize // the last batch is not longer than a block
	found, torn := 0, 0
	for i := 0; i < end; i++ {
		if content[i] == 0 && i > 100 && i < blockSize || inPadding(content, i) {
			continue
		}
		changed := slices.Clone(content)
		changed[i] ^= 1 << (i % 8)
		got, _, err := readAll(changed)
		var damage *DamageError
		switch {
		case errors.As(err, &damage):
			found++
			if damage.Offset > int64(i) || damage.File != "file" {
				t.Errorf("byte %d: %v", i, damage)
			}
		case err != nil:
			t.Fatal(err)
		case i < lastBatch:
			t.Errorf("byte %d: a change was not found", i)
		case len(got) >= len(want):
			t.Errorf("byte %d of the last batch: a change was not found", i)
		default:
			torn++
		}
		for n := range got {
			if !bytes.Equal(got[n], want[n]) {
				t.Fatalf("byte %d: wrong bytes came out", i)
			}
		}
	}
	t.Logf("%d changes found as damage, %d as a torn end, 0 missed", found, torn)
	if found == 0 || torn == 0 {
		t.Error("not both were seen")
	}
}

// inPadding reports whether i is behind the batch of its block.
func inPadding(content []byte, i int) bool {
	if i < blockSize {
		return false
	}
	mask := binary.BigEndian.Uint32(content[20:])
	for start := i / blockSize * blockSize; start >= blockSize; start -= blockSize {
		if h, found := parseBatchHeader(content[start:], mask); found {
			return i >= start+h.length
		}
	}
	return false
}

// TestStaleBytesNeverCount puts a valid file's batches behind another header.
func TestStaleBytesNeverCount(t *testing.T) {
	stale, fresh := written(t, 6), written(t, 1)
	copy(fresh[2*blockSize:], stale[2*blockSize:])
	got, _, err := readAll(fresh)
	must(t, err)
	if len(got) != 1 {
		t.Errorf("%d frames", len(got))
	}
	// Even if the header of a new batch was written and its body was not.
	copy(stale, fresh[:blockSize+batchHeaderSize])
	if got, _, _ = readAll(stale); len(got) != 0 {
		t.Errorf("%d stale frames were taken for new ones", len(got))
	}
}

func TestDamageIsNamed(t *testing.T) {
	content := written(t, 6)
	_, at, err := readAll(content)
	must(t, err)
	o := small(newMemory())
	disk := o.files.(*memoryFiles)
	for _, c := range []struct {
		name   string
		change func(map[string]*memoryFile)
		want   string
	}{
		{"a flipped bit", func(m map[string]*memoryFile) { m[journalName(1)].content[at[1]+30] ^= 4 }, "is damaged at byte"},
		{"a file header", func(m map[string]*memoryFile) { m[journalName(1)].content[30] ^= 4 }, "header was changed"},
		{"a missing file", func(m map[string]*memoryFile) { delete(m, journalName(2)) }, "is missing"},
		{"an exchanged file", func(m map[string]*memoryFile) {
			m[journalName(1)], m[journalName(2)] = m[journalName(2)], m[journalName(1)]
		}, "calls itself"},
		{"zeroes over the end of a file", func(m map[string]*memoryFile) {
			f := m[journalName(1)]
			clear(f.content[len(f.content)-12*blockSize:])
		}, "its end is missing"},
		{"a length of the sky", func(m map[string]*memoryFile) {
			f := m[journalName(1)].content
			binary.BigEndian.PutUint32(f[blockSize+8:], 1<<31)
		}, "batch is missing or its header was changed"},
	} {
		t.Run(c.name, func(t *testing.T) {
			*disk = memoryFiles{names: map[string]*memoryFile{}, durable: map[string]*memoryFile{}}
			j := open(t, o)
			s := stream(t, j, "S-1")
			for range 60 {
				p, err := s.Append(0, 'o', time.Time{}, make([]byte, 3000))
				must(t, err)
				must(t, s.Wait(patience(t), p))
			}
			must(t, j.Close(patience(t)))
			c.change(disk.names)
			_, err := reopen(o)
			var damage *DamageError
			if !errors.As(err, &damage) || !strings.Contains(err.Error(), c.want) || damage.File == "" {
				t.Errorf("open: %v", err)
			}
			// Told to go on, it saves the rest and keeps the damaged file.
			tolerant := o
			tolerant.Damaged = func(d *DamageError) error { t.Log(d); return nil }
			found, err := reopen(tolerant)
			must(t, err)
			if k := found["S-1"]; k == nil || len(k.frames) < 5 || !k.Damaged {
				t.Errorf("saved: %v", k)
			}
			kept := 0
			for name := range disk.names {
				if strings.HasSuffix(name, damagedSuffix) {
					kept++
				}
			}
			if kept == 0 {
				t.Error("no damaged file was kept")
			}
			_, err = reopen(o)
			must(t, err)
		})
	}
}

func TestOtherNodesJournal(t *testing.T) {
	o := small(newMemory())
	must(t, open(t, o).Close(patience(t)))
	o.Node = "node-2"
	if _, err := Open(o, nil); err == nil || !strings.Contains(err.Error(), "node-1") {
		t.Errorf("opened: %v", err)
	}
}

// FuzzJournalReader reads anything behind the header of a file; with checksums
// that belong there, if it is told to, so that the fuzzer gets behind them.
func FuzzJournalReader(f *testing.F) {
	content := written(f, 3)
	header, one, two := content[:blockSize], content[blockSize:][:400], content[blockSize:][:blockSize+500]
	for _, seed := range [][]byte{one, two, one[:100], nil} {
		f.Add(seed, false)
		f.Add(seed, true)
	}
	random := rand.New(rand.NewPCG(1, 2))
	for range 20 {
		changed := slices.Clone(one)
		changed[random.IntN(len(changed))] ^= byte(1 + random.IntN(255))
		f.Add(changed, true)
	}
	f.Fuzz(func(t *testing.T, body []byte, mend bool) {
		in := append(slices.Clone(header), body...)
		in = append(in, make([]byte, padded(len(in))-len(in))...)
		if mend && len(body) > 0 {
			mendChecksums(in)
		}
		r, err := NewReader(bytes.NewReader(in), int64(len(in)), "file")
		if err != nil {
			return
		}
		var damage *DamageError
		for n := 0; ; n++ {
			record, err := r.Next()
			if errors.Is(err, io.EOF) {
				return
			}
			if errors.As(err, &damage) {
				r.Resync()
			} else if err != nil {
				t.Fatal(err)
			} else if record.Data != nil {
				if _, rest, err := ParseSealed(record.Data.Raw); err != nil || len(rest) > 0 {
					t.Fatal(err)
				}
			}
			if n > len(in) {
				t.Fatal("it does not end")
			}
		}
	})
}

// mendChecksums makes every batch and frame of a file valid, whatever it says.
func mendChecksums(in []byte) {
	h := FileHeader{Number: 1, Node: "node-1"}
	copy(h.ID[:], in[20:36])
	copy(in, h.encode())
	for at := blockSize; at+batchHeaderSize <= len(in); at += blockSize {
		if string(in[at+4:at+8]) != batchMagic {
			continue
		}
		b := batchHeader{length: int(binary.BigEndian.Uint32(in[at+8:])), frames: binary.BigEndian.Uint32(in[at+12:]),
			number: binary.BigEndian.Uint64(in[at+16:])}
		b.put(in[at:], h.mask())
		for rest := in[at+batchHeaderSize:]; len(rest) >= frameHeaderSize; {
			n := int(binary.BigEndian.Uint32(rest[4:]))
			if n < frameHeaderSize || n > len(rest) {
				break
			}
			setCRC(rest[:n])
			maskCRC(rest[:n], h.mask())
			rest = rest[n:]
		}
	}
}
