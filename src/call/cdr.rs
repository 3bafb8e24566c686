//! What a call leaves behind: why each leg ended, and when what happened to it.

use crate::store::{Cdr, LegCdr};
use jiff::Timestamp;
use std::time::Instant;

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
            Self::NetworkError => ("Network Error", 5000),
            Self::InternalError | Self::Congestion => ("Internal Error", 5010),
        }
    }

    /// The Q.850 cause number for a Reason header (RFC 3326, RFC 3398 §8).
    #[must_use]
    pub fn q850(self) -> u16 {
        match self {
            Self::Busy | Self::BusyEverywhere => 17,
            Self::NoAnswer | Self::RingTimeout => 19,
            Self::Declined | Self::Rejected | Self::Forbidden | Self::PinFailed => 21,
            Self::InvalidDestination | Self::DoesNotExist | Self::Routing => 1,
            Self::OutOfService => 27,
            Self::LoopDetected => 25,
            Self::CarrierCongestion | Self::Congestion => 42,
            Self::CarrierError | Self::InternalError => 41,
            Self::NetworkError | Self::MediaTimeout => 38,
            Self::Normal | Self::Canceled | Self::TimeLimit | Self::Scheduled => 16,
        }
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
    cdr: Cdr,
}

impl CdrBuilder {
    /// Begins with the A-leg.
    #[must_use]
    pub fn new(clock: ClockPair, cdr: Cdr) -> Self {
        Self { clock, cdr }
    }

    /// Adds a B-leg.
    pub fn leg_opened(&mut self, leg: LegCdr) {
        self.cdr.legs.push(leg);
    }

    /// A leg rings.
    pub fn ringing(&mut self, leg: uuid::Uuid, now: Instant) {
        let at = self.clock.wall_at(now);
        if let Some(leg) = self.leg(leg) {
            leg.ringing_at.get_or_insert(at);
        }
    }

    /// A leg is answered. Returns when, in wall time.
    pub fn answered(&mut self, leg: uuid::Uuid, now: Instant) -> Timestamp {
        let at = self.clock.wall_at(now);
        if let Some(leg) = self.leg(leg) {
            leg.answered_at.get_or_insert(at);
        }
        at
    }

    /// A leg ended; the first reason stays.
    pub fn ended(
        &mut self,
        leg: uuid::Uuid,
        cause: HangupCause,
        source: HangupSource,
        sip_status: Option<u16>,
        now: Instant,
    ) {
        let at = self.clock.wall_at(now);
        if let Some(leg) = self.leg(leg).filter(|leg| leg.ended_at.is_none()) {
            let (name, code) = cause.name_and_code();
            leg.ended_at = Some(at);
            leg.hangup_cause_name = name;
            leg.hangup_cause_code = code;
            leg.hangup_source = source.name();
            leg.sip_status = sip_status;
        }
    }

    /// The legs so far, for what is filled in at the end.
    pub fn cdr(&mut self) -> &mut Cdr {
        &mut self.cdr
    }

    /// The finished record. Legs that nobody ended were ended by an error of ours.
    #[must_use]
    pub fn finish(&mut self, now: Instant) -> Cdr {
        let open: Vec<_> =
            self.cdr.legs.iter().filter(|leg| leg.ended_at.is_none()).map(|leg| leg.leg).collect();
        for leg in open {
            self.ended(leg, HangupCause::InternalError, HangupSource::System, None, now);
        }
        self.cdr.ended_at = self.clock.wall_at(now);
        self.cdr.clone()
    }

    fn leg(&mut self, leg: uuid::Uuid) -> Option<&mut LegCdr> {
        self.cdr.legs.iter_mut().find(|candidate| candidate.leg == leg)
    }
}
