package database

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"sallyport/internal/testkit"
)

var postgres *testkit.Postgres

func TestMain(m *testing.M) {
	os.Exit(func() int {
		var err error
		if postgres, err = testkit.StartPostgres(context.Background()); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer postgres.Stop()
		return m.Run()
	}())
}

// onBoth runs a test on each engine with an empty database.
func onBoth(t *testing.T, test func(t *testing.T, url string)) {
	t.Run("sqlite", func(t *testing.T) { test(t, filepath.Join(t.TempDir(), "state.db")) })
	t.Run("postgres", func(t *testing.T) {
		url, err := postgres.Database(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		test(t, url)
	})
}

func open(t *testing.T, url string) *DB {
	t.Helper()
	db, err := Open(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

func generation(t *testing.T, db *DB) (n int64) {
	t.Helper()
	err := db.Read(t.Context(), func(tx Tx) error {
		return tx.QueryRow("SELECT generation FROM changes WHERE id = $1", 1).Scan(&n)
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestOpenTwiceKeepsState(t *testing.T) {
	onBoth(t, func(t *testing.T, url string) {
		db := open(t, url)
		err := db.Write(t.Context(), func(tx Tx) error {
			n, err := tx.Exec("UPDATE changes SET generation = $1 WHERE id = $2", 42, 1)
			if n != 1 {
				t.Errorf("changed %d rows, want 1", n)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		if got := generation(t, open(t, url)); got != 42 {
			t.Errorf("generation %d after opening again, want 42", got)
		}
	})
}

func TestWriteRollsBack(t *testing.T) {
	onBoth(t, func(t *testing.T, url string) {
		db := open(t, url)
		failed := errors.New("changed my mind")
		err := db.Write(t.Context(), func(tx Tx) error {
			if _, err := tx.Exec("UPDATE changes SET generation = $1", 7); err != nil {
				return err
			}
			return failed
		})
		if !errors.Is(err, failed) {
			t.Errorf("error %v, want the function's own", err)
		}
		if got := generation(t, db); got != 0 {
			t.Errorf("generation %d after a rollback, want 0", got)
		}
	})
}

func TestReadCannotWrite(t *testing.T) {
	onBoth(t, func(t *testing.T, url string) {
		err := open(t, url).Read(t.Context(), func(tx Tx) error {
			_, err := tx.Exec("UPDATE changes SET generation = $1", 7)
			return err
		})
		if err == nil {
			t.Error("a read transaction wrote")
		}
	})
}

// Two handles stand for two nodes: every increment must count although they race.
func TestWriteRetriesRaces(t *testing.T) {
	onBoth(t, func(t *testing.T, url string) {
		nodes := []*DB{open(t, url), open(t, url)}
		const each = 25
		var wait sync.WaitGroup
		for _, db := range nodes {
			wait.Go(func() {
				for range each {
					err := db.Write(t.Context(), func(tx Tx) error {
						var n int64
						if err := tx.QueryRow("SELECT generation FROM changes").Scan(&n); err != nil {
							return err
						}
						_, err := tx.Exec("UPDATE changes SET generation = $1", n+1)
						return err
					})
					if err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		wait.Wait()
		if got := generation(t, nodes[0]); got != 2*each {
			t.Errorf("%d increments counted, want %d", got, 2*each)
		}
	})
}

func TestForeignKeysAreEnforced(t *testing.T) {
	onBoth(t, func(t *testing.T, url string) {
		err := open(t, url).Write(t.Context(), func(tx Tx) error {
			_, err := tx.Exec(`INSERT INTO accounts (project, account, user_name, created_at)
				VALUES ($1, $2, $3, $4)`, "nowhere", "alice", "nobody", 1)
			return err
		})
		if err == nil {
			t.Error("a row that refers to nothing was accepted")
		}
	})
}

func TestSQLiteSettings(t *testing.T) {
	path := filepath.Join(t.TempDir(), "odd ?#% name.db")
	db := open(t, "sqlite:"+path)
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, want 0600", info.Mode().Perm())
	}
	for pragma, want := range map[string]string{
		"journal_mode": "wal", "synchronous": "2", "foreign_keys": "1", "trusted_schema": "0", "busy_timeout": "5000",
	} {
		var got string
		if err := db.write.QueryRow("PRAGMA " + pragma).Scan(&got); err != nil {
			t.Fatal(err)
		}
		if got != want {
			t.Errorf("%s is %s, want %s", pragma, got, want)
		}
	}
	var readOnly string
	if err := db.read.QueryRow("PRAGMA query_only").Scan(&readOnly); err != nil || readOnly != "1" {
		t.Errorf("query_only of the read pool is %q (%v), want 1", readOnly, err)
	}
}

func TestOpenRefuses(t *testing.T) {
	for _, url := range []string{"", ":memory:", "sqlite:", "sqlite::memory:", filepath.Join(t.TempDir(), "no", "such.db"),
		"postgres:///x?host=" + t.TempDir()} {
		if db, err := Open(t.Context(), url); err == nil {
			db.Close()
			t.Errorf("Open(%q) succeeded", url)
		}
	}
}

func TestNewerSchemaIsRefused(t *testing.T) {
	onBoth(t, func(t *testing.T, url string) {
		db := open(t, url)
		_, err := db.write.Exec("INSERT INTO goose_db_version (version_id, is_applied) VALUES ($1, $2)", 99999, true)
		if err != nil {
			t.Fatal(err)
		}
		db.Close()
		if again, err := Open(t.Context(), url); err == nil {
			again.Close()
			t.Error("a database of a newer program was opened")
		}
	})
}

// People who read much, or a reader that hangs, keep nobody from being looked after.
func TestWatchWaitsForNoReaderOrWriter(t *testing.T) {
	onBoth(t, func(t *testing.T, url string) {
		db := open(t, url)
		release := make(chan struct{})
		var busy, began sync.WaitGroup
		hold := func(Tx) error {
			began.Done()
			<-release
			return nil
		}
		most := map[Engine]int{SQLite: readers, PostgreSQL: postgresReaders}[db.Engine()]
		began.Add(most + 1)
		for range most {
			busy.Go(func() { _ = db.Read(t.Context(), hold) })
		}
		busy.Go(func() { _ = db.Write(t.Context(), hold) })
		began.Wait()
		for range 20 {
			if err := db.Watch(t.Context(), func(tx Tx) error {
				var n int64
				return tx.QueryRow("SELECT generation FROM changes").Scan(&n)
			}); err != nil {
				t.Errorf("the watch waits: %v", err)
			}
		}
		err := db.Watch(t.Context(), func(tx Tx) error {
			_, err := tx.Exec("UPDATE changes SET generation = generation + 1")
			return err
		})
		if err == nil {
			t.Error("the watch can write")
		}
		close(release)
		busy.Wait()
	})
}

func TestTransactionHasATimeLimit(t *testing.T) {
	onBoth(t, func(t *testing.T, url string) {
		db := open(t, url)
		err := run(t.Context(), db.Engine(), db.read, 50*time.Millisecond, nil, func(tx Tx) error {
			<-tx.ctx.Done()
			var n int64
			return tx.QueryRow("SELECT generation FROM changes").Scan(&n)
		})
		if err == nil || !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "no answer within 50ms") {
			t.Errorf("a transaction that takes too long: %v", err)
		}
		if generation(t, db) != 0 {
			t.Error("the database is of no use afterwards")
		}
	})
}

// Whoever copies the one file of a node that was stopped has all of it.
func TestClosedSQLiteIsOneFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	db := open(t, path)
	for range 3 {
		if err := db.Write(t.Context(), func(tx Tx) error {
			_, err := tx.Exec("UPDATE changes SET generation = generation + 1")
			return err
		}); err != nil {
			t.Fatal(err)
		}
		generation(t, db)
		if err := db.Watch(t.Context(), func(tx Tx) error { return nil }); err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	files, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if f.Name() != "state.db" {
			t.Errorf("%s is left", f.Name())
		}
	}
}
