//! What must be true of every call, whatever phones, network, store and media do. Looks at what the machine is
//! told and at what it wants done; knows nothing of its states.

use super::phone::CallerPlan;
use super::plan::{Plan, caller_address, gateway_address, s};
use bytes::Bytes;
use maskline::call::{Action, Call, Event, Found};
use maskline::number::E164;
use maskline::sip::transport::{ConnectionId, Protocol};
use maskline::store::{Cdr, NoSession};
use media::{MediaCommand, Side};
use sip_tests::message::{self, Message};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// 64·T1: so long a transaction lives at least.
const TRANSACTION: Duration = s(32);
/// Everything that lingers after a call ends within this time.
const LINGERING: Duration = s(75);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ports {
    Never,
    Bound,
    Freed,
}

/// One leg of ours, by its Call-ID.
#[derive(Debug)]
struct Callee {
    call_id: String,
    /// The A-leg of a call that the API has placed; else a B-leg.
    first: bool,
    tag: String,
    branch: String,
    sent_at: Instant,
    provisional: bool,
    final_at: Option<Instant>,
}

/// What was seen of one call.
#[derive(Debug)]
struct Track {
    /// `None`: the API has placed the call.
    caller: Option<SocketAddr>,
    call_id: String,
    /// With whom the caller talked last, as he was told by the store.
    partner: Option<E164>,
    opened: Instant,
    /// When a message of the call came last.
    heard: Instant,
    ended: Option<Instant>,
    finished: Option<Instant>,
    ports: Ports,
    connected: bool,
    recording: bool,
    collecting: bool,
    bridged: bool,
    answered: [bool; 2],
    legs: Vec<(u128, Side)>,
    cdrs: Vec<Cdr>,
    branch: Option<String>,
    tag: Option<String>,
    sdp: Option<Vec<u8>>,
    finals: BTreeMap<String, u16>,
    callees: Vec<Callee>,
    /// Call-ID and To tag of a 2xx that must be acknowledged now.
    unacknowledged: Option<(String, String)>,
    /// Somebody wants session timers.
    refreshes: bool,
    /// The caller was told by a response that he must acknowledge.
    reliable: bool,
}

/// What one run came to.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    pub calls: usize,
    pub bridged: usize,
    pub recorded: usize,
    pub late_answers: usize,
    pub failovers: usize,
    /// B-legs to whoever the known party of a single-party session talked with last.
    pub call_backs: usize,
    /// Final answers to callers.
    pub finals: BTreeSet<u16>,
    pub causes: BTreeSet<&'static str>,
}

pub struct Judge {
    plan: Arc<Plan>,
    start: Instant,
    pub verbose: bool,
    /// What went wrong.
    pub faults: Vec<String>,
    /// What happened, when somebody wants to know.
    pub notes: Vec<(Duration, String)>,
    tracks: Vec<Track>,
    pub outcome: Outcome,
    /// Call-ID of a leg whose end was told to its phone, or tried to.
    pub ending_sent: BTreeSet<String>,
    /// Call-IDs of B-legs of which nothing was ever heard.
    pub heard: BTreeSet<String>,
    now: Instant,
}

impl Judge {
    pub fn new(plan: Arc<Plan>, start: Instant, verbose: bool) -> Self {
        Self {
            plan,
            start,
            verbose,
            faults: vec![],
            notes: vec![],
            tracks: vec![],
            outcome: Outcome::default(),
            ending_sent: BTreeSet::new(),
            heard: BTreeSet::new(),
            now: start,
        }
    }

    pub fn fault(&mut self, fault: String) {
        let at = self.now - self.start;
        self.note(self.now, || format!("    !!! {fault}"));
        self.faults.push(format!("{:.3} s: {fault}", at.as_secs_f64()));
    }

    /// How often this was noted.
    pub fn noted(&self, what: &str) -> usize {
        self.notes.iter().filter(|(_, note)| note.contains(what)).count()
    }

    pub fn note(&mut self, now: Instant, text: impl FnOnce() -> String) {
        if self.verbose {
            self.notes.push((now - self.start, text()));
        }
    }

    /// A call begins: `caller` is the address and Call-ID of its INVITE.
    pub fn opened(&mut self, call: usize, caller: Option<(SocketAddr, &str)>, now: Instant) {
        self.now = now;
        let (caller, call_id) = caller.unzip();
        self.note(now, || format!("    call {call} begins"));
        self.outcome.calls += 1;
        self.tracks.push(Track {
            caller,
            call_id: call_id.unwrap_or_default().to_owned(),
            partner: None,
            opened: now,
            heard: now,
            ended: None,
            finished: None,
            ports: Ports::Never,
            connected: false,
            recording: false,
            collecting: false,
            bridged: false,
            answered: [false; 2],
            legs: vec![],
            cdrs: vec![],
            branch: None,
            tag: None,
            sdp: None,
            finals: BTreeMap::new(),
            callees: vec![],
            unacknowledged: None,
            refreshes: self.plan.has_timers(),
            reliable: false,
        });
    }

    /// What the store knows.
    pub fn told(&mut self, call: usize, found: &Found) {
        if let Some(track) = self.tracks.get_mut(call) {
            track.partner = found.partner.clone();
        }
    }

    pub fn event(&mut self, call: usize, event: &Event, now: Instant) {
        self.now = now;
        self.note(now, || {
            let what = match event {
                Event::Message(..) => return String::new(),
                Event::Found(_, Ok(found)) => format!("Found, ours: {}", found.route.is_some()),
                other => format!("{other:?}"),
            };
            format!("    call {call} ◀ {what}")
        });
    }

    /// A message for the call has arrived.
    pub fn received(&mut self, call: usize, wire: &Bytes, now: Instant) {
        self.now = now;
        if let Some(track) = self.tracks.get_mut(call) {
            track.heard = now;
        }
        let Some(message) = Message::read(wire) else { return };
        let Some(status) = message.status() else { return };
        let Some(track) = self.tracks.get_mut(call) else { return };
        let of_leg = |callee: &&mut Callee| callee.call_id == message.call_id();
        let Some(callee) = track.callees.iter_mut().find(of_leg) else { return };
        if message.cseq().1 != "INVITE" || message.branch() != Some(callee.branch.as_str()) {
            return;
        }
        self.heard.insert(callee.call_id.clone());
        // RFC 3261 §17.1.1: the transaction may be over, then nothing knows the response any more.
        let over = match (callee.final_at, callee.provisional) {
            (Some(at), _) => at + TRANSACTION <= now,
            (None, false) => callee.sent_at + TRANSACTION <= now,
            (None, true) => false,
        };
        if status < 200 {
            callee.provisional = true;
            return;
        }
        callee.final_at.get_or_insert(now);
        if (200..300).contains(&status) {
            if track.ended.is_some() {
                self.outcome.late_answers += 1;
            }
            if let Some(answered) = track.answered.get_mut(usize::from(!callee.first)) {
                *answered = true;
            }
            let tag = message.to_tag().unwrap_or_default().to_owned();
            if !over {
                track.unacknowledged = Some((message.call_id().to_owned(), tag));
            }
        }
    }

    /// All that one event led to.
    pub fn actions(&mut self, call: usize, actions: &[Action], now: Instant) {
        self.now = now;
        let Some(track) = self.tracks.get_mut(call) else { return };
        let Some((call_id, tag)) = track.unacknowledged.take() else { return };
        let acknowledged = actions.iter().any(|action| match action {
            Action::Send { wire, .. } if wire.starts_with(b"ACK ") => Message::read(wire)
                .is_some_and(|ack| ack.call_id() == call_id && ack.to_tag() == Some(tag.as_str())),
            _ => false,
        });
        if !acknowledged {
            self.fault(format!("call {call}: a 2xx with tag {tag} gets no ACK"));
        }
    }

    pub fn action(&mut self, call: usize, action: &Action, now: Instant) {
        self.now = now;
        if let Action::Send { wire, to } = action {
            return self.on_send(call, wire, to.address(), (to.protocol, to.connection), now);
        }
        self.note(now, || {
            let what = match action {
                Action::CloseCall(cdr) => format!(
                    "CloseCall {:?}",
                    cdr.legs.iter().map(|leg| (leg.opened.side, leg.hangup_cause_name)).collect::<Vec<_>>()
                ),
                Action::LegOpened(leg) => format!("LegOpened {:?} {}", leg.side, leg.attempt),
                other => format!("{other:?}"),
            };
            format!("    call {call} ▶ {what}")
        });
        let Some(track) = self.tracks.get_mut(call) else { return };
        let mut wrong = None;
        match action {
            Action::OpenMedia { .. } if track.ports != Ports::Never => wrong = Some("media is opened twice"),
            Action::Media(_) if track.ports != Ports::Bound => {
                wrong = Some("a media command without open media, or after Close");
            }
            Action::Media(MediaCommand::CollectDigits { on, .. }) => track.collecting = *on,
            Action::Media(MediaCommand::Bridge) if track.connected || track.collecting => {
                wrong = Some("Bridge twice or in the PIN stage");
            }
            Action::Media(MediaCommand::Bridge) => track.connected = true,
            Action::Media(MediaCommand::SendDigit { .. }) if !track.bridged => {
                wrong = Some("a key passes before both are connected");
            }
            Action::Media(MediaCommand::Record { .. })
                if track.recording || track.collecting || track.answered != [true; 2] =>
            {
                wrong = Some("Record twice, in the PIN stage or before both legs are answered");
            }
            Action::Media(MediaCommand::Record { .. }) => {
                track.recording = true;
                self.outcome.recorded += 1;
            }
            Action::Bridged if track.bridged || track.answered != [true; 2] || track.collecting => {
                wrong = Some("bridged twice or before both legs are answered");
            }
            Action::Bridged => {
                track.bridged = true;
                self.outcome.bridged += 1;
            }
            Action::LegOpened(leg) => {
                let uuid = leg.leg.as_u128();
                let known = track.legs.contains(&(uuid, leg.side));
                // The caller's row is written again when a PIN tells whose it is.
                if (known && leg.side == Side::B)
                    || track.legs.iter().any(|(other, side)| *other == uuid && *side != leg.side)
                {
                    wrong = Some("a leg's uuid comes twice");
                }
                if !known {
                    track.legs.push((uuid, leg.side));
                }
                if leg.attempt > 1 {
                    self.outcome.failovers += 1;
                }
            }
            Action::LegAnswered(leg, _) if !track.legs.iter().any(|(known, _)| *known == leg.as_u128()) => {
                wrong = Some("a leg is answered that was never opened");
            }
            Action::CloseCall(cdr) => {
                track.cdrs.push((**cdr).clone());
                wrong = self.on_cdr(call, cdr);
            }
            _ => {}
        }
        if let Some(wrong) = wrong {
            self.fault(format!("call {call}: {wrong}: {action:?}"));
        }
    }

    fn on_cdr(&mut self, call: usize, cdr: &Cdr) -> Option<&'static str> {
        let track = self.tracks.get(call)?;
        let troubled = self.plan.media.no_port
            || self.plan.media.open_delay >= s(5)
            || self.plan.look_ups.iter().any(|look_up| match look_up {
                super::plan::LookUp::Found(delay) => *delay >= s(5),
                _ => true,
            });
        self.outcome.causes.extend(cdr.legs.iter().map(|leg| leg.hangup_cause_name));
        let rows: Vec<_> = cdr.legs.iter().map(|leg| (leg.opened.leg.as_u128(), leg.opened.side)).collect();
        if track.ended.is_some() && track.cdrs.len() != 1 {
            return Some("more than one CDR");
        }
        // A call that ends before its look-up has an answer, or before its first INVITE, is told of by its CDR alone.
        let looked_up =
            self.plan.look_ups.iter().all(|look_up| matches!(look_up, super::plan::LookUp::Found(_)));
        let dialled = |caller: &CallerPlan| caller.dial == super::plan::DID;
        if looked_up && !troubled && self.plan.callers.iter().all(dialled) && !has_account(cdr) {
            return Some("a record that belongs to nobody");
        }
        let callers = rows.iter().filter(|(_, side)| *side == Side::A).count();
        let attempts = if track.caller.is_none() { self.plan.gateways.len() } else { 1 };
        let never_opened = rows.len() == 1 && track.legs.is_empty();
        if !(1..=attempts).contains(&callers) || (rows != track.legs && !never_opened) {
            return Some("not one row for each leg");
        }
        if cdr.legs.iter().any(|leg| leg.hangup_cause_name.is_empty() || leg.hangup_source.is_empty()) {
            return Some("a leg without a cause");
        }
        // Too many may have waited for their turn.
        let troubled = troubled || self.plan.calls_per_second.is_some();
        if !troubled && cdr.legs.iter().any(|leg| leg.hangup_cause_name == "Internal Error") {
            return Some("an internal error without a reason");
        }
        if cdr.legs.iter().any(|leg| {
            leg.ended_at < leg.opened.started_at || leg.answered_at.is_some_and(|at| at > leg.ended_at)
        }) {
            return Some("times that run backwards");
        }
        let answered = |side| cdr.legs.iter().any(|leg| leg.opened.side == side && leg.answered_at.is_some());
        if track.bridged && !(answered(Side::A) && answered(Side::B)) {
            return Some("a bridged call with a leg that was not answered");
        }
        None
    }

    fn on_send(
        &mut self,
        call: usize,
        wire: &Bytes,
        to: Option<SocketAddr>,
        (protocol, connection): (Protocol, Option<ConnectionId>),
        now: Instant,
    ) {
        let Some(message) = Message::read(wire) else {
            return self.fault(format!("call {call}: sends what is no SIP message"));
        };
        let Some(track) = self.tracks.get_mut(call) else { return };
        let toward_caller = message.call_id() == track.call_id;
        let method = message.method().unwrap_or_default();
        let wrong = if toward_caller {
            let tcp = self.plan.callers.iter().any(|caller| caller.tcp);
            if to != track.caller || (protocol == Protocol::Tcp) != tcp || connection.is_some() != tcp {
                Some("goes elsewhere".to_owned())
            } else {
                to_caller(track, &message)
            }
        } else {
            let gateways = self.plan.gateways.len();
            if !(0..gateways).any(|n| to == Some(gateway_address(n))) {
                Some("goes elsewhere".to_owned())
            } else {
                to_callee(track, &message, &self.plan, now)
            }
        };
        if message.is("INVITE") && message.to_tag().is_none() && !toward_caller && wrong.is_none() {
            let stranger = self.rung_by_a_stranger(call, &message);
            stranger.into_iter().for_each(|wrong| self.fault(format!("call {call}: {wrong}")));
        }
        let failed = message.status().is_some_and(|status| status >= 300) && message.cseq().1 == "INVITE";
        if matches!(method, "BYE" | "CANCEL") || failed {
            self.ending_sent.insert(message.call_id().to_owned());
        }
        if let Some(wrong) = wrong {
            self.fault(format!("call {call}: {}: {wrong}", message.start_line()));
        }
        let users: Vec<&str> = ["from", "to"]
            .into_iter()
            .filter_map(|name| message::user_of(message::uri_of(message.header(name)?)))
            .collect();
        let ours = |user: &&&str| {
            **user == super::plan::DID || **user == super::plan::NOT_OURS || user.starts_with("desk")
        };
        let Some(track) = self.tracks.get(call) else { return };
        let placed_first = track.callees.iter().any(|leg| leg.first && leg.call_id == message.call_id());
        let own = match (track.caller, placed_first) {
            (Some(_), _) => self.caller_of(track).map(|caller| caller.number.as_str()),
            (None, _) => self.plan.parties.first().map(|first| first.number.as_str()),
        };
        let toward_a = toward_caller || placed_first;
        let theirs = users.iter().find(|user| !ours(user));
        let of_caller = |user: &&str| (toward_caller && *user == "anonymous") || Some(*user) == own;
        if theirs.is_some_and(|user| of_caller(user) != toward_a) {
            self.fault(format!("call {call}: {}: From or To is of the other leg", message.start_line()));
        }
    }

    /// Whoever made the call.
    fn caller_of(&self, track: &Track) -> Option<&CallerPlan> {
        let n = (0..self.plan.callers.len()).find(|n| Some(caller_address(*n)) == track.caller)?;
        self.plan.callers.get(n)
    }

    /// Whom a B-leg's INVITE may be for, as far as who calls and what he types tell it.
    fn rung_by_a_stranger(&mut self, call: usize, invite: &Message) -> Option<String> {
        let track = self.tracks.get(call)?;
        let user = invite.uri().and_then(message::user_of)?.trim_start_matches('+').to_owned();
        let caller = self.caller_of(track)?;
        let number = E164::parse(&caller.number)?;
        let sessions = &self.plan.sessions;
        let own = sessions.iter().find(|session| session.role_of(&number).is_some());
        if let Some(own) = own {
            let partner = track.partner.as_ref().filter(|_| own.is_incomplete());
            let other = own.role_of(&number).and_then(|role| own.party(role.other())).or(partner);
            let right = other.is_some_and(|other| other.digits() == user);
            self.outcome.call_backs += usize::from(right && partner.is_some());
            // His session may be over, and then he is a stranger.
            let over = own.ended_at.is_some() || self.plan.delete_at.is_some();
            return (!right && !over).then(|| "the wrong one is rung".to_owned());
        }
        let anyone = sessions.iter().any(|session| session.takes_anyone());
        let fixed = matches!(self.plan.no_session, NoSession::Sip(_)) && user.starts_with("desk");
        let pins = sessions.iter().filter_map(|session| session.pin.as_ref());
        let mut pins = pins.flat_map(|pin| [pin.first_party_pin.digits(), pin.second_party_pin.digits()]);
        let typed = pins.any(|pin| caller.typing.iter().any(|typing| typing.keys.contains(pin)));
        (!anyone && !fixed && !typed).then(|| "a stranger reaches somebody".to_owned())
    }

    pub fn ports_bound(&mut self, call: usize) {
        if let Some(track) = self.tracks.get_mut(call) {
            track.ports = Ports::Bound;
        }
    }

    pub fn ports_freed(&mut self, call: usize) {
        if let Some(track) = self.tracks.get_mut(call) {
            track.ports = Ports::Freed;
        }
    }

    /// How far the call has come.
    pub fn state(&mut self, call: usize, machine: &Call, now: Instant) {
        self.now = now;
        let longest = self.longest();
        let Some(track) = self.tracks.get_mut(call) else { return };
        let mut wrong = None;
        if machine.is_live() {
            if now > track.opened + longest {
                wrong = Some("lives longer than its limits allow");
            }
        } else {
            let ended = *track.ended.get_or_insert(now);
            if machine.is_finished() && track.finished.is_none() {
                track.finished = Some(now);
                if self.verbose {
                    self.notes.push((now - self.start, format!("    call {call} is gone")));
                }
                // Cut off instead of finished: something was still waiting, and not for a peer that goes on talking.
                if now >= ended + LINGERING && now >= track.heard + TRANSACTION + s(1) {
                    wrong = Some("something lingers for ever");
                }
            }
        }
        if let Some(wrong) = wrong {
            self.fault(format!("call {call}: {wrong}"));
        }
    }

    /// Look-up, ports, ringing, the call, and a message at the end.
    fn longest(&self) -> Duration {
        let fixed = matches!(self.plan.no_session, NoSession::Sip(_)).then_some((s(45), s(14_400)));
        let play = matches!(self.plan.no_session, NoSession::Play(_)).then_some((s(0), s(0)));
        let sessions = self.plan.sessions.iter().map(|s| (s.ring_timeout, s.call_time_limit));
        let most = sessions.chain(fixed).chain(play).map(|(ring, limit)| ring + limit).max();
        most.unwrap_or_default() + s(30)
    }

    /// When all is over.
    pub fn finish(&mut self) {
        for call in 0..self.tracks.len() {
            let Some(track) = self.tracks.get(call) else { continue };
            let mut wrong = vec![];
            if track.finished.is_none() {
                wrong.push("does not end".to_owned());
            }
            if track.cdrs.len() != 1 {
                wrong.push(format!("{} CDRs", track.cdrs.len()));
            }
            if track.ports == Ports::Bound {
                wrong.push("its media is never closed".to_owned());
            }
            let last = track.branch.as_ref().and_then(|branch| track.finals.get(branch));
            match last {
                None if track.caller.is_none() => {}
                Some(status) => drop(self.outcome.finals.insert(*status)),
                None => wrong.push("its INVITE gets no final answer".to_owned()),
            }
            for wrong in wrong {
                self.fault(format!("call {call}: {wrong}"));
            }
        }
    }

    /// The record of the first call.
    pub fn cdr(&self) -> &Cdr {
        self.tracks[0].cdrs.first().unwrap()
    }

    /// What no callee may see: Call-IDs and tags of the callers' legs.
    pub fn ids_of_callers(&self) -> Vec<String> {
        let callers = self.tracks.iter().flat_map(|track| [Some(track.call_id.clone()), track.tag.clone()]);
        callers.flatten().filter(|id| !id.is_empty()).chain(self.ids_of_legs(true)).collect()
    }

    /// What no caller may see.
    pub fn ids_of_callees(&self) -> Vec<String> {
        self.ids_of_legs(false)
    }

    fn ids_of_legs(&self, first: bool) -> Vec<String> {
        let legs = self.tracks.iter().flat_map(|track| &track.callees);
        legs.filter(|leg| leg.first == first)
            .flat_map(|callee| [callee.call_id.clone(), callee.tag.clone(), callee.branch.clone()])
            .collect()
    }
}

/// What is wrong with a message to the A-leg.
fn to_caller(track: &mut Track, message: &Message) -> Option<String> {
    let Some(status) = message.status() else {
        let timers = message.is("UPDATE") || message.is("INVITE") || message.is("ACK");
        let may = message.is("BYE") || (timers && track.refreshes);
        return (!may).then(|| "no such request may go to a caller".into());
    };
    if message.cseq().1 != "INVITE" {
        return None;
    }
    let branch = message.branch().unwrap_or_default().to_owned();
    let initial = track.branch.get_or_insert(branch.clone()) == &branch;
    if status >= 200 {
        let before = *track.finals.entry(branch).or_insert(status);
        if before != status {
            return Some(format!("the INVITE has been answered {before}"));
        }
    }
    if !initial || status == 100 {
        return None;
    }
    track.reliable |= message.header("rseq").is_some();
    let tag = message.to_tag().unwrap_or_default().to_owned();
    let before = track.tag.get_or_insert(tag.clone());
    if *before != tag {
        return Some("a second To tag".into());
    }
    if let Some(sdp) = message.sdp() {
        let before = track.sdp.get_or_insert(sdp.to_vec());
        if before != sdp {
            return Some("a second SDP".into());
        }
    }
    if (200..300).contains(&status)
        && let Some(answered) = track.answered.first_mut()
    {
        *answered = true;
        // RFC 6337 §3.1.1: a reliable response may have told it.
        if message.sdp().is_none() && !(track.reliable && track.sdp.is_some()) {
            return Some("a 200 without SDP".into());
        }
    }
    None
}

fn has_account(cdr: &Cdr) -> bool {
    cdr.legs.iter().all(|leg| leg.opened.account.is_some())
}

/// What is wrong with a message to a leg of ours.
fn to_callee(track: &mut Track, message: &Message, plan: &Plan, now: Instant) -> Option<String> {
    let method = message.method()?;
    let branch = message.branch().unwrap_or_default();
    let known = track.callees.iter_mut().find(|callee| callee.call_id == message.call_id());
    match (method, known) {
        ("INVITE", None) => {
            let user = message.uri().and_then(message::user_of);
            let is_first = plan.parties.first().is_some_and(|first| user == Some(&first.number));
            let first = track.caller.is_none() && is_first;
            track.callees.push(Callee {
                call_id: message.call_id().to_owned(),
                first,
                tag: message.from_tag().unwrap_or_default().to_owned(),
                branch: branch.to_owned(),
                sent_at: now,
                provisional: false,
                final_at: None,
            });
            if track.ended.is_some() {
                return Some("a leg begins after the call's end".into());
            }
            if track.caller.is_none() && !first && track.answered != [true, false] {
                return Some("the second party is rung before the first one has answered".into());
            }
            (first && track.answered != [false, false]).then(|| "the first party is rung again".into())
        }
        ("INVITE" | "UPDATE" | "ACK", Some(_)) if message.to_tag().is_some() && track.refreshes => None,
        ("PRACK", Some(_)) => None,
        ("INVITE", Some(_)) if message.to_tag().is_some() => Some("no re-INVITE may go to a callee".into()),
        ("INVITE", Some(callee)) => {
            if callee.branch != branch {
                branch.clone_into(&mut callee.branch);
                callee.sent_at = now;
            }
            None
        }
        (_, None) => Some("belongs to no leg of ours".into()),
        ("CANCEL", Some(callee)) if !callee.provisional => Some("before any provisional response".into()),
        ("CANCEL", Some(callee)) if callee.branch != branch => Some("not the INVITE's branch".into()),
        ("ACK" | "BYE" | "CANCEL", Some(_)) => None,
        _ => Some("no such request may go to a callee".into()),
    }
}
