package testkit

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// copyPatience is how long CopyState waits for a folder to hold still.
const copyPatience = 20 * time.Second

// CopyState copies a folder to a new place as it is, as a crash would leave it. Files
// may be renamed and written meanwhile. Copying takes a while and a crash does not, so
// it is done again when something was changed; a folder that never holds still is
// taken as it comes.
func CopyState(t testing.TB, to, from string) {
	t.Helper()
	for deadline := time.Now().Add(copyPatience); ; {
		before, err := stateOf(from)
		if err == nil {
			err = copyOnce(to, from)
		}
		if err != nil {
			t.Fatal(err)
		}
		if after, err := stateOf(from); err != nil {
			t.Fatal(err)
		} else if after == before || time.Now().After(deadline) {
			return
		}
		if err := os.RemoveAll(to); err != nil {
			t.Fatal(err)
		}
	}
}

// gone reports whether a file was renamed or removed since it was listed.
func gone(err error) bool { return errors.Is(err, fs.ErrNotExist) }

// stateOf names every file with its size and time of change.
func stateOf(dir string) (string, error) {
	var b strings.Builder
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			if gone(err) {
				return nil
			}
			return err
		}
		if info, err := d.Info(); err == nil {
			fmt.Fprintln(&b, path, info.Size(), info.ModTime().UnixNano())
		}
		return nil
	})
	return b.String(), err
}

func copyOnce(to, from string) error {
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			if gone(err) {
				return nil
			}
			return err
		}
		name, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		target := filepath.Join(to, name)
		switch {
		case d.IsDir():
			return os.MkdirAll(target, 0o700)
		case !d.Type().IsRegular():
			return nil // a socket
		}
		info, err := d.Info()
		if gone(err) {
			return nil
		}
		if err != nil {
			return err
		}
		data, err := os.ReadFile(path)
		if gone(err) {
			return nil
		}
		if err != nil {
			return err
		}
		return os.WriteFile(target, data, info.Mode().Perm())
	})
}
