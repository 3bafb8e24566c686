//! What a call leaves behind: why each leg ended, and when what happened to it.

use crate::callbacks::event::{CallEvent, EndedLeg, Happening, MAX_CALL_EVENTS, Subject, end_of_call};
use crate::masking::session::PartyRole;
use crate::number::{Did, E164};
use crate::store::{Cdr, LegCdr, LegOpened, LegQuality, RecordingRow};
use jiff::Timestamp;
use media::{CallStatistics, Side};
use std::time::Instant;
use uuid::Uuid;

/// Why a leg ended. Names and codes are those of Plivo's hang-up causes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HangupCause {
    /// A party hung up an answered call.
    Normal,
    /// The caller gave up before the answer.
    Canceled,
    /// 486.
    Busy,
    /// 600.
    BusyEverywhere,
    /// The callee or its network did not answer: 408, 480.
    NoAnswer,
    /// 603.
    Declined,
    /// Another refusal: 4xx.
    Rejected,
    /// 404, 484.
    InvalidDestination,
    /// 410.
    OutOfService,
    /// 604.
    DoesNotExist,
    /// 401, 403, 407.
    Forbidden,
    /// 483, or Max-Forwards used up.
    LoopDetected,
    /// 503.
    CarrierCongestion,
    /// 3xx, 5xx of the carrier.
    CarrierError,
    /// No session, no PIN, or no route for this caller.
    Routing,
    /// The PIN stage ended without a right PIN.
    PinFailed,
    /// `ring_timeout`.
    RingTimeout,
    /// `call_time_limit`.
    TimeLimit,
    /// Neither leg sent media.
    MediaTimeout,
    /// The peer stopped answering.
    NetworkError,
    /// Nobody refreshed the session (RFC 4028 §10).
    SessionExpired,
    /// Ended by the API or an operator.
    Scheduled,
    /// We erred.
    InternalError,
    /// We were full.
    Congestion,
}

impl HangupCause {
    /// Plivo's `hangup_cause_name` and `hangup_cause_code`.
    #[must_use]
    pub fn name_and_code(self) -> (&'static str, u16) {
        match self {
            Self::Normal => ("Normal Hangup", 4000),
            Self::Canceled => ("Canceled", 1000),
            Self::Busy => ("Busy Line", 3010),
            Self::BusyEverywhere => ("Busy everywhere", 3100),
            Self::NoAnswer => ("No Answer", 3000),
            Self::Declined => ("Declined", 3110),
            Self::Rejected => ("Rejected", 3020),
            Self::InvalidDestination => ("Invalid Destination Address", 2000),
            Self::OutOfService => ("Destination Out Of Service", 2010),
            Self::DoesNotExist => ("User does not exist anywhere", 3120),
            Self::Forbidden => ("Forbidden", 3040),
            Self::LoopDetected => ("Loop Detected", 2060),
            Self::CarrierCongestion => ("Network congestion from carrier", 3090),
            Self::CarrierError => ("Internal server error from carrier", 3080),
            Self::Routing => ("Routing Error", 5020),
            Self::PinFailed => ("Unknown Caller ID", 3030),
            Self::RingTimeout => ("Ring Timeout Reached", 6010),
            Self::TimeLimit | Self::Scheduled => ("Scheduled Hangup", 6000),
            Self::MediaTimeout => ("Media Timeout", 6020),
            Self::SessionExpired => ("Session Timer Expired", 6030),
            Self::NetworkError => ("Network Error", 5000),
            Self::InternalError | Self::Congestion => ("Internal Error", 5010),
        }
    }

    /// The Q.850 cause number for a Reason header (RFC 3326), as RFC 3398 §8.2.6.1 maps the status that stands for it.
    #[must_use]
    pub fn q850(self) -> u16 {
        match self {
            Self::Busy | Self::BusyEverywhere => 17,
            Self::NoAnswer | Self::RingTimeout => 19,
            Self::Declined | Self::Rejected | Self::Forbidden | Self::PinFailed => 21,
            Self::InvalidDestination | Self::DoesNotExist | Self::Routing => 1,
            Self::OutOfService => 22,
            Self::LoopDetected => 25,
            Self::CarrierCongestion | Self::Congestion => 42,
            Self::CarrierError | Self::InternalError => 41,
            Self::NetworkError | Self::MediaTimeout => 38,
            Self::SessionExpired => 102,
            Self::Normal | Self::Canceled | Self::TimeLimit | Self::Scheduled => 16,
        }
    }

    /// What a Q.850 cause of a peer's Reason header means, by way of the status that RFC 3398 §7.2.4.1 maps it to.
    #[must_use]
    pub fn of_q850(cause: u8) -> Self {
        Self::of_status(match cause {
            16 | 31 => return Self::Normal,
            1 | 2 | 3 | 26 => 404,
            17 => 486,
            18 => 408,
            19 | 20 => 480,
            21 | 55 | 57 | 87 => 403,
            22 | 23 => 410,
            27 => 502,
            28 => 484,
            29 | 79 => 501,
            65 | 70 => 488,
            102 => 504,
            34 | 38 | 41 | 42 | 47 | 58 | 88 => 503,
            _ => 500,
        })
    }

    /// What a final failure with such a cause means: the cause says more than a status which carriers give for many
    /// things, but never something else than one that is clear by itself.
    #[must_use]
    pub fn of_failure(status: u16, q850: Option<u8>) -> Self {
        match (status, q850) {
            (486 | 487 | 600 | 603 | 604 | 607, _) | (_, None | Some(16 | 31)) => Self::of_status(status),
            (_, Some(cause)) => Self::of_q850(cause),
        }
    }

    /// Who ended a leg that ended with this: `party`, unless a clock of ours did.
    #[must_use]
    pub fn source(self, party: HangupSource) -> HangupSource {
        if self == Self::SessionExpired { HangupSource::System } else { party }
    }

    /// What a peer's final failure means.
    #[must_use]
    pub fn of_status(status: u16) -> Self {
        match status {
            486 => Self::Busy,
            600 => Self::BusyEverywhere,
            603 | 607 => Self::Declined,
            408 | 480 => Self::NoAnswer,
            487 => Self::Canceled,
            404 | 484 => Self::InvalidDestination,
            410 => Self::OutOfService,
            604 => Self::DoesNotExist,
            401 | 403 | 407 => Self::Forbidden,
            482 | 483 => Self::LoopDetected,
            503 => Self::CarrierCongestion,
            300..=399 | 500..=599 => Self::CarrierError,
            _ => Self::Rejected,
        }
    }
}

/// Who ended it, as Plivo's `hangup_source` says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HangupSource {
    /// The A-leg's party.
    Caller,
    /// The B-leg's party.
    Callee,
    /// Maskline: a limit, a refusal, the API.
    System,
}

impl HangupSource {
    /// As written in a CDR.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Caller => "Caller",
            Self::Callee => "Callee",
            Self::System => "Maskline",
        }
    }
}

/// Two clocks read at one moment: the call runs on the first, the CDR is written in the second.
#[derive(Debug, Clone, Copy)]
pub struct ClockPair {
    /// Monotonic.
    pub instant: Instant,
    /// Wall.
    pub wall: Timestamp,
}

impl ClockPair {
    /// Wall time of a monotonic instant.
    #[must_use]
    pub fn wall_at(&self, now: Instant) -> Timestamp {
        let elapsed = now.saturating_duration_since(self.instant);
        let elapsed = jiff::SignedDuration::try_from(elapsed).unwrap_or(jiff::SignedDuration::MAX);
        self.wall.checked_add(elapsed).unwrap_or(Timestamp::MAX)
    }
}

/// Collects the CDR of a call while it lives.
#[derive(Debug)]
pub struct CdrBuilder {
    clock: ClockPair,
    interaction: Uuid,
    virtual_number: Option<Did>,
    session: Option<Uuid>,
    account: Option<String>,
    recording: Option<RecordingRow>,
    legs: Vec<Record>,
    /// Who is told of what happens, once it is known.
    subject: Option<Subject>,
    /// Whom the session connects the caller to, and in which role, once it is known.
    callee: Option<(E164, PartyRole)>,
    events: Vec<CallEvent>,
}

#[derive(Debug)]
struct Record {
    cdr: LegCdr,
    ended: bool,
}

/// What a leg begins with, beside what its call knows.
#[derive(Debug)]
pub struct NewLeg {
    /// The leg.
    pub uuid: Uuid,
    /// Which side.
    pub side: Side,
    /// 0 for a leg that came in, 1 for the first gateway.
    pub attempt: u8,
    /// Its far end.
    pub party: Option<E164>,
    /// Which party of the session that is.
    pub role: Option<PartyRole>,
    /// The trunk.
    pub trunk: String,
}

impl CdrBuilder {
    /// A call without legs yet.
    #[must_use]
    pub fn new(clock: ClockPair, interaction: Uuid, virtual_number: Option<Did>) -> Self {
        Self {
            clock,
            interaction,
            virtual_number,
            session: None,
            account: None,
            recording: None,
            legs: Vec::new(),
            subject: None,
            callee: None,
            events: Vec::new(),
        }
    }

    /// Whom the call is reported to from now on.
    pub fn reports_to(&mut self, subject: Subject) {
        self.subject = Some(subject);
    }

    /// Whom the session connects the caller to.
    pub fn connects_to(&mut self, callee: E164, role: PartyRole) {
        self.callee = Some((callee, role));
    }

    /// Which party of the session has this side of the call; `None` while nobody knows.
    #[must_use]
    pub fn role_of(&self, side: Side) -> Option<PartyRole> {
        let (_, callee) = self.callee.as_ref()?;
        Some(match side {
            Side::A => callee.other(),
            Side::B => *callee,
        })
    }

    /// Something happened to the call. Returns the event when somebody wants to know of it; what was told already
    /// is not told again.
    pub fn happened(&mut self, happening: Happening, now: Instant) -> Option<CallEvent> {
        let subject = self.subject.clone()?;
        self.happened_to(&subject, happening, self.clock.wall_at(now))
    }

    /// The same to somebody else than whom the call is reported to: to the account, as long as no session is known.
    pub fn happened_to(
        &mut self,
        subject: &Subject,
        happening: Happening,
        at: Timestamp,
    ) -> Option<CallEvent> {
        let known = self.events.iter().any(|event| event.happening == happening);
        if known || self.events.len() >= MAX_CALL_EVENTS || !subject.wants(&happening) {
            return None;
        }
        let name = happening.name();
        let earlier = self.events.iter().filter(|event| event.happening.name() == name).count();
        let caller = self.legs.iter().find(|leg| leg.cdr.opened.side == Side::A);
        let event = CallEvent {
            interaction: Some(self.interaction),
            from: caller.and_then(|leg| leg.cdr.opened.party.clone()),
            to: self.callee.as_ref().map(|(number, _)| number.clone()),
            virtual_number: self.virtual_number.clone(),
            ..CallEvent::new(self.interaction, earlier, subject, happening, at)
        };
        self.events.push(event.clone());
        Some(event)
    }

    /// Whose call it is; empty until that is known.
    #[must_use]
    pub fn account_id(&self) -> &str {
        self.account.as_deref().unwrap_or_default()
    }

    /// The account that the dialled number belongs to, as whom to tell what no one session is meant by.
    #[must_use]
    pub fn account(&self) -> Option<Subject> {
        self.account.clone().map(Subject::account)
    }

    /// The events of the end: of each party's last leg, and of the call.
    fn end_happened(&mut self) {
        let Some(subject) = self.subject.clone() else { return };
        let ends: Vec<_> = [Side::A, Side::B].into_iter().filter_map(|side| self.end_of(side)).collect();
        for (happening, at) in end_of_call(ends) {
            let _ = self.happened_to(&subject, happening, at);
        }
    }

    fn end_of(&self, side: Side) -> Option<EndedLeg> {
        let role = self.role_of(side)?;
        let leg = &self.legs.iter().rev().find(|leg| leg.cdr.opened.side == side)?.cdr;
        let party = if side == Side::A { HangupSource::Caller } else { HangupSource::Callee };
        Some(EndedLeg {
            role,
            answered_at: leg.answered_at,
            ended_at: leg.ended_at,
            cause: leg.hangup_cause_name.into(),
            code: leg.hangup_cause_code,
            left_first: leg.hangup_source == party.name(),
        })
    }

    /// Whose call it is, as far as that is known.
    pub fn belongs_to(&mut self, account: Option<String>, session: Option<Uuid>) {
        self.account = account.or(self.account.take());
        self.session = session.or(self.session);
        for leg in &mut self.legs {
            leg.cdr.opened.account.clone_from(&self.account);
            leg.cdr.opened.session = self.session;
        }
    }

    /// A leg begins. Returns its row.
    pub fn open(&mut self, leg: NewLeg, now: Instant) -> LegOpened {
        let opened = LegOpened {
            interaction: self.interaction,
            leg: leg.uuid,
            session: self.session,
            account: self.account.clone(),
            side: leg.side,
            attempt: leg.attempt,
            virtual_number: self.virtual_number.clone(),
            party: leg.party,
            role: leg.role,
            trunk: leg.trunk,
            started_at: self.clock.wall_at(now),
        };
        let cdr = LegCdr {
            opened: opened.clone(),
            ringing_at: None,
            answered_at: None,
            ended_at: opened.started_at,
            hangup_cause_name: "",
            hangup_cause_code: 0,
            hangup_source: "",
            sip_status: None,
            q850_cause: None,
            packets_received: 0,
            packets_sent: 0,
            packets_lost: 0,
            jitter: 0,
            quality: None,
        };
        self.legs.push(Record { cdr, ended: false });
        opened
    }

    /// A leg's row as far as it is known by now.
    #[must_use]
    pub fn opened(&self, leg: Uuid) -> Option<LegOpened> {
        self.legs.iter().map(|record| &record.cdr.opened).find(|opened| opened.leg == leg).cloned()
    }

    /// A leg rings.
    pub fn ringing(&mut self, leg: Uuid, now: Instant) {
        let at = self.clock.wall_at(now);
        if let Some(leg) = self.leg(leg) {
            leg.cdr.ringing_at.get_or_insert(at);
        }
    }

    /// A leg is answered. Returns when, in wall time.
    pub fn answered(&mut self, leg: Uuid, now: Instant) -> Timestamp {
        let at = self.clock.wall_at(now);
        if let Some(leg) = self.leg(leg) {
            leg.cdr.answered_at.get_or_insert(at);
        }
        at
    }

    /// Which party the caller turned out to be.
    pub fn role(&mut self, leg: Uuid, role: Option<PartyRole>) {
        if let Some(leg) = self.leg(leg) {
            leg.cdr.opened.role = role;
        }
    }

    /// A leg ended; the first reason stays.
    pub fn ended(
        &mut self,
        leg: Uuid,
        cause: HangupCause,
        source: HangupSource,
        sip_status: Option<u16>,
        now: Instant,
    ) {
        let at = self.clock.wall_at(now);
        if let Some(leg) = self.leg(leg).filter(|leg| !leg.ended) {
            let (name, code) = cause.name_and_code();
            leg.ended = true;
            leg.cdr.ended_at = at;
            leg.cdr.hangup_cause_name = name;
            leg.cdr.hangup_cause_code = code;
            leg.cdr.hangup_source = source.name();
            leg.cdr.sip_status = sip_status;
        }
    }

    /// What the leg's Reason says of its end.
    pub fn q850(&mut self, leg: Uuid, cause: Option<u16>) {
        if let Some(leg) = self.leg(leg) {
            leg.cdr.q850_cause = cause.or(leg.cdr.q850_cause);
        }
    }

    /// What was recorded.
    pub fn recorded(&mut self, recording: RecordingRow) {
        self.recording = Some(recording);
    }

    /// The media's figures: the last attempt is the one that had media.
    pub fn media(&mut self, statistics: CallStatistics) {
        for (side, figures) in [(Side::A, statistics.a), (Side::B, statistics.b)] {
            let leg = self.legs.iter_mut().rev().find(|leg| leg.cdr.opened.side == side);
            if let Some(leg) = leg {
                leg.cdr.packets_received = figures.received;
                leg.cdr.packets_sent = figures.sent;
                leg.cdr.packets_lost = figures.stream.lost;
                leg.cdr.jitter = figures.stream.jitter;
                leg.cdr.quality = LegQuality::of(&figures);
            }
        }
    }

    /// The finished record. A leg that nobody ended was ended by an error of ours.
    #[must_use]
    pub fn finish(&mut self, now: Instant) -> Cdr {
        let open: Vec<_> = self.legs.iter().filter(|leg| !leg.ended).map(|leg| leg.cdr.opened.leg).collect();
        for leg in open {
            self.ended(leg, HangupCause::InternalError, HangupSource::System, None, now);
        }
        self.end_happened();
        Cdr {
            interaction: self.interaction,
            session: self.session,
            virtual_number: self.virtual_number.clone(),
            started_at: self.clock.wall,
            ended_at: self.clock.wall_at(now),
            recording: self.recording.clone(),
            legs: self.legs.iter().map(|leg| leg.cdr.clone()).collect(),
            events: self.events.clone(),
        }
    }

    /// Lets go of what is stored now.
    pub fn forget(&mut self) {
        self.legs = Vec::new();
        self.events = Vec::new();
        self.subject = None;
        self.callee = None;
        self.recording = None;
    }

    fn leg(&mut self, leg: Uuid) -> Option<&mut Record> {
        self.legs.iter_mut().find(|candidate| candidate.cdr.opened.leg == leg)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc3398_7_2_4_1_and_8_2_6_1_causes_are_mapped_both_ways() {
        let table = [
            (1, HangupCause::InvalidDestination, 1),
            (17, HangupCause::Busy, 17),
            (18, HangupCause::NoAnswer, 19),
            (19, HangupCause::NoAnswer, 19),
            (21, HangupCause::Forbidden, 21),
            (22, HangupCause::OutOfService, 22),
            (28, HangupCause::InvalidDestination, 1),
            (16, HangupCause::Normal, 16),
            (31, HangupCause::Normal, 16),
            (34, HangupCause::CarrierCongestion, 42),
            (102, HangupCause::CarrierError, 41),
            (127, HangupCause::CarrierError, 41),
        ];
        for (cause, expected, told) in table {
            assert_eq!(
                (HangupCause::of_q850(cause), HangupCause::of_q850(cause).q850()),
                (expected, told),
                "{cause}"
            );
        }
        for cause in 0..=255 {
            assert!((1..=127).contains(&HangupCause::of_q850(cause).q850()));
        }
    }

    #[test]
    fn a_status_that_is_clear_stands_against_any_cause() {
        assert_eq!(HangupCause::of_failure(486, Some(41)), HangupCause::Busy);
        assert_eq!(HangupCause::of_failure(503, Some(17)), HangupCause::Busy);
        assert_eq!(HangupCause::of_failure(503, Some(16)), HangupCause::CarrierCongestion);
        assert_eq!(HangupCause::of_failure(480, None), HangupCause::NoAnswer);
    }
}
