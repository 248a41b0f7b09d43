package trec

import (
	"bytes"
	"crypto/ed25519"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/cryptotest"
	"time"

	"filippo.io/age"
	"golang.org/x/mod/sumdb/tlog"
)

// The vectors under testdata are made by this file: with the random source of
// the process fixed (testing/cryptotest), every byte of them is the same in each
// run, so that a change of the format shows as a failure here. "go test -update"
// writes them anew. The zstd encoder's choices are part of the bytes, so an
// upgrade of it may ask for that, too; a reader need not care.
var update = flag.Bool("update", false, "write the test vectors anew")

const vectorSeed = 20260701

// compareFile holds data to a file of testdata.
func compareFile(t *testing.T, name string, data []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		must(t, os.WriteFile(path, data, 0o644))
	}
	want, err := os.ReadFile(path)
	must(t, err)
	if !bytes.Equal(want, data) {
		t.Errorf("%s is not what this code writes", path)
	}
}

// vectors makes the sound files: a recording with its end, another session
// of the same auditors, and one that was closed after a crash.
func vectors(t *testing.T) (e epoch, golden, other, crash []byte) {
	t.Helper()
	cryptotest.SetGlobalRandom(t, vectorSeed)
	e = hybridEpoch(t)
	file, journal := crashed(t, e)
	return e, smallFile(t, e), smallFile(t, e), recoverFile(t, file, journal)
}

type vectorEntry struct {
	Position Position  `json:"position"`
	Kind     string    `json:"kind"`
	Time     time.Time `json:"time"`
	Strict   bool      `json:"strict,omitempty"`
	Data     []byte    `json:"data"` // base64
}

func jsonLines(t testing.TB, entries []Entry) []byte {
	t.Helper()
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	for _, e := range entries {
		must(t, encoder.Encode(vectorEntry{e.Position, string(rune(e.Kind)), e.Time, e.Strict, e.Data}))
	}
	return out.Bytes()
}

func TestGoldenVectors(t *testing.T) {
	e, golden, _, crash := vectors(t)
	keys := fmt.Sprintf("# Made for these vectors and worthless otherwise.\nnode-public: %x\nidentity: %s\nstrict-identity: %s\n",
		public(testSigner(1)), e.main, e.strict)
	compareFile(t, "keys.txt", []byte(keys))
	compareFile(t, "golden.trec", golden)
	compareFile(t, "golden.jsonl", jsonLines(t, playAll(t, golden, e.keys())))
	compareFile(t, "crashed.trec", crash)
	k := e.keys()
	k.Journal = toyJournal{}
	compareFile(t, "crashed.jsonl", jsonLines(t, playAll(t, crash, k)))
	var leaves strings.Builder
	report, err := Verify(bytes.NewReader(golden), public(testSigner(1)), func(l Leaf) error {
		fmt.Fprintf(&leaves, "%x\n", l.Hash[:])
		return nil
	})
	must(t, err)
	compareFile(t, "golden.leaves", []byte(leaves.String()))
	text, err := json.MarshalIndent(report, "", "  ")
	must(t, err)
	compareFile(t, "golden.report.json", append(text, '\n'))
}

// testKeys reads testdata/keys.txt, as another implementation would.
func testKeys(t testing.TB) Keys {
	t.Helper()
	text, err := os.ReadFile("testdata/keys.txt")
	must(t, err)
	var k Keys
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
		switch name {
		case "node-public":
			k.Node, err = hex.DecodeString(value)
		case "identity":
			k.Main, err = age.ParseIdentities(strings.NewReader(value))
		case "strict-identity":
			k.Strict, err = age.ParseIdentities(strings.NewReader(value))
		}
		must(t, err)
	}
	return k
}

// fileParts are the places in a file at which the damage is done.
type fileParts struct {
	data     []byte
	segments []Leaf
	end      int // of the last segment
}

func partsOf(t testing.TB, data []byte) fileParts {
	t.Helper()
	p := fileParts{data: data}
	_, err := Verify(bytes.NewReader(data), public(testSigner(1)), func(l Leaf) error {
		if l.Type != 0 {
			p.segments = append(p.segments, l)
			p.end = int(l.Offset + l.Size())
		}
		return nil
	})
	must(t, err)
	return p
}

// segment is the bytes of one segment.
func (p fileParts) segment(n int) []byte {
	return p.data[p.segments[n].Offset : p.segments[n].Offset+p.segments[n].Size()]
}

// join makes a file of parts, fixing the checksums as somebody would who knows
// the format but not the node's key.
func join(t testing.TB, prelude []byte, trailer []byte, segments ...[]byte) []byte {
	t.Helper()
	out := bytes.Clone(prelude)
	previous := tlog.RecordHash(prelude)
	for n, s := range segments {
		s = bytes.Clone(s)
		binary.BigEndian.PutUint32(s[4:], uint32(n))
		binary.BigEndian.PutUint32(s[aadSize:], crc32.Checksum(s[segmentSize:], castagnoli))
		binary.BigEndian.PutUint32(s[segmentSize-4:], headerSum(previous, s))
		previous = tlog.RecordHash(s)
		out = append(out, s...)
	}
	return append(out, trailer...)
}

type damagedVector struct {
	File string `json:"file"`
	What string `json:"what"`
	// Verify is what Verify finds with the node's public key.
	Verify struct {
		Intact   bool      `json:"intact"`
		Complete bool      `json:"complete"`
		Findings []Finding `json:"findings"`
	} `json:"verify"`
	// Read is what an auditor with every key gets.
	Read struct {
		Frames int    `json:"frames"`
		Ending Ending `json:"ending,omitempty"`
		Error  string `json:"error,omitempty"`
	} `json:"read"`
}

// damaged makes each kind of damage from the golden file.
func damaged(t *testing.T) map[string][]byte {
	t.Helper()
	e, golden, other, _ := vectors(t)
	p, q := partsOf(t, golden), partsOf(t, other)
	prelude, trailer := golden[:p.segments[0].Offset], golden[p.end:]
	flip := func(at int) []byte {
		out := bytes.Clone(golden)
		out[at] ^= 0x10
		return out
	}
	set := func(at int, b ...byte) []byte {
		out := bytes.Clone(golden)
		copy(out[at:], b)
		return out
	}
	s := func(n int) []byte { return p.segment(n) }
	footer := len(golden) - footerSize
	pa, _, err := readPrelude(bytes.NewReader(golden))
	must(t, err)
	pb, _, err := readPrelude(bytes.NewReader(other))
	must(t, err)
	return map[string][]byte{
		"flipped-header":      flip(60),
		"flipped-envelope":    flip(int(p.segments[0].Offset) - 100),
		"flipped-segment":     flip(int(p.segments[2].Offset) + segmentSize + 20),
		"flipped-length":      flip(int(p.segments[2].Offset) + 25),
		"flipped-index":       flip(footer - ed25519.SignatureSize - 10),
		"flipped-signature":   flip(footer - 10),
		"flipped-footer":      flip(footer + 3),
		"cut-in-segment":      golden[:p.segments[3].Offset+50],
		"cut-in-group":        golden[:p.segments[2].Offset],
		"cut-at-segment":      golden[:p.segments[3].Offset],
		"cut-in-trailer":      golden[:footer-100],
		"cut-in-footer":       golden[:footer+20],
		"zeros-at-end":        append(bytes.Clone(golden[:p.segments[3].Offset]), make([]byte, 300)...),
		"appended":            append(bytes.Clone(golden), "more"...),
		"dropped":             join(t, prelude, trailer, s(0), s(3), s(4), s(5)),
		"dropped-rewritten":   join(t, prelude, trailer, s(0), s(1), s(2), s(4), s(5)),
		"reordered":           append(append(append(append(bytes.Clone(golden[:p.segments[1].Offset]), s(3)...), s(1)...), s(2)...), golden[p.segments[4].Offset:]...),
		"spliced":             append(append(bytes.Clone(golden[:p.segments[3].Offset]), q.segment(3)...), golden[p.segments[4].Offset:]...),
		"spliced-rewritten":   join(t, prelude, trailer, s(0), s(1), s(2), q.segment(3), s(4), s(5)),
		"other-envelope":      bytes.Replace(golden, pa.envelope, pb.envelope, 1),
		"huge-length":         set(int(p.segments[1].Offset)+23, 0xff, 0xff, 0xff),
		"huge-raw":            set(int(p.segments[1].Offset)+20, 0xff, 0xff, 0xff),
		"huge-header":         set(len(Magic), 0xff, 0xff, 0xff, 0xff),
		"huge-index":          set(p.end+8, 0xff, 0xff, 0xff, 0xff),
		"from-the-future":     set(len(Magic)-1, 2),
		"not-a-recording":     []byte("{\"version\": 3, \"term\": {\"cols\": 80, \"rows\": 24}}\n"),
		"empty":               {},
		"other-node":          signedByOther(t, e),
		"other-node-pretends": resigned(t, golden, p.end),
		"bomb":                bomb(t, e),
	}
}

// signedByOther is a sound file of another node.
func signedByOther(t *testing.T, e epoch) []byte {
	t.Helper()
	var out bytes.Buffer
	o := testOptions(t, e)
	o.Signer = testSigner(2)
	w := newWriter(t, &out, o)
	smallSession(t, w)
	value[Summary](t)(w.Close(at(14), "exit"))
	return out.Bytes()
}

// resigned is the golden file with a signature of another key in its trailer.
func resigned(t *testing.T, golden []byte, end int) []byte {
	t.Helper()
	tr := value[*trailer](t)(readTrailer(bytes.NewReader(golden[end+4:]), int64(end), 0))
	out := value[[]byte](t)(encodeTrailer(&tr.facts, tr.index, int(tr.indexRaw), testSigner(2)))
	return append(bytes.Clone(golden[:end]), out...)
}

// bomb is a file whose third segment was sealed with the right key, and
// expands to 64 MiB where it declares 50,000 bytes.
func bomb(t *testing.T, e epoch) []byte {
	t.Helper()
	var out bytes.Buffer
	w := newWriter(t, &out, testOptions(t, e))
	add(t, w, Frame{KindOutput, at(0), []byte("before the bomb")})
	value[[]Leaf](t)(w.Seal(EffortBest))
	packed := w.o.Codecs.fast.EncodeAll(make([]byte, 64<<20), nil)
	raw, _, err := w.sealPacked(nil, Segment{Type: TypeFrames, Class: ClassMain, Codec: CodecZstd, First: 2, Span: 1, Count: 1, Raw: 50_000, Time: at(1)}, packed)
	must(t, err)
	must(t, w.write(raw))
	w.last = 2
	value[Summary](t)(w.Close(at(14), "exit"))
	return out.Bytes()
}

// TestPromise4_DamagedVectors holds what is found in each damaged file to
// testdata/damaged.json.
func TestPromise4_DamagedVectors(t *testing.T) {
	files := damaged(t)
	listed, err := os.ReadFile("testdata/damaged.json")
	must(t, err)
	var vectors []damagedVector
	must(t, json.Unmarshal(listed, &vectors))
	if len(vectors) != len(files) {
		t.Errorf("%d damaged files are listed, %d are made", len(vectors), len(files))
	}
	keys := testKeys(t)
	for i := range vectors {
		v := &vectors[i]
		name := strings.TrimSuffix(v.File, ".trec")
		data, ok := files[name]
		if !ok {
			t.Errorf("nobody makes %s", v.File)
			continue
		}
		compareFile(t, filepath.Join("damaged", v.File), data)
		found := *v
		report := value[Report](t)(Verify(bytes.NewReader(data), keys.Node, nil))
		found.Verify.Intact, found.Verify.Complete, found.Verify.Findings = report.Intact, report.Complete, report.Findings
		found.Read.Frames, found.Read.Ending, found.Read.Error = readDamaged(data, keys)
		if *update {
			*v = found
		}
		want, _ := json.Marshal(v)
		if got, _ := json.Marshal(found); !bytes.Equal(got, want) {
			t.Errorf("%s: found\n%s, want\n%s", v.File, got, want)
		}
		// Only the bomb is a sound file, of a node that means ill.
		if report.Complete != (name == "bomb") {
			t.Errorf("%s is called complete: %v", v.File, report.Complete)
		}
	}
	if *update {
		text, err := json.MarshalIndent(vectors, "", "  ")
		must(t, err)
		must(t, os.WriteFile("testdata/damaged.json", append(text, '\n'), 0o644))
	}
}

func readDamaged(data []byte, keys Keys) (frames int, ending Ending, message string) {
	r, err := NewReader(bytes.NewReader(data), keys)
	if err != nil {
		return 0, "", err.Error()
	}
	entries, err := play(r)
	if err != nil {
		return len(entries), "", err.Error()
	}
	return len(entries), r.Ending(), ""
}

// FuzzTrecReader reads hostile files in every way that there is: no panic, no
// endless loop, no frame that is larger than allowed or out of order.
func FuzzTrecReader(f *testing.F) {
	keys := testKeys(f)
	keys.Node = nil // so that the parts behind a signature are reached
	keys.Journal = toyJournal{}
	for _, pattern := range []string{"testdata/*.trec", "testdata/damaged/*.trec"} {
		paths, err := filepath.Glob(pattern)
		must(f, err)
		for _, path := range paths {
			f.Add(value[[]byte](f)(os.ReadFile(path)))
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		report, err := Verify(bytes.NewReader(data), public(testSigner(1)), nil)
		if err != nil || (len(report.Findings) == 0) != report.Complete {
			t.Fatalf("%v: %s", err, report.Text())
		}
		var format *FormatError
		if _, err := Resume(bytes.NewReader(data), int64(len(data))); err != nil && !errors.Is(err, ErrComplete) && !errors.As(err, &format) {
			t.Fatalf("resume: %v", err)
		}
		if r, err := NewReader(bytes.NewReader(data), keys); err == nil {
			checkEntries(t, r, 0)
		}
		file, err := OpenAt(bytes.NewReader(data), int64(len(data)), keys)
		if err != nil {
			return
		}
		if r, s, err := file.Seek(at(12)); err == nil {
			checkEntries(t, r, s.Position)
		}
	})
}

// checkEntries reads on and looks at what every frame promises.
func checkEntries(t *testing.T, r *Reader, from Position) {
	t.Helper()
	entries, err := play(r)
	var format *FormatError
	if err != nil && !errors.As(err, &format) {
		t.Fatalf("read: %v", err)
	}
	last := Entry{Kind: KindKeyframe}
	for _, e := range entries {
		ordered := e.Position > last.Position || (e.Position == last.Position && last.Kind == KindKeyframe)
		if len(e.Data) > MaxFrame || e.Position < from || !ordered {
			t.Fatalf("frame %d of kind %c with %d bytes after %d", e.Position, e.Kind, len(e.Data), last.Position)
		}
		last = e
	}
}

// FuzzSegment decodes hostile segments as if the attacker held the keys: the
// header, the compressed bytes, the frames, the index.
func FuzzSegment(f *testing.F) {
	c := testCodecs(f)
	h := half{position: 1}
	for i := range 20 {
		h.add(Position(1+i), KindOutput, int64(i)*1000, []byte("some output\r\n"))
	}
	plain := h.encode(nil)
	for _, e := range []Effort{EffortBest, EffortBulk, EffortNone} {
		packed, codec := c.compress(nil, plain, e)
		s := Segment{Number: 1, Type: TypeFrames, Class: ClassMain, Codec: codec, First: 1, Span: 20, Count: 20, Raw: uint32(len(plain)), Length: uint32(len(packed) + tagSize)}
		f.Add(append(s.encode(nil), packed...))
	}
	f.Add(append((&Segment{Type: TypeFrames, Class: ClassMain, Codec: CodecZstd, First: 1, Span: 1, Count: 1, Raw: maxPlain, Length: 1000}).encode(nil), c.fast.EncodeAll(make([]byte, 8<<20), nil)...))
	x := index{points: []point{{number: 1, offset: 5, first: 1, begin: 7, last: 9, out: 3}}, keyframes: []keyframe{{number: 1, position: 3, micros: 8}}}
	f.Add(append(make([]byte, aadSize), x.encode()...))
	decoder, err := newZstd()
	must(f, err)
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) < segmentSize {
			return
		}
		if x, err := decodeIndex(data[aadSize:], 1000, 1<<40); err == nil {
			if again := value[*index](t)(decodeIndex(x.encode(), 1000, 1<<40)); len(again.points) != len(x.points) || len(again.keyframes) != len(x.keyframes) {
				t.Fatal("an index does not come back")
			}
			x.before(testStart)
		}
		s, err := decodeSegment(data)
		if err != nil {
			return
		}
		if s.Raw > maxPlain || s.Length > maxPayload || s.Span == 0 && s.Type != TypeMeta {
			t.Fatalf("accepted %+v", s)
		}
		_, _ = decodeMoved(&s, data[aadSize:])
		plain, err := decompress(decoder, nil, data[aadSize:], s.Codec, s.Raw)
		if err != nil {
			return
		}
		if len(plain) != int(s.Raw) {
			t.Fatalf("%d bytes where %d were declared", len(plain), s.Raw)
		}
		d, err := newDecoder(&s, plain)
		for ok := true; ok && err == nil; {
			var e Entry
			if e, ok, err = d.next(); ok && err == nil && (e.Position < s.First || e.Position > s.First+Position(s.Span)) {
				t.Fatalf("frame %d outside of %+v", e.Position, s)
			}
		}
	})
}
