package tlog

import (
	"errors"
	"fmt"
	"syscall"
	"time"
)

// ErrNoSpace is wrapped while the disk of the tiles is full. The log goes on: what
// is not in the tiles yet rests in Durable and in memory, and it is tried again each second.
var ErrNoSpace = errors.New("no space for the ledger")

// errFinal is wrapped by errors after which nothing may be tried again: after a
// failed sync nobody knows what the disk has, whatever the reason was.
var errFinal = errors.New("not tried again")

func final(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%w (%w)", err, errFinal)
}

// isFull tells whether an error is a lack of space, which may end.
func isFull(err error) bool {
	return (errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)) && !errors.Is(err, errFinal)
}

// retryFull is how long a full disk is left alone.
const retryFull = time.Second

// starve notes that the disk is full, or has space again.
func (l *Log) starve(err error) error {
	if err != nil {
		err = fmt.Errorf("%w in %s: make space there: %w", ErrNoSpace, l.o.Dir, err)
	}
	l.mu.Lock()
	before := l.full
	l.full = err
	l.mu.Unlock()
	switch {
	case err != nil && before == nil:
		l.o.Log.Error("the ledger waits for space; its newest entries are not in the tiles", "error", err)
	case err == nil && before != nil:
		l.o.Log.Info("the ledger has space again")
	}
	return err
}

// Full is nil while tiles can be written, else wraps ErrNoSpace. Entries are taken all the same,
// until memory for them or Durable runs out.
func (l *Log) Full() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.full
}
