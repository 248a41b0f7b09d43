package replay

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"sallyport/recorder"
	"sallyport/recorder/trec"
)

// tape makes recordings, without a node around them.
type tape struct {
	dir    string
	signer ed25519.PrivateKey
	key    ed25519.PublicKey
	epoch  recorder.EpochKeys
	codecs *trec.Codecs
	now    time.Time // at which every session starts
	// every is after how many frames they are sealed; 0: after three.
	every int
}

func newTape(t testing.TB) *tape {
	t.Helper()
	n := &tape{dir: t.TempDir(), signer: ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, 32)),
		now: time.Date(2026, 3, 1, 9, 0, 0, 0, time.UTC)}
	n.key = n.signer.Public().(ed25519.PublicKey)
	var err error
	n.epoch, err = recorder.NewEpochKeys()
	must(t, err)
	n.codecs, err = trec.NewCodecs(1)
	must(t, err)
	return n
}

func (n *tape) keys(t testing.TB, strict bool) Keys {
	t.Helper()
	k := n.epoch
	if !strict {
		k.StrictIdentity = ""
	}
	keys, err := KeysOf(k, n.key)
	must(t, err)
	return keys
}

// at is a frame so long after the start of a session; a keyframe is a snapshot.
func (n *tape) at(d time.Duration, k trec.Kind, data string) trec.Frame {
	return trec.Frame{Kind: k, Time: n.now.Add(d), Data: []byte(data)}
}

// begin starts a recording.
func (n *tape) begin(t testing.TB, out io.Writer, m recorder.Meta) *trec.Writer {
	t.Helper()
	m.Number, m.Node, m.Epoch, m.Start, m.User, m.Project, m.Server, m.Account = 1, "N-test", "2026Q1", n.now, "alice", "genomics", "db1", "alice"
	if m.Action == "" {
		m.Action = "shell"
	}
	if m.PTY && m.Columns == 0 {
		m.Term, m.Columns, m.Rows = "xterm", 100, 30
	}
	text, err := json.Marshal(m)
	must(t, err)
	o := trec.Options{Session: m.Session, Node: "N-test", Epoch: m.Epoch, Start: m.Start, Meta: text,
		Recipients: n.epoch.Recipient, Signer: n.signer, Codecs: n.codecs}
	if m.PTY {
		o.StrictRecipients = n.epoch.Strict
	}
	w, err := trec.NewWriter(out, o)
	must(t, err)
	return w
}

// put adds a frame, sealing first when it has to.
func put(t testing.TB, w *trec.Writer, f trec.Frame, effort trec.Effort) {
	t.Helper()
	add := func() error {
		if f.Kind == trec.KindKeyframe {
			return w.Keyframe(f.Time, f.Data)
		}
		_, err := w.Add(f)
		return err
	}
	err := add()
	if errors.Is(err, trec.ErrFull) {
		_, err = w.Seal(effort)
		must(t, err)
		err = add()
	}
	must(t, err)
}

// write makes a recording in memory; without an end it is one of a crash.
func (n *tape) write(t testing.TB, m recorder.Meta, ended bool, frames ...trec.Frame) []byte {
	t.Helper()
	var out bytes.Buffer
	w := n.begin(t, &out, m)
	every := n.every
	if every == 0 {
		every = 3
	}
	for i, f := range frames {
		put(t, w, f, trec.EffortFast)
		if i%every == every-1 {
			_, err := w.Seal(trec.EffortFast)
			must(t, err)
		}
	}
	if !ended {
		_, err := w.Seal(trec.EffortFast)
		must(t, err)
		return out.Bytes()
	}
	_, err := w.Close(n.now.Add(time.Hour), "exit")
	must(t, err)
	return out.Bytes()
}

// record makes the file of a whole session.
func (n *tape) record(t testing.TB, session string, pty bool, frames ...trec.Frame) string {
	t.Helper()
	path := filepath.Join(n.dir, session+".trec")
	must(t, os.WriteFile(path, n.write(t, recorder.Meta{Session: session, PTY: pty}, true, frames...), 0o600))
	return path
}

// readAll reads a recording to its end; data is copied.
func readAll(t testing.TB, file []byte, k Keys) (*Reader, []trec.Entry, error) {
	t.Helper()
	r, err := Open(bytes.NewReader(file), k)
	if err != nil {
		return nil, nil, err
	}
	var all []trec.Entry
	for {
		e, err := r.Next()
		if errors.Is(err, io.EOF) {
			return r, all, nil
		}
		if err != nil {
			return r, all, err
		}
		e.Data = bytes.Clone(e.Data)
		all = append(all, e)
	}
}

func texts(all []trec.Entry) (s []string) {
	for _, e := range all {
		s = append(s, string(e.Data))
	}
	return s
}
