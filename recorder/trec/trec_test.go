package trec

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
	"golang.org/x/mod/sumdb/tlog"
)

func TestRoundTrip(t *testing.T) {
	e := testEpoch(t)
	data := smallFile(t, e)
	r := value[*Reader](t)(NewReader(bytes.NewReader(data), e.keys()))
	if string(r.Meta()) != `{"user":"alice"}` || r.Header().Session != "S-01TEST" {
		t.Fatalf("header %+v, description %s", r.Header(), r.Meta())
	}
	entries := value[[]Entry](t)(play(r))
	var text []string
	for _, x := range entries {
		text = append(text, fmt.Sprintf("%d%c%s", x.Position, x.Kind, map[bool]string{true: "!"}[x.Strict]))
	}
	want := "1n 2r 3o 4i! 5o 6i! 7o 8i! 9o 10C 11K 11o 12F 13K 13i! 14o 15x"
	if got := strings.Join(text, " "); got != want {
		t.Fatalf("frames\n%s, want\n%s", got, want)
	}
	if !entries[3].Time.Equal(at(1)) || string(entries[3].Data) != "l" {
		t.Fatalf("frame %+v", entries[3])
	}
	if r.Ending() != EndingComplete || r.Facts().Frames != 15 || r.Facts().BytesIn != 4 || r.Sealed() != 0 {
		t.Fatalf("%s %+v, %d sealed", r.Ending(), r.Facts(), r.Sealed())
	}
	if n, rule, err := DecodeFiltered(entries[12].Data); n != 7 || rule != "osc-52" || err != nil {
		t.Fatal(n, rule, err)
	}
	report := verify(t, data)
	if !report.Intact || !report.Complete || report.Frames != 15 || report.Bytes != int64(len(data)) {
		t.Fatal(report.Text())
	}
}

func TestPromise5_TypedKeysNeedTheStricterKey(t *testing.T) {
	e := testEpoch(t)
	data := smallFile(t, e)
	k := e.keys()
	k.Strict = nil
	r := value[*Reader](t)(NewReader(bytes.NewReader(data), k))
	for _, x := range value[[]Entry](t)(play(r)) {
		if x.Kind == KindInput {
			t.Fatalf("typed key %q without its key", x.Data)
		}
	}
	if r.Sealed() != 4 || r.CanReadStrict() {
		t.Fatalf("%d sealed", r.Sealed())
	}
	if _, err := NewReader(bytes.NewReader(data), Keys{Main: k.Strict}); !errors.Is(err, ErrSealed) {
		t.Fatalf("no key: %v", err)
	}
	if _, err := NewReader(bytes.NewReader(data), Keys{Main: []age.Identity{e.strict}}); !errors.Is(err, ErrSealed) {
		t.Fatalf("the strict key opened what is main: %v", err)
	}
	for _, secret := range []string{"alice", "results.csv", "logout", "screen one"} {
		if bytes.Contains(data, []byte(secret)) {
			t.Errorf("%q stands in the file in the clear", secret)
		}
	}
}

// TestPromise4_EveryFlippedBitIsFound flips each bit of a small file.
func TestPromise4_EveryFlippedBitIsFound(t *testing.T) {
	e := testEpoch(t)
	data := smallFile(t, e)
	broken := 0
	for bit := range len(data) * 8 {
		data[bit/8] ^= 1 << (bit % 8)
		report := verify(t, data)
		if report.Complete || len(report.Findings) == 0 {
			t.Fatalf("bit %d of byte %d of %d: not found", bit%8, bit/8, len(data))
		}
		if !report.Intact {
			broken++
		}
		data[bit/8] ^= 1 << (bit % 8)
	}
	// The others are lengths of the header and trailer that now reach beyond
	// the end: cut, as far as anybody can tell.
	if share := float64(broken) / float64(len(data)*8); share < 0.99 {
		t.Errorf("only %.3f of the flips are called broken", share)
	}
	t.Logf("%d bits, %d called broken, the others cut", len(data)*8, broken)
}

func TestEveryCutIsFoundAndReadUpToIt(t *testing.T) {
	e := testEpoch(t)
	data := smallFile(t, e)
	all := playAll(t, data, e.keys())
	last := -1
	for n := range len(data) {
		report := verify(t, data[:n])
		if report.Complete || len(report.Findings) == 0 {
			t.Fatalf("cut to %d bytes: not found", n)
		}
		r, err := NewReader(bytes.NewReader(data[:n]), e.keys())
		var format *FormatError
		if err != nil {
			if !errors.As(err, &format) || !format.Cut || last >= 0 {
				t.Fatalf("cut to %d bytes: %v", n, err)
			}
			continue
		}
		entries, err := play(r)
		if err != nil || r.Ending() != EndingOpen || len(entries) < last {
			t.Fatalf("cut to %d bytes: %d frames, %s, %v", n, len(entries), r.Ending(), err)
		}
		last = len(entries)
	}
	if last != len(all) {
		t.Fatalf("%d frames of %d before the trailer", last, len(all))
	}
}

func TestInclusionProofs(t *testing.T) {
	e := testEpoch(t)
	var out bytes.Buffer
	_, s := record(t, &out, e, 5*time.Minute, 3)
	var leaves []Hash
	report := value[Report](t)(Verify(&out, public(testSigner(1)), func(l Leaf) error { leaves = append(leaves, l.Hash); return nil }))
	if len(leaves) != int(s.Facts.Segments)+1 || report.Root != s.Facts.Root {
		t.Fatalf("%d leaves, %d segments", len(leaves), s.Facts.Segments)
	}
	for n, leaf := range leaves {
		proof := value[[]Hash](t)(Inclusion(leaves, n))
		if err := tlog.CheckRecord(proof, int64(len(leaves)), s.Root, int64(n), leaf); err != nil {
			t.Fatalf("leaf %d: %v", n, err)
		}
	}
	if _, err := Inclusion(leaves, len(leaves)); err == nil {
		t.Fatal("a proof for a leaf that is not there")
	}
}

// TestTreeIsThatOfRFC6962 compares with the Go project's own implementation.
func TestTreeIsThatOfRFC6962(t *testing.T) {
	var tree Tree
	var stored []Hash
	read := tlog.HashReaderFunc(func(at []int64) (out []Hash, err error) {
		for _, i := range at {
			out = append(out, stored[i])
		}
		return out, nil
	})
	for n := range int64(70) {
		if want := value[Hash](t)(tlog.TreeHash(n, read)); tree.Root() != want {
			t.Fatalf("root of %d leaves", n)
		}
		leaf := tlog.RecordHash([]byte{byte(n)})
		stored = append(stored, value[[]Hash](t)(tlog.StoredHashesForRecordHash(n, leaf, read))...)
		tree.Add(leaf)
	}
}

func TestWriterRefuses(t *testing.T) {
	e := testEpoch(t)
	w := newWriter(t, io.Discard, testOptions(t, e))
	for name, f := range map[string]Frame{"kind": {'?', testStart, nil}, "keyframe": {KindKeyframe, testStart, nil},
		"large": {KindOutput, testStart, make([]byte, MaxFrame+1)}} {
		if _, err := w.Add(f); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if err := w.Keyframe(testStart, make([]byte, MaxKeyframe+1)); err == nil {
		t.Error("large keyframe: accepted")
	}
	add(t, w, Frame{KindOutput, testStart, make([]byte, SegmentTarget)})
	if _, err := w.Add(Frame{KindOutput, testStart, []byte("x")}); !errors.Is(err, ErrFull) || !w.Due(testStart) {
		t.Errorf("full segment: %v", err)
	}
	value[Summary](t)(w.Close(testStart, "exit"))
	if _, err := w.Add(Frame{KindOutput, testStart, nil}); !errors.Is(err, ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
	for name, change := range map[string]func(*Options){"signer": func(o *Options) { o.Signer = nil }, "meta": func(o *Options) { o.Meta = nil },
		"recipient": func(o *Options) { o.Recipients = "age1" }, "strict": func(o *Options) { o.StrictRecipients = "x" },
		"session": func(o *Options) { o.Session = "" }, "random": func(o *Options) { o.Random = strings.NewReader("short") },
		"mixed": func(o *Options) { o.Recipients += "\n" + recipientOf(hybridEpoch(t).main) }} {
		o := testOptions(t, e)
		change(&o)
		if _, err := NewWriter(io.Discard, o); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

type failingWriter struct{ after int }

func (f *failingWriter) Write(p []byte) (int, error) {
	if f.after--; f.after < 0 {
		return len(p) / 2, errors.New("no space")
	}
	return len(p), nil
}

func TestAnErrorOfTheFileIsFinal(t *testing.T) {
	w := newWriter(t, &failingWriter{1}, testOptions(t, testEpoch(t)))
	add(t, w, Frame{KindOutput, testStart, []byte("x")})
	if _, err := w.Seal(EffortBest); err == nil {
		t.Fatal("Seal did not say that the write failed")
	}
	if _, err := w.Add(Frame{KindOutput, testStart, []byte("x")}); err == nil {
		t.Fatal("Add after a failed write")
	}
	if _, err := w.Close(testStart, "exit"); err == nil {
		t.Fatal("Close after a failed write")
	}
	if w.main.chain != [32]byte{} || w.strict.chain != [32]byte{} {
		t.Fatal("the keys were not wiped")
	}
}

func TestKeysAreForgotten(t *testing.T) {
	w := newWriter(t, io.Discard, testOptions(t, testEpoch(t)))
	before := w.main.chain
	number, j1, err := w.JournalKey(ClassMain)
	must(t, err)
	add(t, w, Frame{KindInput, testStart, []byte("x")})
	value[[]Leaf](t)(w.Seal(EffortBest))
	next, j2, err := w.JournalKey(ClassMain)
	must(t, err)
	if w.main.chain == before || number != 1 || next != 2 || j1 == j2 {
		t.Fatalf("segments %d and %d share keys", number, next)
	}
	if len(w.strictHalf.data) != 0 || bytes.Contains(w.strictHalf.data[:cap(w.strictHalf.data)], []byte("x")) {
		t.Fatal("a typed key stays in memory after it was sealed")
	}
	w.Wipe()
	if _, _, err := w.JournalKey(ClassMain); !errors.Is(err, ErrClosed) {
		t.Fatal(err)
	}
}

// TestTheCommitmentIsChecked puts the envelope of another session, to the same
// auditor, into a file.
func TestTheCommitmentIsChecked(t *testing.T) {
	e := testEpoch(t)
	a, b := smallFile(t, e), smallFile(t, e)
	pa, _, err := readPrelude(bytes.NewReader(a))
	must(t, err)
	pb, _, err := readPrelude(bytes.NewReader(b))
	must(t, err)
	spliced := bytes.Replace(a, pa.envelope, pb.envelope, 1)
	if _, err := NewReader(bytes.NewReader(spliced), e.keys()); err == nil || !strings.Contains(err.Error(), "commits to") {
		t.Fatalf("another key was accepted: %v", err)
	}
}

func TestTheRatchetGoesBackAndForth(t *testing.T) {
	first, _, err := newRatchet([]byte("a session key"))
	must(t, err)
	ring := keyring{current: *first, marks: [][32]byte{first.chain}}
	want := make([][32]byte, 3000)
	for i := range want {
		want[i] = first.chain
		first.step()
	}
	random := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		n := random.IntN(len(want))
		if got := ring.at(uint32(n)); got.chain != want[n] || got.number != uint32(n) {
			t.Fatalf("key of segment %d", n)
		}
	}
}

func TestCodecs(t *testing.T) {
	c := testCodecs(t)
	d := value[interface{ Close() }](t)(newZstd())
	d.Close()
	z, err := newZstd()
	must(t, err)
	random := make([]byte, 5000)
	for i := range random {
		random[i] = byte(rand.Uint32())
	}
	for name, plain := range map[string][]byte{"text": bytes.Repeat([]byte("hello, "), 5000), "short": []byte("hi"), "random": random} {
		for e, want := range map[Effort]Codec{EffortBest: CodecZstd, EffortFast: CodecZstd, EffortBulk: CodecS2, EffortNone: CodecNone} {
			if name != "text" {
				want = CodecNone
			}
			packed, codec := c.compress(nil, plain, e)
			if codec != want {
				t.Errorf("%s: codec %d, want %d", name, codec, want)
			}
			got, err := decompress(z, nil, packed, codec, uint32(len(plain)))
			if err != nil || !bytes.Equal(got, plain) {
				t.Errorf("%s, codec %d: %v", name, codec, err)
			}
			for _, wrong := range []int{len(plain) - 1, len(plain) + 1, 0} {
				if _, err := decompress(z, nil, packed, codec, uint32(wrong)); err == nil {
					t.Errorf("%s, codec %d: taken for %d bytes", name, codec, wrong)
				}
			}
		}
	}
}

// TestABombIsRefusedInBoundedMemory opens segments that expand to 512 MiB.
func TestABombIsRefusedInBoundedMemory(t *testing.T) {
	z, err := newZstd()
	must(t, err)
	c := testCodecs(t)
	for name, packed := range map[string][]byte{"zstd": c.best.EncodeAll(make([]byte, 512<<20), nil), "s2": {0x80, 0x80, 0x80, 0x80, 0x02, 0, 0}} {
		codec := CodecZstd
		if name == "s2" {
			codec = CodecS2
		}
		runtime.GC()
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		for _, size := range []uint32{1, 1000, maxPlain} {
			if _, err := decompress(z, nil, packed, codec, size); err == nil {
				t.Errorf("%s: a bomb expanded", name)
			}
		}
		runtime.ReadMemStats(&after)
		if used := after.TotalAlloc - before.TotalAlloc; used > 16<<20 {
			t.Errorf("%s: a bomb cost %d bytes of memory", name, used)
		}
	}
}
