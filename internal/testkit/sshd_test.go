package testkit

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

const testAccount = "sp-testkit"

// TestShippedConfiguration lets sshd itself check the lines that data servers
// get, alone and as operation describes it: included by Debian's main file
// whose Subsystem line is commented out.
func TestShippedConfiguration(t *testing.T) {
	root, err := Root()
	if err != nil {
		t.Fatal(err)
	}
	shipped := filepath.Join(root, "configs", "sshd_config.d", "sallyport.conf")
	if err := os.MkdirAll("/run/sshd", 0o755); err != nil {
		t.Fatal(err)
	}
	debian, err := os.ReadFile("/usr/share/openssh/sshd_config")
	if err != nil {
		t.Fatal(err)
	}
	main := strings.Replace(string(debian), "/etc/ssh/sshd_config.d/*.conf", shipped, 1)
	main = strings.Replace(main, "\nSubsystem", "\n#Subsystem", 1)
	if !strings.Contains(main, "Include "+shipped) {
		t.Fatal("Debian's sshd_config no longer includes sshd_config.d")
	}
	dir := t.TempDir()
	host := NewKey(t, dir, "host")
	for name, text := range map[string]string{
		"alone":    "Include " + shipped + "\n",
		"included": main,
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(dir, name)
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			if out, err := exec.Command(sshdPath, "-t", "-f", path, "-h", host.Path).CombinedOutput(); err != nil {
				t.Fatalf("sshd -t: %v\n%s", err, out)
			}
			out, err := exec.Command(sshdPath, "-T", "-f", path, "-h", host.Path).CombinedOutput()
			if err != nil {
				t.Fatalf("sshd -T: %v\n%s", err, out)
			}
			for _, want := range effective {
				if !strings.Contains(string(out), "\n"+want+"\n") {
					t.Errorf("the effective configuration lacks %q", want)
				}
			}
		})
	}
}

// effective are lines of `sshd -T` that the promises rest on.
var effective = []string{
	"disableforwarding yes", "allowtcpforwarding no", "allowstreamlocalforwarding no",
	"allowagentforwarding no", "x11forwarding no", "permittunnel no", "permituserrc no",
	"permituserenvironment no", "permitrootlogin no", "passwordauthentication no",
	"kbdinteractiveauthentication no", "hostbasedauthentication no",
	"authorizedkeysfile none", "authenticationmethods publickey", "loglevel VERBOSE",
	"authorizedprincipalsfile /etc/ssh/auth_principals/%u",
	"trustedusercakeys /etc/ssh/sallyport-user-ca.pub",
	"acceptenv LANG", "acceptenv LC_*",
}

// certificate is what a gate sends upstream.
func certificate(t *testing.T, ca ssh.Signer, principal string) ssh.Signer {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	c := &ssh.Certificate{
		Key: signer.PublicKey(), CertType: ssh.UserCert,
		KeyId:           "sallyport conn=C-test user=alice project=genomics",
		ValidPrincipals: []string{principal},
		ValidAfter:      uint64(time.Now().Add(-time.Minute).Unix()),
		ValidBefore:     uint64(time.Now().Add(2 * time.Minute).Unix()),
		Permissions: ssh.Permissions{
			CriticalOptions: map[string]string{"source-address": "127.0.0.1/32"},
			Extensions:      map[string]string{"permit-pty": ""},
		},
	}
	if err := c.SignCert(rand.Reader, ca); err != nil {
		t.Fatal(err)
	}
	with, err := ssh.NewCertSigner(c, signer)
	if err != nil {
		t.Fatal(err)
	}
	return with
}

func dial(s *SSHD, account string, signer ssh.Signer) (*ssh.Client, error) {
	return ssh.Dial("tcp", s.Address, &ssh.ClientConfig{
		User:            account,
		Auth:            []ssh.AuthMethod{ssh.PublicKeys(signer)},
		HostKeyCallback: ssh.FixedHostKey(s.HostKey.Signer.PublicKey()),
		Timeout:         10 * time.Second,
	})
}

func TestDataServerTakesOnlyItsOwnPrincipal(t *testing.T) {
	ca := NewKey(t, t.TempDir(), "ca")
	s := StartSSHD(t, SSHDOptions{
		Project: "genomics", Accounts: []string{testAccount}, UserCA: ca.Signer.PublicKey(),
	})
	stranger := NewKey(t, t.TempDir(), "stranger")
	for _, c := range []struct {
		name   string
		signer ssh.Signer
		in     bool
	}{
		{"own", certificate(t, ca.Signer, "genomics/"+testAccount), true},
		{"other project", certificate(t, ca.Signer, "imaging/"+testAccount), false},
		{"account without project", certificate(t, ca.Signer, testAccount), false},
		{"other CA", certificate(t, stranger.Signer, "genomics/"+testAccount), false},
		{"plain key", stranger.Signer, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			client, err := dial(s, testAccount, c.signer)
			if (err == nil) != c.in {
				t.Fatalf("let in: %v, wanted %v (%v)", err == nil, c.in, err)
			}
			if err == nil {
				client.Close()
			}
		})
	}
	WaitFor(t, 5*time.Second, "the key id in sshd's log", func() bool {
		return strings.Contains(s.Log(), "ID sallyport conn=C-test user=alice project=genomics")
	})
}

func TestDataServerCarriesNoConnection(t *testing.T) {
	ca := NewKey(t, t.TempDir(), "ca")
	s := StartSSHD(t, SSHDOptions{
		Project: "genomics", Accounts: []string{testAccount}, UserCA: ca.Signer.PublicKey(),
	})
	client, err := dial(s, testAccount, certificate(t, ca.Signer, "genomics/"+testAccount))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if c, err := client.Dial("tcp", s.Address); err == nil {
		c.Close()
		t.Error("the server carried a TCP connection")
	}
	if l, err := client.Listen("tcp", "127.0.0.1:0"); err == nil {
		l.Close()
		t.Error("the server listened for its user")
	}
	session, err := client.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close()
	if err := session.Setenv("LC_SALLYPORT", "S-1"); err != nil {
		t.Error("the session's number was not accepted:", err)
	}
	out, err := session.Output(`echo "$USER $LC_SALLYPORT"`)
	if err != nil || string(out) != testAccount+" S-1\n" {
		t.Errorf("got %q, %v", out, err)
	}
}

func TestServerStopsWithItsSessionsAndComesBack(t *testing.T) {
	key := NewKey(t, t.TempDir(), "key")
	s := StartSSHD(t, SSHDOptions{
		Accounts: []string{testAccount}, AuthorizedKeys: []ssh.PublicKey{key.Signer.PublicKey()},
	})
	client, err := dial(s, testAccount, key.Signer)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	session, err := client.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	if err := session.Start("cat"); err != nil {
		t.Fatal(err)
	}
	s.Stop()
	ended := make(chan error, 1)
	go func() { ended <- client.Wait() }()
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		t.Fatal("the session outlived its server")
	}
	old := s.HostKey.Authorized
	if err := s.NewHostKey(); err != nil {
		t.Fatal(err)
	}
	if err := s.Start(context.Background()); err != nil {
		t.Fatal(err)
	}
	if s.HostKey.Authorized == old {
		t.Error("the host key did not change")
	}
	again, err := dial(s, testAccount, key.Signer)
	if err != nil {
		t.Fatal("after the restart:", err)
	}
	again.Close()
}

// TestJumpHost takes the way that a gate is compared with: ssh -J.
func TestJumpHost(t *testing.T) {
	dir := t.TempDir()
	key := NewKey(t, dir, "key")
	keys := []ssh.PublicKey{key.Signer.PublicKey()}
	jump := StartSSHD(t, SSHDOptions{Accounts: []string{testAccount}, AuthorizedKeys: keys, Forwarding: true})
	target := StartSSHD(t, SSHDOptions{Accounts: []string{testAccount}, AuthorizedKeys: keys})
	known := filepath.Join(dir, "known_hosts")
	if err := os.WriteFile(known, []byte(jump.KnownHosts()+target.KnownHosts()), 0o600); err != nil {
		t.Fatal(err)
	}
	// The options have to be in a file: ssh hands -F, but not -o, to the client of the jump.
	config := filepath.Join(dir, "config")
	text := "Host *\n IdentityFile " + key.Path + "\n IdentitiesOnly yes\n UserKnownHostsFile " + known +
		"\n StrictHostKeyChecking yes\n BatchMode yes\n User " + testAccount + "\n"
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("ssh", "-F", config, "-J", jump.Address, "-p", strconv.Itoa(target.Port),
		"127.0.0.1", "id -un").CombinedOutput()
	if err != nil || !bytes.Equal(out, []byte(testAccount+"\n")) {
		t.Fatalf("ssh -J: %v\n%s", err, out)
	}
}

func TestHostCertificate(t *testing.T) {
	ca := NewKey(t, t.TempDir(), "host-ca")
	key := NewKey(t, t.TempDir(), "key")
	s := StartSSHD(t, SSHDOptions{
		Accounts: []string{testAccount}, AuthorizedKeys: []ssh.PublicKey{key.Signer.PublicKey()},
		HostCA: ca.Signer, HostName: "data1",
	})
	for name, want := range map[string]bool{"data1": true, "data2": false} {
		checker := &ssh.CertChecker{IsHostAuthority: func(k ssh.PublicKey, _ string) bool {
			return bytes.Equal(k.Marshal(), ca.Signer.PublicKey().Marshal())
		}}
		client, err := ssh.Dial("tcp", s.Address, &ssh.ClientConfig{
			User: testAccount, Auth: []ssh.AuthMethod{ssh.PublicKeys(key.Signer)},
			HostKeyAlgorithms: []string{ssh.CertAlgoED25519v01}, Timeout: 10 * time.Second,
			HostKeyCallback: func(_ string, _ net.Addr, k ssh.PublicKey) error {
				return checker.CheckHostKey(name+":22", nil, k)
			},
		})
		if (err == nil) != want {
			t.Errorf("as %s: %v", name, err)
		}
		if err == nil {
			client.Close()
		}
	}
}

func TestAccountGoesWithItsLastHolder(t *testing.T) {
	const name = "sp-holders"
	first, err := AcquireAccount(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	second, err := AcquireAccount(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	if err := first.Release(); err != nil {
		t.Fatal(err)
	}
	if _, err := user.Lookup(name); err != nil {
		t.Fatal("the account went while it was held:", err)
	}
	if err := second.Release(); err != nil {
		t.Fatal(err)
	}
	if _, err := user.Lookup(name); err == nil {
		t.Fatal("the account stayed")
	}
	for _, bad := range []string{"root", "postgres", "sp-", "sp-a b", "sp-../x"} {
		if _, err := AcquireAccount(t.Context(), bad); err == nil {
			t.Errorf("took %q for a test account", bad)
		}
	}
}
