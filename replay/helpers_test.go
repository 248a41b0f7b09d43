package replay

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"sallyport/recorder"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// node is a recorder, a ledger and an epoch in a directory of their own.
type node struct {
	dir    string
	signer ed25519.PrivateKey
	key    ed25519.PublicKey
	epoch  recorder.EpochKeys
	rec    *recorder.Recorder
	ledger *recorder.Ledger
	now    time.Time
	number int64
}

func newNode(t testing.TB) *node {
	t.Helper()
	n := &node{dir: t.TempDir(), signer: ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, 32)),
		now: time.Date(2026, 3, 1, 9, 0, 0, 0, time.UTC)}
	n.key = n.signer.Public().(ed25519.PublicKey)
	var err error
	n.epoch, err = recorder.NewEpochKeys()
	must(t, err)
	o := recorder.Options{Dir: filepath.Join(n.dir, "recordings"), Node: "N-test", Signer: n.signer}
	n.rec, err = recorder.Open(o)
	must(t, err)
	o.Dir = filepath.Join(n.dir, "ledger")
	n.ledger, err = recorder.OpenLedger(o)
	must(t, err)
	t.Cleanup(func() { n.ledger.Close() })
	return n
}

func (n *node) keys(t testing.TB, strict bool) Keys {
	t.Helper()
	k := n.epoch
	if !strict {
		k.StrictIdentity = ""
	}
	keys, err := KeysOf(k, n.key)
	must(t, err)
	return keys
}

func (n *node) event(t testing.TB, op, session, details string) {
	t.Helper()
	s := n.ledger.Last() + 1
	must(t, n.ledger.Append(t.Context(), s, fmt.Appendf(nil,
		`{"op_type":%q,"sequence":%d,"session":%q,"result":"ok","details":%s}`, op, s, session, details)))
}

// at is a frame so long after the start of a session.
func (n *node) at(d time.Duration, k recorder.Kind, data string) recorder.Frame {
	return recorder.Frame{Kind: k, Time: n.now.Add(d), Data: []byte(data)}
}

// begin starts a session and tells the ledger.
func (n *node) begin(t testing.TB, session string, pty bool) *recorder.Recording {
	t.Helper()
	n.number++
	n.event(t, "session.open", session, fmt.Sprintf(`{"number":%d}`, n.number))
	rec, err := n.rec.Start(t.Context(), recorder.Meta{Session: session, Number: n.number, Epoch: "2026Q1", Start: n.now,
		User: "alice", Project: "genomics", Server: "db1", Account: "alice", Action: "shell", PTY: pty,
		Term: "xterm", Columns: 100, Rows: 30, RemoteAddr: "192.0.2.7"}, n.epoch.Keys())
	must(t, err)
	return rec
}

// record makes a whole session, each frame durable before the next so that
// there are many blocks.
func (n *node) record(t testing.TB, session string, pty bool, frames ...recorder.Frame) string {
	t.Helper()
	rec := n.begin(t, session, pty)
	for _, f := range frames {
		p, err := rec.Append(f)
		must(t, err)
		must(t, rec.Wait(t.Context(), p))
	}
	n.finish(t, rec, session)
	return n.rec.Path(session)
}

func (n *node) finish(t testing.TB, rec *recorder.Recording, session string) {
	t.Helper()
	result, err := rec.Close(context.Background(), "exit")
	must(t, err)
	n.event(t, "session.close", session, fmt.Sprintf(`{"number":%d,"head":%q}`, n.number, result.Head))
}

func (n *node) typical() []recorder.Frame {
	return []recorder.Frame{
		n.at(0, recorder.KindOutput, "$ "),
		n.at(time.Second, recorder.KindInput, "ls\r"),
		n.at(2*time.Second, recorder.KindOutput, "ls\r\nsamples.csv\r\n$ "),
		n.at(3*time.Second, recorder.KindExit, "\x00\x00\x00\x00"),
	}
}

func read(t testing.TB, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	must(t, err)
	return data
}

func write(t testing.TB, path string, data []byte) {
	t.Helper()
	must(t, os.WriteFile(path, data, 0o600))
}

func codes(findings []Finding) []string {
	var all []string
	for _, f := range findings {
		all = append(all, f.Code)
	}
	return all
}
