package replay_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"sallyport/recorder/ledger"
	"sallyport/recorder/tlog"
	"sallyport/recorder/trec"
	"sallyport/replay"
)

func TestAWholeNodeVerifies(t *testing.T) {
	s := newState(t, "N-1")
	for _, name := range []string{"S-1", "S-2", "S-3"} {
		s.session(t, name)
	}
	s.publish(t)
	var done, total int64
	files := s.files()
	files.Progress = func(d, of int64) { done, total = d, of }
	r := s.verify(t, files)
	if !r.Intact || len(found(r)) != 0 || r.Sessions != 3 || len(r.Recordings) != 3 || r.Node != "N-1" || r.Remembered != -1 {
		t.Fatalf("%s", r.Text())
	}
	for _, rec := range r.Recordings {
		if rec.Proved != uint64(rec.Segments)+1 || !rec.Complete || rec.Ending != replay.EndingComplete {
			t.Errorf("%+v", rec)
		}
	}
	if done != total || total == 0 {
		t.Errorf("progress ended at %d of %d", done, total)
	}
	text, err := json.Marshal(r)
	must(t, err)
	for _, field := range []string{`"node":"N-1"`, `"intact":true`, `"file":"S-1.trec"`, `"proved":`, `"root":`} {
		if !strings.Contains(string(text), field) {
			t.Errorf("%s is not in %s", field, text)
		}
	}
}

// TestALiveSessionVerifies as far as the ledger goes.
func TestALiveSessionVerifies(t *testing.T) {
	s := newState(t, "N-1")
	s.session(t, "S-1")
	live := s.begin(t, "S-2")
	live.show(t, "one")
	live.show(t, "two")
	s.number++
	s.tell(t, ledger.Leaf{Kind: ledger.KindOpen, Session: "S-3", Number: s.number}) // its file is not made yet
	s.publish(t)
	r := s.verify(t, s.files())
	if !r.Intact || len(alarms(found(r))) != 0 || !has(found(r), replay.CodeNoEnd) || !has(found(r), replay.CodeNotYetBegun) {
		t.Fatalf("%s", r.Text())
	}
	if rec := r.Recordings[1]; rec.Proved != 6 || rec.Ending != replay.EndingOpen {
		t.Errorf("%+v", rec)
	}
	// It has an empty file, then half a beginning.
	for _, data := range [][]byte{{}, read(t, s.path("S-1"))[:40]} {
		write(t, s.path("S-3"), data)
		if r := s.verify(t, s.files()); !r.Intact || !has(found(r), replay.CodeNotYetBegun) {
			t.Errorf("%s", r.Text())
		}
	}
	must(t, os.Remove(s.path("S-3")))
	// What the ledger tells of a live session must be there, to the last segment.
	data, segments := read(t, s.path("S-2")), segmentsOf(t, s.path("S-2"), s.key)
	for _, cut := range []int64{segments[4].Offset, segments[4].Offset + 7, segments[2].Offset, 10} {
		write(t, s.path("S-2"), data[:cut])
		if r := s.verify(t, s.files()); r.Intact {
			t.Errorf("cut at byte %d: %s", cut, r.Text())
		}
	}
	must(t, os.Remove(s.path("S-2")))
	if r := s.verify(t, s.files()); !slices.Equal(alarms(found(r)), []string{replay.CodeMissing}) {
		t.Errorf("%s", r.Text())
	}
}

// TestSegmentsThatTheLedgerDoesNotTellOf: their checksums need no key, so they may be anybody's.
func TestSegmentsThatTheLedgerDoesNotTellOf(t *testing.T) {
	s := newState(t, "N-1")
	live := s.begin(t, "S-1")
	live.show(t, "one")
	told := int64(live.leaf)
	_ = value[trec.Position](t)(live.w.Add(trec.Frame{Kind: trec.KindOutput, Time: begin, Data: []byte("never shown")}))
	_ = value[[]trec.Leaf](t)(live.w.Seal(trec.EffortBest))
	s.publish(t)
	r := s.verify(t, s.files())
	i := slices.IndexFunc(r.Findings, func(f replay.Finding) bool { return f.Code == replay.CodeUntold })
	if !r.Intact || i < 0 || r.Findings[i].Broken || r.Findings[i].Segment != told-1 {
		t.Fatalf("%s", r.Text())
	}
	s.open(t)
	live.tellLeaves(t)
	s.publish(t)
	if r := s.verify(t, s.files()); !r.Intact || has(found(r), replay.CodeUntold) {
		t.Errorf("%s", r.Text())
	}
}

func TestTheEndOfASessionBeforeItsClose(t *testing.T) {
	s := newState(t, "N-1")
	r := s.begin(t, "S-1")
	r.show(t, "one")
	r.end(t, "exit")
	s.publish(t)
	if r := s.verify(t, s.files()); !r.Intact || !has(found(r), replay.CodeNotYetClosed) {
		t.Errorf("%s", r.Text())
	}
}

// TestWhatACrashLeft tries what the node may tell of a session that has no
// good recording, and what others may make of that.
func TestWhatACrashLeft(t *testing.T) {
	bad := []byte("TREREC\x00\x01 and nonsense")
	sum := sha256.Sum256(bad)
	damaged := ledger.Leaf{Kind: ledger.KindDamaged, Session: "S-2", Number: 2, Hash: hex.EncodeToString(sum[:]), Size: int64(len(bad)), Reason: "damaged"}
	missing := ledger.Leaf{Kind: ledger.KindMissing, Session: "S-2", Number: 2, Reason: "missing"}
	for name, c := range map[string]struct {
		leaf   ledger.Leaf
		leaves bool // segments were told
		file   string
		data   []byte
		codes  []string
		note   string
	}{
		"set aside by the node":             {damaged, false, "S-2.trec.damaged", bad, nil, replay.CodeDamaged},
		"and another name was taken":        {damaged, false, "S-2.trec.damaged.1", bad, nil, replay.CodeDamaged},
		"set aside, but it was whole":       {damaged, true, "S-2.trec.damaged", bad, []string{replay.CodeDamaged}, ""},
		"exchanged since":                   {damaged, false, "S-2.trec.damaged", bad[1:], []string{replay.CodeDamaged, replay.CodeMissing}, ""},
		"removed since":                     {damaged, false, "", nil, []string{replay.CodeMissing}, ""},
		"another put there":                 {damaged, false, "S-2.trec", bad, []string{replay.CodeExtra, replay.CodeFormat}, ""},
		"never there":                       {missing, false, "", nil, nil, replay.CodeNotRecorded},
		"gone when the node started":        {missing, true, "", nil, []string{replay.CodeMissing}, ""},
		"missing, and there now":            {missing, false, "S-2.trec", bad, []string{replay.CodeExtra, replay.CodeFormat}, ""},
		"set aside, and the node knows not": {missing, false, "S-2.trec.damaged", bad, []string{replay.CodeDamaged}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			s := newState(t, "N-1")
			s.session(t, "S-1")
			if c.leaves {
				r := s.begin(t, "S-2")
				r.show(t, "one")
				must(t, os.Remove(s.path("S-2")))
			} else {
				s.tell(t, ledger.Leaf{Kind: ledger.KindOpen, Session: "S-2", Number: 2})
			}
			s.tell(t, c.leaf)
			s.tell(t, c.leaf) // a crash may make it say so again
			s.publish(t)
			if c.file != "" {
				write(t, filepath.Join(s.recordings(), c.file), c.data)
			}
			r := s.verify(t, s.files())
			if !slices.Equal(alarms(found(r)), c.codes) || r.Intact != (len(c.codes) == 0) || (c.note != "" && !has(found(r), c.note)) {
				t.Errorf("%v\n%s", alarms(found(r)), r.Text())
			}
		})
	}
}

// TestEntriesThatNoNodeWrites: whoever has the node's key can write them.
func TestEntriesThatNoNodeWrites(t *testing.T) {
	other := strings.Repeat("ab", 32)
	for name, c := range map[string]struct {
		entry any
		code  string
	}{
		"opened twice":              {ledger.Leaf{Kind: ledger.KindOpen, Session: "S-1", Number: 1}, replay.CodeEntry},
		"another number":            {ledger.Leaf{Kind: ledger.KindMissing, Session: "S-2", Number: 7}, replay.CodeEntry},
		"a number twice":            {ledger.Leaf{Kind: ledger.KindOpen, Session: "S-3", Number: 2}, replay.CodeNumbers},
		"a number left out":         {ledger.Leaf{Kind: ledger.KindOpen, Session: "S-3", Number: 4}, replay.CodeNumbers},
		"a leaf told differently":   {ledger.Leaf{Kind: ledger.KindSegment, Session: "S-2", Segment: 1, Hash: other}, replay.CodeEntry},
		"a leaf left out":           {ledger.Leaf{Kind: ledger.KindSegment, Session: "S-2", Segment: 9, Hash: other}, replay.CodeEntry},
		"a leaf behind the end":     {ledger.Leaf{Kind: ledger.KindSegment, Session: "S-1", Segment: 9, Hash: other}, replay.CodeEntry},
		"a leaf without an open":    {ledger.Leaf{Kind: ledger.KindSegment, Session: "S-9", Hash: other}, replay.CodeEntry},
		"closed twice":              {ledger.Leaf{Kind: ledger.KindClose, Session: "S-1", Number: 1, Hash: other, Size: 5, Reason: "exit"}, replay.CodeEntry},
		"a kind of the future":      {[]byte("\x02{\"kind\":\"later\",\"session\":\"S-1\"}"), replay.CodeVersion},
		"a version of the future":   {[]byte("\x03anything"), replay.CodeVersion},
		"text that is not JSON":     {[]byte("\x02{"), replay.CodeVersion},
		"JSON in another order":     {[]byte("\x02{\"session\":\"S-4\",\"kind\":\"open\",\"number\":3}"), replay.CodeVersion},
		"an entry of no bytes":      {[]byte{}, replay.CodeVersion},
		"a commitment of odd size":  {[]byte("\x01short"), replay.CodeVersion},
		"JSON nested without end":   {append([]byte("\x02{\"kind\":"), bytes.Repeat([]byte("["), 16000)...), replay.CodeVersion},
		"a leaf larger than any is": {append([]byte("\x02{\"kind\":\""), bytes.Repeat([]byte("a"), 60000)...), replay.CodeVersion},
	} {
		t.Run(name, func(t *testing.T) {
			s := newState(t, "N-1")
			s.session(t, "S-1")
			live := s.begin(t, "S-2")
			live.show(t, "one")
			switch entry := c.entry.(type) {
			case ledger.Leaf:
				s.tell(t, entry)
			case []byte:
				s.enter(t, entry)
			}
			last := int64(len(s.entries)) - 1
			s.publish(t)
			r := s.verify(t, s.files())
			if !slices.Contains(alarms(found(r)), c.code) || r.Intact {
				t.Fatalf("%s", r.Text())
			}
			if f := r.Findings[0]; c.code != replay.CodeNumbers && f.Entry != last {
				t.Errorf("entry %d is blamed, not %d: %s", f.Entry, last, f)
			}
		})
	}
}

// TestLeavesToldAgain: after a crash a node may repeat what it told.
func TestLeavesToldAgain(t *testing.T) {
	s := newState(t, "N-1")
	r := s.begin(t, "S-1")
	r.show(t, "one")
	r.leaf = 0
	r.tellLeaves(t)
	r.show(t, "two")
	r.close(t, "exit")
	s.enter(t, s.entries[len(s.entries)-1])
	s.publish(t)
	if r := s.verify(t, s.files()); !r.Intact || len(found(r)) != 0 {
		t.Errorf("%s", r.Text())
	}
}

func TestSecondDirectory(t *testing.T) {
	s := newState(t, "N-1")
	s.session(t, "S-1")
	s.session(t, "S-2")
	s.publish(t)
	second := filepath.Join(t.TempDir(), "second")
	must(t, os.CopyFS(second, os.DirFS(s.recordings())))
	must(t, os.Remove(s.path("S-1")))
	files := s.files()
	files.Recordings = append(files.Recordings, second)
	if r := s.verify(t, files); !r.Intact || len(r.Recordings) != 3 {
		t.Errorf("%s", r.Text())
	}
	copied := filepath.Join(second, "S-2.trec")
	data := read(t, copied)
	data[len(data)/2] ^= 1
	write(t, copied, data)
	if r := s.verify(t, files); r.Intact || len(alarms(found(r))) != 1 || found(r)[0].File != copied {
		t.Errorf("%s", r.Text())
	}
}

// TestACopiedRecording is held against a ledger or a proof without the rest.
func TestACopiedRecording(t *testing.T) {
	s := newState(t, "N-1")
	s.session(t, "S-1")
	s.session(t, "S-2")
	s.publish(t)
	path := filepath.Join(t.TempDir(), "2.fetched")
	write(t, path, read(t, s.path("S-2")))
	files := replay.NodeFiles{Ledger: s.ledger(), Copies: []string{path}, Key: s.key, Clock: quiet{}}
	if r := s.verify(t, files); !r.Intact || len(r.Recordings) != 1 || r.Recordings[0].Proved == 0 || len(found(r)) != 0 {
		t.Errorf("%s", r.Text())
	}
	p, err := replay.ProveRecording(t.Context(), s.ledger(), "S-2", s.key)
	must(t, err)
	text := p.Format()
	if r, err := replay.VerifyProof(path, text, s.key); err != nil || !r.Intact || r.Proved == 0 {
		t.Errorf("%v, %v", r, err)
	}
	for i := range text {
		changed := bytes.Clone(text)
		changed[i] ^= 0x08
		if r, err := replay.VerifyProof(path, changed, s.key); err != nil || r.Intact {
			t.Errorf("the proof's byte %d was changed: %v", i, err)
		}
	}
	if r, err := replay.VerifyProof(s.path("S-1"), text, s.key); err != nil || r.Intact || !has(r.Findings, replay.CodeProof) {
		t.Errorf("a proof for another session was taken: %v", err)
	}
	if _, err := replay.ProveRecording(t.Context(), s.ledger(), "S-9", s.key); err == nil {
		t.Error("a session that is not there was proved")
	}
	// Valid, signed by the node's key, and not what the ledger holds.
	out := value[*os.File](t)(os.Create(path))
	s.forge(t, out, "S-2")
	if r := s.verify(t, files); !slices.Equal(alarms(found(r)), []string{replay.CodeSegment}) || r.Findings[0].Segment != -1 {
		t.Errorf("%s", r.Text())
	}
	if r, err := replay.VerifyProof(path, text, s.key); err != nil || r.Intact {
		t.Errorf("%v, %v", r, err)
	}
}

func TestNoKey(t *testing.T) {
	s := newState(t, "N-1")
	s.session(t, "S-1")
	s.publish(t)
	if _, err := replay.VerifyNode(t.Context(), replay.NodeFiles{Ledger: s.ledger()}); err == nil {
		t.Error("verified with no key at all")
	}
	if _, err := replay.Verify(s.path("S-1"), nil); err == nil {
		t.Error("verified with no key at all")
	}
	files := s.files()
	files.Ledger = filepath.Join(s.dir, "nowhere")
	if _, err := replay.VerifyNode(t.Context(), files); err == nil {
		t.Error("verified without a ledger")
	}
}

// TestReceiptsAndCheckpoints are what others hold against the node.
func TestReceiptsAndCheckpoints(t *testing.T) {
	s := newState(t, "N-1")
	s.session(t, "S-1")
	r := s.begin(t, "S-2")
	index := r.close(t, "exit")
	receipt := value[*tlog.Receipt](t)(s.log.Receipt(index)).String()
	checkpoint := bytes.Clone(s.log.Checkpoint())
	s.session(t, "S-3")
	s.publish(t)
	files := s.files()
	files.Receipts, files.Checkpoints = []string{receipt}, [][]byte{checkpoint}
	if r := s.verify(t, files); !r.Intact || r.Ledger.Known != 2 {
		t.Errorf("%s", r.Text())
	}
	// The whole line that a person copied, against the recording that it is of and another.
	for session, fits := range map[string]bool{"S-2": true, "S-1": false} {
		one := replay.NodeFiles{Ledger: files.Ledger, Copies: []string{filepath.Join(s.recordings(), session+replay.Extension)}, Key: s.key,
			Receipts: []string{"receipt: " + receipt}}
		r := s.verify(t, one)
		if r.Intact != fits || has(found(r), replay.CodeReceipt) == fits {
			t.Errorf("the receipt of S-2 against %s: %s", session, r.Text())
		}
		if want := (replay.ReceiptReport{Session: "S-2", Entry: index, Entries: index + 1, Fits: true}); len(r.Receipts) != 1 || r.Receipts[0] != want {
			t.Errorf("%+v, wanted %+v", r.Receipts, want)
		}
	}
	// The same sessions, told anew from another first entry on.
	again := slices.Clone(s.entries)
	again = append([][]byte{tlog.Commit(tlog.Salt{}, []byte("inserted"))}, again...)
	s.anew(t, again)
	if r := s.verify(t, s.files()); !r.Intact {
		t.Errorf("a rewritten ledger is valid by itself: %s", r.Text())
	}
	for name, change := range map[string]func(*replay.NodeFiles){
		"receipt":    func(f *replay.NodeFiles) { f.Receipts = []string{receipt} },
		"checkpoint": func(f *replay.NodeFiles) { f.Checkpoints = [][]byte{checkpoint} },
	} {
		files := s.files()
		change(&files)
		if r := s.verify(t, files); r.Intact || !has(found(r), replay.CodeCheckpoint) {
			t.Errorf("%s: %s", name, r.Text())
		}
	}
	other := newState(t, "N-2")
	other.session(t, "S-1")
	foreign := bytes.Clone(other.log.Checkpoint())
	files = s.files()
	files.Checkpoints = [][]byte{foreign}
	if _, err := replay.VerifyNode(t.Context(), files); err == nil {
		t.Error("a checkpoint of another node was taken")
	}
}
