package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"sallyport/bastion/console"
	wordlist "sallyport/internal/words"
)

// source says which recording is meant: a file, or a session that a gate holds.
type source struct {
	gate, ssh, reason, purpose string
}

func (f *source) register(c *cobra.Command) {
	c.Flags().StringVar(&f.gate, "gate", "", "USER@GATE to fetch the session from by ssh; else the node of this machine")
	c.Flags().StringVar(&f.ssh, "ssh", "ssh", "ssh command to fetch with, with its options")
	c.Flags().StringVar(&f.reason, "reason", "", "why; required to fetch a session, and stands in the ledger")
}

// isSession reports whether a word names a session and no file: a number, or S-… without anything that stands in the names of files.
// A file of such a name has to be called ./NAME, so that nobody can put one in the place of a session.
func isSession(word string) bool {
	digits := strings.TrimLeft(word, "0123456789")
	if digits == "" {
		return word != ""
	}
	rest, found := strings.CutPrefix(strings.ToUpper(word), "S-")
	return found && strings.Trim(rest, "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ") == ""
}

// open returns the path of the recording, whether that is a file of this machine which was named, and what takes away a fetched copy.
func (f *source) open(ctx context.Context, o *settings, s streams, word string) (path string, local bool, cleanup func(), err error) {
	nothing := func() {}
	_, err = os.Stat(word)
	there := err == nil
	if there && f.gate == "" && !isSession(word) {
		return word, true, nothing, nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", false, nothing, err
	}
	if f.reason == "" {
		if f.gate == "" && filepath.Base(word) != word {
			return "", false, nothing, fmt.Errorf("there is no file %s", word)
		}
		if there && f.gate == "" {
			return "", false, nothing, console.Usagef("a reason is required to fetch session %s: --reason TEXT; the file of that name is ./%s", word, word)
		}
		return "", false, nothing, console.Usagef("a reason is required to fetch a session: --reason TEXT")
	}
	path, cleanup, err = f.fetch(ctx, o, s, word)
	return path, false, cleanup, err
}

// fetch returns the path of a copy of a session's recording, and what takes it away.
func (f *source) fetch(ctx context.Context, o *settings, s streams, word string) (path string, cleanup func(), err error) {
	nothing := func() {}
	dir, err := os.MkdirTemp("", "sallyport-*") // 0700
	if err != nil {
		return "", nothing, err
	}
	cleanup = func() { _ = os.RemoveAll(dir) } // sealed, and in a folder of our own
	file, err := os.OpenFile(filepath.Join(dir, "fetched.trec"), os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		cleanup()
		return "", nothing, err
	}
	args := []string{"session", "fetch", word, "--purpose", f.purpose, "--reason", f.reason}
	if f.gate != "" {
		err = f.fetchBySSH(ctx, s, args, file)
	} else {
		err = callNodeTo(ctx, o, args, s, file)
	}
	if err = errors.Join(err, file.Close()); err != nil {
		cleanup()
		return "", nothing, err
	}
	return file.Name(), cleanup, nil
}

// fetchBySSH runs the real ssh, so that the auditor's own configuration, keys
// and agent are used, and it asks for the second factor itself.
func (f *source) fetchBySSH(ctx context.Context, s streams, args []string, out *os.File) error {
	program, err := wordlist.SplitWords(f.ssh)
	if err != nil || len(program) == 0 {
		return console.Usagef("--ssh %q is no command", f.ssh)
	}
	words := append(program[1:], "-T", "--", f.gate, wordlist.JoinWords(args))
	c := exec.CommandContext(ctx, program[0], words...)
	c.Stdout, c.Stderr = out, s.err
	if onTerminal(s.in) {
		c.Stdin = s.in
	}
	err = c.Run()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &exit) && exit.ExitCode() > 0 && exit.ExitCode() <= console.ExitWaiting:
		return remoteExit(exit.ExitCode())
	case errors.As(err, &exit) && exit.ExitCode() == 255:
		return fmt.Errorf("%s did not get in to %s (255)", program[0], f.gate)
	}
	return fmt.Errorf("fetch by %s: %w", program[0], err)
}
