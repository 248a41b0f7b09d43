package tlog

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/mod/sumdb/note"
)

var (
	// ErrClosed is returned by calls after Close.
	ErrClosed = errors.New("the ledger is closed")
	// ErrFailed is wrapped by every call after the disk failed the log once.
	ErrFailed = errors.New("the ledger has failed")
	// ErrInconsistent is wrapped when Open finds that the directory contradicts itself.
	ErrInconsistent = errors.New("the ledger contradicts itself")
)

const (
	defaultAppendLimit = 8 << 20
	defaultPublish     = time.Second
	defaultFailAfter   = 10 * time.Second

	groupBytes   = 1 << 20  // a group is closed for the next commit at this size
	maxPending   = 4096     // tiles and bundles in memory; then appends wait for the disk
	pendingBytes = 64 << 20 // the same for bodies
	kickPending  = 128      // tiles and bundles that wake the integrator early
	settleTiles  = 8        // full tiles and bundles after which a calm log settles
	settleAtLast = 2048     // the same for a busy one
	settleNamed  = 64       // files that are made durable one by one

	// settleAfter is when a log settles whatever came: a journal that holds its
	// batches can't use the room of anything behind them again until then.
	settleAfter = 10 * time.Second
)

// Options says how to open a log.
type Options struct {
	Dir       string        // of the tiles, the checkpoint and the append files
	BodiesDir string        // of the sealed bodies; default Dir/bodies
	Origin    string        // the log's identity, such as "sallyport/01J…": never used for another log
	Signer    crypto.Signer // the node's Ed25519 key
	Durable   Durable       // default: append files in Dir/append

	// PublishInterval is how often tiles and checkpoint are brought up to
	// date on disk when entries came. Default 1 s; negative: only Publish and Close do.
	PublishInterval time.Duration
	// SettleFirst says that Durable may lose in a failure of power what it took. Then
	// nothing is published before it is durable in the tiles, and Checkpoint covers no more than that.
	SettleFirst bool
	// FailAfter is how long the disk may take for one answer before the log has
	// failed, and how long Close may take. Default 10 s.
	FailAfter time.Duration
	Log       *slog.Logger // default: discards

	fs          fileSystem
	appendLimit int64
}

func (o *Options) fill() error {
	if o.Dir == "" || o.Origin == "" || o.Signer == nil {
		return errors.New("a directory, an origin and a signer are needed")
	}
	if o.fs == nil {
		o.fs = disk{}
	}
	if o.BodiesDir == "" {
		o.BodiesDir = filepath.Join(o.Dir, "bodies")
	}
	if o.appendLimit == 0 {
		o.appendLimit = defaultAppendLimit
	}
	if o.PublishInterval == 0 {
		o.PublishInterval = defaultPublish
	}
	if o.FailAfter <= 0 {
		o.FailAfter = defaultFailAfter
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return nil
}

// Log is an open ledger. Safe for concurrent use. One goroutine commits, one
// brings tiles to disk; Close waits for both.
type Log struct {
	o        Options
	signer   note.Signer
	verifier note.Verifier
	durable  Durable
	bodies   *bodyStore // used by the integrator only
	lock     io.Closer
	buffer   []byte       // of the committer
	restored int64        // size that tiles were durable for when the log was opened
	next     frontier     // of the committer: the tree with the batch being committed
	answers  atomic.Int64 // of the disk to the integrator

	wake    chan struct{}   // there may be work for the committer
	kick    chan struct{}   // there is work for the integrator
	publish chan publishing // Publish and Settle calls
	stop    chan struct{}   // closed by Close when the committer has returned
	done    sync.WaitGroup  // of both goroutines
	cache   *tileCache      // full tiles, as read from the disk
	ended   chan struct{}   // closed with the first failure

	mu            sync.Mutex // guards what follows
	queue         []*request
	closing       bool
	err           error
	size          int64 // durable entries
	edges         [tileLevels][]Hash
	bundle        []byte
	note          []byte // signed checkpoint of size
	kept          []byte // signed checkpoint of what is durable in the tiles; kept up with SettleFirst
	full          error  // why tiles wait to be written
	pending       map[tileID][]byte
	order         []tileID // of pending
	unstored      []sealedBody
	unstoredBytes int
	unstoredAt    map[int64]int // index of an entry -> place in unstored, relative to unstoredBase
	unstoredBase  int
}

type request struct {
	entries []Entry
	leaves  []Hash
	bytes   int
	first   int64
	err     error
	done    chan struct{}
}

// Append makes leaves durable, in one batch with one signed checkpoint, and
// returns the index of the first. See AppendEntries.
func (l *Log) Append(ctx context.Context, leaves ...[]byte) (int64, error) {
	entries := make([]Entry, len(leaves))
	for i := range leaves {
		entries[i].Leaf = leaves[i]
	}
	return l.AppendEntries(ctx, entries...)
}

// AppendEntries makes entries durable, all or none, with dense indexes, and
// returns the first index. Concurrent calls share one fdatasync. It keeps the
// slices until the bodies are stored: do not change them. When ctx ends first
// the entries may become durable all the same.
func (l *Log) AppendEntries(ctx context.Context, entries ...Entry) (int64, error) {
	a, err := l.Begin(entries...)
	if err != nil {
		return 0, err
	}
	return a.Wait(ctx)
}

// Appending is entries that were handed over and may not be durable yet.
type Appending struct{ r *request }

// Begin hands entries over and does not wait for them. Entries of a later
// call of Begin get higher indexes, so whoever orders the calls orders the log.
func (l *Log) Begin(entries ...Entry) (Appending, error) {
	r := &request{entries: entries, leaves: make([]Hash, len(entries)), done: make(chan struct{})}
	for i := range entries {
		e := &entries[i]
		if len(e.Leaf) > MaxEntry {
			return Appending{}, fmt.Errorf("a ledger entry of %d bytes is larger than %d", len(e.Leaf), MaxEntry)
		}
		if len(e.Sealed) > maxSealed || (len(e.Sealed) > 0) != (e.Key != KeyID{}) {
			return Appending{}, fmt.Errorf("a sealed body of %d bytes under key %q cannot be stored", len(e.Sealed), e.Key)
		}
		if e.Key != (KeyID{}) && !e.Key.Valid() {
			return Appending{}, fmt.Errorf("%q is not the name of a project and quarter", shorten(e.Key.String()))
		}
		r.leaves[i] = LeafHash(e.Leaf)
		r.bytes += e.Size()
	}
	if len(entries) == 0 || r.bytes > MaxAppend {
		return Appending{}, fmt.Errorf("an append of %d entries with %d bytes: at least one entry and at most %d bytes are possible",
			len(entries), r.bytes, MaxAppend)
	}
	return Appending{r}, l.enqueue(r)
}

// Wait returns the index of the first entry once all are durable and a signed
// checkpoint covers them.
func (a Appending) Wait(ctx context.Context) (int64, error) {
	select {
	case <-a.r.done:
		return a.r.first, a.r.err
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

// Settled tells whether Wait would return at once, and with what.
func (a Appending) Settled() (settled bool, err error) {
	select {
	case <-a.r.done:
		return true, a.r.err
	default:
		return false, nil
	}
}

func (l *Log) enqueue(r *request) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return l.err
	}
	if l.closing {
		return ErrClosed
	}
	l.queue = append(l.queue, r)
	signal(l.wake)
	return nil
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// commitLoop is the committer: it takes what has gathered while the last
// commit was on its way.
func (l *Log) commitLoop() {
	defer l.done.Done()
	defer close(l.stop)
	for range l.wake {
		for {
			group, closing := l.takeGroup()
			if len(group) == 0 {
				if closing {
					return
				}
				break
			}
			l.commit(group)
		}
	}
}

// takeGroup returns nothing while the integrator is too far behind; it wakes the committer again.
func (l *Log) takeGroup() (group []*request, closing bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err == nil && (len(l.order) >= maxPending || l.unstoredBytes >= pendingBytes) {
		signal(l.kick)
		return nil, false
	}
	bytes := 0
	for len(l.queue) > 0 && (len(group) == 0 || bytes+l.queue[0].bytes <= groupBytes) {
		bytes += l.queue[0].bytes
		group = append(group, l.queue[0])
		l.queue[0] = nil
		l.queue = l.queue[1:]
	}
	return group, l.closing && len(l.queue) == 0
}

func (l *Log) commit(group []*request) {
	err := l.failure()
	if err == nil {
		if err = l.commitGroup(group); err != nil {
			err = l.fail(fmt.Errorf("commit: %w", err))
		}
	}
	for _, r := range group {
		r.err = err
		close(r.done)
	}
}

func (l *Log) commitGroup(group []*request) error {
	b := batch{first: l.next.size}
	var nodes []node
	for _, r := range group {
		r.first = l.next.size
		for _, h := range r.leaves {
			l.next.add(h, func(n node) { nodes = append(nodes, n) })
		}
		b.entries = append(b.entries, r.entries...)
	}
	if l.next.size > maxSize {
		return errors.New("the ledger is full")
	}
	var err error
	if b.note, err = l.sign(&l.next); err != nil {
		return err
	}
	l.buffer = b.encode(l.buffer[:0])
	if err := l.durable.Commit(b.first, b.next(), l.buffer); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.apply(&b, nodes)
	if len(l.order) >= kickPending || l.unstoredBytes > pendingBytes/4 {
		signal(l.kick)
	}
	return nil
}

func (l *Log) sign(f *frontier) ([]byte, error) {
	c := Checkpoint{Origin: l.o.Origin, Size: f.size, Root: f.root()}
	signed, err := note.Sign(&note.Note{Text: c.Text()}, l.signer)
	if err != nil {
		return nil, fmt.Errorf("sign the checkpoint: %w", err)
	}
	return signed, nil
}

// apply shows a durable batch to readers and to the integrator. l.mu is held.
func (l *Log) apply(b *batch, nodes []node) {
	for i := range b.entries {
		e, index := &b.entries[i], b.first+int64(i)
		l.bundle = appendEntry(l.bundle, e.Leaf)
		if index%tileWidth == tileWidth-1 {
			l.add(tileID{entriesLevel, index / tileWidth}, l.bundle)
			l.bundle = nil
		}
		if len(e.Sealed) > 0 {
			l.unstoredAt[index] = l.unstoredBase + len(l.unstored)
			l.unstored = append(l.unstored, sealedBody{index, e.Key, e.Sealed})
			l.unstoredBytes += len(e.Sealed)
		}
	}
	for _, n := range nodes {
		l.edges[n.level] = append(l.edges[n.level], n.hash)
		if len(l.edges[n.level]) == tileWidth {
			l.add(tileID{n.level, n.index / tileWidth}, appendHashes(nil, l.edges[n.level]))
			l.edges[n.level] = nil
		}
	}
	l.size, l.note = b.next(), b.note
}

func (l *Log) add(id tileID, data []byte) {
	l.pending[id] = data
	l.order = append(l.order, id)
}

// fail ends the log and returns the error that every later call gets.
func (l *Log) fail(cause error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err == nil {
		l.err = fmt.Errorf("%w: %w", ErrFailed, cause)
		l.o.Log.Error("the ledger has failed", "error", cause)
		close(l.ended)
	}
	signal(l.wake)
	return l.err
}

// Fail ends the log because something failed that it can't do without. It
// returns the error that every later call gets.
func (l *Log) Fail(cause error) error { return l.fail(cause) }

// Err is nil while entries can be appended, else wraps ErrFailed or is ErrClosed.
func (l *Log) Err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err == nil && l.closing {
		return ErrClosed
	}
	return l.err
}

func (l *Log) failure() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

// Failed is closed when the disk failed the log: it takes no more entries. Close does not close it.
func (l *Log) Failed() <-chan struct{} { return l.ended }

// Size is how many entries are durable.
func (l *Log) Size() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.size
}

// Checkpoint is the signed checkpoint of all durable entries; with SettleFirst,
// of those that were published.
func (l *Log) Checkpoint() []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.o.SettleFirst {
		return append([]byte(nil), l.kept...)
	}
	return append([]byte(nil), l.note...)
}

// Verifier is the log's own note verifier.
func (l *Log) Verifier() note.Verifier { return l.verifier }

// Dir is where the log's files lie.
func (l *Log) Dir() string { return l.o.Dir }

// Origin is the log's identity.
func (l *Log) Origin() string { return l.o.Origin }

// publishing is one call of Publish or Settle.
type publishing struct {
	reply  chan<- error
	settle bool
}

// Publish brings tiles and the checkpoint file up to what is durable now.
func (l *Log) Publish(ctx context.Context) error { return l.bringUp(ctx, false) }

// Settle is Publish, and makes all of it durable, so that Durable forgets: for a
// journal that needs its room.
func (l *Log) Settle(ctx context.Context) error { return l.bringUp(ctx, true) }

func (l *Log) bringUp(ctx context.Context, settle bool) error {
	reply := make(chan error, 1)
	select {
	case l.publish <- publishing{reply, settle}:
	case <-l.ended:
		return l.failure()
	case <-l.stop:
		return ErrClosed
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-reply:
		return err
	case <-l.ended: // the integrator may never come back
		return l.failure()
	case <-ctx.Done():
		return ctx.Err()
	}
}

// StoreCosigned keeps a checkpoint of this log that witnesses cosigned, so that
// a copy of the directory carries it.
func (l *Log) StoreCosigned(signed []byte) error {
	c, _, err := OpenCheckpoint(signed, l.o.Origin, l.verifier)
	if err != nil {
		return err
	}
	if root, err := l.RootAt(c.Size); err != nil {
		return err
	} else if root != c.Root {
		return fmt.Errorf("%w: the cosigned checkpoint of %d entries has another root", ErrInconsistent, c.Size)
	}
	return replaceFile(l.o.fs, filepath.Join(l.o.Dir, CosignedFile), signed, true)
}

// Close commits what waits, brings everything to disk and ends the log. It waits
// no longer than FailAfter for an answer: of a disk that does not give one it leaves the call behind,
// and with it the lock. An error that wraps ErrNoSpace says that the newest
// entries rest in Durable only, from which the next Open takes them.
func (l *Log) Close() error {
	l.mu.Lock()
	already := l.closing
	l.closing = true
	l.mu.Unlock()
	if already {
		return ErrClosed
	}
	signal(l.wake)
	closed := make(chan error, 1)
	go func() {
		l.done.Wait()
		closed <- errors.Join(l.failure(), l.Full(), l.durable.Close(), l.bodies.close(), l.lock.Close())
	}()
	patience := time.NewTimer(l.o.FailAfter * 3 / 4)
	defer patience.Stop()
	for answers := l.answers.Load(); ; {
		select {
		case err := <-closed:
			return err
		case <-l.ended:
		case <-patience.C:
			if now := l.answers.Load(); now != answers { // slow, but it answers
				answers = now
				patience.Reset(l.o.FailAfter * 3 / 4)
				continue
			}
		}
		break
	}
	select {
	case <-l.ended:
	default:
		_ = l.fail(fmt.Errorf("it could not be closed in %v", l.o.FailAfter)) // returned below
	}
	// What is not stuck ends now.
	patience.Reset(l.o.FailAfter / 4)
	select {
	case err := <-closed:
		return err
	case <-patience.C:
		return l.failure()
	}
}
