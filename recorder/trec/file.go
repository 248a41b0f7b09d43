package trec

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"
)

// File reads a recording at any place. Its methods may not be called from
// several goroutines at once, and the Readers that it returns share its keys:
// use one at a time.
//
// Of a file that is read in part, only the part is checked: that the segments
// are those that were sealed in their place, and, if Keys has the node's key,
// that the facts and the index are signed. Verify checks the whole.
type File struct {
	r       io.ReaderAt
	size    int64
	keys    Keys
	whole   *Reader // of which prelude, description and keys are used
	scan    scanner // after the description
	trailer *trailer
	index   *index // nil without a signed end, or with one made after a crash
}

// Snapshot is the picture from which playing goes on after a Seek.
type Snapshot struct {
	Position Position // of the first frame that the Reader returns
	Time     time.Time
	Data     []byte // empty: the recording is played from its start
}

// OpenAt opens a recording of size bytes for seeking. A file without a signed
// end is opened, too; Seek in it has to look at all that is before.
func OpenAt(r io.ReaderAt, size int64, k Keys) (*File, error) {
	whole, err := NewReader(io.NewSectionReader(r, 0, size), k)
	if err != nil {
		return nil, err
	}
	f := &File{r: r, size: size, keys: k, whole: whole, scan: *whole.scan}
	if f.trailer, err = f.readEnd(); err != nil {
		return nil, err
	}
	if f.trailer == nil {
		return f, nil
	}
	if k.Node != nil && !f.trailer.signedBy(k.Node) {
		return nil, &FormatError{Offset: f.trailer.facts.Offset, Segment: int64(f.trailer.facts.Segments), Reason: "the end was not signed by the node's key, or was changed"}
	}
	if len(f.trailer.index) > 0 {
		if err := f.openIndex(); err != nil {
			return nil, err
		}
	}
	return f, nil
}

// readEnd reads footer and trailer; nil if the file does not end in a footer.
func (f *File) readEnd() (*trailer, error) {
	if f.size < footerSize {
		return nil, nil
	}
	var footer [footerSize]byte
	if _, err := f.r.ReadAt(footer[:], f.size-footerSize); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if string(footer[24:]) != footerMagic {
		return nil, nil
	}
	fail := func(reason string) error {
		return &FormatError{Offset: f.size - footerSize, Segment: -1, Reason: reason}
	}
	offset, length := binary.BigEndian.Uint64(footer[:]), binary.BigEndian.Uint64(footer[8:])
	if offset > uint64(f.size) || length > uint64(f.size) || offset+length+footerSize != uint64(f.size) || length < trailerFixed {
		return nil, fail("the footer names a trailer that is not there")
	}
	section := bufio.NewReaderSize(io.NewSectionReader(f.r, int64(offset), f.size-int64(offset)), 4<<10)
	var magic [4]byte
	if _, err := io.ReadFull(section, magic[:]); err != nil {
		return nil, err
	}
	if string(magic[:]) != trailerMagic {
		return nil, fail("the footer names a trailer that is not there")
	}
	t, err := readTrailer(section, int64(offset), 0)
	if err != nil {
		return nil, err
	}
	if t.facts.Offset != int64(offset) {
		return nil, fail("the facts are of another place in the file")
	}
	return t, nil
}

func (f *File) openIndex() error {
	t := f.trailer
	fail := func() error {
		return &FormatError{Offset: t.facts.Offset, Segment: int64(t.facts.Segments), Reason: "the index is not the one that was written"}
	}
	o := f.whole.opener
	cipher, err := o.main.at(t.facts.Segments).aead()
	if err != nil {
		return err
	}
	packed, err := cipher.Open(nil, nonce(t.facts.Segments), t.index[1:], indexAAD(o.first, t.root))
	if err != nil {
		return fail()
	}
	plain, err := decompress(o.zstd, nil, packed, Codec(t.index[0]), t.indexRaw)
	if err != nil {
		return fail()
	}
	if f.index, err = decodeIndex(plain, t.facts.Segments, t.facts.Offset); err != nil {
		return fail()
	}
	return nil
}

// Header is the public description.
func (f *File) Header() Header { return f.whole.Header() }

// Meta is the sealed description.
func (f *File) Meta() []byte { return f.whole.Meta() }

// Facts is the end of the recording; nil without one.
func (f *File) Facts() *Facts {
	if f.trailer == nil {
		return nil
	}
	facts := f.trailer.facts
	return &facts
}

// Span is the time of the first and the last frame, from the index; ok is
// false without one.
func (f *File) Span() (first, last time.Time, ok bool) {
	if f.index == nil || len(f.index.points) == 0 {
		return first, last, false
	}
	begin, end := f.index.points[0].begin, f.index.points[0].last
	for _, p := range f.index.points {
		begin, end = min(begin, p.begin), max(end, p.last)
	}
	return time.UnixMicro(begin).UTC(), time.UnixMicro(end).UTC(), true
}

// Frames plays from the start.
func (f *File) Frames() (*Reader, error) {
	scan := f.scan // as it stood after the description
	offset := scan.offset
	scan.r = bufio.NewReaderSize(io.NewSectionReader(f.r, offset, f.size-offset), 64<<10)
	scan.tree, scan.raw = f.scan.tree.clone(), nil
	return f.reader(&scan), nil
}

func (f *File) reader(s *scanner) *Reader {
	return &Reader{scan: s, opener: f.whole.opener, keys: f.keys, meta: f.whole.meta}
}

// Seek goes to a time: it returns the last snapshot of the screen at t or
// before, and a Reader that goes on from there. The caller plays the frames
// up to t at once. Before the first keyframe it plays from the start.
func (f *File) Seek(t time.Time) (*Reader, Snapshot, error) {
	if f.index == nil {
		return f.seekSlowly(t)
	}
	k, ok := f.index.before(t)
	if !ok {
		r, err := f.Frames()
		return r, Snapshot{Position: 1}, err
	}
	r, err := f.at(k)
	if err != nil {
		return nil, Snapshot{}, err
	}
	return r.snapshot()
}

// at goes to a segment by way of the last point that lies before it, from
// where on the segments' hashes are computed.
func (f *File) at(k keyframe) (*Reader, error) {
	p, ok := f.index.start(k.number)
	if !ok {
		r, err := f.Frames()
		if err != nil {
			return nil, err
		}
		return r, r.skipTo(k)
	}
	s := resumeScanner(io.NewSectionReader(f.r, p.offset, f.size-p.offset), p, &f.scan)
	r := f.reader(s)
	return r, r.skipTo(k)
}

// skipTo reads up to the segment of a keyframe without opening what is before.
func (r *Reader) skipTo(k keyframe) error {
	for r.scan.order.number < k.number {
		if _, err := r.scan.next(); err != nil {
			return r.misled(err)
		}
	}
	if r.scan.midGroup() {
		return r.misled(io.EOF)
	}
	r.from = k.position
	return nil
}

func (r *Reader) misled(err error) error {
	if errors.Is(err, io.EOF) {
		return r.scan.fail(false, "the index names a keyframe that is not there")
	}
	return err
}

// snapshot takes the keyframe at which the Reader stands.
func (r *Reader) snapshot() (*Reader, Snapshot, error) {
	e, err := r.Next()
	if err != nil {
		return nil, Snapshot{}, r.misled(err)
	}
	if e.Kind != KindKeyframe {
		return nil, Snapshot{}, r.misled(io.EOF)
	}
	return r, Snapshot{Position: e.Position, Time: e.Time, Data: append([]byte(nil), e.Data...)}, nil
}

// seekSlowly finds the keyframe by reading what is before it.
func (f *File) seekSlowly(t time.Time) (*Reader, Snapshot, error) {
	r, err := f.Frames()
	if err != nil {
		return nil, Snapshot{}, err
	}
	var found keyframe
	for {
		e, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, Snapshot{}, fmt.Errorf("seek: %w", err)
		}
		if e.Kind != KindKeyframe && e.Time.After(t) {
			break
		}
		if e.Kind == KindKeyframe && !e.Time.After(t) {
			found.position, found.micros = e.Position, e.Time.UnixMicro()
		}
	}
	if r, err = f.Frames(); err != nil || found.position == 0 {
		return r, Snapshot{Position: 1}, err
	}
	for {
		e, err := r.Next()
		if err != nil {
			return nil, Snapshot{}, fmt.Errorf("seek: %w", err)
		}
		if e.Kind == KindKeyframe && e.Position == found.position && e.Time.UnixMicro() == found.micros {
			return r, Snapshot{Position: e.Position, Time: e.Time, Data: append([]byte(nil), e.Data...)}, nil
		}
	}
}
