package node

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"sallyport/internal/config"
	"sallyport/recorder/ledger"
)

// keys are what a node holds.
type keys struct {
	master  [32]byte
	node    ed25519.PrivateKey
	journal []byte // nil: there is none yet, see makeJournalKey
	userCA  ssh.Signer
	hostCA  hostAuthority
	signers []ssh.Signer // host keys, plain ones first, then certificates
}

// maxKeyFile bounds what is read of a key file, in bytes.
const maxKeyFile = 64 << 10

// readSecret reads a file that nobody but its owner may read.
func readSecret(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a file", path)
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return nil, fmt.Errorf("%s can be used by others than its owner (mode %04o); set it to 0600, and consider whether the key is still secret", path, mode)
	}
	text, err := io.ReadAll(io.LimitReader(file, maxKeyFile))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return text, nil
}

// loadKeys reads every key that the configuration names.
func loadKeys(c *config.Config) (*keys, error) {
	k := new(keys)
	master, err := readSecret(c.Keys.Master)
	if err != nil {
		return nil, fmt.Errorf("master key (keys.master): %w", err)
	}
	raw, err := base64.StdEncoding.DecodeString(strings.TrimSpace(string(master)))
	if err != nil || copy(k.master[:], raw) != len(k.master) || len(raw) != len(k.master) {
		return nil, fmt.Errorf("master key (keys.master): %s does not hold 32 bytes in base64", c.Keys.Master)
	}
	if k.node, err = loadEd25519(c.Keys.Node); err != nil {
		return nil, fmt.Errorf("node key (keys.node): %w", err)
	}
	if k.journal, err = loadJournalKey(c.Keys.Journal); err != nil {
		return nil, err
	}
	if k.userCA, err = loadSigner(c.CA.User); err != nil {
		return nil, fmt.Errorf("user CA (ca.user): %w", err)
	}
	if k.hostCA, err = loadHostCA(c.CA.Host); err != nil {
		return nil, fmt.Errorf("host CA (ca.host): %w", err)
	}
	for _, path := range c.HostKeys {
		plain, err := loadSigner(path)
		if err != nil {
			return nil, fmt.Errorf("host key (host_keys): %w", err)
		}
		k.signers = append(k.signers, plain)
	}
	return k, nil
}

// loadJournalKey returns nil when there is no such file.
func loadJournalKey(path string) ([]byte, error) {
	text, err := readSecret(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("journal key (keys.journal): %w", err)
	}
	key, err := base64.StdEncoding.DecodeString(strings.TrimSpace(string(text)))
	if err != nil || len(key) != ledger.SecretSize {
		return nil, fmt.Errorf("journal key (keys.journal): %s does not hold %d bytes in base64", path, ledger.SecretSize)
	}
	return key, nil
}

// makeJournalKey makes the key for a node that has none, so nothing is sealed under one.
func makeJournalKey(path string, random io.Reader) ([]byte, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	key := make([]byte, ledger.SecretSize)
	if _, err := io.ReadFull(random, key); err != nil {
		return nil, err
	}
	return key, writeNew(path, []byte(base64.StdEncoding.EncodeToString(key)+"\n"), 0o600)
}

// certify adds the certificates of the host keys, and makes those that are due.
func (k *keys) certify(c *config.Config, random io.Reader, now time.Time) error {
	for i, path := range c.HostKeys {
		certificate, err := hostCertificate(path, k.signers[i], k.hostCA.signer, c.Name, random, now)
		if err != nil {
			return fmt.Errorf("host certificate of %s: %w", path, err)
		}
		if certificate != nil {
			k.signers = append(k.signers, certificate)
		}
	}
	return nil
}

func loadSigner(path string) (ssh.Signer, error) {
	text, err := readSecret(path)
	if err != nil {
		return nil, err
	}
	signer, err := ssh.ParsePrivateKey(text)
	if err != nil {
		var locked *ssh.PassphraseMissingError
		if errors.As(err, &locked) {
			return nil, fmt.Errorf("%s has a passphrase; a node starts unattended and needs a key without one", path)
		}
		return nil, fmt.Errorf("%s is no private key in OpenSSH format", path)
	}
	return signer, nil
}

func loadEd25519(path string) (ed25519.PrivateKey, error) {
	text, err := readSecret(path)
	if err != nil {
		return nil, err
	}
	key, err := ssh.ParseRawPrivateKey(text)
	if err != nil {
		return nil, fmt.Errorf("%s is no private key in OpenSSH format", path)
	}
	switch k := key.(type) {
	case *ed25519.PrivateKey:
		return *k, nil
	case ed25519.PrivateKey:
		return k, nil
	}
	return nil, fmt.Errorf("%s is no ed25519 key", path)
}

// hostAuthority is the gate's host CA as far as the node has it.
type hostAuthority struct {
	signer ssh.Signer    // nil when the private key lies elsewhere
	public ssh.PublicKey // nil when even the public key is unknown
}

// loadHostCA takes the private key, or else the public one beside it: the
// private key may lie elsewhere.
func loadHostCA(path string) (hostAuthority, error) {
	signer, err := loadSigner(path)
	if err == nil {
		return hostAuthority{signer, signer.PublicKey()}, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return hostAuthority{}, err
	}
	text, err := os.ReadFile(path + ".pub")
	if errors.Is(err, fs.ErrNotExist) {
		return hostAuthority{}, nil
	}
	if err != nil {
		return hostAuthority{}, err
	}
	public, _, _, _, err := ssh.ParseAuthorizedKey(text)
	if err != nil {
		return hostAuthority{}, fmt.Errorf("%s.pub is no public key", path)
	}
	return hostAuthority{nil, public}, nil
}

const (
	// certificateLife is how long a host certificate of the gate is good.
	certificateLife = 2 * 365 * 24 * time.Hour
	// certificateRenew is how long before its end the node makes a new one, at a start.
	certificateRenew = 180 * 24 * time.Hour
)

// hostCertificate returns the signer with the certificate that lies beside a
// host key. It makes a new one when that is missing, near its end, or for
// another name, and the CA is at hand. It returns nil when there is none and none can be made.
func hostCertificate(keyPath string, plain, ca ssh.Signer, name string, random io.Reader, now time.Time) (ssh.Signer, error) {
	path := keyPath + "-cert.pub"
	present, err := readCertificate(path)
	if err != nil {
		return nil, err
	}
	good := present != nil && string(present.Key.Marshal()) == string(plain.PublicKey().Marshal()) &&
		len(present.ValidPrincipals) == 1 && present.ValidPrincipals[0] == name &&
		uint64(now.Add(certificateRenew).Unix()) < present.ValidBefore &&
		(ca == nil || string(present.SignatureKey.Marshal()) == string(ca.PublicKey().Marshal()))
	if good || ca == nil {
		if present == nil {
			return nil, nil
		}
		return ssh.NewCertSigner(present, plain)
	}
	fresh := &ssh.Certificate{
		Key:             plain.PublicKey(),
		CertType:        ssh.HostCert,
		KeyId:           "sallyport gate " + name,
		ValidPrincipals: []string{name},
		ValidAfter:      uint64(now.Add(-5 * time.Minute).Unix()), // clocks differ
		ValidBefore:     uint64(now.Add(certificateLife).Unix()),
	}
	if err := fresh.SignCert(random, ca); err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	if err := replaceFile(path, ssh.MarshalAuthorizedKey(fresh), 0o644); err != nil {
		return nil, err
	}
	return ssh.NewCertSigner(fresh, plain)
}

func readCertificate(path string) (*ssh.Certificate, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	key, _, _, _, err := ssh.ParseAuthorizedKey(text)
	if err != nil {
		return nil, fmt.Errorf("%s is no certificate", path)
	}
	certificate, ok := key.(*ssh.Certificate)
	if !ok || certificate.CertType != ssh.HostCert {
		return nil, fmt.Errorf("%s is no host certificate", path)
	}
	return certificate, nil
}

// newEd25519 makes a key and writes it in OpenSSH format, with its public half beside it.
func newEd25519(path, comment string, random io.Reader) (ssh.PublicKey, error) {
	public, private, err := ed25519.GenerateKey(random)
	if err != nil {
		return nil, fmt.Errorf("make a key: %w", err)
	}
	block, err := ssh.MarshalPrivateKey(private, comment)
	if err != nil {
		return nil, fmt.Errorf("write a key: %w", err)
	}
	if err := writeNew(path, pem.EncodeToMemory(block), 0o600); err != nil {
		return nil, err
	}
	key, err := ssh.NewPublicKey(public)
	if err != nil {
		return nil, fmt.Errorf("write a key: %w", err)
	}
	line := append([]byte(strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key)))), (" " + comment + "\n")...)
	return key, writeNew(path+".pub", line, 0o644)
}

// writeNew writes a file that must not be there yet, durably.
func writeNew(path string, content []byte, mode fs.FileMode) error {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = file.Write(content)
	return errors.Join(err, file.Sync(), file.Close())
}

// replaceFile puts a file in place whole or not at all.
func replaceFile(path string, content []byte, mode fs.FileMode) error {
	temporary := path + ".new"
	if err := os.Remove(temporary); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := writeNew(temporary, content, mode); err != nil {
		return err
	}
	return os.Rename(temporary, path)
}
