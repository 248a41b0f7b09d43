package console

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"sallyport/authz"
	"sallyport/recorder"
)

func (k *call) epochNoun() *cobra.Command {
	return noun("epoch", "Public keys that recordings are sealed to, by quarter", k.epochAdd(), k.epochLs())
}

// epochGrace is how long an epoch may be used after its quarter, so that a
// late new key does not keep everyone out.
const epochGrace = 30 * 24 * time.Hour

// QuarterEnd returns the end of a quarter written as 2026Q4, exclusive, in UTC.
func QuarterEnd(quarter string) (time.Time, error) {
	year, number, ok := strings.Cut(quarter, "Q")
	y, errYear := strconv.Atoi(year)
	q, errNumber := strconv.Atoi(number)
	if !ok || errYear != nil || errNumber != nil || y < 2000 || y > 9999 || q < 1 || q > 4 || len(number) != 1 {
		return time.Time{}, Usagef("%q is no quarter; write one such as 2026Q4", quarter)
	}
	return time.Date(y, time.Month(3*q+1), 1, 0, 0, 0, 0, time.UTC), nil
}

// Quarter names the quarter of a time, such as 2026Q4.
func Quarter(t time.Time) string {
	t = t.UTC()
	return fmt.Sprintf("%dQ%d", t.Year(), (int(t.Month())+2)/3)
}

func (k *call) epochAdd() *cobra.Command {
	var quarter, expires string
	c := verb("add PROJECT", "Add the public half of an epoch, read from standard input", func(c *cobra.Command, args []string) error {
		text, err := k.readStdin("the public file of `sallyport epoch new`")
		if err != nil {
			return err
		}
		if strings.Contains(strings.ToUpper(text), "AGE-SECRET-KEY-") {
			return Usagef("this holds the private half, which must stay away from the gate; give the .pub file, and make a new pair, since this one was sent")
		}
		keys, err := recorder.ParseEpochKeys([]byte(text))
		if err != nil {
			return Usagef("standard input is not the public file of `sallyport epoch new`: %v", err)
		}
		if quarter == "" {
			quarter = Quarter(k.now())
		}
		end, err := QuarterEnd(quarter)
		if err != nil {
			return err
		}
		end = end.Add(epochGrace)
		if expires != "" {
			if end, err = k.moment("expires", expires); err != nil {
				return err
			}
		}
		e := authz.Epoch{ID: args[0] + "/" + quarter, Project: args[0], Recipient: keys.Recipient, Strict: keys.Strict, ExpiresAt: end, CreatedAt: k.now(), CreatedBy: k.by().User}
		if err := k.Authority.AddEpoch(c.Context(), k.by(), e); err != nil {
			return err
		}
		return k.done(e, "recordings of %s are sealed to %s from now on, until %s", e.Project, e.ID, day(e.ExpiresAt))
	})
	c.Flags().StringVar(&quarter, "quarter", "", "such as 2026Q4; the present one by default")
	c.Flags().StringVar(&expires, "expires", "", "use it no longer than; 30 days after the quarter by default")
	c.Example = "  sallyport epoch new genomics --out keys          # on the auditor's machine\n  ssh gate epoch add genomics < keys/genomics-2026Q4.pub"
	return c
}

func (k *call) epochLs() *cobra.Command {
	return verb("ls [PROJECT]", "List the epochs of a project, or of all that I may see", func(c *cobra.Command, args []string) error {
		project := ""
		if len(args) > 0 {
			project = args[0]
		}
		epochs, err := k.Authority.Epochs(c.Context(), k.by(), project)
		if err != nil {
			return err
		}
		if k.json {
			return k.printJSON(list(epochs))
		}
		t := table{heads: []string{"EPOCH", "~RECIPIENT", "ADDED", "ADDED BY", "EXPIRES"}, empty: "There are no epochs to see; without one no session of a project can start."}
		for _, e := range epochs {
			t.add(e.ID, e.Recipient, day(e.CreatedAt), e.CreatedBy, day(e.ExpiresAt))
		}
		t.write(k)
		return nil
	})
}
