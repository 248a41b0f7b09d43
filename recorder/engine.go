package recorder

import (
	"context"
	"crypto/cipher"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"sync"
)

// Recorder starts recordings. Safe for concurrent use.
//
// This engine writes one file a session, each with its own committer.
type Recorder struct {
	o      Options
	groups sync.Pool // *group, so that idle sessions hold no buffers
	blocks sync.Pool // *[]byte, sealed blocks on their way to the disk

	mu     sync.Mutex // guards what follows
	open   map[string]*Recording
	failed chan struct{} // closed when err is set by a failure
	err    error
	closed bool
}

const recordingSuffix = ".rec"

// sessionName keeps a session's name from being anything but a file's name.
var sessionName = regexp.MustCompile(`^S-[0-9A-Za-z]{1,64}$`)

// Open prepares dir. It fails when dir can't be written durably.
func Open(o Options) (*Recorder, error) {
	if err := o.fill(); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("recordings: %w", err)
	}
	if err := probe(o); err != nil {
		return nil, fmt.Errorf("recordings can't be written durably: %w", err)
	}
	r := &Recorder{o: o, open: map[string]*Recording{}, failed: make(chan struct{})}
	r.groups.New = func() any { return new(group) }
	r.blocks.New = func() any { return new([]byte) }
	return r, nil
}

// probe writes and syncs a file, as every recording will.
func probe(o Options) error {
	path := filepath.Join(o.Dir, ".probe")
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	f, err := o.create(path)
	if err != nil {
		return err
	}
	err = writeAll(f, []byte(FileMagic))
	if err == nil {
		err = f.Sync()
	}
	err = errors.Join(err, f.Close(), os.Remove(path))
	if err == nil {
		err = syncDir(o.Dir)
	}
	return err
}

// Ready returns nil while a new session could be recorded, else why not
// (wraps ErrFailed, or ErrNoSpace and says how much space is missing).
func (r *Recorder) Ready() error {
	r.mu.Lock()
	err := r.err
	if err == nil && r.closed {
		err = fmt.Errorf("the recorder is closing: %w", ErrClosed)
	}
	r.mu.Unlock()
	if err != nil {
		return err
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

// Failed is closed when the recorder as a whole has failed.
func (r *Recorder) Failed() <-chan struct{} { return r.failed }

// Path returns where a session's recording rests.
func (r *Recorder) Path(session string) string {
	return filepath.Join(r.o.Dir, filepath.Base(session)+recordingSuffix)
}

// Start begins the recording of a session; its header is durable when Start
// returns. The end of ctx does not interrupt it: the ledger has the session by
// now, so there has to be a recording with an end, even of a client that has
// just left. Options.FailAfter bounds how long it takes.
func (r *Recorder) Start(_ context.Context, m Meta, k Keys) (*Recording, error) {
	if err := r.Ready(); err != nil {
		return nil, err
	}
	if !sessionName.MatchString(m.Session) {
		return nil, fmt.Errorf("%q can't be the name of a session", m.Session)
	}
	if m.Node != "" && m.Node != r.o.Node {
		return nil, fmt.Errorf("session %s belongs to node %s, not %s", m.Session, m.Node, r.o.Node)
	}
	m.Node = r.o.Node
	if m.Start.IsZero() {
		m.Start = r.o.Clock()
	}
	m.Start = m.Start.UTC()
	rec, prelude, err := r.prepare(m, k)
	if err != nil {
		return nil, fmt.Errorf("session %s: %w", m.Session, err)
	}
	if err := r.register(rec); err != nil {
		return nil, err
	}
	go rec.run(prelude)
	select {
	case <-rec.started:
		return rec, nil
	case <-rec.done:
		return nil, rec.Err()
	}
}

// prepare makes keys and the first two blocks, and creates the file.
func (r *Recorder) prepare(m Meta, k Keys) (*Recording, []byte, error) {
	h := Header{Version: 1, Type: TypeRecording, Session: m.Session, Node: m.Node, Epoch: m.Epoch,
		Suite: SuiteSealed, Start: m.Start, Signer: SignerID(r.o.Signer.Public().(ed25519.PublicKey))}
	rec := &Recording{r: r, session: m.Session, chain: newChain(r.o.Signer), started: make(chan struct{}),
		done: make(chan struct{}), stopped: make(chan struct{}), strictInput: m.PTY}
	rec.work.L, rec.space.L = &rec.mu, &rec.mu
	rec.watch()
	var err error
	if rec.main, h.Commit, h.Envelope, err = sealKey(k.Recipient); err != nil {
		return nil, nil, err
	}
	if m.PTY {
		if rec.strict, h.CommitStrict, h.EnvelopeStrict, err = sealKey(k.Strict); err != nil {
			return nil, nil, fmt.Errorf("strict: %w", err)
		}
	}
	header, err := h.encode()
	if err != nil {
		return nil, nil, err
	}
	meta, err := json.Marshal(m)
	if err != nil {
		return nil, nil, err
	}
	if len(meta) > maxHeaderPayload-tagSize {
		return nil, nil, errors.New("its description is too long")
	}
	prelude := []byte(FileMagic)
	prelude = rec.chain.append(prelude, BlockInfo{Type: BlockHeader, Time: m.Start}, header, nil)
	prelude = rec.chain.append(prelude, BlockInfo{Type: BlockMeta, Class: ClassMain, Time: m.Start}, meta, rec.main)
	if rec.file, err = r.o.create(r.Path(m.Session)); errors.Is(err, os.ErrExist) {
		return nil, nil, errors.New("it is already recorded")
	} else if err != nil {
		// Nothing was begun that could break, so the node need not stop:
		// the cause may pass (too many open files).
		return nil, nil, fmt.Errorf("%w: %w", ErrFailed, err)
	}
	return rec, prelude, nil
}

func (r *Recorder) register(rec *Recording) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err != nil || r.closed {
		// Nothing is in it yet.
		return errors.Join(r.err, ErrClosed, rec.file.Close(), os.Remove(r.Path(rec.session)))
	}
	r.open[rec.session] = rec
	return nil
}

func (r *Recorder) forget(rec *Recording) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.open, rec.session)
}

// fail makes the failure of one file that of the whole node, since the disk
// that failed one recording is the disk of all.
func (r *Recorder) fail(cause error) error {
	err := fmt.Errorf("%w: %w", ErrFailed, cause)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err == nil {
		r.err = err
		close(r.failed)
		r.o.Log.Error("recording failed, no new session starts", "error", cause)
	}
	return err
}

// Close waits for open recordings to end or ctx to be done. It starts no more.
func (r *Recorder) Close(ctx context.Context) error {
	r.mu.Lock()
	r.closed = true
	var open []*Recording
	for _, rec := range r.open {
		open = append(open, rec)
	}
	r.mu.Unlock()
	for _, rec := range open {
		select {
		case <-rec.stopped:
		case <-ctx.Done():
			return fmt.Errorf("recording %s is still open: %w", rec.session, ctx.Err())
		}
	}
	return nil
}

// Recording is the recording of one live session. Safe for concurrent use.
//
// Append encodes frames into groups; one goroutine (run) takes all groups that
// have gathered, seals them, and commits them with one write and one sync.
// While it does so the next groups gather, so the slower the disk, the larger
// the commits.
type Recording struct {
	r           *Recorder
	session     string
	strictInput bool
	file        file          // used by run only
	chain       *chain        // used by run only
	main        cipher.AEAD   // used by run only
	strict      cipher.AEAD   // used by run only
	deadline    deadline      // of the write that is under way
	started     chan struct{} // closed when the header is durable
	done        chan struct{} // closed when err is set
	stopped     chan struct{} // closed when run has returned

	mu      sync.Mutex // guards what follows
	work    sync.Cond  // for run: frames or closing
	space   sync.Cond  // for Append: less is pending
	groups  []*group   // filled, oldest first; the last may still grow
	last    Position   // of the last frame handed over
	durable Position
	pending int64 // bytes handed over but not durable
	in, out int64 // bytes of data
	notify  chan struct{}
	closing bool
	reason  string
	err     error
	result  Result
}

// Append takes ownership of a frame and returns its position. It blocks only
// while too much is waiting to become durable, and never drops. The frame's
// data is copied; its owner may use the slice again when Append returns.
func (r *Recording) Append(f Frame) (Position, error) {
	if len(f.Data) > MaxFrame {
		return 0, fmt.Errorf("a frame of %d bytes is larger than %d", len(f.Data), MaxFrame)
	}
	if !f.Kind.Known() {
		return 0, fmt.Errorf("unknown kind of frame %q", byte(f.Kind))
	}
	if f.Time.IsZero() {
		f.Time = r.r.o.Clock()
	}
	micros := f.Time.UnixMicro()
	r.mu.Lock()
	defer r.mu.Unlock()
	for r.pending >= r.r.o.MaxPending && r.err == nil && !r.closing {
		r.space.Wait()
	}
	if r.err != nil {
		return 0, r.err
	}
	if r.closing {
		return 0, ErrClosed
	}
	r.last++
	var g *group
	if n := len(r.groups); n > 0 {
		g = r.groups[n-1]
	}
	if g == nil || g.size()+len(f.Data) > blockTarget && g.span > 0 {
		g = r.r.groups.Get().(*group)
		g.reset(r.last, micros)
		r.groups = append(r.groups, g)
	}
	g.add(r.last, f.Kind, micros, f.Data, r.strictInput && f.Kind == KindInput)
	r.pending += int64(len(f.Data)) + frameOverhead
	switch f.Kind {
	case KindInput:
		r.in += int64(len(f.Data))
	case KindOutput, KindStderr, KindGate:
		r.out += int64(len(f.Data))
	}
	r.work.Signal()
	return r.last, nil
}

// Durable is the highest position that will survive a crash.
func (r *Recording) Durable() Position {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.durable
}

// Wait returns once p is durable, or with an error that wraps ErrFailed, or
// with ErrClosed when the recording ended before p, or with ctx's.
func (r *Recording) Wait(ctx context.Context, p Position) error {
	for {
		r.mu.Lock()
		if r.durable >= p || r.err != nil {
			err := r.err
			if r.durable >= p {
				err = nil
			}
			r.mu.Unlock()
			return err
		}
		if r.notify == nil {
			r.notify = make(chan struct{})
		}
		notify := r.notify
		r.mu.Unlock()
		select {
		case <-notify:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Done is closed when the recording has failed or is closed; Err says which.
func (r *Recording) Done() <-chan struct{} { return r.done }

// Err is nil while all is well, ErrClosed after Close, else wraps ErrFailed.
func (r *Recording) Err() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.err
}

// Close appends the signed end and makes it durable. Calls after the first
// wait for it and return the same result.
func (r *Recording) Close(ctx context.Context, reason string) (Result, error) {
	r.abandon(reason)
	select {
	case <-r.done:
	case <-ctx.Done():
		return Result{}, ctx.Err()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if errors.Is(r.err, ErrFailed) {
		return r.result, r.err
	}
	return r.result, nil
}

func (r *Recording) abandon(reason string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.closing {
		r.closing, r.reason = true, reason
		r.work.Signal()
		r.space.Broadcast()
	}
}
