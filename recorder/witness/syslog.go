package witness

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"sallyport/recorder/tlog"
)

const (
	syslogPriority = 13*8 + 5 // facility log audit, severity notice (RFC 5424, 6.2.1)
	syslogID       = "checkpoint"
	syslogTimeout  = 10 * time.Second
)

// SyslogOptions says where checkpoints are shipped.
type SyslogOptions struct {
	// Dial opens the TLS connection to the log server (RFC 5425), such as
	// (&tls.Dialer{Config: …}).DialContext with network and address filled in.
	Dial     func(ctx context.Context) (net.Conn, error)
	Hostname string // of this node, as the log server knows it
	Clock    func() time.Time
}

// Syslog ships checkpoints to a log server as RFC 5424 messages with octet
// counting (RFC 5425, 4.3). Syslog has no acknowledgement: that a message was
// written means that the log server's host had a connection, not that it
// was kept. One goroutine at a time.
type Syslog struct {
	o    SyslogOptions
	conn net.Conn
}

// NewSyslog prepares a sender; it connects when there is something to send.
func NewSyslog(o SyslogOptions) (*Syslog, error) {
	if o.Dial == nil || o.Clock == nil {
		return nil, errors.New("syslog: a dialer and a clock are needed")
	}
	if o.Hostname == "" || len(o.Hostname) > 255 || strings.ContainsFunc(o.Hostname, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return nil, fmt.Errorf("syslog: %q is not a host name", o.Hostname)
	}
	return &Syslog{o: o}, nil
}

// shipped is the message part: JSON in one line, so that every log server can search it.
type shipped struct {
	Origin string `json:"origin"`
	Size   int64  `json:"size"`
	Note   string `json:"note"`
}

// Send ships one signed checkpoint. A connection that turns out to be dead is
// replaced once.
func (s *Syslog) Send(ctx context.Context, c tlog.Checkpoint, signed []byte) error {
	body, err := json.Marshal(shipped{c.Origin, c.Size, string(signed)})
	if err != nil {
		return fmt.Errorf("syslog: %w", err)
	}
	message := fmt.Sprintf("<%d>1 %s %s sallyport - %s - %s", syslogPriority,
		s.o.Clock().UTC().Format("2006-01-02T15:04:05.000000Z"), s.o.Hostname, syslogID, body)
	frame := []byte(strconv.Itoa(len(message)) + " " + message)
	fresh := s.conn == nil
	if err = s.write(ctx, frame); err != nil && !fresh {
		err = s.write(ctx, frame)
	}
	if err != nil {
		return fmt.Errorf("syslog: %w", err)
	}
	return nil
}

func (s *Syslog) write(ctx context.Context, frame []byte) error {
	if s.conn == nil {
		conn, err := s.o.Dial(ctx)
		if err != nil {
			return err
		}
		s.conn = conn
	}
	deadline, ok := ctx.Deadline()
	if !ok {
		deadline = time.Now().Add(syslogTimeout)
	}
	err := s.conn.SetWriteDeadline(deadline)
	if err == nil {
		_, err = s.conn.Write(frame)
	}
	if err != nil {
		err = errors.Join(err, s.Close())
	}
	return err
}

// Close ends the connection.
func (s *Syslog) Close() error {
	if s.conn == nil {
		return nil
	}
	conn := s.conn
	s.conn = nil
	return conn.Close()
}

// ParseSyslog takes the signed checkpoint out of a message as a log server kept it.
func ParseSyslog(line string) (signed []byte, err error) {
	if len(line) > MaxRequest {
		return nil, fmt.Errorf("a message of %d bytes is too large", len(line))
	}
	_, body, ok := strings.Cut(line, " "+syslogID+" - ")
	if !ok {
		return nil, errors.New("this is not a message with a checkpoint")
	}
	var m shipped
	if err := json.Unmarshal([]byte(body), &m); err != nil {
		return nil, fmt.Errorf("the message's Checkpoint: %w", err)
	}
	return []byte(m.Note), nil
}
