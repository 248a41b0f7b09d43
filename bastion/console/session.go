package console

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"sallyport/authz"
	"sallyport/internal/words"
	"sallyport/recorder"
)

func (k *call) sessionNoun() *cobra.Command {
	return noun("session", "Sessions and their sealed recordings",
		k.sessionLs(), k.sessionShow(), k.sessionCommands(), k.sessionTransfers(), k.sessionKill(), k.sessionFetch(), k.sessionWatch())
}

// sessionFilter are the options that narrow a list of sessions.
type sessionFilter struct {
	user, project, server, since, until string
	live                                bool
	limit                               int
}

func (f *sessionFilter) register(c *cobra.Command) {
	c.Flags().StringVar(&f.user, "user", "", "of this person")
	c.Flags().StringVar(&f.project, "project", "", "of this project")
	c.Flags().StringVar(&f.server, "server", "", "on this data server")
	c.Flags().BoolVar(&f.live, "live", false, "only live ones")
	c.Flags().StringVar(&f.since, "since", "", "started at or after: a date, a time, or back from now: 12h, 90d")
	c.Flags().StringVar(&f.until, "until", "", "started before, in the same forms")
	c.Flags().IntVar(&f.limit, "limit", usualLimit, "at most so many, the newest")
}

func (k *call) query(f sessionFilter) (authz.SessionQuery, error) {
	q := authz.SessionQuery{User: f.user, Project: f.project, Server: f.server, Live: f.live, Limit: f.limit}
	if f.limit < 1 {
		return q, Usagef("--limit must be at least 1")
	}
	var err error
	if q.Since, err = k.past("since", f.since); err != nil {
		return q, err
	}
	q.Until, err = k.past("until", f.until)
	return q, err
}

func (k *call) sessionLs() *cobra.Command {
	var f sessionFilter
	c := verb("ls", "List sessions that I may see", func(c *cobra.Command, args []string) error {
		q, err := k.query(f)
		if err != nil {
			return err
		}
		sessions, err := k.Authority.Sessions(c.Context(), k.by(), q)
		if err != nil {
			return err
		}
		if k.json {
			return k.printJSON(sessionsJSON(sessions))
		}
		t := table{heads: []string{"!NO", "STARTED", "LASTED", "USER", "PLACE", "ACTION", "RESULT"}, empty: "There are no sessions."}
		for _, s := range sessions {
			t.add(strconv.FormatInt(s.Number, 10), minute(s.StartedAt), k.lasted(s), s.User, s.Project+"/"+s.Server, string(s.Action), s.Outcome())
		}
		t.write(k)
		k.tellLimit(c, len(sessions), "--limit N gives more")
		return nil
	})
	f.register(c)
	return c
}

// sessionJSON is a session with the exact bytes of its command, should JSON not be able to hold them.
type sessionJSON struct {
	authz.Session
	CommandBase64 string `json:"command_base64,omitempty"`
}

func toJSON(s authz.Session) sessionJSON {
	j := sessionJSON{Session: s}
	j.CommandBase64 = exactText(s.Command)
	return j
}

func sessionsJSON(sessions []authz.Session) []sessionJSON {
	out := make([]sessionJSON, 0, len(sessions))
	for _, s := range sessions {
		out = append(out, toJSON(s))
	}
	return out
}

func (k *call) lasted(s authz.Session) string {
	end := s.EndedAt
	if s.Result == recorder.ReasonCrashed {
		return "?" // the time that the node was away is not of the session
	}
	if end.IsZero() {
		end = k.now()
	}
	d := max(end.Sub(s.StartedAt), 0)
	if d < 10*time.Second {
		return d.Round(10 * time.Millisecond).String()
	}
	return d.Round(time.Second).String()
}

// findSession returns the one session that a word names: S-…, its unique beginning, or its number.
func (k *call) findSession(c *cobra.Command, word string) (authz.Session, error) {
	found, err := k.Authority.Sessions(c.Context(), k.by(), authz.SessionQuery{ID: word, Limit: 2})
	if err != nil {
		return authz.Session{}, err
	}
	switch len(found) {
	case 0:
		return authz.Session{}, notFound("there is no session %q that you may see", word)
	case 1:
		return found[0], nil
	}
	return authz.Session{}, Usagef("%q is the beginning of more than one session; type more of it", word)
}

func (k *call) sessionShow() *cobra.Command {
	return verb("show SESSION", "Show a session, by S-…, its beginning, or its number", func(c *cobra.Command, args []string) error {
		s, err := k.findSession(c, args[0])
		if err != nil {
			return err
		}
		if k.json {
			return k.printJSON(toJSON(s))
		}
		var f facts
		f.add("session", s.ID+" (number "+strconv.FormatInt(s.Number, 10)+")")
		f.add("user", s.User)
		f.add("place", s.Project+"/"+s.Server+" as "+s.Account)
		f.add("role", string(s.Role))
		f.add("action", string(s.Action))
		if s.Command != "" {
			f.add("command", words.Quote(s.Command))
		}
		f.add("from", s.RemoteAddr)
		f.add("connection", s.Connection)
		f.addIf("request", s.Request)
		f.add("started", second(s.StartedAt))
		if s.Result == recorder.ReasonCrashed { // when it did is sealed in the recording
			f.add("ended", "by a crash of the node, which was found at "+second(s.EndedAt))
		} else {
			f.add("ended", second(s.EndedAt))
		}
		f.add("result", s.Outcome())
		if s.ExitCode == authz.Unknown {
			f.add("exit code", "not known")
		}
		f.addIf("ended by", s.KilledBy)
		why, err := k.endReason(c, s)
		if err != nil {
			return err
		}
		f.addIf("reason", why)
		if s.BytesIn == authz.Unknown {
			f.add("bytes", "not known")
		} else {
			f.add("bytes", byteCount(s.BytesIn)+" in, "+byteCount(s.BytesOut)+" out")
		}
		f.add("sealed to", s.Epoch)
		f.addIf("recording head", s.Head)
		f.write(k)
		return nil
	})
}

// endReason is why a session ended before its time, as far as the caller may know: in the words of who
// ended it, or of the rule that took the right away.
func (k *call) endReason(c *cobra.Command, s authz.Session) (string, error) {
	if s.KilledBy != "" {
		return quoted(s.KillReason), nil
	}
	if s.Result != "right-ended" {
		return "", nil
	}
	events, err := k.Authority.Events(c.Context(), k.by(), authz.EventQuery{Session: s.ID, OpType: "session.cut", Limit: 1})
	if err != nil || len(events) == 0 {
		return "", err
	}
	sentence, _ := events[0].Details["sentence"].(string)
	return sentence, nil
}

// commandJSON is one line of `session commands`.
type commandJSON struct {
	authz.Command
	CommandBase64 string `json:"command_base64,omitempty"`
	Number        int64  `json:"number"` // of the session
	ExitCode      int    `json:"exit_code"`
	Result        string `json:"result"`
}

func (k *call) sessionCommands() *cobra.Command {
	var f sessionFilter
	c := verb("commands [SESSION]", "List what was run: commands of exec, exactly, and subsystems", func(c *cobra.Command, args []string) error {
		sessions, q, err := k.commandSessions(c, f, args)
		if err != nil {
			return err
		}
		commands, err := k.Authority.Commands(c.Context(), k.by(), q)
		if err != nil {
			return err
		}
		out := []commandJSON{}
		for _, command := range commands {
			s := sessions[command.Session]
			if command.SHA256 != "" && s.Command != "" { // its event holds only the beginning
				command.Text = s.Command
			}
			out = append(out, commandJSON{Command: command, CommandBase64: exactText(command.Text), Number: s.Number, ExitCode: s.ExitCode, Result: s.Result})
		}
		if k.json {
			return k.printJSON(out)
		}
		if len(out) == 0 && len(args) > 0 {
			return k.done(nil, "Session %s ran no command by exec or subsystem; what was typed in its shell is in the recording alone.", q.ID)
		}
		if len(args) > 0 { // one session: its commands in full
			for _, o := range out {
				fmt.Fprintln(k.out, Clean(commandText(o.Command)))
			}
			return nil
		}
		t := table{heads: []string{"!NO", "TIME", "USER", "PLACE", "COMMAND"}, empty: "There are no commands."}
		for _, o := range out {
			t.add(strconv.FormatInt(o.Number, 10), minute(o.Time), o.User, o.Project+"/"+o.Server, commandText(o.Command))
		}
		t.write(k)
		return nil
	})
	f.register(c)
	c.Example = "  session commands 12\n  session commands --user bob --since 30d --json"
	return c
}

// commandText is a command as it can be shown and copied.
func commandText(c authz.Command) string {
	switch {
	case c.Sealed:
		return sealedText
	case c.Kind == authz.CommandSubsystem:
		return "subsystem " + c.Text
	}
	return words.Quote(c.Text)
}

// commandSessions are the sessions that are meant, by their ids, and the query that selects them.
func (k *call) commandSessions(c *cobra.Command, f sessionFilter, args []string) (map[string]authz.Session, authz.SessionQuery, error) {
	var found []authz.Session
	q, err := k.query(f)
	switch {
	case err != nil:
	case len(args) > 0:
		var s authz.Session
		s, err = k.findSession(c, args[0])
		found, q = []authz.Session{s}, authz.SessionQuery{ID: s.ID}
	default:
		found, err = k.Authority.Sessions(c.Context(), k.by(), q)
	}
	sessions := make(map[string]authz.Session, len(found))
	for _, s := range found {
		sessions[s.ID] = s
	}
	return sessions, q, err
}

// transferJSON is one line of `session transfers`.
type transferJSON struct {
	authz.Transfer
	NameBase64 string `json:"file_name_base64,omitempty"`
	Number     int64  `json:"number"` // of the session
}

func (k *call) sessionTransfers() *cobra.Command {
	var f sessionFilter
	c := verb("transfers [SESSION]", "List what was moved by exec and SFTP", func(c *cobra.Command, args []string) error {
		sessions, q, err := k.commandSessions(c, f, args)
		if err != nil {
			return err
		}
		transfers, err := k.Authority.Transfers(c.Context(), k.by(), q)
		if err != nil {
			return err
		}
		if k.json {
			out := []transferJSON{}
			for _, t := range transfers {
				out = append(out, transferJSON{Transfer: t, NameBase64: exactText(t.Name), Number: sessions[t.Session].Number})
			}
			return k.printJSON(out)
		}
		t := table{heads: []string{"!NO", "TIME", "~USER", "~PLACE", "!IN", "!OUT", "~STATUS", "NAME"}, empty: "There are no transfers."}
		for _, r := range transfers {
			name := words.Quote(r.Name)
			if r.Sealed {
				name = sealedText
			}
			t.add(strconv.FormatInt(sessions[r.Session].Number, 10), minute(r.Time), r.User, r.Project+"/"+r.Server,
				byteCount(r.BytesIn), byteCount(r.BytesOut), r.Status, name)
		}
		t.write(k)
		return nil
	})
	f.register(c)
	c.Example = "  session transfers 12\n  session transfers --project genomics --since 30d --json"
	return c
}

func (k *call) sessionKill() *cobra.Command {
	var reason string
	return reasonFlag(verb("kill SESSION", "End a live session at once", func(c *cobra.Command, args []string) error {
		s, err := k.findSession(c, args[0])
		if err != nil {
			return err
		}
		if err := k.Authority.KillSession(c.Context(), k.by(), s.ID, reason); err != nil {
			return err
		}
		return k.done(toJSON(s), "session %s of %s is told to end", s.ID, s.User)
	}), &reason)
}

func (k *call) sessionFetch() *cobra.Command {
	var reason, purpose string
	c := reasonFlag(verb("fetch SESSION", "Write the sealed recording to standard output", func(c *cobra.Command, args []string) error {
		if k.json {
			return Usagef("a recording is no JSON; leave --json out")
		}
		if k.verb.Term {
			return Usagef("a recording is not for a terminal; send standard output to a file")
		}
		s, err := k.findSession(c, args[0])
		if err != nil {
			return err
		}
		if s.Result == "" {
			return fmt.Errorf("session %s is still live; its recording is whole only at its end", s.ID)
		}
		if s, err = k.Authority.ViewRecording(c.Context(), k.by(), s.ID, purpose, reason); err != nil {
			return err
		}
		return k.copyRecording(s)
	}), &reason)
	c.Flags().StringVar(&purpose, "purpose", "fetch", "what it is for, as the ledger keeps it: fetch, replay, export, verify")
	c.Example = "  ssh gate session fetch 12 --reason '\"monthly review\"' > S-12.trec"
	return c
}

func (k *call) copyRecording(s authz.Session) error {
	file, err := os.Open(k.Recorder.Path(s.ID))
	if errors.Is(err, fs.ErrNotExist) {
		return notFound("the recording of session %s does not rest on this node (it was made on %s)", s.ID, s.Node)
	}
	if err != nil {
		// The cause would name a folder of the node, which is nobody's business outside.
		return fmt.Errorf("the recording of session %s cannot be read", s.ID)
	}
	defer file.Close()
	if _, err := io.Copy(k.out, file); err != nil {
		return fmt.Errorf("send the recording of session %s: %w", s.ID, err)
	}
	return nil
}
