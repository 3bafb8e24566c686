-- Wrong PINs that still count; see masking::guessing.
CREATE TABLE guesses (
    -- 'caller:…', 'anonymous:…', 'number:…' or 'forced:…'.
    bucket    TEXT PRIMARY KEY,
    since     BIGINT NOT NULL,
    latest_at BIGINT NOT NULL,
    wrong     BIGINT NOT NULL
);

CREATE INDEX guesses_since ON guesses (since);
