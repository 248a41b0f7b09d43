package replay

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"sallyport/internal/longtape"
	"sallyport/recorder"
	"sallyport/recorder/trec"
)

// large makes the file of a long session and returns how many bytes its frames hold.
func (n *tape) large(t testing.TB, path string, events int) (size int64) {
	t.Helper()
	file, err := os.Create(path)
	must(t, err)
	defer file.Close()
	out := bufio.NewWriterSize(file, 1<<20)
	size, err = longtape.Write(out, longtape.Options{Session: "S-LARGE", Recipients: n.epoch.Recipient, Strict: n.epoch.Strict,
		Signer: n.signer, Start: n.now, Events: events, Lasts: 24 * time.Hour, Effort: trec.EffortFast})
	must(t, err)
	must(t, out.Flush())
	return size
}

// Sizes of the long session. The full one is the product's promise; it takes a
// while, so it is run by SALLYPORT_FULL=1 (make bench) and a small part of it otherwise.
const (
	largeEvents = 2_000_000
	largeLimit  = 100 << 20 // bytes of memory, of the whole process
)

const (
	fullVariable  = "SALLYPORT_FULL"
	childVariable = "SALLYPORT_LARGE"
)

// TestConstantMemory plays and exports a long session, each in a process of its
// own whose greatest memory is what Linux says it was.
func TestConstantMemory(t *testing.T) {
	if os.Getenv(childVariable) != "" {
		readLarge(t)
		return
	}
	n := newTape(t)
	events := largeEvents / share
	if os.Getenv(fullVariable) != "" {
		events = largeEvents
	}
	path, key := filepath.Join(n.dir, "S-LARGE.trec"), filepath.Join(n.dir, "epoch.key")
	size := n.large(t, path, events)
	must(t, os.WriteFile(key, n.epoch.MarshalPrivate("test"), 0o600))
	t.Logf("%d events, %d MB", events, size/1e6)
	for _, what := range []string{"play", "text", "asciicast", "asciicast-v2", "jsonl", "raw"} {
		c := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestConstantMemory$", "-test.count=1", "-test.v")
		c.Env = append(os.Environ(), childVariable+"="+what+" "+path+" "+key)
		begin := time.Now()
		out, err := c.CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v\n%s", what, err, out)
		}
		_, after, _ := strings.Cut(string(out), "VmHWM ")
		digits, _, _ := strings.Cut(after, " ")
		kilobytes, err := strconv.Atoi(digits)
		must(t, err)
		t.Logf("%s: %.1f s, at most %d MB of memory", what, time.Since(begin).Seconds(), kilobytes>>10)
		if kilobytes<<10 > largeLimit*slowdown {
			t.Errorf("%s took %d MB of memory", what, kilobytes>>10)
		}
	}
}

// readLarge is what runs in the process that is measured.
func readLarge(t *testing.T) {
	words := strings.Fields(os.Getenv(childVariable))
	text, err := os.ReadFile(words[2])
	must(t, err)
	epoch, err := recorder.ParseEpochKeys(text)
	must(t, err)
	keys, err := KeysOf(epoch, nil)
	must(t, err)
	file, err := OpenPath(words[1], keys)
	must(t, err)
	defer file.Close()
	if words[0] == "play" {
		must(t, (&Player{File: file, Out: io.Discard, Clock: &hurry{now: time.Unix(0, 0)}}).Play(context.Background()))
	} else {
		r, err := file.Frames()
		must(t, err)
		result, err := Export(io.Discard, r, ExportOptions{Format: Format(words[0]), Input: true})
		must(t, err)
		if result.Frames < largeEvents/share || result.LeftOut != 0 || result.Replaced != 0 {
			t.Errorf("%+v", result)
		}
	}
	status, err := os.ReadFile("/proc/self/status")
	must(t, err)
	for line := range strings.Lines(string(status)) {
		if value, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			fmt.Printf("VmHWM %s \n", strings.Fields(value)[0])
		}
	}
}

// hurry is a clock on which no time has to be waited for.
type hurry struct{ now time.Time }

func (h *hurry) Now() time.Time { return h.now }

func (h *hurry) After(d time.Duration) (<-chan time.Time, func()) {
	h.now = h.now.Add(d)
	fired := make(chan time.Time, 1)
	fired <- h.now
	return fired, func() {}
}
