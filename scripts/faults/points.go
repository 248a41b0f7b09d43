package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"sallyport/internal/testgate"
	"sallyport/internal/testkit"
)

// points lets each system call of the gate's storage fail once.
//
// There are two scenarios: a whole life (start, four sessions, stop), and the
// start on what a crash has left, with a session after it. Each is first played
// without a fault, to see which calls there are. Then it is played once for
// each fault, every time on a fresh copy of the same state, and the gate is
// started once more without a fault and held to the same claims as after a kill.
type points struct {
	o      options
	site   *testgate.Site
	server *dataServer
	out    io.Writer

	mu     sync.Mutex // guards the rest
	missed int        // faults whose call did not come this time
	played int
}

// scenario is a state to begin with and the sessions that are opened there.
type scenario struct {
	name  string
	site  *testgate.Site
	kinds []string
	left  []witness // what the crash interrupted
}

// storage are the folders of the state whose calls fail. The database is not
// among them: it is SQLite's to keep, and the node makes it again from the ledger.
var storage = []string{"journal", "recordings", "ledger", "ledger-keys"}

// patience bounds one scenario.
const patience = 60 * time.Second

func (p *points) run(ctx context.Context) error {
	began := time.Now()
	crashed, err := p.crash(ctx)
	if err != nil {
		return err
	}
	scenarios := []*scenario{
		{name: "life", site: p.site, kinds: []string{kindFlood, kindKeys, kindSink, kindSome}},
		crashed,
	}
	type point struct {
		s *scenario
		f fault
	}
	var all []point
	for _, s := range scenarios {
		counted, err := p.count(ctx, s)
		if err != nil {
			return err
		}
		for _, f := range choose(counted, p.o.perClass) {
			all = append(all, point{s, f})
		}
	}
	if p.o.points > 0 && len(all) > p.o.points { // a sample, spread evenly
		for i := range p.o.points {
			all[i] = all[i*len(all)/p.o.points]
		}
		all = all[:p.o.points]
	}
	queue := make(chan point)
	var work sync.WaitGroup
	failed := 0
	for range p.o.parallel {
		work.Go(func() {
			for next := range queue {
				if ctx.Err() != nil {
					continue
				}
				if err := p.play(ctx, next.s, next.f); err != nil && ctx.Err() == nil { // else the whole run was interrupted
					p.mu.Lock()
					fmt.Fprintf(p.out, "FAILED: %s, %v: %v\n", next.s.name, next.f, err)
					failed++
					p.mu.Unlock()
				}
			}
		})
	}
	for _, next := range all {
		queue <- next
	}
	close(queue)
	work.Wait()
	fmt.Fprintf(p.out, "%d faults in %.0f s, %d of them at a call that did not come this time; %d claims failed\n",
		p.played, time.Since(began).Seconds(), p.missed, failed)
	if failed > 0 {
		return fmt.Errorf("%d faults had consequences that they must not have", failed)
	}
	return ctx.Err()
}

// crash makes the state that recovery has to deal with: a gate killed under load.
func (p *points) crash(ctx context.Context) (*scenario, error) {
	site, err := p.site.Copy(ctx, filepath.Join(p.o.dir, "crashed"))
	if err != nil {
		return nil, err
	}
	g, err := testgate.Start(site, p.o.binary, testkit.StartOwned)
	if err != nil {
		return nil, err
	}
	defer g.Kill()
	wait, cancel := context.WithTimeout(ctx, serveTime)
	defer cancel()
	if err := g.WaitServing(wait); err != nil {
		return nil, err
	}
	l := newLoad()
	l.connect(ctx, g, site.People[1], "before", []string{kindFlood, kindKeys, kindSink}, false)
	if err := testkit.Poll(wait, "the sessions to work", func() bool { return p.server.began("before-0-0", "before-1-0", "before-2-0") }); err != nil {
		return nil, err
	}
	pause(ctx, 50*time.Millisecond)
	g.Kill()
	l.wait()
	return &scenario{name: "recovery", site: site, kinds: []string{kindSome}, left: l.witnesses(p.server)}, nil
}

// count plays a scenario without a fault and returns its calls by class.
func (p *points) count(ctx context.Context, s *scenario) (map[string]int, error) {
	i, err := p.scene(ctx, s, fault{})
	if err != nil {
		return nil, fmt.Errorf("%s without a fault: %w", s.name, err)
	}
	counted := map[string]int{}
	for _, c := range i.calls {
		if slices.ContainsFunc(storage, func(dir string) bool { return strings.HasPrefix(c.path+"/", dir+"/") }) {
			counted[c.class()]++
		}
	}
	fmt.Fprintf(p.out, "%s: %d system calls on files of the state\n", s.name, len(i.calls))
	for _, class := range slices.Sorted(maps.Keys(counted)) {
		fmt.Fprintf(p.out, "  %4d %s\n", counted[class], class)
	}
	return counted, nil
}

// choose makes the faults for the calls that were counted, in a fixed order: at
// most most calls of a class, spread from the first to the last.
func choose(counted map[string]int, most int) []fault {
	var all []fault
	for _, class := range slices.Sorted(maps.Keys(counted)) {
		name, _, _ := strings.Cut(class, " ")
		errnos := []unix.Errno{unix.EIO, 0}
		switch name {
		case "openat", "rename", "link", "mkdirat":
			errnos = append(errnos, unix.ENOSPC, unix.EINTR)
		case "write", "writev", "pwrite64", "pwritev", "ftruncate", "fallocate":
			errnos = append(errnos, unix.ENOSPC, unix.EINTR)
		}
		if name == "rename" || name == "mkdirat" || name == "link" {
			errnos = errnos[:3] // these are never interrupted
		}
		count := counted[class]
		chosen := min(count, most)
		for k := range chosen {
			n := 1
			if chosen > 1 {
				n = 1 + k*(count-1)/(chosen-1)
			}
			for _, errno := range errnos {
				all = append(all, fault{class: class, n: n, errno: errno})
			}
		}
	}
	slices.SortStableFunc(all, func(a, b fault) int { return cmp.Compare(a.n, b.n) })
	return all
}

// play plays a scenario with a fault.
func (p *points) play(ctx context.Context, s *scenario, f fault) error {
	i, err := p.scene(ctx, s, f)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.played++
	if i != nil && i.hit == nil {
		p.missed++
	}
	if p.played%50 == 0 {
		fmt.Fprintf(p.out, "%d faults\n", p.played)
	}
	return err
}

// scene plays a scenario on a copy of its state, starts the gate again, and
// checks. It returns what the injector saw.
func (p *points) scene(ctx context.Context, s *scenario, f fault) (*injector, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	dir, err := os.MkdirTemp(p.o.dir, s.name+"-")
	if err != nil {
		return nil, err
	}
	site, err := s.site.Copy(ctx, dir)
	if err != nil {
		return nil, err
	}
	i := &injector{root: site.Config.State, fault: f}
	g, err := testgate.Start(site, p.o.binary, i.start)
	if err != nil {
		return nil, err
	}
	defer g.Kill()
	l := newLoad()
	prefix := filepath.Base(dir)
	if g.WaitServing(ctx) == nil { // else the fault kept it from starting
		l.connect(ctx, g, site.People[0], prefix, s.kinds, true)
		stop := context.AfterFunc(ctx, l.hangUp)
		l.wait()
		stop()
	}
	if ctx.Err() != nil {
		return i, fmt.Errorf("people were left hanging; the state is in %s\n%s", dir, g.Log())
	}
	if err := errors.Join(g.Stop(), i.wait()); err != nil {
		return i, fmt.Errorf("%w; the state is in %s\n%s", err, dir, g.Log())
	}
	log := g.Log()
	if err := p.after(ctx, s, site, l, i); err != nil {
		return i, fmt.Errorf("%w; the state is in %s\nlog of the gate that met the fault:\n%s", err, dir, log)
	}
	return i, os.RemoveAll(dir)
}

// after starts the gate without a fault, and holds everything to the claims.
func (p *points) after(ctx context.Context, s *scenario, site *testgate.Site, l *load, i *injector) error {
	if err := i.synced(); err != nil {
		return err
	}
	if i.hit == nil || i.fault.errno == unix.EINTR {
		if err := l.untouched(len(s.kinds)); err != nil {
			return err
		}
	}
	g, err := testgate.Start(site, p.o.binary, testkit.StartOwned)
	if err != nil {
		return err
	}
	defer g.Kill()
	if err := g.WaitServing(ctx); err != nil {
		return fmt.Errorf("after the fault it does not start any more: %w", err)
	}
	e, err := newEvidence(site)
	if err != nil {
		return err
	}
	var number int64
	_, err = e.check(ctx, append(l.witnesses(p.server), s.left...), interrupted{}, &number)
	return errors.Join(err, g.Stop(), e.whole(ctx))
}

// untouched says whether everybody got everything.
func (l *load) untouched(sessions int) error {
	errs := slices.Clone(l.refused)
	if len(l.clients) != sessions {
		errs = append(errs, fmt.Errorf("%d of %d sessions were opened", len(l.clients), sessions))
	}
	for _, c := range l.clients {
		if c.err != nil || !c.exited || c.status != 0 {
			errs = append(errs, fmt.Errorf("%s %s was disturbed: %v, exit status %d (%v), %d bytes received, then %q", c.kind, c.name,
				c.err, c.status, c.exited, c.got.matched, c.got.tail))
		}
	}
	return errors.Join(errs...)
}

// synced holds the program to the rule that what could not be synced is given up: a second
// fdatasync of the same file reports success although the data is gone.
func (i *injector) synced() error {
	if i.hit == nil || i.fault.errno != unix.EIO || i.hit.name != "fdatasync" && i.hit.name != "fsync" {
		return nil
	}
	if i.hit.path == "recordings" {
		// The folder is synchronised for each new name in it. The session whose name failed is
		// refused, which the other claims hold; the next call is for the name of another.
		return nil
	}
	for _, c := range i.calls[i.at+1:] {
		if c.path == i.hit.path && (c.name == "fdatasync" || c.name == "fsync") {
			return fmt.Errorf("%s of %s failed, and was tried again", i.hit.name, i.hit.path)
		}
	}
	return nil
}
