-- Virtual numbers that the API manages.

-- NULL: the account's own.
ALTER TABLE numbers ADD COLUMN subaccount TEXT;
-- 1: takes no new session.
ALTER TABLE numbers ADD COLUMN draining BIGINT NOT NULL DEFAULT 0;
-- 1: added by the API; these come after the configured ones.
ALTER TABLE numbers ADD COLUMN by_api BIGINT NOT NULL DEFAULT 0;

-- Whether sessions are on a number. The expression keeps this index out of every other query's plan: those are
-- answered by what a caller or a PIN says, which is far less than all sessions of a number.
CREATE INDEX sessions_on_number ON sessions (('n' || virtual_number), ends_at);
