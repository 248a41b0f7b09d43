package trec

import (
	"errors"
	"fmt"
	"io"
)

// Ended reports whether a recording of size bytes has its signed end, so that
// nobody writes to it any more. It looks at the last bytes alone; whether they
// are right is for Verify.
func Ended(r io.ReaderAt, size int64) (bool, error) {
	if size < footerSize {
		return false, nil
	}
	var end [len(footerMagic)]byte
	if _, err := r.ReadAt(end[:], size-int64(len(end))); err != nil && !errors.Is(err, io.EOF) {
		return false, fmt.Errorf("read the end of a recording: %w", err)
	}
	return string(end[:]) == footerMagic, nil
}
