-- TEXT, BIGINT, DOUBLE PRECISION and BLOB only, so that the same schema can live in PostgreSQL.
-- Times are microseconds since 1970 (UTC), flags are 0 and 1, uuids are text.

CREATE TABLE accounts (
    auth_id    TEXT PRIMARY KEY,
    -- SHA-256 of the token, which is random, in lower-case hex.
    token_hash TEXT NOT NULL,
    -- 1: from the configuration; 0: made at the first start.
    configured BIGINT NOT NULL,
    active     BIGINT NOT NULL,
    position   BIGINT NOT NULL,
    created_at BIGINT NOT NULL
);

CREATE TABLE numbers (
    did        TEXT PRIMARY KEY,
    trunk      TEXT NOT NULL,
    -- NULL: the first account's.
    account    TEXT,
    -- 'reject', 'play:URL' or 'to:SIP-URI'.
    no_session TEXT NOT NULL,
    -- Order of first fit.
    position   BIGINT NOT NULL,
    -- 0: no longer in the configuration.
    active     BIGINT NOT NULL
);

CREATE TABLE sessions (
    uuid                      TEXT PRIMARY KEY,
    account                   TEXT NOT NULL,
    subaccount                TEXT,
    virtual_number            TEXT NOT NULL,
    first_party               TEXT,
    second_party              TEXT,
    created_at                BIGINT NOT NULL,
    modified_at               BIGINT NOT NULL,
    -- The planned end, and the moment of deletion.
    expires_at                BIGINT NOT NULL,
    ended_at                  BIGINT,
    -- The earlier of the two: what every look-up compares with now.
    ends_at                   BIGINT NOT NULL,
    call_time_limit           BIGINT NOT NULL,
    ring_timeout              BIGINT NOT NULL,
    record                    BIGINT NOT NULL,
    record_file_format        TEXT NOT NULL,
    recording_callback_url    TEXT NOT NULL,
    recording_callback_method TEXT NOT NULL,
    callback_url              TEXT NOT NULL,
    callback_method           TEXT NOT NULL,
    initiate_call             BIGINT NOT NULL,
    first_party_play_url      TEXT NOT NULL,
    second_party_play_url     TEXT NOT NULL,
    unknown_caller_play       TEXT NOT NULL,
    geomatch                  BIGINT NOT NULL,
    single_party              BIGINT,
    cooloff                   BIGINT NOT NULL,
    -- PIN authentication: all of these, or none.
    first_party_pin           TEXT,
    second_party_pin          TEXT,
    pin_prompt_play           TEXT,
    pin_retry                 BIGINT,
    pin_retry_wait            BIGINT,
    incorrect_pin_play        TEXT,
    pin_force                 BIGINT,
    pin_generated             BIGINT,
    pin_length                BIGINT,
    -- Derived from the above, for allocation.
    takes_strangers           BIGINT NOT NULL,
    pin_weight                BIGINT NOT NULL,
    stranger_profile          TEXT,
    rests_until               BIGINT
);

-- Who calls, and on which numbers is a party: both are answered from these two alone.
CREATE INDEX sessions_first_party ON sessions (first_party, ends_at, virtual_number);
CREATE INDEX sessions_second_party ON sessions (second_party, ends_at, virtual_number);
-- What strangers find on a number, and how full each number is.
CREATE INDEX sessions_strangers ON sessions (virtual_number, ends_at) WHERE takes_strangers = 1;
CREATE INDEX sessions_stranger_load ON sessions (ends_at) WHERE takes_strangers = 1;
CREATE INDEX sessions_unknown_caller ON sessions (virtual_number, ends_at) WHERE unknown_caller_play <> '';
-- PINs that begin alike on a number.
CREATE INDEX sessions_first_pin ON sessions (virtual_number, first_party_pin) WHERE first_party_pin IS NOT NULL;
CREATE INDEX sessions_second_pin ON sessions (virtual_number, second_party_pin) WHERE second_party_pin IS NOT NULL;
CREATE INDEX sessions_resting ON sessions (rests_until) WHERE rests_until IS NOT NULL;
CREATE INDEX sessions_list ON sessions (account, created_at);

CREATE TABLE interactions (
    uuid                TEXT PRIMARY KEY,
    session             TEXT,
    account             TEXT,
    virtual_number      TEXT,
    started_at          BIGINT NOT NULL,
    ended_at            BIGINT,
    -- Relative to the recordings directory.
    recording_directory TEXT,
    recording_samples   BIGINT,
    recording_complete  BIGINT
);

CREATE INDEX interactions_session ON interactions (session, started_at) WHERE session IS NOT NULL;

CREATE TABLE legs (
    uuid              TEXT PRIMARY KEY,
    interaction       TEXT NOT NULL,
    session           TEXT,
    account           TEXT,
    -- 'A' or 'B'.
    side              TEXT NOT NULL,
    attempt           BIGINT NOT NULL,
    virtual_number    TEXT,
    party             TEXT,
    -- 'first' or 'second'.
    role              TEXT,
    trunk             TEXT NOT NULL,
    started_at        BIGINT NOT NULL,
    ringing_at        BIGINT,
    answered_at       BIGINT,
    ended_at          BIGINT,
    hangup_cause_name TEXT,
    hangup_cause_code BIGINT,
    hangup_source     TEXT,
    sip_status        BIGINT,
    packets_received  BIGINT,
    packets_sent      BIGINT,
    packets_lost      BIGINT,
    jitter            BIGINT
);

CREATE INDEX legs_interaction ON legs (interaction);
CREATE INDEX legs_list ON legs (account, started_at);
CREATE INDEX legs_open ON legs (uuid) WHERE ended_at IS NULL;

-- One row: when this process was last known to live.
CREATE TABLE heartbeats (
    id      BIGINT PRIMARY KEY,
    beat_at BIGINT NOT NULL
);
