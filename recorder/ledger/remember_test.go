package ledger

import (
	"crypto/ed25519"
	"errors"
	"testing"

	"sallyport/recorder/tlog"
)

// TestPromise4_WhatAnAuditorSawIsDemandedAgain: each auditor's machine finds a rewritten or cut ledger.
func TestPromise4_WhatAnAuditorSawIsDemandedAgain(t *testing.T) {
	home := t.TempDir()
	remembered, err := Remembered(func(name string) string {
		if name != HomeVariable {
			t.Errorf("asked for %s", name)
		}
		return home
	})
	must(t, err)
	w := newWorld(t)
	key := w.options.Signer.Public().(ed25519.PublicKey)
	if last, err := LastSeen(remembered, key); err != nil || last.Size != 0 {
		t.Fatalf("%+v, %v", last, err)
	}
	w.append(1, 5)
	must(t, Remember(remembered, w.ledger.Checkpoint(), key, false, nil))
	w.append(6, 9)
	must(t, Remember(remembered, w.ledger.Checkpoint(), key, false, w.ledger.ProveConsistency))
	if last, err := LastSeen(remembered, key); err != nil || last.Size != 9 || last.Origin != OriginOf("N-test") {
		t.Fatalf("%+v, %v", last, err)
	}
	forged := newWorld(t) // the same node and key
	forged.append(1, 8)
	if err := Remember(remembered, forged.ledger.Checkpoint(), key, false, forged.ledger.ProveConsistency); !errors.Is(err, tlog.ErrRewritten) {
		t.Errorf("a shorter ledger: %v", err)
	}
	forged.append(9, 12)
	if err := Remember(remembered, forged.ledger.Checkpoint(), key, false, forged.ledger.ProveConsistency); !errors.Is(err, tlog.ErrRewritten) {
		t.Errorf("another ledger: %v", err)
	}
	stranger := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)).Public().(ed25519.PublicKey)
	if err := Remember(remembered, w.ledger.Checkpoint(), stranger, false, nil); err == nil {
		t.Error("a checkpoint under another key is kept")
	}
	if last, err := LastSeen(remembered, stranger); err != nil || last.Size != 0 {
		t.Errorf("remembered of a stranger: %+v, %v", last, err)
	}
	for _, bad := range []string{"", "sallyport/\n", "other/N-1\n1\n", "x"} {
		if _, err := NodeIn([]byte(bad)); err == nil {
			t.Errorf("%q is of a node", bad)
		}
	}
}

// TestPromise4_AnotherNameUnderTheSameKeyIsRefused: only a person's word makes a new node of an old key.
func TestPromise4_AnotherNameUnderTheSameKeyIsRefused(t *testing.T) {
	remembered := tlog.NewRemembered(t.TempDir())
	w := newWorld(t)
	key := w.options.Signer.Public().(ed25519.PublicKey)
	w.append(1, 5)
	must(t, Remember(remembered, w.ledger.Checkpoint(), key, false, nil))
	dir := t.TempDir()
	renamed := &world{t: t, dir: dir, options: testOptions(dir)}
	renamed.options.Node = "N-other"
	renamed.start()
	t.Cleanup(renamed.stop)
	renamed.append(1, 9)
	if err := Remember(remembered, renamed.ledger.Checkpoint(), key, false, renamed.ledger.ProveConsistency); !errors.Is(err, tlog.ErrRewritten) {
		t.Fatalf("another name: %v", err)
	}
	must(t, Remember(remembered, renamed.ledger.Checkpoint(), key, true, nil))
	if last, err := LastSeen(remembered, key); err != nil || last.Origin != OriginOf("N-other") {
		t.Errorf("%+v, %v", last, err)
	}
	renamed.append(10, 12)
	must(t, Remember(remembered, renamed.ledger.Checkpoint(), key, false, renamed.ledger.ProveConsistency))
	// The old one is back: the same person says so again, and it takes its place in turn.
	if err := Remember(remembered, w.ledger.Checkpoint(), key, false, nil); !errors.Is(err, tlog.ErrRewritten) {
		t.Errorf("the old name: %v", err)
	}
	must(t, Remember(remembered, w.ledger.Checkpoint(), key, true, nil))
	if last, err := LastSeen(remembered, key); err != nil || last.Origin != OriginOf("N-test") {
		t.Errorf("%+v, %v", last, err)
	}
}
