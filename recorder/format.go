package recorder

import (
	"bufio"
	"bytes"
	"crypto/cipher"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"time"
)

// The block layer: framing, hash chain and signatures. It is the same for
// recordings and ledgers and needs no secret to read.

// FileMagic opens every file: seven letters and the version of the format.
const FileMagic = "SPREC\x00\x00\x01"

const (
	headerSize    = 44
	signatureSize = ed25519.SignatureSize
	tagSize       = 16
	// blockTarget is the plaintext size at which a block is closed: large
	// enough that the signature (14 µs) is noise, small enough to hold in memory.
	blockTarget = 256 << 10
	// maxPayload bounds what a reader allocates. The largest block is one
	// frame of MaxFrame bytes after a block that was almost full.
	maxPayload = blockTarget + MaxFrame + 64 + tagSize
	// maxHeaderPayload bounds the header block: JSON and two age envelopes.
	maxHeaderPayload = 64 << 10
	signatureContext = "sallyport block v1\n"
)

// BlockType says what a block is for.
type BlockType byte

// The types of blocks.
const (
	BlockHeader BlockType = 'H' // the first block: public description and envelopes
	BlockMeta   BlockType = 'M' // the second block of a recording: the sealed Meta
	BlockData   BlockType = 'B' // frames
	BlockEnd    BlockType = 'E' // the last block of a recording
)

// Class says under which key a block's payload is sealed.
type Class byte

// The classes of blocks.
const (
	ClassPlain  Class = 0 // not sealed
	ClassMain   Class = 1 // under the session's key
	ClassStrict Class = 2 // under the session's key for typed input
)

// BlockInfo is the fixed header of a block.
//
// Frames that belong together form a group: one block of each class that has
// frames, the main block first. First and Span are the same in both, and the
// next group begins at First+Span, so order and completeness can be checked
// without any key.
type BlockInfo struct {
	Type     BlockType
	Class    Class
	Sequence uint64    // of the block in the file, from 0
	First    Position  // position of the group's first frame; 0 for H, M and E
	Span     uint32    // frames in the group
	Count    uint32    // frames in this block
	Length   uint32    // bytes of payload
	Time     time.Time // when the block was begun; frame times are relative to it
}

func (b *BlockInfo) encode(dst []byte) []byte {
	dst = append(dst, 'S', 'P', 'B', byte(b.Type), byte(b.Class), 0, 0, 0)
	dst = binary.BigEndian.AppendUint64(dst, b.Sequence)
	dst = binary.BigEndian.AppendUint64(dst, uint64(b.First))
	dst = binary.BigEndian.AppendUint32(dst, b.Span)
	dst = binary.BigEndian.AppendUint32(dst, b.Count)
	dst = binary.BigEndian.AppendUint32(dst, b.Length)
	return binary.BigEndian.AppendUint64(dst, uint64(b.Time.UnixMicro()))
}

// decodeInfo reads a fixed header and refuses every field that no writer makes.
func decodeInfo(h []byte) (BlockInfo, error) {
	b := BlockInfo{
		Type: BlockType(h[3]), Class: Class(h[4]),
		Sequence: binary.BigEndian.Uint64(h[8:]),
		First:    Position(binary.BigEndian.Uint64(h[16:])),
		Span:     binary.BigEndian.Uint32(h[24:]),
		Count:    binary.BigEndian.Uint32(h[28:]),
		Length:   binary.BigEndian.Uint32(h[32:]),
		Time:     time.UnixMicro(int64(binary.BigEndian.Uint64(h[36:]))).UTC(),
	}
	if string(h[:3]) != "SPB" || h[5] != 0 || h[6] != 0 || h[7] != 0 {
		return b, errors.New("no block begins here")
	}
	limit := uint32(maxPayload)
	switch b.Type {
	case BlockHeader, BlockEnd:
		limit = maxHeaderPayload
		if b.Class != ClassPlain {
			return b, errors.New("a header or end block is never sealed")
		}
	case BlockMeta:
		limit = maxHeaderPayload
		if b.Class != ClassMain {
			return b, errors.New("a description block is always sealed")
		}
	case BlockData:
		if b.Class > ClassStrict {
			return b, fmt.Errorf("unknown class %d", b.Class)
		}
		if b.First == 0 || b.Count == 0 || b.Count > b.Span {
			return b, errors.New("impossible frame count")
		}
	default:
		return b, fmt.Errorf("unknown block type %q", byte(b.Type))
	}
	if b.Type != BlockData && (b.First != 0 || b.Span != 0 || b.Count != 0) {
		return b, errors.New("frames in a block that holds none")
	}
	if b.Length > limit {
		return b, fmt.Errorf("a block of %d bytes is larger than any that is written", b.Length)
	}
	return b, nil
}

// Block is one block as it stands in a file.
type Block struct {
	BlockInfo
	Offset    int64  // of the block's first byte in the file
	Payload   []byte // valid until the next call of Next
	Previous  [32]byte
	Chain     [32]byte // SHA-256(Previous || header || Payload)
	Signature [signatureSize]byte
	raw       [headerSize]byte
}

// Size is the length of the whole block in the file.
func (b *Block) Size() int64 { return headerSize + int64(len(b.Payload)) + signatureSize }

// SignedBy reports whether the block's signature is by key.
func (b *Block) SignedBy(key ed25519.PublicKey) bool {
	if len(key) != ed25519.PublicKeySize {
		return false
	}
	return ed25519.Verify(key, signedMessage(nil, &b.Chain), b.Signature[:])
}

func signedMessage(dst []byte, chain *[32]byte) []byte {
	dst = append(dst[:0], signatureContext...)
	return append(dst, chain[:]...)
}

// FormatError says where a file stops being readable.
type FormatError struct {
	Offset   int64  // of the block, or of the end of the last good one
	Sequence uint64 // number of the block that was expected
	Reason   string
	Cut      bool // the file ends inside the block: torn, cut off, or still being written
}

func (e *FormatError) Error() string {
	return fmt.Sprintf("block %d at byte %d: %s", e.Sequence, e.Offset, e.Reason)
}

// BlockReader reads blocks in order and computes the chain. It checks the
// structure, not the signatures, and holds one block in memory.
type BlockReader struct {
	r        *bufio.Reader
	offset   int64
	sequence uint64
	chain    [32]byte
	hash     hash.Hash
	block    Block
	payload  []byte
	next     Position // first position of the next group
	group    BlockInfo
	missing  uint32 // frames of the current group that are still to come
	ended    bool
}

// NewBlockReader begins to read a recording or a ledger.
func NewBlockReader(r io.Reader) (*BlockReader, error) {
	b := &BlockReader{r: bufio.NewReaderSize(r, 64<<10), hash: sha256.New(), next: 1}
	var magic [len(FileMagic)]byte
	n, err := io.ReadFull(b.r, magic[:])
	if err != nil && !isEnd(err) {
		return nil, err
	}
	if string(magic[:n]) != FileMagic[:n] {
		return nil, &FormatError{Reason: "this is not a recording or ledger of this version"}
	}
	if n < len(magic) {
		return nil, &FormatError{Reason: "the file ends inside its first bytes", Cut: true}
	}
	b.offset = int64(len(magic))
	b.chain = sha256.Sum256(magic[:])
	return b, nil
}

func isEnd(err error) bool { return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) }

// Offset is where the next block begins.
func (b *BlockReader) Offset() int64 { return b.offset }

// Sequence is the number of the next block.
func (b *BlockReader) Sequence() uint64 { return b.sequence }

// Chain is the hash of the last block that was read.
func (b *BlockReader) Chain() [32]byte { return b.chain }

// NextFrame is the position at which the next group begins.
func (b *BlockReader) NextFrame() Position { return b.next }

// MidGroup reports whether blocks of the last group are still to come.
func (b *BlockReader) MidGroup() bool { return b.missing > 0 }

func (b *BlockReader) fail(cut bool, format string, args ...any) error {
	return &FormatError{Offset: b.offset, Sequence: b.sequence, Reason: fmt.Sprintf(format, args...), Cut: cut}
}

// Next returns the next block, io.EOF at the end of the file on a block
// boundary, or a *FormatError. The block is valid until the next call.
func (b *BlockReader) Next() (*Block, error) {
	k := &b.block
	n, err := io.ReadFull(b.r, k.raw[:])
	if n == 0 && errors.Is(err, io.EOF) {
		return nil, io.EOF
	}
	if err != nil && !isEnd(err) {
		return nil, err
	}
	if b.ended {
		return nil, b.fail(false, "there are bytes after the signed end")
	}
	if n < headerSize {
		return nil, b.fail(true, "the file ends inside a block")
	}
	if k.BlockInfo, err = decodeInfo(k.raw[:]); err != nil {
		return nil, b.fail(false, "%v", err)
	}
	if err := b.order(&k.BlockInfo); err != nil {
		return nil, err
	}
	if cap(b.payload) < int(k.Length) {
		b.payload = make([]byte, k.Length)
	}
	k.Payload = b.payload[:k.Length]
	if _, err := io.ReadFull(b.r, k.Payload); isEnd(err) {
		return nil, b.fail(true, "the file ends inside a block")
	} else if err != nil {
		return nil, err
	}
	if _, err := io.ReadFull(b.r, k.Signature[:]); isEnd(err) {
		return nil, b.fail(true, "the file ends inside a block")
	} else if err != nil {
		return nil, err
	}
	b.advance(k)
	return k, nil
}

// order checks what can be said of a block from its place alone.
func (b *BlockReader) order(i *BlockInfo) error {
	if i.Sequence != b.sequence {
		return b.fail(false, "it calls itself block %d: blocks are missing, repeated or swapped", i.Sequence)
	}
	if (i.Type == BlockHeader) != (b.sequence == 0) {
		return b.fail(false, "block %d is of type %q", i.Sequence, byte(i.Type))
	}
	if i.Type == BlockMeta && b.sequence != 1 {
		return b.fail(false, "the description is not the second block")
	}
	if b.missing > 0 {
		if i.Type != BlockData || i.Class != ClassStrict || i.First != b.group.First || i.Span != b.group.Span || i.Count != b.missing {
			return b.fail(false, "the other half of frames %d to %d is missing", b.group.First, uint64(b.group.First)+uint64(b.group.Span)-1)
		}
		return nil
	}
	if i.Type != BlockData {
		return nil
	}
	if i.First != b.next {
		return b.fail(false, "it begins with frame %d where frame %d was expected", i.First, b.next)
	}
	if i.Class != ClassMain && i.Count != i.Span {
		return b.fail(false, "the first half of frames %d to %d is missing", i.First, uint64(i.First)+uint64(i.Span)-1)
	}
	return nil
}

func (b *BlockReader) advance(k *Block) {
	k.Offset, k.Previous = b.offset, b.chain
	b.hash.Reset()
	b.hash.Write(b.chain[:])
	b.hash.Write(k.raw[:])
	b.hash.Write(k.Payload)
	b.hash.Sum(b.chain[:0])
	k.Chain = b.chain
	b.offset += k.Size()
	b.sequence++
	switch {
	case k.Type == BlockEnd:
		b.ended = true
	case k.Type == BlockData && b.missing > 0:
		b.missing = 0
		b.next += Position(b.group.Span)
	case k.Type == BlockData:
		b.group, b.missing = k.BlockInfo, k.Span-k.Count
		if b.missing == 0 {
			b.next += Position(k.Span)
		}
	}
}

// chain writes blocks: it seals, hashes and signs.
type chain struct {
	signer   ed25519.PrivateKey
	sequence uint64
	head     [32]byte
	hash     hash.Hash
	nonce    [12]byte
	aad      [headerSize + 32]byte
	message  []byte
}

func newChain(signer ed25519.PrivateKey) *chain {
	return &chain{signer: signer, head: sha256.Sum256([]byte(FileMagic)), hash: sha256.New()}
}

// append writes one block to dst. Without a key the payload stands as it is.
func (c *chain) append(dst []byte, i BlockInfo, plain []byte, key cipher.AEAD) []byte {
	i.Sequence, i.Length = c.sequence, uint32(len(plain))
	if key != nil {
		i.Length += tagSize
	}
	start := len(dst)
	dst = i.encode(dst)
	if key == nil {
		dst = append(dst, plain...)
	} else {
		copy(c.aad[:], dst[start:])
		copy(c.aad[headerSize:], c.head[:])
		binary.BigEndian.PutUint64(c.nonce[4:], i.Sequence)
		dst = key.Seal(dst, c.nonce[:], plain, c.aad[:])
	}
	c.hash.Reset()
	c.hash.Write(c.head[:])
	c.hash.Write(dst[start:])
	c.hash.Sum(c.head[:0])
	c.sequence++
	c.message = signedMessage(c.message, &c.head)
	return append(dst, ed25519.Sign(c.signer, c.message)...)
}

func (c *chain) headHex() string { return hex.EncodeToString(c.head[:]) }

// Header is the public description in the first block of a file.
type Header struct {
	Version int       `json:"v"`
	Type    string    `json:"type"` // "recording" or "ledger"
	Session string    `json:"session,omitempty"`
	Node    string    `json:"node"`
	Epoch   string    `json:"epoch,omitempty"`
	Suite   string    `json:"suite"` // SuiteSealed or SuiteNone
	Start   time.Time `json:"start"`
	Signer  string    `json:"signer"` // hex SHA-256 of the node's public key
	// Commit and CommitStrict are commitments to the two session keys, in hex.
	Commit       string `json:"commit,omitempty"`
	CommitStrict string `json:"commit_strict,omitempty"`

	// Envelopes are age files that hold the session keys; not part of the JSON.
	Envelope       []byte `json:"-"`
	EnvelopeStrict []byte `json:"-"`
}

// Values of Header.Type and Header.Suite.
const (
	TypeRecording = "recording"
	TypeLedger    = "ledger"
	SuiteSealed   = "age+hkdf-sha256+aes-256-gcm"
	SuiteNone     = "none"
)

// SignerID is how a Header names the key that signs the file.
func SignerID(key ed25519.PublicKey) string {
	sum := sha256.Sum256(key)
	return hex.EncodeToString(sum[:])
}

func (h *Header) encode() ([]byte, error) {
	text, err := json.Marshal(h)
	if err != nil {
		return nil, err
	}
	var out []byte
	for _, part := range [][]byte{text, h.Envelope, h.EnvelopeStrict} {
		out = binary.BigEndian.AppendUint32(out, uint32(len(part)))
		out = append(out, part...)
	}
	if len(out) > maxHeaderPayload {
		return nil, fmt.Errorf("the header would have %d bytes, more than %d", len(out), maxHeaderPayload)
	}
	return out, nil
}

// ParseHeader reads the payload of a header block.
func ParseHeader(payload []byte) (Header, error) {
	var parts [3][]byte
	for i := range parts {
		if len(payload) < 4 || uint64(binary.BigEndian.Uint32(payload)) > uint64(len(payload)-4) {
			return Header{}, errors.New("the header block is cut short")
		}
		n := binary.BigEndian.Uint32(payload)
		parts[i], payload = bytes.Clone(payload[4:4+n]), payload[4+n:]
	}
	var h Header
	if len(payload) != 0 {
		return h, errors.New("the header block has bytes to spare")
	}
	if err := json.Unmarshal(parts[0], &h); err != nil {
		return h, fmt.Errorf("the header is not valid: %w", err)
	}
	if h.Version != 1 || (h.Type != TypeRecording && h.Type != TypeLedger) {
		return h, fmt.Errorf("version %d of type %q is not known", h.Version, h.Type)
	}
	h.Envelope, h.EnvelopeStrict = parts[1], parts[2]
	return h, nil
}

// End is the content of a recording's last block.
type End struct {
	Reason string    `json:"reason"`
	Frames uint64    `json:"frames"`
	Blocks uint64    `json:"blocks"` // in the whole file, this one included
	Time   time.Time `json:"end"`
	// BytesIn and BytesOut count the data of input frames, and of output,
	// standard error and gate frames; -1 after a crash, when the node no
	// longer holds the key to count them.
	BytesIn  int64 `json:"bytes_in"`
	BytesOut int64 `json:"bytes_out"`
	// Torn is how many bytes after the last whole group were set aside after a crash.
	Torn int64 `json:"torn_bytes,omitempty"`
}

// ParseEnd reads the payload of an end block.
func ParseEnd(payload []byte) (End, error) {
	var e End
	if err := json.Unmarshal(payload, &e); err != nil {
		return e, fmt.Errorf("the end block is not valid: %w", err)
	}
	return e, nil
}
