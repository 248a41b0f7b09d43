package recorder

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"sync"
	"sync/atomic"
	"time"

	"sallyport/recorder/journal"
	"sallyport/recorder/ledger"
	"sallyport/recorder/trec"
)

// Recorder is the recording engine of one node: its journal, its ledger, and a
// sealer for each live session. Safe for concurrent use.
type Recorder struct {
	o        Options
	journal  *journal.Journal
	ledger   *ledger.Ledger
	codecs   *trec.Codecs
	buffers  sync.Pool     // *[]byte, for queues
	queued   atomic.Int64  // bytes in the queues of all sessions
	unsealed atomic.Int64  // bytes of frames that rest in the journal only
	syncing  chan struct{} // one place for each fdatasync of a sealer at a time
	synced   atomic.Uint64 // how many of them have returned
	moved    Moves
	hasten   chan struct{} // of one place: the journal fills up
	settling atomic.Bool
	rescueMu sync.Mutex    // guards the files that rescue sessions begin with
	stop     chan struct{} // closed by Close
	watching sync.WaitGroup

	mu   sync.Mutex // guards what follows
	open map[string]*Recording
	held []*Recording // ended, with frames that only the journal has
	// lettingGo is closed when a move of frames that are held is over; nil: none runs.
	lettingGo chan struct{}
	failed    chan struct{} // closed when err is set by a failure
	err       error
	closed    bool
}

// recordingSuffix ends the name of a recording.
const recordingSuffix = ".trec"

// syncsAtOnce is how many sealers may sync at once: more would only make the
// journal's own commits wait.
const syncsAtOnce = 2

// sessionName keeps a session's name from being anything but a file's name.
var sessionName = regexp.MustCompile(`^S-[0-9A-Za-z]{1,62}$`)

// Open opens the journal and the ledger, and brings what a crash left in the
// journal to where it belongs: frames of sessions, still sealed, into their
// recordings, and the ledger's entries into the ledger. It fails while another
// process has the journal open, when a folder can't be written durably, and when that of
// the recordings is not the one that the node had before, say for want of its disk; a crash
// of Open, or its failure, loses nothing. Recover ends the recordings afterwards.
func Open(o Options) (*Recorder, error) {
	if err := o.fill(); err != nil {
		return nil, err
	}
	for _, dir := range []string{o.Dir, o.JournalDir, o.LedgerDir, o.LedgerKeys} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("recordings: %w", err)
		}
	}
	r := &Recorder{o: o, open: map[string]*Recording{}, failed: make(chan struct{}), stop: make(chan struct{}), hasten: make(chan struct{}, 1),
		syncing: make(chan struct{}, syncsAtOnce)}
	r.buffers.New = func() any { return new([]byte) }
	var err error
	if r.codecs, err = trec.NewCodecs(0); err != nil {
		return nil, err
	}
	if err := r.checkFolder(); err != nil {
		return nil, fmt.Errorf("recordings: %w", err)
	}
	if err := r.openStores(); err != nil {
		return nil, err
	}
	r.keepRescueFiles()
	r.watching.Go(r.watch)
	return r, nil
}

func (r *Recorder) ledgerOptions() ledger.Options {
	o := &r.o
	return ledger.Options{Dir: o.LedgerDir, KeysDir: o.LedgerKeys, Node: o.Node, Signer: o.Signer, Secret: o.Secret,
		Written: o.Mode == journal.Written, FailAfter: o.FailAfter, Clock: o.Clock, Random: o.Random, Log: o.Log}
}

// openStores opens journal and ledger, which recovers them.
func (r *Recorder) openStores() error {
	o := &r.o
	m := mover{r: r}
	var err error
	r.journal, err = journal.Open(journal.Options{
		Dir: o.JournalDir, Node: o.Node, Mode: o.Mode, FileSize: o.JournalSize, MaxFiles: o.JournalFiles, Reserve: o.Reserve,
		MinFree: o.MinFree, MaxPending: o.MaxPending, WarnAfter: o.WarnAfter, FailAfter: o.FailAfter,
		Clock: o.Clock, Random: o.Random, Log: o.Log, Order: m.order, Used: r.used, Damaged: o.Damaged,
	}, m.visit)
	if err = errors.Join(err, m.close()); err != nil {
		if r.journal != nil {
			err = errors.Join(err, r.closeJournal())
		}
		return fmt.Errorf("the journal in %s: %w", o.JournalDir, err)
	}
	r.moved = m.moves
	if err := r.probe(); err != nil {
		return errors.Join(fmt.Errorf("recordings can't be written durably: %w", err), r.closeJournal())
	}
	if r.ledger, err = ledger.Open(r.ledgerOptions(), r.journal); err != nil {
		return errors.Join(fmt.Errorf("the ledger in %s: %w", o.LedgerDir, err), r.closeJournal())
	}
	return nil
}

func (r *Recorder) closeJournal() error {
	ctx, cancel := context.WithTimeout(context.Background(), r.o.FailAfter)
	defer cancel()
	return r.journal.Close(ctx)
}

// probe writes and syncs a file, as every recording will.
func (r *Recorder) probe() error {
	path := filepath.Join(r.o.Dir, ".probe")
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	f, err := createFile(path)
	if err != nil {
		return err
	}
	err = writeAll(f, []byte("probe"))
	if err == nil {
		err = f.Sync()
	}
	err = errors.Join(err, f.Close(), os.Remove(path))
	if err == nil {
		err = syncDir(r.o.Dir)
	}
	return err
}

// watch ends everything when the journal or the ledger has failed, makes sealers hasten
// while the journal fills up, and has frames moved that nobody seals any more.
func (r *Recorder) watch() {
	again := time.NewTicker(r.o.FailAfter)
	defer again.Stop()
	for {
		select {
		case <-again.C:
			r.letGo()
			continue
		case <-r.hasten:
			r.mu.Lock()
			for _, rec := range r.open {
				rec.queue.set(func() { rec.queue.urgent = true })
			}
			r.mu.Unlock()
			if r.settling.CompareAndSwap(false, true) {
				r.watching.Go(r.settle)
			}
			r.letGo()
			continue
		case <-r.journal.Failed():
			r.fail(r.journal.Failure())
		case <-r.ledger.Failed():
			r.fail(r.ledger.Err())
		case <-r.stop:
		}
		return
	}
}

// settle makes the ledger give back its room in the journal.
func (r *Recorder) settle() {
	defer r.settling.Store(false)
	ctx, cancel := context.WithTimeout(context.Background(), r.o.FailAfter)
	defer cancel()
	if err := r.ledger.Settle(ctx); err != nil && r.ledger.Err() == nil {
		r.o.Log.Warn("the ledger keeps its room in the journal", "error", err)
	}
}

// used hears of each file that the journal begins. A session that has typed one
// key holds up all files since: when a quarter is in use everybody seals.
func (r *Recorder) used(files int) {
	if files < max(3, (r.o.JournalFiles-r.o.Reserve)/4) { // one is always made ready ahead
		return
	}
	select {
	case r.hasten <- struct{}{}:
	default:
	}
}

// fail makes the failure of what all recordings share that of each.
func (r *Recorder) fail(cause error) {
	r.mu.Lock()
	var open []*Recording
	if r.err == nil {
		r.err = fmt.Errorf("%w: %w", ErrFailed, cause)
		close(r.failed)
		r.o.Log.Error("recording failed, all sessions end and no new one starts", "error", cause)
		for _, rec := range r.open {
			open = append(open, rec)
		}
	}
	r.mu.Unlock()
	for _, rec := range open {
		rec.fail(cause)
	}
}

// Ledger is the node's ledger; Close ends it.
func (r *Recorder) Ledger() *ledger.Ledger { return r.ledger }

// Failed is closed when journal or ledger have failed, and with them every recording.
func (r *Recorder) Failed() <-chan struct{} { return r.failed }

// Path returns where a session's recording rests.
func (r *Recorder) Path(session string) string {
	return filepath.Join(r.o.Dir, filepath.Base(session)+recordingSuffix)
}

// Ready returns nil while a new session could be recorded, else why not
// (wraps ErrFailed, or ErrNoSpace and says what is missing). With rescue it is
// about a session that may use the journal's reserve and needs no room for its file.
func (r *Recorder) Ready(rescue bool) error {
	r.mu.Lock()
	err := r.err
	if err == nil && r.closed {
		err = fmt.Errorf("the recorder is closing: %w", ErrClosed)
	}
	r.mu.Unlock()
	if err != nil {
		return err
	}
	if err := r.journal.Ready(rescue); errors.Is(err, journal.ErrNoSpace) {
		return fmt.Errorf("%w: %w", ErrNoSpace, err)
	} else if err != nil {
		return fmt.Errorf("%w: %w", ErrFailed, err)
	}
	if err := r.ledger.Err(); err != nil {
		return fmt.Errorf("%w: %w", ErrFailed, err)
	}
	if rescue {
		return nil
	}
	if err := r.ledger.Full(); err != nil {
		return fmt.Errorf("%w: %w", ErrNoSpace, err)
	}
	if n := r.unsealed.Load(); n > r.o.MaxUnsealed {
		return fmt.Errorf("%w: %d MiB rest in the journal only", ErrNoSpace, n>>20)
	}
	free, err := r.o.free(r.o.Dir)
	if err != nil {
		return fmt.Errorf("free space of recordings: %w", err)
	}
	if free < r.o.MinFree {
		return fmt.Errorf("%w: %d MiB free, %d MiB needed", ErrNoSpace, free>>20, r.o.MinFree>>20)
	}
	return nil
}

func (r *Recorder) forget(rec *Recording) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.open, rec.session)
}

// Close starts no more recordings, waits for those that are open to end, or for ctx to
// be done, and ends ledger and journal, which get a time of their own for it. Of what is still open the frames are in
// the journal, and are moved by the next Open.
func (r *Recorder) Close(ctx context.Context) error {
	r.mu.Lock()
	already := r.closed
	r.closed = true
	var open []*Recording
	for _, rec := range r.open {
		open = append(open, rec)
	}
	r.mu.Unlock()
	if already {
		return nil
	}
	var errs []error
	for _, rec := range open {
		select {
		case <-rec.stopped:
		case <-ctx.Done():
			errs = append(errs, fmt.Errorf("recording %s is still open: %w", rec.session, ctx.Err()))
		}
	}
	close(r.stop)
	r.watching.Wait()
	if err := r.awaitLetGo(ctx); err != nil {
		errs = append(errs, err)
	}
	failed := r.journal.Failure() != nil
	if err := r.ledger.Close(); err != nil && !failed {
		errs = append(errs, err)
	}
	if err := r.closeJournal(); err != nil && !failed {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
