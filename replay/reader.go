// Package replay reads what package recorder wrote: it verifies recordings and
// ledgers, plays and exports sessions.
//
// Verify needs the node's public key and nothing else: no bastion, no
// database, no private key, since hashes and signatures are over the sealed
// bytes. Reading needs the auditors' identities, so it happens where the
// auditor is. Memory stays constant however long a session was.
//
// A Reader goes through a recording from its start, out of a file or a stream.
// A File goes to any time of it, by the index and the pictures of the screen
// that the node keeps in the recording. Export and Lines turn a session into
// what other programs read.
//
// The package only reads. It never repairs, never writes next to what it
// reads, and treats every byte of a file as hostile: sizes are bounded before
// memory is taken, and what a player sends to a terminal can not make the
// terminal answer or change anything but its picture.
package replay

import (
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"filippo.io/age"

	"sallyport/recorder"
	"sallyport/recorder/trec"
)

// Keys open a recording.
type Keys struct {
	Ordinary []age.Identity // required
	Strict   []age.Identity // opens what was typed in terminals; may be empty
	// Node is the public key that must have signed the end; nil: the
	// signature is not looked at (it is by Verify).
	Node ed25519.PublicKey
}

// KeysOf makes Keys of an epoch's private file.
func KeysOf(k recorder.EpochKeys, node ed25519.PublicKey) (Keys, error) {
	ordinary, strict, err := k.Identities()
	return Keys{Ordinary: ordinary, Strict: strict, Node: node}, err
}

// trec is the keys as the format's package takes them.
func (k Keys) trec() trec.Keys {
	return trec.Keys{Main: k.Ordinary, Strict: k.Strict, Node: k.Node, Journal: recorder.JournalFrames{}}
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
	frames *trec.Reader
	meta   recorder.Meta
	closer io.Closer
}

// OpenFile opens a recording for reading from its start; the caller closes it.
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

// Open begins to read a recording. It fails with trec.ErrSealed when no
// identity fits, with a *trec.FormatError when the file is not sound up to
// the end of its description, and with ErrOther when the description is not
// that of the header's session.
func Open(r io.Reader, k Keys) (*Reader, error) {
	frames, err := trec.NewReader(r, k.trec())
	if err != nil {
		return nil, err
	}
	meta, err := parseMeta(frames.Meta(), frames.Header())
	if err != nil {
		return nil, err
	}
	return &Reader{frames: frames, meta: meta}, nil
}

// ErrOther says that a recording is not of the session that it says it is of.
var ErrOther = errors.New("the sealed description is of another session, node or epoch than the header")

// parseMeta reads the sealed description, which must be of the session that the header names.
func parseMeta(text []byte, h trec.Header) (m recorder.Meta, err error) {
	if err := json.Unmarshal(text, &m); err != nil {
		return m, fmt.Errorf("the description of the session: %w", err)
	}
	if m.Session != h.Session || m.Node != h.Node || m.Epoch != h.Epoch {
		return m, ErrOther
	}
	return m, nil
}

// Header is the public description.
func (r *Reader) Header() trec.Header { return r.frames.Header() }

// Meta is the sealed description.
func (r *Reader) Meta() recorder.Meta { return r.meta }

// Sealed is how many frames were passed over because no identity was given
// that opens them.
func (r *Reader) Sealed() uint64 { return r.frames.Sealed() }

// CanReadTyped reports whether what was typed can be read.
func (r *Reader) CanReadTyped() bool { return r.frames.CanReadStrict() }

// End is the signed end of the recording, nil before Next has returned io.EOF
// and in a recording without one.
func (r *Reader) End() *trec.Facts { return r.frames.Facts() }

// Ending says how the recording ends, once Next has returned io.EOF.
func (r *Reader) Ending() Ending { return r.frames.Ending() }

// Next returns the next frame in order, io.EOF after the last. Data is valid
// until the next call. A file that is cut inside a segment ends there, see
// Ending; changed bytes are an error. The pictures of the screen that the node
// added are no frames of the session, and are passed over.
func (r *Reader) Next() (trec.Entry, error) {
	for {
		e, err := r.frames.Next()
		if err != nil || e.Kind != trec.KindKeyframe {
			return e, err
		}
	}
}

// Close closes the file of OpenFile.
func (r *Reader) Close() error {
	if r.closer == nil {
		return nil
	}
	return r.closer.Close()
}

// shown reports whether the bytes of a frame were shown to the person.
func shown(k trec.Kind) bool {
	return k == trec.KindOutput || k == trec.KindStderr || k == trec.KindGate
}

// File is a recording of which any part can be read. It is for one goroutine
// at a time, and of the Readers that it returns only the newest may be used.
type File struct {
	file    *trec.File
	meta    recorder.Meta
	closer  io.Closer
	noIndex bool // Reindex was tried
}

// OpenAt opens a recording of size bytes.
func OpenAt(r io.ReaderAt, size int64, k Keys) (*File, error) {
	file, err := trec.OpenAt(r, size, k.trec())
	if err != nil {
		return nil, err
	}
	meta, err := parseMeta(file.Meta(), file.Header())
	if err != nil {
		return nil, err
	}
	return &File{file: file, meta: meta}, nil
}

// OpenPath opens the recording at a path; the caller closes it. Of a file that
// still grows, what it has now is read.
func OpenPath(path string, k Keys) (*File, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	info, err := file.Stat()
	if err != nil {
		file.Close()
		return nil, err
	}
	f, err := OpenAt(file, info.Size(), k)
	if err != nil {
		file.Close()
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	f.closer = file
	return f, nil
}

// Header is the public description.
func (f *File) Header() trec.Header { return f.file.Header() }

// Meta is the sealed description.
func (f *File) Meta() recorder.Meta { return f.meta }

// Frames reads from the start. The Reader ends with the File.
func (f *File) Frames() (*Reader, error) {
	frames, err := f.file.Frames()
	if err != nil {
		return nil, err
	}
	return &Reader{frames: frames, meta: f.meta}, nil
}

// Seek goes to a time after the start: it returns the last picture of the
// screen that was kept before it, and a Reader that goes on from there. The
// caller plays the frames up to that time at once. A recording without an index
// - its node crashed, or its session still runs - is read once to make one,
// which stays in memory and is small however long the session was.
func (f *File) Seek(to time.Duration) (*Reader, trec.Snapshot, error) {
	if !f.file.Indexed() && !f.noIndex {
		f.noIndex = true
		var fault *trec.FormatError
		// Before a fault there is an index; whoever reads on meets the fault itself.
		if err := f.file.Reindex(); err != nil && !errors.As(err, &fault) {
			return nil, trec.Snapshot{}, fmt.Errorf("read the recording to find places in it: %w", err)
		}
	}
	frames, snapshot, err := f.file.Seek(f.meta.Start.Add(to))
	if err != nil {
		return nil, snapshot, err
	}
	return &Reader{frames: frames, meta: f.meta}, snapshot, nil
}

// Close closes the file of OpenPath.
func (f *File) Close() error {
	if f.closer == nil {
		return nil
	}
	return f.closer.Close()
}
