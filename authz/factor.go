package authz

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"
	"unicode"

	"github.com/pquerna/otp"
	"github.com/pquerna/otp/hotp"

	"sallyport/internal/database"
)

// What authenticator apps agree on (RFC 6238): SHA-1, six digits, 30 seconds.
const (
	totpPeriod      = 30 // seconds
	totpSecretBytes = 20
	totpDigits      = 6
)

// Recovery codes: ten of 50 bits.
const (
	recoveryCodes      = 10
	recoveryCodeLength = 10
)

// Wrong answers slow a person down. Only a verified key gets this far, so a stranger cannot lock anybody out.
const (
	failuresAllowed = 5
	failureWindow   = 10 * time.Minute
	firstBlock      = time.Minute
	longestBlock    = time.Hour
	// blocksRemembered is how long after a block the next one is longer still. Neither quiet nor the
	// person's own logins shorten it: who holds a stolen key gets some dozens of guesses a day.
	blocksRemembered = 24 * time.Hour
	// failuresADay is how many wrong codes within blocksRemembered make each further one cost
	// longestBlock, however slowly they came.
	failuresADay = 20
)

// NewTOTPSecret returns a fresh secret and the otpauth URI for the person's authenticator.
func (a *Authority) NewTOTPSecret(user string) (secret, uri string, err error) {
	b, err := a.randomBytes(totpSecretBytes)
	if err != nil {
		return "", "", err
	}
	secret = base32Plain.EncodeToString(b)
	// Algorithm, digits and period have their usual values: without them the QR code is smaller.
	uri = "otpauth://totp/" + url.PathEscape(a.issuer+":"+user) + "?secret=" + secret +
		"&issuer=" + url.QueryEscape(a.issuer)
	return secret, uri, nil
}

// matchTOTP returns the time step whose code the answer is, the latest first tried being the
// present one; 0 when it is none of the present, the previous and the next.
func matchTOTP(secret, code string, now time.Time) (int64, error) {
	present := now.Unix() / totpPeriod
	for _, step := range []int64{present, present - 1, present + 1} {
		ok, err := hotp.ValidateCustom(code, uint64(step), secret,
			hotp.ValidateOpts{Digits: otp.DigitsSix, Algorithm: otp.AlgorithmSHA1})
		if err != nil {
			return 0, fmt.Errorf("one-time code: %w", err)
		}
		if ok {
			return step, nil
		}
	}
	return 0, nil
}

// normalise takes out what people type around and inside a code.
func normalise(answer string) string {
	return strings.ToUpper(strings.Map(func(r rune) rune {
		if unicode.IsSpace(r) || r == '-' {
			return -1
		}
		return r
	}, answer))
}

func isTOTP(code string) bool {
	return len(code) == totpDigits && strings.Trim(code, "0123456789") == ""
}

func isRecovery(code string) bool {
	return len(code) == recoveryCodeLength && strings.Trim(code, "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567") == ""
}

// BeginLogin answers once the signature is verified: whether this person may go on to the second
// factor from this address. A refusal names the reason (frozen, no factor enrolled, blocked for a while).
// An identity that has its second factor is not blocked by wrong codes: else who stole a key could keep
// its owner from removing it.
func (a *Authority) BeginLogin(ctx context.Context, id Identity) (*Refusal, error) {
	err := a.db.Read(ctx, func(tx database.Tx) error {
		return loginAllowed(tx, id, a.now(), !id.secondFactor())
	})
	return a.loginAnswer(ctx, id, err)
}

// loginAnswer records a denied login.
func (a *Authority) loginAnswer(ctx context.Context, id Identity, err error) (*Refusal, error) {
	var d *denial
	if errors.As(err, &d) {
		event := id.event("login.refuse")
		event.Details = map[string]any{"fingerprint": id.Fingerprint, "client": id.Client, "via": id.Via}
		return a.Refuse(ctx, event, d.rule, d.sentence, d.cause), nil
	}
	if err != nil {
		return nil, fmt.Errorf("login: %w", err)
	}
	return nil, nil
}

// loginAllowed denies a login that no second factor could complete. A second factor that is still to
// come must wait while wrong codes block it.
func loginAllowed(tx database.Tx, id Identity, now time.Time, factorToCome bool) error {
	user, err := loadUser(tx, id.User)
	if errors.Is(err, ErrNotFound) {
		return deny("user.unknown", "You are not known here.", "")
	}
	if err != nil {
		return err
	}
	if id.Fingerprint != "" {
		live, err := keyLive(tx, id.User, id.Fingerprint)
		if err != nil {
			return err
		}
		if !live {
			return deny("key.removed", "Your key is no longer registered.", id.Fingerprint)
		}
	}
	if err := denyInactive(user); err != nil {
		return err
	}
	if !user.HasTOTP {
		return deny("factor.none", "You have no second factor: ask an administrator for a new invite.", "")
	}
	if !factorToCome {
		return nil
	}
	f, err := loadFailures(tx, id.User)
	if err != nil {
		return err
	}
	return f.denial(now)
}

// failures is how often a person answered wrongly of late.
type failures struct {
	count, blocks       int64
	first, blockedUntil time.Time
}

func loadFailures(tx database.Tx, user string) (failures, error) {
	var (
		f              failures
		first, blocked int64
	)
	err := tx.QueryRow("SELECT failures, first_at, blocks, blocked_until FROM login_failures WHERE user_name = $1", user).
		Scan(&f.count, &first, &f.blocks, &blocked)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return failures{}, fmt.Errorf("load login failures: %w", err)
	}
	f.first, f.blockedUntil = fromMilliseconds(first), fromMilliseconds(blocked)
	return f, nil
}

func (f failures) denial(now time.Time) error {
	if !now.Before(f.blockedUntil) {
		return nil
	}
	return deny("factor.blocked", fmt.Sprintf("Too many wrong codes: try again after %s.",
		f.blockedUntil.Format("15:04:05 UTC on 2006-01-02")), fmt.Sprintf("%d failures", f.count))
}

// more counts one more failure. The fifth within ten minutes blocks, and so does every further one,
// each time for twice as long, until a day has passed since the last block.
func (f failures) more(now time.Time) failures {
	remembered := f.blocks > 0 && now.Sub(f.blockedUntil) <= blocksRemembered
	if !remembered && (f.blocks > 0 || f.count == 0 || now.Sub(f.first) > failureWindow) {
		f = failures{first: now}
	}
	f.count++
	if f.count < failuresAllowed {
		return f
	}
	block := longestBlock
	if f.blocks < 6 { // 2^6 minutes are more than the longest
		block = firstBlock << f.blocks
	}
	f.blocks++
	f.blockedUntil = now.Add(block)
	return f
}

func (f failures) store(tx database.Tx, user string) error {
	_, err := tx.Exec(`INSERT INTO login_failures (user_name, failures, first_at, blocks, blocked_until)
		VALUES ($1, $2, $3, $4, $5) ON CONFLICT (user_name) DO UPDATE SET failures = excluded.failures,
		first_at = excluded.first_at, blocks = excluded.blocks, blocked_until = excluded.blocked_until`,
		user, f.count, milliseconds(f.first), f.blocks, milliseconds(f.blockedUntil))
	return err
}

// VerifyFactor checks a typed TOTP or recovery code. Each time step counts once, on all nodes.
// It returns ErrWrongCode or ErrUsedCode for a further try, or a *Refusal when the person must wait.
// Failures count per person and slow them down: 5 in 10 minutes, then doubling. An empty answer is no
// guess: ssh gives it where nobody sits at a terminal. It is wrong, and neither counted nor recorded.
func (a *Authority) VerifyFactor(ctx context.Context, id Identity, answer string) (Factor, error) {
	var (
		factor Factor
		failed error // kept apart from the transaction's error: a counted failure is committed
	)
	code := normalise(answer)
	err := a.commit(ctx, func(w *work) error {
		factor, failed = Factor{}, nil
		w.event = id.event("factor.success")
		if err := loginAllowed(w.tx, id, w.now, true); err != nil {
			return err
		}
		if code == "" {
			failed = ErrWrongCode
			return nil
		}
		var err error
		switch {
		case isTOTP(code):
			factor, failed, err = w.useTOTP(id.User, code)
		case isRecovery(code):
			factor, failed, err = w.useRecovery(id.User, code)
		default:
			failed = ErrWrongCode
		}
		if err != nil {
			return err
		}
		if failed != nil {
			failed, err = w.countFailure(id.User, failed)
			return err
		}
		if _, err := w.tx.Exec("UPDATE login_failures SET failures = 0 WHERE user_name = $1", id.User); err != nil {
			return err
		}
		_, err = w.record(map[string]any{"factor": factor.Kind, "fingerprint": id.Fingerprint})
		return err
	})
	refusal, err := a.loginAnswer(ctx, id, err)
	switch {
	case err != nil:
		return Factor{}, err
	case refusal != nil:
		return Factor{}, refusal
	case failed != nil:
		return Factor{}, failed
	}
	return factor, nil
}

// useTOTP matches a code and uses up its time step.
func (w *work) useTOTP(user, code string) (f Factor, failed, err error) {
	var (
		version int64
		sealed  []byte
	)
	err = w.tx.QueryRow("SELECT key_version, secret FROM totp WHERE user_name = $1", user).Scan(&version, &sealed)
	if err != nil {
		return Factor{}, nil, fmt.Errorf("load the second factor: %w", err)
	}
	secret, err := w.a.secrets.open(user, version, sealed)
	if err != nil {
		return Factor{}, nil, err
	}
	step, err := matchTOTP(base32Plain.EncodeToString(secret), code, w.now)
	if err != nil {
		return Factor{}, nil, err
	}
	if step == 0 {
		return Factor{}, ErrWrongCode, nil
	}
	n, err := w.tx.Exec("UPDATE totp SET last_step = $1 WHERE user_name = $2 AND last_step < $3", step, user, step)
	if err != nil {
		return Factor{}, nil, err
	}
	if n != 1 {
		return Factor{}, ErrUsedCode, nil
	}
	return Factor{Kind: FactorTOTP, ID: "totp", Assurance: AssuranceOTP, At: w.now}, nil, nil
}

// useRecovery matches a recovery code and uses it up.
func (w *work) useRecovery(user, code string) (f Factor, failed, err error) {
	n, err := w.tx.Exec("UPDATE recovery_codes SET used_at = $1 WHERE user_name = $2 AND hash = $3 AND used_at = 0",
		milliseconds(w.now), user, w.a.secrets.recoveryHash(user, code))
	if err != nil {
		return Factor{}, nil, err
	}
	if n != 1 {
		return Factor{}, ErrWrongCode, nil
	}
	var left int64
	err = w.tx.QueryRow("SELECT COUNT(*) FROM recovery_codes WHERE user_name = $1 AND used_at = 0", user).Scan(&left)
	if err != nil {
		return Factor{}, nil, err
	}
	event := w.event
	event.OpType, event.ResourceType, event.ResourceID = "recovery.use", "user", user
	event.Details = map[string]any{"codes_left": left}
	if _, err := w.recordEvent(event); err != nil {
		return Factor{}, nil, err
	}
	return Factor{Kind: FactorRecovery, ID: "recovery-code", Assurance: AssuranceOTP, At: w.now}, nil, nil
}

// countFailure records a wrong answer and returns what the person is to be told. A code that was
// right and used before is no guess, and does not count.
func (w *work) countFailure(user string, failed error) (error, error) {
	event := w.event
	event.OpType, event.Result = "factor.failure", ResultFailed
	event.Details = map[string]any{"rule": "factor.wrong"}
	if errors.Is(failed, ErrUsedCode) {
		// The right code, typed once more: no guess, and none of the wrong codes that people are told of.
		event.OpType, event.Details["rule"] = "factor.used", "factor.used"
		_, err := w.recordEvent(event)
		return failed, err
	}
	before, err := loadFailures(w.tx, user)
	if err != nil {
		return nil, err
	}
	after := before.more(w.now)
	today, err := w.wrongSince(user, w.now.Add(-blocksRemembered))
	if err != nil {
		return nil, err
	}
	if today+1 >= failuresADay {
		after.blockedUntil = w.now.Add(longestBlock)
	}
	if err := after.store(w.tx, user); err != nil {
		return nil, err
	}
	event.Details["failures"] = after.count
	var d *denial
	if errors.As(after.denial(w.now), &d) {
		event.Result = ResultRefused
		event.Details["rule"], event.Details["sentence"] = d.rule, d.sentence
		event.Details["blocked_until"] = after.blockedUntil
		id, err := w.recordEvent(event)
		return &Refusal{Reference: id, Rule: d.rule, Sentence: d.sentence, Cause: d.cause}, err
	}
	_, err = w.recordEvent(event)
	return failed, err
}

// wrongSince counts a person's wrong codes, whatever came between them.
func (w *work) wrongSince(user string, since time.Time) (n int64, err error) {
	err = w.tx.QueryRow("SELECT COUNT(*) FROM events WHERE user_id = $1 AND happened_at > $2 AND op_type = 'factor.failure'",
		column(user), milliseconds(since)).Scan(&n)
	return n, err
}

// LoggedIn records the login with all its factors and marks the key as used. It returns a
// *Refusal when the person or the key has lost the right meanwhile, or a factor is missing.
func (a *Authority) LoggedIn(ctx context.Context, id Identity) error {
	err := a.commit(ctx, func(w *work) error {
		w.event = id.event("login.success")
		if !id.firstFactor() || !id.secondFactor() {
			return deny("factor.missing", "A login needs two factors.", "")
		}
		if err := loginAllowed(w.tx, id, w.now, false); err != nil {
			return err
		}
		if id.Fingerprint != "" {
			_, err := w.tx.Exec("UPDATE user_keys SET last_used_at = $1 WHERE fingerprint = $2",
				milliseconds(w.now), id.Fingerprint)
			if err != nil {
				return err
			}
		}
		_, err := w.record(map[string]any{"factors": id.Factors, "fingerprint": id.Fingerprint, "key_type": id.KeyType,
			"client": id.Client, "via": id.Via, "ssh_session": fmt.Sprintf("%x", id.SessionID)})
		return err
	})
	refusal, err := a.loginAnswer(ctx, id, err)
	if refusal != nil {
		return refusal
	}
	return err
}

// Notice is what a person should know at the login that was just recorded: that wrong codes were given
// with their key since the login before. It is one sentence, or "" when there is nothing to tell.
func (a *Authority) Notice(ctx context.Context, id Identity) (string, error) {
	var (
		before, last, count int64
		from                string
	)
	err := a.db.Read(ctx, func(tx database.Tx) error {
		before, last, count, from = 0, 0, 0, ""
		err := tx.QueryRow(`SELECT happened_at FROM events WHERE user_id = $1 AND op_type = 'login.success' AND connection <> $2
			ORDER BY happened_at DESC LIMIT 1`, column(id.User), column(id.Connection)).Scan(&before)
		if err != nil && !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		return tx.Each(func(row database.Scanner) error {
			count++
			return row.Scan(&last, &from)
		}, `SELECT happened_at, remote_addr FROM events WHERE user_id = $1 AND happened_at > $2 AND op_type = 'factor.failure'
			AND connection <> $3 ORDER BY happened_at`, column(id.User), before, column(id.Connection))
	})
	if err != nil {
		return "", fmt.Errorf("notice: %w", err)
	}
	if count == 0 {
		return "", nil
	}
	return fmt.Sprintf("Since your last login %d wrong %s given with your key, the last at %s from %s: if that was not you, "+
		"remove the key and tell a security administrator.", count, plural(int(count), "code was", "codes were"),
		fromMilliseconds(last).Format("15:04 UTC on 2006-01-02"), from), nil
}

// ResetFactor removes a person's second factor and recovery codes; a new invite is needed then.
// A security administrator may do it, and an administrator makes the invite: two people.
func (a *Authority) ResetFactor(ctx context.Context, by Actor, user, reason string) error {
	return a.change(ctx, by, a.userEvent("factor.reset", user), func(w *work) error {
		if _, err := w.need("reset a second factor", SiteSecurity); err != nil {
			return err
		}
		if err := w.other(user, "reset a second factor"); err != nil {
			return err
		}
		if err := checkText("reason", reason, minNote); err != nil {
			return err
		}
		u, err := w.target(user)
		if err != nil {
			return err
		}
		if by.unbound() && !u.recoverable() {
			return deny("actor.unbound", "Recovering a node resets the second factor of an administrator or security administrator only.", "")
		}
		if !u.HasTOTP {
			return deny("factor.none", fmt.Sprintf("%s has no second factor.", user), "")
		}
		for _, statement := range []string{"DELETE FROM totp WHERE user_name = $1",
			"DELETE FROM recovery_codes WHERE user_name = $1", "DELETE FROM login_failures WHERE user_name = $1"} {
			if _, err := w.tx.Exec(statement, user); err != nil {
				return err
			}
		}
		return w.done(map[string]any{"reason": reason})
	})
}
