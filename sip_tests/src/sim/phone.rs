//! A phone with a script, for the simulation: pure, seeded, and judged afterwards by what it saw.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::agent::{Agent, CallNumber, End, Event, Invite, OnCancel, Reply, Transport};
use crate::leak::{self, Finding, Marks};
use crate::message::Message;
use crate::sdp::{LocalMedia, SdpOptions};

/// What a caller does, and when.
#[derive(Debug, Clone)]
pub struct CallerScript {
    /// User part of the Request-URI: the virtual number.
    pub dial: String,
    /// From without tag.
    pub from: String,
    /// Further headers of the INVITE, such as P-Asserted-Identity and what must not leak.
    pub headers: Vec<(String, String)>,
    /// Whole Contact value.
    pub contact: Option<String>,
    /// When the INVITE is sent, after the first moment in which the phone is asked.
    pub start: Duration,
    /// What is offered; `None`: a late offer.
    pub offer: Option<SdpOptions>,
    /// Sends CANCEL so long after the INVITE.
    pub cancel_after: Option<Duration>,
    /// Sends BYE so long after the 200.
    pub hang_up_after: Option<Duration>,
    /// Holds so long after the 200, and takes it back after as much again.
    pub hold_after: Option<Duration>,
    /// The INVITE comes twice, so far apart.
    pub repeat_after: Option<Duration>,
    /// So many ACKs of the 200 are not sent.
    pub lose_acks: u32,
}

impl CallerScript {
    /// Calls at once and hangs up three seconds after the answer.
    #[must_use]
    pub fn plain(dial: &str, from: &str) -> Self {
        Self {
            dial: dial.to_owned(),
            from: from.to_owned(),
            headers: vec![],
            contact: None,
            start: Duration::ZERO,
            offer: Some(SdpOptions::default()),
            cancel_after: None,
            hang_up_after: Some(Duration::from_secs(3)),
            hold_after: None,
            repeat_after: None,
            lose_acks: 0,
        }
    }

    /// A plain call with the ways of `seed`: early or late CANCEL, late offer, hold, lost ACKs, repeated INVITE.
    #[must_use]
    pub fn random(dial: &str, from: &str, seed: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let mut maybe = |share: f64, most_ms: u64| {
            random.random_bool(share).then(|| Duration::from_millis(random.random_range(0..=most_ms)))
        };
        let mut script = Self::plain(dial, from);
        script.start = maybe(0.5, 300).unwrap_or_default();
        script.cancel_after = maybe(0.2, 8000);
        script.hang_up_after = maybe(0.7, 12_000);
        script.hold_after = maybe(0.15, 4000);
        script.repeat_after = maybe(0.1, 400);
        if maybe(0.1, 1).is_some() {
            script.offer = None;
        }
        script.lose_acks = u32::from(maybe(0.1, 1).is_some()) * 2;
        script
    }
}

/// One thing that a called phone does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// 180, with a To tag of its own if given.
    Ring(Option<String>),
    /// 183 with SDP.
    Early(Option<String>),
    /// 200 with SDP.
    Answer(Option<String>),
    /// A final failure with a phrase and perhaps a Contact.
    Reject(u16, String, Option<String>),
}

/// What a called phone does, and when.
#[derive(Debug, Clone)]
pub struct CalleeScript {
    /// Each after so long since the INVITE. Without a final one it rings for ever.
    pub steps: Vec<(Duration, Step)>,
    /// What it answers with.
    pub answer: SdpOptions,
    /// Headers of every response, such as P-Asserted-Identity and what must not leak.
    pub headers: Vec<(String, String)>,
    /// Whole Contact value of its responses.
    pub contact: Option<String>,
    /// It answers 200 although it was cancelled.
    pub answers_after_cancel: bool,
    /// Sends BYE so long after the ACK.
    pub hang_up_after: Option<Duration>,
    /// Holds so long after the ACK, and takes it back after as much again.
    pub hold_after: Option<Duration>,
}

impl CalleeScript {
    /// Rings after 100 ms, answers after a second, never hangs up by itself.
    #[must_use]
    pub fn plain() -> Self {
        Self {
            steps: vec![
                (Duration::from_millis(100), Step::Ring(None)),
                (Duration::from_secs(1), Step::Answer(None)),
            ],
            answer: SdpOptions::default(),
            headers: vec![],
            contact: None,
            answers_after_cancel: false,
            hang_up_after: None,
            hold_after: None,
        }
    }

    /// A phone with the ways of `seed`: rings of several forks, early media, an answer, a refusal or neither, an
    /// answer that crosses the CANCEL.
    #[must_use]
    pub fn random(seed: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed ^ 0x6361_6c6c_6565);
        let mut script = Self::plain();
        script.steps.clear();
        let mut at = Duration::from_millis(random.random_range(0..400));
        let mut tag = None;
        for number in 0..random.random_range(0..4) {
            tag = random.random_bool(0.4).then(|| format!("fork{number}"));
            let step =
                if random.random_bool(0.25) { Step::Early(tag.clone()) } else { Step::Ring(tag.clone()) };
            script.steps.push((at, step));
            at += Duration::from_millis(random.random_range(0..2500));
        }
        match random.random_range(0..10) {
            0..=5 => script.steps.push((at, Step::Answer(tag))),
            6..=8 => {
                let status = [302, 401, 404, 408, 480, 484, 486, 487, 488, 500, 503, 600, 603, 604, 606];
                let status = status.get(random.random_range(0..status.len())).copied().unwrap_or(486);
                let contact = (status == 302).then(|| "<sip:elsewhere@192.0.2.1>".to_owned());
                script.steps.push((at, Step::Reject(status, "Called Party Says No".into(), contact)));
            }
            _ => {}
        }
        if random.random_bool(0.3) {
            script.answer = SdpOptions::pcma();
        }
        script.answers_after_cancel = random.random_bool(0.15);
        let mut maybe = |share: f64| {
            random.random_bool(share).then(|| Duration::from_millis(random.random_range(0..9000)))
        };
        script.hang_up_after = maybe(0.6);
        script.hold_after = maybe(0.15);
        script
    }
}

#[derive(Debug)]
enum Script {
    Caller(CallerScript),
    Callee(CalleeScript),
}

#[derive(Debug, Clone)]
enum Task {
    Start,
    RepeatInvite(CallNumber),
    Cancel(CallNumber),
    HangUp(CallNumber),
    Offer(CallNumber, &'static str),
    Step(CallNumber, Step),
}

/// A simulated phone that talks to one peer. Messages go in and come out as bytes.
#[derive(Debug)]
pub struct SimPhone {
    agent: Agent,
    address: SocketAddr,
    peer: SocketAddr,
    script: Script,
    agenda: BTreeMap<(Instant, u64), Task>,
    number: u64,
    confirmed: Vec<CallNumber>,
    seen: Vec<Bytes>,
    astray: Vec<SocketAddr>,
}

impl SimPhone {
    /// A phone that calls `peer`; its INVITE goes out when its first deadline, at `now` + `start`, fires.
    #[must_use]
    pub fn caller(
        address: SocketAddr,
        peer: SocketAddr,
        script: CallerScript,
        seed: u64,
        now: Instant,
    ) -> Self {
        let (start, lose_acks) = (script.start, script.lose_acks);
        let mut phone = Self::new(address, peer, Script::Caller(script), seed);
        phone.agent.lose_acks(lose_acks);
        phone.plan(now + start, Task::Start);
        phone
    }

    /// A phone that is called; it follows its script for every call that comes.
    #[must_use]
    pub fn callee(address: SocketAddr, peer: SocketAddr, script: CalleeScript, seed: u64) -> Self {
        Self::new(address, peer, Script::Callee(script), seed)
    }

    fn new(address: SocketAddr, peer: SocketAddr, script: Script, seed: u64) -> Self {
        let mut agent = Agent::new(address, Transport::Udp, seed);
        agent.expect_reordering();
        let (agenda, number) = (BTreeMap::new(), 0);
        Self { agent, address, peer, script, agenda, number, confirmed: vec![], seen: vec![], astray: vec![] }
    }

    fn plan(&mut self, at: Instant, task: Task) {
        self.number += 1;
        self.agenda.insert((at, self.number), task);
    }

    /// Takes one message and returns what it sends.
    pub fn handle(&mut self, message: &[u8], now: Instant) -> Vec<Bytes> {
        self.seen.push(Bytes::copy_from_slice(message));
        self.agent.receive(message, self.peer, now);
        self.settle(now)
    }

    /// When [`Self::timeout`] is due.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.agenda.keys().next().map(|(at, _)| *at).into_iter().chain(self.agent.deadline()).min()
    }

    /// Does what is due and returns what it sends.
    pub fn timeout(&mut self, now: Instant) -> Vec<Bytes> {
        self.agent.timeout(now);
        while let Some(entry) = self.agenda.first_entry().filter(|entry| entry.key().0 <= now) {
            let task = entry.remove();
            self.perform(task, now);
        }
        self.settle(now)
    }

    fn perform(&mut self, task: Task, now: Instant) {
        match task {
            Task::Start => self.start(now),
            Task::RepeatInvite(call) => {
                if self.agent.end(call).is_none() && !self.agent.is_confirmed(call) {
                    self.agent.repeat_invite(call);
                }
            }
            Task::Cancel(call) => self.agent.cancel(call, now),
            Task::HangUp(call) => self.agent.bye(call, &[], now),
            Task::Offer(call, direction) => drop(self.agent.reinvite(call, Some(direction), now)),
            Task::Step(call, step) => self.step(call, step, now),
        }
    }

    fn media_address(&self) -> SocketAddr {
        SocketAddr::new(self.address.ip(), 40_000)
    }

    fn start(&mut self, now: Instant) {
        let Script::Caller(script) = &self.script else { return };
        let script = script.clone();
        let invite = Invite {
            uri: format!("sip:{}@{}", script.dial, self.peer),
            from: script.from.clone(),
            to: format!("<sip:{}@{}>", script.dial, self.peer.ip()),
            call_id: None,
            from_tag: None,
            branch_mark: None,
            contact: script.contact.clone(),
            cseq: None,
            max_forwards: 70,
            headers: script.headers.clone(),
            body: None,
            offer: script.offer.is_some(),
        };
        let id = self.agent.session_id();
        let media = LocalMedia::new(self.media_address(), script.offer.unwrap_or_default(), id);
        let call = self.agent.call(self.peer, &invite, Some(media), now);
        if let Some(after) = script.cancel_after {
            self.plan(now + after, Task::Cancel(call));
        }
        if let Some(after) = script.repeat_after {
            self.plan(now + after, Task::RepeatInvite(call));
        }
    }

    fn step(&mut self, call: CallNumber, step: Step, now: Instant) {
        let Script::Callee(script) = &self.script else { return };
        let kept = script.answers_after_cancel;
        if self.agent.end(call).is_some() || (self.agent.is_cancelled(call) && !kept) {
            return;
        }
        let (headers, contact) = (script.headers.clone(), script.contact.clone());
        let reply = match step {
            Step::Ring(to_tag) => Reply { status: 180, to_tag, ..Reply::default() },
            Step::Early(to_tag) => Reply { status: 183, to_tag, sdp: true, ..Reply::default() },
            Step::Answer(to_tag) => Reply { status: 200, to_tag, sdp: true, ..Reply::default() },
            Step::Reject(status, phrase, contact) => {
                Reply { status, phrase: Some(phrase), contact, ..Reply::default() }
            }
        };
        let contact = reply.contact.clone().or(contact);
        self.agent.respond(call, &Reply { headers, contact, ..reply }, now);
    }

    /// Follows events until nothing more comes of them, and hands out what is to be sent.
    fn settle(&mut self, now: Instant) -> Vec<Bytes> {
        let output = self.agent.take_output();
        for (call, event) in output.events {
            match event {
                Event::Invited(_) => self.on_invited(call, now),
                Event::Response(message) if message.cseq().1 == "INVITE" && is_success(&message) => {
                    self.on_confirmed(call, now)
                }
                Event::Request(message) if message.is("ACK") && self.agent.is_confirmed(call) => {
                    self.on_confirmed(call, now)
                }
                Event::Request(message) if message.is("CANCEL") => self.on_cancelled(call, now),
                _ => {}
            }
        }
        let peer = self.peer;
        self.astray.extend(output.send.iter().map(|(to, _)| *to).filter(|to| *to != peer));
        output.send.into_iter().map(|(_, bytes)| Bytes::from(bytes)).collect()
    }

    fn on_invited(&mut self, call: CallNumber, now: Instant) {
        let Script::Callee(script) = &self.script else { return };
        let script = script.clone();
        let id = self.agent.session_id();
        let media = LocalMedia::new(self.media_address(), script.answer, id);
        self.agent.set_media(call, media);
        if script.answers_after_cancel {
            self.agent.on_cancel(call, OnCancel::Keep);
        }
        for (after, step) in script.steps {
            self.plan(now + after, Task::Step(call, step));
        }
    }

    fn on_cancelled(&mut self, call: CallNumber, now: Instant) {
        let Script::Callee(script) = &self.script else { return };
        if script.answers_after_cancel {
            // The last tag that rang is the one that answers.
            let tag = script.steps.iter().rev().find_map(|(_, step)| match step {
                Step::Ring(tag) | Step::Early(tag) | Step::Answer(tag) => Some(tag.clone()),
                Step::Reject(..) => None,
            });
            self.plan(now + Duration::from_millis(1), Task::Step(call, Step::Answer(tag.flatten())));
        }
    }

    fn on_confirmed(&mut self, call: CallNumber, now: Instant) {
        if self.confirmed.contains(&call) {
            return;
        }
        self.confirmed.push(call);
        let (hang_up, hold) = match &self.script {
            Script::Caller(script) => (script.hang_up_after, script.hold_after),
            Script::Callee(script) => (script.hang_up_after, script.hold_after),
        };
        if let Some(after) = hang_up {
            self.plan(now + after, Task::HangUp(call));
        }
        if let Some(after) = hold {
            self.plan(now + after, Task::Offer(call, "sendonly"));
            self.plan(now + after * 2 + Duration::from_millis(1), Task::Offer(call, "sendrecv"));
        }
    }

    /// Every message that it received, as it came.
    #[must_use]
    pub fn seen(&self) -> &[Bytes] {
        &self.seen
    }

    /// How each of its calls ended; `None` for one that has not.
    #[must_use]
    pub fn ends(&self) -> Vec<Option<End>> {
        (0..self.agent.calls()).map(|call| self.agent.end(call)).collect()
    }

    /// How many of its calls were answered and acknowledged.
    #[must_use]
    pub fn answered(&self) -> usize {
        self.confirmed.len()
    }

    /// True when nothing is planned, every call is over and no transaction waits.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.agenda.is_empty() && self.agent.is_idle()
    }

    /// True when every call it had is over, whatever timers still run.
    #[must_use]
    pub fn all_ended(&self) -> bool {
        self.ends().iter().all(Option::is_some)
    }

    /// What the far side did against the RFC, and requests that its Contact or Record-Route led astray.
    #[must_use]
    pub fn faults(&self) -> Vec<String> {
        let astray =
            self.astray.iter().map(|to| format!("a request had to go to {to} instead of {}", self.peer));
        self.agent.faults().iter().cloned().chain(astray).collect()
    }

    /// Marks of the other side in anything that it received.
    #[must_use]
    pub fn leaks(&self, marks: &Marks) -> Vec<Finding> {
        self.seen.iter().flat_map(|message| leak::find(message, marks)).collect()
    }
}

fn is_success(message: &Message) -> bool {
    message.status().is_some_and(|status| (200..300).contains(&status))
}

#[cfg(test)]
mod tests {
    use super::super::{Link, Network, What, tests::base};
    use super::*;

    fn socket(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    /// Lets two phones talk to each other until nothing more happens.
    fn talk(mut phones: [SimPhone; 2], link: Link, seed: u64, start: Instant) -> ([SimPhone; 2], Duration) {
        let mut network: Network<Bytes> = Network::new(start, seed);
        network.set_links(link);
        for (node, phone) in phones.iter().enumerate() {
            network.set_deadline(node, phone.deadline());
        }
        while let Some(happening) = network.pop() {
            let node = happening.node;
            let sent = match happening.what {
                What::Message { message, .. } => phones[node].handle(&message, happening.at),
                What::Deadline => phones[node].timeout(happening.at),
            };
            for message in sent {
                network.send(node, 1 - node, message);
            }
            network.set_deadline(node, phones[node].deadline());
        }
        (phones, network.now() - start)
    }

    fn pair(caller: CallerScript, callee: CalleeScript, seed: u64, now: Instant) -> [SimPhone; 2] {
        [
            SimPhone::caller(socket(1), socket(2), caller, seed, now),
            SimPhone::callee(socket(2), socket(1), callee, seed + 1),
        ]
    }

    #[test]
    fn a_plain_call_is_answered_and_ended() {
        let now = base();
        let script = CallerScript::plain("+12025550100", "<sip:+4915112345678@h>");
        let (phones, took) = talk(pair(script, CalleeScript::plain(), 1, now), Link::perfect(), 1, now);
        assert_eq!(
            (phones[0].ends(), phones[1].ends()),
            (vec![Some(End::ByeSent)], vec![Some(End::ByeReceived)])
        );
        assert!(
            phones
                .iter()
                .all(|phone| phone.is_finished() && phone.answered() == 1 && phone.faults().is_empty())
        );
        assert!(took > Duration::from_secs(4) && took < Duration::from_secs(6), "{took:?}");
        assert_eq!(phones[1].leaks(&Marks::default().number("4915112345678"))[0].encoding, "plain");
    }

    /// Whatever phones do and the network loses, every call ends at both of them, and the run can be repeated.
    #[test]
    fn two_thousand_random_calls_end_on_both_sides() {
        let (mut answered, mut refused, mut cancelled) = (0, 0, 0);
        for seed in 0..2000u64 {
            let run = || {
                let now = base();
                let mut caller = CallerScript::random("+12025550100", "<sip:+4915112345678@h>", seed);
                // Nobody else ends a call between two phones.
                caller.hang_up_after = caller.hang_up_after.or(Some(Duration::from_secs(20)));
                caller.cancel_after = caller.cancel_after.or(Some(Duration::from_secs(60)));
                let link = if seed % 3 == 0 { Link::perfect() } else { Link::lossy(0.1) };
                talk(pair(caller, CalleeScript::random(seed), seed, now), link, seed, now)
            };
            let (phones, took) = run();
            assert!(
                phones.iter().all(|p| p.all_ended() && p.is_finished()),
                "seed {seed}: {:?} {:?}",
                phones[0].ends(),
                phones[1].ends()
            );
            assert!(
                phones.iter().all(|p| p.faults().is_empty()),
                "seed {seed}: {:?} {:?}",
                phones[0].faults(),
                phones[1].faults()
            );
            match phones[0].ends().first().copied().flatten() {
                Some(End::Refused(_)) => refused += 1,
                Some(End::CancelSent) => cancelled += 1,
                _ => answered += phones[0].answered(),
            }
            if seed % 200 == 0 {
                let (again, took_again) = run();
                assert_eq!(
                    (again[0].seen(), again[1].seen(), took_again),
                    (phones[0].seen(), phones[1].seen(), took),
                    "seed {seed}"
                );
            }
        }
        assert!(answered > 500 && refused > 200 && cancelled > 100, "{answered} {refused} {cancelled}");
    }
}
