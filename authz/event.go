package authz

import (
	"context"
	"time"
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
	// Append makes one leaf durable. Sequences arrive dense and in order.
	// An error is final: the node takes no further sessions.
	Append(ctx context.Context, sequence int64, leaf []byte) error
	// Last is the highest sequence that is durable, 0 for none. Events of the
	// database beyond it are handed over again at start.
	Last() int64
}
