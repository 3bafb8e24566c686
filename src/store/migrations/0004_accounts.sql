-- Tokens that can be read again (callbacks are signed with them), tokens that are replaced, sub-accounts.

-- The token under AES-256-GCM, with a key that is not in this database; NULL: made by a version that kept the
-- hash only, or configured.
ALTER TABLE accounts ADD COLUMN token_sealed TEXT;
-- The token before the last change, and until when it still opens the account.
ALTER TABLE accounts ADD COLUMN old_token_hash TEXT;
ALTER TABLE accounts ADD COLUMN old_token_until BIGINT;

CREATE TABLE subaccounts (
    auth_id         TEXT PRIMARY KEY,
    account         TEXT NOT NULL,
    name            TEXT NOT NULL,
    enabled         BIGINT NOT NULL,
    -- As in accounts.
    token_hash      TEXT NOT NULL,
    token_sealed    TEXT,
    old_token_hash  TEXT,
    old_token_until BIGINT,
    created_at      BIGINT NOT NULL,
    modified_at     BIGINT
);

CREATE INDEX subaccounts_account ON subaccounts (account, created_at);
