package vault

import (
	"os"

	"golang.org/x/sys/unix"
)

// uncache asks the system to forget a file's pages, so that what is read comes
// from the disk, and reading much does not push out what others need. It is
// advice: when it is not taken, the check is weaker and nothing else changes.
func uncache(f *os.File) { _ = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED) }
