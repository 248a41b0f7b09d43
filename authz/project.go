package authz

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"sallyport/internal/database"
)

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
	// SealCommands keeps the text of commands out of events and tables: only the recordings have it.
	SealCommands bool      `json:"seal_commands"`
	CreatedAt    time.Time `json:"created_at"`
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

// Levels and states of a project.
const (
	LevelType1    = "type1"
	LevelType2    = "type2"
	ProjectActive = "active"
	ProjectClosed = "closed"
)

const (
	defaultGrantWindow = 8 * time.Hour
	longestGrantWindow = 24 * time.Hour
)

// defaultLevels approve an operator's session where a project names no levels of its own.
func defaultLevels() []Level {
	return []Level{
		{Name: "project manager", Eligible: RoleManager, Quorum: 1},
		{Name: "security administrator", Site: SiteSecurity, Quorum: 1},
	}
}

const selectProjects = `SELECT name, title, level, state, period_from, period_until, networks, training, levels,
	grant_window, seal_commands, created_at FROM projects `

func scanProject(row database.Scanner) (Project, error) {
	var (
		p                            Project
		from, until, window, created int64
		networks, levels             string
	)
	err := row.Scan(&p.Name, &p.Title, &p.Level, &p.State, &from, &until, &networks, &p.Training, &levels, &window, &p.SealCommands, &created)
	if errors.Is(err, sql.ErrNoRows) {
		return Project{}, ErrNotFound
	}
	if err != nil {
		return Project{}, fmt.Errorf("load a project: %w", err)
	}
	err = errors.Join(json.Unmarshal([]byte(networks), &p.Networks), json.Unmarshal([]byte(levels), &p.Levels))
	if err != nil {
		return Project{}, fmt.Errorf("load project %s: %w", p.Name, err)
	}
	p.From, p.Until, p.CreatedAt = fromMilliseconds(from), fromMilliseconds(until), fromMilliseconds(created)
	p.GrantWindow = time.Duration(window) * time.Millisecond
	return p, nil
}

func loadProject(tx database.Tx, name string) (Project, error) {
	return scanProject(tx.QueryRow(selectProjects+"WHERE name = $1", column(name)))
}

func loadProjects(tx database.Tx) ([]Project, error) {
	var projects []Project
	err := tx.Each(func(row database.Scanner) error {
		p, err := scanProject(row)
		projects = append(projects, p)
		return err
	}, selectProjects)
	slices.SortFunc(projects, func(x, y Project) int { return compare(x.Name, y.Name) })
	return projects, err
}

// project loads the project that an act is about, and makes the act's event one of that project.
func (w *work) project(name string) (Project, error) {
	p, err := loadProject(w.tx, name)
	if errors.Is(err, ErrNotFound) {
		return Project{}, fmt.Errorf("project %q: %w", name, ErrNotFound)
	}
	w.event.Project = p.Name
	return p, err
}

// check completes a project with defaults and denies what makes no sense.
func (p *Project) check() error {
	if !ValidProjectName(p.Name) {
		return deny("input.project", "A project name has 1 to 32 of a-z, 0-9 and '-', and begins with a letter.", "")
	}
	if err := checkText("title", p.Title, 0); err != nil {
		return err
	}
	if p.Level == "" {
		p.Level = LevelType1
	}
	if p.State == "" {
		p.State = ProjectActive
	}
	if p.GrantWindow == 0 {
		p.GrantWindow = defaultGrantWindow
	}
	if len(p.Levels) == 0 {
		p.Levels = defaultLevels()
	}
	switch {
	case p.Level != LevelType1 && p.Level != LevelType2:
		return deny("input.level", "A project's level is type1 or type2.", "")
	case p.State != ProjectActive && p.State != ProjectClosed:
		return deny("input.state", "A project is active or closed.", "")
	case !p.From.IsZero() && !p.Until.IsZero() && !p.From.Before(p.Until):
		return deny("input.period", "The data-use period ends before it begins.", "")
	case p.GrantWindow < time.Minute || p.GrantWindow > longestGrantWindow:
		return deny("input.window", "A grant lasts from one minute to 24 hours.", "")
	}
	for i, prefix := range p.Networks {
		if !prefix.IsValid() {
			return deny("input.network", "A source network is written like 192.0.2.0/24.", "")
		}
		p.Networks[i] = prefix.Masked()
	}
	return checkLevels(p.Levels)
}

func checkLevels(levels []Level) error {
	for i, level := range levels {
		permissions, known := level.Eligible.Permissions()
		switch {
		case checkText("name of a level", level.Name, 1) != nil:
			return deny("input.levels", fmt.Sprintf("Level %d needs a name.", i+1), "")
		case (level.Eligible == "") == (level.Site == ""):
			return deny("input.levels", fmt.Sprintf("Level %d must name either a role of the project or a site role.", i+1), "")
		case level.Eligible != "" && (!known || !permissions.Has(PermDecide)):
			return deny("input.levels", fmt.Sprintf("Level %d names the role %s, which has no vote.", i+1, level.Eligible), "")
		case level.Site != "" && checkSiteRole(level.Site) != nil:
			return deny("input.levels", fmt.Sprintf("Level %d names an unknown site role.", i+1), "")
		case level.Quorum < 1 || level.Quorum > 20:
			return deny("input.levels", fmt.Sprintf("Level %d needs a quorum of 1 to 20.", i+1), "")
		}
	}
	return nil
}

// columns are the project's values as the database holds them, but for the name and the creation.
func (p Project) columns() ([]any, error) {
	if p.Networks == nil {
		p.Networks = []netip.Prefix{}
	}
	networks, err := json.Marshal(p.Networks)
	if err != nil {
		return nil, err
	}
	levels, err := json.Marshal(p.Levels)
	if err != nil {
		return nil, err
	}
	return []any{p.Title, p.Level, p.State, milliseconds(p.From), milliseconds(p.Until), string(networks), p.Training,
		string(levels), p.GrantWindow.Milliseconds(), p.SealCommands}, nil
}

func projectEvent(opType, project string) Event {
	if project == "" {
		project = "-"
	}
	return Event{OpType: opType, ResourceType: "project", ResourceID: project}
}

// AddProject adds a project. An administrator may do it.
func (a *Authority) AddProject(ctx context.Context, by Actor, p Project) error {
	return a.change(ctx, by, projectEvent("project.add", p.Name), func(w *work) error {
		if _, err := w.need("add projects", SiteAdmin); err != nil {
			return err
		}
		if err := p.check(); err != nil {
			return err
		}
		if !p.Until.IsZero() && !w.now.Before(p.Until) {
			return deny("input.period", "The data-use period of a new project must end in the future.", "")
		}
		values, err := p.columns()
		if err != nil {
			return err
		}
		n, err := w.tx.Exec(`INSERT INTO projects (name, title, level, state, period_from, period_until, networks, training,
				levels, grant_window, seal_commands, created_at)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) ON CONFLICT (name) DO NOTHING`,
			slices.Concat([]any{p.Name}, values, []any{milliseconds(w.now)})...)
		if err != nil {
			return err
		}
		if n == 0 {
			return deny("project.exists", fmt.Sprintf("There is already a project %s.", p.Name), "")
		}
		w.event.Project = p.Name
		p.CreatedAt = w.now
		return w.done(map[string]any{"project": p})
	})
}

// SetProject changes a project. An administrator may do it; the event holds what was before.
func (a *Authority) SetProject(ctx context.Context, by Actor, p Project, reason string) error {
	return a.change(ctx, by, projectEvent("project.set", p.Name), func(w *work) error {
		if _, err := w.need("change projects", SiteAdmin); err != nil {
			return err
		}
		before, err := w.project(p.Name)
		if err != nil {
			return err
		}
		if err := errors.Join(p.check(), checkText("reason", reason, minNote)); err != nil {
			return err
		}
		values, err := p.columns()
		if err != nil {
			return err
		}
		_, err = w.tx.Exec(`UPDATE projects SET title = $1, level = $2, state = $3, period_from = $4, period_until = $5,
			networks = $6, training = $7, levels = $8, grant_window = $9, seal_commands = $10 WHERE name = $11`, append(values, p.Name)...)
		if err != nil {
			return err
		}
		p.CreatedAt = before.CreatedAt
		return w.done(map[string]any{"project": p, "before": before, "reason": reason})
	})
}

// seesProject reports whether the asker may know that a project exists: people with a site
// role, and its live members.
func seesProject(tx database.Tx, by Actor, project string, now time.Time) (bool, error) {
	asker, err := loadActor(tx, by)
	if err != nil || by.unbound() || asker.SiteRole != NoSiteRole {
		return err == nil, err
	}
	members, err := loadMemberships(tx, "user_name = ? AND project = ?", asker.Name, column(project))
	return slices.ContainsFunc(members, func(m Membership) bool { return m.live(now) }), err
}

// seenProjects are the projects that the actor may know of, by name.
func seenProjects(tx database.Tx, by Actor, now time.Time) (seen []Project, err error) {
	all, err := loadProjects(tx)
	if err != nil {
		return nil, err
	}
	for _, p := range all {
		sees, err := seesProject(tx, by, p.Name, now)
		if err != nil {
			return nil, err
		}
		if sees {
			seen = append(seen, p)
		}
	}
	return seen, nil
}

// ofProject names the project of that name, or with "" every one that the actor may know of.
// ErrNotFound for a project that the actor may not know of.
func ofProject(tx database.Tx, by Actor, project string, now time.Time) (names []string, err error) {
	if project == "" {
		seen, err := seenProjects(tx, by, now)
		for _, p := range seen {
			names = append(names, p.Name)
		}
		return names, err
	}
	sees, err := seesProject(tx, by, project, now)
	if err != nil {
		return nil, err
	}
	switch _, err := loadProject(tx, project); {
	case errors.Is(err, ErrNotFound), err == nil && !sees:
		return nil, fmt.Errorf("project %q: %w", beginning(column(project), maxField), ErrNotFound)
	case err != nil:
		return nil, err
	}
	return []string{project}, nil
}

// Projects lists projects: all for those with a site role, else those that the actor is a member of.
func (a *Authority) Projects(ctx context.Context, by Actor) ([]Project, error) {
	var projects []Project
	err := a.db.Read(ctx, func(tx database.Tx) (err error) {
		projects, err = seenProjects(tx, by, a.now())
		return err
	})
	return projects, a.answer(ctx, by, projectEvent("project.list", ""), err)
}

// Project returns a project, or ErrNotFound. It is for the program itself and asks for no right.
func (a *Authority) Project(ctx context.Context, name string) (project Project, err error) {
	err = a.db.Read(ctx, func(tx database.Tx) error {
		project, err = loadProject(tx, name)
		return err
	})
	return project, err
}

func serverEvent(opType, project, name string) Event {
	return Event{OpType: opType, ResourceType: "server", ResourceID: project + "/" + name}
}

const selectServers = "SELECT project, name, address, host_key, host_ca, created_at FROM servers "

func loadServers(tx database.Tx, project string) ([]Server, error) {
	var servers []Server
	err := tx.Each(func(row database.Scanner) error {
		var (
			s       Server
			created int64
		)
		err := row.Scan(&s.Project, &s.Name, &s.Address, &s.HostKey, &s.HostCA, &created)
		s.CreatedAt = fromMilliseconds(created)
		servers = append(servers, s)
		return err
	}, selectServers+"WHERE project = $1", column(project))
	slices.SortFunc(servers, func(x, y Server) int { return compare(x.Name, y.Name) })
	return servers, err
}

// checkHostKeys brings a pin and a host authority to plain authorized_keys form. One of them is needed.
func checkHostKeys(hostKey, hostCA string) (string, string, error) {
	if strings.TrimSpace(hostKey) == "" && strings.TrimSpace(hostCA) == "" {
		return "", "", deny("input.host-key", "A server needs its host key, or the authority that signs its host certificate.", "")
	}
	var plain [2]string
	for i, line := range []string{hostKey, hostCA} {
		if strings.TrimSpace(line) == "" {
			continue
		}
		key, _, err := parseKey(line)
		if err != nil {
			return "", "", deny("input.host-key", "A host key is given on one line, as in a .pub file.", "")
		}
		if _, certificate := key.(*ssh.Certificate); certificate {
			return "", "", deny("input.host-key", "Give the host key or the authority's key, not a certificate.", "")
		}
		plain[i] = strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key)))
	}
	return plain[0], plain[1], nil
}

func checkAddress(address string) error {
	host, port, err := net.SplitHostPort(address)
	number, portErr := strconv.Atoi(port)
	if err != nil || portErr != nil || number < 1 || number > 65535 || host == "" || len(address) > 255 ||
		strings.ContainsFunc(host, func(r rune) bool { return r <= ' ' || r >= 0x7f || strings.ContainsRune(`/@"'\`, r) }) {
		return deny("input.address", "A server's address is written host:port.", "")
	}
	return nil
}

// AddServer adds a data server to a project. An administrator may do it.
func (a *Authority) AddServer(ctx context.Context, by Actor, s Server) error {
	return a.change(ctx, by, serverEvent("server.add", s.Project, s.Name), func(w *work) error {
		if _, err := w.need("add servers", SiteAdmin); err != nil {
			return err
		}
		if _, err := w.project(s.Project); err != nil {
			return err
		}
		if !serverName.MatchString(s.Name) {
			return deny("input.server", "A server name has 1 to 63 of a-z, 0-9 and '-', and begins with a letter.", "")
		}
		if err := checkAddress(s.Address); err != nil {
			return err
		}
		hostKey, hostCA, err := checkHostKeys(s.HostKey, s.HostCA)
		if err != nil {
			return err
		}
		n, err := w.tx.Exec(`INSERT INTO servers (project, name, address, host_key, host_ca, created_at)
			VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (project, name) DO NOTHING`,
			s.Project, s.Name, s.Address, hostKey, hostCA, milliseconds(w.now))
		if err != nil {
			return err
		}
		if n == 0 {
			return deny("server.exists", fmt.Sprintf("The project %s has a server %s already.", s.Project, s.Name), "")
		}
		return w.done(map[string]any{"address": s.Address, "host_key": hostKey, "host_ca": hostCA})
	})
}

// SetServerHostKey replaces the pin after a changed host key was checked by hand.
func (a *Authority) SetServerHostKey(ctx context.Context, by Actor, project, name, hostKey, hostCA, reason string) error {
	return a.changeServer(ctx, by, "server.host-key", project, name, reason, func(w *work, before Server) (map[string]any, error) {
		hostKey, hostCA, err := checkHostKeys(hostKey, hostCA)
		if err != nil {
			return nil, err
		}
		_, err = w.tx.Exec("UPDATE servers SET host_key = $1, host_ca = $2 WHERE project = $3 AND name = $4",
			hostKey, hostCA, project, name)
		return map[string]any{"host_key": hostKey, "host_ca": hostCA,
			"before_key": before.HostKey, "before_ca": before.HostCA}, err
	})
}

// RemoveServer takes a data server from a project; live sessions on it end.
func (a *Authority) RemoveServer(ctx context.Context, by Actor, project, name, reason string) error {
	return a.changeServer(ctx, by, "server.remove", project, name, reason, func(w *work, before Server) (map[string]any, error) {
		_, err := w.tx.Exec("DELETE FROM servers WHERE project = $1 AND name = $2", project, name)
		return map[string]any{"address": before.Address}, err
	})
}

func (a *Authority) changeServer(ctx context.Context, by Actor, opType, project, name, reason string,
	fn func(w *work, before Server) (map[string]any, error)) error {
	return a.change(ctx, by, serverEvent(opType, project, name), func(w *work) error {
		if _, err := w.need("change servers", SiteAdmin); err != nil {
			return err
		}
		if _, err := w.project(project); err != nil {
			return err
		}
		if err := checkText("reason", reason, minNote); err != nil {
			return err
		}
		servers, err := loadServers(w.tx, project)
		if err != nil {
			return err
		}
		i := slices.IndexFunc(servers, func(s Server) bool { return s.Name == name })
		if i < 0 {
			return fmt.Errorf("server %q: %w", name, ErrNotFound)
		}
		details, err := fn(w, servers[i])
		if err != nil {
			return err
		}
		if err := w.endRequests(project, name, "the server was changed or removed: "+reason); err != nil {
			return err
		}
		details["reason"] = reason
		return w.done(details)
	})
}

// Servers lists a project's data servers for those who may know of the project; ErrNotFound for others.
// With "" it lists those of every project that the actor may know of.
func (a *Authority) Servers(ctx context.Context, by Actor, project string) ([]Server, error) {
	var servers []Server
	err := a.db.Read(ctx, func(tx database.Tx) error {
		servers = nil
		names, err := ofProject(tx, by, project, a.now())
		if err != nil {
			return err
		}
		for _, name := range names {
			some, err := loadServers(tx, name)
			if err != nil {
				return err
			}
			servers = append(servers, some...)
		}
		return nil
	})
	return servers, a.answer(ctx, by, projectEvent("server.list", project), err)
}

func notFoundUnless(ok bool) error {
	if ok {
		return nil
	}
	return ErrNotFound
}
