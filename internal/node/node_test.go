package node

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pquerna/otp/totp"
	"golang.org/x/crypto/ssh"

	"sallyport/authz"
	"sallyport/bastion"
	"sallyport/internal/config"
	"sallyport/internal/testkit"
	"sallyport/recorder"
	"sallyport/recorder/ledger"
)

// quiet are options whose log goes nowhere.
func quiet() Options { return Options{Log: slog.New(slog.DiscardHandler), Version: "test"} }

// initialised makes a node on loopback ports of the system's choice.
func initialised(t *testing.T) (*Made, *config.Config) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "gate")
	made, err := Init(t.Context(), dir, InitOptions{
		Name: "gate.test", Listen: "127.0.0.1:0", Metrics: "127.0.0.1:0", Admin: "root-admin", OSUser: "nobody", Node: quiet(),
	})
	if err != nil {
		t.Fatal(err)
	}
	c, err := config.Load(made.Config)
	if err != nil {
		t.Fatal(err)
	}
	return made, c
}

func opened(t *testing.T, c *config.Config) *Node {
	t.Helper()
	n, err := Open(t.Context(), c, quiet())
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestInitMakesWhatOnlyTheOwnerCanRead(t *testing.T) {
	made, c := initialised(t)
	dir := filepath.Dir(made.Config)
	public := map[string]bool{"node.key.pub": true, "user-ca.pub": true, "host-ca.pub": true, "ssh_host_ed25519_key.pub": true, "ssh_host_ed25519_key-cert.pub": true}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		mode := info.Mode().Perm()
		switch {
		case d.IsDir() && mode != 0o700:
			t.Errorf("folder %s has mode %o", path, mode)
		case !d.IsDir() && public[d.Name()]:
			delete(public, d.Name())
		case !d.IsDir() && mode != 0o600:
			t.Errorf("file %s has mode %o", path, mode)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(public) > 0 {
		t.Errorf("not made: %v", public)
	}
	if !strings.HasPrefix(made.Command, "ssh invite+") && !strings.HasPrefix(made.Command, "ssh -p") || !strings.HasSuffix(made.Command, "@gate.test") {
		t.Errorf("command %q", made.Command)
	}
	if !strings.HasPrefix(made.KnownHosts, "@cert-authority ") {
		t.Errorf("known_hosts %q", made.KnownHosts)
	}
	if err := Check(c); err != nil {
		t.Error(err)
	}
	// The invite is good, and the keys are independent of each other.
	n := opened(t, c)
	defer n.Close()
	u, err := n.Authority.InvitedUser(t.Context(), made.Invite)
	if err != nil || u.Name != "root-admin" || u.SiteRole != authz.SiteAdmin || u.OSUser != "nobody" {
		t.Errorf("invited %+v, %v", u, err)
	}
}

func TestInitRefusesAFolderInUse(t *testing.T) {
	made, _ := initialised(t)
	dir := filepath.Dir(made.Config)
	before, err := os.ReadFile(filepath.Join(dir, "keys", "master.key"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Init(t.Context(), dir, InitOptions{Name: "gate.test", Admin: "a", Node: quiet()}); err == nil || !strings.Contains(err.Error(), "not empty") {
		t.Fatalf("a second init: %v", err)
	}
	after, err := os.ReadFile(filepath.Join(dir, "keys", "master.key"))
	if err != nil || !bytes.Equal(before, after) {
		t.Fatalf("the second init touched the first: %v", err)
	}
}

func TestInitTakesAwayWhatItMadeWhenItFails(t *testing.T) {
	for name, o := range map[string]InitOptions{
		"name":     {Name: "no host name", Admin: "a", Node: quiet()},
		"admin":    {Name: "gate.test", Admin: "No Good", Node: quiet()},
		"database": {Name: "gate.test", Admin: "a", Database: "/dev/null/x.db", Node: quiet()},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if _, err := Init(t.Context(), dir, o); err == nil {
				t.Fatal("accepted")
			}
			entries, err := os.ReadDir(dir)
			if err != nil || len(entries) > 0 {
				t.Fatalf("left behind: %v %v", entries, err)
			}
		})
	}
}

func TestKeysMustBeSecretAndRight(t *testing.T) {
	_, c := initialised(t)
	for name, path := range map[string]string{
		"keys.master": c.Keys.Master, "keys.node": c.Keys.Node, "ca.user": c.CA.User, "ca.host": c.CA.Host, "host_keys": c.HostKeys[0],
	} {
		t.Run(name, func(t *testing.T) {
			good, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			defer func() {
				if err := errorsOf(os.WriteFile(path, good, 0o600), os.Chmod(path, 0o600)); err != nil {
					t.Fatal(err)
				}
			}()
			wants := func(what string) {
				t.Helper()
				err := Check(c)
				if err == nil || !strings.Contains(err.Error(), name) || !strings.Contains(err.Error(), path) {
					t.Errorf("%s: %v", what, err)
				}
			}
			if err := os.Chmod(path, 0o640); err != nil {
				t.Fatal(err)
			}
			wants("readable by the group")
			if err := errorsOf(os.Chmod(path, 0o600), os.WriteFile(path, []byte("rubbish"), 0o600)); err != nil {
				t.Fatal(err)
			}
			wants("rubbish")
			if name == "ca.host" {
				return // may lie elsewhere
			}
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
			wants("missing")
		})
	}
	if err := Check(c); err != nil {
		t.Fatal(err)
	}
}

func errorsOf(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func TestHostCertificateIsRenewedInTime(t *testing.T) {
	_, c := initialised(t)
	path := c.HostKeys[0] + "-cert.pub"
	first, err := readCertificate(path)
	if err != nil || first == nil || first.ValidPrincipals[0] != "gate.test" {
		t.Fatalf("certificate %+v, %v", first, err)
	}
	certify := func(now time.Time) *ssh.Certificate {
		t.Helper()
		k, err := loadKeys(c)
		if err != nil {
			t.Fatal(err)
		}
		if err := k.certify(c, testRandom{}, now); err != nil {
			t.Fatal(err)
		}
		if len(k.signers) != 2 {
			t.Fatalf("%d signers", len(k.signers))
		}
		certificate, err := readCertificate(path)
		if err != nil {
			t.Fatal(err)
		}
		return certificate
	}
	if again := certify(time.Now()); again.ValidBefore != first.ValidBefore {
		t.Error("a fresh certificate was renewed")
	}
	near := time.Unix(int64(first.ValidBefore), 0).Add(-24 * time.Hour)
	if renewed := certify(near); renewed.ValidBefore <= first.ValidBefore {
		t.Error("a certificate near its end was kept")
	}
	c.Name = "other.test"
	if renamed := certify(near); renamed.ValidPrincipals[0] != "other.test" {
		t.Errorf("the certificate is for %v", renamed.ValidPrincipals)
	}
	// Without the private key of the CA the present certificate stays.
	if err := os.Remove(c.CA.Host); err != nil {
		t.Fatal(err)
	}
	if kept := certify(near.Add(time.Hour)); kept.ValidPrincipals[0] != "other.test" {
		t.Errorf("the certificate is for %v", kept.ValidPrincipals)
	}
}

// testRandom is no randomness that matters: ed25519 needs none to sign.
type testRandom struct{}

func (testRandom) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// running runs a node until the test ends, and returns how it ended.
func running(t *testing.T, n *Node) (stop func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- n.Run(ctx) }()
	return func() error {
		cancel()
		select {
		case err := <-ended:
			return err
		case <-time.After(30 * time.Second):
			t.Fatal("the node does not stop")
			return nil
		}
	}
}

func get(t *testing.T, url string) (int, string) {
	t.Helper()
	response, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(body)
}

// eventually asks until the answer is right.
func eventually(t *testing.T, what string, right func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !right() {
		if time.Now().After(deadline) {
			t.Fatalf("not within 20 s: %s", what)
		}
		time.Sleep(10 * time.Millisecond) // between two questions, not for something to have happened
	}
}

func TestNodeServesAndStops(t *testing.T) {
	_, c := initialised(t)
	n := opened(t, c)
	stop := running(t, n)
	eventually(t, "healthy", func() bool { code, _ := get(t, "http://"+n.MetricsAddress+"/healthz"); return code == http.StatusOK })
	if code, body := get(t, "http://"+n.MetricsAddress+"/metrics"); code != http.StatusOK || !strings.Contains(body, "sallyport_build_info") || !strings.Contains(body, "sallyport_ledger_sequence") {
		t.Errorf("metrics: %d\n%.500s", code, body)
	}

	// The host certificate is what people's known_hosts asks for.
	checker := &ssh.CertChecker{IsHostAuthority: func(key ssh.PublicKey, _ string) bool {
		return bytes.Equal(key.Marshal(), n.HostCA.Marshal())
	}}
	seen := false
	_, port, err := net.SplitHostPort(n.SSHAddress)
	if err != nil {
		t.Fatal(err)
	}
	_, err = ssh.Dial("tcp", n.SSHAddress, &ssh.ClientConfig{
		User: "nobody", HostKeyAlgorithms: []string{ssh.CertAlgoED25519v01}, Timeout: 10 * time.Second,
		HostKeyCallback: func(_ string, remote net.Addr, key ssh.PublicKey) error {
			seen = true
			return checker.CheckHostKey("gate.test:"+port, remote, key)
		},
	})
	if !seen || err == nil || strings.Contains(err.Error(), "host key") {
		t.Errorf("without a key: %v, host key seen %v", err, seen)
	}

	info, err := os.Stat(n.Socket)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("socket %v, %v", info.Mode(), err)
	}
	if _, err := Open(t.Context(), c, quiet()); err == nil {
		t.Error("a second node runs on the same state")
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
	if err := n.Close(); err != nil {
		t.Error(err)
	}

	// A copy of the database's one file is all of it.
	if left, err := filepath.Glob(filepath.Join(c.State, "*-wal")); err != nil || len(left) > 0 {
		t.Errorf("after a clean stop there is %v, %v", left, err)
	}

	// Start and stop stand in the ledger.
	told := map[string]bool{}
	for _, e := range ledgerEvents(t, c, n) {
		told[e.OpType] = true
	}
	for _, op := range []string{"node.start", "node.stop"} {
		if !told[op] {
			t.Errorf("the ledger lacks %s", op)
		}
	}
}

func TestHealthSaysWhyNot(t *testing.T) {
	_, c := initialised(t)
	c.Recording.MinFree = 1 << 60 // more than any disk has
	n := opened(t, c)
	stop := running(t, n)
	url := "http://" + n.MetricsAddress + "/healthz"
	eventually(t, "unhealthy for want of space", func() bool {
		code, body := get(t, url)
		return code == http.StatusServiceUnavailable && strings.Contains(body, "free")
	})
	if err := errorsOf(stop(), n.Close()); err != nil {
		t.Error(err)
	}
}

func TestAStopThatCannotBeRecordedIsAnError(t *testing.T) {
	_, c := initialised(t)
	n := opened(t, c)
	stop := running(t, n)
	url := "http://" + n.MetricsAddress + "/healthz"
	eventually(t, "healthy", func() bool { code, _ := get(t, url); return code == http.StatusOK })
	// A ledger that is closed under the node stands for one that cannot be written.
	if err := n.Ledger.Close(); err != nil {
		t.Fatal(err)
	}
	if err := stop(); err == nil {
		t.Error("the stop could not be recorded, and the node said nothing")
	}
	_ = n.Close() // the ledger was closed before
}

func TestASessionLeftByACrashIsClosed(t *testing.T) {
	made, c := initialised(t)
	n := opened(t, c)
	ctx := t.Context()
	by := authz.Actor{Via: "init", RemoteAddr: "local"}
	enrol(t, n, made)
	if err := n.Authority.AddProject(ctx, by, authz.Project{Name: "genomics"}); err != nil {
		t.Fatal(err)
	}
	host, _, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	hostKey, err := ssh.NewPublicKey(host)
	if err != nil {
		t.Fatal(err)
	}
	server := authz.Server{Project: "genomics", Name: "db1", Address: "192.0.2.9:22", HostKey: string(bytes.TrimSpace(ssh.MarshalAuthorizedKey(hostKey)))}
	if err := n.Authority.AddServer(ctx, by, server); err != nil {
		t.Fatal(err)
	}
	if err := n.Authority.AddUser(ctx, by, authz.User{Name: "alice"}); err != nil {
		t.Fatal(err)
	}
	invite, err := n.inviteFor(ctx, by, "alice", 22)
	if err != nil {
		t.Fatal(err)
	}
	enrol(t, n, invite)
	until := time.Now().Add(24 * time.Hour)
	if _, err := n.Authority.AddMember(ctx, by, authz.Membership{Project: "genomics", User: "root-admin", Role: authz.RoleManager, Reason: "for the test", ExpiresAt: until}); err != nil {
		t.Fatal(err)
	}
	manager := authz.Actor{User: "root-admin", RemoteAddr: "192.0.2.1", Via: "ssh"}
	if _, err := n.Authority.AddMember(ctx, manager, authz.Membership{Project: "genomics", User: "alice", Role: authz.RoleResearcher, Reason: "for the test", ExpiresAt: until}); err != nil {
		t.Fatal(err)
	}
	keys, err := recorder.NewEpochKeys()
	if err != nil {
		t.Fatal(err)
	}
	epoch := authz.Epoch{ID: "genomics/2026Q4", Project: "genomics", Recipient: keys.Recipient, Strict: keys.Strict, ExpiresAt: time.Now().Add(24 * time.Hour)}
	if err := n.Authority.AddEpoch(ctx, by, epoch); err != nil {
		t.Fatal(err)
	}
	s, err := n.Authority.OpenSession(ctx, authz.Session{Connection: "C-1", User: "alice", Project: "genomics", Server: "db1", Account: "alice",
		Role: authz.RoleResearcher, Action: authz.ActionShell, RemoteAddr: "192.0.2.1", Epoch: epoch.ID})
	if err != nil {
		t.Fatal(err)
	}
	rec, err := n.Recorder.Start(ctx, recorder.Meta{Session: s.ID, Number: s.Number, Node: n.ID, Epoch: epoch.ID, Start: time.Now(), Action: "shell"}, keys.Keys())
	if err != nil {
		t.Fatal(err)
	}
	position, err := rec.Append(recorder.Frame{Kind: recorder.KindOutput, Data: []byte("seen by the user")})
	if err != nil {
		t.Fatal(err)
	}
	if err := rec.Wait(ctx, position); err != nil {
		t.Fatal(err)
	}
	copied := filepath.Join(t.TempDir(), "copy")
	for _, part := range []string{"keys", "state"} { // what a crash at this moment leaves
		testkit.CopyState(t, filepath.Join(copied, part), filepath.Join(filepath.Dir(c.File), part))
	}
	text, err := os.ReadFile(c.File)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(copied, "sallyport.yaml"), text, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := filepath.WalkDir(copied, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		return os.Chmod(path, 0o600)
	}); err != nil {
		t.Fatal(err)
	}
	if _, err := rec.Close(ctx, "exited"); err != nil {
		t.Fatal(err)
	}
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}

	crashed, err := config.Load(filepath.Join(copied, "sallyport.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	after := opened(t, crashed)
	defer after.Close()
	left, err := after.Authority.UnclosedSessions(ctx)
	if err != nil || len(left) != 0 {
		t.Fatalf("still open: %+v, %v", left, err)
	}
	closed, err := after.Authority.Sessions(ctx, authz.Actor{User: "alice"}, authz.SessionQuery{ID: s.ID})
	if err != nil || len(closed) != 1 || closed[0].Result != "crashed" || len(closed[0].Head) != 64 || closed[0].EndedAt.IsZero() ||
		closed[0].ExitCode != authz.Unknown || closed[0].BytesIn != authz.Unknown || closed[0].BytesOut != authz.Unknown {
		t.Fatalf("closed as %+v, %v", closed, err)
	}
}

// enrol uses the invite of Init.
func enrol(t *testing.T, n *Node, made *Made) {
	t.Helper()
	public, _, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	line, err := ssh.NewPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	key, err := authz.CheckKey(string(bytes.TrimSpace(ssh.MarshalAuthorizedKey(line))))
	if err != nil {
		t.Fatal(err)
	}
	secret, _, err := n.Authority.NewTOTPSecret(made.Admin)
	if err != nil {
		t.Fatal(err)
	}
	code, err := totp.GenerateCode(secret, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	_, err = n.Authority.Enrol(t.Context(), authz.Enrolment{Token: made.Invite, Key: key, Secret: secret, Code: code, RemoteAddr: "192.0.2.1", Connection: "C-1"})
	if err != nil {
		t.Fatal(err)
	}
}

func TestRecoverLetsAnAdministratorIn(t *testing.T) {
	first, c := initialised(t)
	enrolled := opened(t, c)
	enrol(t, enrolled, first)
	if err := enrolled.Close(); err != nil {
		t.Fatal(err)
	}
	made, err := Recover(t.Context(), c, quiet(), "root-admin", "the phone is broken")
	if err != nil {
		t.Fatal(err)
	}
	n := opened(t, c)
	defer n.Close()
	if u, err := n.Authority.InvitedUser(t.Context(), made.Invite); err != nil || u.Name != "root-admin" {
		t.Errorf("the new invite: %+v, %v", u, err)
	}
	if u, err := n.Authority.User(t.Context(), "root-admin"); err != nil || u.HasTOTP {
		t.Errorf("the lost factor still counts: %+v, %v", u, err)
	}
	if _, err := Recover(t.Context(), c, quiet(), "root-admin", "x"); err == nil {
		t.Error("recovery beside a running node")
	}
}

// The ledger's own failure is seen by the Ledger; an event that it will not take, by the Authority.
func TestANodeThatCanRecordNothingSaysSoAndStops(t *testing.T) {
	_, c := initialised(t)
	c.Limits.Drain = 50 * time.Millisecond
	n := opened(t, c)
	done := make(chan error, 1)
	go func() { done <- n.Run(t.Context()) }()
	url := "http://" + n.MetricsAddress + "/healthz"
	eventually(t, "healthy", func() bool { code, _ := get(t, url); return code == http.StatusOK })
	if err := n.Ledger.Close(); err != nil {
		t.Fatal(err)
	}
	if err := n.tell(t.Context(), "test", nil); err == nil {
		t.Error("an event that reached no ledger was recorded")
	}
	if err := n.health(); err == nil || err.Error() != unwritten {
		t.Errorf("health says %v", err)
	}
	select {
	case err := <-done:
		if err == nil || !strings.Contains(err.Error(), unwritten) {
			t.Errorf("the node stopped with %v", err)
		}
	case <-time.After(20 * time.Second):
		t.Error("the node goes on without a ledger")
	}
	_ = n.Close() // the ledger was closed before
}

// Authority must never hand the ledger more than it takes.
func TestLedgerTakesWhatAuthorityGives(t *testing.T) {
	if authz.MaxLeaf > ledger.MaxEvent {
		t.Errorf("events have up to %d bytes, and the ledger takes %d", authz.MaxLeaf, ledger.MaxEvent)
	}
}

func TestLimitsOfTheDocumentedFileAreTheDefaults(t *testing.T) {
	c, err := config.Load("../../configs/sallyport.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if got, want := limits(c.Limits), bastion.DefaultLimits(); got != want {
		t.Errorf("documented %+v\nin fact %+v", got, want)
	}
}

func TestSocketIsNotStolen(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "s")
	first, err := listenSocket(path, "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := listenSocket(path, ""); err == nil {
		t.Error("a socket in use was taken")
	}
	first.SetUnlinkOnClose(false) // as a crash leaves it
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	second, err := listenSocket(path, "")
	if err != nil {
		t.Fatal(err)
	}
	if err := second.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := listenSocket(path, ""); err == nil {
		t.Error("a file was taken for a socket")
	}
	if _, err := listenSocket(filepath.Join(dir, "t"), "no-such-group-here"); err == nil {
		t.Error("an unknown group was accepted")
	}
}

// ledgerEvents reads the events in the ledger of a node, with the node's keys.
func ledgerEvents(t *testing.T, c *config.Config, n *Node) []authz.Event {
	t.Helper()
	secret, err := loadJournalKey(c.Keys.Journal)
	if err != nil {
		t.Fatal(err)
	}
	ring, err := ledger.Options{Node: n.ID, KeysDir: filepath.Join(c.State, "ledger-keys"), Secret: secret}.Keys()
	if err != nil {
		t.Fatal(err)
	}
	verifier, err := ledger.VerifierOf(n.ID, n.NodeKey)
	if err != nil {
		t.Fatal(err)
	}
	var events []authz.Event
	for item, err := range ledger.Read(filepath.Join(c.State, "ledger"), verifier, ring) {
		if err != nil {
			t.Fatal(err)
		}
		if item.Event == nil {
			continue
		}
		var e authz.Event
		if err := json.Unmarshal(item.Event, &e); err != nil {
			t.Fatal(err)
		}
		events = append(events, e)
	}
	return events
}
