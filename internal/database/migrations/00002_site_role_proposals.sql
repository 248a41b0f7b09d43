-- A site role that an administrator gave and a security administrator has not approved yet.

-- +goose Up

CREATE TABLE site_role_proposals (
    user_name   TEXT   NOT NULL PRIMARY KEY REFERENCES users (name),
    site_role   TEXT   NOT NULL,
    proposed_at BIGINT NOT NULL,
    proposed_by TEXT   NOT NULL
);

-- A start looks for ended sessions whose recording's head is not known.
CREATE INDEX sessions_without_head ON sessions (node) WHERE head = '';
