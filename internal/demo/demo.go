package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"time"

	"sallyport/internal/config"
	"sallyport/internal/node"
)

const (
	// gateDrain is how long sessions may go on once the demo is told to stop.
	gateDrain = time.Second
	// minFree is what a node of the demo wants free on its disk, in bytes.
	minFree = 64 << 20
)

// Options say how to run a demo. The zero value stays until its context ends,
// in DefaultDir.
type Options struct {
	Dir    string // empty: DefaultDir; wiped if an earlier demo left it
	Tour   bool   // play the story, then end
	Stdout io.Writer
	Stderr io.Writer
	// Executable is the sallyport binary, for verbs that run where the auditor
	// is; empty: this program.
	Executable string
}

func (o Options) withDefaults() (Options, error) {
	if o.Stdout == nil {
		o.Stdout = os.Stdout
	}
	if o.Stderr == nil {
		o.Stderr = os.Stderr
	}
	if o.Executable == "" {
		path, err := os.Executable()
		if err != nil {
			return o, fmt.Errorf("find this program: %w", err)
		}
		o.Executable = path
	}
	return o, nil
}

// demo is everything that one Run started.
type demo struct {
	options Options
	state   *state
	log     *os.File
	node    *node.Node
	servers map[string]*dataServer // by project
	terms   string                 // version of the terms
}

// Run starts everything on loopback, says how to come in, and stays until ctx
// is done; then it ends all of it and returns nil. With Options.Tour it plays
// the story instead, and returns an error at the first step that is not as told.
func Run(ctx context.Context, o Options) (err error) {
	begin := time.Now()
	o, err = o.withDefaults()
	if err != nil {
		return err
	}
	s, err := openState(o.Dir)
	if err != nil {
		return err
	}
	defer s.close()
	d := &demo{options: o, state: s, servers: map[string]*dataServer{}}
	defer func() { err = errors.Join(err, d.close()) }()
	if err := d.open(ctx); err != nil {
		return fmt.Errorf("start the demo: %w", err)
	}
	ctx, stop := context.WithCancel(ctx)
	served := make(chan error, 1)
	go func() { served <- d.node.Run(ctx) }()
	defer func() {
		stop()
		err = errors.Join(err, <-served)
	}()
	if o.Tour {
		return d.tour(ctx, begin)
	}
	d.printPeople(time.Since(begin))
	select {
	case <-ctx.Done():
		fmt.Fprintln(o.Stdout, "\nStopping.")
	case err := <-served:
		served <- nil
		return err
	}
	return nil
}

// open makes a node, data servers, and all that the story begins with.
func (d *demo) open(ctx context.Context) error {
	log, err := os.OpenFile(d.state.path("log.json"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	d.log = log
	logger := slog.New(slog.NewJSONHandler(log, nil))
	options := node.Options{Log: logger, Version: "demo"}
	first := people()[0]
	made, err := node.Init(ctx, d.state.path("node"), node.InitOptions{
		Name: gateName, Listen: "127.0.0.1:0", Metrics: "127.0.0.1:0", Admin: first.name, Display: first.display, Node: options,
	})
	if err != nil {
		return err
	}
	c, err := config.Load(made.Config)
	if err != nil {
		return err
	}
	c.SourceAddress = []string{"127.0.0.1/32"}
	c.Limits.Drain = gateDrain
	c.Recording.MinFree = minFree
	if d.node, err = node.Open(ctx, c, options); err != nil {
		return err
	}
	if err := d.startServers(logger); err != nil {
		return err
	}
	if err := d.seed(ctx, made.Invite); err != nil {
		return fmt.Errorf("seed: %w", err)
	}
	return d.state.writeSSHConfig(d.port(), d.node.HostCA, people())
}

// port is where the gate listens on loopback.
func (d *demo) port() string {
	_, port, _ := net.SplitHostPort(d.node.SSHAddress) // the listener's own address has one
	return port
}

// startServers starts the data server of each project with a host key of its own.
func (d *demo) startServers(log *slog.Logger) error {
	for _, p := range projects() {
		dir, err := d.state.mkdir("servers", p.Name+"-"+serverName)
		if err != nil {
			return err
		}
		path := filepath.Join(dir, "ssh_host_ed25519_key")
		if _, err := makeKey(path, serverName+"."+p.Name); err != nil {
			return err
		}
		signer, err := readSigner(path)
		if err != nil {
			return err
		}
		accounts, err := d.state.mkdir("servers", p.Name+"-"+serverName, "home")
		if err != nil {
			return err
		}
		server, err := startDataServer(serverOptions{Project: p.Name, Name: serverName, Dir: accounts,
			HostKey: signer, UserCA: d.node.UserCA, Log: log})
		if err != nil {
			return err
		}
		d.servers[p.Name] = server
	}
	return nil
}

// close ends the gate first, so that its sessions end in order, then the data servers.
func (d *demo) close() error {
	var errs []error
	if d.node != nil {
		errs = append(errs, d.node.Close())
	}
	for _, s := range d.servers {
		s.Close()
	}
	if d.log != nil {
		errs = append(errs, d.log.Close())
	}
	return errors.Join(errs...)
}

// printPeople says who there is and how to come in.
func (d *demo) printPeople(took time.Duration) {
	out := d.options.Stdout
	config, program := shownPath(d.state.sshConfig()), shownPath(d.options.Executable)
	fmt.Fprintf(out, "Ready in %.1f s, on 127.0.0.1 only. Come in as:\n\n", took.Seconds())
	for _, p := range people() {
		fmt.Fprintf(out, "  ssh -F %s %-6s %s\n", config, p.name, p.what)
	}
	fmt.Fprintf(out, `
Everyone is asked for a one-time code; each works once, --wait waits for the next:

  %[2]s demo code NAME --dir %[3]s

Try:

  ssh -F %[1]s alice-genomics       a shell, straight to the project
  scp -F %[1]s bob-genomics:phenotypes.tsv .
  ssh -F %[1]s carol                asks for approval and waits, then
  ssh -F %[1]s mei request approve 1
  ssh -F %[1]s tomas request approve 1
  ssh -F %[1]s rosa session ls
  %[2]s replay 1 --gate rosa --ssh 'ssh -F %[1]s' --reason 'monthly review' \
    --identity %[4]s --key %[5]s

The gate is %[6]s; health and metrics: http://%[7]s/metrics; log: %[8]s.
Everybody's private keys lie in one folder because this is a demo, the auditors'
too; in earnest each stays with its owner, and the auditors' away from the node.
Ctrl-C stops it. What it made stays in its folder until the next start.
`, config, program, shownPath(d.state.dir), shownPath(d.epochFile("genomics")), shownPath(d.nodeKeyFile()),
		d.node.SSHAddress, d.node.MetricsAddress, shownPath(d.state.path("log.json")))
}

// shownPath is a path as one would type it from the working directory.
func shownPath(path string) string {
	here, err := os.Getwd()
	if err != nil {
		return path
	}
	relative, err := filepath.Rel(here, path)
	if err != nil || !filepath.IsLocal(relative) {
		return path
	}
	return relative
}
