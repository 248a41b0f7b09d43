package console

import (
	"context"
	"errors"
	"iter"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sallyport/recorder/vault"
)

func TestScrubTellsWhatIsWrong(t *testing.T) {
	g := newGate(t)
	dir := t.TempDir()
	if err := errors.Join(os.Mkdir(filepath.Join(dir, "one"), 0o700), os.Mkdir(filepath.Join(dir, "two"), 0o700)); err != nil {
		t.Fatal(err)
	}
	v, err := vault.Open(vault.Options{Dir: filepath.Join(dir, "one"), Second: filepath.Join(dir, "two"), State: dir})
	if err != nil {
		t.Fatal(err)
	}
	missing := vault.Expected{Session: "S-01TEST", Root: strings.Repeat("0", 64), Size: 1}
	ledger := []vault.Expected{}
	g.console.o.Vault = v
	g.console.o.Scrub = func(ctx context.Context, progress func(vault.Report)) (vault.Report, error) {
		return v.Scrub(ctx, func(int64) iter.Seq2[vault.Expected, error] {
			return func(yield func(vault.Expected, error) bool) {
				for _, e := range ledger {
					if !yield(e, nil) {
						return
					}
				}
			}
		}, progress)
	}
	for _, name := range []string{"alice", "mei"} {
		g.must(ExitDenied, name, "scrub --now")
	}
	if out := g.must(ExitOK, "admin", "scrub"); !strings.Contains(out, "none yet") || !strings.Contains(out, "0 recordings") {
		t.Error(out)
	}
	if out := g.must(ExitOK, "audrey", "scrub --now"); !strings.Contains(out, "faults") {
		t.Error(out)
	}
	ledger = append(ledger, missing)
	a := g.call("sec", "scrub --now", "")
	if a.code != ExitFailed || !strings.Contains(a.out, "S-01TEST: the first form: it is missing") {
		t.Errorf("%+v", a)
	}
	g.console.o.Warnings = func() []string { return []string{"an alarm stands"} }
	if out := g.must(ExitOK, "sec", "status"); !strings.Contains(out, "an alarm stands") || !strings.Contains(out, "found 1 fault;") {
		t.Error(out)
	}
	if out := g.must(ExitOK, "alice", "status"); strings.Contains(out, "warning") {
		t.Error(out)
	}
	if a := g.call("sec", "scrub --json", ""); a.code != ExitFailed || !strings.Contains(a.out, `"fault": "it is missing"`) {
		t.Errorf("%+v", a)
	}
}
