package bastion

import (
	"bytes"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"
)

func TestParseAddress(t *testing.T) {
	token := strings.Repeat("a2", 16)
	for _, c := range []struct {
		name string
		want address
	}{
		{"alice", address{user: "alice"}},
		{"alice+genomics", address{user: "alice", project: "genomics"}},
		{"alice+genomics/db2", address{user: "alice", project: "genomics", server: "db2"}},
		{"invite+" + token, address{invite: token}},
	} {
		got, err := parseAddress(c.name)
		if err != nil || got != c.want {
			t.Errorf("parseAddress(%q) = %+v, %v; want %+v", c.name, got, err, c.want)
		}
	}
	for _, bad := range []string{"", "+", "invite", "invite+", "invite+short", "alice+", "alice+/", "alice+a/", "alice++a", "alice+a+b",
		"alice+a/b/c", "Alice", "root;ls", "al\nice", "al\x1b[31mice", "alice ", "127.0./0.1", "ro/ot", "alice+*", "*", "alice+ge nomics",
		"alice+../etc", strings.Repeat("a", 500), "alice+" + strings.Repeat("p", 200), "invite+" + strings.ToUpper(token), "äöü", "alice\x00"} {
		if got, err := parseAddress(bad); err == nil {
			t.Errorf("parseAddress(%q) = %+v, want an error", bad, got)
		}
	}
}

func FuzzParseAddress(f *testing.F) {
	for _, s := range []string{"alice", "alice+p/s", "invite+aaaaaaaaaaaaaaaaaaaa", "a+b/c/d", "\xff+\x00"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		a, err := parseAddress(s)
		if err != nil {
			return
		}
		back := a.user
		if a.invite != "" {
			back = "invite+" + a.invite
		}
		if a.project != "" {
			back += "+" + a.project
		}
		if a.server != "" {
			back += "/" + a.server
		}
		if back != s {
			t.Fatalf("%q parsed to %+v, which says %q", s, a, back)
		}
	})
}

func TestProfilesNameOnlySupportedAlgorithms(t *testing.T) {
	// The library drops names that it does not know without a word.
	supported := ssh.SupportedAlgorithms()
	for _, name := range []string{"strict", "compat"} {
		a, err := profile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, group := range []struct {
			what      string
			have, all []string
		}{
			{"key exchange", a.keyExchanges, supported.KeyExchanges}, {"cipher", a.ciphers, supported.Ciphers},
			{"MAC", a.macs, supported.MACs}, {"public key", a.publicKeys, supported.PublicKeyAuths},
		} {
			for _, algorithm := range group.have {
				if !slices.Contains(group.all, algorithm) {
					t.Errorf("profile %s: %s %q is not supported by the library", name, group.what, algorithm)
				}
			}
		}
	}
	if _, err := profile("weak"); err == nil {
		t.Error("a profile that does not exist was accepted")
	}
}

func TestStrictProfileLeavesNothingToTerrapin(t *testing.T) {
	a, err := profile("strict")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range a.ciphers {
		if !strings.Contains(c, "gcm") {
			t.Errorf("strict profile offers %s", c)
		}
	}
}

func TestGuardCountsPlaces(t *testing.T) {
	g := newGuard(Limits{Unauthenticated: 3, UnauthenticatedPerSource: 2})
	a, b := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	r1, ok1 := g.admit(a)
	_, ok2 := g.admit(a)
	_, ok3 := g.admit(a)
	if !ok1 || !ok2 || ok3 {
		t.Fatalf("per source: %v %v %v, want true true false", ok1, ok2, ok3)
	}
	if _, ok := g.admit(b); !ok {
		t.Fatal("another source was refused while there was room")
	}
	if _, ok := g.admit(b); ok {
		t.Fatal("the limit in all was passed")
	}
	r1()
	r1() // giving a place back twice must not make room for two
	if _, ok := g.admit(b); !ok {
		t.Fatal("a place that was given back was not given out")
	}
	if _, ok := g.admit(b); ok {
		t.Fatal("one place was given out twice")
	}
	six := newGuard(Limits{Unauthenticated: 9, UnauthenticatedPerSource: 1})
	if _, ok := six.admit(netip.MustParseAddr("2001:db8::1")); !ok {
		t.Fatal("IPv6 was refused")
	}
	if _, ok := six.admit(netip.MustParseAddr("2001:db8::2")); ok {
		t.Fatal("two addresses of one /64 counted as two sources")
	}
}

func TestGuardCountsAPersonsWaitingLogins(t *testing.T) {
	g := newGuard(DefaultLimits())
	thief, home := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	var places []func()
	for range loginsPerPersonAndSource {
		release, ok := g.person("alice", thief)
		if !ok {
			t.Fatal("refused within the limit")
		}
		places = append(places, release)
	}
	if _, ok := g.person("alice", thief); ok {
		t.Error("one more than the limit waits")
	}
	if _, ok := g.person("alice", home); !ok {
		t.Error("the owner of a stolen key can't come in from elsewhere")
	}
	if _, ok := g.person("bob", thief); !ok {
		t.Error("another person has to wait for alice")
	}
	places[0]()
	places[0]()
	if _, ok := g.person("alice", thief); !ok {
		t.Error("a place that was given back was not given out")
	}
	if _, ok := g.person("alice", thief); ok {
		t.Error("one place was given out twice")
	}
}

func TestVariablesThatPass(t *testing.T) {
	for _, v := range []variable{{"LANG", "de_DE.UTF-8"}, {"LC_ALL", "C"}, {"LANGUAGE", "de:en"}} {
		if !allowedVariable(v) {
			t.Errorf("%v was left out", v)
		}
	}
	for _, v := range []variable{{"LD_PRELOAD", "/x.so"}, {"PATH", "/x"}, {"LC_SALLYPORT_SESSION", "S-1"}, {"LC_X", "$(id)"},
		{"LC_X", "a\nb"}, {"LC_x", "a"}, {"GIT_PROTOCOL", "version=2"}, {"LANG", strings.Repeat("a", 300)}, {"LC_" + strings.Repeat("A", 99), "x"}} {
		if allowedVariable(v) {
			t.Errorf("%v was passed on", v)
		}
	}
}

func FuzzParseTerminal(f *testing.F) {
	f.Add(ssh.Marshal(terminal{Term: "xterm", Columns: 80, Rows: 24, Modes: "\x00"}))
	f.Add([]byte{0, 0, 0, 255})
	f.Add([]byte{255, 255, 255, 255, 1, 2, 3})
	f.Fuzz(func(t *testing.T, payload []byte) {
		term, err := parseTerminal(payload)
		if err != nil {
			return
		}
		if term.Columns > 10000 || len(term.Term) > 64 || strings.ContainsAny(term.Term, "\x00\x1b\n ") {
			t.Fatalf("accepted %+v", term)
		}
		if again, err := parseTerminal(ssh.Marshal(term)); err != nil || again != term {
			t.Fatalf("%+v does not survive: %+v, %v", term, again, err)
		}
	})
}

func FuzzRequests(f *testing.F) {
	for _, kind := range []string{"env", "pty-req", "window-change", "signal", "exec", "subsystem", "shell", "x"} {
		f.Add(kind, ssh.Marshal(struct{ A, B string }{"LANG", "C"}))
	}
	f.Fuzz(func(t *testing.T, kind string, payload []byte) {
		// Requests before anything has started must never panic; refusals need a
		// whole server, so only the parsing kinds run here.
		ch := &channel{conn: &connection{server: &Server{config: Config{Limits: DefaultLimits()}}}}
		switch kind {
		case "env":
			ch.addVariable(payload)
		case "pty-req":
			ch.addTerminal(payload)
		case "window-change":
			ch.resize(payload)
		case "signal":
			ch.signal(payload)
		default:
			exitOf(&ssh.Request{Type: kind, Payload: payload})
		}
	})
}

func TestPrintableForgesNothing(t *testing.T) {
	in := "ok\r\nuser=root\x1b[31m\u202e\xff"
	got := printable(in, 100)
	if strings.ContainsAny(got, "\r\n\x1b\u202e") || !strings.HasPrefix(got, "ok??user=root") {
		t.Errorf("printable(%q) = %q", in, got)
	}
	if got := printable(strings.Repeat("x", 50), 10); len(got) > 10+len("…") {
		t.Errorf("printable did not cut: %q", got)
	}
}

func TestExitOf(t *testing.T) {
	big := ssh.Marshal(struct {
		Name     string
		Core     bool
		Message  string
		Language string
	}{"KILL", false, strings.Repeat("secret", 5000), ""})
	e, ok := exitOf(&ssh.Request{Type: "exit-signal", Payload: big})
	if !ok || e != (ending{signal: "KILL"}) {
		t.Errorf("exit-signal: %+v, %v", e, ok)
	}
	e, ok = exitOf(&ssh.Request{Type: "exit-status", Payload: []byte{1, 2, 3, 43}})
	if !ok || e.status != 43 {
		t.Errorf("only the low eight bits of a status may pass: %+v, %v", e, ok)
	}
	if _, ok = exitOf(&ssh.Request{Type: "exit-status", Payload: []byte{1}}); ok {
		t.Error("a malformed status was taken")
	}
}

func TestKeysLoseNoByte(t *testing.T) {
	k := newKeys(bytes.NewReader([]byte("abcdef")))
	b, ok := <-k.typed()
	k.took(ok)
	if b != 'a' || !ok {
		t.Fatalf("first byte %q, %v", b, ok)
	}
	k.typed() // asks for b, then nobody takes it
	rest := make([]byte, 0, 8)
	buf := make([]byte, 4)
	for {
		n, err := k.Read(buf)
		rest = append(rest, buf[:n]...)
		if err != nil {
			break
		}
	}
	if string(rest) != "bcdef" {
		t.Errorf("the session got %q, want bcdef", rest)
	}
}
