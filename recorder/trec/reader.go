package trec

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"

	"filippo.io/age"
	"github.com/klauspost/compress/zstd"
)

// Keys open a recording.
type Keys struct {
	Main   []age.Identity // required
	Strict []age.Identity // opens what was typed in terminals; may be empty
	// Node is the public key that must have signed the end; nil: the
	// signature is not looked at (it is by Verify).
	Node ed25519.PublicKey
	// Journal reads frames that a crash left in the journal's own form; nil:
	// they are passed over, and counted by Sealed.
	Journal JournalDecoder
}

// JournalDecoder opens the frames of segments of type W. It belongs to the
// package of the journal, whose layout this package does not know.
type JournalDecoder interface {
	// DecodeJournal calls emit for each frame of m that keys open, in order.
	// Entry.Position counts from 1 inside m; Entry.Data may point into m. A
	// frame whose key is refused with ErrSealed is passed over, and counted in
	// sealed. Every byte of m is hostile. An error of emit is returned as it is.
	DecodeJournal(m Moved, keys JournalKeys, emit func(Entry) error) (sealed int, err error)
}

// JournalKeys derives what Writer.JournalKey gave: ErrSealed when no identity
// opens the class.
type JournalKeys interface {
	JournalKey(segment uint32, c Class) ([32]byte, error)
}

// Ending says how a recording ends.
type Ending string

// The ways a recording ends. A file that was cut and one that is still being
// written look the same; the ledger or a later look tells which it is.
const (
	EndingComplete Ending = "complete"
	EndingCrash    Ending = "ended by crash"
	EndingOpen     Ending = "still open or cut"
)

func endingOf(f *Facts) Ending {
	switch {
	case f == nil:
		return EndingOpen
	case f.Reason == ReasonCrashed:
		return EndingCrash
	}
	return EndingComplete
}

// opener opens segments of one recording.
type opener struct {
	first        Hash
	main, strict *keyring // strict may be nil
	limit        uint32   // no segment has a higher number
	zstd         *zstd.Decoder
	plain        [3][]byte // by class
	packed       []byte
}

func newOpener(p *prelude, first Hash, k Keys) (*opener, error) {
	o := &opener{first: first}
	var err error
	if o.main, err = openKey(p.envelope, p.header.Commit, k.Main); err != nil {
		return nil, err
	}
	if len(p.envelopeStrict) > 0 {
		if o.strict, err = openKey(p.envelopeStrict, p.header.CommitStrict, k.Strict); err != nil && !errors.Is(err, ErrSealed) {
			return nil, err
		}
	}
	o.zstd, err = newZstd()
	return o, err
}

func (o *opener) ring(c Class) *keyring {
	switch c {
	case ClassMain:
		return o.main
	case ClassStrict:
		return o.strict
	}
	return nil
}

// open returns the plaintext of a segment, valid until the next of its class.
func (o *opener) open(l *Leaf, header, payload []byte, previous Hash) ([]byte, error) {
	fail := func(reason string) error {
		return &FormatError{Offset: l.Offset, Segment: int64(l.Number), Reason: reason}
	}
	ring := o.ring(l.Class)
	if ring == nil {
		return nil, ErrSealed
	}
	o.limit = max(o.limit, l.Number)
	cipher, err := ring.at(l.Number).aead()
	if err != nil {
		return nil, err
	}
	o.packed, err = cipher.Open(o.packed[:0], nonce(l.Number), payload, aad(o.first, previous, header))
	if err != nil {
		return nil, fail("the sealed bytes are not those that were written in this place")
	}
	plain, err := decompress(o.zstd, o.plain[l.Class], o.packed, l.Codec, l.Raw)
	if err != nil {
		return nil, fail(err.Error())
	}
	if l.Codec == CodecNone {
		// plain is packed, which is used again for the other half of the group.
		o.packed = o.plain[l.Class]
	}
	o.plain[l.Class] = plain
	return plain, nil
}

// keyAhead is how far the number of a journal's key may be ahead of the segment
// that holds its frames: a crash may have taken segments that had been written,
// but were not durable when the journal took the next key.
const keyAhead = 4096

// JournalKey implements JournalKeys. It refuses numbers far beyond the segments
// that were read, so that a hostile one can't make it compute without end.
func (o *opener) JournalKey(segment uint32, c Class) (key [32]byte, err error) {
	ring := o.ring(c)
	if ring == nil {
		return key, ErrSealed
	}
	if segment > o.limit && segment-o.limit > keyAhead {
		return key, fmt.Errorf("journal frames name segment %d, which is far behind them", segment)
	}
	return ring.at(segment).derive(3), nil
}

// Reader iterates over the frames of a recording, holding one group in memory.
type Reader struct {
	scan   *scanner
	opener *opener
	keys   Keys
	meta   []byte
	main   side
	strict side
	moved  []Entry  // of the last segment of type W
	from   Position // after a seek: of the first frame to return
	sealed uint64
	err    error
}

// side is one half of a group with its next frame at hand.
type side struct {
	decoder decoder
	next    Entry
	ok      bool
}

func (s *side) advance() (err error) {
	s.next, s.ok, err = s.decoder.next()
	return err
}

// NewReader begins to read a recording. It fails with ErrSealed when no
// identity fits, and with a *FormatError when the file is not sound up to
// the end of its description.
func NewReader(r io.Reader, k Keys) (*Reader, error) {
	scan, err := newScanner(r)
	if err != nil {
		return nil, err
	}
	o, err := newOpener(&scan.prelude, scan.first, k)
	if err != nil {
		return nil, err
	}
	d := &Reader{scan: scan, opener: o, keys: k}
	l, err := scan.next()
	if errors.Is(err, io.EOF) {
		return nil, scan.fail(true, "the file ends before its description")
	}
	if err != nil {
		return nil, err
	}
	meta, err := o.open(l, scan.raw, scan.payload(), scan.before)
	d.meta = append([]byte(nil), meta...)
	return d, err
}

// Header is the public description.
func (r *Reader) Header() Header { return r.scan.prelude.header }

// Meta is the sealed description, as it was given to the Writer.
func (r *Reader) Meta() []byte { return r.meta }

// Sealed is how many frames were passed over because no identity, or no
// JournalDecoder, was there to open them.
func (r *Reader) Sealed() uint64 { return r.sealed }

// CanReadStrict reports whether what was typed can be read, if it is sealed apart.
func (r *Reader) CanReadStrict() bool {
	return len(r.scan.prelude.envelopeStrict) == 0 || r.opener.strict != nil
}

// Facts is the signed end; nil before Next has returned io.EOF, and in a file
// without one.
func (r *Reader) Facts() *Facts {
	if r.scan.trailer == nil {
		return nil
	}
	f := r.scan.trailer.facts
	return &f
}

// Ending says how the recording ends, once Next has returned io.EOF.
func (r *Reader) Ending() Ending { return endingOf(r.Facts()) }

// Next returns the next frame in order, io.EOF after the last. A file that is
// cut inside a segment ends before it, see Ending; changed bytes are a
// *FormatError. Until io.EOF has come with EndingComplete or EndingCrash, the
// root and the node's signature have not been checked.
func (r *Reader) Next() (Entry, error) {
	for r.err == nil {
		e, ok, err := r.take()
		if err != nil {
			r.err = &FormatError{Offset: r.scan.leaf.Offset, Segment: int64(r.scan.leaf.Number), Reason: err.Error()}
			break
		}
		if ok {
			if e.Position < r.from {
				continue
			}
			return e, nil
		}
		r.err = r.group()
	}
	return Entry{}, r.err
}

// take returns the next frame of the group that was read.
func (r *Reader) take() (e Entry, ok bool, err error) {
	if len(r.moved) > 0 {
		e, r.moved = r.moved[0], r.moved[1:]
		return e, true, nil
	}
	s := &r.main
	// At the same position the keyframe, which is main, comes first.
	if !s.ok || r.strict.ok && r.strict.next.Position < s.next.Position {
		s = &r.strict
	}
	if !s.ok {
		return e, false, nil
	}
	e = s.next
	return e, true, s.advance()
}

// group reads the segments of the next group, or the end.
func (r *Reader) group() error {
	l, err := r.scan.next()
	if err != nil {
		return r.ended(err)
	}
	if err := r.segment(l); err != nil || !r.scan.midGroup() {
		return err
	}
	if l, err = r.scan.next(); err != nil {
		if err = r.ended(err); errors.Is(err, io.EOF) {
			return nil // half a group is all there is; the next read says so again
		}
		return err
	}
	return r.segment(l)
}

// ended judges why there is no further segment.
func (r *Reader) ended(err error) error {
	var format *FormatError
	if errors.As(err, &format) && format.Cut {
		return io.EOF
	}
	if t := r.scan.trailer; t != nil && r.keys.Node != nil && !t.signedBy(r.keys.Node) {
		return r.scan.fail(false, "the end was not signed by the node's key, or was changed")
	}
	return err
}

// segment opens one segment and makes its frames ready.
func (r *Reader) segment(l *Leaf) error {
	if l.Type == TypeJournal {
		return r.journal(l)
	}
	if r.opener.ring(l.Class) == nil {
		r.sealed += uint64(l.Count)
		return nil
	}
	plain, err := r.opener.open(l, r.scan.raw, r.scan.payload(), r.scan.before)
	if err != nil {
		return err
	}
	s := &r.main
	if l.Class == ClassStrict {
		s = &r.strict
	}
	if s.decoder, err = newDecoder(&l.Segment, plain); err == nil {
		err = s.advance()
	}
	if err != nil {
		return &FormatError{Offset: l.Offset, Segment: int64(l.Number), Reason: err.Error()}
	}
	return nil
}

// journal opens frames that were moved after a crash.
func (r *Reader) journal(l *Leaf) error {
	m, err := decodeMoved(&l.Segment, r.scan.payload())
	if err == nil && r.keys.Journal == nil {
		r.sealed += uint64(l.Count)
		return nil
	}
	var entries []Entry
	var sealed int
	if err == nil {
		r.opener.limit = max(r.opener.limit, l.Number)
		sealed, err = r.keys.Journal.DecodeJournal(m, r.opener, func(e Entry) error {
			if e.Position == 0 || e.Position > Position(m.Count) || (len(entries) > 0 && e.Position <= entries[len(entries)-1].Position-l.First+1) {
				return errors.New("the moved frames are out of order")
			}
			e.Position += l.First - 1
			entries = append(entries, e)
			return nil
		})
	}
	if err == nil && len(entries)+sealed != int(m.Count) {
		err = fmt.Errorf("%d moved frames where %d are declared", len(entries)+sealed, m.Count)
	}
	if err != nil {
		return &FormatError{Offset: l.Offset, Segment: int64(l.Number), Reason: err.Error()}
	}
	r.moved, r.sealed = entries, r.sealed+uint64(sealed)
	return nil
}
