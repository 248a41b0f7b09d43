package testkit

import (
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/pquerna/otp/totp"
)

const testSecret = "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP"

func TestNextStep(t *testing.T) {
	at := func(s int64) time.Time { return time.Unix(s, 0) }
	for _, c := range []struct {
		name string
		last int64
		now  time.Time
		next int64
		wait time.Duration
	}{
		{"first, early in a step", 0, at(3001), 99, 0},
		{"first, late in a step", 0, at(3025), 100, 0},
		{"second", 99, at(3001), 100, 0},
		{"third", 100, at(3001), 101, 0},
		{"fourth waits until its step is the one after the present", 101, at(3001), 102, 29 * time.Second},
		{"a clock that went back", 110, at(3001), 111, 299 * time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			next, wait := nextStep(c.last, c.now)
			if next != c.next || wait != c.wait {
				t.Errorf("got %d after %v, wanted %d after %v", next, wait, c.next, c.wait)
			}
		})
	}
}

// TestAuthenticatorAndAskpassShareOneDevice also holds oathtool and the library
// to the same codes.
func TestAuthenticatorAndAskpassShareOneDevice(t *testing.T) {
	a := NewAuthenticator(t, "alice", testSecret)
	env, err := a.WriteAskpass(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	script := strings.TrimPrefix(env[0], "SSH_ASKPASS=")
	if out, err := exec.Command(script, "Are you sure (yes/no/[fingerprint])?").Output(); err == nil {
		t.Errorf("answered a question about a host key with %q", out)
	}
	first, err := a.Code(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(script, "Verification code: ").Output()
	if err != nil {
		t.Fatal(err)
	}
	second := strings.TrimSpace(string(out))
	if first == second {
		t.Error("the same code was handed out twice")
	}
	for _, code := range []string{first, second} {
		if !totp.Validate(code, testSecret) {
			t.Errorf("code %s is not valid now", code)
		}
	}
}

func TestFixedAskpass(t *testing.T) {
	const answer = `it's "$HOME" \n`
	env, err := WriteFixedAskpass(t.TempDir(), "fixed", answer)
	if err != nil {
		t.Fatal(err)
	}
	command := exec.Command(strings.TrimPrefix(env[0], "SSH_ASKPASS="), "Verification code: ")
	command.Env = append(os.Environ(), env...)
	out, err := command.Output()
	if err != nil || string(out) != answer+"\n" {
		t.Errorf("got %q, %v", out, err)
	}
}
