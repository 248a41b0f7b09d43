package main

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sallyport/recorder/epoch"
)

// TestHalfADestructionIsTold loses the second file while the first is being destroyed: what is gone is said, and no more.
func TestHalfADestructionIsTold(t *testing.T) {
	dir := t.TempDir()
	ordinary, strict, err := epoch.New("genomics/2026Q4")
	if err != nil {
		t.Fatal(err)
	}
	first, second, out := filepath.Join(dir, "first.key"), filepath.Join(dir, "second.key"), filepath.Join(dir, "out")
	key := epoch.Both(ordinary, strict).MarshalPrivate(ordinary.Epoch)
	for _, path := range []string{first, second, out} {
		if err := os.WriteFile(path, key, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	statement := epoch.Statement{Epoch: ordinary.Epoch, By: "rosa", Reason: "over"}
	if statement.Files, err = epoch.LookAll([]string{first, second}); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(second); err != nil {
		t.Fatal(err)
	}
	err = destroyAll([]string{first, second}, statement, out)
	if err == nil || !strings.Contains(err.Error(), "destroyed: 1 of 2") {
		t.Errorf("the error is %v", err)
	}
	text, err := os.ReadFile(out)
	if err != nil || !strings.Contains(string(text), `"first.key"`) || strings.Contains(string(text), "second.key") {
		t.Errorf("the statement is %s, %v", text, err)
	}
	// With nothing destroyed there is nothing to state.
	if err := destroyAll([]string{second}, statement, out); err == nil {
		t.Error("a missing file was destroyed")
	}
	if _, err := os.Lstat(out); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a statement of nothing: %v", err)
	}
}
