package bastion

import "github.com/prometheus/client_golang/prometheus"

// metrics are what the node tells Prometheus; names carry no person.
type metrics struct {
	logins   *prometheus.CounterVec // by result: ok, refused, stranger, invite
	sessions *prometheus.CounterVec // ended sessions by result
	refusals *prometheus.CounterVec // by rule
	bytes    *prometheus.CounterVec // relayed, by direction: in, out
	panics   prometheus.Counter
}

func newMetrics(r prometheus.Registerer, s *Server) *metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "sallyport", Name: name, Help: help}, labels)
	}
	m := &metrics{
		logins:   counter("logins_total", "Logins by result.", "result"),
		sessions: counter("sessions_total", "Ended sessions by result.", "result"),
		refusals: counter("refusals_total", "Refusals by rule.", "rule"),
		bytes:    counter("relayed_bytes_total", "Bytes relayed, by direction as the data server sees it.", "direction"),
		panics: prometheus.NewCounter(prometheus.CounterOpts{Namespace: "sallyport", Name: "panics_total",
			Help: "Panics contained to one connection; each is a bug."}),
	}
	if r == nil {
		return m
	}
	r.MustRegister(m.logins, m.sessions, m.refusals, m.bytes, m.panics,
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: "sallyport", Name: "live_sessions",
			Help: "Sessions on data servers now."}, func() float64 { return float64(s.live.count()) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: "sallyport", Name: "healthy",
			Help: "1 while the node takes sessions."}, func() float64 {
			if s.Health() != nil {
				return 0
			}
			return 1
		}))
	return m
}
