package bastion

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os/user"
	"strconv"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"

	"sallyport/authz"
)

// localFactorLife is how long a second factor given on the node's socket
// counts for further verbs of the same OS user in the same login session.
const localFactorLife = 10 * time.Minute

// peer is the process at the other end of the unix socket.
type peer struct {
	uid          uint32
	loginSession int // session id (getsid) of the peer: one terminal of one login
}

// localFactors remembers second factors of the socket.
type localFactors struct {
	mu    sync.Mutex // guards given
	given map[peer]localFactor
}

type localFactor struct {
	user   string
	factor authz.Factor
}

func newLocalFactors() *localFactors { return &localFactors{given: map[peer]localFactor{}} }

func (l *localFactors) remember(p peer, user string, f authz.Factor) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.given[p] = localFactor{user, f}
}

// recall returns a factor that is still good, and forgets all that are not.
func (l *localFactors) recall(p peer, user string, now time.Time) (authz.Factor, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for k, v := range l.given {
		if now.Sub(v.factor.At) > localFactorLife {
			delete(l.given, k)
		}
	}
	g, ok := l.given[p]
	return g.factor, ok && g.user == user
}

// ServeLocal serves the command tree on the node's unix socket: SSH inside, the person known
// by the peer's OS user, asked for a second factor.
func (s *Server) ServeLocal(ctx context.Context, l *net.UnixListener) error {
	return s.accept(ctx, l, s.serveLocalConn)
}

// localLogin is one connection of the socket while it authenticates.
type localLogin struct {
	server   *Server
	conn     *guardedConn
	peer     peer
	osUser   string
	id       authz.Identity
	cached   bool
	complete bool
	tries    int
}

func (s *Server) serveLocalConn(ctx context.Context, nc net.Conn) {
	defer nc.Close()
	defer s.contain("socket connection")
	conn := newGuardedConn(ctx, nc, s.config.Limits.PreAuthBytes)
	defer conn.gone(nil)
	l := &localLogin{server: s, conn: conn}
	if err := l.identify(nc); err != nil {
		s.config.Log.Error("socket peer", "error", err)
		return
	}
	if err := conn.SetDeadline(time.Now().Add(s.config.Limits.FactorTime)); err != nil {
		return
	}
	config := &ssh.ServerConfig{KeyboardInteractiveCallback: l.factor, ServerVersion: "SSH-2.0-Sallyport"}
	s.algorithms.apply(&config.Config)
	config.AddHostKey(s.config.HostKeys[0])
	sc, channels, requests, err := ssh.NewServerConn(conn, config)
	if err != nil {
		s.config.Log.Info("socket login failed", "os_user", l.osUser, "error", err)
		return
	}
	defer sc.Close()
	if !l.complete || conn.known() != nil {
		return
	}
	l.id.SessionID = sc.SessionID()
	if err := s.authority.LoggedIn(conn.ctx, l.id); err != nil {
		s.config.Log.Error("socket login could not be recorded", "user", l.id.User, "error", err)
		return
	}
	c := newConnection(s, conn, sc, l.id, address{user: l.id.User})
	c.cachedFactor = l.cached
	c.notice()
	s.serveConnection(c, channels, requests)
}

// identify asks the kernel who is at the other end.
func (l *localLogin) identify(nc net.Conn) error {
	uc, ok := nc.(*net.UnixConn)
	if !ok {
		return errors.New("not a unix socket")
	}
	raw, err := uc.SyscallConn()
	if err != nil {
		return err
	}
	var cred *unix.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) { cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil {
		return err
	}
	if credErr != nil {
		return fmt.Errorf("peer credentials: %w", credErr)
	}
	l.peer.uid = cred.Uid
	if l.peer.loginSession, err = unix.Getsid(int(cred.Pid)); err != nil {
		return fmt.Errorf("login session of the peer: %w", err)
	}
	u, err := user.LookupId(strconv.FormatUint(uint64(cred.Uid), 10))
	if err != nil {
		return fmt.Errorf("OS user %d: %w", cred.Uid, err)
	}
	l.osUser = u.Username
	return nil
}

// factor knows the person by the OS user and asks for the second factor,
// unless it was given in the same login session a moment ago.
func (l *localLogin) factor(meta ssh.ConnMetadata, ask ssh.KeyboardInteractiveChallenge) (*ssh.Permissions, error) {
	s, ctx := l.server, l.conn.ctx
	person, err := s.authority.UserByOSUser(ctx, l.osUser)
	if err != nil {
		return nil, &ssh.BannerError{Err: errDenied, Message: fmt.Sprintf(
			"sallyport: The OS user %[1]s is bound to no person on this gate; an administrator binds it with: user os-user NAME %[1]s.\r\n", printable(l.osUser, 64))}
	}
	now := s.now()
	id := authz.Identity{User: person.Name, Connection: newID("C"), Via: "socket", Client: printable(string(meta.ClientVersion()), 80),
		SessionID: meta.SessionID(), Factors: []authz.Factor{{Kind: authz.FactorOSUser, ID: l.osUser, Assurance: authz.AssuranceKnown, At: now}}}
	refusal, err := s.authority.BeginLogin(ctx, id)
	if err != nil {
		refusal = s.unavailable(ctx, id, err)
	}
	if refusal != nil {
		return nil, &ssh.BannerError{Err: errDenied, Message: "sallyport: " + printable(refusal.Error(), 400) + "\r\n"}
	}
	f, ok := s.local.recall(l.peer, person.Name, now)
	l.cached = ok
	if !ok {
		if f, err = s.askFactor(ctx, id, ask, &l.tries); err != nil {
			return nil, &ssh.BannerError{Err: errDenied, Message: "sallyport: " + printable(err.Error(), 400) + "\r\n"}
		}
		s.local.remember(l.peer, person.Name, f)
	}
	id.Factors = append(id.Factors, f)
	l.id, l.complete = id, true
	return &ssh.Permissions{}, nil
}
