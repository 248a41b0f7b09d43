package authz

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"errors"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"sallyport/internal/testkit"
)

func line(t testing.TB, public any) string {
	t.Helper()
	key, err := ssh.NewPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	return testkit.AuthorizedLine(key)
}

func rsaLine(t testing.TB, bits int) string {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		t.Fatal(err)
	}
	return line(t, key.Public())
}

func ecdsaLine(t testing.TB, curve elliptic.Curve) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return line(t, key.Public())
}

// securityKeyLine is the public half of a FIDO key for an application.
func securityKeyLine(application string) string {
	blob := ssh.Marshal(struct {
		Type        string
		Key         []byte
		Application string
	}{ssh.KeyAlgoSKED25519, make([]byte, 32), application})
	return ssh.KeyAlgoSKED25519 + " " + base64.StdEncoding.EncodeToString(blob)
}

func certificateLine(t testing.TB) string {
	t.Helper()
	_, _, _, _, err := ssh.ParseAuthorizedKey([]byte(keyLine("subject")))
	if err != nil {
		t.Fatal(err)
	}
	subject, _, _, _, _ := ssh.ParseAuthorizedKey([]byte(keyLine("subject")))
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certificate := &ssh.Certificate{Key: subject, CertType: ssh.UserCert, ValidBefore: ssh.CertTimeInfinity}
	if err := certificate.SignCert(rand.Reader, signer); err != nil {
		t.Fatal(err)
	}
	return testkit.AuthorizedLine(certificate)
}

func TestCheckKey(t *testing.T) {
	plain := keyLine("alice")
	for name, c := range map[string]struct{ line, rule string }{
		"ed25519":                {plain, ""},
		"with comment":           {"  " + plain + " alice@laptop\n", ""},
		"P-256":                  {ecdsaLine(t, elliptic.P256()), ""},
		"RSA 3072":               {rsaLine(t, 3072), ""},
		"security key":           {securityKeyLine("ssh:"), ""},
		"named security key":     {securityKeyLine("ssh:work"), ""},
		"RSA 2048":               {rsaLine(t, 2048), "key.weak"},
		"P-384":                  {ecdsaLine(t, elliptic.P384()), "key.type"},
		"security key for a web": {securityKeyLine("https://evil.example"), "key.application"},
		"certificate":            {certificateLine(t), "key.certificate"},
		"options":                {`command="sh" ` + plain, "key.form"},
		"two keys":               {plain + "\n" + keyLine("bob"), "key.form"},
		"empty":                  {"", "key.form"},
		"garbage":                {"ssh-ed25519 AAAA", "key.form"},
		"comment line":           {"# nothing", "key.form"},
		"private key":            {"-----BEGIN OPENSSH PRIVATE KEY-----", "key.form"},
		"too long":               {plain + strings.Repeat(" x", maxKeyLine), "key.form"},
	} {
		key, err := CheckKey(c.line)
		var r *Refusal
		switch {
		case c.rule == "" && err != nil:
			t.Errorf("%s: %v", name, err)
		case c.rule != "" && (!errors.As(err, &r) || r.Rule != c.rule):
			t.Errorf("%s: %v, want a refusal by %s", name, err, c.rule)
		case c.rule == "" && (!strings.HasPrefix(key.Fingerprint, "SHA256:") || strings.Count(key.Authorized, " ") != 1):
			t.Errorf("%s: %+v", name, key)
		}
	}
	if key, err := CheckKey(plain + " ali\x1b[2Jce\u202e"); err != nil || key.Comment != "ali[2Jce" {
		t.Errorf("a hostile comment became %q, %v", key.Comment, err)
	}
}

func FuzzCheckKey(f *testing.F) {
	for _, seed := range []string{keyLine("alice"), keyLine("alice") + " comment", securityKeyLine("ssh:"), securityKeyLine("x"),
		`restrict,command="a b" ` + keyLine("bob"), "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAAQ==", "", "\x00", "# x\n" + keyLine("x"),
		ecdsaLine(f, elliptic.P521())} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		key, err := CheckKey(text)
		if err != nil {
			var r *Refusal
			if !errors.As(err, &r) || r.Sentence == "" {
				t.Errorf("%q: %v is no refusal", text, err)
			}
			return
		}
		again, err := CheckKey(key.Authorized)
		if err != nil || again.Fingerprint != key.Fingerprint || again.Authorized != key.Authorized {
			t.Errorf("%q: what was accepted is not accepted again: %+v, %v", text, again, err)
		}
		if strings.ContainsFunc(key.Authorized+key.Comment, hostile) {
			t.Errorf("%q: control characters in %+v", text, key)
		}
	})
}

func TestPromise8_AKeyBelongsToOnePersonForEver(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		ctx := t.Context()
		key := keyOf("alice")
		w.refused(w.AddKey(ctx, w.as("sara"), "bob", key), "key.foreign")
		w.refused(w.AddKey(ctx, w.as("sara"), "sara", keyOf("further")), "self")
		w.refused(w.RemoveKey(ctx, w.as("bob"), key.Fingerprint, "not mine"), "role.missing")
		w.ok(w.RemoveKey(ctx, w.as("alice"), key.Fingerprint, "lost laptop"))
		w.refused(w.RemoveKey(ctx, w.as("sara"), key.Fingerprint, "lost laptop"), "key.removed")
		w.refused(w.AddKey(ctx, w.as("sara"), "bob", key), "key.foreign")
		for user, want := range map[string]bool{"alice": false, "bob": false, "nobody\x00": false} {
			if got, err := w.KeyBelongs(ctx, user, key.Fingerprint); got != want || err != nil {
				t.Errorf("KeyBelongs(%q): %v, %v", user, got, err)
			}
		}
		w.ok(w.AddKey(ctx, w.as("sara"), "alice", key)) // found again
		if got, err := w.KeyBelongs(ctx, "alice", key.Fingerprint); !got || err != nil {
			t.Errorf("a restored key: %v, %v", got, err)
		}
		if got, err := w.KeyBelongs(ctx, "bob", key.Fingerprint); got || err != nil {
			t.Errorf("another person's key: %v, %v", got, err)
		}
		if err := w.RemoveKey(ctx, w.as("sara"), "SHA256:none", "tidy"); !errors.Is(err, ErrNotFound) {
			t.Errorf("removing nothing: %v", err)
		}
	})
}

func TestValidUserName(t *testing.T) {
	for name, want := range map[string]bool{"alice": true, "a": true, "a.b-c_9": true, strings.Repeat("a", 32): true,
		"": false, "invite": false, "system": false, "9a": false, "Alice": false, "a+b": false, "a/b": false, "a b": false, "a\n": false,
		"\xff": false, strings.Repeat("a", 33): false} {
		if got := ValidUserName(name); got != want {
			t.Errorf("ValidUserName(%q) = %v", name, got)
		}
	}
}
