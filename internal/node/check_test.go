package node

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestCheckFindsWhatWouldNotStart has one thing wrong at a time.
func TestCheckFindsWhatWouldNotStart(t *testing.T) {
	_, c := initialised(t)
	if err := Check(c); err != nil {
		t.Fatal(err)
	}
	policy := filepath.Join(t.TempDir(), "policy")
	if err := os.WriteFile(policy, []byte("quorum nobody\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	foreign := filepath.Join(t.TempDir(), "policy")
	if err := os.WriteFile(foreign, []byte("quorum none\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	right := *c
	for want, change := range map[string]func(){
		"witness.policy":       func() { c.Witness.Policy = policy + ".missing" },
		"quorum":               func() { c.Witness.Policy = policy },
		"this node's key":      func() { c.Witness.Policy = foreign },
		"recording.second_dir": func() { c.Recording.SecondDir = policy + ".missing" },
		"recording.journal":    func() { c.Recording.Journal = policy },
		"syslog.ca":            func() { c.Syslog.Address, c.Syslog.CA = "log.example.org:6514", policy+".missing" },
		"no certificate":       func() { c.Syslog.Address, c.Syslog.CA = "log.example.org:6514", policy },
		"syslog.certificate":   func() { c.Syslog.Address, c.Syslog.Certificate = "log.example.org:6514", policy },
	} {
		change()
		if err := Check(c); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
		*c = right
	}
}
