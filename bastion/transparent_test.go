package bastion_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"sallyport/authz"
	"sallyport/internal/testkit"
	"sallyport/recorder"
	"sallyport/replay"
)

// floodBytes is how much the byte-exact tests move each way.
const floodBytes = 64 << 20

// realSite is a gate before a real sshd, with an exporter dora who comes with
// the real ssh client.
type realSite struct {
	*gate
	sshd   *testkit.SSHD
	dir    string
	config string
}

func newRealSite(t *testing.T) *realSite {
	t.Helper()
	g := newGate(t)
	sshd := testkit.StartSSHD(t, testkit.SSHDOptions{Project: "genomics", Accounts: []string{"sp-dora"}, UserCA: g.userCA.PublicKey()})
	g.project("genomics", sshd.Address, sshd.HostKey.Signer.PublicKey())
	g.enrol("dora", "")
	g.member("dora", "genomics", authz.RoleExporter, "sp-dora")
	r := &realSite{gate: g, sshd: sshd, dir: t.TempDir()}
	key := testkit.NewKey(t, r.dir, "dora")
	check(t, g.authority.AddKey(context.Background(), initActor, "dora", must(authz.CheckKey(testkit.AuthorizedLine(key.Signer.PublicKey())))))
	host, port, _ := net.SplitHostPort(g.address)
	known := filepath.Join(r.dir, "known_hosts")
	check(t, os.WriteFile(known, []byte("["+host+"]:"+port+" "+string(ssh.MarshalAuthorizedKey(g.hostKey))), 0o600))
	r.config = filepath.Join(r.dir, "config")
	check(t, os.WriteFile(r.config, []byte(fmt.Sprintf(`Host gate
	HostName %s
	Port %s
	User dora+genomics
	IdentityFile %s
	IdentitiesOnly yes
	UserKnownHostsFile %s
	ControlPath %s/mux
	LogLevel ERROR
`, host, port, filepath.Join(r.dir, "dora"), known, r.dir)), 0o600))
	return r
}

// ssh prepares the real client with a code for its second factor.
func (r *realSite) ssh(args ...string) *exec.Cmd {
	r.t.Helper()
	env, err := testkit.WriteFixedAskpass(r.dir, fmt.Sprintf("askpass-%d", time.Now().UnixNano()), r.code(r.people["dora"]))
	check(r.t, err)
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	r.t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, "ssh", append([]string{"-F", r.config}, args...)...)
	cmd.Env = append(os.Environ(), env...)
	return cmd
}

// master logs in once; further calls of ssh share its connection until the test ends.
func (r *realSite) master() {
	r.t.Helper()
	master := r.ssh("-M", "-N", "gate")
	check(r.t, master.Start())
	r.t.Cleanup(func() {
		_ = exec.Command("ssh", "-F", r.config, "-O", "exit", "gate").Run()
		_ = master.Wait()
	})
	testkit.WaitFor(r.t, 20*time.Second, "the master connection", func() bool {
		return exec.Command("ssh", "-F", r.config, "-O", "check", "gate").Run() == nil
	})
}

// noise is bytes that no text encoding likes: invalid UTF-8, escapes, split
// sequences, NUL and 8-bit controls, the same for the same seed.
func noise(n int, seed uint64) []byte {
	b := make([]byte, n)
	var s [32]byte
	s[0] = byte(seed)
	_, _ = mathrand.NewChaCha8(s).Read(b)
	for i := 0; i+8 < n; i += 4096 {
		copy(b[i:], []string{"\x1b[31m\xe2\x82", "\xac\xff\xfe\x00\r\n", "\x18B0000\x1b]", "\xf0\x9f\x98\x80\x9b1"}[i/4096%4])
	}
	return b
}

// recorded returns the hashes of a session's recorded input and output.
func (g *gate) recorded(s authz.Session) (in, out string) {
	g.t.Helper()
	keys, err := replay.KeysOf(g.epochs[s.Project], g.node.Public().(ed25519.PublicKey))
	check(g.t, err)
	r, err := replay.OpenFile(g.recorder.Path(s.ID), keys)
	check(g.t, err)
	defer r.Close()
	input, output := sha256.New(), sha256.New()
	for {
		e, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		check(g.t, err)
		switch e.Kind {
		case recorder.KindInput:
			input.Write(e.Data)
		case recorder.KindOutput:
			output.Write(e.Data)
		}
	}
	return hex.EncodeToString(input.Sum(nil)), hex.EncodeToString(output.Sum(nil))
}

func sum(b []byte) string {
	h := sha256.Sum256(b)
	return hex.EncodeToString(h[:])
}

// only waits until the one session that matches has ended, and returns it.
func (g *gate) only(match func(authz.Session) bool) authz.Session {
	g.t.Helper()
	var found authz.Session
	testkit.WaitFor(g.t, 10*time.Second, "the session to be closed", func() bool {
		n := 0
		for _, s := range g.sessions() {
			if match(s) && s.Result != "" {
				found = s
				n++
			}
		}
		return n == 1
	})
	return found
}

func TestBytesThroughExecAreSentRecordedAndReceivedAlike(t *testing.T) {
	r := newRealSite(t)
	data := noise(floodBytes, 1)
	cmd := r.ssh("gate", "cat")
	cmd.Stdin = bytes.NewReader(data)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, os.Stderr
	check(t, cmd.Run())
	if sum(out.Bytes()) != sum(data) {
		t.Errorf("received %d bytes that differ from the %d sent", out.Len(), len(data))
	}
	s := r.only(func(s authz.Session) bool { return s.Command == "cat" })
	in, shown := r.recorded(s)
	if in != sum(data) || shown != sum(data) {
		t.Error("the recording differs from what was sent or received")
	}
	if s.BytesIn != floodBytes || s.BytesOut != floodBytes {
		t.Errorf("counted %d in, %d out", s.BytesIn, s.BytesOut)
	}
	if rep := r.verified(s); !rep.Complete {
		t.Errorf("recording: %+v", rep)
	}
}

func TestBytesThroughATerminalAreSentRecordedAndReceivedAlike(t *testing.T) {
	r := newRealSite(t)
	data := noise(floodBytes, 2)
	path := filepath.Join(r.sshd.Accounts["sp-dora"].Home, "noise")
	check(t, os.WriteFile(path, data, 0o644))

	cmd := r.ssh("-tt", "-e", "none", "gate", "stty raw -echo; cat noise")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, os.Stderr
	check(t, cmd.Run())
	if sum(out.Bytes()) != sum(data) {
		t.Errorf("received %d bytes that differ from the %d of the terminal", out.Len(), len(data))
	}
	s := r.only(func(s authz.Session) bool { return strings.HasSuffix(s.Command, "cat noise") })
	if _, shown := r.recorded(s); shown != sum(data) {
		t.Error("the recording differs from what was shown")
	}

	const typed = 8 << 20
	cmd = r.ssh("-tt", "-e", "none", "gate", fmt.Sprintf("stty raw -echo; printf ready; head -c %d | sha256sum", typed))
	in, err := cmd.StdinPipe()
	check(t, err)
	stdout, err := cmd.StdoutPipe()
	check(t, err)
	check(t, cmd.Start())
	expect(t, stdout, "ready") // before that the terminal would still change what is typed
	go func() {
		_, _ = in.Write(data[:typed])
	}()
	got := expect(t, stdout, "-")
	in.Close()
	check(t, cmd.Wait())
	if !strings.Contains(got, sum(data[:typed])) {
		t.Errorf("the server's terminal got other bytes: %q", got)
	}
	s = r.only(func(s authz.Session) bool { return strings.HasSuffix(s.Command, "sha256sum") })
	if typedHash, _ := r.recorded(s); typedHash != sum(data[:typed]) {
		t.Error("the recording differs from what was typed")
	}
}

func TestEightSessionsOnOneConnectionLoseNothing(t *testing.T) {
	r := newRealSite(t)
	r.master()
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			data := noise(8<<20, uint64(i))
			cmd := exec.Command("ssh", "-F", r.config, "gate", fmt.Sprintf("cat; exit %d", i))
			cmd.Stdin = bytes.NewReader(data)
			var out bytes.Buffer
			cmd.Stdout = &out
			err := cmd.Run()
			var exit *exec.ExitError
			if i > 0 && (!errors.As(err, &exit) || exit.ExitCode() != i) || i == 0 && err != nil {
				t.Errorf("session %d: %v", i, err)
			}
			if sum(out.Bytes()) != sum(data) {
				t.Errorf("session %d received %d bytes that differ", i, out.Len())
			}
		})
	}
	wg.Wait()
	connection := ""
	for i := range 8 {
		s := r.only(func(s authz.Session) bool { return s.Command == fmt.Sprintf("cat; exit %d", i) })
		want := sum(noise(8<<20, uint64(i)))
		if in, out := r.recorded(s); in != want || out != want {
			t.Errorf("recording of session %d differs", i)
		}
		if connection == "" {
			connection = s.Connection
		}
		if s.Connection != connection || s.ExitCode != i {
			t.Errorf("session %d: %+v", i, s)
		}
	}
	if n := strings.Count(r.sshd.Log(), "Accepted publickey for sp-dora"); n != 1 {
		t.Errorf("%d logins at the data server, want one for the connection", n)
	}
	if !strings.Contains(r.sshd.Log(), "sallyport conn="+connection+" user=dora project=genomics") {
		t.Error("the data server's log does not name the connection") // promise 8
	}
}

func TestNothingIsLostAtTheClose(t *testing.T) {
	r := newRealSite(t)
	r.master()
	// A program that ends its output long before itself.
	if err := exec.Command("ssh", "-F", r.config, "gate", "exec 1>&- 2>&-; sleep 0.3; exit 9").Run(); err == nil || err.Error() != "exit status 9" {
		t.Errorf("status after an early end of output: %v", err)
	}
	for i := range 60 {
		out, err := exec.Command("ssh", "-F", r.config, "gate", fmt.Sprintf("echo out %d; echo err %d >&2; exit 7", i, i)).CombinedOutput()
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != 7 || !strings.Contains(string(out), fmt.Sprintf("out %d\n", i)) || !strings.Contains(string(out), fmt.Sprintf("err %d\n", i)) {
			t.Fatalf("round %d: %v, %q", i, err, out)
		}
	}
}

func TestSignalsAndExitSignalsPass(t *testing.T) {
	r := newRealSite(t)
	c := r.dial(r.people["dora"], "dora+genomics")
	o := run(t, c, "kill -TERM $$", nil)
	if o.signal != "TERM" {
		t.Errorf("the program's end by a signal: %+v", o)
	}
	s, err := c.NewSession()
	check(t, err)
	out := must(s.StdoutPipe())
	check(t, s.Start("trap 'echo got it; exit 5' INT; echo ready; while :; do sleep 0.05; done"))
	expect(t, out, "ready")
	check(t, s.Signal(ssh.SIGINT))
	expect(t, out, "got it")
	var exit *ssh.ExitError
	if err := s.Wait(); !errors.As(err, &exit) || exit.ExitStatus() != 5 {
		t.Errorf("after the signal: %v", err)
	}
}

func TestLettingAChannelGoLeavesItsNeighboursAlone(t *testing.T) {
	r := newRealSite(t)
	c := r.dial(r.people["dora"], "dora+genomics")
	neighbour := shell(t, c)
	fmt.Fprint(neighbour.in, "echo al\"\"ive\n")
	expect(t, neighbour.out, "alive")
	// sshd keeps a channel whose program has not read its input, and answers no close.
	s, err := c.NewSession()
	check(t, err)
	in := must(s.StdinPipe())
	check(t, s.Start("exec sleep 60"))
	go func() { _, _ = in.Write(bytes.Repeat([]byte("x"), 4<<20)) }()
	testkit.WaitFor(t, 10*time.Second, "the input to arrive", func() bool {
		for _, s := range r.sessions() {
			if s.Command == "exec sleep 60" {
				return true
			}
		}
		return false
	})
	s.Close()
	r.only(func(s authz.Session) bool { return s.Command == "exec sleep 60" })
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = neighbour.Wait()
	}()
	select {
	case <-ended:
		t.Fatal("closing one channel ended the neighbour's shell")
	case <-time.After(3 * time.Second): // longer than the patience with the server
	}
	fmt.Fprint(neighbour.in, "echo still he\"\"re\n")
	expect(t, neighbour.out, "still here")
}

func TestEndOfFileTravelsBothWays(t *testing.T) {
	r := newRealSite(t)
	c := r.dial(r.people["dora"], "dora+genomics")
	// The program ends its output, reads on, and answers by its status.
	s, err := c.NewSession()
	check(t, err)
	in, out := must(s.StdinPipe()), must(s.StdoutPipe())
	check(t, s.Start("exec 1>&- 2>&-; read x; test \"$x\" = later"))
	fmt.Fprintln(in, "later")
	in.Close()
	if b, err := io.ReadAll(out); err != nil || len(b) > 0 {
		t.Errorf("output: %q, %v", b, err)
	}
	check(t, s.Wait())
	// The client ends its input first.
	if o := run(t, c, "wc -c", strings.NewReader("12345")); strings.TrimSpace(o.stdout) != "5" {
		t.Errorf("%+v", o)
	}
}

func TestPromise6_ScpByRoleThroughTheRealClient(t *testing.T) {
	r := newRealSite(t)
	file := filepath.Join(r.sshd.Accounts["sp-dora"].Home, "result.csv")
	check(t, os.WriteFile(file, []byte("a,b\n1,2\n"), 0o644))
	scp := func(user string) ([]byte, error) {
		target := filepath.Join(r.dir, user+".csv")
		env, err := testkit.WriteFixedAskpass(r.dir, "askpass-"+user, r.code(r.people[user]))
		check(t, err)
		cmd := exec.Command("scp", "-F", r.config, "-o", "User="+user+"+genomics", "-i", filepath.Join(r.dir, user), "gate:result.csv", target)
		cmd.Env = append(os.Environ(), env...)
		out, err := cmd.CombinedOutput()
		if err == nil {
			return os.ReadFile(target)
		}
		return out, err
	}
	if b, err := scp("dora"); err != nil || string(b) != "a,b\n1,2\n" {
		t.Errorf("an exporter's copy: %q, %v", b, err)
	}
	r.enrol("finn", "")
	r.member("finn", "genomics", authz.RoleImporter, "")
	key := testkit.NewKey(t, r.dir, "finn")
	check(t, r.authority.AddKey(context.Background(), initActor, "finn", must(authz.CheckKey(testkit.AuthorizedLine(key.Signer.PublicKey())))))
	out, err := scp("finn")
	if err == nil || !strings.Contains(string(out), "reference E-") {
		t.Errorf("a copy by one who may not: %q, %v", out, err)
	}
}
