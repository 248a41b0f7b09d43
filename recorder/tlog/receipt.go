package tlog

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

const (
	receiptPrefix  = "sallyport-receipt-1."
	signatureSize  = 64
	maxReceiptLine = 1024
)

// Receipt is a line that a person is shown at logout: what the log claimed about
// one entry, signed. It has no inclusion proof, to stay short; the log's
// directory has, and must still contain what the receipt says.
type Receipt struct {
	Origin    string
	Index     int64
	Leaf      Hash
	Size      int64
	Root      Hash
	Signature [signatureSize]byte // of the checkpoint, by the log's key
}

// Receipt makes the receipt of a durable entry under the newest checkpoint.
func (l *Log) Receipt(index int64) (*Receipt, error) {
	l.mu.Lock()
	signed := l.note
	l.mu.Unlock()
	c, n, err := OpenCheckpoint(signed, l.o.Origin, l.verifier)
	if err != nil {
		return nil, err
	}
	if index < 0 || index >= c.Size {
		return nil, fmt.Errorf("no receipt for entry %d: the log has %d entries", index, c.Size)
	}
	hashes, err := l.hashes(c.Size).ReadHashes([]int64{tlog.StoredHashIndex(0, index)})
	if err != nil {
		return nil, err
	}
	r := &Receipt{Origin: c.Origin, Index: index, Leaf: hashes[0], Size: c.Size, Root: c.Root}
	signature, err := signatureBytes(n.Sigs[0])
	if err != nil || copy(r.Signature[:], signature) != signatureSize {
		return nil, errors.New("the checkpoint's signature does not fit a receipt")
	}
	return r, nil
}

// String is the receipt in one line, about 230 characters.
func (r *Receipt) String() string {
	b := append([]byte{byte(len(r.Origin))}, r.Origin...)
	b = binary.AppendUvarint(b, uint64(r.Index))
	b = binary.AppendUvarint(b, uint64(r.Size))
	b = append(append(append(b, r.Leaf[:]...), r.Root[:]...), r.Signature[:]...)
	return receiptPrefix + base64.RawURLEncoding.EncodeToString(b)
}

// ParseReceipt reads the line, as somebody copied it from a terminal: white space is ignored.
func ParseReceipt(line string) (*Receipt, error) {
	line = strings.TrimPrefix(strings.Join(strings.Fields(line), ""), "receipt:")
	text, ok := strings.CutPrefix(line, receiptPrefix)
	if !ok || len(line) > maxReceiptLine {
		return nil, errors.New("this is not a Sallyport receipt; give the whole line that begins with `receipt:`")
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil {
		return nil, fmt.Errorf("the receipt was not copied whole: %w", err)
	}
	f := reader{b: b}
	receipt := &Receipt{Origin: string(f.take(int(f.uint8())))}
	receipt.Index, receipt.Size = f.uvarint(), f.uvarint()
	copy(receipt.Leaf[:], f.take(tlog.HashSize))
	copy(receipt.Root[:], f.take(tlog.HashSize))
	copy(receipt.Signature[:], f.take(signatureSize))
	if f.failed || len(f.b) > 0 || receipt.Index >= receipt.Size {
		return nil, errors.New("the receipt was not copied whole")
	}
	return receipt, nil
}

func (r *reader) uvarint() int64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 || v > uint64(maxSize) {
		r.failed = true
		return 0
	}
	r.b = r.b[n:]
	return int64(v)
}

// Checkpoint is the checkpoint in the receipt, as a signed note.
func (r *Receipt) Checkpoint(verifier note.Verifier) ([]byte, error) {
	raw := binary.BigEndian.AppendUint32(nil, verifier.KeyHash())
	raw = append(raw, r.Signature[:]...)
	c := Checkpoint{Origin: r.Origin, Size: r.Size, Root: r.Root}
	signed := fmt.Sprintf("%s\n— %s %s\n", c.Text(), verifier.Name(), base64.StdEncoding.EncodeToString(raw))
	if _, _, err := OpenCheckpoint([]byte(signed), r.Origin, verifier); err != nil {
		return nil, fmt.Errorf("the receipt: %w", err)
	}
	return []byte(signed), nil
}

// Verify checks the receipt against a log's directory as it is now: the log's
// key signed it, the entry is the one it names, and the log still begins with
// the entries that were there when it was given.
func (r *Receipt) Verify(d *Directory, verifier note.Verifier) error {
	signed, err := r.Checkpoint(verifier)
	if err != nil {
		return err
	}
	older, _, err := OpenCheckpoint(signed, r.Origin, verifier)
	if err != nil {
		return err
	}
	newer, _, err := OpenCheckpoint(d.signed, r.Origin, verifier)
	if err != nil {
		return err
	}
	if older.Size > newer.Size {
		return fmt.Errorf("the receipt was given when the log had %d entries, it now has %d: entries were cut off", older.Size, newer.Size)
	}
	leaf, err := d.LeafHash(r.Index)
	if err != nil {
		return err
	}
	if leaf != r.Leaf {
		return fmt.Errorf("entry %d is not the one of the receipt: it was rewritten", r.Index)
	}
	proof, err := d.ProveConsistency(older.Size, newer.Size)
	if err != nil {
		return err
	}
	return CheckConsistency(proof, older, newer)
}
