package recorder

import (
	"os"
	"path/filepath"
	"testing"

	"sallyport/recorder/journal"
)

// TestPowerCutInModeWritten: a failure of power may take back what only the kernel had of the journal, and
// must not leave a ledger that refuses to go on.
func TestPowerCutInModeWritten(t *testing.T) {
	state := t.TempDir()
	o := optionsIn(state)
	o.Mode = journal.Written
	r := open(t, o)
	rec := start(t, r, "S-1", false, testKeys(t))
	appendDurable(t, rec, KindOutput, "one")
	must(t, r.ledger.Publish(patience(t)))
	copied := copyState(t, state)
	names, err := filepath.Glob(filepath.Join(copied, "journal", "*.journal"))
	must(t, err)
	for _, name := range names {
		raw, err := os.ReadFile(name)
		must(t, err)
		clear(raw[4096:])
		must(t, os.WriteFile(name, raw, 0o600))
	}
	o = optionsIn(copied)
	o.Mode = journal.Written
	again, err := Open(o)
	must(t, err)
	must(t, again.Close(patience(t)))
}
