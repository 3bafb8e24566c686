//! The timer values of RFC 3261 §17 (its Table 4) and RFC 6026 §7, at their defaults.
//!
//! Only values: each timer runs as a field of the state that owns it.

use std::time::Duration;

/// Estimate of the round-trip time (RFC 3261 §17.1.1.1).
pub const T1: Duration = Duration::from_millis(500);
/// The longest interval between repeated non-INVITE requests and INVITE responses (RFC 3261 §17.1.2.2).
pub const T2: Duration = Duration::from_secs(4);
/// The longest time that a message stays in the network (RFC 3261 §17.1.2.2).
pub const T4: Duration = Duration::from_secs(5);

/// First interval between repeated INVITEs, doubled each time; unreliable transports only
/// (RFC 3261 §17.1.1.2).
pub const TIMER_A: Duration = T1;
/// Without any response for so long, an INVITE has failed (RFC 3261 §17.1.1.2).
pub const TIMER_B: Duration = transaction_lifetime();
/// The least a ringing INVITE is waited for by a proxy: *more* than 3 minutes (RFC 3261 §16.6 step 11). No
/// machine of this module runs it; a call bounds its own ringing.
pub const TIMER_C: Duration = Duration::from_secs(181);
/// How long repeated 3xx–6xx are acknowledged: at least 32 s on an unreliable transport
/// (RFC 3261 §17.1.1.2).
pub const TIMER_D: Duration = Duration::from_secs(32);
/// First interval between repeated non-INVITE requests; unreliable transports only (RFC 3261 §17.1.2.2).
pub const TIMER_E: Duration = T1;
/// Without a final response for so long, a non-INVITE request has failed (RFC 3261 §17.1.2.2).
pub const TIMER_F: Duration = transaction_lifetime();
/// First interval between repeated 3xx–6xx to an INVITE; unreliable transports only (RFC 3261 §17.2.1).
pub const TIMER_G: Duration = T1;
/// How long the ACK of a 3xx–6xx is waited for (RFC 3261 §17.2.1).
pub const TIMER_H: Duration = transaction_lifetime();
/// How long repeated ACKs are absorbed on an unreliable transport (RFC 3261 §17.2.1).
pub const TIMER_I: Duration = T4;
/// How long a repeated non-INVITE request is answered on an unreliable transport (RFC 3261 §17.2.2).
pub const TIMER_J: Duration = transaction_lifetime();
/// How long repeated final responses are absorbed on an unreliable transport (RFC 3261 §17.1.2.2).
pub const TIMER_K: Duration = T4;
/// How long repeated INVITEs are absorbed after a 2xx (RFC 6026 §7.1).
pub const TIMER_L: Duration = transaction_lifetime();
/// How long repeated and forked 2xx are passed on after the first one (RFC 6026 §7.2).
pub const TIMER_M: Duration = transaction_lifetime();

/// 64 × T1, on which B, F, H, J, L and M agree.
const fn transaction_lifetime() -> Duration {
    T1.saturating_mul(64)
}
