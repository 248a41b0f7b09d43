package node

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// epochCheck is how often the ends of epoch keys are looked at.
const epochCheck = time.Minute

// epochGauge tells when each project's last epoch key ends. An alarm compares it with the time.
func epochGauge() *prometheus.GaugeVec {
	return prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "sallyport_epoch_end_timestamp_seconds",
		Help: "When the last epoch key of a project ends, in seconds since 1970; no session starts after that.",
	}, []string{"project"})
}

// watchEpochs warns before a project's last epoch key ends, while there is time to make the next one.
func (n *Node) watchEpochs(ctx context.Context) {
	tick := time.NewTicker(epochCheck)
	defer tick.Stop()
	for {
		n.checkEpochs(ctx)
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

func (n *Node) checkEpochs(ctx context.Context) {
	told, all, err := n.Authority.WarnEpochs(ctx)
	if err != nil {
		if ctx.Err() == nil && n.Authority.Err() == nil {
			n.options.Log.Error("the ends of epoch keys could not be looked at", "error", err)
		}
		return
	}
	n.epochs.Reset()
	for _, e := range all {
		n.epochs.WithLabelValues(e.Project).Set(float64(e.ExpiresAt.Unix()))
	}
	for _, e := range told {
		n.options.Log.Warn(e.String(), "epoch", e.Epoch, "project", e.Project, "expires", e.ExpiresAt)
	}
}
