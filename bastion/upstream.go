package bastion

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"

	"sallyport/authz"
)

const (
	// upstreamTime is how long a data server may take to answer and log in.
	upstreamTime = 10 * time.Second
	// certificateLife is how long a certificate opens a data server. It is
	// checked at login only, so it need not outlive one.
	certificateLife = 2 * time.Minute
	// clockSkew is how far a data server's clock may be behind.
	clockSkew = time.Minute
)

// unreachableError is why a data server could not be used, with the half
// sentence that the person is told.
type unreachableError struct {
	sentence string // follows "The data server P/S "
	rule     string
	cause    error
}

func (e *unreachableError) Error() string { return e.sentence + ": " + e.cause.Error() }
func (e *unreachableError) Unwrap() error { return e.cause }

// upstream is the connection to one data server that belongs to one client
// connection. Sessions of that connection share it; people never do.
type upstream struct {
	ready chan struct{} // closed once conn or err is set
	conn  ssh.Conn
	err   error
	ended atomic.Bool  // the connection was there and is no more
	heard atomic.Int64 // bytes that came from the server
	// work is what runs beside the connection, also for sessions that have
	// ended while the server still had to answer.
	work sync.WaitGroup
}

// maxLost is how often one client connection may lose data servers and dial again.
const maxLost = 100

// upstream returns the connection to a route's server, made once for all
// sessions of this client connection. A failed or lost one is made anew.
func (c *connection) upstream(ctx context.Context, route authz.Route) (*upstream, error) {
	c.mu.Lock()
	u := c.upstreams[route]
	fresh := u == nil || u.lost()
	if fresh {
		if len(c.lost) >= maxLost {
			c.mu.Unlock()
			return nil, &unreachableError{"was lost too often on this connection; connect again", "server.lost", errServerGone}
		}
		if u != nil {
			c.lost = append(c.lost, u)
		}
		u = &upstream{ready: make(chan struct{})}
		c.upstreams[route] = u
	}
	c.mu.Unlock()
	if fresh {
		// The connection outlives the session that needed it first.
		c.dialInto(u, route)
	}
	select {
	case <-u.ready:
		return u, u.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// dialInto makes the connection. Whatever happens, those who wait for it hear of it.
func (c *connection) dialInto(u *upstream, route authz.Route) {
	defer close(u.ready)
	defer func() {
		if r := recover(); r != nil {
			c.server.reportPanic("dial", r)
			u.err = errBug
		}
	}()
	u.conn, u.err = c.dial(c.ctx, route, u)
}

// lost reports whether the connection failed or has ended.
func (u *upstream) lost() bool {
	select {
	case <-u.ready:
		return u.err != nil || u.ended.Load()
	default:
		return false
	}
}

// cutUpstreams ends all connections to data servers, so that nothing waits
// for one of them any more.
func (c *connection) cutUpstreams() {
	c.mu.Lock()
	all := slices.Collect(maps.Values(c.upstreams))
	c.mu.Unlock()
	for _, u := range all {
		u.cut()
	}
}

// waitUpstreams waits for everything that ran beside the connections.
func (c *connection) waitUpstreams() {
	c.mu.Lock()
	all := append(slices.Collect(maps.Values(c.upstreams)), c.lost...)
	c.mu.Unlock()
	for _, u := range all {
		u.work.Wait()
	}
}

// cut ends the connection without a word to the data server.
func (u *upstream) cut() {
	<-u.ready
	if u.conn != nil {
		u.conn.Close()
	}
}

// heardConn counts what comes from a data server.
type heardConn struct {
	net.Conn
	heard *atomic.Int64
}

func (h heardConn) Read(p []byte) (int, error) {
	n, err := h.Conn.Read(p)
	h.heard.Add(int64(n))
	return n, err
}

// cutIfSilent asks the data server whether it is still there, and cuts it off
// if nothing comes: the answer itself may stand behind much output of others.
func (u *upstream) cutIfSilent() {
	before := u.heard.Load()
	answered := make(chan struct{})
	go func() {
		defer close(answered) // ends with the connection at the latest
		_, _, _ = u.conn.SendRequest("keepalive@openssh.com", true, nil)
	}()
	timer := time.NewTimer(cutAfter)
	defer timer.Stop()
	select {
	case <-answered:
	case <-timer.C:
		if u.heard.Load() == before {
			u.cut()
		}
	}
}

// dial reaches a data server, checks its host key and logs in as the person's
// account with a certificate made for this connection.
func (c *connection) dial(ctx context.Context, route authz.Route, u *upstream) (ssh.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, upstreamTime)
	defer cancel()
	hostCheck, algorithms, err := hostKeyCheck(route)
	if err != nil {
		return nil, &unreachableError{"has no usable host key on record", "server.hostkey.config", err}
	}
	signer, err := c.certificate(route)
	if err != nil {
		return nil, &unreachableError{"could not be given a certificate", "server.certificate", err}
	}
	nc, err := c.server.config.Dial(ctx, "tcp", route.Address)
	if err != nil {
		return nil, &unreachableError{"could not be reached", "server.unreachable", err}
	}
	nc = heardConn{nc, &u.heard}
	stop := context.AfterFunc(ctx, func() { nc.Close() })
	known := false // the host key was accepted: what fails after that is the login
	checked := func(addr string, remote net.Addr, key ssh.PublicKey) error {
		err := hostCheck(addr, remote, key)
		known = err == nil
		return err
	}
	config := &ssh.ClientConfig{User: route.Account, Auth: []ssh.AuthMethod{ssh.PublicKeys(signer)},
		HostKeyCallback: checked, HostKeyAlgorithms: algorithms, ClientVersion: "SSH-2.0-Sallyport"}
	c.server.algorithms.apply(&config.Config)
	conn, channels, requests, err := ssh.NewClientConn(nc, route.Address, config)
	if !stop() && err == nil {
		conn.Close()
		err = ctx.Err()
	}
	if err != nil {
		nc.Close()
		return nil, explainUpstream(err, known)
	}
	u.work.Go(func() { rejectAll(channels) })
	u.work.Go(func() { ssh.DiscardRequests(requests) })
	alive, ended := context.WithCancel(context.WithoutCancel(ctx))
	u.work.Go(func() { keepAlive(alive, conn, c.server.config.Limits, func() { conn.Close() }) })
	u.work.Go(func() {
		_ = conn.Wait() // why it ended shows in the sessions that used it
		u.ended.Store(true)
		ended()
	})
	return conn, nil
}

// hostKeyError says that the data server is not the one on record.
type hostKeyError struct {
	offered, pinned string // fingerprints; pinned is the authority's if offered is a certificate
	cause           string
}

func (e *hostKeyError) Error() string {
	return fmt.Sprintf("%s: offered %s, on record %s", e.cause, e.offered, e.pinned)
}

// explainUpstream turns the library's error into half a sentence.
func explainUpstream(err error, known bool) error {
	var lost net.Error
	var other *hostKeyError
	switch {
	case errors.As(err, &other):
		return &unreachableError{"presented a host key that is not the one on record, so nothing was sent to it; tell an administrator", "server.hostkey", err}
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, net.ErrClosed):
		return &unreachableError{"did not answer in time", "server.time", err}
	case errors.As(err, &lost), errors.Is(err, io.EOF):
		return &unreachableError{"closed the connection", "server.closed", err}
	case known:
		return &unreachableError{"does not accept your account; an administrator must set it up", "server.login", err}
	}
	return &unreachableError{"did not answer as an SSH server should", "server.protocol", err}
}

// rejectAll refuses channels that a data server tries to open: x11, agent and
// forwarded ports would be ways out.
func rejectAll(channels <-chan ssh.NewChannel) {
	for nc := range channels {
		_ = nc.Reject(ssh.Prohibited, "not allowed") // a lost server ends by itself
	}
}

// certificate makes a fresh key and a certificate for it: this person's
// account on this project's servers, for two minutes, a terminal and nothing else.
func (c *connection) certificate(route authz.Route) (ssh.Signer, error) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	key, err := ssh.NewPublicKey(public)
	if err != nil {
		return nil, err
	}
	var serial [8]byte
	if _, err := rand.Read(serial[:]); err != nil {
		return nil, err
	}
	now := time.Now() // the data server's clock judges, not a test's
	cert := &ssh.Certificate{
		Key: key, Serial: binary.BigEndian.Uint64(serial[:]), CertType: ssh.UserCert,
		KeyId:           fmt.Sprintf("sallyport conn=%s user=%s project=%s", c.identity.Connection, c.identity.User, route.Project),
		ValidPrincipals: []string{route.Project + "/" + route.Account},
		ValidAfter:      uint64(now.Add(-clockSkew).Unix()),
		ValidBefore:     uint64(now.Add(certificateLife).Unix()),
		Permissions:     ssh.Permissions{Extensions: map[string]string{"permit-pty": ""}},
	}
	if s := c.server.config.SourceAddress; s != "" {
		cert.CriticalOptions = map[string]string{"source-address": s}
	}
	if err := cert.SignCert(rand.Reader, c.server.config.UserCA); err != nil {
		return nil, fmt.Errorf("sign certificate: %w", err)
	}
	signer, err := ssh.NewSignerFromSigner(private)
	if err != nil {
		return nil, err
	}
	return ssh.NewCertSigner(cert, signer)
}

// hostKeyCheck accepts the pinned key only, or a host certificate of the
// pinned authority for the host's name.
func hostKeyCheck(route authz.Route) (ssh.HostKeyCallback, []string, error) {
	pin := route.HostKey
	if route.HostCA != "" {
		pin = route.HostCA
	}
	want, _, _, _, err := ssh.ParseAuthorizedKey([]byte(pin))
	if err != nil {
		return nil, nil, fmt.Errorf("pinned host key: %w", err)
	}
	differs := func(key ssh.PublicKey, cause string) error {
		return &hostKeyError{offered: ssh.FingerprintSHA256(key), pinned: ssh.FingerprintSHA256(want), cause: cause}
	}
	if route.HostCA != "" {
		checker := &ssh.CertChecker{IsHostAuthority: func(auth ssh.PublicKey, _ string) bool {
			return bytes.Equal(auth.Marshal(), want.Marshal())
		}}
		check := func(addr string, remote net.Addr, key ssh.PublicKey) error {
			cert, ok := key.(*ssh.Certificate)
			// The library takes an empty list of principals for any host, and SHA-1 signatures.
			if !ok || len(cert.ValidPrincipals) == 0 || cert.Signature.Format == ssh.KeyAlgoRSA {
				return differs(key, "no host certificate that counts")
			}
			if err := checker.CheckHostKey(addr, remote, key); err != nil {
				return differs(cert.SignatureKey, err.Error())
			}
			return nil
		}
		return check, []string{ssh.CertAlgoED25519v01, ssh.CertAlgoECDSA256v01, ssh.CertAlgoECDSA384v01,
			ssh.CertAlgoECDSA521v01, ssh.CertAlgoRSASHA256v01, ssh.CertAlgoRSASHA512v01}, nil
	}
	algorithms := []string{want.Type()}
	if want.Type() == ssh.KeyAlgoRSA {
		algorithms = []string{ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256}
	}
	return func(_ string, _ net.Addr, key ssh.PublicKey) error {
		if !bytes.Equal(key.Marshal(), want.Marshal()) {
			return differs(key, "another host key")
		}
		return nil
	}, algorithms, nil
}
