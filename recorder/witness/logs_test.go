package witness

import (
	"crypto/ed25519"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/note"
)

func TestParseLogs(t *testing.T) {
	key := func(origin string, seed byte) string {
		text, err := note.NewEd25519VerifierKey(origin, testKey(seed).Public().(ed25519.PublicKey))
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	one, other, second := key("sallyport/N-1", 1), key("sallyport/N-2", 2), key("sallyport/N-1", 3)
	logs, err := ParseLogs([]byte("# nodes\n" + one + "\n\nlog " + other + " https://gate\nwitness w " + witnessKey(1) + "\nquorum none\n" + second + "\n"))
	if err != nil || len(logs) != 2 || logs[0].Origin != "sallyport/N-1" || len(logs[0].Verifiers) != 2 {
		t.Fatalf("%+v, %v", logs, err)
	}
	for _, bad := range []string{"", "# nothing\n", "log\n", one + " " + other, "sallyport/N-1+00000000+AAAA", strings.Repeat("#", maxPolicy+1)} {
		if _, err := ParseLogs([]byte(bad)); err == nil {
			t.Errorf("took %.60q", bad)
		}
	}
}
