package console

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/pquerna/otp/totp"
	"golang.org/x/crypto/ssh"
	"golang.org/x/mod/sumdb/note"

	"sallyport/authz"
	"sallyport/bastion"
	"sallyport/internal/database"
	"sallyport/internal/words"
	"sallyport/recorder"
	"sallyport/recorder/ledger"
	"sallyport/recorder/tlog"
	"sallyport/recorder/witness"
)

// gate is a console over a real Authority, ledger and recorder, with people in it.
type gate struct {
	term      bool // lists go to a terminal that did not say its width
	t         *testing.T
	console   *Console
	authority *authz.Authority
	recorder  *recorder.Recorder
	now       time.Time
	keys      map[string]string // fingerprint by person
}

func newKey(t *testing.T) (ssh.PublicKey, ed25519.PrivateKey) {
	t.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ssh.NewPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	return key, private
}

func newGate(t *testing.T) *gate {
	t.Helper()
	ctx, dir := t.Context(), t.TempDir()
	g := &gate{t: t, term: true, keys: map[string]string{}, now: time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)}
	clock := func() time.Time { return g.now }
	_, signer := newKey(t)
	db, err := database.Open(ctx, filepath.Join(dir, "test.db"))
	if err != nil {
		t.Fatal(err)
	}
	o := recorder.Options{Dir: filepath.Join(dir, "recordings"), Node: "N-test", Signer: signer, Clock: clock,
		Secret: make([]byte, 32), JournalSize: 8 << 20, JournalFiles: 8}
	if g.recorder, err = recorder.Open(o); err != nil {
		t.Fatal(err)
	}
	g.authority, err = authz.Open(ctx, db, authz.Options{Node: "N-test", Clock: clock, Ledger: g.recorder.Ledger(), Issuer: "test"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		for _, err := range []error{g.recorder.Close(ctx), db.Close()} {
			if err != nil {
				t.Error(err)
			}
		}
	})
	userCA, _ := newKey(t)
	hostCA, _ := newKey(t)
	g.console = New(Options{
		Authority: g.authority, Recorder: g.recorder, Ledger: g.recorder.Ledger(), Node: "N-test", Name: "gate.test", Port: 2222, Version: "test",
		UserCA: userCA, HostCA: hostCA, NodeKey: signer.Public().(ed25519.PublicKey), Clock: clock,
	})
	for name, role := range map[string]authz.SiteRole{"admin": authz.SiteAdmin, "sec": authz.SiteSecurity, "audrey": authz.SiteAuditor,
		"mei": "", "alice": "", "olaf": ""} {
		if err := g.authority.AddUser(ctx, authz.Actor{Via: "init", RemoteAddr: "local"}, authz.User{Name: name, SiteRole: role}); err != nil {
			t.Fatal(err)
		}
		g.enrol(name)
	}
	return g
}

// enrol binds a fresh key and authenticator, as a person does with an invite.
func (g *gate) enrol(name string) {
	g.t.Helper()
	ctx := g.t.Context()
	token, _, err := g.authority.CreateInvite(ctx, authz.Actor{Via: "init", RemoteAddr: "local"}, name, time.Hour)
	if err != nil {
		g.t.Fatal(err)
	}
	public, _ := newKey(g.t)
	key, err := authz.CheckKey(PublicLine(public))
	if err != nil {
		g.t.Fatal(err)
	}
	g.keys[name] = key.Fingerprint
	secret, _, err := g.authority.NewTOTPSecret(name)
	if err != nil {
		g.t.Fatal(err)
	}
	code, err := totp.GenerateCode(secret, g.now)
	if err != nil {
		g.t.Fatal(err)
	}
	_, err = g.authority.Enrol(ctx, authz.Enrolment{Token: token, Key: key, Secret: secret, Code: code, RemoteAddr: "192.0.2.1", Connection: "C-test"})
	if err != nil {
		g.t.Fatal(err)
	}
}

// tabular are the verbs that print tables or facts, which fit 80 columns.
var tabular = regexp.MustCompile(`^(\w+ (ls|commands)|(user|project|request|session|event) show|access|whoami|status|request (create|approve))\b`)

// answer is what one call gave.
type answer struct {
	code        int
	out, errOut string
}

func (g *gate) identity(user string) authz.Identity {
	return authz.Identity{User: user, Connection: "C-" + user, Via: "ssh", RemoteAddr: netip.MustParseAddrPort("192.0.2.7:4022"), Fingerprint: g.keys[user],
		Factors: []authz.Factor{{Kind: authz.FactorKey, Assurance: authz.AssuranceKnown, At: g.now}, {Kind: authz.FactorTOTP, Assurance: authz.AssuranceOTP, At: g.now}}}
}

// call runs one line of words as a person, on a connection of its own.
func (g *gate) call(user, line, stdin string) answer {
	g.t.Helper()
	args, err := words.SplitWords(line)
	if err != nil {
		g.t.Fatal(err)
	}
	id := g.identity(user)
	by := id.Actor()
	by.VerbOnly = true
	var out, errOut bytes.Buffer
	term := g.term && tabular.MatchString(line) && !strings.Contains(line, "--json")
	code := g.console.Run(g.t.Context(), bastion.Verb{Identity: id, Actor: by, Args: args, Stdin: strings.NewReader(stdin), Stdout: &out, Stderr: &errOut, Term: term})
	g.now = g.now.Add(time.Second)
	if term {
		for l := range strings.Lines(out.String()) {
			if columnsOf(strings.TrimSuffix(l, "\n")) > 80 {
				g.t.Errorf("%s: more than 80 columns: %q", line, l)
			}
		}
	}
	return answer{code, out.String(), errOut.String()}
}

// must runs a line that has to end with a code, and returns its output.
func (g *gate) must(code int, user, line string, stdin ...string) string {
	g.t.Helper()
	a := g.call(user, line, strings.Join(stdin, ""))
	if a.code != code {
		g.t.Fatalf("%s: %s: exit code %d, want %d\n%s%s", user, line, a.code, code, a.out, a.errOut)
	}
	if code == ExitFailed || code == ExitDenied || code == ExitNotFound {
		if !strings.HasPrefix(a.errOut, "sallyport: ") || strings.Count(a.errOut, "\n") != 1 {
			g.t.Errorf("%s: not one sentence: %q", line, a.errOut)
		}
	}
	return a.out
}

// json runs a line with --json and decodes what it prints.
func (g *gate) json(code int, user, line string, into any, stdin ...string) {
	g.t.Helper()
	out := g.must(code, user, line+" --json", stdin...)
	if err := json.Unmarshal([]byte(out), into); err != nil {
		g.t.Fatalf("%s: %v in\n%s", line, err, out)
	}
}

// project makes project genomics with manager mei, researcher alice, operator olaf, a server and an epoch.
func (g *gate) project() {
	g.t.Helper()
	host, _ := newKey(g.t)
	g.must(ExitOK, "admin", "project add genomics --title 'Genome study' --until 2027-11-01 --approve manager --approve second=security-admin")
	g.must(ExitOK, "admin", "server add genomics/db1 10.0.0.5 --host-key '"+PublicLine(host)+"'")
	var proposed authz.Membership
	g.json(ExitWaiting, "admin", "member add genomics mei --role manager --until 365d --reason 'leads the project'", &proposed)
	g.must(ExitOK, "sec", "member approve "+proposed.ID)
	g.must(ExitOK, "mei", "member add genomics alice --role researcher --until 90d --reason 'new student'")
	g.must(ExitOK, "mei", "member add genomics olaf --role operator --account olaf-ops --until 90d --reason 'runs the server'")
	keys, err := recorder.NewEpochKeys()
	if err != nil {
		g.t.Fatal(err)
	}
	a := g.call("audrey", "epoch add genomics", string(keys.MarshalPublic("genomics/2026Q4")))
	if a.code != ExitOK {
		g.t.Fatalf("epoch add: %d %s", a.code, a.errOut)
	}
}

func TestPeople(t *testing.T) {
	g := newGate(t)
	g.must(ExitDenied, "admin", "user add bob --display 'Bob \u202eevil\x1b[2J'")
	g.must(ExitOK, "admin", "user add bob --display '鮑伯 "+strings.Repeat("long ", 15)+"name'")
	out := g.must(ExitOK, "admin", "user ls")
	if strings.ContainsAny(out, "\u202e\x1b") || !strings.Contains(out, "bob") {
		t.Errorf("user ls:\n%s", out)
	}
	var users []authz.User
	g.json(ExitOK, "admin", "user ls", &users)
	if len(users) != 7 {
		t.Errorf("%d people", len(users))
	}
	g.must(ExitDenied, "alice", "user add eve")
	g.must(ExitDenied, "alice", "user freeze bob --reason spite")
	g.must(ExitNotFound, "admin", "user show nobody")
	g.must(ExitOK, "alice", "user show alice")
	g.must(ExitNotFound, "alice", "user show bob")

	var invite Invite
	g.json(ExitOK, "admin", "user invite bob", &invite)
	if invite.Command != "ssh -p 2222 invite+"+invite.Token+"@gate.test" || !strings.HasPrefix(invite.KnownHost, "@cert-authority [gate.test]:2222 ssh-ed25519 ") {
		t.Errorf("invite %+v", invite)
	}
	g.must(ExitOK, "admin", "user freeze alice --reason 'laptop lost'")
	var user authz.User
	g.json(ExitOK, "admin", "user show alice", &user)
	if user.State != "frozen" || user.FrozenReason != "laptop lost" {
		t.Errorf("alice is %+v", user)
	}
	g.must(ExitDenied, "alice", "key ls")
	g.must(ExitDenied, "admin", "user unfreeze alice --reason 'laptop found'")
	g.must(ExitOK, "sec", "user unfreeze alice --reason 'laptop found'")
	g.must(ExitOK, "alice", "whoami")
	var self Self
	g.json(ExitOK, "alice", "whoami", &self)
	if self.User.Name != "alice" || self.Terms != "none" || len(self.Factors) != 2 {
		t.Errorf("whoami %+v", self)
	}
}

func TestKeysTermsTraining(t *testing.T) {
	g := newGate(t)
	second, _ := newKey(t)
	g.must(ExitDenied, "alice", "key add", PublicLine(second))
	g.must(ExitOK, "sec", "key add alice", PublicLine(second)+" alice@laptop\n")
	g.must(ExitOK, "alice", "key ls")
	var keys []authz.Key
	g.json(ExitOK, "alice", "key ls", &keys)
	if len(keys) != 2 {
		t.Fatalf("keys %+v", keys)
	}
	g.must(ExitOK, "sec", "key rm "+ssh.FingerprintSHA256(second)+" --reason 'old laptop'")
	if a := g.call("sec", "key add alice", "no key"); a.code == ExitOK {
		t.Error("rubbish was taken for a key")
	}
	if a := g.call("sec", "key add alice", strings.Repeat("x", maxStdin+1)); a.code != ExitFailed || !strings.Contains(a.errOut, "64 KiB") {
		t.Errorf("endless input: %+v", a)
	}

	g.must(ExitOK, "sec", "terms set", "Be good.\n\x1b[2JDo no harm.\n")
	out := g.must(ExitOK, "alice", "terms show")
	if !strings.Contains(out, "Be good.\n") || strings.Contains(out, "\x1b") {
		t.Errorf("terms:\n%s", out)
	}
	version := regexp.MustCompile(`terms accept (\w+)`).FindStringSubmatch(out)
	if version == nil {
		t.Fatalf("no version in\n%s", out)
	}
	g.must(ExitNotFound, "alice", "terms accept "+version[1][:4])
	g.must(ExitNotFound, "alice", "terms accept ffffffffffff")
	g.must(ExitOK, "alice", "terms accept "+version[1])
	g.must(ExitOK, "admin", "training set alice --course gdpr --until 2027-06-30")
	g.must(ExitDenied, "alice", "training set alice --course gdpr --until 2027-06-30")
}

func TestProjectsServersMembers(t *testing.T) {
	g := newGate(t)
	g.project()
	for _, line := range []string{"project ls", "project show genomics", "server ls genomics", "member ls genomics", "epoch ls genomics"} {
		out := g.must(ExitOK, "mei", line)
		if !strings.Contains(out, "genomics") && !strings.Contains(out, "alice") {
			t.Errorf("%s:\n%s", line, out)
		}
	}
	g.must(ExitNotFound, "admin", "project show nothing")
	g.must(ExitNotFound, "admin", "server script genomics/nothing")
	g.must(ExitOK, "admin", "project set genomics --title 'Other title' --network 192.0.2.0/24 --reason 'renamed'")
	var p authz.Project
	g.json(ExitOK, "admin", "project show genomics", &p)
	if p.Title != "Other title" || len(p.Networks) != 1 || len(p.Levels) != 2 || p.Levels[1].Site != authz.SiteSecurity || day(p.Until) != "2027-11-01" {
		t.Errorf("project %+v", p)
	}

	// An administrator proposes; it waits for the manager.
	out := g.must(ExitWaiting, "admin", "member add genomics audrey --role project-auditor --until 30d --reason 'yearly audit'")
	id := regexp.MustCompile(`member approve (\S+)`).FindStringSubmatch(out)
	if id == nil {
		t.Fatalf("no id in %q", out)
	}
	if out := g.must(ExitOK, "mei", "request ls"); !strings.Contains(out, "member approve "+id[1]) {
		t.Errorf("the manager is not told of a proposal:\n%s", out)
	}
	for _, who := range []string{"admin", "alice", "audrey", "sec"} { // who made it, who may not, whom it is for, and who need not
		if out := g.must(ExitOK, who, "request ls"); strings.Contains(out, id[1]) {
			t.Errorf("%s is told of a proposal:\n%s", who, out)
		}
	}
	if out := g.must(ExitOK, "mei", "member ls"); !strings.Contains(out, id[1]) || !strings.Contains(out, "proposed") || !strings.Contains(out, "genomics") {
		t.Errorf("member ls:\n%s", out)
	}
	if out := g.must(ExitOK, "alice", "member ls"); strings.Count(out, "\n") != 2 {
		t.Errorf("alice sees more than herself:\n%s", out)
	}
	g.must(ExitDenied, "alice", "member approve "+id[1])
	g.must(ExitOK, "mei", "member approve "+id[1])
	g.must(ExitOK, "mei", "member end "+id[1]+" --reason 'audit is over'")
	for _, line := range []string{"member end alice --reason 'left the site'", "member approve alice"} {
		if a := g.call("mei", line, ""); a.code != ExitNotFound || !strings.Contains(a.errOut, `no membership "alice"`) || !strings.Contains(a.errOut, "member ls") {
			t.Errorf("%s: %+v", line, a)
		}
	}

	out = g.must(ExitOK, "mei", "server script genomics/db1")
	for _, want := range []string{"account alice genomics/alice\n", "account olaf-ops genomics/olaf-ops\n", "TrustedUserCAKeys", "set-host-key genomics/db1"} {
		if !strings.Contains(out, want) {
			t.Errorf("the script lacks %q", want)
		}
	}
	check := exec.CommandContext(t.Context(), "sh", "-n")
	check.Stdin = strings.NewReader(out)
	if told, err := check.CombinedOutput(); err != nil {
		t.Errorf("the script is no shell script: %v %s", err, told)
	}
	if strings.Contains(out, "account mei") {
		t.Error("a manager gets an account on the data server")
	}
	host, _ := newKey(t)
	g.must(ExitOK, "admin", "server set-host-key genomics/db1 --host-ca '"+PublicLine(host)+"' --reason 'new authority'")
	g.must(ExitOK, "admin", "server rm genomics/db1 --reason 'gone'")
}

func TestAccessSaysWhyNot(t *testing.T) {
	g := newGate(t)
	g.project()
	if out := g.must(ExitOK, "alice", "access"); !strings.Contains(out, "genomics/db1") || !strings.Contains(out, "shell") {
		t.Errorf("access:\n%s", out)
	}
	if out := g.must(ExitOK, "olaf", "access"); !strings.Contains(out, "after approval") {
		t.Errorf("access of an operator:\n%s", out)
	}
	g.must(ExitOK, "admin", "user freeze alice --reason 'laptop lost'")
	if out := g.must(ExitOK, "admin", "access explain alice genomics/db1"); !strings.Contains(out, "why not") || !strings.Contains(out, "frozen") {
		t.Errorf("explain:\n%s", out)
	}
	g.must(ExitDenied, "olaf", "access explain mei")
	for _, line := range []string{"access explain", "access explain genomics", "access explain genomics/db1", "access genomics", "access genomics/db1", "access explain olaf genomics/db1"} {
		if out := g.must(ExitOK, "olaf", line); !strings.Contains(out, "genomics/db1") || !strings.Contains(out, "after approval") {
			t.Errorf("%s:\n%s", line, out)
		}
	}
	if a := g.call("olaf", "access imaging", ""); a.code != ExitUsage || !strings.Contains(a.errOut, `no verb "imaging"`) {
		t.Errorf("access to a word that is nothing here: %+v", a)
	}
	if out := g.must(ExitOK, "olaf", "access imaging/db1"); !strings.Contains(out, "why not") {
		t.Errorf("access elsewhere:\n%s", out)
	}
	var routes []authz.RouteChoice
	g.json(ExitOK, "sec", "access", &routes)
	if len(routes) != 0 {
		t.Errorf("routes %+v", routes)
	}
}

func TestPromise7_VotesShowExactlyWhatTheyAreFor(t *testing.T) {
	g := newGate(t)
	g.project()
	var r authz.Request
	g.must(ExitDenied, "olaf", "request create genomics/db1 --reason 'disk full\napproved by mei'")
	g.json(ExitWaiting, "olaf", `request create genomics/db1 --reason 'disk full" approved by "mei '`, &r)
	out := g.must(ExitOK, "mei", "request ls")
	if !strings.Contains(out, "olaf") {
		t.Errorf("request ls:\n%s", out)
	}
	g.must(ExitOK, "mei", "request show "+fmt.Sprint(r.Number))
	if a := g.call("olaf", "request approve "+fmt.Sprint(r.Number), ""); a.code != ExitDenied || a.out != "" {
		t.Errorf("a vote that does not count shows what it would be for: %+v", a)
	}
	if a := g.call("olaf", "request create genomics/db1 --reason short", ""); a.code != ExitDenied || !strings.Contains(a.errOut, "at least 10 characters") {
		t.Errorf("a short reason: %+v", a)
	}
	if a := g.call("mei", "request approve "+fmt.Sprint(r.Number)+" --digest 0000", ""); a.code == ExitOK {
		t.Error("a vote for another digest counted")
	}
	out = g.must(ExitOK, "mei", "request approve "+fmt.Sprint(r.Number)+" --comment 'as agreed'")
	for _, want := range []string{"You approve exactly this:", `"disk full\" approved by \"mei`, "olaf", "genomics", "db1", "level 2 of 2"} {
		if !strings.Contains(out, want) {
			t.Errorf("approve lacks %q:\n%s", want, out)
		}
	}
	if joined := strings.Join(strings.Fields(out), ""); !strings.Contains(joined, r.Digest) {
		t.Errorf("the digest %s is not shown in\n%s", r.Digest, out)
	}
	g.must(ExitDenied, "mei", "request approve "+fmt.Sprint(r.Number))
	out = g.must(ExitOK, "sec", "request approve "+fmt.Sprint(r.Number))
	if !strings.Contains(out, "now approved") {
		t.Errorf("the last vote:\n%s", out)
	}

	g.json(ExitWaiting, "olaf", "request create genomics/db1 --reason 'and once more'", &r)
	g.must(ExitUsage, "mei", "request deny "+fmt.Sprint(r.Number))
	g.must(ExitOK, "mei", "request deny "+fmt.Sprint(r.Number)+" --reason 'not now'")
	g.json(ExitWaiting, "olaf", "request create genomics/db1 --reason 'a third time'", &r)
	g.must(ExitOK, "olaf", "request cancel "+fmt.Sprint(r.Number))
	g.must(ExitNotFound, "olaf", "request show 999")
}

// session records one exec session as the front door does.
func (g *gate) session(user, command string) authz.Session {
	g.t.Helper()
	ctx := g.t.Context()
	epoch, err := g.authority.CurrentEpoch(ctx, "genomics")
	if err != nil {
		g.t.Fatal(err)
	}
	s, err := g.authority.OpenSession(ctx, authz.Session{Connection: "C-" + user, User: user, Project: "genomics", Server: "db1", Account: user,
		Role: authz.RoleResearcher, Action: authz.ActionExec, Command: command, RemoteAddr: "192.0.2.7", Epoch: epoch.ID})
	if err != nil {
		g.t.Fatal(err)
	}
	rec, err := g.recorder.Start(ctx, recorder.Meta{Session: s.ID, Number: s.Number, Node: "N-test", Connection: s.Connection, Epoch: epoch.ID, Start: g.now,
		User: user, Project: "genomics", Server: "db1", Account: user, Action: "exec"}, recorder.Keys{Recipient: epoch.Recipient, Strict: epoch.Strict})
	if err != nil {
		g.t.Fatal(err)
	}
	if _, err := rec.Append(recorder.Frame{Kind: recorder.KindOutput, Data: []byte("secret output")}); err != nil {
		g.t.Fatal(err)
	}
	result, err := rec.Close(ctx, "exited")
	if err != nil {
		g.t.Fatal(err)
	}
	s.Result, s.EndedAt, s.Head = "exited", g.now, result.Head
	if err := g.authority.CloseSession(ctx, s); err != nil {
		g.t.Fatal(err)
	}
	return s
}

func TestSessions(t *testing.T) {
	g := newGate(t)
	g.project()
	command := "grep 'a b' x\x1b[2J\xff\u202e | " + strings.Repeat("long ", 40)
	s := g.session("alice", command)
	out := g.must(ExitOK, "alice", "session ls")
	if !strings.Contains(out, "genomics/db1") {
		t.Errorf("session ls:\n%s", out)
	}
	g.must(ExitOK, "mei", "session show "+s.ID)
	g.must(ExitOK, "mei", "session show "+fmt.Sprint(s.Number))
	out = g.must(ExitOK, "audrey", "session commands")
	if strings.ContainsAny(out, "\x1b\u202e") || !strings.Contains(out, "grep") {
		t.Errorf("session commands:\n%s", out)
	}
	var commands []commandJSON
	g.json(ExitOK, "audrey", "session commands", &commands)
	if len(commands) != 1 || commands[0].CommandBase64 == "" {
		t.Errorf("commands %+v", commands)
	}
	g.must(ExitNotFound, "olaf", "session show "+s.ID)
	g.must(ExitNotFound, "alice", "session show 77")

	sealed := g.must(ExitOK, "audrey", "session fetch "+s.ID+" --reason 'monthly review'")
	if len(sealed) < 100 || strings.Contains(sealed, "secret output") {
		t.Errorf("fetched %d bytes; they must be the sealed ones", len(sealed))
	}
	g.must(ExitDenied, "alice", "session fetch "+s.ID+" --reason 'curious'")
	var events []authz.Event
	g.json(ExitOK, "audrey", "event ls --session "+s.ID, &events)
	seen := false
	for _, e := range events {
		seen = seen || e.UserID == "audrey" && fmt.Sprint(e.Details["reason"]) == "monthly review"
	}
	if !seen {
		t.Errorf("the fetch is no event among %+v", events)
	}
}

func TestEventsAndTheirExport(t *testing.T) {
	g := newGate(t)
	g.project()
	a := g.call("alice", "user add eve", "")
	reference := regexp.MustCompile(`E-\w+`).FindString(a.errOut)
	if a.code != ExitDenied || reference == "" {
		t.Fatalf("no reference in %q", a.errOut)
	}
	out := g.must(ExitOK, "audrey", "event show "+reference)
	if !strings.Contains(out, "alice") || !strings.Contains(out, "refused") {
		t.Errorf("event show:\n%s", out)
	}
	g.must(ExitNotFound, "audrey", "event show E-nothing")
	var refused authz.Event
	g.json(ExitOK, "audrey", "event show "+reference, &refused)
	number := fmt.Sprint(refused.Sequence)
	if out := g.must(ExitOK, "audrey", "event show "+number); !strings.Contains(out, reference) {
		t.Errorf("event show %s:\n%s", number, out)
	}
	g.must(ExitOK, "admin", "event show "+reference)
	g.must(ExitNotFound, "admin", "event show "+number) // counting up the numbers would be reading the ledger
	g.must(ExitNotFound, "audrey", "event show 0")
	if out := g.must(ExitOK, "audrey", "event ls"); !strings.Contains(out, "refused role.mis") {
		t.Errorf("event ls tells no rule:\n%s", out)
	}
	if out := g.must(ExitOK, "audrey", "event ls --limit 5"); strings.Count(out, "\n") != 6 {
		t.Errorf("event ls:\n%s", out)
	}
	rows, err := csv.NewReader(strings.NewReader(g.must(ExitOK, "audrey", "event export --format csv"))).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(rows[0][:7], ","); got != "user_id,op_type,time,details,resource_id,resource_type,remote_addr" {
		t.Errorf("columns %s", got)
	}
	for _, row := range rows[1:] {
		for i, cell := range row[:7] {
			if cell == "" {
				t.Errorf("the field %s is missing in %q", rows[0][i], row)
			}
		}
	}
	var events []authz.Event
	g.json(ExitOK, "audrey", "event export --format json", &events)
	if len(events) != len(rows) { // all of those, without the heading, and this export itself
		t.Errorf("%d events, %d rows", len(events), len(rows))
	}
	if out := g.must(ExitOK, "audrey", "event export --format json --op no.such"); out != "[]\n" {
		t.Errorf("no events as JSON: %q", out)
	}
	if out := g.must(ExitOK, "audrey", "event export --op no.such"); strings.Count(out, "\n") != 1 {
		t.Errorf("no events as CSV: %q", out)
	}
	// What is streamed has the form of what is printed at once.
	printed := g.must(ExitOK, "audrey", "event ls --json --limit 2")
	if again, err := json.MarshalIndent(json.RawMessage(printed), "", "  "); err != nil || string(again)+"\n" != printed {
		t.Errorf("event ls --json, %v:\n%s", err, printed)
	}
	verifier, err := ledger.VerifierOf("N-test", g.console.o.NodeKey)
	if err != nil {
		t.Fatal(err)
	}
	first := g.must(ExitOK, "audrey", "ledger checkpoint")
	if _, err := note.Open([]byte(first), note.VerifierList(verifier)); err != nil {
		t.Error(err)
	}
	g.must(ExitOK, "audrey", "event export --op no.such") // which is an event too
	before, _, err := tlog.OpenCheckpoint([]byte(first), verifier.Name(), verifier)
	if err != nil {
		t.Fatal(err)
	}
	e, err := witness.ParseExtension([]byte(g.must(ExitOK, "audrey", fmt.Sprintf("ledger checkpoint --since %d", before.Size))))
	if err != nil {
		t.Fatal(err)
	}
	after, _, err := tlog.OpenCheckpoint(e.Checkpoint, verifier.Name(), verifier)
	if err != nil || after.Size <= before.Size || tlog.CheckConsistency(e.Proof, before, after) != nil {
		t.Errorf("%d entries after %d, %v", after.Size, before.Size, err)
	}
	lines := g.must(ExitOK, "audrey", fmt.Sprintf("ledger proof %d %d", before.Size, after.Size))
	if strings.Count(lines, "\n") != len(e.Proof) || !strings.Contains(string(e.Format()), lines) {
		t.Errorf("ledger proof:\n%s", lines)
	}
	g.must(ExitUsage, "audrey", "ledger proof 0 1")
	g.must(ExitUsage, "audrey", "ledger proof 3 2")
	g.must(ExitUsage, "audrey", "ledger checkpoint --since -1")
	if e, err := witness.ParseExtension([]byte(g.must(ExitOK, "audrey", "ledger checkpoint --since 0"))); err != nil || e.Old != 0 || len(e.Proof) != 0 {
		t.Errorf("since nothing: %+v, %v", e, err)
	}
	if e, err := witness.ParseExtension([]byte(g.must(ExitNotFound, "audrey", "ledger checkpoint --since 99999"))); err != nil || e.Old != 99999 {
		t.Errorf("since more than there is: %+v, %v", e, err)
	}
	g.must(ExitNotFound, "audrey", "ledger proof 1 1000000")
	if key, err := note.NewVerifier(strings.TrimSpace(g.must(ExitOK, "audrey", "ledger key"))); err != nil || key.KeyHash() != verifier.KeyHash() {
		t.Errorf("ledger key: %v", err)
	}
}

func TestNode(t *testing.T) {
	g := newGate(t)
	g.must(ExitOK, "alice", "status")
	var s Status
	g.json(ExitOK, "alice", "status", &s)
	if !s.Accepting || s.Node != "N-test" || s.Sequence == 0 {
		t.Errorf("status %+v", s)
	}
	g.console.o.Health = func() error {
		return fmt.Errorf("recording failed: %w", &fs.PathError{Op: "write", Path: "/srv/gate/recordings/S-1.trec", Err: errors.New("no space left on device")})
	}
	for _, who := range []string{"alice", "admin"} {
		out := g.must(ExitOK, who, "status")
		if !strings.Contains(out, "recording failed: no space left on device") || strings.Contains(out, "/srv") {
			t.Errorf("%s is told:\n%s", who, out)
		}
	}
	out := g.must(ExitOK, "alice", "ca show")
	if strings.Count(out, "ssh-ed25519 ") != 3 || !strings.Contains(out, "@cert-authority [gate.test]:2222 ") {
		t.Errorf("ca show:\n%s", out)
	}
	if out := g.must(ExitOK, "alice", "ca show users"); !strings.HasPrefix(out, "ssh-ed25519 ") {
		t.Errorf("ca show users: %s", out)
	}
	g.must(ExitUsage, "alice", "ca show everything")
	g.must(ExitOK, "alice", "version")
}

func TestListsWithoutAProject(t *testing.T) {
	g := newGate(t)
	for verb, empty := range map[string]string{"server ls": "no data servers", "epoch ls": "no epochs"} {
		if out := g.must(ExitOK, "admin", verb); !strings.Contains(out, empty) {
			t.Errorf("%s:\n%s", verb, out)
		}
		if out := g.must(ExitOK, "admin", verb+" --json"); out != "[]\n" {
			t.Errorf("%s --json: %q", verb, out)
		}
	}
	g.project()
	for verb, want := range map[string]string{"server ls": "genomics/db1", "epoch ls": "genomics/2026Q4"} {
		for _, who := range []string{"admin", "audrey", "alice"} {
			if out := g.must(ExitOK, who, verb); !strings.Contains(out, want) {
				t.Errorf("%s as %s:\n%s", verb, who, out)
			}
		}
		if a := g.call("alice", verb+" nowhere", ""); a.code != ExitNotFound || !strings.Contains(a.errOut, "nowhere") {
			t.Errorf("%s nowhere: %+v", verb, a)
		}
	}
}

func TestASiteRoleTakesTwo(t *testing.T) {
	g := newGate(t)
	if out := g.must(ExitWaiting, "admin", "user role alice auditor --reason 'new duty'"); !strings.Contains(out, "user approve-role alice") {
		t.Errorf("user role:\n%s", out)
	}
	if out := g.must(ExitOK, "sec", "user show alice"); !strings.Contains(out, "proposed role") {
		t.Errorf("user show:\n%s", out)
	}
	g.must(ExitDenied, "admin", "user approve-role alice")
	g.must(ExitOK, "sec", "user approve-role alice")
	g.must(ExitDenied, "sec", "user approve-role alice")
	var u authz.User
	g.json(ExitOK, "admin", "user show alice", &u)
	if u.SiteRole != authz.SiteAuditor || u.ProposedRole != "" {
		t.Errorf("alice is %+v", u)
	}
	a := g.call("admin", "user add rosa --site-role auditor --invite", "")
	if a.code != ExitOK || !strings.Contains(a.errOut, "user approve-role rosa") {
		t.Errorf("user add: %+v", a)
	}
	g.must(ExitOK, "admin", "user role rosa none --reason 'not needed'")
}

func TestAMistypedVerbFindsItsNeighbour(t *testing.T) {
	g := newGate(t)
	for call, want := range map[string]string{"user shwo ada": "did you mean show?", "usre ls": "did you mean user?", "usr ls": "did you mean user?", "user show2": "did you mean show?"} {
		if a := g.call("alice", call, ""); a.code != ExitUsage || !strings.Contains(a.errOut, want) {
			t.Errorf("%s: %+v", call, a)
		}
	}
}

func TestAPrivateEpochKeyIsRefused(t *testing.T) {
	g := newGate(t)
	g.must(ExitOK, "admin", "project add genomics")
	keys, err := recorder.NewEpochKeys()
	if err != nil {
		t.Fatal(err)
	}
	a := g.call("audrey", "epoch add genomics", string(keys.MarshalPrivate("genomics")))
	if a.code != ExitUsage || !strings.Contains(a.errOut, "private half") || strings.Contains(a.errOut, "AGE-SECRET") {
		t.Errorf("%+v", a)
	}
}

func TestListsSayThatTheyEnd(t *testing.T) {
	g := newGate(t)
	for range usualLimit {
		if _, err := g.authority.Record(t.Context(), authz.Event{UserID: "alice", OpType: "test.made", ResourceType: "user", ResourceID: "alice", RemoteAddr: "-"}); err != nil {
			t.Fatal(err)
		}
	}
	if a := g.call("audrey", "event ls", ""); !strings.Contains(a.errOut, "the newest 50; --limit 0 gives all") {
		t.Errorf("a list that was cut says %q", a.errOut)
	}
	for _, line := range []string{"event ls --limit 5", "event ls --limit 50", "event ls --limit 0", "event ls --op login.success", "session ls"} {
		if a := g.call("audrey", line, ""); a.code != ExitOK || a.errOut != "" {
			t.Errorf("%s: %+v", line, a)
		}
	}
}

func TestACommandForADataServerFindsItsWay(t *testing.T) {
	g := newGate(t)
	g.project()
	for line, want := range map[string]string{
		"ls":             `the gate has no verb "ls"; to run a command on a data server name its project: ssh -p 2222 alice+genomics@gate.test ls`,
		"uname -a":       `ssh -p 2222 alice+genomics@gate.test uname -a`,
		"rsync --server": `no verb "rsync"`,
		"Rscript x.R":    `no verb "Rscript"`,
	} {
		if a := g.call("alice", line, ""); a.code != ExitUsage || !strings.Contains(a.errOut, want) || strings.Count(a.errOut, "\n") != 1 {
			t.Errorf("%s: %+v", line, a)
		}
	}
	if a := g.call("sec", "uname", ""); !strings.Contains(a.errOut, "sec+PROJECT@gate.test") {
		t.Errorf("for somebody without a project: %+v", a)
	}
	if out := g.must(ExitOK, "alice", "--version"); out != "sallyport test\n" {
		t.Errorf("--version: %q", out)
	}
	g.must(ExitOK, "alice", "")
	g.must(ExitOK, "alice", "--help")
	g.must(ExitOK, "alice", "help session")
}

func TestAKilledSessionTellsByWhomAndWhy(t *testing.T) {
	g := newGate(t)
	g.project()
	epoch, err := g.authority.CurrentEpoch(t.Context(), "genomics")
	if err != nil {
		t.Fatal(err)
	}
	open := func() authz.Session {
		s, err := g.authority.OpenSession(t.Context(), authz.Session{Connection: "C-alice", User: "alice", Project: "genomics", Server: "db1", Account: "alice",
			Role: authz.RoleResearcher, Action: authz.ActionShell, PTY: true, RemoteAddr: "192.0.2.7", Epoch: epoch.ID})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	closed := func(s authz.Session, result string) string {
		s.Result, s.EndedAt = result, g.now
		if err := g.authority.CloseSession(t.Context(), s); err != nil {
			t.Fatal(err)
		}
		return g.must(ExitOK, "alice", "session show "+s.ID)
	}
	s := open()
	g.must(ExitOK, "admin", "session kill "+s.ID+" --reason 'fills the disk'")
	if out := closed(s, "killed"); !regexp.MustCompile(`(?m)^ended by +admin$`).MatchString(out) || !regexp.MustCompile(`(?m)^reason +"fills the disk"$`).MatchString(out) {
		t.Errorf("a killed session:\n%s", out)
	}

	s = open()
	g.must(ExitOK, "admin", "user freeze alice --reason 'laptop lost'")
	live := []authz.LiveSession{{Session: s.ID, Ask: authz.Ask{Identity: g.identity("alice"), Project: "genomics", Server: "db1", Action: authz.ActionShell, PTY: true}}}
	end, _, err := g.authority.Recheck(t.Context(), live)
	if err != nil || end[s.ID] == nil {
		t.Fatalf("the session goes on: %v", err)
	}
	if err := g.authority.RecordCuts(t.Context(), live, end); err != nil {
		t.Fatal(err)
	}
	g.must(ExitOK, "sec", "user unfreeze alice --reason 'laptop found'")
	if out := closed(s, "right-ended"); !strings.Contains(out, "right-ended") || !strings.Contains(out, end[s.ID].Sentence) {
		t.Errorf("a session that lost its right:\n%s", out)
	}
}

func TestACrashedSessionIsNotToldAsOneThatEndedWell(t *testing.T) {
	g := newGate(t)
	g.project()
	s := g.liveSession(authz.ActionShell)
	s.Result, s.ExitCode, s.BytesIn, s.BytesOut = "crashed", authz.Unknown, authz.Unknown, authz.Unknown
	if err := g.authority.CloseSession(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	shown := g.must(ExitOK, "alice", "session show "+s.ID)
	for _, want := range []string{"by a crash of the node", "exit code", "not known", "crashed"} {
		if !strings.Contains(shown, want) {
			t.Errorf("%q is not in %s", want, shown)
		}
	}
	if events := g.must(ExitOK, "alice", "event ls --op session.close"); !strings.Contains(events, "crashed") {
		t.Errorf("events:\n%s", events)
	}
}

func TestOutputForAFileIsNeitherCutNorWrapped(t *testing.T) {
	g := newGate(t)
	g.project()
	g.term = false
	s := g.session("alice", strings.Repeat("long ", 40))
	if out := g.must(ExitOK, "audrey", "event ls --op session.close"); !strings.Contains(out, s.ID) || strings.Contains(out, "…") {
		t.Errorf("a list:\n%s", out)
	}
	var events []authz.Event
	g.json(ExitOK, "audrey", "event ls --op session.close", &events)
	if out := g.must(ExitOK, "audrey", "event show "+events[0].ID); !strings.Contains(out, detailsText(events[0].Details)) {
		t.Errorf("one event:\n%s", out)
	}
}

func TestWhatIsNotThereIsNotFound(t *testing.T) {
	g := newGate(t)
	g.project()
	for _, user := range []string{"alice", "admin", "sec", "audrey", "mei"} {
		for _, line := range []string{"session show S-none", "session watch S-none --reason 'to help'", "session fetch S-none --reason 'to look'",
			"session kill S-none --reason 'to stop'", "session show 99", "session fetch 99 --reason 'to look'", "session kill 99 --reason 'to stop'"} {
			if a := g.call(user, line, ""); a.code != ExitNotFound {
				t.Errorf("%s: %s: exit code %d, %s", user, line, a.code, a.errOut)
			}
		}
	}
	g.must(ExitUsage, "audrey", "search x --after zzz")
	for _, line := range []string{"verify", "replay 12", "index ls", "recover --admin ada", "witness serve"} {
		if a := g.call("alice", line, ""); a.code != ExitUsage || !strings.Contains(a.errOut, "not by ssh at the gate") {
			t.Errorf("%s: %+v", line, a)
		}
	}
}
