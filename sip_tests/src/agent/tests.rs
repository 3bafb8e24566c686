//! Two agents that talk to each other.

use super::*;
use crate::sdp::SdpOptions;

fn socket(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

#[allow(clippy::disallowed_methods)]
fn start() -> Instant {
    Instant::now()
}

pub(crate) fn invite(offer: bool) -> Invite {
    Invite {
        uri: "sip:200@127.0.0.1:2".into(),
        from: "<sip:100@127.0.0.1>".into(),
        to: "<sip:200@127.0.0.1>".into(),
        call_id: None,
        from_tag: None,
        branch_mark: None,
        contact: None,
        cseq: None,
        max_forwards: 70,
        headers: vec![],
        body: None,
        offer,
    }
}

struct Pair {
    a: Agent,
    b: Agent,
    now: Instant,
    events: Vec<(char, Event)>,
}

impl Pair {
    fn new(offer: bool) -> Self {
        let (mut a, b, now) =
            (Agent::new(socket(1), Transport::Udp, 1), Agent::new(socket(2), Transport::Udp, 2), start());
        a.call(socket(2), &invite(offer), Some(LocalMedia::new(socket(4000), SdpOptions::default(), 1)), now);
        let mut pair = Self { a, b, now, events: vec![] };
        pair.settle();
        pair.b.set_media(0, LocalMedia::new(socket(6000), SdpOptions::pcma(), 1));
        pair
    }

    /// Delivers everything that is under way.
    fn settle(&mut self) {
        loop {
            let (from_a, from_b) = (self.a.take_output(), self.b.take_output());
            if from_a.send.is_empty()
                && from_b.send.is_empty()
                && from_a.events.is_empty()
                && from_b.events.is_empty()
            {
                return;
            }
            self.events.extend(from_a.events.into_iter().map(|(_, event)| ('a', event)));
            self.events.extend(from_b.events.into_iter().map(|(_, event)| ('b', event)));
            for (to, bytes) in from_a.send {
                assert_eq!(to, socket(2));
                self.b.receive(&bytes, socket(1), self.now);
            }
            for (to, bytes) in from_b.send {
                assert_eq!(to, socket(1));
                self.a.receive(&bytes, socket(2), self.now);
            }
        }
    }

    fn finish(mut self, a: End, b: End) {
        self.settle();
        for _ in 0..200 {
            let Some(at) = self.a.deadline().into_iter().chain(self.b.deadline()).min() else { break };
            self.now = at;
            self.a.timeout(at);
            self.b.timeout(at);
            self.settle();
        }
        assert_eq!((self.a.end(0), self.b.end(0)), (Some(a), Some(b)));
        assert!(self.a.is_idle() && self.b.is_idle());
        assert_eq!((self.a.faults(), self.b.faults()), (&[][..], &[][..]));
    }
}

#[test]
fn a_call_is_answered_held_and_ended_by_either() {
    for caller_hangs_up in [true, false] {
        let mut pair = Pair::new(true);
        pair.b.respond(0, &Reply::status(180), pair.now);
        pair.b.respond(0, &Reply::with_sdp(200), pair.now);
        pair.settle();
        assert!(pair.a.is_confirmed(0) && pair.b.is_confirmed(0));
        pair.a.reinvite(0, Some("sendonly"), pair.now);
        pair.settle();
        pair.b.update(0, Some("sendrecv"), pair.now);
        pair.settle();
        if caller_hangs_up {
            pair.a.bye(0, &[], pair.now);
            pair.finish(End::ByeSent, End::ByeReceived);
        } else {
            pair.b.bye(0, &[], pair.now);
            pair.finish(End::ByeReceived, End::ByeSent);
        }
    }
}

#[test]
fn a_late_offer_is_answered_in_the_ack() {
    let mut pair = Pair::new(false);
    pair.b.respond(0, &Reply::with_sdp(200), pair.now);
    pair.settle();
    let ack = pair
        .events
        .iter()
        .find_map(|(_, e)| if let Event::Request(m) = e { Some(m.clone()) } else { None })
        .unwrap();
    assert!(ack.is("ACK") && ack.sdp().is_some());
    pair.a.bye(0, &[], pair.now);
    pair.finish(End::ByeSent, End::ByeReceived);
}

#[test]
fn cancel_waits_for_a_provisional_and_gets_487() {
    let mut pair = Pair::new(true);
    pair.b.respond(0, &Reply::status(180), pair.now);
    pair.a.cancel(0, pair.now);
    pair.finish(End::CancelSent, End::Cancelled);
}

#[test]
fn an_answer_that_crosses_a_cancel_is_acknowledged_and_ended() {
    let mut pair = Pair::new(true);
    pair.b.on_cancel(0, OnCancel::Keep);
    pair.a.cancel(0, pair.now);
    pair.settle();
    pair.b.respond(0, &Reply::with_sdp(200), pair.now);
    pair.finish(End::ByeSent, End::ByeReceived);
}

#[test]
fn lost_acks_are_repeated_and_refusals_acknowledged() {
    let mut pair = Pair::new(true);
    pair.a.lose_acks(3);
    pair.b.respond(0, &Reply::with_sdp(200), pair.now);
    pair.settle();
    assert!(!pair.b.is_confirmed(0));
    for _ in 0..3 {
        pair.now = pair.b.deadline().unwrap();
        pair.b.timeout(pair.now);
        pair.settle();
    }
    assert!(pair.b.is_confirmed(0));
    pair.a.bye(0, &[], pair.now);
    pair.finish(End::ByeSent, End::ByeReceived);

    let mut pair = Pair::new(true);
    pair.b.respond(0, &Reply::status(486), pair.now);
    pair.finish(End::Refused(486), End::Rejected(486));
}

#[test]
fn forked_answers_get_ack_and_bye() {
    let mut pair = Pair::new(true);
    pair.b.respond(0, &Reply::status(180).tagged("one"), pair.now);
    pair.b.respond(0, &Reply::with_sdp(183).tagged("two"), pair.now);
    pair.b.respond(0, &Reply::with_sdp(200).tagged("two"), pair.now);
    pair.settle();
    pair.b.bye(0, &[], pair.now);
    pair.finish(End::ByeReceived, End::ByeSent);
}
