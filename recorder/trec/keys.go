package trec

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"

	"filippo.io/age"
)

// The key schedule. A random key for each session and class, wrapped by age to
// the epoch's recipients, begins a chain that moves on with every segment:
//
//	ck(0)   = HKDF-SHA-256(K, no salt, infoChain)
//	k(i)    = HMAC-SHA-256(ck(i), 0x01)   seals segment i
//	ck(i+1) = HMAC-SHA-256(ck(i), 0x02)
//	j(i)    = HMAC-SHA-256(ck(i), 0x03)   the journal's, while segment i is open
//
// The writer forgets K at once and each ck with its segment, so a node that
// falls into other hands can't read what it has sealed already.

const (
	keySize        = 32
	infoChain      = "sallyport trec v1 chain"
	infoCommitment = "sallyport trec v1 commitment"
)

type ratchet struct {
	chain  [keySize]byte
	number uint32 // of the segment that key seals
}

func newRatchet(key []byte) (*ratchet, string, error) {
	chain, err := hkdf.Key(sha256.New, key, nil, infoChain, keySize)
	if err != nil {
		return nil, "", err
	}
	defer clear(chain)
	commitment, err := hkdf.Key(sha256.New, key, nil, infoCommitment, sha256.Size)
	if err != nil {
		return nil, "", err
	}
	r := new(ratchet)
	copy(r.chain[:], chain)
	return r, hex.EncodeToString(commitment), nil
}

func (r *ratchet) derive(label byte) (out [keySize]byte) {
	h := hmac.New(sha256.New, r.chain[:])
	h.Write([]byte{label})
	h.Sum(out[:0])
	return out
}

// aead is the cipher of the current segment.
func (r *ratchet) aead() (cipher.AEAD, error) {
	key := r.derive(1)
	defer clear(key[:])
	block, err := aes.NewCipher(key[:])
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

// step moves on to the next segment and forgets the current one.
func (r *ratchet) step() {
	r.chain = r.derive(2)
	r.number++
}

func (r *ratchet) wipe() { clear(r.chain[:]) }

// nonce is the segment's number: the key is used once, so any would do.
func nonce(number uint32) []byte {
	var n [12]byte
	binary.BigEndian.PutUint32(n[8:], number)
	return n[:]
}

// wrapKey makes a session key and forgets it: what stays is the chain, the
// commitment and the envelope.
func wrapKey(random io.Reader, recipients string) (*ratchet, string, []byte, error) {
	to, err := age.ParseRecipients(strings.NewReader(recipients))
	if err != nil {
		return nil, "", nil, fmt.Errorf("epoch recipient: %w", err)
	}
	key := make([]byte, keySize)
	defer clear(key)
	if _, err := io.ReadFull(random, key); err != nil {
		return nil, "", nil, fmt.Errorf("make a session key: %w", err)
	}
	var envelope bytes.Buffer
	w, err := age.Encrypt(&envelope, to...)
	if err == nil {
		_, err = w.Write(key)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		return nil, "", nil, fmt.Errorf("wrap the session key: %w", err)
	}
	chain, commitment, err := newRatchet(key)
	return chain, commitment, envelope.Bytes(), err
}

// chainMark is the distance of the chain keys that a keyring remembers, so
// that going back costs few steps.
const chainMark = 256

// keyring derives the keys of any segment of one class.
type keyring struct {
	current ratchet
	marks   [][keySize]byte // chain keys of segments 0, chainMark, 2*chainMark, …
}

// openKey unwraps the session key of one class; ErrSealed if no identity fits.
func openKey(envelope []byte, commitment string, ids []age.Identity) (*keyring, error) {
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
	key, err := io.ReadAll(io.LimitReader(r, keySize+1))
	if err != nil {
		return nil, fmt.Errorf("open the envelope: %w", err)
	}
	defer clear(key)
	if len(key) != keySize {
		return nil, errors.New("the envelope does not hold a session key")
	}
	chain, found, err := newRatchet(key)
	if err != nil {
		return nil, err
	}
	// AES-GCM does not commit to its key: without this a node could make a
	// file that says different things to different auditors.
	if subtle.ConstantTimeCompare([]byte(found), []byte(commitment)) != 1 {
		return nil, errors.New("the session key in the envelope is not the one that the header commits to")
	}
	return &keyring{current: *chain, marks: [][keySize]byte{chain.chain}}, nil
}

// at goes to a segment and returns its place in the chain.
func (k *keyring) at(number uint32) *ratchet {
	mark := min(int(number/chainMark), len(k.marks)-1)
	if start := uint32(mark) * chainMark; number < k.current.number || start > k.current.number {
		k.current = ratchet{chain: k.marks[mark], number: start}
	}
	for k.current.number < number {
		k.current.step()
		if n := k.current.number; n%chainMark == 0 && int(n/chainMark) == len(k.marks) {
			k.marks = append(k.marks, k.current.chain)
		}
	}
	return &k.current
}
