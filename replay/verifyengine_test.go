package replay_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"sallyport/internal/testkit"
	"sallyport/recorder"
	"sallyport/replay"
)

// engine is the real recorder with its ledger, in a folder of its own.
type engine struct {
	dir    string
	key    ed25519.PublicKey
	rec    *recorder.Recorder
	epoch  recorder.EpochKeys
	mu     sync.Mutex // guards number: a session's open is told in its order
	number int64
}

func newEngine(t testing.TB, dir string) *engine {
	t.Helper()
	signer := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, ed25519.SeedSize))
	e := &engine{dir: dir, key: signer.Public().(ed25519.PublicKey), epoch: value[recorder.EpochKeys](t)(recorder.NewEpochKeys())}
	e.rec = value[*recorder.Recorder](t)(recorder.Open(recorder.Options{Dir: filepath.Join(dir, "recordings"), Node: "N-test", Signer: signer,
		Secret: bytes.Repeat([]byte{9}, 32), JournalSize: 8 << 20, JournalFiles: 8}))
	t.Cleanup(func() { e.stop(t) })
	return e
}

func (e *engine) stop(t testing.TB) {
	if e.rec == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := e.rec.Close(ctx); err != nil {
		t.Error(err)
	}
	e.rec = nil
}

func (e *engine) start(ctx context.Context, session string, pty bool) (*recorder.Recording, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.number++
	return e.rec.Start(ctx, recorder.Meta{Session: session, Number: e.number, Epoch: "2026Q4", User: "alice", Project: "genomics", Server: "db1",
		Account: "alice", Action: "shell", PTY: pty, Term: "xterm", Columns: 80, Rows: 24, RemoteAddr: "192.0.2.7"}, e.epoch.Keys())
}

func put(ctx context.Context, rec *recorder.Recording, k recorder.Kind, text string) error {
	p, err := rec.Append(recorder.Frame{Kind: k, Time: time.Now(), Data: []byte(text)})
	if err == nil {
		err = rec.Wait(ctx, p)
	}
	return err
}

// TestPromise5_NothingReadableOnDisk searches everything that the node wrote,
// while a session runs, too.
func TestPromise5_NothingReadableOnDisk(t *testing.T) {
	e := newEngine(t, t.TempDir())
	secrets := []string{"PATIENT-0815", "hunter2-typed", "Straße 7", "alice", "genomics", "192.0.2.7", "select-command"}
	for i, pty := range []bool{true, false} {
		rec := value[*recorder.Recording](t)(e.start(t.Context(), fmt.Sprintf("S-%d", i), pty))
		must(t, put(t.Context(), rec, recorder.KindOutput, secrets[0]+secrets[2]))
		must(t, put(t.Context(), rec, recorder.KindInput, secrets[1]))
		must(t, put(t.Context(), rec, recorder.KindCommand, secrets[6]))
		must(t, put(t.Context(), rec, recorder.KindMarker, "user=alice"))
		_ = value[recorder.Result](t)(rec.Close(t.Context(), "exit"))
	}
	open := value[*recorder.Recording](t)(e.start(t.Context(), "S-9", true))
	must(t, put(t.Context(), open, recorder.KindOutput, strings.Repeat(secrets[0], 50000)))
	files := 0
	walked := filepath.WalkDir(e.dir, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // the journal names its files anew while it runs
		}
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		files++
		for _, s := range secrets {
			if bytes.Contains(data, []byte(s)) {
				t.Errorf("%s holds %q", path, s)
			}
		}
		return nil
	})
	_ = value[recorder.Result](t)(open.Close(t.Context(), "exit"))
	must(t, walked)
	if files < 6 {
		t.Errorf("%d files", files)
	}
}

// TestPromise4_WhatTheRecorderWritesVerifies: ended sessions, a live one, and
// after a crash those that it left, as the next start closes them.
func TestPromise4_WhatTheRecorderWritesVerifies(t *testing.T) {
	e := newEngine(t, t.TempDir())
	var results []recorder.Result
	for i := range 3 {
		rec := value[*recorder.Recording](t)(e.start(t.Context(), fmt.Sprintf("S-%d", i), i == 0))
		must(t, put(t.Context(), rec, recorder.KindOutput, "hello\r\n"))
		must(t, put(t.Context(), rec, recorder.KindInput, "x"))
		results = append(results, value[recorder.Result](t)(rec.Close(t.Context(), "exit")))
	}
	live := value[*recorder.Recording](t)(e.start(t.Context(), "S-live", true))
	must(t, put(t.Context(), live, recorder.KindOutput, strings.Repeat("a long line\r\n", 60000)))
	must(t, put(t.Context(), live, recorder.KindInput, "typed"))
	files := replay.FilesIn(e.dir, e.key)
	verify := func(want int) replay.NodeReport {
		t.Helper()
		r := value[replay.NodeReport](t)(replay.VerifyNode(t.Context(), files))
		if !r.Intact || len(r.Recordings) != want {
			t.Fatalf("%s", r.Text())
		}
		return r
	}
	verify(4)

	// The power goes: what was on the disk is all that is left.
	crashed := filepath.Join(t.TempDir(), "state")
	testkit.CopyState(t, crashed, e.dir)
	_ = value[recorder.Result](t)(live.Close(t.Context(), "exit"))
	files.Receipts = append(files.Receipts, value[string](t)(e.rec.Ledger().Receipt(results[0].Index)))
	e.stop(t)
	if r := verify(4); len(found(r)) != 0 {
		t.Errorf("%s", r.Text())
	}

	files = replay.FilesIn(crashed, e.key)
	verify(4)
	again := newEngine(t, crashed)
	_, err := again.rec.Recover(t.Context(), []recorder.Left{{Session: "S-live", Number: 4}})
	must(t, err)
	again.stop(t)
	r := verify(4)
	i := slices.IndexFunc(r.Recordings, func(r replay.Report) bool { return r.Session == "S-live" })
	if rec := r.Recordings[i]; rec.Ending != replay.EndingCrash || rec.Proved != uint64(rec.Segments)+1 || len(found(r)) != 0 {
		t.Errorf("%s", r.Text())
	}
}

// TestVerifyBesideARunningNode verifies again and again while sessions come and
// go: nothing that an honest node does is an alarm.
func TestVerifyBesideARunningNode(t *testing.T) {
	e := newEngine(t, t.TempDir())
	ctx, cancel := context.WithCancel(t.Context())
	var group sync.WaitGroup
	errs := make(chan error, 4)
	for worker := range cap(errs) {
		group.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				if err := e.session(fmt.Sprintf("S-%d%06d", worker, i)); err != nil {
					errs <- err
					return
				}
			}
		})
	}
	for range 3 {
		r := value[replay.NodeReport](t)(replay.VerifyDir(ctx, e.dir, e.key))
		if a := alarms(found(r)); len(a) != 0 {
			t.Errorf("%v\n%s", a, r.Text())
		}
	}
	cancel()
	group.Wait()
	close(errs)
	for err := range errs {
		t.Error(err)
	}
}

func (e *engine) session(name string) error {
	ctx := context.Background()
	rec, err := e.start(ctx, name, false)
	for i := 0; err == nil && i < 5; i++ {
		err = put(ctx, rec, recorder.KindOutput, strings.Repeat(name, 1000))
	}
	if err == nil {
		_, err = rec.Close(ctx, "exit")
	}
	return err
}
