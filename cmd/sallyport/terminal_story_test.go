package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/creack/pty"
	"github.com/rogpeppe/go-internal/testscript"

	"sallyport/internal/testkit"
)

// patience is how long a story waits for something that should come soon; the
// race detector and a busy machine are slow.
const patience = 40 * time.Second

// terminal is a program on a pseudo-terminal, and all that it has shown.
type terminal struct {
	command *exec.Cmd
	tty     *os.File
	done    chan struct{} // closed when the program has ended and everything is read
	err     error         // of the program; read after done

	mu    sync.Mutex // guards the rest
	shown []byte
	seen  int // up to where a story has looked
}

// newTerminal starts a program on a terminal of 80 columns and 24 rows.
func newTerminal(command *exec.Cmd) (*terminal, error) {
	tty, err := pty.StartWithSize(command, &pty.Winsize{Cols: 80, Rows: 24})
	if err != nil {
		return nil, fmt.Errorf("starting %s on a terminal: %w", command.Args[0], err)
	}
	t := &terminal{command: command, tty: tty, done: make(chan struct{})}
	go func() {
		defer close(t.done)
		buffer := make([]byte, 64<<10)
		for {
			n, err := tty.Read(buffer)
			t.mu.Lock()
			t.shown = append(t.shown, buffer[:n]...)
			t.mu.Unlock()
			if err != nil { // EIO when nobody has the terminal open any more
				break
			}
		}
		t.err = command.Wait()
		tty.Close()
	}()
	return t, nil
}

// text is what was shown so far.
func (t *terminal) text() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.shown)
}

// waitFor waits until what was shown since the last match holds the pattern, and returns its groups.
func (t *terminal) waitFor(pattern *regexp.Regexp) ([]string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var found []string
	ended := false
	look := func() bool {
		t.mu.Lock()
		defer t.mu.Unlock()
		rest := string(t.shown[t.seen:])
		at := pattern.FindStringSubmatchIndex(rest)
		if at == nil {
			return false
		}
		found = pattern.FindStringSubmatch(rest)
		t.seen += at[1]
		return true
	}
	err := testkit.Poll(ctx, fmt.Sprintf("%q", pattern), func() bool {
		if look() {
			return true
		}
		select {
		case <-t.done:
			ended = !look()
			return true
		default:
			return false
		}
	})
	if ended {
		err = fmt.Errorf("the program ended (%v) without having shown %q", t.err, pattern)
	}
	if err != nil {
		return nil, fmt.Errorf("%w; it shows:\n%s", err, t.text())
	}
	return found, nil
}

// exit waits for the program's end and returns its exit status.
func (t *terminal) exit() (int, error) {
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-t.done:
	case <-timer.C:
		return 0, fmt.Errorf("the program has not ended; it shows:\n%s", t.text())
	}
	var failed *exec.ExitError
	if errors.As(t.err, &failed) {
		return failed.ExitCode(), nil
	}
	return 0, t.err
}

func (t *terminal) kill() {
	_ = t.command.Process.Kill() // it may have ended
	t.tty.Close()
	<-t.done
}

func (s *stage) cmdTerminal(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && len(args) >= 4 && args[1] == "as", "terminal NAME as PERSON PROGRAM …")
	words, err := s.asWords(args[2:])
	ts.Check(err)
	command := exec.Command("env", words...)
	command.Dir = s.dir
	command.Env = append(os.Environ(), "HOME="+s.dir, "TERM=xterm-256color", "LC_ALL=C.UTF-8")
	t, err := newTerminal(command)
	ts.Check(err)
	if old := s.terminals[args[0]]; old != nil {
		old.kill()
	}
	s.terminals[args[0]] = t
}

// cmdStays opens a connection that ssh shares by its ControlPath, so that a
// person who does many things needs one code.
func (s *stage) cmdStays(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && len(args) == 2, "stays PERSON ADDRESS")
	name := "connection of " + args[1]
	s.cmdTerminal(ts, false, []string{name, "as", args[0], "ssh", "-M", "-N", args[1]})
	words, err := s.asWords([]string{args[0], "ssh", "-O", "check", args[1]})
	ts.Check(err)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	err = testkit.Poll(ctx, name, func() bool { return exec.Command("env", words...).Run() == nil })
	if err != nil {
		ts.Fatalf("%v; it shows:\n%s", err, s.terminal(ts, name).text())
	}
}

func (s *stage) terminal(ts *testscript.TestScript, name string) *terminal {
	t := s.terminals[name]
	if t == nil {
		ts.Fatalf("there is no terminal %s", name)
	}
	return t
}

func (s *stage) cmdSees(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, len(args) == 2, "sees NAME REGEXP")
	pattern, err := regexp.Compile(args[1])
	ts.Check(err)
	t := s.terminal(ts, args[0])
	if neg {
		if pattern.MatchString(t.text()) {
			ts.Fatalf("the terminal shows %q:\n%s", pattern, t.text())
		}
		return
	}
	_, err = t.waitFor(pattern)
	ts.Check(err)
}

func (s *stage) cmdType(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && len(args) == 2, "type NAME TEXT")
	t := s.terminal(ts, args[0])
	text := args[1]
	if who, rest, ok := strings.Cut(text, "}"); ok && strings.HasPrefix(who, "{code ") {
		code, err := s.code(strings.TrimPrefix(who, "{code "))
		ts.Check(err)
		text = code + rest
	}
	raw, err := strconv.Unquote(`"` + strings.ReplaceAll(text, `"`, `\"`) + `"`)
	ts.Check(err)
	_, err = t.tty.WriteString(raw)
	ts.Check(err)
}

// code asks the person's askpass program, as ssh would.
func (s *stage) code(name string) (string, error) {
	p := person{name: name, dir: filepath.Join(s.dir, "people", name)}
	command := exec.Command(filepath.Join(s.dir, "askpass"), "code")
	command.Env = append(os.Environ(), p.environment(s.dir, "totp")...)
	out, err := command.Output()
	return strings.TrimSpace(string(out)), err
}

var secretLine = regexp.MustCompile(`Secret: ([A-Z2-7 ]+)\r?\n`)

func (s *stage) cmdScan(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && len(args) == 2, "scan NAME PERSON")
	found, err := s.terminal(ts, args[0]).waitFor(secretLine)
	ts.Check(err)
	p := person{name: args[1], dir: filepath.Join(s.dir, "people", args[1])}
	ts.Check(p.give(strings.ReplaceAll(found[1], " ", ""), ""))
}

func (s *stage) cmdResize(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && len(args) == 3, "resize NAME COLUMNS ROWS")
	columns, err := strconv.ParseUint(args[1], 10, 16)
	ts.Check(err)
	rows, err := strconv.ParseUint(args[2], 10, 16)
	ts.Check(err)
	ts.Check(pty.Setsize(s.terminal(ts, args[0]).tty, &pty.Winsize{Cols: uint16(columns), Rows: uint16(rows)}))
}

func (s *stage) cmdCloses(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && len(args) >= 1 && len(args) <= 2, "closes NAME [CODE]")
	t := s.terminal(ts, args[0])
	code, err := t.exit()
	ts.Check(err)
	ts.Check(os.WriteFile(filepath.Join(s.dir, args[0]+".screen"), []byte(t.text()), 0o600))
	if len(args) == 2 && strconv.Itoa(code) != args[1] {
		ts.Fatalf("the program ended with exit status %d, wanted %s; it showed:\n%s", code, args[1], t.text())
	}
}
