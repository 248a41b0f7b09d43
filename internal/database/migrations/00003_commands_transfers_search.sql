-- What was run and what was moved, and what a search can find. Each row is
-- made from one event of the ledger and can be made from it again.

-- +goose Up

-- Whether the text of the project's commands is kept out of events and tables.
ALTER TABLE projects ADD COLUMN seal_commands BOOLEAN NOT NULL DEFAULT FALSE;

CREATE TABLE commands (
    node          TEXT    NOT NULL,
    sequence      BIGINT  NOT NULL, -- of the event that tells of it
    session       TEXT    NOT NULL,
    position      BIGINT  NOT NULL, -- within the session, 0 for what it was opened with
    happened_at   BIGINT  NOT NULL,
    kind          TEXT    NOT NULL, -- exec, subsystem or typed
    command       BYTEA   NOT NULL, -- as much as the event holds
    command_bytes BIGINT  NOT NULL, -- length of the whole
    sha256        TEXT    NOT NULL, -- of the whole, where only a part is here
    sealed        BOOLEAN NOT NULL,
    user_name     TEXT    NOT NULL,
    project       TEXT    NOT NULL,
    server        TEXT    NOT NULL,
    PRIMARY KEY (node, sequence)
);
CREATE INDEX commands_by_session ON commands (session, position);

CREATE TABLE transfers (
    node        TEXT    NOT NULL,
    sequence    BIGINT  NOT NULL,
    session     TEXT    NOT NULL,
    name        BYTEA   NOT NULL, -- of the file, or the command whose output it is
    operation   TEXT    NOT NULL, -- exec or sftp
    status      TEXT    NOT NULL,
    path        TEXT    NOT NULL,
    happened_at BIGINT  NOT NULL, -- when it ended
    user_name   TEXT    NOT NULL,
    direction   TEXT    NOT NULL, -- in, out or both
    bytes_in    BIGINT  NOT NULL,
    bytes_out   BIGINT  NOT NULL,
    sha256      TEXT    NOT NULL,
    request     TEXT    NOT NULL,
    sealed      BOOLEAN NOT NULL,
    project     TEXT    NOT NULL,
    server      TEXT    NOT NULL,
    PRIMARY KEY (node, sequence)
);
CREATE INDEX transfers_by_session ON transfers (session);

-- id grows with time, so that the order of the ids is the order of the hits.
CREATE TABLE search_entries (
    id          BIGINT NOT NULL PRIMARY KEY,
    kind        TEXT   NOT NULL, -- event, command or transfer
    node        TEXT   NOT NULL,
    sequence    BIGINT NOT NULL,
    happened_at BIGINT NOT NULL,
    user_id     TEXT   NOT NULL,
    op_type     TEXT   NOT NULL,
    project     TEXT   NOT NULL,
    server      TEXT   NOT NULL,
    session     TEXT   NOT NULL,
    UNIQUE (node, sequence, kind)
);
