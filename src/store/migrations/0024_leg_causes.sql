-- The Q.850 cause in the Reason header that ended the leg: the peer's, else ours; NULL: none was named.
ALTER TABLE legs ADD COLUMN q850_cause BIGINT;
