package vault

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"filippo.io/age"

	"sallyport/recorder/trec"
)

// value takes the error out of a call.
func value[T any](t testing.TB) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// store is two folders, a clock, and recordings that the ledger knows.
type store struct {
	*Vault
	t        testing.TB
	o        Options
	signer   ed25519.PrivateKey
	now      time.Time
	log      bytes.Buffer
	expected []Expected
}

func newStore(t testing.TB) *store {
	t.Helper()
	dir := t.TempDir()
	s := &store{t: t, signer: ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)), now: time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)}
	s.o = Options{Dir: filepath.Join(dir, "first"), Second: filepath.Join(dir, "second"), State: dir, NodeKey: s.signer.Public().(ed25519.PublicKey),
		Clock: func() time.Time { return s.now }, Log: slog.New(slog.NewTextHandler(&s.log, nil))}
	must(t, errors.Join(os.Mkdir(s.o.Dir, 0o700), os.Mkdir(s.o.Second, 0o700)))
	s.reopen()
	return s
}

// reopen is a restart of the node.
func (s *store) reopen() {
	s.t.Helper()
	s.Vault = value[*Vault](s.t)(Open(s.o))
}

// record writes a recording; without its end when it is live.
func (s *store) record(live bool) (session string) {
	s.t.Helper()
	session = fmt.Sprintf("S-%04d", len(s.expected)+1)
	id := value[*age.X25519Identity](s.t)(age.GenerateX25519Identity())
	strict := value[*age.X25519Identity](s.t)(age.GenerateX25519Identity())
	f := value[*os.File](s.t)(os.Create(s.path(s.o.Dir, session)))
	defer f.Close()
	w := value[*trec.Writer](s.t)(trec.NewWriter(f, trec.Options{Session: session, Node: "N-1", Epoch: "genomics/2026Q4", Start: s.now, Meta: []byte("{}"),
		Recipients: id.Recipient().String(), StrictRecipients: strict.Recipient().String(), Signer: s.signer, Codecs: value[*trec.Codecs](s.t)(trec.NewCodecs(1))}))
	for i := range 3 {
		_, err := w.Add(trec.Frame{Kind: trec.KindOutput, Time: s.now.Add(time.Duration(i) * time.Second), Data: bytes.Repeat([]byte("output of a job\r\n"), 50)})
		must(s.t, err)
		value[[]trec.Leaf](s.t)(w.Seal(trec.EffortBest))
	}
	if live {
		return session
	}
	value[trec.Summary](s.t)(w.Close(s.now.Add(time.Minute), "exited"))
	size := value[int64](s.t)(f.Seek(0, io.SeekEnd))
	_, err := f.Seek(0, io.SeekStart)
	must(s.t, err)
	report := value[trec.Report](s.t)(trec.Verify(f, s.o.NodeKey, nil))
	s.expected = append(s.expected, Expected{Index: int64(3 * len(s.expected)), Session: session, Root: report.Root, Size: size})
	s.Finished(session)
	return session
}

func (s *store) source(from int64) iter.Seq2[Expected, error] {
	return func(yield func(Expected, error) bool) {
		for _, e := range s.expected {
			if e.Index >= from && !yield(e, nil) {
				return
			}
		}
	}
}

func (s *store) scrub() Report {
	s.t.Helper()
	return value[Report](s.t)(s.Scrub(s.t.Context(), s.source, nil))
}

// left are the files of the second folder.
func (s *store) left() (names []string) {
	s.t.Helper()
	for _, e := range value[[]os.DirEntry](s.t)(os.ReadDir(s.o.Second)) {
		if e.Name() != marker {
			names = append(names, e.Name())
		}
	}
	return names
}

func (s *store) change(dir, session string, change func(text []byte) []byte) {
	s.t.Helper()
	path := s.path(dir, session)
	must(s.t, os.WriteFile(path, change(value[[]byte](s.t)(os.ReadFile(path))), 0o600))
}

func TestFinishedRecordingsAreCopied(t *testing.T) {
	s := newStore(t)
	one, two, live := s.record(false), s.record(false), s.record(true)
	if b := s.Backlog(); b.Files != 2 || b.Bytes != s.expected[0].Size+s.expected[1].Size || !b.Since.Equal(s.now) {
		t.Errorf("backlog %+v", b)
	}
	must(t, s.CopyAll(t.Context()))
	if b := s.Backlog(); b.Files != 0 || b.Bytes != 0 || !b.Since.IsZero() {
		t.Errorf("backlog %+v", b)
	}
	if got := s.left(); !slices.Equal(got, []string{one + Suffix, two + Suffix}) {
		t.Errorf("copied %v", got)
	}
	for _, session := range []string{one, two} {
		if !bytes.Equal(value[[]byte](t)(os.ReadFile(s.path(s.o.Dir, session))), value[[]byte](t)(os.ReadFile(s.path(s.o.Second, session)))) {
			t.Errorf("%s differs", session)
		}
	}
	s.Finished(one) // told twice
	if s.Backlog().Files != 0 {
		t.Error("copied twice")
	}
	// A live one is copied once it has its end, even if nobody tells.
	s.reopen()
	if b := s.Backlog(); b.Files != 0 || b.Faulty != 0 {
		t.Errorf("after a restart: %+v", b)
	}
	must(t, os.Remove(s.path(s.o.Dir, live)))
	if r := s.scrub(); !r.Intact() || r.Recordings != 2 || r.Waiting != 0 || r.Finished.IsZero() {
		t.Errorf("scrub %+v", r)
	}
}

func TestRunCopiesAndEnds(t *testing.T) {
	s := newStore(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); s.Run(ctx) }()
	session := s.record(false)
	deadline := time.Now().Add(20 * time.Second)
	for s.Backlog().Files != 0 {
		if time.Now().After(deadline) {
			t.Fatal("not copied")
		}
		<-time.After(time.Millisecond)
	}
	cancel()
	<-done
	if got := s.left(); !slices.Equal(got, []string{session + Suffix}) {
		t.Errorf("copied %v", got)
	}
}

// faulty fails at one place, as disks do.
type faulty struct {
	realDisk
	create_, write, sync, read, rename_ error
	drop                                bool // tell of success and write nothing
}

func (d *faulty) create(path string) (file, error) {
	if d.create_ != nil {
		return nil, d.create_
	}
	f, err := d.realDisk.create(path)
	return &faultyFile{f, d}, err
}

func (d *faulty) open(path string) (io.ReadCloser, error) {
	if d.read != nil {
		return nil, d.read
	}
	return d.realDisk.open(path)
}

func (d *faulty) rename(from, to string) error {
	if d.rename_ != nil {
		return d.rename_
	}
	return d.realDisk.rename(from, to)
}

type faultyFile struct {
	file
	d *faulty
}

func (f *faultyFile) Write(b []byte) (int, error) {
	switch {
	case f.d.write != nil:
		n, _ := f.file.Write(b[:len(b)/2])
		return n, f.d.write
	case f.d.drop:
		n, err := f.file.Write(b[:len(b)-1])
		return n + 1, err
	}
	return f.file.Write(b)
}

func (f *faultyFile) Sync() error {
	if f.d.sync != nil {
		return f.d.sync
	}
	return f.file.Sync()
}

// Whatever fails, no copy stands there that is none, and the backlog knows.
func TestFaultsOfTheSecondDisk(t *testing.T) {
	for name, d := range map[string]*faulty{
		"create ENOSPC": {create_: syscall.ENOSPC},
		"write ENOSPC":  {write: syscall.ENOSPC},
		"sync EIO":      {sync: syscall.EIO},
		"read back EIO": {read: syscall.EIO},
		"rename EIO":    {rename_: syscall.EIO},
		"short, untold": {drop: true},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t)
			s.o.MaxBacklog = 1
			s.reopen()
			session := s.record(false)
			s.disk = d
			err := s.CopyAll(t.Context())
			if err == nil {
				t.Fatal("the copy was made all the same")
			}
			if got := s.left(); len(got) != 0 {
				t.Errorf("left %v", got)
			}
			if b := s.Backlog(); b.Files != 1 || b.Err == nil {
				t.Errorf("backlog %+v", b)
			}
			if err := s.Ready(); err == nil || !strings.Contains(err.Error(), "recording.max_backlog") {
				t.Errorf("ready: %v", err)
			}
			if r := s.scrub(); !r.Intact() || r.Waiting != 1 {
				t.Errorf("a copy that waits is no fault: %+v", r)
			}
			// The disk is well again.
			s.disk = realDisk{}
			must(t, s.CopyAll(t.Context()))
			if got := s.left(); !slices.Equal(got, []string{session + Suffix}) || s.Ready() != nil || s.Backlog().Err != nil {
				t.Errorf("after it: %v, %v, %+v", got, s.Ready(), s.Backlog())
			}
		})
	}
}

// A node that dies at any point goes on where it was.
func TestRestarts(t *testing.T) {
	s := newStore(t)
	one := s.record(false)
	// Before anything: it waits again.
	s.reopen()
	if s.Backlog().Files != 1 {
		t.Errorf("backlog %+v", s.Backlog())
	}
	// While it copied: what is half there is made anew.
	must(t, os.WriteFile(s.path(s.o.Second, one)+tmpSuffix, []byte("half"), 0o600))
	s.reopen()
	must(t, s.CopyAll(t.Context()))
	// After the rename, before it was noted, with a torn note.
	must(t, os.WriteFile(s.copiedFile(), []byte(one[:3]), 0o600))
	s.reopen()
	if b := s.Backlog(); b.Files != 0 || b.Faulty != 0 || !s.copied[one] {
		t.Errorf("backlog %+v", b)
	}
	s.reopen()
	if !s.copied[one] {
		t.Error("the note was lost behind a torn one")
	}
	if got := s.left(); !slices.Equal(got, []string{one + Suffix}) {
		t.Errorf("left %v", got)
	}
}

func TestNothingIsRepairedSilently(t *testing.T) {
	s := newStore(t)
	lost, short := s.record(false), s.record(false)
	must(t, s.CopyAll(t.Context()))
	must(t, os.Remove(s.path(s.o.Second, lost)))
	s.change(s.o.Second, short, func(b []byte) []byte { return b[:len(b)-10] })
	s.reopen()
	if b := s.Backlog(); b.Files != 0 || b.Faulty != 2 {
		t.Errorf("backlog %+v", b)
	}
	must(t, s.CopyAll(t.Context()))
	if got := s.left(); !slices.Equal(got, []string{short + Suffix}) {
		t.Errorf("repaired: %v", got)
	}
	if !strings.Contains(s.log.String(), "a copy was made, and is not there") {
		t.Error("no alarm was logged")
	}
	// A file that is there already, which is no copy of ours, is never written over.
	s.expected = s.expected[:2]
	foreign := "S-0003"
	must(t, os.WriteFile(s.path(s.o.Second, foreign), []byte("mine"), 0o600))
	if s.record(false) != foreign {
		t.Fatal("another name")
	}
	must(t, s.CopyAll(t.Context()))
	if text := value[[]byte](t)(os.ReadFile(s.path(s.o.Second, foreign))); string(text) != "mine" {
		t.Error("written over")
	}
	if b := s.Backlog(); b.Faulty != 3 {
		t.Errorf("backlog %+v", b)
	}
	r := s.scrub()
	if r.Faults != 3 || r.Findings[0].Good != First {
		t.Errorf("scrub %+v", r)
	}
	// Somebody puts the good form in place: the next look sees that.
	text := value[[]byte](t)(os.ReadFile(s.path(s.o.Dir, lost)))
	must(t, os.WriteFile(s.path(s.o.Second, lost), text, 0o600))
	must(t, s.look())
	if b := s.Backlog(); b.Faulty != 2 {
		t.Errorf("after it was put right: %+v", b)
	}
}

// A disk that is not mounted is no empty one.
func TestASecondDiskThatIsNotMounted(t *testing.T) {
	s := newStore(t)
	s.record(false)
	s.record(false)
	must(t, s.CopyAll(t.Context()))
	away := s.o.Second + ".away"
	must(t, os.Rename(s.o.Second, away))
	must(t, os.Mkdir(s.o.Second, 0o700)) // the mount point
	s.reopen()
	if b := s.Backlog(); b.Faulty != 0 || !errors.Is(b.Err, ErrNoSecond) {
		t.Errorf("backlog %+v", b)
	}
	if r := s.scrub(); r.Faults != 1 || len(r.Findings) != 1 || !strings.Contains(r.Findings[0].String(), "is its disk mounted?") {
		t.Errorf("scrubbed without the disk: %+v", r)
	}
	s.record(false)
	if err := s.CopyAll(t.Context()); !errors.Is(err, ErrNoSecond) || len(s.left()) != 0 {
		t.Errorf("copied to the mount point: %v, %v", err, s.left())
	}
	must(t, os.Remove(s.o.Second))
	must(t, os.Rename(away, s.o.Second))
	must(t, s.CopyAll(t.Context()))
	if len(s.left()) != 3 {
		t.Errorf("copied %v", s.left())
	}
	same := s.o
	same.Second = same.Dir
	if _, err := Open(same); err == nil || !strings.Contains(err.Error(), "same folder") {
		t.Errorf("one folder for both: %v", err)
	}
}

func TestPromise4_ScrubFindsWhatChangedAndNamesTheGoodForm(t *testing.T) {
	flip := func(at int) func([]byte) []byte {
		return func(b []byte) []byte { b[(at+len(b))%len(b)] ^= 1; return b }
	}
	gone := func(s *store, dir, session string) { must(s.t, os.Remove(s.path(dir, session))) }
	for name, c := range map[string]struct {
		form  Form
		fault string
		do    func(s *store, dir, session string)
	}{
		"a flipped byte":    {Second, "damaged at byte", func(s *store, dir, session string) { s.change(dir, session, flip(2000)) }},
		"of the first form": {First, "damaged at byte", func(s *store, dir, session string) { s.change(dir, session, flip(2000)) }},
		"in the trailer":    {Second, "damaged", func(s *store, dir, session string) { s.change(dir, session, flip(-60)) }},
		"in the footer":     {First, "", func(s *store, dir, session string) { s.change(dir, session, flip(-1)) }},
		"a cut tail": {First, "bytes, and the ledger says", func(s *store, dir, session string) {
			s.change(dir, session, func(b []byte) []byte { return b[:len(b)-1] })
		}},
		"a missing file":       {Second, "missing", gone},
		"a missing first form": {First, "missing", gone},
		"another recording": {Second, "bytes, and the ledger says", func(s *store, dir, session string) {
			s.change(dir, session, func([]byte) []byte { return []byte("x") })
		}},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t)
			s.record(false)
			session := s.record(false)
			s.record(false)
			must(t, s.CopyAll(t.Context()))
			dir, other := s.o.Dir, Second
			if c.form == Second {
				dir, other = s.o.Second, First
			}
			c.do(s, dir, session)
			r := s.scrub()
			if r.Faults != 1 || len(r.Findings) != 1 || r.Recordings != 3 {
				t.Fatalf("%+v", r)
			}
			if f := r.Findings[0]; f.Session != session || f.Form != c.form || f.Good != other || !strings.Contains(f.Fault, c.fault) {
				t.Errorf("%s", f)
			}
			if !strings.Contains(s.log.String(), session) {
				t.Error("no alarm was logged")
			}
			// It is all still as it was found.
			if again := s.scrub(); again.Faults != 1 {
				t.Errorf("repaired: %+v", again)
			}
			c.do(s, map[string]string{s.o.Dir: s.o.Second, s.o.Second: s.o.Dir}[dir], session)
			if r := s.scrub(); r.Faults != 2 || r.Findings[0].Good != "" || !strings.Contains(r.Findings[0].String(), "no form of it is whole") {
				t.Errorf("both: %+v", r)
			}
		})
	}
}

// A whole recording of the same node, renamed and as long, is not the one that the ledger knows.
func TestPromise4_ScrubComparesWithTheLedger(t *testing.T) {
	s := newStore(t)
	session := s.record(false)
	must(t, s.CopyAll(t.Context()))
	s.expected[0].Root = strings.Repeat("0", 64)
	if r := s.scrub(); r.Faults != 2 || !strings.Contains(r.Findings[0].Fault, "not the recording that the ledger knows") {
		t.Errorf("%+v", r)
	}
	s.o.NodeKey = ed25519.NewKeyFromSeed(bytes.Repeat([]byte{1}, 32)).Public().(ed25519.PublicKey)
	s.reopen()
	if r := s.scrub(); r.Faults != 2 || r.Findings[0].Session != session {
		t.Errorf("signed by another node: %+v", r)
	}
}

func TestScrubGoesOnAfterARestartAndKnowsWhenItIsDue(t *testing.T) {
	s := newStore(t)
	for range 5 {
		s.record(false)
	}
	must(t, s.CopyAll(t.Context()))
	if !s.Due() {
		t.Error("the first is not due")
	}
	ctx, cancel := context.WithCancel(t.Context())
	r, err := s.Scrub(ctx, s.source, func(r Report) {
		if r.Recordings == 2 {
			cancel()
		}
	})
	if !errors.Is(err, context.Canceled) || r.Recordings != 2 {
		t.Fatalf("%+v, %v", r, err)
	}
	s.reopen()
	if last, ok := s.LastScrub(); !ok || !last.Finished.IsZero() || !s.Due() {
		t.Errorf("%+v", last)
	}
	seen := 0
	r = value[Report](t)(s.Scrub(t.Context(), s.source, func(Report) { seen++ }))
	var bytes int64
	for _, e := range s.expected {
		bytes += 2 * e.Size
	}
	if seen != 3 || r.Recordings != 5 || r.Bytes != bytes || r.Finished.IsZero() {
		t.Errorf("went on with %d: %+v", seen, r)
	}
	s.reopen()
	if s.Due() {
		t.Error("due at once")
	}
	s.now = s.now.Add(Interval)
	if !s.Due() {
		t.Error("not due after a week")
	}
	must(t, os.WriteFile(s.reportFile(), []byte("{torn"), 0o600))
	s.reopen()
	if r := s.scrub(); r.Recordings != 5 {
		t.Errorf("after a torn state: %+v", r)
	}
	broken := func(int64) iter.Seq2[Expected, error] {
		return func(yield func(Expected, error) bool) { yield(Expected{}, errors.New("the ledger is cut")) }
	}
	if _, err := s.Scrub(t.Context(), broken, nil); err == nil || !strings.Contains(err.Error(), "the ledger is cut") {
		t.Errorf("a ledger that cannot be read: %v", err)
	}
}

func TestOneScrubAtATimeAndNoFasterThanAllowed(t *testing.T) {
	s := newStore(t)
	s.record(false)
	s.o.Rate = 1 << 10 // a recording takes seconds
	s.reopen()
	ctx, cancel := context.WithCancel(t.Context())
	started, ended := make(chan struct{}), make(chan error)
	var once atomic.Bool
	source := func(from int64) iter.Seq2[Expected, error] {
		if once.CompareAndSwap(false, true) {
			close(started)
		}
		return s.source(from)
	}
	go func() { _, err := s.Scrub(ctx, source, nil); ended <- err }()
	<-started
	if _, err := s.Scrub(t.Context(), s.source, nil); !errors.Is(err, ErrScrubbing) {
		t.Errorf("two at once: %v", err)
	}
	cancel() // it waits for its pace, and lets go at once
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("ended with %v", err)
	}
}

func TestOneFormOnly(t *testing.T) {
	s := newStore(t)
	s.o.Second = ""
	s.reopen()
	session := s.record(false)
	if s.Backlog().Files != 0 || s.Ready() != nil {
		t.Errorf("a backlog for nothing: %+v", s.Backlog())
	}
	s.Run(t.Context()) // returns at once
	if r := s.scrub(); !r.Intact() || r.Waiting != 0 {
		t.Errorf("%+v", r)
	}
	s.change(s.o.Dir, session, func(b []byte) []byte { b[1500] ^= 1; return b })
	if r := s.scrub(); r.Faults != 1 || r.Findings[0].Good != "" {
		t.Errorf("%+v", r)
	}
}

// TestOneUnreadableRecordingStopsNoOther: its copy can't be made, which is an alarm, and those behind it are copied.
func TestOneUnreadableRecordingStopsNoOther(t *testing.T) {
	s := newStore(t)
	gone, cut, two, three := s.record(false), s.record(false), s.record(false), s.record(false)
	text := value[[]byte](t)(os.ReadFile(s.path(s.o.Dir, gone)))
	must(t, os.Remove(s.path(s.o.Dir, gone)))
	s.change(s.o.Dir, cut, func(b []byte) []byte { return b[:len(b)-10] })
	must(t, s.CopyAll(t.Context()))
	if got := s.left(); !slices.Equal(got, []string{two + Suffix, three + Suffix}) {
		t.Errorf("copied %v", got)
	}
	if b := s.Backlog(); b.Files != 0 || b.Faulty != 2 || strings.Count(s.log.String(), "it can't be copied") != 2 {
		t.Errorf("backlog %+v\n%s", b, s.log.String())
	}
	// It comes back: a disk that was away, or somebody's backup.
	must(t, os.WriteFile(s.path(s.o.Dir, gone), text, 0o600))
	must(t, s.look())
	must(t, s.CopyAll(t.Context()))
	if b := s.Backlog(); len(s.left()) != 3 || b.Faulty != 1 {
		t.Errorf("left %v, backlog %+v", s.left(), b)
	}
	// One that goes while it waits does not wait for ever.
	late := s.record(false)
	must(t, os.Remove(s.path(s.o.Dir, late)))
	must(t, s.look())
	if b := s.Backlog(); b.Files != 0 || b.Faulty != 2 {
		t.Errorf("backlog %+v", b)
	}
}

// hung is a disk that does not answer when a file is made.
type hung struct {
	disk
	in, goOn chan struct{}
}

func (d hung) create(path string) (file, error) {
	close(d.in)
	<-d.goOn
	return d.disk.create(path)
}

// TestRunEndsBesideAHungDisk: the node's stop does not wait for a disk that does not answer.
func TestRunEndsBesideAHungDisk(t *testing.T) {
	s := newStore(t)
	s.record(false)
	d := hung{s.disk, make(chan struct{}), make(chan struct{})}
	s.disk = d
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); s.Run(ctx) }()
	<-d.in
	cancel()
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		t.Error("Run waits for the disk")
	}
	close(d.goOn)
	// What was left behind makes nothing more that looks like a copy.
	for deadline := time.Now().Add(20 * time.Second); len(s.left()) > 0 && time.Now().Before(deadline); {
		<-time.After(time.Millisecond)
	}
	if got := s.left(); len(got) > 0 || s.Backlog().Files != 1 {
		t.Errorf("left %v, backlog %+v", got, s.Backlog())
	}
}

// TestACopyOfOursIsKnownAgain: the rename was done, and noting it failed.
func TestACopyOfOursIsKnownAgain(t *testing.T) {
	s := newStore(t)
	one := s.record(false)
	must(t, os.Mkdir(s.copiedFile(), 0o700)) // nothing can be noted
	if err := s.CopyAll(t.Context()); err == nil {
		t.Fatal("noted in a folder")
	}
	must(t, os.Remove(s.copiedFile()))
	must(t, s.CopyAll(t.Context()))
	if b := s.Backlog(); b.Files != 0 || b.Faulty != 0 || !s.copied[one] {
		t.Errorf("backlog %+v\n%s", b, s.log.String())
	}
}
