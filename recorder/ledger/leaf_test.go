package ledger

import (
	"bytes"
	"strings"
	"testing"
)

func TestLeavesHaveTheFieldsOfTheirKind(t *testing.T) {
	hash := strings.Repeat("0a", 32)
	for _, good := range []Leaf{
		{Kind: KindOpen, Session: "S-1", Number: 1},
		{Kind: KindSegment, Session: "S-1", Hash: hash},
		{Kind: KindSegment, Session: "S-1", Segment: 7, Hash: hash},
		{Kind: KindClose, Session: "S-1", Number: 1, Hash: hash, Size: 9, Reason: "the client went <away>"},
		{Kind: KindMissing, Session: "S-1", Number: 1, Reason: "no file"},
		{Kind: KindDamaged, Session: "S-1", Number: 1, Hash: hash, Size: 1},
	} {
		entry, err := good.Encode()
		must(t, err)
		again, err := ParseLeaf(entry)
		must(t, err)
		if *again != good {
			t.Errorf("%+v came back as %+v", good, *again)
		}
	}
	for _, bad := range []Leaf{
		{}, {Kind: KindOpen, Session: "S-1"}, {Kind: KindOpen, Number: 1}, {Kind: "other", Session: "S-1", Number: 1},
		{Kind: KindOpen, Session: "S 1", Number: 1}, {Kind: KindOpen, Session: "S-1", Number: -1},
		{Kind: KindOpen, Session: "S-1", Number: 1, Hash: hash}, {Kind: KindOpen, Session: "S-1", Number: 1, Reason: "why"},
		{Kind: KindSegment, Session: "S-1"}, {Kind: KindSegment, Session: "S-1", Hash: strings.ToUpper(hash)},
		{Kind: KindSegment, Session: "S-1", Hash: hash, Number: 1}, {Kind: KindClose, Session: "S-1", Number: 1, Hash: hash, Size: -1},
		{Kind: KindClose, Session: "S-1", Number: 1, Hash: hash, Segment: 1}, {Kind: KindMissing, Session: "S-1", Number: 1, Size: 1},
	} {
		if _, err := bad.Encode(); err == nil {
			t.Errorf("%+v was taken", bad)
		}
	}
	long := Leaf{Kind: KindMissing, Session: "S-1", Number: 1, Reason: strings.Repeat("ü", MaxReason)}
	if _, err := long.Encode(); err != nil {
		t.Errorf("a long reason is not cut: %v", err)
	}
}

// FuzzParseEntry: what is taken is exactly what Encode writes.
func FuzzParseEntry(f *testing.F) {
	for _, leaf := range []Leaf{open, done} {
		entry, err := leaf.Encode()
		must(f, err)
		f.Add(entry)
		f.Add(append(entry, ' '))
	}
	f.Add([]byte("\x02{}"))
	f.Add(append([]byte{1}, make([]byte, 32)...))
	f.Fuzz(func(t *testing.T, entry []byte) {
		item, err := ParseEntry(1, entry)
		if err != nil || item.Leaf == nil {
			return
		}
		again, err := item.Leaf.Encode()
		if err != nil || !bytes.Equal(again, entry) {
			t.Fatalf("%q came back as %q, %v", entry, again, err)
		}
	})
}
