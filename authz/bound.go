package authz

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"strings"
	"unicode/utf8"

	"sallyport/internal/database"
)

// MaxLeaf is the largest leaf that a Ledger is given, in bytes. A call whose event cannot be
// brought below it fails before anything is committed.
const MaxLeaf = 256 << 10

// Limits of what strangers and people can put into one event, in bytes. The exact bytes of a
// command that ran are in the session's row and in its recording.
const (
	maxField  = 256     // of each field beside the details
	maxDetail = 4 << 10 // of each text in the details
)

// detailLimits are tried in turn: JSON writes a control character with six bytes.
var detailLimits = [...]int{maxDetail, 512, maxField}

// boundFields cuts the fields beside the details. What was cut is told in the details.
func (e *Event) boundFields() {
	details := e.Details
	for _, field := range []struct {
		name string
		text *string
	}{
		{"user_id", &e.UserID}, {"op_type", &e.OpType}, {"resource_id", &e.ResourceID}, {"resource_type", &e.ResourceType},
		{"remote_addr", &e.RemoteAddr}, {"project", &e.Project}, {"session", &e.Session}, {"connection", &e.Connection},
	} {
		if len(*field.text) <= maxField {
			continue
		}
		if details = maps.Clone(details); details == nil {
			details = map[string]any{}
		}
		note(details, field.name, *field.text)
		*field.text = beginning(*field.text, maxField)
	}
	e.Details = details
}

// leaf is the event's canonical form, with long texts of the details cut so that a ledger takes it.
func (e Event) leaf() ([]byte, error) {
	size := 0
	for _, limit := range detailLimits {
		text, err := canonical(e, limit)
		if err != nil {
			return nil, err
		}
		if size = len(text); size <= MaxLeaf {
			return text, nil
		}
	}
	return nil, fmt.Errorf("its details take %d bytes, and an entry of the ledger has at most %d", size, MaxLeaf)
}

// bound cuts the long texts in a value that was read from JSON. Beside a cut text of an object
// stand its length and SHA-256.
func bound(value any, limit int) any {
	switch v := value.(type) {
	case string:
		if len(v) > limit {
			hash := sha256.Sum256([]byte(v))
			return fmt.Sprintf("%s… (%d bytes, SHA-256 %x)", beginning(v, limit), len(v), hash)
		}
	case []any:
		for i := range v {
			v[i] = bound(v[i], limit)
		}
	case map[string]any:
		for name, inner := range maps.Clone(v) {
			if text, ok := inner.(string); ok && len(text) > limit {
				note(v, name, text)
				v[name] = beginning(text, limit)
				continue
			}
			v[name] = bound(inner, limit)
		}
	}
	return value
}

// note tells the length and hash of a text that is about to be cut, unless that is told already.
func note(details map[string]any, name, text string) {
	if _, told := details[name+"_bytes"]; told {
		return
	}
	hash := sha256.Sum256([]byte(text))
	details[name+"_bytes"], details[name+"_sha256"] = len(text), hex.EncodeToString(hash[:])
}

// beginning is at most so many bytes of a text, without a character cut in two.
func beginning(text string, limit int) string {
	if len(text) <= limit {
		return text
	}
	for limit > 0 && !utf8.RuneStart(text[limit]) {
		limit--
	}
	return text[:limit]
}

// commandDetail puts an exec request into an event's details: its exact bytes, or the beginning of
// a long one with length and SHA-256 of the whole. Of a sealed one only that there was one is told.
func commandDetail(details map[string]any, command string, sealed bool) {
	if sealed {
		details["command_sealed"] = true
		return
	}
	if command == "" {
		return
	}
	valid := utf8.ValidString(command)
	limit := maxDetail
	if !valid {
		limit = maxDetail / 4 * 3 // as base64
	}
	kept := command
	if len(command) > limit {
		note(details, "command", command)
		if kept = command[:limit]; valid {
			kept = beginning(command, limit)
		}
	}
	details["command"] = strings.ToValidUTF8(kept, "\uFFFD")
	if !valid {
		details["command_base64"] = []byte(kept) // JSON writes bytes as base64
	}
}

// cutOversized rewrites events that an older program wrote too large for the ledger, which has
// therefore none of them, nor any that follows.
func (a *Authority) cutOversized(tx database.Tx, delivered int64) error {
	var large []leaf
	err := tx.Each(func(row database.Scanner) error {
		var l leaf
		err := row.Scan(&l.sequence, &l.text)
		large = append(large, l)
		return err
	}, "SELECT sequence, leaf FROM events WHERE node = $1 AND sequence > $2 AND length(leaf) > $3",
		a.node, delivered, int64(MaxLeaf))
	if err != nil {
		return err
	}
	for _, l := range large {
		e, err := parseEvent(l.text)
		if err != nil {
			return err
		}
		e.boundFields()
		text, err := e.leaf()
		if err != nil {
			return fmt.Errorf("event %s: %w", e.ID, err)
		}
		if _, err := tx.Exec("UPDATE events SET leaf = $1 WHERE node = $2 AND sequence = $3", text, a.node, l.sequence); err != nil {
			return err
		}
	}
	return nil
}
