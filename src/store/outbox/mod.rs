//! The outbox: events wait here until their receiver has taken them.
//!
//! An event is inserted in the transaction that stores the fact which it reports. What belongs to one session and
//! receiver is a *stream*: it is sent in order, by one process at a time, which holds the stream's lease. The row of
//! a stream is locked by whoever adds to it or settles it, so a number is given in the order of the commits, and no
//! event is added behind the back of a process that has just found the stream empty.

pub(super) mod delivery;
mod report;

use std::fmt;

use jiff::{SignedDuration, Timestamp};
use uuid::Uuid;

use super::conditions::{Conditions, Span};
use super::hours::{List, Page, Shape};
use super::row::{Columns, micros};
use super::sql::{Query, Row, query};
use super::{Store, StoreError};
use crate::clock;
use crate::masking::session::HttpMethod;
use delivery::{Claim, FreeStreams, Prune, Replay, Replayed, Settle};
use report::ReportExpiries;

pub use report::RecordingReport;
pub(super) use report::{insert, report_orphans, report_recording};

/// After so long, and [`MIN_TRIES`] attempts, an event is given up.
const GIVE_UP: SignedDuration = SignedDuration::from_hours(24);
/// However old an event is, it is tried so often.
pub const MIN_TRIES: u32 = 5;
/// How long delivered events are kept, and how long all others that wait for nothing.
const KEEP_DELIVERED: SignedDuration = SignedDuration::from_hours(7 * 24);
const KEEP_OTHERS: SignedDuration = SignedDuration::from_hours(30 * 24);
/// Sessions whose end is told in one transaction.
const SWEEP: i64 = 500;
/// So many are sent again or removed in one transaction: each may lie on a page of its own, and a call's PIN may wait for it.
const STEP: i64 = 100;
/// The most that are sent again by one request, in a few seconds.
const REPLAYED: u64 = if cfg!(test) { 500 } else { 10_000 };

/// Events of one session that are sent one after the other.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stream {
    /// The session.
    pub session: Uuid,
    /// `call`, or `recording` for recording events that have a receiver of their own.
    pub channel: String,
}

/// How far the delivery of an event is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventState {
    /// It waits for its turn.
    Pending,
    /// The receiver has taken it.
    Delivered,
    /// It was given up; it can be replayed.
    Dead,
    /// It is the account's and is sent nowhere.
    Kept,
}

impl EventState {
    /// As stored and shown.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Delivered => "delivered",
            Self::Dead => "dead",
            Self::Kept => "kept",
        }
    }

    /// Reads what [`Self::as_str`] writes.
    #[must_use]
    pub fn parse(input: &str) -> Option<Self> {
        [Self::Pending, Self::Delivered, Self::Dead, Self::Kept]
            .into_iter()
            .find(|state| input.eq_ignore_ascii_case(state.as_str()))
    }
}

/// An event as it is stored.
#[derive(Clone, PartialEq, Eq)]
pub struct StoredEvent {
    /// The event.
    pub uuid: Uuid,
    /// The account of its session.
    pub account: String,
    /// The sub-account of its session.
    pub subaccount: Option<String>,
    /// Its session.
    pub session: Option<Uuid>,
    /// Its place within the session, from 1; 0 without one.
    pub sequence: u64,
    /// `EventName`.
    pub name: String,
    /// When it happened.
    pub happened_at: Timestamp,
    /// What is sent, in order, without `SequenceNumber`. The parties' numbers are among it.
    pub parameters: Vec<(String, String)>,
    /// Where it goes; empty: nowhere.
    pub url: String,
    /// How it is sent.
    pub method: HttpMethod,
    /// How far it is.
    pub state: EventState,
    /// Attempts so far, since the last replay.
    pub attempts: u32,
    /// The last attempt.
    pub tried_at: Option<Timestamp>,
    /// When it was delivered or given up.
    pub settled_at: Option<Timestamp>,
    /// The receiver's last answer.
    pub http_status: Option<u16>,
    /// What was wrong with the last attempt.
    pub failure: Option<String>,
    /// When it is given up, if it was tried often enough by then.
    pub give_up_at: Timestamp,
}

impl StoredEvent {
    /// All that is sent. `base` goes before the paths of our own resources.
    #[must_use]
    pub fn sent(&self, base: &str) -> Vec<(String, String)> {
        let mut parameters = self.parameters.clone();
        for (name, value) in &mut parameters {
            if matches!(name.as_str(), "RecordingURL" | "RecordingResourceURL") && value.starts_with('/') {
                value.insert_str(0, base);
            }
        }
        parameters.push(("SequenceNumber".to_owned(), self.sequence.to_string()));
        parameters
    }
}

impl fmt::Debug for StoredEvent {
    /// Without parameters and URL, which may hold numbers.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoredEvent")
            .field("uuid", &self.uuid)
            .field("session", &self.session)
            .field("sequence", &self.sequence)
            .field("name", &self.name)
            .field("state", &self.state)
            .field("attempts", &self.attempts)
            .finish_non_exhaustive()
    }
}

/// How an attempt went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attempt {
    /// The receiver has taken it.
    Delivered {
        /// Its answer.
        status: u16,
    },
    /// It has not.
    Failed {
        /// Its answer, if there was one.
        status: Option<u16>,
        /// In words.
        reason: &'static str,
        /// When to try again; `None`: the event is given up.
        retry_at: Option<Timestamp>,
    },
}

/// The right to send a stream's events for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// Who has it.
    pub owner: Uuid,
    /// Until when.
    pub until: Timestamp,
}

/// Which events a list shows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EventFilter {
    /// Of this sub-account only.
    pub subaccount: Option<String>,
    /// Of this session only.
    pub session: Option<Uuid>,
    /// That are so far.
    pub state: Option<EventState>,
}

macro_rules! event_columns {
    () => {
        "uuid, account, subaccount, session, sequence, name, happened_at, parameters, url, method, state, \
         attempts, tried_at, settled_at, http_status, failure, give_up_at"
    };
}

use event_columns;

impl Store {
    /// Reports that a recording can be fetched, or could not be made: an event to `recording_callback_url` of the
    /// interaction's session. A repeated report changes nothing.
    ///
    /// # Errors
    /// [`StoreError`] when the database fails.
    pub async fn report_recording(&self, report: RecordingReport) -> Result<(), StoreError> {
        self.write(report).await
    }

    /// Notes of every session that has ended by `now` that it is over, and writes the event of those that have
    /// expired. Returns how many there were; when there may be more, it returns as many as it takes at a time.
    ///
    /// # Errors
    /// [`StoreError`] when the database fails.
    pub async fn report_expiries(&self, now: Timestamp) -> Result<u64, StoreError> {
        const DUE: &str = "SELECT uuid FROM sessions WHERE timeout_told = 0 AND ends_at <= $1 \
                           ORDER BY ends_at LIMIT $2";
        // Most of the time there is nothing to write.
        let due = query(DUE).bind(micros(now)).bind(SWEEP).fetch_all(self.readers()).await?;
        if due.is_empty() {
            return Ok(0);
        }
        let sessions = due.iter().map(|row| row.uuid("uuid")).collect::<Result<_, _>>()?;
        self.write(ReportExpiries { sessions, now }).await
    }

    /// Receivers that have something due, longest waiting first.
    ///
    /// # Errors
    /// [`StoreError`] when the database fails.
    pub async fn due_hosts(&self, now: Timestamp, limit: u32) -> Result<Vec<String>, StoreError> {
        let rows = hosts_due(now, limit).fetch_all(self.readers()).await?;
        rows.iter().map(|row| row.text("host")).collect()
    }

    /// The receiver's streams that have something due and that nobody sends, longest waiting first.
    ///
    /// # Errors
    /// [`StoreError`] when the database fails.
    pub async fn due_streams(
        &self,
        host: &str,
        now: Timestamp,
        limit: usize,
    ) -> Result<Vec<Stream>, StoreError> {
        const STREAMS: &str = "SELECT session, channel FROM event_streams WHERE host = $1 AND due_at <= $2 \
                               AND lease_until <= $2 ORDER BY due_at LIMIT CAST($3 AS BIGINT)";
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let rows = query(STREAMS).bind(host).bind(micros(now)).bind(limit).fetch_all(self.readers()).await?;
        let stream = |row: &Row| Ok(Stream { session: row.uuid("session")?, channel: row.text("channel")? });
        rows.iter().map(stream).collect()
    }

    /// Takes the lease of a stream, if it is still due and free, and returns its first event.
    ///
    /// # Errors
    /// [`StoreError`] when the database fails.
    pub async fn claim_stream(
        &self,
        stream: Stream,
        lease: Lease,
        now: Timestamp,
    ) -> Result<Option<StoredEvent>, StoreError> {
        self.write(Claim { stream, lease, now }).await
    }

    /// Notes how an attempt went and returns the next event of the stream, if it is to be sent now. Without one
    /// the lease is given back.
    ///
    /// # Errors
    /// [`StoreError`] when the database fails.
    pub async fn settle_event(
        &self,
        stream: Stream,
        lease: Lease,
        event: Uuid,
        attempt: Attempt,
        now: Timestamp,
    ) -> Result<Option<StoredEvent>, StoreError> {
        self.write(Settle { stream, lease, event, attempt, now }).await
    }

    /// Frees what an earlier process of ours was sending when it died. With several processes on one database
    /// their leases must run out instead.
    ///
    /// # Errors
    /// [`StoreError`] when the database fails.
    pub async fn free_streams(&self) -> Result<(), StoreError> {
        self.write(FreeStreams).await
    }

    /// How many events wait.
    ///
    /// # Errors
    /// [`StoreError`] when the database fails.
    pub async fn pending_events(&self) -> Result<u64, StoreError> {
        const PENDING: &str = "SELECT COUNT(*) AS total FROM events WHERE state = 'pending'";
        query(PENDING).fetch_one(self.lists()).await?.unsigned("total")
    }

    /// Removes events that are old enough. Returns whether there may be more of them.
    ///
    /// # Errors
    /// [`StoreError`] when the database fails.
    pub async fn prune_events(&self, now: Timestamp) -> Result<bool, StoreError> {
        let is_more = self.write(Prune(now)).await?;
        self.inner.hours.forget(SHAPE.table);
        Ok(is_more)
    }

    /// The account's events, newest first, and how many there are.
    ///
    /// # Errors
    /// [`StoreError`] when the database fails.
    pub async fn list_events(
        &self,
        account: &str,
        filter: &EventFilter,
        limit: u32,
        offset: u64,
    ) -> Result<(Vec<StoredEvent>, u64), StoreError> {
        self.list_events_at(account, filter, limit, offset, clock::wall_now()).await
    }

    pub(super) async fn list_events_at(
        &self,
        account: &str,
        filter: &EventFilter,
        limit: u32,
        offset: u64,
        now: Timestamp,
    ) -> Result<(Vec<StoredEvent>, u64), StoreError> {
        let page = Page { limit: limit.into(), offset };
        let (rows, total) = if filter.session.is_some() {
            self.short_list(SHAPE, events_of_session(account, filter), page).await?
        } else {
            self.long_list(&events_of_account(account, filter), page, micros(now)).await?
        };
        Ok((rows.iter().map(stored_event).collect::<Result<_, _>>()?, total))
    }

    /// The account's event; with `subaccount`, only if it is that one's.
    ///
    /// # Errors
    /// [`StoreError`] when the database fails.
    pub async fn find_event(
        &self,
        account: &str,
        subaccount: Option<&str>,
        uuid: Uuid,
    ) -> Result<Option<StoredEvent>, StoreError> {
        const FIND: &str = concat!(
            "SELECT ",
            event_columns!(),
            " FROM events WHERE uuid = $1 AND account = $2 AND ($3 IS NULL OR subaccount = $3)"
        );
        let row = query(FIND).bind(uuid).bind(account).bind(subaccount).fetch_optional(self.readers());
        row.await?.as_ref().map(stored_event).transpose()
    }

    /// Sends one event again, whether it was delivered or given up. `false`: there is no such event, or it is sent
    /// nowhere, or it still waits.
    ///
    /// # Errors
    /// [`StoreError`] when the database fails.
    pub async fn replay_event(
        &self,
        account: &str,
        subaccount: Option<&str>,
        uuid: Uuid,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let (account, subaccount) = (account.to_owned(), subaccount.map(str::to_owned));
        let replayed = self.write(Replay { account, what: Replayed::One { uuid, subaccount }, now }).await?;
        self.inner.hours.forget(SHAPE.table);
        Ok(replayed > 0)
    }

    /// Sends again what was given up, of the whole account or of what `of` names. Returns how many events; of more
    /// than 10,000 the oldest, so that it may be repeated until it returns 0.
    ///
    /// # Errors
    /// [`StoreError`] when the database fails.
    pub async fn replay_dead_events(
        &self,
        account: &str,
        of: EventFilter,
        now: Timestamp,
    ) -> Result<u64, StoreError> {
        let mut replayed = 0;
        loop {
            let (account, what) = (account.to_owned(), Replayed::Dead(of.clone()));
            let step = self.write(Replay { account, what, now }).await?;
            self.inner.hours.forget(SHAPE.table);
            replayed += step;
            if step < STEP.unsigned_abs() || replayed >= REPLAYED {
                return Ok(replayed);
            }
        }
    }
}

const SHAPE: Shape = Shape {
    rows: concat!("SELECT ", event_columns!(), " FROM events"),
    table: "events",
    uuid: "uuid",
    time: "happened_at",
    order: "happened_at DESC, sequence DESC, uuid",
};

/// Steps from receiver to receiver, and looks at the longest waiting streams of each only: besides one that is free,
/// these are the ones that are being sent.
/// Asked after every commit. SQLite plans a statement anew whenever another number stands in a bare `LIMIT $n`.
pub(super) fn hosts_due<'q>(now: Timestamp, limit: u32) -> Query<'q> {
    query(
        "WITH RECURSIVE hosts(host) AS (
             SELECT (SELECT first.host FROM event_streams first WHERE first.due_at IS NOT NULL
                     ORDER BY first.host LIMIT 1)
             UNION ALL
             SELECT (SELECT next.host FROM event_streams next WHERE next.due_at IS NOT NULL
                     AND next.host > hosts.host ORDER BY next.host LIMIT 1)
             FROM hosts WHERE hosts.host IS NOT NULL)
         SELECT host, due FROM (SELECT hosts.host AS host,
             (SELECT s.due_at FROM event_streams s WHERE s.host = hosts.host AND s.due_at <= $1
              AND s.lease_until <= $1 ORDER BY s.due_at LIMIT 1) AS due FROM hosts) AS waiting
         WHERE due IS NOT NULL ORDER BY due, host LIMIT CAST($2 AS BIGINT)",
    )
    .bind(micros(now))
    .bind(i64::from(limit))
}

/// Events of one session: a handful, whatever else is asked.
pub(super) fn events_of_session<'q>(account: &'q str, filter: &'q EventFilter) -> Conditions<'q> {
    let mut all = Conditions::default();
    all.and("account || '' = ?", Some(account));
    all.and("session = ?", filter.session);
    all.and("subaccount || '' = ?", filter.subaccount.as_deref());
    all.and("state || '' = ?", filter.state.map(EventState::as_str));
    all
}

/// All others, in the order of their time. What was given up has an index of its own.
pub(super) fn events_of_account<'q>(account: &'q str, filter: &'q EventFilter) -> List<'q> {
    let mut whole = Conditions::default();
    whole.and("account = ?", Some(account));
    let is_dead = filter.state == Some(EventState::Dead);
    if is_dead {
        whole.also("state = 'dead'");
    }
    let mut fit = whole.clone();
    fit.and("subaccount = ?", filter.subaccount.as_deref());
    fit.and("state || '' = ?", filter.state.filter(|_| !is_dead).map(EventState::as_str));
    List { shape: SHAPE, whole, fit, within: Span::default() }
}

fn stored_event(row: &Row) -> Result<StoredEvent, StoreError> {
    let parameters = serde_json::from_str(&row.text("parameters")?);
    Ok(StoredEvent {
        uuid: row.uuid("uuid")?,
        account: row.text("account")?,
        subaccount: row.text_opt("subaccount")?,
        session: row.uuid_opt("session")?,
        sequence: row.unsigned("sequence")?,
        name: row.text("name")?,
        happened_at: row.time("happened_at")?,
        parameters: parameters.map_err(|_| StoreError::Corrupt("parameters"))?,
        url: row.text("url")?,
        method: HttpMethod::parse(&row.text("method")?).ok_or(StoreError::Corrupt("method"))?,
        state: EventState::parse(&row.text("state")?).ok_or(StoreError::Corrupt("state"))?,
        attempts: row.unsigned("attempts")?,
        tried_at: row.time_opt("tried_at")?,
        settled_at: row.time_opt("settled_at")?,
        http_status: row.unsigned_opt("http_status")?,
        failure: row.text_opt("failure")?,
        give_up_at: row.time("give_up_at")?,
    })
}
