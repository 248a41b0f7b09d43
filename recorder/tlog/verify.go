package tlog

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// maxProblems bounds a report; what follows a rewritten entry is rarely news.
const maxProblems = 100

// VerifyOptions says what to check and against what.
type VerifyOptions struct {
	Dir       string        // the log's directory or a copy of it
	BodiesDir string        // default Dir/bodies
	Origin    string        // the log that it must be
	Verifier  note.Verifier // the log's key
	Keys      Keys          // opens bodies; nil: bodies are only looked at from outside

	// Known are checkpoints of this log that somebody remembered, a witness
	// cosigned, or a receipt holds; their signatures have been verified.
	Known    []Checkpoint
	Progress func(done, total int64) // entries; may be nil
	// Visit, if not nil, sees each entry in order, those behind the published
	// checkpoint too. What it saw counts only if the report is OK: an entry is
	// handed over before the root is known. The bytes are valid until it returns.
	Visit func(index int64, entry []byte)

	fs fileSystem
}

// Problem is something wrong, in a form that names the place and what it means.
type Problem struct {
	Path    string `json:"path"`  // below the log's directory, or below the bodies'
	Byte    int64  `json:"byte"`  // in that file, -1 when no single byte can be named
	Entry   int64  `json:"entry"` // -1 when it is not about one entry
	What    string `json:"what"`
	Meaning string `json:"meaning"`
	// Known is set when the log contradicts a checkpoint that was seen before.
	Known bool `json:"known,omitempty"`
}

func (p Problem) String() string {
	place := p.Path
	if p.Byte >= 0 {
		place = fmt.Sprintf("%s, byte %d", place, p.Byte)
	}
	if p.Entry >= 0 {
		place = fmt.Sprintf("entry %d (%s)", p.Entry, place)
	}
	return fmt.Sprintf("%s: %s. %s", place, p.What, p.Meaning)
}

// Report is the outcome of Verify.
type Report struct {
	Origin    string    `json:"origin"`
	Size      int64     `json:"size"` // of the published checkpoint
	Root      Hash      `json:"root"`
	Tail      int64     `json:"tail"`      // further entries in the append files, with good roots
	Bodies    int64     `json:"bodies"`    // bodies that opened and fit their leaf
	Sealed    int64     `json:"sealed"`    // bodies that are there, for which no key was given
	Destroyed int64     `json:"destroyed"` // bodies whose key was destroyed
	Absent    int64     `json:"absent"`    // entries that commit to a body which is not in the store
	Known     int       `json:"known"`     // known checkpoints that the log is consistent with
	Problems  []Problem `json:"problems"`
}

// OK tells whether nothing was found.
func (r *Report) OK() bool { return len(r.Problems) == 0 }

func (r *Report) add(p Problem) {
	if len(r.Problems) < maxProblems {
		r.Problems = append(r.Problems, p)
	}
}

type checker struct {
	o      VerifyOptions
	report *Report
	d      *Directory
	bodies *bodyReader
	tree   frontier           // of the entries as they are
	edges  [tileLevels][]Hash // hashes made from entries, for the tile they belong to
	bad    map[tileID]int     // first wrong hash of a tile, -1 when missing or short
	first  map[int64]Problem  // level 0 mismatches: entry -> problem if the entry is to blame
	known  []Checkpoint       // sorted by size, not yet reached
}

// Verify checks a whole directory: every entry against its tile, every tile
// against those below, the root against the signed checkpoint, the append
// files behind it, all known checkpoints, and bodies against their leaves. It
// needs no network and no key but the verifier's.
//
// The report says what is wrong; the error is for what kept it from looking.
func Verify(ctx context.Context, o VerifyOptions) (*Report, error) {
	if o.fs == nil {
		o.fs = disk{}
	}
	if o.BodiesDir == "" {
		o.BodiesDir = filepath.Join(o.Dir, "bodies")
	}
	v := &checker{o: o, report: &Report{Origin: o.Origin, Problems: []Problem{}}, bad: map[tileID]int{}, first: map[int64]Problem{},
		known: slices.SortedFunc(slices.Values(o.Known), func(a, b Checkpoint) int { return int(min(max(a.Size-b.Size, -1), 1)) })}
	if !v.checkpoint() {
		return v.report, nil
	}
	var err error
	if v.bodies, err = openBodyReader(o.fs, o.BodiesDir); err != nil {
		v.report.add(Problem{Path: bodiesList, Byte: -1, Entry: -1, What: err.Error(), Meaning: "Bodies cannot be found; the tree is not touched by that."})
		v.bodies = &bodyReader{fs: o.fs}
	}
	defer v.bodies.close() // read only
	v.reach()
	for n := int64(0); n*tileWidth < v.d.size; n++ {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if !v.bundle(n) {
			return v.report, nil
		}
		if o.Progress != nil {
			o.Progress(min((n+1)*tileWidth, v.d.size), v.d.size)
		}
	}
	v.finishTiles()
	v.verdict()
	if v.report.OK() {
		if err := v.tail(); err != nil {
			return nil, err
		}
	}
	for _, c := range v.known {
		v.report.add(Problem{Path: CheckpointFile, Byte: -1, Entry: v.tree.size, Known: true,
			What:    fmt.Sprintf("the log has %d entries, a known checkpoint covers %d", v.tree.size, c.Size),
			Meaning: "Entries were cut off, or an old copy of the log was put in its place."})
	}
	return v.report, nil
}

func (v *checker) checkpoint() bool {
	d, err := openDirectory(v.o.fs, v.o.Dir, v.o.Origin, v.o.Verifier)
	if err != nil {
		v.report.add(Problem{Path: CheckpointFile, Byte: -1, Entry: -1, What: err.Error(),
			Meaning: "Nothing here is vouched for: the checkpoint is missing, of another log, or was changed after it was signed."})
		return false
	}
	v.d, v.report.Size, v.report.Root = d, d.size, d.root
	return true
}

// bundle checks one entry bundle and the level 0 tile that belongs to it. It
// returns false when checking cannot go on.
func (v *checker) bundle(n int64) bool {
	id := tileID{entriesLevel, n}
	width := id.widthAt(v.d.size)
	data, path, err := readTileFile(v.o.fs, v.o.Dir, id, width)
	if err != nil {
		v.report.add(Problem{Path: path, Byte: -1, Entry: n * tileWidth, What: err.Error(),
			Meaning: fmt.Sprintf("Entries %d to %d are gone; nothing after them can be checked.", n*tileWidth, n*tileWidth+int64(width)-1)})
		return false
	}
	tile, tilePath, err := readTileFile(v.o.fs, v.o.Dir, tileID{0, n}, width)
	if err != nil || len(tile) < width*tlog.HashSize {
		v.report.add(Problem{Path: tilePath, Byte: int64(len(tile)), Entry: -1, What: "the tile is missing or cut",
			Meaning: "Proofs for its entries cannot be made; the entries are checked against the root."})
		tile = nil
	}
	rest := data
	for i := range width {
		index, offset := n*tileWidth+int64(i), int64(len(data)-len(rest))
		var entry []byte
		if entry, rest, err = nextEntry(rest); err != nil {
			v.report.add(Problem{Path: path, Byte: offset, Entry: index, What: err.Error(), Meaning: "The bundle was cut or its lengths were changed; nothing after this can be checked."})
			return false
		}
		v.entry(index, entry, Problem{Path: path, Byte: offset, Entry: index}, tile, tilePath)
	}
	if len(rest) > 0 && len(data) > 0 && v.o.partialOnly(path) {
		v.report.add(Problem{Path: path, Byte: int64(len(data) - len(rest)), Entry: -1, What: "bytes follow the last entry", Meaning: "Something was added that the checkpoint does not cover."})
	}
	return true
}

// partialOnly tells whether a bundle must end with its last entry. A full
// bundle may be ahead of the published checkpoint.
func (o *VerifyOptions) partialOnly(path string) bool {
	return filepath.Ext(filepath.Dir(filepath.FromSlash(path))) == ".p"
}

func (v *checker) entry(index int64, entry []byte, place Problem, tile []byte, tilePath string) {
	h := LeafHash(entry)
	at := int(index%tileWidth) * tlog.HashSize
	if tile != nil && Hash(tile[at:at+tlog.HashSize]) != h && len(v.first) < maxProblems {
		id := tileID{0, index / tileWidth}
		if _, ok := v.bad[id]; !ok {
			v.bad[id] = at
		}
		place.What = fmt.Sprintf("the entry does not have the hash that stands in %s, byte %d", tilePath, at)
		v.first[index] = place
	}
	v.tree.add(h, v.made)
	v.reach()
	v.body(index, entry)
	if v.o.Visit != nil {
		v.o.Visit(index, entry)
	}
}

// made compares the hashes of level 1 and above with their tiles.
func (v *checker) made(n node) {
	if n.level == 0 {
		return
	}
	v.edges[n.level] = append(v.edges[n.level], n.hash)
	if len(v.edges[n.level]) == tileWidth {
		v.compare(tileID{n.level, n.index / tileWidth})
		v.edges[n.level] = v.edges[n.level][:0]
	}
}

func (v *checker) finishTiles() {
	for level := 1; level < tileLevels; level++ {
		if len(v.edges[level]) > 0 {
			v.compare(tileID{level, v.d.size >> (tileHeight * (level + 1))})
		}
	}
}

func (v *checker) compare(id tileID) {
	hashes := v.edges[id.level]
	data, path, err := readTileFile(v.o.fs, v.o.Dir, id, len(hashes))
	if err != nil || len(data) < len(hashes)*tlog.HashSize {
		v.bad[id] = -1
		v.report.add(Problem{Path: path, Byte: int64(len(data)), Entry: -1, What: "the tile is missing or cut", Meaning: "Proofs through it cannot be made; it can be made again from the entries."})
		return
	}
	for i, h := range hashes {
		if Hash(data[i*tlog.HashSize:(i+1)*tlog.HashSize]) != h {
			v.bad[id] = i * tlog.HashSize
			return
		}
	}
}

// reach checks known checkpoints of the size that the tree has now.
func (v *checker) reach() {
	for len(v.known) > 0 && v.known[0].Size == v.tree.size {
		c := v.known[0]
		v.known = v.known[1:]
		if v.tree.root() == c.Root {
			v.report.Known++
			continue
		}
		v.report.add(Problem{Path: CheckpointFile, Byte: -1, Entry: -1, Known: true,
			What:    fmt.Sprintf("the first %d entries do not have the root of a known checkpoint of that size", c.Size),
			Meaning: "The log was rewritten after that checkpoint was seen: at least one entry before that size was changed, dropped, added or moved, and the log signed again."})
	}
}

// verdict decides who is to blame where entries and tiles differ: whichever
// leads to the signed root is right.
func (v *checker) verdict() {
	entriesRight := v.tree.root() == v.d.root
	tilesRight := false
	if !entriesRight {
		tilesRight = v.tilesLeadToRoot()
	}
	for _, index := range slices.Sorted(keysOf(v.first)) {
		p := v.first[index]
		switch {
		case entriesRight:
			p.Path, p.Byte = tileID{0, index / tileWidth}.String(), index%tileWidth*tlog.HashSize
			p.What = "the hash in the tile is not the entry's"
			p.Meaning = "The tile was forged or damaged; the entry is the one that was signed."
		case tilesRight:
			p.Meaning = "The entry was changed after it was signed."
		default:
			p.Meaning = "Entry and tile differ, and neither leads to the signed root."
		}
		v.report.add(p)
	}
	for id, at := range v.bad {
		if id.level > 0 && at >= 0 && (entriesRight || len(v.first) == 0) {
			v.report.add(Problem{Path: id.String(), Byte: int64(at), Entry: -1, What: "the hash in the tile is not that of the entries below it",
				Meaning: "The tile was forged or damaged."})
		}
	}
	if !entriesRight && len(v.first) == 0 {
		v.report.add(Problem{Path: CheckpointFile, Byte: -1, Entry: -1,
			What:    fmt.Sprintf("the %d entries do not have the root that was signed", v.d.size),
			Meaning: "Entries and tiles agree with each other but were changed together after the checkpoint was signed, or the checkpoint belongs to another copy of the log."})
	}
}

func keysOf(m map[int64]Problem) func(func(int64) bool) {
	return func(yield func(int64) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

// tilesLeadToRoot hashes the level 0 tiles up, without the entries.
func (v *checker) tilesLeadToRoot() bool {
	var tree frontier
	for n := int64(0); n*tileWidth < v.d.size; n++ {
		id := tileID{0, n}
		data, err := v.d.readTile(id, id.widthAt(v.d.size))
		if err != nil {
			return false
		}
		for _, h := range parseHashes(data) {
			tree.add(h, func(node) {})
		}
	}
	return tree.root() == v.d.root
}

func (v *checker) body(index int64, leaf []byte) {
	key, sealed, err := v.bodies.find(index)
	if errors.Is(err, ErrNoBody) {
		if isCommitment(leaf) {
			v.report.Absent++
		}
		return
	}
	if err != nil {
		v.report.add(Problem{Path: bodiesPlaces, Byte: index * placeSize, Entry: index, What: err.Error(), Meaning: "The body was changed or cut; its leaf still tells what it was."})
		return
	}
	if v.o.Keys == nil {
		v.report.Sealed++
		return
	}
	aead, err := v.o.Keys.Reading(key)
	switch {
	case errors.Is(err, ErrDestroyed):
		v.report.Destroyed++
		return
	case errors.Is(err, ErrNoKey):
		v.report.Sealed++
		return
	case err != nil:
		v.report.add(Problem{Path: filepath.ToSlash(bodyPath("", key)), Byte: -1, Entry: index, What: err.Error(), Meaning: "The body's key cannot be used."})
		return
	}
	if _, _, err := openBody(aead, leaf, sealed); err != nil {
		v.report.add(Problem{Path: filepath.ToSlash(bodyPath("", key)), Byte: -1, Entry: index, What: err.Error(), Meaning: "The body was exchanged or changed after it was logged."})
		return
	}
	v.report.Bodies++
}

// tail checks what the append files hold behind the published checkpoint. A
// batch that is cut at the very end is what a crash, or copying a live log, leaves.
func (v *checker) tail() error {
	dir := filepath.Join(v.o.Dir, "append")
	firsts, err := listAppendFiles(v.o.fs, dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		v.report.add(Problem{Path: "append", Byte: -1, Entry: -1, What: err.Error(), Meaning: "The append files were touched by somebody else."})
		return nil
	}
	var last []byte
	for i, first := range firsts {
		path := "append/" + appendName(first)
		data, err := readFile(v.o.fs, filepath.Join(dir, appendName(first)), maxAppendFile)
		if err != nil {
			return err
		}
		end, problem, err := walkAppendFile(data, func(raw []byte) error { return v.batch(raw, &last) })
		if err == nil && problem != nil && (i < len(firsts)-1 || !isTorn(data[end:])) {
			err = problem
		}
		if err != nil {
			v.report.add(Problem{Path: path, Byte: end, Entry: v.tree.size, What: err.Error(), Meaning: "Entries that were durable but not yet in tiles were changed, dropped or moved."})
			return nil
		}
	}
	if last != nil {
		if _, _, err := OpenCheckpoint(last, v.o.Origin, v.o.Verifier); err != nil {
			v.report.add(Problem{Path: "append", Byte: -1, Entry: v.tree.size - 1, What: err.Error(), Meaning: "Entries were added by somebody who does not hold the log's key."})
		}
	}
	v.report.Tail = v.tree.size - v.d.size
	return nil
}

func (v *checker) batch(raw []byte, last *[]byte) error {
	b, err := decodeBatch(raw)
	if err != nil || b.next() <= v.tree.size {
		return err
	}
	if b.first != v.tree.size {
		return fmt.Errorf("entry %d follows entry %d", b.first, v.tree.size-1)
	}
	for i := range b.entries {
		v.tree.add(LeafHash(b.entries[i].Leaf), func(node) {})
		v.reach()
		if v.o.Visit != nil {
			v.o.Visit(b.first+int64(i), b.entries[i].Leaf)
		}
	}
	c, err := checkpointOf(b.note)
	if err != nil {
		return err
	}
	if c.Size != v.tree.size || c.Root != v.tree.root() {
		return errors.New("the entries do not have the root that was signed with them")
	}
	*last = b.note
	return nil
}
