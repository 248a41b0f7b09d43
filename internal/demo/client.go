package demo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/creack/pty"
)

// stepTime is how long the tour waits for one thing to appear.
const stepTime = 15 * time.Second

// client runs programs the way a person would: real ssh, scp and sftp, with a
// home of their own, so that the settings of whoever runs the tour change nothing.
type client struct {
	config string // ssh_config
	home   string
	env    []string

	mu   sync.Mutex // guards open
	open []*terminal
}

func newClient(config, home string) *client {
	return &client{config: config, home: home, env: []string{
		"HOME=" + home, "PATH=" + os.Getenv("PATH"), "TERM=xterm", "LANG=C.UTF-8", "SHELL=/bin/sh"}}
}

// result is how a program without a terminal ended.
type result struct {
	stdout, stderr string
	code           int
}

// run runs a program without a terminal to its end. That it fails is in the
// result; an error means that it could not be run.
func (c *client) run(ctx context.Context, name string, args ...string) (result, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*stepTime)
	defer cancel()
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env, cmd.Dir, cmd.Stdout, cmd.Stderr = c.env, c.home, &stdout, &stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // no terminal to ask on
	cmd.WaitDelay = time.Second
	err := cmd.Run()
	r := result{stdout: stdout.String(), stderr: stderr.String()}
	var failed *exec.ExitError
	switch {
	case errors.As(err, &failed):
		r.code = failed.ExitCode()
	case err != nil:
		return r, fmt.Errorf("run %s: %w", name, err)
	}
	return r, nil
}

// ssh runs the ssh client without a terminal; it can answer no question, so it
// needs a connection that is shared through socket.
func (c *client) ssh(ctx context.Context, socket string, args ...string) (result, error) {
	return c.run(ctx, "ssh", append([]string{"-F", c.config, "-S", socket, "-o", "BatchMode=yes"}, args...)...)
}

// terminal is a program on a pseudo-terminal of its own.
type terminal struct {
	cmd  *exec.Cmd
	file *os.File
	done chan struct{} // closed once the program has ended and its output is read

	mu      sync.Mutex // guards the rest
	text    []byte     // all that was shown
	seen    int        // how much of it expect has passed
	changed chan struct{}
	ended   time.Time
	code    int
}

// sshOnTerminal starts the ssh client on a terminal of 80 columns and 24 rows.
func (c *client) sshOnTerminal(args ...string) (*terminal, error) {
	cmd := exec.Command("ssh", append([]string{"-F", c.config}, args...)...)
	cmd.Env, cmd.Dir = c.env, c.home
	raw, err := pty.StartWithSize(cmd, &pty.Winsize{Cols: 80, Rows: 24})
	if err != nil {
		return nil, fmt.Errorf("run ssh: %w", err)
	}
	defer raw.Close()
	file, err := pollable(raw)
	if err != nil {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // its end is of no interest, only that it is waited for
		return nil, err
	}
	t := &terminal{cmd: cmd, file: file, done: make(chan struct{}), changed: make(chan struct{})}
	go t.read() // ends when the program has; close waits for it
	c.mu.Lock()
	c.open = append(c.open, t)
	c.mu.Unlock()
	return t, nil
}

// closeAll ends what still runs.
func (c *client) closeAll() {
	c.mu.Lock()
	open := c.open
	c.open = nil
	c.mu.Unlock()
	for _, t := range open {
		t.close()
	}
}

// read collects what the program shows until it ends.
func (t *terminal) read() {
	defer close(t.done)
	buffer := make([]byte, 4096)
	for {
		n, err := t.file.Read(buffer)
		t.mu.Lock()
		t.text = append(t.text, buffer[:n]...)
		close(t.changed)
		t.changed = make(chan struct{})
		t.mu.Unlock()
		if err != nil {
			break // EIO: nobody has the terminal open any more
		}
	}
	ended := time.Now()
	_ = t.cmd.Wait() // how it ended is read below
	t.file.Close()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ended, t.code = ended, t.cmd.ProcessState.ExitCode()
}

// expect waits until text appears after what was expected before, and returns
// all from there to its end.
func (t *terminal) expect(ctx context.Context, text string) (string, error) {
	timer := time.NewTimer(stepTime)
	defer timer.Stop()
	over := false
	for {
		t.mu.Lock()
		changed := t.changed
		fresh := string(t.text[t.seen:])
		if before, _, found := strings.Cut(fresh, text); found {
			t.seen += len(before) + len(text)
			t.mu.Unlock()
			return before + text, nil
		}
		t.mu.Unlock()
		if over {
			return "", fmt.Errorf("ssh ended and never showed %q, but: %s", text, lastLines(fresh))
		}
		select {
		case <-changed:
		case <-t.done:
			over = true // look once more at all that it said
		case <-timer.C:
			return "", fmt.Errorf("%q did not appear in %s; shown was: %s", text, stepTime, lastLines(fresh))
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
}

// line is expect that returns the whole line in which text stands.
func (t *terminal) line(ctx context.Context, text string) (string, error) {
	before, err := t.expect(ctx, text)
	if err != nil {
		return "", err
	}
	after, err := t.expect(ctx, "\n")
	if err != nil {
		return "", err
	}
	shown := strings.TrimSuffix(plain(before+after), "\n")
	return strings.TrimSpace(shown[strings.LastIndexByte(shown, '\n')+1:]), nil
}

// send types text.
func (t *terminal) send(text string) error {
	if _, err := io.WriteString(t.file, text); err != nil {
		return fmt.Errorf("type %q: %w", text, err)
	}
	return nil
}

// wait waits until the program has ended and returns its exit code.
func (t *terminal) wait(ctx context.Context) (int, error) {
	timer := time.NewTimer(stepTime)
	defer timer.Stop()
	select {
	case <-t.done:
	case <-timer.C:
		return 0, fmt.Errorf("ssh did not end in %s; shown was: %s", stepTime, lastLines(t.shown()))
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.code, nil
}

// endedAt is when the program had ended, zero before.
func (t *terminal) endedAt() time.Time {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.ended
}

// shown is all that the program has shown.
func (t *terminal) shown() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.text)
}

// close ends the program if it still runs, and waits for it.
func (t *terminal) close() {
	select {
	case <-t.done:
		return
	default:
	}
	_ = t.cmd.Process.Kill() // it may just have ended
	<-t.done
}

// plain is what a terminal shows of what it was sent, roughly: escape sequences
// are taken out, and a carriage return alone begins the line anew.
func plain(text string) string {
	var b []byte
	for i := 0; i < len(text); i++ {
		switch {
		case text[i] == '\r':
			if rest := strings.TrimLeft(text[i:], "\r"); rest != "" && rest[0] != '\n' {
				b = b[:bytes.LastIndexByte(b, '\n')+1]
			}
		case text[i] == '\x1b' && i+1 < len(text) && text[i+1] == '[':
			for i += 2; i < len(text) && (text[i] < '@' || text[i] > '~'); i++ {
			}
		default:
			b = append(b, text[i])
		}
	}
	return string(b)
}

// lastLines is the end of what a program said, for an error.
func lastLines(text string) string {
	text = strings.TrimSpace(plain(text))
	lines := strings.Split(text, "\n")
	return strings.Join(lines[max(0, len(lines)-6):], " | ")
}
