//! What goes into the outbox, in the transaction of the fact that it reports: events of calls, of calls that a dead
//! process left, of recordings, and of sessions whose time is over.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::LazyLock;

use jiff::Timestamp;
use media::Side;
use uuid::Uuid;

use super::{EventState, GIVE_UP};
use crate::callbacks::event::{CallEvent, EndedLeg, Happening, RecordingFacts, Subject, end_of_call};
use crate::callbacks::signature::authority;
use crate::masking::session::{HttpMethod, PartyRole};
use crate::store::StoreError;
use crate::store::row::{Columns, micros};
use crate::store::sql::{Connection, Query, Row, query};
use crate::store::statements::Statements;
use crate::store::writer::Write;

/// Where the events of a session go.
struct Receivers {
    subaccount: Option<String>,
    /// URL and method; an empty URL: it wants to know nothing of this kind.
    calls: (String, String),
    recordings: (String, String),
}

impl Receivers {
    fn of(&self, event: &CallEvent) -> &(String, String) {
        if event.happening.is_of_recording() { &self.recordings } else { &self.calls }
    }

    /// One receiver hears all in order; two do not wait for each other.
    fn channel(&self, event: &CallEvent) -> &'static str {
        let apart = event.happening.is_of_recording() && self.recordings.0 != self.calls.0;
        if apart { "recording" } else { "call" }
    }
}

static RECEIVERS: LazyLock<Statements> = LazyLock::new(|| {
    Statements::new(1, |values| {
        format!(
            "SELECT uuid, subaccount, callback_url, callback_method, recording_callback_url, \
                 recording_callback_method FROM sessions WHERE uuid IN ({values})"
        )
    })
});

async fn receivers(
    connection: &mut Connection,
    events: &[&CallEvent],
) -> Result<HashMap<Uuid, Receivers>, StoreError> {
    let sessions: BTreeSet<Uuid> = events.iter().filter_map(|event| event.session).collect();
    let mut found = HashMap::new();
    for query in RECEIVERS.all(sessions.iter(), |query, session| query.bind(*session)) {
        for row in query.fetch_all(&mut *connection).await? {
            let receivers = Receivers {
                subaccount: row.text_opt("subaccount")?,
                calls: (row.text("callback_url")?, row.text("callback_method")?),
                recordings: (row.text("recording_callback_url")?, row.text("recording_callback_method")?),
            };
            found.insert(row.uuid("uuid")?, receivers);
        }
    }
    Ok(found)
}

static KNOWN: LazyLock<Statements> = LazyLock::new(|| {
    Statements::new(1, |values| format!("SELECT uuid FROM events WHERE uuid IN ({values})"))
});

/// An event that is not in the outbox yet.
struct Fresh<'a> {
    event: &'a CallEvent,
    /// `None`: it is sent nowhere and kept for the account.
    to: Option<&'a Receivers>,
    sequence: i64,
}

/// Adds events to the outbox, in the transaction of what they report; a repeated one changes nothing. Those of one
/// session are numbered in the order in which they are given.
pub(in crate::store) async fn insert(
    connection: &mut Connection,
    events: &[&CallEvent],
) -> Result<(), StoreError> {
    let receivers = receivers(connection, events).await?;
    let mut fresh = vec![];
    let mut known = HashSet::new();
    for event in events {
        let to = match event.session {
            None => None,
            Some(session) => match receivers.get(&session).filter(|to| !to.of(event).0.is_empty()) {
                None => continue,
                found => found,
            },
        };
        if known.insert(event.uuid) {
            fresh.push(Fresh { event, to, sequence: 0 });
        }
    }
    known.clear();
    for query in KNOWN.all(fresh.iter(), |query, fresh| query.bind(fresh.event.uuid)) {
        for row in query.fetch_all(&mut *connection).await? {
            known.insert(row.uuid("uuid")?);
        }
    }
    fresh.retain(|fresh| !known.contains(&fresh.event.uuid));
    number(connection, &mut fresh).await?;
    let mut stored = HashSet::new();
    for query in EVENTS.all(fresh.iter(), bind_event) {
        for row in query.fetch_all(&mut *connection).await? {
            stored.insert(row.uuid("uuid")?);
        }
    }
    if stored.len() < fresh.len() {
        close_gaps(connection, &fresh, &stored).await?;
    }
    Ok(())
}

static EVENTS: LazyLock<Statements> = LazyLock::new(|| {
    Statements::new(16, |values| {
        format!(
            "INSERT INTO events (uuid, account, subaccount, session, channel, sequence, name, happened_at, \
                 parameters, recording, url, method, state, attempts, settled_at, give_up_at) \
             {values} ON CONFLICT (uuid) DO NOTHING RETURNING uuid"
        )
    })
});

fn bind_event<'q>(query: Query<'q>, fresh: &Fresh<'q>) -> Query<'q> {
    let Fresh { event, to, sequence } = fresh;
    let parameters = serde_json::to_string(&event.parameters()).unwrap_or_default();
    let state = if to.is_some() { EventState::Pending } else { EventState::Kept };
    let (url, method) = match to.map(|to| to.of(event)) {
        Some((url, method)) => (url.as_str(), method.as_str()),
        None => ("", HttpMethod::Post.as_str()),
    };
    query
        .bind(event.uuid)
        .bind(&event.account)
        .bind(to.and_then(|to| to.subaccount.as_deref()))
        .bind(event.session)
        .bind(to.map_or("call", |to| to.channel(event)))
        .bind(*sequence)
        .bind(event.happening.name())
        .bind(micros(event.at))
        .bind(parameters)
        .bind(i64::from(event.happening.is_of_recording()))
        .bind(url)
        .bind(method)
        .bind(state.as_str())
        .bind(0)
        .bind((state == EventState::Kept).then(|| micros(event.at)))
        .bind(micros(event.at.saturating_add(GIVE_UP).unwrap_or(event.at)))
}

/// What events add to a stream.
#[derive(Default)]
struct Addition {
    count: i64,
    /// Empty, and nothing due: the events are another channel's, and this row only counts them.
    host: String,
    due_at: Option<Timestamp>,
    touched_at: Timestamp,
}

static STREAMS: LazyLock<Statements> = LazyLock::new(|| {
    Statements::new(7, |values| {
        format!(
            "INSERT INTO event_streams (session, channel, sequence, host, due_at, lease_until, touched_at) {values} \
             ON CONFLICT (session, channel) DO UPDATE \
             SET sequence = event_streams.sequence + excluded.sequence, \
                 host = CASE WHEN excluded.host = '' THEN event_streams.host ELSE excluded.host END, \
                 due_at = COALESCE(event_streams.due_at, excluded.due_at), touched_at = excluded.touched_at \
             RETURNING session, channel, sequence"
        )
    })
});

/// Gives the events the next numbers of their sessions and wakes the streams, whose rows are locked from now on: in
/// one order, so that two processes never wait for each other.
async fn number(connection: &mut Connection, fresh: &mut [Fresh<'_>]) -> Result<(), StoreError> {
    let mut additions: BTreeMap<(Uuid, &str), Addition> = BTreeMap::new();
    for Fresh { event, to, .. } in &*fresh {
        let (Some(session), Some(to)) = (event.session, to) else { continue };
        let channel = to.channel(event);
        // The calls' row counts for both channels; nothing of it waits because of the other one.
        let rows = if channel == "call" { &["call"][..] } else { &["call", channel] };
        for row in rows {
            let addition = additions.entry((session, row)).or_default();
            addition.count += 1;
            addition.touched_at = event.at;
            if *row == channel {
                addition.host = host(&to.of(event).0);
                addition.due_at = addition.due_at.or(Some(event.at));
            }
        }
    }
    let bind = |query: Query<'static>, ((session, channel), addition): (&(Uuid, &str), &Addition)| {
        query
            .bind(*session)
            .bind((*channel).to_owned())
            .bind(addition.count)
            .bind(addition.host.clone())
            .bind(addition.due_at.map(micros))
            .bind(0)
            .bind(micros(addition.touched_at))
    };
    let mut next = HashMap::new();
    for query in STREAMS.all(additions.iter(), bind) {
        for row in query.fetch_all(&mut *connection).await? {
            if row.text("channel")? == "call" {
                let session = row.uuid("session")?;
                let added = additions.get(&(session, "call")).map_or(0, |addition| addition.count);
                next.insert(session, row.integer("sequence")?.saturating_sub(added).saturating_add(1));
            }
        }
    }
    for fresh in fresh {
        if let Some(next) = fresh.event.session.and_then(|session| next.get_mut(&session)) {
            fresh.sequence = *next;
            *next = next.saturating_add(1);
        }
    }
    Ok(())
}

/// Another process had reported some of the events before we got their streams; what follows them moves up, because
/// a number that is left out would look like an event that got lost.
async fn close_gaps(
    connection: &mut Connection,
    fresh: &[Fresh<'_>],
    stored: &HashSet<Uuid>,
) -> Result<(), StoreError> {
    let mut gaps: BTreeMap<Uuid, i64> = BTreeMap::new();
    for Fresh { event, .. } in fresh {
        let Some(session) = event.session else { continue };
        let gap = gaps.entry(session).or_default();
        if !stored.contains(&event.uuid) {
            *gap += 1;
        } else if *gap > 0 {
            let move_up = query("UPDATE events SET sequence = sequence - $2 WHERE uuid = $1");
            move_up.bind(event.uuid).bind(*gap).execute(&mut *connection).await?;
        }
    }
    for (session, gap) in gaps.into_iter().filter(|(_, gap)| *gap > 0) {
        query("UPDATE event_streams SET sequence = sequence - $2 WHERE session = $1 AND channel = 'call'")
            .bind(session)
            .bind(gap)
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}

pub(super) fn host(url: &str) -> String {
    reqwest::Url::parse(url).map(|url| authority(&url)).unwrap_or_default()
}

/// A leg that is stored as ended, with who is at its end.
struct EndRow {
    leg: EndedLeg,
    party: Option<crate::number::E164>,
}

static ENDED: LazyLock<Statements> = LazyLock::new(|| {
    Statements::new(1, |values| {
        format!(
            "SELECT interaction, session, account, side, virtual_number, party, role, answered_at, ended_at, \
                 hangup_cause_name, hangup_cause_code, hangup_source \
             FROM legs WHERE interaction IN ({values}) AND ended_at IS NOT NULL \
             ORDER BY interaction, side DESC, attempt DESC"
        )
    })
});

/// What is told of calls that ended with the process that made them; their legs are closed already.
pub(in crate::store) async fn report_orphans(
    connection: &mut Connection,
    interactions: &BTreeSet<String>,
) -> Result<(), StoreError> {
    let mut events = vec![];
    for query in ENDED.all(interactions.iter(), |query, interaction| query.bind(interaction)) {
        let rows = query.fetch_all(&mut *connection).await?;
        let mut calls: BTreeMap<String, Vec<&Row>> = BTreeMap::new();
        for row in &rows {
            calls.entry(row.text("interaction")?).or_default().push(row);
        }
        for legs in calls.values() {
            events.extend(end_of(legs)?);
        }
    }
    events.sort_by_key(|event| event.at);
    insert(connection, &events.iter().collect::<Vec<_>>()).await
}

/// The events of the end of a call, whose legs these are, the latest of each side first.
fn end_of(rows: &[&Row]) -> Result<Vec<CallEvent>, StoreError> {
    let last = |side: &str| rows.iter().find(|row| row.text("side").is_ok_and(|found| found == side));
    let (a, b) = (last("A"), last("B"));
    let Some(any) = a.or(b) else { return Ok(vec![]) };
    let (Some(session), Some(account)) = (any.uuid_opt("session")?, any.text_opt("account")?) else {
        return Ok(vec![]);
    };
    let role_of_b = b.map(|row| role(row)).transpose()?.flatten();
    let role_of_a = a.map(|row| role(row)).transpose()?.flatten().or(role_of_b.map(PartyRole::other));
    let a = a.zip(role_of_a).map(|(row, role)| end_row(row, role, "Caller")).transpose()?;
    let b = b.zip(role_of_b).map(|(row, role)| end_row(row, role, "Callee")).transpose()?;
    let (from, to) =
        (a.as_ref().and_then(|end| end.party.clone()), b.as_ref().and_then(|end| end.party.clone()));
    let subject = Subject { account, session: Some(session), calls: true, recordings: true };
    let interaction = any.uuid("interaction")?;
    let virtual_number = any.did_opt("virtual_number")?;
    let ends = end_of_call([a, b].into_iter().flatten().map(|end| end.leg));
    let event = |(happening, at)| CallEvent {
        interaction: Some(interaction),
        from: from.clone(),
        to: to.clone(),
        virtual_number: virtual_number.clone(),
        ..CallEvent::new(interaction, 0, &subject, happening, at)
    };
    Ok(ends.into_iter().map(event).collect())
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
pub(in crate::store) async fn report_recording(
    connection: &mut Connection,
    report: &RecordingReport,
) -> Result<(), StoreError> {
    let rows = query(
        "SELECT session, account, virtual_number, side, party FROM legs
         WHERE interaction = $1 AND session IS NOT NULL ORDER BY attempt DESC",
    )
    .bind(report.interaction)
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
    insert(connection, &[&event]).await
}

pub(super) struct ReportExpiries {
    pub(super) sessions: Vec<Uuid>,
    pub(super) now: Timestamp,
}

impl Write for ReportExpiries {
    type Done = u64;
    const MAY_WAIT: bool = true;

    async fn apply(&mut self, connection: &mut Connection) -> Result<u64, StoreError> {
        let mut told = 0;
        for session in &self.sessions {
            // Another process may have told it, or the session was changed meanwhile.
            let row = query(
                "UPDATE sessions SET timeout_told = 1 WHERE uuid = $1 AND timeout_told = 0 AND ends_at <= $2
                 RETURNING account, virtual_number, expires_at, ended_at, callback_url",
            )
            .bind(*session)
            .bind(micros(self.now))
            .fetch_optional(&mut *connection)
            .await?;
            let Some(row) = row else { continue };
            told += 1;
            // Who deletes a session knows; and somebody must want to hear.
            if row.time_opt("ended_at")?.is_some() || row.text("callback_url")?.is_empty() {
                continue;
            }
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
            insert(connection, &[&event]).await?;
        }
        Ok(told)
    }
}
