//go:build !linux

package vault

import "os"

// uncache does nothing where the system takes no such advice.
func uncache(*os.File) {}
