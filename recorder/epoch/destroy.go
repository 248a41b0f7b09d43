package epoch

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"
)

// StatementType is what a statement says of itself.
const StatementType = "sallyport-epoch-destroyed/1"

// Statement is what a holder of an epoch's key declares after destroying it:
// that these files were all copies in that person's hands, and are gone.
type Statement struct {
	Type       string    `json:"type"` // StatementType
	Epoch      string    `json:"epoch"`
	Recipients []string  `json:"recipients"` // fingerprints of the two public halves, ordinary and strict
	Files      []Gone    `json:"files"`
	By         string    `json:"by"`
	Reason     string    `json:"reason"`
	At         time.Time `json:"at"`
}

// Gone is a file that was destroyed.
type Gone struct {
	Name   string `json:"name"`
	SHA256 string `json:"sha256"` // hex, of what it held
	Size   int64  `json:"size"`   // bytes
}

// Text is the statement as it is signed and kept.
func (s Statement) Text() ([]byte, error) {
	s.Type, s.At = StatementType, s.At.UTC().Truncate(time.Second)
	text, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("write the statement: %w", err)
	}
	return append(text, '\n'), nil
}

// Look reads what Destroy would say of a file, and changes nothing. It refuses
// what is neither a sealed file nor the key of an epoch in clear.
func Look(path string) (Gone, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return Gone{}, err
	}
	if !info.Mode().IsRegular() {
		return Gone{}, fmt.Errorf("%s is not a plain file; name the file that holds the key itself", path)
	}
	if info.Size() > MaxFile {
		return Gone{}, fmt.Errorf("%s is too large for the key of an epoch", path)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return Gone{}, err
	}
	if _, err := Open(text, nil); err != nil && !Sealed(text) {
		return Gone{}, fmt.Errorf("%s is no key of an epoch, and stays as it is", path)
	}
	hash := sha256.Sum256(text)
	return Gone{Name: filepath.Base(path), SHA256: hex.EncodeToString(hash[:]), Size: int64(len(text))}, nil
}

// Destroy writes random bytes over a file, durably, and removes it. On disks
// that write elsewhere than they are told (flash, snapshots, copies in a
// backup) older bytes can remain: what protects then is the sealing of the
// file, and that the auditors' own identities go too.
func Destroy(path string) (gone Gone, err error) {
	if gone, err = Look(path); err != nil {
		return Gone{}, err
	}
	if err := overwrite(path, gone.Size); err != nil {
		return Gone{}, fmt.Errorf("write over %s: %w", path, err)
	}
	if err := os.Remove(path); err != nil {
		return Gone{}, err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return Gone{}, err
	}
	return gone, errors.Join(dir.Sync(), dir.Close())
}

// LookAll is Look for several files, none of which may be named twice.
func LookAll(paths []string) ([]Gone, error) {
	var all []Gone
	var seen []os.FileInfo
	for i, path := range paths {
		info, err := os.Lstat(path)
		if err != nil {
			return nil, err
		}
		for j, other := range seen {
			if os.SameFile(info, other) {
				return nil, fmt.Errorf("%s and %s are the same file; name each once", paths[j], paths[i])
			}
		}
		gone, err := Look(path)
		if err != nil {
			return nil, err
		}
		all, seen = append(all, gone), append(seen, info)
	}
	return all, nil
}

func overwrite(path string, size int64) (err error) {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if _, err := io.CopyN(f, rand.Reader, size); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := f.Truncate(0); err != nil {
		return err
	}
	return f.Sync()
}
