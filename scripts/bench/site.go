package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"golang.org/x/crypto/ssh"

	"sallyport/internal/testgate"
	"sallyport/internal/testkit"
)

// cipher is the same on every leg of every way.
const cipher = testgate.Cipher

// connectTime bounds one login.
const connectTime = 60 * time.Second

// accounts are those of the data server. The gate's people have an account
// each, since an account belongs to one person.
func accounts(people int) []string {
	names := make([]string, people)
	for i := range names {
		names[i] = fmt.Sprintf("sp-bench-%d", i+1)
	}
	return names
}

// way is one of the things compared: how a client gets to the data server.
type way struct {
	name string
	// connect logs in from nothing.
	connect func(ctx context.Context) (*connection, error)
	// kept is one connection that bulk and echo measures share.
	kept *connection
}

// connection is a client of the data server and what has to be closed with it.
type connection struct {
	*ssh.Client
	below *ssh.Client // the jump host's, or nil
}

// Close ends the connection and the one that carries it.
func (c *connection) Close() error {
	err := c.Client.Close()
	if c.below != nil {
		err = errors.Join(err, c.below.Close())
	}
	if errors.Is(err, net.ErrClosed) || errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// site is everything that a run stands on.
type site struct {
	dir    string
	key    testkit.Key
	target *testkit.SSHD
	jump   *testkit.SSHD
	gate   *gate
	ways   []*way
	random string // file of random bytes on the data server
}

// buildSite starts the data server, the jump host and the gate, and connects once by each way.
func buildSite(ctx context.Context, o options) (_ *site, err error) {
	dir, err := os.MkdirTemp("", "sallyport-bench-")
	if err != nil {
		return nil, err
	}
	s := &site{dir: dir}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	if s.key, err = testkit.MakeKey(dir, "client"); err != nil {
		return nil, err
	}
	// The node comes first, because the data server has to trust its CA.
	var made *testgate.Site
	var userCA ssh.PublicKey
	if o.gate != "" {
		if made, err = testgate.Make(ctx, filepath.Join(dir, "gate"), "limits:", "  unauthenticated_per_source: 100"); err != nil {
			return nil, err
		}
		userCA = made.UserCA
	}
	// A login of the gate uses up a time step, and few are valid at once. With a
	// person for each login nobody ever waits for the next one.
	people := 1 + o.rounds*o.logins
	only := []string{"Ciphers " + cipher}
	names := accounts(people)
	if s.target, err = testkit.NewSSHD(ctx, testkit.SSHDOptions{
		Project: testgate.Project, Accounts: names, UserCA: userCA,
		AuthorizedKeys: []ssh.PublicKey{s.key.Signer.PublicKey()}, Lines: only,
	}); err != nil {
		return nil, err
	}
	if s.jump, err = testkit.NewSSHD(ctx, testkit.SSHDOptions{
		Accounts: names[:1], AuthorizedKeys: []ssh.PublicKey{s.key.Signer.PublicKey()},
		Forwarding: true, Lines: only,
	}); err != nil {
		return nil, err
	}
	if err := s.writeRandom(o.size); err != nil {
		return nil, err
	}
	s.ways = []*way{
		{name: "direct", connect: s.direct},
		{name: "-J", connect: s.throughJump},
	}
	if o.gate != "" {
		if s.gate, err = startGate(ctx, o.gate, made, s.target, names); err != nil {
			return nil, err
		}
		s.ways = append(s.ways, &way{name: "gate", connect: s.gate.connect})
	}
	for _, w := range s.ways {
		if w.kept, err = w.connect(ctx); err != nil {
			return nil, fmt.Errorf("first connection by way of %s: %w", w.name, err)
		}
	}
	return s, nil
}

// writeRandom puts incompressible bytes where every account of the data server can read them.
func (s *site) writeRandom(size int64) error {
	s.random = filepath.Join(s.target.Dir, "random")
	f, err := os.OpenFile(s.random, os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := io.CopyN(f, rand.Reader, size); err != nil {
		return fmt.Errorf("writing random bytes: %w", err)
	}
	return f.Close()
}

// Close ends what buildSite started, in the order that lets logs be complete.
func (s *site) Close() error {
	var errs []error
	for _, w := range s.ways {
		if w.kept != nil {
			errs = append(errs, w.kept.Close())
		}
	}
	if s.gate != nil {
		errs = append(errs, s.gate.Stop())
	}
	if s.jump != nil {
		errs = append(errs, s.jump.Close())
	}
	if s.target != nil {
		errs = append(errs, s.target.Close())
	}
	return errors.Join(append(errs, os.RemoveAll(s.dir))...)
}

// clientConfig is the same for all ways but for the name and the proof.
func clientConfig(user string, host ssh.HostKeyCallback, auth ...ssh.AuthMethod) *ssh.ClientConfig {
	c := &ssh.ClientConfig{User: user, Auth: auth, HostKeyCallback: host, Timeout: connectTime}
	c.Ciphers = []string{cipher}
	// The gate also has a host certificate; the plain key is what is pinned here.
	c.HostKeyAlgorithms = []string{ssh.KeyAlgoED25519}
	return c
}

func (s *site) direct(ctx context.Context) (*connection, error) {
	c, err := dial(ctx, s.target.Address, s.plain(s.target))
	if err != nil {
		return nil, err
	}
	return &connection{Client: c}, nil
}

func (s *site) plain(server *testkit.SSHD) *ssh.ClientConfig {
	return clientConfig(accounts(1)[0], ssh.FixedHostKey(server.HostKey.Signer.PublicKey()), ssh.PublicKeys(s.key.Signer))
}

func (s *site) throughJump(ctx context.Context) (*connection, error) {
	below, err := dial(ctx, s.jump.Address, s.plain(s.jump))
	if err != nil {
		return nil, fmt.Errorf("jump host: %w", err)
	}
	stream, err := below.DialContext(ctx, "tcp", s.target.Address)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("jump host: %w", err), below.Close())
	}
	c, channels, requests, err := ssh.NewClientConn(stream, s.target.Address, s.plain(s.target))
	if err != nil {
		return nil, errors.Join(err, below.Close())
	}
	return &connection{Client: ssh.NewClient(c, channels, requests), below: below}, nil
}

func dial(ctx context.Context, address string, config *ssh.ClientConfig) (*ssh.Client, error) {
	var d net.Dialer
	stream, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	c, channels, requests, err := ssh.NewClientConn(stream, address, config)
	if err != nil {
		stream.Close()
		return nil, err
	}
	return ssh.NewClient(c, channels, requests), nil
}

// output runs a short command of this machine.
func output(ctx context.Context, name string, args ...string) (string, error) {
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s: %w", name, err)
	}
	return string(out), nil
}
