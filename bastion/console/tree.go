package console

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"sallyport/internal/config"
)

const welcome = `Sallyport is the gate of a trusted research environment. It lets each person, by
key and second factor, only to their own project's data servers, and records
every session.

  access                 where I can go, and why not elsewhere
  request create P/S     ask for an operator's session; request ls lists
  session ls             sessions that I may see
  search WORDS           find events, commands and transfers
  whoami, key ls         who I am here, and my keys
  terms show             the terms of use

  user, project, server, member, training, epoch      who and what there is
  event, ledger, ca, status, scrub                    what happened, and proof

Every verb takes --json and --help. Exit codes: 0 ok, 1 failed, 2 usage,
3 denied, 4 not found, 5 waiting for approval; 254 of a session: the gate
refused or ended it. Over ssh, put a text of several
words into two pairs of quotes: --reason '"new student"'.`

// tree builds the command tree of one call.
func (k *call) tree() *cobra.Command {
	root := &cobra.Command{
		Use:               "sallyport",
		Short:             "The gate of a trusted research environment",
		Long:              welcome,
		SilenceErrors:     true,
		SilenceUsage:      true,
		Version:           k.Version,
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true},
		Args:              cobra.ArbitraryArgs,
		RunE:              missingVerb,
	}
	root.PersistentFlags().BoolVar(&k.json, "json", false, "print JSON")
	SetUp(root)
	root.AddCommand(
		k.userNoun(), k.keyNoun(), k.factorNoun(), k.trainingNoun(), k.termsNoun(),
		k.projectNoun(), k.serverNoun(), k.memberNoun(),
		k.accessNoun(), k.requestNoun(), k.sessionNoun(), k.epochNoun(),
		k.searchVerb(), k.eventNoun(), k.ledgerNoun(), k.caNoun(),
		k.statusVerb(), k.scrubVerb(), k.versionVerb(), k.whoamiVerb(),
	)
	return root
}

const usageTemplate = `Usage:{{if .Runnable}}{{if or (not .HasAvailableSubCommands) (index .Annotations "alone")}}
  {{.UseLine}}{{end}}{{end}}{{if .HasAvailableSubCommands}}
  {{.CommandPath}} VERB …{{end}}{{if .HasExample}}

Examples:
{{.Example}}{{end}}{{if and .HasParent .HasAvailableSubCommands}}

Verbs:{{range .Commands}}{{if .IsAvailableCommand}}
  {{rpad .Name .NamePadding }} {{.Short}}{{end}}{{end}}{{end}}{{if .HasAvailableLocalFlags}}

Options:
{{.LocalFlags.FlagUsagesWrapped 80 | trimTrailingWhitespaces}}{{end}}
`

// SetUp gives a root its way of telling usage errors and help.
func SetUp(root *cobra.Command) {
	root.SetVersionTemplate("sallyport {{.Version}}\n")
	root.SuggestionsMinimumDistance = suggestedDistance
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		if strings.Contains(err.Error(), "missing unit in duration") {
			return Usagef("%s; write a time with its unit, such as 90s or 1m30s", err)
		}
		return Usagef("%s; see %s --help", err, c.CommandPath())
	})
	root.SetUsageTemplate(usageTemplate)
	root.SetHelpCommand(&cobra.Command{
		Use:   "help [VERB …]",
		Short: "Help about a verb",
		RunE: func(c *cobra.Command, args []string) error {
			found, rest, err := c.Root().Find(args)
			if err != nil || found == nil || len(rest) > 0 {
				return Usagef("there is no verb %q", strings.Join(args, " "))
			}
			// So that help shows the usage line and --help of the verb itself.
			found.InitDefaultHelpFlag()
			return found.Help()
		},
	})
}

// suggestedDistance is how many letters may be wrong in a verb that "did you mean" still finds.
const suggestedDistance = 2

// noun is a command that only holds verbs.
func noun(use, short string, verbs ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{Use: use, Short: short, Args: cobra.ArbitraryArgs, RunE: missingVerb, SuggestionsMinimumDistance: suggestedDistance}
	c.AddCommand(verbs...)
	return c
}

// missingVerb answers a noun without a verb with its help, and a wrong verb with a sentence.
func missingVerb(c *cobra.Command, args []string) error {
	if len(args) == 0 {
		if err := c.Help(); err != nil {
			return err
		}
		if !c.HasParent() { // someone who types the program's name alone asks for help
			return nil
		}
		return errHelp
	}
	hint := ""
	if near := neighbours(c, args[0]); len(near) > 0 {
		hint = "; did you mean " + strings.Join(near, " or ") + "?"
	}
	return Usagef("%s has no verb %q%s", c.CommandPath(), args[0], hint)
}

// neighbours are the verbs that somebody may have meant who typed another word. A short word has one
// wrong letter, or two that changed places: `ls` is no slip of the finger for `ca`.
func neighbours(c *cobra.Command, word string) []string {
	c.SuggestionsMinimumDistance = suggestedDistance
	if len(word) > 4 {
		return c.SuggestionsFor(word)
	}
	c.SuggestionsMinimumDistance = 1
	near := c.SuggestionsFor(word)
	for i := 1; i < len(word); i++ {
		swapped := word[:i-1] + word[i:i+1] + word[i-1:i] + word[i+1:]
		if found, _, err := c.Find([]string{swapped}); err == nil && found != c {
			near = append(near, found.Name())
		}
	}
	return near
}

// elsewhere are verbs of the program that no node runs for others, and where they run.
var elsewhere = map[string]string{
	"verify": ownMachine, "replay": ownMachine, "export": ownMachine, "index": ownMachine, "demo": ownMachine, "completion": ownMachine,
	"witness": "another machine than the gate's",
	"init":    nodeMachine, "serve": nodeMachine, "recover": nodeMachine,
}

const ownMachine, nodeMachine = "your own machine", "the gate's machine, by who looks after it"

// foreignCommand answers a command that was meant for a data server, before its options are taken for
// those of a verb; nil when the first word is a verb or looks like one.
func (k *call) foreignCommand(c context.Context, root *cobra.Command) error {
	if len(k.verb.Args) == 0 {
		return nil
	}
	word := k.verb.Args[0]
	if strings.HasPrefix(word, "-") || slices.Contains([]string{"help", cobra.ShellCompRequestCmd, cobra.ShellCompNoDescRequestCmd}, word) {
		return nil
	}
	if where, ok := elsewhere[word]; ok {
		return Usagef("`sallyport %s` runs on %s, not by ssh at the gate", word, where)
	}
	if found, _, err := root.Find([]string{word}); err == nil && found != root || len(neighbours(root, word)) > 0 {
		return nil
	}
	project := "PROJECT"
	if routes, err := k.ownRoutes(c); err == nil && len(routes) > 0 {
		project = routes[0].Project
	}
	return Usagef("the gate has no verb %q; to run a command on a data server name its project: %s %s", shorten(Clean(word), 40),
		SSHLine(k.by().User+"+"+project, k.Name, k.Port), shorten(Clean(strings.Join(k.verb.Args, " ")), 60))
}

// verb makes a command that takes the named words. A word in brackets may be
// left out; they come last.
func verb(use, short string, run func(c *cobra.Command, args []string) error) *cobra.Command {
	words := strings.Fields(use)[1:]
	least := 0
	for _, w := range words {
		if !strings.HasPrefix(w, "[") {
			least++
		}
	}
	return &cobra.Command{
		Use:   use,
		Short: short,
		Args: func(c *cobra.Command, args []string) error {
			if len(args) < least {
				return Usagef("%s is missing; usage: %s", words[len(args)], c.UseLine())
			}
			if len(args) > len(words) {
				// The usual cause: ssh joins its words with spaces, so one pair of quotes is lost on the way.
				return Usagef("%q is a word too many; put a text of several words into quotes, over ssh into two pairs: --reason '\"new student\"'", args[len(words)])
			}
			return nil
		},
		RunE: run,
	}
}

// reasonFlag adds --reason, which the verb demands.
func reasonFlag(c *cobra.Command, reason *string) *cobra.Command {
	c.Flags().StringVar(reason, "reason", "", "why; it stands in the ledger (required)")
	inner := c.RunE
	c.RunE = func(c *cobra.Command, args []string) error {
		if strings.TrimSpace(*reason) == "" {
			return Usagef("a reason is required: --reason TEXT")
		}
		return inner(c, args)
	}
	return c
}

// NotFoundf makes an error of one sentence that ends with ExitNotFound.
func NotFoundf(format string, args ...any) error { return notFound(format, args...) }

// place splits PROJECT/SERVER.
func place(word string) (project, server string, err error) {
	project, server, ok := strings.Cut(word, "/")
	if !ok || project == "" || server == "" || strings.Contains(server, "/") {
		return "", "", Usagef("%q is no data server; write it as PROJECT/SERVER", word)
	}
	return project, server, nil
}

const timeFormats = "2027-03-31 (midnight UTC), 2027-03-31T18:00:00Z, or from now: 12h, 90d"

// moment reads a date, a time, or a duration from now; "none" is the zero time.
func (k *call) moment(flag, text string) (time.Time, error) {
	if text == "none" {
		return time.Time{}, nil
	}
	if t, err := time.Parse("2006-01-02", text); err == nil {
		return t.UTC(), nil
	}
	if t, err := time.Parse(time.RFC3339, text); err == nil {
		return t.UTC(), nil
	}
	if d, err := config.ParseDuration(text); err == nil {
		return k.now().Add(d).Truncate(time.Second), nil
	}
	return time.Time{}, Usagef("--%s %q is no time; write %s", flag, text, timeFormats)
}

// past reads a date, a time, or a duration back from now; empty is the zero time.
func (k *call) past(flag, text string) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if d, err := config.ParseDuration(text); err == nil {
		return k.now().Add(-d), nil
	}
	return k.moment(flag, text)
}

// Past reads a date, a time, or a duration back from now, for verbs that are not run by a Console.
func Past(now time.Time, flag, text string) (time.Time, error) {
	k := &call{Options: Options{Clock: func() time.Time { return now }}}
	return k.past(flag, text)
}

// duration reads a duration such as 8h or 3d.
func duration(flag, text string) (time.Duration, error) {
	d, err := config.ParseDuration(text)
	if err != nil || d <= 0 {
		return 0, Usagef("--%s %q is no duration; write one such as 8h or 3d", flag, text)
	}
	return d, nil
}

// notFound makes a sentence about one thing into an error that ends with ExitNotFound.
func notFound(format string, args ...any) error {
	return &missing{fmt.Sprintf(format, args...)}
}
