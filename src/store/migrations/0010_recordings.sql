-- Recordings: what can be delivered, and what is still to be done about each.

-- A recordings directory, by the id that lies in it: where it was found at the last start.
CREATE TABLE recording_places (
    id   TEXT PRIMARY KEY,
    root TEXT NOT NULL
);

CREATE TABLE recordings (
    -- The interaction's.
    uuid        TEXT PRIMARY KEY,
    account     TEXT,
    session     TEXT,
    subaccount  TEXT,
    -- The caller's leg.
    call_uuid   TEXT,
    place       TEXT NOT NULL,
    -- Relative to the place: YYYY/MM/DD/{uuid}.
    directory   TEXT NOT NULL,
    -- 'mp3' or 'wav': what is delivered.
    format      TEXT NOT NULL,
    added_at    BIGINT NOT NULL,
    -- Sample 0.
    started_at  BIGINT,
    samples     BIGINT NOT NULL,
    sample_rate BIGINT NOT NULL,
    -- 0: something of it was lost.
    complete    BIGINT NOT NULL,
    -- 'pending' → 'ready' or 'failed' → 'deleted' (its files are to be removed) → 'removed'.
    state       TEXT NOT NULL,
    attempts    BIGINT NOT NULL,
    -- When something is to be done about it; NULL: never.
    due_at      BIGINT,
    -- Of the file that is delivered.
    bytes       BIGINT,
    sha256      TEXT
);

CREATE INDEX recordings_list ON recordings (account, added_at);
CREATE INDEX recordings_session ON recordings (session) WHERE session IS NOT NULL;
CREATE INDEX recordings_due ON recordings (place, due_at) WHERE due_at IS NOT NULL;
CREATE INDEX recordings_age ON recordings (place, state, added_at);
-- By the day of the directory, YYYY/MM/DD.
CREATE INDEX recordings_day ON recordings (place, SUBSTR(directory, 1, 10));
