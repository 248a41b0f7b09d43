package testkit

import (
	"context"
	"fmt"
	"net"
	"testing"
	"time"
)

// pollInterval is short beside anything that a person would notice and long
// beside the cost of a check.
const pollInterval = 5 * time.Millisecond

// Poll calls condition until it holds, and returns an error that names what was
// waited for when ctx ends first.
func Poll(ctx context.Context, what string, condition func() bool) error {
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		if condition() {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for %s: %w", what, ctx.Err())
		case <-tick.C:
		}
	}
}

// WaitFor calls condition until it holds, and fails the test with what was
// waited for when the time is over.
func WaitFor(t testing.TB, within time.Duration, what string, condition func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	if err := Poll(ctx, what, condition); err != nil {
		t.Fatal(err)
	}
}

// FreePort returns a TCP port of 127.0.0.1 that was free a moment ago. Another
// process may take it before the caller does, so the caller tries again then.
func FreePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, fmt.Errorf("looking for a free port: %w", err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	return port, l.Close()
}
