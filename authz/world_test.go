package authz

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pquerna/otp/totp"
	"golang.org/x/crypto/ssh"

	"sallyport/internal/database"
	"sallyport/internal/testkit"
)

// server is the PostgreSQL of these tests, started by the first that needs it: the workers of a
// fuzz run need none.
type server struct {
	once    sync.Once
	started *testkit.Postgres
	err     error
}

func (s *server) get() (*testkit.Postgres, error) {
	s.once.Do(func() { s.started, s.err = testkit.StartPostgres(context.Background()) })
	return s.started, s.err
}

var postgres server

func TestMain(m *testing.M) {
	code := m.Run()
	if postgres.started != nil {
		postgres.started.Stop()
	}
	os.Exit(code)
}

// memoryLedger keeps leaves, and insists on what a Ledger is promised.
type memoryLedger struct {
	mu     sync.Mutex
	leaves [][]byte
	broken error
}

func (l *memoryLedger) Append(_ context.Context, sequence int64, leaf []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.broken != nil {
		return l.broken
	}
	if sequence != int64(len(l.leaves))+1 {
		return fmt.Errorf("sequence %d after %d leaves", sequence, len(l.leaves))
	}
	if len(leaf) > MaxLeaf {
		return fmt.Errorf("a leaf of %d bytes", len(leaf))
	}
	l.leaves = append(l.leaves, bytes.Clone(leaf))
	return nil
}

func (l *memoryLedger) Last() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return int64(len(l.leaves))
}

func (l *memoryLedger) breakNow(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.broken = err
}

func (l *memoryLedger) events(t testing.TB) []Event {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	events := make([]Event, len(l.leaves))
	for i, leaf := range l.leaves {
		var err error
		if events[i], err = parseEvent(leaf); err != nil {
			t.Fatal(err)
		}
	}
	return events
}

// manualClock moves only when a test says so.
type manualClock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *manualClock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *manualClock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// world is a small site: two projects, a person for each job, all enrolled.
type world struct {
	*Authority
	t       testing.TB
	url     string
	db      *database.DB
	ledger  *memoryLedger
	clock   *manualClock
	options Options
	secrets map[string]string
	codes   map[string][]string // recovery codes
	member  map[string]Membership
}

var (
	bootstrap = Actor{Via: "init", RemoteAddr: "local"}
	start     = time.Date(2026, 11, 21, 9, 0, 0, 0, time.UTC)
	someCA    = keyLine("server authority")
)

const (
	goodReason = "analysis of cohort 7"
	recipient  = "age1qqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqq"
	strictOne  = "age1pppppppppppppppppppppppppppppppppppppppppppppppppppppppppp"
)

// recipientOf has the form of an age recipient of its own for each name, of letters and digits.
func recipientOf(name string) string { return "age1" + name + strings.Repeat("x", 40) }

// keyLine is a public key that depends only on its name.
func keyLine(name string) string {
	seed := sha256.Sum256([]byte(name))
	key, err := ssh.NewPublicKey(ed25519.NewKeyFromSeed(seed[:]).Public())
	if err != nil {
		panic(err)
	}
	return testkit.AuthorizedLine(key)
}

func keyOf(name string) Key {
	key, err := CheckKey(keyLine(name))
	if err != nil {
		panic(err)
	}
	return key
}

// onBoth runs a test in a fresh world on each engine.
func onBoth(t *testing.T, test func(t *testing.T, w *world)) {
	t.Run("sqlite", func(t *testing.T) {
		test(t, newWorld(t, filepath.Join(t.TempDir(), "state.db")))
	})
	t.Run("postgres", func(t *testing.T) {
		server, err := postgres.get()
		if err != nil {
			t.Fatal(err)
		}
		url, err := server.Database(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		test(t, newWorld(t, url))
	})
}

func openDatabase(t testing.TB, url string) *database.DB {
	t.Helper()
	db, err := database.Open(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

func emptyWorld(t testing.TB, url string) *world {
	t.Helper()
	w := &world{t: t, url: url, ledger: &memoryLedger{}, clock: &manualClock{now: start}, secrets: map[string]string{},
		codes: map[string][]string{}, member: map[string]Membership{}, db: openDatabase(t, url)}
	w.options = Options{Node: "node-one", Clock: w.clock.Now, MasterKey: [32]byte{1, 2, 3}, Ledger: w.ledger, Issuer: "Test"}
	var err error
	if w.Authority, err = Open(t.Context(), w.db, w.options); err != nil {
		t.Fatal(err)
	}
	return w
}

func newWorld(t testing.TB, url string) *world {
	t.Helper()
	w := emptyWorld(t, url)
	ctx := t.Context()
	for name, role := range map[string]SiteRole{"adam": SiteAdmin, "sara": SiteSecurity, "odin": SiteAuditor,
		"mia": "", "alice": "", "ivan": "", "erin": "", "olga": "", "paula": "", "bob": ""} {
		w.ok(w.AddUser(ctx, bootstrap, User{Name: name, Display: name, SiteRole: role}))
		w.enrol(name)
	}
	for _, project := range []string{"genomics", "imaging"} {
		w.ok(w.AddProject(ctx, w.as("adam"), Project{Name: project, Title: "Project " + project}))
		w.ok(w.AddServer(ctx, w.as("adam"), Server{Project: project, Name: "db1", Address: "db1." + project + ".test:22", HostCA: someCA}))
		ordinary, strict := recipient, strictOne
		if project != "genomics" {
			ordinary, strict = recipientOf(project), recipientOf(project+"strict")
		}
		w.ok(w.AddEpoch(ctx, w.as("odin"), Epoch{ID: project + "/2026Q4", Project: project, Recipient: ordinary,
			Strict: strict, ExpiresAt: start.AddDate(1, 0, 0)}))
	}
	w.add("adam", "mia", RoleManager)
	for name, role := range map[string]Role{"alice": RoleResearcher, "ivan": RoleImporter, "erin": RoleExporter,
		"olga": RoleOperator, "paula": RoleProjectAuditor} {
		w.add("mia", name, role)
	}
	return w
}

func (w *world) ok(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// refused checks that an error is a refusal by that rule whose reference leads to an event.
func (w *world) refused(err error, rule string) {
	w.t.Helper()
	var r *Refusal
	if !errors.As(err, &r) {
		w.t.Fatalf("got %v, want a refusal by %s", err, rule)
	}
	if r.Rule != rule {
		w.t.Fatalf("refused by %s (%s), want %s", r.Rule, r.Sentence, rule)
	}
	w.recorded(r)
}

// recorded checks that a refusal's reference leads to an event with its rule.
func (w *world) recorded(r *Refusal) {
	w.t.Helper()
	for _, e := range w.ledger.events(w.t) {
		if e.ID == r.Reference && e.Result == ResultRefused && e.Details["rule"] == r.Rule {
			return
		}
	}
	w.t.Fatalf("the refusal %+v has no event", r)
}

func (w *world) as(user string) Actor {
	return Actor{User: user, RemoteAddr: "192.0.2.7", Connection: "C-" + user, Via: "ssh"}
}

// voting is the actor on a connection that carries only the vote.
func (w *world) voting(user string) Actor {
	by := w.as(user)
	by.VerbOnly = true
	return by
}

func (w *world) add(by, user string, role Role) Membership {
	w.t.Helper()
	m, err := w.AddMember(w.t.Context(), w.as(by), Membership{User: user, Project: "genomics", Role: role,
		Reason: goodReason, ExpiresAt: w.clock.Now().AddDate(0, 6, 0)})
	w.ok(err)
	if by == "adam" && role == RoleManager {
		w.ok(w.ApproveMember(w.t.Context(), w.as("sara"), m.ID))
	}
	w.member[user] = m
	return m
}

func (w *world) enrol(user string) {
	w.t.Helper()
	token, _, err := w.CreateInvite(w.t.Context(), bootstrap, user, 0)
	w.ok(err)
	secret, _, err := w.NewTOTPSecret(user)
	w.ok(err)
	w.secrets[user] = secret
	w.codes[user], err = w.Enrol(w.t.Context(), Enrolment{Token: token, Key: keyOf(user), Secret: secret,
		Code: w.codeAt(user, -30*time.Second), RemoteAddr: "192.0.2.7", Connection: "C-enrol"})
	w.ok(err)
}

// codeAt is the person's code at a time relative to now.
func (w *world) codeAt(user string, offset time.Duration) string {
	w.t.Helper()
	code, err := totp.GenerateCode(w.secrets[user], w.clock.Now().Add(offset))
	w.ok(err)
	return code
}

// identity is the person after a full login.
func (w *world) identity(user string) Identity {
	now := w.clock.Now()
	return Identity{User: user, Connection: "C-" + user, Fingerprint: keyOf(user).Fingerprint, KeyType: "ssh-ed25519", Via: "ssh",
		RemoteAddr: netip.MustParseAddrPort("192.0.2.7:40000"), Client: "SSH-2.0-test",
		Factors: []Factor{{Kind: FactorKey, Assurance: AssuranceKnown, At: now}, {Kind: FactorTOTP, Assurance: AssuranceOTP, At: now}}}
}

// keyOnly is the person before the second factor.
func (w *world) keyOnly(user string) Identity {
	id := w.identity(user)
	id.Factors = id.Factors[:1]
	return id
}

func (w *world) ask(user string, action Action) Ask {
	return Ask{Identity: w.identity(user), Project: "genomics", Server: "db1", Action: action, PTY: action == ActionShell}
}

func (w *world) decide(ask Ask) Decision {
	w.t.Helper()
	d, err := w.Decide(w.t.Context(), ask)
	w.ok(err)
	return d
}

// open opens a session for what a decision allowed.
func (w *world) open(ask Ask) Session {
	w.t.Helper()
	d := w.decide(ask)
	if d.Outcome != Allow {
		w.t.Fatalf("%s is not allowed: %+v", ask.Identity.User, d)
	}
	s, err := w.OpenSession(w.t.Context(), w.session(ask, d))
	w.ok(err)
	return s
}

func (w *world) session(ask Ask, d Decision) Session {
	return Session{Connection: ask.Identity.Connection, User: ask.Identity.User, Project: d.Route.Project, Server: d.Route.Server,
		Account: d.Route.Account, Role: d.Route.Role, Action: ask.Action, Command: ask.Command, Request: d.Obligations.Grant,
		RemoteAddr: "192.0.2.7", Epoch: "genomics/2026Q4"}
}

// last is the newest event of a type.
func (w *world) last(opType string) Event {
	w.t.Helper()
	events := w.ledger.events(w.t)
	for _, e := range slices.Backward(events) {
		if e.OpType == opType {
			return e
		}
	}
	w.t.Fatalf("there is no event %s", opType)
	return Event{}
}
