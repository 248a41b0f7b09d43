package tlog

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
)

// file is what the log asks of an open file. Tests put one in its place that
// forgets what was not synced.
type file interface {
	io.ReaderAt
	io.WriterAt
	Truncate(size int64) error
	Size() (int64, error)
	Sync() error // data and size are on the disk when it returns
	Close() error
}

type openMode int

const (
	readOnly openMode = iota
	readWrite
	createIfMissing // and read and write
)

// fileSystem is what the log asks of the disk.
type fileSystem interface {
	Open(name string, mode openMode) (file, error)
	Rename(from, to string) error
	Remove(name string) error
	RemoveAll(name string) error
	MkdirAll(name string) error
	List(dir string) ([]string, error)
	// SyncDir makes the names in a directory durable.
	SyncDir(dir string) error
	// SyncAll makes everything that was written below dir durable, names too.
	SyncAll(dir string) error
	// Lock keeps other processes from writing to dir until the closer is closed.
	Lock(dir string) (io.Closer, error)
}

type disk struct{}

type diskFile struct{ *os.File }

func (f diskFile) Size() (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

// Sync is repeated only when a signal interrupted it. After any other error
// the kernel may have dropped the pages, so that a second call would lie.
func (f diskFile) Sync() error {
	for {
		if err := dataSync(f.File); !errors.Is(err, syscall.EINTR) {
			return err
		}
	}
}

func (disk) Open(name string, mode openMode) (file, error) {
	flags := [...]int{readOnly: os.O_RDONLY, readWrite: os.O_RDWR, createIfMissing: os.O_RDWR | os.O_CREATE}[mode]
	f, err := openRegular(name, flags)
	if err != nil {
		return nil, err
	}
	return diskFile{f}, nil
}

// OpenRegular opens a file to read that came from elsewhere. It refuses what is
// no regular file, and does not wait for whoever may have a pipe's other end.
func OpenRegular(name string) (*os.File, error) { return openRegular(name, os.O_RDONLY) }

func openRegular(name string, flags int) (*os.File, error) {
	f, err := os.OpenFile(name, flags|syscall.O_NONBLOCK, 0o600)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is no regular file", name)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func (disk) Rename(from, to string) error { return os.Rename(from, to) }
func (disk) Remove(name string) error     { return os.Remove(name) }
func (disk) RemoveAll(name string) error  { return os.RemoveAll(name) }
func (disk) MkdirAll(name string) error   { return os.MkdirAll(name, 0o700) }

func (disk) List(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.Name()
	}
	return names, nil
}

func (disk) SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func (disk) SyncAll(dir string) error { return syncTree(dir) }

func (disk) Lock(dir string) (io.Closer, error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := lockFile(f); err != nil {
		return nil, errors.Join(fmt.Errorf("it is in use by another process: %w", err), f.Close())
	}
	return f, nil
}

// writeAt writes all of b or fails for good.
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

// readFile reads a file of at most limit bytes; it takes no memory for a larger one.
func readFile(fsys fileSystem, name string, limit int64) ([]byte, error) {
	f, err := fsys.Open(name, readOnly)
	if err != nil {
		return nil, err
	}
	defer f.Close() // nothing was written
	size, err := f.Size()
	if err != nil {
		return nil, err
	}
	if size > limit {
		return nil, fmt.Errorf("%s: %d bytes are too many", filepath.Base(name), size)
	}
	data := make([]byte, size)
	if n, err := f.ReadAt(data, 0); int64(n) < size {
		return nil, fmt.Errorf("%s: %w", filepath.Base(name), err)
	}
	return data, nil
}

// replaceFile writes a file beside its name and renames it, so that a reader
// sees the old or the new content. With durable it is on the disk afterwards.
func replaceFile(fsys fileSystem, name string, data []byte, durable bool) (err error) {
	temporary := name + ".tmp"
	f, err := fsys.Open(temporary, createIfMissing)
	if err != nil {
		return err
	}
	defer func() {
		if isFull(err) {
			_ = fsys.Remove(temporary) // others need the space; the next attempt makes it anew
		}
	}()
	if err := errors.Join(f.Truncate(0), writeAt(f, data, 0)); err != nil {
		return errors.Join(err, f.Close())
	}
	if durable {
		if err := f.Sync(); err != nil {
			return errors.Join(err, f.Close())
		}
	}
	if err := f.Close(); err != nil {
		return err
	}
	if err := fsys.Rename(temporary, name); err != nil || !durable {
		return err
	}
	return fsys.SyncDir(filepath.Dir(name))
}
