package bastion_test

import (
	"fmt"
	"io"
	"testing"

	"golang.org/x/crypto/ssh"
)

// BenchmarkDownload moves zeros through the gate, recorded, from a data
// server in the same process: it shows where the gate's own time goes.
func BenchmarkDownload(b *testing.B) {
	g, d := newSite(b)
	d.handle = func(_ *dataServer, ch ssh.Channel, _, _ string) {
		block := make([]byte, 32<<10)
		for range 64 << 20 / len(block) {
			if _, err := ch.Write(block); err != nil {
				return
			}
		}
		_, _ = ch.SendRequest("exit-status", false, ssh.Marshal(struct{ S uint32 }{0}))
		ch.Close()
	}
	c := g.dial(g.people["bob"], "bob+genomics")
	b.SetBytes(64 << 20)
	for b.Loop() {
		s := must(c.NewSession())
		out := must(s.StdoutPipe())
		check(b, s.Start("flood"))
		n, err := io.Copy(io.Discard, out)
		if n != 64<<20 || err != nil {
			b.Fatalf("%d bytes, %v", n, err)
		}
		s.Close()
	}
}

// BenchmarkEcho is one keystroke to a shell and back, one in flight.
func BenchmarkEcho(b *testing.B) {
	g, _ := newSite(b)
	s := shell(b, g.dial(g.people["alice"], "alice"))
	key := make([]byte, 1)
	for b.Loop() {
		fmt.Fprint(s.in, "x")
		if _, err := io.ReadFull(s.out, key); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkSession is one exec on a connection that is there already: decide,
// record, run, close.
func BenchmarkSession(b *testing.B) {
	g, _ := newSite(b)
	c := g.dial(g.people["bob"], "bob+genomics")
	for b.Loop() {
		if o := run(b, c, "status 0", nil); o.status != 0 {
			b.Fatalf("%+v", o)
		}
	}
}
