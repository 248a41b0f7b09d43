package trec

import (
	"errors"
	"fmt"
	"runtime"
	"sync"

	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"
)

// Codec says how the plaintext of a segment is compressed.
type Codec byte

// The codecs. Values are part of the format.
const (
	CodecNone Codec = 0
	CodecS2   Codec = 1 // one S2 block, not a stream
	CodecZstd Codec = 2 // one Zstandard frame (RFC 8878) without a dictionary
)

// Effort is how hard a writer compresses a segment. A segment that would not
// shrink is stored as it is.
type Effort byte

// The efforts. Throughputs are in docs/format-recording.md.
const (
	EffortBest Effort = iota // zstd, for the pace of people
	EffortFast               // zstd at its fastest
	EffortBulk               // S2, for bulk output
	EffortNone               // nothing, for what is known not to shrink
)

// smallest is the size below which compressing is not tried.
const smallest = 48

// smallSegment is the size up to which EffortBest takes the slowest level.
const smallSegment = 64 << 10

// Codecs compresses and decompresses. One serves all recordings of a process,
// so that a session needs no encoder of its own. Safe for concurrent use.
type Codecs struct {
	best, better, fast *zstd.Encoder
	buffers            sync.Pool // *[]byte
}

// buffer lends a buffer for one call; release wipes it and takes it back.
func (c *Codecs) buffer() *[]byte {
	if b, ok := c.buffers.Get().(*[]byte); ok {
		return b
	}
	return new([]byte)
}

func (c *Codecs) release(b *[]byte) {
	clear(*b)
	*b = (*b)[:0]
	c.buffers.Put(b)
}

// NewCodecs makes the shared encoders. Each that is busy takes some 5 MB;
// parallel bounds how many are (0: the number of processors).
func NewCodecs(parallel int) (*Codecs, error) {
	if parallel <= 0 {
		parallel = runtime.GOMAXPROCS(0)
	}
	encoder := func(level zstd.EncoderLevel) (*zstd.Encoder, error) {
		return zstd.NewWriter(nil, zstd.WithEncoderLevel(level), zstd.WithEncoderConcurrency(parallel),
			zstd.WithEncoderCRC(false), zstd.WithWindowSize(512<<10), zstd.WithLowerEncoderMem(true))
	}
	best, err := encoder(zstd.SpeedBestCompression)
	if err != nil {
		return nil, fmt.Errorf("zstd: %w", err)
	}
	better, err := encoder(zstd.SpeedBetterCompression)
	if err != nil {
		return nil, fmt.Errorf("zstd: %w", err)
	}
	fast, err := encoder(zstd.SpeedFastest)
	if err != nil {
		return nil, fmt.Errorf("zstd: %w", err)
	}
	return &Codecs{best: best, better: better, fast: fast}, nil
}

// newZstd makes a decoder that never grows its output beyond the capacity
// that it is given, and takes no frame whose window is larger than a segment.
func newZstd() (*zstd.Decoder, error) {
	d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxMemory(maxPlain), zstd.WithDecoderMaxWindow(2<<20), zstd.WithDecodeAllCapLimit(true))
	if err != nil {
		return nil, fmt.Errorf("zstd: %w", err)
	}
	return d, nil
}

// compress writes plain to dst, which it overwrites, and says how. CodecNone
// returns plain itself.
func (c *Codecs) compress(dst, plain []byte, e Effort) ([]byte, Codec) {
	if len(plain) < smallest {
		e = EffortNone
	}
	codec := CodecZstd
	switch e {
	case EffortBest:
		// A small segment is what ten seconds of a person's work make: there are
		// many, and they gain some 6 % for time that nobody waits for.
		encoder := c.best
		if len(plain) > smallSegment {
			encoder = c.better
		}
		dst = encoder.EncodeAll(plain, dst[:0])
	case EffortFast:
		dst = c.fast.EncodeAll(plain, dst[:0])
	case EffortBulk:
		if n := s2.MaxEncodedLen(len(plain)); cap(dst) < n {
			dst = make([]byte, n)
		}
		dst, codec = s2.Encode(dst[:cap(dst)], plain), CodecS2
	default:
		return plain, CodecNone
	}
	if len(dst) >= len(plain) {
		clear(dst)
		return plain, CodecNone
	}
	return dst, codec
}

var errExpand = errors.New("it does not decompress to the size that it declares")

// decompress expands to exactly size bytes, which the caller has bounded, into
// dst, which it overwrites. With CodecNone it returns packed itself.
func decompress(d *zstd.Decoder, dst, packed []byte, codec Codec, size uint32) ([]byte, error) {
	if codec == CodecNone {
		if len(packed) != int(size) {
			return nil, errExpand
		}
		return packed, nil
	}
	if size > maxPlain {
		return nil, errExpand
	}
	if cap(dst) < int(size) {
		dst = make([]byte, 0, size)
	}
	// A capacity beyond size would let the decoder go further than declared.
	dst = dst[:0:size]
	var err error
	switch codec {
	case CodecS2:
		var n int
		if n, err = s2.DecodedLen(packed); err != nil || n != int(size) {
			return nil, errExpand
		}
		dst, err = s2.Decode(dst[:size], packed)
	case CodecZstd:
		dst, err = d.DecodeAll(packed, dst)
	default:
		return nil, fmt.Errorf("unknown codec %d", codec)
	}
	if err != nil || len(dst) != int(size) {
		return nil, errExpand
	}
	return dst, nil
}
