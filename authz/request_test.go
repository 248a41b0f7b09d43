package authz

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"
)

// request opens an operator's request of olga.
func (w *world) request(reason string) Request {
	w.t.Helper()
	r, err := w.CreateRequest(w.t.Context(), w.as("olga"), "genomics", "db1", reason)
	w.ok(err)
	return r
}

func (w *world) vote(by, id string) Request {
	w.t.Helper()
	r, err := w.Vote(w.t.Context(), w.voting(by), id, true, "", "")
	w.ok(err)
	return r
}

// approved is a request that both levels said yes to.
func (w *world) approved() Request {
	w.t.Helper()
	r := w.request("disk is full")
	w.vote("mia", r.ID)
	return w.vote("sara", r.ID)
}

func TestPromise7_LevelsInSeries(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		ctx := t.Context()
		r := w.request("disk is full")
		if r.State != "pending" || r.Number != 1 || r.Level != 0 || len(r.Digest) != 64 || !strings.HasPrefix(r.ID, "R-") ||
			!slices.Equal(r.Levels[0].Eligible, []string{"mia"}) || !slices.Equal(r.Levels[1].Eligible, []string{"sara"}) {
			t.Fatalf("the request is %+v", r)
		}
		vote := func(by Actor, approve bool, digest, comment string) error {
			_, err := w.Vote(ctx, by, "1", approve, digest, comment)
			return err
		}
		w.refused(vote(w.as("mia"), true, "", ""), "vote.factor")
		if err := vote(w.as("mia"), false, "", "not now"); !strings.Contains(err.Error(), "ssh -o ControlPath=none gate request deny 1.") {
			t.Errorf("%q does not say how to vote", err)
		}
		w.refused(vote(w.voting("olga"), true, "", ""), "vote.self")
		w.refused(vote(w.voting("sara"), true, "", ""), "vote.not-eligible") // her level is not open
		w.refused(vote(w.voting("adam"), true, "", ""), "vote.not-eligible") // an administrator has no vote
		w.refused(vote(w.voting("odin"), true, "", ""), "vote.not-eligible")
		w.refused(vote(w.voting("mia"), true, strings.Repeat("0", 64), ""), "vote.digest")
		w.refused(vote(w.voting("mia"), false, "", ""), "input.text")
		if err := vote(w.voting("alice"), true, "", ""); !errors.Is(err, ErrNotFound) {
			t.Errorf("a stranger's vote: %v, want not found", err)
		}
		w.ok(vote(w.voting("mia"), true, r.Digest, "checked with the vendor"))
		w.refused(vote(w.voting("mia"), true, "", ""), "vote.twice")
		if id, err := w.OpenGrant(ctx, "olga", "genomics", "db1"); id != "" || err != nil {
			t.Errorf("a grant after one level: %q, %v", id, err)
		}
		ask := w.ask("olga", ActionShell)
		ask.Request = r.ID
		if d := w.decide(ask); d.Outcome != Wait {
			t.Errorf("after one level of two: %+v", d)
		}
		done := w.vote("sara", r.ID)
		if done.State != "approved" || done.UsesLeft != 1 || done.Level != 2 || !done.GrantUntil.Equal(start.Add(8*time.Hour)) {
			t.Errorf("after both levels: %+v", done)
		}
		if id, err := w.OpenGrant(ctx, "olga", "genomics", "db1"); id != r.ID || err != nil {
			t.Errorf("the grant is %q, %v", id, err)
		}
		d := w.decide(ask)
		if d.Outcome != Allow || d.Obligations.Grant != r.ID || !d.Until.Equal(done.GrantUntil) {
			t.Errorf("with the grant: %+v", d)
		}
		w.refused(vote(w.voting("mia"), false, "", "changed my mind"), "request.over")
	})
}

func TestPromise7_GrantIsUsedOnce(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		r := w.approved()
		ask := w.ask("olga", ActionShell)
		ask.Request = r.ID
		s := w.session(ask, w.decide(ask))
		second := w.secondNode()
		opened := make([]Session, 4)
		won := race(4, func(i int) bool {
			var err error
			opened[i], err = []*Authority{w.Authority, second.Authority}[i%2].OpenSession(t.Context(), s)
			var refusal *Refusal
			if err != nil && !errors.As(err, &refusal) {
				t.Error(err)
			}
			return err == nil
		})
		if won != 1 {
			t.Fatalf("one use of a grant opened %d sessions", won)
		}
		used, err := w.Request(t.Context(), w.as("olga"), "1")
		w.ok(err)
		if used.State != "used" || used.UsesLeft != 0 || len(used.Sessions) != 1 {
			t.Errorf("the request is %+v", used)
		}
		if d := w.decide(ask); d.Outcome != Wait {
			t.Errorf("a used grant: %+v", d)
		}
		s.Request = ""
		_, err = w.OpenSession(t.Context(), s)
		w.refused(err, "grant.needed")
	})
}

func TestGrantEndsSession(t *testing.T) {
	for name, end := range map[string]func(w *world, r Request){
		"window": func(w *world, r Request) { w.clock.advance(r.GrantUntil.Sub(w.clock.Now())) },
		"cancelled": func(w *world, r Request) {
			_, err := w.CancelRequest(w.t.Context(), w.as("sara"), r.ID, "work is done")
			w.ok(err)
		},
	} {
		t.Run(name, func(t *testing.T) {
			onBoth(t, func(t *testing.T, w *world) {
				r := w.approved()
				ask := w.ask("olga", ActionShell)
				ask.Request = r.ID
				s := w.open(ask)
				ended, next, err := w.Recheck(t.Context(), []LiveSession{{s.ID, ask}})
				if err != nil || len(ended) != 0 || !next.Equal(r.GrantUntil) {
					t.Fatalf("inside the window: %v, %v, %v", ended, next, err)
				}
				end(w, r)
				ended, _, err = w.Recheck(t.Context(), []LiveSession{{s.ID, ask}})
				w.ok(err)
				if ended[s.ID] == nil || ended[s.ID].Rule != "grant.ended" {
					t.Errorf("afterwards: %+v", ended[s.ID])
				}
			})
		})
	}
}

func TestPromise7_VoteRace(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		second := w.secondNode()
		r := w.request("disk is full")
		won := race(4, func(i int) bool {
			_, err := []*Authority{w.Authority, second.Authority}[i%2].Vote(t.Context(), w.voting("mia"), r.ID, true, "", "")
			return err == nil
		})
		if won != 1 {
			t.Errorf("one person voted %d times", won)
		}
	})
}

func TestPromise7_OnePersonOneVoteOverAllLevels(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		ctx := t.Context()
		p, err := w.Project(ctx, "genomics")
		w.ok(err)
		p.Levels = []Level{{Name: "first", Eligible: RoleManager, Quorum: 1}, {Name: "second", Eligible: RoleManager, Quorum: 1}}
		w.ok(w.SetProject(ctx, w.as("adam"), p, "tighter"))
		_, err = w.CreateRequest(ctx, w.as("olga"), "genomics", "db1", "disk is full")
		w.refused(err, "request.no-quorum")
		if !strings.Contains(err.Error(), "level 2 (second) needs 1 more person") {
			t.Errorf("%q does not say who is missing", err)
		}
		w.add("mia", "bob", RoleManager)
		r := w.request("disk is full")
		r = w.vote("mia", r.ID)
		_, err = w.Vote(ctx, w.voting("mia"), r.ID, true, "", "")
		w.refused(err, "vote.twice")
		if r = w.vote("bob", r.ID); r.State != "approved" {
			t.Errorf("after two people: %+v", r)
		}
	})
}

func TestLeaversVoteDrops(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		ctx := t.Context()
		w.add("mia", "bob", RoleManager)
		r := w.request("disk is full")
		if r = w.vote("bob", r.ID); r.Level != 1 {
			t.Fatalf("after bob's vote: %+v", r)
		}
		w.ok(w.EndMember(ctx, w.as("mia"), w.member["bob"].ID, "left the site"))
		if r = w.vote("sara", r.ID); r.State != "pending" || r.Level != 0 {
			t.Errorf("the leaver's vote still counts: %+v", r)
		}
		if r = w.vote("mia", r.ID); r.State != "approved" {
			t.Errorf("after another vote at the first level: %+v", r)
		}
	})
}

func TestDenyCancelAndExpire(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		ctx := t.Context()
		r := w.request("disk is full")
		denied, err := w.Vote(ctx, w.voting("mia"), r.ID, false, r.Digest, "not today")
		w.ok(err)
		if denied.State != "denied" || denied.Levels[0].Votes[0].Comment != "not today" {
			t.Errorf("denied %+v", denied)
		}
		r = w.request("disk is full again")
		_, err = w.CancelRequest(ctx, w.voting("sara"), r.ID, "")
		w.refused(err, "input.text")
		cancelled, err := w.CancelRequest(ctx, w.as("olga"), "2", "")
		w.ok(err)
		if cancelled.State != "cancelled" {
			t.Errorf("cancelled %+v", cancelled)
		}
		_, err = w.CancelRequest(ctx, w.as("olga"), "2", "")
		w.refused(err, "request.over")
		r = w.request("disk is still full")
		w.clock.advance(requestLifetime)
		_, err = w.Vote(ctx, w.voting("mia"), r.ID, true, "", "")
		w.refused(err, "request.over")
		changed := w.Changed()
		w.ok(w.Tidy(ctx))
		<-changed
		if e := w.last("request.expire"); e.UserID != "system" || e.ResourceID != r.ID {
			t.Errorf("the event is %+v", e)
		}
		open, err := w.Requests(ctx, w.as("olga"), false)
		w.ok(err)
		all, err := w.Requests(ctx, w.as("olga"), true)
		w.ok(err)
		if len(open) != 0 || len(all) != 3 || all[2].State != "expired" {
			t.Errorf("open %v, all %v", open, all)
		}
		if others, err := w.Requests(ctx, w.as("alice"), true); err != nil || len(others) != 0 {
			t.Errorf("a stranger sees %v, %v", others, err)
		}
		if _, err := w.Request(ctx, w.as("alice"), r.ID); !errors.Is(err, ErrNotFound) {
			t.Errorf("a stranger sees a request: %v", err)
		}
	})
}

func TestWhoMayRequest(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		ctx := t.Context()
		for user, rule := range map[string]string{"alice": "request.needless", "bob": "project.unknown-or-not-member", "mia": "action.shell"} {
			_, err := w.CreateRequest(ctx, w.as(user), "genomics", "db1", "disk is full")
			w.refused(err, rule)
		}
		_, err := w.CreateRequest(ctx, w.as("olga"), "genomics", "db9", "disk is full")
		w.refused(err, "server.unknown")
		for _, reason := range []string{"", "disk full"} { // ten characters are the least
			_, err = w.CreateRequest(ctx, w.as("olga"), "genomics", "db1", reason)
			w.refused(err, "input.text")
		}
		if want := "at least 10 characters"; !strings.Contains(err.Error(), want) {
			t.Errorf("%q does not say %q", err, want)
		}
		w.ok(w.Freeze(ctx, w.as("adam"), "sara", "on leave"))
		_, err = w.CreateRequest(ctx, w.as("olga"), "genomics", "db1", "disk is full")
		w.refused(err, "request.no-quorum")
		if !strings.Contains(err.Error(), "level 2 (security administrator)") {
			t.Errorf("%q does not name the level", err)
		}
	})
}

func TestPromise7_RequesterCountsForNoQuorum(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		w.add("mia", "olga", RoleManager) // an operator who is a manager too
		r := w.request("disk is full")
		if !slices.Equal(r.Levels[0].Eligible, []string{"mia"}) {
			t.Errorf("eligible are %v", r.Levels[0].Eligible)
		}
		w.ok(w.EndMember(t.Context(), w.as("olga"), w.member["mia"].ID, "left the site"))
		_, err := w.CreateRequest(t.Context(), w.as("olga"), "genomics", "db1", "disk is full")
		w.refused(err, "request.no-quorum")
	})
}

func TestFirstShortLevel(t *testing.T) {
	two := func(a, b int) []Level { return []Level{{Quorum: a}, {Quorum: b}} }
	for _, c := range []struct {
		levels         []Level
		people         [][]string
		level, missing int
	}{
		{two(1, 1), [][]string{{"a", "b"}, {"a"}}, 0, 0}, // a must move to the second
		{two(1, 1), [][]string{{"a"}, {"a"}}, 1, 1},
		{two(2, 1), [][]string{{"a"}, {"b"}}, 0, 1},
		{two(2, 2), [][]string{{"a", "b", "c"}, {"a", "b", "c"}}, 1, 1},
		{two(1, 3), [][]string{{"a"}, {}}, 1, 3},
		{two(2, 2), [][]string{{"a", "b", "c", "d"}, {"a", "b"}}, 0, 0},
	} {
		if level, missing := firstShortLevel(c.levels, c.people); level != c.level || missing != c.missing {
			t.Errorf("%v: level %d lacks %d, want %d lacks %d", c.people, level, missing, c.level, c.missing)
		}
	}
}

// What was voted on is one account on one server with one address and pin.
func TestPromise7_GrantOpensWhatWasVotedOn(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		ctx := t.Context()
		w.ok(w.AddServer(ctx, w.as("adam"), Server{Project: "genomics", Name: "db2", Address: "db2.test:22", HostCA: someCA}))
		request := func(server string) Request {
			r, err := w.CreateRequest(ctx, w.as("olga"), "genomics", server, goodReason)
			w.ok(err)
			for _, by := range []string{"mia", "sara"} {
				r, err = w.Vote(ctx, w.voting(by), r.ID, true, "", "")
				w.ok(err)
			}
			return r
		}
		granted := request("db1")
		waiting, err := w.CreateRequest(ctx, w.as("olga"), "genomics", "db1", goodReason+" again")
		w.ok(err)
		other := request("db2")

		// The pin of db1 changes.
		w.ok(w.SetServerHostKey(ctx, w.as("adam"), "genomics", "db1", keyLine("new"), "", "reinstalled"))
		for id, want := range map[string]string{granted.ID: requestCancelled, waiting.ID: requestCancelled, other.ID: requestApproved} {
			if r, err := w.Request(ctx, w.as("olga"), id); err != nil || r.State != want {
				t.Errorf("request %d is %s (%v), want %s", r.Number, r.State, err, want)
			}
		}
		if e := w.last("request.cancel"); e.Project != "genomics" || e.UserID != "adam" {
			t.Errorf("the event is %+v", e)
		}
		ask := w.ask("olga", ActionShell)
		ask.Request = granted.ID
		if d := w.decide(ask); d.Outcome != Wait {
			t.Errorf("a grant for the server as it was: %s", d.Outcome)
		}

		// The account changes.
		ask.Server, ask.Request = "db2", other.ID
		d := w.decide(ask)
		w.ok(w.EndMember(ctx, w.as("mia"), w.member["olga"].ID, "other account"))
		_, err = w.AddMember(ctx, w.as("mia"), Membership{User: "olga", Project: "genomics", Role: RoleOperator, Account: "dbowner",
			Reason: goodReason, ExpiresAt: w.clock.Now().AddDate(0, 1, 0)})
		w.ok(err)
		if open, err := w.OpenGrant(ctx, "olga", "genomics", "db2"); err != nil || open != "" {
			t.Errorf("an open grant for another account: %q, %v", open, err)
		}
		s := w.session(ask, d)
		if d = w.decide(ask); d.Outcome != Wait {
			t.Errorf("a grant for another account: %s as %s", d.Outcome, d.Route.Account)
		}
		s.Account = "dbowner"
		_, err = w.OpenSession(ctx, s)
		w.refused(err, "grant.used")
	})
}
