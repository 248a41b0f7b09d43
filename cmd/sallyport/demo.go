package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"sallyport/internal/demo"
)

func demoVerb(s streams) *cobra.Command {
	var dir string
	var tour bool
	c := &cobra.Command{
		Use:   "demo",
		Short: "Run everything on this machine: two projects, seven people, data servers",
		Long: `Demo runs a gate, two projects with a data server each and seven people with
keys and authenticators on loopback, in one folder, and prints how to come in
as each of them. It stays until it is interrupted. With --tour it plays the
whole story with the real ssh client instead, and fails at the first step that
is not as told.`,
		Args:        noWords,
		Annotations: map[string]string{"alone": "yes"}, // it runs without a verb, too
		RunE: func(c *cobra.Command, _ []string) error {
			return demo.Run(c.Context(), demo.Options{Dir: dir, Tour: tour, Stdout: s.out, Stderr: s.err})
		},
	}
	c.PersistentFlags().StringVar(&dir, "dir", "", "the demo's folder, emptied at the start; "+demo.DefaultDir+" by default")
	c.Flags().BoolVar(&tour, "tour", false, "play the whole story with the real ssh, and end")
	c.AddCommand(demoCodeVerb(s, &dir))
	return c
}

func demoCodeVerb(s streams, dir *string) *cobra.Command {
	var wait bool
	c := &cobra.Command{
		Use:     "code NAME",
		Short:   "Print a one-time code of a person of the demo",
		Args:    words(1, 1),
		Example: "  sallyport demo code alice --wait",
		RunE: func(c *cobra.Command, args []string) error {
			var code string
			var err error
			if wait {
				code, err = demo.WaitCode(c.Context(), *dir, args[0])
			} else {
				code, err = demo.Code(*dir, args[0])
			}
			if err != nil {
				return err
			}
			if wantsJSON(c) {
				return printJSON(s, map[string]string{"user": args[0], "code": code})
			}
			_, err = fmt.Fprintln(s.out, code)
			return err
		},
	}
	c.Flags().BoolVar(&wait, "wait", false, "wait for the next code when those of now were given out")
	return c
}
