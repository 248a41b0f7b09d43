package replay_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"sallyport/recorder/tlog"
	"sallyport/recorder/trec"
	"sallyport/replay"
)

// TestPromise4_AnyFlippedByteOfARecording flips each byte in turn.
func TestPromise4_AnyFlippedByteOfARecording(t *testing.T) {
	s := newState(t, "N-1")
	s.session(t, "S-1")
	data := read(t, s.path("S-1"))
	if r := verifyBytes(t, s, data); !r.Intact || !r.Complete || len(r.Findings) != 0 {
		t.Fatalf("the original: %+v", r)
	}
	first := segmentsOf(t, s.path("S-1"), s.key)[1].Offset
	for i := range data {
		data[i] ^= 0x40
		r := verifyBytes(t, s, data)
		if r.Intact && r.Complete {
			t.Errorf("byte %d was changed and nothing was found", i)
		}
		// What stands before the first segment shows in the checksum of that one.
		if len(r.Findings) != 1 || r.Findings[0].Offset > max(int64(i), first) || r.Findings[0].Text == "" {
			t.Errorf("byte %d: %+v", i, r.Findings)
		}
		data[i] ^= 0x40
	}
}

// TestPromise4_AnyFlippedByteOfALedger flips each byte of what a verifier reads.
func TestPromise4_AnyFlippedByteOfALedger(t *testing.T) {
	s := newState(t, "N-1")
	s.begin(t, "S-1").show(t, "one")
	s.event(t)
	s.publish(t)
	d := value[*tlog.Directory](t)(tlog.OpenDirectory(s.ledger(), s.origin(), value[note.Verifier](t)(tlog.NewVerifier(s.origin(), s.key))))
	for _, name := range []string{tlog.CheckpointFile, fmt.Sprintf("tile/entries/000.p/%d", d.Size()), fmt.Sprintf("tile/0/000.p/%d", d.Size())} {
		path := filepath.Join(s.ledger(), filepath.FromSlash(name))
		data := read(t, path)
		for i := range data {
			changed := bytes.Clone(data)
			changed[i] ^= 0x10
			write(t, path, changed)
			r := s.verify(t, s.files())
			if r.Intact {
				t.Errorf("%s, byte %d was changed and nothing was found", name, i)
			} else if f := found(r)[0]; f.File == "" || f.Text == "" {
				t.Errorf("%s, byte %d: %+v", name, i, f)
			}
		}
		write(t, path, data)
	}
	if r := s.verify(t, s.files()); !r.Intact {
		t.Errorf("the original: %s", r.Text())
	}
}

// TestPromise4_Truncation cuts a recording and a ledger at each byte.
func TestPromise4_Truncation(t *testing.T) {
	s := newState(t, "N-1")
	s.session(t, "S-1")
	s.publish(t)
	data := read(t, s.path("S-1"))
	for cut := range data {
		if r := verifyBytes(t, s, data[:cut]); r.Complete || len(r.Findings) != 1 {
			t.Fatalf("cut at %d: %+v", cut, r)
		}
	}
	// Alone a cut file may be one that is still open. With the ledger it is not.
	for cut := 0; cut < len(data); cut += 7 {
		write(t, s.path("S-1"), data[:cut])
		if r := s.verify(t, s.files()); r.Intact {
			t.Errorf("cut at %d: %s", cut, r.Text())
		}
	}
	write(t, s.path("S-1"), data)
	must(t, filepath.WalkDir(s.ledger(), func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || !strings.Contains(path, "tile") && e.Name() != tlog.CheckpointFile || !strings.HasSuffix(path, fmt.Sprint(len(s.entries))) {
			return err
		}
		whole := read(t, path)
		for cut := range whole {
			write(t, path, whole[:cut])
			if r := s.verify(t, s.files()); r.Intact {
				t.Errorf("%s cut at %d: %s", path, cut, r.Text())
			}
		}
		write(t, path, whole)
		return nil
	}))
}

// TestHostileRecordings: each is refused at its place, with little memory.
func TestHostileRecordings(t *testing.T) {
	s := newState(t, "N-1")
	s.session(t, "S-1")
	data := read(t, s.path("S-1"))
	segments := segmentsOf(t, s.path("S-1"), s.key)
	at := segments[2].Offset // of segment 1
	set := func(offset int64, value ...byte) []byte {
		changed := bytes.Clone(data)
		copy(changed[offset:], value)
		return changed
	}
	far := binary.BigEndian.AppendUint64(nil, 1<<63-1)
	for name, c := range map[string]struct {
		data    []byte
		code    string
		segment int64
		offset  int64
	}{
		"a version of the future":            {set(7, 2), replay.CodeVersion, -1, 0},
		"something else":                     {[]byte("#!/bin/sh\necho\n"), replay.CodeFormat, -1, 0},
		"nothing":                            {nil, replay.CodeCut, -1, 0},
		"a header of 4 GiB":                  {set(8, 0xff, 0xff, 0xff, 0xff), replay.CodeFormat, -1, 8},
		"a header that is not canonical":     {set(12, '['), replay.CodeFormat, -1, 8},
		"a segment of 16 MiB":                {set(at+23, 0xff, 0xff, 0xff), replay.CodeChain, 1, at},
		"a segment that expands to 16 MiB":   {set(at+20, 0xff, 0xff, 0xff), replay.CodeChain, 1, at},
		"an unknown codec":                   {set(at+3, 9), replay.CodeChain, 1, at},
		"an unknown type":                    {set(at+1, 'Z'), replay.CodeChain, 1, at},
		"a number of its own":                {set(at+4, 0, 0, 0, 9), replay.CodeChain, 1, at},
		"a time that no calendar has":        {set(at+26, far...), replay.CodeChain, 1, at},
		"zeros for the rest":                 {append(bytes.Clone(data[:at]), make([]byte, 5000)...), replay.CodeCut, 1, at},
		"the same segments twice":            {slices.Concat(data[:at], data[segments[1].Offset:at], data[at:]), replay.CodeChain, 1, at},
		"two recordings one after the other": {slices.Concat(data, data), replay.CodeChain, int64(len(segments)) - 1, segments[len(segments)-1].Offset + segments[len(segments)-1].Size()},
	} {
		t.Run(name, func(t *testing.T) {
			var r replay.Report
			if grown := heapGrowth(func() { r = verifyBytes(t, s, c.data) }); grown > 4<<20 {
				t.Errorf("%d bytes of memory for %d bytes", grown, len(c.data))
			}
			if len(r.Findings) != 1 || r.Complete {
				t.Fatalf("%+v", r)
			}
			if f := r.Findings[0]; f.Code != c.code || f.Segment != c.segment || f.Offset != c.offset {
				t.Errorf("%s at segment %d, byte %d: %s", f.Code, f.Segment, f.Offset, f)
			}
		})
	}
}

// heapGrowth is how much work allocates in all, freed or not.
func heapGrowth(work func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	work()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// TestABombIsNotEvenOpened: verify needs no key, so it never expands anything;
// a reader with the keys stops at the size that the header declares (package trec).
func TestABombIsNotEvenOpened(t *testing.T) {
	s := newState(t, "N-1")
	r := s.begin(t, "S-1")
	for range 320 {
		r.show(t, strings.Repeat("\x00", 200<<10)) // a few hundred bytes each in the file
	}
	r.close(t, "exit")
	if size := len(read(t, s.path("S-1"))); size > 1<<20 {
		t.Fatalf("%d bytes", size)
	}
	if grown := heapGrowth(func() { value[replay.Report](t)(replay.Verify(s.path("S-1"), s.key)) }); grown > 4<<20 {
		t.Errorf("%d bytes of memory", grown)
	}
}

// TestFuture: times that have not come yet are a note, since clocks are set wrong.
func TestFuture(t *testing.T) {
	s := newState(t, "N-1")
	out := value[*os.File](t)(os.Create(s.path("S-1")))
	o := s.options("S-1")
	o.Start = time.Now().AddDate(3, 0, 0)
	w := value[*trec.Writer](t)(trec.NewWriter(out, o))
	value[trec.Summary](t)(w.Close(o.Start, "exit"))
	must(t, out.Close())
	r := value[replay.Report](t)(replay.Verify(s.path("S-1"), s.key))
	if !r.Intact || !has(r.Findings, replay.CodeFuture) {
		t.Errorf("%s", r.Text())
	}
}

// TestRemembering: the newest checkpoint is kept after success, and only then.
func TestRemembering(t *testing.T) {
	s := newState(t, "N-1")
	s.session(t, "S-1")
	s.publish(t)
	old := copyState(t, s)
	files := s.files()
	files.Remembered = tlog.NewRemembered(filepath.Join(t.TempDir(), "memory"))
	if r := s.verify(t, files); !r.Intact || r.Remembered != -1 {
		t.Fatalf("%s", r.Text())
	}
	first := int64(len(s.entries))
	s.open(t)
	s.session(t, "S-2")
	s.publish(t)
	// Not everything verifies: the larger checkpoint is not taken.
	data := read(t, s.path("S-2"))
	write(t, s.path("S-2"), data[:len(data)/2])
	for range 2 {
		if r := s.verify(t, files); r.Intact || r.Remembered != first {
			t.Fatalf("%s", r.Text())
		}
	}
	write(t, s.path("S-2"), data)
	for i, want := range []int64{first, int64(len(s.entries))} {
		if r := s.verify(t, files); !r.Intact || r.Remembered != want || r.Ledger.Known != 1 {
			t.Fatalf("%d: %s", i, r.Text())
		}
	}
	// An older copy of everything verifies by itself, and not here.
	if r := old.verify(t, old.files()); !r.Intact {
		t.Fatalf("%s", r.Text())
	}
	behind := old.files()
	behind.Remembered = files.Remembered
	if r := old.verify(t, behind); !slices.Equal(alarms(found(r)), []string{replay.CodeCheckpoint}) {
		t.Errorf("%s", r.Text())
	}
	// With another node's key nothing is to be held against anything.
	foreign := files
	foreign.Key = newState(t, "N-2").key
	if r := s.verify(t, foreign); !slices.Equal(alarms(found(r)), []string{replay.CodeLedger, replay.CodeOtherKey}) {
		t.Errorf("%s", r.Text())
	}
	if r := s.verify(t, files); !r.Intact || r.Remembered != int64(len(s.entries)) {
		t.Errorf("the memory was changed: %s", r.Text())
	}
}

// TestPromise4_AnotherNodesNameIsNoEscape: whoever holds the key cannot leave what is
// remembered behind by writing everything anew under another name.
func TestPromise4_AnotherNodesNameIsNoEscape(t *testing.T) {
	s := newState(t, "N-1")
	s.session(t, "S-1")
	s.publish(t)
	memory := filepath.Join(t.TempDir(), "memory")
	check := func(s *state, newNode bool) replay.NodeReport {
		files := s.files()
		files.Remembered, files.NewNode = tlog.NewRemembered(memory), newNode
		return s.verify(t, files)
	}
	if r := check(s, false); !r.Intact {
		t.Fatalf("%s", r.Text())
	}
	renamed := newState(t, "N-2")
	renamed.signer, renamed.key = s.signer, s.key
	renamed.publish(t)
	must(t, os.RemoveAll(renamed.ledger()))
	renamed.open(t)
	renamed.session(t, "S-1")
	renamed.publish(t)
	if r := renamed.verify(t, renamed.files()); !r.Intact {
		t.Fatalf("it is whole by itself: %s", r.Text())
	}
	for range 2 {
		if r := check(renamed, false); !slices.Equal(alarms(found(r)), []string{replay.CodeNode}) {
			t.Errorf("%s", r.Text())
		}
	}
	if kept := value[[]string](t)(filepath.Glob(filepath.Join(memory, "*.conflict"))); len(kept) != 1 {
		t.Errorf("kept as evidence: %v", kept)
	}
	if r := check(s, false); !r.Intact || r.Remembered != int64(len(s.entries)) {
		t.Errorf("%s", r.Text())
	}
	// The node was set up again, an auditor knows, and says so once.
	for _, newNode := range []bool{true, false} {
		if r := check(renamed, newNode); !r.Intact {
			t.Errorf("%s", r.Text())
		}
	}
	if r := check(s, false); !slices.Equal(alarms(found(r)), []string{replay.CodeNode}) {
		t.Errorf("the old name came back: %s", r.Text())
	}
	// What was seen under the old name still counts.
	s.anew(t, s.entries[:len(s.entries)-1])
	if r := check(s, true); r.Intact || !has(found(r), replay.CodeCheckpoint) {
		t.Errorf("%s", r.Text())
	}
}

// TestPipesAreNoFiles: a folder from elsewhere may hold a pipe, on which a reader would wait for ever.
func TestPipesAreNoFiles(t *testing.T) {
	for name, place := range map[string]func(*state) string{
		"recording":  func(s *state) string { return s.path("S-1") },
		"checkpoint": func(s *state) string { return filepath.Join(s.ledger(), tlog.CheckpointFile) },
		"cosigned":   func(s *state) string { return filepath.Join(s.ledger(), tlog.CosignedFile) },
		"tile":       func(s *state) string { return filepath.Join(s.ledger(), "tile", "0", "000") },
		"bodies":     func(s *state) string { return filepath.Join(s.ledger(), "bodies", "locations") },
		"append":     func(s *state) string { return filepath.Join(s.ledger(), "append", "00000000000000000000.log") },
	} {
		t.Run(name, func(t *testing.T) {
			s := newState(t, "N-1")
			s.session(t, "S-1")
			s.publish(t)
			path := place(s)
			must(t, os.RemoveAll(path))
			must(t, os.MkdirAll(filepath.Dir(path), 0o700))
			must(t, syscall.Mkfifo(path, 0o600))
			if name == "tile" {
				parts := value[[]string](t)(filepath.Glob(filepath.Join(s.ledger(), "tile", "0", "000.p", "*")))
				for _, part := range parts {
					must(t, os.Remove(part))
				}
			}
			done := make(chan error, 1)
			go func() {
				r, err := replay.VerifyNode(t.Context(), s.files())
				if err == nil && r.Intact {
					err = errors.New("everything verifies")
				} else {
					err = nil
				}
				if _, alone := replay.Verify(path, s.key); alone == nil {
					err = errors.New("a pipe is a recording")
				}
				done <- err
			}()
			select {
			case err := <-done:
				must(t, err)
			case <-time.After(20 * time.Second):
				f := value[*os.File](t)(os.OpenFile(path, os.O_RDWR, 0)) // lets the reader go
				defer f.Close()
				t.Fatal("verify waits for the pipe")
			}
		})
	}
}

// TestNoForgedLines: what a hostile file says of itself makes no line of its own in a report.
func TestNoForgedLines(t *testing.T) {
	const forged = "S-1\nnode N-1: everything verifies\u2028\r\x1b[2J\u009b2J"
	s := newState(t, "N-1")
	s.session(t, "S-1")
	s.publish(t)
	copied := filepath.Join(t.TempDir(), forged+".trec")
	write(t, copied, read(t, s.path("S-1"))[:1000])
	r := value[replay.Report](t)(replay.Verify(copied, s.key))
	files := replay.NodeFiles{Ledger: s.ledger(), Copies: []string{copied}, Key: s.key, Clock: quiet{}}
	n := s.verify(t, files)
	n.Findings = append(n.Findings, replay.Finding{File: "S-9.trec", Code: replay.CodeName, Text: "the file holds session " + forged})
	n.Node, n.Witnessed = forged, &replay.Witnessed{By: []string{forged}}
	for _, text := range []string{r.Text(), n.Text()} {
		for line := range strings.Lines(text) {
			if strings.HasPrefix(line, "node N-1: everything") {
				t.Errorf("a forged line: %q", text)
			}
		}
		if strings.ContainsAny(text, "\r\x1b\u009b\u2028") {
			t.Errorf("not plain: %q", text)
		}
	}
}

// TestListsInJSONAreLists: a script that counts them finds none, not null.
func TestListsInJSONAreLists(t *testing.T) {
	c := newScene(t)
	must(t, os.RemoveAll(c.recordings()))
	must(t, os.Mkdir(c.recordings(), 0o700))
	write(t, filepath.Join(c.ledger(), tlog.CosignedFile), read(t, filepath.Join(c.ledger(), tlog.CheckpointFile)))
	r := c.verify(t, c.with(t, witnessed))
	text := string(value[[]byte](t)(json.Marshal(r)))
	for _, list := range []string{`"recordings":[]`, `"by":[]`, `"problems":[]`} {
		if !strings.Contains(text, list) {
			t.Errorf("%s is not in %s", list, text)
		}
	}
}

// TestPolicies: witnesses that were asked for must have cosigned.
func TestPolicies(t *testing.T) {
	c := newScene(t)
	files := c.with(t, witnessed)
	r := c.verify(t, files)
	if !r.Intact || r.Witnessed == nil || !r.Witnessed.Enough || !slices.Equal(r.Witnessed.By, []string{"w1"}) || r.Witnessed.Entries != int64(len(c.entries)) {
		t.Fatalf("%s", r.Text())
	}
	if has(found(r), replay.CodeUnwitnessed) {
		t.Errorf("all of it is cosigned: %s", r.Text())
	}
	path := filepath.Join(c.ledger(), tlog.CosignedFile)
	whole := read(t, path)
	// An older one is good as far as it goes, and the rest is named.
	write(t, path, read(t, filepath.Join(c.middle.ledger(), tlog.CosignedFile)))
	files.Checkpoints = nil
	r = c.verify(t, files)
	i := slices.IndexFunc(r.Findings, func(f replay.Finding) bool { return f.Code == replay.CodeUnwitnessed })
	if !r.Intact || i < 0 || r.Findings[i].Broken || r.Findings[i].Entry != r.Witnessed.Entries || r.Witnessed.Entries == int64(len(c.entries)) {
		t.Errorf("%s", r.Text())
	}
	write(t, path, whole)
	for name, change := range map[string]func(){
		"removed":              func() { must(t, os.Remove(path)) },
		"without cosignatures": func() { write(t, path, read(t, filepath.Join(c.ledger(), tlog.CheckpointFile))) },
		"nonsense":             func() { write(t, path, []byte("nonsense")) },
		"of another node":      func() { write(t, path, read(t, filepath.Join(c.other.ledger(), tlog.CheckpointFile))) },
	} {
		change()
		if r := c.verify(t, files); !slices.Equal(alarms(found(r)), []string{replay.CodeWitness}) {
			t.Errorf("%s: %s", name, r.Text())
		}
		write(t, path, whole)
	}
}

// TestCanceled: verification of much data can be given up.
func TestCanceled(t *testing.T) {
	s := newState(t, "N-1")
	s.session(t, "S-1")
	s.publish(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := replay.VerifyNode(ctx, s.files()); !errors.Is(err, ctx.Err()) {
		t.Errorf("%v", err)
	}
}

// FuzzVerifyRecording: no panic, nothing found without a place, and nothing
// that was not signed by the key is called complete.
func FuzzVerifyRecording(f *testing.F) {
	const vectors = "../recorder/trec/testdata/"
	// The same in each process of a fuzz run, unlike what these tests record.
	good := read(f, vectors+"golden.trec")
	_, line, _ := strings.Cut(string(read(f, vectors+"keys.txt")), "node-public: ")
	key := value[[]byte](f)(hex.DecodeString(strings.Fields(line)[0]))
	f.Add(good)
	f.Add(good[:len(good)/2])
	f.Add(read(f, vectors+"crashed.trec"))
	f.Add([]byte(trec.Magic))
	f.Fuzz(func(t *testing.T, data []byte) {
		r := value[replay.Report](t)(replay.VerifyReader(bytes.NewReader(data), "copy", key, nil))
		if r.Complete && r.Reason != "crashed" && !bytes.Equal(data, good) {
			t.Fatalf("taken for whole: %+v", r)
		}
		if !r.Complete && len(r.Findings) == 0 {
			t.Fatal("nothing was found, and it is not complete")
		}
		_ = r.Text()
	})
}

// zeros is a file of any length that takes no memory.
type zeros struct{ left int64 }

func (z *zeros) Read(b []byte) (int, error) {
	if z.left == 0 {
		return 0, io.EOF
	}
	n := int(min(int64(len(b)), z.left))
	clear(b[:n])
	z.left -= int64(n)
	return n, nil
}

// TestZerosWithoutEnd: a huge file costs time for what is read, and stops at its fault.
func TestZerosWithoutEnd(t *testing.T) {
	s := newState(t, "N-1")
	s.session(t, "S-1")
	in := &zeros{left: 1 << 40}
	r := value[replay.Report](t)(replay.VerifyReader(io.MultiReader(bytes.NewReader(read(t, s.path("S-1"))), in), "copy", s.key, nil))
	if r.Intact || in.left < 1<<39 {
		t.Errorf("%d bytes left: %+v", in.left, r)
	}
	_, err := replay.VerifyReader(bytes.NewReader(nil), "copy", ed25519.PublicKey{1}, nil)
	if err == nil {
		t.Error("verified with half a key")
	}
}
