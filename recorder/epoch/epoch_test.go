package epoch

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
	"filippo.io/age/armor"

	"sallyport/recorder"
	"sallyport/recorder/trec"
)

// value takes the error out of a call.
func value[T any](t testing.TB) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// person is an auditor with an identity of their own.
type person struct {
	ids []age.Identity
	to  []age.Recipient
}

func newPerson(t testing.TB) person {
	t.Helper()
	file, recipient, err := NewIdentity(time.Now(), "")
	if err != nil {
		t.Fatal(err)
	}
	return person{value[[]age.Identity](t)(ParseIdentities(file, nil)), value[[]age.Recipient](t)(ParseRecipients(recipient))}
}

func newKey(t testing.TB) (ordinary, strict Key) {
	t.Helper()
	ordinary, strict, err := New("genomics/2026Q4")
	if err != nil {
		t.Fatal(err)
	}
	return ordinary, strict
}

// A sealed key is an age file with an age identity file in it, which age alone opens, and which opens
// what is sealed to the epoch.
func TestPromise5_AgeAloneOpensASealedKey(t *testing.T) {
	alice := newPerson(t)
	ordinary, _ := newKey(t)
	file := value[[]byte](t)(Wrap(ordinary, Wrapping{To: alice.to}))
	plain := value[io.Reader](t)(age.Decrypt(armor.NewReader(bytes.NewReader(file)), alice.ids...))
	ids := value[[]age.Identity](t)(age.ParseIdentities(plain))
	var envelope bytes.Buffer
	to := value[[]age.Recipient](t)(age.ParseRecipients(strings.NewReader(ordinary.Recipient)))
	w := value[io.WriteCloser](t)(age.Encrypt(&envelope, to...))
	if _, err := io.WriteString(w, "a session's key"); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	opened := value[io.Reader](t)(age.Decrypt(&envelope, ids...))
	if text, err := io.ReadAll(opened); err != nil || string(text) != "a session's key" {
		t.Errorf("%q, %v", text, err)
	}
	if bytes.Contains(file, []byte("SECRET")) || !strings.HasPrefix(ordinary.Recipient, "age1pq1") {
		t.Error("the file is in clear, or the epoch is not post-quantum")
	}
}

func TestPromise5_EachAuditorAloneAndNobodyElse(t *testing.T) {
	alice, bob, eve := newPerson(t), newPerson(t), newPerson(t)
	ordinary, strict := newKey(t)
	for _, k := range []Key{ordinary, strict} {
		file := value[[]byte](t)(Wrap(k, Wrapping{To: append(alice.to, bob.to...)}))
		for name, p := range map[string]person{"alice": alice, "bob": bob} {
			if got, err := Parse(file, p.ids); err != nil || got != k {
				t.Errorf("%s opens %s: %v", name, k.Class, err)
			}
		}
		if _, err := Parse(file, eve.ids); !errors.Is(err, ErrNotYours) {
			t.Errorf("eve opens %s: %v", k.Class, err)
		}
		if _, err := Parse(file, nil); err == nil {
			t.Error("opened with nothing")
		}
		keys, err := Open(file, alice.ids)
		if err != nil || (keys.Identity != "") != (k.Class == Ordinary) || (keys.StrictIdentity != "") != (k.Class == Strict) {
			t.Errorf("%s: %v", k.Class, err)
		}
	}
	// The clear form still opens, and so does an opened file.
	both := Both(ordinary, strict)
	if got, err := Open(both.MarshalPrivate("genomics/2026Q4"), nil); err != nil || got != both {
		t.Errorf("the clear form: %v", err)
	}
	if got, err := Open(strict.file(), nil); err != nil || got.StrictIdentity != strict.Identity {
		t.Errorf("an opened file: %v", err)
	}
}

// Four eyes: neither the auditor nor the officer opens the file alone.
func TestPromise5_TwoLayersTakeTwoPeople(t *testing.T) {
	auditor, officer := newPerson(t), newPerson(t)
	ordinary, _ := newKey(t)
	file := value[[]byte](t)(Wrap(ordinary, Wrapping{To: auditor.to, Seal: officer.to}))
	if _, err := Parse(file, auditor.ids); !errors.Is(err, ErrNotYours) {
		t.Errorf("the auditor alone: %v", err)
	}
	if _, err := Parse(file, officer.ids); err == nil || !strings.Contains(err.Error(), "outer layer") {
		t.Errorf("the officer alone: %v", err)
	}
	inner := value[[]byte](t)(Unseal(file, officer.ids))
	if !Sealed(inner) {
		t.Fatal("the officer sees the key")
	}
	for name, text := range map[string][]byte{"unsealed": inner, "both at once": file} {
		if got, err := Parse(text, append(append([]age.Identity{}, auditor.ids...), officer.ids...)); err != nil || got != ordinary {
			t.Errorf("%s: %v", name, err)
		}
	}
	thrice := value[[]byte](t)(encrypt(file, officer.to))
	if _, err := Parse(thrice, append(append([]age.Identity{}, auditor.ids...), officer.ids...)); err == nil || !strings.Contains(err.Error(), "times over") {
		t.Errorf("three layers: %v", err)
	}
}

func TestRecipientsAreNotMixed(t *testing.T) {
	hybrid := newPerson(t)
	plain := value[*age.X25519Identity](t)(age.GenerateX25519Identity())
	if err := CheckRecipients(append(hybrid.to, plain.Recipient())); err == nil || !strings.Contains(err.Error(), "can not be mixed") {
		t.Errorf("mixed: %v", err)
	}
	for _, to := range [][]age.Recipient{hybrid.to, {plain.Recipient()}} {
		if err := CheckRecipients(to); err != nil {
			t.Error(err)
		}
	}
	ordinary, _ := newKey(t)
	file := value[[]byte](t)(Wrap(ordinary, Wrapping{To: []age.Recipient{plain.Recipient()}}))
	if got, err := Parse(file, []age.Identity{plain}); err != nil || got != ordinary {
		t.Errorf("a plain recipient: %v", err)
	}
	if _, err := Wrap(ordinary, Wrapping{}); err == nil {
		t.Error("sealed to nobody")
	}
	for _, bad := range []string{"", "age1nonsense", plain.String(), "# nothing\n"} {
		if _, err := ParseRecipients(bad); err == nil || strings.Contains(err.Error(), "SECRET-KEY-1") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestDamagedKeysAreRefusedWithoutTheirSecret(t *testing.T) {
	alice := newPerson(t)
	ordinary, _ := newKey(t)
	file := value[[]byte](t)(Wrap(ordinary, Wrapping{To: alice.to}))
	flipped := bytes.Clone(file)
	flipped[len(flipped)/2] ^= 1
	mangled := strings.Replace(string(ordinary.file()), "AGE-SECRET-KEY-PQ-1", "AGE-SECRET-KEY-PQ-1X", 1)
	for name, text := range map[string][]byte{
		"flipped":          flipped,
		"cut":              file[:len(file)-200],
		"header only":      []byte("age-encryption.org/v1\n"),
		"another identity": value[[]byte](t)(encrypt([]byte("# an identity of somebody\n"), alice.to)),
		"a slip":           value[[]byte](t)(encrypt([]byte(mangled), alice.to)),
		"no class":         value[[]byte](t)(encrypt([]byte(strings.Replace(string(ordinary.file()), "# class: ordinary", "", 1)), alice.to)),
		"too large":        value[[]byte](t)(encrypt(bytes.Repeat([]byte("# x\n"), MaxFile/4+1), alice.to)),
	} {
		if _, err := Parse(text, alice.ids); err == nil || strings.Contains(err.Error(), "SECRET") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAnIdentityUnderAPassphrase(t *testing.T) {
	file, recipient, err := NewIdentity(time.Now(), "correct horse battery")
	if err != nil || bytes.Contains(file, []byte("SECRET")) {
		t.Fatalf("not sealed: %v", err)
	}
	say := func(text string) func() (string, error) { return func() (string, error) { return text, nil } }
	ids, err := ParseIdentities(file, say("correct horse battery"))
	if err != nil || len(ids) != 1 {
		t.Fatal(err)
	}
	if got, _ := halves(ids[0]); got != recipient {
		t.Error("another recipient was printed")
	}
	if _, err := ParseIdentities(file, say("wrong")); err == nil || !strings.Contains(err.Error(), "wrong") {
		t.Errorf("a wrong passphrase: %v", err)
	}
	none := errors.New("no terminal")
	if _, err := ParseIdentities(file, func() (string, error) { return "", none }); !errors.Is(err, none) {
		t.Errorf("no terminal: %v", err)
	}
	if _, err := ParseIdentities([]byte("AGE-SECRET-KEY-1QQQ"), nil); err == nil || strings.Contains(err.Error(), "QQQ") {
		t.Errorf("nonsense: %v", err)
	}
}

// TestPromise9_WithoutTheKeyNothingOpens takes every copy of an epoch's key away, and tries what is left.
func TestPromise9_WithoutTheKeyNothingOpens(t *testing.T) {
	dir := t.TempDir()
	alice, bob := newPerson(t), newPerson(t)
	ordinary, strict := newKey(t)
	var file bytes.Buffer
	codecs := value[*trec.Codecs](t)(trec.NewCodecs(1))
	w := value[*trec.Writer](t)(trec.NewWriter(&file, trec.Options{Session: "S-1", Node: "N-1", Epoch: ordinary.Epoch, Start: time.Now(), Meta: []byte("{}"),
		Recipients: ordinary.Recipient, StrictRecipients: strict.Recipient, Signer: ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)), Codecs: codecs}))
	if _, err := w.Add(trec.Frame{Kind: trec.KindOutput, Time: time.Now(), Data: []byte("a secret result")}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Close(time.Now(), "exited"); err != nil {
		t.Fatal(err)
	}
	open := func(ids []age.Identity) error {
		_, err := trec.OpenAt(bytes.NewReader(file.Bytes()), int64(file.Len()), trec.Keys{Main: ids, Strict: ids})
		return err
	}
	var copies []string
	for name, k := range map[string]Key{"a.key.age": ordinary, "a.strict.age": strict} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, value[[]byte](t)(Wrap(k, Wrapping{To: append(alice.to, bob.to...)})), 0o600); err != nil {
			t.Fatal(err)
		}
		copies = append(copies, path)
	}
	keys := value[recorder.EpochKeys](t)(Open(value[[]byte](t)(os.ReadFile(filepath.Join(dir, "a.key.age"))), bob.ids))
	main, _, err := keys.Identities()
	if err != nil || open(main) != nil {
		t.Fatalf("before: %v, %v", err, open(main))
	}
	for _, path := range copies {
		before := value[Gone](t)(Look(path))
		gone := value[Gone](t)(Destroy(path))
		if gone != before || gone.Size == 0 || len(gone.SHA256) != 64 {
			t.Errorf("%+v, looked %+v", gone, before)
		}
	}
	left := value[[]os.DirEntry](t)(os.ReadDir(dir))
	if len(left) != 0 {
		t.Errorf("left: %v", left)
	}
	// What is left are the auditors' own identities and the recording, whose bytes still verify.
	for name, ids := range map[string][]age.Identity{"alice": alice.ids, "bob": bob.ids} {
		if err := open(ids); !errors.Is(err, trec.ErrSealed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, secret := range []string{"a secret result", ordinary.Identity, strict.Identity} {
		if bytes.Contains(file.Bytes(), []byte(secret)) {
			t.Error("the recording holds a secret in clear")
		}
	}
}

func TestDestroyTakesPlainFilesOnly(t *testing.T) {
	dir := t.TempDir()
	key, link := filepath.Join(dir, "key"), filepath.Join(dir, "link")
	if err := errors.Join(os.WriteFile(key, []byte("x"), 0o600), os.Symlink(key, link)); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{link, dir, filepath.Join(dir, "none")} {
		if _, err := Destroy(path); err == nil {
			t.Errorf("destroyed %s", path)
		}
	}
	if text, err := os.ReadFile(key); err != nil || string(text) != "x" {
		t.Errorf("%q, %v", text, err)
	}
}

// What was written over is no longer what it was, before the name goes.
func TestOverwrite(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(path, bytes.Repeat([]byte("secret "), 100), 0o600); err != nil {
		t.Fatal(err)
	}
	held := value[*os.File](t)(os.Open(path)) // as somebody who reads the disk's blocks
	defer held.Close()
	if err := overwrite(path, 700); err != nil {
		t.Fatal(err)
	}
	if text, err := io.ReadAll(held); err != nil || bytes.Contains(text, []byte("secret")) {
		t.Errorf("%q, %v", text, err)
	}
}

func TestStatementText(t *testing.T) {
	s := Statement{Epoch: "genomics/2026Q4", Recipients: []string{"SHA256:00", "SHA256:01"}, Files: []Gone{{"a", "00", 1}}, By: "rosa",
		Reason: "retention is over", At: time.Date(2027, 9, 1, 12, 0, 0, 5, time.UTC)}
	text := string(value[[]byte](t)(s.Text()))
	for _, want := range []string{StatementType, `"genomics/2026Q4"`, `"SHA256:00"`, `"2027-09-01T12:00:00Z"`, `"rosa"`} {
		if !strings.Contains(text, want) {
			t.Errorf("no %s in %s", want, text)
		}
	}
}

func FuzzParse(f *testing.F) {
	alice := newPerson(f)
	ordinary, _ := newKey(f)
	file, err := Wrap(ordinary, Wrapping{To: alice.to})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(file)
	f.Add(ordinary.file())
	f.Add([]byte("age-encryption.org/v1\n-> X25519 x\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		if k, err := Parse(text, alice.ids); err == nil && (k.Identity == "" || k.Recipient == "") {
			t.Errorf("half a key: %+v", k.Class)
		}
		_, _ = Open(text, nil) // must not panic
	})
}
