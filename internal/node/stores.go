package node

import (
	"context"
	"errors"
	"slices"
	"strings"

	"sallyport/internal/config"
)

// Restored says what RecoverStores did.
type Restored struct {
	Node     string            `json:"node"`
	Ledger   bool              `json:"ledger"`  // entries were brought from the journal into the ledger
	Frames   map[string]uint64 `json:"frames"`  // by session: moved, still sealed, into its recording
	Aside    []string          `json:"aside"`   // files with frames that no recording could take
	Damaged  []string          `json:"damaged"` // files of the journal that are kept because they are damaged
	Sessions []RestoredSession `json:"sessions"`
}

// RestoredSession says how one recording rests that had been left open.
type RestoredSession struct {
	Session string `json:"session"`
	Reason  string `json:"reason"` // crashed, damaged, missing, or why the session had ended
	Head    string `json:"head,omitempty"`
}

// RecoverStores does with the files of a stopped node what a start does first: it
// brings what a crash left in the journal to where it belongs, and ends the
// recordings and sessions that it left open. With Options.AcceptDamage it does so over
// damaged places of the journal, where a start refuses.
func RecoverStores(ctx context.Context, c *config.Config, o Options) (done *Restored, err error) {
	n := &Node{config: c, options: o.withDefaults(c)}
	defer func() { err = errors.Join(err, n.Close()) }()
	if _, err := n.openStores(ctx); err != nil {
		return nil, err
	}
	recovered, err := n.closeCrashed(ctx)
	if err != nil {
		return nil, err
	}
	damaged, err := n.tellDamage(ctx)
	if err != nil {
		return nil, err
	}
	moved := n.Recorder.Moved()
	done = &Restored{Node: n.ID, Ledger: moved.Ledger, Frames: moved.Sessions, Aside: moved.Aside, Damaged: damaged, Sessions: []RestoredSession{}}
	for session, r := range recovered {
		done.Sessions = append(done.Sessions, RestoredSession{Session: session, Reason: r.Reason, Head: r.Head})
	}
	slices.SortFunc(done.Sessions, func(a, b RestoredSession) int { return strings.Compare(a.Session, b.Session) })
	return done, nil
}
