// Package configs holds the files that a site puts into place, for programs
// that print them. It only carries them; what they mean stands in each.
package configs

import _ "embed"

//go:embed sshd_config.d/sallyport.conf
var sshd string

// SSHD returns the part of a data server's sshd_config that puts it behind the gate.
func SSHD() string { return sshd }
