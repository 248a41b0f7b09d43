package bastion

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"sallyport/authz"
	"sallyport/recorder"
)

// staleAfter is how long a node may go on without a fresh look at the state;
// after that it ends its sessions rather than serve people who may have been
// frozen meanwhile.
const staleAfter = 4 * time.Second

// live are the sessions of this node. It decides them again whenever the
// state changes, when one ends by itself, and at least each second.
type live struct {
	server *Server

	mu       sync.Mutex // guards the rest
	sessions map[string]*session
	lastSeen time.Time // last time the state was read
	watching bool
	// over ends what begins after the end of all sessions.
	over    func(*session)
	entries []entry // ends of sessions that still have to be recorded

	wake chan struct{} // there is a new entry
}

func newLive(s *Server) *live {
	return &live{server: s, sessions: map[string]*session{}, wake: make(chan struct{}, 1)}
}

// add makes a session live. One that was being opened while all others were
// ended for good ends like them.
func (l *live) add(s *session) {
	l.mu.Lock()
	l.sessions[s.record.ID] = s
	over := l.over
	l.mu.Unlock()
	if over != nil {
		over(s)
	}
}

func (l *live) remove(s *session) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.sessions, s.record.ID)
}

func (l *live) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.sessions)
}

// fresh returns an error while this node's view of the state is too old.
func (l *live) fresh() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if age := time.Since(l.lastSeen); l.watching && age > staleAfter {
		return fmt.Errorf("the database was last read %s ago", age.Truncate(time.Second))
	}
	return nil
}

// watch runs until ctx is done. Sessions may outlive ctx while the server
// drains, so it goes on until there are none.
func (l *live) watch(ctx context.Context) {
	l.mu.Lock()
	l.watching, l.lastSeen = true, time.Now()
	l.mu.Unlock()
	defer func() {
		l.mu.Lock()
		l.watching = false
		l.mu.Unlock()
	}()
	second := time.NewTicker(time.Second)
	defer second.Stop()
	expiry := time.NewTimer(time.Hour)
	defer expiry.Stop()
	work := context.WithoutCancel(ctx)
	for {
		changed := l.server.authority.Changed() // before the look, so that no change is missed
		next := l.look(work, l.all())
		if !next.IsZero() {
			expiry.Reset(max(0, next.Sub(l.server.now())))
		}
		select {
		case <-changed:
		case <-expiry.C:
		case <-second.C:
		case <-ctx.Done():
			if l.count() == 0 {
				return
			}
			// Sessions still drain: look each second until they are gone.
			<-second.C
		}
	}
}

// endWhenStale ends all sessions when the state has not been read for too
// long. It is not the goroutine that reads, because that one may hang.
func (l *live) endWhenStale(ctx context.Context) {
	tick := time.NewTicker(staleAfter / 8)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if l.fresh() != nil {
			l.endAll("node.stale", "The gate lost sight of its database and ends all sessions to be safe.")
		}
	}
}

// endWhenUnrecorded ends all sessions when the node can no longer record what
// they do: nothing goes on unrecorded.
func (l *live) endWhenUnrecorded(ctx context.Context) {
	select {
	case <-l.server.recorder.Failed():
		l.failAll(errors.New("recordings can no longer be written"))
	case <-l.server.authority.Failed():
		l.failAll(errors.New("events can no longer be written"))
	case <-ctx.Done():
	}
}

// failAll ends every session because it can no longer be recorded.
func (l *live) failAll(cause error) {
	cause = fmt.Errorf("%w: %w", recorder.ErrFailed, cause)
	l.end(func(s *session) { s.cancel(cause) })
}

// end ends every session, and those that are being opened as soon as they are there.
func (l *live) end(one func(*session)) {
	l.mu.Lock()
	l.over = one
	l.mu.Unlock()
	for _, s := range l.all() {
		one(s)
	}
}

// look decides the given sessions again and ends those that lost their right.
// It returns when the next one ends by itself.
func (l *live) look(ctx context.Context, sessions []*session) (next time.Time) {
	ctx, cancel := context.WithTimeout(ctx, staleAfter)
	defer cancel()
	asked := make([]authz.LiveSession, 0, len(sessions))
	byID := make(map[string]*session, len(sessions))
	for _, s := range sessions {
		if s.ctx.Err() != nil {
			continue // it is ending already
		}
		asked = append(asked, authz.LiveSession{Session: s.record.ID, Ask: s.ask})
		byID[s.record.ID] = s
	}
	err := l.server.authority.Poll(ctx)
	var end map[string]*authz.Refusal
	if err == nil && len(asked) > 0 {
		end, next, err = l.server.authority.Recheck(ctx, asked)
	}
	l.mu.Lock()
	if err == nil {
		l.lastSeen = time.Now()
	}
	l.mu.Unlock()
	if err != nil {
		l.server.config.Log.Error("live sessions could not be decided again", "error", err)
	}
	for id, refusal := range end {
		byID[id].end(refusal)
	}
	l.told(cuts{asked, end})
	return next
}

// cuts are sessions that were told to end, and why.
type cuts struct {
	live []authz.LiveSession
	end  map[string]*authz.Refusal
}

// told leaves it to another goroutine to record what was told: a slow ledger
// must neither keep anybody in nor keep the watch from looking again.
func (l *live) told(c cuts) {
	if len(c.end) > 0 {
		l.later(func(ctx context.Context) error { return l.server.authority.RecordCuts(ctx, c.live, c.end) })
	}
}

// entryTries is how often an entry that could not be made is tried again: an
// hour long. A restart closes what is open then.
const entryTries = 3600

// entry is what still has to be written down about a session's end.
type entry struct {
	make func(context.Context) error
	left int // tries
}

// later makes an entry in the background, tried again each second.
func (l *live) later(write func(context.Context) error) {
	l.mu.Lock()
	l.entries = append(l.entries, entry{write, entryTries})
	l.mu.Unlock()
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// writeEntries makes the entries that wait. When ctx is done it tries the
// rest once more.
func (l *live) writeEntries(ctx context.Context) {
	second := time.NewTicker(time.Second)
	defer second.Stop()
	for {
		select {
		case <-l.wake:
		case <-second.C:
		case <-ctx.Done():
			l.writeWaiting(context.WithoutCancel(ctx))
			return
		}
		l.writeWaiting(ctx)
	}
}

// writeWaiting tries each entry that waits once.
func (l *live) writeWaiting(ctx context.Context) {
	l.mu.Lock()
	waiting := l.entries
	l.entries = nil
	l.mu.Unlock()
	for _, e := range waiting {
		limited, cancel := context.WithTimeout(ctx, bookTime)
		err := e.make(limited)
		cancel()
		if err == nil {
			continue
		}
		e.left--
		l.server.config.Log.Error("the end of sessions could not be recorded", "error", err, "tries_left", e.left)
		if e.left > 0 {
			l.mu.Lock()
			l.entries = append(l.entries, e)
			l.mu.Unlock()
		}
	}
}

// all are the sessions that live now.
func (l *live) all() []*session {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := make([]*session, 0, len(l.sessions))
	for _, s := range l.sessions {
		all = append(all, s)
	}
	return all
}

// endAll ends every session with the same reason, each under a reference of its own.
func (l *live) endAll(rule, sentence string) {
	for _, s := range l.all() {
		l.cut(s, rule, sentence)
	}
}

// stop ends every session for good, because the gate stops.
func (l *live) stop() {
	l.end(func(s *session) { l.cut(s, "node.stop", "The gate is shutting down and ends your session now.") })
}

// cut ends one session by the node's own decision.
func (l *live) cut(s *session, rule, sentence string) {
	if s.ctx.Err() != nil {
		return // it is ending already
	}
	r := l.server.authority.NewCut(rule, sentence)
	s.end(r)
	l.told(cuts{[]authz.LiveSession{{Session: s.record.ID, Ask: s.ask}}, map[string]*authz.Refusal{s.record.ID: r}})
}
