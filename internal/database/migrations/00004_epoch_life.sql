-- An epoch that was destroyed stays on record. warned is how many days before
-- its end the last warning came: 0 for none, -1 once its end was told.

-- +goose Up

ALTER TABLE epochs ADD COLUMN destroyed_at BIGINT NOT NULL DEFAULT 0;
ALTER TABLE epochs ADD COLUMN destroyed_by TEXT NOT NULL DEFAULT '';
ALTER TABLE epochs ADD COLUMN warned BIGINT NOT NULL DEFAULT 0;

-- A first person's declaration that an epoch's key is destroyed; a second one's completes it.
CREATE TABLE epoch_destructions (
    epoch        TEXT   NOT NULL PRIMARY KEY REFERENCES epochs (id),
    declared_at  BIGINT NOT NULL,
    declared_by  TEXT   NOT NULL,
    reason       TEXT   NOT NULL,
    statement    TEXT   NOT NULL
);
