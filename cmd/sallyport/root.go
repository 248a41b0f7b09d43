package main

import (
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"sallyport/bastion/console"
	"sallyport/internal/config"
)

const welcome = `Sallyport is the gate of a trusted research environment. It lets each person, by
key and second factor, only to their own project's data servers, and records
every session so that nothing can be changed unseen.

Try it:
  sallyport demo --tour               everything on this machine, and a story

Set up and run a node:
  sallyport init DIR --name gate.example.org --admin NAME
  sallyport serve --config DIR/sallyport.yaml
  sallyport recover --admin NAME --reason TEXT     when no administrator can log in
  sallyport witness init|serve DIR                 on another machine: vouch for ledgers
  sallyport completion bash                        or zsh, or fish
  sallyport version

For auditors, on their own machine:
  sallyport epoch new PROJECT --to FILE     the keys that open recordings
  sallyport replay SESSION --gate USER@GATE --identity FILE --reason TEXT
  sallyport export FILE --format asciicast
  sallyport index add SESSION|FILE …        what was shown, to be searched on this machine
  sallyport search --local WORDS
  sallyport verify PATH --key FILE

Through the node's socket, and the same as ` + "`ssh gate VERB`" + `:
  user, key, factor, training, terms        people
  project, server, member, access           who may go where, and why not
  request                                   what waits for approval
  session, search, event, ledger, epoch, ca what happened, and proof
  status, scrub, whoami                     how the node, and what it stores, is

Every verb takes --json and --help. Exit codes: 0 ok, 1 failed, 2 usage,
3 denied, 4 not found, 5 waiting for approval; 254 of a session: the gate
refused or ended it.`

// newRoot builds the tree: the local verbs, and the console's verbs sent to the node.
func newRoot(args []string, s streams) *cobra.Command {
	root := console.Tree()
	root.Version = version()
	root.Short = "The gate of a trusted research environment"
	root.Long = welcome
	root.CompletionOptions = cobra.CompletionOptions{DisableDefaultCmd: true}
	settings := &settings{}
	settings.register(root)
	for _, c := range root.Commands() {
		sendToNode(c, args, settings, s)
	}
	// What the node would say about itself is in `status`; this is the program's own.
	if v, _, err := root.Find([]string{"version"}); err == nil {
		root.RemoveCommand(v)
	}
	if search, _, err := root.Find([]string{"search"}); err == nil {
		searchLocally(search, s)
	}
	if noun, _, err := root.Find([]string{"ledger"}); err == nil {
		ledgerVerbs(noun, settings, s)
	}
	if epoch, _, err := root.Find([]string{"epoch"}); err == nil {
		epoch.AddCommand(epochVerbs(s)...)
	}
	root.AddCommand(initVerb(s), serveVerb(settings, s), recoverVerb(settings, s), demoVerb(s), witnessVerb(s), indexNoun(settings, s),
		replayVerb(settings, s), exportVerb(settings, s), verifyVerb(settings, s), versionVerb(s), completionVerb(s))
	return root
}

// settings are the options that every verb has.
type settings struct {
	config string
	socket string
}

func (o *settings) register(root *cobra.Command) {
	root.PersistentFlags().StringVar(&o.config, "config", "", "configuration file; else $SALLYPORT_CONFIG, else "+config.DefaultPath)
	root.PersistentFlags().StringVar(&o.socket, "socket", "", "the node's socket; else as the configuration says")
}

// configPath is the configuration file that was asked for.
func (o *settings) configPath() string {
	if o.config != "" {
		return o.config
	}
	if path := os.Getenv("SALLYPORT_CONFIG"); path != "" {
		return path
	}
	return config.DefaultPath
}

// sendToNode makes a verb, and all below it, be sent to the node. Its words
// and options are checked here first, so that a slip costs no second factor.
func sendToNode(c *cobra.Command, args []string, o *settings, s streams) {
	for _, child := range c.Commands() {
		sendToNode(child, args, o, s)
	}
	if c.RunE == nil {
		return
	}
	local := c.RunE
	c.RunE = func(c *cobra.Command, words []string) error {
		// `access` is a verb, alone or with a place; every other noun alone is a question for help.
		if c.HasSubCommands() && (len(words) > 1 || c.Name() != "access") {
			return local(c, words)
		}
		return callNode(c.Context(), o, forNode(args), s)
	}
}

// forNode leaves out the options that only this command knows.
func forNode(args []string) []string {
	var out []string
	for i := 0; i < len(args); i++ {
		switch arg := args[i]; {
		case arg == "--":
			return append(out, args[i:]...)
		case arg == "--config" || arg == "--socket":
			i++
		case strings.HasPrefix(arg, "--config=") || strings.HasPrefix(arg, "--socket="):
		default:
			out = append(out, arg)
		}
	}
	return out
}

func versionVerb(s streams) *cobra.Command {
	return &cobra.Command{Use: "version", Short: "Print the version of this program", Args: noWords,
		RunE: func(c *cobra.Command, _ []string) error {
			if wantsJSON(c) {
				return printJSON(s, map[string]string{"version": version()})
			}
			_, err := fmt.Fprintln(s.out, "sallyport "+version())
			return err
		}}
}

func completionVerb(s streams) *cobra.Command {
	return &cobra.Command{
		Use:   "completion SHELL",
		Short: "Print the completion for bash, zsh or fish",
		Args:  words(1, 1),
		Example: "  source <(sallyport completion bash)\n" +
			"  sallyport completion fish > ~/.config/fish/completions/sallyport.fish",
		RunE: func(c *cobra.Command, args []string) error {
			switch args[0] {
			case "bash":
				return c.Root().GenBashCompletionV2(s.out, true)
			case "zsh":
				return c.Root().GenZshCompletion(s.out)
			case "fish":
				return c.Root().GenFishCompletion(s.out, true)
			}
			return console.Usagef("%q is no shell here; it is bash, zsh or fish", args[0])
		},
	}
}
