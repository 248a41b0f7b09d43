package replay

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"sallyport/recorder"
)

// Finding is one thing that verification has to say.
type Finding struct {
	File   string `json:"file"`
	Code   string `json:"code"`             // stable, for scripts
	Text   string `json:"text"`             // one sentence for a person
	Block  int64  `json:"block"`            // number of the block, or entry of a ledger; -1: the file as a whole
	Offset int64  `json:"offset"`           // byte in the file; -1: the file as a whole
	Broken bool   `json:"broken,omitempty"` // evidence of change, not a note
}

// String is the finding on one line.
func (f Finding) String() string {
	mark := "note"
	if f.Broken {
		mark = "BROKEN"
	}
	place := ""
	if f.Offset >= 0 {
		place = fmt.Sprintf(" block %d at byte %d:", f.Block, f.Offset)
	}
	return fmt.Sprintf("%s: %s:%s %s", mark, f.File, place, f.Text)
}

// The codes of findings; docs/format-recording.md says what each means.
const (
	CodeFormat       = "format"         // not readable as a file of this format
	CodeChain        = "chain"          // a block is changed, missing, repeated or swapped
	CodeOtherKey     = "other-key"      // signed by another key than the given one
	CodeSignature    = "signature"      // a block's signature does not fit
	CodeCut          = "cut"            // ends inside a block
	CodeNoEnd        = "no-end"         // ends on a block boundary, without the signed end
	CodeEnd          = "end"            // the end contradicts the blocks before it
	CodeName         = "name"           // the file's name is not that of its session
	CodeEntry        = "entry"          // a ledger entry contradicts its place
	CodeMissing      = "missing"        // the ledger names a recording that is not there
	CodeExtra        = "extra"          // a recording is there that the ledger does not name
	CodeHead         = "head"           // the recording's head is not the one in the ledger
	CodeClosed       = "closed"         // the ledger says closed, the recording has no end
	CodeNumbers      = "numbers"        // session numbers have a gap or a repetition
	CodeCheckpoint   = "checkpoint"     // the remembered checkpoint is not in the ledger
	CodeNotRecorded  = "never-recorded" // a session that failed before its recording began
	CodeDamaged      = "damaged"        // a file that was set aside, by the node or by somebody else
	CodeNotRecovered = "not-recovered"  // a recording failed, and the ledger does not have its head yet
	CodeNotYetClosed = "not-closed"     // a recording has an end, the ledger has no close yet
	CodeNotYetBegun  = "not-begun"      // the ledger has a session's open, its recording has no whole block yet
)

// Report is what verification found in one file.
type Report struct {
	File     string    `json:"file"`
	Type     string    `json:"type"` // recording or ledger
	Session  string    `json:"session,omitempty"`
	Node     string    `json:"node,omitempty"`
	Epoch    string    `json:"epoch,omitempty"`
	Ending   Ending    `json:"ending"` // of the part that verifies
	Reason   string    `json:"reason,omitempty"`
	Intact   bool      `json:"intact"` // every byte verifies
	Complete bool      `json:"complete"`
	Blocks   uint64    `json:"blocks"`
	Frames   uint64    `json:"frames"`
	Bytes    int64     `json:"bytes"` // that verify, from the start
	Head     string    `json:"head"`  // hex
	Start    time.Time `json:"start"`
	End      time.Time `json:"end"` // of the last block that verifies
	Findings []Finding `json:"findings,omitempty"`
}

func (r *Report) add(f Finding) {
	f.File = r.File
	r.Findings = append(r.Findings, f)
	r.Intact = r.Intact && !f.Broken
}

// Text is the report for a person: a line that sums up, then a line for each finding.
func (r Report) Text() string {
	var b strings.Builder
	state := "intact"
	if !r.Intact {
		state = "NOT INTACT"
	}
	ending := string(r.Ending) + ", "
	if r.Type == recorder.TypeLedger {
		ending = "" // a ledger has no end
	}
	fmt.Fprintf(&b, "%s: %s, %s%d blocks, %d frames, %d bytes\n", r.File, state, ending, r.Blocks, r.Frames, r.Bytes)
	for _, f := range r.Findings {
		fmt.Fprintln(&b, f)
	}
	return b.String()
}

// Verify checks a recording or ledger with the node's public key alone: the
// structure, the chain, every signature, order and density of frames, and the
// end. The error is about reading the file; what is wrong with its content is
// in the report.
func Verify(path string, key ed25519.PublicKey) (Report, error) {
	return verifyFile(path, key, func(r io.Reader) io.Reader { return r })
}

func verifyFile(path string, key ed25519.PublicKey, through func(io.Reader) io.Reader) (Report, error) {
	f, err := os.Open(path)
	if err != nil {
		return Report{}, err
	}
	defer f.Close()
	r, err := VerifyReader(through(f), filepath.Base(path), key, nil)
	if err == nil && r.Type == recorder.TypeRecording && r.Intact {
		// A file that was fetched may have any name; one that names a session names its own.
		if session, _ := sessionOf(filepath.Base(path)); strings.HasPrefix(session, "S-") && session != r.Session {
			r.add(Finding{Code: CodeName, Text: fmt.Sprintf("the file holds session %s: it was renamed", r.Session), Block: -1, Offset: -1})
		}
	}
	return r, err
}

// VerifyReader is Verify for a stream; visit, if not nil, sees each block that verifies.
func VerifyReader(in io.Reader, name string, key ed25519.PublicKey, visit func(*recorder.Block) error) (Report, error) {
	r := Report{File: name, Ending: EndingOpen, Intact: true}
	if len(key) != ed25519.PublicKeySize {
		return r, errors.New("the node's public key is missing")
	}
	blocks, err := recorder.NewBlockReader(in)
	for err == nil {
		var b *recorder.Block
		if b, err = blocks.Next(); err != nil {
			break
		}
		if !r.check(b, key) {
			return r, nil
		}
		if visit != nil {
			if err := visit(b); err != nil {
				return r, err
			}
		}
	}
	var format *recorder.FormatError
	switch {
	case errors.Is(err, io.EOF):
		r.atEnd(blocks)
	case !errors.As(err, &format):
		return r, err
	case format.Cut:
		r.add(Finding{Code: CodeCut, Block: int64(format.Sequence), Offset: format.Offset, Broken: r.Blocks == 0,
			Text: fmt.Sprintf("%s; what is before it is intact, what came after is gone or was not yet written", format.Reason)})
	case format.Offset == 0:
		r.add(Finding{Code: CodeFormat, Block: 0, Offset: 0, Broken: true, Text: format.Reason})
	default:
		r.add(Finding{Code: CodeChain, Block: int64(format.Sequence), Offset: format.Offset, Broken: true,
			Text: format.Reason + "; what is before it is intact, nothing from here on can be trusted"})
	}
	return r, nil
}

// check takes one block into the report; false: nothing after it can be trusted.
func (r *Report) check(b *recorder.Block, key ed25519.PublicKey) bool {
	broken := func(code, text string) bool {
		r.add(Finding{Code: code, Text: text, Block: int64(b.Sequence), Offset: b.Offset, Broken: true})
		return false
	}
	var h recorder.Header
	if b.Type == recorder.BlockHeader {
		var err error
		if h, err = recorder.ParseHeader(b.Payload); err != nil {
			return broken(CodeFormat, err.Error())
		}
	}
	if !b.SignedBy(key) {
		if b.Type == recorder.BlockHeader && h.Signer != recorder.SignerID(key) {
			return broken(CodeOtherKey, fmt.Sprintf("the file says that it was signed by another key than the given one (node %s)", h.Node))
		}
		return broken(CodeSignature, "the block, its signature, or something before it was changed; what is before it is intact, nothing from here on can be trusted")
	}
	switch b.Type {
	case recorder.BlockHeader:
		r.Type, r.Session, r.Node, r.Epoch, r.Start = h.Type, h.Session, h.Node, h.Epoch, h.Start
	case recorder.BlockData:
		if sealed := b.Class != recorder.ClassPlain; sealed != (r.Type == recorder.TypeRecording) {
			return broken(CodeFormat, "a block of this class has no place in this file")
		}
		if b.Count == b.Span || b.Class == recorder.ClassStrict {
			r.Frames = uint64(b.First) + uint64(b.Span) - 1
		}
	case recorder.BlockEnd:
		end, err := recorder.ParseEnd(b.Payload)
		if err != nil || r.Type != recorder.TypeRecording {
			return broken(CodeFormat, "the end block is not one of a recording")
		}
		r.Ending, r.Reason, r.Complete = endingOf(&end), end.Reason, true
		if end.Frames != r.Frames || end.Blocks != b.Sequence+1 {
			broken(CodeEnd, fmt.Sprintf("the end speaks of %d frames in %d blocks, there are %d in %d", end.Frames, end.Blocks, r.Frames, b.Sequence+1))
		}
	}
	r.Blocks, r.Bytes, r.Head, r.End = b.Sequence+1, b.Offset+b.Size(), fmt.Sprintf("%x", b.Chain), b.Time
	return true
}

// atEnd judges a file that ends on a block boundary.
func (r *Report) atEnd(blocks *recorder.BlockReader) {
	switch {
	case r.Blocks == 0:
		r.add(Finding{Code: CodeCut, Block: 0, Offset: blocks.Offset(), Broken: true, Text: "the file ends before its first block"})
	case r.Type == recorder.TypeRecording && !r.Complete:
		r.add(Finding{Code: CodeNoEnd, Block: int64(r.Blocks), Offset: r.Bytes,
			Text: "there is no signed end: the session is still open, the node crashed and has not restarted, or the end was cut off"})
	}
}

func endingOf(e *recorder.End) Ending {
	switch {
	case e == nil:
		return EndingOpen
	case e.Reason == recorder.ReasonCrashed:
		return EndingCrash
	}
	return EndingComplete
}
