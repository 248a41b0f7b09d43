package tlog

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"path/filepath"
	"sync"
)

const (
	bodiesList    = "files.json"
	bodiesPlaces  = "locations"
	placeSize     = 16 // file number + 1, length, offset
	bodyHeader    = 16 // length, CRC-32C, index
	bodySuffix    = ".bodies"
	maxBodyFiles  = 1 << 20
	maxBodiesList = 64 << 20
	placesRead    = 256
	placesWrite   = 64 << 10 // bytes of places in one write
	bodiesWrite   = 1 << 20  // bytes of records in one write
)

// ErrNoBody is wrapped when an entry has no body in the store.
var ErrNoBody = errors.New("the entry has no body here")

// sealedBody is a body on its way from the append file to the store.
type sealedBody struct {
	index  int64
	key    KeyID
	sealed []byte
}

// bodyFile is one line of files.json; its number is its place there.
type bodyFile struct {
	Key    string `json:"key"`
	Length int64  `json:"length"` // bytes that are durable
}

// bodyStore keeps sealed bodies: one append file for each key, and a table
// that says where the body of an entry is. Only the integrator writes; after a
// crash it writes again what came after the last settle.
type bodyStore struct {
	fs     fileSystem
	dir    string
	files  []bodyFile
	number map[string]int
	open   []file
	places file
	dirty  map[int]bool    // files written since the last settle
	fresh  map[string]bool // directories with names that may not be durable
	mu     sync.Mutex      // guards files, for readers; all else belongs to the integrator
}

func openBodyStore(fsys fileSystem, dir string) (*bodyStore, error) {
	if err := fsys.MkdirAll(dir); err != nil {
		return nil, err
	}
	files, err := readBodiesList(fsys, dir)
	if err != nil {
		return nil, err
	}
	s := &bodyStore{fs: fsys, dir: dir, files: files, number: map[string]int{}, open: make([]file, len(files)),
		dirty: map[int]bool{}, fresh: map[string]bool{dir: true, filepath.Dir(dir): true}}
	for i, f := range files {
		s.number[f.Key] = i
	}
	if s.places, err = fsys.Open(filepath.Join(dir, bodiesPlaces), createIfMissing); err != nil {
		return nil, err
	}
	return s, nil
}

func readBodiesList(fsys fileSystem, dir string) ([]bodyFile, error) {
	data, err := readFile(fsys, filepath.Join(dir, bodiesList), maxBodiesList)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var list struct {
		Files []bodyFile `json:"files"`
	}
	if err := json.Unmarshal(data, &list); err != nil {
		return nil, fmt.Errorf("%s: %w", bodiesList, err)
	}
	for _, f := range list.Files {
		if _, err := ParseKeyID(f.Key); err != nil || f.Length < 0 {
			return nil, fmt.Errorf("%s: %q of %d bytes is not a body file", bodiesList, shorten(f.Key), f.Length)
		}
	}
	return list.Files, nil
}

func bodyPath(dir string, key KeyID) string {
	return filepath.Join(dir, key.Project, key.Quarter+bodySuffix)
}

// write puts bodies into their files: those of one key with one write, and
// their places likewise as long as the entries follow one another. What it wrote
// before an error counts for nothing and is written over by the next call.
func (s *bodyStore) write(bodies []sealedBody) error {
	before := make([]int64, len(s.files))
	for i := range s.files {
		before[i] = s.files[i].Length
	}
	err := s.writeAll(bodies)
	if err != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		for i := range s.files {
			s.files[i].Length = 0 // of a file that is new
			if i < len(before) {
				s.files[i].Length = before[i]
			}
		}
	}
	return err
}

func (s *bodyStore) writeAll(bodies []sealedBody) error {
	records := map[int]*bytes.Buffer{}
	var places []byte
	var from, next int64 // the entries of places
	for i := range bodies {
		b := &bodies[i]
		number, err := s.fileFor(b.key)
		if err != nil {
			return fmt.Errorf("body of entry %d: %w", b.index, err)
		}
		if records[number] == nil {
			records[number] = new(bytes.Buffer)
		}
		offset := s.files[number].Length + int64(records[number].Len())
		b.record(records[number])
		if b.index != next || len(places) >= placesWrite {
			if err := writeAt(s.places, places, from*placeSize); err != nil {
				return err
			}
			places, from = places[:0], b.index
		}
		next = b.index + 1
		places = binary.BigEndian.AppendUint32(places, uint32(number)+1)
		places = binary.BigEndian.AppendUint32(places, uint32(len(b.sealed)))
		places = binary.BigEndian.AppendUint64(places, uint64(offset))
		if records[number].Len() >= bodiesWrite {
			if err := s.flush(number, records[number]); err != nil {
				return err
			}
		}
	}
	for number, data := range records {
		if err := s.flush(number, data); err != nil {
			return err
		}
	}
	return writeAt(s.places, places, from*placeSize)
}

// record appends the record of a body, docs/format-ledger.md, "Body".
func (b *sealedBody) record(to *bytes.Buffer) {
	var head [bodyHeader]byte
	binary.BigEndian.PutUint32(head[:], uint32(len(b.sealed)))
	binary.BigEndian.PutUint32(head[4:], crc32.Checksum(b.sealed, castagnoli))
	binary.BigEndian.PutUint64(head[8:], uint64(b.index))
	to.Write(head[:])
	to.Write(b.sealed)
}

func (s *bodyStore) flush(number int, data *bytes.Buffer) error {
	if err := writeAt(s.open[number], data.Bytes(), s.files[number].Length); err != nil {
		return fmt.Errorf("body file of %s: %w", s.files[number].Key, err)
	}
	s.mu.Lock()
	s.files[number].Length += int64(data.Len())
	s.mu.Unlock()
	s.dirty[number] = true
	data.Reset()
	return nil
}

func (s *bodyStore) fileFor(key KeyID) (int, error) {
	number, ok := s.number[key.String()]
	if !ok {
		if len(s.files) >= maxBodyFiles {
			return 0, fmt.Errorf("there are %d body files already", len(s.files))
		}
		number = len(s.files)
		s.mu.Lock()
		s.files = append(s.files, bodyFile{Key: key.String()})
		s.mu.Unlock()
		s.open = append(s.open, nil)
		s.number[key.String()] = number
	}
	if s.open[number] != nil {
		return number, nil
	}
	path := bodyPath(s.dir, key)
	if err := s.fs.MkdirAll(filepath.Dir(path)); err != nil {
		return 0, err
	}
	f, err := s.fs.Open(path, createIfMissing)
	if err != nil {
		return 0, err
	}
	s.fresh[filepath.Dir(path)], s.fresh[s.dir] = true, true
	// What a crash left behind the durable length is written again.
	if err := f.Truncate(s.files[number].Length); err != nil {
		return 0, errors.Join(err, f.Close())
	}
	s.open[number] = f
	return number, nil
}

// settle makes everything written so far the durable state.
func (s *bodyStore) settle() error {
	if err := s.places.Sync(); err != nil {
		return final(err)
	}
	for number := range s.dirty {
		if err := s.open[number].Sync(); err != nil {
			return final(err)
		}
	}
	clear(s.dirty)
	for dir := range s.fresh {
		if err := s.fs.SyncDir(dir); err != nil {
			return final(err)
		}
	}
	clear(s.fresh)
	data, err := json.Marshal(map[string]any{"files": s.files})
	if err != nil {
		return err
	}
	return replaceFile(s.fs, filepath.Join(s.dir, bodiesList), append(data, '\n'), true)
}

func (s *bodyStore) close() error {
	errs := []error{s.places.Close()}
	for _, f := range s.open {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	return errors.Join(errs...)
}

// bodyReader finds sealed bodies in a store that somebody else may be writing.
type bodyReader struct {
	fs     fileSystem
	dir    string
	files  []bodyFile
	places file // nil when there is no store
	open   map[int]file

	table      []byte // lines of the table of places, from firstPlace on
	firstPlace int64
}

func openBodyReader(fsys fileSystem, dir string) (*bodyReader, error) {
	r := &bodyReader{fs: fsys, dir: dir, open: map[int]file{}}
	var err error
	if r.files, err = readBodiesList(fsys, dir); err != nil {
		return nil, err
	}
	r.places, err = fsys.Open(filepath.Join(dir, bodiesPlaces), readOnly)
	if errors.Is(err, fs.ErrNotExist) {
		r.places, err = nil, nil
	}
	return r, err
}

func (r *bodyReader) close() error {
	var errs []error
	if r.places != nil {
		errs = append(errs, r.places.Close())
	}
	for _, f := range r.open {
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}

// find returns the sealed body of an entry. The error wraps ErrNoBody when the
// store does not claim to have one; any other error is damage or a failing disk.
func (r *bodyReader) find(index int64) (KeyID, []byte, error) {
	place, err := r.place(index)
	if err != nil {
		return KeyID{}, nil, err
	}
	number := int(binary.BigEndian.Uint32(place)) - 1
	length := int64(binary.BigEndian.Uint32(place[4:]))
	offset := int64(binary.BigEndian.Uint64(place[8:]))
	if number < 0 {
		return KeyID{}, nil, ErrNoBody
	}
	if number >= len(r.files) || length > maxSealed || offset < 0 || offset > maxSize {
		return KeyID{}, nil, fmt.Errorf("entry %d: the table of bodies points nowhere", index)
	}
	key, err := ParseKeyID(r.files[number].Key)
	if err != nil {
		return KeyID{}, nil, err
	}
	sealed, err := r.read(number, key, index, offset, length)
	return key, sealed, err
}

// place is the line of the table for an entry. It reads many at once, because a
// full check asks for each in turn; ErrNoBody is returned bare for the same reason.
func (r *bodyReader) place(index int64) ([]byte, error) {
	if r.places == nil || index < 0 {
		return nil, ErrNoBody
	}
	at := (index - r.firstPlace) * placeSize
	if r.table == nil || at < 0 || at >= placesRead*placeSize {
		r.firstPlace, at = index, 0
		table := make([]byte, placesRead*placeSize)
		n, err := r.places.ReadAt(table, index*placeSize)
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, fmt.Errorf("entry %d: %w", index, err)
		}
		r.table = table[:n]
	}
	if at+placeSize > int64(len(r.table)) {
		return nil, ErrNoBody
	}
	return r.table[at : at+placeSize], nil
}

func (r *bodyReader) read(number int, key KeyID, index, offset, length int64) ([]byte, error) {
	f := r.open[number]
	if f == nil {
		var err error
		if f, err = r.fs.Open(bodyPath(r.dir, key), readOnly); errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("entry %d: %w: the body file of %s is gone", index, ErrNoBody, key)
		} else if err != nil {
			return nil, fmt.Errorf("entry %d: %w", index, err)
		}
		r.open[number] = f
	}
	record := make([]byte, bodyHeader+length)
	if _, err := f.ReadAt(record, offset); err != nil {
		return nil, fmt.Errorf("entry %d: body file of %s, byte %d: the body is cut: %w", index, key, offset, err)
	}
	sealed := record[bodyHeader:]
	if int64(binary.BigEndian.Uint32(record)) != length || int64(binary.BigEndian.Uint64(record[8:])) != index ||
		binary.BigEndian.Uint32(record[4:]) != crc32.Checksum(sealed, castagnoli) {
		return nil, fmt.Errorf("entry %d: body file of %s, byte %d: the record was changed", index, key, offset)
	}
	return sealed, nil
}

// reader reads the store as it is now, with what is not settled yet.
func (s *bodyStore) reader() (*bodyReader, error) {
	s.mu.Lock()
	files := append([]bodyFile(nil), s.files...)
	s.mu.Unlock()
	places, err := s.fs.Open(filepath.Join(s.dir, bodiesPlaces), readOnly)
	if err != nil {
		return nil, err
	}
	return &bodyReader{fs: s.fs, dir: s.dir, files: files, places: places, open: map[int]file{}}, nil
}
