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
	return noun("epoch", "Public keys that recordings are sealed to, by quarter", k.epochAdd(), k.epochLs(),
		k.epochDestroy(), k.epochKeep())
}

// epochGrace is how long an epoch may be used after its quarter, so that a
// late new key does not keep everyone out.
const epochGrace = 30 * 24 * time.Hour

// QuarterEnd returns the end of a quarter written as 2026Q4, exclusive, in UTC. A key that replaces
// another of the quarter has a number behind it: 2026Q4.2.
func QuarterEnd(quarter string) (time.Time, error) {
	base, again, replaced := strings.Cut(quarter, ".")
	if n, err := strconv.Atoi(again); replaced && (err != nil || n < 2 || n > 99 || again != strconv.Itoa(n)) {
		return time.Time{}, Usagef("%q is no quarter; a key that replaces another is named such as 2026Q4.2", quarter)
	}
	year, number, ok := strings.Cut(base, "Q")
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
		keys, name, err := recorder.ParseEpochFile([]byte(text))
		if err != nil {
			return Usagef("standard input is not the public file of `sallyport epoch new`: %v", err)
		}
		if quarter, err = k.epochOf(args[0], quarter, name); err != nil {
			return err
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
	c.Flags().StringVar(&quarter, "quarter", "", "such as 2026Q4; what the file says by default")
	c.Flags().StringVar(&expires, "expires", "", "use it no longer than; 30 days after the quarter by default")
	c.Example = "  sallyport epoch new genomics --to rosa.age.pub --out keys          # on the auditor's machine\n  ssh gate epoch add genomics < keys/genomics-2026Q4.pub"
	return c
}

// epochOf is the quarter that a public file is for. What the file says must agree with what was asked for.
func (k *call) epochOf(project, quarter, name string) (string, error) {
	of, written, found := strings.Cut(name, "/")
	switch {
	case found && of != project:
		return "", Usagef("this is the key of %s, not of %s", Clean(of), project)
	case found && quarter == "":
		return written, nil
	case found && written != quarter:
		return "", Usagef("this is the key of %s, not of %s", Clean(written), quarter)
	case quarter == "":
		return Quarter(k.now()), nil
	}
	return quarter, nil
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
		t := table{heads: []string{"!EPOCH", "~RECIPIENT", "ADDED", "BY", "EXPIRES", "STATE"}, empty: "There are no epochs to see; without one no session of a project can start."}
		for _, e := range epochs {
			t.add(e.ID, shorten(e.Recipient, 32), day(e.CreatedAt), e.CreatedBy, day(e.ExpiresAt), k.epochState(e))
		}
		t.write(k)
		return nil
	})
}

func (k *call) epochState(e authz.Epoch) string {
	switch {
	case !e.DestroyedAt.IsZero():
		return "destroyed " + day(e.DestroyedAt)
	case e.DeclaredBy != "":
		return "declared destroyed by " + e.DeclaredBy
	case !e.ExpiresAt.After(k.now()):
		return "ended"
	}
	return "valid"
}

func (k *call) epochDestroy() *cobra.Command {
	var reason, statement string
	var read bool
	c := reasonFlag(verb("destroy EPOCH", "Declare that the private half of an epoch is destroyed", func(c *cobra.Command, args []string) (err error) {
		if read {
			if statement, err = k.readStdin("the statement of `sallyport epoch shred`"); err != nil {
				return err
			}
		}
		e, err := k.Authority.DestroyEpoch(c.Context(), k.by(), args[0], reason, strings.TrimSpace(statement))
		if err != nil {
			return err
		}
		if !e.DestroyedAt.IsZero() {
			return k.done(e, "the epoch %s is destroyed: nobody can open what was sealed to it any more, and the ledger says who declared it", e.ID)
		}
		if err := k.done(e, "declared; it waits for another auditor or a security administrator: epoch destroy %s", e.ID); err != nil {
			return err
		}
		return errWaiting
	}), &reason)
	c.Long = `Destroy declares that you have destroyed every copy of the private half that you
hold. An auditor does so first; another auditor, or a security administrator who saw
to it, completes it. It is refused before the recordings' retention is over, and
can not be undone. The gate never had the private half: what makes the recordings
unreadable is that its last copy is gone.

The statement of ` + "`sallyport epoch shred`" + ` can be given on standard input, with
--statement, and is kept in the ledger.`
	c.Flags().BoolVar(&read, "statement", false, "read your signed statement from standard input")
	c.Example = "  ssh -o ControlPath=none gate epoch destroy genomics/2026Q1 --statement --reason '\"retention is over\"' < genomics-2026Q1.destroyed"
	return c
}

func (k *call) epochKeep() *cobra.Command {
	var reason string
	return reasonFlag(verb("keep EPOCH", "Take back that an epoch is declared destroyed", func(c *cobra.Command, args []string) error {
		if err := k.Authority.KeepEpoch(c.Context(), k.by(), args[0], reason); err != nil {
			return err
		}
		return k.done(map[string]string{"epoch": args[0]}, "the declaration about %s is taken back", args[0])
	}), &reason)
}
