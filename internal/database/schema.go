package database

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/pressly/goose/v3"
)

// The files directly below migrations are one text for both engines. What an
// engine has no common word for, which is the index of words alone, lies in the
// folder of that engine under the same number.
//
//go:embed migrations/*.sql migrations/sqlite/*.sql migrations/postgres/*.sql
var migrations embed.FS

// schema are the migrations for one engine: those for both and its own, in one folder.
type schema struct {
	files  fs.FS
	engine Engine
}

// Open opens a migration by its name alone.
func (s schema) Open(name string) (fs.File, error) {
	file, err := s.files.Open(string(s.engine) + "/" + name)
	if errors.Is(err, fs.ErrNotExist) {
		return s.files.Open(name)
	}
	return file, err
}

// ReadDir lists the migrations by their names, in order.
func (s schema) ReadDir(name string) ([]fs.DirEntry, error) {
	if name != "." {
		return nil, &fs.PathError{Op: "readdir", Path: name, Err: fs.ErrNotExist}
	}
	entries, err := fs.ReadDir(s.files, ".")
	if err != nil {
		return nil, err
	}
	own, err := fs.ReadDir(s.files, string(s.engine))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	entries = slices.DeleteFunc(append(entries, own...), fs.DirEntry.IsDir)
	slices.SortFunc(entries, func(x, y fs.DirEntry) int { return strings.Compare(x.Name(), y.Name()) })
	return entries, nil
}

// nodeSchema is the schema of a node's database.
func nodeSchema(engine Engine) (fs.FS, error) {
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return nil, fmt.Errorf("migrations: %w", err)
	}
	return schema{files: files, engine: engine}, nil
}

// migrate brings the schema up to date and refuses one that is newer than this program.
func migrate(ctx context.Context, dialect goose.Dialect, pool *sql.DB, files fs.FS, options ...goose.ProviderOption) error {
	provider, err := goose.NewProvider(dialect, pool, files, options...)
	if err != nil {
		return fmt.Errorf("migrations: %w", err)
	}
	if _, err := provider.Up(ctx); err != nil {
		return fmt.Errorf("migrations: %w", err)
	}
	have, want, err := provider.GetVersions(ctx)
	if err != nil {
		return fmt.Errorf("migrations: %w", err)
	}
	if have > want {
		return fmt.Errorf("the schema has version %d and this program knows %d: use the newer program", have, want)
	}
	return nil
}
