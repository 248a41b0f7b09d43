package database

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// Limits of full text.
const (
	maxWord    = 64        // characters of one word; the rest of a longer one is not looked at
	maxWords   = 16_000    // of one text; PostgreSQL counts positions to 16,383
	maxBytes   = 256 << 10 // of the words of one text; PostgreSQL takes 1 MiB with all that it adds
	maxPhrases = 32        // of one question
)

// Words splits a text into the words by which it is found: runs of letters, marks and digits, in
// lower case and in the compatible normal form (NFKC). A character of a script that writes no
// spaces between words (Chinese, Japanese, Korean, Thai, …) is a word of its own, so a phrase of them
// finds any part of such a text. Everything else separates, and so /data/a1.bam is data, a1, bam.
func Words(text string) []string {
	var (
		words   []string
		current strings.Builder
		length  int
		total   int // bytes
	)
	end := func() {
		if total += current.Len(); length > 0 && len(words) < maxWords && total <= maxBytes {
			words = append(words, current.String())
		}
		current.Reset()
		length = 0
	}
	for _, r := range norm.NFKC.String(strings.ToValidUTF8(text, " ")) {
		if len(words) == maxWords || total > maxBytes {
			break
		}
		switch {
		case !unicode.In(r, unicode.L, unicode.N, unicode.M):
			end()
		case unspaced(r):
			end()
			current.WriteRune(unicode.ToLower(r))
			length = 1
			end()
		default:
			if length < maxWord {
				current.WriteRune(unicode.ToLower(r))
			}
			length++
		}
	}
	end()
	return words
}

// unspaced reports a letter of a script that writes no spaces between words.
func unspaced(r rune) bool {
	return r >= 0x0e00 && unicode.In(r, unicode.Han, unicode.Hiragana, unicode.Katakana, unicode.Hangul,
		unicode.Thai, unicode.Lao, unicode.Khmer, unicode.Myanmar)
}

// Phrase is a run of words as Words makes them, to be found one after another. With Prefix
// the last is the beginning of a word.
type Phrase struct {
	Words  []string
	Prefix bool
}

// ErrNoWords is a question without a single letter or digit, or with too many words.
var ErrNoWords = errors.New("a search needs a letter or digit")

// shortestPrefix is how many characters must stand before a '*': fewer would match nearly all.
const shortestPrefix = 2

// Phrases reads what a person looks for. Each word is looked for, all must be found; words in double
// quotes must stand together; a word that ends in '*' is the beginning of one. Nothing else has a meaning, so
// no text is an error but one without words, and none can say more than that.
func Phrases(query string) ([]Phrase, error) {
	var phrases []Phrase
	add := func(text string) error {
		p := Phrase{Words: Words(text), Prefix: strings.HasSuffix(strings.TrimSpace(text), "*")}
		if len(p.Words) == 0 {
			return nil
		}
		if last := p.Words[len(p.Words)-1]; p.Prefix && utf8.RuneCountInString(last) < shortestPrefix && !strings.ContainsFunc(last, unspaced) {
			return fmt.Errorf("%w: at least %d characters before a *", ErrNoWords, shortestPrefix)
		}
		if len(p.Words) > maxPhrases || len(phrases) == maxPhrases {
			return fmt.Errorf("%w and at most %d words", ErrNoWords, maxPhrases)
		}
		phrases = append(phrases, p)
		return nil
	}
	for i, part := range strings.Split(query, `"`) {
		texts := []string{part} // inside quotes
		if i%2 == 0 {
			texts = strings.Fields(part)
		}
		for _, text := range texts {
			if err := add(text); err != nil {
				return nil, err
			}
		}
	}
	if len(phrases) == 0 {
		return nil, ErrNoWords
	}
	return phrases, nil
}

// TextQuery selects texts.
type TextQuery struct {
	Phrases []Phrase
	// Labels: of each group the text must bear at least one.
	Labels        [][]string
	First, Before int64 // bounds of the id; Before is exclusive
	Limit         int
}

// AddText puts a text into the index under an id. Labels are words of a-z and 0-9 that say what the text belongs to; they
// are never found as words.
func (t Tx) AddText(id int64, labels, words []string) error {
	for _, label := range labels {
		if !plainLabel(label) {
			return fmt.Errorf("database: %q is no label", label)
		}
	}
	if t.engine == SQLite {
		_, err := t.Exec("INSERT INTO search_words (rowid, labels, words) VALUES ($1, $2, $3)",
			id, strings.Join(labels, " "), strings.Join(words, " "))
		return err
	}
	var b strings.Builder
	for _, label := range labels {
		fmt.Fprintf(&b, "'=%s' ", label)
	}
	for i, word := range words {
		fmt.Fprintf(&b, "'%s':%d ", word, i+1)
	}
	_, err := t.Exec("INSERT INTO search_words (id, words) VALUES ($1, $2::tsvector)", id, b.String())
	return err
}

// Label is a label that stands for a value of a field. Two values may share one, though hardly ever: whoever
// narrows by it compares the values once more.
func Label(field, value string) string {
	hash := sha256.Sum256([]byte(value))
	return field + hex.EncodeToString(hash[:8])
}

func plainLabel(label string) bool {
	return label != "" && !strings.ContainsFunc(label, func(r rune) bool { return (r < 'a' || r > 'z') && (r < '0' || r > '9') })
}

// RemoveText takes a text out of the index.
func (t Tx) RemoveText(id int64) error {
	column := "rowid"
	if t.engine == PostgreSQL {
		column = "id"
	}
	_, err := t.Exec("DELETE FROM search_words WHERE "+column+" = $1", id)
	return err
}

// RemoveAllText empties the index.
func (t Tx) RemoveAllText() error {
	statement := "INSERT INTO search_words (search_words) VALUES ('delete-all')"
	if t.engine == PostgreSQL {
		statement = "DELETE FROM search_words"
	}
	_, err := t.Exec(statement)
	return err
}

// compactPages is how many pages of the index one CompactText writes.
const compactPages = 2000

// CompactText writes part of the index anew, without what was removed from it, of which it keeps traces until then. The
// first call of a row says begin, and more calls are due, each in a transaction of its own, until one says that it is done.
func (t Tx) CompactText(begin bool) (done bool, err error) {
	if t.engine == PostgreSQL {
		return true, nil // vacuum does it in its time
	}
	pages, before, after := compactPages, 0, 0
	if begin {
		pages = -pages
	}
	if err := t.QueryRow("SELECT total_changes()").Scan(&before); err != nil {
		return false, err
	}
	if _, err := t.Exec("INSERT INTO search_words (search_words, rank) VALUES ('merge', $1)", pages); err != nil {
		return false, err
	}
	err = t.QueryRow("SELECT total_changes()").Scan(&after)
	return after-before < 2, err // the statement itself is one
}

// FindText returns the ids of texts that match, the highest first. A query with neither phrase nor
// label matches nothing.
func (t Tx) FindText(q TextQuery) (ids []int64, err error) {
	match := q.match(t.engine)
	if match == "" {
		return nil, nil
	}
	statement := `SELECT rowid FROM search_words WHERE search_words MATCH $1 AND rowid >= $2 AND rowid < $3
		ORDER BY rowid DESC LIMIT $4`
	if t.engine == PostgreSQL {
		// Whether to go by the words or by the ids depends on how common the words are, so a plan for any words is the wrong one.
		if _, err := t.Exec("SET LOCAL plan_cache_mode = force_custom_plan"); err != nil {
			return nil, err
		}
		statement = `SELECT id FROM search_words WHERE words @@ $1::tsquery AND id >= $2 AND id < $3
			ORDER BY id DESC LIMIT $4`
	}
	err = t.Each(func(row Scanner) error {
		var id int64
		err := row.Scan(&id)
		ids = append(ids, id)
		return err
	}, statement, match, q.First, q.Before, int64(q.Limit))
	return ids, err
}

// match writes the question in the engine's own language. Words hold letters, marks and digits only, labels a-z and 0-9,
// so none can end the quotes that it stands in.
func (q TextQuery) match(engine Engine) string {
	var all []string
	for _, group := range q.Labels {
		alternatives := make([]string, len(group))
		for i, label := range group {
			if alternatives[i] = `"` + label + `"`; engine == PostgreSQL {
				alternatives[i] = "'=" + label + "'"
			}
		}
		if engine == PostgreSQL {
			all = append(all, "("+strings.Join(alternatives, " | ")+")")
		} else {
			all = append(all, "labels : ("+strings.Join(alternatives, " OR ")+")")
		}
	}
	for _, phrase := range q.Phrases {
		all = append(all, phrase.match(engine))
	}
	if engine == PostgreSQL {
		return strings.Join(all, " & ")
	}
	return strings.Join(all, " AND ")
}

func (p Phrase) match(engine Engine) string {
	if engine == SQLite {
		text := `words : "` + strings.Join(p.Words, " ") + `"`
		if p.Prefix {
			text += " *"
		}
		return text
	}
	text := "('" + strings.Join(p.Words, "' <-> '") + "'"
	if p.Prefix {
		text += ":*"
	}
	return text + ")"
}
