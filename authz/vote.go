package authz

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"sallyport/internal/database"
)

// Vote is one person's decision on one request.
type Vote struct {
	User    string    `json:"user"`
	Level   int       `json:"level"`
	Approve bool      `json:"approve"`
	Comment string    `json:"comment,omitempty"`
	Digest  string    `json:"digest"`
	At      time.Time `json:"at"`
}

// Vote casts a vote on the open level. id is R-… or the number. digest, when not empty, must be
// that of the request: the vote is for exactly what was shown. One "no" ends the request, and needs a comment.
func (a *Authority) Vote(ctx context.Context, by Actor, id string, approve bool, digest, comment string) (Request, error) {
	opType := "request.deny"
	if approve {
		opType = "request.approve"
	}
	var r Request
	err := a.change(ctx, by, requestEvent(opType, id), func(w *work) error {
		if _, err := w.actor(); err != nil {
			return err
		}
		var err error
		if r, err = w.request(id); err != nil {
			return err
		}
		if err := w.mayVote(r, approve, digest); err != nil {
			return err
		}
		least := 0
		if !approve {
			least = minNote
		}
		if err := checkText("comment", comment, least); err != nil {
			return err
		}
		level := r.Level
		n, err := w.tx.Exec(`INSERT INTO votes (request, user_name, level, approve, comment_text, digest, voted_at)
			VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (request, user_name) DO NOTHING`,
			r.ID, by.User, int64(level), approve, comment, r.Digest, milliseconds(w.now))
		if err != nil {
			return err
		}
		if n == 0 {
			return denySecondVote(r)
		}
		if err := w.settle(&r, approve); err != nil {
			return err
		}
		if err := w.done(map[string]any{"number": r.Number, "level": level + 1, "level_name": r.Levels[level].Name,
			"digest": r.Digest, "comment": comment, "state": r.State}); err != nil {
			return err
		}
		r, err = loadRequest(w.tx, r.ID, w.now)
		return err
	})
	if err != nil {
		return Request{}, err
	}
	return r, nil
}

func denySecondVote(r Request) error {
	return deny("vote.twice", fmt.Sprintf("You have voted on request %d: one person has one vote over all its levels.", r.Number), "")
}

// mayVote denies a vote that must not count.
func (w *work) mayVote(r Request, approve bool, digest string) error {
	person, verb := w.by.User, "deny"
	if approve {
		verb = "approve"
	}
	switch {
	case person == "":
		return deny("vote.not-eligible", "A vote needs a person.", "")
	case r.User == person:
		return deny("vote.self", "Nobody votes on a request of their own.", "")
	case !w.by.VerbOnly:
		return deny("vote.factor", fmt.Sprintf("A vote needs a second factor and a connection of its own: "+
			"ssh -o ControlPath=none gate request %s %d.", verb, r.Number), "")
	case r.State != requestPending:
		return deny("request.over", fmt.Sprintf("Request %d is %s already.", r.Number, r.State), "")
	case digest != "" && !strings.EqualFold(digest, r.Digest):
		return deny("vote.digest", fmt.Sprintf("Request %d is not what you were shown: look at it again.", r.Number),
			"the request's digest is "+r.Digest)
	case r.voted(person):
		return denySecondVote(r)
	case !slices.Contains(r.Levels[r.Level].Eligible, person):
		return deny("vote.not-eligible", fmt.Sprintf("Request %d waits for level %d (%s), and you have no vote there.",
			r.Number, r.Level+1, r.Levels[r.Level].Name), "")
	}
	return nil
}

// settle moves a request after a vote. All levels are counted anew, with the votes of those only
// who may vote now: who has left since has no vote, and a level can open again.
func (w *work) settle(r *Request, approve bool) error {
	if !approve {
		r.State = requestDenied
		return w.move(r)
	}
	fresh, err := loadRequest(w.tx, r.ID, w.now)
	if err != nil {
		return err
	}
	r.Level = len(fresh.Levels)
	for i, level := range fresh.Levels {
		eligible, err := eligiblePeople(w.tx, level.Level, r.Project, r.User, w.now)
		if err != nil {
			return err
		}
		if approvals(level.Votes, eligible, r.Digest) < level.Quorum {
			r.Level = i
			break
		}
	}
	if r.Level == len(fresh.Levels) {
		r.State, r.UsesLeft = requestApproved, grantUses
		r.GrantFrom, r.GrantUntil = w.now, w.now.Add(r.window)
	}
	return w.move(r)
}

// approvals counts the votes that say yes to that digest, of people who may vote.
func approvals(votes []Vote, eligible []string, digest string) (n int) {
	for _, v := range votes {
		if v.Approve && v.Digest == digest && slices.Contains(eligible, v.User) {
			n++
		}
	}
	return n
}

// OpenGrant finds an approved, unexpired, unused request of the person for the server, "" for none. One
// that was approved for an account which is no longer the person's does not count.
func (a *Authority) OpenGrant(ctx context.Context, user, project, server string) (string, error) {
	var id string
	err := a.db.Read(ctx, func(tx database.Tx) error {
		now := milliseconds(a.now())
		err := tx.QueryRow(`SELECT id FROM requests WHERE user_name = $1 AND project = $2 AND server = $3
			AND state = 'approved' AND uses_left > 0 AND grant_from <= $4 AND grant_until > $5
			AND EXISTS (SELECT 1 FROM memberships m WHERE m.user_name = requests.user_name AND m.project = requests.project
				AND m.account = requests.account AND m.approved_by <> '' AND m.ended_at = 0 AND m.expires_at > $6)
			ORDER BY grant_until DESC LIMIT 1`, column(user), column(project), column(server), now, now, now).Scan(&id)
		if errors.Is(err, sql.ErrNoRows) {
			return nil
		}
		return err
	})
	if err != nil {
		return "", fmt.Errorf("open grant: %w", err)
	}
	return id, nil
}

// loadGrant loads what a request allows.
func loadGrant(tx database.Tx, id string) (*grant, error) {
	g := &grant{}
	var from, until int64
	err := tx.QueryRow(`SELECT id, user_name, project, server, account, state, grant_from, grant_until, uses_left FROM requests
		WHERE id = $1`, column(id)).Scan(&g.id, &g.user, &g.project, &g.server, &g.account, &g.state, &from, &until, &g.usesLeft)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, ErrNotFound
	}
	if err != nil {
		return nil, err
	}
	g.from, g.until = fromMilliseconds(from), fromMilliseconds(until)
	err = tx.Each(func(row database.Scanner) error {
		var session string
		err := row.Scan(&session)
		g.usedBy = append(g.usedBy, session)
		return err
	}, "SELECT id FROM sessions WHERE request = $1", g.id)
	return g, err
}
