package recorder

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"crypto/ed25519"
)

const (
	damagedSuffix = ".damaged" // a recording that could not be closed
	tornSuffix    = ".torn"    // what a crash left after the last whole group
)

// errDamaged marks a recording that must not be touched further.
var errDamaged = errors.New("damaged")

// Recover closes recordings that a crash left open: it cuts a torn tail, appends a signed end
// "crashed" and returns them by session. Call it once, before Start.
//
// The cut bytes are kept beside the recording (.torn): nothing that was ever
// acknowledged is among them, but nothing is destroyed either. A recording
// that has no readable header, or is damaged further back than the last
// commit can reach, is renamed (.damaged), reported with that reason, and
// left as evidence.
func (r *Recorder) Recover(ctx context.Context) (map[string]Result, error) {
	entries, err := os.ReadDir(r.o.Dir)
	if err != nil {
		return nil, fmt.Errorf("recover recordings: %w", err)
	}
	results := map[string]Result{}
	for _, e := range entries {
		session, ok := strings.CutSuffix(e.Name(), recordingSuffix)
		if !ok || !e.Type().IsRegular() {
			continue
		}
		if err := ctx.Err(); err != nil {
			return results, err
		}
		result, open, err := r.recoverFile(session)
		if errors.Is(err, errDamaged) {
			r.o.Log.Error("a recording is damaged and was set aside", "session", session, "error", err)
			if err := r.setAside(session); err != nil {
				return results, err
			}
			result, open, err = Result{Reason: ReasonDamaged}, true, nil
		}
		if err != nil {
			return results, fmt.Errorf("recover recording %s: %w", session, err)
		}
		if open {
			results[session] = result
		}
	}
	return results, nil
}

func (r *Recorder) setAside(session string) error {
	if err := os.Rename(r.Path(session), r.Path(session)+damagedSuffix); err != nil {
		return fmt.Errorf("set a damaged recording aside: %w", err)
	}
	return syncDir(r.o.Dir)
}

// recoverFile closes one recording; open is false when it had an end already.
func (r *Recorder) recoverFile(session string) (result Result, open bool, err error) {
	f, err := os.OpenFile(r.Path(session), os.O_RDWR, 0)
	if err != nil {
		return result, false, err
	}
	defer f.Close()
	state, err := scanPrefix(f, r.o.Signer.Public().(ed25519.PublicKey))
	if err != nil || state.ended {
		return result, false, err
	}
	if state.header.Session != session {
		return result, true, fmt.Errorf("%w: the file of %s holds session %q", errDamaged, session, state.header.Session)
	}
	torn, err := r.cutTail(f, state)
	if err != nil {
		return result, true, err
	}
	c := newChain(r.o.Signer)
	c.sequence, c.head = state.sequence, state.head
	end, err := json.Marshal(End{Reason: ReasonCrashed, Frames: uint64(state.next) - 1, Blocks: c.sequence + 1,
		Time: r.o.Clock().UTC(), BytesIn: -1, BytesOut: -1, Torn: torn})
	if err != nil {
		return result, true, err
	}
	out := diskFile{f}
	if err := writeAll(out, c.append(nil, BlockInfo{Type: BlockEnd, Time: r.o.Clock()}, end, nil)); err != nil {
		return result, true, err
	}
	if err := out.Sync(); err != nil {
		return result, true, err
	}
	r.o.Log.Warn("closed a recording after a crash", "session", session, "frames", uint64(state.next)-1, "torn_bytes", torn)
	return Result{Reason: ReasonCrashed, Blocks: c.sequence, Head: c.headHex()}, true, nil
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
	t, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(t, f)
	if err == nil {
		err = t.Sync()
	}
	if err = errors.Join(err, t.Close()); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

// prefix is the part of a recording that can be trusted after a crash.
type prefix struct {
	header   Header
	offset   int64 // of its end
	sequence uint64
	head     [32]byte
	next     Position
	ended    bool
}

// scanPrefix reads whole groups with valid signatures.
func scanPrefix(f *os.File, key ed25519.PublicKey) (prefix, error) {
	var s prefix
	b, err := NewBlockReader(f)
	var format *FormatError
	for err == nil {
		var k *Block
		if k, err = b.Next(); err != nil {
			break
		}
		if !k.SignedBy(key) {
			break
		}
		switch k.Type {
		case BlockHeader:
			if s.header, err = ParseHeader(k.Payload); err != nil {
				return s, fmt.Errorf("%w: %w", errDamaged, err)
			}
		case BlockEnd:
			s.ended = true
		}
		if !b.MidGroup() {
			s.offset, s.sequence, s.head, s.next = b.Offset(), b.Sequence(), b.Chain(), b.NextFrame()
		}
	}
	if err != nil && !errors.Is(err, io.EOF) && !errors.As(err, &format) {
		return s, err
	}
	if s.ended && format != nil {
		return s, fmt.Errorf("%w: %w", errDamaged, format)
	}
	if s.sequence < 2 {
		return s, fmt.Errorf("%w: it ends inside its header", errDamaged)
	}
	return s, nil
}
