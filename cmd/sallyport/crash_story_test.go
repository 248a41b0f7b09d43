package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"sallyport/internal/testkit"
	"sallyport/recorder"
	"sallyport/replay"
)

// newTestStage is the stage of a story that is told in Go; the gate is not started yet.
func newTestStage(t *testing.T, limits ...string) *stage {
	t.Helper()
	s := &stage{dir: t.TempDir(), servers: map[string]*ownServer{}, terminals: map[string]*terminal{}}
	if err := theSite.copyTo(s.dir); err != nil {
		t.Fatal(err)
	}
	g, err := newGate(s.dir, limits)
	if err != nil {
		t.Fatal(err)
	}
	s.gate = g
	t.Cleanup(func() {
		if err := s.close(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("log of the gate:\n%s", g.log())
		}
	})
	return s
}

// command runs a program as a person, in the story's folder.
func (s *stage) command(t *testing.T, words ...string) *exec.Cmd {
	t.Helper()
	all, err := s.asWords(words)
	if err != nil {
		t.Fatal(err)
	}
	c := exec.Command("env", all...)
	c.Dir, c.Env = s.dir, append(os.Environ(), "HOME="+s.dir, "TERM=xterm-256color", "LC_ALL=C.UTF-8")
	return c
}

// output runs a program as a person that must succeed.
func (s *stage) output(t *testing.T, words ...string) string {
	t.Helper()
	c := s.command(t, words...)
	var failure bytes.Buffer
	c.Stderr = &failure
	out, err := c.Output()
	if err != nil {
		t.Fatalf("%s: %v: %s", strings.Join(words, " "), err, failure.String())
	}
	return string(out)
}

// received is what a client's standard output has got so far.
type received struct {
	mu sync.Mutex // guards b
	b  bytes.Buffer
}

func (r *received) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.b.Write(p)
}

func (r *received) bytes() []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	return bytes.Clone(r.b.Bytes())
}

// sessionOf is what `session ls --json` says about a person's only session.
type sessionOf struct {
	ID, User, Action, Result string
	Number                   int64
	EndedAt                  string `json:"ended_at"`
	Head                     string
}

func (s *stage) session(t *testing.T, user string) sessionOf {
	t.Helper()
	all := s.sessions(t, user)
	if len(all) != 1 {
		t.Fatalf("%s has %d sessions, wanted one", user, len(all))
	}
	return all[0]
}

// sessions are all of a person.
func (s *stage) sessions(t *testing.T, user string) []sessionOf {
	t.Helper()
	var all []sessionOf
	if err := json.Unmarshal([]byte(s.output(t, "rosa", "ssh", "gate", "session ls --json --user "+user)), &all); err != nil {
		t.Fatal(err)
	}
	return all
}

// recorded is what a recording holds: shown to the person, and sent by the person.
func (s *stage) recorded(t *testing.T, id string) (shown, typed []byte, ending replay.Ending) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(s.dir, "auditor", "genomics.key"))
	if err != nil {
		t.Fatal(err)
	}
	epoch, err := recorder.ParseEpochKeys(text)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := replay.KeysOf(epoch, theSite.nodeKey)
	if err != nil {
		t.Fatal(err)
	}
	r, err := replay.OpenFile(filepath.Join(s.gate.state(), "recordings", id+".trec"), keys)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for {
		e, err := r.Next()
		if errors.Is(err, io.EOF) {
			return shown, typed, r.Ending()
		}
		if err != nil {
			t.Fatal(err)
		}
		switch e.Kind {
		case recorder.KindOutput, recorder.KindGate:
			shown = append(shown, e.Data...)
		case recorder.KindInput:
			typed = append(typed, e.Data...)
		}
	}
}

// farewell is what the local ssh itself says at the end of a connection.
var farewell = regexp.MustCompile(`(Shared )?[Cc]onnection to [0-9.]+ closed( by remote host)?\.\s*$`)

// withoutFarewell is what came through the gate to a terminal.
func withoutFarewell(t *terminal) []byte { return farewell.ReplaceAll([]byte(t.text()), nil) }

// mustBePrefix holds what somebody got to what the record says.
func mustBePrefix(t *testing.T, who string, got, recorded []byte) {
	t.Helper()
	if bytes.HasPrefix(recorded, got) {
		return
	}
	same := 0
	for same < min(len(got), len(recorded)) && got[same] == recorded[same] {
		same++
	}
	t.Errorf("%s got %d bytes, %d are recorded, and they differ at byte %d: got %q, recorded %q", who, len(got), len(recorded), same,
		got[same:min(same+80, len(got))], recorded[same:min(same+80, len(recorded))])
}

// TestPromise3_KilledGateHasRecordedWhatPeopleGot ends the gate as a power cut
// would, in the middle of a flood and of somebody's typing (case 53).
func TestPromise3_KilledGateHasRecordedWhatPeopleGot(t *testing.T) {
	t.Parallel()
	s := newTestStage(t)
	if err := s.gate.start(); err != nil {
		t.Fatal(err)
	}
	flood := s.command(t, "bob", "ssh", "-q", "bob+genomics@gate", "seq 1 100000000")
	var flooded received
	flood.Stdout = &flooded
	if err := flood.Start(); err != nil {
		t.Fatal(err)
	}
	typist, err := newTerminal(s.command(t, "alice", "ssh", "-q", "-t", "alice+genomics@gate"))
	if err != nil {
		t.Fatal(err)
	}
	s.terminals["alice"] = typist
	echo := func(text, pattern string) {
		t.Helper()
		if _, err := typist.tty.WriteString(text); err != nil {
			t.Fatal(err)
		}
		if _, err := typist.waitFor(regexp.MustCompile(pattern)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := typist.waitFor(regexp.MustCompile(`\$ `)); err != nil {
		t.Fatal(err)
	}
	for i := range 20 {
		echo(fmt.Sprintf("echo answer-$((1000+%d))\r", i), fmt.Sprintf("answer-%d\r", 1000+i))
	}
	testkit.WaitFor(t, patience, "4 MiB of the flood", func() bool { return len(flooded.bytes()) > 4<<20 })
	s.gate.kill()
	if err := flood.Wait(); err == nil {
		t.Error("the flood's client ended as if nothing had happened")
	}
	if _, err := typist.exit(); err != nil {
		t.Fatal(err)
	}

	// Before the restart the files already verify as far as they go; only that the
	// sessions began may still be in the journal.
	report, err := replay.VerifyDir(t.Context(), s.gate.state(), theSite.nodeKey)
	if err != nil {
		t.Error(err)
	}
	for _, f := range report.Findings {
		if f.Broken && f.Code != replay.CodeExtra {
			t.Errorf("before the restart: %s", f)
		}
	}
	for _, r := range report.Recordings {
		if !r.Intact {
			t.Errorf("before the restart: %s", r.Text())
		}
	}
	if err := s.gate.start(); err != nil {
		t.Fatal(err)
	}
	for user, got := range map[string][]byte{"bob": flooded.bytes(), "alice": withoutFarewell(typist)} {
		session := s.session(t, user)
		if session.Result != "crashed" || session.EndedAt == "" || session.Head == "" {
			t.Errorf("the session of %s is %+v, wanted it closed as crashed, with the head of its recording", user, session)
		}
		shown, typed, ending := s.recorded(t, session.ID)
		if ending != replay.EndingCrash {
			t.Errorf("the recording of %s is %s", user, ending)
		}
		mustBePrefix(t, user, got, shown)
		if user == "alice" && bytes.Count(typed, []byte("echo answer-")) != 20 {
			t.Errorf("of what alice typed the record holds %q", typed)
		}
		t.Logf("%s got %d bytes, %d are recorded", user, len(got), len(shown))
	}
	out := s.output(t, "rosa", "sallyport", "verify", "--all", "--config", s.gate.config())
	if !strings.Contains(out, "everything verifies") || strings.Count(out, "ended by crash") < 2 {
		t.Errorf("verify says:\n%s", out)
	}
	if table := s.output(t, "rosa", "ssh", "gate", "session ls"); strings.Count(table, "crashed") != 2 {
		t.Errorf("the list of sessions:\n%s", table)
	}
	// And the gate serves again.
	if out := s.output(t, "bob", "ssh", "-q", "bob+genomics@gate", "echo again"); out != "again\n" {
		t.Errorf("after the restart: %q", out)
	}
}
