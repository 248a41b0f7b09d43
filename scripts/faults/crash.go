package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"sallyport/internal/testgate"
	"sallyport/internal/testkit"
)

// Where in a gate's life a kill falls.
const (
	killStart = "start-up and recovery"
	killLoad  = "load"
	killStop  = "shutdown"
)

// serveTime is how long a gate may take until it serves.
const serveTime = 60 * time.Second

// crashes kills a loaded gate again and again.
type crashes struct {
	o      options
	site   *testgate.Site // the state that each chain begins with
	server *dataServer
	out    io.Writer

	mu     sync.Mutex // guards the rest
	kills  map[string]int
	total  tally
	logins int
	began  time.Time
	done   int
}

// run makes o.runs kills in chains of o.chain on the same state, o.parallel at once.
func (c *crashes) run(ctx context.Context) error {
	c.kills, c.began = map[string]int{}, time.Now()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	chains := make(chan int)
	var work sync.WaitGroup
	var failed []error
	for range c.o.parallel {
		work.Go(func() {
			for first := range chains {
				if err := c.chain(ctx, first, min(c.o.chain, c.o.runs-first)); err != nil {
					c.mu.Lock()
					failed = append(failed, err)
					c.mu.Unlock()
					cancel()
				}
			}
		})
	}
	for first := 0; first < c.o.runs && ctx.Err() == nil; first += c.o.chain {
		select {
		case chains <- first:
		case <-ctx.Done():
		}
	}
	close(chains)
	work.Wait()
	if err := errors.Join(failed...); err != nil {
		return err
	}
	took := time.Since(c.began)
	fmt.Fprintf(c.out, "%d kills in %.0f s, %.2f s each (%d at once): %d in %s, %d in %s, %d in %s\n", c.done, took.Seconds(),
		took.Seconds()/float64(max(c.done, 1)), c.o.parallel, c.kills[killStart], killStart, c.kills[killLoad], killLoad, c.kills[killStop], killStop)
	fmt.Fprintf(c.out, "%d logins, %d sessions; clients received %d bytes, %d are recorded; nothing acknowledged was lost, everything verifies\n",
		c.logins, c.total.Sessions, c.total.Received, c.total.Recorded)
	return ctx.Err()
}

// chain is a number of kills on one state. The first is number first, which
// with the seed decides everything that chance decides.
func (c *crashes) chain(ctx context.Context, first, count int) error {
	dir := filepath.Join(c.o.dir, fmt.Sprintf("chain%d", first))
	site, err := c.site.Copy(ctx, dir)
	if err != nil {
		return err
	}
	e, err := newEvidence(site)
	if err != nil {
		return err
	}
	k := &chain{crashes: c, site: site, evidence: e, startTime: 300 * time.Millisecond}
	for run := first; run < first+count; run++ {
		// Every run draws from a source of its own, so that one can be looked at alone.
		k.random = rand.New(rand.NewPCG(c.o.seed, uint64(run)))
		if err := k.kill(ctx, run); err != nil {
			return c.explain(k, run, err)
		}
	}
	if err := k.finish(ctx); err != nil {
		return c.explain(k, first+count, err)
	}
	if c.o.keep {
		return nil
	}
	return os.RemoveAll(dir)
}

func (c *crashes) explain(k *chain, run int, err error) error {
	log, _ := os.ReadFile(filepath.Join(k.site.Dir, "gate.log"))
	return fmt.Errorf("run %d of seed %d, on the state in %s, after %s: %w\nend of the gate's log:\n%s",
		run, c.o.seed, k.site.Dir, k.last, err, log[max(0, len(log)-4000):])
}

// chain is one state with what happened to it last.
type chain struct {
	*crashes
	site      *testgate.Site
	evidence  *evidence
	random    *rand.Rand
	next      int           // person to log in next
	startTime time.Duration // until the gate serves, as last measured
	number    int64         // of the newest session that was checked
	pending   *load         // not checked yet, because no gate has come up since
	how       interrupted
	last      string // the last kill, in words
}

// between draws a duration evenly from 0 to most.
func (k *chain) between(most time.Duration) time.Duration {
	return time.Duration(k.random.Int64N(int64(most) + 1))
}

// kill is one life of the gate.
func (k *chain) kill(ctx context.Context, run int) error {
	phase := killLoad
	switch draw := k.random.IntN(10); {
	case draw < 2:
		phase = killStart
	case draw == 2:
		phase = killStop
	}
	began := time.Now()
	g, err := testgate.Start(k.site, k.o.binary, testkit.StartOwned)
	if err != nil {
		return err
	}
	defer g.Kill()
	if phase == killStart {
		delay := k.between(k.startTime * 5 / 4)
		pause(ctx, delay)
		g.Kill()
		k.killed(phase, fmt.Sprintf("a kill %v after its start", delay))
		return ctx.Err()
	}
	if err := k.serving(ctx, g); err != nil {
		return err
	}
	k.startTime = time.Since(began)
	if run%k.o.whole == 0 {
		if err := k.evidence.whole(ctx); err != nil {
			return err
		}
	}
	l := k.load(ctx, g, run)
	since := "it served"
	if k.random.IntN(4) > 0 { // else the kill may fall into the logins
		since = "the first session began"
		select {
		case <-l.ready:
		case <-g.Exited:
		case <-ctx.Done():
		case <-time.After(serveTime):
		}
	}
	delay := k.between(k.o.load)
	pause(ctx, delay)
	k.how = interrupted{results: []string{"crashed"}}
	what := fmt.Sprintf("a kill %v after %s", delay, since)
	if phase == killStop {
		k.how.results = nil
		_ = g.Command.Process.Signal(syscall.SIGTERM)
		after := k.between(300 * time.Millisecond)
		pause(ctx, after)
		what += fmt.Sprintf(" and %v after it was told to stop", after)
	}
	g.Kill()
	l.wait()
	k.pending = l
	k.killed(phase, what)
	return ctx.Err()
}

// serving waits until the gate serves and checks what happened before.
func (k *chain) serving(ctx context.Context, g *testgate.Gate) error {
	wait, cancel := context.WithTimeout(ctx, serveTime)
	defer cancel()
	if err := g.WaitServing(wait); err != nil {
		return err
	}
	if k.pending == nil {
		return nil
	}
	t, err := k.evidence.check(ctx, k.pending.witnesses(k.server), k.how, &k.number)
	k.pending = nil
	k.mu.Lock()
	defer k.mu.Unlock()
	k.total.Sessions += t.Sessions
	k.total.Received += t.Received
	k.total.Recorded += t.Recorded
	return err
}

// load sends one or two people to work.
func (k *chain) load(ctx context.Context, g *testgate.Gate, run int) *load {
	l := newLoad()
	sets := [][]string{{kindFlood, kindKeys, kindSink, kindSome}}
	if k.random.IntN(4) == 0 {
		sets = append(sets, []string{kindKeys, kindSome, kindFlood})
	}
	for i, kinds := range sets {
		l.connect(ctx, g, k.site.People[k.next%len(k.site.People)], fmt.Sprintf("r%d-%d", run, i), kinds, false)
		k.next++
	}
	return l
}

func (k *chain) killed(phase, what string) {
	k.last = what
	k.mu.Lock()
	defer k.mu.Unlock()
	k.kills[phase]++
	k.done++
	if k.pending != nil {
		k.logins += k.pending.logins
	}
	if k.done%50 == 0 {
		fmt.Fprintf(k.out, "%d of %d kills, %.2f s each\n", k.done, k.o.runs, time.Since(k.began).Seconds()/float64(k.done))
	}
}

// finish brings the state up once more, stops it in order, and verifies all of it.
func (k *chain) finish(ctx context.Context) error {
	g, err := testgate.Start(k.site, k.o.binary, testkit.StartOwned)
	if err != nil {
		return err
	}
	defer g.Kill()
	if err := errors.Join(k.serving(ctx, g), g.Stop()); err != nil {
		return err
	}
	if !g.Command.ProcessState.Success() {
		return fmt.Errorf("the last gate ended with %v", g.Command.ProcessState)
	}
	return k.evidence.whole(ctx)
}

// pause waits for a time, or until ctx ends.
func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}
