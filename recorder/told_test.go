package recorder

import (
	"bytes"
	"os"
	"strings"
	"testing"
	"time"
)

// sealedOneByOne is the state of a node that was killed when each of five lines had
// a segment of its own, and the sizes of the recording behind each.
func sealedOneByOne(t *testing.T, keys EpochKeys, more bool) (state string, sizes []int64) {
	t.Helper()
	state = t.TempDir()
	o := optionsIn(state)
	o.age = time.Hour
	r := open(t, o)
	rec := start(t, r, "S-1", false, keys)
	for i := range 5 {
		appendDurable(t, rec, KindOutput, strings.Repeat("x", 300))
		rec.queue.set(func() { rec.queue.urgent = true })
		waitFor(t, "the sealing", func() bool {
			rec.mu.Lock()
			defer rec.mu.Unlock()
			return rec.kept == Position(i+1)
		})
		info, err := os.Stat(r.Path("S-1"))
		must(t, err)
		sizes = append(sizes, info.Size())
	}
	if more {
		appendDurable(t, rec, KindOutput, "in the journal only")
	}
	must(t, r.ledger.Settle(patience(t)))
	return copyState(t, state), sizes
}

// TestPromise3_RecoveryCutsNothingOffThatTheLedgerHas harms a recording where a crash
// can't: it is evidence, and not to be ended as if nothing was.
func TestPromise3_RecoveryCutsNothingOffThatTheLedgerHas(t *testing.T) {
	for _, more := range []bool{false, true} {
		for _, what := range []string{"cut", "flip", "cut in the header"} {
			t.Run(what, func(t *testing.T) {
				keys := testKeys(t)
				state, sizes := sealedOneByOne(t, keys, more)
				o := optionsIn(state)
				path := o.Dir + "/S-1.trec"
				raw, err := os.ReadFile(path)
				must(t, err)
				switch what {
				case "cut":
					raw = raw[:sizes[1]]
				case "cut in the header":
					raw = raw[:60]
				case "flip":
					raw[sizes[1]+60] ^= 1 // in the third segment
				}
				must(t, os.WriteFile(path, raw, 0o600))
				r := open(t, o)
				found, err := r.Recover(t.Context(), []Left{{"S-1", 1}})
				must(t, err)
				if one := found["S-1"]; one.Reason != ReasonDamaged || one.Head != "" {
					t.Errorf("recovered as %+v", one)
				}
				if kept, err := os.ReadFile(path + damagedSuffix); err != nil || !bytes.Equal(kept, raw) {
					t.Errorf("%d of %d bytes are left as they were: %v", len(kept), len(raw), err)
				}
				if aside := r.Moved().Aside; (len(aside) == 1) != more {
					t.Errorf("set aside: %v", aside)
				}
			})
		}
	}
}

// TestPromise3_AFolderThatIsNotMounted is no empty one.
func TestPromise3_AFolderThatIsNotMounted(t *testing.T) {
	keys := testKeys(t)
	state, _ := sealedOneByOne(t, keys, true)
	o := optionsIn(state)
	must(t, os.Rename(o.Dir, o.Dir+".elsewhere"))
	if r, err := Open(o); err == nil || !strings.Contains(err.Error(), marker) {
		if err == nil {
			shut(t, r)
		}
		t.Errorf("opened without the recordings: %v", err)
	}
	must(t, os.Remove(o.Dir)) // it is empty
	must(t, os.Rename(o.Dir+".elsewhere", o.Dir))
	r := open(t, o)
	found, err := r.Recover(t.Context(), []Left{{"S-1", 1}})
	if err != nil || found["S-1"].Head == "" {
		t.Errorf("recovered as %+v: %v", found, err)
	}
	checkLedger(t, r, "S-1")
	other := optionsIn(t.TempDir())
	other.Dir, other.Node = o.Dir, "N-other"
	if _, err := Open(other); err == nil || !strings.Contains(err.Error(), "another node") {
		t.Errorf("opened another node's recordings: %v", err)
	}
}
