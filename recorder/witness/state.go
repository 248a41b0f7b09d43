package witness

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"sallyport/recorder/tlog"

	"golang.org/x/mod/sumdb/note"
)

func statePath(dir, origin string) string {
	name := sha256.Sum256([]byte(origin))
	return filepath.Join(dir, hex.EncodeToString(name[:16])+".checkpoint")
}

// loadState reads the checkpoint that was cosigned last; the zero checkpoint when there is none.
func loadState(path string, config LogConfig, own note.Verifier) (tlog.Checkpoint, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return tlog.Checkpoint{Origin: config.Origin}, nil
	}
	if err != nil {
		return tlog.Checkpoint{}, err
	}
	defer f.Close() // only read
	signed, err := io.ReadAll(io.LimitReader(f, MaxRequest+1))
	if err != nil {
		return tlog.Checkpoint{}, err
	}
	c, _, err := tlog.OpenCheckpoint(signed, config.Origin, config.Verifiers...)
	if err != nil {
		return tlog.Checkpoint{}, err
	}
	if _, _, err := tlog.OpenCheckpoint(signed, config.Origin, own); err != nil {
		return tlog.Checkpoint{}, fmt.Errorf("the state was not written by this witness: %w", err)
	}
	return c, nil
}

// persist replaces a file so that it is on the disk, name and all, when it returns.
func persist(path string, data []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(path+".tmp", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	if _, err := f.Write(data); err != nil {
		return errors.Join(err, f.Close())
	}
	if err := f.Sync(); err != nil {
		return errors.Join(err, f.Close())
	}
	if err := f.Close(); err != nil {
		return err
	}
	if err := os.Rename(path+".tmp", path); err != nil {
		return err
	}
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
