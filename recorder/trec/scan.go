package trec

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"golang.org/x/mod/sumdb/tlog"
)

// Leaf is one segment as it stands in the file, for the ledger: its hash can
// be proved to be in the file's tree (see Inclusion).
type Leaf struct {
	Segment
	Offset int64 // of the segment in the file
	Hash   Hash  // RFC 6962 leaf hash over the whole segment
}

// Size is the length of the segment in the file.
func (l *Leaf) Size() int64 { return segmentSize + int64(l.Length) }

// scanner reads segments in order and hashes them. It needs no key, checks
// everything but the signature, and holds one segment in memory.
type scanner struct {
	r         *bufio.Reader
	prelude   prelude
	first     Hash // of everything before the first segment
	tree      Tree // not kept when the scan begins inside the file
	inside    bool // the scan began inside: tree and the first checksum are unknown
	previous  Hash
	loose     bool // previous is not known
	offset    int64
	order     order
	leaf      Leaf
	before    Hash // of the leaf before leaf
	raw       []byte
	trailer   *trailer
	wrongRoot bool
	moved     uint64
	lastGroup int64 // end of the last whole group
}

func newScanner(r io.Reader) (*scanner, error) {
	s := &scanner{r: bufio.NewReaderSize(r, 64<<10)}
	p, raw, err := readPrelude(s.r)
	if err != nil {
		return nil, err
	}
	s.prelude, s.first = p, tlog.RecordHash(raw)
	s.previous, s.offset, s.lastGroup = s.first, int64(len(raw)), int64(len(raw))
	s.tree.Add(s.first)
	return s, nil
}

// resumeScanner begins at a point of an index. What is before is not looked at.
func resumeScanner(r io.Reader, p point, whole *scanner) *scanner {
	return &scanner{r: bufio.NewReaderSize(r, 64<<10), prelude: whole.prelude, first: whole.first, inside: true,
		loose: true, offset: p.offset, order: order{number: p.number, next: p.first}}
}

func (s *scanner) fail(cut bool, format string, args ...any) error {
	return &FormatError{Offset: s.offset, Segment: int64(s.order.number), Reason: fmt.Sprintf(format, args...), Cut: cut}
}

// payload is that of the last segment, valid until the next call of next.
func (s *scanner) payload() []byte { return s.raw[segmentSize:] }

// midGroup reports whether the other half of the last segment is still to come.
func (s *scanner) midGroup() bool { return s.order.missing > 0 }

// next reads one segment. io.EOF means the file ends on the boundary of a
// segment: after the trailer if s.trailer is set.
func (s *scanner) next() (*Leaf, error) {
	if s.trailer != nil {
		return nil, io.EOF
	}
	if cap(s.raw) < segmentSize {
		s.raw = make([]byte, segmentSize, 4<<10)
	}
	header := s.raw[:segmentSize]
	n, err := io.ReadFull(s.r, header[:4])
	if n == 0 && errors.Is(err, io.EOF) {
		return nil, io.EOF
	}
	// No segment begins with this letter.
	if err == nil && string(header[:4]) == trailerMagic {
		return nil, s.end()
	}
	if err == nil {
		n, err = io.ReadFull(s.r, header[4:])
		n += 4
	}
	if err != nil && !isEnd(err) {
		return nil, err
	}
	if n < segmentSize {
		return nil, s.fail(true, "the file ends inside a segment")
	}
	if bytes.Count(header, []byte{0}) == segmentSize {
		// A file system may lengthen a file before it writes what belongs there.
		return nil, s.fail(true, "only zeros follow: what was written here was lost in a crash, or overwritten")
	}
	l := &s.leaf
	if l.Segment, err = decodeSegment(header); err != nil {
		return nil, s.fail(false, "%v", err)
	}
	if err := s.order.check(&l.Segment); err != nil {
		return nil, s.fail(false, "%v", err)
	}
	if sum := headerSum(s.previous, header); !s.loose && string(header[segmentSize-4:]) != string([]byte{byte(sum >> 24), byte(sum >> 16), byte(sum >> 8), byte(sum)}) {
		return nil, s.fail(false, "it does not follow what stands before it: one of the two was changed, dropped or put in")
	}
	return l, s.body()
}

// body reads and checks the payload of the segment whose header was read.
func (s *scanner) body() error {
	l := &s.leaf
	size := int(l.Size())
	if cap(s.raw) < size {
		s.raw = append(make([]byte, 0, size), s.raw[:segmentSize]...)
	}
	s.raw = s.raw[:size]
	if _, err := io.ReadFull(s.r, s.payload()); isEnd(err) {
		return s.fail(true, "the file ends inside a segment")
	} else if err != nil {
		return err
	}
	if crc32.Checksum(s.payload(), castagnoli) != l.payloadSum {
		return s.fail(false, "its bytes were changed")
	}
	l.Offset, l.Hash = s.offset, tlog.RecordHash(s.raw)
	s.before, s.previous, s.loose = s.previous, l.Hash, false
	if !s.inside {
		s.tree.Add(l.Hash)
	}
	s.offset += l.Size()
	s.order.advance(&l.Segment)
	if l.Type == TypeJournal {
		s.moved += uint64(l.Count)
	}
	if !s.midGroup() {
		s.lastGroup = s.offset
	}
	return nil
}

// end reads the trailer and holds it against the segments before it.
func (s *scanner) end() error {
	if s.order.number == 0 || s.midGroup() {
		return s.fail(false, "the trailer stands where a segment is missing")
	}
	t, err := readTrailer(s.r, s.offset, s.order.number)
	if err != nil {
		return err
	}
	f := &t.facts
	switch {
	case f.Offset != s.offset || f.Segments != s.order.number || f.Frames != uint64(s.order.next)-1 || (!s.inside && f.Moved != s.moved):
		return s.fail(false, "the trailer speaks of %d frames in %d segments, there are %d in %d", f.Frames, f.Segments, s.order.next-1, s.order.number)
	case !s.inside && t.root != s.tree.Root():
		s.wrongRoot = true
		return s.fail(false, "the root in the trailer is not that of the segments: something before was changed")
	}
	s.trailer = t
	return io.EOF
}
