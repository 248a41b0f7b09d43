package authz

import (
	"net/netip"
	"time"
)

// Identity is the person behind one authenticated client connection. It is
// made only from a verified signature and a verified second factor; nothing
// that the client merely claims goes into it.
type Identity struct {
	User        string // the person
	Connection  string // C-… of the client connection
	Fingerprint string // SHA256:… of the key that signed; empty on the local socket
	KeyType     string // e.g. ssh-ed25519
	Factors     []Factor
	RemoteAddr  netip.AddrPort // invalid on the local socket
	SessionID   []byte         // SSH session identifier (RFC 4253 section 7.2) of the connection
	Client      string         // version banner of the client, sanitised
	// Via is how the person came in: "ssh" or "socket".
	Via string
}

// FactorKind names a way to prove a person.
type FactorKind string

// The factors known so far.
const (
	FactorKey      FactorKind = "publickey"
	FactorTOTP     FactorKind = "totp"
	FactorRecovery FactorKind = "recovery-code"
	FactorOSUser   FactorKind = "os-user" // peer credential of the local socket
)

// Assurance ranks a factor; a project's level may ask for a minimum.
type Assurance int

// The assurance levels, weakest first.
const (
	AssuranceNone              Assurance = iota
	AssuranceKnown                       // possession of a key or OS account
	AssuranceOTP                         // a one-time code
	AssurancePhishingResistant           // bound to the channel or the origin
)

// Factor is one verified proof of the person, with its time.
type Factor struct {
	Kind      FactorKind `json:"kind"`
	ID        string     `json:"id,omitempty"` // fingerprint, or a public name of the authenticator
	Assurance Assurance  `json:"assurance"`
	At        time.Time  `json:"at"`
}

// Actor is who performs an administrative act, or whose doing an event is.
type Actor struct {
	User       string
	RemoteAddr string // address of the person, or "local" for the node's own socket
	Connection string
	Via        string // "ssh", "socket", "init" or "recover"
	// VerbOnly says that the connection carries only this one verb, so that
	// the login's second factor counts as the factor of a vote.
	VerbOnly bool
}

// Actor returns the person of the identity as the doer of an act.
func (id Identity) Actor() Actor {
	a := Actor{User: id.User, Connection: id.Connection, Via: id.Via, RemoteAddr: "local"}
	if id.RemoteAddr.IsValid() {
		a.RemoteAddr = id.RemoteAddr.Addr().Unmap().String()
	}
	return a
}

// unbound reports whether the act is bound to no person: setting up a node, or recovering it, by
// whoever holds its files.
func (by Actor) unbound() bool { return by.Via == "init" || by.Via == "recover" }

// name is the actor as events name it.
func (by Actor) name() string {
	switch {
	case by.User != "":
		return by.User
	case by.unbound():
		return "system"
	}
	return "unauthenticated"
}

// address is where the actor is, as events name it.
func (by Actor) address() string {
	if by.RemoteAddr == "" {
		return "local"
	}
	return by.RemoteAddr
}

// secondFactor reports whether the person proved more than a key or an OS account.
func (id Identity) secondFactor() bool {
	for _, f := range id.Factors {
		switch f.Kind {
		case FactorKey, FactorOSUser, "":
		default:
			return true
		}
	}
	return false
}

// firstFactor reports whether the person proved a key or, on the node itself, an OS account.
func (id Identity) firstFactor() bool {
	for _, f := range id.Factors {
		if f.Kind == FactorKey || f.Kind == FactorOSUser {
			return true
		}
	}
	return false
}

// assured reports whether a factor other than a recovery code has at least that assurance.
func (id Identity) assured(least Assurance) bool {
	for _, f := range id.Factors {
		if f.Assurance >= least && f.Kind != FactorRecovery {
			return true
		}
	}
	return false
}

// event begins an event about the person's own connection.
func (id Identity) event(opType string) Event {
	by := id.Actor()
	resource := id.Connection
	if resource == "" {
		resource = "-"
	}
	return Event{UserID: by.name(), OpType: opType, ResourceID: resource, ResourceType: "connection",
		RemoteAddr: by.address(), Connection: id.Connection}
}
