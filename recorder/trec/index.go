package trec

import (
	"encoding/binary"
	"errors"
	"time"
)

// maxEntries bounds each of the two lists of an index, and so what it costs a
// live writer: some 150 KiB when both are full.
const maxEntries = 2048

const indexVersion = 1

// point is one entry of an index: where a group begins. When a recording has
// more groups than an index has entries, an entry stands for several.
type point struct {
	number      uint32 // of the group's first segment
	offset      int64  // in the file
	first       Position
	begin, last int64 // times of the first and last frame, µs since 1970
	out         int64 // bytes of output, standard error and gate before it
}

// keyframe is where a snapshot of the screen stands.
type keyframe struct {
	number   uint32 // of its segment
	position Position
	micros   int64
}

// index collects points and keyframes; when a list is full it drops every
// second entry and from then on takes every second, fourth … one.
type index struct {
	points    []point
	keyframes []keyframe

	pointStride, keyframeStride int // 0: 1
	pointsLeft, keyframesLeft   int // to pass over before the next is taken
}

func (x *index) addPoint(p point) {
	if x.pointsLeft > 0 {
		x.pointsLeft--
		x.points[len(x.points)-1].merge(p)
		return
	}
	if len(x.points) == maxEntries {
		half := x.points[:0]
		for i := 0; i < len(x.points); i += 2 {
			q := x.points[i]
			q.merge(x.points[i+1])
			half = append(half, q)
		}
		x.points, x.pointStride = half, 2*max(1, x.pointStride)
	}
	x.points = append(x.points, p)
	x.pointsLeft = max(1, x.pointStride) - 1
}

// merge lets p stand for q, too.
func (p *point) merge(q point) {
	p.begin, p.last = min(p.begin, q.begin), max(p.last, q.last)
}

func (x *index) addKeyframe(k keyframe) {
	if x.keyframesLeft > 0 {
		x.keyframesLeft--
		return
	}
	if len(x.keyframes) == maxEntries {
		half := x.keyframes[:0]
		for i := 0; i < len(x.keyframes); i += 2 {
			half = append(half, x.keyframes[i])
		}
		x.keyframes, x.keyframeStride = half, 2*max(1, x.keyframeStride)
	}
	x.keyframes = append(x.keyframes, k)
	x.keyframesLeft = max(1, x.keyframeStride) - 1
}

func (x *index) encode() []byte {
	out := []byte{indexVersion}
	out = binary.AppendUvarint(out, uint64(len(x.points)))
	var p point
	for _, q := range x.points {
		out = binary.AppendUvarint(out, uint64(q.number-p.number))
		out = binary.AppendUvarint(out, uint64(q.offset-p.offset))
		out = binary.AppendUvarint(out, uint64(q.first-p.first))
		out = binary.AppendVarint(out, q.begin-p.last)
		out = binary.AppendUvarint(out, uint64(q.last-q.begin))
		out = binary.AppendUvarint(out, uint64(q.out-p.out))
		p = q
	}
	out = binary.AppendUvarint(out, uint64(len(x.keyframes)))
	var k keyframe
	for _, l := range x.keyframes {
		out = binary.AppendUvarint(out, uint64(l.number-k.number))
		out = binary.AppendUvarint(out, uint64(l.position-k.position))
		out = binary.AppendVarint(out, l.micros-k.micros)
		k = l
	}
	return out
}

var errIndex = errors.New("the index is malformed")

// varints reads one number after another; after a fault it gives zeros.
type varints struct {
	rest []byte
	bad  bool
}

func (v *varints) unsigned(limit uint64) uint64 {
	u, n := binary.Uvarint(v.rest)
	if n <= 0 || u > limit {
		v.bad = true
		return 0
	}
	v.rest = v.rest[n:]
	return u
}

func (v *varints) signed() int64 {
	i, n := binary.Varint(v.rest)
	if n <= 0 {
		v.bad = true
		return 0
	}
	v.rest = v.rest[n:]
	return i
}

// column passes over count numbers and returns their bytes.
func (v *varints) column(count uint64) []byte {
	start := v.rest
	for range count {
		n := 0
		for n < len(v.rest) && n < binary.MaxVarintLen64 && v.rest[n] >= 0x80 {
			n++
		}
		if n == len(v.rest) || n == binary.MaxVarintLen64 || (n == binary.MaxVarintLen64-1 && v.rest[n] > 1) {
			v.bad = true
			return nil
		}
		v.rest = v.rest[n+1:]
	}
	return start[:len(start)-len(v.rest)]
}

// decodeIndex reads an index of a file of so many segments before trailer.
func decodeIndex(plain []byte, segments uint32, trailer int64) (*index, error) {
	if len(plain) == 0 || plain[0] != indexVersion {
		return nil, errIndex
	}
	v := varints{rest: plain[1:]}
	x := new(index)
	x.points = make([]point, 0, v.unsigned(maxEntries))
	var p point
	for range cap(x.points) {
		q := point{
			number: p.number + uint32(v.unsigned(uint64(segments-p.number))),
			offset: p.offset + int64(v.unsigned(uint64(trailer-p.offset))),
			first:  p.first + Position(v.unsigned(uint64(maxPosition-p.first))),
		}
		q.begin = p.last + v.signed()
		q.last = q.begin + int64(v.unsigned(1<<62))
		q.out = p.out + int64(v.unsigned(uint64(1<<62-p.out)))
		if v.bad || q.number <= p.number || q.number >= segments || q.offset <= p.offset || q.first <= p.first || q.last < q.begin {
			return nil, errIndex
		}
		x.points = append(x.points, q)
		p = q
	}
	x.keyframes = make([]keyframe, 0, v.unsigned(maxEntries))
	var k keyframe
	for range cap(x.keyframes) {
		l := keyframe{
			number:   k.number + uint32(v.unsigned(uint64(segments-k.number))),
			position: k.position + Position(v.unsigned(uint64(maxPosition-k.position))),
		}
		l.micros = k.micros + v.signed()
		if v.bad || l.number == 0 || l.number >= segments || l.position == 0 {
			return nil, errIndex
		}
		x.keyframes = append(x.keyframes, l)
		k = l
	}
	if v.bad || len(v.rest) != 0 {
		return nil, errIndex
	}
	return x, nil
}

// before returns the last keyframe that shows the screen at t or earlier, in
// the order of frames up to the first one that is later than t. Clocks may be
// set back, so times are not taken to rise.
func (x *index) before(t time.Time) (keyframe, bool) {
	limit := t.UnixMicro()
	end := ^uint32(0)
	for i, p := range x.points {
		if p.last > limit {
			if i+1 < len(x.points) {
				end = x.points[i+1].number
			}
			break
		}
	}
	for i := len(x.keyframes) - 1; i >= 0; i-- {
		if k := x.keyframes[i]; k.number < end && k.micros <= limit {
			return k, true
		}
	}
	return keyframe{}, false
}

// start returns the last point that lies before a segment, from where the
// hash that this segment is bound to can be computed.
func (x *index) start(number uint32) (point, bool) {
	for i := len(x.points) - 1; i >= 0; i-- {
		if x.points[i].number < number {
			return x.points[i], true
		}
	}
	return point{}, false
}
