package node

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"sallyport/authz"
	"sallyport/internal/config"
	"sallyport/internal/testkit"
	"sallyport/recorder"
	"sallyport/replay"
)

// crashSite is a node with one person who may open sessions; sessions are
// opened and left as the bastion would, at whichever step it is killed.
type crashSite struct {
	t      *testing.T
	config *config.Config
	keys   recorder.EpochKeys
	epoch  string
	n      *Node
	live   []*recorder.Recording
	harm   func() // what becomes of the files while the node is down
}

func newCrashSite(t *testing.T) *crashSite {
	made, c := initialised(t)
	w := &crashSite{t: t, config: c, epoch: "genomics/2026Q4", n: opened(t, c)}
	t.Cleanup(func() {
		if err := w.n.Close(); err != nil {
			t.Error(err)
		}
	})
	ctx, by := t.Context(), authz.Actor{Via: "init", RemoteAddr: "local"}
	enrol(t, w.n, made)
	w.must(w.n.Authority.AddProject(ctx, by, authz.Project{Name: "genomics"}))
	host, _, err := ed25519.GenerateKey(nil)
	w.must(err)
	hostKey, err := ssh.NewPublicKey(host)
	w.must(err)
	w.must(w.n.Authority.AddServer(ctx, by, authz.Server{Project: "genomics", Name: "db1", Address: "192.0.2.9:22",
		HostKey: string(bytes.TrimSpace(ssh.MarshalAuthorizedKey(hostKey)))}))
	w.must(w.n.Authority.AddUser(ctx, by, authz.User{Name: "alice"}))
	invite, err := w.n.inviteFor(ctx, by, "alice", 22)
	w.must(err)
	enrol(t, w.n, invite)
	until := time.Now().Add(24 * time.Hour)
	_, err = w.n.Authority.AddMember(ctx, by, authz.Membership{Project: "genomics", User: "root-admin", Role: authz.RoleManager, Reason: "for the test", ExpiresAt: until})
	w.must(err)
	manager := authz.Actor{User: "root-admin", RemoteAddr: "192.0.2.1", Via: "ssh"}
	_, err = w.n.Authority.AddMember(ctx, manager, authz.Membership{Project: "genomics", User: "alice", Role: authz.RoleResearcher, Reason: "for the test", ExpiresAt: until})
	w.must(err)
	w.keys, err = recorder.NewEpochKeys()
	w.must(err)
	w.must(w.n.Authority.AddEpoch(ctx, by, authz.Epoch{ID: w.epoch, Project: "genomics", Recipient: w.keys.Recipient, Strict: w.keys.Strict, ExpiresAt: until}))
	return w
}

func (w *crashSite) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// open has the session in the ledger, but nothing recorded.
func (w *crashSite) open() authz.Session {
	w.t.Helper()
	s, err := w.n.Authority.OpenSession(w.t.Context(), authz.Session{Connection: "C-1", User: "alice", Project: "genomics", Server: "db1", Account: "alice",
		Role: authz.RoleResearcher, Action: authz.ActionShell, RemoteAddr: "192.0.2.1", Epoch: w.epoch})
	w.must(err)
	return s
}

// begin makes a recording that is open when the node crashes.
func (w *crashSite) begin(s authz.Session) *recorder.Recording {
	w.t.Helper()
	ctx := w.t.Context()
	rec, err := w.n.Recorder.Start(ctx, recorder.Meta{Session: s.ID, Number: s.Number, Node: w.n.ID, Epoch: w.epoch, Action: "shell"}, w.keys.Keys())
	w.must(err)
	for _, text := range []string{"seen", " by", " the user"} {
		position, err := rec.Append(recorder.Frame{Kind: recorder.KindOutput, Data: []byte(text)})
		w.must(err)
		w.must(rec.Wait(ctx, position))
	}
	w.live = append(w.live, rec)
	return rec
}

// record makes the recording of a session, with its end.
func (w *crashSite) record(s authz.Session) recorder.Result {
	w.t.Helper()
	result, err := w.begin(s).Close(w.t.Context(), "killed")
	w.must(err)
	return result
}

func (w *crashSite) cut(path string, bytes int64) {
	w.t.Helper()
	info, err := os.Stat(path)
	w.must(err)
	w.must(os.Truncate(path, info.Size()-bytes))
}

// restart opens the same state again, as after kill -9.
func (w *crashSite) restart() {
	w.t.Helper()
	w.settle()
	crashed := filepath.Join(w.t.TempDir(), "state")
	testkit.CopyState(w.t, crashed, w.config.State)
	for _, rec := range w.live {
		_, err := rec.Close(w.t.Context(), "exited")
		w.must(err)
	}
	w.live = nil
	w.must(w.n.Close())
	w.must(os.RemoveAll(w.config.State))
	w.must(os.CopyFS(w.config.State, os.DirFS(crashed)))
	if w.harm != nil {
		w.harm()
		w.harm = nil
	}
	w.n = opened(w.t, w.config)
}

// settle brings the ledger's folder to where a reader finds all of it.
func (w *crashSite) settle() {
	w.t.Helper()
	w.must(w.n.Ledger.Settle(w.t.Context()))
}

func (w *crashSite) session(id string) authz.Session {
	w.t.Helper()
	found, err := w.n.Authority.Sessions(w.t.Context(), authz.Actor{User: "alice"}, authz.SessionQuery{ID: id})
	w.must(err)
	if len(found) != 1 {
		w.t.Fatalf("%d sessions %s", len(found), id)
	}
	return found[0]
}

// said are the ledger's events about how recordings rest.
func (w *crashSite) said() []authz.Event {
	w.t.Helper()
	w.settle()
	return slices.DeleteFunc(ledgerEvents(w.t, w.config, w.n), func(e authz.Event) bool { return !strings.HasPrefix(e.OpType, "recording.") })
}

func (w *crashSite) verify() replay.NodeReport {
	w.t.Helper()
	w.settle()
	r, err := replay.VerifyDir(w.t.Context(), w.config.State, w.n.NodeKey)
	w.must(err)
	return r
}

// mustVerify expects the files to fit, and the loss of a recording to be found.
func (w *crashSite) mustVerify(session string) {
	w.t.Helper()
	if r := w.verify(); !r.Intact {
		w.t.Errorf("after the restart: %s", r.Text())
	}
	path := w.n.Recorder.Path(session)
	w.must(os.Rename(path, path+".away"))
	if r := w.verify(); r.Intact {
		w.t.Errorf("the recording was deleted: %s", r.Text())
	}
	w.must(os.Rename(path+".away", path))
}

// TestPromise4_HeadOfAnEndedRecordingReachesTheLedger is kill -9 between the
// end of the recording and that of the session.
func TestPromise4_HeadOfAnEndedRecordingReachesTheLedger(t *testing.T) {
	w := newCrashSite(t)
	s := w.open()
	result := w.record(s)
	w.restart()
	got := w.session(s.ID)
	if got.Head != result.Head || got.Result != "killed" || got.ExitCode != unknownExit || got.BytesOut != int64(len("seen by the user")) {
		t.Errorf("closed as %+v, the recording ended as %+v", got, result)
	}
	if said := w.said(); len(said) != 0 {
		t.Errorf("the close says it all, and yet %+v", said)
	}
	w.mustVerify(s.ID)
}

// TestPromise4_HeadOfAFailedRecordingReachesTheLedger is a session that is
// closed already, because its recording failed.
func TestPromise4_HeadOfAFailedRecordingReachesTheLedger(t *testing.T) {
	w := newCrashSite(t)
	ctx := context.WithoutCancel(t.Context())
	s, other := w.open(), w.open()
	w.begin(s) // and the write of its end fails
	s.Result, s.BytesOut = "recording-failed", 16
	w.must(w.n.Authority.CloseSession(ctx, s))

	// Another was closed as it should be and is changed since: no restart may touch it.
	other.Head, other.Result = w.record(other).Head, "exited"
	w.must(w.n.Authority.CloseSession(ctx, other))
	path := w.n.Recorder.Path(other.ID)
	whole, err := os.ReadFile(path)
	w.must(err)
	changed := bytes.Clone(whole)
	changed[len(changed)-300] ^= 1
	w.must(os.WriteFile(path, changed, 0o600))

	for range 2 {
		w.restart()
		said := w.said()
		if len(said) != 1 || said[0].OpType != "recording.recovered" || said[0].Session != s.ID || said[0].UserID != "system" || said[0].Project != "genomics" {
			t.Fatalf("the ledger says %+v", said)
		}
		report, err := replay.Verify(w.n.Recorder.Path(s.ID), w.n.NodeKey)
		w.must(err)
		if said[0].Details["head"] != report.Root || !report.Complete || report.Reason != recorder.ReasonCrashed {
			t.Errorf("the ledger says %v, the file is %s", said[0].Details, report.Text())
		}
	}
	if now, err := os.ReadFile(path); err != nil || !bytes.Equal(now, changed) {
		t.Error("a restart rewrote a closed recording")
	}
	w.must(os.WriteFile(path, whole, 0o600))
	w.mustVerify(s.ID)
}

// TestPromise4_TheLedgerSaysWhyThereIsNoHead has sessions without a recording
// that could be closed.
func TestPromise4_TheLedgerSaysWhyThereIsNoHead(t *testing.T) {
	w := newCrashSite(t)
	unbegun, refused, damaged := w.open(), w.open(), w.open()
	refused.Result = "recording-failed" // before there was a file
	w.must(w.n.Authority.CloseSession(t.Context(), refused))
	if r := w.verify(); strings.Contains(r.Text(), "BROKEN: "+refused.ID) {
		t.Errorf("before the restart: %s", r.Text())
	}
	w.begin(damaged)
	path := w.n.Recorder.Path(damaged.ID)
	w.harm = func() {
		data, err := os.ReadFile(path)
		w.must(err)
		data[len(data)-1] ^= 1 // of the description: no crash takes what was durable
		w.must(os.WriteFile(path, data, 0o600))
	}
	for range 2 {
		w.restart()
		said := map[string]string{}
		for _, e := range w.said() {
			said[e.Session] += e.OpType
		}
		if len(said) != 3 || said[unbegun.ID] != "recording.missing" || said[refused.ID] != "recording.missing" || said[damaged.ID] != "recording.damaged" {
			t.Fatalf("the ledger says %v", said)
		}
	}
	for _, s := range []authz.Session{unbegun, damaged} {
		if got := w.session(s.ID); got.Result != "crashed" || got.Head != "" || got.ExitCode != authz.Unknown || got.BytesOut != authz.Unknown {
			t.Errorf("%s is closed as %+v", s.ID, got)
		}
	}
	// What was set aside is evidence of change, and must stay as it was found.
	if r := w.verify(); r.Intact || strings.Count(r.Text(), "BROKEN") != 1 {
		t.Errorf("after the restart: %s", r.Text())
	}
	w.cut(path+".damaged", 3)
	if r := w.verify(); r.Intact || !strings.Contains(r.Text(), "not the one that the ledger names") {
		t.Errorf("what was set aside was changed: %s", r.Text())
	}
}
