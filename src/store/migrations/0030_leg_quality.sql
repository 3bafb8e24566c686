-- How a leg sounded. A leg without packets has no row.
CREATE TABLE leg_quality (
    leg               TEXT PRIMARY KEY,
    codec             TEXT,
    -- E-model scores in hundredths: of what came from the peer, and of what the peer says it heard.
    mos               BIGINT,
    remote_mos        BIGINT,
    expected          BIGINT NOT NULL,
    repeated          BIGINT NOT NULL,
    reordered         BIGINT NOT NULL,
    -- Runs of packets that never came, and the longest of them in packets.
    loss_runs         BIGINT NOT NULL,
    longest_loss      BIGINT NOT NULL,
    -- Microseconds, like all times here.
    mean_jitter       BIGINT NOT NULL,
    max_jitter        BIGINT NOT NULL,
    -- As the peer's last RTCP report said; NULL when it sent none.
    remote_lost       BIGINT,
    remote_jitter     BIGINT,
    round_trip        BIGINT,
    max_round_trip    BIGINT,
    -- Times when the peer sent no audio for ten seconds, and when it heard nothing of the other party.
    silences          BIGINT NOT NULL,
    unheard           BIGINT NOT NULL
);
