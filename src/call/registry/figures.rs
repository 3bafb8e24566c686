//! What is counted of calls, and what is said in the log of faults: once in a while, so that none fills it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use metrics::{Counter, Gauge};
use tracing::warn;

use super::Shell;
use crate::clock;
use crate::number::Did;
use crate::sip::digest::Unanswered;

/// One complaint of a kind is logged in this time; the rest is counted.
const COMPLAINT_PAUSE: Duration = Duration::from_secs(10);

/// Handles of the call counters, see `/metrics`.
pub struct Counters {
    /// INVITEs that became calls.
    pub calls: Counter,
    /// Calls answered on both legs.
    pub bridged: Counter,
    /// Calls refused because we are full or draining.
    pub full: Counter,
    /// Calls that an error of ours ended.
    pub internal_errors: Counter,
    /// Calls that got no media ports.
    pub no_media: Counter,
    /// INVITEs from where nobody may call in.
    pub refused_source: Counter,
    /// INVITEs whose caller was asked for user name and password.
    pub challenged: Counter,
    /// INVITEs with a wrong one.
    pub wrong_credentials: Counter,
    /// Responses of no call.
    pub stray_responses: Counter,
    /// Messages dropped because their call was busy.
    pub inbox_full: Counter,
    /// PINs that were not judged because there were too many wrong ones.
    pub pin_locked: Counter,
    /// Calls now.
    pub live: Gauge,
    /// Tasks of calls now, lingering ones included.
    pub tasks: Gauge,
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            calls: metrics::counter!("maskline_calls_total"),
            bridged: metrics::counter!("maskline_calls_bridged_total"),
            full: metrics::counter!("maskline_calls_refused_full_total"),
            internal_errors: metrics::counter!("maskline_internal_errors_total"),
            no_media: metrics::counter!("maskline_calls_without_port_total"),
            refused_source: metrics::counter!("maskline_sip_invites_refused_source_total"),
            challenged: metrics::counter!("maskline_sip_invites_challenged_total"),
            wrong_credentials: metrics::counter!("maskline_sip_invites_wrong_credentials_total"),
            stray_responses: metrics::counter!("maskline_sip_stray_responses_total"),
            inbox_full: metrics::counter!("maskline_sip_inbox_full_total"),
            pin_locked: metrics::counter!("maskline_pin_locked_total"),
            live: metrics::gauge!("maskline_calls"),
            tasks: metrics::gauge!("maskline_call_tasks"),
        }
    }
}

/// When each kind of fault was last said.
pub(super) type Complaints = Mutex<BTreeMap<&'static str, Instant>>;

impl Shell {
    /// A carrier wanted to know who we are, and we could not tell to its content.
    pub(in crate::call) fn unauthorized(&self, trunk: &str, why: Unanswered) {
        metrics::counter!("maskline_trunk_unauthorized_total", "trunk" => trunk.to_owned()).increment(1);
        self.say("credentials", &Unauthorized { trunk: trunk.to_owned(), why });
    }

    /// Somebody tries passwords, or a trunk is configured with a wrong one.
    pub(in crate::call) fn wrong_credentials(&self, source: IpAddr) {
        self.counters.wrong_credentials.increment(1);
        self.say("callers", &WrongCredentials(source));
    }

    /// Something of ours fails: said once in a while, so that no fault fills the log.
    pub(in crate::call) fn complain(&self, what: &'static str, error: &dyn std::error::Error) {
        metrics::counter!("maskline_failures_total", "of" => what).increment(1);
        self.say(what, error);
    }

    /// The same for a fault of others, which is none of ours.
    fn say(&self, what: &'static str, error: &dyn std::error::Error) {
        let now = clock::now();
        let mut complaints = self.complaints.lock().unwrap_or_else(PoisonError::into_inner);
        let due = complaints.get(what).is_none_or(|last| now.duration_since(*last) >= COMPLAINT_PAUSE);
        if due {
            complaints.insert(what, now);
            warn!(what, error = %error, "failure");
        }
    }
}

/// Somebody is guessing.
#[derive(Debug, thiserror::Error)]
#[error("too many wrong PINs from a caller or on {0}: further ones are not judged for a while")]
pub(super) struct TooManyGuesses(pub(super) Did);

/// Somebody calls in by a trunk that challenges.
#[derive(Debug, thiserror::Error)]
#[error("a caller at {0} gives a wrong user name or password")]
struct WrongCredentials(IpAddr);

/// A carrier turned a request of ours away.
#[derive(Debug, thiserror::Error)]
#[error("trunk {trunk}: the carrier asks for user name and password, and the request fails: {why}")]
struct Unauthorized {
    trunk: String,
    why: Unanswered,
}
