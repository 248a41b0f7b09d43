package replay

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// Recordings against the ledger: each session that was opened has its
// recording, with the head that the ledger names, or the ledger itself says
// why there is no head.

// compare holds the recordings against the ledger.
func (n *NodeReport) compare(files NodeFiles, l *ledgerView) error {
	if !n.Ledger.Intact {
		return nil // what it says about files can't be trusted to be all
	}
	seen := map[string]bool{}    // sessions that have a file
	evident := map[string]bool{} // sessions whose damaged file is there
	for i := range n.Recordings {
		r := &n.Recordings[i]
		session, aside := sessionOf(r.File)
		s := l.sessions[session]
		seen[session] = seen[session] || !aside
		if aside {
			same, err := n.compareAside(files, r, s)
			if err != nil {
				return err
			}
			evident[session] = evident[session] || same
			continue
		}
		if err := n.caughtUp(files, r, s); err != nil {
			return err
		}
		n.compareOne(r, session, l)
	}
	var numbers []int64
	for _, session := range sortedKeys(l.sessions) {
		s := l.sessions[session]
		if !s.opened {
			continue
		}
		numbers = append(numbers, s.number)
		if seen[session] || evident[session] {
			continue
		}
		if err := n.look(files, session, l); err != nil {
			return err
		}
	}
	n.dense(numbers)
	return nil
}

// sessionOf is the session that a file's name speaks of.
func sessionOf(name string) (session string, setAside bool) {
	parts := recordingFile.FindStringSubmatch(name)
	if parts == nil {
		return name, false
	}
	return parts[1], parts[2] != ""
}

// note adds a finding about a file as a whole.
func (n *NodeReport) note(file, code, text string, broken bool) {
	n.add(Finding{File: file, Code: code, Text: text, Block: -1, Offset: -1, Broken: broken})
}

// caughtUp reads a recording once more that ended after it was read but before
// the ledger was, as happens while a node runs.
func (n *NodeReport) caughtUp(files NodeFiles, r *Report, s *ledgerSession) error {
	if r.Complete || s == nil || s.head == "" {
		return nil
	}
	again, err := Verify(filepath.Join(files.Recordings, r.File), files.Key)
	if err == nil {
		*r = again
	} else if errors.Is(err, fs.ErrNotExist) {
		err = nil // what was read stands
	}
	return err
}

// compareOne judges a recording under its own name.
func (n *NodeReport) compareOne(r *Report, session string, l *ledgerView) {
	s := l.sessions[session]
	add := func(code, text string, broken bool) { n.note(r.File, code, text, broken) }
	n.compareNames(r, session)
	switch {
	case s == nil || !s.opened:
		add(CodeExtra, "the ledger does not have this session: the file was added, or its session never began", true)
	case s.head != "" && !r.Complete:
		add(CodeClosed, "the ledger has the head of the whole recording, but the recording has no signed end: it was cut", true)
	case s.head != "" && s.head != r.Head:
		add(CodeHead, "the recording's head is not the one that the ledger names: one of them was replaced", true)
	case s.head != "":
	case s.missing || s.damaged != "":
		add(CodeExtra, "the ledger says that the node found no such recording after a crash: the file was put there since", true)
	case s.closed && s.result != resultFailed:
		add(CodeHead, "the ledger closes the session without the head of its recording and does not say why", true)
	case s.closed && s.bytes == 0 && r.excuseUnbegun():
		add(CodeNotRecorded, "the ledger says that recording failed, before anything went through the session", false)
	case s.closed:
		add(CodeNotRecovered, "the ledger says that recording failed; it will have the recording's head when the node has restarted", false)
	case l.beginning(s) && r.excuseUnbegun():
		add(CodeNotYetBegun, notYetBegun, false)
	case r.Complete:
		add(CodeNotYetClosed, "the recording has ended, but the ledger does not have the session's close yet", false)
	}
}

// notYetBegun is said of a session whose recording has no whole block yet.
const notYetBegun = "nothing is recorded yet: the session has just begun, or the node crashed before the recording began, or somebody removed it; " +
	"verify again when the session has ended or the node has started again"

// excuseUnbegun reports whether not even the first block is whole. That is no
// evidence of change where the ledger says that the first write failed, or
// does not yet say what became of the session.
func (r *Report) excuseUnbegun() bool {
	if r.Blocks != 0 || len(r.Findings) != 1 || r.Findings[0].Code != CodeCut {
		return false
	}
	r.Findings[0].Broken, r.Intact = false, true
	return true
}

func (n *NodeReport) compareNames(r *Report, session string) {
	if r.Node != "" && n.Node != "" && r.Node != n.Node {
		n.note(r.File, CodeName, fmt.Sprintf("the recording is of node %s, the ledger of node %s", r.Node, n.Node), true)
	}
	if r.Session != "" && r.Session != session {
		n.note(r.File, CodeName, fmt.Sprintf("the file holds session %s", r.Session), true)
	}
}

// compareAside judges a recording that was set aside: by the node, which says
// so in the ledger, or by somebody who wants it to look so. It reports whether
// the file is the one that the ledger names.
func (n *NodeReport) compareAside(files NodeFiles, r *Report, s *ledgerSession) (bool, error) {
	add := func(text string, broken bool) { n.note(r.File, CodeDamaged, text, broken) }
	switch {
	case s == nil || !s.opened:
		n.note(r.File, CodeExtra, "the ledger does not have this session: the file was added, or its session never began", true)
	case s.head != "":
		add("the ledger has the head of this recording, so the node did not set it aside: somebody else did", true)
	case s.damaged != "":
		sum, err := fileSum(filepath.Join(files.Recordings, r.File))
		if err != nil {
			return false, err
		}
		if sum == s.damaged {
			add("the node found this recording damaged after a crash and set it aside; it is as the node found it", false)
			return true, nil
		}
		add("the file that was set aside is not the one that the ledger names", true)
	case s.closed:
		add("the ledger closes this session and does not say that the node set its recording aside", true)
	default:
		add("the recording was set aside, and the ledger does not have the session's close yet", false)
		return true, nil
	}
	return false, nil
}

func fileSum(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

// look judges a session whose recording was not there when the folder was
// listed. While a node runs it may have begun since.
func (n *NodeReport) look(files NodeFiles, session string, l *ledgerView) error {
	s := l.sessions[session]
	name := session + ".rec"
	path := filepath.Join(files.Recordings, filepath.Base(name))
	if info, err := os.Lstat(path); err == nil && !info.Mode().IsRegular() {
		return nil // found when the folder was listed
	}
	r, err := Verify(path, files.Key)
	if err == nil {
		n.Recordings = append(n.Recordings, r)
		n.compareOne(&n.Recordings[len(n.Recordings)-1], session, l)
		return nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	switch {
	case s.head != "" || s.damaged != "":
		n.note(name, CodeMissing, "the ledger names the recording of this session, but it is not there", true)
	case s.bytes > 0:
		n.note(name, CodeMissing, fmt.Sprintf("the ledger says that %d bytes went through this session, but there is no recording", s.bytes), true)
	case s.missing:
		n.note(name, CodeNotRecorded, "there is no recording, and the node found none when it restarted: it crashed or failed before one was made, or the file was taken away before", false)
	case s.closed && s.result == resultFailed:
		n.note(name, CodeNotRecorded, "there is no recording; the ledger says that recording failed, before anything went through the session", false)
	case l.beginning(s):
		n.note(name, CodeNotYetBegun, notYetBegun, false)
	default:
		n.note(name, CodeMissing, "the ledger has this session, but its recording is not there", true)
	}
	return nil
}
