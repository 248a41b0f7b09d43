package recorder

import (
	"strings"
	"testing"
)

func TestEpochFiles(t *testing.T) {
	k := testKeys(t)
	private, public := k.MarshalPrivate("genomics\n2026Q3"), k.MarshalPublic("genomics 2026Q3")
	if got, err := ParseEpochKeys(private); err != nil || got != k {
		t.Errorf("private file: %v", err)
	}
	if got, err := ParseEpochKeys(public); err != nil || got != k.Public() {
		t.Errorf("public file: %v", err)
	}
	if strings.Contains(string(public), "SECRET") {
		t.Error("the public file holds a private key")
	}
	if !strings.Contains(string(private), "PRIVATE: genomics 2026Q3\n") {
		t.Error("the private file does not say what it is")
	}
	other := testKeys(t)
	for name, text := range map[string]string{
		"empty":          "",
		"unknown field":  string(public) + "colour: blue\n",
		"twice":          string(public) + "recipient: " + k.Recipient + "\n",
		"no recipient":   "strict-recipient: " + k.Strict + "\n",
		"foreign secret": string(public) + "identity: " + other.Identity + "\n",
		"bad secret":     string(public) + "identity: AGE-SECRET-KEY-PQ-1NONSENSE\n",
	} {
		if _, err := ParseEpochKeys([]byte(text)); err == nil || strings.Contains(err.Error(), "SECRET") {
			t.Errorf("%s: %v", name, err)
		}
	}
	ordinary, strict, err := k.Public().Identities()
	if err != nil || len(ordinary)+len(strict) != 0 {
		t.Errorf("the public half has identities: %v", err)
	}
}
