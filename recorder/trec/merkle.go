package trec

import (
	"fmt"
	"math/bits"

	"golang.org/x/mod/sumdb/tlog"
)

// Hash is a SHA-256 in a file's tree (RFC 6962 section 2.1).
type Hash = tlog.Hash

// Tree computes the root of a Merkle tree (RFC 6962) leaf by leaf. It holds
// one hash for each bit of the number of leaves.
type Tree struct {
	peaks []Hash // roots of the complete subtrees, largest first
	size  uint64
}

// Add appends a leaf.
func (t *Tree) Add(leaf Hash) {
	t.peaks = append(t.peaks, leaf)
	for n := t.size; n&1 == 1; n >>= 1 {
		last := len(t.peaks) - 1
		t.peaks[last-1] = tlog.NodeHash(t.peaks[last-1], t.peaks[last])
		t.peaks = t.peaks[:last]
	}
	t.size++
}

// Size is the number of leaves.
func (t *Tree) Size() uint64 { return t.size }

// Root is the hash of the whole tree; of an empty one, the hash of nothing.
func (t *Tree) Root() Hash {
	if len(t.peaks) == 0 {
		root, _ := tlog.TreeHash(0, nil) // of an empty tree it can't fail
		return root
	}
	root := t.peaks[len(t.peaks)-1]
	for i := len(t.peaks) - 2; i >= 0; i-- {
		root = tlog.NodeHash(t.peaks[i], root)
	}
	return root
}

// Inclusion proves that leaves[n] is in the tree of all leaves, as RFC 6962
// section 2.1.1 has it; tlog.CheckRecord checks the proof. Leaf 0 is what
// stands before the first segment, leaf n+1 is segment n.
func Inclusion(leaves []Hash, n int) ([]Hash, error) {
	if n < 0 || n >= len(leaves) {
		return nil, fmt.Errorf("there is no leaf %d among %d", n, len(leaves))
	}
	return inclusion(leaves, n), nil
}

func inclusion(leaves []Hash, n int) []Hash {
	if len(leaves) == 1 {
		return nil
	}
	split := 1 << (bits.Len(uint(len(leaves)-1)) - 1)
	if n < split {
		return append(inclusion(leaves[:split], n), rootOf(leaves[split:]))
	}
	return append(inclusion(leaves[split:], n-split), rootOf(leaves[:split]))
}

func rootOf(leaves []Hash) Hash {
	var t Tree
	for _, l := range leaves {
		t.Add(l)
	}
	return t.Root()
}

func (t *Tree) clone() Tree { return Tree{peaks: append([]Hash(nil), t.peaks...), size: t.size} }
