package authz

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"
	"time"

	"sallyport/internal/database"
)

const (
	inviteBytes   = 20 // of randomness in a token: 160 bits, 32 characters
	defaultInvite = 72 * time.Hour
	longestInvite = 30 * 24 * time.Hour
)

// inviteHash is what is stored of a token. A token has enough randomness to need no salt.
func inviteHash(token string) []byte {
	hash := sha256.Sum256([]byte(strings.ToLower(strings.TrimSpace(token))))
	return hash[:]
}

// CreateInvite makes a one-time invite for a person; the token is returned once and only its
// hash is kept. Earlier unused invites of the person end. An administrator may do it, never for
// themselves and never for a person who has a second factor: that must be reset first, by somebody else.
// valid is at most 30 days; 0 is three days.
func (a *Authority) CreateInvite(ctx context.Context, by Actor, user string, valid time.Duration) (token string, expires time.Time, err error) {
	random, err := a.randomBytes(inviteBytes)
	if err != nil {
		return "", time.Time{}, err
	}
	token = strings.ToLower(base32Plain.EncodeToString(random))
	if valid == 0 {
		valid = defaultInvite
	}
	err = a.change(ctx, by, a.userEvent("invite.create", user), func(w *work) error {
		if _, err := w.need("invite people", SiteAdmin); err != nil {
			return err
		}
		if err := w.other(user, "make an invite"); err != nil {
			return err
		}
		if valid < 0 || valid > longestInvite {
			return deny("input.time", "An invite is valid for at most 30 days.", "")
		}
		u, err := w.target(user)
		if err != nil {
			return err
		}
		if u.HasTOTP {
			return deny("factor.exists", fmt.Sprintf("%s has a second factor: a security administrator must reset it first.", user), "")
		}
		if u.State == stateFrozen {
			return deny("user.frozen", fmt.Sprintf("%s is frozen.", user), "")
		}
		expires = w.now.Add(valid)
		_, err = w.tx.Exec("UPDATE invites SET ended_at = $1 WHERE user_name = $2 AND used_at = 0 AND ended_at = 0",
			milliseconds(w.now), user)
		if err != nil {
			return err
		}
		_, err = w.tx.Exec(`INSERT INTO invites (hash, user_name, created_at, created_by, expires_at, used_at, ended_at)
			VALUES ($1, $2, $3, $4, $5, 0, 0)`, inviteHash(token), user, milliseconds(w.now), by.name(), milliseconds(expires))
		if err != nil {
			return err
		}
		return w.done(map[string]any{"expires": expires})
	})
	if err != nil {
		return "", time.Time{}, err
	}
	return token, expires, nil
}

// InvitedUser returns the person whom an unused, unexpired token invites.
func (a *Authority) InvitedUser(ctx context.Context, token string) (user User, err error) {
	err = a.db.Read(ctx, func(tx database.Tx) error {
		user, err = scanUser(tx.QueryRow(selectUsers+`WHERE name = (SELECT user_name FROM invites
			WHERE hash = $1 AND used_at = 0 AND ended_at = 0 AND expires_at > $2) AND frozen_at = 0`,
			inviteHash(token), milliseconds(a.now())))
		return err
	})
	return user, err
}

// Enrolment is what a person binds with an invite.
type Enrolment struct {
	Token        string
	Key          Key    // verified by the connection's signature
	Secret       string // base32 TOTP secret, made by NewTOTPSecret
	Code         string // a code that the person typed, proving the authenticator works
	TermsVersion string // the version that was shown and accepted; "" when there are no terms
	RemoteAddr   string
	Connection   string
}

// Enrol binds key and second factor in one transaction, uses up the token and returns ten
// recovery codes. ErrWrongCode lets the person try the code again; a *Refusal is final.
func (a *Authority) Enrol(ctx context.Context, e Enrolment) (recovery []string, err error) {
	by := Actor{RemoteAddr: e.RemoteAddr, Connection: e.Connection, Via: "ssh"}
	if user, err := a.InvitedUser(ctx, e.Token); err == nil {
		by.User = user.Name // whoever holds the token acts as the invited person
	} else if !errors.Is(err, ErrNotFound) {
		return nil, fmt.Errorf("enrol: %w", err)
	}
	wrong := false
	err = a.change(ctx, by, a.userEvent("user.enrol", by.User), func(w *work) error {
		recovery, wrong = nil, false
		user, key, err := w.checkEnrolment(e)
		if err != nil {
			return err
		}
		step, secret, err := checkSecret(e, w.now)
		if err != nil {
			return err
		}
		if step == 0 {
			wrong = true
			event := w.event
			event.Result = ResultFailed
			event.Details = map[string]any{"rule": "factor.wrong"}
			_, err := w.recordEvent(event)
			return err
		}
		if recovery, err = w.bindFactor(user, secret, step); err != nil {
			return err
		}
		return w.finishEnrolment(e, user, key)
	})
	switch {
	case err != nil:
		return nil, err
	case wrong:
		return nil, ErrWrongCode
	}
	return recovery, nil
}

// checkEnrolment denies an enrolment that no code could complete.
func (w *work) checkEnrolment(e Enrolment) (User, Key, error) {
	if w.by.User == "" {
		return User{}, Key{}, deny("invite.unknown", "That invite is not valid, used or expired: ask for a new one.", "")
	}
	user, err := w.target(w.by.User)
	if err != nil {
		return User{}, Key{}, err
	}
	if user.State == stateFrozen {
		return User{}, Key{}, deny("user.frozen", "Your account is frozen.", "frozen because: "+user.FrozenReason)
	}
	if user.HasTOTP {
		return User{}, Key{}, deny("factor.exists", "You have a second factor already.", "")
	}
	terms, _, err := loadTerms(w.tx)
	if err != nil {
		return User{}, Key{}, err
	}
	if terms != e.TermsVersion {
		return User{}, Key{}, deny("terms.changed", "The terms changed meanwhile: begin again to read the present ones.", "")
	}
	key, err := denyKey(e.Key)
	if err != nil {
		return User{}, Key{}, err
	}
	known, err := loadKey(w.tx, key.Fingerprint)
	switch {
	case errors.Is(err, ErrNotFound):
		return user, key, nil
	case err != nil:
		return User{}, Key{}, err
	case known.User != user.Name:
		return User{}, Key{}, denyForeignKey(known.User)
	case !known.RemovedAt.IsZero():
		return User{}, Key{}, deny("key.removed", "That key was removed: use a new one.", "")
	}
	return user, Key{}, nil // known already: nothing to insert
}

func checkSecret(e Enrolment, now time.Time) (step int64, secret []byte, err error) {
	secret, err = base32Plain.DecodeString(e.Secret)
	if err != nil || len(secret) != totpSecretBytes {
		return 0, nil, errors.New("the one-time secret is none that NewTOTPSecret makes")
	}
	code := normalise(e.Code)
	if !isTOTP(code) {
		return 0, secret, nil
	}
	step, err = matchTOTP(e.Secret, code, now)
	return step, secret, err
}

// bindFactor stores the secret, with the code that proved it as used, and makes recovery codes.
func (w *work) bindFactor(user User, secret []byte, step int64) ([]string, error) {
	nonce, err := w.a.randomBytes(w.a.secrets.totp.NonceSize())
	if err != nil {
		return nil, err
	}
	_, err = w.tx.Exec("INSERT INTO totp (user_name, key_version, secret, last_step, created_at) VALUES ($1, $2, $3, $4, $5)",
		user.Name, secretVersion, w.a.secrets.seal(user.Name, nonce, secret), step, milliseconds(w.now))
	if err != nil {
		return nil, err
	}
	codes := make([]string, recoveryCodes)
	for i := range codes {
		random, err := w.a.randomBytes(7)
		if err != nil {
			return nil, err
		}
		codes[i] = base32Plain.EncodeToString(random)[:recoveryCodeLength]
		_, err = w.tx.Exec("INSERT INTO recovery_codes (user_name, hash, used_at) VALUES ($1, $2, 0)",
			user.Name, w.a.secrets.recoveryHash(user.Name, codes[i]))
		if err != nil {
			return nil, err
		}
	}
	return codes, nil
}

// finishEnrolment uses up the token, binds the key unless it is known, and records the whole.
func (w *work) finishEnrolment(e Enrolment, user User, key Key) error {
	n, err := w.tx.Exec(`UPDATE invites SET used_at = $1 WHERE hash = $2 AND user_name = $3 AND used_at = 0
		AND ended_at = 0 AND expires_at > $4`, milliseconds(w.now), inviteHash(e.Token), user.Name, milliseconds(w.now))
	if err != nil {
		return err
	}
	if n != 1 {
		return deny("invite.used", "That invite is not valid, used or expired: ask for a new one.", "")
	}
	fingerprint := e.Key.Fingerprint
	if key.Fingerprint != "" {
		fingerprint = key.Fingerprint
		if err := w.insertKey(user.Name, key); err != nil {
			return err
		}
	}
	_, err = w.tx.Exec("UPDATE users SET enrolled_at = $1 WHERE name = $2 AND enrolled_at = 0", milliseconds(w.now), user.Name)
	if err != nil {
		return err
	}
	if e.TermsVersion != "" {
		_, err = w.tx.Exec("UPDATE users SET terms_version = $1, terms_at = $2 WHERE name = $3",
			e.TermsVersion, milliseconds(w.now), user.Name)
		if err != nil {
			return err
		}
	}
	return w.done(map[string]any{"fingerprint": fingerprint, "factor": FactorTOTP, "recovery_codes": recoveryCodes,
		"terms_version": e.TermsVersion})
}
