package layering

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestNoPathsOfAWorkplace looks for absolute paths of the machine that a file
// was written on: they mean nothing elsewhere and tell about the author.
func TestNoPathsOfAWorkplace(t *testing.T) {
	top := root(t)
	command := exec.Command("git", "-c", "safe.directory=*", "ls-files", "-z")
	command.Dir = top
	out, err := command.Output()
	if err != nil {
		t.Fatalf("git ls-files: %v", err)
	}
	places := []*regexp.Regexp{
		// Folders that are roots of checkouts on the usual build machines.
		regexp.MustCompile(`(^|[\s"'=:(<>` + "`" + `])/(work|workspace|builds|Users)/[A-Za-z0-9_.-]+`),
	}
	// This very checkout, unless its path is so short that it means something else too.
	if strings.Count(top, "/") > 1 {
		places = append(places, regexp.MustCompile(regexp.QuoteMeta(top)+`(/|\b)`))
	}
	if home, err := os.UserHomeDir(); err == nil {
		places = append(places, regexp.MustCompile(regexp.QuoteMeta(home)+`/(go|\.cache|\.config)/`))
	}
	tracked := strings.Split(strings.TrimSuffix(string(out), "\x00"), "\x00")
	for _, name := range tracked {
		data, err := os.ReadFile(filepath.Join(top, filepath.FromSlash(name)))
		if os.IsNotExist(err) {
			continue // removed, and not yet committed
		}
		if err != nil {
			t.Fatal(err)
		}
		if bytes.IndexByte(data, 0) >= 0 {
			continue // not text
		}
		for _, place := range places {
			if found := place.Find(data); found != nil {
				line := 1 + bytes.Count(data[:bytes.Index(data, found)], []byte("\n"))
				t.Errorf("%s:%d holds the path %q", name, line, bytes.TrimSpace(found))
			}
		}
	}
}
