package console

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"sallyport/authz"
	"sallyport/internal/picture"
	"sallyport/recorder"
	"sallyport/recorder/trec"
)

// View is a live view of one session, out of the node's memory. It shows what is
// durable in the recording, never what was typed.
type View struct {
	// Columns and Rows are the size of the session's window, and Snapshot is
	// terminal output that draws what it shows now; empty without a terminal.
	Columns, Rows int
	Snapshot      []byte
	// Next waits for the next frame; io.EOF after the session's last.
	Next  func(context.Context) (trec.Entry, error)
	Close func()
}

// liveView is the Recorder's.
func liveView(r *recorder.Recorder) func(context.Context, string) (View, error) {
	return func(ctx context.Context, session string) (View, error) {
		f, err := r.Follow(ctx, session)
		if err != nil {
			return View{}, err
		}
		return View{Columns: f.Columns, Rows: f.Rows, Snapshot: f.Snapshot, Next: f.Next, Close: f.Close}, nil
	}
}

func (k *call) sessionWatch() *cobra.Command {
	var reason string
	c := reasonFlag(verb("watch SESSION", "Look on while a session runs; q or Ctrl-C ends it", func(c *cobra.Command, args []string) error {
		if k.json {
			return Usagef("a live session is no JSON; leave --json out")
		}
		s, err := k.findSession(c, args[0])
		if err != nil {
			return err
		}
		if s.Result != "" {
			return fmt.Errorf("session %s has ended; `sallyport replay` plays its recording", s.ID)
		}
		if s.Action == authz.ActionSFTP {
			return fmt.Errorf("session %s moves files by sftp, which nobody can watch", s.ID)
		}
		if s, err = k.Authority.WatchSession(c.Context(), k.by(), s.ID, reason); err != nil {
			return err
		}
		return k.watch(c.Context(), s)
	}), &reason)
	c.Example = "  ssh -t gate session watch 12 --reason '\"first day of a new account\"'"
	return c
}

// watch shows a session until it ends, the watcher has enough, or has gone.
func (k *call) watch(ctx context.Context, s authz.Session) error {
	view, err := k.Follow(ctx, s.ID)
	if err != nil {
		return fmt.Errorf("session %s cannot be watched on this node: %w", s.ID, err)
	}
	leave := sync.OnceFunc(view.Close)
	defer leave()
	ctx, enough := context.WithCancel(ctx)
	defer enough()
	lost := make(chan error, 1) // what KeepWatching refused; closed once nobody asks any more
	go func() {
		defer close(lost)
		if err := k.askAgain(ctx, s.ID); err != nil {
			lost <- err
			enough()
		}
	}()
	k.endByKey(enough)
	title := fmt.Sprintf("session %s of %s at %s/%s, live", s.ID, s.User, s.Project, s.Server)
	fmt.Fprintf(k.verb.Stderr, "sallyport: %s; q or Ctrl-C ends the watching\n", title)
	out := &livePicture{k: k, terminal: len(view.Snapshot) > 0, title: title}
	err = out.show(ctx, view)
	gone := ctx.Err() != nil
	enough()
	leave()
	cause := <-lost
	if k.verb.Term && out.terminal {
		if _, writeErr := io.WriteString(k.out, picture.Leave+picture.Title("")); writeErr != nil && cause == nil {
			return nil // nobody is there any more
		}
	}
	switch {
	case cause != nil: // before the ledger is asked, nothing is shown any more
		return k.Authority.EndWatch(context.WithoutCancel(ctx), k.by(), s, cause)
	case errors.Is(err, io.EOF):
		fmt.Fprintf(k.verb.Stderr, "sallyport: session %s has ended\n", s.ID)
		return nil
	case gone:
		return nil
	}
	return err
}

// watchBlind is how long a watching goes on while the state cannot be read.
const watchBlind = 4 * time.Second

// askAgain asks, at every change and each second, whether the watcher may still look on. It returns
// why not, or nil once ctx is done.
func (k *call) askAgain(ctx context.Context, session string) error {
	second := time.NewTicker(time.Second)
	defer second.Stop()
	seen := time.Now()
	for {
		changed := k.Authority.Changed() // before asking, so that no change is missed
		err := k.Authority.KeepWatching(ctx, k.verb.Identity, session)
		var refused *authz.Refusal
		switch {
		case ctx.Err() != nil:
			return nil
		case err == nil:
			seen = time.Now()
		case errors.As(err, &refused), time.Since(seen) > watchBlind:
			return err
		}
		select {
		case <-changed:
		case <-second.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// endByKey ends the watching by q or Ctrl-C, which a terminal sends as a byte.
func (k *call) endByKey(enough func()) {
	if k.verb.Stdin == nil || !k.verb.Term {
		return
	}
	go func() { // ends with the channel at the latest, which ends with the verb
		buffer := make([]byte, 16)
		for {
			n, err := k.verb.Stdin.Read(buffer)
			for _, c := range buffer[:n] {
				if c == 'q' || c == 3 {
					enough()
					return
				}
			}
			if err != nil {
				return
			}
		}
	}()
}

// sizeNote says that the picture will not fit; empty when it does.
func (k *call) sizeNote(columns, rows int) string {
	if columns == 0 || k.verb.Columns >= columns && k.verb.Rows >= rows {
		return ""
	}
	return fmt.Sprintf("the session has a window of %d columns and %d rows, yours has %d and %d: the picture may be torn",
		columns, rows, k.verb.Columns, k.verb.Rows)
}

// livePicture draws a live session.
type livePicture struct {
	k        *call
	terminal bool   // the session has one
	title    string // of the watcher's window
}

func (p *livePicture) show(ctx context.Context, view View) error {
	out := picture.New(p.k.out, !p.terminal)
	if p.terminal {
		if err := p.begin(view); err != nil {
			return err
		}
		if _, err := out.Write(view.Snapshot); err != nil {
			return err
		}
	}
	for {
		e, err := view.Next(ctx)
		if err == nil {
			err = ctx.Err() // what is still in memory is not for one who lost the right
		}
		if err != nil {
			return err
		}
		switch e.Kind {
		case trec.KindOutput, trec.KindStderr, trec.KindGate:
			_, err = out.Write(e.Data)
		case trec.KindResize:
			err = p.resized(e.Data)
		}
		if err != nil {
			return err
		}
	}
}

// begin clears the watcher's terminal. The title says what is watched, since
// the picture takes all the rest.
func (p *livePicture) begin(view View) error {
	text := picture.Clear
	if p.k.verb.Term {
		text += picture.Title(p.title)
		if note := p.k.sizeNote(view.Columns, view.Rows); note != "" {
			fmt.Fprintf(p.k.verb.Stderr, "sallyport: %s\n", note)
			text += picture.Title(p.title + "; " + note)
		}
	}
	_, err := io.WriteString(p.k.out, text)
	return err
}

// resized tells the new size in the title of the watcher's window, which
// leaves the picture alone.
func (p *livePicture) resized(data []byte) error {
	w, err := recorder.DecodeResize(data)
	if err != nil || !p.k.verb.Term {
		return nil
	}
	_, err = io.WriteString(p.k.out, picture.Title(fmt.Sprintf("%s; its window has %d columns and %d rows now", p.title, w.Columns, w.Rows)))
	return err
}
