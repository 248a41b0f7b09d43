package trec

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"
)

// The frame layer: what is inside the plaintext of a segment of type B.

// half collects the frames of one class of the open group, in columns: what is
// alike stands together, which compresses better than frame by frame.
type half struct {
	data      []byte
	positions []byte
	kinds     []byte
	lengths   []byte
	times     []byte
	count     uint32   // of frames, keyframes not counted
	position  Position // of the last frame
	micros    int64    // time of the last frame
}

func (h *half) columns() []*[]byte {
	return []*[]byte{&h.data, &h.positions, &h.kinds, &h.lengths, &h.times}
}

func (h *half) add(position Position, k Kind, micros int64, data []byte) {
	h.grow(len(data))
	h.data = append(h.data, data...)
	h.positions = binary.AppendUvarint(h.positions, uint64(position-h.position))
	h.kinds = append(h.kinds, byte(k))
	h.lengths = binary.AppendUvarint(h.lengths, uint64(len(data)))
	h.times = binary.AppendVarint(h.times, micros-h.micros)
	h.position, h.micros = position, micros
	if k != KindKeyframe {
		h.count++
	}
}

// size is what the columns hold.
func (h *half) size() int {
	return len(h.data) + len(h.positions) + len(h.kinds) + len(h.lengths) + len(h.times)
}

// encode appends the plaintext of the segment.
func (h *half) encode(dst []byte) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(h.kinds)))
	dst = binary.AppendUvarint(dst, uint64(len(h.data)))
	for _, column := range h.columns() {
		dst = append(dst, *column...)
	}
	return dst
}

// reset forgets the frames: what was typed does not stay in memory, and a
// burst does not raise what an idle session keeps.
func (h *half) reset() {
	for _, column := range h.columns() {
		clear(*column)
		if cap(*column) > 32<<10 && len(*column) < cap(*column)/4 {
			*column = nil
		}
		*column = (*column)[:0]
	}
	h.count = 0
}

// grow makes room for n bytes of data in a buffer that ends at the size of a
// full segment, where append would go on doubling.
func (h *half) grow(n int) {
	need := len(h.data) + n
	if need <= cap(h.data) {
		return
	}
	size := max(4<<10, cap(h.data)+cap(h.data)/2)
	if size > SegmentTarget {
		size = SegmentTarget + 4<<10
	}
	h.data = append(make([]byte, 0, max(size, need)), h.data...)
}

// decoder walks through the plaintext of one segment.
type decoder struct {
	data      []byte
	positions []byte
	kinds     []byte
	lengths   []byte
	times     []byte
	strict    bool
	begun     bool
	keyframe  bool // the last frame was one
	position  Position
	end       Position // behind the group
	micros    int64
}

var errFrame = errors.New("the frames of a segment are malformed")

// newDecoder finds the columns.
func newDecoder(s *Segment, plain []byte) (d decoder, err error) {
	d = decoder{strict: s.Class == ClassStrict, position: s.First, end: s.First + Position(s.Span), micros: s.Time.UnixMicro()}
	v := varints{rest: plain}
	count := v.unsigned(uint64(len(plain)))
	size := v.unsigned(uint64(len(plain)))
	if v.bad || size > uint64(len(v.rest)) {
		return d, errFrame
	}
	d.data, v.rest = v.rest[:size], v.rest[size:]
	d.positions = v.column(count)
	if v.bad || count > uint64(len(v.rest)) {
		return d, errFrame
	}
	d.kinds, v.rest = v.rest[:count], v.rest[count:]
	d.lengths = v.column(count)
	d.times = v.column(count)
	if v.bad || len(v.rest) != 0 {
		return d, errFrame
	}
	frames := uint32(0)
	for _, k := range d.kinds {
		if Kind(k) != KindKeyframe {
			frames++
		}
	}
	if frames != s.Count {
		return d, fmt.Errorf("%w: %d frames where %d are declared", errFrame, frames, s.Count)
	}
	return d, nil
}

// next returns the next frame; ok is false after the last. Data points into
// the plaintext.
func (d *decoder) next() (e Entry, ok bool, err error) {
	if len(d.kinds) == 0 {
		if len(d.data) != 0 {
			return e, false, fmt.Errorf("%w: bytes to spare", errFrame)
		}
		return e, false, nil
	}
	// Each column has as many numbers as there are kinds: newDecoder has looked.
	delta, n := binary.Uvarint(d.positions)
	d.positions = d.positions[n:]
	length, n := binary.Uvarint(d.lengths)
	d.lengths = d.lengths[n:]
	micros, n := binary.Varint(d.times)
	d.times = d.times[n:]
	e.Kind, d.kinds = Kind(d.kinds[0]), d.kinds[1:]
	isKeyframe := e.Kind == KindKeyframe
	if length > MaxFrame || length > uint64(len(d.data)) || (isKeyframe && (d.strict || length > MaxKeyframe)) {
		return e, false, fmt.Errorf("%w: length", errFrame)
	}
	// Two frames never share a position, but for a keyframe and what follows it.
	if delta > uint64(d.end-d.position) || (delta == 0 && d.begun && !d.keyframe) || (!isKeyframe && d.position+Position(delta) == d.end) {
		return e, false, fmt.Errorf("%w: position", errFrame)
	}
	d.position += Position(delta)
	d.micros += micros
	d.begun, d.keyframe = true, isKeyframe
	e.Position, e.Time, e.Strict = d.position, time.UnixMicro(d.micros).UTC(), d.strict
	e.Data, d.data = d.data[:length], d.data[length:]
	return e, true, nil
}

// EncodeFiltered is the data of a filtered frame: how many bytes of the frame
// before were withheld from the person, and by which rule.
func EncodeFiltered(bytes uint64, rule string) []byte {
	return append(binary.AppendUvarint(nil, bytes), rule...)
}

// DecodeFiltered reads the data of a filtered frame.
func DecodeFiltered(data []byte) (bytes uint64, rule string, err error) {
	bytes, n := binary.Uvarint(data)
	if n <= 0 {
		return 0, "", errors.New("a filtered frame begins with a number")
	}
	return bytes, string(data[n:]), nil
}
