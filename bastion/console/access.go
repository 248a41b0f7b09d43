package console

import (
	"strings"

	"github.com/spf13/cobra"

	"sallyport/authz"
)

func (k *call) accessNoun() *cobra.Command {
	c := noun("access", "Where one can go, and why not",
		verb("explain USER [PROJECT/SERVER]", "Where a person can go, and why not", func(c *cobra.Command, args []string) error {
			where := ""
			if len(args) > 1 {
				where = args[1]
			}
			routes, err := k.Authority.Explain(c.Context(), k.by(), args[0], where)
			if err != nil {
				return err
			}
			return k.printRoutes(routes, Clean(args[0])+" is a member of no project"+inPlace(where)+".")
		}))
	// Without a verb it answers for the caller.
	c.RunE = func(c *cobra.Command, args []string) error {
		if len(args) > 0 {
			return missingVerb(c, args)
		}
		routes, err := k.Authority.Routes(c.Context(), k.verb.Identity)
		if err != nil {
			return err
		}
		return k.printRoutes(routes, "You are a member of no project.")
	}
	return c
}

func inPlace(where string) string {
	if where == "" {
		return ""
	}
	return " that leads to " + Clean(where)
}

// printRoutes prints one block for each place: a table would cut the reasons, which are what is asked for.
func (k *call) printRoutes(routes []authz.RouteChoice, empty string) error {
	if k.json {
		return k.printJSON(list(routes))
	}
	if len(routes) == 0 {
		return k.done(nil, "%s", rawText(empty))
	}
	for i, r := range routes {
		if i > 0 {
			if err := k.done(nil, ""); err != nil {
				return err
			}
		}
		var f facts
		place := r.Project
		if r.Server != "" {
			place += "/" + r.Server
		}
		f.add("place", place)
		f.addIf("title", r.Title)
		f.addIf("role", string(r.Role))
		f.addIf("allowed", actions(r.Allowed))
		f.addIf("after approval", actions(r.Waiting))
		f.addIf("why not", r.WhyNot)
		f.addIf("until", minute(r.Until))
		f.write(k)
	}
	return nil
}

func actions(list []authz.Action) string {
	var names []string
	for _, a := range list {
		names = append(names, string(a))
	}
	return strings.Join(names, ", ")
}
