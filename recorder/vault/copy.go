package vault

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"sallyport/recorder/trec"
)

// disk is what a copy needs of a file system; tests put a faulty one here.
type disk interface {
	create(path string) (file, error) // must not be there
	open(path string) (io.ReadCloser, error)
	rename(from, to string) error // durable when it returns
}

type file interface {
	io.WriteCloser
	Sync() error
}

type realDisk struct{}

func (realDisk) create(path string) (file, error) {
	return os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
}

func (realDisk) open(path string) (io.ReadCloser, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	uncache(f) // what is read back should come from the disk
	return f, nil
}

func (realDisk) rename(from, to string) error {
	if err := os.Rename(from, to); err != nil {
		return err
	}
	return syncDir(filepath.Dir(to))
}

func syncDir(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// ended returns the size of a file, and whether it has its signed end.
func ended(path string) (size int64, yes bool, err error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, false, nil // set aside meanwhile
	}
	if err != nil {
		return 0, false, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return 0, false, err
	}
	yes, err = trec.Ended(f, info.Size())
	return info.Size(), yes, err
}

// tmpSuffix ends the name of a copy that is not whole.
const tmpSuffix = ".copying"

// copyOne makes one copy. A failure leaves nothing behind that looks like one; a sync that failed is
// not tried again on the same file, whose state nobody knows then.
func (v *Vault) copyOne(ctx context.Context, session string) (err error) {
	from, to := v.path(v.o.Dir, session), v.path(v.o.Second, session)
	if err := v.second(); err != nil {
		return err
	}
	if _, err := os.Lstat(to); err == nil {
		return v.adopt(ctx, session, from, to)
	}
	tmp := to + tmpSuffix
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err // of an earlier attempt
	}
	defer func() {
		if err != nil {
			_ = os.Remove(tmp) // the next attempt removes it too
		}
	}()
	sum, size, err := v.write(ctx, from, tmp)
	if err != nil {
		return err
	}
	back, err := v.readBack(ctx, tmp)
	if err != nil {
		return fmt.Errorf("read the copy back: %w", err)
	}
	if back != sum {
		return errors.New("the copy reads back as something else than was written: its disk is not to be trusted")
	}
	if err := v.disk.rename(tmp, to); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return context.Cause(ctx) // the next start finds the copy
	}
	v.o.Log.Debug("copied a recording", "session", session, "bytes", size)
	return v.remember(session)
}

// adopt remembers a copy that was renamed into its place by an attempt which failed after that.
// Any other file with its name is an alarm, and stays.
func (v *Vault) adopt(ctx context.Context, session, from, to string) error {
	in, _, err := openEnded(from)
	if err != nil {
		return err
	}
	defer in.Close()
	ours, _, err := copyIn(ctx, io.Discard, in)
	if err != nil {
		return err
	}
	there, err := v.readBack(ctx, to)
	if err != nil {
		return err
	}
	if there != ours {
		v.alarm(session, "a file with its name is there that is no copy of ours")
		return nil
	}
	if err := syncDir(filepath.Dir(to)); err != nil {
		return err
	}
	return v.remember(session)
}

type digest = [sha256.Size]byte

// sourceError is about the recording itself, and not about its copy.
type sourceError struct{ err error }

func (e *sourceError) Error() string { return "the recording can't be read: " + cause(e.err) }
func (e *sourceError) Unwrap() error { return e.err }

var errNoEnd = errors.New("it has no signed end")

// openEnded opens a recording that must have its signed end.
func openEnded(path string) (*os.File, int64, error) {
	in, err := os.Open(path)
	if err != nil {
		return nil, 0, &sourceError{err}
	}
	info, err := in.Stat()
	if err == nil {
		var whole bool
		if whole, err = trec.Ended(in, info.Size()); err == nil && !whole {
			err = errNoEnd
		}
	}
	if err != nil {
		_ = in.Close() // nothing was written
		return nil, 0, &sourceError{err}
	}
	return in, info.Size(), nil
}

// chunk is what is copied at once: between two of them it is looked whether to go on.
const chunk = 1 << 20

// copyIn copies chunk by chunk. An error of reading is a *sourceError.
func copyIn(ctx context.Context, out io.Writer, in io.Reader) (sum digest, size int64, err error) {
	h := sha256.New()
	buffer := make([]byte, chunk)
	for {
		if ctx.Err() != nil {
			return sum, size, context.Cause(ctx)
		}
		n, err := in.Read(buffer)
		if n > 0 {
			h.Write(buffer[:n]) // never fails
			if _, err := out.Write(buffer[:n]); err != nil {
				return sum, size, err
			}
			size += int64(n)
		}
		if errors.Is(err, io.EOF) {
			return digestOf(h), size, nil
		}
		if err != nil {
			return sum, size, &sourceError{err}
		}
	}
}

func (v *Vault) write(ctx context.Context, from, tmp string) (sum digest, size int64, err error) {
	in, length, err := openEnded(from)
	if err != nil {
		return sum, 0, err
	}
	defer in.Close()
	out, err := v.disk.create(tmp)
	if err != nil {
		return sum, 0, err
	}
	sum, size, err = copyIn(ctx, out, in)
	if err == nil && size != length {
		err = io.ErrUnexpectedEOF
	}
	if err == nil {
		err = out.Sync()
	}
	return sum, size, errors.Join(err, out.Close())
}

func (v *Vault) readBack(ctx context.Context, path string) (sum digest, err error) {
	in, err := v.disk.open(path)
	if err != nil {
		return sum, err
	}
	defer in.Close()
	sum, _, err = copyIn(ctx, io.Discard, in)
	var read *sourceError
	if errors.As(err, &read) {
		err = read.err // of the copy's disk, here
	}
	return sum, err
}

func digestOf(h hash.Hash) (sum digest) {
	h.Sum(sum[:0])
	return sum
}
