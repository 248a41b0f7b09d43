package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// injector runs a program of which it sees every system call that changes
// files, before it happens, and can let one of them fail or end the program there.
//
// It is what `strace -e inject=` does, with two differences that matter for a
// program of many threads: strace counts each thread's calls by themselves, so
// "the third fdatasync" would be several or none; and it knows a file by its
// exact path only, which a recording does not have before it exists. The kernel
// asks a supervisor instead (seccomp_unotify(2)), which counts over all threads.
type injector struct {
	root  string // only calls on what lies below are counted
	fault fault

	mu    sync.Mutex // guards the rest
	calls []call
	hit   *call // the call that the fault fell on
	at    int   // and its place among them

	work sync.WaitGroup
	err  error // of the supervisor; read after wait
}

// call is one system call on a file below the root.
type call struct {
	name string // of the system call
	path string // relative to the root
}

// variable is what differs from one run to the next in the path of a file of the same purpose.
var variable = regexp.MustCompile(`S-[0-9A-Z]+|[0-9]+`)

// class is the call with what is the same in every run.
func (c call) class() string { return c.name + " " + variable.ReplaceAllString(c.path, "*") }

// fault is what happens at the nth call of a class, counted from 1. The zero value is no fault.
type fault struct {
	class string
	n     int
	errno unix.Errno // 0: the program is killed before the call
}

func (f fault) String() string {
	if f.errno == 0 {
		return fmt.Sprintf("killed before %s, number %d", f.class, f.n)
	}
	return fmt.Sprintf("%s at %s, number %d", unix.ErrnoName(f.errno), f.class, f.n)
}

// watched are the system calls that change files, with where their file stands among the arguments.
var watched = []struct {
	number uintptr
	name   string
	kind   int
}{
	{unix.SYS_OPENAT, "openat", byPath},
	{unix.SYS_MKDIRAT, "mkdirat", byPath},
	{unix.SYS_UNLINKAT, "unlinkat", byPath},
	{unix.SYS_RENAMEAT, "rename", bySecondPath},
	{unix.SYS_RENAMEAT2, "rename", bySecondPath},
	{unix.SYS_LINKAT, "link", bySecondPath},
	{unix.SYS_WRITE, "write", byDescriptor},
	{unix.SYS_WRITEV, "writev", byDescriptor},
	{unix.SYS_PWRITE64, "pwrite64", byDescriptor},
	{unix.SYS_PWRITEV, "pwritev", byDescriptor},
	{unix.SYS_FSYNC, "fsync", byDescriptor},
	{unix.SYS_FDATASYNC, "fdatasync", byDescriptor},
	{unix.SYS_FTRUNCATE, "ftruncate", byDescriptor},
	{unix.SYS_FALLOCATE, "fallocate", byDescriptor},
}

const (
	byDescriptor = iota // first argument
	byPath              // first and second argument, as openat
	bySecondPath        // third and fourth argument, as renameat
)

// filter is the program in the kernel: the watched calls go to the supervisor, all others pass.
func filter() []unix.SockFilter {
	const load, equal, give = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, unix.BPF_RET | unix.BPF_K
	f := []unix.SockFilter{{Code: load, K: 0}} // number of the system call
	for i, w := range watched {
		f = append(f, unix.SockFilter{Code: equal, Jt: uint8(len(watched) - i), K: uint32(w.number)})
	}
	return append(f, unix.SockFilter{Code: give, K: unix.SECCOMP_RET_ALLOW}, unix.SockFilter{Code: give, K: unix.SECCOMP_RET_USER_NOTIF})
}

// start is a testgate.Starter. The filter is put on a thread that starts the
// program, which inherits it, and on nothing else; the thread is kept until the
// program has ended, and never used again.
func (i *injector) start(command *exec.Cmd) (<-chan struct{}, error) {
	if command.SysProcAttr == nil {
		command.SysProcAttr = &syscall.SysProcAttr{}
	}
	command.SysProcAttr.Pdeathsig = syscall.SIGKILL
	started, exited := make(chan error, 1), make(chan struct{})
	go func() {
		defer close(exited)
		runtime.LockOSThread() // and never unlocked, so that the thread ends with this goroutine
		if unix.Gettid() == unix.Getpid() {
			// The first thread of a process never ends; while it is held here, another goroutine gets another.
			var other sync.WaitGroup
			other.Go(func() {
				runtime.LockOSThread()
				i.life(command, started)
			})
			other.Wait()
			runtime.UnlockOSThread()
			return
		}
		i.life(command, started)
	}()
	return exited, <-started
}

// life is the program's, from the thread that has the filter.
func (i *injector) life(command *exec.Cmd, started chan<- error) {
	listener, err := install()
	if err != nil {
		started <- err
		return
	}
	i.work.Go(func() { i.err = i.supervise(listener, command) })
	err = command.Start()
	started <- err
	if err == nil {
		_ = command.Wait() // command.ProcessState tells how it ended
	}
}

// install puts the filter on this thread and returns the supervisor's end.
func install() (int, error) {
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return 0, fmt.Errorf("watching system calls: %w", err)
	}
	f := filter()
	program := unix.SockFprog{Len: uint16(len(f)), Filter: &f[0]}
	listener, _, errno := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER,
		unix.SECCOMP_FILTER_FLAG_NEW_LISTENER|unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV, uintptr(unsafe.Pointer(&program)))
	if errno != 0 {
		return 0, fmt.Errorf("watching system calls: %w", errno)
	}
	return int(listener), nil
}

// notification and answer are struct seccomp_notif and seccomp_notif_resp of linux/seccomp.h.
type notification struct {
	id      uint64
	thread  uint32
	_       uint32
	number  int32
	_       uint32
	_       uint64
	operand [6]uint64
}

type answer struct {
	id    uint64
	_     int64
	errno int32
	flags uint32
}

// supervise answers the kernel until no thread has the filter any more.
func (i *injector) supervise(listener int, command *exec.Cmd) error {
	defer unix.Close(listener)
	for {
		poll := []unix.PollFd{{Fd: int32(listener), Events: unix.POLLIN}}
		if _, err := unix.Poll(poll, -1); errors.Is(err, unix.EINTR) {
			continue
		} else if err != nil {
			return err
		}
		if poll[0].Revents&unix.POLLIN == 0 {
			return nil // the last one has ended
		}
		var n notification
		switch errno := ioctl(listener, unix.SECCOMP_IOCTL_NOTIF_RECV, unsafe.Pointer(&n)); errno {
		case 0:
		case unix.ENOENT, unix.EINTR: // the thread was killed meanwhile
			continue
		default:
			return fmt.Errorf("receiving a system call: %w", errno)
		}
		a := answer{id: n.id, flags: unix.SECCOMP_USER_NOTIF_FLAG_CONTINUE}
		if hit, errno := i.judge(&n); hit && errno == 0 {
			_ = command.Process.Kill() // and the call never happens
			a.flags, a.errno = 0, -int32(unix.EIO)
		} else if hit {
			a.flags, a.errno = 0, -int32(errno)
		}
		if errno := ioctl(listener, unix.SECCOMP_IOCTL_NOTIF_SEND, unsafe.Pointer(&a)); errno != 0 && errno != unix.ENOENT {
			return fmt.Errorf("answering a system call: %w", errno)
		}
	}
}

func ioctl(fd int, request uintptr, argument unsafe.Pointer) unix.Errno {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(argument))
	return errno
}

// judge counts a call, and says whether the fault falls on it.
func (i *injector) judge(n *notification) (bool, unix.Errno) {
	c, ok := i.describe(n)
	if !ok {
		return false, 0
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.calls = append(i.calls, c)
	if i.hit != nil || i.fault.n == 0 || c.class() != i.fault.class {
		return false, 0
	}
	if i.fault.n--; i.fault.n > 0 {
		return false, 0
	}
	i.hit, i.at = &c, len(i.calls)-1
	return true, i.fault.errno
}

// describe says what a call is about; false when that is not below the root.
func (i *injector) describe(n *notification) (call, bool) {
	for _, w := range watched {
		if w.number != uintptr(n.number) {
			continue
		}
		var path string
		switch w.kind {
		case byDescriptor:
			path = descriptorPath(n.thread, n.operand[0])
		case byPath:
			path = argumentPath(n.thread, n.operand[0], n.operand[1])
		case bySecondPath:
			path = argumentPath(n.thread, n.operand[2], n.operand[3])
		}
		relative, below := strings.CutPrefix(path, i.root+"/")
		return call{name: w.name, path: relative}, below
	}
	return call{}, false
}

func descriptorPath(thread uint32, fd uint64) string {
	path, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", thread, int32(fd)))
	if err != nil {
		return ""
	}
	return path
}

// argumentPath reads a path from the program's memory.
func argumentPath(thread uint32, dir, address uint64) string {
	memory, err := os.Open(fmt.Sprintf("/proc/%d/mem", thread))
	if err != nil {
		return ""
	}
	defer memory.Close()
	text := make([]byte, unix.PathMax)
	n, _ := memory.ReadAt(text, int64(address)) // it may end before PathMax
	text, _, ok := bytes.Cut(text[:n], []byte{0})
	if !ok {
		return ""
	}
	path := string(text)
	if !filepath.IsAbs(path) && int32(dir) != unix.AT_FDCWD {
		path = filepath.Join(descriptorPath(thread, dir), path)
	}
	return filepath.Clean(path)
}

// wait returns when the supervisor has ended, as it does after the program.
func (i *injector) wait() error {
	i.work.Wait()
	return i.err
}
