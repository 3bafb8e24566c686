//! The INVITE server transaction: RFC 3261 §17.2.1, figure 7, as amended by RFC 6026 §7.1.
//!
//! ```text
//!               INVITE ↺ last response
//!             ┌────────────┐ 2xx              ┌──────────┐
//!   start ──► │ Proceeding ├────────────────► │ Accepted ├──── L ───┐
//!             └─────┬──────┘                  └──────────┘          │
//!                   │ 3xx–6xx                  2xx ↺, ACK to call   ▼
//!             ┌─────▼─────┐ ACK  ┌───────────┐                ┌────────────┐
//!             │ Completed ├────► │ Confirmed ├────── I ─────► │ Terminated │
//!             └─────┬─────┘      └───────────┘                └─────▲──────┘
//!               G ↺ └────────────────── H ──────────────────────────┘
//! ```
//!
//! It never repeats a 2xx on its own (that is the call's, RFC 3261 §13.3.1.4) and never answers by itself.

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::timer::{T2, TIMER_G, TIMER_H, TIMER_I, TIMER_L};

/// What may happen to the transaction.
#[derive(Debug, Clone)]
pub enum Event {
    /// The same INVITE again: the peer has not heard our last response.
    InviteRetransmitted,
    /// The call answers: status code and encoded response. A repeated 2xx comes this way too.
    Respond(u16, Bytes),
    /// An ACK that belongs to this INVITE, whatever we answered.
    Ack,
    /// [`InviteServer::deadline`] has been reached.
    Timeout,
    /// A response could not be sent.
    TransportFailed,
}

/// What the owner must do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Send these bytes to where the INVITE came from.
    Send(Bytes),
    /// ACK of our 2xx: the call stops repeating it (RFC 3261 §13.3.1.4).
    DeliverAck,
    /// Timer H: nobody acknowledged our 3xx–6xx.
    AckTimedOut,
    /// The transaction is over and may be dropped. Always the last action.
    Terminated,
}

/// Each state owns the timers that the RFC gives it; no other timer can be armed there.
#[derive(Debug)]
enum State {
    Proceeding { last: Bytes },
    Completed { last: Bytes, timer_g: Option<Instant>, interval: Duration, timer_h: Instant },
    Confirmed { timer_i: Instant },
    Accepted { timer_l: Instant },
    Terminated,
}

/// One INVITE that a peer sent us.
#[derive(Debug)]
pub struct InviteServer {
    state: State,
    reliable: bool,
}

impl InviteServer {
    /// Starts in `Proceeding`. `trying` is the 100 response, which the caller has sent or sends now: a machine
    /// that has not handled an event sends nothing. `reliable` is true for TCP and TLS.
    #[must_use]
    pub fn new(trying: Bytes, reliable: bool) -> Self {
        Self { state: State::Proceeding { last: trying }, reliable }
    }

    /// Consumes one event and returns what the caller must do, in order. An event that the RFC does not
    /// define in the current state changes nothing.
    #[must_use]
    pub fn handle(&mut self, event: Event, now: Instant) -> Vec<Action> {
        match (&mut self.state, event) {
            (State::Proceeding { last } | State::Completed { last, .. }, Event::InviteRetransmitted) => {
                vec![Action::Send(last.clone())]
            }
            (State::Proceeding { last }, Event::Respond(100..=199, wire)) => {
                last.clone_from(&wire);
                vec![Action::Send(wire)]
            }
            (State::Proceeding { .. }, Event::Respond(200..=299, wire)) => {
                self.state = State::Accepted { timer_l: now + TIMER_L };
                vec![Action::Send(wire)]
            }
            (State::Proceeding { .. }, Event::Respond(300..=699, wire)) => {
                self.state = State::Completed {
                    last: wire.clone(),
                    // RFC 3261 §17.2.1: timer G runs on unreliable transports only.
                    timer_g: (!self.reliable).then_some(now + TIMER_G),
                    interval: TIMER_G,
                    timer_h: now + TIMER_H,
                };
                vec![Action::Send(wire)]
            }
            (State::Completed { .. }, Event::Ack) if self.reliable => {
                // RFC 3261 §17.2.1: timer I is zero on a reliable transport.
                self.terminate()
            }
            (State::Completed { .. }, Event::Ack) => {
                self.state = State::Confirmed { timer_i: now + TIMER_I };
                vec![]
            }
            // The call, not this machine, repeats a 2xx and consumes its ACK (RFC 6026 §7.1).
            (State::Accepted { .. }, Event::Respond(200..=299, wire)) => vec![Action::Send(wire)],
            (State::Accepted { .. }, Event::Ack) => vec![Action::DeliverAck],
            (_, Event::Timeout) => self.fire_timers(now),
            // RFC 6026 §7.1: a failure to send leaves the state as it is; the peer's repeated INVITE, timer G
            // or the call's repeated 2xx is the next attempt.
            _ => vec![],
        }
    }

    /// When to deliver `Timeout`; `None` while only the peer or the call can act.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        Some(match self.state {
            State::Proceeding { .. } | State::Terminated => return None,
            State::Completed { timer_g: Some(g), timer_h, .. } => g.min(timer_h),
            State::Completed { timer_h, .. } => timer_h,
            State::Confirmed { timer_i } => timer_i,
            State::Accepted { timer_l } => timer_l,
        })
    }

    /// Whether [`Action::Terminated`] has been returned.
    #[must_use]
    pub fn is_terminated(&self) -> bool {
        matches!(self.state, State::Terminated)
    }

    /// Whether no final response has been given yet, so that a CANCEL still has something to end
    /// (RFC 3261 §9.2).
    #[must_use]
    pub fn is_proceeding(&self) -> bool {
        matches!(self.state, State::Proceeding { .. })
    }

    fn fire_timers(&mut self, now: Instant) -> Vec<Action> {
        match &mut self.state {
            State::Completed { timer_h, .. } if *timer_h <= now => {
                self.state = State::Terminated;
                vec![Action::AckTimedOut, Action::Terminated]
            }
            State::Completed { last, timer_g: Some(at), interval, .. } if *at <= now => {
                *interval = (*interval * 2).min(T2);
                *at = now + *interval;
                vec![Action::Send(last.clone())]
            }
            State::Confirmed { timer_i: at } | State::Accepted { timer_l: at } if *at <= now => {
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

    const TRYING: Bytes = Bytes::from_static(b"100");
    const BYTES: Bytes = Bytes::from_static(b"response");

    /// Answers at 0 ms and lets the machine's own deadlines move the clock. Returns when the response was
    /// sent and when the transaction ended, in milliseconds.
    fn timing(status: u16, reliable: bool) -> (Vec<u128>, u128) {
        let (mut server, mut sent) = (InviteServer::new(TRYING, reliable), vec![]);
        let start = clock::now();
        let (mut now, mut event) = (start, Event::Respond(status, BYTES));
        loop {
            let elapsed = (now - start).as_millis();
            let actions = server.handle(event, now);
            sent.extend(actions.contains(&Action::Send(BYTES)).then_some(elapsed));
            let Some(next) = server.deadline() else { return (sent, elapsed) };
            assert!(next > now, "a fired timer must move on, or the shell would spin");
            (now, event) = (next, Event::Timeout);
        }
    }

    #[test]
    fn rfc3261_17_2_1_and_rfc6026_7_1_response_timing() {
        const UDP: &[u128] = &[0, 500, 1500, 3500, 7500, 11500, 15500, 19500, 23500, 27500, 31500];
        let table = [
            ("3261 §17.2.1: timer G doubles from T1 to T2, timer H ends it", 486, false, UDP),
            ("3261 §17.2.1: timer G is not set on a reliable transport", 486, true, &[0]),
            ("6026 §7.1: the call repeats a 2xx, timer L ends the transaction", 200, false, &[0]),
            ("6026 §7.1: timer L runs on reliable transports too", 200, true, &[0]),
        ];
        for (requirement, status, reliable, sent) in table {
            assert_eq!(timing(status, reliable), (sent.to_vec(), 32_000), "{requirement}");
        }
    }

    /// Gives all events at the same instant and compares what comes back for the last of them.
    #[test]
    fn rfc3261_17_2_1_and_rfc6026_7_1_transitions() {
        use Event::{Ack, InviteRetransmitted, Respond, TransportFailed};
        let (ringing, busy, ok) =
            (Bytes::from_static(b"180"), Bytes::from_static(b"486"), Bytes::from_static(b"200"));
        let send = |wire: &Bytes| vec![Action::Send(wire.clone())];
        let busy_event = Respond(486, busy.clone());
        let ok_event = Respond(200, ok.clone());
        let table = [
            ("3261 §17.2.1: the 100 is repeated", false, vec![InviteRetransmitted], send(&TRYING)),
            (
                "3261 §17.2.1: the most recent provisional response is repeated",
                false,
                vec![Respond(180, ringing.clone()), InviteRetransmitted],
                send(&ringing),
            ),
            (
                "3261 §17.2.1: a final response is repeated",
                false,
                vec![busy_event.clone(), InviteRetransmitted],
                send(&busy),
            ),
            (
                "3261 §17.2.1: only the first final response counts",
                false,
                vec![busy_event.clone(), ok_event.clone()],
                vec![],
            ),
            (
                "3261 §17.2.1: the ACK of a 486 is not the call's",
                false,
                vec![busy_event.clone(), Ack],
                vec![],
            ),
            ("3261 §17.2.1: Confirmed absorbs ACK", false, vec![busy_event.clone(), Ack, Ack], vec![]),
            (
                "3261 §17.2.1: Confirmed absorbs INVITE",
                false,
                vec![busy_event.clone(), Ack, InviteRetransmitted],
                vec![],
            ),
            (
                "3261 §17.2.1: timer I is zero on TCP",
                true,
                vec![busy_event.clone(), Ack],
                vec![Action::Terminated],
            ),
            (
                "6026 §7.1: Accepted absorbs INVITE",
                false,
                vec![ok_event.clone(), InviteRetransmitted],
                vec![],
            ),
            (
                "6026 §7.1: the call repeats its 2xx",
                false,
                vec![ok_event.clone(), ok_event.clone()],
                send(&ok),
            ),
            (
                "6026 §7.1: ACK of 2xx is the call's",
                false,
                vec![ok_event.clone(), Ack],
                vec![Action::DeliverAck],
            ),
            (
                "6026 §7.1: so is each repeated one",
                false,
                vec![ok_event.clone(), Ack, Ack],
                vec![Action::DeliverAck],
            ),
            ("6026 §7.1: no 486 after a 200", false, vec![ok_event.clone(), busy_event.clone()], vec![]),
            (
                "6026 §7.1: a send failure changes nothing",
                true,
                vec![TransportFailed, InviteRetransmitted],
                send(&TRYING),
            ),
            (
                "6026 §7.1: nor in Accepted",
                true,
                vec![ok_event.clone(), TransportFailed, Ack],
                vec![Action::DeliverAck],
            ),
            ("3261 §17.2.1: an ACK before any final response is nothing", false, vec![Ack], vec![]),
        ];
        let now = clock::now();
        for (requirement, reliable, events, expected) in table {
            let mut server = InviteServer::new(TRYING, reliable);
            let last = events.into_iter().map(|event| server.handle(event, now)).last();
            assert_eq!(last, Some(expected), "{requirement}");
        }
    }

    #[test]
    fn rfc3261_17_2_1_missing_ack_is_reported() {
        let (mut server, start) = (InviteServer::new(TRYING, true), clock::now());
        let _ = server.handle(Event::Respond(486, BYTES), start);
        assert_eq!(server.handle(Event::Timeout, start + TIMER_H), [Action::AckTimedOut, Action::Terminated]);
        assert!(server.is_terminated());
    }

    #[test]
    fn rfc3261_17_2_1_timer_i_absorbs_acks_for_t4_and_stops_timer_g() {
        let (mut server, start) = (InviteServer::new(TRYING, false), clock::now());
        let _ = server.handle(Event::Respond(486, BYTES), start);
        let acknowledged = start + Duration::from_millis(700);
        assert_eq!(server.handle(Event::Ack, acknowledged), []);
        assert_eq!(server.deadline(), Some(acknowledged + TIMER_I));
        assert_eq!(server.handle(Event::Timeout, acknowledged + TIMER_I), [Action::Terminated]);
    }
}
