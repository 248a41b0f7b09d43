package demo

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"sallyport/internal/words"
)

// newcomer is the person whom the tour invites.
const newcomer = "nils"

// tour is the story under way.
type tour struct {
	*demo
	client  *client
	scratch string            // a short path: sockets have room for little more than a hundred bytes
	shared  map[string]string // control sockets of shared connections, by host entry
	masters map[string]*terminal

	membership string    // of the newcomer
	live       *terminal // the newcomer's shell, which stays open until the membership ends
	usedCode   string    // a code of alice that was taken
	operator   *terminal // carol's terminal
	request    string    // number of her request
	number     string    // of the newcomer's session
	recording  string    // path of the fetched recording
}

// step is one step of the story. run returns the salient line that the person sees.
type step struct {
	title string
	run   func(ctx context.Context) (string, error)
}

// tour plays the story and stops at the first step that is not as told.
func (d *demo) tour(ctx context.Context, begin time.Time) error {
	out := d.options.Stdout
	for _, program := range []string{"ssh", "scp", "sftp"} {
		if _, err := exec.LookPath(program); err != nil {
			return fmt.Errorf("the tour needs the OpenSSH client: %w", err)
		}
	}
	scratch, err := os.MkdirTemp("", "tour-")
	if err != nil {
		return fmt.Errorf("make a folder for the tour: %w", err)
	}
	defer os.RemoveAll(scratch)
	t := &tour{demo: d, client: newClient(d.state.sshConfig(), scratch), scratch: scratch,
		shared: map[string]string{}, masters: map[string]*terminal{}}
	defer t.client.closeAll()
	ready := time.Since(begin)
	fmt.Fprintf(out, "Ready in %.1f s; the tour begins.\n\n", ready.Seconds())
	steps := t.story()
	for i, s := range steps {
		stepBegin := time.Now()
		line, err := s.run(ctx)
		took := time.Since(stepBegin)
		if err != nil {
			fmt.Fprintf(out, "✗ %2d %s (%.1f s)\n      not as told: %v\n", i+1, s.title, took.Seconds(), err)
			return fmt.Errorf("tour, step %d of %d, %s: %w", i+1, len(steps), s.title, err)
		}
		fmt.Fprintf(out, "✓ %2d %s (%.1f s)\n      %s\n", i+1, s.title, took.Seconds(), shorten(line, 150))
	}
	fmt.Fprintf(out, "\nAll %d steps are as told, in %.1f s in all.\n", len(steps), time.Since(begin).Seconds())
	return nil
}

// story is what is told, in order.
func (t *tour) story() []step {
	return []step{
		{"ada, administrator, invites nils", t.adaInvites},
		{"nils enrols with the invite over plain ssh: terms, authenticator, recovery codes", t.nilsEnrols},
		{"mei, manager, makes nils a researcher of genomics, with a reason", t.meiAdmits},
		{"nils logs in with key and code, and has a shell on the data server", t.nilsWorks},
		{"alice gives a wrong code: refused", t.wrongCode},
		{"alice gives the right code and runs a command in her shell", t.aliceWorks},
		{"the code that alice has just used is given again: refused", t.replayedCode},
		{"alice asks for the project cohort, which is not hers: refused", t.otherProject},
		{"alice runs a command without a shell: refused", t.execRefused},
		{"alice copies a file out with scp: refused", t.scpRefused},
		{"alice forwards a port with -L: refused", t.forwardRefused},
		{"bob, exporter, copies the same file with scp: allowed, and recorded", t.bobCopies},
		{"bob lists and fetches with sftp: allowed, and recorded", t.bobFetches},
		{"carol, operator, asks for a session and waits in her terminal", t.carolAsks},
		{"mei approves level 1; carol sees it", t.meiApproves},
		{"tomas approves level 2; carol goes on to the server", t.tomasApproves},
		{"mei ends nils' membership; his open session ends within a second", t.membershipEnds},
		{"rosa, auditor, lists the sessions", t.rosaLists},
		{"rosa fetches nils' sealed recording, with a reason, and replays it with the auditors' key", t.rosaReplays},
		{"verify finds the recording complete and unchanged, without any secret key", t.verifies},
		{"one byte of a copy is flipped: verify finds it", t.flippedByte},
	}
}

// login answers the question for a code and returns the code.
func (t *tour) login(ctx context.Context, term *terminal, name string) (string, error) {
	if _, err := term.expect(ctx, "One-time code for "+name+": "); err != nil {
		return "", err
	}
	code, err := t.authenticator(name).wait(ctx)
	if err != nil {
		return "", err
	}
	return code, term.send(code + "\r")
}

// share logs a person in once and keeps the connection for others to use.
func (t *tour) share(ctx context.Context, name, host string) (socket, code string, err error) {
	if socket, ok := t.shared[host]; ok {
		return socket, "", nil
	}
	socket = filepath.Join(t.scratch, host)
	term, err := t.client.sshOnTerminal("-M", "-N", "-S", socket, host)
	if err != nil {
		return "", "", err
	}
	if code, err = t.login(ctx, term, name); err != nil {
		return "", "", err
	}
	// The client makes the socket once it is in.
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	limit := time.NewTimer(stepTime)
	defer limit.Stop()
	for {
		if _, err := os.Stat(socket); err == nil {
			t.shared[host], t.masters[host] = socket, term
			return socket, code, nil
		}
		select {
		case <-tick.C:
		case <-term.done:
			return "", "", fmt.Errorf("%s did not get in: %s", name, lastLines(term.shown()))
		case <-limit.C:
			return "", "", fmt.Errorf("%s did not get in within %s: %s", name, stepTime, lastLines(term.shown()))
		case <-ctx.Done():
			return "", "", ctx.Err()
		}
	}
}

// verb runs a verb of the console over a person's shared connection.
func (t *tour) verb(ctx context.Context, name string, args ...string) (string, error) {
	socket, _, err := t.share(ctx, name, name)
	if err != nil {
		return "", err
	}
	quoted := make([]string, len(args))
	for i, a := range args {
		quoted[i] = words.Quote(a) // ssh joins its words with spaces
	}
	r, err := t.client.ssh(ctx, socket, append([]string{name}, quoted...)...)
	if err != nil {
		return "", err
	}
	if r.code != 0 {
		return "", fmt.Errorf("`ssh %s %s` ended with %d: %s", name, strings.Join(args, " "), r.code, lastLines(r.stderr))
	}
	return r.stdout, nil
}

// local runs the sallyport program as an auditor would on a machine of their own.
func (t *tour) local(ctx context.Context, args ...string) (result, error) {
	return t.client.run(ctx, t.options.Executable, args...)
}

// refusal checks that a program was refused by the gate with a sentence and a
// reference, and returns the sentence.
func refusal(text string) (string, error) {
	for line := range strings.Lines(plain(text)) {
		if i := strings.Index(line, "sallyport: "); i >= 0 && strings.Contains(line, "(reference ") {
			return strings.TrimSpace(line[i+len("sallyport: "):]), nil
		}
	}
	return "", fmt.Errorf("no sentence with a reference was shown, but: %s", lastLines(text))
}

// typeCommand runs a command in a shell and returns the line in which want stands. want
// must not stand in the command itself, which the terminal echoes.
func typeCommand(ctx context.Context, term *terminal, command, want string) (string, error) {
	if strings.Contains(command, want) {
		return "", errors.New("the tour expects what it types")
	}
	if err := term.send(command + "\r"); err != nil {
		return "", err
	}
	return term.line(ctx, want)
}

func shorten(line string, most int) string {
	line = strings.TrimSpace(line)
	if runes := []rune(line); len(runes) > most {
		return string(runes[:most-1]) + "…"
	}
	return line
}
