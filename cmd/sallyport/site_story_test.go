package main

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"sallyport/authz"
	"sallyport/bastion/console"
	"sallyport/internal/config"
	"sallyport/internal/node"
	"sallyport/internal/testkit"
	"sallyport/recorder"
)

// site is what all stories begin with: a node that is not running, two
// projects with a real data server each, and people who have enrolled. Each
// story gets a copy, so that no story sees another's doings; only the data
// servers and their accounts are shared.
//
// Everybody enrolled long enough ago that all codes of the present are unused.
type site struct {
	dir     string
	userCA  ssh.PublicKey
	nodeKey ed25519.PublicKey
	servers map[string]*testkit.SSHD // by project
}

// accounts are those of the data servers.
func accounts() []string { return []string{"sp-alice", "sp-bob", "sp-carol", "sp-ivan"} }

// member is a role in a project.
type member struct {
	project string
	role    authz.Role
	account string
}

// cast are the people of the site. ada is its first administrator, and the
// account that runs the tests is hers; dave has only been added.
var cast = []struct {
	name    string
	site    authz.SiteRole
	members []member
}{
	{name: "tomas", site: authz.SiteSecurity},
	{name: "rosa", site: authz.SiteAuditor},
	{name: "mei", members: []member{{"genomics", authz.RoleManager, ""}, {"cohort", authz.RoleManager, ""}}},
	{name: "alice", members: []member{{"genomics", authz.RoleResearcher, "sp-alice"}}},
	{name: "bob", members: []member{{"genomics", authz.RoleExporter, "sp-bob"}, {"cohort", authz.RoleResearcher, "sp-bob"}}},
	{name: "carol", members: []member{{"genomics", authz.RoleOperator, "sp-carol"}}},
	{name: "ivan", members: []member{{"genomics", authz.RoleImporter, "sp-ivan"}}},
	{name: "cleo", members: []member{{"genomics", authz.RoleChecker, ""}}},
	{name: "nora", members: []member{{"genomics", authz.RoleProjectAuditor, ""}}},
	{name: "otto", members: []member{{"cohort", authz.RoleProjectAuditor, ""}}},
	{name: "eve"},
}

// enrolledAgo is how long ago the people enrolled.
const enrolledAgo = time.Hour

// makeSite makes the node, starts the data servers and enrols the people.
func makeSite(ctx context.Context) (s *site, err error) {
	s = &site{servers: map[string]*testkit.SSHD{}}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	if s.dir, err = os.MkdirTemp("", "sallyport-site-"); err != nil {
		return s, err
	}
	past := node.Options{Log: slog.New(slog.DiscardHandler), Clock: func() time.Time { return time.Now().Add(-enrolledAgo) }}
	made, err := node.Init(ctx, filepath.Join(s.dir, "gate"), node.InitOptions{Name: "gate.test", Listen: "127.0.0.1:0",
		Metrics: "127.0.0.1:0", Admin: "ada", OSUser: "root", Node: past})
	if err != nil {
		return s, err
	}
	c, err := config.Load(made.Config)
	if err != nil {
		return s, err
	}
	if s.nodeKey, err = readNodeKey(c.Keys.Node + ".pub"); err != nil {
		return s, err
	}
	if s.userCA, err = node.PublicKey(c.CA.User + ".pub"); err != nil {
		return s, err
	}
	for _, project := range []string{"genomics", "cohort"} {
		s.servers[project], err = testkit.NewSSHD(ctx, testkit.SSHDOptions{Project: project, Accounts: accounts(), UserCA: s.userCA})
		if err != nil {
			return s, err
		}
	}
	if err := s.writeFiles(c); err != nil {
		return s, err
	}
	n, err := node.Open(ctx, c, past)
	if err != nil {
		return s, err
	}
	return s, errors.Join(s.populate(ctx, n.Authority, made.Invite), n.Close())
}

// writeFiles writes what everybody's ssh uses. The gate is known by its
// certificate authority under its public name, whatever the port.
func (s *site) writeFiles(c *config.Config) error {
	authority, err := node.PublicKey(c.CA.Host + ".pub")
	if err != nil {
		return err
	}
	return errors.Join(
		os.WriteFile(filepath.Join(s.dir, "known_hosts"), []byte(console.KnownHostsLine(c.Name, 22, authority)+"\n"), 0o644),
		os.WriteFile(filepath.Join(s.dir, "askpass"), []byte(askpass), 0o755),
		os.Mkdir(filepath.Join(s.dir, "auditor"), 0o700))
}

func (s *site) populate(ctx context.Context, a *authz.Authority, invite string) error {
	if err := s.enrol(ctx, a, "ada", invite); err != nil {
		return err
	}
	ada := authz.Actor{User: "ada", RemoteAddr: "local", Via: "socket"}
	tomas := authz.Actor{User: "tomas", RemoteAddr: "127.0.0.1", Via: "ssh"}
	mei := authz.Actor{User: "mei", RemoteAddr: "127.0.0.1", Via: "ssh"}
	for project := range s.servers {
		if err := s.addProject(ctx, a, ada, project); err != nil {
			return err
		}
	}
	until := time.Now().Add(90 * 24 * time.Hour).UTC()
	for _, p := range cast {
		if err := a.AddUser(ctx, ada, authz.User{Name: p.name, SiteRole: p.site}); err != nil {
			return err
		}
		if u, err := a.User(ctx, p.name); err != nil || u.ProposedRole != authz.NoSiteRole {
			if err := errors.Join(err, a.ApproveSiteRole(ctx, tomas, p.name)); err != nil {
				return err
			}
		}
		token, _, err := a.CreateInvite(ctx, ada, p.name, 24*time.Hour)
		if err != nil {
			return err
		}
		if err := s.enrol(ctx, a, p.name, token); err != nil {
			return err
		}
		for _, m := range p.members {
			by := mei
			if p.name == "mei" {
				by = ada
			}
			made, err := a.AddMember(ctx, by, authz.Membership{Project: m.project, User: p.name, Role: m.role, Account: m.account,
				Reason: "member of the site of the stories", ExpiresAt: until})
			if err == nil && made.ApprovedBy == "" {
				err = a.ApproveMember(ctx, tomas, made.ID)
			}
			if err != nil {
				return fmt.Errorf("%s in %s: %w", p.name, m.project, err)
			}
		}
	}
	if _, _, err := newPerson(s.dir, "dave"); err != nil {
		return err
	}
	return a.AddUser(ctx, ada, authz.User{Name: "dave"})
}

func (s *site) addProject(ctx context.Context, a *authz.Authority, by authz.Actor, name string) error {
	levels := []authz.Level{{Name: "project", Eligible: authz.RoleManager, Quorum: 1}, {Name: "security", Site: authz.SiteSecurity, Quorum: 1}}
	if err := a.AddProject(ctx, by, authz.Project{Name: name, Title: "Project " + name, Levels: levels}); err != nil {
		return err
	}
	d := s.servers[name]
	err := a.AddServer(ctx, by, authz.Server{Project: name, Name: "db1", Address: d.Address,
		HostKey: testkit.AuthorizedLine(d.HostKey.Signer.PublicKey())})
	if err != nil {
		return err
	}
	keys, err := recorder.NewEpochKeys()
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(s.dir, "auditor", name+".key"), keys.MarshalPrivate(name), 0o600); err != nil {
		return err
	}
	return a.AddEpoch(ctx, by, authz.Epoch{ID: name + "/story", Project: name, Recipient: keys.Recipient, Strict: keys.Strict,
		ExpiresAt: time.Now().Add(90 * 24 * time.Hour).UTC()})
}

// enrol binds key and authenticator as the dialogue of an invite does.
func (s *site) enrol(ctx context.Context, a *authz.Authority, name, token string) error {
	p, key, err := newPerson(s.dir, name)
	if err != nil {
		return err
	}
	checked, err := authz.CheckKey(key.Authorized)
	if err != nil {
		return err
	}
	secret, _, err := a.NewTOTPSecret(name)
	if err != nil {
		return err
	}
	code, err := testkit.CodeAt(secret, time.Now().Add(-enrolledAgo))
	if err != nil {
		return err
	}
	recovery, err := a.Enrol(ctx, authz.Enrolment{Token: token, Key: checked, Secret: secret, Code: code, RemoteAddr: "127.0.0.1"})
	if err != nil {
		return fmt.Errorf("enrolling %s: %w", name, err)
	}
	return p.give(secret, strings.Join(recovery, "\n")+"\n")
}

// copyTo copies the site into a story's folder.
func (s *site) copyTo(dir string) error {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return err
	}
	words := []string{"-a", "--no-target-directory"}
	for _, e := range entries {
		from, to := filepath.Join(s.dir, e.Name()), filepath.Join(dir, e.Name())
		if out, err := exec.Command("cp", append(words, from, to)...).CombinedOutput(); err != nil {
			return fmt.Errorf("copying the site: %w: %s", err, out)
		}
	}
	return nil
}

func (s *site) close() error {
	var errs []error
	for _, d := range s.servers {
		if d != nil {
			errs = append(errs, d.Close())
		}
	}
	if s.dir != "" {
		errs = append(errs, os.RemoveAll(s.dir))
	}
	return errors.Join(errs...)
}
