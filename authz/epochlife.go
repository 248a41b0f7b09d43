package authz

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"sallyport/internal/database"
)

// MinRetention is how long recordings are kept at least after the end of what they are sealed to: six
// months, as the law asks of records like these.
const MinRetention = 183 * oneDay

const oneDay = 24 * time.Hour

// maxStatement bounds a declaration of destruction, in bytes, so that its event holds it whole.
const maxStatement = 4 << 10

// RecipientFingerprint is a short name of an age recipient, which can be two thousand letters long:
// SHA256: and the first 16 bytes of its SHA-256 in hex.
func RecipientFingerprint(recipient string) string {
	hash := sha256.Sum256([]byte(recipient))
	return "SHA256:" + hex.EncodeToString(hash[:16])
}

func epochEvent(opType, id string) Event {
	if id == "" {
		id = "-"
	}
	return Event{OpType: opType, ResourceType: "epoch", ResourceID: id}
}

// epoch loads an epoch for an act of an auditor: of the site, or of its project. Others are denied, whether
// it exists or not.
func (w *work) epoch(id, what string, roles ...SiteRole) (Epoch, error) {
	actor, err := w.actor()
	if err != nil {
		return Epoch{}, err
	}
	e, err := scanEpoch(w.tx.QueryRow(selectEpochs+"WHERE id = $1", column(id)))
	if err != nil && !errors.Is(err, ErrNotFound) {
		return Epoch{}, err
	}
	has, permissionErr := permissions(w.tx, actor.Name, e.Project, w.now)
	if permissionErr != nil {
		return Epoch{}, permissionErr
	}
	if !has.Has(PermAudit) {
		if _, err := w.need(what, append(roles, SiteAuditor)...); err != nil {
			return Epoch{}, err
		}
	}
	if err != nil {
		return Epoch{}, fmt.Errorf("epoch %q: %w", id, ErrNotFound)
	}
	w.event.Project = e.Project
	return e, w.bound()
}

// DestroyEpoch declares that a person's copies of an epoch's private half are destroyed. Two people
// must: an auditor declares it first, and the epoch then waits as Epoch.DeclaredBy; another auditor or a security
// administrator completes it with a declaration of their own, and a factor of their own. From then on the
// node counts its recordings as destroyed. It is refused before Options.Retention has passed since the epoch's
// last use. statement is what the person wrote and signed, and may be ""; it stands in the ledger.
func (a *Authority) DestroyEpoch(ctx context.Context, by Actor, id, reason, statement string) (Epoch, error) {
	var e Epoch
	err := a.change(ctx, by, epochEvent("epoch.destroy.declare", id), func(w *work) (err error) {
		if e, err = w.epoch(id, "declare an epoch destroyed", SiteSecurity); err != nil {
			return err
		}
		if err := checkText("reason", reason, minNote); err != nil {
			return err
		}
		if err := checkStatement(e, statement); err != nil {
			return err
		}
		if err := w.mayDestroy(e); err != nil {
			return err
		}
		if !w.by.VerbOnly {
			return deny("vote.factor", "To declare an epoch destroyed needs a second factor and a connection of its own: "+
				"ssh -o ControlPath=none gate epoch destroy.", "")
		}
		details := map[string]any{"recipient_fingerprint": RecipientFingerprint(e.Recipient),
			"strict_fingerprint": RecipientFingerprint(e.Strict), "reason": reason, "statement": statement}
		if e.DeclaredBy == "" {
			err = w.declareDestroyed(e, reason, statement)
			e.DeclaredBy = w.by.User
		} else {
			w.event.OpType = "epoch.destroy"
			err = w.completeDestroyed(&e, details)
		}
		if err != nil {
			return err
		}
		return w.done(details)
	})
	if err != nil {
		return Epoch{}, err
	}
	return e, nil
}

// checkStatement denies what is no statement about this epoch's key. Whether its signature is right is for
// those who read the ledger: the event names the person, whose login was verified.
func checkStatement(e Epoch, statement string) error {
	switch {
	case statement == "":
		return nil
	case len(statement) > maxStatement || !utf8.ValidString(statement) || strings.ContainsRune(statement, 0):
		return deny("input.statement", "A statement has at most 4 KiB of text.", "")
	}
	for _, part := range []string{e.ID, RecipientFingerprint(e.Recipient), RecipientFingerprint(e.Strict)} {
		if !strings.Contains(statement, `"`+part+`"`) {
			return deny("input.statement", fmt.Sprintf("The statement is not about the key of %s.", e.ID), "it lacks "+part)
		}
	}
	return nil
}

// mayDestroy denies what is too early, or over.
func (w *work) mayDestroy(e Epoch) error {
	if !e.DestroyedAt.IsZero() {
		return deny("epoch.destroyed", fmt.Sprintf("The epoch %s was destroyed on %s.", e.ID, e.DestroyedAt.Format(time.DateOnly)), "")
	}
	var live, last int64
	err := w.tx.QueryRow(`SELECT COALESCE(SUM(CASE WHEN ended_at = 0 THEN 1 ELSE 0 END), 0), COALESCE(MAX(ended_at), 0)
		FROM sessions WHERE epoch = $1`, e.ID).Scan(&live, &last)
	if err != nil {
		return err
	}
	if live > 0 {
		return deny("epoch.live", fmt.Sprintf("The epoch %s seals sessions that are still live.", e.ID), "")
	}
	end := e.ExpiresAt // a key may be used until then, whether it was or not
	if used := fromMilliseconds(last); used.After(end) {
		end = used
	}
	if earliest := end.Add(w.a.kept); w.now.Before(earliest) {
		return deny("epoch.retention", fmt.Sprintf("Recordings are kept for %d days at least: the epoch %s can be destroyed from %s on.",
			int(w.a.kept/oneDay), e.ID, earliest.Format(time.DateOnly)), "")
	}
	return nil
}

func (w *work) declareDestroyed(e Epoch, reason, statement string) error {
	actor, err := w.actor()
	if err != nil {
		return err
	}
	if actor.SiteRole == SiteSecurity {
		return deny("epoch.declare-first", "An auditor, who held the key, declares it destroyed first.", "")
	}
	_, err = w.tx.Exec(`INSERT INTO epoch_destructions (epoch, declared_at, declared_by, reason, statement)
		VALUES ($1, $2, $3, $4, $5)`, e.ID, milliseconds(w.now), w.by.User, reason, statement)
	return err
}

// completeDestroyed marks the epoch, and tells both declarations in one event.
func (w *work) completeDestroyed(e *Epoch, details map[string]any) error {
	if e.DeclaredBy == w.by.User {
		return deny("self", "You have declared this already: it waits for another auditor or a security administrator.", "")
	}
	var (
		declared          int64
		reason, statement string
	)
	err := w.tx.QueryRow("SELECT declared_at, reason, statement FROM epoch_destructions WHERE epoch = $1", e.ID).Scan(&declared, &reason, &statement)
	if err != nil {
		return err
	}
	details["declared"] = []any{map[string]any{"by": e.DeclaredBy, "at": fromMilliseconds(declared), "reason": reason, "statement": statement},
		map[string]any{"by": w.by.User, "at": w.now, "reason": details["reason"], "statement": details["statement"]}}
	delete(details, "statement")
	e.DestroyedAt, e.DestroyedBy, e.DeclaredBy = w.now, []string{e.DeclaredBy, w.by.User}, ""
	n, err := w.tx.Exec("UPDATE epochs SET destroyed_at = $1, destroyed_by = $2 WHERE id = $3 AND destroyed_at = 0",
		milliseconds(w.now), strings.Join(e.DestroyedBy, " "), e.ID)
	if err == nil && n != 1 {
		err = errors.New("the epoch changed meanwhile")
	}
	if err != nil {
		return err
	}
	_, err = w.tx.Exec("DELETE FROM epoch_destructions WHERE epoch = $1", e.ID)
	return err
}

// KeepEpoch takes a declaration back that waits for a second person: by whoever could make or complete it.
func (a *Authority) KeepEpoch(ctx context.Context, by Actor, id, reason string) error {
	return a.change(ctx, by, epochEvent("epoch.destroy.withdraw", id), func(w *work) error {
		e, err := w.epoch(id, "keep an epoch", SiteSecurity)
		if err != nil {
			return err
		}
		if err := checkText("reason", reason, minNote); err != nil {
			return err
		}
		if e.DeclaredBy == "" {
			return deny("epoch.not-declared", fmt.Sprintf("Nobody has declared the epoch %s destroyed, or it is done.", e.ID), "")
		}
		if _, err := w.tx.Exec("DELETE FROM epoch_destructions WHERE epoch = $1", e.ID); err != nil {
			return err
		}
		return w.done(map[string]any{"declared_by": e.DeclaredBy, "reason": reason})
	})
}

// readable denies the reading of what nobody can open any more. Its bytes still prove that it was not changed.
func (w *work) readable(s Session, purpose string) error {
	if purpose == "verify" {
		return nil
	}
	e, err := scanEpoch(w.tx.QueryRow(selectEpochs+"WHERE id = $1", column(s.Epoch)))
	if errors.Is(err, ErrNotFound) || err == nil && e.DestroyedAt.IsZero() {
		return nil
	}
	if err != nil {
		return err
	}
	return deny("recording.destroyed", fmt.Sprintf("The key of %s was destroyed on %s, so nobody can open this recording any more; "+
		"it can be fetched with --purpose verify.", e.ID, e.DestroyedAt.Format(time.DateOnly)), "")
}

// ExpiringEpoch is a project's last epoch that ends soon, or has ended, without a next one.
type ExpiringEpoch struct {
	Epoch     string    `json:"epoch"`
	Project   string    `json:"project"`
	ExpiresAt time.Time `json:"expires_at"`
	Days      int       `json:"days"` // days that are left, one that has begun counted; 0 when it has ended
}

// String is the warning as people read it.
func (e ExpiringEpoch) String() string {
	switch {
	case e.Days == 0:
		return fmt.Sprintf("the epoch key %s ended on %s: %s takes no session until an auditor adds the next one", e.Epoch, e.ExpiresAt.Format(time.DateOnly), e.Project)
	case e.Days == 1:
		return fmt.Sprintf("the epoch key %s ends within a day and there is no next one: after that %s takes no session", e.Epoch, e.Project)
	}
	return fmt.Sprintf("the epoch key %s ends in %d days and there is no next one: after that %s takes no session", e.Epoch, e.Days, e.Project)
}

// epochWarnings are the days before an epoch's end on which to warn, the last first; warnedEnd stands for the end itself.
var epochWarnings = [...]int{1, 7, 30}

const warnedEnd = -1

// level is the warning that is due, 0 for none.
func (e ExpiringEpoch) level(now time.Time) int64 {
	left := e.ExpiresAt.Sub(now)
	if left <= 0 {
		return warnedEnd
	}
	for _, days := range epochWarnings {
		if left <= time.Duration(days)*oneDay {
			return int64(days)
		}
	}
	return 0
}

// lastEpochs are, for each active project that has an epoch, the one that ends last, with the warning
// that was given for it.
func lastEpochs(tx database.Tx, now time.Time) (last map[string]ExpiringEpoch, warned map[string]int64, err error) {
	last, warned = map[string]ExpiringEpoch{}, map[string]int64{}
	err = tx.Each(func(row database.Scanner) error {
		var (
			e              ExpiringEpoch
			expires, level int64
		)
		if err := row.Scan(&e.Epoch, &e.Project, &expires, &level); err != nil {
			return err
		}
		e.ExpiresAt = fromMilliseconds(expires)
		e.Days = int((max(e.ExpiresAt.Sub(now), 0) + oneDay - 1) / oneDay)
		last[e.Project], warned[e.Project] = e, level
		return nil
	}, `SELECT epochs.id, epochs.project, epochs.expires_at, epochs.warned FROM epochs JOIN projects ON projects.name = epochs.project
		WHERE projects.state = $1 AND (projects.period_until = 0 OR projects.period_until > $2) AND epochs.destroyed_at = 0
		ORDER BY epochs.expires_at`, ProjectActive, milliseconds(now))
	return last, warned, err
}

// WarnEpochs records an event for each project whose last epoch ends in 30, 7 or 1 days, or has
// ended, once each, and returns those that were told now. all are the last epochs of all active
// projects, for metrics. A node calls it now and then.
func (a *Authority) WarnEpochs(ctx context.Context) (told, all []ExpiringEpoch, err error) {
	var due []ExpiringEpoch
	err = a.db.Read(ctx, func(tx database.Tx) error {
		due, all = nil, nil
		last, warned, err := lastEpochs(tx, a.now())
		for project, e := range last {
			all = append(all, e)
			if level := e.level(a.now()); level != 0 && level != warned[project] {
				due = append(due, e)
			}
		}
		return err
	})
	if err != nil {
		return nil, nil, fmt.Errorf("ends of epochs: %w", err)
	}
	for _, e := range due {
		fresh, err := a.warnEpoch(ctx, e)
		if err != nil {
			return told, all, fmt.Errorf("warn of the end of %s: %w", e.Epoch, err)
		}
		if fresh {
			told = append(told, e)
		}
	}
	return told, all, nil
}

// warnEpoch records one warning, unless another node was faster.
func (a *Authority) warnEpoch(ctx context.Context, e ExpiringEpoch) (fresh bool, err error) {
	err = a.commit(ctx, func(w *work) error {
		level := e.level(w.now)
		var warned int64
		err := w.tx.QueryRow("UPDATE epochs SET warned = $1 WHERE id = $2 AND warned <> $3 RETURNING warned", level, e.Epoch, level).Scan(&warned)
		if errors.Is(err, sql.ErrNoRows) {
			return nil
		}
		if err != nil {
			return err
		}
		fresh = true
		event := epochEvent("epoch.expiring", e.Epoch)
		if level == warnedEnd {
			event.OpType = "epoch.expired"
		}
		event.UserID, event.RemoteAddr, event.Project = "system", "-", e.Project
		event.Details = map[string]any{"expires": e.ExpiresAt, "days": e.Days, "warning": e.String()}
		_, err = w.recordEvent(event)
		return err
	})
	return fresh && err == nil, err
}

// ExpiringEpochs are the warnings that concern an actor: those of projects that the actor may know of.
func (a *Authority) ExpiringEpochs(ctx context.Context, by Actor) ([]ExpiringEpoch, error) {
	soon := []ExpiringEpoch{}
	err := a.db.Read(ctx, func(tx database.Tx) error {
		soon = soon[:0]
		names, err := ofProject(tx, by, "", a.now())
		if err != nil {
			return err
		}
		last, _, err := lastEpochs(tx, a.now())
		for _, name := range names {
			if e, ok := last[name]; ok && e.level(a.now()) != 0 {
				soon = append(soon, e)
			}
		}
		return err
	})
	return soon, a.answer(ctx, by, epochEvent("epoch.list", ""), err)
}
