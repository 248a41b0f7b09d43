//go:build !race

package screen

const slowdown = 1
