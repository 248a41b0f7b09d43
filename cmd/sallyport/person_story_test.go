package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"sallyport/internal/testkit"
)

// person is somebody of a story: a folder with a key, the ssh configuration,
// and what gives the second factor.
type person struct{ name, dir string }

// askpass types what a person would: a fresh code of the authenticator, or one
// of the recovery codes once the authenticator has none left for this half
// minute. $ANSWER says to type something else.
const askpass = `#!/bin/bash
set -euo pipefail
case "${1:-}" in *yes/no*) exit 1 ;; esac
cd "$PERSON"
exec 9<>step
flock 9
printf '%s\n' "${1:-}" >>questions
fresh() {
	local last now present next
	read -r last <step
	now=$(date +%s)
	present=$((now / 30))
	next=$((present - 1))
	if [ $((30 - now % 30)) -lt 10 ]; then next=$present; fi
	if [ "$last" -ge "$next" ]; then next=$((last + 1)); fi
	if [ "$next" -gt $((present + 1)) ]; then return 1; fi
	printf '%s\n' "$next" >step
	oathtool --totp --base32 --now="@$((next * 30))" "$(cat secret)"
}
recovery() {
	[ -s recovery ] || return 1
	head -n 1 recovery
	sed -i 1d recovery
}
case "${ANSWER:-}" in
'') until answer=$(fresh) || answer=$(recovery); do sleep 1; done ;;
totp) until answer=$(fresh); do sleep 1; done ;;
late) sleep 6 && answer=$(fresh) ;;
recovery) answer=$(recovery) ;;
last) answer=$(cat last) ;;
*) answer=$ANSWER ;;
esac
printf '%s\n' "$answer" >last
printf '%s\n' "$answer"
`

// newPerson makes a folder and a key below people/.
func newPerson(dir, name string) (person, testkit.Key, error) {
	p := person{name: name, dir: filepath.Join(dir, "people", name)}
	if err := os.MkdirAll(p.dir, 0o700); err != nil {
		return p, testkit.Key{}, err
	}
	key, err := testkit.MakeKey(p.dir, "id")
	return p, key, err
}

// give puts a secret and recovery codes into the person's hands.
func (p person) give(secret, recovery string) error {
	return errors.Join(
		os.MkdirAll(p.dir, 0o700),
		os.WriteFile(filepath.Join(p.dir, "secret"), []byte(secret+"\n"), 0o600),
		os.WriteFile(filepath.Join(p.dir, "recovery"), []byte(recovery), 0o600),
		os.WriteFile(filepath.Join(p.dir, "step"), []byte("0\n"), 0o600))
}

// configure writes the person's ssh_config for a gate that listens on a port.
// Connections are shared through sockets, whose paths must be short.
func (p person) configure(stageDir, sockets string, port int) error {
	text := fmt.Sprintf(`Host gate
  User %s
  HostName 127.0.0.1
  Port %d
  HostKeyAlias gate.test
Host *
  IdentityFile %s/id
  IdentitiesOnly yes
  IdentityAgent none
  UserKnownHostsFile %s/known_hosts
  GlobalKnownHostsFile /dev/null
  StrictHostKeyChecking yes
  ConnectTimeout 30
  ControlMaster no
  ControlPath %s/%%C
  EscapeChar none
`, p.name, port, p.dir, stageDir, sockets)
	return os.WriteFile(filepath.Join(p.dir, "config"), []byte(text), 0o600)
}

// environment makes ssh, and the command itself, ask the person's askpass program.
func (p person) environment(stageDir, answer string) []string {
	return []string{"PERSON=" + p.dir, "ANSWER=" + answer, "SSH_ASKPASS=" + filepath.Join(stageDir, "askpass"),
		"SSH_ASKPASS_REQUIRE=force", "DISPLAY=none:0", "RSYNC_RSH=ssh -F " + filepath.Join(p.dir, "config")}
}

// command is a program with its words, with the person's configuration if it takes one.
func (p person) command(words []string) []string {
	switch words[0] {
	case "ssh", "sftp", "scp":
		return append([]string{words[0], "-F", filepath.Join(p.dir, "config")}, words[1:]...)
	}
	return words
}
