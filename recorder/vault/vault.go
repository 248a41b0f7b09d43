// Package vault keeps finished recordings in two places: the folder where the
// recorder wrote them and, when a site has one, a second folder on another
// disk. It copies each recording there once it has its signed end, and it
// re-reads both forms now and then and compares them with what the ledger says
// of each (Scrub).
//
// A copy counts only when it was written, synced, read back with the same
// SHA-256, and renamed into its place. What could not be copied yet is the
// backlog; Ready says when that is more than a site accepts, and then no
// session should start.
//
// The package refuses to repair anything by itself. A form that is damaged or
// lost is an alarm that names the good one; a copy that was made once is never
// made again behind people's backs, and none is ever written over. It opens no
// recording: it sees sealed bytes and public keys only.
package vault

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Suffix ends the name of a recording's file.
const Suffix = ".trec"

// Options are what a Vault is made from.
type Options struct {
	Dir    string // where the recorder writes recordings
	Second string // where their copies go; "": there is one form only
	State  string // folder for what the vault remembers, on a disk of its own choice

	MaxBacklog int64 // bytes that may wait to be copied before Ready refuses; 0: any
	Rate       int64 // bytes a second that Scrub reads at most; 0: as fast as it can

	NodeKey ed25519.PublicKey // must have signed every recording
	Clock   func() time.Time  // nil: time.Now
	Log     *slog.Logger      // nil: slog.Default
}

// Vault is the two forms of one node's recordings. It is safe for concurrent
// use. Run does the copying; without it nothing is copied.
type Vault struct {
	o    Options
	disk disk

	kick      chan struct{} // has room for one: something may be to do
	scrubbing chan struct{} // has room for one: held by a scrub

	mu      sync.Mutex // guards what follows
	copied  map[string]bool
	lost    map[string]string // session: what is wrong with its copy
	waiting map[string]int64  // session: bytes, of finished recordings without a copy
	since   time.Time         // when the backlog began
	failed  error             // why the last copy failed
	last    *Report
}

// Open loads what was copied before, and compares the two folders. That they are
// the same is an error. That the second one is not there is none: its disk may come
// later, and until then the backlog grows.
func Open(o Options) (*Vault, error) {
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	v := &Vault{o: o, disk: realDisk{}, kick: make(chan struct{}, 1), scrubbing: make(chan struct{}, 1),
		copied: map[string]bool{}, lost: map[string]string{}, waiting: map[string]int64{}}
	if err := errors.Join(v.loadCopied(), v.loadReport()); err != nil {
		return nil, err
	}
	if o.Second != "" {
		if err := v.prepareSecond(); err != nil {
			return nil, err
		}
	}
	return v, v.look()
}

// ErrNoSecond says that the second folder is not there.
var ErrNoSecond = errors.New("the folder for second copies is not there, or is another one than before: is its disk mounted?")

// marker is a file by which the second folder is known again, so that a disk that is not mounted
// does not look like an empty one.
const marker = "sallyport.vault"

// prepareSecond marks a second folder before its first copy.
func (v *Vault) prepareSecond() error {
	second, err := os.Stat(v.o.Second)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("second copies: %w", err)
	}
	first, err := os.Stat(v.o.Dir)
	if err != nil {
		return fmt.Errorf("recordings: %w", err)
	}
	if os.SameFile(first, second) {
		return fmt.Errorf("recordings and their second copies go to the same folder %s", v.o.Dir)
	}
	if len(v.copied) > 0 || v.second() == nil {
		return nil
	}
	text := "Second copies of the recordings in " + v.o.Dir + ". Sallyport copies nothing here without this file.\n"
	if err := os.WriteFile(filepath.Join(v.o.Second, marker), []byte(text), 0o600); err != nil {
		return fmt.Errorf("second copies: %w", err)
	}
	return nil
}

// second is ErrNoSecond unless the second folder is the one that was marked.
func (v *Vault) second() error {
	if info, err := os.Lstat(filepath.Join(v.o.Second, marker)); err != nil || !info.Mode().IsRegular() {
		return ErrNoSecond
	}
	return nil
}

func (v *Vault) path(dir, session string) string { return filepath.Join(dir, session+Suffix) }

// copiedFile lists the sessions whose copy was made, one a line.
func (v *Vault) copiedFile() string { return filepath.Join(v.o.State, "vault.copied") }

func (v *Vault) loadCopied() error {
	f, err := os.Open(v.copiedFile())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("what was copied: %w", err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		v.copied[lines.Text()] = true // a torn last line names no session
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("what was copied: %w", err)
	}
	return nil
}

// remember notes durably that a copy was made.
func (v *Vault) remember(session string) error {
	f, err := os.OpenFile(v.copiedFile(), os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("remember a copy: %w", err)
	}
	_, err = f.WriteString("\n" + session + "\n") // after a torn line too
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("remember a copy: %w", err)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.copied[session] = true
	delete(v.lost, session)
	return nil
}

// look compares the two folders by names and sizes. What is finished and was
// never copied waits; what was copied and is not there, or has another size, is
// an alarm and stays as it is.
func (v *Vault) look() error {
	if v.o.Second == "" {
		return nil
	}
	entries, err := os.ReadDir(v.o.Dir)
	if err != nil {
		return fmt.Errorf("recordings: %w", err)
	}
	var copies map[string]int64 // nil while the second folder is not there
	if err := v.second(); err != nil {
		v.mu.Lock()
		v.failed = err
		v.mu.Unlock()
		v.o.Log.Error("recordings cannot be copied", "error", err)
	} else if copies, err = sizes(v.o.Second); err != nil {
		return err
	}
	for _, e := range entries {
		session, ok := strings.CutSuffix(e.Name(), Suffix)
		if !ok || !e.Type().IsRegular() {
			continue
		}
		if err := v.lookAt(session, e, copies); err != nil {
			return err
		}
	}
	v.mu.Lock()
	waiting := slices.Collect(maps.Keys(v.waiting))
	v.mu.Unlock()
	for _, session := range waiting {
		if _, err := os.Lstat(v.path(v.o.Dir, session)); errors.Is(err, fs.ErrNotExist) {
			v.alarm(session, "it can't be copied: the recording is gone")
		}
	}
	return nil
}

// sizeOf is the size of a file, and false when it is gone.
func sizeOf(e fs.DirEntry) (int64, bool, error) {
	info, err := e.Info()
	if errors.Is(err, fs.ErrNotExist) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, fmt.Errorf("recordings: %w", err)
	}
	return info.Size(), true, nil
}

// sizes are the bytes of each copy in a folder, by session.
func sizes(dir string) (map[string]int64, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("second copies: %w", err)
	}
	found := map[string]int64{}
	for _, e := range entries {
		session, ok := strings.CutSuffix(e.Name(), Suffix)
		if !ok {
			continue
		}
		info, err := e.Info()
		if err != nil {
			return nil, fmt.Errorf("second copies: %w", err)
		}
		found[session] = info.Size()
	}
	return found, nil
}

func (v *Vault) lookAt(session string, e fs.DirEntry, copies map[string]int64) error {
	v.mu.Lock()
	known := v.copied[session]
	v.mu.Unlock()
	// What was copied once had its end then, and need not be opened.
	size, whole, err := sizeOf(e)
	if !known && err == nil {
		size, whole, err = ended(v.path(v.o.Dir, session))
	}
	if err != nil {
		// The others are looked at all the same.
		v.alarm(session, "the recording can't be read: "+cause(err))
		return nil
	}
	if !whole {
		return nil
	}
	has, there := copies[session]
	switch {
	case there && has == size && known:
		v.mu.Lock()
		delete(v.lost, session) // put right by somebody
		v.mu.Unlock()
	case there && has == size: // renamed, and the node died before it noted that
		return v.remember(session)
	case there:
		v.alarm(session, fmt.Sprintf("the copy has %d bytes and the recording %d", has, size))
	case known && copies == nil:
	case known:
		v.alarm(session, "a copy was made, and is not there")
	default:
		v.mu.Lock()
		delete(v.lost, session) // of a recording that could not be read, and can be now
		v.mu.Unlock()
		v.wait(session, size)
	}
	return nil
}

func (v *Vault) alarm(session, what string) {
	v.mu.Lock()
	told := v.lost[session] == what
	v.lost[session] = what
	delete(v.waiting, session)
	v.mu.Unlock()
	if !told {
		v.o.Log.Error("the second copy of a recording is wrong or can't be made; what is there is left as it is", "session", session, "fault", what)
	}
}

func (v *Vault) wait(session string, size int64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(v.waiting) == 0 {
		v.since = v.o.Clock()
	}
	v.waiting[session] = size
}

// Finished tells that a recording has its signed end. It does not wait.
func (v *Vault) Finished(session string) {
	if v.o.Second == "" {
		return
	}
	info, err := os.Stat(v.path(v.o.Dir, session))
	if err != nil {
		v.o.Log.Error("a finished recording cannot be looked at", "session", session, "error", err)
		return
	}
	v.mu.Lock()
	known := v.copied[session]
	v.mu.Unlock()
	if !known {
		v.wait(session, info.Size())
	}
	v.wake()
}

func (v *Vault) wake() {
	select {
	case v.kick <- struct{}{}:
	default:
	}
}

// Backlog is how far the second form is behind.
type Backlog struct {
	Files  int       `json:"files"`
	Bytes  int64     `json:"bytes"`
	Since  time.Time `json:"since,omitzero"`
	Faulty int       `json:"faulty"` // copies that are lost or have another size
	Err    error     `json:"-"`      // why the last attempt failed
}

// Backlog returns how far the second form is behind.
func (v *Vault) Backlog() Backlog {
	v.mu.Lock()
	defer v.mu.Unlock()
	b := Backlog{Files: len(v.waiting), Faulty: len(v.lost), Err: v.failed}
	for _, size := range v.waiting {
		b.Bytes += size
	}
	if b.Files > 0 {
		b.Since = v.since
	}
	return b
}

// Ready is nil while a session may start: the second form is behind by no more than MaxBacklog.
func (v *Vault) Ready() error {
	b := v.Backlog()
	if v.o.MaxBacklog <= 0 || b.Bytes <= v.o.MaxBacklog {
		return nil
	}
	return fmt.Errorf("second copies of recordings are %d MiB behind, and %d MiB are allowed (recording.max_backlog)", b.Bytes>>20, v.o.MaxBacklog>>20)
}

// Pauses of Run.
const (
	sweepEvery = time.Hour // for recordings that nobody told of, such as after a crash
	retryAfter = 30 * time.Second
)

// Run copies what waits until ctx is done.
func (v *Vault) Run(ctx context.Context) {
	if v.o.Second == "" {
		return
	}
	sweep := time.NewTicker(sweepEvery)
	defer sweep.Stop()
	retry := time.NewTimer(0)
	defer retry.Stop()
	for {
		if err := v.CopyAll(ctx); err != nil && ctx.Err() == nil {
			v.o.Log.Error("recordings could not be copied; it is tried again", "in", retryAfter.String(), "backlog", v.Backlog().Bytes, "error", err)
			retry.Reset(retryAfter)
		}
		select {
		case <-ctx.Done():
			return
		case <-v.kick:
		case <-retry.C:
		case <-sweep.C:
			if _, err := within(ctx, func() (struct{}, error) { return struct{}{}, v.look() }); err != nil {
				v.o.Log.Error("recordings and their copies could not be compared", "error", err)
			}
		}
	}
}

// maxTold is how many failures CopyAll names at once.
const maxTold = 8

// CopyAll copies what waits, oldest first. One that fails does not keep the others
// from being copied, unless the second folder is not there or full. A recording that
// can't be read itself, or has lost its signed end, is an alarm and waits no longer.
func (v *Vault) CopyAll(ctx context.Context) error {
	v.mu.Lock()
	todo := slices.Sorted(maps.Keys(v.waiting)) // session ids begin with their time
	v.mu.Unlock()
	var errs []error
	failed := 0
	for _, session := range todo {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		_, err := within(ctx, func() (struct{}, error) { return struct{}{}, v.copyOne(ctx, session) })
		var source *sourceError
		if errors.As(err, &source) {
			v.alarm(session, "it can't be copied: "+source.Error())
			continue
		}
		if err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if failed++; failed <= maxTold {
				errs = append(errs, fmt.Errorf("second copy of %s: %w", session, err))
			}
			if errors.Is(err, ErrNoSecond) || errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
				break
			}
			continue
		}
		v.mu.Lock()
		delete(v.waiting, session)
		v.mu.Unlock()
	}
	if failed > maxTold {
		errs = append(errs, fmt.Errorf("and %d more", failed-maxTold))
	}
	err := errors.Join(errs...)
	v.mu.Lock()
	v.failed = err
	v.mu.Unlock()
	return err
}
