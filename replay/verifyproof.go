package replay

import (
	"context"
	"crypto/ed25519"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"sallyport/recorder/ledger"
	"sallyport/recorder/tlog"
)

// Checkpoints, receipts, witnesses and proofs: what others hold against a node
// that writes its own history anew.

// vouched checks receipts and the witnesses' cosignatures.
func (c *nodeCheck) vouched() error {
	l := c.view
	for i, r := range l.receipts {
		fits := l.seen[i] && l.sound()
		c.report.Receipts = append(c.report.Receipts, ReceiptReport{Session: l.receiptOf[i], Entry: r.Index, Entries: r.Size, Fits: fits})
		if fits && c.otherThanAsked(l.receiptOf[i]) {
			c.report.add(Finding{File: tlog.CheckpointFile, Code: CodeReceipt, Segment: -1, Entry: r.Index, Offset: -1, Broken: true,
				Text: fmt.Sprintf("the receipt is of session %s, not of this recording", l.receiptOf[i])})
		}
		if !l.seen[i] && l.sound() {
			c.report.add(Finding{File: tlog.CheckpointFile, Code: CodeReceipt, Segment: -1, Entry: r.Index, Offset: -1, Broken: true,
				Text: "the entry is not the one of the receipt: it was rewritten after the person was shown it"})
		}
	}
	if c.files.Policy == nil || l.verifier == nil {
		return nil
	}
	unproved := func(why string) {
		c.report.add(about(tlog.CosignedFile, CodeWitness, why+": the node could not reach its witnesses, they refused its ledger, or the file was exchanged", true))
	}
	signed, err := readCosigned(c.files.Ledger)
	if err != nil {
		return err
	}
	if signed == nil {
		unproved("there is no cosigned checkpoint")
		return nil
	}
	v, err := c.files.Policy.Check(signed)
	if err != nil {
		unproved(err.Error())
		return nil
	}
	c.report.Witnessed = &Witnessed{Entries: v.Checkpoint.Size, By: append([]string{}, v.Cosigned...), Ignored: v.Ignored, Enough: v.Enough}
	if v.Checkpoint.Origin != l.verifier.Name() {
		unproved("the cosigned checkpoint is of " + v.Checkpoint.Origin)
	} else if !v.Enough {
		unproved(fmt.Sprintf("%d witnesses of the policy have cosigned, which is not enough", len(v.Cosigned)))
	} else if l.sound() && v.Checkpoint.Size < l.report.Size+l.report.Tail {
		c.report.add(Finding{File: tlog.CosignedFile, Code: CodeUnwitnessed, Segment: -1, Entry: v.Checkpoint.Size, Offset: -1,
			Text: fmt.Sprintf("no witness vouches for entries %d to %d: they came after what was cosigned, which takes seconds; if they are older, the node showed its witnesses nothing, or an old file was put here",
				v.Checkpoint.Size, l.report.Size+l.report.Tail-1)})
	}
	return nil
}

// otherThanAsked reports whether one recording is verified, and a receipt is of another session.
func (c *nodeCheck) otherThanAsked(session string) bool {
	return len(c.files.Copies) == 1 && len(c.files.Recordings) == 0 && len(c.all) == 1 && c.all[0].report.Session != session
}

// remember keeps the newest checkpoint, if all is well. When the ledger
// contradicts the remembered one, the new one is kept beside it as evidence.
func (c *nodeCheck) remember() error {
	l := c.view
	if c.files.Remembered == nil || l.verifier == nil || l.report == nil {
		return nil
	}
	origin := l.verifier.Name()
	if len(l.others) > 0 && !c.files.NewNode {
		if d, err := tlog.OpenDirectory(c.files.Ledger, origin, l.verifier); err == nil {
			_ = c.files.Remembered.Refuse(d.Checkpoint(), origin, l.others) // the finding says it; this keeps the evidence
		}
		return nil
	}
	last, before, err := c.files.Remembered.Last(origin, l.verifier)
	if err != nil {
		return err
	}
	if last != nil {
		c.report.Remembered = before.Size
	}
	conflict := false
	for _, f := range c.report.Findings {
		conflict = conflict || last != nil && f.Code == CodeCheckpoint
	}
	if (!c.report.Intact && !conflict) || l.report.Size < before.Size && !conflict {
		return nil
	}
	d, err := tlog.OpenDirectory(c.files.Ledger, origin, l.verifier)
	if err != nil {
		return nil // found, and said, above
	}
	err = c.files.Remembered.Update(d.Checkpoint(), origin, l.verifier, d.ProveConsistency)
	if conflict {
		return nil // the finding says it; without a proof there is nothing to keep
	}
	if err != nil {
		return err
	}
	return c.files.Remembered.Replace(l.others)
}

// ProveRecording makes a proof (C2SP tlog-proof) that the ledger holds the end of
// a session's recording. It stands alone: VerifyProof needs it, the file and
// the node's public key. The ledger's entry is the proof's extra data.
func ProveRecording(ctx context.Context, dir, session string, key ed25519.PublicKey) (*tlog.Proof, error) {
	files := NodeFiles{Ledger: dir, Key: key}
	if err := checkKey(key); err != nil {
		return nil, err
	}
	l, err := readLedger(ctx, &files, nil, nil)
	if err != nil {
		return nil, err
	}
	if !l.sound() {
		return nil, errors.New("the ledger does not verify, so it proves nothing")
	}
	s := l.sessions[session]
	if s == nil || s.root == "" {
		return nil, fmt.Errorf("the ledger does not hold the end of a recording of session %s", session)
	}
	d, err := tlog.OpenDirectory(dir, l.verifier.Name(), l.verifier)
	if err != nil {
		return nil, err
	}
	p, err := d.Prove(s.closedAt)
	if err != nil {
		return nil, err
	}
	p.Extra, err = d.Entry(s.closedAt)
	return p, err
}

// VerifyProof verifies a recording and that a ledger of the node holds its
// end. The text is what tlog.Proof.Format writes.
func VerifyProof(path string, text []byte, key ed25519.PublicKey) (Report, error) {
	r, err := Verify(path, key)
	if err != nil {
		return r, err
	}
	if why := r.proved(text, key); why != "" {
		r.add(about(r.File, CodeProof, why, true))
		return r, nil
	}
	r.Proved = uint64(r.Segments) + 1
	return r, nil
}

// proved says why the proof does not show that the recording is in the ledger; "" if it does.
func (r *Report) proved(text []byte, key ed25519.PublicKey) string {
	p, err := tlog.ParseProof(text)
	if err != nil {
		return err.Error()
	}
	origin, _, _ := strings.Cut(string(p.Checkpoint), "\n")
	verifier, err := tlog.NewVerifier(origin, key)
	if err != nil {
		return "the proof: " + err.Error()
	}
	if _, err := p.Verify(tlog.LeafHash(p.Extra), origin, verifier); err != nil {
		return "the proof: " + err.Error()
	}
	leaf, err := ledger.ParseLeaf(p.Extra)
	if err != nil {
		return "the proof: " + err.Error()
	}
	switch {
	case leaf.Kind != ledger.KindClose || leaf.Session != r.Session || origin != ledger.OriginOf(r.Node):
		return fmt.Sprintf("the proof is for an entry of another kind, session or node (%s of %s)", leaf.Kind, leaf.Session)
	case !r.Complete:
		return "the ledger has the whole recording, this file does not verify to its end"
	case !r.same(leaf.Hash, leaf.Size, leaf.Reason):
		return "the recording is not the one that the ledger holds: one of them was replaced"
	}
	return ""
}

// same reports whether the file is the one that the ledger closes with these.
func (r *Report) same(root string, size int64, reason string) bool {
	return r.Root == root && r.Bytes == size && r.Reason == reason && len(root) == hex.EncodedLen(len(tlog.Hash{}))
}
