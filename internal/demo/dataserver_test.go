package demo

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"
)

// patience bounds how long a test waits for what must come.
const patience = 20 * time.Second

func newSigner(t *testing.T) ssh.Signer {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromSigner(private)
	if err != nil {
		t.Fatal(err)
	}
	return signer
}

// site is one data server with the authority that it trusts.
type site struct {
	server *dataServer
	ca     ssh.Signer
}

func newSite(t *testing.T) site {
	t.Helper()
	ca := newSigner(t)
	server, err := startDataServer(serverOptions{Project: "genomics", Name: "db1", Dir: t.TempDir(),
		HostKey: newSigner(t), UserCA: ca.PublicKey()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Close)
	return site{server, ca}
}

// certificate is one that the gate would make for alice, changed by change.
func (s site) certificate(t *testing.T, ca ssh.Signer, change func(*ssh.Certificate)) ssh.Signer {
	t.Helper()
	key := newSigner(t)
	now := time.Now()
	cert := &ssh.Certificate{Key: key.PublicKey(), CertType: ssh.UserCert, KeyId: "test", ValidPrincipals: []string{"genomics/alice"},
		ValidAfter: uint64(now.Add(-time.Minute).Unix()), ValidBefore: uint64(now.Add(time.Minute).Unix()),
		Permissions: ssh.Permissions{CriticalOptions: map[string]string{"source-address": "127.0.0.1/32"},
			Extensions: map[string]string{"permit-pty": ""}}}
	if change != nil {
		change(cert)
	}
	if err := cert.SignCert(rand.Reader, ca); err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewCertSigner(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	return signer
}

func (s site) dial(user string, auth ...ssh.AuthMethod) (*ssh.Client, error) {
	return ssh.Dial("tcp", s.server.Addr(), &ssh.ClientConfig{User: user, Auth: auth, Timeout: patience,
		HostKeyCallback: ssh.FixedHostKey(s.server.HostKey.PublicKey())})
}

// login comes in as alice.
func (s site) login(t *testing.T) *ssh.Client {
	t.Helper()
	client, err := s.dial("alice", ssh.PublicKeys(s.certificate(t, s.ca, nil)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return client
}

func newSession(t *testing.T, c *ssh.Client) *ssh.Session {
	t.Helper()
	session, err := c.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { session.Close() })
	return session
}

func TestDataServerRefuses(t *testing.T) {
	s := newSite(t)
	foreign := newSigner(t)
	for _, c := range []struct {
		name, user string
		ca         ssh.Signer
		change     func(*ssh.Certificate)
	}{
		{"another account", "bob", s.ca, nil},
		{"another project", "alice", s.ca, func(c *ssh.Certificate) { c.ValidPrincipals = []string{"cohort/alice"} }},
		{"bare account as principal", "alice", s.ca, func(c *ssh.Certificate) { c.ValidPrincipals = []string{"alice"} }},
		{"no principal", "alice", s.ca, func(c *ssh.Certificate) { c.ValidPrincipals = nil }},
		{"expired", "alice", s.ca, func(c *ssh.Certificate) { c.ValidBefore = uint64(time.Now().Add(-time.Second).Unix()) }},
		{"not yet valid", "alice", s.ca, func(c *ssh.Certificate) { c.ValidAfter = uint64(time.Now().Add(30 * time.Second).Unix()) }},
		{"foreign authority", "alice", foreign, nil},
		{"host certificate", "alice", s.ca, func(c *ssh.Certificate) { c.CertType = ssh.HostCert }},
		{"another source", "alice", s.ca, func(c *ssh.Certificate) { c.CriticalOptions["source-address"] = "192.0.2.1/32" }},
		{"unknown critical option", "alice", s.ca, func(c *ssh.Certificate) { c.CriticalOptions["force-command"] = "true" }},
		{"path as account", "../alice", s.ca, func(c *ssh.Certificate) { c.ValidPrincipals = []string{"genomics/../alice"} }},
	} {
		t.Run(c.name, func(t *testing.T) {
			client, err := s.dial(c.user, ssh.PublicKeys(s.certificate(t, c.ca, c.change)))
			if err == nil {
				client.Close()
				t.Fatal("came in")
			}
		})
	}
	t.Run("plain key", func(t *testing.T) {
		if client, err := s.dial("alice", ssh.PublicKeys(newSigner(t))); err == nil {
			client.Close()
			t.Fatal("came in")
		}
	})
	t.Run("the authority's own key", func(t *testing.T) {
		if client, err := s.dial("alice", ssh.PublicKeys(s.ca)); err == nil {
			client.Close()
			t.Fatal("came in")
		}
	})
	t.Run("no authentication", func(t *testing.T) {
		if client, err := s.dial("alice"); err == nil {
			client.Close()
			t.Fatal("came in")
		}
	})
	// The same site lets the right one in, so the refusals above are no accident.
	newSession(t, s.login(t))
}

// The library's context keeps the user name of a connection's first attempt, so
// a client could offer a key as alice and sign as bob.
func TestDataServerTakesTheNameOfTheVerifiedRequest(t *testing.T) {
	s := newSite(t)
	server := s.server
	alice := s.certificate(t, s.ca, nil).PublicKey()
	if _, err := server.admit("bob", alice); err == nil {
		t.Fatal("alice's certificate was taken for bob")
	}
	config := server.config(nil)
	if _, err := config.VerifiedPublicKeyCallback(metadata{user: "bob"}, alice, &ssh.Permissions{}, ""); err == nil {
		t.Fatal("the verified request was not checked again")
	}
	permissions, err := config.VerifiedPublicKeyCallback(metadata{user: "alice"}, alice, &ssh.Permissions{}, "")
	if err != nil {
		t.Fatal(err)
	}
	if a := permissions.ExtraData[accountExtra{}].(account); a.name != "alice" || !a.pty {
		t.Fatalf("account %+v", a)
	}
	if permissions.CriticalOptions["source-address"] != "127.0.0.1/32" || len(permissions.Extensions) != 0 {
		t.Fatalf("permissions %+v", permissions)
	}
}

// metadata is a connection of which only the user name matters.
type metadata struct {
	ssh.ConnMetadata
	user string
}

func (m metadata) User() string { return m.user }

func TestDataServerExec(t *testing.T) {
	client := newSite(t).login(t)
	for _, c := range []struct {
		name, command, stdin, stdout, stderr string
		status                               int
		signal                               string
	}{
		{"output and errors apart", "printf 'a\\nb\\r\\0'; printf 'c\\n' >&2", "", "a\nb\r\x00", "c\n", 0, ""},
		{"input to its end", "cat; exit 9", "x\xff\x00y", "x\xff\x00y", "", 9, ""},
		{"a signal", "kill -TERM $$", "", "", "", 0, "TERM"},
		{"home and name", `cd; pwd | sed 's|.*/||'; echo "$USER"`, "", "alice\nalice\n", "", 0, ""},
		{"input that nobody reads", "exit 3", strings.Repeat("z", 1<<20), "", "", 3, ""},
		{"what stays in the background holds nothing up", "sleep 600 & echo gone", "", "gone\n", "", 0, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			session := newSession(t, client)
			var stdout, stderr bytes.Buffer
			session.Stdout, session.Stderr = &stdout, &stderr
			session.Stdin = strings.NewReader(c.stdin)
			err := session.Run(c.command)
			status, signal := 0, ""
			var exit *ssh.ExitError
			switch {
			case errors.As(err, &exit):
				status, signal = exit.ExitStatus(), exit.Signal()
			case err != nil && !errors.Is(err, io.EOF): // EOF: the unread input
				t.Fatal(err)
			}
			if signal == "" && c.signal == "" && status != c.status || signal != c.signal {
				t.Errorf("status %d, signal %q", status, signal)
			}
			if stdout.String() != c.stdout || stderr.String() != c.stderr {
				t.Errorf("stdout %q, stderr %q", stdout.String(), stderr.String())
			}
		})
	}
}

// until reads from r until want has appeared.
func until(t *testing.T, r io.Reader, want string) string {
	t.Helper()
	found := make(chan string, 1)
	go func() { // ends with the session at the latest
		var text []byte
		one := make([]byte, 1024)
		for !bytes.Contains(text, []byte(want)) {
			n, err := r.Read(one)
			text = append(text, one[:n]...)
			if err != nil {
				break
			}
		}
		found <- string(text)
	}()
	select {
	case text := <-found:
		if !strings.Contains(text, want) {
			t.Fatalf("%q did not appear: %q", want, text)
		}
		return text
	case <-time.After(patience):
		t.Fatalf("%q did not appear in time", want)
	}
	return ""
}

func TestDataServerTerminal(t *testing.T) {
	client := newSite(t).login(t)
	session := newSession(t, client)
	in, err := session.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := session.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := session.Setenv("LC_SALLYPORT_SESSION", "S-1"); err != nil {
		t.Fatal(err)
	}
	if err := session.Setenv("LD_PRELOAD", "x"); err == nil {
		t.Error("LD_PRELOAD was taken")
	}
	if err := session.RequestPty("xterm-256color", 24, 80, nil); err != nil {
		t.Fatal(err)
	}
	if err := session.Shell(); err != nil {
		t.Fatal(err)
	}
	say := func(text string) {
		t.Helper()
		if _, err := io.WriteString(in, text); err != nil {
			t.Fatal(err)
		}
	}
	until(t, out, "alice@db1.genomics$ ")
	say("stty size; echo $TERM-$LC_SALLYPORT_SESSION\r")
	until(t, out, "24 80\r\nxterm-256color-S-1\r\n")
	if err := session.WindowChange(50, 132); err != nil {
		t.Fatal(err)
	}
	say("stty size\r")
	until(t, out, "50 132\r\n")
	// With the terminal's own processing off, every byte comes as it is.
	say("stty raw -echo; printf 'a\\nb\\r\\nc\\0\\377|e''nd'\r")
	if text := until(t, out, "|end"); !strings.Contains(text, "a\nb\r\nc\x00\xff|end") {
		t.Errorf("changed on the way: %q", text)
	}
	say("exit 7\n")
	var exit *ssh.ExitError
	if err := session.Wait(); !errors.As(err, &exit) || exit.ExitStatus() != 7 {
		t.Errorf("ended with %v", err)
	}
}

func TestDataServerNoTerminalWithoutPermission(t *testing.T) {
	s := newSite(t)
	client, err := s.dial("alice", ssh.PublicKeys(s.certificate(t, s.ca, func(c *ssh.Certificate) { c.Extensions = nil })))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if err := newSession(t, client).RequestPty("xterm", 24, 80, nil); err == nil {
		t.Error("a terminal was given")
	}
}

func TestDataServerOpensSessionsOnly(t *testing.T) {
	s := newSite(t)
	client := s.login(t)
	if c, err := client.Dial("tcp", s.server.Addr()); err == nil {
		c.Close()
		t.Error("a connection was forwarded")
	}
	if l, err := client.Listen("tcp", "127.0.0.1:0"); err == nil {
		l.Close()
		t.Error("a port was forwarded back")
	}
	session := newSession(t, client)
	if ok, err := session.SendRequest("auth-agent-req@openssh.com", true, nil); err != nil || ok {
		t.Errorf("agent forwarding: %v, %v", ok, err)
	}
	if err := newSession(t, client).RequestSubsystem("netconf"); err == nil {
		t.Error("an unknown subsystem was started")
	}
}

func TestDataServerSignal(t *testing.T) {
	session := newSession(t, newSite(t).login(t))
	out, err := session.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := session.Start("trap 'echo caught; exit 5' USR1; echo ready; while :; do sleep 0.05; done"); err != nil {
		t.Fatal(err)
	}
	until(t, out, "ready\n")
	if err := session.Signal(ssh.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	until(t, out, "caught\n")
	var exit *ssh.ExitError
	if err := session.Wait(); !errors.As(err, &exit) || exit.ExitStatus() != 5 {
		t.Errorf("ended with %v", err)
	}
}

// TestDataServerEndsPrograms closes the server under a program that listens to
// no signal but the last.
func TestDataServerEndsPrograms(t *testing.T) {
	s := newSite(t)
	session := newSession(t, s.login(t))
	out, err := session.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := session.Start("trap '' HUP TERM; echo $$; while :; do sleep 0.05; done"); err != nil {
		t.Fatal(err)
	}
	line := until(t, out, "\n")
	s.server.Close()
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		if _, err := os.Stat(fmt.Sprintf("/proc/%d", pid)); errors.Is(err, os.ErrNotExist) {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("process %d goes on", pid)
		}
	}
}

func TestFilesStayInside(t *testing.T) {
	s := newSite(t)
	client, err := sftp.NewClient(s.login(t))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if names, err := client.ReadDir("."); err != nil || len(names) != 3 {
		t.Fatalf("listed %d: %v", len(names), err)
	}
	home := filepath.Join(s.server.Dir, "alice")
	secret := filepath.Join(s.server.Dir, "secret")
	if err := os.WriteFile(secret, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(secret, filepath.Join(home, "absolute")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("../secret", filepath.Join(home, "relative")); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"absolute", "relative", secret, "/etc/passwd"} {
		if f, err := client.Open(name); err == nil {
			f.Close()
			t.Errorf("%s was opened", name)
		}
		if f, err := client.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC); err == nil {
			f.Close()
			t.Errorf("%s was opened for writing", name)
		}
	}
	// The folder is the root, so a way up leads nowhere else.
	if f, err := client.OpenFile("../../secret", os.O_WRONLY|os.O_CREATE); err != nil {
		t.Error(err)
	} else if f.Close(); !exists(filepath.Join(home, "secret")) {
		t.Error("the file is not inside")
	}
	if text, err := os.ReadFile(secret); err != nil || string(text) != "secret" {
		t.Fatalf("the file outside holds %q: %v", text, err)
	}
	if err := client.Symlink("/etc/passwd", "link"); err == nil {
		t.Error("a link was made")
	}
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

func TestFilesReadAndWrite(t *testing.T) {
	s := newSite(t)
	client, err := sftp.NewClient(s.login(t))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	data := make([]byte, 3<<20+7)
	if _, err := rand.Read(data); err != nil {
		t.Fatal(err)
	}
	if err := client.Mkdir("results"); err != nil {
		t.Fatal(err)
	}
	f, err := client.Create("results/a.bin")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if err := client.Chmod("results/a.bin", 0o640); err != nil {
		t.Fatal(err)
	}
	if err := client.PosixRename("results/a.bin", "results/b.bin"); err != nil {
		t.Fatal(err)
	}
	if err := client.Rename("results/b.bin", "README.txt"); err == nil {
		t.Error("a rename wrote over a file")
	}
	if f, err = client.Open("/results/b.bin"); err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	back, err := io.ReadAll(f)
	if err != nil || !bytes.Equal(back, data) {
		t.Fatalf("read %d of %d bytes: %v", len(back), len(data), err)
	}
	info, err := client.Stat("results/b.bin")
	if err != nil || info.Size() != int64(len(data)) || info.Mode().Perm() != 0o640 {
		t.Fatalf("%+v: %v", info, err)
	}
	if err := client.Truncate("results/b.bin", 5); err != nil {
		t.Fatal(err)
	}
	if onDisk, err := os.ReadFile(filepath.Join(s.server.Dir, "alice", "results", "b.bin")); err != nil || !bytes.Equal(onDisk, data[:5]) {
		t.Fatalf("%d bytes on disk: %v", len(onDisk), err)
	}
	if err := client.Remove("results/b.bin"); err != nil {
		t.Fatal(err)
	}
	if err := client.RemoveDirectory("results"); err != nil {
		t.Fatal(err)
	}
}

// TestDataServerClosedBeforeALogin closes the server while a client says nothing.
func TestDataServerClosedBeforeALogin(t *testing.T) {
	s := newSite(t)
	c, err := net.Dial("tcp", s.server.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Read(make([]byte, 4)); err != nil { // it is being served
		t.Fatal(err)
	}
	s.server.Close()
}
