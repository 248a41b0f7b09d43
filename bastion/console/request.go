package console

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"sallyport/authz"
)

func (k *call) requestNoun() *cobra.Command {
	return noun("request", "Requests that wait for approval",
		k.requestCreate(), k.requestLs(), k.requestShow(), k.requestVote(true), k.requestVote(false), k.requestCancel())
}

func (k *call) requestCreate() *cobra.Command {
	var reason string
	return reasonFlag(verb("create PROJECT/SERVER", "Ask for an operator's session on a data server", func(c *cobra.Command, args []string) error {
		project, server, err := place(args[0])
		if err != nil {
			return err
		}
		r, err := k.Authority.CreateRequest(c.Context(), k.by(), project, server, reason)
		if err != nil {
			return err
		}
		if k.json {
			err = k.printJSON(r)
		} else {
			k.printRequest(r)
		}
		if err == nil && r.State == "pending" {
			return errWaiting
		}
		return err
	}), &reason)
}

func (k *call) requestLs() *cobra.Command {
	var all bool
	c := verb("ls", "List requests that are mine or that I may vote on", func(c *cobra.Command, args []string) error {
		requests, err := k.Authority.Requests(c.Context(), k.by(), all)
		if err != nil {
			return err
		}
		if k.json {
			return k.printJSON(list(requests))
		}
		t := table{heads: []string{"!NO", "USER", "PLACE", "STATE", "LEVEL", "CREATED", "REASON"}, empty: "Nothing waits."}
		for _, r := range requests {
			t.add(strconv.FormatInt(r.Number, 10), r.User, requestPlace(r), r.State, levelOf(r), minute(r.CreatedAt), r.Reason)
		}
		proposals, err := k.proposals(c)
		if err != nil {
			return err
		}
		if len(t.rows) > 0 || len(proposals) == 0 {
			t.write(k)
		}
		for _, line := range proposals {
			fmt.Fprintln(k.out, line)
		}
		return nil
	})
	c.Flags().BoolVar(&all, "all", false, "also requests that have ended")
	return c
}

func requestPlace(r authz.Request) string {
	if r.Server == "" {
		return r.Project
	}
	return r.Project + "/" + r.Server
}

func levelOf(r authz.Request) string {
	return strconv.Itoa(min(r.Level+1, len(r.Levels))) + " of " + strconv.Itoa(len(r.Levels))
}

func (k *call) requestShow() *cobra.Command {
	return verb("show NUMBER", "Show a request", func(c *cobra.Command, args []string) error {
		r, err := k.Authority.Request(c.Context(), k.by(), args[0])
		if err != nil {
			return err
		}
		if k.json {
			return k.printJSON(r)
		}
		k.printRequest(r)
		return nil
	})
}

// printRequest prints a request. What a person wrote stands in quotes as JSON
// has them, so that it cannot be mistaken for what the gate says.
func (k *call) printRequest(r authz.Request) {
	var f facts
	f.add("request", fmt.Sprintf("%d (%s)", r.Number, r.ID))
	f.add("state", requestState(r))
	addSubject(&f, r)
	f.add("created", minute(r.CreatedAt))
	if r.State == "pending" {
		f.add("answer until", minute(r.ExpiresAt))
	}
	for i, l := range r.Levels {
		f.add("level "+strconv.Itoa(i+1), levelSentence(i, l, r))
		for _, v := range l.Votes {
			word := "denied by "
			if v.Approve {
				word = "approved by "
			}
			text := word + v.User + ", " + minute(v.At)
			if v.Comment != "" {
				text += ", " + quoted(v.Comment)
			}
			f.add("", text)
		}
	}
	if !r.GrantUntil.IsZero() {
		f.add("may start", minute(r.GrantFrom)+" to "+minute(r.GrantUntil)+", uses left: "+strconv.Itoa(r.UsesLeft))
	}
	f.addIf("sessions", strings.Join(r.Sessions, ", "))
	f.write(k)
}

// addSubject adds exactly what a vote is for.
func addSubject(f *facts, r authz.Request) {
	f.add("kind", string(r.Kind))
	f.add("requester", r.User)
	f.add("project", r.Project)
	f.add("server", dash(r.Server))
	f.add("reason", quoted(r.Reason))
	f.add("digest", r.Digest)
}

func requestState(r authz.Request) string {
	if r.State == "pending" {
		return "pending, level " + levelOf(r)
	}
	return r.State
}

func levelSentence(i int, l authz.LevelState, r authz.Request) string {
	yes := 0
	for _, v := range l.Votes {
		if v.Approve {
			yes++
		}
	}
	text := fmt.Sprintf("%s, %d of %d", dash(l.Name), yes, l.Quorum)
	if i >= r.Level && r.State == "pending" && len(l.Eligible) > 0 {
		text += " (may vote: " + strings.Join(l.Eligible, ", ") + ")"
	}
	return text
}

func (k *call) requestVote(approve bool) *cobra.Command {
	var digest, comment string
	use, short := "deny NUMBER", "Deny a request; one denial ends it"
	if approve {
		use, short = "approve NUMBER", "Approve a request at its open level"
	}
	c := verb(use, short, func(c *cobra.Command, args []string) error {
		if !approve && strings.TrimSpace(comment) == "" {
			return Usagef("a reason is required: --reason TEXT")
		}
		shown, err := k.Authority.Request(c.Context(), k.by(), args[0])
		if err != nil {
			return err
		}
		if digest == "" {
			digest = shown.Digest
		}
		// The vote is bound to the digest, so it counts only for what is shown; a vote that counts for
		// nothing shows nothing.
		r, err := k.Authority.Vote(c.Context(), k.by(), shown.ID, approve, digest, comment)
		if err != nil {
			return err
		}
		if k.json {
			return k.printJSON(r)
		}
		k.printSubject(shown, approve)
		fmt.Fprintf(k.out, "\nYour vote is recorded. Request %d is now %s.\n", r.Number, requestState(r))
		return nil
	})
	c.Flags().StringVar(&digest, "digest", "", "digest that the request must have, as you saw it before")
	if approve {
		c.Flags().StringVar(&comment, "comment", "", "a remark that stands with the vote")
	} else {
		c.Flags().StringVar(&comment, "reason", "", "why; the requester sees it (required)")
	}
	return c
}

func (k *call) printSubject(r authz.Request, approve bool) {
	word := "You deny exactly this:"
	if approve {
		word = "You approve exactly this:"
	}
	fmt.Fprintln(k.out, word)
	var f facts
	addSubject(&f, r)
	f.write(k)
}

func (k *call) requestCancel() *cobra.Command {
	var reason string
	c := verb("cancel NUMBER", "Withdraw one's own request", func(c *cobra.Command, args []string) error {
		r, err := k.Authority.CancelRequest(c.Context(), k.by(), args[0], reason)
		if err != nil {
			return err
		}
		return k.done(r, "request %d is %s", r.Number, r.State)
	})
	c.Flags().StringVar(&reason, "reason", "", "why; it stands in the ledger")
	return c
}
