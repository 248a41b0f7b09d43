package authz

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"
)

// Lengths of texts that people give, in characters.
const (
	// MinReason is the least that the reason of a new membership or request may have, which gives access
	// to data: less would be thoughtless.
	MinReason = 10
	// minNote is the least for the reasons of other acts, which may be urgent.
	minNote = 3
	maxText = 1000
)

var (
	userName    = regexp.MustCompile(`^[a-z][a-z0-9._-]{0,31}$`)
	projectName = regexp.MustCompile(`^[a-z][a-z0-9-]{0,31}$`)
	serverName  = regexp.MustCompile(`^[a-z][a-z0-9-]{0,62}$`)
	accountName = regexp.MustCompile(`^[a-z_][a-z0-9._-]{0,31}$`)
	osUserName  = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,31}\$?$`)
)

// ValidUserName reports whether a name may be a person's: 1 to 32 of a-z, 0-9, '.', '_' and '-',
// starting with a letter, and not "invite".
func ValidUserName(name string) bool { return userName.MatchString(name) && !reservedName(name) }

// ValidProjectName reports whether a name may be a project's: 1 to 32 of a-z, 0-9 and '-', starting
// with a letter.
func ValidProjectName(name string) bool { return projectName.MatchString(name) }

// reservedName reports names that mean something else in an address or in an event.
func reservedName(name string) bool {
	return slices.Contains([]string{"invite", "system", "unauthenticated"}, name)
}

// superusers are accounts that nobody may have as a member: they are shared, rule the server, or
// belong to its services.
var superusers = [...]string{"root", "toor", "admin", "administrator", "guest", "nobody", "daemon", "bin", "sys", "adm",
	"sudo", "wheel", "sshd", "operator", "superuser", "system", "postgres", "mysql", "oracle", "sa", "docker", "lxd",
	"ubuntu", "debian", "ec2-user", "centos", "cloud-user", "sallyport",
	"sync", "games", "man", "lp", "mail", "news", "uucp", "proxy", "www-data", "backup", "list", "irc", "gnats", "messagebus",
	"syslog", "uuidd", "tcpdump", "ntp", "chrony", "avahi", "dnsmasq", "polkitd", "statd", "shutdown", "halt", "ftp", "nginx",
	"apache", "redis", "slurm", "munge", "git"}

// checkAccount denies what cannot be a member's account on a data server.
func checkAccount(account string) error {
	if !accountName.MatchString(account) {
		return deny("input.account", "An account name has 1 to 32 of a-z, 0-9, '.', '_' and '-'.", "")
	}
	// Services name theirs systemd-network and _apt, for example.
	service := strings.HasPrefix(account, "systemd-") || strings.HasPrefix(account, "_")
	if service || slices.Contains(superusers[:], account) {
		return deny("account.superuser", fmt.Sprintf("The account %s rules the server, belongs to a service or is shared; "+
			"a member needs an account of their own.", account), "")
	}
	return nil
}

// checkText denies a text that is too short, too long, or more than one line of plain characters.
func checkText(what, text string, least int) error {
	length := utf8.RuneCountInString(strings.TrimSpace(text))
	switch {
	case length < least && least == 1:
		return deny("input.text", fmt.Sprintf("The %s is missing.", what), "")
	case length < least:
		return deny("input.text", fmt.Sprintf("The %s needs at least %d characters.", what, least), "")
	case length > maxText:
		return deny("input.text", fmt.Sprintf("The %s may have at most %d characters.", what, maxText), "")
	case !utf8.ValidString(text) || strings.IndexFunc(text, hostile) >= 0:
		return deny("input.text", fmt.Sprintf("The %s must be one line without control characters.", what), "")
	}
	return nil
}

// compare orders texts by their bytes, whatever the database's own order is.
func compare(x, y string) int { return strings.Compare(x, y) }
