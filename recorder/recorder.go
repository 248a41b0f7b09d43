// Package recorder keeps what happened: one sealed recording file for each
// session, and one ledger of events for each node.
//
// Everything is durable before it is acknowledged. Append hands a frame over
// and returns its position; the caller delivers the bytes of that frame only
// once Durable has reached the position (see Wait). A write or sync that fails
// is never retried: the recording has failed, and so has the node's Recorder.
//
// Recordings are sealed from the first byte to the age recipients of the
// project's epoch. This package has no way to read them back; that is package
// replay, with the auditors' identities. Typed keys of a terminal are sealed
// under a key of their own. docs/format-recording.md describes the files byte
// by byte.
//
// The package refuses to drop, thin or rewrite: there is no call that removes
// a frame or an entry, and what a crash tore off is kept beside the file. It
// knows nothing of policy, people or SSH.
package recorder

import (
	"crypto/ed25519"
	"errors"
	"log/slog"
	"time"

	"sallyport/recorder/trec"
)

// Kind says what a frame is.
type Kind = trec.Kind

// The kinds of frames; see package trec.
const (
	KindOutput  = trec.KindOutput
	KindStderr  = trec.KindStderr
	KindInput   = trec.KindInput
	KindResize  = trec.KindResize
	KindExit    = trec.KindExit
	KindChannel = trec.KindChannel
	KindCommand = trec.KindCommand
	KindSignal  = trec.KindSignal
	KindEnv     = trec.KindEnv
	KindGate    = trec.KindGate
	KindMarker  = trec.KindMarker
)

// kindLeaf is an entry of the ledger; it never appears in a recording.
const kindLeaf Kind = 'l'

// Position is a place in the order of a recording's frames; the first frame is 1.
type Position uint64

// Frame is one thing that happened in a session. Data is at most MaxFrame bytes.
type Frame struct {
	Kind Kind
	Time time.Time // zero: set by Append; kept to the microsecond
	Data []byte
}

// MaxFrame is the largest Data of one frame, in bytes.
const MaxFrame = 1 << 20

// ErrFailed wraps every error of a recorder that can no longer record. It is
// final: the session ends, and the node starts no other.
var ErrFailed = errors.New("recording failed")

// ErrClosed is returned by Append after Close.
var ErrClosed = errors.New("recording closed")

// ErrNoSpace is wrapped by the error of Ready when the file system of the
// recordings has less than MinFree bytes left. It passes when there is room again.
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
}

// Keys are the recipients of a project's epoch, as age recipients.
type Keys struct {
	Recipient string // for output, and for input of exec and subsystem
	Strict    string // for keys typed in a terminal
}

// Result says how a recording ended.
type Result struct {
	Reason string // as authz.Session.Result
	Blocks uint64
	Head   string // hex SHA-256 of the chain's last block
}

// The reasons that this package itself gives in a Result of Recover.
const (
	ReasonCrashed = "crashed" // the signed end was written after a crash
	ReasonDamaged = "damaged" // the file could not be closed and was set aside
	ReasonMissing = "missing" // there is no file, or not even its header became durable
)

// Recovered says how a recording rests after a crash.
type Recovered struct {
	Result             // Head is "" when the recording is damaged or missing
	Ended    time.Time // of the signed end; zero without one
	BytesIn  int64     // as End.BytesIn; -1 after a crash
	BytesOut int64     // as End.BytesOut; -1 after a crash

	// SHA256 (hex) and Size (bytes) are those of the file that was set aside
	// as damaged, so that it can be told from another later.
	SHA256 string
	Size   int64
}

// Options are what a Recorder is made from.
type Options struct {
	Dir    string             // recordings rest here, one file a session, mode 0600
	Node   string             // the node's id
	Signer ed25519.PrivateKey // the node's signing key
	Clock  func() time.Time   // nil: time.Now
	// MinFree is how many bytes must be free on Dir's file system to start a session.
	MinFree int64

	// Log hears of slow disks, torn tails and failures; nil: nothing is logged.
	Log *slog.Logger
	// MaxPending is how many bytes of a recording may wait to become durable
	// before Append blocks; 0: 1 MiB. At most 16 MiB.
	MaxPending int64
	// WarnAfter and FailAfter bound one write and sync; 0: 2 s and 10 s.
	// A disk slower than FailAfter fails the recording, or the ledger.
	WarnAfter, FailAfter time.Duration

	create func(path string) (file, error)         // tests inject faults; nil: the real disk
	free   func(dir string) (int64, error)         // tests; nil: statfs
	reopen func(path string) (*ledgerFiles, error) // tests; nil: the real disk
}

// Defaults of Options and limits that docs/format-recording.md names.
const (
	defaultMaxPending = 1 << 20
	maxMaxPending     = 16 << 20
	defaultWarnAfter  = 2 * time.Second
	defaultFailAfter  = 10 * time.Second
)

func (o *Options) fill() error {
	if len(o.Signer) != ed25519.PrivateKeySize {
		return errors.New("recorder: the node's signing key is missing")
	}
	if o.Dir == "" || o.Node == "" {
		return errors.New("recorder: a directory and a node id are needed")
	}
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.MaxPending <= 0 {
		o.MaxPending = defaultMaxPending
	}
	o.MaxPending = min(o.MaxPending, maxMaxPending)
	if o.WarnAfter <= 0 {
		o.WarnAfter = defaultWarnAfter
	}
	if o.FailAfter <= 0 {
		o.FailAfter = defaultFailAfter
	}
	o.WarnAfter = min(o.WarnAfter, o.FailAfter)
	if o.create == nil {
		o.create = createFile
	}
	if o.free == nil {
		o.free = freeBytes
	}
	if o.reopen == nil {
		o.reopen = openLedgerFiles
	}
	return nil
}
