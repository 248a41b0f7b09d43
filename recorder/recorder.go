package recorder

import (
	"context"
	"crypto/ed25519"
	"errors"
	"time"
)

// Kind says what a frame is.
type Kind byte

// The kinds of frames. Values are part of the file format.
const (
	KindOutput  Kind = 'o' // bytes of the data server's standard output
	KindStderr  Kind = 'e' // bytes of its standard error
	KindInput   Kind = 'i' // bytes of the client
	KindResize  Kind = 'r' // window: columns, rows, width and height in pixels, each uint32 big endian
	KindExit    Kind = 'x' // exit status (uint32) or 's' and signal name; see EncodeExit
	KindChannel Kind = 'n' // channel opened, end of file, closed: "open", "eof-in", "eof-out", "close"
	KindCommand Kind = 'c' // exact bytes of an exec request, or the name of a subsystem
	KindSignal  Kind = 'k' // signal that the client sent, name without SIG
	KindEnv     Kind = 'v' // NAME=value that was passed on
	KindGate    Kind = 'g' // bytes that the bastion itself wrote to the person
	KindMarker  Kind = 'm' // a note of the bastion, e.g. "term=xterm-256color"
)

// Position is a place in the order of a recording's frames; the first frame is 1.
type Position uint64

// Frame is one thing that happened in a session. Data is at most MaxFrame bytes.
type Frame struct {
	Kind Kind
	Time time.Time // zero: set by Append
	Data []byte
}

// MaxFrame is the largest Data of one frame, in bytes.
const MaxFrame = 1 << 20

// ErrFailed wraps every error of a recorder that can no longer record. It is
// final: the session ends, and the node starts no other.
var ErrFailed = errors.New("recording failed")

// ErrClosed is returned by Append after Close.
var ErrClosed = errors.New("recording closed")

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

// Options are what a Recorder is made from.
type Options struct {
	Dir    string             // recordings rest here, one file a session, mode 0600
	Node   string             // the node's id
	Signer ed25519.PrivateKey // the node's signing key
	Clock  func() time.Time   // nil: time.Now
	// MinFree is how many bytes must be free on Dir's file system to start a session.
	MinFree int64
}

// Recorder starts recordings. Safe for concurrent use.
type Recorder struct{}

// Open prepares dir. It fails when dir can't be written durably.
func Open(o Options) (*Recorder, error) { panic("todo") }

// Ready returns nil while a new session could be recorded, else why not
// (wraps ErrFailed, or says how much space is missing).
func (r *Recorder) Ready() error { panic("todo") }

// Start begins the recording of a session; its header is durable when Start returns.
func (r *Recorder) Start(ctx context.Context, m Meta, k Keys) (*Recording, error) { panic("todo") }

// Failed is closed when the recorder as a whole has failed.
func (r *Recorder) Failed() <-chan struct{} { panic("todo") }

// Path returns where a session's recording rests.
func (r *Recorder) Path(session string) string { panic("todo") }

// Recover closes recordings that a crash left open: it cuts a torn tail, appends a signed end
// "crashed" and returns them by session. Call it once, before Start.
func (r *Recorder) Recover(ctx context.Context) (map[string]Result, error) { panic("todo") }

// Close waits for open recordings to end or ctx to be done.
func (r *Recorder) Close(ctx context.Context) error { panic("todo") }

// Recording is the recording of one live session. Safe for concurrent use.
type Recording struct{}

// Append takes ownership of a frame and returns its position. It blocks only
// while too much is waiting to become durable, and never drops.
func (r *Recording) Append(f Frame) (Position, error) { panic("todo") }

// Durable is the highest position that will survive a crash.
func (r *Recording) Durable() Position { panic("todo") }

// Wait returns once p is durable, or with an error that wraps ErrFailed, or with ctx's.
func (r *Recording) Wait(ctx context.Context, p Position) error { panic("todo") }

// Done is closed when the recording has failed or is closed; Err says which.
func (r *Recording) Done() <-chan struct{} { panic("todo") }

// Err is nil while all is well, ErrClosed after Close, else wraps ErrFailed.
func (r *Recording) Err() error { panic("todo") }

// Close appends the signed end and makes it durable.
func (r *Recording) Close(ctx context.Context, reason string) (Result, error) { panic("todo") }

// Ledger is the node's append-only log of events: the same framed,
// hash-chained, signed file as a recording, without the sealing.
type Ledger struct{}

// OpenLedger opens or begins the ledger in dir, verifies it and cuts a torn tail (which it reports).
func OpenLedger(o Options) (*Ledger, error) { panic("todo") }

// Append makes a leaf durable; concurrent calls share one fdatasync. Sequences must be dense.
func (l *Ledger) Append(ctx context.Context, sequence int64, leaf []byte) error { panic("todo") }

// Last is the highest durable sequence.
func (l *Ledger) Last() int64 { panic("todo") }

// Checkpoint is a signed statement of how far the ledger has come.
type Checkpoint struct {
	Node      string    `json:"node"`
	Sequence  int64     `json:"sequence"`
	Head      string    `json:"head"` // hex
	Time      time.Time `json:"time"`
	Signature string    `json:"signature"` // base64, over the line "sallyport checkpoint v1\n…"
}

// Checkpoint signs the present head.
func (l *Ledger) Checkpoint() Checkpoint { panic("todo") }

// Failed is closed when the ledger can no longer append.
func (l *Ledger) Failed() <-chan struct{} { panic("todo") }

// Close closes the file.
func (l *Ledger) Close() error { panic("todo") }
