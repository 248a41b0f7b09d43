package tlog

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"golang.org/x/mod/sumdb/tlog"
)

const (
	integratedFile = "integrated"
	maxCheckpoint  = 64 << 10
)

// integrated is how far tiles and bodies are durable.
type integrated struct {
	Size       int64  `json:"size"`
	Checkpoint string `json:"checkpoint"`
}

// Open opens or begins the log in o.Dir. It takes up the tree from the tiles
// that are durable, adds what the append files hold beyond them and checks
// every root on the way against the checkpoint that was signed for it.
//
// ErrInconsistent is wrapped when the directory contradicts itself: a root that
// does not fit, entries that are missing between tiles and append file, or a
// published or cosigned checkpoint that is ahead of the entries. Such a log
// is never appended to. A tail that a crash tore is put aside, not an error.
func Open(o Options) (*Log, error) {
	if err := o.fill(); err != nil {
		return nil, fmt.Errorf("ledger: %w", err)
	}
	l := &Log{o: o, wake: make(chan struct{}, 1), kick: make(chan struct{}, 1), publish: make(chan publishing),
		stop: make(chan struct{}), ended: make(chan struct{}), pending: map[tileID][]byte{}, unstoredAt: map[int64]int{},
		cache: newTileCache(), durable: o.Durable}
	if err := l.open(); err != nil {
		for _, c := range []func() error{l.closeDurable, l.closeBodies, l.closeLock} {
			err = errors.Join(err, c())
		}
		return nil, fmt.Errorf("ledger %s: %w", o.Origin, err)
	}
	l.done.Add(2)
	go l.commitLoop()
	go l.integrateLoop()
	return l, nil
}

func (l *Log) closeDurable() error {
	if l.durable == nil {
		return nil
	}
	return l.durable.Close()
}

func (l *Log) closeBodies() error {
	if l.bodies == nil {
		return nil
	}
	return l.bodies.close()
}

func (l *Log) closeLock() error {
	if l.lock == nil {
		return nil
	}
	return l.lock.Close()
}

func (l *Log) open() (err error) {
	if l.signer, err = NewSigner(l.o.Origin, l.o.Signer); err != nil {
		return err
	}
	if l.verifier, err = newVerifierOf(l.o.Origin, l.o.Signer); err != nil {
		return err
	}
	if err := l.o.fs.MkdirAll(l.o.Dir); err != nil {
		return err
	}
	if l.lock, err = l.o.fs.Lock(l.o.Dir); err != nil {
		return err
	}
	if l.bodies, err = openBodyStore(l.o.fs, l.o.BodiesDir); err != nil {
		return err
	}
	if l.durable == nil {
		files, err := openAppendFiles(l.o.fs, filepath.Join(l.o.Dir, "append"), l.o.appendLimit)
		if err != nil {
			return err
		}
		l.durable = files
	}
	if err := l.restore(); err != nil {
		return err
	}
	if l.note == nil {
		if l.note, err = l.sign(&l.next); err != nil {
			return err
		}
	}
	l.kept = l.note
	if err := l.durable.Replay(l.size, l.replay); err != nil {
		return err
	}
	// The signature of the last checkpoint covers all before it.
	if _, _, err := OpenCheckpoint(l.note, l.o.Origin, l.verifier); err != nil {
		return fmt.Errorf("%w: %w", ErrInconsistent, err)
	}
	for _, name := range []string{CheckpointFile, CosignedFile} {
		if err := l.agree(name); err != nil {
			return err
		}
	}
	return nil
}

// restore takes up the right edge of the tree from tiles.
func (l *Log) restore() error {
	data, err := readFile(l.o.fs, filepath.Join(l.o.Dir, integratedFile), maxCheckpoint)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var state integrated
	if err := json.Unmarshal(data, &state); err != nil {
		return fmt.Errorf("%s: %w", integratedFile, err)
	}
	c, _, err := OpenCheckpoint([]byte(state.Checkpoint), l.o.Origin, l.verifier)
	if err != nil {
		return fmt.Errorf("%s: %w", integratedFile, err)
	}
	if c.Size != state.Size {
		return fmt.Errorf("%s: %w: size %d with the checkpoint of %d", integratedFile, ErrInconsistent, state.Size, c.Size)
	}
	d := &Directory{fs: l.o.fs, dir: l.o.Dir, size: c.Size, root: c.Root}
	edges, err := d.edges()
	if err != nil {
		return err
	}
	l.next = frontierOf(c.Size, edges)
	if root := l.next.root(); root != c.Root {
		return fmt.Errorf("%w: the tiles at the right edge do not have the root that was signed for %d entries", ErrInconsistent, c.Size)
	}
	copy(l.edges[:], edges)
	if width := c.Size % tileWidth; width > 0 {
		if l.bundle, err = d.readBundle(c.Size / tileWidth); err != nil {
			return err
		}
	}
	l.size, l.note, l.restored = c.Size, []byte(state.Checkpoint), c.Size
	return nil
}

// frontierOf makes a frontier from the rightmost, unfinished tile of each level.
func frontierOf(size int64, edges [][]Hash) frontier {
	f := frontier{size: size}
	for level := 0; size>>level > 0; level++ {
		if size>>level&1 == 0 {
			continue
		}
		hashes, within := edges[level/tileHeight], level%tileHeight
		end := len(hashes) >> within << within
		f.nodes[level] = subtree(hashes[end-1<<within : end])
	}
	return f
}

func (l *Log) replay(raw []byte) error {
	b, err := decodeBatch(raw)
	if err != nil {
		return err
	}
	if b.next() <= l.size {
		return nil
	}
	if b.first != l.size {
		return fmt.Errorf("%w: entry %d follows entry %d", ErrInconsistent, b.first, l.size-1)
	}
	var nodes []node
	for i := range b.entries {
		l.next.add(LeafHash(b.entries[i].Leaf), func(n node) { nodes = append(nodes, n) })
	}
	c, err := checkpointOf(b.note)
	if err != nil {
		return err
	}
	if c.Origin != l.o.Origin || c.Size != l.next.size || c.Root != l.next.root() {
		return fmt.Errorf("%w: entries %d to %d do not have the root that was signed for them", ErrInconsistent, b.first, b.next()-1)
	}
	l.apply(b, nodes)
	return nil
}

// agree refuses to go on behind a checkpoint that others have seen.
func (l *Log) agree(name string) error {
	signed, err := readFile(l.o.fs, filepath.Join(l.o.Dir, name), maxCheckpoint)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	c, _, err := OpenCheckpoint(signed, l.o.Origin, l.verifier)
	if err != nil {
		return fmt.Errorf("%s: %w: %w", name, ErrInconsistent, err)
	}
	if c.Size > l.size {
		return fmt.Errorf("%s: %w: it covers %d entries, the log has %d; entries were cut off or rolled back", name, ErrInconsistent, c.Size, l.size)
	}
	root, err := tlog.TreeHash(c.Size, l.hashes(l.size))
	if err != nil {
		return err
	}
	if c.Size > 0 && root != c.Root {
		return fmt.Errorf("%s: %w: the first %d entries have another root", name, ErrInconsistent, c.Size)
	}
	return nil
}
