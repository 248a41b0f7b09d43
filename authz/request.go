package authz

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"sallyport/internal/database"
)

// RequestKind is what a request asks for.
type RequestKind string

// RequestSession asks for an operator's session on a data server.
const RequestSession RequestKind = "session"

// Level is one step of a flow: who may vote, and how many must say yes.
type Level struct {
	Name     string   `json:"name"`
	Eligible Role     `json:"eligible,omitempty"`      // members of the project with this role, or
	Site     SiteRole `json:"eligible_site,omitempty"` // people with this site role
	Quorum   int      `json:"quorum"`
}

// Request is what waits for levels of approval.
type Request struct {
	ID         string       `json:"id"`     // R-…
	Number     int64        `json:"number"` // small number for people
	Kind       RequestKind  `json:"kind"`
	User       string       `json:"user"` // requester and beneficiary
	Project    string       `json:"project"`
	Server     string       `json:"server"`
	Reason     string       `json:"reason"`
	State      string       `json:"state"`  // pending, approved, denied, cancelled, expired, used
	Digest     string       `json:"digest"` // SHA-256 of the canonical subject; votes bind to it
	Levels     []LevelState `json:"levels"`
	Level      int          `json:"level"` // index of the level that is open, len(Levels) when done
	CreatedAt  time.Time    `json:"created_at"`
	ExpiresAt  time.Time    `json:"expires_at"` // pending ends
	GrantFrom  time.Time    `json:"grant_from,omitzero"`
	GrantUntil time.Time    `json:"grant_until,omitzero"`
	UsesLeft   int          `json:"uses_left"`
	Sessions   []string     `json:"sessions,omitempty"` // S-… that used the grant

	account string
	version int64
	window  time.Duration
}

// LevelState is a level of a request with who may still vote and who did.
type LevelState struct {
	Level
	Eligible []string `json:"eligible_people"`
	Votes    []Vote   `json:"votes"`
}

// States of a request.
const (
	requestPending   = "pending"
	requestApproved  = "approved"
	requestDenied    = "denied"
	requestCancelled = "cancelled"
	requestExpired   = "expired"
	requestUsed      = "used"
)

const (
	requestLifetime = 24 * time.Hour // how long a request waits for votes
	grantUses       = 1
	maxPending      = 10 // requests of one person that wait at once
)

const selectRequests = `SELECT id, number, version, kind, user_name, project, server, account, reason, state, digest, levels,
	level, grant_window, created_at, expires_at, grant_from, grant_until, uses_left FROM requests `

// scanRequest reads a request's row; people, votes and sessions are added by complete.
func scanRequest(row database.Scanner, now time.Time) (Request, error) {
	var (
		r                                     Request
		levels                                string
		window, created, expires, from, until int64
	)
	err := row.Scan(&r.ID, &r.Number, &r.version, &r.Kind, &r.User, &r.Project, &r.Server, &r.account, &r.Reason, &r.State,
		&r.Digest, &levels, &r.Level, &window, &created, &expires, &from, &until, &r.UsesLeft)
	if errors.Is(err, sql.ErrNoRows) {
		return Request{}, ErrNotFound
	}
	if err != nil {
		return Request{}, fmt.Errorf("load a request: %w", err)
	}
	var flow []Level
	if err := json.Unmarshal([]byte(levels), &flow); err != nil {
		return Request{}, fmt.Errorf("load request %s: %w", r.ID, err)
	}
	for _, level := range flow {
		r.Levels = append(r.Levels, LevelState{Level: level, Eligible: []string{}, Votes: []Vote{}})
	}
	r.window = time.Duration(window) * time.Millisecond
	r.CreatedAt, r.ExpiresAt = fromMilliseconds(created), fromMilliseconds(expires)
	r.GrantFrom, r.GrantUntil = fromMilliseconds(from), fromMilliseconds(until)
	// What ran out is over, whether or not Poll has written it down yet.
	if r.State == requestPending && !now.Before(r.ExpiresAt) || r.State == requestApproved && !now.Before(r.GrantUntil) {
		r.State = requestExpired
	}
	return r, nil
}

// loadRequest finds a request by its id or number, with people, votes and sessions.
func loadRequest(tx database.Tx, id string, now time.Time) (Request, error) {
	condition, key := "WHERE id = $1", any(strings.ToUpper(column(id)))
	if number, err := strconv.ParseInt(id, 10, 64); err == nil {
		condition, key = "WHERE number = $1", number
	}
	r, err := scanRequest(tx.QueryRow(selectRequests+condition, key), now)
	if err != nil {
		return Request{}, err
	}
	return r, r.complete(tx, now)
}

// complete loads who voted, who may still vote, and which sessions used the grant.
func (r *Request) complete(tx database.Tx, now time.Time) error {
	err := tx.Each(func(row database.Scanner) error {
		var (
			v  Vote
			at int64
		)
		if err := row.Scan(&v.User, &v.Level, &v.Approve, &v.Comment, &v.Digest, &at); err != nil {
			return err
		}
		v.At = fromMilliseconds(at)
		if v.Level < 0 || v.Level >= len(r.Levels) {
			return fmt.Errorf("request %s has a vote on level %d", r.ID, v.Level)
		}
		r.Levels[v.Level].Votes = append(r.Levels[v.Level].Votes, v)
		return nil
	}, "SELECT user_name, level, approve, comment_text, digest, voted_at FROM votes WHERE request = $1 ORDER BY voted_at", r.ID)
	if err != nil {
		return err
	}
	for i := range r.Levels {
		eligible, err := eligiblePeople(tx, r.Levels[i].Level, r.Project, r.User, now)
		if err != nil {
			return err
		}
		for _, person := range eligible {
			if !r.voted(person) {
				r.Levels[i].Eligible = append(r.Levels[i].Eligible, person)
			}
		}
	}
	return tx.Each(func(row database.Scanner) error {
		var session string
		err := row.Scan(&session)
		r.Sessions = append(r.Sessions, session)
		return err
	}, "SELECT id FROM sessions WHERE request = $1 ORDER BY started_at", r.ID)
}

func (r *Request) voted(person string) bool {
	return slices.ContainsFunc(r.Levels, func(l LevelState) bool {
		return slices.ContainsFunc(l.Votes, func(v Vote) bool { return v.User == person })
	})
}

// subject is exactly what a vote is for. Its canonical JSON is hashed.
type subject struct {
	Kind    RequestKind `json:"kind"`
	User    string      `json:"user"`
	Project string      `json:"project"`
	Server  string      `json:"server"`
	Account string      `json:"account"`
	Address string      `json:"address"`
	HostKey string      `json:"host_key"`
	HostCA  string      `json:"host_ca"`
	Reason  string      `json:"reason"`
	Uses    int         `json:"uses"`
	Window  int64       `json:"window_seconds"`
	Created time.Time   `json:"created"`
}

// digest is that of a request for a session on what is now the server of that name; a change of the
// server ends the request (see endRequests).
func (r *Request) digest(to Route) (string, error) {
	text, err := canonicalJSON(subject{r.Kind, r.User, r.Project, r.Server, r.account, to.Address, to.HostKey, to.HostCA,
		r.Reason, grantUses, int64(r.window / time.Second), r.CreatedAt})
	if err != nil {
		return "", err
	}
	hash := sha256.Sum256(text)
	return hex.EncodeToString(hash[:]), nil
}

func requestEvent(opType, id string) Event {
	if id == "" {
		id = "-"
	}
	return Event{OpType: opType, ResourceType: "request", ResourceID: id}
}

// CreateRequest opens a request of kind session for the identity's person. It is refused when a
// level has no eligible quorum, and says who is missing.
func (a *Authority) CreateRequest(ctx context.Context, by Actor, project, server, reason string) (Request, error) {
	var r Request
	event := serverEvent("request.create", project, server)
	err := a.change(ctx, by, event, func(w *work) error {
		if _, err := w.actor(); err != nil {
			return err
		}
		p, d, err := w.mayRequest(project, server)
		if err != nil {
			return err
		}
		if err := checkText("reason", reason, MinReason); err != nil {
			return err
		}
		r = Request{Kind: RequestSession, User: by.User, Project: p.Name, Server: d.Route.Server, Reason: reason,
			State: requestPending, CreatedAt: w.now, ExpiresAt: w.now.Add(requestLifetime),
			account: d.Route.Account, window: p.GrantWindow}
		if err := w.checkQuorums(p, by.User); err != nil {
			return err
		}
		if err := w.insertRequest(&r, p, d.Route); err != nil {
			return err
		}
		w.event.ResourceType, w.event.ResourceID = "request", r.ID
		if err := w.done(map[string]any{"number": r.Number, "kind": r.Kind, "server": r.Server, "account": r.account,
			"address": d.Route.Address, "reason": reason, "digest": r.Digest, "levels": p.Levels, "expires": r.ExpiresAt}); err != nil {
			return err
		}
		r, err = loadRequest(w.tx, r.ID, w.now)
		return err
	})
	if err != nil {
		return Request{}, err
	}
	return r, nil
}

// mayRequest denies a request that would open nothing. It gives away no more about projects than Decide does.
func (w *work) mayRequest(project, server string) (Project, Decision, error) {
	l := &loader{tx: w.tx, now: w.now, node: w.a.node, users: map[string]*User{}, access: map[[2]string]*snapshot{},
		grants: map[string]*grant{}, keys: map[[2]string]bool{}}
	ask := Ask{Identity: Identity{User: w.by.User}, Project: project, Server: server, Action: ActionShell, PTY: true}
	s, err := l.snapshot(ask)
	if err != nil {
		return Project{}, Decision{}, err
	}
	if s.project != nil {
		w.event.Project = s.project.Name
	}
	s.hypothetical = true // the login's factors and address are asked about when the session begins
	d := decide(ask, s)
	switch d.Outcome {
	case Wait:
		return *s.project, d, nil
	case Allow:
		return Project{}, Decision{}, deny("request.needless", "Your role needs no approval there: just connect.", "")
	}
	return Project{}, Decision{}, deny(d.Refusal.Rule, d.Refusal.Sentence, d.Refusal.Cause)
}

func (w *work) insertRequest(r *Request, p Project, to Route) error {
	var pending int64
	err := w.tx.QueryRow("SELECT COUNT(*) FROM requests WHERE user_name = $1 AND state = 'pending' AND expires_at > $2",
		r.User, milliseconds(w.now)).Scan(&pending)
	if err != nil {
		return err
	}
	if pending >= maxPending {
		return deny("request.too-many", fmt.Sprintf("You have %d requests waiting: cancel one first.", pending), "")
	}
	if r.ID, err = w.a.newID("R-", w.now); err != nil {
		return err
	}
	if r.Digest, err = r.digest(to); err != nil {
		return err
	}
	levels, err := json.Marshal(p.Levels)
	if err != nil {
		return err
	}
	err = w.tx.QueryRow("UPDATE counters SET value = value + 1 WHERE name = 'request' RETURNING value").Scan(&r.Number)
	if err != nil {
		return err
	}
	_, err = w.tx.Exec(`INSERT INTO requests (id, number, version, kind, user_name, project, server, account, reason, state,
			digest, levels, level, grant_window, created_at, expires_at, grant_from, grant_until, uses_left)
		VALUES ($1, $2, 1, $3, $4, $5, $6, $7, $8, $9, $10, $11, 0, $12, $13, $14, 0, 0, 0)`,
		r.ID, r.Number, string(r.Kind), r.User, r.Project, r.Server, r.account, r.Reason, r.State, r.Digest, string(levels),
		r.window.Milliseconds(), milliseconds(r.CreatedAt), milliseconds(r.ExpiresAt))
	return err
}

// request loads the request that an act is about. What the actor may not know of looks like nothing.
func (w *work) request(id string) (Request, error) {
	r, err := loadRequest(w.tx, id, w.now)
	if err != nil {
		return Request{}, fmt.Errorf("request %q: %w", column(id), err)
	}
	sees, err := r.seenBy(w.tx, w.by, w.now)
	if err != nil {
		return Request{}, err
	}
	if !sees {
		return Request{}, ErrNotFound
	}
	w.event.Project, w.event.ResourceID = r.Project, r.ID
	return r, nil
}

// concerns reports whether the person made the request, voted on it or may vote on it.
func (r *Request) concerns(person string) bool {
	return r.User == person || r.voted(person) || slices.ContainsFunc(r.Levels, func(l LevelState) bool {
		return slices.Contains(l.Eligible, person)
	})
}

// seenBy reports whether the actor may know of the request: whom it concerns, people with a site role,
// and those who list the project.
func (r *Request) seenBy(tx database.Tx, by Actor, now time.Time) (bool, error) {
	asker, err := loadActor(tx, by)
	if err != nil || by.unbound() || asker.SiteRole != NoSiteRole || r.concerns(asker.Name) {
		return err == nil, err
	}
	has, err := permissions(tx, asker.Name, r.Project, now)
	return has&(PermList|PermAudit) != 0, err
}

// move changes a request's row if nobody else changed it since it was loaded.
func (w *work) move(r *Request) error {
	n, err := w.tx.Exec(`UPDATE requests SET state = $1, level = $2, grant_from = $3, grant_until = $4, uses_left = $5,
		version = version + 1 WHERE id = $6 AND version = $7`, r.State, int64(r.Level), milliseconds(r.GrantFrom),
		milliseconds(r.GrantUntil), int64(r.UsesLeft), r.ID, r.version)
	if err != nil {
		return err
	}
	if n != 1 {
		return errors.New("the request changed meanwhile")
	}
	r.version++
	return nil
}

// CancelRequest withdraws a request that waits, or a grant that was given; a session under it ends.
// The requester may do it, a manager of the project, and a security administrator.
func (a *Authority) CancelRequest(ctx context.Context, by Actor, id, reason string) (Request, error) {
	var r Request
	err := a.change(ctx, by, requestEvent("request.cancel", id), func(w *work) error {
		actor, err := w.actor()
		if err != nil {
			return err
		}
		if r, err = w.request(id); err != nil {
			return err
		}
		has, err := permissions(w.tx, actor.Name, r.Project, w.now)
		if err != nil {
			return err
		}
		own := actor.Name == r.User
		if !own && !has.Has(PermManage) && actor.SiteRole != SiteSecurity {
			return deny("role.missing", "Only the requester, a manager of the project or a security administrator may cancel it.", "")
		}
		least := minNote
		if own {
			least = 0
		}
		if err := checkText("reason", reason, least); err != nil {
			return err
		}
		switch r.State {
		case requestPending, requestApproved, requestUsed:
		default:
			return deny("request.over", fmt.Sprintf("Request %d is %s already.", r.Number, r.State), "")
		}
		before := r.State
		r.State, r.UsesLeft = requestCancelled, 0
		if err := w.move(&r); err != nil {
			return err
		}
		return w.done(map[string]any{"number": r.Number, "before": before, "reason": reason})
	})
	if err != nil {
		return Request{}, err
	}
	return r, nil
}

// endRequests ends what waits or is granted for a server that is no longer the one that was asked
// for and voted on. Sessions that run are none of its business.
func (w *work) endRequests(project, server, reason string) error {
	type ended struct {
		id     string
		number int64
	}
	var all []ended
	err := w.tx.Each(func(row database.Scanner) error {
		var e ended
		err := row.Scan(&e.id, &e.number)
		all = append(all, e)
		return err
	}, `UPDATE requests SET state = 'cancelled', uses_left = 0, version = version + 1
		WHERE project = $1 AND server = $2 AND state IN ('pending', 'approved') RETURNING id, number`, project, server)
	if err != nil {
		return err
	}
	for _, e := range all {
		event := w.event
		event.OpType, event.ResourceType, event.ResourceID = "request.cancel", "request", e.id
		event.Details = map[string]any{"number": e.number, "server": server, "reason": reason}
		if _, err := w.recordEvent(event); err != nil {
			return err
		}
	}
	return nil
}

// Request returns one request that the actor may see.
func (a *Authority) Request(ctx context.Context, by Actor, id string) (Request, error) {
	var r Request
	err := a.db.Read(ctx, func(tx database.Tx) (err error) {
		w := &work{tx: tx, a: a, now: a.now(), by: by}
		r, err = w.request(id)
		return err
	})
	if err := a.answer(ctx, by, requestEvent("request.show", id), err); err != nil {
		return Request{}, err
	}
	return r, nil
}

// Requests lists what the actor made or may vote on, and what they may see by their role; all true
// includes ended ones. Oldest first.
func (a *Authority) Requests(ctx context.Context, by Actor, all bool) ([]Request, error) {
	var requests []Request
	err := a.db.Read(ctx, func(tx database.Tx) error {
		requests = nil
		var rows []Request
		now := a.now()
		query := selectRequests + "ORDER BY number"
		if !all {
			query = selectRequests + "WHERE state IN ('pending', 'approved') ORDER BY number"
		}
		err := tx.Each(func(row database.Scanner) error {
			r, err := scanRequest(row, now)
			rows = append(rows, r)
			return err
		}, query)
		if err != nil {
			return err
		}
		for _, r := range rows {
			if !all && r.State != requestPending && r.State != requestApproved {
				continue
			}
			if err := r.complete(tx, now); err != nil {
				return err
			}
			sees, err := r.seenBy(tx, by, now)
			if err != nil {
				return err
			}
			if sees {
				requests = append(requests, r)
			}
		}
		return nil
	})
	return requests, a.answer(ctx, by, requestEvent("request.list", ""), err)
}

// overdueRequests are those that Poll must end.
func overdueRequests(tx database.Tx, now time.Time) (ids []string, err error) {
	err = tx.Each(func(row database.Scanner) error {
		var id string
		err := row.Scan(&id)
		ids = append(ids, id)
		return err
	}, `SELECT id FROM requests WHERE state = 'pending' AND expires_at <= $1
		OR state = 'approved' AND grant_until <= $2`, milliseconds(now), milliseconds(now))
	return ids, err
}

// expireRequest ends a request that waited too long, unless another node did.
func (a *Authority) expireRequest(ctx context.Context, id string) error {
	return a.commit(ctx, func(w *work) error {
		var number int64
		var project string
		err := w.tx.QueryRow(`UPDATE requests SET state = 'expired', uses_left = 0, version = version + 1 WHERE id = $1
			AND (state = 'pending' AND expires_at <= $2 OR state = 'approved' AND grant_until <= $3)
			RETURNING number, project`, id, milliseconds(w.now), milliseconds(w.now)).Scan(&number, &project)
		if errors.Is(err, sql.ErrNoRows) {
			return nil
		}
		if err != nil {
			return err
		}
		w.event = requestEvent("request.expire", id)
		w.event.UserID, w.event.RemoteAddr, w.event.Project = "system", "-", project
		return w.done(map[string]any{"number": number})
	})
}
