package vault

import (
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
	dir, err := os.Open(filepath.Dir(to))
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
func (v *Vault) copyOne(session string) (err error) {
	from, to := v.path(v.o.Dir, session), v.path(v.o.Second, session)
	if err := v.second(); err != nil {
		return err
	}
	if _, err := os.Lstat(to); err == nil {
		v.alarm(session, "a file with its name is there that is no copy of ours")
		return nil
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
	sum, size, err := v.write(from, tmp)
	if err != nil {
		return err
	}
	back, err := v.readBack(tmp)
	if err != nil {
		return fmt.Errorf("read the copy back: %w", err)
	}
	if back != sum {
		return errors.New("the copy reads back as something else than was written: its disk is not to be trusted")
	}
	if err := v.disk.rename(tmp, to); err != nil {
		return err
	}
	v.o.Log.Debug("copied a recording", "session", session, "bytes", size)
	return v.remember(session)
}

type digest = [sha256.Size]byte

func (v *Vault) write(from, tmp string) (sum digest, size int64, err error) {
	in, err := os.Open(from)
	if err != nil {
		return sum, 0, err
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return sum, 0, err
	}
	if whole, err := trec.Ended(in, info.Size()); err != nil || !whole {
		return sum, 0, errors.Join(err, errors.New("the recording has no signed end"))
	}
	out, err := v.disk.create(tmp)
	if err != nil {
		return sum, 0, err
	}
	h := sha256.New()
	size, err = io.Copy(io.MultiWriter(out, h), in)
	if err == nil && size != info.Size() {
		err = io.ErrUnexpectedEOF
	}
	if err == nil {
		err = out.Sync()
	}
	return digestOf(h), size, errors.Join(err, out.Close())
}

func (v *Vault) readBack(path string) (sum digest, err error) {
	in, err := v.disk.open(path)
	if err != nil {
		return sum, err
	}
	defer in.Close()
	h := sha256.New()
	if _, err := io.Copy(h, in); err != nil {
		return sum, err
	}
	return digestOf(h), nil
}

func digestOf(h hash.Hash) (sum digest) {
	h.Sum(sum[:0])
	return sum
}
