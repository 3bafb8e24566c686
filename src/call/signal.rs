//! The words that a leg and its call exchange. A leg knows SIP and not the other leg; a call knows both
//! legs and no header.

use super::cdr::HangupCause;
use media::{Digit, Stream};

/// What a leg tells its call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Signal {
    /// A leg of ours: a provisional response beyond 100; `stream` when it brought early media.
    Progress {
        /// 180–199.
        status: u16,
        /// What the early answer agreed on, when it changed.
        stream: Option<Stream>,
    },
    /// A leg of ours: 2xx, acknowledged. The caller's: the ACK of our 2xx brought the answer to our offer.
    Answered(Stream),
    /// The caller's: the 200 that had to wait for a PRACK is sent.
    Taken,
    /// A leg of ours: the peer's final failure, or 408 for a time-out of our own and 503 for a transport error
    /// (RFC 3261 §8.1.3.1).
    Refused(u16),
    /// The peer ended the leg, or it broke.
    HungUp(HangupCause),
    /// A re-INVITE or UPDATE took effect.
    Reoffered(Stream),
    /// A key told by INFO.
    Digit(Digit),
}

/// What a call tells its leg.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// The caller's leg: 180, or 183 with our description when `early_media`.
    Ring {
        /// Early audio follows: the answer goes with it.
        early_media: bool,
    },
    /// The caller's leg: 200 with our description.
    Answer,
    /// The caller's leg: a final failure of our own.
    Refuse {
        /// 400–699.
        status: u16,
        /// Seconds, for 503.
        retry_after: Option<u32>,
        /// What Reason says.
        cause: HangupCause,
    },
    /// End the leg whatever its state: CANCEL, BYE or a final answer.
    HangUp(HangupCause),
}
