package console

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/crypto/ssh"

	"sallyport/authz"
)

func (k *call) caNoun() *cobra.Command {
	c := verb("show [WHICH]", "Print public keys: users, hosts or node; all by default", func(c *cobra.Command, args []string) error {
		lines, err := k.publicLines()
		if err != nil {
			return err
		}
		if len(args) > 0 {
			for _, l := range lines {
				if l.Name == args[0] {
					return k.done(l, "%s", l.Line)
				}
			}
			if args[0] == "hosts" {
				return notFound("this node does not hold the gate's host CA")
			}
			return Usagef("%q is no key here; it is users, hosts or node", args[0])
		}
		if k.json {
			return k.printJSON(lines)
		}
		for _, l := range lines {
			fmt.Fprintf(k.out, "# %s\n%s\n", l.For, l.Line)
		}
		return nil
	})
	return noun("ca", "Public keys of the gate: its authorities and its signing key", c)
}

// publicLine is one public key of the gate and what it is for.
type publicLine struct {
	Name string `json:"name"`
	For  string `json:"for"`
	Line string `json:"line"`
}

func (k *call) publicLines() ([]publicLine, error) {
	lines := []publicLine{{"users", "TrustedUserCAKeys of data servers", PublicLine(k.UserCA)}}
	if k.HostCA != nil {
		lines = append(lines, publicLine{"hosts", "known_hosts of people", KnownHostsLine(k.Name, k.Port, k.HostCA)})
	}
	node, err := ssh.NewPublicKey(k.NodeKey)
	if err != nil {
		return nil, fmt.Errorf("node key: %w", err)
	}
	return append(lines, publicLine{"node", "sallyport verify --key, for recordings, ledger and checkpoints", PublicLine(node) + " " + k.Node}), nil
}

// Status is what `status` prints.
type Status struct {
	Name      string    `json:"name"`
	Node      string    `json:"node"`
	Version   string    `json:"version"`
	StartedAt time.Time `json:"started_at"`
	Accepting bool      `json:"accepting_sessions"`
	WhyNot    string    `json:"why_not,omitempty"`
	Sequence  int64     `json:"ledger_sequence"`
	Live      int       `json:"live_sessions"` // that the caller may see
	Waiting   int       `json:"requests_waiting"`
	// Epochs are keys that end soon, or have ended, without a next one, of projects that the caller may know of.
	Epochs []authz.ExpiringEpoch `json:"epochs_ending"`
	// Warnings are what is wrong with the node, for those with a site role: witnesses, second copies, stored recordings.
	Warnings []string `json:"warnings"`
}

func (k *call) statusVerb() *cobra.Command {
	return verb("status", "How the node is", func(c *cobra.Command, args []string) error {
		s := Status{Name: k.Name, Node: k.Node, Version: k.Version, StartedAt: k.started, Accepting: true, Sequence: k.Ledger.Last()}
		if k.Health != nil {
			if err := k.Health(); err != nil {
				s.Accepting, s.WhyNot = false, Cause(err)
			}
		}
		live, err := k.Authority.Sessions(c.Context(), k.by(), authz.SessionQuery{Live: true})
		if err != nil {
			return err
		}
		requests, err := k.Authority.Requests(c.Context(), k.by(), false)
		if err != nil {
			return err
		}
		s.Live, s.Waiting = len(live), len(requests)
		if s.Epochs, err = k.Authority.ExpiringEpochs(c.Context(), k.by()); err != nil {
			return err
		}
		if s.Warnings, err = k.warnings(c); err != nil {
			return err
		}
		if k.json {
			return k.printJSON(s)
		}
		var f facts
		f.add("gate", s.Name)
		f.add("node", s.Node)
		f.add("version", s.Version)
		f.add("up since", second(s.StartedAt))
		f.add("takes sessions", yesNo(s.Accepting))
		f.addIf("because", s.WhyNot)
		f.add("ledger", count(int(s.Sequence), "event"))
		f.add("live sessions", fmt.Sprintf("%d that you may see", s.Live))
		f.add("requests", fmt.Sprintf("%d waiting that concern you", s.Waiting))
		for _, e := range s.Epochs {
			f.add("warning", e.String())
		}
		for _, w := range s.Warnings {
			f.add("warning", w)
		}
		f.write(k)
		return nil
	})
}

// warnings are what is wrong with the node, if the caller has a site role.
func (k *call) warnings(c *cobra.Command) ([]string, error) {
	u, err := k.Authority.User(c.Context(), k.by().User)
	if err != nil {
		return nil, err
	}
	var all []string
	if u.SiteRole == "" {
		return list(all), nil
	}
	if k.Warnings != nil {
		all = k.Warnings()
	}
	if k.Vault == nil {
		return list(all), nil
	}
	b := k.Vault.Backlog()
	if b.Err != nil {
		all = append(all, fmt.Sprintf("%s without a second copy (%s): %s", count(b.Files, "recording"), byteCount(b.Bytes), Cause(b.Err)))
	}
	if b.Faulty > 0 {
		all = append(all, fmt.Sprintf("%s lost or of another size; `scrub` and the log tell more", count(b.Faulty, "second copy", "second copies")))
	}
	if last, ok := k.Vault.LastScrub(); ok && !last.Intact() {
		all = append(all, fmt.Sprintf("the last check of stored recordings found %s; `scrub` names them", count(int(last.Faults), "fault")))
	}
	return list(all), nil
}

func (k *call) versionVerb() *cobra.Command {
	return verb("version", "Print the version of the node's program", func(c *cobra.Command, args []string) error {
		return k.done(map[string]string{"version": k.Version}, "sallyport %s", k.Version)
	})
}

// Self is what `whoami` prints.
type Self struct {
	User        authz.User     `json:"user"`
	Connection  string         `json:"connection"`
	Via         string         `json:"via"`
	RemoteAddr  string         `json:"remote_addr"`
	Fingerprint string         `json:"fingerprint,omitempty"`
	Factors     []authz.Factor `json:"factors"`
	Terms       string         `json:"terms"` // accepted, not accepted, or none
}

func (k *call) whoamiVerb() *cobra.Command {
	return verb("whoami", "Who I am here, and by which key and factor", func(c *cobra.Command, args []string) error {
		u, err := k.Authority.User(c.Context(), k.by().User)
		if err != nil {
			return err
		}
		terms, _, err := k.Authority.Terms(c.Context())
		if err != nil {
			return err
		}
		id := k.verb.Identity
		s := Self{User: u, Connection: id.Connection, Via: id.Via, RemoteAddr: k.by().RemoteAddr, Fingerprint: id.Fingerprint, Factors: list(id.Factors), Terms: "accepted"}
		switch {
		case terms == "":
			s.Terms = "none"
		case terms != u.TermsVersion:
			s.Terms = "not accepted"
		}
		if k.json {
			return k.printJSON(s)
		}
		var f facts
		f.add("user", u.Name)
		f.addIf("name", u.Display)
		f.addIf("site role", string(u.SiteRole))
		f.addIf("key", s.Fingerprint)
		for _, factor := range s.Factors {
			f.add("factor", string(factor.Kind)+" at "+second(factor.At))
		}
		f.add("from", s.RemoteAddr+" by "+s.Via)
		f.add("connection", s.Connection)
		f.add("terms", s.Terms)
		f.add("training until", day(u.TrainingUntil))
		f.write(k)
		return nil
	})
}
