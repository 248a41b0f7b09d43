//go:build race

package replay

// slowdown is what the race detector costs: limits are for code without it.
const slowdown = 10
