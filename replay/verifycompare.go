package replay

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"sallyport/recorder/tlog"
	"sallyport/recorder/trec"
)

// Recordings against the ledger: each session that was opened has its
// recording, whose tree begins with the leaves that the ledger tells of, or
// the ledger itself says why there is none.

// maxLocated bounds for how many recordings the place of a difference is looked up.
const maxLocated = 64

// judge holds the recordings against the ledger. A ledger's directory may be a
// second behind its node, so while one runs what looks odd is looked at again.
func (c *nodeCheck) judge(ctx context.Context) error {
	before := c.report.Findings
	if err := c.compare(); err != nil {
		return err
	}
	if c.retry && c.moving {
		if err := c.wait(ctx, pause); err != nil {
			return err
		}
		c.report.Findings = before
		c.report.Intact = !slices.ContainsFunc(before, func(f Finding) bool { return f.Broken })
		if err := c.again(ctx); err != nil {
			return err
		}
	}
	if err := c.locate(ctx); err != nil {
		return err
	}
	return c.vouched()
}

func (c *nodeCheck) wait(ctx context.Context, d time.Duration) error {
	fired, stop := c.files.Clock.After(d)
	defer stop()
	select {
	case <-fired:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// again reads the ledger once more, and the recordings of which it now tells more.
func (c *nodeCheck) again(ctx context.Context) error {
	old := c.view
	if err := c.readLedger(ctx, nil); err != nil {
		return err
	}
	var changed []*recordingAt
	for _, a := range c.all {
		was, is := old.sessions[a.session], c.view.sessions[a.session]
		if is != nil && (was == nil || was.count != is.count || was.closed != is.closed) {
			changed = append(changed, a)
		}
		a.report.Proved = 0
	}
	if err := c.readRecordings(ctx, changed); err != nil {
		return err
	}
	c.differ = nil
	return c.compare()
}

// compare judges everything that was read.
func (c *nodeCheck) compare() error {
	for _, f := range c.view.findings {
		c.report.add(f)
	}
	if !c.view.sound() {
		c.retry = true
		return nil // what it tells of files can't be trusted
	}
	there := map[string]bool{}
	for _, a := range c.all {
		if a.gone {
			continue
		}
		if !a.aside {
			c.compareOne(a)
			there[a.session] = true
			continue
		}
		same, err := c.compareAside(a)
		if err != nil {
			return err
		}
		there[a.session] = there[a.session] || same
	}
	if len(c.files.Recordings) == 0 {
		return nil
	}
	var numbers []int64
	for _, session := range sortedKeys(c.view.sessions) {
		s := c.view.sessions[session]
		if s.number != 0 {
			numbers = append(numbers, s.number)
		}
		if !there[session] {
			if err := c.look(session, s); err != nil {
				return err
			}
		}
	}
	c.dense(numbers)
	return nil
}

// compareOne judges a recording under its own name.
func (c *nodeCheck) compareOne(a *recordingAt) {
	r, s := &a.report, c.view.sessions[a.session]
	add := func(code, text string, broken bool) { c.report.add(about(a.name, code, text, broken)) }
	if r.Node != "" && r.Node != c.view.node {
		add(CodeName, fmt.Sprintf("the recording is of node %s, the ledger of node %s", r.Node, c.view.node), true)
		return
	}
	if s == nil || !s.opened {
		c.retry = true
		text := "the ledger does not have this session: the file was added"
		if r.Ending == EndingOpen {
			text += ", or the node crashed in the second in which the session began and has not started again; then start it, and verify again"
		}
		add(CodeExtra, text, true)
		return
	}
	if s.missing || s.damaged != "" {
		add(CodeExtra, "the ledger says that the node found no such recording after a crash: the file was put there since", true)
		return
	}
	if s.count == 0 && !s.closed && r.excuseUnbegun() {
		add(CodeNotYetBegun, notYetBegun, false)
		return
	}
	if !r.Intact {
		return // what is wrong is said, with its place
	}
	switch {
	case !a.reached:
		r.Proved = 0
		c.report.add(Finding{File: a.name, Code: CodeShort, Segment: int64(r.Segments), Entry: -1, Offset: r.Bytes, Broken: true,
			Text: fmt.Sprintf("the ledger tells of %d segments, the file ends after %d: it was cut, or an older copy was put in its place", max(s.count, 1)-1, r.Segments)})
	case s.count > 0 && a.prefix != s.prefix:
		c.differ = append(c.differ, a)
	case s.closed && !r.Complete:
		r.Proved = s.count
		add(CodeClosed, "the ledger has the end of this recording, the file has no signed end: it was cut", true)
	case s.closed && !r.same(s.root, s.size, s.reason):
		r.Proved = s.count
		add(CodeHead, "root, size or reason are not those that the ledger tells of: the file was replaced by somebody who holds the node's key", true)
	case s.closed:
		r.Proved = uint64(r.Segments) + 1
	case r.Complete:
		r.Proved = s.count
		add(CodeNotYetClosed, "the recording has ended, the ledger does not have its end yet: verify again in a moment, or when the node has started again", false)
	default:
		r.Proved = s.count
		if told := int64(s.count); told <= int64(r.Segments) {
			c.report.add(Finding{File: a.name, Code: CodeUntold, Segment: told - 1, Entry: -1, Offset: -1,
				Text: "from here on the ledger does not tell of it, and nothing is signed: the node is writing at this moment, or crashed before it told the ledger, or somebody appended this, who needs no key for it; " +
					"verify again in a moment, or when the node has started again"})
		}
	}
}

// notYetBegun is said of a session whose recording has no whole segment yet.
const notYetBegun = "nothing is recorded yet: the session has just begun, or the node crashed before the recording began, or somebody removed it; " +
	"verify again when the session has ended or the node has started again"

// excuseUnbegun reports whether not even the first segment is whole. That is no
// evidence of change where the ledger does not tell of one yet.
func (r *Report) excuseUnbegun() bool {
	if r.Segments != 0 || len(r.Findings) != 1 || r.Findings[0].Code != CodeCut {
		return false
	}
	r.Findings[0].Broken, r.Intact = false, true
	return true
}

// compareAside judges a recording that was set aside: by the node, which says
// so in the ledger, or by somebody who wants it to look so. It reports whether
// the file is the one that the ledger names.
func (c *nodeCheck) compareAside(a *recordingAt) (bool, error) {
	s := c.view.sessions[a.session]
	// It is known to be damaged; the question is who did it.
	a.report.Intact = true
	for i := range a.report.Findings {
		a.report.Findings[i].Broken = false
	}
	add := func(code, text string, broken bool) { c.report.add(about(a.name, code, text, broken)) }
	switch {
	case s == nil || !s.opened:
		c.retry = true
		add(CodeExtra, "the ledger does not have this session: the file was added", true)
	case s.damaged != "":
		sum, err := fileSum(a.path)
		if err != nil {
			return false, err
		}
		if sum != s.damaged {
			add(CodeDamaged, "the file that was set aside is not the one that the ledger names", true)
			return false, nil
		}
		if s.count > 0 && (!a.reached || a.prefix != s.prefix) {
			add(CodeDamaged, "the node found this recording damaged when it started and set it aside; it was whole before, because the ledger tells of segments "+
				"that are not in it any more: it was changed while the node was down, or the disk lost what it had confirmed", true)
			return true, nil
		}
		add(CodeDamaged, "the node found this recording damaged after a crash and set it aside; it is as the node found it", false)
		return true, nil
	case s.closed:
		add(CodeDamaged, "the ledger does not say that the node set this recording aside: somebody else did", true)
	case s.count > 0 && (!a.reached || a.prefix != s.prefix):
		// Nobody vouches for this file, and it is not what stood there: it could be anything.
		c.retry = true
		add(CodeDamaged, "the recording was set aside, the ledger does not say so, and it tells of segments that are not in the file: it was cut or changed, "+
			"or the node found it so and has not told yet; then start it, and verify again", true)
		return true, nil
	default:
		add(CodeDamaged, "the recording was set aside, and the ledger does not say so yet; every segment that the ledger tells of is in it", false)
		return true, nil
	}
	return false, nil
}

func fileSum(path string) (string, error) {
	f, err := tlog.OpenRegular(path)
	if err != nil {
		return "", err
	}
	defer f.Close() // only read
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

// look judges a session whose recording was not there when the directory was
// listed. While a node runs it may have begun since.
func (c *nodeCheck) look(session string, s *told) error {
	name := session + Extension
	for _, dir := range c.files.Recordings {
		path := filepath.Join(dir, filepath.Base(name))
		info, err := os.Lstat(path)
		if err != nil {
			continue
		}
		if !info.Mode().IsRegular() {
			return nil // found when the directory was listed
		}
		a := c.found(path, name)
		if err := c.read(a); err != nil {
			return err
		}
		if !a.gone {
			c.compareOne(a)
			return nil
		}
	}
	add := func(code, text string, broken bool) { c.report.add(about(name, code, text, broken)) }
	switch {
	case s.missing && s.count > 0:
		add(CodeMissing, fmt.Sprintf("the ledger tells of %d segments of this recording, and that the node did not find it when it started: it was removed while the node was down",
			s.count-1), true)
	case s.missing:
		add(CodeNotRecorded, "there is no recording, and the node found none when it started: it crashed or failed before one was made", false)
	case s.closed || s.count > 0:
		add(CodeMissing, "the ledger tells of the recording of this session, but it is not there", true)
	default:
		add(CodeNotYetBegun, notYetBegun, false)
	}
	return nil
}

// dense checks that the sessions' numbers are 1, 2, 3 and so on.
func (c *nodeCheck) dense(numbers []int64) {
	slices.Sort(numbers)
	for i, number := range numbers {
		if want := int64(i) + 1; number != want {
			c.retry = true
			c.report.add(about(tlog.CheckpointFile, CodeNumbers,
				fmt.Sprintf("session number %d was expected, %d comes next: a session was left out of the ledger, or counted twice", want, number), true))
			return
		}
	}
}

func sortedKeys(m map[string]*told) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// locate names the first segment in which a recording differs from what the
// ledger tells. It reads the ledger again, since keeping all leaves would take memory.
func (c *nodeCheck) locate(ctx context.Context) error {
	if len(c.differ) == 0 {
		return nil
	}
	wanted := map[string]bool{}
	for _, a := range c.differ[:min(len(c.differ), maxLocated)] {
		wanted[a.session] = true
	}
	view, err := readLedger(ctx, c.files, wanted, nil)
	if err != nil {
		return err
	}
	for _, a := range c.differ {
		f := about(a.name, CodeSegment, "its segments are not those that the ledger tells of: the file was replaced or rewritten, and its checksums made to fit", true)
		if s := view.sessions[a.session]; s != nil {
			if err := a.difference(c.files, s.leaves, &f); err != nil {
				return err
			}
		}
		c.report.add(f)
	}
	return nil
}

var errLocated = errors.New("located")

// difference fills in where the file first differs from these leaves.
func (a *recordingAt) difference(files *NodeFiles, leaves []trec.Hash, f *Finding) error {
	in, err := tlog.OpenRegular(a.path)
	if err != nil {
		return err
	}
	defer in.Close() // only read
	n := 0
	_, err = VerifyReader(in, a.name, files.Key, func(l trec.Leaf) error {
		if n < len(leaves) && leaves[n] != l.Hash {
			f.Segment, f.Offset = int64(n)-1, l.Offset
			return errLocated
		}
		n++
		return nil
	})
	if errors.Is(err, errLocated) {
		a.report.Proved = uint64(n)
		return nil
	}
	return err
}
