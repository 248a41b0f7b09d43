// Package authz says who may do what. It holds people, keys, second factors,
// projects, memberships, sessions, requests and votes in a database, decides
// every question about them in one place, and tells the ledger of every
// change and every decision.
//
// A change of state and its event commit in one transaction. The event then
// goes to the ledger, and the call returns only once it is durable there; a
// ledger that has failed lets nothing more happen. A program that dies in
// between hands the missing events over when it starts again.
//
// What is not granted is refused. A refusal is a *Refusal: a value with one
// sentence for the person, a reference that an administrator can look up, and
// the name of the rule. Other errors mean that no answer could be had.
//
// The package refuses to know of SSH connections, screens and recordings: who
// somebody is comes in as an Identity that was verified elsewhere.
package authz

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/oklog/ulid/v2"
	"golang.org/x/sys/unix"

	"sallyport/internal/database"
)

// Errors that callers decide on. Everything that a person is told is a *Refusal.
var (
	// ErrNotFound says that no such thing exists, or that the asker may not know.
	ErrNotFound = errors.New("not found")
	// ErrWrongCode says that an answer was no valid second factor; the person may try again.
	ErrWrongCode = errors.New("wrong code")
	// ErrUsedCode says that a code was right but its time step was used before.
	ErrUsedCode = errors.New("code already used")
	// ErrLedger wraps every error that follows from a ledger that took no event. It is final.
	ErrLedger = errors.New("the ledger takes no events")
)

// Options are what an Authority is made from.
type Options struct {
	Node      string           // random node id, made at init
	Clock     func() time.Time // nil: time.Now
	Random    io.Reader        // nil: crypto/rand.Reader
	MasterKey [32]byte         // derives the keys for secrets in the database; nothing else
	Ledger    Ledger
	Issuer    string // shown by authenticator apps beside the account
	// Retention is how long recordings are kept after the end of their epoch; MinRetention at least.
	Retention time.Duration
}

// Authority decides. It holds the state of people, projects and approvals in
// a database and tells the ledger of every change. It is safe for concurrent
// use, runs no goroutine of its own and needs no closing.
type Authority struct {
	db      *database.DB
	node    string
	issuer  string
	kept    time.Duration // see Options.Retention
	boot    string
	clock   func() time.Time
	secrets secrets
	outbox  *outbox

	randomMu sync.Mutex // guards random
	random   io.Reader

	// committing has room for one: it is held over a transaction and the
	// queueing of its events, so that events queue in the order of their
	// sequence. Who waits for it may give up, unlike for a mutex.
	committing chan struct{}

	changedMu  sync.Mutex // guards what follows
	changed    chan struct{}
	generation int64 // of the database, as far as Changed told of it
}

// Open loads an Authority and hands events over to the ledger that a crash kept from it.
func Open(ctx context.Context, db *database.DB, o Options) (*Authority, error) {
	if o.Node == "" || o.Ledger == nil {
		return nil, errors.New("open authority: node id and ledger are required")
	}
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if o.Random == nil {
		o.Random = rand.Reader
	}
	if o.Issuer == "" {
		o.Issuer = "Sallyport"
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return nil, fmt.Errorf("open authority: boot id: %w", err)
	}
	secrets, err := deriveSecrets(o.MasterKey)
	if err != nil {
		return nil, fmt.Errorf("open authority: %w", err)
	}
	a := &Authority{
		db: db, node: o.Node, issuer: o.Issuer, kept: max(o.Retention, MinRetention), boot: strings.TrimSpace(string(boot)),
		clock: o.Clock, random: o.Random, secrets: secrets, changed: make(chan struct{}),
		committing: make(chan struct{}, 1),
	}
	a.outbox = newOutbox(o.Ledger, a.leaves)
	if err := a.join(ctx); err != nil {
		return nil, fmt.Errorf("open authority: %w", err)
	}
	return a, nil
}

// join makes the node's row when it is new, and brings the ledger up to the database.
func (a *Authority) join(ctx context.Context) error {
	var last int64
	err := a.db.Write(ctx, func(tx database.Tx) error {
		_, err := tx.Exec(`INSERT INTO nodes (id, last_sequence, last_session, created_at)
			VALUES ($1, 0, 0, $2) ON CONFLICT (id) DO NOTHING`, a.node, milliseconds(a.now()))
		if err != nil {
			return err
		}
		if err := tx.QueryRow("SELECT last_sequence FROM nodes WHERE id = $1", a.node).Scan(&last); err != nil {
			return err
		}
		if err := a.cutOversized(tx, a.outbox.delivered); err != nil {
			return err
		}
		return tx.QueryRow("SELECT generation FROM changes").Scan(&a.generation)
	})
	if err != nil {
		return err
	}
	if a.outbox.delivered > last {
		return &RolledBackError{Node: a.node, Ledger: a.outbox.delivered, Database: last}
	}
	return a.outbox.flush(context.WithoutCancel(ctx), last)
}

// Changed returns a channel that is closed at the next change of state that may affect a
// live session (on this node at once; by other nodes within a second, found by Poll).
func (a *Authority) Changed() <-chan struct{} {
	a.changedMu.Lock()
	defer a.changedMu.Unlock()
	return a.changed
}

// wake closes the present channel of Changed unless it already told of that generation.
func (a *Authority) wake(generation int64) {
	a.changedMu.Lock()
	defer a.changedMu.Unlock()
	if generation <= a.generation {
		return
	}
	a.generation = generation
	close(a.changed)
	a.changed = make(chan struct{})
}

// Poll asks the database whether another node changed something, and wakes Changed if so. It never
// waits for the ledger. An error means that this node's view is no longer fresh.
func (a *Authority) Poll(ctx context.Context) error {
	var generation int64
	err := a.db.Watch(ctx, func(tx database.Tx) error {
		return tx.QueryRow("SELECT generation FROM changes").Scan(&generation)
	})
	if err != nil {
		return fmt.Errorf("poll: %w", err)
	}
	a.wake(generation)
	return nil
}

// Failed is closed when the ledger has failed for good: nothing can be decided, changed or recorded
// any more, and Err says why.
func (a *Authority) Failed() <-chan struct{} { return a.outbox.failure }

// Err is nil until Failed is closed; then it wraps ErrLedger.
func (a *Authority) Err() error { return a.outbox.err() }

// Tidy does what is due and nobody waits for: it ends requests that waited too long, and hands over
// events that a passing fault of the database kept from the ledger. A node calls it each second.
func (a *Authority) Tidy(ctx context.Context) error {
	var overdue []string
	err := a.db.Read(ctx, func(tx database.Tx) (err error) {
		overdue, err = overdueRequests(tx, a.now())
		return err
	})
	for _, id := range overdue {
		if err == nil {
			err = a.expireRequest(ctx, id)
		}
	}
	if err == nil {
		err = a.outbox.flushAll(context.WithoutCancel(ctx))
	}
	if err != nil {
		return fmt.Errorf("tidy: %w", err)
	}
	return nil
}

// work is one transaction that changes state and records events.
type work struct {
	tx     database.Tx
	a      *Authority
	now    time.Time
	by     Actor
	event  Event // what record starts from, and what a denial is recorded as
	leaves []leaf
	wakes  bool // another node and this node's live sessions must hear of it
}

// change runs fn in a transaction on behalf of an actor. event is what the act is recorded as,
// when fn calls record, and what a refusal is recorded as, when fn returns a denial; nothing else
// of a denied act stays.
func (a *Authority) change(ctx context.Context, by Actor, event Event, fn func(w *work) error) error {
	event.UserID, event.RemoteAddr, event.Connection = by.name(), by.address(), by.Connection
	err := a.commit(ctx, func(w *work) error {
		w.by, w.event = by, event
		err := fn(w)
		var d *denial
		if errors.As(err, &d) {
			d.event = w.event // fn may have found out more, such as the project
		}
		return err
	})
	var d *denial
	if errors.As(err, &d) {
		return a.Refuse(context.WithoutCancel(ctx), d.event, d.rule, d.sentence, d.cause)
	}
	if err != nil && !errors.Is(err, ErrNotFound) {
		return fmt.Errorf("%s: %w", event.OpType, err)
	}
	return err
}

// commit runs fn in a transaction, commits it and waits until its events are durable in the ledger.
func (a *Authority) commit(ctx context.Context, fn func(w *work) error) error {
	if err := a.outbox.err(); err != nil {
		return err
	}
	w, generation, err := a.transact(ctx, fn)
	if err != nil {
		return err
	}
	if w.wakes {
		a.wake(generation)
	}
	if len(w.leaves) == 0 {
		return nil
	}
	// From here on it has happened: a caller who goes away changes nothing.
	return a.outbox.flush(context.WithoutCancel(ctx), w.leaves[len(w.leaves)-1].sequence)
}

// transact runs fn in a transaction and queues its events. generation is that of the changed state.
func (a *Authority) transact(ctx context.Context, fn func(w *work) error) (w *work, generation int64, err error) {
	select {
	case a.committing <- struct{}{}:
		defer func() { <-a.committing }()
	case <-ctx.Done():
		return nil, 0, fmt.Errorf("wait for the database: %w", context.Cause(ctx))
	}
	err = a.db.Write(ctx, func(tx database.Tx) error {
		w = &work{tx: tx, a: a, now: a.now()}
		if err := fn(w); err != nil || !w.wakes {
			return err
		}
		return tx.QueryRow("UPDATE changes SET generation = generation + 1 RETURNING generation").Scan(&generation)
	})
	if err == nil {
		a.outbox.put(w.leaves)
	}
	return w, generation, err
}

// record writes the act's event with further details and result ok.
func (w *work) record(details map[string]any) (string, error) {
	event := w.event
	event.Details = details
	return w.recordEvent(event)
}

// done records the act and lets everybody know that state has changed.
func (w *work) done(details map[string]any) error {
	w.wakes = true
	_, err := w.record(details)
	return err
}

// denial is a refusal that ends a transaction before it is recorded.
type denial struct {
	event                 Event
	rule, sentence, cause string
}

func (d *denial) Error() string { return d.rule + ": " + d.sentence }

// deny ends the transaction with a refusal. Whoever asked is told the sentence, the cause is for the log.
func deny(rule, sentence, cause string) error {
	return &denial{rule: rule, sentence: sentence, cause: cause}
}

// now is the time of the injected clock in UTC, in the database's milliseconds.
func (a *Authority) now() time.Time { return a.clock().UTC().Truncate(time.Millisecond) }

// newID returns a ULID with a prefix such as "E-".
func (a *Authority) newID(prefix string, at time.Time) (string, error) {
	a.randomMu.Lock()
	defer a.randomMu.Unlock()
	id, err := ulid.New(ulid.Timestamp(at), a.random)
	if err != nil {
		return "", fmt.Errorf("make an id: %w", err)
	}
	return prefix + id.String(), nil
}

func (a *Authority) randomBytes(n int) ([]byte, error) {
	a.randomMu.Lock()
	defer a.randomMu.Unlock()
	b := make([]byte, n)
	if _, err := io.ReadFull(a.random, b); err != nil {
		return nil, fmt.Errorf("random bytes: %w", err)
	}
	return b, nil
}

// monotonic is the time since the machine's boot, sleep included.
func monotonic() (time.Duration, error) {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); err != nil {
		return 0, fmt.Errorf("monotonic clock: %w", err)
	}
	return time.Duration(t.Nano()), nil
}

// milliseconds is how the database writes a time; 0 is none.
func milliseconds(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

func fromMilliseconds(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms).UTC()
}
