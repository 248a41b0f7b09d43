package journal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"time"
)

const (
	fileMagic       = "SJRNL\x00\x00\x01" // the last byte is the version
	batchMagic      = "SJB\x01"
	blockSize       = 4096 // what a disk writes or does not write, and the page of the kernel's cache
	batchHeaderSize = 32
	frameHeaderSize = 24
	tagSize         = 16
	sealedPrefix    = 9 // kind and time
	frameOverhead   = frameHeaderSize + sealedPrefix + tagSize
	maxFileSize     = 1 << 30
	// maxBatchLength bounds what a reader allocates.
	maxBatchLength = 8 << 20
)

// The types of frames.
const (
	typeData    = 'd'
	typeOpening = 'o'
	typeRelease = 'r'
	typeEnd     = 'e'
)

// padded is n rounded up to whole blocks.
func padded(n int) int { return (n + blockSize - 1) &^ (blockSize - 1) }

// castagnoli makes the table once; the standard library keeps it.
func castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) }

// FileHeader is the public description at the start of a journal's file.
type FileHeader struct {
	Number   uint64   // of the file, as in its name
	ID       [16]byte // random, new for each use of the file
	Previous [16]byte // id of the file before it; zero for the first since a start
	Mode     Mode
	Created  time.Time // when the file was made ready, not when it was first used
	Node     string
}

func (h *FileHeader) mask() uint32 { return binary.BigEndian.Uint32(h.ID[:4]) }

// encode fills one block: magic, crc32c of all that follows it, number, id,
// previous id, mode, time, length of the node's id, the id, zeroes.
func (h *FileHeader) encode() []byte {
	out := make([]byte, blockSize)
	copy(out, fileMagic)
	binary.BigEndian.PutUint64(out[12:], h.Number)
	copy(out[20:36], h.ID[:])
	copy(out[36:52], h.Previous[:])
	out[52] = byte(h.Mode)
	binary.BigEndian.PutUint64(out[53:], uint64(h.Created.UnixMicro()))
	out[61] = byte(len(h.Node))
	copy(out[62:], h.Node)
	binary.BigEndian.PutUint32(out[8:], crc32.Checksum(out[12:], castagnoli()))
	return out
}

func parseFileHeader(block []byte) (FileHeader, error) {
	var h FileHeader
	if len(block) < blockSize {
		return h, errors.New("the file ends inside its header")
	}
	block = block[:blockSize]
	if string(block[:len(fileMagic)]) != fileMagic {
		return h, errors.New("this is not a journal of this version")
	}
	if binary.BigEndian.Uint32(block[8:]) != crc32.Checksum(block[12:], castagnoli()) {
		return h, errors.New("the file's header was changed")
	}
	h.Number = binary.BigEndian.Uint64(block[12:])
	copy(h.ID[:], block[20:])
	copy(h.Previous[:], block[36:])
	h.Mode = Mode(block[52])
	h.Created = time.UnixMicro(int64(binary.BigEndian.Uint64(block[53:]))).UTC()
	h.Node = string(block[62 : 62+int(block[61])])
	if h.Mode > Written {
		return h, fmt.Errorf("unknown mode %d", h.Mode)
	}
	return h, nil
}

// batchHeader begins what was written with one call and made durable with one.
type batchHeader struct {
	length int // with the header, without padding
	frames uint32
	number uint64 // counts up by one through all files of a run
	time   time.Time
}

func (b *batchHeader) put(out []byte, mask uint32) {
	copy(out[4:], batchMagic)
	binary.BigEndian.PutUint32(out[8:], uint32(b.length))
	binary.BigEndian.PutUint32(out[12:], b.frames)
	binary.BigEndian.PutUint64(out[16:], b.number)
	binary.BigEndian.PutUint64(out[24:], uint64(b.time.UnixMicro()))
	binary.BigEndian.PutUint32(out, mask^crc32.Checksum(out[4:batchHeaderSize], castagnoli()))
}

// parseBatchHeader reports whether a batch of the file with this mask begins here.
func parseBatchHeader(in []byte, mask uint32) (batchHeader, bool) {
	if len(in) < batchHeaderSize || string(in[4:8]) != batchMagic ||
		binary.BigEndian.Uint32(in) != mask^crc32.Checksum(in[4:batchHeaderSize], castagnoli()) {
		return batchHeader{}, false
	}
	b := batchHeader{
		length: int(binary.BigEndian.Uint32(in[8:])),
		frames: binary.BigEndian.Uint32(in[12:]),
		number: binary.BigEndian.Uint64(in[16:]),
		time:   time.UnixMicro(int64(binary.BigEndian.Uint64(in[24:]))).UTC(),
	}
	return b, b.length >= batchHeaderSize+frameHeaderSize && b.length <= maxBatchLength && b.number > 0
}

// frameHeader is what stands in clear before the body of a frame.
type frameHeader struct {
	length   int // of the whole frame
	stream   uint32
	kind     byte // one of the types
	class    Class
	sequence Position
}

// put writes the header with a crc of zero, as it is in the associated data.
func (h *frameHeader) put(out []byte) {
	binary.BigEndian.PutUint32(out, 0)
	binary.BigEndian.PutUint32(out[4:], uint32(h.length))
	binary.BigEndian.PutUint32(out[8:], h.stream)
	out[12], out[13], out[14], out[15] = h.kind, byte(h.class), 0, 0
	binary.BigEndian.PutUint64(out[16:], uint64(h.sequence))
}

func parseFrameHeader(in []byte) (frameHeader, error) {
	if len(in) < frameHeaderSize {
		return frameHeader{}, errors.New("a frame is cut short")
	}
	h := frameHeader{
		length:   int(binary.BigEndian.Uint32(in[4:])),
		stream:   binary.BigEndian.Uint32(in[8:]),
		kind:     in[12],
		class:    Class(in[13]),
		sequence: Position(binary.BigEndian.Uint64(in[16:])),
	}
	if h.length < frameHeaderSize || h.length > len(in) {
		return h, fmt.Errorf("a frame of %d bytes where there is room for %d", h.length, len(in))
	}
	if in[14] != 0 || in[15] != 0 {
		return h, errors.New("a frame's header has bytes that no writer sets")
	}
	body := h.length - frameHeaderSize
	switch h.kind {
	case typeData:
		if body < sealedPrefix+tagSize || body > sealedPrefix+tagSize+MaxFrame || h.sequence == 0 || h.class >= MaxClasses {
			return h, errors.New("impossible frame of data")
		}
	case typeOpening:
		if h.sequence == 0 || h.class != 0 {
			return h, errors.New("impossible opening of a stream")
		}
	case typeRelease:
		if body != 0 || h.class != 0 {
			return h, errors.New("impossible release of a stream")
		}
	case typeEnd:
		if body != 16 || h.stream != 0 || h.class != 0 {
			return h, errors.New("impossible end of a file")
		}
	default:
		return h, fmt.Errorf("unknown type of frame %q", h.kind)
	}
	return h, nil
}

// setCRC and maskCRC are two steps because whoever makes a frame does not know
// yet in which file it will stand.
func setCRC(frame []byte) {
	binary.BigEndian.PutUint32(frame, crc32.Checksum(frame[4:], castagnoli()))
}

func maskCRC(frame []byte, mask uint32) {
	binary.BigEndian.PutUint32(frame, mask^binary.BigEndian.Uint32(frame))
}

func goodCRC(frame []byte, mask uint32) bool {
	return binary.BigEndian.Uint32(frame) == mask^crc32.Checksum(frame[4:], castagnoli())
}

func openingSize(name, public int) int { return frameHeaderSize + 16 + 16 + 1 + 1 + name + 4 + public }

// appendOpening writes an opening frame that is good in the file with this mask.
func appendOpening(out []byte, stream uint32, next Position, o *Opening, mask uint32) []byte {
	start := len(out)
	h := frameHeader{length: openingSize(len(o.Name), len(o.Public)), stream: stream, kind: typeOpening, sequence: next}
	var header [frameHeaderSize]byte
	h.put(header[:])
	out = append(out, header[:]...)
	out = append(out, o.ID[:]...)
	out = append(out, o.Chain[:]...)
	out = append(out, byte(o.Classes), byte(len(o.Name)))
	out = append(out, o.Name...)
	out = binary.BigEndian.AppendUint32(out, uint32(len(o.Public)))
	out = append(out, o.Public...)
	setCRC(out[start:])
	maskCRC(out[start:], mask)
	return out
}

func parseOpening(h frameHeader, body []byte) (*Opening, error) {
	short := errors.New("an opening is cut short")
	if len(body) < 16+16+2 {
		return nil, short
	}
	o := &Opening{First: h.sequence}
	copy(o.ID[:], body)
	copy(o.Chain[:], body[16:])
	o.Classes = int(body[32])
	name := int(body[33])
	body = body[34:]
	if len(body) < name+4 {
		return nil, short
	}
	o.Name = string(body[:name])
	body = body[name:]
	if n := binary.BigEndian.Uint32(body); n > MaxPublic || int(n) != len(body)-4 {
		return nil, short
	}
	o.Public = append([]byte{}, body[4:]...)
	if o.Classes < 1 || o.Classes > MaxClasses || name == 0 {
		return nil, errors.New("an opening without a name or keys")
	}
	return o, nil
}
