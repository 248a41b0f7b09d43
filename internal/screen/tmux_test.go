package screen

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// tmuxPane is a terminal of another make to compare with: a pane without a
// client, whose program copies what we write to its terminal and what the
// terminal answers to us.
type tmuxPane struct {
	t             *testing.T
	socket        string
	columns, rows int
	toPane        *os.File
	answers       *bufio.Reader
	in            *os.File
}

func startTmux(t *testing.T, columns, rows int) *tmuxPane {
	t.Helper()
	// A socket's path must be short, which that of t.TempDir is not.
	dir, err := os.MkdirTemp("", "screen")
	if err != nil {
		t.Fatal(err)
	}
	p := &tmuxPane{t: t, socket: filepath.Join(dir, "socket"), columns: columns, rows: rows}
	var pipes [2]*os.File
	for i, name := range []string{"to", "from"} {
		path := filepath.Join(dir, name)
		if err := syscall.Mkfifo(path, 0o600); err != nil {
			t.Fatal(err)
		}
		// Opened for both ways, so that it waits for nobody.
		if pipes[i], err = os.OpenFile(path, os.O_RDWR, 0); err != nil {
			t.Fatal(err)
		}
	}
	p.toPane, p.in, p.answers = pipes[0], pipes[1], bufio.NewReader(pipes[1])
	t.Cleanup(func() {
		_ = exec.Command("tmux", "-S", p.socket, "kill-server").Run()
		for _, pipe := range pipes {
			_ = pipe.Close()
		}
		_ = os.RemoveAll(dir)
	})
	p.tmux("-f", "/dev/null", "new-session", "-d", "-x", fmt.Sprint(columns), "-y", fmt.Sprint(rows),
		"stty raw -echo; cat '"+dir+"/to' & exec cat >'"+dir+"/from'")
	return p
}

func (p *tmuxPane) tmux(arguments ...string) string {
	p.t.Helper()
	command := exec.Command("tmux", append([]string{"-S", p.socket}, arguments...)...)
	command.Env = append(os.Environ(), "LC_ALL=C.UTF-8", "TERM=xterm-256color", "TMUX=", "SHELL=/bin/sh")
	out, err := command.CombinedOutput()
	if err != nil {
		p.t.Fatalf("tmux %q: %v: %s", arguments, err, out)
	}
	return string(out)
}

// show resets the pane, writes the input and returns the rows and the cursor.
func (p *tmuxPane) show(in string) (rows string, x, y int) {
	p.t.Helper()
	// The answer to the question for the cursor tells that all was obeyed.
	if _, err := p.toPane.WriteString("\x18\x1b[?1049l\x1bc\x1b[H\x1b[2J" + in + "\x1b[6n"); err != nil {
		p.t.Fatal(err)
	}
	if err := p.in.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		p.t.Fatal(err)
	}
	if _, err := p.answers.ReadString('R'); err != nil {
		p.t.Fatalf("tmux does not answer after %q: %v", in, err)
	}
	out := p.tmux("display-message", "-p", "#{cursor_x} #{cursor_y}", ";", "capture-pane", "-p")
	first, rest, _ := strings.Cut(out, "\n")
	if _, err := fmt.Sscan(first, &x, &y); err != nil {
		p.t.Fatalf("tmux answers %q: %v", out, err)
	}
	return trimmed(rest), min(x, p.columns-1), y
}

// trimmed takes the blanks off the ends of rows and of the whole.
func trimmed(rows string) string {
	lines := strings.Split(rows, "\n")
	for i := range lines {
		lines[i] = strings.TrimRight(lines[i], " ")
	}
	return strings.TrimRight(strings.Join(lines, "\n"), "\n")
}

// What tmux 3.3a does otherwise, and what is therefore not generated:
//
//   - After a character in the last column its cursor stands beyond it, so that
//     backspace, line feed, erasing and relative moves from there go elsewhere.
//     Only characters, CR, absolute moves and colours follow here.
//   - Backspace in column 0 goes back to the end of a row that wraps.
//   - Setting the region goes to the first row in origin mode, too; restoring a
//     cursor that was not saved goes to where one was saved before the reset.
//   - Insert mode loses the first character of some writes.
//   - A cursor saved in origin mode is restored outside the region; leaving the
//     alternate screen does not restore the mode.
//   - Leaving the alternate screen that is not shown does nothing.
//   - REP stops at the end of the row; insert and delete line outside the region
//     ignore it, and leave the column as it is.
//   - Halves of wide characters stay or go in other cases of insert, delete and
//     erase; wide characters are only overwritten and erased by rows here.
//   - Invalid bytes are dropped; skin tones and U+FE0F change no width.
//   - A resize reflows; DEC graphics are captured as ASCII; CSI I, a, e, s, u
//     and the soft reset are unknown or differ; there is one saved cursor for
//     both screens.
var (
	tmuxText  = []string{"a", "bc", "hello ", "0123456789", "The quick brown fox ", "x", " ", "long line without an end, longer than the screen "}
	tmuxWide  = []string{"中", "文字 ", "日本語テキスト", "한글", "👍", "e\u0301", "👨\u200d👩\u200d👧", "ж", "→", "é"}
	tmuxSafe  = []string{"\r", "\x1b[H", "\x1b[3;7H", "\x1b[99;1H", "\x1b[2;99H", "\x1b[1;31m", "\x1b[m", "\x1b[48;5;3m", "\x1b]133;A\a", "\x1bPx\x1b\\", "\x1b[?25l", "\x1b[>4;1m"}
	tmuxMoves = []string{"\n", "\r\n", "\x1b[A", "\x1b[2A", "\x1b[B", "\x1b[5B", "\x1b[C", "\x1b[4C", "\x1b[D", "\x1b[3D", "\x1b[5G", "\x1b[4d", "\x1b[E", "\x1b[2F",
		"\t", "\x1b[Z", "\x1bD", "\x1bE", "\x1bM", "\x1b7", "\x1b8", "\x1bH", "\x1b[g"}
	tmuxLines = []string{"\x1b[J", "\x1b[2J", "\x1b[K\x1b[1K", "\x1b[2K", "\x1b[L\r", "\x1b[2L\r", "\x1b[M\r", "\x1b[3M\r", "\x1b[S", "\x1b[2S", "\x1b[T",
		"\x1b[2;5r\x1b[H", "\x1b[3;4r\x1b[H", "\x1b[r\x1b[H", "\x1b[?6h", "\x1b[?6l"}
	tmuxEdits = []string{"\x1b[1J", "\x1b[K", "\x1b[1K", "\x1b[X", "\x1b[4X", "\x1b[@", "\x1b[3@", "\x1b[P", "\x1b[5P", "y\x1b[2b", "\x1b#8"}
	tmuxAlt   = []string{"\x1b[?1049h", "\x1b[?1049l"}
)

// tmuxProgram is a random input that both understand the same way.
func tmuxProgram(seed uint64, columns, rows int) string {
	random := rand.New(rand.NewPCG(seed, 7))
	wide, alternate := seed%3 == 0, seed%4 == 1
	anywhere := append(append(append([]string{}, tmuxText...), tmuxText...), tmuxSafe...)
	inside := append(append(append([]string{}, anywhere...), tmuxMoves...), tmuxLines...)
	switch {
	case wide:
		anywhere = append(anywhere, tmuxWide...)
		inside = append(inside, tmuxWide...)
	default:
		inside = append(inside, tmuxEdits...)
	}
	if alternate {
		inside = append(inside, tmuxAlt...)
	}
	model := New(columns, rows)
	var out strings.Builder
	out.WriteString("\x1b7")
	for range 40 {
		from := inside
		if model.pending {
			from = anywhere
		}
		token := from[random.IntN(len(from))]
		outside := model.y < model.top || model.y > model.bottom
		switch {
		case token == "\x1b7" && alternate || token == "\x1b8" && alternate,
			outside && (strings.HasSuffix(token, "L\r") || strings.HasSuffix(token, "M\r")),
			strings.HasSuffix(token, "b") && (model.x > columns-5 || model.pending),
			token == "\x1b8" && model.saved[0].origin, token == "\x1b[?6h" && alternate,
			token == tmuxAlt[0] && model.active == 1, token == tmuxAlt[1] && model.active == 0:
			continue
		}
		out.WriteString(token)
		_, _ = model.Write([]byte(token))
		if model.row().at(model.x).glyph&flagRest != 0 && !model.pending {
			out.WriteString("\r")
			_, _ = model.Write([]byte("\r"))
		}
	}
	return out.String()
}

func TestLikeTmux(t *testing.T) {
	const columns, rows, programs = 30, 8, 400
	pane := startTmux(t, columns, rows)
	different := 0
	for seed := range uint64(programs) {
		in := tmuxProgram(seed, columns, rows)
		wantRows, wantX, wantY := pane.show(in)
		s := New(columns, rows)
		_, _ = s.Write([]byte(in))
		x, y, _ := s.Cursor()
		if got := trimmed(strings.Join(s.Lines(), "\n")); got != wantRows || x != wantX || y != wantY {
			t.Errorf("program %d, %q:\nhere, cursor %d,%d:\n%s\ntmux, cursor %d,%d:\n%s", seed, in, x, y, got, wantX, wantY, wantRows)
			if different++; different == 5 {
				t.Fatal("and so on")
			}
			continue
		}
		// A real terminal must show the same after a snapshot, too.
		if shotRows, shotX, shotY := pane.show(string(s.Snapshot())); shotRows != wantRows || shotX != x || shotY != y {
			t.Errorf("program %d: tmux shows after the snapshot %q, cursor %d,%d:\n%s\nwant, cursor %d,%d:\n%s", seed, s.Snapshot(), shotX, shotY, shotRows, x, y, wantRows)
		}
	}
}
