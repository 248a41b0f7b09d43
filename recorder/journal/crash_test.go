package journal

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// content is what a test appends at a position of a stream, so that it can be
// told later whether the right bytes came back.
func content(name string, p Position, longest int) []byte {
	seed := uint64(p)
	for _, c := range name {
		seed = seed*31 + uint64(c)
	}
	random := rand.New(rand.NewPCG(seed, 1))
	out := make([]byte, random.IntN(longest))
	for i := 0; i+8 <= len(out); i += 8 {
		binary.LittleEndian.PutUint64(out[i:], random.Uint64())
	}
	return out
}

// history is what a test knows of a stream.
type history struct {
	name     string
	stream   *Stream
	released Position // asked for
	appended atomic.Uint64
}

// busy appends, waits and releases until the journal fails or enough is done.
func (h *history) busy(random *rand.Rand, enough int) {
	for range enough {
		next := Position(h.appended.Load()) + 1
		h.appended.Store(uint64(next))
		p, err := h.stream.Append(Class(next%2), 'o', time.Time{}, content(h.name, next, 3000))
		if err != nil {
			return
		}
		if random.IntN(3) == 0 && h.stream.Wait(context.Background(), p) != nil {
			return
		}
		if durable := h.stream.Durable(); random.IntN(10) == 0 && durable > 0 {
			h.released = max(h.released, Position(random.Uint64N(uint64(durable)))+1)
			if h.stream.Release(h.released) != nil {
				return
			}
		}
	}
}

// check compares what came back with what was acknowledged.
func (h *history) check(found *kept) error {
	durable := h.stream.Durable()
	if found == nil {
		if durable > h.released {
			return fmt.Errorf("%s: nothing came back, %d frames were acknowledged, %d released", h.name, durable, h.released)
		}
		return nil
	}
	for p := h.released + 1; p <= durable; p++ {
		if _, ok := found.frames[p]; !ok {
			return fmt.Errorf("%s: frame %d of %d acknowledged ones is lost", h.name, p, durable)
		}
	}
	for p, f := range found.frames {
		if p > Position(h.appended.Load()) || !bytes.Equal(f.Data, content(h.name, p, 3000)) {
			return fmt.Errorf("%s: frame %d is not what was appended", h.name, p)
		}
	}
	return nil
}

// crowd runs some streams at once and returns what is known of them.
func crowd(t *testing.T, j *Journal, random *rand.Rand, run string) []*history {
	t.Helper()
	var all []*history
	var done sync.WaitGroup
	for i := range 4 {
		name := fmt.Sprintf("S-%s-%d", run, i)
		s, err := j.OpenStream(StreamOptions{Name: name, Keys: keys(name), Public: []byte("public of " + name)})
		if err != nil {
			break // it failed already
		}
		h := &history{name: name, stream: s}
		all = append(all, h)
		mine := rand.New(rand.NewPCG(random.Uint64(), uint64(i)))
		done.Go(func() { h.busy(mine, 150) })
	}
	done.Wait()
	return all
}

// TestPromise3_PowerFails cuts the power at random points: unsynced writes get
// lost, and sectors are torn. Nothing acknowledged may be missing.
func TestPromise3_PowerFails(t *testing.T) {
	var acknowledged, wanted uint64
	for seed := range uint64(150) {
		random := rand.New(rand.NewPCG(seed, 7))
		disk := newMemory()
		j, err := Open(small(disk), nil)
		must(t, err)
		disk.mu.Lock()
		at := disk.calls + 1 + random.IntN(1200)
		disk.fault = func(call int, _ string) error {
			if call >= at {
				disk.cut()
				return errPower
			}
			return nil
		}
		disk.mu.Unlock()
		all := crowd(t, j, random, strconv.FormatUint(seed, 10))
		disk.cut()
		_ = j.Close(patience(t)) // without power; it may not say that all is well
		after := disk.after(random)
		found, err := reopen(small(after))
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		for _, h := range all {
			acknowledged += uint64(h.stream.Durable())
			wanted += h.appended.Load()
			if err := h.check(found[h.name]); err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
		}
	}
	t.Logf("150 crashes, %d frames acknowledged of %d appended, 0 lost", acknowledged, wanted)
	if acknowledged < 1000 {
		t.Error("hardly anything was acknowledged, so nothing was tested")
	}
}

// TestPromise3_CrashWhileRecovering lets Open itself be cut off, again and again.
func TestPromise3_CrashWhileRecovering(t *testing.T) {
	for seed := range uint64(40) {
		random := rand.New(rand.NewPCG(seed, 9))
		disk := newMemory()
		j, err := Open(small(disk), nil)
		must(t, err)
		all := crowd(t, j, random, "r")
		disk.cut()
		_ = j.Close(patience(t))
		moved := map[string]*kept{} // what a visitor has made durable
		for range 3 {
			disk = disk.after(random)
			at := 1 + random.IntN(60)
			disk.fault = func(call int, what string) error {
				if call >= at && what != "read" {
					disk.cut()
					return errPower
				}
				return nil
			}
			collected := map[string]*kept{}
			visit := collect(collected)
			j, err := Open(small(disk), func(r *Remains) error {
				if err := visit(r); err != nil {
					return err
				}
				if moved[r.Name] == nil || len(moved[r.Name].frames) < len(collected[r.Name].frames) {
					moved[r.Name] = collected[r.Name]
				}
				return nil
			})
			disk.cut()
			if err == nil {
				_ = j.Close(patience(t))
			}
		}
		found, err := reopen(small(disk.after(random)))
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		for _, h := range all {
			k := moved[h.name]
			if k == nil {
				k = found[h.name]
			}
			if err := h.check(k); err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
		}
	}
}

// TestPromise3_EveryCallFailsOnce injects an error into each call in turn.
// The journal fails, or goes on where it may; what it said was kept is kept.
func TestPromise3_EveryCallFailsOnce(t *testing.T) {
	for _, cause := range []error{syscall.EIO, syscall.ENOSPC, syscall.EINTR} {
		failed, went := 0, 0
		for n := 1; n < 400; n += 3 {
			random := rand.New(rand.NewPCG(uint64(n), 3))
			disk := newMemory()
			what := ""
			j, err := Open(small(disk), nil)
			must(t, err)
			disk.mu.Lock()
			at := disk.calls + n
			disk.fault = func(call int, kind string) error {
				if call == at {
					what = kind
					return cause
				}
				return nil
			}
			disk.mu.Unlock()
			all := crowd(t, j, random, "f")
			if err := j.Close(patience(t)); err != nil {
				failed++
			} else {
				went++
			}
			if (what == "write" || what == "sync") && cause == syscall.EINTR && j.Failure() != nil {
				t.Errorf("an interrupted %s was not tried again: %v", what, j.Failure())
			}
			disk.mu.Lock()
			disk.fault = nil
			disk.mu.Unlock()
			found, err := reopen(small(disk))
			if err != nil {
				t.Fatalf("%v in call %d (%s): %v", cause, n, what, err)
			}
			for _, h := range all {
				if err := h.check(found[h.name]); err != nil {
					t.Fatalf("%v in call %d (%s): %v", cause, n, what, err)
				}
			}
		}
		t.Logf("%v: %d journals failed, %d went on", cause, failed, went)
		if cause == syscall.EIO && failed == 0 || cause == syscall.EINTR && failed > went {
			t.Errorf("%v: %d failed, %d went on", cause, failed, went)
		}
	}
}

// victim is the process that TestPromise3_Kill kills: it says on standard
// output which frames were acknowledged.
func victim(dir string) {
	j, err := Open(victimOptions(dir), func(*Remains) error { return nil })
	if err != nil {
		fmt.Println("error", err)
		return
	}
	var out sync.Mutex
	for i := range 4 {
		name := fmt.Sprintf("S-%d", i)
		s, err := j.OpenStream(StreamOptions{Name: name, Keys: keys(name), Public: []byte("public of " + name)})
		if err != nil {
			fmt.Println("error", err)
			return
		}
		go func() {
			for p := Position(1); ; p++ {
				if _, err := s.Append(Class(p%2), 'o', time.Time{}, content(name, p, 3000)); err != nil {
					return
				}
				if p%4 != 0 {
					continue // pipelined
				}
				if s.Wait(context.Background(), p) != nil {
					return
				}
				out.Lock()
				fmt.Println(i, p)
				out.Unlock()
				if p%64 == 0 && s.Release(p-32) != nil {
					return
				}
			}
		}()
	}
	select {}
}

func victimOptions(dir string) Options {
	return Options{Dir: dir, Node: "node-1", FileSize: 1 << 20, MaxFrame: 4 << 10}
}

// TestPromise3_Kill kills a real process at random points.
func TestPromise3_Kill(t *testing.T) {
	acknowledged, lost := 0, 0
	for run := range 20 {
		random := rand.New(rand.NewPCG(uint64(run), 11))
		dir := t.TempDir()
		c := exec.Command(os.Args[0])
		c.Env = append(os.Environ(), "JOURNAL_TEST_VICTIM="+dir)
		pipe, err := c.StdoutPipe()
		must(t, err)
		must(t, c.Start())
		last := map[string]Position{}
		enough := 1 + random.IntN(600)
		lines := bufio.NewScanner(pipe)
		for n := 0; lines.Scan(); n++ { // on to the end: what it still said counts
			if n == enough {
				must(t, c.Process.Signal(syscall.SIGKILL))
			}
			name, position, _ := strings.Cut(lines.Text(), " ")
			p, err := strconv.ParseUint(position, 10, 64)
			if err != nil {
				t.Fatal(lines.Text())
			}
			last["S-"+name] = Position(p)
		}
		_ = c.Wait()
		found, err := reopen(victimOptions(dir))
		must(t, err)
		for name, p := range last {
			acknowledged += int(p)
			released := p/64*64 - 32
			if p < 64 {
				released = 0
			}
			for ; p > released; p-- {
				k := found[name]
				if k == nil || !bytes.Equal(k.frames[p].Data, content(name, p, 3000)) {
					if k != nil && p <= k.Released {
						continue
					}
					lost++
				}
			}
		}
	}
	t.Logf("20 kills, %d frames acknowledged, %d lost", acknowledged, lost)
	if lost > 0 || acknowledged == 0 {
		t.Errorf("%d of %d acknowledged frames are lost", lost, acknowledged)
	}
}
