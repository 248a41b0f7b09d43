package main

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"sallyport/bastion/console"
	"sallyport/recorder/ledger"
	"sallyport/recorder/tlog"
	"sallyport/recorder/witness"
	"sallyport/replay"
)

// verification is what is to be verified, and with what.
type verification struct {
	all         bool
	path        string
	state       string // folder
	ledger      string // directory that one recording is held against
	keyFile     string
	checkpoints []string // files
	receipts    []string
	policy      string // file
	proof       string // file
	writeProof  string // file
	noRemember  bool
	remember    string // folder
	newNode     bool

	key ed25519.PublicKey
}

func verifyVerb(o *settings, s streams) *cobra.Command {
	var v verification
	c := &cobra.Command{
		Use:   "verify [PATH]",
		Short: "Prove offline that recordings and ledger are unchanged",
		Long: `Verify reads a recording, or a node's whole state folder, and finds any byte of
recordings and of the ledger's tree that was changed, dropped, moved or cut. Of the
texts of events, which lie sealed beside the tree, it counts those that are there and
those that are not, and finds damage by accident; what they must be, the tree holds. It needs the node's public key (` + "`ca show node`" + `)
and no private one, no network and no running node.

A ledger that its own node wrote anew shows only against something that left the node
before: the checkpoint that verify remembered the last time (it remembers by itself),
a checkpoint from a log server or a colleague, a receipt, or the witnesses of a policy.

PATH is a folder with ledger and recordings, or one recording; with --ledger or --proof
one recording is held against the ledger, too.`,
		Args: words(0, 1),
		Example: "  sallyport verify S-01J….trec --key node.pub\n  sallyport verify S-01J….trec --key node.pub --ledger copy/ledger\n" +
			"  sallyport verify --all --state /mnt/copy/state --key node.pub --checkpoint march.txt --policy witnesses.txt",
		RunE: func(c *cobra.Command, args []string) error {
			if v.all == (len(args) == 1) {
				return console.Usagef("give a PATH, or --all")
			}
			if len(args) == 1 {
				v.path = args[0]
			}
			key, err := nodeKey(o, v.keyFile)
			if err != nil {
				return err
			}
			if key == nil {
				return console.Usagef("the node's public key is needed: --key FILE (`ssh GATE ca show node` prints it)")
			}
			v.key = key
			return v.run(c, o, s)
		},
	}
	f := c.Flags()
	f.BoolVar(&v.all, "all", false, "the whole state folder of the configuration, or of --state")
	f.StringVar(&v.state, "state", "", "state folder, or a copy of one, a `DIR`")
	f.StringVar(&v.keyFile, "key", "", "the node's public key, a `FILE`; else that of the configuration")
	f.StringVar(&v.ledger, "ledger", "", "hold one recording against this ledger, a `DIR`")
	f.StringArrayVar(&v.checkpoints, "checkpoint", nil, "a signed checkpoint of the node from elsewhere, a `FILE`; may be given again")
	f.StringArrayVar(&v.receipts, "receipt", nil, "a receipt `LINE` that somebody was shown at logout; may be given again")
	f.StringVar(&v.policy, "policy", "", "which witnesses must have cosigned the ledger, a `FILE` (C2SP tlog-policy)")
	f.StringVar(&v.proof, "proof", "", "a proof that the ledger holds the recording, a `FILE` of --write-proof")
	f.StringVar(&v.writeProof, "write-proof", "", "write such a proof of the recording to a new `FILE`; needs --ledger")
	f.BoolVar(&v.noRemember, "no-remember", false, "neither demand what was remembered of this ledger nor remember it now")
	f.BoolVar(&v.newNode, "new-node", false, "take a ledger of another node than was remembered under this key, which was set up again with its old key")
	f.StringVar(&v.remember, "remember", "", "where checkpoints are remembered, a `DIR`; else checkpoints in $SALLYPORT_HOME, or in your own configuration folder")
	return c
}

// errNotIntact ends `verify` with exit code 1 after the report was printed.
var errNotIntact = errors.New("not everything verifies")

func (v *verification) run(c *cobra.Command, o *settings, s streams) error {
	single := false
	if v.path != "" {
		info, err := os.Stat(v.path)
		if errors.Is(err, fs.ErrNotExist) {
			return console.NotFoundf("there is no %s", v.path)
		}
		if err != nil {
			return err
		}
		single = !info.IsDir()
	}
	held := len(v.checkpoints) + len(v.receipts)
	switch {
	case !single && (v.ledger != "" || v.proof != "" || v.writeProof != ""):
		return console.Usagef("--ledger and proofs are for one recording; name its file")
	case single && v.ledger == "" && (held > 0 || v.policy != "" || v.writeProof != ""):
		return console.Usagef("checkpoints, receipts, policies and proofs are held against a ledger: add --ledger DIR")
	case v.proof != "" && v.ledger != "":
		return console.Usagef("give --ledger or --proof: a proof stands alone")
	}
	if single && v.ledger == "" {
		return v.alone(c, s)
	}
	files, err := v.files(o, s, single)
	if err != nil {
		return err
	}
	bar := newProgressBar(s.err)
	files.Progress = bar.show
	report, err := replay.VerifyNode(c.Context(), files)
	bar.clear()
	if err == nil && report.Intact && v.writeProof != "" {
		err = v.prove(c.Context(), report.Recordings)
	}
	if err != nil {
		return err
	}
	return tellReport(c, s, report, report.Text(), report.Intact)
}

// alone verifies one recording by itself, or with a proof.
func (v *verification) alone(c *cobra.Command, s streams) error {
	var report replay.Report
	var text []byte
	var err error
	if v.proof == "" {
		report, err = replay.Verify(v.path, v.key)
	} else if text, err = readSmallFile(v.proof); err == nil {
		report, err = replay.VerifyProof(v.path, text, v.key)
	}
	if err != nil {
		return err
	}
	return tellReport(c, s, report, report.Text(), report.Intact)
}

func (v *verification) prove(ctx context.Context, recordings []replay.Report) error {
	if len(recordings) != 1 {
		return errors.New("there is no recording to prove")
	}
	proof, err := replay.ProveRecording(ctx, v.ledger, recordings[0].Session, v.key)
	if err != nil {
		return err
	}
	return writeNewFile(v.writeProof, proof.Format(), 0o644)
}

// files gathers what is verified and what it is held against.
func (v *verification) files(o *settings, s streams, single bool) (replay.NodeFiles, error) {
	var files replay.NodeFiles
	switch folder := v.state; {
	case single:
		files = replay.NodeFiles{Ledger: v.ledger, Copies: []string{v.path}, Key: v.key}
	case v.path != "" || folder != "":
		if v.path != "" {
			folder = v.path
		}
		files = replay.FilesIn(folder, v.key)
	default:
		cfg, err := o.load()
		if err != nil {
			return files, err
		}
		files = replay.NodeFiles{Ledger: filepath.Join(cfg.State, "ledger"), Recordings: []string{cfg.Recording.Dir}, Key: v.key}
	}
	for _, path := range v.checkpoints {
		text, err := readSmallFile(path)
		if err != nil {
			return files, err
		}
		files.Checkpoints = append(files.Checkpoints, text)
	}
	files.Receipts, files.NewNode = v.receipts, v.newNode
	if v.policy != "" {
		text, err := readSmallFile(v.policy)
		if err == nil {
			files.Policy, err = witness.ParsePolicy(text)
		}
		if err != nil {
			return files, err
		}
	}
	v.memory(&files, s, os.Getenv)
	return files, nil
}

// memory is where this person's checkpoints are remembered: the same place as that of `ledger checkpoint`.
func (v *verification) memory(files *replay.NodeFiles, s streams, getenv func(string) string) {
	switch {
	case v.noRemember:
	case v.remember != "":
		files.Remembered = tlog.NewRemembered(v.remember)
	default:
		var err error
		if files.Remembered, err = ledger.Remembered(getenv); err != nil {
			fmt.Fprintf(s.err, "sallyport: nothing is remembered of this ledger (%v); give --remember DIR\n", err)
		}
	}
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
