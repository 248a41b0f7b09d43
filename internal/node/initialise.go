package node

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"sallyport/authz"
	"sallyport/bastion/console"
	"sallyport/internal/config"
)

// InitOptions say what Init makes. Name and Admin are required.
type InitOptions struct {
	Name     string // public name of the gate
	Listen   string // SSH address; empty: ":22"
	Metrics  string // loopback address; empty: the default
	Database string // empty: SQLite in the state folder
	Profile  string // empty: strict
	Admin    string // user name of the first administrator
	Display  string // full name of the first administrator
	OSUser   string // the administrator's account on the node; may be empty
	Node     Options
}

// Made is what Init made.
type Made struct {
	Config     string    `json:"config"` // path of the configuration file
	Node       string    `json:"node"`
	Admin      string    `json:"admin"`
	Invite     string    `json:"invite"` // the token
	Command    string    `json:"command"`
	KnownHosts string    `json:"known_hosts"`
	ExpiresAt  time.Time `json:"expires_at"`
}

// initialInvite is how long the first administrator has to come in.
const initialInvite = 72 * time.Hour

// Init makes a new node in a folder that is empty or missing: keys,
// configuration, database, ledger, and the first administrator with an
// invite. When it fails it takes away what it made.
func Init(ctx context.Context, dir string, o InitOptions) (made *Made, err error) {
	if !authz.ValidUserName(o.Admin) {
		return nil, fmt.Errorf("%q cannot be a user name; it takes 1 to 32 of a-z, 0-9, '.', '_' and '-', begins with a letter, and is none of invite, system and unauthenticated", o.Admin)
	}
	dir, err = filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("find the folder: %w", err)
	}
	if err := makeEmpty(dir); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, removeContents(dir))
		}
	}()
	file := filepath.Join(dir, "sallyport.yaml")
	text := configText(o)
	c, err := config.Parse(file, []byte(text))
	if err != nil {
		return nil, err
	}
	o.Node = o.Node.withDefaults(c)
	if err := makeKeys(c, o.Node.Random); err != nil {
		return nil, fmt.Errorf("make keys: %w", err)
	}
	if err := writeNew(file, []byte(text), 0o600); err != nil {
		return nil, fmt.Errorf("write configuration: %w", err)
	}
	return firstAdministrator(ctx, c, o)
}

// makeEmpty makes a folder, or accepts one that holds nothing.
func makeEmpty(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make the folder: %w", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("look into the folder: %w", err)
	}
	if len(entries) > 0 {
		return fmt.Errorf("%s is not empty; a new node is made in an empty folder only", dir)
	}
	return os.Chmod(dir, 0o700)
}

func removeContents(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		errs = append(errs, os.RemoveAll(filepath.Join(dir, e.Name())))
	}
	return errors.Join(errs...)
}

// configText is a configuration with what differs from the defaults.
func configText(o InitOptions) string {
	var b strings.Builder
	b.WriteString("# Configuration of this node. Every field, with its default, is documented in\n# configs/sallyport.yaml of the distribution. Check a change with\n# `sallyport serve --config FILE --check`.\n")
	for _, f := range [][2]string{
		{"name", o.Name}, {"listen", o.Listen}, {"metrics", o.Metrics}, {"database", o.Database}, {"profile", o.Profile},
	} {
		if f[1] != "" {
			// A JSON string is a YAML string too, whatever is in it.
			fmt.Fprintf(&b, "%s: %s\n", f[0], strconv.Quote(f[1]))
		}
	}
	b.WriteString("retention:\n  days: 400\n")
	return b.String()
}

// makeKeys makes independent keys for each purpose: nothing is derived from another.
func makeKeys(c *config.Config, random io.Reader) error {
	for _, path := range []string{c.Keys.Master, c.State} {
		dir := path
		if path == c.Keys.Master {
			dir = filepath.Dir(path)
		}
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
	}
	var master [32]byte
	if _, err := io.ReadFull(random, master[:]); err != nil {
		return err
	}
	if err := writeNew(c.Keys.Master, []byte(base64.StdEncoding.EncodeToString(master[:])+"\n"), 0o600); err != nil {
		return err
	}
	if _, err := makeJournalKey(c.Keys.Journal, random); err != nil {
		return err
	}
	var id [10]byte
	if _, err := io.ReadFull(random, id[:]); err != nil {
		return err
	}
	node := "N-" + hex.EncodeToString(id[:])
	if err := writeNew(filepath.Join(c.State, nodeIDFile), []byte(node+"\n"), 0o600); err != nil {
		return err
	}
	for _, k := range []struct{ path, comment string }{
		{c.Keys.Node, "sallyport node " + node},
		{c.CA.User, "sallyport user CA of " + c.Name},
		{c.CA.Host, "sallyport host CA of " + c.Name},
		{c.HostKeys[0], "sallyport host key of " + c.Name},
	} {
		if _, err := newEd25519(k.path, k.comment, random); err != nil {
			return err
		}
	}
	return nil
}

// firstAdministrator opens the new node once and puts its first person in.
func firstAdministrator(ctx context.Context, c *config.Config, o InitOptions) (made *Made, err error) {
	n := &Node{config: c, options: o.Node}
	defer func() { err = errors.Join(err, n.Close()) }()
	k, err := n.openStores(ctx)
	if err != nil {
		return nil, err
	}
	if err := k.certify(c, o.Node.Random, o.Node.Clock()); err != nil {
		return nil, err
	}
	by := authz.Actor{User: "system", RemoteAddr: "local", Via: "init"}
	admin := authz.User{Name: o.Admin, Display: o.Display, SiteRole: authz.SiteAdmin, OSUser: o.OSUser}
	if err := n.Authority.AddUser(ctx, by, admin); err != nil {
		return nil, fmt.Errorf("add the first administrator: %w", err)
	}
	return n.inviteFor(ctx, by, o.Admin, listenPort(c.Listen))
}

// inviteFor makes an invite and the lines that its person needs.
func (n *Node) inviteFor(ctx context.Context, by authz.Actor, user string, port int) (*Made, error) {
	token, expires, err := n.Authority.CreateInvite(ctx, by, user, initialInvite)
	if err != nil {
		return nil, fmt.Errorf("invite %s: %w", user, err)
	}
	made := &Made{
		Config: n.config.File, Node: n.ID, Admin: user, Invite: token, ExpiresAt: expires.UTC(),
		Command: console.InviteLine(n.config.Name, port, token),
	}
	if n.HostCA != nil {
		made.KnownHosts = console.KnownHostsLine(n.config.Name, port, n.HostCA)
	}
	return made, nil
}

func listenPort(listen string) int {
	_, text, err := net.SplitHostPort(listen)
	if err != nil {
		return 0
	}
	port, err := strconv.Atoi(text)
	if err != nil {
		return 0
	}
	return port
}

// Recover lets an administrator in who has lost the second factor, when no
// other can help: it needs the node's own files, which is why the node must
// be stopped, and it stands in the ledger as what it is.
func Recover(ctx context.Context, c *config.Config, o Options, user, reason string) (made *Made, err error) {
	n := &Node{config: c, options: o.withDefaults(c)}
	defer func() { err = errors.Join(err, n.Close()) }()
	if _, err := n.openStores(ctx); err != nil {
		return nil, err
	}
	by := authz.Actor{User: "system", RemoteAddr: "local", Via: "recover"}
	first, err := n.makeFirst(ctx, by, user, reason)
	if err != nil {
		return nil, err
	}
	u, err := n.Authority.User(ctx, user)
	if errors.Is(err, authz.ErrNotFound) {
		return nil, fmt.Errorf("there is no person %q on this node", user)
	}
	if err != nil {
		return nil, fmt.Errorf("find %q: %w", user, err)
	}
	if u.SiteRole != authz.SiteAdmin && u.SiteRole != authz.SiteSecurity {
		return nil, fmt.Errorf("%s is no administrator or security administrator; recovery is for them only, who then help the others", user)
	}
	_, err = n.Authority.Record(ctx, authz.Event{
		UserID: "system", OpType: "node.recover", Time: n.options.Clock().UTC(), ResourceType: "user", ResourceID: user, RemoteAddr: "local",
		Result: authz.ResultOK, Details: map[string]any{"reason": reason, "os_uid": os.Getuid(), "first": first},
	})
	if err != nil {
		return nil, fmt.Errorf("record the recovery: %w", err)
	}
	if u.State == "frozen" {
		if err := n.Authority.Unfreeze(ctx, by, user, reason); err != nil {
			return nil, fmt.Errorf("unfreeze: %w", err)
		}
	}
	if u.HasTOTP {
		if err := n.Authority.ResetFactor(ctx, by, user, reason); err != nil {
			return nil, fmt.Errorf("remove the lost second factor: %w", err)
		}
	}
	return n.inviteFor(ctx, by, user, listenPort(c.Listen))
}

// makeFirst makes a person the administrator when the node has none and no security administrator
// either, as after a rebuild into an empty database. It reports whether it did.
func (n *Node) makeFirst(ctx context.Context, by authz.Actor, user, reason string) (bool, error) {
	users, err := n.Authority.Users(ctx, by)
	if err != nil {
		return false, fmt.Errorf("look for administrators: %w", err)
	}
	there := false
	for _, u := range users {
		if u.SiteRole == authz.SiteAdmin || u.SiteRole == authz.SiteSecurity {
			return false, nil
		}
		there = there || u.Name == user
	}
	if there {
		err = n.Authority.SetSiteRole(ctx, by, user, authz.SiteAdmin, reason)
	} else {
		err = n.Authority.AddUser(ctx, by, authz.User{Name: user, SiteRole: authz.SiteAdmin})
	}
	if err != nil {
		return false, fmt.Errorf("make %s the first administrator: %w", user, err)
	}
	return true, nil
}

// PublicKey reads the public key of a node, in the form of authorized_keys.
func PublicKey(path string) (ssh.PublicKey, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("there is no key file %s", path)
	}
	if err != nil {
		return nil, err
	}
	key, _, _, _, err := ssh.ParseAuthorizedKey(text)
	if err != nil {
		return nil, fmt.Errorf("%s is no public key in OpenSSH format", path)
	}
	return key, nil
}
