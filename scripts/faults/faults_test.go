package main

import (
	"bytes"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// built compiles the gate as it is shipped, without the race detector, which
// would only slow down a process that is killed before it could report.
func built(t *testing.T) string {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "sallyport")
	command := exec.CommandContext(t.Context(), "go", "build", "-buildvcs=false", "-trimpath", "-tags=sqlite_fts5", "-o", binary, "sallyport/cmd/sallyport")
	if out, err := command.CombinedOutput(); err != nil {
		t.Fatalf("building the gate: %v\n%s", err, out)
	}
	return binary
}

// report shows what the harness says in the test's log.
type report struct{ t *testing.T }

func (r report) Write(p []byte) (int, error) {
	r.t.Logf("%s", bytes.TrimSuffix(p, []byte("\n")))
	return len(p), nil
}

// TestPromise3_NothingAcknowledgedIsLost is a sample of what `make faults` does.
func TestPromise3_NothingAcknowledgedIsLost(t *testing.T) {
	o := options{binary: built(t), dir: t.TempDir(), runs: 50, chain: 25, whole: 10, parallel: 2, people: 20,
		load: 250 * time.Millisecond, seed: uint64(time.Now().UnixNano()), keep: true, perClass: 1, points: 16}
	if err := run(t.Context(), o, report{t}); err != nil {
		t.Fatal(err)
	}
}

// TestStreamIsHeldToItself shows that a follower finds each difference.
func TestStreamIsHeldToItself(t *testing.T) {
	whole := make([]byte, 3*line+17)
	fill("name", 0, whole)
	part := make([]byte, 70)
	fill("name", 100, part)
	if !bytes.Equal(part, whole[100:170]) || strings.Count(string(whole), "\n") != 3 || len(bytes.SplitAfter(whole, []byte("\n"))[0]) != line {
		t.Fatalf("the stream is %q, and from byte 100 %q", whole, part)
	}
	for _, split := range []int{1, 63, 64, 65, len(whole)} {
		f := follower{name: "name"}
		for rest := whole; len(rest) > 0; rest = rest[min(split, len(rest)):] {
			if _, err := f.Write(rest[:min(split, len(rest))]); err != nil {
				t.Fatal(err)
			}
		}
		if f.matched != int64(len(whole)) || f.tail != nil {
			t.Errorf("in pieces of %d: %d bytes matched, then %q", split, f.matched, f.tail)
		}
	}
	for at := range whole {
		changed := bytes.Clone(whole)
		changed[at] ^= 1
		f := follower{name: "name"}
		if _, err := f.Write(changed); err != nil {
			t.Fatal(err)
		}
		if f.matched != int64(at) || !bytes.Equal(f.tail, changed[at:]) {
			t.Fatalf("byte %d changed: %d bytes matched, then %q", at, f.matched, f.tail)
		}
	}
}

// TestClaimsFail shows that each claim can fail.
func TestClaimsFail(t *testing.T) {
	session := func(change func(*client, *program, *recorded)) error {
		c := &client{name: "n", kind: kindSome, size: 50, exited: true, got: follower{matched: 50}}
		c.sent.Store(20)
		p := &program{session: "S-1", received: follower{matched: 10}, written: 100}
		r := &recorded{shown: follower{matched: 60}, typed: follower{matched: 15}, gate: []byte("words of the gate")}
		change(c, p, r)
		return holds(c, p, r)
	}
	if err := session(func(*client, *program, *recorded) {}); err != nil {
		t.Fatal(err)
	}
	for want, change := range map[string]func(*client, *program, *recorded){
		"the client got 61":             func(c *client, _ *program, _ *recorded) { c.got.matched = 61; c.size = 61 },
		"the data server got 16":        func(_ *client, p *program, _ *recorded) { p.received.matched = 16 },
		"the data server wrote 59":      func(_ *client, p *program, _ *recorded) { p.written = 59 },
		"the client sent 14":            func(c *client, _ *program, _ *recorded) { c.sent.Store(14) },
		"which nobody sent":             func(_ *client, _ *program, r *recorded) { r.shown.tail = []byte("x") },
		"which is not recorded":         func(c *client, _ *program, _ *recorded) { c.got.tail = []byte("other words") },
		"came before the exit status":   func(c *client, _ *program, _ *recorded) { c.size = 51 },
		"input at the data server goes": func(_ *client, p *program, _ *recorded) { p.received.tail = []byte("x") },
	} {
		if err := session(change); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("wanted %q, got %v", want, err)
		}
	}
}
