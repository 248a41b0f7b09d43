package recorder

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// The folder of the recordings: a mark by which it is known again, and files that
// hold room for who needs it most.

// marker is a file by which the folder is known again, so that a disk that is not
// mounted does not pass for an empty one. It holds the node's id.
const marker = "sallyport.recordings"

// checkFolder looks whether the folder is the node's, and marks a new one. It comes
// before the journal is opened.
func (r *Recorder) checkFolder() error {
	path := filepath.Join(r.o.Dir, marker)
	text, err := os.ReadFile(path)
	switch {
	case err == nil && strings.TrimSpace(string(text)) == r.o.Node:
		return nil
	case err == nil:
		return fmt.Errorf("the folder of the recordings belongs to another node: its file %s says %q", marker, text)
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	// Whoever has a journal or a ledger has had recordings.
	journals, err := filepath.Glob(filepath.Join(r.o.JournalDir, "*.journal"))
	if err != nil {
		return err
	}
	_, err = os.Lstat(filepath.Join(r.o.LedgerDir, "checkpoint"))
	if err == nil || len(journals) > 0 {
		return fmt.Errorf("the folder of the recordings has no file %s: mount its disk; to go on in a new folder, put that file there with the line %q", marker, r.o.Node)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	if err := errors.Join(writeAll(f, []byte(r.o.Node+"\n")), f.Sync(), f.Close()); err != nil {
		return errors.Join(err, os.Remove(path))
	}
	return syncDir(r.o.Dir)
}

const (
	// rescueFiles is how many rescue sessions can start on a full disk, and
	// rescueRoom what each gets for its header and its first segments, in bytes.
	rescueFiles = 8
	rescueRoom  = 64 << 10
)

func (r *Recorder) rescueFile(n int) string {
	return filepath.Join(r.o.Dir, fmt.Sprintf(".rescue-%d", n))
}

// keepRescueFiles makes the files that are given up for rescue sessions when the disk
// is full. They keep no room where the file system compresses.
func (r *Recorder) keepRescueFiles() {
	r.rescueMu.Lock()
	defer r.rescueMu.Unlock()
	for n := range rescueFiles {
		path := r.rescueFile(n)
		if _, err := os.Lstat(path); err == nil {
			continue
		}
		if err := makeRescueFile(path); err != nil {
			r.o.Log.Warn("no room can be kept for the recordings of rescue sessions", "error", err)
			return
		}
	}
}

func makeRescueFile(path string) error {
	f, err := os.OpenFile(path+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	if err = writeAll(f, make([]byte, rescueRoom)); err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(path+".new", path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(path+".new"))
	}
	return nil
}

// createFor makes the file of a session. For a rescue session on a disk that is as good
// as full it gives up room that was kept for that.
func (r *Recorder) createFor(m *Meta) (file, error) {
	path := r.Path(m.Session)
	if !m.Rescue {
		return r.o.create(path)
	}
	free, err := r.o.free(r.o.Dir)
	switch {
	case err == nil && free >= max(r.o.MinFree, 2*rescueFiles*rescueRoom):
		r.keepRescueFiles() // what was given up before
		return r.o.create(path)
	case err == nil && free >= rescueRoom:
		return r.o.create(path)
	}
	if err := r.giveUpRescueFile(); err != nil {
		return nil, err
	}
	return r.o.create(path)
}

func (r *Recorder) giveUpRescueFile() error {
	r.rescueMu.Lock()
	defer r.rescueMu.Unlock()
	for n := range rescueFiles {
		if err := os.Remove(r.rescueFile(n)); !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil // there may be room all the same
}

// noRoom reports whether an error says that the disk is full.
func noRoom(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}
