package replay

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"time"
	"unicode/utf8"

	"sallyport/internal/words"
	"sallyport/recorder"
	"sallyport/recorder/trec"
)

// castWriter writes asciicast v2 or v3 (docs.asciinema.org/manual/asciicast).
//
// The format holds JSON strings, so only valid UTF-8 comes through unchanged.
// A character that was cut between two frames is carried to the next frame of
// its stream; a byte that is no part of any character becomes U+FFFD and is
// counted. Use JSON lines where every byte matters.
type castWriter struct {
	out      io.Writer
	version  int
	start    time.Time
	last     time.Duration // since start, of the last event written
	tails    map[trec.Kind][]byte
	input    bool
	replaced int64
}

func newCastWriter(w io.Writer, version int, m recorder.Meta, input bool) (*castWriter, error) {
	c := &castWriter{out: w, version: version, start: m.Start, input: input, tails: map[trec.Kind][]byte{}}
	columns, rows := m.Columns, m.Rows
	if columns == 0 || rows == 0 {
		columns, rows = 80, 24 // exec without a terminal: the usual size
	}
	title := fmt.Sprintf("%s %s@%s (%s)", m.Session, m.User, m.Server, m.Project)
	type term struct {
		Cols uint32 `json:"cols"`
		Rows uint32 `json:"rows"`
		Type string `json:"type,omitempty"`
	}
	var header any = struct {
		Version   int    `json:"version"`
		Term      term   `json:"term"`
		Timestamp int64  `json:"timestamp"`
		Title     string `json:"title"`
	}{3, term{columns, rows, m.Term}, m.Start.Unix(), title}
	if version == 2 {
		env := map[string]string{}
		if m.Term != "" {
			env["TERM"] = m.Term
		}
		header = struct {
			Version   int               `json:"version"`
			Width     uint32            `json:"width"`
			Height    uint32            `json:"height"`
			Timestamp int64             `json:"timestamp"`
			Title     string            `json:"title"`
			Env       map[string]string `json:"env,omitempty"`
		}{2, columns, rows, m.Start.Unix(), title, env}
	}
	line, err := marshal(header)
	if err != nil {
		return nil, err
	}
	_, err = w.Write(line)
	return c, err
}

// marshal is JSON on one line with its line feed, without the escapes for HTML
// and with those for what could take over a terminal.
func marshal(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	err := e.Encode(v)
	return []byte(words.EscapeJSON(b.String())), err
}

func (c *castWriter) frame(e trec.Entry) error {
	switch e.Kind {
	case trec.KindOutput, trec.KindStderr, trec.KindGate:
		return c.bytes(e, "o")
	case trec.KindInput:
		if c.input {
			return c.bytes(e, "i")
		}
	case trec.KindResize:
		w, err := recorder.DecodeResize(e.Data)
		if err != nil {
			return nil // a marker of the recording, not worth an export
		}
		return c.event(e.Time, "r", fmt.Sprintf("%dx%d", w.Columns, w.Rows))
	case trec.KindExit:
		return c.exit(e)
	case trec.KindMarker:
		return c.event(e.Time, "m", c.valid(e.Data))
	case trec.KindCommand:
		return c.event(e.Time, "m", "command: "+c.valid(e.Data))
	case trec.KindGap:
		return c.event(e.Time, "m", "gap: "+c.valid(e.Data))
	case trec.KindSignal:
		return c.event(e.Time, "m", "signal: "+c.valid(e.Data))
	}
	return nil
}

// signalNumbers are those of Linux, for the exit status 128+n by which shells
// report a signal; asciicast has no other way to say it.
func signalNumber(name string) int {
	for i, n := range []string{"", "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE", "ALRM", "TERM"} {
		if n == name {
			return i
		}
	}
	return 0
}

func (c *castWriter) exit(e trec.Entry) error {
	status, signal, err := recorder.DecodeExit(e.Data)
	if err != nil {
		return nil
	}
	if signal != "" {
		status = uint32(128 + signalNumber(signal))
		if err := c.event(e.Time, "m", "ended by signal "+c.valid([]byte(signal))); err != nil {
			return err
		}
	}
	if c.version == 2 { // knows no exit status
		return c.event(e.Time, "m", "exit "+strconv.FormatUint(uint64(status), 10))
	}
	return c.event(e.Time, "x", strconv.FormatUint(uint64(status), 10))
}

// bytes writes the whole characters of a stream and keeps the rest.
func (c *castWriter) bytes(e trec.Entry, code string) error {
	data := append(c.tails[e.Kind], e.Data...)
	whole := wholeRunes(data)
	c.tails[e.Kind] = append([]byte(nil), data[whole:]...)
	if whole == 0 {
		return nil
	}
	return c.event(e.Time, code, c.valid(data[:whole]))
}

// wholeRunes is how many bytes of data do not belong to a character that is
// still incomplete at its end.
func wholeRunes(data []byte) int {
	for back := 1; back < utf8.UTFMax && back <= len(data); back++ {
		if i := len(data) - back; utf8.RuneStart(data[i]) {
			if !utf8.FullRune(data[i:]) {
				return i
			}
			break
		}
	}
	return len(data)
}

// valid replaces invalid bytes and counts them.
func (c *castWriter) valid(data []byte) string {
	if utf8.Valid(data) {
		return string(data)
	}
	out := make([]byte, 0, len(data)+8)
	for len(data) > 0 {
		r, size := utf8.DecodeRune(data)
		if r == utf8.RuneError && size == 1 {
			c.replaced++
		}
		out = utf8.AppendRune(out, r)
		data = data[size:]
	}
	return string(out)
}

func (c *castWriter) event(at time.Time, code, data string) error {
	// A clock that was set back must not give a negative interval.
	since := max(at.Sub(c.start).Truncate(time.Microsecond), c.last)
	stamp := since
	if c.version == 3 {
		stamp = since - c.last
	}
	c.last = since
	text, err := marshal(data)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(c.out, "[%.6f, %q, %s]\n", stamp.Seconds(), code, bytes.TrimSuffix(text, []byte("\n")))
	return err
}

// finish writes what never became a character, and in v3 how many bytes were replaced.
func (c *castWriter) finish(at time.Time) error {
	for _, kind := range []trec.Kind{trec.KindOutput, trec.KindStderr, trec.KindGate, trec.KindInput} {
		code := "o"
		if kind == trec.KindInput {
			code = "i"
		}
		if tail := c.tails[kind]; len(tail) > 0 {
			if err := c.event(at, code, c.valid(tail)); err != nil {
				return err
			}
		}
	}
	if c.version == 3 && c.replaced > 0 {
		_, err := fmt.Fprintf(c.out, "# %d bytes that are not UTF-8 stand as U+FFFD; the recording has them\n", c.replaced)
		return err
	}
	return nil
}
