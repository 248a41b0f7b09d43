package replay

import (
	"encoding/binary"
	"reflect"
	"strings"
	"testing"

	"sallyport/recorder/ledger"
)

// FuzzVerifyLedgerEntries hands foreign entries to what reads a ledger, as
// whoever holds the node's key can write them: none makes it panic, none that
// no node writes is passed over, and none changes what is known of a session
// that was closed before.
func FuzzVerifyLedgerEntries(f *testing.F) {
	hash := strings.Repeat("ab", 32)
	var seeds, all []byte
	var before [][]byte
	for _, l := range []ledger.Leaf{
		{Kind: ledger.KindOpen, Session: "S-1", Number: 1},
		{Kind: ledger.KindSegment, Session: "S-1", Hash: hash},
		{Kind: ledger.KindSegment, Session: "S-1", Segment: 1, Hash: hash},
		{Kind: ledger.KindClose, Session: "S-1", Number: 1, Hash: hash, Size: 9, Reason: "exit"},
		{Kind: ledger.KindOpen, Session: "S-2", Number: 2},
		{Kind: ledger.KindSegment, Session: "S-2", Hash: hash},
		{Kind: ledger.KindMissing, Session: "S-2", Number: 2},
		{Kind: ledger.KindDamaged, Session: "S-3", Number: 3, Hash: hash, Size: 9},
	} {
		e, err := l.Encode()
		if err != nil {
			f.Fatal(err)
		}
		if l.Session == "S-1" {
			before = append(before, e)
		}
		seeds = append(binary.BigEndian.AppendUint16(nil, uint16(len(e))), e...)
		all = append(all, seeds...)
		f.Add(seeds)
	}
	f.Add(all)
	f.Fuzz(func(t *testing.T, data []byte) {
		l := &ledgerView{sessions: map[string]*told{}}
		for i, e := range before {
			l.visit(int64(i), e)
		}
		if len(l.findings) != 0 {
			t.Fatal(l.findings)
		}
		known := *l.sessions["S-1"]
		for index := int64(len(before)); len(data) >= 2; index++ {
			n := min(int(binary.BigEndian.Uint16(data)), len(data)-2)
			entry := data[2 : 2+n]
			data = data[2+n:]
			found := len(l.findings)
			l.visit(index, entry)
			if _, err := ledger.ParseEntry(index, entry); err != nil && len(l.findings) == found && found < maxEntryFindings {
				t.Fatalf("%q was passed over", entry)
			}
		}
		if !reflect.DeepEqual(known, *l.sessions["S-1"]) {
			t.Fatalf("%+v became %+v", known, *l.sessions["S-1"])
		}
	})
}
