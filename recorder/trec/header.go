package trec

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"
)

// Magic opens every file: six letters, a zero and the version of the format.
const Magic = "TREREC\x00\x01"

// Version is the version of the format that this package writes and reads.
const Version = 1

// Suite names the envelope, the key schedule and the cipher.
const Suite = "age+hkdf-sha256+hmac-ratchet+aes-256-gcm"

// Header is the public description of a recording. Whose session it is, is
// not here but in the sealed description. The fields stand in the order of
// their JSON names, which makes the JSON canonical (RFC 8785).
type Header struct {
	Commit       string    `json:"commit"`                  // commitment to the session key, hex
	CommitStrict string    `json:"commit_strict,omitempty"` // to the key for typed input, hex
	Epoch        string    `json:"epoch"`
	Node         string    `json:"node"`
	Session      string    `json:"session"`
	Signer       string    `json:"signer"` // SignerID of the node's public key; a hint, not a proof
	Start        time.Time `json:"start"`
	Suite        string    `json:"suite"`
	Version      int       `json:"v"`
}

// SignerID is how a Header names the key that signs the file: hex SHA-256.
func SignerID(key ed25519.PublicKey) string {
	sum := sha256.Sum256(key)
	return hex.EncodeToString(sum[:])
}

// canonical is the JSON of a flat struct whose fields stand in the order of
// their names: no space, no escaping that is not needed.
func canonical(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

// parseCanonical refuses every text but the one that canonical makes, so that
// a value has one form: no unknown, repeated or reordered field.
func parseCanonical(data []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return err
	}
	again, err := canonical(v)
	if err != nil {
		return err
	}
	if !bytes.Equal(again, data) {
		return errors.New("it is not in canonical form")
	}
	return nil
}

func (h *Header) check() error {
	switch {
	case h.Version != Version:
		return fmt.Errorf("version %d in a file of version %d", h.Version, Version)
	case h.Suite != Suite:
		return fmt.Errorf("the suite %q is not known", h.Suite)
	case h.Session == "" || h.Node == "":
		return errors.New("session or node is missing")
	case !plain(h.Session) || !plain(h.Node) || !plain(h.Epoch):
		return fmt.Errorf("session, node or epoch is no plain id: letters, digits and -_/. are, at most %d", maxID)
	case !hexHash(h.Signer) || !hexHash(h.Commit) || (h.CommitStrict != "" && !hexHash(h.CommitStrict)):
		return errors.New("signer or commitment is not a SHA-256 in hexadecimal")
	}
	return nil
}

// maxID is how long the id of a session, node or epoch may be, in bytes.
const maxID = 128

// plain reports whether an id can stand in a list, in JSON or on a terminal as it is.
func plain(id string) bool {
	for _, b := range []byte(id) {
		switch {
		case 'a' <= b && b <= 'z', 'A' <= b && b <= 'Z', '0' <= b && b <= '9', b == '-', b == '_', b == '/', b == '.':
		default:
			return false
		}
	}
	return len(id) <= maxID
}

func hexHash(s string) bool {
	b, err := hex.DecodeString(s)
	return err == nil && len(b) == sha256.Size && hex.EncodeToString(b) == s
}

// prelude is everything before the first segment.
type prelude struct {
	header         Header
	envelope       []byte
	envelopeStrict []byte // empty without a strict class
}

func (p *prelude) encode() ([]byte, error) {
	text, err := canonical(&p.header)
	if err != nil {
		return nil, err
	}
	if len(text) > maxHeader || len(p.envelope) > maxEnvelope || len(p.envelopeStrict) > maxEnvelope {
		return nil, errors.New("the header or an envelope is too long: name fewer recipients")
	}
	out := []byte(Magic)
	for _, part := range [][]byte{text, p.envelope, p.envelopeStrict} {
		out = binary.BigEndian.AppendUint32(out, uint32(len(part)))
		out = append(out, part...)
	}
	return out, nil
}

// readPrelude reads and checks everything before the first segment. raw is
// what was read, the first leaf of the tree.
func readPrelude(r io.Reader) (p prelude, raw []byte, err error) {
	fail := func(cut bool, reason string) error {
		return &FormatError{Offset: int64(len(raw)), Segment: -1, Reason: reason, Cut: cut}
	}
	raw = make([]byte, len(Magic), 4<<10)
	n, err := io.ReadFull(r, raw)
	if err != nil && !isEnd(err) {
		return p, nil, err
	}
	if same := string(raw[:n]) == Magic[:n]; !same || n < len(Magic) {
		e := &FormatError{Segment: -1, Reason: "this is not a recording", Cut: same}
		switch {
		case same:
			e.Reason = "the file ends inside its first bytes"
		case n == len(Magic) && string(raw[:n-1]) == Magic[:n-1]:
			e.Version = int(raw[n-1])
			e.Reason = fmt.Sprintf("the file is of version %d of the format, this program reads version %d", e.Version, Version)
		}
		return p, nil, e
	}
	var parts [3][]byte
	for i, limit := range []uint32{maxHeader, maxEnvelope, maxEnvelope} {
		var size [4]byte
		if _, err := io.ReadFull(r, size[:]); isEnd(err) {
			return p, nil, fail(true, "the file ends inside its header")
		} else if err != nil {
			return p, nil, err
		}
		length := binary.BigEndian.Uint32(size[:])
		if length > limit {
			return p, nil, fail(false, fmt.Sprintf("a header part of %d bytes is larger than any that is written", length))
		}
		raw = append(raw, size[:]...)
		start := len(raw)
		raw = append(raw, make([]byte, length)...)
		if _, err := io.ReadFull(r, raw[start:]); isEnd(err) {
			raw = raw[:start]
			return p, nil, fail(true, "the file ends inside its header")
		} else if err != nil {
			return p, nil, err
		}
		parts[i] = bytes.Clone(raw[start:])
	}
	p.envelope, p.envelopeStrict = parts[1], parts[2]
	err = parseCanonical(parts[0], &p.header)
	if err == nil {
		err = p.header.check()
	}
	if err == nil && (len(p.envelope) == 0 || (len(p.envelopeStrict) == 0) != (p.header.CommitStrict == "")) {
		err = errors.New("the envelopes are not those that it commits to")
	}
	if err != nil {
		return p, nil, &FormatError{Offset: int64(len(Magic)), Segment: -1, Reason: "the header is not valid: " + err.Error()}
	}
	return p, raw, nil
}

func isEnd(err error) bool { return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) }

// ReadHeader reads the public part of a recording: its header and the age
// envelopes, which the age command opens, too. strict is empty without a
// terminal. It needs no key and looks at nothing behind.
func ReadHeader(r io.Reader) (h Header, envelope, strict []byte, err error) {
	p, _, err := readPrelude(r)
	return p.header, p.envelope, p.envelopeStrict, err
}
