package layering

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "sallyport"

// layers go from the bottom to the top. A package may import packages of lower
// layers only, never one beside it: so authz knows nothing of the recorder, and
// the recorder nothing of policy.
var layers = [][]string{
	{"configs", "internal/config", "internal/layering", "internal/picture", "internal/screen", "internal/words"},
	{"internal/database", "recorder/journal", "recorder/tlog", "recorder/trec"},
	{"internal/longtape", "recorder/ledger", "recorder/witness"},
	{"authz", "recorder"},
	{"recorder/epoch", "recorder/vault"},
	{"replay", "replay/index"},
	{"bastion/commands", "bastion/sftpguard", "bastion/termguard"},
	{"bastion"},
	{"bastion/console", "bastion/portal"},
	{"internal/node"},
	{"internal/demo"},
	{"cmd/sallyport"},
	{"internal/testkit"},
	{"internal/testgate"},
	{"scripts/bench", "scripts/faults"},
}

// onlyIn names dependencies that are not to be had everywhere. Test files may
// use all of them.
var onlyIn = map[string][]string{
	// Our front door needs control that this library hides; it serves the
	// demo's data servers, where its comfort is worth having.
	"github.com/gliderlabs/ssh": {"internal/demo"},
	"github.com/creack/pty":     {"internal/demo", "scripts/bench"},
	// It reads and writes files; the bastion judges packets and touches none.
	"github.com/pkg/sftp": {"internal/demo"},
	// What is made for tests stays out of what is installed.
	"testing":                             {"internal/testkit"},
	"github.com/rogpeppe/go-internal":     {},
	"go.uber.org/goleak":                  {},
	module + "/internal/testkit":          {"internal/testgate", "scripts/bench", "scripts/faults"},
	module + "/internal/testgate":         {"scripts/bench", "scripts/faults"},
	"github.com/spf13/cobra":              {"bastion/console", "cmd/sallyport"},
	"github.com/mattn/go-sqlite3":         {"internal/database"},
	"github.com/pressly/goose/v3":         {"internal/database"},
	"go.yaml.in/yaml/v4":                  {"internal/config"},
	"filippo.io/age":                      {"recorder", "recorder/epoch", "recorder/trec", "replay", "bastion/console", "internal/node", "internal/demo", "cmd/sallyport"},
	"github.com/klauspost/compress":       {"recorder/trec"},
	"golang.org/x/mod":                    {"recorder/ledger", "recorder/tlog", "recorder/trec", "recorder/witness", "replay"},
	"github.com/transparency-dev/formats": {"recorder/tlog", "recorder/witness"},
	"github.com/prometheus/client_golang": {"bastion", "internal/node", "recorder"},
}

// file is one Go file of the repository with what it imports.
type file struct {
	path    string // from the top of the repository, with slashes
	imports []string
}

func (f file) directory() string { return path.Dir(f.path) }
func (f file) test() bool        { return strings.HasSuffix(f.path, "_test.go") }

// root is the top of the repository: tests run in their package's folder.
func root(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs(filepath.Join("..", ".."))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "go.mod")); err != nil {
		t.Fatal(err)
	}
	return dir
}

// files parses every Go file, whatever its build constraints say.
func files(t *testing.T) []file {
	t.Helper()
	top := root(t)
	var all []file
	err := filepath.WalkDir(top, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if base := d.Name(); name != top && (strings.HasPrefix(base, ".") || base == "testdata" || base == "bin" || base == "node_modules") {
				return filepath.SkipDir
			}
			// A module of its own below ours (tests against heavy oracles) is built by itself.
			if _, err := os.Stat(filepath.Join(name, "go.mod")); err == nil && name != top {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(name, ".go") {
			return nil
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		relative, err := filepath.Rel(top, name)
		if err != nil {
			return err
		}
		f := file{path: filepath.ToSlash(relative)}
		for _, spec := range parsed.Imports {
			imported, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				return err
			}
			f.imports = append(f.imports, imported)
		}
		all = append(all, f)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(all) < 5 {
		t.Fatalf("found only %d Go files below %s", len(all), top)
	}
	return all
}

func layerOf(directory string) int {
	return slices.IndexFunc(layers, func(l []string) bool { return slices.Contains(l, directory) })
}

func TestImportsPointDownwards(t *testing.T) {
	for _, f := range files(t) {
		own := layerOf(f.directory())
		if own < 0 {
			t.Errorf("%s: folder %s has no place in the table of layers", f.path, f.directory())
			continue
		}
		if f.test() {
			continue // a test may look at its package from above
		}
		for _, imported := range f.imports {
			inside, found := strings.CutPrefix(imported, module+"/")
			if !found {
				continue
			}
			switch other := layerOf(inside); {
			case other < 0:
				t.Errorf("%s imports %s, which has no place in the table of layers", f.path, inside)
			case other >= own:
				t.Errorf("%s imports %s, which is not below %s", f.path, inside, f.directory())
			}
		}
	}
}

func TestDependenciesStayWhereTheyBelong(t *testing.T) {
	for _, f := range files(t) {
		if f.test() {
			continue
		}
		for _, imported := range f.imports {
			for restricted, places := range onlyIn {
				if within(imported, restricted) && !slices.Contains(places, f.directory()) {
					t.Errorf("%s imports %s, which belongs in %v and tests only", f.path, imported, places)
				}
			}
		}
	}
}

// within reports whether an import path is a module or package, or lies below it.
func within(imported, parent string) bool {
	return imported == parent || strings.HasPrefix(imported, parent+"/")
}
