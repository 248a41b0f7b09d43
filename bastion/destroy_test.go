package bastion_test

import (
	"context"
	"fmt"
	"net"
	"os/user"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"sallyport/authz"
	"sallyport/bastion"
	"sallyport/bastion/console"
)

// realVerbs gives a gate the command tree of a node.
func realVerbs(c *bastion.Config) {
	c.Verbs = console.New(console.Options{Authority: c.Authority, Recorder: c.Recorder, Ledger: c.Recorder.Ledger(),
		Node: "N-test", Name: c.Name, Version: "test", Clock: c.Clock})
}

// socket serves the gate's verbs on a unix socket, as the person who is this test's OS user.
func (g *gate) socket(p *person) (dial func() *ssh.Client) {
	g.t.Helper()
	me := must(user.Current())
	check(g.t, g.authority.SetOSUser(g.t.Context(), initActor, p.name, me.Username))
	path := filepath.Join(g.t.TempDir(), "s")
	l := must(net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"}))
	serving, stop := context.WithCancel(context.Background())
	var served sync.WaitGroup
	served.Go(func() {
		if err := g.server.ServeLocal(serving, l); err != nil {
			g.t.Error(err)
		}
	})
	g.t.Cleanup(func() { stop(); served.Wait() })
	return func() *ssh.Client {
		g.t.Helper()
		nc, err := net.Dial("unix", path)
		check(g.t, err)
		config := g.config(p, p.name)
		conn, channels, requests, err := ssh.NewClientConn(nc, path, config)
		check(g.t, err)
		c := ssh.NewClient(conn, channels, requests)
		g.t.Cleanup(func() { c.Close() })
		return c
	}
}

// TestPromise9_AnEpochIsDestroyedThroughTheGate goes past the retention with real connections: what
// makes a vote count makes a declaration count, and nothing less does.
func TestPromise9_AnEpochIsDestroyedThroughTheGate(t *testing.T) {
	g, _ := newSite(t, realVerbs)
	rosa, odin, sara := g.enrol("rosa", authz.SiteAuditor), g.enrol("odin", authz.SiteAuditor), g.enrol("sara", authz.SiteSecurity)
	local := g.socket(odin)
	const destroy = "epoch destroy genomics/2026Q4 --reason 'retention is over'"
	expect := func(c *ssh.Client, command string, status int, sentence string) {
		t.Helper()
		if o := run(t, c, command, nil); o.status != status || !strings.Contains(o.stdout+o.stderr, sentence) {
			t.Fatalf("%s: %+v, want %d and %q", command, o, status, sentence)
		}
	}
	expect(g.dial(rosa, "rosa"), destroy, 3, "kept for")
	g.clock.Advance(90*24*time.Hour + authz.MinRetention)

	shared := g.dial(rosa, "rosa")
	expect(shared, "epoch ls genomics", 0, "genomics/2026Q4")
	expect(shared, destroy, 3, "a connection of its own")
	expect(g.dial(sara, "sara"), destroy, 3, "An auditor")
	expect(g.dial(rosa, "rosa"), destroy, 5, "waits for another auditor")
	own := g.dial(rosa, "rosa")
	expect(own, destroy, 3, "declared this already")
	if _, err := own.NewSession(); err == nil {
		t.Error("a connection that carried a declaration took another channel")
	}
	expect(g.dial(sara, "sara"), "epoch keep genomics/2026Q4 --reason 'look again'", 0, "taken back")

	// On the node's socket a factor that was given a moment ago counts for other verbs only.
	expect(local(), "epoch ls genomics", 0, "genomics/2026Q4")
	expect(local(), destroy, 3, "a connection of its own")
	g.clock.Advance(11 * time.Minute)
	expect(local(), "epoch --json destroy genomics/2026Q4 --reason over", 5, "odin")
	expect(g.dial(rosa, "rosa"), fmt.Sprintf("--json %s", destroy), 0, "destroyed_at")
	var by []string
	for _, e := range g.events("epoch.destroy") {
		if e.Result == authz.ResultOK {
			by = append(by, e.UserID)
		}
	}
	if len(by) != 1 || by[0] != "rosa" {
		t.Errorf("completed by %v", by)
	}
}
