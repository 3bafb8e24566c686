//! The courier's writes: it claims a stream, settles one event after the other, and gives the stream back; old events
//! are removed, and told ones sent again.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use uuid::Uuid;

use super::report::host;
use super::{
    Attempt, EventFilter, EventState, GIVE_UP, KEEP_DELIVERED, KEEP_OTHERS, Lease, STEP, StoredEvent, Stream,
    event_columns, stored_event,
};
use crate::store::StoreError;
use crate::store::conditions::Conditions;
use crate::store::row::{Columns, micros};
use crate::store::sql::{Connection, Query, query};
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
        .bind(self.stream.session)
        .bind(&self.stream.channel)
        .bind(self.lease.owner)
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
    let next =
        query(NEXT).bind(stream.session).bind(&stream.channel).fetch_optional(&mut *connection).await?;
    if next.is_none() {
        let rest = "UPDATE event_streams SET due_at = NULL, lease_owner = NULL, lease_until = 0
                    WHERE session = $1 AND channel = $2";
        query(rest).bind(stream.session).bind(&stream.channel).execute(&mut *connection).await?;
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
        .bind(self.stream.session)
        .bind(&self.stream.channel)
        .bind(self.lease.owner)
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
        .bind(self.event)
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
        .bind(self.stream.session)
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

pub(in crate::store) struct Prune(pub(in crate::store) Timestamp);

impl Prune {
    fn before(&self, age: SignedDuration) -> i64 {
        micros(self.0.saturating_sub(age).unwrap_or(Timestamp::MIN))
    }

    /// What is removed, and of what.
    pub(in crate::store) fn statements(&self) -> [Query<'static>; 3] {
        let delivered = "DELETE FROM events WHERE uuid IN (SELECT uuid FROM events \
                         WHERE state = 'delivered' AND settled_at < $1 LIMIT $2)";
        let others = "DELETE FROM events WHERE uuid IN (SELECT uuid FROM events \
                      WHERE state IN ('dead', 'kept') AND settled_at < $1 LIMIT $2)";
        // A stream's row gives the next number, so it outlives its events by far.
        let streams = "DELETE FROM event_streams WHERE (session, channel) IN \
                       (SELECT s.session, s.channel FROM event_streams s WHERE s.due_at IS NULL \
                        AND s.touched_at < $1 \
                        AND NOT EXISTS (SELECT 1 FROM events e WHERE e.session = s.session) \
                        AND NOT EXISTS (SELECT 1 FROM sessions o WHERE o.uuid = s.session AND o.ends_at > $1) \
                        LIMIT $2)";
        [(delivered, KEEP_DELIVERED), (others, KEEP_OTHERS), (streams, KEEP_OTHERS)]
            .map(|(sql, age)| query(sql).bind(self.before(age)).bind(STEP))
    }
}

impl Write for Prune {
    type Done = bool;
    const MAY_WAIT: bool = true;

    async fn apply(&mut self, connection: &mut Connection) -> Result<bool, StoreError> {
        for statement in self.statements() {
            // Streams come last: as long as events are left, all that is old is looked through for a stream without any.
            if statement.execute(&mut *connection).await? >= STEP.unsigned_abs() {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

pub(in crate::store) struct Replay {
    pub(in crate::store) account: String,
    pub(in crate::store) what: Replayed,
    pub(in crate::store) now: Timestamp,
}

/// What is sent again.
pub(in crate::store) enum Replayed {
    /// This event, whether it was delivered or given up.
    One { uuid: Uuid, subaccount: Option<String> },
    /// What was given up of this.
    Dead(EventFilter),
}

impl Replay {
    /// Returns the session, channel and URL of each event that is sent again.
    pub(in crate::store) fn statement(&self) -> Query<'_> {
        let mut fit = Conditions::default();
        let dead = match &self.what {
            Replayed::One { uuid, subaccount } => {
                fit.and("e.uuid = ?", Some(*uuid));
                fit.and("e.account || '' = ?", Some(self.account.as_str()));
                fit.and("e.subaccount = ?", subaccount.as_deref());
                fit.also("e.session IS NOT NULL AND e.state IN ('dead', 'delivered')");
                fit.sql().to_owned()
            }
            Replayed::Dead(of) => {
                let is_one = of.session.is_some();
                fit.and("e.session = ?", of.session);
                let account = if is_one { "e.account || '' = ?" } else { "e.account = ?" };
                fit.and(account, Some(self.account.as_str()));
                fit.and("e.subaccount = ?", of.subaccount.as_deref());
                fit.also("e.session IS NOT NULL AND e.state = 'dead'");
                let limit = fit.push(STEP);
                // Of one session a handful, of an account the oldest.
                let order = if is_one { "e.sequence" } else { "e.happened_at, e.sequence" };
                format!("{} ORDER BY {order} LIMIT ${limit}", fit.sql())
            }
        };
        let give_up_at = fit.push(micros(self.now.saturating_add(GIVE_UP).unwrap_or(self.now)));
        // A session whose URL was mended gets its events there.
        let sql = format!(
            "UPDATE events SET state = 'pending', attempts = 0, settled_at = NULL, give_up_at = ${give_up_at},
                 url = COALESCE((SELECT NULLIF(CASE WHEN events.recording = 1 THEN s.recording_callback_url
                     ELSE s.callback_url END, '') FROM sessions s WHERE s.uuid = events.session), url),
                 method = COALESCE((SELECT CASE WHEN events.recording = 1 THEN s.recording_callback_method
                     ELSE s.callback_method END FROM sessions s WHERE s.uuid = events.session), method)
             WHERE uuid IN (SELECT e.uuid FROM events e WHERE {dead}) RETURNING session, channel, url"
        );
        fit.statement(sql)
    }
}

impl Write for Replay {
    type Done = u64;

    async fn apply(&mut self, connection: &mut Connection) -> Result<u64, StoreError> {
        let rows = self.statement().fetch_all(&mut *connection).await?;
        // Each stream once, and in one order, so that two processes never wait for each other.
        let mut streams = BTreeMap::new();
        for row in &rows {
            streams.insert((row.text("session")?, row.text("channel")?), host(&row.text("url")?));
        }
        for ((session, channel), host) in streams {
            // What waits already behind a receiver that failed is tried at once as well.
            query(
                "INSERT INTO event_streams (session, channel, sequence, host, due_at, lease_until, touched_at)
                 VALUES ($1, $2, (SELECT MAX(sequence) FROM events WHERE session = $1), $3, $4, 0, $4)
                 ON CONFLICT (session, channel) DO UPDATE SET host = excluded.host, due_at = excluded.due_at,
                     touched_at = excluded.touched_at",
            )
            .bind(session)
            .bind(channel)
            .bind(host)
            .bind(micros(self.now))
            .execute(&mut *connection)
            .await?;
        }
        Ok(u64::try_from(rows.len()).unwrap_or(u64::MAX))
    }
}
