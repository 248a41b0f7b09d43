package config

import (
	"time"
)

// Witness says who on other hosts cosigns the ledger's checkpoints.
type Witness struct {
	// Policy is a file in the form of C2SP tlog-policy: this node's log, the
	// witnesses with their addresses, and how many are enough. "" for none.
	Policy     string        `yaml:"policy"`
	Interval   time.Duration `yaml:"interval"`    // between rounds
	AlarmAfter time.Duration `yaml:"alarm_after"` // without enough cosignatures
	// Alarm says what an alarm does: "tell" it, or also "refuse" new sessions.
	Alarm    string   `yaml:"alarm"`
	SameHost []string `yaml:"same_host"` // names of witnesses that run on this machine, and so count as none
	CA       string   `yaml:"ca"`        // PEM certificates that witnesses over https are verified with; "" for the system's
}

// Syslog says where checkpoints are shipped: RFC 5424 over TLS.
type Syslog struct {
	Address     string        `yaml:"address"`     // HOST:PORT; "" for none
	CA          string        `yaml:"ca"`          // PEM certificates that the server is verified with; "" for the system's
	Certificate string        `yaml:"certificate"` // PEM certificate and private key by which the node shows itself; "" for none
	Interval    time.Duration `yaml:"interval"`
}

// What an alarm does.
const (
	AlarmTell   = "tell"
	AlarmRefuse = "refuse"
)

func (c *Config) setEvidenceDefaults(lines map[string]int) {
	if lines["witness.interval"] == 0 {
		c.Witness.Interval = 5 * time.Second
	}
	if lines["witness.alarm_after"] == 0 {
		c.Witness.AlarmAfter = 15 * time.Minute
	}
	if c.Witness.Alarm == "" {
		c.Witness.Alarm = AlarmTell
	}
	if lines["syslog.interval"] == 0 {
		c.Syslog.Interval = 30 * time.Second
	}
}

func (c *Config) checkEvidence(fault func(string, string, ...any)) {
	w, s := c.Witness, c.Syslog
	if w.Interval < time.Second || w.Interval > time.Minute {
		fault("witness.interval", "%s is not between 1s and 1m", w.Interval)
	}
	if w.AlarmAfter < w.Interval || w.AlarmAfter > 24*time.Hour {
		fault("witness.alarm_after", "%s is not between the interval and 24h", w.AlarmAfter)
	}
	if w.Alarm != AlarmTell && w.Alarm != AlarmRefuse {
		fault("witness.alarm", "%q is not tell or refuse", w.Alarm)
	}
	if s.Interval < 10*time.Second || s.Interval > time.Minute {
		fault("syslog.interval", "%s is not between 10s and 1m", s.Interval)
	}
	if s.Address == "" {
		return
	}
	if host, _, err := splitAddress(s.Address); err != nil {
		fault("syslog.address", "%v", err)
	} else if host == "" {
		fault("syslog.address", "%q names no host", s.Address)
	}
}
