package tlog

import (
	"crypto/cipher"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
)

const (
	leafVersion = 1
	saltSize    = 32
	leafSize    = 1 + sha256.Size
)

// Salt makes a leaf say nothing about its body: a consistency proof shows a
// leaf hash to witnesses, and bodies are guessable.
type Salt [saltSize]byte

// Commit makes the leaf of a body: 0x01 || SHA-256("sallyport ledger leaf v1\n" || salt || body).
func Commit(salt Salt, body []byte) []byte {
	h := sha256.New()
	h.Write([]byte("sallyport ledger leaf v1\n"))
	h.Write(salt[:])
	h.Write(body)
	return h.Sum([]byte{leafVersion})
}

// isCommitment tells whether a leaf is one that Commit makes, so that it has a body.
func isCommitment(leaf []byte) bool { return len(leaf) == leafSize && leaf[0] == leafVersion }

// Opens tells whether the leaf commits to this salt and body.
func Opens(leaf []byte, salt Salt, body []byte) bool {
	return subtle.ConstantTimeCompare(leaf, Commit(salt, body)) == 1
}

// Seal makes the entry of a body: a leaf that commits to it and the body with
// its salt, sealed with AES-256-GCM under the key. The leaf is associated
// data, so that a sealed body opens under its own leaf only.
func (r *KeyRing) Seal(id KeyID, body []byte) (Entry, error) {
	if len(body) > MaxBody {
		return Entry{}, fmt.Errorf("a ledger body of %d bytes is larger than %d", len(body), MaxBody)
	}
	aead, err := r.Sealing(id)
	if err != nil {
		return Entry{}, err
	}
	var salt Salt
	sealed := make([]byte, nonceSize, nonceSize+saltSize+len(body)+aead.Overhead())
	if _, err := io.ReadFull(r.random, salt[:]); err != nil {
		return Entry{}, fmt.Errorf("ledger salt: %w", err)
	}
	if _, err := io.ReadFull(r.random, sealed); err != nil {
		return Entry{}, fmt.Errorf("ledger nonce: %w", err)
	}
	leaf := Commit(salt, body)
	plain := append(append(make([]byte, 0, saltSize+len(body)), salt[:]...), body...)
	return Entry{Leaf: leaf, Key: id, Sealed: aead.Seal(sealed, sealed, plain, leaf)}, nil
}

// errNotItsBody is the finding that matters: the key is right and the body is not the one that was logged.
var errNotItsBody = errors.New("the body is not the one that the leaf commits to")

// openBody opens a sealed body and checks it against its leaf.
func openBody(aead cipher.AEAD, leaf, sealed []byte) ([]byte, Salt, error) {
	var salt Salt
	if !isCommitment(leaf) {
		return nil, salt, errors.New("the leaf is not a commitment of version 1")
	}
	if len(sealed) < nonceSize {
		return nil, salt, errNotItsBody
	}
	plain, err := aead.Open(nil, sealed[:nonceSize], sealed[nonceSize:], leaf)
	if err != nil || len(plain) < saltSize {
		return nil, salt, errNotItsBody
	}
	copy(salt[:], plain)
	if !Opens(leaf, salt, plain[saltSize:]) {
		return nil, salt, errNotItsBody
	}
	return plain[saltSize:], salt, nil
}
