package authz

import (
	"errors"
	"slices"
	"testing"
	"time"
)

func TestSessionsAreNumberedDensely(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		asks := []Ask{w.ask("alice", ActionShell), w.ask("erin", ActionExec), w.ask("ivan", ActionShell), w.ask("erin", ActionSFTP)}
		ready := make([]Session, len(asks))
		for i, ask := range asks {
			ready[i] = w.session(ask, w.decide(ask))
		}
		const each = 5
		numbers := make([]int64, each*len(asks))
		race(len(numbers), func(i int) bool {
			s, err := w.OpenSession(t.Context(), ready[i%len(ready)])
			if err != nil {
				t.Error(err)
			}
			numbers[i] = s.Number
			return true
		})
		slices.Sort(numbers)
		for i, n := range numbers {
			if n != int64(i)+1 {
				t.Fatalf("the numbers are %v", numbers)
			}
		}
	})
}

func TestSessionFromOpenToClose(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		ctx := t.Context()
		ask := w.ask("erin", ActionExec)
		ask.Command = "printf '\xff\x00'"
		s := w.open(ask)
		if e := w.last("session.open"); e.Session != s.ID || e.UserID != "erin" || e.Project != "genomics" || e.Details["account"] != "erin" {
			t.Errorf("the event is %+v", e)
		}
		unclosed, err := w.UnclosedSessions(ctx)
		if err != nil || len(unclosed) != 1 || unclosed[0].Command != ask.Command || unclosed[0].ID != s.ID {
			t.Errorf("unclosed %+v, %v", unclosed, err)
		}
		w.clock.advance(time.Minute)
		s.Result, s.ExitCode, s.BytesIn, s.BytesOut, s.Head = "exited", 3, 1<<40, 1<<60, "abcd"
		w.ok(w.CloseSession(ctx, s))
		before := w.ledger.Last()
		w.ok(w.CloseSession(ctx, s))
		if w.ledger.Last() != before {
			t.Error("closing twice is two events")
		}
		if e := w.last("session.close"); e.Session != s.ID || e.Details["bytes_out"].(interface{ String() string }).String() != "1152921504606846976" {
			t.Errorf("the event is %+v", e)
		}
		if err := w.CloseSession(ctx, Session{ID: "S-none"}); !errors.Is(err, ErrNotFound) {
			t.Errorf("closing nothing: %v", err)
		}
		closed, err := w.Sessions(ctx, w.as("erin"), SessionQuery{ID: s.ID})
		w.ok(err)
		if len(closed) != 1 || closed[0].ExitCode != 3 || closed[0].BytesOut != 1<<60 || closed[0].Head != "abcd" ||
			!closed[0].EndedAt.Equal(w.clock.Now()) {
			t.Errorf("the session is %+v", closed)
		}
		if _, err := w.OpenSession(ctx, s); err == nil {
			t.Error("one id opened two sessions")
		}
		w.refused(w.KillSession(ctx, w.as("adam"), s.ID, "too late"), "session.ended")
		killed := w.open(ask)
		w.ok(w.KillSession(ctx, w.as("adam"), killed.ID, "takes too much"))
		seen, err := w.Sessions(ctx, w.as("erin"), SessionQuery{ID: killed.ID})
		w.ok(err)
		if len(seen) != 1 || seen[0].KilledBy != "adam" || seen[0].KillReason != "takes too much" {
			t.Errorf("the killed session is %+v", seen)
		}
	})
}

func TestWhoSeesSessions(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		ctx := t.Context()
		ask := w.ask("erin", ActionExec)
		ask.Command = "make"
		first := w.open(ask)
		w.clock.advance(time.Second)
		second := w.open(w.ask("alice", ActionShell))
		second.Result = "exited"
		w.ok(w.CloseSession(ctx, second))
		for _, c := range []struct {
			by    string
			q     SessionQuery
			wants []string
		}{
			{"erin", SessionQuery{}, []string{first.ID}},
			{"alice", SessionQuery{}, []string{second.ID}},
			{"bob", SessionQuery{}, nil},
			{"mia", SessionQuery{}, []string{first.ID, second.ID}},
			{"paula", SessionQuery{}, []string{first.ID, second.ID}},
			{"odin", SessionQuery{}, []string{first.ID, second.ID}},
			{"adam", SessionQuery{}, []string{first.ID}}, // live only
			{"sara", SessionQuery{}, []string{first.ID}},
			{"odin", SessionQuery{ID: "2"}, []string{second.ID}},
			{"odin", SessionQuery{ID: first.ID[:28]}, []string{first.ID}},
			{"odin", SessionQuery{ID: "s-"}, []string{first.ID, second.ID}},
			{"odin", SessionQuery{ID: "%"}, nil},
			{"odin", SessionQuery{User: "alice"}, []string{second.ID}},
			{"odin", SessionQuery{Project: "imaging"}, nil},
			{"odin", SessionQuery{Server: "db1", Live: true}, []string{first.ID}},
			{"odin", SessionQuery{Since: second.StartedAt}, []string{second.ID}},
			{"odin", SessionQuery{Until: second.StartedAt}, []string{first.ID}},
			{"odin", SessionQuery{Limit: 1}, []string{second.ID}},
		} {
			sessions, err := w.Sessions(ctx, w.as(c.by), c.q)
			w.ok(err)
			var ids []string
			for _, s := range sessions {
				ids = append(ids, s.ID)
				if c.by == "adam" && s.Command != "" {
					t.Errorf("an administrator sees the command %q", s.Command)
				}
			}
			if !slices.Equal(ids, c.wants) {
				t.Errorf("%s %+v: %v, want %v", c.by, c.q, ids, c.wants)
			}
		}
	})
}

func TestViewRecording(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		ctx := t.Context()
		s := w.open(w.ask("alice", ActionShell))
		for _, by := range []string{"alice", "mia", "adam", "sara", "bob"} {
			_, err := w.ViewRecording(ctx, w.as(by), s.ID, "replay", goodReason)
			w.refused(err, "recording.not-auditor")
		}
		for _, by := range []string{"odin", "paula"} {
			_, err := w.ViewRecording(ctx, w.as(by), s.ID, "replay", "")
			w.refused(err, "input.text")
			got, err := w.ViewRecording(ctx, w.as(by), s.ID, "replay", goodReason)
			w.ok(err)
			if e := w.last("recording.view"); got.ID != s.ID || e.UserID != by || e.Details["reason"] != goodReason || e.Session != s.ID {
				t.Errorf("the event is %+v", e)
			}
		}
		_, err := w.WatchSession(ctx, w.as("mia"), s.ID, goodReason)
		w.refused(err, "recording.not-auditor")
		_, err = w.WatchSession(ctx, w.as("paula"), s.ID, goodReason)
		w.ok(err)
		if e := w.last("recording.watch"); e.UserID != "paula" || e.Details["reason"] != goodReason || e.Session != s.ID {
			t.Errorf("the event is %+v", e)
		}
		_, err = w.ViewRecording(ctx, w.as("odin"), "S-none", "replay", goodReason)
		w.refused(err, "recording.not-auditor")
		w.ok(w.EndMember(ctx, w.as("mia"), w.member["paula"].ID, "audit is over"))
		_, err = w.ViewRecording(ctx, w.as("paula"), s.ID, "replay", goodReason)
		w.refused(err, "recording.not-auditor")
	})
}

// TestPromise2_WatchingEndsWithTheRight asks again about one who looks on already; asking makes no event.
func TestPromise2_WatchingEndsWithTheRight(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		s := w.open(w.ask("alice", ActionShell))
		_, err := w.WatchSession(t.Context(), w.as("paula"), s.ID, goodReason)
		w.ok(err)
		before := len(w.ledger.events(t))
		w.ok(w.KeepWatching(t.Context(), w.identity("paula"), s.ID))
		w.ok(w.KeepWatching(t.Context(), w.identity("odin"), s.ID))
		if after := len(w.ledger.events(t)); after != before {
			t.Errorf("%d events of asking", after-before)
		}
		w.ok(w.EndMember(t.Context(), w.as("mia"), w.member["paula"].ID, "audit is over"))
		var refused *Refusal
		if err := w.KeepWatching(t.Context(), w.identity("paula"), s.ID); !errors.As(err, &refused) || refused.Rule != "recording.not-auditor" {
			t.Errorf("paula goes on: %v", err)
		}
		w.ok(w.Freeze(t.Context(), w.as("sara"), "odin", "laptop lost"))
		err = w.KeepWatching(t.Context(), w.identity("odin"), s.ID)
		if !errors.As(err, &refused) || refused.Rule != "user.frozen" {
			t.Errorf("odin goes on: %v", err)
		}
		if r := w.EndWatch(t.Context(), w.as("odin"), s, err); r.Reference == "" || w.last("recording.watch").Result != ResultRefused {
			t.Errorf("the end is %+v, %+v", r, w.last("recording.watch"))
		}
	})
}

func TestSessionIsNotOpenedAfterTheEnd(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		ask := w.ask("alice", ActionShell)
		s := w.session(ask, w.decide(ask))
		w.ok(w.EndMember(t.Context(), w.as("mia"), w.member["alice"].ID, "contract ended"))
		_, err := w.OpenSession(t.Context(), s)
		w.refused(err, "membership.ended")
	})
}

func TestPromise5_Epochs(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		ctx := t.Context()
		next := Epoch{ID: "genomics/2027Q1", Project: "genomics", Recipient: recipientOf("next"), Strict: recipientOf("nextstrict"), ExpiresAt: start.AddDate(0, 0, 1)}
		for _, change := range []func(*Epoch){
			func(e *Epoch) { e.ID = "imaging/2027Q1" },
			func(e *Epoch) { e.Strict = e.Recipient },
			func(e *Epoch) { e.Recipient = "AGE-SECRET-KEY-1XXXXXXXXXXXXXXXXXXXXX" },
			func(e *Epoch) { e.ExpiresAt = start },
		} {
			bad := next
			change(&bad)
			if err := w.AddEpoch(ctx, w.as("odin"), bad); err == nil {
				t.Errorf("accepted %+v", bad)
			}
		}
		w.clock.advance(time.Second)
		// An administrator gives a project its first key, and can never make one's own the one that all is sealed to.
		w.refused(w.AddEpoch(ctx, w.as("adam"), next), "role.missing")
		w.ok(w.AddProject(ctx, w.as("adam"), Project{Name: "fresh", Title: "Fresh"}))
		first := next
		first.ID, first.Project, first.Recipient, first.Strict = "fresh/2027Q1", "fresh", recipientOf("first"), recipientOf("firststrict")
		w.refused(w.AddEpoch(ctx, w.as("sara"), first), "role.missing")
		w.ok(w.AddEpoch(ctx, w.as("adam"), first))
		first.ID = "fresh/2027Q2"
		w.refused(w.AddEpoch(ctx, w.as("adam"), first), "role.missing")
		// One key under two names would go with the first of them to be destroyed.
		for _, halves := range [][2]string{{recipient, strictOne}, {strictOne, recipient}, {recipient, next.Strict}, {next.Recipient, strictOne},
			{next.Recipient, recipient}, {recipientOf("imaging"), next.Strict}, {next.Recipient, recipientOf("imaging")}, {first.Strict, next.Strict}} {
			again := next
			again.Recipient, again.Strict = halves[0], halves[1]
			w.refused(w.AddEpoch(ctx, w.as("odin"), again), "epoch.same-key")
		}
		w.refused(w.AddProject(ctx, w.as("adam"), Project{Name: "over", Until: w.clock.Now()}), "input.period")
		w.ok(w.AddEpoch(ctx, w.as("odin"), next))
		w.refused(w.AddEpoch(ctx, w.as("odin"), next), "epoch.exists")
		if e, err := w.CurrentEpoch(ctx, "genomics"); err != nil || e.ID != next.ID {
			t.Errorf("the newest is %+v, %v", e, err)
		}
		w.clock.advance(48 * time.Hour)
		if e, err := w.CurrentEpoch(ctx, "genomics"); err != nil || e.ID != "genomics/2026Q4" {
			t.Errorf("the newest unexpired is %+v, %v", e, err)
		}
		if epochs, err := w.Epochs(ctx, w.as("alice"), "genomics"); err != nil || len(epochs) != 2 {
			t.Errorf("epochs %v, %v", epochs, err)
		}
		w.clock.advance(366 * 24 * time.Hour)
		if _, err := w.CurrentEpoch(ctx, "genomics"); !errors.Is(err, ErrNotFound) {
			t.Errorf("without a valid epoch: %v", err)
		}
	})
}
