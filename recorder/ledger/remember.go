package ledger

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/mod/sumdb/note"
	sumtlog "golang.org/x/mod/sumdb/tlog"

	"sallyport/recorder/tlog"
)

// HomeVariable names the environment variable that says where the commands of
// auditors keep what they remember; else it is the user's folder of configurations.
const HomeVariable = "SALLYPORT_HOME"

// TreeProof is a proof of consistency between two sizes of a ledger (RFC 6962, 2.1.2).
type TreeProof = sumtlog.TreeProof

// Remembered is where this person's commands keep the last checkpoint that they saw
// of each ledger: checkpoints in $SALLYPORT_HOME, or in sallyport in the user's folder of
// configurations. It makes each auditor's machine a witness.
func Remembered(getenv func(string) string) (*tlog.Remembered, error) {
	home := getenv(HomeVariable)
	if home == "" {
		config, err := os.UserConfigDir()
		if err != nil {
			return nil, fmt.Errorf("find the folder for remembered checkpoints (set %s): %w", HomeVariable, err)
		}
		home = filepath.Join(config, "sallyport")
	}
	return tlog.NewRemembered(filepath.Join(home, "checkpoints")), nil
}

// LastSeen is the largest checkpoint that is remembered of any ledger under a
// node's key; the zero Checkpoint when there is none.
func LastSeen(r *tlog.Remembered, key ed25519.PublicKey) (last tlog.Checkpoint, err error) {
	origins, err := r.Origins()
	if err != nil {
		return last, err
	}
	for _, origin := range origins {
		verifier, err := tlog.NewVerifier(origin, key)
		if err != nil {
			continue // not a name that a log can have
		}
		if _, c, err := r.Last(origin, verifier); err == nil && c.Size > last.Size { // an error: another node's
			last = c
		}
	}
	return last, nil
}

// Remember verifies a node's checkpoint by the node's key, holds it against the one that
// is remembered of this ledger, and keeps the larger (tlog.Remembered.Update). A checkpoint of
// another node under the same key is refused as one that was rewritten; with newNode it is taken,
// and takes the place of what was remembered under that key.
func Remember(r *tlog.Remembered, signed []byte, key ed25519.PublicKey, newNode bool, prove func(older, newer int64) (TreeProof, error)) error {
	node, err := NodeIn(signed)
	if err != nil {
		return err
	}
	verifier, err := VerifierOf(node, key)
	if err != nil {
		return err
	}
	if _, _, err := tlog.OpenCheckpoint(signed, verifier.Name(), verifier); err != nil {
		return err
	}
	others, err := r.Others(verifier.Name(), key)
	if err != nil {
		return err
	}
	if len(others) > 0 && !newNode {
		return r.Refuse(signed, verifier.Name(), others)
	}
	if err := r.Update(signed, verifier.Name(), verifier, prove); err != nil {
		return err
	}
	return r.Replace(others)
}

// PublicKey is the public key of a node's ledger as witnesses and policies write it (a vkey).
func PublicKey(node string, key ed25519.PublicKey) (string, error) {
	text, err := note.NewEd25519VerifierKey(OriginOf(node), key)
	if err != nil {
		return "", fmt.Errorf("ledger key: %w", err)
	}
	return text, nil
}

// NodeIn is the node that a checkpoint claims to be of; nothing of it is verified.
func NodeIn(signed []byte) (node string, err error) {
	origin, _, _ := strings.Cut(string(signed), "\n")
	node, ok := strings.CutPrefix(origin, OriginOf(""))
	if !ok || node == "" || len(node) > maxSession {
		return "", errors.New("this is not the checkpoint of a node's ledger")
	}
	return node, nil
}

// ParseCheckpoint reads a signed checkpoint. It says nothing about who signed it.
func ParseCheckpoint(signed []byte) (tlog.Checkpoint, error) {
	text, _, ok := strings.Cut(string(signed), "\n\n")
	if !ok {
		return tlog.Checkpoint{}, errors.New("the checkpoint has no signatures")
	}
	return tlog.ParseCheckpoint(text + "\n")
}
