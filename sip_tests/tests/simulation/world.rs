//! One run: phones, network and service, until nothing happens any more; then the verdict.

use super::judge::Outcome;
use super::phone::{Phone, Role};
use super::plan::{Lost, Plan, Profile};
use super::service::{Prompted, Service};
use bytes::Bytes;
use maskline::prompts::PromptLibrary;
use maskline::sip::transport::Protocol;
use maskline::store::Cdr;
use sip_tests::agent::End;
use sip_tests::leak::{self, Marks};
use sip_tests::message::{self, Message};
use sip_tests::sim::{Link, Network, What};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// The service's node; phones follow.
const SERVICE: usize = 0;
/// One run in so many is searched for leaks in every disguise, the others for plain ones.
const THOROUGH: u64 = 50;
/// More events than any run has.
const MAX_EVENTS: usize = 100_000;

#[derive(Debug, Clone)]
struct Parcel {
    wire: Bytes,
    protocol: Protocol,
}

/// Everything.
pub struct World {
    pub start: Instant,
    pub phones: Vec<Phone>,
    pub service: Service,
    network: Network<Parcel>,
    weather: usize,
    lost: Vec<Lost>,
    /// Which of the phones behind one gateway a call is for, by Call-ID.
    homes: BTreeMap<String, usize>,
}

fn prompts() -> PromptLibrary {
    static PROMPTS: OnceLock<PromptLibrary> = OnceLock::new();
    PROMPTS.get_or_init(PromptLibrary::default).clone()
}

impl World {
    /// Runs it.
    pub fn run(plan: Plan, verbose: bool) -> Self {
        let start = sip_tests::clock::now();
        let plan = Arc::new(plan);
        let peer = super::plan::SERVICE.parse().unwrap();
        let mut phones = vec![];
        for (n, caller) in plan.callers.iter().enumerate() {
            let seed = plan.seed ^ (n as u64 + 1) << 32;
            phones.push(Phone::caller(n, caller.clone(), peer, seed, start));
        }
        for (n, gateway) in plan.gateways.iter().enumerate() {
            let seed = plan.seed ^ (n as u64 + 101) << 32;
            phones.push(Phone::callee(n, gateway.clone(), peer, seed));
        }
        for (p, party) in plan.parties.iter().enumerate() {
            for (n, phone) in party.phones.iter().enumerate() {
                let seed = plan.seed ^ ((p as u64 + 1) * 200 + n as u64) << 32;
                phones.push(Phone::of_party(p, n, phone.clone(), peer, seed));
            }
        }
        let mut network = Network::new(start, plan.seed);
        network.set_links(plan.link);
        if plan.gateway_delay > Duration::ZERO {
            for node in plan.callers.len() + 1..=phones.len() {
                let delay = plan.link.delay + plan.gateway_delay;
                network.set_link(node, SERVICE, Link { delay, ..plan.link });
            }
        }
        let lost = plan.lost.clone();
        let service = Service::new(plan, prompts(), start, verbose);
        let mut world = Self { start, phones, service, network, weather: 0, lost, homes: BTreeMap::new() };
        world.go();
        world.judge();
        world
    }

    fn go(&mut self) {
        for node in 0..=self.phones.len() {
            self.wake(node);
        }
        for _ in 0..MAX_EVENTS {
            let Some(happening) = self.network.pop() else { return };
            self.change_weather(happening.at);
            match (happening.node, happening.what) {
                (SERVICE, What::Message { from, message }) => {
                    let address = self.phones[from - 1].address;
                    self.note(happening.at, from, SERVICE, &message.wire, true);
                    self.service.receive(&message.wire, address, message.protocol, happening.at);
                }
                (SERVICE, What::Deadline) => self.service.timeout(happening.at),
                (node, What::Message { message, .. }) => {
                    self.note(happening.at, SERVICE, node, &message.wire, true);
                    let sent = self.phones[node - 1].handle(&message.wire, happening.at);
                    self.from_phone(node, sent, happening.at);
                }
                (node, What::Deadline) => {
                    let sent = self.phones[node - 1].timeout(happening.at);
                    self.from_phone(node, sent, happening.at);
                }
            }
            self.from_service(happening.at);
        }
        self.service.judge.fault("it never comes to rest".into());
    }

    fn wake(&mut self, node: usize) {
        let deadline = match node {
            SERVICE => self.service.deadline(),
            node => self.phones[node - 1].deadline(),
        };
        self.network.set_deadline(node, deadline);
    }

    fn change_weather(&mut self, now: Instant) {
        while let Some((at, link)) = self.service.plan.weather.get(self.weather).copied() {
            if self.start + at > now {
                return;
            }
            self.weather += 1;
            self.network.set_links(link);
        }
    }

    fn from_phone(&mut self, node: usize, sent: Vec<Bytes>, now: Instant) {
        let protocol = if self.phones[node - 1].tcp() { Protocol::Tcp } else { Protocol::Udp };
        for wire in sent {
            self.note(now, node, SERVICE, &wire, false);
            self.carry(node, SERVICE, Parcel { wire, protocol });
        }
        self.wake(node);
    }

    fn from_service(&mut self, now: Instant) {
        for outgoing in std::mem::take(&mut self.service.out) {
            let Some(place) = self.place_of(outgoing.to, &outgoing.wire) else {
                self.service.judge.fault(format!("a message goes to {}", outgoing.to));
                continue;
            };
            self.note(now, SERVICE, place + 1, &outgoing.wire, false);
            let parcel = Parcel { wire: outgoing.wire, protocol: outgoing.protocol };
            self.carry(SERVICE, place + 1, parcel);
        }
        for prompted in std::mem::take(&mut self.service.prompted) {
            for place in 0..self.phones.len() {
                let phone = &mut self.phones[place];
                let (meant, at, deed) = match &prompted {
                    Prompted::Caller(address, at, deed) | Prompted::Callee(address, at, deed) => {
                        (phone.address == *address, *at, deed)
                    }
                    Prompted::First(at, deed) => (phone.party == Some(0), *at, deed),
                };
                if meant {
                    phone.do_at(at, deed.clone());
                    self.wake(place + 1);
                }
            }
        }
        self.wake(SERVICE);
    }

    /// The phone that a message is for. Of those behind one gateway the INVITE's number tells.
    fn place_of(&mut self, to: SocketAddr, wire: &Bytes) -> Option<usize> {
        let at_gateway = self.phones.iter().position(|phone| phone.address == to)?;
        let Some(message) = Message::read(wire).filter(|_| !self.service.plan.parties.is_empty()) else {
            return Some(at_gateway);
        };
        if !self.homes.contains_key(message.call_id()) && message.is("INVITE") {
            let user = message.uri().and_then(message::user_of);
            let party = self.service.plan.parties.iter().position(|party| user == Some(&party.number));
            let is_home = |phone: &Phone| phone.address == to && phone.party == party;
            let home = self.phones.iter().position(is_home).unwrap_or(at_gateway);
            self.homes.insert(message.call_id().to_owned(), home);
        }
        Some(self.homes.get(message.call_id()).copied().unwrap_or(at_gateway))
    }

    /// Through the network, unless it is to be lost.
    fn carry(&mut self, from: usize, to: usize, parcel: Parcel) {
        if !self.lost.is_empty()
            && let Some(what) = Message::read(&parcel.wire).map(|message| label(&message))
        {
            let name = if from == SERVICE { "service" } else { self.phones[from - 1].name.as_str() };
            let fits = |lost: &&mut Lost| lost.from == name && lost.what == what && lost.times > 0;
            if let Some(lost) = self.lost.iter_mut().find(fits) {
                lost.times -= 1;
                return;
            }
        }
        self.network.send(from, to, parcel);
    }

    fn note(&mut self, now: Instant, from: usize, to: usize, wire: &Bytes, arrived: bool) {
        if !self.service.judge.verbose {
            return;
        }
        let name = |node: usize| match node {
            SERVICE => "service".to_owned(),
            node => self.phones[node - 1].name.clone(),
        };
        let line = Message::read(wire).map_or_else(String::new, |message| {
            let (number, method) = message.cseq();
            let sdp = if message.sdp().is_some() { " SDP" } else { "" };
            let tag = message.to_tag().unwrap_or("-");
            format!("{} ({number} {method}, to {tag}){sdp}", message.start_line())
        });
        let text = match arrived {
            false => format!("{} ──▶ {}: {line}", name(from), name(to)),
            true => format!("    {} ··▶ {}: arrived {line}", name(from), name(to)),
        };
        self.service.judge.note(now, || text);
    }

    fn judge(&mut self) {
        self.service.judge.finish();
        if !self.service.is_empty() {
            self.service.judge.fault("keys or calls are left behind".into());
        }
        for place in 0..self.phones.len() {
            let faults = self.phones[place].agent.faults().iter().chain(&self.phones[place].faults);
            for fault in faults.cloned().collect::<Vec<_>>() {
                let name = &self.phones[place].name;
                let fault = format!("{name} complains: {fault}");
                self.service.judge.fault(fault);
            }
            self.judge_ends(place);
            self.judge_leaks(place);
        }
    }

    /// No phone rings for ever, and none believes in a call that is over.
    fn judge_ends(&mut self, place: usize) {
        let phone = &self.phones[place];
        let mut call_ids: Vec<String> = vec![];
        for (_, wire) in &phone.seen {
            let Some(message) = Message::read(wire) else { continue };
            if !call_ids.iter().any(|known| known == message.call_id()) {
                call_ids.push(message.call_id().to_owned());
            }
        }
        // A later INVITE that is refused ends nothing.
        let arrived = |call_id: &str| {
            let messages = phone.seen.iter().filter_map(|(_, wire)| Message::read(wire));
            let of_call: Vec<_> = messages.filter(|message| message.call_id() == call_id).collect();
            let first = of_call.first().map(|message| message.cseq().0);
            of_call.iter().any(|message| {
                let invite = message.cseq().1 == "INVITE";
                let failed = invite && message.status().is_some_and(|status| status >= 300);
                let twin = phone.twin.is_meant(message);
                (message.is("BYE") && !twin)
                    || message.is("CANCEL")
                    || (failed && Some(message.cseq().0) == first)
            })
        };
        let mut wrong = vec![];
        for (call, end) in phone.ends().into_iter().enumerate() {
            if end.is_some() {
                continue;
            }
            let call_id = match &phone.role {
                Role::Caller(plan) => format!("callid{}", plan.mark),
                Role::Nobody | Role::Callee(_) => call_ids.get(call).cloned().unwrap_or_default(),
            };
            // Nothing of this phone ever arrived, so that RFC 3261 §9.1 forbids CANCEL.
            let unheard =
                matches!(phone.role, Role::Callee(_)) && !self.service.judge.heard.contains(&call_id);
            let cut_off = self.service.plan.profile == Profile::Broken
                && self.service.judge.ending_sent.contains(&call_id)
                && !arrived(&call_id);
            if !unheard && !cut_off {
                wrong.push(format!("{}: its call {call} never ends", phone.name));
            }
        }
        if let (Some(_), twin) = (&phone.twin.tag, &phone.twin)
            && self.service.plan.weather.is_empty()
            && twin.acknowledged
            && !twin.ended
        {
            wrong.push(format!("{}: the other fork got ACK and no BYE", phone.name));
        }
        for wrong in wrong {
            self.service.judge.fault(wrong);
        }
    }

    fn judge_leaks(&mut self, place: usize) {
        let plan = Arc::clone(&self.service.plan);
        let phone = &self.phones[place];
        let party = phone.party.map(|party| plan.parties[party].number.as_str());
        let own = match &phone.role {
            Role::Caller(caller) => Some(caller.number.as_str()),
            Role::Nobody | Role::Callee(_) => party.or(plan.known.as_deref()),
        };
        let other = |number: &str| own.is_none_or(|own| own != number);
        let mut marks = Marks::default();
        for party in plan.parties.iter().filter(|party| other(&party.number)) {
            marks = marks.number(&party.number);
            marks = party.phones.iter().fold(marks, |marks, phone| marks.name(&phone.mark));
        }
        if plan.known.as_deref().is_none_or(other) && party.is_some() || matches!(phone.role, Role::Caller(_))
        {
            let is_other = plan.known.as_deref().is_none_or(other);
            marks =
                plan.gateways.iter().filter(|_| is_other).fold(marks, |marks, phone| marks.name(&phone.mark));
        }
        if own.is_some() {
            // Who stands behind the gateways is nobody in particular, and may be any of these.
            for session in &plan.sessions {
                for party in [&session.first_party, &session.second_party].into_iter().flatten() {
                    let number = format!("+{}", party.digits());
                    marks = if other(&number) { marks.number(party.digits()) } else { marks };
                }
            }
        }
        if matches!(phone.role, Role::Caller(_)) {
            marks = marks.host("192.0.2.");
            marks.ids = self.service.judge.ids_of_callees();
        } else {
            for caller in plan.callers.iter().filter(|caller| other(&caller.number)) {
                marks = marks.name(&caller.mark).number(&caller.number);
            }
            marks = marks.host("198.51.100.").host("anonymous");
            let placed_first = phone.party == Some(0) && plan.placed.is_some();
            marks.ids = match placed_first {
                true => self.service.judge.ids_of_callees(),
                false => self.service.judge.ids_of_callers(),
            };
        }
        let mut findings = vec![];
        for (_, wire) in &phone.seen {
            let text = String::from_utf8_lossy(wire);
            let first = text.lines().next().unwrap_or_default();
            let all = marks.numbers.iter().chain(&marks.names).chain(&marks.hosts).chain(&marks.ids);
            for mark in all.filter(|mark| mark.len() >= 4 && text.contains(mark.as_str())) {
                findings.push(format!("{} is told {mark} in {first}", phone.name));
            }
            if plan.seed.is_multiple_of(THOROUGH) {
                for finding in leak::find(wire, &marks) {
                    findings.push(format!("{} is told {finding} in {first}", phone.name));
                }
            }
        }
        for finding in findings {
            self.service.judge.fault(finding);
        }
    }

    /// What went wrong; empty when nothing did.
    pub fn faults(&self) -> &[String] {
        &self.service.judge.faults
    }

    /// The record of the one call.
    pub fn cdr(&self) -> &Cdr {
        self.service.judge.cdr()
    }

    pub fn outcome(&self) -> &Outcome {
        &self.service.judge.outcome
    }

    /// Everything that happened, in order.
    pub fn ladder(&self) -> String {
        let mut text = String::new();
        for (at, line) in &self.service.judge.notes {
            if !line.is_empty() {
                let _ = writeln!(text, "{:>10.3} {line}", at.as_secs_f64());
            }
        }
        for phone in &self.phones {
            let _ = writeln!(text, "{} ended: {:?}", phone.name, phone.ends());
        }
        text
    }

    /// What a phone received, by its name: status and method of a response, method of a request.
    pub fn received(&self, name: &str) -> Vec<String> {
        self.messages(name).iter().map(label).collect()
    }

    /// The same with the time since the beginning.
    pub fn received_at(&self, name: &str) -> Vec<(Duration, String)> {
        let phone = self.phones.iter().find(|phone| phone.name == name);
        let messages = phone.into_iter().flat_map(|phone| &phone.seen);
        let read = |(at, wire): &(Instant, Bytes)| Some((*at - self.start, label(&Message::read(wire)?)));
        messages.filter_map(read).collect()
    }

    /// Every message that a phone received.
    pub fn messages(&self, name: &str) -> Vec<Message> {
        let phone = self.phones.iter().find(|phone| phone.name == name);
        phone.into_iter().flat_map(|phone| &phone.seen).filter_map(|(_, wire)| Message::read(wire)).collect()
    }

    /// When a phone received that for the first time.
    pub fn first(&self, name: &str, what: &str) -> Option<Duration> {
        self.received_at(name).into_iter().find(|(_, label)| label == what).map(|(at, _)| at)
    }

    /// How a phone's calls ended.
    pub fn ends(&self, name: &str) -> Vec<Option<End>> {
        self.phones.iter().find(|phone| phone.name == name).map(Phone::ends).unwrap_or_default()
    }
}

fn label(message: &Message) -> String {
    match (message.method(), message.status()) {
        (Some(method), _) => method.to_owned(),
        (_, status) => format!("{} {}", status.unwrap_or(0), message.cseq().1),
    }
}
