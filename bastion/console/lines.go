package console

import (
	"bytes"
	"net"
	"strconv"

	"golang.org/x/crypto/ssh"

	"sallyport/bastion"
)

// InviteLine is the command that a person types to use an invite.
func InviteLine(name string, port int, token string) string {
	return SSHLine("invite+"+token, name, port)
}

// SSHLine is the ssh command that comes to the gate under a login name.
func SSHLine(login, name string, port int) string {
	return bastion.SSHLine(login, name, port)
}

// KnownHostsLine is the line of known_hosts by which people's ssh knows the gate.
func KnownHostsLine(name string, port int, hostCA ssh.PublicKey) string {
	host := name
	if !usualPort(port) {
		host = "[" + name + "]:" + strconv.Itoa(port)
	}
	return "@cert-authority " + host + " " + PublicLine(hostCA)
}

// PublicLine is a public key as one line of authorized_keys, without the line break.
func PublicLine(key ssh.PublicKey) string {
	return string(bytes.TrimSpace(ssh.MarshalAuthorizedKey(key)))
}

func usualPort(port int) bool { return port == 0 || port == 22 }

// joinPort is HOST:PORT with the usual port when there is none.
func joinPort(address string) string {
	if _, _, err := net.SplitHostPort(address); err == nil {
		return address
	}
	return net.JoinHostPort(address, "22")
}
