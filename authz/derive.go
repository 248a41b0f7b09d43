package authz

import (
	"encoding/base64"
	"fmt"
	"hash/crc32"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"sallyport/internal/database"
)

// Command is one command that was run in a session. It is made from an event: exec and subsystem from the
// session's begin.
type Command struct {
	Session  string    `json:"session"`
	Position int64     `json:"position"` // within the session, 0 for what it was opened with
	Time     time.Time `json:"time"`
	Kind     string    `json:"kind"` // exec, subsystem or typed
	// Text is the exact bytes (which may be no UTF-8), or the first 4 KiB of a longer command; empty when Sealed.
	Text   string `json:"command"`
	Bytes  int64  `json:"bytes"`            // length of the whole
	SHA256 string `json:"sha256,omitempty"` // hex, of the whole, when Text is only a part
	// Sealed says that the project keeps its commands out of what the node can read: the text is in the recording.
	Sealed  bool   `json:"sealed,omitempty"`
	User    string `json:"user"`
	Project string `json:"project"`
	Server  string `json:"server"`

	Node     string `json:"node"`
	Sequence int64  `json:"sequence"` // of the event that tells of it
}

// Kinds of commands.
const (
	CommandExec      = "exec"
	CommandSubsystem = "subsystem"
	CommandTyped     = "typed"
)

// Transfer is one record of bytes that were moved. The first six fields are those that DCS names. An exec session is
// one transfer that is named by its command, an SFTP session one that counts both directions.
type Transfer struct {
	Name      string    `json:"file_name"`      // of the file, or the command whose output it is
	Operation string    `json:"operation_type"` // exec or sftp
	Status    string    `json:"status"`         // "exit 0", or how else it ended
	Path      string    `json:"file_path"`
	Time      time.Time `json:"operation_time"` // when it ended
	User      string    `json:"operator"`

	Session   string `json:"session"`
	Direction string `json:"direction"` // in, out or both
	BytesIn   int64  `json:"bytes_in"`
	BytesOut  int64  `json:"bytes_out"`
	SHA256    string `json:"sha256,omitempty"`  // hex, where the content is known
	Request   string `json:"request,omitempty"` // under whose approval
	Sealed    bool   `json:"sealed,omitempty"`  // as for a Command: the name is in the recording
	Project   string `json:"project"`
	Server    string `json:"server"`

	Node     string `json:"node"`
	Sequence int64  `json:"sequence"`
}

// Kinds of what a search finds.
const (
	HitEvent    = "event"
	HitCommand  = "command"
	HitTransfer = "transfer"
)

// Kinds lists what a search can be limited to.
func Kinds() []string { return []string{HitEvent, HitCommand, HitTransfer} }

// entry is one thing that a search finds.
type entry struct {
	kind   string
	server string
	words  string // what it is found by
}

// derived is everything that follows from one event.
type derived struct {
	command  *Command
	transfer *Transfer
	entries  []entry
}

// derive makes from an event, as its leaf tells it, what the tables of commands, transfers and search entries hold.
func derive(e Event) derived {
	var d derived
	server := detailText(e, "server")
	if e.ResourceType == "server" && server == "" {
		_, server, _ = strings.Cut(e.ResourceID, "/")
	}
	d.entries = []entry{{kind: HitEvent, server: server, words: eventWords(e)}}
	switch {
	case e.Result != ResultOK:
	case e.OpType == "session.open":
		if d.command = commandOf(e); d.command != nil {
			d.entries = append(d.entries, entry{HitCommand, server, d.command.Text})
		}
	case e.OpType == "session.close":
		if d.transfer = transferOf(e); d.transfer != nil {
			d.entries = append(d.entries, entry{HitTransfer, server, d.transfer.Name + " " + d.transfer.Path})
		}
	}
	return d
}

// commandText is the command that an event's details hold, as commandDetail put it there.
func commandText(e Event) string {
	if exact, err := base64.StdEncoding.DecodeString(detailText(e, "command_base64")); err == nil && len(exact) > 0 {
		return string(exact)
	}
	return detailText(e, "command")
}

func commandOf(e Event) *Command {
	c := &Command{Session: e.Session, Time: e.Time, User: e.UserID, Project: e.Project, Server: detailText(e, "server"),
		Node: e.Node, Sequence: e.Sequence}
	switch Action(detailText(e, "action")) {
	case ActionExec:
		c.Kind, c.Text, c.Sealed = CommandExec, commandText(e), e.Details["command_sealed"] == true
		c.Bytes, c.SHA256 = detailNumber(e, "command_bytes"), detailText(e, "command_sha256")
		if c.Bytes == 0 {
			c.Bytes = int64(len(c.Text))
		}
	case ActionSFTP:
		c.Kind, c.Text = CommandSubsystem, string(ActionSFTP)
		c.Bytes = int64(len(c.Text))
	default:
		return nil
	}
	return c
}

func transferOf(e Event) *Transfer {
	action := Action(detailText(e, "action"))
	t := &Transfer{Operation: string(action), Time: e.Time, User: e.UserID, Session: e.Session, BytesIn: detailNumber(e, "bytes_in"),
		BytesOut: detailNumber(e, "bytes_out"), Request: detailText(e, "request"), Project: e.Project, Server: detailText(e, "server"),
		Node: e.Node, Sequence: e.Sequence, Status: detailText(e, "result")}
	if code := detailNumber(e, "exit_code"); t.Status == "exited" && code != Unknown {
		t.Status = "exit " + strconv.FormatInt(code, 10)
	}
	switch action {
	case ActionExec:
		t.Name, t.Direction, t.Sealed = commandText(e), "out", e.Details["command_sealed"] == true
	case ActionSFTP:
		t.Name, t.Direction = string(ActionSFTP), "both"
	default:
		return nil
	}
	return t
}

// unsearched are operations whose command is found as a command or transfer; as an event it would be found once more.
var unsearched = [...]string{"session.open", "session.close", "decision.allow"}

// eventWords is what an event is found by: its fields, and the texts of its details.
func eventWords(e Event) string {
	texts := []string{e.OpType, e.ResourceID, e.UserID, e.RemoteAddr, e.Project, e.Session, e.Connection, e.ID, e.Result}
	details := maps.Clone(e.Details)
	if slices.Contains(unsearched[:], e.OpType) {
		delete(details, "command")
	}
	if e.OpType == searchOp {
		delete(details, "query") // or else each search would find those before it
	}
	delete(details, "command_base64")
	return strings.Join(appendTexts(texts, details), " ")
}

// appendTexts collects the texts of a value that was read from JSON, in a fixed order, without times.
func appendTexts(texts []string, value any) []string {
	switch v := value.(type) {
	case string:
		if _, err := time.Parse(time.RFC3339Nano, v); err != nil {
			texts = append(texts, v)
		}
	case []any:
		for _, inner := range v {
			texts = appendTexts(texts, inner)
		}
	case map[string]any:
		for _, name := range slices.Sorted(maps.Keys(v)) {
			texts = appendTexts(texts, v[name])
		}
	}
	return texts
}

// DeriveTables puts what follows from one event of the ledger into the tables of commands, transfers and search
// entries. It is the one way into them, in the event's own transaction while the node runs and when the tables are made
// again from the ledger; what is there already stays. leaf is the event's exact text.
func DeriveTables(tx database.Tx, leaf []byte) error {
	e, err := parseEvent(leaf)
	if err != nil {
		return err
	}
	d := derive(e)
	if err := insertCommand(tx, d.command); err != nil {
		return fmt.Errorf("command of event %s: %w", e.ID, err)
	}
	if err := insertTransfer(tx, d.transfer); err != nil {
		return fmt.Errorf("transfer of event %s: %w", e.ID, err)
	}
	for i, entry := range d.entries {
		if err := insertEntry(tx, e, i, entry); err != nil {
			return fmt.Errorf("search entry of event %s: %w", e.ID, err)
		}
	}
	return nil
}

// ClearDerived empties the tables that DeriveTables fills.
func ClearDerived(tx database.Tx) error {
	for _, table := range []string{"commands", "transfers", "search_entries"} {
		if _, err := tx.Exec("DELETE FROM " + table); err != nil {
			return err
		}
	}
	return tx.RemoveAllText()
}

func insertCommand(tx database.Tx, c *Command) error {
	if c == nil {
		return nil
	}
	_, err := tx.Exec(`INSERT INTO commands (node, sequence, session, position, happened_at, kind, command, command_bytes,
			sha256, sealed, user_name, project, server)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13) ON CONFLICT (node, sequence) DO NOTHING`,
		c.Node, c.Sequence, column(c.Session), c.Position, milliseconds(c.Time), c.Kind, []byte(c.Text), c.Bytes,
		column(c.SHA256), c.Sealed, column(c.User), column(c.Project), column(c.Server))
	return err
}

func insertTransfer(tx database.Tx, t *Transfer) error {
	if t == nil {
		return nil
	}
	_, err := tx.Exec(`INSERT INTO transfers (node, sequence, session, name, operation, status, path, happened_at, user_name,
			direction, bytes_in, bytes_out, sha256, request, sealed, project, server)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17)
		ON CONFLICT (node, sequence) DO NOTHING`,
		t.Node, t.Sequence, column(t.Session), []byte(t.Name), t.Operation, column(t.Status), column(t.Path),
		milliseconds(t.Time), column(t.User), t.Direction, t.BytesIn, t.BytesOut, column(t.SHA256), column(t.Request),
		t.Sealed, column(t.Project), column(t.Server))
	return err
}

// An entry's id is its time in milliseconds, then entryBits that tell entries of one millisecond apart: a hash of the
// node, the end of the sequence, and which entry of its event it is. So ids grow with time, and are the same when the tables
// are made again.
const (
	entryBits    = 21
	nodeBits     = 8
	sequenceBits = 11
	partBits     = entryBits - nodeBits - sequenceBits
)

// lastMoment is the last time that fits into an id, in the year 2109; what is later counts as then.
const lastMoment = 1<<(63-entryBits) - 1

// firstPlace is below every id of an entry, whatever the clock of the node said.
const firstPlace = 1 << (entryBits + 20) // the first quarter of an hour of 1970

// firstEntry is the lowest id that an entry of a time can have.
func firstEntry(t time.Time) int64 { return min(max(milliseconds(t), 0), lastMoment) << entryBits }

func entryID(e Event, part int) int64 {
	node := int64(crc32.ChecksumIEEE([]byte(e.Node)) & (1<<nodeBits - 1))
	return firstEntry(e.Time) | node<<(sequenceBits+partBits) | e.Sequence&(1<<sequenceBits-1)<<partBits | int64(part)
}

func insertEntry(tx database.Tx, e Event, part int, entry entry) error {
	id := entryID(e, part)
	for {
		n, err := tx.Exec(`INSERT INTO search_entries (id, kind, node, sequence, happened_at, user_id, op_type, project, server, session)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) ON CONFLICT DO NOTHING`,
			id, entry.kind, e.Node, e.Sequence, milliseconds(e.Time), column(e.UserID), column(e.OpType), column(e.Project),
			column(entry.server), column(e.Session))
		if err != nil {
			return err
		}
		if n == 1 {
			break
		}
		var there int64
		err = tx.QueryRow("SELECT count(*) FROM search_entries WHERE node = $1 AND sequence = $2 AND kind = $3",
			e.Node, e.Sequence, entry.kind).Scan(&there)
		if err != nil || there > 0 {
			return err
		}
		id++ // another node's, in the same millisecond, with the same bits
	}
	// Of a kind there are too many to be gone through for the few of one person or project, so these pairs have labels too.
	labels := []string{database.Label("kind", entry.kind), kindLabel(entry.kind, "user", column(e.UserID)),
		kindLabel(entry.kind, "project", column(e.Project)), database.Label("user", column(e.UserID)), database.Label("project", column(e.Project)),
		database.Label("server", column(entry.server))}
	return tx.AddText(id, labels, database.Words(entry.words))
}

// kindLabel stands for the entries of a kind with a value of a field.
func kindLabel(kind, field, value string) string { return database.Label(kind+field, value) }
