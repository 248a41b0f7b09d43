package authz

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"sallyport/internal/database"
)

// secondPair reports whether an administrator's act waits for a security administrator: as soon as
// one other than the person whom it is about has enrolled. A frozen one counts, so that nobody gets
// rid of the second pair of eyes by freezing it; a site that has lost its only one recovers on the
// node. Before the first, and where a node is set up or recovered, nobody is there to ask; the ledger tells.
func (w *work) secondPair(beneficiary string) (bool, error) {
	if w.by.unbound() {
		return false, nil
	}
	var others int64
	err := w.tx.QueryRow(`SELECT COUNT(*) FROM users WHERE site_role = $1 AND enrolled_at <> 0 AND name <> $2`, string(SiteSecurity), beneficiary).Scan(&others)
	return others > 0, err
}

func loadProposedRole(tx database.Tx, user string) (role SiteRole, by string, err error) {
	err = tx.QueryRow("SELECT site_role, proposed_by FROM site_role_proposals WHERE user_name = $1", user).Scan(&role, &by)
	if errors.Is(err, sql.ErrNoRows) {
		return NoSiteRole, "", nil
	}
	return role, by, err
}

func (w *work) proposeRole(user string, role SiteRole) error {
	_, err := w.tx.Exec(`INSERT INTO site_role_proposals (user_name, site_role, proposed_at, proposed_by) VALUES ($1, $2, $3, $4)
		ON CONFLICT (user_name) DO UPDATE SET site_role = excluded.site_role, proposed_at = excluded.proposed_at,
		proposed_by = excluded.proposed_by`, user, string(role), milliseconds(w.now), w.by.name())
	return err
}

func (w *work) dropProposedRole(user string) error {
	_, err := w.tx.Exec("DELETE FROM site_role_proposals WHERE user_name = $1", user)
	return err
}

// setRole writes a site role. The old one is compared again, so that two nodes cannot write one after the other.
func (w *work) setRole(u User, role SiteRole) error {
	n, err := w.tx.Exec("UPDATE users SET site_role = $1 WHERE name = $2 AND site_role = $3", string(role), u.Name, string(u.SiteRole))
	if err == nil && n != 1 {
		err = errors.New("the role changed meanwhile")
	}
	return err
}

// conflict denies a role beside another: the three exclude one another.
func (w *work) conflict(u User, role SiteRole) error {
	if role == NoSiteRole || u.SiteRole == NoSiteRole || u.SiteRole == role {
		return nil
	}
	w.event.OpType = "role.conflict.denied"
	return deny("role.conflict", fmt.Sprintf("%s is %s; administrator, security administrator and auditor "+
		"exclude one another.", u.Name, u.SiteRole), fmt.Sprintf("asked for %s", role))
}

// SetSiteRole gives a person a site role or, with NoSiteRole, takes it. The roles exclude one
// another: who holds one must lose it before getting another. An administrator may do it, never for
// themselves. A role that is given waits as User.ProposedRole for ApproveSiteRole, once there is a
// security administrator; one that is taken is gone at once. A security administrator's is taken by
// another of that office only: an administrator must not be rid of who watches them.
func (a *Authority) SetSiteRole(ctx context.Context, by Actor, user string, role SiteRole, reason string) error {
	return a.change(ctx, by, a.userEvent("role.set", user), func(w *work) error {
		office := SiteAdmin
		u, err := w.target(user)
		if err == nil && role == NoSiteRole && u.SiteRole == SiteSecurity {
			office = SiteSecurity
		}
		if _, err := w.need("give or take this site role", office); err != nil {
			return err
		}
		if err != nil {
			return err
		}
		if err := w.other(user, "give or take a site role"); err != nil {
			return err
		}
		if err := errors.Join(checkSiteRole(role), checkText("reason", reason, minNote)); err != nil {
			return err
		}
		if err := w.conflict(u, role); err != nil {
			return err
		}
		details := map[string]any{"role": role, "before": u.SiteRole, "reason": reason}
		if role != NoSiteRole && role != u.SiteRole {
			waits, err := w.secondPair(user)
			if err != nil {
				return err
			}
			if waits {
				w.event.OpType = "role.propose"
				if err := w.proposeRole(user, role); err != nil {
					return err
				}
				return w.done(details)
			}
		}
		if err := errors.Join(w.dropProposedRole(user), w.setRole(u, role)); err != nil {
			return err
		}
		return w.done(details)
	})
}

// ApproveSiteRole gives the site role that an administrator proposed. A security administrator does
// it, who is neither the giver nor the one who gets it.
func (a *Authority) ApproveSiteRole(ctx context.Context, by Actor, user string) error {
	return a.change(ctx, by, a.userEvent("role.approve", user), func(w *work) error {
		actor, err := w.need("approve site roles", SiteSecurity)
		if err != nil {
			return err
		}
		if err := errors.Join(w.bound(), w.other(user, "approve a site role")); err != nil {
			return err
		}
		u, err := w.target(user)
		if err != nil {
			return err
		}
		role, giver, err := loadProposedRole(w.tx, user)
		if err != nil {
			return err
		}
		switch {
		case role == NoSiteRole:
			return deny("role.not-proposed", fmt.Sprintf("No site role waits for %s.", user), "")
		case giver == actor.Name:
			return deny("self", "Nobody approves what they proposed.", "")
		}
		if err := w.conflict(u, role); err != nil {
			return err
		}
		if err := errors.Join(w.dropProposedRole(user), w.setRole(u, role)); err != nil {
			return err
		}
		return w.done(map[string]any{"role": role, "before": u.SiteRole, "proposed_by": giver})
	})
}
