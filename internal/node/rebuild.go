package node

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"iter"
	"path/filepath"

	"sallyport/authz"
	"sallyport/internal/config"
	"sallyport/internal/database"
	"sallyport/recorder/ledger"
)

// Rebuilt is what a rebuild did.
type Rebuilt struct {
	authz.Rebuilt
	// NoAdministrator: nobody can come in before Recover makes a first administrator.
	NoAdministrator bool `json:"no_administrator"`
}

// Rebuild makes the tables that only repeat what happened again from the node's
// ledger (authz.Rebuild). The node must be stopped: what its journal holds is brought
// into the ledger first. progress is told how many entries of how many were read.
func Rebuild(ctx context.Context, c *config.Config, o Options, progress func(done, total int64)) (done Rebuilt, err error) {
	n := &Node{config: c, options: o.withDefaults(c)}
	k, err := loadKeys(c)
	if err != nil {
		return done, err
	}
	if n.ID, err = nodeID(c.State); err != nil {
		return done, err
	}
	if n.Recorder, err = n.openRecorder(k); err != nil {
		return done, err
	}
	n.Ledger = n.Recorder.Ledger()
	defer func() { err = errors.Join(err, n.Close()) }()
	if err := n.Ledger.Publish(ctx); err != nil {
		return done, err
	}
	if n.database, err = database.Open(ctx, c.Database); err != nil {
		return done, err
	}
	verifier, err := ledger.VerifierOf(n.ID, k.node.Public().(ed25519.PublicKey))
	if err != nil {
		return done, err
	}
	items := ledger.Read(filepath.Join(c.State, "ledger"), verifier, n.Ledger.Keys())
	done.Rebuilt, err = authz.Rebuild(ctx, n.database, n.ID, eventTexts(items, n.Ledger.Size(), progress))
	if err != nil {
		return done, fmt.Errorf("tables from the ledger: %w", err)
	}
	err = n.database.Read(ctx, func(tx database.Tx) error {
		var administrators int64
		err := tx.QueryRow("SELECT count(*) FROM users WHERE site_role IN ($1, $2)", string(authz.SiteAdmin), string(authz.SiteSecurity)).Scan(&administrators)
		done.NoAdministrator = administrators == 0
		return err
	})
	if err != nil {
		return done, fmt.Errorf("look for administrators: %w", err)
	}
	return done, nil
}

// eventTexts are the events among the entries; nil for one that can't be read any more.
func eventTexts(items iter.Seq2[ledger.Item, error], total int64, progress func(done, total int64)) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		for item, err := range items {
			if progress != nil {
				progress(item.Index+1, total)
			}
			if err == nil && item.Leaf != nil {
				continue
			}
			if !yield(item.Event, err) || err != nil {
				return
			}
		}
	}
}
