package node

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/mod/sumdb/note"

	"sallyport/authz"
	"sallyport/internal/config"
	"sallyport/recorder/tlog"
	"sallyport/recorder/witness"
)

// authorityPair is a certificate for loopback, signed by itself, with its key, in PEM.
func authorityPair(t *testing.T) (tls.Certificate, []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	text := append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw})...)
	pair, err := tls.X509KeyPair(text, text)
	if err != nil {
		t.Fatal(err)
	}
	return pair, text
}

// elsewhere is a connection that says it leads to another host.
type elsewhere struct{ net.Conn }

func (elsewhere) RemoteAddr() net.Addr {
	return &net.TCPAddr{IP: net.IPv4(192, 0, 2, 80), Port: 443}
}

// outside is a node's log with a witness and a log server over TLS.
type outside struct {
	t        *testing.T
	config   *config.Config
	log      *tlog.Log
	clock    *steppedClock
	logged   bytes.Buffer
	remote   bool // the witness seems to be on another host
	registry *prometheus.Registry

	mu     sync.Mutex // guards what follows
	events []authz.Event
	lines  []string
}

type steppedClock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *steppedClock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *steppedClock) step(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

const outsideOrigin = "sallyport/N-outside"

func outsideKey(seed byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, ed25519.SeedSize))
}

func openOutsideLog(t *testing.T, leaves ...string) *tlog.Log {
	t.Helper()
	l, err := tlog.Open(tlog.Options{Dir: t.TempDir(), Origin: outsideOrigin, Signer: outsideKey(1), PublishInterval: -1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	for _, leaf := range leaves {
		if _, err := l.Append(t.Context(), []byte(leaf)); err != nil {
			t.Fatal(err)
		}
	}
	return l
}

func newOutside(t *testing.T) *outside {
	t.Helper()
	o := &outside{t: t, config: &config.Config{Name: "gate.example.org"}, log: openOutsideLog(t, "a", "b"), remote: true,
		clock: &steppedClock{now: time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)}, registry: prometheus.NewRegistry()}
	pair, text := authorityPair(t)
	dir := t.TempDir()
	ca := filepath.Join(dir, "ca.pem")
	writeTest(t, ca, text)
	o.config.Witness = config.Witness{Policy: filepath.Join(dir, "policy"), Interval: time.Second, AlarmAfter: time.Minute, Alarm: config.AlarmRefuse, CA: ca}
	address := o.startWitness(pair)
	key, err := note.NewEd25519VerifierKey(outsideOrigin, outsideKey(1).Public().(ed25519.PublicKey))
	if err != nil {
		t.Fatal(err)
	}
	writeTest(t, o.config.Witness.Policy, []byte("log "+key+"\nwitness w "+
		witness.VerifierKey("witness.example/w", outsideKey(2).Public().(ed25519.PublicKey))+" https://"+address+"\nquorum w\n"))
	o.config.Syslog = config.Syslog{Address: o.startSyslog(pair), CA: ca, Certificate: ca, Interval: time.Second}
	return o
}

func writeTest(t *testing.T, path string, text []byte) {
	t.Helper()
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
}

func listenTLS(t *testing.T, settings *tls.Config) net.Listener {
	t.Helper()
	l, err := tls.Listen("tcp", "127.0.0.1:0", settings)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func (o *outside) startWitness(pair tls.Certificate) string {
	o.t.Helper()
	verifier, err := tlog.NewVerifier(outsideOrigin, outsideKey(1).Public().(ed25519.PublicKey))
	if err != nil {
		o.t.Fatal(err)
	}
	signer, err := witness.NewSigner("witness.example/w", outsideKey(2), o.clock.Now)
	if err != nil {
		o.t.Fatal(err)
	}
	server, err := witness.NewServer(witness.ServerOptions{Dir: o.t.TempDir(), Signer: signer,
		Logs: []witness.LogConfig{{Origin: outsideOrigin, Verifiers: []note.Verifier{verifier}}}})
	if err != nil {
		o.t.Fatal(err)
	}
	listener := listenTLS(o.t, &tls.Config{Certificates: []tls.Certificate{pair}})
	ctx, cancel := context.WithCancel(context.Background())
	var group sync.WaitGroup
	group.Go(func() {
		if err := witness.Serve(ctx, listener, server); err != nil {
			o.t.Error(err)
		}
	})
	o.t.Cleanup(func() { cancel(); group.Wait() })
	return listener.Addr().String()
}

// startSyslog receives RFC 5424 with octet counting from whoever has the certificate.
func (o *outside) startSyslog(pair tls.Certificate) string {
	o.t.Helper()
	listener := listenTLS(o.t, &tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequireAnyClientCert})
	var group sync.WaitGroup
	group.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			group.Go(func() {
				defer conn.Close()
				o.receive(conn)
			})
		}
	})
	o.t.Cleanup(func() { listener.Close(); group.Wait() })
	return listener.Addr().String()
}

func (o *outside) receive(conn net.Conn) {
	r := bufio.NewReader(conn)
	for {
		count, err := r.ReadString(' ')
		if err != nil {
			return
		}
		n, err := strconv.Atoi(strings.TrimSpace(count))
		if err != nil {
			o.t.Errorf("the count %q", count)
			return
		}
		line := make([]byte, n)
		if _, err := io.ReadFull(r, line); err != nil {
			return
		}
		o.mu.Lock()
		o.lines = append(o.lines, string(line))
		o.mu.Unlock()
	}
}

func (o *outside) open() *vouching {
	o.t.Helper()
	v, err := newVouching(vouchingOptions{Config: o.config, Node: "N-outside", Log: o.log, Logger: slog.New(slog.NewJSONHandler(&o.logged, nil)), Clock: o.clock.Now,
		Registry: o.registry,
		Tell: func(_ context.Context, e authz.Event) error {
			o.mu.Lock()
			defer o.mu.Unlock()
			o.events = append(o.events, e)
			return nil
		},
		Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := new(net.Dialer).DialContext(ctx, network, address)
			if err == nil && o.remote {
				conn = elsewhere{conn}
			}
			return conn, err
		}})
	if err != nil {
		o.t.Fatal(err)
	}
	o.t.Cleanup(func() {
		v.feeder.Close()
		v.syslog.Close()
	})
	return v
}

// told are the operations of the events so far.
func (o *outside) told() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	var all []string
	for _, e := range o.events {
		all = append(all, e.OpType+" "+e.Result)
	}
	return strings.Join(all, ", ")
}

func TestVouchingKeepsCosignedCheckpointsAndShipsThem(t *testing.T) {
	o := newOutside(t)
	v := o.open()
	ctx, cancel := context.WithCancel(t.Context())
	var group sync.WaitGroup
	group.Go(func() { v.run(ctx) })
	dir := ""
	cosigned := func() int64 {
		text, err := os.ReadFile(filepath.Join(dir, tlog.CosignedFile))
		if err != nil {
			return -1
		}
		policy, err := os.ReadFile(o.config.Witness.Policy)
		if err != nil {
			t.Fatal(err)
		}
		p, err := witness.ParsePolicy(policy)
		if err != nil {
			t.Fatal(err)
		}
		verdict, err := p.Check(text)
		if err != nil || !verdict.Enough {
			return -1
		}
		return verdict.Checkpoint.Size
	}
	dir = o.log.Dir()
	eventually(t, "the first checkpoint is cosigned", func() bool { return cosigned() == 2 })
	if _, err := o.log.Append(t.Context(), []byte("c")); err != nil {
		t.Fatal(err)
	}
	cancel() // the last round is after the end
	group.Wait()
	if got := cosigned(); got != 3 {
		t.Errorf("cosigned are %d entries", got)
	}
	eventually(t, "the log server has the last checkpoint", func() bool {
		o.mu.Lock()
		defer o.mu.Unlock()
		if len(o.lines) == 0 {
			return false
		}
		signed, err := witness.ParseSyslog(o.lines[len(o.lines)-1])
		return err == nil && bytes.Equal(signed, o.log.Checkpoint())
	})
	if err := v.health(); err != nil || o.told() != "" {
		t.Errorf("%v, events %q", err, o.told())
	}
}

// TestPromise4_ARewrittenLedgerIsAnAlarm: the node signs another history with its own key, and the witness says so.
func TestPromise4_ARewrittenLedgerIsAnAlarm(t *testing.T) {
	o := newOutside(t)
	o.open().feed(t.Context())
	for name, leaves := range map[string][]string{"rewritten": {"a", "x", "c"}, "cut": {"a"}, "replaced": {"a", "x"}} {
		o.log, o.registry, o.events = openOutsideLog(t, leaves...), prometheus.NewRegistry(), nil
		v := o.open()
		v.feed(t.Context())
		v.feed(t.Context())
		if o.told() != "witness.refused failed" || v.health() == nil || v.standing() == "" {
			t.Errorf("%s: events %q, health %v", name, o.told(), v.health())
		}
	}
}

// TestPromise4_AWitnessOnThisHostCountsAsNone: it answers from loopback, so nobody vouches and the alarm comes.
func TestPromise4_AWitnessOnThisHostCountsAsNone(t *testing.T) {
	o := newOutside(t)
	o.remote = false
	v := o.open()
	v.feed(t.Context())
	if v.health() != nil || o.told() != "" {
		t.Fatalf("too early: %v, events %q", v.health(), o.told())
	}
	o.clock.step(o.config.Witness.AlarmAfter)
	v.feed(t.Context())
	v.feed(t.Context())
	if o.told() != "witness.missing failed" || v.health() == nil {
		t.Fatalf("events %q, health %v", o.told(), v.health())
	}
	if cause, _ := o.events[0].Details["cause"].(string); !strings.HasPrefix(cause, "w: ") || !strings.Contains(v.warning(), "stands since") {
		t.Errorf("the alarm says %v; status says %q", o.events[0].Details, v.warning())
	}
	for range 10 {
		v.feed(t.Context())
	}
	// At first, at the alarm, and each hour.
	if told := o.logged.String(); strings.Count(told, "\n") != 2 || strings.Contains(told, "null") || !strings.Contains(told, "w: it counts as none") {
		t.Errorf("the log:\n%s", told)
	}
	o.clock.step(time.Hour)
	v.feed(t.Context())
	if told := o.logged.String(); strings.Count(told, "\n") != 3 {
		t.Errorf("the log after an hour:\n%s", told)
	}
	o.config.Witness.Alarm = config.AlarmTell
	if v.health() != nil {
		t.Error("sessions are refused where an alarm is only told")
	}
	if families, err := o.registry.Gather(); err != nil || len(families) == 0 {
		t.Errorf("metrics: %v", err)
	}
	// The same witness, seen from another host, ends the alarm. A new connection is made.
	o.remote = true
	v.feeder.Close()
	w, err := newVouching(vouchingOptions{Config: o.config, Node: "N-outside", Log: o.log, Logger: v.logger, Clock: o.clock.Now,
		Registry: prometheus.NewRegistry(), Tell: v.tell, Dial: v.dial})
	if err != nil {
		t.Fatal(err)
	}
	w.alarm = v.alarm
	w.feed(t.Context())
	w.feeder.Close()
	if w.standing() != "" || !strings.HasSuffix(o.told(), "witness.restored ok") {
		t.Errorf("alarm %q, events %q", w.standing(), o.told())
	}
}

func TestVouchingRefusesAWrongPolicy(t *testing.T) {
	o := newOutside(t)
	text, err := os.ReadFile(o.config.Witness.Policy)
	if err != nil {
		t.Fatal(err)
	}
	options := vouchingOptions{Config: o.config, Log: o.log, Logger: slog.New(slog.DiscardHandler), Clock: o.clock.Now}
	for name, change := range map[string]func(){
		"another log": func() { writeTest(t, o.config.Witness.Policy, bytes.Replace(text, []byte("log "), []byte("# "), 1)) },
		"no policy":   func() { writeTest(t, o.config.Witness.Policy, nil) },
		"no such":     func() { o.config.Witness.Policy += "x" },
	} {
		change()
		options.Registry = prometheus.NewRegistry()
		if _, err := newVouching(options); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
}

// TestTheNodeFeedsItsWitnesses: what the configuration names is asked while the node runs.
func TestTheNodeFeedsItsWitnesses(t *testing.T) {
	_, c := initialised(t)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	asked := make(chan struct{})
	var group sync.WaitGroup
	group.Go(func() {
		if conn, err := listener.Accept(); err == nil {
			close(asked)
			conn.Close()
		}
	})
	defer group.Wait()
	defer listener.Close()
	c.Syslog.Address = listener.Addr().String()
	n := opened(t, c)
	stop := running(t, n)
	eventually(t, "the log server is asked", func() bool {
		select {
		case <-asked:
			return true
		default:
			return false
		}
	})
	if err := errors.Join(stop(), n.Close()); err != nil {
		t.Error(err)
	}
}
