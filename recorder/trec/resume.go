package trec

import (
	"crypto/ed25519"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"time"
)

// MaxMoved is how many bytes of journal frames fit into one segment of type W.
const MaxMoved = maxPlain - 2 - maxMovedInfo

const maxMovedInfo = 4 << 10

// MovedInfo says what an auditor needs to open moved journal frames. It is
// not sealed. The fields stand in the order of their JSON names.
type MovedInfo struct {
	Chain   string `json:"chain,omitempty"` // hex, of the journal's hash chain before the first frame
	Format  string `json:"format"`          // of the frames, for the JournalDecoder
	Journal string `json:"journal"`         // which journal the frames were in
	// Segment is the number of the segment that was open when the first frame
	// was written; see Writer.JournalKey.
	Segment uint32 `json:"segment"`
}

// Moved is a run of one session's journal frames, as they stood in the journal.
type Moved struct {
	Info   MovedInfo
	Count  uint32    // of frames; they follow on the last frame of the file
	Time   time.Time // of the first
	Opaque []byte    // at most MaxMoved bytes
}

func (m *Moved) encode() ([]byte, error) {
	text, err := canonical(&m.Info)
	if err != nil {
		return nil, err
	}
	if m.Count == 0 || m.Count > maxUint24 || len(m.Opaque) == 0 || len(text) > maxMovedInfo || len(m.Opaque) > MaxMoved {
		return nil, fmt.Errorf("%d journal frames in %d bytes can't be moved at once", m.Count, len(m.Opaque))
	}
	out := binary.BigEndian.AppendUint16(make([]byte, 0, 2+len(text)+len(m.Opaque)), uint16(len(text)))
	return append(append(out, text...), m.Opaque...), nil
}

func decodeMoved(s *Segment, payload []byte) (m Moved, err error) {
	if len(payload) < 2 || int(binary.BigEndian.Uint16(payload)) > min(maxMovedInfo, len(payload)-2) {
		return m, errors.New("the moved frames are malformed")
	}
	n := 2 + int(binary.BigEndian.Uint16(payload))
	if err := parseCanonical(payload[2:n], &m.Info); err != nil {
		return m, fmt.Errorf("the moved frames are malformed: %w", err)
	}
	m.Count, m.Time, m.Opaque = s.Count, s.Time, payload[n:]
	return m, nil
}

// ErrComplete says that a file needs no recovery: it has its signed end.
var ErrComplete = errors.New("the recording has its signed end")

// maxTorn bounds what one Seal writes: two halves of a group.
const maxTorn = 2*(maxPayload+segmentSize) + maxIndex + maxFacts + trailerFixed + footerSize

// Resumed is a file whose writer died, at the end of its last whole group.
// Its keys are gone: what it takes are journal frames as they are, and an end.
type Resumed struct {
	Header Header
	// Offset is where to cut the file off and to write on; Torn is how many
	// bytes that removes. They were never acknowledged as sealed, so the
	// journal still has their frames.
	Offset, Torn int64
	// Next is the position of the first frame that the file does not have.
	Next  Position
	Fault error // why the file could not be read further, if it could not

	chain chainState
	moved uint64
}

// Resume reads a file of size bytes up to its last whole group. It returns
// ErrComplete if there is nothing to resume, and a *FormatError if the file
// has more behind the fault than a crash explains: then it was damaged, and
// is not to be written to.
func Resume(r io.Reader, size int64) (*Resumed, error) {
	s, err := newScanner(r)
	if err != nil {
		return nil, err
	}
	place := func() *Resumed {
		return &Resumed{Header: s.prelude.header, Offset: s.offset, Next: s.order.next, moved: s.moved,
			chain: chainState{first: s.first, previous: s.previous, tree: s.tree.clone(), offset: s.offset, number: s.order.number}}
	}
	whole := place()
	for err == nil {
		if _, err = s.next(); err == nil && !s.midGroup() {
			whole = place()
		}
	}
	var format *FormatError
	switch {
	case errors.Is(err, io.EOF) && s.trailer != nil:
		return nil, ErrComplete
	case errors.Is(err, io.EOF):
	case !errors.As(err, &format) || format.ended || (!format.Cut && size-whole.Offset > maxTorn):
		return nil, err
	default:
		whole.Fault = err
	}
	if whole.chain.number == 0 {
		if format != nil && !format.Cut {
			return nil, format
		}
		return nil, &FormatError{Offset: whole.Offset, Segment: 0, Reason: "the file ends before its description", Cut: true}
	}
	whole.Torn = size - whole.Offset
	return whole, nil
}

// Add appends moved journal frames to out, which stands at Offset.
func (r *Resumed) Add(out io.Writer, m Moved) (Leaf, error) {
	payload, err := m.encode()
	if err != nil {
		return Leaf{}, err
	}
	s := Segment{Number: r.chain.number, Type: TypeJournal, First: r.Next, Span: m.Count, Count: m.Count,
		Raw: uint32(len(payload)), Length: uint32(len(payload)), Time: m.Time}
	raw := s.encode(nil)
	raw = append(append(raw, make([]byte, segmentSize-aadSize)...), payload...)
	l := r.chain.add(raw, 0, &s)
	if err := writeAll(out, raw); err != nil {
		return Leaf{}, err
	}
	r.Offset, r.Next, r.moved = r.chain.offset, r.Next+Position(m.Count), r.moved+uint64(m.Count)
	return l, nil
}

// Close appends the signed end, without an index, to out.
func (r *Resumed) Close(out io.Writer, signer ed25519.PrivateKey, end time.Time) (Summary, error) {
	if err := verifyKey(&r.Header, signer); err != nil {
		return Summary{}, err
	}
	root := r.chain.tree.Root()
	f := Facts{BytesIn: -1, BytesOut: -1, End: end.UTC().Truncate(time.Microsecond), Frames: uint64(r.Next) - 1, Moved: r.moved,
		Offset: r.chain.offset, Reason: ReasonCrashed, Root: hex.EncodeToString(root[:]), Segments: r.chain.number, Torn: r.Torn}
	raw, err := encodeTrailer(&f, nil, 0, signer)
	if err != nil {
		return Summary{}, err
	}
	if err := writeAll(out, raw); err != nil {
		return Summary{}, err
	}
	return Summary{Facts: f, Root: root, Size: r.chain.offset + int64(len(raw))}, nil
}

func writeAll(out io.Writer, raw []byte) error {
	n, err := out.Write(raw)
	if err == nil && n < len(raw) {
		err = io.ErrShortWrite
	}
	if err != nil {
		return fmt.Errorf("write the recording: %w", err)
	}
	return nil
}
