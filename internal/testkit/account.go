package testkit

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"
)

// accountName admits only names of this kit's own, so that no test can ever
// remove an account that somebody uses.
var accountName = regexp.MustCompile(`^sp-[a-z0-9-]{1,24}$`)

// Account is a throwaway account of this machine that sshd can log in: a home,
// /bin/bash, and "*" for a password, which no password matches. ("!" would make
// sshd refuse the account altogether when PAM is off.)
//
// Tests of several packages run at once and may name the same account, so it
// exists as long as anyone holds it: each holder has a shared lock on a file,
// and who can turn that lock into an exclusive one is the last.
type Account struct {
	Name string
	Home string
	held *os.File
}

// AcquireAccount makes the account if it is missing, and holds it until Release.
// The name begins with "sp-". It needs root.
func AcquireAccount(ctx context.Context, name string) (*Account, error) {
	if !accountName.MatchString(name) {
		return nil, fmt.Errorf("account %q: a test account's name begins with sp- and holds a-z, 0-9 and - only", name)
	}
	if os.Geteuid() != 0 {
		return nil, fmt.Errorf("account %s: making accounts for a real sshd needs root", name)
	}
	registry, err := lockFile("accounts", syscall.LOCK_EX)
	if err != nil {
		return nil, err
	}
	defer registry.Close()
	held, err := lockFile("account-"+name, syscall.LOCK_SH)
	if err != nil {
		return nil, err
	}
	found, err := user.Lookup(name)
	if errors.As(err, new(user.UnknownUserError)) {
		if err = run(ctx, "useradd", "--create-home", "--shell", "/bin/bash", "--password", "*",
			"--comment", "sallyport test account", name); err == nil {
			found, err = user.Lookup(name)
		}
	}
	if err != nil {
		held.Close()
		return nil, fmt.Errorf("account %s: %w", name, err)
	}
	return &Account{Name: name, Home: found.HomeDir, held: held}, nil
}

// Release gives the account up; the last holder removes it with its home.
func (a *Account) Release() error {
	if a.held == nil {
		return nil
	}
	registry, err := lockFile("accounts", syscall.LOCK_EX)
	if err != nil {
		return err
	}
	defer registry.Close()
	defer func() { a.held.Close(); a.held = nil }()
	if syscall.Flock(int(a.held.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) != nil {
		return nil // somebody else still uses it
	}
	// A program without a terminal outlives its session, and the account can't go before it.
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	var last error
	if err := Poll(ctx, "the account's processes to end", func() bool {
		killAll(processesOf(a.Name))
		last = run(ctx, "userdel", "--remove", a.Name)
		_, err := user.Lookup(a.Name)
		return err != nil
	}); err != nil {
		return fmt.Errorf("removing account %s: %w", a.Name, errors.Join(err, last))
	}
	return nil
}

// lockFile opens a lock of this kit and waits for it; closing the file unlocks it.
func lockFile(name string, how int) (*os.File, error) {
	dir := "/run/lock"
	f, err := os.OpenFile(filepath.Join(dir, "sallyport-test-"+name), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening a lock: %w", err)
	}
	for {
		err = syscall.Flock(int(f.Fd()), how)
		if !errors.Is(err, syscall.EINTR) {
			break
		}
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("locking %s: %w", f.Name(), err)
	}
	return f, nil
}

// run runs a short command of the system and returns its output with the error.
func run(ctx context.Context, name string, args ...string) error {
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", name, err, strings.TrimSpace(string(out)))
	}
	return nil
}
