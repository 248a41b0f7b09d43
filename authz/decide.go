package authz

import (
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// snapshot is everything that a decision depends on, loaded in one consistent read.
type snapshot struct {
	now          time.Time
	user         *User // nil: unknown
	keyLive      bool  // the identity's key is registered for the user
	termsVersion string
	project      *Project     // nil: unknown
	members      []Membership // of this person in this project, oldest first
	servers      []Server     // of the project, by name
	hasEpoch     bool
	grant        *grant // of Ask.Request, when it exists
	live         *liveRow
	// hypothetical leaves out what only a connection has: factors and address. It is how access is
	// explained for somebody who is not there.
	hypothetical bool
}

// grant is what an approved request allows.
type grant struct {
	id, user, project, server string
	account                   string // that was voted on
	state                     string
	from, until               time.Time
	usesLeft                  int64
	usedBy                    []string // sessions
}

// liveRow is the row of a session that is decided again.
type liveRow struct {
	account            string
	killed             bool
	killedBy, killNote string
}

// Sentences that are told in more than one place.
const (
	sentenceNoAccess = "You have no access to a project of that name."
	sentenceOneWay   = "File transfer is open only to exporters on this gate: transfer in one direction only is not available yet."
)

// rules are asked in this order. The first that objects decides.
var rules = [...]func(ask Ask, s *snapshot) *Refusal{
	ruleUser, ruleKilled, ruleFactors, ruleTerms, ruleMember, ruleTraining, rulePeriod, ruleNetwork, ruleAssurance,
	ruleServer, ruleEpoch,
}

// decide answers an Ask from a snapshot alone.
func decide(ask Ask, s *snapshot) Decision {
	for _, rule := range rules {
		if refusal := rule(ask, s); refusal != nil {
			return Decision{Outcome: Refuse, Rule: refusal.Rule, Refusal: refusal}
		}
	}
	return decideAction(ask, s)
}

func refusal(rule, sentence, cause string) *Refusal {
	return &Refusal{Rule: rule, Sentence: sentence, Cause: cause}
}

func refused(rule, sentence, cause string) Decision {
	return Decision{Outcome: Refuse, Rule: rule, Refusal: refusal(rule, sentence, cause)}
}

func ruleUser(ask Ask, s *snapshot) *Refusal {
	switch {
	case s.user == nil:
		return refusal("user.unknown", "You are not known here.", "")
	case s.user.State == statePending:
		return refusal("user.pending", "Your enrolment is not finished: use the invite that you were given.", "")
	case s.user.State == stateFrozen:
		return refusal("user.frozen", "Your account is frozen.", "frozen because: "+s.user.FrozenReason)
	case ask.Identity.Fingerprint != "" && !s.keyLive:
		return refusal("key.removed", "Your key is no longer registered.", ask.Identity.Fingerprint)
	}
	return nil
}

func ruleKilled(_ Ask, s *snapshot) *Refusal {
	if s.live == nil || !s.live.killed {
		return nil
	}
	return refusal("session.killed", "The session was ended by an administrator.",
		fmt.Sprintf("by %s: %s", s.live.killedBy, s.live.killNote))
}

func ruleFactors(ask Ask, s *snapshot) *Refusal {
	switch {
	case s.hypothetical && s.user.HasTOTP:
		return nil
	case s.hypothetical:
		return refusal("factor.missing", "There is no second factor: an administrator can make a new invite.", "")
	case !ask.Identity.firstFactor() || !ask.Identity.secondFactor():
		return refusal("factor.missing", "A second factor is needed, and this login had none.",
			fmt.Sprintf("%d factors", len(ask.Identity.Factors)))
	}
	return nil
}

// ruleTerms holds for what begins: new terms do not cut off work that goes on.
func ruleTerms(ask Ask, s *snapshot) *Refusal {
	if ask.Session != "" || s.termsVersion == "" || s.user.TermsVersion == s.termsVersion {
		return nil
	}
	return refusal("terms.outdated", "The terms have changed: read and accept them first, with the verb terms.",
		"accepted: "+s.user.TermsVersion)
}

// ruleMember gives one and the same answer for a project that does not exist and for one that the
// person never was a member of.
func ruleMember(_ Ask, s *snapshot) *Refusal {
	if s.project == nil {
		return refusal("project.unknown-or-not-member", sentenceNoAccess, "there is no such project")
	}
	if len(s.members) == 0 {
		return refusal("project.unknown-or-not-member", sentenceNoAccess, "not a member")
	}
	if slices.ContainsFunc(s.members, func(m Membership) bool { return m.live(s.now) }) {
		return nil
	}
	// The latest says most about what to do now.
	m := s.members[len(s.members)-1]
	switch {
	case !m.EndedAt.IsZero():
		return refusal("membership.ended", fmt.Sprintf("Your membership of %s was ended.", m.Project),
			fmt.Sprintf("%s by %s at %s", m.ID, m.EndedBy, m.EndedAt.Format(time.RFC3339)))
	case !s.now.Before(m.ExpiresAt):
		return refusal("membership.expired", fmt.Sprintf("Your membership of %s expired on %s.", m.Project, day(m.ExpiresAt)), m.ID)
	}
	return refusal("membership.proposed", fmt.Sprintf("Your membership of %s waits for a manager of the project to approve it.",
		m.Project), m.ID)
}

func day(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 UTC") }

func ruleTraining(_ Ask, s *snapshot) *Refusal {
	switch {
	case !s.project.Training || s.now.Before(s.user.TrainingUntil):
		return nil
	case s.user.TrainingUntil.IsZero():
		return refusal("training.expired", fmt.Sprintf("The project %s asks for a training, and none is recorded for you.",
			s.project.Name), "")
	}
	return refusal("training.expired", fmt.Sprintf("Your training expired on %s.", day(s.user.TrainingUntil)), "")
}

func rulePeriod(_ Ask, s *snapshot) *Refusal {
	p := s.project
	switch {
	case p.State != ProjectActive:
		return refusal("project.closed", fmt.Sprintf("The project %s is closed.", p.Name), "")
	case !p.From.IsZero() && s.now.Before(p.From):
		return refusal("project.period", fmt.Sprintf("The data-use period of %s begins on %s.", p.Name, day(p.From)), "")
	case !p.Until.IsZero() && !s.now.Before(p.Until):
		return refusal("project.period", fmt.Sprintf("The data-use period of %s ended on %s.", p.Name, day(p.Until)), "")
	}
	return nil
}

func ruleNetwork(ask Ask, s *snapshot) *Refusal {
	if len(s.project.Networks) == 0 || s.hypothetical && !ask.Identity.RemoteAddr.IsValid() {
		return nil
	}
	address := ask.Identity.RemoteAddr.Addr().Unmap()
	// An address with a zone is in no prefix; the zone says only which interface it came by.
	if slices.ContainsFunc(s.project.Networks, func(p netip.Prefix) bool { return p.Contains(address.WithZone("")) }) {
		return nil
	}
	return refusal("network.source", fmt.Sprintf("The project %s cannot be reached from your network.", s.project.Name),
		"from "+ask.Identity.Actor().address())
}

func ruleAssurance(ask Ask, s *snapshot) *Refusal {
	if s.project.Level != LevelType2 || s.hypothetical || ask.Identity.assured(AssuranceOTP) {
		return nil
	}
	return refusal("factor.assurance", fmt.Sprintf("The project %s asks for a one-time code or better: "+
		"a recovery code is not enough.", s.project.Name), "")
}

func ruleServer(ask Ask, s *snapshot) *Refusal {
	if _, ok := s.server(ask.Server); ok {
		return nil
	}
	if ask.Server == "" {
		return refusal("server.unknown", fmt.Sprintf("The project %s has no data server yet.", s.project.Name), "")
	}
	return refusal("server.unknown", fmt.Sprintf("The project %s has no server of that name.", s.project.Name), "")
}

// server is the one that was asked for; with no name the first.
func (s *snapshot) server(name string) (Server, bool) {
	for _, server := range s.servers {
		if name == "" || server.Name == name {
			return server, true
		}
	}
	return Server{}, false
}

// ruleEpoch holds for what begins: a running session was sealed to its epoch at its start.
func ruleEpoch(ask Ask, s *snapshot) *Refusal {
	if s.hasEpoch || ask.Session != "" {
		return nil
	}
	return refusal("epoch.missing", fmt.Sprintf("The project %s has no valid epoch key, so nothing could be recorded: "+
		"an auditor must make one.", s.project.Name), "")
}

// shellWithoutTerminal reports a shell that is an exec in all but name: it runs what comes in, and
// what goes out is byte-exact.
func (ask Ask) shellWithoutTerminal() bool { return ask.Action == ActionShell && !ask.PTY }

// needed is the permission that an action takes.
func needed(ask Ask) (Permission, bool) {
	switch ask.Action {
	case ActionShell:
		if ask.shellWithoutTerminal() {
			return PermExec, true
		}
		return PermShell, true
	case ActionExec:
		return PermExec, true
	case ActionSFTP:
		return PermExport, true // which direction a file goes is not inspected yet
	}
	return 0, false
}

// decideAction looks for a live membership that gives the action, one that needs no approval first.
func decideAction(ask Ask, s *snapshot) Decision {
	if ask.Action == ActionForward {
		return refused("action.forward", "Forwarding is not available through this gate.", "")
	}
	need, known := needed(ask)
	if !known {
		return refused("action.unknown", "That kind of session is not available through this gate.", string(ask.Action))
	}
	var byApproval *Membership
	for i, m := range s.members {
		has, _ := m.Role.Permissions()
		if !m.live(s.now) || !has.Has(need) || s.live != nil && s.live.account != m.Account {
			continue
		}
		if !has.Has(PermByApproval) {
			return s.allow(ask, m, "membership."+string(ask.Action))
		}
		if byApproval == nil {
			byApproval = &s.members[i]
		}
	}
	if byApproval != nil {
		return decideGrant(ask, s, *byApproval)
	}
	return s.lacking(ask)
}

// lacking says why no live membership gives the action.
func (s *snapshot) lacking(ask Ask) Decision {
	has := livePermissions(s.members, s.now)
	rule := "action." + string(ask.Action)
	cause := "permissions: " + has.String()
	switch {
	case has&permData == 0:
		return refused(rule, fmt.Sprintf("Your role in %s has no access to its data servers.", s.project.Name), cause)
	case ask.shellWithoutTerminal() && has.Has(PermShell):
		return refused("action.shell-without-terminal",
			fmt.Sprintf("Your role in %s has no shell without a terminal: use ssh -t.", s.project.Name), cause)
	case ask.Action == ActionSFTP && has&(PermImport|PermEscrow) != 0:
		return refused(rule, sentenceOneWay, cause)
	case ask.Action == ActionSFTP:
		return refused(rule, fmt.Sprintf("Your role in %s does not move files.", s.project.Name), cause)
	case ask.Action == ActionExec:
		return refused(rule, fmt.Sprintf("Your role in %s does not run single commands: open a shell instead.", s.project.Name), cause)
	}
	return refused(rule, fmt.Sprintf("Your role in %s does not open shells.", s.project.Name), cause)
}

// decideGrant answers for a membership that waits for an approved request.
func decideGrant(ask Ask, s *snapshot, m Membership) Decision {
	server, _ := s.server(ask.Server)
	g := s.grant
	if g != nil && g.user == ask.Identity.User && g.project == m.Project && g.server == server.Name && g.account == m.Account &&
		g.live(s.now, ask.Session) {
		d := s.allow(ask, m, "grant")
		d.Obligations.Grant = g.id
		d.Until = earliest(d.Until, g.until)
		return d
	}
	if ask.Session != "" {
		return refused("grant.ended", "The approval for this session has ended.", "request "+ask.Request)
	}
	d := s.allow(ask, m, "grant.needed")
	d.Outcome, d.NeedRequest = Wait, RequestSession
	return d
}

// live reports whether the grant can be used now, or is in use by the session.
func (g *grant) live(now time.Time, session string) bool {
	if now.Before(g.from) || !now.Before(g.until) {
		return false
	}
	switch g.state {
	case requestApproved, requestUsed:
		return g.state == requestApproved && g.usesLeft > 0 || session != "" && slices.Contains(g.usedBy, session)
	}
	return false
}

// allow gives the way for a membership, and when the answer ends by itself.
func (s *snapshot) allow(ask Ask, m Membership, rule string) Decision {
	server, _ := s.server(ask.Server)
	until := earliest(m.ExpiresAt, s.project.Until)
	if s.project.Training {
		until = earliest(until, s.user.TrainingUntil)
	}
	return Decision{
		Outcome:     Allow,
		Rule:        rule,
		Obligations: Obligations{Record: true},
		Route: Route{Project: m.Project, Server: server.Name, Address: server.Address, Account: m.Account, Role: m.Role,
			HostKey: server.HostKey, HostCA: server.HostCA},
		Until: until,
	}
}

// earliest is the earlier of two times, of which zero means never.
func earliest(x, y time.Time) time.Time {
	if x.IsZero() || !y.IsZero() && y.Before(x) {
		return y
	}
	return x
}
