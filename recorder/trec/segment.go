package trec

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"time"
)

// SegmentType says what a segment is for.
type SegmentType byte

// The types of segments.
const (
	TypeMeta    SegmentType = 'M' // segment 0: the sealed description
	TypeFrames  SegmentType = 'B' // frames
	TypeJournal SegmentType = 'W' // frames of the journal, moved after a crash as they were
)

const (
	segmentMagic = 'S'
	segmentSize  = 42 // of the header of a segment
	aadSize      = 34 // the part of it that the cipher binds: all but the checksums
	maxUint24    = 1<<24 - 1
	maxPosition  = 1<<48 - 1<<25 // so that First+Span fits into six bytes
)

// Segment is the header of a segment.
//
// Frames that are sealed at the same time form a group: one segment of each
// class that has frames, main before strict, with the same First and Span. The
// next group begins at First+Span.
type Segment struct {
	Number uint32 // in the file, from 0
	Type   SegmentType
	Class  Class
	Codec  Codec
	First  Position  // position of the group's first frame; 0 for type M
	Span   uint32    // frames in the group, keyframes not counted
	Count  uint32    // frames of the group in this segment
	Raw    uint32    // bytes of plaintext
	Length uint32    // bytes of payload
	Time   time.Time // UTC; frame times are relative to it

	payloadSum uint32 // CRC32C of the payload
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// encode appends the header without its checksums.
func (s *Segment) encode(dst []byte) []byte {
	dst = append(dst, segmentMagic, byte(s.Type), byte(s.Class), byte(s.Codec))
	dst = binary.BigEndian.AppendUint32(dst, s.Number)
	dst = append(dst, byte(s.First>>40), byte(s.First>>32))
	dst = binary.BigEndian.AppendUint32(dst, uint32(s.First))
	for _, v := range []uint32{s.Span, s.Count, s.Raw, s.Length} {
		dst = append(dst, byte(v>>16), byte(v>>8), byte(v))
	}
	return binary.BigEndian.AppendUint64(dst, uint64(s.Time.UnixMicro()))
}

func uint24(b []byte) uint32 { return uint32(b[0])<<16 | uint32(b[1])<<8 | uint32(b[2]) }

// headerSum binds a header to what stands before it, so that a segment that
// was dropped, swapped or spliced shows without any key. (Only against
// accident: against intent there are the root and the ledger.)
func headerSum(previous Hash, header []byte) uint32 {
	return crc32.Update(crc32.Checksum(previous[:], castagnoli), castagnoli, header[:segmentSize-4])
}

// decodeSegment reads a header and refuses each field that no writer makes.
func decodeSegment(h []byte) (Segment, error) {
	s := Segment{
		Type: SegmentType(h[1]), Class: Class(h[2]), Codec: Codec(h[3]),
		Number: binary.BigEndian.Uint32(h[4:]),
		First:  Position(binary.BigEndian.Uint64(h[6:]) & (1<<48 - 1)),
		Span:   uint24(h[14:]), Count: uint24(h[17:]), Raw: uint24(h[20:]), Length: uint24(h[23:]),
		Time:       time.UnixMicro(int64(binary.BigEndian.Uint64(h[26:]))).UTC(),
		payloadSum: binary.BigEndian.Uint32(h[34:]),
	}
	switch {
	case h[0] != segmentMagic:
		return s, errors.New("no segment begins here")
	case s.Raw > maxPlain || s.Length > maxPayload:
		return s, fmt.Errorf("a segment of %d bytes that expands to %d is larger than any that is written", s.Length, s.Raw)
	case s.Codec > CodecZstd:
		return s, fmt.Errorf("unknown codec %d", s.Codec)
	case s.Time.Year() < 0 || s.Time.Year() > 9999:
		return s, errors.New("a time that no calendar has")
	case s.Raw == 0:
		return s, errors.New("a segment is never empty")
	}
	return s, s.checkType()
}

func (s *Segment) checkType() error {
	switch s.Type {
	case TypeMeta:
		if s.Class != ClassMain || s.First != 0 || s.Span != 0 || s.Count != 0 || s.Raw > maxMeta {
			return errors.New("impossible description")
		}
	case TypeFrames:
		if s.Class != ClassMain && s.Class != ClassStrict {
			return fmt.Errorf("frames of %s", s.Class)
		}
		// Count may be 0 in the main half, when all that it has is a keyframe.
		if s.First == 0 || s.First > maxPosition || s.Span == 0 || s.Count > s.Span || (s.Class == ClassStrict && s.Count == 0) {
			return errors.New("impossible frame count")
		}
	case TypeJournal:
		if s.Class != ClassPlain || s.Codec != CodecNone || s.First == 0 || s.First > maxPosition || s.Span == 0 || s.Count != s.Span || s.Length != s.Raw {
			return errors.New("impossible journal frames")
		}
		return nil
	default:
		return fmt.Errorf("unknown type of segment %q", byte(s.Type))
	}
	if sealed := uint64(s.Raw) + tagSize; s.Length <= tagSize || uint64(s.Length) > sealed || (s.Codec == CodecNone && uint64(s.Length) != sealed) {
		return errors.New("impossible length")
	}
	return nil
}

// order checks what can be said of a segment from its place alone.
type order struct {
	number  uint32
	next    Position // at which the next group begins
	group   Segment
	missing uint32 // frames of the group that are still to come
}

func (o *order) check(s *Segment) error {
	if s.Number != o.number {
		return fmt.Errorf("it calls itself segment %d: segments are missing, repeated or swapped", s.Number)
	}
	if (s.Type == TypeMeta) != (o.number == 0) {
		return fmt.Errorf("segment %d is of type %q", s.Number, byte(s.Type))
	}
	last := uint64(o.group.First) + uint64(o.group.Span) - 1
	if o.missing > 0 {
		if s.Type != TypeFrames || s.Class != ClassStrict || s.First != o.group.First || s.Span != o.group.Span || s.Count != o.missing {
			return fmt.Errorf("the other half of frames %d to %d is missing", o.group.First, last)
		}
		return nil
	}
	if s.Type == TypeMeta {
		return nil
	}
	if s.First != o.next {
		return fmt.Errorf("it begins with frame %d where frame %d was expected", s.First, o.next)
	}
	if s.Class == ClassStrict && s.Count != s.Span {
		return fmt.Errorf("the first half of frames %d to %d is missing", s.First, uint64(s.First)+uint64(s.Span)-1)
	}
	return nil
}

func (o *order) advance(s *Segment) {
	o.number++
	switch {
	case s.Type == TypeMeta:
		o.next = 1
		return
	case o.missing > 0:
		o.missing = 0
	default:
		o.group, o.missing = *s, s.Span-s.Count
	}
	if o.missing == 0 {
		o.next = s.First + Position(s.Span)
	}
}
