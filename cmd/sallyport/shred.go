package main

import (
	"bytes"
	"errors"
	"fmt"
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
	// Everything that can fail is done before the first file is gone: what is named is looked at, and the statement is
	// signed and on the disk, under a name of its own until it is true.
	looked, err := epoch.LookAll(files)
	if err != nil {
		return err
	}
	statement.Files, statement.At = looked, time.Now()
	text, err := statement.Text()
	if err != nil {
		return err
	}
	if text, err = f.signed(c, s, text); err != nil {
		return err
	}
	if err := writeNewFile(out, nil, 0o644); err != nil {
		return fmt.Errorf("%w; give another --out FILE; nothing is destroyed", err)
	}
	draft, err := writeBeside(out, text, 0o644)
	if err != nil {
		return errors.Join(fmt.Errorf("%w; nothing is destroyed", err), os.Remove(out))
	}
	if err := destroyAll(files, statement, out); err != nil {
		return errors.Join(err, os.Remove(draft))
	}
	if err := os.Rename(draft, out); err != nil {
		return fmt.Errorf("the files are destroyed and %s says so: %w", draft, err)
	}
	if err := syncFolder(filepath.Dir(out)); err != nil {
		return err
	}
	if f.sign == "" {
		fmt.Fprintln(s.err, "sallyport: the statement is not signed; sign it with --sign, or by hand")
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

// destroyAll destroys the files that a statement names. When it can not, the file at out says, unsigned, which are gone.
func destroyAll(files []string, statement epoch.Statement, out string) error {
	var done []epoch.Gone
	for i, path := range files {
		gone, err := epoch.Destroy(path)
		if err == nil {
			done = append(done, gone)
			if gone != statement.Files[i] {
				err = fmt.Errorf("%s was changed meanwhile, and is gone", path)
			}
		}
		if err == nil {
			continue
		}
		err = fmt.Errorf("%w; destroyed: %d of %d files", err, len(done), len(files))
		if len(done) == 0 {
			return errors.Join(err, os.Remove(out))
		}
		statement.Files = done
		text, textErr := statement.Text()
		if textErr == nil {
			textErr = replaceFile(out, text, 0o644)
		}
		return errors.Join(fmt.Errorf("%w; %s names those, and is not signed", err, out), textErr)
	}
	return nil
}

// signed puts the signature of ssh-keygen behind the statement, if it is to be signed.
func (f *shredding) signed(c *cobra.Command, s streams, text []byte) ([]byte, error) {
	if f.sign == "" {
		return text, nil
	}
	sign := exec.CommandContext(c.Context(), "ssh-keygen", "-q", "-Y", "sign", "-n", signatureNamespace, "-f", f.sign)
	sign.Stdin, sign.Stderr = bytes.NewReader(text), s.err
	signature, err := sign.Output()
	if err != nil {
		return nil, fmt.Errorf("ssh-keygen did not sign the statement, so nothing is destroyed: %w", err)
	}
	return append(text, signature...), nil
}
