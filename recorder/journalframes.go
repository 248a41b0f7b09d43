package recorder

import (
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"sallyport/recorder/journal"
	"sallyport/recorder/trec"
)

// JournalFormat is the trec.MovedInfo.Format of frames that this package has
// moved out of the journal.
const JournalFormat = "journal/1"

// JournalFrames opens frames that were moved out of the journal after a crash,
// for an auditor (trec.Keys.Journal). docs/format-journal.md has the layout.
type JournalFrames struct{}

// encodeOpening is what stands before moved frames: what the journal said of
// their stream.
//
//	id [16] | classes u8 | name u8 + bytes | public u16 + bytes
func encodeOpening(o *journal.Opening) []byte {
	out := append(make([]byte, 0, 20+len(o.Name)+len(o.Public)), o.ID[:]...)
	out = append(out, byte(o.Classes), byte(len(o.Name)))
	out = append(out, o.Name...)
	out = binary.BigEndian.AppendUint16(out, uint16(len(o.Public)))
	return append(out, o.Public...)
}

var errMoved = errors.New("the moved frames are malformed")

func decodeOpening(raw []byte) (o journal.Opening, rest []byte, err error) {
	if len(raw) < 18 || len(raw) < 18+int(raw[17])+2 {
		return o, nil, errMoved
	}
	copy(o.ID[:], raw)
	o.Classes = int(raw[16])
	n := 18 + int(raw[17])
	o.Name = string(raw[18:n])
	public := int(binary.BigEndian.Uint16(raw[n:]))
	n += 2
	if len(raw) < n+public || o.Classes < 1 || o.Classes > journal.MaxClasses {
		return o, nil, errMoved
	}
	o.Public = raw[n : n+public : n+public]
	return o, raw[n+public:], nil
}

// DecodeJournal implements trec.JournalDecoder.
func (JournalFrames) DecodeJournal(m trec.Moved, keys trec.JournalKeys, emit func(trec.Entry) error) (sealed int, err error) {
	if m.Info.Format != JournalFormat {
		return 0, fmt.Errorf("moved frames are of the format %q, not %s", m.Info.Format, JournalFormat)
	}
	opening, rest, err := decodeOpening(m.Opaque)
	if err != nil {
		return 0, err
	}
	chain, err := hex.DecodeString(m.Info.Chain)
	if err != nil || copy(opening.Chain[:], chain) != len(opening.Chain) || len(chain) != len(opening.Chain) {
		return 0, errMoved
	}
	var note streamNote
	if err := json.Unmarshal(opening.Public, &note); err != nil || note.Segment != m.Info.Segment {
		return 0, fmt.Errorf("%w: their stream says another segment", errMoved)
	}
	secrets := make([][]byte, opening.Classes)
	for class := range secrets {
		key, err := keys.JournalKey(m.Info.Segment, trec.ClassMain+trec.Class(class))
		if err == nil {
			secrets[class] = key[:]
		} else if !errors.Is(err, trec.ErrSealed) {
			return 0, err
		}
	}
	first, _, err := journal.ParseSealed(rest)
	if err != nil {
		return 0, err
	}
	opening.First = first.Position
	opener, err := journal.NewOpener(opening, secrets)
	if err != nil {
		return 0, err
	}
	for n := 1; len(rest) > 0; n++ {
		var frame journal.SealedFrame
		if frame, rest, err = journal.ParseSealed(rest); err != nil {
			return sealed, err
		}
		open, err := opener.Open(frame)
		if errors.Is(err, journal.ErrSealed) {
			sealed++
			continue
		}
		if err != nil {
			return sealed, err
		}
		e := trec.Entry{Position: trec.Position(n), Kind: Kind(open.Kind), Time: open.Time, Strict: open.Class == journalStrict,
			Data: append([]byte(nil), open.Data...)}
		if err := emit(e); err != nil {
			return sealed, err
		}
	}
	return sealed, nil
}

// movedFrames collects frames of one stream for a segment of type W.
type movedFrames struct {
	info   trec.MovedInfo
	prefix []byte
	first  journal.Position
	last   journal.Position // of the frame added or passed last
	chain  [16]byte         // before the first frame, then behind the last
	m      trec.Moved
}

// newMovedFrames begins with what a stream says of itself.
func newMovedFrames(r *journal.Remains, segment uint32) *movedFrames {
	return &movedFrames{info: trec.MovedInfo{Format: JournalFormat, Journal: hex.EncodeToString(r.ID[:]), Segment: segment},
		prefix: encodeOpening(&r.Opening), chain: r.Chain}
}

// fits reports whether another frame goes into the same segment. One that does not
// follow on the last does not: frames between them were lost with a damaged place.
func (b *movedFrames) fits(f journal.SealedFrame) bool {
	return b.m.Count == 0 || f.Position == b.last+1 && len(b.m.Opaque)+len(f.Raw) <= trec.MaxMoved && b.m.Count < 1<<24-1
}

// add takes a frame; at is when the first one was moved, since its own time is sealed.
func (b *movedFrames) add(f journal.SealedFrame, at time.Time) {
	if b.m.Count == 0 {
		b.m = trec.Moved{Info: b.info, Time: at, Opaque: append(b.m.Opaque[:0], b.prefix...)}
		b.m.Info.Chain = hex.EncodeToString(b.chain[:])
		b.first = f.Position
	}
	b.m.Opaque = append(b.m.Opaque, f.Raw...)
	b.m.Count++
	b.pass(f)
}

// pass goes on behind a frame that is not taken.
func (b *movedFrames) pass(f journal.SealedFrame) { b.chain, b.last = f.Tag(), f.Position }

// take hands over what was collected, and begins anew.
func (b *movedFrames) take() trec.Moved {
	m := b.m
	b.m.Count = 0
	return m
}
