package main

import (
	"errors"
	"fmt"
	"os/user"
	"strings"

	"github.com/spf13/cobra"

	"sallyport/bastion/console"
	"sallyport/internal/node"
)

func initVerb(s streams) *cobra.Command {
	var o node.InitOptions
	c := &cobra.Command{
		Use:   "init DIR",
		Short: "Make a new node: keys, configuration, and the first administrator's invite",
		Args:  words(1, 1),
		Example: "  sallyport init /var/lib/sallyport --name gate.example.org --admin alice\n" +
			"  sallyport serve --config /var/lib/sallyport/sallyport.yaml",
		RunE: func(c *cobra.Command, args []string) error {
			if o.Name == "" || o.Admin == "" {
				return console.Usagef("--name and --admin are required")
			}
			o.Node.Version = version()
			made, err := node.Init(c.Context(), args[0], o)
			if err != nil {
				return err
			}
			return printMade(c, s, made, "A new node is ready. Start it with:\n\n  sallyport serve --config "+made.Config)
		},
	}
	c.Flags().StringVar(&o.Name, "name", "", "public name of the gate, a host name or address (required)")
	c.Flags().StringVar(&o.Admin, "admin", "", "user name of the first administrator (required)")
	c.Flags().StringVar(&o.Display, "display", "", "full name of the first administrator")
	c.Flags().StringVar(&o.OSUser, "os-user", osUser(), "the administrator's account on this machine, for the local socket")
	c.Flags().StringVar(&o.Listen, "listen", "", `where to listen for SSH (default ":22")`)
	c.Flags().StringVar(&o.Metrics, "metrics", "", `loopback address of health and metrics, or off (default "127.0.0.1:9122")`)
	c.Flags().StringVar(&o.Database, "database", "", "postgres://… for PostgreSQL; SQLite by default")
	c.Flags().StringVar(&o.Profile, "profile", "", `SSH algorithms, strict or compat (default "strict")`)
	return c
}

func osUser() string {
	u, err := user.Current()
	if err != nil {
		return ""
	}
	return u.Username
}

func printMade(c *cobra.Command, s streams, made *node.Made, first string) error {
	if wantsJSON(c) {
		return printJSON(s, made)
	}
	text := first + fmt.Sprintf("\n\nThen %s comes in and enrols, once, before %s:\n\n  %s\n",
		made.Admin, made.ExpiresAt.Format("2006-01-02 15:04Z"), made.Command)
	if made.KnownHosts != "" {
		text += "\nTo know the gate, everyone puts this line into ~/.ssh/known_hosts:\n\n" + made.KnownHosts + "\n"
	}
	_, err := fmt.Fprint(s.out, text)
	return err
}

// several is a number of things in words.
func several(n int, one string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %ss", n, one)
}

// checkConfig says whether the node would start.
func checkConfig(c *cobra.Command, o *settings, s streams) error {
	cfg, err := o.load()
	if err == nil {
		err = node.Check(cfg)
	}
	if wantsJSON(c) {
		answer := map[string]any{"config": o.configPath(), "right": err == nil}
		if err != nil {
			answer["faults"] = strings.Split(err.Error(), "\n")
		}
		return errors.Join(err, printJSON(s, answer))
	}
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(s.out, "%s is right, and its keys, policies and folders can be used\n", cfg.File)
	return err
}

func serveVerb(o *settings, s streams) *cobra.Command {
	var check bool
	c := &cobra.Command{
		Use:   "serve",
		Short: "Run the node until it is told to stop",
		Args:  noWords,
		RunE: func(c *cobra.Command, _ []string) (err error) {
			if check {
				return checkConfig(c, o, s)
			}
			cfg, err := o.load()
			if err != nil {
				return err
			}
			n, err := node.Open(c.Context(), cfg, node.Options{Version: version()})
			if err != nil {
				return err
			}
			defer func() {
				if closeErr := n.Close(); err == nil {
					err = closeErr
				}
			}()
			return n.Run(c.Context())
		},
	}
	c.Flags().BoolVar(&check, "check", false, "only say whether the node would start with this configuration")
	return c
}
