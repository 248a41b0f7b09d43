package console

import (
	"bytes"
	"context"
	"io"
	"strings"
	"testing"
	"time"

	"sallyport/authz"
	"sallyport/bastion"
	"sallyport/internal/picture"
	"sallyport/recorder"
	"sallyport/recorder/trec"
)

// liveSession opens a session of alice's shell that nobody closes.
func (g *gate) liveSession(action authz.Action) authz.Session {
	g.t.Helper()
	epoch, err := g.authority.CurrentEpoch(g.t.Context(), "genomics")
	if err != nil {
		g.t.Fatal(err)
	}
	s, err := g.authority.OpenSession(g.t.Context(), authz.Session{Connection: "C-alice", User: "alice", Project: "genomics", Server: "db1", Account: "alice",
		Role: authz.RoleResearcher, Action: action, RemoteAddr: "192.0.2.7", Epoch: epoch.ID})
	if err != nil {
		g.t.Fatal(err)
	}
	return s
}

// fakeView shows frames and then waits, or ends the session.
type fakeView struct {
	frames []trec.Entry
	live   bool // the session goes on
	closed bool
}

func (f *fakeView) next(ctx context.Context) (trec.Entry, error) {
	if len(f.frames) == 0 {
		if f.live {
			<-ctx.Done()
			return trec.Entry{}, ctx.Err()
		}
		return trec.Entry{}, io.EOF
	}
	e := f.frames[0]
	f.frames = f.frames[1:]
	return e, nil
}

func (f *fakeView) follow(snapshot string) func(context.Context, string) (View, error) {
	return func(context.Context, string) (View, error) {
		return View{Columns: 100, Rows: 30, Snapshot: []byte(snapshot), Next: f.next, Close: func() { f.closed = true }}, nil
	}
}

func TestSessionWatch(t *testing.T) {
	g := newGate(t)
	g.project()
	s := g.liveSession(authz.ActionShell)
	ended := g.session("alice", "true")
	transfer := g.liveSession(authz.ActionSFTP)
	watch := "session watch " + s.ID + " --reason 'first day'"
	g.must(ExitFailed, "audrey", watch) // no live view here
	frames := []trec.Entry{{Kind: trec.KindOutput, Data: []byte("next\r\n\x1b[c\x1b]52;c;aGk=\x07")},
		{Kind: trec.KindResize, Data: recorder.EncodeResize(recorder.Window{Columns: 132, Rows: 50})}, {Kind: trec.KindGate, Data: []byte("last")}}
	view := &fakeView{frames: frames}
	g.console.o.Follow = view.follow("\x1b[8;30;100tnow ")
	g.must(ExitDenied, "mei", watch)
	g.must(ExitUsage, "audrey", "session watch "+s.ID)
	g.must(ExitUsage, "audrey", watch+" --json")
	g.must(ExitFailed, "audrey", "session watch "+ended.ID+" --reason 'first day'")
	g.must(ExitFailed, "audrey", "session watch "+transfer.ID+" --reason 'first day'")
	if view.closed {
		t.Error("somebody looked on")
	}
	a := g.call("audrey", watch, "")
	if a.code != ExitOK || a.out != picture.Clear+"now next\r\nlast" || !strings.Contains(a.errOut, "live") || !strings.Contains(a.errOut, "has ended") || !view.closed {
		t.Errorf("%+v", a)
	}
	var events []authz.Event
	g.json(ExitOK, "audrey", "event ls --op recording.watch", &events)
	if len(events) != 3 || events[0].Session != s.ID || events[0].UserID != "audrey" {
		t.Errorf("events %+v", events)
	}
}

// TestSessionWatchEndsByKey watches a session that goes on, in a smaller terminal.
func TestSessionWatchEndsByKey(t *testing.T) {
	g := newGate(t)
	g.project()
	s := g.liveSession(authz.ActionShell)
	for _, key := range []string{"q", "\x03"} {
		view := &fakeView{live: true}
		g.console.o.Follow = view.follow("now")
		id := g.identity("audrey")
		var out, errOut bytes.Buffer
		code := g.console.Run(t.Context(), bastion.Verb{Identity: id, Actor: id.Actor(), Args: []string{"session", "watch", s.ID, "--reason", "first day"},
			Stdin: strings.NewReader("xyz" + key), Stdout: &out, Stderr: &errOut, Columns: 80, Rows: 24, Term: true})
		if code != ExitOK || !strings.HasSuffix(out.String(), "now"+picture.Leave+picture.Title("")) || !strings.Contains(errOut.String(), "100 columns and 30 rows, yours has 80 and 24") || !view.closed {
			t.Errorf("%q: exit code %d, %q, %q", key, code, out.String(), errOut.String())
		}
	}
}

// TestSessionWatchFollowsTheRecorder watches a session that really is recorded, up to its end.
func TestSessionWatchFollowsTheRecorder(t *testing.T) {
	g := newGate(t)
	g.project()
	s := g.liveSession(authz.ActionShell)
	epoch, err := g.authority.CurrentEpoch(t.Context(), "genomics")
	if err != nil {
		t.Fatal(err)
	}
	rec, err := g.recorder.Start(t.Context(), recorder.Meta{Session: s.ID, Number: s.Number, Node: "N-test", Epoch: epoch.ID, Start: g.now,
		User: "alice", Project: "genomics", Server: "db1", Account: "alice", Action: "shell", PTY: true, Term: "xterm", Columns: 80, Rows: 24},
		recorder.Keys{Recipient: epoch.Recipient, Strict: epoch.Strict})
	if err != nil {
		t.Fatal(err)
	}
	say := func(kind recorder.Kind, text string) {
		t.Helper()
		p, err := rec.Append(recorder.Frame{Kind: kind, Data: []byte(text)})
		if err == nil {
			err = rec.Wait(t.Context(), p)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	say(recorder.KindOutput, "before ")
	id := g.identity("audrey")
	shown, out := io.Pipe()
	done := make(chan int, 1)
	var errOut bytes.Buffer
	go func() {
		done <- g.console.Run(t.Context(), bastion.Verb{Identity: id, Actor: id.Actor(), Args: []string{"session", "watch", s.ID, "--reason", "first day"},
			Stdin: strings.NewReader(""), Stdout: out, Stderr: &errOut, Columns: 80, Rows: 24, Term: true})
		out.Close()
	}()
	var all []byte
	until := func(text string) {
		t.Helper()
		buffer := make([]byte, 4096)
		for !bytes.Contains(all, []byte(text)) {
			n, err := shown.Read(buffer)
			if all = append(all, buffer[:n]...); err != nil {
				t.Fatalf("%v after %q: %s", err, all, errOut.String())
			}
		}
	}
	until("before")
	say(recorder.KindInput, "typed-unseen\r")
	say(recorder.KindOutput, "after")
	until("after")
	if _, err := rec.Close(t.Context(), "exited"); err != nil {
		t.Fatal(err)
	}
	rest, err := io.ReadAll(shown)
	if err != nil {
		t.Fatal(err)
	}
	if code := <-done; code != ExitOK || bytes.Contains(append(all, rest...), []byte("typed-unseen")) || !strings.Contains(errOut.String(), "has ended") {
		t.Errorf("exit code %d, %q, %s", code, append(all, rest...), errOut.String())
	}
}

// TestPromise2_SessionWatchEndsWithTheRight freezes a watcher, who then sees no more, not even what was in memory already.
func TestPromise2_SessionWatchEndsWithTheRight(t *testing.T) {
	g := newGate(t)
	g.project()
	s := g.liveSession(authz.ActionShell)
	feed, next := make(chan trec.Entry), make(chan struct{}, 10)
	closed := false
	g.console.o.Follow = func(context.Context, string) (View, error) {
		return View{Columns: 80, Rows: 24, Snapshot: []byte("now "), Close: func() { closed = true }, Next: func(ctx context.Context) (trec.Entry, error) {
			next <- struct{}{}
			select {
			case e := <-feed:
				return e, nil
			case <-ctx.Done():
				return trec.Entry{Kind: trec.KindOutput, Data: []byte("too late")}, nil
			}
		}}, nil
	}
	id := g.identity("audrey")
	var out, errOut bytes.Buffer
	done := make(chan int, 1)
	go func() {
		done <- g.console.Run(t.Context(), bastion.Verb{Identity: id, Actor: id.Actor(), Args: []string{"session", "watch", s.ID, "--reason", "first day"},
			Stdin: strings.NewReader(""), Stdout: &out, Stderr: &errOut, Columns: 80, Rows: 24, Term: true})
	}()
	<-next
	feed <- trec.Entry{Kind: trec.KindOutput, Data: []byte("shown")}
	<-next
	if err := g.authority.Freeze(t.Context(), g.identity("sec").Actor(), "audrey", "laptop lost"); err != nil {
		t.Fatal(err)
	}
	select {
	case code := <-done:
		if code != ExitDenied || !closed || !strings.Contains(out.String(), "shown") || strings.Contains(out.String(), "too late") || !strings.Contains(errOut.String(), "frozen") {
			t.Errorf("exit code %d, %q, %q", code, out.String(), errOut.String())
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the watching goes on")
	}
}
