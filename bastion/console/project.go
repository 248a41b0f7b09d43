package console

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"sallyport/authz"
)

func (k *call) projectNoun() *cobra.Command {
	return noun("project", "Projects", k.projectAdd(), k.projectLs(), k.projectShow(), k.projectSet())
}

// projectFlags are what add and set share; only flags that were given change something.
type projectFlags struct {
	title, level, state, from, until, window string
	networks, approve                        []string
	training, sealCommands                   bool
}

func (f *projectFlags) register(c *cobra.Command) {
	c.Flags().StringVar(&f.title, "title", "", "full name of the project")
	c.Flags().StringVar(&f.level, "level", "type1", "type1 or type2")
	c.Flags().StringVar(&f.from, "from", "", "data may be used from; none for no bound")
	c.Flags().StringVar(&f.until, "until", "", "data may be used until; none for no bound")
	c.Flags().StringSliceVar(&f.networks, "network", nil, "source network in CIDR form that people may come from (repeat); any for all")
	c.Flags().BoolVar(&f.training, "training", false, "people need valid training")
	c.Flags().BoolVar(&f.sealCommands, "seal-commands", false, "keep the text of commands out of events and lists: only recordings have it")
	c.Flags().StringArrayVar(&f.approve, "approve", nil, "level that approves operators' sessions, in series (repeat): ROLE[:QUORUM] or NAME=ROLE[:QUORUM], ROLE of the project or the site")
	c.Flags().StringVar(&f.window, "grant-window", "", "how long an approved session may be started and last, such as 8h")
}

// apply changes what was given on the command line.
func (k *call) apply(f *projectFlags, c *cobra.Command, p *authz.Project) error {
	given := c.Flags().Changed
	if given("title") {
		p.Title = f.title
	}
	if given("level") || p.Level == "" {
		if f.level != "type1" && f.level != "type2" {
			return Usagef("--level %q is no level; it is type1 or type2", f.level)
		}
		p.Level = f.level
	}
	if given("state") {
		if f.state != "active" && f.state != "closed" {
			return Usagef("--state %q is no state; it is active or closed", f.state)
		}
		p.State = f.state
	}
	if given("training") {
		p.Training = f.training
	}
	if given("seal-commands") {
		p.SealCommands = f.sealCommands
	}
	for _, bound := range []struct {
		flag, text string
		set        *time.Time
	}{{"from", f.from, &p.From}, {"until", f.until, &p.Until}} {
		if given(bound.flag) {
			t, err := k.moment(bound.flag, bound.text)
			if err != nil {
				return err
			}
			*bound.set = t
		}
	}
	if given("network") {
		networks, err := parseNetworks(f.networks)
		if err != nil {
			return err
		}
		p.Networks = networks
	}
	if given("approve") {
		p.Levels = nil
		for _, text := range f.approve {
			level, err := parseLevel(text)
			if err != nil {
				return err
			}
			p.Levels = append(p.Levels, level)
		}
	}
	if given("grant-window") {
		d, err := duration("grant-window", f.window)
		if err != nil {
			return err
		}
		p.GrantWindow = d
	}
	return nil
}

func parseNetworks(texts []string) ([]netip.Prefix, error) {
	if len(texts) == 1 && texts[0] == "any" {
		return nil, nil
	}
	var networks []netip.Prefix
	for _, text := range texts {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			addr, err := netip.ParseAddr(text)
			if err != nil {
				return nil, Usagef("--network %q is no network in CIDR form", text)
			}
			p = netip.PrefixFrom(addr, addr.BitLen())
		}
		networks = append(networks, p.Masked())
	}
	return networks, nil
}

// parseLevel reads [NAME=]ROLE[:QUORUM]. The names of project and site roles
// do not overlap, so one word says who votes.
func parseLevel(text string) (authz.Level, error) {
	name, rest, named := strings.Cut(text, "=")
	if !named {
		rest = text
	}
	role, quorum, counted := strings.Cut(rest, ":")
	level := authz.Level{Name: role, Quorum: 1}
	if named {
		level.Name = name
	}
	if counted {
		n, err := strconv.Atoi(quorum)
		if err != nil || n < 1 || n > 100 {
			return level, Usagef("--approve %q: the quorum is a number from 1 to 100", text)
		}
		level.Quorum = n
	}
	switch site := authz.SiteRole(role); site {
	case authz.SiteAdmin, authz.SiteSecurity, authz.SiteAuditor:
		level.Site = site
		return level, nil
	}
	if !slices.Contains(authz.Roles(), authz.Role(role)) {
		return level, Usagef("--approve %q: %q is no role of a project or the site", text, role)
	}
	level.Eligible = authz.Role(role)
	return level, nil
}

func levelText(levels []authz.Level) string {
	var parts []string
	for _, l := range levels {
		who := string(l.Eligible)
		if who == "" {
			who = string(l.Site)
		}
		part := strconv.Itoa(l.Quorum) + " x " + who
		if l.Name != who && l.Name != "" {
			part = l.Name + ": " + part
		}
		parts = append(parts, part)
	}
	return strings.Join(parts, ", then ")
}

func (k *call) projectAdd() *cobra.Command {
	var f projectFlags
	c := verb("add NAME", "Add a project", func(c *cobra.Command, args []string) error {
		p := authz.Project{Name: args[0]}
		if err := k.apply(&f, c, &p); err != nil {
			return err
		}
		if err := k.Authority.AddProject(c.Context(), k.by(), p); err != nil {
			return err
		}
		return k.doneProject(c, args[0], "added project %s", args[0])
	})
	f.register(c)
	c.Example = "  project add genomics --title '\"Genome study\"' --until 2027-03-31 --approve manager --approve security-admin"
	return c
}

func (k *call) doneProject(c *cobra.Command, name, format string, args ...any) error {
	p, err := k.Authority.Project(c.Context(), name)
	if err != nil {
		return err
	}
	return k.done(p, format, args...)
}

func (k *call) projectSet() *cobra.Command {
	var f projectFlags
	var reason string
	c := reasonFlag(verb("set NAME", "Change a project; only what is given changes", func(c *cobra.Command, args []string) error {
		p, err := k.visibleProject(c, args[0])
		if err != nil {
			return err
		}
		if err := k.apply(&f, c, &p); err != nil {
			return err
		}
		if err := k.Authority.SetProject(c.Context(), k.by(), p, reason); err != nil {
			return err
		}
		return k.doneProject(c, args[0], "changed project %s", args[0])
	}), &reason)
	f.register(c)
	c.Flags().StringVar(&f.state, "state", "", "active or closed")
	return c
}

func (k *call) projectLs() *cobra.Command {
	return verb("ls", "List projects", func(c *cobra.Command, args []string) error {
		projects, err := k.Authority.Projects(c.Context(), k.by())
		if err != nil {
			return err
		}
		if k.json {
			return k.printJSON(list(projects))
		}
		t := table{heads: []string{"PROJECT", "TITLE", "LEVEL", "STATE", "FROM", "UNTIL"}, empty: "There are no projects that you may see."}
		for _, p := range projects {
			t.add(p.Name, dash(p.Title), p.Level, p.State, day(p.From), day(p.Until))
		}
		t.write(k)
		return nil
	})
}

// visibleProject returns a project that the caller may see.
func (k *call) visibleProject(c *cobra.Command, name string) (authz.Project, error) {
	projects, err := k.Authority.Projects(c.Context(), k.by())
	if err != nil {
		return authz.Project{}, err
	}
	for _, p := range projects {
		if p.Name == name {
			return p, nil
		}
	}
	return authz.Project{}, notFound("there is no project %q that you may see", name)
}

func (k *call) projectShow() *cobra.Command {
	return verb("show NAME", "Show a project", func(c *cobra.Command, args []string) error {
		p, err := k.visibleProject(c, args[0])
		if err != nil {
			return err
		}
		if k.json {
			return k.printJSON(p)
		}
		var networks []string
		for _, n := range p.Networks {
			networks = append(networks, n.String())
		}
		var f facts
		f.add("project", p.Name)
		f.addIf("title", p.Title)
		f.add("level", p.Level)
		f.add("state", p.State)
		f.add("data-use period", day(p.From)+" to "+day(p.Until))
		if len(networks) == 0 {
			networks = []string{"any"}
		}
		f.add("networks", strings.Join(networks, ", "))
		f.add("training needed", yesNo(p.Training))
		f.add("commands sealed", yesNo(p.SealCommands))
		f.add("session approval", dash(levelText(p.Levels)))
		f.add("grant window", p.GrantWindow.String())
		f.add("created", minute(p.CreatedAt))
		f.write(k)
		return nil
	})
}
