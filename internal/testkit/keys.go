package testkit

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"
)

// Key is a fresh ed25519 key, in memory and as the files that ssh reads.
type Key struct {
	Signer     ssh.Signer
	Path       string // private key, mode 0600; Path + ".pub" is the public one
	Authorized string // one line in authorized_keys form, with the name as its comment
}

// MakeKey writes a new key to dir under the given name.
func MakeKey(dir, name string) (Key, error) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return Key{}, fmt.Errorf("making key %s: %w", name, err)
	}
	signer, err := ssh.NewSignerFromKey(private)
	if err != nil {
		return Key{}, fmt.Errorf("making key %s: %w", name, err)
	}
	block, err := ssh.MarshalPrivateKey(private, name)
	if err != nil {
		return Key{}, fmt.Errorf("making key %s: %w", name, err)
	}
	k := Key{
		Signer:     signer,
		Path:       filepath.Join(dir, name),
		Authorized: AuthorizedLine(signer.PublicKey()) + " " + name,
	}
	if err := os.WriteFile(k.Path, pem.EncodeToMemory(block), 0o600); err != nil {
		return Key{}, fmt.Errorf("writing key %s: %w", name, err)
	}
	if err := os.WriteFile(k.Path+".pub", []byte(k.Authorized+"\n"), 0o644); err != nil {
		return Key{}, fmt.Errorf("writing key %s: %w", name, err)
	}
	return k, nil
}

// NewKey is MakeKey for a test.
func NewKey(t testing.TB, dir, name string) Key {
	t.Helper()
	k, err := MakeKey(dir, name)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// AuthorizedLine is a public key in authorized_keys form without a comment or a line end.
func AuthorizedLine(k ssh.PublicKey) string {
	return strings.TrimSuffix(string(ssh.MarshalAuthorizedKey(k)), "\n")
}
