package tlog

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// ErrRewritten is wrapped when a log is not an extension of what somebody saw before.
var ErrRewritten = errors.New("the log was rewritten, cut, or shown differently to somebody else")

// Remembered keeps the last checkpoint that a person saw of each log, a file
// for each, and takes a new one only with a proof that the log grew from it.
// It makes every auditor's machine a witness.
type Remembered struct {
	fs  fileSystem
	dir string
}

// NewRemembered keeps its files in dir, which is made when it is first needed.
func NewRemembered(dir string) *Remembered { return &Remembered{fs: disk{}, dir: dir} }

func (r *Remembered) path(origin string) string {
	name := sha256.Sum256([]byte(origin))
	return filepath.Join(r.dir, hex.EncodeToString(name[:16])+".checkpoint")
}

// replaced ends the name of the file of a log that another one of the same key took the place of.
const replaced = ".replaced"

// Last is the signed checkpoint that is remembered for a log, verified again;
// nil when there is none. A log that was replaced is still remembered.
func (r *Remembered) Last(origin string, verifier note.Verifier) (signed []byte, c Checkpoint, err error) {
	signed, err = readFile(r.fs, r.path(origin), maxCheckpoint)
	if errors.Is(err, fs.ErrNotExist) {
		signed, err = readFile(r.fs, r.path(origin)+replaced, maxCheckpoint)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil, Checkpoint{}, nil
	}
	if err == nil {
		c, _, err = OpenCheckpoint(signed, origin, verifier)
	}
	if err != nil {
		return nil, Checkpoint{}, fmt.Errorf("the remembered checkpoint of %s: %w", origin, err)
	}
	return signed, c, nil
}

// Origins are the logs of which something is remembered, as their files claim.
func (r *Remembered) Origins() ([]string, error) {
	names, err := r.fs.List(r.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("remembered checkpoints: %w", err)
	}
	var origins []string
	for _, name := range names {
		if filepath.Ext(name) != ".checkpoint" {
			continue
		}
		signed, err := readFile(r.fs, filepath.Join(r.dir, name), maxCheckpoint)
		if err != nil {
			return nil, fmt.Errorf("remembered checkpoints: %w", err)
		}
		origin, _, _ := strings.Cut(string(signed), "\n")
		origins = append(origins, origin)
	}
	return origins, nil
}

// Others are the logs under the same key that are remembered when this one is
// not. A key signs one log: whoever holds it could else escape what is
// remembered by giving the log that they wrote anew another name.
func (r *Remembered) Others(origin string, key ed25519.PublicKey) (others []string, err error) {
	origins, err := r.Origins()
	if err != nil || slices.Contains(origins, origin) {
		return nil, err
	}
	for _, other := range origins {
		verifier, err := NewVerifier(other, key)
		if err != nil {
			continue // not a name that a log can have
		}
		if last, _, err := r.Last(other, verifier); err == nil && last != nil { // an error: another key's
			others = append(others, other)
		}
	}
	return others, nil
}

// Refuse keeps a checkpoint beside what is remembered, as evidence, because
// other logs are remembered under its key. The error wraps ErrRewritten.
func (r *Remembered) Refuse(signed []byte, origin string, others []string) error {
	return r.conflict(origin, signed, fmt.Errorf("under the same key %q was seen before, and a key signs one ledger only", others))
}

// Replace makes these logs count as ended, because a person said that another one
// under their key took their place. Should one come back, it must continue what was seen of it.
func (r *Remembered) Replace(others []string) error {
	for _, other := range others {
		if err := r.fs.Rename(r.path(other), r.path(other)+replaced); err != nil {
			return fmt.Errorf("remembered checkpoint of %s: %w", other, err)
		}
	}
	return nil
}

// Update checks a checkpoint that was just seen against the remembered one and
// keeps the larger. prove gives the proof of consistency from the older size
// to the newer; it is asked only when the sizes differ.
//
// ErrRewritten is wrapped when they do not belong to one log; then both
// checkpoints, each signed by the log's own key, are the evidence: the old
// one stays, the new one is kept beside it with the suffix .conflict.
func (r *Remembered) Update(signed []byte, origin string, verifier note.Verifier, prove func(older, newer int64) (tlog.TreeProof, error)) error {
	seen, _, err := OpenCheckpoint(signed, origin, verifier)
	if err != nil {
		return err
	}
	last, remembered, err := r.Last(origin, verifier)
	if err != nil {
		return err
	}
	if last == nil {
		return r.keep(r.path(origin), signed)
	}
	if seen.Size < remembered.Size {
		return r.conflict(origin, signed, fmt.Errorf("it had %d entries and now shows %d", remembered.Size, seen.Size))
	}
	var proof tlog.TreeProof
	if remembered.Size > 0 && seen.Size > remembered.Size {
		if proof, err = prove(remembered.Size, seen.Size); err != nil {
			return fmt.Errorf("%s: no proof that the log of %d entries grew from the remembered %d: %w", origin, seen.Size, remembered.Size, err)
		}
	}
	if err := CheckConsistency(proof, remembered, seen); err != nil {
		return r.conflict(origin, signed, err)
	}
	if seen.Size == remembered.Size && !r.wasReplaced(origin) {
		return nil
	}
	return r.keep(r.path(origin), signed)
}

// wasReplaced reports whether all that is remembered of a log is from before another took its place.
func (r *Remembered) wasReplaced(origin string) bool {
	_, err := readFile(r.fs, r.path(origin), maxCheckpoint)
	return errors.Is(err, fs.ErrNotExist)
}

func (r *Remembered) conflict(origin string, signed []byte, cause error) error {
	err := fmt.Errorf("%s: %w: %w", origin, ErrRewritten, cause)
	if keepErr := r.keep(r.path(origin)+".conflict", signed); keepErr != nil {
		return errors.Join(err, keepErr)
	}
	return err
}

func (r *Remembered) keep(path string, signed []byte) error {
	if err := r.fs.MkdirAll(r.dir); err != nil {
		return fmt.Errorf("remember the checkpoint: %w", err)
	}
	if err := replaceFile(r.fs, path, signed, true); err != nil {
		return fmt.Errorf("remember the checkpoint: %w", err)
	}
	return nil
}
