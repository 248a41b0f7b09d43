package authz

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"sallyport/internal/database"
)

// EventQuery selects events; zero fields do not narrow.
type EventQuery struct {
	Reference, User, OpType, Project, Session, Connection string
	Since, Until                                          time.Time // Until is exclusive
	Sequence                                              int64     // the number in this node's ledger
	Limit                                                 int       // the newest so many

	node string // whose Sequence is meant
}

// MaxEvents is how many events one call of Events returns at most. EachEvent has no such bound.
const MaxEvents = 1000

// eventPage is how many events are read in one transaction. Together they take some megabytes at most.
const eventPage = 200

// Events returns events that the actor may see, newest last: a site auditor all, a project's
// auditor those of the project, its manager those about its members and epoch keys, everyone their own. An
// administrator or security administrator may look up one event by its reference, and people
// on the node who are bound to nobody see nothing. With no limit it returns the newest MaxEvents.
func (a *Authority) Events(ctx context.Context, by Actor, q EventQuery) ([]Event, error) {
	if q.Limit <= 0 || q.Limit > MaxEvents {
		q.Limit = MaxEvents
	}
	events := []Event{}
	err := a.EachEvent(ctx, by, q, func(e Event) error {
		events = append(events, e)
		return nil
	})
	return events, err
}

// EachEvent calls fn for the events that Events would return, of any number, oldest first. It reads
// page by page and lets the database go between them, so that nobody who reads much, or slowly,
// keeps others waiting. An error of fn ends it and is returned.
func (a *Authority) EachEvent(ctx context.Context, by Actor, q EventQuery, fn func(Event) error) error {
	var after *eventPlace
	q.node = a.node
	if q.Limit > 0 {
		var err error
		if after, err = a.beforeNewest(ctx, by, q); err != nil {
			return fmt.Errorf("events: %w", err)
		}
	}
	for left := q.Limit; ; {
		page, err := a.eventPage(ctx, by, q, after)
		if err != nil {
			return fmt.Errorf("events: %w", err)
		}
		for _, e := range page {
			if err := fn(e); err != nil {
				return err
			}
			if left--; left == 0 {
				return nil
			}
		}
		if len(page) < eventPage {
			return nil
		}
		last := page[len(page)-1]
		after = &eventPlace{at: milliseconds(last.Time), node: last.Node, sequence: last.Sequence}
	}
}

// eventPlace is a place in the order of events.
type eventPlace struct {
	at       int64
	node     string
	sequence int64
}

// beforeNewest is the place before the newest events, as many as the limit says; nil when there are no more.
func (a *Authority) beforeNewest(ctx context.Context, by Actor, q EventQuery) (*eventPlace, error) {
	var p eventPlace
	err := a.db.Read(ctx, func(tx database.Tx) error {
		f := &filter{}
		if err := q.visible(tx, by, a.now(), f); err != nil {
			return err
		}
		query := "SELECT happened_at, node, sequence FROM events WHERE " + f.where() +
			" ORDER BY happened_at DESC, node DESC, sequence DESC LIMIT 1 OFFSET " + f.value(int64(q.Limit))
		return tx.QueryRow(query, f.args...).Scan(&p.at, &p.node, &p.sequence)
	})
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	return &p, err
}

func (a *Authority) eventPage(ctx context.Context, by Actor, q EventQuery, after *eventPlace) ([]Event, error) {
	var texts [][]byte
	err := a.db.Read(ctx, func(tx database.Tx) error {
		texts = nil
		f := &filter{}
		if err := q.visible(tx, by, a.now(), f); err != nil {
			return err
		}
		if after != nil {
			f.add("happened_at >= ?", after.at) // for the index
			f.add("(happened_at > ? OR node > ? OR node = ? AND sequence > ?)", after.at, after.node, after.node, after.sequence)
		}
		query := "SELECT leaf FROM events WHERE " + f.where() + " ORDER BY happened_at, node, sequence LIMIT " + f.value(int64(eventPage))
		return tx.Each(func(row database.Scanner) error {
			var text []byte
			err := row.Scan(&text)
			texts = append(texts, text)
			return err
		}, query, f.args...)
	})
	if err != nil {
		return nil, err
	}
	events := make([]Event, len(texts))
	for i, text := range texts {
		if events[i], err = parseEvent(text); err != nil {
			return nil, err
		}
	}
	return events, nil
}

// visible narrows a filter to what was asked for and may be seen.
func (q EventQuery) visible(tx database.Tx, by Actor, now time.Time, f *filter) error {
	if err := visibleEvents(tx, by, q, now, f); err != nil {
		return err
	}
	q.narrow(f)
	return nil
}

// visibleEvents limits a filter to what the actor may see.
func visibleEvents(tx database.Tx, by Actor, q EventQuery, now time.Time, f *filter) error {
	user, err := loadUser(tx, by.User)
	if errors.Is(err, ErrNotFound) {
		f.add("1 = 0")
		return nil
	}
	if err != nil {
		return err
	}
	conditions, args := []string{"user_id = ?"}, []any{user.Name}
	if user.State != stateActive {
		f.add(conditions[0], args...)
		return nil
	}
	switch user.SiteRole {
	case SiteAuditor:
		return nil
	case SiteAdmin, SiteSecurity:
		if q.Reference != "" {
			return nil
		}
	}
	members, err := loadMemberships(tx, "user_name = ?", user.Name)
	if err != nil {
		return err
	}
	for _, m := range members {
		permissions, _ := m.Role.Permissions()
		switch {
		case !m.live(now):
		case permissions.Has(PermAudit):
			conditions, args = append(conditions, "project = ?"), append(args, m.Project)
		case permissions.Has(PermManage):
			conditions, args = append(conditions, "(project = ? AND (op_type LIKE 'member.%' OR op_type LIKE 'epoch.%'))"), append(args, m.Project)
		}
	}
	f.add("("+strings.Join(conditions, " OR ")+")", args...)
	return nil
}

func (q EventQuery) narrow(f *filter) {
	for _, c := range []struct{ condition, value string }{
		{"id = ?", q.Reference}, {"user_id = ?", q.User}, {"op_type = ?", q.OpType}, {"project = ?", q.Project},
		{"session = ?", q.Session}, {"connection = ?", q.Connection},
	} {
		if c.value != "" {
			f.add(c.condition, column(c.value))
		}
	}
	if q.Sequence != 0 {
		f.add("node = ? AND sequence = ?", q.node, q.Sequence)
	}
	if !q.Since.IsZero() {
		f.add("happened_at >= ?", milliseconds(q.Since))
	}
	if !q.Until.IsZero() {
		f.add("happened_at < ?", milliseconds(q.Until))
	}
}

func parseEvent(text []byte) (Event, error) {
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber() // a size of 2^60 bytes must come back as it went in
	var e Event
	if err := decoder.Decode(&e); err != nil {
		return Event{}, fmt.Errorf("event in the database: %w", err)
	}
	return e, nil
}

// filter collects the conditions of a query whose parts are known only at run time, and numbers
// its placeholders in order of appearance.
type filter struct {
	conditions []string
	args       []any
}

// add takes a condition with one ? for each argument.
func (f *filter) add(condition string, args ...any) {
	for _, arg := range args {
		condition = strings.Replace(condition, "?", f.value(arg), 1)
	}
	f.conditions = append(f.conditions, condition)
}

// value takes an argument and returns its placeholder.
func (f *filter) value(arg any) string {
	f.args = append(f.args, arg)
	return "$" + strconv.Itoa(len(f.args))
}

func (f *filter) where() string {
	if len(f.conditions) == 0 {
		return "1 = 1"
	}
	return strings.Join(f.conditions, " AND ")
}
