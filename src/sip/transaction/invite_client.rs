//! The INVITE client transaction: RFC 3261 §17.1.1, figure 5, as amended by RFC 6026 §7.2.
//!
//! ```text
//!             ┌─────────┐ 1xx  ┌────────────┐ 2xx  ┌──────────┐
//!   start ──► │ Calling ├────► │ Proceeding ├────► │ Accepted ├─── M ───┐
//!             └┬───┬────┘      └─────┬──────┘      └──▲───────┘         ▼
//!          A ↺ │   │ 3xx–6xx         │ 3xx–6xx        │ 2xx ↺     ┌────────────┐
//!              │   └───────────┐     │                └─ (2xx)    │ Terminated │
//!              │         ┌─────▼─────▼──┐                         └─────▲──────┘
//!              │         │  Completed   ├──── D, send failed ───────────┤
//!              │         └──────────────┘ 3xx–6xx ↺ ACK                 │
//!              └───────────────── B, send failed ───────────────────────┘
//! ```
//!
//! It never builds the ACK: the leg hands it over with the response that asks for it. It never acknowledges a
//! 2xx (that is the call's, RFC 3261 §13.2.2.4) and never bounds the ringing: a 1xx stops timers A and B, and
//! from there on only the call's own clock ends an INVITE, by CANCEL.

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::timer::{TIMER_A, TIMER_B, TIMER_D, TIMER_M};

/// What may happen to the transaction.
#[derive(Debug, Clone)]
pub enum Event {
    /// A response that belongs to this INVITE.
    Response {
        /// The status code.
        status: u16,
        /// Our encoded ACK; given for 300–699, where the transaction sends it (RFC 3261 §17.1.1.3).
        ack: Option<Bytes>,
    },
    /// [`InviteClient::deadline`] has been reached.
    Timeout,
    /// The INVITE or the ACK could not be sent.
    TransportFailed,
}

/// What the owner must do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Send these bytes to where the INVITE goes.
    Send(Bytes),
    /// Give this response to the leg: every 1xx, each 2xx (repeated ones as well), the first 3xx–6xx.
    Deliver(u16),
    /// Timer B: no response at all.
    TimedOut,
    /// The transaction is over and may be dropped. Always the last action.
    Terminated,
}

/// Each state owns the timers that the RFC gives it; no other timer can be armed there.
#[derive(Debug)]
enum State {
    Calling { invite: Bytes, timer_a: Option<Instant>, interval: Duration, timer_b: Instant },
    Proceeding,
    Completed { ack: Option<Bytes>, timer_d: Instant },
    Accepted { timer_m: Instant },
    Terminated,
}

/// One INVITE that we send.
#[derive(Debug)]
pub struct InviteClient {
    state: State,
    reliable: bool,
}

impl InviteClient {
    /// Sends `invite` and starts in `Calling`. `reliable` is true for TCP and TLS.
    #[must_use]
    pub fn start(invite: Bytes, reliable: bool, now: Instant) -> (Self, Vec<Action>) {
        let actions = vec![Action::Send(invite.clone())];
        // RFC 3261 §17.1.1.2: timer A runs on unreliable transports only.
        let timer_a = (!reliable).then_some(now + TIMER_A);
        let state = State::Calling { invite, timer_a, interval: TIMER_A, timer_b: now + TIMER_B };
        (Self { state, reliable }, actions)
    }

    /// Consumes one event and returns what the caller must do, in order. An event that the RFC does not
    /// define in the current state changes nothing.
    #[must_use]
    pub fn handle(&mut self, event: Event, now: Instant) -> Vec<Action> {
        match (&mut self.state, event) {
            (
                State::Calling { .. } | State::Proceeding,
                Event::Response { status: status @ 100..=199, .. },
            ) => {
                self.state = State::Proceeding;
                vec![Action::Deliver(status)]
            }
            (
                State::Calling { .. } | State::Proceeding,
                Event::Response { status: status @ 200..=299, .. },
            ) => {
                self.state = State::Accepted { timer_m: now + TIMER_M };
                vec![Action::Deliver(status)]
            }
            (
                State::Calling { .. } | State::Proceeding,
                Event::Response { status: status @ 300..=699, ack },
            ) => {
                let mut actions: Vec<_> = ack.clone().map(Action::Send).into_iter().collect();
                actions.push(Action::Deliver(status));
                if self.reliable {
                    // RFC 3261 §17.1.1.2: timer D is zero on a reliable transport.
                    actions.extend(self.terminate());
                } else {
                    self.state = State::Completed { ack, timer_d: now + TIMER_D };
                }
                actions
            }
            // RFC 3261 §17.1.1.2: a repeated final response means that our ACK was lost.
            (State::Completed { ack, .. }, Event::Response { status: 300..=699, .. }) => {
                ack.clone().map(Action::Send).into_iter().collect()
            }
            // RFC 6026 §7.2: repeated 2xx and those of other forks are the call's to acknowledge. A proxy may
            // let a 2xx follow its own 408 (RFC 3261 §16.7): figure 5 has no arrow for it, but a phone that
            // believes in a call must get ACK and BYE.
            (
                State::Accepted { .. } | State::Completed { .. },
                Event::Response { status: status @ 200..=299, .. },
            ) => vec![Action::Deliver(status)],
            // RFC 6026 §7.2. In Proceeding and Accepted nothing is sent by this machine, so a late report of
            // failure is about a repeated INVITE that had been answered meanwhile.
            (State::Calling { .. } | State::Completed { .. }, Event::TransportFailed) => self.terminate(),
            (_, Event::Timeout) => self.fire_timers(now),
            _ => vec![],
        }
    }

    /// When to deliver `Timeout`; `None` while only the peer or the call can act.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        Some(match self.state {
            State::Proceeding | State::Terminated => return None,
            State::Calling { timer_a: Some(a), timer_b, .. } => a.min(timer_b),
            State::Calling { timer_b, .. } => timer_b,
            State::Completed { timer_d, .. } => timer_d,
            State::Accepted { timer_m } => timer_m,
        })
    }

    /// Repeats the INVITE no more, for an owner who has turned elsewhere; responses are taken until timer B.
    pub fn stop_repeating(&mut self) {
        if let State::Calling { timer_a, .. } = &mut self.state {
            *timer_a = None;
        }
    }

    /// Whether [`Action::Terminated`] has been returned.
    #[must_use]
    pub fn is_terminated(&self) -> bool {
        matches!(self.state, State::Terminated)
    }

    /// Whether no response has come yet: a CANCEL must wait (RFC 3261 §9.1).
    #[must_use]
    pub fn is_calling(&self) -> bool {
        matches!(self.state, State::Calling { .. })
    }

    /// Whether a 1xx but no final response has come: the only time for a CANCEL (RFC 3261 §9.1).
    #[must_use]
    pub fn is_proceeding(&self) -> bool {
        matches!(self.state, State::Proceeding)
    }

    fn fire_timers(&mut self, now: Instant) -> Vec<Action> {
        match &mut self.state {
            State::Calling { timer_b, .. } if *timer_b <= now => {
                self.state = State::Terminated;
                vec![Action::TimedOut, Action::Terminated]
            }
            State::Calling { invite, timer_a: Some(at), interval, .. } if *at <= now => {
                // RFC 3261 §17.1.1.2: timer A doubles without a ceiling; timer B is its bound.
                *interval = interval.saturating_mul(2).min(TIMER_B);
                *at = now + *interval;
                vec![Action::Send(invite.clone())]
            }
            State::Completed { timer_d: at, .. } | State::Accepted { timer_m: at } if *at <= now => {
                self.terminate()
            }
            _ => vec![], // Woken early: the deadline moved after the timer was set.
        }
    }

    fn terminate(&mut self) -> Vec<Action> {
        self.state = State::Terminated;
        vec![Action::Terminated]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    const INVITE: Bytes = Bytes::from_static(b"INVITE");
    const ACK: Bytes = Bytes::from_static(b"ACK");

    fn response(status: u16) -> Event {
        Event::Response { status, ack: (status >= 300).then_some(ACK) }
    }

    /// Starts at 0 ms, gives `answer` after so many milliseconds, and lets the machine's own deadlines move
    /// the clock. Returns when the INVITE was sent and when the transaction ended (`None`: not by itself).
    fn timing(reliable: bool, answer: Option<(u64, u16)>) -> (Vec<u128>, Option<u128>) {
        let start = clock::now();
        let (mut client, actions) = InviteClient::start(INVITE, reliable, start);
        assert_eq!(actions, [Action::Send(INVITE)]);
        let (mut sent, mut now) = (vec![0], start);
        let mut answer = answer.map(|(after, status)| (start + Duration::from_millis(after), status));
        loop {
            let (at, event) = match (client.deadline(), answer) {
                (deadline, Some((at, status))) if deadline.is_none_or(|deadline| at <= deadline) => {
                    answer = None;
                    (at, response(status))
                }
                (Some(deadline), _) => {
                    assert!(deadline > now, "a fired timer must move on, or the shell would spin");
                    (deadline, Event::Timeout)
                }
                (None, _) => return (sent, client.is_terminated().then_some((now - start).as_millis())),
            };
            now = at;
            let actions = client.handle(event, now);
            sent.extend(actions.contains(&Action::Send(INVITE)).then_some((now - start).as_millis()));
        }
    }

    #[test]
    fn rfc3261_17_1_1_2_and_rfc6026_7_2_request_timing() {
        const UDP: &[u128] = &[0, 500, 1500, 3500, 7500, 15500, 31500];
        type Row = (&'static str, bool, Option<(u64, u16)>, &'static [u128], Option<u128>);
        let table: [Row; 10] = [
            (
                "3261 §17.1.1.2: timer A doubles without ceiling, timer B ends it",
                false,
                None,
                UDP,
                Some(32_000),
            ),
            ("3261 §17.1.1.2: timer A is not set on a reliable transport", true, None, &[0], Some(32_000)),
            ("3261 §17.1.1.2: a 100 stops the repetition", false, Some((600, 100)), &[0, 500], None),
            ("3261 §17.1.1.2: a 180 stops timer B too", false, Some((31_900, 180)), UDP, None),
            ("3261 §17.1.1.2: timer D is 32 s on UDP", false, Some((100, 486)), &[0], Some(32_100)),
            ("3261 §17.1.1.2: timer D is zero on TCP", true, Some((100, 486)), &[0], Some(100)),
            (
                "3261 §17.1.1.2: a final response in time beats timer B",
                false,
                Some((32_000, 503)),
                UDP,
                Some(64_000),
            ),
            (
                "6026 §7.2: timer M keeps the transaction for forked 2xx",
                false,
                Some((100, 200)),
                &[0],
                Some(32_100),
            ),
            ("6026 §7.2: timer M runs on TCP too", true, Some((100, 200)), &[0], Some(32_100)),
            ("3261 §17.1.1.2: a 2xx without a 1xx", false, Some((1600, 299)), &[0, 500, 1500], Some(33_600)),
        ];
        for (requirement, reliable, answer, sent, end) in table {
            assert_eq!(timing(reliable, answer), (sent.to_vec(), end), "{requirement}");
        }
    }

    /// Gives all events at the same instant and compares what comes back for the last of them.
    #[test]
    fn rfc3261_17_1_1_and_rfc6026_7_2_transitions() {
        use Action::{Deliver, Send, Terminated};
        let table = [
            ("3261 §17.1.1.2: 1xx in Calling", false, vec![response(100)], vec![Deliver(100)]),
            (
                "3261 §17.1.1.2: each 1xx in Proceeding",
                false,
                vec![response(183), response(183)],
                vec![Deliver(183)],
            ),
            (
                "3261 §17.1.1.2: 486 is acknowledged here",
                false,
                vec![response(486)],
                vec![Send(ACK), Deliver(486)],
            ),
            (
                "3261 §17.1.1.2: also after 1xx",
                false,
                vec![response(180), response(603)],
                vec![Send(ACK), Deliver(603)],
            ),
            (
                "3261 §17.1.1.2: on TCP that is the end",
                true,
                vec![response(486)],
                vec![Send(ACK), Deliver(486), Terminated],
            ),
            (
                "3261 §17.1.1.2: repeated 486: ACK only",
                false,
                vec![response(486), response(486)],
                vec![Send(ACK)],
            ),
            ("3261 §17.1.1.2: 1xx after 486 is late", false, vec![response(486), response(180)], vec![]),
            ("6026 §7.2: 2xx is the call's to acknowledge", false, vec![response(200)], vec![Deliver(200)]),
            (
                "6026 §7.2: each repeated 2xx too",
                false,
                vec![response(200), response(200)],
                vec![Deliver(200)],
            ),
            ("6026 §7.2: Accepted ignores 1xx", false, vec![response(200), response(180)], vec![]),
            ("6026 §7.2: Accepted ignores 3xx–6xx", false, vec![response(200), response(487)], vec![]),
            (
                "3261 §13.2.2.4: a 2xx after a proxy's 408",
                false,
                vec![response(408), response(200)],
                vec![Deliver(200)],
            ),
            ("3261 §17.1.4: send failure in Calling", false, vec![Event::TransportFailed], vec![Terminated]),
            ("6026 §7.2: the peer has answered", false, vec![response(180), Event::TransportFailed], vec![]),
            ("6026 §7.2: ACK not sent", false, vec![response(486), Event::TransportFailed], vec![Terminated]),
            ("6026 §7.2: nothing was sent", false, vec![response(200), Event::TransportFailed], vec![]),
            ("nothing after the end", false, vec![Event::TransportFailed, response(200)], vec![]),
        ];
        let now = clock::now();
        for (requirement, reliable, events, expected) in table {
            let (mut client, _) = InviteClient::start(INVITE, reliable, now);
            let last = events.into_iter().map(|event| client.handle(event, now)).last();
            assert_eq!(last, Some(expected), "{requirement}");
        }
    }

    #[test]
    fn rfc3261_17_1_1_2_no_response_is_reported() {
        let start = clock::now();
        let (mut client, _) = InviteClient::start(INVITE, true, start);
        assert_eq!(client.handle(Event::Timeout, start + TIMER_B), [Action::TimedOut, Action::Terminated]);
    }

    #[test]
    fn rfc3261_9_1_cancel_waits_for_a_provisional_response() {
        let now = clock::now();
        let (mut client, _) = InviteClient::start(INVITE, false, now);
        assert!(client.is_calling() && !client.is_proceeding());
        let _ = client.handle(response(100), now);
        assert!(!client.is_calling() && client.is_proceeding());
        let _ = client.handle(response(487), now);
        assert!(!client.is_calling() && !client.is_proceeding());
    }
}
