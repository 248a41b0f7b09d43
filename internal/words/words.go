// Package words turns a list of words into the one string that an SSH exec
// request carries, and back.
//
// JoinWords quotes so that SplitWords, and any POSIX shell, gives exactly the
// same words again, byte for byte. SplitWords knows single quotes, double
// quotes and the backslash, as POSIX describes them (Shell Command Language,
// 2.2 Quoting). It refuses to know anything else of a shell: there are no
// variables, no patterns, no pipes, no comments; such characters stand for
// themselves. Nothing is ever executed through it.
//
// Hidden and EscapeJSON are for words that are shown: they tell which
// characters could take over a terminal or mislead.
package words

import (
	"errors"
	"fmt"
	"strings"
)

// Errors of SplitWords.
var (
	// ErrQuote says that a quotation mark was opened and never closed.
	ErrQuote = errors.New("a quotation mark is not closed")
	// ErrBackslash says that the text ends in a backslash that escapes nothing.
	ErrBackslash = errors.New("the text ends with a lone backslash")
	// ErrTooMany says that there are more than MaxWords words.
	ErrTooMany = fmt.Errorf("more than %d words", MaxWords)
)

// MaxWords is the largest number of words that SplitWords returns. A console
// verb needs a dozen; the bound keeps a hostile line from costing memory.
const MaxWords = 1024

// JoinWords returns one string from which SplitWords makes the same words.
func JoinWords(words []string) string {
	var b strings.Builder
	for i, w := range words {
		if i > 0 {
			b.WriteByte(' ')
		}
		writeQuoted(&b, w)
	}
	return b.String()
}

// Quote returns one word as JoinWords writes it.
func Quote(word string) string {
	var b strings.Builder
	writeQuoted(&b, word)
	return b.String()
}

func writeQuoted(b *strings.Builder, w string) {
	if isPlain(w) {
		b.WriteString(w)
		return
	}
	b.WriteByte('\'')
	for i := 0; i < len(w); i++ {
		if w[i] == '\'' {
			// A single quote can't stand inside single quotes: close, escape it, open again.
			b.WriteString(`'\''`)
			continue
		}
		b.WriteByte(w[i])
	}
	b.WriteByte('\'')
}

// isPlain reports whether a word means itself to every shell without quotes.
func isPlain(w string) bool {
	if w == "" {
		return false
	}
	for i := 0; i < len(w); i++ {
		c := w[i]
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		case strings.IndexByte("-_./:@%+,", c) >= 0:
		// '=' and '~' mean something to some shells at the beginning of a word only.
		case c == '=' && i > 0:
		default:
			return false
		}
	}
	return true
}

// SplitWords splits a command line into its words. Words are apart by spaces,
// tabs and newlines; bytes are kept as they are, whether UTF-8 or not.
func SplitWords(line string) ([]string, error) {
	var words []string
	for {
		line = strings.TrimLeft(line, " \t\n")
		if line == "" {
			return words, nil
		}
		if len(words) == MaxWords {
			return nil, ErrTooMany
		}
		word, rest, some, err := nextWord(line)
		if err != nil {
			return nil, err
		}
		if some {
			words = append(words, word)
		}
		line = rest
	}
}

// nextWord reads one word from the beginning of line. some is false when
// there was none after all, because only a joined line break stood there.
func nextWord(line string) (word, rest string, some bool, err error) {
	var b strings.Builder
	for i := 0; i < len(line); i++ {
		switch c := line[i]; c {
		case ' ', '\t', '\n':
			return b.String(), line[i:], some, nil
		case '\'':
			end := strings.IndexByte(line[i+1:], '\'')
			if end < 0 {
				return "", "", false, ErrQuote
			}
			b.WriteString(line[i+1 : i+1+end])
			i += 1 + end
			some = true
		case '"':
			used, err := readDouble(&b, line[i+1:])
			if err != nil {
				return "", "", false, err
			}
			i += used
			some = true
		case '\\':
			if i+1 == len(line) {
				return "", "", false, ErrBackslash
			}
			i++
			if line[i] != '\n' { // an escaped line break joins the lines
				b.WriteByte(line[i])
				some = true
			}
		default:
			b.WriteByte(c)
			some = true
		}
	}
	return b.String(), "", some, nil
}

// readDouble reads what follows an opening double quote and returns how many
// bytes it used, the closing quote included.
func readDouble(b *strings.Builder, text string) (int, error) {
	for i := 0; i < len(text); i++ {
		switch c := text[i]; c {
		case '"':
			return i + 1, nil
		case '\\':
			if i+1 == len(text) {
				return 0, ErrQuote
			}
			i++
			switch next := text[i]; next {
			case '$', '`', '"', '\\':
				b.WriteByte(next)
			case '\n':
			default:
				// Inside double quotes a backslash before any other byte stands for itself.
				b.WriteByte('\\')
				b.WriteByte(next)
			}
		default:
			b.WriteByte(c)
		}
	}
	return 0, ErrQuote
}
