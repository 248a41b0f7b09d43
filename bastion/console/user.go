package console

import (
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"sallyport/authz"
)

func (k *call) userNoun() *cobra.Command {
	return noun("user", "People: add, show, freeze, invite",
		k.userAdd(), k.userLs(), k.userShow(), k.userRole(), k.userApproveRole(), k.userOSUser(), k.userFreeze(), k.userUnfreeze(), k.userInvite())
}

func (k *call) userAdd() *cobra.Command {
	var display, osUser, role string
	var invite bool
	c := verb("add NAME", "Add a person", func(c *cobra.Command, args []string) error {
		site, err := siteRole(role)
		if err != nil {
			return err
		}
		ctx := c.Context()
		if !authz.ValidUserName(args[0]) {
			return Usagef("%q cannot be a user name; it takes 1 to 32 of a-z, 0-9, '.', '_' and '-', begins with a letter, and is none of invite, system and unauthenticated", args[0])
		}
		if err := k.Authority.AddUser(ctx, k.by(), authz.User{Name: args[0], Display: display, OSUser: osUser, SiteRole: site}); err != nil {
			return err
		}
		u, err := k.Authority.User(ctx, args[0])
		if err != nil {
			return err
		}
		if u.ProposedRole != authz.NoSiteRole {
			fmt.Fprintln(k.verb.Stderr, proposedRole(u))
		}
		if invite {
			return k.invite(c, args[0], defaultInvite)
		}
		return k.done(u, "added %s; `user invite %s` makes the way in", u.Name, u.Name)
	})
	c.Flags().StringVar(&display, "display", "", "the person's full name")
	c.Flags().StringVar(&osUser, "os-user", "", "account on the node that is this person")
	c.Flags().StringVar(&role, "site-role", "none", "none, admin, security-admin or auditor")
	c.Flags().BoolVar(&invite, "invite", false, "make the invite at once")
	return c
}

func siteRole(text string) (authz.SiteRole, error) {
	switch r := authz.SiteRole(text); r {
	case "none":
		return authz.NoSiteRole, nil
	case authz.SiteAdmin, authz.SiteSecurity, authz.SiteAuditor:
		return r, nil
	}
	return "", Usagef("%q is no site role; it is none, admin, security-admin or auditor", text)
}

func (k *call) userLs() *cobra.Command {
	return verb("ls", "List people", func(c *cobra.Command, args []string) error {
		users, err := k.Authority.Users(c.Context(), k.by())
		if err != nil {
			return err
		}
		if k.json {
			return k.printJSON(list(users))
		}
		t := table{heads: []string{"USER", "NAME", "STATE", "SITE ROLE", "FACTOR", "CREATED"}, empty: "There are no people."}
		for _, u := range users {
			t.add(u.Name, dash(u.Display), u.State, dash(string(u.SiteRole)), factorName(u), day(u.CreatedAt))
		}
		t.write(k)
		return nil
	})
}

func factorName(u authz.User) string {
	if u.HasTOTP {
		return "totp"
	}
	return "none"
}

func (k *call) userShow() *cobra.Command {
	return verb("show NAME", "Show a person", func(c *cobra.Command, args []string) error {
		u, err := k.visibleUser(c, args[0])
		if err != nil {
			return err
		}
		if k.json {
			return k.printJSON(u)
		}
		k.printUser(u)
		return nil
	})
}

// visibleUser returns a person whom the caller may see: oneself, or one of `user ls`.
func (k *call) visibleUser(c *cobra.Command, name string) (authz.User, error) {
	if name == k.by().User {
		return k.Authority.User(c.Context(), name)
	}
	users, err := k.Authority.Users(c.Context(), k.by())
	if err != nil {
		return authz.User{}, err
	}
	for _, u := range users {
		if u.Name == name {
			return u, nil
		}
	}
	return authz.User{}, notFound("there is no person %s that you may see", strconv.Quote(name))
}

func (k *call) printUser(u authz.User) {
	var f facts
	f.add("user", u.Name)
	f.addIf("name", u.Display)
	f.add("state", u.State)
	f.addIf("frozen because", u.FrozenReason)
	f.addIf("site role", string(u.SiteRole))
	f.addIf("proposed role", string(u.ProposedRole))
	f.addIf("account on the node", u.OSUser)
	f.add("second factor", factorName(u))
	f.add("terms accepted", dash(shorten(u.TermsVersion, 17)))
	f.add("training until", day(u.TrainingUntil))
	f.add("created", minute(u.CreatedAt)+" by "+dash(u.CreatedBy))
	f.write(k)
}

func (k *call) userRole() *cobra.Command {
	var reason string
	return reasonFlag(verb("role NAME ROLE", "Set the site role: none, admin, security-admin, auditor", func(c *cobra.Command, args []string) error {
		role, err := siteRole(args[1])
		if err != nil {
			return err
		}
		if err := k.Authority.SetSiteRole(c.Context(), k.by(), args[0], role, reason); err != nil {
			return err
		}
		u, err := k.Authority.User(c.Context(), args[0])
		if err != nil {
			return err
		}
		if u.ProposedRole == authz.NoSiteRole {
			return k.done(u, "the site role of %s is %s", args[0], args[1])
		}
		if err := k.done(u, "%s", proposedRole(u)); err != nil {
			return err
		}
		return errWaiting
	}), &reason)
}

// proposedRole says what a site role still waits for.
func proposedRole(u authz.User) string {
	return fmt.Sprintf("the site role %s waits for a security administrator: user approve-role %s", u.ProposedRole, u.Name)
}

func (k *call) userApproveRole() *cobra.Command {
	return verb("approve-role NAME", "Approve the site role that an administrator proposed", func(c *cobra.Command, args []string) error {
		if err := k.Authority.ApproveSiteRole(c.Context(), k.by(), args[0]); err != nil {
			return err
		}
		u, err := k.Authority.User(c.Context(), args[0])
		if err != nil {
			return err
		}
		return k.done(u, "the site role of %s is %s", u.Name, string(u.SiteRole))
	})
}

// doneUser tells what was done to a person; JSON shows the person.
func (k *call) doneUser(c *cobra.Command, name, format string, args ...any) error {
	u, err := k.Authority.User(c.Context(), name)
	if err != nil {
		return err
	}
	return k.done(u, format, args...)
}

func (k *call) userOSUser() *cobra.Command {
	return verb("os-user NAME ACCOUNT", "Bind an account of the node to a person; none unbinds", func(c *cobra.Command, args []string) error {
		account := args[1]
		if account == "none" {
			account = ""
		}
		if err := k.Authority.SetOSUser(c.Context(), k.by(), args[0], account); err != nil {
			return err
		}
		return k.doneUser(c, args[0], "the node's account of %s is %s", args[0], args[1])
	})
}

func (k *call) userFreeze() *cobra.Command {
	var reason string
	return reasonFlag(verb("freeze NAME", "Keep a person out; live sessions end at once", func(c *cobra.Command, args []string) error {
		if err := k.Authority.Freeze(c.Context(), k.by(), args[0], reason); err != nil {
			return err
		}
		return k.doneUser(c, args[0], "%s is frozen", args[0])
	}), &reason)
}

func (k *call) userUnfreeze() *cobra.Command {
	var reason string
	return reasonFlag(verb("unfreeze NAME", "Let a frozen person in again", func(c *cobra.Command, args []string) error {
		if err := k.Authority.Unfreeze(c.Context(), k.by(), args[0], reason); err != nil {
			return err
		}
		return k.doneUser(c, args[0], "%s is no longer frozen", args[0])
	}), &reason)
}

const defaultInvite = 72 * time.Hour

func (k *call) userInvite() *cobra.Command {
	var valid string
	c := verb("invite NAME", "Make a one-time invite to bind key and second factor", func(c *cobra.Command, args []string) error {
		d, err := duration("valid", valid)
		if err != nil {
			return err
		}
		return k.invite(c, args[0], d)
	})
	c.Flags().StringVar(&valid, "valid", "3d", "how long the invite is good")
	return c
}

// Invite is what `user invite` prints.
type Invite struct {
	User      string    `json:"user"`
	Token     string    `json:"token"`
	ExpiresAt time.Time `json:"expires_at"`
	Command   string    `json:"command"` // the line that the person types
	KnownHost string    `json:"known_hosts,omitempty"`
}

func (k *call) invite(c *cobra.Command, user string, valid time.Duration) error {
	token, expires, err := k.Authority.CreateInvite(c.Context(), k.by(), user, valid)
	if err != nil {
		return err
	}
	v := Invite{User: user, Token: token, ExpiresAt: expires.UTC(), Command: InviteLine(k.Name, k.Port, token)}
	if k.HostCA != nil {
		v.KnownHost = KnownHostsLine(k.Name, k.Port, k.HostCA)
	}
	if k.json {
		return k.printJSON(v)
	}
	fmt.Fprintf(k.out, "Invite for %s, good once until %s. Send it over a safe way:\n\n  %s\n", Clean(user), minute(v.ExpiresAt), v.Command)
	if v.KnownHost != "" {
		fmt.Fprintf(k.out, "\nFirst put this line into ~/.ssh/known_hosts, to know the gate:\n\n%s\n", v.KnownHost)
	}
	return nil
}
