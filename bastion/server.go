package bastion

import (
	"context"
	"log/slog"
	"net"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/crypto/ssh"

	"sallyport/authz"
	"sallyport/recorder"
)

// Config is what a Server is made from. Zero limits take their defaults.
type Config struct {
	Name      string // the gate's public name, for sentences and certificates
	Authority *authz.Authority
	Recorder  *recorder.Recorder
	Verbs     Verbs
	HostKeys  []ssh.Signer // plain key and certificate of the gate
	UserCA    ssh.Signer   // signs people's certificates for data servers
	Profile   string       // "strict" (default) or "compat"
	Limits    Limits
	Log       *slog.Logger
	Metrics   prometheus.Registerer                                                // nil: none
	Dial      func(ctx context.Context, network, address string) (net.Conn, error) // nil: net.Dialer
	Clock     func() time.Time                                                     // nil: time.Now
	// SourceAddress, when not empty, goes into certificates as the source-address critical option (CIDR list).
	SourceAddress string
}

// Limits bound what a client can take. The defaults are those of DefaultLimits.
type Limits struct {
	Unauthenticated          int           // connections that have not logged in, in all
	UnauthenticatedPerSource int           // the same per /32 or /64
	Connections              int           // authenticated connections, in all
	HandshakeTime            time.Duration // to the end of the key exchange
	KeyTime                  time.Duration // to a verified key
	FactorTime               time.Duration // to a verified second factor
	PreAuthBytes             int64         // read from a client before it has logged in
	Channels                 int           // open at once on one connection
	EnvironmentBytes         int           // names and values of one session
	CommandBytes             int           // of one exec request
	KeepAlive                time.Duration // between questions to a silent client
	KeepAliveMissed          int           // unanswered ones before the connection ends
	Drain                    time.Duration // how long live sessions may go on after a stop
}

// Server is the front door.
type Server struct{}

// New checks the configuration and returns a Server.
func New(c Config) (*Server, error) { panic("todo") }

// Serve accepts connections until ctx is done, then drains: no new connection or session, live
// sessions may end by themselves within Limits.Drain, then they are ended with a sentence.
func (s *Server) Serve(ctx context.Context, l net.Listener) error { panic("todo") }

// ServeLocal serves the command tree on the node's unix socket: SSH inside, the person known
// by the peer's OS user, asked for a second factor.
func (s *Server) ServeLocal(ctx context.Context, l *net.UnixListener) error { panic("todo") }

// Health returns nil when the node takes sessions, else why not.
func (s *Server) Health() error { panic("todo") }
