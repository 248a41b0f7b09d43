package replay

import (
	"crypto/ed25519"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"time"

	"sallyport/recorder/tlog"
	"sallyport/recorder/trec"
)

// Extension ends the name of a recording's file, which begins with its session.
const Extension = ".trec"

// clockSkew is how far the clock of a node may be ahead of the verifier's
// before that is worth a note.
const clockSkew = time.Hour

// Report is what verification found in one recording. What trec.Report calls
// findings stands in Findings, with what was found out about the file's place.
type Report struct {
	File string `json:"file"`
	trec.Report
	// Proved is how many leaves of the recording's tree, from the first on, stand
	// in the ledger as they stand in the file: the part before the first segment
	// is one, and each segment. 0 without a ledger.
	Proved   uint64    `json:"proved"`
	Findings []Finding `json:"findings,omitempty"`
}

func (r *Report) add(f Finding) {
	r.Findings = append(r.Findings, f)
	if f.Broken {
		r.Intact, r.Complete = false, false
	}
}

// Text is the report for a person: a line that sums up, then a line for each finding.
func (r Report) Text() string {
	state := "intact"
	if !r.Intact {
		state = "NOT INTACT"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s, %s, %d segments, %d frames, %d bytes", onOneLine(r.File), state, r.Ending, r.Segments, r.Frames, r.Bytes)
	if r.Proved > 0 {
		fmt.Fprintf(&b, ", %d of %d leaves in the ledger", r.Proved, uint64(r.Segments)+1)
	}
	b.WriteByte('\n')
	for _, f := range r.Findings {
		fmt.Fprintln(&b, f)
	}
	return b.String()
}

// Verify checks a recording with the node's public key alone: the structure,
// order and density, every checksum, the root and the signature. The error is about reading the file; what is
// wrong with its content is in the report.
func Verify(path string, key ed25519.PublicKey) (Report, error) {
	in, err := tlog.OpenRegular(path)
	if err != nil {
		return Report{}, err
	}
	defer in.Close() // only read
	r, err := VerifyReader(in, filepath.Base(path), key, nil)
	if err != nil {
		return r, fmt.Errorf("%s: %w", path, err)
	}
	// A file that was fetched may have any name; one that names a session names its own.
	if session, _ := sessionOf(filepath.Base(path)); strings.HasPrefix(session, "S-") {
		r.checkName(session, false)
	}
	r.checkTimes(time.Now())
	return r, nil
}

// VerifyReader is Verify for a stream that has no name of its own: name only
// says in the findings what it is. visit, if not nil, sees each leaf of the tree
// (see trec.Verify).
func VerifyReader(in io.Reader, name string, key ed25519.PublicKey, visit func(trec.Leaf) error) (Report, error) {
	found, err := trec.Verify(in, key, visit)
	r := Report{File: name, Report: found}
	for _, f := range found.Findings {
		r.Findings = append(r.Findings, ofRecording(name, f))
	}
	r.Report.Findings = nil
	return r, err
}

// checkName holds the session that the file's name speaks of against the one in it.
func (r *Report) checkName(session string, broken bool) {
	if r.Session != "" && r.Session != session {
		r.add(about(r.File, CodeName, fmt.Sprintf("the file holds session %s: it was renamed, or put in the place of another", r.Session), broken))
	}
}

// checkTimes notes what claims to be of another day than today or before. It
// is a note, because clocks are set wrong more often than records.
func (r *Report) checkTimes(now time.Time) {
	for _, t := range []time.Time{r.Start, r.End} {
		if t.After(now.Add(clockSkew)) {
			r.add(about(r.File, CodeFuture, fmt.Sprintf("it speaks of %s, which has not come yet: the clock of the node or of this machine is wrong, or the file was made up",
				t.Format(time.RFC3339)), false))
			return
		}
	}
}
