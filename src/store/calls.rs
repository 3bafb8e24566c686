//! Call records: an interaction is one call, a leg is one side of it and one attempt.
//!
//! A row exists from the INVITE on, so that a process that dies leaves a record; what a row holds is completed
//! by the close, which also works alone. The writing itself is in `call_writes`.

use std::borrow::Cow;
use std::time::Duration;

use jiff::Timestamp;
use media::quality::Mos;
use media::{LegStatistics, Side};
use uuid::Uuid;

use super::call_list::LegFilter;
use super::call_writes::CallWrite;
use super::row::Columns;
use super::sql::{Row, query};
use super::{Store, StoreError};
use crate::callbacks::event::CallEvent;
use crate::masking::session::PartyRole;
use crate::number::{Did, E164};

/// The most legs that are read for one session.
const SESSION_LEGS: i64 = 5000;

/// A leg at its beginning: an INVITE has come in or is about to go out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LegOpened {
    /// The call that it belongs to.
    pub interaction: Uuid,
    /// The leg itself, Plivo's `call_uuid`.
    pub leg: Uuid,
    /// The masking session, once it is known.
    pub session: Option<Uuid>,
    /// The account that the call belongs to, once it is known.
    pub account: Option<String>,
    /// The caller's leg or the called party's.
    pub side: Side,
    /// 0 for a leg that came in; 1 for the first gateway that ours was sent to, one more for each tried after it.
    pub attempt: u8,
    /// What was dialled, if it is ours.
    pub virtual_number: Option<Did>,
    /// Who is at the far end of this leg.
    pub party: Option<E164>,
    /// Which party of the session that is.
    pub role: Option<PartyRole>,
    /// The trunk that it uses.
    pub trunk: String,
    /// When the INVITE came or went.
    pub started_at: Timestamp,
}

/// A leg at its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LegCdr {
    /// What it began with; a value that was not known then is filled in now.
    pub opened: LegOpened,
    /// First 180 or 183.
    pub ringing_at: Option<Timestamp>,
    /// Its 200.
    pub answered_at: Option<Timestamp>,
    /// Its BYE, CANCEL or final answer.
    pub ended_at: Timestamp,
    /// Plivo's name of the cause.
    pub hangup_cause_name: &'static str,
    /// Plivo's code of the cause.
    pub hangup_cause_code: u16,
    /// Who ended it.
    pub hangup_source: &'static str,
    /// The final SIP answer, if there was one.
    pub sip_status: Option<u16>,
    /// The Q.850 cause in the Reason header that ended it: the peer's, else ours. None was named: `None`.
    pub q850_cause: Option<u16>,
    /// RTP packets that came from the peer.
    pub packets_received: u64,
    /// RTP packets that went to the peer.
    pub packets_sent: u64,
    /// RTP packets that never came.
    pub packets_lost: u64,
    /// Interarrival jitter at the end in RTP timestamp units (RFC 3550 §6.4.1).
    pub jitter: u32,
    /// How it sounded; `None` for a leg without packets.
    pub quality: Option<LegQuality>,
}

/// How a leg sounded, as it was counted over its whole length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LegQuality {
    /// The codec that was agreed on last, as SDP names it.
    pub codec: Option<Cow<'static, str>>,
    /// Of what came from the peer, by the E-model.
    pub mos: Option<Mos>,
    /// Of what the peer heard, as its last report said.
    pub remote_mos: Option<Mos>,
    /// RTP packets that were to come.
    pub expected: u64,
    /// Packets that came a second time.
    pub repeated: u64,
    /// Packets that came after a later one.
    pub reordered: u64,
    /// Runs of packets that never came, whatever their length.
    pub loss_runs: u64,
    /// The longest of them in packets.
    pub longest_loss: u64,
    /// Mean difference of transit between neighbouring packets, in µs.
    pub mean_jitter: u64,
    /// The highest interarrival jitter, in µs.
    pub max_jitter: u64,
    /// Packets of ours that the peer missed; less than none when some came twice (RFC 3550 §6.4.1).
    pub remote_lost: Option<i32>,
    /// Interarrival jitter at the peer, in µs.
    pub remote_jitter: Option<u64>,
    /// The last round trip, in µs.
    pub round_trip: Option<u64>,
    /// The longest round trip, in µs.
    pub max_round_trip: Option<u64>,
    /// Times when the peer owed audio and sent none for ten seconds.
    pub silences: u32,
    /// Times when the peer heard nothing of the other party, which heard it.
    pub unheard: u32,
}

impl LegQuality {
    /// Of a leg's figures; `None` when there were no packets at all.
    #[must_use]
    pub fn of(figures: &LegStatistics) -> Option<Self> {
        if figures.received == 0 && figures.sent == 0 {
            return None;
        }
        // RTP timestamp units are 125 µs.
        let in_time = |units: u32| u64::from(units) * 125;
        let micros = |length: Duration| u64::try_from(length.as_micros()).unwrap_or(u64::MAX);
        let was_reported = figures.remote_expected > 0;
        Some(Self {
            codec: figures.codec.map(|codec| codec.name().into()),
            mos: figures.mos,
            remote_mos: figures.remote_mos,
            expected: figures.stream.expected,
            repeated: figures.stream.repeated,
            reordered: figures.stream.reordered,
            loss_runs: figures.stream.loss_runs,
            longest_loss: figures.stream.longest_loss,
            mean_jitter: in_time(figures.stream.mean_jitter),
            max_jitter: in_time(figures.stream.max_jitter),
            remote_lost: was_reported.then_some(figures.remote_lost),
            remote_jitter: was_reported.then(|| in_time(figures.remote_jitter)),
            round_trip: figures.round_trip.map(micros),
            max_round_trip: figures.max_round_trip.map(micros),
            silences: figures.silences,
            unheard: figures.unheard,
        })
    }
}

/// What a recording left on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordingRow {
    /// Relative to the recordings directory.
    pub directory: String,
    /// Length of each file.
    pub samples: u64,
    /// False when something of it was lost.
    pub complete: bool,
}

/// A call at its end, with all its legs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cdr {
    /// The call.
    pub interaction: Uuid,
    /// The masking session, if one took it.
    pub session: Option<Uuid>,
    /// What was dialled, if it is ours.
    pub virtual_number: Option<Did>,
    /// When the INVITE came.
    pub started_at: Timestamp,
    /// When its last leg ended.
    pub ended_at: Timestamp,
    /// What was recorded.
    pub recording: Option<RecordingRow>,
    /// Every leg and attempt.
    pub legs: Vec<LegCdr>,
    /// All that is told of the call, in order; what was noted before is repeated here.
    pub events: Vec<CallEvent>,
}

/// Something to be noted about a call that goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Note {
    /// See [`Store::note_leg`].
    Leg(Box<LegOpened>),
    /// See [`Store::note_answer`].
    Answer(Uuid, Timestamp),
    /// Something that the session's application is told.
    Event(Box<CallEvent>),
}

impl From<Note> for CallWrite {
    fn from(note: Note) -> Self {
        match note {
            Note::Leg(leg) => Self::Open(*leg),
            Note::Answer(leg, at) => Self::Answer(leg, at),
            Note::Event(event) => Self::Event(event),
        }
    }
}

/// A leg as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LegRow {
    /// See [`LegOpened`].
    pub opened: LegOpened,
    /// The caller's leg of the same call, for a B-leg.
    pub parent: Option<Uuid>,
    /// See [`LegCdr::ringing_at`].
    pub ringing_at: Option<Timestamp>,
    /// See [`LegCdr::answered_at`].
    pub answered_at: Option<Timestamp>,
    /// `None` while it goes on.
    pub ended_at: Option<Timestamp>,
    /// See [`LegCdr::hangup_cause_name`].
    pub hangup_cause_name: Option<String>,
    /// See [`LegCdr::hangup_cause_code`].
    pub hangup_cause_code: Option<u16>,
    /// See [`LegCdr::hangup_source`].
    pub hangup_source: Option<String>,
    /// See [`LegCdr::sip_status`].
    pub sip_status: Option<u16>,
    /// See [`LegCdr::q850_cause`].
    pub q850_cause: Option<u16>,
    /// See [`LegCdr::packets_received`].
    pub packets_received: u64,
    /// See [`LegCdr::packets_sent`].
    pub packets_sent: u64,
    /// See [`LegCdr::packets_lost`].
    pub packets_lost: u64,
    /// See [`LegCdr::jitter`].
    pub jitter: u32,
    /// See [`LegCdr::quality`].
    pub quality: Option<LegQuality>,
}

/// A call as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InteractionRow {
    /// The call.
    pub uuid: Uuid,
    /// When the INVITE came.
    pub started_at: Timestamp,
    /// `None` while it goes on.
    pub ended_at: Option<Timestamp>,
    /// What was recorded.
    pub recording: Option<RecordingRow>,
    /// The Recording resource of this call is there to be fetched.
    pub recording_ready: bool,
    /// Every leg and attempt, in order.
    pub legs: Vec<LegRow>,
}

macro_rules! leg_columns {
    () => {
        "l.uuid, l.interaction, l.session, l.account, l.side, l.attempt, l.virtual_number, l.party, l.role, \
         l.trunk, l.started_at, l.ringing_at, l.answered_at, l.ended_at, l.hangup_cause_name, \
         l.hangup_cause_code, l.hangup_source, l.sip_status, l.q850_cause, l.packets_received, l.packets_sent, \
         l.packets_lost, l.jitter, q.leg AS quality_of, q.codec, q.mos, q.remote_mos, q.expected, q.repeated, \
         q.reordered, q.loss_runs, q.longest_loss, q.mean_jitter, q.max_jitter, q.remote_lost, q.remote_jitter, \
         q.round_trip, q.max_round_trip, q.silences, q.unheard, \
         (SELECT a.uuid FROM legs a WHERE a.interaction = l.interaction AND a.side = 'A' AND l.side = 'B' \
          ORDER BY a.attempt DESC LIMIT 1) AS parent"
    };
}

/// Where [`leg_columns`] come from.
macro_rules! leg_tables {
    () => {
        " legs l LEFT JOIN leg_quality q ON q.leg = l.uuid"
    };
}

pub(super) use leg_columns;
pub(super) use leg_tables;

impl Store {
    /// Makes a leg's row, and its call's when it is the first. May be repeated when more is known.
    ///
    /// # Errors
    /// [`StoreError`] when the database fails.
    pub async fn open_leg(&self, leg: LegOpened) -> Result<(), StoreError> {
        self.write_call(CallWrite::Open(leg)).await
    }

    /// Notes that a leg was answered.
    ///
    /// # Errors
    /// [`StoreError`] when the database fails.
    pub async fn answer_leg(&self, leg: Uuid, at: Timestamp) -> Result<(), StoreError> {
        self.write_call(CallWrite::Answer(leg, at)).await
    }

    /// [`Self::open_leg`] without waiting for the commit, which follows within a tenth of a second.
    ///
    /// # Errors
    /// [`StoreError::Closed`] when the store takes no more.
    pub fn note_leg(&self, leg: LegOpened) -> Result<(), StoreError> {
        self.note_call(CallWrite::Open(leg))
    }

    /// [`Self::answer_leg`] in the same manner.
    ///
    /// # Errors
    /// [`StoreError::Closed`] when the store takes no more.
    pub fn note_answer(&self, leg: Uuid, at: Timestamp) -> Result<(), StoreError> {
        self.note_call(CallWrite::Answer(leg, at))
    }

    /// Notes all of this in one transaction, without waiting for it.
    ///
    /// # Errors
    /// [`StoreError::Closed`] when the store takes no more.
    pub fn note(&self, notes: Vec<Note>) -> Result<(), StoreError> {
        self.note_call(CallWrite::Together(notes.into_iter().map(CallWrite::from).collect()))
    }

    /// Completes the rows of a call and of its legs in one transaction; makes those that are missing. While the
    /// database is not there the record is kept and repeated, also when nobody waits for it any more.
    ///
    /// # Errors
    /// [`StoreError`] when the database refuses it, or when too many are kept already.
    pub async fn close_call(&self, cdr: Cdr) -> Result<(), StoreError> {
        self.write_call(CallWrite::Close(Box::new(cdr))).await
    }

    /// The account's leg.
    ///
    /// # Errors
    /// [`StoreError`] when the database fails.
    pub async fn find_leg(&self, account: &str, leg: Uuid) -> Result<Option<LegRow>, StoreError> {
        const FIND: &str = concat!(
            "SELECT ",
            leg_columns!(),
            " FROM",
            leg_tables!(),
            " WHERE l.uuid = $1 AND l.account = $2"
        );
        let row = query(FIND).bind(leg).bind(account).fetch_optional(self.readers()).await?;
        row.as_ref().map(leg_row).transpose()
    }

    /// The account's legs, newest first, and how many there are.
    ///
    /// # Errors
    /// [`StoreError`] when the database fails.
    pub async fn list_legs(
        &self,
        account: &str,
        limit: u32,
        offset: u64,
    ) -> Result<(Vec<LegRow>, u64), StoreError> {
        self.find_legs(account, &LegFilter::default(), limit, offset).await
    }

    /// The calls of a session in the order of their beginning; of very many the latest.
    ///
    /// # Errors
    /// [`StoreError`] when the database fails.
    pub async fn interactions(&self, session: Uuid) -> Result<Vec<InteractionRow>, StoreError> {
        const OF_SESSION: &str = concat!(
            "SELECT ",
            leg_columns!(),
            ", i.started_at AS call_started_at, i.ended_at AS call_ended_at, i.recording_directory, \
             i.recording_samples, i.recording_complete, (SELECT COUNT(*) FROM recordings r \
             WHERE r.uuid = i.uuid AND r.state = 'ready') AS recording_ready \
             FROM interactions i JOIN legs l ON l.interaction = i.uuid \
             LEFT JOIN leg_quality q ON q.leg = l.uuid WHERE i.session = $1 \
             ORDER BY i.started_at DESC, i.uuid, l.started_at DESC, l.side DESC, l.attempt DESC LIMIT $2"
        );
        let rows = query(OF_SESSION).bind(session).bind(SESSION_LEGS).fetch_all(self.lists()).await?;
        let mut calls: Vec<InteractionRow> = vec![];
        for row in rows.iter().rev() {
            let leg = leg_row(row)?;
            match calls.last_mut() {
                Some(call) if call.uuid == leg.opened.interaction => call.legs.push(leg),
                _ => calls.push(interaction(row, leg)?),
            }
        }
        Ok(calls)
    }
}

fn interaction(row: &Row, first: LegRow) -> Result<InteractionRow, StoreError> {
    let recording = match row.text_opt("recording_directory")? {
        None => None,
        Some(directory) => Some(RecordingRow {
            directory,
            samples: row.unsigned("recording_samples")?,
            complete: row.flag("recording_complete")?,
        }),
    };
    Ok(InteractionRow {
        uuid: first.opened.interaction,
        started_at: row.time("call_started_at")?,
        ended_at: row.time_opt("call_ended_at")?,
        recording,
        recording_ready: row.flag("recording_ready")?,
        legs: vec![first],
    })
}

pub(super) fn leg_row(row: &Row) -> Result<LegRow, StoreError> {
    let opened = LegOpened {
        interaction: row.uuid("interaction")?,
        leg: row.uuid("uuid")?,
        session: row.uuid_opt("session")?,
        account: row.text_opt("account")?,
        side: if row.text("side")? == "A" { Side::A } else { Side::B },
        attempt: row.unsigned("attempt")?,
        virtual_number: row.did_opt("virtual_number")?,
        party: row.party("party")?,
        role: match row.text_opt("role")?.as_deref() {
            Some("first") => Some(PartyRole::First),
            Some("second") => Some(PartyRole::Second),
            _ => None,
        },
        trunk: row.text("trunk")?,
        started_at: row.time("started_at")?,
    };
    Ok(LegRow {
        opened,
        parent: row.uuid_opt("parent")?,
        ringing_at: row.time_opt("ringing_at")?,
        answered_at: row.time_opt("answered_at")?,
        ended_at: row.time_opt("ended_at")?,
        hangup_cause_name: row.text_opt("hangup_cause_name")?,
        hangup_cause_code: row.unsigned_opt("hangup_cause_code")?,
        hangup_source: row.text_opt("hangup_source")?,
        sip_status: row.unsigned_opt("sip_status")?,
        q850_cause: row.unsigned_opt("q850_cause")?,
        packets_received: row.unsigned_opt("packets_received")?.unwrap_or_default(),
        packets_sent: row.unsigned_opt("packets_sent")?.unwrap_or_default(),
        packets_lost: row.unsigned_opt("packets_lost")?.unwrap_or_default(),
        jitter: row.unsigned_opt("jitter")?.unwrap_or_default(),
        quality: row.text_opt("quality_of")?.map(|_| leg_quality(row)).transpose()?,
    })
}

fn leg_quality(row: &Row) -> Result<LegQuality, StoreError> {
    let mos = |column| Ok::<_, StoreError>(row.unsigned_opt(column)?.map(Mos::from_hundredths));
    Ok(LegQuality {
        codec: row.text_opt("codec")?.map(Cow::Owned),
        mos: mos("mos")?,
        remote_mos: mos("remote_mos")?,
        expected: row.unsigned("expected")?,
        repeated: row.unsigned("repeated")?,
        reordered: row.unsigned("reordered")?,
        loss_runs: row.unsigned("loss_runs")?,
        longest_loss: row.unsigned("longest_loss")?,
        mean_jitter: row.unsigned("mean_jitter")?,
        max_jitter: row.unsigned("max_jitter")?,
        // May be negative: any type that the stored value fits into will do.
        remote_lost: row.unsigned_opt("remote_lost")?,
        remote_jitter: row.unsigned_opt("remote_jitter")?,
        round_trip: row.unsigned_opt("round_trip")?,
        max_round_trip: row.unsigned_opt("max_round_trip")?,
        silences: row.unsigned("silences")?,
        unheard: row.unsigned("unheard")?,
    })
}
