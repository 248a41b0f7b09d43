package journal

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"slices"
	"sync"
	"syscall"
)

// memoryFiles is a disk that knows what was made durable, fails on demand, and
// loses its power.
type memoryFiles struct {
	mu       sync.Mutex
	names    map[string]*memoryFile
	durable  map[string]*memoryFile // as of the last SyncDir
	changes  []func(map[string]*memoryFile)
	capacity int64 // bytes in all files; 0: endless
	used     int64
	calls    int
	fault    func(call int, what string) error // nil: none
	off      bool                              // the power is gone
}

type memoryFile struct {
	disk    *memoryFiles
	content []byte
	durable []byte
	writes  []write // since the last Sync
}

type write struct {
	offset int64
	data   []byte
}

var errPower = errors.New("the power is off")

func newMemory() *memoryFiles {
	return &memoryFiles{names: map[string]*memoryFile{}, durable: map[string]*memoryFile{}}
}

// call is the begin of each operation; mu is held when it returns nil.
func (m *memoryFiles) call(what string) error {
	m.mu.Lock()
	m.calls++
	fault, calls := m.fault, m.calls
	if m.off {
		m.mu.Unlock()
		return errPower
	}
	if fault == nil {
		return nil
	}
	m.mu.Unlock()
	if err := fault(calls, what); err != nil {
		return err
	}
	m.mu.Lock()
	return nil
}

func (m *memoryFiles) change(f func(map[string]*memoryFile)) {
	f(m.names)
	m.changes = append(m.changes, f)
}

func (m *memoryFiles) Open(name string) (file, error) {
	if err := m.call("open"); err != nil {
		return nil, err
	}
	defer m.mu.Unlock()
	if f := m.names[name]; f != nil {
		return f, nil
	}
	return nil, fs.ErrNotExist
}

func (m *memoryFiles) Create(name string) (file, error) {
	if err := m.call("create"); err != nil {
		return nil, err
	}
	defer m.mu.Unlock()
	if m.names[name] != nil {
		return nil, fs.ErrExist
	}
	f := &memoryFile{disk: m}
	m.change(func(names map[string]*memoryFile) { names[name] = f })
	return f, nil
}

func (m *memoryFiles) Rename(from, to string) error {
	if err := m.call("rename"); err != nil {
		return err
	}
	defer m.mu.Unlock()
	if m.names[from] == nil || m.names[to] != nil {
		return fmt.Errorf("rename %s to %s: %w", from, to, fs.ErrInvalid)
	}
	m.change(func(names map[string]*memoryFile) {
		names[to] = names[from]
		delete(names, from)
	})
	return nil
}

func (m *memoryFiles) Remove(name string) error {
	if err := m.call("remove"); err != nil {
		return err
	}
	defer m.mu.Unlock()
	f := m.names[name]
	if f == nil {
		return fs.ErrNotExist
	}
	m.used -= int64(len(f.content))
	m.change(func(names map[string]*memoryFile) { delete(names, name) })
	return nil
}

func (m *memoryFiles) List() ([]string, error) {
	if err := m.call("list"); err != nil {
		return nil, err
	}
	defer m.mu.Unlock()
	var names []string
	for name := range m.names {
		names = append(names, name)
	}
	return names, nil
}

func (m *memoryFiles) SyncDir() error {
	if err := m.call("syncdir"); err != nil {
		return err
	}
	defer m.mu.Unlock()
	for _, f := range m.changes {
		f(m.durable)
	}
	m.changes = nil
	return nil
}

func (m *memoryFiles) Free() (int64, error) { return 1 << 40, nil }

func (m *memoryFiles) Lock() (io.Closer, error) { return io.NopCloser(nil), nil }

func (f *memoryFile) ReadAt(b []byte, offset int64) (int, error) {
	if err := f.disk.call("read"); err != nil {
		return 0, err
	}
	defer f.disk.mu.Unlock()
	if offset >= int64(len(f.content)) {
		return 0, io.EOF
	}
	n := copy(b, f.content[offset:])
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}

func (f *memoryFile) grow(size int64) error {
	more := size - int64(len(f.content))
	if more <= 0 {
		return nil
	}
	if f.disk.capacity > 0 && f.disk.used+more > f.disk.capacity {
		return syscall.ENOSPC
	}
	f.disk.used += more
	f.content = append(f.content, make([]byte, more)...)
	return nil
}

func (f *memoryFile) WriteAt(b []byte, offset int64) (int, error) {
	if err := f.disk.call("write"); err != nil {
		return 0, err
	}
	defer f.disk.mu.Unlock()
	if err := f.grow(offset + int64(len(b))); err != nil {
		return 0, err
	}
	copy(f.content[offset:], b)
	f.writes = append(f.writes, write{offset, slices.Clone(b)})
	return len(b), nil
}

func (f *memoryFile) Allocate(size int64) error {
	if err := f.disk.call("allocate"); err != nil {
		return err
	}
	defer f.disk.mu.Unlock()
	return f.grow(size)
}

// hasUnsyncedData reports whether anything but zeroes is written and not durable.
func (m *memoryFiles) hasUnsyncedData() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, f := range m.names {
		for _, w := range f.writes {
			if slices.ContainsFunc(w.data, func(b byte) bool { return b != 0 }) {
				return true
			}
		}
	}
	return false
}

func (f *memoryFile) Sync() error {
	if err := f.disk.call("sync"); err != nil {
		return err
	}
	defer f.disk.mu.Unlock()
	for _, w := range f.writes {
		if more := int(w.offset) + len(w.data) - len(f.durable); more > 0 {
			f.durable = append(f.durable, make([]byte, more)...)
		}
		copy(f.durable[w.offset:], w.data)
	}
	f.writes = nil
	return nil
}

func (f *memoryFile) Size() (int64, error) { return int64(len(f.content)), nil }
func (f *memoryFile) Close() error         { return nil }

// cut ends the power at once.
func (m *memoryFiles) cut() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.off = true
}

// after is the disk as it may be found after the power came back: what was
// synced, and of the rest any sectors, some of them torn in the middle.
func (m *memoryFiles) after(random *rand.Rand) *memoryFiles {
	m.mu.Lock()
	defer m.mu.Unlock()
	names := map[string]*memoryFile{}
	for name, f := range m.durable {
		names[name] = f
	}
	for _, change := range m.changes[:random.IntN(len(m.changes)+1)] {
		change(names)
	}
	found := newMemory()
	for name, f := range names {
		if f == nil {
			continue
		}
		content := slices.Clone(f.durable)
		for _, w := range f.writes {
			tear(random, &content, w)
		}
		if short := len(f.content) - len(content); short > 0 {
			content = append(content, make([]byte, short)...)
		}
		found.names[name] = &memoryFile{disk: found, content: content, durable: slices.Clone(content)}
		found.durable[name] = found.names[name]
	}
	return found
}

func tear(random *rand.Rand, content *[]byte, w write) {
	const sector = 512
	if more := int(w.offset) + len(w.data) - len(*content); more > 0 {
		*content = append(*content, make([]byte, more)...)
	}
	mood := random.IntN(3) // nothing, everything, or as it comes
	for at := 0; at < len(w.data); at += sector {
		end := min(at+sector, len(w.data))
		target := (*content)[int(w.offset)+at : int(w.offset)+end]
		choice := mood
		if mood == 2 {
			choice = random.IntN(4)
		}
		switch choice {
		case 1:
			copy(target, w.data[at:end])
		case 2:
			copy(target[:len(target)/2], w.data[at:end])
		case 3: // the sector was being written when the power went
			for i := range target {
				target[i] = byte(random.Uint32())
			}
		}
	}
}
