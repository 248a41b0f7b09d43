package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"sallyport/internal/database"
	"sallyport/internal/testgate"
	"sallyport/recorder"
	"sallyport/replay"
)

// recorded is what a recording says of a session.
type recorded struct {
	shown, typed follower // output of the data server, input of the person
	gate         []byte   // what the gate itself wrote
	ending       replay.Ending
}

// evidence reads a site's recordings with the auditors' keys, and verifies them with the node's public key.
type evidence struct {
	site *testgate.Site
	keys replay.Keys
}

func newEvidence(site *testgate.Site) (*evidence, error) {
	text, err := os.ReadFile(site.Auditor())
	if err != nil {
		return nil, err
	}
	epoch, err := recorder.ParseEpochKeys(text)
	if err != nil {
		return nil, err
	}
	keys, err := replay.KeysOf(epoch, site.NodeKey)
	return &evidence{site: site, keys: keys}, err
}

func (e *evidence) file(session string) string {
	return filepath.Join(e.site.Config.Recording.Dir, session+replay.Extension)
}

// recording verifies and reads one session's recording; name is that of its stream.
func (e *evidence) recording(session, name string) (*recorded, error) {
	report, err := replay.Verify(e.file(session), e.site.NodeKey)
	if err != nil {
		return nil, err
	}
	if !report.Intact {
		return nil, fmt.Errorf("the recording does not verify:\n%s", report.Text())
	}
	reader, err := replay.OpenFile(e.file(session), e.keys)
	if err != nil {
		return nil, err
	}
	defer reader.Close()
	r := &recorded{shown: follower{name: name}, typed: follower{name: name}}
	for {
		frame, err := reader.Next()
		if errors.Is(err, io.EOF) {
			r.ending = reader.Ending()
			return r, nil
		}
		if err != nil {
			return nil, err
		}
		switch frame.Kind {
		case recorder.KindOutput:
			_, _ = r.shown.Write(frame.Data) // a follower takes everything
		case recorder.KindInput:
			_, _ = r.typed.Write(frame.Data)
		case recorder.KindGate:
			r.gate = append(r.gate, frame.Data...)
		}
	}
}

// whole verifies all of the node: every recording, the ledger, and one against the other.
func (e *evidence) whole(ctx context.Context) error {
	report, err := replay.VerifyDir(ctx, e.site.Config.State, e.site.NodeKey)
	if err == nil && !report.Intact {
		err = fmt.Errorf("the node does not verify:\n%s", report.Text())
	}
	return err
}

// row is what the database knows of a session.
type row struct {
	number       int64
	ended        int64 // milliseconds since 1970; 0: it has not
	result, head string
}

// rows reads the sessions whose number is greater than after.
func (e *evidence) rows(ctx context.Context, after int64) (map[string]row, error) {
	db, err := database.Open(ctx, e.site.Config.Database)
	if err != nil {
		return nil, err
	}
	defer db.Close()
	all := map[string]row{}
	err = db.Read(ctx, func(tx database.Tx) error {
		clear(all)
		return tx.Each(func(s database.Scanner) error {
			var id string
			var r row
			err := s.Scan(&id, &r.number, &r.ended, &r.result, &r.head)
			all[id] = r
			return err
		}, "SELECT id, number, ended_at, result, head FROM sessions WHERE number > $1", after)
	})
	return all, err
}
