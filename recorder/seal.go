package recorder

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"filippo.io/age"
)

// Sealing: a random key for each session and class, wrapped by age to the
// epoch's recipient. The node forgets the keys when the session ends.

const (
	sessionKeySize = 32
	infoBlocks     = "sallyport recording v1 blocks"
	infoCommitment = "sallyport recording v1 commitment"
)

// sealKey makes a fresh session key: the cipher for blocks, the commitment for
// the header, and the envelope for the auditors.
func sealKey(recipient string) (cipher.AEAD, string, []byte, error) {
	recipients, err := age.ParseRecipients(strings.NewReader(recipient))
	if err != nil {
		return nil, "", nil, fmt.Errorf("epoch recipient: %w", err)
	}
	key := make([]byte, sessionKeySize)
	defer clear(key)
	if _, err := rand.Read(key); err != nil {
		return nil, "", nil, err
	}
	var envelope bytes.Buffer
	w, err := age.Encrypt(&envelope, recipients...)
	if err != nil {
		return nil, "", nil, fmt.Errorf("wrap the session key: %w", err)
	}
	if _, err := w.Write(key); err != nil {
		return nil, "", nil, fmt.Errorf("wrap the session key: %w", err)
	}
	if err := w.Close(); err != nil {
		return nil, "", nil, fmt.Errorf("wrap the session key: %w", err)
	}
	aead, commitment, err := deriveKeys(key)
	return aead, commitment, envelope.Bytes(), err
}

func deriveKeys(key []byte) (cipher.AEAD, string, error) {
	commitment, err := hkdf.Key(sha256.New, key, nil, infoCommitment, 32)
	if err != nil {
		return nil, "", err
	}
	blockKey, err := hkdf.Key(sha256.New, key, nil, infoBlocks, 32)
	if err != nil {
		return nil, "", err
	}
	defer clear(blockKey)
	block, err := aes.NewCipher(blockKey)
	if err != nil {
		return nil, "", err
	}
	aead, err := cipher.NewGCM(block)
	return aead, hex.EncodeToString(commitment), err
}

// ErrSealed is returned when none of the identities opens a recording.
var ErrSealed = errors.New("sealed: none of the given identities opens this recording")

// Opener opens the sealed blocks of one recording.
type Opener struct {
	main, strict cipher.AEAD
	buffers      [3][]byte
}

// NewOpener unwraps the session keys of a recording. The ordinary identities
// are required (ErrSealed if none fits). Without a fitting strict identity the
// recording can be read but for what was typed.
func NewOpener(h Header, ordinary, strict []age.Identity) (*Opener, error) {
	if h.Type != TypeRecording || h.Suite != SuiteSealed {
		return nil, fmt.Errorf("a %s of suite %q can not be opened", h.Type, h.Suite)
	}
	var o Opener
	var err error
	if o.main, err = openKey(h.Envelope, h.Commit, ordinary); err != nil {
		return nil, err
	}
	if len(h.EnvelopeStrict) == 0 {
		return &o, nil
	}
	if o.strict, err = openKey(h.EnvelopeStrict, h.CommitStrict, strict); err != nil && !errors.Is(err, ErrSealed) {
		return nil, err
	}
	return &o, nil
}

func openKey(envelope []byte, commitment string, ids []age.Identity) (cipher.AEAD, error) {
	if len(ids) == 0 {
		return nil, ErrSealed
	}
	r, err := age.Decrypt(bytes.NewReader(envelope), ids...)
	var none *age.NoIdentityMatchError
	if errors.As(err, &none) {
		return nil, ErrSealed
	}
	if err != nil {
		return nil, fmt.Errorf("open the envelope: %w", err)
	}
	key, err := io.ReadAll(io.LimitReader(r, sessionKeySize+1))
	if err != nil {
		return nil, fmt.Errorf("open the envelope: %w", err)
	}
	defer clear(key)
	if len(key) != sessionKeySize {
		return nil, errors.New("the envelope does not hold a session key")
	}
	aead, found, err := deriveKeys(key)
	if err != nil {
		return nil, err
	}
	if !hmac.Equal([]byte(found), []byte(commitment)) {
		return nil, errors.New("the session key in the envelope is not the one that the header commits to")
	}
	return aead, nil
}

// CanOpen reports whether blocks of a class can be opened.
func (o *Opener) CanOpen(c Class) bool {
	return c == ClassPlain || (c == ClassMain && o.main != nil) || (c == ClassStrict && o.strict != nil)
}

// Open returns the plaintext of a block, valid until the next block of the
// same class is opened. It fails when a byte of the block or of what came
// before it was changed.
func (o *Opener) Open(b *Block) ([]byte, error) {
	key := o.main
	switch b.Class {
	case ClassPlain:
		return b.Payload, nil
	case ClassStrict:
		key = o.strict
	}
	if key == nil {
		return nil, ErrSealed
	}
	var nonce [12]byte
	binary.BigEndian.PutUint64(nonce[4:], b.Sequence)
	aad := append(b.raw[:len(b.raw):len(b.raw)], b.Previous[:]...)
	plain, err := key.Open(o.buffers[b.Class][:0], nonce[:], b.Payload, aad)
	if err != nil {
		return nil, &FormatError{Offset: b.Offset, Sequence: b.Sequence, Reason: "the sealed bytes were changed"}
	}
	o.buffers[b.Class] = plain
	return plain, nil
}

// OpenMeta reads the description out of a recording's second block.
func (o *Opener) OpenMeta(b *Block) (Meta, error) {
	var m Meta
	if b.Type != BlockMeta {
		return m, errors.New("the second block is not the description")
	}
	plain, err := o.Open(b)
	if err != nil {
		return m, err
	}
	if err := json.Unmarshal(plain, &m); err != nil {
		return m, fmt.Errorf("the description is not valid: %w", err)
	}
	return m, nil
}
