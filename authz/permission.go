package authz

import "strings"

// Permission is a set of bits that a membership carries. Roles are names for
// sets of them; a decision looks only at the bits.
type Permission uint32

const (
	// PermShell opens an interactive shell.
	PermShell Permission = 1 << iota
	// PermExec runs a command without a shell being asked for.
	PermExec
	// PermImport brings files in over SFTP.
	PermImport
	// PermExport takes files out over SFTP; each file is recorded.
	PermExport
	// PermEscrow asks for files to be let out: a download becomes a release request.
	PermEscrow
	// PermForward opens local forwarding to the project's allow-list.
	PermForward
	// PermByApproval makes every data permission of the membership wait for an approved request.
	PermByApproval
	// PermManage changes who is a member of the project.
	PermManage
	// PermDecide votes on requests of the project at its level.
	PermDecide
	// PermAudit reads all sessions, recordings and events of the project.
	PermAudit
	// PermList lists the project's sessions.
	PermList
)

// Role is the name of a set of permissions inside one project.
type Role string

// The roles of a project, as config, CLI and database spell them.
const (
	RoleResearcher     Role = "researcher"
	RoleImporter       Role = "importer"
	RoleEscrow         Role = "escrow"
	RoleExporter       Role = "exporter"
	RoleManager        Role = "manager"
	RoleChecker        Role = "checker"
	RoleProvider       Role = "provider"
	RoleOperator       Role = "operator"
	RoleProjectAuditor Role = "project-auditor"
)

// rolePermissions is the table "Who may do what". An exporter brings files
// in only when the same person is an importer too.
var rolePermissions = map[Role]Permission{
	RoleResearcher:     PermShell,
	RoleImporter:       PermShell | PermImport,
	RoleEscrow:         PermShell | PermEscrow,
	RoleExporter:       PermShell | PermExec | PermExport | PermForward,
	RoleManager:        PermManage | PermDecide | PermList,
	RoleChecker:        PermDecide | PermList,
	RoleProvider:       PermDecide | PermList,
	RoleOperator:       PermShell | PermExec | PermImport | PermByApproval,
	RoleProjectAuditor: PermAudit | PermList,
}

// Roles lists every project role in the order of the documents.
func Roles() []Role {
	return []Role{RoleResearcher, RoleImporter, RoleEscrow, RoleExporter, RoleManager,
		RoleChecker, RoleProvider, RoleOperator, RoleProjectAuditor}
}

// Permissions returns the bits of a role, and false for a name that is no role.
func (r Role) Permissions() (Permission, bool) {
	p, ok := rolePermissions[r]
	return p, ok
}

// Has reports whether every bit of q is set in p.
func (p Permission) Has(q Permission) bool { return p&q == q }

var permissionNames = []struct {
	bit  Permission
	name string
}{
	{PermShell, "shell"}, {PermExec, "exec"}, {PermImport, "import"}, {PermExport, "export"},
	{PermEscrow, "escrow"}, {PermForward, "forward"}, {PermByApproval, "by-approval"},
	{PermManage, "manage"}, {PermDecide, "decide"}, {PermAudit, "audit"}, {PermList, "list"},
}

// String lists the bits by name, separated by commas.
func (p Permission) String() string {
	var names []string
	for _, n := range permissionNames {
		if p.Has(n.bit) {
			names = append(names, n.name)
		}
	}
	return strings.Join(names, ",")
}

// SiteRole is what a person is for the whole site. A person holds at most
// one, because the three exclude one another; the database has one column
// for it, so a second cannot be written down.
type SiteRole string

// The site roles. NoSiteRole is what most people have.
const (
	NoSiteRole   SiteRole = ""
	SiteAdmin    SiteRole = "admin"
	SiteSecurity SiteRole = "security-admin"
	SiteAuditor  SiteRole = "auditor"
)
