package demo

import (
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"

	"github.com/pkg/sftp"
)

// files serves one account's folder over SFTP, with the folder as its root.
// os.Root keeps every path inside of it, also through symbolic links that a
// person makes in a shell.
type files struct{ root *os.Root }

var (
	_ sftp.OpenFileWriter       = files{}
	_ sftp.PosixRenameFileCmder = files{}
	_ sftp.LstatFileLister      = files{}
)

func fileHandlers(root *os.Root) sftp.Handlers {
	f := files{root}
	return sftp.Handlers{FileGet: f, FilePut: f, FileCmd: f, FileList: f}
}

// inside turns an absolute path of the protocol into one below the root.
func inside(name string) string {
	if p := strings.TrimPrefix(path.Clean("/"+name), "/"); p != "" {
		return p
	}
	return "."
}

// Fileread opens a file for reading. A named pipe must not hold the server up.
func (f files) Fileread(r *sftp.Request) (io.ReaderAt, error) {
	return f.root.OpenFile(inside(r.Filepath), os.O_RDONLY|syscall.O_NONBLOCK, 0)
}

// Filewrite opens a file for writing.
func (f files) Filewrite(r *sftp.Request) (io.WriterAt, error) { return f.OpenFile(r) }

// OpenFile opens a file for reading and writing. Offsets come with each
// packet, so append mode of the system is not used.
func (f files) OpenFile(r *sftp.Request) (sftp.WriterAtReaderAt, error) {
	asked := r.Pflags()
	flags := syscall.O_NONBLOCK
	switch {
	case asked.Read && asked.Write:
		flags |= os.O_RDWR
	case asked.Write:
		flags |= os.O_WRONLY
	}
	if asked.Creat {
		flags |= os.O_CREATE
	}
	if asked.Trunc {
		flags |= os.O_TRUNC
	}
	if asked.Excl {
		flags |= os.O_EXCL
	}
	return f.root.OpenFile(inside(r.Filepath), flags, 0o600)
}

// Filecmd changes names, folders and attributes. Links are not offered.
func (f files) Filecmd(r *sftp.Request) error {
	name := inside(r.Filepath)
	switch r.Method {
	case "Setstat":
		return f.setAttributes(name, r)
	case "Mkdir":
		return f.root.Mkdir(name, 0o700)
	case "Remove", "Rmdir":
		return f.root.Remove(name)
	case "Rename":
		if _, err := f.root.Lstat(inside(r.Target)); err == nil {
			return fs.ErrExist
		}
		return f.PosixRename(r)
	}
	return sftp.ErrSSHFxOpUnsupported
}

// PosixRename renames over an existing file.
func (f files) PosixRename(r *sftp.Request) error {
	return f.root.Rename(inside(r.Filepath), inside(r.Target))
}

func (f files) setAttributes(name string, r *sftp.Request) error {
	asked, attributes := r.AttrFlags(), r.Attributes()
	if asked.Size {
		file, err := f.root.OpenFile(name, os.O_WRONLY|syscall.O_NONBLOCK, 0)
		if err != nil {
			return err
		}
		defer file.Close()
		if err := file.Truncate(int64(attributes.Size)); err != nil {
			return err
		}
	}
	if asked.Permissions {
		if err := f.root.Chmod(name, attributes.FileMode().Perm()); err != nil {
			return err
		}
	}
	if asked.Acmodtime {
		return f.root.Chtimes(name, attributes.AccessTime(), attributes.ModTime())
	}
	return nil
}

// Filelist lists a folder, or describes one file.
func (f files) Filelist(r *sftp.Request) (sftp.ListerAt, error) {
	name := inside(r.Filepath)
	switch r.Method {
	case "List":
		return f.list(name)
	case "Stat":
		info, err := f.root.Stat(name)
		return infos{info}, err
	}
	return nil, sftp.ErrSSHFxOpUnsupported
}

// Lstat describes a file without following a link.
func (f files) Lstat(r *sftp.Request) (sftp.ListerAt, error) {
	info, err := f.root.Lstat(inside(r.Filepath))
	return infos{info}, err
}

func (f files) list(name string) (sftp.ListerAt, error) {
	dir, err := f.root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	all, err := dir.Readdir(-1)
	if err != nil {
		return nil, err
	}
	slices.SortFunc(all, func(a, b os.FileInfo) int { return strings.Compare(a.Name(), b.Name()) })
	return infos(all), nil
}

// infos is a list that the protocol reads in pieces.
type infos []os.FileInfo

// ListAt copies entries from a position on, and says EOF with the last one.
func (l infos) ListAt(into []os.FileInfo, from int64) (int, error) {
	if from >= int64(len(l)) {
		return 0, io.EOF
	}
	n := copy(into, l[from:])
	if from+int64(n) == int64(len(l)) {
		return n, io.EOF
	}
	return n, nil
}
