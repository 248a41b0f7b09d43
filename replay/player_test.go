package replay

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"sallyport/internal/picture"
	"sallyport/recorder"
	"sallyport/recorder/trec"
)

// script is a clock and a keyboard in one: time passes only while the player
// waits, and keys come at their time.
type script struct {
	mu    sync.Mutex
	now   time.Time
	start time.Time
	keys  []keyAt
	log   *bytes.Buffer // what was shown, with the time before each piece
	press io.Writer     // the keyboard's other end
}

type keyAt struct {
	at  time.Duration
	key string
}

func (s *script) Now() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.now
}

// After lets the time pass at once, up to the next key or the wait's end.
func (s *script) After(d time.Duration) (<-chan time.Time, func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.keys) > 0 && s.keys[0].at <= s.now.Add(d).Sub(s.start) {
		s.now = s.start.Add(max(s.keys[0].at, s.now.Sub(s.start)))
		key := s.keys[0].key
		s.keys = s.keys[1:]
		go io.WriteString(s.press, key)
		return nil, func() {}
	}
	s.now = s.now.Add(d)
	fired := make(chan time.Time, 1)
	fired <- s.now
	return fired, func() {}
}

func (s *script) Write(p []byte) (int, error) {
	fmt.Fprintf(s.log, "%v %q\n", s.Now().Sub(s.start), p)
	return len(p), nil
}

// play plays a recording with a frame at 0, 1, 2, 30, 31 and 60 seconds.
func play(t *testing.T, p Player, keys ...keyAt) (string, error) {
	t.Helper()
	n := newTape(t)
	path := n.record(t, "S-1", true, n.at(0, trec.KindOutput, "zero"), n.at(time.Second, trec.KindOutput, "one"),
		n.at(1500*time.Millisecond, trec.KindInput, "not shown"), n.at(2*time.Second, trec.KindGate, "two"),
		n.at(30*time.Second, trec.KindOutput, "thirty"), n.at(31*time.Second, trec.KindStderr, "more"),
		n.at(time.Minute, trec.KindOutput, "sixty"))
	r, w := io.Pipe()
	defer w.Close()
	var single []keyAt // one at a time, but for what comes while paused
	for _, k := range keys {
		if k.key[0] == ' ' {
			single = append(single, k)
			continue
		}
		for i := range len(k.key) {
			single = append(single, keyAt{k.at, k.key[i : i+1]})
		}
	}
	s := &script{start: n.now, now: n.now, keys: single, log: &bytes.Buffer{}, press: w}
	file, err := OpenPath(path, n.keys(t, false))
	must(t, err)
	defer file.Close()
	p.File = file
	p.Out, p.Clock, p.Keys = s, s, r
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	err = p.Play(ctx)
	log, ok := strings.CutSuffix(s.log.String(), fmt.Sprintf("%v %q\n", s.now.Sub(s.start), picture.Leave))
	if !ok {
		t.Errorf("the terminal was not restored:\n%s", s.log)
	}
	return log, err
}

// drawn is the picture after a seek: the text alone is compared.
var drawn = regexp.MustCompile(`\\x1b\[1H(\w+)\\x1b[^" ]*`)

func TestPlayer(t *testing.T) {
	cases := []struct {
		name   string
		player Player
		keys   []keyAt
		want   string
	}{
		{"as it was", Player{}, nil, `0s "zero" 1s "one" 2s "two" 30s "thirty" 31s "more" 1m0s "sixty"`},
		{"twice as fast", Player{Speed: 2}, nil, `0s "zero" 500ms "one" 1s "two" 15s "thirty" 15.5s "more" 30s "sixty"`},
		{"without pauses", Player{Idle: 3 * time.Second}, nil, `0s "zero" 1s "one" 2s "two" 5s "thirty" 6s "more" 9s "sixty"`},
		{"from the middle", Player{At: 29 * time.Second}, nil, `0s "CLEAR" 0s "zeroonetwo" 1s "thirty" 2s "more" 31s "sixty"`},
		{"from behind the end", Player{At: time.Hour}, nil, `0s "CLEAR" 0s "zeroonetwothirtymoresixty"`},
		{"forward", Player{}, []keyAt{{5 * time.Second, "\x1b[C"}}, `0s "zero" 1s "one" 2s "two" 5s "CLEAR" 5s "zeroonetwo" 20s "thirty" 21s "more" 50s "sixty"`},
		{"back", Player{At: 30500 * time.Millisecond}, []keyAt{{0, "\x1b[D"}},
			`0s "CLEAR" 0s "zeroonetwothirty" 0s "CLEAR" 0s "zeroonetwo" 9.5s "thirty" 10.5s "more" 39.5s "sixty"`},
		{"faster and slower", Player{}, []keyAt{{2 * time.Second, "+"}, {16 * time.Second, "-"}}, `0s "zero" 1s "one" 2s "two" 16s "thirty" 17s "more" 46s "sixty"`},
		{"back out of a long pause", Player{Idle: 3 * time.Second}, []keyAt{{4 * time.Second, "\x1b[D"}},
			`0s "zero" 1s "one" 2s "two" 4s "CLEAR" 4s "zero" 5s "one" 6s "two" 9s "thirty" 10s "more" 13s "sixty"`},
		{"forward over a long pause", Player{Idle: 3 * time.Second}, []keyAt{{3 * time.Second, "\x1b[C"}},
			`0s "zero" 1s "one" 2s "two" 3s "CLEAR" 3s "zeroonetwothirty" 4s "more" 7s "sixty"`},
		{"quit", Player{}, []keyAt{{10 * time.Second, "q"}}, `0s "zero" 1s "one" 2s "two"`},
		{"control-c", Player{}, []keyAt{{1500 * time.Millisecond, "\x03"}}, `0s "zero" 1s "one"`},
		{"pause and on", Player{}, []keyAt{{10 * time.Second, "  "}}, `0s "zero" 1s "one" 2s "two" 30s "thirty" 31s "more" 1m0s "sixty"`},
		{"pause, back, on", Player{}, []keyAt{{31 * time.Second, " \x1b[D\x1b[D\x1b[D\x1b[D "}},
			`0s "zero" 1s "one" 2s "two" 30s "thirty" 31s "CLEAR" 31s "zero" 31s "CLEAR"`},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			got, err := play(t, c.player, c.keys...)
			must(t, err)
			got = strings.ReplaceAll(strings.TrimSpace(got), "\n", " ")
			got = drawn.ReplaceAllString(strings.ReplaceAll(got, fmt.Sprintf("%q", picture.Clear), `"CLEAR"`), `$1`)
			if c.name == "pause, back, on" {
				if !strings.HasSuffix(got, `"sixty"`) || strings.Count(got, "CLEAR") != 4 {
					t.Errorf("got %s", got)
				}
				return
			}
			if got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

// TestPlayerTellsTheSize resizes the window in the session.
func TestPlayerTellsTheSize(t *testing.T) {
	n := newTape(t)
	size := func(columns, rows uint32) string {
		return string(recorder.EncodeResize(recorder.Window{Columns: columns, Rows: rows}))
	}
	path := n.record(t, "S-1", true, n.at(0, trec.KindOutput, "before"), n.at(1, trec.KindResize, size(132, 50)),
		n.at(2, trec.KindOutput, " after"), n.at(3, trec.KindResize, "short"))
	file, err := OpenPath(path, n.keys(t, false))
	must(t, err)
	defer file.Close()
	var out bytes.Buffer
	must(t, (&Player{File: file, Out: &out}).Play(t.Context()))
	if want := "before" + picture.Title("replay: the window has 132 columns and 50 rows now") + " after" + picture.Leave + picture.Title(""); out.String() != want {
		t.Errorf("got %q, want %q", out.String(), want)
	}
}

func TestPlayerCanceled(t *testing.T) {
	n := newTape(t)
	path := n.record(t, "S-1", false, n.at(0, trec.KindOutput, "a\nb"), n.at(time.Hour, trec.KindOutput, "late"))
	ctx, cancel := context.WithCancel(t.Context())
	var out bytes.Buffer
	file, err := OpenPath(path, n.keys(t, false))
	must(t, err)
	defer file.Close()
	p := Player{Out: &out, File: file, Clock: cancelClock{cancel}}
	if err := p.Play(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	if !strings.HasPrefix(out.String(), "a\r\nb") || strings.Contains(out.String(), "late") {
		t.Errorf("%q", out.String())
	}
}

// cancelClock ends the context as soon as the player waits.
type cancelClock struct{ cancel context.CancelFunc }

func (cancelClock) Now() time.Time { return time.Unix(0, 0) }

func (c cancelClock) After(time.Duration) (<-chan time.Time, func()) {
	c.cancel()
	return nil, func() {}
}
