package bastion

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"sallyport/authz"
)

// reasonTime is how long the question for a reason waits.
const reasonTime = 5 * time.Minute

// awaitApproval brings an operator to an approved request: one that is open
// already, or one that is asked for now. On a terminal it waits and shows how
// far the levels are; elsewhere it says what to do.
func (ch *channel) awaitApproval(ctx context.Context, ask authz.Ask, d authz.Decision) (string, *ending) {
	c := ch.conn
	granted, err := c.server.authority.OpenGrant(ctx, c.identity.User, d.Route.Project, d.Route.Server)
	if err != nil {
		e := ch.refused(c.server.unavailable(ctx, c.identity, err))
		return "", &e
	}
	if granted != "" {
		return granted, nil
	}
	request, err := ch.pendingRequest(ctx, d.Route)
	if err != nil {
		e := ch.refused(c.server.unavailable(ctx, c.identity, err))
		return "", &e
	}
	if !ch.hasPTY() {
		sentence := fmt.Sprintf("This needs an approved request; make one with: ssh %s request create %s/%s --reason \"…\".",
			c.server.config.Name, d.Route.Project, d.Route.Server)
		if request.ID != "" {
			sentence = fmt.Sprintf("Request %d (%s) still waits for approval.", request.Number, request.ID)
		}
		ch.tell(sentence)
		return "", &ending{status: exitWaiting}
	}
	if request.ID == "" {
		var e *ending
		if request, e = ch.makeRequest(ctx, d.Route); e != nil {
			return "", e
		}
	}
	return ch.watchRequest(ctx, request)
}

// pendingRequest finds the person's own open request for a server.
func (ch *channel) pendingRequest(ctx context.Context, route authz.Route) (authz.Request, error) {
	c := ch.conn
	requests, err := c.server.authority.Requests(ctx, c.identity.Actor(), false)
	if err != nil {
		return authz.Request{}, err
	}
	for _, r := range requests {
		if r.Kind == authz.RequestSession && r.State == "pending" && r.User == c.identity.User && r.Project == route.Project && r.Server == route.Server {
			return r, nil
		}
	}
	return authz.Request{}, nil
}

// makeRequest asks for the reason and opens a request.
func (ch *channel) makeRequest(ctx context.Context, route authz.Route) (authz.Request, *ending) {
	c := ch.conn
	ch.say(fmt.Sprintf("A session on %s/%s needs approval.\n", route.Project, route.Server))
	reason, err := ch.question(ctx, "Reason: ", reasonTime)
	if err != nil {
		return authz.Request{}, &ending{status: exitFailed}
	}
	request, err := c.server.authority.CreateRequest(ctx, c.identity.Actor(), route.Project, route.Server, reason)
	if err != nil {
		e := ch.failed(ctx, err)
		return authz.Request{}, &e
	}
	return request, nil
}

// failed tells a refusal, or that the node can't decide.
func (ch *channel) failed(ctx context.Context, err error) ending {
	var refusal *authz.Refusal
	if errors.As(err, &refusal) {
		return ch.refused(refusal)
	}
	return ch.refused(ch.conn.server.unavailable(ctx, ch.conn.identity, err))
}

// watchRequest shows the request's state until it is decided. Ctrl-C cancels it;
// a lost connection does not.
func (ch *channel) watchRequest(ctx context.Context, r authz.Request) (string, *ending) {
	c := ch.conn
	ch.mu.Lock()
	if ch.keys == nil {
		ch.keys = newKeys(ch.Channel)
	}
	k := ch.keys
	ch.mu.Unlock()
	second := time.NewTicker(time.Second)
	defer second.Stop()
	begin := time.Now()
	level := -1
	for {
		changed := c.server.authority.Changed()
		now, err := c.server.authority.Request(ctx, c.identity.Actor(), r.ID)
		if err != nil {
			e := ch.failed(ctx, err)
			return "", &e
		}
		if now.State != "pending" {
			return ch.decided(now)
		}
		if now.Level != level {
			level = now.Level
			ch.levelPassed(now)
		}
		ch.say("\r\x1b[K" + waitingLine(now, time.Since(begin)))
		select {
		case <-changed:
		case <-second.C:
		case <-ctx.Done():
			return "", &ending{status: exitFailed}
		case b, ok := <-k.typed():
			k.took(ok)
			if ok && b != 3 && b != 4 {
				continue // other keys mean nothing here and go nowhere
			}
			if !ok {
				return "", &ending{status: exitWaiting}
			}
			if _, err := c.server.authority.CancelRequest(ctx, c.identity.Actor(), r.ID, "cancelled at the terminal"); err != nil {
				e := ch.failed(ctx, err)
				return "", &e
			}
			ch.say("\n")
			ch.tell(fmt.Sprintf("Request %d was cancelled.", r.Number))
			return "", &ending{status: exitFailed}
		}
	}
}

// waitingLine is the live line that a waiting person sees.
func waitingLine(r authz.Request, waited time.Duration) string {
	var people []string
	if r.Level < len(r.Levels) {
		people = r.Levels[r.Level].Eligible
	}
	who := strings.Join(people, ", ")
	if len(who) > 40 {
		who = fmt.Sprintf("%d people", len(people))
	}
	return fmt.Sprintf("waiting for level %d of %d (%s), request %d, %s. Ctrl-C cancels ",
		r.Level+1, len(r.Levels), who, r.Number, waited.Truncate(time.Second))
}

// levelPassed says who approved the level before the present one.
func (ch *channel) levelPassed(r authz.Request) {
	if r.Level == 0 || r.Level > len(r.Levels) {
		return
	}
	var names []string
	for _, v := range r.Levels[r.Level-1].Votes {
		if v.Approve {
			names = append(names, v.User)
		}
	}
	ch.say(fmt.Sprintf("\r\x1b[Klevel %d approved by %s\n", r.Level, strings.Join(names, ", ")))
}

// decided says how the request ended.
func (ch *channel) decided(r authz.Request) (string, *ending) {
	if r.State == "approved" {
		ch.say(fmt.Sprintf("\r\x1b[Krequest %d approved until %s\n", r.Number, r.GrantUntil.UTC().Format("15:04 MST")))
		return r.ID, nil
	}
	why := ""
	for _, l := range r.Levels {
		for _, v := range l.Votes {
			if !v.Approve {
				why = fmt.Sprintf(" by %s: %s", v.User, printable(v.Comment, 200))
			}
		}
	}
	ch.say("\r\x1b[K")
	ch.tell(fmt.Sprintf("Request %d was %s%s (reference %s).", r.Number, r.State, why, r.ID))
	return "", &ending{status: exitDenied}
}
