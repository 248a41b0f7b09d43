-- One text for SQLite and PostgreSQL. Times are BIGINT milliseconds since 1970
-- in UTC, 0 for none. Lists are JSON in TEXT. There is no NULL.

-- +goose Up

CREATE TABLE nodes (
    id            TEXT   NOT NULL PRIMARY KEY,
    last_sequence BIGINT NOT NULL, -- of its events, dense from 1
    last_session  BIGINT NOT NULL, -- of its sessions, dense from 1
    created_at    BIGINT NOT NULL
);

-- One row: a number that grows with every change that another node must see.
CREATE TABLE changes (
    id         BIGINT NOT NULL PRIMARY KEY,
    generation BIGINT NOT NULL
);
INSERT INTO changes (id, generation) VALUES (1, 0);

CREATE TABLE counters (
    name  TEXT   NOT NULL PRIMARY KEY,
    value BIGINT NOT NULL
);
INSERT INTO counters (name, value) VALUES ('request', 0);
INSERT INTO counters (name, value) VALUES ('terms', 0);

-- leaf is the exact text that the ledger holds; the columns repeat of it what queries select by.
CREATE TABLE events (
    node          TEXT   NOT NULL REFERENCES nodes (id),
    sequence      BIGINT NOT NULL,
    id            TEXT   NOT NULL UNIQUE,
    user_id       TEXT   NOT NULL,
    op_type       TEXT   NOT NULL,
    happened_at   BIGINT NOT NULL,
    resource_id   TEXT   NOT NULL,
    resource_type TEXT   NOT NULL,
    remote_addr   TEXT   NOT NULL,
    project       TEXT   NOT NULL,
    session       TEXT   NOT NULL,
    connection    TEXT   NOT NULL,
    result        TEXT   NOT NULL,
    leaf          BYTEA  NOT NULL,
    PRIMARY KEY (node, sequence)
);
CREATE INDEX events_by_user ON events (user_id, happened_at);
CREATE INDEX events_by_project ON events (project, happened_at);
CREATE INDEX events_by_time ON events (happened_at);
CREATE INDEX events_by_session ON events (session);
CREATE INDEX events_by_connection ON events (connection);

-- site_role is one column, so a second role cannot be written down.
CREATE TABLE users (
    name            TEXT   NOT NULL PRIMARY KEY,
    display         TEXT   NOT NULL,
    site_role       TEXT   NOT NULL,
    os_user         TEXT   NOT NULL,
    enrolled_at     BIGINT NOT NULL,
    frozen_at       BIGINT NOT NULL,
    frozen_reason   TEXT   NOT NULL,
    terms_version   TEXT   NOT NULL,
    terms_at        BIGINT NOT NULL,
    training_course TEXT   NOT NULL,
    training_until  BIGINT NOT NULL,
    created_at      BIGINT NOT NULL,
    created_by      TEXT   NOT NULL
);
CREATE UNIQUE INDEX users_by_os_user ON users (os_user) WHERE os_user <> '';

CREATE TABLE terms (
    version    TEXT   NOT NULL PRIMARY KEY, -- hex SHA-256 of the text
    number     BIGINT NOT NULL UNIQUE,      -- the highest is the one in force
    text       TEXT   NOT NULL,
    created_at BIGINT NOT NULL,
    created_by TEXT   NOT NULL
);

-- A row stays after the key's removal: a key belongs to one person for ever.
CREATE TABLE user_keys (
    fingerprint  TEXT   NOT NULL PRIMARY KEY,
    user_name    TEXT   NOT NULL REFERENCES users (name),
    key_type     TEXT   NOT NULL,
    authorized   TEXT   NOT NULL,
    comment_text TEXT   NOT NULL,
    created_at   BIGINT NOT NULL,
    last_used_at BIGINT NOT NULL,
    removed_at   BIGINT NOT NULL
);
CREATE INDEX user_keys_by_user ON user_keys (user_name);

CREATE TABLE totp (
    user_name   TEXT   NOT NULL PRIMARY KEY REFERENCES users (name),
    key_version BIGINT NOT NULL,
    secret      BYTEA  NOT NULL, -- nonce and AES-256-GCM ciphertext
    last_step   BIGINT NOT NULL, -- the time step of the last code that counted
    created_at  BIGINT NOT NULL
);

CREATE TABLE recovery_codes (
    user_name TEXT   NOT NULL REFERENCES users (name),
    hash      BYTEA  NOT NULL, -- HMAC-SHA256
    used_at   BIGINT NOT NULL,
    PRIMARY KEY (user_name, hash)
);

CREATE TABLE login_failures (
    user_name     TEXT   NOT NULL PRIMARY KEY REFERENCES users (name),
    failures      BIGINT NOT NULL,
    first_at      BIGINT NOT NULL,
    blocks        BIGINT NOT NULL,
    blocked_until BIGINT NOT NULL
);

CREATE TABLE invites (
    hash       BYTEA  NOT NULL PRIMARY KEY, -- SHA-256 of the token
    user_name  TEXT   NOT NULL REFERENCES users (name),
    created_at BIGINT NOT NULL,
    created_by TEXT   NOT NULL,
    expires_at BIGINT NOT NULL,
    used_at    BIGINT NOT NULL,
    ended_at   BIGINT NOT NULL
);
CREATE INDEX invites_by_user ON invites (user_name);

CREATE TABLE projects (
    name         TEXT    NOT NULL PRIMARY KEY,
    title        TEXT    NOT NULL,
    level        TEXT    NOT NULL,
    state        TEXT    NOT NULL,
    period_from  BIGINT  NOT NULL,
    period_until BIGINT  NOT NULL,
    networks     TEXT    NOT NULL,
    training     BOOLEAN NOT NULL,
    levels       TEXT    NOT NULL,
    grant_window BIGINT  NOT NULL, -- milliseconds
    created_at   BIGINT  NOT NULL
);

CREATE TABLE servers (
    project    TEXT   NOT NULL REFERENCES projects (name),
    name       TEXT   NOT NULL,
    address    TEXT   NOT NULL,
    host_key   TEXT   NOT NULL,
    host_ca    TEXT   NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (project, name)
);

-- An account on a project's data servers belongs to one person, also when the membership has ended.
CREATE TABLE accounts (
    project    TEXT   NOT NULL REFERENCES projects (name),
    account    TEXT   NOT NULL,
    user_name  TEXT   NOT NULL REFERENCES users (name),
    created_at BIGINT NOT NULL,
    PRIMARY KEY (project, account)
);

CREATE TABLE memberships (
    id          TEXT   NOT NULL PRIMARY KEY,
    user_name   TEXT   NOT NULL REFERENCES users (name),
    project     TEXT   NOT NULL REFERENCES projects (name),
    role        TEXT   NOT NULL,
    account     TEXT   NOT NULL,
    reason      TEXT   NOT NULL,
    granted_by  TEXT   NOT NULL,
    approved_by TEXT   NOT NULL,
    approved_at BIGINT NOT NULL,
    created_at  BIGINT NOT NULL,
    expires_at  BIGINT NOT NULL,
    ended_at    BIGINT NOT NULL,
    ended_by    TEXT   NOT NULL,
    end_reason  TEXT   NOT NULL
);
CREATE INDEX memberships_by_user ON memberships (user_name, project);
CREATE INDEX memberships_by_project ON memberships (project);

CREATE TABLE epochs (
    id               TEXT   NOT NULL PRIMARY KEY,
    project          TEXT   NOT NULL REFERENCES projects (name),
    recipient        TEXT   NOT NULL,
    strict_recipient TEXT   NOT NULL,
    expires_at       BIGINT NOT NULL,
    created_at       BIGINT NOT NULL,
    created_by       TEXT   NOT NULL
);
CREATE INDEX epochs_by_project ON epochs (project, created_at);

CREATE TABLE sessions (
    id          TEXT    NOT NULL PRIMARY KEY,
    node        TEXT    NOT NULL REFERENCES nodes (id),
    number      BIGINT  NOT NULL,
    connection  TEXT    NOT NULL,
    user_name   TEXT    NOT NULL REFERENCES users (name),
    project     TEXT    NOT NULL REFERENCES projects (name),
    server      TEXT    NOT NULL,
    account     TEXT    NOT NULL,
    role        TEXT    NOT NULL,
    action      TEXT    NOT NULL,
    command     BYTEA   NOT NULL,
    pty         BOOLEAN NOT NULL,
    remote_addr TEXT    NOT NULL,
    request     TEXT    NOT NULL,
    epoch       TEXT    NOT NULL,
    started_at  BIGINT  NOT NULL,
    ended_at    BIGINT  NOT NULL,
    result      TEXT    NOT NULL,
    exit_code   BIGINT  NOT NULL,
    bytes_in    BIGINT  NOT NULL,
    bytes_out   BIGINT  NOT NULL,
    head        TEXT    NOT NULL,
    killed_at   BIGINT  NOT NULL,
    killed_by   TEXT    NOT NULL,
    kill_reason TEXT    NOT NULL,
    UNIQUE (node, number)
);
CREATE INDEX sessions_by_user ON sessions (user_name, started_at);
CREATE INDEX sessions_by_project ON sessions (project, started_at);
CREATE INDEX sessions_by_request ON sessions (request) WHERE request <> '';
CREATE INDEX sessions_live ON sessions (node) WHERE ended_at = 0;

CREATE TABLE requests (
    id           TEXT   NOT NULL PRIMARY KEY,
    number       BIGINT NOT NULL UNIQUE,
    version      BIGINT NOT NULL, -- compared and set by every transition
    kind         TEXT   NOT NULL,
    user_name    TEXT   NOT NULL REFERENCES users (name),
    project      TEXT   NOT NULL REFERENCES projects (name),
    server       TEXT   NOT NULL,
    account      TEXT   NOT NULL,
    reason       TEXT   NOT NULL,
    state        TEXT   NOT NULL,
    digest       TEXT   NOT NULL,
    levels       TEXT   NOT NULL,
    level        BIGINT NOT NULL,
    grant_window BIGINT NOT NULL, -- milliseconds
    created_at   BIGINT NOT NULL,
    expires_at   BIGINT NOT NULL,
    grant_from   BIGINT NOT NULL,
    grant_until  BIGINT NOT NULL,
    uses_left    BIGINT NOT NULL
);
CREATE INDEX requests_by_user ON requests (user_name, created_at);
CREATE INDEX requests_by_state ON requests (state, expires_at);

-- One person, one vote, over all levels of a request.
CREATE TABLE votes (
    request      TEXT    NOT NULL REFERENCES requests (id),
    user_name    TEXT    NOT NULL REFERENCES users (name),
    level        BIGINT  NOT NULL,
    approve      BOOLEAN NOT NULL,
    comment_text TEXT    NOT NULL,
    digest       TEXT    NOT NULL,
    voted_at     BIGINT  NOT NULL,
    PRIMARY KEY (request, user_name)
);
