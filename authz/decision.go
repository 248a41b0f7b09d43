package authz

import (
	"fmt"
	"time"
)

// Action is what a person asks to do on a data server.
type Action string

// The actions that Decide knows. A subsystem other than SFTP has no action:
// the front door refuses it without asking.
const (
	ActionShell   Action = "shell"
	ActionExec    Action = "exec"
	ActionSFTP    Action = "sftp"
	ActionForward Action = "forward"
)

// Ask is one question to Decide: may this person do this on that server now?
type Ask struct {
	Identity Identity
	Project  string
	Server   string // empty: the project's only or first server
	Action   Action
	Command  string // exec only: the exact bytes of the request
	// PTY says that a terminal was asked for. A shell without one takes scripts and gives bytes out
	// unchanged, so it needs what a single command needs.
	PTY bool
	// Request is the R-… of an approved request under which the session
	// runs; empty before one was asked for. With it, Decide looks for its grant.
	Request string
	// Session is the S-… of a live session that is decided again; empty for a
	// new one. A grant that this session already used still counts for it.
	Session string
}

// Outcome is the kind of answer that Decide gives.
type Outcome int

// The outcomes.
const (
	Refuse Outcome = iota // zero value: deny by default
	Allow
	StepUp // a further factor of Decision.NeedAssurance is needed
	Wait   // an approved request of Decision.NeedRequest is needed
)

// String names the outcome as events do.
func (o Outcome) String() string {
	switch o {
	case Allow:
		return "allow"
	case StepUp:
		return "step-up"
	case Wait:
		return "wait"
	}
	return "refuse"
}

// Decision is the answer to an Ask.
type Decision struct {
	Outcome       Outcome
	Rule          string   // name of the rule that decided, e.g. "membership.none"
	Refusal       *Refusal // set when Outcome is Refuse
	Obligations   Obligations
	Route         Route // set when Outcome is Allow or Wait
	NeedRequest   RequestKind
	NeedAssurance Assurance
	// Until is when the answer ends by itself (membership, period, grant or
	// training); zero means no end is known.
	Until time.Time
}

// Obligations are what an allowed session must carry.
type Obligations struct {
	Record   bool          // always true for a session on a data server
	Grant    string        // the request (R-…) whose grant this session uses
	IdleLock time.Duration // 0: none
}

// Route is the way to a data server for one membership.
type Route struct {
	Project string
	Server  string
	Address string // host:port to dial
	Account string // the person's account on the server
	Role    Role   // the membership's role that allowed the action
	HostKey string // pinned host key, authorized_keys form; empty when HostCA is set
	HostCA  string // pinned host certificate authority, authorized_keys form
}

// Refusal is why something was not done. It is a value made once: the public
// sentence goes to the person with the reference, the cause to the log.
type Refusal struct {
	Reference string // E-… of the event that an administrator can look up
	Rule      string // machine name of the rule, e.g. "membership.expired"
	Sentence  string // one plain sentence for the person
	Cause     string // what the log and the administrator see in addition
}

// Error gives the sentence with its reference, as a person sees it.
func (r *Refusal) Error() string {
	if r.Reference == "" {
		return r.Sentence
	}
	return fmt.Sprintf("%s (reference %s)", r.Sentence, r.Reference)
}
