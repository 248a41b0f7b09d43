package journal

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"crypto/rand"
)

// Mode says when a frame counts as kept.
type Mode byte

// The modes of a journal.
const (
	// Durable acknowledges a frame once fdatasync has returned. It survives a
	// failure of power.
	Durable Mode = iota
	// Written acknowledges a frame once the kernel has it. It survives the end
	// of the process by any means, but not that of the machine.
	Written
)

// ErrFailed wraps every error of a journal that can no longer record. It is
// final: nothing is tried again, and only a new Open finds out what is on the disk.
var ErrFailed = errors.New("journal failed")

// ErrClosed is returned for a stream or a journal that was closed.
var ErrClosed = errors.New("journal closed")

// ErrNoSpace is wrapped by the error of Ready, and by that of a stream which
// waited for FailAfter, when there is no room for another file. The journal
// itself goes on: streams that may use the reserve still record.
var ErrNoSpace = errors.New("no space for the journal")

// Limits of what a stream may say.
const (
	MaxFrame   = 1 << 20  // bytes of data in one frame
	MaxPublic  = 64 << 10 // public bytes of a stream
	MaxName    = 255      // bytes of a stream's name
	MaxClasses = 8        // keys of a stream
	KeySize    = 32       // bytes of a stream's key
)

// Options are what a Journal is made from. Only Dir and Node are needed.
type Options struct {
	Dir  string // only the journal's files rest here
	Node string // the node's id, at most 255 bytes
	Mode Mode

	FileSize int64 // bytes of one file; 0: 64 MiB
	MaxFiles int   // files in all, the reserve among them; 0: 32
	Reserve  int   // files that only streams with Rescue may begin; 0: 1
	MinFree  int64 // bytes that a new file must leave free on the file system

	MaxFrame         int // bytes of data in one frame; 0, or more than MaxFrame: MaxFrame
	MaxPending       int // bytes of one stream that may wait before Append blocks; 0: 1 MiB
	MaxPendingInSum  int // the same for all streams together; 0: 64 MiB
	maxBatchForTests int

	// WarnAfter and FailAfter bound one commit, and the wait for room;
	// 0: 2 s and 10 s. A slower disk fails the journal.
	WarnAfter, FailAfter time.Duration

	Clock  func() time.Time // nil: time.Now
	Random io.Reader        // for file and stream ids; nil: crypto/rand
	Log    *slog.Logger     // nil: nothing is logged

	// Damaged is asked about each damaged place that Open finds. If it
	// returns nil, Open reads on behind the place and keeps the file aside
	// under another name; if it is nil, Open fails with the DamageError.
	Damaged func(*DamageError) error

	// Used hears how many files hold frames, or are about to, whenever that
	// becomes one more: whoever sits on frames can release them. Files are used
	// again oldest first, so one stream can hold up all. It must not block.
	Used func(files int)

	// Order compares two streams that remain, for the order in which Open hands
	// them to visit; nil: that of their first openings.
	Order func(a, b *Remains) int

	files fileSystem // tests put a failing one here; nil: the real disk
}

const (
	defaultFileSize  = 64 << 20
	defaultMaxFiles  = 32
	defaultBatch     = 2 << 20
	defaultWarnAfter = 2 * time.Second
	defaultFailAfter = 10 * time.Second
)

func orDefault[T int | int64 | time.Duration](value *T, standard T) {
	if *value <= 0 {
		*value = standard
	}
}

func (o *Options) fill() error {
	if o.Dir == "" || o.Node == "" || len(o.Node) > 255 {
		return errors.New("journal: a directory and a node id of at most 255 bytes are needed")
	}
	orDefault(&o.FileSize, defaultFileSize)
	orDefault(&o.MaxFiles, defaultMaxFiles)
	orDefault(&o.Reserve, 1)
	orDefault(&o.MaxFrame, MaxFrame)
	orDefault(&o.MaxPending, 1<<20)
	orDefault(&o.MaxPendingInSum, 64<<20)
	orDefault(&o.maxBatchForTests, defaultBatch)
	orDefault(&o.WarnAfter, defaultWarnAfter)
	orDefault(&o.FailAfter, defaultFailAfter)
	o.MaxFrame = min(o.MaxFrame, MaxFrame)
	o.WarnAfter = min(o.WarnAfter, o.FailAfter)
	o.FileSize = o.FileSize / blockSize * blockSize
	// One batch of the largest frame with its opening, between the file's
	// header and the block that is kept for the file's end.
	least := 2*blockSize + padded(batchHeaderSize+openingSize(MaxName, MaxPublic)+frameOverhead+o.MaxFrame)
	if o.FileSize < int64(least) || o.FileSize > maxFileSize {
		return fmt.Errorf("journal: a file of %d bytes; it needs %d to %d", o.FileSize, least, int64(maxFileSize))
	}
	if o.MaxFiles < o.Reserve+2 {
		return fmt.Errorf("journal: %d files are too few for a reserve of %d", o.MaxFiles, o.Reserve)
	}
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if o.Random == nil {
		o.Random = rand.Reader
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.files == nil {
		o.files = diskFiles{o.Dir}
	}
	return nil
}
