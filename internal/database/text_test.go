package database

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestWords(t *testing.T) {
	for text, want := range map[string]string{
		"samtools view -b /data/a1.bam": "samtools|view|b|data|a1|bam",
		"ÀÉ ﬁle":                        "àé|file",
		"基因组 study":                     "基|因|组|study",
		"a\x00b\xffc 'd' \"e\"":         "a|b|c|d|e",
		"!?*":                           "",
		strings.Repeat("x", 100) + " y": strings.Repeat("x", maxWord) + "|y",
	} {
		if got := strings.Join(Words(text), "|"); got != want {
			t.Errorf("Words(%q) = %q, want %q", text, got, want)
		}
	}
	if got := len(Words(strings.Repeat("a ", 2*maxWords))); got != maxWords {
		t.Errorf("%d words of a long text, want %d", got, maxWords)
	}
}

func TestPhrasesRefuse(t *testing.T) {
	for _, query := range []string{"", "***", `""`, "a*", strings.Repeat("a ", 40), `"` + strings.Repeat("a ", 40) + `"`} {
		if p, err := Phrases(query); err == nil {
			t.Errorf("Phrases(%q) = %v", query, p)
		}
	}
}

func find(t *testing.T, db *DB, query string, labels ...[]string) (ids []int64) {
	t.Helper()
	phrases, err := Phrases(query)
	if err != nil {
		t.Fatal(err)
	}
	err = db.Read(t.Context(), func(tx Tx) (err error) {
		ids, err = tx.FindText(TextQuery{Phrases: phrases, Labels: labels, Before: 1 << 62, Limit: 100})
		return err
	})
	if err != nil {
		t.Fatalf("find %q: %v", query, err)
	}
	return ids
}

// Both engines find the same.
func TestFindText(t *testing.T) {
	onBoth(t, func(t *testing.T, url string) {
		db := open(t, url)
		texts := []string{
			"samtools view -b /data/genomics/a1.bam",
			"samtools sort /data/genomics/a2.bam",
			"Rscript 'analysis of Ünits.R' # 全基因组关联",
			"rm -rf scratch",
			"x = 'quoted' AND \"NEAR\" OR NOT",
		}
		err := db.Write(t.Context(), func(tx Tx) error {
			for i, text := range texts {
				label := "even"
				if i%2 == 1 {
					label = "odd"
				}
				if err := tx.AddText(int64(i), []string{label, "all"}, Words(text)); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		for query, want := range map[string][]int64{
			"samtools":            {1, 0},
			"SAMTOOLS bam":        {1, 0},
			"/data/genomics/a1":   {0},
			"a1.bam":              {0},
			`"rm -rf"`:            {3},
			`"rf rm"`:             nil,
			"rf rm":               {3},
			"sam*":                {1, 0},
			`"samtools so*"`:      {1},
			"ünits":               {2},
			"基因":                  {2},
			"因基":                  nil,
			"关*":                  {2},
			"NOT":                 {4},
			"samtools OR rm":      nil,
			"near(":               {4},
			"odd":                 nil, // a label is no word
			"words : samtools":    nil,
			`samtools" OR "rm`:    nil,
			`'quoted' & x | yy:*`: nil,
		} {
			if got := find(t, db, query); !slices.Equal(got, want) {
				t.Errorf("%q found %v, want %v", query, got, want)
			}
		}
		if got := find(t, db, "samtools", []string{"odd", "third"}, []string{"all"}); !slices.Equal(got, []int64{1}) {
			t.Errorf("with labels found %v, want 1", got)
		}
		err = db.Write(t.Context(), func(tx Tx) error { return tx.RemoveText(1) })
		if err != nil {
			t.Fatal(err)
		}
		if got := find(t, db, "samtools"); !slices.Equal(got, []int64{0}) {
			t.Errorf("after a removal found %v, want 0", got)
		}
		if err := db.Write(t.Context(), func(tx Tx) error { return tx.RemoveAllText() }); err != nil {
			t.Fatal(err)
		}
		if got := find(t, db, "samtools"); got != nil {
			t.Errorf("after the removal of all found %v", got)
		}
		err = db.Write(t.Context(), func(tx Tx) error { return tx.AddText(9, []string{`a" OR "b`}, nil) })
		if err == nil {
			t.Error("a label with quotes was taken")
		}
	})
}

// Whatever somebody types, it is a question about words and never part of the engine's language: it
// finds the text that has these words, and no other.
func FuzzSearchQuery(f *testing.F) {
	for _, seed := range []string{"samtools", `"`, `a" OR "b`, "NEAR(a b)", "words : x", "x AND NOT y", "'; DROP TABLE search_words; --",
		"a & b | !c <-> d:*", "^x", "-x", "{labels}: even", "a\x00b", "\xff", "基*", "İ ﬁ ½", "e\u0301*"} {
		f.Add(seed)
	}
	db, err := Open(f.Context(), filepath.Join(f.TempDir(), "state.db"))
	if err != nil {
		f.Fatal(err)
	}
	defer db.Close()
	f.Fuzz(func(t *testing.T, query string) {
		phrases, err := Phrases(query)
		if err != nil {
			return
		}
		err = db.Write(t.Context(), func(tx Tx) error {
			if err := tx.RemoveAllText(); err != nil {
				return err
			}
			if err := tx.AddText(1, []string{"even"}, Words("nothing of this 0815")); err != nil {
				return err
			}
			return tx.AddText(2, []string{"odd"}, Words(query))
		})
		if err != nil {
			t.Fatal(err)
		}
		other := strings.Join(Words("nothing of this 0815"), " ")
		for _, p := range phrases {
			if strings.Contains(other, strings.Join(p.Words, " ")) {
				return
			}
		}
		if got := find(t, db, query); !slices.Equal(got, []int64{2}) {
			t.Errorf("%q found %v, want its own text alone", query, got)
		}
	})
}
