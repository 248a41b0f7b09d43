package testkit

import (
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
)

// descendants lists the processes below pid, children before their own children.
// sshd's sessions are in process groups of their own, so a signal to the
// listener's group does not reach them.
func descendants(pid int) []int {
	children := map[int][]int{}
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range stats {
		child, parent, err := parents(path)
		if err == nil {
			children[parent] = append(children[parent], child)
		}
	}
	var all []int
	queue := []int{pid}
	for len(queue) > 0 {
		next := children[queue[0]]
		queue = append(queue[1:], next...)
		all = append(all, next...)
	}
	return all
}

// processesOf lists the processes that run as a test account. The account
// exists for tests only, so they are the tests' own.
func processesOf(account string) []int {
	found, err := user.Lookup(account)
	if err != nil {
		return nil
	}
	var pids []int
	folders, _ := filepath.Glob("/proc/[0-9]*")
	for _, folder := range folders {
		info, err := os.Stat(folder)
		if err != nil {
			continue // it has ended meanwhile
		}
		owner, ok := info.Sys().(*syscall.Stat_t)
		if pid, err := strconv.Atoi(filepath.Base(folder)); err == nil && ok && strconv.Itoa(int(owner.Uid)) == found.Uid {
			pids = append(pids, pid)
		}
	}
	return pids
}

// parents reads a process's own and its parent's id from /proc/PID/stat. The
// command's name stands in parentheses and may itself hold spaces and
// parentheses, so the fields are counted from the last one.
func parents(path string) (pid, parent int, err error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return 0, 0, err
	}
	text := string(data)
	end := strings.LastIndexByte(text, ')')
	fields := strings.Fields(text[end+1:])
	if end < 0 || len(fields) < 2 {
		return 0, 0, fmt.Errorf("%s: unexpected content", path)
	}
	pid, err = strconv.Atoi(strings.Fields(text)[0])
	if err != nil {
		return 0, 0, err
	}
	parent, err = strconv.Atoi(fields[1])
	return pid, parent, err
}

// StartOwned starts a command that the kernel ends when this process ends, also
// by a panic or a kill that leaves no time to clean up. The returned channel is
// closed when the command has ended and was waited for.
//
// The kernel ties the child to the thread that started it, so that thread is
// kept for as long as the child lives.
func StartOwned(command *exec.Cmd) (<-chan struct{}, error) {
	if command.SysProcAttr == nil {
		command.SysProcAttr = &syscall.SysProcAttr{}
	}
	command.SysProcAttr.Pdeathsig = syscall.SIGKILL
	started := make(chan error, 1)
	exited := make(chan struct{})
	go func() {
		defer close(exited)
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := command.Start()
		started <- err
		if err == nil {
			_ = command.Wait() // command.ProcessState tells how it ended
		}
	}()
	return exited, <-started
}

// killAll ends processes by their ids; one that is gone already is no error.
func killAll(pids []int) {
	for _, pid := range pids {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
}
