package node

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"sallyport/authz"
	"sallyport/internal/database"
	"sallyport/recorder/journal"
)

// eventJournalDamaged says that the node started over a damaged place of its
// journal: sha256 and bytes of the file that is kept, and the places when they are known.
const eventJournalDamaged = "journal.damaged"

// journalDamagedSuffix ends the names of the journal's files that are kept for the auditors.
const journalDamagedSuffix = ".journal.damaged"

// acceptDamage is asked by the journal about each damaged place.
func (n *Node) acceptDamage(d *journal.DamageError) error {
	n.options.Log.Error("the journal is damaged, and is read on behind it as was asked for; the file is kept",
		"file", d.File, "byte", d.Offset, "reason", d.Reason)
	n.damage = append(n.damage, d)
	return nil
}

// refusedDamage makes of an error about a damaged place one that says what can be done.
func refusedDamage(err error) error {
	var damage *journal.DamageError
	if !errors.As(err, &damage) {
		return err
	}
	return fmt.Errorf("%w; nothing was changed. Copy the journal's folder for the auditors; "+
		"then `sallyport recover --accept-damage` saves what can be read, and keeps the damaged file", err)
}

// tellDamage records an event for each damaged file of the journal that is kept and of which the
// ledger says nothing yet: a crash may have come between. It returns the names of these files.
func (n *Node) tellDamage(ctx context.Context) ([]string, error) {
	kept, err := filepath.Glob(filepath.Join(n.config.Recording.Journal, "*"+journalDamagedSuffix))
	if err != nil {
		return nil, fmt.Errorf("find damaged files of the journal: %w", err)
	}
	told := []string{}
	for _, path := range kept {
		name := filepath.Base(path)
		if known, err := n.damageTold(ctx, name); err != nil {
			return told, err
		} else if known {
			continue
		}
		sum, size, err := hashFile(path)
		details := map[string]any{"bytes": size, "sha256": sum}
		if err != nil { // a disk that can't read it
			details = map[string]any{"cause": err.Error()}
		}
		var places []string
		for _, d := range n.damage {
			if d.File == strings.TrimSuffix(name, ".damaged") {
				places = append(places, fmt.Sprintf("byte %d: %s", d.Offset, d.Reason))
			}
		}
		if len(places) > 0 {
			details["places"] = places
		}
		if _, err := n.Authority.Record(ctx, authz.Event{
			UserID: "system", OpType: eventJournalDamaged, Time: n.options.Clock().UTC(), ResourceType: "journal", ResourceID: name,
			RemoteAddr: "-", Result: authz.ResultFailed, Details: details,
		}); err != nil {
			return told, fmt.Errorf("record that %s is damaged: %w", name, err)
		}
		told = append(told, name)
	}
	return told, nil
}

// damageTold tells whether the ledger has the event of a damaged file.
func (n *Node) damageTold(ctx context.Context, name string) (told bool, err error) {
	err = n.database.Read(ctx, func(tx database.Tx) error {
		told = false
		return tx.Each(func(row database.Scanner) error {
			var count int64
			err := row.Scan(&count)
			told = count > 0
			return err
		}, `SELECT count(*) FROM events WHERE user_id = 'system' AND node = $1 AND op_type = $2 AND resource_id = $3`,
			n.ID, eventJournalDamaged, name)
	})
	if err != nil {
		return false, fmt.Errorf("find what is known of %s: %w", name, err)
	}
	return told, nil
}

func hashFile(path string) (sum string, size int64, err error) {
	f, err := os.Open(path)
	if err != nil {
		return "", 0, err
	}
	defer f.Close()
	h := sha256.New()
	if size, err = io.Copy(h, f); err != nil {
		return "", size, err
	}
	return hex.EncodeToString(h.Sum(nil)), size, nil
}
