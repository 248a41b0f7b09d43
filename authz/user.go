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

// User is a person as the database knows them.
type User struct {
	Name          string    `json:"name"`
	Display       string    `json:"display"`
	SiteRole      SiteRole  `json:"site_role"`
	ProposedRole  SiteRole  `json:"proposed_site_role,omitempty"` // waits for a security administrator
	OSUser        string    `json:"os_user,omitempty"`            // account on the node that is this person
	State         string    `json:"state"`                        // pending, active or frozen
	FrozenReason  string    `json:"frozen_reason,omitempty"`
	HasTOTP       bool      `json:"has_totp"`
	TermsVersion  string    `json:"terms_version,omitempty"` // SHA-256 of the accepted text
	TrainingUntil time.Time `json:"training_until,omitzero"`
	CreatedAt     time.Time `json:"created_at"`
	CreatedBy     string    `json:"created_by"`
}

// States of a person.
const (
	statePending = "pending" // has not enrolled yet
	stateActive  = "active"
	stateFrozen  = "frozen"
)

const selectUsers = `SELECT name, display, site_role, os_user, enrolled_at, frozen_at, frozen_reason,
	COALESCE((SELECT p.site_role FROM site_role_proposals p WHERE p.user_name = users.name), ''),
	EXISTS (SELECT 1 FROM totp WHERE totp.user_name = users.name), terms_version, training_until, created_at, created_by
	FROM users `

func scanUser(row database.Scanner) (User, error) {
	var (
		u                                    User
		enrolled, frozen, training, createdA int64
	)
	err := row.Scan(&u.Name, &u.Display, &u.SiteRole, &u.OSUser, &enrolled, &frozen, &u.FrozenReason, &u.ProposedRole, &u.HasTOTP,
		&u.TermsVersion, &training, &createdA, &u.CreatedBy)
	if errors.Is(err, sql.ErrNoRows) {
		return User{}, ErrNotFound
	}
	if err != nil {
		return User{}, fmt.Errorf("load a user: %w", err)
	}
	u.TrainingUntil, u.CreatedAt = fromMilliseconds(training), fromMilliseconds(createdA)
	switch {
	case frozen != 0:
		u.State = stateFrozen
	case enrolled != 0:
		u.State = stateActive
	default:
		u.State = statePending
	}
	return u, nil
}

func loadUser(tx database.Tx, name string) (User, error) {
	if !ValidUserName(name) {
		return User{}, ErrNotFound // also keeps bytes out that a database refuses
	}
	return scanUser(tx.QueryRow(selectUsers+"WHERE name = $1", name))
}

func loadUsers(tx database.Tx) ([]User, error) {
	var users []User
	err := tx.Each(func(row database.Scanner) error {
		u, err := scanUser(row)
		users = append(users, u)
		return err
	}, selectUsers)
	slices.SortFunc(users, func(x, y User) int { return compare(x.Name, y.Name) })
	return users, err
}

// actor loads the person who acts, and denies one who is unknown or not active. An unbound
// actor is nobody, and holds every administrative right.
func (w *work) actor() (User, error) { return loadActor(w.tx, w.by) }

func loadActor(tx database.Tx, by Actor) (User, error) {
	if by.unbound() {
		return User{}, nil
	}
	user, err := loadUser(tx, by.User)
	if errors.Is(err, ErrNotFound) {
		return User{}, deny("user.unknown", "You are not known here.", "")
	}
	if err != nil {
		return User{}, err
	}
	if err := denyInactive(user); err != nil {
		return User{}, err
	}
	return user, nil
}

func denyInactive(user User) error {
	switch user.State {
	case statePending:
		return deny("user.pending", "Your enrolment is not finished: use the invite that you were given.", "")
	case stateFrozen:
		return deny("user.frozen", "Your account is frozen.", "frozen because: "+user.FrozenReason)
	}
	return nil
}

// need denies an actor who holds none of the site roles.
func (w *work) need(what string, roles ...SiteRole) (User, error) {
	user, err := w.actor()
	if err != nil || w.by.unbound() || slices.Contains(roles, user.SiteRole) {
		return user, err
	}
	return User{}, deny("role.missing", fmt.Sprintf("Only %s may %s.", roleNames(roles), what),
		fmt.Sprintf("the site role is %q", user.SiteRole))
}

func roleNames(roles []SiteRole) string {
	names := ""
	for i, role := range roles {
		if i > 0 {
			names += " or "
		}
		switch role {
		case SiteAdmin:
			names += "an administrator"
		case SiteSecurity:
			names += "a security administrator"
		case SiteAuditor:
			names += "an auditor"
		}
	}
	return names
}

// other denies what somebody does for themselves.
func (w *work) other(user, what string) error {
	if !w.by.unbound() && w.by.User == user {
		return deny("self", "Nobody may "+what+" for themselves: ask a colleague with that right.", "")
	}
	return nil
}

func (a *Authority) userEvent(opType, user string) Event {
	if user == "" {
		user = "-"
	}
	return Event{OpType: opType, ResourceType: "user", ResourceID: user}
}

// AddUser adds a person who then must enrol with an invite. An administrator may do it. A site role
// waits as with SetSiteRole.
func (a *Authority) AddUser(ctx context.Context, by Actor, u User) error {
	return a.change(ctx, by, a.userEvent("user.add", u.Name), func(w *work) error {
		if _, err := w.need("add people", SiteAdmin); err != nil {
			return err
		}
		if !ValidUserName(u.Name) {
			return deny("input.user", "A user name has 1 to 32 of a-z, 0-9, '.', '_' and '-', begins with a letter, "+
				"and is none of invite, system and unauthenticated.", "")
		}
		if err := checkText("display name", u.Display, 0); err != nil {
			return err
		}
		if err := checkSiteRole(u.SiteRole); err != nil {
			return err
		}
		if err := w.freeOSUser(u.OSUser, u.Name); err != nil {
			return err
		}
		given, proposed := u.SiteRole, NoSiteRole
		if given != NoSiteRole {
			waits, err := w.secondPair(u.Name)
			if err != nil {
				return err
			}
			if waits {
				given, proposed = NoSiteRole, u.SiteRole
			}
		}
		n, err := w.tx.Exec(`INSERT INTO users (name, display, site_role, os_user, enrolled_at, frozen_at, frozen_reason,
				terms_version, terms_at, training_course, training_until, created_at, created_by)
			VALUES ($1, $2, $3, $4, 0, 0, '', '', 0, '', $5, $6, $7) ON CONFLICT (name) DO NOTHING`,
			u.Name, u.Display, string(given), u.OSUser, milliseconds(u.TrainingUntil), milliseconds(w.now), by.name())
		if err != nil {
			return err
		}
		if n == 0 {
			return deny("user.exists", fmt.Sprintf("There is already a user %s.", u.Name), "")
		}
		if proposed != NoSiteRole {
			if err := w.proposeRole(u.Name, proposed); err != nil {
				return err
			}
		}
		return w.done(map[string]any{"display": u.Display, "site_role": given, "proposed_site_role": proposed, "os_user": u.OSUser})
	})
}

func checkSiteRole(role SiteRole) error {
	switch role {
	case NoSiteRole, SiteAdmin, SiteSecurity, SiteAuditor:
		return nil
	}
	return deny("input.role", "A site role is admin, security-admin, auditor or none.", "")
}

// freeOSUser denies an OS account that is no name or is bound to another person.
func (w *work) freeOSUser(osUser, user string) error {
	if osUser == "" {
		return nil
	}
	if !osUserName.MatchString(osUser) {
		return deny("input.os-user", "That is no name of an account on the node.", "")
	}
	holder, err := scanUser(w.tx.QueryRow(selectUsers+"WHERE os_user = $1", osUser))
	switch {
	case errors.Is(err, ErrNotFound) || err == nil && holder.Name == user:
		return nil
	case err != nil:
		return err
	}
	return deny("os-user.taken", "That account of the node is bound to another person.", "bound to "+holder.Name)
}

// Users lists people: all for those with a site role and for managers of projects, else oneself.
func (a *Authority) Users(ctx context.Context, by Actor) ([]User, error) {
	var users []User
	err := a.db.Read(ctx, func(tx database.Tx) error {
		all, err := loadUsers(tx)
		if err != nil {
			return err
		}
		asker, err := loadActor(tx, by)
		if err != nil {
			return err
		}
		manages := false
		if !by.unbound() && asker.SiteRole == NoSiteRole {
			members, err := loadMemberships(tx, "user_name = ?", asker.Name)
			if err != nil {
				return err
			}
			manages = livePermissions(members, a.now()).Has(PermManage)
		}
		users = nil
		for _, u := range all {
			switch {
			case by.unbound() || asker.SiteRole != NoSiteRole || u.Name == asker.Name:
			case manages: // needs the names, and no more than that
				u.OSUser, u.FrozenReason, u.TermsVersion = "", "", ""
			default:
				continue
			}
			users = append(users, u)
		}
		return nil
	})
	return users, a.answer(ctx, by, a.userEvent("user.list", by.User), err)
}

// answer turns the denial of a question into a recorded refusal.
func (a *Authority) answer(ctx context.Context, by Actor, event Event, err error) error {
	var d *denial
	if errors.As(err, &d) {
		event.UserID, event.RemoteAddr, event.Connection = by.name(), by.address(), by.Connection
		return a.Refuse(ctx, event, d.rule, d.sentence, d.cause)
	}
	if err != nil && !errors.Is(err, ErrNotFound) {
		return fmt.Errorf("%s: %w", event.OpType, err)
	}
	return err
}

// User returns a person, or ErrNotFound. It is for the program itself and asks for no right.
func (a *Authority) User(ctx context.Context, name string) (user User, err error) {
	err = a.db.Read(ctx, func(tx database.Tx) error {
		user, err = loadUser(tx, name)
		return err
	})
	return user, err
}

// UserByOSUser finds the person that an OS account of the node is bound to.
func (a *Authority) UserByOSUser(ctx context.Context, osUser string) (user User, err error) {
	if !osUserName.MatchString(osUser) {
		return User{}, ErrNotFound
	}
	err = a.db.Read(ctx, func(tx database.Tx) error {
		user, err = scanUser(tx.QueryRow(selectUsers+"WHERE os_user = $1", osUser))
		return err
	})
	return user, err
}

// target loads the person whom an act is about.
func (w *work) target(user string) (User, error) {
	u, err := loadUser(w.tx, user)
	if errors.Is(err, ErrNotFound) {
		return User{}, fmt.Errorf("user %q: %w", user, ErrNotFound)
	}
	return u, err
}

// SetOSUser binds an account of the node to a person; "" unbinds. An administrator may do it.
func (a *Authority) SetOSUser(ctx context.Context, by Actor, user, osUser string) error {
	return a.change(ctx, by, a.userEvent("user.os-user", user), func(w *work) error {
		if _, err := w.need("bind accounts of the node", SiteAdmin); err != nil {
			return err
		}
		if err := w.other(user, "bind an account of the node"); err != nil {
			return err
		}
		u, err := w.target(user)
		if err != nil {
			return err
		}
		if err := w.freeOSUser(osUser, user); err != nil {
			return err
		}
		if _, err := w.tx.Exec("UPDATE users SET os_user = $1 WHERE name = $2", osUser, user); err != nil {
			return err
		}
		return w.done(map[string]any{"os_user": osUser, "before": u.OSUser})
	})
}

// bound denies an act that only a person may do, also where a node is set up or recovered.
func (w *work) bound() error {
	if w.by.unbound() {
		return deny("actor.unbound", "That needs a person with the right to do it, and is no part of setting up or recovering a node.", "")
	}
	return nil
}

// recoverable says whether recovering the node may help this person: one of those who help the others.
func (u User) recoverable() bool { return u.SiteRole == SiteAdmin || u.SiteRole == SiteSecurity }

// Freeze shuts a person out; live sessions end. Administrators and security administrators may do it.
func (a *Authority) Freeze(ctx context.Context, by Actor, user, reason string) error {
	return a.change(ctx, by, a.userEvent("user.freeze", user), func(w *work) error {
		if _, err := w.need("freeze people", SiteAdmin, SiteSecurity); err != nil {
			return err
		}
		if err := errors.Join(w.bound(), w.other(user, "freeze people")); err != nil {
			return err
		}
		if err := checkText("reason", reason, minNote); err != nil {
			return err
		}
		u, err := w.target(user)
		if err != nil {
			return err
		}
		if u.State == stateFrozen {
			return deny("user.frozen", fmt.Sprintf("%s is frozen already.", user), "")
		}
		_, err = w.tx.Exec("UPDATE users SET frozen_at = $1, frozen_reason = $2 WHERE name = $3",
			milliseconds(w.now), reason, user)
		if err != nil {
			return err
		}
		return w.done(map[string]any{"reason": reason})
	})
}

// Unfreeze lets a frozen person in again. Only another security administrator may do it; recovering
// the node unfreezes an administrator or a security administrator, when nobody is left who could.
func (a *Authority) Unfreeze(ctx context.Context, by Actor, user, reason string) error {
	return a.change(ctx, by, a.userEvent("user.unfreeze", user), func(w *work) error {
		if _, err := w.need("unfreeze people", SiteSecurity); err != nil {
			return err
		}
		if err := checkText("reason", reason, minNote); err != nil {
			return err
		}
		u, err := w.target(user)
		if err != nil {
			return err
		}
		if !(by.Via == "recover" && u.recoverable()) {
			if err := w.bound(); err != nil {
				return err
			}
		}
		if u.State != stateFrozen {
			return deny("user.not-frozen", fmt.Sprintf("%s is not frozen.", user), "")
		}
		if _, err := w.tx.Exec("UPDATE users SET frozen_at = 0, frozen_reason = '' WHERE name = $1", user); err != nil {
			return err
		}
		return w.done(map[string]any{"reason": reason, "frozen_because": u.FrozenReason})
	})
}

// maxTerms is the longest text of terms, in bytes.
const maxTerms = 256 << 10
