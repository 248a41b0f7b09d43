package trec

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func value[T any](t testing.TB) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		must(t, err)
		return v
	}
}

var testStart = time.Date(2026, 7, 1, 9, 0, 0, 0, time.UTC)

// testSigner is the same in every run, so that golden files stay the same.
func testSigner(seed byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, ed25519.SeedSize))
}

func public(k ed25519.PrivateKey) ed25519.PublicKey { return k.Public().(ed25519.PublicKey) }

// epoch is a pair of identities: quick ones for most tests, the hybrid kind
// that is used in earnest for the golden files.
type epoch struct{ main, strict age.Identity }

func testEpoch(t testing.TB) epoch {
	t.Helper()
	return epoch{value[*age.X25519Identity](t)(age.GenerateX25519Identity()), value[*age.X25519Identity](t)(age.GenerateX25519Identity())}
}

func hybridEpoch(t testing.TB) epoch {
	t.Helper()
	return epoch{value[*age.HybridIdentity](t)(age.GenerateHybridIdentity()), value[*age.HybridIdentity](t)(age.GenerateHybridIdentity())}
}

func recipientOf(id age.Identity) string {
	switch id := id.(type) {
	case *age.HybridIdentity:
		return id.Recipient().String()
	case *age.X25519Identity:
		return id.Recipient().String()
	}
	panic("unknown identity")
}

func (e epoch) keys() Keys {
	return Keys{Main: []age.Identity{e.main}, Strict: []age.Identity{e.strict}, Node: public(testSigner(1))}
}

func testCodecs(t testing.TB) *Codecs {
	t.Helper()
	return value[*Codecs](t)(NewCodecs(1))
}

func testOptions(t testing.TB, e epoch) Options {
	t.Helper()
	return Options{Session: "S-01TEST", Node: "N-test", Epoch: "genomics-2026Q3", Start: testStart, Meta: []byte(`{"user":"alice"}`),
		Recipients: recipientOf(e.main), StrictRecipients: recipientOf(e.strict), Signer: testSigner(1), Codecs: testCodecs(t)}
}

func newWriter(t testing.TB, out io.Writer, o Options) *Writer {
	t.Helper()
	return value[*Writer](t)(NewWriter(out, o))
}

// add adds a frame, sealing first when it is asked to.
func add(t testing.TB, w *Writer, f Frame) {
	t.Helper()
	_, err := w.Add(f)
	if errors.Is(err, ErrFull) {
		value[[]Leaf](t)(w.Seal(EffortBest))
		_, err = w.Add(f)
	}
	must(t, err)
}

func at(seconds float64) time.Time {
	return testStart.Add(time.Duration(seconds * float64(time.Second))).Truncate(time.Microsecond)
}

// smallSession writes each kind of frame, typed keys among them, in three groups.
func smallSession(t testing.TB, w *Writer) {
	t.Helper()
	add(t, w, Frame{KindChannel, at(0), []byte("open")})
	add(t, w, Frame{KindResize, at(0.1), []byte{0, 0, 0, 80, 0, 0, 0, 24, 0, 0, 0, 0, 0, 0, 0, 0}})
	add(t, w, Frame{KindOutput, at(0.2), []byte("alice@db1:~$ ")})
	for i, key := range "ls\r" {
		add(t, w, Frame{KindInput, at(1 + float64(i)/10), []byte(string(key))})
		add(t, w, Frame{KindOutput, at(1.01 + float64(i)/10), []byte(string(key))})
	}
	value[[]Leaf](t)(w.Seal(EffortBest))
	add(t, w, Frame{KindTyped, at(2), []byte(`{"command":"ls"}`)})
	must(t, w.Keyframe(at(2.5), []byte("screen one")))
	add(t, w, Frame{KindOutput, at(3), []byte(strings.Repeat("results.csv  ", 20))})
	add(t, w, Frame{KindFiltered, at(3), EncodeFiltered(7, "osc-52")})
	value[[]Leaf](t)(w.Seal(EffortBulk))
	must(t, w.Keyframe(at(12), []byte("screen two")))
	add(t, w, Frame{KindInput, at(12.5), []byte("\x04")})
	add(t, w, Frame{KindOutput, at(13), []byte("logout\r\n")})
	add(t, w, Frame{KindExit, at(13.1), []byte{0, 0, 0, 0}})
}

func smallFile(t testing.TB, e epoch) []byte {
	t.Helper()
	var out bytes.Buffer
	w := newWriter(t, &out, testOptions(t, e))
	smallSession(t, w)
	value[Summary](t)(w.Close(at(14), "exit"))
	return out.Bytes()
}

// play reads to the end.
func play(r *Reader) (entries []Entry, err error) {
	for {
		e, err := r.Next()
		if errors.Is(err, io.EOF) {
			return entries, nil
		}
		if err != nil {
			return entries, err
		}
		e.Data = bytes.Clone(e.Data)
		entries = append(entries, e)
	}
}

func playAll(t testing.TB, data []byte, k Keys) []Entry {
	t.Helper()
	return value[[]Entry](t)(play(value[*Reader](t)(NewReader(bytes.NewReader(data), k))))
}

func verify(t testing.TB, data []byte) Report {
	t.Helper()
	return value[Report](t)(Verify(bytes.NewReader(data), public(testSigner(1)), nil))
}

// mixed makes the frames of a session such as people have: a shell with
// lists, an editor that redraws, programs with progress bars, logs, pauses. As
// in life the same directory, source file and processes are shown again and
// again, a little changed. It is the same for the same seed.
type mixed struct {
	random    *rand.Rand
	now       time.Time
	emit      func(Frame)
	files     []string
	source    []string
	processes []string
}

func mixedSession(seed uint64, length time.Duration, emit func(Frame)) {
	m := &mixed{random: rand.New(rand.NewPCG(seed, 1)), now: testStart, emit: emit}
	for range 60 {
		m.files = append(m.files, fmt.Sprintf("-rw-r--r-- 1 alice genomics %9d Jul %2d %02d:%02d %s_%s_%03d.vcf.gz\r\n", m.random.IntN(1e8),
			1+m.random.IntN(28), m.random.IntN(24), m.random.IntN(60), m.word(), m.word(), m.random.IntN(1000)))
	}
	for range 300 {
		m.source = append(m.source, fmt.Sprintf("\x1b[33mdef\x1b[m %s_%s(%s, %s):  \x1b[38;5;12m# %s the %s of each %s\x1b[m", m.word(), m.word(), m.word(), m.word(), m.word(), m.word(), m.word()))
	}
	for range 35 {
		m.processes = append(m.processes, fmt.Sprintf("%7d %-8s  20   0 %8d %7d", m.random.IntN(99999), m.word(), m.random.IntN(1e7), m.random.IntN(1e6)))
	}
	parts := []func(){m.list, m.editor, m.editor, m.progress, m.log, m.python, m.python, m.top, m.pause, m.pause}
	for m.now.Before(testStart.Add(length)) {
		m.out("\x1b]0;alice@db1: ~/study\x07\x1b[01;32malice@db1\x1b[00m:\x1b[01;34m~/study\x1b[00m$ ")
		parts[m.random.IntN(len(parts))]()
	}
}

func (m *mixed) wait(least, most time.Duration) {
	m.now = m.now.Add(least + time.Duration(m.random.Int64N(int64(most-least)))).Truncate(time.Microsecond)
}

func (m *mixed) out(s string) { m.emit(Frame{KindOutput, m.now, []byte(s)}) }

// typed sends keys with their echo.
func (m *mixed) typed(s string) {
	for _, key := range s {
		m.wait(60*time.Millisecond, 300*time.Millisecond)
		m.key(string(key))
		m.out(string(key))
	}
	m.key("\r")
	m.out("\r\n")
}

func (m *mixed) key(s string) {
	m.emit(Frame{KindInput, m.now, []byte(s)})
	m.wait(time.Millisecond, 4*time.Millisecond)
}

var words = strings.Fields("sample cohort variant genome lane chunk table result model align filter depth quality reads index panel export import batch control")

func (m *mixed) word() string { return words[m.random.IntN(len(words))] }

func (m *mixed) list() {
	m.typed("ls -l")
	m.files[m.random.IntN(len(m.files))] = fmt.Sprintf("-rw-r--r-- 1 alice genomics %9d Jul 28 %02d:%02d %s_new.vcf.gz\r\n", m.random.IntN(1e8), m.now.Hour(), m.now.Minute(), m.word())
	m.out(strings.Join(m.files, ""))
	m.wait(2*time.Second, 20*time.Second)
}

func (m *mixed) editor() {
	m.typed("vim " + m.word() + ".py")
	top := m.random.IntN(250)
	m.screen(top)
	for range 60 + m.random.IntN(120) {
		m.wait(80*time.Millisecond, 1500*time.Millisecond)
		if m.random.IntN(15) == 0 {
			top = min(250, max(0, top+m.random.IntN(60)-30))
			m.key("\x06")
			m.screen(top)
			continue
		}
		row, column := 1+m.random.IntN(23), 1+m.random.IntN(70)
		m.key("j")
		m.out(fmt.Sprintf("\x1b[?25l\x1b[24;63H\x1b[K%d,%d\x1b[11C%d%%\x1b[%d;%dH\x1b[?25h", top+row, column, top/3, row, column))
		if m.random.IntN(3) == 0 {
			m.out(fmt.Sprintf("\x1b[%d;1H%4d %s\x1b[K", row, top+row, m.source[top+row]))
		}
	}
	m.out("\x1b[?1049l")
}

func (m *mixed) screen(top int) {
	var b strings.Builder
	b.WriteString("\x1b[?1049h\x1b[2J\x1b[H")
	for row := range 23 {
		fmt.Fprintf(&b, "\x1b[%d;1H%4d %s\x1b[K", row+1, top+row, m.source[top+row])
	}
	m.out(b.String())
}

func (m *mixed) progress() {
	m.typed("./align --" + m.word())
	for p := range 400 {
		m.wait(90*time.Millisecond, 110*time.Millisecond)
		m.out(fmt.Sprintf("\r%3d%%|%-40s| %d/20000 [%02d:%02d<%02d:%02d, %.2fit/s]", p/4, strings.Repeat("█", p/10), p*50, p/600, p/10%60, (400-p)/600, (400-p)/10%60, 500+m.random.Float64()*20))
	}
	m.out("\r\n")
}

func (m *mixed) log() {
	m.typed("tail -f run.log")
	for range 30 + m.random.IntN(60) {
		m.wait(50*time.Millisecond, 1000*time.Millisecond)
		m.out(fmt.Sprintf("2026-07-01T%02d:%02d:%02d.%03dZ INFO  %s: processed %d of %d in %d ms\r\n", m.now.Hour(), m.now.Minute(), m.now.Second(), m.random.IntN(1000), m.word(), m.random.IntN(10000), 10000, m.random.IntN(3000)))
	}
	m.key("\x03")
}

func (m *mixed) python() {
	m.typed("python3")
	for range 3 + m.random.IntN(6) {
		m.out(">>> ")
		m.typed(fmt.Sprintf("%s['%s'].describe()", m.word(), m.word()))
		var b strings.Builder
		for _, row := range []string{"count", "mean", "std", "min", "25%", "50%", "75%", "max"} {
			fmt.Fprintf(&b, "%-8s %14.6f\r\n", row, m.random.Float64()*10000)
		}
		m.out(b.String())
		m.wait(2*time.Second, 15*time.Second)
	}
}

func (m *mixed) top() {
	m.typed("top")
	for range 15 + m.random.IntN(20) {
		var b strings.Builder
		fmt.Fprintf(&b, "\x1b[H\x1b[2Jtop - %02d:%02d:%02d up 12 days, load average: %.2f, %.2f\r\n", m.now.Hour(), m.now.Minute(), m.now.Second(), m.random.Float64(), m.random.Float64())
		for i, p := range m.processes {
			busy := 0.0
			if i < 6 {
				busy = m.random.Float64() * 100
			}
			fmt.Fprintf(&b, "%s  S  %4.1f   0.3    1:%02d.%02d\x1b[K\r\n", p, busy, i, (i*37+m.now.Second())%100)
		}
		m.out(b.String())
		m.wait(2900*time.Millisecond, 3100*time.Millisecond)
	}
	m.key("q")
}

func (m *mixed) pause() { m.wait(10*time.Second, 150*time.Second) }

// record writes a mixed session as a sealer does: a segment when it is due,
// a keyframe after each 256 KiB of output or ten minutes.
func record(t testing.TB, out io.Writer, e epoch, length time.Duration, seed uint64) (raw int, s Summary) {
	t.Helper()
	w := newWriter(t, out, testOptions(t, e))
	screen := bytes.Repeat([]byte("a screen of a terminal, 80 columns wide, as a snapshot would be\n"), 12)
	since, shown := 0, testStart
	mixedSession(seed, length, func(f Frame) {
		if w.Due(f.Time) {
			value[[]Leaf](t)(w.Seal(EffortBest))
		}
		if since >= SegmentTarget || f.Time.Sub(shown) >= 10*time.Minute {
			must(t, w.Keyframe(f.Time, screen))
			since, shown = 0, f.Time
		}
		add(t, w, f)
		raw += len(f.Data)
		if f.Kind == KindOutput {
			since += len(f.Data)
		}
	})
	return raw, value[Summary](t)(w.Close(testStart.Add(length), "exit"))
}
