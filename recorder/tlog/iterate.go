package tlog

import (
	"errors"
	"fmt"
	"iter"
	"path/filepath"

	"golang.org/x/mod/sumdb/tlog"
)

// Entries goes through the entries from an index on, each checked against the
// published checkpoint's root. It ends with the first error.
func (d *Directory) Entries(from int64) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		for n := max(from, 0) / tileWidth; n*tileWidth < d.size; n++ {
			entries, err := d.authenticBundle(n)
			if err != nil {
				yield(nil, err)
				return
			}
			for i, entry := range entries {
				if n*tileWidth+int64(i) >= from && !yield(entry, nil) {
					return
				}
			}
		}
	}
}

// authenticBundle reads the entries of one bundle and checks all of them with one proof.
func (d *Directory) authenticBundle(n int64) ([][]byte, error) {
	bundle, err := d.readBundle(n)
	if err != nil {
		return nil, err
	}
	width := tileID{entriesLevel, n}.widthAt(d.size)
	entries, places := make([][]byte, width), make([]int64, width)
	for i := range entries {
		if entries[i], bundle, err = nextEntry(bundle); err != nil {
			return nil, err
		}
		places[i] = tlog.StoredHashIndex(0, n*tileWidth+int64(i))
	}
	hashes, err := d.hashes().ReadHashes(places)
	if err != nil {
		return nil, fmt.Errorf("entries from %d on: %w", n*tileWidth, err)
	}
	for i, entry := range entries {
		if LeafHash(entry) != hashes[i] {
			return nil, fmt.Errorf("entry %d was changed: it does not hash into the tree", n*tileWidth+int64(i))
		}
	}
	return entries, nil
}

// Bodies opens the bodies that lie beside a log's directory, or elsewhere.
type Bodies struct {
	reader *bodyReader
	keys   Keys
}

// OpenBodies opens the bodies of the log in dir; an empty bodiesDir means dir/bodies.
func OpenBodies(dir, bodiesDir string, keys Keys) (*Bodies, error) {
	if bodiesDir == "" {
		bodiesDir = filepath.Join(dir, "bodies")
	}
	reader, err := openBodyReader(disk{}, bodiesDir)
	if err != nil {
		return nil, fmt.Errorf("ledger bodies: %w", err)
	}
	return &Bodies{reader, keys}, nil
}

// Read opens the body of an entry and checks it against the entry. The error
// wraps ErrDestroyed, ErrNoKey or ErrNoBody when nothing is wrong but the
// body cannot be read.
func (b *Bodies) Read(index int64, entry []byte) ([]byte, error) {
	key, sealed, err := b.reader.find(index)
	if err != nil {
		return nil, fmt.Errorf("entry %d: %w", index, err)
	}
	aead, err := b.keys.Reading(key)
	if err != nil {
		return nil, fmt.Errorf("entry %d: %w", index, err)
	}
	body, _, err := openBody(aead, entry, sealed)
	if err != nil {
		return nil, fmt.Errorf("entry %d: %w", index, err)
	}
	return body, nil
}

// Close closes the files.
func (b *Bodies) Close() error { return b.reader.close() }

// Unreadable tells whether nothing is wrong with a body that could not be read.
func Unreadable(err error) bool {
	return errors.Is(err, ErrDestroyed) || errors.Is(err, ErrNoKey) || errors.Is(err, ErrNoBody)
}
