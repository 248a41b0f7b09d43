package tlog

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

const (
	proofMagic    = "c2sp.org/tlog-proof@v1"
	maxProofSize  = 128 << 10
	maxProofLines = 64
)

// hashes reads stored hashes of the open log, from memory where the tiles are not on disk yet.
func (l *Log) hashes(size int64) tlog.HashReader {
	return tlog.HashReaderFunc(func(indexes []int64) ([]Hash, error) {
		out := make([]Hash, len(indexes))
		for i, index := range indexes {
			level, n := tlog.SplitStoredHashIndex(index)
			within := level % tileHeight
			start := n << within
			id := tileID{level / tileHeight, start / tileWidth}
			from := int(start % tileWidth)
			hashes, err := l.tile(id)
			if err != nil {
				return nil, err
			}
			if from+1<<within > len(hashes) {
				return nil, fmt.Errorf("tile %s is too short for a log of %d entries", id, size)
			}
			out[i] = subtree(hashes[from : from+1<<within])
		}
		return out, nil
	})
}

func (l *Log) tile(id tileID) ([]Hash, error) {
	l.mu.Lock()
	if l.size>>(tileHeight*(id.level+1)) == id.n {
		hashes := append([]Hash(nil), l.edges[id.level]...)
		l.mu.Unlock()
		return hashes, nil
	}
	data := l.pending[id]
	l.mu.Unlock()
	if data != nil {
		return parseHashes(data), nil
	}
	if hashes := l.cache.get(id); hashes != nil {
		return hashes, nil
	}
	data, err := readFile(l.o.fs, filepath.Join(l.o.Dir, id.path(tileWidth)), tileWidth*tlog.HashSize)
	if err != nil {
		return nil, err
	}
	if len(data) != tileWidth*tlog.HashSize {
		return nil, fmt.Errorf("%s: the tile has %d bytes, not %d", id, len(data), tileWidth*tlog.HashSize)
	}
	hashes := parseHashes(data)
	l.cache.put(id, hashes)
	return hashes, nil
}

// RootAt is the root of the log's first size entries.
func (l *Log) RootAt(size int64) (Hash, error) {
	now := l.Size()
	if size < 0 || size > now {
		return Hash{}, fmt.Errorf("no root at %d: the log has %d entries", size, now)
	}
	if size == 0 {
		return emptyRoot(), nil
	}
	return tlog.TreeHash(size, l.hashes(now))
}

// ProveConsistency proves that the first older entries are unchanged in the first newer.
func (l *Log) ProveConsistency(older, newer int64) (tlog.TreeProof, error) {
	size := l.Size()
	return proveConsistency(older, newer, size, l.hashes(size))
}

// ProveInclusion proves that entry index is in the first size entries.
func (l *Log) ProveInclusion(index, size int64) (tlog.RecordProof, error) {
	if now := l.Size(); index < 0 || index >= size || size > now {
		return nil, fmt.Errorf("no proof of entry %d in %d: the log has %d entries", index, size, now)
	}
	return tlog.ProveRecord(size, index, l.hashes(size))
}

// Prove makes the proof of inclusion of an entry in the log's newest checkpoint.
func (l *Log) Prove(index int64) (*Proof, error) {
	l.mu.Lock()
	size, signed := l.size, l.note
	l.mu.Unlock()
	return prove(index, size, signed, l.hashes(size))
}

func proveConsistency(older, newer, size int64, hashes tlog.HashReader) (tlog.TreeProof, error) {
	if older < 0 || older > newer || newer > size {
		return nil, fmt.Errorf("no proof from %d to %d: the log has %d entries", older, newer, size)
	}
	if older == 0 || older == newer {
		return nil, nil
	}
	return tlog.ProveTree(newer, older, hashes)
}

// CheckConsistency tells whether the proof shows that a log of the newer
// checkpoint begins with the log of the older one.
func CheckConsistency(proof tlog.TreeProof, older, newer Checkpoint) error {
	switch {
	case older.Size > newer.Size:
		return fmt.Errorf("the older checkpoint has %d entries, the newer only %d", older.Size, newer.Size)
	case older.Size == 0 || older.Size == newer.Size:
		if len(proof) > 0 {
			return errors.New("the proof must be empty")
		}
		if older.Size == newer.Size && older.Root != newer.Root {
			return fmt.Errorf("two different logs of %d entries", older.Size)
		}
		return nil
	}
	if err := tlog.CheckTree(proof, newer.Size, newer.Root, older.Size, older.Root); err != nil {
		return fmt.Errorf("the first %d of %d entries are not the ones that were there: %w", older.Size, newer.Size, err)
	}
	return nil
}

// Proof is a C2SP tlog-proof: that an entry is in a log, for a person who has the
// entry, the log's verifier key and, if demanded, those of witnesses.
type Proof struct {
	Extra      []byte // not authenticated
	Index      int64
	Hashes     tlog.RecordProof
	Checkpoint []byte // signed, perhaps cosigned
}

func prove(index, size int64, signed []byte, hashes tlog.HashReader) (*Proof, error) {
	if index < 0 || index >= size {
		return nil, fmt.Errorf("no proof of entry %d: the log has %d entries", index, size)
	}
	p, err := tlog.ProveRecord(size, index, hashes)
	if err != nil {
		return nil, err
	}
	return &Proof{Index: index, Hashes: p, Checkpoint: append([]byte(nil), signed...)}, nil
}

// Format writes the proof as C2SP tlog-proof v1.
func (p *Proof) Format() []byte {
	var b bytes.Buffer
	b.WriteString(proofMagic + "\n")
	if len(p.Extra) > 0 {
		fmt.Fprintf(&b, "extra %s\n", base64.StdEncoding.EncodeToString(p.Extra))
	}
	fmt.Fprintf(&b, "index %d\n", p.Index)
	for _, h := range p.Hashes {
		b.WriteString(h.String() + "\n")
	}
	b.WriteString("\n")
	b.Write(p.Checkpoint)
	return b.Bytes()
}

// ParseProof reads what Format wrote.
func ParseProof(data []byte) (*Proof, error) {
	if len(data) > maxProofSize {
		return nil, fmt.Errorf("a proof of %d bytes is too large", len(data))
	}
	head, checkpoint, ok := strings.Cut(string(data), "\n\n")
	lines := strings.Split(head, "\n")
	if !ok || lines[0] != proofMagic {
		return nil, errors.New("this is not a proof of a log entry")
	}
	lines = lines[1:]
	p := &Proof{Checkpoint: []byte(checkpoint)}
	if len(lines) > 0 && strings.HasPrefix(lines[0], "extra ") {
		var err error
		if p.Extra, err = base64.StdEncoding.Strict().DecodeString(strings.TrimPrefix(lines[0], "extra ")); err != nil {
			return nil, fmt.Errorf("the proof's extra data: %w", err)
		}
		lines = lines[1:]
	}
	if len(lines) == 0 || !strings.HasPrefix(lines[0], "index ") || len(lines) > maxProofLines {
		return nil, errors.New("the proof has no index, or too many hashes")
	}
	var err error
	if p.Index, err = parseDecimal(strings.TrimPrefix(lines[0], "index ")); err != nil {
		return nil, fmt.Errorf("the proof's index: %w", err)
	}
	for _, line := range lines[1:] {
		h, err := parseHash(line)
		if err != nil {
			return nil, fmt.Errorf("the proof: %w", err)
		}
		p.Hashes = append(p.Hashes, h)
	}
	return p, nil
}

// Verify checks that an entry with this leaf hash is in the log.
func (p *Proof) Verify(leaf Hash, origin string, verifier note.Verifier) (Checkpoint, error) {
	c, _, err := OpenCheckpoint(p.Checkpoint, origin, verifier)
	if err != nil {
		return Checkpoint{}, err
	}
	if p.Index >= c.Size {
		return Checkpoint{}, fmt.Errorf("entry %d cannot be in a log of %d entries", p.Index, c.Size)
	}
	if err := tlog.CheckRecord(p.Hashes, c.Size, c.Root, p.Index, leaf); err != nil {
		return Checkpoint{}, fmt.Errorf("entry %d is not in the log of this checkpoint: %w", p.Index, err)
	}
	return c, nil
}
