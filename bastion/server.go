package bastion

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/crypto/ssh"

	"sallyport/authz"
	"sallyport/recorder"
)

// Config is what a Server is made from. Zero limits take their defaults.
type Config struct {
	Name      string // the gate's public name, for sentences
	Port      int    // its public port, for the same; 0 or 22 for the usual one
	Authority *authz.Authority
	Recorder  *recorder.Recorder
	Verbs     Verbs
	HostKeys  []ssh.Signer // plain key and certificate of the gate
	UserCA    ssh.Signer   // signs people's certificates for data servers
	Profile   string       // "strict" (default) or "compat"
	Limits    Limits
	Log       *slog.Logger
	Metrics   prometheus.Registerer // nil: none
	// Dial reaches data servers; nil: net.Dialer.
	Dial  func(ctx context.Context, network, address string) (net.Conn, error)
	Clock func() time.Time // nil: time.Now
	// SourceAddress, when not empty, goes into certificates as the source-address critical option (CIDR list).
	SourceAddress string
	// Ready, if set, says why no session may begin, beside what the server sees itself; nil error: one may.
	Ready func() error
}

// Limits bound what a client can take. The defaults are those of DefaultLimits.
type Limits struct {
	Unauthenticated          int           // connections that have not logged in, in all
	UnauthenticatedPerSource int           // the same per /32 or /64
	Connections              int           // authenticated connections, in all
	HandshakeTime            time.Duration // to the end of the key exchange
	KeyTime                  time.Duration // to a verified key
	FactorTime               time.Duration // to a verified second factor
	PreAuthBytes             int64         // read from a client before it has logged in
	Channels                 int           // open at once on one connection
	EnvironmentBytes         int           // names and values of one session
	CommandBytes             int           // of one exec request
	KeepAlive                time.Duration // between questions to a silent client
	KeepAliveMissed          int           // unanswered ones before the connection ends
	Drain                    time.Duration // how long live sessions may go on after a stop
}

// DefaultLimits follow OpenSSH where it has the same limit (MaxStartups,
// LoginGraceTime, MaxSessions); the byte budget covers a full handshake with
// post-quantum keys and a dozen offered keys several times over.
func DefaultLimits() Limits {
	return Limits{
		Unauthenticated: 100, UnauthenticatedPerSource: 20, Connections: 5000,
		HandshakeTime: 10 * time.Second, KeyTime: 30 * time.Second, FactorTime: 120 * time.Second,
		PreAuthBytes: 256 << 10, Channels: 10, EnvironmentBytes: 16 << 10, CommandBytes: 128 << 10,
		KeepAlive: 30 * time.Second, KeepAliveMissed: 3, Drain: 30 * time.Second,
	}
}

// withDefaults fills zero fields.
func (l Limits) withDefaults() Limits {
	d := DefaultLimits()
	for _, f := range []struct{ have, fallback *int }{
		{&l.Unauthenticated, &d.Unauthenticated}, {&l.UnauthenticatedPerSource, &d.UnauthenticatedPerSource},
		{&l.Connections, &d.Connections}, {&l.Channels, &d.Channels}, {&l.EnvironmentBytes, &d.EnvironmentBytes},
		{&l.CommandBytes, &d.CommandBytes}, {&l.KeepAliveMissed, &d.KeepAliveMissed},
	} {
		if *f.have == 0 {
			*f.have = *f.fallback
		}
	}
	for _, f := range []struct{ have, fallback *time.Duration }{
		{&l.HandshakeTime, &d.HandshakeTime}, {&l.KeyTime, &d.KeyTime}, {&l.FactorTime, &d.FactorTime},
		{&l.KeepAlive, &d.KeepAlive}, {&l.Drain, &d.Drain},
	} {
		if *f.have == 0 {
			*f.have = *f.fallback
		}
	}
	if l.PreAuthBytes == 0 {
		l.PreAuthBytes = d.PreAuthBytes
	}
	return l
}

// Server is the front door.
type Server struct {
	config     Config
	authority  *authz.Authority
	recorder   *recorder.Recorder
	algorithms algorithms
	guard      *guard
	live       *live
	strangers  *strangers
	metrics    *metrics
	local      *localFactors

	mu          sync.Mutex // guards the rest
	connections map[*connection]struct{}
	draining    bool
}

// New checks the configuration and returns a Server.
func New(c Config) (*Server, error) {
	switch {
	case c.Authority == nil || c.Recorder == nil || c.Verbs == nil:
		return nil, errors.New("bastion: authority, recorder and verbs are required")
	case len(c.HostKeys) == 0:
		return nil, errors.New("bastion: no host key")
	case c.UserCA == nil:
		return nil, errors.New("bastion: no certificate authority for users")
	}
	a, err := profile(c.Profile)
	if err != nil {
		return nil, fmt.Errorf("bastion: %w", err)
	}
	c.Limits = c.Limits.withDefaults()
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Dial == nil {
		c.Dial = (&net.Dialer{}).DialContext
	}
	if c.Clock == nil {
		c.Clock = time.Now
	}
	if c.Name == "" {
		c.Name = "gate"
	}
	s := &Server{config: c, authority: c.Authority, recorder: c.Recorder, algorithms: a,
		guard: newGuard(c.Limits), connections: map[*connection]struct{}{}, local: newLocalFactors()}
	s.metrics = newMetrics(c.Metrics, s)
	s.strangers = newStrangers(s)
	s.live = newLive(s)
	return s, nil
}

func (s *Server) now() time.Time { return s.config.Clock().UTC() }

// Health returns nil when the node takes sessions, else why not.
func (s *Server) Health() error { return s.ready(false) }

// ready is Health for a session that may be what makes room on a full disk.
func (s *Server) ready(rescue bool) error {
	s.mu.Lock()
	draining := s.draining
	s.mu.Unlock()
	if draining {
		return errors.New("draining: no new sessions")
	}
	if err := s.recorder.Ready(rescue); err != nil {
		return err
	}
	if err := s.authority.Err(); err != nil {
		return err
	}
	if s.config.Ready != nil && !rescue {
		if err := s.config.Ready(); err != nil {
			return err
		}
	}
	return s.live.fresh()
}

// Watch decides live sessions again on every change and counts strangers,
// until ctx is done. Exactly one Watch must run while the server serves.
func (s *Server) Watch(ctx context.Context) {
	// Sessions may outlive ctx while the server drains, and so does their watch.
	watched, done := context.WithCancel(context.WithoutCancel(ctx))
	var wg sync.WaitGroup
	wg.Go(func() { s.live.endWhenStale(watched) })
	wg.Go(func() { s.live.endWhenUnrecorded(watched) })
	wg.Go(func() { s.live.writeEntries(watched) })
	wg.Go(func() { s.strangers.flushEachMinute(watched) })
	s.live.watch(ctx)
	done()
	wg.Wait()
}

// Serve accepts connections until ctx is done, then drains: no new connection or session, live
// sessions may end by themselves within Limits.Drain, then they are ended with a sentence.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	return s.accept(ctx, l, s.serveConn)
}

// accept runs one listener. Connections outlive ctx until they are drained.
func (s *Server) accept(ctx context.Context, l net.Listener, serve func(context.Context, net.Conn)) error {
	// What ctx carries besides its end goes on to the connections.
	connCtx, cut := context.WithCancelCause(context.WithoutCancel(ctx))
	defer cut(nil)
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	var wg sync.WaitGroup
	var failed error
	for {
		c, err := l.Accept()
		if err != nil {
			if ctx.Err() == nil && !errors.Is(err, net.ErrClosed) {
				var ne net.Error
				if errors.As(err, &ne) && ne.Timeout() || isTemporary(err) {
					s.config.Log.Warn("accept", "error", err)
					select {
					case <-ctx.Done():
					case <-time.After(50 * time.Millisecond): // out of file descriptors: let some close
					}
					continue
				}
				failed = fmt.Errorf("accept: %w", err)
			}
			break
		}
		wg.Go(func() { serve(connCtx, c) })
	}
	s.drain()
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	timer := time.NewTimer(s.config.Limits.Drain)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
		s.live.stop()
		// A connection ends with its last channel while the server drains, so
		// nothing is cut before the person has been told.
		timer.Reset(lastWords)
		select {
		case <-done:
		case <-timer.C:
		}
		cut(errors.New("gate stopped"))
		<-done
	}
	return failed
}

// isTemporary says whether accept may succeed later.
func isTemporary(err error) bool {
	t, ok := err.(interface{ Temporary() bool })
	return ok && t.Temporary()
}

// lastWords bounds the wait for sessions to end once their people are told.
const lastWords = 5 * time.Second

// drain lets no new session start and ends connections that have none.
func (s *Server) drain() {
	s.mu.Lock()
	first := !s.draining
	s.draining = true
	idle := make([]*connection, 0, len(s.connections))
	for c := range s.connections {
		idle = append(idle, c)
	}
	s.mu.Unlock()
	for _, c := range idle {
		c.closeIfIdle()
	}
	if !first {
		return
	}
	for _, live := range s.live.all() {
		if live.record.PTY {
			go live.ch.tell(fmt.Sprintf("The gate stops in %s; please finish.", s.config.Limits.Drain)) // ends with its session
		}
	}
}

// register takes a place among the authenticated connections.
func (s *Server) register(c *connection) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.draining || len(s.connections) >= s.config.Limits.Connections {
		return false
	}
	s.connections[c] = struct{}{}
	return true
}

func (s *Server) unregister(c *connection) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.connections, c)
}

// serveConn brings one client from its first byte to its last.
func (s *Server) serveConn(ctx context.Context, nc net.Conn) {
	defer nc.Close()
	// One person's misfortune must not end the others' sessions.
	defer s.contain("connection")
	addr := addrOf(nc.RemoteAddr())
	release, ok := s.guard.admit(addr)
	if !ok {
		s.strangers.count(addr, "full")
		return
	}
	conn := newGuardedConn(ctx, nc, s.config.Limits.PreAuthBytes)
	defer conn.gone(nil)
	l := newLogin(s, conn, newID("C"), release)
	defer func() { l.place() }()
	sc, channels, requests, err := l.handshake()
	if err != nil {
		s.loginFailed(ctx, l, addr, err)
		return
	}
	defer sc.Close()
	l.place()
	if err := conn.known(); err != nil {
		return
	}
	var id authz.Identity
	if l.invited != nil {
		s.metrics.logins.WithLabelValues("invite").Inc()
		id = l.partial(sc)
		id.User = l.invited.user.Name
		e := loginEvent(id, "login.invite")
		e.Result = authz.ResultOK
		if _, err := s.authority.Record(conn.ctx, e); err != nil {
			l.log.Error("invite could not be recorded", "user", id.User, "error", err)
			return
		}
	} else {
		id = *l.identity
		if err := s.authority.LoggedIn(conn.ctx, id); err != nil {
			l.log.Error("login could not be recorded", "user", id.User, "error", err)
			return
		}
		s.metrics.logins.WithLabelValues("ok").Inc()
	}
	c := newConnection(s, conn, sc, id, l.proven.address)
	c.invited = l.invited
	if l.invited == nil {
		c.notice()
	}
	s.serveConnection(c, channels, requests)
}

// serveConnection serves an authenticated connection if there is a place for it.
func (s *Server) serveConnection(c *connection, channels <-chan ssh.NewChannel, requests <-chan *ssh.Request) {
	if !s.register(c) {
		return
	}
	defer s.unregister(c)
	c.serve(channels, requests)
}

// loginFailed says who failed: a person, once a key was verified, else a stranger.
func (s *Server) loginFailed(ctx context.Context, l *login, addr netip.Addr, err error) {
	if l.proven == nil {
		s.metrics.logins.WithLabelValues("stranger").Inc()
		s.strangers.count(addr, reasonOf(err))
		return
	}
	s.metrics.logins.WithLabelValues("refused").Inc()
	if l.refusal != nil || l.proven.address.user == "" {
		return // told and recorded when it was decided, or an invite that was not used
	}
	e := loginEvent(authz.Identity{User: l.proven.address.user, Connection: l.id, Fingerprint: l.proven.fingerprint, RemoteAddr: l.remote}, "login.failed")
	e.Result = authz.ResultFailed
	e.Details["reason"] = printable(err.Error(), 200)
	if _, err := s.authority.Record(context.WithoutCancel(ctx), e); err != nil {
		l.log.Error("failed login could not be recorded", "error", err)
	}
}

// contain keeps a panic of one connection from ending the process.
func (s *Server) contain(what string) {
	if r := recover(); r != nil {
		s.reportPanic(what, r)
	}
}

func (s *Server) reportPanic(what string, r any) {
	s.metrics.panics.Inc()
	s.config.Log.Error("panic contained", "in", what, "panic", fmt.Sprint(r), "stack", stack())
}

// addrOf is the peer's IP address; invalid for a unix socket.
func addrOf(a net.Addr) netip.Addr {
	if t, ok := a.(*net.TCPAddr); ok {
		return t.AddrPort().Addr().Unmap()
	}
	return netip.Addr{}
}
