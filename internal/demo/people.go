package demo

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"fmt"
	"os"
	"strings"

	"golang.org/x/crypto/ssh"

	"sallyport/authz"
)

// gateName is the gate's public name, and its name in the demo's ssh_config.
const gateName = "gate"

// person is somebody of the story.
type person struct {
	name, display string
	what          string // one phrase, for the list that is printed
	site          authz.SiteRole
	roles         map[string]authz.Role // by project, given by the project's manager
	visits        []string              // projects besides their own that ssh_config has an entry for
}

// people are those who are there from the start, the administrator first.
func people() []person {
	return []person{
		{name: "ada", display: "Ada Okafor", site: authz.SiteAdmin, what: "administrator: people, projects, servers; no way to data"},
		{name: "tomas", display: "Tomas Berg", site: authz.SiteSecurity, what: "security administrator: approves second"},
		{name: "rosa", display: "Rosa Lind", site: authz.SiteAuditor, what: "auditor: sessions, events, replay"},
		{name: "mei", display: "Mei Tanaka", what: "manager of both projects: approves first",
			roles: map[string]authz.Role{"genomics": authz.RoleManager, "cohort": authz.RoleManager}},
		{name: "alice", display: "Alice Moreau", what: "researcher of genomics: a shell, no file out",
			roles: map[string]authz.Role{"genomics": authz.RoleResearcher}, visits: []string{"cohort"}},
		{name: "bob", display: "Bob Silva", what: "exporter of genomics, researcher of cohort",
			roles: map[string]authz.Role{"genomics": authz.RoleExporter, "cohort": authz.RoleResearcher}},
		{name: "carol", display: "Carol Novak", what: "operator of genomics: a shell, once approved",
			roles: map[string]authz.Role{"genomics": authz.RoleOperator}},
	}
}

// projects are those of the demo, each with one data server.
func projects() []authz.Project {
	levels := []authz.Level{
		{Name: "project", Eligible: authz.RoleManager, Quorum: 1},
		{Name: "security", Site: authz.SiteSecurity, Quorum: 1},
	}
	return []authz.Project{
		{Name: "genomics", Title: "Synthetic genotypes and phenotypes", Level: "type1", Levels: levels},
		{Name: "cohort", Title: "Synthetic ageing cohort", Level: "type1", Levels: levels},
	}
}

// serverName is the name of each project's only data server.
const serverName = "db1"

// makeKey makes a person's ed25519 key at path and path.pub and returns the public half.
func makeKey(path, comment string) (ssh.PublicKey, error) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make a key: %w", err)
	}
	block, err := ssh.MarshalPrivateKey(private, comment)
	if err != nil {
		return nil, fmt.Errorf("make a key: %w", err)
	}
	key, err := ssh.NewPublicKey(public)
	if err != nil {
		return nil, fmt.Errorf("make a key: %w", err)
	}
	line := append(bytes.TrimSpace(ssh.MarshalAuthorizedKey(key)), []byte(" "+comment+"\n")...)
	if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
		return nil, fmt.Errorf("make a key: %w", err)
	}
	if err := os.WriteFile(path+".pub", line, 0o644); err != nil {
		return nil, fmt.Errorf("make a key: %w", err)
	}
	return key, nil
}

// newPerson makes a person's folder and key.
func (s *state) newPerson(name string) (ssh.PublicKey, error) {
	if _, err := s.mkdir("people", name); err != nil {
		return nil, err
	}
	return makeKey(s.keyPath(name), name+"@demo")
}

func (s *state) keyPath(name string) string { return s.path("people", name, "id_ed25519") }

// writeSSHConfig writes what `ssh -F` needs: one host entry a person, one a
// person and project, and the entry "gate" for any user name. The gate is known by
// its certificate authority alone.
func (s *state) writeSSHConfig(port string, hostCA ssh.PublicKey, all []person) error {
	known := "@cert-authority " + gateName + " " + string(ssh.MarshalAuthorizedKey(hostCA))
	if err := os.WriteFile(s.path("known_hosts"), []byte(known), 0o600); err != nil {
		return fmt.Errorf("write known_hosts: %w", err)
	}
	var b strings.Builder
	b.WriteString("# Made by the demo; use it with ssh -F, sftp -F and scp -F.\n")
	entry := func(host, user, key string) {
		fmt.Fprintf(&b, "\nHost %s\n  User %s\n  IdentityFile %s\n", host, user, quotePath(key))
	}
	for _, p := range all {
		entry(p.name, p.name, s.keyPath(p.name))
		for _, project := range p.places() {
			entry(p.name+"-"+project, p.name+"+"+project, s.keyPath(p.name))
		}
		fmt.Fprintf(&b, "\nMatch originalhost %s user %s,%s+*\n  IdentityFile %s\n", gateName, p.name, p.name, quotePath(s.keyPath(p.name)))
	}
	fmt.Fprintf(&b, `
Host *
  HostName 127.0.0.1
  Port %s
  HostKeyAlias %s
  UserKnownHostsFile %s
  GlobalKnownHostsFile /dev/null
  StrictHostKeyChecking yes
  IdentitiesOnly yes
  IdentityAgent none
  CertificateFile none
  PreferredAuthentications publickey,keyboard-interactive
  ControlMaster no
  ForwardAgent no
  ForwardX11 no
`, port, gateName, quotePath(s.path("known_hosts")))
	if err := os.WriteFile(s.sshConfig(), []byte(b.String()), 0o600); err != nil {
		return fmt.Errorf("write ssh_config: %w", err)
	}
	return nil
}

func (s *state) sshConfig() string { return s.path("ssh_config") }

// places are the projects of a person's entries, in the order of projects().
func (p person) places() []string {
	var names []string
	for _, project := range projects() {
		if role, ok := p.roles[project.Name]; ok && role != authz.RoleManager {
			names = append(names, project.Name)
		}
	}
	return append(names, p.visits...)
}

// quotePath writes a path for ssh_config, where a percent sign begins a token.
func quotePath(path string) string {
	return `"` + strings.ReplaceAll(path, "%", "%%") + `"`
}

// readSigner reads a private key that makeKey wrote.
func readSigner(path string) (ssh.Signer, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read a key: %w", err)
	}
	signer, err := ssh.ParsePrivateKey(text)
	if err != nil {
		return nil, fmt.Errorf("read a key: %w", err)
	}
	return signer, nil
}
