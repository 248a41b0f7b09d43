package replay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/term"

	"sallyport/internal/picture"
	"sallyport/internal/screen"
	"sallyport/recorder"
	"sallyport/recorder/trec"
)

// Clock is the time that a Player waits by.
type Clock interface {
	Now() time.Time
	// After sends once d has passed; stop gives up on it.
	After(d time.Duration) (fired <-chan time.Time, stop func())
}

type realClock struct{}

func (realClock) Now() time.Time { return time.Now() }

func (realClock) After(d time.Duration) (<-chan time.Time, func()) {
	t := time.NewTimer(d)
	return t.C, func() { t.Stop() }
}

// Step is how far the arrow keys seek.
const Step = 10 * time.Second

// Speeds of a Player are between these.
const (
	MinSpeed = 1.0 / 16
	MaxSpeed = 64.0
)

// Player plays a session to a terminal. Keys: space pauses and goes on, left
// and right seek by Step, + and - change the speed, q or Ctrl-C ends.
//
// It goes to another time by the pictures that the recording holds, in both
// directions: the screen as it was then is drawn at once.
type Player struct {
	File *File
	Out  io.Writer
	// Keys is read for keys, nil: none. A Read may be left waiting when Play
	// returns; it ends with the next key or when Keys is closed.
	Keys  io.Reader
	Clock Clock         // nil: the real one
	Speed float64       // 0: 1
	At    time.Duration // where to begin
	Idle  time.Duration // longer pauses are played as this; 0: as they were

	reader  *Reader
	picture *picture.Writer
	meta    recorder.Meta
	at      time.Duration // of the recording: how far it has been shown
	last    time.Duration // of the frame that was shown last
	next    trec.Entry
	have    bool
	due     time.Duration // of next, since the start of the recording
	paused  bool
	titled  bool // the title of the window was set
	pressed <-chan byte
	quit    bool
	arrow   int // bytes of an arrow key that were read
}

// PlayFile plays on a terminal: raw mode while it plays, restored afterwards.
// When in is not a terminal it plays without keys.
func (p *Player) PlayFile(ctx context.Context, in *os.File) error {
	if !term.IsTerminal(int(in.Fd())) {
		return p.Play(ctx)
	}
	if m := p.File.Meta(); m.PTY {
		columns, rows := windowOf(m)
		if width, height, err := term.GetSize(int(in.Fd())); err == nil && (width < columns || height < rows) {
			fmt.Fprintf(p.Out, "The session had a window of %d columns and %d rows, this one has %d and %d: the picture may be torn.\r\n", columns, rows, width, height)
		}
	}
	state, err := term.MakeRaw(int(in.Fd()))
	if err != nil {
		return fmt.Errorf("prepare the terminal: %w", err)
	}
	p.Keys = in
	return errors.Join(p.Play(ctx), term.Restore(int(in.Fd()), state))
}

// Play plays to the end, to a quit key (nil) or until ctx is done.
func (p *Player) Play(ctx context.Context) error {
	if p.Clock == nil {
		p.Clock = realClock{}
	}
	if p.Speed == 0 {
		p.Speed = 1
	}
	p.Speed = min(max(p.Speed, MinSpeed), MaxSpeed)
	p.meta = p.File.Meta()
	done := make(chan struct{})
	defer close(done)
	p.pressed = p.listen(done)
	err := p.begin()
	for err == nil && !p.quit && (p.have || p.paused) {
		err = p.step(ctx)
	}
	end := picture.Leave
	if p.titled {
		end += picture.Title("")
	}
	_, writeErr := io.WriteString(p.Out, end)
	return errors.Join(err, writeErr)
}

// listen reads keys without making Play wait for them.
func (p *Player) listen(done <-chan struct{}) <-chan byte {
	if p.Keys == nil {
		return nil
	}
	keys := make(chan byte)
	go func() {
		defer close(keys)
		buffer := make([]byte, 16)
		for {
			n, err := p.Keys.Read(buffer)
			for _, c := range buffer[:n] {
				select {
				case keys <- c:
				case <-done:
					return
				}
			}
			if err != nil {
				return
			}
		}
	}()
	return keys
}

// begin opens the recording where the play begins.
func (p *Player) begin() (err error) {
	if p.At > 0 {
		return p.seek(p.At)
	}
	p.picture = picture.New(p.Out, !p.meta.PTY)
	if p.reader, err = p.File.Frames(); err != nil {
		return err
	}
	return p.fetch()
}

// fetch gets the next frame that is shown.
func (p *Player) fetch() error {
	p.have = false
	for {
		e, err := p.reader.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if !shown(e.Kind) && e.Kind != trec.KindResize {
			continue
		}
		p.next, p.have = e, true
		// A clock that was set back does not turn the play back.
		p.due = max(e.Time.Sub(p.meta.Start), p.last)
		return nil
	}
}

// show writes the next frame.
func (p *Player) show() error {
	p.at, p.last = p.due, p.due
	var err error
	if p.next.Kind == trec.KindResize {
		err = p.tellSize(p.next.Data)
	} else {
		_, err = p.picture.Write(p.next.Data)
	}
	return errors.Join(err, p.fetch())
}

// tellSize tells the window's new size in the title of the auditor's window,
// which leaves the picture alone.
func (p *Player) tellSize(data []byte) error {
	w, err := recorder.DecodeResize(data)
	if err != nil {
		return nil // not worth ending the play
	}
	p.titled = true
	_, err = io.WriteString(p.Out, picture.Title(fmt.Sprintf("replay: the window has %d columns and %d rows now", w.Columns, w.Rows)))
	return err
}

// seek draws the screen as it was at a time of the recording, and goes on from there.
func (p *Player) seek(to time.Duration) error {
	to = max(to, 0)
	r, snapshot, err := p.File.Seek(to)
	if err != nil {
		return err
	}
	columns, rows := windowOf(p.meta)
	model := screen.New(columns, rows)
	p.reader, p.last = r, 0
	if len(snapshot.Data) > 0 {
		model = screen.Restore(snapshot.Data, columns, rows)
		p.last = max(snapshot.Time.Sub(p.meta.Start), 0)
	}
	for err = p.fetch(); err == nil && p.have && p.due <= to; err = p.fetch() {
		feed(model, p.meta, p.next)
		p.last = p.due
	}
	if err != nil {
		return err
	}
	p.at = to
	switch {
	case !p.have:
		p.at = p.last
	case p.Idle > 0:
		p.at = min(to, p.last+p.Idle) // what is left of a pause is played as Idle
	}
	return p.draw(model)
}

// draw clears the auditor's screen and draws a model. What the model says of
// cursor keys, mouse and title is not for the auditor's terminal.
func (p *Player) draw(model *screen.Screen) error {
	if _, err := io.WriteString(p.Out, picture.Clear); err != nil {
		return err
	}
	p.picture = picture.New(p.Out, false)
	if _, err := p.picture.Write(model.Snapshot()); err != nil || p.meta.PTY {
		return err // the snapshot may end inside a sequence, which goes on in the next frame
	}
	p.picture = picture.New(p.Out, true)
	return nil
}

// forward seeks by Step. Out of a pause that is cut short it goes to its end.
func (p *Player) forward() error {
	to := p.at + Step
	if p.have && p.Idle > 0 && p.due > to && p.due-p.last > p.Idle {
		to = p.due
	}
	return p.seek(to)
}

// wait is how much of the recording's time is left before the next frame.
func (p *Player) wait() time.Duration {
	if left := p.last + p.Idle - p.at; p.Idle > 0 && p.due-p.last > p.Idle {
		return max(left, 0)
	}
	return p.due - p.at
}

// step waits for the next frame or key and acts on it.
func (p *Player) step(ctx context.Context) error {
	var fired <-chan time.Time
	begin := p.Clock.Now()
	if !p.paused {
		wait := time.Duration(float64(p.wait()) / p.Speed)
		if wait <= 0 {
			select { // a flood must not lock the keys out
			case k, ok := <-p.pressed:
				return p.press(k, ok)
			case <-ctx.Done():
				return ctx.Err()
			default:
				return p.show()
			}
		}
		var stop func()
		fired, stop = p.Clock.After(wait)
		defer stop()
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-fired:
		return p.show()
	case k, ok := <-p.pressed:
		if !p.paused {
			passed := time.Duration(float64(p.Clock.Now().Sub(begin)) * p.Speed)
			p.at = min(p.at+passed, p.at+p.wait())
		}
		return p.press(k, ok)
	}
}

// press acts on a key, or on the end of the keys: nobody could end a pause then.
func (p *Player) press(k byte, ok bool) error {
	if !ok {
		p.pressed, p.paused = nil, false
		return nil
	}
	return p.key(k)
}

// key acts on one byte of the keyboard; arrows are ESC [ C and ESC [ D.
func (p *Player) key(k byte) error {
	arrow := p.arrow
	p.arrow = 0
	switch {
	case arrow == 0 && k == 0x1b:
		p.arrow = 1
	case arrow == 1 && (k == '[' || k == 'O'):
		p.arrow = 2
	case arrow == 2 && k == 'C':
		return p.forward()
	case arrow == 2 && k == 'D':
		return p.seek(p.at - Step)
	case arrow == 2:
	case k == ' ':
		p.paused = !p.paused
	case k == '+' || k == '=':
		p.Speed = min(p.Speed*2, MaxSpeed)
	case k == '-':
		p.Speed = max(p.Speed/2, MinSpeed)
	case k == 'q' || k == 3:
		p.quit = true
	}
	return nil
}
