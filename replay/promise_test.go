package replay

import (
	"bytes"
	"errors"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"sallyport/recorder"
)

// blocksOf gives the offsets of a file's blocks, and its end.
func blocksOf(t *testing.T, data []byte) []int64 {
	t.Helper()
	b, err := recorder.NewBlockReader(bytes.NewReader(data))
	must(t, err)
	var offsets []int64
	for {
		k, err := b.Next()
		if err != nil {
			return append(offsets, b.Offset())
		}
		offsets = append(offsets, k.Offset)
	}
}

// TestPromise5_NothingReadableOnDisk searches everything that the node wrote.
func TestPromise5_NothingReadableOnDisk(t *testing.T) {
	n := newNode(t)
	secrets := []string{"PATIENT-0815", "hunter2-typed", "Straße 7", "alice", "genomics", "192.0.2.7", "select-command"}
	n.record(t, "S-1", true, n.at(0, recorder.KindOutput, secrets[0]+secrets[2]), n.at(0, recorder.KindInput, secrets[1]),
		n.at(0, recorder.KindCommand, secrets[6]), n.at(0, recorder.KindMarker, "user=alice"))
	n.record(t, "S-2", false, n.at(0, recorder.KindOutput, secrets[0]), n.at(0, recorder.KindInput, secrets[1]))
	open := n.begin(t, "S-3", true) // while a session runs, too
	p, err := open.Append(n.at(0, recorder.KindOutput, strings.Repeat(secrets[0], 1000)))
	must(t, err)
	must(t, open.Wait(t.Context(), p))
	files := 0
	must(t, filepath.WalkDir(filepath.Join(n.dir, "recordings"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		files++
		data := read(t, path)
		for _, s := range secrets {
			if bytes.Contains(data, []byte(s)) {
				t.Errorf("%s holds %q", d.Name(), s)
			}
		}
		return nil
	}))
	if files != 3 {
		t.Errorf("%d files", files)
	}
	n.finish(t, open, "S-3")
}

// TestPromise5_WhoCanRead tries every set of keys.
func TestPromise5_WhoCanRead(t *testing.T) {
	n := newNode(t)
	frames := []recorder.Frame{n.at(0, recorder.KindOutput, "password: "), n.at(1, recorder.KindInput, "hunter2\r"),
		n.at(2, recorder.KindOutput, "\r\n$ ")}
	terminal, exec := n.record(t, "S-1", true, frames...), n.record(t, "S-2", false, frames...)
	texts := func(all []recorder.Entry) (s []string) {
		for _, e := range all {
			s = append(s, string(e.Data))
		}
		return s
	}
	whole := []string{"password: ", "hunter2\r", "\r\n$ "}

	r, all, err := readAll(t, terminal, n.keys(t, false))
	must(t, err)
	if !slices.Equal(texts(all), []string{whole[0], whole[2]}) || r.Sealed() != 1 || r.CanReadTyped() {
		t.Errorf("without the strict identity: %q, %d sealed", texts(all), r.Sealed())
	}
	r, all, err = readAll(t, terminal, n.keys(t, true))
	must(t, err)
	if !slices.Equal(texts(all), whole) || r.Sealed() != 0 || r.Ending() != EndingComplete || !r.CanReadTyped() {
		t.Errorf("with the strict identity: %q", texts(all))
	}
	if _, all, err = readAll(t, exec, n.keys(t, false)); err != nil || !slices.Equal(texts(all), whole) {
		t.Errorf("exec input is under the ordinary key: %q %v", texts(all), err)
	}

	// What the node keeps - its signing key and the public recipients - opens nothing.
	state, err := recorder.ParseEpochKeys(n.epoch.MarshalPublic("genomics"))
	must(t, err)
	keys, err := KeysOf(state, n.key)
	must(t, err)
	other, err := recorder.NewEpochKeys()
	must(t, err)
	foreign, err := KeysOf(other, n.key)
	must(t, err)
	strictOnly := n.keys(t, true)
	strictOnly.Ordinary = nil
	for name, k := range map[string]Keys{"the node's state": keys, "another project": foreign, "the strict key alone": strictOnly} {
		if _, _, err := readAll(t, terminal, k); !errors.Is(err, recorder.ErrSealed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestPromise3_CrashKeepsWhatWasAcknowledged copies the file of a live
// session, as a crash would leave it, and reads it.
func TestPromise3_CrashKeepsWhatWasAcknowledged(t *testing.T) {
	n := newNode(t)
	rec := n.begin(t, "S-1", true)
	path := filepath.Join(t.TempDir(), "S-1.rec")
	for i := range 20 {
		p, err := rec.Append(n.at(time.Duration(i), recorder.KindOutput, "x"))
		must(t, err)
		must(t, rec.Wait(t.Context(), p))
		data := read(t, n.rec.Path("S-1"))
		write(t, path, append(data, "SPB torn"[:i%8]...))
		r, all, err := readAll(t, path, n.keys(t, false))
		must(t, err)
		if len(all) != i+1 || r.Ending() != EndingOpen {
			t.Fatalf("after %d acknowledged frames %d are there, %s", i+1, len(all), r.Ending())
		}
	}
	n.finish(t, rec, "S-1")
}

// TestReaderFindsChanges reads changed files with keys but without Verify.
func TestReaderFindsChanges(t *testing.T) {
	n := newNode(t)
	path := n.record(t, "S-1", true, n.typical()...)
	data := read(t, path)
	keys := n.keys(t, true)
	keys.Node = nil // by the seal alone
	at := blocksOf(t, data)
	for i := at[2]; i < at[len(at)-2]; i++ {
		changed := bytes.Clone(data)
		changed[i] ^= 1
		write(t, path, changed)
		r, all, err := readAll(t, path, keys)
		if err == nil && len(all) == 4 && r.Ending() == EndingComplete && !inSignature(at, i) {
			t.Errorf("byte %d was changed and the reader did not see it", i)
		}
	}
}

func inSignature(at []int64, i int64) bool {
	for _, end := range at {
		if i < end && i >= end-64 {
			return true
		}
	}
	return false
}
