package demo

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"sallyport/authz"
	"sallyport/bastion/console"
	"sallyport/recorder"
)

const (
	// inviteLife is how long an invite of the demo is good.
	inviteLife = time.Hour
	// memberLife is how long memberships of the demo last.
	memberLife = 90 * 24 * time.Hour
	// enrolTries covers a time step that ends while a code is on its way.
	enrolTries = 3
)

const termsText = `Terms of use of the demo environment
1. Use the data for the approved project only, and take nothing out
   but what your role allows.
2. Sessions are recorded and may be replayed by auditors.
3. Keep your key and your authenticator to yourself.
`

// security is the security administrator, who approves what the administrator proposes.
const security = "tomas"

// actor is a person of the demo at work on the node itself.
func actor(name string) authz.Actor {
	return authz.Actor{User: name, RemoteAddr: "local", Via: "socket"}
}

// seed brings in people, projects, servers and memberships as their owners
// would: the administrator adds, the manager decides who is a member, the
// auditor gives the public half of the epoch keys.
func (d *demo) seed(ctx context.Context, firstInvite string) error {
	all := people()
	admin := all[0].name
	for i, p := range all {
		invite := firstInvite
		if i > 0 {
			var err error
			if invite, err = d.invite(ctx, admin, p); err != nil {
				return err
			}
		}
		if err := d.enrol(ctx, p.name, invite); err != nil {
			return err
		}
		if p.site == authz.SiteSecurity {
			if err := d.setTerms(ctx, p.name, all[:i+1]); err != nil {
				return err
			}
		}
	}
	if err := d.seedProjects(ctx, admin); err != nil {
		return err
	}
	return d.seedMembers(ctx, admin)
}

func (d *demo) invite(ctx context.Context, admin string, p person) (string, error) {
	a := d.node.Authority
	if err := a.AddUser(ctx, actor(admin), authz.User{Name: p.name, Display: p.display, SiteRole: p.site}); err != nil {
		return "", fmt.Errorf("add %s: %w", p.name, err)
	}
	u, err := a.User(ctx, p.name)
	if err == nil && u.ProposedRole != authz.NoSiteRole {
		err = a.ApproveSiteRole(ctx, actor(security), p.name)
	}
	if err != nil {
		return "", fmt.Errorf("site role of %s: %w", p.name, err)
	}
	token, _, err := a.CreateInvite(ctx, actor(admin), p.name, inviteLife)
	if err != nil {
		return "", fmt.Errorf("invite %s: %w", p.name, err)
	}
	return token, nil
}

// enrol makes a person's key and authenticator and binds both with the invite.
func (d *demo) enrol(ctx context.Context, name, invite string) error {
	a := d.node.Authority
	public, err := d.state.newPerson(name)
	if err != nil {
		return err
	}
	key, err := authz.CheckKey(strings.TrimSpace(string(ssh.MarshalAuthorizedKey(public))))
	if err != nil {
		return fmt.Errorf("key of %s: %w", name, err)
	}
	secret, _, err := a.NewTOTPSecret(name)
	if err != nil {
		return fmt.Errorf("secret of %s: %w", name, err)
	}
	device := d.authenticator(name)
	if err := device.keep(secret); err != nil {
		return err
	}
	var recovery []string
	for range enrolTries {
		code, err := device.wait(ctx)
		if err != nil {
			return err
		}
		recovery, err = a.Enrol(ctx, authz.Enrolment{Token: invite, Key: key, Secret: secret, Code: code,
			TermsVersion: d.terms, RemoteAddr: "local"})
		if errors.Is(err, authz.ErrWrongCode) {
			continue
		}
		if err != nil {
			return fmt.Errorf("enrol %s: %w", name, err)
		}
		break
	}
	if recovery == nil {
		return fmt.Errorf("enrol %s: no code was taken", name)
	}
	text := strings.Join(recovery, "\n") + "\n"
	if err := os.WriteFile(d.state.path("people", name, "recovery-codes"), []byte(text), 0o600); err != nil {
		return fmt.Errorf("keep the recovery codes of %s: %w", name, err)
	}
	return nil
}

// authenticator is a person's TOTP device for a program that types at once.
func (d *demo) authenticator(name string) authenticator {
	return authenticator{dir: d.state.dir, name: name, now: time.Now, margin: machineTime}
}

// setTerms makes the terms, which those who are there already accept now.
func (d *demo) setTerms(ctx context.Context, by string, present []person) error {
	version, err := d.node.Authority.SetTerms(ctx, actor(by), termsText)
	if err != nil {
		return fmt.Errorf("set the terms: %w", err)
	}
	for _, p := range present {
		if err := d.node.Authority.AcceptTerms(ctx, actor(p.name), version); err != nil {
			return fmt.Errorf("accept the terms as %s: %w", p.name, err)
		}
	}
	d.terms = version
	return nil
}

// seedProjects adds the projects with their servers, host keys pinned, and epoch keys.
func (d *demo) seedProjects(ctx context.Context, admin string) error {
	a := d.node.Authority
	for _, p := range projects() {
		p.Until = time.Now().UTC().Add(365 * 24 * time.Hour)
		if err := a.AddProject(ctx, actor(admin), p); err != nil {
			return fmt.Errorf("add project %s: %w", p.Name, err)
		}
		server := d.servers[p.Name]
		pin := strings.TrimSpace(string(ssh.MarshalAuthorizedKey(server.HostKey.PublicKey())))
		if err := a.AddServer(ctx, actor(admin), authz.Server{Project: p.Name, Name: server.Name, Address: server.Addr(), HostKey: pin}); err != nil {
			return fmt.Errorf("add the server of %s: %w", p.Name, err)
		}
		if err := d.addEpoch(ctx, p.Name); err != nil {
			return err
		}
	}
	return d.keepNodeKey()
}

// addEpoch makes a project's epoch keys. The private half would stay on the
// auditor's own machine; the demo has one folder for everybody.
func (d *demo) addEpoch(ctx context.Context, project string) error {
	now := time.Now().UTC()
	quarter := console.Quarter(now)
	keys, err := recorder.NewEpochKeys()
	if err != nil {
		return err
	}
	if _, err := d.state.mkdir("auditor"); err != nil {
		return err
	}
	name := project + "/" + quarter
	if err := os.WriteFile(d.epochFile(project), keys.MarshalPrivate(name), 0o600); err != nil {
		return fmt.Errorf("keep the epoch key of %s: %w", project, err)
	}
	// Past the quarter, so that a demo on its last evening works too.
	epoch := authz.Epoch{ID: name, Project: project, Recipient: keys.Recipient, Strict: keys.Strict, ExpiresAt: now.Add(memberLife)}
	if err := d.node.Authority.AddEpoch(ctx, actor("rosa"), epoch); err != nil {
		return fmt.Errorf("add the epoch of %s: %w", project, err)
	}
	return nil
}

// keepNodeKey gives the auditors what they verify with.
func (d *demo) keepNodeKey() error {
	key, err := ssh.NewPublicKey(d.node.NodeKey)
	if err != nil {
		return fmt.Errorf("node key: %w", err)
	}
	if err := os.WriteFile(d.nodeKeyFile(), ssh.MarshalAuthorizedKey(key), 0o644); err != nil {
		return fmt.Errorf("keep the node key: %w", err)
	}
	return nil
}

// nodeKeyFile is where the auditors keep the node's public key.
func (d *demo) nodeKeyFile() string { return d.state.path("auditor", "node.pub") }

// epochFile is where the private epoch key of a project lies.
func (d *demo) epochFile(project string) string { return d.state.path("auditor", project+".key") }

// seedMembers lets the administrator and the security administrator make the managers, and the managers everybody else.
func (d *demo) seedMembers(ctx context.Context, admin string) error {
	until := time.Now().UTC().Add(memberLife).Truncate(time.Second)
	add := func(by, project string, p person, role authz.Role) error {
		m, err := d.node.Authority.AddMember(ctx, actor(by), authz.Membership{User: p.name, Project: project, Role: role,
			Reason: fmt.Sprintf("%s is %s in the demo's story", p.display, role), ExpiresAt: until})
		if err == nil && m.ApprovedBy == "" {
			err = d.node.Authority.ApproveMember(ctx, actor(security), m.ID)
		}
		if err != nil {
			return fmt.Errorf("make %s %s of %s: %w", p.name, role, project, err)
		}
		return nil
	}
	for _, managers := range []bool{true, false} {
		for _, p := range people() {
			for _, project := range projects() {
				role, has := p.roles[project.Name]
				if !has || (role == authz.RoleManager) != managers {
					continue
				}
				by := "mei"
				if managers {
					by = admin
				}
				if err := add(by, project.Name, p, role); err != nil {
					return err
				}
			}
		}
	}
	return nil
}
