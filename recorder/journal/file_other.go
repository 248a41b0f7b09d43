//go:build !linux

package journal

import (
	"math"
	"os"
)

// The node runs on Linux. On other systems the package only has to serve
// readers; what is here is correct but slow.

func dataSync(f *os.File) error { return uninterrupted(f.Sync) }

func allocate(*os.File, int64) error { return nil }

func freeBytes(string) (int64, error) { return math.MaxInt64, nil }

func lockFile(*os.File) error { return nil }
