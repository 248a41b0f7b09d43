package recorder

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"
)

// The frame layer: what is inside the payload of a data block.

// Entry is a frame with its place, as it is read back.
type Entry struct {
	Position Position
	Kind     Kind
	Time     time.Time
	Data     []byte
}

// frameOverhead is what a frame counts for beside its data while it is
// pending, so that empty frames are bounded too.
const frameOverhead = 16

// group collects the frames of one pair of blocks, already encoded.
type group struct {
	first        Position
	span         uint32
	base         int64 // µs since 1970, the blocks' time
	bytes        int64 // as Append counts them, see frameOverhead
	main, strict part
}

type part struct {
	data     []byte
	count    uint32
	position Position // of the last frame
	micros   int64    // time of the last frame
}

func (g *group) reset(first Position, base int64) {
	g.first, g.span, g.base, g.bytes = first, 0, base, 0
	for _, p := range []*part{&g.main, &g.strict} {
		*p = part{data: p.data[:0], position: first, micros: base}
	}
}

func (g *group) size() int { return len(g.main.data) + len(g.strict.data) }

func (g *group) add(position Position, k Kind, micros int64, data []byte, strict bool) {
	p := &g.main
	if strict {
		p = &g.strict
	}
	p.data = binary.AppendUvarint(p.data, uint64(position-p.position))
	p.data = append(p.data, byte(k))
	p.data = binary.AppendVarint(p.data, micros-p.micros)
	p.data = binary.AppendUvarint(p.data, uint64(len(data)))
	p.data = append(p.data, data...)
	p.position, p.micros = position, micros
	p.count++
	g.span++
	g.bytes += int64(len(data)) + frameOverhead
}

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

// EncodeExit is the data of an exit frame: the status, or, when signal is not
// empty, 's' and the signal's name without SIG (RFC 4254 section 6.10).
func EncodeExit(status uint32, signal string) []byte {
	if signal != "" {
		return append([]byte{'s'}, signal...)
	}
	return binary.BigEndian.AppendUint32(nil, status)
}

// DecodeExit reads the data of an exit frame. A leading 's' always means a
// signal: as a status those bytes would be above 0x73000000, which no exit
// status reaches (POSIX keeps eight bits).
func DecodeExit(data []byte) (status uint32, signal string, err error) {
	if len(data) > 1 && data[0] == 's' {
		return 0, string(data[1:]), nil
	}
	if len(data) != 4 {
		return 0, "", errors.New("an exit frame has four bytes or a signal")
	}
	return binary.BigEndian.Uint32(data), "", nil
}

// Window is the content of a resize frame; Width and Height are in pixels.
type Window struct {
	Columns, Rows, Width, Height uint32
}

// EncodeResize is the data of a resize frame.
func EncodeResize(w Window) []byte {
	data := make([]byte, 0, 16)
	for _, v := range []uint32{w.Columns, w.Rows, w.Width, w.Height} {
		data = binary.BigEndian.AppendUint32(data, v)
	}
	return data
}

// DecodeResize reads the data of a resize frame.
func DecodeResize(data []byte) (Window, error) {
	if len(data) != 16 {
		return Window{}, errors.New("a resize frame has sixteen bytes")
	}
	return Window{binary.BigEndian.Uint32(data), binary.BigEndian.Uint32(data[4:]),
		binary.BigEndian.Uint32(data[8:]), binary.BigEndian.Uint32(data[12:])}, nil
}
