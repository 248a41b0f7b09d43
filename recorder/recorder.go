// Package recorder keeps what happened: one sealed recording file for each
// session, and the node's ledger, which says in public what rests in them.
//
// Everything is durable before it is acknowledged. Append hands a frame over
// and returns its position; the caller delivers the bytes of that frame only
// once Durable has reached the position (see Wait). All frames of all sessions
// go through one journal (package journal), which shares the cost of a commit.
// Behind it a sealer for each session moves them into the session's recording
// (package trec), tells the ledger of each part, and releases their room in the
// journal. What a crash leaves in the journal is moved, still sealed, at the
// next Open, before anything else is recorded.
//
// Recordings are sealed from the first byte to the age recipients of the
// project's epoch, in the journal as well. This package has no way to read them
// back; that is package replay, with the auditors' identities. Typed keys of a
// terminal are sealed under a key of their own. The plaintext of what is not yet
// in the recording, at most some 2 MiB of a session, is only ever in memory.
//
// The package refuses to drop, thin or rewrite: there is no call that removes
// a frame or an entry, and what it can't put where it belongs it sets aside. A
// write or sync that fails is never tried again. It knows nothing of policy,
// people or SSH.
package recorder

import (
	"crypto/ed25519"
	"errors"
	"io"
	"log/slog"
	"path/filepath"
	"time"

	"sallyport/recorder/journal"
	"sallyport/recorder/ledger"
	"sallyport/recorder/trec"
)

// Kind says what a frame is, Position where it is in the order of a recording's
// frames, and Frame is one thing that happened in a session.
type (
	Kind     = trec.Kind
	Position = trec.Position
	Frame    = trec.Frame // a zero Time is set by Append
	Entry    = trec.Entry
)

// The kinds of frames.
const (
	KindOutput  = trec.KindOutput  // bytes of the data server's standard output
	KindStderr  = trec.KindStderr  // bytes of its standard error
	KindInput   = trec.KindInput   // bytes of the client
	KindResize  = trec.KindResize  // window, see EncodeResize
	KindExit    = trec.KindExit    // exit status or signal, see EncodeExit
	KindChannel = trec.KindChannel // "open", "eof-in", "eof-out", "close"
	KindCommand = trec.KindCommand // exact bytes of an exec request, or the name of a subsystem
	KindSignal  = trec.KindSignal  // signal that the client sent, name without SIG
	KindEnv     = trec.KindEnv     // NAME=value that was passed on
	KindGate    = trec.KindGate    // bytes that the bastion itself wrote to the person
	KindMarker  = trec.KindMarker  // a note of the bastion, e.g. "term=xterm-256color"
)

// MaxFrame is the largest Data of one frame, in bytes.
const MaxFrame = trec.MaxFrame

// ErrFailed wraps every error of a recording that can no longer be written. It
// is final: the session ends. When it is the journal's or the ledger's error it is
// that of all sessions, and the node starts no other (see Recorder.Failed).
var ErrFailed = errors.New("recording failed")

// ErrClosed is returned by Append after Close.
var ErrClosed = errors.New("recording closed")

// ErrNoSpace is wrapped by the error of Ready when there is too little room for
// another session. It passes when there is room again.
var ErrNoSpace = errors.New("too little space for recordings")

// Meta describes a session at its start. All of it but Session, Node, Epoch and Start is sealed.
type Meta struct {
	Session    string    `json:"session"`
	Number     int64     `json:"number"`
	Node       string    `json:"node"`
	Connection string    `json:"connection"`
	Epoch      string    `json:"epoch"`
	Start      time.Time `json:"start"`
	User       string    `json:"user"`
	Project    string    `json:"project"`
	Server     string    `json:"server"`
	Account    string    `json:"account"`
	Action     string    `json:"action"`
	PTY        bool      `json:"pty"`
	Term       string    `json:"term,omitempty"`
	Columns    uint32    `json:"columns,omitempty"`
	Rows       uint32    `json:"rows,omitempty"`
	RemoteAddr string    `json:"remote_addr"`
	Request    string    `json:"request,omitempty"`
	// Rescue marks a session that may be what makes room again: it may use the
	// journal's reserve, and goes on when the recordings' disk is full.
	Rescue bool `json:"rescue,omitempty"`
}

// Keys are the recipients of a project's epoch, as age recipients.
type Keys struct {
	Recipient string // for output, and for input of exec and subsystem
	Strict    string // for keys typed in a terminal
}

// Result says how a recording ended.
type Result struct {
	Reason   string // as authz.Session.Result
	Segments uint32 // of the file
	// Head is the root of the recording's tree, in hexadecimal; empty when the
	// file has no end yet: frames rest in the journal, and Recover closes it.
	Head  string
	Index int64 // of the ledger's entry of kind close; the receipt is about it
}

// The reasons that this package itself gives in a Result of Recover.
const (
	ReasonCrashed = trec.ReasonCrashed // the signed end was written after a crash
	ReasonDamaged = "damaged"          // the file could not be closed and was set aside
	ReasonMissing = "missing"          // there is no file, or not even its header became durable
)

// Options are what a Recorder is made from. Dir, Node, Signer and Secret are needed.
type Options struct {
	Dir    string             // recordings rest here, one file a session, mode 0600
	Node   string             // the node's id
	Signer ed25519.PrivateKey // the node's signing key
	// MinFree is how many bytes must be free on Dir's file system, and on the
	// journal's, to start a session.
	MinFree int64

	JournalDir   string       // only the journal's files rest here; "": Dir/../journal
	Mode         journal.Mode // when a frame counts as durable
	JournalSize  int64        // bytes of one of its files; 0: 64 MiB
	JournalFiles int          // how many there may be, the reserve among them; 0: 32
	Reserve      int          // files that only rescue sessions and the ledger may begin; 0: 1

	LedgerDir  string // the ledger rests here; "": Dir/../ledger
	LedgerKeys string // the keys of its bodies rest here; "": Dir/../ledger-keys
	Secret     []byte // 32 bytes, the node's journal key

	// MaxPending is how many bytes of a recording may wait to become durable, and
	// again as many to be sealed, before Append blocks; 0: 1 MiB.
	MaxPending int
	// MaxUnsealed is how many bytes of all sessions may rest in the journal only
	// while another session starts; 0: half of what the journal holds.
	MaxUnsealed int64
	// WarnAfter and FailAfter bound one write and sync; 0: 2 s and 10 s.
	// A slower disk fails the recording; if it is the journal's, all of them.
	WarnAfter, FailAfter time.Duration

	// Damaged is asked about each damaged place of the journal (journal.Options.Damaged);
	// nil: Open fails with the *journal.DamageError.
	Damaged func(*journal.DamageError) error

	// Finished hears of each recording once its end is signed and in the ledger.
	// It must not wait. nil: nobody does.
	Finished func(session string)

	Clock  func() time.Time // nil: time.Now
	Random io.Reader        // nil: crypto/rand
	Log    *slog.Logger     // nil: nothing is logged

	create func(path string) (file, error) // tests inject faults; nil: the real disk
	free   func(dir string) (int64, error) // tests; nil: statfs
	age    time.Duration                   // tests: age of a segment's first frame at which it is sealed
}

// Defaults of Options.
const (
	defaultMaxPending  = 1 << 20
	maxMaxPending      = 16 << 20
	defaultFileSize    = 64 << 20
	defaultJournalSize = 32 // files
	defaultWarnAfter   = 2 * time.Second
	defaultFailAfter   = 10 * time.Second
)

func orDefault[T int | int64 | time.Duration](value *T, standard T) {
	if *value <= 0 {
		*value = standard
	}
}

func (o *Options) fill() error {
	switch {
	case len(o.Signer) != ed25519.PrivateKeySize:
		return errors.New("recorder: the node's signing key is missing")
	case o.Dir == "" || o.Node == "":
		return errors.New("recorder: a directory and a node id are needed")
	case len(o.Secret) != ledger.SecretSize:
		return errors.New("recorder: the journal's key needs 32 bytes")
	}
	beside := func(dir *string, name string) {
		if *dir == "" {
			*dir = filepath.Join(filepath.Dir(filepath.Clean(o.Dir)), name)
		}
	}
	beside(&o.JournalDir, "journal")
	beside(&o.LedgerDir, "ledger")
	beside(&o.LedgerKeys, "ledger-keys")
	orDefault(&o.JournalSize, defaultFileSize)
	orDefault(&o.JournalFiles, defaultJournalSize)
	orDefault(&o.Reserve, 1)
	orDefault(&o.MaxPending, defaultMaxPending)
	o.MaxPending = min(o.MaxPending, maxMaxPending)
	orDefault(&o.MaxUnsealed, int64(max(o.JournalFiles-o.Reserve, 1))*o.JournalSize/2)
	orDefault(&o.WarnAfter, defaultWarnAfter)
	orDefault(&o.FailAfter, defaultFailAfter)
	orDefault(&o.age, trec.SegmentAge)
	o.WarnAfter = min(o.WarnAfter, o.FailAfter)
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.create == nil {
		o.create = createFile
	}
	if o.free == nil {
		o.free = freeBytes
	}
	return nil
}
