package recorder

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"sallyport/recorder/ledger"
	"sallyport/recorder/trec"
)

type clock = func() time.Time

// Left names a session of which nothing says yet how its recording rests.
type Left struct {
	Session string
	Number  int64
}

// Recovered says how a recording rests after a crash.
type Recovered struct {
	Result             // Head is "" when the recording is damaged or missing
	Ended    time.Time // of the signed end; zero without one
	BytesIn  int64     // as trec.Facts has it; -1 after a crash
	BytesOut int64     // the same

	// SHA256 (hex) and Size (bytes) are those of the file that was set aside
	// as damaged, so that it can be told from another later.
	SHA256 string
	Size   int64
}

const damagedSuffix = ".damaged" // a recording that could not be closed

// errDamaged marks a recording that must not be touched further.
var errDamaged = errors.New("damaged")

// Recover closes the recordings that a crash, or the failure of a recording, left
// open, says how each rests, and tells the ledger what it does not know yet. No
// other recording is opened.
//
// A recording without an end is cut to its last whole group and gets a signed
// end "crashed"; one that has ended is only read. What the journal had of it was
// moved by Open. A recording that is changed before its end, further back than the
// last write can reach, or in what the ledger tells of already, is renamed (.damaged) and left as evidence, under a name
// that was free. A session without any recording has the reason "missing", and so
// has one whose header did not become durable, since nothing was in it.
//
// One that the ledger has closed already is only read, and stays where it is if it
// was changed since.
//
// When an end can't be written, for want of space say, Recover fails and changes
// nothing of the file.
//
// Recover may be called again for the same sessions, say after a crash in
// between, and has the same answers.
func (r *Recorder) Recover(ctx context.Context, sessions []Left) (map[string]Recovered, error) {
	found := map[string]Recovered{}
	if len(sessions) == 0 {
		return found, nil
	}
	known, err := r.known(ctx, sessions)
	if err != nil {
		return found, err
	}
	for _, s := range sessions {
		if err := ctx.Err(); err != nil {
			return found, err
		}
		one, err := r.recoverOne(ctx, s, known[s.Session])
		if err != nil {
			return found, fmt.Errorf("recover recording %s: %w", s.Session, err)
		}
		found[s.Session] = one
	}
	// The names of files that a crash left may not be durable yet.
	return found, syncDir(r.o.Dir)
}

// told is what the ledger says of one session.
type told struct {
	open     bool
	segments map[uint32]string // hashes of the leaves
	end      *ledger.Leaf      // of kind close, missing or damaged
	index    int64
}

// closed reports whether the ledger has the end of the recording.
func (t *told) closed() bool { return t.end != nil && t.end.Kind == ledger.KindClose }

// known reads what the ledger says of the sessions. It reads all of it, which a
// crash is rare enough for.
func (r *Recorder) known(ctx context.Context, sessions []Left) (map[string]*told, error) {
	known := map[string]*told{}
	for _, s := range sessions {
		known[s.Session] = &told{segments: map[uint32]string{}}
	}
	if err := r.ledger.Publish(ctx); err != nil {
		return nil, fmt.Errorf("read the ledger: %w", err)
	}
	if r.ledger.Size() == 0 {
		return known, nil
	}
	return known, r.readTold(known, false)
}

// readTold reads what the ledger's directory says of the sessions in known; with all
// of every session, but of one that has ended its segments no more.
func (r *Recorder) readTold(known map[string]*told, all bool) error {
	verifier, err := ledger.VerifierOf(r.o.Node, r.publicKey())
	if err != nil {
		return err
	}
	for item, err := range ledger.Read(r.o.LedgerDir, verifier, nil) {
		if err != nil {
			return fmt.Errorf("read the ledger: %w", err)
		}
		if item.Leaf == nil {
			continue
		}
		t := known[item.Leaf.Session]
		if t == nil && !all {
			continue
		}
		if t == nil {
			t = &told{segments: map[uint32]string{}}
			known[item.Leaf.Session] = t
		}
		switch item.Leaf.Kind {
		case ledger.KindOpen:
			t.open = true
		case ledger.KindSegment:
			t.segments[item.Leaf.Segment] = item.Leaf.Hash
		default:
			leaf := *item.Leaf
			t.end, t.index = &leaf, item.Index
			if all {
				clear(t.segments)
			}
		}
	}
	return nil
}

// heldBy fails with errDamaged unless the file begins with every segment that the
// ledger tells of, unchanged. Each was durable before it was told, so no crash
// takes it away, and nothing behind the fault may be cut off as torn.
func (t *told) heldBy(f io.ReadSeeker, key ed25519.PublicKey) error {
	if len(t.segments) == 0 {
		return nil
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	held := 0
	_, err := trec.Verify(f, key, func(l trec.Leaf) error {
		number := uint32(0) // as segmentLeaves counts
		if l.Type != 0 {
			number = l.Number + 1
		}
		hash, there := t.segments[number]
		if there && hash != hex.EncodeToString(l.Hash[:]) {
			return fmt.Errorf("%w: segment %d is not the one that the ledger tells of", errDamaged, number)
		}
		if there {
			held++
		}
		return nil
	})
	if err == nil && held < len(t.segments) {
		err = fmt.Errorf("%w: of %d segments that the ledger tells of only %d can be read", errDamaged, len(t.segments), held)
	}
	if err != nil {
		return err
	}
	_, err = f.Seek(0, io.SeekStart)
	return err
}

func (r *Recorder) publicKey() ed25519.PublicKey { return r.o.Signer.Public().(ed25519.PublicKey) }

func (r *Recorder) recoverOne(ctx context.Context, s Left, t *told) (Recovered, error) {
	if !sessionName.MatchString(s.Session) || s.Number <= 0 {
		return Recovered{}, errors.New("that can't be a session")
	}
	r.mu.Lock()
	_, live := r.open[s.Session]
	r.mu.Unlock()
	if live {
		return Recovered{}, errors.New("it is still being recorded")
	}
	one, leaves, err := r.closeFile(s, t)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if one, err = r.withoutFile(s.Session); err == nil && t.closed() {
			return one, nil // as above
		}
	case errors.Is(err, errDamaged):
		if t.closed() {
			// The ledger says how it was, and must not say otherwise now. What is there is evidence.
			r.o.Log.Error("a recording was changed after its end", "session", s.Session, "error", err)
			return damaged(r.Path(s.Session))
		}
		r.o.Log.Error("a recording is damaged and was set aside", "session", s.Session, "error", err)
		var path string
		if path, err = moveAside(r.Path(s.Session), damagedSuffix); err == nil {
			one, err = damaged(path)
		}
	}
	if err != nil {
		return Recovered{}, err
	}
	return one, r.tellEnd(ctx, s, t, &one, leaves)
}

// tellEnd tells the ledger what it does not know of a recording.
func (r *Recorder) tellEnd(ctx context.Context, s Left, t *told, one *Recovered, leaves []trec.Leaf) error {
	var tell []ledger.Leaf
	if !t.open {
		tell = append(tell, ledger.Leaf{Kind: ledger.KindOpen, Session: s.Session, Number: s.Number})
	}
	for _, leaf := range segmentLeaves(s.Session, leaves) {
		if _, there := t.segments[leaf.Segment]; !there {
			tell = append(tell, leaf)
		}
	}
	end := ledger.Leaf{Kind: ledger.KindClose, Session: s.Session, Number: s.Number, Hash: one.Head, Size: one.Size, Reason: one.Reason}
	switch one.Reason {
	case ReasonMissing:
		if one.Head == "" {
			end.Kind = ledger.KindMissing
		}
	case ReasonDamaged:
		if one.Head == "" {
			end.Kind, end.Hash = ledger.KindDamaged, one.SHA256
		}
	}
	if one.Head != "" {
		one.Size = 0 // it is about files that were set aside
	}
	if t.end == nil || *t.end != end {
		tell = append(tell, end)
	}
	one.Index = t.index
	if len(tell) == 0 {
		return nil
	}
	first, err := r.ledger.Record(ctx, tell...)
	if err == nil && tell[len(tell)-1] == end {
		one.Index = first + int64(len(tell)) - 1
	}
	return err
}

// withoutFile is the answer when there is no recording of that name: one that
// was set aside before, or none.
func (r *Recorder) withoutFile(session string) (Recovered, error) {
	last := ""
	for n := 0; ; n++ {
		path := numbered(r.Path(session)+damagedSuffix, n)
		_, err := os.Lstat(path)
		if errors.Is(err, fs.ErrNotExist) {
			break
		}
		if err != nil {
			return Recovered{}, err
		}
		last = path
	}
	if last == "" {
		return Recovered{Result: Result{Reason: ReasonMissing}}, nil
	}
	return damaged(last)
}

// damaged describes a file that was set aside.
func damaged(path string) (Recovered, error) {
	one := Recovered{Result: Result{Reason: ReasonDamaged}}
	sum := sha256.New()
	info, err := os.Lstat(path)
	if err != nil {
		return one, err
	}
	if info.Mode().IsRegular() {
		f, err := os.Open(path)
		if err != nil {
			return one, err
		}
		defer f.Close()
		if one.Size, err = io.Copy(sum, f); err != nil {
			return one, err
		}
	}
	one.SHA256 = hex.EncodeToString(sum.Sum(nil))
	return one, nil
}

// closeFile gives the recording an end unless it has one, and returns the leaves of
// its tree. One that the ledger has closed is only read: it was whole then.
func (r *Recorder) closeFile(s Left, t *told) (one Recovered, leaves []trec.Leaf, err error) {
	path := r.Path(s.Session)
	if info, err := os.Lstat(path); err != nil {
		return one, nil, err
	} else if !info.Mode().IsRegular() {
		return one, nil, fmt.Errorf("%w: it is no file", errDamaged)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return one, nil, err
	}
	defer f.Close()
	if !t.closed() {
		if err := t.heldBy(f, r.publicKey()); err != nil {
			return one, nil, err
		}
		if err := r.endFile(f, s.Session); err != nil {
			return one, nil, err
		}
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return one, nil, err
	}
	report, err := trec.Verify(f, r.publicKey(), func(l trec.Leaf) error { leaves = append(leaves, l); return nil })
	if err != nil {
		return one, nil, err
	}
	if !report.Intact || !report.Complete || report.Session != s.Session {
		return one, nil, fmt.Errorf("%w: %s", errDamaged, report.Text())
	}
	if t.closed() && t.end.Hash != report.Facts.Root {
		return one, nil, fmt.Errorf("%w: it is not the one that the ledger closed", errDamaged)
	}
	// Its root goes to the ledger now, so it must not be lost to a failure of power later.
	if err := (diskFile{f}).Sync(); err != nil {
		return one, nil, err
	}
	return Recovered{Result: Result{Reason: report.Reason, Segments: report.Facts.Segments, Head: report.Facts.Root},
		Ended: report.Facts.End, BytesIn: report.Facts.BytesIn, BytesOut: report.Facts.BytesOut, Size: report.Bytes}, leaves, nil
}

// endFile appends the signed end if there is none.
func (r *Recorder) endFile(f *os.File, session string) error {
	state, err := resumeFile(f, session)
	if err == nil {
		err = cutTorn(f, state)
	}
	var format *trec.FormatError
	switch {
	case errors.Is(err, trec.ErrComplete):
		return nil
	case errors.As(err, &format) && format.Cut:
		// Not even its header became durable, so nothing was ever in it.
		r.o.Log.Warn("a recording had not begun when the node crashed", "session", session)
		if _, err := moveAside(f.Name(), tornSuffix); err != nil {
			return err
		}
		return fs.ErrNotExist
	case errors.As(err, &format):
		return fmt.Errorf("%w: %w", errDamaged, err)
	case err != nil:
		return err
	}
	summary, err := state.Close(f, r.o.Signer, r.o.Clock())
	switch {
	case isFormat(err):
		return fmt.Errorf("%w: %w", errDamaged, err)
	case err != nil:
		// The disk is full, say: that is no fault of the recording, and passes.
		return errors.Join(err, f.Truncate(state.Offset))
	}
	r.o.Log.Warn("closed a recording after a crash", "session", session, "frames", summary.Facts.Frames, "torn_bytes", summary.Facts.Torn)
	return nil
}

const tornSuffix = ".torn" // a file that ends inside its header

// numbered is the n-th name for what is kept: path, path.1, path.2 and so on.
func numbered(path string, n int) string {
	if n == 0 {
		return path
	}
	return fmt.Sprintf("%s.%d", path, n)
}

// moveAside gives a file the first name with suffix that is free. Nobody else
// makes files here: the journal's lock keeps a second node out.
func moveAside(path, suffix string) (string, error) {
	for n := 0; ; n++ {
		aside := numbered(path+suffix, n)
		_, err := os.Lstat(aside)
		if err == nil {
			continue
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
		if err := os.Rename(path, aside); err != nil {
			return "", fmt.Errorf("set a file aside: %w", err)
		}
		return aside, syncDir(filepath.Dir(path))
	}
}
