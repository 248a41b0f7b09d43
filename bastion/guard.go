package bastion

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// People with a verified key wait for their second factor apart from the
// strangers, so that who holds one stolen key can't keep everybody out; and
// apart by source, so that the key's owner can come in from elsewhere.
const (
	loginsPerPersonAndSource = 5
	loginsPerPerson          = 25
)

// waiting is one person at one source.
type waiting struct {
	name   string
	source netip.Prefix // zero: the person at all sources
}

// guard bounds what strangers can take before they are known: places in all
// and per source. A place is given back when a key is verified or at the end.
type guard struct {
	most, perSource int

	mu      sync.Mutex // guards the rest
	taken   int
	sources map[netip.Prefix]int
	people  map[waiting]int
}

func newGuard(l Limits) *guard {
	return &guard{most: l.Unauthenticated, perSource: l.UnauthenticatedPerSource, sources: map[netip.Prefix]int{}, people: map[waiting]int{}}
}

// sourceOf is what counts as one source: an IPv4 address or an IPv6 /64.
func sourceOf(addr netip.Addr) netip.Prefix {
	addr = addr.Unmap()
	bits := 32
	if addr.Is6() {
		bits = 64
	}
	p, err := addr.Prefix(bits)
	if err != nil {
		return netip.Prefix{} // all unaddressed peers share one place
	}
	return p
}

// admit takes a place; release gives it back and may be called more than once.
func (g *guard) admit(addr netip.Addr) (release func(), ok bool) {
	source := sourceOf(addr)
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.taken >= g.most || g.sources[source] >= g.perSource {
		return nil, false
	}
	g.taken++
	g.sources[source]++
	return sync.OnceFunc(func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.taken--
		if g.sources[source]--; g.sources[source] == 0 {
			delete(g.sources, source)
		}
	}), true
}

// person takes one of a person's places after their key was verified.
func (g *guard) person(name string, addr netip.Addr) (release func(), ok bool) {
	here, everywhere := waiting{name, sourceOf(addr)}, waiting{name: name}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.people[here] >= loginsPerPersonAndSource || g.people[everywhere] >= loginsPerPerson {
		return nil, false
	}
	g.people[here]++
	g.people[everywhere]++
	return sync.OnceFunc(func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		for _, w := range []waiting{here, everywhere} {
			if g.people[w]--; g.people[w] == 0 {
				delete(g.people, w)
			}
		}
	}), true
}

// errBudget ends a connection that sends too much before it is known.
var errBudget = errors.New("too many bytes before authentication")

// guardedConn counts what a client sends before it is known, and tells at
// once when it has gone, also while a login callback is at work.
type guardedConn struct {
	net.Conn
	budget atomic.Int64 // bytes still allowed; negative once the client is known
	free   atomic.Bool  // the client is known: no budget
	ctx    context.Context
	gone   context.CancelCauseFunc
}

func newGuardedConn(ctx context.Context, c net.Conn, budget int64) *guardedConn {
	g := &guardedConn{Conn: c}
	g.ctx, g.gone = context.WithCancelCause(ctx)
	g.budget.Store(budget)
	return g
}

func (g *guardedConn) Read(p []byte) (int, error) {
	n, err := g.Conn.Read(p)
	if !g.free.Load() && g.budget.Add(-int64(n)) < 0 {
		err = errBudget
		n = 0
	}
	if err != nil {
		g.gone(err)
	}
	return n, err
}

// known lifts the budget and the deadline.
func (g *guardedConn) known() error {
	g.free.Store(true)
	return g.SetDeadline(time.Time{})
}
