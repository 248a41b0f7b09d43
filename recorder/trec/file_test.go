package trec

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"testing"
	"time"
)

// TestSeekGivesWhatPlayingGives seeks to many times and compares with a
// reading from the start.
func TestSeekGivesWhatPlayingGives(t *testing.T) {
	e := testEpoch(t)
	var out bytes.Buffer
	record(t, &out, e, 2*time.Hour, 7)
	all := playAll(t, out.Bytes(), e.keys())
	unfinished := bytes.Clone(out.Bytes()[:out.Len()-footerSize-40])
	for name, data := range map[string][]byte{"with its end": out.Bytes(), "cut": unfinished} {
		f := value[*File](t)(OpenAt(bytes.NewReader(data), int64(len(data)), e.keys()))
		if (f.Facts() == nil) != (name == "cut") || string(f.Meta()) != `{"user":"alice"}` {
			t.Fatalf("%s: facts %+v", name, f.Facts())
		}
		seen := map[Position]bool{}
		for minute := -1.0; minute < 125; minute += 4.3 {
			when := at(minute * 60)
			r, snapshot, err := f.Seek(when)
			must(t, err)
			if snapshot.Time.After(when) {
				t.Fatalf("%s: the snapshot of %v is from %v", name, when, snapshot.Time)
			}
			seen[snapshot.Position] = true
			want := following(all, snapshot.Position, when)
			for i := range 400 {
				got, err := r.Next()
				if errors.Is(err, io.EOF) && i == len(want) {
					break
				}
				must(t, err)
				if i >= len(want) || got.Position != want[i].Position || !bytes.Equal(got.Data, want[i].Data) || !got.Time.Equal(want[i].Time) || got.Strict != want[i].Strict {
					t.Fatalf("%s: frame %d after the snapshot at %v is %d", name, i, when, got.Position)
				}
			}
		}
		if len(seen) < 8 {
			t.Fatalf("%s: all seeks begin at the same few places: %v", name, seen)
		}
	}
}

// following is what comes after the keyframe at p, and checks that no later
// keyframe would have served.
func following(all []Entry, p Position, when time.Time) []Entry {
	for i, e := range all {
		if e.Position == p && e.Kind == KindKeyframe {
			for _, l := range all[i+1:] {
				if l.Time.After(when) {
					break
				}
				if l.Kind == KindKeyframe {
					panic(fmt.Sprintf("keyframe %d was passed over", l.Position))
				}
			}
			return all[i+1:]
		}
	}
	return all
}

func TestSeekBesideAStrictFrame(t *testing.T) {
	e := testEpoch(t)
	data := smallFile(t, e)
	f := value[*File](t)(OpenAt(bytes.NewReader(data), int64(len(data)), e.keys()))
	for _, c := range []struct {
		seconds  float64
		position Position
		next     Position
		data     string
	}{{0.5, 1, 1, ""}, {2.4, 1, 1, ""}, {2.5, 11, 11, "screen one"}, {11.9, 11, 11, "screen one"}, {12, 13, 13, "screen two"}, {999, 13, 13, "screen two"}} {
		r, s, err := f.Seek(at(c.seconds))
		must(t, err)
		next := value[Entry](t)(r.Next())
		if s.Position != c.position || string(s.Data) != c.data || next.Position != c.next || next.Kind == KindKeyframe {
			t.Errorf("%v s: snapshot %d %q, then %d %c", c.seconds, s.Position, s.Data, next.Position, next.Kind)
		}
	}
	k := e.keys()
	k.Strict = nil
	f = value[*File](t)(OpenAt(bytes.NewReader(data), int64(len(data)), k))
	r, _, err := f.Seek(at(12))
	must(t, err)
	if next := value[Entry](t)(r.Next()); next.Position != 14 {
		t.Errorf("without the strict key frame %d follows", next.Position)
	}
	first, last, ok := f.Span()
	if !ok || !first.Equal(at(0)) || !last.Equal(at(13.1)) {
		t.Errorf("span %v to %v", first, last)
	}
}

func TestOpenAtRefusesAnotherNodesEnd(t *testing.T) {
	e := testEpoch(t)
	data := smallFile(t, e)
	k := e.keys()
	k.Node = public(testSigner(2))
	if _, err := OpenAt(bytes.NewReader(data), int64(len(data)), k); err == nil {
		t.Fatal("a file of another node was opened")
	}
	r := value[*Reader](t)(NewReader(bytes.NewReader(data), k))
	if _, err := play(r); err == nil {
		t.Fatal("a file of another node was read to its end")
	}
}

func TestTheIndexStaysBounded(t *testing.T) {
	var x index
	for i := range 50_000 {
		n := uint32(i + 1)
		x.addPoint(point{number: n, offset: int64(n) * 1000, first: Position(n) * 10, begin: int64(i) * 1e6, last: int64(i)*1e6 + 9e5, out: int64(i) * 50})
		if i%3 == 0 {
			x.addKeyframe(keyframe{number: n, position: Position(n)*10 + 1, micros: int64(i) * 1e6})
		}
	}
	if len(x.points) > maxEntries || len(x.keyframes) > maxEntries || len(x.points) < maxEntries/2 {
		t.Fatalf("%d points, %d keyframes", len(x.points), len(x.keyframes))
	}
	encoded := x.encode()
	got := value[*index](t)(decodeIndex(encoded, 50_001, 60_000_000))
	if !slices.Equal(got.points, x.points) || !slices.Equal(got.keyframes, x.keyframes) {
		t.Fatal("the index came back changed")
	}
	last := got.points[len(got.points)-1]
	if last.last != 49_999*1e6+9e5 {
		t.Fatalf("the last point ends at %d", last.last)
	}
	k, ok := got.before(time.UnixMicro(30_000 * 1e6))
	if p, found := got.start(k.number); !ok || !found || p.number >= k.number || k.micros > 30_000*1e6 || k.micros < 29_900*1e6 {
		t.Fatalf("keyframe %+v from %+v", k, p)
	}
	for n := 0; n < len(encoded); n += 97 {
		if _, err := decodeIndex(encoded[:n], 50_001, 60_000_000); err == nil {
			t.Fatalf("an index cut to %d bytes was taken", n)
		}
	}
	t.Logf("%d bytes", len(encoded))
}

// TestSeekWithATornClock has a clock that was set back by an hour.
func TestSeekWithATornClock(t *testing.T) {
	e := testEpoch(t)
	var out bytes.Buffer
	w := newWriter(t, &out, testOptions(t, e))
	for i := range 20 {
		shift := 0.0
		if i >= 10 {
			shift = -3600
		}
		must(t, w.Keyframe(at(float64(i)*60+shift), []byte{byte(i)}))
		add(t, w, Frame{KindOutput, at(float64(i)*60 + 1 + shift), []byte{byte(i)}})
		value[[]Leaf](t)(w.Seal(EffortBest))
	}
	value[Summary](t)(w.Close(at(9999), "exit"))
	f := value[*File](t)(OpenAt(bytes.NewReader(out.Bytes()), int64(out.Len()), e.keys()))
	for minute, want := range map[float64]byte{0: 0, 5: 5, 9: 9} {
		if _, s, err := f.Seek(at(minute * 60)); err != nil || s.Data[0] != want {
			t.Errorf("minute %v: %v, %v", minute, s.Data, err)
		}
	}
}

// TestMemoryOfALiveWriter holds many writers with their buffers full.
func TestMemoryOfALiveWriter(t *testing.T) {
	const writers, bound = 40, 600 << 10
	e := testEpoch(t)
	o := testOptions(t, e)
	heap := liveHeap()
	all := make([]*Writer, writers)
	for i := range all {
		all[i] = newWriter(t, io.Discard, o)
		for range maxEntries + 100 { // as after eleven hours
			add(t, all[i], Frame{KindOutput, testStart, []byte("x")})
			must(t, all[i].Keyframe(testStart, []byte("k")))
			add(t, all[i], Frame{KindOutput, testStart, []byte("x")})
			value[[]Leaf](t)(all[i].Seal(EffortNone))
		}
		for {
			kind := KindOutput
			if all[i].Last()%2 == 0 {
				kind = KindInput
			}
			if _, err := all[i].Add(Frame{kind, testStart, make([]byte, 700)}); err != nil {
				break
			}
		}
	}
	each := (liveHeap() - heap) / writers
	t.Logf("%d KiB a writer", each>>10)
	if each > bound {
		t.Errorf("a live writer holds %d KiB, more than %d", each>>10, bound>>10)
	}
	all[0].Wipe()
}
