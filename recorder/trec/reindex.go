package trec

import (
	"errors"
	"io"
)

// Indexed reports whether Seek has an index to go by.
func (f *File) Indexed() bool { return f.index != nil }

// Reindex makes an index by reading the whole file once, for one that was
// written without: after a crash, or while its session still runs. It stays in
// memory and has the bounds of a written one. Of a file that is faulty inside,
// the index reaches up to the fault, which is returned.
func (f *File) Reindex() error {
	r, err := f.Frames()
	if err != nil {
		return err
	}
	x, out := new(index), int64(0)
	for {
		p := point{number: r.scan.order.number, offset: r.scan.offset, first: r.scan.order.next, out: out}
		if err = r.group(); err != nil {
			break
		}
		if p.number == r.scan.order.number {
			continue // the trailer
		}
		p.begin = r.scan.leaf.Time.UnixMicro()
		p.last = p.begin
		if err = x.group(r, &p, &out); err != nil {
			break
		}
		x.addPoint(p)
	}
	f.index = x
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// group notes the frames of the group that was read.
func (x *index) group(r *Reader, p *point, out *int64) error {
	for begun := false; ; begun = true {
		e, ok, err := r.take()
		if err != nil {
			return r.scan.fail(false, "%v", err)
		}
		if !ok {
			return nil
		}
		micros := e.Time.UnixMicro()
		if !begun {
			p.begin, p.last = micros, micros
		}
		p.merge(point{begin: micros, last: micros})
		switch e.Kind {
		case KindKeyframe:
			x.addKeyframe(keyframe{number: p.number, position: e.Position, micros: micros})
		case KindOutput, KindStderr, KindGate:
			*out += int64(len(e.Data))
		}
	}
}
