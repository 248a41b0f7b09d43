package replay

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"os"
	"slices"
	"sync"
	"testing"

	"sallyport/recorder"
)

// left is a session that did not end as it should: its recording is on the
// disk in some state, and the ledger says about it what the test wants.
type left struct {
	*node
	t    *testing.T
	path string
	data []byte // of the whole recording
	head string
	ends []int64
}

// newLeft makes a whole session beside one whose open alone is in the ledger.
func newLeft(t *testing.T) *left {
	n := newNode(t)
	n.record(t, "S-1", true, n.typical()...)
	rec := n.begin(t, "S-2", false)
	for _, f := range n.typical() {
		p, err := rec.Append(f)
		must(t, err)
		must(t, rec.Wait(t.Context(), p))
	}
	result, err := rec.Close(context.Background(), "exited")
	must(t, err)
	w := &left{node: n, t: t, path: n.rec.Path("S-2"), head: result.Head}
	w.data = read(t, w.path)
	w.ends = blocksOf(t, w.data)
	return w
}

func (w *left) closes(result, head string, bytes int) {
	w.event(w.t, opClose, "S-2", fmt.Sprintf(`{"number":2,"result":%q,"head":%q,"bytes_in":0,"bytes_out":%d}`, result, head, bytes))
}

func (w *left) recovers(head string) {
	w.event(w.t, opRecovered, "S-2", fmt.Sprintf(`{"reason":"crashed","head":%q}`, head))
}

func (w *left) setsAside(data []byte) {
	w.event(w.t, opDamaged, "S-2", fmt.Sprintf(`{"reason":"damaged","sha256":"%x"}`, sha256.Sum256(data)))
}

func (w *left) misses() { w.event(w.t, opMissing, "S-2", `{"reason":"missing"}`) }

// starts has the node start again, which it does once it has said what became of every session.
func (w *left) starts() { w.event(w.t, opStart, "", `{}`) }

func (w *left) removes() { must(w.t, os.Remove(w.path)) }

// cut leaves the first blocks alone.
func (w *left) cut(blocks int) []byte { return w.data[:w.ends[blocks]] }

func (w *left) renames() { must(w.t, os.Rename(w.path, w.path+".damaged")) }

// TestPromise4_LedgerAgainstWhatACrashLeft is what verification says of each
// state that a session can be left in, and of what could be made to look so.
func TestPromise4_LedgerAgainstWhatACrashLeft(t *testing.T) {
	const broken, note = true, false
	cases := []struct {
		name   string
		code   string // "": nothing is found
		broken bool
		change func(w *left)
	}{
		{"closed, then cut and renamed as if damaged", CodeDamaged, broken, func(w *left) {
			w.closes("exited", w.head, 9)
			write(w.t, w.path, w.cut(3))
			w.renames()
		}},
		{"closed, then renamed as if damaged", CodeDamaged, broken, func(w *left) { w.closes("exited", w.head, 9); w.renames() }},
		{"closed, then a second file laid beside", CodeDamaged, broken, func(w *left) {
			w.closes("exited", w.head, 9)
			write(w.t, w.path+".damaged.1", w.cut(3))
		}},
		{"closed without a head, and deleted", CodeMissing, broken, func(w *left) { w.closes("exited", "", 0); w.removes() }},
		{"closed as crashed without a head, and deleted", CodeMissing, broken, func(w *left) { w.closes("crashed", "", 0); w.removes() }},
		{"closed as crashed without a head, and cut", CodeHead, broken, func(w *left) { w.closes("crashed", "", 0); write(w.t, w.path, w.cut(3)) }},
		{"closed as crashed without a head, and whole", CodeHead, broken, func(w *left) { w.closes("crashed", "", 0) }},
		{"closed as crashed without a head, and renamed as if damaged", CodeDamaged, broken, func(w *left) { w.closes("crashed", "", 0); w.renames() }},

		{"not closed, ended", CodeNotYetClosed, note, func(w *left) {}},
		{"not closed, no file", CodeNotYetBegun, note, func(w *left) { w.removes() }},
		{"not closed, no file, one start before", CodeNotYetBegun, note, func(w *left) {
			w.starts()
			w.begin(w.t, "S-3", false)
			must(w.t, os.Remove(w.rec.Path("S-3")))
		}},
		{"not closed, no file, though the node has started since", CodeMissing, broken, func(w *left) { w.removes(); w.starts() }},
		{"not closed, no file, though the node has started since, with a session after it", CodeMissing, broken, func(w *left) {
			w.removes()
			w.starts()
			w.record(w.t, "S-3", false, w.typical()...)
		}},
		{"not closed, nothing in the file", CodeNotYetBegun, note, func(w *left) { write(w.t, w.path, nil) }},
		{"not closed, nothing in the file, though the node has started since", CodeCut, broken, func(w *left) {
			write(w.t, w.path, nil)
			w.starts()
		}},
		{"not closed, cut inside its first bytes, though the node has started since", CodeCut, broken, func(w *left) {
			write(w.t, w.path, w.data[:20])
			w.starts()
		}},
		{"not closed, no file, and one head too many", CodeMissing, broken, func(w *left) { w.recovers(w.head); w.removes() }},
		{"not closed, another file in its place", CodeFormat, broken, func(w *left) { write(w.t, w.path, []byte("something else altogether")) }},
		{"not closed, its first block changed", CodeSignature, broken, func(w *left) {
			changed := bytes.Clone(w.cut(1))
			changed[len(changed)-1] ^= 1
			write(w.t, w.path, changed)
		}},
		{"closed, deleted", CodeMissing, broken, func(w *left) { w.closes("exited", w.head, 0); w.removes() }},
		{"closed, emptied", CodeCut, broken, func(w *left) { w.closes("exited", w.head, 0); write(w.t, w.path, nil) }},
		{"closed, cut inside its first bytes", CodeClosed, broken, func(w *left) { w.closes("exited", w.head, 0); write(w.t, w.path, w.data[:20]) }},
		{"closed without a head, and emptied", CodeHead, broken, func(w *left) { w.closes("exited", "", 0); write(w.t, w.path, nil) }},
		{"not closed, just set aside", CodeDamaged, note, func(w *left) { write(w.t, w.path, w.cut(3)); w.renames() }},

		{"failed before it began", CodeNotRecorded, note, func(w *left) { w.closes(resultFailed, "", 0); w.removes() }},
		{"failed at its first write", CodeNotRecorded, note, func(w *left) { w.closes(resultFailed, "", 0); write(w.t, w.path, w.data[:20]) }},
		{"failed, deleted", CodeMissing, broken, func(w *left) { w.closes(resultFailed, "", 9); w.removes() }},
		{"failed at its first write, though bytes went through", CodeCut, broken, func(w *left) {
			w.closes(resultFailed, "", 9)
			write(w.t, w.path, nil)
		}},
		{"failed, not yet recovered", CodeNotRecovered, note, func(w *left) { w.closes(resultFailed, "", 9); write(w.t, w.path, w.cut(4)) }},
		{"failed, recovered", "", note, func(w *left) { w.closes(resultFailed, "", 9); w.recovers(w.head) }},
		{"failed, recovered, deleted", CodeMissing, broken, func(w *left) { w.closes(resultFailed, "", 0); w.recovers(w.head); w.removes() }},
		{"failed, recovered, cut", CodeClosed, broken, func(w *left) {
			w.closes(resultFailed, "", 9)
			w.recovers(w.head)
			write(w.t, w.path, w.cut(4))
		}},
		{"failed, recovered, replaced", CodeHead, broken, func(w *left) { w.closes(resultFailed, "", 9); w.recovers(fmt.Sprintf("%064d", 1)) }},
		{"recovered twice", "", note, func(w *left) { w.closes(resultFailed, "", 9); w.recovers(w.head); w.recovers(w.head) }},
		{"two heads", CodeEntry, broken, func(w *left) { w.closes("exited", w.head, 9); w.recovers(fmt.Sprintf("%064d", 1)) }},

		{"never begun", CodeNotRecorded, note, func(w *left) { w.misses(); w.closes("crashed", "", 0); w.removes() }},
		{"never begun, yet bytes went through", CodeMissing, broken, func(w *left) { w.closes(resultFailed, "", 9); w.misses(); w.removes() }},
		{"never begun, and now there is a file", CodeExtra, broken, func(w *left) { w.misses(); w.closes("crashed", "", 0) }},

		{"set aside", CodeDamaged, note, func(w *left) {
			write(w.t, w.path, w.cut(3))
			w.setsAside(w.cut(3))
			w.closes("crashed", "", 0)
			w.renames()
		}},
		{"set aside under the next free name", CodeDamaged, note, func(w *left) {
			w.setsAside(w.cut(3))
			w.closes("crashed", "", 0)
			w.removes()
			write(w.t, w.path+".damaged.1", w.cut(3))
		}},
		{"set aside, then cut further", CodeDamaged, broken, func(w *left) {
			write(w.t, w.path, w.cut(3))
			w.setsAside(w.data)
			w.closes("crashed", "", 0)
			w.renames()
		}},
		{"set aside, then deleted", CodeMissing, broken, func(w *left) { w.setsAside(w.data); w.closes("crashed", "", 0); w.removes() }},
		{"set aside, and now there is a file", CodeExtra, broken, func(w *left) { w.setsAside(w.data); w.closes("crashed", "", 0) }},
		{"a folder in its place", CodeFormat, broken, func(w *left) {
			w.closes("exited", w.head, 9)
			w.removes()
			must(w.t, os.Mkdir(w.path, 0o700))
		}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			w := newLeft(t)
			c.change(w)
			r, err := VerifyDir(w.dir, w.key, nil)
			must(t, err)
			all := codes(r.Findings)
			for _, one := range r.Recordings {
				all = append(all, codes(one.Findings)...)
			}
			if r.Intact == c.broken || c.code != "" && !slices.Contains(all, c.code) || c.code == "" && len(all) > 0 {
				t.Errorf("found %q, wanted %q, broken: %t\n%s", all, c.code, c.broken, r.Text())
			}
		})
	}
}

// TestVerifyWhileTheNodeRuns has one session end and another begin and end
// after the recordings were read and before the ledger is.
func TestVerifyWhileTheNodeRuns(t *testing.T) {
	n := newNode(t)
	n.record(t, "S-1", false, n.typical()...)
	live := n.begin(t, "S-2", false)
	files := n.files()
	happened := false
	both := int64(len(read(t, n.rec.Path("S-1"))) + len(read(t, n.rec.Path("S-2"))))
	files.Progress = func(done, _ int64) {
		if happened || done < both {
			return
		}
		happened = true
		n.finish(t, live, "S-2")
		n.record(t, "S-3", false, n.typical()...)
	}
	r, err := VerifyNode(files)
	must(t, err)
	if !happened || !r.Intact || len(r.Findings) != 0 || len(r.Recordings) != 3 {
		t.Errorf("%s", r.Text())
	}
	if next, err := VerifyNode(n.files()); err != nil || !next.Intact || len(next.Recordings) != 3 || next.Recordings[0].Ending != EndingComplete {
		t.Errorf("%v %s", err, next.Text())
	}
}

// TestVerifyOfABeginning is what verification says while a session
// begins, and after a crash meanwhile until the node starts again: the ledger
// has its open, and of its recording there is nothing, or some first part.
func TestVerifyOfABeginning(t *testing.T) {
	w := newLeft(t)
	judge := func(when string, begun bool) {
		t.Helper()
		r, err := VerifyDir(w.dir, w.key, nil)
		must(t, err)
		if got := slices.Contains(codes(r.Findings), CodeNotYetBegun); !r.Intact || got == begun {
			t.Fatalf("%s: %s", when, r.Text())
		}
	}
	first, second := w.ends[1], w.ends[2]
	sizes := []int64{first - 1, first, first + 1, second - 1, second}
	for size := range int64(8 + 44 + 2) { // the magic and the first block's header
		sizes = append(sizes, size)
	}
	for size := int64(60); size < second; size += 97 {
		sizes = append(sizes, size)
	}
	for _, size := range sizes {
		write(t, w.path, w.data[:size])
		judge(fmt.Sprintf("after %d bytes", size), size >= first)
	}
	w.removes()
	judge("before its file is made", false)
}

// TestVerifyBesideSessions verifies again and again while three people run one
// session after another, as a node does: first the ledger has the open, then
// the recording is made and ended, then the ledger has the close.
func TestVerifyBesideSessions(t *testing.T) {
	const people, each = 3, 25
	n := newNode(t)
	var mu sync.Mutex // guards the ledger's sequence and the sessions' numbers
	var working sync.WaitGroup
	defer working.Wait()
	failed := make(chan error, people)
	for range people {
		working.Go(func() {
			for range each {
				if err := n.oneSession(t.Context(), &mu); err != nil {
					failed <- err
					return
				}
			}
		})
	}
	ended := make(chan struct{})
	go func() { working.Wait(); close(ended) }()
	for over := false; !over && !t.Failed(); {
		select {
		case err := <-failed:
			t.Fatal(err)
		case <-ended:
			over = true // once more when all is closed
		default:
		}
		r, err := VerifyDir(n.dir, n.key, nil)
		must(t, err)
		if !r.Intact || over && (len(r.Findings) > 0 || len(r.Recordings) != people*each) {
			t.Errorf("a false alarm: %v", alarms(r))
		}
	}
}

// oneSession is a session with nothing in it; several may run at once.
func (n *node) oneSession(ctx context.Context, mu *sync.Mutex) error {
	tell := func(op, session string, details func() string) error {
		mu.Lock()
		defer mu.Unlock()
		s := n.ledger.Last() + 1
		return n.ledger.Append(ctx, s, fmt.Appendf(nil, `{"op_type":%q,"sequence":%d,"session":%q,"details":%s}`, op, s, session, details()))
	}
	session, number := "S-"+rand.Text(), int64(0)
	err := tell(opOpen, session, func() string {
		n.number++
		number = n.number
		return fmt.Sprintf(`{"number":%d}`, number)
	})
	if err != nil {
		return err
	}
	rec, err := n.rec.Start(ctx, recorder.Meta{Session: session, Number: number, Start: n.now}, n.epoch.Keys())
	if err != nil {
		return err
	}
	result, err := rec.Close(ctx, "exited")
	if err != nil {
		return err
	}
	return tell(opClose, session, func() string {
		return fmt.Sprintf(`{"number":%d,"result":"exited","head":%q}`, number, result.Head)
	})
}

// alarms are all findings of a report, for a message.
func alarms(r NodeReport) []Finding {
	all := slices.Clone(r.Findings)
	for _, one := range append(r.Recordings, r.Ledger) {
		all = append(all, one.Findings...)
	}
	return all
}

func (n *node) files() NodeFiles {
	return NodeFiles{Ledger: n.dir + "/ledger/" + recorder.LedgerFile, Recordings: n.dir + "/recordings", Key: n.key}
}
