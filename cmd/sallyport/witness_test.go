package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"sallyport/bastion/console"
	"sallyport/recorder/ledger"
	"sallyport/recorder/tlog"
	"sallyport/recorder/witness"
	"sallyport/replay"
)

// seededLog is a node's log by itself, signed with a fixed key.
func seededLog(t *testing.T, leaves ...string) *tlog.Log {
	t.Helper()
	return namedLog(t, "N-seeded", leaves...)
}

func namedLog(t *testing.T, node string, leaves ...string) *tlog.Log {
	t.Helper()
	l, err := tlog.Open(tlog.Options{Dir: t.TempDir(), Origin: ledger.OriginOf(node), Signer: seededKey(), PublishInterval: -1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	grow(t, l, leaves...)
	return l
}

func grow(t *testing.T, l *tlog.Log, leaves ...string) {
	t.Helper()
	for _, leaf := range leaves {
		if _, err := l.Append(t.Context(), []byte(leaf)); err != nil {
			t.Fatal(err)
		}
	}
}

func seededKey() ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{3}, ed25519.SeedSize))
}

// gateWith answers the verbs of the console's noun ledger from a log.
func gateWith(t *testing.T, l **tlog.Log) func(context.Context, ...string) ([]byte, error) {
	return func(_ context.Context, args ...string) ([]byte, error) {
		switch words := strings.Join(args, " "); {
		case words == "ledger checkpoint":
			return (*l).Checkpoint(), nil
		case strings.HasPrefix(words, "ledger checkpoint --since "):
			since, err := strconv.ParseInt(args[3], 10, 64)
			if err != nil {
				t.Error(err)
			}
			e := witness.Extension{Old: since, Checkpoint: (*l).Checkpoint()}
			if since < (*l).Size() {
				if e.Proof, err = (*l).ProveConsistency(since, (*l).Size()); err != nil {
					return nil, err
				}
			}
			return e.Format(), nil
		default:
			return nil, fmt.Errorf("the gate is asked for %s", words)
		}
	}
}

// TestPromise4_TheCommandDemandsWhatItSaw: `ledger checkpoint` on an auditor's machine is a witness.
func TestPromise4_TheCommandDemandsWhatItSaw(t *testing.T) {
	home := t.TempDir()
	getenv := func(string) string { return home }
	key := seededKey().Public().(ed25519.PublicKey)
	l := seededLog(t, "a", "b")
	ask := gateWith(t, &l)
	for range 3 {
		signed, err := seeCheckpoint(t.Context(), ask, key, false, getenv)
		if err != nil || !bytes.Equal(signed, l.Checkpoint()) {
			t.Fatalf("%s, %v", signed, err)
		}
		grow(t, l, "more")
	}
	for name, leaves := range map[string][]string{"cut": {"a", "b"}, "rewritten": {"a", "x", "more", "more", "more", "more"}} {
		l = seededLog(t, leaves...)
		if _, err := seeCheckpoint(t.Context(), ask, key, false, getenv); !errors.Is(err, tlog.ErrRewritten) {
			t.Errorf("%s: %v", name, err)
		}
	}
	l = namedLog(t, "N-renamed", "a", "x", "more", "more", "more", "more")
	if _, err := seeCheckpoint(t.Context(), ask, key, false, getenv); !errors.Is(err, tlog.ErrRewritten) {
		t.Errorf("renamed: %v", err)
	}
	l = namedLog(t, "N-renamed", "a")
	for _, newNode := range []bool{true, false} {
		if _, err := seeCheckpoint(t.Context(), ask, key, newNode, getenv); err != nil {
			t.Errorf("set up again: %v", err)
		}
		grow(t, l, "more")
	}
	if _, err := seeCheckpoint(t.Context(), ask, key, true, getenv); err == nil {
		t.Error("--new-node takes a known node's checkpoint without a proof")
	}
	if _, err := seeCheckpoint(t.Context(), func(context.Context, ...string) ([]byte, error) { return []byte("Welcome!\n"), nil }, key, false, getenv); err == nil {
		t.Error("any answer is a checkpoint")
	}
}

// TestPromise4_VerifyRemembersWhereTheGatesAnswersAre: one memory of each person for both commands.
func TestPromise4_VerifyRemembersWhereTheGatesAnswersAre(t *testing.T) {
	home, other := t.TempDir(), t.TempDir()
	getenv := func(name string) string {
		if name != ledger.HomeVariable {
			t.Errorf("asked for %s", name)
		}
		return home
	}
	key := seededKey().Public().(ed25519.PublicKey)
	l := seededLog(t, "a", "b")
	if _, err := seeCheckpoint(t.Context(), gateWith(t, &l), key, false, getenv); err != nil {
		t.Fatal(err)
	}
	for dir, v := range map[string]*verification{home: {}, other: {remember: other}, "": {noRemember: true}} {
		var files replay.NodeFiles
		v.memory(&files, streams{err: os.Stderr}, getenv)
		if (files.Remembered == nil) != (dir == "") {
			t.Fatalf("%q: %v", dir, files.Remembered)
		}
		if dir == "" {
			continue
		}
		last, err := ledger.LastSeen(files.Remembered, key)
		if err != nil || (last.Size == 2) != (dir == home) {
			t.Errorf("%q: %+v, %v", dir, last, err)
		}
	}
}

// certificateFile is a certificate for loopback with its key, in PEM.
func certificateFile(t *testing.T) (path string, pool *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "witness"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	path = filepath.Join(t.TempDir(), "tls.pem")
	if err := os.WriteFile(path, append(certificate, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw})...), 0o600); err != nil {
		t.Fatal(err)
	}
	pool = x509.NewCertPool()
	pool.AppendCertsFromPEM(certificate)
	return path, pool
}

// lineWriter hands over each line that is written.
type lineWriter struct{ lines chan string }

func (w lineWriter) Write(b []byte) (int, error) {
	w.lines <- string(b)
	return len(b), nil
}

// TestWitnessCosignsOverTLS goes from `witness init` to a cosigned checkpoint.
func TestWitnessCosignsOverTLS(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "witness")
	out, err := os.Create(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	if code := run(t.Context(), []string{"witness", "init", dir, "--name", "witness.example/w1", "--json"}, streams{os.Stdin, out, os.Stderr}); code != 0 {
		t.Fatalf("exit code %d", code)
	}
	text, err := os.ReadFile(out.Name())
	if err != nil {
		t.Fatal(err)
	}
	var made struct{ Key string }
	if err := json.Unmarshal(text, &made); err != nil {
		t.Fatal(err)
	}
	if code := run(t.Context(), []string{"witness", "init", dir, "--name", "witness.example/w2"}, streams{os.Stdin, out, lineWriter{make(chan string, 9)}}); code == 0 {
		t.Error("the key was written over")
	}

	l := seededLog(t, "a", "b", "c")
	key, err := ledger.PublicKey("N-seeded", seededKey().Public().(ed25519.PublicKey))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "logs"), []byte(key+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	certificate, pool := certificateFile(t)
	ctx, cancel := context.WithCancel(t.Context())
	told := lineWriter{make(chan string, 100)}
	var group sync.WaitGroup
	group.Go(func() {
		if code := run(ctx, []string{"witness", "serve", dir, "--listen", "127.0.0.1:0", "--certificate", certificate}, streams{os.Stdin, out, told}); code != 0 {
			t.Errorf("exit code %d", code)
		}
	})
	defer group.Wait()
	defer cancel()
	var serving struct{ Address string }
	select {
	case line := <-told.lines:
		if err := json.Unmarshal([]byte(line), &serving); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("the witness does not begin to serve")
	}
	policy, err := witness.ParsePolicy([]byte("log " + key + "\nwitness w " + made.Key + " https://" + serving.Address + "\nquorum w\n"))
	if err != nil {
		t.Fatal(err)
	}
	feeder, err := witness.NewFeeder(l, witness.FeederOptions{Policy: policy, RootCAs: pool, AllowLoopback: true})
	if err != nil {
		t.Fatal(err)
	}
	defer feeder.Close()
	fed, err := feeder.Feed(ctx)
	if err != nil || !fed.Verdict.Enough || fed.Verdict.Checkpoint.Size != 3 {
		t.Fatalf("%+v, %v", fed, err)
	}
	if _, err := note.Open(fed.Signed, note.VerifierList(policy.Witnesses[0].Verifier)); err != nil {
		t.Error(err)
	}
}

func TestWitnessServesInClearOnLoopbackOnly(t *testing.T) {
	for _, address := range []string{":0", "0.0.0.0:0", "192.0.2.1:80", "gate.example.org:80", "nothing"} {
		o := &witnessService{listen: address}
		listener, err := o.open()
		if console.ExitCode(err) != console.ExitUsage {
			t.Errorf("%s: %v", address, err)
		}
		if err == nil {
			listener.Close()
		}
	}
	o := &witnessService{listen: "127.0.0.1:0"}
	listener, err := o.open()
	if err != nil {
		t.Fatal(err)
	}
	listener.Close()
	if _, err := readWitnessKey(filepath.Join(t.TempDir(), "witness.key")); err == nil {
		t.Error("no key is a key")
	}
}
