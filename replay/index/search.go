package index

import (
	"context"
	"fmt"
	"math"
	"time"

	"sallyport/internal/database"
)

// Query says what to find; zero fields do not narrow, except that Text is required.
type Query struct {
	Text                           string // as database.Phrases reads it
	Session, User, Project, Server string
	From, To                       time.Time // of the line; To is exclusive
	Limit                          int       // at most MaxHits, which it is by default
}

// MaxHits is how many hits one Search returns at most.
const MaxHits = 1000

// Hit is a line that was found.
type Hit struct {
	Session
	Offset time.Duration `json:"offset_ns"` // since the session's start
	Text   string        `json:"line"`      // what was shown or typed: clean it for a terminal
	Typed  bool          `json:"typed"`
}

// Search finds lines, newest first. The error is database.ErrNoWords for a text without a word.
func (x *Index) Search(ctx context.Context, q Query) ([]Hit, error) {
	phrases, err := database.Phrases(q.Text)
	if err != nil {
		return nil, err
	}
	if q.Limit <= 0 || q.Limit > MaxHits {
		q.Limit = MaxHits
	}
	text := database.TextQuery{Phrases: phrases, Before: math.MaxInt64, Limit: q.Limit}
	if !q.From.IsZero() {
		text.First = firstPlace(q.From)
	}
	if !q.To.IsZero() && q.To.UnixMilli() < lastMoment {
		text.Before = firstPlace(q.To)
	}
	for _, narrow := range []struct{ field, value string }{{"session", q.Session}, {"user", q.User}, {"project", q.Project}, {"server", q.Server}} {
		if narrow.value != "" {
			text.Labels = append(text.Labels, []string{database.Label(narrow.field, narrow.value)})
		}
	}
	var hits []Hit
	err = x.db.Read(ctx, func(tx database.Tx) error {
		hits = []Hit{}
		for len(hits) < q.Limit {
			ids, err := tx.FindText(text)
			if err != nil {
				return err
			}
			for _, id := range ids {
				if hits, err = appendHit(tx, hits, q, id); err != nil {
					return err
				}
			}
			if len(ids) < text.Limit {
				return nil
			}
			text.Before = ids[len(ids)-1]
		}
		hits = hits[:q.Limit]
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("search the index: %w", err)
	}
	return hits, nil
}

// appendHit adds the line of an id, if it is one that the query means.
func appendHit(tx database.Tx, hits []Hit, q Query, id int64) ([]Hit, error) {
	err := tx.Each(func(row database.Scanner) error {
		var (
			h      Hit
			offset int64
		)
		s, err := scanSession(row, &offset, &h.Typed, &h.Text)
		if err != nil {
			return err
		}
		h.Session, h.Offset = s, time.Duration(offset)
		if at := s.Start.Add(h.Offset).UnixMilli(); !q.From.IsZero() && at < q.From.UnixMilli() || !q.To.IsZero() && at >= q.To.UnixMilli() {
			return nil // its place is that of another time, which an id can tell
		}
		for _, narrow := range [...][2]string{{q.Session, s.ID}, {q.User, s.User}, {q.Project, s.Project}, {q.Server, s.Server}} {
			if narrow[0] != "" && narrow[0] != narrow[1] {
				return nil // another value with the same label
			}
		}
		hits = append(hits, h)
		return nil
	}, "SELECT "+sessionColumns+", l.offset_ns, l.typed, l.line FROM lines l JOIN sessions s ON s.id = l.session WHERE l.id = $1 AND s.complete", id)
	return hits, err
}
