-- PINs that begin alike on a number, by the four digits that every PIN has: a range of texts would depend on the
-- locale of the database.
DROP INDEX sessions_first_pin;
DROP INDEX sessions_second_pin;
CREATE INDEX sessions_first_pin ON sessions (virtual_number, substr(first_party_pin, 1, 4), ends_at)
    WHERE first_party_pin IS NOT NULL;
CREATE INDEX sessions_second_pin ON sessions (virtual_number, substr(second_party_pin, 1, 4), ends_at)
    WHERE second_party_pin IS NOT NULL;
