package tlog

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// maxSize bounds the size a checkpoint may claim, so that no arithmetic on it can overflow.
const maxSize = int64(1)<<maxLevels - 1

// Verifier checks signatures by the key of a log.
type Verifier = note.Verifier

// Checkpoint is what a signed checkpoint says (C2SP tlog-checkpoint).
type Checkpoint struct {
	Origin    string
	Size      int64 // entries
	Root      Hash
	Extension string // further lines, each ending in a newline; Sallyport writes none
}

// Text is the note text that is signed.
func (c Checkpoint) Text() string {
	return fmt.Sprintf("%s\n%d\n%s\n%s", c.Origin, c.Size, base64.StdEncoding.EncodeToString(c.Root[:]), c.Extension)
}

// ParseCheckpoint reads a checkpoint's text. It says nothing about who signed it.
func ParseCheckpoint(text string) (Checkpoint, error) {
	origin, rest, _ := strings.Cut(text, "\n")
	sizeText, rest, _ := strings.Cut(rest, "\n")
	rootText, extension, ended := strings.Cut(rest, "\n")
	if !ended || origin == "" {
		return Checkpoint{}, errors.New("the checkpoint has fewer than three lines")
	}
	size, err := parseDecimal(sizeText)
	if err != nil {
		return Checkpoint{}, fmt.Errorf("the checkpoint's size: %w", err)
	}
	c := Checkpoint{Origin: origin, Size: size, Extension: extension}
	if c.Root, err = parseHash(rootText); err != nil {
		return Checkpoint{}, fmt.Errorf("the checkpoint's root: %w", err)
	}
	if extension != "" && (!strings.HasSuffix(extension, "\n") || strings.HasPrefix(extension, "\n") || strings.Contains(extension, "\n\n")) {
		return Checkpoint{}, errors.New("the checkpoint has an empty extension line")
	}
	if size == 0 && c.Root != emptyRoot() {
		return Checkpoint{}, errors.New("the checkpoint of an empty log has a root that is not the empty tree's")
	}
	return c, nil
}

// OpenCheckpoint verifies a signed checkpoint: the origin is the one asked for
// and at least one of the verifiers signed it. Signatures by others are left alone.
func OpenCheckpoint(signed []byte, origin string, verifiers ...note.Verifier) (Checkpoint, *note.Note, error) {
	n, err := note.Open(signed, note.VerifierList(verifiers...))
	if err != nil {
		return Checkpoint{}, nil, fmt.Errorf("the checkpoint is not signed by the key of %s: %w", origin, err)
	}
	c, err := ParseCheckpoint(n.Text)
	if err != nil {
		return Checkpoint{}, nil, err
	}
	if c.Origin != origin {
		return Checkpoint{}, nil, fmt.Errorf("the checkpoint is of %q, not of %q", c.Origin, origin)
	}
	return c, n, nil
}

func parseDecimal(s string) (int64, error) {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 0 || n > maxSize || strconv.FormatInt(n, 10) != s {
		return 0, fmt.Errorf("%q is not a number from 0 to %d", shorten(s), maxSize)
	}
	return n, nil
}

func parseHash(s string) (Hash, error) {
	var h Hash
	b, err := base64.StdEncoding.Strict().DecodeString(s)
	if err != nil || len(b) != tlog.HashSize || strings.ContainsAny(s, "\r\n") {
		return h, fmt.Errorf("%q is not a SHA-256 hash in base64", shorten(s))
	}
	copy(h[:], b)
	return h, nil
}

func shorten(s string) string {
	if len(s) > 64 {
		return s[:64] + "..."
	}
	return s
}

// signer signs notes with an Ed25519 key, which may rest elsewhere.
type signer struct {
	name string
	hash uint32
	key  crypto.Signer
}

func (s *signer) Name() string    { return s.name }
func (s *signer) KeyHash() uint32 { return s.hash }

func (s *signer) Sign(msg []byte) ([]byte, error) {
	return s.key.Sign(rand.Reader, msg, crypto.Hash(0)) // Ed25519 uses no randomness
}

// NewSigner makes the note signer of a log from a node's Ed25519 key. The key
// name is the origin, such as "sallyport/node-1": no spaces and no plus sign.
func NewSigner(origin string, key crypto.Signer) (note.Signer, error) {
	public, ok := key.Public().(ed25519.PublicKey)
	if !ok {
		return nil, errors.New("tlog: the signing key is not an Ed25519 key")
	}
	v, err := NewVerifier(origin, public)
	if err != nil {
		return nil, err
	}
	return &signer{name: origin, hash: v.KeyHash(), key: key}, nil
}

// NewVerifier makes the note verifier of a log from a node's public key.
func NewVerifier(origin string, key ed25519.PublicKey) (note.Verifier, error) {
	text, err := note.NewEd25519VerifierKey(origin, key)
	if err != nil {
		return nil, fmt.Errorf("tlog: %w", err)
	}
	v, err := note.NewVerifier(text)
	if err != nil {
		return nil, fmt.Errorf("tlog: origin %q cannot name a key: %w", origin, err)
	}
	return v, nil
}

// signatureBytes takes the raw signature out of a note's signature line.
func signatureBytes(s note.Signature) ([]byte, error) {
	b, err := base64.StdEncoding.DecodeString(s.Base64)
	if err != nil || len(b) < 5 || binary.BigEndian.Uint32(b) != s.Hash {
		return nil, errors.New("malformed signature")
	}
	return b[4:], nil
}

func newVerifierOf(origin string, key crypto.Signer) (note.Verifier, error) {
	public, ok := key.Public().(ed25519.PublicKey)
	if !ok {
		return nil, errors.New("tlog: the signing key is not an Ed25519 key")
	}
	return NewVerifier(origin, public)
}

// checkpointOf reads a signed checkpoint without verifying anything.
func checkpointOf(signed []byte) (Checkpoint, error) {
	text, _, ok := strings.Cut(string(signed), "\n\n")
	if !ok {
		return Checkpoint{}, errors.New("the checkpoint has no signatures")
	}
	return ParseCheckpoint(text + "\n")
}
