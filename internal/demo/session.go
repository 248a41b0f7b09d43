package demo

import (
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"sync"
	"syscall"

	"github.com/creack/pty"
	gliderlabs "github.com/gliderlabs/ssh"
	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"
)

// maxEnvironment bounds what a session may put into a program's environment, in bytes.
const maxEnvironment = 16 << 10

// window is the size of a terminal, as pty-req and window-change carry it
// (RFC 4254 sections 6.2 and 6.7).
type window struct{ Columns, Rows, Width, Height uint32 }

func (w window) size() *pty.Winsize {
	return &pty.Winsize{Cols: uint16(w.Columns), Rows: uint16(w.Rows), X: uint16(w.Width), Y: uint16(w.Height)}
}

// hostSession is one session channel on a data server. It works on the raw
// channel: the library's own session type changes line feeds on a terminal.
type hostSession struct {
	ssh.Channel
	server   *dataServer
	account  account
	env      []string
	envBytes int
	term     string
	window   window
	terminal bool
	started  bool

	// work is every goroutine of the session; all end with the channel.
	work sync.WaitGroup

	mu      sync.Mutex // guards program
	program *program   // what runs, once it runs
}

// session serves one session channel. The library calls it in a goroutine of
// its own, which the server waits for.
func (s *dataServer) session(_ *gliderlabs.Server, conn *ssh.ServerConn, nc ssh.NewChannel, _ gliderlabs.Context) {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		_ = nc.Reject(ssh.ResourceShortage, "shutting down") // the client may be gone
		return
	}
	s.work.Add(1)
	s.mu.Unlock()
	defer s.work.Done()
	a, ok := accountOf(conn)
	if !ok {
		_ = nc.Reject(ssh.Prohibited, "no verified certificate") // as above
		return
	}
	ch, requests, err := nc.Accept()
	if err != nil {
		return
	}
	h := &hostSession{Channel: ch, server: s, account: a}
	defer ch.Close()
	s.Log.Info("session", "account", a.name, "key_id", a.keyID)
	h.run(requests)
}

// accountOf returns the account that the verified certificate is for.
func accountOf(conn *ssh.ServerConn) (account, bool) {
	if conn.Permissions == nil {
		return account{}, false
	}
	a, ok := conn.Permissions.ExtraData[accountExtra{}].(account)
	return a, ok && a.name == conn.User()
}

// run answers requests until the gate closes the channel, and then ends what
// still runs.
func (h *hostSession) run(requests <-chan *ssh.Request) {
	ctx, cancel := context.WithCancel(context.Background())
	for req := range requests {
		ok, start := h.request(req)
		if req.WantReply {
			_ = req.Reply(ok, nil) // the loop ends when the gate has gone
		}
		if start != nil {
			h.work.Go(func() { h.finish(start(ctx)) })
		}
	}
	cancel()
	h.work.Wait()
}

// request answers one request and returns what to start, at most once a channel.
func (h *hostSession) request(req *ssh.Request) (bool, func(context.Context) exit) {
	switch req.Type {
	case "env":
		return h.setVariable(req.Payload), nil
	case "pty-req":
		return h.setTerminal(req.Payload), nil
	case "window-change":
		return h.resize(req.Payload), nil
	case "signal":
		return h.signal(req.Payload), nil
	case "shell", "exec", "subsystem":
		var arg struct{ Value string }
		if h.started || req.Type != "shell" && ssh.Unmarshal(req.Payload, &arg) != nil {
			return false, nil
		}
		start := h.starter(req.Type, arg.Value)
		h.started = start != nil
		return h.started, start
	}
	return false, nil // agent, X11 and all that is unknown
}

// starter chooses what a request starts.
func (h *hostSession) starter(kind, value string) func(context.Context) exit {
	switch {
	case kind == "shell":
		return func(ctx context.Context) exit { return h.execute(ctx, "") }
	case kind == "exec" && value != "":
		return func(ctx context.Context) exit { return h.execute(ctx, value) }
	case kind == "subsystem" && value == "sftp":
		return h.serveFiles
	}
	return nil
}

// setVariable keeps language settings and what the gate says of itself.
func (h *hostSession) setVariable(payload []byte) bool {
	var v struct{ Name, Value string }
	if ssh.Unmarshal(payload, &v) != nil || h.started {
		return false
	}
	h.envBytes += len(v.Name) + len(v.Value)
	if h.envBytes > maxEnvironment || v.Name != "LANG" && v.Name != "LANGUAGE" && !strings.HasPrefix(v.Name, "LC_") ||
		strings.ContainsAny(v.Name+v.Value, "\x00\n") || strings.Contains(v.Name, "=") {
		return false
	}
	h.env = append(h.env, v.Name+"="+v.Value)
	return true
}

func (h *hostSession) setTerminal(payload []byte) bool {
	var t struct {
		Term                         string
		Columns, Rows, Width, Height uint32
		Modes                        string // of no use to a demo: the terminal's defaults serve
	}
	if ssh.Unmarshal(payload, &t) != nil || h.started || !h.account.pty {
		return false
	}
	h.term, h.window, h.terminal = t.Term, window{t.Columns, t.Rows, t.Width, t.Height}, true
	return true
}

func (h *hostSession) resize(payload []byte) bool {
	var w window
	if ssh.Unmarshal(payload, &w) != nil || !h.terminal {
		return false
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.window = w
	if h.program != nil {
		h.program.resize(w)
	}
	return true
}

// signals are those of RFC 4254 section 6.10 by their names there.
func signals() map[string]syscall.Signal {
	return map[string]syscall.Signal{
		"ABRT": syscall.SIGABRT, "ALRM": syscall.SIGALRM, "FPE": syscall.SIGFPE, "HUP": syscall.SIGHUP,
		"ILL": syscall.SIGILL, "INT": syscall.SIGINT, "KILL": syscall.SIGKILL, "PIPE": syscall.SIGPIPE,
		"QUIT": syscall.SIGQUIT, "SEGV": syscall.SIGSEGV, "TERM": syscall.SIGTERM, "USR1": syscall.SIGUSR1,
		"USR2": syscall.SIGUSR2,
	}
}

func signalName(s syscall.Signal) string {
	for name, signal := range signals() {
		if signal == s {
			return name
		}
	}
	return "TERM" // the protocol has no name for the others
}

func (h *hostSession) signal(payload []byte) bool {
	var arg struct{ Name string }
	if ssh.Unmarshal(payload, &arg) != nil {
		return false
	}
	signal, known := signals()[arg.Name]
	h.mu.Lock()
	defer h.mu.Unlock()
	if !known || h.program == nil {
		return false
	}
	h.program.signal(signal)
	return true
}

// execute runs the account's shell, or a command in it, to its end.
func (h *hostSession) execute(ctx context.Context, command string) exit {
	home, err := h.server.home(h.account)
	if err != nil {
		return h.failed(err)
	}
	h.mu.Lock()
	p, err := startProgram(h, home, command)
	h.program = p
	h.mu.Unlock()
	if err != nil {
		return h.failed(err)
	}
	e := p.wait(ctx)
	h.mu.Lock()
	h.program = nil // its process id may belong to another from now on
	h.mu.Unlock()
	return e
}

func (h *hostSession) failed(err error) exit {
	h.server.Log.Error("session failed", "account", h.account.name, "error", err)
	_, _ = io.WriteString(h.Stderr(), "demo data server: it could not be started\r\n") // the gate may be gone
	return exit{status: 1}
}

// serveFiles is the SFTP subsystem.
func (h *hostSession) serveFiles(context.Context) exit {
	home, err := h.server.home(h.account)
	if err != nil {
		return h.failed(err)
	}
	root, err := os.OpenRoot(home)
	if err != nil {
		return h.failed(err)
	}
	defer root.Close()
	server := sftp.NewRequestServer(h.Channel, fileHandlers(root))
	if err := server.Serve(); err != nil && !errors.Is(err, io.EOF) {
		h.server.Log.Info("sftp ended", "account", h.account.name, "error", err)
		return exit{status: 1}
	}
	return exit{}
}

// exit is how a program ended: by a status, or by a signal.
type exit struct {
	status uint32
	signal string
}

// finish tells the gate how it ended and closes the channel.
func (h *hostSession) finish(e exit) {
	// The status comes before the end of the output: a client that has both
	// ends may close at once. All of it fails only when the gate has gone.
	if e.signal != "" {
		_, _ = h.SendRequest("exit-signal", false, ssh.Marshal(struct {
			Name     string
			Core     bool
			Message  string
			Language string
		}{Name: e.signal}))
	} else {
		_, _ = h.SendRequest("exit-status", false, ssh.Marshal(struct{ Status uint32 }{e.status}))
	}
	_ = h.Close()
}
