-- Processes that share this database, by a uuid of each start, and when each was last known to live.
CREATE TABLE nodes (
    node    TEXT PRIMARY KEY,
    beat_at BIGINT NOT NULL
);

-- Legs of before belong to the node ''.
INSERT INTO nodes (node, beat_at) SELECT '', beat_at FROM heartbeats WHERE id = 1;
DROP TABLE heartbeats;

-- Who has a leg: only that node, or another one after its death, may end it.
ALTER TABLE legs ADD COLUMN node TEXT NOT NULL DEFAULT '';
