package bastion

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"sallyport/authz"
)

// menuTime is how long the menu waits for a choice.
const menuTime = 5 * time.Minute

// choose finds the server for a shell at the bare name: the only one there
// is, or the one that the person picks.
func (ch *channel) choose(ctx context.Context) (authz.RouteChoice, *ending) {
	c := ch.conn
	routes, err := c.server.authority.Routes(ctx, c.identity)
	if err != nil {
		e := ch.refused(c.server.unavailable(ctx, c.identity, err))
		return authz.RouteChoice{}, &e
	}
	var open []authz.RouteChoice
	for _, r := range routes {
		if has(r.Allowed, authz.ActionShell) || has(r.Waiting, authz.ActionShell) {
			open = append(open, r)
		}
	}
	switch {
	case len(open) == 1:
		return open[0], nil
	case len(open) == 0:
		e := ch.nowhere(routes)
		return authz.RouteChoice{}, &e
	case !ch.hasPTY():
		e := ch.refused(c.refuse("session.refused", "route.ambiguous", fmt.Sprintf(
			"You have several places to go, so name one: ssh %s+%s/%s@%s.", c.identity.User, open[0].Project, open[0].Server, c.server.config.Name), nil))
		return authz.RouteChoice{}, &e
	}
	return ch.pick(ctx, open)
}

// nowhere says why there is nowhere to go.
func (ch *channel) nowhere(routes []authz.RouteChoice) ending {
	c := ch.conn
	sentence := "You are a member of no project with a shell, so there is nowhere to go; the verb \"access\" tells more."
	for _, r := range routes {
		if r.WhyNot != "" {
			sentence = fmt.Sprintf("%s/%s: %s", r.Project, r.Server, r.WhyNot)
			break
		}
	}
	return ch.refused(c.refuse("session.refused", "route.none", sentence, nil))
}

// pick shows the short menu. A choice is a number, or the place as it stands
// there, or a project that is there once.
func (ch *channel) pick(ctx context.Context, open []authz.RouteChoice) (authz.RouteChoice, *ending) {
	var b strings.Builder
	b.WriteString("Where to?\n")
	for i, r := range open {
		note := ""
		if !has(r.Allowed, authz.ActionShell) {
			note = ", needs approval"
		}
		fmt.Fprintf(&b, "  %d) %s/%s (%s%s)\n", i+1, r.Project, r.Server, r.Role, note)
		if r.Title != "" {
			fmt.Fprintf(&b, "     %s\n", printable(r.Title, 60))
		}
	}
	ch.say(b.String())
	for range 3 {
		line, err := ch.question(ctx, "Number or name: ", menuTime)
		if err != nil {
			return authz.RouteChoice{}, &ending{status: exitFailed}
		}
		if r, ok := chosen(line, open); ok {
			return r, nil
		}
		ch.say(fmt.Sprintf("Type a number from 1 to %d or a name from the list; Ctrl-C leaves.\n", len(open)))
	}
	ch.tell("No choice was made in three tries.")
	return authz.RouteChoice{}, &ending{status: exitUsage}
}

// chosen finds what a person typed at the menu.
func chosen(line string, open []authz.RouteChoice) (authz.RouteChoice, bool) {
	if n, err := strconv.Atoi(line); err == nil && n >= 1 && n <= len(open) {
		return open[n-1], true
	}
	var found []authz.RouteChoice
	for _, r := range open {
		if line == r.Project+"/"+r.Server {
			return r, true
		}
		if line == r.Project {
			found = append(found, r)
		}
	}
	if len(found) != 1 {
		return authz.RouteChoice{}, false
	}
	return found[0], true
}

func has(actions []authz.Action, a authz.Action) bool {
	for _, x := range actions {
		if x == a {
			return true
		}
	}
	return false
}
