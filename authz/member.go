package authz

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"time"

	"sallyport/internal/database"
)

// Membership ties a person to a project by a role, until it expires.
type Membership struct {
	ID         string    `json:"id"`
	User       string    `json:"user"`
	Project    string    `json:"project"`
	Role       Role      `json:"role"`
	Account    string    `json:"account"` // on the data servers; belongs to one person only
	Reason     string    `json:"reason"`
	GrantedBy  string    `json:"granted_by"`
	ApprovedBy string    `json:"approved_by,omitempty"` // a manager of the project; "" while proposed
	CreatedAt  time.Time `json:"created_at"`
	ExpiresAt  time.Time `json:"expires_at"`
	EndedAt    time.Time `json:"ended_at,omitzero"`
	EndedBy    string    `json:"ended_by,omitempty"`
}

// longestMembership is how far ahead a membership may expire: access is looked at anew at least so often.
const longestMembership = 3 * 366 * 24 * time.Hour

// permData are the bits that need an account on a data server.
const permData = PermShell | PermExec | PermImport | PermExport | PermEscrow | PermForward

// live reports whether the membership gives anything at that time.
func (m Membership) live(now time.Time) bool {
	return m.ApprovedBy != "" && m.EndedAt.IsZero() && now.Before(m.ExpiresAt)
}

// open reports whether the membership is live or could become so.
func (m Membership) open(now time.Time) bool { return m.EndedAt.IsZero() && now.Before(m.ExpiresAt) }

// livePermissions is the union of what live memberships give.
func livePermissions(members []Membership, now time.Time) (all Permission) {
	for _, m := range members {
		if m.live(now) {
			permissions, _ := m.Role.Permissions()
			all |= permissions
		}
	}
	return all
}

const selectMemberships = `SELECT id, user_name, project, role, account, reason, granted_by, approved_by, created_at,
	expires_at, ended_at, ended_by FROM memberships `

func scanMembership(row database.Scanner) (Membership, error) {
	var (
		m                       Membership
		created, expires, ended int64
	)
	err := row.Scan(&m.ID, &m.User, &m.Project, &m.Role, &m.Account, &m.Reason, &m.GrantedBy, &m.ApprovedBy, &created,
		&expires, &ended, &m.EndedBy)
	if errors.Is(err, sql.ErrNoRows) {
		return Membership{}, ErrNotFound
	}
	m.CreatedAt, m.ExpiresAt, m.EndedAt = fromMilliseconds(created), fromMilliseconds(expires), fromMilliseconds(ended)
	return m, err
}

// loadMemberships loads by a condition with one ? for each argument, oldest first.
func loadMemberships(tx database.Tx, condition string, args ...any) ([]Membership, error) {
	f := &filter{}
	f.add(condition, args...)
	var members []Membership
	err := tx.Each(func(row database.Scanner) error {
		m, err := scanMembership(row)
		members = append(members, m)
		return err
	}, selectMemberships+"WHERE "+f.where(), f.args...)
	slices.SortFunc(members, func(x, y Membership) int {
		if c := x.CreatedAt.Compare(y.CreatedAt); c != 0 {
			return c
		}
		return compare(x.ID, y.ID)
	})
	return members, err
}

// permissions are what a person's live memberships of a project give. A person who is not active has none.
func permissions(tx database.Tx, user, project string, now time.Time) (Permission, error) {
	u, err := loadUser(tx, user)
	if errors.Is(err, ErrNotFound) || err == nil && u.State != stateActive {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	members, err := loadMemberships(tx, "user_name = ? AND project = ?", user, column(project))
	return livePermissions(members, now), err
}

func memberEvent(opType, id string) Event {
	if id == "" {
		id = "-"
	}
	return Event{OpType: opType, ResourceType: "membership", ResourceID: id}
}

// AddMember proposes a membership, or makes it live at once when the actor is a manager of the
// project. An administrator's first manager of a project is live at once only while nobody could
// approve it. Nobody adds themselves. The account is the person's user name when none is given and the role needs one.
func (a *Authority) AddMember(ctx context.Context, by Actor, m Membership) (Membership, error) {
	event := memberEvent("member.add", m.User)
	event.ResourceType = "user" // until there is a membership
	err := a.change(ctx, by, event, func(w *work) error {
		approved, err := w.mayAdd(m)
		if err != nil {
			return err
		}
		if err := w.checkMember(&m); err != nil {
			return err
		}
		if m.ID, err = a.newID("M-", w.now); err != nil {
			return err
		}
		m.GrantedBy, m.ApprovedBy, m.CreatedAt, m.EndedAt, m.EndedBy = by.name(), "", w.now, time.Time{}, ""
		var approvedAt time.Time
		if approved {
			m.ApprovedBy, approvedAt = by.name(), w.now
		}
		m.ExpiresAt = m.ExpiresAt.UTC().Truncate(time.Millisecond)
		_, err = w.tx.Exec(`INSERT INTO memberships (id, user_name, project, role, account, reason, granted_by, approved_by,
				approved_at, created_at, expires_at, ended_at, ended_by, end_reason)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, 0, '', '')`,
			m.ID, m.User, m.Project, string(m.Role), m.Account, m.Reason, m.GrantedBy, m.ApprovedBy,
			milliseconds(approvedAt), milliseconds(m.CreatedAt), milliseconds(m.ExpiresAt))
		if err != nil {
			return err
		}
		w.event.ResourceType, w.event.ResourceID = "membership", m.ID
		if !approved {
			w.event.OpType = "member.propose"
		}
		return w.done(map[string]any{"user": m.User, "role": m.Role, "account": m.Account, "reason": m.Reason,
			"expires": m.ExpiresAt, "approved_by": m.ApprovedBy})
	})
	if err != nil {
		return Membership{}, err
	}
	return m, nil
}

// mayAdd denies an actor who may not add that member, and reports whether the membership is live at once.
func (w *work) mayAdd(m Membership) (approved bool, err error) {
	actor, err := w.actor()
	if err != nil {
		return false, err
	}
	if err := w.other(m.User, "add a membership"); err != nil {
		return false, err
	}
	admin := w.by.unbound() || actor.SiteRole == SiteAdmin
	if !w.by.unbound() {
		has, err := permissions(w.tx, actor.Name, m.Project, w.now)
		if err != nil {
			return false, err
		}
		if has.Has(PermManage) {
			w.event.Project = m.Project
			return true, nil
		}
	}
	if !admin {
		return false, deny("role.missing", "Only a manager of the project, or an administrator, may add members.", "")
	}
	if _, err := w.project(m.Project); err != nil {
		return false, err
	}
	if m.Role != RoleManager || w.by.unbound() {
		return m.Role == RoleManager, nil
	}
	managed, err := w.hasManager(m.Project)
	if err != nil || managed {
		return false, err
	}
	waits, err := w.secondPair(m.User)
	return !waits, err
}

// hasManager reports whether the project has a live manager.
func (w *work) hasManager(project string) (bool, error) {
	managers, err := loadMemberships(w.tx, "project = ? AND role = ?", column(project), string(RoleManager))
	if err != nil {
		return false, err
	}
	for _, m := range managers {
		u, err := loadUser(w.tx, m.User)
		if err != nil {
			return false, err
		}
		if m.live(w.now) && u.State == stateActive {
			return true, nil
		}
	}
	return false, nil
}

// checkMember denies a membership that must not be, and claims its account.
func (w *work) checkMember(m *Membership) error {
	has, known := m.Role.Permissions()
	if !known {
		return deny("input.role", fmt.Sprintf("There is no role %q in a project.", column(string(m.Role))), "")
	}
	if err := checkText("reason", m.Reason, MinReason); err != nil {
		return err
	}
	if !m.ExpiresAt.After(w.now) || m.ExpiresAt.After(w.now.Add(longestMembership)) {
		return deny("input.expiry", "A membership must expire in the future, within three years.", "")
	}
	user, err := w.target(m.User)
	if err != nil {
		return err
	}
	if user.State == stateFrozen {
		return deny("user.frozen", fmt.Sprintf("%s is frozen.", m.User), "")
	}
	if err := w.checkAuditorApart(*m); err != nil {
		return err
	}
	if has&permData == 0 {
		m.Account = ""
		return nil
	}
	if m.Account == "" {
		m.Account = m.User
	}
	if err := checkAccount(m.Account); err != nil {
		return err
	}
	return w.claimAccount(*m)
}

// checkAuditorApart denies that a person audits a project in which they do something else.
func (w *work) checkAuditorApart(m Membership) error {
	others, err := loadMemberships(w.tx, "user_name = ? AND project = ?", m.User, m.Project)
	if err != nil {
		return err
	}
	for _, o := range others {
		if o.open(w.now) && o.ID != m.ID && (o.Role == RoleProjectAuditor) != (m.Role == RoleProjectAuditor) {
			return deny("membership.conflict", fmt.Sprintf("%s is %s of this project, and its auditor can hold no other role in it.",
				m.User, o.Role), "asked for "+string(m.Role))
		}
	}
	return nil
}

// claimAccount binds an account to its person for ever: files on the server keep its name.
func (w *work) claimAccount(m Membership) error {
	_, err := w.tx.Exec(`INSERT INTO accounts (project, account, user_name, created_at) VALUES ($1, $2, $3, $4)
		ON CONFLICT (project, account) DO NOTHING`, m.Project, m.Account, m.User, milliseconds(w.now))
	if err != nil {
		return err
	}
	var holder string
	err = w.tx.QueryRow("SELECT user_name FROM accounts WHERE project = $1 AND account = $2", m.Project, m.Account).Scan(&holder)
	if err != nil {
		return err
	}
	if holder != m.User {
		return deny("account.taken", fmt.Sprintf("The account %s belongs to somebody else in this project.", m.Account),
			"it belongs to "+holder)
	}
	return nil
}

// membership loads the membership that an act is about. What the actor may not know of looks like nothing.
func (w *work) membership(id string) (Membership, error) {
	m, err := scanMembership(w.tx.QueryRow(selectMemberships+"WHERE id = $1", column(id)))
	if err != nil {
		return Membership{}, fmt.Errorf("membership: %w", err)
	}
	sees := w.by.unbound() || w.by.User == m.User
	if !sees {
		if sees, err = seesProject(w.tx, w.by, m.Project, w.now); err != nil {
			return Membership{}, err
		}
	}
	if !sees {
		return Membership{}, ErrNotFound
	}
	w.event.Project = m.Project
	return m, nil
}

// ApproveMember makes a proposed membership live. A manager of the project does it, never for
// themselves; the first manager of a project, whom no manager can approve, takes a security administrator
// who did not propose it.
func (a *Authority) ApproveMember(ctx context.Context, by Actor, id string) error {
	return a.change(ctx, by, memberEvent("member.approve", id), func(w *work) error {
		actor, err := w.actor()
		if err != nil {
			return err
		}
		m, err := w.membership(id)
		if err != nil {
			return err
		}
		if err := w.other(m.User, "approve a membership"); err != nil {
			return err
		}
		if err := w.mayApprove(actor, m); err != nil {
			return err
		}
		switch {
		case !m.open(w.now):
			return deny("membership.ended", "That membership has ended or expired.", "")
		case m.ApprovedBy != "":
			return deny("membership.approved", "That membership is approved already.", "by "+m.ApprovedBy)
		}
		if err := w.checkAuditorApart(m); err != nil {
			return err
		}
		n, err := w.tx.Exec(`UPDATE memberships SET approved_by = $1, approved_at = $2
			WHERE id = $3 AND approved_by = '' AND ended_at = 0`, by.User, milliseconds(w.now), id)
		if err != nil {
			return err
		}
		if n != 1 {
			return errors.New("the membership changed meanwhile")
		}
		return w.done(map[string]any{"user": m.User, "role": m.Role, "account": m.Account, "reason": m.Reason,
			"granted_by": m.GrantedBy, "expires": m.ExpiresAt})
	})
}

func (w *work) mayApprove(actor User, m Membership) error {
	has, err := permissions(w.tx, w.by.User, m.Project, w.now)
	if err != nil || has.Has(PermManage) {
		return err
	}
	managed, err := w.hasManager(m.Project)
	if err != nil {
		return err
	}
	switch {
	case m.Role != RoleManager || managed:
		return deny("role.missing", "Only a manager of the project may approve its members.", "")
	case actor.SiteRole != SiteSecurity || m.GrantedBy == actor.Name:
		return deny("role.missing", "The first manager of a project is approved by a security administrator.", "")
	}
	return nil
}

// EndMember ends a membership, or a proposal of one; live sessions under it end. A manager of the project may do
// it, an administrator, a security administrator, and the member.
func (a *Authority) EndMember(ctx context.Context, by Actor, id, reason string) error {
	return a.change(ctx, by, memberEvent("member.end", id), func(w *work) error {
		actor, err := w.actor()
		if err != nil {
			return err
		}
		m, err := w.membership(id)
		if err != nil {
			return err
		}
		has, err := permissions(w.tx, actor.Name, m.Project, w.now)
		if err != nil {
			return err
		}
		if !by.unbound() && actor.Name != m.User && !has.Has(PermManage) &&
			actor.SiteRole != SiteAdmin && actor.SiteRole != SiteSecurity {
			return deny("role.missing", "Only a manager of the project, or an administrator, may end a membership.", "")
		}
		if err := checkText("reason", reason, minNote); err != nil {
			return err
		}
		n, err := w.tx.Exec(`UPDATE memberships SET ended_at = $1, ended_by = $2, end_reason = $3
			WHERE id = $4 AND ended_at = 0`, milliseconds(w.now), by.name(), reason, id)
		if err != nil {
			return err
		}
		if n == 0 {
			return deny("membership.ended", "That membership has ended already.", "")
		}
		return w.done(map[string]any{"user": m.User, "role": m.Role, "reason": reason})
	})
}

// Members lists a project's memberships, ended ones included: all for those with a site role and
// for those who list the project, else one's own. ErrNotFound for whoever may not know of the project.
// With "" it lists those of every project that the actor may know of.
func (a *Authority) Members(ctx context.Context, by Actor, project string) ([]Membership, error) {
	var members []Membership
	err := a.db.Read(ctx, func(tx database.Tx) error {
		members = nil
		asker, err := loadActor(tx, by)
		if err != nil {
			return err
		}
		if project != "" {
			if _, err := loadProject(tx, project); err != nil {
				return err
			}
			if members, err = a.membersOf(tx, by, asker, project); err != nil {
				return err
			}
			return notFoundUnless(len(members) > 0 || by.unbound() || asker.SiteRole != NoSiteRole)
		}
		names, err := ofProject(tx, by, "", a.now())
		if err != nil {
			return err
		}
		for _, name := range names {
			some, err := a.membersOf(tx, by, asker, name)
			if err != nil {
				return err
			}
			members = append(members, some...)
		}
		return nil
	})
	return members, a.answer(ctx, by, projectEvent("member.list", project), err)
}

// membersOf are the memberships of a project that the asker may see.
func (a *Authority) membersOf(tx database.Tx, by Actor, asker User, project string) ([]Membership, error) {
	all, err := loadMemberships(tx, "project = ?", column(project))
	if err != nil {
		return nil, err
	}
	has, err := permissions(tx, asker.Name, project, a.now())
	if err != nil {
		return nil, err
	}
	if by.unbound() || asker.SiteRole != NoSiteRole || has.Has(PermList) {
		return all, nil
	}
	return slices.DeleteFunc(all, func(m Membership) bool { return m.User != asker.Name }), nil
}
