package witness

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"time"

	formats "github.com/transparency-dev/formats/note"
	"golang.org/x/mod/sumdb/note"
)

const (
	algorithmCosignature = 4 // Ed25519 cosignature/v1 (C2SP tlog-cosignature)
	timestampSize        = 8
)

// Signer makes Ed25519 cosignatures, version 1. It is a note.Signer.
type Signer struct {
	name  string
	hash  uint32
	key   crypto.Signer
	clock func() time.Time
}

// NewSigner makes the signer of a witness. The name is a URL without schema, such as
// "witness.example/w1": no spaces and no plus sign.
func NewSigner(name string, key crypto.Signer, clock func() time.Time) (*Signer, error) {
	public, ok := key.Public().(ed25519.PublicKey)
	if !ok {
		return nil, errors.New("witness: the key is not an Ed25519 key")
	}
	v, err := NewVerifier(VerifierKey(name, public))
	if err != nil {
		return nil, err
	}
	return &Signer{name: name, hash: v.KeyHash(), key: key, clock: clock}, nil
}

// Name implements note.Signer.
func (s *Signer) Name() string { return s.name }

// KeyHash implements note.Signer.
func (s *Signer) KeyHash() uint32 { return s.hash }

// Sign implements note.Signer: the time in seconds and the signature over it and the message.
func (s *Signer) Sign(msg []byte) ([]byte, error) {
	now := s.clock().Unix()
	signed := fmt.Appendf(nil, "cosignature/v1\ntime %d\n%s", now, msg)
	signature, err := s.key.Sign(rand.Reader, signed, crypto.Hash(0)) // Ed25519 uses no randomness
	if err != nil {
		return nil, err
	}
	return append(binary.BigEndian.AppendUint64(nil, uint64(now)), signature...), nil
}

// Verifier is the witness's own verifier.
func (s *Signer) Verifier() (note.Verifier, error) {
	return NewVerifier(VerifierKey(s.name, s.key.Public().(ed25519.PublicKey)))
}

// VerifierKey writes a witness's public key as a vkey (C2SP signed-note, "Verifier keys").
func VerifierKey(name string, key ed25519.PublicKey) string {
	data := append([]byte{algorithmCosignature}, key...)
	sum := sha256.Sum256(append([]byte(name+"\n"), data...))
	return fmt.Sprintf("%s+%08x+%s", name, binary.BigEndian.Uint32(sum[:]), base64.StdEncoding.EncodeToString(data))
}

// NewVerifier reads a witness's vkey: Ed25519 cosignature/v1 or ML-DSA-44. A key
// hash that does not fit the key is an error.
func NewVerifier(vkey string) (note.Verifier, error) {
	v, err := formats.NewVerifierForCosignatureV1(vkey)
	if err != nil {
		return nil, fmt.Errorf("witness key: %w", err)
	}
	name, rest, _ := strings.Cut(vkey, "+")
	hash, _, _ := strings.Cut(rest, "+")
	if v.Name() != name || fmt.Sprintf("%08x", v.KeyHash()) != hash {
		return nil, fmt.Errorf("witness key: the key hash of %s does not fit a cosignature key", name)
	}
	return v, nil
}

// CosignedAt is the time in a cosignature, as the witness claims it.
func CosignedAt(s note.Signature) (time.Time, error) {
	t, err := formats.CoSigV1Timestamp(s)
	return t.UTC(), err
}

// decodeKey is the key inside a vkey, without its type: the same key under
// another name or type is the same key.
func decodeKey(encoded string) (string, error) {
	raw, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil || len(raw) < 2 {
		return "", errors.New("malformed key")
	}
	return string(raw[1:]), nil
}
