package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"sallyport/authz"
	"sallyport/bastion/console"
	"sallyport/internal/config"
	"sallyport/internal/node"
	"sallyport/internal/testkit"
	"sallyport/recorder"
	"sallyport/recorder/trec"
)

// command runs the command with words, and returns exit code, output and errors.
func command(t *testing.T, stdin string, words ...string) (int, string, string) {
	t.Helper()
	// The tests must not meet a node of this machine.
	t.Setenv("SALLYPORT_CONFIG", "/nonexistent/sallyport.yaml")
	t.Setenv("SALLYPORT_SOCKET", "")
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "in"), []byte(stdin), 0o600); err != nil {
		t.Fatal(err)
	}
	in, err := os.Open(filepath.Join(dir, "in"))
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := os.Create(filepath.Join(dir, "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	var errOut bytes.Buffer
	code := run(t.Context(), words, streams{in, out, &errOut})
	text, err := os.ReadFile(out.Name())
	if err != nil {
		t.Fatal(err)
	}
	return code, string(text), errOut.String()
}

func TestWithoutWordsItSaysWhatItIs(t *testing.T) {
	code, out, _ := command(t, "")
	if code != 0 || !strings.HasPrefix(out, "Sallyport is the gate") || !strings.Contains(out, "sallyport demo") {
		t.Errorf("%d\n%s", code, out)
	}
	if lines := strings.Count(out, "\n"); lines > 48 {
		t.Errorf("%d lines are more than a screenful", lines)
	}
}

func TestExitCodes(t *testing.T) {
	for _, c := range []struct {
		words []string
		code  int
		told  string
	}{
		{[]string{"nonsense"}, 2, "no verb"},
		{[]string{"user"}, 2, ""},
		{[]string{"user", "nonsense"}, 2, "no verb"},
		{[]string{"user", "add", "--nonsense"}, 2, "unknown flag"},
		{[]string{"user", "add"}, 2, "NAME is missing"},
		{[]string{"init"}, 2, "missing"},
		{[]string{"init", "/nonexistent"}, 2, "--name"},
		{[]string{"serve"}, 1, "no configuration"},
		{[]string{"user", "ls"}, 1, "SALLYPORT_SOCKET"},
		{[]string{"access", "genomics/db1"}, 1, "SALLYPORT_SOCKET"},
		{[]string{"access", "one", "two"}, 2, "no verb"},
		{[]string{"user", "ls", "--socket", "/nonexistent/socket"}, 1, "does not answer"},
		{[]string{"recover", "--admin", "ada"}, 2, "--reason"},
		{[]string{"verify"}, 2, "PATH"},
		{[]string{"verify", "--all", "x"}, 2, "PATH"},
		{[]string{"verify", "x"}, 2, "public key"},
		{[]string{"replay", "x"}, 2, "--identity"},
		{[]string{"export", "x", "--format", "mp4", "--identity", "y"}, 2, "jsonl, raw or envelope"},
		{[]string{"epoch", "new", "../x"}, 2, "no name"},
		{[]string{"epoch", "new", "Genomics"}, 2, "no name"},
		{[]string{"epoch", "new", "x"}, 2, "--to"},
		{[]string{"epoch", "new", "x", "--plain", "--to", "age1x"}, 2, "--to"},
		{[]string{"epoch", "new", "x", "--replaces", "y/2026Q4"}, 2, "an epoch of x"},
		{[]string{"epoch", "new", "x", "--quarter", "2026Q4.1"}, 2, "2026Q4.2"},
		{[]string{"epoch", "rewrap", "x"}, 2, "--to"},
		{[]string{"epoch", "unseal", "x"}, 2, "--out"},
		{[]string{"epoch", "shred", "x"}, 2, "--pub"},
		{[]string{"--version"}, 0, ""},
		{[]string{"epoch", "new", "x", "--quarter", "autumn"}, 2, "no quarter"},
		{[]string{"completion", "csh"}, 2, "no shell"},
		{[]string{"version"}, 0, ""},
		{[]string{"version", "--json"}, 0, ""},
		{[]string{"help", "user", "add"}, 0, ""},
	} {
		code, out, told := command(t, "", c.words...)
		if code != c.code || !strings.Contains(told, c.told) {
			t.Errorf("%q: exit code %d, want %d: %s%s", c.words, code, c.code, out, told)
		}
		if c.told != "" && (!strings.HasPrefix(told, "sallyport: ") || strings.Count(told, "\n") != 1) {
			t.Errorf("%q: not one sentence: %q", c.words, told)
		}
	}
}

func TestForNode(t *testing.T) {
	got := forNode([]string{"--config", "x", "user", "--socket=y", "add", "bob", "--config=z", "--", "--config", "w"})
	if want := []string{"user", "add", "bob", "--", "--config", "w"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestCompletionKnowsTheVerbs(t *testing.T) {
	for _, shell := range []string{"bash", "zsh", "fish"} {
		if code, out, _ := command(t, "", "completion", shell); code != 0 || !strings.Contains(out, "sallyport") {
			t.Errorf("%s: %d", shell, code)
		}
	}
	_, out, _ := command(t, "", "__complete", "epoch", "")
	for _, verb := range []string{"add", "ls", "new"} {
		if !strings.Contains(out, verb+"\t") {
			t.Errorf("epoch %s is not offered:\n%s", verb, out)
		}
	}
}

func TestEpochNewMakesAPairAndNeverWritesOver(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "keys")
	words := []string{"epoch", "new", "genomics", "--quarter", "2026Q4", "--out", dir, "--plain"}
	if code, _, told := command(t, "", words...); code != 0 {
		t.Fatal(told)
	}
	private := filepath.Join(dir, "genomics-2026Q4.key")
	if info, err := os.Stat(private); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("private file: %v %v", info, err)
	}
	keys, err := openEpoch(private, nil)
	if err != nil || keys.Identity == "" || keys.StrictIdentity == "" {
		t.Errorf("private file does not open: %v", err)
	}
	public, err := openEpoch(filepath.Join(dir, "genomics-2026Q4.pub"), nil)
	if err != nil || public != keys.Public() {
		t.Errorf("public file %+v, %v", public, err)
	}
	if code, _, told := command(t, "", words...); code != 1 || !strings.Contains(told, "never written over") {
		t.Errorf("a second time: %d %s", code, told)
	}
}

// recorded writes one recording of a shell and returns its path, the auditor's key file and the node's public key file.
func recorded(t *testing.T) (recording, identity, nodeKey string) {
	t.Helper()
	return recordedAs(t, authz.ActionShell)
}

func recordedAs(t *testing.T, action authz.Action) (recording, identity, nodeKey string) {
	t.Helper()
	return recordedWith(t, func(m *recorder.Meta) { m.Action = string(action) }, true)
}

// recordedWith changes what the sealed description says; without an end nothing of the recording is signed.
func recordedWith(t *testing.T, change func(*recorder.Meta), ended bool) (recording, identity, nodeKey string) {
	t.Helper()
	dir := t.TempDir()
	keys, err := recorder.NewEpochKeys()
	if err != nil {
		t.Fatal(err)
	}
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	line, err := ssh.NewPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	identity, nodeKey = filepath.Join(dir, "epoch.key"), filepath.Join(dir, "node.pub")
	err = errors.Join(os.WriteFile(identity, keys.MarshalPrivate("test"), 0o600), os.WriteFile(nodeKey, ssh.MarshalAuthorizedKey(line), 0o600))
	if err != nil {
		t.Fatal(err)
	}
	about := recorder.Meta{Session: "S-01TEST", Number: 1, Node: "N-test", Epoch: "p/2026Q4", Start: time.Now(), Action: string(authz.ActionShell)}
	change(&about)
	meta, err := json.Marshal(about)
	if err != nil {
		t.Fatal(err)
	}
	codecs, err := trec.NewCodecs(1)
	if err != nil {
		t.Fatal(err)
	}
	var file bytes.Buffer
	w, err := trec.NewWriter(&file, trec.Options{Session: "S-01TEST", Node: "N-test", Epoch: "p/2026Q4", Start: time.Now(), Meta: meta,
		Recipients: keys.Recipient, Signer: private, Codecs: codecs})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Add(trec.Frame{Kind: trec.KindOutput, Time: time.Now(), Data: []byte("hello from the data server\r\n")}); err != nil {
		t.Fatal(err)
	}
	if ended {
		_, err = w.Close(time.Now(), "exited")
	} else {
		_, err = w.Seal(trec.EffortFast)
	}
	if err != nil {
		t.Fatal(err)
	}
	recording = filepath.Join(dir, "S-01TEST.trec")
	if err := os.WriteFile(recording, file.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return recording, identity, nodeKey
}

func TestPromise4_VerifyReplayAndExportOfflineAndAFlippedByte(t *testing.T) {
	recording, identity, key := recorded(t)
	if code, out, told := command(t, "", "verify", recording, "--key", key); code != 0 || !strings.Contains(out, "intact") {
		t.Errorf("verify: %d %s%s", code, out, told)
	}
	var report struct {
		Intact  bool   `json:"intact"`
		Session string `json:"session"`
	}
	code, out, _ := command(t, "", "verify", recording, "--key", key, "--json")
	if err := json.Unmarshal([]byte(out), &report); code != 0 || err != nil || !report.Intact || report.Session != "S-01TEST" {
		t.Errorf("verify --json: %d %+v %v", code, report, err)
	}
	if code, out, told := command(t, "", "export", recording, "--format", "text", "--identity", identity, "--key", key); code != 0 || !strings.Contains(out, "hello from the data server") {
		t.Errorf("export: %d %q %s", code, out, told)
	}
	if code, out, told := command(t, "", "replay", recording, "--identity", identity, "--key", key, "--speed", "64"); code != 0 || !strings.Contains(out, "hello from the data server") {
		t.Errorf("replay: %d %q %s", code, out, told)
	}
	if code, _, told := command(t, "", "replay", recording, "--identity", identity, "--speed", "64"); code != 0 || !strings.Contains(told, "not verified") {
		t.Errorf("replay without the node's key: %d %s", code, told)
	}

	content, err := os.ReadFile(recording)
	if err != nil {
		t.Fatal(err)
	}
	content[len(content)/2] ^= 1
	flipped := filepath.Join(t.TempDir(), "S-01TEST.trec")
	if err := os.WriteFile(flipped, content, 0o600); err != nil {
		t.Fatal(err)
	}
	if code, out, _ := command(t, "", "verify", flipped, "--key", key); code != 1 || !strings.Contains(out, "NOT INTACT") {
		t.Errorf("verify of a flipped byte: %d %s", code, out)
	}
	if code, out, told := command(t, "", "replay", flipped, "--identity", identity, "--key", key); code != 1 || strings.Contains(out, "hello") || !strings.Contains(told, "not intact") {
		t.Errorf("replay of a flipped byte: %d %q %s", code, out, told)
	}
}

func TestAFileTransferIsNothingToWatch(t *testing.T) {
	recording, identity, key := recordedAs(t, authz.ActionSFTP)
	for _, words := range [][]string{{"replay"}, {"export"}, {"export", "--format", "text"}, {"export", "--format", "asciicast-v2"}} {
		code, out, told := command(t, "", append(words, recording, "--identity", identity, "--key", key)...)
		if code != 1 || out != "" || !strings.Contains(told, "moved files by sftp") || !strings.Contains(told, "jsonl") {
			t.Errorf("%q: %d %q %s", words, code, out, told)
		}
	}
	for _, format := range []string{"jsonl", "raw"} {
		if code, out, told := command(t, "", "export", recording, "--identity", identity, "--key", key, "--format", format); code != 0 || out == "" {
			t.Errorf("%s: %d %q %s", format, code, out, told)
		}
	}
}

func TestAnotherProjectsKeyIsTold(t *testing.T) {
	recording, _, key := recorded(t)
	_, other, _ := recorded(t)
	program, _ := fakeSSH(t, recording, "0")
	code, _, told := command(t, "", "export", "1", "--gate", "rosa@gate", "--ssh", "'"+program+"'", "--reason", "monthly review", "--identity", other, "--key", key)
	if want := "the recording 1 is sealed to the key of p/2026Q4, which the given identity does not open"; code != 1 || !strings.Contains(told, want) || strings.Contains(told, "fetched.trec") {
		t.Errorf("%d %s, want %q", code, told, want)
	}
}

func TestHelpNamesAFileOnce(t *testing.T) {
	for _, verb := range []string{"replay", "export", "verify"} {
		_, out, _ := command(t, "", verb, "--help")
		if strings.Contains(out, "FILE with") || strings.Contains(out, "--key string") {
			t.Errorf("%s:\n%s", verb, out)
		}
	}
}

// fakeSSH writes a program that stands for ssh: it prints a file, and its own words to another.
func fakeSSH(t *testing.T, recording string, exit string) (program, wordsFile string) {
	t.Helper()
	dir := t.TempDir()
	program, wordsFile = filepath.Join(dir, "fake ssh"), filepath.Join(dir, "words")
	text := "#!/bin/sh\nprintf '%s\\n' \"$@\" > '" + wordsFile + "'\ncat '" + recording + "'\nexit " + exit + "\n"
	if err := os.WriteFile(program, []byte(text), 0o700); err != nil {
		t.Fatal(err)
	}
	return program, wordsFile
}

func TestReplayFetchesBySSH(t *testing.T) {
	recording, identity, key := recorded(t)
	temporary := t.TempDir()
	t.Setenv("TMPDIR", temporary)
	program, wordsFile := fakeSSH(t, recording, "0")
	base := []string{"replay", "1", "--gate", "mei@gate", "--ssh", "'" + program + "' -F 'my config'", "--identity", identity, "--key", key}
	if code, _, told := command(t, "", base...); code != 2 || !strings.Contains(told, "reason") {
		t.Errorf("without a reason: %d %s", code, told)
	}
	code, out, told := command(t, "", append(base, "--reason", "it's due")...)
	if code != 0 || !strings.Contains(out, "hello from the data server") {
		t.Errorf("replay: %d %q %s", code, out, told)
	}
	got, err := os.ReadFile(wordsFile)
	if err != nil {
		t.Fatal(err)
	}
	want := "-F\nmy config\n-T\n--\nmei@gate\nsession fetch 1 --purpose replay --reason 'it'\\''s due'\n"
	if string(got) != want {
		t.Errorf("ssh was given %q, want %q", got, want)
	}
	denied, _ := fakeSSH(t, "/dev/null", "3")
	if code, _, _ := command(t, "", "replay", "12", "--gate", "g", "--ssh", "'"+denied+"'", "--identity", identity, "--key", key, "--reason", "due"); code != 3 {
		t.Errorf("a denied fetch ends with %d", code)
	}
	left, err := filepath.Glob(filepath.Join(temporary, "sallyport-*"))
	if err != nil || len(left) > 0 {
		t.Errorf("fetched copies are left: %v %v", left, err)
	}
}

// TestVerbsThroughTheSocket runs a node and speaks to it as the administrator of this OS account.
func TestVerbsThroughTheSocket(t *testing.T) {
	account := osUser()
	if account == "" {
		t.Fatal("this account has no name")
	}
	dir := t.TempDir()
	code, out, told := command(t, "", "init", filepath.Join(dir, "gate"), "--name", "gate.test", "--admin", "ada", "--os-user", account,
		"--listen", "127.0.0.1:0", "--metrics", "off", "--json")
	if code != 0 {
		t.Fatalf("init: %s", told)
	}
	var made node.Made
	if err := json.Unmarshal([]byte(out), &made); err != nil {
		t.Fatal(err)
	}
	if code, _, told := command(t, "", "serve", "--check", "--config", made.Config); code != 0 {
		t.Fatalf("serve --check: %s", told)
	}
	device := serveAndEnrol(t, made)
	environment, err := device.WriteAskpass(dir)
	if err != nil {
		t.Fatal(err)
	}
	wrong, err := testkit.WriteFixedAskpass(dir, "wrong", "000000")
	if err != nil {
		t.Fatal(err)
	}
	setAll(t, wrong)
	if code, _, told := command(t, "", "user", "ls", "--config", made.Config); code != console.ExitDenied {
		t.Errorf("wrong code: %d %s", code, told)
	}
	setAll(t, environment)
	code, out, told = command(t, "", "whoami", "--json", "--config", made.Config)
	if code != 0 || !strings.Contains(out, `"via": "socket"`) {
		t.Fatalf("whoami: %d %s%s", code, out, told)
	}
	code, out, told = command(t, "", "user", "add", "bob", "--display", "Bob's \"name\" $HOME", "--config", made.Config)
	if code != 0 {
		t.Errorf("user add: %d %s%s", code, out, told)
	}
	if _, out, _ := command(t, "", "user", "show", "bob", "--config", made.Config); !strings.Contains(out, `Bob's "name" $HOME`) {
		t.Errorf("the words changed on their way: %s", out)
	}
	if code, _, told := command(t, "", "user", "show", "nobody", "--config", made.Config); code != console.ExitNotFound || !strings.HasPrefix(told, "sallyport: ") {
		t.Errorf("not found: %d %s", code, told)
	}
	if code, _, told := command(t, "no key", "key", "add", "bob", "--config", made.Config); code == 0 || !strings.HasPrefix(told, "sallyport: ") {
		t.Errorf("standard input did not arrive: %d %s", code, told)
	}
	if code, out, told := command(t, "", "verify", "--all", "--config", made.Config); code != 0 {
		t.Errorf("verify --all: %d %s%s", code, out, told)
	}
	checkpoint := filepath.Join(dir, "checkpoint")
	if _, out, _ := command(t, "", "ledger", "checkpoint", "--config", made.Config); os.WriteFile(checkpoint, []byte(out), 0o600) != nil {
		t.Fatal("checkpoint not written")
	}
	if code, out, told := command(t, "", "verify", filepath.Dir(made.Config), "--config", made.Config, "--checkpoint", checkpoint); code != 0 {
		t.Errorf("verify with a checkpoint: %d %s%s", code, out, told)
	}
	if code, _, told := command(t, "", "recover", "--admin", "ada", "--reason", "lost", "--config", made.Config); code != 1 || !strings.Contains(told, "in use") {
		t.Errorf("recover beside a running node: %d %s", code, told)
	}
	if code, _, told := command(t, "", "recover", "--config", made.Config); code != 1 || !strings.Contains(told, "the node runs already") {
		t.Errorf("recovery of the stores beside a running node: %d %s", code, told)
	}
}

func setAll(t *testing.T, environment []string) {
	t.Helper()
	for _, pair := range environment {
		name, value, _ := strings.Cut(pair, "=")
		t.Setenv(name, value)
	}
}

// serveAndEnrol runs the node until the test ends and enrols its administrator.
func serveAndEnrol(t *testing.T, made node.Made) *testkit.Authenticator {
	t.Helper()
	c, err := config.Load(made.Config)
	if err != nil {
		t.Fatal(err)
	}
	c.Limits.Drain = time.Second
	n, err := node.Open(t.Context(), c, node.Options{Log: slog.New(slog.NewTextHandler(io.Discard, nil)), Version: "test"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- n.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := errors.Join(<-ended, n.Close()); err != nil {
			t.Error(err)
		}
	})
	key, err := authz.CheckKey(testkit.AuthorizedLine(testkit.NewKey(t, t.TempDir(), "ada").Signer.PublicKey()))
	if err != nil {
		t.Fatal(err)
	}
	secret, _, err := n.Authority.NewTOTPSecret("ada")
	if err != nil {
		t.Fatal(err)
	}
	device := testkit.NewAuthenticator(t, "ada", secret)
	code, err := device.Code(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_, err = n.Authority.Enrol(t.Context(), authz.Enrolment{Token: made.Invite, Key: key, Secret: secret, Code: code, RemoteAddr: "192.0.2.1", Connection: "C-1"})
	if err != nil {
		t.Fatal(err)
	}
	return device
}

// TestExportOfTheEnvelope writes what the age command opens, and needs no identity for that.
func TestExportOfTheEnvelope(t *testing.T) {
	recording, _, _ := recorded(t)
	data, err := os.ReadFile(recording)
	if err != nil {
		t.Fatal(err)
	}
	_, envelope, _, err := trec.ReadHeader(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	if code, out, told := command(t, "", "export", recording, "--format", "envelope"); code != 0 || out != string(envelope) {
		t.Errorf("%d, %d bytes: %s", code, len(out), told)
	}
	if code, _, told := command(t, "", "export", recording, "--format", "envelope", "--input"); code != 1 || !strings.Contains(told, "no terminal") {
		t.Errorf("the key for what was typed: %d %s", code, told)
	}
}

// TestVerifyHoldsARecordingAgainstALedger says which flags belong together.
func TestVerifyHoldsARecordingAgainstALedger(t *testing.T) {
	recording, _, key := recorded(t)
	for _, c := range []struct {
		words []string
		says  string
	}{
		{[]string{"--checkpoint", "x"}, "add --ledger"},
		{[]string{"--receipt", "x"}, "add --ledger"},
		{[]string{"--write-proof", "x"}, "add --ledger"},
		{[]string{"--proof", "x", "--ledger", "y"}, "a proof stands alone"},
	} {
		if code, _, told := command(t, "", append([]string{"verify", recording, "--key", key}, c.words...)...); code != 2 || !strings.Contains(told, c.says) {
			t.Errorf("%q: %d %s", c.words, code, told)
		}
	}
}
