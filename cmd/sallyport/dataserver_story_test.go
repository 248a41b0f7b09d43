package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"

	"github.com/rogpeppe/go-internal/testscript"

	"sallyport/internal/testkit"
)

// ownServer is a data server that belongs to one story: a real sshd, or
// something that answers with garbage.
type ownServer struct {
	sshd *testkit.SSHD

	listener net.Listener
	work     sync.WaitGroup
}

func (d *ownServer) close() error {
	if d.sshd != nil {
		return d.sshd.Close()
	}
	err := d.listener.Close()
	d.work.Wait()
	return err
}

// garbage listens and answers each connection with bytes that are no SSH.
func garbage() (*ownServer, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	d := &ownServer{listener: l}
	d.work.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			d.work.Go(func() {
				_, _ = io.WriteString(c, "\x00\xff\x1b[2J no version at all\r\n") // the gate may hang up first
				c.Close()
			})
		}
	})
	return d, nil
}

func (s *stage) cmdDataServer(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && len(args) == 2, "dataserver start|stop|newkey|garbage NAME")
	ts.Check(s.dataServer(args[0], args[1], ts.Setenv))
}

// dataServer does one act on a server of the story. $NAME_ADDRESS and
// $NAME_KEY say where it is and how it is known; the key stands in quotes, since
// ssh joins words with spaces.
func (s *stage) dataServer(act, name string, setenv func(key, value string)) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	d := s.servers[name]
	if (d == nil) != (act == "start" && d == nil || act == "garbage") {
		return fmt.Errorf("dataserver %s %s: there is no such server, or one already", act, name)
	}
	var err error
	switch act {
	case "start":
		if d != nil {
			return d.sshd.Start(ctx)
		}
		d = &ownServer{}
		d.sshd, err = testkit.NewSSHD(ctx, testkit.SSHDOptions{Project: "genomics", Accounts: accounts(), UserCA: theSite.userCA})
	case "garbage":
		d, err = garbage()
	case "stop":
		d.sshd.Stop()
		return nil
	case "newkey":
		d.sshd.Stop()
		err = errors.Join(d.sshd.NewHostKey(), d.sshd.Start(ctx))
	default:
		err = fmt.Errorf("dataserver cannot %s", act)
	}
	if err != nil {
		return err
	}
	s.servers[name] = d
	if d.sshd == nil {
		setenv(name+"_ADDRESS", d.listener.Addr().String())
		return nil
	}
	setenv(name+"_ADDRESS", d.sshd.Address)
	setenv(name+"_KEY", "'"+testkit.AuthorizedLine(d.sshd.HostKey.Signer.PublicKey())+"'")
	return nil
}
