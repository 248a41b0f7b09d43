// Command bench compares three ways to the same data server in one run, with
// the same client and the same cipher: direct, through an OpenSSH jump host
// (what `ssh -J` does), and through a gate with recording on.
//
// The ways take turns within each round, so that a busy moment of the machine
// falls on all of them, and every figure is the median of the rounds. Client,
// gate, jump host and server share one machine: trust the ratios, not the MB/s.
//
// Then it runs the benchmarks that lie beside the recorder's code, and prints
// their medians against the aims of the design, with the raw cost of a
// synchronised write on the same disk beside them.
//
// It needs root, OpenSSH's server, and a built gate; it uses loopback only and
// stops by itself.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"time"
)

// options are the command line.
type options struct {
	gate   string        // path of the sallyport binary; "" leaves the gate out
	rounds int           // of all measures
	size   int64         // bytes of one bulk transfer
	keys   int           // keystrokes of one echo measure
	logins int           // of one login measure
	budget time.Duration // no round of the ways starts that would probably end after it
	only   string        // "recorder" or "ways"; "" is both
}

func main() {
	var o options
	flag.StringVar(&o.gate, "gate", "bin/sallyport", "`path` of the built gate; empty measures only the baselines")
	flag.IntVar(&o.rounds, "rounds", 5, "rounds; the figures are their medians")
	flag.Int64Var(&o.size, "size", 256<<20, "`bytes` of one bulk transfer")
	flag.IntVar(&o.keys, "keys", 300, "keystrokes of one echo measure")
	flag.IntVar(&o.logins, "logins", 2, "logins of one round")
	flag.DurationVar(&o.budget, "budget", 170*time.Second, "time for comparing the ways")
	flag.StringVar(&o.only, "only", "", "measure only the `part`: recorder, or ways")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) error {
	if o.rounds < 1 || o.size < 1 || o.keys < 1 || o.logins < 1 {
		return errors.New("rounds, size, keys and logins are at least 1")
	}
	switch o.only {
	case "":
		if err := compareWays(ctx, o); err != nil {
			return err
		}
		return measureRecorder(ctx, o, os.Stdout)
	case "recorder":
		return measureRecorder(ctx, o, os.Stdout)
	case "ways":
		return compareWays(ctx, o)
	}
	return fmt.Errorf("%q is no part of the benchmark; there are recorder and ways", o.only)
}

func compareWays(ctx context.Context, o options) (err error) {
	started := time.Now()
	// A hung connection must not hold the run for ever.
	ctx, cancel := context.WithTimeout(ctx, o.budget+time.Minute)
	defer cancel()

	site, err := buildSite(ctx, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, site.Close()) }()

	machine, err := describeMachine(ctx)
	if err != nil {
		return err
	}
	results := map[string]*samples{}
	done := 0
	var longest time.Duration
	for done < o.rounds {
		begin := time.Now()
		if done > 0 && begin.Sub(started)+longest > o.budget {
			fmt.Fprintf(os.Stderr, "the time is over after %d of %d rounds\n", done, o.rounds)
			break
		}
		if err := measureRound(ctx, o, site, done, results); err != nil {
			return err
		}
		done++
		longest = max(longest, time.Since(begin))
		fmt.Fprintf(os.Stderr, "round %d of %d took %.1f s\n", done, o.rounds, time.Since(begin).Seconds())
	}
	return report(os.Stdout, o, machine, site.ways, results, done)
}
