package ledger

import (
	"context"
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/mod/sumdb/note"
	sumtlog "golang.org/x/mod/sumdb/tlog"

	"sallyport/recorder/journal"
	"sallyport/recorder/tlog"
)

var (
	// ErrFailed is wrapped by every error of a ledger that takes no more entries,
	// because the journal or the disk failed it. It is final.
	ErrFailed = errors.New("the ledger has failed")
	// ErrClosed is wrapped by calls after Close.
	ErrClosed = errors.New("the ledger is closed")
	// ErrOutOfOrder is wrapped when an event's sequence is not the next one.
	ErrOutOfOrder = errors.New("ledger: out of order")
	// ErrNoSpace is wrapped while the disk of the ledger is full (Full, Publish, Recover).
	ErrNoSpace = tlog.ErrNoSpace
)

// SecretSize is the size of Options.Secret, in bytes.
const SecretSize = 32

// OriginOf is the origin of a node's log, which is also the name of its key.
func OriginOf(node string) string { return "sallyport/" + node }

// VerifierOf makes the verifier of a node's ledger from the node's public key.
func VerifierOf(node string, key ed25519.PublicKey) (note.Verifier, error) {
	return tlog.NewVerifier(OriginOf(node), key)
}

// Options says how to open a node's ledger.
type Options struct {
	Dir     string // of checkpoint, tiles and sealed bodies: what an auditor copies
	KeysDir string // of the bodies' keys; never inside Dir
	Node    string // N-…
	Signer  ed25519.PrivateKey
	Secret  []byte // of SecretSize bytes: journal.key

	Clock  func() time.Time // nil: time.Now
	Random io.Reader        // nil: crypto/rand
	Log    *slog.Logger     // nil: nothing is logged

	// PublishInterval is how often tiles and checkpoint are brought up to date
	// on disk when entries came; 0: 1 s; negative: only Publish and Close do.
	PublishInterval time.Duration
	// Written says that the journal acknowledges what only the kernel has: a failure
	// of power may take it back. Then the tiles are made durable before a checkpoint
	// is published, and Checkpoint covers no more than that.
	Written bool
	// FailAfter is how long the disk may take for one answer before the ledger has
	// failed, and how long Close may take; 0: 10 s.
	FailAfter time.Duration
}

func (o *Options) fill() error {
	if o.Dir == "" || o.KeysDir == "" || o.Node == "" || o.Signer == nil {
		return errors.New("ledger: a directory, one for its keys, a node and a signer are needed")
	}
	if len(o.Secret) != SecretSize {
		return fmt.Errorf("ledger: the secret has %d bytes, not %d", len(o.Secret), SecretSize)
	}
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if o.Random == nil {
		o.Random = rand.Reader
	}
	if o.FailAfter <= 0 {
		o.FailAfter = 10 * time.Second
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return nil
}

// Purposes of the keys that are derived from Options.Secret.
const (
	forStream = "sallyport ledger journal v1"
	forKeys   = "sallyport ledger keys v1"
)

// derive makes a key for a purpose from the secret (RFC 5869 with SHA-256).
func (o *Options) derive(purpose string) ([]byte, error) {
	key, err := hkdf.Key(sha256.New, o.Secret, nil, purpose, journal.KeySize)
	if err != nil {
		return nil, fmt.Errorf("ledger: %w", err)
	}
	return key, nil
}

func (o *Options) keyRing() (*tlog.KeyRing, error) {
	wrapping, err := o.derive(forKeys)
	if err != nil {
		return nil, err
	}
	defer clear(wrapping)
	return tlog.NewKeyRing(o.KeysDir, wrapping, o.Random, o.Clock)
}

func (o *Options) log(durable tlog.Durable) tlog.Options {
	return tlog.Options{Dir: o.Dir, Origin: OriginOf(o.Node), Signer: o.Signer, Durable: durable,
		PublishInterval: o.PublishInterval, SettleFirst: o.Written, FailAfter: o.FailAfter, Log: o.Log}
}

// Keys opens the ring of the bodies' keys, for whoever reads the node's own
// ledger while it is not open (Read). Only Node, KeysDir and Secret are needed.
func (o Options) Keys() (*tlog.KeyRing, error) {
	if o.KeysDir == "" || len(o.Secret) != SecretSize {
		return nil, fmt.Errorf("ledger: a directory of keys and a secret of %d bytes are needed", SecretSize)
	}
	o.Dir, o.Node, o.Signer = "-", "-", ed25519.PrivateKey{}
	if err := o.fill(); err != nil {
		return nil, err
	}
	return o.keyRing()
}

// Ledger is a node's open ledger. Safe for concurrent use.
type Ledger struct {
	o    Options
	log  *tlog.Log
	keys *tlog.KeyRing

	mu       sync.Mutex       // guards what follows
	accepted int64            // highest sequence handed to the log
	durable  int64            // highest sequence that is durable, as far as was looked
	flight   []flying         // handed over and not seen to be durable, in order
	early    map[int64]*early // by their first sequence: they wait for those before
}

// flying is events on their way.
type flying struct {
	last      int64 // their highest sequence
	appending tlog.Appending
}

// recoverPatience is Options.FailAfter of Recover at least: much may have to go to the disk at once.
const recoverPatience = time.Minute

// Recover brings into the tiles, durably, what a journal still holds of the
// ledger. It is called in journal.Open's visit for the stream named StreamName; when
// it returns nil the journal may forget the frames. A crash at any moment is
// harmless: what is in the tiles already is passed over. So is a full disk: the error
// wraps ErrNoSpace, and the journal keeps the frames for the next time.
func Recover(o Options, r *journal.Remains) error {
	if err := o.fill(); err != nil {
		return err
	}
	key, err := o.derive(forStream)
	if err != nil {
		return err
	}
	defer clear(key)
	from := &remains{from: r, key: key}
	options := o.log(from)
	options.PublishInterval = -1
	options.FailAfter = max(o.FailAfter, recoverPatience)
	l, err := tlog.Open(options)
	if err != nil {
		return fmt.Errorf("recover from the journal: %w", err)
	}
	size := l.Size()
	err = l.Settle(context.Background()) // ends by options.FailAfter, as Close does
	if closed := l.Close(); !errors.Is(err, ErrNoSpace) || !errors.Is(closed, ErrNoSpace) {
		err = errors.Join(err, closed)
	}
	if errors.Is(err, ErrNoSpace) {
		return fmt.Errorf("the ledger's newest entries are in the journal, nothing is lost, and the start needs space for them: %w", err)
	}
	if err != nil {
		return fmt.Errorf("recover the ledger from the journal: %w", err)
	}
	if from.lost || r.Damaged {
		o.Log.Error("the journal was damaged where the ledger's newest entries were; compare with a witnessed checkpoint",
			"entries", size)
	}
	o.Log.Info("recovered the ledger from the journal", "entries", size)
	return nil
}

// Open opens or begins the ledger. The journal must have been opened with a visit that
// calls Recover. The caller closes the ledger before the journal.
func Open(o Options, j *journal.Journal) (*Ledger, error) {
	if err := o.fill(); err != nil {
		return nil, err
	}
	keys, err := o.keyRing()
	if err != nil {
		return nil, err
	}
	key, err := o.derive(forStream)
	if err != nil {
		return nil, err
	}
	defer clear(key)
	stream, err := j.OpenStream(journal.StreamOptions{Name: StreamName, Keys: [][]byte{key}, Rescue: true})
	if err != nil {
		return nil, fmt.Errorf("ledger: %w", err)
	}
	l := &Ledger{o: o, keys: keys, early: map[int64]*early{}}
	if l.log, err = tlog.Open(o.log(&journaled{stream: stream, clock: o.Clock})); err != nil {
		stream.Close()
		return nil, err
	}
	if l.durable, err = l.newest(); err != nil {
		return nil, errors.Join(fmt.Errorf("ledger: %w", err), l.log.Close())
	}
	l.accepted = l.durable
	return l, nil
}

// newest finds the sequence of the newest event. Events stand in the order of their
// sequences without a gap, so those whose text was destroyed are counted.
func (l *Ledger) newest() (int64, error) {
	var unreadable int64
	for index := l.log.Size() - 1; index >= 0; index-- {
		entry, err := l.log.Entry(index)
		if err != nil {
			return 0, err
		}
		if !isEvent(entry) {
			continue
		}
		text, err := l.log.ReadBody(index, l.keys)
		if tlog.Unreadable(err) {
			unreadable++
			continue
		}
		if err != nil {
			return 0, err
		}
		var head eventHead
		if err := json.Unmarshal(text, &head); err != nil {
			return 0, fmt.Errorf("the event of entry %d: %w", index, err)
		}
		return head.Sequence + unreadable, nil
	}
	return unreadable, nil
}

// Err is nil while entries are taken, else wraps ErrFailed or ErrClosed.
func (l *Ledger) Err() error { return wrap(l.log.Err()) }

// Full is nil, or wraps ErrNoSpace while the ledger's disk is full: its newest
// entries rest in the journal, and it is tried again each second.
func (l *Ledger) Full() error { return l.log.Full() }

// Failed is closed when the ledger has failed; Close does not close it.
func (l *Ledger) Failed() <-chan struct{} { return l.log.Failed() }

// wrap makes the log's final errors those of this package.
func wrap(err error) error {
	switch {
	case errors.Is(err, tlog.ErrFailed):
		return fmt.Errorf("%w: %w", ErrFailed, err)
	case errors.Is(err, tlog.ErrClosed):
		return fmt.Errorf("%w: %w", ErrClosed, err)
	}
	return err
}

// Origin is the log's identity: "sallyport/" and the node.
func (l *Ledger) Origin() string { return l.log.Origin() }

// Verifier is the log's own verifier.
func (l *Ledger) Verifier() note.Verifier { return l.log.Verifier() }

// Size is how many entries are durable.
func (l *Ledger) Size() int64 { return l.log.Size() }

// Checkpoint is the signed checkpoint of all durable entries; with
// Options.Written, of those that were published.
func (l *Ledger) Checkpoint() []byte { return l.log.Checkpoint() }

// ProveConsistency proves that the first older entries are unchanged in the first newer.
func (l *Ledger) ProveConsistency(older, newer int64) (sumtlog.TreeProof, error) {
	return l.log.ProveConsistency(older, newer)
}

// StoreCosigned keeps a checkpoint that witnesses cosigned beside the tiles.
func (l *Ledger) StoreCosigned(signed []byte) error { return l.log.StoreCosigned(signed) }

// Publish brings tiles and the checkpoint file up to what is durable now.
func (l *Ledger) Publish(ctx context.Context) error { return wrap(l.log.Publish(ctx)) }

// Settle is Publish, and gives the room of all that is durable in the tiles back to
// the journal, which otherwise happens some seconds later.
func (l *Ledger) Settle(ctx context.Context) error { return wrap(l.log.Settle(ctx)) }

// Receipt is one line, signed, that says that an entry is in the ledger
// (tlog.Receipt): what a person is shown at logout.
func (l *Ledger) Receipt(index int64) (string, error) {
	r, err := l.log.Receipt(index)
	if err != nil {
		return "", fmt.Errorf("ledger: %w", err)
	}
	return r.String(), nil
}

// Keys is the ring of the bodies' keys.
func (l *Ledger) Keys() *tlog.KeyRing { return l.keys }

// Close makes durable what was handed over, brings it to the tiles and ends the
// ledger, or fails it: it takes no longer than Options.FailAfter. An error that
// wraps ErrNoSpace says that the newest entries rest in the journal only.
func (l *Ledger) Close() error { return wrap(l.log.Close()) }
