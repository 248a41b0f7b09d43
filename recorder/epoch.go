package recorder

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"strings"

	"filippo.io/age"
)

// EpochKeys are the auditors' keys of one project and epoch. Recipient and
// Strict are public and go to the node; the identities stay with the auditors
// and never reach it.
type EpochKeys struct {
	Recipient      string // opens everything but what was typed in terminals
	Strict         string // opens what was typed in terminals
	Identity       string // private half of Recipient, AGE-SECRET-KEY-PQ-1…
	StrictIdentity string // private half of Strict
}

// NewEpochKeys makes two post-quantum hybrid age identities.
func NewEpochKeys() (EpochKeys, error) {
	ordinary, err := age.GenerateHybridIdentity()
	if err != nil {
		return EpochKeys{}, fmt.Errorf("make an epoch key: %w", err)
	}
	strict, err := age.GenerateHybridIdentity()
	if err != nil {
		return EpochKeys{}, fmt.Errorf("make an epoch key: %w", err)
	}
	return EpochKeys{Recipient: ordinary.Recipient().String(), Strict: strict.Recipient().String(),
		Identity: ordinary.String(), StrictIdentity: strict.String()}, nil
}

// Public returns the keys without their private halves.
func (k EpochKeys) Public() EpochKeys { return EpochKeys{Recipient: k.Recipient, Strict: k.Strict} }

// Keys are the recipients that a recording is started with.
func (k EpochKeys) Keys() Keys { return Keys{Recipient: k.Recipient, Strict: k.Strict} }

// Identities are the private halves for opening; either may be empty.
func (k EpochKeys) Identities() (ordinary, strict []age.Identity, err error) {
	parse := func(s string) []age.Identity {
		if s == "" || err != nil {
			return nil
		}
		var ids []age.Identity
		ids, err = age.ParseIdentities(strings.NewReader(s))
		return ids
	}
	ordinary, strict = parse(k.Identity), parse(k.StrictIdentity)
	return ordinary, strict, err
}

const (
	fieldEpoch          = "epoch"
	fieldRecipient      = "recipient"
	fieldStrict         = "strict-recipient"
	fieldIdentity       = "identity"
	fieldStrictIdentity = "strict-identity"
)

// MarshalPrivate is the private file. The caller writes it with mode 0600
// where the auditor is. name tells people which project and epoch it is for.
func (k EpochKeys) MarshalPrivate(name string) []byte {
	return k.marshal(name, "# Sallyport epoch key, PRIVATE: "+oneLine(name)+`
# Whoever holds this file can read every recording of the project and epoch.
# Keep it with the project's auditors, with a copy in escrow, and never on the
# bastion. Without it the recordings can not be read by anybody; destroying
# every copy destroys them. "strict-identity" also opens what was typed in
# terminals, passwords included: give it to fewer people, by removing the line.
`)
}

// MarshalPublic is the public file, for the node.
func (k EpochKeys) MarshalPublic(name string) []byte {
	return k.Public().marshal(name, "# Sallyport epoch key, public: "+oneLine(name)+`
# The node seals the project's recordings with it. It opens nothing.
`)
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

func (k EpochKeys) marshal(name, comment string) []byte {
	var b bytes.Buffer
	b.WriteString(comment)
	for _, f := range [][2]string{{fieldEpoch, oneLine(name)}, {fieldRecipient, k.Recipient}, {fieldStrict, k.Strict},
		{fieldIdentity, k.Identity}, {fieldStrictIdentity, k.StrictIdentity}} {
		if f[1] != "" {
			fmt.Fprintf(&b, "%s: %s\n", f[0], f[1])
		}
	}
	return b.Bytes()
}

// ParseEpochKeys reads a private or a public file. Both recipients must be
// there; the identities may be missing, and must fit the recipients if not.
// An error names the line and never shows a private key.
func ParseEpochKeys(text []byte) (EpochKeys, error) {
	k, _, err := ParseEpochFile(text)
	return k, err
}

// ParseEpochFile is ParseEpochKeys, and returns the name of the epoch too, as
// the file has it; "" when it has none.
func ParseEpochFile(text []byte) (k EpochKeys, epoch string, err error) {
	fields := map[string]*string{fieldEpoch: &epoch, fieldRecipient: &k.Recipient, fieldStrict: &k.Strict,
		fieldIdentity: &k.Identity, fieldStrictIdentity: &k.StrictIdentity}
	scanner := bufio.NewScanner(bytes.NewReader(text))
	for line := 1; scanner.Scan(); line++ {
		s := strings.TrimSpace(scanner.Text())
		if s == "" || s[0] == '#' {
			continue
		}
		name, value, ok := strings.Cut(s, ":")
		field := fields[strings.TrimSpace(name)]
		if !ok || field == nil {
			return EpochKeys{}, "", fmt.Errorf("epoch key line %d: not a line of this file", line)
		}
		if *field != "" {
			return EpochKeys{}, "", fmt.Errorf("epoch key line %d: %s is given twice", line, strings.TrimSpace(name))
		}
		*field = strings.TrimSpace(value)
	}
	if err := scanner.Err(); err != nil {
		return EpochKeys{}, "", fmt.Errorf("epoch key: %w", err)
	}
	if err := checkPair(fieldRecipient, k.Recipient, k.Identity); err != nil {
		return EpochKeys{}, "", err
	}
	return k, epoch, checkPair(fieldStrict, k.Strict, k.StrictIdentity)
}

func checkPair(name, recipient, identity string) error {
	r, err := age.ParseRecipients(strings.NewReader(recipient))
	if recipient == "" || err != nil || len(r) != 1 {
		return fmt.Errorf("epoch key: %s is missing or not an age recipient", name)
	}
	if identity == "" {
		return nil
	}
	ids, err := age.ParseIdentities(strings.NewReader(identity))
	if err != nil || len(ids) != 1 {
		return fmt.Errorf("epoch key: the identity of %s is not an age identity", name)
	}
	var public string
	switch id := ids[0].(type) {
	case *age.HybridIdentity:
		public = id.Recipient().String()
	case *age.X25519Identity:
		public = id.Recipient().String()
	}
	if public != recipient {
		return errors.New("epoch key: the identity does not belong to the " + name)
	}
	return nil
}
