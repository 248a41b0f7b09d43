package layering

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// cryptoFloor is the oldest golang.org/x/crypto whose ssh package has no known
// flaw that touches a server's authentication.
var cryptoFloor = [3]int{0, 56, 0}

// goMod is the part of `go mod edit -json` that is used here.
type goMod struct {
	Require []struct{ Path, Version string }
	Tool    []struct{ Path string }
}

func readGoMod(t *testing.T) goMod {
	t.Helper()
	command := exec.Command("go", "mod", "edit", "-json")
	command.Dir = root(t)
	out, err := command.Output()
	if err != nil {
		t.Fatalf("go mod edit -json: %v", err)
	}
	var m goMod
	if err := json.Unmarshal(out, &m); err != nil {
		t.Fatal(err)
	}
	return m
}

// direct returns the version of each module that our files import or that is a
// tool of ours. It counts imports rather than go.mod's "indirect" remarks, which
// may be behind.
func direct(t *testing.T) map[string]string {
	t.Helper()
	m := readGoMod(t)
	used := map[string]string{}
	use := func(imported string) {
		longest := -1
		for i, r := range m.Require {
			if within(imported, r.Path) && (longest < 0 || len(r.Path) > len(m.Require[longest].Path)) {
				longest = i
			}
		}
		if longest >= 0 {
			used[m.Require[longest].Path] = m.Require[longest].Version
		} else if first, _, _ := strings.Cut(imported, "/"); strings.Contains(first, ".") {
			t.Errorf("%s is imported, and no line of go.mod provides it", imported)
		}
	}
	for _, f := range files(t) {
		for _, imported := range f.imports {
			use(imported)
		}
	}
	for _, tool := range m.Tool {
		use(tool.Path)
	}
	return used
}

// TestEveryDependencyIsExplained reads the rows of docs/dependencies.md: module,
// version, reason, what it would take to leave it.
func TestEveryDependencyIsExplained(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root(t), "docs", "dependencies.md"))
	if err != nil {
		t.Fatal(err)
	}
	row := regexp.MustCompile("(?m)^\\| `([^`]+)` \\| ([^ |]+) \\| ([^|]+) \\| ([^|]+) \\|$")
	explained := map[string]string{}
	for _, match := range row.FindAllStringSubmatch(string(text), -1) {
		explained[match[1]] = match[2]
	}
	for module, version := range direct(t) {
		switch told, found := explained[module]; {
		case !found:
			t.Errorf("docs/dependencies.md has no row for %s", module)
		case told != version:
			t.Errorf("docs/dependencies.md says %s of %s, go.mod %s", told, module, version)
		}
	}
	required := map[string]bool{}
	for _, r := range readGoMod(t).Require {
		required[r.Path] = true
	}
	for module := range explained {
		if !required[module] {
			t.Errorf("docs/dependencies.md explains %s, which go.mod does not have", module)
		}
	}
}

func TestCryptoIsNotTooOld(t *testing.T) {
	const crypto = "golang.org/x/crypto"
	for _, r := range readGoMod(t).Require {
		if r.Path != crypto {
			continue
		}
		var have [3]int
		if _, err := fmt.Sscanf(r.Version, "v%d.%d.%d", &have[0], &have[1], &have[2]); err != nil {
			t.Fatalf("version %s: %v", r.Version, err)
		}
		for i := range have {
			if have[i] != cryptoFloor[i] {
				if have[i] < cryptoFloor[i] {
					t.Errorf("%s is %s; it must be at least %v", crypto, r.Version, cryptoFloor)
				}
				return
			}
		}
		return
	}
	t.Errorf("go.mod does not have %s", crypto)
}
