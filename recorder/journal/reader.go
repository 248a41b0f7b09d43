package journal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// DamageError names a place that was durable and can't be read any more.
type DamageError struct {
	File   string // its name
	Offset int64  // of the batch or frame in the file, bytes
	Reason string
}

func (e *DamageError) Error() string {
	return fmt.Sprintf("%s is damaged at byte %d: %s", e.File, e.Offset, e.Reason)
}

// Record is one frame in a file of the journal. Exactly one of Data, Opening,
// Release and End is set.
type Record struct {
	Offset  int64 // of the frame in the file
	Batch   uint64
	Stream  uint32
	Data    *SealedFrame
	Opening *Opening
	Release Position
	End     *[16]byte // the id of the next file, or zero after an orderly end
}

// Reader reads one file of a journal without any key. It holds one batch in
// memory, at most 8 MiB, whatever the file says.
type Reader struct {
	name    string
	file    io.ReaderAt
	size    int64
	header  FileHeader
	next    int64 // offset of the next batch
	number  uint64
	batch   []byte // what is left of the batch in memory
	at      int64  // offset of batch in the file
	frames  uint32 // of the batch that are still to come
	ended   bool   // by its writer
	over    bool   // nothing more can be read
	torn    bool
	tornAt  int64
	scratch []byte
	record  Record
	data    SealedFrame
	end     [16]byte
}

// NewReader begins to read a file of the given size. The name is for errors.
// It fails with a *DamageError when the file's header is not good.
func NewReader(f io.ReaderAt, size int64, name string) (*Reader, error) {
	r := &Reader{name: name, file: f, size: size, next: blockSize}
	block := make([]byte, blockSize)
	n, err := f.ReadAt(block, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if r.header, err = parseFileHeader(block[:n]); err != nil {
		return nil, r.damage(0, err.Error())
	}
	return r, nil
}

// Header is the file's header.
func (r *Reader) Header() FileHeader { return r.header }

// Ended reports whether the end of the file that its writer made was read.
func (r *Reader) Ended() bool { return r.ended }

// Torn reports where the last commit was torn by a crash, if it was and Next
// has returned io.EOF.
func (r *Reader) Torn() (offset int64, torn bool) { return r.tornAt, r.torn }

func (r *Reader) damage(offset int64, reason string) error {
	return &DamageError{File: r.name, Offset: offset, Reason: reason}
}

// Next returns the next frame, valid until the call after it; io.EOF behind
// the last one; or a *DamageError, after which Resync goes on.
func (r *Reader) Next() (*Record, error) {
	for r.frames == 0 {
		if r.over || r.ended {
			return nil, io.EOF
		}
		if err := r.readBatch(); err != nil {
			return nil, err
		}
	}
	h, err := parseFrameHeader(r.batch)
	if err == nil && !goodCRC(r.batch[:h.length], r.header.mask()) {
		err = errors.New("the bytes of a frame were changed")
	}
	if err == nil && r.frames == 1 && h.length != len(r.batch) {
		err = errors.New("a batch has bytes behind its last frame")
	}
	if err == nil {
		err = r.decode(h)
	}
	if err != nil {
		return nil, r.bad(r.at, err.Error())
	}
	r.batch, r.at, r.frames = r.batch[h.length:], r.at+int64(h.length), r.frames-1
	return &r.record, nil
}

func (r *Reader) decode(h frameHeader) error {
	body := r.batch[frameHeaderSize:h.length]
	r.record = Record{Offset: r.at, Batch: r.number, Stream: h.stream}
	switch h.kind {
	case typeData:
		clear(r.batch[:4]) // the crc belongs to the file, not to the frame
		r.data = SealedFrame{Position: h.sequence, Class: h.class, Raw: r.batch[:h.length:h.length]}
		r.record.Data = &r.data
	case typeOpening:
		o, err := parseOpening(h, body)
		if err != nil {
			return err
		}
		r.record.Opening = o
	case typeRelease:
		if h.sequence == 0 {
			return errors.New("a release of nothing")
		}
		r.record.Release = h.sequence
	case typeEnd:
		if r.frames != 1 {
			return errors.New("frames behind the end of the file")
		}
		copy(r.end[:], body)
		r.record.End = &r.end
		r.ended = true
	}
	return nil
}

// readBatch goes on to the next batch, or to the end of the file.
func (r *Reader) readBatch() error {
	h, found, err := r.headerAt(r.next)
	if err != nil {
		return err
	}
	if !found {
		return r.bad(r.next, "a batch is missing or its header was changed")
	}
	if r.number > 0 && h.number != r.number+1 {
		return r.misnumbered(h.number)
	}
	if int64(h.length) > r.size-r.next {
		return r.bad(r.next, "a batch goes beyond the file")
	}
	if cap(r.scratch) < h.length {
		r.scratch = make([]byte, h.length)
	}
	batch := r.scratch[:h.length]
	if n, err := r.file.ReadAt(batch, r.next); n < len(batch) {
		return fmt.Errorf("%s: %w", r.name, err)
	}
	if h.frames == 0 {
		return r.bad(r.next, "a batch without frames")
	}
	r.number, r.frames = h.number, h.frames
	r.batch, r.at = batch[batchHeaderSize:], r.next+batchHeaderSize
	r.next += int64(padded(h.length))
	return nil
}

func (r *Reader) headerAt(offset int64) (batchHeader, bool, error) {
	var in [batchHeaderSize]byte
	if offset+batchHeaderSize > r.size {
		return batchHeader{}, false, nil
	}
	if n, err := r.file.ReadAt(in[:], offset); n < len(in) {
		return batchHeader{}, false, fmt.Errorf("%s: %w", r.name, err)
	}
	h, found := parseBatchHeader(in[:], r.header.mask())
	return h, found, nil
}

// misnumbered is a good batch in a wrong place; Resync goes on with it.
func (r *Reader) misnumbered(number uint64) error {
	return r.damage(r.next, fmt.Sprintf("batch %d where batch %d was expected", number, r.number+1))
}

// bad decides between the end of what was written, a torn commit, and damage.
// A batch is written when the one before it is durable. So if a later one
// exists, this one was.
func (r *Reader) bad(offset int64, reason string) error {
	inside := r.frames > 0
	start := r.next
	if !inside {
		// What begins here is no good batch; the next could be one block on.
		start += blockSize
	}
	r.batch, r.frames, r.ended = nil, 0, false
	later, err := r.find(start)
	if err != nil {
		return err
	}
	if later >= 0 {
		r.next = later
		return r.damage(offset, reason)
	}
	_, begun, err := r.headerAt(min(offset, r.next))
	if err != nil {
		return err
	}
	r.torn = inside || begun
	r.tornAt = offset
	r.over = true
	return io.EOF
}

// Resync goes on behind a damaged place, at the next batch that is good.
func (r *Reader) Resync() { r.number = 0 }

// find is the offset of the first later batch of this file, or -1.
func (r *Reader) find(from int64) (int64, error) {
	last := r.number
	buffer := make([]byte, 1<<18)
	for at := from; at+batchHeaderSize <= r.size; {
		n, err := r.file.ReadAt(buffer[:min(int64(len(buffer)), r.size-at)], at)
		if err != nil && !errors.Is(err, io.EOF) {
			return -1, fmt.Errorf("%s: %w", r.name, err)
		}
		for i := 0; i+batchHeaderSize <= n; i += blockSize {
			// Only what begins like a batch is worth its checksum.
			if binary.BigEndian.Uint32(buffer[i+4:]) != binary.BigEndian.Uint32([]byte(batchMagic)) {
				continue
			}
			if h, found := parseBatchHeader(buffer[i:n], r.header.mask()); found && h.number > last {
				return at + int64(i), nil
			}
		}
		if n < blockSize {
			break
		}
		at += int64(n / blockSize * blockSize)
	}
	return -1, nil
}
