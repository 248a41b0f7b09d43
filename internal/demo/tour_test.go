package demo

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// buildSallyport builds the command once, as a person would.
func buildSallyport(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "sallyport")
	build := exec.Command("go", "build", "-buildvcs=false", "-tags", "sqlite_fts5", "-o", path, "sallyport/cmd/sallyport")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	return path
}

// TestTour plays the whole story with the real ssh client.
func TestTour(t *testing.T) {
	var out bytes.Buffer
	dir := filepath.Join(t.TempDir(), "demo")
	err := Run(t.Context(), Options{Dir: dir, Tour: true, Stdout: &out, Stderr: io.Discard, Executable: buildSallyport(t)})
	if err != nil {
		log, _ := os.ReadFile(filepath.Join(dir, "log.json"))
		t.Fatalf("%v\n%s\n%s", err, out.String(), log)
	}
	t.Log("\n" + out.String())
	if steps := strings.Count(out.String(), "✓"); steps != len(new(tour).story()) || strings.Contains(out.String(), "✗") {
		t.Errorf("%d steps of %d", steps, len(new(tour).story()))
	}
}

// TestTourFailsWhenAVerbLies gives the tour a program that finds everything in
// order, also the flipped byte.
func TestTourFailsWhenAVerbLies(t *testing.T) {
	liar := filepath.Join(t.TempDir(), "liar")
	if err := os.WriteFile(liar, []byte("#!/bin/sh\necho 'complete: "+liveMark+"'\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	err := Run(t.Context(), Options{Dir: filepath.Join(t.TempDir(), "demo"), Tour: true, Stdout: &out, Stderr: io.Discard, Executable: liar})
	if err == nil || !strings.Contains(err.Error(), "one byte of a copy") {
		t.Fatalf("%v\n%s", err, out.String())
	}
	if !strings.Contains(out.String(), "✗ 21") {
		t.Errorf("the step is not marked:\n%s", out.String())
	}
}

// lines is output that a test follows while it is written.
type lines struct{ ch chan string }

func (l lines) Write(p []byte) (int, error) {
	l.ch <- string(p)
	return len(p), nil
}

// TestStay starts the demo, sees that a second one is refused, and stops it.
func TestStay(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "demo")
	ctx, cancel := context.WithTimeout(t.Context(), 3*patience)
	defer cancel()
	out := lines{make(chan string, 64)}
	done := make(chan error, 1)
	go func() { done <- Run(ctx, Options{Dir: dir, Stdout: out, Stderr: io.Discard, Executable: "sallyport"}) }()
	var said strings.Builder
	for !strings.Contains(said.String(), "Ctrl-C stops it.") {
		select {
		case text := <-out.ch:
			said.WriteString(text)
		case err := <-done:
			t.Fatalf("ended with %v after %s", err, said.String())
		}
	}
	for _, p := range people() {
		if !strings.Contains(said.String(), "ssh_config "+p.name) {
			t.Errorf("%s is not named:\n%s", p.name, said.String())
		}
	}
	if err := Run(ctx, Options{Dir: dir, Stdout: io.Discard, Stderr: io.Discard}); err == nil || !strings.Contains(err.Error(), "a demo runs in") {
		t.Errorf("a second demo in the same folder: %v", err)
	}
	if check, err := exec.Command("ssh", "-G", "-F", filepath.Join(dir, "ssh_config"), "alice-genomics").CombinedOutput(); err != nil ||
		!strings.Contains(string(check), "user alice+genomics\n") {
		t.Errorf("ssh_config: %v\n%s", err, check)
	}
	cancel()
	select {
	case err := <-done:
		if err != nil {
			t.Errorf("ended with %v", err)
		}
	case <-time.After(patience):
		t.Fatal("does not end")
	}
}

func TestFolderOfSomethingElseIsRefused(t *testing.T) {
	dir := t.TempDir()
	precious := filepath.Join(dir, "precious")
	if err := os.WriteFile(precious, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := openState(dir); err == nil || !strings.Contains(err.Error(), "something else") {
		t.Fatalf("got %v", err)
	}
	if _, err := os.Stat(precious); err != nil {
		t.Fatal(err)
	}
}

func TestFolderOfAnEarlierDemoIsWiped(t *testing.T) {
	dir := t.TempDir()
	s, err := openState(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.path("old"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := openState(dir); err == nil {
		t.Fatal("two demos share a folder")
	}
	s.close()
	if s, err = openState(dir); err != nil {
		t.Fatal(err)
	}
	defer s.close()
	if _, err := os.Stat(s.path("old")); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("the old file: %v", err)
	}
}

func TestCodes(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "people", "alice"), 0o700); err != nil {
		t.Fatal(err)
	}
	now := time.Unix(1_800_000_000, 0)
	a := authenticator{dir: dir, name: "alice", now: func() time.Time { return now }, margin: machineTime}
	// The secret of RFC 6238, appendix B.
	if err := a.keep("GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ"); err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for range 3 { // of the step before, the present one, and the next
		code, err := a.code()
		if err != nil || len(code) != 6 || seen[code] {
			t.Fatalf("%q: %v", code, err)
		}
		seen[code] = true
	}
	var used *UsedError
	if _, err := a.code(); !errors.As(err, &used) || used.Wait <= 0 || used.Wait > codeStep+time.Second {
		t.Fatalf("a fourth code: %v", err)
	}
	now = now.Add(used.Wait)
	if code, err := a.code(); err != nil || seen[code] {
		t.Fatalf("the next code %q: %v", code, err)
	}
	if _, err := (authenticator{dir: dir, name: "../alice", now: time.Now}).code(); err == nil {
		t.Error("a path was taken for a name")
	}
	if _, err := Code(dir, "nobody"); err == nil {
		t.Error("nobody has a code")
	}
}

func TestCodeOfRFC6238(t *testing.T) {
	for at, want := range map[int64]string{59: "287082", 1111111109: "081804", 20000000000: "353130"} {
		if code, err := codeAt("GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ", at/30); err != nil || code != want {
			t.Errorf("at %d: %q, %v", at, code, err)
		}
	}
}

func TestNextStep(t *testing.T) {
	begin := int64(1_800_000_000 / 30)
	for _, c := range []struct {
		name   string
		last   int64
		second int // of the present step
		want   int64
		wait   time.Duration
	}{
		{"fresh", 0, 0, begin - 1, 0},
		{"the step before ends soon", 0, 27, begin, 0},
		{"after the one before", begin - 1, 5, begin, 0},
		{"after the present", begin, 5, begin + 1, 0},
		{"all used", begin + 1, 10, begin + 2, 20*time.Second + 50*time.Millisecond},
	} {
		t.Run(c.name, func(t *testing.T) {
			step, wait := nextStep(c.last, time.Unix(begin*30+int64(c.second), 0), machineTime)
			if step != c.want || wait != c.wait {
				t.Errorf("step %d after %s, want %d after %s", step-begin, wait, c.want-begin, c.wait)
			}
		})
	}
}

func TestPlain(t *testing.T) {
	for in, want := range map[string]string{
		"a\r\nb\r\r\n":                       "a\nb\n",
		"x\r\x1b[Kwaiting\r\x1b[Kapproved\n": "approved\n",
		"\x1b[97;40mq\x1b[0m":                "q",
		"keep\nold\rnew":                     "keep\nnew",
	} {
		if got := plain(in); got != want {
			t.Errorf("%q became %q, want %q", in, got, want)
		}
	}
}
