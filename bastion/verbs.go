package bastion

import (
	"context"
	"io"

	"sallyport/authz"
)

// Verb is one call of the command tree by an authenticated person.
type Verb struct {
	Identity authz.Identity
	Actor    authz.Actor
	Args     []string // parsed words of the command, without the program's name
	Stdin    io.Reader
	Stdout   io.Writer
	Stderr   io.Writer
	// Columns and Rows are the terminal's size, 0 when there is none.
	Columns, Rows int
	Term          bool // output goes to a terminal
}

// Verbs serves the command tree. It returns the exit code of the design: 0 ok, 1 failed,
// 2 usage, 3 denied, 4 not found, 5 waiting for approval.
type Verbs interface {
	Run(ctx context.Context, v Verb) int
}
