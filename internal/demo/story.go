package demo

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"sallyport/authz"
	"sallyport/bastion/console"
)

// endWithin is how soon a live session must be over when its right ends (promise 2).
const endWithin = time.Second

// liveMark is what the newcomer's session shows, and its replay again.
const liveMark = "LINES OF GENOTYPES: 201"

func (t *tour) adaInvites(ctx context.Context) (string, error) {
	out, err := t.verb(ctx, "ada", "user", "add", newcomer, "--display", "Nils Holm", "--invite", "--json")
	if err != nil {
		return "", err
	}
	var invite console.Invite
	if err := json.Unmarshal([]byte(out), &invite); err != nil || invite.Token == "" {
		return "", fmt.Errorf("no invite came out: %s", lastLines(out))
	}
	if _, err := t.state.newPerson(newcomer); err != nil {
		return "", err
	}
	// The newcomer's own entries, as he would write them.
	all := append(people(), person{name: newcomer, roles: map[string]authz.Role{"genomics": authz.RoleResearcher}})
	if err := t.state.writeSSHConfig(t.port(), t.node.HostCA, all); err != nil {
		return "", err
	}
	if err := os.WriteFile(t.state.path("people", newcomer, "invite"), []byte(invite.Token+"\n"), 0o600); err != nil {
		return "", err
	}
	return fmt.Sprintf("Invite for %s, good once until %s", invite.User, invite.ExpiresAt.Format("15:04 UTC on 2006-01-02")), nil
}

func (t *tour) nilsEnrols(ctx context.Context) (string, error) {
	token, err := os.ReadFile(t.state.path("people", newcomer, "invite"))
	if err != nil {
		return "", err
	}
	term, err := t.client.sshOnTerminal("-i", t.state.keyPath(newcomer), "-o", "IdentitiesOnly=yes",
		"invite+"+strings.TrimSpace(string(token))+"@"+gateName)
	if err != nil {
		return "", err
	}
	if _, err := term.expect(ctx, "Type yes to accept them: "); err != nil {
		return "", err
	}
	if err := term.send("yes\r"); err != nil {
		return "", err
	}
	secret, err := term.line(ctx, "Secret: ")
	if err != nil {
		return "", err
	}
	_, secret, _ = strings.Cut(secret, "Secret: ")
	device := t.authenticator(newcomer)
	if err := device.keep(strings.ReplaceAll(secret, " ", "")); err != nil {
		return "", err
	}
	if _, err := term.expect(ctx, "Code that the app shows now: "); err != nil {
		return "", err
	}
	code, err := device.wait(ctx)
	if err != nil {
		return "", err
	}
	if err := term.send(code + "\r"); err != nil {
		return "", err
	}
	line, err := term.line(ctx, "recovery codes")
	if err != nil {
		return "", err
	}
	return line, endsWith(ctx, term, console.ExitOK)
}

// endsWith waits for a program's end and checks its exit code.
func endsWith(ctx context.Context, term *terminal, want int) error {
	code, err := term.wait(ctx)
	if err == nil && code != want {
		err = fmt.Errorf("ssh ended with %d instead of %d: %s", code, want, lastLines(term.shown()))
	}
	return err
}

func (t *tour) meiAdmits(ctx context.Context) (string, error) {
	out, err := t.verb(ctx, "mei", "member", "add", "genomics", newcomer, "--role", "researcher", "--until", "30d",
		"--reason", "joins the replication study", "--json")
	if err != nil {
		return "", err
	}
	var m authz.Membership
	if err := json.Unmarshal([]byte(out), &m); err != nil || m.ID == "" {
		return "", fmt.Errorf("no membership came out: %s", lastLines(out))
	}
	t.membership = m.ID
	return fmt.Sprintf("%s is %s of %s until %s, account %s", m.User, m.Role, m.Project, m.ExpiresAt.Format("2006-01-02"), m.Account), nil
}

func (t *tour) nilsWorks(ctx context.Context) (string, error) {
	term, err := t.client.sshOnTerminal(newcomer)
	if err != nil {
		return "", err
	}
	if _, err := t.login(ctx, term, newcomer); err != nil {
		return "", err
	}
	if _, err := term.expect(ctx, newcomer+"@db1.genomics$ "); err != nil {
		return "", err
	}
	t.live = term
	return typeCommand(ctx, term, "wc -l < genotypes.tsv | sed 's/^/lines of genotypes: /' | tr a-z A-Z", liveMark)
}

// wrongFor is six digits that no authenticator of that secret shows around now.
func wrongFor(secret string, now time.Time) (string, error) {
	present := now.Unix() / int64(codeStep/time.Second)
candidates:
	for n := range 10 {
		wrong := strings.Repeat(string(rune('0'+n)), 6)
		for step := present - 3; step <= present+3; step++ {
			right, err := codeAt(secret, step)
			if err != nil {
				return "", err
			}
			if right == wrong {
				continue candidates
			}
		}
		return wrong, nil
	}
	return "", errors.New("every simple code is right")
}

func (t *tour) wrongCode(ctx context.Context) (string, error) {
	secret, err := os.ReadFile(t.state.path("people", "alice", secretFile))
	if err != nil {
		return "", err
	}
	wrong, err := wrongFor(strings.TrimSpace(string(secret)), time.Now())
	if err != nil {
		return "", err
	}
	return t.refusedCode(ctx, wrong, "That code is not right")
}

// refusedCode gives a code at alice's login and returns the question that comes
// back. She leaves it unanswered.
func (t *tour) refusedCode(ctx context.Context, code, sentence string) (string, error) {
	term, err := t.client.sshOnTerminal("alice")
	if err != nil {
		return "", err
	}
	defer term.close()
	if _, err := term.expect(ctx, "One-time code for alice: "); err != nil {
		return "", err
	}
	if err := term.send(code + "\r"); err != nil {
		return "", err
	}
	if _, err := term.expect(ctx, sentence); err != nil {
		return "", err
	}
	rest, err := term.expect(ctx, ": ")
	return sentence + strings.TrimSuffix(rest, ": "), err
}

func (t *tour) aliceWorks(ctx context.Context) (string, error) {
	socket, code, err := t.share(ctx, "alice", "alice-genomics")
	if err != nil {
		return "", err
	}
	t.usedCode = code
	term, err := t.client.sshOnTerminal("-S", socket, "alice-genomics")
	if err != nil {
		return "", err
	}
	if _, err := term.expect(ctx, "alice@db1.genomics$ "); err != nil {
		return "", err
	}
	line, err := typeCommand(ctx, term, "awk 'NR>1 {n+=$6} END {print \"with diabetes \" n}' phenotypes.tsv | tr a-z A-Z", "WITH DIABETES ")
	if err != nil {
		return "", err
	}
	if err := term.send("exit 7\r"); err != nil {
		return "", err
	}
	return line, endsWith(ctx, term, 7)
}

func (t *tour) replayedCode(ctx context.Context) (string, error) {
	return t.refusedCode(ctx, t.usedCode, "That code was used before")
}

func (t *tour) otherProject(ctx context.Context) (string, error) {
	term, err := t.client.sshOnTerminal("alice-cohort")
	if err != nil {
		return "", err
	}
	if _, err := t.login(ctx, term, "alice"); err != nil {
		return "", err
	}
	if err := endsWith(ctx, term, console.ExitDenied); err != nil {
		return "", err
	}
	return refusal(term.shown())
}

func (t *tour) execRefused(ctx context.Context) (string, error) {
	r, err := t.client.ssh(ctx, t.shared["alice-genomics"], "alice-genomics", "cat", "phenotypes.tsv")
	if err != nil {
		return "", err
	}
	if r.code != console.ExitDenied || r.stdout != "" {
		return "", fmt.Errorf("ssh ended with %d after %d bytes of output", r.code, len(r.stdout))
	}
	return refusal(r.stderr)
}

// copyOut runs scp over a shared connection and returns what arrived, nil if nothing did.
func (t *tour) copyOut(ctx context.Context, host string) (result, []byte, error) {
	target := filepath.Join(t.scratch, host+".tsv")
	r, err := t.client.run(ctx, "scp", "-F", t.client.config, "-o", "ControlPath="+t.shared[host], "-o", "BatchMode=yes",
		host+":phenotypes.tsv", target)
	if err != nil {
		return r, nil, err
	}
	data, err := os.ReadFile(target)
	if errors.Is(err, os.ErrNotExist) {
		return r, nil, nil
	}
	return r, data, err
}

func (t *tour) scpRefused(ctx context.Context) (string, error) {
	r, data, err := t.copyOut(ctx, "alice-genomics")
	if err != nil {
		return "", err
	}
	if r.code == 0 || data != nil {
		return "", fmt.Errorf("scp ended with %d and brought %d bytes out", r.code, len(data))
	}
	return refusal(r.stderr)
}

func (t *tour) forwardRefused(ctx context.Context) (string, error) {
	path := filepath.Join(t.scratch, "forward")
	forward := path + ":" + t.servers["cohort"].Addr()
	r, err := t.client.ssh(ctx, t.shared["alice-genomics"], "-O", "forward", "-L", forward, "alice-genomics")
	if err != nil {
		return "", err
	}
	if r.code != 0 {
		return "", fmt.Errorf("the client did not listen: %s", lastLines(r.stderr))
	}
	c, err := (&net.Dialer{}).DialContext(ctx, "unix", path)
	if err != nil {
		return "", fmt.Errorf("use the forwarded port: %w", err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(stepTime)); err != nil {
		return "", err
	}
	if n, _ := c.Read(make([]byte, 1)); n > 0 {
		return "", errors.New("bytes came through the forwarded port")
	}
	return t.masters["alice-genomics"].line(ctx, "administratively prohibited")
}

func (t *tour) bobCopies(ctx context.Context) (string, error) {
	if _, _, err := t.share(ctx, "bob", "bob-genomics"); err != nil {
		return "", err
	}
	r, data, err := t.copyOut(ctx, "bob-genomics")
	if err != nil {
		return "", err
	}
	original, err := os.ReadFile(filepath.Join(t.servers["genomics"].Dir, "bob", "phenotypes.tsv"))
	if err != nil {
		return "", err
	}
	if r.code != 0 || !bytes.Equal(data, original) {
		return "", fmt.Errorf("scp ended with %d and %d of %d bytes: %s", r.code, len(data), len(original), lastLines(r.stderr))
	}
	return fmt.Sprintf("phenotypes.tsv, %d bytes, equal to those on the server", len(data)), nil
}

func (t *tour) bobFetches(ctx context.Context) (string, error) {
	batch, fetched := filepath.Join(t.scratch, "batch"), filepath.Join(t.scratch, "genotypes.tsv")
	if err := os.WriteFile(batch, []byte("ls -l\nget genotypes.tsv "+fetched+"\n"), 0o600); err != nil {
		return "", err
	}
	r, err := t.client.run(ctx, "sftp", "-F", t.client.config, "-o", "ControlPath="+t.shared["bob-genomics"], "-b", batch, "bob-genomics")
	if err != nil {
		return "", err
	}
	data, err := os.ReadFile(fetched)
	if err != nil || r.code != 0 || !strings.Contains(r.stdout, "phenotypes.tsv") {
		return "", fmt.Errorf("sftp ended with %d: %s", r.code, lastLines(r.stdout+r.stderr))
	}
	return fmt.Sprintf("genotypes.tsv, %d bytes", len(data)), nil
}

func (t *tour) carolAsks(ctx context.Context) (string, error) {
	term, err := t.client.sshOnTerminal("carol")
	if err != nil {
		return "", err
	}
	if _, err := t.login(ctx, term, "carol"); err != nil {
		return "", err
	}
	if _, err := term.expect(ctx, "Reason: "); err != nil {
		return "", err
	}
	if err := term.send("ticket 4711: the disk of db1 fills up\r"); err != nil {
		return "", err
	}
	shown, err := term.expect(ctx, "Ctrl-C cancels")
	if err != nil {
		return "", err
	}
	found := regexp.MustCompile(`waiting for level 1 of 2 \(mei\), request (\d+)[^\r\n]*`).FindStringSubmatch(plain(shown))
	if found == nil {
		return "", fmt.Errorf("the waiting line is not as told: %s", lastLines(shown))
	}
	t.operator, t.request = term, found[1]
	return found[0], nil
}

// approve votes for carol's request on a connection that carries nothing else.
func (t *tour) approve(ctx context.Context, name string) (string, error) {
	term, err := t.client.sshOnTerminal(name, "request", "approve", t.request)
	if err != nil {
		return "", err
	}
	if _, err := t.login(ctx, term, name); err != nil {
		return "", err
	}
	line, err := term.line(ctx, "Your vote is recorded.")
	if err != nil {
		return "", err
	}
	return line, endsWith(ctx, term, console.ExitOK)
}

func (t *tour) meiApproves(ctx context.Context) (string, error) {
	if _, err := t.approve(ctx, "mei"); err != nil {
		return "", err
	}
	line, err := t.operator.line(ctx, "level 1 approved by mei")
	if err != nil {
		return "", err
	}
	if _, err := t.operator.expect(ctx, "waiting for level 2 of 2 (tomas)"); err != nil {
		return "", err
	}
	return line + "; waiting for level 2 of 2 (tomas)", nil
}

func (t *tour) tomasApproves(ctx context.Context) (string, error) {
	if _, err := t.approve(ctx, "tomas"); err != nil {
		return "", err
	}
	line, err := t.operator.line(ctx, "approved until")
	if err != nil {
		return "", err
	}
	if _, err := t.operator.expect(ctx, "carol@db1.genomics$ "); err != nil {
		return "", err
	}
	if _, err := typeCommand(ctx, t.operator, "echo disk-$((40+2))", "disk-42"); err != nil {
		return "", err
	}
	if err := t.operator.send("exit\r"); err != nil {
		return "", err
	}
	return line, endsWith(ctx, t.operator, 0)
}

func (t *tour) membershipEnds(ctx context.Context) (string, error) {
	if _, err := t.verb(ctx, "mei", "member", "end", t.membership, "--reason", "left the study"); err != nil {
		return "", err
	}
	if err := endsWith(ctx, t.live, console.ExitDenied); err != nil {
		return "", err
	}
	ended, err := t.membershipEnd(ctx)
	if err != nil {
		return "", err
	}
	took := t.live.endedAt().Sub(ended)
	sentence, err := refusal(t.live.shown())
	if err != nil {
		return "", err
	}
	if took > endWithin {
		return "", fmt.Errorf("the session went on for %s", took.Round(time.Millisecond))
	}
	return fmt.Sprintf("after %d ms: %s", took.Milliseconds(), sentence), nil
}

// membershipEnd is when the newcomer's membership ended, by the gate's clock.
func (t *tour) membershipEnd(ctx context.Context) (time.Time, error) {
	members, err := t.node.Authority.Members(ctx, actor("mei"), "genomics")
	if err != nil {
		return time.Time{}, err
	}
	for _, m := range members {
		if m.ID == t.membership && !m.EndedAt.IsZero() {
			return m.EndedAt, nil
		}
	}
	return time.Time{}, errors.New("the membership did not end")
}
