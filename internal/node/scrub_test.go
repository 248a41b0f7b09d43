package node

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sallyport/authz"
	"sallyport/recorder/vault"
)

// A finished recording is copied while the node runs, and a scrub compares both forms with the ledger,
// tells what it finds, and repairs nothing.
func TestPromise4_TheNodeCopiesAndScrubsRecordings(t *testing.T) {
	w := newCrashSite(t)
	ctx := t.Context()
	w.must(w.n.Authority.AddUser(ctx, authz.Actor{Via: "init", RemoteAddr: "local"}, authz.User{Name: "odin", SiteRole: authz.SiteAuditor}))
	invite, err := w.n.inviteFor(ctx, authz.Actor{Via: "init", RemoteAddr: "local"}, "odin", 22)
	w.must(err)
	enrol(t, w.n, invite)
	w.config.Recording.SecondDir = filepath.Join(t.TempDir(), "second")
	w.must(os.Mkdir(w.config.Recording.SecondDir, 0o700))
	w.restart()
	stop := running(t, w.n)
	s := w.open()
	w.record(s)
	second := filepath.Join(w.config.Recording.SecondDir, s.ID+vault.Suffix)
	eventually(t, "copied", func() bool { _, err := os.Stat(second); return err == nil && w.n.vault.Backlog().Files == 0 })
	r, err := w.n.Scrub(ctx, nil)
	w.must(err)
	if !r.Intact() || r.Recordings != 1 || r.Waiting != 0 {
		t.Fatalf("%+v", r)
	}
	text, err := os.ReadFile(second)
	w.must(err)
	text[len(text)/2] ^= 1
	w.must(os.WriteFile(second, text, 0o600))
	r, err = w.n.Scrub(ctx, nil)
	w.must(err)
	if r.Faults != 1 || r.Findings[0].Session != s.ID || r.Findings[0].Form != vault.Second || r.Findings[0].Good != vault.First {
		t.Fatalf("%+v", r)
	}
	events, err := w.n.Authority.Events(ctx, authz.Actor{User: "odin"}, authz.EventQuery{OpType: "recording.scrub"})
	if err != nil || len(events) != 2 || events[0].Result != authz.ResultOK || events[1].Result != authz.ResultFailed {
		t.Errorf("events %+v, %v", events, err)
	}
	eventually(t, "metrics", func() bool {
		_, body := get(t, "http://"+w.n.MetricsAddress+"/metrics")
		return strings.Contains(body, "sallyport_scrub_faults 1") && strings.Contains(body, "sallyport_second_backlog_bytes 0") &&
			strings.Contains(body, `sallyport_epoch_end_timestamp_seconds{project="genomics"}`)
	})
	w.must(stop())
}
