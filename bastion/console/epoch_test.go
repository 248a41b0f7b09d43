package console

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"sallyport/authz"
	"sallyport/recorder"
)

func TestThePublicFileSaysItsEpoch(t *testing.T) {
	g := newGate(t)
	g.project()
	keys, err := recorder.NewEpochKeys()
	if err != nil {
		t.Fatal(err)
	}
	next := string(keys.MarshalPublic("genomics/2026Q4.2"))
	for line, want := range map[string]string{
		"epoch add imaging":                    "the key of genomics, not of imaging",
		"epoch add genomics --quarter 2027Q1":  "the key of 2026Q4.2, not of 2027Q1",
		"epoch add genomics --quarter 2027Q.1": "no quarter",
	} {
		stdin := next
		if strings.Contains(want, "no quarter") {
			stdin = strings.Replace(next, "2026Q4.2", "2027Q.1", 2)
		}
		if a := g.call("audrey", line, stdin); a.code != ExitUsage || !strings.Contains(a.errOut, want) {
			t.Errorf("%s: %+v", line, a)
		}
	}
	g.must(ExitOK, "audrey", "epoch add genomics", next)
	if out := g.must(ExitOK, "alice", "epoch ls genomics"); !strings.Contains(out, "genomics/2026Q4.2") || strings.Count(out, "valid") != 2 {
		t.Errorf("%s", out)
	}
}

// TestPromise9_DestroyingAnEpochOverTheConsole is told in the words that people read.
func TestPromise9_DestroyingAnEpochOverTheConsole(t *testing.T) {
	g := newGate(t)
	g.project()
	g.must(ExitUsage, "audrey", "epoch destroy genomics/2026Q4")
	if a := g.call("audrey", "epoch destroy genomics/2026Q4 --reason over", ""); a.code != ExitDenied || !strings.Contains(a.errOut, "183 days") {
		t.Errorf("too early: %+v", a)
	}
	epoch, err := g.authority.CurrentEpoch(t.Context(), "genomics")
	if err != nil {
		t.Fatal(err)
	}
	g.now = epoch.ExpiresAt.Add(-12 * time.Hour)
	if out := g.must(ExitOK, "audrey", "status"); !strings.Contains(out, "warning") || !strings.Contains(out, "ends within a day") {
		t.Errorf("no warning in\n%s", out)
	}
	g.now = epoch.ExpiresAt.Add(authz.MinRetention)
	statement := fmt.Sprintf("{%q: %q, \"recipients\": [%q, %q]}\n", "epoch", epoch.ID,
		authz.RecipientFingerprint(epoch.Recipient), authz.RecipientFingerprint(epoch.Strict))
	if a := g.call("audrey", "epoch destroy genomics/2026Q4 --statement --reason over", "{}"); a.code != ExitDenied || !strings.Contains(a.errOut, "not about the key") {
		t.Errorf("a foreign statement: %+v", a)
	}
	if out := g.must(ExitWaiting, "audrey", "epoch destroy genomics/2026Q4 --statement --reason over", statement); !strings.Contains(out, "waits for another auditor") {
		t.Error(out)
	}
	if out := g.must(ExitOK, "audrey", "epoch ls"); !strings.Contains(out, "audrey") {
		t.Error(out)
	}
	g.must(ExitOK, "sec", "epoch keep genomics/2026Q4 --reason 'look again'")
	g.must(ExitWaiting, "audrey", "epoch destroy genomics/2026Q4 --statement --reason over", statement)
	g.must(ExitDenied, "admin", "epoch destroy genomics/2026Q4 --reason over")
	if out := g.must(ExitOK, "sec", "epoch destroy genomics/2026Q4 --reason 'saw it done'"); !strings.Contains(out, "nobody can open") {
		t.Error(out)
	}
	var epochs []authz.Epoch
	g.json(ExitOK, "audrey", "epoch ls genomics", &epochs)
	if len(epochs) != 1 || len(epochs[0].DestroyedBy) != 2 {
		t.Errorf("%+v", epochs)
	}
	var events []authz.Event
	if err := json.Unmarshal([]byte(g.must(ExitOK, "audrey", "event export --op epoch.destroy --format json")), &events); err != nil || len(events) != 1 {
		t.Errorf("%d events, %v", len(events), err)
	}
}
