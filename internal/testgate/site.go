package testgate

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
	"sallyport/internal/config"
	"sallyport/internal/node"
	"sallyport/internal/testkit"
	"sallyport/recorder"
)

// Project is the name of a site's project, and the prefix of the principals that its data server takes.
const Project = "bench"

// administrator and manager are the two acts of authority that a project
// needs; neither ever logs in.
const (
	administrator = "admin"
	manager       = "manager"
)

// reason stands in the node's ledger beside each act of the set-up.
const reason = "set up for a harness"

// enrolledAgo is how long ago everybody enrolled, so that all codes of the present are unused.
const enrolledAgo = time.Hour

// folders of a site.
const (
	nodeFolder    = "node"
	auditorFile   = "auditor.key" // the private half of the project's epoch
	devicesFolder = "devices"
)

// Site is a node on disk with its people.
type Site struct {
	Dir     string
	Config  *config.Config
	UserCA  ssh.PublicKey     // what the data server has to trust
	Host    ssh.PublicKey     // what clients have to trust
	NodeKey ed25519.PublicKey // what verification has to know
	People  []*Person

	invite string // the administrator's
}

// Person is a member of the project who may do everything: shell, exec, both directions.
type Person struct {
	Name   string
	Signer ssh.Signer
	Device *testkit.Authenticator
}

// Auditor is the file of the private epoch keys, which open the project's recordings.
func (s *Site) Auditor() string { return filepath.Join(s.Dir, auditorFile) }

// past are a node's options for a set-up that happened some time ago.
func past() node.Options {
	return node.Options{Version: "harness", Log: slog.New(slog.DiscardHandler),
		Clock: func() time.Time { return time.Now().Add(-enrolledAgo) }}
}

// Make makes a node in dir as `sallyport init` does; Populate puts the people in. lines are added to the configuration.
func Make(ctx context.Context, dir string, lines ...string) (*Site, error) {
	made, err := node.Init(ctx, filepath.Join(dir, nodeFolder), node.InitOptions{
		Name: "gate.test", Listen: "127.0.0.1:0", Metrics: "off",
		Admin: administrator, Display: "Administrator", Node: past(),
	})
	if err != nil {
		return nil, fmt.Errorf("making the node: %w", err)
	}
	f, err := os.OpenFile(made.Config, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return nil, err
	}
	_, err = f.WriteString(strings.Join(append(lines, ""), "\n"))
	if err := errors.Join(err, f.Close()); err != nil {
		return nil, fmt.Errorf("writing the configuration: %w", err)
	}
	s, err := open(dir)
	if err != nil {
		return nil, err
	}
	s.invite = made.Invite
	return s, nil
}

// open reads what a site's folder holds, but for the people.
func open(dir string) (*Site, error) {
	c, err := config.Load(filepath.Join(dir, nodeFolder, "sallyport.yaml"))
	if err != nil {
		return nil, err
	}
	s := &Site{Dir: dir, Config: c}
	if s.UserCA, err = node.PublicKey(c.CA.User + ".pub"); err != nil {
		return nil, err
	}
	if s.Host, err = node.PublicKey(c.HostKeys[0] + ".pub"); err != nil {
		return nil, err
	}
	key, err := node.PublicKey(c.Keys.Node + ".pub")
	if err != nil {
		return nil, err
	}
	s.NodeKey = key.(ssh.CryptoPublicKey).CryptoPublicKey().(ed25519.PublicKey)
	return s, nil
}

// Copy copies the site to a new folder, with devices of its own that have used no code.
func (s *Site) Copy(ctx context.Context, dir string) (*Site, error) {
	if out, err := exec.CommandContext(ctx, "cp", "-a", "--no-target-directory", s.Dir, dir).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("copying the site: %w: %s", err, out)
	}
	made, err := open(dir)
	if err != nil {
		return nil, err
	}
	for _, p := range s.People {
		device, err := testkit.MakeAuthenticator(filepath.Join(dir, devicesFolder), p.Name, p.Device.Secret)
		if err != nil {
			return nil, err
		}
		made.People = append(made.People, &Person{Name: p.Name, Signer: p.Signer, Device: device})
	}
	return made, nil
}

// Server is the data server of the project.
type Server struct {
	Address  string
	HostKey  ssh.PublicKey
	Accounts []string // one person gets each
}

// Populate opens the node without serving it, and puts project, epoch, data
// server and one enrolled exporter for each account in.
func (s *Site) Populate(ctx context.Context, server Server) (err error) {
	if err := os.MkdirAll(filepath.Join(s.Dir, devicesFolder), 0o700); err != nil {
		return err
	}
	n, err := node.Open(ctx, s.Config, past())
	if err != nil {
		return fmt.Errorf("opening the node: %w", err)
	}
	defer func() { err = errors.Join(err, n.Close()) }()
	a := n.Authority
	if _, err := s.enrol(ctx, a, administrator, s.invite); err != nil {
		return err
	}
	admin := authz.Actor{User: administrator, RemoteAddr: "local", Via: "socket"}
	until := time.Now().Add(24 * time.Hour).UTC()
	if err := s.addProject(ctx, a, admin, server, until); err != nil {
		return err
	}
	if _, err := s.newcomer(ctx, a, admin, manager); err != nil {
		return err
	}
	if _, err := a.AddMember(ctx, admin, authz.Membership{User: manager, Project: Project, Role: authz.RoleManager,
		Account: manager, Reason: reason, ExpiresAt: until}); err != nil {
		return fmt.Errorf("making the manager one: %w", err)
	}
	by := authz.Actor{User: manager, RemoteAddr: "127.0.0.1", Via: "ssh"}
	for i, account := range server.Accounts {
		p, err := s.newcomer(ctx, a, admin, fmt.Sprintf("person%d", i+1))
		if err != nil {
			return err
		}
		if _, err := a.AddMember(ctx, by, authz.Membership{User: p.Name, Project: Project, Role: authz.RoleExporter,
			Account: account, Reason: reason, ExpiresAt: until}); err != nil {
			return fmt.Errorf("adding %s to the project: %w", p.Name, err)
		}
		s.People = append(s.People, p)
	}
	return nil
}

// addProject adds the project with its data server and the auditors' keys; the
// private halves are kept beside the node.
func (s *Site) addProject(ctx context.Context, a *authz.Authority, admin authz.Actor, server Server, until time.Time) error {
	err := a.AddProject(ctx, admin, authz.Project{Name: Project, Title: "Harness", Level: "type1", State: "active",
		From: time.Now().Add(-2 * enrolledAgo).UTC(), Until: until})
	if err != nil {
		return fmt.Errorf("adding the project: %w", err)
	}
	if err := a.AddServer(ctx, admin, authz.Server{Project: Project, Name: "target", Address: server.Address,
		HostKey: testkit.AuthorizedLine(server.HostKey)}); err != nil {
		return fmt.Errorf("adding the data server: %w", err)
	}
	keys, err := recorder.NewEpochKeys()
	if err != nil {
		return err
	}
	if err := os.WriteFile(s.Auditor(), keys.MarshalPrivate(Project), 0o600); err != nil {
		return err
	}
	if err := a.AddEpoch(ctx, admin, authz.Epoch{ID: Project + "/harness", Project: Project,
		Recipient: keys.Recipient, Strict: keys.Strict, ExpiresAt: until}); err != nil {
		return fmt.Errorf("adding the epoch key: %w", err)
	}
	return nil
}

func (s *Site) newcomer(ctx context.Context, a *authz.Authority, admin authz.Actor, name string) (*Person, error) {
	if err := a.AddUser(ctx, admin, authz.User{Name: name, Display: name}); err != nil {
		return nil, fmt.Errorf("adding %s: %w", name, err)
	}
	token, _, err := a.CreateInvite(ctx, admin, name, 24*time.Hour)
	if err != nil {
		return nil, fmt.Errorf("inviting %s: %w", name, err)
	}
	return s.enrol(ctx, a, name, token)
}

// enrol binds a key and an authenticator to a person, as the dialogue of an invite does.
func (s *Site) enrol(ctx context.Context, a *authz.Authority, name, token string) (*Person, error) {
	key, err := testkit.MakeKey(filepath.Join(s.Dir, devicesFolder), name)
	if err != nil {
		return nil, err
	}
	checked, err := authz.CheckKey(key.Authorized)
	if err != nil {
		return nil, fmt.Errorf("key of %s: %w", name, err)
	}
	secret, _, err := a.NewTOTPSecret(name)
	if err != nil {
		return nil, fmt.Errorf("second factor of %s: %w", name, err)
	}
	device, err := testkit.MakeAuthenticator(filepath.Join(s.Dir, devicesFolder), name, secret)
	if err != nil {
		return nil, err
	}
	code, err := testkit.CodeAt(secret, time.Now().Add(-enrolledAgo))
	if err != nil {
		return nil, err
	}
	terms, _, err := a.Terms(ctx)
	if err != nil {
		return nil, fmt.Errorf("reading the terms: %w", err)
	}
	if _, err := a.Enrol(ctx, authz.Enrolment{Token: token, Key: checked, Secret: secret, Code: code,
		TermsVersion: terms, RemoteAddr: "127.0.0.1"}); err != nil {
		return nil, fmt.Errorf("enrolling %s: %w", name, err)
	}
	return &Person{Name: name, Signer: key.Signer, Device: device}, nil
}
