package recorder

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// LedgerFile is the name of the ledger in its directory.
const LedgerFile = "ledger.log"

// ErrOutOfOrder is wrapped when a leaf's sequence is not the next one.
var ErrOutOfOrder = errors.New("ledger: out of order")

// orderPatience is how long a leaf waits for the one before it, which another
// goroutine is about to append.
const orderPatience = 5 * time.Second

// MaxLeaf is the largest leaf, in bytes.
const MaxLeaf = 256 << 10

// Ledger is the node's append-only log of events: the same framed,
// hash-chained, signed file as a recording, without the sealing. Safe for
// concurrent use. Blocks are committed one by one, so a torn tail is never
// more than one block.
type Ledger struct {
	o       Options
	file    file
	chain   *chain        // used by run, and by Open before it
	watch   deadline      // of the commit that is under way
	failed  chan struct{} // closed when err wraps ErrFailed
	stopped chan struct{} // closed when run has returned

	mu       sync.Mutex // guards what follows
	work     sync.Cond
	group    *group // leaves that wait for the next commit
	accepted int64  // highest sequence handed over
	durable  int64
	head     string        // of the last durable block
	turn     chan struct{} // closed and replaced when accepted, group or err change
	settled  chan struct{} // closed and replaced when durable or err change
	closing  bool
	err      error
	torn     int64
}

// OpenLedger opens or begins the ledger in dir, verifies it and cuts a torn tail (which it reports).
//
// It verifies the hash chain of the whole file and the signature at its head,
// which covers all before it; package replay verifies every signature. A
// chain that is broken anywhere but in a torn tail is an error that names the
// entry: such a ledger is never appended to.
func OpenLedger(o Options) (*Ledger, error) {
	if err := o.fill(); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("ledger: %w", err)
	}
	l := &Ledger{o: o, chain: newChain(o.Signer), failed: make(chan struct{}), stopped: make(chan struct{}),
		turn: make(chan struct{}), settled: make(chan struct{}), group: new(group)}
	l.work.L = &l.mu
	l.watch = deadline{warnAfter: o.WarnAfter, failAfter: o.FailAfter,
		warn: func() { o.Log.Warn("the disk of the ledger is slow", "after", o.WarnAfter) },
		fail: func() { l.settle(0, fmt.Errorf("%w (%s)", errSlowDisk, o.FailAfter)) }}
	files, err := o.reopen(filepath.Join(o.Dir, LedgerFile))
	if err != nil {
		return nil, fmt.Errorf("ledger: %w", err)
	}
	if err := l.load(files); err != nil {
		return nil, errors.Join(fmt.Errorf("ledger: %w", err), files.disk.Close())
	}
	l.file = files.append
	l.head = l.chain.headHex()
	l.accepted = l.durable
	go l.run()
	return l, nil
}

// ledgerFiles is the ledger's file twice: as it is read and cut, and as it is appended to.
type ledgerFiles struct {
	disk   *os.File
	append file
}

func openLedgerFiles(path string) (*ledgerFiles, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	if err := lockFile(f); err != nil {
		return nil, errors.Join(fmt.Errorf("it is in use by another process: %w", err), f.Close())
	}
	return &ledgerFiles{disk: f, append: diskFile{f}}, nil
}

// load verifies what stands in the file and begins it when it is new.
func (l *Ledger) load(files *ledgerFiles) error {
	info, err := files.disk.Stat()
	if err != nil {
		return err
	}
	s, err := l.scan(files.disk, info.Size())
	if err != nil {
		return err
	}
	if s.offset < info.Size() {
		l.torn = info.Size() - s.offset
		if err := keepTail(files.disk, s.offset, fmt.Sprintf("%s.%d%s", files.disk.Name(), s.offset, tornSuffix)); err != nil {
			return err
		}
		if err := files.disk.Truncate(s.offset); err != nil {
			return err
		}
		l.o.Log.Warn("cut a torn tail off the ledger", "bytes", l.torn, "last", l.durable)
	}
	if s.offset > 0 {
		l.chain.sequence, l.chain.head = s.sequence, s.head
		return files.append.Sync()
	}
	h := Header{Version: 1, Type: TypeLedger, Node: l.o.Node, Suite: SuiteNone, Start: l.o.Clock().UTC(),
		Signer: SignerID(l.o.Signer.Public().(ed25519.PublicKey))}
	payload, err := h.encode()
	if err != nil {
		return err
	}
	out := l.chain.append([]byte(FileMagic), BlockInfo{Type: BlockHeader, Time: h.Start}, payload, nil)
	if err := writeAll(files.append, out); err != nil {
		return err
	}
	if err := files.append.Sync(); err != nil {
		return err
	}
	return syncDir(l.o.Dir)
}

// scan walks the chain and returns the prefix that is whole.
func (l *Ledger) scan(f *os.File, size int64) (prefix, error) {
	var s prefix
	key := l.o.Signer.Public().(ed25519.PublicKey)
	b, err := NewBlockReader(f)
	var signed bool // by the last block read; earlier ones are covered by its hash
	for err == nil {
		var k *Block
		if k, err = b.Next(); err != nil {
			break
		}
		if signed = k.SignedBy(key); k.Type == BlockHeader {
			if s.header, err = ParseHeader(k.Payload); err != nil {
				return s, err
			}
			if err := l.owns(s.header, signed); err != nil {
				return s, err
			}
		} else if k.Type != BlockData || k.Class != ClassPlain {
			return s, fmt.Errorf("entry %d (byte %d): a block of type %q has no place here", b.NextFrame(), k.Offset, byte(k.Type))
		}
		s.offset, s.sequence, s.head, s.next = b.Offset(), b.Sequence(), b.Chain(), b.NextFrame()
		l.durable = int64(s.next) - 1
	}
	if s.offset > 0 && !signed {
		return s, fmt.Errorf("the chain is broken at or before entry %d: the signature at its head does not fit", l.durable)
	}
	if err == nil || errors.Is(err, io.EOF) {
		return s, nil
	}
	var format *FormatError
	if !errors.As(err, &format) {
		return s, err
	}
	if torn, readErr := isTorn(f, s.offset, size, format); readErr != nil {
		return s, readErr
	} else if !torn {
		return s, fmt.Errorf("the chain is broken after entry %d (byte %d): %s", l.durable, format.Offset, format.Reason)
	}
	return s, nil
}

func (l *Ledger) owns(h Header, signed bool) error {
	switch {
	case h.Type != TypeLedger:
		return errors.New("the file is not a ledger")
	case h.Node != l.o.Node:
		return fmt.Errorf("it belongs to node %s, not %s", h.Node, l.o.Node)
	case !signed:
		return errors.New("entry 0: the header was not signed by this node's key")
	}
	return nil
}

// isTorn tells a tail that a crash tore from one that somebody changed. A
// block is written by one call, so a torn one is cut short or, when the size
// reached the disk before the data, zero. Anything that looks like another
// block behind the fault means that the fault is not the tail.
func isTorn(f *os.File, offset, size int64, e *FormatError) (bool, error) {
	rest := size - offset
	if rest > headerSize+maxPayload+signatureSize {
		return false, nil
	}
	tail := make([]byte, rest)
	if _, err := f.ReadAt(tail, offset); err != nil {
		return false, err
	}
	zero := true
	for _, c := range tail {
		zero = zero && c == 0
	}
	if zero || !e.Cut {
		return zero, nil
	}
	for i := 1; i+headerSize <= len(tail); i++ {
		if tail[i] != 'S' {
			continue
		}
		if info, err := decodeInfo(tail[i : i+headerSize]); err == nil && info.Sequence == e.Sequence+1 {
			return false, nil
		}
	}
	return true, nil
}

// Torn is how many bytes OpenLedger cut off; they are kept beside the ledger.
func (l *Ledger) Torn() int64 { return l.torn }

// Append makes a leaf durable; concurrent calls share one fdatasync. Sequences must be dense.
//
// A leaf whose predecessor another goroutine is about to append waits for it;
// ErrOutOfOrder if it does not come. When ctx ends first the leaf may become
// durable all the same: Last tells.
func (l *Ledger) Append(ctx context.Context, sequence int64, leaf []byte) error {
	if len(leaf) > MaxLeaf {
		return fmt.Errorf("a ledger entry of %d bytes is larger than %d", len(leaf), MaxLeaf)
	}
	if err := l.hand(ctx, sequence, leaf); err != nil {
		return err
	}
	return l.until(ctx, &l.settled, func() bool { return l.durable >= sequence })
}

// AppendAll makes a dense run of leaves durable, the first with the given
// sequence, in as few commits as they fit. On an error Last tells how many
// became durable.
func (l *Ledger) AppendAll(ctx context.Context, first int64, leaves [][]byte) error {
	for i, leaf := range leaves {
		if len(leaf) > MaxLeaf {
			return fmt.Errorf("a ledger entry of %d bytes is larger than %d", len(leaf), MaxLeaf)
		}
		if err := l.hand(ctx, first+int64(i), leaf); err != nil {
			return err
		}
	}
	last := first + int64(len(leaves)) - 1
	return l.until(ctx, &l.settled, func() bool { return l.durable >= last })
}

// hand puts a leaf into the next commit when its turn has come.
func (l *Ledger) hand(ctx context.Context, sequence int64, leaf []byte) error {
	turn, cancel := ctx, func() {}
	if l.lastAccepted() < sequence-1 {
		turn, cancel = context.WithTimeout(ctx, orderPatience)
	}
	defer cancel()
	err := l.until(turn, &l.turn, func() bool {
		return l.accepted >= sequence-1 && (l.accepted >= sequence || l.group.size() < blockTarget)
	})
	if err != nil && ctx.Err() == nil && turn.Err() != nil {
		return fmt.Errorf("%w: entry %d came after entry %d", ErrOutOfOrder, sequence, l.lastAccepted())
	}
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return l.err
	}
	if l.closing {
		return ErrClosed
	}
	if sequence != l.accepted+1 {
		return fmt.Errorf("%w: entry %d came after entry %d", ErrOutOfOrder, sequence, l.accepted)
	}
	micros := l.o.Clock().UnixMicro()
	if l.group.span == 0 {
		l.group.reset(Position(sequence), micros)
	}
	l.group.add(Position(sequence), kindLeaf, micros, leaf, false)
	l.accepted = sequence
	wake(&l.turn)
	l.work.Signal()
	return nil
}

func (l *Ledger) lastAccepted() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.accepted
}

// until waits for a condition on what mu guards; signal is closed when it may have changed.
func (l *Ledger) until(ctx context.Context, signal *chan struct{}, met func() bool) error {
	for {
		l.mu.Lock()
		ok, err, changed := met(), l.err, *signal
		l.mu.Unlock()
		if ok {
			return nil
		}
		if err != nil {
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// wake must be called with mu held.
func wake(signal *chan struct{}) {
	close(*signal)
	*signal = make(chan struct{})
}

// run commits what has gathered, one block at a time.
func (l *Ledger) run() {
	defer close(l.stopped)
	spare := new(group)
	var out []byte
	for {
		l.mu.Lock()
		for l.group.span == 0 && !l.closing {
			l.work.Wait()
		}
		g := l.group
		if g.span == 0 {
			l.mu.Unlock()
			return
		}
		spare.reset(0, 0)
		l.group, spare = spare, g
		wake(&l.turn)
		l.mu.Unlock()
		out = l.chain.append(out[:0], BlockInfo{Type: BlockData, First: g.first, Span: g.span, Count: g.span,
			Time: time.UnixMicro(g.base)}, g.main.data, nil)
		l.watch.arm()
		err := writeAll(l.file, out)
		if err == nil {
			err = l.file.Sync()
		}
		l.watch.disarm()
		if !l.settle(int64(g.first)+int64(g.span)-1, err) {
			return
		}
	}
}

// settle says what came of a commit; false: the ledger has failed. What comes
// after a failure is too late, whatever it is.
func (l *Ledger) settle(last int64, err error) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return false
	}
	defer wake(&l.settled)
	if err != nil {
		l.err = fmt.Errorf("%w: ledger: %w", ErrFailed, err)
		close(l.failed)
		wake(&l.turn)
		l.o.Log.Error("the ledger failed", "error", err)
		return false
	}
	l.durable, l.head = last, l.chain.headHex()
	return true
}

// Last is the highest durable sequence.
func (l *Ledger) Last() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.durable
}

// Checkpoint signs the present head.
func (l *Ledger) Checkpoint() Checkpoint {
	l.mu.Lock()
	c := Checkpoint{Node: l.o.Node, Sequence: l.durable, Head: l.head}
	l.mu.Unlock()
	c.Time = l.o.Clock().UTC()
	c.sign(l.o.Signer)
	return c
}

// Failed is closed when the ledger can no longer append.
func (l *Ledger) Failed() <-chan struct{} { return l.failed }

// Close commits what was handed over and closes the file. Of a disk that hangs
// it fails after Options.FailAfter and leaves file and lock to the end of the process.
func (l *Ledger) Close() error {
	l.mu.Lock()
	if l.closing {
		l.mu.Unlock()
		return l.hung()
	}
	l.closing = true
	l.work.Signal()
	l.mu.Unlock()
	if err := l.hung(); err != nil {
		return err
	}
	l.mu.Lock()
	if l.err == nil {
		l.err = ErrClosed
		wake(&l.turn)
		wake(&l.settled)
	}
	l.mu.Unlock()
	return l.file.Close()
}

// hung waits for run to return; a commit that is still under way when the
// ledger has failed for it gets no more than another FailAfter.
func (l *Ledger) hung() error {
	select {
	case <-l.stopped:
		return nil
	case <-l.failed:
	}
	patience := time.NewTimer(l.o.FailAfter)
	defer patience.Stop()
	select {
	case <-l.stopped:
		return nil
	case <-patience.C:
		return fmt.Errorf("close the ledger: %w", errSlowDisk)
	}
}
