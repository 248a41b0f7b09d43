//go:build !race

package replay

const (
	slowdown = 1
	share    = 20
)
