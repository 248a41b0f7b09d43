package authz

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"sallyport/internal/database"
)

// Epoch is the public half of a project's key pair of one quarter.
type Epoch struct {
	ID        string    `json:"id"` // e.g. genomics/2026Q4
	Project   string    `json:"project"`
	Recipient string    `json:"recipient"`        // age recipient for what was shown
	Strict    string    `json:"strict_recipient"` // age recipient for keys typed in a terminal
	ExpiresAt time.Time `json:"expires_at"`
	CreatedAt time.Time `json:"created_at"`
	CreatedBy string    `json:"created_by"`
	// DestroyedAt is when its key was declared destroyed, by DestroyedBy; zero while it is not.
	DestroyedAt time.Time `json:"destroyed_at,omitzero"`
	DestroyedBy []string  `json:"destroyed_by,omitempty"`
	// DeclaredBy is who declared it destroyed while that waits for a second person.
	DeclaredBy string `json:"declared_by,omitempty"`
}

const selectEpochs = `SELECT id, project, recipient, strict_recipient, expires_at, created_at, created_by, destroyed_at, destroyed_by,
	COALESCE((SELECT declared_by FROM epoch_destructions WHERE epoch = id), '') FROM epochs `

func scanEpoch(row database.Scanner) (Epoch, error) {
	var (
		e                           Epoch
		expires, created, destroyed int64
		by                          string
	)
	err := row.Scan(&e.ID, &e.Project, &e.Recipient, &e.Strict, &expires, &created, &e.CreatedBy, &destroyed, &by, &e.DeclaredBy)
	if errors.Is(err, sql.ErrNoRows) {
		return Epoch{}, ErrNotFound
	}
	e.ExpiresAt, e.CreatedAt, e.DestroyedAt = fromMilliseconds(expires), fromMilliseconds(created), fromMilliseconds(destroyed)
	e.DestroyedBy = strings.Fields(by)
	return e, err
}

func loadCurrentEpoch(tx database.Tx, project string, now time.Time) (Epoch, error) {
	return scanEpoch(tx.QueryRow(selectEpochs+`WHERE project = $1 AND expires_at > $2 AND destroyed_at = 0
		ORDER BY created_at DESC, expires_at DESC, id DESC LIMIT 1`, column(project), milliseconds(now)))
}

// AddEpoch makes an epoch key the one that new sessions are sealed to. An auditor may do it, or an
// auditor of the project; an administrator may give a project its first, and never replace one:
// what is recorded would be sealed to the administrator alone.
func (a *Authority) AddEpoch(ctx context.Context, by Actor, e Epoch) error {
	event := Event{OpType: "epoch.add", ResourceType: "epoch", ResourceID: e.ID}
	if e.ID == "" {
		event.ResourceID = "-"
	}
	return a.change(ctx, by, event, func(w *work) error {
		actor, err := w.actor()
		if err != nil {
			return err
		}
		has, err := permissions(w.tx, actor.Name, e.Project, w.now)
		if err != nil {
			return err
		}
		if !has.Has(PermAudit) {
			what, roles := "add epoch keys", []SiteRole{SiteAdmin, SiteAuditor}
			var epochs int64
			if err := w.tx.QueryRow("SELECT COUNT(*) FROM epochs WHERE project = $1", column(e.Project)).Scan(&epochs); err != nil {
				return err
			}
			if epochs > 0 {
				what, roles = "add epoch keys to a project that has one", roles[1:]
			}
			if _, err := w.need(what, roles...); err != nil {
				return err
			}
		}
		if _, err := w.project(e.Project); err != nil {
			return err
		}
		if err := e.check(w.now); err != nil {
			return err
		}
		if err := w.freshKeys(e); err != nil {
			return err
		}
		n, err := w.tx.Exec(`INSERT INTO epochs (id, project, recipient, strict_recipient, expires_at, created_at, created_by)
			VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (id) DO NOTHING`, e.ID, e.Project, e.Recipient, e.Strict,
			milliseconds(e.ExpiresAt), milliseconds(w.now), by.name())
		if err != nil {
			return err
		}
		if n == 0 {
			return deny("epoch.exists", fmt.Sprintf("There is already an epoch %s.", e.ID), "")
		}
		return w.done(map[string]any{"recipient": e.Recipient, "strict_recipient": e.Strict, "expires": e.ExpiresAt.UTC()})
	})
}

// freshKeys denies keys of which another epoch has one, of whatever project and class: who destroyed the one
// epoch's key would destroy the other's before its time.
func (w *work) freshKeys(e Epoch) error {
	var id, project string
	err := w.tx.QueryRow(`SELECT id, project FROM epochs WHERE id <> $1
		AND (recipient IN ($2, $3) OR strict_recipient IN ($4, $5)) ORDER BY project <> $6 LIMIT 1`,
		e.ID, e.Recipient, e.Strict, e.Recipient, e.Strict, e.Project).Scan(&id, &project)
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	}
	if err != nil {
		return err
	}
	if project != e.Project { // which is nobody's business here
		return deny("epoch.same-key", "An epoch of another project has this key already: each has its own.", "that of "+id)
	}
	return deny("epoch.same-key", fmt.Sprintf("The epoch %s has this key already: each quarter has its own.", id), "")
}

func (e Epoch) check(now time.Time) error {
	name, found := strings.CutPrefix(e.ID, e.Project+"/")
	if !found || !osUserName.MatchString(name) {
		return deny("input.epoch", "An epoch is named by its project and a quarter, like genomics/2026Q4.", "")
	}
	for _, recipient := range []string{e.Recipient, e.Strict} {
		if !ageRecipient(recipient) {
			return deny("input.epoch", "An epoch needs two age recipients, which begin with age1.", "")
		}
	}
	if e.Recipient == e.Strict {
		return deny("input.epoch", "The key for typed text must differ from the one for shown text.", "")
	}
	if !e.ExpiresAt.After(now) {
		return deny("input.expiry", "An epoch key must expire in the future.", "")
	}
	return nil
}

// ageRecipient reports whether a text has the form of an age recipient; whether it is one turns
// out where a recording is sealed to it.
func ageRecipient(s string) bool {
	return strings.HasPrefix(s, "age1") && len(s) > 20 && len(s) < 4096 &&
		strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789-") == ""
}

// Epochs lists a project's epoch keys, newest last, for those who may know of the project; ErrNotFound
// for others. With "" it lists those of every project that the actor may know of.
func (a *Authority) Epochs(ctx context.Context, by Actor, project string) ([]Epoch, error) {
	var epochs []Epoch
	err := a.db.Read(ctx, func(tx database.Tx) error {
		epochs = nil
		names, err := ofProject(tx, by, project, a.now())
		if err != nil {
			return err
		}
		for _, name := range names {
			err := tx.Each(func(row database.Scanner) error {
				e, err := scanEpoch(row)
				epochs = append(epochs, e)
				return err
			}, selectEpochs+"WHERE project = $1", name)
			if err != nil {
				return err
			}
		}
		return nil
	})
	slices.SortFunc(epochs, func(x, y Epoch) int {
		if c := compare(x.Project, y.Project); c != 0 {
			return c
		}
		if c := x.CreatedAt.Compare(y.CreatedAt); c != 0 {
			return c
		}
		return compare(x.ID, y.ID)
	})
	return epochs, a.answer(ctx, by, projectEvent("epoch.list", project), err)
}

// CurrentEpoch returns the newest unexpired epoch of a project; without one no session may start
// (ErrNotFound).
func (a *Authority) CurrentEpoch(ctx context.Context, project string) (epoch Epoch, err error) {
	err = a.db.Read(ctx, func(tx database.Tx) error {
		epoch, err = loadCurrentEpoch(tx, project, a.now())
		return err
	})
	return epoch, err
}
