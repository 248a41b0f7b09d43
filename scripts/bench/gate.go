package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"

	"sallyport/internal/testkit"
)

// gate is a running `sallyport serve`, in a process of its own as in service,
// with its people.
type gate struct {
	address string
	host    ssh.PublicKey
	people  []*person
	next    atomic.Int64
	log     string
	command *exec.Cmd
	exited  <-chan struct{}
}

// startGate puts the people into a node that makeNode made, and serves it with
// the built binary. dir holds their keys and the log.
func startGate(ctx context.Context, binary, dir string, made *madeNode, target *testkit.SSHD, accounts []string) (*gate, error) {
	binary, err := filepath.Abs(binary)
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(binary); err != nil {
		return nil, fmt.Errorf("the gate is not built: %w", err)
	}
	people, err := made.populate(ctx, dir, target, accounts)
	if err != nil {
		return nil, fmt.Errorf("preparing the gate: %w", err)
	}
	g := &gate{address: made.config.Listen, host: made.host, people: people,
		log: filepath.Join(dir, "gate.log")}
	log, err := os.Create(g.log)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	// Not CommandContext: Close ends it, and lets it drain.
	g.command = exec.Command(binary, "serve", "--config", made.config.File)
	g.command.Stderr = log
	if g.exited, err = testkit.StartOwned(g.command); err != nil {
		return nil, fmt.Errorf("starting the gate: %w", err)
	}
	wait, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	if err := g.waitUntilServing(wait); err != nil {
		return nil, errors.Join(err, g.Close())
	}
	return g, nil
}

// waitUntilServing returns when the gate answers with an SSH version line.
func (g *gate) waitUntilServing(ctx context.Context) error {
	var ended error
	err := testkit.Poll(ctx, "the gate to listen", func() bool {
		select {
		case <-g.exited:
			ended = fmt.Errorf("the gate ended at once: %v", g.command.ProcessState)
			return true
		default:
			return greets(g.address)
		}
	})
	if err = errors.Join(err, ended); err != nil {
		log, _ := os.ReadFile(g.log)
		return fmt.Errorf("%w\n%s", err, strings.TrimSpace(string(log)))
	}
	return nil
}

// connect logs the next person in, with key and one-time code.
func (g *gate) connect(ctx context.Context) (*connection, error) {
	p := g.people[int(g.next.Add(1)-1)%len(g.people)]
	code := ssh.KeyboardInteractive(func(_, _ string, questions []string, _ []bool) ([]string, error) {
		answers := make([]string, len(questions))
		for i := range questions {
			answer, err := p.authenticator.Code(ctx)
			if err != nil {
				return nil, err
			}
			answers[i] = answer
		}
		return answers, nil
	})
	c, err := dial(ctx, g.address, clientConfig(p.name+"+"+project, ssh.FixedHostKey(g.host), ssh.PublicKeys(p.key.Signer), code))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", p.name, err)
	}
	return &connection{Client: c}, nil
}

// Close stops the gate as systemd would, and by force when it does not end.
func (g *gate) Close() error {
	if g.command == nil || g.command.Process == nil {
		return nil
	}
	if err := g.command.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	limit := time.NewTimer(20 * time.Second)
	defer limit.Stop()
	select {
	case <-g.exited:
		return nil
	case <-limit.C:
		err := g.command.Process.Kill()
		<-g.exited
		return errors.Join(errors.New("the gate did not stop within 20 s"), err)
	}
}
