package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
)

// The measures, in the order of the report.
const (
	downZeros  = "down, zeros"
	downRandom = "down, random"
	upRandom   = "up, random"
	loginTrue  = "login to exit of true"
	echoMedian = "key echo p50"
	echoTail   = "key echo p99"
)

// measures tells how each is shown, and whether more of it is better.
var measures = []struct {
	name, unit string
	rate       bool
}{
	{downZeros, "MB/s", true},
	{downRandom, "MB/s", true},
	{upRandom, "MB/s", true},
	{loginTrue, "ms", false},
	{echoMedian, "us", false},
	{echoTail, "us", false},
}

// samples are the figures of one measure by way.
type samples struct {
	byWay map[string][]float64
}

// measureRound takes every measure by every way. Who goes first changes from
// round to round, so that no way always finds the caches warm.
func measureRound(ctx context.Context, o options, s *site, round int, results map[string]*samples) error {
	add := func(measure, way string, value float64) {
		if results[measure] == nil {
			results[measure] = &samples{byWay: map[string][]float64{}}
		}
		results[measure].byWay[way] = append(results[measure].byWay[way], value)
	}
	turns := slices.Concat(s.ways[round%len(s.ways):], s.ways[:round%len(s.ways)])
	zeros := "head -c " + strconv.FormatInt(o.size, 10) + " /dev/zero"
	for _, w := range turns {
		rate, err := download(ctx, w.kept, zeros, o.size)
		if err != nil {
			return fmt.Errorf("%s, %s: %w", w.name, downZeros, err)
		}
		add(downZeros, w.name, rate)
	}
	for _, w := range turns {
		rate, err := download(ctx, w.kept, "cat "+s.random, o.size)
		if err != nil {
			return fmt.Errorf("%s, %s: %w", w.name, downRandom, err)
		}
		add(downRandom, w.name, rate)
	}
	for _, w := range turns {
		rate, err := upload(ctx, w.kept, o.size)
		if err != nil {
			return fmt.Errorf("%s, %s: %w", w.name, upRandom, err)
		}
		add(upRandom, w.name, rate)
	}
	for range o.logins {
		for _, w := range turns {
			took, err := login(ctx, w)
			if err != nil {
				return fmt.Errorf("%s, %s: %w", w.name, loginTrue, err)
			}
			add(loginTrue, w.name, float64(took.Microseconds())/1000)
		}
	}
	for _, w := range turns {
		half, tail, err := echo(ctx, w.kept, o.keys)
		if err != nil {
			return fmt.Errorf("%s, key echo: %w", w.name, err)
		}
		add(echoMedian, w.name, float64(half.Nanoseconds())/1000)
		add(echoTail, w.name, float64(tail.Nanoseconds())/1000)
	}
	return nil
}

// session opens a session that ends with ctx.
func session(ctx context.Context, c *connection) (*ssh.Session, func(), error) {
	s, err := c.NewSession()
	if err != nil {
		return nil, nil, err
	}
	stop := context.AfterFunc(ctx, func() { c.Close() })
	return s, func() { stop(); s.Close() }, nil
}

// download runs a command that writes size bytes, and returns MB/s from the
// request to the exit status.
func download(ctx context.Context, c *connection, command string, size int64) (float64, error) {
	s, end, err := session(ctx, c)
	if err != nil {
		return 0, err
	}
	defer end()
	out, err := s.StdoutPipe()
	if err != nil {
		return 0, err
	}
	begin := time.Now()
	if err := s.Start(command); err != nil {
		return 0, err
	}
	got, err := io.CopyBuffer(onlyWriter{io.Discard}, out, make([]byte, 128<<10))
	if err != nil {
		return 0, err
	}
	if err := s.Wait(); err != nil {
		return 0, err
	}
	if got != size {
		return 0, fmt.Errorf("got %d of %d bytes", got, size)
	}
	return rate(size, time.Since(begin)), nil
}

// onlyWriter hides io.Discard's own ReadFrom, which reads by 8 KiB.
type onlyWriter struct{ io.Writer }

// upload sends size random bytes to a command that counts them.
func upload(ctx context.Context, c *connection, size int64) (float64, error) {
	s, end, err := session(ctx, c)
	if err != nil {
		return 0, err
	}
	defer end()
	in, err := s.StdinPipe()
	if err != nil {
		return 0, err
	}
	out, err := s.StdoutPipe()
	if err != nil {
		return 0, err
	}
	// One random block over and over is no shorter for a compressor that works
	// on blocks of up to 256 KiB.
	block := make([]byte, 1<<20)
	if _, err := io.ReadFull(rand.Reader, block); err != nil {
		return 0, err
	}
	begin := time.Now()
	if err := s.Start("wc -c"); err != nil {
		return 0, err
	}
	for left := size; left > 0; left -= int64(len(block)) {
		if _, err := in.Write(block[:min(left, int64(len(block)))]); err != nil {
			return 0, err
		}
	}
	if err := in.Close(); err != nil {
		return 0, err
	}
	text, err := io.ReadAll(out)
	if err != nil {
		return 0, err
	}
	if err := s.Wait(); err != nil {
		return 0, err
	}
	if got := strings.TrimSpace(string(text)); got != strconv.FormatInt(size, 10) {
		return 0, fmt.Errorf("the server counted %s of %d bytes", got, size)
	}
	return rate(size, time.Since(begin)), nil
}

func rate(size int64, took time.Duration) float64 {
	return float64(size) / 1e6 / took.Seconds()
}

// login is from the first packet to the exit status of a command that does nothing.
func login(ctx context.Context, w *way) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, connectTime)
	defer cancel()
	begin := time.Now()
	c, err := w.connect(ctx)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	s, end, err := session(ctx, c)
	if err != nil {
		return 0, err
	}
	defer end()
	if err := s.Run("true"); err != nil {
		return 0, err
	}
	return time.Since(begin), nil
}

// echo types one key at a time into `cat` behind a terminal without its own
// echo, and returns the median and the 99th percentile of the time until the
// key comes back.
func echo(ctx context.Context, c *connection, keys int) (half, tail time.Duration, err error) {
	s, end, err := session(ctx, c)
	if err != nil {
		return 0, 0, err
	}
	defer end()
	modes := ssh.TerminalModes{ssh.ECHO: 0, ssh.ICANON: 0, ssh.TTY_OP_ISPEED: 38400, ssh.TTY_OP_OSPEED: 38400}
	if err := s.RequestPty("xterm", 24, 80, modes); err != nil {
		return 0, 0, err
	}
	in, err := s.StdinPipe()
	if err != nil {
		return 0, 0, err
	}
	out, err := s.StdoutPipe()
	if err != nil {
		return 0, 0, err
	}
	if err := s.Start("cat"); err != nil {
		return 0, 0, err
	}
	const warmUp = 20
	took := make([]time.Duration, 0, keys)
	var b [1]byte
	for i := range keys + warmUp {
		b[0] = 'a' + byte(i%26)
		typed := b[0]
		begin := time.Now()
		if _, err := in.Write(b[:]); err != nil {
			return 0, 0, err
		}
		if _, err := io.ReadFull(out, b[:]); err != nil {
			return 0, 0, err
		}
		if b[0] != typed {
			return 0, 0, fmt.Errorf("typed %q, %q came back", typed, b[0])
		}
		if i >= warmUp {
			took = append(took, time.Since(begin))
		}
	}
	slices.Sort(took)
	return took[len(took)/2], took[(len(took)*99-1)/100], nil
}
