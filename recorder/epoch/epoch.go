// Package epoch keeps the private halves of epoch keys where the auditors are:
// it seals them to each auditor's own age key, opens them again in memory,
// seals them anew when auditors join or leave, and takes the files away at the
// end of an epoch.
//
// An epoch has two identities: the ordinary one opens what was shown, the
// strict one what was typed in terminals. Each lies in a file of its own,
// GENOMICS-2026Q4.key.age and GENOMICS-2026Q4.strict.age, so that fewer people
// can be given the second. Such a file is an ordinary age file and what is in
// it is an ordinary age identity file, so the age command can do everything
// that is done here, and will when this program is gone:
//
//	age -d -i alice.age genomics-2026Q4.key.age > opened
//	age -d -i opened ENVELOPE
//
// With two layers (Wrapping.Seal) the auditors' file is sealed once more, to
// somebody who is no auditor: opening then takes both.
//
// The package refuses to mix post-quantum and plain recipients, to seal an
// identity that is not the one that the file says, and to write over a file
// that is there. It knows nothing of gates, sessions and rights.
package epoch

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"filippo.io/age"
	"filippo.io/age/armor"

	"sallyport/recorder"
)

// Class is which of an epoch's two identities a file holds.
type Class string

// The classes.
const (
	Ordinary Class = "ordinary" // opens everything but what was typed in terminals
	Strict   Class = "strict"   // opens what was typed in terminals
)

// Key is one private half of an epoch. Its Identity is secret; it has no
// String method, and errors never show it.
type Key struct {
	Epoch     string // e.g. genomics/2026Q4
	Class     Class
	Recipient string // public half
	Identity  string // AGE-SECRET-KEY-PQ-1…
}

// New makes the two keys of an epoch. The public half for the gate is that of
// Public.
func New(name string) (ordinary, strict Key, err error) {
	k, err := recorder.NewEpochKeys()
	if err != nil {
		return Key{}, Key{}, err
	}
	return Key{Epoch: name, Class: Ordinary, Recipient: k.Recipient, Identity: k.Identity},
		Key{Epoch: name, Class: Strict, Recipient: k.Strict, Identity: k.StrictIdentity}, nil
}

// Both puts the keys of one epoch together, as the clear form and the public file have them.
func Both(ordinary, strict Key) recorder.EpochKeys {
	return recorder.EpochKeys{Recipient: ordinary.Recipient, Strict: strict.Recipient,
		Identity: ordinary.Identity, StrictIdentity: strict.Identity}
}

// Wrapping says to whom a key is sealed. To are the auditors, each of whom
// can open it alone; Seal, when it is not empty, are those of whom one is
// needed besides.
type Wrapping struct{ To, Seal []age.Recipient }

// Wrap seals a key. The result is an armored age file.
func Wrap(k Key, w Wrapping) ([]byte, error) {
	if len(w.To) == 0 {
		return nil, errors.New("an epoch key is sealed to nobody: name at least one auditor")
	}
	text := k.file()
	for _, to := range [][]age.Recipient{w.To, w.Seal} {
		if len(to) == 0 {
			continue
		}
		var err error
		if text, err = encrypt(text, to); err != nil {
			return nil, fmt.Errorf("seal the key of %s: %w", k.Epoch, err)
		}
	}
	return text, nil
}

const (
	nameLine  = "# epoch: "
	classLine = "# class: "
	// publicLine is as age-keygen writes it.
	publicLine = "# public key: "
)

// file is the key as an age identity file.
func (k Key) file() []byte {
	var b bytes.Buffer
	b.WriteString("# Sallyport epoch key, PRIVATE. Whoever reads this line can read recordings: never keep it opened.\n")
	fmt.Fprintf(&b, "%s%s\n%s%s\n%s%s\n%s\n", nameLine, strings.Join(strings.Fields(k.Epoch), " "), classLine, k.Class, publicLine, k.Recipient, k.Identity)
	return b.Bytes()
}

func encrypt(text []byte, to []age.Recipient) ([]byte, error) {
	var b bytes.Buffer
	armored := armor.NewWriter(&b)
	w, err := age.Encrypt(armored, to...)
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(text); err != nil {
		return nil, err
	}
	if err := errors.Join(w.Close(), armored.Close()); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// MaxFile bounds a key file, in bytes: some hundred recipients fit into it.
const MaxFile = 1 << 20

// maxLayers is how often a key may be sealed over.
const maxLayers = 2

// ErrNotYours says that none of the identities opens a file.
var ErrNotYours = errors.New("it is sealed to other keys than yours")

// Sealed reports whether a file is an age file, rather than a clear one.
func Sealed(text []byte) bool {
	return bytes.HasPrefix(text, []byte("age-encryption.org/v1\n")) || armored(text)
}

func armored(text []byte) bool {
	return bytes.HasPrefix(bytes.TrimLeft(text, "\r\n\t "), []byte(armor.Header))
}

// Unseal takes one layer off a file.
func Unseal(text []byte, own []age.Identity) ([]byte, error) {
	if len(own) == 0 {
		return nil, errors.New("it is sealed, and takes an auditor's own identity to open")
	}
	var source io.Reader = bytes.NewReader(text)
	if armored(text) {
		source = armor.NewReader(source)
	}
	plain, err := age.Decrypt(source, own...)
	var none *age.NoIdentityMatchError
	if errors.As(err, &none) {
		return nil, ErrNotYours
	}
	if err != nil {
		return nil, fmt.Errorf("damaged, or no sealed key: %w", err)
	}
	out, err := io.ReadAll(io.LimitReader(plain, MaxFile+1))
	if err != nil {
		return nil, fmt.Errorf("damaged: %w", err)
	}
	if len(out) > MaxFile {
		return nil, errors.New("larger than any key")
	}
	return out, nil
}

// Parse opens a key that Wrap made. own are identities of the auditor, and of
// who sealed it over; the order does not matter.
func Parse(text []byte, own []age.Identity) (Key, error) {
	k, _, err := ParseLayers(text, own)
	return k, err
}

// ParseLayers is Parse, and says how many layers were taken off: 0 of a file in
// clear, 2 of one that was sealed over.
func ParseLayers(text []byte, own []age.Identity) (k Key, layers int, err error) {
	for ; Sealed(text); layers++ {
		if layers == maxLayers {
			return Key{}, layers, fmt.Errorf("sealed more than %d times over", maxLayers)
		}
		inner, err := Unseal(text, own)
		if errors.Is(err, ErrNotYours) && layers > 0 {
			return Key{}, layers, errors.New("the outer layer is opened, and the inner one is sealed to other keys than yours")
		}
		if err != nil {
			return Key{}, layers, err
		}
		text = inner
	}
	k, err = parseKey(text)
	return k, layers, err
}

func parseKey(text []byte) (Key, error) {
	var k Key
	scanner := bufio.NewScanner(bytes.NewReader(text))
	for scanner.Scan() {
		for prefix, field := range map[string]*string{nameLine: &k.Epoch, classLine: (*string)(&k.Class)} {
			if value, ok := strings.CutPrefix(scanner.Text(), prefix); ok {
				*field = strings.TrimSpace(value)
			}
		}
	}
	if err := scanner.Err(); err != nil {
		return Key{}, fmt.Errorf("no key of an epoch: %w", err)
	}
	if k.Class != Ordinary && k.Class != Strict || k.Epoch == "" {
		return Key{}, errors.New("opened, and there is no key of an epoch in it")
	}
	ids, err := age.ParseIdentities(bytes.NewReader(text))
	if err != nil || len(ids) != 1 {
		return Key{}, errors.New("opened, and there is not one age identity in it")
	}
	recipient, identity := halves(ids[0])
	if recipient == "" {
		return Key{}, errors.New("opened, and its identity is of a kind that no epoch has")
	}
	k.Recipient, k.Identity = recipient, identity
	return k, nil
}

// halves are the texts of an identity's public and private half.
func halves(id age.Identity) (recipient, identity string) {
	switch id := id.(type) {
	case *age.HybridIdentity:
		return id.Recipient().String(), id.String()
	case *age.X25519Identity:
		return id.Recipient().String(), id.String()
	}
	return "", ""
}

// Open opens a key file of either form: a sealed one with the auditor's own
// identities, or the clear form of recorder.EpochKeys, for which own may be
// nil. Only the halves that the file holds are set.
func Open(text []byte, own []age.Identity) (recorder.EpochKeys, error) {
	if !Sealed(text) {
		if k, err := parseKey(text); err == nil {
			return k.keys(), nil
		}
		return recorder.ParseEpochKeys(text)
	}
	k, err := Parse(text, own)
	if err != nil {
		return recorder.EpochKeys{}, err
	}
	return k.keys(), nil
}

func (k Key) keys() recorder.EpochKeys {
	if k.Class == Strict {
		return recorder.EpochKeys{Strict: k.Recipient, StrictIdentity: k.Identity}
	}
	return recorder.EpochKeys{Recipient: k.Recipient, Identity: k.Identity}
}

// CheckRecipients refuses what age would refuse later, with a sentence that
// says what to do.
func CheckRecipients(to []age.Recipient) error {
	hybrid := slices.ContainsFunc(to, postQuantum)
	plain := slices.ContainsFunc(to, func(r age.Recipient) bool { return !postQuantum(r) })
	if hybrid && plain {
		return errors.New("post-quantum recipients (age1pq1…) and plain ones (age1…) can not be mixed in one file, " +
			"because the plain ones would take the protection away: ask for a post-quantum recipient of everybody")
	}
	return nil
}

func postQuantum(r age.Recipient) bool {
	_, ok := r.(*age.HybridRecipient)
	return ok
}
