package trec

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"testing"

	"golang.org/x/crypto/chacha20poly1305"
)

// toyJournal stands for the journal's layout: class, segment, length, and the
// sealed kind, time and data.
type toyJournal struct{}

func (toyJournal) frame(t testing.TB, w *Writer, c Class, f Frame) []byte {
	t.Helper()
	number, key, err := w.JournalKey(c)
	must(t, err)
	plain := binary.BigEndian.AppendUint64([]byte{byte(f.Kind)}, uint64(f.Time.UnixMicro()))
	cipher, err := chacha20poly1305.NewX(key[:])
	must(t, err)
	nonce := make([]byte, cipher.NonceSize())
	binary.BigEndian.PutUint64(nonce, uint64(f.Time.UnixMicro()))
	sealed := cipher.Seal(nonce, nonce, append(plain, f.Data...), nil)
	out := binary.BigEndian.AppendUint32([]byte{byte(c)}, number)
	return append(binary.BigEndian.AppendUint32(out, uint32(len(sealed))), sealed...)
}

func (toyJournal) DecodeJournal(m Moved, keys JournalKeys, emit func(Entry) error) (sealed int, err error) {
	for p := Position(1); len(m.Opaque) > 0; p++ {
		if len(m.Opaque) < 9 || uint64(binary.BigEndian.Uint32(m.Opaque[5:])) > uint64(len(m.Opaque)-9) {
			return sealed, errors.New("a journal frame is cut")
		}
		c, number, n := Class(m.Opaque[0]), binary.BigEndian.Uint32(m.Opaque[1:]), 9+binary.BigEndian.Uint32(m.Opaque[5:])
		body := m.Opaque[9:n]
		m.Opaque = m.Opaque[n:]
		key, err := keys.JournalKey(number, c)
		if errors.Is(err, ErrSealed) {
			sealed++
			continue
		}
		if err != nil {
			return sealed, err
		}
		cipher, err := chacha20poly1305.NewX(key[:])
		if err != nil || len(body) < 24 {
			return sealed, errors.New("a journal frame is malformed")
		}
		plain, err := cipher.Open(nil, body[:24], body[24:], nil)
		if err != nil || len(plain) < 9 {
			return sealed, errors.New("a journal frame was changed")
		}
		if err := emit(Entry{Position: p, Kind: Kind(plain[0]), Time: at(0), Strict: c == ClassStrict, Data: plain[9:]}); err != nil {
			return sealed, err
		}
	}
	return sealed, nil
}

// crashed is a file that ends without its end, and the journal frames that
// were not in it yet.
func crashed(t testing.TB, e epoch) (file, journal []byte) {
	t.Helper()
	var out bytes.Buffer
	w := newWriter(t, &out, testOptions(t, e))
	smallSession(t, w)
	value[[]Leaf](t)(w.Seal(EffortBest))
	var toy toyJournal
	journal = append(journal, toy.frame(t, w, ClassMain, Frame{KindOutput, at(20), []byte("after the last segment")})...)
	journal = append(journal, toy.frame(t, w, ClassStrict, Frame{KindInput, at(21), []byte("typed")})...)
	journal = append(journal, toy.frame(t, w, ClassMain, Frame{KindOutput, at(22), []byte("the last word")})...)
	w.Wipe()
	return out.Bytes(), journal
}

// recoverFile closes such a file, knowing nothing but the node's signing key.
func recoverFile(t testing.TB, file, journal []byte) []byte {
	t.Helper()
	r := value[*Resumed](t)(Resume(bytes.NewReader(file), int64(len(file))))
	out := bytes.NewBuffer(bytes.Clone(file[:r.Offset]))
	m := Moved{Info: MovedInfo{Format: "toy", Journal: "journal-7", Segment: r.chain.number}, Count: 3, Time: at(20), Opaque: journal}
	l := value[Leaf](t)(r.Add(out, m))
	if l.First != 16 || l.Count != 3 || r.Next != 19 {
		t.Fatalf("moved %+v", l)
	}
	s := value[Summary](t)(r.Close(out, testSigner(1), at(60)))
	if s.Size != int64(out.Len()) {
		t.Fatalf("size %d of %d", s.Size, out.Len())
	}
	return out.Bytes()
}

func TestACrashedFileIsClosedWithoutItsKeys(t *testing.T) {
	e := testEpoch(t)
	file, journal := crashed(t, e)
	torn := append(bytes.Clone(file), file[len(file)-200:]...)
	for name, data := range map[string][]byte{"whole": file, "torn": torn, "zeros": append(bytes.Clone(file), make([]byte, 500)...)} {
		done := recoverFile(t, data, journal)
		report := verify(t, done)
		if !report.Complete || report.Ending != EndingCrash || report.Moved != 3 || report.Frames != 18 || report.Facts.Torn != int64(len(data)-len(file)) {
			t.Fatalf("%s: %s %+v", name, report.Text(), report.Facts)
		}
		k := e.keys()
		k.Journal = toyJournal{}
		entries := playAll(t, done, k)
		last := entries[len(entries)-1]
		if len(entries) != 20 || last.Position != 18 || string(last.Data) != "the last word" {
			t.Fatalf("%s: %d frames, the last is %+v", name, len(entries), last)
		}
		k.Strict = nil
		r := value[*Reader](t)(NewReader(bytes.NewReader(done), k))
		if value[[]Entry](t)(play(r)); r.Sealed() != 5 || r.Ending() != EndingCrash {
			t.Fatalf("%s: %d sealed", name, r.Sealed())
		}
		k.Journal = nil
		r = value[*Reader](t)(NewReader(bytes.NewReader(done), k))
		if value[[]Entry](t)(play(r)); r.Sealed() != 7 {
			t.Fatalf("%s: %d sealed without a decoder", name, r.Sealed())
		}
		k = e.keys()
		k.Journal = toyJournal{}
		f := value[*File](t)(OpenAt(bytes.NewReader(done), int64(len(done)), k))
		if _, s, err := f.Seek(at(12.2)); err != nil || string(s.Data) != "screen two" {
			t.Fatalf("%s: seek %q %v", name, s.Data, err)
		}
	}
}

func TestResumeLeavesAloneWhatItMustNotTouch(t *testing.T) {
	e := testEpoch(t)
	file, _ := crashed(t, e)
	whole := smallFile(t, e)
	if _, err := Resume(bytes.NewReader(whole), int64(len(whole))); !errors.Is(err, ErrComplete) {
		t.Errorf("a file with its end: %v", err)
	}
	if _, err := Resume(bytes.NewReader(file[:300]), 300); err == nil {
		t.Error("a file without a description was resumed")
	}
	flipped := bytes.Clone(file)
	flipped[len(flipped)-300] ^= 1
	large := append(flipped, make([]byte, maxTorn)...)
	if _, err := Resume(bytes.NewReader(large), int64(len(large))); err == nil {
		t.Error("a file that is damaged far from its end was resumed")
	}
	r := value[*Resumed](t)(Resume(bytes.NewReader(file), int64(len(file))))
	if _, err := r.Close(io.Discard, testSigner(2), at(60)); err == nil {
		t.Error("another node closed the file")
	}
	for name, m := range map[string]Moved{"empty": {Count: 1}, "no frames": {Opaque: []byte("x")}, "large": {Count: 1, Opaque: make([]byte, MaxMoved+1)}} {
		if _, err := r.Add(io.Discard, m); err == nil {
			t.Errorf("%s: moved", name)
		}
	}
	if _, err := r.Add(io.Discard, Moved{Count: 1, Opaque: make([]byte, MaxMoved)}); err != nil {
		t.Errorf("the largest: %v", err)
	}
}

// TestHostileJournalFrames hands moved frames to a decoder that lies.
func TestHostileJournalFrames(t *testing.T) {
	e := testEpoch(t)
	file, journal := crashed(t, e)
	done := recoverFile(t, file, journal)
	for name, lie := range map[string]liar{"too few": {1}, "twice": {1, 1, 2}, "beyond": {1, 2, 4}, "zero": {0, 1, 2}, "too many": {1, 2, 3, 3}} {
		k := e.keys()
		k.Journal = lie
		r := value[*Reader](t)(NewReader(bytes.NewReader(done), k))
		var format *FormatError
		if _, err := play(r); !errors.As(err, &format) || format.Segment != 6 {
			t.Errorf("%s: %v", name, err)
		}
	}
}

type liar []Position

func (l liar) DecodeJournal(m Moved, keys JournalKeys, emit func(Entry) error) (int, error) {
	if _, err := keys.JournalKey(1<<31, ClassMain); err == nil {
		return 0, errors.New("a key far beyond the file was computed")
	}
	for _, p := range l {
		if err := emit(Entry{Position: p, Kind: KindOutput}); err != nil {
			return 0, err
		}
	}
	return 0, nil
}
