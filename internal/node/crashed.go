package node

import (
	"context"
	"fmt"

	"sallyport/recorder"
)

// closeCrashed ends, in recordings and database, the sessions that a crash
// left open. It looks at no other recording.
func (n *Node) closeCrashed(ctx context.Context) error {
	open, err := n.Authority.UnclosedSessions(ctx)
	if err != nil {
		return fmt.Errorf("find sessions that a crash left open: %w", err)
	}
	var ids []string
	for _, s := range open {
		ids = append(ids, s.ID)
	}
	recovered, err := n.Recorder.Recover(ctx, ids)
	if err != nil {
		return err
	}
	for _, s := range open {
		s.Result, s.EndedAt, s.Head = recorder.ReasonCrashed, n.options.Clock().UTC(), recovered[s.ID].Head
		if err := n.Authority.CloseSession(ctx, s); err != nil {
			return fmt.Errorf("close session %s after a crash: %w", s.ID, err)
		}
		n.options.Log.Warn("a crash had left a session open", "session", s.ID, "user", s.User)
	}
	return nil
}
