package main

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"sallyport/authz"
	"sallyport/bastion/console"
	"sallyport/recorder/trec"
	"sallyport/replay"
)

// opened is a recording that was found, verified as far as can be, and opened.
type opened struct {
	*replay.File
	word  string // that it was asked for by
	local string // path of the file; empty when it was fetched
	// signed reports that the node's key signed the whole of it. What is not
	// signed can have been made by anybody: header and recipients are public.
	signed bool
	strict bool   // an identity was given for what was typed
	remove func() // a fetched copy
}

// close closes the recording, and takes away a fetched copy.
func (r *opened) close() {
	_ = r.File.Close() // only read
	r.remove()
}

// prepare finds, fetches, verifies and opens a recording; the caller closes it. It refuses another session than was asked
// for, and warns of what nothing signed vouches for.
func prepare(ctx context.Context, o *settings, s streams, from *source, with *opening, word string) (*opened, error) {
	keys, err := with.keys(ctx, o, s)
	if err != nil {
		return nil, err
	}
	path, local, remove, err := from.open(ctx, o, s, word)
	if err != nil {
		return nil, err
	}
	r := &opened{word: word, strict: len(keys.Strict) > 0, remove: remove}
	if local {
		r.local = path
	}
	if err = r.verify(s, path, keys); err == nil {
		r.File, err = openRecording(path, keys, word)
	}
	if err != nil {
		remove()
		return nil, err
	}
	if err := r.checkAsked(); err != nil {
		r.close()
		return nil, err
	}
	return r, nil
}

// verify refuses a recording that is not intact, and warns of one that nothing signed vouches for.
func (r *opened) verify(s streams, path string, keys replay.Keys) error {
	if keys.Node == nil {
		fmt.Fprintln(s.err, "sallyport: not verified, since the node's public key is not known here; give --key FILE (`ssh GATE ca show node` prints it)")
		return nil
	}
	report, err := verifyFile(path, keys.Node)
	if err != nil {
		return err
	}
	if !report.Intact {
		fmt.Fprint(s.err, cleanReport(report.Text()))
		return errors.New("the recording is not intact; nothing of it is shown")
	}
	if r.signed = report.Complete; !r.signed {
		fmt.Fprintf(s.err, "sallyport: WARNING: %s has no signed end: nothing signed says that this is what was recorded, and anybody can make such a file; hold it against a ledger with `verify --ledger`\n",
			console.Clean(r.word))
	}
	return nil
}

// checkAsked refuses a recording of another session than was asked for: by its number, its S-… or the beginning of that, or by
// a file that is named after a session.
func (r *opened) checkAsked() error {
	m := r.Meta()
	asked := r.word
	if r.local != "" {
		asked = filepath.Base(r.local)
		name, isRecording := strings.CutSuffix(asked, replay.Extension)
		if !isRecording || !strings.HasPrefix(name, "S-") || name == m.Session {
			return nil
		}
		return fmt.Errorf("the file %s holds session %s: it was renamed, or put in the place of another; nothing of it is shown under this name", asked, m.Session)
	}
	number, err := strconv.ParseInt(asked, 10, 64)
	if err == nil && number == m.Number || err != nil && strings.HasPrefix(m.Session, strings.ToUpper(asked)) {
		return nil
	}
	return fmt.Errorf("session %s was asked for, and what came is session %s with the number %d; nothing of it is shown", asked, m.Session, m.Number)
}

// verifyFile verifies one recording, whatever the name of its file.
func verifyFile(path string, key ed25519.PublicKey) (trec.Report, error) {
	file, err := os.Open(path)
	if err != nil {
		return trec.Report{}, err
	}
	defer file.Close()
	return trec.Verify(file, key, nil)
}

// openRecording opens a recording, and tells a wrong key from other faults by what was asked for: the
// path may be that of a fetched copy.
func openRecording(path string, keys replay.Keys, word string) (*replay.File, error) {
	r, err := replay.OpenPath(path, keys)
	if !errors.Is(err, trec.ErrSealed) {
		return r, err
	}
	sealed := "another key"
	if report, err := verifyFile(path, keys.Node); keys.Node != nil && err == nil && report.Epoch != "" {
		sealed = "the key of " + console.Clean(report.Epoch)
	}
	return nil, fmt.Errorf("the recording %s is sealed to %s, which the given identity does not open", word, sealed)
}

// watchable refuses what nobody can watch or read: the bytes of a file transfer.
func (r *opened) watchable() error {
	if r.Meta().Action != string(authz.ActionSFTP) {
		return nil
	}
	return fmt.Errorf("session %s moved files by sftp, which nobody can watch; `export --format jsonl` has the exact bytes", r.word)
}
