package trec

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"slices"
	"time"

	"golang.org/x/mod/sumdb/tlog"
)

// Options are what a Writer is made from.
type Options struct {
	Session, Node, Epoch string
	Start                time.Time
	// Meta describes the session, normally as JSON; it is sealed under the
	// main key. At most 64 KiB.
	Meta []byte
	// Recipients open what is main: age recipients of the epoch, one a line.
	Recipients string
	// StrictRecipients open input frames. Empty: the session has no terminal,
	// and its input is main.
	StrictRecipients string
	Signer           ed25519.PrivateKey // the node's signing key
	Codecs           *Codecs            // shared by all writers of a process
	// Random is where the session keys come from; nil: crypto/rand.
	Random io.Reader
}

// Writer writes one recording. It is for one goroutine at a time and keeps at
// most one segment's frames, its index and its place in the chain of keys; all
// other buffers are shared. It writes each group with one call of Write, and
// does not sync: a frame is in the file once the owner has synced after Seal.
// After an error the Writer is dead; a file is continued by Resume.
type Writer struct {
	out          io.Writer
	o            Options
	chain        chainState
	main, strict *ratchet // strict: nil without a strict class

	last       Position // of the last frame added
	first      Position // of the open group
	begin      time.Time
	baseMicros int64
	lastMicros int64 // latest time in the open group
	mainHalf   half
	strictHalf half
	pending    []keyframe // of the open group
	index      index
	in, bytes  int64 // bytes of input, and of output
	groupOut   int64 // bytes of output before the open group
	head       [2]Leaf
	err        error
}

// chainState is the place in the file's tree that a writer has come to.
type chainState struct {
	first    Hash // of everything before the first segment
	previous Hash
	tree     Tree
	offset   int64
	number   uint32 // of the next segment
}

// NewWriter begins a recording: header, envelopes and the sealed description
// are written to out when it returns.
func NewWriter(out io.Writer, o Options) (*Writer, error) {
	if len(o.Signer) != ed25519.PrivateKeySize || o.Codecs == nil {
		return nil, errors.New("trec: a signing key and codecs are needed")
	}
	if len(o.Meta) == 0 || len(o.Meta) > maxMeta {
		return nil, fmt.Errorf("trec: a description of %d bytes", len(o.Meta))
	}
	if o.Random == nil {
		o.Random = rand.Reader
	}
	p := prelude{header: Header{Version: Version, Session: o.Session, Node: o.Node, Epoch: o.Epoch, Suite: Suite,
		Start: o.Start.UTC().Truncate(time.Microsecond), Signer: SignerID(o.Signer.Public().(ed25519.PublicKey))}}
	w := &Writer{out: out, o: o, first: 1}
	var err error
	if w.main, p.header.Commit, p.envelope, err = wrapKey(o.Random, o.Recipients); err != nil {
		return nil, err
	}
	if o.StrictRecipients != "" {
		if w.strict, p.header.CommitStrict, p.envelopeStrict, err = wrapKey(o.Random, o.StrictRecipients); err != nil {
			return nil, fmt.Errorf("strict: %w", err)
		}
	}
	if err := p.header.check(); err != nil {
		return nil, fmt.Errorf("trec: %w", err)
	}
	raw, err := p.encode()
	if err != nil {
		return nil, fmt.Errorf("trec: %w", err)
	}
	w.chain.begin(raw)
	w.head[0] = Leaf{Hash: w.chain.first, Segment: Segment{Length: uint32(len(raw))}}
	raw, w.head[1], err = w.seal(raw, Segment{Type: TypeMeta, Class: ClassMain, Time: p.header.Start}, o.Meta, EffortBest)
	if err != nil {
		return nil, err
	}
	w.o.Meta = nil
	return w, w.write(raw)
}

func (c *chainState) begin(prelude []byte) {
	c.first = tlog.RecordHash(prelude)
	c.previous, c.offset = c.first, int64(len(prelude))
	c.tree.Add(c.first)
}

// add puts checksums into a segment that stands at start in dst, and moves on.
func (c *chainState) add(dst []byte, start int, s *Segment) Leaf {
	raw := dst[start:]
	s.payloadSum = crc32.Checksum(raw[segmentSize:], castagnoli)
	binary.BigEndian.PutUint32(raw[aadSize:], s.payloadSum)
	binary.BigEndian.PutUint32(raw[segmentSize-4:], headerSum(c.previous, raw))
	l := Leaf{Segment: *s, Offset: c.offset, Hash: tlog.RecordHash(raw)}
	c.previous = l.Hash
	c.tree.Add(l.Hash)
	c.offset += int64(len(raw))
	c.number++
	return l
}

// aad is what the cipher binds a segment to: the file, what stands before, and
// the header of the segment itself.
func aad(first, previous Hash, header []byte) []byte {
	out := make([]byte, 0, 2*len(first)+aadSize)
	out = append(append(out, first[:]...), previous[:]...)
	return append(out, header[:aadSize]...)
}

// seal appends one segment to dst and moves both chains of keys on.
func (w *Writer) seal(dst []byte, s Segment, plain []byte, e Effort) ([]byte, Leaf, error) {
	scratch := w.o.Codecs.buffer()
	defer w.o.Codecs.release(scratch)
	packed, codec := w.o.Codecs.compress(*scratch, plain, e)
	if codec != CodecNone {
		*scratch = packed
	}
	s.Codec, s.Raw = codec, uint32(len(plain))
	return w.sealPacked(dst, s, packed)
}

func (w *Writer) sealPacked(dst []byte, s Segment, packed []byte) ([]byte, Leaf, error) {
	key := w.main
	if s.Class == ClassStrict {
		key = w.strict
	}
	cipher, err := key.aead()
	if err != nil {
		return nil, Leaf{}, w.fail(err)
	}
	s.Number, s.Length = w.chain.number, uint32(len(packed)+tagSize)
	start := len(dst)
	dst = s.encode(slices.Grow(dst, segmentSize+len(packed)+tagSize))
	dst = append(dst, make([]byte, segmentSize-aadSize)...)
	dst = cipher.Seal(dst, nonce(s.Number), packed, aad(w.chain.first, w.chain.previous, dst[start:]))
	l := w.chain.add(dst, start, &s)
	w.main.step()
	if w.strict != nil {
		w.strict.step()
	}
	return dst, l, nil
}

func (w *Writer) fail(err error) error {
	w.err = err
	w.Wipe()
	return w.err
}

func (w *Writer) write(raw []byte) error {
	if err := writeAll(w.out, raw); err != nil {
		return w.fail(err)
	}
	return nil
}

// Add takes one frame and returns its position. The data is copied. ErrFull
// asks for a Seal first; any other error is final.
func (w *Writer) Add(f Frame) (Position, error) {
	if w.err != nil {
		return 0, w.err
	}
	if len(f.Data) > MaxFrame {
		return 0, fmt.Errorf("a frame of %d bytes is larger than %d", len(f.Data), MaxFrame)
	}
	if !f.Kind.Known() {
		return 0, fmt.Errorf("unknown kind of frame %q", byte(f.Kind))
	}
	if w.frames() > 0 && w.Pending()+len(f.Data)+frameHead > SegmentTarget {
		return 0, ErrFull
	}
	micros := w.open(f.Time)
	h := &w.mainHalf
	switch f.Kind {
	case KindInput:
		w.in += int64(len(f.Data))
		if w.strict != nil {
			h = &w.strictHalf
		}
	case KindOutput, KindStderr, KindGate:
		w.bytes += int64(len(f.Data))
	}
	w.last++
	h.add(w.last, f.Kind, micros, f.Data)
	return w.last, nil
}

// open begins a group if none is open.
func (w *Writer) open(t time.Time) int64 {
	micros := t.UnixMicro()
	if w.Pending() == 0 {
		w.begin, w.baseMicros, w.lastMicros, w.groupOut = time.UnixMicro(micros).UTC(), micros, micros, w.bytes
		for _, h := range []*half{&w.mainHalf, &w.strictHalf} {
			h.position, h.micros, h.count = w.first, micros, 0
		}
	}
	w.lastMicros = max(w.lastMicros, micros)
	return micros
}

// Keyframe stores a snapshot of the screen as it is before the next frame.
// The format of the snapshot is its maker's. ErrFull as for Add.
func (w *Writer) Keyframe(t time.Time, snapshot []byte) error {
	if w.err != nil {
		return w.err
	}
	if len(snapshot) > MaxKeyframe {
		return fmt.Errorf("a keyframe of %d bytes is larger than %d", len(snapshot), MaxKeyframe)
	}
	if w.frames() > 0 && w.Pending()+len(snapshot)+frameHead > SegmentTarget {
		return ErrFull
	}
	if w.frames() == 0 {
		// Nothing came after the last one, which this one replaces.
		w.mainHalf.reset()
		w.pending = w.pending[:0]
	}
	micros := w.open(t)
	w.pending = append(w.pending, keyframe{position: w.last + 1, micros: micros})
	w.mainHalf.add(w.last+1, KindKeyframe, micros, snapshot)
	return nil
}

// frames is how many frames the open group has.
func (w *Writer) frames() uint32 { return w.mainHalf.count + w.strictHalf.count }

// Pending is how many bytes wait to be sealed.
func (w *Writer) Pending() int { return w.mainHalf.size() + w.strictHalf.size() }

// Due reports whether the open segment has the size or the age to be sealed.
func (w *Writer) Due(now time.Time) bool {
	return w.frames() > 0 && (w.Pending() >= SegmentTarget || now.Sub(w.begin) >= SegmentAge)
}

// Last is the position of the last frame that was added.
func (w *Writer) Last() Position { return w.last }

// Head is what NewWriter wrote, as Verify shows it: the part before the first
// segment, with Type 0, and the description.
func (w *Writer) Head() []Leaf { return w.head[:] }

// Next is the number of the next segment.
func (w *Writer) Next() uint32 { return w.chain.number }

// JournalKey is the key under which the journal seals frames of a class that
// are added while segment Next is open, and that number. After a crash the
// auditors derive it again (see JournalKeys); the Writer forgets it at Seal.
func (w *Writer) JournalKey(c Class) (segment uint32, key [32]byte, err error) {
	switch {
	case w.err != nil:
		return 0, key, w.err
	case c == ClassMain:
		return w.chain.number, w.main.derive(3), nil
	case c == ClassStrict && w.strict != nil:
		return w.chain.number, w.strict.derive(3), nil
	}
	return 0, key, fmt.Errorf("this recording has no class %s", c)
}

// Seal writes what was collected and returns a leaf for each segment: none,
// one or two. A keyframe without a frame waits for the next Seal.
func (w *Writer) Seal(e Effort) ([]Leaf, error) {
	if w.err != nil {
		return nil, w.err
	}
	span := w.frames()
	if span == 0 {
		return nil, nil
	}
	for _, k := range w.pending {
		k.number = w.chain.number
		w.index.addKeyframe(k)
	}
	w.index.addPoint(point{number: w.chain.number, offset: w.chain.offset, first: w.first, begin: w.baseMicros, last: w.lastMicros, out: w.groupOut})
	buffer := w.o.Codecs.buffer()
	defer w.o.Codecs.release(buffer)
	plain := w.o.Codecs.buffer()
	defer w.o.Codecs.release(plain)
	raw := (*buffer)[:0]
	var leaves []Leaf
	for _, part := range []struct {
		class Class
		half  *half
	}{{ClassMain, &w.mainHalf}, {ClassStrict, &w.strictHalf}} {
		if part.half.size() == 0 {
			continue
		}
		s := Segment{Type: TypeFrames, Class: part.class, First: w.first, Span: span, Count: part.half.count, Time: w.begin}
		var leaf Leaf
		var err error
		*plain = part.half.encode((*plain)[:0])
		if raw, leaf, err = w.seal(raw, s, *plain, e); err != nil {
			return nil, err
		}
		leaves = append(leaves, leaf)
	}
	*buffer = raw
	if err := w.write(raw); err != nil {
		return nil, err
	}
	w.first, w.pending = w.last+1, w.pending[:0]
	w.mainHalf.reset()
	w.strictHalf.reset()
	return leaves, nil
}

// Summary says what a file holds once it is closed.
type Summary struct {
	Facts  Facts
	Root   Hash
	Size   int64 // of the whole file
	Leaves []Leaf
}

// Close seals what is left, writes the trailer and forgets the keys. The
// leaves are those of the last Seal.
func (w *Writer) Close(end time.Time, reason string) (Summary, error) {
	leaves, err := w.Seal(EffortBest)
	if err != nil {
		return Summary{}, err
	}
	root := w.chain.tree.Root()
	f := Facts{BytesIn: w.in, BytesOut: w.bytes, End: end.UTC().Truncate(time.Microsecond), Frames: uint64(w.last),
		Offset: w.chain.offset, Reason: reason, Root: hex.EncodeToString(root[:]), Segments: w.chain.number}
	cipher, err := w.main.aead()
	if err != nil {
		return Summary{}, w.fail(err)
	}
	plain := w.index.encode()
	packed, codec := w.o.Codecs.compress(nil, plain, EffortBest)
	sealed := cipher.Seal([]byte{byte(codec)}, nonce(w.chain.number), packed, indexAAD(w.chain.first, root))
	raw, err := encodeTrailer(&f, sealed, len(plain), w.o.Signer)
	if err != nil {
		return Summary{}, w.fail(err)
	}
	if err := w.write(raw); err != nil {
		return Summary{}, err
	}
	w.err = ErrClosed
	w.Wipe()
	return Summary{Facts: f, Root: root, Size: w.chain.offset + int64(len(raw)), Leaves: leaves}, nil
}

// Wipe forgets keys and frames without writing anything, for when the
// recording has failed. The Writer is of no use afterwards.
func (w *Writer) Wipe() {
	if w.err == nil {
		w.err = ErrClosed
	}
	for _, r := range []*ratchet{w.main, w.strict} {
		if r != nil {
			r.wipe()
		}
	}
	w.mainHalf.reset()
	w.strictHalf.reset()
	w.mainHalf, w.strictHalf = half{}, half{}
}

// verifyKey is the public half of a node's key, if it is the one that signs h.
func verifyKey(h *Header, signer ed25519.PrivateKey) error {
	if len(signer) != ed25519.PrivateKeySize {
		return errors.New("the node's signing key is missing")
	}
	if SignerID(signer.Public().(ed25519.PublicKey)) != h.Signer {
		return &FormatError{Segment: -1, Reason: "the recording belongs to a node with another signing key"}
	}
	return nil
}
