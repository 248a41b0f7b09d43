package vault

import (
	"context"
	"fmt"
	"time"
)

// stuckAfter is how long what was told to stop may go on before it counts as stuck in a system call.
const stuckAfter = 2 * time.Second

// within runs f, which ends soon after ctx does unless a disk does not answer. Then
// the call is left behind, because nothing can end it; f must do nothing more when it comes back.
func within[T any](ctx context.Context, f func() (T, error)) (T, error) {
	type result struct {
		value T
		err   error
	}
	done := make(chan result, 1)
	go func() {
		v, err := f()
		done <- result{v, err}
	}()
	select {
	case r := <-done:
		return r.value, r.err
	case <-ctx.Done():
	}
	late := time.NewTimer(stuckAfter)
	defer late.Stop()
	select {
	case r := <-done:
		return r.value, r.err
	case <-late.C:
		var none T
		return none, fmt.Errorf("a disk does not answer: %w", context.Cause(ctx))
	}
}
