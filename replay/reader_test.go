package replay

import (
	"bytes"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"sallyport/internal/screen"
	"sallyport/recorder"
	"sallyport/recorder/trec"
)

// TestPromise5_WhoCanRead tries every set of keys.
func TestPromise5_WhoCanRead(t *testing.T) {
	n := newTape(t)
	frames := []trec.Frame{n.at(0, trec.KindOutput, "password: "), n.at(1, trec.KindInput, "hunter2\r"), n.at(2, trec.KindOutput, "\r\n$ ")}
	terminal := n.write(t, recorder.Meta{Session: "S-1", PTY: true}, true, frames...)
	exec := n.write(t, recorder.Meta{Session: "S-2"}, true, frames...)
	whole := []string{"password: ", "hunter2\r", "\r\n$ "}

	r, all, err := readAll(t, terminal, n.keys(t, false))
	must(t, err)
	if !slices.Equal(texts(all), []string{whole[0], whole[2]}) || r.Sealed() != 1 || r.CanReadTyped() {
		t.Errorf("without the strict identity: %q, %d sealed", texts(all), r.Sealed())
	}
	r, all, err = readAll(t, terminal, n.keys(t, true))
	must(t, err)
	if !slices.Equal(texts(all), whole) || r.Sealed() != 0 || r.Ending() != EndingComplete || !r.CanReadTyped() || r.Meta().User != "alice" || r.Header().Session != "S-1" || r.End() == nil {
		t.Errorf("with the strict identity: %q", texts(all))
	}
	if _, all, err = readAll(t, exec, n.keys(t, false)); err != nil || !slices.Equal(texts(all), whole) {
		t.Errorf("exec input is under the ordinary key: %q %v", texts(all), err)
	}

	// What the node keeps - its signing key and the public recipients - opens nothing.
	state, err := recorder.ParseEpochKeys(n.epoch.MarshalPublic("genomics"))
	must(t, err)
	keys, err := KeysOf(state, n.key)
	must(t, err)
	other, err := recorder.NewEpochKeys()
	must(t, err)
	foreign, err := KeysOf(other, n.key)
	must(t, err)
	strictOnly := n.keys(t, true)
	strictOnly.Ordinary = nil
	for _, k := range []Keys{keys, foreign, strictOnly} {
		if _, _, err := readAll(t, terminal, k); !errors.Is(err, trec.ErrSealed) {
			t.Errorf("opened by %d and %d identities: %v", len(k.Ordinary), len(k.Strict), err)
		}
	}
}

// TestPromise5_NothingReadableOnDisk searches whole recordings, and one
// whose session still runs.
func TestPromise5_NothingReadableOnDisk(t *testing.T) {
	n := newTape(t)
	secrets := []string{"PATIENT-0815", "hunter2-typed", "Straße 7", "alice", "genomics/db1", "192.0.2.7", "select-command"}
	frames := []trec.Frame{n.at(0, trec.KindOutput, secrets[0]+secrets[2]), n.at(0, trec.KindInput, secrets[1]), n.at(0, trec.KindCommand, secrets[6]),
		n.at(0, trec.KindMarker, "user=alice"), n.at(0, trec.KindOutput, strings.Repeat(secrets[0], 1000))}
	for _, file := range [][]byte{
		n.write(t, recorder.Meta{Session: "S-1", PTY: true, RemoteAddr: secrets[5]}, true, frames...),
		n.write(t, recorder.Meta{Session: "S-2", RemoteAddr: secrets[5]}, true, frames...),
		n.write(t, recorder.Meta{Session: "S-3", PTY: true, RemoteAddr: secrets[5]}, false, frames...),
	} {
		for _, s := range secrets {
			if bytes.Contains(file, []byte(s)) {
				t.Errorf("a recording holds %q", s)
			}
		}
	}
}

// TestReaderFindsChanges changes every byte in turn: what is read is a
// beginning of what was written, and a change is no end.
func TestReaderFindsChanges(t *testing.T) {
	n := newTape(t)
	file := n.write(t, recorder.Meta{Session: "S-1", PTY: true}, true, n.typical()...)
	keys := n.keys(t, true)
	_, whole, err := readAll(t, file, keys)
	must(t, err)
	step := 1 + len(file)/400
	for i := 0; i < len(file); i += step {
		changed := bytes.Clone(file)
		changed[i] ^= 1
		r, all, err := readAll(t, changed, keys)
		if err == nil && r.Ending() != EndingOpen {
			// Only the index and the footer are not looked at by reading from the start.
			if int64(i) < r.End().Offset {
				t.Fatalf("byte %d: nothing was found", i)
			}
		}
		if len(all) > len(whole) || !slices.Equal(texts(all), texts(whole[:len(all)])) {
			t.Fatalf("byte %d: other frames were read", i)
		}
	}
}

func (n *tape) typical() []trec.Frame {
	return []trec.Frame{
		n.at(0, trec.KindOutput, "$ "),
		n.at(time.Second, trec.KindInput, "ls\r"),
		n.at(2*time.Second, trec.KindOutput, "ls\r\nsamples.csv\r\n$ "),
		n.at(3*time.Second, trec.KindExit, "\x00\x00\x00\x00"),
	}
}

// long is a session of some minutes that counts seconds, with a picture every ten.
func (n *tape) long(seconds int) []trec.Frame {
	s := screen.New(100, 30)
	var frames []trec.Frame
	for i := range seconds {
		at := time.Duration(i) * time.Second
		if i%10 == 0 && i > 0 {
			frames = append(frames, n.at(at, trec.KindKeyframe, string(s.Snapshot())))
		}
		text := "second " + time.Duration(at).String() + "\r\n"
		_, _ = s.Write([]byte(text))
		frames = append(frames, n.at(at, trec.KindOutput, text))
	}
	return frames
}

// TestSeek goes to every second, forth and back, in a file with an index and in
// ones that never got one.
func TestSeek(t *testing.T) {
	n := newTape(t)
	n.every = 7
	const seconds = 120
	m := recorder.Meta{Session: "S-1", PTY: true}
	whole := n.write(t, m, true, n.long(seconds)...)
	open := n.write(t, m, false, n.long(seconds)...)
	for name, file := range map[string][]byte{"whole": whole, "without an end": open, "cut": whole[:len(whole)-3000]} {
		f, err := OpenAt(bytes.NewReader(file), int64(len(file)), n.keys(t, false))
		must(t, err)
		for _, second := range []int{0, 5, 10, 11, 55, 119, 118, 60, 59, 9, 0, 1000} {
			r, snapshot, err := f.Seek(time.Duration(second) * time.Second)
			must(t, err)
			e, err := r.Next()
			if name == "cut" && second > 40 {
				continue // there is less of it
			}
			must(t, err)
			first := e.Time.Sub(n.now)
			want := time.Duration(min(second, seconds-1)/10*10) * time.Second
			if first != want || (len(snapshot.Data) > 0) != (want > 0) {
				t.Errorf("%s: at %d s reading goes on at %v after a picture of %d bytes, want %v", name, second, first, len(snapshot.Data), want)
			}
		}
		must(t, f.Close())
	}
}

// A recording is of the session that its header names, or it is not opened.
func TestASealedDescriptionOfAnotherSessionIsRefused(t *testing.T) {
	n := newTape(t)
	for name, change := range map[string]func(*recorder.Meta){"session": func(m *recorder.Meta) { m.Session = "S-2" },
		"node": func(m *recorder.Meta) { m.Node = "N-other" }, "epoch": func(m *recorder.Meta) { m.Epoch = "other/2026Q1" }} {
		m := recorder.Meta{Session: "S-1", Node: "N-test", Epoch: "2026Q1", Number: 1, Start: n.now}
		change(&m)
		text, err := json.Marshal(m)
		must(t, err)
		var out bytes.Buffer
		w, err := trec.NewWriter(&out, trec.Options{Session: "S-1", Node: "N-test", Epoch: "2026Q1", Start: n.now, Meta: text,
			Recipients: n.epoch.Recipient, Signer: n.signer, Codecs: n.codecs})
		must(t, err)
		_, err = w.Close(n.now, "exit")
		must(t, err)
		if _, err := Open(bytes.NewReader(out.Bytes()), n.keys(t, false)); !errors.Is(err, ErrOther) {
			t.Errorf("another %s: Open gave %v", name, err)
		}
		if _, err := OpenAt(bytes.NewReader(out.Bytes()), int64(out.Len()), n.keys(t, false)); !errors.Is(err, ErrOther) {
			t.Errorf("another %s: OpenAt gave %v", name, err)
		}
	}
}
