package bastion

import (
	"fmt"

	"golang.org/x/crypto/ssh"
)

// algorithms is one profile. The client's order decides which of them is
// used, so a profile leaves out what must not be used at all.
type algorithms struct {
	keyExchanges []string
	ciphers      []string
	macs         []string
	publicKeys   []string
}

// profile returns the named algorithms: "strict", which leaves no choice that
// the Terrapin attack could use, and "compat", which adds what clients without
// AES-GCM need (dropbear, paramiko before 3, libssh2 before 1.11).
func profile(name string) (algorithms, error) {
	strict := algorithms{
		keyExchanges: []string{ssh.KeyExchangeMLKEM768X25519, ssh.KeyExchangeCurve25519},
		ciphers:      []string{ssh.CipherAES128GCM, ssh.CipherAES256GCM},
		macs:         []string{ssh.HMACSHA256ETM, ssh.HMACSHA512ETM}, // unused with GCM, never empty
		publicKeys: []string{ssh.KeyAlgoED25519, ssh.KeyAlgoSKED25519, ssh.KeyAlgoSKECDSA256,
			ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521, ssh.KeyAlgoRSASHA256, ssh.KeyAlgoRSASHA512},
	}
	switch name {
	case "", "strict":
		return strict, nil
	case "compat":
		compat := strict
		compat.ciphers = append(append([]string{}, strict.ciphers...),
			ssh.CipherChaCha20Poly1305, ssh.CipherAES256CTR, ssh.CipherAES128CTR)
		compat.macs = append(append([]string{}, strict.macs...), ssh.HMACSHA256)
		return compat, nil
	}
	return algorithms{}, fmt.Errorf("profile %q is neither strict nor compat", name)
}

func (a algorithms) apply(c *ssh.Config) {
	c.KeyExchanges = a.keyExchanges
	c.Ciphers = a.ciphers
	c.MACs = a.macs
}
