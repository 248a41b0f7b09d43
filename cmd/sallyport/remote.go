package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"os/user"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/term"

	"sallyport/bastion/console"
	"sallyport/internal/config"
	wordlist "sallyport/internal/words"
)

// remoteExit is the exit code that the node gave; it has told everything already.
type remoteExit int

func (e remoteExit) Error() string { return fmt.Sprintf("the node answered with exit code %d", int(e)) }

// callNode runs one verb on the node, through its socket.
func callNode(ctx context.Context, o *settings, args []string, s streams) error {
	return callNodeTo(ctx, o, args, s, s.out)
}

// callNodeTo is callNode with standard output going elsewhere.
func callNodeTo(ctx context.Context, o *settings, args []string, s streams, out io.Writer) error {
	client, err := dialNode(ctx, o, s)
	if err != nil {
		return err
	}
	defer client.Close()
	stop := context.AfterFunc(ctx, func() { client.Close() })
	defer stop()
	session, err := client.NewSession()
	if err != nil {
		return fmt.Errorf("the node takes no verb: %w", err)
	}
	defer session.Close()
	session.Stdout, session.Stderr = out, s.err
	if f, ok := out.(*os.File); ok && onTerminal(f) {
		if width, height, err := term.GetSize(int(f.Fd())); err == nil {
			if err := session.RequestPty(terminalName(), height, width, ssh.TerminalModes{}); err != nil {
				return fmt.Errorf("the node takes no terminal: %w", err)
			}
		}
	}
	if isWatch(args) && onTerminal(s.in) {
		// Its keys, Ctrl-C among them, are for the verb, which tidies the terminal up.
		state, err := term.MakeRaw(int(s.in.Fd()))
		if err != nil {
			return fmt.Errorf("prepare the terminal: %w", err)
		}
		defer func() { _ = term.Restore(int(s.in.Fd()), state) }()
	}
	// Not session.Stdin: its Wait would wait for a key to be pressed. What is
	// still being read when the verb has ended is read for nobody.
	stdin, err := session.StdinPipe()
	if err != nil {
		return err
	}
	go func() {
		_, _ = io.Copy(stdin, s.in) // a verb that has enough closes the pipe
		_ = stdin.Close()
	}()
	err = session.Run(wordlist.JoinWords(args))
	var exit *ssh.ExitError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &exit):
		return remoteExit(exit.ExitStatus())
	case ctx.Err() != nil:
		return ctx.Err()
	}
	return fmt.Errorf("the node went away: %w", err)
}

// isWatch says whether a verb looks on at a live session.
func isWatch(args []string) bool {
	return len(args) > 1 && args[0] == "session" && args[1] == "watch"
}

func terminalName() string {
	if name := os.Getenv("TERM"); name != "" {
		return name
	}
	return "dumb"
}

// socketPath is where the node listens.
func (o *settings) socketPath() (string, error) {
	if o.socket != "" {
		return o.socket, nil
	}
	if path := os.Getenv("SALLYPORT_SOCKET"); path != "" {
		return path, nil
	}
	c, err := config.Load(o.configPath())
	if errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("there is no configuration %s, which would name the node's socket; set SALLYPORT_SOCKET, or give --socket FILE", o.configPath())
	}
	if err != nil {
		return "", err
	}
	return c.Socket, nil
}

// loginPatience is how long a person may take for the second factor.
const loginPatience = 5 * time.Minute

// elsewhereHint says how a verb that runs on people's own machines finds its gate.
const elsewhereHint = "`ssh GATE VERB`, or, for replay, export and index, --gate USER@GATE"

// dialNode logs in at the node's socket.
func dialNode(ctx context.Context, o *settings, s streams) (*ssh.Client, error) {
	path, err := o.socketPath()
	if err != nil {
		return nil, err
	}
	conn, err := new(net.Dialer).DialContext(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("the node does not answer on its socket %s; is it running, and may this account use it? Another machine's is asked by ssh: %s", path, elsewhereHint)
	}
	name := "unknown"
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	told := false
	client := &ssh.ClientConfig{
		User: name,
		Auth: []ssh.AuthMethod{ssh.KeyboardInteractive(func(_, instruction string, questions []string, echo []bool) ([]string, error) {
			return answer(ctx, s, instruction, questions, echo)
		})},
		// The path of the socket says who the node is: only the node's own
		// account can have put it there.
		HostKeyCallback: ssh.InsecureIgnoreHostKey(),
		BannerCallback: func(text string) error {
			told = true
			for line := range strings.Lines(strings.ReplaceAll(text, "\r", "")) {
				fmt.Fprintln(s.err, console.Clean(strings.TrimRight(line, "\n")))
			}
			return nil
		},
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	if err := conn.SetDeadline(time.Now().Add(loginPatience)); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	c, channels, requests, err := ssh.NewClientConn(conn, path, client)
	if err != nil {
		conn.Close()
		if told {
			return nil, remoteExit(console.ExitDenied)
		}
		return nil, fmt.Errorf("the node did not let this account in: %w", err)
	}
	return ssh.NewClient(c, channels, requests), conn.SetDeadline(time.Time{})
}

// answer asks a person the questions of the node, on the terminal.
func answer(ctx context.Context, s streams, instruction string, questions []string, echo []bool) ([]string, error) {
	if instruction != "" {
		fmt.Fprintln(s.err, console.Clean(instruction))
	}
	var answers []string
	for i, q := range questions {
		text, err := ask(ctx, s, console.Clean(q), echo[i])
		if err != nil {
			return nil, err
		}
		answers = append(answers, text)
	}
	return answers, nil
}

// ask asks one question: through the SSH_ASKPASS program as ssh does, or on
// the terminal, which need not be standard input.
func ask(ctx context.Context, s streams, question string, echo bool) (string, error) {
	if program := os.Getenv("SSH_ASKPASS"); program != "" && os.Getenv("SSH_ASKPASS_REQUIRE") == "force" {
		c := exec.CommandContext(ctx, program, question)
		c.Stderr = s.err
		out, err := c.Output()
		if err != nil {
			return "", fmt.Errorf("ask by %s: %w", program, err)
		}
		return strings.TrimRight(string(out), "\r\n"), nil
	}
	tty, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
	if err != nil {
		return "", errors.New("a second factor or passphrase is asked for and there is no terminal to ask on")
	}
	defer tty.Close()
	if echo {
		fmt.Fprint(tty, question)
		return readLine(tty)
	}
	state, err := term.GetState(int(tty.Fd()))
	if err != nil {
		return "", err
	}
	// An interrupt while nothing is echoed must not leave the terminal so.
	stop := context.AfterFunc(ctx, func() { _ = term.Restore(int(tty.Fd()), state) })
	defer stop()
	fmt.Fprint(tty, question)
	secret, err := term.ReadPassword(int(tty.Fd()))
	fmt.Fprintln(tty)
	return string(secret), err
}

func readLine(r io.Reader) (string, error) {
	var line []byte
	one := make([]byte, 1)
	for len(line) < 1024 {
		n, err := r.Read(one)
		if n == 1 && one[0] == '\n' {
			break
		}
		line = append(line, one[:n]...)
		if err != nil {
			return "", err
		}
	}
	return strings.TrimRight(string(line), "\r"), nil
}
