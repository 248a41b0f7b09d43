package main

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"

	"sallyport/internal/node"
	"sallyport/internal/testkit"
	"sallyport/replay"
)

// gate is a `sallyport serve` process in front of the site's data servers.
type gate struct {
	dir     string // of the story; the node lies in dir/gate
	sockets string // short folder for the sockets of shared connections
	port    int
	command *exec.Cmd
	exited  chan struct{} // closed when the process has been waited for
	err     error         // of the process; read after exited
	// prefix runs the gate below another program, such as prlimit.
	prefix []string
}

// newGate writes the limits into the configuration of a copied node.
func newGate(dir string, limits []string) (*gate, error) {
	sockets, err := os.MkdirTemp("", "sp-")
	if err != nil {
		return nil, err
	}
	g := &gate{dir: dir, sockets: sockets}
	var b strings.Builder
	b.WriteString("limits:\n")
	for _, l := range append([]string{"unauthenticated_per_source=100"}, limits...) {
		name, value, ok := strings.Cut(l, "=")
		if !ok {
			return nil, fmt.Errorf("%q is no LIMIT=VALUE", l)
		}
		fmt.Fprintf(&b, "  %s: %s\n", name, value)
	}
	if !strings.Contains(b.String(), "drain:") {
		b.WriteString("  drain: 2s\n")
	}
	f, err := os.OpenFile(g.config(), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return nil, err
	}
	_, err = f.WriteString(b.String())
	return g, errors.Join(err, f.Close())
}

func (g *gate) config() string  { return filepath.Join(g.dir, "gate", "sallyport.yaml") }
func (g *gate) state() string   { return filepath.Join(g.dir, "gate", "state") }
func (g *gate) logFile() string { return filepath.Join(g.dir, "gate.log") }

func (g *gate) log() string {
	text, _ := os.ReadFile(g.logFile())
	return string(text)
}

func (g *gate) running() bool { return g.command != nil }

// start runs the gate, waits until it serves, and tells the people its port.
func (g *gate) start() error {
	if g.running() {
		return errors.New("the gate runs already")
	}
	log, err := os.OpenFile(g.logFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	info, err := log.Stat()
	if err != nil {
		return err
	}
	words := append(append([]string{}, g.prefix...), "sallyport", "serve", "--config", g.config())
	g.command = exec.Command(words[0], words[1:]...)
	g.command.Env = append(os.Environ(), "GORACE=exitcode=66 halt_on_error=0")
	g.command.Stderr = log
	if err := g.command.Start(); err != nil {
		g.command = nil
		return fmt.Errorf("starting the gate: %w", err)
	}
	exited := make(chan struct{})
	g.exited = exited
	go func() { g.err = g.command.Wait(); close(exited) }()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	err = testkit.Poll(ctx, "the gate to serve", func() bool {
		select {
		case <-exited:
			return true
		default:
		}
		g.port = servingPort(g.log()[info.Size():])
		return g.port != 0
	})
	if err == nil && g.port == 0 {
		err = fmt.Errorf("the gate ended at once: %w", g.err)
		g.command = nil
	}
	if err != nil {
		return fmt.Errorf("%w\n%s", err, g.log())
	}
	return g.tellPeople()
}

// servingPort reads from the log where the gate listens; 0 while it does not.
func servingPort(log string) int {
	for line := range strings.Lines(log) {
		var entry struct{ Msg, SSH string }
		if json.Unmarshal([]byte(line), &entry) != nil || entry.Msg != "serving" {
			continue
		}
		if _, port, err := net.SplitHostPort(entry.SSH); err == nil {
			n, _ := strconv.Atoi(port)
			return n
		}
	}
	return 0
}

func (g *gate) tellPeople() error {
	people, err := os.ReadDir(filepath.Join(g.dir, "people"))
	if err != nil {
		return err
	}
	for _, e := range people {
		p := person{name: e.Name(), dir: filepath.Join(g.dir, "people", e.Name())}
		if err := p.configure(g.dir, g.sockets, g.port); err != nil {
			return err
		}
	}
	return nil
}

// stop asks the gate to end and waits.
func (g *gate) stop() error {
	if !g.running() {
		return nil
	}
	_ = g.command.Process.Signal(syscall.SIGTERM) // it may have ended by itself
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-g.exited:
	case <-timer.C:
		_ = g.command.Process.Signal(syscall.SIGQUIT) // so that the log says where it hangs
		<-g.exited
		g.command = nil
		return errors.New("the gate did not stop")
	}
	g.command = nil
	return g.err
}

// kill ends the gate as a power cut would.
func (g *gate) kill() {
	_ = g.command.Process.Kill()
	<-g.exited
	g.command = nil
}

// finish stops the gate and looks for what must be true at the end of every
// story: no race, no panic, and everything that was recorded verifies.
func (g *gate) finish() error {
	errs := []error{g.stop(), os.RemoveAll(g.sockets)}
	for _, sign := range []string{"WARNING: DATA RACE", "panic contained", "panic:"} {
		if strings.Contains(g.log(), sign) {
			errs = append(errs, fmt.Errorf("the gate's log has %q", sign))
		}
	}
	report, err := replay.VerifyDir(context.Background(), g.state(), theSite.nodeKey)
	if err == nil && !report.Intact {
		err = fmt.Errorf("what the gate recorded does not verify:\n%s", report.Text())
	}
	return errors.Join(append(errs, err)...)
}

// readNodeKey reads the public half of a node's signing key.
func readNodeKey(path string) (ed25519.PublicKey, error) {
	key, err := node.PublicKey(path)
	if err != nil {
		return nil, err
	}
	plain, ok := key.(ssh.CryptoPublicKey).CryptoPublicKey().(ed25519.PublicKey)
	if !ok {
		return nil, fmt.Errorf("%s is no ed25519 key", path)
	}
	return plain, nil
}
