package authz

import (
	"context"
	"fmt"
	"sync"
)

// leaf is an event on its way to the ledger.
type leaf struct {
	sequence int64
	text     []byte
}

// batchLedger is a Ledger that makes several leaves durable at the cost of one.
type batchLedger interface {
	// AppendAll makes leaves durable that have the sequences first, first+1, …
	AppendAll(ctx context.Context, first int64, leaves [][]byte) error
}

// outbox hands committed events to the ledger in the order of their sequence.
// It has no goroutine: whoever waits first delivers for all who wait.
type outbox struct {
	ledger  Ledger
	load    func(ctx context.Context, from, to int64) ([]leaf, error)
	failure chan struct{} // closed when failed is set

	mu      sync.Mutex // guards what follows
	waiting []leaf     // in order
	last    int64      // highest sequence that was ever put
	failed  error

	deliverMu sync.Mutex // held by the one who delivers; guards delivered
	delivered int64      // every sequence up to it is durable
}

func newOutbox(ledger Ledger, load func(ctx context.Context, from, to int64) ([]leaf, error)) *outbox {
	return &outbox{ledger: ledger, load: load, failure: make(chan struct{}), delivered: ledger.Last()}
}

// err says that the ledger has failed, if it has.
func (o *outbox) err() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.failed
}

// put queues leaves. The caller orders its calls by sequence.
func (o *outbox) put(leaves []leaf) {
	if len(leaves) == 0 {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.waiting = append(o.waiting, leaves...)
	o.last = leaves[len(leaves)-1].sequence
}

func (o *outbox) take() []leaf {
	o.mu.Lock()
	defer o.mu.Unlock()
	batch := o.waiting
	o.waiting = nil
	return batch
}

// flushAll returns once everything that was ever put is durable in the ledger.
func (o *outbox) flushAll(ctx context.Context) error {
	o.mu.Lock()
	last := o.last
	o.mu.Unlock()
	return o.flush(ctx, last)
}

// flush returns once every event up to a sequence is durable in the ledger.
func (o *outbox) flush(ctx context.Context, to int64) error {
	o.deliverMu.Lock()
	defer o.deliverMu.Unlock()
	if o.delivered >= to {
		return nil
	}
	if err := o.err(); err != nil {
		return err
	}
	batch, err := o.next(ctx, to)
	if err != nil {
		// The events are safe in the database: who flushes next hands them over.
		return fmt.Errorf("not yet in the ledger: %w", err)
	}
	if err := o.deliver(ctx, batch); err != nil {
		o.mu.Lock()
		defer o.mu.Unlock()
		o.failed = fmt.Errorf("%w: %w", ErrLedger, err)
		close(o.failure)
		return o.failed
	}
	return nil
}

// next is the dense run of leaves that follows what was delivered, up to a sequence or further.
func (o *outbox) next(ctx context.Context, to int64) ([]leaf, error) {
	batch := o.take()
	first, last := to+1, to
	if len(batch) > 0 {
		first, last = batch[0].sequence, max(to, batch[len(batch)-1].sequence)
	}
	if first == o.delivered+1 && int64(len(batch)) == last-first+1 {
		return batch, nil
	}
	// A leaf is missing after a restart, after a fault of the database here, or when a commit
	// succeeded that the database reported as failed. The database has them all.
	return o.load(ctx, o.delivered+1, last)
}

func (o *outbox) deliver(ctx context.Context, batch []leaf) error {
	if ledger, ok := o.ledger.(batchLedger); ok {
		texts := make([][]byte, len(batch))
		for i, leaf := range batch {
			texts[i] = leaf.text
		}
		if err := ledger.AppendAll(ctx, batch[0].sequence, texts); err != nil {
			return err
		}
		o.delivered = batch[len(batch)-1].sequence
		return nil
	}
	for _, leaf := range batch {
		if err := o.ledger.Append(ctx, leaf.sequence, leaf.text); err != nil {
			return err
		}
		o.delivered = leaf.sequence
	}
	return nil
}
