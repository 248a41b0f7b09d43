// Command faults shows that nothing acknowledged is lost whatever happens to a
// gate: it kills a loaded one at random points, again and again on the same
// state, and lets each system call of its storage fail once.
//
// After each it starts the gate again on what is left and holds four accounts
// to each other: what the clients received, what the data server received, what
// the recordings hold, and what the database says; and it verifies every
// recording and the ledger. It stops at the first difference and keeps the state.
//
// It sees the gate from outside only: it runs the built program, and reads what
// that has written with the auditors' keys. It uses loopback only, and ends no
// process but those that it started.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"time"

	"sallyport/internal/testgate"
)

// options are the command line.
type options struct {
	binary   string
	dir      string        // for the states
	runs     int           // kills
	chain    int           // kills on the same state
	whole    int           // everything is verified each so many kills
	parallel int           // chains at once
	people   int           // of the site
	load     time.Duration // longest time under load before a kill
	seed     uint64
	perClass int // calls of a kind that fail; 0: none
	points   int // faults, at most; 0: all
	keep     bool
}

func main() {
	var o options
	flag.StringVar(&o.binary, "gate", "bin/sallyport", "`path` of the built gate")
	flag.StringVar(&o.dir, "dir", "", "`folder` for the states; empty: a new one in the system's temporary folder")
	flag.IntVar(&o.runs, "runs", 1000, "kills")
	flag.IntVar(&o.chain, "chain", 100, "kills on the same state")
	flag.IntVar(&o.whole, "whole", 10, "verify the whole node each so many kills")
	flag.IntVar(&o.parallel, "parallel", 2, "states at once")
	flag.IntVar(&o.people, "people", 48, "people of the site; a login uses one of their codes up")
	flag.DurationVar(&o.load, "load", 400*time.Millisecond, "longest time under load before a kill")
	flag.IntVar(&o.perClass, "calls", 3, "let so many of each kind of system call fail, in each way; 0: none")
	flag.IntVar(&o.points, "points", 0, "a sample of so many faults; 0: all of them")
	flag.Uint64Var(&o.seed, "seed", rand.Uint64(), "decides what chance decides, as far as the machine's own timing permits")
	flag.BoolVar(&o.keep, "keep", false, "keep the states")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, o, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "faults:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options, out io.Writer) (err error) {
	if o.runs < 0 || o.perClass < 0 || o.points < 0 || o.chain < 1 || o.whole < 1 || o.parallel < 1 || o.people < 2 || o.load <= 0 {
		return errors.New("chain, whole and parallel are at least 1, people 2, and load is longer than nothing")
	}
	if o.dir == "" {
		if o.dir, err = os.MkdirTemp("", "sallyport-faults-"); err != nil {
			return err
		}
		defer func() {
			if err == nil && !o.keep {
				err = os.RemoveAll(o.dir)
			}
		}()
	}
	site, server, err := makeSite(ctx, o)
	if err != nil {
		return err
	}
	defer server.Close()
	fmt.Fprintf(out, "seed %d, states in %s\n", o.seed, o.dir)
	if o.runs > 0 {
		if err := (&crashes{o: o, site: site, server: server, out: out}).run(ctx); err != nil {
			return err
		}
	}
	if o.perClass > 0 {
		return (&points{o: o, site: site, server: server, out: out}).run(ctx)
	}
	return nil
}

// makeSite makes the state that everything begins with, and its data server.
func makeSite(ctx context.Context, o options) (*testgate.Site, *dataServer, error) {
	server, err := startDataServer()
	if err != nil {
		return nil, nil, err
	}
	site, err := testgate.Make(ctx, filepath.Join(o.dir, "site"), "limits:", "  unauthenticated_per_source: 100", "  drain: 2s")
	if err != nil {
		server.Close()
		return nil, nil, err
	}
	server.trust(site.UserCA)
	target := testgate.Server{Address: server.listener.Addr().String(), HostKey: server.host.PublicKey()}
	for i := range o.people {
		target.Accounts = append(target.Accounts, fmt.Sprintf("account%d", i+1))
	}
	if err := site.Populate(ctx, target); err != nil {
		server.Close()
		return nil, nil, err
	}
	return site, server, nil
}
