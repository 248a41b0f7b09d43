package witness

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"sallyport/recorder/tlog"

	"golang.org/x/mod/sumdb/note"
	sumtlog "golang.org/x/mod/sumdb/tlog"
)

var (
	// ErrRefused is wrapped when a witness finds that the log is not an
	// extension of what it cosigned. It is an alarm, not a reason to retry.
	ErrRefused = errors.New("the witness has seen a different log")
	// ErrAhead is wrapped when a witness cosigned more entries than the log
	// has: the log was cut or an old copy was restored under the same identity.
	ErrAhead = errors.New("the witness has seen more entries than the log has")
)

const maxAttempts = 3

// Source is the log that is fed to witnesses; *tlog.Log is one.
type Source interface {
	Origin() string
	Verifier() note.Verifier
	Checkpoint() []byte
	ProveConsistency(older, newer int64) (sumtlog.TreeProof, error)
}

// FeederOptions says which witnesses are asked.
type FeederOptions struct {
	Policy  *Policy       // its witnesses with a URL are asked
	Timeout time.Duration // for each witness; default 10 s

	// Transport reaches the witnesses; default http.DefaultTransport's settings.
	// The dialer underneath it decides nothing: addresses are looked at as connected.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// RootCAs verify witnesses over https; nil: the system's.
	RootCAs *x509.CertPool
	// OwnAddresses are the addresses of this host. A witness that answers from
	// one of them, or from loopback, counts as none. Default: the system's interfaces.
	OwnAddresses func() ([]netip.Addr, error)
	// SameHost names further witnesses that count as none, such as one in a
	// container of the same machine that an address cannot give away.
	SameHost []string
	// AllowLoopback counts witnesses on this host after all; for a demonstration
	// on one machine, where nothing is proved.
	AllowLoopback bool
}

// Feeder collects cosignatures. Feed may be called by one goroutine at a time.
type Feeder struct {
	o         FeederOptions
	source    Source
	witnesses []*peer
}

// peer is one witness and what is known about it.
type peer struct {
	PolicyWitness
	client *http.Client
	size   int64 // that it cosigned last, as far as we know

	mu     sync.Mutex // guards remote
	remote netip.Addr // that the last connection went to
}

// NewFeeder prepares clients for the witnesses of the policy.
func NewFeeder(source Source, o FeederOptions) (*Feeder, error) {
	if o.Policy == nil {
		return nil, errors.New("witness: a policy is needed")
	}
	if o.Timeout == 0 {
		o.Timeout = 10 * time.Second
	}
	if o.Dial == nil {
		o.Dial = (&net.Dialer{Timeout: o.Timeout}).DialContext
	}
	if o.OwnAddresses == nil {
		o.OwnAddresses = interfaceAddresses
	}
	f := &Feeder{o: o, source: source}
	for _, name := range o.SameHost {
		if !slices.ContainsFunc(o.Policy.Witnesses, func(w PolicyWitness) bool { return w.Name == name }) {
			return nil, fmt.Errorf("witness: the policy has no witness %q", name)
		}
		o.Policy.Ignore(name, "it is configured as being on this host")
	}
	for _, w := range o.Policy.Witnesses {
		if w.URL == "" {
			continue
		}
		u, err := url.Parse(w.URL)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
			return nil, fmt.Errorf("witness %s: %q is not an http or https address", w.Name, w.URL)
		}
		p := &peer{PolicyWitness: w}
		p.client = &http.Client{Timeout: o.Timeout, Transport: &http.Transport{DialContext: p.dial(o.Dial), MaxIdleConns: 1,
			IdleConnTimeout: time.Minute, ResponseHeaderTimeout: o.Timeout, TLSHandshakeTimeout: o.Timeout,
			TLSClientConfig: &tls.Config{RootCAs: o.RootCAs, MinVersion: tls.VersionTLS12}},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
		f.witnesses = append(f.witnesses, p)
	}
	return f, nil
}

// dial notes where a connection really went: a name may lead anywhere.
func (p *peer) dial(dial func(context.Context, string, string) (net.Conn, error)) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		if remote, err := netip.ParseAddrPort(conn.RemoteAddr().String()); err == nil {
			p.mu.Lock()
			p.remote = remote.Addr().Unmap().WithZone("")
			p.mu.Unlock()
		}
		return conn, nil
	}
}

func interfaceAddresses() ([]netip.Addr, error) {
	list, err := net.InterfaceAddrs()
	if err != nil {
		return nil, err
	}
	var out []netip.Addr
	for _, a := range list {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			out = append(out, p.Addr().Unmap().WithZone(""))
		}
	}
	return out, nil
}

// Fed is the outcome of one round.
type Fed struct {
	Signed  []byte // the checkpoint with every cosignature that came
	Verdict Verdict
	Failed  map[string]error // by witness
}

// Alarm is the error that says that the log was tampered with, if a witness said so.
func (f *Fed) Alarm() error {
	var alarms []error
	for name, err := range f.Failed {
		if errors.Is(err, ErrRefused) || errors.Is(err, ErrAhead) {
			alarms = append(alarms, fmt.Errorf("witness %s: %w", name, err))
		}
	}
	return errors.Join(alarms...)
}

// Feed asks all witnesses at once to cosign the log's newest checkpoint. The
// error is for what concerns no single witness; the rest is in Failed.
func (f *Feeder) Feed(ctx context.Context) (*Fed, error) {
	signed := f.source.Checkpoint()
	c, n, err := tlog.OpenCheckpoint(signed, f.source.Origin(), f.source.Verifier())
	if err != nil {
		return nil, err
	}
	type answer struct {
		p         *peer
		signature note.Signature
		err       error
	}
	answers := make(chan answer, len(f.witnesses))
	for _, p := range f.witnesses {
		go func() { // ends by the client's time limit; the loop below waits for it
			signature, err := f.ask(ctx, p, c, signed, n.Text)
			answers <- answer{p, signature, err}
		}()
	}
	fed := &Fed{Failed: map[string]error{}}
	for range f.witnesses {
		a := <-answers
		if a.err != nil {
			fed.Failed[a.p.Name] = a.err
			continue
		}
		n.Sigs = append(n.Sigs, a.signature)
		if why := f.sameHost(a.p); why != "" {
			f.o.Policy.Ignore(a.p.Name, why)
		}
	}
	n.UnverifiedSigs = nil
	if fed.Signed, err = note.Sign(n); err != nil {
		return nil, fmt.Errorf("put the cosignatures together: %w", err)
	}
	fed.Verdict, err = f.o.Policy.Check(fed.Signed)
	return fed, err
}

// sameHost tells why a witness counts as none, by the address that it answered from.
func (f *Feeder) sameHost(p *peer) string {
	if f.o.AllowLoopback {
		return ""
	}
	p.mu.Lock()
	remote := p.remote
	p.mu.Unlock()
	if !remote.IsValid() {
		return "its address is not known"
	}
	if remote.IsLoopback() || remote.IsUnspecified() {
		return "it answers from this host's loopback"
	}
	own, err := f.o.OwnAddresses()
	if err != nil {
		return "this host's addresses are not known: " + err.Error()
	}
	if slices.Contains(own, remote) {
		return fmt.Sprintf("it answers from %s, an address of this host", remote)
	}
	return ""
}

// ask gets one cosignature; a witness that is at another size says so once.
func (f *Feeder) ask(ctx context.Context, p *peer, c tlog.Checkpoint, signed []byte, text string) (note.Signature, error) {
	for range maxAttempts {
		if p.size > c.Size {
			return note.Signature{}, fmt.Errorf("%w: %d, not %d", ErrAhead, p.size, c.Size)
		}
		proof, err := f.source.ProveConsistency(p.size, c.Size)
		if err != nil {
			return note.Signature{}, err
		}
		status, body, err := p.post(ctx, &Extension{Old: p.size, Proof: proof, Checkpoint: signed})
		if err != nil {
			return note.Signature{}, err
		}
		switch status {
		case http.StatusOK:
			signature, err := p.cosignature(text, body)
			if err == nil {
				p.size = c.Size
			}
			return signature, err
		case http.StatusConflict:
			size, err := strconv.ParseInt(strings.TrimSuffix(string(body), "\n"), 10, 64)
			if err != nil || size < 0 {
				return note.Signature{}, errors.New("the witness answered 409 without a size")
			}
			if size == p.size {
				return note.Signature{}, fmt.Errorf("%w: another root of %d entries", ErrRefused, size)
			}
			p.size = size
		case http.StatusUnprocessableEntity:
			return note.Signature{}, fmt.Errorf("%w: the first %d entries are not the ones it cosigned", ErrRefused, p.size)
		default:
			return note.Signature{}, fmt.Errorf("the witness answered %d: %.200q", status, body)
		}
	}
	return note.Signature{}, errors.New("the witness changes its size faster than it can be asked")
}

func (p *peer) post(ctx context.Context, r *Extension) (int, []byte, error) {
	address := strings.TrimSuffix(p.URL, "/") + "/add-checkpoint"
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, address, bytes.NewReader(r.Format()))
	if err != nil {
		return 0, nil, err
	}
	req.Header.Set("Content-Type", "text/plain; charset=utf-8")
	resp, err := p.client.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close() // only read
	body, err := io.ReadAll(io.LimitReader(resp.Body, MaxRequest+1))
	if err != nil {
		return 0, nil, err
	}
	if len(body) > MaxRequest {
		return 0, nil, errors.New("the witness's answer is too large")
	}
	return resp.StatusCode, body, nil
}

// cosignature takes the one signature that is by this witness's key and is good.
func (p *peer) cosignature(text string, lines []byte) (note.Signature, error) {
	n, err := note.Open([]byte(text+"\n"+string(lines)), note.VerifierList(p.Verifier))
	if err != nil {
		return note.Signature{}, fmt.Errorf("the witness's cosignature is not good: %w", err)
	}
	return n.Sigs[0], nil
}

// Close ends idle connections.
func (f *Feeder) Close() {
	for _, p := range f.witnesses {
		p.client.CloseIdleConnections()
	}
}
