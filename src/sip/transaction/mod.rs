//! The four transaction machines of SIP: RFC 3261 §17 as amended by RFC 6026 (INVITE) and RFC 4320
//! (non-INVITE).
//!
//! | | sends the request | answers it |
//! |---|---|---|
//! | INVITE | [`InviteClient`]: timers A, B, D, M | [`InviteServer`]: timers G, H, I, L |
//! | any other | [`NonInviteClient`]: timers E, F, K | [`NonInviteServer`]: timer J |
//!
//! Each machine takes one event and the time, and returns what its owner must do, in order. Its timers are
//! fields of its states, so `deadline` is all that a shell needs to know. The names of states, events and
//! timers are those of the RFC's figures, which can be held next to each file.
//!
//! A machine never reads or builds a message: it repeats bytes that its leg has encoded, and it learns of
//! messages by status code only. It never opens a socket, reads a clock or matches a message to itself.

pub mod invite_client;
pub mod invite_server;
pub mod non_invite_client;
pub mod non_invite_server;
pub mod timer;

pub use invite_client::InviteClient;
pub use invite_server::InviteServer;
pub use non_invite_client::NonInviteClient;
pub use non_invite_server::NonInviteServer;

#[cfg(test)]
mod tests {
    use std::fmt::Debug;
    use std::time::{Duration, Instant};

    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::clock;

    const WIRE: Bytes = Bytes::from_static(b"wire");

    /// What all four machines have in common.
    trait Machine {
        type Event: Clone + Debug;
        type Action: PartialEq + Debug;
        const TERMINATED: Self::Action;
        const TIMEOUT: Self::Event;
        fn handle(&mut self, event: Self::Event, now: Instant) -> Vec<Self::Action>;
        fn deadline(&self) -> Option<Instant>;
        fn is_terminated(&self) -> bool;
    }

    macro_rules! machine {
        ($machine:ty, $module:ident) => {
            impl Machine for $machine {
                type Event = $module::Event;
                type Action = $module::Action;
                const TERMINATED: Self::Action = $module::Action::Terminated;
                const TIMEOUT: Self::Event = $module::Event::Timeout;
                fn handle(&mut self, event: Self::Event, now: Instant) -> Vec<Self::Action> {
                    self.handle(event, now)
                }
                fn deadline(&self) -> Option<Instant> {
                    self.deadline()
                }
                fn is_terminated(&self) -> bool {
                    self.is_terminated()
                }
            }
        };
    }
    machine!(InviteServer, invite_server);
    machine!(InviteClient, invite_client);
    machine!(NonInviteServer, non_invite_server);
    machine!(NonInviteClient, non_invite_client);

    /// Feeds a script of events, each after a pause in milliseconds, and lets due timers fire in between
    /// as a shell would. Whatever happens: a fired timer moves on, the end is announced once, and nothing
    /// comes after the end.
    fn run<M: Machine>(
        mut machine: M,
        start: Instant,
        script: Vec<(M::Event, u64)>,
    ) -> Result<(), TestCaseError> {
        let (mut now, mut ends) = (start, 0);
        let mut step = |machine: &mut M, event: M::Event, now| {
            let ended = machine.is_terminated();
            let actions = machine.handle(event, now);
            prop_assert!(!ended || actions.is_empty(), "{actions:?} after the end");
            ends += actions.iter().filter(|action| **action == M::TERMINATED).count();
            prop_assert_eq!(ends, usize::from(machine.is_terminated()));
            prop_assert!(!machine.is_terminated() || machine.deadline().is_none());
            Ok(())
        };
        for (event, pause) in script {
            let until = now + Duration::from_millis(pause);
            while let Some(at) = machine.deadline().filter(|at| *at <= until) {
                prop_assert!(at > now || at == start);
                now = at;
                step(&mut machine, M::TIMEOUT, now)?;
                prop_assert!(machine.deadline().is_none_or(|next| next > now), "the shell would spin");
            }
            now = until;
            step(&mut machine, event, now)?;
        }
        Ok(())
    }

    fn script<E: Clone + Debug>(event: impl Strategy<Value = E>) -> impl Strategy<Value = Vec<(E, u64)>> {
        prop::collection::vec((event, prop_oneof![Just(0), 0..700u64, 0..70_000u64]), 0..24)
    }

    fn status() -> impl Strategy<Value = u16> {
        prop_oneof![Just(0u16), 100..=199u16, Just(200u16), 300..=699u16, any::<u16>()]
    }

    proptest! {
        #[test]
        fn no_order_of_events_wedges_an_invite_server(
            reliable in any::<bool>(),
            script in script(prop_oneof![
                Just(invite_server::Event::InviteRetransmitted),
                status().prop_map(|status| invite_server::Event::Respond(status, WIRE)),
                Just(invite_server::Event::Ack),
                Just(invite_server::Event::Timeout),
                Just(invite_server::Event::TransportFailed),
            ]),
        ) {
            run(InviteServer::new(WIRE, reliable), clock::now(), script)?;
        }

        #[test]
        fn no_order_of_events_wedges_an_invite_client(
            reliable in any::<bool>(),
            script in script(prop_oneof![
                (status(), any::<bool>()).prop_map(|(status, ack)| {
                    invite_client::Event::Response { status, ack: ack.then_some(WIRE) }
                }),
                Just(invite_client::Event::Timeout),
                Just(invite_client::Event::TransportFailed),
            ]),
        ) {
            let start = clock::now();
            run(InviteClient::start(WIRE, reliable, start).0, start, script)?;
        }

        #[test]
        fn no_order_of_events_wedges_a_non_invite_server(
            reliable in any::<bool>(),
            script in script(prop_oneof![
                Just(non_invite_server::Event::Retransmitted),
                status().prop_map(|status| non_invite_server::Event::Respond(status, WIRE)),
                Just(non_invite_server::Event::Timeout),
            ]),
        ) {
            run(NonInviteServer::new(reliable), clock::now(), script)?;
        }

        #[test]
        fn no_order_of_events_wedges_a_non_invite_client(
            reliable in any::<bool>(),
            script in script(prop_oneof![
                status().prop_map(non_invite_client::Event::Response),
                Just(non_invite_client::Event::Timeout),
                Just(non_invite_client::Event::TransportFailed),
            ]),
        ) {
            let start = clock::now();
            run(NonInviteClient::start(WIRE, reliable, start).0, start, script)?;
        }
    }
}
