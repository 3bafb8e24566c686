-- Creates that may come twice.

CREATE TABLE idempotency_keys (
    -- Auth id of the account or sub-account whose credentials came.
    scope       TEXT NOT NULL,
    key         TEXT NOT NULL,
    -- SHA-256 of what was asked for, in lower-case hex.
    fingerprint TEXT NOT NULL,
    session     TEXT NOT NULL,
    created_at  BIGINT NOT NULL,
    PRIMARY KEY (scope, key)
);

CREATE INDEX idempotency_keys_age ON idempotency_keys (created_at);
