package recorder

import (
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
)

// file is what the engine asks of the disk. Tests put a failing one in its place.
type file interface {
	io.Writer
	Sync() error // data and size are on the disk when it returns
	Close() error
}

// diskFile is a file whose Sync is fdatasync where the system has it.
type diskFile struct{ *os.File }

func (f diskFile) Sync() error {
	for {
		err := dataSync(f.File)
		if !errors.Is(err, syscall.EINTR) {
			return err
		}
	}
}

func createFile(path string) (file, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	return diskFile{f}, nil
}

// writeAll writes b or fails for good. Only an interrupted call goes on where
// it stopped; a short write without an error is an error.
func writeAll(f io.Writer, b []byte) error {
	for len(b) > 0 {
		n, err := f.Write(b)
		if n < 0 || n > len(b) {
			return fmt.Errorf("write returned %d of %d bytes", n, len(b))
		}
		b = b[n:]
		if err != nil && !errors.Is(err, syscall.EINTR) {
			return err
		}
		if err == nil && len(b) > 0 {
			return io.ErrShortWrite
		}
	}
	return nil
}

// syncDir makes names in a directory durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
