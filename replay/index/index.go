// Package index finds words in what was shown in sessions. The node cannot read that, so the
// index is a file on the machine of an auditor, who fills it with the lines of recordings that they
// opened with their key.
//
// The index is as sensitive as the recordings themselves, and is not encrypted: who has the file has what was
// shown. Keep it on an encrypted disk, and take out what must no longer be read: Remove and Purge
// erase lines from the file, though not from copies and backups of it, nor from what a disk keeps beside it. When the key of
// an epoch is destroyed, its lines must be purged here too, or they outlive it.
//
// It refuses a folder or file that others can enter or read, or that belongs to somebody else.
// It knows nothing of recordings and keys; lines come in as text.
package index

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"math"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"sallyport/internal/database"
)

//go:embed migrations/*.sql
var migrations embed.FS

// fileName is the index inside its folder.
const fileName = "lines.db"

// Session says which session lines are of.
type Session struct {
	ID      string    `json:"session"` // S-…
	Node    string    `json:"node"`
	Number  int64     `json:"number"` // dense per node
	Epoch   string    `json:"epoch"`  // which key opens its recording
	User    string    `json:"user"`
	Project string    `json:"project"`
	Server  string    `json:"server"`
	Start   time.Time `json:"start"`
	// Signed reports that its recording was whole and signed by its node; else anybody can have made it up.
	Signed bool `json:"signed"`
	// Where its recording can be had again: a file of this machine, or the gate it was fetched from; both may be empty.
	File string `json:"file,omitempty"`
	Gate string `json:"gate,omitempty"`
}

// Line is one line of a session.
type Line struct {
	Offset time.Duration // since the session's start
	Text   string        // without line break
	Typed  bool          // by the person, rather than shown to them
}

// Index is an open index. It is safe for concurrent use.
type Index struct{ db *database.DB }

// DefaultDir is the folder of the index of the present user: below their cache, so that backups usually leave it out.
func DefaultDir() (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find the folder of the index: %w", err)
	}
	return filepath.Join(cache, "sallyport", "index"), nil
}

// Open opens the index of a folder, which is made if it is missing. The caller closes it.
func Open(ctx context.Context, dir string) (*Index, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("index: %w", err)
	}
	path := filepath.Join(dir, fileName)
	for _, name := range []string{dir, path} {
		if err := private(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("index: %w", err)
		}
	}
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return nil, fmt.Errorf("index: %w", err)
	}
	db, err := database.OpenIndex(ctx, path, files)
	if err != nil {
		return nil, err
	}
	return &Index{db: db}, nil
}

// Close closes the index.
func (x *Index) Close() error { return x.db.Close() }

// private refuses a file or folder that is not the user's own alone.
func private(path string) error {
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	if info.Mode()&fs.ModeSymlink != 0 {
		return fmt.Errorf("%s is a symbolic link; name the place itself", path)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return fmt.Errorf("%s can be entered or read by others (mode %04o), and would show them recordings; take that away with chmod go-rwx", path, info.Mode().Perm())
	}
	if stat, ok := info.Sys().(*syscall.Stat_t); ok && int(stat.Uid) != os.Geteuid() {
		return fmt.Errorf("%s belongs to another user", path)
	}
	return nil
}

// batch is how many lines are one transaction: few enough for its time limit.
const batch = 2000

// placeBits are the bits of an id below its time in milliseconds.
const placeBits = 21

// lastMoment is the last millisecond that an id can tell, in the year 2109. Lines of a later one stand with those of it.
const lastMoment = math.MaxInt64>>placeBits - 1

func firstPlace(t time.Time) int64 { return min(max(t.UnixMilli(), 0), lastMoment) << placeBits }

// ErrKept says that a session stays as it is, since what should take its place is vouched for less.
var ErrKept = errors.New("the index has this session from a signed recording, or from another node, and keeps that; take it out with `index rm` first")

// Add puts the lines of a session into the index, in place of those that are there of it, and returns how many there are.
// It fails with ErrKept rather than replace a session of a signed recording by one that is not signed, or by that of another
// node. If it fails otherwise the session is not in the index.
func (x *Index) Add(ctx context.Context, s Session, lines iter.Seq2[Line, error]) (count int64, err error) {
	if s.ID == "" {
		return 0, errors.New("index: a session needs its id")
	}
	if err := x.mayReplace(ctx, s); err != nil {
		return 0, fmt.Errorf("index session %s: %w", s.ID, err)
	}
	if _, err := x.Remove(ctx, s.ID); err != nil {
		return 0, err
	}
	err = x.db.Write(ctx, func(tx database.Tx) error {
		_, err := tx.Exec(`INSERT INTO sessions (id, node, number, epoch, user_name, project, server, started_at, file, gate, signed, complete)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, FALSE)`, s.ID, s.Node, s.Number, s.Epoch, s.User, s.Project, s.Server,
			s.Start.UnixMilli(), s.File, s.Gate, s.Signed)
		return err
	})
	if err == nil {
		count, err = x.addLines(ctx, s, lines)
	}
	if err != nil {
		_, removed := x.Remove(context.WithoutCancel(ctx), s.ID)
		return 0, errors.Join(fmt.Errorf("index session %s: %w", s.ID, err), removed)
	}
	return count, nil
}

// mayReplace reports with ErrKept that a session is there that must not give way to s.
func (x *Index) mayReplace(ctx context.Context, s Session) error {
	return x.db.Read(ctx, func(tx database.Tx) error {
		var node string
		var signed bool
		err := tx.QueryRow("SELECT node, signed FROM sessions WHERE id = $1 AND complete", s.ID).Scan(&node, &signed)
		switch {
		case errors.Is(err, sql.ErrNoRows):
			return nil
		case err == nil && (signed && !s.Signed || node != s.Node && (signed || !s.Signed)):
			return ErrKept
		}
		return err
	})
}

func (x *Index) addLines(ctx context.Context, s Session, lines iter.Seq2[Line, error]) (count int64, err error) {
	waiting := make([]Line, 0, batch)
	for line, err := range lines {
		if err != nil {
			return 0, err
		}
		if len(database.Words(line.Text)) == 0 {
			continue
		}
		if waiting = append(waiting, line); len(waiting) == batch {
			if err := x.write(ctx, s, waiting); err != nil {
				return 0, err
			}
			count += batch
			waiting = waiting[:0]
		}
	}
	if err := x.write(ctx, s, waiting); err != nil {
		return 0, err
	}
	err = x.db.Write(ctx, func(tx database.Tx) error {
		_, err := tx.Exec("UPDATE sessions SET complete = TRUE WHERE id = $1", s.ID)
		return err
	})
	return count + int64(len(waiting)), err
}

func (x *Index) write(ctx context.Context, s Session, lines []Line) error {
	labels := []string{database.Label("session", s.ID), database.Label("user", s.User), database.Label("project", s.Project),
		database.Label("server", s.Server)}
	return x.db.Write(ctx, func(tx database.Tx) error {
		for _, line := range lines {
			id := firstPlace(s.Start.Add(line.Offset))
			// Lines of one millisecond follow one another, whichever session they are of.
			err := tx.QueryRow("SELECT id + 1 FROM lines WHERE id >= $1 AND id < $2 ORDER BY id DESC LIMIT 1",
				id, id+1<<placeBits).Scan(&id)
			if err != nil && !errors.Is(err, sql.ErrNoRows) {
				return err
			}
			if _, err := tx.Exec("INSERT INTO lines (id, session, offset_ns, typed, line) VALUES ($1, $2, $3, $4, $5)",
				id, s.ID, int64(line.Offset), line.Typed, line.Text); err != nil {
				return err
			}
			if err := tx.AddText(id, labels, database.Words(line.Text)); err != nil {
				return err
			}
		}
		return nil
	})
}

// Sessions lists what is in the index, oldest first.
func (x *Index) Sessions(ctx context.Context) (sessions []Session, err error) {
	err = x.db.Read(ctx, func(tx database.Tx) error {
		sessions = []Session{}
		return tx.Each(func(row database.Scanner) error {
			s, err := scanSession(row)
			sessions = append(sessions, s)
			return err
		}, "SELECT "+sessionColumns+" FROM sessions s WHERE complete ORDER BY started_at, id")
	})
	return sessions, err
}

const sessionColumns = "s.id, s.node, s.number, s.epoch, s.user_name, s.project, s.server, s.started_at, s.file, s.gate, s.signed"

func scanSession(row database.Scanner, more ...any) (s Session, err error) {
	var started int64
	err = row.Scan(append([]any{&s.ID, &s.Node, &s.Number, &s.Epoch, &s.User, &s.Project, &s.Server, &started, &s.File, &s.Gate, &s.Signed}, more...)...)
	s.Start = time.UnixMilli(started).UTC()
	return s, err
}

// Remove takes a session out of the index and reports whether it was there. Its text is erased from the file.
func (x *Index) Remove(ctx context.Context, session string) (bool, error) {
	there := false
	for {
		var left int
		err := x.db.Write(ctx, func(tx database.Tx) (err error) {
			left, err = removeSome(tx, session)
			if err != nil || left > 0 {
				return err
			}
			n, err := tx.Exec("DELETE FROM sessions WHERE id = $1", session)
			there = there || n > 0
			return err
		})
		if err != nil {
			return there, fmt.Errorf("remove session %s from the index: %w", session, err)
		}
		if left == 0 {
			break
		}
	}
	if !there {
		return false, nil
	}
	if err := x.erase(ctx); err != nil {
		return true, fmt.Errorf("erase session %s: %w", session, err)
	}
	return true, nil
}

// erase takes what was removed out of the file.
func (x *Index) erase(ctx context.Context) error {
	for begin, done := true, false; !done; begin = false {
		err := x.db.Write(ctx, func(tx database.Tx) (err error) {
			done, err = tx.CompactText(begin)
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// removeSome removes one batch of a session's lines and returns how many it found.
func removeSome(tx database.Tx, session string) (int, error) {
	var ids []int64
	err := tx.Each(func(row database.Scanner) error {
		var id int64
		err := row.Scan(&id)
		ids = append(ids, id)
		return err
	}, "SELECT id FROM lines WHERE session = $1 LIMIT $2", session, batch)
	if err != nil {
		return 0, err
	}
	for _, id := range ids {
		if err := tx.RemoveText(id); err != nil {
			return 0, err
		}
		if _, err := tx.Exec("DELETE FROM lines WHERE id = $1", id); err != nil {
			return 0, err
		}
	}
	return len(ids), nil
}

// Purge removes all sessions of an epoch, whose key was destroyed, and returns them.
func (x *Index) Purge(ctx context.Context, epoch string) (removed []string, err error) {
	err = x.db.Read(ctx, func(tx database.Tx) error {
		removed = nil
		return tx.Each(func(row database.Scanner) error {
			var id string
			err := row.Scan(&id)
			removed = append(removed, id)
			return err
		}, "SELECT id FROM sessions WHERE epoch = $1 ORDER BY started_at, id", epoch)
	})
	if err != nil {
		return nil, fmt.Errorf("purge epoch %s: %w", epoch, err)
	}
	for i, id := range removed {
		if _, err := x.Remove(ctx, id); err != nil {
			return removed[:i], err
		}
	}
	return removed, nil
}
