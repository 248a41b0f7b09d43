package replay

import (
	"context"
	"crypto/ed25519"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"sallyport/recorder/tlog"
	"sallyport/recorder/trec"
	"sallyport/recorder/witness"
)

// NodeFiles names what VerifyNode checks, and against what.
type NodeFiles struct {
	Ledger string // the ledger's directory, or a copy of it
	// Recordings are the directories of the recordings: normally one, and a
	// second where copies rest. A recording that is in any of them is not missing.
	Recordings []string
	// Copies are single files that are held against the ledger without asking
	// for the rest. With Copies and without Recordings nothing is called missing.
	Copies []string
	Key    ed25519.PublicKey

	// Checkpoints are signed checkpoints of this node that came from elsewhere: a log
	// server, a witness, a colleague. The ledger must be consistent with each.
	Checkpoints [][]byte
	Receipts    []string // lines that people were shown at logout
	// Remembered holds the checkpoints that this verifier saw before; the newest is
	// added once everything verifies. nil: none.
	Remembered *tlog.Remembered
	// NewNode takes a ledger of another node than was remembered under the key, as after
	// a node was set up again with its old key, and remembers it in place of that one.
	NewNode bool
	// Policy says which witnesses must have cosigned; nil: none need to.
	Policy *witness.Policy

	// Progress hears now and then how many bytes of all are done; nil: nobody asks.
	Progress func(done, total int64)
	Clock    Clock // nil: the real one
}

// NodeReport is what verification found in all files of a node.
type NodeReport struct {
	Node       string          `json:"node"`
	Intact     bool            `json:"intact"`
	Entries    int64           `json:"entries"` // of the ledger that verify
	Sessions   int             `json:"sessions"`
	Root       string          `json:"root"`             // hex, at the published checkpoint
	Ledger     *tlog.Report    `json:"ledger,omitempty"` // its problems stand in findings, too
	Remembered int64           `json:"remembered"`       // entries of the remembered checkpoint that it was held against; -1: there was none
	Witnessed  *Witnessed      `json:"witnessed,omitempty"`
	Receipts   []ReceiptReport `json:"receipts,omitempty"`
	Recordings []Report        `json:"recordings"`
	Findings   []Finding       `json:"findings,omitempty"` // about the ledger, and files against it
}

// ReceiptReport says what became of a receipt that somebody was shown.
type ReceiptReport struct {
	Session string `json:"session,omitempty"` // whose end it is of
	Entry   int64  `json:"entry"`
	Entries int64  `json:"entries"` // of the ledger, when it was shown
	Fits    bool   `json:"fits"`
}

// Witnessed says what the witnesses of the policy vouch for.
type Witnessed struct {
	Entries int64             `json:"entries"`
	By      []string          `json:"by"`
	Ignored map[string]string `json:"ignored,omitempty"` // witnesses that do not count, and why
	Enough  bool              `json:"enough"`
}

// Text is the report for a person.
func (n NodeReport) Text() string {
	var b strings.Builder
	state := "everything verifies"
	if !n.Intact {
		state = "NOT INTACT"
	}
	fmt.Fprintf(&b, "node %s: %s: %d ledger entries, %d sessions, %d recordings\n", onOneLine(n.Node), state, n.Entries, n.Sessions, len(n.Recordings))
	switch {
	case n.Remembered > 0:
		fmt.Fprintf(&b, "ledger: held against the checkpoint of %d entries that was remembered here\n", n.Remembered)
	case n.Ledger != nil && n.Ledger.Known == 0:
		fmt.Fprintln(&b, "ledger: nothing was remembered of it and nobody else vouched for it, so a ledger that its own node wrote anew would not show")
	}
	if l := n.Ledger; l != nil && l.Sealed > 0 {
		fmt.Fprintf(&b, "ledger: the texts of %d events are there, sealed; whether they are the right ones shows to the node's keys only\n", l.Sealed)
	}
	if l := n.Ledger; l != nil && l.Absent > 0 {
		fmt.Fprintf(&b, "ledger: the texts of %d events are absent: the folder was copied without them, or somebody removed them; the tree holds only what they must be\n", l.Absent)
	}
	if w := n.Witnessed; w != nil {
		fmt.Fprintf(&b, "ledger: %d entries cosigned by %s\n", w.Entries, onOneLine(strings.Join(w.By, ", ")))
	}
	for i, r := range n.Receipts {
		if r.Fits {
			fmt.Fprintf(&b, "receipt %d: fits: it is of the end of session %s, entry %d, shown when the ledger had %d entries\n", i+1, onOneLine(r.Session), r.Entry, r.Entries)
		}
	}
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

// recordingFile is the name of a recording, or of one that the node set aside.
var recordingFile = regexp.MustCompile(`^(.*)\.trec(\.damaged(\.[0-9]+)?)?$`)

// sessionOf is the session that a file's name speaks of.
func sessionOf(name string) (session string, setAside bool) {
	parts := recordingFile.FindStringSubmatch(name)
	if parts == nil {
		return name, false
	}
	return parts[1], parts[2] != ""
}

// recordingAt is one file to check, and what was found in it.
type recordingAt struct {
	path    string
	name    string // as findings call it
	session string // by its name
	aside   bool

	report  Report
	gone    bool      // it was there when the directory was listed, and is not any more
	prefix  trec.Hash // root of the first leaves, as many as the ledger told
	reached bool      // the file has that many
}

// nodeCheck is one run of VerifyNode.
type nodeCheck struct {
	files  *NodeFiles
	report NodeReport
	all    []*recordingAt
	view   *ledgerView
	bar    *progress
	moving bool // something was written just now: the node runs
	retry  bool // something may look different in a moment
	differ []*recordingAt
}

// youth is how fresh a recording or the ledger's folder must be for its node to count as running, and
// pause how long its ledger's directory may be behind what is durable.
const (
	youth = 15 * time.Second
	pause = 3 * time.Second
)

// FilesIn finds ledger and recordings in a state folder, in the folder that
// `init` made, or in a folder to which both were copied.
func FilesIn(dir string, key ed25519.PublicKey) NodeFiles {
	there := func(path string) bool {
		_, err := os.Stat(path)
		return err == nil
	}
	if !there(filepath.Join(dir, "ledger")) && there(filepath.Join(dir, "state", "ledger")) {
		dir = filepath.Join(dir, "state")
	}
	files := NodeFiles{Ledger: filepath.Join(dir, "ledger"), Recordings: []string{filepath.Join(dir, "recordings")}, Key: key}
	if !there(files.Recordings[0]) {
		files.Recordings[0] = dir
	}
	return files
}

// VerifyDir is VerifyNode for what FilesIn finds, with nothing else to hold it against.
func VerifyDir(ctx context.Context, dir string, key ed25519.PublicKey) (NodeReport, error) {
	return VerifyNode(ctx, FilesIn(dir, key))
}

// VerifyNode verifies a node's ledger and recordings, each alone and against
// each other. The recordings are listed before the ledger is read and read
// after it, so that a running node is never ahead in the wrong one of the two.
func VerifyNode(ctx context.Context, files NodeFiles) (NodeReport, error) {
	if files.Clock == nil {
		files.Clock = realClock{}
	}
	c := &nodeCheck{files: &files, report: NodeReport{Intact: true, Remembered: -1, Recordings: []Report{}}, bar: &progress{tell: files.Progress}}
	if err := checkKey(files.Key); err != nil {
		return c.report, err
	}
	if err := c.list(); err != nil {
		return c.report, err
	}
	if err := c.readLedger(ctx, nil); err != nil {
		return c.report, err
	}
	if err := c.readRecordings(ctx, c.all); err != nil {
		return c.report, err
	}
	if err := c.judge(ctx); err != nil {
		return c.report, err
	}
	return c.report, c.finish()
}

// list finds the recordings.
func (c *nodeCheck) list() error {
	for i, dir := range c.files.Recordings {
		entries, err := os.ReadDir(dir)
		if err != nil {
			return err
		}
		for _, e := range entries {
			name := e.Name()
			if i > 0 {
				name = filepath.Join(dir, name)
			}
			switch {
			case !recordingFile.MatchString(e.Name()):
			case !e.Type().IsRegular():
				c.report.add(about(name, CodeFormat, "it has the name of a recording, but it is no file", true))
			default:
				c.found(filepath.Join(dir, e.Name()), name)
			}
		}
	}
	for _, path := range c.files.Copies {
		if _, err := os.Stat(path); err != nil {
			return err
		}
		c.copied(path)
	}
	return nil
}

// copied takes a single file, which may have any name: it is of the session that it says.
func (c *nodeCheck) copied(path string) {
	a := c.found(path, filepath.Base(path))
	a.aside = false
	in, err := tlog.OpenRegular(path)
	if err != nil {
		return // reading it will say so
	}
	defer in.Close() // only read
	if h, _, _, err := trec.ReadHeader(in); err == nil {
		a.session = h.Session
	}
}

func (c *nodeCheck) found(path, name string) *recordingAt {
	a := &recordingAt{path: path, name: name}
	a.session, a.aside = sessionOf(filepath.Base(path))
	c.bar.expect(c.young(path))
	c.all = append(c.all, a)
	return a
}

// young looks whether a file was written just now, and how large it is.
func (c *nodeCheck) young(path string) (size int64) {
	info, err := os.Stat(path)
	if err != nil {
		return 0 // reading it will say so
	}
	c.moving = c.moving || c.files.Clock.Now().Sub(info.ModTime()) < youth
	return info.Size()
}

// readLedger reads the ledger; wanted are sessions whose leaves are kept.
func (c *nodeCheck) readLedger(ctx context.Context, wanted map[string]bool) error {
	var told int64
	size := treeBytes(c.files.Ledger)
	c.young(c.files.Ledger)
	c.bar.expect(size)
	var err error
	c.view, err = readLedger(ctx, c.files, wanted, func(done, total int64) {
		now := int64(float64(size) * float64(done) / float64(max(total, 1)))
		c.bar.add(now-told, false)
		told = now
	})
	c.bar.add(size-told, false)
	return err
}

// treeBytes is about how much the ledger's directory holds.
func treeBytes(dir string) (size int64) {
	_ = filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() {
			if info, err := e.Info(); err == nil {
				size += info.Size()
			}
		}
		return nil
	})
	return size
}

// readRecordings verifies files by themselves, as many at once as there are processors.
func (c *nodeCheck) readRecordings(ctx context.Context, all []*recordingAt) error {
	var group sync.WaitGroup
	next := make(chan *recordingAt)
	errs := make([]error, max(runtime.GOMAXPROCS(0), 1))
	for i := range errs {
		group.Go(func() {
			for a := range next {
				if errs[i] == nil && ctx.Err() == nil {
					errs[i] = c.read(a)
				}
			}
		})
	}
	for _, a := range all {
		next <- a
	}
	close(next)
	group.Wait()
	return errors.Join(append(errs, ctx.Err())...)
}

// read verifies one file and takes the root of as many leaves as the ledger told.
func (c *nodeCheck) read(a *recordingAt) error {
	in, err := tlog.OpenRegular(a.path)
	if errors.Is(err, fs.ErrNotExist) {
		a.gone = true
		return nil
	}
	if err != nil {
		return err
	}
	defer in.Close() // only read
	var tree trec.Tree
	var wanted uint64
	if s := c.view.sessions[a.session]; s != nil {
		wanted = s.count
	}
	a.reached = wanted == 0
	a.report, err = VerifyReader(c.bar.reader(in), a.name, c.files.Key, func(l trec.Leaf) error {
		if a.reached {
			return nil
		}
		if tree.Add(l.Hash); tree.Size() == wanted {
			a.prefix, a.reached = tree.Root(), true
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("%s: %w", a.path, err)
	}
	a.report.checkName(a.session, true)
	a.report.checkTimes(c.files.Clock.Now())
	return nil
}

// finish puts the report together, and remembers the checkpoint if all is well.
func (c *nodeCheck) finish() error {
	n := &c.report
	for _, a := range c.all {
		if !a.gone {
			n.Recordings = append(n.Recordings, a.report)
			n.Intact = n.Intact && a.report.Intact
		}
	}
	slices.SortStableFunc(n.Recordings, func(a, b Report) int { return strings.Compare(a.File, b.File) })
	n.Node, n.Sessions, n.Ledger = c.view.node, len(c.view.sessions), c.view.report
	if r := c.view.report; r != nil {
		n.Entries, n.Root = r.Size+r.Tail, hex.EncodeToString(r.Root[:])
	}
	return c.remember()
}
