package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"

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

// open returns the path of the recording, and what takes away a fetched copy.
func (f *source) open(ctx context.Context, o *settings, s streams, word string) (path string, cleanup func(), err error) {
	nothing := func() {}
	_, err = os.Stat(word)
	if err == nil && f.gate == "" {
		return word, nothing, nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", nothing, err
	}
	if f.reason == "" {
		if f.gate == "" && filepath.Base(word) != word {
			return "", nothing, fmt.Errorf("there is no file %s", word)
		}
		return "", nothing, console.Usagef("a reason is required to fetch a session: --reason TEXT")
	}
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
