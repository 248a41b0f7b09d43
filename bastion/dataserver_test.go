package bastion_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"

	"golang.org/x/crypto/ssh"
)

// dataServer is a data server in the test's process whose behaviour a test
// can make as bad as it likes. Well-behaved, it knows a few commands.
type dataServer struct {
	address string
	hostKey ssh.Signer
	ca      ssh.PublicKey
	project string

	mu   sync.Mutex // guards the rest
	seen []string   // what happened: "login KEYID", "exec CMD", "env A=B", "signal X", "closed"
	// behave replaces what the server does with an accepted TCP connection.
	behave func(net.Conn)
	// handle replaces what it does with a started session.
	handle func(d *dataServer, ch ssh.Channel, kind, what string)
	conns  []net.Conn
}

// newDataServer listens at once; its gate's user CA may be set later.
func newDataServer(t testing.TB, project string) *dataServer {
	t.Helper()
	_, host := must2(ed25519.GenerateKey(rand.Reader))
	d := &dataServer{hostKey: must(ssh.NewSignerFromKey(host)), project: project}
	l := must(net.Listen("tcp", "127.0.0.1:0"))
	d.address = l.Addr().String()
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			d.mu.Lock()
			behave := d.behave
			d.conns = append(d.conns, c)
			d.mu.Unlock()
			wg.Go(func() {
				defer c.Close()
				if behave != nil {
					behave(c)
				} else {
					d.serve(c)
				}
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		d.cut()
		wg.Wait()
	})
	return d
}

// cut closes every connection, as a data server does that loses its power.
func (d *dataServer) cut() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, c := range d.conns {
		c.Close()
	}
	d.conns = nil
}

func (d *dataServer) note(format string, args ...any) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.seen = append(d.seen, fmt.Sprintf(format, args...))
}

func (d *dataServer) saw(what string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, s := range d.seen {
		if s == what {
			return true
		}
	}
	return false
}

func (d *dataServer) notes() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return append([]string(nil), d.seen...)
}

func (d *dataServer) serve(c net.Conn) {
	checker := &ssh.CertChecker{IsUserAuthority: func(k ssh.PublicKey) bool { return bytes.Equal(k.Marshal(), d.ca.Marshal()) },
		SupportedCriticalOptions: []string{"source-address"}}
	config := &ssh.ServerConfig{PublicKeyCallback: func(meta ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
		cert, ok := key.(*ssh.Certificate)
		if !ok || !checker.IsUserAuthority(cert.SignatureKey) || len(cert.ValidPrincipals) != 1 || cert.ValidPrincipals[0] != d.project+"/"+meta.User() {
			return nil, errors.New("not this one")
		}
		if err := checker.CheckCert(d.project+"/"+meta.User(), cert); err != nil {
			return nil, err
		}
		d.note("login %s", cert.KeyId)
		return nil, nil
	}}
	config.AddHostKey(d.hostKey)
	sc, channels, requests, err := ssh.NewServerConn(c, config)
	if err != nil {
		return
	}
	defer sc.Close()
	go ssh.DiscardRequests(requests)
	var wg sync.WaitGroup
	for nc := range channels {
		ch, reqs, err := nc.Accept()
		if err != nil {
			continue
		}
		wg.Go(func() { d.session(ch, reqs) })
	}
	wg.Wait()
}

func (d *dataServer) session(ch ssh.Channel, requests <-chan *ssh.Request) {
	var wg sync.WaitGroup
	defer wg.Wait()
	defer ch.Close()
	for req := range requests {
		var arg struct{ A, B string }
		var one struct{ A string }
		switch req.Type {
		case "env":
			_ = ssh.Unmarshal(req.Payload, &arg)
			d.note("env %s=%s", arg.A, arg.B)
		case "signal":
			_ = ssh.Unmarshal(req.Payload, &one)
			d.note("signal %s", one.A)
		case "shell", "exec", "subsystem":
			if req.Type != "shell" {
				_ = ssh.Unmarshal(req.Payload, &one)
			}
			d.note("%s %s", req.Type, one.A)
			_ = req.Reply(true, nil)
			d.mu.Lock()
			handle := d.handle
			d.mu.Unlock()
			if handle == nil {
				handle = wellBehaved
			}
			kind, what := req.Type, one.A
			wg.Go(func() { handle(d, ch, kind, what) })
			continue
		default:
			d.note("%s", req.Type)
		}
		if req.WantReply {
			_ = req.Reply(true, nil)
		}
	}
	d.note("closed")
}

// wellBehaved echoes for a shell and knows "cat", "status N" and "stderr".
func wellBehaved(_ *dataServer, ch ssh.Channel, kind, what string) {
	status := uint32(0)
	switch {
	case kind == "shell" || what == "cat":
		_, _ = io.Copy(ch, ch)
	case what == "stderr":
		_, _ = io.WriteString(ch, "out\n")
		_, _ = io.WriteString(ch.Stderr(), "err\n")
	default:
		if n, _ := fmt.Sscanf(what, "status %d", &status); n != 1 {
			_, _ = fmt.Fprintf(ch, "ran %q\n", what)
		}
	}
	_ = ch.CloseWrite()
	_, _ = ch.SendRequest("exit-status", false, ssh.Marshal(struct{ S uint32 }{status}))
	_ = ch.Close()
}
