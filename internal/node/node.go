// Package node makes one running gate out of a configuration: it loads the
// keys, opens database, ledger and recorder, closes what a crash left open,
// and serves the SSH front door, the local socket, and health and metrics on
// loopback until it is told to stop.
//
// It holds no policy and parses no protocol. It refuses key files that others
// may read, a ledger that does not verify, and to go on for long when nothing
// can be recorded any more.
package node

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/crypto/ssh"

	"sallyport/authz"
	"sallyport/bastion"
	"sallyport/bastion/console"
	"sallyport/internal/config"
	"sallyport/internal/database"
	"sallyport/recorder"
	"sallyport/recorder/journal"
	"sallyport/recorder/ledger"
	"sallyport/recorder/vault"
)

// Options are what a node needs besides its configuration. The zero value is
// that of a real node.
type Options struct {
	Log     *slog.Logger                                                         // nil: JSON on stderr at the configured level
	Version string                                                               // of the program
	Clock   func() time.Time                                                     // nil: time.Now
	Random  io.Reader                                                            // nil: crypto/rand
	Dial    func(ctx context.Context, network, address string) (net.Conn, error) // nil: net.Dialer

	// AcceptDamage makes RecoverStores read on behind damaged places of the journal.
	AcceptDamage bool
}

func (o Options) withDefaults(c *config.Config) Options {
	if o.Log == nil {
		o.Log = slog.New(slog.NewJSONHandler(os.Stderr, &slog.HandlerOptions{Level: c.Level()}))
	}
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if o.Random == nil {
		o.Random = rand.Reader
	}
	return o
}

// Node is one gate. What it exposes is there from Open to Close.
type Node struct {
	ID        string
	Authority *authz.Authority
	Recorder  *recorder.Recorder
	Ledger    *ledger.Ledger // the Recorder's
	Console   *console.Console
	Server    *bastion.Server
	NodeKey   ed25519.PublicKey // verifies recordings, ledger and checkpoints
	UserCA    ssh.PublicKey
	HostCA    ssh.PublicKey // nil when unknown to the node

	// SSHAddress and MetricsAddress are where the node listens in fact, when
	// a port was left to the system; MetricsAddress is "" when it is off.
	SSHAddress     string
	MetricsAddress string
	Socket         string

	config   *config.Config
	options  Options
	database *database.DB
	registry *prometheus.Registry
	epochs   *prometheus.GaugeVec
	vouching *vouching // who on other hosts sees the ledger
	vault    *vault.Vault
	scrubs   *scrubMetrics
	damage   []*journal.DamageError // accepted, of the journal

	ssh     net.Listener
	local   *net.UnixListener
	metrics net.Listener
}

// Check loads what Open would, as far as that changes nothing.
func Check(c *config.Config) error {
	k, err := loadKeys(c)
	if err != nil {
		return err
	}
	id, err := nodeID(c.State)
	if err != nil {
		return err
	}
	return errors.Join(checkWitnesses(c, id, k.node.Public().(ed25519.PublicKey)), checkSyslog(c), checkFolders(c))
}

// checkFolders looks at the folders that may be on disks of their own. The first two are made when they are missing.
func checkFolders(c *config.Config) error {
	var errs []error
	for _, f := range []struct{ field, path string }{{"recording.dir", c.Recording.Dir}, {"recording.journal", c.Recording.Journal},
		{"recording.second_dir", c.Recording.SecondDir}} {
		if f.path == "" {
			continue
		}
		info, err := os.Stat(f.path)
		switch {
		case errors.Is(err, fs.ErrNotExist) && f.path != c.Recording.SecondDir:
		case err != nil:
			errs = append(errs, fmt.Errorf("%s: %w", f.field, err))
		case !info.IsDir():
			errs = append(errs, fmt.Errorf("%s: %s is no folder", f.field, f.path))
		}
	}
	return errors.Join(errs...)
}

// Open makes a node ready: everything is loaded and every address is bound,
// but nothing is accepted before Run. The caller must call Close.
func Open(ctx context.Context, c *config.Config, o Options) (*Node, error) {
	n := &Node{config: c, options: o.withDefaults(c), Socket: c.Socket}
	if err := n.open(ctx); err != nil {
		return nil, errors.Join(err, n.Close())
	}
	return n, nil
}

func (n *Node) open(ctx context.Context) error {
	k, err := n.openStores(ctx)
	if err != nil {
		return err
	}
	if _, err := n.closeCrashed(ctx); err != nil {
		return err
	}
	if _, err := n.tellDamage(ctx); err != nil {
		return err
	}
	if err := n.openVault(); err != nil {
		return err
	}
	if err := k.certify(n.config, n.options.Random, n.options.Clock()); err != nil {
		return err
	}
	if err := n.bind(); err != nil {
		return err
	}
	return n.assemble(k)
}

// openStores loads the keys and opens what the node keeps: database, ledger and recordings.
func (n *Node) openStores(ctx context.Context) (*keys, error) {
	c, o := n.config, n.options
	k, err := loadKeys(c)
	if err != nil {
		return nil, err
	}
	n.NodeKey = k.node.Public().(ed25519.PublicKey)
	n.UserCA, n.HostCA = k.userCA.PublicKey(), k.hostCA.public
	if n.ID, err = nodeID(c.State); err != nil {
		return nil, err
	}
	if n.Recorder, err = n.openRecorder(k); err != nil {
		return nil, err
	}
	n.Ledger = n.Recorder.Ledger()
	if n.database, err = database.Open(ctx, c.Database); err != nil {
		return nil, err
	}
	n.Authority, err = authz.Open(ctx, n.database, authz.Options{
		Node: n.ID, Clock: o.Clock, Random: o.Random, MasterKey: k.master, Ledger: n.Ledger, Issuer: c.Name,
		Retention: time.Duration(c.Retention.Days) * 24 * time.Hour,
	})
	if err != nil {
		return nil, fmt.Errorf("open authority: %w", err)
	}
	return k, nil
}

// openRecorder opens journal, ledger and recordings. It comes first: the journal's
// lock is what keeps a second process from the same state.
func (n *Node) openRecorder(k *keys) (*recorder.Recorder, error) {
	c, o := n.config, n.options
	secret := k.journal
	if secret == nil {
		var err error
		if secret, err = makeJournalKey(c.Keys.Journal, o.Random); err != nil {
			return nil, fmt.Errorf("make the journal key (keys.journal): %w", err)
		}
		o.Log.Warn("made a new journal key, since there was none", "file", c.Keys.Journal)
	}
	mode := journal.Durable
	if c.Recording.Mode == config.ModeWritten {
		mode = journal.Written
	}
	var damaged func(*journal.DamageError) error
	if o.AcceptDamage {
		damaged = n.acceptDamage
	}
	r, err := recorder.Open(recorder.Options{
		Dir: c.Recording.Dir, Node: n.ID, Signer: k.node, MinFree: int64(c.Recording.MinFree),
		JournalDir: c.Recording.Journal, Mode: mode, JournalSize: int64(c.Recording.JournalSize), JournalFiles: c.Recording.JournalFiles,
		LedgerDir: filepath.Join(c.State, "ledger"), LedgerKeys: filepath.Join(c.State, "ledger-keys"), Secret: secret,
		Damaged: damaged,
		// The vault is opened after what a crash left is closed, and before anyone is served.
		Finished: func(session string) { n.vault.Finished(session) },
		Clock:    o.Clock, Random: o.Random, Log: o.Log,
	})
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return nil, fmt.Errorf("the journal in %s is in use: the node runs already; stop it first", c.Recording.Journal)
	}
	if err != nil {
		return nil, fmt.Errorf("open what the node records: %w", refusedDamage(err))
	}
	return r, nil
}

// bind takes every address, so that a node that cannot have one says so before it serves anyone.
func (n *Node) bind() error {
	c := n.config
	var err error
	if n.ssh, err = net.Listen("tcp", c.Listen); err != nil {
		return fmt.Errorf("listen for SSH (listen): %w", err)
	}
	n.SSHAddress = n.ssh.Addr().String()
	if c.Metrics != "off" {
		if n.metrics, err = net.Listen("tcp", c.Metrics); err != nil {
			return fmt.Errorf("listen for health and metrics (metrics): %w", err)
		}
		n.MetricsAddress = n.metrics.Addr().String()
	}
	if n.local, err = listenSocket(c.Socket, c.SocketGroup); err != nil {
		return fmt.Errorf("listen on the local socket (socket): %w", err)
	}
	return nil
}

// assemble makes the console and the front door.
func (n *Node) assemble(k *keys) error {
	c, o := n.config, n.options
	port := 22
	if _, text, err := net.SplitHostPort(n.SSHAddress); err == nil {
		port, _ = strconv.Atoi(text) // the listener's own address has a number
	}
	n.Console = console.New(console.Options{
		Authority: n.Authority, Recorder: n.Recorder, Ledger: n.Ledger,
		Node: n.ID, Name: c.Name, Port: port, Version: o.Version,
		UserCA: n.UserCA, HostCA: n.HostCA, NodeKey: n.NodeKey,
		// The front door is made below and asks the console; it is set before anyone is served.
		Health: n.health,
		Vault:  n.vault, Scrub: n.Scrub, Warnings: n.warnings,
		Clock: o.Clock,
	})
	n.registry = newRegistry(n, o.Version)
	var err error
	n.vouching, err = newVouching(vouchingOptions{Config: c, Node: n.ID, Log: n.Ledger, Logger: o.Log, Clock: o.Clock, Registry: n.registry,
		Tell: func(ctx context.Context, e authz.Event) error { _, err := n.Authority.Record(ctx, e); return err }})
	if err != nil {
		return err
	}
	n.Server, err = bastion.New(bastion.Config{
		Name: c.Name, Port: port, Authority: n.Authority, Recorder: n.Recorder, Verbs: n.Console,
		HostKeys: k.signers, UserCA: k.userCA, Profile: c.Profile, Limits: limits(c.Limits),
		Log: o.Log, Metrics: n.registry, Dial: o.Dial, Clock: o.Clock,
		SourceAddress: strings.Join(c.SourceAddress, ","), Ready: n.ready,
	})
	return err
}

// warnings are alarms that stand, as far as the console cannot know of them.
func (n *Node) warnings() []string {
	if w := n.vouching.warning(); w != "" {
		return []string{w}
	}
	return nil
}

// ready is nil while sessions may start as far as second copies and witnesses go.
func (n *Node) ready() error {
	return errors.Join(n.vault.Ready(), n.vouching.health())
}

// limits are those of the file; what it does not set is zero, for which the front door has its default.
func limits(l config.Limits) bastion.Limits {
	return bastion.Limits{
		Unauthenticated:          l.Unauthenticated,
		UnauthenticatedPerSource: l.UnauthenticatedPerSource,
		Connections:              l.Connections,
		HandshakeTime:            l.HandshakeTime,
		KeyTime:                  l.KeyTime,
		FactorTime:               l.FactorTime,
		PreAuthBytes:             int64(l.PreAuthBytes),
		Channels:                 l.Channels,
		EnvironmentBytes:         int(l.EnvironmentBytes),
		CommandBytes:             int(l.CommandBytes),
		KeepAlive:                l.KeepAlive,
		KeepAliveMissed:          l.KeepAliveMissed,
		Drain:                    l.Drain,
	}
}

// closePatience bounds how long Close waits for recordings that are still open.
const closePatience = 10 * time.Second

// Close ends what Open made. Run must have returned.
func (n *Node) Close() error {
	var errs []error
	for _, l := range []net.Listener{n.ssh, n.metrics} {
		if l != nil {
			errs = append(errs, ignoreClosed(l.Close()))
		}
	}
	if n.local != nil {
		errs = append(errs, ignoreClosed(n.local.Close()))
	}
	if n.Recorder != nil {
		ctx, cancel := context.WithTimeout(context.Background(), closePatience)
		defer cancel()
		errs = append(errs, n.Recorder.Close(ctx))
	}
	if n.database != nil {
		errs = append(errs, n.database.Close())
	}
	return errors.Join(errs...)
}

func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

const nodeIDFile = "node-id"

// nodeID reads the random id that the node was given at init.
func nodeID(state string) (string, error) {
	path := filepath.Join(state, nodeIDFile)
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("the state folder %s holds no node; make one with `sallyport init DIR`", state)
	}
	if err != nil {
		return "", fmt.Errorf("read the node's id: %w", err)
	}
	id := strings.TrimSpace(string(text))
	if !strings.HasPrefix(id, "N-") || len(id) > 64 {
		return "", fmt.Errorf("%s does not hold the id of a node", path)
	}
	return id, nil
}
