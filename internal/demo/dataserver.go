package demo

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"path/filepath"
	"sync"
	"time"

	gliderlabs "github.com/gliderlabs/ssh"
	"golang.org/x/crypto/ssh"
)

// serverOptions are what a data server is made from.
type serverOptions struct {
	Project string
	Name    string
	Dir     string        // holds one folder an account
	HostKey ssh.Signer    // pinned at the gate
	UserCA  ssh.PublicKey // the only authority whose certificates open it
	Clock   func() time.Time
	Log     *slog.Logger
}

// dataServer is one embedded data server on loopback. Like a real one that is
// set up as configs/sshd_config.d says, it takes nothing but certificates of
// the gate's user CA for the principal PROJECT/ACCOUNT, and opens no channel
// but sessions.
type dataServer struct {
	serverOptions
	listener net.Listener
	ssh      *gliderlabs.Server
	checker  *ssh.CertChecker

	// work is every goroutine of the server: accepting, connections, sessions.
	work sync.WaitGroup

	mu          sync.Mutex // guards the rest
	closed      bool
	connections map[net.Conn]struct{}
}

// account is who a verified certificate opens the server for.
type account struct {
	name  string
	keyID string // names the gate's connection, the person and the project
	pty   bool   // the certificate permits a terminal
}

// accountExtra is the key of ssh.Permissions.ExtraData. Its type is private, so
// nothing but a verified certificate can put an account there.
type accountExtra struct{}

// startDataServer listens on a free loopback port and serves until Close.
func startDataServer(o serverOptions) (*dataServer, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("start data server %s/%s: %w", o.Project, o.Name, err)
	}
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	o.Log = o.Log.With("server", o.Project+"/"+o.Name)
	s := &dataServer{serverOptions: o, listener: listener, connections: map[net.Conn]struct{}{}}
	s.checker = &ssh.CertChecker{Clock: o.Clock, SupportedCriticalOptions: []string{"source-address"}}
	s.ssh = &gliderlabs.Server{
		HostSigners: []gliderlabs.Signer{o.HostKey},
		Version:     "Sallyport-demo",
		// Without a handler of its own the library would let everybody in.
		PublicKeyHandler:     s.offered,
		ServerConfigCallback: s.config,
		ChannelHandlers:      map[string]gliderlabs.ChannelHandler{"session": s.session},
		RequestHandlers:      map[string]gliderlabs.RequestHandler{"default": refuseRequest},
		ConnectionFailedCallback: func(_ net.Conn, err error) {
			s.Log.Info("connection refused", "error", err)
		},
	}
	s.work.Go(s.accept)
	return s, nil
}

// Addr is where the server listens, HOST:PORT.
func (s *dataServer) Addr() string { return s.listener.Addr().String() }

// Close ends every session with its programs, and waits for all of it.
func (s *dataServer) Close() {
	s.mu.Lock()
	s.closed = true
	open := maps.Clone(s.connections)
	s.mu.Unlock()
	s.listener.Close()
	for c := range open {
		c.Close()
	}
	s.work.Wait()
}

func (s *dataServer) accept() {
	for {
		c, err := s.listener.Accept()
		if err != nil {
			if !errors.Is(err, net.ErrClosed) {
				s.Log.Error("data server stopped accepting", "error", err)
			}
			return
		}
		s.start(c)
	}
}

// start serves one connection unless the server is closing.
func (s *dataServer) start(c net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		c.Close()
		return
	}
	s.connections[c] = struct{}{}
	s.work.Go(func() {
		s.ssh.HandleConn(c)
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.connections, c)
	})
}

// config adds what the library does not offer. Algorithms are those of the
// gate; the certificate is checked once more when its signature is verified,
// with the user name of that very request: the library's own context keeps the
// name of the connection's first attempt.
func (s *dataServer) config(gliderlabs.Context) *ssh.ServerConfig {
	return &ssh.ServerConfig{
		Config: ssh.Config{
			KeyExchanges: []string{ssh.KeyExchangeMLKEM768X25519, ssh.KeyExchangeCurve25519},
			Ciphers:      []string{ssh.CipherAES128GCM, ssh.CipherAES256GCM},
		},
		MaxAuthTries: 2, // the gate offers exactly one certificate
		VerifiedPublicKeyCallback: func(meta ssh.ConnMetadata, key ssh.PublicKey, _ *ssh.Permissions, _ string) (*ssh.Permissions, error) {
			return s.admit(meta.User(), key)
		},
	}
}

// offered answers whether a key may sign at all.
func (s *dataServer) offered(ctx gliderlabs.Context, key gliderlabs.PublicKey) bool {
	_, err := s.admit(ctx.User(), key)
	return err == nil
}

// admit checks that a key is a certificate of the gate for this account of
// this project, now. It keeps the source addresses of the certificate, which
// the library enforces, and nothing else.
func (s *dataServer) admit(user string, key ssh.PublicKey) (*ssh.Permissions, error) {
	cert, ok := key.(*ssh.Certificate)
	switch {
	case !ok:
		return nil, errors.New("a plain key opens nothing here")
	case cert.CertType != ssh.UserCert:
		return nil, errors.New("not a user certificate")
	case !bytes.Equal(cert.SignatureKey.Marshal(), s.UserCA.Marshal()):
		return nil, errors.New("certificate of another authority")
	case cert.Signature.Format == ssh.KeyAlgoRSA:
		return nil, errors.New("certificate is signed with SHA-1")
	case len(cert.ValidPrincipals) == 0:
		// The library takes such a certificate for anybody.
		return nil, errors.New("certificate names no principal")
	case !validAccount(user):
		return nil, errors.New("no such account")
	}
	if err := s.checker.CheckCert(s.Project+"/"+user, cert); err != nil {
		return nil, fmt.Errorf("check certificate: %w", err)
	}
	_, terminal := cert.Extensions["permit-pty"]
	permissions := &ssh.Permissions{
		ExtraData: map[any]any{accountExtra{}: account{name: user, keyID: cert.KeyId, pty: terminal}},
	}
	if sources, ok := cert.CriticalOptions["source-address"]; ok {
		permissions.CriticalOptions = map[string]string{"source-address": sources}
	}
	return permissions, nil
}

// validAccount allows what can be the name of a folder and of an account.
func validAccount(name string) bool {
	if len(name) == 0 || len(name) > 32 {
		return false
	}
	for i, c := range []byte(name) {
		switch {
		case 'a' <= c && c <= 'z':
		case i > 0 && ('0' <= c && c <= '9' || c == '-' || c == '_' || c == '.'):
		default:
			return false
		}
	}
	return true
}

// refuseRequest answers requests that concern the whole connection, such as
// for forwarded ports.
func refuseRequest(gliderlabs.Context, *gliderlabs.Server, *ssh.Request) (bool, []byte) {
	return false, nil
}

// home is the folder of an account, made with sample data when it is first needed.
func (s *dataServer) home(a account) (string, error) {
	dir := filepath.Join(s.Dir, a.name)
	if err := writeSample(dir, s.Project); err != nil {
		return "", fmt.Errorf("home of %s: %w", a.name, err)
	}
	return dir, nil
}
