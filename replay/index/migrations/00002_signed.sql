-- Whether the node's key signed the whole recording that lines were read from.

-- +goose Up

ALTER TABLE sessions ADD COLUMN signed BOOLEAN NOT NULL DEFAULT FALSE;
