package replay

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/hex"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sallyport/recorder"
)

// The test vectors of docs/format-recording.md. They were written once; every
// later version must read them to the same lines.
const golden = "../recorder/testdata"

var update = flag.Bool("update", false, "write the test vectors anew (only for a new version of the format)")

func TestGoldenVectors(t *testing.T) {
	if *update {
		writeVectors(t)
	}
	text, err := hex.DecodeString(strings.TrimSpace(string(read(t, filepath.Join(golden, "node.pub.hex")))))
	must(t, err)
	key := ed25519.PublicKey(text)
	epoch, err := recorder.ParseEpochKeys(read(t, filepath.Join(golden, "epoch-private.txt")))
	must(t, err)
	keys, err := KeysOf(epoch, key)
	must(t, err)
	path := filepath.Join(golden, "S-01GOLDEN.rec")
	r, err := OpenFile(path, keys)
	must(t, err)
	defer r.Close()
	var out bytes.Buffer
	_, err = Export(&out, r, ExportOptions{Format: FormatJSONLines, Input: true})
	must(t, err)
	if *update {
		write(t, filepath.Join(golden, "S-01GOLDEN.jsonl"), out.Bytes())
	}
	if want := read(t, filepath.Join(golden, "S-01GOLDEN.jsonl")); !bytes.Equal(out.Bytes(), want) {
		t.Errorf("got\n%s\nwant\n%s", out.Bytes(), want)
	}
	report, err := VerifyDir(golden, key, nil)
	must(t, err)
	if !report.Intact || len(report.Findings) != 0 || report.Entries != 2 || len(report.Recordings) != 1 || report.Recordings[0].Ending != EndingComplete {
		t.Errorf("%s", report.Text())
	}
}

func writeVectors(t *testing.T) {
	must(t, os.MkdirAll(golden, 0o755))
	for _, old := range []string{"S-01GOLDEN.rec", recorder.LedgerFile} {
		_ = os.Remove(filepath.Join(golden, old))
	}
	n := &node{dir: golden, signer: ed25519.NewKeyFromSeed(bytes.Repeat([]byte{1}, 32)), now: time.Date(2026, 3, 1, 9, 0, 0, 123456000, time.UTC)}
	var err error
	n.epoch, err = recorder.NewEpochKeys()
	must(t, err)
	o := recorder.Options{Dir: golden, Node: "N-GOLDEN", Signer: n.signer, Clock: func() time.Time { return n.now }}
	n.rec, err = recorder.Open(o)
	must(t, err)
	n.ledger, err = recorder.OpenLedger(o)
	must(t, err)
	n.record(t, "S-01GOLDEN", true,
		n.at(0, recorder.KindMarker, "term=xterm"),
		n.at(10*time.Millisecond, recorder.KindOutput, "$ "),
		n.at(time.Second, recorder.KindInput, "exit\r"),
		n.at(1001*time.Millisecond, recorder.KindOutput, "exit\r\n\xff\xfe"),
		n.at(1002*time.Millisecond, recorder.KindResize, string(recorder.EncodeResize(recorder.Window{Columns: 120, Rows: 40}))),
		n.at(1003*time.Millisecond, recorder.KindExit, string(recorder.EncodeExit(0, ""))))
	must(t, n.ledger.Close())
	must(t, n.rec.Close(context.Background()))
	write(t, filepath.Join(golden, "epoch-private.txt"), n.epoch.MarshalPrivate("test vectors, worthless"))
	write(t, filepath.Join(golden, "node.pub.hex"), []byte(hex.EncodeToString(n.signer.Public().(ed25519.PublicKey))+"\n"))
}
