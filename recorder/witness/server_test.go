package witness

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"

	"sallyport/recorder/tlog"

	"golang.org/x/mod/sumdb/note"
	sumtlog "golang.org/x/mod/sumdb/tlog"
)

func post(h http.Handler, body []byte) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/add-checkpoint", bytes.NewReader(body)))
	return w
}

// submit asks the witness to go from old to the log's newest checkpoint.
func submit(t testing.TB, h http.Handler, l *tlog.Log, old int64) *httptest.ResponseRecorder {
	t.Helper()
	var proof sumtlog.TreeProof
	if old <= l.Size() {
		var err error
		if proof, err = l.ProveConsistency(old, l.Size()); err != nil {
			t.Fatal(err)
		}
	}
	return post(h, (&Extension{Old: old, Proof: proof, Checkpoint: l.Checkpoint()}).Format())
}

func TestAddCheckpoint(t *testing.T) {
	dir := t.TempDir()
	s := newServer(t, dir, 1)
	l := newLog(t, t.TempDir(), 10, nil)
	w := submit(t, s, l, 0)
	if w.Code != http.StatusOK {
		t.Fatal(w.Code, w.Body)
	}
	v, err := NewVerifier(witnessKey(1))
	if err != nil {
		t.Fatal(err)
	}
	c, n, err := tlog.OpenCheckpoint(append(l.Checkpoint(), w.Body.Bytes()...), testOrigin, v)
	if err != nil || c.Size != 10 {
		t.Fatal(c, err)
	}
	if at, err := CosignedAt(n.Sigs[0]); err != nil || !at.Equal(testClock()) {
		t.Fatal(at, err)
	}
	if w := submit(t, s, l, 0); w.Code != http.StatusConflict || w.Body.String() != "10\n" || w.Header().Get("Content-Type") != "text/x.tlog.size" {
		t.Fatal(w.Code, w.Body, w.Header())
	}
	if w := submit(t, s, l, 10); w.Code != http.StatusOK {
		t.Fatal("the same checkpoint again:", w.Code, w.Body)
	}
	grow(t, l, 300, nil)
	s = newServer(t, dir, 1) // restarted
	if w := submit(t, s, l, 10); w.Code != http.StatusOK {
		t.Fatal(w.Code, w.Body)
	}
	if w := submit(t, s, l, 311); w.Code != http.StatusBadRequest {
		t.Fatal("old size beyond the checkpoint:", w.Code)
	}
}

func TestEmptyLogIsTheBeginning(t *testing.T) {
	s := newServer(t, t.TempDir(), 1)
	l := newLog(t, t.TempDir(), 0, nil)
	if w := submit(t, s, l, 0); w.Code != http.StatusOK {
		t.Fatal(w.Code, w.Body)
	}
	grow(t, l, 3, nil)
	if w := submit(t, s, l, 0); w.Code != http.StatusOK {
		t.Fatal(w.Code, w.Body)
	}
}

func TestAddCheckpointRefuses(t *testing.T) {
	s := newServer(t, t.TempDir(), 1)
	l := newLog(t, t.TempDir(), 20, nil)
	if w := submit(t, s, l, 0); w.Code != http.StatusOK {
		t.Fatal(w.Code, w.Body)
	}
	before := l.Checkpoint()
	grow(t, l, 20, nil)
	proof, err := l.ProveConsistency(20, 40)
	if err != nil {
		t.Fatal(err)
	}
	good := (&Extension{Old: 20, Proof: proof, Checkpoint: l.Checkpoint()}).Format()
	foreign, err := tlog.NewSigner(testOrigin, testKey(9))
	if err != nil {
		t.Fatal(err)
	}
	text, _, _ := strings.Cut(string(l.Checkpoint()), "\n\n")
	forged, err := note.Sign(&note.Note{Text: text + "\n"}, foreign)
	if err != nil {
		t.Fatal(err)
	}
	hash := sumtlog.Hash{1}.String() + "\n"
	for _, c := range []struct {
		name string
		body []byte
		want int
	}{
		{"unknown origin", bytes.Replace(good, []byte("\n"+testOrigin+"\n"), []byte("\nother/log\n"), 1), 404},
		{"foreign key", (&Extension{Old: 20, Proof: proof, Checkpoint: forged}).Format(), 403},
		{"changed size", bytes.Replace(good, []byte("\n40\n"), []byte("\n41\n"), 1), 403},
		{"wrong proof", (&Extension{Old: 20, Proof: append(proof[:len(proof)-1:len(proof)-1], sumtlog.Hash{}), Checkpoint: l.Checkpoint()}).Format(), 422},
		{"no proof", (&Extension{Old: 20, Checkpoint: l.Checkpoint()}).Format(), 422},
		{"proof too long", (&Extension{Old: 20, Proof: append(proof[:len(proof):len(proof)], sumtlog.Hash{}), Checkpoint: l.Checkpoint()}).Format(), 422},
		{"rolled back", (&Extension{Old: 20, Checkpoint: before}).Format(), 200}, // the same checkpoint is no roll-back
		{"pretends the beginning", (&Extension{Old: 0, Checkpoint: l.Checkpoint()}).Format(), 409},
		{"64 lines of proof", []byte("old 20\n" + strings.Repeat(hash, 64) + "\n" + string(l.Checkpoint())), 400},
		{"63 lines of proof", []byte("old 20\n" + strings.Repeat(hash, 63) + "\n" + string(l.Checkpoint())), 422},
		{"leading zero", bytes.Replace(good, []byte("old 20"), []byte("old 020"), 1), 400},
		{"negative", bytes.Replace(good, []byte("old 20"), []byte("old -1"), 1), 400},
		{"huge old size", bytes.Replace(good, []byte("old 20"), []byte("old 9223372036854775807"), 1), 400},
		{"short hash", []byte("old 20\nAAAA\n\n" + string(l.Checkpoint())), 400},
		{"no empty line", []byte("old 20\n"), 400},
		{"empty", nil, 400},
		{"too large", append([]byte("old 0\n\n"), make([]byte, MaxRequest)...), 413},
	} {
		if w := post(s, c.body); w.Code != c.want {
			t.Errorf("%s: %d %q, want %d", c.name, w.Code, w.Body, c.want)
		}
	}
	w := httptest.NewRecorder()
	s.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/add-checkpoint", nil))
	if w.Code != http.StatusMethodNotAllowed {
		t.Error("GET:", w.Code)
	}
	if w := post(s, good); w.Code != http.StatusOK {
		t.Fatal("after all that the good one:", w.Code, w.Body)
	}
}

// TestPromise4_WitnessFindsRewrittenLog: the operator rewrites leaf 5 and signs
// everything again with the node's real key.
func TestPromise4_WitnessFindsRewrittenLog(t *testing.T) {
	s := newServer(t, t.TempDir(), 1)
	honest := newLog(t, t.TempDir(), 50, nil)
	if w := submit(t, s, honest, 0); w.Code != http.StatusOK {
		t.Fatal(w.Code)
	}
	rewrite := func(l [][]byte) { l[5] = tlog.Commit(tlog.Salt{}, []byte("nothing happened")) }
	longer := newLog(t, t.TempDir(), 80, rewrite)
	if w := submit(t, s, longer, 50); w.Code != http.StatusUnprocessableEntity {
		t.Fatal("rewritten and grown:", w.Code)
	}
	if w := submit(t, s, longer, 0); w.Code != http.StatusConflict || w.Body.String() != "50\n" {
		t.Fatal("pretending the beginning:", w.Code, w.Body)
	}
	same := newLog(t, t.TempDir(), 50, rewrite)
	if w := submit(t, s, same, 50); w.Code != http.StatusConflict {
		t.Fatal("rewritten at the same size:", w.Code)
	}
	cut := newLog(t, t.TempDir(), 30, nil)
	for _, old := range []int64{0, 30} {
		if w := submit(t, s, cut, old); w.Code != http.StatusConflict || w.Body.String() != "50\n" {
			t.Fatal("cut:", w.Code, w.Body)
		}
	}
	grow(t, honest, 5, nil)
	if w := submit(t, s, honest, 50); w.Code != http.StatusOK {
		t.Fatal("the honest log can go on:", w.Code)
	}
}

func TestWitnessPersistsBeforeItAnswers(t *testing.T) {
	l := newLog(t, t.TempDir(), 5, nil)
	broken := errors.New("no space left")
	s, err := NewServer(ServerOptions{Dir: t.TempDir(), Signer: testSigner(t, 1),
		Logs:    []LogConfig{{Origin: testOrigin, Verifiers: []note.Verifier{logVerifier(t)}}},
		persist: func(string, []byte) error { return broken }})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if w := submit(t, s, l, 0); w.Code != http.StatusInternalServerError || strings.Contains(w.Body.String(), "—") {
			t.Fatal(w.Code, w.Body)
		}
	}
}

func TestWitnessRefusesForeignState(t *testing.T) {
	dir := t.TempDir()
	s := newServer(t, dir, 1)
	l := newLog(t, t.TempDir(), 5, nil)
	if w := submit(t, s, l, 0); w.Code != http.StatusOK {
		t.Fatal(w.Code)
	}
	options := ServerOptions{Dir: dir, Signer: testSigner(t, 2), Logs: []LogConfig{{Origin: testOrigin, Verifiers: []note.Verifier{logVerifier(t)}}}}
	if _, err := NewServer(options); err == nil {
		t.Fatal("another witness's state was taken")
	}
	if err := os.WriteFile(statePath(dir, testOrigin), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	options.Signer = testSigner(t, 1)
	if _, err := NewServer(options); err == nil {
		t.Fatal("an emptied state was taken for a new log")
	}
}

// TestConcurrentSubmissionsNeverFork: of many different logs of one origin, one wins.
func TestConcurrentSubmissionsNeverFork(t *testing.T) {
	s := newServer(t, t.TempDir(), 1)
	logs := make([]*tlog.Log, 8)
	for i := range logs {
		logs[i] = newLog(t, t.TempDir(), 3, func(l [][]byte) { l[0] = fmt.Appendf(nil, "fork %d", i) })
	}
	var mu sync.Mutex
	good := 0
	var group sync.WaitGroup
	for _, l := range logs {
		group.Go(func() {
			w := submit(t, s, l, 0)
			mu.Lock()
			defer mu.Unlock()
			if w.Code == http.StatusOK {
				good++
			} else if w.Code != http.StatusConflict {
				t.Error(w.Code)
			}
		})
	}
	group.Wait()
	if good != 1 {
		t.Fatalf("%d forks were cosigned", good)
	}
}

func FuzzAddCheckpoint(f *testing.F) {
	l := newLog(f, f.TempDir(), 20, nil)
	first := l.Checkpoint()
	f.Add((&Extension{Checkpoint: first}).Format())
	grow(f, l, 20, nil)
	proof, err := l.ProveConsistency(20, 40)
	if err != nil {
		f.Fatal(err)
	}
	f.Add((&Extension{Old: 20, Proof: proof, Checkpoint: l.Checkpoint()}).Format())
	f.Add([]byte("old 0\n\n" + testOrigin + "\n4611686018427387903\nAAAA\n\n— x y\n"))
	f.Fuzz(func(t *testing.T, body []byte) {
		s, err := NewServer(ServerOptions{Signer: testSigner(t, 1), Logs: []LogConfig{{Origin: testOrigin, Verifiers: []note.Verifier{logVerifier(t)}}},
			Dir: "nowhere", persist: func(string, []byte) error { return nil }})
		if err != nil {
			t.Fatal(err)
		}
		if w := post(s, (&Extension{Checkpoint: first}).Format()); w.Code != http.StatusOK {
			t.Fatal(w.Code)
		}
		w := post(s, body)
		if w.Code != http.StatusOK {
			return
		}
		// Only the two checkpoints that the log really signed can be cosigned.
		if !bytes.Contains(body, first) && !bytes.Contains(body, l.Checkpoint()) {
			c := s.logs[testOrigin].last
			if c.Size != 20 && c.Size != 40 {
				t.Fatalf("cosigned %+v", c)
			}
		}
	})
}

func BenchmarkCosign(b *testing.B) {
	server := httptest.NewServer(newServer(b, b.TempDir(), 1))
	defer server.Close()
	l := newLog(b, b.TempDir(), 100, nil)
	p, err := ParsePolicy([]byte("witness w " + witnessKey(1) + " " + server.URL + "\nlog " + logKey() + "\nquorum w\n"))
	if err != nil {
		b.Fatal(err)
	}
	feeder, err := NewFeeder(l, FeederOptions{Policy: p, AllowLoopback: true})
	if err != nil {
		b.Fatal(err)
	}
	defer feeder.Close()
	b.ResetTimer()
	for range b.N {
		grow(b, l, 1, nil)
		if fed, err := feeder.Feed(context.Background()); err != nil || !fed.Verdict.Enough {
			b.Fatal(fed, err)
		}
	}
}
