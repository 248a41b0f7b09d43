// Package trec is the recording format: one sealed file for each session.
//
// A Writer collects the frames of one live session and seals them, when its
// owner says so, into segments: compressed, encrypted under a key that is
// wiped with the segment, and hashed into a Merkle tree whose root the node
// signs at the end. A Reader plays a file from its start in constant memory; a
// File seeks in it by the encrypted index and the terminal keyframes. Verify
// checks a file with the node's public key alone, since hashes and signature
// are over the sealed bytes. Resume continues a file whose writer died, which
// needs none of the session's keys.
//
// There are two classes of frames. What was typed in a terminal is strict and
// under a key of its own; everything else is main. Frames are numbered across
// both, so that order and completeness can be checked without either key.
//
// Every byte that is read counts as hostile: a length is bounded before memory
// is taken, a compressed segment may expand to exactly the size that it
// declares and no further, and a fault is a *FormatError that names the place.
//
// The package refuses to drop or change a frame, to write a segment number
// twice, and to keep an opening key: it knows only the public recipients. It
// decides nothing about time: when to seal is its caller's affair (see Due). It
// does not sync, name or move files. docs/format-recording.md describes the format
// byte by byte, and a copy of testdata holds its vectors.
package trec

import (
	"errors"
	"fmt"
	"time"
)

// Kind says what a frame is. The values are part of the format.
type Kind byte

// The kinds of frames.
const (
	KindOutput  Kind = 'o' // bytes of the data server's standard output
	KindStderr  Kind = 'e' // bytes of its standard error
	KindInput   Kind = 'i' // bytes of the client
	KindResize  Kind = 'r' // window: columns, rows, width and height in pixels, each uint32 big endian
	KindExit    Kind = 'x' // exit status (uint32), or 's' and the name of a signal
	KindChannel Kind = 'n' // channel: "open", "eof-in", "eof-out", "close"
	KindCommand Kind = 'c' // exact bytes of an exec request, or the name of a subsystem
	KindSignal  Kind = 'k' // signal that the client sent, name without SIG
	KindEnv     Kind = 'v' // NAME=value that was passed on
	KindGate    Kind = 'g' // bytes that the bastion itself wrote to the person
	KindMarker  Kind = 'm' // a note of the bastion

	KindTyped    Kind = 'C' // a command line that was recognised in a terminal, JSON
	KindFile     Kind = 'T' // a file operation, JSON: path, size, sha256, direction, decision
	KindPolicy   Kind = 'P' // a decision that took effect inside the session, JSON
	KindFiltered Kind = 'F' // what a filter removed from the frame before: see EncodeFiltered
	KindGap      Kind = 'G' // a stretch that could not be recorded, with the reason in UTF-8
	KindKeyframe Kind = 'K' // the screen before the frame of its position; see Writer.Keyframe
)

// Known reports whether a Writer takes frames of this kind. A Reader hands
// over the kinds that it does not know, too.
func (k Kind) Known() bool {
	switch k {
	case KindOutput, KindStderr, KindInput, KindResize, KindExit, KindChannel, KindCommand, KindSignal, KindEnv,
		KindGate, KindMarker, KindTyped, KindFile, KindPolicy, KindFiltered, KindGap:
		return true
	}
	return false
}

// Position is a place in the order of a recording's frames; the first frame
// is 1. A keyframe has the position of the frame that follows it and uses none up.
type Position uint64

// Frame is one thing that happened in a session.
type Frame struct {
	Kind Kind
	Time time.Time // kept to the microsecond
	Data []byte    // at most MaxFrame bytes
}

// Entry is a frame with its place, as it is read back.
type Entry struct {
	Position Position
	Kind     Kind
	Time     time.Time // UTC
	Strict   bool      // it was sealed under the stricter key
	Data     []byte    // valid until the next call
}

// Class says under which key a segment is sealed.
type Class byte

// The classes of segments.
const (
	ClassPlain  Class = 0 // not sealed by this package: type W only
	ClassMain   Class = 1
	ClassStrict Class = 2
)

func (c Class) String() string {
	switch c {
	case ClassPlain:
		return "plain"
	case ClassMain:
		return "main"
	case ClassStrict:
		return "strict"
	}
	return fmt.Sprintf("class %d", byte(c))
}

// Limits of the format, in bytes unless the name says otherwise.
const (
	// MaxFrame is the largest Data of one frame.
	MaxFrame = 1 << 20
	// MaxKeyframe is the largest snapshot of a screen.
	MaxKeyframe = 64 << 10
	// SegmentTarget is the size of collected frames at which a segment is due.
	SegmentTarget = 256 << 10
	// SegmentAge is the age of the oldest collected frame at which a segment is due.
	SegmentAge = 10 * time.Second

	// frameHead bounds a frame without its data: three varints and the kind.
	frameHead = 3*10 + 1
	// maxPlain bounds the plaintext of a segment: a full one, one frame more
	// than fits, and a keyframe.
	maxPlain = SegmentTarget + MaxFrame + MaxKeyframe + 2*frameHead
	tagSize  = 16
	// maxPayload bounds what a reader allocates for a segment.
	maxPayload = maxPlain + tagSize
	maxHeader  = 16 << 10
	// maxEnvelope has room for more than a dozen post-quantum recipients.
	maxEnvelope = 64 << 10
	maxMeta     = 64 << 10
	maxFacts    = 16 << 10
	maxIndex    = 1 << 20
)

// ErrSealed says that no given identity opens what was asked for.
var ErrSealed = errors.New("sealed: none of the given identities opens this recording")

// ErrFull is returned by Writer.Add when the frame does not fit any more into
// the open segment: seal it, then add again.
var ErrFull = errors.New("the open segment is full")

// ErrClosed is returned by a Writer after Close or Wipe.
var ErrClosed = errors.New("the recording is closed")

// FormatError says where a file stops being readable, and why.
type FormatError struct {
	Offset  int64 // of the part that was expected, from the start of the file
	Segment int64 // number of the segment that was expected; -1: before the first
	Reason  string
	Cut     bool // the file ends here: torn by a crash, cut off, or still being written
	// Version is set when the file says that it is of another version of the format.
	Version int

	ended bool // the signed end stands before the fault: no crash leaves that
}

func (e *FormatError) Error() string {
	if e.Segment < 0 {
		return fmt.Sprintf("byte %d: %s", e.Offset, e.Reason)
	}
	return fmt.Sprintf("segment %d at byte %d: %s", e.Segment, e.Offset, e.Reason)
}
