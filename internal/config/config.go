// Package config reads the one configuration file of a node.
//
// The file is YAML and strict: a field that is unknown, has the wrong type or
// a value that cannot be meant is an error that names file, line and field;
// nothing is guessed and nothing is ignored. configs/sallyport.yaml documents
// every field. Paths that are not absolute start at the folder of the file.
//
// The package holds no secrets and opens no keys: it only says where they lie.
package config

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// MinimumRetentionDays is the shortest time that recordings and events may be
// kept: six months, whatever the months (requirements row 56).
const MinimumRetentionDays = 183

// DefaultPath is where the command looks for its configuration.
const DefaultPath = "/etc/sallyport/sallyport.yaml"

// Config is the configuration of one node, after defaults.
type Config struct {
	// File is where the configuration was read from.
	File string

	Name          string    `yaml:"name"`
	Listen        string    `yaml:"listen"`
	State         string    `yaml:"state"`
	Database      string    `yaml:"database"`
	Socket        string    `yaml:"socket"`
	SocketGroup   string    `yaml:"socket_group"`
	Metrics       string    `yaml:"metrics"`
	Profile       string    `yaml:"profile"`
	LogLevel      string    `yaml:"log_level"`
	SourceAddress []string  `yaml:"source_address"`
	HostKeys      []string  `yaml:"host_keys"`
	CA            CA        `yaml:"ca"`
	Keys          Keys      `yaml:"keys"`
	Recording     Recording `yaml:"recording"`
	Retention     Retention `yaml:"retention"`
	Witness       Witness   `yaml:"witness"`
	Syslog        Syslog    `yaml:"syslog"`
	Limits        Limits    `yaml:"limits"`
}

// CA says where the keys of the certificate authorities lie, in the private key format of OpenSSH.
type CA struct {
	User string `yaml:"user"` // signs people's certificates for data servers
	Host string `yaml:"host"` // signs the gate's own host certificates
}

// Keys says where the node's own keys lie.
type Keys struct {
	Master string `yaml:"master"` // 32 random bytes, base64; derives the keys for secrets in the database
	Node   string `yaml:"node"`   // signs recordings, ledger and checkpoints; ed25519, OpenSSH format
	// Journal is 32 random bytes, base64: what the ledger's entries in the
	// journal, and the keys of its bodies, are sealed under.
	Journal string `yaml:"journal"`
}

// Recording says where recordings rest, and what stands before them.
type Recording struct {
	Dir     string `yaml:"dir"`
	MinFree Size   `yaml:"min_free"`
	// Mode is durable or written: when output may be shown.
	Mode         string `yaml:"mode"`
	Journal      string `yaml:"journal"`       // folder of the journal
	JournalSize  Size   `yaml:"journal_size"`  // of one of its files
	JournalFiles int    `yaml:"journal_files"` // at most, the reserve among them
	SecondDir    string `yaml:"second_dir"`    // where finished recordings rest a second time; "" for nowhere
	MaxBacklog   Size   `yaml:"max_backlog"`   // that may wait to be copied there while sessions start
	ScrubRate    Size   `yaml:"scrub_rate"`    // a second, that the weekly check reads
}

// Retention says how long recordings and events are kept.
type Retention struct {
	Days int `yaml:"days"`
}

// Limits are those of bastion.Limits, by the same names; zero stands for the front door's default.
type Limits struct {
	Unauthenticated          int           `yaml:"unauthenticated"`
	UnauthenticatedPerSource int           `yaml:"unauthenticated_per_source"`
	Connections              int           `yaml:"connections"`
	HandshakeTime            time.Duration `yaml:"handshake_time"`
	KeyTime                  time.Duration `yaml:"key_time"`
	FactorTime               time.Duration `yaml:"factor_time"`
	PreAuthBytes             Size          `yaml:"pre_auth_bytes"`
	Channels                 int           `yaml:"channels"`
	EnvironmentBytes         Size          `yaml:"environment_bytes"`
	CommandBytes             Size          `yaml:"command_bytes"`
	KeepAlive                time.Duration `yaml:"keep_alive"`
	KeepAliveMissed          int           `yaml:"keep_alive_missed"`
	Drain                    time.Duration `yaml:"drain"`
}

// Level returns the log level.
func (c *Config) Level() slog.Level {
	var l slog.Level
	// Load has refused every other text; "warn" is spelled "WARN" by slog, which ignores case.
	_ = l.UnmarshalText([]byte(c.LogLevel))
	return l
}

// maxFile bounds what Load reads, in bytes.
const maxFile = 1 << 20

// Load reads and checks a configuration file. The error joins one *Error for each fault.
func Load(path string) (*Config, error) {
	full, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("find configuration: %w", err)
	}
	info, err := os.Stat(full)
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	if info.Size() > maxFile {
		return nil, &Error{File: path, Fault: "is too large for a configuration"}
	}
	text, err := os.ReadFile(full)
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	return Parse(full, text)
}

// Parse checks the text of a configuration file that lies, or will lie, at
// the absolute path file.
func Parse(file string, text []byte) (*Config, error) {
	c := &Config{File: file}
	d := &decoder{file: file, lines: make(map[string]int)}
	if err := d.decode(text, c); err != nil {
		return nil, err
	}
	c.setDefaults(d.lines)
	c.anchorPaths(filepath.Dir(file))
	if err := errors.Join(c.check(d.lines)...); err != nil {
		return nil, err
	}
	return c, nil
}

func (c *Config) setDefaults(lines map[string]int) {
	set := func(field *string, value string) {
		if *field == "" {
			*field = value
		}
	}
	set(&c.Listen, ":22")
	set(&c.State, "state")
	set(&c.Socket, "sallyport.sock")
	set(&c.Metrics, "127.0.0.1:9122")
	set(&c.Profile, "strict")
	set(&c.LogLevel, "info")
	set(&c.CA.User, "keys/user-ca")
	set(&c.CA.Host, "keys/host-ca")
	set(&c.Keys.Master, "keys/master.key")
	set(&c.Keys.Node, "keys/node.key")
	set(&c.Keys.Journal, "keys/journal.key")
	set(&c.Recording.Mode, ModeDurable)
	if len(c.HostKeys) == 0 {
		c.HostKeys = []string{"keys/ssh_host_ed25519_key"}
	}
	if lines["recording.min_free"] == 0 {
		c.Recording.MinFree = 512 << 20
	}
	if lines["recording.journal_size"] == 0 {
		c.Recording.JournalSize = 64 << 20
	}
	if lines["recording.journal_files"] == 0 {
		c.Recording.JournalFiles = 32
	}
	c.Recording.setSecondDefaults(lines)
	if lines["retention.days"] == 0 {
		c.Retention.Days = 400
	}
	c.setEvidenceDefaults(lines)
}

// anchorPaths makes every path absolute, so that a later change of the working directory changes nothing.
func (c *Config) anchorPaths(dir string) {
	anchor := func(path *string) {
		if *path != "" && !filepath.IsAbs(*path) {
			*path = filepath.Join(dir, *path)
		}
	}
	for _, p := range []*string{&c.State, &c.Socket, &c.CA.User, &c.CA.Host, &c.Keys.Master, &c.Keys.Node, &c.Keys.Journal,
		&c.Witness.Policy, &c.Witness.CA, &c.Syslog.CA, &c.Syslog.Certificate} {
		anchor(p)
	}
	for i := range c.HostKeys {
		anchor(&c.HostKeys[i])
	}
	if c.Recording.Dir == "" {
		c.Recording.Dir = filepath.Join(c.State, "recordings")
	}
	anchor(&c.Recording.Dir)
	if c.Recording.Journal == "" {
		c.Recording.Journal = filepath.Join(c.State, "journal")
	}
	anchor(&c.Recording.Journal)
	anchor(&c.Recording.SecondDir)
	switch {
	case c.Database == "":
		c.Database = filepath.Join(c.State, "sallyport.db")
	case !strings.Contains(c.Database, "://"):
		anchor(&c.Database)
	}
}

// check returns one *Error for each value that cannot be meant.
func (c *Config) check(lines map[string]int) []error {
	var faults []error
	fault := func(field, format string, args ...any) {
		line := lines[field]
		if line == 0 { // an item of a list, or a default
			line = lines[strings.SplitN(field, "[", 2)[0]]
		}
		faults = append(faults, &Error{File: c.File, Line: line, Field: field, Fault: fmt.Sprintf(format, args...)})
	}
	if c.Name == "" {
		fault("name", "is missing; it is the public name by which people reach the gate")
	} else if !validHostName(c.Name) {
		fault("name", "%q is no host name or IP address", c.Name)
	}
	if _, _, err := splitAddress(c.Listen); err != nil {
		fault("listen", "%v", err)
	}
	c.checkMetrics(fault)
	switch c.Profile {
	case "strict", "compat":
	default:
		fault("profile", "%q is no profile; it is strict or compat", c.Profile)
	}
	switch c.LogLevel {
	case "debug", "info", "warn", "error":
	default:
		fault("log_level", "%q is no level; it is debug, info, warn or error", c.LogLevel)
	}
	if strings.Contains(c.Database, "://") {
		u, err := url.Parse(c.Database)
		if err != nil || (u.Scheme != "postgres" && u.Scheme != "postgresql") {
			// The address may hold a password, so it is not repeated.
			fault("database", "must be a path for SQLite, or postgres://… for PostgreSQL")
		}
	}
	// 104 is the smallest limit of the systems in use (108 on Linux), and the bytes include an end mark.
	if len(c.Socket) > 103 {
		fault("socket", "the path %s is longer than the 103 bytes that a unix socket allows", c.Socket)
	}
	for i, s := range c.SourceAddress {
		if _, err := netip.ParsePrefix(s); err != nil {
			if _, err := netip.ParseAddr(s); err != nil {
				fault(fmt.Sprintf("source_address[%d]", i), "%q is no address or network in CIDR form", s)
			}
		}
	}
	if c.Retention.Days < MinimumRetentionDays {
		fault("retention.days", "%d is less than %d days; records must be kept for at least six months", c.Retention.Days, MinimumRetentionDays)
	}
	c.checkRecording(fault)
	c.checkEvidence(fault)
	c.Recording.checkSecond(fault)
	c.checkLimits(lines, fault)
	return faults
}

// The modes of recording.
const (
	ModeDurable = "durable" // shown once it would survive a failure of power
	ModeWritten = "written" // shown once it would survive the end of the process
)

func (c *Config) checkRecording(fault func(string, string, ...any)) {
	r := c.Recording
	if r.MinFree < 16<<20 {
		fault("recording.min_free", "%v is less than 16MiB; a node that fills its disk ends everyone's session", r.MinFree)
	}
	if r.Mode != ModeDurable && r.Mode != ModeWritten {
		fault("recording.mode", "%q is no mode; it is durable or written", r.Mode)
	}
	if r.JournalSize < 4<<20 || r.JournalSize > 1<<30 {
		fault("recording.journal_size", "%v is not between 4MiB and 1GiB", r.JournalSize)
	}
	if r.JournalFiles < 4 || r.JournalFiles > 4096 {
		fault("recording.journal_files", "%d is not between 4 and 4096", r.JournalFiles)
	}
	for _, dir := range []string{r.Dir, filepath.Join(c.State, "ledger"), filepath.Join(c.State, "ledger-keys")} {
		if filepath.Clean(dir) == filepath.Clean(r.Journal) {
			fault("recording.journal", "only the journal's own files may rest in %s", r.Journal)
		}
	}
}

func (c *Config) checkMetrics(fault func(string, string, ...any)) {
	if c.Metrics == "off" {
		return
	}
	host, _, err := splitAddress(c.Metrics)
	if err != nil {
		fault("metrics", "%v", err)
		return
	}
	addr, err := netip.ParseAddr(host)
	if host != "localhost" && (err != nil || !addr.IsLoopback()) {
		fault("metrics", "%q is no loopback address; health and metrics are for the node itself, put a proxy in front to carry them further", c.Metrics)
	}
}

func (c *Config) checkLimits(lines map[string]int, fault func(string, string, ...any)) {
	l := c.Limits
	for _, n := range []struct {
		field string
		value int64
		max   int64
	}{
		{"unauthenticated", int64(l.Unauthenticated), 100_000},
		{"unauthenticated_per_source", int64(l.UnauthenticatedPerSource), 100_000},
		{"connections", int64(l.Connections), 1_000_000},
		{"channels", int64(l.Channels), 1000},
		{"keep_alive_missed", int64(l.KeepAliveMissed), 100},
		{"pre_auth_bytes", int64(l.PreAuthBytes), 16 << 20},
		{"environment_bytes", int64(l.EnvironmentBytes), 1 << 20},
		{"command_bytes", int64(l.CommandBytes), 1 << 20},
		{"handshake_time", int64(l.HandshakeTime), int64(time.Hour)},
		{"key_time", int64(l.KeyTime), int64(time.Hour)},
		{"factor_time", int64(l.FactorTime), int64(time.Hour)},
		{"keep_alive", int64(l.KeepAlive), int64(24 * time.Hour)},
		{"drain", int64(l.Drain), int64(30 * 24 * time.Hour)},
	} {
		if lines["limits."+n.field] == 0 {
			continue
		}
		if n.value <= 0 || n.value > n.max {
			fault("limits."+n.field, "must be more than nothing and at most %s", limitText(n.field, n.max))
		}
	}
}

func limitText(field string, max int64) string {
	switch {
	case strings.HasSuffix(field, "_bytes"):
		return Size(max).String()
	case strings.HasSuffix(field, "_time"), field == "keep_alive", field == "drain":
		return time.Duration(max).String()
	}
	return strconv.FormatInt(max, 10)
}

func splitAddress(address string) (host, port string, err error) {
	host, port, err = net.SplitHostPort(address)
	if err != nil {
		return "", "", fmt.Errorf("%q is no address of the form HOST:PORT", address)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || strconv.FormatUint(n, 10) != port {
		return "", "", fmt.Errorf("%q has no port between 0 and 65535", address)
	}
	return host, port, nil
}

func validHostName(name string) bool {
	if _, err := netip.ParseAddr(name); err == nil {
		return true
	}
	if len(name) > 253 || strings.HasPrefix(name, "-") || strings.HasPrefix(name, ".") {
		return false
	}
	for _, r := range name {
		switch {
		case 'a' <= r && r <= 'z', 'A' <= r && r <= 'Z', '0' <= r && r <= '9', r == '-', r == '.':
		default:
			return false
		}
	}
	return true
}
