package node

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"sallyport/authz"
	"sallyport/internal/database"
)

// TestRebuildBringsBackAnOlderDatabase: the node notices at its start, says what to do, and that helps.
func TestRebuildBringsBackAnOlderDatabase(t *testing.T) {
	w := newCrashSite(t)
	s := w.open()
	ctx := t.Context()
	s.Result = "exited"
	w.must(w.n.Authority.CloseSession(ctx, s))
	last := w.n.Ledger.Last()
	w.must(w.n.Close())
	w.n = &Node{}

	db, err := database.Open(ctx, w.config.Database)
	w.must(err)
	w.must(db.Write(ctx, func(tx database.Tx) error {
		for _, statement := range []string{"DELETE FROM sessions", "DELETE FROM events WHERE sequence > 3", "UPDATE nodes SET last_sequence = 3, last_session = 0"} {
			if _, err := tx.Exec(statement); err != nil {
				return err
			}
		}
		return nil
	}))
	w.must(db.Close())

	_, err = Open(ctx, w.config, quiet())
	var old *authz.RolledBackError
	if !errors.As(err, &old) || old.Ledger != last || !strings.Contains(err.Error(), "sallyport ledger rebuild") {
		t.Fatalf("a node on an older database: %v", err)
	}
	var shown int64
	done, err := Rebuild(ctx, w.config, quiet(), func(n, total int64) { shown = n })
	w.must(err)
	if done.Events != last || done.Added != last-3 || done.Sessions != 1 || shown == 0 {
		t.Errorf("%+v of %d, shown %d", done, last, shown)
	}
	if done.NoAdministrator {
		t.Error("there is an administrator, and rebuild says that there is none")
	}
	w.n = opened(t, w.config)
	found, err := w.n.Authority.Sessions(ctx, authz.Actor{User: "alice", RemoteAddr: "192.0.2.1", Via: "ssh"}, authz.SessionQuery{})
	w.must(err)
	if len(found) != 1 || found[0].ID != s.ID || found[0].Result != "exited" {
		t.Errorf("sessions %+v", found)
	}
}

// TestAnEmptyDatabaseGetsItsFirstAdministrator: rebuild says that nobody can come in, and recover lets one in.
func TestAnEmptyDatabaseGetsItsFirstAdministrator(t *testing.T) {
	w := newCrashSite(t)
	s := w.open()
	ctx := t.Context()
	s.Result = "exited"
	w.must(w.n.Authority.CloseSession(ctx, s))
	w.must(w.n.Close())
	w.n = &Node{}
	w.config.Database = filepath.Join(t.TempDir(), "new.db")
	done, err := Rebuild(ctx, w.config, quiet(), nil)
	w.must(err)
	if !done.NoAdministrator {
		t.Error("rebuild does not say that there is no administrator")
	}
	// One who is there by name only and frozen; afterwards it is as it always was.
	made, err := Recover(ctx, w.config, quiet(), "alice", "the database was lost")
	w.must(err)
	if _, err := Recover(ctx, w.config, quiet(), "bob", "me too"); err == nil {
		t.Error("a second one came in the same way")
	}
	w.n = opened(t, w.config)
	if u, err := w.n.Authority.User(ctx, "alice"); err != nil || u.SiteRole != authz.SiteAdmin || u.State == "frozen" {
		t.Errorf("%+v, %v", u, err)
	}
	if u, err := w.n.Authority.InvitedUser(ctx, made.Invite); err != nil || u.Name != "alice" {
		t.Errorf("invited %+v, %v", u, err)
	}
}
