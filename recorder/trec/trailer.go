package trec

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"time"
)

const (
	trailerMagic     = "TEND"
	trailerFixed     = 16 // of the trailer before facts and index
	footerMagic      = "TREEND\x00\x01"
	footerSize       = 32
	signatureContext = "sallyport trec v1 end\n"
)

// ReasonCrashed is the reason in the facts of a file that was closed after a crash.
const ReasonCrashed = "crashed"

// Facts is what the node signs at the end of a recording. Everybody can read
// it. The fields stand in the order of their JSON names.
type Facts struct {
	// BytesIn and BytesOut count the data of input frames, and of output,
	// standard error and gate frames; -1 after a crash, when the node no
	// longer has the keys to count.
	BytesIn  int64     `json:"bytes_in"`
	BytesOut int64     `json:"bytes_out"`
	End      time.Time `json:"end"`
	Frames   uint64    `json:"frames"` // keyframes not counted
	// Moved is how many of the frames are in segments of type W.
	Moved    uint64 `json:"moved,omitempty"`
	Offset   int64  `json:"offset"` // of the trailer: the bytes that the root covers
	Reason   string `json:"reason"`
	Root     string `json:"root"` // hex, of the tree over everything before the trailer
	Segments uint32 `json:"segments"`
	// Torn is how many bytes after the last whole group were cut off after a crash.
	Torn int64 `json:"torn_bytes,omitempty"`
}

func (f *Facts) check() error {
	switch {
	case !hexHash(f.Root):
		return errors.New("the root is not a SHA-256 in hexadecimal")
	case f.BytesIn < -1 || f.BytesOut < -1 || f.Torn < 0 || f.Moved > f.Frames || f.Segments == 0:
		return errors.New("impossible counts")
	// So that following the chain of keys costs no more than the file is long.
	case f.Offset < int64(f.Segments)*(segmentSize+1):
		return errors.New("more segments than the file has room for")
	}
	return nil
}

// trailer is everything behind the last segment but the footer.
type trailer struct {
	facts     Facts
	root      Hash
	index     []byte // sealed; empty after a crash
	indexRaw  uint32 // bytes of the index when decompressed
	signature [ed25519.SignatureSize]byte
	digest    [sha256.Size]byte // of all but the signature
	size      int64
}

// indexAAD binds the sealed index to the header and all segments.
func indexAAD(header, root Hash) []byte {
	return append(append([]byte("index"), header[:]...), root[:]...)
}

func signedMessage(digest [sha256.Size]byte) []byte {
	return append([]byte(signatureContext), digest[:]...)
}

// signedBy reports whether the trailer's signature is by key.
func (t *trailer) signedBy(key ed25519.PublicKey) bool {
	return len(key) == ed25519.PublicKeySize && ed25519.Verify(key, signedMessage(t.digest), t.signature[:])
}

// encodeTrailer makes trailer and footer.
func encodeTrailer(f *Facts, index []byte, indexRaw int, signer ed25519.PrivateKey) ([]byte, error) {
	text, err := canonical(f)
	if err != nil {
		return nil, err
	}
	if len(text) > maxFacts || len(index) > maxIndex {
		return nil, errors.New("the facts or the index are too long")
	}
	out := []byte(trailerMagic)
	for _, n := range []int{len(text), len(index), indexRaw} {
		out = binary.BigEndian.AppendUint32(out, uint32(n))
	}
	out = append(append(out, text...), index...)
	out = append(out, ed25519.Sign(signer, signedMessage(sha256.Sum256(out)))...)
	return append(out, encodeFooter(f.Offset, out)...), nil
}

func encodeFooter(offset int64, trailer []byte) []byte {
	out := binary.BigEndian.AppendUint64(make([]byte, 0, footerSize), uint64(offset))
	out = binary.BigEndian.AppendUint64(out, uint64(len(trailer)))
	out = binary.BigEndian.AppendUint32(out, crc32.Checksum(trailer, castagnoli))
	out = append(out, 0, 0, 0, 0)
	return append(out, footerMagic...)
}

// readTrailer reads trailer and footer, of which the magic has been read
// already, and demands that the file ends there.
func readTrailer(r io.Reader, offset int64, segments uint32) (*trailer, error) {
	fail := func(cut bool, format string, args ...any) error {
		return &FormatError{Offset: offset, Segment: int64(segments), Reason: fmt.Sprintf(format, args...), Cut: cut}
	}
	raw := make([]byte, trailerFixed)
	copy(raw, trailerMagic)
	read := func(n int) ([]byte, error) {
		start := len(raw)
		raw = append(raw, make([]byte, n)...)
		if _, err := io.ReadFull(r, raw[start:]); isEnd(err) {
			return nil, fail(true, "the file ends inside its trailer")
		} else if err != nil {
			return nil, err
		}
		return raw[start:], nil
	}
	if _, err := io.ReadFull(r, raw[4:]); isEnd(err) {
		return nil, fail(true, "the file ends inside its trailer")
	} else if err != nil {
		return nil, err
	}
	factsSize, indexSize := binary.BigEndian.Uint32(raw[4:]), binary.BigEndian.Uint32(raw[8:])
	t := &trailer{indexRaw: binary.BigEndian.Uint32(raw[12:])}
	if factsSize > maxFacts || indexSize > maxIndex || t.indexRaw > maxIndex || (indexSize == 0) != (t.indexRaw == 0) {
		return nil, fail(false, "a trailer with %d bytes of facts and %d of index is larger than any that is written", factsSize, indexSize)
	}
	text, err := read(int(factsSize))
	if err != nil {
		return nil, err
	}
	if err = parseCanonical(text, &t.facts); err == nil {
		err = t.facts.check()
	}
	if err != nil {
		return nil, fail(false, "the facts in the trailer are not valid: %v", err)
	}
	if _, err := hex.Decode(t.root[:], []byte(t.facts.Root)); err != nil {
		return nil, fail(false, "the facts in the trailer are not valid: %v", err)
	}
	if t.index, err = read(int(indexSize)); err != nil {
		return nil, err
	}
	t.digest = sha256.Sum256(raw)
	signature, err := read(ed25519.SignatureSize)
	if err != nil {
		return nil, err
	}
	copy(t.signature[:], signature)
	var footer [footerSize + 1]byte
	n, err := io.ReadFull(r, footer[:])
	switch {
	case err != nil && !isEnd(err):
		return nil, err
	case n < footerSize:
		return nil, fail(true, "the file ends inside its footer")
	case string(footer[:footerSize]) != string(encodeFooter(offset, raw)):
		return nil, fail(false, "the footer is not that of this trailer")
	case n > footerSize:
		return nil, &FormatError{Offset: offset, Segment: int64(segments), Reason: "there are bytes after the signed end", ended: true}
	}
	t.size = int64(len(raw)) + footerSize
	return t, nil
}
