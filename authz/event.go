package authz

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"sallyport/internal/database"
)

// Event is one entry of the ledger: who did what to which thing, from where.
// The first seven fields are those that DCS names; an event that lacks one of
// UserID, OpType, Time, ResourceID, ResourceType or RemoteAddr is not accepted
// (Details may be the empty object).
type Event struct {
	UserID       string         `json:"user_id"` // a person, "system", or "unauthenticated"
	OpType       string         `json:"op_type"` // e.g. "login.success", "session.open", "member.add"
	Time         time.Time      `json:"time"`    // UTC
	Details      map[string]any `json:"details"`
	ResourceID   string         `json:"resource_id"`
	ResourceType string         `json:"resource_type"` // user, key, project, server, session, connection, request, …
	RemoteAddr   string         `json:"remote_addr"`   // IP address, "local", or "-" for the node itself

	ID         string        `json:"id"` // E-…
	Node       string        `json:"node"`
	Sequence   int64         `json:"sequence"` // dense per node, from 1
	BootID     string        `json:"boot_id"`
	Monotonic  time.Duration `json:"monotonic_ns"` // since boot of the machine
	Project    string        `json:"project,omitempty"`
	Session    string        `json:"session,omitempty"`
	Connection string        `json:"connection,omitempty"`
	Result     string        `json:"result"` // ok, refused or failed
}

// Results of an event.
const (
	ResultOK      = "ok"
	ResultRefused = "refused"
	ResultFailed  = "failed"
)

// Ledger keeps events for good. Authority commits a change and its event in
// one transaction and then hands the event over in order of its sequence; the
// call that made the change returns only after Append did.
type Ledger interface {
	// Append makes one leaf of at most MaxLeaf bytes durable. Sequences arrive dense and in order.
	// An error is final: the node takes no further sessions.
	Append(ctx context.Context, sequence int64, leaf []byte) error
	// Last is the highest sequence that is durable, 0 for none. Events of the
	// database beyond it are handed over again at start.
	Last() int64
}

// Record commits one event that goes with no change of state, and returns its E-….
func (a *Authority) Record(ctx context.Context, e Event) (string, error) {
	var id string
	e.ID = ""
	err := a.commit(ctx, func(w *work) (err error) {
		id, err = w.recordEvent(e)
		return err
	})
	if err != nil {
		return "", fmt.Errorf("record %s: %w", e.OpType, err)
	}
	return id, nil
}

// Refuse records a refusal as an event and returns the value to tell the person. When the event
// cannot be recorded the refusal has no reference, and its cause says so.
func (a *Authority) Refuse(ctx context.Context, e Event, rule, sentence, cause string) *Refusal {
	r := &Refusal{Rule: rule, Sentence: sentence, Cause: cause}
	e.Details = r.details(e.Details)
	if e.Result == "" {
		e.Result = ResultRefused
	}
	id, err := a.Record(ctx, e)
	if err != nil {
		r.Cause = strings.TrimPrefix(cause+"; not recorded: "+err.Error(), "; ")
		return r
	}
	r.Reference = id
	return r
}

// details are what an event tells of the refusal, together with what else it tells.
func (r *Refusal) details(more map[string]any) map[string]any {
	details := map[string]any{"rule": r.Rule, "sentence": r.Sentence}
	if r.Cause != "" {
		details["cause"] = r.Cause
	}
	maps.Copy(details, more)
	return details
}

// recordEvent completes an event and writes it in the work's transaction.
func (w *work) recordEvent(e Event) (string, error) {
	if e.Time.IsZero() {
		e.Time = w.now
	}
	if e.Result == "" {
		e.Result = ResultOK
	}
	if e.Details == nil {
		e.Details = map[string]any{}
	}
	if err := e.check(); err != nil {
		return "", err
	}
	e.boundFields()
	var err error
	if e.ID == "" {
		if e.ID, err = w.a.newID("E-", w.now); err != nil {
			return "", err
		}
	}
	if e.Monotonic, err = monotonic(); err != nil {
		return "", err
	}
	e.Time = e.Time.UTC().Truncate(time.Millisecond)
	e.Node, e.BootID = w.a.node, w.a.boot
	err = w.tx.QueryRow("UPDATE nodes SET last_sequence = last_sequence + 1 WHERE id = $1 RETURNING last_sequence",
		w.a.node).Scan(&e.Sequence)
	if err != nil {
		return "", fmt.Errorf("event sequence: %w", err)
	}
	text, err := e.leaf()
	if err != nil {
		return "", fmt.Errorf("event %s: %w", e.OpType, err)
	}
	err = insertEvent(w.tx, e, text)
	if err != nil {
		return "", fmt.Errorf("event %s: %w", e.OpType, err)
	}
	if err := DeriveTables(w.tx, text); err != nil {
		return "", err
	}
	w.leaves = append(w.leaves, leaf{sequence: e.Sequence, text: text})
	return e.ID, nil
}

// insertEvent writes the row of an event whose exact text is given.
func insertEvent(tx database.Tx, e Event, text []byte) error {
	_, err := tx.Exec(`INSERT INTO events (node, sequence, id, user_id, op_type, happened_at, resource_id,
			resource_type, remote_addr, project, session, connection, result, leaf)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)`,
		e.Node, e.Sequence, e.ID, column(e.UserID), column(e.OpType), milliseconds(e.Time), column(e.ResourceID),
		column(e.ResourceType), column(e.RemoteAddr), column(e.Project), column(e.Session), column(e.Connection),
		e.Result, text)
	return err
}

// check refuses an event that lacks a field that everyone relies on.
func (e Event) check() error {
	var missing []string
	for _, field := range []struct{ name, value string }{
		{"user_id", e.UserID}, {"op_type", e.OpType}, {"resource_id", e.ResourceID},
		{"resource_type", e.ResourceType}, {"remote_addr", e.RemoteAddr},
	} {
		if field.value == "" {
			missing = append(missing, field.name)
		}
	}
	if missing != nil {
		return fmt.Errorf("an event needs %s", strings.Join(missing, ", "))
	}
	switch e.Result {
	case ResultOK, ResultRefused, ResultFailed:
		return nil
	}
	return fmt.Errorf("an event has no result %q", e.Result)
}

// column is a text that both engines can hold and compare: PostgreSQL takes neither NUL nor
// bytes that are not UTF-8. The leaf holds the same text with escapes.
func column(s string) string {
	return strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "\uFFFD")
}

// leaves loads this node's events from one sequence to another, both included.
func (a *Authority) leaves(ctx context.Context, from, to int64) ([]leaf, error) {
	var leaves []leaf
	err := a.db.Read(ctx, func(tx database.Tx) error {
		leaves = nil
		return tx.Each(func(row database.Scanner) error {
			var l leaf
			if err := row.Scan(&l.sequence, &l.text); err != nil {
				return err
			}
			leaves = append(leaves, l)
			return nil
		}, "SELECT sequence, leaf FROM events WHERE node = $1 AND sequence >= $2 AND sequence <= $3 ORDER BY sequence",
			a.node, from, to)
	})
	if err != nil {
		return nil, fmt.Errorf("load events: %w", err)
	}
	if int64(len(leaves)) != to-from+1 {
		return nil, fmt.Errorf("load events: the database has %d of the events %d to %d", len(leaves), from, to)
	}
	return leaves, nil
}

// canonicalJSON writes a value in the one form that is hashed: object names sorted by their
// bytes, no space, no escape where none is needed, and every control or direction-changing
// character as \uXXXX.
func canonicalJSON(v any) ([]byte, error) { return canonical(v, math.MaxInt) }

// canonical is canonicalJSON with every text of more than limit bytes cut.
func canonical(v any, limit int) ([]byte, error) {
	first, err := marshal(v)
	if err != nil {
		return nil, err
	}
	decoder := json.NewDecoder(bytes.NewReader(first))
	decoder.UseNumber()
	var generic any
	if err := decoder.Decode(&generic); err != nil {
		return nil, err
	}
	sorted, err := marshal(bound(generic, limit)) // maps are written with sorted names
	if err != nil {
		return nil, err
	}
	return escapeControls(sorted), nil
}

func marshal(v any) ([]byte, error) {
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

// hostile reports characters that would act on a terminal or change how a line reads: controls,
// and the invisible ones that reverse or join text.
func hostile(r rune) bool {
	return unicode.IsControl(r) || unicode.Is(unicode.Cf, r) || r == '\u2028' || r == '\u2029'
}

// escapeControls rewrites JSON text; characters outside ASCII occur only inside its strings.
func escapeControls(text []byte) []byte {
	if bytes.IndexFunc(text, hostile) < 0 {
		return text
	}
	out := make([]byte, 0, len(text)+16)
	for _, r := range string(text) {
		switch {
		case !hostile(r):
			out = utf8.AppendRune(out, r)
		case r > 0xffff:
			r -= 0x10000
			out = fmt.Appendf(out, `\u%04x\u%04x`, 0xd800+(r>>10), 0xdc00+(r&0x3ff))
		default:
			out = fmt.Appendf(out, `\u%04x`, r)
		}
	}
	return out
}
