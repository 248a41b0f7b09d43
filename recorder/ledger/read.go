package ledger

import (
	"crypto/ed25519"
	"fmt"
	"iter"
	"strings"

	"golang.org/x/mod/sumdb/note"

	"sallyport/recorder/tlog"
)

// Read goes through the entries of a ledger's directory or a copy of it, up to its
// published checkpoint, each checked against it. It needs no key but the
// verifier's; with keys it opens the events too. It ends with the first error.
func Read(dir string, verifier note.Verifier, keys tlog.Keys) iter.Seq2[Item, error] {
	return func(yield func(Item, error) bool) {
		d, err := tlog.OpenDirectory(dir, verifier.Name(), verifier)
		if err != nil {
			yield(Item{}, err)
			return
		}
		var bodies *tlog.Bodies
		if keys != nil {
			if bodies, err = tlog.OpenBodies(dir, "", keys); err != nil {
				yield(Item{}, err)
				return
			}
			defer bodies.Close()
		}
		var index int64
		for entry, err := range d.Entries(0) {
			var item Item
			if err == nil {
				item, err = readItem(index, entry, bodies)
			}
			if !yield(item, err) || err != nil {
				return
			}
			index++
		}
	}
}

func readItem(index int64, entry []byte, bodies *tlog.Bodies) (Item, error) {
	item, err := ParseEntry(index, entry)
	if err != nil || item.Leaf != nil || bodies == nil {
		return item, err
	}
	item.Event, err = bodies.Read(index, entry)
	if tlog.Unreadable(err) {
		item.Unreadable, err = err, nil
	}
	return item, err
}

// VerifyReceipt checks a receipt against a ledger's directory or a copy of it: the
// node of that public key gave it, the entry it names is there, and the ledger still
// begins with everything that was there when it was given. It returns the entry.
func VerifyReceipt(dir, line string, key ed25519.PublicKey) (Item, error) {
	r, err := tlog.ParseReceipt(line)
	if err != nil {
		return Item{}, err
	}
	node, ok := strings.CutPrefix(r.Origin, OriginOf(""))
	if !ok {
		return Item{}, fmt.Errorf("the receipt is of %q, which is not the ledger of a node", r.Origin)
	}
	verifier, err := VerifierOf(node, key)
	if err != nil {
		return Item{}, err
	}
	d, err := tlog.OpenDirectory(dir, r.Origin, verifier)
	if err != nil {
		return Item{}, err
	}
	if err := r.Verify(d, verifier); err != nil {
		return Item{}, err
	}
	entry, err := d.Entry(r.Index)
	if err != nil {
		return Item{}, err
	}
	return ParseEntry(r.Index, entry)
}
