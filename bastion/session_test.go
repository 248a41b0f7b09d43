package bastion_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/crypto/ssh"

	"sallyport/authz"
	"sallyport/bastion"
	"sallyport/internal/testkit"
	"sallyport/recorder/ledger"
)

// newSite is a gate with one project, its data server, a researcher alice and
// an exporter bob.
func newSite(t testing.TB, options ...gateOption) (*gate, *dataServer) {
	t.Helper()
	d := newDataServer(t, "genomics")
	g := newGate(t, options...)
	d.ca = g.userCA.PublicKey()
	g.project("genomics", d.address, d.hostKey.PublicKey())
	g.enrol("alice", "")
	g.member("alice", "genomics", authz.RoleResearcher, "")
	g.enrol("bob", "")
	g.member("bob", "genomics", authz.RoleExporter, "")
	return g, d
}

// terminal is an open shell with a terminal.
type terminal struct {
	*ssh.Session
	in     io.WriteCloser
	out    io.Reader
	stderr io.Reader
}

func shell(t testing.TB, c *ssh.Client) terminal {
	t.Helper()
	s, err := c.NewSession()
	check(t, err)
	t.Cleanup(func() { s.Close() })
	check(t, s.RequestPty("xterm", 24, 80, ssh.TerminalModes{}))
	term := terminal{s, must(s.StdinPipe()), must(s.StdoutPipe()), must(s.StderrPipe())}
	check(t, s.Shell())
	return term
}

func expect(t testing.TB, r io.Reader, want string) string {
	t.Helper()
	got := make([]byte, 0, 256)
	buf := make([]byte, 4096)
	found := make(chan error, 1)
	go func() {
		for !strings.Contains(string(got), want) {
			n, err := r.Read(buf)
			got = append(got, buf[:n]...)
			if err != nil {
				found <- err
				return
			}
		}
		found <- nil
	}()
	select {
	case err := <-found:
		if err != nil && !strings.Contains(string(got), want) {
			t.Fatalf("waiting for %q: %v; got %q", want, err, got)
		}
	case <-time.After(10 * time.Second):
		t.Fatalf("%q did not come", want)
	}
	return string(got)
}

func TestShellReachesTheOwnServerAndIsRecorded(t *testing.T) {
	g, d := newSite(t)
	c := g.dial(g.people["alice"], "alice")
	s := shell(t, c)
	fmt.Fprint(s.in, "hello\n")
	expect(t, s.out, "hello\n")
	check(t, s.WindowChange(50, 132))
	s.in.Close()
	check(t, s.Wait())
	all := g.sessions()
	if len(all) != 1 || all[0].Result != "exited" || all[0].BytesIn != 6 || all[0].BytesOut != 6 || !all[0].PTY {
		t.Fatalf("sessions: %+v", all)
	}
	if !d.saw("env LC_SALLYPORT_SESSION=" + all[0].ID) {
		t.Errorf("the data server was not told the session: %q", d.notes())
	}
	if !d.saw("login sallyport conn=" + all[0].Connection + " user=alice project=genomics") {
		t.Errorf("certificate key id: %q", d.notes())
	}
	if r := g.verified(all[0]); !r.Complete {
		t.Errorf("recording: %+v", r)
	}
	// The person takes away what the ledger claims about the recording.
	line := expect(t, s.stderr, "\r\n")
	receipt, ok := strings.CutPrefix(strings.TrimSpace(line), "receipt: ")
	check(t, g.recorder.Ledger().Publish(t.Context()))
	item, err := ledger.VerifyReceipt(filepath.Join(g.dir, "ledger"), receipt, g.node.Public().(ed25519.PublicKey))
	if !ok || err != nil || item.Leaf == nil || item.Leaf.Kind != ledger.KindClose || item.Leaf.Session != all[0].ID || item.Leaf.Hash != all[0].Head {
		t.Errorf("the receipt %q: %+v, %v", line, item.Leaf, err)
	}
}

func TestExecKeepsTheCommandByteForByte(t *testing.T) {
	g, d := newSite(t)
	c := g.dial(g.people["bob"], "bob+genomics")
	// black-box case 46: what a shell would take apart must arrive whole
	for _, command := range []string{`echo "a b"  'c'`, `echo \\ \" \' $HOME`, "printf '%s' \"$(id)\"", "a\tb", "x\ny", "ü€𝄞", "\xff\xfe\x00x",
		`'`, `"`, `\`, "echo *?[a]{b,c}", "# not a comment", " leading and trailing ", "a;b&&c||d|e>f<g&"} {
		o := run(t, c, command, nil)
		if o.status != 0 || !d.saw("exec "+command) {
			t.Errorf("exec %q: %+v", command, o)
		}
	}
	o := run(t, c, "status 43", nil)
	if o.status != 43 {
		t.Errorf("exit status 43 came as %d", o.status) // case 45
	}
	o = run(t, c, "stderr", nil)
	if o.stdout != "out\n" || o.stderr != "err\n" {
		t.Errorf("standard error is not apart: %+v", o)
	}
}

// request asks for an exec or a subsystem on a raw channel and closes its input.
func request(t testing.TB, c *ssh.Client, kind, what string) outcome {
	t.Helper()
	ch, requests, err := c.OpenChannel("session", nil)
	check(t, err)
	defer ch.Close()
	o := outcome{status: -1}
	if ok, err := ch.SendRequest(kind, true, ssh.Marshal(struct{ What string }{what})); !ok || err != nil {
		t.Fatalf("%s %q: %v, %v", kind, what, ok, err)
	}
	_ = ch.CloseWrite() // a refusal may have closed the channel already
	var stderr bytes.Buffer
	read := make(chan struct{})
	go func() {
		defer close(read)
		_, _ = io.Copy(&stderr, ch.Stderr())
	}()
	stdout, err := io.ReadAll(ch)
	check(t, err)
	<-read
	for r := range requests {
		if r.Type == "exit-status" {
			o.status = int(r.Payload[3])
		}
	}
	o.stdout, o.stderr = string(stdout), stderr.String()
	return o
}

func TestTableOfActionsByRole(t *testing.T) {
	g, d := newSite(t)
	for _, c := range []struct {
		who, user, kind, what string
		allowed               bool
	}{
		{"alice", "alice+genomics", "exec", "id", false},        // cases 43 and 42
		{"alice", "alice+genomics", "subsystem", "sftp", false}, // case 41
		{"bob", "bob+genomics", "exec", "id", true},
		{"bob", "bob+genomics", "subsystem", "sftp", true},
		{"bob", "bob+genomics", "subsystem", "netconf", false}, // case 47
		{"bob", "bob", "subsystem", "sftp", false},
	} {
		client := g.dial(g.people[c.who], c.user)
		o := request(t, client, c.kind, c.what)
		if reached := d.saw(c.kind + " " + c.what); reached != c.allowed {
			t.Errorf("%+v: reached the data server: %v", c, reached)
		}
		if !c.allowed && (o.status != 3 || !strings.Contains(o.stderr, "reference E-")) {
			t.Errorf("%+v: %+v", c, o)
		}
		if strings.Count(o.stderr, "\n") > 1 {
			t.Errorf("more than one sentence: %q", o.stderr)
		}
		client.Close()
		d.mu.Lock()
		d.seen = nil
		d.mu.Unlock()
	}
}

func TestForwardingIsProhibitedWithTheReason(t *testing.T) {
	g, _ := newSite(t)
	c := g.dial(g.people["bob"], "bob+genomics")
	s := shell(t, c)
	fmt.Fprint(s.in, "ready\n")
	expect(t, s.out, "ready")
	for _, kind := range []string{"direct-tcpip", "direct-streamlocal@openssh.com", "tun@openssh.com", "x11", "auth-agent@openssh.com", "forwarded-tcpip", "nonsense"} {
		_, _, err := c.OpenChannel(kind, ssh.Marshal(struct {
			A string
			B uint32
			C string
			D uint32
		}{"10.0.0.1", 22, "x", 1}))
		var refused *ssh.OpenChannelError
		if !errors.As(err, &refused) || refused.Reason != ssh.Prohibited || !strings.Contains(refused.Message, "reference E-") {
			t.Errorf("%s: %v", kind, err) // cases 38 and 39
		}
	}
	for _, kind := range []string{"tcpip-forward", "streamlocal-forward@openssh.com", "hostkeys-prove-00@openssh.com"} {
		ok, _, err := c.SendRequest(kind, true, ssh.Marshal(struct {
			A string
			B uint32
		}{"", 0}))
		if ok || err != nil {
			t.Errorf("%s: %v, %v", kind, ok, err)
		}
	}
	for _, kind := range []string{"auth-agent-req@openssh.com", "x11-req", "made-up"} {
		if ok, err := s.Session.SendRequest(kind, true, nil); ok || err != nil {
			t.Errorf("%s: %v, %v", kind, ok, err)
		}
	}
	if n := len(g.events("channel.refused")); n != 7 {
		t.Errorf("%d events of refused channels, want 7", n)
	}
	if n := len(g.events("request.refused")); n != 5 {
		t.Errorf("%d events of refused requests, want 5", n)
	}
}

func TestPromise2_OtherProjectIsRefusedLikeOneThatDoesNotExist(t *testing.T) {
	g, _ := newSite(t)
	other := newDataServer(t, "cohort")
	other.ca = g.userCA.PublicKey()
	g.project("cohort", other.address, other.hostKey.PublicKey())
	strip := func(o outcome) string {
		s, _, _ := strings.Cut(o.stderr, "(reference")
		return fmt.Sprint(o.status, s)
	}
	// cases 26 and 28
	real := run(t, g.dial(g.people["bob"], "bob+cohort"), "id", nil)
	invented := run(t, g.dial(g.people["bob"], "bob+nosuch"), "id", nil)
	if a, b := strip(real), strings.ReplaceAll(strip(invented), "nosuch", "cohort"); a != b || real.status != 3 {
		t.Errorf("another project and none differ:\n%q\n%q", a, b)
	}
	if len(other.notes()) > 0 {
		t.Errorf("the other project's server was touched: %q", other.notes())
	}
}

func TestPromise2_SessionEndsWithTheMembership(t *testing.T) {
	for _, c := range []struct {
		name string
		end  func(g *gate, session string, m authz.Membership) error
		want string
	}{
		{"membership ended", func(g *gate, _ string, m authz.Membership) error {
			return g.authority.EndMember(context.Background(), authz.Actor{User: "mei-genomics", RemoteAddr: "127.0.0.1", Via: "ssh"}, m.ID, "left the project today")
		}, "right-ended"},
		{"user frozen", func(g *gate, _ string, _ authz.Membership) error {
			return g.authority.Freeze(context.Background(), authz.Actor{User: "sec", RemoteAddr: "127.0.0.1", Via: "ssh"}, "carl", "suspected misuse")
		}, "right-ended"},
		{"killed", func(g *gate, session string, _ authz.Membership) error {
			return g.authority.KillSession(context.Background(), authz.Actor{User: "sec", RemoteAddr: "127.0.0.1", Via: "ssh"}, session, "suspected misuse")
		}, "killed"},
		{"expired", func(g *gate, _ string, _ authz.Membership) error {
			g.clock.Advance(2000 * time.Hour)
			return nil
		}, "right-ended"},
	} {
		t.Run(c.name, func(t *testing.T) {
			g, d := newSite(t)
			g.enrol("sec", authz.SiteSecurity)
			g.enrol("carl", "")
			m := g.member("carl", "genomics", authz.RoleExporter, "")
			client := g.dial(g.people["carl"], "carl+genomics")
			s := shell(t, client)
			fmt.Fprint(s.in, "ready\n")
			expect(t, s.out, "ready")
			id := g.sessions()[0].ID
			began := time.Now()
			check(t, c.end(g, id, m))
			told := expect(t, s.stderr, "\n")
			var exit *ssh.ExitError
			if err := s.Wait(); !errors.As(err, &exit) || exit.ExitStatus() != 3 {
				t.Errorf("ended with %v", err)
			}
			testkit.WaitFor(t, time.Second, "the data server to see the end", func() bool { return d.saw("closed") })
			if took := time.Since(began); took > time.Second && c.name != "expired" {
				t.Errorf("took %v, promised is 1 s", took)
			} else {
				t.Logf("ended after %v: %s", took.Round(time.Millisecond), strings.TrimSpace(told))
			}
			testkit.WaitFor(t, 2*time.Second, "the session to be closed", func() bool { return g.sessions()[0].Result == c.want })
			if r := g.verified(g.sessions()[0]); !r.Complete {
				t.Errorf("recording: %+v", r)
			}
		})
	}
}

func TestPromise2_EveryChannelIsDecidedAgain(t *testing.T) {
	g, _ := newSite(t)
	g.enrol("carl", "")
	m := g.member("carl", "genomics", authz.RoleExporter, "")
	c := g.dial(g.people["carl"], "carl+genomics")
	if o := run(t, c, "id", nil); o.status != 0 {
		t.Fatalf("first channel: %+v", o)
	}
	check(t, g.authority.EndMember(context.Background(), authz.Actor{User: "mei-genomics", RemoteAddr: "127.0.0.1", Via: "ssh"}, m.ID, "left the project today"))
	if o := run(t, c, "id", nil); o.status != 3 { // cases 36 of the egress list, 48 and 29
		t.Errorf("second channel on the same connection: %+v", o)
	}
}

func TestPromise3_FailedRecordingEndsTheSession(t *testing.T) {
	g, d := newSite(t)
	c := g.dial(g.people["alice"], "alice")
	s := shell(t, c)
	fmt.Fprint(s.in, "ready\n")
	expect(t, s.out, "ready")
	other := g.dial(g.people["bob"], "bob+genomics") // afterwards nobody can log in: that is an event, too
	// Take the disk away: every later write fails.
	breakRecordings(t, g)
	fmt.Fprint(s.in, "must not arrive\n")
	told := expect(t, s.stderr, "\n")
	var exit *ssh.ExitError
	if err := s.Wait(); !errors.As(err, &exit) || exit.ExitStatus() != 254 {
		t.Fatalf("ended with %v, told %q", err, told)
	}
	if !strings.Contains(told, "can no longer be recorded") {
		t.Errorf("told %q", told)
	}
	// The gate may have hung up by now, which is as good as a refusal.
	if again, err := other.NewSession(); err == nil {
		if out, err := again.CombinedOutput("id"); err == nil {
			t.Errorf("a new session after the failure: %q", out)
		}
	}
	if d.saw("exec id") {
		t.Error("a session started unrecorded")
	}
}

// breakRecordings makes the open journal of this process fail: its file
// descriptors are replaced by one that is open for reading only.
func breakRecordings(t *testing.T, g *gate) {
	t.Helper()
	readOnly, err := os.Open(os.DevNull)
	check(t, err)
	t.Cleanup(func() { readOnly.Close() })
	fds, err := os.ReadDir("/proc/self/fd")
	check(t, err)
	n := 0
	for _, fd := range fds {
		target, err := os.Readlink(filepath.Join("/proc/self/fd", fd.Name()))
		if err == nil && strings.HasPrefix(target, filepath.Join(g.dir, "journal")+"/") {
			var number int
			fmt.Sscan(fd.Name(), &number)
			check(t, dup(int(readOnly.Fd()), number))
			n++
		}
	}
	if n == 0 {
		t.Fatal("no open journal found")
	}
}

func TestBadDataServers(t *testing.T) {
	for _, c := range []struct {
		name, want string
		spoil      func(g *gate, d *dataServer)
	}{
		{"down", "closed the connection", func(_ *gate, d *dataServer) { d.behave = func(c net.Conn) { c.Close() } }},
		{"garbage before version", "did not answer as an SSH server should", func(_ *gate, d *dataServer) {
			d.behave = func(c net.Conn) { _, _ = io.Copy(c, io.LimitReader(zeros{}, 1<<20)) }
		}},
		{"another host key", "host key that is not the one on record", func(_ *gate, d *dataServer) { // case 36
			_, host := must2(ed25519.GenerateKey(rand.Reader))
			d.hostKey = must(ssh.NewSignerFromKey(host))
		}},
		{"refuses the account", "does not accept your account", func(_ *gate, d *dataServer) { d.project = "other" }},
		{"ends without a status", "was lost", func(_ *gate, d *dataServer) {
			d.handle = func(_ *dataServer, ch ssh.Channel, _, _ string) { ch.Close() }
		}},
		{"cuts the connection", "was lost", func(_ *gate, d *dataServer) {
			d.handle = func(d *dataServer, _ ssh.Channel, _, _ string) { d.cut() }
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			g, d := newSite(t)
			d.mu.Lock()
			c.spoil(g, d)
			d.mu.Unlock()
			client := g.dial(g.people["bob"], "bob+genomics")
			o := run(t, client, "id", nil)
			if o.status != 1 || !strings.Contains(o.stderr, c.want) {
				t.Errorf("%+v, want a sentence with %q", o, c.want)
			}
			if c.name == "another host key" {
				details := g.events("server.failed")[0].Details
				if details["offered_host_key"] != ssh.FingerprintSHA256(d.hostKey.PublicKey()) || details["pinned_host_key"] == details["offered_host_key"] {
					t.Errorf("the event names other keys: %v", details)
				}
			}
			if !strings.Contains(o.stderr, "reference ") || strings.Count(o.stderr, "\n") != 1 {
				t.Errorf("not one sentence with a reference: %q", o.stderr)
			}
		})
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

func TestOversizedAndMalformedRequests(t *testing.T) {
	g, d := newSite(t)
	huge := func(s *ssh.Session) error {
		for i := range 40 {
			if _, err := s.SendRequest("env", false, ssh.Marshal(struct{ A, B string }{fmt.Sprintf("LC_X%d", i), strings.Repeat("a", 1000)})); err != nil {
				return err
			}
		}
		return nil
	}
	for _, c := range []struct {
		name    string
		prepare func(*ssh.Session) error
		command string
		want    string
	}{
		{"environment", huge, "id", "bytes of environment"},
		{"terminal too wide", func(s *ssh.Session) error {
			_, err := s.SendRequest("pty-req", true, ssh.Marshal(struct {
				T          string
				A, B, C, D uint32
				M          string
			}{"xterm", 1 << 31, 1, 0, 0, ""}))
			return err
		}, "id", "a terminal that the gate cannot give"},
		{"terminal cut short", func(s *ssh.Session) error {
			_, err := s.SendRequest("pty-req", true, []byte{0, 0, 0, 200, 1})
			return err
		}, "id", "a terminal that the gate cannot give"},
		{"command too long", func(*ssh.Session) error { return nil }, strings.Repeat("x", 200<<10), "at most"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := must(g.dial(g.people["bob"], "bob+genomics").NewSession())
			var stderr bytes.Buffer
			s.Stderr = &stderr
			check(t, c.prepare(s))
			var exit *ssh.ExitError
			if err := s.Run(c.command); !errors.As(err, &exit) || exit.ExitStatus() != 3 || !strings.Contains(stderr.String(), c.want) {
				t.Errorf("%v, %q", err, stderr.String())
			}
		})
	}
	// A malformed exec request is a failed request, and the channel goes on.
	s := must(g.dial(g.people["bob"], "bob+genomics").NewSession())
	if ok, err := s.SendRequest("exec", true, []byte{0xff, 0xff, 0xff, 0xff}); ok || err != nil {
		t.Errorf("malformed exec: %v %v", ok, err)
	}
	for _, seen := range d.notes() {
		if strings.HasPrefix(seen, "exec") {
			t.Errorf("something ran: %q", seen)
		}
	}
}

func TestChannelsOfOneConnectionAreCapped(t *testing.T) {
	g, _ := newSite(t, func(c *bastion.Config) { c.Limits.Channels = 3 })
	c := g.dial(g.people["bob"], "bob+genomics")
	for range 3 {
		_, err := c.NewSession()
		check(t, err)
	}
	if _, err := c.NewSession(); err == nil || !strings.Contains(err.Error(), "3 channels") {
		t.Errorf("fourth channel: %v", err)
	}
}

func TestVerbsAreServedAtTheBareName(t *testing.T) {
	g, _ := newSite(t)
	c := g.dial(g.people["alice"], "alice")
	if o := run(t, c, `request show 'a b' "c"`, nil); o.stdout != "alice [\"request\" \"show\" \"a b\" \"c\"] verb-only=false\n" || o.status != 0 {
		t.Errorf("%+v", o)
	}
	if o := run(t, c, "fail", nil); o.status != 4 {
		t.Errorf("exit code of a verb: %+v", o)
	}
	if o := run(t, c, "request approve 1", nil); !strings.Contains(o.stdout, "verb-only=false") {
		t.Errorf("a vote on a shared connection counted: %+v", o)
	}
	if o := run(t, g.dial(g.people["alice"], "alice"), "request approve 1", nil); !strings.Contains(o.stdout, "verb-only=true") {
		t.Errorf("a vote on its own connection did not count: %+v", o)
	}
	vote := g.dial(g.people["alice"], "alice")
	run(t, vote, "request approve 1", nil)
	if _, err := vote.NewSession(); err == nil {
		t.Error("a connection that carried a vote took another channel")
	}
}

func TestMenuOfSeveralProjects(t *testing.T) {
	g, _ := newSite(t)
	other := newDataServer(t, "cohort")
	other.ca = g.userCA.PublicKey()
	g.project("cohort", other.address, other.hostKey.PublicKey())
	g.member("alice", "cohort", authz.RoleResearcher, "")
	s := shell(t, g.dial(g.people["alice"], "alice"))
	expect(t, s.out, "Number or name: ")
	fmt.Fprint(s.in, "nowhere\r")
	expect(t, s.out, "Number or name: ")
	fmt.Fprint(s.in, "cohort\rtyped ahead")
	expect(t, s.out, "typed ahead")
	s.in.Close()
	check(t, s.Wait())
	if !other.saw("shell ") {
		t.Errorf("the menu's first entry is cohort/db1; seen %q", other.notes())
	}
}

func TestNothingLeaksWhenClientsVanish(t *testing.T) {
	g, _ := newSite(t)
	before := runtime.NumGoroutine()
	for i := range 5 {
		c, err := ssh.Dial("tcp", g.address, g.config(g.people["bob"], "bob+genomics"))
		check(t, err)
		for range 3 {
			s := must(c.NewSession())
			check(t, s.Start("cat"))
		}
		if i%2 == 0 {
			c.Close()
		} else {
			c.Conn.Close()
		}
	}
	testkit.WaitFor(t, 10*time.Second, "the goroutines of vanished clients to end", func() bool {
		return runtime.NumGoroutine() <= before+2
	})
	testkit.WaitFor(t, 10*time.Second, "their sessions to be closed", func() bool {
		for _, s := range g.sessions() {
			if s.Result == "" {
				return false
			}
		}
		return true
	})
	g.stop()
}

func TestStoppingGateTellsItsPeople(t *testing.T) {
	g, _ := newSite(t)
	s := shell(t, g.dial(g.people["alice"], "alice"))
	fmt.Fprint(s.in, "ready\n")
	expect(t, s.out, "ready")
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		g.stop()
	}()
	expect(t, s.stderr, "shutting down and ends your session now. (reference E-")
	var exit *ssh.ExitError
	if err := s.Wait(); !errors.As(err, &exit) || exit.ExitStatus() != 3 {
		t.Errorf("ended with %v", err)
	}
	<-stopped
}

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m)
}
