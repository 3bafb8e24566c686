-- sessions.timeout_told now is 1 of every session that is over, as soon as somebody has noticed: the sessions that
-- have ended are then listed newest first without a walk past all others.
DROP INDEX sessions_timeout;
UPDATE sessions SET timeout_told = 1
    WHERE timeout_told = 0 AND (ended_at IS NOT NULL
        -- Nobody is to be told, and the creation of another one is past for sure.
        OR (callback_url = '' AND expires_at <= (SELECT MAX(created_at) FROM sessions)));
CREATE INDEX sessions_timeout ON sessions (ends_at) WHERE timeout_told = 0;
CREATE INDEX sessions_over ON sessions (account, created_at, ends_at, expires_at) WHERE timeout_told = 1;
