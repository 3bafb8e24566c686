//! The outbox: events wait here until their receiver has taken them.
//!
//! An event is inserted in the transaction that stores the fact which it reports. What belongs to one session and
//! receiver is a *stream*: it is sent in order, by one process at a time, which holds the stream's lease. The row of
//! a stream is locked by whoever adds to it or settles it, so a number is given in the order of the commits, and no
//! event is added behind the back of a process that has just found the stream empty.

use std::fmt;

use jiff::{SignedDuration, Timestamp};
use media::Side;
use uuid::Uuid;

use super::row::{Columns, micros};
use super::sql::{Connection, Row, query};
use super::writer::Write;
use super::{Store, StoreError};
use crate::callbacks::event::{CallEvent, EndedLeg, Happening, RecordingFacts, Subject, end_of_call};
use crate::callbacks::signature::authority;
use crate::masking::session::{HttpMethod, PartyRole};

/// After so long, and [`MIN_TRIES`] attempts, an event is given up.
const GIVE_UP: SignedDuration = SignedDuration::from_hours(24);
/// However old an event is, it is tried so often.
pub const MIN_TRIES: u32 = 5;
/// How long delivered events are kept, and how long all others that wait for nothing.
const KEEP_DELIVERED: SignedDuration = SignedDuration::from_hours(7 * 24);
const KEEP_OTHERS: SignedDuration = SignedDuration::from_hours(30 * 24);
/// Rows of one transaction of a sweep or a replay.
const SWEEP: i64 = 500;

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

impl Store {
    /// Reports that a recording can be fetched, or could not be made: an event to `recording_callback_url` of the
    /// interaction's session. A repeated report changes nothing.
    ///
    /// # Errors
    /// [`StoreError`] when the database fails.
    pub async fn report_recording(&self, report: RecordingReport) -> Result<(), StoreError> {
        self.write(report).await
    }

    /// Writes the event of every session that has expired by `now` and whose expiry was not told yet. Returns how
    /// many there were; when there may be more, it returns as many as it takes at a time.
    ///
    /// # Errors
    /// [`StoreError`] when the database fails.
    pub async fn report_expiries(&self, now: Timestamp) -> Result<u64, StoreError> {
        const DUE: &str = "SELECT uuid FROM sessions WHERE callback_url <> '' AND timeout_told = 0 \
                           AND ended_at IS NULL AND expires_at <= $1 ORDER BY expires_at LIMIT $2";
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
        const HOSTS: &str = "SELECT host, MIN(due_at) AS due FROM event_streams WHERE due_at <= $1 \
                             AND lease_until <= $1 GROUP BY host ORDER BY due LIMIT $2";
        let rows = query(HOSTS).bind(micros(now)).bind(i64::from(limit)).fetch_all(self.readers()).await?;
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
                               AND lease_until <= $2 ORDER BY due_at LIMIT $3";
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
        query(PENDING).fetch_one(self.readers()).await?.unsigned("total")
    }

    /// Removes events that are old enough. Returns whether there may be more of them.
    ///
    /// # Errors
    /// [`StoreError`] when the database fails.
    pub async fn prune_events(&self, now: Timestamp) -> Result<bool, StoreError> {
        self.write(Prune(now)).await
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
        macro_rules! filter {
            () => {
                " FROM events WHERE account = $1 AND ($2 IS NULL OR subaccount = $2) \
                 AND ($3 IS NULL OR session = $3) AND ($4 IS NULL OR state = $4)"
            };
        }
        const LIST: &str = concat!(
            "SELECT ",
            event_columns!(),
            filter!(),
            " ORDER BY happened_at DESC, sequence DESC, uuid LIMIT $5 OFFSET $6"
        );
        const COUNT: &str = concat!("SELECT COUNT(*) AS total", filter!());
        let filtered = |sql| {
            query(sql)
                .bind(account)
                .bind(filter.subaccount.as_deref())
                .bind(filter.session.map(|session| session.to_string()))
                .bind(filter.state.map(EventState::as_str))
        };
        let offset = i64::try_from(offset).unwrap_or(i64::MAX);
        let rows = filtered(LIST).bind(i64::from(limit)).bind(offset).fetch_all(self.readers()).await?;
        let total = filtered(COUNT).fetch_one(self.readers()).await?.unsigned("total")?;
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
        let row =
            query(FIND).bind(uuid.to_string()).bind(account).bind(subaccount).fetch_optional(self.readers());
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
        let of = EventFilter { subaccount: subaccount.map(str::to_owned), ..EventFilter::default() };
        Ok(self.write(Replay { account: account.to_owned(), of, one: Some(uuid), now }).await? > 0)
    }

    /// Sends again what was given up, of the whole account or of what `of` names. Returns how many events; of very
    /// many the oldest, so that it may be repeated until it returns 0.
    ///
    /// # Errors
    /// [`StoreError`] when the database fails.
    pub async fn replay_dead_events(
        &self,
        account: &str,
        of: EventFilter,
        now: Timestamp,
    ) -> Result<u64, StoreError> {
        self.write(Replay { account: account.to_owned(), of, one: None, now }).await
    }
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

/// Where a session's event goes.
struct Target {
    subaccount: Option<String>,
    channel: &'static str,
    url: String,
    method: String,
}

/// `None`: the session wants to know nothing of this kind.
async fn target(
    connection: &mut Connection,
    session: Uuid,
    recording: bool,
) -> Result<Option<Target>, StoreError> {
    let row = query(
        "SELECT subaccount, callback_url, callback_method, recording_callback_url, recording_callback_method
         FROM sessions WHERE uuid = $1",
    )
    .bind(session.to_string())
    .fetch_optional(connection)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let calls = row.text("callback_url")?;
    let (url, method) = if recording {
        (row.text("recording_callback_url")?, row.text("recording_callback_method")?)
    } else {
        (calls.clone(), row.text("callback_method")?)
    };
    if url.is_empty() {
        return Ok(None);
    }
    // One receiver hears all in order; two do not wait for each other.
    let channel = if recording && url != calls { "recording" } else { "call" };
    Ok(Some(Target { subaccount: row.text_opt("subaccount")?, channel, url, method }))
}

/// Adds an event to the outbox, in the transaction of what it reports; a repeated one changes nothing.
pub(super) async fn insert(connection: &mut Connection, event: &CallEvent) -> Result<(), StoreError> {
    let recording = event.happening.is_of_recording();
    let target = match event.session {
        None => None,
        Some(session) => match target(connection, session, recording).await? {
            None => return Ok(()),
            found => found,
        },
    };
    let known = query("SELECT uuid FROM events WHERE uuid = $1").bind(event.uuid.to_string());
    if known.fetch_optional(&mut *connection).await?.is_some() {
        return Ok(());
    }
    let sequence = match (&target, event.session) {
        (Some(target), Some(session)) => next_in_stream(connection, session, target, event.at).await?,
        _ => 0,
    };
    let give_up_at = event.at.saturating_add(GIVE_UP).unwrap_or(event.at);
    let parameters = serde_json::to_string(&event.parameters()).unwrap_or_default();
    let state = if target.is_some() { EventState::Pending } else { EventState::Kept };
    query(
        "INSERT INTO events (uuid, account, subaccount, session, channel, sequence, name, happened_at, parameters,
             recording, url, method, state, attempts, settled_at, give_up_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, 0, $14, $15)",
    )
    .bind(event.uuid.to_string())
    .bind(&event.account)
    .bind(target.as_ref().and_then(|target| target.subaccount.as_deref()))
    .bind(event.session.map(|session| session.to_string()))
    .bind(target.as_ref().map_or("call", |target| target.channel))
    .bind(sequence)
    .bind(event.happening.name())
    .bind(micros(event.at))
    .bind(parameters)
    .bind(i64::from(recording))
    .bind(target.as_ref().map(|target| target.url.clone()).unwrap_or_default())
    .bind(target.as_ref().map_or_else(|| HttpMethod::Post.as_str().to_owned(), |target| target.method.clone()))
    .bind(state.as_str())
    .bind((state == EventState::Kept).then(|| micros(event.at)))
    .bind(micros(give_up_at))
    .execute(connection)
    .await?;
    Ok(())
}

/// The session's next number; wakes the stream. From now on the stream's row is locked.
async fn next_in_stream(
    connection: &mut Connection,
    session: Uuid,
    target: &Target,
    at: Timestamp,
) -> Result<i64, StoreError> {
    let host = host(&target.url);
    if target.channel != "call" {
        wake(connection, session, target.channel, &host, Some(at), at).await?;
        // The other channel's row counts for both; nothing of it waits because of this.
        return wake(connection, session, "call", "", None, at).await;
    }
    wake(connection, session, "call", &host, Some(at), at).await
}

/// Makes a stream due, counts it up and returns the number.
async fn wake(
    connection: &mut Connection,
    session: Uuid,
    channel: &str,
    host: &str,
    due: Option<Timestamp>,
    at: Timestamp,
) -> Result<i64, StoreError> {
    query(
        "INSERT INTO event_streams (session, channel, sequence, host, due_at, lease_until, touched_at)
         VALUES ($1, $2, 1, $3, $4, 0, $5)
         ON CONFLICT (session, channel) DO UPDATE SET sequence = event_streams.sequence + 1,
             host = CASE WHEN excluded.host = '' THEN event_streams.host ELSE excluded.host END,
             due_at = COALESCE(event_streams.due_at, excluded.due_at), touched_at = excluded.touched_at
         RETURNING sequence",
    )
    .bind(session.to_string())
    .bind(channel)
    .bind(host)
    .bind(due.map(micros))
    .bind(micros(at))
    .fetch_one(connection)
    .await?
    .integer("sequence")
}

fn host(url: &str) -> String {
    reqwest::Url::parse(url).map(|url| authority(&url)).unwrap_or_default()
}

/// A leg that is stored as ended, with who is at its end.
struct EndRow {
    leg: EndedLeg,
    party: Option<crate::number::E164>,
}

/// What is told of calls that ended with the process that made them; their legs are closed already.
pub(super) async fn report_orphans(
    connection: &mut Connection,
    interactions: &[String],
) -> Result<(), StoreError> {
    let mut done: Vec<&str> = Vec::with_capacity(interactions.len());
    for interaction in interactions {
        if !done.contains(&interaction.as_str()) {
            done.push(interaction);
            report_end(connection, interaction).await?;
        }
    }
    Ok(())
}

async fn report_end(connection: &mut Connection, interaction: &str) -> Result<(), StoreError> {
    let rows = query(
        "SELECT interaction, session, account, side, virtual_number, party, role, answered_at, ended_at,
             hangup_cause_name, hangup_cause_code, hangup_source
         FROM legs WHERE interaction = $1 AND ended_at IS NOT NULL ORDER BY side DESC, attempt DESC",
    )
    .bind(interaction)
    .fetch_all(&mut *connection)
    .await?;
    let last = |side: &str| rows.iter().find(|row| row.text("side").is_ok_and(|found| found == side));
    let (a, b) = (last("A"), last("B"));
    let Some(any) = a.or(b) else { return Ok(()) };
    let (Some(session), Some(account)) = (any.uuid_opt("session")?, any.text_opt("account")?) else {
        return Ok(());
    };
    let role_of_b = b.map(role).transpose()?.flatten();
    let role_of_a = a.map(role).transpose()?.flatten().or(role_of_b.map(PartyRole::other));
    let a = a.zip(role_of_a).map(|(row, role)| end_row(row, role, "Caller")).transpose()?;
    let b = b.zip(role_of_b).map(|(row, role)| end_row(row, role, "Callee")).transpose()?;
    let (from, to) =
        (a.as_ref().and_then(|end| end.party.clone()), b.as_ref().and_then(|end| end.party.clone()));
    let subject = Subject { account, session: Some(session), calls: true, recordings: true };
    let interaction = any.uuid("interaction")?;
    let virtual_number = any.did_opt("virtual_number")?;
    for (happening, at) in end_of_call([a, b].into_iter().flatten().map(|end| end.leg)) {
        let event = CallEvent {
            interaction: Some(interaction),
            from: from.clone(),
            to: to.clone(),
            virtual_number: virtual_number.clone(),
            ..CallEvent::new(interaction, 0, &subject, happening, at)
        };
        insert(connection, &event).await?;
    }
    Ok(())
}

fn role(row: &Row) -> Result<Option<PartyRole>, StoreError> {
    Ok(match row.text_opt("role")?.as_deref() {
        Some("first") => Some(PartyRole::First),
        Some("second") => Some(PartyRole::Second),
        _ => None,
    })
}

fn end_row(row: &Row, role: PartyRole, party: &str) -> Result<EndRow, StoreError> {
    Ok(EndRow {
        leg: EndedLeg {
            role,
            answered_at: row.time_opt("answered_at")?,
            ended_at: row.time("ended_at")?,
            cause: row.text_opt("hangup_cause_name")?.unwrap_or_default().into(),
            code: row.unsigned_opt("hangup_cause_code")?.unwrap_or_default(),
            left_first: row.text_opt("hangup_source")?.as_deref() == Some(party),
        },
        party: row.party("party")?,
    })
}

/// What became of a recording.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordingReport {
    /// The call.
    pub interaction: Uuid,
    /// When it became of it.
    pub at: Timestamp,
    /// `None`: the recording could not be made.
    pub facts: Option<RecordingFacts>,
}

impl Write for RecordingReport {
    type Done = ();

    async fn apply(&mut self, connection: &mut Connection) -> Result<(), StoreError> {
        report_recording(connection, self).await
    }
}

/// As [`Store::report_recording`], in the transaction of what is reported.
pub(super) async fn report_recording(
    connection: &mut Connection,
    report: &RecordingReport,
) -> Result<(), StoreError> {
    let rows = query(
        "SELECT session, account, virtual_number, side, party FROM legs
         WHERE interaction = $1 AND session IS NOT NULL ORDER BY attempt DESC",
    )
    .bind(report.interaction.to_string())
    .fetch_all(&mut *connection)
    .await?;
    let Some(any) = rows.first() else { return Ok(()) };
    let (Some(session), Some(account)) = (any.uuid_opt("session")?, any.text_opt("account")?) else {
        return Ok(());
    };
    let party = |side: Side| {
        let name = if side == Side::A { "A" } else { "B" };
        let row = rows.iter().find(|row| row.text("side").is_ok_and(|found| found == name));
        row.map(|row| row.party("party")).transpose().map(Option::flatten)
    };
    let happening = match &report.facts {
        Some(facts) => Happening::RecordingCompleted(Box::new(facts.clone())),
        None => Happening::RecordingFailed,
    };
    let subject = Subject { account, session: Some(session), calls: true, recordings: true };
    let event = CallEvent {
        interaction: Some(report.interaction),
        from: party(Side::A)?,
        to: party(Side::B)?,
        virtual_number: any.did_opt("virtual_number")?,
        ..CallEvent::new(report.interaction, 0, &subject, happening, report.at)
    };
    insert(connection, &event).await
}

struct ReportExpiries {
    sessions: Vec<Uuid>,
    now: Timestamp,
}

impl Write for ReportExpiries {
    type Done = u64;
    const MAY_WAIT: bool = true;

    async fn apply(&mut self, connection: &mut Connection) -> Result<u64, StoreError> {
        let mut told = 0;
        for session in &self.sessions {
            // Another process may have told it, or the session was changed meanwhile.
            let row = query(
                "UPDATE sessions SET timeout_told = 1 WHERE uuid = $1 AND timeout_told = 0
                 AND ended_at IS NULL AND expires_at <= $2 RETURNING account, virtual_number, expires_at",
            )
            .bind(session.to_string())
            .bind(micros(self.now))
            .fetch_optional(&mut *connection)
            .await?;
            let Some(row) = row else { continue };
            let subject = Subject {
                account: row.text("account")?,
                session: Some(*session),
                calls: true,
                recordings: false,
            };
            let expired_at = row.time("expires_at")?;
            let event = CallEvent {
                virtual_number: row.did_opt("virtual_number")?,
                ..CallEvent::new(*session, 0, &subject, Happening::SessionExpired, expired_at)
            };
            insert(connection, &event).await?;
            told += 1;
        }
        Ok(told)
    }
}

struct Claim {
    stream: Stream,
    lease: Lease,
    now: Timestamp,
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

struct Settle {
    stream: Stream,
    lease: Lease,
    event: Uuid,
    attempt: Attempt,
    now: Timestamp,
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

struct FreeStreams;

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

struct Prune(Timestamp);

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

struct Replay {
    account: String,
    of: EventFilter,
    one: Option<Uuid>,
    now: Timestamp,
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
