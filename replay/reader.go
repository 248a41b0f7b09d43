// Package replay reads what package recorder wrote: it verifies recordings and
// ledgers, plays and exports sessions.
//
// Verify needs the node's public key and nothing else: no bastion, no
// database, no private key, since hashes and signatures are over the sealed
// bytes. Reading needs the auditors' identities, so it happens where the
// auditor is. Memory stays constant however long a session was.
//
// The package only reads. It never repairs, never writes next to what it
// reads, and treats every byte of a file as hostile: sizes are bounded before
// memory is taken, and what a player sends to a terminal can not make the
// terminal answer or change anything but its picture.
package replay

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"os"

	"filippo.io/age"

	"sallyport/recorder"
	"sallyport/recorder/trec"
)

// Keys open a recording.
type Keys struct {
	Ordinary []age.Identity // required
	Strict   []age.Identity // opens what was typed in terminals; may be empty
	// Node is the public key that must have signed every block; nil: the
	// signatures are not looked at (they are by Verify).
	Node ed25519.PublicKey
}

// KeysOf makes Keys of an epoch's private file.
func KeysOf(k recorder.EpochKeys, node ed25519.PublicKey) (Keys, error) {
	ordinary, strict, err := k.Identities()
	return Keys{Ordinary: ordinary, Strict: strict, Node: node}, err
}

// Ending says how a recording ends.
type Ending = trec.Ending

// The ways a recording ends. A cut file and one that is still being written
// look the same; the ledger or a later look tells which it is.
const (
	EndingComplete = trec.EndingComplete
	EndingCrash    = trec.EndingCrash
	EndingOpen     = trec.EndingOpen
)

// Reader iterates over the frames of a recording.
type Reader struct {
	blocks *recorder.BlockReader
	opener *recorder.Opener
	keys   Keys
	header recorder.Header
	meta   recorder.Meta
	closer io.Closer
	main   half
	strict half
	sealed uint64
	end    *recorder.End
	err    error
}

// half is one block of a group with its next frame at hand.
type half struct {
	decoder recorder.FrameDecoder
	next    recorder.Entry
	ok      bool
}

func (h *half) begin(i recorder.BlockInfo, plain []byte) error {
	h.decoder = recorder.NewFrameDecoder(i, plain)
	return h.advance()
}

func (h *half) advance() (err error) {
	h.next, h.ok, err = h.decoder.Next()
	return err
}

// OpenFile opens a recording for reading; the caller closes it.
func OpenFile(path string, k Keys) (*Reader, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	r, err := Open(f, k)
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	r.closer = f
	return r, nil
}

// Open begins to read a recording. It fails with recorder.ErrSealed when no
// identity fits.
func Open(r io.Reader, k Keys) (*Reader, error) {
	blocks, err := recorder.NewBlockReader(r)
	if err != nil {
		return nil, err
	}
	d := &Reader{blocks: blocks, keys: k}
	b, err := d.block()
	if err != nil {
		return nil, noEnd(err)
	}
	if d.header, err = recorder.ParseHeader(b.Payload); err != nil {
		return nil, err
	}
	if d.opener, err = recorder.NewOpener(d.header, k.Ordinary, k.Strict); err != nil {
		return nil, err
	}
	if b, err = d.block(); err != nil {
		return nil, noEnd(err)
	}
	d.meta, err = d.opener.OpenMeta(b)
	return d, err
}

func noEnd(err error) error {
	if errors.Is(err, io.EOF) {
		return errors.New("the file ends inside its header")
	}
	return err
}

// block reads the next block and checks its signature if a key is known.
func (r *Reader) block() (*recorder.Block, error) {
	b, err := r.blocks.Next()
	if err != nil {
		return nil, err
	}
	if r.keys.Node != nil && !b.SignedBy(r.keys.Node) {
		return nil, &recorder.FormatError{Offset: b.Offset, Sequence: b.Sequence, Reason: "it was not signed by the node's key, or was changed"}
	}
	return b, nil
}

// Header is the public description.
func (r *Reader) Header() recorder.Header { return r.header }

// Meta is the sealed description.
func (r *Reader) Meta() recorder.Meta { return r.meta }

// Sealed is how many frames were passed over because no strict identity was given.
func (r *Reader) Sealed() uint64 { return r.sealed }

// CanReadTyped reports whether what was typed can be read.
func (r *Reader) CanReadTyped() bool {
	return len(r.header.EnvelopeStrict) == 0 || r.opener.CanOpen(recorder.ClassStrict)
}

// End is the recording's last block, nil before Next has returned io.EOF and
// in a recording without one.
func (r *Reader) End() *recorder.End { return r.end }

// Ending says how the recording ends, once Next has returned io.EOF.
func (r *Reader) Ending() Ending { return endingOf(r.end) }

func endingOf(e *recorder.End) Ending {
	switch {
	case e == nil:
		return EndingOpen
	case e.Reason == recorder.ReasonCrashed:
		return EndingCrash
	}
	return EndingComplete
}

// Next returns the next frame in order, io.EOF after the last. Data is valid
// until the next call. A file that is cut inside a block ends there, see
// Ending; changed bytes are an error.
func (r *Reader) Next() (recorder.Entry, error) {
	for r.err == nil {
		h := &r.main
		if !h.ok || r.strict.ok && r.strict.next.Position < h.next.Position {
			h = &r.strict
		}
		if h.ok {
			e := h.next
			r.err = h.advance()
			return e, nil
		}
		r.err = r.group()
	}
	return recorder.Entry{}, r.err
}

// group reads the blocks of the next group, or the end.
func (r *Reader) group() error {
	b, err := r.block()
	var format *recorder.FormatError
	if errors.As(err, &format) && format.Cut {
		return io.EOF
	}
	if err != nil {
		return err
	}
	if b.Type == recorder.BlockEnd {
		end, err := recorder.ParseEnd(b.Payload)
		if err != nil {
			return err
		}
		r.end = &end
		return nil // the next read finds the end of the file, or bytes that should not be
	}
	if b.Type != recorder.BlockData || b.Class == recorder.ClassPlain {
		return &recorder.FormatError{Offset: b.Offset, Sequence: b.Sequence, Reason: "a block of this type has no place in a recording"}
	}
	if err := r.take(b); err != nil || !r.blocks.MidGroup() {
		return err
	}
	if b, err = r.block(); err != nil {
		if errors.Is(err, io.EOF) || errors.As(err, &format) && format.Cut {
			return nil // half a group is all there is; the next read says so again
		}
		return err
	}
	return r.take(b)
}

func (r *Reader) take(b *recorder.Block) error {
	if !r.opener.CanOpen(b.Class) {
		r.sealed += uint64(b.Count)
		return nil
	}
	plain, err := r.opener.Open(b)
	if err != nil {
		return err
	}
	if b.Class == recorder.ClassStrict {
		return r.strict.begin(b.BlockInfo, plain)
	}
	return r.main.begin(b.BlockInfo, plain)
}

// Close closes the file of OpenFile.
func (r *Reader) Close() error {
	if r.closer == nil {
		return nil
	}
	return r.closer.Close()
}
