package console

import (
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"sallyport/recorder/vault"
)

// scrubJSON is what `scrub` prints with --json.
type scrubJSON struct {
	Backlog vault.Backlog `json:"backlog"`
	Last    *vault.Report `json:"last_scrub"` // null: there was none
}

func (k *call) scrubVerb() *cobra.Command {
	var now bool
	c := verb("scrub", "Whether stored recordings are as the ledger says", func(c *cobra.Command, args []string) error {
		if err := k.Authority.AskScrub(c.Context(), k.by(), now); err != nil {
			return err
		}
		if k.Vault == nil {
			return errors.New("this node does not know where recordings rest")
		}
		if now {
			if err := k.scrubNow(c); err != nil {
				return err
			}
		}
		out := scrubJSON{Backlog: k.Vault.Backlog()}
		if last, ok := k.Vault.LastScrub(); ok {
			out.Last = &last
		}
		if err := k.tellScrub(out); err != nil {
			return err
		}
		if out.Last != nil && !out.Last.Intact() || out.Backlog.Faulty > 0 {
			return fmt.Errorf("recordings are damaged or missing: %w", errSilent) // it was told above
		}
		return nil
	})
	c.Flags().BoolVar(&now, "now", false, "read all of them again, at recording.scrub_rate")
	c.Long = `Scrub tells what the last check of all stored recordings found, and how far their
second form is behind. The node checks by itself once a week; --now begins one and
waits for it, or goes on with one that was interrupted. Nothing is repaired: a form
that is damaged or missing is named, with the one that is whole. The exit code is 1
when there is one.`
	return c
}

// progressEvery is how often a person on a terminal is told how far it is.
const progressEvery = time.Second

func (k *call) scrubNow(c *cobra.Command) error {
	next := k.now()
	_, err := k.Scrub(c.Context(), func(r vault.Report) {
		if now := k.now(); k.verb.Term && !now.Before(next) {
			next = now.Add(progressEvery)
			fmt.Fprintf(k.verb.Stderr, "\r%d recordings, %s, %d faults ", r.Recordings, byteCount(r.Bytes), r.Faults)
		}
	})
	if k.verb.Term {
		fmt.Fprintln(k.verb.Stderr)
	}
	return err
}

func (k *call) tellScrub(s scrubJSON) error {
	if k.json {
		return k.printJSON(s)
	}
	var f facts
	switch r := s.Last; {
	case r == nil:
		f.add("last check", "none yet")
	case r.Finished.IsZero():
		f.add("last check", "since "+second(r.Started)+", not finished")
	default:
		f.add("last check", second(r.Started)+" to "+second(r.Finished))
	}
	if r := s.Last; r != nil {
		f.add("recordings", fmt.Sprintf("%d, %s read", r.Recordings, byteCount(r.Bytes)))
		f.add("faults", fmt.Sprint(r.Faults))
		for _, finding := range r.Findings {
			f.add("fault", finding.String())
		}
		if more := r.Faults - int64(len(r.Findings)); more > 0 {
			f.add("fault", fmt.Sprintf("and %d more", more))
		}
	}
	f.add("to be copied", count(s.Backlog.Files, "recording")+", "+byteCount(s.Backlog.Bytes))
	if s.Backlog.Err != nil {
		f.add("because", Cause(s.Backlog.Err))
	}
	if s.Backlog.Faulty > 0 {
		f.add("faulty copies", fmt.Sprintf("%d, of which the log tells", s.Backlog.Faulty))
	}
	f.write(k)
	return nil
}
