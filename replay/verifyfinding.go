package replay

import (
	"fmt"
	"strconv"
	"strings"
	"unicode"

	"sallyport/recorder/tlog"
	"sallyport/recorder/trec"
)

// Finding is one thing that verification has to say.
type Finding struct {
	File    string `json:"file"`             // as it was found; of a ledger below its directory
	Code    string `json:"code"`             // stable, for scripts
	Text    string `json:"text"`             // what it is and what it means, for a person
	Segment int64  `json:"segment"`          // of a recording, from 0; -1: before the first, or the file as a whole
	Entry   int64  `json:"entry"`            // of the ledger, from 0; -1: not about one entry
	Offset  int64  `json:"offset"`           // byte in the file; -1: the file as a whole
	Broken  bool   `json:"broken,omitempty"` // evidence of change, or a proof that was asked for and is not there; else a note
}

// String is the finding on one line.
func (f Finding) String() string {
	mark := "note"
	if f.Broken {
		mark = "BROKEN"
	}
	var place []string
	if f.Segment >= 0 {
		place = append(place, fmt.Sprintf("segment %d", f.Segment))
	}
	if f.Entry >= 0 {
		place = append(place, fmt.Sprintf("entry %d", f.Entry))
	}
	if f.Offset >= 0 {
		place = append(place, fmt.Sprintf("byte %d", f.Offset))
	}
	if len(place) == 0 {
		return onOneLine(fmt.Sprintf("%s: %s: %s: %s", mark, f.Code, f.File, f.Text))
	}
	return onOneLine(fmt.Sprintf("%s: %s: %s, %s: %s", mark, f.Code, f.File, strings.Join(place, ", "), f.Text))
}

// onOneLine writes what could end the line, or move a terminal's cursor, as an escape: names and texts
// repeat what a file says of itself, and could else forge lines of the report.
func onOneLine(text string) string {
	var b strings.Builder
	for _, r := range text {
		if unicode.IsPrint(r) {
			b.WriteRune(r)
		} else {
			b.WriteString(strings.Trim(strconv.QuoteRuneToASCII(r), "'"))
		}
	}
	return b.String()
}

// The codes of findings; docs/format-recording.md says what each means.
const (
	// About one recording by itself.
	CodeFormat    = trec.CodeFormat
	CodeVersion   = trec.CodeVersion // of a recording, or of an entry of the ledger
	CodeOtherKey  = trec.CodeOtherKey
	CodeChain     = trec.CodeChain
	CodeRoot      = trec.CodeRoot
	CodeSignature = trec.CodeSignature
	CodeCut       = trec.CodeCut
	CodeNoEnd     = trec.CodeNoEnd
	CodeName      = "name"   // the file's name is not that of its session, or its node not the ledger's
	CodeFuture    = "future" // a time that has not come yet

	// About the ledger.
	CodeLedger      = "ledger"      // entries, tiles or checkpoint were changed, cut or are not signed by the key
	CodeEntry       = "entry"       // a public entry contradicts those before it
	CodeNumbers     = "numbers"     // session numbers have a gap or a repetition
	CodeCheckpoint  = "checkpoint"  // the ledger contradicts a checkpoint that was seen before
	CodeNode        = "node"        // the ledger of another node was seen before under the same key
	CodeReceipt     = "receipt"     // it does not hold what a receipt says
	CodeWitness     = "witness"     // the witnesses that were asked for did not cosign
	CodeUnwitnessed = "unwitnessed" // entries behind the newest checkpoint that witnesses cosigned
	CodeProof       = "proof"       // a proof of inclusion does not fit the recording

	// About recordings against the ledger.
	CodeMissing      = "missing"        // the ledger tells of a recording that is not there
	CodeExtra        = "extra"          // a recording is there that the ledger does not tell of
	CodeSegment      = "segment"        // a segment is not the one that the ledger tells of
	CodeShort        = "short"          // the recording ends before the last segment that the ledger tells of
	CodeHead         = "head"           // the whole recording is not the one that the ledger tells of
	CodeClosed       = "closed"         // the ledger says closed, the recording has no end
	CodeNotRecorded  = "never-recorded" // a session that failed before its recording began
	CodeDamaged      = "damaged"        // a file that was set aside, by the node or by somebody else
	CodeNotYetClosed = "not-closed"     // a recording has an end, the ledger has no close yet
	CodeUntold       = "untold"         // segments of a recording without an end, of which the ledger does not tell yet
	CodeNotYetBegun  = "not-begun"      // the ledger has a session's open, its recording has no whole segment yet
)

// about is a finding about a file as a whole.
func about(file, code, text string, broken bool) Finding {
	return Finding{File: file, Code: code, Text: text, Segment: -1, Entry: -1, Offset: -1, Broken: broken}
}

// ofRecording takes over what trec found.
func ofRecording(file string, f trec.Finding) Finding {
	return Finding{File: file, Code: f.Code, Text: f.Text, Segment: f.Segment, Entry: -1, Offset: f.Offset, Broken: f.Broken}
}

// ofLedger takes over what tlog found.
func ofLedger(p tlog.Problem) Finding {
	code := CodeLedger
	if p.Known {
		code = CodeCheckpoint
	}
	return Finding{File: p.Path, Code: code, Text: p.What + ". " + p.Meaning, Segment: -1, Entry: p.Entry, Offset: p.Byte, Broken: true}
}
