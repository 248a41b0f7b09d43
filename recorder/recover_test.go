package recorder

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// recovered runs Recover over one session in a fresh Recorder, as a restart does.
func recovered(t *testing.T, o Options, session string) Recovered {
	t.Helper()
	found, err := open(t, Options{Dir: o.Dir, Node: o.Node, Signer: o.Signer}).Recover(t.Context(), []string{session})
	must(t, err)
	one, ok := found[session]
	if !ok || len(found) != 1 {
		t.Fatalf("recovered %+v, want %s alone", found, session)
	}
	return one
}

// ended makes the recording of a whole session with several blocks.
func ended(t *testing.T, r *Recorder, session string) Result {
	t.Helper()
	rec := start(t, r, session, true, testKeys(t))
	for i := range 4 {
		must(t, rec.Wait(patience(t), appendFrame(t, rec, KindOutput, fmt.Sprintf("line %d", i))))
	}
	result, err := rec.Close(patience(t), "exited")
	must(t, err)
	return result
}

// names lists what rests in a folder.
func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	must(t, err)
	var all []string
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return all
}

// blockEnds gives the end of each block of a file.
func blockEnds(t *testing.T, data []byte) []int {
	t.Helper()
	b, err := NewBlockReader(bytes.NewReader(data))
	must(t, err)
	var ends []int
	for {
		if _, err := b.Next(); err != nil {
			return ends
		}
		ends = append(ends, int(b.Offset()))
	}
}

// TestPromise4_RecoverLeavesOtherRecordingsAlone changes a byte of a closed
// recording: a restart must not touch it, whatever else it has to look after.
func TestPromise4_RecoverLeavesOtherRecordingsAlone(t *testing.T) {
	o := testOptions(t)
	r := open(t, o)
	ended(t, r, "S-1")
	ended(t, r, "S-2")
	changed := readFile(t, r.Path("S-1"))
	changed[blockEnds(t, changed)[2]+60] ^= 1
	must(t, os.WriteFile(r.Path("S-1"), changed, 0o400)) // and may not even be opened for writing
	if one := recovered(t, o, "S-2"); one.Reason != "exited" {
		t.Errorf("%+v", one)
	}
	if !bytes.Equal(readFile(t, r.Path("S-1")), changed) {
		t.Error("a closed recording was rewritten at the next start")
	}
	if got := names(t, o.Dir); len(got) != 2 {
		t.Errorf("the folder holds %q", got)
	}
}

// TestRecoverKeepsEveryTornTail has tails of earlier crashes beside the recording.
func TestRecoverKeepsEveryTornTail(t *testing.T) {
	o := testOptions(t)
	r := open(t, o)
	ended(t, r, "S-1")
	path := r.Path("S-1")
	whole := readFile(t, path)
	must(t, os.WriteFile(path, whole[:len(whole)-10], 0o600))
	must(t, os.WriteFile(path+tornSuffix, []byte("of the first crash"), 0o600))
	must(t, os.WriteFile(path+tornSuffix+".1", []byte("of the second"), 0o600))
	if one := recovered(t, o, "S-1"); one.Reason != ReasonCrashed {
		t.Errorf("%+v", one)
	}
	ends := blockEnds(t, whole)
	for name, want := range map[string]string{tornSuffix: "of the first crash", tornSuffix + ".1": "of the second",
		tornSuffix + ".2": string(whole[ends[len(ends)-2] : len(whole)-10])} {
		if got := readFile(t, path+name); string(got) != want {
			t.Errorf("%s holds %q, want %q", name, got, want)
		}
	}
}

// TestRecoverKeepsEveryDamagedFile damages a recording beside one that was set aside before.
func TestRecoverKeepsEveryDamagedFile(t *testing.T) {
	o := testOptions(t)
	r := open(t, o)
	ended(t, r, "S-1")
	path := r.Path("S-1")
	data := append(readFile(t, path), "after the signed end"...)
	must(t, os.WriteFile(path, data, 0o600))
	must(t, os.WriteFile(path+damagedSuffix, []byte("of the first time"), 0o600))
	for range 2 { // the second time as after a crash between the renaming and the ledger
		one := recovered(t, o, "S-1")
		if one.Reason != ReasonDamaged || one.Head != "" || one.Size != int64(len(data)) || one.SHA256 != fmt.Sprintf("%x", sha256.Sum256(data)) {
			t.Errorf("%+v", one)
		}
	}
	if got := readFile(t, path+damagedSuffix); string(got) != "of the first time" {
		t.Errorf("what was set aside before now holds %q", got)
	}
	if got := readFile(t, path+damagedSuffix+".1"); !bytes.Equal(got, data) {
		t.Error("the damaged recording was changed")
	}
}

func TestRecoverNamesWhatIsNotThere(t *testing.T) {
	o := testOptions(t)
	r := open(t, o)
	if one := recovered(t, o, "S-1"); one.Reason != ReasonMissing || one.Head != "" {
		t.Errorf("%+v", one)
	}
	// A recording of which nothing became durable is kept, but it is none.
	ended(t, r, "S-2")
	path := r.Path("S-2")
	begun := readFile(t, path)[:300]
	must(t, os.WriteFile(path, begun, 0o600))
	for range 2 {
		if one := recovered(t, o, "S-2"); one.Reason != ReasonMissing || one.Head != "" {
			t.Errorf("%+v", one)
		}
	}
	if got := names(t, o.Dir); len(got) != 1 || !bytes.Equal(readFile(t, path+tornSuffix), begun) {
		t.Errorf("the folder holds %q", got)
	}
	// What is no file can't be a recording, and is not waited for.
	must(t, os.Mkdir(r.Path("S-3"), 0o700))
	if one := recovered(t, o, "S-3"); one.Reason != ReasonDamaged || one.SHA256 != "" {
		t.Errorf("%+v", one)
	}
}

func TestRecoverRefuses(t *testing.T) {
	o := testOptions(t)
	r := open(t, o)
	rec := start(t, r, "S-1", false, testKeys(t))
	before := readFile(t, r.Path("S-1"))
	if _, err := r.Recover(t.Context(), []string{"S-1"}); err == nil || !strings.Contains(err.Error(), "still being recorded") {
		t.Errorf("a live recording: %v", err)
	}
	if !bytes.Equal(readFile(t, r.Path("S-1")), before) {
		t.Error("a live recording was touched")
	}
	if _, err := r.Recover(t.Context(), []string{"../S-1"}); err == nil {
		t.Error("a session that is a path was accepted")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := r.Recover(ctx, []string{"S-2"}); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
	_, err := rec.Close(patience(t), "exited")
	must(t, err)
	// Of another node's file nothing is believed, and nothing is lost.
	other := testOptions(t)
	other.Signer = testSigner(9)
	must(t, os.Rename(r.Path("S-1"), filepath.Join(other.Dir, "S-1.rec")))
	if one := recovered(t, other, "S-1"); one.Reason != ReasonDamaged {
		t.Errorf("%+v", one)
	}
}

// TestRecoverTellsTheHeadOfWhatHadEnded is a crash between the recording's end and the session's.
func TestRecoverTellsTheHeadOfWhatHadEnded(t *testing.T) {
	o := testOptions(t)
	now := time.Date(2026, 3, 1, 9, 0, 0, 0, time.UTC)
	o.Clock = func() time.Time { return now }
	r := open(t, o)
	rec := start(t, r, "S-1", false, testKeys(t))
	appendFrame(t, rec, KindInput, "in")
	appendFrame(t, rec, KindOutput, "out")
	result, err := rec.Close(patience(t), "killed")
	must(t, err)
	before := readFile(t, r.Path("S-1"))
	want := Recovered{Result: result, Ended: now, BytesIn: 2, BytesOut: 3}
	for range 2 {
		if one := recovered(t, o, "S-1"); one != want || one.Reason != "killed" {
			t.Errorf("%+v, want %+v", one, want)
		}
	}
	if !bytes.Equal(readFile(t, r.Path("S-1")), before) {
		t.Error("a recording that had ended was changed")
	}
	// What a crash did leave open has the same answer each time, too.
	must(t, os.WriteFile(r.Path("S-1"), before[:len(before)-1], 0o600))
	first := recovered(t, o, "S-1")
	if again := recovered(t, o, "S-1"); first != again || first.Reason != ReasonCrashed || len(first.Head) != 64 || first.BytesOut != -1 {
		t.Errorf("%+v, then %+v", first, again)
	}
}

// TestStartIsNotInterrupted has the client leave while its recording begins:
// the session is in the ledger by then, so there must be a recording with an end.
func TestStartIsNotInterrupted(t *testing.T) {
	o := testOptions(t)
	r, keys := open(t, o), testKeys(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	rec, err := r.Start(ctx, testMeta("S-1", false), keys.Keys())
	must(t, err)
	result, err := rec.Close(patience(t), "client-gone")
	must(t, err)
	got := readBack(t, readFile(t, r.Path("S-1")), keys, publicKey(o))
	if got.err != nil || got.end == nil || got.end.Reason != "client-gone" || len(result.Head) != 64 {
		t.Errorf("%+v", got)
	}
}
