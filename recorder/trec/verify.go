package trec

import (
	"crypto/ed25519"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
)

// Finding is one thing that verification has to say.
type Finding struct {
	Code    string `json:"code"`             // stable, for scripts
	Text    string `json:"text"`             // one sentence for a person
	Segment int64  `json:"segment"`          // number; -1: before the first
	Offset  int64  `json:"offset"`           // byte in the file
	Broken  bool   `json:"broken,omitempty"` // evidence of change, not a note
}

// The codes of findings; docs/format-recording.md says what each means.
const (
	CodeFormat    = "format"    // not readable as a file of this format
	CodeVersion   = "version"   // of another version of the format
	CodeOtherKey  = "other-key" // names another signer than the given key
	CodeChain     = "chain"     // a segment, or the trailer, is changed, missing, repeated or swapped
	CodeRoot      = "root"      // the root at the end is not that of the segments
	CodeSignature = "signature" // the signature at the end does not fit
	CodeCut       = "cut"       // ends inside a segment or the trailer
	CodeNoEnd     = "no-end"    // ends on the boundary of a segment, without the signed end
)

// unproved is what a file without a signed end leaves open.
const unproved = "; what is before it fits together, and only the ledger can say whether it is what was recorded"

// Report is what verification found in one file.
type Report struct {
	Session  string    `json:"session,omitempty"`
	Node     string    `json:"node,omitempty"`
	Epoch    string    `json:"epoch,omitempty"`
	Ending   Ending    `json:"ending"`
	Reason   string    `json:"reason,omitempty"`
	Intact   bool      `json:"intact"`   // no byte that is present was found changed
	Complete bool      `json:"complete"` // the signed end is there and fits
	Segments uint32    `json:"segments"`
	Frames   uint64    `json:"frames"`
	Moved    uint64    `json:"moved,omitempty"` // of the frames, in segments of type W
	Bytes    int64     `json:"bytes"`           // that verify, from the start
	Root     string    `json:"root"`            // hex, of what verifies before the trailer
	Start    time.Time `json:"start"`
	End      time.Time `json:"end"` // signed, or the time of the last segment
	Facts    *Facts    `json:"facts,omitempty"`
	Findings []Finding `json:"findings,omitempty"`
}

func (r *Report) add(f Finding) {
	r.Findings = append(r.Findings, f)
	if f.Broken {
		r.Intact, r.Complete = false, false
	}
}

// Text is the report for a person.
func (r Report) Text() string {
	var b strings.Builder
	state := "intact"
	if !r.Intact {
		state = "NOT INTACT"
	}
	fmt.Fprintf(&b, "%s, %s, %d segments, %d frames, %d bytes\n", state, r.Ending, r.Segments, r.Frames, r.Bytes)
	for _, f := range r.Findings {
		mark := "note"
		if f.Broken {
			mark = "BROKEN"
		}
		fmt.Fprintf(&b, "%s: %s: segment %d at byte %d: %s\n", mark, f.Code, f.Segment, f.Offset, f.Text)
	}
	return b.String()
}

// Verify checks a recording with the node's public key alone: the structure,
// order and density, every checksum, the root and the signature. visit, if not
// nil, sees each leaf of the tree: the part before the first segment as a Leaf
// with Type 0, and then every segment; an error of it ends the check. The error
// is about reading; what is wrong with the content is in the report.
//
// A file without a signed end has no signature, so its report is intact but
// not complete: only the leaves that the ledger holds show that it was not
// rewritten.
func Verify(r io.Reader, key ed25519.PublicKey, visit func(Leaf) error) (Report, error) {
	report := Report{Ending: EndingOpen, Intact: true}
	if len(key) != ed25519.PublicKeySize {
		return report, errors.New("the node's public key is missing")
	}
	s, err := newScanner(r)
	if err != nil {
		return report, report.fault(err)
	}
	h := s.prelude.header
	report.Session, report.Node, report.Epoch, report.Start, report.End = h.Session, h.Node, h.Epoch, h.Start, h.Start
	if h.Signer != SignerID(key) {
		report.add(Finding{Code: CodeOtherKey, Segment: -1, Broken: true,
			Text: fmt.Sprintf("the file says that it was signed by another key than the given one (node %s)", h.Node)})
		return report, nil
	}
	if visit != nil {
		err = visit(Leaf{Hash: s.first})
	}
	report.reached(s)
	for err == nil {
		var l *Leaf
		if l, err = s.next(); err != nil {
			return report, report.ended(s, key, err)
		}
		report.End = l.Time
		report.reached(s)
		if visit != nil {
			err = visit(*l)
		}
	}
	return report, err
}

// reached takes over how far the scan has come.
func (r *Report) reached(s *scanner) {
	root := s.tree.Root()
	r.Segments, r.Bytes, r.Moved, r.Root = s.order.number, s.offset, s.moved, hex.EncodeToString(root[:])
	r.Frames = uint64(max(s.order.next, 1)) - 1
}

// ended judges why there is no further segment.
func (r *Report) ended(s *scanner, key ed25519.PublicKey, err error) error {
	if !errors.Is(err, io.EOF) {
		err = r.fault(err)
		if s.wrongRoot {
			f := &r.Findings[len(r.Findings)-1]
			f.Code = CodeRoot
			f.Text = "the root in the trailer is not that of the segments: something before was changed, and its checksums were made to fit; the ledger's leaves tell what"
		}
		return err
	}
	t := s.trailer
	place := Finding{Segment: int64(s.order.number), Offset: s.offset}
	switch {
	case t == nil && (s.order.number == 0 || s.midGroup()):
		place.Code, place.Broken = CodeCut, s.order.number == 0
		place.Text = "the file ends where a segment is missing" + unproved
	case t == nil:
		place.Code = CodeNoEnd
		place.Text = "there is no signed end: the session is still open, the node crashed and has not restarted, or the end was cut off" + unproved
	case !t.signedBy(key):
		place.Code, place.Broken = CodeSignature, true
		place.Text = "the signature at the end is not by the node's key: the file was made by somebody else, or changed"
	default:
		r.Ending, r.Reason, r.End, r.Complete, r.Facts = endingOf(&t.facts), t.facts.Reason, t.facts.End, true, &t.facts
		r.Bytes += t.size
		return nil
	}
	r.add(place)
	return nil
}

// fault makes a finding of what stopped the scan.
func (r *Report) fault(err error) error {
	var format *FormatError
	if !errors.As(err, &format) {
		return err
	}
	f := Finding{Code: CodeChain, Segment: format.Segment, Offset: format.Offset, Broken: true,
		Text: format.Reason + "; nothing from here on can be trusted" + unproved}
	switch {
	case format.Version != 0:
		f.Code, f.Text = CodeVersion, format.Reason
	case format.Cut:
		f.Code, f.Broken = CodeCut, format.Segment <= 0
		f.Text = format.Reason + "; what came after is gone or was not yet written" + unproved
	case format.Segment < 0:
		f.Code, f.Text = CodeFormat, format.Reason
	}
	r.add(f)
	return nil
}
