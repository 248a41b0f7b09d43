-- The words of what a search can find. They come in as they are to be found
-- (see text.go), so no language is configured.

-- +goose Up

CREATE TABLE search_words (
    id    BIGINT   NOT NULL PRIMARY KEY,
    words TSVECTOR NOT NULL
);
CREATE INDEX search_words_by_word ON search_words USING GIN (words);
