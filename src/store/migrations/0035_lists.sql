-- Lists of calls, recordings and events, and what is swept, without a walk past what is not asked for. Every index that a
-- call pays for takes the place of another one.

-- The calls that live, of each account; and those of every node, for what a dead one has left.
DROP INDEX legs_open;
CREATE INDEX legs_live ON legs (account, started_at) WHERE ended_at IS NULL;

-- Only what can be fetched is listed.
DROP INDEX recordings_list;
CREATE INDEX recordings_ready ON recordings (account, added_at) WHERE state = 'ready';

-- What is kept for a week, and what is kept for a month.
DROP INDEX events_settled;
CREATE INDEX events_delivered ON events (settled_at) WHERE state = 'delivered';
CREATE INDEX events_undelivered ON events (settled_at) WHERE state IN ('dead', 'kept');
-- What was given up: listed, and sent again, the oldest first.
CREATE INDEX events_dead ON events (account, happened_at, sequence, subaccount) WHERE state = 'dead';
