-- The words of what a search can find. They come in as they are to be found
-- (see text.go), so the tokenizer only has to split them at spaces.

-- +goose Up

CREATE VIRTUAL TABLE search_words USING fts5(
    labels, words, content = '', contentless_delete = 1, tokenize = 'ascii'
);
