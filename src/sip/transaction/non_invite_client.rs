//! The non-INVITE client transaction: RFC 3261 §17.1.2, figure 6.
//!
//! ```text
//!             ┌────────┐ 1xx  ┌────────────┐ final  ┌───────────┐        ┌────────────┐
//!   start ──► │ Trying ├────► │ Proceeding ├──────► │ Completed ├── K ─► │ Terminated │
//!             └┬──┬────┘      └───┬────────┘        └─────▲─────┘        └─────▲──────┘
//!          E ↺ │  └───────────────┼── final ──────────────┘                    │
//!              └──────────────────┴─────────── F, send failed ─────────────────┘
//! ```
//!
//! It never acknowledges anything, and it never waits longer than timer F: a 1xx does not stop that one.

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::timer::{T2, TIMER_E, TIMER_F, TIMER_K};

/// What may happen to the transaction.
#[derive(Debug, Clone)]
pub enum Event {
    /// A response that belongs to this request: its status code.
    Response(u16),
    /// [`NonInviteClient::deadline`] has been reached.
    Timeout,
    /// The request could not be sent.
    TransportFailed,
}

/// What the owner must do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Send these bytes to where the request goes.
    Send(Bytes),
    /// Give this response to the leg: every 1xx and the first final one.
    Deliver(u16),
    /// Timer F: no final response.
    TimedOut,
    /// The transaction is over and may be dropped. Always the last action.
    Terminated,
}

/// Each state owns the timers that the RFC gives it. `Trying` and `Proceeding` have the same ones, so the
/// two are one variant here.
#[derive(Debug)]
enum State {
    Waiting {
        request: Bytes,
        proceeding: bool,
        timer_e: Option<Instant>,
        interval: Duration,
        timer_f: Instant,
    },
    Completed {
        timer_k: Instant,
    },
    Terminated,
}

/// One request other than INVITE and ACK that we send.
#[derive(Debug)]
pub struct NonInviteClient {
    state: State,
    reliable: bool,
}

impl NonInviteClient {
    /// Sends `request` and starts in `Trying`. `reliable` is true for TCP and TLS.
    #[must_use]
    pub fn start(request: Bytes, reliable: bool, now: Instant) -> (Self, Vec<Action>) {
        let actions = vec![Action::Send(request.clone())];
        // RFC 3261 §17.1.2.2: timer E runs on unreliable transports only.
        let timer_e = (!reliable).then_some(now + TIMER_E);
        let timer_f = now + TIMER_F;
        let state = State::Waiting { request, proceeding: false, timer_e, interval: TIMER_E, timer_f };
        (Self { state, reliable }, actions)
    }

    /// Consumes one event and returns what the caller must do, in order. An event that the RFC does not
    /// define in the current state changes nothing.
    #[must_use]
    pub fn handle(&mut self, event: Event, now: Instant) -> Vec<Action> {
        match (&mut self.state, event) {
            (State::Waiting { proceeding, .. }, Event::Response(status @ 100..=199)) => {
                *proceeding = true;
                vec![Action::Deliver(status)]
            }
            (State::Waiting { .. }, Event::Response(status @ 200..=699)) if self.reliable => {
                // RFC 3261 §17.1.2.2: timer K is zero on a reliable transport.
                self.state = State::Terminated;
                vec![Action::Deliver(status), Action::Terminated]
            }
            (State::Waiting { .. }, Event::Response(status @ 200..=699)) => {
                self.state = State::Completed { timer_k: now + TIMER_K };
                vec![Action::Deliver(status)]
            }
            (State::Waiting { .. }, Event::TransportFailed) => {
                self.state = State::Terminated;
                vec![Action::Terminated]
            }
            (_, Event::Timeout) => self.fire_timers(now),
            // RFC 3261 §17.1.2.2: Completed absorbs repeated final responses.
            _ => vec![],
        }
    }

    /// When to deliver `Timeout`; `None` after the end.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        Some(match self.state {
            State::Terminated => return None,
            State::Waiting { timer_e: Some(e), timer_f, .. } => e.min(timer_f),
            State::Waiting { timer_f, .. } => timer_f,
            State::Completed { timer_k } => timer_k,
        })
    }

    /// Whether [`Action::Terminated`] has been returned.
    #[must_use]
    pub fn is_terminated(&self) -> bool {
        matches!(self.state, State::Terminated)
    }

    fn fire_timers(&mut self, now: Instant) -> Vec<Action> {
        match &mut self.state {
            State::Waiting { timer_f, .. } if *timer_f <= now => {
                self.state = State::Terminated;
                vec![Action::TimedOut, Action::Terminated]
            }
            State::Waiting { request, proceeding, timer_e: Some(at), interval, .. } if *at <= now => {
                // RFC 3261 §17.1.2.2: timer E doubles up to T2, and after a 1xx it is T2 at once.
                *interval = if *proceeding { T2 } else { (*interval * 2).min(T2) };
                *at = now + *interval;
                vec![Action::Send(request.clone())]
            }
            State::Completed { timer_k } if *timer_k <= now => {
                self.state = State::Terminated;
                vec![Action::Terminated]
            }
            _ => vec![], // Woken early: the deadline moved after the timer was set.
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    const REQUEST: Bytes = Bytes::from_static(b"BYE");

    /// Starts at 0 ms, gives `answer` after so many milliseconds, and lets the machine's own deadlines move
    /// the clock. Returns when the request was sent, what was delivered, and when the transaction ended.
    fn timing(reliable: bool, answer: Option<(u64, u16)>) -> (Vec<u128>, Vec<Action>, u128) {
        let start = clock::now();
        let (mut client, actions) = NonInviteClient::start(REQUEST, reliable, start);
        assert_eq!(actions, [Action::Send(REQUEST)]);
        let (mut sent, mut other, mut now) = (vec![0], vec![], start);
        let mut answer = answer.map(|(after, status)| (start + Duration::from_millis(after), status));
        while let Some(deadline) = client.deadline() {
            assert!(deadline > now, "a fired timer must move on, or the shell would spin");
            let event = match answer {
                Some((at, status)) if at <= deadline => {
                    (now, answer) = (at, None);
                    Event::Response(status)
                }
                _ => {
                    now = deadline;
                    Event::Timeout
                }
            };
            for action in client.handle(event, now) {
                match action {
                    Action::Send(_) => sent.push((now - start).as_millis()),
                    action => other.push(action),
                }
            }
        }
        (sent, other, (now - start).as_millis())
    }

    #[test]
    fn rfc3261_17_1_2_2_request_timing() {
        use Action::{Deliver, Terminated, TimedOut};
        const UDP: &[u128] = &[0, 500, 1500, 3500, 7500, 11500, 15500, 19500, 23500, 27500, 31500];
        const SLOWED: &[u128] = &[0, 500, 4500, 8500, 12500, 16500, 20500, 24500, 28500];
        type Row = (&'static str, bool, Option<(u64, u16)>, &'static [u128], &'static [Action], u128);
        let table: [Row; 7] = [
            (
                "timer E doubles from T1 to T2, timer F ends it",
                false,
                None,
                UDP,
                &[TimedOut, Terminated],
                32_000,
            ),
            ("timer E is not set on TCP", true, None, &[0], &[TimedOut, Terminated], 32_000),
            (
                "after a 1xx timer E is T2, and timer F still ends it",
                false,
                Some((100, 100)),
                SLOWED,
                &[Deliver(100), TimedOut, Terminated],
                32_000,
            ),
            ("the same on TCP", true, Some((100, 100)), &[0], &[Deliver(100), TimedOut, Terminated], 32_000),
            ("timer K is T4 on UDP", false, Some((600, 200)), &[0, 500], &[Deliver(200), Terminated], 5_600),
            ("timer K is zero on TCP", true, Some((600, 481)), &[0], &[Deliver(481), Terminated], 600),
            (
                "a final response in time beats timer F",
                false,
                Some((32_000, 500)),
                UDP,
                &[Deliver(500), Terminated],
                37_000,
            ),
        ];
        for (requirement, reliable, answer, sent, other, end) in table {
            assert_eq!(
                timing(reliable, answer),
                (sent.to_vec(), other.to_vec(), end),
                "§17.1.2.2: {requirement}"
            );
        }
    }

    /// Gives all events at the same instant and compares what comes back for the last of them.
    #[test]
    fn rfc3261_17_1_2_transitions() {
        use Action::{Deliver, Terminated};
        use Event::{Response, TransportFailed};
        let table = [
            ("§17.1.2.2: 1xx", vec![Response(100)], vec![Deliver(100)]),
            ("§17.1.2.2: each 1xx", vec![Response(100), Response(183)], vec![Deliver(183)]),
            ("§17.1.2.2: final after 1xx", vec![Response(100), Response(200)], vec![Deliver(200)]),
            ("§17.1.2.2: Completed absorbs finals", vec![Response(200), Response(200)], vec![]),
            ("§17.1.2.2: Completed absorbs 1xx", vec![Response(200), Response(100)], vec![]),
            ("§17.1.4: send failure in Trying", vec![TransportFailed], vec![Terminated]),
            ("§17.1.4: send failure in Proceeding", vec![Response(100), TransportFailed], vec![Terminated]),
            ("§17.1.2.2: nothing is sent in Completed", vec![Response(200), TransportFailed], vec![]),
            ("nothing after the end", vec![TransportFailed, Response(200)], vec![]),
        ];
        let now = clock::now();
        for (requirement, events, expected) in table {
            let (mut client, _) = NonInviteClient::start(REQUEST, false, now);
            let last = events.into_iter().map(|event| client.handle(event, now)).last();
            assert_eq!(last, Some(expected), "{requirement}");
        }
    }
}
