package bastion

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"sallyport/authz"
	"sallyport/recorder"
)

const (
	// smallRead suits keystrokes and keeps an idle session small.
	smallRead = 1 << 10
	// largeRead suits a flood: several packets of 32 KiB in one frame.
	largeRead = 128 << 10
	// inFlight is how many frames of one direction may wait to become durable.
	inFlight = 16
)

// errServerGone says that the data server ended the channel without saying how.
var errServerGone = errors.New("data server gone")

// largeBuffers are shared by all sessions; a session holds one only while it floods.
var largeBuffers = sync.Pool{New: func() any { b := make([]byte, largeRead); return &b }}

// cutAfter is how long a data server may take to let a channel go before it is
// asked whether it is still there, and to answer that before it is cut off. A
// healthy one keeps a channel while its program has not read its input.
const cutAfter = time.Second

// opened is a channel on the data server on which the program runs.
type opened struct {
	channel  ssh.Channel
	requests <-chan *ssh.Request
	err      error
}

// start opens the channel on the data server, asks for what the client asked
// for, and relays until one side or the right to the session ends. A data
// server that does not answer costs upstreamTime at most, and the end of the
// session waits for it not at all.
func (s *session) start(up *upstream) (ending, error) {
	result := make(chan opened, 1)
	s.beside(up, func() { result <- s.open(up) })
	timer := time.NewTimer(upstreamTime)
	defer timer.Stop()
	var err error
	select {
	case o := <-result:
		if o.err != nil {
			return ending{}, o.err
		}
		return s.relay(up, o)
	case <-s.ctx.Done():
		err = context.Cause(s.ctx)
	case <-timer.C:
		up.cut()
		err = &unreachableError{"did not answer in time", "server.time", errors.New("no answer to a request")}
	}
	s.beside(up, func() {
		patience := time.AfterFunc(cutAfter, up.cutIfSilent)
		defer patience.Stop()
		if o := <-result; o.err == nil {
			s.letGo(up, o.channel, o.requests)
		}
	})
	return ending{}, err
}

// errBug is the cause when a goroutine of a session has panicked.
var errBug = errors.New("the gate made a mistake")

// beside runs a part of the session that may have to wait for the data server
// longer than the session lasts. It belongs to the connection to the server.
func (s *session) beside(up *upstream, part func()) {
	up.work.Go(func() {
		defer func() {
			if r := recover(); r != nil {
				s.server.reportPanic("session", r)
				s.cancel(errBug)
			}
		}()
		part()
	})
}

// open opens the channel and starts the program.
func (s *session) open(up *upstream) opened {
	uch, requests, err := up.conn.OpenChannel("session", nil)
	if err != nil {
		return opened{err: &unreachableError{"does not open a session", "server.channel", err}}
	}
	if err := s.request(uch); err != nil {
		s.beside(up, func() { s.letGo(up, uch, requests) })
		return opened{err: err}
	}
	return opened{channel: uch, requests: requests}
}

// letGo closes a channel on the data server and waits until the server has
// let it go too, for which it has cutAfter.
func (s *session) letGo(up *upstream, uch ssh.Channel, requests <-chan *ssh.Request) {
	patience := time.AfterFunc(cutAfter, up.cutIfSilent)
	defer patience.Stop()
	s.closeUpstream(uch)
	ssh.DiscardRequests(requests)
}

// closeUpstream closes the channel. When the right to the session is gone, it
// first ends a program that has no terminal and would outlive its channel.
func (s *session) closeUpstream(uch ssh.Channel) {
	var r *authz.Refusal
	if errors.As(context.Cause(s.ctx), &r) {
		for _, name := range []string{"HUP", "TERM"} {
			_, _ = uch.SendRequest("signal", false, ssh.Marshal(struct{ Name string }{name})) // the server may be gone
		}
	}
	_ = uch.Close()
}

// request repeats the client's wishes to the data server, each recorded first.
func (s *session) request(uch ssh.Channel) error {
	s.ch.mu.Lock()
	env, term := s.ch.env, s.ch.terminal
	var t terminal
	var asked *terminal
	if term != nil {
		t = *term // window changes may come while the program is started
		asked = &t
	}
	s.ch.mu.Unlock()
	env = append(env[:len(env):len(env)], variable{"LC_SALLYPORT_SESSION", s.record.ID})
	kind, payload, what := "shell", []byte(nil), ""
	switch s.ask.Action {
	case authz.ActionExec:
		kind, what = "exec", s.ask.Command
	case authz.ActionSFTP:
		kind, what = "subsystem", "sftp"
	}
	if kind != "shell" {
		payload = ssh.Marshal(struct{ Value string }{what})
	}
	if err := s.recordRequest(env, asked, kind, what); err != nil {
		return err
	}
	for _, v := range env {
		if _, err := uch.SendRequest("env", false, ssh.Marshal(v)); err != nil {
			return errServerGone
		}
	}
	if term != nil {
		if ok, err := uch.SendRequest("pty-req", true, ssh.Marshal(t)); err != nil || !ok {
			return &unreachableError{"gives no terminal", "server.pty", orGone(err)}
		}
	}
	if ok, err := uch.SendRequest(kind, true, payload); err != nil || !ok {
		return &unreachableError{"refuses to start " + map[bool]string{true: "a shell", false: "this"}[kind == "shell"], "server." + kind, orGone(err)}
	}
	s.ch.mu.Lock()
	s.upstream = uch
	if term != nil {
		if now := *s.ch.terminal; now != t { // the window changed while the program was started
			defer s.resize(windowChange{now.Columns, now.Rows, now.Width, now.Height})
		}
	}
	s.ch.mu.Unlock()
	return nil
}

// recordRequest makes what is about to be asked for durable.
func (s *session) recordRequest(env []variable, term *terminal, kind, what string) error {
	frames := []recorder.Frame{{Kind: recorder.KindChannel, Data: []byte("open")}}
	for _, v := range env {
		frames = append(frames, recorder.Frame{Kind: recorder.KindEnv, Data: []byte(v.Name + "=" + v.Value)})
	}
	if term != nil {
		frames = append(frames, recorder.Frame{Kind: recorder.KindMarker, Data: fmt.Appendf(nil, "pty-req term=%s modes=%x", term.Term, term.Modes)},
			recorder.Frame{Kind: recorder.KindResize, Data: recorder.EncodeResize(recorder.Window{
				Columns: term.Columns, Rows: term.Rows, Width: term.Width, Height: term.Height})})
	}
	if kind != "shell" {
		frames = append(frames, recorder.Frame{Kind: recorder.KindCommand, Data: []byte(what)})
	}
	var last recorder.Position
	for _, f := range frames {
		var err error
		if last, err = s.recording.Append(f); err != nil {
			return err
		}
	}
	return s.recording.Wait(s.ctx, last)
}

// orGone names the reason when the library gave none.
func orGone(err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		return errServerGone
	}
	return err
}

// relay moves bytes both ways until the data server has said everything, or
// the session's context ends. Pumps may still wait for either side then; the
// end of the client's channel and of the connection to the server end them.
func (s *session) relay(up *upstream, o opened) (ending, error) {
	uch := o.channel
	s.beside(up, func() {
		if s.pump(recorder.KindInput, s.ch.input(), uch, &s.bytesIn, "in") {
			s.mark("eof-in")
			_ = uch.CloseWrite() // a lost server ends the session by itself
		}
	})
	var outputs sync.WaitGroup
	outputs.Add(2)
	s.beside(up, func() {
		defer outputs.Done()
		s.pump(recorder.KindOutput, uch, s.ch, &s.bytesOut, "out")
	})
	s.beside(up, func() {
		defer outputs.Done()
		s.pump(recorder.KindStderr, uch.Stderr(), s.ch.Stderr(), &s.bytesOut, "out")
	})
	said, gone := false, make(chan struct{})
	var e ending
	s.beside(up, func() {
		defer close(gone)
		for req := range o.requests {
			if got, ok := exitOf(req); ok && !said {
				e, said = got, true
			}
			if req.WantReply {
				_ = req.Reply(false, nil) // as above
			}
		}
	})
	// Whatever ends the session ends the channel on the data server first, so
	// that nothing more runs or arrives while the person is being told.
	s.beside(up, func() {
		select {
		case <-gone:
			return
		case <-s.ctx.Done():
		}
		patience := time.AfterFunc(cutAfter, up.cutIfSilent)
		defer patience.Stop()
		s.closeUpstream(uch)
		<-gone
	})
	all := make(chan struct{})
	s.beside(up, func() {
		outputs.Wait()
		// The client learns of it together with the exit status: a client whose own
		// input has ended answers an end of output by closing the channel, the
		// library answers that at once, and the status could no longer be sent.
		s.mark("eof-out")
		<-gone
		close(all)
	})
	select {
	case <-all:
	case <-s.ctx.Done():
	}
	if s.ctx.Err() != nil {
		return ending{}, context.Cause(s.ctx)
	}
	if !said {
		return ending{}, errServerGone
	}
	return e, nil
}

// exitOf reads exit-status and exit-signal (RFC 4254 section 6.10). Only the
// low eight bits and a signal's known name go further: the rest could carry data.
func exitOf(req *ssh.Request) (ending, bool) {
	switch req.Type {
	case "exit-status":
		var m struct{ Status uint32 }
		if ssh.Unmarshal(req.Payload, &m) == nil {
			return ending{status: m.Status & 0xff}, true
		}
	case "exit-signal":
		var m struct {
			Name     string
			Core     bool
			Message  string
			Language string
		}
		if ssh.Unmarshal(req.Payload, &m) == nil {
			if !knownSignal(m.Name) {
				m.Name = "TERM"
			}
			return ending{signal: m.Name}, true
		}
	}
	return ending{}, false
}

// mark notes an end of file; it matters to the reader, not to the relay.
func (s *session) mark(what string) {
	_, _ = s.recording.Append(recorder.Frame{Kind: recorder.KindChannel, Data: []byte(what)}) // a failure shows at the next frame
}

// chunk is a piece of data on its way, with its place in the recording.
type chunk struct {
	position recorder.Position
	data     []byte
	large    *[]byte // the pool's buffer behind data, if it is one
}

// pump moves one stream. The reader records each piece and hands it to the
// writer, which lets it go only once it is durable; so up to inFlight pieces
// become durable together. It returns true when the source ended by itself.
func (s *session) pump(kind recorder.Kind, from io.Reader, to io.Writer, counter interface{ Add(int64) int64 }, direction string) bool {
	queue := make(chan chunk, inFlight)
	var writer sync.WaitGroup
	writer.Go(func() { s.deliver(queue, to) })
	total := s.server.metrics.bytes.WithLabelValues(direction)
	small := make([]byte, smallRead)
	flood, ended := false, false
	for s.ctx.Err() == nil {
		var c chunk
		buffer := small
		if flood {
			c.large = largeBuffers.Get().(*[]byte)
			buffer = *c.large
		}
		n, err := from.Read(buffer)
		if n > 0 {
			flood = n == len(buffer) || flood && n > smallRead
			if c.large == nil {
				small = make([]byte, smallRead) // the writer owns the old one
			}
			c.data = buffer[:n]
			if c.position, err = s.recording.Append(recorder.Frame{Kind: kind, Data: c.data}); err != nil {
				s.cancel(err)
				break
			}
			counter.Add(int64(n))
			total.Add(float64(n))
			queue <- c
			continue
		}
		if c.large != nil {
			largeBuffers.Put(c.large)
		}
		if err != nil {
			ended = errors.Is(err, io.EOF)
			break
		}
	}
	close(queue)
	writer.Wait()
	return ended && s.ctx.Err() == nil
}

// deliver writes pieces in order, each once it is durable. After a failure it
// only takes them off the queue.
func (s *session) deliver(queue <-chan chunk, to io.Writer) {
	broken := false
	for c := range queue {
		if !broken {
			if err := s.recording.Wait(s.ctx, c.position); err != nil {
				if errors.Is(err, recorder.ErrFailed) {
					s.cancel(err)
				}
				broken = true
			} else if _, err := to.Write(c.data); err != nil {
				// Whoever was to read it is gone. A client's end shows as the end of its
				// channel, a server's as the end of its output.
				s.log.Debug("write", "error", fmt.Sprint(err))
				broken = true
			}
		}
		if c.large != nil {
			largeBuffers.Put(c.large)
		}
	}
}
