package tlog

import (
	"encoding/binary"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"

	"golang.org/x/mod/sumdb/tlog"
)

const (
	tileHeight   = 8
	tileWidth    = 1 << tileHeight
	tileLevels   = maxLevels/tileHeight + 1
	entriesLevel = -1 // of a tileID: an entry bundle

	// MaxEntry is the largest entry, in bytes: its length is a uint16 in a bundle (C2SP tlog-tiles, "Log entries").
	MaxEntry = 1<<16 - 1

	// CheckpointFile is the name of the published checkpoint in a log's directory.
	CheckpointFile = "checkpoint"
	// CosignedFile is the name of the last checkpoint that witnesses cosigned.
	CosignedFile = "checkpoint.cosigned"
)

// tileID names a tile or, with level entriesLevel, an entry bundle.
type tileID struct {
	level int
	n     int64
}

// path is the tile's place below the log's directory; width is tileWidth for a
// full one (C2SP tlog-tiles, "Merkle Tree").
func (t tileID) path(width int) string {
	level := "entries"
	if t.level >= 0 {
		level = strconv.Itoa(t.level)
	}
	name := fmt.Sprintf("%03d", t.n%1000)
	for n := t.n / 1000; n > 0; n /= 1000 {
		name = fmt.Sprintf("x%03d/%s", n%1000, name)
	}
	name = "tile/" + level + "/" + name
	if width < tileWidth {
		name += ".p/" + strconv.Itoa(width)
	}
	return filepath.FromSlash(name)
}

// edgeTile is the unfinished tile of a level in a tree of that size; its width may be 0.
func edgeTile(level int, size int64) tileID {
	return tileID{level, size >> (tileHeight * (max(level, 0) + 1))}
}

func (t tileID) partialDir() string { return filepath.Dir(t.path(1)) }

func (t tileID) String() string { return filepath.ToSlash(t.path(tileWidth)) }

// widthAt is how many hashes (or entries) the tile has in a tree of that size, 0 to tileWidth.
func (t tileID) widthAt(size int64) int {
	per := size >> (tileHeight * max(t.level, 0))
	return int(min(max(per-t.n*tileWidth, 0), tileWidth))
}

func appendHashes(out []byte, hashes []Hash) []byte {
	for i := range hashes {
		out = append(out, hashes[i][:]...)
	}
	return out
}

func parseHashes(data []byte) []Hash {
	hashes := make([]Hash, len(data)/tlog.HashSize)
	for i := range hashes {
		copy(hashes[i][:], data[i*tlog.HashSize:])
	}
	return hashes
}

func appendEntry(bundle, entry []byte) []byte {
	bundle = binary.BigEndian.AppendUint16(bundle, uint16(len(entry)))
	return append(bundle, entry...)
}

var errShortBundle = errors.New("the entry bundle ends inside an entry")

// nextEntry cuts the first entry off a bundle.
func nextEntry(bundle []byte) (entry, rest []byte, err error) {
	if len(bundle) < 2 {
		return nil, nil, errShortBundle
	}
	n := int(binary.BigEndian.Uint16(bundle))
	if len(bundle)-2 < n {
		return nil, nil, errShortBundle
	}
	return bundle[2 : 2+n], bundle[2+n:], nil
}
