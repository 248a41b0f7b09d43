package recorder

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"sallyport/recorder/journal"
	"sallyport/recorder/ledger"
	"sallyport/recorder/trec"
)

// streamNote is what stands in clear beside a session's frames in the journal:
// whoever moves them learns where they belong, and an auditor which key they are under.
type streamNote struct {
	Session string   `json:"session"`
	Segment uint32   `json:"segment"` // of Writer.JournalKey
	Base    Position `json:"base"`    // position of the frame before the stream's first
}

// Start begins the recording of a session; its header is durable when Start
// returns, and the ledger says that it is open. The end of ctx does not interrupt
// it: the ledger has the session by now, so there has to be a recording with an end,
// even of a client that has just left. Options.FailAfter bounds how long it takes.
func (r *Recorder) Start(_ context.Context, m Meta, k Keys) (*Recording, error) {
	if err := r.Ready(m.Rescue); err != nil {
		return nil, err
	}
	if !sessionName.MatchString(m.Session) {
		return nil, fmt.Errorf("%q can't be the name of a session", m.Session)
	}
	if m.Number <= 0 {
		return nil, fmt.Errorf("session %s has no number", m.Session)
	}
	if m.Node != "" && m.Node != r.o.Node {
		return nil, fmt.Errorf("session %s belongs to node %s, not %s", m.Session, m.Node, r.o.Node)
	}
	m.Node = r.o.Node
	if m.Start.IsZero() {
		m.Start = r.o.Clock()
	}
	m.Start = m.Start.UTC()
	rec := &Recording{r: r, session: m.Session, number: m.Number, strict: m.PTY, rescue: m.Rescue,
		done: make(chan struct{}), stopped: make(chan struct{})}
	rec.queue.init(r.o.MaxPending, &r.buffers, &r.queued)
	if err := r.register(rec); err != nil {
		return nil, err
	}
	if err := r.begin(rec, m, k); err != nil {
		if rec.sealer == nil { // else it runs, and does that itself
			r.forget(rec)
			close(rec.stopped)
		}
		return nil, fmt.Errorf("session %s: %w", m.Session, err)
	}
	return rec, nil
}

// register takes the session's name.
func (r *Recorder) register(rec *Recording) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err != nil || r.closed {
		return errors.Join(r.err, ErrClosed)
	}
	if r.open[rec.session] != nil {
		return fmt.Errorf("session %s is already recorded", rec.session)
	}
	r.open[rec.session] = rec
	return nil
}

// begin makes the file, its header and the first stream, and lets the sealer run.
func (r *Recorder) begin(rec *Recording, m Meta, k Keys) error {
	meta, err := json.Marshal(m)
	if err != nil {
		return err
	}
	f, err := r.createFor(&m)
	if errors.Is(err, os.ErrExist) {
		return errors.New("it is already recorded")
	} else if err != nil {
		// Nothing was begun that could break: the cause may pass (too many open files).
		return fmt.Errorf("%w: %w", ErrFailed, err)
	}
	s := &sealer{rec: rec, file: f, timer: time.NewTimer(time.Hour), requests: make(chan followRequest)}
	s.timer.Stop()
	s.watch(&s.deadline)
	o := trec.Options{Session: m.Session, Node: m.Node, Epoch: m.Epoch, Start: m.Start, Meta: meta, Recipients: k.Recipient,
		Signer: r.o.Signer, Codecs: r.codecs, Random: r.o.Random}
	if m.PTY {
		if k.Strict == "" {
			return errors.Join(errors.New("its epoch has no key for typed input"), s.undo())
		}
		o.StrictRecipients = k.Strict
		s.picture = newPicture(m, r.o.Log)
	}
	if s.w, err = trec.NewWriter(f, o); err != nil {
		return errors.Join(fmt.Errorf("%w: %w", ErrFailed, err), s.undo())
	}
	first, err := rec.journalKeys(s.w)
	if err == nil {
		rec.current, err = rec.openStream(first)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("%w: %w", ErrFailed, err), s.undo())
	}
	rec.mu.Lock()
	rec.parts = []part{{stream: rec.current}}
	rec.mu.Unlock()
	if err := s.makeDurable(); err != nil {
		rec.current.Close()
		return fmt.Errorf("%w: %w", ErrFailed, err) // the file stays: it may be in the ledger
	}
	r.mu.Lock()
	rec.sealer = s
	err = r.err
	r.mu.Unlock()
	go s.run()
	if err != nil {
		return rec.fail(err)
	}
	return nil
}

// undo removes a file that nothing is in.
func (s *sealer) undo() error {
	return errors.Join(s.discard(), os.Remove(s.rec.r.Path(s.rec.session)))
}

// discard gives back what a recording that did not begin holds. Its file stays.
func (s *sealer) discard() error {
	if s.w != nil {
		s.w.Wipe()
	}
	return s.file.Close()
}

// makeDurable syncs the header and tells the ledger, all at once. When it fails it
// gives back what the recording holds, as soon as the disk answers.
func (s *sealer) makeDurable() error {
	r := s.rec.r
	// Its segments follow when they are durable, see run.
	opened := ledger.Leaf{Kind: ledger.KindOpen, Session: s.rec.session, Number: s.rec.number}
	s.leaves = segmentLeaves(s.rec.session, s.w.Head())
	ctx, cancel := context.WithTimeout(context.Background(), r.o.FailAfter)
	defer cancel()
	var wg sync.WaitGroup
	errs := make([]error, 3)
	wg.Go(func() { errs[0] = s.file.Sync() })
	wg.Go(func() { errs[1] = syncDir(r.o.Dir) })
	wg.Go(func() { _, errs[2] = r.ledger.Record(ctx, opened) })
	done := make(chan error, 1)
	var decided atomic.Bool
	// Nobody can wait for it while a system call hangs.
	go func() {
		wg.Wait()
		err := errors.Join(errs...)
		if err != nil || !decided.CompareAndSwap(false, true) {
			err = errors.Join(err, s.discard())
		}
		done <- err
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		if decided.CompareAndSwap(false, true) {
			return errSlowDisk
		}
		return <-done
	}
}

// streamKeys are what the journal seals frames under while one segment is open.
type streamKeys struct {
	segment uint32
	classes int
	keys    [2][journal.KeySize]byte
}

func (k *streamKeys) wipe() { clear(k.keys[:]) }

// journalKeys are the keys of the segment that is open in w.
func (r *Recording) journalKeys(w *trec.Writer) (k *streamKeys, err error) {
	k = &streamKeys{classes: 1}
	if k.segment, k.keys[journalMain], err = w.JournalKey(trec.ClassMain); err != nil {
		return nil, err
	}
	if r.strict {
		k.classes = 2
		_, k.keys[journalStrict], err = w.JournalKey(trec.ClassStrict)
	}
	return k, err
}

// openStream opens the stream for the frames behind last. The caller holds appending.
func (r *Recording) openStream(k *streamKeys) (*journal.Stream, error) {
	defer k.wipe()
	public, err := json.Marshal(streamNote{Session: r.session, Segment: k.segment, Base: r.last})
	if err != nil {
		return nil, err
	}
	keys := make([][]byte, k.classes)
	for i := range keys {
		keys[i] = k.keys[i][:]
	}
	return r.r.journal.OpenStream(journal.StreamOptions{Name: r.session, Keys: keys, Public: public, Rescue: r.rescue})
}
