// Package longtape makes recordings of long sessions, for tests and
// measurements: a person at a terminal, with prompts, typed keys and a flood of
// coloured lines, and pictures of the screen where a node would put them. It is
// no part of what is installed.
package longtape

import (
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"sallyport/internal/screen"
	"sallyport/recorder/trec"
)

// Options say what recording is made.
type Options struct {
	Session            string
	Recipients, Strict string // age recipients, as in trec.Options
	Signer             ed25519.PrivateKey
	Start              time.Time
	Events             int           // of a hundred bytes each on average
	Lasts              time.Duration // over which they are spread
	Effort             trec.Effort
}

// The window of the session, and how much output lies between two pictures.
const (
	columns, rows = 100, 30
	pictureEvery  = 256 << 10
)

// What the header and the sealed description say.
const (
	node  = "N-test"
	epoch = "genomics/2026Q1"
)

// Write writes a recording and returns how many bytes its frames hold.
func Write(out io.Writer, o Options) (size int64, err error) {
	w, err := begin(out, o)
	if err != nil {
		return 0, err
	}
	t := tape{w: w, effort: o.Effort, model: screen.New(columns, rows)}
	for i := range o.Events {
		f := frame(i)
		f.Time = o.Start.Add(o.Lasts / time.Duration(o.Events) * time.Duration(i))
		if err := t.add(f); err != nil {
			return size, err
		}
		size += int64(len(f.Data))
	}
	_, err = w.Close(o.Start.Add(o.Lasts), "exited")
	return size, err
}

func begin(out io.Writer, o Options) (*trec.Writer, error) {
	meta, err := json.Marshal(map[string]any{
		"session": o.Session, "number": 1, "node": node, "epoch": epoch, "start": o.Start, "user": "alice", "project": "genomics", "server": "db1", "account": "alice",
		"action": "shell", "pty": true, "term": "xterm", "columns": columns, "rows": rows,
	})
	if err != nil {
		return nil, err
	}
	codecs, err := trec.NewCodecs(1)
	if err != nil {
		return nil, err
	}
	return trec.NewWriter(out, trec.Options{Session: o.Session, Node: node, Epoch: epoch, Start: o.Start, Meta: meta,
		Recipients: o.Recipients, StrictRecipients: o.Strict, Signer: o.Signer, Codecs: codecs})
}

// frame is the i-th thing that happens.
func frame(i int) trec.Frame {
	switch i % 10 {
	case 0:
		return trec.Frame{Kind: trec.KindInput, Data: []byte("l")}
	case 1:
		return trec.Frame{Kind: trec.KindOutput, Data: []byte("\r\n\x1b[1;32malice@db1\x1b[m:~$ ")}
	}
	return trec.Frame{Kind: trec.KindOutput, Data: fmt.Appendf(nil, "%08d sample %x\tGATTACA%075d\x1b[3%dmok\x1b[m grüße\r\n", i, i*7919, i*31, i%8)}
}

// tape adds frames as a node would.
type tape struct {
	w      *trec.Writer
	effort trec.Effort
	model  *screen.Screen
	since  int // bytes of output since the last picture
}

func (t *tape) add(f trec.Frame) error {
	if t.since >= pictureEvery {
		t.since = 0
		if err := t.fit(func() error { return t.w.Keyframe(f.Time, t.model.Snapshot()) }); err != nil {
			return err
		}
	}
	if f.Kind == trec.KindOutput {
		t.since += len(f.Data)
		_, _ = t.model.Write(f.Data) // a model takes everything
	}
	if err := t.fit(func() error { _, err := t.w.Add(f); return err }); err != nil {
		return err
	}
	if !t.w.Due(f.Time) {
		return nil
	}
	_, err := t.w.Seal(t.effort)
	return err
}

// fit adds something, sealing first when it has to.
func (t *tape) fit(add func() error) error {
	err := add()
	if !errors.Is(err, trec.ErrFull) {
		return err
	}
	if _, err = t.w.Seal(t.effort); err != nil {
		return err
	}
	return add()
}
