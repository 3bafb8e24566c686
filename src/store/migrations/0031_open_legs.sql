-- Which legs a process has left open: looked for by the process, whose name is in every row that a call inserts there,
-- and so costs less than the uuid of the leg did.
DROP INDEX legs_open;
CREATE INDEX legs_open ON legs (node) WHERE ended_at IS NULL;
