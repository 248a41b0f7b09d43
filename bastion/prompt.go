package bastion

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"golang.org/x/term"
)

// maxLine bounds what a person may type at a question of the gate.
const maxLine = 1000

// keys reads a terminal one byte at a time in the background, so that the
// gate can watch for Ctrl-C while it waits. The byte that is being read when
// the gate stops watching goes to the session: none is lost.
//
// One goroutine at a time uses it: first the one that waits, then the pump.
type keys struct {
	bytes chan byte     // one byte a request; closed at the end of input
	next  chan struct{} // requests a byte; nil once nobody watches any more
	from  io.Reader
	asked bool // a byte is being read
	ended bool
}

func newKeys(from io.Reader) *keys {
	k := &keys{bytes: make(chan byte, 1), next: make(chan struct{}, 1), from: from}
	go k.read(k.next) // ends by stop, and with the channel that it reads
	return k
}

func (k *keys) read(next <-chan struct{}) {
	defer close(k.bytes)
	var b [1]byte
	for range next {
		if _, err := io.ReadFull(k.from, b[:]); err != nil {
			return
		}
		k.bytes <- b[0]
	}
}

// typed returns where the next byte arrives. Closed means that none comes.
func (k *keys) typed() <-chan byte {
	if !k.asked && !k.ended {
		k.asked = true
		k.next <- struct{}{}
	}
	return k.bytes
}

// took must follow each receive from typed.
func (k *keys) took(more bool) {
	k.asked = false
	k.ended = !more
}

// stop lets the reading goroutine end once it has no byte to read.
func (k *keys) stop() {
	if k.next != nil {
		close(k.next)
		k.next = nil
	}
}

// Read hands out the byte that is being read, then reads straight through.
func (k *keys) Read(p []byte) (int, error) {
	if k.ended {
		return 0, io.EOF
	}
	if len(p) == 0 {
		return 0, nil
	}
	k.stop()
	if !k.asked {
		return k.from.Read(p)
	}
	b, ok := <-k.bytes
	k.took(ok)
	if !ok {
		return 0, io.EOF
	}
	p[0] = b
	return 1, nil
}

// singly makes a reader give one byte a call, so that the line editor takes
// nothing that comes after the line.
type singly struct{ r io.Reader }

func (s singly) Read(p []byte) (int, error) {
	if len(p) > 1 {
		p = p[:1]
	}
	return s.r.Read(p)
}

// input is where the client's bytes come from.
func (ch *channel) input() io.Reader {
	ch.mu.Lock()
	defer ch.mu.Unlock()
	if ch.keys != nil {
		return ch.keys
	}
	return ch.Channel
}

// errLeft says that the person left a question unanswered.
var errLeft = errors.New("left")

// question asks for one line. With a terminal the line can be edited and
// Ctrl-C leaves; without one a line is read as it comes.
func (ch *channel) question(ctx context.Context, prompt string, within time.Duration) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	stop := context.AfterFunc(ctx, func() {
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			ch.write("\r\nsallyport: no answer came in time.\r\n")
		}
		ch.Close()
	})
	defer stop()
	if ch.hasPTY() {
		t := term.NewTerminal(struct {
			io.Reader
			io.Writer
		}{singly{ch.input()}, ch.Channel}, prompt)
		line, err := t.ReadLine()
		if err != nil {
			return "", errLeft
		}
		return bounded(line)
	}
	if _, err := io.WriteString(ch, prompt); err != nil {
		return "", errLeft
	}
	var line []byte
	var b [1]byte
	for len(line) <= maxLine {
		if _, err := io.ReadFull(ch.input(), b[:]); err != nil {
			if len(line) == 0 {
				return "", errLeft
			}
			break
		}
		if b[0] == '\n' {
			break
		}
		line = append(line, b[0])
	}
	return bounded(strings.TrimSuffix(string(line), "\r"))
}

func bounded(line string) (string, error) {
	if len(line) > maxLine {
		return "", fmt.Errorf("a line has at most %d bytes", maxLine)
	}
	return strings.TrimSpace(line), nil
}

// say writes lines of the gate's own dialogue to the person's standard output.
func (ch *channel) say(text string) {
	_ = lineWriter{w: ch, pty: ch.hasPTY()}.say(text) // a client that left ends the dialogue at its next question
}
