package main

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"sallyport/bastion/console"
	"sallyport/internal/database"
	wordlist "sallyport/internal/words"
	"sallyport/replay"
	"sallyport/replay/index"
)

const indexHelp = `The index is a file on this machine with the text that was shown in recordings
which you opened with your key, so that 'search --local' finds it. The gate cannot read
that text and has no such index.

The file is not encrypted: who reads it reads what people saw. It lies below your
cache folder, for you alone (mode 0600); keep that on an encrypted disk and out of
backups. Take sessions out when you are done with them, and purge an epoch when its
key is destroyed, or its text outlives it here.`

// indexPlace is where the index is.
type indexPlace struct{ dir string }

func (f *indexPlace) register(c *cobra.Command) {
	c.Flags().StringVar(&f.dir, "index", "", "folder of the index; else below your cache folder")
}

// use opens the index for one use.
func (f *indexPlace) use(ctx context.Context, fn func(*index.Index) error) error {
	dir := f.dir
	if dir == "" {
		var err error
		if dir, err = index.DefaultDir(); err != nil {
			return err
		}
	}
	x, err := index.Open(ctx, dir)
	if err != nil {
		return err
	}
	return errors.Join(fn(x), x.Close())
}

func indexNoun(o *settings, s streams) *cobra.Command {
	c := &cobra.Command{Use: "index", Short: "What was shown, to be searched on this machine", Long: indexHelp, Args: noWords,
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() }}
	c.AddCommand(indexAddVerb(o, s), indexLsVerb(s), indexRmVerb(s), indexPurgeVerb(s))
	return c
}

func indexAddVerb(o *settings, s streams) *cobra.Command {
	from, with, place := source{purpose: "index"}, opening{}, indexPlace{}
	var input, unsigned bool
	c := &cobra.Command{
		Use:   "add SESSION|FILE …",
		Short: "Put what sessions showed into the index",
		Long: "Add verifies and opens recordings as replay does, and puts their lines of text into the index of this machine. " +
			"It refuses a recording that nothing signed vouches for, unless --unsigned is given, and such a one never takes the place of a signed one.\n\n" + indexHelp,
		Args: func(c *cobra.Command, args []string) error {
			if len(args) == 0 {
				return console.Usagef("a word is missing; usage: %s", c.UseLine())
			}
			return nil
		},
		Example: `  sallyport index add 12 13 14 --gate rosa@gate.example.org --identity genomics-2026Q4.key --key node.pub --reason 'monthly review'
  sallyport index add *.trec --identity genomics-2026Q4.key --key node.pub --input`,
		RunE: func(c *cobra.Command, args []string) error {
			return place.use(c.Context(), func(x *index.Index) error {
				added := []addedSession{}
				for _, word := range args {
					one, err := addToIndex(c.Context(), o, s, x, &from, &with, word, input, unsigned)
					if err != nil {
						return fmt.Errorf("%s: %w", word, err)
					}
					added = append(added, one)
					if !wantsJSON(c) {
						fmt.Fprintf(s.out, "%s\n", console.Clean(fmt.Sprintf("%s: %d lines of %s on %s/%s, epoch %s%s",
							one.ID, one.Lines, one.User, one.Project, one.Server, one.Epoch, unsignedMark(one.Session))))
					}
				}
				if wantsJSON(c) {
					return printJSON(s, added)
				}
				fmt.Fprintln(s.err, "sallyport: the index holds this text in clear; take it out with `index rm` when you are done")
				return nil
			})
		},
	}
	from.register(c)
	with.register(c)
	place.register(c)
	c.Flags().BoolVar(&unsigned, "unsigned", false, "also recordings without a signed end, or without the node's key to verify with; anybody can make such")
	c.Flags().BoolVar(&input, "input", false, "also what people typed; needs the strict identity, and includes passwords")
	return c
}

// addedSession is what the JSON of `index add` tells of one session.
type addedSession struct {
	index.Session
	Lines int64 `json:"lines"`
}

// addToIndex opens one recording and puts its lines into the index.
func addToIndex(ctx context.Context, o *settings, s streams, x *index.Index, from *source, with *opening, word string, input, unsigned bool) (addedSession, error) {
	file, err := prepare(ctx, o, s, from, with, word)
	if err != nil {
		return addedSession{}, err
	}
	defer file.close()
	if input && !file.strict {
		return addedSession{}, console.Usagef("--input needs the strict identity: --strict-identity FILE")
	}
	if !file.signed && !unsigned {
		return addedSession{}, errors.New("nothing signed says that this is what was recorded, so it is not put into the index; --unsigned takes it all the same")
	}
	if err := file.watchable(); err != nil {
		return addedSession{}, err
	}
	m := file.Meta()
	one := addedSession{Session: index.Session{ID: m.Session, Node: m.Node, Number: m.Number, Epoch: m.Epoch, User: m.User,
		Project: m.Project, Server: m.Server, Start: m.Start.UTC().Truncate(time.Millisecond), Signed: file.signed, Gate: from.gate}}
	if file.local != "" {
		if one.File, err = filepath.Abs(file.local); err != nil {
			return addedSession{}, err
		}
	}
	one.Lines, err = x.Add(ctx, one.Session, linesOf(file.File, input))
	return one, err
}

// linesOf are the lines that were shown, and then those that were typed if these are asked for.
func linesOf(file *replay.File, input bool) iter.Seq2[index.Line, error] {
	return func(yield func(index.Line, error) bool) {
		for _, typed := range []bool{false, true} {
			if typed && !input {
				return
			}
			frames, err := file.Frames()
			if err != nil {
				yield(index.Line{}, err)
				return
			}
			lines := replay.Lines(frames)
			if typed {
				lines = replay.TypedLines(frames)
			}
			for line, err := range lines {
				if !yield(index.Line{Offset: line.Offset, Text: line.Text, Typed: typed}, err) || err != nil {
					return
				}
			}
		}
	}
}

func indexLsVerb(s streams) *cobra.Command {
	place := indexPlace{}
	c := &cobra.Command{Use: "ls", Short: "List the sessions of the index", Args: noWords,
		RunE: func(c *cobra.Command, _ []string) error {
			return place.use(c.Context(), func(x *index.Index) error {
				sessions, err := x.Sessions(c.Context())
				if err != nil {
					return err
				}
				if wantsJSON(c) {
					return printJSON(s, sessions)
				}
				if len(sessions) == 0 {
					fmt.Fprintln(s.out, "The index is empty.")
				}
				for _, one := range sessions {
					fmt.Fprintf(s.out, "%s  %s  %s\n", console.Clean(one.ID), console.Clean(sessionPlace(one)), console.Clean(one.Epoch+unsignedMark(one)))
				}
				return nil
			})
		}}
	place.register(c)
	return c
}

// unsignedMark tells in lists that nothing signed vouches for a session.
func unsignedMark(one index.Session) string {
	if one.Signed {
		return ""
	}
	return "  (not signed)"
}

// sessionPlace is when, who and where of a session.
func sessionPlace(one index.Session) string {
	return one.Start.UTC().Format(time.DateTime) + "Z  " + one.User + "  " + one.Project + "/" + one.Server
}

func indexRmVerb(s streams) *cobra.Command {
	place := indexPlace{}
	c := &cobra.Command{Use: "rm SESSION", Short: "Erase a session from the index, by its S-…", Args: words(1, 1),
		RunE: func(c *cobra.Command, args []string) error {
			return place.use(c.Context(), func(x *index.Index) error {
				there, err := x.Remove(c.Context(), args[0])
				if err != nil {
					return err
				}
				if !there {
					return console.NotFoundf("the index has no session %s", console.Clean(args[0]))
				}
				return tellRemoved(c, s, []string{args[0]})
			})
		}}
	place.register(c)
	return c
}

func indexPurgeVerb(s streams) *cobra.Command {
	place := indexPlace{}
	var epoch string
	c := &cobra.Command{Use: "purge", Short: "Erase all sessions of an epoch, whose key is destroyed", Args: noWords,
		Example: "  sallyport index purge --epoch genomics/2026Q4",
		RunE: func(c *cobra.Command, _ []string) error {
			if epoch == "" {
				return console.Usagef("--epoch EPOCH is required, such as genomics/2026Q4")
			}
			return place.use(c.Context(), func(x *index.Index) error {
				removed, err := x.Purge(c.Context(), epoch)
				if err != nil {
					return err
				}
				if len(removed) == 0 {
					fmt.Fprintf(s.err, "sallyport: nothing of %s is in the index; `index ls` shows whose sessions are\n", console.Clean(epoch))
				}
				return tellRemoved(c, s, removed)
			})
		}}
	place.register(c)
	c.Flags().StringVar(&epoch, "epoch", "", "the `EPOCH`, as 'index ls' shows it (required)")
	return c
}

func tellRemoved(c *cobra.Command, s streams, removed []string) error {
	if wantsJSON(c) {
		return printJSON(s, map[string][]string{"removed": append([]string{}, removed...)})
	}
	_, err := fmt.Fprintf(s.out, "erased %s from the index; copies and backups of its file are yours to erase\n", several(len(removed), "session"))
	return err
}

// searchLocally gives search its --local, which asks the index of this machine and no node.
func searchLocally(c *cobra.Command, s streams) {
	place := indexPlace{}
	place.register(c)
	var local bool
	var session string
	c.Flags().BoolVar(&local, "local", false, "what was shown, in the index of this machine (see 'sallyport index --help')")
	c.Flags().StringVar(&session, "session", "", "with --local: in this session, S-…")
	c.Example += "\n  sallyport search --local cohort7 --user bob"
	remote := c.RunE
	c.RunE = func(c *cobra.Command, args []string) error {
		if !local {
			if place.dir != "" || session != "" {
				return console.Usagef("--index and --session go with --local")
			}
			return remote(c, args)
		}
		q, err := localQuery(c, args, session)
		if err != nil {
			return err
		}
		return place.use(c.Context(), func(x *index.Index) error {
			hits, err := x.Search(c.Context(), q)
			if errors.Is(err, database.ErrNoWords) {
				return console.Usagef("%s", err)
			}
			if err != nil {
				return err
			}
			return tellHits(c, s, hits)
		})
	}
}

// localQuery reads the options that search has anyway.
func localQuery(c *cobra.Command, args []string, session string) (q index.Query, err error) {
	for _, flag := range []string{"kind", "after"} {
		if c.Flags().Changed(flag) {
			return q, console.Usagef("--%s does not go with --local", flag)
		}
	}
	q = index.Query{Text: console.SearchText(args), Session: session}
	var from, to string
	for flag, text := range map[string]*string{"user": &q.User, "project": &q.Project, "server": &q.Server, "from": &from, "to": &to} {
		if *text, err = c.Flags().GetString(flag); err != nil {
			return q, err
		}
	}
	if q.Limit, err = c.Flags().GetInt("limit"); err != nil {
		return q, err
	}
	if q.Limit < 1 || q.Limit > index.MaxHits {
		return q, console.Usagef("--limit is a number from 1 to %d", index.MaxHits)
	}
	if q.From, err = console.Past(time.Now(), "from", from); err != nil {
		return q, err
	}
	q.To, err = console.Past(time.Now(), "to", to)
	return q, err
}

// localHit is a hit with the command that plays the session from there.
type localHit struct {
	index.Hit
	Replay string `json:"replay"`
}

func tellHits(c *cobra.Command, s streams, hits []index.Hit) error {
	out := []localHit{}
	for _, h := range hits {
		out = append(out, localHit{h, replayCommand(h)})
	}
	if wantsJSON(c) {
		return printJSON(s, out)
	}
	if len(out) == 0 {
		fmt.Fprintln(s.out, "Nothing was found in the index of this machine; `index ls` shows what it holds.")
	}
	for _, h := range out {
		what := "shown"
		if h.Typed {
			what = "typed"
		}
		fmt.Fprintf(s.out, "%s  %s  %s after %s%s\n    %s\n    %s\n", console.Clean(h.ID), console.Clean(sessionPlace(h.Session)), what,
			h.Offset.Truncate(time.Millisecond), unsignedMark(h.Session), console.Clean(strings.ReplaceAll(h.Text, "\t", " ")), console.Clean(h.Replay))
	}
	return nil
}

// replayCommand plays the session from a second before the line. The options that name keys and reason are the auditor's.
func replayCommand(h index.Hit) string {
	command := []string{"sallyport", "replay"}
	switch {
	case h.File != "":
		command = append(command, h.File)
	case h.Gate != "":
		command = append(command, h.ID, "--gate", h.Gate)
	default:
		command = append(command, h.ID)
	}
	return wordlist.JoinWords(append(command, "--at", max(h.Offset.Truncate(time.Second)-time.Second, 0).String()))
}
