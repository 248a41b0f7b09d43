package witness

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"sallyport/recorder/tlog"

	"golang.org/x/mod/sumdb/note"
)

const (
	maxPolicy       = 64 << 10
	maxPolicyThings = 256 // logs, witnesses and groups
)

// Policy says which logs are known and which cosignatures make a checkpoint
// good (C2SP tlog-policy).
type Policy struct {
	Logs      []PolicyLog
	Witnesses []PolicyWitness
	quorum    string // empty for none
	groups    map[string]group
	ignored   map[string]string // witness -> why it counts as none
}

// PolicyLog is a log whose checkpoints are accepted.
type PolicyLog struct {
	Verifier note.Verifier // its name is the origin
	URL      string
}

// PolicyWitness is a witness under its name in the policy.
type PolicyWitness struct {
	Name     string
	Verifier note.Verifier
	URL      string // submission prefix
}

type group struct {
	threshold int
	members   []string
}

// ParsePolicy reads a policy file.
func ParsePolicy(text []byte) (*Policy, error) {
	if len(text) > maxPolicy {
		return nil, fmt.Errorf("a policy of %d bytes is too large", len(text))
	}
	p := &Policy{groups: map[string]group{}, ignored: map[string]string{}}
	b := policyBuilder{p: p, names: map[string]bool{"none": true}, used: map[string]bool{}, keys: map[string]bool{}}
	for i, line := range strings.Split(string(text), "\n") {
		fields := strings.FieldsFunc(line, func(r rune) bool { return r == ' ' || r == '\t' })
		if len(fields) == 0 || strings.HasPrefix(fields[0], "#") {
			continue
		}
		if err := b.line(fields); err != nil {
			return nil, fmt.Errorf("policy, line %d: %w", i+1, err)
		}
	}
	if !b.quorum {
		return nil, errors.New("policy: there is no quorum line")
	}
	return p, nil
}

type policyBuilder struct {
	p      *Policy
	names  map[string]bool
	used   map[string]bool // as a member of a group
	keys   map[string]bool
	quorum bool
}

func (b *policyBuilder) line(f []string) error {
	if len(b.names)+len(b.p.Logs) > maxPolicyThings {
		return fmt.Errorf("more than %d logs, witnesses and groups", maxPolicyThings)
	}
	switch {
	case f[0] == "log" && (len(f) == 2 || len(f) == 3):
		return b.log(f[1], optional(f, 2))
	case f[0] == "witness" && (len(f) == 3 || len(f) == 4):
		return b.witness(f[1], f[2], optional(f, 3))
	case f[0] == "group" && len(f) >= 4:
		return b.group(f[1], f[2], f[3:])
	case f[0] == "quorum" && len(f) == 2:
		if b.quorum || !b.names[f[1]] {
			return errors.New("the quorum is there twice, or names nothing that was defined before")
		}
		b.quorum = true
		if f[1] != "none" {
			b.p.quorum = f[1]
		}
		return nil
	}
	return fmt.Errorf("%q is not a line of a policy", f[0])
}

func optional(f []string, i int) string {
	if i < len(f) {
		return f[i]
	}
	return ""
}

func (b *policyBuilder) log(vkey, url string) error {
	v, err := note.NewVerifier(vkey)
	if err != nil {
		return err
	}
	if err := b.key(vkey); err != nil {
		return err
	}
	b.p.Logs = append(b.p.Logs, PolicyLog{Verifier: v, URL: url})
	return nil
}

func (b *policyBuilder) witness(name, vkey, url string) error {
	v, err := NewVerifier(vkey)
	if err != nil {
		return err
	}
	if err := b.key(vkey); err != nil {
		return err
	}
	if err := b.define(name); err != nil {
		return err
	}
	b.p.Witnesses = append(b.p.Witnesses, PolicyWitness{Name: name, Verifier: v, URL: url})
	return nil
}

// key refuses the same key twice, under whatever name: one witness must not
// count as two, nor the log as its own witness.
func (b *policyBuilder) key(vkey string) error {
	_, rest, _ := strings.Cut(vkey, "+")
	_, encoded, _ := strings.Cut(rest, "+")
	raw, err := decodeKey(encoded)
	if err != nil {
		return err
	}
	if b.keys[raw] {
		return errors.New("the same key is there twice")
	}
	b.keys[raw] = true
	return nil
}

func (b *policyBuilder) define(name string) error {
	if b.names[name] {
		return fmt.Errorf("%q is defined twice", name)
	}
	b.names[name] = true
	return nil
}

func (b *policyBuilder) group(name, threshold string, members []string) error {
	g := group{members: members}
	switch threshold {
	case "all":
		g.threshold = len(members)
	case "any":
		g.threshold = 1
	default:
		k, err := strconv.Atoi(threshold)
		if err != nil || k < 1 || k > len(members) || strconv.Itoa(k) != threshold {
			return fmt.Errorf("%q is not a number from 1 to %d", threshold, len(members))
		}
		g.threshold = k
	}
	for _, m := range members {
		if m == "none" || !b.names[m] || b.used[m] {
			return fmt.Errorf("member %q was not defined before, or is in a group already", m)
		}
		b.used[m] = true
	}
	if err := b.define(name); err != nil {
		return err
	}
	b.p.groups[name] = g
	return nil
}

// Ignore makes a witness count as none, and says why: because it runs on the
// log's own host, and so falls with it.
func (p *Policy) Ignore(witness, why string) { p.ignored[witness] = why }

// Verdict tells who cosigned a checkpoint.
type Verdict struct {
	Checkpoint tlog.Checkpoint
	Cosigned   []string          // witnesses that count
	Ignored    map[string]string // witnesses that cosigned and do not count, and why
	Enough     bool              // the quorum is met
}

// Check verifies a cosigned checkpoint offline: signed by a log of the policy,
// and by whom else. It is an error when no log of the policy signed it; too
// few witnesses are in the verdict.
func (p *Policy) Check(signed []byte) (Verdict, error) {
	origin, _, _ := strings.Cut(string(signed), "\n")
	var logs []note.Verifier
	for _, l := range p.Logs {
		if l.Verifier.Name() == origin {
			logs = append(logs, l.Verifier)
		}
	}
	if len(logs) == 0 {
		return Verdict{}, fmt.Errorf("the policy has no log %q", origin)
	}
	c, _, err := tlog.OpenCheckpoint(signed, origin, logs...)
	if err != nil {
		return Verdict{}, err
	}
	v := Verdict{Checkpoint: c, Ignored: map[string]string{}}
	good := map[string]bool{}
	for _, w := range p.Witnesses {
		// One at a time: a broken signature of one witness must not hide the others.
		if _, _, err := tlog.OpenCheckpoint(signed, origin, w.Verifier); err != nil {
			continue
		}
		if why, ok := p.ignored[w.Name]; ok {
			v.Ignored[w.Name] = why
			continue
		}
		v.Cosigned = append(v.Cosigned, w.Name)
		good[w.Name] = true
	}
	v.Enough = p.quorum == "" || p.met(p.quorum, good)
	return v, nil
}

func (p *Policy) met(name string, good map[string]bool) bool {
	g, ok := p.groups[name]
	if !ok {
		return good[name]
	}
	count := 0
	for _, m := range g.members {
		if p.met(m, good) {
			count++
		}
	}
	return count >= g.threshold
}
