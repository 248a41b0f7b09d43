package witness

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"sallyport/recorder/tlog"

	formats "github.com/transparency-dev/formats/note"
	"golang.org/x/mod/sumdb/note"
)

func logKey() string {
	key, err := note.NewEd25519VerifierKey(testOrigin, testKey(1).Public().(ed25519.PublicKey))
	if err != nil {
		panic(err)
	}
	return key
}

// feederFor starts n witnesses and a feeder with a quorum line.
func feederFor(t *testing.T, l *tlog.Log, n int, quorum string, o FeederOptions) (*Feeder, []*httptest.Server) {
	t.Helper()
	var servers []*httptest.Server
	text := "# a test\nlog " + logKey() + "\n"
	names := ""
	for i := 1; i <= n; i++ {
		server := httptest.NewServer(newServer(t, t.TempDir(), i))
		t.Cleanup(server.Close)
		servers = append(servers, server)
		text += fmt.Sprintf("witness w%d %s %s/\n", i, witnessKey(i), server.URL)
		names += fmt.Sprintf(" w%d", i)
	}
	p, err := ParsePolicy([]byte(text + "group all-of-them " + quorum + names + "\nquorum all-of-them\n"))
	if err != nil {
		t.Fatal(err)
	}
	o.Policy = p
	f, err := NewFeeder(l, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.Close)
	return f, servers
}

func TestFeedMeetsQuorumAndIsVerifiedOffline(t *testing.T) {
	l := newLog(t, t.TempDir(), 10, nil)
	f, servers := feederFor(t, l, 3, "2", FeederOptions{AllowLoopback: true})
	servers[2].Close()
	for range 3 {
		fed, err := f.Feed(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		if !fed.Verdict.Enough || len(fed.Verdict.Cosigned) != 2 || fed.Failed["w3"] == nil || fed.Alarm() != nil {
			t.Fatalf("%+v", fed)
		}
		if err := l.StoreCosigned(fed.Signed); err != nil {
			t.Fatal(err)
		}
		// Somebody else, with the policy only.
		p, err := ParsePolicy([]byte("log " + logKey() + "\nwitness a " + witnessKey(1) + "\nwitness b " + witnessKey(2) + "\ngroup g all a b\nquorum g\n"))
		if err != nil {
			t.Fatal(err)
		}
		if v, err := p.Check(fed.Signed); err != nil || !v.Enough || v.Checkpoint.Size != l.Size() {
			t.Fatalf("%+v %v", v, err)
		}
		grow(t, l, 100, nil)
	}
	servers[1].Close()
	fed, err := f.Feed(context.Background())
	if err != nil || fed.Verdict.Enough {
		t.Fatalf("one of two: %+v %v", fed, err)
	}
}

// TestPromise4_WitnessOnTheSameHostCountsAsNone, however it is reached.
func TestPromise4_WitnessOnTheSameHostCountsAsNone(t *testing.T) {
	other := netip.MustParseAddr("192.0.2.7")
	for _, c := range []struct {
		name   string
		o      FeederOptions
		enough bool
	}{
		{"loopback", FeederOptions{}, false},
		{"an address of this host", FeederOptions{Dial: dialAs(other), OwnAddresses: addresses(other)}, false},
		{"addresses unknown", FeederOptions{Dial: dialAs(other), OwnAddresses: func() ([]netip.Addr, error) { return nil, errors.New("no") }}, false},
		{"configured", FeederOptions{Dial: dialAs(other), OwnAddresses: addresses(), SameHost: []string{"w1"}}, false},
		{"another host", FeederOptions{Dial: dialAs(other), OwnAddresses: addresses(netip.MustParseAddr("192.0.2.8"))}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := newLog(t, t.TempDir(), 4, nil)
			f, _ := feederFor(t, l, 1, "all", c.o)
			fed, err := f.Feed(context.Background())
			if err != nil {
				t.Fatal(err)
			}
			if fed.Verdict.Enough != c.enough || !c.enough && fed.Verdict.Ignored["w1"] == "" {
				t.Fatalf("%+v", fed.Verdict)
			}
		})
	}
}

func addresses(a ...netip.Addr) func() ([]netip.Addr, error) {
	return func() ([]netip.Addr, error) { return a, nil }
}

// dialAs connects on loopback and claims that the other end has the address.
func dialAs(a netip.Addr) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := (&net.Dialer{}).DialContext(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return farConn{conn, net.TCPAddrFromAddrPort(netip.AddrPortFrom(a, 443))}, nil
	}
}

type farConn struct {
	net.Conn
	remote net.Addr
}

func (c farConn) RemoteAddr() net.Addr { return c.remote }

func TestPromise4_FeederRaisesTheAlarm(t *testing.T) {
	l := newLog(t, t.TempDir(), 50, nil)
	f, servers := feederFor(t, l, 1, "all", FeederOptions{AllowLoopback: true})
	if _, err := f.Feed(context.Background()); err != nil {
		t.Fatal(err)
	}
	feed := func(other *tlog.Log) error {
		p := *f.o.Policy
		again, err := NewFeeder(other, FeederOptions{Policy: &p, AllowLoopback: true})
		if err != nil {
			t.Fatal(err)
		}
		defer again.Close()
		fed, err := again.Feed(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		if fed.Verdict.Enough {
			t.Fatal("enough")
		}
		return fed.Alarm()
	}
	rewrite := func(l [][]byte) { l[5] = []byte("nothing happened") }
	if err := feed(newLog(t, t.TempDir(), 70, rewrite)); !errors.Is(err, ErrRefused) {
		t.Fatal("rewritten:", err)
	}
	if err := feed(newLog(t, t.TempDir(), 50, rewrite)); !errors.Is(err, ErrRefused) {
		t.Fatal("rewritten at the same size:", err)
	}
	if err := feed(newLog(t, t.TempDir(), 30, nil)); !errors.Is(err, ErrAhead) {
		t.Fatal("rolled back:", err)
	}
	servers[0].Close()
}

func TestFeederDoesNotTrustAnswers(t *testing.T) {
	l := newLog(t, t.TempDir(), 4, nil)
	impostor := newServer(t, t.TempDir(), 2)
	for name, handler := range map[string]http.HandlerFunc{
		"another key": impostor.ServeHTTP,
		"huge answer": func(w http.ResponseWriter, _ *http.Request) { io.Copy(w, io.LimitReader(zeros{}, 10<<20)) },
		"no size":     func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusConflict) },
		"sizes without end": func() http.HandlerFunc {
			n := 0
			return func(w http.ResponseWriter, _ *http.Request) {
				n++
				w.WriteHeader(http.StatusConflict)
				fmt.Fprintln(w, n%3)
			}
		}(),
		"redirect": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://127.0.0.1:1/", http.StatusFound)
		},
		"nothing": func(http.ResponseWriter, *http.Request) {},
	} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(handler)
			defer server.Close()
			p, err := ParsePolicy([]byte("log " + logKey() + "\nwitness w " + witnessKey(1) + " " + server.URL + "\nquorum w\n"))
			if err != nil {
				t.Fatal(err)
			}
			f, err := NewFeeder(l, FeederOptions{Policy: p, AllowLoopback: true})
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			fed, err := f.Feed(context.Background())
			if err != nil || fed.Verdict.Enough || fed.Failed["w"] == nil {
				t.Fatalf("%+v %v", fed, err)
			}
		})
	}
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

func TestCosignatureAgreesWithReference(t *testing.T) {
	skey, vkey, err := note.GenerateKey(rand.Reader, "witness.example/ref")
	if err != nil {
		t.Fatal(err)
	}
	reference, err := formats.NewSignerForCosignatureV1(skey)
	if err != nil {
		t.Fatal(err)
	}
	converted, err := formats.VKeyToCosignatureV1(vkey)
	if err != nil {
		t.Fatal(err)
	}
	v, err := NewVerifier(converted)
	if err != nil {
		t.Fatal(err)
	}
	l := newLog(t, t.TempDir(), 3, nil)
	_, n, err := tlog.OpenCheckpoint(l.Checkpoint(), testOrigin, logVerifier(t))
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := note.Sign(n, reference)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := tlog.OpenCheckpoint(theirs, testOrigin, v); err != nil {
		t.Fatal("theirs by ours:", err)
	}
	ours, err := note.Sign(n, testSigner(t, 1))
	if err != nil {
		t.Fatal(err)
	}
	reader, err := formats.NewVerifierForCosignatureV1(witnessKey(1))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := note.Open(ours, note.VerifierList(reader)); err != nil {
		t.Fatal("ours by theirs:", err)
	}
}

func TestPolicy(t *testing.T) {
	l := newLog(t, t.TempDir(), 3, nil)
	_, n, err := tlog.OpenCheckpoint(l.Checkpoint(), testOrigin, logVerifier(t))
	if err != nil {
		t.Fatal(err)
	}
	signed, err := note.Sign(n, testSigner(t, 1), testSigner(t, 3))
	if err != nil {
		t.Fatal(err)
	}
	head := "log " + logKey() + "\n"
	for i := 1; i <= 4; i++ {
		head += fmt.Sprintf("witness w%d %s\n", i, witnessKey(i))
	}
	for tail, want := range map[string]bool{
		"quorum none\n": true,
		"quorum w1\n":   true,
		"quorum w2\n":   false,
		"group a any w1 w2\ngroup b any w3 w4\ngroup c all a b\nquorum c\n": true,
		"group a all w1 w2\ngroup b any w3 w4\ngroup c 2 a b\nquorum c\n":   false,
		"group a 2 w1 w2 w3 w4\nquorum a\n":                                 true,
		"group a 3 w1 w2 w3 w4\nquorum a\n":                                 false,
	} {
		p, err := ParsePolicy([]byte(head + tail))
		if err != nil {
			t.Fatal(err)
		}
		if v, err := p.Check(signed); err != nil || v.Enough != want {
			t.Errorf("%q: %+v %v", tail, v, err)
		}
	}
	for _, bad := range []string{"", "quorum x\n", "quorum none\nquorum none\n", "group a any w1 w1\nquorum a\n", "group a 5 w1 w2\nquorum a\n",
		"group a 0 w1\nquorum a\n", "group a any b\ngroup b any w1\nquorum b\n", "group a any w1\ngroup b any w1\nquorum b\n", "group a any none\nquorum a\n",
		"witness w5 " + witnessKey(1) + "\nquorum none\n", "witness w1 " + witnessKey(5) + "\nquorum none\n", "hello\nquorum none\n",
		"witness n " + VerifierKey("x", testKey(1).Public().(ed25519.PublicKey)) + "\nquorum none\n"} {
		if _, err := ParsePolicy([]byte(head + bad)); err == nil {
			t.Errorf("took %q", bad)
		}
	}
}

// logServer is a syslog receiver on loopback that speaks RFC 5425.
func logServer(t *testing.T) (net.Listener, *x509.CertPool) {
	t.Helper()
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		DNSNames: []string{"log.example"}, IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, testKey(50).Public(), testKey(50))
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	listener, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: testKey(50)}}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	return listener, pool
}

func readFrame(r *bufio.Reader) (string, error) {
	count, err := r.ReadString(' ')
	if err != nil {
		return "", err
	}
	n, err := strconv.Atoi(strings.TrimSpace(count))
	if err != nil {
		return "", err
	}
	message := make([]byte, n)
	_, err = io.ReadFull(r, message)
	return string(message), err
}

func TestSyslogShipsCheckpoints(t *testing.T) {
	listener, pool := logServer(t)
	messages := make(chan string, 8)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range 2 { // connections, one after the other; each takes one message
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			message, err := readFrame(bufio.NewReader(conn))
			if err != nil {
				message = err.Error()
			}
			messages <- message
			conn.Close()
		}
	}()
	dial := func(serverName string) func(context.Context) (net.Conn, error) {
		dialer := &tls.Dialer{Config: &tls.Config{RootCAs: pool, ServerName: serverName, MinVersion: tls.VersionTLS12}}
		return func(ctx context.Context) (net.Conn, error) {
			return dialer.DialContext(ctx, "tcp", listener.Addr().String())
		}
	}
	l := newLog(t, t.TempDir(), 3, nil)
	c, _, err := tlog.OpenCheckpoint(l.Checkpoint(), testOrigin, logVerifier(t))
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		s, err := NewSyslog(SyslogOptions{Dial: dial("log.example"), Hostname: "gate.example", Clock: testClock})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Send(context.Background(), c, l.Checkpoint()); err != nil {
			t.Fatal(err)
		}
		got := <-messages
		if !strings.HasPrefix(got, "<109>1 2026-11-21T12:00:00.000000Z gate.example sallyport - checkpoint - {") {
			t.Fatal(got)
		}
		if signed, err := ParseSyslog(got); err != nil || string(signed) != string(l.Checkpoint()) {
			t.Fatalf("%q %v", signed, err)
		}
		if err := s.Close(); err != nil {
			t.Log(err) // the server closed first
		}
	}
	<-done
	if _, err := NewSyslog(SyslogOptions{Dial: dial("x"), Hostname: "two words", Clock: testClock}); err == nil {
		t.Fatal("a host name with a space was taken")
	}
	if _, err := ParseSyslog("hello"); err == nil {
		t.Fatal("took anything")
	}
}

func TestSyslogReplacesADeadConnection(t *testing.T) {
	l := newLog(t, t.TempDir(), 1, nil)
	c, _, err := tlog.OpenCheckpoint(l.Checkpoint(), testOrigin, logVerifier(t))
	if err != nil {
		t.Fatal(err)
	}
	var ends []net.Conn
	got := make(chan string, 4)
	s, err := NewSyslog(SyslogOptions{Hostname: "gate", Clock: testClock, Dial: func(context.Context) (net.Conn, error) {
		near, far := net.Pipe()
		ends = append(ends, far)
		go func() {
			message, err := readFrame(bufio.NewReader(far))
			if err == nil {
				got <- message
			}
		}()
		return near, nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Send(context.Background(), c, l.Checkpoint()); err != nil {
		t.Fatal(err)
	}
	<-got
	ends[0].Close()
	if err := s.Send(context.Background(), c, l.Checkpoint()); err != nil {
		t.Fatal(err)
	}
	<-got
	ends[1].Close()
	if len(ends) != 2 {
		t.Fatalf("%d connections", len(ends))
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestServeEndsWithItsContext(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, listener, newServer(t, t.TempDir(), 1)) }()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get("http://" + listener.Addr().String() + "/add-checkpoint")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}
