package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"
)

const (
	// drainTime is how long output may still come once the program has ended:
	// what it left in the background can hold the pipe open for ever.
	drainTime = 500 * time.Millisecond
	// hangUpTime is what programs get between SIGHUP and SIGKILL.
	hangUpTime = 300 * time.Millisecond
	// searchPath is that of a login shell.
	searchPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
)

// program is a shell or command of one session, leader of a process session
// of its own.
type program struct {
	cmd      *exec.Cmd
	terminal *os.File // nil without one

	// output ends when everything that was written has been sent on.
	output chan struct{}
}

// startProgram starts an account's shell, or a command in it, with its home
// as the working directory.
func startProgram(h *hostSession, home, command string) (*program, error) {
	shell, err := exec.LookPath("bash")
	options := []string{"--noprofile", "--norc"}
	if err != nil {
		shell, options = "/bin/sh", nil
	}
	var args []string
	switch {
	case command != "":
		args = []string{"-c", command}
	case h.terminal:
		args = append(options, "-i")
	default:
		args = append(options, "-s") // a script comes on the input
	}
	cmd := exec.Command(shell, args...)
	cmd.Dir = home
	cmd.Env = append([]string{
		"HOME=" + home, "USER=" + h.account.name, "LOGNAME=" + h.account.name, "SHELL=" + shell, "PATH=" + searchPath,
		"PS1=" + h.account.name + "@" + h.server.Name + "." + h.server.Project + "$ ", "HISTFILE=/dev/null",
	}, h.env...)
	p := &program{cmd: cmd, output: make(chan struct{})}
	if h.terminal {
		cmd.Env = append(cmd.Env, "TERM="+h.term)
		err = p.startOnTerminal(h)
	} else {
		err = p.startOnPipes(h)
	}
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", filepath.Base(shell), err)
	}
	return p, nil
}

// startOnTerminal gives the program a pseudo-terminal of the client's size.
func (p *program) startOnTerminal(h *hostSession) error {
	raw, err := pty.StartWithSize(p.cmd, h.window.size())
	if err != nil {
		return err
	}
	defer raw.Close()
	if p.terminal, err = pollable(raw); err != nil {
		_ = p.cmd.Process.Kill() // and hang up by the deferred Close
		_ = p.cmd.Wait()         // its end is of no interest, only that it is waited for
		return err
	}
	h.work.Go(func() { _, _ = io.Copy(p.terminal, h.Channel) }) // ends with the channel or the terminal
	h.work.Go(func() {
		defer close(p.output)
		_, _ = io.Copy(h.Channel, p.terminal) // EIO once no program has the terminal open
	})
	return nil
}

// pollable returns a descriptor whose reads end when it is closed. The pty
// package leaves its own in blocking mode.
func pollable(f *os.File) (*os.File, error) {
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("duplicate the terminal: %w", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("make the terminal pollable: %w", err)
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}

// startOnPipes keeps output and errors apart, byte for byte.
func (p *program) startOnPipes(h *hostSession) error {
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	in, err := p.cmd.StdinPipe()
	if err != nil {
		return err
	}
	p.cmd.Stdout, p.cmd.Stderr = h.Channel, h.Stderr()
	p.cmd.WaitDelay = drainTime
	if err := p.cmd.Start(); err != nil {
		return err
	}
	close(p.output) // the command's own Wait waits for output
	h.work.Go(func() {
		_, _ = io.Copy(in, h.Channel) // a program may leave its input unread
		in.Close()
	})
	return nil
}

// wait returns how the program ended. When ctx ends first the gate has gone,
// and everything that the session started is ended.
func (p *program) wait(ctx context.Context) exit {
	done := make(chan struct{})
	var ended sync.WaitGroup
	ended.Go(func() {
		select {
		case <-done:
		case <-ctx.Done():
			p.hangUp(done)
		}
	})
	err := p.cmd.Wait()
	if p.terminal != nil {
		timer := time.NewTimer(drainTime)
		select {
		case <-p.output:
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
		p.terminal.Close()
	}
	close(done)
	ended.Wait()
	endSession(p.cmd.Process.Pid, syscall.SIGHUP) // what stayed in the background
	return exitOf(err)
}

// hangUp ends the session's programs, the hard way if they do not listen.
func (p *program) hangUp(done <-chan struct{}) {
	endSession(p.cmd.Process.Pid, syscall.SIGHUP)
	timer := time.NewTimer(hangUpTime)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
		endSession(p.cmd.Process.Pid, syscall.SIGKILL)
	}
}

// exitOf reads how a program ended from what Wait said.
func exitOf(err error) exit {
	var failed *exec.ExitError
	if !errors.As(err, &failed) {
		return exit{} // also ErrWaitDelay: the program itself ended well
	}
	if status, ok := failed.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return exit{signal: signalName(status.Signal())}
	}
	return exit{status: uint32(failed.ExitCode())}
}

// resize changes the terminal's size; its programs get SIGWINCH.
func (p *program) resize(w window) {
	if p.terminal == nil {
		return
	}
	raw, err := p.terminal.SyscallConn()
	if err != nil {
		return // closed: the program has ended
	}
	_ = raw.Control(func(fd uintptr) {
		_ = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{
			Col: uint16(w.Columns), Row: uint16(w.Rows), Xpixel: uint16(w.Width), Ypixel: uint16(w.Height)})
	}) // a terminal that is gone needs no size
}

// signal sends a signal to the program and what it runs in its process group.
func (p *program) signal(s syscall.Signal) {
	_ = syscall.Kill(-p.cmd.Process.Pid, s) // it may just have ended
}

// endSession sends a signal to every process of a process session: an
// interactive shell gives each job a group of its own, so one group is not enough.
func endSession(session int, s syscall.Signal) {
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range stats {
		text, err := os.ReadFile(path)
		if err != nil {
			continue // ended meanwhile
		}
		// The name stands in parentheses and may hold anything; then state, parent, group, session.
		fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
		if len(fields) < 4 || fields[3] != strconv.Itoa(session) {
			continue
		}
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path))); err == nil {
			_ = syscall.Kill(pid, s) // as above
		}
	}
}
