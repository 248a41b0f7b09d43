package authz

import (
	"context"

	"sallyport/internal/database"
)

// Commands lists the commands of the sessions that Sessions would list for the actor, oldest first.
// Administrators see none of others' live sessions.
func (a *Authority) Commands(ctx context.Context, by Actor, q SessionQuery) ([]Command, error) {
	commands := []Command{}
	err := a.ofSessions(ctx, by, q, "command.list", func(tx database.Tx, session string) error {
		return tx.Each(func(row database.Scanner) error {
			var (
				c    Command
				text []byte
				at   int64
			)
			err := row.Scan(&c.Node, &c.Sequence, &c.Session, &c.Position, &at, &c.Kind, &text, &c.Bytes, &c.SHA256,
				&c.Sealed, &c.User, &c.Project, &c.Server)
			c.Text, c.Time = string(text), fromMilliseconds(at)
			commands = append(commands, c)
			return err
		}, `SELECT node, sequence, session, position, happened_at, kind, command, command_bytes, sha256, sealed, user_name,
			project, server FROM commands WHERE session = $1 ORDER BY position, sequence`, session)
	})
	return commands, err
}

// Transfers lists the transfers of the sessions that Sessions would list for the actor, in order of the sessions' begin.
// That of a session comes with its end.
func (a *Authority) Transfers(ctx context.Context, by Actor, q SessionQuery) ([]Transfer, error) {
	transfers := []Transfer{}
	err := a.ofSessions(ctx, by, q, "transfer.list", func(tx database.Tx, session string) error {
		return tx.Each(func(row database.Scanner) error {
			var (
				t    Transfer
				name []byte
				at   int64
			)
			err := row.Scan(&t.Node, &t.Sequence, &t.Session, &name, &t.Operation, &t.Status, &t.Path, &at, &t.User,
				&t.Direction, &t.BytesIn, &t.BytesOut, &t.SHA256, &t.Request, &t.Sealed, &t.Project, &t.Server)
			t.Name, t.Time = string(name), fromMilliseconds(at)
			transfers = append(transfers, t)
			return err
		}, `SELECT node, sequence, session, name, operation, status, path, happened_at, user_name, direction, bytes_in,
			bytes_out, sha256, request, sealed, project, server FROM transfers WHERE session = $1 ORDER BY sequence`, session)
	})
	return transfers, err
}

// ofSessions calls load for each session that the query selects and that the actor sees with what was run in it.
func (a *Authority) ofSessions(ctx context.Context, by Actor, q SessionQuery, opType string,
	load func(tx database.Tx, session string) error) error {
	err := a.db.Read(ctx, func(tx database.Tx) error {
		scope, err := loadSessionScope(tx, by, a.now())
		if err != nil {
			return err
		}
		f := &filter{}
		scope.limit(f, "user_name")
		q.narrow(f, a.node)
		sessions, err := loadSessions(tx, f, q.Limit)
		for _, s := range sessions {
			if err == nil {
				err = load(tx, s.ID)
			}
		}
		return err
	})
	return a.answer(ctx, by, Event{OpType: opType, ResourceType: "user", ResourceID: by.name()}, err)
}
