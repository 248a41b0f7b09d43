package authz

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"time"
)

// openSnapshot is a state in which everything is as it should be.
func openSnapshot(roles ...Role) *snapshot {
	s := &snapshot{
		now:      start,
		user:     &User{Name: "alice", State: stateActive, HasTOTP: true},
		keyLive:  true,
		project:  &Project{Name: "genomics", Level: LevelType1, State: ProjectActive},
		servers:  []Server{{Project: "genomics", Name: "db1", Address: "db1:22"}, {Project: "genomics", Name: "db2", Address: "db2:22"}},
		hasEpoch: true,
	}
	for _, role := range roles {
		s.members = append(s.members, Membership{ID: "M-" + string(role), User: "alice", Project: "genomics", Role: role,
			Account: "alice", ApprovedBy: "mia", ExpiresAt: start.Add(time.Hour)})
	}
	return s
}

func fullAsk(action Action) Ask {
	return Ask{Project: "genomics", Server: "db1", Action: action, PTY: action == ActionShell, Identity: Identity{User: "alice", Connection: "C-1",
		Fingerprint: "SHA256:x", RemoteAddr: netip.MustParseAddrPort("[::ffff:192.0.2.7]:9"),
		Factors: []Factor{{Kind: FactorKey, Assurance: AssuranceKnown}, {Kind: FactorTOTP, Assurance: AssuranceOTP}}}}
}

// The table "Who may do what" of the design, for what this gate can do so far.
func TestPromise2_EveryRoleAndAction(t *testing.T) {
	table := map[Role][5]Outcome{ // shell, exec, sftp, forward, shell without a terminal
		RoleResearcher:     {Allow, Refuse, Refuse, Refuse, Refuse},
		RoleImporter:       {Allow, Refuse, Refuse, Refuse, Refuse},
		RoleEscrow:         {Allow, Refuse, Refuse, Refuse, Refuse},
		RoleExporter:       {Allow, Allow, Allow, Refuse, Allow},
		RoleManager:        {Refuse, Refuse, Refuse, Refuse, Refuse},
		RoleChecker:        {Refuse, Refuse, Refuse, Refuse, Refuse},
		RoleProvider:       {Refuse, Refuse, Refuse, Refuse, Refuse},
		RoleOperator:       {Wait, Wait, Refuse, Refuse, Wait},
		RoleProjectAuditor: {Refuse, Refuse, Refuse, Refuse, Refuse},
	}
	withoutTerminal := fullAsk(ActionShell)
	withoutTerminal.PTY = false
	if len(table) != len(Roles()) {
		t.Fatalf("the table has %d of %d roles", len(table), len(Roles()))
	}
	for _, role := range Roles() {
		for i, ask := range []Ask{fullAsk(ActionShell), fullAsk(ActionExec), fullAsk(ActionSFTP), fullAsk(ActionForward),
			withoutTerminal} {
			action := ask.Action
			d := decide(ask, openSnapshot(role))
			if d.Outcome != table[role][i] {
				t.Errorf("%s %s: %s by %s, want %s", role, action, d.Outcome, d.Rule, table[role][i])
			}
			if (d.Outcome == Refuse) != (d.Refusal != nil) || d.Rule == "" {
				t.Errorf("%s %s: incomplete decision %+v", role, action, d)
			}
			if d.Outcome == Allow && (!d.Obligations.Record || d.Route.Account != "alice" || !d.Until.Equal(start.Add(time.Hour))) {
				t.Errorf("%s %s: %+v", role, action, d)
			}
		}
		if d := decide(fullAsk("netconf"), openSnapshot(role)); d.Outcome != Refuse || d.Rule != "action.unknown" {
			t.Errorf("%s: an unknown action: %+v", role, d)
		}
	}
}

func TestPromise6_ShellWithoutTerminalIsAnExec(t *testing.T) {
	ask := fullAsk(ActionShell)
	ask.PTY = false
	d := decide(ask, openSnapshot(RoleResearcher))
	if d.Rule != "action.shell-without-terminal" ||
		d.Refusal.Sentence != "Your role in genomics has no shell without a terminal: use ssh -t." {
		t.Errorf("a researcher: %+v", d)
	}
	if d = decide(ask, openSnapshot(RoleManager)); d.Rule != "action.shell" {
		t.Errorf("a role without shells is told of a terminal: %+v", d)
	}
	if d = decide(ask, openSnapshot(RoleResearcher, RoleOperator)); d.Outcome != Wait || d.Route.Role != RoleOperator {
		t.Errorf("a researcher who is operator too: %+v", d)
	}
	// A live session is decided again by the same question.
	ask.Session = "S-1"
	s := openSnapshot(RoleResearcher)
	s.live = &liveRow{account: "alice"}
	if d = decide(ask, s); d.Rule != "action.shell-without-terminal" {
		t.Errorf("a live session without a terminal goes on by %s", d.Rule)
	}
}

func TestMembershipWithoutApprovalIsPreferred(t *testing.T) {
	for _, roles := range [][]Role{{RoleOperator, RoleExporter}, {RoleExporter, RoleOperator}} {
		d := decide(fullAsk(ActionExec), openSnapshot(roles...))
		if d.Outcome != Allow || d.Route.Role != RoleExporter {
			t.Errorf("%v: %s as %s", roles, d.Outcome, d.Route.Role)
		}
	}
	if d := decide(fullAsk(ActionExec), openSnapshot(RoleResearcher, RoleOperator)); d.Outcome != Wait {
		t.Errorf("a researcher who is operator too runs a command by %s", d.Rule)
	}
}

func TestRules(t *testing.T) {
	grantOf := func(change func(*grant)) *grant {
		g := &grant{id: "R-1", user: "alice", project: "genomics", server: "db1", account: "alice", state: requestApproved, usesLeft: 1,
			from: start, until: start.Add(30 * time.Minute)}
		change(g)
		return g
	}
	for _, c := range []struct {
		name string
		role Role
		make func(ask *Ask, s *snapshot)
		rule string // of a refusal, "" for allow, or "wait"
	}{
		{"all well", "", func(*Ask, *snapshot) {}, ""},
		{"unknown", "", func(_ *Ask, s *snapshot) { s.user = nil }, "user.unknown"},
		{"pending", "", func(_ *Ask, s *snapshot) { s.user.State = statePending }, "user.pending"},
		{"frozen", "", func(_ *Ask, s *snapshot) { s.user.State = stateFrozen }, "user.frozen"},
		{"key gone", "", func(_ *Ask, s *snapshot) { s.keyLive = false }, "key.removed"},
		{"no factors", "", func(a *Ask, _ *snapshot) { a.Identity.Factors = nil }, "factor.missing"},
		{"key only", "", func(a *Ask, _ *snapshot) { a.Identity.Factors = a.Identity.Factors[:1] }, "factor.missing"},
		{"code only", "", func(a *Ask, _ *snapshot) { a.Identity.Factors = a.Identity.Factors[1:] }, "factor.missing"},
		{"two keys", "", func(a *Ask, _ *snapshot) {
			a.Identity.Factors = []Factor{{Kind: FactorKey}, {Kind: FactorKey}}
		}, "factor.missing"},
		{"nameless factor", "", func(a *Ask, _ *snapshot) { a.Identity.Factors[1].Kind = "" }, "factor.missing"},
		{"terms", "", func(_ *Ask, s *snapshot) { s.termsVersion = "new" }, "terms.outdated"},
		{"terms while live", "", func(a *Ask, s *snapshot) { s.termsVersion, a.Session = "new", "S-1" }, ""},
		{"no project", "", func(_ *Ask, s *snapshot) { s.project, s.members = nil, nil }, "project.unknown-or-not-member"},
		{"no member", "", func(_ *Ask, s *snapshot) { s.members = nil }, "project.unknown-or-not-member"},
		{"expired", "", func(_ *Ask, s *snapshot) { s.members[0].ExpiresAt = start }, "membership.expired"},
		{"ended", "", func(_ *Ask, s *snapshot) { s.members[0].EndedAt = start.Add(-1) }, "membership.ended"},
		{"proposed", "", func(_ *Ask, s *snapshot) { s.members[0].ApprovedBy = "" }, "membership.proposed"},
		{"no training", "", func(_ *Ask, s *snapshot) { s.project.Training = true }, "training.expired"},
		{"old training", "", func(_ *Ask, s *snapshot) { s.project.Training, s.user.TrainingUntil = true, start }, "training.expired"},
		{"training", "", func(_ *Ask, s *snapshot) { s.project.Training, s.user.TrainingUntil = true, start.Add(1) }, ""},
		{"closed", "", func(_ *Ask, s *snapshot) { s.project.State = ProjectClosed }, "project.closed"},
		{"too early", "", func(_ *Ask, s *snapshot) { s.project.From = start.Add(1) }, "project.period"},
		{"too late", "", func(_ *Ask, s *snapshot) { s.project.Until = start }, "project.period"},
		{"other network", "", func(_ *Ask, s *snapshot) {
			s.project.Networks = []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")}
		}, "network.source"},
		{"network, mapped", "", func(_ *Ask, s *snapshot) {
			s.project.Networks = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
		}, ""},
		{"network, local socket", "", func(a *Ask, s *snapshot) {
			a.Identity.RemoteAddr = netip.AddrPort{}
			s.project.Networks = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}
		}, "network.source"},
		{"type2 by recovery code", "", func(a *Ask, s *snapshot) {
			s.project.Level = LevelType2
			a.Identity.Factors[1].Kind = FactorRecovery
		}, "factor.assurance"},
		{"type2 by one-time code", "", func(_ *Ask, s *snapshot) { s.project.Level = LevelType2 }, ""},
		{"type1 by recovery code", "", func(a *Ask, _ *snapshot) { a.Identity.Factors[1].Kind = FactorRecovery }, ""},
		{"unknown server", "", func(a *Ask, _ *snapshot) { a.Server = "db9" }, "server.unknown"},
		{"no server", "", func(a *Ask, s *snapshot) { a.Server, s.servers = "", nil }, "server.unknown"},
		{"first server", "", func(a *Ask, _ *snapshot) { a.Server = "" }, ""},
		{"no epoch", "", func(_ *Ask, s *snapshot) { s.hasEpoch = false }, "epoch.missing"},
		{"epoch over while live", "", func(a *Ask, s *snapshot) { s.hasEpoch, a.Session = false, "S-1" }, ""},
		{"killed", "", func(a *Ask, s *snapshot) { a.Session, s.live = "S-1", &liveRow{account: "alice", killed: true} }, "session.killed"},
		{"account of another membership", "", func(a *Ask, s *snapshot) { a.Session, s.live = "S-1", &liveRow{account: "other"} }, "action.shell"},
		{"operator", RoleOperator, func(*Ask, *snapshot) {}, "wait"},
		{"grant", RoleOperator, func(_ *Ask, s *snapshot) { s.grant = grantOf(func(*grant) {}) }, ""},
		{"grant of another", RoleOperator, func(_ *Ask, s *snapshot) { s.grant = grantOf(func(g *grant) { g.user = "bob" }) }, "wait"},
		{"grant for another server", RoleOperator, func(_ *Ask, s *snapshot) { s.grant = grantOf(func(g *grant) { g.server = "db2" }) }, "wait"},
		{"grant for another account", RoleOperator, func(_ *Ask, s *snapshot) { s.grant = grantOf(func(g *grant) { g.account = "dbowner" }) }, "wait"},
		{"grant over", RoleOperator, func(_ *Ask, s *snapshot) { s.grant = grantOf(func(g *grant) { g.until = start }) }, "wait"},
		{"grant pending", RoleOperator, func(_ *Ask, s *snapshot) { s.grant = grantOf(func(g *grant) { g.state = requestPending }) }, "wait"},
		{"grant used", RoleOperator, func(_ *Ask, s *snapshot) {
			s.grant = grantOf(func(g *grant) { g.state, g.usesLeft = requestUsed, 0 })
		}, "wait"},
		{"grant used by this session", RoleOperator, func(a *Ask, s *snapshot) {
			a.Session, s.live = "S-1", &liveRow{account: "alice"}
			s.grant = grantOf(func(g *grant) { g.state, g.usesLeft, g.usedBy = requestUsed, 0, []string{"S-1"} })
		}, ""},
		{"grant used by another session", RoleOperator, func(a *Ask, s *snapshot) {
			a.Session = "S-2"
			s.grant = grantOf(func(g *grant) { g.state, g.usesLeft, g.usedBy = requestUsed, 0, []string{"S-1"} })
		}, "grant.ended"},
		{"grant cancelled under a session", RoleOperator, func(a *Ask, s *snapshot) {
			a.Session = "S-1"
			s.grant = grantOf(func(g *grant) { g.state, g.usedBy = requestCancelled, []string{"S-1"} })
		}, "grant.ended"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.role == "" {
				c.role = RoleResearcher
			}
			ask, s := fullAsk(ActionShell), openSnapshot(c.role)
			c.make(&ask, s)
			d := decide(ask, s)
			got := d.Rule
			switch d.Outcome {
			case Allow:
				got = ""
			case Wait:
				got = "wait"
			}
			if got != c.rule {
				t.Errorf("decided %q (%s), want %q", got, d.Rule, c.rule)
			}
		})
	}
}

func TestUntilIsTheEarliestEnd(t *testing.T) {
	s := openSnapshot(RoleOperator)
	s.project.Training, s.user.TrainingUntil = true, start.Add(50*time.Minute)
	s.project.Until = start.Add(40 * time.Minute)
	s.grant = &grant{id: "R-1", user: "alice", project: "genomics", server: "db1", account: "alice", state: requestApproved, usesLeft: 1,
		from: start, until: start.Add(20 * time.Minute)}
	for _, want := range []time.Duration{20, 40, 50, 60} {
		d := decide(fullAsk(ActionShell), s)
		if !d.Until.Equal(start.Add(want * time.Minute)) {
			t.Errorf("until %v, want %v minutes", d.Until, want)
		}
		switch want {
		case 20:
			s.grant.until = start.Add(2 * time.Hour)
		case 40:
			s.project.Until = time.Time{}
		case 50:
			s.project.Training = false
		}
	}
}

func TestPromise2_ProjectsCannotBeEnumerated(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		var sentences []string
		for _, project := range []string{"imaging", "no-such-project", "bad name\x00\xff"} {
			ask := w.ask("alice", ActionShell)
			ask.Project = project
			d := w.decide(ask)
			if d.Outcome != Refuse || d.Rule != "project.unknown-or-not-member" {
				t.Errorf("%s: %s by %s", project, d.Outcome, d.Rule)
			}
			sentences = append(sentences, d.Refusal.Sentence)
			_, err := w.CreateRequest(t.Context(), w.as("alice"), project, "", goodReason)
			w.refused(err, "project.unknown-or-not-member")
		}
		if sentences[0] != sentences[1] || sentences[1] != sentences[2] {
			t.Errorf("the sentences differ: %q", sentences)
		}
		if _, err := w.Servers(t.Context(), w.as("alice"), "imaging"); !errors.Is(err, ErrNotFound) {
			t.Errorf("servers of a foreign project: %v", err)
		}
		// With no project named, everybody gets what they may know of.
		for by, want := range map[string]int{"alice": 1, "bob": 0, "adam": 2, "odin": 2} {
			servers, err := w.Servers(t.Context(), w.as(by), "")
			w.ok(err)
			epochs, err := w.Epochs(t.Context(), w.as(by), "")
			w.ok(err)
			if len(servers) != want || len(epochs) != want || by == "alice" && (servers[0].Project != "genomics" || epochs[0].Project != "genomics") {
				t.Errorf("%s sees servers %+v and epochs %+v", by, servers, epochs)
			}
		}
		if _, err := w.Epochs(t.Context(), w.as("alice"), "imaging"); !errors.Is(err, ErrNotFound) {
			t.Errorf("epochs of a foreign project: %v", err)
		}
		projects, err := w.Projects(t.Context(), w.as("alice"))
		w.ok(err)
		if len(projects) != 1 || projects[0].Name != "genomics" {
			t.Errorf("alice sees %+v", projects)
		}
	})
}

func TestDecisionsAreEvents(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		ask := w.ask("erin", ActionExec)
		ask.Command = "cat \xff\x00'quoted'"
		if d := w.decide(ask); d.Outcome != Allow || d.Route.HostCA != someCA || d.Route.Address != "db1.genomics.test:22" {
			t.Errorf("an exporter's exec: %+v", d)
		}
		e := w.last("decision.allow")
		if e.Details["command_base64"] != "Y2F0IP8AJ3F1b3RlZCc=" || e.UserID != "erin" || e.ResourceID != "genomics/db1" ||
			e.Project != "genomics" || e.RemoteAddr != "192.0.2.7" || e.Connection != "C-erin" {
			t.Errorf("the event is %+v", e)
		}
		d := w.decide(w.ask("alice", ActionExec))
		if d.Outcome != Refuse || d.Rule != "action.exec" {
			t.Errorf("a researcher's exec: %+v", d)
		}
		w.recorded(d.Refusal)
		if d = w.decide(w.ask("olga", ActionShell)); d.Outcome != Wait || d.NeedRequest != RequestSession {
			t.Errorf("an operator's shell: %+v", d)
		}
		w.last("decision.wait")
		if d = w.decide(Ask{Identity: Identity{User: "nobody\x00"}, Action: ActionShell, PTY: true}); d.Rule != "user.unknown" {
			t.Errorf("nobody's shell: %+v", d)
		}
	})
}

func TestPromise2_LiveSessionsEnd(t *testing.T) {
	ends := map[string]struct {
		rule string
		end  func(t *testing.T, w *world, s Session)
	}{
		"membership": {"membership.ended", func(t *testing.T, w *world, s Session) {
			w.ok(w.EndMember(t.Context(), w.as("mia"), w.member["alice"].ID, "contract ended"))
		}},
		"freeze": {"user.frozen", func(t *testing.T, w *world, s Session) {
			w.ok(w.Freeze(t.Context(), w.as("sara"), "alice", "suspicious"))
		}},
		"kill": {"session.killed", func(t *testing.T, w *world, s Session) {
			w.ok(w.KillSession(t.Context(), w.as("adam"), s.ID, "maintenance"))
		}},
		"key": {"key.removed", func(t *testing.T, w *world, s Session) {
			w.ok(w.RemoveKey(t.Context(), w.as("sara"), keyOf("alice").Fingerprint, "stolen laptop"))
		}},
		"server": {"server.unknown", func(t *testing.T, w *world, s Session) {
			w.ok(w.RemoveServer(t.Context(), w.as("adam"), "genomics", "db1", "replaced"))
		}},
		"project": {"project.closed", func(t *testing.T, w *world, s Session) {
			p, err := w.Project(t.Context(), "genomics")
			w.ok(err)
			p.State = ProjectClosed
			w.ok(w.SetProject(t.Context(), w.as("adam"), p, "study is over"))
		}},
	}
	for name, c := range ends {
		t.Run(name, func(t *testing.T) {
			onBoth(t, func(t *testing.T, w *world) {
				ask := w.ask("alice", ActionShell)
				s := w.open(ask)
				other := w.ask("erin", ActionShell)
				live := []LiveSession{{s.ID, ask}, {w.open(other).ID, other}}
				before := w.ledger.Last()
				end, next, err := w.Recheck(t.Context(), live)
				if err != nil || len(end) != 0 || !next.Equal(w.member["alice"].ExpiresAt) {
					t.Fatalf("before the end: %v, %v, %v", end, next, err)
				}
				if w.ledger.Last() != before {
					t.Error("an answer that stays the same was recorded")
				}
				changed := w.Changed()
				c.end(t, w, s)
				select {
				case <-changed:
				default:
					t.Error("nobody was woken")
				}
				end, _, err = w.Recheck(t.Context(), live)
				w.ok(err)
				if end[s.ID] == nil || end[s.ID].Rule != c.rule {
					t.Fatalf("the session ends by %+v, want %s", end[s.ID], c.rule)
				}
				w.ok(w.RecordCuts(t.Context(), live, end))
				w.recorded(end[s.ID])
				if e := w.last("session.cut"); e.Session == "" || e.ResourceID != "genomics/db1" || e.Project != "genomics" || len(end) > 1 && len(w.cuts()) != len(end) {
					t.Errorf("the events are %+v", w.cuts())
				}
				if wide := name == "server" || name == "project"; (len(end) == 2) != wide {
					t.Errorf("%d sessions end", len(end))
				}
			})
		})
	}
}

// cuts are the ends of sessions that the ledger tells of.
func (w *world) cuts() (cuts []Event) {
	for _, e := range w.ledger.events(w.t) {
		if e.OpType == "session.cut" {
			cuts = append(cuts, e)
		}
	}
	return cuts
}

// hangingLedger takes nothing until it is let go.
type hangingLedger struct {
	*memoryLedger
	hang chan struct{} // closed: no longer
}

func (l *hangingLedger) Append(ctx context.Context, sequence int64, leaf []byte) error {
	<-l.hang
	return l.memoryLedger.Append(ctx, sequence, leaf)
}

// A disk that hangs under the ledger keeps nobody in: neither who must go nor who looks after it waits for it.
func TestPromise2_HungLedgerKeepsNobodyIn(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		ask := w.ask("alice", ActionShell)
		live := []LiveSession{{w.open(ask).ID, ask}}
		hung := &hangingLedger{w.ledger, make(chan struct{})}
		w.outbox.ledger = hung
		w.clock.advance(365 * 24 * time.Hour)
		var recording sync.WaitGroup
		recording.Go(func() { _, _ = w.Decide(t.Context(), w.ask("erin", ActionShell)) })
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		w.ok(w.Poll(ctx))
		end, _, err := w.Recheck(ctx, live)
		w.ok(err)
		if r := end[live[0].Session]; r == nil || r.Rule != "membership.expired" || r.Reference == "" {
			t.Errorf("the session ends by %+v", r)
		}
		recording.Go(func() {
			if err := w.RecordCuts(t.Context(), live, end); err != nil {
				t.Error(err)
			}
		})
		close(hung.hang)
		recording.Wait()
		w.recorded(end[live[0].Session])
	})
}

func TestWaitingForTheDatabaseCanBeGivenUp(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		w.committing <- struct{}{} // as a write that hangs
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := w.Freeze(ctx, w.as("sara"), "alice", "suspicious"); !errors.Is(err, context.Canceled) {
			t.Errorf("behind a write that hangs: %v", err)
		}
		<-w.committing
		w.ok(w.Freeze(t.Context(), w.as("sara"), "alice", "suspicious"))
	})
}

func TestPromise2_MembershipExpires(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		ask := w.ask("alice", ActionShell)
		s := w.open(ask)
		_, next, err := w.Recheck(t.Context(), []LiveSession{{s.ID, ask}})
		w.ok(err)
		w.clock.advance(next.Sub(w.clock.Now()))
		end, _, err := w.Recheck(t.Context(), []LiveSession{{s.ID, ask}})
		w.ok(err)
		if end[s.ID] == nil || end[s.ID].Rule != "membership.expired" {
			t.Errorf("at the expiry: %+v", end)
		}
	})
}

func TestOtherNodeIsNoticed(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		second := w.secondNode()
		changed := second.Changed()
		w.ok(second.Poll(t.Context()))
		select {
		case <-changed:
			t.Fatal("woken without a change")
		default:
		}
		w.ok(w.Freeze(t.Context(), w.as("sara"), "alice", "suspicious"))
		w.ok(second.Poll(t.Context()))
		select {
		case <-changed:
		default:
			t.Error("the other node's change was not noticed")
		}
		w.db.Close()
		if err := w.Poll(t.Context()); err == nil {
			t.Error("a node without its database believes to be fresh")
		}
	})
}

func TestRoutesAndExplain(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		ctx := t.Context()
		w.ok(w.AddServer(ctx, w.as("adam"), Server{Project: "genomics", Name: "db2", Address: "[2001:db8::1]:22", HostKey: keyLine("db2") + " a comment"}))
		routes := func(user string) string {
			choices, err := w.Routes(ctx, w.identity(user))
			w.ok(err)
			text := ""
			for _, c := range choices {
				text += fmt.Sprintf("%s/%s %s %v %v %s\n", c.Project, c.Server, c.Role, c.Allowed, c.Waiting, c.WhyNot)
			}
			return text
		}
		for user, want := range map[string]string{
			"alice": "genomics/db1 researcher [shell] [] \ngenomics/db2 researcher [shell] [] \n",
			"erin":  "genomics/db1 exporter [shell exec sftp] [] \ngenomics/db2 exporter [shell exec sftp] [] \n",
			"olga":  "genomics/db1 operator [] [shell exec] \ngenomics/db2 operator [] [shell exec] \n",
			"mia": "genomics/db1 manager [] [] Your role in genomics has no access to its data servers.\n" +
				"genomics/db2 manager [] [] Your role in genomics has no access to its data servers.\n",
			"bob": "",
		} {
			if got := routes(user); got != want {
				t.Errorf("%s:\n%swant\n%s", user, got, want)
			}
		}
		before := w.ledger.Last()
		for _, by := range []string{"alice", "mia", "paula", "adam", "odin"} {
			choices, err := w.Explain(ctx, w.as(by), "alice", "genomics/db2")
			w.ok(err)
			if len(choices) != 1 || choices[0].Server != "db2" || len(choices[0].Allowed) != 1 {
				t.Errorf("explained to %s: %+v", by, choices)
			}
		}
		if w.ledger.Last() != before {
			t.Error("explaining recorded a decision")
		}
		choices, err := w.Explain(ctx, w.as("adam"), "alice", "imaging")
		w.ok(err)
		if len(choices) != 1 || choices[0].WhyNot != sentenceNoAccess {
			t.Errorf("no membership is explained by %+v", choices)
		}
		_, err = w.Explain(ctx, w.as("alice"), "erin", "")
		w.refused(err, "role.missing")
		_, err = w.Explain(ctx, w.as("mia"), "alice", "imaging")
		w.refused(err, "role.missing")
	})
}
