package console

import (
	"bufio"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"sallyport/authz"
	"sallyport/internal/words"
)

func (k *call) eventNoun() *cobra.Command {
	return noun("event", "What happened: the entries of the ledger", k.eventLs(), k.eventShow(), k.eventExport())
}

type eventFilter struct {
	user, op, project, session, connection, since, until string
	limit                                                int
}

func (f *eventFilter) register(c *cobra.Command, limit int) {
	c.Flags().StringVar(&f.user, "user", "", "of this person")
	c.Flags().StringVar(&f.op, "op", "", "of this operation type, such as login.success")
	c.Flags().StringVar(&f.project, "project", "", "of this project")
	c.Flags().StringVar(&f.session, "session", "", "of this session, S-…")
	c.Flags().StringVar(&f.connection, "connection", "", "of this connection, C-…")
	c.Flags().StringVar(&f.since, "since", "", "at or after: a date, a time, or back from now: 12h, 90d")
	c.Flags().StringVar(&f.until, "until", "", "before, in the same forms")
	c.Flags().IntVar(&f.limit, "limit", limit, "at most so many, the newest; 0 for all")
}

// eventQuery is what the options ask for.
func (k *call) eventQuery(f eventFilter) (authz.EventQuery, error) {
	if f.limit < 0 {
		return authz.EventQuery{}, Usagef("--limit cannot be negative")
	}
	q := authz.EventQuery{User: f.user, OpType: f.op, Project: f.project, Session: f.session, Connection: f.connection, Limit: f.limit}
	var err error
	if q.Since, err = k.past("since", f.since); err != nil {
		return q, err
	}
	q.Until, err = k.past("until", f.until)
	return q, err
}

// longestTable is how many events a table holds, which is laid out as a whole.
const longestTable = 10_000

func (k *call) eventLs() *cobra.Command {
	var f eventFilter
	c := verb("ls", "List events that I may see, newest last", func(c *cobra.Command, args []string) error {
		q, err := k.eventQuery(f)
		if err != nil {
			return err
		}
		if k.json {
			return k.streamEvents(c, q, k.jsonEvents)
		}
		if q.Limit == 0 || q.Limit > longestTable {
			q.Limit = longestTable
		}
		t := eventTable(k.width())
		err = k.Authority.EachEvent(c.Context(), k.by(), q, func(e authz.Event) error {
			t.addEvent(e)
			return nil
		})
		if err != nil {
			return err
		}
		t.write(k)
		if len(t.rows) == longestTable {
			fmt.Fprintf(k.verb.Stderr, "only the newest %d; `event export` gives all\n", longestTable)
		}
		k.tellLimit(c, len(t.rows), "--limit 0 gives all")
		return nil
	})
	f.register(c, usualLimit)
	return c
}

// eventsTable is a table of events.
type eventsTable struct {
	table
	resources bool // whether there is a column for them
}

// eventTable lays out a table of events. Where a terminal is narrow it leaves the resource out, so that
// time, operation and result stay whole; `event show` has everything.
func eventTable(width int) *eventsTable {
	t := &eventsTable{resources: width >= 72, table: table{empty: "There are no events."}}
	t.heads = []string{"!SEQ", "TIME", "~USER", "OPERATION", "~RESULT"}
	if t.resources {
		t.heads = slices.Insert(t.heads, 4, "~~RESOURCE")
	}
	return t
}

func (t *eventsTable) addEvent(e authz.Event) {
	result := e.Result
	if rule, _ := e.Details["rule"].(string); rule != "" && e.Result != authz.ResultOK {
		result += " " + rule
	}
	// That the end could be recorded is not how the session ended.
	if end, _ := e.Details["result"].(string); e.OpType == "session.close" && e.Result == authz.ResultOK && end != "" && end != "exited" {
		result = end
	}
	cells := []string{strconv.FormatInt(e.Sequence, 10), second(e.Time), e.UserID, e.OpType, result}
	if t.resources {
		cells = slices.Insert(cells, 4, e.ResourceType+" "+e.ResourceID)
	}
	t.add(cells...)
}

func (k *call) eventShow() *cobra.Command {
	return verb("show REFERENCE", "Show one event, by its E-… or its number in the list", func(c *cobra.Command, args []string) error {
		q := authz.EventQuery{Reference: args[0], Limit: 1}
		if sequence, err := strconv.ParseInt(args[0], 10, 64); err == nil && sequence > 0 {
			q.Reference, q.Sequence = "", sequence
		}
		events, err := k.Authority.Events(c.Context(), k.by(), q)
		if err != nil {
			return err
		}
		if len(events) == 0 {
			return notFound("there is no event %q that you may see", args[0])
		}
		e := events[0]
		if k.json {
			return k.printJSON(e)
		}
		var f facts
		f.add("event", e.ID)
		f.add("time", e.Time.UTC().Format(time.RFC3339Nano))
		f.add("user", e.UserID)
		f.add("operation", e.OpType)
		f.add("resource", e.ResourceType+" "+e.ResourceID)
		f.add("from", e.RemoteAddr)
		f.add("result", e.Result)
		f.addIf("project", e.Project)
		f.addIf("session", e.Session)
		f.addIf("connection", e.Connection)
		f.add("node", e.Node+", sequence "+strconv.FormatInt(e.Sequence, 10))
		f.add("details", detailsText(e.Details))
		f.write(k)
		return nil
	})
}

func detailsText(details map[string]any) string {
	if details == nil {
		return "{}"
	}
	var b strings.Builder
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(details); err != nil {
		return "{}"
	}
	return words.EscapeJSON(strings.TrimSuffix(b.String(), "\n"))
}

// eventColumns begin with the seven fields in the order of the DCS page.
var eventColumns = [...]string{
	"user_id", "op_type", "time", "details", "resource_id", "resource_type", "remote_addr",
	"result", "project", "session", "connection", "id", "node", "sequence", "boot_id", "monotonic_ns",
}

func eventRow(e authz.Event) []string {
	return []string{
		e.UserID, e.OpType, e.Time.UTC().Format(time.RFC3339Nano), detailsText(e.Details), e.ResourceID, e.ResourceType, e.RemoteAddr,
		e.Result, e.Project, e.Session, e.Connection, e.ID, e.Node, strconv.FormatInt(e.Sequence, 10), e.BootID, strconv.FormatInt(int64(e.Monotonic), 10),
	}
}

func (k *call) eventExport() *cobra.Command {
	var f eventFilter
	var format string
	c := verb("export", "Write events as CSV or JSON to standard output", func(c *cobra.Command, args []string) error {
		if k.json && !c.Flags().Changed("format") {
			format = "json"
		}
		if format != "csv" && format != "json" {
			return Usagef("--format %q is no format; it is csv or json", format)
		}
		q, err := k.eventQuery(f)
		if err != nil {
			return err
		}
		// An export is itself something that happened, and is told before it leaves.
		_, err = k.Authority.Record(c.Context(), authz.Event{
			UserID: k.by().User, OpType: "event.export", Time: k.now(), ResourceType: "event", ResourceID: "ledger",
			RemoteAddr: k.by().RemoteAddr, Connection: k.by().Connection, Project: f.project, Result: authz.ResultOK,
			Details: map[string]any{"format": format, "user": f.user, "op_type": f.op, "session": f.session, "connection": f.connection,
				"since": f.since, "until": f.until, "limit": f.limit},
		})
		if err != nil {
			return fmt.Errorf("record the export: %w", err)
		}
		if format == "json" {
			return k.streamEvents(c, q, k.jsonEvents)
		}
		return k.streamEvents(c, q, k.csvEvents)
	})
	f.register(c, 0)
	c.Flags().StringVar(&format, "format", "csv", "csv or json")
	return c
}

// eventSink writes events one by one; end writes what comes after the last.
type eventSink struct {
	add func(authz.Event) error
	end func() error
}

// streamEvents writes events as they are read, so that their number costs no memory.
func (k *call) streamEvents(c *cobra.Command, q authz.EventQuery, form func(io.Writer) eventSink) error {
	out := bufio.NewWriterSize(k.out, 32<<10)
	sink := form(out)
	if err := k.Authority.EachEvent(c.Context(), k.by(), q, sink.add); err != nil {
		return err
	}
	if err := errors.Join(sink.end(), out.Flush()); err != nil {
		return fmt.Errorf("write events: %w", err)
	}
	return nil
}

// jsonEvents writes a JSON list in the form of printJSON.
func (k *call) jsonEvents(w io.Writer) eventSink {
	between := "[\n  "
	return eventSink{
		add: func(e authz.Event) error {
			var b strings.Builder
			encoder := json.NewEncoder(&b)
			encoder.SetEscapeHTML(false)
			encoder.SetIndent("  ", "  ")
			if err := encoder.Encode(e); err != nil {
				return fmt.Errorf("write event %s: %w", e.ID, err)
			}
			_, err := io.WriteString(w, between+words.EscapeJSON(strings.TrimSuffix(b.String(), "\n")))
			between = ",\n  "
			return err
		},
		end: func() error {
			last := "\n]\n"
			if between[0] == '[' {
				last = "[]\n"
			}
			_, err := io.WriteString(w, last)
			return err
		},
	}
}

// csvEvents writes CSV with a heading.
func (k *call) csvEvents(out io.Writer) eventSink {
	w := csv.NewWriter(out)
	headed := false
	head := func() error {
		if headed {
			return nil
		}
		headed = true
		return w.Write(eventColumns[:])
	}
	return eventSink{
		add: func(e authz.Event) error {
			row := eventRow(e)
			for i := range row {
				row[i] = spreadsheetSafe(Clean(row[i]))
			}
			if err := errors.Join(head(), w.Write(row)); err != nil {
				return fmt.Errorf("write CSV: %w", err)
			}
			return nil
		},
		end: func() error {
			if err := head(); err != nil {
				return err
			}
			w.Flush()
			return w.Error()
		},
	}
}

// spreadsheetSafe keeps a cell from being taken for a formula: the name that a
// stranger tried to log in with is in there too. "-" alone stands for the node itself.
func spreadsheetSafe(cell string) string {
	first, _ := utf8.DecodeRuneInString(cell)
	if cell != "-" && cell != "" && strings.ContainsRune("=+-@|%\uff1d\uff0b\uff0d\uff20", first) {
		return "'" + cell
	}
	return cell
}
