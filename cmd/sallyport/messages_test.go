package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestMessagesSayWhatToDo has slips of the hand, their exit codes and what is said of them.
func TestMessagesSayWhatToDo(t *testing.T) {
	t.Setenv("SALLYPORT_CONFIG", filepath.Join(t.TempDir(), "none.yaml"))
	dir := t.TempDir()
	for _, c := range []struct {
		code int
		want string
		args []string
	}{
		{2, "such as 90s or 1m30s", []string{"replay", "x", "--at", "90"}},
		{2, "--speed is more than 0", []string{"replay", "x", "--speed", "0"}},
		{2, "cannot be negative", []string{"replay", "x", "--at", "-5s"}},
		{4, "the index has no session S-none", []string{"index", "rm", "S-none", "--index", filepath.Join(dir, "index")}},
		{1, "--gate USER@GATE", []string{"status", "--socket", filepath.Join(dir, "none.sock")}},
	} {
		if code, _, told := command(t, "", c.args...); code != c.code || !strings.Contains(told, c.want) {
			t.Errorf("%q: exit code %d: %s", c.args, code, told)
		}
	}
}

// TestACheckSaysInJSONWhatIsWrong: also of a file that cannot be read as a configuration.
func TestACheckSaysInJSONWhatIsWrong(t *testing.T) {
	file := filepath.Join(t.TempDir(), "sallyport.yaml")
	if err := os.WriteFile(file, []byte("colour: blue\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	code, out, _ := command(t, "", "serve", "--check", "--json", "--config", file)
	var answer struct {
		Right  bool     `json:"right"`
		Faults []string `json:"faults"`
	}
	if err := json.Unmarshal([]byte(out), &answer); err != nil || code != 1 || answer.Right || len(answer.Faults) == 0 {
		t.Errorf("exit code %d, %v: %s", code, err, out)
	}
}
