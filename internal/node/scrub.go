package node

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"path/filepath"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"sallyport/authz"
	"sallyport/recorder/ledger"
	"sallyport/recorder/vault"
)

// openVault opens what keeps finished recordings. It comes after what a crash
// left is closed, so that these are copied too.
func (n *Node) openVault() error {
	c, o := n.config, n.options
	var err error
	n.vault, err = vault.Open(vault.Options{
		Dir: c.Recording.Dir, Second: c.Recording.SecondDir, State: c.State, MaxBacklog: int64(c.Recording.MaxBacklog),
		Rate: int64(c.Recording.ScrubRate), NodeKey: n.NodeKey, Clock: o.Clock, Log: o.Log,
	})
	if err != nil {
		return fmt.Errorf("open where recordings rest: %w", err)
	}
	return nil
}

// scrubMetrics tell of the second form and of the last scrub.
type scrubMetrics struct{ faults, finished prometheus.Gauge }

func newScrubMetrics(n *Node, r prometheus.Registerer) *scrubMetrics {
	m := &scrubMetrics{
		faults: prometheus.NewGauge(prometheus.GaugeOpts{Name: "sallyport_scrub_faults",
			Help: "Stored recordings that the last scrub found changed or missing, each form counted."}),
		finished: prometheus.NewGauge(prometheus.GaugeOpts{Name: "sallyport_scrub_finished_timestamp_seconds",
			Help: "When the last scrub of all recordings ended, in seconds since 1970; 0 for never."}),
	}
	backlog := prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "sallyport_second_backlog_bytes",
		Help: "Finished recordings that wait to be copied to their second place, in bytes."},
		func() float64 { return float64(n.vault.Backlog().Bytes) })
	faulty := prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "sallyport_second_faulty_copies",
		Help: "Second copies of recordings that are lost or have another size than the recording."},
		func() float64 { return float64(n.vault.Backlog().Faulty) })
	r.MustRegister(m.faults, m.finished, backlog, faulty)
	if last, ok := n.vault.LastScrub(); ok {
		m.set(last)
	}
	return m
}

func (m *scrubMetrics) set(r vault.Report) {
	m.faults.Set(float64(r.Faults))
	if !r.Finished.IsZero() {
		m.finished.Set(float64(r.Finished.Unix()))
	}
}

// scrubCheck is how often it is looked at whether a scrub is due. A node that has just
// started has better things to do.
const scrubCheck = 10 * time.Minute

// watchScrub scrubs when a week has passed since the last time.
func (n *Node) watchScrub(ctx context.Context) {
	tick := time.NewTicker(scrubCheck)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		if !n.vault.Due() {
			continue
		}
		// Scrub has told log and ledger of what it found.
		if _, err := n.Scrub(ctx, nil); err != nil && !errors.Is(err, vault.ErrScrubbing) && ctx.Err() == nil {
			n.options.Log.Error("the weekly check of recordings could not be finished; it goes on soon", "error", err)
		}
	}
}

// Scrub re-reads all finished recordings and tells the ledger what it found.
func (n *Node) Scrub(ctx context.Context, progress func(vault.Report)) (vault.Report, error) {
	// The ledger is read as others read it, up to its published checkpoint.
	if err := n.Ledger.Publish(ctx); err != nil {
		return vault.Report{}, err
	}
	r, err := n.vault.Scrub(ctx, n.finishedRecordings, progress)
	if errors.Is(err, vault.ErrScrubbing) || ctx.Err() != nil {
		return r, err
	}
	n.scrubs.set(r)
	e := authz.Event{
		UserID: "system", OpType: "recording.scrub", ResourceType: "node", ResourceID: n.ID, RemoteAddr: "-", Result: authz.ResultOK,
		Details: map[string]any{"recordings": r.Recordings, "bytes": r.Bytes, "waiting": r.Waiting, "faults": r.Faults, "started": r.Started},
	}
	if !r.Intact() {
		e.Result = authz.ResultFailed
		e.Details["findings"] = r.Findings
	}
	if err != nil {
		e.Result = authz.ResultFailed
		e.Details["cause"] = err.Error()
	}
	_, told := n.Authority.Record(ctx, e)
	return r, errors.Join(err, told)
}

// finishedRecordings are those of the ledger that have their end, up to its last published checkpoint.
func (n *Node) finishedRecordings(from int64) iter.Seq2[vault.Expected, error] {
	return func(yield func(vault.Expected, error) bool) {
		for item, err := range ledger.Read(filepath.Join(n.config.State, "ledger"), n.Ledger.Verifier(), nil) {
			if err != nil {
				yield(vault.Expected{}, fmt.Errorf("read the ledger: %w", err))
				return
			}
			if item.Index < from || item.Leaf == nil || item.Leaf.Kind != ledger.KindClose {
				continue
			}
			if !yield(vault.Expected{Index: item.Index, Session: item.Leaf.Session, Root: item.Leaf.Hash, Size: item.Leaf.Size}, nil) {
				return
			}
		}
	}
}
