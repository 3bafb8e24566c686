//! Writing call records: at every call, so it must be cheap.
//!
//! What a batch says about calls is first put together in memory, one row per call and leg, and then written
//! by a few statements of many rows: a statement costs more than a row. Within a row, what is known replaces
//! what was not, never the other way round, so repeats and any order are harmless.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use jiff::Timestamp;
use media::Side;
use media::quality::Mos;
use tokio::sync::oneshot;
use uuid::Uuid;

use super::StoreError;
use super::calls::{Cdr, LegCdr, LegOpened, LegQuality, RecordingRow};
use super::outbox;
use super::row::micros;
use super::sql::{Connection, Query};
use super::statements::Statements;
use super::writer::{Apply, BoxFuture};
use crate::callbacks::event::CallEvent;
use crate::masking::session::PartyRole;
use crate::number::{Did, E164};

/// One thing to note about a call.
#[derive(Debug, Clone)]
pub(super) enum CallWrite {
    Open(LegOpened),
    Answer(Uuid, Timestamp),
    Close(Box<Cdr>),
    Event(Box<CallEvent>),
    /// What belongs into one transaction.
    Together(Vec<Self>),
}

/// Who waits for a call's write.
pub(super) type Reply = oneshot::Sender<Result<(), StoreError>>;

impl CallWrite {
    /// What is said once only: everything else is said again by the close.
    fn is_final(&self) -> bool {
        match self {
            Self::Close(_) => true,
            Self::Together(writes) => writes.iter().any(Self::is_final),
            Self::Open(_) | Self::Answer(..) | Self::Event(_) => false,
        }
    }

    /// The call, for the log.
    pub(super) fn interaction(&self) -> Option<Uuid> {
        match self {
            Self::Open(leg) => Some(leg.interaction),
            Self::Answer(..) => None,
            Self::Close(cdr) => Some(cdr.interaction),
            Self::Event(event) => event.interaction,
            Self::Together(writes) => writes.iter().find_map(Self::interaction),
        }
    }
}

/// What one batch says about calls.
pub(super) struct CallWrites {
    /// Who says it, see [`super::nodes`].
    node: Arc<str>,
    writes: Vec<(CallWrite, Reply)>,
    error: Option<StoreError>,
}

impl CallWrites {
    pub(super) fn of(node: Arc<str>) -> Self {
        Self { node, writes: vec![], error: None }
    }

    pub(super) fn push(&mut self, write: CallWrite, reply: Reply) {
        self.writes.push((write, reply));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }
}

impl Apply for CallWrites {
    fn apply<'a>(&'a mut self, connection: &'a mut Connection) -> BoxFuture<'a, bool> {
        Box::pin(async move {
            let mut rows = Rows {
                node: &self.node,
                calls: BTreeMap::new(),
                legs: BTreeMap::new(),
                answers: vec![],
                events: vec![],
            };
            self.writes.iter().for_each(|(write, _)| rows.add(write));
            self.error = rows.save(connection).await.err();
            self.error.is_none()
        })
    }

    fn error(&self) -> Option<&StoreError> {
        self.error.as_ref()
    }

    fn locks(&self) -> Option<&str> {
        None
    }

    fn split(self: Box<Self>) -> Vec<Box<dyn Apply>> {
        if self.writes.len() == 1 {
            return vec![self]; // Its error must not get lost.
        }
        let node = self.node;
        let alone =
            |write| Box::new(Self { node: node.clone(), writes: vec![write], error: None }) as Box<dyn Apply>;
        self.writes.into_iter().map(alone).collect()
    }

    fn settle(self: Box<Self>, committed: bool) -> Vec<(CallWrite, Reply)> {
        let mut error = self.error;
        let refused = error.as_ref().is_some_and(StoreError::is_refusal);
        let (mut kept, mut over) = (vec![], vec![]);
        for (write, reply) in self.writes {
            let list = if !committed && !refused && write.is_final() { &mut kept } else { &mut over };
            list.push((write, reply));
        }
        for (_, reply) in over {
            let mut reason = || error.take().unwrap_or(StoreError::NotCommitted);
            // A caller that has gone away does not want to know.
            let _ = reply.send(if committed { Ok(()) } else { Err(reason()) });
        }
        kept
    }

    fn touched(&self) -> Option<&Did> {
        None
    }
}

/// A call's row, as far as a batch knows it.
struct CallRow<'a> {
    session: Option<Uuid>,
    account: Option<&'a str>,
    number: Option<&'a Did>,
    started_at: Timestamp,
    ended_at: Option<Timestamp>,
    recording: Option<&'a RecordingRow>,
}

/// A leg's row, as far as a batch knows it.
struct LegRow<'a> {
    /// The latest first: what it does not know, an earlier one may.
    opened: Vec<&'a LegOpened>,
    answered_at: Option<Timestamp>,
    closed: Option<&'a LegCdr>,
}

impl<'a> LegRow<'a> {
    fn known<T>(&self, field: impl Fn(&'a LegOpened) -> Option<T>) -> Option<T> {
        self.opened.iter().find_map(|opened| field(opened))
    }
}

/// In the order of their uuids, which is that of the tables' indexes.
struct Rows<'a> {
    node: &'a str,
    calls: BTreeMap<Uuid, CallRow<'a>>,
    legs: BTreeMap<Uuid, LegRow<'a>>,
    /// Of legs that an earlier batch has opened.
    answers: Vec<(Uuid, Timestamp)>,
    /// In the order of each call; a close repeats what was noted.
    events: Vec<&'a CallEvent>,
}

impl<'a> Rows<'a> {
    fn add(&mut self, write: &'a CallWrite) {
        match write {
            CallWrite::Open(leg) => {
                self.add_call(
                    leg.interaction,
                    CallRow {
                        session: leg.session,
                        account: leg.account.as_deref(),
                        number: leg.virtual_number.as_ref(),
                        started_at: leg.started_at,
                        ended_at: None,
                        recording: None,
                    },
                );
                self.add_leg(leg);
            }
            CallWrite::Answer(leg, at) => match self.legs.get_mut(leg) {
                Some(row) => row.answered_at = row.answered_at.or(Some(*at)),
                None => self.answers.push((*leg, *at)),
            },
            CallWrite::Close(cdr) => {
                self.add_call(
                    cdr.interaction,
                    CallRow {
                        session: cdr.session,
                        account: cdr.legs.iter().find_map(|leg| leg.opened.account.as_deref()),
                        number: cdr.virtual_number.as_ref(),
                        started_at: cdr.started_at,
                        ended_at: Some(cdr.ended_at),
                        recording: cdr.recording.as_ref(),
                    },
                );
                for leg in &cdr.legs {
                    self.add_leg(&leg.opened).closed = Some(leg);
                }
                self.events.extend(&cdr.events);
            }
            CallWrite::Event(event) => self.events.push(event),
            CallWrite::Together(writes) => writes.iter().for_each(|write| self.add(write)),
        }
    }

    fn add_call(&mut self, uuid: Uuid, later: CallRow<'a>) {
        match self.calls.get_mut(&uuid) {
            None => drop(self.calls.insert(uuid, later)),
            Some(row) => {
                row.session = later.session.or(row.session);
                row.account = later.account.or(row.account);
                row.number = later.number.or(row.number);
                row.ended_at = later.ended_at.or(row.ended_at);
                row.recording = later.recording.or(row.recording);
            }
        }
    }

    fn add_leg(&mut self, leg: &'a LegOpened) -> &mut LegRow<'a> {
        let row = self.legs.entry(leg.leg);
        let row = row.or_insert_with(|| LegRow { opened: vec![], answered_at: None, closed: None });
        row.opened.insert(0, leg);
        row
    }

    async fn save(&self, connection: &mut Connection) -> Result<(), StoreError> {
        let mut calls = self.calls.iter();
        while calls.len() > 0 {
            let (query, rows) = CALLS.next(calls.len());
            let query =
                calls.by_ref().take(rows).fold(query, |query, (uuid, row)| bind_call(query, *uuid, row));
            query.execute(&mut *connection).await?;
        }
        let mut legs = self.legs.values();
        while legs.len() > 0 {
            let (query, rows) = LEGS.next(legs.len());
            let bind = |query, row: &LegRow<'a>| bind_leg(query, row, self.node);
            let query = legs.by_ref().take(rows).fold(query, bind);
            query.execute(&mut *connection).await?;
        }
        let rated =
            |row: &LegRow<'a>| row.closed.and_then(|leg| Some((leg.opened.leg, leg.quality.as_ref()?)));
        let qualities: Vec<_> = self.legs.values().filter_map(rated).collect();
        let mut qualities = qualities.iter();
        while qualities.len() > 0 {
            let (query, rows) = QUALITIES.next(qualities.len());
            let bind = |query, (leg, quality): &(Uuid, &'a LegQuality)| bind_quality(query, *leg, quality);
            qualities.by_ref().take(rows).fold(query, bind).execute(&mut *connection).await?;
        }
        let mut answers = self.answers.iter();
        while answers.len() > 0 {
            let (query, rows) = ANSWERS.next(answers.len());
            let bind = |query: Query<'a>, (leg, at): &(Uuid, Timestamp)| query.bind(*leg).bind(micros(*at));
            answers.by_ref().take(rows).fold(query, bind).execute(&mut *connection).await?;
        }
        outbox::insert(connection, &self.events).await
    }
}

static ANSWERS: LazyLock<Statements> = LazyLock::new(|| {
    Statements::new(2, |values| {
        format!(
            "UPDATE legs SET answered_at = answers.column2 FROM ({values}) AS answers \
             WHERE legs.uuid = answers.column1 AND legs.answered_at IS NULL"
        )
    })
});

static CALLS: LazyLock<Statements> = LazyLock::new(|| {
    Statements::upsert(
        "interactions",
        &["uuid", "started_at"],
        &[
            "session",
            "account",
            "virtual_number",
            "ended_at",
            "recording_directory",
            "recording_samples",
            "recording_complete",
        ],
    )
});

static LEGS: LazyLock<Statements> = LazyLock::new(|| {
    Statements::upsert(
        "legs",
        &["uuid", "interaction", "side", "attempt", "trunk", "started_at", "node"],
        &[
            "session",
            "account",
            "virtual_number",
            "party",
            "role",
            "ringing_at",
            "answered_at",
            "ended_at",
            "hangup_cause_name",
            "hangup_cause_code",
            "hangup_source",
            "sip_status",
            "q850_cause",
            "packets_received",
            "packets_sent",
            "packets_lost",
            "jitter",
        ],
    )
});

static QUALITIES: LazyLock<Statements> = LazyLock::new(|| {
    Statements::upsert(
        "leg_quality",
        &["leg"],
        &[
            "codec",
            "mos",
            "remote_mos",
            "expected",
            "repeated",
            "reordered",
            "loss_runs",
            "longest_loss",
            "mean_jitter",
            "max_jitter",
            "remote_lost",
            "remote_jitter",
            "round_trip",
            "max_round_trip",
            "silences",
            "unheard",
        ],
    )
});

fn bind_quality<'q>(query: Query<'q>, leg: Uuid, quality: &'q LegQuality) -> Query<'q> {
    let hundredths = |mos: Option<Mos>| mos.map(|mos| i64::from(mos.hundredths()));
    query
        .bind(leg)
        .bind(quality.codec.as_deref())
        .bind(hundredths(quality.mos))
        .bind(hundredths(quality.remote_mos))
        .bind(count(quality.expected))
        .bind(count(quality.repeated))
        .bind(count(quality.reordered))
        .bind(count(quality.loss_runs))
        .bind(count(quality.longest_loss))
        .bind(count(quality.mean_jitter))
        .bind(count(quality.max_jitter))
        .bind(quality.remote_lost.map(i64::from))
        .bind(quality.remote_jitter.map(count))
        .bind(quality.round_trip.map(count))
        .bind(quality.max_round_trip.map(count))
        .bind(i64::from(quality.silences))
        .bind(i64::from(quality.unheard))
}

fn bind_call<'q>(query: Query<'q>, uuid: Uuid, row: &CallRow<'q>) -> Query<'q> {
    query
        .bind(uuid)
        .bind(micros(row.started_at))
        .bind(row.session)
        .bind(row.account)
        .bind(row.number.map(Did::digits))
        .bind(row.ended_at.map(micros))
        .bind(row.recording.map(|recording| recording.directory.as_str()))
        .bind(row.recording.map(|recording| count(recording.samples)))
        .bind(row.recording.map(|recording| i64::from(recording.complete)))
}

fn bind_leg<'q>(query: Query<'q>, row: &LegRow<'q>, node: &'q str) -> Query<'q> {
    let Some(leg) = row.opened.first() else { return query };
    let closed = row.closed;
    query
        .bind(leg.leg)
        .bind(leg.interaction)
        .bind(match leg.side {
            Side::A => "A",
            Side::B => "B",
        })
        .bind(i64::from(leg.attempt))
        .bind(leg.trunk.as_str())
        .bind(micros(leg.started_at))
        .bind(node)
        .bind(row.known(|leg| leg.session))
        .bind(row.known(|leg| leg.account.as_deref()))
        .bind(row.known(|leg| leg.virtual_number.as_ref()).map(Did::digits))
        .bind(row.known(|leg| leg.party.as_ref()).map(E164::digits))
        .bind(row.known(|leg| leg.role).map(|role| match role {
            PartyRole::First => "first",
            PartyRole::Second => "second",
        }))
        .bind(closed.and_then(|closed| closed.ringing_at).map(micros))
        .bind(closed.and_then(|closed| closed.answered_at).or(row.answered_at).map(micros))
        .bind(closed.map(|closed| micros(closed.ended_at)))
        .bind(closed.map(|closed| closed.hangup_cause_name))
        .bind(closed.map(|closed| i64::from(closed.hangup_cause_code)))
        .bind(closed.map(|closed| closed.hangup_source))
        .bind(closed.and_then(|closed| closed.sip_status).map(i64::from))
        .bind(closed.and_then(|closed| closed.q850_cause).map(i64::from))
        .bind(closed.map(|closed| count(closed.packets_received)))
        .bind(closed.map(|closed| count(closed.packets_sent)))
        .bind(closed.map(|closed| count(closed.packets_lost)))
        .bind(closed.map(|closed| i64::from(closed.jitter)))
}

fn count(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
