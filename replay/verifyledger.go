package replay

import (
	"context"
	"crypto/ed25519"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"sallyport/recorder/ledger"
	"sallyport/recorder/tlog"
	"sallyport/recorder/trec"
)

// maxCheckpointText bounds what is read of a checkpoint to learn its origin.
const maxCheckpointText = 64 << 10

// told is what the ledger tells of one session's recording.
type told struct {
	number         int64
	entry          int64 // of the first leaf
	opened, closed bool
	missing        bool
	damaged        string // SHA-256 of the file that was set aside, hex
	size           int64  // of the whole file, or of the one set aside
	root           string // of the closed recording, hex
	reason         string
	closedAt       int64       // entry
	leaves         []trec.Hash // of a session that is not closed; bounded by its length
	count          uint64      // leaves of the recording's tree that were told, from 0
	prefix         trec.Hash   // root of these
	wanted         bool        // leaves are kept beyond the close, to name the place of a difference
}

// finish frees what only a session that goes on needs.
func (s *told) finish() {
	var tree trec.Tree
	for _, h := range s.leaves {
		tree.Add(h)
	}
	s.count, s.prefix = uint64(len(s.leaves)), tree.Root()
	if !s.wanted {
		s.leaves = nil
	}
}

// ledgerView is what a ledger tells, and what is wrong with it.
type ledgerView struct {
	node     string
	verifier tlog.Verifier
	report   *tlog.Report
	sessions map[string]*told
	findings []Finding
	others   []string // ledgers under the same key that are remembered, when this one is not
	receipts []*tlog.Receipt
	seen     []bool // receipts whose entry is as they say
	// receiptOf are the sessions whose end the receipts are of.
	receiptOf []string
	wanted    map[string]bool // sessions whose leaves are kept
}

const maxEntryFindings = 100

func (l *ledgerView) add(f Finding) {
	if len(l.findings) < maxEntryFindings {
		l.findings = append(l.findings, f)
	}
}

// sound reports whether what the ledger tells can be held against files.
func (l *ledgerView) sound() bool { return l.report != nil && l.report.OK() }

// originOf reads whose ledger a directory says it is.
func originOf(dir string) (string, error) {
	f, err := tlog.OpenRegular(filepath.Join(dir, tlog.CheckpointFile))
	if err != nil {
		return "", err
	}
	defer f.Close() // only read
	text, err := io.ReadAll(io.LimitReader(f, maxCheckpointText))
	if err != nil {
		return "", err
	}
	origin, _, ok := strings.Cut(string(text), "\n")
	if node, found := strings.CutPrefix(origin, ledger.OriginOf("")); !ok || !found || node == "" {
		return "", errors.New("it does not begin with the name of a node's ledger")
	}
	return origin, nil
}

// readLedger verifies the ledger and gathers what it tells of recordings.
// What is wrong is in the view; the error is for what kept it from looking.
func readLedger(ctx context.Context, files *NodeFiles, wanted map[string]bool, tell func(done, total int64)) (*ledgerView, error) {
	l := &ledgerView{sessions: map[string]*told{}, wanted: wanted}
	if info, err := os.Stat(files.Ledger); err != nil {
		return nil, fmt.Errorf("the ledger: %w", err)
	} else if !info.IsDir() {
		return nil, fmt.Errorf("the ledger: %s is no directory", files.Ledger)
	}
	origin, err := originOf(files.Ledger)
	if err != nil {
		l.add(about(tlog.CheckpointFile, CodeLedger, err.Error()+". Nothing here is vouched for: the checkpoint is missing, or was changed", true))
		return l, nil
	}
	l.node = strings.TrimPrefix(origin, ledger.OriginOf(""))
	if l.verifier, err = tlog.NewVerifier(origin, files.Key); err != nil {
		l.add(about(tlog.CheckpointFile, CodeLedger, err.Error(), true))
		return l, nil
	}
	// With the wrong key nothing else can be checked, what is remembered neither.
	if _, err := tlog.OpenDirectory(files.Ledger, origin, l.verifier); err != nil {
		l.add(about(tlog.CheckpointFile, CodeLedger, err.Error()+". Nothing here is vouched for: it is another node's key, or the checkpoint was changed after it was signed", true))
		return l, nil
	}
	if files.Remembered != nil {
		if l.others, err = files.Remembered.Others(origin, files.Key); err != nil {
			return nil, err
		}
	}
	known, err := l.known(files)
	if err != nil {
		return nil, err
	}
	l.report, err = tlog.Verify(ctx, tlog.VerifyOptions{Dir: files.Ledger, Origin: origin, Verifier: l.verifier, Known: known, Progress: tell, Visit: l.visit})
	if err != nil {
		return nil, fmt.Errorf("the ledger: %w", err)
	}
	for _, s := range l.sessions {
		if !s.closed {
			s.finish()
		}
	}
	if !l.report.OK() {
		// What it told may be made up: say what is wrong with the ledger alone.
		l.findings, l.sessions = nil, map[string]*told{}
		for _, p := range l.report.Problems {
			l.add(ofLedger(p))
		}
	}
	if len(l.others) > 0 && !files.NewNode {
		l.findings = append(l.findings, about(tlog.CheckpointFile, CodeNode, fmt.Sprintf("the ledger says that it is of node %s, and under the same key %q was seen before: "+
			"whoever holds the key gave a ledger that they wrote anew another name, or the node was set up again with its old key; only in that case take it with --new-node", l.node, l.others), true))
	}
	return l, nil
}

// known gathers the checkpoints that the ledger must be consistent with. Each
// has to be one of this ledger: another one is not evidence but a mistake.
func (l *ledgerView) known(files *NodeFiles) ([]tlog.Checkpoint, error) {
	origin := l.verifier.Name()
	var all []tlog.Checkpoint
	for i, signed := range files.Checkpoints {
		c, _, err := tlog.OpenCheckpoint(signed, origin, l.verifier)
		if err != nil {
			return nil, fmt.Errorf("checkpoint %d of those given: %w", i+1, err)
		}
		all = append(all, c)
	}
	for i, line := range files.Receipts {
		r, err := tlog.ParseReceipt(line)
		if err != nil {
			return nil, fmt.Errorf("receipt %d of those given: %w", i+1, err)
		}
		if _, err := r.Checkpoint(l.verifier); err != nil {
			return nil, fmt.Errorf("receipt %d of those given: %w", i+1, err)
		}
		l.receipts, l.seen, l.receiptOf = append(l.receipts, r), append(l.seen, false), append(l.receiptOf, "")
		all = append(all, tlog.Checkpoint{Origin: r.Origin, Size: r.Size, Root: r.Root})
	}
	if files.Remembered != nil {
		last, c, err := files.Remembered.Last(origin, l.verifier)
		if err != nil {
			return nil, err
		}
		if last != nil {
			all = append(all, c)
		}
	}
	signed, err := readCosigned(files.Ledger)
	if err != nil || signed == nil {
		return all, err
	}
	// It is evidence only where the node's own signature is good; whether the
	// witnesses' are, is for the policy.
	if c, _, err := tlog.OpenCheckpoint(signed, origin, l.verifier); err == nil {
		all = append(all, c)
	}
	return all, nil
}

func readCosigned(dir string) ([]byte, error) {
	f, err := tlog.OpenRegular(filepath.Join(dir, tlog.CosignedFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close() // only read
	return io.ReadAll(io.LimitReader(f, maxCheckpointText))
}

// visit takes one entry. Every byte of it is hostile until the whole ledger verifies.
func (l *ledgerView) visit(index int64, entry []byte) {
	item, err := ledger.ParseEntry(index, entry)
	for i, r := range l.receipts {
		if r.Index == index && r.Leaf == tlog.LeafHash(entry) {
			l.seen[i] = true
			if err == nil && item.Leaf != nil {
				l.receiptOf[i] = item.Leaf.Session
			}
		}
	}
	if err != nil {
		l.entry(index, CodeVersion, err.Error()+": it was written by a newer version of this software, or by somebody else who holds the node's key")
		return
	}
	if item.Leaf != nil {
		l.leaf(index, item.Leaf)
	}
}

func (l *ledgerView) entry(index int64, code, text string) {
	l.add(Finding{File: tlog.CheckpointFile, Code: code, Text: text, Segment: -1, Entry: index, Offset: -1, Broken: true})
}

// leaf takes what the ledger tells of a recording. The order of a session is
// open, its segments, and one of close, missing and damaged.
func (l *ledgerView) leaf(index int64, f *ledger.Leaf) {
	s := l.sessions[f.Session]
	if s == nil {
		s = &told{entry: index, wanted: l.wanted[f.Session]}
		l.sessions[f.Session] = s
	}
	contradicts := func(format string, args ...any) {
		l.entry(index, CodeEntry, fmt.Sprintf("session %s: ", f.Session)+fmt.Sprintf(format, args...)+
			": the node never writes that, so somebody else did who holds its key")
	}
	if f.Number != 0 && s.number != 0 && f.Number != s.number {
		contradicts("it has number %d here and %d before", f.Number, s.number)
		return
	}
	if f.Number != 0 {
		s.number = f.Number
	}
	switch {
	case f.Kind == ledger.KindOpen && s.opened:
		contradicts("it is opened twice")
	case f.Kind == ledger.KindOpen:
		s.opened = true
	case s.closed && !s.repeats(f):
		contradicts("%s after its end", f.Kind)
	case s.closed:
	case f.Kind == ledger.KindSegment:
		l.segment(s, f, contradicts)
	default:
		s.end(index, f)
	}
}

// segment takes the hash of one leaf of the recording's tree. After a crash the node
// may tell once more what it told before; telling something else is no accident.
func (l *ledgerView) segment(s *told, f *ledger.Leaf, contradicts func(string, ...any)) {
	var h trec.Hash
	hex.Decode(h[:], []byte(f.Hash)) // ledger.ParseLeaf has seen that it is one
	switch at := uint64(f.Segment); {
	case !s.opened:
		contradicts("leaf %d without its open", at)
	case at > uint64(len(s.leaves)):
		contradicts("leaf %d of its recording comes where leaf %d was expected", at, len(s.leaves))
	case at == uint64(len(s.leaves)):
		s.leaves = append(s.leaves, h)
	case s.leaves[at] != h:
		contradicts("leaf %d of its recording is told twice, and differently", at)
	}
}

func (s *told) end(index int64, f *ledger.Leaf) {
	s.closed, s.closedAt, s.reason, s.size = true, index, f.Reason, f.Size
	switch f.Kind {
	case ledger.KindClose:
		s.root = f.Hash
	case ledger.KindDamaged:
		s.damaged = f.Hash
	case ledger.KindMissing:
		s.missing = true
	}
	s.finish()
}

// repeats reports whether a leaf behind the session's end says once more what is known.
func (s *told) repeats(f *ledger.Leaf) bool {
	switch f.Kind {
	case ledger.KindClose:
		return f.Hash == s.root && f.Size == s.size && f.Reason == s.reason
	case ledger.KindDamaged:
		return f.Hash == s.damaged && f.Size == s.size
	case ledger.KindMissing:
		return s.missing
	}
	return false
}

// checkKey refuses to verify with no key at all.
func checkKey(key ed25519.PublicKey) error {
	if len(key) != ed25519.PublicKeySize {
		return errors.New("the node's public key is missing")
	}
	return nil
}
