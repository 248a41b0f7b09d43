package recorder

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"testing"

	"sallyport/recorder/trec"
)

type fuzzKeys struct{}

func (fuzzKeys) JournalKey(segment uint32, c trec.Class) ([32]byte, error) {
	if c > trec.ClassStrict {
		return [32]byte{}, trec.ErrSealed
	}
	return sha256.Sum256([]byte{byte(segment), byte(c)}), nil
}

// FuzzJournalFrames hands hostile moved frames to the decoder.
func FuzzJournalFrames(f *testing.F) {
	state := f.TempDir()
	r := open(f, optionsIn(state))
	keys := testKeys(f)
	rec := start(f, r, "S-1", true, keys)
	appendDurable(f, rec, KindOutput, "shown")
	appendDurable(f, rec, KindInput, "typed")
	again := open(f, optionsIn(copyState(f, state)))
	data, err := os.ReadFile(again.Path("S-1"))
	must(f, err)
	f.Add(data[len(data)-400:], uint32(1), hex.EncodeToString(make([]byte, 16)))
	f.Add([]byte(`0123456789abcdef`+"\x02\x03S-1\x00\x2a"+`{"session":"S-1","segment":1,"base":0}    `), uint32(1), "00")
	f.Fuzz(func(t *testing.T, opaque []byte, segment uint32, chain string) {
		m := trec.Moved{Info: trec.MovedInfo{Format: JournalFormat, Segment: segment, Chain: chain}, Count: 1, Opaque: opaque}
		last, size := Position(0), 0
		_, _ = JournalFrames{}.DecodeJournal(m, fuzzKeys{}, func(e Entry) error {
			if e.Position <= last {
				t.Errorf("frame %d follows on frame %d", e.Position, last)
			}
			last, size = e.Position, size+len(e.Data)
			return nil
		})
		if size > len(opaque) {
			t.Errorf("%d bytes of frames in %d", size, len(opaque))
		}
	})
}
