package bastion_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"sallyport/authz"
	"sallyport/bastion"
	"sallyport/internal/testkit"
)

// answers makes a client that answers each question with the next of the list.
func answers(list ...string) ssh.AuthMethod {
	return ssh.KeyboardInteractive(func(_, _ string, questions []string, _ []bool) ([]string, error) {
		var out []string
		for range questions {
			if len(list) == 0 {
				return nil, errors.New("no answer left")
			}
			out, list = append(out, list[0]), list[1:]
		}
		return out, nil
	})
}

func (g *gate) try(user string, methods ...ssh.AuthMethod) error {
	var banner strings.Builder
	c, err := ssh.Dial("tcp", g.address, &ssh.ClientConfig{User: user, Auth: methods, HostKeyCallback: ssh.FixedHostKey(g.hostKey), Timeout: 5 * time.Second,
		BannerCallback: func(m string) error { banner.WriteString(m); return nil }})
	if err == nil {
		c.Close()
		return nil
	}
	return fmt.Errorf("%w; banner %q", err, banner.String())
}

func TestPromise1_NothingLessThanKeyAndSecondFactor(t *testing.T) {
	g, _ := newSite(t)
	alice, bob := g.people["alice"], g.people["bob"]
	_, strange := must2(ed25519.GenerateKey(rand.Reader))
	stranger := must(ssh.NewSignerFromKey(strange))
	refused := func(name string, err error) {
		t.Helper()
		if err == nil {
			t.Errorf("%s: let in", name)
		}
	}
	refused("no method", g.try("alice"))                                                       // case 4
	refused("password", g.try("alice", ssh.Password("x")))                                     // case 4
	refused("code without a key", g.try("alice", answers(g.code(alice))))                      // case 2
	refused("unknown key", g.try("alice", ssh.PublicKeys(stranger), answers(g.code(alice))))   // case 3
	refused("key without a code", g.try("alice", ssh.PublicKeys(alice.signer)))                // case 11
	refused("another's key", g.try("alice", ssh.PublicKeys(bob.signer), answers(g.code(bob)))) // case 27
	refused("another's code", g.try("alice", ssh.PublicKeys(alice.signer), answers(g.code(bob), g.code(bob), g.code(bob))))
	refused("unknown user", g.try("nobody", ssh.PublicKeys(alice.signer), answers(g.code(alice)))) // case 1
	refused("empty code", g.try("alice", ssh.PublicKeys(alice.signer), answers("", "", "")))       // case 10
	refused("offer one key, sign with another", g.try("alice", ssh.PublicKeys(forger{alice.signer.PublicKey(), bob.signer}), answers(g.code(alice))))
	refused("sign with an unknown key what was offered by a known", g.try("alice", ssh.PublicKeys(forger{alice.signer.PublicKey(), stranger}), answers(g.code(alice))))
	if err := g.try("alice", ssh.PublicKeys(stranger, bob.signer, alice.signer), answers(g.code(alice))); err != nil {
		t.Errorf("the right key after wrong ones, and the right code: %v", err) // case 7
	}
}

// forger claims one key and signs with another.
type forger struct {
	claimed ssh.PublicKey
	signer  ssh.Signer
}

func (f forger) PublicKey() ssh.PublicKey { return f.claimed }
func (f forger) Sign(r io.Reader, data []byte) (*ssh.Signature, error) {
	return f.signer.Sign(r, data)
}

func TestPromise1_ACodeCountsOnce(t *testing.T) {
	g, _ := newSite(t)
	alice := g.people["alice"]
	code := g.code(alice)
	check(t, g.try("alice", ssh.PublicKeys(alice.signer), answers(code)))
	err := g.try("alice", ssh.PublicKeys(alice.signer), answers(code, code, code)) // case 9
	if err == nil {
		t.Fatal("a code that was used before opened the gate")
	}
	old := must(testkit.CodeAt(alice.secret, g.clock.Now().Add(-10*time.Minute)))
	future := must(testkit.CodeAt(alice.secret, g.clock.Now().Add(10*time.Minute)))
	if g.try("alice", ssh.PublicKeys(alice.signer), answers(old, future, "12 34")) == nil { // case 10
		t.Fatal("an expired or future code opened the gate")
	}
}

func TestThreeWrongCodesEndTheConnection(t *testing.T) {
	g, _ := newSite(t)
	alice := g.people["alice"]
	asked := 0
	method := ssh.RetryableAuthMethod(ssh.KeyboardInteractive(func(_, _ string, questions []string, _ []bool) ([]string, error) {
		asked += len(questions)
		if len(questions) == 0 {
			return nil, nil
		}
		return []string{"000000"}, nil
	}), 5)
	err := g.try("alice", ssh.PublicKeys(alice.signer), method) // case 6
	if err == nil || asked != 3 || !strings.Contains(err.Error(), "three tries") {
		t.Errorf("asked %d times, %v", asked, err)
	}
	if len(g.events("login.refused")) == 0 {
		t.Error("no event says so")
	}
	// The person hears of it at the next login. A recovery code works in place of a code, once.
	g.clock.Advance(2 * time.Hour)
	c, err := ssh.Dial("tcp", g.address, &ssh.ClientConfig{User: "alice", HostKeyCallback: ssh.FixedHostKey(g.hostKey),
		Auth: []ssh.AuthMethod{ssh.PublicKeys(alice.signer), answers(alice.recovery[0])}})
	check(t, err)
	defer c.Close()
	if o := run(t, c, "whoami", nil); !strings.Contains(o.stderr, "3 wrong codes") {
		t.Errorf("after three wrong codes the person is told %q", o.stderr)
	}
	if g.try("alice", ssh.PublicKeys(alice.signer), answers(alice.recovery[0])) == nil {
		t.Error("a recovery code opened the gate twice")
	}
}

func TestPromise10_RefusalsBeforeTheKeyAreAlike(t *testing.T) {
	g, _ := newSite(t)
	g.enrol("sec", authz.SiteSecurity)
	check(t, g.authority.Freeze(context.Background(), authz.Actor{User: "sec", RemoteAddr: "127.0.0.1", Via: "ssh"}, "bob", "for the test"))
	_, strange := must2(ed25519.GenerateKey(rand.Reader))
	stranger := must(ssh.NewSignerFromKey(strange))
	var first string
	for _, user := range []string{"alice", "bob", "nobody", "al\x00ice", "alice+/", "invite+aaaaaaaaaaaaaaaaaaaaaaaaaa", "+++"} {
		err := g.try(user, ssh.PublicKeys(stranger))
		if err == nil {
			t.Fatalf("%q: let in", user)
		}
		if first == "" {
			first = err.Error()
		} else if err.Error() != first {
			t.Errorf("%q sees %q, others see %q", user, err, first)
		}
	}
	// With the key verified the reason is told (case 21).
	err := g.try("bob", ssh.PublicKeys(g.people["bob"].signer), answers("000000"))
	if err == nil || !strings.Contains(err.Error(), "frozen") || !strings.Contains(err.Error(), "reference E-") {
		t.Errorf("frozen with the right key: %v", err)
	}
}

func TestGuardCutsStrangersWhoAreSlowOrSendTooMuch(t *testing.T) {
	g, _ := newSite(t, func(c *bastion.Config) {
		c.Limits.HandshakeTime = 300 * time.Millisecond
		c.Limits.PreAuthBytes = 64 << 10
	})
	silent := must(net.Dial("tcp", g.address))
	defer silent.Close()
	_ = silent.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.Copy(io.Discard, silent); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("a silent client kept its place")
	}
	noisy := must(net.Dial("tcp", g.address))
	defer noisy.Close()
	_ = noisy.SetWriteDeadline(time.Now().Add(10 * time.Second))
	if n, err := io.Copy(noisy, io.LimitReader(zeros{}, 64<<20)); err == nil {
		t.Errorf("a client could send %d bytes before it was known", n)
	}
}

func TestGuardBoundsTheStrangersOfOneSource(t *testing.T) {
	const places = 4
	g, _ := newSite(t, func(c *bastion.Config) { c.Limits.UnauthenticatedPerSource = places })
	greeting := make([]byte, 4)
	var held []net.Conn
	for range places {
		c := must(net.Dial("tcp", g.address))
		defer c.Close()
		held = append(held, c)
		if _, err := io.ReadFull(c, greeting); err != nil {
			t.Fatalf("within the limit: %v", err)
		}
	}
	more := must(net.Dial("tcp", g.address))
	defer more.Close()
	if b, _ := io.ReadAll(io.LimitReader(more, 10)); len(b) > 0 {
		t.Errorf("one more connection of the source was served: %q", b)
	}
	held[0].Close()
	testkit.WaitFor(t, 10*time.Second, "the place that was given back", func() bool {
		c := must(net.Dial("tcp", g.address))
		defer c.Close()
		_, err := io.ReadFull(c, greeting)
		return err == nil
	})
}

// TestPromise1_HostileClients runs a client that breaks the order of the
// authentication protocol in every way that has once opened somebody's door.
func TestPromise1_HostileClients(t *testing.T) {
	g, _ := newSite(t, func(c *bastion.Config) { c.Profile = "compat" }) // paramiko 2.12 has no AES-GCM
	dir := t.TempDir()
	for _, name := range []string{"alice", "bob"} {
		key := testkit.NewKey(t, dir, name)
		p := g.people[name]
		p.signer = key.Signer
		check(t, g.authority.AddKey(context.Background(), initActor, name, must(authz.CheckKey(testkit.AuthorizedLine(key.Signer.PublicKey())))))
	}
	host, port, _ := net.SplitHostPort(g.address)
	out, err := exec.Command("/usr/bin/python3", "testdata/hostile.py", host, port, filepath.Join(dir, "alice"), filepath.Join(dir, "bob"),
		g.code(g.people["alice"])).CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Errorf("hostile client: %v", err)
	}
}

func TestEnrolmentOverSSH(t *testing.T) {
	ctx := context.Background()
	g, _ := newSite(t)
	_, err := g.authority.SetTerms(ctx, initActor, "Be good.\nTell nobody.\x1b[31m")
	check(t, err)
	check(t, g.authority.AddUser(ctx, initActor, authz.User{Name: "nils", Display: "Nils"}))
	token, _, err := g.authority.CreateInvite(ctx, initActor, "nils", time.Hour)
	check(t, err)
	_, private := must2(ed25519.GenerateKey(rand.Reader))
	nils := &person{name: "nils", signer: must(ssh.NewSignerFromKey(private))}
	client, err := ssh.Dial("tcp", g.address, &ssh.ClientConfig{User: "invite+" + token, Auth: []ssh.AuthMethod{ssh.PublicKeys(nils.signer)}, HostKeyCallback: ssh.FixedHostKey(g.hostKey)})
	check(t, err)
	defer client.Close()
	// The invite reaches the enrolment and nothing else.
	if o := run(t, client, "user ls", nil); o.status != 3 {
		t.Errorf("an exec on an invite: %+v", o)
	}
	s := shell(t, client)
	screen := expect(t, s.out, "accept them: ")
	if !strings.Contains(screen, "Be good.") || strings.Contains(screen, "\x1b[31m") {
		t.Errorf("terms on the screen: %q", screen)
	}
	fmt.Fprint(s.in, "yes\r")
	screen = expect(t, s.out, "shows now: ")
	_, rest, _ := strings.Cut(screen, "Secret: ")
	secret, _, _ := strings.Cut(rest, "\r\n")
	nils.secret = strings.ReplaceAll(secret, " ", "")
	if !strings.Contains(screen, "█") || !strings.Contains(screen, "▀") {
		t.Error("no QR code on the screen")
	}
	fmt.Fprint(s.in, "000000\r")
	expect(t, s.out, "not right")
	fmt.Fprint(s.in, g.code(nils)+"\r")
	screen = expect(t, s.out, "From now on")
	check(t, s.Wait())
	if strings.Contains(g.log.String(), token) {
		t.Error("the token is in the log")
	}
	if g.try("invite+"+token, ssh.PublicKeys(nils.signer)) == nil {
		t.Error("the invite opened the enrolment twice")
	}
	c := g.dial(nils, "nils")
	if o := run(t, c, "whoami", nil); !strings.HasPrefix(o.stdout, "nils ") {
		t.Errorf("after enrolment: %+v", o)
	}
	if o := run(t, c, "", nil); o.status != 3 || !strings.Contains(o.stderr, "reference") { // case 26
		t.Errorf("a shell without a membership: %+v", o)
	}
	_ = screen
}
