package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"sallyport/authz"
	"sallyport/bastion"
	"sallyport/bastion/console"
)

// Run serves until ctx is done, then drains and returns nil. It returns an
// error when the node could not go on: a listener failed, or nothing can be
// recorded any more. Health and metrics are served until the drain is over.
func (n *Node) Run(ctx context.Context) error {
	if err := n.tell(ctx, "node.start", nil); err != nil {
		return fmt.Errorf("record the start: %w", err)
	}
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	n.options.Log.Info("serving", "node", n.ID, "ssh", n.SSHAddress, "metrics", n.MetricsAddress, "socket", n.Socket)

	// The watch and the web server outlive ctx, because sessions may go on while the node drains.
	late, stopLate := context.WithCancel(context.WithoutCancel(ctx))
	var background, serving sync.WaitGroup
	background.Go(func() { n.Server.Watch(late) })
	background.Go(func() { n.serveHTTP(late) })
	background.Go(func() { n.tidy(late) })
	background.Go(func() { n.vouching.run(late) })
	background.Go(func() { n.watchEpochs(late) })
	background.Go(func() { n.vault.Run(late) })
	background.Go(func() { n.watchScrub(late) })
	background.Go(func() { n.stopWhenUnrecorded(ctx, stop) })
	for _, serve := range []func() error{
		func() error { return n.Server.Serve(ctx, n.ssh) },
		func() error { return n.Server.ServeLocal(ctx, n.local) },
	} {
		serving.Go(func() {
			if err := serve(); err != nil {
				stop(err)
			}
		})
	}
	serving.Wait()
	cause := context.Cause(ctx)
	stop(nil)
	stopLate()
	background.Wait()
	if cause == nil || errors.Is(cause, context.Canceled) || errors.Is(cause, context.DeadlineExceeded) {
		cause = nil
	}
	if err := n.tell(context.WithoutCancel(ctx), "node.stop", cause); err != nil {
		cause = errors.Join(cause, fmt.Errorf("record the stop: %w", err))
	}
	n.options.Log.Info("stopped", "node", n.ID, "cause", cause)
	return cause
}

// tell records that the node itself did something.
func (n *Node) tell(ctx context.Context, op string, cause error) error {
	e := authz.Event{
		UserID: "system", OpType: op, Time: n.options.Clock().UTC(), ResourceType: "node", ResourceID: n.ID, RemoteAddr: "-",
		Result: authz.ResultOK, Details: map[string]any{"version": n.options.Version},
	}
	if cause != nil {
		e.Result = authz.ResultFailed
		e.Details["cause"] = cause.Error()
	}
	_, err := n.Authority.Record(ctx, e)
	return err
}

// unwritten is what is told, without paths, once events can no longer be kept.
const unwritten = "the ledger can no longer be written"

// stopWhenUnrecorded stops the node some time after recorder or ledger have
// failed. Until then the front door ends the sessions, and tells everyone who
// comes why there is no other; a supervisor may start the node again after that.
func (n *Node) stopWhenUnrecorded(ctx context.Context, stop context.CancelCauseFunc) {
	var what string
	select {
	case <-ctx.Done():
		return
	case <-n.Recorder.Failed():
		what = "recordings can no longer be written"
	case <-n.Ledger.Failed():
		what = unwritten
	case <-n.Authority.Failed():
		what = unwritten
	}
	grace := n.config.Limits.Drain
	if grace == 0 {
		grace = bastion.DefaultLimits().Drain
	}
	n.options.Log.Error("the node stops soon: "+what, "in", grace.String())
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
		stop(errors.New(what))
	}
}

// health is nil when the node takes sessions, else why not.
func (n *Node) health() error {
	select {
	case <-n.Ledger.Failed():
		return errors.New(unwritten)
	case <-n.Authority.Failed():
		return errors.New(unwritten)
	default:
	}
	return n.Server.Health()
}

// tidy does each second what is due and nobody waits for.
func (n *Node) tidy(ctx context.Context) {
	second := time.NewTicker(time.Second)
	defer second.Stop()
	for {
		if err := n.Authority.Tidy(ctx); err != nil && ctx.Err() == nil && n.Authority.Err() == nil {
			n.options.Log.Error("what is due could not be done", "error", err)
		}
		select {
		case <-second.C:
		case <-ctx.Done():
			return
		}
	}
}

func newRegistry(n *Node, version string) *prometheus.Registry {
	r := prometheus.NewRegistry()
	build := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "sallyport_build_info", Help: "1; the labels say which version runs and as which node.",
		ConstLabels: prometheus.Labels{"version": version, "node": n.ID},
	}, func() float64 { return 1 })
	ledger := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "sallyport_ledger_sequence", Help: "Number of the last durable entry of the ledger.",
	}, func() float64 { return float64(n.Ledger.Last()) })
	n.epochs = epochGauge()
	n.scrubs = newScrubMetrics(n, r)
	r.MustRegister(build, ledger, n.epochs, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return r
}

// serveHTTP answers /healthz and /metrics on loopback until ctx is done.
func (n *Node) serveHTTP(ctx context.Context) {
	if n.metrics == nil {
		return
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.Header().Set("Cache-Control", "no-store")
		if err := n.health(); err != nil {
			w.WriteHeader(http.StatusServiceUnavailable)
			fmt.Fprintln(w, console.Cause(err))
			return
		}
		_, _ = io.WriteString(w, "ok\n") // a caller that went away needs no answer
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(n.registry, promhttp.HandlerOpts{}))
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, WriteTimeout: 30 * time.Second, MaxHeaderBytes: 16 << 10}
	var closing sync.WaitGroup
	closing.Go(func() {
		<-ctx.Done()
		_ = server.Close() // the node is going away; half an answer is none
	})
	if err := server.Serve(n.metrics); err != nil && !errors.Is(err, http.ErrServerClosed) {
		n.options.Log.Error("health and metrics are no longer served", "error", err)
	}
	closing.Wait()
}
