package console

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"sallyport/internal/words"
)

// defaultColumns is the width of a terminal that did not say its own.
const defaultColumns = 80

// noLimit is the width of output that goes to no terminal: what a file or a program gets is neither cut nor wrapped.
const noLimit = 1 << 20

// width is how many columns the output may take.
func (k *call) width() int {
	switch {
	case !k.verb.Term:
		return noLimit
	case k.verb.Columns >= 40:
		return k.verb.Columns
	}
	return defaultColumns
}

// usualLimit is how many things a list shows that can be long.
const usualLimit = 50

// tellLimit says that a list may have left things out, because nobody asked for a length.
func (k *call) tellLimit(c *cobra.Command, shown int, more string) {
	if shown == usualLimit && !c.Flags().Changed("limit") {
		fmt.Fprintf(k.verb.Stderr, "these are the newest %d; %s\n", usualLimit, more)
	}
}

// table is rows under headings. Columns of which the name begins with '!' are
// never cut: ids and numbers that people copy. Those with '~' are cut before
// others, and with more of them before those with fewer.
type table struct {
	heads []string
	rows  [][]string
	empty string // sentence in place of a table without rows
}

func (t *table) add(cells ...string) {
	for i := range cells {
		cells[i] = Clean(cells[i])
	}
	t.rows = append(t.rows, cells)
}

const columnGap = 2

// write prints the table so that no line is wider than limit.
func (t *table) write(k *call) {
	if len(t.rows) == 0 {
		fmt.Fprintln(k.out, t.empty)
		return
	}
	heads := make([]string, len(t.heads))
	ranks := make([]int, len(t.heads))
	widths := make([]int, len(t.heads))
	for i, h := range t.heads {
		heads[i] = strings.TrimLeft(h, "!~")
		ranks[i] = strings.Count(h, "~")
		if heads[i] != h && ranks[i] == 0 {
			ranks[i] = neverCut
		}
		widths[i] = columnsOf(heads[i])
	}
	least := append([]int(nil), widths...)
	for _, row := range t.rows {
		for i, cell := range row {
			widths[i] = max(widths[i], columnsOf(cell))
		}
	}
	fit(widths, least, ranks, k.width())
	printRow(k, heads, widths)
	for _, row := range t.rows {
		printRow(k, row, widths)
	}
}

const neverCut = -1

// fit narrows the widest column of the highest rank that may be cut, one step
// at a time, until the line fits or nothing is left to narrow.
func fit(widths, least, ranks []int, limit int) {
	const narrowest = 4
	for {
		total := columnGap * (len(widths) - 1)
		widest := -1
		for i, w := range widths {
			total += w
			if ranks[i] == neverCut || w <= max(least[i], narrowest) {
				continue
			}
			if widest < 0 || ranks[i] > ranks[widest] || ranks[i] == ranks[widest] && w > widths[widest] {
				widest = i
			}
		}
		if total <= limit || widest < 0 {
			return
		}
		widths[widest]--
	}
}

func printRow(k *call, cells []string, widths []int) {
	var b strings.Builder
	for i, cell := range cells {
		cell = shorten(cell, widths[i])
		b.WriteString(cell)
		if i < len(cells)-1 {
			b.WriteString(strings.Repeat(" ", widths[i]-columnsOf(cell)+columnGap))
		}
	}
	fmt.Fprintln(k.out, strings.TrimRight(b.String(), " "))
}

// facts is a list of names and values about one thing.
type facts struct{ pairs [][2]string }

func (f *facts) add(name, value string) { f.pairs = append(f.pairs, [2]string{name, value}) }

// addIf adds a fact that has a value.
func (f *facts) addIf(name, value string) {
	if value != "" && value != "-" {
		f.add(name, value)
	}
}

// write prints each fact on a line of its own; a value longer than a line is wrapped, never cut.
func (f *facts) write(k *call) {
	widest := 0
	for _, p := range f.pairs {
		widest = max(widest, columnsOf(p[0]))
	}
	for _, p := range f.pairs {
		name, room := p[0], max(k.width()-widest-columnGap, 20)
		for _, line := range wrap(Clean(p[1]), room) {
			fmt.Fprintf(k.out, "%s%s%s\n", name, strings.Repeat(" ", widest-columnsOf(name)+columnGap), line)
			name = ""
		}
	}
}

// wrap breaks clean text into lines of at most limit columns, at spaces where there are some.
func wrap(text string, limit int) []string {
	var lines []string
	for columnsOf(text) > limit {
		cut, space, used := 0, -1, 0
		for i, r := range text {
			if used += runeColumns(r); used > limit {
				break
			}
			if r == ' ' && i > 0 {
				space = i
			}
			cut = i + len(string(r))
		}
		if space > 0 {
			lines = append(lines, text[:space])
			text = text[space+1:]
			continue
		}
		lines = append(lines, text[:cut])
		text = text[cut:]
	}
	return append(lines, text)
}

// printJSON prints a value as indented JSON without hidden characters.
func (k *call) printJSON(value any) error {
	var b strings.Builder
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(value); err != nil {
		return fmt.Errorf("write JSON: %w", err)
	}
	_, err := fmt.Fprint(k.out, words.EscapeJSON(b.String()))
	return err
}

// list makes a list that JSON shows as [] when it is empty.
func list[T any](items []T) []T {
	if items == nil {
		return []T{}
	}
	return items
}

// done prints what a verb did: a sentence, or the JSON of the thing.
func (k *call) done(value any, format string, args ...any) error {
	if k.json {
		return k.printJSON(value)
	}
	for i, a := range args {
		if s, ok := a.(string); ok {
			args[i] = Clean(s)
		}
	}
	_, err := fmt.Fprintf(k.out, format+"\n", args...)
	return err
}
