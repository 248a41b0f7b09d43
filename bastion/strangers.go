package bastion

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"runtime/debug"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"sallyport/authz"
)

// maxStrangers bounds the sources that are counted apart in one minute; the
// others share the unspecified source.
const maxStrangers = 1024

// strangers counts refusals before authentication per source and minute, so
// that a flood costs one event a minute and source.
type strangers struct {
	server *Server

	mu     sync.Mutex // guards counts
	counts map[netip.Prefix]map[string]int
}

func newStrangers(s *Server) *strangers {
	return &strangers{server: s, counts: map[netip.Prefix]map[string]int{}}
}

func (t *strangers) count(addr netip.Addr, reason string) {
	source := sourceOf(addr)
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.counts[source] == nil {
		if len(t.counts) >= maxStrangers {
			source = netip.Prefix{}
		}
		if t.counts[source] == nil {
			t.counts[source] = map[string]int{}
		}
	}
	t.counts[source][reason]++
}

// flushEachMinute writes the counts until ctx is done, and once more then.
func (t *strangers) flushEachMinute(ctx context.Context) {
	tick := time.NewTicker(time.Minute)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			t.flush(ctx)
		case <-ctx.Done():
			t.flush(context.WithoutCancel(ctx))
			return
		}
	}
}

// flush writes one event a source.
func (t *strangers) flush(ctx context.Context) {
	t.mu.Lock()
	counts := t.counts
	t.counts = map[netip.Prefix]map[string]int{}
	t.mu.Unlock()
	for source, reasons := range counts {
		remote := "-"
		if source.IsValid() {
			remote = source.Addr().String()
		}
		details := map[string]any{"minute": t.server.now().Truncate(time.Minute).Format(time.RFC3339), "source": source.String()}
		for reason, n := range reasons {
			details[reason] = n
		}
		_, err := t.server.authority.Record(ctx, authz.Event{UserID: "unauthenticated", OpType: "login.strangers",
			ResourceID: t.server.config.Name, ResourceType: "gate", RemoteAddr: remote, Result: authz.ResultRefused, Details: details})
		if err != nil {
			t.server.config.Log.Error("strangers could not be recorded", "source", remote, "error", err)
		}
	}
}

// reasonOf sorts the errors of a handshake into a few words.
func reasonOf(err error) string {
	var auth *ssh.ServerAuthError
	switch {
	case errors.As(err, &auth):
		return "authentication"
	case errors.Is(err, errBudget):
		return "budget"
	case errors.Is(err, os.ErrDeadlineExceeded):
		return "time"
	case errors.Is(err, net.ErrClosed):
		return "closed"
	}
	return "protocol"
}

func stack() string { return string(debug.Stack()) }
