package authz

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// ended is a session under an epoch that has come to its end.
func (w *world) ended(user string) Session {
	w.t.Helper()
	s := w.open(w.ask(user, ActionShell))
	s.Result = "exited"
	w.ok(w.CloseSession(w.t.Context(), s))
	return s
}

// TestPromise9_AnEpochIsDestroyedByTwoAfterItsRetention goes the whole way: too early, alone, by the
// wrong people, and then by two.
func TestPromise9_AnEpochIsDestroyedByTwoAfterItsRetention(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		ctx, id, reason := t.Context(), "genomics/2026Q4", "retention is over"
		s := w.ended("alice")
		destroy := func(by Actor, statement string) (Epoch, error) { return w.DestroyEpoch(ctx, by, id, reason, statement) }
		refused := func(by Actor, rule string) {
			t.Helper()
			_, err := destroy(by, "")
			w.refused(err, rule)
		}
		refused(w.voting("odin"), "epoch.retention")
		w.clock.advance(365*oneDay + MinRetention - time.Millisecond)
		refused(w.voting("odin"), "epoch.retention")
		w.clock.advance(time.Millisecond)
		for _, name := range []string{"adam", "alice", "mia", "bob"} {
			refused(w.voting(name), "role.missing")
		}
		refused(w.voting("sara"), "epoch.declare-first")
		refused(w.as("odin"), "vote.factor")
		_, err := w.DestroyEpoch(ctx, bootstrap, id, reason, "")
		w.refused(err, "actor.unbound")
		_, err = destroy(w.voting("odin"), "I destroyed something else")
		w.refused(err, "input.statement")

		statement := fmt.Sprintf(`{"epoch": "%s", "recipients": ["%s", "%s"]}`, id, RecipientFingerprint(recipient), RecipientFingerprint(strictOne))
		e, err := destroy(w.voting("odin"), statement)
		w.ok(err)
		if e.DeclaredBy != "odin" || !e.DestroyedAt.IsZero() {
			t.Errorf("one person alone: %+v", e)
		}
		if _, err := w.ViewRecording(ctx, w.as("odin"), s.ID, "replay", "monthly review"); err != nil {
			t.Errorf("read while it waits: %v", err)
		}
		refused(w.voting("odin"), "self")
		w.ok(w.KeepEpoch(ctx, w.as("sara"), id, "not yet"))
		w.refused(w.KeepEpoch(ctx, w.as("sara"), id, "not yet"), "epoch.not-declared")
		_, err = destroy(w.voting("odin"), statement)
		w.ok(err)
		e, err = destroy(w.voting("sara"), "")
		w.ok(err)
		if !e.DestroyedAt.Equal(w.clock.Now()) || !slices.Equal(e.DestroyedBy, []string{"odin", "sara"}) || e.DeclaredBy != "" {
			t.Errorf("destroyed: %+v", e)
		}
		refused(w.voting("odin"), "epoch.destroyed")

		event := w.last("epoch.destroy")
		declared, _ := event.Details["declared"].([]any)
		if event.Project != "genomics" || len(declared) != 2 || event.Details["recipient_fingerprint"] != RecipientFingerprint(recipient) ||
			event.Details["strict_fingerprint"] != RecipientFingerprint(strictOne) {
			t.Fatalf("event %+v", event)
		}
		if first := declared[0].(map[string]any); first["by"] != "odin" || first["statement"] != statement {
			t.Errorf("the first declaration: %+v", first)
		}
		// Nobody reads it any more, and everybody can still see that it is whole.
		_, err = w.ViewRecording(ctx, w.as("odin"), s.ID, "replay", "monthly review")
		w.refused(err, "recording.destroyed")
		if _, err := w.ViewRecording(ctx, w.as("odin"), s.ID, "verify", "monthly review"); err != nil {
			t.Errorf("verify: %v", err)
		}
		epochs, err := w.Epochs(ctx, w.as("odin"), "genomics")
		if err != nil || len(epochs) != 1 || epochs[0].DestroyedAt.IsZero() {
			t.Errorf("epochs %+v, %v", epochs, err)
		}
	})
}

// A session may outlive the key that it was sealed to, and counts from its own end.
func TestPromise9_RetentionCountsFromTheLastSession(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		ctx := t.Context()
		s := w.open(w.ask("alice", ActionShell))
		w.clock.advance(365*oneDay + MinRetention)
		_, err := w.DestroyEpoch(ctx, w.voting("odin"), "genomics/2026Q4", "retention is over", "")
		w.refused(err, "epoch.live")
		w.ok(w.CloseSession(ctx, s))
		_, err = w.DestroyEpoch(ctx, w.voting("odin"), "genomics/2026Q4", "retention is over", "")
		w.refused(err, "epoch.retention")
		if _, err := w.DestroyEpoch(ctx, w.voting("odin"), "genomics/none", "retention is over", ""); !errors.Is(err, ErrNotFound) {
			t.Errorf("an epoch that is none: %v", err)
		}
	})
}

func TestPromise5_NoSessionUnderADestroyedEpoch(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		ctx := t.Context()
		// The database alone can have one that is destroyed and not expired; it counts for nothing all the same.
		_, _, err := w.transact(ctx, func(k *work) error {
			_, err := k.tx.Exec("UPDATE epochs SET destroyed_at = $1 WHERE project = $2", milliseconds(w.clock.Now()), "genomics")
			return err
		})
		w.ok(err)
		d := w.decide(w.ask("alice", ActionShell))
		if d.Outcome != Refuse || d.Refusal.Rule != "epoch.missing" || !strings.Contains(d.Refusal.Sentence, "no valid epoch key") {
			t.Errorf("decided %+v", d)
		}
		if _, err := w.CurrentEpoch(ctx, "genomics"); !errors.Is(err, ErrNotFound) {
			t.Errorf("current epoch: %v", err)
		}
	})
}

func TestEpochsWarnBeforeTheyEnd(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		ctx := t.Context()
		warnings := func() (n int) {
			t.Helper()
			told, all, err := w.WarnEpochs(ctx)
			w.ok(err)
			if len(all) != 2 {
				t.Fatalf("the epochs of %d projects", len(all))
			}
			for _, e := range told {
				if e.Project == "genomics" {
					n++
				}
			}
			return n
		}
		seen := func(by string) string {
			t.Helper()
			soon, err := w.ExpiringEpochs(ctx, w.as(by))
			w.ok(err)
			for _, e := range soon {
				if e.Project == "genomics" {
					return e.String()
				}
			}
			return ""
		}
		end := start.AddDate(0, 0, 60) // while the people of the project are still its members
		_, _, err := w.transact(ctx, func(k *work) error {
			_, err := k.tx.Exec("UPDATE epochs SET expires_at = $1", milliseconds(end))
			return err
		})
		w.ok(err)
		at := func(left time.Duration) { w.clock.advance(end.Add(-left).Sub(w.clock.Now())) }
		if warnings() != 0 || seen("odin") != "" {
			t.Error("warned too early")
		}
		for _, c := range []struct {
			left time.Duration
			told int
			want string
		}{
			{31 * oneDay, 0, ""}, {30 * oneDay, 1, "ends in 30 days"}, {8 * oneDay, 0, "ends in 8 days"}, {7 * oneDay, 1, "ends in 7 days"},
			{oneDay, 1, "within a day"}, {time.Hour, 0, "within a day"}, {0, 1, "ended on"}, {-oneDay, 0, "ended on"},
		} {
			at(c.left)
			if n := warnings(); n != c.told {
				t.Errorf("%s before the end: %d warnings, want %d", c.left, n, c.told)
			}
			if n := warnings(); n != 0 {
				t.Errorf("%s before the end: told twice", c.left)
			}
			for _, by := range []string{"odin", "mia", "paula"} {
				if text := seen(by); !strings.Contains(text, c.want) || (text == "") != (c.want == "") {
					t.Errorf("%s before the end %s reads %q", c.left, by, text)
				}
			}
			if text := seen("bob"); text != "" {
				t.Errorf("a stranger reads %q", text)
			}
		}
		for _, by := range []string{"odin", "mia", "paula"} {
			events, err := w.Events(ctx, w.as(by), EventQuery{Project: "genomics", OpType: "epoch.expiring"})
			w.ok(err)
			if len(events) != 3 || events[0].UserID != "system" {
				t.Errorf("%s sees %d warnings", by, len(events))
			}
		}
		if w.last("epoch.expired").Project == "" {
			t.Error("the end was not told")
		}
		if d := w.decide(w.ask("alice", ActionShell)); d.Outcome != Refuse || d.Refusal.Rule != "epoch.missing" {
			t.Errorf("after the end: %+v", d)
		}
		// The next key ends the warnings.
		w.ok(w.AddEpoch(ctx, w.as("odin"), Epoch{ID: "genomics/2028Q1", Project: "genomics", Recipient: recipientOf("next"), Strict: recipientOf("nextstrict"),
			ExpiresAt: w.clock.Now().AddDate(0, 4, 0)}))
		if warnings() != 0 || seen("mia") != "" {
			t.Error("warned although there is a next one")
		}
	})
}
