package tlog

import (
	"fmt"
)

// Entry is one durable entry of the open log.
func (l *Log) Entry(index int64) ([]byte, error) {
	l.mu.Lock()
	if index < 0 || index >= l.size {
		size := l.size
		l.mu.Unlock()
		return nil, fmt.Errorf("entry %d: the log has %d entries", index, size)
	}
	id := tileID{entriesLevel, index / tileWidth}
	bundle := l.pending[id]
	if l.size/tileWidth == id.n {
		bundle = append([]byte(nil), l.bundle...)
	}
	l.mu.Unlock()
	if bundle == nil {
		var err error
		if bundle, _, err = readTileFile(l.o.fs, l.o.Dir, id); err != nil {
			return nil, err
		}
	}
	entry, err := entryAt(bundle, int(index%tileWidth))
	if err != nil {
		return nil, fmt.Errorf("entry %d: %w", index, err)
	}
	return entry, nil
}

// ReadBody opens the body of an entry and checks it against its leaf. The error
// wraps ErrDestroyed, ErrNoKey or ErrNoBody when nothing is wrong but the
// body cannot be read.
func (l *Log) ReadBody(index int64, keys Keys) ([]byte, error) {
	leaf, err := l.Entry(index)
	if err != nil {
		return nil, err
	}
	key, sealed, err := l.sealed(index)
	if err != nil {
		return nil, fmt.Errorf("entry %d: %w", index, err)
	}
	aead, err := keys.Reading(key)
	if err != nil {
		return nil, fmt.Errorf("entry %d: %w", index, err)
	}
	body, _, err := openBody(aead, leaf, sealed)
	if err != nil {
		return nil, fmt.Errorf("entry %d: %w", index, err)
	}
	return body, nil
}

func (l *Log) sealed(index int64) (KeyID, []byte, error) {
	l.mu.Lock()
	if at, ok := l.unstoredAt[index]; ok {
		b := l.unstored[at-l.unstoredBase]
		l.mu.Unlock()
		return b.key, b.sealed, nil
	}
	l.mu.Unlock()
	reader, err := l.bodies.reader()
	if err != nil {
		return KeyID{}, nil, err
	}
	key, sealed, err := reader.find(index)
	if closeErr := reader.close(); err == nil {
		err = closeErr
	}
	return key, sealed, err
}
