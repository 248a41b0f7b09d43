package authz

import (
	"context"
	"crypto/ed25519"
	"errors"
	"io"
	"net/netip"
	"time"

	"sallyport/internal/database"
)

var _ = ed25519.PublicKeySize

// Errors that callers decide on. Everything that a person is told is a *Refusal.
var (
	// ErrNotFound says that no such thing exists, or that the asker may not know.
	ErrNotFound = errors.New("not found")
	// ErrWrongCode says that an answer was no valid second factor; the person may try again.
	ErrWrongCode = errors.New("wrong code")
	// ErrUsedCode says that a code was right but its time step was used before.
	ErrUsedCode = errors.New("code already used")
)

// Options are what an Authority is made from.
type Options struct {
	Node      string           // random node id, made at init
	Clock     func() time.Time // nil: time.Now
	Random    io.Reader        // nil: crypto/rand.Reader
	MasterKey [32]byte         // derives the keys for secrets in the database; nothing else
	Ledger    Ledger
	Issuer    string // shown by authenticator apps beside the account
}

// Authority decides. It holds the state of people, projects and approvals in
// a database and tells the ledger of every change.
type Authority struct {
	db *database.DB
}

// Open loads an Authority and hands events over to the ledger that a crash kept from it.
func Open(ctx context.Context, db *database.DB, o Options) (*Authority, error) { panic("todo") }

// Changed returns a channel that is closed at the next change of state that may affect a
// live session (on this node at once; by other nodes within a second, found by Poll).
func (a *Authority) Changed() <-chan struct{} { panic("todo") }

// Poll asks the database whether another node changed something, and wakes Changed if so.
// An error means that this node's view is no longer fresh.
func (a *Authority) Poll(ctx context.Context) error { panic("todo") }

// ---- events

// Record commits one event that goes with no change of state, and returns its E-….
func (a *Authority) Record(ctx context.Context, e Event) (string, error) { panic("todo") }

// Refuse records a refusal as an event and returns the value to tell the person.
func (a *Authority) Refuse(ctx context.Context, e Event, rule, sentence, cause string) *Refusal {
	panic("todo")
}

// EventQuery selects events; zero fields do not narrow.
type EventQuery struct {
	Reference, User, OpType, Project, Session, Connection string
	Since, Until                                          time.Time
	Limit                                                 int
}

// Events returns events that the actor may see, newest last.
func (a *Authority) Events(ctx context.Context, by Actor, q EventQuery) ([]Event, error) {
	panic("todo")
}

// ---- people

// User is a person as the database knows them.
type User struct {
	Name          string    `json:"name"`
	Display       string    `json:"display"`
	SiteRole      SiteRole  `json:"site_role"`
	OSUser        string    `json:"os_user,omitempty"` // account on the node that is this person
	State         string    `json:"state"`             // pending, active or frozen
	FrozenReason  string    `json:"frozen_reason,omitempty"`
	HasTOTP       bool      `json:"has_totp"`
	TermsVersion  string    `json:"terms_version,omitempty"` // SHA-256 of the accepted text
	TrainingUntil time.Time `json:"training_until,omitzero"`
	CreatedAt     time.Time `json:"created_at"`
	CreatedBy     string    `json:"created_by"`
}

// ValidUserName reports whether a name may be a person's: 1 to 32 of a-z, 0-9, '.', '_' and '-',
// starting with a letter, and not "invite".
func ValidUserName(name string) bool { panic("todo") }

func (a *Authority) AddUser(ctx context.Context, by Actor, u User) error { panic("todo") }
func (a *Authority) Users(ctx context.Context, by Actor) ([]User, error) { panic("todo") }
func (a *Authority) User(ctx context.Context, name string) (User, error) { panic("todo") }

// UserByOSUser finds the person that an OS account of the node is bound to.
func (a *Authority) UserByOSUser(ctx context.Context, osUser string) (User, error) { panic("todo") }
func (a *Authority) SetSiteRole(ctx context.Context, by Actor, user string, role SiteRole, reason string) error {
	panic("todo")
}
func (a *Authority) SetOSUser(ctx context.Context, by Actor, user, osUser string) error {
	panic("todo")
}
func (a *Authority) Freeze(ctx context.Context, by Actor, user, reason string) error   { panic("todo") }
func (a *Authority) Unfreeze(ctx context.Context, by Actor, user, reason string) error { panic("todo") }

// SetTraining records that the person's training is valid until the given time.
func (a *Authority) SetTraining(ctx context.Context, by Actor, user, course string, until time.Time) error {
	panic("todo")
}

// SetTerms makes a text the terms that everyone must accept; returns its version.
func (a *Authority) SetTerms(ctx context.Context, by Actor, text string) (version string, err error) {
	panic("todo")
}

// Terms returns the current terms; version is "" when there are none.
func (a *Authority) Terms(ctx context.Context) (version, text string, err error) { panic("todo") }

// AcceptTerms records the person's acceptance of a version, with address and time.
func (a *Authority) AcceptTerms(ctx context.Context, by Actor, version string) error { panic("todo") }

// ---- keys, second factors and invites

// Key is a registered public key. A key belongs to one person for ever, also after removal.
type Key struct {
	Fingerprint string    `json:"fingerprint"` // SHA256:…
	User        string    `json:"user"`
	Type        string    `json:"type"`
	Authorized  string    `json:"authorized"` // authorized_keys form without comment
	Comment     string    `json:"comment,omitempty"`
	CreatedAt   time.Time `json:"created_at"`
	LastUsedAt  time.Time `json:"last_used_at,omitzero"`
	RemovedAt   time.Time `json:"removed_at,omitzero"`
}

// CheckKey parses a line in authorized_keys form and refuses what is too weak or no public key:
// RSA below 3072 or above 4096 bits, DSA, certificates, unknown types, options, security keys
// whose application does not begin with "ssh:".
func CheckKey(authorized string) (Key, error) { panic("todo") }

func (a *Authority) Keys(ctx context.Context, by Actor, user string) ([]Key, error) { panic("todo") }
func (a *Authority) AddKey(ctx context.Context, by Actor, user string, k Key) error { panic("todo") }
func (a *Authority) RemoveKey(ctx context.Context, by Actor, fingerprint, reason string) error {
	panic("todo")
}

// KeyBelongs reports whether a live key with that fingerprint is registered for the user. It
// reveals nothing more: it is what an unauthenticated client can ask for.
func (a *Authority) KeyBelongs(ctx context.Context, user, fingerprint string) (bool, error) {
	panic("todo")
}

// CreateInvite makes a one-time invite for a person; the token is returned once and only its
// hash is kept. Earlier unused invites of the person end.
func (a *Authority) CreateInvite(ctx context.Context, by Actor, user string, valid time.Duration) (token string, expires time.Time, err error) {
	panic("todo")
}

// InvitedUser returns the person whom an unused, unexpired token invites.
func (a *Authority) InvitedUser(ctx context.Context, token string) (User, error) { panic("todo") }

// Enrolment is what a person binds with an invite.
type Enrolment struct {
	Token        string
	Key          Key    // verified by the connection's signature
	Secret       string // base32 TOTP secret, made by NewTOTPSecret
	Code         string // a code that the person typed, proving the authenticator works
	TermsVersion string // the version that was shown and accepted; "" when there are no terms
	RemoteAddr   string
	Connection   string
}

// NewTOTPSecret returns a fresh secret and the otpauth URI for the person's authenticator.
func (a *Authority) NewTOTPSecret(user string) (secret, uri string, err error) { panic("todo") }

// Enrol binds key and second factor in one transaction, uses up the token and returns ten
// recovery codes. ErrWrongCode lets the person try the code again; a *Refusal is final.
func (a *Authority) Enrol(ctx context.Context, e Enrolment) (recovery []string, err error) {
	panic("todo")
}

// ResetFactor removes a person's second factor and recovery codes; a new invite is needed then.
func (a *Authority) ResetFactor(ctx context.Context, by Actor, user, reason string) error {
	panic("todo")
}

// BeginLogin answers once the signature is verified: whether this person may go on to the second
// factor from this address. A refusal names the reason (frozen, no factor enrolled, blocked for a while).
func (a *Authority) BeginLogin(ctx context.Context, id Identity) (*Refusal, error) { panic("todo") }

// VerifyFactor checks a typed TOTP or recovery code. Each time step counts once, on all nodes.
// It returns ErrWrongCode or ErrUsedCode for a further try, or a *Refusal when the person must wait.
// Failures count per person and slow them down: 5 in 10 minutes, then doubling.
func (a *Authority) VerifyFactor(ctx context.Context, id Identity, answer string) (Factor, error) {
	panic("todo")
}

// LoggedIn records the login with all its factors and marks the key as used.
func (a *Authority) LoggedIn(ctx context.Context, id Identity) error { panic("todo") }

// ---- projects, servers and memberships

// Project is what people are members of.
type Project struct {
	Name        string         `json:"name"`
	Title       string         `json:"title"`
	Level       string         `json:"level"`              // type1 or type2
	State       string         `json:"state"`              // active or closed
	From        time.Time      `json:"from,omitzero"`      // data-use period
	Until       time.Time      `json:"until,omitzero"`     // exclusive
	Networks    []netip.Prefix `json:"networks,omitempty"` // allowed source networks; empty: any
	Training    bool           `json:"training_required"`
	Levels      []Level        `json:"session_levels"` // who approves an operator's session, in series
	GrantWindow time.Duration  `json:"grant_window"`   // how long an approved session may be started and last
	CreatedAt   time.Time      `json:"created_at"`
}

// Server is a data server of a project.
type Server struct {
	Project   string    `json:"project"`
	Name      string    `json:"name"`
	Address   string    `json:"address"` // host:port
	HostKey   string    `json:"host_key,omitempty"`
	HostCA    string    `json:"host_ca,omitempty"`
	CreatedAt time.Time `json:"created_at"`
}

// Membership ties a person to a project by a role, until it expires.
type Membership struct {
	ID         string    `json:"id"`
	User       string    `json:"user"`
	Project    string    `json:"project"`
	Role       Role      `json:"role"`
	Account    string    `json:"account"` // on the data servers; belongs to one person only
	Reason     string    `json:"reason"`
	GrantedBy  string    `json:"granted_by"`
	ApprovedBy string    `json:"approved_by,omitempty"` // a manager of the project; "" while proposed
	CreatedAt  time.Time `json:"created_at"`
	ExpiresAt  time.Time `json:"expires_at"`
	EndedAt    time.Time `json:"ended_at,omitzero"`
	EndedBy    string    `json:"ended_by,omitempty"`
}

func (a *Authority) AddProject(ctx context.Context, by Actor, p Project) error { panic("todo") }
func (a *Authority) SetProject(ctx context.Context, by Actor, p Project, reason string) error {
	panic("todo")
}
func (a *Authority) Projects(ctx context.Context, by Actor) ([]Project, error) { panic("todo") }
func (a *Authority) Project(ctx context.Context, name string) (Project, error) { panic("todo") }
func (a *Authority) AddServer(ctx context.Context, by Actor, s Server) error   { panic("todo") }

// SetServerHostKey replaces the pin after a changed host key was checked by hand.
func (a *Authority) SetServerHostKey(ctx context.Context, by Actor, project, name, hostKey, hostCA, reason string) error {
	panic("todo")
}
func (a *Authority) RemoveServer(ctx context.Context, by Actor, project, name, reason string) error {
	panic("todo")
}
func (a *Authority) Servers(ctx context.Context, by Actor, project string) ([]Server, error) {
	panic("todo")
}

// AddMember proposes a membership, or makes it live at once when the actor is a manager of the
// project (or the actor is an administrator and the role is manager). Nobody adds themselves.
func (a *Authority) AddMember(ctx context.Context, by Actor, m Membership) (Membership, error) {
	panic("todo")
}

// ApproveMember makes a proposed membership live; only a manager of the project, never for themselves.
func (a *Authority) ApproveMember(ctx context.Context, by Actor, id string) error     { panic("todo") }
func (a *Authority) EndMember(ctx context.Context, by Actor, id, reason string) error { panic("todo") }
func (a *Authority) Members(ctx context.Context, by Actor, project string) ([]Membership, error) {
	panic("todo")
}

// ---- decisions

// Decide answers an Ask and records the decision as an event. An error means that no answer
// could be had; the caller must treat it as a refusal.
func (a *Authority) Decide(ctx context.Context, ask Ask) (Decision, error) { panic("todo") }

// LiveSession is a session to be decided again.
type LiveSession struct {
	Session string
	Ask     Ask
}

// Recheck decides live sessions again without recording the answers that still are "allow". It
// returns a refusal for each session that must end now (killed ones included), and the time at
// which the next of the others ends by itself (zero: none known).
func (a *Authority) Recheck(ctx context.Context, live []LiveSession) (end map[string]*Refusal, next time.Time, err error) {
	panic("todo")
}

// RouteChoice is one place that a person can go to, or the sentence why not.
type RouteChoice struct {
	Project string   `json:"project"`
	Title   string   `json:"title"`
	Server  string   `json:"server"`
	Role    Role     `json:"role"`
	Allowed []Action `json:"allowed"`
	Waiting []Action `json:"waiting_for_approval,omitempty"`
	// WhyNot is set when nothing is allowed here and nothing can be waited for.
	WhyNot string    `json:"why_not,omitempty"`
	Until  time.Time `json:"until,omitzero"`
}

// Routes lists where the person can go, in the order of project and server names, including
// memberships that exist and do not open the way now, with the reason.
func (a *Authority) Routes(ctx context.Context, id Identity) ([]RouteChoice, error) { panic("todo") }

// Explain is Routes for another person (administrators, the project's managers and auditors) or
// oneself; server narrows to "project/server" or "project" when it is not empty. It records no decision.
func (a *Authority) Explain(ctx context.Context, by Actor, user, server string) ([]RouteChoice, error) {
	panic("todo")
}

// ---- epoch keys

// Epoch is the public half of a project's key pair of one quarter.
type Epoch struct {
	ID        string    `json:"id"` // e.g. genomics/2026Q4
	Project   string    `json:"project"`
	Recipient string    `json:"recipient"`        // age recipient for what was shown
	Strict    string    `json:"strict_recipient"` // age recipient for keys typed in a terminal
	ExpiresAt time.Time `json:"expires_at"`
	CreatedAt time.Time `json:"created_at"`
	CreatedBy string    `json:"created_by"`
}

func (a *Authority) AddEpoch(ctx context.Context, by Actor, e Epoch) error { panic("todo") }
func (a *Authority) Epochs(ctx context.Context, by Actor, project string) ([]Epoch, error) {
	panic("todo")
}

// CurrentEpoch returns the newest unexpired epoch of a project; without one no session may start.
func (a *Authority) CurrentEpoch(ctx context.Context, project string) (Epoch, error) { panic("todo") }

// ---- sessions

// Session is one routed channel, live or ended.
type Session struct {
	ID         string    `json:"id"`     // S-…
	Number     int64     `json:"number"` // dense per node
	Node       string    `json:"node"`
	Connection string    `json:"connection"`
	User       string    `json:"user"`
	Project    string    `json:"project"`
	Server     string    `json:"server"`
	Account    string    `json:"account"`
	Role       Role      `json:"role"`
	Action     Action    `json:"action"`
	Command    string    `json:"command,omitempty"` // exec: exact bytes (may be no UTF-8)
	PTY        bool      `json:"pty"`
	RemoteAddr string    `json:"remote_addr"`
	Request    string    `json:"request,omitempty"`
	Epoch      string    `json:"epoch"`
	StartedAt  time.Time `json:"started_at"`
	EndedAt    time.Time `json:"ended_at,omitzero"`
	// Result is "" while live, then exited, signalled, killed, refused-live, client-gone,
	// server-gone, recording-failed, crashed.
	Result   string `json:"result"`
	ExitCode int    `json:"exit_code"`
	BytesIn  int64  `json:"bytes_in"`
	BytesOut int64  `json:"bytes_out"`
	// Head is the hex hash of the recording's last block, as far as the node knows it.
	Head string `json:"head,omitempty"`
}

// OpenSession gives the session its number, records its event and uses its grant if it has one,
// all in one transaction. It fails with a *Refusal when the grant is used up.
func (a *Authority) OpenSession(ctx context.Context, s Session) (Session, error) { panic("todo") }
func (a *Authority) CloseSession(ctx context.Context, s Session) error           { panic("todo") }

// UnclosedSessions are this node's sessions that a crash left open.
func (a *Authority) UnclosedSessions(ctx context.Context) ([]Session, error) { panic("todo") }

// KillSession marks a live session to end, on whichever node it runs.
func (a *Authority) KillSession(ctx context.Context, by Actor, id, reason string) error {
	panic("todo")
}

// SessionQuery selects sessions; zero fields do not narrow.
type SessionQuery struct {
	ID, User, Project, Server string // ID: S-…, its unique beginning, or the dense number
	Live                      bool
	Since, Until              time.Time
	Limit                     int
}

// Sessions lists what the actor may see: their own, those of projects they list or audit, all for
// a site auditor.
func (a *Authority) Sessions(ctx context.Context, by Actor, q SessionQuery) ([]Session, error) {
	panic("todo")
}

// ViewRecording permits and records the reading of a sealed recording; a reason is required.
func (a *Authority) ViewRecording(ctx context.Context, by Actor, id, purpose, reason string) (Session, error) {
	panic("todo")
}

// ---- requests, votes and grants

// RequestKind is what a request asks for.
type RequestKind string

// RequestSession asks for an operator's session on a data server.
const RequestSession RequestKind = "session"

// Level is one step of a flow: who may vote, and how many must say yes.
type Level struct {
	Name     string   `json:"name"`
	Eligible Role     `json:"eligible,omitempty"`      // members of the project with this role, or
	Site     SiteRole `json:"eligible_site,omitempty"` // people with this site role
	Quorum   int      `json:"quorum"`
}

// Request is what waits for levels of approval.
type Request struct {
	ID         string       `json:"id"`     // R-…
	Number     int64        `json:"number"` // small number for people
	Kind       RequestKind  `json:"kind"`
	User       string       `json:"user"` // requester and beneficiary
	Project    string       `json:"project"`
	Server     string       `json:"server"`
	Reason     string       `json:"reason"`
	State      string       `json:"state"`  // pending, approved, denied, cancelled, expired, used
	Digest     string       `json:"digest"` // SHA-256 of the canonical subject; votes bind to it
	Levels     []LevelState `json:"levels"`
	Level      int          `json:"level"` // index of the level that is open, len(Levels) when done
	CreatedAt  time.Time    `json:"created_at"`
	ExpiresAt  time.Time    `json:"expires_at"` // pending ends
	GrantFrom  time.Time    `json:"grant_from,omitzero"`
	GrantUntil time.Time    `json:"grant_until,omitzero"`
	UsesLeft   int          `json:"uses_left"`
	Sessions   []string     `json:"sessions,omitempty"` // S-… that used the grant
}

// LevelState is a level of a request with who may still vote and who did.
type LevelState struct {
	Level
	Eligible []string `json:"eligible_people"`
	Votes    []Vote   `json:"votes"`
}

// Vote is one person's decision on one request.
type Vote struct {
	User    string    `json:"user"`
	Level   int       `json:"level"`
	Approve bool      `json:"approve"`
	Comment string    `json:"comment,omitempty"`
	Digest  string    `json:"digest"`
	At      time.Time `json:"at"`
}

// CreateRequest opens a request of kind session for the identity's person. It is refused when a
// level has no eligible quorum, and says who is missing.
func (a *Authority) CreateRequest(ctx context.Context, by Actor, project, server, reason string) (Request, error) {
	panic("todo")
}

// Vote casts a vote on the open level. id is R-… or the number. digest, when not empty, must be
// that of the request: the vote is for exactly what was shown.
func (a *Authority) Vote(ctx context.Context, by Actor, id string, approve bool, digest, comment string) (Request, error) {
	panic("todo")
}
func (a *Authority) CancelRequest(ctx context.Context, by Actor, id, reason string) (Request, error) {
	panic("todo")
}

// Request returns one request that the actor may see.
func (a *Authority) Request(ctx context.Context, by Actor, id string) (Request, error) { panic("todo") }

// Requests lists what the actor made or may vote on; all true includes ended ones.
func (a *Authority) Requests(ctx context.Context, by Actor, all bool) ([]Request, error) {
	panic("todo")
}

// OpenGrant finds an approved, unexpired, unused request of the person for the server, "" for none.
func (a *Authority) OpenGrant(ctx context.Context, user, project, server string) (string, error) {
	panic("todo")
}
