package demo

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// DefaultDir is the demo's folder when none is named, below the working directory.
const DefaultDir = "demo-state"

// marker is the file that makes a folder a demo's: only such a folder is
// wiped. A running demo holds a lock on it.
const marker = ".sallyport-demo"

// state is the folder of one demo, locked for as long as it runs.
type state struct {
	dir  string // absolute
	lock *os.File
}

// openState makes an empty folder, or empties one that an earlier demo left.
// It refuses a folder of anything else, and one in which a demo runs.
func openState(dir string) (*state, error) {
	if dir == "" {
		dir = DefaultDir
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("find the demo's folder: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the demo's folder: %w", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("look into the demo's folder: %w", err)
	}
	path := filepath.Join(dir, marker)
	if _, err := os.Lstat(path); errors.Is(err, os.ErrNotExist) && len(entries) > 0 {
		return nil, fmt.Errorf("%s holds something else than a demo; name another folder with --dir", dir)
	}
	lock, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the demo's folder: %w", err)
	}
	s := &state{dir: dir, lock: lock}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		s.close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("a demo runs in %s; stop it, or name another folder with --dir", dir)
		}
		return nil, fmt.Errorf("lock the demo's folder: %w", err)
	}
	if err := s.wipe(); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

// wipe removes everything but the marker.
func (s *state) wipe() error {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return fmt.Errorf("look into the demo's folder: %w", err)
	}
	for _, e := range entries {
		if e.Name() == marker {
			continue
		}
		if err := os.RemoveAll(filepath.Join(s.dir, e.Name())); err != nil {
			return fmt.Errorf("empty the demo's folder: %w", err)
		}
	}
	return os.Chmod(s.dir, 0o700)
}

// path is a path inside the folder.
func (s *state) path(parts ...string) string {
	return filepath.Join(append([]string{s.dir}, parts...)...)
}

// mkdir makes a folder inside and returns its path.
func (s *state) mkdir(parts ...string) (string, error) {
	path := s.path(parts...)
	if err := os.MkdirAll(path, 0o700); err != nil {
		return "", fmt.Errorf("make a folder: %w", err)
	}
	return path, nil
}

// close gives the folder free; what it holds stays to be looked at.
func (s *state) close() { s.lock.Close() }
