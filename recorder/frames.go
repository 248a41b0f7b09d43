package recorder

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"
)

// The frame layer: what is inside the payload of a data block.

// FrameDecoder walks through the plaintext of one data block.
type FrameDecoder struct {
	rest     []byte
	left     uint32
	position Position
	last     Position
	micros   int64
	begun    bool
}

// NewFrameDecoder decodes the plaintext of the block that i describes.
func NewFrameDecoder(i BlockInfo, plain []byte) FrameDecoder {
	return FrameDecoder{rest: plain, left: i.Count, position: i.First,
		last: i.First + Position(i.Span) - 1, micros: i.Time.UnixMicro()}
}

var errFrame = errors.New("the frames of a block are malformed")

// Next returns the next frame; ok is false after the last. Data points into
// the plaintext.
func (d *FrameDecoder) Next() (e Entry, ok bool, err error) {
	if d.left == 0 {
		if len(d.rest) != 0 {
			return e, false, fmt.Errorf("%w: bytes to spare", errFrame)
		}
		return e, false, nil
	}
	delta, n := binary.Uvarint(d.rest)
	if n <= 0 || delta > uint64(d.last-d.position) || (d.begun && delta == 0) || len(d.rest) == n {
		return e, false, fmt.Errorf("%w: position", errFrame)
	}
	d.begun = true
	e.Kind = Kind(d.rest[n])
	d.rest = d.rest[n+1:]
	micros, n := binary.Varint(d.rest)
	if n <= 0 {
		return e, false, fmt.Errorf("%w: time", errFrame)
	}
	d.rest = d.rest[n:]
	length, n := binary.Uvarint(d.rest)
	if n <= 0 || length > MaxFrame || length > uint64(len(d.rest)-n) {
		return e, false, fmt.Errorf("%w: length", errFrame)
	}
	d.position += Position(delta)
	d.micros += micros
	d.left--
	e.Position, e.Time = d.position, time.UnixMicro(d.micros).UTC()
	e.Data, d.rest = d.rest[n:n+int(length)], d.rest[n+int(length):]
	return e, true, nil
}
