package replay_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"filippo.io/age"

	"sallyport/recorder/ledger"
	"sallyport/recorder/tlog"
	"sallyport/recorder/trec"
	"sallyport/replay"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func value[T any](t testing.TB) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		must(t, err)
		return v
	}
}

var begin = time.Date(2026, 3, 1, 9, 0, 0, 0, time.UTC)

// quiet is a clock so late that no file counts as written to just now.
type quiet struct{}

func (quiet) Now() time.Time { return time.Date(2199, 1, 1, 0, 0, 0, 0, time.UTC) }
func (quiet) After(time.Duration) (<-chan time.Time, func()) {
	fired := make(chan time.Time, 1)
	fired <- time.Time{}
	return fired, func() {}
}

// state is what a node leaves on its disk: recordings and a ledger.
type state struct {
	dir     string
	node    string
	signer  ed25519.PrivateKey
	key     ed25519.PublicKey
	codecs  *trec.Codecs
	id      *age.X25519Identity
	log     *tlog.Log
	entries [][]byte // of the ledger, to write it anew
	number  int64
}

func newState(t testing.TB, node string) *state {
	t.Helper()
	seed := sha256.Sum256([]byte(node))
	s := &state{dir: t.TempDir(), node: node, signer: ed25519.NewKeyFromSeed(seed[:]),
		codecs: value[*trec.Codecs](t)(trec.NewCodecs(1)), id: value[*age.X25519Identity](t)(age.GenerateX25519Identity())}
	s.key = s.signer.Public().(ed25519.PublicKey)
	must(t, os.MkdirAll(s.recordings(), 0o700))
	s.open(t)
	return s
}

func (s *state) recordings() string { return filepath.Join(s.dir, "recordings") }
func (s *state) ledger() string     { return filepath.Join(s.dir, "ledger") }
func (s *state) origin() string     { return "sallyport/" + s.node }
func (s *state) path(session string) string {
	return filepath.Join(s.recordings(), session+replay.Extension)
}

func (s *state) open(t testing.TB) {
	t.Helper()
	must(t, os.MkdirAll(s.ledger(), 0o700))
	s.log = value[*tlog.Log](t)(tlog.Open(tlog.Options{Dir: s.ledger(), Origin: s.origin(), Signer: s.signer, PublishInterval: -1}))
	t.Cleanup(func() {
		if s.log != nil {
			_ = s.log.Close()
		}
	})
}

// publish brings the ledger to rest, as a stopped node leaves it.
func (s *state) publish(t testing.TB) {
	t.Helper()
	must(t, s.log.Close())
	s.log = nil
}

// anew writes a whole other ledger, signed with the node's own key.
func (s *state) anew(t testing.TB, entries [][]byte) {
	t.Helper()
	if s.log != nil {
		s.publish(t)
	}
	must(t, os.RemoveAll(s.ledger()))
	s.open(t)
	s.entries = nil
	for _, e := range entries {
		s.enter(t, e)
	}
	s.publish(t)
}

func (s *state) enter(t testing.TB, entry []byte) int64 {
	t.Helper()
	s.entries = append(s.entries, entry)
	return value[int64](t)(s.log.Append(context.Background(), entry))
}

func (s *state) tell(t testing.TB, l ledger.Leaf) int64 {
	t.Helper()
	return s.enter(t, value[[]byte](t)(l.Encode()))
}

// event is an entry that only commits to a text, which lies sealed beside the tree.
func (s *state) event(t testing.TB) {
	t.Helper()
	leaf := tlog.Commit(tlog.Salt{}, []byte("event"))
	s.entries = append(s.entries, leaf)
	value[int64](t)(s.log.AppendEntries(context.Background(), tlog.Entry{Leaf: leaf, Key: tlog.KeyID{Project: "genomics", Quarter: "2026q1"}, Sealed: []byte("sealed")}))
}

// recorded is a session as it is written: what an engine does, step by step.
type recorded struct {
	s       *state
	session string
	number  int64
	file    *os.File
	w       *trec.Writer
	leaf    int
	at      time.Time
}

func (s *state) begin(t testing.TB, session string) *recorded {
	t.Helper()
	s.number++
	r := &recorded{s: s, session: session, number: s.number, at: begin}
	s.tell(t, ledger.Leaf{Kind: ledger.KindOpen, Session: session, Number: r.number})
	r.file = value[*os.File](t)(os.Create(s.path(session)))
	t.Cleanup(func() { _ = r.file.Close() })
	r.w = value[*trec.Writer](t)(trec.NewWriter(r.file, s.options(session)))
	r.tellLeaves(t)
	return r
}

func (s *state) options(session string) trec.Options {
	return trec.Options{Session: session, Node: s.node, Epoch: "genomics-2026Q1", Start: begin, Meta: []byte(`{}`),
		Recipients: s.id.Recipient().String(), StrictRecipients: s.id.Recipient().String(), Signer: s.signer, Codecs: s.codecs}
}

// tellLeaves tells the ledger of what is new in the file, as anybody can read it there.
func (r *recorded) tellLeaves(t testing.TB) {
	t.Helper()
	for _, h := range leavesOf(t, r.s.path(r.session), r.s.key)[r.leaf:] {
		r.s.tell(t, ledger.Leaf{Kind: ledger.KindSegment, Session: r.session, Segment: uint32(r.leaf), Hash: hex.EncodeToString(h[:])})
		r.leaf++
	}
}

func leavesOf(t testing.TB, path string, key ed25519.PublicKey) (all []trec.Hash) {
	t.Helper()
	for _, l := range segmentsOf(t, path, key) {
		all = append(all, l.Hash)
	}
	return all
}

// segmentsOf gives the leaves of a file; the first is what stands before the first segment.
func segmentsOf(t testing.TB, path string, key ed25519.PublicKey) (all []trec.Leaf) {
	t.Helper()
	in := value[*os.File](t)(os.Open(path))
	defer in.Close()
	_, err := trec.Verify(in, key, func(l trec.Leaf) error {
		all = append(all, l)
		return nil
	})
	must(t, err)
	return all
}

// show seals a group of its own.
func (r *recorded) show(t testing.TB, text string) {
	t.Helper()
	r.at = r.at.Add(time.Second)
	value[trec.Position](t)(r.w.Add(trec.Frame{Kind: trec.KindOutput, Time: r.at, Data: []byte(text)}))
	value[trec.Position](t)(r.w.Add(trec.Frame{Kind: trec.KindInput, Time: r.at, Data: []byte("x")}))
	value[[]trec.Leaf](t)(r.w.Seal(trec.EffortBest))
	r.tellLeaves(t)
}

// end writes the signed end, without telling the ledger.
func (r *recorded) end(t testing.TB, reason string) {
	t.Helper()
	value[trec.Summary](t)(r.w.Close(r.at.Add(time.Second), reason))
	must(t, r.file.Close())
}

func (r *recorded) close(t testing.TB, reason string) int64 {
	t.Helper()
	r.end(t, reason)
	report := value[replay.Report](t)(replay.Verify(r.s.path(r.session), r.s.key))
	return r.s.tell(t, ledger.Leaf{Kind: ledger.KindClose, Session: r.session, Number: r.number, Hash: report.Root, Size: report.Bytes, Reason: reason})
}

// session records one with three groups, from open to close.
func (s *state) session(t testing.TB, name string) {
	t.Helper()
	r := s.begin(t, name)
	for i := range 3 {
		r.show(t, fmt.Sprintf("%s says %d", name, i))
		s.event(t)
	}
	r.close(t, "exit")
}

func (s *state) files() replay.NodeFiles {
	files := replay.FilesIn(s.dir, s.key)
	files.Clock = quiet{}
	return files
}

func (s *state) verify(t testing.TB, files replay.NodeFiles) replay.NodeReport {
	t.Helper()
	r := value[replay.NodeReport](t)(replay.VerifyNode(t.Context(), files))
	for _, f := range found(r) {
		if f.Text == "" || f.File == "" || f.Code == "" {
			t.Errorf("a finding that does not say what it is: %+v", f)
		}
	}
	return r
}

// found is everything that a report has to say.
func found(r replay.NodeReport) []replay.Finding {
	all := slices.Clone(r.Findings)
	for _, f := range r.Recordings {
		all = append(all, f.Findings...)
	}
	return all
}

// alarms are the codes of what is broken, each once.
func alarms(findings []replay.Finding) (codes []string) {
	for _, f := range findings {
		if f.Broken && !slices.Contains(codes, f.Code) {
			codes = append(codes, f.Code)
		}
	}
	slices.Sort(codes)
	return codes
}

func has(findings []replay.Finding, code string) bool {
	return slices.ContainsFunc(findings, func(f replay.Finding) bool { return f.Code == code })
}

func read(t testing.TB, path string) []byte {
	t.Helper()
	return value[[]byte](t)(os.ReadFile(path))
}

func write(t testing.TB, path string, data []byte) {
	t.Helper()
	must(t, os.WriteFile(path, data, 0o600))
}

func copyState(t testing.TB, s *state) *state {
	t.Helper()
	c := *s
	c.dir, c.log = t.TempDir(), nil
	c.entries = slices.Clone(s.entries)
	must(t, os.CopyFS(c.dir, os.DirFS(s.dir)))
	return &c
}

func verifyBytes(t testing.TB, s *state, data []byte) replay.Report {
	t.Helper()
	return value[replay.Report](t)(replay.VerifyReader(bytes.NewReader(data), "copy", s.key, nil))
}

// forge writes another recording of a session with the node's own key.
func (s *state) forge(t testing.TB, out *os.File, session string) {
	t.Helper()
	w := value[*trec.Writer](t)(trec.NewWriter(out, s.options(session)))
	for i := range 8 {
		value[trec.Position](t)(w.Add(trec.Frame{Kind: trec.KindOutput, Time: begin.Add(time.Duration(i) * time.Second), Data: []byte("nothing happened")}))
		value[[]trec.Leaf](t)(w.Seal(trec.EffortBest))
	}
	value[trec.Summary](t)(w.Close(begin.Add(time.Minute), "exit"))
	must(t, out.Close())
}
