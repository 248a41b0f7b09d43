package bastion

import (
	"errors"
	"strings"

	"sallyport/authz"
)

// address is what a client's SSH user name says: who, and where to.
type address struct {
	user    string
	project string // empty: the only project, the menu, or a verb
	server  string // empty: the project's first server
	invite  string // token of a one-time invite; then all else is empty
}

// errAddress says that a user name can't be an address. It is never shown
// before a key is verified.
var errAddress = errors.New("user name is no address")

// maxAddress bounds a user name in bytes; tokens are the longest part.
const maxAddress = 160

// parseAddress reads "alice", "alice+project", "alice+project/server" and
// "invite+TOKEN". Everything else is an error, whatever it may resemble.
func parseAddress(name string) (address, error) {
	if len(name) > maxAddress {
		return address{}, errAddress
	}
	user, rest, routed := strings.Cut(name, "+")
	if user == "invite" {
		if !routed || !validName(rest, 16, 128) {
			return address{}, errAddress
		}
		return address{invite: rest}, nil
	}
	if !authz.ValidUserName(user) {
		return address{}, errAddress
	}
	a := address{user: user}
	if !routed {
		return a, nil
	}
	project, server, toServer := strings.Cut(rest, "/")
	if !validName(project, 1, 64) || toServer && !validName(server, 1, 64) {
		return address{}, errAddress
	}
	a.project, a.server = project, server
	return a, nil
}

// validName allows what names of projects, servers and tokens are made of.
func validName(s string, least, most int) bool {
	if len(s) < least || len(s) > most {
		return false
	}
	for i := range len(s) {
		c := s[i]
		switch {
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9':
		case i > 0 && (c == '-' || c == '_' || c == '.'):
		default:
			return false
		}
	}
	return true
}
