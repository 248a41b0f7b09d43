package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"sallyport/replay"
)

// tally counts what was looked at.
type tally struct {
	Sessions, Received, Recorded int64 // sessions that reached the data server; bytes of output
}

// interrupted says how a gate's end may have left the sessions that ran.
type interrupted struct {
	// results are those that the database may give for a session that had not ended by itself; nil: any.
	results []string
}

// witness is one session as both of its ends saw it.
type witness struct {
	*client
	program *program // nil: it never reached the data server
}

// witnesses returns the sessions of a load that has ended.
func (l *load) witnesses(server *dataServer) []witness {
	var all []witness
	for _, c := range l.clients {
		all = append(all, witness{c, server.take(c.name)})
	}
	return all
}

// check holds what both ends of sessions saw to what the node has after its restart:
// nothing that a client or the data server received is missing in a recording,
// every recording verifies and holds nothing else than what went through, and
// no session is left open.
func (e *evidence) check(ctx context.Context, seen []witness, how interrupted, last *int64) (tally, error) {
	var t tally
	var errs []error
	rows, err := e.rows(ctx, *last)
	if err != nil {
		return t, err
	}
	for id, r := range rows {
		*last = max(*last, r.number)
		if r.ended == 0 || r.result == "" {
			errs = append(errs, fmt.Errorf("session %s was left open after the restart: %+v", id, r))
		}
	}
	for _, w := range seen {
		c, p := w.client, w.program
		if p == nil {
			if c.got.matched > 0 {
				errs = append(errs, fmt.Errorf("%s %s: got %d bytes, and no program ran", c.kind, c.name, c.got.matched))
			}
			continue
		}
		t.Sessions++
		t.Received += c.got.matched
		r, err := e.recording(p.session, c.name)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s %s, session %s: %w", c.kind, c.name, p.session, err))
			continue
		}
		t.Recorded += r.shown.matched
		row, found := rows[p.session]
		errs = append(errs, holds(c, p, r), closed(c, p, r, row, found, how))
	}
	return t, errors.Join(errs...)
}

// holds compares the four accounts of a session: client, recording, data server, stream.
func holds(c *client, p *program, r *recorded) error {
	var errs []error
	claim := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf("%s %s, session %s: %s", c.kind, c.name, p.session, fmt.Sprintf(format, args...)))
		}
	}
	claim(c.got.matched <= r.shown.matched, "the client got %d bytes, %d are recorded", c.got.matched, r.shown.matched)
	claim(p.received.matched <= r.typed.matched, "the data server got %d bytes, %d are recorded", p.received.matched, r.typed.matched)
	claim(r.shown.matched <= p.written, "%d bytes are recorded, the data server wrote %d", r.shown.matched, p.written)
	claim(r.typed.matched <= c.sent.Load(), "%d bytes are recorded as input, the client sent %d", r.typed.matched, c.sent.Load())
	for who, tail := range map[string][]byte{"output as recorded": r.shown.tail, "input as recorded": r.typed.tail, "input at the data server": p.received.tail} {
		claim(tail == nil, "the %s goes on with %.80q, which nobody sent", who, tail)
	}
	claim(bytes.Contains(r.gate, c.got.tail), "the client got %.200q, which is not recorded; of the gate's own words is %.400q", c.got.tail, r.gate)
	if c.exited && c.status == 0 && c.kind == kindSome {
		claim(c.got.matched == c.size, "%d of %d bytes came before the exit status", c.got.matched, c.size)
	}
	return errors.Join(errs...)
}

// closed holds what the database says of a session's end to its recording.
func closed(c *client, p *program, r *recorded, row row, found bool, how interrupted) error {
	switch {
	case !found:
		return fmt.Errorf("%s %s: session %s has no row", c.kind, c.name, p.session)
	case row.head == "" && row.result != "recording-failed": // then the ledger has it, which verification sees
		return fmt.Errorf("%s %s: session %s (%s) was closed without the head of its recording", c.kind, c.name, p.session, row.result)
	case r.ending == replay.EndingOpen:
		return fmt.Errorf("%s %s: the recording of session %s (%s) has no end", c.kind, c.name, p.session, row.result)
	case c.kind != kindSome && !c.exited && how.results != nil && !slices.Contains(how.results, row.result):
		return fmt.Errorf("%s %s: session %s ended as %q, wanted one of %q", c.kind, c.name, p.session, row.result, how.results)
	}
	return nil
}
