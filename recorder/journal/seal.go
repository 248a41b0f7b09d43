package journal

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"time"
)

// Class says under which of its stream's keys a frame is sealed.
type Class byte

// Position is a place in the order of a stream's frames; the first frame is 1.
type Position uint64

// Opening is what stands in clear of a stream.
type Opening struct {
	ID      [16]byte // random
	Name    string   // e.g. the session's
	Public  []byte   // what the caller gave: the envelopes of the keys
	Classes int      // number of keys
	First   Position // of the frame that follows
	Chain   [16]byte // tag of the frame before it; of the first frame: see docs/format-journal.md
}

// firstChain binds every frame of a stream to what its opening says.
func (o *Opening) firstChain() [16]byte {
	h := sha256.New()
	h.Write([]byte("sallyport journal v1 stream\n"))
	h.Write(o.ID[:])
	h.Write([]byte{byte(o.Classes), byte(len(o.Name))})
	h.Write([]byte(o.Name))
	h.Write(binary.BigEndian.AppendUint32(nil, uint32(len(o.Public))))
	h.Write(o.Public)
	return [16]byte(h.Sum(nil))
}

// link is the chain after a frame: its tag, which covers its header, its
// ciphertext and the chain before it, and so stands for all of them. A hash of
// hashes would say no more, and after one lost frame nothing could be opened.
func link(frame []byte) [16]byte { return [16]byte(frame[len(frame)-tagSize:]) }

// newCipher derives the key of one class of one stream. The random id is the
// salt, so that a key that is used for several streams (the node's own) never
// meets the same nonce twice.
func newCipher(key []byte, id [16]byte, class int) (cipher.AEAD, error) {
	if len(key) != KeySize {
		return nil, fmt.Errorf("a stream's key has %d bytes, not %d", KeySize, len(key))
	}
	derived, err := hkdf.Key(sha256.New, key, id[:], fmt.Sprintf("sallyport journal v1 frames of class %d", class), KeySize)
	if err != nil {
		return nil, err
	}
	defer clear(derived)
	block, err := aes.NewCipher(derived)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

// associated is what a frame's tag covers besides the ciphertext, and the
// nonce. It lives in its owner, since what is handed to a cipher escapes.
type associated struct {
	data  [frameHeaderSize + tagSize]byte
	nonce [12]byte
}

func (a *associated) set(header []byte, sequence Position, chain *[16]byte) {
	copy(a.data[:], header[:frameHeaderSize])
	clear(a.data[:4]) // the crc
	copy(a.data[frameHeaderSize:], chain[:])
	binary.BigEndian.PutUint64(a.nonce[4:], uint64(sequence))
}

// SealedFrame is a frame of data as it stands in the journal.
type SealedFrame struct {
	Position Position
	Class    Class
	// Raw is the whole frame, header and sealed bytes, with a crc of zero. It
	// is all that an Opener needs, wherever it was moved.
	Raw []byte
}

// Tag is the stream's chain behind the frame: what an Opening needs whose First is
// the frame after it.
func (f *SealedFrame) Tag() [16]byte { return link(f.Raw) }

// ParseSealed reads a frame that was moved elsewhere. Raw may be longer than
// the frame; rest is what follows it.
func ParseSealed(raw []byte) (f SealedFrame, rest []byte, err error) {
	h, err := parseFrameHeader(raw)
	if err != nil {
		return f, nil, err
	}
	if h.kind != typeData {
		return f, nil, errors.New("this is not a frame of data")
	}
	return SealedFrame{Position: h.sequence, Class: h.class, Raw: raw[:h.length]}, raw[h.length:], nil
}

// Frame is what a sealed frame holds.
type Frame struct {
	Position Position
	Class    Class
	Kind     byte
	Time     time.Time
	Data     []byte // valid until the next call of Open
}

// ErrSealed is returned for a frame of a class whose key was not given.
var ErrSealed = errors.New("sealed: the key of this frame's class was not given")

// Opener opens the frames of one stream, for whoever has its keys.
type Opener struct {
	ciphers []cipher.AEAD
	next    Position
	chain   [16]byte
	with    associated
	buffer  []byte
}

// NewOpener begins at o.First. Keys has one key for each class of the stream; a
// nil key leaves that class sealed.
func NewOpener(o Opening, keys [][]byte) (*Opener, error) {
	if len(keys) != o.Classes {
		return nil, fmt.Errorf("stream %s has %d keys, %d were given", o.Name, o.Classes, len(keys))
	}
	if o.First == 1 && o.Chain != o.firstChain() {
		return nil, fmt.Errorf("the opening of stream %s was changed", o.Name)
	}
	p := &Opener{next: o.First, chain: o.Chain, ciphers: make([]cipher.AEAD, len(keys))}
	for class, key := range keys {
		if key == nil {
			continue
		}
		var err error
		if p.ciphers[class], err = newCipher(key, o.ID, class); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// ErrGap is returned for the first frame behind a gap, which can't be opened
// since its predecessor is missing. Those that follow can.
var ErrGap = errors.New("frames are missing")

// Open opens the next frame. A changed byte in it, or in the tag of the one
// before it, is an error.
func (p *Opener) Open(f SealedFrame) (Frame, error) {
	h, err := parseFrameHeader(f.Raw)
	if err != nil {
		return Frame{}, err
	}
	if h.kind != typeData || h.length != len(f.Raw) || h.sequence < p.next {
		return Frame{}, fmt.Errorf("frame %d where frame %d of the stream was expected", h.sequence, p.next)
	}
	if int(h.class) >= len(p.ciphers) {
		return Frame{}, fmt.Errorf("frame %d is of class %d of %d", h.sequence, h.class, len(p.ciphers))
	}
	expected := p.next
	p.with.set(f.Raw, h.sequence, &p.chain)
	p.next, p.chain = h.sequence+1, link(f.Raw)
	if h.sequence > expected {
		return Frame{}, fmt.Errorf("%w: %d to %d, so frame %d can't be opened", ErrGap, expected, h.sequence-1, h.sequence)
	}
	c := p.ciphers[h.class]
	if c == nil {
		return Frame{Position: h.sequence, Class: h.class}, ErrSealed
	}
	plain, err := c.Open(p.buffer[:0], p.with.nonce[:], f.Raw[frameHeaderSize:], p.with.data[:])
	if err != nil {
		return Frame{}, fmt.Errorf("frame %d: the sealed bytes, or what came before them, were changed", h.sequence)
	}
	p.buffer = plain
	return Frame{Position: h.sequence, Class: h.class, Kind: plain[0],
		Time: time.UnixMicro(int64(binary.BigEndian.Uint64(plain[1:]))).UTC(), Data: plain[sealedPrefix:]}, nil
}
