package bastion

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/oklog/ulid/v2"
	"golang.org/x/crypto/ssh"

	"sallyport/authz"
)

// factorTries is how many answers one connection may give in all.
const factorTries = 3

// errDenied is what every failed method returns to the library; the client
// sees only the failure.
var errDenied = errors.New("denied")

// login holds the state of one connection while it authenticates. Only the
// goroutine of the handshake touches it.
type login struct {
	server *Server
	conn   *guardedConn
	id     string // C-…
	remote netip.AddrPort
	log    *slog.Logger
	place  func() // gives the place among the strangers, later the person's, back

	// proven is set by a verified signature and by nothing else.
	proven *proven
	tries  int
	// identity is set once both factors are verified.
	identity *authz.Identity
	// invited is set when the connection may open the enrolment console only.
	invited *invited
	// refusal is why a person with a verified key was turned away.
	refusal *authz.Refusal
}

// proven is what a verified signature says.
type proven struct {
	address     address
	name        string // the exact user name of the request that was signed
	fingerprint string
	key         authz.Key
	session     []byte
	at          time.Time
}

// invited is a connection that came with a one-time invite and proved a key.
type invited struct {
	token string
	user  authz.User
	key   authz.Key
}

// extra keys of ssh.Permissions.ExtraData. The types are private, so nothing
// but this package can put them there.
type (
	identityExtra struct{}
	invitedExtra  struct{}
)

func newLogin(s *Server, c *guardedConn, id string, place func()) *login {
	l := &login{server: s, conn: c, id: id, place: place, log: s.config.Log.With("connection", id)}
	if a, ok := c.RemoteAddr().(*net.TCPAddr); ok {
		ap := a.AddrPort()
		l.remote = netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
	}
	return l
}

// newID makes an identifier of the given kind, e.g. C-01J….
func newID(kind string) string { return kind + "-" + ulid.Make().String() }

// handshake runs key exchange and authentication. The identity that comes out
// is the one that the verified signature and the verified factor made, checked
// again against what the library says the connection became.
func (l *login) handshake() (*ssh.ServerConn, <-chan ssh.NewChannel, <-chan *ssh.Request, error) {
	limits := l.server.config.Limits
	if err := l.conn.SetDeadline(time.Now().Add(limits.HandshakeTime)); err != nil {
		return nil, nil, nil, err
	}
	config := &ssh.ServerConfig{
		MaxAuthTries:              12, // keys of a full agent, then the factor
		PublicKeyAuthAlgorithms:   l.server.algorithms.publicKeys,
		PublicKeyCallback:         l.offered,
		VerifiedPublicKeyCallback: l.verified,
		ServerVersion:             "SSH-2.0-Sallyport",
		PreAuthConnCallback: func(ssh.ServerPreAuthConn) {
			_ = l.conn.SetDeadline(time.Now().Add(limits.KeyTime)) // a dead conn fails the next read
		},
	}
	l.server.algorithms.apply(&config.Config)
	for _, k := range l.server.config.HostKeys {
		config.AddHostKey(k)
	}
	sc, channels, requests, err := ssh.NewServerConn(l.conn, config)
	if err != nil {
		return nil, nil, nil, err
	}
	if err := l.confirm(sc); err != nil {
		sc.Close()
		return nil, nil, nil, err
	}
	return sc, channels, requests, nil
}

// confirm compares what authentication produced with what was verified. It
// can fail only if this file or the library has a bug; it is here because
// that bug has happened to others (CVE-2024-45337).
func (l *login) confirm(sc *ssh.ServerConn) error {
	if l.proven == nil || sc.Permissions == nil || sc.User() != l.proven.name || !bytes.Equal(sc.SessionID(), l.proven.session) {
		return errors.New("login state does not match the verified signature")
	}
	if inv, ok := sc.Permissions.ExtraData[invitedExtra{}].(*invited); ok {
		if inv != l.invited || l.identity != nil {
			return errors.New("invite state does not match the verified signature")
		}
		return nil
	}
	id, ok := sc.Permissions.ExtraData[identityExtra{}].(*authz.Identity)
	if !ok || id != l.identity || id.User != l.proven.address.user || id.Fingerprint != l.proven.fingerprint || len(id.Factors) < 2 {
		return errors.New("identity lacks a verified key or a verified second factor")
	}
	return nil
}

// offered answers whether a key may sign. It is called for mere offers too,
// so it keeps nothing.
func (l *login) offered(meta ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
	if _, _, err := l.eligible(meta, key); err != nil {
		return nil, errDenied
	}
	return nil, nil
}

// eligible looks a key up for the person that the user name names.
func (l *login) eligible(meta ssh.ConnMetadata, key ssh.PublicKey) (address, *invited, error) {
	a, err := parseAddress(meta.User())
	if err != nil {
		// A name that can't be one costs the same look-up as one that is unknown.
		_, _ = l.server.authority.KeyBelongs(l.conn.ctx, "nobody", ssh.FingerprintSHA256(key))
		return address{}, nil, err
	}
	if a.invite != "" {
		k, err := authz.CheckKey(strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key))))
		if err != nil {
			return address{}, nil, err
		}
		user, err := l.server.authority.InvitedUser(l.conn.ctx, a.invite)
		if err != nil {
			return address{}, nil, err
		}
		return a, &invited{token: a.invite, user: user, key: k}, nil
	}
	belongs, err := l.server.authority.KeyBelongs(l.conn.ctx, a.user, ssh.FingerprintSHA256(key))
	if err != nil {
		return address{}, nil, err
	}
	if !belongs {
		return address{}, nil, errDenied
	}
	return a, nil, nil
}

// verified runs once the signature is verified: from here on the person is
// told why something is refused.
func (l *login) verified(meta ssh.ConnMetadata, key ssh.PublicKey, _ *ssh.Permissions, _ string) (*ssh.Permissions, error) {
	a, inv, err := l.eligible(meta, key) // again: the offer may be long ago
	if err != nil {
		return nil, errDenied
	}
	l.proven = &proven{
		address: a, name: meta.User(), session: bytes.Clone(meta.SessionID()),
		fingerprint: ssh.FingerprintSHA256(key), at: l.server.now(),
		key: authz.Key{Fingerprint: ssh.FingerprintSHA256(key), Type: key.Type()},
	}
	_ = l.conn.SetDeadline(time.Now().Add(l.server.config.Limits.FactorTime)) // a dead conn fails the next read
	if inv != nil {
		l.invited = inv
		return &ssh.Permissions{ExtraData: map[any]any{invitedExtra{}: inv}}, nil
	}
	refusal, err := l.server.authority.BeginLogin(l.conn.ctx, l.partial(meta))
	if err != nil {
		return nil, l.turnAway(l.server.unavailable(l.conn.ctx, l.partial(meta), err))
	}
	if refusal != nil {
		return nil, l.turnAway(refusal)
	}
	place, ok := l.server.guard.person(a.user, l.remote.Addr())
	if !ok {
		return nil, l.turnAway(l.server.authority.Refuse(l.conn.ctx, loginEvent(l.partial(meta), "login.refused"), "login.many",
			"Too many other logins of yours still wait for their code.", ""))
	}
	l.place()
	l.place = place
	return nil, &ssh.PartialSuccessError{Next: ssh.ServerAuthCallbacks{KeyboardInteractiveCallback: l.factor}}
}

// partial is the identity with the key only; it opens nothing.
func (l *login) partial(meta ssh.ConnMetadata) authz.Identity {
	return authz.Identity{
		User: l.proven.address.user, Connection: l.id, Via: "ssh",
		Fingerprint: l.proven.fingerprint, KeyType: l.proven.key.Type,
		Factors: []authz.Factor{{Kind: authz.FactorKey, ID: l.proven.fingerprint,
			Assurance: authz.AssuranceKnown, At: l.proven.at}},
		RemoteAddr: l.remote, SessionID: l.proven.session, Client: printable(string(meta.ClientVersion()), 80),
	}
}

// turnAway tells the reason in a banner and fails the method. What the client
// still tries after that has two seconds.
func (l *login) turnAway(r *authz.Refusal) error {
	l.refusal = r
	_ = l.conn.SetDeadline(time.Now().Add(2 * time.Second)) // a dead conn fails the next read
	return &ssh.BannerError{Err: errDenied, Message: "sallyport: " + printable(r.Error(), 400) + "\r\n"}
}

// factor asks for the second factor, at most factorTries times a connection.
func (l *login) factor(meta ssh.ConnMetadata, ask ssh.KeyboardInteractiveChallenge) (*ssh.Permissions, error) {
	if l.proven == nil || meta.User() != l.proven.name || l.refusal != nil {
		return nil, errDenied
	}
	id := l.partial(meta)
	f, err := l.server.askFactor(l.conn.ctx, id, ask, &l.tries)
	if err != nil {
		var refusal *authz.Refusal
		if errors.As(err, &refusal) {
			return nil, l.turnAway(refusal)
		}
		return nil, errDenied
	}
	id.Factors = append(id.Factors, f)
	l.identity = &id
	return &ssh.Permissions{ExtraData: map[any]any{identityExtra{}: l.identity}}, nil
}

// askFactor asks until an answer is right, tries are used up, or the person
// is refused. The question carries all text, because clients hide the
// instruction under -q and SSH_ASKPASS.
func (s *Server) askFactor(ctx context.Context, id authz.Identity, ask ssh.KeyboardInteractiveChallenge, tries *int) (authz.Factor, error) {
	question := fmt.Sprintf("One-time code for %s: ", id.User)
	for *tries < factorTries {
		*tries++
		answers, err := ask("", "", []string{question}, []bool{false})
		if err != nil {
			return authz.Factor{}, fmt.Errorf("ask for second factor: %w", err)
		}
		if len(answers) != 1 {
			return authz.Factor{}, errors.New("second factor: no single answer")
		}
		f, err := s.authority.VerifyFactor(ctx, id, answers[0])
		left := factorTries - *tries
		switch {
		case err == nil:
			return f, nil
		case errors.Is(err, authz.ErrUsedCode):
			question = fmt.Sprintf("That code was used before. Wait for the next one (%s): ", triesLeft(left))
		case errors.Is(err, authz.ErrWrongCode):
			question = fmt.Sprintf("That code is not right (%s). One-time or recovery code: ", triesLeft(left))
		default:
			var refusal *authz.Refusal
			if errors.As(err, &refusal) {
				return authz.Factor{}, refusal
			}
			return authz.Factor{}, s.unavailable(ctx, id, err)
		}
	}
	return authz.Factor{}, s.authority.Refuse(ctx, loginEvent(id, "login.refused"), "factor.tries",
		"No right code was given in three tries, so the connection is closed; if codes keep failing, check the clock of the device that shows them.", "")
}

func triesLeft(n int) string {
	if n == 1 {
		return "1 try left"
	}
	return fmt.Sprintf("%d tries left", n)
}

// loginEvent is an event about a person's way in.
func loginEvent(id authz.Identity, op string) authz.Event {
	return authz.Event{UserID: id.User, OpType: op, ResourceID: id.Connection, ResourceType: "connection",
		RemoteAddr: id.Actor().RemoteAddr, Connection: id.Connection, Result: authz.ResultRefused,
		Details: map[string]any{"fingerprint": id.Fingerprint, "client": id.Client}}
}

// unavailable turns a failure of the node into a refusal: without an answer
// nobody gets in.
func (s *Server) unavailable(ctx context.Context, id authz.Identity, err error) *authz.Refusal {
	s.config.Log.Error("cannot decide", "user", id.User, "connection", id.Connection, "error", err)
	return s.authority.Refuse(ctx, loginEvent(id, "node.failure"), "node.failure",
		"The gate cannot check your access at the moment, so it lets nobody in.", err.Error())
}
