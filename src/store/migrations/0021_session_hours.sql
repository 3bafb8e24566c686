-- How many sessions of an account end within each hour since 1970, so that a list need not count a million of them.
CREATE TABLE session_hours (
    account  TEXT NOT NULL,
    -- ends_at / 3,600,000,000.
    hour     BIGINT NOT NULL,
    sessions BIGINT NOT NULL,
    PRIMARY KEY (account, hour)
);

INSERT INTO session_hours (account, hour, sessions)
    SELECT account, ends_at / 3600000000, COUNT(*) FROM sessions GROUP BY account, ends_at / 3600000000;

-- In the order of the numbers, so that what strangers find on each is added up without sorting.
DROP INDEX sessions_stranger_load;
DROP INDEX sessions_strangers;
CREATE INDEX sessions_strangers
    ON sessions (virtual_number, ends_at, pin_weight, first_party_pin, stranger_profile, ended_at, takes_strangers)
    WHERE takes_strangers = 1;
