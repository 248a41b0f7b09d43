// Package console is the command tree of a node: the verbs that people call
// as `ssh gate VERB …` and that `sallyport VERB …` sends through the node's
// own socket. It turns words into calls of authz.Authority, and answers into
// tables or JSON.
//
// It decides nothing: whether a person may do something is answered by
// package authz, for every verb, each time. It refuses to print text that
// came from a person without escaping control and direction characters, to
// read more than 64 KiB of standard input, and to open a sealed recording.
//
// The tree is built anew for each call, so calls share no state.
package console

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"regexp"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/crypto/ssh"

	"sallyport/authz"
	"sallyport/bastion"
	"sallyport/recorder"
	"sallyport/recorder/ledger"
	"sallyport/recorder/vault"
)

// Exit codes of every verb.
const (
	ExitOK       = 0
	ExitFailed   = 1
	ExitUsage    = 2
	ExitDenied   = 3
	ExitNotFound = 4
	ExitWaiting  = 5 // what was asked for does not hold yet: it waits for approval
)

// Options are what a Console is made from.
type Options struct {
	Authority *authz.Authority
	Recorder  *recorder.Recorder
	Ledger    *ledger.Ledger
	// Follow begins a live view of a session; nil: that of the Recorder.
	Follow  func(ctx context.Context, session string) (View, error)
	Node    string            // the node's id
	Name    string            // public name of the gate
	Port    int               // public SSH port, 0 or 22 for the usual one
	Version string            // of the program
	UserCA  ssh.PublicKey     // what data servers trust
	HostCA  ssh.PublicKey     // what people's known_hosts trust; nil when unknown to the node
	NodeKey ed25519.PublicKey // verifies recordings, ledger and checkpoints
	Health  func() error      // nil while the node takes sessions
	Vault   *vault.Vault      // where finished recordings rest; nil: nothing is known of that
	// Scrub re-reads all recordings; it is long, and calls progress now and then.
	Scrub func(ctx context.Context, progress func(vault.Report)) (vault.Report, error)
	// Warnings are sentences about the node that concern those with a site role; nil: none.
	Warnings func() []string
	Clock    func() time.Time // nil: time.Now
}

// Console serves the command tree. Safe for concurrent use.
type Console struct {
	o       Options
	started time.Time
}

var _ bastion.Verbs = (*Console)(nil)

// New returns a Console.
func New(o Options) *Console {
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if o.Follow == nil {
		o.Follow = liveView(o.Recorder)
	}
	return &Console{o: o, started: o.Clock().UTC()}
}

// Run serves one call and returns its exit code.
func (c *Console) Run(ctx context.Context, v bastion.Verb) int {
	k := &call{Options: c.o, started: c.started, verb: v, out: v.Stdout}
	root := k.tree()
	// Cobra takes the process's own arguments for a nil slice.
	root.SetArgs(append([]string{}, v.Args...))
	root.SetIn(v.Stdin)
	root.SetOut(v.Stdout)
	root.SetErr(v.Stderr)
	err := k.foreignCommand(ctx, root)
	if err == nil {
		err = root.ExecuteContext(ctx)
	}
	if err != nil && !Told(err) {
		fmt.Fprintf(v.Stderr, "sallyport: %s\n", Clean(sentence(err)))
	}
	return ExitCode(err)
}

// sentence is what a person is told of an error.
func sentence(err error) string {
	if err == authz.ErrNotFound { // bare: nothing says what was looked for
		return "there is no such thing here, or none that you may see"
	}
	if ExitCode(err) == ExitFailed {
		return Cause(err)
	}
	return err.Error() // was made for people
}

// Cause is the text of an error without the names of files on the node, which are nobody's business
// outside it.
func Cause(err error) string {
	text := err.Error()
	var path *fs.PathError
	if errors.As(err, &path) {
		text = strings.ReplaceAll(text, path.Error(), path.Err.Error())
	}
	var link *os.LinkError
	if errors.As(err, &link) {
		text = strings.ReplaceAll(text, link.Error(), link.Err.Error())
	}
	return pathName.ReplaceAllString(text, "${1}a file of the node")
}

// pathName is an absolute path inside a text.
var pathName = regexp.MustCompile(`(^|[\s"'(=])/[^\s:"')]+`)

// Tree returns the command tree for its names, flags and help alone; its
// verbs must be given a Run of the caller's before they are run.
func Tree() *cobra.Command {
	k := &call{Options: Options{Clock: time.Now}}
	return k.tree()
}

// call is one call of one person.
type call struct {
	Options
	started time.Time
	verb    bastion.Verb
	out     io.Writer
	json    bool
}

func (k *call) by() authz.Actor { return k.verb.Actor }

func (k *call) now() time.Time { return k.Clock().UTC() }

// usageError is a fault in how a verb was called.
type usageError struct{ sentence string }

func (e *usageError) Error() string { return e.sentence }

// Usagef returns an error that makes the exit code ExitUsage.
func Usagef(format string, args ...any) error {
	return &usageError{fmt.Sprintf(format, args...)}
}

var (
	// errWaiting makes the exit code ExitWaiting; what is waited for was printed already.
	errWaiting = fmt.Errorf("waiting for approval: %w", errSilent)
	// errSilent is wrapped by errors that need no further sentence.
	errSilent = errors.New("already told")
	// errHelp is a call without a verb, answered with help.
	errHelp = fmt.Errorf("a verb is missing: %w", errSilent)
)

// ExitCode returns the exit code for an error of a verb.
func ExitCode(err error) int {
	var usage *usageError
	var refusal *authz.Refusal
	switch {
	case err == nil:
		return ExitOK
	case errors.As(err, &usage), errors.Is(err, errHelp):
		return ExitUsage
	case errors.As(err, &refusal):
		return ExitDenied
	case errors.Is(err, authz.ErrNotFound):
		return ExitNotFound
	case errors.Is(err, errWaiting):
		return ExitWaiting
	}
	return ExitFailed
}

// maxStdin bounds what a verb reads from standard input, in bytes.
const maxStdin = 64 << 10

// readStdin reads all of standard input, which should hold what is named.
func (k *call) readStdin(what string) (string, error) {
	if k.verb.Stdin == nil {
		return "", Usagef("%s is expected on standard input", what)
	}
	text, err := io.ReadAll(io.LimitReader(k.verb.Stdin, maxStdin+1))
	if err != nil {
		return "", fmt.Errorf("read %s from standard input: %w", what, err)
	}
	if len(text) > maxStdin {
		return "", fmt.Errorf("%s on standard input is longer than 64 KiB", what)
	}
	if strings.TrimSpace(string(text)) == "" {
		return "", Usagef("%s is expected on standard input, and it is empty", what)
	}
	return string(text), nil
}

// missing is authz.ErrNotFound with a sentence of its own.
type missing struct{ sentence string }

func (e *missing) Error() string { return e.sentence }

func (e *missing) Unwrap() error { return authz.ErrNotFound }

// Told reports whether an error needs no further sentence.
func Told(err error) bool { return errors.Is(err, errSilent) }
