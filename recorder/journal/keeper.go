package journal

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
)

// The keeper: the goroutine that makes files ready ahead of the writer, and
// takes back those whose frames are all released.

const (
	journalSuffix = ".journal"
	spareSuffix   = ".spare"
	newSuffix     = ".new"
	damagedSuffix = ".damaged"
	// moreSpares is how many files beyond the reserve are kept for bursts.
	moreSpares  = 4
	zeroesAtOne = 1 << 20
	retryFull   = time.Second
)

// spare is a file of full size that holds nothing.
type spare struct {
	name string
	file file
}

func journalName(number uint64) string { return fmt.Sprintf("%016x%s", number, journalSuffix) }

// numberOf is the number in the name of a journal's file.
func numberOf(name string) (uint64, bool) {
	text, found := strings.CutSuffix(name, journalSuffix)
	if !found || len(text) != 16 {
		return 0, false
	}
	number, err := strconv.ParseUint(text, 16, 64)
	return number, err == nil && number > 0
}

// poke makes the keeper look.
func (j *Journal) poke() {
	select {
	case j.pokes <- struct{}{}:
	default:
	}
}

func (j *Journal) keep() {
	var retry <-chan time.Time
	for {
		select {
		case <-j.pokes:
		case <-retry:
		}
		if j.idle() {
			return
		}
		if err := j.tend(); err != nil && !errors.Is(err, errStopping) {
			j.fail(err)
			return
		}
		retry = nil
		if j.isFull() != nil {
			retry = time.After(retryFull)
		}
	}
}

// idle reports whether the writer wants no more files. While the journal
// closes it may still want one.
func (j *Journal) idle() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.err != nil || j.written
}

var errStopping = errors.New("the journal is closing")

func (j *Journal) isFull() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.full
}

// tend does one round. A lack of space is not an error but a state.
func (j *Journal) tend() error {
	if err := j.reclaim(); err != nil {
		return err
	}
	full, err := j.provide()
	if err != nil {
		return err
	}
	for len(j.spares) > j.o.Reserve+moreSpares {
		last := j.spares[len(j.spares)-1]
		if err := errors.Join(last.file.Close(), j.o.files.Remove(last.name)); err != nil {
			return err
		}
		j.setSpares(j.spares[:len(j.spares)-1])
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if full != nil && j.full == nil {
		j.o.Log.Warn("the journal can't have more files", "error", full)
	}
	j.full = full
	if len(j.spares) >= j.o.Reserve { // the reserve is whole
		if j.current != nil {
			j.current.rescueOnly = false
		}
		if j.next != nil {
			j.next.rescueOnly = false
		}
	}
	j.changed = true
	j.work.Broadcast()
	return nil
}

func (j *Journal) setSpares(s []spare) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.spares = s
}

// reclaim turns the oldest files into spares while nothing in them is needed.
// It never goes past a file that is: a release may stand behind it.
func (j *Journal) reclaim() error {
	var freed []*segment
	j.mu.Lock()
	for len(j.live) > 0 && j.live[0] != j.current && j.live[0] != j.next && j.live[0].pins.Load() == 0 {
		// Between next and current the writer holds neither.
		if j.current == nil || j.live[0].header.Number >= j.current.header.Number {
			break
		}
		freed = append(freed, j.live[0])
		j.live = j.live[1:]
	}
	j.mu.Unlock()
	var back []spare
	for _, g := range freed {
		name := strings.TrimSuffix(g.name, journalSuffix) + spareSuffix
		if err := j.o.files.Rename(g.name, name); err != nil {
			return err
		}
		back = append(back, spare{name, g.file})
	}
	if len(back) == 0 {
		return nil
	}
	// The old name must not come back after the file was used again.
	if err := j.o.files.SyncDir(); err != nil {
		return err
	}
	j.setSpares(append(j.spares, back...))
	return nil
}

// provide sees to it that there are a next file and the reserve, and after
// Open one file more. It returns why there is not.
func (j *Journal) provide() (full, err error) {
	if full, err = j.grow(j.o.Reserve + 1); err != nil {
		return nil, err
	}
	j.mu.Lock()
	wanted := j.next == nil && (len(j.spares) > j.o.Reserve || j.needRescue && len(j.spares) > 0)
	started := j.current != nil
	j.mu.Unlock()
	if wanted {
		if err := j.activate(); isFull(err) {
			return err, nil
		} else if err != nil {
			return nil, err
		}
	}
	if started && full == nil {
		full, err = j.grow(j.o.Reserve + 1)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.next != nil && !j.next.rescueOnly && len(j.spares) >= j.o.Reserve {
		full = nil
	}
	return full, err
}

// grow makes spares until there are as many as wanted.
func (j *Journal) grow(want int) (full, err error) {
	for {
		j.mu.Lock()
		if j.next != nil && j.current == nil {
			want = j.o.Reserve // nothing was written yet
		}
		have, files, number := len(j.spares), len(j.spares)+len(j.live), j.lastSpare+1
		j.mu.Unlock()
		if have >= want {
			return nil, nil
		}
		if files >= j.o.MaxFiles {
			return fmt.Errorf("%w: all %d files hold frames that were not released", ErrNoSpace, files), nil
		}
		one, err := j.create(fmt.Sprintf("made-%016x%s", number, spareSuffix))
		if isFull(err) {
			return fmt.Errorf("%w: %w", ErrNoSpace, err), nil
		}
		if err != nil {
			return nil, err
		}
		j.mu.Lock()
		j.lastSpare = number
		j.spares = append(j.spares, one)
		j.mu.Unlock()
	}
}

// create makes a file full of zeroes, so that a commit into it changes nothing
// but data, and can't run out of space.
func (j *Journal) create(name string) (s spare, err error) {
	free, err := j.o.files.Free()
	if err != nil {
		return s, err
	}
	if free-j.o.FileSize < j.o.MinFree {
		return s, fmt.Errorf("%w: %d MiB are free", ErrNoSpace, free>>20)
	}
	f, err := j.o.files.Create(name + newSuffix)
	if err != nil {
		return s, err
	}
	if err = j.zero(f); err == nil {
		err = j.o.files.Rename(name+newSuffix, name)
	}
	if err == nil {
		err = j.o.files.SyncDir()
	}
	if err != nil {
		return s, errors.Join(err, f.Close(), j.o.files.Remove(name+newSuffix))
	}
	return spare{name, f}, nil
}

func (j *Journal) zero(f file) error {
	if err := f.Allocate(j.o.FileSize); err != nil {
		return err
	}
	zeroes := make([]byte, min(zeroesAtOne, j.o.FileSize))
	for at := int64(0); at < j.o.FileSize; at += int64(len(zeroes)) {
		if j.idle() {
			return errStopping
		}
		if err := writeAt(f, zeroes[:min(int64(len(zeroes)), j.o.FileSize-at)], at); err != nil {
			return err
		}
		// Bit by bit, so that the writer's commits do not wait behind all of it.
		if err := uninterrupted(f.Sync); err != nil {
			return err
		}
	}
	return nil
}

// activate makes the last spare the next file of the journal.
func (j *Journal) activate() error {
	h := FileHeader{Mode: j.o.Mode, Node: j.o.Node, Created: j.o.Clock()}
	if _, err := io.ReadFull(j.o.Random, h.ID[:]); err != nil {
		return err
	}
	j.mu.Lock()
	one := j.spares[len(j.spares)-1]
	h.Number = j.lastNumber + 1
	if n := len(j.live); n > 0 {
		h.Previous = j.live[n-1].header.ID
	}
	j.mu.Unlock()
	if err := writeAt(one.file, h.encode(), 0); err != nil {
		return err
	}
	if err := uninterrupted(one.file.Sync); err != nil {
		return err
	}
	name := journalName(h.Number)
	if err := j.o.files.Rename(one.name, name); err != nil {
		return err
	}
	if err := j.o.files.SyncDir(); err != nil {
		return err
	}
	g := &segment{name: name, file: one.file, header: h, size: j.o.FileSize, offset: blockSize}
	j.mu.Lock()
	g.rescueOnly = len(j.spares) <= j.o.Reserve
	j.spares = j.spares[:len(j.spares)-1]
	j.lastNumber = h.Number
	j.live = append(j.live, g)
	j.next = g
	used := len(j.live)
	j.mu.Unlock()
	if j.o.Used != nil {
		j.o.Used(used)
	}
	return nil
}

// closeFiles is called when neither writer nor keeper runs.
func (j *Journal) closeFiles() {
	for _, g := range j.live {
		if err := g.file.Close(); err != nil {
			j.o.Log.Warn("close a file of the journal", "file", g.name, "error", err)
		}
	}
	for _, s := range j.spares {
		if err := s.file.Close(); err != nil {
			j.o.Log.Warn("close a file of the journal", "file", s.name, "error", err)
		}
	}
	j.live, j.spares = nil, nil
}

func idText(id [16]byte) string { return hex.EncodeToString(id[:8]) }
