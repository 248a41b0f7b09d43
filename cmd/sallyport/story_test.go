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
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// The stories in testdata/ run the command as people do: the real ssh, sftp and
// scp of OpenSSH against the real `sallyport serve`, which is this test binary
// run under that name, in front of a real sshd. The commands that they have
// besides those of testscript:
//
//	gate [LIMIT=VALUE …]            start the gate of the site, see site_story_test.go
//	gate stop | start               the same gate again
//	dataserver start|stop|newkey|garbage NAME   a data server of the story's own
//	as PERSON PROGRAM …             run a program as a person: key, known_hosts, one-time code
//	as -answer=TEXT PERSON PROGRAM  type this for a code; "last" is the code used before,
//	                                "recovery" the next recovery code
//	exits CODE as … | PROGRAM …     the same, and the exit status must be this
//	stays PERSON ADDRESS            log in once: what the person runs there later uses the same connection
//	terminal NAME as PERSON ssh …   run it on a terminal of its own and go on
//	sees NAME REGEXP                wait until the terminal has shown it
//	type NAME TEXT                  type into it; \r, \n, \x03 and {code} are understood
//	resize NAME COLUMNS ROWS        change its size
//	scan NAME PERSON                put the secret that the terminal shows into a new authenticator
//	closes NAME [CODE]              wait until the terminal's program has ended
//	keep NAME REGEXP                put what the output shows (group 1) into $NAME
//	sh SCRIPT                       run a line of bash, for bytes that a story cannot hold
func TestStories(t *testing.T) {
	t.Parallel()
	testscript.Run(t, testscript.Params{
		Dir:                "testdata",
		RequireUniqueNames: true,
		Setup:              newStage,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"gate":       onStage((*stage).cmdGate),
			"dataserver": onStage((*stage).cmdDataServer),
			"as":         onStage((*stage).cmdAs),
			"exits":      onStage((*stage).cmdExits),
			"stays":      onStage((*stage).cmdStays),
			"terminal":   onStage((*stage).cmdTerminal),
			"sees":       onStage((*stage).cmdSees),
			"type":       onStage((*stage).cmdType),
			"resize":     onStage((*stage).cmdResize),
			"scan":       onStage((*stage).cmdScan),
			"closes":     onStage((*stage).cmdCloses),
			"keep":       onStage((*stage).cmdKeep),
			"sh":         onStage((*stage).cmdSh),
		},
	})
}

func TestMain(m *testing.M) {
	testscript.Main(suite{m}, map[string]func(){"sallyport": main})
}

// suite makes the site once, for all tests of the package, and takes it down.
type suite struct{ m *testing.M }

// theSite is set before any test runs and only read then.
var theSite *site

func (s suite) Run() int {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	made, err := makeSite(ctx)
	if err != nil {
		fmt.Fprintln(os.Stderr, "making the site:", err)
		return 1
	}
	theSite = made
	code := s.m.Run()
	if err := made.close(); err != nil {
		fmt.Fprintln(os.Stderr, "taking the site down:", err)
		code = max(code, 1)
	}
	return code
}

// stage is where one story plays: a copy of the site with a gate of its own.
type stage struct {
	dir       string // $WORK
	gate      *gate
	servers   map[string]*ownServer
	terminals map[string]*terminal
	atEnd     []func() error // after everything has stopped
}

type stageKey struct{}

// newStage prepares a story; the gate is started by the story itself.
func newStage(env *testscript.Env) error {
	s := &stage{dir: env.WorkDir, servers: map[string]*ownServer{}, terminals: map[string]*terminal{}}
	env.Values[stageKey{}] = s
	t := env.T().(interface {
		Errorf(string, ...any)
		Logf(string, ...any)
		Failed() bool
	})
	env.Defer(func() {
		if err := s.close(); err != nil {
			t.Errorf("%v", err)
		}
		if t.Failed() && s.gate != nil {
			t.Logf("log of the gate:\n%s", s.gate.log())
		}
	})
	if err := theSite.copyTo(s.dir); err != nil {
		return err
	}
	env.Setenv("CONFIG", filepath.Join(s.dir, "gate", "sallyport.yaml"))
	env.Setenv("STATE", filepath.Join(s.dir, "gate", "state"))
	env.Setenv("RECORDINGS", filepath.Join(s.dir, "gate", "state", "recordings"))
	env.Setenv("NODEKEY", filepath.Join(s.dir, "gate", "keys", "node.key.pub"))
	env.Setenv("STORY", filepath.Base(s.dir))
	env.Setenv("HOME", s.dir)
	return nil
}

func (s *stage) close() error {
	var errs []error
	for _, t := range s.terminals {
		t.kill()
	}
	if s.gate != nil {
		errs = append(errs, s.gate.finish())
	}
	for _, d := range s.servers {
		errs = append(errs, d.close())
	}
	for _, end := range s.atEnd {
		errs = append(errs, end())
	}
	return errors.Join(errs...)
}

// onStage makes a command of a method of the story's stage.
func onStage(do func(*stage, *testscript.TestScript, bool, []string)) func(*testscript.TestScript, bool, []string) {
	return func(ts *testscript.TestScript, neg bool, args []string) {
		do(ts.Value(stageKey{}).(*stage), ts, neg, args)
	}
}

// usage ends a story that uses a command wrongly.
func usage(ts *testscript.TestScript, ok bool, text string) {
	if !ok {
		ts.Fatalf("usage: %s", text)
	}
}

func (s *stage) cmdGate(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg, "gate [stop|start|LIMIT=VALUE …]")
	switch {
	case len(args) == 1 && args[0] == "stop":
		ts.Check(s.gate.stop())
	case len(args) == 1 && args[0] == "start":
		ts.Check(s.gate.start())
	default:
		usage(ts, s.gate == nil, "gate LIMIT=VALUE … comes once")
		g, err := newGate(s.dir, args)
		ts.Check(err)
		s.gate = g
		ts.Check(g.start())
	}
	if s.gate.running() {
		ts.Setenv("PORT", strconv.Itoa(s.gate.port))
	}
}

func (s *stage) cmdAs(ts *testscript.TestScript, neg bool, args []string) {
	err := s.runAs(ts, args)
	if neg == (err == nil) {
		ts.Fatalf("as %s: %v", strings.Join(args, " "), err)
	}
}

func (s *stage) cmdExits(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && len(args) >= 2, "exits CODE as PERSON PROGRAM … | PROGRAM …")
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	if args[1] == "as" {
		err = s.runAs(ts, args[2:])
	} else {
		err = ts.Exec(args[1], args[2:]...)
	}
	got := 0
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		got = exit.ExitCode()
	} else if err != nil {
		ts.Fatalf("%s: %v", args[1], err)
	}
	if got != want {
		ts.Fatalf("%s ended with exit status %d, wanted %d", strings.Join(args[1:], " "), got, want)
	}
}

func (s *stage) runAs(ts *testscript.TestScript, args []string) error {
	words, err := s.asWords(args)
	ts.Check(err)
	return ts.Exec("env", words...)
}

// asWords are what `env` is given to run a program as a person.
func (s *stage) asWords(args []string) ([]string, error) {
	answer := ""
	if len(args) > 0 {
		if text, ok := strings.CutPrefix(args[0], "-answer="); ok {
			answer, args = text, args[1:]
		}
	}
	if len(args) < 2 {
		return nil, errors.New("usage: as [-answer=TEXT] PERSON PROGRAM …")
	}
	p := person{name: args[0], dir: filepath.Join(s.dir, "people", args[0])}
	if _, err := os.Stat(p.dir); err != nil {
		return nil, fmt.Errorf("there is no %s in this story: %w", p.name, err)
	}
	return append(p.environment(s.dir, answer), p.command(args[1:])...), nil
}

func (s *stage) cmdKeep(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && len(args) == 2, "keep NAME REGEXP")
	pattern, err := regexp.Compile("(?m)" + args[1])
	ts.Check(err)
	found := pattern.FindStringSubmatch(ts.ReadFile("stdout"))
	if found == nil {
		found = pattern.FindStringSubmatch(ts.ReadFile("stderr"))
	}
	if len(found) < 2 {
		ts.Fatalf("the output shows nothing like %q", args[1])
	}
	ts.Setenv(args[0], found[1])
}

func (s *stage) cmdSh(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, len(args) == 1, "sh SCRIPT")
	err := ts.Exec("bash", "-eu", "-o", "pipefail", "-c", args[0])
	if neg == (err == nil) {
		ts.Fatalf("sh: %v", err)
	}
}
