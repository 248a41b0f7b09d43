package replay

import (
	"bytes"
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"sallyport/recorder"
)

// blocksOf gives the offsets of a file's blocks, and its end.
func blocksOf(t *testing.T, data []byte) []int64 {
	t.Helper()
	b, err := recorder.NewBlockReader(bytes.NewReader(data))
	must(t, err)
	var offsets []int64
	for {
		k, err := b.Next()
		if err != nil {
			return append(offsets, b.Offset())
		}
		offsets = append(offsets, k.Offset)
	}
}

func verifyBytes(t *testing.T, n *node, data []byte) Report {
	t.Helper()
	r, err := VerifyReader(bytes.NewReader(data), "copy", n.key, nil)
	must(t, err)
	return r
}

// TestPromise4_AnyFlippedByteOfARecording flips each byte in turn.
func TestPromise4_AnyFlippedByteOfARecording(t *testing.T) {
	n := newNode(t)
	data := read(t, n.record(t, "S-1", true, n.typical()...))
	if r := verifyBytes(t, n, data); !r.Intact || r.Ending != EndingComplete || len(r.Findings) != 0 {
		t.Fatalf("the original: %+v", r)
	}
	for i := range data {
		data[i] ^= 0x40
		r := verifyBytes(t, n, data)
		if r.Intact && r.Complete {
			t.Errorf("byte %d was changed and nothing was found", i)
		}
		if len(r.Findings) != 1 || r.Findings[0].Offset > int64(i) || r.Findings[0].Text == "" {
			t.Errorf("byte %d: %+v", i, r.Findings)
		}
		data[i] ^= 0x40
	}
}

func TestPromise4_AnyFlippedByteOfALedger(t *testing.T) {
	n := newNode(t)
	n.record(t, "S-1", false, n.typical()...)
	path := filepath.Join(n.dir, "ledger", recorder.LedgerFile)
	data, remembered := read(t, path), n.ledger.Checkpoint()
	for i := range data {
		data[i] ^= 0x01
		write(t, path, data)
		r, err := VerifyDir(n.dir, n.key, &remembered)
		must(t, err)
		if r.Intact {
			t.Errorf("byte %d was changed and nothing was found", i)
		}
		data[i] ^= 0x01
	}
	write(t, path, data)
	if r, err := VerifyDir(n.dir, n.key, &remembered); err != nil || !r.Intact || len(r.Findings) != 0 {
		t.Errorf("the original: %+v, %v", r, err)
	}
	var done, total int64
	_, err := VerifyNode(NodeFiles{Ledger: path, Recordings: filepath.Join(n.dir, "recordings"), Key: n.key,
		Progress: func(d, of int64) { done, total = d, of }})
	if err != nil || done != total || total < int64(len(data)) {
		t.Errorf("progress ended at %d of %d: %v", done, total, err)
	}
}

// TestPromise4_Blocks drops, swaps, repeats and replaces whole blocks.
func TestPromise4_Blocks(t *testing.T) {
	n := newNode(t)
	data := read(t, n.record(t, "S-1", true, n.typical()...))
	other := read(t, n.record(t, "S-2", true, n.typical()...))
	at, from := blocksOf(t, data), blocksOf(t, other)
	block := func(i int) []byte { return data[at[i]:at[i+1]] }
	last := len(at) - 2
	cases := map[string][][]byte{
		"dropped":         {data[:at[2]], data[at[3]:]},
		"swapped":         {data[:at[2]], block(3), block(2), data[at[4]:]},
		"repeated":        {data[:at[3]], block(2), data[at[3]:]},
		"of another file": {data[:at[2]], other[from[2]:from[3]], data[at[3]:]},
		"end moved up":    {data[:at[3]], block(last)},
		"after the end":   {data, block(last)},
		"header only":     {data[:at[1]], data[at[2]:]},
	}
	for name, parts := range cases {
		if r := verifyBytes(t, n, bytes.Join(parts, nil)); r.Intact {
			t.Errorf("%s: nothing was found", name)
		}
	}
}

func TestPromise4_Truncation(t *testing.T) {
	n := newNode(t)
	path := n.record(t, "S-1", true, n.typical()...)
	data := read(t, path)
	for cut := range data {
		r := verifyBytes(t, n, data[:cut])
		if r.Complete || len(r.Findings) != 1 || r.Ending != EndingOpen {
			t.Fatalf("cut at %d: %+v", cut, r)
		}
	}
	// Alone a cut file may be one that is still open. With the ledger it is not.
	at := blocksOf(t, data)
	for _, cut := range at[2 : len(at)-1] {
		write(t, path, data[:cut])
		r, err := VerifyDir(n.dir, n.key, nil)
		must(t, err)
		if r.Intact || !slices.Contains(codes(r.Findings), CodeClosed) {
			t.Errorf("cut at %d: %v", cut, r.Findings)
		}
	}
}

func TestPromise4_OtherKey(t *testing.T) {
	n := newNode(t)
	data := read(t, n.record(t, "S-1", false, n.typical()...))
	mallory := bytes.Clone(n.key)
	mallory[3] ^= 1
	r, err := VerifyReader(bytes.NewReader(data), "copy", mallory, nil)
	must(t, err)
	if r.Intact || r.Findings[0].Code != CodeOtherKey {
		t.Errorf("%+v", r)
	}
	if _, err := VerifyReader(bytes.NewReader(data), "copy", nil, nil); err == nil {
		t.Error("verified with no key at all")
	}
}

// TestPromise4_LedgerAgainstRecordings changes whole files, which no single
// file can show.
func TestPromise4_LedgerAgainstRecordings(t *testing.T) {
	build := func(t *testing.T) (*node, string) {
		n := newNode(t)
		n.record(t, "S-1", true, n.typical()...)
		return n, n.record(t, "S-2", false, n.typical()...)
	}
	cases := []struct {
		name, code string
		change     func(*testing.T, *node, string)
	}{
		{"missing file", CodeMissing, func(t *testing.T, _ *node, path string) { must(t, os.Remove(path)) }},
		{"extra file", CodeExtra, func(t *testing.T, n *node, path string) {
			rec, err := n.rec.Start(t.Context(), recorder.Meta{Session: "S-9"}, n.epoch.Keys())
			must(t, err)
			_, err = rec.Close(context.Background(), "exit")
			must(t, err)
		}},
		{"renamed file", CodeName, func(t *testing.T, n *node, path string) { must(t, os.Rename(path, n.rec.Path("S-1"))) }},
		{"replaced file", CodeHead, func(t *testing.T, n *node, path string) {
			must(t, os.Remove(path)) // by somebody who holds the node's key
			rec, err := n.rec.Start(t.Context(), recorder.Meta{Session: "S-2", Start: n.now}, n.epoch.Keys())
			must(t, err)
			_, err = rec.Close(context.Background(), "exit")
			must(t, err)
		}},
		{"number left out", CodeNumbers, func(t *testing.T, n *node, path string) {
			n.number++
			n.record(t, "S-4", false, n.typical()...)
		}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			n, path := build(t)
			if r, err := VerifyDir(n.dir, n.key, nil); err != nil || !r.Intact || len(r.Findings) != 0 {
				t.Fatalf("before: %s, %v", r.Text(), err)
			}
			c.change(t, n, path)
			r, err := VerifyDir(n.dir, n.key, nil)
			must(t, err)
			all := codes(r.Findings)
			for _, one := range r.Recordings {
				all = append(all, codes(one.Findings)...)
			}
			if r.Intact || !slices.Contains(all, c.code) || !strings.Contains(r.Text(), "BROKEN: ") {
				t.Errorf("found %v, want %s\n%s", all, c.code, r.Text())
			}
		})
	}
}

// TestPromise4_CutLedgerAgainstRememberedCheckpoint removes the last entries
// on a block boundary, which leaves a ledger that is valid by itself.
func TestPromise4_CutLedgerAgainstRememberedCheckpoint(t *testing.T) {
	n := newNode(t)
	for range 5 {
		n.event(t, "login.success", "", "{}")
	}
	remembered := n.ledger.Checkpoint()
	n.event(t, "logout", "", "{}")
	path := filepath.Join(n.dir, "ledger", recorder.LedgerFile)
	data := read(t, path)
	at := blocksOf(t, data)
	if r, err := VerifyDir(n.dir, n.key, &remembered); err != nil || !r.Intact {
		t.Fatalf("a later ledger holds the checkpoint: %s %v", r.Text(), err)
	}
	write(t, path, data[:at[4]])
	r, err := VerifyDir(n.dir, n.key, nil)
	must(t, err)
	if !r.Intact {
		t.Fatalf("without a checkpoint the cut can't be seen: %s", r.Text())
	}
	if r, err = VerifyDir(n.dir, n.key, &remembered); err != nil || r.Intact || !slices.Contains(codes(r.Findings), CodeCheckpoint) {
		t.Errorf("cut: %s %v", r.Text(), err)
	}

	// The operator rewrites history with the node's own key.
	dir := t.TempDir()
	must(t, os.Mkdir(filepath.Join(dir, "recordings"), 0o700))
	forged, err := recorder.OpenLedger(recorder.Options{Dir: filepath.Join(dir, "ledger"), Node: "N-test", Signer: n.signer})
	must(t, err)
	honest := n.ledger
	n.ledger = forged
	for range 9 {
		n.event(t, "nothing.happened", "", "{}")
	}
	n.ledger = honest
	must(t, forged.Close())
	if r, err = VerifyDir(dir, n.key, &remembered); err != nil || r.Intact || !slices.Contains(codes(r.Findings), CodeCheckpoint) {
		t.Errorf("rewritten: %s %v", r.Text(), err)
	}
	remembered.Sequence = 1
	if r, err = VerifyDir(n.dir, n.key, &remembered); err != nil || r.Intact {
		t.Errorf("a forged checkpoint was believed: %v", err)
	}
}

// TestPromise5_NothingReadableOnDisk searches everything that the node wrote.
func TestPromise5_NothingReadableOnDisk(t *testing.T) {
	n := newNode(t)
	secrets := []string{"PATIENT-0815", "hunter2-typed", "Straße 7", "alice", "genomics", "192.0.2.7", "select-command"}
	n.record(t, "S-1", true, n.at(0, recorder.KindOutput, secrets[0]+secrets[2]), n.at(0, recorder.KindInput, secrets[1]),
		n.at(0, recorder.KindCommand, secrets[6]), n.at(0, recorder.KindMarker, "user=alice"))
	n.record(t, "S-2", false, n.at(0, recorder.KindOutput, secrets[0]), n.at(0, recorder.KindInput, secrets[1]))
	open := n.begin(t, "S-3", true) // while a session runs, too
	p, err := open.Append(n.at(0, recorder.KindOutput, strings.Repeat(secrets[0], 1000)))
	must(t, err)
	must(t, open.Wait(t.Context(), p))
	files := 0
	must(t, filepath.WalkDir(filepath.Join(n.dir, "recordings"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		files++
		data := read(t, path)
		for _, s := range secrets {
			if bytes.Contains(data, []byte(s)) {
				t.Errorf("%s holds %q", d.Name(), s)
			}
		}
		return nil
	}))
	if files != 3 {
		t.Errorf("%d files", files)
	}
	n.finish(t, open, "S-3")
}
