package bastion

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"

	"sallyport/authz"
	"sallyport/recorder"
)

// session is one routed channel: a client's channel, its recording, and the
// channel on the data server.
type session struct {
	ch        *channel
	server    *Server
	log       *slog.Logger
	ask       authz.Ask
	route     authz.Route
	record    authz.Session
	recording *recorder.Recording
	rescue    bool        // it may use what is kept for a full disk
	closed    int64       // the ledger's entry of the recording's end
	upstream  ssh.Channel // set once the program runs; guarded by ch.mu
	ctx       context.Context
	cancel    context.CancelCauseFunc

	bytesIn, bytesOut atomic.Int64
}

// toServer decides, waits for approval if the decision says so, and runs the
// session on the data server.
func (ch *channel) toServer(ctx context.Context, work *sync.WaitGroup, ask authz.Ask) ending {
	c := ch.conn
	decision, err := c.server.authority.Decide(ctx, ask)
	if err != nil {
		return ch.refused(c.server.unavailable(ctx, c.identity, err))
	}
	if decision.Outcome == authz.Wait {
		request, e := ch.awaitApproval(ctx, ask, decision)
		if e != nil {
			return *e
		}
		ask.Request = request
		if decision, err = c.server.authority.Decide(ctx, ask); err != nil {
			return ch.refused(c.server.unavailable(ctx, c.identity, err))
		}
	}
	switch {
	case decision.Refusal != nil:
		c.server.metrics.refusals.WithLabelValues(ruleLabel(decision.Refusal.Rule)).Inc()
		return ch.refused(decision.Refusal)
	case decision.Outcome != authz.Allow || !decision.Obligations.Record:
		// An obligation that this gate can't carry out is a refusal, never a gift.
		return ch.refused(c.refuse("session.refused", "decision.unmet",
			"Your project asks for something that this gate cannot give, so the session is not opened.",
			map[string]any{"outcome": decision.Outcome.String(), "rule": decision.Rule}))
	}
	ask.Project, ask.Server = decision.Route.Project, decision.Route.Server
	s := &session{ch: ch, server: c.server, ask: ask, route: decision.Route, log: c.log}
	return s.run(ctx, work, decision)
}

// run opens everything that a session needs, relays, and closes it all.
func (s *session) run(ctx context.Context, work *sync.WaitGroup, decision authz.Decision) ending {
	s.ctx, s.cancel = context.WithCancelCause(ctx)
	defer s.cancel(nil)
	c := s.ch.conn
	s.rescue = s.mayRescue(ctx, decision)
	if err := s.server.ready(s.rescue); err != nil {
		return s.notRecorded(err)
	}
	epoch, err := s.server.authority.CurrentEpoch(ctx, s.route.Project)
	if err != nil {
		return s.ch.refused(s.server.unavailable(ctx, c.identity, fmt.Errorf("epoch key of %s: %w", s.route.Project, err)))
	}
	s.record = s.describe(decision, epoch)

	// The data server is asked while the recording is prepared, unless a grant
	// is at stake: a server that is down must not use it up.
	dialed := make(chan dialResult, 1)
	work.Go(func() { up, err := c.upstream(s.ctx, s.route); dialed <- dialResult{up, err} })
	var up dialResult
	if s.record.Request != "" {
		if up = <-dialed; up.err != nil {
			return s.unreachable(up.err)
		}
	}
	// A client that leaves now must not leave an entry behind that nobody closes.
	opening, cancel := context.WithTimeout(context.WithoutCancel(ctx), bookTime)
	s.record, err = s.server.authority.OpenSession(opening, s.record)
	cancel()
	if err != nil {
		var refusal *authz.Refusal
		if errors.As(err, &refusal) {
			return s.ch.refused(refusal)
		}
		return s.ch.refused(s.server.unavailable(ctx, c.identity, err))
	}
	s.log = s.log.With("session", s.record.ID)
	meta, keys := s.meta(epoch)
	if s.recording, err = s.server.recorder.Start(ctx, meta, keys); err != nil {
		s.close("recording-failed", exitRecording)
		return s.notRecorded(err)
	}
	s.attach()
	defer s.detach()
	work.Go(s.endWhenUnrecorded)
	// Between the decision and now something may have changed.
	s.server.live.look(ctx, []*session{s})
	if up.upstream == nil {
		select {
		case up = <-dialed:
		case <-s.ctx.Done():
			up = dialResult{err: context.Cause(s.ctx)}
		}
	}
	var e ending
	if up.err == nil {
		e, err = s.start(up.upstream)
	} else {
		err = up.err
	}
	return s.finish(e, err)
}

// endWhenUnrecorded ends a session whose own recording has failed, also while
// nobody types and nothing is shown.
func (s *session) endWhenUnrecorded() {
	select {
	case <-s.recording.Done():
		if err := s.recording.Err(); errors.Is(err, recorder.ErrFailed) {
			s.cancel(err)
		}
	case <-s.ctx.Done():
	}
}

// mayRescue reports whether the session is one that people make room with on a
// full disk: a site administrator's, or an operator's by an approved request.
func (s *session) mayRescue(ctx context.Context, d authz.Decision) bool {
	if s.route.Role == authz.RoleOperator && d.Obligations.Grant != "" {
		return true
	}
	u, err := s.server.authority.User(ctx, s.ch.conn.identity.User)
	return err == nil && u.SiteRole == authz.SiteAdmin // a state that can't be read is found out by the next step
}

// bookTime bounds the entry of a session's begin and end.
const bookTime = 15 * time.Second

type dialResult struct {
	upstream *upstream
	err      error
}

// describe is the session as the database knows it.
func (s *session) describe(d authz.Decision, epoch authz.Epoch) authz.Session {
	c := s.ch.conn
	return authz.Session{
		ID: newID("S"), Connection: c.identity.Connection, User: c.identity.User,
		Project: s.route.Project, Server: s.route.Server, Account: s.route.Account, Role: s.route.Role,
		Action: s.ask.Action, Command: s.ask.Command, PTY: s.ch.hasPTY(),
		RemoteAddr: c.identity.Actor().RemoteAddr, Request: d.Obligations.Grant, Epoch: epoch.ID, StartedAt: s.server.now(),
	}
}

// meta is the session as its recording knows it.
func (s *session) meta(epoch authz.Epoch) (recorder.Meta, recorder.Keys) {
	r := s.record
	m := recorder.Meta{Session: r.ID, Number: r.Number, Node: r.Node, Connection: r.Connection, Epoch: epoch.ID,
		Start: r.StartedAt, User: r.User, Project: r.Project, Server: r.Server, Account: r.Account,
		Action: string(r.Action), PTY: r.PTY, RemoteAddr: r.RemoteAddr, Request: r.Request, Rescue: s.rescue}
	s.ch.mu.Lock()
	if t := s.ch.terminal; t != nil {
		m.Term, m.Columns, m.Rows = t.Term, t.Columns, t.Rows
	}
	s.ch.mu.Unlock()
	return m, recorder.Keys{Recipient: epoch.Recipient, Strict: epoch.Strict}
}

// attach makes the session live: changes of state, resizes and sentences reach it.
func (s *session) attach() {
	s.ch.mu.Lock()
	s.ch.session = s
	s.ch.mu.Unlock()
	s.server.live.add(s)
}

func (s *session) detach() {
	s.server.live.remove(s)
	s.ch.mu.Lock()
	s.ch.session = nil
	s.ch.mu.Unlock()
}

// end ends the session from outside: the right to it is gone.
func (s *session) end(r *authz.Refusal) { s.cancel(r) }

// finish records how the session ended, tells the person if it did not end by
// itself, and closes recording and entry.
func (s *session) finish(e ending, err error) ending {
	result := "exited"
	if e.signal != "" {
		result = "signalled"
	}
	var refusal *authz.Refusal
	var down *unreachableError
	switch {
	case err == nil:
	case errors.As(err, &refusal):
		result, e = cutResult(refusal.Rule), ending{status: exitDenied}
		s.ch.tell(refusal.Error())
	case errors.Is(err, recorder.ErrFailed):
		result, e = "recording-failed", ending{status: exitRecording}
		s.ch.tell(s.failedSentence(err))
	case errors.Is(err, errGone), s.ch.conn.ctx.Err() != nil:
		result, e = "client-gone", ending{status: exitFailed}
	case errors.As(err, &down):
		result, e = "server-gone", ending{status: exitFailed}
		s.ch.tell(s.reportUnreachable(down).Error())
	default:
		result, e = "server-gone", ending{status: exitFailed}
		s.ch.tell(fmt.Sprintf("The connection to %s/%s was lost (reference %s).", s.route.Project, s.route.Server, s.record.ID))
	}
	s.log.Info("session ended", "result", result, "status", e.status, "cause", err)
	if _, err := s.recording.Append(recorder.Frame{Kind: recorder.KindExit, Data: recorder.EncodeExit(e.status, e.signal)}); err != nil && result != "recording-failed" {
		result, e = "recording-failed", ending{status: exitRecording}
		s.ch.tell(s.failedSentence(err))
	}
	failed := s.close(result, e.status)
	switch {
	case failed != nil && result != "recording-failed":
		e = ending{status: exitRecording}
		s.ch.tell(s.failedSentence(failed))
	case failed == nil && result != "client-gone":
		s.giveReceipt()
	}
	return e
}

// giveReceipt ends an interactive session with a line that the person may keep:
// what the ledger claims about the recording, signed. Nobody can take the recording
// away later without contradicting it. The line itself can't be in the recording, which is closed.
func (s *session) giveReceipt() {
	if s.recording == nil || s.record.Head == "" || !s.ch.hasPTY() {
		return
	}
	line, err := s.server.recorder.Ledger().Receipt(s.closed)
	if err != nil {
		s.log.Error("no receipt for the session", "error", err)
		return
	}
	s.ch.write("\rreceipt: " + line + "\r\n")
}

// cutResult names the end of a session that did not end by itself.
func cutResult(rule string) string {
	switch rule {
	case "session.killed":
		return "killed"
	case "node.stop":
		return "gate-stopped"
	case "node.stale":
		return "state-lost"
	}
	return "right-ended"
}

// close ends the recording and the session's entry; it runs also when the
// client and even the server are going away.
func (s *session) close(result string, status uint32) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(s.ctx), bookTime)
	defer cancel()
	var failed error
	if s.recording != nil {
		end, err := s.recording.Close(ctx, result)
		failed = err
		s.record.Head, s.closed = end.Head, end.Index
		if err != nil {
			result = "recording-failed"
		}
	}
	s.record.Result, s.record.ExitCode, s.record.EndedAt = result, int(status), s.server.now()
	s.record.BytesIn, s.record.BytesOut = s.bytesIn.Load(), s.bytesOut.Load()
	s.server.metrics.sessions.WithLabelValues(ruleLabel(result)).Inc()
	if err := s.server.authority.CloseSession(ctx, s.record); err != nil {
		s.log.Error("end of session could not be recorded, and is tried again", "error", err)
		record := s.record
		s.server.live.later(func(ctx context.Context) error { return s.server.authority.CloseSession(ctx, record) })
	}
	return failed
}

// failedSentence says that recording failed; nothing goes on unrecorded.
func (s *session) failedSentence(err error) string {
	s.log.Error("recording failed", "error", err)
	return fmt.Sprintf("This session can no longer be recorded, so it ends (%s; reference %s).", rootCause(err), s.record.ID)
}

// notRecorded refuses a session that could not be recorded.
func (s *session) notRecorded(err error) ending {
	r := s.ch.conn.refuse("session.refused", "recording.unavailable",
		fmt.Sprintf("This session could not be recorded, so it is not opened (%s).", rootCause(err)),
		map[string]any{"error": err.Error(), "project": s.route.Project})
	s.ch.refused(r)
	return ending{status: exitRecording}
}

// unreachable tells that the data server can't be used, before a session exists.
func (s *session) unreachable(err error) ending {
	var down *unreachableError
	if !errors.As(err, &down) {
		down = &unreachableError{sentence: "could not be reached", rule: "server.unreachable", cause: err}
	}
	s.ch.tell(s.reportUnreachable(down).Error())
	return ending{status: exitFailed}
}

// reportUnreachable makes the refusal and its event.
func (s *session) reportUnreachable(e *unreachableError) *authz.Refusal {
	details := map[string]any{"project": s.route.Project, "server": s.route.Server, "address": s.route.Address,
		"error": printable(e.cause.Error(), 300)}
	var other *hostKeyError
	if errors.As(e.cause, &other) {
		details["offered_host_key"], details["pinned_host_key"] = other.offered, other.pinned
	}
	return s.ch.conn.refuse("server.failed", e.rule,
		fmt.Sprintf("The data server %s/%s %s.", s.route.Project, s.route.Server, e.sentence), details)
}

// rootCause is the innermost text of an error, for one sentence to a person:
// what wraps it names files and addresses of the gate.
func rootCause(err error) string {
	for {
		inner := errors.Unwrap(err)
		if many, ok := err.(interface{ Unwrap() []error }); ok && len(many.Unwrap()) > 0 {
			inner = many.Unwrap()[len(many.Unwrap())-1]
		}
		if inner == nil {
			return printable(err.Error(), 120)
		}
		err = inner
	}
}

// recordGate puts what the gate says to the person into the recording.
func (s *session) recordGate(text string) {
	if p, err := s.recording.Append(recorder.Frame{Kind: recorder.KindGate, Data: []byte(text)}); err == nil {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(s.ctx), sayTime)
		defer cancel()
		_ = s.recording.Wait(ctx, p) // the session is ending anyway if this fails
	}
}

// resize passes a window change on once it is durable.
func (s *session) resize(w windowChange) {
	if s.note(recorder.KindResize, recorder.EncodeResize(recorder.Window(w))) {
		s.send("window-change", ssh.Marshal(w))
	}
}

// signal passes a client's signal on once it is durable.
func (s *session) signal(name string) {
	if s.note(recorder.KindSignal, []byte(name)) {
		s.send("signal", ssh.Marshal(struct{ Name string }{name}))
	}
}

// send makes a request to the data server that wants no reply. Before the
// program runs there is nobody to send it to.
func (s *session) send(kind string, payload []byte) {
	s.ch.mu.Lock()
	up := s.upstream
	s.ch.mu.Unlock()
	if up != nil {
		_, _ = up.SendRequest(kind, false, payload) // a lost server ends the session by itself
	}
}

// note appends a frame and waits until it is durable.
func (s *session) note(kind recorder.Kind, data []byte) bool {
	p, err := s.recording.Append(recorder.Frame{Kind: kind, Data: data})
	if err == nil {
		err = s.recording.Wait(s.ctx, p)
	}
	if err != nil {
		s.cancel(err)
	}
	return err == nil
}
