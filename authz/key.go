package authz

import (
	"bytes"
	"context"
	"crypto/rsa"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"sallyport/internal/database"
)

// Key is a registered public key. A key belongs to one person for ever, also after removal.
type Key struct {
	Fingerprint string    `json:"fingerprint"` // SHA256:…
	User        string    `json:"user"`
	Type        string    `json:"type"`
	Authorized  string    `json:"authorized"` // authorized_keys form without comment
	Comment     string    `json:"comment,omitempty"`
	CreatedAt   time.Time `json:"created_at"`
	LastUsedAt  time.Time `json:"last_used_at,omitzero"`
	RemovedAt   time.Time `json:"removed_at,omitzero"`
}

// Limits of a key. An RSA modulus above the upper one only costs time.
const (
	minRSABits = 3072
	maxRSABits = 4096
	maxKeyLine = 16 << 10
)

// CheckKey parses a line in authorized_keys form and refuses what is too weak or no public key:
// RSA below 3072 or above 4096 bits, DSA, certificates, unknown types, options, security keys
// whose application does not begin with "ssh:". The error is a *Refusal without a reference.
func CheckKey(authorized string) (Key, error) {
	key, comment, err := parseKey(authorized)
	if err != nil {
		return Key{}, err
	}
	if err := checkStrength(key); err != nil {
		return Key{}, err
	}
	comment = strings.Map(func(r rune) rune {
		if hostile(r) || r == '\uFFFD' {
			return -1
		}
		return r
	}, comment)
	if len(comment) > 200 {
		comment = strings.ToValidUTF8(comment[:200], "")
	}
	return Key{
		Fingerprint: ssh.FingerprintSHA256(key),
		Type:        key.Type(),
		Authorized:  strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key))),
		Comment:     comment,
	}, nil
}

func refuseKey(rule, sentence string) error { return &Refusal{Rule: rule, Sentence: sentence} }

// parseKey reads exactly one public key in authorized_keys form, without options.
func parseKey(authorized string) (ssh.PublicKey, string, error) {
	line := strings.TrimSpace(authorized)
	if line == "" || len(line) > maxKeyLine || strings.ContainsAny(line, "\r\n\x00") {
		return nil, "", refuseKey("key.form", "Give one public key on one line, as in a .pub file.")
	}
	if strings.Contains(line, "PRIVATE KEY") {
		return nil, "", refuseKey("key.form", "That is a private key: keep it to yourself and give the .pub file.")
	}
	key, comment, options, rest, err := ssh.ParseAuthorizedKey([]byte(line))
	if err != nil || len(bytes.TrimSpace(rest)) > 0 {
		return nil, "", refuseKey("key.form", "That is no public key in the form of a .pub file.")
	}
	if len(options) > 0 {
		return nil, "", refuseKey("key.form", "A key is registered without options before it.")
	}
	return key, comment, nil
}

func checkStrength(key ssh.PublicKey) error {
	if _, ok := key.(*ssh.Certificate); ok {
		return refuseKey("key.certificate", "A certificate is not accepted: register the key itself.")
	}
	switch key.Type() {
	case ssh.KeyAlgoED25519, ssh.KeyAlgoECDSA256:
		return nil
	case ssh.KeyAlgoRSA:
		return checkRSA(key)
	case ssh.KeyAlgoSKED25519:
		var blob struct {
			Type        string
			Key         []byte
			Application string
		}
		return checkApplication(ssh.Unmarshal(key.Marshal(), &blob), blob.Application)
	case ssh.KeyAlgoSKECDSA256:
		var blob struct {
			Type        string
			Curve       string
			Key         []byte
			Application string
		}
		return checkApplication(ssh.Unmarshal(key.Marshal(), &blob), blob.Application)
	}
	return refuseKey("key.type", "That type of key is not accepted: use ed25519, ECDSA P-256, RSA of 3072 to 4096 bits, or a security key.")
}

func checkRSA(key ssh.PublicKey) error {
	crypto, ok := key.(ssh.CryptoPublicKey)
	if !ok {
		return refuseKey("key.form", "That is no public key in the form of a .pub file.")
	}
	public, ok := crypto.CryptoPublicKey().(*rsa.PublicKey)
	if !ok {
		return refuseKey("key.form", "That is no public key in the form of a .pub file.")
	}
	if bits := public.N.BitLen(); bits < minRSABits || bits > maxRSABits {
		return refuseKey("key.weak", fmt.Sprintf("An RSA key needs %d to %d bits, and this has %d.", minRSABits, maxRSABits, bits))
	}
	return nil
}

func checkApplication(err error, application string) error {
	if err != nil || !strings.HasPrefix(application, "ssh:") {
		return refuseKey("key.application", "That security key was not made for ssh: its application must begin with ssh:.")
	}
	return nil
}

// denyKey checks a key again where it is about to be stored, as a denial.
func denyKey(k Key) (Key, error) {
	checked, err := CheckKey(k.Authorized)
	var r *Refusal
	if errors.As(err, &r) {
		return Key{}, deny(r.Rule, r.Sentence, r.Cause)
	}
	if err != nil {
		return Key{}, err
	}
	if k.Fingerprint != "" && k.Fingerprint != checked.Fingerprint {
		return Key{}, deny("key.form", "The key and its fingerprint do not belong together.", "")
	}
	if k.Comment != "" {
		if err := checkText("comment", k.Comment, 0); err != nil {
			return Key{}, err
		}
		checked.Comment = k.Comment
	}
	return checked, nil
}

const selectKeys = `SELECT fingerprint, user_name, key_type, authorized, comment_text, created_at, last_used_at, removed_at
	FROM user_keys `

func scanKey(row database.Scanner) (Key, error) {
	var (
		k                      Key
		created, used, removed int64
	)
	err := row.Scan(&k.Fingerprint, &k.User, &k.Type, &k.Authorized, &k.Comment, &created, &used, &removed)
	if errors.Is(err, sql.ErrNoRows) {
		return Key{}, ErrNotFound
	}
	k.CreatedAt, k.LastUsedAt, k.RemovedAt = fromMilliseconds(created), fromMilliseconds(used), fromMilliseconds(removed)
	return k, err
}

func loadKey(tx database.Tx, fingerprint string) (Key, error) {
	return scanKey(tx.QueryRow(selectKeys+"WHERE fingerprint = $1", column(fingerprint)))
}

// keyLive reports whether a key is registered for the user and not removed.
func keyLive(tx database.Tx, user, fingerprint string) (bool, error) {
	k, err := loadKey(tx, fingerprint)
	if errors.Is(err, ErrNotFound) {
		return false, nil
	}
	return err == nil && k.User == user && k.RemovedAt.IsZero(), err
}

// Keys lists a person's keys, removed ones included: one's own, or anybody's for a site role.
func (a *Authority) Keys(ctx context.Context, by Actor, user string) ([]Key, error) {
	var keys []Key
	err := a.db.Read(ctx, func(tx database.Tx) error {
		asker, err := loadActor(tx, by)
		if err != nil {
			return err
		}
		if !by.unbound() && asker.Name != user && asker.SiteRole == NoSiteRole {
			return deny("role.missing", "You may list only your own keys.", "")
		}
		if _, err := loadUser(tx, user); err != nil {
			return err
		}
		keys = nil
		return tx.Each(func(row database.Scanner) error {
			k, err := scanKey(row)
			keys = append(keys, k)
			return err
		}, selectKeys+"WHERE user_name = $1", user)
	})
	slices.SortFunc(keys, func(x, y Key) int {
		if c := x.CreatedAt.Compare(y.CreatedAt); c != 0 {
			return c
		}
		return compare(x.Fingerprint, y.Fingerprint)
	})
	return keys, a.answer(ctx, by, a.userEvent("key.list", user), err)
}

func keyEvent(opType, fingerprint string) Event {
	if fingerprint == "" {
		fingerprint = "-"
	}
	return Event{OpType: opType, ResourceType: "key", ResourceID: fingerprint}
}

// AddKey registers a further key for a person. A security administrator may do it, never for themselves.
func (a *Authority) AddKey(ctx context.Context, by Actor, user string, k Key) error {
	return a.change(ctx, by, keyEvent("key.add", k.Fingerprint), func(w *work) error {
		if _, err := w.need("register keys", SiteSecurity); err != nil {
			return err
		}
		if err := w.other(user, "register a key"); err != nil {
			return err
		}
		if _, err := w.target(user); err != nil {
			return err
		}
		checked, err := denyKey(k)
		if err != nil {
			return err
		}
		w.event.ResourceID = checked.Fingerprint
		known, err := loadKey(w.tx, checked.Fingerprint)
		switch {
		case errors.Is(err, ErrNotFound):
			if err := w.insertKey(user, checked); err != nil {
				return err
			}
		case err != nil:
			return err
		case known.User != user:
			return denyForeignKey(known.User)
		case known.RemovedAt.IsZero():
			return deny("key.exists", "That key is registered already.", "")
		default:
			// A security administrator may give a key back to the one person it belongs to.
			_, err := w.tx.Exec("UPDATE user_keys SET removed_at = 0 WHERE fingerprint = $1", checked.Fingerprint)
			if err != nil {
				return err
			}
		}
		return w.done(map[string]any{"user": user, "type": checked.Type, "comment": checked.Comment})
	})
}

func denyForeignKey(holder string) error {
	return deny("key.foreign", "That key belongs to somebody else; every person needs a key of their own.", "it belongs to "+holder)
}

func (w *work) insertKey(user string, k Key) error {
	_, err := w.tx.Exec(`INSERT INTO user_keys (fingerprint, user_name, key_type, authorized, comment_text,
			created_at, last_used_at, removed_at) VALUES ($1, $2, $3, $4, $5, $6, 0, 0)`,
		k.Fingerprint, user, k.Type, k.Authorized, k.Comment, milliseconds(w.now))
	return err
}

// RemoveKey ends a key; connections that it opened end too. A security administrator may do it,
// and people may remove keys of their own.
func (a *Authority) RemoveKey(ctx context.Context, by Actor, fingerprint, reason string) error {
	return a.change(ctx, by, keyEvent("key.remove", fingerprint), func(w *work) error {
		asker, err := w.actor()
		if err != nil {
			return err
		}
		k, err := loadKey(w.tx, fingerprint)
		if err != nil && !errors.Is(err, ErrNotFound) {
			return err
		}
		if !by.unbound() && asker.SiteRole != SiteSecurity && k.User != asker.Name {
			return deny("role.missing", "Only a security administrator may remove another person's key.", "")
		}
		if err != nil {
			return err
		}
		if err := checkText("reason", reason, minNote); err != nil {
			return err
		}
		n, err := w.tx.Exec("UPDATE user_keys SET removed_at = $1 WHERE fingerprint = $2 AND removed_at = 0",
			milliseconds(w.now), fingerprint)
		if err != nil {
			return err
		}
		if n == 0 {
			return deny("key.removed", "That key was removed before.", "")
		}
		return w.done(map[string]any{"user": k.User, "reason": reason})
	})
}

// KeyBelongs reports whether a live key with that fingerprint is registered for the user. It
// reveals nothing more: it is what an unauthenticated client can ask for.
func (a *Authority) KeyBelongs(ctx context.Context, user, fingerprint string) (belongs bool, err error) {
	err = a.db.Read(ctx, func(tx database.Tx) error {
		belongs, err = keyLive(tx, user, fingerprint)
		return err
	})
	if err != nil {
		return false, fmt.Errorf("key: %w", err)
	}
	return belongs, nil
}
