package authz

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"time"

	"sallyport/internal/database"
)

// RolledBackError says that a database has fewer events of a node than the node's ledger: it was
// put back to an older state, or made anew. The node does not open.
type RolledBackError struct {
	Node             string
	Ledger, Database int64 // events
}

func (e *RolledBackError) Error() string {
	return fmt.Sprintf("the ledger of %s holds %d events and the database only %d: the database is older than the ledger. "+
		"Restore a newer backup of the database; if there is none, `sallyport ledger rebuild --config FILE` brings back events and sessions, "+
		"and everything else (people, keys, second factors, memberships, requests) stays as old as the database: "+
		"go through what the last %d events changed before you let people in",
		e.Node, e.Ledger, e.Database, e.Ledger-e.Database)
}

// Rebuilt says what Rebuild did.
type Rebuilt struct {
	Events     int64 `json:"events"`     // that were read
	Added      int64 `json:"added"`      // of them, that the database had not
	Sessions   int64 `json:"sessions"`   // that those events opened
	Unreadable int64 `json:"unreadable"` // whose text was destroyed: their rows stay as they are
	Last       int64 `json:"last"`       // highest sequence
}

// rebuildBatch is how many events are one transaction: few enough for its time limit.
const rebuildBatch = 500

// Rebuild makes a node's rows in the tables that only repeat what happened (events, sessions,
// commands, transfers, search entries) again from the texts of the ledger's events, in the order of the ledger. A nil text is one that was
// destroyed. The database may be empty or in use by other nodes, but not by this one. Secrets,
// people, projects and requests are left alone: where a session names a person or a project that the
// database has not, it gets a row that cannot be used, frozen and closed.
//
// It fails without changing anything further when the database tells another event under a
// sequence than the ledger. Running it again goes on where it stopped.
func Rebuild(ctx context.Context, db *database.DB, node string, texts iter.Seq2[[]byte, error]) (Rebuilt, error) {
	r := rebuild{node: node, db: db}
	var batch []rebuiltEvent
	for text, err := range texts {
		if err != nil {
			return r.Rebuilt, fmt.Errorf("rebuild: %w", err)
		}
		if text == nil {
			r.Unreadable++
			r.Last++
			continue
		}
		e, err := parseEvent(text)
		if err != nil {
			return r.Rebuilt, fmt.Errorf("rebuild: event after %d: %w", r.Last, err)
		}
		if e.Node != node || e.Sequence != r.Last+1 {
			return r.Rebuilt, fmt.Errorf("rebuild: event %d of %s stands behind event %d of %s", e.Sequence, e.Node, r.Last, node)
		}
		r.Last = e.Sequence
		if batch = append(batch, rebuiltEvent{e, bytes.Clone(text)}); len(batch) == rebuildBatch {
			if err := r.write(ctx, batch); err != nil {
				return r.Rebuilt, err
			}
			batch = batch[:0]
		}
	}
	return r.Rebuilt, r.write(ctx, batch)
}

type rebuiltEvent struct {
	event Event
	text  []byte
}

type rebuild struct {
	Rebuilt
	node string
	db   *database.DB
}

// write brings a run of events into the database in one transaction.
func (r *rebuild) write(ctx context.Context, batch []rebuiltEvent) error {
	var done Rebuilt
	err := r.db.Write(ctx, func(tx database.Tx) error {
		done = r.Rebuilt
		created := time.Time{}
		if len(batch) > 0 {
			created = batch[0].event.Time
		}
		_, err := tx.Exec(`INSERT INTO nodes (id, last_sequence, last_session, created_at)
			VALUES ($1, 0, 0, $2) ON CONFLICT (id) DO NOTHING`, r.node, milliseconds(created))
		if err != nil {
			return err
		}
		for _, e := range batch {
			if err := r.one(tx, e, &done); err != nil {
				return fmt.Errorf("event %d: %w", e.event.Sequence, err)
			}
		}
		_, err = tx.Exec("UPDATE nodes SET last_sequence = $1 WHERE id = $2 AND last_sequence < $3", r.Last, r.node, r.Last)
		return err
	})
	if err != nil {
		return fmt.Errorf("rebuild: %w", err)
	}
	r.Rebuilt = done
	return nil
}

func (r *rebuild) one(tx database.Tx, e rebuiltEvent, done *Rebuilt) error {
	done.Events++
	var there []byte
	err := tx.QueryRow("SELECT leaf FROM events WHERE node = $1 AND sequence = $2", r.node, e.event.Sequence).Scan(&there)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		if err := insertEvent(tx, e.event, e.text); err != nil {
			return err
		}
		done.Added++
	case err != nil:
		return err
	case !bytes.Equal(there, e.text):
		return errors.New("the database and the ledger tell different things under this number; one of them was changed")
	}
	if e.event.Result == ResultOK {
		if err := rebuildSession(tx, e.event, done); err != nil {
			return err
		}
	}
	return DeriveTables(tx, e.text)
}

// rebuildSession repeats what an event did to the table of sessions.
func rebuildSession(tx database.Tx, e Event, done *Rebuilt) error {
	switch e.OpType {
	case "session.open":
		done.Sessions++
		return reopenSession(tx, e)
	case "session.close":
		ended, err := detailTime(e, "ended_at")
		if err != nil {
			return err
		}
		_, err = tx.Exec(`UPDATE sessions SET ended_at = $1, result = $2, exit_code = $3, bytes_in = $4, bytes_out = $5,
			head = $6 WHERE id = $7 AND ended_at = 0`, milliseconds(ended), detailText(e, "result"), detailNumber(e, "exit_code"),
			detailNumber(e, "bytes_in"), detailNumber(e, "bytes_out"), detailText(e, "head"), e.Session)
		return err
	case "session.kill":
		_, err := tx.Exec("UPDATE sessions SET killed_at = $1, killed_by = $2, kill_reason = $3 WHERE id = $4",
			milliseconds(e.Time), e.UserID, detailText(e, "reason"), e.Session)
		return err
	}
	return nil
}

func reopenSession(tx database.Tx, e Event) error {
	started, err := detailTime(e, "started_at")
	if err != nil {
		return err
	}
	if err := placeholders(tx, e); err != nil {
		return err
	}
	remote := e.RemoteAddr
	if remote == "-" {
		remote = ""
	}
	pty, _ := e.Details["pty"].(bool)
	number := detailNumber(e, "number")
	_, err = tx.Exec(`INSERT INTO sessions (id, node, number, connection, user_name, project, server, account, role,
			action, command, pty, remote_addr, request, epoch, started_at, ended_at, result, exit_code, bytes_in,
			bytes_out, head, killed_at, killed_by, kill_reason)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, 0, '', 0, 0, 0, '', 0, '', '')
		ON CONFLICT (id) DO NOTHING`,
		e.Session, e.Node, number, e.Connection, e.UserID, e.Project, detailText(e, "server"), detailText(e, "account"),
		detailText(e, "role"), detailText(e, "action"), []byte(commandText(e)), pty, remote, detailText(e, "request"),
		detailText(e, "epoch"), milliseconds(started))
	if err != nil {
		return err
	}
	_, err = tx.Exec("UPDATE nodes SET last_session = $1 WHERE id = $2 AND last_session < $3", number, e.Node, number)
	return err
}

// placeholders make sure that a session's person and project have a row.
func placeholders(tx database.Tx, e Event) error {
	const note = "made from the ledger, which does not hold this account"
	_, err := tx.Exec(`INSERT INTO users (name, display, site_role, os_user, enrolled_at, frozen_at, frozen_reason,
			terms_version, terms_at, training_course, training_until, created_at, created_by)
		VALUES ($1, '', '', '', 0, $2, $3, '', 0, '', 0, $4, 'system') ON CONFLICT (name) DO NOTHING`,
		e.UserID, milliseconds(e.Time), note, milliseconds(e.Time))
	if err != nil {
		return err
	}
	_, err = tx.Exec(`INSERT INTO projects (name, title, level, state, period_from, period_until, networks, training,
			levels, grant_window, created_at)
		VALUES ($1, $2, $3, $4, 0, 0, '[]', $5, '[]', 0, $6) ON CONFLICT (name) DO NOTHING`,
		e.Project, note, LevelType1, ProjectClosed, false, milliseconds(e.Time))
	return err
}

func detailText(e Event, name string) string {
	text, _ := e.Details[name].(string)
	return text
}

func detailNumber(e Event, name string) int64 {
	number, _ := e.Details[name].(json.Number)
	n, _ := number.Int64() // no number is 0, as in the table
	return n
}

func detailTime(e Event, name string) (time.Time, error) {
	t, err := time.Parse(time.RFC3339Nano, detailText(e, name))
	if err != nil {
		return time.Time{}, fmt.Errorf("%s of %s: %w", name, e.OpType, err)
	}
	return t, nil
}
