package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/pquerna/otp"
	"github.com/pquerna/otp/hotp"
)

const (
	// codeStep is the time step of RFC 6238 that authenticator apps use.
	codeStep = 30 * time.Second
	// typingTime is how long a code that is handed out must at least stay
	// good: a person has to read and type it.
	typingTime = 12 * time.Second
	// machineTime is the same for a program.
	machineTime = 4 * time.Second

	secretFile = "totp"
	stepFile   = "totp.used"
)

// UsedError says that every code which a person could use now has been handed
// out: the gate takes each time step once.
type UsedError struct {
	Name string
	Wait time.Duration // until the next code
}

func (e *UsedError) Error() string {
	return fmt.Sprintf("the codes of %s that are good now were given out already, and each works once; the next comes in %d s (--wait waits for it)",
		e.Name, int(e.Wait.Seconds())+1)
}

// Code returns a one-time code of a demo's person that was not handed out
// before, or a *UsedError while there is none. dir is the demo's folder; empty
// is DefaultDir.
func Code(dir, name string) (string, error) {
	return authenticator{dir: dir, name: name, now: time.Now, margin: typingTime}.code()
}

// WaitCode is Code that waits for the next code when it must, at most about half a minute.
func WaitCode(ctx context.Context, dir, name string) (string, error) {
	return authenticator{dir: dir, name: name, now: time.Now, margin: typingTime}.wait(ctx)
}

// authenticator is a person's TOTP device. The gate also takes the codes of
// one step before and after the present one, so it hands out rising steps from
// the earliest to the latest that is good, and notes the last one in a file
// that all programs of the demo share.
type authenticator struct {
	dir, name string
	now       func() time.Time
	margin    time.Duration // how long a code must stay good
}

func (a authenticator) folder() (string, error) {
	dir := a.dir
	if dir == "" {
		dir = DefaultDir
	}
	if !validAccount(a.name) {
		return "", fmt.Errorf("%q is nobody of the demo", a.name)
	}
	return filepath.Join(dir, "people", a.name), nil
}

// keep stores a new secret (base32).
func (a authenticator) keep(secret string) error {
	folder, err := a.folder()
	if err != nil {
		return err
	}
	for file, text := range map[string]string{secretFile: secret, stepFile: "0"} {
		if err := os.WriteFile(filepath.Join(folder, file), []byte(text+"\n"), 0o600); err != nil {
			return fmt.Errorf("keep the secret of %s: %w", a.name, err)
		}
	}
	return nil
}

// code hands out the next code under a lock, so that no two callers get the same.
func (a authenticator) code() (string, error) {
	folder, err := a.folder()
	if err != nil {
		return "", err
	}
	secret, err := os.ReadFile(filepath.Join(folder, secretFile))
	if errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("there is no %s with an authenticator in this demo", a.name)
	}
	if err != nil {
		return "", fmt.Errorf("read the secret of %s: %w", a.name, err)
	}
	used, err := os.OpenFile(filepath.Join(folder, stepFile), os.O_RDWR, 0)
	if err != nil {
		return "", fmt.Errorf("read the used codes of %s: %w", a.name, err)
	}
	defer used.Close()
	if err := syscall.Flock(int(used.Fd()), syscall.LOCK_EX); err != nil {
		return "", fmt.Errorf("lock the used codes of %s: %w", a.name, err)
	}
	text, err := io.ReadAll(used)
	if err != nil {
		return "", fmt.Errorf("read the used codes of %s: %w", a.name, err)
	}
	last, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
	if err != nil {
		return "", fmt.Errorf("read the used codes of %s: %w", a.name, err)
	}
	step, wait := nextStep(last, a.now(), a.margin)
	if wait > 0 {
		return "", &UsedError{Name: a.name, Wait: wait}
	}
	// Steps have the same number of digits for the next centuries, so writing over is enough.
	if _, err := used.WriteAt([]byte(strconv.FormatInt(step, 10)+"\n"), 0); err != nil {
		return "", fmt.Errorf("note the used code of %s: %w", a.name, err)
	}
	return codeAt(strings.TrimSpace(string(secret)), step)
}

// wait is code that waits for the next code.
func (a authenticator) wait(ctx context.Context) (string, error) {
	for {
		code, err := a.code()
		var used *UsedError
		if !errors.As(err, &used) {
			return code, err
		}
		timer := time.NewTimer(used.Wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return "", ctx.Err()
		}
	}
}

// nextStep is the earliest step after last whose code stays good for margin,
// and how long to wait until a gate takes it.
func nextStep(last int64, now time.Time, margin time.Duration) (step int64, wait time.Duration) {
	seconds := int64(codeStep / time.Second)
	present := now.Unix() / seconds
	left := time.Unix((present+1)*seconds, 0).Sub(now)
	step = present - 1
	if left < margin {
		step = present
	}
	step = max(step, last+1)
	if step > present+1 {
		// It counts as the next step's from the beginning of the step before.
		wait = time.Unix((step-1)*seconds, 0).Sub(now) + 50*time.Millisecond
	}
	return step, wait
}

func codeAt(secret string, step int64) (string, error) {
	code, err := hotp.GenerateCodeCustom(secret, uint64(step), hotp.ValidateOpts{Digits: otp.DigitsSix, Algorithm: otp.AlgorithmSHA1})
	if err != nil {
		return "", fmt.Errorf("make a code: %w", err)
	}
	return code, nil
}
