package replay_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"flag"
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"sallyport/recorder/ledger"
	"sallyport/recorder/tlog"
	"sallyport/recorder/trec"
	"sallyport/recorder/witness"
	"sallyport/replay"
)

var update = flag.Bool("update", false, "write the table of docs/security-model.md anew")

// tamperDoc holds the table between these two lines.
const (
	tamperDoc   = "../docs/security-model.md"
	tamperBegin = "<!-- tamper table: written by TestPromise4_TamperTable -->\n"
	tamperEnd   = "<!-- end of the tamper table -->\n"
)

// What a verifier may have besides the node's public key.
const (
	nothing = iota
	remembered
	witnessed
	never
)

// scene is a node that was honest up to here, and those who looked at it.
type scene struct {
	*state
	memory  string // folder of a verifier who looked
	policy  *witness.Policy
	witness *httptest.Server
	vouched string // folder of the witness
	other   *state // another node
	middle  *state // the same node, two sessions earlier
}

// newScene records S-1 to S-4 and leaves S-5 open.
func newScene(t *testing.T) *scene {
	t.Helper()
	c := &scene{state: newState(t, "N-1"), memory: t.TempDir(), vouched: t.TempDir(), other: newState(t, "N-2")}
	c.other.session(t, "S-2")
	c.other.publish(t)
	c.startWitness(t)
	c.session(t, "S-1")
	c.session(t, "S-2")
	c.feed(t)
	c.publish(t)
	c.middle = copyState(t, c.state)
	c.state.open(t)
	c.session(t, "S-3")
	c.session(t, "S-4")
	live := c.begin(t, "S-5")
	live.show(t, "one")
	live.show(t, "two")
	c.event(t)
	c.event(t)
	c.feed(t)
	c.publish(t)
	files := c.files()
	files.Remembered = tlog.NewRemembered(c.memory)
	if r := c.verify(t, files); !r.Intact || r.Ledger.Absent != 0 || !strings.Contains(r.Text(), "events are there, sealed") {
		t.Fatalf("the original: %s", r.Text())
	}
	return c
}

func (c *scene) startWitness(t *testing.T) {
	t.Helper()
	seed := bytes.Repeat([]byte{9}, ed25519.SeedSize)
	key := ed25519.NewKeyFromSeed(seed)
	signer := value[*witness.Signer](t)(witness.NewSigner("witness.example/w1", key, func() time.Time { return begin }))
	verifier := value[note.Verifier](t)(tlog.NewVerifier(c.origin(), c.key))
	server := value[*witness.Server](t)(witness.NewServer(witness.ServerOptions{Dir: c.vouched, Signer: signer,
		Logs: []witness.LogConfig{{Origin: c.origin(), Verifiers: []note.Verifier{verifier}}}}))
	c.witness = httptest.NewServer(server)
	t.Cleanup(c.witness.Close)
	text := fmt.Sprintf("log %s\nwitness w1 %s %s/\nquorum w1\n", value[string](t)(note.NewEd25519VerifierKey(c.origin(), c.key)),
		witness.VerifierKey("witness.example/w1", key.Public().(ed25519.PublicKey)), c.witness.URL)
	c.policy = value[*witness.Policy](t)(witness.ParsePolicy([]byte(text)))
}

// feed brings the newest checkpoint to the witness, and reports whether it cosigned.
func (c *scene) feed(t *testing.T) bool {
	t.Helper()
	f := value[*witness.Feeder](t)(witness.NewFeeder(c.log, witness.FeederOptions{Policy: c.policy, AllowLoopback: true}))
	defer f.Close()
	fed := value[*witness.Fed](t)(f.Feed(context.Background()))
	if fed.Verdict.Enough {
		write(t, filepath.Join(c.ledger(), tlog.CosignedFile), fed.Signed)
	}
	return fed.Verdict.Enough
}

// copy is the scene with files of its own to tamper with.
func (c *scene) copy(t *testing.T) *scene {
	t.Helper()
	d := *c
	d.state = copyState(t, c.state)
	d.memory = filepath.Join(t.TempDir(), "memory")
	must(t, os.CopyFS(d.memory, os.DirFS(c.memory)))
	return &d
}

// rewrite signs other entries with the node's own key, and shows them to the
// witness, which does not cosign: the node has nothing of the witness's to show.
func (c *scene) rewrite(t *testing.T, entries [][]byte) {
	t.Helper()
	c.anew(t, entries)
	c.state.open(t)
	if c.feed(t) {
		t.Error("the witness cosigned a ledger that was written anew")
	}
	c.publish(t)
}

// with is what a verifier who has more than the key checks.
func (c *scene) with(t *testing.T, more int) replay.NodeFiles {
	t.Helper()
	files := c.files()
	switch more {
	case remembered:
		files.Remembered = tlog.NewRemembered(c.memory)
	case witnessed:
		files.Policy = c.policy
		// What the witness itself holds, as its operator hands it out.
		for _, path := range value[[]string](t)(filepath.Glob(filepath.Join(c.vouched, "*.checkpoint"))) {
			files.Checkpoints = append(files.Checkpoints, read(t, path))
		}
	}
	return files
}

// tampering is one row of the table.
type tampering struct {
	what  string
	by    string // what finds it
	codes []string
	needs int
	do    func(*testing.T, *scene)
}

func tamperings() []tampering {
	return append(append(tamperedRecordings(), tamperedLedgers()...), tamperedHistory()...)
}

// splice replaces a recording by pieces of it, and perhaps of others.
func (c *scene) splice(t *testing.T, session string, pieces func(data []byte, at []int64) [][]byte) {
	t.Helper()
	data := read(t, c.path(session))
	var at []int64
	for _, l := range segmentsOf(t, c.path(session), c.key)[1:] {
		at = append(at, l.Offset)
	}
	write(t, c.path(session), bytes.Join(pieces(data, at), nil))
}

func tamperedRecordings() []tampering {
	key := func(what, by string, do func(*testing.T, *scene), codes ...string) tampering {
		return tampering{what, by, codes, nothing, do}
	}
	return []tampering{
		key("one bit of a recording flipped", "checksum and Merkle leaf of the segment", func(t *testing.T, c *scene) {
			c.splice(t, "S-2", func(data []byte, at []int64) [][]byte { data[at[3]+60] ^= 0x10; return [][]byte{data} })
		}, replay.CodeChain),
		key("one bit of a recording's end flipped", "the node's signature", func(t *testing.T, c *scene) {
			c.splice(t, "S-2", func(data []byte, _ []int64) [][]byte { data[len(data)-40] ^= 0x10; return [][]byte{data} })
		}, replay.CodeChain),
		key("recording cut", "segments that the ledger tells of", func(t *testing.T, c *scene) {
			c.splice(t, "S-2", func(data []byte, at []int64) [][]byte { return [][]byte{data[:at[5]+9]} })
		}, replay.CodeShort),
		key("recording of a live or crashed session cut", "segments that the ledger tells of", func(t *testing.T, c *scene) {
			c.splice(t, "S-5", func(data []byte, at []int64) [][]byte { return [][]byte{data[:at[3]]} })
		}, replay.CodeShort),
		key("signed end of a recording cut off", "the ledger's close", func(t *testing.T, c *scene) {
			c.splice(t, "S-2", func(data []byte, at []int64) [][]byte {
				last := segmentsOf(t, c.path("S-2"), c.key)[len(at)]
				return [][]byte{data[:last.Offset+last.Size()]}
			})
		}, replay.CodeClosed),
		key("segment dropped", "checksum chain, numbers of segments and frames", func(t *testing.T, c *scene) {
			c.splice(t, "S-2", func(data []byte, at []int64) [][]byte { return [][]byte{data[:at[3]], data[at[5]:]} })
		}, replay.CodeChain),
		key("segments swapped", "checksum chain, numbers of segments and frames", func(t *testing.T, c *scene) {
			c.splice(t, "S-2", func(data []byte, at []int64) [][]byte {
				return [][]byte{data[:at[1]], data[at[3]:at[5]], data[at[1]:at[3]], data[at[5]:]}
			})
		}, replay.CodeChain),
		key("segment of another session put in", "checksum chain; each cipher text is bound to its file", func(t *testing.T, c *scene) {
			from := segmentsOf(t, c.path("S-3"), c.key)[4]
			other := read(t, c.path("S-3"))[from.Offset : from.Offset+from.Size()]
			c.splice(t, "S-2", func(data []byte, at []int64) [][]byte { return [][]byte{data[:at[3]], other, data[at[4]:]} })
		}, replay.CodeChain),
		key("bytes added to a recording", "nothing may follow the footer", func(t *testing.T, c *scene) {
			c.splice(t, "S-2", func(data []byte, _ []int64) [][]byte { return [][]byte{data, []byte("more")} })
		}, replay.CodeChain),
		key("recording removed", "the ledger's open, segments and close", func(t *testing.T, c *scene) { must(t, os.Remove(c.path("S-3"))) }, replay.CodeMissing),
		key("recording of a live session removed", "the ledger's segments", func(t *testing.T, c *scene) { must(t, os.Remove(c.path("S-5"))) }, replay.CodeMissing),
		key("recording of a live session emptied and named as if the node had set it aside", "the ledger's segments", func(t *testing.T, c *scene) {
			must(t, os.Rename(c.path("S-5"), c.path("S-5")+".damaged"))
			must(t, os.Truncate(c.path("S-5")+".damaged", 100))
		}, replay.CodeDamaged),
		key("recordings renamed into each other's place", "the session in the header", func(t *testing.T, c *scene) {
			a, b := read(t, c.path("S-2")), read(t, c.path("S-3"))
			write(t, c.path("S-2"), b)
			write(t, c.path("S-3"), a)
		}, replay.CodeName),
		key("recording of another node put in its place", "the signer in the header, and the signature", func(t *testing.T, c *scene) {
			write(t, c.path("S-2"), read(t, c.other.path("S-2")))
		}, replay.CodeOtherKey),
		key("recording added, without a signed end", "no open in the ledger", func(t *testing.T, c *scene) {
			out := value[*os.File](t)(os.Create(c.path("S-9")))
			_ = value[*trec.Writer](t)(trec.NewWriter(out, c.options("S-9")))
			must(t, out.Close())
		}, replay.CodeExtra),
		key("recording made anew with the node's key", "segments that the ledger tells of", func(t *testing.T, c *scene) {
			c.forge(t, value[*os.File](t)(os.Create(c.path("S-3"))), "S-3")
		}, replay.CodeSegment),
	}
}

func tamperedLedgers() []tampering {
	bundle := func(t *testing.T, c *scene) string {
		all := value[[]string](t)(filepath.Glob(filepath.Join(c.ledger(), "tile", "entries", "000.p", "*")))
		return slices.MaxFunc(all, func(a, b string) int { return len(read(t, a)) - len(read(t, b)) })
	}
	change := func(path func(*testing.T, *scene) string, edit func([]byte) []byte) func(*testing.T, *scene) {
		return func(t *testing.T, c *scene) { p := path(t, c); write(t, p, edit(read(t, p))) }
	}
	return []tampering{
		{"one bit of a ledger's entry flipped", "the tile's hash and the signed root", []string{replay.CodeLedger}, nothing,
			change(bundle, func(b []byte) []byte { b[len(b)/2] ^= 4; return b })},
		{"one bit of a ledger's tile flipped", "the entries and the signed root", []string{replay.CodeLedger}, nothing,
			change(func(t *testing.T, c *scene) string {
				return strings.Replace(bundle(t, c), filepath.Join("tile", "entries"), filepath.Join("tile", "0"), 1)
			}, func(b []byte) []byte { b[len(b)/2] ^= 4; return b })},
		{"one bit of the checkpoint flipped", "the node's signature", []string{replay.CodeLedger}, nothing,
			change(func(_ *testing.T, c *scene) string { return filepath.Join(c.ledger(), tlog.CheckpointFile) }, func(b []byte) []byte { b[len(b)/2] ^= 4; return b })},
		{"ledger entry removed", "the signed root and size", []string{replay.CodeLedger}, nothing,
			change(bundle, func(b []byte) []byte { n := 2 + int(b[0])<<8 + int(b[1]); return b[n:] })},
		{"tail of the ledger removed", "the signed size", []string{replay.CodeLedger}, nothing,
			change(bundle, func(b []byte) []byte { return b[:len(b)-35] })},
		{"bytes added to the ledger", "the signed size", []string{replay.CodeLedger}, nothing,
			change(bundle, func(b []byte) []byte { return append(b, 0, 3, 1, 2, 3) })},
		{"all of a session taken out of ledger and folder, the ledger signed again with the node's key", "numbers of sessions", []string{replay.CodeNumbers}, nothing,
			func(t *testing.T, c *scene) {
				must(t, os.Remove(c.path("S-3")))
				c.rewrite(t, without(t, c.entries, "S-3"))
			}},
		{"an event taken out, the ledger signed again, and the cosigned checkpoint left beside it", "the checkpoint that was cosigned", []string{replay.CodeCheckpoint}, nothing,
			func(t *testing.T, c *scene) {
				cosigned := read(t, filepath.Join(c.ledger(), tlog.CosignedFile))
				c.rewrite(t, c.lessAnEvent())
				write(t, filepath.Join(c.ledger(), tlog.CosignedFile), cosigned)
			}},
		{"an older copy of the ledger put back", "recordings that it does not have", []string{replay.CodeExtra}, nothing,
			func(t *testing.T, c *scene) {
				must(t, os.RemoveAll(c.ledger()))
				must(t, os.CopyFS(c.ledger(), os.DirFS(c.middle.ledger())))
			}},
	}
}

// without are the entries that do not tell of a session.
func without(t *testing.T, entries [][]byte, session string) (left [][]byte) {
	t.Helper()
	for i, e := range entries {
		item := value[ledger.Item](t)(ledger.ParseEntry(int64(i), e))
		if item.Leaf == nil || item.Leaf.Session != session {
			left = append(left, e)
		}
	}
	return left
}

// tamperedHistory is what whoever holds the node's key does in every place at
// once: only what left the node before finds it.
func tamperedHistory() []tampering {
	return []tampering{
		{"recording made anew and its entries rewritten, the ledger signed again with the node's key", "the checkpoint seen before", []string{replay.CodeCheckpoint}, remembered,
			func(t *testing.T, c *scene) {
				must(t, os.Remove(c.path("S-3")))
				c.forge(t, value[*os.File](t)(os.Create(c.path("S-3"))), "S-3")
				c.rewrite(t, c.retold(t, "S-3"))
			}},
		{"an event taken out, the ledger signed again with the node's key", "the checkpoint seen before", []string{replay.CodeCheckpoint}, remembered,
			func(t *testing.T, c *scene) { c.rewrite(t, c.lessAnEvent()) }},
		{"newest entries cut off, the ledger signed again with the node's key", "the size seen before", []string{replay.CodeCheckpoint}, remembered,
			func(t *testing.T, c *scene) { c.rewrite(t, c.entries[:len(c.entries)-2]) }},
		{"ledger and recordings both put back to an older copy", "the size seen before", []string{replay.CodeCheckpoint}, remembered,
			func(t *testing.T, c *scene) {
				must(t, os.RemoveAll(c.dir))
				must(t, os.CopyFS(c.dir, os.DirFS(c.middle.dir)))
			}},
		{"texts of events removed from the ledger's folder", "the report, which counts those that are not there", nil, never,
			func(t *testing.T, c *scene) { must(t, os.RemoveAll(filepath.Join(c.ledger(), "bodies"))) }},
		{"database put back to an older copy", "the node when it starts: the ledger has more events", nil, never,
			func(*testing.T, *scene) {}}, // nothing that verify reads
	}
}

// lessAnEvent are the entries without the first that is an event.
func (c *scene) lessAnEvent() [][]byte {
	i := slices.IndexFunc(c.entries, func(e []byte) bool { return e[0] == 1 })
	return slices.Delete(slices.Clone(c.entries), i, i+1)
}

// retold are the entries with the leaves of a session as its file has them now.
func (c *scene) retold(t *testing.T, session string) [][]byte {
	t.Helper()
	leaves, report := leavesOf(t, c.path(session), c.key), value[replay.Report](t)(replay.Verify(c.path(session), c.key))
	var all [][]byte
	for i, e := range c.entries {
		item := value[ledger.Item](t)(ledger.ParseEntry(int64(i), e))
		if f := item.Leaf; f != nil && f.Session == session {
			switch {
			case f.Kind == ledger.KindSegment && int(f.Segment) < len(leaves):
				f.Hash = fmt.Sprintf("%x", leaves[f.Segment][:])
			case f.Kind == ledger.KindClose:
				f.Hash, f.Size = report.Root, report.Bytes
			}
			e = value[[]byte](t)(f.Encode())
		}
		all = append(all, e)
	}
	return all
}

// TestPromise4_TamperTable does to a node's files what somebody might, and
// shows what finds it. The table in the documents is what it prints.
func TestPromise4_TamperTable(t *testing.T) {
	original := newScene(t)
	table := "| what was done | found by | `verify` says | needs besides the node's public key |\n|---|---|---|---|\n"
	for _, row := range tamperings() {
		t.Run(row.what, func(t *testing.T) {
			c := original.copy(t)
			row.do(t, c)
			says := "everything verifies: it does not read the database"
			for more := nothing; more <= witnessed; more++ {
				r := c.verify(t, c.with(t, more))
				if found := more >= row.needs; r.Intact == found {
					t.Errorf("with %q: found %t, wanted %t\n%s", needed(more), !r.Intact, found, r.Text())
				}
				if r.Ledger != nil && r.Ledger.Absent > 0 && row.needs == never {
					says = fmt.Sprintf("everything verifies, and that the texts of %d events are absent: only their commitments are in the tree", r.Ledger.Absent)
					if !strings.Contains(r.Text(), fmt.Sprintf("the texts of %d events are absent", r.Ledger.Absent)) {
						t.Errorf("it does not say so: %s", r.Text())
					}
				}
				if more == min(row.needs, witnessed) {
					for _, code := range row.codes {
						says = c.mustSay(t, r, code)
					}
				}
			}
			table += fmt.Sprintf("| %s | %s | %s | %s |\n", row.what, row.by, says, needed(row.needs))
		})
	}
	t.Logf("\n%s", table)
	doc := string(read(t, tamperDoc))
	before, rest, ok := strings.Cut(doc, tamperBegin)
	old, after, ended := strings.Cut(rest, tamperEnd)
	if !ok || !ended {
		t.Fatalf("%s has no place for the table", tamperDoc)
	}
	if *update {
		write(t, tamperDoc, []byte(before+tamperBegin+table+tamperEnd+after))
	} else if old != table {
		t.Errorf("%s has another table; `go test -tags sqlite_fts5 ./replay -run TamperTable -update` writes it anew", tamperDoc)
	}
}

func needed(more int) string {
	switch more {
	case nothing:
		return "nothing"
	case remembered:
		return "a remembered checkpoint, or the witness"
	case witnessed:
		return "the witness"
	}
	return "–"
}

// mustSay gives the first finding of a code as the table has it.
func (c *scene) mustSay(t *testing.T, r replay.NodeReport, code string) string {
	t.Helper()
	all := found(r)
	i := slices.IndexFunc(all, func(f replay.Finding) bool { return f.Broken && f.Code == code })
	if i < 0 {
		t.Errorf("%s was not found\n%s", code, r.Text())
		return ""
	}
	f := all[i]
	says := fmt.Sprintf("`%s`: %s", code, f.File)
	if f.Segment >= 0 {
		says += fmt.Sprintf(", segment %d", f.Segment)
	}
	if f.Entry >= 0 {
		says += fmt.Sprintf(", entry %d", f.Entry)
	}
	if f.Offset >= 0 {
		says += fmt.Sprintf(", byte %d", f.Offset)
	}
	return says
}
