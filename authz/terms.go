package authz

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"time"
	"unicode/utf8"

	"sallyport/internal/database"
)

// SetTraining records that the person's training is valid until the given time.
func (a *Authority) SetTraining(ctx context.Context, by Actor, user, course string, until time.Time) error {
	return a.change(ctx, by, a.userEvent("training.set", user), func(w *work) error {
		if _, err := w.need("record training", SiteAdmin, SiteSecurity); err != nil {
			return err
		}
		if err := w.other(user, "record training"); err != nil {
			return err
		}
		if err := checkText("course", course, 1); err != nil {
			return err
		}
		if _, err := w.target(user); err != nil {
			return err
		}
		_, err := w.tx.Exec("UPDATE users SET training_course = $1, training_until = $2 WHERE name = $3",
			course, milliseconds(until), user)
		if err != nil {
			return err
		}
		return w.done(map[string]any{"course": course, "until": until.UTC()})
	})
}

// SetTerms makes a text the terms that everyone must accept; returns its version.
func (a *Authority) SetTerms(ctx context.Context, by Actor, text string) (version string, err error) {
	hash := sha256.Sum256([]byte(text))
	version = hex.EncodeToString(hash[:])
	event := Event{OpType: "terms.set", ResourceType: "terms", ResourceID: version}
	err = a.change(ctx, by, event, func(w *work) error {
		if _, err := w.need("set the terms", SiteSecurity); err != nil {
			return err
		}
		if text == "" || len(text) > maxTerms || !utf8.ValidString(text) || slices.Contains([]byte(text), 0) {
			return deny("input.terms", "The terms must be a text of up to 256 KiB in UTF-8.", "")
		}
		var number int64
		err := w.tx.QueryRow("UPDATE counters SET value = value + 1 WHERE name = 'terms' RETURNING value").Scan(&number)
		if err != nil {
			return err
		}
		// An earlier text that is set again becomes the one in force again.
		_, err = w.tx.Exec(`INSERT INTO terms (version, number, text, created_at, created_by) VALUES ($1, $2, $3, $4, $5)
			ON CONFLICT (version) DO UPDATE SET number = excluded.number`, version, number, text, milliseconds(w.now), by.name())
		if err != nil {
			return err
		}
		return w.done(map[string]any{"number": number, "bytes": len(text)})
	})
	if err != nil {
		return "", err
	}
	return version, nil
}

func loadTerms(tx database.Tx) (version, text string, err error) {
	err = tx.QueryRow("SELECT version, text FROM terms ORDER BY number DESC LIMIT 1").Scan(&version, &text)
	if errors.Is(err, sql.ErrNoRows) {
		return "", "", nil
	}
	return version, text, err
}

// Terms returns the current terms; version is "" when there are none.
func (a *Authority) Terms(ctx context.Context) (version, text string, err error) {
	err = a.db.Read(ctx, func(tx database.Tx) error {
		version, text, err = loadTerms(tx)
		return err
	})
	if err != nil {
		return "", "", fmt.Errorf("terms: %w", err)
	}
	return version, text, nil
}

// AcceptTerms records the person's acceptance of a version, with address and time.
func (a *Authority) AcceptTerms(ctx context.Context, by Actor, version string) error {
	event := Event{OpType: "terms.accept", ResourceType: "terms", ResourceID: version}
	if version == "" {
		event.ResourceID = "-"
	}
	return a.change(ctx, by, event, func(w *work) error {
		user, err := w.actor()
		if err != nil {
			return err
		}
		current, _, err := loadTerms(w.tx)
		if err != nil {
			return err
		}
		if by.unbound() || current == "" || version != current {
			return deny("terms.changed", "Those are not the terms in force: read and accept the present ones.", "in force: "+current)
		}
		_, err = w.tx.Exec("UPDATE users SET terms_version = $1, terms_at = $2 WHERE name = $3",
			version, milliseconds(w.now), user.Name)
		if err != nil {
			return err
		}
		return w.done(map[string]any{"version": version})
	})
}
