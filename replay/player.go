package replay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/term"

	"sallyport/recorder"
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
type Player struct {
	// Open opens the recording from its beginning; it is called again to seek backwards.
	Open func() (*Reader, error)
	Out  io.Writer
	// Keys is read for keys, nil: none. A Read may be left waiting when Play
	// returns; it ends with the next key or when Keys is closed.
	Keys  io.Reader
	Clock Clock         // nil: the real one
	Speed float64       // 0: 1
	At    time.Duration // where to begin
	Idle  time.Duration // longer pauses are played as this; 0: as they were

	reader  *Reader
	picture *pictureWriter
	at      time.Duration // of the recording that has been shown
	shift   time.Duration // what the idle limit has cut out up to here
	next    recorder.Entry
	have    bool
	due     time.Duration // of next, since the start of the recording
	paused  bool
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
	state, err := term.MakeRaw(int(in.Fd()))
	if err != nil {
		return fmt.Errorf("prepare the terminal: %w", err)
	}
	p.Keys = in
	return errors.Join(p.Play(ctx), term.Restore(int(in.Fd()), state))
}

// restoreScreen undoes what a recording may have left switched on.
const (
	restoreScreen = "\x1b(B\x1b[0m\x1b[r\x1b[?1049l\x1b[?25h\x1b[?7h\x1b[?5l\x1b[?6l\x1b[?1l\x1b>\x1b[4l"
	clearScreen   = restoreScreen + "\x1b[2J\x1b[H"
	// leaveScreen puts the cursor below all that was played: restoreScreen homes it.
	leaveScreen = restoreScreen + "\x1b[999;1H\r\n"
)

// Play plays to the end, to a quit key (nil) or until ctx is done.
func (p *Player) Play(ctx context.Context) error {
	if p.Clock == nil {
		p.Clock = realClock{}
	}
	if p.Speed == 0 {
		p.Speed = 1
	}
	p.Speed = min(max(p.Speed, MinSpeed), MaxSpeed)
	if err := p.rewind(); err != nil {
		return err
	}
	defer func() { p.reader.Close() }()
	done := make(chan struct{})
	defer close(done)
	p.pressed = p.listen(done)
	err := p.seek(p.At)
	for err == nil && !p.quit && (p.have || p.paused) {
		err = p.step(ctx)
	}
	_, writeErr := io.WriteString(p.Out, leaveScreen)
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

func (p *Player) rewind() error {
	if p.reader != nil {
		p.reader.Close()
	}
	r, err := p.Open()
	if err != nil {
		return err
	}
	p.reader, p.at, p.shift = r, 0, 0
	p.picture = newPictureWriter(p.Out, !r.Meta().PTY)
	return p.fetch()
}

// fetch gets the next frame that is shown.
func (p *Player) fetch() error {
	for {
		e, err := p.reader.Next()
		if errors.Is(err, io.EOF) {
			p.have = false
			return nil
		}
		if err != nil {
			p.have = false
			return err
		}
		switch e.Kind {
		case recorder.KindOutput, recorder.KindStderr, recorder.KindGate:
		default:
			continue
		}
		p.next, p.have = e, true
		due := max(e.Time.Sub(p.reader.Meta().Start), p.at+p.shift)
		if pause := due - p.shift - p.at; p.Idle > 0 && pause > p.Idle {
			p.shift += pause - p.Idle
		}
		p.due = due - p.shift
		return nil
	}
}

// show writes the next frame.
func (p *Player) show() error {
	p.at = p.due
	if err := p.picture.write(p.next.Data); err != nil {
		return err
	}
	return p.fetch()
}

// seek shows everything up to a time at once. Times are those of the play:
// with Idle, pauses that are cut out do not count.
func (p *Player) seek(to time.Duration) error {
	if to < p.at {
		if _, err := io.WriteString(p.Out, clearScreen); err != nil {
			return err
		}
		if err := p.rewind(); err != nil {
			return err
		}
	}
	for p.have && p.due <= to {
		if err := p.show(); err != nil {
			return err
		}
	}
	if p.have {
		p.at = max(to, 0)
	}
	return nil
}

// step waits for the next frame or key and acts on it.
func (p *Player) step(ctx context.Context) error {
	var fired <-chan time.Time
	begin := p.Clock.Now()
	if !p.paused {
		wait := time.Duration(float64(p.due-p.at) / p.Speed)
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
			p.at = min(p.at+passed, p.due)
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
		return p.seek(p.at + Step)
	case arrow == 2 && k == 'D':
		return p.seek(max(p.at-Step, 0))
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
