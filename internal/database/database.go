package database

import "database/sql"

// DB is an open database, SQLite or PostgreSQL.
type DB struct{ write, read *sql.DB }
