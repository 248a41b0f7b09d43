package replay

import (
	"cmp"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"sallyport/recorder"
)

// NodeFiles names what VerifyNode checks.
type NodeFiles struct {
	Ledger     string // the ledger's file
	Recordings string // the directory of the recordings
	Key        ed25519.PublicKey
	// Checkpoint is one that the verifier remembered; nil: none.
	Checkpoint *recorder.Checkpoint
	// Progress hears after each file and now and then within one how many
	// bytes of all are done; nil: nobody asks.
	Progress func(done, total int64)
}

// NodeReport is what verification found in all files of a node.
type NodeReport struct {
	Node       string    `json:"node"`
	Intact     bool      `json:"intact"`
	Entries    int64     `json:"entries"` // of the ledger that verify
	Head       string    `json:"head"`    // hex, of the ledger
	Ledger     Report    `json:"ledger"`
	Recordings []Report  `json:"recordings"`
	Findings   []Finding `json:"findings,omitempty"` // about files against each other
}

// Text is the report for a person.
func (n NodeReport) Text() string {
	var b strings.Builder
	state := "everything verifies"
	if !n.Intact {
		state = "NOT INTACT"
	}
	fmt.Fprintf(&b, "node %s: %s: %d ledger entries, %d recordings\n", n.Node, state, n.Entries, len(n.Recordings))
	b.WriteString(n.Ledger.Text())
	for _, r := range n.Recordings {
		b.WriteString(r.Text())
	}
	for _, f := range n.Findings {
		fmt.Fprintln(&b, f)
	}
	return b.String()
}

func (n *NodeReport) add(f Finding) {
	n.Findings = append(n.Findings, f)
	n.Intact = n.Intact && !f.Broken
}

// VerifyDir verifies a node's state directory: the ledger in dir/ledger.log or
// dir/ledger/ledger.log, the recordings in dir or dir/recordings.
func VerifyDir(dir string, key ed25519.PublicKey, remembered *recorder.Checkpoint) (NodeReport, error) {
	files := NodeFiles{Ledger: filepath.Join(dir, recorder.LedgerFile), Recordings: dir, Key: key, Checkpoint: remembered}
	if _, err := os.Stat(files.Ledger); errors.Is(err, os.ErrNotExist) {
		files.Ledger = filepath.Join(dir, "ledger", recorder.LedgerFile)
	}
	if info, err := os.Stat(filepath.Join(dir, "recordings")); err == nil && info.IsDir() {
		files.Recordings = filepath.Join(dir, "recordings")
	}
	return VerifyNode(files)
}

// VerifyNode verifies a node's ledger and recordings, each alone and against
// each other. Recordings are read before the ledger, so that a session which
// opens meanwhile is not mistaken for one that was added.
func VerifyNode(files NodeFiles) (NodeReport, error) {
	n := NodeReport{Intact: true}
	names, err := n.recordingNames(files.Recordings)
	if err != nil {
		return n, err
	}
	p, err := newProgress(files, names)
	if err != nil {
		return n, err
	}
	for _, name := range names {
		r, err := verifyFile(filepath.Join(files.Recordings, name), files.Key, p.reader)
		if err != nil {
			return n, err
		}
		n.Recordings = append(n.Recordings, r)
	}
	l := ledgerView{sessions: map[string]*ledgerSession{}, remembered: files.Checkpoint}
	if err := n.readLedger(files, &l, p); err != nil {
		return n, err
	}
	if err := n.compare(files, &l); err != nil {
		return n, err
	}
	for _, r := range n.Recordings {
		n.Intact = n.Intact && r.Intact
	}
	return n, nil
}

// recordingFile is the name of a recording, or of one that the node set aside.
var recordingFile = regexp.MustCompile(`^(.*)\.rec(\.damaged(\.[0-9]+)?)?$`)

func (n *NodeReport) recordingNames(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		switch {
		case !recordingFile.MatchString(e.Name()):
		case !e.Type().IsRegular():
			n.add(Finding{File: e.Name(), Code: CodeFormat, Text: "it has the name of a recording, but it is no file", Block: -1, Offset: -1, Broken: true})
		default:
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// ledgerView is what the ledger says about sessions.
type ledgerView struct {
	sessions   map[string]*ledgerSession
	started    int64 // entry of the last node.start; 0: none
	remembered *recorder.Checkpoint
	found      bool // the remembered checkpoint
	events     []Finding
}

// beginning reports whether the session may honestly have no recording yet:
// the ledger has a session's open before its file is made, and of a node that
// crashes in between only the next start says so, before its node.start.
func (l *ledgerView) beginning(s *ledgerSession) bool {
	told := s.closed || s.head != "" || s.missing || s.damaged != ""
	return s.opened && !told && l.started < s.entry
}

// ledgerSession is what the ledger says about one session.
type ledgerSession struct {
	number         int64
	opened, closed bool
	entry          int64  // of session.open
	result         string // of session.close
	bytes          int64  // that went through the session, as session.close has it
	head           string // of session.close or recording.recovered; "" while unknown

	// What the node found after a crash or a failure instead of a recording with a head.
	missing bool
	damaged string // SHA-256 in hex
}

// The events about sessions and their recordings; authz and the node write them.
const (
	opOpen      = "session.open"
	opClose     = "session.close"
	opRecovered = "recording.recovered" // a recording got its end when the node restarted
	opDamaged   = "recording.damaged"   // it could not be closed and was set aside
	opMissing   = "recording.missing"   // there was none
	opStart     = "node.start"          // the node has said the above of all that a crash left, and takes sessions

	// resultFailed is the result of a session that could not be recorded (further).
	resultFailed = "recording-failed"
)

// leaf is the part of an event that verification needs; authz.Event is the whole.
type leaf struct {
	OpType   string `json:"op_type"`
	Node     string `json:"node"`
	Sequence int64  `json:"sequence"`
	Session  string `json:"session"`
	Result   string `json:"result"`
	// Details differ from one kind of event to the next.
	Details json.RawMessage `json:"details"`
}

// sessionDetails are the details of the events about sessions and their recordings.
type sessionDetails struct {
	Number   json.Number `json:"number"` // dense per node
	Head     string      `json:"head"`   // hex
	Result   string      `json:"result"`
	BytesIn  json.Number `json:"bytes_in"`
	BytesOut json.Number `json:"bytes_out"`
	SHA256   string      `json:"sha256"` // hex, of a file that was set aside
}

func (n *NodeReport) readLedger(files NodeFiles, l *ledgerView, p *progress) error {
	f, err := os.Open(files.Ledger)
	if err != nil {
		return fmt.Errorf("the ledger: %w", err)
	}
	defer f.Close()
	n.Ledger, err = VerifyReader(p.reader(f), filepath.Base(files.Ledger), files.Key, func(b *recorder.Block) error {
		if b.Type != recorder.BlockData {
			return nil
		}
		if c := l.remembered; c != nil && int64(b.First)+int64(b.Span)-1 == c.Sequence && fmt.Sprintf("%x", b.Chain) == c.Head {
			l.found = true
		}
		return l.entries(b)
	})
	if err != nil {
		return fmt.Errorf("the ledger: %w", err)
	}
	if n.Ledger.Type == recorder.TypeRecording {
		n.Ledger.add(Finding{Code: CodeFormat, Text: "the file is a recording, not a ledger", Block: -1, Offset: -1, Broken: true})
	}
	n.Node, n.Head, n.Entries = n.Ledger.Node, n.Ledger.Head, int64(n.Ledger.Frames)
	n.Intact = n.Intact && n.Ledger.Intact
	for _, f := range l.events {
		f.File = n.Ledger.File
		n.add(f)
	}
	n.checkpoint(files, l)
	return nil
}

// checkpoint looks for what the verifier remembers.
func (n *NodeReport) checkpoint(files NodeFiles, l *ledgerView) {
	c := files.Checkpoint
	if c == nil {
		return
	}
	broken := func(text string) {
		n.add(Finding{File: n.Ledger.File, Code: CodeCheckpoint, Text: text, Block: c.Sequence, Offset: -1, Broken: true})
	}
	switch err := c.Verify(files.Key); {
	case err != nil:
		broken("the remembered checkpoint is no use: " + err.Error())
	case c.Node != n.Node:
		broken(fmt.Sprintf("the remembered checkpoint is of node %s, the ledger of node %s", c.Node, n.Node))
	case c.Sequence == 0: // of an empty ledger: contained in every one
	case !l.found && c.Sequence > n.Entries:
		broken(fmt.Sprintf("the remembered checkpoint reached entry %d, the ledger ends at %d: entries were cut off", c.Sequence, n.Entries))
	case !l.found:
		broken(fmt.Sprintf("the entries up to %d are not those of the remembered checkpoint: the ledger was rewritten", c.Sequence))
	}
}

// entries takes the events of one block.
func (l *ledgerView) entries(b *recorder.Block) error {
	d := recorder.NewFrameDecoder(b.BlockInfo, b.Payload)
	for {
		e, ok, err := d.Next()
		if err != nil || !ok {
			if err != nil {
				l.wrong(b, int64(b.First), err.Error())
			}
			return nil
		}
		var v leaf
		if err := json.Unmarshal(e.Data, &v); err != nil {
			l.wrong(b, int64(e.Position), "it is not an event")
			continue
		}
		if v.Sequence != int64(e.Position) {
			l.wrong(b, int64(e.Position), fmt.Sprintf("it calls itself entry %d", v.Sequence))
		}
		if err := l.session(v); err != nil {
			l.wrong(b, int64(e.Position), err.Error())
		}
	}
}

func (l *ledgerView) wrong(b *recorder.Block, entry int64, text string) {
	l.events = append(l.events, Finding{Code: CodeEntry, Text: fmt.Sprintf("entry %d: %s", entry, text), Block: int64(b.Sequence), Offset: b.Offset, Broken: true})
}

func (l *ledgerView) session(v leaf) error {
	switch v.OpType {
	case opOpen, opClose, opRecovered, opDamaged, opMissing:
	case opStart:
		l.started = v.Sequence
		return nil
	default:
		return nil
	}
	if v.Session == "" {
		return nil
	}
	var details sessionDetails
	if len(v.Details) > 0 {
		if err := json.Unmarshal(v.Details, &details); err != nil {
			return errors.New("its details are not those of a session")
		}
	}
	s := l.sessions[v.Session]
	if s == nil {
		s = &ledgerSession{}
		l.sessions[v.Session] = s
	}
	return s.take(v, details)
}

// take adds one event to what is known of the session.
func (s *ledgerSession) take(v leaf, d sessionDetails) error {
	switch v.OpType {
	case opOpen:
		if v.Result == "" || v.Result == "ok" {
			s.opened, s.entry = true, v.Sequence
			s.number, _ = d.Number.Int64()
		}
	case opClose:
		in, _ := d.BytesIn.Int64()
		out, _ := d.BytesOut.Int64()
		s.closed, s.result, s.bytes = true, d.Result, in+out
		return s.name(d.Head)
	case opRecovered:
		return s.name(d.Head)
	case opDamaged:
		s.damaged = d.SHA256
	case opMissing:
		s.missing = true
	}
	return nil
}

// name takes the head of the session's recording; there can't be two.
func (s *ledgerSession) name(head string) error {
	if s.head != "" && head != "" && head != s.head {
		return errors.New("it names another head of the session's recording than an earlier entry")
	}
	s.head = cmp.Or(s.head, head)
	return nil
}

// dense checks that the node's session numbers are 1, 2, 3 and so on.
func (n *NodeReport) dense(numbers []int64) {
	slices.Sort(numbers)
	for i, number := range numbers {
		if want := int64(i) + 1; number != want {
			n.add(Finding{File: n.Ledger.File, Code: CodeNumbers, Block: -1, Offset: -1, Broken: true,
				Text: fmt.Sprintf("session number %d was expected, %d comes next: a session is missing or counted twice", want, number)})
			return
		}
	}
}

func sortedKeys(m map[string]*ledgerSession) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
