package main

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"sallyport/authz"
	"sallyport/bastion/console"
	"sallyport/recorder"
)

// epochNewVerb makes the pair of a project's quarter where the auditor is;
// the private half never comes near the gate.
func epochNewVerb(s streams) *cobra.Command {
	var quarter, out string
	c := &cobra.Command{
		Use:   "new PROJECT",
		Short: "Make the keys of a project's quarter, away from the gate",
		Args:  words(1, 1),
		RunE: func(c *cobra.Command, args []string) error {
			project := args[0]
			if !authz.ValidProjectName(project) {
				return console.Usagef("%q is no name of a project; it has 1 to 32 of a-z, 0-9 and '-', and begins with a letter", project)
			}
			if quarter == "" {
				quarter = console.Quarter(time.Now())
			}
			if _, err := console.QuarterEnd(quarter); err != nil {
				return err
			}
			keys, err := recorder.NewEpochKeys()
			if err != nil {
				return err
			}
			if err := os.MkdirAll(out, 0o700); err != nil {
				return err
			}
			base := filepath.Join(out, project+"-"+quarter)
			name := project + "/" + quarter
			if err := writeNewFile(base+".key", keys.MarshalPrivate(name), 0o600); err != nil {
				return err
			}
			if err := writeNewFile(base+".pub", keys.MarshalPublic(name), 0o644); err != nil {
				return err
			}
			if wantsJSON(c) {
				return printJSON(s, map[string]string{"epoch": name, "private": base + ".key", "public": base + ".pub",
					"recipient": keys.Recipient, "strict_recipient": keys.Strict})
			}
			_, err = fmt.Fprintf(s.out, `%s.key opens what is recorded in %s from %s on: keep it safe, and keep a copy.
%s.pub goes to the gate:

  ssh GATE epoch add %s --quarter %s < %s.pub
`, base, project, quarter, base, project, quarter, base)
			return err
		},
	}
	c.Flags().StringVar(&quarter, "quarter", "", "such as 2026Q4; the present one by default")
	c.Flags().StringVar(&out, "out", ".", "folder to write to")
	return c
}
