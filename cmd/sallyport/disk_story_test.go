package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// smallDisk bounds what the gate can record to some 40 MiB: by a file system of
// that size or, where mounting is not permitted, by the largest file that the
// gate may write.
type smallDisk struct {
	dir     string
	mounted bool
}

const smallDiskBytes = 40 << 20

func newSmallDisk(t *testing.T, s *stage) *smallDisk {
	t.Helper()
	g := s.gate
	d := &smallDisk{dir: filepath.Join(g.state(), "recordings")}
	if err := os.MkdirAll(d.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	mark, err := os.ReadFile(filepath.Join(d.dir, "sallyport.recordings"))
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", d.dir, "tmpfs", 0, fmt.Sprintf("size=%d,mode=700", smallDiskBytes)); err != nil {
		t.Logf("not permitted to mount (%v): a limit on the size of files has to do", err)
		g.prefix = []string{"prlimit", fmt.Sprintf("--fsize=%d", smallDiskBytes), "--"}
		return d
	}
	d.mounted = true
	s.atEnd = append(s.atEnd, func() error { return unix.Unmount(d.dir, unix.MNT_DETACH) })
	// The gate knows its folder by this file.
	if err := os.WriteFile(filepath.Join(d.dir, "sallyport.recordings"), mark, 0o600); err != nil {
		t.Fatal(err)
	}
	return d
}

// makeRoom is what an administrator does about it.
func (d *smallDisk) makeRoom(t *testing.T, g *gate) {
	t.Helper()
	g.prefix = nil
	if !d.mounted {
		return
	}
	if err := unix.Mount("", d.dir, "", unix.MS_REMOUNT, fmt.Sprintf("size=%d,mode=700", 4*smallDiskBytes)); err != nil {
		t.Fatal(err)
	}
}

// refusal runs a program that must end with an exit status, and returns what it said.
func (s *stage) refusal(t *testing.T, status int, words ...string) string {
	t.Helper()
	out, err := s.command(t, words...).CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != status {
		t.Errorf("%s ended with %v, wanted exit status %d: %s", strings.Join(words, " "), err, status, out)
	}
	return string(out)
}

// TestPromise3_FullDiskEndsAndRefusesSessions fills the disk of a running gate (case 54).
func TestPromise3_FullDiskEndsAndRefusesSessions(t *testing.T) {
	t.Parallel()
	s := newTestStage(t, "drain=12s")
	config, err := os.OpenFile(s.gate.config(), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := config.WriteString("recording:\n  min_free: 16MiB\n"); err != nil {
		t.Fatal(err)
	}
	if err := config.Close(); err != nil {
		t.Fatal(err)
	}
	disk := newSmallDisk(t, s)
	if err := s.gate.start(); err != nil {
		t.Fatal(err)
	}
	typist, err := newTerminal(s.command(t, "alice", "ssh", "-q", "-t", "alice+genomics@gate"))
	if err != nil {
		t.Fatal(err)
	}
	s.terminals["alice"] = typist
	if _, err := typist.waitFor(regexp.MustCompile(`\$ `)); err != nil {
		t.Fatal(err)
	}

	// The flood goes on until nothing more can be recorded, and then it ends.
	flood := s.command(t, "bob", "ssh", "bob+genomics@gate", "base64 /dev/urandom")
	var flooded received
	var said bytes.Buffer
	flood.Stdout, flood.Stderr = &flooded, &said
	err = flood.Run()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 254 {
		t.Errorf("the flood ended with %v, wanted exit status 254", err)
	}
	if !strings.Contains(said.String(), "This session can no longer be recorded, so it ends") {
		t.Errorf("the flood's person was told %q", said.String())
	}
	// Nobody else's does while the journal has room and the little of it fits.
	if _, err := typist.tty.Write([]byte("echo still-$((6*7))\r")); err != nil {
		t.Fatal(err)
	}
	if _, err := typist.waitFor(regexp.MustCompile(`still-42`)); err != nil {
		t.Error(err)
	}
	// No other begins.
	if out := s.refusal(t, 254, "bob", "ssh", "bob+genomics@gate", "echo unrecorded"); strings.Contains(out, "unrecorded\n") ||
		!strings.Contains(out, "could not be recorded, so it is not opened") {
		t.Errorf("a new session got %q", out)
	}
	again := func() {
		t.Helper()
		if out := s.output(t, "bob", "ssh", "-q", "bob+genomics@gate", "echo recorded again"); out != "recorded again\n" {
			t.Errorf("with room again: %q", out)
		}
	}
	// With room again, the gate that never stopped takes sessions again.
	disk.makeRoom(t, s.gate)
	if disk.mounted {
		again()
	}
	// What had found no room rests in the journal until there is some, or the next start.
	if err := s.gate.stop(); err != nil {
		t.Fatal(err)
	}
	if err := s.gate.start(); err != nil {
		t.Fatal(err)
	}
	again()
	for user, got := range map[string][]byte{"bob": flooded.bytes(), "alice": withoutFarewell(typist)} {
		all := s.sessions(t, user)
		at := slices.IndexFunc(all, func(one sessionOf) bool { return one.Result != "exited" })
		if at < 0 {
			t.Fatalf("all sessions of %s ended by themselves: %+v", user, all)
		}
		session := all[at]
		if session.EndedAt == "" {
			t.Errorf("the session of %s is still open", user)
		}
		shown, _, _ := s.recorded(t, session.ID)
		// The last sentence of the gate may not have found room; all else is there.
		got, _, _ = bytes.Cut(got, []byte("\rsallyport: "))
		mustBePrefix(t, user, got, shown)
		t.Logf("%s got %d bytes, %d are recorded; the session is %s", user, len(got), len(shown), session.Result)
	}
}
