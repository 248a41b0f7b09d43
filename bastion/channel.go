package bastion

import (
	"context"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"sallyport/authz"
	"sallyport/internal/words"
)

// Exit codes that the gate itself gives to a client; the node's verbs use the same.
const (
	exitFailed    = 1
	exitUsage     = 2
	exitDenied    = 3
	exitWaiting   = 5
	exitRecording = 254
)

// sayTime bounds how long a sentence may wait for a client that does not read.
const sayTime = 500 * time.Millisecond

// variable is one environment variable that a client asked for.
type variable struct{ Name, Value string }

// terminal is a pty-req (RFC 4254 section 6.2).
type terminal struct {
	Term          string
	Columns, Rows uint32
	Width, Height uint32 // pixels
	Modes         string
}

// windowChange is the payload of window-change.
type windowChange struct{ Columns, Rows, Width, Height uint32 }

// channel is one session channel of a client.
type channel struct {
	ssh.Channel
	conn *connection

	mu       sync.Mutex // guards the rest
	started  bool
	env      []variable
	envBytes int
	terminal *terminal
	bad      string   // why nothing may be started, as a sentence
	session  *session // once it is on a data server
	keys     *keys    // set once the gate itself has read the terminal
}

func (ch *channel) isStarted() bool {
	ch.mu.Lock()
	defer ch.mu.Unlock()
	return ch.started
}

func (ch *channel) hasPTY() bool {
	ch.mu.Lock()
	defer ch.mu.Unlock()
	return ch.terminal != nil
}

// ending is how a channel ends: a status, or the signal that ended the program.
type ending struct {
	status uint32
	signal string
}

// run answers requests until the client closes the channel. What a shell,
// exec or subsystem request starts runs beside it.
func (ch *channel) run(requests <-chan *ssh.Request) {
	ctx, cancel := context.WithCancelCause(ch.conn.ctx)
	var work sync.WaitGroup
	for req := range requests {
		start := ch.request(req)
		if start == nil {
			continue
		}
		work.Go(func() {
			defer ch.conn.server.contain("session")
			ch.finish(start(ctx, &work))
		})
	}
	cancel(errGone)
	work.Wait()
	if ch.keys != nil {
		ch.keys.stop()
	}
}

// request handles one request. It returns what to start, at most once a channel.
func (ch *channel) request(req *ssh.Request) func(context.Context, *sync.WaitGroup) ending {
	ok := false
	var start func(context.Context, *sync.WaitGroup) ending
	switch req.Type {
	case "env":
		ok = ch.addVariable(req.Payload)
	case "pty-req":
		ok = ch.addTerminal(req.Payload)
	case "window-change":
		ch.resize(req.Payload)
	case "signal":
		ch.signal(req.Payload)
	case "shell", "exec", "subsystem":
		if start = ch.prepare(req); start != nil {
			ok = true
		}
	case "eow@openssh.com", "break", "xon-xoff":
		// no meaning here, no harm
	case "auth-agent-req@openssh.com":
		ch.refuseRequest(req.Type, "Agent forwarding is not allowed, because it would lend your key to the data server.")
	case "x11-req":
		ch.refuseRequest(req.Type, "X11 forwarding is not allowed.")
	default:
		ch.refuseRequest(printable(req.Type, 64), "A request that the gate does not know was refused.")
	}
	if req.WantReply {
		_ = req.Reply(ok, nil) // the loop ends when the client has gone
	}
	return start
}

func (ch *channel) refuseRequest(kind, sentence string) {
	r := ch.conn.refuse("request.refused", "request."+kind, sentence, map[string]any{"request": kind})
	ch.conn.tell(r.Error())
}

// addVariable keeps a variable that may go to a data server. Others are left
// out without a word, as sshd does; too many bytes spoil the session.
func (ch *channel) addVariable(payload []byte) bool {
	var v variable
	if ssh.Unmarshal(payload, &v) != nil {
		return false
	}
	ch.mu.Lock()
	defer ch.mu.Unlock()
	ch.envBytes += len(v.Name) + len(v.Value)
	if ch.envBytes > ch.conn.server.config.Limits.EnvironmentBytes {
		ch.bad = fmt.Sprintf("Your client sends more than %d bytes of environment, which is the limit.", ch.conn.server.config.Limits.EnvironmentBytes)
		return false
	}
	if ch.started || !allowedVariable(v) {
		return false
	}
	ch.env = append(ch.env, v)
	return true
}

// allowedVariable passes locale settings with harmless values. Names that
// begin with LC_SALLYPORT are the gate's own.
func allowedVariable(v variable) bool {
	if v.Name != "LANG" && v.Name != "LANGUAGE" && !strings.HasPrefix(v.Name, "LC_") || strings.HasPrefix(v.Name, "LC_SALLYPORT") {
		return false
	}
	if len(v.Name) > 64 || len(v.Value) > 256 {
		return false
	}
	for _, c := range []byte(v.Name) {
		if c != '_' && !('A' <= c && c <= 'Z') && !('0' <= c && c <= '9') {
			return false
		}
	}
	for _, c := range []byte(v.Value) {
		if c != '_' && c != '-' && c != '.' && c != '@' && c != ':' && c != '=' && c != ',' &&
			!('a' <= c && c <= 'z') && !('A' <= c && c <= 'Z') && !('0' <= c && c <= '9') {
			return false
		}
	}
	return true
}

// parseTerminal reads a pty-req and bounds what it may ask for.
func parseTerminal(payload []byte) (terminal, error) {
	var t terminal
	if err := ssh.Unmarshal(payload, &t); err != nil {
		return terminal{}, fmt.Errorf("malformed: %w", err)
	}
	if len(t.Term) > 64 || len(t.Modes) > 1024 || t.Columns > 10000 || t.Rows > 10000 || t.Width > 1<<20 || t.Height > 1<<20 {
		return terminal{}, fmt.Errorf("too large: %d columns, %d rows, %d bytes of modes", t.Columns, t.Rows, len(t.Modes))
	}
	for _, c := range []byte(t.Term) {
		if c <= ' ' || c > '~' {
			return terminal{}, fmt.Errorf("terminal name with byte 0x%02x", c)
		}
	}
	return t, nil
}

func (ch *channel) addTerminal(payload []byte) bool {
	t, err := parseTerminal(payload)
	ch.mu.Lock()
	defer ch.mu.Unlock()
	switch {
	case err != nil:
		ch.bad = "Your client asked for a terminal that the gate cannot give (" + printable(err.Error(), 100) + ")."
		return false
	case ch.started:
		return false
	}
	ch.terminal = &t
	return true
}

func (ch *channel) resize(payload []byte) {
	var w windowChange
	if ssh.Unmarshal(payload, &w) != nil || w.Columns > 10000 || w.Rows > 10000 {
		return
	}
	ch.mu.Lock()
	s := ch.session
	if ch.terminal != nil {
		ch.terminal.Columns, ch.terminal.Rows, ch.terminal.Width, ch.terminal.Height = w.Columns, w.Rows, w.Width, w.Height
	}
	ch.mu.Unlock()
	if s != nil {
		s.resize(w)
	}
}

func (ch *channel) signal(payload []byte) {
	var sig struct{ Name string }
	if ssh.Unmarshal(payload, &sig) != nil || !knownSignal(sig.Name) {
		return
	}
	ch.mu.Lock()
	s := ch.session
	ch.mu.Unlock()
	if s != nil {
		s.signal(sig.Name)
	}
}

// knownSignal is the list of RFC 4254 section 6.10, and INFO of BSD systems.
func knownSignal(name string) bool {
	switch name {
	case "ABRT", "ALRM", "FPE", "HUP", "ILL", "INT", "KILL", "PIPE", "QUIT", "SEGV", "TERM", "USR1", "USR2", "INFO":
		return true
	}
	return false
}

// prepare reads a shell, exec or subsystem request and says what to run. The
// request is granted at once; what stands against it is told in a sentence
// with an exit status, because a failed request carries no text.
func (ch *channel) prepare(req *ssh.Request) func(context.Context, *sync.WaitGroup) ending {
	var arg struct{ Value string }
	if req.Type != "shell" && ssh.Unmarshal(req.Payload, &arg) != nil {
		ch.refuseRequest(req.Type, "Your client sent a malformed "+req.Type+" request.")
		return nil
	}
	ch.mu.Lock()
	defer ch.mu.Unlock()
	if ch.started {
		return nil // one a channel (RFC 4254 section 6.5)
	}
	ch.started = true
	if limit := ch.conn.server.config.Limits.CommandBytes; len(arg.Value) > limit {
		ch.bad = fmt.Sprintf("A command may have at most %d bytes.", limit)
	}
	bad := ch.bad
	return func(ctx context.Context, work *sync.WaitGroup) ending {
		for _, sentence := range ch.conn.takePending() {
			ch.tell(sentence)
		}
		if bad != "" {
			return ch.refused(ch.conn.refuse("session.refused", "request.malformed", bad, map[string]any{"request": req.Type}))
		}
		return ch.serve(ctx, work, req.Type, arg.Value)
	}
}

// serve sends the channel where its address and kind say.
func (ch *channel) serve(ctx context.Context, work *sync.WaitGroup, kind, value string) ending {
	c := ch.conn
	if c.invited != nil {
		if kind != "shell" {
			return ch.refused(c.refuse("session.refused", "invite.shell", "An invite opens the enrolment only: connect without a command.", nil))
		}
		return ch.enrol(ctx)
	}
	// The login may be hours old on a shared connection: ask again who this is.
	if r, err := c.server.authority.BeginLogin(ctx, c.identity); err != nil {
		return ch.refused(c.server.unavailable(ctx, c.identity, err))
	} else if r != nil {
		return ch.refused(r)
	}
	ask := authz.Ask{Identity: c.identity, Project: c.address.project, Server: c.address.server, PTY: ch.hasPTY()}
	switch {
	case kind == "shell":
		ask.Action = authz.ActionShell
	case kind == "exec" && c.address.project == "":
		return ch.verb(ctx, value)
	case kind == "exec":
		ask.Action, ask.Command = authz.ActionExec, value
	case value == "sftp" && c.address.project == "":
		return ch.refused(c.refuse("session.refused", "sftp.bare", fmt.Sprintf(
			"Say which project's files you want: sftp %s+PROJECT@%s.", c.identity.User, c.server.config.Name), nil))
	case value == "sftp":
		ask.Action = authz.ActionSFTP
	default:
		return ch.refused(c.refuse("session.refused", "subsystem.unknown",
			fmt.Sprintf("The subsystem %q is not allowed here.", printable(value, 64)), map[string]any{"subsystem": printable(value, 64)}))
	}
	if c.identity.Via == "socket" {
		return ch.refused(c.refuse("session.refused", "socket.verbs", "The node's socket serves verbs only.", nil))
	}
	if ask.Project == "" {
		route, e := ch.choose(ctx)
		if e != nil {
			return *e
		}
		ask.Project, ask.Server = route.Project, route.Server
	}
	return ch.toServer(ctx, work, ask)
}

// verb runs one verb of the command tree.
func (ch *channel) verb(ctx context.Context, command string) ending {
	c := ch.conn
	args, err := words.SplitWords(command)
	if err != nil || len(args) == 0 {
		ch.tell("The command could not be read: check its quotes.")
		return ending{status: exitUsage}
	}
	v := Verb{Identity: c.identity, Actor: c.identity.Actor(), Args: args, Stdin: ch, Stdout: ch, Stderr: ch.Stderr()}
	if isVote(args) {
		v.Actor.VerbOnly = c.onlyVerb() && !c.cachedFactor
	}
	ch.mu.Lock()
	if t := ch.terminal; t != nil {
		v.Columns, v.Rows, v.Term = int(t.Columns), int(t.Rows), true
		v.Stdout, v.Stderr = crlf{v.Stdout}, crlf{v.Stderr}
	}
	ch.mu.Unlock()
	return ending{status: uint32(c.server.config.Verbs.Run(ctx, v))}
}

// isVote says whether a verb casts a vote, or declares an epoch destroyed, which counts like one: both
// need a connection of their own.
func isVote(args []string) bool {
	var plain []string
	for _, a := range args {
		if !strings.HasPrefix(a, "-") {
			plain = append(plain, a)
		}
	}
	if len(plain) < 2 {
		return false
	}
	switch plain[0] + " " + plain[1] {
	case "request approve", "request deny", "epoch destroy":
		return true
	}
	return false
}

// crlf gives a terminal the carriage returns that it needs.
type crlf struct{ w io.Writer }

func (c crlf) Write(p []byte) (int, error) {
	if err := (lineWriter{w: c.w, pty: true}).say(string(p)); err != nil {
		return 0, err
	}
	return len(p), nil
}

// tell shows a sentence of the gate. On a data server's session it is
// recorded first.
func (ch *channel) tell(sentence string) {
	line := "sallyport: " + printable(sentence, 1000) + "\n"
	if ch.hasPTY() {
		line = "\r" + strings.ReplaceAll(line, "\n", "\r\n")
	}
	ch.mu.Lock()
	s := ch.session
	ch.mu.Unlock()
	if s != nil {
		s.recordGate(line)
	}
	ch.write(line)
}

// write gives a client that does not read only a moment.
func (ch *channel) write(text string) {
	done := make(chan struct{})
	go func() {
		defer close(done) // ends with the channel at the latest
		_, _ = io.WriteString(ch.Stderr(), text)
	}()
	timer := time.NewTimer(sayTime)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
	}
}

// refused tells a refusal and ends the channel with the code for it.
func (ch *channel) refused(r *authz.Refusal) ending {
	ch.conn.log.Info("refused", "rule", r.Rule, "reference", r.Reference)
	ch.tell(r.Error())
	return ending{status: exitDenied}
}

// finish sends the end to the client. A client that takes nothing any more
// loses its connection rather than hold the gate up.
func (ch *channel) finish(e ending) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		if e.signal != "" {
			// The text of the data server stays here: it could carry anything.
			_, _ = ch.SendRequest("exit-signal", false, ssh.Marshal(struct {
				Name     string
				Core     bool
				Message  string
				Language string
			}{Name: e.signal}))
		} else {
			_, _ = ch.SendRequest("exit-status", false, ssh.Marshal(struct{ Status uint32 }{e.status}))
		}
		_ = ch.CloseWrite()
		_ = ch.Close()
	}()
	timer := time.NewTimer(2 * sayTime)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
		ch.conn.cancel(errGone)
		ch.conn.conn.Close() // the library's Close would wait behind the stuck write
		<-done
	}
}
