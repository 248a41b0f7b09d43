package node

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"sallyport/authz"
	"sallyport/internal/config"
	"sallyport/recorder/ledger"
	"sallyport/recorder/tlog"
	"sallyport/recorder/witness"
)

// witnessed is the log whose checkpoints leave the node; *ledger.Ledger is one.
type witnessed interface {
	witness.Source
	StoreCosigned(signed []byte) error
}

// vouching makes others see the ledger's checkpoints while the node runs:
// witnesses on other hosts, and a log server. What it finds out it logs,
// counts, and records as an event when it changes.
type vouching struct {
	config *config.Config
	log    witnessed
	tell   func(ctx context.Context, e authz.Event) error
	logger *slog.Logger
	clock  func() time.Time
	dial   func(ctx context.Context, network, address string) (net.Conn, error)
	node   string

	// ownAddresses are this host's; nil: those of its interfaces.
	ownAddresses func() ([]netip.Addr, error)

	feeder *witness.Feeder // nil: no witnesses
	syslog *witness.Syslog // nil: no log server

	mu    sync.Mutex // guards what follows
	alarm string     // the sentence of the alarm that stands; "" for none
	since time.Time  // when it began
	told  time.Time  // when the log last had what is wrong
	good  time.Time  // when enough last vouched for all that there was

	count func(outcome string) // of a round, or "syslog " and that of a shipment
}

// vouchingOptions are what a vouching needs of its node.
type vouchingOptions struct {
	Config       *config.Config
	Node         string
	Log          witnessed
	Tell         func(ctx context.Context, e authz.Event) error
	Logger       *slog.Logger
	Clock        func() time.Time
	Registry     prometheus.Registerer
	Dial         func(ctx context.Context, network, address string) (net.Conn, error) // nil: net.Dialer
	OwnAddresses func() ([]netip.Addr, error)                                         // nil: those of the interfaces
}

// newVouching reads policy and certificates. It connects to nobody yet.
func newVouching(o vouchingOptions) (*vouching, error) {
	v := &vouching{config: o.Config, log: o.Log, tell: o.Tell, logger: o.Logger, clock: o.Clock, dial: o.Dial, node: o.Node,
		ownAddresses: o.OwnAddresses, good: o.Clock()}
	if v.dial == nil {
		v.dial = new(net.Dialer).DialContext
	}
	v.measure(o.Registry)
	if err := v.openFeeder(); err != nil {
		return nil, err
	}
	return v, v.openSyslog()
}

func (v *vouching) measure(r prometheus.Registerer) {
	rounds := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "sallyport_witness_rounds_total",
		Help: "Rounds in which witnesses were asked to cosign, by outcome: enough, few, refused or failed."}, []string{"outcome"})
	sent := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "sallyport_syslog_checkpoints_total",
		Help: "Checkpoints shipped to the log server, by outcome: sent or failed."}, []string{"outcome"})
	alarm := prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "sallyport_witness_alarm",
		Help: "1 while an alarm about the witnesses of the ledger stands."}, func() float64 {
		if v.standing() != "" {
			return 1
		}
		return 0
	})
	good := prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "sallyport_witness_good_seconds",
		Help: "When enough witnesses last cosigned all that there was, in seconds since 1970; at first the start of the node."}, func() float64 {
		v.mu.Lock()
		defer v.mu.Unlock()
		return float64(v.good.UnixMilli()) / 1000
	})
	v.count = func(name string) {
		if outcome, ok := strings.CutPrefix(name, "syslog "); ok {
			sent.WithLabelValues(outcome).Inc()
			return
		}
		rounds.WithLabelValues(name).Inc()
	}
	if v.config.Witness.Policy != "" {
		r.MustRegister(rounds, alarm, good)
	}
	if v.config.Syslog.Address != "" {
		r.MustRegister(sent)
	}
}

func (v *vouching) openFeeder() error {
	c := v.config.Witness
	if c.Policy == "" {
		return nil
	}
	policy, roots, err := witnessFiles(v.config)
	if err != nil {
		return err
	}
	v.feeder, err = witness.NewFeeder(v.log, witness.FeederOptions{Policy: policy, SameHost: c.SameHost, Dial: v.dial,
		OwnAddresses: v.ownAddresses, RootCAs: roots})
	if err != nil {
		return fmt.Errorf("witnesses (witness): %w", err)
	}
	// What the policy does not know would be an alarm only after the first round.
	if _, err := policy.Check(v.log.Checkpoint()); err != nil {
		return fmt.Errorf("witness policy (witness.policy): %w; %s", err, ownLogLine)
	}
	return nil
}

const ownLogLine = "its log line must hold this node's key, which `ledger key` prints"

// witnessFiles reads what the configuration says of witnesses.
func witnessFiles(c *config.Config) (*witness.Policy, *x509.CertPool, error) {
	text, err := os.ReadFile(c.Witness.Policy)
	if err != nil {
		return nil, nil, fmt.Errorf("witness policy (witness.policy): %w", err)
	}
	policy, err := witness.ParsePolicy(text)
	if err != nil {
		return nil, nil, fmt.Errorf("witness policy (witness.policy): %w", err)
	}
	roots, err := authorities(c.Witness.CA)
	if err != nil {
		return nil, nil, fmt.Errorf("authority of the witnesses (witness.ca): %w", err)
	}
	return policy, roots, nil
}

// checkWitnesses says what openFeeder would find wrong, without a ledger.
func checkWitnesses(c *config.Config, node string, key ed25519.PublicKey) error {
	if c.Witness.Policy == "" {
		return nil
	}
	policy, roots, err := witnessFiles(c)
	if err != nil {
		return err
	}
	if _, err := witness.NewFeeder(nil, witness.FeederOptions{Policy: policy, SameHost: c.Witness.SameHost, RootCAs: roots}); err != nil {
		return fmt.Errorf("witnesses (witness): %w", err)
	}
	own, err := tlog.NewVerifier(ledger.OriginOf(node), key)
	if err != nil {
		return err
	}
	for _, l := range policy.Logs {
		if l.Verifier.Name() == own.Name() && l.Verifier.KeyHash() == own.KeyHash() {
			return nil
		}
	}
	return errors.New("witness policy (witness.policy): it does not know the ledger of this node; " + ownLogLine)
}

// authorities reads PEM certificates; nil, the system's, for no path.
func authorities(path string) (*x509.CertPool, error) {
	if path == "" {
		return nil, nil
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("%s holds no certificate in PEM", path)
	}
	return pool, nil
}

// checkSyslog says what openSyslog would find wrong.
func checkSyslog(c *config.Config) error {
	if c.Syslog.Address == "" {
		return nil
	}
	_, err := syslogTLS(c.Syslog)
	return err
}

// syslogTLS reads what the configuration says of the log server.
func syslogTLS(c config.Syslog) (*tls.Config, error) {
	host, _, err := net.SplitHostPort(c.Address)
	if err != nil {
		return nil, fmt.Errorf("log server (syslog.address): %w", err)
	}
	settings := &tls.Config{ServerName: host, MinVersion: tls.VersionTLS12}
	if settings.RootCAs, err = authorities(c.CA); err != nil {
		return nil, fmt.Errorf("authority of the log server (syslog.ca): %w", err)
	}
	if c.Certificate != "" {
		text, err := readSecret(c.Certificate)
		if err != nil {
			return nil, fmt.Errorf("certificate for the log server (syslog.certificate): %w", err)
		}
		pair, err := tls.X509KeyPair(text, text)
		if err != nil {
			return nil, fmt.Errorf("certificate for the log server (syslog.certificate): %w", err)
		}
		settings.Certificates = []tls.Certificate{pair}
	}
	return settings, nil
}

func (v *vouching) openSyslog() error {
	c := v.config.Syslog
	if c.Address == "" {
		return nil
	}
	settings, err := syslogTLS(c)
	if err != nil {
		return err
	}
	dial := func(ctx context.Context) (net.Conn, error) {
		conn, err := v.dial(ctx, "tcp", c.Address)
		if err != nil {
			return nil, err
		}
		secured := tls.Client(conn, settings)
		if err := secured.HandshakeContext(ctx); err != nil {
			return nil, errors.Join(err, conn.Close())
		}
		return secured, nil
	}
	v.syslog, err = witness.NewSyslog(witness.SyslogOptions{Dial: dial, Hostname: v.config.Name, Clock: v.clock})
	return err
}

// run feeds witnesses and log server until ctx is done, and once more then,
// so that the end of the log is known outside too.
func (v *vouching) run(ctx context.Context) {
	var group sync.WaitGroup
	if v.feeder != nil {
		group.Go(func() { v.each(ctx, v.config.Witness.Interval, v.feed); v.feeder.Close() })
	}
	if v.syslog != nil {
		group.Go(func() {
			v.each(ctx, v.config.Syslog.Interval, v.ship)
			_ = v.syslog.Close() // nothing waits to be written
		})
	}
	group.Wait()
}

// lastRound bounds what is done when the node ends.
const lastRound = 5 * time.Second

func (v *vouching) each(ctx context.Context, interval time.Duration, do func(context.Context)) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for ctx.Err() == nil {
		do(ctx)
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
	late, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastRound)
	defer cancel()
	do(late)
}

// feed is one round of the witnesses.
func (v *vouching) feed(ctx context.Context) {
	fed, err := v.feeder.Feed(ctx)
	if err != nil {
		v.count("failed")
		v.judge(ctx, "", []string{"the witnesses could not be asked: " + err.Error()})
		return
	}
	if refused := fed.Alarm(); refused != nil {
		v.count("refused")
		v.judge(ctx, "A witness says that the ledger of this node is not the one it knows.", reasons(fed))
		return
	}
	if !fed.Verdict.Enough {
		v.count("few")
		v.judge(ctx, "", reasons(fed))
		return
	}
	if err := v.log.StoreCosigned(fed.Signed); err != nil {
		v.count("failed")
		v.judge(ctx, "", []string{"the cosigned checkpoint could not be kept: " + err.Error()})
		return
	}
	v.count("enough")
	v.mu.Lock()
	v.good = v.clock()
	over, since, told := v.alarm, v.since, v.told
	v.alarm, v.told = "", time.Time{}
	v.mu.Unlock()
	if !told.IsZero() {
		v.logger.Info("enough witnesses cosign the ledger again", "witnesses", fed.Verdict.Cosigned)
	}
	if over != "" {
		v.event(ctx, "witness.restored", authz.ResultOK, map[string]any{"size": fed.Verdict.Checkpoint.Size, "witnesses": fed.Verdict.Cosigned,
			"alarm_since": since.UTC().Format(time.RFC3339)})
	}
}

// reasons are why each witness that did not count did not, by name.
func reasons(fed *witness.Fed) []string {
	var all []string
	for _, name := range slices.Sorted(maps.Keys(fed.Failed)) {
		all = append(all, name+": "+fed.Failed[name].Error())
	}
	for _, name := range slices.Sorted(maps.Keys(fed.Verdict.Ignored)) {
		all = append(all, name+": it counts as none, because "+fed.Verdict.Ignored[name])
	}
	return all
}

// tellAgain is how often the log has the same trouble once more.
const tellAgain = time.Hour

// judge raises an alarm: the given one, or that witnesses have been too few for
// too long. The log has it when it begins and then each hour; one that stands already
// is no new event.
func (v *vouching) judge(ctx context.Context, alarm string, why []string) {
	after, now := v.config.Witness.AlarmAfter, v.clock()
	v.mu.Lock()
	op := "witness.refused"
	if alarm == "" && now.Sub(v.good) >= after {
		op, alarm = "witness.missing", fmt.Sprintf("For %s not enough witnesses have cosigned the ledger of this node.", after)
	}
	stands := v.alarm
	// That the ledger is another one is worse than that nobody looked at it.
	if alarm == "" || stands != "" && op == "witness.missing" {
		alarm = stands
	} else if v.alarm = alarm; stands == "" {
		v.since = now
	}
	tell := alarm != stands || v.told.IsZero() || now.Sub(v.told) >= tellAgain
	if tell {
		v.told = now
	}
	v.mu.Unlock()
	var because []any
	if len(why) > 0 {
		because = []any{"why", why}
	}
	switch {
	case tell && alarm != "":
		v.logger.Error("ALARM: "+alarm, because...)
	case tell:
		v.logger.Warn("not enough witnesses cosigned the ledger", because...)
	}
	if alarm != stands {
		details := map[string]any{"alarm": alarm, "sessions": v.config.Witness.Alarm}
		if len(why) > 0 {
			details["cause"] = strings.Join(why, "; ")
		}
		v.event(ctx, op, authz.ResultFailed, details)
	}
}

func (v *vouching) event(ctx context.Context, op, result string, details map[string]any) {
	e := authz.Event{UserID: "system", OpType: op, Time: v.clock().UTC(), ResourceType: "node", ResourceID: v.node, RemoteAddr: "-",
		Result: result, Details: details}
	if err := v.tell(ctx, e); err != nil {
		v.logger.Error("what the witnesses said could not be recorded", "operation", op, "error", err)
	}
}

func (v *vouching) standing() string {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.alarm
}

// warning is the alarm that stands, and since when; "" for none.
func (v *vouching) warning() string {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.alarm == "" {
		return ""
	}
	return v.alarm + " The alarm stands since " + v.since.UTC().Format("2006-01-02 15:04Z") + "."
}

// health is why no new session may begin: an alarm stands and the configuration says "refuse".
func (v *vouching) health() error {
	if alarm := v.standing(); alarm != "" && v.config.Witness.Alarm == config.AlarmRefuse {
		return errors.New(alarm)
	}
	return nil
}

// ship sends the newest checkpoint to the log server.
func (v *vouching) ship(ctx context.Context) {
	signed := v.log.Checkpoint()
	c, _, err := tlog.OpenCheckpoint(signed, v.log.Origin(), v.log.Verifier())
	if err == nil {
		err = v.syslog.Send(ctx, c, signed)
	}
	if err != nil {
		v.count("syslog failed")
		v.logger.Error("the log server did not get the checkpoint", "error", err)
		return
	}
	v.count("syslog sent")
}
