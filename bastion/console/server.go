package console

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/crypto/ssh"

	"sallyport/authz"
	"sallyport/configs"
	"sallyport/internal/words"
)

func (k *call) serverNoun() *cobra.Command {
	return noun("server", "Data servers of projects",
		k.serverAdd(), k.serverLs(), k.serverSetHostKey(), k.serverRm(), k.serverScript())
}

// pins are how a data server is known again.
type pins struct{ key, authority string }

func (p *pins) register(c *cobra.Command) {
	c.Flags().StringVar(&p.key, "host-key", "", "the server's host key, as in its .pub file")
	c.Flags().StringVar(&p.authority, "host-ca", "", "public key of the authority that signs the server's host certificate")
}

// check wants exactly one pin, and returns both in authorized_keys form without comment.
func (p *pins) check() (key, authority string, err error) {
	if (p.key == "") == (p.authority == "") {
		return "", "", Usagef("give one of --host-key and --host-ca; the gate sends nothing to a server that it cannot know again")
	}
	if p.key != "" {
		key, err = publicKey("host-key", p.key)
		return key, "", err
	}
	authority, err = publicKey("host-ca", p.authority)
	return "", authority, err
}

func publicKey(flag, text string) (string, error) {
	key, _, options, rest, err := ssh.ParseAuthorizedKey([]byte(text))
	if err != nil || len(options) > 0 || len(strings.TrimSpace(string(rest))) > 0 {
		return "", Usagef("--%s is no public key; give the line of a .pub file, such as 'ssh-ed25519 AAAA…'", flag)
	}
	if _, isCertificate := key.(*ssh.Certificate); isCertificate {
		return "", Usagef("--%s is a certificate; give the plain public key", flag)
	}
	return PublicLine(key), nil
}

func (k *call) serverAdd() *cobra.Command {
	var p pins
	c := verb("add PROJECT/SERVER ADDRESS", "Add a data server", func(c *cobra.Command, args []string) error {
		project, name, err := place(args[0])
		if err != nil {
			return err
		}
		key, authority, err := p.check()
		if err != nil {
			return err
		}
		s := authz.Server{Project: project, Name: name, Address: joinPort(args[1]), HostKey: key, HostCA: authority}
		if err := k.Authority.AddServer(c.Context(), k.by(), s); err != nil {
			return err
		}
		s.CreatedAt = k.now()
		return k.done(s, "added %s/%s at %s; `server script %s/%s` prints what puts it into service", s.Project, s.Name, s.Address, s.Project, s.Name)
	})
	p.register(c)
	c.Example = "  ssh gate server add genomics/db1 10.1.2.3:22 --host-key \"'$(cat ssh_host_ed25519_key.pub)'\""
	return c
}

func (k *call) serverLs() *cobra.Command {
	return verb("ls [PROJECT]", "List the data servers of a project, or of all that I may see", func(c *cobra.Command, args []string) error {
		project := ""
		if len(args) > 0 {
			project = args[0]
		}
		servers, err := k.Authority.Servers(c.Context(), k.by(), project)
		if err != nil {
			return err
		}
		if k.json {
			return k.printJSON(list(servers))
		}
		t := table{heads: []string{"SERVER", "ADDRESS", "KNOWN BY", "ADDED"}, empty: "There are no data servers that you may see."}
		for _, s := range servers {
			t.add(s.Project+"/"+s.Name, s.Address, pinName(s), day(s.CreatedAt))
		}
		t.write(k)
		return nil
	})
}

func pinName(s authz.Server) string {
	kind, line := "key ", s.HostKey
	if s.HostCA != "" {
		kind, line = "ca ", s.HostCA
	}
	key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(line))
	if err != nil {
		return "nothing"
	}
	return kind + ssh.FingerprintSHA256(key)
}

func (k *call) serverSetHostKey() *cobra.Command {
	var p pins
	var reason string
	c := reasonFlag(verb("set-host-key PROJECT/SERVER", "Replace the pin after a new host key was checked by hand", func(c *cobra.Command, args []string) error {
		project, name, err := place(args[0])
		if err != nil {
			return err
		}
		key, authority, err := p.check()
		if err != nil {
			return err
		}
		if err := k.Authority.SetServerHostKey(c.Context(), k.by(), project, name, key, authority, reason); err != nil {
			return err
		}
		s := authz.Server{Project: project, Name: name, HostKey: key, HostCA: authority}
		return k.done(map[string]string{"project": project, "name": name, "host_key": key, "host_ca": authority}, "%s is now known by %s", args[0], pinName(s))
	}), &reason)
	p.register(c)
	return c
}

func (k *call) serverRm() *cobra.Command {
	var reason string
	return reasonFlag(verb("rm PROJECT/SERVER", "Take a data server out of service; live sessions end", func(c *cobra.Command, args []string) error {
		project, name, err := place(args[0])
		if err != nil {
			return err
		}
		if err := k.Authority.RemoveServer(c.Context(), k.by(), project, name, reason); err != nil {
			return err
		}
		return k.done(map[string]string{"project": project, "name": name, "state": "removed"}, "removed %s", args[0])
	}), &reason)
}

func (k *call) findServer(c *cobra.Command, word string) (authz.Server, error) {
	project, name, err := place(word)
	if err != nil {
		return authz.Server{}, err
	}
	servers, err := k.Authority.Servers(c.Context(), k.by(), project)
	if err != nil {
		return authz.Server{}, err
	}
	for _, s := range servers {
		if s.Project == project && s.Name == name {
			return s, nil
		}
	}
	return authz.Server{}, notFound("there is no data server %q that you may see", word)
}

func (k *call) serverScript() *cobra.Command {
	c := verb("script PROJECT/SERVER", "Print the shell script that puts a data server into service", func(c *cobra.Command, args []string) error {
		s, err := k.findServer(c, args[0])
		if err != nil {
			return err
		}
		members, err := k.Authority.Members(c.Context(), k.by(), s.Project)
		if err != nil {
			return err
		}
		var accounts []string
		for _, m := range members {
			if k.memberState(m) == "live" && needsAccount(m.Role) && !slices.Contains(accounts, m.Account) {
				accounts = append(accounts, m.Account)
			}
		}
		slices.Sort(accounts)
		script := k.script(s, accounts)
		if k.json {
			return k.printJSON(map[string]any{"project": s.Project, "server": s.Name, "accounts": list(accounts), "script": script})
		}
		_, err = fmt.Fprint(k.out, script)
		return err
	})
	c.Example = "  ssh gate server script genomics/db1 > db1.sh   # read it, then run it as root on the server"
	return c
}

// needsAccount reports whether a role ever reaches a data server.
func needsAccount(r authz.Role) bool {
	p, ok := r.Permissions()
	const data = authz.PermShell | authz.PermExec | authz.PermImport | authz.PermExport | authz.PermEscrow
	return ok && p&data != 0
}

// script is POSIX sh that may be run again after members have changed. Names
// are quoted though authz lets no odd ones in: the script runs as root.
func (k *call) script(s authz.Server, accounts []string) string {
	var b strings.Builder
	fmt.Fprintf(&b, `#!/bin/sh
# Puts the data server %s/%s into service behind the gate %s.
# Read it, then run it there as root. Run it again when members have changed.
# Keep a console session open until you have been in once through the gate.
set -eu
umask 022

# Whom the server lets in: certificates of the gate's user CA.
cat > /etc/ssh/sallyport-user-ca.pub <<'END_OF_FILE'
%s
END_OF_FILE
[ -e /etc/ssh/sallyport-revoked ] || : > /etc/ssh/sallyport-revoked

# One account a member, and the one principal that each accepts. An account
# whose member has left keeps its files and loses its way in. An account of the
# system itself is never taken, and no home is touched but the account's own.
least=$(sed -n 's/^UID_MIN[[:space:]]\{1,\}\([0-9]\{1,\}\).*/\1/p' /etc/login.defs)
mkdir -p /etc/ssh/auth_principals
grep -lsx %s /etc/ssh/auth_principals/* | xargs -r rm -f --
account() {
	if ! id -u "$1" >/dev/null 2>&1; then
		useradd --create-home --shell /bin/bash --password '*' --comment 'sallyport member' "$1"
	elif [ "$(id -u "$1")" -lt "${least:-1000}" ]; then
		echo "$1 is an account of the system: give the member another one with --account; nothing was done for it" >&2
		return
	elif [ "$(getent passwd "$1" | cut -d: -f5 | cut -d, -f1)" != 'sallyport member' ]; then
		echo "the account $1 was here before: see to it that it is the member's own, and may do no more than they may" >&2
	fi
	home=$(getent passwd "$1" | cut -d: -f6)
	if [ -d "$home" ] && [ "$(stat -c %%u "$home")" = "$(id -u "$1")" ]; then
		chmod 0700 "$home"
	else
		echo "the home $home of $1 is not its own, and was left as it is" >&2
	fi
	printf '%%s\n' "$2" > "/etc/ssh/auth_principals/$1"
}
`, s.Project, s.Name, k.Name, PublicLine(k.UserCA), words.Quote(regexQuote(s.Project)+"/.*"))
	for _, a := range accounts {
		fmt.Fprintf(&b, "account %s %s\n", words.Quote(a), words.Quote(s.Project+"/"+a))
	}
	fmt.Fprintf(&b, `
# How sshd must behave. It refuses to start with two lines of Subsystem sftp,
# so that of the main file is commented out.
mkdir -p /etc/ssh/sshd_config.d
cat > /etc/ssh/sshd_config.d/sallyport.conf <<'END_OF_FILE'
%s
END_OF_FILE
grep -qi '^[[:space:]]*Include[[:space:]]*/etc/ssh/sshd_config.d/' /etc/ssh/sshd_config ||
	{ echo "sshd_config does not include /etc/ssh/sshd_config.d/*.conf; put that line at its top" >&2; exit 1; }
sed -i 's/^[[:space:]]*Subsystem[[:space:]]\{1,\}sftp/# &/' /etc/ssh/sshd_config
mkdir -p /run/sshd
sshd -t
if command -v systemctl >/dev/null && systemctl is-active --quiet ssh 2>/dev/null; then
	systemctl reload ssh
else
	echo "now let sshd read its configuration again"
fi
`, strings.TrimRight(configs.SSHD(), "\n"))
	if fields := strings.Fields(s.HostKey); len(fields) >= 2 {
		fmt.Fprintf(&b, `
# Whether the gate knows the server by the right key.
if cat /etc/ssh/ssh_host_*_key.pub | cut -d' ' -f1,2 | grep -qxF %s; then
	echo "the gate has this server's host key on record"
else
	echo "the gate has another host key on record; if this is the right machine, an administrator gives it this one:"
	echo "sallyport server set-host-key %s/%s --host-key '$(cut -d' ' -f1,2 /etc/ssh/ssh_host_ed25519_key.pub)' --reason 'read at its console'"
fi
`, words.Quote(fields[0]+" "+fields[1]), s.Project, s.Name)
	}
	return b.String()
}

// regexQuote escapes the one character of a project's name that means something to grep.
func regexQuote(text string) string { return strings.ReplaceAll(text, ".", `\.`) }
