package recorder

import (
	"errors"
	"sync"
	"time"
)

var errSlowDisk = errors.New("the disk did not answer in time")

// deadline watches one write and sync at a time: it warns when they take long,
// and fails what waits for them when they take too long. A system call on a
// hung disk can't be interrupted, so nobody may wait for it to return.
type deadline struct {
	warnAfter, failAfter time.Duration
	warn, fail           func()

	mu     sync.Mutex  // guards what follows
	timer  *time.Timer // made by the first write, and stopped while there is none
	armed  bool
	warned bool
}

func (d *deadline) arm() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.armed, d.warned = true, false
	if d.timer == nil {
		d.timer = time.AfterFunc(d.warnAfter, d.fire)
		return
	}
	d.timer.Reset(d.warnAfter)
}

func (d *deadline) disarm() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.armed = false
	d.timer.Stop()
}

func (d *deadline) fire() {
	d.mu.Lock()
	if !d.armed {
		d.mu.Unlock()
		return
	}
	last := d.warned || d.failAfter <= d.warnAfter
	d.warned, d.armed = true, !last
	if !last {
		d.timer.Reset(d.failAfter - d.warnAfter)
	}
	d.mu.Unlock()
	if last {
		d.fail()
		return
	}
	d.warn()
}
