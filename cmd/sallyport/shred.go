package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"sallyport/authz"
	"sallyport/bastion/console"
	wordlist "sallyport/internal/words"
	"sallyport/recorder"
	"sallyport/recorder/epoch"
)

// signatureNamespace is what `ssh-keygen -Y verify -n` is given.
const signatureNamespace = "sallyport-epoch"

// shredding is what `epoch shred` was asked.
type shredding struct{ pub, by, reason, sign, out string }

// epochShredVerb destroys the copies of an epoch's key that one person holds.
func epochShredVerb(s streams) *cobra.Command {
	var f shredding
	c := &cobra.Command{
		Use:   "shred FILE …",
		Short: "Destroy your copies of an epoch's key, and declare it",
		Long: `Shred writes over the files, removes them, and writes a statement that says which
key of which epoch you destroyed, when and why. Name every copy that you hold. With
--sign the statement is signed by your ssh key, and the gate keeps it:

  ssh -o ControlPath=none gate epoch destroy EPOCH --statement --reason TEXT < STATEMENT

A disk may keep older bytes where no program reaches them. A sealed key is safe
there as long as the identities that open it are; destroy those too when they have
no other use.`,
		Example: "  sallyport epoch shred genomics-2026Q1.key.age genomics-2026Q1.strict.age --pub genomics-2026Q1.pub \\\n" +
			"    --by rosa --reason 'retention is over' --sign ~/.ssh/id_ed25519",
		Args: words(1, mostFiles),
		RunE: func(c *cobra.Command, args []string) error {
			if f.pub == "" || f.by == "" || strings.TrimSpace(f.reason) == "" {
				return console.Usagef("--pub FILE, --by NAME and --reason TEXT are required: the statement says them")
			}
			text, err := readSmallFile(f.pub)
			if err != nil {
				return err
			}
			keys, name, err := recorder.ParseEpochFile(text)
			if err != nil {
				return fmt.Errorf("%s: %w", f.pub, err)
			}
			if name == "" {
				return fmt.Errorf("%s does not say of which epoch it is", f.pub)
			}
			return f.run(c, s, args, epoch.Statement{Epoch: name, By: f.by, Reason: f.reason,
				Recipients: []string{authz.RecipientFingerprint(keys.Recipient), authz.RecipientFingerprint(keys.Strict)}})
		},
	}
	c.Flags().StringVar(&f.pub, "pub", "", "the epoch's public `FILE`, which says what it was (required)")
	c.Flags().StringVar(&f.by, "by", "", "your name at the gate (required)")
	c.Flags().StringVar(&f.reason, "reason", "", "why (required)")
	c.Flags().StringVar(&f.sign, "sign", "", "your ssh key, a `FILE`, to sign the statement with; a .pub file if the agent has it")
	c.Flags().StringVar(&f.out, "out", "", "where the statement goes, a `FILE`; PROJECT-QUARTER.destroyed by default")
	return c
}

// mostFiles is more copies of a key than anybody should have.
const mostFiles = 1000

func (f *shredding) run(c *cobra.Command, s streams, files []string, statement epoch.Statement) error {
	out := f.out
	if out == "" {
		out = strings.ReplaceAll(statement.Epoch, "/", "-") + ".destroyed"
	}
	if _, err := os.Lstat(out); !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s is there already, or cannot be made; give another --out FILE", out)
	}
	// Everything is looked at before the first file is gone.
	for _, path := range files {
		if _, err := epoch.Look(path); err != nil {
			return err
		}
	}
	for _, path := range files {
		gone, err := epoch.Destroy(path)
		if err != nil {
			return fmt.Errorf("%w; destroyed before it: %d of %d files", err, len(statement.Files), len(files))
		}
		statement.Files = append(statement.Files, gone)
	}
	statement.At = time.Now()
	text, err := statement.Text()
	if err != nil {
		return err
	}
	if err := writeNewFile(out, text, 0o644); err != nil {
		return err
	}
	if f.sign == "" {
		fmt.Fprintln(s.err, "sallyport: the statement is not signed; sign it with --sign, or by hand")
	} else if _, err = f.signed(c, s, out, text); err != nil {
		return err
	}
	if wantsJSON(c) {
		return printJSON(s, map[string]any{"statement": out, "files": statement.Files, "epoch": statement.Epoch, "signed": f.sign != ""})
	}
	fmt.Fprintf(s.err, "sallyport: what you indexed of its recordings can still be read; `sallyport index purge --epoch %s` erases it\n",
		console.Clean(statement.Epoch))
	_, err = fmt.Fprintf(s.out, "%d files are destroyed. The statement goes to the gate:\n\n  ssh -o ControlPath=none GATE epoch destroy %s --statement --reason %s < %s\n",
		len(files), statement.Epoch, wordlist.Quote(wordlist.Quote(f.reason)), out)
	return err
}

// signed puts the signature of ssh-keygen behind the statement.
func (f *shredding) signed(c *cobra.Command, s streams, path string, text []byte) ([]byte, error) {
	sign := exec.CommandContext(c.Context(), "ssh-keygen", "-q", "-Y", "sign", "-n", signatureNamespace, "-f", f.sign, path)
	sign.Stdin, sign.Stderr = s.in, s.err
	if err := sign.Run(); err != nil {
		return nil, fmt.Errorf("the files are destroyed and %s says so, and ssh-keygen did not sign it: %w", path, err)
	}
	signature, err := readSmallFile(path + ".sig")
	if err != nil {
		return nil, err
	}
	text = append(text, signature...)
	if err := replaceFile(path, text, 0o644); err != nil {
		return nil, fmt.Errorf("put the signature into %s: %w", filepath.Base(path), err)
	}
	return text, os.Remove(path + ".sig")
}
