package bastion_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"sallyport/authz"
	"sallyport/bastion"
	"sallyport/internal/testkit"
)

// anyKey lets everybody in: these servers are hostile in other ways.
func (d *dataServer) anyKey(c net.Conn) (<-chan ssh.NewChannel, error) {
	config := &ssh.ServerConfig{PublicKeyCallback: func(ssh.ConnMetadata, ssh.PublicKey) (*ssh.Permissions, error) { return nil, nil }}
	config.AddHostKey(d.hostKey)
	_, channels, requests, err := ssh.NewServerConn(c, config)
	if err == nil {
		go ssh.DiscardRequests(requests)
	}
	return channels, err
}

func (d *dataServer) set(behave func(net.Conn)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.behave = behave
}

// stallConn takes and gives nothing any more once it is stalled, as the
// connection of a stopped process.
type stallConn struct {
	net.Conn
	stalled, released chan struct{}
	once              sync.Once
}

func (s *stallConn) stall() { s.once.Do(func() { close(s.stalled) }) }

func (s *stallConn) Read(p []byte) (int, error) {
	n, err := s.Conn.Read(p)
	select {
	case <-s.stalled:
		<-s.released
		return 0, io.EOF
	default:
		return n, err
	}
}

func endsWithin(t *testing.T, limit time.Duration, what string, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	select {
	case <-done:
	case <-time.After(limit):
		t.Errorf("%s takes more than %v", what, limit)
	}
}

func TestServerThatNeverOpensTheChannelHoldsNobody(t *testing.T) {
	g, d := newSite(t)
	release := make(chan struct{})
	defer close(release)
	d.set(func(c net.Conn) {
		if _, err := d.anyKey(c); err == nil {
			<-release
		}
	})
	g.enrol("sec", authz.SiteSecurity)
	c := g.dial(g.people["alice"], "alice+genomics")
	s := shell(t, c)
	testkit.WaitFor(t, 5*time.Second, "the session", func() bool { return len(g.sessions()) == 1 })
	check(t, g.authority.Freeze(context.Background(), authz.Actor{User: "sec", RemoteAddr: "127.0.0.1", Via: "ssh"}, "alice", "incident"))
	endsWithin(t, time.Second, "the end of a frozen person's session", func() { _ = s.Wait() })
	testkit.WaitFor(t, 5*time.Second, "the session to be closed", func() bool { return g.sessions()[0].Result == "right-ended" })
}

func TestFrozenServerHoldsNeitherSessionNorGate(t *testing.T) {
	g, d := newSite(t)
	conns := make(chan *stallConn, 4)
	released := make(chan struct{})
	defer close(released)
	d.set(func(c net.Conn) {
		s := &stallConn{Conn: c, stalled: make(chan struct{}), released: released}
		conns <- s
		d.serve(s)
	})
	g.enrol("sec", authz.SiteSecurity)
	c := g.dial(g.people["alice"], "alice+genomics")
	s := shell(t, c)
	fmt.Fprint(s.in, "ready\n")
	expect(t, s.out, "ready")
	(<-conns).stall()
	check(t, g.authority.KillSession(context.Background(), authz.Actor{User: "sec", RemoteAddr: "127.0.0.1", Via: "ssh"}, g.sessions()[0].ID, "incident"))
	endsWithin(t, time.Second, "the end of a killed session", func() { _ = s.Wait() })
	c.Close()
	endsWithin(t, 5*time.Second, "the stop of the gate", g.stop)
}

func TestServerThatRefusesARequestIsToldInOneSentence(t *testing.T) {
	g, d := newSite(t)
	d.set(func(c net.Conn) {
		channels, err := d.anyKey(c)
		if err != nil {
			return
		}
		for nc := range channels {
			_, requests, err := nc.Accept()
			if err == nil {
				go ssh.DiscardRequests(requests) // fails all and keeps the channel, as sshd does
			}
		}
	})
	c := g.dial(g.people["bob"], "bob+genomics")
	endsWithin(t, 5*time.Second, "the answer", func() {
		if o := request(t, c, "subsystem", "sftp"); o.status != 1 || !strings.Contains(o.stderr, "refuses to start") {
			t.Errorf("%+v", o)
		}
	})
}

func TestPromise6_ShellWithoutTerminalIsNoWayOut(t *testing.T) {
	g, d := newSite(t)
	c := g.dial(g.people["alice"], "alice+genomics")
	o := run(t, c, "", strings.NewReader("cat secret.tar\n"))
	if o.status != 3 || o.stdout != "" || !strings.Contains(o.stderr, "ssh -t") {
		t.Errorf("a researcher's shell without a terminal: %+v", o)
	}
	if d.saw("shell ") {
		t.Error("the data server was asked for a shell")
	}
	if o := run(t, g.dial(g.people["bob"], "bob+genomics"), "", strings.NewReader("hello\n")); o.status != 0 || o.stdout != "hello\n" {
		t.Errorf("an exporter's: %+v", o)
	}
}

func TestOneOversizedCommandHarmsNobodyElse(t *testing.T) {
	g, _ := newSite(t)
	c := g.dial(g.people["alice"], "alice+genomics")
	for _, command := range []string{strings.Repeat("\x01", 60000), strings.Repeat("\"", 120000)} {
		if o := run(t, c, command, nil); o.status != 3 {
			t.Errorf("a long command by one who may run none: status %d, %q", o.status, o.stderr)
		}
	}
	if err := g.server.Health(); err != nil {
		t.Errorf("health: %v", err)
	}
	if o := run(t, g.dial(g.people["bob"], "bob+genomics"), "id", nil); o.status != 0 {
		t.Errorf("bob: %+v", o)
	}
	long := "status 0 " + strings.Repeat("\x01", 60000)
	if o := run(t, g.dial(g.people["bob"], "bob+genomics"), long, nil); o.status != 0 {
		t.Errorf("bob's long command: %+v", o)
	}
}

func TestResizesDuringTheStartRaceNothing(t *testing.T) {
	g, _ := newSite(t)
	c := g.dial(g.people["alice"], "alice+genomics")
	for range 5 {
		s := shell(t, c)
		for i := range 50 {
			check(t, s.WindowChange(20+i, 80+i))
		}
		fmt.Fprint(s.in, "x\n")
		expect(t, s.out, "x\n")
		s.in.Close()
		var exit *ssh.ExitError
		if err := s.Wait(); err != nil && !errors.As(err, &exit) {
			t.Error(err)
		}
	}
}

func TestPromise2_SlowLedgerKeepsNobodyInAndEndsNobodyElse(t *testing.T) {
	g, _ := newSite(t)
	g.enrol("sec", authz.SiteSecurity)
	alice := shell(t, g.dial(g.people["alice"], "alice+genomics"))
	bob := shell(t, g.dial(g.people["bob"], "bob+genomics"))
	for _, s := range []terminal{alice, bob} {
		fmt.Fprint(s.in, "ready\n")
		expect(t, s.out, "ready")
	}
	release := g.ledger.hold()
	defer release()
	var freeze sync.WaitGroup
	defer freeze.Wait()
	freeze.Go(func() {
		if err := g.authority.Freeze(context.Background(), authz.Actor{User: "sec", RemoteAddr: "127.0.0.1", Via: "ssh"}, "alice", "incident"); err != nil {
			t.Error(err)
		}
	})
	endsWithin(t, 2*time.Second, "the end of a frozen person's session", func() { expect(t, alice.stderr, "frozen") })
	// Longer than the node may go without a fresh look at its state.
	for begin := time.Now(); time.Since(begin) < 5*time.Second; {
		fmt.Fprint(bob.in, "x")
		expect(t, bob.out, "x")
	}
	release()
	freeze.Wait()
	testkit.WaitFor(t, 10*time.Second, "the end to be recorded", func() bool { return len(g.events("session.cut")) == 1 })
}

func TestPromise3_SessionThatBeginsWhileTheLedgerFailsEnds(t *testing.T) {
	g, _ := newSite(t)
	c := g.dial(g.people["alice"], "alice+genomics")
	g.ledger.mu.Lock()
	g.ledger.failAt = "session.open"
	g.ledger.mu.Unlock()
	// The next event after the session's own fails, while the session is being opened.
	var next sync.WaitGroup
	defer next.Wait()
	next.Go(func() {
		testkit.WaitFor(t, 10*time.Second, "the session to be opened", func() bool {
			g.ledger.mu.Lock()
			defer g.ledger.mu.Unlock()
			return g.ledger.failed
		})
		if _, err := g.authority.Record(context.Background(), authz.Event{UserID: "system", OpType: "test", ResourceID: "x", ResourceType: "x", RemoteAddr: "-"}); err == nil {
			t.Error("an event was recorded after the ledger failed")
		}
	})
	s := shell(t, c)
	var exit *ssh.ExitError
	endsWithin(t, 5*time.Second, "the end of a session without a ledger", func() {
		if err := s.Wait(); !errors.As(err, &exit) || exit.ExitStatus() != 254 {
			t.Errorf("ended with %v", err)
		}
	})
	if g.server.Health() == nil {
		t.Error("the node calls itself healthy")
	}
}

func TestPanicOfOneDialHoldsNeitherThePersonNorTheGate(t *testing.T) {
	g, _ := newSite(t, func(c *bastion.Config) {
		c.Dial = func(context.Context, string, string) (net.Conn, error) { panic("a bug") }
	})
	c := g.dial(g.people["bob"], "bob+genomics")
	endsWithin(t, 5*time.Second, "the answer", func() {
		if o := run(t, c, "id", nil); o.status != 1 || !strings.Contains(o.stderr, "reference") {
			t.Errorf("%+v", o)
		}
	})
	endsWithin(t, 10*time.Second, "the stop of the gate", g.stop)
}
