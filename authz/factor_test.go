package authz

import (
	"encoding/base32"
	"errors"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"sallyport/internal/database"
)

func TestPromise1_EachTimeStepCountsOnce(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		ctx, alice := t.Context(), w.keyOnly("alice")
		if _, err := w.VerifyFactor(ctx, alice, w.codeAt("alice", -30*time.Second)); !errors.Is(err, ErrUsedCode) {
			t.Errorf("the code of the enrolment gave %v, want ErrUsedCode", err)
		}
		code := w.codeAt("alice", 0)
		factor, err := w.VerifyFactor(ctx, alice, " "+code[:3]+" "+code[3:]+"\n")
		if err != nil || factor.Kind != FactorTOTP || factor.Assurance != AssuranceOTP {
			t.Fatalf("a right code gave %+v, %v", factor, err)
		}
		if _, err := w.VerifyFactor(ctx, alice, code); !errors.Is(err, ErrUsedCode) {
			t.Errorf("the same code again gave %v, want ErrUsedCode", err)
		}
		next := w.codeAt("alice", 30*time.Second)
		if _, err := w.VerifyFactor(ctx, alice, next); err != nil {
			t.Errorf("the next code gave %v", err)
		}
		if _, err := w.VerifyFactor(ctx, alice, w.codeAt("alice", 90*time.Second)); !errors.Is(err, ErrWrongCode) {
			t.Errorf("a code of the far future gave %v, want ErrWrongCode", err)
		}
	})
}

func TestPromise1_OneCodeTwoNodesOneWins(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		second := w.secondNode()
		code := w.codeAt("alice", 0)
		won := race(2, func(i int) bool {
			_, err := []*Authority{w.Authority, second.Authority}[i].VerifyFactor(t.Context(), w.keyOnly("alice"), code)
			if err != nil && !errors.Is(err, ErrUsedCode) {
				t.Error(err)
			}
			return err == nil
		})
		if won != 1 {
			t.Errorf("%d of 2 logins with one code succeeded, want 1", won)
		}
	})
}

// race runs a function n times at once and counts how often it reports success.
func race(n int, attempt func(i int) bool) (won int) {
	var (
		wait sync.WaitGroup
		mu   sync.Mutex
	)
	ready := make(chan struct{})
	for i := range n {
		wait.Go(func() {
			<-ready
			if attempt(i) {
				mu.Lock()
				won++
				mu.Unlock()
			}
		})
	}
	close(ready)
	wait.Wait()
	return won
}

// secondNode is another node on the same database.
func (w *world) secondNode() *world {
	w.t.Helper()
	second := &world{t: w.t, url: w.url, ledger: &memoryLedger{}, clock: w.clock, secrets: w.secrets, db: openDatabase(w.t, w.url)}
	second.options = w.options
	second.options.Node, second.options.Ledger = "node-two", second.ledger
	var err error
	second.Authority, err = Open(w.t.Context(), second.db, second.options)
	w.ok(err)
	return second
}

func TestWrongCodesSlowDown(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		ctx, alice := t.Context(), w.keyOnly("alice")
		wrong := "000000"
		for _, offset := range []time.Duration{-30, 0, 30} {
			if wrong == w.codeAt("alice", offset*time.Second) {
				wrong = "000001"
			}
		}
		for i := range failuresAllowed - 1 {
			if _, err := w.VerifyFactor(ctx, alice, wrong); !errors.Is(err, ErrWrongCode) {
				t.Fatalf("failure %d gave %v, want ErrWrongCode", i+1, err)
			}
		}
		for _, minutes := range []time.Duration{1, 2, 4, 8, 16, 32, 60, 60} {
			_, err := w.VerifyFactor(ctx, alice, wrong)
			w.refused(err, "factor.blocked")
			if want := w.clock.Now().Add(minutes * time.Minute).Format("15:04:05 UTC"); !strings.Contains(err.Error(), want) {
				t.Errorf("%q does not say %s", err, want)
			}
			w.clock.advance(minutes*time.Minute - time.Second)
			_, err = w.VerifyFactor(ctx, alice, w.codeAt("alice", 0))
			w.refused(err, "factor.blocked") // a right code too, and that costs no further block
			refusal, err := w.BeginLogin(ctx, alice)
			w.ok(err)
			if refusal == nil || refusal.Rule != "factor.blocked" {
				t.Errorf("a login began while blocked: %v", refusal)
			}
			w.clock.advance(time.Second)
		}
		if _, err := w.VerifyFactor(ctx, alice, w.codeAt("alice", 0)); err != nil {
			t.Errorf("a right code after the block gave %v", err)
		}
		if _, err := w.VerifyFactor(ctx, alice, wrong); !errors.Is(err, ErrWrongCode) {
			t.Errorf("the first failure after a success gave %v, want ErrWrongCode", err)
		}
		// Neither the owner's login nor a quiet time makes the next block short again.
		w.clock.advance(time.Hour)
		for range failuresAllowed - 2 {
			if _, err := w.VerifyFactor(ctx, alice, wrong); !errors.Is(err, ErrWrongCode) {
				t.Fatalf("after an hour: %v", err)
			}
		}
		_, err := w.VerifyFactor(ctx, alice, wrong)
		w.refused(err, "factor.blocked")
		if want := w.clock.Now().Add(time.Hour).Format("15:04:05 UTC"); !strings.Contains(err.Error(), want) {
			t.Errorf("%q does not say %s", err, want)
		}
		// Whoever is in can stay in: to remove a stolen key, for example.
		refusal, err := w.BeginLogin(ctx, w.identity("alice"))
		w.ok(err)
		if refusal != nil {
			t.Errorf("a connection with both factors is shut out: %v", refusal)
		}
		w.ok(w.LoggedIn(ctx, w.identity("alice")))
		_, err = w.VerifyFactor(ctx, w.identity("alice"), wrong)
		w.refused(err, "factor.blocked") // a vote's own factor is not open to guessing
		if _, err := w.VerifyFactor(ctx, w.keyOnly("bob"), w.codeAt("bob", 0)); err != nil {
			t.Errorf("another person was slowed down too: %v", err)
		}
	})
}

func TestAnEmptyAnswerIsNoGuess(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		ctx, before := t.Context(), w.ledger.Last()
		for range 2 * failuresAllowed {
			for _, answer := range []string{"", " \r\n", " - "} {
				if _, err := w.VerifyFactor(ctx, w.keyOnly("alice"), answer); !errors.Is(err, ErrWrongCode) {
					t.Fatalf("%q gave %v, want ErrWrongCode", answer, err)
				}
			}
		}
		if w.ledger.Last() != before {
			t.Error("an empty answer is an event")
		}
		if notice, err := w.Notice(ctx, w.identity("alice")); err != nil || notice != "" {
			t.Errorf("an empty answer is told: %q, %v", notice, err)
		}
		if _, err := w.VerifyFactor(ctx, w.keyOnly("alice"), w.codeAt("alice", 0)); err != nil {
			t.Errorf("a right code after them gave %v", err)
		}
		w.ok(w.Freeze(ctx, w.as("sara"), "alice", "left the site"))
		_, err := w.VerifyFactor(ctx, w.keyOnly("alice"), "")
		w.refused(err, "user.frozen") // who may not come in is told so, whatever was typed
	})
}

func TestWrongCodesAreToldAtTheNextLogin(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		ctx := t.Context()
		login := func(connection string) string {
			w.clock.advance(time.Minute)
			id := w.identity("alice")
			id.Connection = connection
			w.ok(w.LoggedIn(ctx, id))
			notice, err := w.Notice(ctx, id)
			w.ok(err)
			return notice
		}
		fail := func(connection, address string) {
			w.clock.advance(time.Minute)
			id := w.keyOnly("alice")
			id.Connection, id.RemoteAddr = connection, netip.MustParseAddrPort(address)
			if _, err := w.VerifyFactor(ctx, id, "no code at all"); !errors.Is(err, ErrWrongCode) {
				t.Fatal(err)
			}
		}
		fail("C-1", "192.0.2.7:1")
		if notice := login("C-1"); notice != "" {
			t.Errorf("one's own mistype at the first login is told: %q", notice)
		}
		fail("C-thief", "192.0.2.8:1")
		fail("C-thief", "192.0.2.9:1")
		at := w.clock.Now().Format("15:04 UTC on 2006-01-02")
		notice := login("C-2")
		if !strings.Contains(notice, "2 wrong codes were given") || !strings.Contains(notice, at+" from 192.0.2.9") {
			t.Errorf("told %q", notice)
		}
		if notice := login("C-3"); notice != "" {
			t.Errorf("told twice: %q", notice)
		}
		id := w.identity("bob")
		if notice, err := w.Notice(ctx, id); err != nil || notice != "" {
			t.Errorf("another person is told %q, %v", notice, err)
		}
	})
}

func TestFailuresAreForgotten(t *testing.T) {
	f := failures{}
	for range failuresAllowed - 1 {
		f = f.more(start)
	}
	f = f.more(start.Add(failureWindow + time.Second))
	if f.count != 1 || !f.blockedUntil.IsZero() {
		t.Errorf("after a quiet time %+v, want one failure and no block", f)
	}
	for range failuresAllowed {
		f = f.more(start)
	}
	f = f.more(f.blockedUntil.Add(blocksRemembered + time.Second))
	if f.count != 1 || f.blocks != 0 || !f.blockedUntil.IsZero() {
		t.Errorf("a day after the last block %+v, want one failure and no block", f)
	}
}

func TestRecoveryCodes(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		ctx, codes := t.Context(), w.codes["alice"]
		if len(codes) != recoveryCodes {
			t.Fatalf("%d recovery codes, want %d", len(codes), recoveryCodes)
		}
		for _, code := range codes {
			if _, err := base32.StdEncoding.DecodeString(code + "======"); err != nil || len(code) != recoveryCodeLength {
				t.Errorf("%q is no 10 base32 characters", code)
			}
		}
		typed := strings.ToLower(codes[3][:5] + "-" + codes[3][5:])
		factor, err := w.VerifyFactor(ctx, w.keyOnly("alice"), typed)
		if err != nil || factor.Kind != FactorRecovery {
			t.Fatalf("a recovery code gave %+v, %v", factor, err)
		}
		if e := w.last("recovery.use"); e.UserID != "alice" {
			t.Errorf("the event is %+v", e)
		}
		if _, err := w.VerifyFactor(ctx, w.keyOnly("alice"), codes[3]); !errors.Is(err, ErrWrongCode) {
			t.Errorf("a used recovery code gave %v, want ErrWrongCode", err)
		}
		if _, err := w.VerifyFactor(ctx, w.keyOnly("bob"), codes[4]); !errors.Is(err, ErrWrongCode) {
			t.Errorf("another person's recovery code gave %v, want ErrWrongCode", err)
		}
		won := race(4, func(int) bool {
			_, err := w.VerifyFactor(ctx, w.keyOnly("alice"), codes[5])
			return err == nil
		})
		if won != 1 {
			t.Errorf("one recovery code counted %d times", won)
		}
	})
}

func TestSecretsAtRest(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		secret, err := base32Plain.DecodeString(w.secrets["alice"])
		w.ok(err)
		w.ok(w.db.Read(t.Context(), func(tx database.Tx) error {
			var sealed []byte
			if err := tx.QueryRow("SELECT secret FROM totp WHERE user_name = $1", "alice").Scan(&sealed); err != nil {
				return err
			}
			if strings.Contains(string(sealed), string(secret)) {
				t.Error("the secret lies in clear in the database")
			}
			if _, err := w.Authority.secrets.open("bob", secretVersion, sealed); err == nil {
				t.Error("a secret opens in another person's row")
			}
			if _, err := w.Authority.secrets.open("alice", secretVersion, sealed[:5]); err == nil {
				t.Error("a cut secret opens")
			}
			return nil
		}))
		for _, leaf := range w.ledger.leaves {
			if strings.Contains(string(leaf), w.secrets["alice"]) || strings.Contains(string(leaf), w.codes["alice"][0]) {
				t.Fatalf("a secret is in the ledger: %s", leaf)
			}
		}
	})
}

func TestResetTakesTwoPeople(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		ctx := t.Context()
		_, _, err := w.CreateInvite(ctx, w.as("adam"), "alice", time.Hour)
		w.refused(err, "factor.exists") // an administrator alone cannot take a person over
		w.refused(w.ResetFactor(ctx, w.as("adam"), "alice", "lost the phone"), "role.missing")
		w.refused(w.ResetFactor(ctx, w.as("sara"), "sara", "lost the phone"), "self")
		w.refused(w.ResetFactor(ctx, Actor{Via: "recover"}, "alice", "lost the phone"), "actor.unbound")
		w.ok(w.ResetFactor(ctx, w.as("sara"), "alice", "lost the phone"))
		refusal, err := w.BeginLogin(ctx, w.keyOnly("alice"))
		w.ok(err)
		if refusal == nil || refusal.Rule != "factor.none" {
			t.Errorf("a login without a factor began: %v", refusal)
		}
		_, _, err = w.CreateInvite(ctx, w.as("sara"), "alice", time.Hour)
		w.refused(err, "role.missing")
		token, _, err := w.CreateInvite(ctx, w.as("adam"), "alice", time.Hour)
		w.ok(err)
		_, err = w.Enrol(ctx, Enrolment{Token: token, Key: keyOf("alice"), Secret: w.secrets["alice"], Code: w.codeAt("alice", 0), RemoteAddr: "192.0.2.7"})
		w.ok(err) // the same key goes on
	})
}

func TestInvites(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		ctx := t.Context()
		w.ok(w.AddUser(ctx, w.as("adam"), User{Name: "nina", Display: "Nina"}))
		first, _, err := w.CreateInvite(ctx, w.as("adam"), "nina", time.Hour)
		w.ok(err)
		if len(first) < 26 || strings.ToLower(first) != first || strings.Contains(first, "=") {
			t.Errorf("the token %q is not 128 bits of lower-case base32", first)
		}
		token, expires, err := w.CreateInvite(ctx, w.as("adam"), "nina", time.Hour)
		w.ok(err)
		if !expires.Equal(w.clock.Now().Add(time.Hour)) {
			t.Errorf("expires %v", expires)
		}
		if _, err := w.InvitedUser(ctx, first); !errors.Is(err, ErrNotFound) {
			t.Errorf("an earlier invite is still good: %v", err)
		}
		user, err := w.InvitedUser(ctx, token)
		if err != nil || user.Name != "nina" || user.State != "pending" {
			t.Fatalf("InvitedUser: %+v, %v", user, err)
		}
		w.secrets["nina"], _, err = w.NewTOTPSecret("nina")
		w.ok(err)
		e := Enrolment{Token: token, Key: keyOf("alice"), Secret: w.secrets["nina"], Code: w.codeAt("nina", 0), RemoteAddr: "192.0.2.9"}
		_, err = w.Enrol(ctx, e)
		w.refused(err, "key.foreign")
		e.Key = keyOf("nina")
		e.Code = "12345"
		if _, err := w.Enrol(ctx, e); !errors.Is(err, ErrWrongCode) {
			t.Errorf("a wrong code gave %v, want ErrWrongCode", err)
		}
		e.TermsVersion = "abc"
		_, err = w.Enrol(ctx, e)
		w.refused(err, "terms.changed")
		e.TermsVersion, e.Code = "", w.codeAt("nina", 0)
		won := race(4, func(int) bool {
			_, err := w.Enrol(ctx, e)
			return err == nil
		})
		if won != 1 {
			t.Fatalf("one invite was used %d times", won)
		}
		if user, err = w.User(ctx, "nina"); err != nil || user.State != "active" || !user.HasTOTP {
			t.Errorf("after enrolment %+v, %v", user, err)
		}
		_, err = w.Enrol(ctx, e)
		w.refused(err, "invite.unknown")

		w.ok(w.AddUser(ctx, w.as("adam"), User{Name: "omar"}))
		token, _, err = w.CreateInvite(ctx, w.as("adam"), "omar", time.Hour)
		w.ok(err)
		w.clock.advance(time.Hour)
		if _, err := w.InvitedUser(ctx, token); !errors.Is(err, ErrNotFound) {
			t.Errorf("an expired invite is still good: %v", err)
		}
		for _, leaf := range w.ledger.leaves {
			if strings.Contains(string(leaf), token) {
				t.Fatal("a token reached the ledger")
			}
		}
	})
}

func TestLoggedIn(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		ctx := t.Context()
		w.refused(w.LoggedIn(ctx, w.keyOnly("alice")), "factor.missing")
		w.ok(w.LoggedIn(ctx, w.identity("alice")))
		if e := w.last("login.success"); len(e.Details["factors"].([]any)) != 2 {
			t.Errorf("the login's event lacks factors: %+v", e)
		}
		keys, err := w.Keys(ctx, w.as("alice"), "alice")
		w.ok(err)
		if len(keys) != 1 || !keys[0].LastUsedAt.Equal(w.clock.Now()) {
			t.Errorf("keys %+v", keys)
		}
		w.ok(w.Freeze(ctx, w.as("sara"), "alice", "left the site"))
		w.refused(w.LoggedIn(ctx, w.identity("alice")), "user.frozen")
		_, err = w.VerifyFactor(ctx, w.keyOnly("alice"), w.codeAt("alice", 0))
		w.refused(err, "user.frozen")
		w.ok(w.Unfreeze(ctx, w.as("sara"), "alice", "came back"))
		w.ok(w.RemoveKey(ctx, w.as("sara"), keyOf("alice").Fingerprint, "stolen"))
		w.refused(w.LoggedIn(ctx, w.identity("alice")), "key.removed")
	})
}

// Who guesses slowly enough for the short window is bounded by the day.
func TestSlowGuessingIsBoundedByTheDay(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		alice := w.keyOnly("alice")
		alice.Connection = "C-thief"
		guesses := 0
		for end := w.clock.Now().Add(24 * time.Hour); w.clock.Now().Before(end); w.clock.advance(failureWindow + time.Second) {
			for range failuresAllowed - 1 {
				if _, err := w.VerifyFactor(t.Context(), alice, "999999"); errors.Is(err, ErrWrongCode) {
					guesses++
				}
			}
		}
		if most := failuresADay + int(24*time.Hour/longestBlock); guesses > most {
			t.Errorf("%d guesses in a day, want at most %d", guesses, most)
		}
	})
}
