package ledger

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"sallyport/recorder/tlog"
)

// Kind says what a public leaf tells of a recording.
type Kind string

// The kinds of public leaves.
const (
	KindOpen    Kind = "open"    // the recording begins
	KindSegment Kind = "segment" // one leaf of the recording's own tree is sealed in its file
	KindClose   Kind = "close"   // the recording has ended, this is its root
	KindMissing Kind = "missing" // the node has lost the recording
	KindDamaged Kind = "damaged" // the file could not be recovered and was set aside
)

// Leaf is a public leaf about a recording: not salted (it only holds random
// identifiers and hashes of ciphertext), so anyone can check a recording file
// against the ledger without keys. Its entry is 0x02 and its canonical JSON.
type Leaf struct {
	Kind    Kind   `json:"kind"`
	Session string `json:"session"`
	Number  int64  `json:"number,omitempty"`  // dense number of the session on this node, from 1: open, close, missing, damaged
	Segment uint32 `json:"segment,omitempty"` // index of the leaf in the recording's own tree; 0 is the part before the first segment: segment
	Hash    string `json:"hash,omitempty"`    // hex: RFC 6962 leaf hash of it (segment), root of the recording's tree (close), SHA-256 of the file set aside (damaged)
	Size    int64  `json:"size,omitempty"`    // bytes: the whole file (close), the file set aside (damaged)
	Reason  string `json:"reason,omitempty"`  // why it ended (close), what is known (missing, damaged); at most MaxReason bytes
}

// Limits of a public leaf.
const (
	MaxReason  = 1024 // bytes
	maxSession = 64   // bytes
	maxPublic  = 16 << 10
)

// The first byte of an entry says what it is.
const (
	entryEvent  = 0x01 // tlog.Commit
	entryPublic = 0x02

	eventSize = 33 // bytes of an event's entry
)

// Encode is the leaf's entry in the log: 0x02 and its canonical JSON, which is
// what encoding/json writes of it.
func (f Leaf) Encode() ([]byte, error) {
	f.Reason = bounded(f.Reason)
	if err := f.check(); err != nil {
		return nil, fmt.Errorf("ledger leaf %q of %q: %w", f.Kind, f.Session, err)
	}
	text, err := json.Marshal(f)
	if err != nil {
		return nil, fmt.Errorf("ledger leaf: %w", err)
	}
	return append([]byte{entryPublic}, text...), nil
}

// bounded is a reason of at most MaxReason bytes of valid UTF-8.
func bounded(reason string) string {
	if len(reason) > MaxReason {
		reason = reason[:MaxReason]
	}
	return strings.ToValidUTF8(reason, "")
}

// ParseLeaf reads the entry of a public leaf. It refuses whatever Encode would not
// have written in exactly these bytes.
func ParseLeaf(entry []byte) (*Leaf, error) {
	if len(entry) == 0 || entry[0] != entryPublic {
		return nil, errors.New("the entry is not a public leaf")
	}
	if len(entry) > maxPublic {
		return nil, fmt.Errorf("a public leaf of %d bytes is larger than %d", len(entry), maxPublic)
	}
	var f Leaf
	d := json.NewDecoder(bytes.NewReader(entry[1:]))
	d.DisallowUnknownFields()
	if err := d.Decode(&f); err != nil {
		return nil, fmt.Errorf("public leaf: %w", err)
	}
	again, err := f.Encode()
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(entry, again) {
		return nil, errors.New("the public leaf is not in its canonical form")
	}
	return &f, nil
}

// check tells whether the leaf has the fields of its kind and no others.
func (f *Leaf) check() error {
	if f.Session == "" || len(f.Session) > maxSession || strings.ContainsFunc(f.Session, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return errors.New("it does not name a session")
	}
	numbered, hashed, sized, segment, reason := true, false, false, false, false
	switch f.Kind {
	case KindOpen:
	case KindSegment:
		numbered, hashed, segment = false, true, true
	case KindClose, KindDamaged:
		hashed, sized, reason = true, true, true
	case KindMissing:
		reason = true
	default:
		return errors.New("there is no such kind")
	}
	switch {
	case numbered != (f.Number != 0) || f.Number < 0:
		return fmt.Errorf("the number %d does not belong there", f.Number)
	case !segment && f.Segment != 0:
		return fmt.Errorf("the segment %d does not belong there", f.Segment)
	case !sized && f.Size != 0 || f.Size < 0:
		return fmt.Errorf("the size %d does not belong there", f.Size)
	case !reason && f.Reason != "":
		return errors.New("a reason does not belong there")
	case hashed != (f.Hash != "") || hashed && !isHash(f.Hash):
		return fmt.Errorf("%.80q is not the hash it needs", f.Hash)
	}
	return nil
}

func isHash(s string) bool {
	if len(s) != 64 || strings.ToLower(s) != s {
		return false
	}
	_, err := hex.DecodeString(s)
	return err == nil
}

// Item is one entry of the ledger.
type Item struct {
	Index int64
	Entry []byte // as it is hashed into the tree
	Leaf  *Leaf  // a public leaf; nil for an event
	Event []byte // the event's text, when the reader has the keys and it was not destroyed

	// Unreadable says why there is no Event although keys were given; it wraps
	// tlog.ErrDestroyed, ErrNoKey or ErrNoBody.
	Unreadable error
}

// ParseEntry reads an entry: a public leaf, or the commitment of an event.
func ParseEntry(index int64, entry []byte) (Item, error) {
	item := Item{Index: index, Entry: entry}
	switch {
	case isEvent(entry):
		return item, nil
	case len(entry) > 0 && entry[0] == entryPublic:
		var err error
		if item.Leaf, err = ParseLeaf(entry); err != nil {
			return item, fmt.Errorf("entry %d: %w", index, err)
		}
		return item, nil
	}
	return item, fmt.Errorf("entry %d is neither an event nor a public leaf", index)
}

func isEvent(entry []byte) bool { return len(entry) == eventSize && entry[0] == entryEvent }

// eventHead is what the ledger reads of an event's text.
type eventHead struct {
	Sequence int64     `json:"sequence"`
	Project  string    `json:"project"`
	Time     time.Time `json:"time"`
}

// NodeProject stands in a KeyID for events that belong to no project.
const NodeProject = "_node"

// keyID names the key that the event's body is sealed under.
func (h *eventHead) keyID() tlog.KeyID {
	k := tlog.KeyID{Project: h.Project, Quarter: tlog.QuarterOf(h.Time)}
	if h.Project == "" || !k.Valid() {
		k.Project = NodeProject
	}
	return k
}
