package main

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"sallyport/internal/testgate"
)

// dataServer is the data server behind the gate. It lives in the harness, so
// that it can tell what reached it: whatever it received must have been
// recorded before. It takes nothing but certificates of the gate's user CA.
//
// Its programs are few: "flood NAME" writes the stream NAME without end, "sink
// NAME" reads until the end of its input, "some NAME SIZE" writes so many bytes
// and exits, and a shell echoes what is typed.
type dataServer struct {
	listener net.Listener
	host     ssh.Signer
	work     sync.WaitGroup

	mu          sync.Mutex // guards the rest
	authorities []ssh.PublicKey
	connections map[net.Conn]struct{}
	programs    map[string]*program // by name of their stream
	closed      bool
}

// program is one session at the data server.
type program struct {
	session  string        // as the gate names it
	done     chan struct{} // closed when it has ended
	received follower      // read after done
	written  int64         // begun to be written, in bytes; read after done
}

func startDataServer() (*dataServer, error) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	d := &dataServer{connections: map[net.Conn]struct{}{}, programs: map[string]*program{}}
	if d.host, err = ssh.NewSignerFromKey(private); err != nil {
		return nil, err
	}
	if d.listener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		return nil, err
	}
	d.work.Go(d.accept)
	return d, nil
}

// trust adds an authority whose certificates open the server.
func (d *dataServer) trust(ca ssh.PublicKey) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.authorities = append(d.authorities, ca)
}

func (d *dataServer) Close() {
	d.mu.Lock()
	d.closed = true
	d.listener.Close()
	for c := range d.connections {
		c.Close()
	}
	d.mu.Unlock()
	d.work.Wait()
}

func (d *dataServer) accept() {
	for {
		c, err := d.listener.Accept()
		if err != nil {
			return
		}
		d.mu.Lock()
		if d.closed {
			c.Close()
		} else {
			d.connections[c] = struct{}{}
			d.work.Go(func() {
				d.serve(c)
				d.mu.Lock()
				defer d.mu.Unlock()
				delete(d.connections, c)
			})
		}
		d.mu.Unlock()
	}
}

func (d *dataServer) admit(meta ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
	certificate, ok := key.(*ssh.Certificate)
	if !ok {
		return nil, errors.New("a plain key opens nothing here")
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, ca := range d.authorities {
		if bytes.Equal(ca.Marshal(), certificate.SignatureKey.Marshal()) {
			return nil, (&ssh.CertChecker{SupportedCriticalOptions: []string{"source-address"}}).CheckCert(testgate.Project+"/"+meta.User(), certificate)
		}
	}
	return nil, errors.New("a certificate of another authority")
}

func (d *dataServer) serve(c net.Conn) {
	defer c.Close()
	config := &ssh.ServerConfig{PublicKeyCallback: d.admit}
	config.AddHostKey(d.host)
	conn, channels, requests, err := ssh.NewServerConn(c, config)
	if err != nil {
		return
	}
	defer conn.Close()
	var sessions sync.WaitGroup
	defer sessions.Wait()
	sessions.Go(func() { ssh.DiscardRequests(requests) })
	for wanted := range channels {
		if wanted.ChannelType() != "session" {
			_ = wanted.Reject(ssh.UnknownChannelType, "sessions only")
			continue
		}
		channel, requests, err := wanted.Accept()
		if err != nil {
			return
		}
		sessions.Go(func() { d.session(channel, requests) })
	}
}

// session runs the one program of a session. A shell's name comes in its environment.
func (d *dataServer) session(channel ssh.Channel, requests <-chan *ssh.Request) {
	var running sync.WaitGroup
	defer running.Wait()
	defer channel.Close()
	var name, id string
	for r := range requests {
		ok := true
		switch r.Type {
		case "env":
			var variable struct{ Name, Value string }
			if ok = ssh.Unmarshal(r.Payload, &variable) == nil; ok && variable.Name == nameVariable {
				name = variable.Value
			} else if ok && variable.Name == sessionVariable {
				id = variable.Value
			}
		case "pty-req", "window-change":
		case "shell":
			d.start(&running, channel, id, "echo", name, 0)
		case "exec":
			var command struct{ Line string }
			var verb string
			var size int64
			if err := ssh.Unmarshal(r.Payload, &command); err != nil {
				ok = false
				break
			}
			if _, err := fmt.Sscan(command.Line, &verb, &name, &size); err != nil && strings.Count(command.Line, " ") != 1 {
				ok = false
				break
			}
			d.start(&running, channel, id, verb, name, size)
		default:
			ok = false
		}
		if r.WantReply {
			_ = r.Reply(ok, nil) // the connection may have ended
		}
	}
}

const (
	// nameVariable tells a shell the name of its stream; the gate passes it on.
	nameVariable = "LC_STREAM"
	// sessionVariable is the gate's own.
	sessionVariable = "LC_SALLYPORT_SESSION"
)

func (d *dataServer) start(running *sync.WaitGroup, channel ssh.Channel, id, verb, name string, size int64) {
	p := &program{session: id, done: make(chan struct{}), received: follower{name: name}}
	d.mu.Lock()
	d.programs[name] = p
	d.mu.Unlock()
	running.Go(func() {
		defer close(p.done)
		defer channel.Close()
		p.run(channel, verb, name, size)
		_, _ = channel.SendRequest("exit-status", false, ssh.Marshal(struct{ Status uint32 }{0})) // the gate may be gone
	})
}

func (p *program) run(channel ssh.Channel, verb, name string, size int64) {
	b := make([]byte, 32<<10)
	switch verb {
	case "flood":
		pace := time.NewTicker(2 * time.Millisecond)
		defer pace.Stop()
		for p.write(channel, name, b) {
			<-pace.C
		}
	case "some":
		for p.written < size && p.write(channel, name, b[:min(size-p.written, int64(len(b)))]) {
		}
	case "sink":
		_, _ = io.CopyBuffer(&p.received, channel, b) // until the client or the gate is gone
	case "echo":
		for {
			n, err := channel.Read(b[:4<<10])
			_, _ = p.received.Write(b[:n]) // a follower takes everything
			p.written += int64(n)
			if _, failed := channel.Write(b[:n]); err != nil || failed != nil {
				return
			}
		}
	}
}

// write writes the stream's next bytes.
func (p *program) write(channel ssh.Channel, name string, b []byte) bool {
	fill(name, p.written, b)
	p.written += int64(len(b))
	_, err := channel.Write(b)
	return err == nil
}

// began reports whether all these programs have been started.
func (d *dataServer) began(names ...string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, name := range names {
		if d.programs[name] == nil {
			return false
		}
	}
	return true
}

// take returns what the data server knows of a program, once that has ended;
// nil when it never began.
func (d *dataServer) take(name string) *program {
	d.mu.Lock()
	p := d.programs[name]
	delete(d.programs, name)
	d.mu.Unlock()
	if p != nil {
		<-p.done
	}
	return p
}
