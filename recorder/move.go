package recorder

import (
	"cmp"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"sallyport/recorder/journal"
	"sallyport/recorder/ledger"
	"sallyport/recorder/trec"
)

// Moves says what Open did with what a crash had left in the journal.
type Moves struct {
	Sessions map[string]uint64 // frames that were moved into recordings, still sealed
	Aside    []string          // files with frames that belong to no recording that could take them
	Ledger   bool              // the ledger's last entries were brought in
}

// Moved says what Open did with what a crash had left.
func (r *Recorder) Moved() Moves { return r.moved }

// mover is journal.Open's visitor. Whatever it is interrupted by, a second run
// comes to the same: frames that a file has are passed over.
type mover struct {
	r     *Recorder
	moves Moves

	// The recording that the last stream belonged to, so that a long one is
	// read once and not once for each of its streams.
	session string
	file    *os.File
	state   *trec.Resumed
	cut     bool // what is torn was cut off

	told map[string]*told // what the ledger says of sessions with a torn end; nil: not read yet
}

// noteOf reads what a stream says of itself.
func noteOf(r *journal.Remains) (n streamNote, err error) {
	if err := json.Unmarshal(r.Public, &n); err != nil || n.Session != r.Name || !sessionName.MatchString(r.Name) {
		return n, fmt.Errorf("stream %q does not say whose it is", r.Name)
	}
	return n, nil
}

// order puts the ledger's stream first, and a session's into the order of its frames.
func (m *mover) order(a, b *journal.Remains) int {
	// What is unreadable compares as the beginning.
	x, _ := noteOf(a)
	y, _ := noteOf(b)
	// The ledger comes first, to be asked about the others.
	if first, second := a.Name == ledger.StreamName, b.Name == ledger.StreamName; first != second {
		if first {
			return -1
		}
		return 1
	}
	return cmp.Or(strings.Compare(a.Name, b.Name), cmp.Compare(x.Base, y.Base))
}

func (m *mover) visit(r *journal.Remains) error {
	if r.Name == ledger.StreamName {
		m.moves.Ledger = true
		return ledger.Recover(m.r.ledgerOptions(), r)
	}
	note, err := noteOf(r)
	if err != nil {
		return m.setAside(r, err)
	}
	if err := m.resume(note.Session); errors.Is(err, errDamaged) {
		return m.setAside(r, err)
	} else if err != nil {
		return err
	}
	if m.state == nil {
		return m.covered(r, note)
	}
	if first := note.Base + Position(r.First); first > m.state.Next {
		return m.setAside(r, fmt.Errorf("frame %d follows on frame %d", first, m.state.Next-1))
	}
	return m.move(r, note)
}

// resume opens a session's recording at the end of its last whole group; state
// is nil when there is none that takes frames.
func (m *mover) resume(session string) error {
	if m.session == session {
		return nil
	}
	if err := m.close(); err != nil {
		return err
	}
	m.session, m.cut = session, false
	f, err := os.OpenFile(m.r.Path(session), os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	state, err := resumeFile(f, session)
	if err == nil && state.Torn > 0 {
		err = m.heldBy(f, session)
	}
	if err != nil {
		if errors.Is(err, trec.ErrComplete) || isFormat(err) {
			return f.Close()
		}
		return errors.Join(err, f.Close())
	}
	m.file, m.state = f, state
	return nil
}

// heldBy fails with errDamaged when the ledger tells of more than a file with a torn
// end still has: then it is no crash that tore it.
func (m *mover) heldBy(f *os.File, session string) error {
	if m.told == nil {
		m.told = map[string]*told{}
		if err := m.r.readTold(m.told, true); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	t := m.told[session]
	if t == nil {
		return nil
	}
	if t.closed() {
		return fmt.Errorf("%w: the ledger has closed it, and its end is gone", errDamaged)
	}
	return t.heldBy(f, m.r.publicKey())
}

// resumeFile reads a recording to the end of its last whole group.
func resumeFile(f *os.File, session string) (*trec.Resumed, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, &trec.FormatError{Segment: -1, Reason: "it is no file"}
	}
	state, err := trec.Resume(f, info.Size())
	if err != nil {
		return nil, err
	}
	if state.Header.Session != session {
		return nil, &trec.FormatError{Segment: -1, Reason: fmt.Sprintf("the file of %s holds session %q", session, state.Header.Session)}
	}
	return state, nil
}

// cutTorn cuts off what is behind the last whole group, and leaves the file there. The
// caller knows that the ledger does not tell of it: then it was never acknowledged
// as sealed, and the journal has it, and hands it over.
func cutTorn(f *os.File, state *trec.Resumed) error {
	if state.Torn > 0 {
		if err := f.Truncate(state.Offset); err != nil {
			return err
		}
	}
	_, err := f.Seek(state.Offset, io.SeekStart)
	return err
}

func isFormat(err error) bool {
	var format *trec.FormatError
	return errors.As(err, &format)
}

// move adds the frames that the recording does not have.
func (m *mover) move(r *journal.Remains, note streamNote) error {
	frames := newMovedFrames(r, note.Segment)
	count := uint64(0)
	put := func() error {
		if frames.m.Count == 0 {
			return nil
		}
		if !m.cut {
			if err := cutTorn(m.file, m.state); err != nil {
				return err
			}
			m.cut = true
		}
		count += uint64(frames.m.Count)
		_, err := m.state.Add(m.file, frames.take())
		return err
	}
	next := m.state.Next
	var lost error
	for f, err := range r.Frames() {
		if err != nil {
			return err
		}
		position := note.Base + Position(f.Position)
		if position < next {
			frames.pass(f)
			continue
		}
		if position > next {
			if lost = fmt.Errorf("frame %d of session %s is missing", next, note.Session); r.Damaged {
				break // as Options.Damaged allowed
			}
			return lost
		}
		if !frames.fits(f) {
			if err := put(); err != nil {
				return err
			}
		}
		frames.add(f, m.r.o.Clock())
		next++
	}
	if lost != nil {
		if err := m.setAside(r, lost); err != nil {
			return err
		}
	}
	if err := put(); err != nil {
		return err
	}
	if count == 0 {
		return nil
	}
	if err := (diskFile{m.file}).Sync(); err != nil {
		return fmt.Errorf("sync the recording of %s: %w", note.Session, err)
	}
	if m.moves.Sessions == nil {
		m.moves.Sessions = map[string]uint64{}
	}
	m.moves.Sessions[note.Session] += count
	m.r.o.Log.Warn("moved frames of a session out of the journal", "session", note.Session, "frames", count)
	return nil
}

// covered is about a session without a file that takes frames. If the recording
// has them already there is nothing to do.
func (m *mover) covered(r *journal.Remains, note streamNote) error {
	f, err := os.Open(m.r.Path(note.Session))
	if errors.Is(err, fs.ErrNotExist) {
		return m.setAside(r, errors.New("there is no recording"))
	}
	if err != nil {
		return err
	}
	defer f.Close()
	report, err := trec.Verify(f, m.r.publicKey(), nil)
	if err != nil {
		return err
	}
	if report.Complete && report.Session == note.Session && uint64(note.Base)+uint64(r.Last) <= report.Frames {
		return nil
	}
	return m.setAside(r, errors.New("the recording is damaged, or has ended before them"))
}

// asideSuffix ends the name of a file with frames that no recording could take.
const asideSuffix = ".frames"

// asideMagic opens it. Then comes, again and again, what State.Add would have
// taken: position u64, length u32 and canonical JSON of the information, length
// u32 and the frames.
const asideMagic = "SJMOVED\x01"

// setAside keeps frames that belong nowhere, under a name that is the same
// when a crash comes in between.
func (m *mover) setAside(r *journal.Remains, cause error) error {
	name := "unknown"
	if sessionName.MatchString(r.Name) {
		name = r.Name
	}
	path := filepath.Join(m.r.o.Dir, fmt.Sprintf("%s.%x-%d%s", name, r.ID, r.First, asideSuffix))
	m.r.o.Log.Error("frames in the journal belong to no recording that could take them, they are set aside",
		"stream", r.Name, "frames", r.Last-r.First+1, "file", filepath.Base(path), "cause", cause)
	note, _ := noteOf(r) // what is unreadable is set aside as well
	if err := writeAside(path, r, note, m.r.o.Clock); err != nil {
		return fmt.Errorf("set frames of %s aside: %w", name, err)
	}
	m.moves.Aside = append(m.moves.Aside, filepath.Base(path))
	return nil
}

func writeAside(path string, r *journal.Remains, note streamNote, clock clock) (err error) {
	f, err := os.OpenFile(path+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(path + ".new") // half a copy is none; the journal still has the frames
		}
	}()
	put := func(at Position, m trec.Moved) error {
		text, err := json.Marshal(m.Info)
		if err != nil {
			return err
		}
		head := binary.BigEndian.AppendUint64(nil, uint64(at))
		head = append(binary.BigEndian.AppendUint32(head, uint32(len(text))), text...)
		head = binary.BigEndian.AppendUint32(head, uint32(len(m.Opaque)))
		return errors.Join(writeAll(f, head), writeAll(f, m.Opaque))
	}
	frames := newMovedFrames(r, note.Segment)
	err = writeAll(f, []byte(asideMagic))
	for one, ferr := range r.Frames() {
		if err = errors.Join(err, ferr); err != nil {
			break
		}
		if !frames.fits(one) {
			if err = put(note.Base+Position(frames.first), frames.take()); err != nil {
				break
			}
		}
		frames.add(one, clock())
	}
	if err == nil && frames.m.Count > 0 {
		err = put(note.Base+Position(frames.first), frames.take())
	}
	if err == nil {
		err = diskFile{f}.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err = os.Rename(path+".new", path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

// close ends what the last session left open.
func (m *mover) close() error {
	f := m.file
	m.file, m.state, m.session = nil, nil, ""
	if f == nil {
		return nil
	}
	return f.Close()
}
