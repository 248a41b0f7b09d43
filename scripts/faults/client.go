package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"

	"golang.org/x/crypto/ssh"

	"sallyport/internal/testgate"
)

// The kinds of sessions that load consists of.
const (
	kindFlood = "flood" // output without end
	kindKeys  = "keys"  // one key at a time into a terminal, and back
	kindSink  = "sink"  // input without end
	kindSome  = "some"  // short output, then an exit status
)

// client is one session as the person sees it. Fields are read after the load has ended.
type client struct {
	name, kind string
	size       int64        // of kindSome, in bytes
	sent       atomic.Int64 // begun to be sent, in bytes
	got        follower     // standard output
	exited     bool         // an exit status came
	status     int
	err        error // why it did not begin
}

// load is a number of people at work until the gate goes away.
type load struct {
	work  sync.WaitGroup
	ready chan struct{} // closed when the first session has begun
	first sync.Once

	mu      sync.Mutex // guards the rest
	clients []*client
	open    []*ssh.Client
	refused []error // logins that failed
	logins  int
}

func newLoad() *load { return &load{ready: make(chan struct{})} }

// connect logs a person in and runs the sessions on that one connection. once
// says that everything is finite, for a scenario that has an end.
func (l *load) connect(ctx context.Context, g *testgate.Gate, p *testgate.Person, prefix string, kinds []string, once bool) {
	l.work.Go(func() {
		conn, err := g.Dial(ctx, p)
		l.mu.Lock()
		if err != nil {
			l.refused = append(l.refused, err)
		} else {
			l.open = append(l.open, conn)
			l.logins++
		}
		l.mu.Unlock()
		if err != nil {
			return
		}
		var sessions sync.WaitGroup
		for i, kind := range kinds {
			sessions.Go(func() {
				for n := 0; ; n++ {
					c := &client{name: fmt.Sprintf("%s-%d-%d", prefix, i, n), kind: kind, size: 20_000}
					c.got.name = c.name
					l.mu.Lock()
					l.clients = append(l.clients, c)
					l.mu.Unlock()
					c.run(conn, once, func() { l.first.Do(func() { close(l.ready) }) })
					if kind != kindSome || c.err != nil || !c.exited || once {
						return
					}
				}
			})
		}
		sessions.Wait()
		conn.Close()
	})
}

// wait returns when all clients have ended, as they do once the gate is gone.
func (l *load) wait() { l.work.Wait() }

// hangUp ends all connections.
func (l *load) hangUp() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range l.open {
		c.Close()
	}
}

// The sizes of a session that has an end.
const (
	onceKeys  = 20
	onceInput = 100_000
)

// run is one session to its end; began is called once its program was accepted.
func (c *client) run(conn *ssh.Client, once bool, began func()) {
	s, err := conn.NewSession()
	if err != nil {
		c.err = err
		return
	}
	defer s.Close()
	in, err := s.StdinPipe()
	if err != nil {
		c.err = err
		return
	}
	out, err := s.StdoutPipe()
	if err != nil {
		c.err = err
		return
	}
	if c.err = c.begin(s, once); c.err != nil {
		return
	}
	began()
	switch c.kind {
	case kindKeys:
		c.keys(in, out, once)
	case kindSink:
		var reading sync.WaitGroup
		reading.Go(func() { _, _ = io.Copy(&c.got, out) })
		c.pour(in, once)
		reading.Wait()
	default:
		_, _ = io.Copy(&c.got, out) // until the session or the gate is gone
	}
	c.end(s)
}

// begin asks for the program.
func (c *client) begin(s *ssh.Session, once bool) error {
	switch {
	case c.kind == kindKeys:
		if err := s.Setenv(nameVariable, c.name); err != nil {
			return err
		}
		modes := ssh.TerminalModes{ssh.ECHO: 0, ssh.ICANON: 0, ssh.TTY_OP_ISPEED: 38400, ssh.TTY_OP_OSPEED: 38400}
		if err := s.RequestPty("xterm", 24, 80, modes); err != nil {
			return err
		}
		return s.Shell()
	case c.kind == kindSink:
		return s.Start("sink " + c.name)
	case c.kind == kindFlood && !once:
		return s.Start("flood " + c.name)
	case c.kind == kindFlood:
		c.size = 300_000
	}
	return s.Start(fmt.Sprintf("some %s %d", c.name, c.size))
}

// keys types one byte of the stream at a time and waits until it comes back.
func (c *client) keys(in io.WriteCloser, out io.Reader, once bool) {
	var b [1]byte
	answer := make([]byte, 4<<10)
	for !once || c.sent.Load() < onceKeys {
		fill(c.name, c.sent.Load(), b[:])
		c.sent.Add(1)
		if _, err := in.Write(b[:]); err != nil {
			break
		}
		n, err := out.Read(answer)
		_, _ = c.got.Write(answer[:n]) // a follower takes everything
		if err != nil {
			break
		}
	}
	_ = in.Close() // the gate may be gone
	_, _ = io.Copy(&c.got, out)
}

// pour sends the stream until the session takes no more.
func (c *client) pour(in io.WriteCloser, once bool) {
	b := make([]byte, 8<<10)
	for !once || c.sent.Load() < onceInput {
		fill(c.name, c.sent.Load(), b)
		c.sent.Add(int64(len(b)))
		if _, err := in.Write(b); err != nil {
			break
		}
	}
	_ = in.Close() // the gate may be gone
}

// end waits for the exit status, if one comes.
func (c *client) end(s *ssh.Session) {
	err := s.Wait()
	var status *ssh.ExitError
	switch {
	case err == nil:
		c.exited = true
	case errors.As(err, &status):
		c.exited, c.status = true, status.ExitStatus()
	}
}
