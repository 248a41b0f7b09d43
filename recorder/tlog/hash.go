package tlog

import (
	"crypto/sha256"

	"golang.org/x/mod/sumdb/tlog"
)

// Hash is a SHA-256 hash of the tree (RFC 6962, 2.1).
type Hash = tlog.Hash

// maxLevels is enough for a tree of 2^62 entries, the largest that is taken.
const maxLevels = 62

// LeafHash is the RFC 6962 hash of an entry: SHA-256(0x00 || entry).
func LeafHash(entry []byte) Hash {
	var small [256]byte
	if len(entry) < len(small) {
		n := copy(small[1:], entry)
		return sha256.Sum256(small[:1+n])
	}
	return tlog.RecordHash(entry)
}

// nodeHash is the RFC 6962 hash of an inner node, on the stack because a full
// check spends its time here.
func nodeHash(left, right Hash) Hash {
	var b [1 + 2*tlog.HashSize]byte
	b[0] = 1
	copy(b[1:], left[:])
	copy(b[1+tlog.HashSize:], right[:])
	return sha256.Sum256(b[:])
}

// emptyRoot is the root of a tree without entries.
func emptyRoot() Hash { return sha256.Sum256(nil) }

// node is a hash of the tree that belongs into a tile: level counts tile levels
// (eight levels of the tree each), index the hashes of that level.
type node struct {
	level int
	index int64
	hash  Hash
}

// frontier is the right edge of a tree: enough to add leaves and to know the
// root. It is a value: a copy is a tree of its own.
type frontier struct {
	size  int64
	nodes [maxLevels]Hash // nodes[k] is the perfect subtree of 2^k leaves, when bit k of size is set
}

// add appends a leaf and hands over each finished hash that a tile holds.
func (f *frontier) add(leaf Hash, finished func(node)) {
	h, index := leaf, f.size
	for level := 0; ; level++ {
		if level%tileHeight == 0 {
			finished(node{level / tileHeight, index, h})
		}
		if index&1 == 0 {
			f.nodes[level] = h
			break
		}
		h = nodeHash(f.nodes[level], h)
		index >>= 1
	}
	f.size++
}

func (f *frontier) root() Hash {
	if f.size == 0 {
		return emptyRoot()
	}
	var h Hash
	begun := false
	for level := 0; f.size>>level > 0; level++ {
		if f.size>>level&1 == 0 {
			continue
		}
		if begun {
			h = nodeHash(f.nodes[level], h)
		} else {
			h, begun = f.nodes[level], true
		}
	}
	return h
}

// subtree is the root of a perfect tree over hashes, whose number is a power of two.
func subtree(hashes []Hash) Hash {
	if len(hashes) == 1 {
		return hashes[0]
	}
	half := len(hashes) / 2
	return nodeHash(subtree(hashes[:half]), subtree(hashes[half:]))
}
