package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sallyport/authz"
)

// An auditor indexes what they opened, finds it, and takes it out again, all without a node.
func TestIndexOfWhatWasShown(t *testing.T) {
	recording, identity, key := recorded(t)
	dir := filepath.Join(t.TempDir(), "index")
	opened := []string{recording, "--identity", identity, "--key", key, "--index", dir}
	if code, out, told := command(t, "", append([]string{"index", "add"}, opened...)...); code != 0 || !strings.Contains(out, "S-01TEST: 1 lines") || !strings.Contains(told, "in clear") {
		t.Fatalf("index add: %d %s%s", code, out, told)
	}
	code, out, told := command(t, "", "search", "--local", "DATA server", "--index", dir)
	if code != 0 || !strings.Contains(out, "hello from the data server") || !strings.Contains(out, "sallyport replay "+recording+" --at 0s") {
		t.Errorf("search --local: %d %s%s", code, out, told)
	}
	var hits []localHit
	code, out, _ = command(t, "", "search", "--local", "hello", "--index", dir, "--session", "S-01TEST", "--json")
	if err := json.Unmarshal([]byte(out), &hits); code != 0 || err != nil || len(hits) != 1 || hits[0].Epoch != "p/2026Q4" || hits[0].Replay == "" {
		t.Errorf("search --local --json: %d %s %v", code, out, err)
	}
	if code, out, _ := command(t, "", "search", "--local", "hello", "--index", dir, "--user", "nobody"); code != 0 || !strings.Contains(out, "Nothing was found") {
		t.Errorf("search of another person: %d %s", code, out)
	}
	if code, out, _ := command(t, "", "index", "ls", "--index", dir); code != 0 || !strings.Contains(out, "S-01TEST") || !strings.Contains(out, "p/2026Q4") {
		t.Errorf("index ls: %d %s", code, out)
	}
	if code, out, told := command(t, "", "index", "purge", "--epoch", "p/2026Q4", "--index", dir); code != 0 || !strings.Contains(out, "erased 1") {
		t.Errorf("index purge: %d %s%s", code, out, told)
	}
	for _, words := range [][]string{{"index", "ls"}, {"search", "--local", "hello"}} {
		if code, out, _ := command(t, "", append(words, "--index", dir)...); code != 0 || strings.Contains(out, "S-01TEST") {
			t.Errorf("%q after the purge: %d %s", words, code, out)
		}
	}
	if code, _, told := command(t, "", "index", "rm", "S-01TEST", "--index", dir); code != 4 || !strings.Contains(told, "no session") {
		t.Errorf("index rm of nothing: %d %s", code, told)
	}
}

func TestIndexRefuses(t *testing.T) {
	recording, identity, key := recorded(t)
	moved, movedIdentity, movedKey := recordedAs(t, authz.ActionSFTP)
	open := filepath.Join(t.TempDir(), "open")
	if err := os.Mkdir(open, 0o755); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "index")
	for _, c := range []struct {
		words []string
		code  int
		told  string
	}{
		{[]string{"index", "add", recording, "--identity", identity, "--key", key, "--index", open}, 1, "chmod go-rwx"},
		{[]string{"index", "add", moved, "--identity", movedIdentity, "--key", movedKey, "--index", dir}, 1, "sftp"},
		{[]string{"index", "add", recording, "--index", dir}, 2, "--identity"},
		{[]string{"index", "add"}, 2, "usage"},
		{[]string{"index", "purge", "--index", dir}, 2, "--epoch"},
		{[]string{"search", "--local", "***", "--index", dir}, 2, "letter or digit"},
		{[]string{"search", "--local", "x", "--kind", "event", "--index", dir}, 2, "--local"},
		{[]string{"search", "x", "--index", dir}, 2, "--local"},
	} {
		if code, _, told := command(t, "", c.words...); code != c.code || !strings.Contains(told, c.told) {
			t.Errorf("%q: %d %s", c.words, code, told)
		}
	}
}
