package recorder

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"sallyport/internal/screen"
)

func TestFollow(t *testing.T) {
	r := open(t, testOptions(t))
	rec := start(t, r, "S-1", true, testKeys(t))
	appendDurable(t, rec, KindOutput, "before\r\n")
	f, err := r.Follow(patience(t), "S-1")
	must(t, err)
	defer f.Close()
	s := screen.New(f.Columns, f.Rows)
	_, _ = s.Write(f.Snapshot)
	if s.Row(0) != "before" || f.Position != 1 {
		t.Errorf("the view begins with %q at %d", s.Row(0), f.Position)
	}
	appendFrame(t, rec, KindInput, "secret")
	appendFrame(t, rec, KindOutput, "after")
	e, err := f.Next(patience(t))
	if err != nil || string(e.Data) != "after" || e.Position != 3 {
		t.Errorf("next %+v: %v", e, err)
	}
	if rec.Durable() < e.Position {
		t.Error("a frame was shown before it was durable")
	}
	_, err = rec.Close(patience(t), "exited")
	must(t, err)
	if _, err := f.Next(patience(t)); !errors.Is(err, io.EOF) {
		t.Errorf("after the end: %v", err)
	}
	if _, err := r.Follow(patience(t), "S-1"); !errors.Is(err, ErrNotLive) {
		t.Errorf("follow an ended session: %v", err)
	}
}

// TestSlowFollower is dropped, and the session does not notice.
func TestSlowFollower(t *testing.T) {
	r := open(t, testOptions(t))
	rec := start(t, r, "S-1", false, testKeys(t))
	f, err := r.Follow(patience(t), "S-1")
	must(t, err)
	defer f.Close()
	data := strings.Repeat("x", 64<<10)
	for range 40 {
		appendFrame(t, rec, KindOutput, data)
	}
	waitFor(t, "the end of the view", func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		return f.err != nil
	})
	if _, err := f.Next(patience(t)); !errors.Is(err, ErrSlowFollower) {
		t.Errorf("next: %v", err)
	}
	appendDurable(t, rec, KindOutput, "still here")
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if _, err := rec.Close(ctx, "exited"); err != nil {
		t.Error(err)
	}
}

// TestPictureBehindAFlood knows the screen again after plain text, and does not pretend
// to after anything else.
func TestPictureBehindAFlood(t *testing.T) {
	for name, c := range map[string]struct {
		flood string
		sure  bool
	}{
		"plain":            {strings.Repeat("a line of a long file\r\n", 5000), true},
		"colours":          {strings.Repeat("\x1b[31ma line\x1b[0m of a long file\r\n", 5000), false},
		"reset at the end": {strings.Repeat("\x1b[31ma line\r\n", 5000) + "\x1bcnew", true},
		"short":            {"no line at all", false},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPicture(Meta{Columns: 80, Rows: 24}, nil)
			want := screen.New(80, 24)
			for i, part := range []string{"\x1b[1mbefore\r\n", c.flood, "\r\nbehind"} {
				p.show(Frame{Kind: KindOutput, Data: []byte(part)}, i == 1)
				_, _ = want.Write([]byte(part))
			}
			p.since = keyframeEvery
			if p.keyframeDue() != c.sure {
				t.Fatalf("a keyframe is due: %v", !c.sure)
			}
			if c.sure && !p.screen.Equal(want) {
				t.Errorf("the screen shows\n%s\nand not\n%s", p.screen.Text(), want.Text())
			}
			if c.sure && !bytes.Equal(p.snapshot(), want.Snapshot()) {
				t.Error("another keyframe")
			}
		})
	}
}
