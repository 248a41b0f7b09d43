-- Lines of text of opened recordings, on an auditor's machine.

-- +goose Up

CREATE TABLE sessions (
    id         TEXT    NOT NULL PRIMARY KEY,
    node       TEXT    NOT NULL,
    number     BIGINT  NOT NULL,
    epoch      TEXT    NOT NULL,
    user_name  TEXT    NOT NULL,
    project    TEXT    NOT NULL,
    server     TEXT    NOT NULL,
    started_at BIGINT  NOT NULL, -- milliseconds since 1970
    file       TEXT    NOT NULL, -- where its recording can be had again
    gate       TEXT    NOT NULL,
    complete   BOOLEAN NOT NULL  -- all its lines are here
);
CREATE INDEX sessions_by_epoch ON sessions (epoch);

-- id grows with the time at which the line was seen.
CREATE TABLE lines (
    id        BIGINT  NOT NULL PRIMARY KEY,
    session   TEXT    NOT NULL REFERENCES sessions (id),
    offset_ns BIGINT  NOT NULL, -- since the session's start
    typed     BOOLEAN NOT NULL,
    line      TEXT    NOT NULL
);
CREATE INDEX lines_by_session ON lines (session);

CREATE VIRTUAL TABLE search_words USING fts5(
    labels, words, content = '', contentless_delete = 1, tokenize = 'ascii'
);
