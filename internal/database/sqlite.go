package database

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"strconv"
	"strings"

	"github.com/mattn/go-sqlite3"
	"github.com/pressly/goose/v3"
)

// How many SQLite connections read at once beside the one that writes.
const (
	readers  = 4
	watchers = 4
)

// sqliteConnector opens connections with settings that the driver's address
// syntax has no word for, without registering a driver for the whole process.
type sqliteConnector struct {
	driver *sqlite3.SQLiteDriver
	name   string
}

func (c *sqliteConnector) Connect(context.Context) (driver.Conn, error) { return c.driver.Open(c.name) }
func (c *sqliteConnector) Driver() driver.Driver                        { return c.driver }

func sqlitePool(path string, settings url.Values) *sql.DB {
	hook := func(conn *sqlite3.SQLiteConn) error {
		// A schema that somebody else wrote into the file must not be able to call functions.
		_, err := conn.Exec("PRAGMA trusted_schema = OFF", nil)
		return err
	}
	escaped := strings.NewReplacer("%", "%25", "?", "%3f", "#", "%23").Replace(path)
	return sql.OpenDB(&sqliteConnector{
		driver: &sqlite3.SQLiteDriver{ConnectHook: hook},
		name:   "file:" + escaped + "?" + settings.Encode(),
	})
}

// OpenIndex opens a SQLite file of another purpose than a node's state, with the schema of the
// given migrations. It is made with mode 0600 when it is missing. What is deleted is written over.
func OpenIndex(ctx context.Context, path string, migrations fs.FS) (*DB, error) {
	db, err := openSQLite(ctx, path, migrations, true)
	if err != nil {
		return nil, fmt.Errorf("open index: %w", err)
	}
	return db, nil
}

func openSQLite(ctx context.Context, path string, files fs.FS, erase bool) (*DB, error) {
	if path == "" || strings.HasPrefix(path, ":memory:") || strings.HasPrefix(path, "file:") {
		return nil, fmt.Errorf("%q is no path of a file", path)
	}
	// Made here, so that it and its companions are readable by nobody else from the start.
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := file.Close(); err != nil {
		return nil, err
	}
	write := sqlitePool(path, url.Values{
		"_secure_delete": {strconv.FormatBool(erase)},
		"mode":           {"rw"},
		"_journal_mode":  {"WAL"},
		"_synchronous":   {"FULL"}, // a commit survives the loss of power
		"_txlock":        {"immediate"},
		"_busy_timeout":  {"5000"},
		"_foreign_keys":  {"on"},
	})
	write.SetMaxOpenConns(1)
	db := &DB{engine: SQLite, write: write}
	if err := checkFullText(ctx, write); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	if err := migrate(ctx, goose.DialectSQLite3, write, files); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	reading := url.Values{
		"mode":          {"ro"},
		"_query_only":   {"1"},
		"_busy_timeout": {"2000"},
	}
	db.read, db.watch = sqlitePool(path, reading), sqlitePool(path, reading)
	db.read.SetMaxOpenConns(readers)
	db.watch.SetMaxOpenConns(watchers)
	db.watch.SetMaxIdleConns(watchers)
	if err := errors.Join(db.read.PingContext(ctx), db.watch.PingContext(ctx)); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return db, nil
}

func checkFullText(ctx context.Context, pool *sql.DB) error {
	if _, err := pool.ExecContext(ctx, "CREATE VIRTUAL TABLE temp.full_text_check USING fts5(word)"); err != nil {
		if strings.Contains(err.Error(), "no such module") {
			return errors.New("this program was built without SQLite's full-text search: build it with -tags sqlite_fts5")
		}
		return err
	}
	_, err := pool.ExecContext(ctx, "DROP TABLE temp.full_text_check")
	return err
}

func sqliteBusy(err error) bool {
	var e sqlite3.Error
	return errors.As(err, &e) && (e.Code == sqlite3.ErrBusy || e.Code == sqlite3.ErrLocked)
}
