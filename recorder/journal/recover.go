package journal

import (
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"strconv"
	"strings"
)

// Remains are the frames of one stream that were not released before the
// process ended.
type Remains struct {
	// Opening is what stands in clear. Its First and Chain are those of the
	// first frame that remains, as NewOpener wants them.
	Opening
	Last     Position // the last frame that remains
	Released Position // all up to here rests elsewhere; 0: nothing was released
	Damaged  bool     // frames may be missing; only with Options.Damaged

	files  []*oldFile
	places []place
}

// place is a row of frames of one stream that stand side by side.
type place struct {
	file   int
	offset int64
	length int
	last   Position
	chain  [16]byte // before the first
}

// oldFile is a file that was found by Open.
type oldFile struct {
	name    string
	number  uint64
	file    file
	size    int64
	damaged bool
}

// Frames goes through the frames in order, still sealed. A frame is valid
// until the next one. It holds at most one batch's worth of one stream in memory.
func (r *Remains) Frames() iter.Seq2[SealedFrame, error] {
	return func(yield func(SealedFrame, error) bool) {
		var raw []byte
		for _, p := range r.places {
			raw = slices.Grow(raw[:0], p.length)[:p.length]
			from := r.files[p.file]
			if n, err := from.file.ReadAt(raw, p.offset); n < len(raw) {
				yield(SealedFrame{}, fmt.Errorf("%s: %w", from.name, err))
				return
			}
			for rest := raw; len(rest) > 0; {
				var f SealedFrame
				var err error
				if f, rest, err = ParseSealed(rest); err != nil {
					yield(f, fmt.Errorf("%s changed while it was read: %w", from.name, err))
					return
				}
				clear(f.Raw[:4])
				if f.Position > r.Released && !yield(f, nil) {
					return
				}
			}
		}
	}
}

// scan is what Open learns from the files.
type scan struct {
	o       *Options
	files   []*oldFile
	streams []*Remains // in the order of their first opening
	byID    map[[16]byte]*Remains
	number  map[uint32]*Remains // by the number in the files
	batch   uint64
	end     *[16]byte // of the file before
	last    FileHeader
}

// restore reads what an earlier run left, hands it to visit, and makes the
// files spares.
func (j *Journal) restore(visit func(*Remains) error) (err error) {
	s := &scan{o: &j.o, byID: map[[16]byte]*Remains{}, number: map[uint32]*Remains{}}
	defer func() {
		if err != nil {
			for _, f := range s.files {
				err = errors.Join(err, f.file.Close())
			}
			j.closeFiles()
		}
	}()
	names, err := j.o.files.List()
	if err != nil {
		return err
	}
	if err := j.sort(names, s); err != nil {
		return err
	}
	for i := range s.files {
		if err := s.read(i); err != nil {
			return err
		}
	}
	s.streams = slices.DeleteFunc(s.streams, func(r *Remains) bool { return len(r.places) == 0 })
	for _, r := range s.streams {
		if err := r.trim(); err != nil {
			return err
		}
	}
	if j.o.Order != nil {
		slices.SortStableFunc(s.streams, j.o.Order)
	}
	for _, r := range s.streams {
		if visit == nil {
			return fmt.Errorf("frames of stream %s were not released and nobody takes them", r.Name)
		}
		if err := visit(r); err != nil {
			return fmt.Errorf("frames of stream %s: %w", r.Name, err)
		}
	}
	return j.takeOver(s)
}

// sort opens the files that a journal left, and removes half-made ones.
func (j *Journal) sort(names []string, s *scan) error {
	slices.Sort(names)
	for _, name := range names {
		if hex, _, _ := strings.Cut(name, "."); len(hex) == 16 {
			if n, err := strconv.ParseUint(hex, 16, 64); err == nil {
				j.lastNumber = max(j.lastNumber, n)
			}
		}
		if hex, found := strings.CutPrefix(name, "made-"); found && len(hex) >= 16 {
			if n, err := strconv.ParseUint(hex[:16], 16, 64); err == nil {
				j.lastSpare = max(j.lastSpare, n)
			}
		}
		number, live := numberOf(name)
		switch {
		case strings.HasSuffix(name, newSuffix):
			if err := j.o.files.Remove(name); err != nil {
				return err
			}
		case live, strings.HasSuffix(name, spareSuffix):
			f, err := j.o.files.Open(name)
			if err != nil {
				return err
			}
			size, err := f.Size()
			if err != nil {
				return errors.Join(err, f.Close())
			}
			if live {
				s.files = append(s.files, &oldFile{name: name, number: number, file: f, size: size})
			} else if err := j.addSpare(name, f, size); err != nil {
				return err
			}
		}
	}
	return nil
}

// addSpare keeps a file of the right size to be used again.
func (j *Journal) addSpare(name string, f file, size int64) error {
	if size != j.o.FileSize {
		return errors.Join(f.Close(), j.o.files.Remove(name))
	}
	j.spares = append(j.spares, spare{name, f})
	return nil
}

// takeOver makes spares of what was read. What was damaged is kept.
func (j *Journal) takeOver(s *scan) error {
	for len(s.files) > 0 {
		f := s.files[0]
		name := strings.TrimSuffix(f.name, journalSuffix) + spareSuffix
		if f.damaged {
			name = f.name + damagedSuffix
		}
		if err := j.o.files.Rename(f.name, name); err != nil {
			return err
		}
		s.files = s.files[1:]
		if f.damaged {
			if err := f.file.Close(); err != nil {
				return err
			}
		} else if err := j.addSpare(name, f.file, f.size); err != nil {
			return err
		}
	}
	return j.o.files.SyncDir()
}

// accept asks whether reading may go on behind a damaged place.
func (s *scan) accept(i int, err error) error {
	var damage *DamageError
	if !errors.As(err, &damage) || s.o.Damaged == nil {
		return err
	}
	if err := s.o.Damaged(damage); err != nil {
		return err
	}
	s.files[i].damaged = true
	for _, r := range s.streams {
		r.Damaged = true
	}
	return nil
}

func (s *scan) damage(i int, offset int64, format string, args ...any) error {
	return s.accept(i, &DamageError{File: s.files[i].name, Offset: offset, Reason: fmt.Sprintf(format, args...)})
}

// read goes through one file.
func (s *scan) read(i int) error {
	f := s.files[i]
	r, err := NewReader(f.file, f.size, f.name)
	if err != nil {
		s.end = nil
		return s.accept(i, err)
	}
	if err := s.follows(i, r.Header()); err != nil {
		return err
	}
	s.last = r.Header()
	streams := map[uint32]*Remains{}
	first := true
	for {
		record, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			if err := s.accept(i, err); err != nil {
				return err
			}
			r.Resync()
			s.batch = 0
			continue
		}
		if first && i > 0 {
			if err := s.continues(i, record); err != nil {
				return err
			}
		}
		first = false
		s.batch = record.Batch
		if record.End != nil {
			end := *record.End
			s.end = &end
		} else if err := s.add(i, streams, record); err != nil {
			return err
		}
	}
	if at, torn := r.Torn(); torn {
		s.o.Log.Warn("the last commit before a crash was torn, nobody was told that it was kept", "file", f.name, "offset", at)
	}
	if !r.Ended() {
		s.end = nil
	}
	if i == len(s.files)-1 && s.end != nil && *s.end != ([16]byte{}) && r.Ended() {
		return s.damage(i, f.size, "the file that follows, %s, is missing", idText(*s.end))
	}
	return nil
}

// follows checks a file's header against the file before it.
func (s *scan) follows(i int, h FileHeader) error {
	f := s.files[i]
	if h.Node != s.o.Node {
		return fmt.Errorf("%s is of node %q, not of %q", f.name, h.Node, s.o.Node)
	}
	if h.Number != f.number {
		return s.damage(i, 0, "it calls itself file %x", h.Number)
	}
	if i == 0 || s.last.ID == ([16]byte{}) {
		return nil
	}
	if before := s.files[i-1]; before.number+1 != f.number || h.Previous != s.last.ID {
		return s.damage(i, 0, "it does not follow %s: a file is missing or was exchanged", before.name)
	}
	if s.end != nil && *s.end != ([16]byte{}) && *s.end != h.ID {
		return s.damage(i, 0, "the file before it names another file as the next one")
	}
	return nil
}

// continues checks that the file before this one, which has frames, is whole.
func (s *scan) continues(i int, first *Record) error {
	if s.end == nil || *s.end == ([16]byte{}) {
		if s.files[i-1].damaged {
			return nil
		}
		return s.damage(i-1, s.files[i-1].size, "its end is missing, but %s was written after it", s.files[i].name)
	}
	if s.batch > 0 && first.Batch != s.batch+1 {
		return s.damage(i, first.Offset, "it begins with batch %d where batch %d was expected", first.Batch, s.batch+1)
	}
	return nil
}

// add notes one record. Streams maps the numbers of this file's openings.
func (s *scan) add(i int, streams map[uint32]*Remains, record *Record) error {
	if o := record.Opening; o != nil {
		return s.open(i, streams, record)
	}
	r := streams[record.Stream]
	if record.Release > 0 {
		// It may have been opened in a file before this one, or the file is gone.
		if r = s.number[record.Stream]; r != nil {
			r.release(record.Release)
		}
		return nil
	}
	if r == nil {
		return s.damage(i, record.Offset, "a frame of a stream that was not opened")
	}
	if record.Data.Position != r.Last+1 {
		if err := s.damage(i, record.Offset, "frame %d of stream %s where frame %d was expected", record.Data.Position, r.Name, r.Last+1); err != nil {
			return err
		}
		if record.Data.Position <= r.Last {
			return nil
		}
	}
	r.Last = record.Data.Position
	length := len(record.Data.Raw)
	if n := len(r.places); n > 0 && r.places[n-1].file == i && r.places[n-1].offset+int64(r.places[n-1].length) == record.Offset && r.places[n-1].length < 1<<20 {
		r.places[n-1].length += length
		r.places[n-1].last = r.Last
	} else {
		r.places = append(r.places, place{file: i, offset: record.Offset, length: length, last: r.Last, chain: r.Chain})
	}
	r.Chain = link(record.Data.Raw)
	return nil
}

// open notes a stream, or that it goes on in this file.
func (s *scan) open(i int, streams map[uint32]*Remains, record *Record) error {
	o := record.Opening
	r := s.byID[o.ID]
	if r == nil {
		r = &Remains{Opening: *o, Last: o.First - 1, files: s.files}
		r.Damaged = slices.ContainsFunc(s.files, func(f *oldFile) bool { return f.damaged })
		s.byID[o.ID] = r
		s.streams = append(s.streams, r)
	} else if r.Last+1 != o.First || r.Chain != o.Chain {
		if err := s.damage(i, record.Offset, "stream %s goes on with frame %d where frame %d was expected", o.Name, o.First, r.Last+1); err != nil {
			return err
		}
		r.Last, r.Chain = max(r.Last, o.First-1), o.Chain
	}
	streams[record.Stream], s.number[record.Stream] = r, r
	return nil
}

// release forgets the places that rest elsewhere.
func (r *Remains) release(p Position) {
	r.Released = max(r.Released, p)
	n := 0
	for n < len(r.places) && r.places[n].last <= r.Released {
		n++
	}
	r.places = slices.Delete(r.places, 0, n)
}

// trim makes First and Chain those of the first frame that remains.
func (r *Remains) trim() error {
	first := r.places[0]
	r.Chain = first.chain
	raw := make([]byte, first.length)
	if n, err := r.files[first.file].file.ReadAt(raw, first.offset); n < len(raw) {
		return fmt.Errorf("%s: %w", r.files[first.file].name, err)
	}
	for rest := raw; len(rest) > 0; {
		f, more, err := ParseSealed(rest)
		if err != nil {
			return err
		}
		if f.Position > r.Released {
			r.First = f.Position
			break
		}
		r.Chain, rest = link(f.Raw), more
	}
	return nil
}
