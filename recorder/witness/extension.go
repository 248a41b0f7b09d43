package witness

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/tlog"
)

const (
	// MaxRequest is the largest request or answer, in bytes.
	MaxRequest = 64 << 10

	maxProofLines = 63 // C2SP tlog-witness, "add-checkpoint"
	hashLine      = 44 // base64 of 32 bytes
)

// Extension is a signed checkpoint with the proof that it continues a smaller
// one. Its text is the body of add-checkpoint (C2SP tlog-witness); auditors get it too.
type Extension struct {
	Old        int64 // size of the smaller one
	Proof      tlog.TreeProof
	Checkpoint []byte // signed
}

// Format writes the extension.
func (r *Extension) Format() []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "old %d\n", r.Old)
	for _, h := range r.Proof {
		b.WriteString(h.String() + "\n")
	}
	b.WriteString("\n")
	b.Write(r.Checkpoint)
	return b.Bytes()
}

// ParseExtension reads what Format wrote; nothing of it is verified.
func ParseExtension(body []byte) (*Extension, error) {
	head, checkpoint, ok := bytes.Cut(body, []byte("\n\n"))
	if !ok {
		return nil, errors.New("no empty line before the checkpoint")
	}
	lines := strings.Split(string(head), "\n")
	text, ok := strings.CutPrefix(lines[0], "old ")
	if !ok {
		return nil, errors.New("the first line is not the old size")
	}
	old, err := strconv.ParseInt(text, 10, 64)
	if err != nil || old < 0 || strconv.FormatInt(old, 10) != text {
		return nil, errors.New("the old size is not a decimal number")
	}
	if len(lines)-1 > maxProofLines {
		return nil, fmt.Errorf("more than %d lines of proof", maxProofLines)
	}
	r := &Extension{Old: old, Checkpoint: checkpoint}
	for _, line := range lines[1:] {
		raw, err := base64.StdEncoding.Strict().DecodeString(line)
		if err != nil || len(line) != hashLine || len(raw) != tlog.HashSize {
			return nil, errors.New("a line of proof is not a hash in base64")
		}
		r.Proof = append(r.Proof, tlog.Hash(raw))
	}
	return r, nil
}
