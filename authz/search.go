package authz

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"sallyport/internal/database"
)

// SearchQuery says what to find. Zero fields do not narrow, but one of them must.
type SearchQuery struct {
	// Text are words that must all be found; in double quotes they must stand together, and '*' at the end of a
	// word leaves its rest open. There is no other syntax.
	Text                  string
	User, Project, Server string
	From, To              time.Time // To is exclusive
	Kinds                 []string  // of Kinds; none means all
	Limit                 int       // at most MaxHits, which it is by default
	After                 string    // a Hit's Place: what is older than it
}

// MaxHits is how many hits one call of Search returns at most.
const MaxHits = 1000

// Hit is something that was found.
type Hit struct {
	Kind    string    `json:"kind"` // event, command or transfer
	Time    time.Time `json:"time"`
	User    string    `json:"user"`
	Project string    `json:"project,omitempty"`
	Server  string    `json:"server,omitempty"`
	Session string    `json:"session,omitempty"`
	// Text is the command, the transfer's name, or the event in short. It holds what people typed: clean it for a terminal.
	Text   string `json:"text"`
	Sealed bool   `json:"sealed,omitempty"`
	Event  string `json:"event"` // E-… of the event that tells of it
	// Result is that of the event; of a command or transfer, how its session ended, such as "exit 1".
	Result string `json:"result"`
	Place  string `json:"place"` // for SearchQuery.After
}

// ErrQuery is a SearchQuery that cannot be answered; its text tells why.
var ErrQuery = errors.New("search")

// searchOp is the event of a search in what others did.
const searchOp = "audit.search"

// compiled is a query in the terms of the index.
type compiled struct {
	SearchQuery
	text database.TextQuery
}

func (q SearchQuery) compile() (compiled, error) {
	c := compiled{SearchQuery: q}
	if c.Limit <= 0 || c.Limit > MaxHits {
		c.Limit = MaxHits
	}
	if len(q.Text) > maxText {
		return c, fmt.Errorf("%w: a search has at most %d bytes", ErrQuery, maxText)
	}
	if q.Text != "" {
		var err error
		if c.text.Phrases, err = database.Phrases(q.Text); err != nil {
			return c, fmt.Errorf("%w: %w", ErrQuery, err)
		}
	}
	for _, kind := range q.Kinds {
		if !slices.Contains(Kinds(), kind) {
			return c, fmt.Errorf("%w: there is no kind %q", ErrQuery, kind)
		}
	}
	if q.Text == "" && q.User == "" && q.Project == "" && q.Server == "" && q.From.IsZero() && q.To.IsZero() && len(q.Kinds) == 0 {
		return c, fmt.Errorf("%w: say what to look for", ErrQuery)
	}
	for _, narrow := range []struct{ field, value string }{{"user", q.User}, {"project", q.Project}, {"server", q.Server}} {
		if narrow.value != "" {
			c.text.Labels = append(c.text.Labels, c.labelsOf(narrow.field, column(narrow.value)))
		}
	}
	if len(q.Kinds) > 0 && q.User == "" && q.Project == "" {
		c.text.Labels = append(c.text.Labels, labels("kind", q.Kinds))
	}
	c.text.First, c.text.Before = firstEntry(q.From), int64(math.MaxInt64)
	if !q.To.IsZero() {
		c.text.Before = firstEntry(q.To)
	}
	if q.After != "" {
		place, err := strconv.ParseInt(q.After, 36, 64)
		if err != nil || place < firstPlace {
			return c, fmt.Errorf("%w: %q is no place in a list of hits", ErrQuery, q.After)
		}
		c.text.Before = min(c.text.Before, place)
	}
	return c, nil
}

// labelsOf are the labels of a value of a field, of which an entry must bear one.
func (q SearchQuery) labelsOf(field, value string) (labels []string) {
	if field == "server" || len(q.Kinds) == 0 {
		return []string{database.Label(field, value)}
	}
	for _, kind := range q.Kinds {
		labels = append(labels, kindLabel(kind, field, value))
	}
	return labels
}

func labels(field string, values []string) []string {
	out := make([]string, len(values))
	for i, value := range values {
		out[i] = database.Label(field, value)
	}
	return out
}

// Search finds events, commands and transfers, newest first, among those that the actor may see: events as Events
// shows them, commands and transfers of the sessions that Sessions lists. The same query gives the same order at any time,
// and After continues it. A search that can reach what others did is itself an event, recorded before anything is
// answered. An error that is ErrQuery is a fault of the query.
func (a *Authority) Search(ctx context.Context, by Actor, q SearchQuery) ([]Hit, error) {
	c, err := q.compile()
	if err != nil {
		return nil, err
	}
	event := Event{OpType: searchOp, ResourceType: "search", ResourceID: "-"}
	hits := []Hit{}
	var scope sessionScope
	err = a.db.Read(ctx, func(tx database.Tx) (err error) {
		scope, err = loadSessionScope(tx, by, a.now())
		return err
	})
	if err == nil && scope.reaches(q) {
		if scope.asker.SiteRole == SiteAuditor || slices.Contains(scope.projects, q.Project) {
			event.Project = q.Project
		}
		err = a.recordSearch(ctx, by, event, q)
	}
	if err == nil {
		err = a.db.Read(ctx, func(tx database.Tx) (err error) {
			hits, err = a.find(tx, by, c)
			return err
		})
	}
	return hits, a.answer(ctx, by, event, err)
}

func (a *Authority) recordSearch(ctx context.Context, by Actor, event Event, q SearchQuery) error {
	event.UserID, event.RemoteAddr, event.Connection = by.name(), by.address(), by.Connection
	event.Details = map[string]any{"query": q.Text, "limit": q.Limit}
	for name, value := range map[string]string{"user": q.User, "project": q.Project, "server": q.Server, "after": q.After} {
		if value != "" {
			event.Details[name] = value
		}
	}
	for name, t := range map[string]time.Time{"from": q.From, "to": q.To} {
		if !t.IsZero() {
			event.Details[name] = t.UTC()
		}
	}
	if len(q.Kinds) > 0 {
		event.Details["kinds"] = q.Kinds
	}
	_, err := a.Record(ctx, event)
	return err
}

// reaches reports whether a query can find what others did.
func (s sessionScope) reaches(q SearchQuery) bool {
	return (s.asker.SiteRole == SiteAuditor || len(s.projects) > 0) && (q.User == "" || q.User != s.asker.Name)
}

// labels narrow the index to what the actor may possibly see; nil when that is everything. What the
// actor does see is decided by the rows.
func (s sessionScope) labels() [][]string {
	if s.asker.SiteRole == SiteAuditor {
		return nil
	}
	return [][]string{append(labels("project", s.projects), database.Label("user", s.asker.Name))}
}

// find collects hits page by page of the index, since a row may turn out to be none that the actor may see.
func (a *Authority) find(tx database.Tx, by Actor, c compiled) ([]Hit, error) {
	scope, err := loadSessionScope(tx, by, a.now())
	if err != nil {
		return nil, err
	}
	hits := []Hit{}
	if scope.asker.Name == "" { // on the node, bound to nobody
		return hits, nil
	}
	c.text.Labels = append(c.text.Labels, scope.labels()...)
	c.text.Limit = max(c.Limit, leastPage)
	for {
		ids, err := c.ids(tx)
		if err != nil {
			return nil, err
		}
		found, err := a.visibleHits(tx, by, scope, c, ids)
		if err != nil {
			return nil, err
		}
		hits = append(hits, found...)
		if len(hits) >= c.Limit {
			return hits[:c.Limit], nil
		}
		if len(ids) < c.text.Limit {
			return hits, nil
		}
		c.text.Before = ids[len(ids)-1]
	}
}

// leastPage is how many entries are looked at in one step.
const leastPage = 100

// ids are the next entries that may be hits, newest first.
func (c compiled) ids(tx database.Tx) (ids []int64, err error) {
	if len(c.text.Phrases)+len(c.text.Labels) > 0 {
		return tx.FindText(c.text)
	}
	err = tx.Each(func(row database.Scanner) error {
		var id int64
		err := row.Scan(&id)
		ids = append(ids, id)
		return err
	}, "SELECT id FROM search_entries WHERE id >= $1 AND id < $2 ORDER BY id DESC LIMIT $3",
		c.text.First, c.text.Before, int64(c.text.Limit))
	return ids, err
}

// visibleHits loads those of the entries that the actor may see and that the query means.
func (a *Authority) visibleHits(tx database.Tx, by Actor, scope sessionScope, c compiled, ids []int64) (hits []Hit, err error) {
	if len(ids) == 0 {
		return nil, nil
	}
	f := &filter{}
	places := make([]any, len(ids))
	for i, id := range ids {
		places[i] = id
	}
	f.add("s.id IN ("+strings.Repeat("?, ", len(ids)-1)+"?)", places...)
	events := &filter{args: f.args} // the placeholders count on
	if err := visibleEvents(tx, by, EventQuery{}, a.now(), events); err != nil {
		return nil, err
	}
	sessions := &filter{args: events.args}
	scope.limit(sessions, "user_id")
	f.args = sessions.args
	f.add("(kind = 'event' AND " + events.where() + " OR kind <> 'event' AND " + sessions.where() + ")")
	for _, narrow := range []struct{ condition, value string }{{"user_id = ?", c.User}, {"project = ?", c.Project}, {"server = ?", c.Server}} {
		if narrow.value != "" {
			f.add(narrow.condition, column(narrow.value))
		}
	}
	if len(c.Kinds) > 0 {
		kinds := make([]any, len(c.Kinds))
		for i, kind := range c.Kinds {
			kinds[i] = kind
		}
		f.add("kind IN ("+strings.Repeat("?, ", len(kinds)-1)+"?)", kinds...)
	}
	err = tx.Each(func(row database.Scanner) error {
		var (
			id   int64
			h    Hit
			text []byte
			end  Session
		)
		if err := row.Scan(&id, &h.Kind, &h.Server, &text, &end.Result, &end.ExitCode); err != nil {
			return err
		}
		h.Place = strconv.FormatInt(id, 36)
		if err := h.fill(text); err != nil {
			return err
		}
		if h.Kind == HitCommand {
			h.Result = end.Outcome()
		}
		hits = append(hits, h)
		return nil
	}, `SELECT s.id, s.kind, s.server, (SELECT leaf FROM events e WHERE e.node = s.node AND e.sequence = s.sequence),
		COALESCE((SELECT result FROM sessions x WHERE x.id = s.session), ''), COALESCE((SELECT exit_code FROM sessions x WHERE x.id = s.session), 0)
		FROM search_entries s WHERE `+f.where()+" ORDER BY s.id DESC", f.args...)
	return hits, err
}

// fill completes a hit from the event that tells of it.
func (h *Hit) fill(leaf []byte) error {
	e, err := parseEvent(leaf)
	if err != nil {
		return err
	}
	h.Time, h.User, h.Project, h.Session, h.Event, h.Result = e.Time, e.UserID, e.Project, e.Session, e.ID, e.Result
	d := derive(e)
	switch {
	case h.Kind == HitCommand && d.command != nil:
		h.Text, h.Sealed = d.command.Text, d.command.Sealed
	case h.Kind == HitTransfer && d.transfer != nil:
		h.Text, h.Sealed, h.Result = d.transfer.Name, d.transfer.Sealed, d.transfer.Status
	default:
		h.Text = e.OpType + " " + e.ResourceType + " " + e.ResourceID
		for _, name := range []string{"query", "reason", "sentence", "command"} {
			if text := detailText(e, name); text != "" {
				h.Text += ": " + text
				break
			}
		}
	}
	return nil
}
