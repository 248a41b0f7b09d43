package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"sallyport/authz"
	"sallyport/internal/words"
)

const auditReason = "monthly review of the demo"

// sessions are what the auditor sees, in the gate's order.
func (t *tour) sessions(ctx context.Context) ([]authz.Session, error) {
	out, err := t.verb(ctx, "rosa", "session", "ls", "--json")
	if err != nil {
		return nil, err
	}
	var sessions []authz.Session
	if err := json.Unmarshal([]byte(out), &sessions); err != nil {
		return nil, fmt.Errorf("the list cannot be read: %w", err)
	}
	return sessions, nil
}

func (t *tour) rosaLists(ctx context.Context) (string, error) {
	sessions, err := t.sessions(ctx)
	if err != nil {
		return "", err
	}
	var lines []string
	count := map[string]int{}
	for _, s := range sessions {
		key := s.User + " " + string(s.Action)
		if count[key]++; count[key] == 1 {
			lines = append(lines, key)
		}
		if s.User == newcomer {
			t.number = strconv.FormatInt(s.Number, 10)
			if s.Result != "right-ended" {
				return "", fmt.Errorf("the session of %s ended as %q", newcomer, s.Result)
			}
		}
	}
	for _, want := range []string{"nils shell", "alice shell", "bob sftp", "carol shell"} {
		if count[want] == 0 {
			return "", fmt.Errorf("there is no %s among %s", want, strings.Join(lines, ", "))
		}
	}
	return fmt.Sprintf("%d sessions: %s", len(sessions), strings.Join(lines, ", ")), nil
}

func (t *tour) rosaReplays(ctx context.Context) (string, error) {
	key, err := t.verb(ctx, "rosa", "ca", "show", "node")
	if err != nil {
		return "", err
	}
	if err := os.WriteFile(t.nodeKeyFile(), []byte(key), 0o644); err != nil {
		return "", err
	}
	r, err := t.local(ctx, "replay", t.number, "--gate", "rosa",
		"--ssh", words.JoinWords([]string{"ssh", "-F", t.client.config, "-S", t.shared["rosa"], "-o", "BatchMode=yes"}),
		"--identity", t.epochFile("genomics"), "--key", t.nodeKeyFile(), "--reason", auditReason, "--speed", "1000", "--max-idle", "1ms")
	if err != nil {
		return "", err
	}
	if r.code != 0 {
		return "", fmt.Errorf("replay ended with %d: %s", r.code, lastLines(r.stdout+r.stderr))
	}
	shown := plain(r.stdout)
	for line := range strings.Lines(shown) {
		if strings.Contains(line, liveMark) {
			return "replayed: " + strings.TrimSpace(line), nil
		}
	}
	return "", fmt.Errorf("%q is not in what was replayed: %s", liveMark, lastLines(shown))
}

func (t *tour) verifies(ctx context.Context) (string, error) {
	sealed, err := t.verb(ctx, "rosa", "session", "fetch", t.number, "--purpose", "verify", "--reason", auditReason)
	if err != nil {
		return "", err
	}
	t.recording = filepath.Join(t.scratch, newcomer+".trec")
	if err := os.WriteFile(t.recording, []byte(sealed), 0o600); err != nil {
		return "", err
	}
	if strings.Contains(sealed, liveMark) {
		return "", errors.New("the recording is not sealed")
	}
	r, err := t.local(ctx, "verify", t.recording, "--key", t.nodeKeyFile())
	if err != nil {
		return "", err
	}
	if r.code != 0 || !strings.Contains(r.stdout, "complete") {
		return "", fmt.Errorf("verify ended with %d: %s", r.code, lastLines(r.stdout+r.stderr))
	}
	return firstLine(r.stdout), nil
}

func (t *tour) flippedByte(ctx context.Context) (string, error) {
	data, err := os.ReadFile(t.recording)
	if err != nil {
		return "", err
	}
	at := len(data) * 3 / 4 // behind the header, in what was recorded
	data[at] ^= 0x01
	forged := filepath.Join(t.scratch, "forged.trec")
	if err := os.WriteFile(forged, data, 0o600); err != nil {
		return "", err
	}
	r, err := t.local(ctx, "verify", forged, "--key", t.nodeKeyFile())
	if err != nil {
		return "", err
	}
	if r.code == 0 {
		return "", fmt.Errorf("byte %d of %d was flipped and verify ended with 0: %s", at, len(data), lastLines(r.stdout))
	}
	for line := range strings.Lines(r.stdout) {
		if strings.Contains(line, "BROKEN") {
			return fmt.Sprintf("exit code %d after byte %d of %d was flipped: %s", r.code, at, len(data), strings.TrimSpace(line)), nil
		}
	}
	return "", fmt.Errorf("verify ended with %d and does not say what is broken: %s", r.code, lastLines(r.stdout+r.stderr))
}

func firstLine(text string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(plain(text)), "\n")
	return line
}
