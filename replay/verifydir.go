package replay

import (
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
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
	names, err := recordingNames(files.Recordings)
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
		n.Intact = n.Intact && r.Intact
	}
	l := ledgerView{sessions: map[string]*ledgerSession{}, remembered: files.Checkpoint}
	if err := n.readLedger(files, &l, p); err != nil {
		return n, err
	}
	n.compare(&l)
	return n, nil
}

func recordingNames(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), ".rec") || strings.HasSuffix(e.Name(), ".rec.damaged") {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// ledgerView is what the ledger says about sessions.
type ledgerView struct {
	sessions   map[string]*ledgerSession
	remembered *recorder.Checkpoint
	found      bool // the remembered checkpoint
	events     []Finding
}

type ledgerSession struct {
	number         int64
	opened, closed bool
	head           string
}

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

// sessionDetails are the details of session.open and session.close.
type sessionDetails struct {
	Number json.Number `json:"number"` // dense per node
	Head   string      `json:"head"`   // hex; empty when nothing was recorded
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
			l.wrong(b, int64(e.Position), "its details are not those of a session")
		}
	}
}

func (l *ledgerView) wrong(b *recorder.Block, entry int64, text string) {
	l.events = append(l.events, Finding{Code: CodeEntry, Text: fmt.Sprintf("entry %d: %s", entry, text), Block: int64(b.Sequence), Offset: b.Offset, Broken: true})
}

func (l *ledgerView) session(v leaf) error {
	if v.Session == "" || (v.OpType != "session.open" && v.OpType != "session.close") {
		return nil
	}
	var details sessionDetails
	if len(v.Details) > 0 {
		if err := json.Unmarshal(v.Details, &details); err != nil {
			return err
		}
	}
	s := l.sessions[v.Session]
	if s == nil {
		s = &ledgerSession{}
		l.sessions[v.Session] = s
	}
	if v.OpType == "session.close" {
		s.closed, s.head = true, details.Head
		return nil
	}
	if v.Result == "" || v.Result == "ok" {
		s.opened = true
		s.number, _ = details.Number.Int64()
	}
	return nil
}

// compare holds the recordings against the ledger.
func (n *NodeReport) compare(l *ledgerView) {
	if !n.Ledger.Intact {
		return // what it says about files can't be trusted to be all
	}
	seen := map[string]bool{}
	for _, r := range n.Recordings {
		session, set := sessionOf(r.File)
		seen[session] = true
		n.compareOne(r, session, set, l.sessions[session])
	}
	var numbers []int64
	for _, session := range sortedKeys(l.sessions) {
		s := l.sessions[session]
		if s.opened {
			numbers = append(numbers, s.number)
		}
		if seen[session] || !s.opened {
			continue
		}
		f := Finding{File: session + ".rec", Code: CodeMissing, Text: "the ledger has this session, but its recording is not there", Block: -1, Offset: -1, Broken: true}
		if s.closed && s.head == "" {
			f.Code, f.Broken = CodeNotRecorded, false
			f.Text = "there is no recording; the ledger says that the session ended before one was made"
		}
		n.add(f)
	}
	n.dense(numbers)
}

func sessionOf(name string) (session string, setAside bool) {
	name, setAside = strings.CutSuffix(name, ".damaged")
	return strings.TrimSuffix(name, ".rec"), setAside
}

func (n *NodeReport) compareOne(r Report, session string, setAside bool, s *ledgerSession) {
	add := func(code, text string, broken bool) {
		n.add(Finding{File: r.File, Code: code, Text: text, Block: -1, Offset: -1, Broken: broken})
	}
	if r.Node != "" && n.Node != "" && r.Node != n.Node {
		add(CodeName, fmt.Sprintf("the recording is of node %s, the ledger of node %s", r.Node, n.Node), true)
	}
	if r.Intact && r.Session != session {
		add(CodeName, fmt.Sprintf("the file holds session %s", r.Session), true)
	}
	switch {
	case setAside:
		add(CodeDamaged, "the node found this recording damaged after a crash and set it aside", false)
	case s == nil || !s.opened:
		add(CodeExtra, "the ledger does not have this session: the file was added, or its session never began", true)
	case s.closed && !r.Complete:
		add(CodeClosed, "the ledger has the session closed, but the recording has no signed end: it was cut", s.head != "")
	case s.closed && s.head != "" && s.head != r.Head:
		add(CodeHead, "the recording's head is not the one that the ledger names: one of them was replaced", true)
	case !s.closed && r.Complete:
		add(CodeNotYetClosed, "the recording has ended, but the ledger does not have the session's close yet", false)
	}
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
