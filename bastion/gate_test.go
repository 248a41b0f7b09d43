package bastion_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"sallyport/authz"
	"sallyport/bastion"
	"sallyport/internal/database"
	"sallyport/internal/testkit"
	"sallyport/recorder"
	"sallyport/recorder/ledger"
	"sallyport/replay"
)

// clock is a time that moves only when a test says so; every login moves it
// one TOTP step, because each step counts once.
type clock struct {
	mu  sync.Mutex // guards now
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) Advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// person is an enrolled person of the test gate.
type person struct {
	name     string
	signer   ssh.Signer
	secret   string
	recovery []string
}

// gate is a whole node in the test's process: database, ledger, recorder, server.
type gate struct {
	t         testing.TB
	clock     *clock
	authority *authz.Authority
	recorder  *recorder.Recorder
	server    *bastion.Server
	address   string
	hostKey   ssh.PublicKey
	userCA    ssh.Signer
	epochs    map[string]recorder.EpochKeys
	dir       string
	node      ed25519.PrivateKey
	log       *lockedBuffer
	ledger    *testLedger
	people    map[string]*person
	stop      func()
}

type lockedBuffer struct {
	mu sync.Mutex // guards b
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// verbs is a command tree of the test's own: it says who called with what.
type verbs struct{}

func (verbs) Run(_ context.Context, v bastion.Verb) int {
	fmt.Fprintf(v.Stdout, "%s %q verb-only=%v\n", v.Actor.User, v.Args, v.Actor.VerbOnly)
	if len(v.Args) > 0 && v.Args[0] == "fail" {
		return 4
	}
	return 0
}

// testLedger is the real ledger with a disk that a test can make slow or take away.
type testLedger struct {
	*ledger.Ledger

	mu     sync.Mutex    // guards the rest
	held   chan struct{} // appends wait until it is closed
	failAt string        // appends fail once an event of this kind has been appended
	failed bool
}

// hold makes appends wait until the returned function is called.
func (l *testLedger) hold() (release func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	held := make(chan struct{})
	l.held = held
	return sync.OnceFunc(func() { close(held) })
}

func (l *testLedger) AppendAll(ctx context.Context, first int64, leaves [][]byte) error {
	l.mu.Lock()
	held, failed := l.held, l.failed
	for _, leaf := range leaves {
		l.failed = l.failed || l.failAt != "" && bytes.Contains(leaf, []byte(strconv.Quote(l.failAt)))
	}
	l.mu.Unlock()
	if held != nil {
		<-held
	}
	if failed {
		return fmt.Errorf("%w: the disk is gone", recorder.ErrFailed)
	}
	return l.Ledger.AppendAll(ctx, first, leaves)
}

type gateOption func(*bastion.Config)

func newGate(t testing.TB, options ...gateOption) *gate {
	t.Helper()
	ctx := context.Background()
	g := &gate{t: t, dir: t.TempDir(), clock: &clock{now: time.Now().UTC()}, log: &lockedBuffer{},
		people: map[string]*person{}, epochs: map[string]recorder.EpochKeys{}}
	_, g.node = must2(ed25519.GenerateKey(rand.Reader))
	db := must(database.Open(ctx, filepath.Join(g.dir, "sallyport.db")))
	g.recorder = must(recorder.Open(recorder.Options{Dir: filepath.Join(g.dir, "recordings"), Node: "N-test", Signer: g.node,
		Secret: make([]byte, ledger.SecretSize), JournalSize: 8 << 20, JournalFiles: 8}))
	g.ledger = &testLedger{Ledger: g.recorder.Ledger()}
	g.authority = must(authz.Open(ctx, db, authz.Options{Node: "N-test", Clock: g.clock.Now, Ledger: g.ledger, Issuer: "Sallyport test", MasterKey: [32]byte{1}}))
	_, host := must2(ed25519.GenerateKey(rand.Reader))
	hostSigner := must(ssh.NewSignerFromKey(host))
	g.hostKey = hostSigner.PublicKey()
	_, ca := must2(ed25519.GenerateKey(rand.Reader))
	g.userCA = must(ssh.NewSignerFromKey(ca))
	config := bastion.Config{Name: "gate.test", Authority: g.authority, Recorder: g.recorder, Verbs: verbs{},
		HostKeys: []ssh.Signer{hostSigner}, UserCA: g.userCA, Clock: g.clock.Now,
		Log:    slog.New(slog.NewTextHandler(g.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		Limits: bastion.Limits{Drain: 2 * time.Second}}
	for _, o := range options {
		o(&config)
	}
	g.server = must(bastion.New(config))
	l := must(net.Listen("tcp", "127.0.0.1:0"))
	g.address = l.Addr().String()
	serving, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := g.server.Serve(serving, l); err != nil {
			t.Error(err)
		}
	})
	wg.Go(func() { g.server.Watch(serving) })
	var once sync.Once
	g.stop = func() {
		once.Do(func() {
			stop()
			wg.Wait()
			closing, cancel := context.WithTimeout(ctx, 5*time.Second)
			defer cancel()
			if err := g.recorder.Close(closing); err != nil {
				t.Log(err)
			}
			db.Close()
		})
	}
	t.Cleanup(func() {
		g.stop()
		if t.Failed() {
			t.Logf("log of the gate:\n%s", g.log)
		}
	})
	return g
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func must2[A, B any](a A, b B, err error) (A, B) {
	if err != nil {
		panic(err)
	}
	return a, b
}

var initActor = authz.Actor{User: "system", RemoteAddr: "local", Via: "init"}

// enrol makes a person with key and second factor.
func (g *gate) enrol(name string, role authz.SiteRole) *person {
	g.t.Helper()
	ctx := context.Background()
	check(g.t, g.authority.AddUser(ctx, initActor, authz.User{Name: name, Display: name, SiteRole: role}))
	token, _ := func() (string, time.Time) {
		token, until, err := g.authority.CreateInvite(ctx, initActor, name, time.Hour)
		check(g.t, err)
		return token, until
	}()
	_, private := must2(ed25519.GenerateKey(rand.Reader))
	p := &person{name: name, signer: must(ssh.NewSignerFromKey(private))}
	secret, _, err := g.authority.NewTOTPSecret(name)
	check(g.t, err)
	p.secret = secret
	key := must(authz.CheckKey(strings.TrimSpace(string(ssh.MarshalAuthorizedKey(p.signer.PublicKey())))))
	p.recovery, err = g.authority.Enrol(ctx, authz.Enrolment{Token: token, Key: key, Secret: secret, Code: g.code(p), RemoteAddr: "local"})
	check(g.t, err)
	g.people[name] = p
	return p
}

// code is the person's next unused code.
func (g *gate) code(p *person) string {
	g.clock.Advance(30 * time.Second)
	return must(testkit.CodeAt(p.secret, g.clock.Now()))
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// project makes a project with a manager, an epoch key and one server.
func (g *gate) project(name, address string, hostKey ssh.PublicKey) {
	g.t.Helper()
	ctx := context.Background()
	check(g.t, g.authority.AddProject(ctx, initActor, authz.Project{Name: name, Title: "Project " + name, Level: "type1"}))
	keys := must(recorder.NewEpochKeys())
	g.epochs[name] = keys
	check(g.t, g.authority.AddEpoch(ctx, initActor, authz.Epoch{ID: name + "/2026Q4", Project: name, Recipient: keys.Recipient,
		Strict: keys.Strict, ExpiresAt: g.clock.Now().Add(90 * 24 * time.Hour)}))
	check(g.t, g.authority.AddServer(ctx, initActor, authz.Server{Project: name, Name: "db1", Address: address,
		HostKey: strings.TrimSpace(string(ssh.MarshalAuthorizedKey(hostKey)))}))
	if g.people["mei-"+name] == nil {
		g.enrol("mei-"+name, "")
	}
	_, err := g.authority.AddMember(ctx, initActor, authz.Membership{User: "mei-" + name, Project: name, Role: authz.RoleManager,
		Reason: "leads the project in the test", ExpiresAt: g.clock.Now().Add(1000 * time.Hour)})
	check(g.t, err)
}

// member makes a person a member, by the project's manager.
func (g *gate) member(user, project string, role authz.Role, account string) authz.Membership {
	g.t.Helper()
	m, err := g.authority.AddMember(context.Background(), authz.Actor{User: "mei-" + project, RemoteAddr: "127.0.0.1", Via: "ssh"},
		authz.Membership{User: user, Project: project, Role: role, Account: account, Reason: "works on the data in the test",
			ExpiresAt: g.clock.Now().Add(1000 * time.Hour)})
	check(g.t, err)
	return m
}

// config is a client's side of a login with the right key and code.
func (g *gate) config(p *person, user string) *ssh.ClientConfig {
	return &ssh.ClientConfig{User: user, HostKeyCallback: ssh.FixedHostKey(g.hostKey), Timeout: 10 * time.Second,
		Auth: []ssh.AuthMethod{ssh.PublicKeys(p.signer), ssh.KeyboardInteractive(
			func(_, _ string, questions []string, _ []bool) ([]string, error) {
				answers := make([]string, len(questions))
				for i := range questions {
					answers[i] = g.code(p)
				}
				return answers, nil
			})}}
}

// dial logs in as a person should.
func (g *gate) dial(p *person, user string) *ssh.Client {
	g.t.Helper()
	c, err := ssh.Dial("tcp", g.address, g.config(p, user))
	if err != nil {
		g.t.Fatalf("login as %s: %v", user, err)
	}
	g.t.Cleanup(func() { c.Close() })
	return c
}

// outcome is what a client saw of one command.
type outcome struct {
	stdout, stderr string
	status         int // -1: none came
	signal         string
}

// run executes one command on a fresh channel.
func run(t testing.TB, c *ssh.Client, command string, stdin io.Reader) outcome {
	t.Helper()
	s, err := c.NewSession()
	check(t, err)
	defer s.Close()
	var out, errOut bytes.Buffer
	s.Stdin, s.Stdout, s.Stderr = stdin, &out, &errOut
	if command == "" {
		err = s.Shell()
		if err == nil {
			err = s.Wait()
		}
	} else {
		err = s.Run(command)
	}
	o := outcome{stdout: out.String(), stderr: errOut.String()}
	switch e := err.(type) {
	case nil:
	case *ssh.ExitError:
		o.status, o.signal = e.ExitStatus(), e.Signal()
	default:
		o.status = -1
	}
	return o
}

// events returns the events of one kind as a site auditor sees them.
func (g *gate) events(op string) []authz.Event {
	g.t.Helper()
	if g.people["rosa"] == nil {
		g.enrol("rosa", authz.SiteAuditor)
	}
	events, err := g.authority.Events(context.Background(), authz.Actor{User: "rosa", RemoteAddr: "127.0.0.1", Via: "ssh"}, authz.EventQuery{OpType: op, Limit: 1000})
	check(g.t, err)
	return events
}

// sessions returns all sessions as a site auditor sees them.
func (g *gate) sessions() []authz.Session {
	g.t.Helper()
	if g.people["rosa"] == nil {
		g.enrol("rosa", authz.SiteAuditor)
	}
	s, err := g.authority.Sessions(context.Background(), authz.Actor{User: "rosa", RemoteAddr: "127.0.0.1", Via: "ssh"}, authz.SessionQuery{Limit: 1000})
	check(g.t, err)
	return s
}

// verified checks a session's recording with the public key only.
func (g *gate) verified(s authz.Session) replay.Report {
	g.t.Helper()
	r, err := replay.Verify(g.recorder.Path(s.ID), g.node.Public().(ed25519.PublicKey))
	check(g.t, err)
	return r
}
