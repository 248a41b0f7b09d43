package testkit

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pquerna/otp/totp"
)

// step is the time step of RFC 6238 that every authenticator app uses.
const step = 30 * time.Second

// stepMargin is how much of a step must be left for an answer of the step
// before it to be still in time when the server looks at it.
const stepMargin = 8 * time.Second

// Authenticator is a person's TOTP device. A server takes each time step once,
// but also those of one step before and after the present, so it hands out
// rising steps from the earliest to the latest that is valid now and waits only
// when they are used up: three logins at once, then one in 30 seconds.
//
// The last used step lies in a file, so that the askpass script, which runs in
// other processes, and the test share one device.
type Authenticator struct {
	Secret string // base32, without padding
	state  string
}

// MakeAuthenticator returns a device for the secret that keeps its state in dir.
func MakeAuthenticator(dir, name, secret string) (*Authenticator, error) {
	a := &Authenticator{Secret: secret, state: filepath.Join(dir, name+".step")}
	if err := os.WriteFile(a.state, []byte("0\n"), 0o600); err != nil {
		return nil, fmt.Errorf("making the authenticator of %s: %w", name, err)
	}
	return a, nil
}

// NewAuthenticator is MakeAuthenticator for a test, with a folder of its own.
func NewAuthenticator(t testing.TB, name, secret string) *Authenticator {
	t.Helper()
	a, err := MakeAuthenticator(t.TempDir(), name, secret)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// Code returns a code that was not handed out before, as soon as there is one.
func (a *Authenticator) Code(ctx context.Context) (string, error) {
	f, err := os.OpenFile(a.state, os.O_RDWR, 0)
	if err != nil {
		return "", fmt.Errorf("opening the authenticator: %w", err)
	}
	defer f.Close()
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		return "", fmt.Errorf("locking the authenticator: %w", err)
	}
	text, err := io.ReadAll(f)
	if err != nil {
		return "", fmt.Errorf("reading the authenticator: %w", err)
	}
	last, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
	if err != nil {
		return "", fmt.Errorf("reading the authenticator: %w", err)
	}
	next, wait := nextStep(last, time.Now())
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return "", fmt.Errorf("waiting for the next time step: %w", ctx.Err())
	case <-timer.C:
	}
	if _, err := f.WriteAt([]byte(strconv.FormatInt(next, 10)+"\n"), 0); err != nil {
		return "", fmt.Errorf("writing the authenticator: %w", err)
	}
	return CodeAt(a.Secret, time.Unix(next*int64(step/time.Second), 0))
}

// nextStep returns the step to use after last, and how long until it is valid.
func nextStep(last int64, now time.Time) (next int64, wait time.Duration) {
	present := now.Unix() / int64(step/time.Second)
	begins := func(n int64) time.Time { return time.Unix(n*int64(step/time.Second), 0) }
	next = present - 1
	if begins(present+1).Sub(now) < stepMargin {
		next = present
	}
	if last >= next {
		next = last + 1
	}
	if next > present+1 {
		wait = begins(next - 1).Sub(now)
	}
	return next, wait
}

// CodeAt is the six-digit code of a base32 secret at a time, whether used or not.
func CodeAt(secret string, at time.Time) (string, error) {
	code, err := totp.GenerateCode(secret, at.UTC())
	if err != nil {
		return "", fmt.Errorf("computing a code: %w", err)
	}
	return code, nil
}

// askpass is a program for SSH_ASKPASS. The code is computed when the prompt is
// there, not before, by the same rule as Code; a question about a host key is
// never answered with yes.
const askpass = `#!/bin/bash
set -euo pipefail
case "${1:-}" in
*yes/no*) exit 1 ;;
esac
exec 9<>'STATE'
flock 9
read -r last <'STATE'
now=$(date +%s)
present=$((now / 30))
next=$((present - 1))
if [ $((30 - now % 30)) -lt 8 ]; then next=$present; fi
if [ "$last" -ge "$next" ]; then next=$((last + 1)); fi
while [ "$next" -gt $((present + 1)) ]; do
	sleep 1
	present=$(($(date +%s) / 30))
done
printf '%s\n' "$next" >'STATE'
oathtool --totp --base32 --now="@$((next * 30))" 'SECRET'
`

// WriteAskpass writes a program to dir that answers the prompt of a stock ssh
// client with a fresh code, and returns the environment that makes ssh ask it:
// SSH_ASKPASS, SSH_ASKPASS_REQUIRE=force and a DISPLAY, which older clients want.
func (a *Authenticator) WriteAskpass(dir string) ([]string, error) {
	name := strings.TrimSuffix(filepath.Base(a.state), ".step") + "-askpass"
	path := filepath.Join(dir, name)
	for _, word := range []string{a.state, a.Secret} {
		if strings.ContainsAny(word, "'\n") {
			return nil, fmt.Errorf("%q cannot stand in the askpass program", word)
		}
	}
	text := strings.NewReplacer("STATE", a.state, "SECRET", a.Secret).Replace(askpass)
	if err := os.WriteFile(path, []byte(text), 0o700); err != nil {
		return nil, fmt.Errorf("writing the askpass program: %w", err)
	}
	return []string{"SSH_ASKPASS=" + path, "SSH_ASKPASS_REQUIRE=force", "DISPLAY=none:0"}, nil
}

// WriteFixedAskpass writes an askpass program to dir that always gives the same
// answer: a wrong code, a used code, a recovery code.
func WriteFixedAskpass(dir, name, answer string) ([]string, error) {
	path := filepath.Join(dir, name)
	quoted := "'" + strings.ReplaceAll(answer, "'", `'\''`) + "'"
	text := "#!/bin/bash\nprintf '%s\\n' " + quoted + "\n"
	if err := os.WriteFile(path, []byte(text), 0o700); err != nil {
		return nil, fmt.Errorf("writing the askpass program: %w", err)
	}
	return []string{"SSH_ASKPASS=" + path, "SSH_ASKPASS_REQUIRE=force", "DISPLAY=none:0"}, nil
}
