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
	ledger Ledger
	load   func(ctx context.Context, from, to int64) ([]leaf, error)

	mu      sync.Mutex // guards waiting and failed
	waiting []leaf     // in order
	failed  error

	deliverMu sync.Mutex // held by the one who delivers; guards delivered
	delivered int64      // every sequence up to it is durable
}

// err says that the ledger has failed, if it has.
func (o *outbox) err() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.failed
}

// put queues leaves. The caller orders its calls by sequence.
func (o *outbox) put(leaves []leaf) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.waiting = append(o.waiting, leaves...)
}

func (o *outbox) take() []leaf {
	o.mu.Lock()
	defer o.mu.Unlock()
	batch := o.waiting
	o.waiting = nil
	return batch
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
	if err := o.deliver(ctx, to); err != nil {
		o.mu.Lock()
		defer o.mu.Unlock()
		o.failed = fmt.Errorf("%w: %w", ErrLedger, err)
		return o.failed
	}
	return nil
}

func (o *outbox) deliver(ctx context.Context, to int64) error {
	batch := o.take()
	// A leaf is missing here after a restart, or when a commit succeeded that the
	// database reported as failed. The database has them all.
	first, last := to+1, to
	if len(batch) > 0 {
		first, last = batch[0].sequence, max(to, batch[len(batch)-1].sequence)
	}
	if first != o.delivered+1 || int64(len(batch)) != last-first+1 {
		var err error
		if batch, err = o.load(ctx, o.delivered+1, last); err != nil {
			return err
		}
	}
	if ledger, ok := o.ledger.(batchLedger); ok {
		texts := make([][]byte, len(batch))
		for i, leaf := range batch {
			texts[i] = leaf.text
		}
		if err := ledger.AppendAll(ctx, o.delivered+1, texts); err != nil {
			return err
		}
		o.delivered = last
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
