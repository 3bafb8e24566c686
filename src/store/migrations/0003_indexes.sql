-- PINs that begin alike on a number, by the four digits that every PIN has: a range of texts would depend on the
-- locale of the database.
DROP INDEX sessions_first_pin;
DROP INDEX sessions_second_pin;
CREATE INDEX sessions_first_pin ON sessions (virtual_number, substr(first_party_pin, 1, 4), ends_at)
    WHERE first_party_pin IS NOT NULL;
CREATE INDEX sessions_second_pin ON sessions (virtual_number, substr(second_party_pin, 1, 4), ends_at)
    WHERE second_party_pin IS NOT NULL;

-- How full each number is: answered without a look at the sessions themselves.
DROP INDEX sessions_stranger_load;
CREATE INDEX sessions_stranger_load
    ON sessions (ends_at, virtual_number, pin_weight, first_party_pin, stranger_profile, ended_at, takes_strangers)
    WHERE takes_strangers = 1;
-- Which numbers rest: looked for among the sessions that ended lately.
DROP INDEX sessions_resting;
CREATE INDEX sessions_resting ON sessions (ends_at, rests_until, virtual_number) WHERE rests_until IS NOT NULL;

-- Lists walk from the newest on and look only at sessions that fit; totals are counted in an index.
DROP INDEX sessions_list;
CREATE INDEX sessions_list ON sessions (account, created_at, ends_at, expires_at);
CREATE INDEX sessions_end ON sessions (account, ends_at);
CREATE INDEX sessions_duration ON sessions (account, ((expires_at - created_at) / 1000000));
CREATE INDEX sessions_number ON sessions (virtual_number, account, created_at, ends_at);
CREATE INDEX sessions_subaccount ON sessions (account, subaccount, created_at, ends_at) WHERE subaccount IS NOT NULL;
CREATE INDEX interactions_open ON interactions (session) WHERE ended_at IS NULL;
