package journal

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
)

// file is what the journal asks of one file. Tests put a failing one in its place.
type file interface {
	io.ReaderAt
	io.WriterAt
	Allocate(size int64) error // room for size bytes, or an error such as ENOSPC
	Sync() error               // what was written is on the disk when it returns
	Size() (int64, error)
	Close() error
}

// fileSystem is what the journal asks of its directory.
type fileSystem interface {
	Open(name string) (file, error)   // for reading and writing
	Create(name string) (file, error) // must not exist yet
	Rename(from, to string) error
	Remove(name string) error
	List() ([]string, error)
	SyncDir() error
	Free() (int64, error)
	Lock() (io.Closer, error) // one process only
}

// diskFiles is a real directory.
type diskFiles struct{ dir string }

type diskFile struct{ *os.File }

func (f diskFile) Size() (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

func (f diskFile) Sync() error               { return dataSync(f.File) }
func (f diskFile) Allocate(size int64) error { return allocate(f.File, size) }

func (d diskFiles) open(name string, flags int) (file, error) {
	f, err := os.OpenFile(filepath.Join(d.dir, name), flags, 0o600)
	if err != nil {
		return nil, err
	}
	return diskFile{f}, nil
}

func (d diskFiles) Open(name string) (file, error) { return d.open(name, os.O_RDWR) }

func (d diskFiles) Create(name string) (file, error) {
	return d.open(name, os.O_RDWR|os.O_CREATE|os.O_EXCL)
}

func (d diskFiles) Rename(from, to string) error {
	// A journal's file is never written over by another one.
	if _, err := os.Lstat(filepath.Join(d.dir, to)); !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("%s is in the way: %w", to, errors.Join(err, os.ErrExist))
	}
	return os.Rename(filepath.Join(d.dir, from), filepath.Join(d.dir, to))
}

func (d diskFiles) Remove(name string) error { return os.Remove(filepath.Join(d.dir, name)) }

func (d diskFiles) List() ([]string, error) {
	entries, err := os.ReadDir(d.dir)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if e.Type().IsRegular() {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

func (d diskFiles) SyncDir() error {
	f, err := os.Open(d.dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return uninterrupted(f.Sync)
}

func (d diskFiles) Free() (int64, error) { return freeBytes(d.dir) }

func (d diskFiles) Lock() (io.Closer, error) {
	if err := os.MkdirAll(d.dir, 0o700); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(d.dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := lockFile(f); err != nil {
		return nil, errors.Join(fmt.Errorf("another process has the journal open: %w", err), f.Close())
	}
	return f, nil
}

// uninterrupted calls again only what a signal kept from beginning.
func uninterrupted(call func() error) error {
	for {
		if err := call(); !errors.Is(err, syscall.EINTR) {
			return err
		}
	}
}

// writeAt writes b or fails for good. Only an interrupted call goes on where it
// stopped; a short write without an error is an error.
func writeAt(f io.WriterAt, b []byte, offset int64) error {
	for len(b) > 0 {
		n, err := f.WriteAt(b, offset)
		if n < 0 || n > len(b) {
			return fmt.Errorf("write returned %d of %d bytes", n, len(b))
		}
		b, offset = b[n:], offset+int64(n)
		if err != nil && !errors.Is(err, syscall.EINTR) {
			return err
		}
		if err == nil && len(b) > 0 {
			return io.ErrShortWrite
		}
	}
	return nil
}

// isFull reports whether err means that there is no room, which may pass.
func isFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) || errors.Is(err, ErrNoSpace)
}
