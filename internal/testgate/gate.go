package testgate

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"

	"sallyport/internal/testkit"
)

// Starter starts a command that ends with this process and returns a channel
// that is closed when it has ended; testkit.StartOwned is one.
type Starter func(*exec.Cmd) (<-chan struct{}, error)

// Gate is one process of `sallyport serve`.
type Gate struct {
	Site    *Site
	Address string // where it serves SSH; "" until WaitServing
	Command *exec.Cmd
	Exited  <-chan struct{}

	log  string
	from int64 // where this process's part of the log begins
}

// Start runs the built program on the site's files and does not wait until it serves.
func Start(site *Site, binary string, start Starter) (*Gate, error) {
	if _, err := os.Stat(binary); err != nil {
		return nil, fmt.Errorf("the gate is not built: %w", err)
	}
	g := &Gate{Site: site, log: filepath.Join(site.Dir, "gate.log")}
	log, err := os.OpenFile(g.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	info, err := log.Stat()
	if err != nil {
		return nil, err
	}
	g.from = info.Size()
	// Not CommandContext: whoever started it ends it, and lets it drain.
	g.Command = exec.Command(binary, "serve", "--config", site.Config.File)
	g.Command.Stderr = log
	if g.Exited, err = start(g.Command); err != nil {
		return nil, fmt.Errorf("starting the gate: %w", err)
	}
	return g, nil
}

// Log is what this process has logged.
func (g *Gate) Log() string {
	text, err := os.ReadFile(g.log)
	if err != nil || int64(len(text)) < g.from {
		return ""
	}
	return string(text[g.from:])
}

// WaitServing waits until the gate says where it serves.
func (g *Gate) WaitServing(ctx context.Context) error {
	err := testkit.Poll(ctx, "the gate to serve", func() bool {
		select {
		case <-g.Exited:
			return true
		default:
		}
		g.Address = servingAddress(g.Log())
		return g.Address != ""
	})
	if err == nil && g.Address == "" {
		err = fmt.Errorf("the gate ended at once: %v", g.Command.ProcessState)
	}
	if err != nil {
		return fmt.Errorf("%w\n%s", err, strings.TrimSpace(g.Log()))
	}
	return nil
}

// servingAddress reads from the log where the gate listens; "" while it does not.
func servingAddress(log string) string {
	for line := range strings.Lines(log) {
		var entry struct{ Msg, SSH string }
		if strings.Contains(line, "serving") && json.Unmarshal([]byte(line), &entry) == nil && entry.Msg == "serving" {
			return entry.SSH
		}
	}
	return ""
}

// Kill ends the gate as a power cut would, and waits.
func (g *Gate) Kill() {
	_ = g.Command.Process.Kill() // it may have ended by itself
	<-g.Exited
}

// stopTime is how long a gate may take to drain.
const stopTime = 30 * time.Second

// Stop stops the gate as systemd would, and by force when it does not end.
func (g *Gate) Stop() error {
	if err := g.Command.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	limit := time.NewTimer(stopTime)
	defer limit.Stop()
	select {
	case <-g.Exited:
		return nil
	case <-limit.C:
		_ = g.Command.Process.Signal(syscall.SIGQUIT) // so that the log says where it hangs
		<-g.Exited
		return fmt.Errorf("the gate did not stop within %v", stopTime)
	}
}

// Cipher is that of every connection to the gate.
const Cipher = ssh.CipherAES128GCM

// Dial logs a person in to the project, with key and one-time code.
func (g *Gate) Dial(ctx context.Context, p *Person) (*ssh.Client, error) {
	code := ssh.KeyboardInteractive(func(_, _ string, questions []string, _ []bool) ([]string, error) {
		answers := make([]string, len(questions))
		for i := range questions {
			answer, err := p.Device.Code(ctx)
			if err != nil {
				return nil, err
			}
			answers[i] = answer
		}
		return answers, nil
	})
	c := &ssh.ClientConfig{User: p.Name + "+" + Project, Auth: []ssh.AuthMethod{ssh.PublicKeys(p.Signer), code},
		// The gate also has a host certificate; the plain key is what is pinned here.
		HostKeyAlgorithms: []string{ssh.KeyAlgoED25519},
		HostKeyCallback:   ssh.FixedHostKey(g.Site.Host)}
	c.Ciphers = []string{Cipher}
	stream, err := new(net.Dialer).DialContext(ctx, "tcp", g.Address)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", p.Name, err)
	}
	stop := context.AfterFunc(ctx, func() { stream.Close() })
	defer stop()
	conn, channels, requests, err := ssh.NewClientConn(stream, g.Address, c)
	if err != nil {
		stream.Close()
		return nil, fmt.Errorf("%s: %w", p.Name, err)
	}
	return ssh.NewClient(conn, channels, requests), nil
}
