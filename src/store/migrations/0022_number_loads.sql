-- What the sessions that take strangers do to each number, so that a create need not sum up those of all numbers.
CREATE TABLE number_loads (
    virtual_number   TEXT PRIMARY KEY,
    -- Whose session was the last to be counted.
    account          TEXT NOT NULL,
    -- All of them, those with PIN, and what these take of the room for PINs.
    sessions         BIGINT NOT NULL,
    pin_sessions     BIGINT NOT NULL,
    pin_weight       BIGINT NOT NULL,
    stranger_profile TEXT,
    -- When the first of them ends: from then on the number must be summed up anew.
    stale_at         BIGINT NOT NULL
);

CREATE INDEX number_loads_stale ON number_loads (account, stale_at);
-- Numbers that are loaded alike lie together: they are read as one row.
CREATE INDEX number_loads_alike
    ON number_loads (account, pin_sessions, sessions, pin_weight, stranger_profile, virtual_number);

INSERT INTO number_loads (virtual_number, account, sessions, pin_sessions, pin_weight, stale_at)
    SELECT virtual_number, MAX(account), 0, 0, 0, 0 FROM sessions WHERE takes_strangers = 1 GROUP BY virtual_number;
