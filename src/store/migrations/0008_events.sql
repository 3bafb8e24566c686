-- What applications are told, until they have heard it.
CREATE TABLE events (
    uuid        TEXT PRIMARY KEY,
    account     TEXT NOT NULL,
    subaccount  TEXT,
    -- NULL: no one session is meant; the event is kept for the account and sent nowhere.
    session     TEXT,
    -- Events of one session and channel are sent one after the other: 'call', or 'recording' for recording
    -- events that have a receiver of their own.
    channel     TEXT NOT NULL,
    -- Counts within the session, from 1.
    sequence    BIGINT NOT NULL,
    name        TEXT NOT NULL,
    happened_at BIGINT NOT NULL,
    -- JSON: names and values in order, without SequenceNumber.
    parameters  TEXT NOT NULL,
    -- 1: it goes to the session's recording_callback_url.
    recording   BIGINT NOT NULL,
    url         TEXT NOT NULL,
    method      TEXT NOT NULL,
    -- 'pending', 'delivered', 'dead' or 'kept'.
    state       TEXT NOT NULL,
    attempts    BIGINT NOT NULL,
    tried_at    BIGINT,
    -- When it was delivered or given up.
    settled_at  BIGINT,
    -- The receiver's last answer, and what was wrong with it or instead of it.
    http_status BIGINT,
    failure     TEXT,
    give_up_at  BIGINT NOT NULL
);

CREATE INDEX events_pending ON events (session, channel, sequence) WHERE state = 'pending';
CREATE INDEX events_list ON events (account, happened_at);
CREATE INDEX events_session ON events (session, sequence) WHERE session IS NOT NULL;
CREATE INDEX events_settled ON events (settled_at) WHERE settled_at IS NOT NULL;

-- One row per session and channel that ever had an event.
CREATE TABLE event_streams (
    session     TEXT NOT NULL,
    channel     TEXT NOT NULL,
    -- The last number that was given; the 'call' row counts for both channels.
    sequence    BIGINT NOT NULL,
    -- Authority of the receiver's URL, so that no receiver takes the others' turn.
    host        TEXT NOT NULL,
    -- When the next event is to be sent; NULL: none waits.
    due_at      BIGINT,
    -- Which process sends, and until when nobody else may.
    lease_owner TEXT,
    lease_until BIGINT NOT NULL,
    touched_at  BIGINT NOT NULL,
    PRIMARY KEY (session, channel)
);

CREATE INDEX event_streams_due ON event_streams (host, due_at) WHERE due_at IS NOT NULL;
CREATE INDEX event_streams_idle ON event_streams (touched_at) WHERE due_at IS NULL;

-- 1: the end of the session by time was told.
ALTER TABLE sessions ADD COLUMN timeout_told BIGINT NOT NULL DEFAULT 0;
CREATE INDEX sessions_timeout ON sessions (expires_at)
    WHERE callback_url <> '' AND timeout_told = 0 AND ended_at IS NULL;
