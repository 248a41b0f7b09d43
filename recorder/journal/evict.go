package journal

import (
	"errors"
	"fmt"
	"io"
)

// Remains is what the journal holds of a stream that has ended: the frames that are
// durable and were not released, read back from its files. It is nil when there are
// none. What it returns is good until they are released; then their room is used again.
func (s *Stream) Remains() (*Remains, error) {
	s.mu.Lock()
	ended := s.closing || s.err != nil
	released, durable := s.released, s.Durable()
	from := &scan{o: &s.j.o, byID: map[[16]byte]*Remains{}, number: map[uint32]*Remains{}}
	for _, e := range s.extents {
		g := e.segment
		from.files = append(from.files, &oldFile{name: g.name, number: g.header.Number, file: g.file, size: g.size})
	}
	s.mu.Unlock()
	if !ended {
		return nil, fmt.Errorf("stream %s still takes frames", s.opening.Name)
	}
	if released >= durable {
		return nil, nil
	}
	for i := range from.files {
		if err := from.only(i, s.opening.ID, durable); err != nil {
			return nil, err
		}
	}
	r := from.byID[s.opening.ID]
	if r == nil || r.Last < durable {
		return nil, fmt.Errorf("stream %s is not in the files of the journal up to frame %d", s.opening.Name, durable)
	}
	r.release(released)
	return r, r.trim()
}

// only notes the frames of one stream in one file, up to a position. It reads no
// further, since the journal may be writing there.
func (s *scan) only(i int, id [16]byte, until Position) error {
	f := s.files[i]
	reader, err := NewReader(f.file, f.size, f.name)
	if err != nil {
		return err
	}
	streams := map[uint32]*Remains{}
	for {
		record, err := reader.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		switch {
		case record.Opening != nil && record.Opening.ID == id:
			err = s.open(i, streams, record)
		case record.Data != nil && streams[record.Stream] != nil:
			err = s.add(i, streams, record)
		}
		if err != nil {
			return err
		}
		if r := s.byID[id]; r != nil && r.Last >= until {
			return nil
		}
	}
}

// Last is the position of the last frame that was appended; 0: none was.
func (s *Stream) Last() Position {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.last
}
