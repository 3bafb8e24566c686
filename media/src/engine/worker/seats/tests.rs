//! A worker that is turned by hand, with a ring that is allowed to fail.

use super::super::{Shared, ToWorker};
use super::*;
use crate::engine::call::Parts;
use crate::engine::clock::MediaClock;
use crate::engine::io::bind;
use crate::engine::leg::{Identity, Sockets};
use crate::engine::ring::trial;
use crate::engine::testing;
use crate::ports::PortPool;
use crate::recorder::{Recorder, Sealers};
use crate::{Codec, MediaCommand, MediaEvent};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::mpsc::{Receiver, Sender as To, channel};
use std::sync::{Arc, Mutex};

const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// A call and both of its phones.
struct Phones {
    id: u64,
    events: Receiver<MediaEvent>,
    /// Of the engine, where each phone sends to.
    ends: [SocketAddr; 2],
    phones: [UdpSocket; 2],
    sequence: u16,
}

impl Phones {
    /// Opens a call on the worker that `told` goes to, and bridges it.
    fn call(id: u64, told: &To<ToWorker>, clock: MediaClock) -> Self {
        let sockets = || {
            let rtp = bind(LOCAL, 0).unwrap();
            let port = rtp.local_addr().unwrap().port();
            Sockets { rtp, rtcp: bind(LOCAL, 0).unwrap(), port }
        };
        let phones = [0, 1].map(|_| UdpSocket::bind((LOCAL, 0)).unwrap());
        let sockets = [sockets(), sockets()];
        let ends = [0, 1].map(|leg| sockets[leg].rtp.local_addr().unwrap());
        let (sink, events) = channel();
        let identity = |ssrc| Identity { ssrc, sequence: 1, timestamp: 1, cname: [7; 12] };
        let parts = Parts {
            id,
            sockets,
            identities: [identity(1), identity(2)],
            events: Arc::new(move |event| drop(sink.send(event))),
            silence: None,
            origin: clock.origin(),
        };
        told.send(ToWorker::Open(Box::new(parts))).unwrap();
        let tell = |command| told.send(ToWorker::Command(id, command, clock.now().instant)).unwrap();
        for (side, phone) in [(Side::A, &phones[0]), (Side::B, &phones[1])] {
            phone.set_nonblocking(true).unwrap();
            let remote = phone.local_addr().unwrap();
            let stream = testing::stream(Codec::Pcmu, remote, remote);
            tell(MediaCommand::Configure { side, stream });
        }
        tell(MediaCommand::Bridge);
        Self { id, events, ends, phones, sequence: 0 }
    }

    /// Each phone says `code`.
    fn speak(&mut self, code: u8) {
        let header = crate::rtp::Header {
            marker: false,
            payload_type: 0,
            sequence: self.sequence,
            timestamp: u32::from(self.sequence) * 160,
            ssrc: 9,
        };
        self.sequence += 1;
        let mut packet = header.encode().to_vec();
        packet.extend([code; 160]);
        for (phone, end) in self.phones.iter().zip(self.ends) {
            phone.send_to(&packet, end).unwrap();
        }
    }

    /// Which phone hears `code` now.
    fn hear(&self, code: u8) -> [bool; 2] {
        self.phones.each_ref().map(|phone| {
            let mut buffer = [0; 2048];
            // Reports come here as well (RFC 5761 §4: packet types 192 to 223).
            let Some(length) = phone.recv(&mut buffer).ok().filter(|_| !(192..=223).contains(&buffer[1]))
            else {
                return false;
            };
            assert_eq!((length, buffer[12]), (172, code));
            true
        })
    }
}

struct Scene {
    worker: Worker,
    told: To<ToWorker>,
    clock: MediaClock,
    first: Phones,
}

impl Scene {
    fn new() -> Option<Self> {
        let sockets_are = trial().ok()?;
        let (told, inbox) = channel();
        let ports = Arc::new(Mutex::new(PortPool::new([], Duration::ZERO)));
        let recorder = Recorder::start("recorder-test", Sealers::start(1).unwrap()).unwrap();
        let (shared, clock) = (Arc::new(Shared::new().unwrap()), MediaClock::start());
        let mut worker = Worker::new(inbox, shared, ports, clock, recorder).unwrap();
        worker.ring = Some(Box::new(Ring::new(sockets_are).unwrap()));
        worker.shared.calls.fetch_add(2, std::sync::atomic::Ordering::Relaxed);
        let first = Phones::call(5, &told, clock);
        Some(Self { worker, told, clock, first })
    }

    /// Each phone of the first call says `code`, and the worker turns until the other one has heard it.
    fn talk(&mut self, code: u8) {
        self.first.speak(code);
        let mut heard = [false; 2];
        while heard != [true; 2] {
            assert!(self.worker.turn().unwrap());
            for (heard, now) in heard.iter_mut().zip(self.first.hear(code)) {
                *heard |= now;
            }
        }
    }

    /// The first call ends.
    fn close(&self) {
        let now = self.clock.now().instant;
        self.told.send(ToWorker::Command(self.first.id, MediaCommand::Close, now)).unwrap();
    }

    fn seating(&self) -> Seating {
        self.worker.slots[0].seating
    }
}

#[test]
fn the_first_packet_seats_a_call_and_its_end_frees_the_seat() {
    let Some(mut scene) = Scene::new() else { return };
    assert!(scene.worker.turn().unwrap());
    assert_eq!(scene.seating().state, State::Standing, "a call without media costs the ring nothing");
    for code in 0..5 {
        scene.talk(code);
    }
    assert_eq!((scene.seating().state, scene.seating().receiving), (State::Seated, [true; 2]));
    scene.close();
    while scene.first.events.try_recv().is_err() {
        assert!(scene.worker.turn().unwrap());
    }
    assert_eq!(
        (scene.worker.leaving, scene.worker.free.len(), scene.seating().state),
        (0, 1, State::Standing)
    );
    assert_eq!(scene.worker.slots[0].generation, 1);
    assert!(!scene.worker.ring.as_ref().unwrap().is_busy());
}

#[test]
fn when_the_ring_fails_calls_go_on_and_can_end() {
    let Some(mut scene) = Scene::new() else { return };
    scene.talk(1);
    scene.talk(2);
    assert_eq!(scene.seating().state, State::Seated);
    let now = scene.worker.clock.now();
    scene.worker.abandon(&io::ErrorKind::Other.into(), now);
    for code in 3..6 {
        scene.talk(code);
    }
    assert_eq!(scene.seating().receiving, [false; 2]);
    scene.close();
    while scene.first.events.try_recv().is_err() {
        assert!(scene.worker.turn().unwrap());
    }
}

#[test]
fn a_call_leaves_while_another_one_has_a_packet_in_every_tick() {
    let Some(mut scene) = Scene::new() else { return };
    let mut other = Phones::call(6, &scene.told, scene.clock);
    scene.talk(1);
    scene.talk(2);
    for _ in 0..3 {
        other.speak(7);
        assert!(scene.worker.turn().unwrap());
    }
    scene.close();
    while scene.first.events.try_recv().is_err() {
        other.speak(7);
        assert!(scene.worker.turn().unwrap());
    }
    assert!(scene.worker.ring.is_some(), "and the ring is none the worse for it");
    assert_eq!(scene.worker.leaving, 0);
}

#[test]
fn a_call_that_leaves_when_the_ring_fails_is_closed() {
    let Some(mut scene) = Scene::new() else { return };
    scene.talk(1);
    scene.talk(2);
    let now = scene.worker.clock.now();
    // As if the kernel had not told the end of its operations yet.
    scene.worker.depart(0, CallStatistics::default(), now);
    assert_eq!((scene.worker.leaving, scene.seating().receiving), (1, [true; 2]));
    assert!(scene.first.events.try_recv().is_err(), "its ports are not free yet");
    scene.worker.abandon(&io::ErrorKind::Other.into(), now);
    assert_eq!(scene.worker.leaving, 0);
    assert!(matches!(scene.first.events.try_recv(), Ok(MediaEvent::Closed(_))));
}

#[test]
fn operations_that_were_cancelled_by_somebody_else_leave_the_call_to_epoll() {
    let Some(mut scene) = Scene::new() else { return };
    scene.talk(1);
    scene.talk(2);
    for which in [0, 2] {
        let now = scene.worker.clock.now();
        assert!(!scene.worker.receive_ended(token(0, 0, which), Some(libc::ECANCELED), now));
    }
    assert_eq!(scene.seating().receiving, [false; 2]);
    // They are in fact still under way, which makes no difference to who speaks.
    for code in 3..6 {
        scene.talk(code);
    }
}

#[test]
fn who_sends_nothing_too_often_is_left_to_epoll() {
    let Some(mut scene) = Scene::new() else { return };
    scene.talk(1);
    scene.talk(2);
    let mut sent = 0;
    while scene.seating().receiving[0] {
        scene.first.phones[0].send_to(b"", scene.first.ends[0]).unwrap();
        sent += 1;
        assert!(scene.worker.turn().unwrap());
        assert!(sent <= 2 * u32::from(EMPTY), "{:?}", scene.seating());
    }
    assert_eq!(scene.seating().receiving, [false, true]);
    scene.talk(3);
    scene.talk(4);
}

#[test]
fn completions_of_a_call_that_has_gone_change_nothing() {
    let Some(mut scene) = Scene::new() else { return };
    scene.talk(1);
    let now = scene.worker.clock.now();
    let before = scene.worker.counters;
    let old = token(scene.worker.slots[0].generation.wrapping_sub(1), 0, 0);
    assert!(!scene.worker.receive_ended(old, None, now));
    scene.worker.unsend(old, true);
    let after = scene.worker.counters;
    assert_eq!((after.unsent, after.sent, after.relayed), (1, before.sent - 1, before.relayed - 1));
    assert_ne!(scene.seating().empty, 1);
    scene.talk(2);
}

#[test]
fn tokens_name_generation_slot_and_socket() {
    for told in [(0, 0, 0), (u32::MAX, 4095, 3), (7, 9, 2)] {
        let (generation, slot, which) = told;
        assert_eq!(parts(token(generation, slot, which)), told);
    }
}
