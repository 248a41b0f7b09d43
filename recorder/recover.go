package recorder

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

const (
	damagedSuffix = ".damaged" // a recording that could not be closed
	tornSuffix    = ".torn"    // what a crash left after the last whole group
)

var (
	// errDamaged marks a recording that must not be touched further.
	errDamaged = errors.New("damaged")
	// errUnbegun marks a file that ends inside its header.
	errUnbegun = errors.New("it ends inside its header")
)

// Recover closes the recordings that a crash left open and says how each of
// the given sessions' recordings rests. No other is opened.
//
// A recording without an end is cut to its last whole group and gets a signed
// end "crashed"; one that has ended is only read. A recording that is changed
// before its end, or further back than the last commit can reach, is renamed
// (.damaged) and left as evidence. A session without any recording has the
// reason "missing", and so has one whose header did not become durable.
//
// Whatever is cut off or renamed is kept beside the recording under a name
// that was free. Recover may be called again for the same sessions, say after
// a crash in between, and has the same answers.
func (r *Recorder) Recover(ctx context.Context, sessions []string) (map[string]Recovered, error) {
	found := map[string]Recovered{}
	for _, session := range sessions {
		if err := ctx.Err(); err != nil {
			return found, err
		}
		one, err := r.recoverOne(session)
		if err != nil {
			return found, fmt.Errorf("recover recording %s: %w", session, err)
		}
		found[session] = one
	}
	if len(sessions) == 0 {
		return found, nil
	}
	// The names of files that a crash left may not be durable yet.
	return found, syncDir(r.o.Dir)
}

func (r *Recorder) recoverOne(session string) (Recovered, error) {
	if !sessionName.MatchString(session) {
		return Recovered{}, errors.New("that can't be the name of a session")
	}
	r.mu.Lock()
	_, live := r.open[session]
	r.mu.Unlock()
	if live {
		return Recovered{}, errors.New("it is still being recorded")
	}
	one, err := r.closeFile(session)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return r.withoutFile(session)
	case errors.Is(err, errUnbegun):
		r.o.Log.Warn("a recording had not begun when the node crashed", "session", session)
		if _, err := moveAside(r.Path(session), tornSuffix); err != nil {
			return Recovered{}, err
		}
		return r.withoutFile(session)
	case errors.Is(err, errDamaged):
		r.o.Log.Error("a recording is damaged and was set aside", "session", session, "error", err)
		path, err := moveAside(r.Path(session), damagedSuffix)
		if err != nil {
			return Recovered{}, err
		}
		return damaged(path)
	}
	return one, err
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
	info, err := os.Lstat(path)
	if err != nil || !info.Mode().IsRegular() {
		return one, err
	}
	f, err := os.Open(path)
	if err != nil {
		return one, err
	}
	defer f.Close()
	sum := sha256.New()
	one.Size, err = io.Copy(sum, f)
	one.SHA256 = hex.EncodeToString(sum.Sum(nil))
	return one, err
}

// closeFile gives the recording an end unless it has one.
func (r *Recorder) closeFile(session string) (Recovered, error) {
	path := r.Path(session)
	info, err := os.Lstat(path)
	if err != nil {
		return Recovered{}, err
	}
	if !info.Mode().IsRegular() {
		return Recovered{}, fmt.Errorf("%w: it is no file", errDamaged)
	}
	state, err := r.scanFile(path)
	if err != nil {
		return Recovered{}, err
	}
	if state.header.Session != session {
		return Recovered{}, fmt.Errorf("%w: the file of %s holds session %q", errDamaged, session, state.header.Session)
	}
	if end := state.end; end != nil {
		return Recovered{Result: Result{Reason: end.Reason, Blocks: state.sequence, Head: hex.EncodeToString(state.head[:])},
			Ended: end.Time, BytesIn: end.BytesIn, BytesOut: end.BytesOut}, nil
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return Recovered{}, err
	}
	defer f.Close()
	return r.writeEnd(f, state)
}

// scanFile reads a recording without being able to write it.
func (r *Recorder) scanFile(path string) (prefix, error) {
	f, err := os.Open(path)
	if err != nil {
		return prefix{}, err
	}
	defer f.Close()
	state, err := scanPrefix(f, r.o.Signer.Public().(ed25519.PublicKey))
	if err != nil || state.end == nil {
		return state, err
	}
	// Its head goes to the ledger now, so it must not be lost to a failure of power later.
	return state, diskFile{f}.Sync()
}

// writeEnd cuts what was torn off and appends the signed end.
func (r *Recorder) writeEnd(f *os.File, state prefix) (Recovered, error) {
	torn, err := r.cutTail(f, state)
	if err != nil {
		return Recovered{}, err
	}
	c := newChain(r.o.Signer)
	c.sequence, c.head = state.sequence, state.head
	end := End{Reason: ReasonCrashed, Frames: uint64(state.next) - 1, Blocks: c.sequence + 1,
		Time: r.o.Clock().UTC(), BytesIn: -1, BytesOut: -1, Torn: torn}
	payload, err := json.Marshal(end)
	if err != nil {
		return Recovered{}, err
	}
	out := diskFile{f}
	if err := writeAll(out, c.append(nil, BlockInfo{Type: BlockEnd, Time: end.Time}, payload, nil)); err != nil {
		return Recovered{}, err
	}
	if err := out.Sync(); err != nil {
		return Recovered{}, err
	}
	r.o.Log.Warn("closed a recording after a crash", "session", state.header.Session, "frames", end.Frames, "torn_bytes", torn)
	return Recovered{Result: Result{Reason: ReasonCrashed, Blocks: c.sequence, Head: c.headHex()},
		Ended: end.Time, BytesIn: -1, BytesOut: -1}, nil
}

// cutTail sets aside what follows the last whole group. Only the last commit
// can be torn, so a longer remainder is damage.
func (r *Recorder) cutTail(f *os.File, s prefix) (int64, error) {
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return 0, err
	}
	torn := size - s.offset
	// Everything pending, one frame above the limit, and the blocks' own
	// bytes. The file may be older than today's limit.
	if limit := int64(maxMaxPending + 2*maxPayload); torn > limit {
		return 0, fmt.Errorf("%w: %d bytes after byte %d are not readable", errDamaged, torn, s.offset)
	}
	if torn > 0 {
		if err := keepTail(f, s.offset, f.Name()+tornSuffix); err != nil {
			return 0, err
		}
		if err := f.Truncate(s.offset); err != nil {
			return 0, err
		}
	}
	_, err = f.Seek(s.offset, io.SeekStart)
	return torn, err
}

// keepTail copies what follows offset to a new file, durably.
func keepTail(f *os.File, offset int64, path string) error {
	if _, err := f.Seek(offset, io.SeekStart); err != nil {
		return err
	}
	t, err := createNumbered(path)
	if err != nil {
		return err
	}
	_, err = io.Copy(t, f)
	if err == nil {
		err = t.Sync()
	}
	if err = errors.Join(err, t.Close()); err != nil {
		return errors.Join(err, os.Remove(t.Name())) // half a copy is none; the original is still whole
	}
	return syncDir(filepath.Dir(path))
}

// numbered is the n-th name for what is kept: path, path.1, path.2 and so on.
func numbered(path string, n int) string {
	if n == 0 {
		return path
	}
	return fmt.Sprintf("%s.%d", path, n)
}

// createNumbered makes a file under the first name that is free.
func createNumbered(path string) (*os.File, error) {
	for n := 0; ; n++ {
		f, err := os.OpenFile(numbered(path, n), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if !errors.Is(err, fs.ErrExist) {
			return f, err
		}
	}
}

// moveAside gives a file the first name with suffix that is free. Nobody else
// makes files here: the ledger's lock keeps a second node out.
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

// prefix is the part of a recording that can be trusted after a crash.
type prefix struct {
	header   Header
	offset   int64 // of its end
	sequence uint64
	head     [32]byte
	next     Position
	end      *End // nil: there is no signed end
}

// scanPrefix reads whole groups with valid signatures.
func scanPrefix(f io.Reader, key ed25519.PublicKey) (prefix, error) {
	var s prefix
	b, err := NewBlockReader(f)
	for err == nil {
		var k *Block
		if k, err = b.Next(); err != nil || !k.SignedBy(key) {
			break
		}
		switch k.Type {
		case BlockHeader:
			if s.header, err = ParseHeader(k.Payload); err != nil {
				return s, fmt.Errorf("%w: %w", errDamaged, err)
			}
		case BlockEnd:
			end, err := ParseEnd(k.Payload)
			if err != nil {
				return s, fmt.Errorf("%w: %w", errDamaged, err)
			}
			s.end = &end
		}
		if !b.MidGroup() {
			s.offset, s.sequence, s.head, s.next = b.Offset(), b.Sequence(), b.Chain(), b.NextFrame()
		}
	}
	var format *FormatError
	if err != nil && !errors.Is(err, io.EOF) && !errors.As(err, &format) {
		return s, err
	}
	switch {
	case s.end != nil && format != nil:
		return s, fmt.Errorf("%w: %w", errDamaged, format)
	case s.sequence >= 2:
		return s, nil
	case errors.Is(err, io.EOF), format != nil && format.Cut:
		return s, errUnbegun
	case format != nil:
		return s, fmt.Errorf("%w: %w", errDamaged, format)
	}
	return s, fmt.Errorf("%w: its header is not signed by this node", errDamaged)
}
