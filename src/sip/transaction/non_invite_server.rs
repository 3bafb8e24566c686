//! The non-INVITE server transaction: RFC 3261 §17.2.2, figure 8, as amended by RFC 4320 §4.
//!
//! ```text
//!             ┌────────┐ final  ┌───────────┐        ┌────────────┐
//!   start ──► │ Trying ├──────► │ Completed ├── J ─► │ Terminated │
//!             └────────┘        └───────────┘        └────────────┘
//!                                 request ↺ response
//! ```
//!
//! There is no `Proceeding`: every such request is answered at once, and RFC 4320 §4.1 forbids all provisional
//! responses but a late 100.

use std::time::Instant;

use bytes::Bytes;

use super::timer::TIMER_J;

/// What may happen to the transaction.
#[derive(Debug, Clone)]
pub enum Event {
    /// The same request again.
    Retransmitted,
    /// The call answers: status code (200–699) and encoded response. A 1xx is not sent.
    Respond(u16, Bytes),
    /// [`NonInviteServer::deadline`] has been reached.
    Timeout,
}

/// What the owner must do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Send these bytes to where the request came from.
    Send(Bytes),
    /// The transaction is over and may be dropped. Always the last action.
    Terminated,
}

/// Each state owns the timers that the RFC gives it; no other timer can be armed there.
#[derive(Debug)]
enum State {
    Trying,
    Completed { response: Bytes, timer_j: Instant },
    Terminated,
}

/// One request other than INVITE and ACK that a peer sent us.
#[derive(Debug)]
pub struct NonInviteServer {
    state: State,
    reliable: bool,
}

impl NonInviteServer {
    /// Starts in `Trying`. `reliable` is true for TCP and TLS.
    #[must_use]
    pub fn new(reliable: bool) -> Self {
        Self { state: State::Trying, reliable }
    }

    /// Consumes one event and returns what the caller must do, in order. An event that the RFC does not
    /// define in the current state changes nothing.
    #[must_use]
    pub fn handle(&mut self, event: Event, now: Instant) -> Vec<Action> {
        match (&mut self.state, event) {
            (State::Trying, Event::Respond(200..=699, wire)) if self.reliable => {
                // RFC 3261 §17.2.2: timer J is zero on a reliable transport.
                self.state = State::Terminated;
                vec![Action::Send(wire), Action::Terminated]
            }
            (State::Trying, Event::Respond(200..=699, wire)) => {
                self.state = State::Completed { response: wire.clone(), timer_j: now + TIMER_J };
                vec![Action::Send(wire)]
            }
            (State::Completed { response, .. }, Event::Retransmitted) => vec![Action::Send(response.clone())],
            (State::Completed { timer_j, .. }, Event::Timeout) if *timer_j <= now => {
                self.state = State::Terminated;
                vec![Action::Terminated]
            }
            // RFC 3261 §17.2.2: a repeated request in Trying and a second final response are dropped.
            _ => vec![],
        }
    }

    /// When to deliver `Timeout`; `None` while only the peer or the call can act.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        match self.state {
            State::Completed { timer_j, .. } => Some(timer_j),
            State::Trying | State::Terminated => None,
        }
    }

    /// Whether [`Action::Terminated`] has been returned.
    #[must_use]
    pub fn is_terminated(&self) -> bool {
        matches!(self.state, State::Terminated)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clock;

    /// Gives events at milliseconds and compares what comes back for the last of them, and the deadline.
    #[test]
    fn rfc3261_17_2_2_transitions_and_timer_j() {
        use Action::{Send, Terminated};
        use Event::{Respond, Retransmitted, Timeout};
        let (ok, late) = (Bytes::from_static(b"200"), Bytes::from_static(b"486"));
        let answer = || Respond(200, ok.clone());
        let sent = || vec![Send(ok.clone())];
        let table = [
            (
                "§17.2.2: a repeated request in Trying is dropped",
                false,
                vec![(0, Retransmitted)],
                vec![],
                None,
            ),
            (
                "4320 §4.1: no provisional response",
                false,
                vec![(0, Respond(180, late.clone()))],
                vec![],
                None,
            ),
            ("§17.2.2: the response starts timer J", false, vec![(0, answer())], sent(), Some(32_000)),
            ("§17.2.2: a refusal as well", false, vec![(0, Respond(481, ok.clone()))], sent(), Some(32_000)),
            (
                "§17.2.2: a repeated request gets it again, timer J runs on",
                false,
                vec![(0, answer()), (31_999, Retransmitted)],
                sent(),
                Some(32_000),
            ),
            (
                "§17.2.2: a second final response is dropped",
                false,
                vec![(0, answer()), (1, Respond(486, late))],
                vec![],
                Some(32_000),
            ),
            ("§17.2.2: woken early", false, vec![(0, answer()), (1, Timeout)], vec![], Some(32_000)),
            ("§17.2.2: timer J", false, vec![(0, answer()), (32_000, Timeout)], vec![Terminated], None),
            (
                "§17.2.2: J is zero on TCP",
                true,
                vec![(0, answer())],
                vec![Send(ok.clone()), Terminated],
                None,
            ),
            ("nothing after the end", true, vec![(0, answer()), (1, Retransmitted)], vec![], None),
        ];
        let start = clock::now();
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        for (requirement, reliable, events, expected, deadline) in table {
            let mut server = NonInviteServer::new(reliable);
            let last = events.into_iter().map(|(time, event)| server.handle(event, at(time))).last();
            assert_eq!((last, server.deadline()), (Some(expected), deadline.map(at)), "{requirement}");
        }
    }
}
