package tlog

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"sync"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// Directory reads a log's directory, or a copy of it, at the size of its
// published checkpoint. Every hash it hands out is authenticated against the
// checkpoint's root.
type Directory struct {
	fs     fileSystem
	dir    string
	size   int64
	root   Hash
	signed []byte
}

// OpenDirectory opens a log's directory and verifies its checkpoint.
func OpenDirectory(dir, origin string, verifier note.Verifier) (*Directory, error) {
	return openDirectory(disk{}, dir, origin, verifier)
}

func openDirectory(fsys fileSystem, dir, origin string, verifier note.Verifier) (*Directory, error) {
	signed, err := readFile(fsys, filepath.Join(dir, CheckpointFile), maxCheckpoint)
	if err != nil {
		return nil, fmt.Errorf("ledger %s: %w", origin, err)
	}
	c, _, err := OpenCheckpoint(signed, origin, verifier)
	if err != nil {
		return nil, fmt.Errorf("ledger %s: %w", origin, err)
	}
	return &Directory{fs: fsys, dir: dir, size: c.Size, root: c.Root, signed: signed}, nil
}

// Checkpoint is the published signed checkpoint.
func (d *Directory) Checkpoint() []byte { return append([]byte(nil), d.signed...) }

// Size is the size of the published checkpoint, in entries.
func (d *Directory) Size() int64 { return d.size }

// hashes reads and authenticates stored hashes.
func (d *Directory) hashes() tlog.HashReader {
	return tlog.TileHashReader(tlog.Tree{N: d.size, Hash: d.root}, d)
}

// Height implements tlog.TileReader.
func (d *Directory) Height() int { return tileHeight }

// SaveTiles implements tlog.TileReader; the tiles are on disk already.
func (d *Directory) SaveTiles([]tlog.Tile, [][]byte) {}

// ReadTiles implements tlog.TileReader.
func (d *Directory) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	out := make([][]byte, len(tiles))
	for i, t := range tiles {
		data, err := d.readTile(tileID{t.L, t.N}, t.W)
		if err != nil {
			return nil, err
		}
		out[i] = data
	}
	return out, nil
}

// readTile reads the first width hashes of a tile: from the partial tile of
// that width, from the one the tree has now, or from the full one.
func (d *Directory) readTile(id tileID, width int) ([]byte, error) {
	data, path, err := readTileFile(d.fs, d.dir, id, width, id.widthAt(d.size))
	if err != nil {
		return nil, err
	}
	if len(data) < width*tlog.HashSize {
		return nil, fmt.Errorf("%s: the tile has %d bytes, not %d", path, len(data), width*tlog.HashSize)
	}
	return data[:width*tlog.HashSize], nil
}

func readTileFile(fsys fileSystem, dir string, id tileID, widths ...int) (data []byte, path string, err error) {
	for _, width := range append(widths, tileWidth) {
		if width <= 0 {
			continue
		}
		path = id.path(width)
		data, err = readFile(fsys, filepath.Join(dir, path), tileWidth*(2+MaxEntry))
		if !errors.Is(err, fs.ErrNotExist) {
			return data, filepath.ToSlash(path), err
		}
	}
	return nil, filepath.ToSlash(path), fmt.Errorf("%s is missing: %w", id, err)
}

// readBundle reads entry bundle n as far as the tree goes.
func (d *Directory) readBundle(n int64) ([]byte, error) {
	id := tileID{entriesLevel, n}
	width := id.widthAt(d.size)
	data, path, err := readTileFile(d.fs, d.dir, id, width)
	if err != nil {
		return nil, err
	}
	rest := data
	for i := range width {
		if _, rest, err = nextEntry(rest); err != nil {
			return nil, fmt.Errorf("%s: entry %d: %w", path, n*tileWidth+int64(i), err)
		}
	}
	return data[:len(data)-len(rest)], nil
}

// edges reads the rightmost, unfinished tile of each level.
func (d *Directory) edges() ([][]Hash, error) {
	edges := make([][]Hash, tileLevels)
	for level := range edges {
		width := int(d.size >> (tileHeight * level) % tileWidth)
		if width == 0 {
			continue
		}
		data, err := d.readTile(tileID{level, d.size >> (tileHeight * (level + 1))}, width)
		if err != nil {
			return nil, err
		}
		edges[level] = parseHashes(data)
	}
	return edges, nil
}

// Entry reads one entry and checks it against the root.
func (d *Directory) Entry(index int64) ([]byte, error) {
	if index < 0 || index >= d.size {
		return nil, fmt.Errorf("entry %d: the log has %d entries", index, d.size)
	}
	want, err := d.LeafHash(index)
	if err != nil {
		return nil, err
	}
	bundle, err := d.readBundle(index / tileWidth)
	if err != nil {
		return nil, err
	}
	entry, err := entryAt(bundle, int(index%tileWidth))
	if err != nil {
		return nil, err
	}
	if LeafHash(entry) != want {
		return nil, fmt.Errorf("entry %d was changed: it does not hash into the tree", index)
	}
	return entry, nil
}

func entryAt(bundle []byte, place int) (entry []byte, err error) {
	for range place + 1 {
		if entry, bundle, err = nextEntry(bundle); err != nil {
			return nil, err
		}
	}
	return entry, nil
}

// LeafHash is the hash of one entry, checked against the root.
func (d *Directory) LeafHash(index int64) (Hash, error) {
	if index < 0 || index >= d.size {
		return Hash{}, fmt.Errorf("entry %d: the log has %d entries", index, d.size)
	}
	hashes, err := d.hashes().ReadHashes([]int64{tlog.StoredHashIndex(0, index)})
	if err != nil {
		return Hash{}, err
	}
	return hashes[0], nil
}

// ProveConsistency proves that the first older entries of the log are unchanged in its first newer.
func (d *Directory) ProveConsistency(older, newer int64) (tlog.TreeProof, error) {
	return proveConsistency(older, newer, d.size, d.hashes())
}

// Prove makes the proof of inclusion of an entry in the published checkpoint.
func (d *Directory) Prove(index int64) (*Proof, error) {
	return prove(index, d.size, d.signed, d.hashes())
}

const tileCacheSize = 256

// tileCache keeps full tiles, which never change.
type tileCache struct {
	mu    sync.Mutex // guards tiles
	tiles map[tileID][]Hash
}

func newTileCache() *tileCache { return &tileCache{tiles: map[tileID][]Hash{}} }

func (c *tileCache) get(id tileID) []Hash {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.tiles[id]
}

func (c *tileCache) put(id tileID, hashes []Hash) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.tiles) >= tileCacheSize {
		clear(c.tiles)
	}
	c.tiles[id] = hashes
}
