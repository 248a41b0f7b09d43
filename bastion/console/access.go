package console

import (
	"context"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"sallyport/authz"
)

func (k *call) accessNoun() *cobra.Command {
	c := noun("access", "Where one can go, and why not",
		verb("explain [USER] [PROJECT/SERVER]", "Where a person can go, and why not; oneself without USER", func(c *cobra.Command, args []string) error {
			who, where := k.by().User, ""
			switch len(args) {
			case 2:
				who, where = args[0], args[1]
			case 1:
				here, err := k.isPlace(c, args[0])
				if err != nil {
					return err
				}
				if who = args[0]; here {
					who, where = k.by().User, args[0]
				}
			}
			return k.explain(c, who, where)
		}))
	c.Use = "access [PROJECT/SERVER]"
	// Without a verb it answers for the caller.
	c.RunE = func(c *cobra.Command, args []string) error {
		if len(args) == 1 {
			here, err := k.isPlace(c, args[0])
			if err != nil {
				return err
			}
			if here {
				return k.explain(c, k.by().User, args[0])
			}
		}
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

func (k *call) explain(c *cobra.Command, who, where string) error {
	routes, err := k.Authority.Explain(c.Context(), k.by(), who, where)
	if err != nil {
		return err
	}
	return k.printRoutes(routes, Clean(who)+" is a member of no project"+inPlace(where)+".")
}

// isPlace tells a place from the name of a person: it has a slash, or is a project of the caller's.
func (k *call) isPlace(c *cobra.Command, word string) (bool, error) {
	if strings.Contains(word, "/") || word == k.by().User {
		return word != k.by().User, nil
	}
	routes, err := k.ownRoutes(c.Context())
	return slices.ContainsFunc(routes, func(r authz.RouteChoice) bool { return r.Project == word }), err
}

// ownRoutes are the caller's places; there are none where only words are checked.
func (k *call) ownRoutes(c context.Context) ([]authz.RouteChoice, error) {
	if k.Authority == nil {
		return nil, nil
	}
	return k.Authority.Routes(c, k.verb.Identity)
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
