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

// request is the body of add-checkpoint.
type request struct {
	old        int64
	proof      tlog.TreeProof
	checkpoint []byte // signed
}

func (r *request) format() []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "old %d\n", r.old)
	for _, h := range r.proof {
		b.WriteString(h.String() + "\n")
	}
	b.WriteString("\n")
	b.Write(r.checkpoint)
	return b.Bytes()
}

func parseRequest(body []byte) (*request, error) {
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
	r := &request{old: old, checkpoint: checkpoint}
	for _, line := range lines[1:] {
		raw, err := base64.StdEncoding.Strict().DecodeString(line)
		if err != nil || len(line) != hashLine || len(raw) != tlog.HashSize {
			return nil, errors.New("a line of proof is not a hash in base64")
		}
		r.proof = append(r.proof, tlog.Hash(raw))
	}
	return r, nil
}
