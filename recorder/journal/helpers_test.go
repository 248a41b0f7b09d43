package journal

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv("JOURNAL_TEST_VICTIM"); dir != "" {
		victim(dir)
		return
	}
	goleak.VerifyTestMain(m)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// patience bounds what must not take long.
func patience(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func key(name string, class int) []byte {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s %d", name, class))
	return sum[:]
}

func keys(name string) [][]byte { return [][]byte{key(name, 0), key(name, 1)} }

func small(disk *memoryFiles) Options {
	return Options{Dir: "memory", Node: "node-1", FileSize: 192 << 10, MaxFrame: 4 << 10, MaxFiles: 12,
		maxBatchForTests: 96 << 10, files: disk}
}

func open(t testing.TB, o Options) *Journal {
	t.Helper()
	j, err := Open(o, nil)
	must(t, err)
	t.Cleanup(func() { _ = j.Close(context.Background()) })
	return j
}

func stream(t testing.TB, j *Journal, name string) *Stream {
	t.Helper()
	s, err := j.OpenStream(StreamOptions{Name: name, Keys: keys(name), Public: []byte("public of " + name)})
	must(t, err)
	return s
}

// kept is what a Remains holds, opened.
type kept struct {
	Remains
	frames map[Position]Frame
	gaps   int
}

// collect is a visit that opens everything.
func collect(into map[string]*kept) func(*Remains) error {
	return func(r *Remains) error {
		k := &kept{Remains: *r, frames: map[Position]Frame{}}
		opener, err := NewOpener(r.Opening, keys(r.Name))
		if err != nil {
			return err
		}
		if want := "public of " + r.Name; string(r.Public) != want {
			return fmt.Errorf("public bytes %q", r.Public)
		}
		for sealed, err := range r.Frames() {
			if err != nil {
				return err
			}
			f, err := opener.Open(sealed)
			if errors.Is(err, ErrGap) && r.Damaged {
				k.gaps++
				continue
			}
			if err != nil {
				return err
			}
			f.Data = bytes.Clone(f.Data)
			k.frames[f.Position] = f
		}
		into[r.Name] = k
		return nil
	}
}

// reopen opens and closes a journal, and returns what remained.
func reopen(o Options) (map[string]*kept, error) {
	found := map[string]*kept{}
	j, err := Open(o, collect(found))
	if err != nil {
		return nil, err
	}
	return found, j.Close(context.Background())
}

// logged collects messages.
type logged struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logged) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *logged) has(text string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return bytes.Contains(l.text.Bytes(), []byte(text))
}

func (l *logged) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

// eventually polls until done, or fails.
func eventually(t testing.TB, what string, done func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(20 * time.Second); !done(); <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("in vain: %s", what)
		}
	}
}

// settle writes a first frame and waits until the keeper has made all the files ready that it wants,
// so that what a test counts afterwards is the writer's.
func settle(t testing.TB, j *Journal, s *Stream) {
	t.Helper()
	p, err := s.Append(0, 'o', time.Time{}, nil)
	must(t, err)
	must(t, s.Wait(patience(t), p))
	eventually(t, "the keeper has nothing to do", func() bool {
		j.mu.Lock()
		defer j.mu.Unlock()
		return j.next != nil && len(j.spares) == j.o.Reserve+1
	})
}
