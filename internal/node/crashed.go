package node

import (
	"context"
	"fmt"

	"sallyport/authz"
	"sallyport/internal/database"
	"sallyport/recorder"
)

// The events by which the node says, after a crash or a failure, how a
// recording rests whose head no session.close names. Package replay holds the
// files against them.
const (
	eventRecovered = "recording.recovered" // head, reason, segments
	eventDamaged   = "recording.damaged"   // sha256 and bytes of the file that was set aside
	eventMissing   = "recording.missing"   // the node found none
)

// What the node knows no more of a session after a crash: how its program ended
// is only in the sealed recording, if anywhere, and nobody counted on.
const (
	unknownExit  = authz.Unknown
	unknownBytes = authz.Unknown
)

// closeCrashed ends, in recordings and database, the sessions that a crash
// left open, and sees to it that the ledger says how the recording rests of
// every session that has ended. It looks at no other recording, and returns what
// it found of these.
func (n *Node) closeCrashed(ctx context.Context) (map[string]recorder.Recovered, error) {
	open, err := n.Authority.UnclosedSessions(ctx)
	if err != nil {
		return nil, fmt.Errorf("find sessions that a crash left open: %w", err)
	}
	headless, err := n.headless(ctx)
	if err != nil {
		return nil, fmt.Errorf("find sessions whose recording failed: %w", err)
	}
	var left []recorder.Left
	for _, s := range append(open[:len(open):len(open)], headless...) {
		left = append(left, recorder.Left{Session: s.ID, Number: s.Number})
	}
	recovered, err := n.Recorder.Recover(ctx, left)
	if err != nil {
		return nil, err
	}
	for _, s := range open {
		if err := n.closeLeft(ctx, s, recovered[s.ID]); err != nil {
			return nil, fmt.Errorf("close session %s after a crash: %w", s.ID, err)
		}
	}
	for _, s := range headless {
		if err := n.tellRecovered(ctx, s, recovered[s.ID]); err != nil {
			return nil, fmt.Errorf("record how the recording of session %s rests: %w", s.ID, err)
		}
	}
	return recovered, nil
}

// closeLeft closes a session that a crash left open, with the head of its recording.
func (n *Node) closeLeft(ctx context.Context, s authz.Session, r recorder.Recovered) error {
	s.Result, s.EndedAt = recorder.ReasonCrashed, n.options.Clock().UTC()
	s.ExitCode, s.BytesIn, s.BytesOut = unknownExit, unknownBytes, unknownBytes
	if r.Head == "" {
		// Said first: a close without a head that nothing explains counts as tampering.
		if err := n.tellRecovered(ctx, s, r); err != nil {
			return err
		}
	} else {
		s.Head, s.Result, s.EndedAt = r.Head, r.Reason, r.Ended
		s.BytesIn, s.BytesOut = r.BytesIn, r.BytesOut
	}
	n.options.Log.Warn("a crash had left a session open", "session", s.ID, "user", s.User, "result", s.Result)
	return n.Authority.CloseSession(ctx, s)
}

// tellRecovered records how a session's recording rests.
func (n *Node) tellRecovered(ctx context.Context, s authz.Session, r recorder.Recovered) error {
	e := authz.Event{
		UserID: "system", OpType: eventRecovered, Time: n.options.Clock().UTC(), ResourceType: "session", ResourceID: s.ID,
		RemoteAddr: "-", Project: s.Project, Session: s.ID, Connection: s.Connection, Result: authz.ResultOK,
		Details: map[string]any{"reason": r.Reason},
	}
	switch {
	case r.Head != "":
		e.Details["head"], e.Details["segments"] = r.Head, r.Segments
	case r.Reason == recorder.ReasonDamaged:
		e.OpType, e.Result = eventDamaged, authz.ResultFailed
		e.Details["sha256"], e.Details["bytes"] = r.SHA256, r.Size
	case r.Reason == recorder.ReasonMissing:
		e.OpType, e.Result = eventMissing, authz.ResultFailed
	default:
		return fmt.Errorf("the recorder did not say: %+v", r)
	}
	_, err := n.Authority.Record(ctx, e)
	return err
}

// headless are this node's sessions that have ended without a head in the
// ledger, and of whose recording nothing has been said since.
func (n *Node) headless(ctx context.Context) ([]authz.Session, error) {
	var found []authz.Session
	err := n.database.Read(ctx, func(tx database.Tx) error {
		found = nil
		return tx.Each(func(row database.Scanner) error {
			var s authz.Session
			err := row.Scan(&s.ID, &s.Number, &s.Project, &s.Connection)
			found = append(found, s)
			return err
		}, `SELECT id, number, project, connection FROM sessions AS s WHERE node = $1 AND head = '' AND ended_at <> 0 AND NOT EXISTS (
			SELECT 1 FROM events AS e WHERE e.session = s.id AND e.node = s.node AND e.op_type IN ($2, $3, $4)) ORDER BY number`,
			n.ID, eventRecovered, eventDamaged, eventMissing)
	})
	return found, err
}
