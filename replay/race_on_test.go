//go:build race

package replay

const (
	// slowdown is what the race detector costs: limits are for code without it.
	slowdown = 10
	// share is the part of the long session that is run in every test.
	share = 200
)
