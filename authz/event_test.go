package authz

import (
	"bytes"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestPromise8_EveryEventHasTheSevenFields(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		w.approved()
		w.open(w.ask("alice", ActionShell))
		w.decide(w.ask("bob", ActionShell))
		for i, e := range w.ledger.events(t) {
			if err := e.check(); err != nil {
				t.Errorf("event %d: %v: %+v", i, err, e)
			}
			if e.Time.IsZero() || e.Time.Location() != time.UTC || e.Details == nil || e.Sequence != int64(i)+1 || e.Node != "node-one" ||
				!strings.HasPrefix(e.ID, "E-") || len(e.BootID) != 36 || e.Monotonic <= 0 {
				t.Errorf("event %d is incomplete: %+v", i, e)
			}
		}
		whole := Event{UserID: "alice", OpType: "test", ResourceID: "x", ResourceType: "y", RemoteAddr: "local"}
		for name, change := range map[string]func(*Event){
			"user_id": func(e *Event) { e.UserID = "" }, "op_type": func(e *Event) { e.OpType = "" },
			"resource_id": func(e *Event) { e.ResourceID = "" }, "resource_type": func(e *Event) { e.ResourceType = "" },
			"remote_addr": func(e *Event) { e.RemoteAddr = "" }, "result": func(e *Event) { e.Result = "maybe" },
		} {
			lacking := whole
			change(&lacking)
			if _, err := w.Record(t.Context(), lacking); err == nil || !strings.Contains(err.Error(), name) {
				t.Errorf("an event without %s: %v", name, err)
			}
		}
		if _, err := w.Record(t.Context(), whole); err != nil {
			t.Error(err)
		}
	})
}

func TestPromise10_RefusalsLeadToTheirEvent(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		ctx := t.Context()
		d := w.decide(w.ask("bob", ActionShell))
		r := d.Refusal
		if !strings.HasPrefix(r.Reference, "E-") || !strings.Contains(r.Error(), r.Reference) || strings.Contains(r.Error(), "not a member") {
			t.Errorf("the person is told %q", r.Error())
		}
		for by, want := range map[string]int{"adam": 1, "sara": 1, "odin": 1, "paula": 1, "bob": 1, "alice": 0, "mia": 0} {
			events, err := w.Events(ctx, w.as(by), EventQuery{Reference: r.Reference})
			if err != nil || len(events) != want {
				t.Errorf("%s finds %d events (%v), want %d", by, len(events), err, want)
			}
			if want == 1 && events[0].Details["cause"] != "not a member" {
				t.Errorf("%s finds %+v", by, events[0])
			}
		}
	})
}

func TestRefusalWithoutLedger(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		ctx := t.Context()
		w.ledger.breakNow(errors.New("disk is gone"))
		err := w.Freeze(ctx, w.as("sara"), "bob", "suspicious")
		if !errors.Is(err, ErrLedger) {
			t.Errorf("a change that reached no ledger: %v", err)
		}
		if _, err := w.Decide(ctx, w.ask("alice", ActionShell)); !errors.Is(err, ErrLedger) {
			t.Errorf("a decision without a ledger: %v", err)
		}
		d := w.decide(w.ask("alice", ActionExec))
		if d.Outcome != Refuse || d.Refusal.Reference != "" || d.Refusal.Sentence == "" || !strings.Contains(d.Refusal.Cause, "disk is gone") {
			t.Errorf("a refusal without a ledger: %+v", d.Refusal)
		}
		if d.Refusal.Error() != d.Refusal.Sentence {
			t.Errorf("the person is told %q", d.Refusal)
		}
		// The frozen state was committed: after a restart its event reaches the ledger.
		w.ledger.breakNow(nil)
		before := w.ledger.Last()
		again, err := Open(ctx, w.db, w.options)
		w.ok(err)
		if w.ledger.Last() != before+1 || w.last("user.freeze").ResourceID != "bob" {
			t.Errorf("the ledger has %d events after %d", w.ledger.Last(), before)
		}
		w.ok(again.Unfreeze(ctx, w.as("sara"), "bob", "false alarm"))
	})
}

func TestOlderDatabaseIsRefused(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		w.ok(w.ledger.Append(t.Context(), w.ledger.Last()+1, []byte("{}")))
		if _, err := Open(t.Context(), w.db, w.options); err == nil || !strings.Contains(err.Error(), "older than the ledger") {
			t.Errorf("a database behind its ledger: %v", err)
		}
	})
}

func TestLedgerIsDenseUnderConcurrency(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		before := w.ledger.Last()
		const calls = 60
		race(calls, func(i int) bool {
			id, err := w.Record(t.Context(), Event{UserID: "alice", OpType: "test", ResourceID: "x", ResourceType: "y", RemoteAddr: "local"})
			if err != nil {
				t.Error(err)
			}
			// Durable before the call returns.
			if !slices.ContainsFunc(w.ledger.events(t), func(e Event) bool { return e.ID == id }) {
				t.Error("a call returned before its event was durable")
			}
			return true
		})
		if w.ledger.Last() != before+calls { // the ledger itself insists on the order
			t.Errorf("%d events, want %d", w.ledger.Last()-before, calls)
		}
		// What the database holds is what the ledger holds.
		leaves, err := w.leaves(t.Context(), 1, w.ledger.Last())
		w.ok(err)
		for i, leaf := range leaves {
			if !bytes.Equal(leaf.text, w.ledger.leaves[i]) {
				t.Fatalf("leaf %d differs", i+1)
			}
		}
	})
}

func TestWhoSeesEvents(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		ctx := t.Context()
		w.decide(w.ask("alice", ActionShell))
		all := len(w.ledger.events(t))
		count := func(by string, q EventQuery) (n int) {
			events, err := w.Events(ctx, w.as(by), q)
			w.ok(err)
			for _, e := range events {
				switch by {
				case "alice":
					if e.UserID != "alice" {
						t.Errorf("alice sees %+v", e)
					}
				case "mia":
					if e.UserID != "mia" && (e.Project != "genomics" || !strings.HasPrefix(e.OpType, "member.") && !strings.HasPrefix(e.OpType, "epoch.")) {
						t.Errorf("mia sees %+v", e)
					}
				case "paula":
					if e.UserID != "paula" && e.Project != "genomics" {
						t.Errorf("paula sees %+v", e)
					}
				}
			}
			return len(events)
		}
		if n := count("odin", EventQuery{}); n != all {
			t.Errorf("a site auditor sees %d of %d", n, all)
		}
		for _, by := range []string{"alice", "mia", "paula"} {
			if n := count(by, EventQuery{}); n == 0 || n == all {
				t.Errorf("%s sees %d of %d", by, n, all)
			}
		}
		if n := count("odin", EventQuery{OpType: "decision.allow", User: "alice", Project: "genomics", Connection: "C-alice", Limit: 5}); n != 1 {
			t.Errorf("the query found %d", n)
		}
		if n := count("odin", EventQuery{Until: start}); n != 0 {
			t.Errorf("before the start there are %d", n)
		}
		if n := count("", EventQuery{}); n != 0 {
			t.Errorf("nobody sees %d", n)
		}
		newest, err := w.Events(ctx, w.as("odin"), EventQuery{Limit: 1})
		w.ok(err)
		if newest[0].OpType != "decision.allow" {
			t.Errorf("the newest is %+v", newest)
		}
	})
}

func TestEventsComeInPages(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		const more = 2*eventPage + 50
		for range more {
			_, err := w.Record(t.Context(), Event{UserID: "alice", OpType: "test", ResourceID: "x", ResourceType: "y", RemoteAddr: "local"})
			w.ok(err)
		}
		second := w.secondNode() // whose sequences begin again, at the same time
		for range 3 {
			_, err := second.Record(t.Context(), Event{UserID: "alice", OpType: "test", ResourceID: "x", ResourceType: "y", RemoteAddr: "local"})
			w.ok(err)
		}
		for _, limit := range []int{0, 1, eventPage, eventPage + 1, more, more + 3, 10 * more} {
			var got []Event
			w.ok(w.EachEvent(t.Context(), w.as("odin"), EventQuery{OpType: "test", Limit: limit}, func(e Event) error {
				got = append(got, e)
				return nil
			}))
			want := more + 3
			if limit > 0 {
				want = min(want, limit)
			}
			if len(got) != want {
				t.Errorf("limit %d: %d events, want %d", limit, len(got), want)
			}
			for i, e := range got {
				if i > 0 && e.Node == got[i-1].Node && e.Sequence != got[i-1].Sequence+1 {
					t.Fatalf("limit %d: event %d follows %d", limit, e.Sequence, got[i-1].Sequence)
				}
			}
			if last := got[len(got)-1]; last.Node != "node-two" || last.Sequence != 3 {
				t.Errorf("limit %d: the newest is %s %d", limit, last.Node, last.Sequence)
			}
		}
		enough := errors.New("enough")
		if err := w.EachEvent(t.Context(), w.as("odin"), EventQuery{}, func(Event) error { return enough }); !errors.Is(err, enough) {
			t.Errorf("an error of the reader came back as %v", err)
		}
	})
}

// People who read their events for as long as they like keep nobody from being looked after.
func TestReadersOfEventsDoNotHoldUpTheWatch(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		var reading, began sync.WaitGroup
		release := make(chan struct{})
		const readers = 20
		began.Add(readers)
		for range readers {
			reading.Go(func() {
				first := true
				err := w.EachEvent(t.Context(), w.as("odin"), EventQuery{}, func(Event) error {
					if first {
						began.Done()
						<-release // a client that takes nothing
						first = false
					}
					return nil
				})
				if err != nil {
					t.Error(err)
				}
			})
		}
		began.Wait()
		ask := w.ask("alice", ActionShell)
		w.ok(w.Poll(t.Context()))
		if _, _, err := w.Recheck(t.Context(), []LiveSession{{Session: w.open(ask).ID, Ask: ask}}); err != nil {
			t.Error(err)
		}
		close(release)
		reading.Wait()
	})
}

func TestCanonicalJSON(t *testing.T) {
	text, err := canonicalJSON(map[string]any{"b": "<a&b>", "a": "line\nbreak\x7f\u009b\u202e\U000e0041é", "n": int64(1) << 60})
	if err != nil {
		t.Fatal(err)
	}
	want := `{"a":"line\nbreak\u007f\u009b\u202e\udb40\udc41é","b":"<a&b>","n":1152921504606846976}`
	if string(text) != want {
		t.Errorf("%s, want %s", text, want)
	}
	var back map[string]any
	if err := json.Unmarshal(text, &back); err != nil || back["a"] != "line\nbreak\x7f\u009b\u202e\U000e0041é" {
		t.Errorf("read back %q, %v", back, err)
	}
}
