package authz

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base32"
	"errors"
	"fmt"
)

// secretVersion is the version of the derived keys; it is stored beside every secret, so that a
// later master key can replace this one row by row.
const secretVersion = 1

// secrets protects what the database must not show in clear.
type secrets struct {
	totp     cipher.AEAD
	recovery []byte // key of an HMAC
}

func deriveSecrets(master [32]byte) (secrets, error) {
	totp, err := hkdf.Key(sha256.New, master[:], nil, "sallyport totp secret v1", 32)
	if err != nil {
		return secrets{}, err
	}
	recovery, err := hkdf.Key(sha256.New, master[:], nil, "sallyport recovery code v1", 32)
	if err != nil {
		return secrets{}, err
	}
	block, err := aes.NewCipher(totp)
	if err != nil {
		return secrets{}, err
	}
	aead, err := cipher.NewGCM(block)
	return secrets{totp: aead, recovery: recovery}, err
}

// binding ties a ciphertext to its row: one copied to another person's row does not open.
func binding(user string, version int64) []byte {
	return fmt.Appendf(nil, "%s|totp|%d", user, version) // no user name has a '|'
}

// seal encrypts a TOTP secret; the nonce stands before the ciphertext.
func (s secrets) seal(user string, nonce, secret []byte) []byte {
	return s.totp.Seal(nonce, nonce, secret, binding(user, secretVersion))
}

func (s secrets) open(user string, version int64, sealed []byte) ([]byte, error) {
	size := s.totp.NonceSize()
	if len(sealed) < size {
		return nil, errors.New("the stored second factor is cut short")
	}
	secret, err := s.totp.Open(nil, sealed[:size], sealed[size:], binding(user, version))
	if err != nil {
		return nil, errors.New("the stored second factor does not open: is this the right master key?")
	}
	return secret, nil
}

// recoveryHash is what is stored of a recovery code.
func (s secrets) recoveryHash(user, code string) []byte {
	mac := hmac.New(sha256.New, s.recovery)
	fmt.Fprintf(mac, "%s|%s", user, code)
	return mac.Sum(nil)
}

var base32Plain = base32.StdEncoding.WithPadding(base32.NoPadding)
