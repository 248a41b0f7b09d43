package console

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"sallyport/authz"
)

func (k *call) memberNoun() *cobra.Command {
	return noun("member", "Who is in a project, as what, and until when", k.memberAdd(), k.memberApprove(), k.memberLs(), k.memberEnd())
}

func roleNames() string {
	var names []string
	for _, r := range authz.Roles() {
		names = append(names, string(r))
	}
	return strings.Join(names, ", ")
}

func (k *call) memberAdd() *cobra.Command {
	var role, account, until, reason string
	c := reasonFlag(verb("add PROJECT USER", "Add a member; a manager's word makes it live", func(c *cobra.Command, args []string) error {
		if role == "" || until == "" {
			return Usagef("--role and --until are required")
		}
		if !slices.Contains(authz.Roles(), authz.Role(role)) {
			return Usagef("%q is no role of a project; roles are %s", role, roleNames())
		}
		expires, err := k.moment("until", until)
		if err != nil {
			return err
		}
		if expires.IsZero() {
			return Usagef("a membership needs an end: --until")
		}
		m, err := k.Authority.AddMember(c.Context(), k.by(), authz.Membership{
			Project: args[0], User: args[1], Role: authz.Role(role), Account: account, Reason: reason, ExpiresAt: expires,
		})
		if err != nil {
			return err
		}
		if m.ApprovedBy == "" {
			who := "a manager"
			if m.Role == authz.RoleManager {
				who = "a manager, or a security administrator while there is none,"
			}
			if err := k.done(m, "proposed %s as %s of %s; "+who+" approves it with: member approve %s", m.User, string(m.Role), m.Project, m.ID); err != nil {
				return err
			}
			return errWaiting
		}
		account := ""
		if m.Account != "" {
			account = ", account " + m.Account
		}
		return k.done(m, "%s is %s of %s until %s%s (%s)", m.User, string(m.Role), m.Project, day(m.ExpiresAt), account, m.ID)
	}), &reason)
	c.Flags().StringVar(&role, "role", "", "one of "+roleNames()+" (required)")
	c.Flags().StringVar(&account, "account", "", "account on the data servers; the user's name by default")
	c.Flags().StringVar(&until, "until", "", "expiry: "+timeFormats+" (required)")
	return c
}

func (k *call) memberApprove() *cobra.Command {
	return verb("approve ID", "Make a proposed membership live", func(c *cobra.Command, args []string) error {
		if err := k.Authority.ApproveMember(c.Context(), k.by(), args[0]); err != nil {
			return membershipMissing(err, args[0])
		}
		return k.done(map[string]string{"id": args[0], "approved_by": k.by().User}, "approved %s", args[0])
	})
}

func (k *call) memberEnd() *cobra.Command {
	var reason string
	return reasonFlag(verb("end ID", "End a membership; live sessions end at once", func(c *cobra.Command, args []string) error {
		if err := k.Authority.EndMember(c.Context(), k.by(), args[0], reason); err != nil {
			return membershipMissing(err, args[0])
		}
		return k.done(map[string]string{"id": args[0], "ended_by": k.by().User}, "ended %s", args[0])
	}), &reason)
}

// membershipMissing says where the ids of memberships stand, to whoever gave another word.
func membershipMissing(err error, word string) error {
	if errors.Is(err, authz.ErrNotFound) {
		return notFound("there is no membership %q that you may see; `member ls PROJECT` lists the ids, M-…", word)
	}
	return err
}

func (k *call) memberLs() *cobra.Command {
	return verb("ls [PROJECT]", "List the members of a project, or of all that I may see", func(c *cobra.Command, args []string) error {
		if len(args) == 0 {
			args = []string{""}
		}
		members, err := k.Authority.Members(c.Context(), k.by(), args[0])
		if err != nil {
			return err
		}
		if k.json {
			return k.printJSON(list(members))
		}
		t := table{heads: []string{"!ID", "USER", "ROLE", "~~ACCOUNT", "STATE", "UNTIL"}, empty: "There are no members."}
		if args[0] == "" {
			t.heads[3] = "PROJECT"
		}
		for _, m := range members {
			fourth := dash(m.Account)
			if args[0] == "" {
				fourth = m.Project
			}
			t.add(m.ID, m.User, string(m.Role), fourth, k.memberState(m), day(m.ExpiresAt))
		}
		t.write(k)
		return nil
	})
}

// proposals say which proposed memberships the caller may be waited for: a proposal tells nobody
// by itself. Whether the caller may approve one is answered when they do.
func (k *call) proposals(c *cobra.Command) (lines []string, err error) {
	if k.by().User == "" { // nobody in particular, who approves nothing
		return nil, nil
	}
	members, err := k.Authority.Members(c.Context(), k.by(), "")
	if err != nil {
		return nil, err
	}
	user, err := k.Authority.User(c.Context(), k.by().User)
	if err != nil {
		return nil, err
	}
	manages := map[string]bool{}
	for _, m := range members {
		permissions, _ := m.Role.Permissions()
		if m.User == user.Name && k.memberState(m) == "live" && permissions.Has(authz.PermManage) {
			manages[m.Project] = true
		}
	}
	for _, m := range members {
		concerns := manages[m.Project] || user.SiteRole == authz.SiteSecurity && m.Role == authz.RoleManager
		if k.memberState(m) != "proposed" || m.GrantedBy == user.Name || m.User == user.Name || !concerns {
			continue
		}
		text := fmt.Sprintf("%s proposes %s as %s of %s; to agree:", m.GrantedBy, m.User, m.Role, m.Project)
		lines = append(append(lines, wrap(Clean(text), k.width())...), "  member approve "+m.ID)
	}
	return lines, nil
}

func (k *call) memberState(m authz.Membership) string {
	switch {
	case !m.EndedAt.IsZero():
		return "ended"
	case m.ApprovedBy == "":
		return "proposed"
	case !m.ExpiresAt.IsZero() && !k.now().Before(m.ExpiresAt):
		return "expired"
	}
	return "live"
}
