package authz

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"sallyport/internal/database"
)

// Session is one routed channel, live or ended.
type Session struct {
	ID         string    `json:"id"`     // S-…
	Number     int64     `json:"number"` // dense per node
	Node       string    `json:"node"`
	Connection string    `json:"connection"`
	User       string    `json:"user"`
	Project    string    `json:"project"`
	Server     string    `json:"server"`
	Account    string    `json:"account"`
	Role       Role      `json:"role"`
	Action     Action    `json:"action"`
	Command    string    `json:"command,omitempty"` // exec: exact bytes (may be no UTF-8)
	PTY        bool      `json:"pty"`
	RemoteAddr string    `json:"remote_addr"`
	Request    string    `json:"request,omitempty"`
	Epoch      string    `json:"epoch"`
	StartedAt  time.Time `json:"started_at"`
	EndedAt    time.Time `json:"ended_at,omitzero"`
	// Result is "" while live, then exited, signalled, killed, right-ended, gate-stopped, state-lost, client-gone,
	// server-gone, recording-failed, crashed.
	Result string `json:"result"`
	// ExitCode, BytesIn and BytesOut are Unknown where a crash took them;
	// EndedAt is then when the crash was found.
	ExitCode int   `json:"exit_code"`
	BytesIn  int64 `json:"bytes_in"`
	BytesOut int64 `json:"bytes_out"`
	// KilledBy is who ended it before its time, with their reason; "" when nobody did.
	KilledBy   string `json:"killed_by,omitempty"`
	KillReason string `json:"kill_reason,omitempty"`
	// Head is the hex hash of the recording's last block, as far as the node knows it.
	Head string `json:"head,omitempty"`
}

// Unknown is a number of a session that a crash took: its exit code, or how many bytes it had.
const Unknown = -1

const selectSessions = `SELECT id, number, node, connection, user_name, project, server, account, role, action, command,
	pty, remote_addr, request, epoch, started_at, ended_at, result, exit_code, bytes_in, bytes_out, head,
	killed_by, kill_reason FROM sessions `

// Outcome is how the session ended, in a word or two; "live" while it goes on.
func (s Session) Outcome() string {
	switch {
	case s.Result == "":
		return "live"
	case s.Result == "exited" && s.ExitCode != Unknown:
		return "exit " + strconv.Itoa(s.ExitCode)
	}
	return s.Result
}

func scanSession(row database.Scanner) (Session, error) {
	var (
		s              Session
		command        []byte
		started, ended int64
	)
	err := row.Scan(&s.ID, &s.Number, &s.Node, &s.Connection, &s.User, &s.Project, &s.Server, &s.Account, &s.Role,
		&s.Action, &command, &s.PTY, &s.RemoteAddr, &s.Request, &s.Epoch, &started, &ended, &s.Result, &s.ExitCode,
		&s.BytesIn, &s.BytesOut, &s.Head, &s.KilledBy, &s.KillReason)
	if errors.Is(err, sql.ErrNoRows) {
		return Session{}, ErrNotFound
	}
	s.Command, s.StartedAt, s.EndedAt = string(command), fromMilliseconds(started), fromMilliseconds(ended)
	return s, err
}

// loadLive loads what a repeated decision needs of a node's sessions that have not ended.
func loadLive(tx database.Tx, node string) (map[string]*liveRow, error) {
	live := map[string]*liveRow{}
	err := tx.Each(func(row database.Scanner) error {
		var (
			id     string
			r      liveRow
			killed int64
		)
		err := row.Scan(&id, &r.account, &killed, &r.killedBy, &r.killNote)
		r.killed = killed != 0
		live[id] = &r
		return err
	}, "SELECT id, account, killed_at, killed_by, kill_reason FROM sessions WHERE node = $1 AND ended_at = 0", node)
	return live, err
}

// event begins an event about the session, as the doing of its person.
func (s Session) event(opType string) Event {
	remote := s.RemoteAddr
	if remote == "" {
		remote = "-"
	}
	return Event{UserID: s.User, OpType: opType, ResourceType: "session", ResourceID: s.ID, RemoteAddr: remote,
		Project: s.Project, Session: s.ID, Connection: s.Connection}
}

// OpenSession gives the session its number, records its event and uses its grant if it has one,
// all in one transaction. It fails with a *Refusal when the grant is used up, or when the person
// or the membership lost the right since the decision. A session without an id gets one.
func (a *Authority) OpenSession(ctx context.Context, s Session) (Session, error) {
	if s.ID == "" {
		id, err := a.newID("S-", a.now())
		if err != nil {
			return Session{}, err
		}
		s.ID = id
	}
	by := Actor{User: s.User, RemoteAddr: s.RemoteAddr, Connection: s.Connection}
	err := a.change(ctx, by, s.event("session.open"), func(w *work) error {
		if err := w.stillAllowed(s); err != nil {
			return err
		}
		project, err := loadProject(w.tx, s.Project)
		if err != nil {
			return err
		}
		if s.Request != "" {
			if err := w.useGrant(s); err != nil {
				return err
			}
		}
		kept := s.Command
		if project.SealCommands {
			kept = ""
		}
		err = w.tx.QueryRow("UPDATE nodes SET last_session = last_session + 1 WHERE id = $1 RETURNING last_session",
			a.node).Scan(&s.Number)
		if err != nil {
			return err
		}
		s.Node, s.StartedAt, s.EndedAt, s.Result = a.node, w.now, time.Time{}, ""
		_, err = w.tx.Exec(`INSERT INTO sessions (id, node, number, connection, user_name, project, server, account, role,
				action, command, pty, remote_addr, request, epoch, started_at, ended_at, result, exit_code, bytes_in,
				bytes_out, head, killed_at, killed_by, kill_reason)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, 0, '', 0, 0, 0, '', 0, '', '')`,
			s.ID, s.Node, s.Number, s.Connection, s.User, s.Project, s.Server, s.Account, string(s.Role), string(s.Action),
			[]byte(kept), s.PTY, s.RemoteAddr, s.Request, s.Epoch, milliseconds(s.StartedAt))
		if err != nil {
			return err
		}
		details := map[string]any{"number": s.Number, "server": s.Server, "account": s.Account, "role": s.Role,
			"action": s.Action, "pty": s.PTY, "request": s.Request, "epoch": s.Epoch, "started_at": s.StartedAt}
		commandDetail(details, s.Command, project.SealCommands && s.Command != "")
		_, err = w.record(details)
		return err
	})
	if err != nil {
		return Session{}, err
	}
	return s, nil
}

// stillAllowed closes the gap between the decision and the session: what was taken away in
// between has woken nobody, since there was no session yet.
func (w *work) stillAllowed(s Session) error {
	user, err := w.target(s.User)
	if err != nil {
		return err
	}
	if err := denyInactive(user); err != nil {
		return err
	}
	members, err := loadMemberships(w.tx, "user_name = ? AND project = ?", s.User, s.Project)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(members, func(m Membership) bool {
		return m.live(w.now) && m.Role == s.Role && m.Account == s.Account
	})
	if i < 0 {
		return deny("membership.ended", "Your membership has just ended.", "")
	}
	if has, _ := s.Role.Permissions(); has.Has(PermByApproval) && s.Request == "" {
		return deny("grant.needed", "This session needs an approved request.", "")
	}
	return nil
}

// useGrant takes one use of the session's grant.
func (w *work) useGrant(s Session) error {
	n, err := w.tx.Exec(`UPDATE requests SET uses_left = uses_left - 1, version = version + 1,
			state = CASE WHEN uses_left = 1 THEN 'used' ELSE state END
		WHERE id = $1 AND user_name = $2 AND project = $3 AND server = $4 AND account = $5 AND state = 'approved'
			AND uses_left > 0 AND grant_from <= $6 AND grant_until > $7`,
		s.Request, s.User, s.Project, s.Server, s.Account, milliseconds(w.now), milliseconds(w.now))
	if err != nil {
		return err
	}
	if n != 1 {
		return deny("grant.used", "The approval is used up or has ended: ask again.", "request "+s.Request)
	}
	w.wakes = true // whoever watches the request sees it used
	event := w.event
	event.OpType, event.ResourceType, event.ResourceID = "grant.use", "request", s.Request
	_, err = w.recordEvent(event)
	return err
}

// CloseSession records how a session ended. Closing it again changes nothing.
func (a *Authority) CloseSession(ctx context.Context, s Session) error {
	err := a.commit(ctx, func(w *work) error {
		open, err := scanSession(w.tx.QueryRow(selectSessions+"WHERE id = $1", column(s.ID)))
		if err != nil || !open.EndedAt.IsZero() {
			return err
		}
		end := s.EndedAt.UTC().Truncate(time.Millisecond)
		if s.EndedAt.IsZero() {
			end = w.now
		}
		_, err = w.tx.Exec(`UPDATE sessions SET ended_at = $1, result = $2, exit_code = $3, bytes_in = $4, bytes_out = $5,
			head = $6 WHERE id = $7 AND ended_at = 0`, milliseconds(end), s.Result, int64(s.ExitCode), s.BytesIn, s.BytesOut,
			s.Head, s.ID)
		if err != nil {
			return err
		}
		project, err := loadProject(w.tx, open.Project)
		if err != nil {
			return err
		}
		w.event = open.event("session.close")
		details := map[string]any{"number": open.Number, "server": open.Server, "action": open.Action,
			"result": s.Result, "exit_code": s.ExitCode, "bytes_in": s.BytesIn, "bytes_out": s.BytesOut, "head": s.Head,
			"started_at": open.StartedAt, "ended_at": end}
		if open.Request != "" {
			details["request"] = open.Request
		}
		// An exec is a transfer that is named by its command; without one it was sealed. The project may seal
		// commands since.
		commandDetail(details, open.Command, open.Action == ActionExec && (open.Command == "" || project.SealCommands))
		_, err = w.record(details)
		return err
	})
	if err != nil {
		return fmt.Errorf("close session %s: %w", s.ID, err)
	}
	return nil
}

func loadSessions(tx database.Tx, f *filter, limit int) ([]Session, error) {
	query := selectSessions + "WHERE " + f.where() + " ORDER BY started_at DESC, number DESC"
	if limit > 0 {
		query += " LIMIT " + f.value(int64(limit))
	}
	var sessions []Session
	err := tx.Each(func(row database.Scanner) error {
		s, err := scanSession(row)
		sessions = append(sessions, s)
		return err
	}, query, f.args...)
	slices.Reverse(sessions)
	return sessions, err
}

// UnclosedSessions are this node's sessions that a crash left open.
func (a *Authority) UnclosedSessions(ctx context.Context) (sessions []Session, err error) {
	err = a.db.Read(ctx, func(tx database.Tx) error {
		f := &filter{}
		f.add("node = ? AND ended_at = 0", a.node)
		sessions, err = loadSessions(tx, f, 0)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("unclosed sessions: %w", err)
	}
	return sessions, nil
}

// KillSession marks a live session to end, on whichever node it runs. Administrators and security administrators
// may do it, managers in their project, and people for their own sessions.
func (a *Authority) KillSession(ctx context.Context, by Actor, id, reason string) error {
	event := Event{OpType: "session.kill", ResourceType: "session", ResourceID: id}
	if id == "" {
		event.ResourceID = "-"
	}
	return a.change(ctx, by, event, func(w *work) error {
		actor, err := w.actor()
		if err != nil {
			return err
		}
		s, err := scanSession(w.tx.QueryRow(selectSessions+"WHERE id = $1", column(id)))
		if err != nil && !errors.Is(err, ErrNotFound) {
			return err
		}
		has, permissionErr := permissions(w.tx, actor.Name, s.Project, w.now)
		if permissionErr != nil {
			return permissionErr
		}
		allowed := by.unbound() || actor.SiteRole == SiteAdmin || actor.SiteRole == SiteSecurity ||
			err == nil && (actor.Name == s.User || has.Has(PermManage))
		if !allowed {
			return deny("role.missing", "There is no such session, or you may not end it.", "")
		}
		if err != nil {
			return fmt.Errorf("session %q: %w", id, ErrNotFound)
		}
		w.event.Project, w.event.Session = s.Project, s.ID
		if err := checkText("reason", reason, minNote); err != nil {
			return err
		}
		if !s.EndedAt.IsZero() {
			return deny("session.ended", "That session has ended already.", "")
		}
		_, err = w.tx.Exec("UPDATE sessions SET killed_at = $1, killed_by = $2, kill_reason = $3 WHERE id = $4",
			milliseconds(w.now), by.name(), reason, id)
		if err != nil {
			return err
		}
		return w.done(map[string]any{"user": s.User, "server": s.Server, "reason": reason})
	})
}

// SessionQuery selects sessions; zero fields do not narrow.
type SessionQuery struct {
	ID, User, Project, Server string // ID: S-…, its unique beginning, or the dense number
	Live                      bool
	Since, Until              time.Time // of the start; Until is exclusive
	Limit                     int       // the newest so many
}

// Sessions lists what the actor may see, oldest first: their own, those of projects they list or audit, all for
// a site auditor. Administrators and security administrators see also the live ones, which they
// may have to end, without what was run in them.
func (a *Authority) Sessions(ctx context.Context, by Actor, q SessionQuery) ([]Session, error) {
	var sessions []Session
	err := a.db.Read(ctx, func(tx database.Tx) error {
		scope, err := loadSessionScope(tx, by, a.now())
		if err != nil {
			return err
		}
		asker, f := scope.asker, &filter{}
		ends := by.unbound() || asker.SiteRole == SiteAdmin || asker.SiteRole == SiteSecurity
		if ends {
			scope.limit(f, "user_name", "ended_at = 0")
		} else {
			scope.limit(f, "user_name")
		}
		q.narrow(f, a.node)
		if sessions, err = loadSessions(tx, f, q.Limit); err != nil {
			return err
		}
		for i, s := range sessions {
			if ends && s.User != asker.Name && !slices.Contains(scope.projects, s.Project) {
				sessions[i].Command = ""
			}
		}
		return nil
	})
	return sessions, a.answer(ctx, by, Event{OpType: "session.list", ResourceType: "user", ResourceID: by.name()}, err)
}

// sessionScope is whose sessions an actor sees.
type sessionScope struct {
	asker    User     // a site auditor sees all, everyone their own
	projects []string // those that the asker lists or audits
}

func loadSessionScope(tx database.Tx, by Actor, now time.Time) (s sessionScope, err error) {
	if s.asker, err = loadActor(tx, by); err != nil {
		return s, err
	}
	members, err := loadMemberships(tx, "user_name = ?", s.asker.Name)
	for _, m := range members {
		if has, _ := m.Role.Permissions(); m.live(now) && has&(PermList|PermAudit) != 0 {
			s.projects = append(s.projects, m.Project)
		}
	}
	return s, err
}

// limit narrows a filter to the scope, and to what meets one of further conditions.
func (s sessionScope) limit(f *filter, userColumn string, further ...string) {
	if s.asker.SiteRole == SiteAuditor {
		return
	}
	conditions, args := append(further, userColumn+" = ?"), []any{s.asker.Name}
	for _, project := range s.projects {
		conditions, args = append(conditions, "project = ?"), append(args, project)
	}
	f.add("("+strings.Join(conditions, " OR ")+")", args...)
}

func (q SessionQuery) narrow(f *filter, node string) {
	if number, err := strconv.ParseInt(q.ID, 10, 64); err == nil {
		f.add("node = ? AND number = ?", node, number)
	} else if q.ID != "" {
		id := strings.ToUpper(column(q.ID))
		f.add("substr(id, 1, ?) = ?", int64(len([]rune(id))), id)
	}
	for _, c := range []struct{ condition, value string }{
		{"user_name = ?", q.User}, {"project = ?", q.Project}, {"server = ?", q.Server},
	} {
		if c.value != "" {
			f.add(c.condition, column(c.value))
		}
	}
	if q.Live {
		f.add("ended_at = 0")
	}
	if !q.Since.IsZero() {
		f.add("started_at >= ?", milliseconds(q.Since))
	}
	if !q.Until.IsZero() {
		f.add("started_at < ?", milliseconds(q.Until))
	}
}

// ViewRecording permits and records the reading of a sealed recording; a reason is required. Only site
// auditors and auditors of the session's project may read. purpose says what for: replay, export, verify. Once the
// epoch's key is destroyed nobody can, and a purpose other than verify is refused.
func (a *Authority) ViewRecording(ctx context.Context, by Actor, id, purpose, reason string) (Session, error) {
	return a.readSession(ctx, by, "recording.view", id, purpose, reason)
}

// WatchSession permits and records that somebody looks on while a session runs; a reason is required. The
// same people may as may read its recording later.
func (a *Authority) WatchSession(ctx context.Context, by Actor, id, reason string) (Session, error) {
	return a.readSession(ctx, by, "recording.watch", id, "watch", reason)
}

// readSession permits and records the reading of what was shown in a session.
func (a *Authority) readSession(ctx context.Context, by Actor, op, id, purpose, reason string) (Session, error) {
	var s Session
	event := Event{OpType: op, ResourceType: "session", ResourceID: id}
	if id == "" {
		event.ResourceID = "-"
	}
	err := a.change(ctx, by, event, func(w *work) error {
		actor, err := w.actor()
		if err != nil {
			return err
		}
		s, err = scanSession(w.tx.QueryRow(selectSessions+"WHERE id = $1", column(id)))
		if err != nil && !errors.Is(err, ErrNotFound) {
			return err
		}
		known := err == nil
		has, err := permissions(w.tx, actor.Name, s.Project, w.now)
		if err != nil {
			return err
		}
		if known {
			w.event.Project, w.event.Session = s.Project, s.ID
		}
		if !known || actor.SiteRole != SiteAuditor && !has.Has(PermAudit) {
			return deny("recording.not-auditor", "There is no such session, or you are no auditor of its project.",
				fmt.Sprintf("the session exists: %t", known))
		}
		if err := errors.Join(checkText("reason", reason, minNote), checkText("purpose", purpose, 1)); err != nil {
			return err
		}
		if err := w.readable(s, purpose); err != nil {
			return err
		}
		_, err = w.record(map[string]any{"user": s.User, "purpose": purpose, "reason": reason})
		return err
	})
	if err != nil {
		return Session{}, err
	}
	return s, nil
}

// KeepWatching answers whether somebody who watches a session, permitted by WatchSession, may go on: nil, or a
// *Refusal. It is asked again and again, so it makes no event; EndWatch does.
func (a *Authority) KeepWatching(ctx context.Context, id Identity, session string) error {
	err := a.db.Watch(ctx, func(tx database.Tx) error {
		now := a.now()
		if err := loginAllowed(tx, id, now, false); err != nil {
			return err
		}
		actor, err := loadUser(tx, id.User)
		if err != nil {
			return err
		}
		s, err := scanSession(tx.QueryRow(selectSessions+"WHERE id = $1", column(session)))
		if err != nil {
			return err
		}
		has, err := permissions(tx, actor.Name, s.Project, now)
		if err != nil {
			return err
		}
		if actor.SiteRole != SiteAuditor && !has.Has(PermAudit) {
			return deny("recording.not-auditor", "You are no auditor of this session's project any more.", "")
		}
		return nil
	})
	var d *denial
	if errors.As(err, &d) {
		return refusal(d.rule, d.sentence, d.cause)
	}
	if err != nil {
		return fmt.Errorf("ask again about the watching of %s: %w", session, err)
	}
	return nil
}

// EndWatch records that the watching of a session was ended, and why: the refusal of KeepWatching, or another error.
func (a *Authority) EndWatch(ctx context.Context, by Actor, s Session, cause error) *Refusal {
	r := refusal("watch.unsure", "The gate cannot see any more whether you may look on, and ends it.", fmt.Sprint(cause))
	_ = errors.As(cause, &r) // else the rule above stands
	return a.Refuse(ctx, Event{UserID: by.name(), RemoteAddr: by.address(), Connection: by.Connection, OpType: "recording.watch",
		ResourceType: "session", ResourceID: s.ID, Project: s.Project, Session: s.ID}, r.Rule, r.Sentence, r.Cause)
}
