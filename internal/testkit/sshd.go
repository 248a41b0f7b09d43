package testkit

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// sshdPath is where Debian puts the server; sshd wants to be started by its absolute path.
const sshdPath = "/usr/sbin/sshd"

// startTime is how long a server may take to say that it listens.
const startTime = 20 * time.Second

// SSHDOptions say what kind of server is wanted. The zero value is a data
// server that nobody can log in to.
type SSHDOptions struct {
	Project  string        // prefix of the principals PROJECT/ACCOUNT
	Accounts []string      // each begins with "sp-"; made when missing
	UserCA   ssh.PublicKey // signs people's certificates
	// AuthorizedKeys may log in to every account without a certificate: for
	// the jump host and the direct way that a gate is compared with.
	AuthorizedKeys []ssh.PublicKey
	// HostCA, when set, certifies the server's host key for HostName.
	HostCA   ssh.Signer
	HostName string
	// Forwarding makes it a jump host.
	Forwarding bool
	// Lines stand before all others, and sshd keeps the first value that it sees.
	Lines []string
}

// SSHD is a real OpenSSH server on a loopback port, configured by
// configs/sshd_config.d/sallyport.conf below the few lines that a test has to
// change (port, paths, no PAM).
type SSHD struct {
	Address  string // 127.0.0.1:PORT
	Port     int
	HostKey  Key
	LogFile  string
	Dir      string // host key, configuration, principals
	Accounts map[string]*Account

	options SSHDOptions
	command *exec.Cmd
	exited  <-chan struct{} // closed when the listener has been reaped
}

// StartSSHD starts a server for the test and ends it, with its sessions and
// accounts, when the test ends.
func StartSSHD(t testing.TB, o SSHDOptions) *SSHD {
	t.Helper()
	s, err := NewSSHD(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("log of sshd at %s:\n%s", s.Address, s.Log())
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// NewSSHD starts a server that the caller closes. It needs root.
func NewSSHD(ctx context.Context, o SSHDOptions) (*SSHD, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("starting a real sshd that logs accounts in needs root")
	}
	// sshd checks that nobody else could write to any folder above the
	// principals, which rules out /tmp; and it reads them as the account, which
	// rules out a private folder.
	dir, err := os.MkdirTemp("/run", "sallyport-sshd-")
	if err != nil {
		return nil, fmt.Errorf("making a folder for sshd: %w", err)
	}
	s := &SSHD{Dir: dir, LogFile: filepath.Join(dir, "log"), options: o, Accounts: map[string]*Account{}}
	if err := s.prepare(ctx); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	if err := s.Start(ctx); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

func (s *SSHD) prepare(ctx context.Context) error {
	if err := os.Chmod(s.Dir, 0o755); err != nil {
		return err
	}
	// The privilege separation folder; Debian makes it at boot, a container does not.
	for _, dir := range []string{"/run/sshd", filepath.Join(s.Dir, "principals")} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	for _, name := range s.options.Accounts {
		account, err := AcquireAccount(ctx, name)
		if err != nil {
			return err
		}
		s.Accounts[name] = account
		line := s.options.Project + "/" + name + "\n"
		if err := os.WriteFile(filepath.Join(s.Dir, "principals", name), []byte(line), 0o644); err != nil {
			return err
		}
	}
	var ca, authorized bytes.Buffer
	if s.options.UserCA != nil {
		ca.Write(ssh.MarshalAuthorizedKey(s.options.UserCA))
	}
	for _, k := range s.options.AuthorizedKeys {
		authorized.Write(ssh.MarshalAuthorizedKey(k))
	}
	for name, content := range map[string][]byte{"ca.pub": ca.Bytes(), "authorized": authorized.Bytes(), "revoked": nil} {
		if err := os.WriteFile(filepath.Join(s.Dir, name), content, 0o644); err != nil {
			return err
		}
	}
	return s.NewHostKey()
}

// NewHostKey gives the server another host key, which it shows after the next Start.
func (s *SSHD) NewHostKey() error {
	key, err := MakeKey(s.Dir, "host_ed25519")
	if err != nil {
		return err
	}
	s.HostKey = key
	if s.options.HostCA == nil {
		return nil
	}
	now := time.Now()
	certificate := &ssh.Certificate{
		Key:             key.Signer.PublicKey(),
		CertType:        ssh.HostCert,
		KeyId:           s.options.HostName,
		ValidPrincipals: []string{s.options.HostName},
		ValidAfter:      uint64(now.Add(-time.Hour).Unix()),
		ValidBefore:     uint64(now.Add(24 * time.Hour).Unix()),
	}
	if err := certificate.SignCert(rand.Reader, s.options.HostCA); err != nil {
		return fmt.Errorf("certifying the host key: %w", err)
	}
	return os.WriteFile(key.Path+"-cert.pub", ssh.MarshalAuthorizedKey(certificate), 0o644)
}

// configuration puts what a test must change before the lines that data servers
// get, because sshd keeps the first value of each.
func (s *SSHD) configuration() (string, error) {
	root, err := Root()
	if err != nil {
		return "", err
	}
	shipped, err := os.ReadFile(filepath.Join(root, "configs", "sshd_config.d", "sallyport.conf"))
	if err != nil {
		return "", err
	}
	in := func(name string) string { return filepath.Join(s.Dir, name) }
	lines := append([]string{}, s.options.Lines...)
	lines = append(lines,
		"ListenAddress 127.0.0.1",
		"Port "+strconv.Itoa(s.Port),
		"HostKey "+s.HostKey.Path,
		"PidFile none",
		"UsePAM no",
		"PrintMotd no",
		// Many logins at once are the purpose here.
		"MaxStartups 200:30:400",
		"TrustedUserCAKeys "+in("ca.pub"),
		"AuthorizedPrincipalsFile "+in("principals")+"/%u",
		"RevokedKeys "+in("revoked"),
	)
	if s.options.HostCA != nil {
		lines = append(lines, "HostCertificate "+s.HostKey.Path+"-cert.pub")
	}
	if len(s.options.AuthorizedKeys) > 0 {
		lines = append(lines, "AuthorizedKeysFile "+in("authorized"))
	}
	if s.options.Forwarding {
		lines = append(lines, "DisableForwarding no", "AllowTcpForwarding local")
	}
	return strings.Join(lines, "\n") + "\n\n" + string(shipped), nil
}

// Start starts the server, again on the same port after a Stop.
func (s *SSHD) Start(ctx context.Context) error {
	fixed := s.Port != 0
	for try := 1; ; try++ {
		if !fixed {
			port, err := FreePort()
			if err != nil {
				return err
			}
			s.Port = port
		}
		s.Address = net.JoinHostPort("127.0.0.1", strconv.Itoa(s.Port))
		err := s.startOnce(ctx)
		if err == nil || fixed || try == 5 || !strings.Contains(s.Log(), "Address already in use") {
			return err
		}
	}
}

func (s *SSHD) startOnce(ctx context.Context) error {
	text, err := s.configuration()
	if err != nil {
		return fmt.Errorf("configuring sshd: %w", err)
	}
	path := filepath.Join(s.Dir, "sshd_config")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		return err
	}
	log, err := os.OpenFile(s.LogFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	from, err := log.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	// Not CommandContext: the server outlives the call that starts it.
	command := exec.Command(sshdPath, "-D", "-e", "-f", path)
	command.Stderr = log
	exited, err := StartOwned(command)
	if err != nil {
		return fmt.Errorf("starting sshd: %w", err)
	}
	s.command, s.exited = command, exited

	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	gone := false
	err = Poll(ctx, "sshd to listen", func() bool {
		select {
		case <-exited:
			gone = true
			return true
		default:
		}
		return strings.Contains(s.logFrom(from), "Server listening on 127.0.0.1 port "+strconv.Itoa(s.Port))
	})
	if err == nil && gone {
		err = errors.New("sshd ended at once")
	}
	if err != nil {
		s.Stop()
		return fmt.Errorf("%w: %s", err, strings.TrimSpace(s.logFrom(from)))
	}
	return nil
}

// Stop ends the listener and every session below it, and waits for the listener.
func (s *SSHD) Stop() {
	if s.command == nil {
		return
	}
	pid := s.command.Process.Pid
	below := descendants(pid)
	killAll([]int{pid})
	killAll(below)
	<-s.exited
	s.command = nil
}

// Close ends the server, gives its accounts up and removes its folder.
func (s *SSHD) Close() error {
	s.Stop()
	var errs []error
	for _, a := range s.Accounts {
		errs = append(errs, a.Release())
	}
	errs = append(errs, os.RemoveAll(s.Dir))
	return errors.Join(errs...)
}

// Log returns what the server has logged so far.
func (s *SSHD) Log() string { return s.logFrom(0) }

func (s *SSHD) logFrom(offset int64) string {
	data, err := os.ReadFile(s.LogFile)
	if err != nil || int64(len(data)) < offset {
		return ""
	}
	return string(data[offset:])
}

// KnownHosts is a known_hosts line that pins the server under its address.
func (s *SSHD) KnownHosts() string {
	return fmt.Sprintf("[127.0.0.1]:%d %s\n", s.Port, AuthorizedLine(s.HostKey.Signer.PublicKey()))
}

// Root is the top of the repository: the nearest folder above with a go.mod.
func Root() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", errors.New("no go.mod here or above: run this inside the repository")
		}
		dir = parent
	}
}
