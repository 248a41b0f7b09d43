//go:build race

package screen

// slowdown is what the race detector costs: time limits are for code without it.
const slowdown = 15
