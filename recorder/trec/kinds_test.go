package trec_test

import (
	"bytes"
	"os"
	"testing"

	"filippo.io/age"

	"sallyport/recorder"
	"sallyport/recorder/trec"
)

// TestKindsAreThoseOfTheRecorder keeps the letters of frames the same in both
// packages, so that a frame is handed from one to the other as it is.
func TestKindsAreThoseOfTheRecorder(t *testing.T) {
	for ours, theirs := range map[trec.Kind]recorder.Kind{
		trec.KindOutput: recorder.KindOutput, trec.KindStderr: recorder.KindStderr, trec.KindInput: recorder.KindInput,
		trec.KindResize: recorder.KindResize, trec.KindExit: recorder.KindExit, trec.KindChannel: recorder.KindChannel,
		trec.KindCommand: recorder.KindCommand, trec.KindSignal: recorder.KindSignal, trec.KindEnv: recorder.KindEnv,
		trec.KindGate: recorder.KindGate, trec.KindMarker: recorder.KindMarker,
	} {
		if byte(ours) != byte(theirs) || !ours.Known() {
			t.Errorf("%c is %c in the recorder", ours, theirs)
		}
	}
	for k := range 256 {
		if recorder.Kind(k).Known() && !trec.Kind(k).Known() {
			t.Errorf("the recorder has frames of kind %c", k)
		}
	}
	if trec.MaxFrame < recorder.MaxFrame {
		t.Error("the recorder has larger frames")
	}
}

// TestTheEnvelopeIsAPlainAgeFile opens it without this package's help.
func TestTheEnvelopeIsAPlainAgeFile(t *testing.T) {
	data, err := os.ReadFile("testdata/golden.trec")
	if err != nil {
		t.Fatal(err)
	}
	h, envelope, strict, err := trec.ReadHeader(bytes.NewReader(data))
	if err != nil || h.Session != "S-01TEST" || len(strict) == 0 {
		t.Fatal(h, err)
	}
	text, err := os.ReadFile("testdata/keys.txt")
	if err != nil {
		t.Fatal(err)
	}
	_, line, _ := bytes.Cut(text, []byte("\nidentity: "))
	identities, err := age.ParseIdentities(bytes.NewReader(bytes.SplitN(line, []byte("\n"), 2)[0]))
	if err != nil {
		t.Fatal(err)
	}
	r, err := age.Decrypt(bytes.NewReader(envelope), identities...)
	if err != nil {
		t.Fatal(err)
	}
	var key bytes.Buffer
	if n, err := key.ReadFrom(r); n != 32 || err != nil {
		t.Fatalf("a session key of %d bytes, %v", n, err)
	}
}
