package tlog

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// Durable is where batches rest before they are in the tiles. The log brings
// one of its own (append files in its directory); a node that has a journal
// may put the batches there.
type Durable interface {
	// Commit makes one batch durable before it returns; first is the index of
	// its first entry, next that of the entry after its last. Calls never
	// overlap. After an error the log is over: nothing is retried, because a
	// failed fdatasync cannot be.
	Commit(first, next int64, batch []byte) error
	// Replay hands over every durable batch in order, from the one that holds
	// entry from (or follows it) on. It is called once, before Commit. A
	// batch that a crash tore is not handed over; any other damage is an error.
	// The log keeps the slice.
	Replay(from int64, each func(batch []byte) error) error
	// Forget says that all entries before size are durable elsewhere. It may
	// be called while Commit runs.
	Forget(size int64) error
	Close() error
}

const (
	appendMagic  = "SPTLOG\x00\x01"
	appendSuffix = ".log"
	tornSuffix   = ".torn"

	maxAppendFile = 4*defaultAppendLimit + batchHeader + maxBatch
)

// appendFiles is the log's own Durable: a directory of append files, each named
// by its first entry. A file is removed once a later one has begun and its
// entries are durable in tiles.
type appendFiles struct {
	fs      fileSystem
	dir     string
	limit   int64 // bytes after which the next batch begins a new file
	current file
	offset  int64

	mu     sync.Mutex // guards firsts
	firsts []int64    // of all files, oldest first; the last is current
}

func openAppendFiles(fsys fileSystem, dir string, limit int64) (*appendFiles, error) {
	if err := fsys.MkdirAll(dir); err != nil {
		return nil, err
	}
	firsts, err := listAppendFiles(fsys, dir)
	if err != nil {
		return nil, err
	}
	return &appendFiles{fs: fsys, dir: dir, limit: limit, firsts: firsts}, nil
}

func listAppendFiles(fsys fileSystem, dir string) ([]int64, error) {
	names, err := fsys.List(dir)
	if err != nil {
		return nil, err
	}
	var firsts []int64
	for _, name := range names {
		number, ok := strings.CutSuffix(name, appendSuffix)
		if !ok {
			continue
		}
		first, err := strconv.ParseInt(number, 10, 64)
		if err != nil || name != appendName(first) {
			return nil, fmt.Errorf("%s is not the name of an append file", name)
		}
		firsts = append(firsts, first)
	}
	slices.Sort(firsts)
	return firsts, nil
}

func appendName(first int64) string { return fmt.Sprintf("%020d%s", first, appendSuffix) }

func (a *appendFiles) path(first int64) string { return filepath.Join(a.dir, appendName(first)) }

func (a *appendFiles) Replay(from int64, each func([]byte) error) error {
	for i, first := range a.firsts {
		last := i == len(a.firsts)-1
		if !last && a.firsts[i+1] <= from {
			continue
		}
		end, err := a.replayFile(first, last, each)
		if err != nil {
			return err
		}
		if last {
			return a.resume(first, end)
		}
	}
	return nil
}

// replayFile returns where the last whole batch ends. Only the last file may have a torn tail.
func (a *appendFiles) replayFile(first int64, last bool, each func([]byte) error) (int64, error) {
	data, err := readFile(a.fs, a.path(first), maxAppendFile)
	if err != nil {
		return 0, err
	}
	end, problem, err := walkAppendFile(data, each)
	if err != nil {
		return 0, fmt.Errorf("%s, byte %d: %w", appendName(first), end, err)
	}
	if problem == nil {
		return end, nil
	}
	if !last || !isTorn(data[end:]) {
		return 0, fmt.Errorf("%s, byte %d: %w; a crash does not do that", appendName(first), end, problem)
	}
	torn := filepath.Join(a.dir, fmt.Sprintf("%020d.%d%s", first, end, tornSuffix))
	if err := replaceFile(a.fs, torn, data[end:], true); err != nil {
		return 0, fmt.Errorf("keep the torn tail: %w", err)
	}
	return end, nil
}

// walkAppendFile hands over each batch. It returns the end of the last good
// one, the problem found there if it is not the end of the file, and the
// error of the function that took a batch.
func walkAppendFile(data []byte, each func([]byte) error) (end int64, problem, err error) {
	if !bytes.HasPrefix(data, []byte(appendMagic)) {
		return 0, errors.New("the file does not begin like an append file"), nil
	}
	rest := data[len(appendMagic):]
	for len(rest) > 0 {
		end = int64(len(data) - len(rest))
		raw, next, err := cutBatch(rest)
		if err != nil {
			return end, err, nil
		}
		if err := each(raw); err != nil {
			return end, nil, err
		}
		rest = next
	}
	return int64(len(data)), nil, nil
}

// isTorn tells a tail that a crash tore from one that somebody changed: there
// is one batch in flight at most, so no whole batch can stand behind the fault.
func isTorn(tail []byte) bool {
	if len(tail) > batchHeader+maxBatch {
		return false
	}
	for i := 1; i < len(tail); i++ {
		next := bytes.Index(tail[i:], []byte(batchMagic))
		if next < 0 {
			return true
		}
		i += next
		if _, _, err := cutBatch(tail[i:]); err == nil {
			return false
		}
	}
	return true
}

// resume opens the newest file for appending behind its last whole batch.
func (a *appendFiles) resume(first, end int64) error {
	if end == 0 { // a crash tore the very beginning
		a.firsts = a.firsts[:len(a.firsts)-1]
		return a.begin(first)
	}
	f, err := a.fs.Open(a.path(first), readWrite)
	if err != nil {
		return err
	}
	if err := errors.Join(f.Truncate(end), f.Sync()); err != nil {
		return errors.Join(err, f.Close())
	}
	a.current, a.offset = f, end
	return nil
}

func (a *appendFiles) begin(first int64) error {
	f, err := a.fs.Open(a.path(first), createIfMissing)
	if err != nil {
		return err
	}
	if err := errors.Join(f.Truncate(0), writeAt(f, []byte(appendMagic), 0), f.Sync(), a.fs.SyncDir(a.dir)); err != nil {
		return errors.Join(err, f.Close())
	}
	if a.current != nil {
		if err := a.current.Close(); err != nil {
			return errors.Join(err, f.Close())
		}
	}
	a.current, a.offset = f, int64(len(appendMagic))
	a.mu.Lock()
	a.firsts = append(a.firsts, first)
	a.mu.Unlock()
	return nil
}

func (a *appendFiles) Commit(first, _ int64, batch []byte) error {
	if a.current == nil || a.offset >= a.limit {
		if err := a.begin(first); err != nil {
			return err
		}
	}
	if err := writeAt(a.current, batch, a.offset); err != nil {
		return err
	}
	a.offset += int64(len(batch))
	return a.current.Sync()
}

func (a *appendFiles) Forget(size int64) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	for len(a.firsts) > 1 && a.firsts[1] <= size {
		// The names need not be durable: a file that comes back after a crash is skipped by Replay.
		if err := a.fs.Remove(a.path(a.firsts[0])); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		a.firsts = a.firsts[1:]
	}
	return nil
}

func (a *appendFiles) Close() error {
	if a.current == nil {
		return nil
	}
	return a.current.Close()
}
