package main

import (
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"sallyport/bastion/console"
	"sallyport/recorder"
	"sallyport/replay"
)

func verifyVerb(o *settings, s streams) *cobra.Command {
	var all bool
	var state, keyFile, checkpointFile string
	c := &cobra.Command{
		Use:   "verify [PATH]",
		Short: "Prove offline that recordings and ledger are unchanged",
		Long: `Verify reads a recording, a ledger, or a node's whole state folder and finds any
byte that was changed, dropped, moved or cut. It needs the node's public key
(` + "`ca show node`" + `) and no private one. With a checkpoint that you remembered, it
also finds a ledger that was cut back or written anew since.`,
		Args:    words(0, 1),
		Example: "  sallyport verify S-01J….rec --key node.pub\n  sallyport verify --all --state /mnt/copy/state --key node.pub --checkpoint march.json",
		RunE: func(c *cobra.Command, args []string) error {
			if all == (len(args) == 1) {
				return console.Usagef("give a PATH, or --all")
			}
			key, err := nodeKey(o, keyFile)
			if err != nil {
				return err
			}
			if key == nil {
				return console.Usagef("the node's public key is needed: --key FILE (`ssh GATE ca show node` prints it)")
			}
			remembered, err := readCheckpoint(checkpointFile, key)
			if err != nil {
				return err
			}
			return verify(c, o, s, verification{args: args, state: state, key: key, checkpoint: remembered})
		},
	}
	c.Flags().BoolVar(&all, "all", false, "the whole state folder of the configuration, or of --state")
	c.Flags().StringVar(&state, "state", "", "state folder, or a copy of one, a `DIR`")
	c.Flags().StringVar(&keyFile, "key", "", "the node's public key, a `FILE`; else that of the configuration")
	c.Flags().StringVar(&checkpointFile, "checkpoint", "", "a checkpoint that you remembered, a `FILE` from the verb 'ledger checkpoint'")
	return c
}

func readCheckpoint(path string, key ed25519.PublicKey) (*recorder.Checkpoint, error) {
	if path == "" {
		return nil, nil
	}
	text, err := readSmallFile(path)
	if err != nil {
		return nil, err
	}
	var c recorder.Checkpoint
	if err := json.Unmarshal(text, &c); err != nil {
		return nil, fmt.Errorf("%s is no checkpoint: %w", path, err)
	}
	if err := c.Verify(key); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return &c, nil
}

// verification is what is to be verified, with what.
type verification struct {
	args       []string
	state      string
	key        ed25519.PublicKey
	checkpoint *recorder.Checkpoint
}

// errNotIntact ends `verify` with exit code 1 after the report was printed.
var errNotIntact = errors.New("not everything verifies")

func verify(c *cobra.Command, o *settings, s streams, v verification) error {
	if len(v.args) == 1 {
		info, err := os.Stat(v.args[0])
		if err != nil {
			return err
		}
		if !info.IsDir() {
			if v.checkpoint != nil {
				return console.Usagef("a checkpoint is compared with a whole state folder; give that, or leave --checkpoint out")
			}
			report, err := replay.Verify(v.args[0], v.key)
			if err != nil {
				return err
			}
			return tellReport(c, s, report, report.Text(), report.Intact)
		}
		v.state = v.args[0]
	}
	bar := newProgressBar(s.err)
	report, err := verifyNode(o, bar, v)
	bar.clear()
	if err != nil {
		return err
	}
	return tellReport(c, s, report, report.Text(), report.Intact)
}

func verifyNode(o *settings, bar *progressBar, v verification) (replay.NodeReport, error) {
	files := replay.NodeFiles{Key: v.key, Checkpoint: v.checkpoint, Progress: bar.show}
	if v.state != "" {
		files.Ledger, files.Recordings = inFolder(v.state)
		return replay.VerifyNode(files)
	}
	cfg, err := o.load()
	if err != nil {
		return replay.NodeReport{}, err
	}
	files.Ledger = filepath.Join(cfg.State, "ledger", recorder.LedgerFile)
	files.Recordings = cfg.Recording.Dir
	return replay.VerifyNode(files)
}

// inFolder finds ledger and recordings in a state folder, in the folder that
// `init` made, or in a folder to which both were copied.
func inFolder(dir string) (ledger, recordings string) {
	there := func(path string) bool {
		_, err := os.Stat(path)
		return err == nil
	}
	if !there(filepath.Join(dir, "ledger")) && there(filepath.Join(dir, "state", "ledger")) {
		dir = filepath.Join(dir, "state")
	}
	ledger, recordings = filepath.Join(dir, "ledger", recorder.LedgerFile), filepath.Join(dir, "recordings")
	if there(filepath.Join(dir, recorder.LedgerFile)) {
		ledger = filepath.Join(dir, recorder.LedgerFile)
	}
	if !there(recordings) {
		recordings = dir
	}
	return ledger, recordings
}

func tellReport(c *cobra.Command, s streams, report any, text string, intact bool) error {
	var err error
	if wantsJSON(c) {
		err = printJSON(s, report)
	} else {
		_, err = io.WriteString(s.out, cleanReport(text))
	}
	if err == nil && !intact {
		return errNotIntact
	}
	return err
}

// cleanReport keeps what a forged file says from reaching the terminal as anything but text.
func cleanReport(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		b.WriteString(console.Clean(strings.TrimSuffix(line, "\n")))
		b.WriteByte('\n')
	}
	return b.String()
}
