package main

import (
	"errors"

	"github.com/spf13/cobra"
)

func demoVerb(s streams) *cobra.Command {
	var dir string
	var tour bool
	c := &cobra.Command{
		Use:   "demo",
		Short: "Run everything on this machine: two projects, five people, data servers",
		Args:  noWords,
		RunE: func(c *cobra.Command, _ []string) error {
			return errors.New("this build holds no demo")
		},
	}
	c.Flags().StringVar(&dir, "dir", "", "folder for what the demo makes; a temporary one by default")
	c.Flags().BoolVar(&tour, "tour", false, "play the whole story with the real ssh, and end")
	return c
}
