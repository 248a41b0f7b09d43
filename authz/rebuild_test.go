package authz

import (
	"errors"
	"fmt"
	"iter"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"sallyport/internal/database"
)

// texts are what the ledger holds, but for those that were destroyed.
func (l *memoryLedger) texts(destroyed ...int) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		for i, leaf := range l.leaves {
			if slices.Contains(destroyed, i+1) {
				leaf = nil
			}
			if !yield(leaf, nil) {
				return
			}
		}
	}
}

// dump is every row of the tables that only repeat what happened.
func dump(t *testing.T, db *database.DB) []string {
	t.Helper()
	var rows []string
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(db.Read(t.Context(), func(tx database.Tx) error {
		for _, query := range []string{"SELECT * FROM events ORDER BY node, sequence", "SELECT * FROM sessions ORDER BY node, number",
			"SELECT id, last_sequence, last_session FROM nodes ORDER BY id",
			"SELECT * FROM commands ORDER BY node, sequence", "SELECT * FROM transfers ORDER BY node, sequence",
			"SELECT * FROM search_entries ORDER BY id"} {
			found, err := tx.Query(query)
			must(err)
			columns, err := found.Columns()
			must(err)
			for found.Next() {
				values := make([]any, len(columns))
				for i := range values {
					values[i] = new(any)
				}
				must(found.Scan(values...))
				var row strings.Builder
				for i, v := range values {
					value := *v.(*any)
					if text, ok := value.(string); ok {
						value = []byte(text)
					}
					fmt.Fprintf(&row, "%s=%q ", columns[i], fmt.Sprint(value))
				}
				rows = append(rows, row.String())
			}
			must(errors.Join(found.Err(), found.Close()))
		}
		return nil
	}))
	return rows
}

// busyWorld has sessions of every end, one of them still open.
func busyWorld(t *testing.T, w *world) {
	t.Helper()
	ctx := t.Context()
	for i, command := range []string{"ls -la", "printf '\xff\x00'", strings.Repeat("x", maxDetail)} {
		ask := w.ask("erin", ActionExec)
		ask.Command = command
		s := w.open(ask)
		w.clock.advance(time.Second)
		s.Result, s.ExitCode, s.BytesIn, s.BytesOut, s.Head = "exited", i, 7, 1<<60, "abcd"
		w.ok(w.CloseSession(ctx, s))
	}
	s := w.open(w.ask("alice", ActionShell))
	w.ok(w.KillSession(ctx, w.as("sara"), s.ID, "an open terminal in a café"))
	w.clock.advance(time.Second)
	s.Result = "killed"
	w.ok(w.CloseSession(ctx, s))
	w.refused(w.KillSession(ctx, w.as("sara"), s.ID, "it is over already"), "session.ended")
	w.open(w.ask("erin", ActionSFTP))
}

func TestRebuildMakesTheSameRows(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		busyWorld(t, w)
		before := dump(t, w.db)
		for _, lost := range []string{"DELETE FROM sessions", "DELETE FROM events WHERE sequence > 20",
			"UPDATE sessions SET ended_at = 0, result = '' WHERE number = 3", ""} {
			w.ok(w.db.Write(t.Context(), func(tx database.Tx) error {
				if lost == "" {
					if err := ClearDerived(tx); err != nil {
						return err
					}
				} else if _, err := tx.Exec(lost); err != nil {
					return err
				}
				_, err := tx.Exec("UPDATE nodes SET last_sequence = 20, last_session = 0")
				return err
			}))
			var old *RolledBackError
			if _, err := Open(t.Context(), w.db, w.options); !errors.As(err, &old) || old.Database != 20 || !strings.Contains(err.Error(), "ledger rebuild") {
				t.Fatalf("%s: a database that was put back opens: %v", lost, err)
			}
			done, err := Rebuild(t.Context(), w.db, w.options.Node, w.ledger.texts())
			w.ok(err)
			if done.Events != w.ledger.Last() || done.Last != done.Events || done.Sessions != 5 {
				t.Errorf("%s: %+v", lost, done)
			}
			if after := dump(t, w.db); !slices.Equal(before, after) {
				for i := range min(len(before), len(after)) {
					if before[i] != after[i] {
						t.Errorf("%s:\n%s\nbecame\n%s", lost, before[i], after[i])
					}
				}
				t.Fatalf("%s: %d rows became %d", lost, len(before), len(after))
			}
			a, err := Open(t.Context(), w.db, w.options)
			w.ok(err)
			_, err = a.Record(t.Context(), Event{UserID: "system", OpType: "node.start", ResourceType: "node", ResourceID: "node-one", RemoteAddr: "-"})
			w.ok(err)
			before = dump(t, w.db)
		}
	})
}

func TestRebuildIntoAnEmptyDatabase(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		busyWorld(t, w)
		before := dump(t, w.db)
		url := filepath.Join(t.TempDir(), "new.db")
		if w.db.Engine() != database.SQLite {
			server, err := postgres.get()
			w.ok(err)
			url, err = server.Database(t.Context())
			w.ok(err)
		}
		db := openDatabase(t, url)
		_, err := Rebuild(t.Context(), db, w.options.Node, w.ledger.texts())
		w.ok(err)
		if after := dump(t, db); !slices.Equal(before, after) {
			t.Fatalf("%d rows became %d, or others", len(before), len(after))
		}
		options := w.options
		a, err := Open(t.Context(), db, options)
		w.ok(err)
		d, err := a.Decide(t.Context(), w.ask("alice", ActionShell))
		if err == nil && d.Outcome == Allow {
			t.Fatal("a person who is known from the ledger only gets in")
		}
	})
}

func TestRebuildRefusesAnotherHistory(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		w.ok(w.db.Write(t.Context(), func(tx database.Tx) error {
			_, err := tx.Exec("UPDATE events SET leaf = $1 WHERE sequence = 5", []byte("{}"))
			return err
		}))
		if _, err := Rebuild(t.Context(), w.db, w.options.Node, w.ledger.texts()); err == nil || !strings.Contains(err.Error(), "event 5") {
			t.Errorf("another event 5: %v", err)
		}
		if _, err := Rebuild(t.Context(), w.db, "node-two", w.ledger.texts()); err == nil {
			t.Error("the events of another node were taken")
		}
		done, err := Rebuild(t.Context(), w.db, w.options.Node, w.ledger.texts(5))
		w.ok(err)
		if done.Unreadable != 1 || done.Last != w.ledger.Last() {
			t.Errorf("%+v of %d", done, w.ledger.Last())
		}
	})
}
