package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"sallyport/bastion/console"
	"sallyport/internal/node"
	"sallyport/recorder"
)

func recoverVerb(o *settings, s streams) *cobra.Command {
	var admin, reason string
	var acceptDamage bool
	c := &cobra.Command{
		Use:   "recover",
		Short: "Put right what a crash left, or let an administrator in who lost the second factor; the node must be stopped",
		Long: `Recover without --admin brings what a crash left in the journal to where it
belongs, ends the recordings that it left open, and says what it did. A start of
the node does the same; this is for looking at it first, or for copying the files of a
node that is not to start again.

When a start refuses because the journal is damaged, --accept-damage saves what can be
read on both sides of the damaged place and keeps the file as .journal.damaged. What stood
in that place is lost, and the ledger says for good that it was accepted. Copy the
journal's folder for the auditors before. A loss in the ledger itself is not accepted.

With --admin it is for the day on which no administrator can log in any more: it
removes an administrator's second factor and makes a new invite. Where there is no
administrator at all, as after a rebuild into an empty database, it makes one. It needs the node's
files, so the node must be stopped; and it stands in the ledger for good.`,
		Args: noWords,
		RunE: func(c *cobra.Command, _ []string) error {
			if (admin == "") != (reason == "") {
				return console.Usagef("--admin and --reason go together")
			}
			if acceptDamage && admin != "" {
				return console.Usagef("--accept-damage and --admin do not go together")
			}
			cfg, err := o.load()
			if err != nil {
				return err
			}
			if admin == "" {
				done, err := node.RecoverStores(c.Context(), cfg, node.Options{Version: version(), AcceptDamage: acceptDamage})
				if err != nil {
					return err
				}
				return printRestored(c, s, done)
			}
			made, err := node.Recover(c.Context(), cfg, node.Options{Version: version()}, admin, reason)
			if err != nil {
				return err
			}
			return printMade(c, s, made, "The second factor of "+made.Admin+" is removed, and the ledger says so. Start the node again.")
		},
	}
	c.Flags().BoolVar(&acceptDamage, "accept-damage", false, "go on over damaged places of the journal; the damaged files are kept")
	c.Flags().StringVar(&admin, "admin", "", "user name of the administrator to let in")
	c.Flags().StringVar(&reason, "reason", "", "why; it stands in the ledger (with --admin)")
	return c
}

// printRestored says what a recovery did.
func printRestored(c *cobra.Command, s streams, done *node.Restored) error {
	if wantsJSON(c) {
		return printJSON(s, done)
	}
	var b strings.Builder
	if len(done.Frames) == 0 && len(done.Aside) == 0 && len(done.Sessions) == 0 && len(done.Damaged) == 0 && !done.Ledger {
		b.WriteString("nothing was left open: journal, recordings and ledger are as an orderly stop leaves them\n")
	}
	if done.Ledger {
		b.WriteString("ledger: its last entries were brought in from the journal\n")
	}
	for _, session := range slices.Sorted(maps.Keys(done.Frames)) {
		fmt.Fprintf(&b, "%s: %d frames were moved, still sealed, from the journal into the recording\n", session, done.Frames[session])
	}
	for _, one := range done.Sessions {
		fmt.Fprintf(&b, "%s: %s\n", one.Session, restoredText(one.Reason))
	}
	for _, name := range done.Aside {
		fmt.Fprintf(&b, "%s: frames that no recording could take were set aside under this name, beside the recordings\n", name)
	}
	for _, name := range done.Damaged {
		fmt.Fprintf(&b, "%s: this file of the journal is damaged and kept under this name, in the journal's folder; the ledger says so\n", name)
	}
	_, err := fmt.Fprint(s.out, b.String())
	return err
}

func restoredText(reason string) string {
	switch reason {
	case recorder.ReasonCrashed:
		return "the recording was open and has a signed end now"
	case recorder.ReasonDamaged:
		return "the recording is damaged, and was set aside under the name .trec.damaged"
	case recorder.ReasonMissing:
		return "there is no recording; the ledger says so"
	}
	return "the recording had ended (" + reason + "), and now the ledger and the session's entry say so"
}
