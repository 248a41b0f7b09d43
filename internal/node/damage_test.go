package node

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sallyport/authz"
	"sallyport/recorder"
)

// TestADamagedJournalIsReadOnOnlyWhenAsked: a start refuses and names the way on; with AcceptDamage what can be read
// is saved, the file is kept, and the ledger says so once.
func TestADamagedJournalIsReadOnOnlyWhenAsked(t *testing.T) {
	w := newCrashSite(t)
	s := w.open()
	rec := w.begin(s)
	for range 40 {
		position, err := rec.Append(recorder.Frame{Kind: recorder.KindOutput, Data: []byte("and more of it, that is marked")})
		w.must(err)
		w.must(rec.Wait(t.Context(), position))
	}
	options := quiet()
	options.AcceptDamage = true
	var done *Restored
	w.harm = func() {
		name := harmSession(t, w.config.Recording.Journal)
		before, err := os.ReadFile(name)
		w.must(err)
		if _, err := Open(t.Context(), w.config, quiet()); err == nil || !strings.Contains(err.Error(), "recover --accept-damage") {
			t.Errorf("a start: %v", err)
		}
		if _, err := RecoverStores(t.Context(), w.config, quiet()); err == nil || !strings.Contains(err.Error(), "recover --accept-damage") {
			t.Errorf("recover without the flag: %v", err)
		}
		if after, err := os.ReadFile(name); err != nil || string(after) != string(before) {
			t.Errorf("the refusal changed the journal: %v", err)
		}
		done, err = RecoverStores(t.Context(), w.config, options)
		w.must(err)
		if after, err := os.ReadFile(name + ".damaged"); err != nil || string(after) != string(before) {
			t.Errorf("the damaged file is not kept: %v", err)
		}
	}
	w.restart()
	if done == nil || len(done.Damaged) != 1 || len(done.Aside) != 1 || len(done.Sessions) != 1 || done.Sessions[0].Reason != recorder.ReasonCrashed {
		t.Fatalf("restored %+v", done)
	}
	if _, err := os.Stat(filepath.Join(w.config.Recording.Dir, done.Aside[0])); err != nil {
		t.Error(err)
	}
	var events []authz.Event
	w.settle()
	for _, e := range ledgerEvents(t, w.config, w.n) {
		if e.OpType == eventJournalDamaged {
			events = append(events, e)
		}
	}
	if len(events) != 1 || events[0].ResourceID != done.Damaged[0] || events[0].Result != authz.ResultFailed || events[0].Details["sha256"] == "" ||
		events[0].Details["places"] == nil {
		t.Errorf("events %+v", events)
	}
	if r := w.verify(); !r.Intact {
		t.Errorf("after it: %s", r.Text())
	}
}

// harmSession changes a byte of the tenth last batch of the journal's newest file: those are the session's.
func harmSession(t *testing.T, dir string) string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "*.journal"))
	if err != nil || len(names) == 0 {
		t.Fatalf("files %v: %v", names, err)
	}
	for i := len(names) - 1; i >= 0; i-- {
		raw, err := os.ReadFile(names[i])
		if err != nil {
			t.Fatal(err)
		}
		var batches []int
		for at := 4096; at+4096 <= len(raw); at += 4096 {
			if string(raw[at+4:at+8]) == "SJB\x01" {
				batches = append(batches, at)
			}
		}
		if len(batches) < 20 {
			continue
		}
		raw[batches[len(batches)-10]+40] ^= 1
		if err := os.WriteFile(names[i], raw, 0o600); err != nil {
			t.Fatal(err)
		}
		return names[i]
	}
	t.Fatal("no file of the journal has batches")
	return ""
}
