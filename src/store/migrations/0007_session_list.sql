-- The lists of sessions count what they would show, and show the last days or what is active, by number or by length:
-- all of that is answered from this index alone, without a look at the sessions themselves.
CREATE INDEX sessions_by_end ON sessions (account, ends_at, created_at, expires_at, virtual_number);
