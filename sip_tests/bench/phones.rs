//! Many calls from one pair of UDP sockets: callers on one, callees on the other, with as little work per message
//! as a load generator can have.
//!
//! Each side repeats its requests and its 200 as RFC 3261 §17.1 and §13.3.1.4 say and counts that as a
//! retransmission. A call fails when it is refused, ends early, or is not through within ten seconds. No message is
//! judged here: that is the work of the tests.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use sip_tests::agent::{T1, T2};
use sip_tests::clock;
use sip_tests::message::{Message, uri_of};
use sip_tests::sdp::RemoteMedia;
use socket2::SockRef;

use crate::Failure;
use crate::epoll::Epoll;
use crate::text::{caller_of, description, request, response};

/// A step of a call (answer, end) that takes longer has failed.
const GIVE_UP: Duration = Duration::from_secs(10);
/// The numbers of the parties; the session under test is between them.
pub(crate) const CALLER: &str = "+12025550142";
/// The called party.
pub(crate) const CALLEE: &str = "+12025550143";
const CALLER_SOCKET: u64 = 0;
const CALLEE_SOCKET: u64 = 1;

/// What has been counted so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) dialled: u64,
    pub(crate) answered: u64,
    /// Ended as planned.
    pub(crate) completed: u64,
    /// Given up by the caller, or refused.
    pub(crate) failed: u64,
    /// INVITEs that reached the callee's side, without repeats, and the BYEs that ended them.
    pub(crate) received: u64,
    pub(crate) ended_at_callee: u64,
    /// Ours, because an answer was late.
    pub(crate) repeated: u64,
    /// The service's, because our answer did not satisfy it.
    pub(crate) repeats_received: u64,
    /// Messages that no call here expects.
    pub(crate) unexpected: u64,
}

/// An answered call whose media can begin: own end and where it wants packets.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MediaPath {
    pub(crate) own: SocketAddr,
    pub(crate) destination: SocketAddr,
}

/// When a caller was connected, by his own clock.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Talk {
    pub(crate) answered: Instant,
    /// `None` while it lasts.
    pub(crate) hung_up: Option<Instant>,
}

/// Where a caller's call stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// INVITE sent, nothing heard; the interval is that of timer A.
    Calling(Duration),
    Proceeding,
    Up,
    /// BYE sent; the interval is that of timer E.
    Ending(Duration),
    Over,
}

struct Caller {
    stage: Stage,
    dialled: Instant,
    /// When `due` comes, the stage's timer fires; `None` while nothing is to be done.
    due: Option<Instant>,
    give_up: Instant,
    media: SocketAddr,
    /// Contact and To of the 200.
    remote: Option<(String, String)>,
    talk: Option<Talk>,
}

struct Callee {
    /// The 200 and the interval after which it is sent again, until the ACK.
    answer: Option<(Vec<u8>, Duration)>,
    due: Option<Instant>,
    give_up: Instant,
    ended: bool,
}

/// Both sides of all calls.
pub(crate) struct Phones {
    caller: UdpSocket,
    callee: UdpSocket,
    caller_address: SocketAddr,
    callee_address: SocketAddr,
    /// Where calls go: the service, or the callee itself.
    target: SocketAddr,
    virtual_number: String,
    epoll: Epoll,
    callers: Vec<Caller>,
    callees: HashMap<String, Callee>,
    /// The next timer first: its time, and the caller's number or the callee's Call-ID.
    timers: BinaryHeap<Reverse<(Instant, Timer)>>,
    /// What callers hold a call for; `None`: until [`Self::hang_up`].
    hold: Option<Duration>,
    callee_media: Vec<SocketAddr>,
    counts: Counts,
    setup_us: Vec<u32>,
    paths: Vec<MediaPath>,
    buffer: Vec<u8>,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    Caller(usize),
    Callee(String),
}

impl Phones {
    /// Two sockets; calls go nowhere until [`Self::dial_to`].
    pub(crate) fn new() -> Result<Self, Failure> {
        let epoll = Epoll::new()?;
        let mut sockets = vec![];
        for token in [CALLER_SOCKET, CALLEE_SOCKET] {
            let socket = UdpSocket::bind("127.0.0.1:0")?;
            socket.set_nonblocking(true)?;
            let _ = SockRef::from(&socket).set_recv_buffer_size(8 << 20);
            epoll.add(&socket, token)?;
            sockets.push(socket);
        }
        let [caller, callee] = <[UdpSocket; 2]>::try_from(sockets).map_err(|_| "two sockets")?;
        let (caller_address, callee_address) = (caller.local_addr()?, callee.local_addr()?);
        Ok(Self {
            caller,
            callee,
            caller_address,
            callee_address,
            target: callee_address,
            virtual_number: CALLEE.to_owned(),
            epoll,
            callers: vec![],
            callees: HashMap::new(),
            timers: BinaryHeap::new(),
            hold: None,
            callee_media: vec![callee_address],
            counts: Counts::default(),
            setup_us: vec![],
            paths: vec![],
            buffer: vec![0; 65_536],
        })
    }

    /// Where the callees listen: the gateway of the service's trunk.
    pub(crate) fn callee_address(&self) -> SocketAddr {
        self.callee_address
    }

    pub(crate) fn dial_to(&mut self, target: SocketAddr, virtual_number: &str) {
        self.target = target;
        virtual_number.clone_into(&mut self.virtual_number);
    }

    /// How long callers stay on the line; `None`: until [`Self::hang_up`].
    pub(crate) fn hold_for(&mut self, hold: Option<Duration>) {
        self.hold = hold;
    }

    /// Callees answer with these in turn.
    pub(crate) fn answer_with(&mut self, media: Vec<SocketAddr>) {
        self.callee_media = media;
    }

    pub(crate) fn counts(&self) -> Counts {
        self.counts
    }

    /// From INVITE to 200, in µs.
    pub(crate) fn take_setup_times(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.setup_us)
    }

    /// Ends of calls whose media can begin, each once.
    pub(crate) fn take_media_paths(&mut self) -> Vec<MediaPath> {
        std::mem::take(&mut self.paths)
    }

    /// When each answered call was connected, in the order of dialling.
    pub(crate) fn talks(&self) -> Vec<Talk> {
        self.callers.iter().filter_map(|call| call.talk).collect()
    }

    /// No call is under way on either side.
    pub(crate) fn is_quiet(&self) -> bool {
        self.callers.iter().all(|call| call.stage == Stage::Over)
            && self.callees.values().all(|call| call.ended)
    }

    /// Every call that was dialled is connected on both sides, or over.
    pub(crate) fn is_settled(&self) -> bool {
        self.callers.iter().all(|call| matches!(call.stage, Stage::Up | Stage::Over))
            && self.callees.values().all(|call| call.answer.is_none())
    }

    /// Sends an INVITE whose offer names `media`.
    pub(crate) fn dial(&mut self, media: SocketAddr, now: Instant) {
        let index = self.callers.len();
        self.counts.dialled += 1;
        self.callers.push(Caller {
            stage: Stage::Calling(T1),
            dialled: now,
            due: None,
            give_up: now + GIVE_UP,
            media,
            remote: None,
            talk: None,
        });
        self.send_invite(index);
        self.arm_caller(index, now + T1);
    }

    /// Ends every call that is up; the callers say BYE.
    pub(crate) fn hang_up(&mut self, now: Instant) {
        for index in 0..self.callers.len() {
            self.end_call(index, now);
        }
    }

    /// Ends the `index`-th call when it is up.
    pub(crate) fn end_call(&mut self, index: usize, now: Instant) {
        let Some(call) = self.callers.get_mut(index) else { return };
        if call.stage != Stage::Up {
            return;
        }
        call.stage = Stage::Ending(T1);
        call.give_up = now + GIVE_UP;
        if let Some(talk) = &mut call.talk {
            talk.hung_up = Some(now);
        }
        self.send_in_dialog(index, "BYE", 2);
        self.arm_caller(index, now + T1);
    }

    /// Sends and receives until `span` has passed or `enough` says so.
    pub(crate) fn run(
        &mut self,
        span: Duration,
        mut enough: impl FnMut(&mut Self, Instant) -> bool,
    ) -> Result<(), Failure> {
        let end = clock::now() + span;
        loop {
            let now = clock::now();
            if enough(self, now) || now >= end {
                return Ok(());
            }
            self.poll(Duration::from_millis(1))?;
        }
    }

    /// Handles what has arrived and is due; waits up to `limit` for it.
    pub(crate) fn poll(&mut self, limit: Duration) -> Result<(), Failure> {
        let ready: Vec<u64> = self.epoll.wait(limit)?.collect();
        for token in ready {
            let mut buffer = std::mem::take(&mut self.buffer);
            loop {
                let socket = if token == CALLER_SOCKET { &self.caller } else { &self.callee };
                let Ok((length, source)) = socket.recv_from(&mut buffer) else { break };
                let message = buffer.get(..length).and_then(Message::read);
                let now = clock::now();
                match message {
                    None => self.counts.unexpected += 1,
                    Some(message) if token == CALLER_SOCKET => self.on_caller_message(&message, source, now),
                    Some(message) => self.on_callee_message(&message, source, now),
                }
            }
            self.buffer = buffer;
        }
        self.fire_timers(clock::now());
        Ok(())
    }

    fn arm_caller(&mut self, index: usize, due: Instant) {
        if let Some(call) = self.callers.get_mut(index) {
            call.due = Some(due);
            self.timers.push(Reverse((due, Timer::Caller(index))));
        }
    }

    fn fire_timers(&mut self, now: Instant) {
        while self.timers.peek().is_some_and(|Reverse((due, _))| *due <= now) {
            let Some(Reverse((due, timer))) = self.timers.pop() else { return };
            match timer {
                Timer::Caller(index) => {
                    if self.callers.get(index).is_some_and(|call| call.due == Some(due)) {
                        self.fire_caller(index, now);
                    }
                }
                Timer::Callee(call_id) => {
                    if self.callees.get(&call_id).is_some_and(|call| call.due == Some(due)) {
                        self.fire_callee(&call_id, now);
                    }
                }
            }
        }
    }

    fn fire_caller(&mut self, index: usize, now: Instant) {
        let Some(call) = self.callers.get_mut(index) else { return };
        call.due = None;
        if call.stage == Stage::Up {
            return self.end_call(index, now);
        }
        if now >= call.give_up {
            return self.fail(index);
        }
        match call.stage {
            Stage::Calling(interval) => {
                call.stage = Stage::Calling(interval * 2);
                self.counts.repeated += 1;
                self.send_invite(index);
                self.arm_caller(index, now + interval * 2);
            }
            // Only the limit is left.
            Stage::Proceeding => {
                let limit = call.give_up;
                self.arm_caller(index, limit);
            }
            Stage::Ending(interval) => {
                let interval = (interval * 2).min(T2);
                call.stage = Stage::Ending(interval);
                self.counts.repeated += 1;
                self.send_in_dialog(index, "BYE", 2);
                self.arm_caller(index, now + interval);
            }
            Stage::Up | Stage::Over => {}
        }
    }

    fn fire_callee(&mut self, call_id: &str, now: Instant) {
        let target = self.target_of_callee();
        let Some(call) = self.callees.get_mut(call_id) else { return };
        call.due = None;
        let Some((wire, interval)) = &mut call.answer else { return };
        if now >= call.give_up {
            call.answer = None;
            call.ended = true;
            return;
        }
        *interval = (*interval * 2).min(T2);
        let due = now + *interval;
        call.due = Some(due);
        self.counts.repeated += 1;
        let _ = self.callee.send_to(wire, target);
        self.timers.push(Reverse((due, Timer::Callee(call_id.to_owned()))));
    }

    /// Responses of the callee go to the service, or straight to the caller when there is none.
    fn target_of_callee(&self) -> SocketAddr {
        if self.target == self.callee_address { self.caller_address } else { self.target }
    }

    fn fail(&mut self, index: usize) {
        if let Some(call) = self.callers.get_mut(index)
            && call.stage != Stage::Over
        {
            call.stage = Stage::Over;
            call.due = None;
            self.counts.failed += 1;
        }
    }

    fn on_caller_message(&mut self, message: &Message, source: SocketAddr, now: Instant) {
        let index = caller_of(message).unwrap_or(usize::MAX);
        let Some(call) = self.callers.get_mut(index) else {
            self.counts.unexpected += 1;
            return;
        };
        let Some(status) = message.status() else {
            return self.on_caller_request(index, message, source);
        };
        match (message.cseq().1, status, call.stage) {
            ("INVITE", 100..=199, Stage::Calling(_)) => {
                call.stage = Stage::Proceeding;
                let limit = call.give_up;
                self.arm_caller(index, limit);
            }
            ("INVITE", 100..=199, _) => {}
            ("INVITE", 200..=299, Stage::Calling(_) | Stage::Proceeding) => {
                self.on_answer(index, message, now)
            }
            ("INVITE", 200..=299, Stage::Up | Stage::Ending(_) | Stage::Over) => {
                self.counts.repeats_received += 1;
                self.send_in_dialog(index, "ACK", 1);
            }
            ("INVITE", _, Stage::Calling(_) | Stage::Proceeding) => {
                self.acknowledge_refusal(index, message);
                self.fail(index);
            }
            ("INVITE", 300.., _) => self.acknowledge_refusal(index, message),
            ("BYE", 200..=299, Stage::Ending(_)) => {
                call.stage = Stage::Over;
                call.due = None;
                self.counts.completed += 1;
            }
            ("BYE", 300.., Stage::Ending(_)) => self.fail(index),
            _ => self.counts.unexpected += 1,
        }
    }

    fn on_answer(&mut self, index: usize, message: &Message, now: Instant) {
        let (Some(contact), Some(to)) = (message.header("contact"), message.header("to")) else {
            return self.fail(index);
        };
        let Some(call) = self.callers.get_mut(index) else { return };
        call.stage = Stage::Up;
        call.due = None;
        call.remote = Some((uri_of(contact).to_owned(), to.to_owned()));
        call.talk = Some(Talk { answered: now, hung_up: None });
        self.counts.answered += 1;
        self.setup_us.push(u32::try_from((now - call.dialled).as_micros()).unwrap_or(u32::MAX));
        if let Some(media) = message.sdp().and_then(RemoteMedia::read) {
            self.paths.push(MediaPath { own: call.media, destination: media.rtp });
        }
        self.send_in_dialog(index, "ACK", 1);
        if let Some(hold) = self.hold {
            self.arm_caller(index, now + hold);
        }
    }

    /// The service may end a call; that is a failure here. Anything else is answered and counted.
    fn on_caller_request(&mut self, index: usize, message: &Message, source: SocketAddr) {
        self.counts.unexpected += 1;
        if message.is("BYE") {
            self.fail(index);
        }
        if !message.is("ACK") {
            let status = if message.is("INVITE") { 488 } else { 200 };
            let wire = response(message, status, "caller", None);
            let _ = self.caller.send_to(&wire, source);
        }
    }

    fn on_callee_message(&mut self, message: &Message, source: SocketAddr, now: Instant) {
        let known = self.callees.get_mut(message.call_id());
        match (message.method(), known) {
            (Some("INVITE"), None) => self.on_invite(message, source, now),
            (Some("INVITE"), Some(_)) => self.counts.repeats_received += 1,
            (Some("ACK"), Some(call)) if call.answer.is_some() => {
                call.answer = None;
                call.due = None;
            }
            (Some("ACK"), Some(_)) => {}
            (Some("BYE"), Some(call)) => {
                if call.ended {
                    self.counts.repeats_received += 1;
                } else {
                    self.counts.ended_at_callee += 1;
                }
                call.ended = true;
                call.answer = None;
                call.due = None;
                let _ = self.callee.send_to(&response(message, 200, "callee", None), source);
            }
            (Some(method), _) => {
                self.counts.unexpected += 1;
                if method != "ACK" {
                    let status = if method == "OPTIONS" { 200 } else { 481 };
                    let _ = self.callee.send_to(&response(message, status, "callee", None), source);
                }
            }
            (None, _) => self.counts.unexpected += 1,
        }
    }

    fn on_invite(&mut self, message: &Message, source: SocketAddr, now: Instant) {
        let turn = usize::try_from(self.counts.received).unwrap_or_default();
        let media = self.callee_media.get(turn % self.callee_media.len().max(1)).copied();
        let media = media.unwrap_or(self.callee_address);
        self.counts.received += 1;
        if let Some(theirs) = message.sdp().and_then(RemoteMedia::read) {
            self.paths.push(MediaPath { own: media, destination: theirs.rtp });
        }
        let contact = format!("<sip:callee@{}>", self.callee_address);
        let ringing = response(message, 180, "callee", Some((&contact, None)));
        let answer = response(message, 200, "callee", Some((&contact, Some(media))));
        let _ = self.callee.send_to(&ringing, source);
        let _ = self.callee.send_to(&answer, source);
        let call_id = message.call_id().to_owned();
        let due = now + T1;
        let call =
            Callee { answer: Some((answer, T1)), due: Some(due), give_up: now + GIVE_UP, ended: false };
        self.callees.insert(call_id.clone(), call);
        self.timers.push(Reverse((due, Timer::Callee(call_id))));
    }

    /// The first lines of a caller's request, up to CSeq.
    fn head(&self, index: usize, method: &str, cseq: u32, uri: &str, to: &str) -> String {
        request(self.caller_address, index, (method, cseq), uri, to)
    }

    fn send_invite(&self, index: usize) {
        let Some(call) = self.callers.get(index) else { return };
        let uri = format!("sip:{}@{}", self.virtual_number, self.target);
        let head = self.head(index, "INVITE", 1, &uri, &format!("<{uri}>"));
        let (own, sdp) = (self.caller_address, description(call.media));
        let wire = format!(
            "{head}Contact: <sip:{CALLER}@{own}>\r\nAllow: INVITE, ACK, BYE, CANCEL, OPTIONS, UPDATE\r\n\
             Content-Type: application/sdp\r\nContent-Length: {}\r\n\r\n{sdp}",
            sdp.len()
        );
        let _ = self.caller.send_to(wire.as_bytes(), self.target);
    }

    fn send_in_dialog(&self, index: usize, method: &str, cseq: u32) {
        let Some((uri, to)) = self.callers.get(index).and_then(|call| call.remote.as_ref()) else { return };
        let wire = self.head(index, method, cseq, uri, to) + "Content-Length: 0\r\n\r\n";
        let _ = self.caller.send_to(wire.as_bytes(), self.target);
    }

    /// RFC 3261 §17.1.1.3: the ACK of a refusal belongs to the INVITE's transaction.
    fn acknowledge_refusal(&self, index: usize, refusal: &Message) {
        let uri = format!("sip:{}@{}", self.virtual_number, self.target);
        let head = self.head(index, "INVITE", 1, &uri, refusal.header("to").unwrap_or_default());
        let head = head.replacen("INVITE ", "ACK ", 1).replacen("CSeq: 1 INVITE", "CSeq: 1 ACK", 1);
        let _ = self.caller.send_to((head + "Content-Length: 0\r\n\r\n").as_bytes(), self.target);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn media(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    #[test]
    fn calls_straight_to_the_callee_are_answered_held_and_ended() {
        let mut phones = Phones::new().unwrap();
        phones.hold_for(Some(Duration::from_millis(20)));
        phones.answer_with(vec![media(40_000), media(40_002)]);
        let now = clock::now();
        for port in [30_000, 30_002, 30_004] {
            phones.dial(media(port), now);
        }
        phones.run(Duration::from_secs(5), |phones, _| phones.is_quiet()).unwrap();
        let counts = phones.counts();
        let expected = Counts {
            dialled: 3,
            answered: 3,
            completed: 3,
            received: 3,
            ended_at_callee: 3,
            ..Counts::default()
        };
        assert_eq!(counts, expected);
        assert_eq!((phones.take_setup_times().len(), phones.talks().len()), (3, 3));
        let mut paths: Vec<_> =
            phones.take_media_paths().iter().map(|path| (path.own.port(), path.destination.port())).collect();
        paths.sort_unstable();
        let expected = [
            (30_000, 40_000),
            (30_002, 40_002),
            (30_004, 40_000),
            (40_000, 30_000),
            (40_000, 30_004),
            (40_002, 30_002),
        ];
        assert_eq!(paths, expected);
        assert!(
            phones
                .talks()
                .iter()
                .all(|talk| talk.hung_up.unwrap() - talk.answered >= Duration::from_millis(20))
        );
    }

    #[test]
    fn a_refusal_is_acknowledged_and_counted_as_a_failure() {
        let service = UdpSocket::bind("127.0.0.1:0").unwrap();
        service.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let mut phones = Phones::new().unwrap();
        phones.dial_to(service.local_addr().unwrap(), "+12025550100");
        phones.dial(media(30_000), clock::now());
        let mut wire = [0; 4096];
        let (length, source) = service.recv_from(&mut wire).unwrap();
        let invite = Message::read(&wire[..length]).unwrap();
        service.send_to(&response(&invite, 404, "x", None), source).unwrap();
        phones.run(Duration::from_secs(5), |phones, _| phones.is_quiet()).unwrap();
        assert_eq!((phones.counts().failed, phones.counts().answered), (1, 0));
        let (length, _) = service.recv_from(&mut wire).unwrap();
        let ack = Message::read(&wire[..length]).unwrap();
        assert_eq!((ack.method(), ack.branch(), ack.cseq()), (Some("ACK"), invite.branch(), (1, "ACK")));
        assert_eq!(ack.to_tag(), Some("x"));
        assert_eq!(ack.faults(), Vec::<String>::new());
    }
}
