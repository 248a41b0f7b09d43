package main

import (
	"context"
	"errors"
	"path/filepath"
	"sync/atomic"
	"time"

	"sallyport/internal/testgate"
	"sallyport/internal/testkit"
)

// gate is a running `sallyport serve`, in a process of its own as in service,
// with its people.
type gate struct {
	*testgate.Gate
	next atomic.Int64 // person to log in next
}

// startGate puts a person for each account into a made node, and serves it with the built binary.
func startGate(ctx context.Context, binary string, made *testgate.Site, target *testkit.SSHD, accounts []string) (*gate, error) {
	binary, err := filepath.Abs(binary)
	if err != nil {
		return nil, err
	}
	if err := made.Populate(ctx, testgate.Server{Address: target.Address, HostKey: target.HostKey.Signer.PublicKey(), Accounts: accounts}); err != nil {
		return nil, err
	}
	running, err := testgate.Start(made, binary, testkit.StartOwned)
	if err != nil {
		return nil, err
	}
	wait, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	if err := running.WaitServing(wait); err != nil {
		return nil, errors.Join(err, running.Stop())
	}
	return &gate{Gate: running}, nil
}

// connect logs the next person in, with key and one-time code.
func (g *gate) connect(ctx context.Context) (*connection, error) {
	c, err := g.Dial(ctx, g.Site.People[int(g.next.Add(1)-1)%len(g.Site.People)])
	if err != nil {
		return nil, err
	}
	return &connection{Client: c}, nil
}
