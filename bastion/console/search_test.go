package console

import (
	"strings"
	"testing"

	"sallyport/authz"
)

func TestSearch(t *testing.T) {
	g := newGate(t)
	g.project()
	s := g.session("alice", "grep 'a b' x\x1b[2J\xff\u202e")
	for who, want := range map[string]bool{"audrey": true, "mei": true, "alice": true, "olaf": false, "admin": false} {
		out := g.must(ExitOK, who, "search grep --kind command,transfer")
		if found := strings.Count(out, "grep") == 2; found != want || strings.ContainsAny(out, "\x1b\u202e") {
			t.Errorf("%s finds:\n%s", who, out)
		}
	}
	var hits []hitJSON
	g.json(ExitOK, "audrey", "search '\"a b\"' --kind command --user alice --project genomics --server db1 --from 1h --limit 5", &hits)
	if len(hits) != 1 || hits[0].Session != s.ID || hits[0].TextBase64 == "" {
		t.Errorf("found %+v", hits)
	}
	g.json(ExitOK, "audrey", "search 'b a'", &hits) // one word of the shell is a phrase
	if len(hits) != 0 {
		t.Errorf("found %+v", hits)
	}
}

func TestSearchGoesOn(t *testing.T) {
	g := newGate(t)
	g.project()
	g.session("alice", "first job")
	g.session("alice", "second job")
	a := g.call("audrey", "search job --kind command --limit 1", "")
	if !strings.Contains(a.out, "second") || !strings.Contains(a.errOut, "--after ") {
		t.Fatalf("%s%s", a.out, a.errOut)
	}
	_, after, _ := strings.Cut(a.errOut, "--after ")
	if out := g.must(ExitOK, "audrey", "search job --kind command --limit 1 --after "+strings.TrimSpace(after)); !strings.Contains(out, "first") {
		t.Errorf("the next page:\n%s", out)
	}
}

func TestSearchUsage(t *testing.T) {
	g := newGate(t)
	for _, line := range []string{"search", "search '***'", "search x --kind file", "search x --limit 0", "search x --limit 1001",
		"search x --from soon", "search x --after ?"} {
		if a := g.call("audrey", line, ""); a.code != ExitUsage || a.errOut == "" {
			t.Errorf("%s: code %d, %q", line, a.code, a.errOut)
		}
	}
}

func TestTransfers(t *testing.T) {
	g := newGate(t)
	g.project()
	s := g.session("alice", "cat results.txt")
	var transfers []transferJSON
	g.json(ExitOK, "mei", "session transfers "+s.ID, &transfers)
	if len(transfers) != 1 || transfers[0].Name != "cat results.txt" || transfers[0].User != "alice" || transfers[0].Number != s.Number {
		t.Errorf("transfers: %+v", transfers)
	}
	if out := g.must(ExitOK, "audrey", "session transfers"); !strings.Contains(out, "cat results") {
		t.Errorf("session transfers:\n%s", out)
	}
	g.must(ExitNotFound, "olaf", "session transfers "+s.ID)
}

func TestSealedCommands(t *testing.T) {
	g := newGate(t)
	g.project()
	g.must(ExitOK, "admin", "project set genomics --seal-commands --reason 'steering group'")
	if out := g.must(ExitOK, "mei", "project show genomics"); !strings.Contains(out, "commands sealed") {
		t.Errorf("project show:\n%s", out)
	}
	s := g.session("alice", "grep secretword x")
	for _, line := range []string{"session commands", "session commands " + s.ID, "session transfers", "session show " + s.ID, "search grep", "search --kind command"} {
		if out := g.must(ExitOK, "audrey", line); strings.Contains(out, "secretword") {
			t.Errorf("%s:\n%s", line, out)
		}
	}
	if out := g.must(ExitOK, "audrey", "search --kind command"); !strings.Contains(out, "sealed") {
		t.Errorf("search --kind %s:\n%s", authz.HitCommand, out)
	}
}
