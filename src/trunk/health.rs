//! What is known of one target of a gateway: does it take calls? Calls tell it by the way (passive), OPTIONS by asking
//! (RFC 3261 §11), and whoever dials asks which target comes first.
//!
//! ```text
//!              heard                     silent, not sent, not trusted, 503 with Retry-After
//!  Unknown ───────────► Up ◄──────────┐ ┌──────────────────────────────────────────────┐
//!     │                  │            │ │                                              │
//!     │                  └────────────┼─▼─► Down ── its time is over ──► one call tries ─┘
//!     └───────────────────────────────┴────── heard: by a call, or by a probe
//! ```
//!
//! A target that is down is tried last, never left out: being wrong about it then costs a late call and not a lost one.
//! Without probes a call finds out whether it has come back: one at a time, the others stay away meanwhile. With
//! probes no call has to.
//!
//! Pure: it sends nothing, reads no clock and draws no number. A refusal of a call is no fault of a target: who says
//! 404, 486 or 500 is alive. Nor is one 503 without Retry-After (RFC 3261 §21.5.4 treats it like a 500); it is only
//! remembered for whoever looks.

use std::time::{Duration, Instant};

/// Without probes: how long a target is left alone after its first fault; twice as long after each further one, up to
/// [`MAX_HOLD`].
const HOLD: Duration = Duration::from_secs(30);
const MAX_HOLD: Duration = Duration::from_secs(300);
/// How long the one call that tries a target again may take to find out.
const TRIAL: Duration = Duration::from_secs(5);
/// The longest Retry-After that is honoured: nobody can turn a gateway off for days by one response.
const LONGEST_RETRY: Duration = Duration::from_secs(3600);

/// What was wrong with a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It said nothing at all, not even 100.
    NoAnswer,
    /// The request could not be sent: no connection, no route, refused by the system.
    NotSent,
    /// TLS: it did not prove its name, or did not take our certificate.
    NotTrusted,
    /// 503.
    Unavailable,
}

impl Fault {
    /// In a few words, for log and view.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoAnswer => "no answer",
            Self::NotSent => "transport error",
            Self::NotTrusted => "TLS refused",
            Self::Unavailable => "503",
        }
    }
}

/// What became of a request to a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Any response but 503.
    Heard,
    /// 503, with its Retry-After in seconds, if it had one.
    Unavailable(Option<u32>),
    /// [`Fault::NoAnswer`].
    Silent,
    /// [`Fault::NotSent`].
    NotSent,
    /// [`Fault::NotTrusted`].
    NotTrusted,
}

impl Outcome {
    /// A final response.
    #[must_use]
    pub fn of_status(status: u16, retry_after: Option<u32>) -> Self {
        if status == 503 { Self::Unavailable(retry_after) } else { Self::Heard }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Unknown,
    Up,
    Down { why: Fault, since: Instant, until: Option<Instant>, faults: u32 },
}

/// What a change of [`Health`] is, for the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// From now on it is tried last.
    Fell(Fault),
    /// It is heard again.
    Recovered,
}

/// One target's health.
#[derive(Debug, Clone)]
pub struct Health {
    state: State,
    /// Whether OPTIONS goes there.
    probed: bool,
    /// The last fault, and when.
    last: Option<(Fault, Instant)>,
}

/// A picture of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct View {
    /// `None`: nothing was heard of it, good or bad.
    pub up: Option<bool>,
    /// While it is down: why.
    pub why: Option<Fault>,
    /// While it is down: since how long.
    pub since: Option<Duration>,
    /// While it is down: how long it is left alone still; `None`: until a probe is answered.
    pub left_alone: Option<Duration>,
    /// The last fault and how long ago it was, also while it is up.
    pub last_fault: Option<(Fault, Duration)>,
}

impl Health {
    /// Nothing is known. `probed`: OPTIONS goes there from time to time.
    #[must_use]
    pub fn new(probed: bool) -> Self {
        Self { state: State::Unknown, probed, last: None }
    }

    /// Whether a call may try it in its turn, and not after all others. The first call after a fault's time is told
    /// yes, and those after it no, until that call has told what came of it.
    #[must_use]
    pub fn is_preferred(&mut self, now: Instant) -> bool {
        match &mut self.state {
            State::Unknown | State::Up => true,
            State::Down { until: Some(until), .. } if *until <= now => {
                *until = now + TRIAL;
                true
            }
            State::Down { .. } => false,
        }
    }

    /// Whether a call has news in that it was heard.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.state == State::Up
    }

    /// A call tells what became of its INVITE.
    pub fn on_call(&mut self, outcome: Outcome, now: Instant) -> Option<Turn> {
        match outcome {
            // It spoke, whatever was said of it before.
            Outcome::Heard => self.rise(),
            Outcome::Unavailable(Some(seconds)) => self.retry_after(seconds, now),
            Outcome::Unavailable(None) => {
                self.last = Some((Fault::Unavailable, now));
                // Alive; but what is down because of a probe's 503 stays so.
                let down = matches!(self.state, State::Down { why: Fault::Unavailable, .. });
                if down { None } else { self.rise() }
            }
            Outcome::Silent => self.fall(Fault::NoAnswer, now),
            Outcome::NotSent => self.fall(Fault::NotSent, now),
            Outcome::NotTrusted => self.fall(Fault::NotTrusted, now),
        }
    }

    /// A probe tells what became of its OPTIONS.
    pub fn on_probe(&mut self, outcome: Outcome, now: Instant) -> Option<Turn> {
        match outcome {
            // RFC 3261 §21.5.4: a Retry-After holds for its time, whatever an OPTIONS says.
            Outcome::Heard if self.is_asked_to_wait(now) => None,
            // OPTIONS is answered as the next INVITE would be (RFC 3261 §11.2): it takes no calls.
            Outcome::Unavailable(None) => self.fall(Fault::Unavailable, now),
            outcome => self.on_call(outcome, now),
        }
    }

    /// Something to show.
    #[must_use]
    pub fn view(&self, now: Instant) -> View {
        let ago = |at: Instant| now.saturating_duration_since(at);
        let last_fault = self.last.map(|(fault, at)| (fault, ago(at)));
        match self.state {
            State::Unknown => View { up: None, why: None, since: None, left_alone: None, last_fault },
            State::Up => View { up: Some(true), why: None, since: None, left_alone: None, last_fault },
            State::Down { why, since, until, .. } => View {
                up: Some(false),
                why: Some(why),
                since: Some(ago(since)),
                left_alone: until.map(|until| until.saturating_duration_since(now)),
                last_fault,
            },
        }
    }

    fn is_asked_to_wait(&self, now: Instant) -> bool {
        let State::Down { why: Fault::Unavailable, until: Some(until), .. } = self.state else {
            return false;
        };
        until > now
    }

    fn rise(&mut self) -> Option<Turn> {
        let was_down = matches!(self.state, State::Down { .. });
        self.state = State::Up;
        was_down.then_some(Turn::Recovered)
    }

    fn fall(&mut self, why: Fault, now: Instant) -> Option<Turn> {
        let (since, faults) = match self.state {
            State::Down { since, faults, .. } => (since, faults),
            State::Unknown | State::Up => (now, 0),
        };
        // Several calls that were under way tell the same fault: it counts once.
        let again = self.last.is_none_or(|(_, at)| now.saturating_duration_since(at) >= HOLD);
        let faults = if again || faults == 0 { faults.saturating_add(1) } else { faults };
        let hold = HOLD.saturating_mul(1 << faults.saturating_sub(1).min(8)).min(MAX_HOLD);
        self.go_down(why, since, (!self.probed).then_some(now + hold), faults, now)
    }

    fn retry_after(&mut self, seconds: u32, now: Instant) -> Option<Turn> {
        let (since, faults) = match self.state {
            State::Down { since, faults, .. } => (since, faults),
            State::Unknown | State::Up => (now, 0),
        };
        let wait = Duration::from_secs(u64::from(seconds)).min(LONGEST_RETRY);
        self.go_down(Fault::Unavailable, since, Some(now + wait), faults, now)
    }

    fn go_down(
        &mut self,
        why: Fault,
        since: Instant,
        until: Option<Instant>,
        faults: u32,
        now: Instant,
    ) -> Option<Turn> {
        let news = !matches!(self.state, State::Down { why: known, .. } if known == why);
        self.state = State::Down { why, since, until, faults };
        self.last = Some((why, now));
        news.then_some(Turn::Fell(why))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;
    use proptest::prelude::*;

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn what_calls_tell_decides_who_is_tried_last() {
        use Outcome::{Heard, NotSent, NotTrusted, Silent, Unavailable};
        let now = clock::now();
        let table = [
            ("unknown is as good as any", vec![], None, true),
            ("heard", vec![Heard], Some(true), true),
            ("silent", vec![Heard, Silent], Some(false), false),
            ("not sent", vec![NotSent], Some(false), false),
            ("TLS", vec![NotTrusted], Some(false), false),
            ("§21.5.4: 503 with Retry-After", vec![Heard, Unavailable(Some(30))], Some(false), false),
            ("§21.5.4: 503 without is an answer", vec![Unavailable(None)], Some(true), true),
            ("a silent one that says 503 is alive", vec![Silent, Unavailable(None)], Some(true), true),
            (
                "a plain 503 does not end a Retry-After",
                vec![Unavailable(Some(9)), Unavailable(None)],
                Some(false),
                false,
            ),
            ("heard after all", vec![Silent, Heard], Some(true), true),
            ("Retry-After of nothing is over at once", vec![Unavailable(Some(0))], Some(false), true),
        ];
        for (fact, outcomes, up, preferred) in table {
            let mut health = Health::new(false);
            for outcome in outcomes {
                let _ = health.on_call(outcome, now);
            }
            assert_eq!((health.view(now).up, health.is_preferred(now)), (up, preferred), "{fact}");
        }
    }

    #[test]
    fn without_probes_one_call_at_a_time_tries_a_silent_target_again() {
        let start = clock::now();
        let mut health = Health::new(false);
        assert_eq!(health.on_call(Outcome::Silent, start), Some(Turn::Fell(Fault::NoAnswer)));
        // Calls that were under way tell the same.
        assert_eq!(health.on_call(Outcome::Silent, start + seconds(1)), None);
        let mut now = start + seconds(1);
        for hold in [30, 60, 120, 240, 300, 300] {
            assert!(!health.is_preferred(now + seconds(hold) - Duration::from_millis(1)), "{hold}");
            now += seconds(hold);
            assert!(health.is_preferred(now), "the first call after {hold} s tries");
            assert!(!health.is_preferred(now + seconds(2)), "no second one meanwhile");
            assert_eq!(health.on_call(Outcome::Silent, now + seconds(2)), None, "said already");
            now += seconds(2);
        }
        // A trial that nobody reported on does not block the target for ever.
        now += seconds(300);
        assert!(health.is_preferred(now) && !health.is_preferred(now) && health.is_preferred(now + TRIAL));
        assert_eq!(health.on_call(Outcome::Heard, now), Some(Turn::Recovered));
        assert!(health.is_preferred(now) && health.is_preferred(now) && health.is_up());
        let _ = health.on_call(Outcome::NotSent, now);
        assert!(
            !health.is_preferred(now + seconds(29)) && health.is_preferred(now + seconds(30)),
            "it begins anew"
        );
    }

    #[test]
    fn with_probes_only_an_answer_brings_a_target_back() {
        let start = clock::now();
        let mut health = Health::new(true);
        let _ = health.on_call(Outcome::Silent, start);
        assert!(!health.is_preferred(start + seconds(100_000)), "no call has to find out");
        assert_eq!(health.on_probe(Outcome::Silent, start + seconds(30)), None);
        assert_eq!(health.on_probe(Outcome::Heard, start + seconds(60)), Some(Turn::Recovered));
        assert!(health.is_preferred(start + seconds(60)));
        assert_eq!(
            health.on_probe(Outcome::Unavailable(None), start + seconds(90)),
            Some(Turn::Fell(Fault::Unavailable)),
            "an OPTIONS that gets 503 says what an INVITE would get"
        );
        assert_eq!(health.on_call(Outcome::Unavailable(None), start + seconds(91)), None);
        assert_eq!(health.on_probe(Outcome::Heard, start + seconds(120)), Some(Turn::Recovered));
    }

    #[test]
    fn rfc3261_21_5_4_retry_after_holds_for_its_time() {
        let start = clock::now();
        let mut health = Health::new(true);
        let _ = health.on_call(Outcome::Unavailable(Some(20)), start);
        assert_eq!(health.on_probe(Outcome::Heard, start + seconds(10)), None, "OPTIONS does not end it");
        assert!(!health.is_preferred(start + seconds(19)) && health.is_preferred(start + seconds(20)));
        assert_eq!(health.on_call(Outcome::Heard, start + seconds(21)), Some(Turn::Recovered));
        let _ = health.on_call(Outcome::Unavailable(Some(u32::MAX)), start);
        assert_eq!(health.view(start).left_alone, Some(LONGEST_RETRY), "not for days");
        assert_eq!(
            health.on_call(Outcome::Heard, start + seconds(22)),
            Some(Turn::Recovered),
            "it took a call"
        );
    }

    #[test]
    fn the_view_says_why() {
        let start = clock::now();
        let mut health = Health::new(false);
        let _ = health.on_call(Outcome::Unavailable(None), start);
        let view = health.view(start + seconds(3));
        assert_eq!((view.up, view.last_fault), (Some(true), Some((Fault::Unavailable, seconds(3)))));
        let _ = health.on_call(Outcome::NotTrusted, start + seconds(4));
        let view = health.view(start + seconds(5));
        assert_eq!((view.up, view.why, view.since), (Some(false), Some(Fault::NotTrusted), Some(seconds(1))));
        assert_eq!(view.left_alone, Some(seconds(29)));
    }

    proptest! {
        /// Whatever comes in whatever order: a target that is heard by a call is tried in its turn at once, and none is
        /// left alone for longer than the longest Retry-After without probes.
        #[test]
        fn no_order_of_outcomes_loses_a_target(
            probed in any::<bool>(),
            outcomes in prop::collection::vec((0..5_u8, any::<bool>(), any::<u32>(), 0..100_000_u64), 0..60),
        ) {
            let mut now = clock::now();
            let mut health = Health::new(probed);
            for (kind, by_probe, retry, pause) in outcomes {
                now += Duration::from_millis(pause);
                let outcome = match kind {
                    0 => Outcome::Heard,
                    1 => Outcome::Silent,
                    2 => Outcome::NotSent,
                    3 => Outcome::Unavailable(None),
                    _ => Outcome::Unavailable(Some(retry)),
                };
                let _ = if by_probe && probed { health.on_probe(outcome, now) } else { health.on_call(outcome, now) };
                let _ = health.view(now);
            }
            let mut later = health.clone();
            prop_assert!(probed || later.is_preferred(now + LONGEST_RETRY));
            let _ = health.on_call(Outcome::Heard, now);
            prop_assert!(health.is_preferred(now) && health.is_up());
        }
    }
}
