//! The courier's writes: it claims a stream, settles one event after the other, and gives the stream back; old events
//! are removed, and told ones sent again.

use jiff::Timestamp;
use uuid::Uuid;

use super::report::host;
use super::{
    Attempt, EventFilter, EventState, GIVE_UP, KEEP_DELIVERED, KEEP_OTHERS, Lease, SWEEP, StoredEvent,
    Stream, event_columns, stored_event,
};
use crate::store::StoreError;
use crate::store::row::{Columns, micros};
use crate::store::sql::{Connection, query};
use crate::store::writer::Write;

pub(super) struct Claim {
    pub(super) stream: Stream,
    pub(super) lease: Lease,
    pub(super) now: Timestamp,
}

impl Write for Claim {
    type Done = Option<StoredEvent>;
    const MAY_WAIT: bool = true;

    async fn apply(&mut self, connection: &mut Connection) -> Result<Self::Done, StoreError> {
        let taken = query(
            "UPDATE event_streams SET lease_owner = $3, lease_until = $4, touched_at = $5
             WHERE session = $1 AND channel = $2 AND due_at <= $5 AND lease_until <= $5",
        )
        .bind(self.stream.session.to_string())
        .bind(&self.stream.channel)
        .bind(self.lease.owner.to_string())
        .bind(micros(self.lease.until))
        .bind(micros(self.now))
        .execute(&mut *connection)
        .await?;
        if taken == 0 { Ok(None) } else { next_or_rest(connection, &self.stream).await }
    }
}

/// The first event that waits; without one the stream rests and its lease is free. Its row is locked.
async fn next_or_rest(
    connection: &mut Connection,
    stream: &Stream,
) -> Result<Option<StoredEvent>, StoreError> {
    const NEXT: &str = concat!(
        "SELECT ",
        event_columns!(),
        " FROM events WHERE session = $1 AND channel = $2 AND state = 'pending' ORDER BY sequence LIMIT 1"
    );
    let next = query(NEXT)
        .bind(stream.session.to_string())
        .bind(&stream.channel)
        .fetch_optional(&mut *connection)
        .await?;
    if next.is_none() {
        let rest = "UPDATE event_streams SET due_at = NULL, lease_owner = NULL, lease_until = 0
                    WHERE session = $1 AND channel = $2";
        query(rest).bind(stream.session.to_string()).bind(&stream.channel).execute(&mut *connection).await?;
    }
    next.as_ref().map(stored_event).transpose()
}

pub(super) struct Settle {
    pub(super) stream: Stream,
    pub(super) lease: Lease,
    pub(super) event: Uuid,
    pub(super) attempt: Attempt,
    pub(super) now: Timestamp,
}

impl Settle {
    /// `false`: the lease ran out and somebody else has it.
    async fn renew(&self, connection: &mut Connection) -> Result<bool, StoreError> {
        let renewed = query(
            "UPDATE event_streams SET lease_until = $4 WHERE session = $1 AND channel = $2 AND lease_owner = $3",
        )
        .bind(self.stream.session.to_string())
        .bind(&self.stream.channel)
        .bind(self.lease.owner.to_string())
        .bind(micros(self.lease.until))
        .execute(connection)
        .await?;
        Ok(renewed > 0)
    }

    async fn mark(&self, connection: &mut Connection) -> Result<(), StoreError> {
        let (state, status, failure) = match self.attempt {
            Attempt::Delivered { status } => (EventState::Delivered, Some(status), None),
            Attempt::Failed { status, reason, retry_at: None } => (EventState::Dead, status, Some(reason)),
            Attempt::Failed { status, reason, .. } => (EventState::Pending, status, Some(reason)),
        };
        query(
            "UPDATE events SET state = $2, attempts = attempts + 1, tried_at = $3, settled_at = $4,
                 http_status = $5, failure = $6 WHERE uuid = $1 AND state = 'pending'",
        )
        .bind(self.event.to_string())
        .bind(state.as_str())
        .bind(micros(self.now))
        .bind((state != EventState::Pending).then(|| micros(self.now)))
        .bind(status.map(i64::from))
        .bind(failure)
        .execute(connection)
        .await?;
        Ok(())
    }
}

impl Write for Settle {
    type Done = Option<StoredEvent>;
    const MAY_WAIT: bool = true;

    async fn apply(&mut self, connection: &mut Connection) -> Result<Self::Done, StoreError> {
        let ours = self.renew(connection).await?;
        if ours || matches!(self.attempt, Attempt::Delivered { .. }) {
            self.mark(connection).await?;
        }
        if !ours {
            return Ok(None);
        }
        let Attempt::Failed { retry_at: Some(retry_at), .. } = self.attempt else {
            return next_or_rest(connection, &self.stream).await;
        };
        query(
            "UPDATE event_streams SET due_at = $3, lease_owner = NULL, lease_until = 0
             WHERE session = $1 AND channel = $2",
        )
        .bind(self.stream.session.to_string())
        .bind(&self.stream.channel)
        .bind(micros(retry_at))
        .execute(connection)
        .await?;
        Ok(None)
    }
}

pub(super) struct FreeStreams;

impl Write for FreeStreams {
    type Done = ();

    async fn apply(&mut self, connection: &mut Connection) -> Result<(), StoreError> {
        if matches!(connection, Connection::Sqlite(_)) {
            let free = "UPDATE event_streams SET lease_owner = NULL, lease_until = 0 WHERE lease_until > 0";
            query(free).execute(connection).await?;
        }
        Ok(())
    }
}

pub(super) struct Prune(pub(super) Timestamp);

impl Write for Prune {
    type Done = bool;
    const MAY_WAIT: bool = true;

    async fn apply(&mut self, connection: &mut Connection) -> Result<bool, StoreError> {
        let before = |age| micros(self.0.saturating_sub(age).unwrap_or(Timestamp::MIN));
        let removed = query(
            "DELETE FROM events WHERE uuid IN (SELECT uuid FROM events WHERE settled_at IS NOT NULL
                 AND (settled_at < $1 OR (settled_at < $2 AND state = 'delivered')) LIMIT $3)",
        )
        .bind(before(KEEP_OTHERS))
        .bind(before(KEEP_DELIVERED))
        .bind(SWEEP)
        .execute(&mut *connection)
        .await?;
        // A stream's row gives the next number, so it outlives its events by far.
        query(
            "DELETE FROM event_streams WHERE due_at IS NULL AND touched_at < $1 AND NOT EXISTS
                 (SELECT 1 FROM events WHERE events.session = event_streams.session)
             AND NOT EXISTS (SELECT 1 FROM sessions WHERE sessions.uuid = event_streams.session
                 AND sessions.ends_at > $1)",
        )
        .bind(before(KEEP_OTHERS))
        .execute(&mut *connection)
        .await?;
        Ok(removed >= u64::try_from(SWEEP).unwrap_or(u64::MAX))
    }
}

pub(super) struct Replay {
    pub(super) account: String,
    pub(super) of: EventFilter,
    pub(super) one: Option<Uuid>,
    pub(super) now: Timestamp,
}

impl Write for Replay {
    type Done = u64;

    async fn apply(&mut self, connection: &mut Connection) -> Result<u64, StoreError> {
        // A session whose URL was mended gets its events there.
        const REPLAY: &str = "UPDATE events SET state = 'pending', attempts = 0, settled_at = NULL, \
             give_up_at = $6, \
             url = COALESCE((SELECT NULLIF(CASE WHEN events.recording = 1 THEN s.recording_callback_url \
                 ELSE s.callback_url END, '') FROM sessions s WHERE s.uuid = events.session), url), \
             method = COALESCE((SELECT CASE WHEN events.recording = 1 THEN s.recording_callback_method \
                 ELSE s.callback_method END FROM sessions s WHERE s.uuid = events.session), method) \
             WHERE uuid IN (SELECT e.uuid FROM events e WHERE e.account = $1 \
                 AND ($2 IS NULL OR e.subaccount = $2) AND ($3 IS NULL OR e.session = $3) \
                 AND (($4 IS NULL AND e.state = 'dead') \
                      OR (e.uuid = $4 AND e.state IN ('dead', 'delivered'))) \
                 AND e.session IS NOT NULL ORDER BY e.session, e.sequence LIMIT $5) \
             RETURNING session, channel, url";
        let give_up_at = self.now.saturating_add(GIVE_UP).unwrap_or(self.now);
        let rows = query(REPLAY)
            .bind(&self.account)
            .bind(self.of.subaccount.as_deref())
            .bind(self.of.session.map(|session| session.to_string()))
            .bind(self.one.map(|uuid| uuid.to_string()))
            .bind(SWEEP)
            .bind(micros(give_up_at))
            .fetch_all(&mut *connection)
            .await?;
        for row in &rows {
            // What waits already behind a receiver that failed is tried at once as well.
            query(
                "INSERT INTO event_streams (session, channel, sequence, host, due_at, lease_until, touched_at)
                 VALUES ($1, $2, (SELECT MAX(sequence) FROM events WHERE session = $1), $3, $4, 0, $4)
                 ON CONFLICT (session, channel) DO UPDATE SET host = excluded.host, due_at = excluded.due_at,
                     touched_at = excluded.touched_at",
            )
            .bind(row.text("session")?)
            .bind(row.text("channel")?)
            .bind(host(&row.text("url")?))
            .bind(micros(self.now))
            .execute(&mut *connection)
            .await?;
        }
        Ok(u64::try_from(rows.len()).unwrap_or(u64::MAX))
    }
}
