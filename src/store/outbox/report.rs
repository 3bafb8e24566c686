//! What goes into the outbox, in the transaction of the fact that it reports: events of calls, of calls that a dead
//! process left, of recordings, and of sessions whose time is over.

use jiff::Timestamp;
use media::Side;
use uuid::Uuid;

use super::{EventState, GIVE_UP};
use crate::callbacks::event::{CallEvent, EndedLeg, Happening, RecordingFacts, Subject, end_of_call};
use crate::callbacks::signature::authority;
use crate::masking::session::{HttpMethod, PartyRole};
use crate::store::StoreError;
use crate::store::row::{Columns, micros};
use crate::store::sql::{Connection, Row, query};
use crate::store::writer::Write;

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
pub(in crate::store) async fn insert(
    connection: &mut Connection,
    event: &CallEvent,
) -> Result<(), StoreError> {
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

pub(super) fn host(url: &str) -> String {
    reqwest::Url::parse(url).map(|url| authority(&url)).unwrap_or_default()
}

/// A leg that is stored as ended, with who is at its end.
struct EndRow {
    leg: EndedLeg,
    party: Option<crate::number::E164>,
}

/// What is told of calls that ended with the process that made them; their legs are closed already.
pub(in crate::store) async fn report_orphans(
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
pub(in crate::store) async fn report_recording(
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
            .bind(session.to_string())
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
            insert(connection, &event).await?;
        }
        Ok(told)
    }
}
