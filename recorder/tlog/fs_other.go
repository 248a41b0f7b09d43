//go:build !linux

package tlog

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

func dataSync(f *os.File) error { return f.Sync() }

// lockFile does nothing: nodes run on Linux, other systems only read.
func lockFile(*os.File) error { return nil }

func syncTree(dir string) error { return syncEach(dir) }

// syncEach is what there is where the system cannot sync a whole file system.
func syncEach(dir string) error {
	return filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		return errors.Join(f.Sync(), f.Close())
	})
}
