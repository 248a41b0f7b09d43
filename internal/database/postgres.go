package database

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"
)

// How many connections one node holds at most, by what they are for.
const (
	postgresWriters  = 8
	postgresReaders  = 6
	postgresWatchers = 4
)

func openPostgres(ctx context.Context, url string) (*DB, error) {
	config, err := pgx.ParseConfig(url)
	if err != nil {
		// The parser's error repeats the address with its password masked.
		return nil, err
	}
	if config.ConnectTimeout == 0 {
		config.ConnectTimeout = 10 * time.Second
	}
	pool := func(most int) *sql.DB {
		pool := stdlib.OpenDB(*config)
		pool.SetMaxOpenConns(most)
		pool.SetMaxIdleConns(most / 2)
		return pool
	}
	db := &DB{engine: PostgreSQL, write: pool(postgresWriters), read: pool(postgresReaders), watch: pool(postgresWatchers)}
	if err := preparePostgres(ctx, db.write); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return db, nil
}

func preparePostgres(ctx context.Context, pool *sql.DB) error {
	// Two nodes that start at once must not both make the tables.
	locker, err := lock.NewPostgresSessionLocker()
	if err != nil {
		return fmt.Errorf("migrations: %w", err)
	}
	files, err := nodeSchema(PostgreSQL)
	if err != nil {
		return err
	}
	return migrate(ctx, goose.DialectPostgres, pool, files, goose.WithSessionLocker(locker))
}

// SQLSTATE codes after which a transaction is run again.
const (
	serializationFailure = "40001"
	deadlockDetected     = "40P01"
)

func postgresRaced(err error) bool {
	var e *pgconn.PgError
	return errors.As(err, &e) && (e.Code == serializationFailure || e.Code == deadlockDetected)
}
