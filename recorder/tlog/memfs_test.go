package tlog

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"sync"
)

// memFS is a file system that can lose power: what was not synced may be lost,
// torn or kept, and names that were not synced may be missing or old.
type memFS struct {
	mu      sync.Mutex
	files   map[string]*memFile // as programs see it
	durable map[string]*memFile // names as they are on the disk
	fail    func(operation, name string) error
	locked  bool
}

type memFile struct {
	data    []byte
	durable []byte
	synced  bool // data was ever synced
}

func newMemFS() *memFS {
	return &memFS{files: map[string]*memFile{}, durable: map[string]*memFile{}}
}

func (m *memFS) check(operation, name string) error {
	if m.fail != nil {
		return m.fail(operation, name)
	}
	return nil
}

type memHandle struct {
	m    *memFS
	f    *memFile
	name string
}

func (m *memFS) Open(name string, mode openMode) (file, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.check("open", name); err != nil {
		return nil, err
	}
	f := m.files[name]
	if f == nil {
		if mode != createIfMissing {
			return nil, fmt.Errorf("open %s: %w", name, fs.ErrNotExist)
		}
		f = &memFile{}
		m.files[name] = f
	}
	return &memHandle{m, f, name}, nil
}

func (m *memFS) Rename(from, to string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.check("rename", to); err != nil {
		return err
	}
	f := m.files[from]
	if f == nil {
		return fs.ErrNotExist
	}
	delete(m.files, from)
	m.files[to] = f
	return nil
}

func (m *memFS) Remove(name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.check("remove", name); err != nil {
		return err
	}
	if m.files[name] == nil {
		return fs.ErrNotExist
	}
	delete(m.files, name)
	return nil
}

func (m *memFS) RemoveAll(dir string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.check("removeall", dir); err != nil {
		return err
	}
	for name := range m.files {
		if name == dir || strings.HasPrefix(name, dir+"/") {
			delete(m.files, name)
		}
	}
	return nil
}

func (m *memFS) MkdirAll(name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.check("mkdir", name)
}

func (m *memFS) List(dir string) ([]string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var names []string
	for name := range m.files {
		if filepath.Dir(name) == dir {
			names = append(names, filepath.Base(name))
		}
	}
	slices.Sort(names)
	return names, nil
}

func (m *memFS) SyncDir(dir string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.check("syncdir", dir); err != nil {
		return err
	}
	m.syncNames(func(name string) bool { return filepath.Dir(name) == dir })
	return nil
}

func (m *memFS) syncNames(in func(string) bool) {
	for name, f := range m.files {
		if in(name) {
			m.durable[name] = f
		}
	}
	for name := range m.durable {
		if in(name) && m.files[name] == nil {
			delete(m.durable, name)
		}
	}
}

func (m *memFS) SyncAll(dir string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.check("syncall", dir); err != nil {
		return err
	}
	below := func(name string) bool { return strings.HasPrefix(name, dir+"/") }
	m.syncNames(below)
	for name, f := range m.files {
		if below(name) {
			f.sync()
		}
	}
	return nil
}

func (f *memFile) sync() { f.durable, f.synced = slices.Clone(f.data), true }

func (m *memFS) Lock(string) (io.Closer, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.locked {
		return nil, errors.New("it is in use")
	}
	m.locked = true
	return m, nil
}

// Close gives up the lock.
func (m *memFS) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.locked = false
	return nil
}

func (h *memHandle) ReadAt(b []byte, offset int64) (int, error) {
	h.m.mu.Lock()
	defer h.m.mu.Unlock()
	if offset >= int64(len(h.f.data)) {
		return 0, io.EOF
	}
	n := copy(b, h.f.data[offset:])
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}

func (h *memHandle) WriteAt(b []byte, offset int64) (int, error) {
	h.m.mu.Lock()
	defer h.m.mu.Unlock()
	if err := h.m.check("write", h.name); err != nil {
		return 0, err
	}
	if missing := offset + int64(len(b)) - int64(len(h.f.data)); missing > 0 {
		h.f.data = append(h.f.data, make([]byte, missing)...)
	}
	return copy(h.f.data[offset:], b), nil
}

func (h *memHandle) Truncate(size int64) error {
	h.m.mu.Lock()
	defer h.m.mu.Unlock()
	if err := h.m.check("truncate", h.name); err != nil {
		return err
	}
	if size > int64(len(h.f.data)) {
		h.f.data = append(h.f.data, make([]byte, size-int64(len(h.f.data)))...)
	}
	h.f.data = h.f.data[:size:size]
	return nil
}

func (h *memHandle) Size() (int64, error) {
	h.m.mu.Lock()
	defer h.m.mu.Unlock()
	return int64(len(h.f.data)), nil
}

func (h *memHandle) Sync() error {
	h.m.mu.Lock()
	defer h.m.mu.Unlock()
	if err := h.m.check("sync", h.name); err != nil {
		return err
	}
	h.f.sync()
	return nil
}

func (h *memHandle) Close() error { return nil }

// crash is what the disk may hold after the power went: each name as it was
// synced or as it is now, each file with any prefix of its unsynced sectors,
// some of them zero.
func (m *memFS) crash(random *rand.Rand) *memFS {
	m.mu.Lock()
	defer m.mu.Unlock()
	after := newMemFS()
	names := map[string]bool{}
	for name := range m.files {
		names[name] = true
	}
	for name := range m.durable {
		names[name] = true
	}
	for _, name := range slices.Sorted(func(yield func(string) bool) {
		for n := range names {
			if !yield(n) {
				return
			}
		}
	}) {
		f := m.durable[name]
		if now := m.files[name]; now != f && random.IntN(2) == 0 {
			f = now
		}
		if f == nil {
			continue
		}
		data := f.torn(random)
		kept := &memFile{data: data, durable: slices.Clone(data), synced: true}
		after.files[name], after.durable[name] = kept, kept
	}
	return after
}

func (f *memFile) torn(random *rand.Rand) []byte {
	const sector = 512
	size := len(f.durable)
	if len(f.data) > size {
		size += random.IntN(len(f.data) - size + 1)
	} else if len(f.data) < size && random.IntN(2) == 0 {
		size = len(f.data)
	}
	out := make([]byte, size)
	copy(out, f.durable)
	for at := 0; at < size; at += sector {
		end := min(at+sector, size, len(f.data))
		if at < end && random.IntN(2) == 0 {
			copy(out[at:end], f.data[at:end])
		}
	}
	return out
}
