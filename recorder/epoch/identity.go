package epoch

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"time"

	"filippo.io/age"
)

// NewIdentity makes an auditor's own post-quantum age identity, and returns
// the identity file and the recipient that others seal to. With a passphrase
// the file is sealed by it, as `age -p` does.
func NewIdentity(now time.Time, passphrase string) (file []byte, recipient string, err error) {
	id, err := age.GenerateHybridIdentity()
	if err != nil {
		return nil, "", fmt.Errorf("make an identity: %w", err)
	}
	recipient = id.Recipient().String()
	text := fmt.Appendf(nil, "# created: %s\n%s%s\n%s\n", now.UTC().Format(time.RFC3339), publicLine, recipient, id)
	if passphrase == "" {
		return text, recipient, nil
	}
	lock, err := age.NewScryptRecipient(passphrase)
	if err != nil {
		return nil, "", fmt.Errorf("seal the identity: %w", err)
	}
	if file, err = encrypt(text, []age.Recipient{lock}); err != nil {
		return nil, "", fmt.Errorf("seal the identity: %w", err)
	}
	return file, recipient, nil
}

// maxWorkFactor bounds what a foreign identity file can cost: some seconds and
// a gigabyte, four times what NewIdentity asks for.
const maxWorkFactor = 20

// ParseIdentities reads an auditor's identity file. ask is called for the
// passphrase, when one is needed.
func ParseIdentities(text []byte, ask func() (string, error)) ([]age.Identity, error) {
	if Sealed(text) {
		passphrase, err := ask()
		if err != nil {
			return nil, err
		}
		lock, err := age.NewScryptIdentity(passphrase)
		if err != nil {
			return nil, fmt.Errorf("passphrase: %w", err)
		}
		lock.SetMaxWorkFactor(maxWorkFactor)
		if text, err = Unseal(text, []age.Identity{lock}); errors.Is(err, ErrNotYours) {
			return nil, errors.New("it is sealed to a key, not by a passphrase, or the passphrase is wrong")
		} else if err != nil {
			return nil, errors.New("the passphrase is wrong, or the file is damaged")
		}
	}
	ids, err := age.ParseIdentities(bytes.NewReader(text))
	if err != nil {
		// age's error may quote the line, which may be a secret with a slip in it.
		return nil, errors.New("not an age identity file")
	}
	return ids, nil
}

// ParseRecipients reads age recipients, one a line: age1pq1… or age1….
func ParseRecipients(text string) ([]age.Recipient, error) {
	if strings.Contains(strings.ToUpper(text), "AGE-SECRET-KEY-") {
		return nil, errors.New("this holds a private identity; give the recipient, which begins with age1")
	}
	found, err := age.ParseRecipients(strings.NewReader(text))
	if err != nil {
		return nil, fmt.Errorf("no age recipient: %w", err)
	}
	return found, nil
}
