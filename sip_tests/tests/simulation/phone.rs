//! The phones of the simulation: the kit's agent with an agenda.

use super::plan::{Typing, deeds, description, maybe, ms, pick, s, typing};
use bytes::Bytes;
use rand::RngExt;
use rand::rngs::StdRng;
use sip_tests::agent::{Agent, CallNumber, End, Event, Invite, OnCancel, Reply, Transport};
use sip_tests::message::{self, Message};
use sip_tests::sdp::{LocalMedia, SdpOptions};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// What somebody does during a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Deed {
    Bye,
    Hold,
    Resume,
    /// A re-INVITE without SDP.
    OfferNothing,
    /// A re-INVITE with nothing that we speak.
    BadOffer,
    /// UPDATE with an offer.
    Update,
    /// UPDATE without.
    Refresh,
    /// A key by INFO.
    Info(char),
    /// INFO of a package that nobody agreed on.
    InfoPackage,
    Options,
    Refer,
    /// A request that nobody expects.
    Ask(&'static str),
    /// A re-INVITE for fax.
    Fax,
    /// A re-INVITE or UPDATE with media at another port.
    Move {
        by_update: bool,
    },
    /// UPDATE with these headers.
    UpdateWith(Vec<(&'static str, String)>),
    /// BYE with this Reason.
    ByeBecause(&'static str),
    /// From now on it hears nothing and says nothing.
    Vanish,
}

/// The fork whose tag is the phone's own, so that it can ask for something before it answers.
pub const OWN: u8 = 255;

/// What a called phone does before the call is answered or refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// 180, from that fork.
    Ring(u8),
    /// 183 with SDP.
    Early(u8),
    /// 200 with SDP.
    Answer(u8),
    /// A final failure.
    Reject(u16),
    /// The same with these headers.
    RejectWith(u16, Vec<(&'static str, String)>),
    /// 180, or 183 with SDP, that must be acknowledged: fork, RSeq, SDP.
    Reliable(u8, u32, bool),
    /// UPDATE with an offer, on the early dialog.
    Update,
}

/// A caller.
#[derive(Debug, Clone)]
pub struct CallerPlan {
    pub number: String,
    /// Planted wherever a device has room for free text; hex.
    pub mark: String,
    pub anonymous: bool,
    pub dial: String,
    pub start: Duration,
    pub offer: Option<SdpOptions>,
    pub max_forwards: u8,
    /// Over a connection instead of datagrams.
    pub tcp: bool,
    pub cancel_after: Option<Duration>,
    /// The INVITE again, each so long after it.
    pub repeats: Vec<Duration>,
    /// The INVITE with another branch, as a forking proxy would send it.
    pub merged_after: Option<Duration>,
    pub lose_acks: u32,
    /// Each so long after the first 18x, if there is no 200 by then.
    pub early_deeds: Vec<(Duration, Deed)>,
    /// So long after the 200.
    pub deeds: Vec<(Duration, Deed)>,
    /// For each PIN prompt in turn.
    pub typing: Vec<Typing>,
    /// Further headers of the INVITE.
    pub headers: Vec<(&'static str, String)>,
    /// So long after a reliable response it is acknowledged; `None`: never.
    pub pracks_after: Option<Duration>,
    /// The PRACK brings an offer.
    pub offers_in_prack: bool,
    /// Without it the phone takes all that the kit knows.
    pub allow: Option<&'static str>,
}

impl CallerPlan {
    pub fn plain(number: &str, random: &mut StdRng) -> Self {
        Self {
            number: number.to_owned(),
            mark: format!("{:016x}", random.random::<u64>()),
            anonymous: false,
            dial: super::plan::DID.into(),
            start: Duration::ZERO,
            offer: Some(SdpOptions::default()),
            max_forwards: 70,
            tcp: false,
            cancel_after: None,
            repeats: vec![],
            merged_after: None,
            lose_acks: 0,
            early_deeds: vec![],
            deeds: vec![(Duration::from_secs(3), Deed::Bye)],
            typing: vec![],
            headers: vec![],
            pracks_after: Some(Duration::ZERO),
            offers_in_prack: false,
            allow: None,
        }
    }

    pub fn random(number: &str, random: &mut StdRng) -> Self {
        let mut plan = Self::plain(number, random);
        plan.anonymous = random.random_bool(0.2);
        plan.start = maybe(random, 0.5, 3000).unwrap_or_default();
        plan.offer = (!random.random_bool(0.1)).then(|| description(random, &plan.mark));
        plan.max_forwards = *pick(random, &[70, 70, 70, 70, 70, 70, 70, 12, 1, 0]);
        plan.cancel_after = maybe(random, 0.25, 12_000);
        plan.repeats = (0..random.random_range(0..3)).filter_map(|_| maybe(random, 0.2, 3000)).collect();
        plan.lose_acks = *pick(random, &[0, 0, 0, 0, 0, 0, 1, 3, 1000]);
        plan.deeds = deeds(random, 0.6);
        if random.random_bool(0.2) {
            let early = [Deed::Update, Deed::Refresh, Deed::Hold, Deed::Options, Deed::Info('1'), Deed::Bye];
            plan.early_deeds = vec![(ms(random.random_range(0..3000)), pick(random, &early).clone())];
        }
        plan.typing = typing(random);
        plan
    }

    fn from(&self) -> String {
        match self.anonymous {
            true => "\"Anonymous\" <sip:anonymous@anonymous.invalid>".into(),
            false => {
                format!("\"Name{}\" <sip:{}@host-{}.example;user=phone>", self.mark, self.number, self.mark)
            }
        }
    }
}

/// A gateway with the phone behind it.
#[derive(Debug, Clone)]
pub struct CalleePlan {
    pub mark: String,
    /// Hears nothing, says nothing.
    pub deaf: bool,
    /// Over a connection instead of datagrams.
    pub tcp: bool,
    /// A proxy of the gateway's stays in the path: loosely (`true`) or strictly.
    pub record_route: Option<bool>,
    /// Each so long after the INVITE.
    pub steps: Vec<(Duration, Step)>,
    pub answer: SdpOptions,
    /// After CANCEL: `None` is 487, otherwise 200 after so long.
    pub answers_cancel_after: Option<Duration>,
    /// Another fork answers so long after the first.
    pub twin_after: Option<Duration>,
    /// How many such forks there are.
    pub twins: u32,
    /// Loses the ACK of its 200 so often.
    pub deaf_to_acks: u32,
    /// So long after the ACK.
    pub deeds: Vec<(Duration, Deed)>,
    /// Further headers of the 200.
    pub headers: Vec<(&'static str, String)>,
    /// The first INVITE gets this instead of the steps.
    pub first: Option<Step>,
    /// Without it the phone takes all that the kit knows.
    pub allow: Option<&'static str>,
    /// The 200 has no SDP: it went before.
    pub silent_answer: bool,
    /// Re-INVITEs get this status.
    pub refuses_reinvites: Option<u16>,
}

impl CalleePlan {
    pub fn plain(random: &mut StdRng) -> Self {
        Self {
            mark: format!("{:016x}", random.random::<u64>()),
            deaf: false,
            tcp: false,
            record_route: None,
            steps: vec![(ms(100), Step::Ring(0)), (ms(1000), Step::Answer(0))],
            answer: SdpOptions::default(),
            answers_cancel_after: None,
            twin_after: None,
            twins: 1,
            deaf_to_acks: 0,
            deeds: vec![],
            headers: vec![],
            first: None,
            allow: None,
            silent_answer: false,
            refuses_reinvites: None,
        }
    }

    pub fn random(random: &mut StdRng) -> Self {
        let mut plan = Self::plain(random);
        plan.answer = description(random, &plan.mark);
        plan.record_route = random.random_bool(0.2).then(|| random.random_bool(0.8));
        plan.steps.clear();
        let mut at = ms(random.random_range(0..400));
        let mut fork = 0;
        for number in 0..random.random_range(0..5) {
            fork = *pick(random, &[fork, number]);
            let step = if random.random_bool(0.3) { Step::Early(fork) } else { Step::Ring(fork) };
            plan.steps.push((at, step));
            at += ms(random.random_range(0..2500));
        }
        match random.random_range(0..10) {
            0..=5 => plan.steps.push((at, Step::Answer(fork))),
            6..=8 => plan.steps.push((at, Step::Reject(*pick(random, &FAILURES)))),
            // Rings for ever.
            _ => {}
        }
        let longest = *pick(random, &[300, 40_000]);
        plan.answers_cancel_after = maybe(random, 0.2, longest);
        plan.twin_after = maybe(random, 0.08, 2000);
        plan.deaf_to_acks = *pick(random, &[0, 0, 0, 0, 0, 0, 1, 3]);
        plan.deeds = deeds(random, 0.5);
        plan
    }
}

/// Final answers of callees.
pub const FAILURES: [u16; 30] = [
    300, 301, 302, 380, 400, 401, 402, 403, 404, 407, 408, 410, 415, 420, 480, 481, 482, 484, 486, 487, 488,
    491, 500, 502, 503, 504, 600, 603, 604, 606,
];

#[derive(Debug)]
pub enum Role {
    /// Not known yet.
    Nobody,
    Caller(CallerPlan),
    Callee(CalleePlan),
}

#[derive(Debug, Clone)]
enum Task {
    Start,
    Repeat,
    Merge,
    Cancel,
    Deed(CallNumber, Deed),
    EarlyDeed(CallNumber, Deed),
    Step(CallNumber, Step),
    Raw(Bytes),
    Prack(CallNumber, Message),
    /// A reliable response again, unless it is acknowledged by then: its RSeq, the interval.
    Again(CallNumber, u32, Bytes, Duration),
}

/// The second fork of a callee, which answered as well: only what it must see.
#[derive(Debug, Default)]
pub struct Twin {
    pub tag: Option<String>,
    answered: bool,
    pub acknowledged: bool,
    pub ended: bool,
}

impl Twin {
    /// All forks of this kind have tags that begin alike.
    pub fn is_meant(&self, message: &Message) -> bool {
        let tags = self.tag.as_deref().zip(message.to_tag());
        tags.is_some_and(|(own, tag)| tag.starts_with(own))
    }
}

/// One phone.
#[derive(Debug)]
pub struct Phone {
    pub name: String,
    pub agent: Agent,
    pub address: SocketAddr,
    pub peer: SocketAddr,
    pub role: Role,
    /// Which of the run's parties it belongs to.
    pub party: Option<usize>,
    agenda: BTreeMap<(Instant, u64), Task>,
    number: u64,
    early: BTreeSet<CallNumber>,
    confirmed: BTreeSet<CallNumber>,
    reinvite: BTreeMap<CallNumber, u32>,
    invites: Vec<Bytes>,
    /// Everything that arrived.
    pub seen: Vec<(Instant, Bytes)>,
    pub twin: Twin,
    acks_to_lose: u32,
    /// Answers to INVITEs with another branch.
    pub merged: Vec<u16>,
    /// What could not be said in another way.
    pub faults: Vec<String>,
    /// RSeq, by call, To tag: responses acknowledged by this phone, or to it.
    acknowledged: BTreeSet<(CallNumber, String, u32)>,
    vanished: bool,
}

impl Phone {
    pub fn caller(n: usize, plan: CallerPlan, peer: SocketAddr, seed: u64, now: Instant) -> Self {
        let transport = if plan.tcp { Transport::Tcp } else { Transport::Udp };
        let mut phone = Self::new(super::plan::caller_address(n), transport, peer, seed);
        phone.name = format!("caller {n}");
        phone.agent.lose_acks(plan.lose_acks);
        plan.allow.into_iter().for_each(|allow| phone.agent.set_allow(allow));
        phone.agent.set_user_agent(Some(format!("Phone{}", plan.mark)));
        phone.plan(now + plan.start, Task::Start);
        phone.role = Role::Caller(plan);
        phone
    }

    pub fn callee(n: usize, plan: CalleePlan, peer: SocketAddr, seed: u64) -> Self {
        let transport = if plan.tcp { Transport::Tcp } else { Transport::Udp };
        let mut phone = Self::new(super::plan::gateway_address(n), transport, peer, seed);
        phone.name = format!("gateway {n}");
        phone.agent.set_user_agent(Some(format!("Phone{}", plan.mark)));
        phone.acks_to_lose = plan.deaf_to_acks;
        plan.allow.into_iter().for_each(|allow| phone.agent.set_allow(allow));
        phone.role = Role::Callee(plan);
        phone
    }

    /// The phone of a party, behind gateway `n`.
    pub fn of_party(party: usize, n: usize, plan: CalleePlan, peer: SocketAddr, seed: u64) -> Self {
        let name = format!("party {party} at {n}");
        Self { name, party: Some(party), ..Self::callee(n, plan, peer, seed) }
    }

    fn new(address: SocketAddr, transport: Transport, peer: SocketAddr, seed: u64) -> Self {
        let mut agent = Agent::new(address, transport, seed);
        agent.expect_reordering();
        Self {
            name: String::new(),
            agent,
            address,
            peer,
            role: Role::Nobody,
            party: None,
            agenda: BTreeMap::new(),
            number: 0,
            early: BTreeSet::new(),
            confirmed: BTreeSet::new(),
            reinvite: BTreeMap::new(),
            invites: vec![],
            seen: vec![],
            twin: Twin::default(),
            acks_to_lose: 0,
            merged: vec![],
            faults: vec![],
            acknowledged: BTreeSet::new(),
            vanished: false,
        }
    }

    fn plan(&mut self, at: Instant, task: Task) {
        self.number += 1;
        self.agenda.insert((at, self.number), task);
    }

    /// Does this at that time, in the latest call.
    pub fn do_at(&mut self, at: Instant, deed: Deed) {
        if let Some(call) = self.agent.calls().checked_sub(1) {
            self.plan(at, Task::Deed(call, deed));
        }
    }

    pub fn deadline(&self) -> Option<Instant> {
        self.agenda.keys().next().map(|(at, _)| *at).into_iter().chain(self.agent.deadline()).min()
    }

    /// Whether it talks over a connection.
    pub fn tcp(&self) -> bool {
        match &self.role {
            Role::Nobody => false,
            Role::Caller(plan) => plan.tcp,
            Role::Callee(plan) => plan.tcp,
        }
    }

    pub fn ends(&self) -> Vec<Option<End>> {
        (0..self.agent.calls()).map(|call| self.agent.end(call)).collect()
    }

    /// Takes one message and returns what it sends.
    pub fn handle(&mut self, wire: &Bytes, now: Instant) -> Vec<Bytes> {
        if self.vanished {
            return vec![];
        }
        self.seen.push((now, wire.clone()));
        if matches!(&self.role, Role::Callee(plan) if plan.deaf) {
            return vec![];
        }
        let Some(message) = Message::read(wire) else {
            self.faults.push("not a SIP message".into());
            return vec![];
        };
        if message.branch().is_some_and(|branch| branch.ends_with("merged")) && message.status().is_some() {
            self.merged.extend(message.status());
            return vec![];
        }
        if self.twin.is_meant(&message) {
            return self.as_twin(&message);
        }
        if message.is("ACK") && self.acks_to_lose > 0 && matches!(self.role, Role::Callee(_)) {
            self.acks_to_lose -= 1;
            return vec![];
        }
        self.agent.receive(wire, self.peer, now);
        self.settle(now)
    }

    fn as_twin(&mut self, message: &Message) -> Vec<Bytes> {
        if message.is("ACK") {
            self.twin.acknowledged = true;
        }
        if !message.is("BYE") {
            return vec![];
        }
        self.twin.ended = true;
        let mut headers = vec![];
        for name in ["Via", "From", "To", "Call-ID", "CSeq"] {
            let value = message.header(name).unwrap_or_default();
            headers.push((name.to_owned(), value.to_owned()));
        }
        vec![message::write("SIP/2.0 200 OK", &headers, &[]).into()]
    }

    /// Does what is due and returns what it sends.
    pub fn timeout(&mut self, now: Instant) -> Vec<Bytes> {
        if self.vanished {
            self.agenda.clear();
        }
        self.agent.timeout(now);
        let mut raw = vec![];
        while let Some(entry) = self.agenda.first_entry().filter(|entry| entry.key().0 <= now) {
            match entry.remove() {
                Task::Start => self.start(now),
                Task::Repeat => raw.extend(self.invites.first().cloned()),
                Task::Merge => raw.extend(self.invites.first().map(merged)),
                Task::Cancel => self.agent.cancel(0, now),
                Task::Prack(call, response) => self.prack(call, &response, now),
                Task::Again(call, rseq, wire, interval) => {
                    let told = self.acknowledged.iter().any(|(of, _, known)| (*of, *known) == (call, rseq));
                    if !told
                        && self.agent.end(call).is_none()
                        && interval < s(32)
                        && !self.agent.is_confirmed(call)
                    {
                        raw.push(wire.clone());
                        self.plan(now + interval * 2, Task::Again(call, rseq, wire, interval * 2));
                    }
                }
                Task::Deed(call, deed) if self.agent.is_confirmed(call) => self.perform(call, &deed, now),
                Task::EarlyDeed(call, deed) if !self.agent.is_confirmed(call) => {
                    self.perform(call, &deed, now);
                }
                Task::Deed(..) | Task::EarlyDeed(..) => {}
                Task::Step(call, step) => self.step(call, &step, now),
                Task::Raw(wire) => raw.push(wire),
            }
        }
        raw.extend(self.settle(now));
        if self.vanished {
            return vec![];
        }
        raw
    }

    fn start(&mut self, now: Instant) {
        let Role::Caller(plan) = &self.role else { return };
        let plan = plan.clone();
        let mark = &plan.mark;
        let mut headers = vec![
            ("Subject".to_owned(), format!("subject{mark}")),
            ("X-Device".to_owned(), format!("device{mark}")),
        ];
        headers.extend(plan.headers.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
        if plan.anonymous {
            headers.push(("Privacy".into(), "id".into()));
            headers.push(("P-Asserted-Identity".into(), format!("<tel:{}>", plan.number)));
        }
        let invite = Invite {
            uri: format!("sip:{}@{}", plan.dial, self.peer),
            from: plan.from(),
            to: format!("<sip:{}@{}>", plan.dial, self.peer.ip()),
            call_id: Some(format!("callid{mark}")),
            from_tag: Some(format!("fromtag{mark}")),
            branch_mark: Some(format!("branch{mark}")),
            contact: None,
            cseq: None,
            max_forwards: plan.max_forwards,
            headers,
            body: None,
            offer: plan.offer.is_some(),
        };
        let id = self.agent.session_id();
        let media = LocalMedia::new(
            SocketAddr::new(self.address.ip(), 40_000),
            plan.offer.clone().unwrap_or_default(),
            id,
        );
        self.agent.call(self.peer, &invite, Some(media), now);
        if let Some(after) = plan.cancel_after {
            self.plan(now + after, Task::Cancel);
        }
        for after in plan.repeats {
            self.plan(now + after, Task::Repeat);
        }
        if let Some(after) = plan.merged_after {
            self.plan(now + after, Task::Merge);
        }
    }

    fn step(&mut self, call: CallNumber, step: &Step, now: Instant) {
        let Role::Callee(plan) = &self.role else { return };
        let kept = plan.answers_cancel_after.is_some();
        if self.agent.end(call).is_some() || (self.agent.is_cancelled(call) && !kept) {
            return;
        }
        let mark = plan.mark.clone();
        let tag = |fork: &u8| (*fork != OWN).then(|| format!("totag{mark}{fork}"));
        let reply = match step {
            Step::Ring(fork) => Reply { status: 180, to_tag: tag(fork), ..Reply::default() },
            Step::Early(fork) => Reply { status: 183, to_tag: tag(fork), sdp: true, ..Reply::default() },
            Step::Update => {
                self.agent.update(call, Some("sendrecv"), now);
                return;
            }
            Step::Reliable(fork, rseq, sdp) => {
                let reply = Reply {
                    status: if *sdp { 183 } else { 180 },
                    sdp: *sdp,
                    to_tag: tag(fork),
                    ..Reply::default()
                };
                reply.header("Require", "100rel").header("RSeq", &rseq.to_string())
            }
            Step::RejectWith(status, headers) => headers.iter().fold(
                Reply { status: *status, to_tag: Some(format!("totag{mark}r{call}")), ..Reply::default() },
                |reply, (name, value)| reply.header(name, value),
            ),
            Step::Answer(fork) => {
                let reply =
                    Reply { status: 200, to_tag: tag(fork), sdp: !plan.silent_answer, ..Reply::default() };
                plan.headers.iter().fold(reply, |reply, (name, value)| reply.header(name, value))
            }
            Step::Reject(status) => {
                let contact = (*status < 400).then(|| format!("<sip:contact{mark}@192.0.2.99>"));
                Reply { status: *status, contact, to_tag: tag(&0), ..Reply::default() }
            }
        };
        let route = plan.record_route.map(|loose| {
            let lr = if loose { ";lr" } else { "" };
            ("Record-Route".to_owned(), format!("<sip:{}{lr}>", self.address))
        });
        let reply = Reply {
            phrase: Some(format!("Phrase {mark}")),
            headers: vec![
                ("P-Asserted-Identity".into(), format!("\"Name{mark}\" <tel:+{mark}>")),
                ("Retry-After".into(), "7200".into()),
                ("Reason".into(), format!("SIP;cause=600;text=\"Reason{mark}\"")),
                ("X-Device".into(), format!("device{mark}")),
            ]
            .into_iter()
            .chain(route)
            .chain(reply.headers)
            .collect(),
            ..reply
        };
        let refuses = plan.refuses_reinvites;
        self.agent.refuse_reinvites(call, refuses);
        self.agent.respond(call, &reply, now);
        if let Step::Reliable(_, rseq, _) = step
            && let Some(wire) = self.agent.last_response(call)
        {
            self.plan(now + ms(500), Task::Again(call, *rseq, wire.into(), ms(500)));
        }
    }

    fn mark(&self) -> &str {
        match &self.role {
            Role::Nobody => "",
            Role::Caller(plan) => &plan.mark,
            Role::Callee(plan) => &plan.mark,
        }
    }

    /// Acknowledges a reliable response, with the answer when it carried an offer.
    fn prack(&mut self, call: CallNumber, response: &Message, now: Instant) {
        if self.agent.end(call).is_some() {
            return;
        }
        let Role::Caller(plan) = &self.role else { return };
        let (late, offers) = (plan.offer.is_none(), plan.offers_in_prack);
        let rack = format!("{} {} INVITE", response.header("rseq").unwrap_or_default(), response.cseq().0);
        let sdp = response.sdp().map(<[u8]>::to_vec);
        let body = self.agent.media_mut(call).and_then(|media| match sdp {
            Some(sdp) if late => media.answer(&sdp),
            _ if offers => Some(media.offer()),
            _ => None,
        });
        let body = body.map(|sdp| ("application/sdp".to_owned(), sdp));
        self.agent.request(call, "PRACK", &[("RAck".to_owned(), rack)], body, now);
    }

    fn perform(&mut self, call: CallNumber, deed: &Deed, now: Instant) {
        if self.agent.end(call).is_some() {
            return;
        }
        let relay = |key: &char| {
            ("application/dtmf-relay".to_owned(), format!("Signal={key}\r\nDuration=160\r\n").into_bytes())
        };
        match deed {
            Deed::Bye => {
                let reason = format!("Q.850;cause=16;text=\"Reason{}\"", self.mark());
                self.agent.bye(call, &[("Reason".to_owned(), reason)], now);
            }
            // Before the 200 a second INVITE would take the place of the first one in the agent.
            Deed::Hold if !self.agent.is_confirmed(call) => {
                let offer =
                    self.agent.media_mut(call).map(|media| ("application/sdp".to_owned(), media.offer()));
                self.agent.request(call, "UPDATE", &[], offer, now);
            }
            Deed::Hold => self.reinvite(call, Some("sendonly"), now),
            Deed::Resume => self.reinvite(call, Some("sendrecv"), now),
            Deed::OfferNothing => self.reinvite(call, None, now),
            Deed::BadOffer => {
                let Some(media) = self.agent.media_mut(call) else { return };
                let options = std::mem::replace(
                    &mut media.options,
                    SdpOptions { codecs: vec![], telephone_event_pt: Some(101), ..SdpOptions::default() },
                );
                self.reinvite(call, Some("sendrecv"), now);
                if let Some(media) = self.agent.media_mut(call) {
                    media.options = options;
                }
            }
            Deed::Update => drop(self.agent.update(call, Some("sendrecv"), now)),
            Deed::Refresh => drop(self.agent.update(call, None, now)),
            Deed::Info(key) => drop(self.agent.request(call, "INFO", &[], Some(relay(key)), now)),
            Deed::InfoPackage => {
                let package = [("Info-Package".to_owned(), "nobody".to_owned())];
                self.agent.request(call, "INFO", &package, Some(("text/plain".into(), b"x".to_vec())), now);
            }
            Deed::Ask(method) => {
                self.agent.request(call, method, &[], Some(("text/plain".into(), b"x".to_vec())), now);
            }
            Deed::Fax => {
                let Some(media) = self.agent.media_mut(call) else { return };
                let further_media = vec!["m=image 40000 udptl t38".to_owned()];
                let fax = SdpOptions {
                    codecs: vec![],
                    telephone_event_pt: None,
                    further_media,
                    ..media.options.clone()
                };
                let options = std::mem::replace(&mut media.options, fax);
                self.reinvite(call, Some("sendrecv"), now);
                if let Some(media) = self.agent.media_mut(call) {
                    media.options = options;
                }
            }
            Deed::Move { by_update } => {
                let Some(media) = self.agent.media_mut(call) else { return };
                media.address.set_port(media.address.port() + 2);
                match by_update {
                    true => drop(self.agent.update(call, Some("sendrecv"), now)),
                    false => self.reinvite(call, Some("sendrecv"), now),
                }
            }
            Deed::UpdateWith(headers) => {
                let headers: Vec<_> =
                    headers.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
                self.agent.request(call, "UPDATE", &headers, None, now);
            }
            Deed::ByeBecause(reason) => {
                self.agent.bye(call, &[("Reason".to_owned(), (*reason).to_owned())], now);
            }
            Deed::Vanish => self.vanished = true,
            Deed::Options => drop(self.agent.request(call, "OPTIONS", &[], None, now)),
            Deed::Refer => {
                let to = [("Refer-To".to_owned(), "<sip:elsewhere@192.0.2.99>".to_owned())];
                self.agent.request(call, "REFER", &to, None, now);
            }
        }
    }

    /// One re-INVITE at a time, as RFC 3261 §14.1 wants.
    fn reinvite(&mut self, call: CallNumber, direction: Option<&'static str>, now: Instant) {
        if self.reinvite.contains_key(&call) || !self.agent.is_confirmed(call) {
            return;
        }
        if let Some(cseq) = self.agent.reinvite(call, direction, now) {
            self.reinvite.insert(call, cseq);
        }
    }

    /// Follows events until nothing more comes of them, and hands out what is to be sent.
    fn settle(&mut self, now: Instant) -> Vec<Bytes> {
        let output = self.agent.take_output();
        for (call, event) in output.events {
            match event {
                Event::Invited(_) => self.on_invited(call, now),
                Event::Response(message) if message.cseq().1 == "INVITE" => {
                    let status = message.status().unwrap_or(0);
                    if (180..200).contains(&status) {
                        self.on_reliable(call, &message, now);
                    }
                    if (180..200).contains(&status) && self.early.insert(call) {
                        self.on_ringing(call, now);
                    }
                    if status >= 200 && self.reinvite.get(&call) == Some(&message.cseq().0) {
                        self.reinvite.remove(&call);
                    } else if (200..300).contains(&status) {
                        self.on_confirmed(call, now);
                    }
                }
                Event::Request(message) if message.is("ACK") && self.agent.is_confirmed(call) => {
                    self.on_confirmed(call, now);
                }
                Event::Request(message) if message.is("CANCEL") => self.on_cancelled(call, now),
                Event::Request(message) if message.is("PRACK") => {
                    let rack = message.header("rack").unwrap_or_default();
                    let rseq = rack.split(' ').next().and_then(|rseq| rseq.parse().ok()).unwrap_or(0);
                    let tag = message.to_tag().unwrap_or_default().to_owned();
                    self.acknowledged.insert((call, tag, rseq));
                }
                _ => {}
            }
        }
        let peer = self.peer;
        let mut sent = vec![];
        for (to, bytes) in output.send {
            if to != peer {
                self.faults.push(format!("a message had to go to {to} instead of {peer}"));
            }
            let wire = Bytes::from(bytes);
            self.remember(&wire, now);
            sent.push(wire);
        }
        sent
    }

    /// The INVITE, to be repeated, and the 200, to be given by another fork as well.
    fn remember(&mut self, wire: &Bytes, now: Instant) {
        match &self.role {
            Role::Caller(_) if self.invites.is_empty() && wire.starts_with(b"INVITE ") => {
                self.invites.push(wire.clone());
            }
            Role::Callee(plan) if !self.twin.answered && wire.starts_with(b"SIP/2.0 200") => {
                let Some(after) = plan.twin_after else { return };
                let Some(message) = Message::read(wire).filter(|message| message.cseq().1 == "INVITE") else {
                    return;
                };
                let Some(tag) = message.to_tag() else { return };
                let other = format!("twin{}", plan.mark);
                let (text, twins) = (message.text(), plan.twins);
                for twin in 1..=twins {
                    let text = text.replace(tag, &format!("{other}{twin}"));
                    self.plan(now + after, Task::Raw(text.into_bytes().into()));
                }
                self.twin = Twin { tag: Some(other), answered: true, ..Twin::default() };
            }
            _ => {}
        }
    }

    fn on_invited(&mut self, call: CallNumber, now: Instant) {
        let Role::Callee(plan) = &self.role else { return };
        let plan = plan.clone();
        let id = self.agent.session_id();
        let media = LocalMedia::new(SocketAddr::new(self.address.ip(), 40_000), plan.answer, id);
        self.agent.set_media(call, media);
        if plan.answers_cancel_after.is_some() {
            self.agent.on_cancel(call, OnCancel::Keep);
        }
        let first = plan.first.filter(|_| call == 0).map(|step| vec![(Duration::ZERO, step)]);
        for (after, step) in first.unwrap_or(plan.steps) {
            self.plan(now + after, Task::Step(call, step));
        }
    }

    fn on_cancelled(&mut self, call: CallNumber, now: Instant) {
        let Role::Callee(plan) = &self.role else { return };
        if let Some(after) = plan.answers_cancel_after {
            // The fork that rang last is the one that answers.
            let fork = plan.steps.iter().rev().find_map(|(_, step)| match step {
                Step::Ring(fork) | Step::Early(fork) | Step::Answer(fork) | Step::Reliable(fork, ..) => {
                    Some(*fork)
                }
                Step::Reject(_) | Step::RejectWith(..) | Step::Update => None,
            });
            self.plan(now + after, Task::Step(call, Step::Answer(fork.unwrap_or(0))));
        }
    }

    fn on_reliable(&mut self, call: CallNumber, response: &Message, now: Instant) {
        let Role::Caller(plan) = &self.role else { return };
        let (Some(rseq), Some(after)) = (response.header("rseq"), plan.pracks_after) else { return };
        let tag = response.to_tag().unwrap_or_default().to_owned();
        if self.acknowledged.insert((call, tag, rseq.parse().unwrap_or(0))) {
            self.plan(now + after, Task::Prack(call, response.clone()));
        }
    }

    fn on_ringing(&mut self, call: CallNumber, now: Instant) {
        let Role::Caller(plan) = &self.role else { return };
        for (after, deed) in plan.early_deeds.clone() {
            self.plan(now + after, Task::EarlyDeed(call, deed));
        }
    }

    fn on_confirmed(&mut self, call: CallNumber, now: Instant) {
        if !self.confirmed.insert(call) {
            return;
        }
        let deeds = match &self.role {
            Role::Nobody => vec![],
            Role::Caller(plan) => plan.deeds.clone(),
            Role::Callee(plan) => plan.deeds.clone(),
        };
        for (after, deed) in deeds {
            self.plan(now + after, Task::Deed(call, deed));
        }
    }
}

/// The same request by another path.
fn merged(invite: &Bytes) -> Bytes {
    let text = String::from_utf8_lossy(invite);
    let (before, after) = text.split_once("branch=").unwrap();
    let end = after.find(';').unwrap();
    format!("{before}branch={}merged{}", &after[..end], &after[end..]).into_bytes().into()
}
