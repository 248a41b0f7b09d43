package console

import (
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"sallyport/authz"
	"sallyport/internal/words"
)

const searchHelp = `Find events, commands and transfers among those that I may see, newest first.

All words must be found, in any order and case. "Words in quotes" must stand
together, and a word that ends in * is the beginning of one. Signs only separate
words, so /data/a1.bam finds what has data, a1 and bam one after another. Put --
before words that begin with a dash.
What was shown on a screen or typed into a terminal is not searched: the node
cannot read it. An auditor searches it on their own machine: sallyport search --local.
A search that can find what others did is itself an event.`

// searchFlags are the options of search.
type searchFlags struct {
	user, project, server, from, to, after string
	kinds                                  []string
	limit                                  int
}

func (f *searchFlags) register(c *cobra.Command) {
	c.Flags().StringVar(&f.user, "user", "", "by this person")
	c.Flags().StringVar(&f.project, "project", "", "in this project")
	c.Flags().StringVar(&f.server, "server", "", "on this data server")
	c.Flags().StringVar(&f.from, "from", "", "at or after: a date, a time, or back from now: 12h, 90d")
	c.Flags().StringVar(&f.to, "to", "", "before, in the same forms")
	c.Flags().StringSliceVar(&f.kinds, "kind", nil, "only event, command or transfer (repeat)")
	c.Flags().IntVar(&f.limit, "limit", usualLimit, fmt.Sprintf("at most so many, the newest; up to %d", authz.MaxHits))
	c.Flags().StringVar(&f.after, "after", "", "go on after this place of an earlier search")
}

// SearchText is the question that the words of a search make. One word of the shell that holds spaces was put
// into quotes by who typed it, and is a phrase.
func SearchText(args []string) string {
	texts := make([]string, len(args))
	for i, arg := range args {
		if texts[i] = arg; strings.ContainsAny(arg, " \t") && !strings.Contains(arg, `"`) {
			texts[i] = `"` + arg + `"`
		}
	}
	return strings.Join(texts, " ")
}

// searchQuery is what the words and options ask for.
func (k *call) searchQuery(f searchFlags, args []string) (authz.SearchQuery, error) {
	q := authz.SearchQuery{Text: SearchText(args), User: f.user, Project: f.project, Server: f.server, Kinds: f.kinds,
		Limit: f.limit, After: f.after}
	if f.limit < 1 || f.limit > authz.MaxHits {
		return q, Usagef("--limit is a number from 1 to %d", authz.MaxHits)
	}
	for _, kind := range f.kinds {
		if !slices.Contains(authz.Kinds(), kind) {
			return q, Usagef("--kind %q is no kind; it is %s", kind, strings.Join(authz.Kinds(), ", "))
		}
	}
	var err error
	if q.From, err = k.past("from", f.from); err != nil {
		return q, err
	}
	q.To, err = k.past("to", f.to)
	return q, err
}

// hitJSON is a hit with the exact bytes of its text, should JSON not be able to hold them.
type hitJSON struct {
	authz.Hit
	TextBase64 string `json:"text_base64,omitempty"`
}

func (k *call) searchVerb() *cobra.Command {
	var f searchFlags
	c := &cobra.Command{Use: "search [QUERY …]", Short: "Find events, commands and transfers", Long: searchHelp, Args: cobra.ArbitraryArgs}
	c.RunE = func(c *cobra.Command, args []string) error {
		q, err := k.searchQuery(f, args)
		if err != nil {
			return err
		}
		hits, err := k.Authority.Search(c.Context(), k.by(), q)
		if errors.Is(err, authz.ErrQuery) {
			return Usagef("%s", err)
		}
		if err != nil {
			return err
		}
		if k.json {
			return k.printJSON(hitsJSON(hits))
		}
		k.writeHits(hits)
		if len(hits) == f.limit {
			fmt.Fprintf(k.verb.Stderr, "these are the newest %d; older ones: --after %s\n", f.limit, hits[len(hits)-1].Place)
		}
		return nil
	}
	f.register(c)
	c.Example = `  search samtools view                      both words, anywhere
  search "rm -rf" --from 30d                one after the other; over ssh: search '"rm -rf"'
  search a1.bam --kind transfer --user bob
  search login.failure --from 2026-11-01 --to 2026-12-01
  search --user bob --kind command          without words: all that the options select`
	return c
}

// writeHits prints each hit on a line that tells when, what, who, where, and under which reference more of it can be seen, and
// then what was found, of which the beginning must do.
func (k *call) writeHits(hits []authz.Hit) {
	if len(hits) == 0 {
		fmt.Fprintln(k.out, "Nothing was found.")
	}
	const indent, lines = "    ", 3
	room := k.width() - len(indent)
	for _, h := range hits {
		reference := h.Event
		if h.Kind != authz.HitEvent {
			reference = h.Session
		}
		line := fmt.Sprintf("%s %s %s %s %s", second(h.Time), h.Kind, h.User, foundAt(h), h.Result)
		fmt.Fprintf(k.out, "%s %s\n", Clean(line), Clean(reference))
		for _, part := range wrap(shorten(Clean(hitText(h)), lines*room), room) {
			fmt.Fprintf(k.out, "%s%s\n", indent, part)
		}
	}
}

func hitsJSON(hits []authz.Hit) []hitJSON {
	out := make([]hitJSON, 0, len(hits))
	for _, h := range hits {
		out = append(out, hitJSON{Hit: h, TextBase64: exactText(h.Text)})
	}
	return out
}

// exactText is the base64 of a text that JSON cannot hold, else "".
func exactText(text string) string {
	if utf8.ValidString(text) {
		return ""
	}
	return base64.StdEncoding.EncodeToString([]byte(text))
}

// foundAt is where something was found: the server, or the project.
func foundAt(h authz.Hit) string {
	switch {
	case h.Project != "" && h.Server != "":
		return h.Project + "/" + h.Server
	case h.Project != "":
		return h.Project
	}
	return "-"
}

const sealedText = "(sealed: it is in the recording)"

func hitText(h authz.Hit) string {
	switch {
	case h.Sealed:
		return sealedText
	case h.Kind == authz.HitEvent:
		return h.Text
	}
	return words.Quote(h.Text)
}
