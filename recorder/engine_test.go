package recorder

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sallyport/recorder/trec"
)

func TestRecordAndReadBack(t *testing.T) {
	o := testOptions(t)
	r, keys := open(t, o), testKeys(t)
	rec := start(t, r, "S-1", true, keys)
	appendFrame(t, rec, KindChannel, "open")
	appendFrame(t, rec, KindInput, "secret")
	last := appendDurable(t, rec, KindOutput, "hello")
	if got := rec.Durable(); got != last {
		t.Errorf("durable up to %d of %d", got, last)
	}
	result, err := rec.Close(patience(t), "exited")
	must(t, err)
	got := readBack(t, r.Path("S-1"), keys)
	if got.err != nil || got.ending != trec.EndingComplete || got.text(KindOutput) != "hello" || got.text(KindInput) != "secret" {
		t.Errorf("read back %+v", got)
	}
	if result.Head != got.facts.Root || result.Reason != "exited" || rec.Durable() != last {
		t.Errorf("result %+v, facts %+v, durable %d", result, got.facts, rec.Durable())
	}
	checkLedger(t, r, "S-1")
	line, err := r.Ledger().Receipt(result.Index)
	must(t, err)
	if line == "" {
		t.Error("no receipt")
	}
	if _, err := rec.Append(Frame{Kind: KindOutput}); !errors.Is(err, ErrClosed) {
		t.Errorf("append after the end: %v", err)
	}
	if n := r.unsealed.Load(); n != 0 {
		t.Errorf("%d bytes count as unsealed", n)
	}
}

// TestManySegments drives the recording through many segments, streams and commits.
func TestManySegments(t *testing.T) {
	o := testOptions(t)
	r, keys := open(t, o), testKeys(t)
	rec := start(t, r, "S-1", true, keys)
	var out, in bytes.Buffer
	for i := range 2000 {
		text := fmt.Sprintf("line %d %s\r\n", i, strings.Repeat("x", i%1500))
		out.WriteString(text)
		p := appendFrame(t, rec, KindOutput, text)
		if i%100 == 0 {
			in.WriteString("k")
			appendFrame(t, rec, KindInput, "k")
			must(t, rec.Wait(patience(t), p))
		}
	}
	if _, err := rec.Close(patience(t), "exited"); err != nil {
		t.Fatal(err)
	}
	got := readBack(t, r.Path("S-1"), keys)
	if got.err != nil || got.text(KindOutput) != out.String() || got.text(KindInput) != in.String() {
		t.Errorf("read back %d frames: %v", len(got.entries), got.err)
	}
	if got.facts.Segments < 4 {
		t.Errorf("%d segments", got.facts.Segments)
	}
	checkLedger(t, r, "S-1")
}

// TestPromise3_CrashAtAnyMoment copies the state of a loaded node again and again, as a
// crash would leave it, and finds each frame that was durable before in the copy.
func TestPromise3_CrashAtAnyMoment(t *testing.T) {
	state := t.TempDir()
	o := optionsIn(state)
	o.JournalSize, o.age = 4<<20, 20e6
	r, keys := open(t, o), testKeys(t)
	rec := start(t, r, "S-1", true, keys)
	var shown Position
	for i := range 10 {
		for range 150 {
			appendFrame(t, rec, KindOutput, strings.Repeat(fmt.Sprint("data ", i), 500))
			shown = appendFrame(t, rec, KindInput, "key")
		}
		must(t, rec.Wait(patience(t), shown))
		crashed := copyState(t, state)
		after := optionsIn(crashed)
		after.JournalSize = 4 << 20
		again := open(t, after)
		first, err := again.Recover(t.Context(), []Left{{"S-1", 1}})
		must(t, err)
		second, err := again.Recover(t.Context(), []Left{{"S-1", 1}})
		must(t, err)
		if first["S-1"] != second["S-1"] || first["S-1"].Reason != ReasonCrashed {
			t.Errorf("recovered %+v, then %+v", first, second)
		}
		got := readBack(t, again.Path("S-1"), keys)
		if got.err != nil || got.frames() < shown || got.sealed != 0 {
			t.Fatalf("run %d: %d frames were shown, %d are recorded: %v", i, shown, got.frames(), got.err)
		}
		if names, _ := filepath.Glob(filepath.Join(crashed, "recordings", "S-*")); len(names) != 1 {
			t.Errorf("files: %v", names)
		}
		checkLedger(t, again, "S-1")
		shut(t, again)
		must(t, os.RemoveAll(crashed))
	}
	_, err := rec.Close(patience(t), "exited")
	must(t, err)
	checkLedger(t, r, "S-1")
}
