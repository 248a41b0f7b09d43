package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"filippo.io/age"
	"github.com/spf13/cobra"

	"sallyport/authz"
	"sallyport/bastion/console"
	"sallyport/recorder"
	"sallyport/recorder/epoch"
)

// epochVerbs are what auditors do with an epoch's private halves, which never come near a gate.
func epochVerbs(s streams) []*cobra.Command {
	return []*cobra.Command{epochNewVerb(s), epochRewrapVerb(s), epochUnsealVerb(s), epochShredVerb(s), epochIdentityVerb(s)}
}

// recipients are the options that say to whom keys are sealed.
type recipients struct{ to, strictTo, escrow, sealTo []string }

func (f *recipients) register(c *cobra.Command) {
	c.Flags().StringArrayVar(&f.to, "to", nil, "an auditor's age recipient, a `FILE` or age1…; again for each auditor")
	c.Flags().StringArrayVar(&f.sealTo, "seal-to", nil, "seal over to one who is no auditor, a `FILE` or age1…: opening takes both")
}

// parse reads recipients, each of which is a file or the recipient itself.
func (f *recipients) parse(words ...string) ([]age.Recipient, error) {
	var all []age.Recipient
	for _, word := range words {
		text := []byte(word)
		if !strings.HasPrefix(word, "age1") {
			var err error
			if text, err = readSmallFile(word); err != nil {
				return nil, err
			}
		}
		found, err := epoch.ParseRecipients(string(text))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", word, err)
		}
		all = append(all, found...)
	}
	if err := epoch.CheckRecipients(all); err != nil {
		return nil, console.Usagef("%s", err)
	}
	return all, nil
}

// wrapping is to whom a key of a class is sealed. Without --strict-to both classes go to the same people.
func (f *recipients) wrapping(class epoch.Class) (w epoch.Wrapping, err error) {
	to := f.to
	if class == epoch.Strict && len(f.strictTo) > 0 {
		to = f.strictTo
	}
	if w.To, err = f.parse(append(append([]string{}, to...), f.escrow...)...); err != nil {
		return w, err
	}
	w.Seal, err = f.parse(f.sealTo...)
	return w, err
}

// madeEpoch is what `epoch new` prints with --json.
type madeEpoch struct {
	Epoch     string `json:"epoch"`
	Private   string `json:"private"`
	Apart     string `json:"strict,omitempty"`
	Public    string `json:"public"`
	Recipient string `json:"recipient"`
	Strict    string `json:"strict_recipient"`
}

// epochNewVerb makes the pair of a project's quarter where the auditor is;
// the private half never comes near the gate.
func epochNewVerb(s streams) *cobra.Command {
	var quarter, out, replaces string
	var plain bool
	var to recipients
	c := &cobra.Command{
		Use:   "new PROJECT",
		Short: "Make the keys of a project's quarter, away from the gate",
		Long: `New makes the two keys of an epoch: one opens what was shown, the strict one what
was typed in terminals. Each private half is sealed to the age recipients of the
auditors (--to), in a file of its own; the file .pub is for the gate.

With --seal-to each file is sealed over once more, so that opening takes an
auditor and, say, the data protection officer. --escrow adds a recipient to both
files who is to keep them for the day on which no auditor can.`,
		Example: "  sallyport epoch identity new rosa.identity > rosa.age.pub\n" +
			"  sallyport epoch new genomics --to rosa.age.pub --to nora.age.pub --out keys\n" +
			"  sallyport epoch new genomics --to rosa.age.pub --replaces genomics/2026Q4",
		Args: words(1, 1),
		RunE: func(c *cobra.Command, args []string) error {
			project := args[0]
			if !authz.ValidProjectName(project) {
				return console.Usagef("%q is no name of a project; it has 1 to 32 of a-z, 0-9 and '-', and begins with a letter", project)
			}
			quarter, err := epochQuarter(project, quarter, replaces)
			if err != nil {
				return err
			}
			if plain == (len(to.to) > 0) {
				return console.Usagef("say to whom the private half is sealed, with --to RECIPIENT, or --plain to have it in clear")
			}
			ordinary, strict, err := epoch.New(project + "/" + quarter)
			if err != nil {
				return err
			}
			made := madeEpoch{Epoch: ordinary.Epoch, Recipient: ordinary.Recipient, Strict: strict.Recipient}
			if err := made.write(out, project+"-"+quarter, ordinary, strict, to, plain); err != nil {
				return err
			}
			return made.tell(c, s, project, quarter, plain)
		},
	}
	c.Flags().StringVar(&quarter, "quarter", "", "such as 2026Q4; the present one by default")
	c.Flags().StringVar(&out, "out", ".", "folder to write to")
	c.Flags().StringVar(&replaces, "replaces", "", "an `EPOCH` whose key is not to be used any more, such as when an auditor left")
	c.Flags().BoolVar(&plain, "plain", false, "keep the private half in clear, for trying things out")
	to.register(c)
	c.Flags().StringArrayVar(&to.strictTo, "strict-to", nil, "who gets the strict key; those of --to by default")
	c.Flags().StringArrayVar(&to.escrow, "escrow", nil, "who keeps a copy of both for the day that no auditor can")
	return c
}

// epochQuarter is the name of an epoch inside its project: a quarter, or the next number of one that is replaced.
func epochQuarter(project, quarter, replaces string) (string, error) {
	if replaces == "" {
		if quarter == "" {
			quarter = console.Quarter(time.Now())
		}
		_, err := console.QuarterEnd(quarter)
		return quarter, err
	}
	old, ours := strings.CutPrefix(replaces, project+"/")
	if !ours || quarter != "" {
		return "", console.Usagef("--replaces takes an epoch of %s, such as %s/%s, and no --quarter", project, project, console.Quarter(time.Now()))
	}
	if _, err := console.QuarterEnd(old); err != nil {
		return "", err
	}
	base, number, _ := strings.Cut(old, ".")
	n, err := strconv.Atoi(number)
	if err != nil {
		n = 1
	}
	return base + "." + strconv.Itoa(n+1), nil
}

// write makes the files, none of which may be there.
func (m *madeEpoch) write(dir, base string, ordinary, strict epoch.Key, to recipients, plain bool) error {
	both := epoch.Both(ordinary, strict)
	m.Public = filepath.Join(dir, base+".pub")
	files := []struct {
		path string
		text []byte
		mode fs.FileMode
	}{{m.Public, both.MarshalPublic(ordinary.Epoch), 0o644}}
	add := func(name string, text []byte) string {
		path := filepath.Join(dir, name)
		files = append(files, struct {
			path string
			text []byte
			mode fs.FileMode
		}{path, text, 0o600})
		return path
	}
	if plain {
		m.Private = add(base+".key", both.MarshalPrivate(ordinary.Epoch))
	} else {
		for _, k := range []epoch.Key{ordinary, strict} {
			w, err := to.wrapping(k.Class)
			if err != nil {
				return err
			}
			text, err := epoch.Wrap(k, w)
			if err != nil {
				return err
			}
			if k.Class == epoch.Strict {
				m.Apart = add(base+".strict.age", text)
			} else {
				m.Private = add(base+".key.age", text)
			}
		}
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	for _, f := range files {
		if _, err := os.Lstat(f.path); err == nil {
			return fmt.Errorf("%s is there already; a key is never written over", filepath.Base(f.path))
		} else if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	// The public half comes last: what can not be opened by anybody must not get to a gate. Half a set is of no use,
	// so what was made goes again when the rest fails.
	for i := len(files) - 1; i >= 0; i-- {
		err := writeNewFile(files[i].path, files[i].text, files[i].mode)
		if err == nil {
			continue
		}
		for _, f := range files[i+1:] {
			err = errors.Join(err, os.Remove(f.path))
		}
		return err
	}
	return nil
}

func (m *madeEpoch) tell(c *cobra.Command, s streams, project, quarter string, plain bool) error {
	if plain {
		fmt.Fprintf(s.err, "sallyport: %s is in clear: whoever reads it can read the project's recordings; use --to for real data\n", m.Private)
	}
	if wantsJSON(c) {
		return printJSON(s, m)
	}
	what := m.Private + " opens"
	if m.Apart != "" {
		what = m.Apart + " opens what was typed in terminals, and " + what
	}
	_, err := fmt.Fprintf(s.out, `%s what is recorded in %s from %s on: keep it safe, and keep a copy.
%s goes to the gate:

  ssh GATE epoch add %s --quarter %s < %s
`, what, project, quarter, m.Public, project, quarter, m.Public)
	return err
}

// own are the options that say which identities an auditor opens sealed keys with.
type own struct{ files []string }

// identityVariable names the identity file of an auditor who gives no option.
const identityVariable = "SALLYPORT_IDENTITY"

func (f *own) register(c *cobra.Command, name string) {
	c.Flags().StringArrayVar(&f.files, name, nil, "your own age identity, a `FILE`, for keys that are sealed to it; else $"+identityVariable)
}

// identities reads them; none is no error, since a key may be in clear.
func (f *own) identities(ctx context.Context, s streams) ([]age.Identity, error) {
	files := f.files
	if path := os.Getenv(identityVariable); len(files) == 0 && path != "" {
		files = []string{path}
	}
	var all []age.Identity
	for _, path := range files {
		text, err := readSmallFile(path)
		if err != nil {
			return nil, err
		}
		ids, err := epoch.ParseIdentities(text, func() (string, error) { return ask(ctx, s, "Passphrase of "+filepath.Base(path)+": ", false) })
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		all = append(all, ids...)
	}
	return all, nil
}

// openEpoch opens the file of an epoch's key, sealed or in clear. The private half stays in memory.
func openEpoch(path string, ids []age.Identity) (recorder.EpochKeys, error) {
	text, err := readSmallFile(path)
	if err != nil {
		return recorder.EpochKeys{}, err
	}
	keys, err := epoch.Open(text, ids)
	if err != nil {
		if epoch.Sealed(text) && len(ids) == 0 {
			return keys, console.Usagef("%s is sealed: give your own age identity with --auditor-identity FILE or $%s", path, identityVariable)
		}
		return keys, fmt.Errorf("%s: %w", path, err)
	}
	return keys, nil
}

// leaverNote is what sealing anew can not do.
const leaverNote = "whoever could open this key before and kept a copy still can, and reads what is recorded until the gate has another key: " +
	"when somebody left, make one with `sallyport epoch new PROJECT --replaces %s`\n"

// rewrapping is what `epoch rewrap` was asked.
type rewrapping struct {
	to       recipients
	mine     own
	dropSeal bool
}

// epochRewrapVerb seals one identity to another list of auditors; the recordings stay as they are.
func epochRewrapVerb(s streams) *cobra.Command {
	var f rewrapping
	c := &cobra.Command{
		Use:   "rewrap FILE",
		Short: "Seal an epoch's key to another list of auditors",
		Long: `Rewrap opens a sealed key with your own identity and seals the same key to the
recipients of --to, which is the whole new list: name yourself too, and with
--escrow who keeps a copy. A key that was sealed over with --seal-to stays so: say to
whom, or --drop-seal. No recording changes. The file is replaced in one step, or stays
as it was.

Whoever joins can read the epoch's recordings from then on. Whoever left and kept a
copy of the old file can still open it, so leaving needs a new epoch as well.`,
		Example: "  sallyport epoch rewrap genomics-2026Q4.key.age --identity rosa.identity --to rosa.age.pub --to otto.age.pub",
		Args:    words(1, 1),
		RunE:    func(c *cobra.Command, args []string) error { return f.run(c, s, args[0]) },
	}
	f.to.register(c)
	c.Flags().BoolVar(&f.dropSeal, "drop-seal", false, "leave the outer layer of --seal-to off, so that an auditor alone opens the key")
	c.Flags().StringArrayVar(&f.to.escrow, "escrow", nil, "who keeps a copy for the day that no auditor can")
	f.mine.register(c, "identity")
	return c
}

func (f *rewrapping) run(c *cobra.Command, s streams, path string) error {
	switch {
	case len(f.to.to) == 0:
		return console.Usagef("--to RECIPIENT is required, for each auditor who is to open the key, you among them")
	case f.dropSeal && len(f.to.sealTo) > 0:
		return console.Usagef("--drop-seal and --seal-to can not both be given")
	}
	ids, err := f.mine.identities(c.Context(), s)
	if err != nil {
		return err
	}
	if info, err := os.Lstat(path); err != nil {
		return err
	} else if !info.Mode().IsRegular() {
		return fmt.Errorf("%s is not a plain file; name the file that holds the key itself", path)
	}
	text, err := readSmallFile(path)
	if err != nil {
		return err
	}
	key, layers, err := epoch.ParseLayers(text, ids)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if layers > 1 && len(f.to.sealTo) == 0 && !f.dropSeal {
		return console.Usagef("%s is sealed over: say to whom with --seal-to, or --drop-seal to let an auditor alone open it", path)
	}
	w, err := f.to.wrapping(key.Class)
	if err != nil {
		return err
	}
	inner, err := epoch.Wrap(key, epoch.Wrapping{To: w.To})
	if err != nil {
		return err
	}
	if text, err = epoch.Wrap(key, w); err != nil {
		return err
	}
	if err := replaceFile(path, text, 0o600); err != nil {
		return err
	}
	if _, err := epoch.Parse(inner, ids); err != nil {
		fmt.Fprintf(s.err, "sallyport: no identity that you gave opens %s any more: only those of --to and --escrow can\n", path)
	}
	if len(f.to.escrow) == 0 {
		fmt.Fprint(s.err, "sallyport: it is sealed to nobody in escrow; whoever kept a copy so far is to be named with --escrow again\n")
	}
	fmt.Fprintf(s.err, leaverNote, key.Epoch)
	if wantsJSON(c) {
		return printJSON(s, map[string]any{"epoch": key.Epoch, "class": key.Class, "file": path, "recipients": len(w.To), "sealed_over": len(w.Seal) > 0})
	}
	_, err = fmt.Fprintf(s.out, "the %s key of %s is sealed to %d recipients now; give each of them %s\n", key.Class, key.Epoch, len(w.To), filepath.Base(path))
	return err
}

// replaceFile writes a file anew in one durable step.
func replaceFile(path string, content []byte, mode fs.FileMode) error {
	fresh, err := writeBeside(path, content, mode)
	if err != nil {
		return err
	}
	if err := os.Rename(fresh, path); err != nil {
		return errors.Join(err, os.Remove(fresh))
	}
	return syncFolder(filepath.Dir(path))
}

// writeBeside writes what is to become a file, durably, into the same folder under a name that nothing else has.
func writeBeside(path string, content []byte, mode fs.FileMode) (string, error) {
	fresh, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return "", err
	}
	_, err = fresh.Write(content)
	if err = errors.Join(err, fresh.Chmod(mode), fresh.Sync(), fresh.Close()); err != nil {
		return "", errors.Join(err, os.Remove(fresh.Name()))
	}
	return fresh.Name(), nil
}

func syncFolder(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// epochUnsealVerb takes the outer layer off, which is the part of the one who is no auditor.
func epochUnsealVerb(s streams) *cobra.Command {
	var mine own
	var out string
	c := &cobra.Command{
		Use:   "unseal FILE",
		Short: "Take off the outer layer that --seal-to put over a key",
		Long: `Unseal is for the one who is no auditor: it takes the outer layer off a key that
was made with --seal-to, and writes what is inside, which is still sealed to the
auditors. It can not open that.`,
		Example: "  sallyport epoch unseal genomics-2026Q4.key.age --identity officer.identity --out for-rosa.key.age",
		Args:    words(1, 1),
		RunE: func(c *cobra.Command, args []string) error {
			if out == "" {
				return console.Usagef("--out FILE is required")
			}
			ids, err := mine.identities(c.Context(), s)
			if err != nil {
				return err
			}
			text, err := readSmallFile(args[0])
			if err != nil {
				return err
			}
			if !epoch.Sealed(text) {
				return fmt.Errorf("%s is not sealed", args[0])
			}
			inner, err := epoch.Unseal(text, ids)
			if err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			if !epoch.Sealed(inner) {
				clear(inner)
				return fmt.Errorf("%s has one layer only, and what is inside is the key in clear; it is not written anywhere", args[0])
			}
			return writeNewFile(out, inner, 0o600)
		},
	}
	mine.register(c, "identity")
	c.Flags().StringVar(&out, "out", "", "`FILE` to write, which must not be there (required)")
	return c
}

// epochIdentityVerb makes an auditor's own identity.
func epochIdentityVerb(s streams) *cobra.Command {
	var passphrase bool
	fresh := &cobra.Command{
		Use:   "new FILE",
		Short: "Make your own age identity, and print its recipient",
		Long: `New writes an age identity of your own to FILE, once, and prints its public half,
the recipient, which goes to whoever makes epochs. Keep FILE to yourself, with a
copy: what is sealed to it opens with it alone. With --passphrase FILE is of no use
without one. The age command and its plugins can make identities as well.`,
		Example: "  sallyport epoch identity new rosa.identity --passphrase > rosa.age.pub",
		Args:    words(1, 1),
		RunE: func(c *cobra.Command, args []string) error {
			secret := ""
			if passphrase {
				var err error
				if secret, err = newPassphrase(c.Context(), s); err != nil {
					return err
				}
			}
			text, recipient, err := epoch.NewIdentity(time.Now(), secret)
			if err != nil {
				return err
			}
			if err := writeNewFile(args[0], text, 0o600); err != nil {
				return err
			}
			if wantsJSON(c) {
				return printJSON(s, map[string]any{"identity": args[0], "recipient": recipient, "passphrase": passphrase})
			}
			_, err = fmt.Fprintln(s.out, recipient)
			return err
		},
	}
	fresh.Flags().BoolVar(&passphrase, "passphrase", false, "ask for a passphrase, which is then needed at each use")
	c := &cobra.Command{Use: "identity", Short: "An auditor's own key, to which epochs' keys are sealed", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() }}
	c.AddCommand(fresh)
	return c
}

// minPassphrase is the least length, in bytes: a file can be tried at leisure by who has a copy.
const minPassphrase = 12

func newPassphrase(ctx context.Context, s streams) (string, error) {
	first, err := ask(ctx, s, "Passphrase: ", false)
	if err != nil {
		return "", err
	}
	if len(first) < minPassphrase {
		return "", console.Usagef("a passphrase has at least %d characters; four or five random words are good", minPassphrase)
	}
	second, err := ask(ctx, s, "The same again: ", false)
	if err == nil && first != second {
		err = console.Usagef("the two are not the same")
	}
	return first, err
}
