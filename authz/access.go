package authz

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"sallyport/internal/database"
)

// loader loads snapshots inside one read and remembers what many of them share.
type loader struct {
	tx     database.Tx
	now    time.Time
	node   string
	terms  *string
	users  map[string]*User
	access map[[2]string]*snapshot // by person and project
	grants map[string]*grant
	keys   map[[2]string]bool
	live   map[string]*liveRow
}

func (a *Authority) loader(tx database.Tx) *loader {
	return &loader{tx: tx, now: a.now(), node: a.node, users: map[string]*User{}, access: map[[2]string]*snapshot{},
		grants: map[string]*grant{}, keys: map[[2]string]bool{}}
}

func (l *loader) user(name string) (*User, error) {
	if u, ok := l.users[name]; ok {
		return u, nil
	}
	u, err := loadUser(l.tx, name)
	switch {
	case errors.Is(err, ErrNotFound):
		l.users[name] = nil
		return nil, nil
	case err != nil:
		return nil, err
	}
	l.users[name] = &u
	return &u, nil
}

// shared loads what all sessions of a person in a project have in common.
func (l *loader) shared(user, project string) (*snapshot, error) {
	at := [2]string{user, project}
	if s, ok := l.access[at]; ok {
		return s, nil
	}
	s := &snapshot{now: l.now}
	var err error
	if s.user, err = l.user(user); err != nil {
		return nil, err
	}
	if l.terms == nil {
		version, _, err := loadTerms(l.tx)
		if err != nil {
			return nil, err
		}
		l.terms = &version
	}
	s.termsVersion = *l.terms
	if s.user != nil {
		if err := l.sharedProject(s, user, project); err != nil {
			return nil, err
		}
	}
	l.access[at] = s
	return s, nil
}

func (l *loader) sharedProject(s *snapshot, user, project string) error {
	p, err := loadProject(l.tx, project)
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	s.project = &p
	if s.members, err = loadMemberships(l.tx, "user_name = ? AND project = ?", user, p.Name); err != nil {
		return err
	}
	if s.servers, err = loadServers(l.tx, p.Name); err != nil {
		return err
	}
	_, err = loadCurrentEpoch(l.tx, p.Name, l.now)
	s.hasEpoch = err == nil
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	return err
}

// snapshot loads what one Ask depends on.
func (l *loader) snapshot(ask Ask) (*snapshot, error) {
	shared, err := l.shared(ask.Identity.User, ask.Project)
	if err != nil {
		return nil, err
	}
	s := *shared
	if fingerprint := ask.Identity.Fingerprint; fingerprint != "" {
		at := [2]string{ask.Identity.User, fingerprint}
		live, ok := l.keys[at]
		if !ok {
			if live, err = keyLive(l.tx, ask.Identity.User, fingerprint); err != nil {
				return nil, err
			}
			l.keys[at] = live
		}
		s.keyLive = live
	}
	if ask.Request != "" {
		if s.grant, err = l.grant(ask.Request); err != nil {
			return nil, err
		}
	}
	if ask.Session != "" {
		if l.live == nil {
			if l.live, err = loadLive(l.tx, l.node); err != nil {
				return nil, err
			}
		}
		s.live = l.live[ask.Session]
	}
	return &s, nil
}

func (l *loader) grant(id string) (*grant, error) {
	if g, ok := l.grants[id]; ok {
		return g, nil
	}
	g, err := loadGrant(l.tx, id)
	if errors.Is(err, ErrNotFound) {
		g, err = nil, nil
	}
	if err != nil {
		return nil, err
	}
	l.grants[id] = g
	return g, nil
}

// askEvent begins the event of a decision.
func askEvent(ask Ask, opType string, s *snapshot) Event {
	e := ask.Identity.event(opType)
	e.ResourceType, e.ResourceID = "server", ask.Project+"/"+ask.Server
	if ask.Server == "" {
		e.ResourceType, e.ResourceID = "project", ask.Project
	}
	if e.ResourceID == "" {
		e.ResourceID = "-"
	}
	if s != nil && s.project != nil {
		e.Project = s.project.Name // an auditor of the project sees also who tried in vain
	}
	e.Session = ask.Session
	e.Details = map[string]any{"project": ask.Project, "server": ask.Server, "action": ask.Action}
	if ask.Request != "" {
		e.Details["request"] = ask.Request
	}
	if ask.Action == ActionShell {
		e.Details["pty"] = ask.PTY
	}
	commandDetail(e.Details, ask.Command, ask.Command != "" && s != nil && s.project != nil && s.project.SealCommands)
	return e
}

// Decide answers an Ask and records the decision as an event. An error means that no answer
// could be had; the caller must treat it as a refusal.
func (a *Authority) Decide(ctx context.Context, ask Ask) (Decision, error) {
	var s *snapshot
	err := a.db.Watch(ctx, func(tx database.Tx) (err error) {
		s, err = a.loader(tx).snapshot(ask)
		return err
	})
	if err != nil {
		return Decision{}, fmt.Errorf("decide: %w", err)
	}
	d := decide(ask, s)
	if d.Outcome == Refuse {
		r := d.Refusal
		d.Refusal = a.Refuse(ctx, askEvent(ask, "decision.refuse", s), r.Rule, r.Sentence, r.Cause)
		return d, nil
	}
	event := askEvent(ask, "decision."+d.Outcome.String(), s)
	event.ResourceType, event.ResourceID = "server", d.Route.Project+"/"+d.Route.Server
	event.Details["rule"], event.Details["role"], event.Details["account"] = d.Rule, d.Route.Role, d.Route.Account
	event.Details["server"] = d.Route.Server
	if d.Obligations.Grant != "" {
		event.Details["grant"] = d.Obligations.Grant
	}
	if _, err := a.Record(ctx, event); err != nil {
		return Decision{}, fmt.Errorf("decide: %w", err)
	}
	return d, nil
}

// LiveSession is a session to be decided again.
type LiveSession struct {
	Session string
	Ask     Ask
}

// Recheck decides live sessions again. It returns a refusal for each session that must end now
// (killed ones included), and the time at which the next of the others ends by itself (zero: none
// known). New terms and an expired epoch key hold for what begins, and end no session.
//
// It records nothing and never waits for the ledger: the caller ends the sessions and then calls
// RecordCuts. Each refusal has the reference already that its event will have.
func (a *Authority) Recheck(ctx context.Context, live []LiveSession) (end map[string]*Refusal, next time.Time, err error) {
	err = a.db.Watch(ctx, func(tx database.Tx) error {
		end, next = map[string]*Refusal{}, time.Time{}
		l := a.loader(tx)
		for _, session := range live {
			ask := session.Ask
			ask.Session = session.Session
			s, err := l.snapshot(ask)
			if err != nil {
				return err
			}
			d := decide(ask, s)
			switch {
			case d.Outcome == Allow:
				next = earliest(next, d.Until)
			case d.Refusal != nil:
				end[session.Session] = d.Refusal
			default:
				end[session.Session] = refusal("decision.changed", "Your access has changed and needs a new login.", d.Outcome.String())
			}
		}
		return nil
	})
	now := a.now()
	for _, r := range end {
		if err == nil {
			r.Reference, err = a.newID("E-", now)
		}
	}
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("decide live sessions again: %w", err)
	}
	return end, next, nil
}

// NewCut is the end of a session that the node itself decides on, to be recorded by RecordCuts.
func (a *Authority) NewCut(rule, sentence string) *Refusal {
	r := refusal(rule, sentence, "")
	if id, err := a.newID("E-", a.now()); err == nil { // without one the person is told all the same
		r.Reference = id
	}
	return r
}

// RecordCuts records the refusals of one Recheck, or of NewCut, all in one transaction and under
// their references; those that are recorded already are left alone, so that it can be tried again.
// The sessions have been told to end.
func (a *Authority) RecordCuts(ctx context.Context, live []LiveSession, end map[string]*Refusal) error {
	if len(end) == 0 {
		return nil
	}
	err := a.commit(ctx, func(w *work) error {
		for _, session := range live {
			r := end[session.Session]
			if r == nil || r.Reference == "" {
				continue
			}
			var known int64
			if err := w.tx.QueryRow("SELECT COUNT(*) FROM events WHERE id = $1", r.Reference).Scan(&known); err != nil {
				return err
			}
			if known > 0 {
				continue
			}
			ask := session.Ask
			ask.Session = session.Session
			e := askEvent(ask, "session.cut", nil)
			e.ID, e.Project, e.Result = r.Reference, ask.Project, ResultRefused
			e.Details = r.details(e.Details)
			if _, err := w.recordEvent(e); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("record the end of sessions: %w", err)
	}
	return nil
}

// RouteChoice is one place that a person can go to, or the sentence why not.
type RouteChoice struct {
	Project string   `json:"project"`
	Title   string   `json:"title"`
	Server  string   `json:"server"`
	Role    Role     `json:"role"`
	Allowed []Action `json:"allowed"`
	Waiting []Action `json:"waiting_for_approval,omitempty"`
	// WhyNot is set when nothing is allowed here and nothing can be waited for.
	WhyNot string    `json:"why_not,omitempty"`
	Until  time.Time `json:"until,omitzero"`
}

// routedActions are the actions that a route can be for.
var routedActions = [...]Action{ActionShell, ActionExec, ActionSFTP}

// Routes lists where the person can go, in the order of project and server names, including
// memberships that exist and do not open the way now, with the reason.
func (a *Authority) Routes(ctx context.Context, id Identity) ([]RouteChoice, error) {
	var choices []RouteChoice
	err := a.db.Read(ctx, func(tx database.Tx) (err error) {
		choices, err = a.loader(tx).routes(id, false, nil)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("routes: %w", err)
	}
	return choices, nil
}

// routes decides for each server of each project that the person is or was a member of. only, when
// it is not nil, says which projects count.
func (l *loader) routes(id Identity, hypothetical bool, only func(project string) bool) ([]RouteChoice, error) {
	members, err := loadMemberships(l.tx, "user_name = ?", column(id.User))
	if err != nil {
		return nil, err
	}
	var projects []string
	for _, m := range members {
		if only == nil || only(m.Project) {
			projects = append(projects, m.Project)
		}
	}
	slices.Sort(projects)
	var choices []RouteChoice
	for _, project := range slices.Compact(projects) {
		shared, err := l.shared(id.User, project)
		if err != nil {
			return nil, err
		}
		servers := []string{""}
		if len(shared.servers) > 0 {
			servers = servers[:0]
			for _, server := range shared.servers {
				servers = append(servers, server.Name)
			}
		}
		for _, server := range servers {
			choice, err := l.route(Ask{Identity: id, Project: project, Server: server}, hypothetical)
			if err != nil {
				return nil, err
			}
			choices = append(choices, choice)
		}
	}
	return choices, nil
}

// route decides every action for one server.
func (l *loader) route(ask Ask, hypothetical bool) (RouteChoice, error) {
	s, err := l.snapshot(ask)
	if err != nil {
		return RouteChoice{}, err
	}
	if s.hypothetical = hypothetical; hypothetical {
		s.keyLive = true
	}
	choice := RouteChoice{Project: ask.Project, Server: ask.Server, Allowed: []Action{}}
	if s.project != nil && len(s.members) > 0 {
		choice.Title = s.project.Title
		choice.Role = s.members[len(s.members)-1].Role
	}
	for _, action := range routedActions {
		ask.Action, ask.PTY = action, action == ActionShell
		d := decide(ask, s)
		switch d.Outcome {
		case Allow:
			choice.Allowed = append(choice.Allowed, action)
		case Wait:
			choice.Waiting = append(choice.Waiting, action)
		default:
			if choice.WhyNot == "" {
				choice.WhyNot = d.Refusal.Sentence // that of the shell says most
			}
			continue
		}
		// An action that is open says more of the person's role than one that waits.
		if len(choice.Allowed)+len(choice.Waiting) == 1 || d.Outcome == Allow && len(choice.Allowed) == 1 {
			choice.Role, choice.Until = d.Route.Role, d.Until
		}
	}
	if len(choice.Allowed)+len(choice.Waiting) > 0 {
		choice.WhyNot = ""
	}
	return choice, nil
}

// Explain is Routes for another person (administrators, the project's managers and auditors) or
// oneself; server narrows to "project/server" or "project" when it is not empty. It records no decision.
// It takes the login for granted: two factors and, for another person, an address that the project accepts.
func (a *Authority) Explain(ctx context.Context, by Actor, user, server string) ([]RouteChoice, error) {
	project, server, _ := strings.Cut(server, "/")
	var choices []RouteChoice
	err := a.db.Read(ctx, func(tx database.Tx) error {
		allowed, err := a.mayExplain(tx, by, user)
		if err != nil {
			return err
		}
		if project != "" && !allowed(project) {
			return deny("role.missing", "You may not see that person's access to that project.", "")
		}
		if _, err := loadUser(tx, user); err != nil {
			return err
		}
		id := Identity{User: user}
		if address, err := netip.ParseAddr(by.RemoteAddr); err == nil && by.User == user {
			id.RemoteAddr = netip.AddrPortFrom(address, 0)
		}
		l := a.loader(tx)
		all, err := l.routes(id, true, allowed)
		if err != nil {
			return err
		}
		choices = narrow(all, project, server)
		if project != "" && len(choices) == 0 {
			choice, err := l.route(Ask{Identity: id, Project: project, Server: server}, true)
			choices = []RouteChoice{choice}
			return err
		}
		return nil
	})
	return choices, a.answer(ctx, by, a.userEvent("access.explain", user), err)
}

func narrow(choices []RouteChoice, project, server string) []RouteChoice {
	if project == "" {
		return choices
	}
	return slices.DeleteFunc(choices, func(c RouteChoice) bool {
		return c.Project != project || server != "" && c.Server != server
	})
}

// mayExplain denies an actor who may see nobody's access but their own, and says for which projects
// they may see the person's.
func (a *Authority) mayExplain(tx database.Tx, by Actor, user string) (func(project string) bool, error) {
	asker, err := loadActor(tx, by)
	if err != nil {
		return nil, err
	}
	if by.unbound() || asker.Name == user || asker.SiteRole != NoSiteRole {
		return func(string) bool { return true }, nil
	}
	members, err := loadMemberships(tx, "user_name = ?", asker.Name)
	if err != nil {
		return nil, err
	}
	var projects []string
	for _, m := range members {
		if has, _ := m.Role.Permissions(); m.live(a.now()) && has&(PermManage|PermAudit) != 0 {
			projects = append(projects, m.Project)
		}
	}
	if len(projects) == 0 {
		return nil, deny("role.missing", "You may see only your own access.", "")
	}
	return func(project string) bool { return slices.Contains(projects, project) }, nil
}
