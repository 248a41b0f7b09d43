package tlog

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
)

const (
	batchMagic  = "SPTB"
	batchHeader = 12 // magic, length of the payload, CRC-32C of the payload

	// MaxAppend is the most one Append takes, in bytes as they rest in the append file.
	MaxAppend = 8 << 20
	// MaxBody is the largest body, in bytes.
	MaxBody = 1 << 20

	maxBatch     = MaxAppend + 1<<20 // payload; the rest is for the first group member, the checkpoint and its header
	maxSealed    = MaxBody + 256
	maxKeyID     = 128
	maxNote      = 16 << 10
	minBatchLeaf = 2 + 1 + 4
)

// Entry is what one leaf brings: the bytes that are hashed into the tree and,
// when it has one, the sealed body that lies apart.
type Entry struct {
	Leaf   []byte
	Key    KeyID // of the sealed body
	Sealed []byte
}

// Size is what the entry takes of MaxAppend.
func (e *Entry) Size() int {
	return minBatchLeaf + len(e.Leaf) + len(e.Key.Project) + 1 + len(e.Key.Quarter) + len(e.Sealed)
}

// batch is what one commit makes durable: entries and the signed checkpoint that covers them.
type batch struct {
	first   int64
	entries []Entry
	note    []byte // signed checkpoint of first+len(entries)
}

func (b *batch) next() int64 { return b.first + int64(len(b.entries)) }

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// encode appends the batch in the form of docs/format-ledger.md, "Append file".
func (b *batch) encode(out []byte) []byte {
	start := len(out)
	out = append(out, batchMagic...)
	out = append(out, make([]byte, batchHeader-len(batchMagic))...)
	out = binary.BigEndian.AppendUint64(out, uint64(b.first))
	out = binary.BigEndian.AppendUint32(out, uint32(len(b.entries)))
	for i := range b.entries {
		e := &b.entries[i]
		key := e.Key.String()
		out = appendEntry(out, e.Leaf)
		out = append(out, byte(len(key)))
		out = append(out, key...)
		out = binary.BigEndian.AppendUint32(out, uint32(len(e.Sealed)))
		out = append(out, e.Sealed...)
	}
	out = binary.BigEndian.AppendUint16(out, uint16(len(b.note)))
	out = append(out, b.note...)
	payload := out[start+batchHeader:]
	binary.BigEndian.PutUint32(out[start+4:], uint32(len(payload)))
	binary.BigEndian.PutUint32(out[start+8:], crc32.Checksum(payload, castagnoli))
	return out
}

// cutBatch finds the batch at the beginning of b and returns it with what
// follows it. The checksum finds accidents, not people: those are found by the root.
func cutBatch(b []byte) (raw, rest []byte, err error) {
	if len(b) < batchHeader {
		return nil, nil, fmt.Errorf("%d bytes are too few for a batch", len(b))
	}
	if string(b[:4]) != batchMagic {
		return nil, nil, errors.New("no batch begins here")
	}
	length := int64(binary.BigEndian.Uint32(b[4:]))
	if length > maxBatch {
		return nil, nil, fmt.Errorf("a batch of %d bytes is larger than %d", length, maxBatch)
	}
	if int64(len(b)-batchHeader) < length {
		return nil, nil, fmt.Errorf("the batch is cut: %d of %d bytes", len(b)-batchHeader, length)
	}
	end := batchHeader + int(length)
	if crc32.Checksum(b[batchHeader:end], castagnoli) != binary.BigEndian.Uint32(b[8:]) {
		return nil, nil, errors.New("the batch's checksum does not fit")
	}
	return b[:end], b[end:], nil
}

// IsBatch tells whether these bytes are one whole batch, as a Durable was given it.
func IsBatch(b []byte) bool {
	_, rest, err := cutBatch(b)
	return err == nil && len(rest) == 0
}

// decodeBatch reads a whole batch. What it returns points into raw.
func decodeBatch(raw []byte) (*batch, error) {
	raw, rest, err := cutBatch(raw)
	if err != nil {
		return nil, err
	}
	if len(rest) > 0 {
		return nil, errors.New("bytes follow the batch")
	}
	r := reader{b: raw[batchHeader:]}
	first, count := r.uint64(), r.uint32()
	if r.failed || first > uint64(maxSize) || int64(count) > maxSize-int64(first) {
		return nil, errors.New("the batch's first entry is out of range")
	}
	if int(count) > len(r.b)/minBatchLeaf {
		return nil, fmt.Errorf("the batch claims %d entries in %d bytes", count, len(r.b))
	}
	b := &batch{first: int64(first), entries: make([]Entry, count)}
	for i := range b.entries {
		e := &b.entries[i]
		e.Leaf = r.take(int(r.uint16()))
		key := r.take(int(r.uint8()))
		e.Sealed = r.take(int(r.uint32()))
		if r.failed {
			return nil, fmt.Errorf("entry %d runs past the end of the batch", b.first+int64(i))
		}
		if len(key) == 0 && len(e.Sealed) == 0 {
			continue
		}
		if e.Key, err = ParseKeyID(string(key)); err != nil {
			return nil, fmt.Errorf("entry %d: %w", b.first+int64(i), err)
		}
		if len(e.Sealed) == 0 || len(e.Sealed) > maxSealed {
			return nil, fmt.Errorf("entry %d: a sealed body of %d bytes", b.first+int64(i), len(e.Sealed))
		}
	}
	b.note = r.take(int(r.uint16()))
	if r.failed || len(r.b) > 0 || len(b.note) > maxNote {
		return nil, errors.New("the batch's checkpoint does not fit")
	}
	return b, nil
}

// reader takes big-endian fields off a slice; once it ran out it only returns zeros.
type reader struct {
	b      []byte
	failed bool
}

func (r *reader) take(n int) []byte {
	if r.failed || n < 0 || n > len(r.b) {
		r.failed = true
		return nil
	}
	out := r.b[:n:n]
	r.b = r.b[n:]
	return out
}

func (r *reader) uint8() uint8 {
	if b := r.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (r *reader) uint16() uint16 {
	if b := r.take(2); b != nil {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

func (r *reader) uint32() uint32 {
	if b := r.take(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

func (r *reader) uint64() uint64 {
	if b := r.take(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}
