// Package database opens the database that holds the state of people,
// projects and approvals: SQLite by default, PostgreSQL where a site has one. It
// brings the schema up to date and runs transactions.
//
// There is one migration directory and one SQL text for both engines, but for
// the index of words, which each has in its own way and which this package
// alone speaks to (AddText, FindText): the
// types are TEXT, BIGINT (times are milliseconds since 1970, 0 for none),
// BYTEA and BOOLEAN, and placeholders are $1, $2, … each used once and in
// order of appearance, because SQLite binds them by appearance and PostgreSQL
// by number.
//
// It refuses to open a SQLite without full-text search, a schema newer than
// it knows, and a database in memory, which could keep nothing. It knows
// nothing of what the tables mean.
package database

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"
)

// Engine names the kind of database.
type Engine string

// The engines.
const (
	SQLite     Engine = "sqlite"
	PostgreSQL Engine = "postgres"
)

// DB is an open database, SQLite or PostgreSQL. It is safe for concurrent use.
//
// Its connections are of three kinds that never wait for one another: one
// that writes, some that read, and some that read for questions on which the
// safety of live sessions depends.
type DB struct {
	write, read, watch *sql.DB
	engine             Engine
}

// Open opens the database that url names and brings its schema up to date. A
// url that begins with postgres:// or postgresql:// is PostgreSQL; a path, or
// sqlite: and a path, is a SQLite file, which is made with mode 0600 when it
// is missing.
func Open(ctx context.Context, url string) (*DB, error) {
	var (
		db  *DB
		err error
	)
	switch {
	case url == "":
		return nil, errors.New("open database: the address is empty")
	case strings.HasPrefix(url, "postgres://"), strings.HasPrefix(url, "postgresql://"):
		db, err = openPostgres(ctx, url)
	default:
		var files fs.FS
		if files, err = nodeSchema(SQLite); err == nil {
			db, err = openSQLite(ctx, strings.TrimPrefix(url, "sqlite:"), files, false)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("open database: %w", err)
	}
	return db, nil
}

// Engine says which kind of database this is.
func (db *DB) Engine() Engine { return db.engine }

// Close closes all connections. Transactions that run are rolled back.
func (db *DB) Close() error {
	var err error
	// The writer goes last: the last connection brings SQLite's log into the one
	// file, which one that only reads cannot.
	for _, pool := range []*sql.DB{db.watch, db.read, db.write} {
		if pool != nil {
			err = errors.Join(err, pool.Close())
		}
	}
	return err
}

// Ping asks the database for a sign of life on the way that writes take.
func (db *DB) Ping(ctx context.Context) error {
	if err := db.write.PingContext(ctx); err != nil {
		return fmt.Errorf("database: %w", err)
	}
	return nil
}

// Tx is a transaction. It lives inside one call of Write or Read, under that call's context.
type Tx struct {
	ctx    context.Context
	tx     *sql.Tx
	engine Engine
}

// Exec runs a statement and returns how many rows it changed.
func (t Tx) Exec(query string, args ...any) (int64, error) {
	result, err := t.tx.ExecContext(t.ctx, query, args...)
	if err != nil {
		return 0, err
	}
	return result.RowsAffected()
}

// Query runs a query of any number of rows. The caller closes the rows before
// the next statement of the transaction.
func (t Tx) Query(query string, args ...any) (*sql.Rows, error) {
	return t.tx.QueryContext(t.ctx, query, args...)
}

// QueryRow runs a query of at most one row.
func (t Tx) QueryRow(query string, args ...any) *sql.Row {
	return t.tx.QueryRowContext(t.ctx, query, args...)
}

// Each calls scan for each row of a query.
func (t Tx) Each(scan func(row Scanner) error, query string, args ...any) error {
	rows, err := t.Query(query, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := scan(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}

// Scanner is one row: *sql.Row or *sql.Rows.
type Scanner interface {
	Scan(dest ...any) error
}

// Limits of one transaction, the wait for a connection included. A database
// that no longer answers must not hold those up who wait for it.
const (
	writeTime = 10 * time.Second
	readTime  = 30 * time.Second
	watchTime = 3 * time.Second
)

// retries is how often a transaction that lost a race against another node is
// tried again. Each try waits longer, in all about two seconds.
const retries = 10

// Write runs fn in one transaction that others see as a whole or not at all
// (serializable), and commits when fn returns nil. When the database reports
// that another transaction came in between, fn runs again from the start: it
// must set what it returns anew each time and do nothing outside the database.
func (db *DB) Write(ctx context.Context, fn func(Tx) error) error {
	options := &sql.TxOptions{Isolation: sql.LevelSerializable}
	if db.engine == SQLite {
		options = nil // SQLite is serializable, and its driver knows only the default
	}
	for try := 0; ; try++ {
		err := run(ctx, db.engine, db.write, writeTime, options, fn)
		if err == nil || try == retries || !db.raced(err) {
			return err
		}
		if err := pause(ctx, time.Millisecond<<try); err != nil {
			return err
		}
	}
}

// Read runs fn on one consistent state of the database. fn cannot write.
func (db *DB) Read(ctx context.Context, fn func(Tx) error) error {
	return db.readBy(ctx, db.read, readTime, fn)
}

// Watch is Read for short questions that must be answered however busy other
// readers are: whether somebody may begin or go on. What takes long, or what
// people can ask for in numbers, has no place here.
func (db *DB) Watch(ctx context.Context, fn func(Tx) error) error {
	return db.readBy(ctx, db.watch, watchTime, fn)
}

func (db *DB) readBy(ctx context.Context, pool *sql.DB, limit time.Duration, fn func(Tx) error) error {
	options := &sql.TxOptions{Isolation: sql.LevelRepeatableRead, ReadOnly: true}
	if db.engine == SQLite {
		options = nil // the connections of the pools that read are query_only
	}
	return run(ctx, db.engine, pool, limit, options, fn)
}

func run(ctx context.Context, engine Engine, pool *sql.DB, limit time.Duration, options *sql.TxOptions, fn func(Tx) error) (err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("database: no answer within %s", limit))
	defer cancel()
	defer func() {
		// The engines say only that the context ended.
		if err != nil && ctx.Err() != nil && !errors.Is(err, context.Cause(ctx)) {
			err = fmt.Errorf("%w: %w", context.Cause(ctx), err)
		}
	}()
	tx, err := pool.BeginTx(ctx, options)
	if err != nil {
		return fmt.Errorf("database: begin: %w", err)
	}
	defer tx.Rollback() // has no effect after Commit
	if err := fn(Tx{ctx: ctx, tx: tx, engine: engine}); err != nil {
		return err
	}
	if err := tx.Commit(); err != nil {
		return fmt.Errorf("database: commit: %w", err)
	}
	return nil
}

func (db *DB) raced(err error) bool {
	if db.engine == SQLite {
		return sqliteBusy(err)
	}
	return postgresRaced(err)
}

func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
