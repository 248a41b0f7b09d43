package authz

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"sallyport/internal/database"
)

// texts are the hits' kinds and texts.
func texts(hits []Hit) (out []string) {
	for _, h := range hits {
		out = append(out, h.Kind+" "+h.User+": "+h.Text)
	}
	return out
}

func (w *world) search(user string, q SearchQuery) []Hit {
	w.t.Helper()
	hits, err := w.Search(w.t.Context(), w.as(user), q)
	w.ok(err)
	return hits
}

// exec runs one command from open to close.
func (w *world) exec(user, command string) Session {
	w.t.Helper()
	ask := w.ask(user, ActionExec)
	ask.Command = command
	s := w.open(ask)
	w.clock.advance(time.Second)
	s.Result, s.ExitCode, s.BytesOut = "exited", 3, 1234
	w.ok(w.CloseSession(w.t.Context(), s))
	return s
}

func (w *world) setProject(name string, change func(p *Project)) {
	w.t.Helper()
	p, err := w.Project(w.t.Context(), name)
	w.ok(err)
	change(&p)
	w.ok(w.SetProject(w.t.Context(), w.as("adam"), p, "as the steering group decided"))
}

func TestCommandsAndTransfersFollowFromSessions(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		s := w.exec("erin", "samtools view /data/a1.bam\xff")
		shell := w.open(w.ask("alice", ActionShell))
		w.ok(w.CloseSession(t.Context(), shell))

		commands, err := w.Commands(t.Context(), w.as("odin"), SessionQuery{})
		w.ok(err)
		if len(commands) != 1 || commands[0].Text != "samtools view /data/a1.bam\xff" || commands[0].Session != s.ID ||
			commands[0].Kind != CommandExec || commands[0].Bytes != 27 || commands[0].User != "erin" || commands[0].Server != "db1" {
			t.Errorf("commands: %+v", commands)
		}
		for _, h := range w.search("odin", SearchQuery{Text: "samtools", Kinds: []string{HitCommand}}) {
			if h.Result != "exit 3" {
				t.Errorf("a command that failed is found as %q", h.Result)
			}
		}
		transfers, err := w.Transfers(t.Context(), w.as("odin"), SessionQuery{ID: s.ID})
		w.ok(err)
		if len(transfers) != 1 || transfers[0].Name != commands[0].Text || transfers[0].Operation != "exec" || transfers[0].Status != "exit 3" ||
			transfers[0].User != "erin" || transfers[0].BytesOut != 1234 || transfers[0].Direction != "out" ||
			!transfers[0].Time.Equal(start.Add(time.Second)) {
			t.Errorf("transfers: %+v", transfers)
		}
		for who, want := range map[string]int{"erin": 1, "mia": 1, "paula": 1, "odin": 1, "alice": 0, "bob": 0, "adam": 0} {
			commands, err := w.Commands(t.Context(), w.as(who), SessionQuery{})
			w.ok(err)
			transfers, err := w.Transfers(t.Context(), w.as(who), SessionQuery{})
			w.ok(err)
			if len(commands) != want || len(transfers) != want {
				t.Errorf("%s sees %d commands and %d transfers, want %d", who, len(commands), len(transfers), want)
			}
		}
	})
}

// A command may be longer than an event takes; its beginning, length and hash stay.
func TestLongCommandIsKeptInPart(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		long := "echo needle " + strings.Repeat("x", 3*maxDetail)
		w.exec("erin", long)
		commands, err := w.Commands(t.Context(), w.as("erin"), SessionQuery{})
		w.ok(err)
		if c := commands[0]; c.Bytes != int64(len(long)) || len(c.SHA256) != 64 || len(c.Text) != maxDetail {
			t.Errorf("%d bytes kept of %d, hash %q", len(c.Text), c.Bytes, c.SHA256)
		}
		if got := len(w.search("odin", SearchQuery{Text: "needle", Kinds: []string{HitCommand}})); got != 1 {
			t.Errorf("%d hits, want 1", got)
		}
	})
}

func TestSearchFinds(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		w.exec("erin", "samtools view a1.bam")
		w.clock.advance(time.Hour)
		w.exec("erin", "Rscript qc.R")
		begin := start.Add(time.Hour)
		for _, c := range []struct {
			query SearchQuery
			want  []string
		}{
			{SearchQuery{Text: "samtools"}, []string{"transfer erin: samtools view a1.bam", "command erin: samtools view a1.bam"}},
			{SearchQuery{Text: "samtools", Kinds: []string{HitCommand}}, []string{"command erin: samtools view a1.bam"}},
			{SearchQuery{Text: "view sam*", Project: "genomics", Server: "db1", User: "erin", To: begin, Kinds: []string{HitCommand}},
				[]string{"command erin: samtools view a1.bam"}},
			{SearchQuery{Text: "samtools", Project: "imaging"}, nil},
			{SearchQuery{Text: "samtools", User: "alice"}, nil},
			{SearchQuery{Text: "samtools", From: begin}, nil},
			{SearchQuery{User: "erin", Kinds: []string{HitCommand}}, []string{"command erin: Rscript qc.R", "command erin: samtools view a1.bam"}},
			{SearchQuery{From: begin, Kinds: []string{HitTransfer}}, []string{"transfer erin: Rscript qc.R"}},
			{SearchQuery{Text: "member.add paula"}, []string{"event mia: member.add membership " + w.member["paula"].ID + ": " + goodReason}},
		} {
			if got := texts(w.search("odin", c.query)); !slices.Equal(got, c.want) {
				t.Errorf("%+v found %q, want %q", c.query, got, c.want)
			}
		}
	})
}

func TestSearchPages(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		for i := range 7 {
			w.exec("erin", fmt.Sprintf("job number%d", i))
		}
		all := w.search("odin", SearchQuery{Text: "job"})
		if len(all) != 14 {
			t.Fatalf("%d hits, want 14", len(all))
		}
		var paged []Hit
		q := SearchQuery{Text: "job", Limit: 3}
		for {
			page := w.search("odin", q)
			if len(page) == 0 {
				break
			}
			paged = append(paged, page...)
			q.After = page[len(page)-1].Place
			w.exec("erin", "job that is newer") // shifts nothing
		}
		if !slices.Equal(texts(paged), texts(all)) {
			t.Errorf("in pages %q, at once %q", texts(paged), texts(all))
		}
	})
}

// Each sees what the lists of sessions and events show them, and nothing more.
func TestPromise2_SearchFindsWhatOneMaySee(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		w.exec("erin", "samtools view a1.bam")
		w.refusedExec("alice", "samtools sort a2.bam")
		for who, want := range map[string][]string{
			"odin":  {"event alice", "transfer erin", "command erin"},
			"paula": {"event alice", "transfer erin", "command erin"},
			"mia":   {"transfer erin", "command erin"},
			"erin":  {"transfer erin", "command erin"},
			"alice": {"event alice"},
			"ivan":  nil, "bob": nil, "adam": nil, "sara": nil,
		} {
			var got []string
			for _, h := range w.search(who, SearchQuery{Text: "samtools"}) {
				got = append(got, h.Kind+" "+h.User)
			}
			if !slices.Equal(got, want) {
				t.Errorf("%s finds %q, want %q", who, got, want)
			}
		}
		w.ok(w.EndMember(t.Context(), w.as("mia"), w.member["paula"].ID, "she left"))
		if got := w.search("paula", SearchQuery{Text: "samtools"}); len(got) != 0 {
			t.Errorf("an auditor no more finds %q", texts(got))
		}
		hits, err := w.Search(t.Context(), bootstrap, SearchQuery{Text: "samtools"})
		if err != nil || len(hits) != 0 {
			t.Errorf("bound to nobody: %q, %v", texts(hits), err)
		}
		w.ok(w.Freeze(t.Context(), w.as("sara"), "odin", "under investigation"))
		_, err = w.Search(t.Context(), w.as("odin"), SearchQuery{Text: "samtools"})
		w.refused(err, "user.frozen")
	})
}

func (w *world) refusedExec(user, command string) {
	w.t.Helper()
	ask := w.ask(user, ActionExec)
	ask.Command = command
	if d := w.decide(ask); d.Outcome != Refuse {
		w.t.Fatalf("%s may run %q", user, command)
	}
}

// Who looks into what others did is named for it, with the question.
func TestPromise8_SearchOfOthersIsAnEvent(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		count := func() (n int) {
			for _, e := range w.ledger.events(t) {
				if e.OpType == searchOp {
					n++
				}
			}
			return n
		}
		w.search("alice", SearchQuery{Text: "samtools"})
		w.search("paula", SearchQuery{Text: "samtools", User: "paula"})
		if count() != 0 {
			t.Error("a search in one's own doings is an event")
		}
		for i, who := range []string{"odin", "paula", "mia"} {
			w.search(who, SearchQuery{Text: "samtools", Project: "genomics", From: start})
			e := w.last(searchOp)
			if count() != i+1 || e.UserID != who || e.Details["query"] != "samtools" || e.Project != "genomics" || e.Details["from"] == nil {
				t.Errorf("the search of %s is %+v", who, e)
			}
		}
		if got := w.search("odin", SearchQuery{Text: "samtools"}); len(got) != 0 {
			t.Errorf("a search finds searches: %q", texts(got))
		}
		w.ledger.breakNow(errors.New("no more"))
		if _, err := w.Search(t.Context(), w.as("odin"), SearchQuery{Text: "member"}); err == nil {
			t.Error("a search that cannot be recorded is answered")
		}
	})
}

// A project that seals its commands leaves no text of them outside its recordings.
func TestPromise5_SealedCommands(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		w.setProject("genomics", func(p *Project) { p.SealCommands = true })
		s := w.exec("erin", "grep secretword a1.txt")
		w.refusedExec("alice", "grep secretword a2.txt")
		for _, e := range w.ledger.events(t) {
			if leaf, err := e.leaf(); err != nil || strings.Contains(string(leaf), "secretword") {
				t.Errorf("event %s tells the command (%v)", e.OpType, err)
			}
		}
		if got := w.search("odin", SearchQuery{Text: "secretword"}); len(got) != 0 {
			t.Errorf("found %q", texts(got))
		}
		commands, err := w.Commands(t.Context(), w.as("odin"), SessionQuery{ID: s.ID})
		w.ok(err)
		if len(commands) != 1 || !commands[0].Sealed || commands[0].Text != "" {
			t.Errorf("commands: %+v", commands)
		}
		transfers, err := w.Transfers(t.Context(), w.as("odin"), SessionQuery{ID: s.ID})
		w.ok(err)
		if len(transfers) != 1 || !transfers[0].Sealed || transfers[0].Name != "" || transfers[0].BytesOut != 1234 {
			t.Errorf("transfers: %+v", transfers)
		}
		sessions, err := w.Sessions(t.Context(), w.as("odin"), SessionQuery{ID: s.ID})
		w.ok(err)
		if sessions[0].Command != "" {
			t.Errorf("the session keeps %q", sessions[0].Command)
		}
	})
}

// Dates that are too far off for a place in the list bound it all the same, and what happens decades from now is found.
func TestSearchOfFarDates(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		w.exec("erin", "samtools view a1.bam")
		far := start.AddDate(100, 0, 0)
		if got := w.search("odin", SearchQuery{Text: "samtools", To: far}); len(got) == 0 {
			t.Error("nothing is before the year 2126")
		}
		if got := w.search("odin", SearchQuery{Text: "samtools", From: far}); len(got) != 0 {
			t.Errorf("after the year 2126: %q", texts(got))
		}
		w.clock.advance(20 * 365 * oneDay)
		w.ok(w.AddUser(t.Context(), w.as("adam"), User{Name: "zebedee", Display: "zebedee"}))
		if got := w.search("odin", SearchQuery{Text: "zebedee"}); len(got) == 0 {
			t.Error("what happened twenty years later is not found")
		}
	})
}

// TestPromise5_SealingReachesWhatRuns seals the commands of a project while one of them runs: its end does not tell it.
func TestPromise5_SealingReachesWhatRuns(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		ask := w.ask("erin", ActionExec)
		ask.Command = "grep secretword a1.txt"
		s := w.open(ask)
		w.setProject("genomics", func(p *Project) { p.SealCommands = true })
		s.Result = "exited"
		w.ok(w.CloseSession(t.Context(), s))
		if e := w.last("session.close"); e.Details["command"] != nil || e.Details["command_sealed"] != true {
			t.Errorf("the end tells %v", e.Details)
		}
		transfers, err := w.Transfers(t.Context(), w.as("odin"), SessionQuery{ID: s.ID})
		w.ok(err)
		if len(transfers) != 1 || !transfers[0].Sealed || transfers[0].Name != "" {
			t.Errorf("transfers: %+v", transfers)
		}
	})
}

// What a search finds can be made again from the leaves of the ledger alone, with the same places.
func TestDerivedTablesFollowFromTheLedger(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		w.exec("erin", "samtools view a1.bam")
		w.exec("erin", "Rscript qc.R")
		everything := SearchQuery{Kinds: Kinds(), To: w.clock.Now().Add(time.Hour)}
		before := w.search("odin", everything)
		w.ok(w.db.Write(t.Context(), func(tx database.Tx) error {
			if err := ClearDerived(tx); err != nil {
				return err
			}
			for _, leaf := range w.ledger.leaves {
				for range 2 { // a second time changes nothing
					if err := DeriveTables(tx, leaf); err != nil {
						return err
					}
				}
			}
			return nil
		}))
		after := w.search("odin", everything)
		if len(before) < 30 || !slices.Equal(after[1:], before) {
			t.Errorf("%d hits before, %d after, or others", len(before), len(after))
		}
		commands, err := w.Commands(t.Context(), w.as("odin"), SessionQuery{})
		w.ok(err)
		transfers, err := w.Transfers(t.Context(), w.as("odin"), SessionQuery{})
		w.ok(err)
		if len(commands) != 2 || len(transfers) != 2 {
			t.Errorf("%d commands and %d transfers, want 2 of each", len(commands), len(transfers))
		}
	})
}

func TestSearchRefusesQuestionsWithoutSense(t *testing.T) {
	w := newWorld(t, t.TempDir()+"/state.db")
	for _, q := range []SearchQuery{{}, {Text: "***"}, {Text: "a*"}, {Text: "x", Kinds: []string{"file"}}, {Text: "x", After: "?"},
		{Text: strings.Repeat("x ", maxText)}} {
		if _, err := w.Search(t.Context(), w.as("odin"), q); !errors.Is(err, ErrQuery) {
			t.Errorf("%+v: %v", q, err)
		}
	}
}

// Whatever stands in an event, the index of either engine takes it: an event that could not be recorded would stop what it tells of.
func TestTheIndexTakesEveryEvent(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		for name, text := range map[string]string{
			"many words":     strings.Repeat("a b c d e f g ", maxDetail/14),
			"one word":       strings.Repeat("x", maxDetail),
			"growing":        strings.Repeat("\ufdfa", maxDetail/3), // eighteen characters in the compatible form
			"controls":       strings.Repeat("\x00\u202e'\\\"", 500),
			"not UTF-8":      strings.Repeat("\xff\xc0a", 1000),
			"wide":           strings.Repeat("\U0001d504", maxDetail/4),
			"without spaces": strings.Repeat("\u57fa", maxDetail/3),
		} {
			details := map[string]any{"needle": "findme"}
			for i := range 20 {
				details[fmt.Sprintf("text%02d", i)] = text
			}
			id, err := w.Record(t.Context(), Event{UserID: text[:64], OpType: "test." + name, ResourceType: "test", ResourceID: text[:64],
				RemoteAddr: "-", Details: details})
			if err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			if hits := w.search("odin", SearchQuery{Text: "findme " + id}); len(hits) != 1 {
				t.Errorf("%s: found %d times", name, len(hits))
			}
		}
	})
}
