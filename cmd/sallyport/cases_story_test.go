package main

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"sallyport/internal/testkit"
)

const cases = 63

var (
	caseRow  = regexp.MustCompile(`(?m)^\| (\d+) \| [^|]+ \| ([^|]+) \|$`)
	caseName = regexp.MustCompile("`([a-z-]+\\.txtar|(?:Test|Fuzz)[A-Za-z0-9_]+)`")
	caseCite = regexp.MustCompile(`case (\d+)`)
	testFunc = regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)[A-Za-z0-9_]+)\(`)
)

// TestCasesAreWhereTheTableSays holds docs/black-box-cases.md to the stories
// and tests that it names, and the stories to the table.
func TestCasesAreWhereTheTableSays(t *testing.T) {
	root, err := testkit.Root()
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(root, "docs", "black-box-cases.md"))
	if err != nil {
		t.Fatal(err)
	}
	cited, tests := citations(t), testNames(t, root)
	listed := map[int][]string{}
	for _, row := range caseRow.FindAllStringSubmatch(string(text), -1) {
		number, _ := strconv.Atoi(row[1])
		if _, twice := listed[number]; twice {
			t.Errorf("case %d is listed twice", number)
		}
		listed[number] = []string{}
		for _, name := range caseName.FindAllStringSubmatch(row[2], -1) {
			listed[number] = append(listed[number], name[1])
			switch story, isStory := strings.CutSuffix(name[1], ".txtar"); {
			case isStory && !slices.Contains(cited[number], story):
				t.Errorf("case %d: %s does not cite it", number, name[1])
			case !isStory && !tests[name[1]]:
				t.Errorf("case %d: there is no %s", number, name[1])
			}
		}
		if len(listed[number]) == 0 && !strings.HasPrefix(row[2], "not yet: ") {
			t.Errorf("case %d is neither tested nor said to be missing", number)
		}
	}
	for number := 1; number <= cases; number++ {
		if _, ok := listed[number]; !ok {
			t.Errorf("case %d is not listed", number)
		}
	}
	for number, stories := range cited {
		for _, story := range stories {
			if !slices.Contains(listed[number], story+".txtar") {
				t.Errorf("%s cites case %d, and the table does not say so", story, number)
			}
		}
	}
}

// citations are the stories that cite a case in a comment.
func citations(t *testing.T) map[int][]string {
	t.Helper()
	paths, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no stories: %v", err)
	}
	cited := map[int][]string{}
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		story := strings.TrimSuffix(filepath.Base(path), ".txtar")
		for line := range strings.Lines(string(text)) {
			if !strings.HasPrefix(line, "#") {
				continue
			}
			for _, found := range caseCite.FindAllStringSubmatch(line, -1) {
				number, _ := strconv.Atoi(found[1])
				if !slices.Contains(cited[number], story) {
					cited[number] = append(cited[number], story)
				}
			}
		}
	}
	return cited
}

// testNames are the tests of the whole repository.
func testNames(t *testing.T, root string) map[string]bool {
	t.Helper()
	names := map[string]bool{}
	for _, pattern := range []string{"*/*_test.go", "*/*/*_test.go"} {
		paths, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range paths {
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			for _, found := range testFunc.FindAllStringSubmatch(string(text), -1) {
				names[found[1]] = true
			}
		}
	}
	return names
}
