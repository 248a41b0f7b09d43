package layering

import (
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"sallyport/bastion/console"
)

// documents returns the README and all pages of docs/, by slashed path.
func documents(t *testing.T) map[string]string {
	t.Helper()
	pages := map[string]string{}
	names, err := filepath.Glob(filepath.Join(root(t), "docs", "*.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range append(names, filepath.Join(root(t), "README.md")) {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		relative, err := filepath.Rel(root(t), name)
		if err != nil {
			t.Fatal(err)
		}
		pages[filepath.ToSlash(relative)] = string(text)
	}
	return pages
}

func exists(t *testing.T, name string) bool {
	t.Helper()
	_, err := os.Stat(filepath.Join(root(t), filepath.FromSlash(name)))
	return err == nil
}

var (
	markdownLink = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading      = regexp.MustCompile(`(?m)^#{1,6} (.+)$`)
)

// anchors are the names by which the headings of a page are linked to.
func anchors(text string) []string {
	var all []string
	for _, match := range heading.FindAllStringSubmatch(text, -1) {
		name := strings.ToLower(match[1])
		name = regexp.MustCompile(`[^\p{L}\p{N} _-]`).ReplaceAllString(name, "")
		all = append(all, strings.ReplaceAll(name, " ", "-"))
	}
	return all
}

// TestLinksBetweenDocumentsResolve follows every relative link, also to headings.
func TestLinksBetweenDocumentsResolve(t *testing.T) {
	pages := documents(t)
	for page, text := range pages {
		for _, match := range markdownLink.FindAllStringSubmatch(text, -1) {
			target, anchor, _ := strings.Cut(match[1], "#")
			if strings.Contains(target, "://") {
				continue
			}
			name := page
			if target != "" {
				name = path.Join(path.Dir(page), target)
			}
			if !exists(t, name) {
				t.Errorf("%s links to %s, which does not exist", page, match[1])
			}
			if anchor != "" && !slices.Contains(anchors(pages[name]), anchor) {
				t.Errorf("%s links to %s, and that page has no such heading", page, match[1])
			}
		}
	}
}

// ourFolders are the top folders by which a path in a text is taken for one of the repository.
var ourFolders = regexp.MustCompile(`(?:^|[\s` + "`" + `(])((?:cmd|bastion|authz|recorder|replay|internal|configs|scripts|docs)/[A-Za-z0-9_./*-]*)`)

// TestPathsInDocumentsExist checks every path of the repository that a page names.
func TestPathsInDocumentsExist(t *testing.T) {
	for page, text := range documents(t) {
		for _, match := range ourFolders.FindAllStringSubmatch(text, -1) {
			name := strings.TrimRight(match[1], "./")
			found, err := filepath.Glob(filepath.Join(root(t), filepath.FromSlash(name)))
			if err != nil || len(found) == 0 {
				t.Errorf("%s names %s, which does not exist", page, match[1])
			}
		}
	}
}

// TestMakeTargetsInDocumentsExist checks every `make TARGET`.
func TestMakeTargetsInDocumentsExist(t *testing.T) {
	makefile, err := os.ReadFile(filepath.Join(root(t), "Makefile"))
	if err != nil {
		t.Fatal(err)
	}
	targets := regexp.MustCompile("(?m)(?:`|^    |&& )make ([a-z]+)")
	for page, text := range documents(t) {
		for _, match := range targets.FindAllStringSubmatch(text, -1) {
			if !regexp.MustCompile(`(?m)^` + match[1] + `:`).Match(makefile) {
				t.Errorf("%s names make %s, which the Makefile does not have", page, match[1])
			}
		}
	}
}

// TestTestsInDocumentsExist checks every test that a page gives as proof. A name that ends
// in an underscore and an ellipsis stands for all that begin so.
func TestTestsInDocumentsExist(t *testing.T) {
	command := exec.Command("git", "-c", "safe.directory=*", "grep", "-hoE", "^func (Test|Fuzz)[A-Za-z0-9_]+", "--", "*_test.go")
	command.Dir = root(t)
	out, err := command.Output()
	if err != nil {
		t.Fatalf("git grep: %v", err)
	}
	tests := strings.Fields(strings.ReplaceAll(string(out), "func ", ""))
	for page, text := range documents(t) {
		for _, match := range regexp.MustCompile("`((?:Test|Fuzz)[A-Z][A-Za-z0-9_]*)(…?)`").FindAllStringSubmatch(text, -1) {
			if !slices.ContainsFunc(tests, func(name string) bool {
				return name == match[1] || match[2] != "" && strings.HasPrefix(name, match[1])
			}) {
				t.Errorf("%s gives %s as proof, which no package has", page, match[1])
			}
		}
	}
}

// localVerbs are those that the program has besides the console's, with their options.
// cmd/sallyport is a main package, so its tree cannot be asked from here; its
// source is.
var localVerbs = []string{"demo", "init", "serve", "recover", "replay", "export", "verify", "completion", "witness",
	"epoch new", "epoch identity", "epoch rewrap", "epoch unseal", "epoch shred", "ledger checkpoint", "ledger rebuild",
	"index add", "index ls", "index rm", "index purge", "search --local"}

// command is a line such as `ssh alice@gate session ls --live` or `sallyport verify FILE`.
// It ends at a comment, a pipe, or a gap of three blanks.
var command = regexp.MustCompile(`(?:\bssh (?:-o [^ ]+ )?(?:[a-z]+@)?gate|(?:^ *|-- )sallyport) ([a-z](?:[^|<>#\n ]| {1,2}[^|<>#\n ])*)`)

// TestVerbsInDocumentsExist reads every command line of README and docs/operation.md, and asks
// the command tree whether the verb and its options exist.
func TestVerbsInDocumentsExist(t *testing.T) {
	local, err := os.ReadFile(filepath.Join(root(t), "cmd", "sallyport", "root.go"))
	if err != nil {
		t.Fatal(err)
	}
	sources := sourcesOf(t, "cmd/sallyport")
	for _, page := range []string{"README.md", "docs/operation.md"} {
		checked := 0
		for _, line := range commandLines(documents(t)[page]) {
			words := strings.Fields(line)
			if slices.Contains(localVerbs, words[0]) || len(words) > 1 && slices.Contains(localVerbs, words[0]+" "+words[1]) {
				// Those of two words are named where they belong.
				if verb := words[0]; slices.Contains(localVerbs, verb) && !strings.Contains(string(local), verb+"Verb(") {
					t.Errorf("%s: sallyport %s: the program has no such verb", page, verb)
				}
				for _, word := range words {
					if name, isOption := optionName(word); isOption && !strings.Contains(sources, `"`+name+`"`) {
						t.Errorf("%s: %q: the program has no option --%s", page, line, name)
					}
				}
			} else {
				checkVerb(t, page, line, words)
			}
			checked++
		}
		if checked < 10 {
			t.Errorf("%s: only %d command lines were found; the test no longer sees them", page, checked)
		}
	}
}

// commandLines are what stands after `ssh gate` or `sallyport`, in code blocks and in code spans.
func commandLines(text string) []string {
	var lines []string
	for line := range strings.Lines(text) {
		parts := strings.Split(line, "`")
		if strings.HasPrefix(line, "    ") {
			parts = []string{"", line}
		}
		for i := 1; i < len(parts); i += 2 { // what stands between two back quotes
			for _, match := range command.FindAllStringSubmatch(parts[i], -1) {
				lines = append(lines, match[1])
			}
		}
	}
	return lines
}

func optionName(word string) (string, bool) {
	name, isOption := strings.CutPrefix(word, "--")
	name, _, _ = strings.Cut(name, "=")
	return strings.TrimRight(name, "`,.;:)"), isOption && name != ""
}

// checkVerb looks a line up in the console's tree.
func checkVerb(t *testing.T, page, line string, words []string) {
	t.Helper()
	tree := console.Tree()
	found, rest, err := tree.Find(words)
	if err != nil || found == tree {
		if words[0] != "help" {
			t.Errorf("%s: %q: there is no such verb", page, line)
		}
		return
	}
	if found.HasSubCommands() && len(rest) > 0 && !strings.HasPrefix(rest[0], "-") {
		t.Errorf("%s: %q: %s has no verb %s", page, line, found.CommandPath(), rest[0])
	}
	found.InitDefaultHelpFlag()
	for _, word := range rest {
		name, isOption := optionName(word)
		if isOption && found.Flags().Lookup(name) == nil && found.InheritedFlags().Lookup(name) == nil {
			t.Errorf("%s: %q: %s has no option --%s", page, line, found.CommandPath(), name)
		}
	}
}

// sourcesOf joins the Go files of a folder that are no tests.
func sourcesOf(t *testing.T, folder string) string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(root(t), filepath.FromSlash(folder), "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		all.Write(text)
	}
	return all.String()
}

// TestDocumentsNameEveryVerbOfTheConsole keeps the map complete the other way: a noun that the
// console serves is named in README or docs/operation.md.
func TestDocumentsNameEveryVerbOfTheConsole(t *testing.T) {
	pages := documents(t)
	text := pages["README.md"] + pages["docs/operation.md"]
	walk(console.Tree(), func(c *cobra.Command) {
		if c.HasParent() && !c.Parent().HasParent() && !c.Hidden && c.Name() != "help" && !strings.Contains(text, " "+c.Name()) {
			t.Errorf("neither README.md nor docs/operation.md names the verb %s", c.Name())
		}
	})
}

func walk(c *cobra.Command, see func(*cobra.Command)) {
	see(c)
	for _, child := range c.Commands() {
		walk(child, see)
	}
}

// TestPicturesAreSmallAndWhole keeps the pictures fit for a page: each is there, parses as far as
// its end, and is at most 100 KB.
func TestPicturesAreSmallAndWhole(t *testing.T) {
	names, err := filepath.Glob(filepath.Join(root(t), "docs", "pictures", "*.svg"))
	if err != nil || len(names) == 0 {
		t.Fatalf("no pictures: %v", err)
	}
	readme := documents(t)["README.md"]
	for _, name := range names {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if len(data) > 100_000 {
			t.Errorf("%s has %d bytes", name, len(data))
		}
		if !strings.HasPrefix(string(data), "<svg ") || !strings.HasSuffix(string(data), "</svg>\n") {
			t.Errorf("%s is not a whole SVG", name)
		}
		if !strings.Contains(readme, "docs/pictures/"+filepath.Base(name)) {
			t.Errorf("README.md does not show %s", filepath.Base(name))
		}
	}
}
