package index

import (
	"bytes"
	"errors"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"sallyport/internal/database"
)

var start = time.Date(2026, 11, 21, 9, 0, 0, 0, time.UTC)

func session(id, epoch string, hours int) Session {
	return Session{ID: id, Node: "N-1", Number: int64(hours), Epoch: epoch, User: "alice", Project: "genomics", Server: "db1",
		Start: start.Add(time.Duration(hours) * time.Hour)}
}

// spoken are lines a second apart.
func spoken(texts ...string) iter.Seq2[Line, error] {
	return func(yield func(Line, error) bool) {
		for i, text := range texts {
			if !yield(Line{Offset: time.Duration(i) * time.Second, Text: text}, nil) {
				return
			}
		}
	}
}

func open(t *testing.T, dir string) *Index {
	t.Helper()
	x, err := Open(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { x.Close() })
	return x
}

func add(t *testing.T, x *Index, s Session, texts ...string) {
	t.Helper()
	n, err := x.Add(t.Context(), s, spoken(texts...))
	if err != nil || n != int64(len(texts)) {
		t.Fatalf("added %d of %d lines: %v", n, len(texts), err)
	}
}

func found(t *testing.T, x *Index, q Query) (lines []string) {
	t.Helper()
	hits, err := x.Search(t.Context(), q)
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range hits {
		lines = append(lines, h.ID+" "+h.Offset.String()+" "+h.Text)
	}
	return lines
}

func TestIndexFindsLines(t *testing.T) {
	x := open(t, filepath.Join(t.TempDir(), "a", "b"))
	add(t, x, session("S-1", "genomics/2026Q3", 0), "$ ls /data", "cohort7.csv  cohort8.csv", "$ logout")
	add(t, x, session("S-2", "genomics/2026Q4", 1), "cohort7 has 12 rows", "全基因组")
	for _, c := range []struct {
		query Query
		want  []string
	}{
		{Query{Text: "cohort7"}, []string{"S-2 0s cohort7 has 12 rows", "S-1 1s cohort7.csv  cohort8.csv"}},
		{Query{Text: "cohort7", Limit: 1}, []string{"S-2 0s cohort7 has 12 rows"}},
		{Query{Text: "coh*", Session: "S-1"}, []string{"S-1 1s cohort7.csv  cohort8.csv"}},
		{Query{Text: "cohort7", From: start.Add(time.Hour)}, []string{"S-2 0s cohort7 has 12 rows"}},
		{Query{Text: "cohort7", To: start.Add(time.Hour), User: "alice", Project: "genomics", Server: "db1"}, []string{"S-1 1s cohort7.csv  cohort8.csv"}},
		{Query{Text: "cohort7", User: "bob"}, nil},
		{Query{Text: "基因"}, []string{"S-2 1s 全基因组"}},
	} {
		if got := found(t, x, c.query); !slices.Equal(got, c.want) {
			t.Errorf("%+v found %q, want %q", c.query, got, c.want)
		}
	}
	if _, err := x.Search(t.Context(), Query{Text: "?"}); !errors.Is(err, database.ErrNoWords) {
		t.Errorf("a search without words: %v", err)
	}
	add(t, x, session("S-1", "genomics/2026Q3", 0), "only this") // in place of the first
	if got := found(t, x, Query{Text: "ls"}); got != nil {
		t.Errorf("what was replaced is found: %q", got)
	}
	sessions, err := x.Sessions(t.Context())
	if err != nil || len(sessions) != 2 || sessions[0] != session("S-1", "genomics/2026Q3", 0) {
		t.Errorf("sessions %+v, %v", sessions, err)
	}
}

// A clock that is far ahead, or a recording that says so, must not hide lines.
func TestIndexFindsLinesOfLaterCenturies(t *testing.T) {
	x := open(t, t.TempDir()+"/index")
	for i, year := range []int{2030, 2045, 2105, 2112, 2300} {
		s := session("S-"+strconv.Itoa(year), "e", 0)
		s.Start = time.Date(year, 1, 1, 0, 0, 0, 0, time.UTC)
		add(t, x, s, "needle", "needle again")
		if got := found(t, x, Query{Text: "needle"}); len(got) != 2*(i+1) {
			t.Errorf("with a session of %d: found %q", year, got)
		}
	}
	for _, c := range []struct{ from, to, want int }{{2026, 2040, 2}, {2026, 2400, 10}, {2040, 2110, 4}, {2026, 2110, 6}} {
		q := Query{Text: "needle", From: time.Date(c.from, 6, 1, 0, 0, 0, 0, time.UTC), To: time.Date(c.to, 6, 1, 0, 0, 0, 0, time.UTC)}
		if got := found(t, x, q); len(got) != c.want {
			t.Errorf("from %d to %d: found %q", c.from, c.to, got)
		}
	}
}

// What anybody can make up takes the place of nothing that a node vouches for.
func TestIndexKeepsWhatIsSigned(t *testing.T) {
	of := func(node string, signed bool) Session {
		s := session("S-1", "e", 0)
		s.Node, s.Signed = node, signed
		return s
	}
	for _, c := range []struct {
		there, comes Session
		kept         bool
	}{
		{of("N-1", true), of("N-1", false), true},
		{of("N-1", true), of("N-2", true), true},
		{of("N-1", true), of("N-2", false), true},
		{of("N-1", true), of("N-1", true), false},
		{of("N-1", false), of("N-1", false), false},
		{of("N-1", false), of("N-1", true), false},
		{of("N-1", false), of("N-2", true), false},
		{of("N-1", false), of("N-2", false), true},
	} {
		x := open(t, t.TempDir()+"/index")
		add(t, x, c.there, "genuine")
		_, err := x.Add(t.Context(), c.comes, spoken("genuine newer"))
		lines := found(t, x, Query{Text: "genuine"})
		if errors.Is(err, ErrKept) != c.kept || err != nil && !c.kept || len(lines) != 1 || strings.Contains(lines[0], "newer") == c.kept {
			t.Errorf("%s signed %v before %s signed %v: %v, has %q", c.there.Node, c.there.Signed, c.comes.Node, c.comes.Signed, err, lines)
		}
		want := c.comes
		if c.kept {
			want = c.there
		}
		if sessions, err := x.Sessions(t.Context()); err != nil || len(sessions) != 1 || sessions[0] != want {
			t.Errorf("sessions %+v, %v", sessions, err)
		}
	}
}

// A session of which reading fails leaves nothing behind.
func TestIndexTakesASessionWholeOrNotAtAll(t *testing.T) {
	x := open(t, t.TempDir()+"/index")
	broken := errors.New("cut")
	_, err := x.Add(t.Context(), session("S-1", "e", 0), func(yield func(Line, error) bool) {
		for range 2*batch + 1 {
			if !yield(Line{Text: "needle in the same moment"}, nil) {
				return
			}
		}
		yield(Line{}, broken)
	})
	if !errors.Is(err, broken) {
		t.Errorf("error %v, want that of the reader", err)
	}
	if got := found(t, x, Query{Text: "needle"}); got != nil {
		t.Errorf("%d lines are left", len(got))
	}
	if sessions, err := x.Sessions(t.Context()); err != nil || len(sessions) != 0 {
		t.Errorf("sessions %+v, %v", sessions, err)
	}
}

// What an epoch's key opened goes with the key: neither found nor in the file.
func TestPromise9_PurgedEpochLeavesNoText(t *testing.T) {
	dir := t.TempDir() + "/index"
	x := open(t, dir)
	add(t, x, session("S-1", "genomics/2026Q3", 0), strings.Repeat("common ", 50), "purgeable unrepeatable")
	add(t, x, session("S-2", "genomics/2026Q3", 1), "purgeable as well")
	add(t, x, session("S-3", "genomics/2026Q4", 2), "remaining")
	removed, err := x.Purge(t.Context(), "genomics/2026Q3")
	if err != nil || !slices.Equal(removed, []string{"S-1", "S-2"}) {
		t.Fatalf("removed %q, %v", removed, err)
	}
	if got := found(t, x, Query{Text: "purgeable"}); got != nil {
		t.Errorf("still found: %q", got)
	}
	if got := found(t, x, Query{Text: "remaining"}); len(got) != 1 {
		t.Errorf("the other epoch has %q", got)
	}
	if err := x.Close(); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		text, err := os.ReadFile(filepath.Join(dir, entry.Name()))
		if err != nil {
			t.Fatal(err)
		}
		for _, word := range []string{"purgeable", "unrepeat", "S-1"} {
			if bytes.Contains(text, []byte(word)) {
				t.Errorf("%s still holds %q", entry.Name(), word)
			}
		}
		if entry.Name() == fileName && !bytes.Contains(text, []byte("remaining")) {
			t.Error("the test looks in the wrong place")
		}
	}
}

func TestOpenRefusesWhatOthersCanRead(t *testing.T) {
	dir := t.TempDir()
	shared := filepath.Join(dir, "shared")
	if err := os.Mkdir(shared, 0o755); err != nil {
		t.Fatal(err)
	}
	own := filepath.Join(dir, "own")
	if err := open(t, own).Close(); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]os.FileMode{own: 0o700, filepath.Join(own, fileName): 0o600} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: mode %v, %v; want %v", path, info.Mode(), err, want)
		}
	}
	if err := os.Symlink(own, filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"shared", "link"} {
		if x, err := Open(t.Context(), filepath.Join(dir, name)); err == nil {
			x.Close()
			t.Errorf("the %s folder was taken", name)
		}
	}
	if err := os.Chmod(filepath.Join(own, fileName), 0o640); err != nil {
		t.Fatal(err)
	}
	if x, err := Open(t.Context(), own); err == nil {
		x.Close()
		t.Error("a file that others can read was taken")
	}
}
