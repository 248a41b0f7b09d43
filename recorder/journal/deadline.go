package journal

import (
	"sync"
	"time"
)

// deadline calls warn, and later fail, unless it is stopped before.
type deadline struct {
	warnAfter, failAfter time.Duration
	warn, fail           func()

	mu    sync.Mutex // guards what follows
	timer *time.Timer
	armed bool
	late  bool // warn was called
	since time.Time
}

func (d *deadline) set(warnAfter, failAfter time.Duration, warn, fail func()) {
	d.warnAfter, d.failAfter, d.warn, d.fail = warnAfter, failAfter, warn, fail
}

// start does nothing while the deadline already runs.
func (d *deadline) start() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.armed {
		return
	}
	d.armed, d.late, d.since = true, false, time.Now()
	if d.timer == nil {
		d.timer = time.AfterFunc(d.warnAfter, d.fire)
		return
	}
	d.timer.Reset(d.warnAfter)
}

func (d *deadline) stop() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.armed {
		d.armed = false
		d.timer.Stop()
	}
}

func (d *deadline) fire() {
	d.mu.Lock()
	if !d.armed || time.Since(d.since) < d.warnAfter { // or it is the call of an earlier start
		d.mu.Unlock()
		return
	}
	call := d.fail
	if !d.late && d.failAfter > d.warnAfter {
		d.late, call = true, d.warn
		d.timer.Reset(d.failAfter - d.warnAfter)
	} else {
		d.armed = false
	}
	d.mu.Unlock()
	call()
}
