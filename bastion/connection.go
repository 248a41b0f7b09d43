package bastion

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"sallyport/authz"
)

// refusalsEach is how many refused channels and requests of one connection
// get an event of their own; the rest are counted in one event at its end.
const refusalsEach = 20

// errGone is the cause when a client's connection or channel has ended.
var errGone = errors.New("client gone")

// connection is one authenticated client connection.
type connection struct {
	server   *Server
	conn     *guardedConn
	ssh      *ssh.ServerConn
	identity authz.Identity
	address  address
	// invited is set when the connection opens the enrolment only.
	invited *invited
	// cachedFactor says that the second factor was given to an earlier connection
	// (the node's socket only), so it counts for no vote.
	cachedFactor bool
	log          *slog.Logger
	ctx          context.Context
	cancel       context.CancelCauseFunc

	mu        sync.Mutex // guards the rest
	open      map[*channel]struct{}
	opened    int // channels ever
	sealed    bool
	refusals  int
	pending   []string // sentences that no channel could show yet
	upstreams map[authz.Route]*upstream
	lost      []*upstream // earlier connections to servers that were dialled again
}

func newConnection(s *Server, gc *guardedConn, sc *ssh.ServerConn, id authz.Identity, a address) *connection {
	c := &connection{server: s, conn: gc, ssh: sc, identity: id, address: a,
		log:  s.config.Log.With("connection", id.Connection, "user", id.User),
		open: map[*channel]struct{}{}, upstreams: map[authz.Route]*upstream{}}
	c.ctx, c.cancel = context.WithCancelCause(gc.ctx)
	return c
}

// serve runs the connection until the client leaves, and waits for all that
// it started.
func (c *connection) serve(channels <-chan ssh.NewChannel, requests <-chan *ssh.Request) {
	var work sync.WaitGroup
	// The client's end, a cut by the server and a failed read all close the connection.
	stop := context.AfterFunc(c.ctx, func() {
		c.ssh.Close()
		c.cutUpstreams()
	})
	defer stop()
	work.Go(func() { c.globalRequests(requests) })
	work.Go(func() {
		keepAlive(c.ctx, c.ssh, c.server.config.Limits, func() { c.cancel(errors.New("client silent")) })
	})
	for nc := range channels {
		c.newChannel(nc, &work)
	}
	c.cancel(errGone)
	work.Wait()
	c.cutUpstreams() // again: one may have been dialled meanwhile
	c.waitUpstreams()
	c.reportRefusals()
}

// newChannel accepts session channels; every other kind is refused, whatever
// it is called.
func (c *connection) newChannel(nc ssh.NewChannel, work *sync.WaitGroup) {
	if nc.ChannelType() != "session" {
		c.rejectForward(nc)
		return
	}
	ch := &channel{conn: c}
	if r := c.admit(ch); r != nil {
		_ = nc.Reject(ssh.ResourceShortage, printable(r.Error(), 400)) // the client may be gone
		return
	}
	sch, requests, err := nc.Accept()
	if err != nil {
		c.leave(ch)
		return
	}
	ch.Channel = sch
	work.Go(func() {
		defer c.leave(ch)
		defer c.server.contain("channel")
		ch.run(requests)
	})
}

// admit takes a place for a channel.
func (c *connection) admit(ch *channel) *authz.Refusal {
	c.mu.Lock()
	sealed, full := c.sealed, len(c.open) >= c.server.config.Limits.Channels
	if !sealed && !full {
		c.open[ch] = struct{}{}
		c.opened++
	}
	c.mu.Unlock()
	switch {
	case sealed:
		return c.refuse("channel.refused", "connection.sealed", "This connection takes no other channel.", nil)
	case full:
		return c.refuse("channel.refused", "connection.channels",
			fmt.Sprintf("This connection already has %d channels open, which is the limit.", c.server.config.Limits.Channels), nil)
	}
	return nil
}

// leave gives a channel's place back and ends a draining connection with its last one.
func (c *connection) leave(ch *channel) {
	c.mu.Lock()
	delete(c.open, ch)
	c.mu.Unlock()
	c.server.mu.Lock()
	draining := c.server.draining
	c.server.mu.Unlock()
	if draining {
		c.closeIfIdle()
	}
}

func (c *connection) closeIfIdle() {
	c.mu.Lock()
	idle := len(c.open) == 0
	c.sealed = true
	c.mu.Unlock()
	if idle {
		c.cancel(errors.New("gate stopping"))
	}
}

// onlyVerb reports whether this connection has carried one channel and no
// more, and seals it, so that the login's factor counts for one vote only.
func (c *connection) onlyVerb() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.opened != 1 {
		return false
	}
	c.sealed = true
	return true
}

// forward is the payload of direct-tcpip and forwarded-tcpip (RFC 4254 section 7.2)
// and, without its origin, of tcpip-forward.
type forward struct {
	Host       string
	Port       uint32
	OriginHost string
	OriginPort uint32
}

// rejectForward refuses a channel that is not a session, with the reason in
// the refusal and again where the person can read it.
func (c *connection) rejectForward(nc ssh.NewChannel) {
	kind := printable(nc.ChannelType(), 64)
	details := map[string]any{"channel": kind}
	sentence := fmt.Sprintf("Channels of type %s are not allowed here.", kind)
	var f forward
	switch nc.ChannelType() {
	case "direct-tcpip":
		sentence = "Forwarding connections through the gate is not allowed."
		if ssh.Unmarshal(nc.ExtraData(), &f) == nil {
			details["target"] = printable(net.JoinHostPort(f.Host, strconv.FormatUint(uint64(f.Port), 10)), 300)
		}
	case "direct-streamlocal@openssh.com":
		sentence = "Forwarding sockets through the gate is not allowed."
	case "tun@openssh.com":
		sentence = "Tunnel devices through the gate are not allowed."
	}
	r := c.refuse("channel.refused", "channel."+kind, sentence, details)
	c.tell(r.Error())
	_ = nc.Reject(ssh.Prohibited, printable(r.Error(), 400)) // the client may be gone
}

// globalRequests answers requests that concern the whole connection.
func (c *connection) globalRequests(requests <-chan *ssh.Request) {
	for req := range requests {
		ok := false
		switch req.Type {
		case "keepalive@openssh.com":
			ok = true
		case "no-more-sessions@openssh.com":
			c.mu.Lock()
			c.sealed = true
			c.mu.Unlock()
			ok = true
		case "tcpip-forward", "streamlocal-forward@openssh.com":
			r := c.refuse("request.refused", "request."+req.Type, "Forwarding ports back through the gate is not allowed.",
				map[string]any{"request": req.Type})
			c.tell(r.Error())
		}
		if req.WantReply {
			if err := req.Reply(ok, nil); err != nil {
				c.cancel(err) // and go on reading until the library closes the channel
			}
		}
	}
}

// keepAlive notices a peer that has gone without a word, client or data server.
func keepAlive(ctx context.Context, peer ssh.Conn, limits Limits, silence func()) {
	tick := time.NewTicker(limits.KeepAlive)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		answered := make(chan struct{})
		go func() {
			defer close(answered) // ends with the connection at the latest
			_, _, _ = peer.SendRequest("keepalive@openssh.com", true, nil)
		}()
		silent := time.NewTimer(time.Duration(limits.KeepAliveMissed) * limits.KeepAlive)
		select {
		case <-answered:
		case <-ctx.Done():
		case <-silent.C:
			silence()
		}
		silent.Stop()
	}
}

// refuse records a refusal about this connection; beyond refusalsEach it only counts.
func (c *connection) refuse(op, rule, sentence string, details map[string]any) *authz.Refusal {
	c.server.metrics.refusals.WithLabelValues(ruleLabel(rule)).Inc()
	c.mu.Lock()
	c.refusals++
	many := c.refusals > refusalsEach
	c.mu.Unlock()
	if many {
		return &authz.Refusal{Rule: rule, Sentence: sentence, Reference: c.identity.Connection}
	}
	e := loginEvent(c.identity, op)
	for k, v := range details {
		e.Details[k] = v
	}
	return c.server.authority.Refuse(context.WithoutCancel(c.ctx), e, rule, sentence, "")
}

// ruleLabel keeps client-made names out of metric labels.
func ruleLabel(rule string) string {
	switch rule {
	case "channel.direct-tcpip", "channel.tun@openssh.com", "request.tcpip-forward":
		return rule
	}
	for i := range len(rule) {
		if rule[i] == '.' {
			return rule[:i]
		}
	}
	return rule
}

// reportRefusals records how many refusals had no event of their own.
func (c *connection) reportRefusals() {
	c.mu.Lock()
	more := c.refusals - refusalsEach
	c.mu.Unlock()
	if more <= 0 {
		return
	}
	e := loginEvent(c.identity, "channel.refused.more")
	e.Details["count"] = more
	if _, err := c.server.authority.Record(context.WithoutCancel(c.ctx), e); err != nil {
		c.log.Error("refusals could not be recorded", "error", err)
	}
}

// tell shows a sentence on an open channel of the connection, or on the next
// one if there is none yet.
func (c *connection) tell(sentence string) {
	c.mu.Lock()
	var to *channel
	for ch := range c.open {
		if ch.isStarted() {
			to = ch
			break
		}
	}
	if to == nil && len(c.pending) < refusalsEach {
		c.pending = append(c.pending, sentence)
	}
	c.mu.Unlock()
	if to != nil {
		to.tell(sentence)
	}
}

// notice tells the person, on the first channel, what happened with their key
// since they were here.
func (c *connection) notice() {
	sentence, err := c.server.authority.Notice(c.ctx, c.identity)
	if err != nil {
		c.log.Error("notice could not be read", "error", err)
		return
	}
	if sentence != "" {
		c.tell(sentence)
	}
}

// takePending returns what waited for a channel.
func (c *connection) takePending() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.pending
	c.pending = nil
	return p
}
