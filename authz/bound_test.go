package authz

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"

	"sallyport/internal/database"
)

// Nothing that a person sends may be too large for the ledger: the node would stop for good.
func TestPromise4_NoInputIsTooLargeForTheLedger(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		ctx := t.Context()
		for name, word := range map[string]string{
			"controls": strings.Repeat("\x01", 128<<10), "quotes": strings.Repeat(`"`, 128<<10), "no UTF-8": strings.Repeat("a\xff", 64<<10),
			"wide": strings.Repeat("\U000e0041", 32<<10), "NUL": strings.Repeat("\x00", 128<<10),
		} {
			ask := w.ask("alice", ActionExec)
			ask.Command = word
			w.recorded(w.decide(ask).Refusal)
			details := w.last("decision.refuse").Details
			hash := sha256.Sum256([]byte(word))
			if details["command_sha256"] != hex.EncodeToString(hash[:]) || fmt.Sprint(details["command_bytes"]) != fmt.Sprint(128<<10) {
				t.Errorf("%s: the event keeps %.200v", name, details)
			}
			beginning := []byte(fmt.Sprint(details["command"]))
			if !utf8.ValidString(word) {
				var err error
				beginning, err = base64.StdEncoding.DecodeString(fmt.Sprint(details["command_base64"]))
				w.ok(err)
			}
			if len(beginning) < 3<<10 || len(beginning) > 4<<10 || !strings.HasPrefix(word, string(beginning)) {
				t.Errorf("%s: the event keeps the first %d bytes", name, len(beginning))
			}
			ask = w.ask("alice", ActionShell)
			ask.Project, ask.Server, ask.Request, ask.Identity.Connection = word, word, word, word
			w.recorded(w.decide(ask).Refusal)
			_, err := w.Vote(ctx, w.voting("alice"), word, true, word, word)
			told(t, err)
			told(t, w.AddUser(ctx, w.as("alice"), User{Name: word, Display: word}))
			told(t, w.Freeze(ctx, w.as("alice"), word, word))
			told(t, w.KillSession(ctx, w.as("alice"), word, word))
			told(t, w.EndMember(ctx, w.as("alice"), word, word))
			told(t, w.AddServer(ctx, w.as("alice"), Server{Project: word, Name: word}))
			told(t, w.AddEpoch(ctx, w.as("alice"), Epoch{ID: word, Project: word}))
			_, err = w.ViewRecording(ctx, w.as("alice"), word, word, word)
			told(t, err)
			_, err = w.CreateRequest(ctx, w.as("olga"), word, word, word)
			told(t, err)
			_, err = w.AddMember(ctx, w.as("mia"), Membership{User: word, Project: word, Role: Role(word), Reason: word})
			told(t, err)
			if _, err := w.Record(ctx, Event{UserID: word, OpType: word, ResourceID: word, ResourceType: word, RemoteAddr: word,
				Project: word, Session: word, Connection: word, Details: map[string]any{"list": []string{word, word}, "in": map[string]any{"x": word}}}); err != nil {
				t.Errorf("%s in every field: %v", name, err)
			}
		}
		for _, e := range w.ledger.events(t) {
			for _, field := range []string{e.UserID, e.OpType, e.ResourceID, e.ResourceType, e.RemoteAddr, e.Project, e.Session, e.Connection} {
				if len(field) > 2*maxField { // what was no UTF-8 takes more room in JSON
					t.Fatalf("a field of %d bytes", len(field))
				}
			}
		}
		w.ok(w.Freeze(ctx, w.as("sara"), "alice", "mischief"))
	})
}

func told(t *testing.T, err error) {
	t.Helper()
	var r *Refusal
	switch {
	case errors.As(err, &r) && r.Reference == "":
		t.Errorf("a refusal without an event: %+.300v", r)
	case errors.As(err, &r), errors.Is(err, ErrNotFound):
	default:
		t.Errorf("answered %.300v", err)
	}
}

func TestTooLargeEventIsAnErrorOfItsCall(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		before := w.ledger.Last()
		e := Event{UserID: "alice", OpType: "test", ResourceID: "x", ResourceType: "y", RemoteAddr: "local",
			Details: map[string]any{"numbers": make([]int, MaxLeaf)}}
		if _, err := w.Record(t.Context(), e); err == nil || errors.Is(err, ErrLedger) {
			t.Errorf("an event that no cutting brings down: %v", err)
		}
		if w.Err() != nil || w.ledger.Last() != before {
			t.Errorf("afterwards: %v, %d events", w.Err(), w.ledger.Last()-before)
		}
		e.Details = nil
		if _, err := w.Record(t.Context(), e); err != nil || w.ledger.Last() != before+1 {
			t.Errorf("the next event: %v", err)
		}
	})
}

// A database that an older program filled must not keep the node from starting.
func TestOversizedEventOfAnOlderProgram(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		w.decide(w.ask("alice", ActionExec))
		leaves, err := w.leaves(t.Context(), w.ledger.Last(), w.ledger.Last())
		w.ok(err)
		e, err := parseEvent(leaves[0].text)
		w.ok(err)
		e.ID, e.Sequence, e.Details["command"] = "E-LARGE", e.Sequence+1, strings.Repeat("\x01", 60_000)
		text, err := json.Marshal(e)
		w.ok(err)
		w.ok(w.db.Write(t.Context(), func(tx database.Tx) error {
			if _, err := tx.Exec("UPDATE nodes SET last_sequence = last_sequence + 1 WHERE id = $1", e.Node); err != nil {
				return err
			}
			_, err := tx.Exec(`INSERT INTO events (node, sequence, id, user_id, op_type, happened_at, resource_id, resource_type,
					remote_addr, project, session, connection, result, leaf)
				SELECT node, sequence + 1, 'E-LARGE', user_id, op_type, happened_at, resource_id, resource_type, remote_addr, project,
					session, connection, result, $1 FROM events WHERE node = $2 AND sequence = $3`, text, e.Node, e.Sequence-1)
			return err
		}))
		again, err := Open(t.Context(), w.db, w.options)
		w.ok(err)
		events := w.ledger.events(t)
		last := events[len(events)-1]
		if last.ID != "E-LARGE" || last.Details["command_sha256"] == nil {
			t.Errorf("the ledger ends with %.300v", last)
		}
		stored, err := again.leaves(t.Context(), e.Sequence, e.Sequence)
		if err != nil || string(stored[0].text) != string(w.ledger.leaves[len(events)-1]) {
			t.Errorf("the database differs from the ledger: %v", err)
		}
		w.ok(again.Freeze(t.Context(), w.as("sara"), "alice", "mischief"))
	})
}

func TestPassingFaultIsNotFinal(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		load, blip := w.outbox.load, errors.New("connection refused")
		w.outbox.load = func(context.Context, int64, int64) ([]leaf, error) { return nil, blip }
		// The leaves of a commit that the database reported as failed are nowhere but there.
		w.ok(w.db.Write(t.Context(), func(tx database.Tx) error {
			_, err := (&work{tx: tx, a: w.Authority, now: w.now()}).recordEvent(
				Event{UserID: "alice", OpType: "test.lost", ResourceID: "x", ResourceType: "y", RemoteAddr: "local"})
			return err
		}))
		before := w.ledger.Last()
		if err := w.Freeze(t.Context(), w.as("sara"), "alice", "suspicious"); !errors.Is(err, blip) || errors.Is(err, ErrLedger) {
			t.Errorf("while the database is away: %v", err)
		}
		if err := w.Tidy(t.Context()); !errors.Is(err, blip) {
			t.Errorf("tidying while the database is away: %v", err)
		}
		w.outbox.load = load
		w.ok(w.Tidy(t.Context()))
		if w.Err() != nil || w.ledger.Last() != before+2 || w.last("user.freeze").ResourceID != "alice" || w.last("test.lost").UserID != "alice" {
			t.Errorf("afterwards: %v, %d new events", w.Err(), w.ledger.Last()-before)
		}
	})
}

func TestFailedLedgerIsTold(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		select {
		case <-w.Failed():
			t.Fatal("failed already")
		default:
		}
		w.ledger.breakNow(errors.New("disk is gone"))
		w.decide(w.ask("alice", ActionExec))
		w.decide(w.ask("alice", ActionExec))
		select {
		case <-w.Failed():
		default:
			t.Fatal("nobody is told")
		}
		if err := w.Err(); !errors.Is(err, ErrLedger) || !strings.Contains(err.Error(), "disk is gone") {
			t.Errorf("the cause is %v", err)
		}
	})
}

func FuzzEventFitsTheLedger(f *testing.F) {
	f.Add("short", 1)
	f.Add("\x01\u2028", 40_000)
	f.Add("a\xff", 30_000)
	f.Fuzz(func(t *testing.T, text string, times int) {
		if len(text) == 0 || times < 1 || times > 256<<10 || len(text)*times > 256<<10 {
			return // more than a person can send
		}
		text = strings.Repeat(text, times)
		e := Event{UserID: text, ResourceID: text, Details: map[string]any{"cause": text, "sentence": text, "x": []any{text}}}
		commandDetail(e.Details, text, false)
		e.boundFields()
		leaf, err := e.leaf()
		if err != nil || len(leaf) > MaxLeaf {
			t.Fatalf("%d bytes, %v", len(leaf), err)
		}
		if back, err := parseEvent(leaf); err != nil || len(text) <= 3<<10 && utf8.ValidString(text) && back.Details["command"] != text {
			t.Errorf("read back %v, %v", back, err)
		}
	})
}
