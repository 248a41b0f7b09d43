package main

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"os"
	"strconv"

	"github.com/spf13/cobra"

	"sallyport/bastion/console"
	"sallyport/internal/node"
	"sallyport/recorder/ledger"
	"sallyport/recorder/witness"
)

// ledgerVerbs adds to the noun `ledger` what is done where it is typed.
func ledgerVerbs(noun *cobra.Command, o *settings, s streams) {
	checkpoint, _, err := noun.Find([]string{"checkpoint"})
	if err == nil && checkpoint != noun {
		rememberCheckpoint(checkpoint, o, s)
	}
	noun.AddCommand(rebuildVerb(o, s))
}

// rememberCheckpoint makes `ledger checkpoint` keep what it was shown, and demand
// that it continues what it was shown before.
func rememberCheckpoint(c *cobra.Command, o *settings, s streams) {
	var from source
	var keyFile string
	var newNode bool
	c.Flags().StringVar(&from.gate, "gate", "", "USER@GATE to ask by ssh, with --key; else the node of this machine")
	c.Flags().StringVar(&from.ssh, "ssh", "ssh", "ssh command to ask with, with its options")
	c.Flags().StringVar(&keyFile, "key", "", "the node's public key, a `FILE`; then the checkpoint is verified, compared with the one remembered here, and remembered")
	c.Flags().BoolVar(&newNode, "new-node", false, "take the checkpoint of another node than was remembered under this key, which was set up again with its old key")
	plain := c.RunE
	c.RunE = func(c *cobra.Command, args []string) error {
		if from.gate == "" && keyFile == "" {
			return plain(c, args) // as it always was: the node's answer, for a pipe
		}
		if c.Flags().Changed("since") {
			return console.Usagef("--since is for asking the node alone; with --gate or --key the proof goes from the checkpoint that is remembered here")
		}
		key, err := nodeKey(o, keyFile)
		if err != nil {
			return err
		}
		if key == nil {
			return console.Usagef("the node's public key is needed: --key FILE (`ssh GATE ca show node` prints it)")
		}
		continues := continuesWhat(key) // asked now, since it is remembered below
		ask := func(ctx context.Context, args ...string) ([]byte, error) { return from.ask(ctx, o, s, args) }
		signed, err := seeCheckpoint(c.Context(), ask, key, newNode, os.Getenv)
		if err != nil {
			return err
		}
		fmt.Fprintln(s.err, "sallyport: verified; "+continues)
		if wantsJSON(c) {
			return printJSON(s, map[string]any{"checkpoint": string(signed), "verified": true})
		}
		_, err = s.out.Write(signed)
		return err
	}
}

// continuesWhat says what a checkpoint that verified is known to continue.
func continuesWhat(key ed25519.PublicKey) string {
	remembered, err := ledger.Remembered(os.Getenv)
	if err == nil {
		if last, err := ledger.LastSeen(remembered, key); err == nil && last.Size > 0 {
			return fmt.Sprintf("it continues the %d entries remembered here", last.Size)
		}
	}
	return "nothing of this ledger was remembered here before"
}

// ask runs a verb on the gate and returns its answer.
func (f *source) ask(ctx context.Context, o *settings, s streams, args []string) ([]byte, error) {
	file, err := os.CreateTemp("", "sallyport-*") // 0600
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.Remove(file.Name()) }() // a public answer, in a file of our own
	if f.gate != "" {
		err = f.fetchBySSH(ctx, s, args, file)
	} else {
		err = callNodeTo(ctx, o, args, s, file)
	}
	var exit remoteExit
	if errors.As(err, &exit) && exit == console.ExitNotFound {
		err = nil // fewer entries than asked for: the answer is the evidence of that, if there is one
	}
	if err = errors.Join(err, file.Close()); err != nil {
		return nil, err
	}
	text, err := readSmallFile(file.Name())
	if err == nil && len(text) == 0 && exit != 0 {
		return nil, exit
	}
	return text, err
}

// seeCheckpoint asks for the checkpoint, verifies it, compares it with the one that is
// remembered and keeps it. A ledger of another node under the same key needs newNode. One question does both, since each may cost a second factor.
func seeCheckpoint(ctx context.Context, ask func(context.Context, ...string) ([]byte, error), key ed25519.PublicKey,
	newNode bool, getenv func(string) string) ([]byte, error) {
	remembered, err := ledger.Remembered(getenv)
	if err != nil {
		return nil, err
	}
	last, err := ledger.LastSeen(remembered, key)
	if err != nil {
		return nil, err
	}
	if newNode {
		last.Size = 0 // of another ledger, so there is no proof to ask for
	}
	e := &witness.Extension{Old: last.Size}
	if last.Size == 0 {
		e.Checkpoint, err = ask(ctx, "ledger", "checkpoint")
	} else {
		var answer []byte
		if answer, err = ask(ctx, "ledger", "checkpoint", "--since", strconv.FormatInt(last.Size, 10)); err == nil {
			e, err = witness.ParseExtension(answer)
		}
	}
	if err != nil {
		return nil, err
	}
	return e.Checkpoint, ledger.Remember(remembered, e.Checkpoint, key, newNode, func(older, newer int64) (ledger.TreeProof, error) {
		switch {
		case newNode:
			return nil, errors.New("this ledger was seen before; ask again without --new-node")
		case older != e.Old:
			return nil, errors.New("the gate now has another ledger than it had; ask again")
		}
		return e.Proof, nil
	})
}

func rebuildVerb(o *settings, s streams) *cobra.Command {
	return &cobra.Command{
		Use:   "rebuild",
		Short: "Make the tables of events and sessions again from the ledger, while the node is stopped",
		Long: `Rebuild reads every event of this node's ledger that it can still read, and makes the
tables of the database that only repeat what happened again from them: events,
sessions, commands, transfers and what a search finds. What is there already stays.
People, keys, second factors, projects, memberships and requests are not in the
ledger in full: they stay as the database has them, and come from a backup.`,
		Args: noWords,
		RunE: func(c *cobra.Command, _ []string) error {
			cfg, err := o.load()
			if err != nil {
				return err
			}
			bar := newProgressBar(s.err)
			done, err := node.Rebuild(c.Context(), cfg, node.Options{Version: version()}, bar.show)
			bar.clear()
			if err != nil {
				return err
			}
			if wantsJSON(c) {
				return printJSON(s, done)
			}
			text := fmt.Sprintf("%d events of the ledger, %d of them new to the database; %d sessions\n", done.Events, done.Added, done.Sessions)
			if done.Unreadable > 0 {
				text += fmt.Sprintf("%d further events cannot be read, because their keys were destroyed\n", done.Unreadable)
			}
			if done.NoAdministrator {
				text += "Nobody can come in yet: the database holds no administrator. Put people and projects back from a backup, or make the first one:\n" +
					"  sallyport recover --config " + cfg.File + " --admin NAME --reason TEXT\n"
			}
			_, err = fmt.Fprint(s.out, text)
			return err
		},
	}
}
