package tlog

import (
	"crypto/aes"
	"crypto/cipher"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

var (
	// ErrDestroyed is wrapped when a body's key was destroyed: the leaf still verifies, the body is gone.
	ErrDestroyed = errors.New("the key was destroyed")
	// ErrNoKey is wrapped when the key of a body is not here.
	ErrNoKey = errors.New("the key is not here")
)

// KeyID names the key that bodies of one project and quarter are sealed under.
type KeyID struct {
	Project string // a-z, 0-9, dot, hyphen and underscore; "_node" by custom for events of no project
	Quarter string // such as "2026q4"
}

// QuarterOf names the quarter of a time, such as "2026q4".
func QuarterOf(t time.Time) string {
	t = t.UTC()
	return fmt.Sprintf("%04dq%d", t.Year(), (int(t.Month())+2)/3)
}

// String is "project@quarter", or empty for the zero KeyID.
func (k KeyID) String() string {
	if k == (KeyID{}) {
		return ""
	}
	return k.Project + "@" + k.Quarter
}

// ParseKeyID reads what String wrote. Both parts become file names, so it is strict.
func ParseKeyID(s string) (KeyID, error) {
	project, quarter, ok := strings.Cut(s, "@")
	k := KeyID{Project: project, Quarter: quarter}
	if !ok || len(s) > maxKeyID || !validName(project) || !validName(quarter) {
		return KeyID{}, fmt.Errorf("%q is not the name of a project and quarter", shorten(s))
	}
	return k, nil
}

// Valid tells whether ParseKeyID takes what String gives.
func (k KeyID) Valid() bool {
	return len(k.Project)+1+len(k.Quarter) <= maxKeyID && validName(k.Project) && validName(k.Quarter)
}

func validName(s string) bool {
	for _, c := range []byte(s) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '.' && c != '-' && c != '_' {
			return false
		}
	}
	return s != "" && s[0] != '.'
}

// Keys opens sealed bodies.
type Keys interface {
	// Reading returns the AEAD of a key. The error wraps ErrDestroyed or
	// ErrNoKey when the body cannot be read although nothing is wrong.
	Reading(id KeyID) (cipher.AEAD, error)
}

const (
	keyMagic  = "SPKEY\x00\x00\x01"
	keySize   = 32
	nonceSize = 12
)

// KeyRing keeps body keys as files, PROJECT/QUARTER.key, each wrapped with
// AES-256-GCM under one key of the node. Safe for concurrent use by one process.
type KeyRing struct {
	fs     fileSystem
	dir    string
	wrap   cipher.AEAD
	random io.Reader
	clock  func() time.Time

	mu   sync.Mutex // guards what follows and the creation of files
	keys map[KeyID]cipher.AEAD
}

// NewKeyRing opens the ring in dir. wrappingKey is 32 bytes.
func NewKeyRing(dir string, wrappingKey []byte, random io.Reader, clock func() time.Time) (*KeyRing, error) {
	return newKeyRing(disk{}, dir, wrappingKey, random, clock)
}

func newKeyRing(fsys fileSystem, dir string, wrappingKey []byte, random io.Reader, clock func() time.Time) (*KeyRing, error) {
	wrap, err := newAEAD(wrappingKey)
	if err != nil {
		return nil, fmt.Errorf("body keys: the wrapping key: %w", err)
	}
	if err := fsys.MkdirAll(dir); err != nil {
		return nil, fmt.Errorf("body keys: %w", err)
	}
	return &KeyRing{fs: fsys, dir: dir, wrap: wrap, random: random, clock: clock, keys: map[KeyID]cipher.AEAD{}}, nil
}

func newAEAD(key []byte) (cipher.AEAD, error) {
	if len(key) != keySize {
		return nil, fmt.Errorf("%d bytes, not %d", len(key), keySize)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

func (r *KeyRing) path(id KeyID, suffix string) string {
	return filepath.Join(r.dir, id.Project, id.Quarter+suffix)
}

// Reading implements Keys.
func (r *KeyRing) Reading(id KeyID) (cipher.AEAD, error) {
	if _, err := ParseKeyID(id.String()); err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.load(id)
}

// Sealing returns the AEAD of a key and makes the key when there is none. A
// destroyed key is not made again: ErrDestroyed.
func (r *KeyRing) Sealing(id KeyID) (cipher.AEAD, error) {
	if _, err := ParseKeyID(id.String()); err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	aead, err := r.load(id)
	if !errors.Is(err, ErrNoKey) {
		return aead, err
	}
	key := make([]byte, keySize)
	defer clear(key)
	sealed := append([]byte(keyMagic), make([]byte, nonceSize)...)
	if _, err := io.ReadFull(r.random, key); err != nil {
		return nil, fmt.Errorf("body key %s: %w", id, err)
	}
	if _, err := io.ReadFull(r.random, sealed[len(keyMagic):]); err != nil {
		return nil, fmt.Errorf("body key %s: %w", id, err)
	}
	sealed = r.wrap.Seal(sealed, sealed[len(keyMagic):], key, []byte(id.String()))
	if err := r.write(id, ".key", sealed); err != nil {
		return nil, fmt.Errorf("body key %s: %w", id, err)
	}
	if aead, err = newAEAD(key); err != nil {
		return nil, err
	}
	r.keys[id] = aead
	return aead, nil
}

// write makes a file of the ring durable, with the names that lead to it:
// a body whose key a crash took away would be lost.
func (r *KeyRing) write(id KeyID, suffix string, data []byte) error {
	path := r.path(id, suffix)
	if err := r.fs.MkdirAll(filepath.Dir(path)); err != nil {
		return err
	}
	if err := replaceFile(r.fs, path, data, true); err != nil {
		return err
	}
	return r.fs.SyncDir(r.dir)
}

func (r *KeyRing) load(id KeyID) (cipher.AEAD, error) {
	if aead := r.keys[id]; aead != nil {
		return aead, nil
	}
	if when, err := readFile(r.fs, r.path(id, ".destroyed"), 4096); err == nil {
		return nil, fmt.Errorf("body key %s: %w on %s", id, ErrDestroyed, strings.TrimSpace(string(when)))
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("body key %s: %w", id, err)
	}
	sealed, err := readFile(r.fs, r.path(id, ".key"), 4096)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("body key %s: %w", id, ErrNoKey)
	}
	if err != nil {
		return nil, fmt.Errorf("body key %s: %w", id, err)
	}
	if len(sealed) < len(keyMagic)+nonceSize || string(sealed[:len(keyMagic)]) != keyMagic {
		return nil, fmt.Errorf("body key %s: the file is not a key", id)
	}
	sealed = sealed[len(keyMagic):]
	key, err := r.wrap.Open(nil, sealed[:nonceSize], sealed[nonceSize:], []byte(id.String()))
	if err != nil {
		return nil, fmt.Errorf("body key %s: the file was changed, or wrapped under another key: %w", id, err)
	}
	defer clear(key)
	aead, err := newAEAD(key)
	if err != nil {
		return nil, fmt.Errorf("body key %s: %w", id, err)
	}
	r.keys[id] = aead
	return aead, nil
}

// Destroy makes every body under the key unreadable, in all copies, for good.
// The tombstone is durable first, so that a crash in the middle cannot leave a
// key that looks alive; calling it again finishes. Backups of the ring hold
// wrapped keys: they are outside its reach.
func (r *KeyRing) Destroy(id KeyID) error {
	if _, err := ParseKeyID(id.String()); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.keys, id)
	if _, err := readFile(r.fs, r.path(id, ".destroyed"), 4096); errors.Is(err, fs.ErrNotExist) {
		when := r.clock().UTC().Format(time.RFC3339) + "\n"
		if err := r.write(id, ".destroyed", []byte(when)); err != nil {
			return fmt.Errorf("destroy body key %s: %w", id, err)
		}
	} else if err != nil {
		return fmt.Errorf("destroy body key %s: %w", id, err)
	}
	if err := r.erase(r.path(id, ".key")); err != nil {
		return fmt.Errorf("destroy body key %s: %w", id, err)
	}
	return nil
}

// erase overwrites before it unlinks. On a disk that writes elsewhere the old
// sectors stay until reused; they are wrapped.
func (r *KeyRing) erase(path string) error {
	f, err := r.fs.Open(path, readWrite)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	size, err := f.Size()
	if err != nil {
		return errors.Join(err, f.Close())
	}
	if err := errors.Join(writeAt(f, make([]byte, size), 0), f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := r.fs.Remove(path); err != nil {
		return err
	}
	return r.fs.SyncDir(filepath.Dir(path))
}
