package authz

import (
	"errors"
	"testing"
	"time"
)

func TestPromise7_SiteRolesExcludeOneAnother(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		ctx := t.Context()
		roles := []SiteRole{SiteAdmin, SiteSecurity, SiteAuditor}
		for i, held := range roles {
			w.ok(w.SetSiteRole(ctx, w.as("adam"), "bob", held, "new duty"))
			w.ok(w.ApproveSiteRole(ctx, w.as("sara"), "bob"))
			for j, wanted := range roles {
				if i == j {
					continue
				}
				w.refused(w.SetSiteRole(ctx, w.as("adam"), "bob", wanted, "new duty"), "role.conflict")
				if e := w.last("role.conflict.denied"); e.ResourceID != "bob" || e.UserID != "adam" {
					t.Errorf("the event is %+v", e)
				}
			}
			user, err := w.User(ctx, "bob")
			w.ok(err)
			if user.SiteRole != held {
				t.Errorf("bob is %s, want %s", user.SiteRole, held)
			}
			taker := "adam"
			if held == SiteSecurity {
				w.refused(w.SetSiteRole(ctx, w.as("adam"), "bob", NoSiteRole, "duty ended"), "role.missing")
				taker = "sara"
			}
			w.ok(w.SetSiteRole(ctx, w.as(taker), "bob", NoSiteRole, "duty ended"))
		}
		w.refused(w.SetSiteRole(ctx, w.as("adam"), "adam", NoSiteRole, "tired"), "self")
		w.refused(w.SetSiteRole(ctx, w.as("sara"), "bob", SiteAdmin, "new duty"), "role.missing")
		w.refused(w.SetSiteRole(ctx, w.as("adam"), "bob", "king", "new duty"), "input.role")
	})
}

// What one administrator does alone gives nobody a site role or a project.
func TestPromise7_OneAdministratorIsNotEnough(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		ctx := t.Context()
		adam, until := w.as("adam"), start.AddDate(0, 1, 0)
		w.ok(w.AddUser(ctx, adam, User{Name: "mole", SiteRole: SiteSecurity}))
		w.enrol("mole")
		w.ok(w.SetSiteRole(ctx, adam, "bob", SiteAuditor, "new duty"))
		for user, role := range map[string]SiteRole{"mole": SiteSecurity, "bob": SiteAuditor} {
			u, err := w.User(ctx, user)
			w.ok(err)
			if u.SiteRole != NoSiteRole || u.ProposedRole != role {
				t.Errorf("%s has %q, proposed %q", user, u.SiteRole, u.ProposedRole)
			}
			w.refused(w.ApproveSiteRole(ctx, adam, user), "role.missing")
			w.refused(w.ApproveSiteRole(ctx, w.as(user), user), "role.missing")
		}
		w.refused(w.ApproveSiteRole(ctx, w.as("sara"), "alice"), "role.not-proposed")
		w.refused(w.ApproveSiteRole(ctx, Actor{Via: "recover"}, "mole"), "actor.unbound")

		// A manager of the administrator's own, who would let the administrator in.
		m, err := w.AddMember(ctx, adam, Membership{User: "mole", Project: "imaging", Role: RoleManager, Reason: goodReason, ExpiresAt: until})
		w.ok(err)
		if m.ApprovedBy != "" {
			t.Fatalf("an administrator alone made %+v", m)
		}
		_, err = w.AddMember(ctx, w.as("mole"), Membership{User: "adam", Project: "imaging", Role: RoleExporter, Reason: goodReason, ExpiresAt: until})
		w.refused(err, "role.missing")
		w.refused(w.ApproveMember(ctx, adam, m.ID), "role.missing")
		w.refused(w.ApproveMember(ctx, w.as("mole"), m.ID), "self")
		w.refused(w.ApproveMember(ctx, w.as("odin"), m.ID), "role.missing")

		// A project that has a manager gets another from that one.
		second, err := w.AddMember(ctx, adam, Membership{User: "mole", Project: "genomics", Role: RoleManager, Reason: goodReason, ExpiresAt: until})
		w.ok(err)
		w.refused(w.ApproveMember(ctx, w.as("sara"), second.ID), "role.missing")
		w.ok(w.ApproveMember(ctx, w.as("mia"), second.ID))

		// With the security administrator it is done.
		w.ok(w.ApproveMember(ctx, w.as("sara"), m.ID))
		w.ok(w.ApproveSiteRole(ctx, w.as("sara"), "bob"))
		if u, err := w.User(ctx, "bob"); err != nil || u.SiteRole != SiteAuditor || u.ProposedRole != NoSiteRole {
			t.Errorf("bob is %+v, %v", u, err)
		}
		if e := w.last("role.approve"); e.UserID != "sara" || e.Details["proposed_by"] != "adam" {
			t.Errorf("the event is %+v", e)
		}
		// What is taken is gone at once, a proposal too.
		w.ok(w.SetSiteRole(ctx, adam, "mole", NoSiteRole, "no duty"))
		w.refused(w.ApproveSiteRole(ctx, w.as("sara"), "mole"), "role.not-proposed")
	})
}

// An administrator does not get rid of the second pair of eyes by freezing it or taking its role.
func TestPromise7_OneAdministratorCannotBeRidOfTheOther(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		ctx := t.Context()
		adam, until := w.as("adam"), start.AddDate(0, 1, 0)
		w.ok(w.AddUser(ctx, adam, User{Name: "mole"}))
		w.enrol("mole")
		w.refused(w.SetSiteRole(ctx, adam, "sara", NoSiteRole, "left us"), "role.missing")
		w.ok(w.Freeze(ctx, adam, "sara", "an incident"))
		m, err := w.AddMember(ctx, adam, Membership{User: "mole", Project: "imaging", Role: RoleManager, Reason: goodReason, ExpiresAt: until})
		w.ok(err)
		w.ok(w.SetSiteRole(ctx, adam, "mole", SiteSecurity, "the new one"))
		if u, err := w.User(ctx, "mole"); err != nil || u.SiteRole != NoSiteRole || m.ApprovedBy != "" {
			t.Errorf("mole is %+v, %+v, %v", u, m, err)
		}
	})
}

// Nobody is locked out for good: recovering the node unfreezes who helps the others, and nobody else.
func TestRecoveryUnfreezesThoseWhoHelpTheOthers(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		ctx := t.Context()
		w.refused(w.Freeze(ctx, w.as("adam"), "adam", "slip of the finger"), "self")
		w.ok(w.Freeze(ctx, w.as("sara"), "adam", "an incident"))
		w.ok(w.Unfreeze(ctx, recovery, "adam", "nobody else is left"))
		w.ok(w.ResetFactor(ctx, recovery, "adam", "the phone is lost"))
		w.ok(w.Freeze(ctx, w.as("sara"), "bob", "an incident"))
		w.refused(w.Unfreeze(ctx, recovery, "bob", "he asks for it"), "actor.unbound")
		w.refused(w.Unfreeze(ctx, bootstrap, "bob", "he asks for it"), "actor.unbound")
	})
}

// Somebody must begin: while there is no security administrator, an administrator acts alone.
func TestASiteBeginsWithOneAdministrator(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		ctx := t.Context()
		w.ok(w.SetSiteRole(ctx, recovery, "sara", NoSiteRole, "as if there were none"))
		w.ok(w.SetSiteRole(ctx, w.as("adam"), "bob", SiteSecurity, "the first one"))
		m, err := w.AddMember(ctx, w.as("adam"), Membership{User: "bob", Project: "imaging", Role: RoleManager, Reason: goodReason, ExpiresAt: start.AddDate(0, 1, 0)})
		w.ok(err)
		if u, err := w.User(ctx, "bob"); err != nil || u.SiteRole != SiteSecurity || m.ApprovedBy != "adam" {
			t.Errorf("bob is %+v, %+v, %v", u, m, err)
		}
		w.ok(w.SetSiteRole(ctx, w.as("adam"), "alice", SiteAuditor, "now it takes two"))
		if u, err := w.User(ctx, "alice"); err != nil || u.SiteRole != NoSiteRole {
			t.Errorf("alice is %+v, %v", u, err)
		}
	})
}

// recovery is who acts when a node is recovered.
var recovery = Actor{User: "system", RemoteAddr: "local", Via: "recover"}

// Each act, and who of the site may do it.
func TestWhoMayAdminister(t *testing.T) {
	acts := map[string]struct {
		may []string
		act func(w *world, by Actor) error
	}{
		"add user":    {[]string{"adam"}, func(w *world, by Actor) error { return w.AddUser(w.t.Context(), by, User{Name: "new"}) }},
		"os user":     {[]string{"adam"}, func(w *world, by Actor) error { return w.SetOSUser(w.t.Context(), by, "bob", "bob") }},
		"freeze":      {[]string{"adam", "sara"}, func(w *world, by Actor) error { return w.Freeze(w.t.Context(), by, "bob", "why not") }},
		"add project": {[]string{"adam"}, func(w *world, by Actor) error { return w.AddProject(w.t.Context(), by, Project{Name: "new"}) }},
		"add server": {[]string{"adam"}, func(w *world, by Actor) error {
			return w.AddServer(w.t.Context(), by, Server{Project: "genomics", Name: "new", Address: "h:22", HostCA: someCA})
		}},
		"host key": {[]string{"adam"}, func(w *world, by Actor) error {
			return w.SetServerHostKey(w.t.Context(), by, "genomics", "db1", keyLine("new"), "", "reinstalled")
		}},
		"training": {[]string{"adam", "sara"}, func(w *world, by Actor) error {
			return w.SetTraining(w.t.Context(), by, "bob", "data protection", start.AddDate(1, 0, 0))
		}},
		"terms": {[]string{"sara"}, func(w *world, by Actor) error {
			_, err := w.SetTerms(w.t.Context(), by, "Be careful.")
			return err
		}},
		"add key": {[]string{"sara"}, func(w *world, by Actor) error { return w.AddKey(w.t.Context(), by, "bob", keyOf("second")) }},
		"epoch": {[]string{"odin", "paula"}, func(w *world, by Actor) error {
			return w.AddEpoch(w.t.Context(), by, Epoch{ID: "genomics/next", Project: "genomics", Recipient: recipientOf("next"), Strict: recipientOf("nextstrict"),
				ExpiresAt: start.AddDate(1, 0, 0)})
		}},
		"factor": {[]string{"sara"}, func(w *world, by Actor) error { return w.ResetFactor(w.t.Context(), by, "bob", "lost it") }},
	}
	for name, c := range acts {
		t.Run(name, func(t *testing.T) {
			onBoth(t, func(t *testing.T, w *world) {
				may := map[string]bool{}
				for _, by := range c.may {
					may[by] = true
				}
				for _, by := range []string{"odin", "mia", "alice", "paula", "olga", "sara", "adam", "nobody", ""} {
					if may[by] {
						continue
					}
					var r *Refusal
					if err := c.act(w, w.as(by)); !errors.As(err, &r) {
						t.Errorf("%q: %v, want a refusal", by, err)
						continue
					}
					w.recorded(r)
				}
				w.ok(c.act(w, w.as(c.may[0])))
			})
		})
	}
}

func TestMembersAreAddedByManagers(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		ctx := t.Context()
		base := Membership{User: "bob", Project: "genomics", Role: RoleResearcher, Reason: goodReason, ExpiresAt: start.AddDate(0, 1, 0)}
		with := func(change func(*Membership)) Membership { m := base; change(&m); return m }
		for _, c := range []struct {
			by   string
			m    Membership
			rule string
		}{
			{"mia", with(func(m *Membership) { m.User = "mia" }), "self"},
			{"adam", with(func(m *Membership) { m.User, m.Role = "adam", RoleManager }), "self"},
			{"alice", base, "role.missing"},
			{"sara", base, "role.missing"},
			{"paula", base, "role.missing"},
			{"mia", with(func(m *Membership) { m.Project = "imaging" }), "role.missing"},
			{"mia", with(func(m *Membership) { m.Reason = "because" }), "input.text"},
			{"mia", with(func(m *Membership) { m.Reason = "ten lines \x1b[2J" }), "input.text"},
			{"mia", with(func(m *Membership) { m.ExpiresAt = time.Time{} }), "input.expiry"},
			{"mia", with(func(m *Membership) { m.ExpiresAt = start }), "input.expiry"},
			{"mia", with(func(m *Membership) { m.Role = "king" }), "input.role"},
			{"mia", with(func(m *Membership) { m.Account = "root" }), "account.superuser"},
			{"mia", with(func(m *Membership) { m.Account = "sync" }), "account.superuser"},
			{"mia", with(func(m *Membership) { m.Account = "systemd-network" }), "account.superuser"},
			{"mia", with(func(m *Membership) { m.Account = "_apt" }), "account.superuser"},
			{"mia", with(func(m *Membership) { m.Account = "a b" }), "input.account"},
			{"mia", with(func(m *Membership) { m.Account = "alice" }), "account.taken"},
			{"mia", with(func(m *Membership) { m.User, m.Role = "paula", RoleResearcher }), "membership.conflict"},
			{"mia", with(func(m *Membership) { m.User, m.Role = "alice", RoleProjectAuditor }), "membership.conflict"},
		} {
			_, err := w.AddMember(ctx, w.as(c.by), c.m)
			w.refused(err, c.rule)
		}
		m, err := w.AddMember(ctx, w.as("mia"), base)
		w.ok(err)
		if m.Account != "bob" || m.ApprovedBy != "mia" || m.GrantedBy != "mia" || m.ID == "" {
			t.Errorf("added %+v", m)
		}
		w.ok(w.EndMember(ctx, w.as("mia"), m.ID, "done here"))
		w.refused(w.EndMember(ctx, w.as("mia"), m.ID, "done here"), "membership.ended")
		_, err = w.AddMember(ctx, w.as("mia"), Membership{User: "alice", Project: "genomics", Role: RoleExporter, Account: "bob",
			Reason: goodReason, ExpiresAt: base.ExpiresAt})
		w.refused(err, "account.taken") // an account outlives its membership
		manager := w.add("mia", "bob", RoleManager)
		if manager.Account != "" {
			t.Errorf("a manager got the account %q", manager.Account)
		}
		if e := w.last("member.add"); e.Project != "genomics" || e.Details["reason"] != goodReason {
			t.Errorf("the event is %+v", e)
		}
	})
}

func TestAdministratorsOnlyPropose(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		ctx := t.Context()
		m := w.add("adam", "bob", RoleExporter)
		if m.ApprovedBy != "" {
			t.Fatalf("an administrator alone added %+v", m)
		}
		if d := w.decide(w.ask("bob", ActionShell)); d.Rule != "membership.proposed" {
			t.Errorf("a proposed member is refused by %s", d.Rule)
		}
		w.refused(w.ApproveMember(ctx, w.as("adam"), m.ID), "role.missing")
		w.refused(w.ApproveMember(ctx, w.as("bob"), m.ID), "self")
		if err := w.ApproveMember(ctx, w.as("mia"), "M-none"); !errors.Is(err, ErrNotFound) {
			t.Errorf("approving nothing: %v", err)
		}
		w.ok(w.ApproveMember(ctx, w.as("mia"), m.ID))
		w.refused(w.ApproveMember(ctx, w.as("mia"), m.ID), "membership.approved")
		if d := w.decide(w.ask("bob", ActionSFTP)); d.Outcome != Allow {
			t.Errorf("after the approval: %+v", d)
		}
		for by, want := range map[string]int{"mia": 7, "paula": 7, "odin": 7, "adam": 7, "alice": 1} {
			members, err := w.Members(ctx, w.as(by), "genomics")
			if err != nil || len(members) != want {
				t.Errorf("%s sees %d members (%v), want %d", by, len(members), err, want)
			}
		}
	})
}

func TestWhatPeopleSeeOfEachOther(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		ctx := t.Context()
		w.ok(w.SetOSUser(ctx, w.as("adam"), "alice", "alice-os"))
		for by, want := range map[string]int{"adam": 10, "sara": 10, "odin": 10, "mia": 10, "alice": 1} {
			users, err := w.Users(ctx, w.as(by))
			if err != nil || len(users) != want {
				t.Errorf("%s sees %d people (%v), want %d", by, len(users), err, want)
			}
			for _, u := range users {
				if by == "mia" && u.OSUser != "" {
					t.Errorf("a manager sees %+v", u)
				}
			}
		}
		user, err := w.UserByOSUser(ctx, "alice-os")
		if err != nil || user.Name != "alice" {
			t.Errorf("by OS user: %+v, %v", user, err)
		}
		w.refused(w.SetOSUser(ctx, w.as("adam"), "bob", "alice-os"), "os-user.taken")
		if _, err := w.UserByOSUser(ctx, "root"); !errors.Is(err, ErrNotFound) {
			t.Errorf("an unbound OS user: %v", err)
		}
		_, err = w.Keys(ctx, w.as("alice"), "bob")
		w.refused(err, "role.missing")
		if keys, err := w.Keys(ctx, w.as("odin"), "bob"); err != nil || len(keys) != 1 {
			t.Errorf("an auditor sees keys %v, %v", keys, err)
		}
	})
}

func TestTermsAndTraining(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		ctx := t.Context()
		if version, text, err := w.Terms(ctx); version != "" || text != "" || err != nil {
			t.Errorf("no terms are %q, %q, %v", version, text, err)
		}
		first, err := w.SetTerms(ctx, w.as("sara"), "Be careful.")
		w.ok(err)
		if d := w.decide(w.ask("alice", ActionShell)); d.Rule != "terms.outdated" {
			t.Errorf("unaccepted terms: %s", d.Rule)
		}
		w.ok(w.AcceptTerms(ctx, w.as("alice"), first))
		w.open(w.ask("alice", ActionShell))
		second, err := w.SetTerms(ctx, w.as("sara"), "Be very careful.")
		w.ok(err)
		w.refused(w.AcceptTerms(ctx, w.as("alice"), first), "terms.changed")
		if version, text, err := w.Terms(ctx); version != second || text != "Be very careful." || err != nil {
			t.Errorf("the terms in force are %q, %q, %v", version, text, err)
		}
		if again, err := w.SetTerms(ctx, w.as("sara"), "Be careful."); err != nil || again != first {
			t.Errorf("the earlier terms again: %q, %v", again, err)
		}
		p, err := w.Project(ctx, "genomics")
		w.ok(err)
		p.Training = true
		w.ok(w.SetProject(ctx, w.as("adam"), p, "ethics board"))
		if d := w.decide(w.ask("alice", ActionShell)); d.Rule != "training.expired" {
			t.Errorf("no training: %s", d.Rule)
		}
		w.ok(w.SetTraining(ctx, w.as("adam"), "alice", "data protection", start.Add(time.Hour)))
		if d := w.decide(w.ask("alice", ActionShell)); d.Outcome != Allow || !d.Until.Equal(start.Add(time.Hour)) {
			t.Errorf("with training: %+v", d)
		}
	})
}
