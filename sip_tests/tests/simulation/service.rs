//! The shell of the simulation: what `call::task`, `call::dispatch` and `call::registry` are in service, without
//! tasks, sockets and files. It performs actions and brings events; what it sees on the way is judged by
//! [`super::judge`].

use super::judge::Judge;
use super::phone::Deed;
use super::plan::{LookUp, Plan, epoch_plus, gateway_address};
use bytes::Bytes;
use maskline::call::cdr::{ClockPair, HangupCause};
use maskline::call::identity::{self, LegAddress};
use maskline::call::leg::response_hop;
use maskline::call::machine::CallParameters;
use maskline::call::{Action, Call, Event, Found, Hop, NoPort, Outlet, Place, StoreFailed};
use maskline::ids::IdSource;
use maskline::masking::route::Query;
use maskline::masking::session::MaskingSession;
use maskline::number::E164;
use maskline::prompts::PromptLibrary;
use maskline::sip::encode::HeaderOut;
use maskline::sip::key::{DialogKey, TransactionKey};
use maskline::sip::message::{Message, Method, Request};
use maskline::sip::transport::{ConnectionId, Flow, Protocol, SendFault};
use maskline::sip::wire::ByteStr;
use maskline::store::{Cdr, Route, VirtualNumber};
use maskline::trunk::resolve::Target;
use maskline::trunk::{CallerFrom, RateLimit, Transport, Trunk};
use media::{CallStatistics, Codec, Digit, LegRecording, MediaCommand, MediaEvent, PlayMode};
use media::{RecordingReport, Side};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What the shell waits for.
#[derive(Debug)]
enum Pending {
    Event(Event),
    /// The API places the call.
    Place,
    /// A key on the caller's phone.
    Key(Digit),
    /// The end of a prompt, unless another one plays by then.
    Played(Side, u64),
    Silence,
}

/// Something for the network.
#[derive(Debug, Clone)]
pub struct Outgoing {
    pub to: SocketAddr,
    pub protocol: Protocol,
    pub wire: Bytes,
}

/// Something that a phone's owner does because of what the service does.
#[derive(Debug, Clone)]
pub enum Prompted {
    /// The caller at this address.
    Caller(SocketAddr, Instant, Deed),
    /// The phones behind the gateway at this address.
    Callee(SocketAddr, Instant, Deed),
    /// The first party of a call that the API has placed.
    First(Instant, Deed),
}

/// One call and what its task would hold.
struct Running {
    call: Option<Call>,
    /// `None`: the API has placed the call.
    caller: Option<SocketAddr>,
    dialogs: Vec<DialogKey>,
    invite: Option<(TransactionKey, Merge)>,
    media: MediaModel,
    prompts_heard: usize,
}

#[derive(Debug, Default)]
struct MediaModel {
    open: bool,
    collecting: bool,
    recording: Option<PathBuf>,
    playing: BTreeMap<Side, u64>,
}

type Merge = (ByteStr, Option<ByteStr>, u32);

/// The whole service.
pub struct Service {
    pub plan: Arc<Plan>,
    pub judge: Judge,
    /// For the network.
    pub out: Vec<Outgoing>,
    /// For the phones.
    pub prompted: Vec<Prompted>,
    start: Instant,
    address: SocketAddr,
    prompts: PromptLibrary,
    trunk_in: Arc<Trunk>,
    trunk_out: Arc<Trunk>,
    pace: Option<RateLimit>,
    ids: IdSource,
    calls: Vec<Running>,
    dialogs: BTreeMap<DialogKey, usize>,
    invites: HashMap<TransactionKey, usize>,
    merges: BTreeSet<Merge>,
    agenda: BTreeMap<(Instant, u64), (usize, Pending)>,
    number: u64,
    look_ups: usize,
    next_port: u16,
    /// Who talked last in each session, by its uuid: the caller and the callee.
    talks: HashMap<u128, [Option<E164>; 2]>,
}

fn trunk(name: &str, network: &str, early_media: bool, plan: &Plan) -> Arc<Trunk> {
    Arc::new(Trunk {
        allow: vec![network.parse().unwrap()],
        caller_from: vec![CallerFrom::PAssertedIdentity, CallerFrom::From],
        codecs: vec![Codec::Pcma, Codec::Pcmu],
        early_media,
        prack: plan.prack,
        session_timer: plan.session_timer,
        max_calls_per_second: plan.calls_per_second,
        ..Trunk::named(name)
    })
}

impl Service {
    pub fn new(plan: Arc<Plan>, prompts: PromptLibrary, start: Instant, verbose: bool) -> Self {
        let mut service = Self {
            judge: Judge::new(Arc::clone(&plan), start, verbose),
            out: vec![],
            prompted: vec![],
            start,
            address: super::plan::SERVICE.parse().unwrap(),
            prompts,
            trunk_in: trunk("carrier-in", "198.51.100.0/24", true, &plan),
            trunk_out: trunk("carrier-out", "192.0.2.0/24", plan.early_media, &plan),
            pace: plan.calls_per_second.map(RateLimit::per_second),
            ids: IdSource::from_seed(plan.seed ^ 0x6964_7321),
            calls: vec![],
            dialogs: BTreeMap::new(),
            invites: HashMap::new(),
            merges: BTreeSet::new(),
            agenda: BTreeMap::new(),
            number: 0,
            look_ups: 0,
            next_port: 16_384,
            talks: HashMap::new(),
            plan,
        };
        if let Some(at) = service.plan.hang_up_at {
            for n in 0..service.plan.callers.len() + usize::from(service.plan.placed.is_some()) {
                service.later(start + at, n, Pending::Event(Event::HangUp(HangupCause::Scheduled)));
            }
        }
        if let Some(at) = service.plan.placed.as_ref().map(|placed| placed.at) {
            service.later(start + at, usize::MAX, Pending::Place);
        }
        service
    }

    fn later(&mut self, at: Instant, call: usize, pending: Pending) {
        self.number += 1;
        self.agenda.insert((at, self.number), (call, pending));
    }

    pub fn deadline(&self) -> Option<Instant> {
        let calls = self.calls.iter().filter_map(|running| running.call.as_ref()?.deadline());
        self.agenda.keys().next().map(|(at, _)| *at).into_iter().chain(calls).min()
    }

    /// True when no call is left, nor any key of one.
    pub fn is_empty(&self) -> bool {
        self.calls.iter().all(|running| running.call.is_none())
            && self.dialogs.is_empty()
            && self.invites.is_empty()
            && self.merges.is_empty()
    }

    fn wall<T: Default + std::ops::Add<Duration, Output = T>>(&self, now: Instant) -> T {
        epoch_plus(now - self.start)
    }

    /// Does what is due.
    pub fn timeout(&mut self, now: Instant) {
        while let Some(entry) = self.agenda.first_entry().filter(|entry| entry.key().0 <= now) {
            let (call, pending) = entry.remove();
            if matches!(pending, Pending::Place) {
                self.place(now);
                continue;
            }
            let Some(running) = self.calls.get_mut(call) else { continue };
            let event = match pending {
                Pending::Event(event) => event,
                Pending::Key(digit) if running.media.collecting => {
                    Event::Media(Box::new(MediaEvent::Digit { side: Side::A, digit }))
                }
                Pending::Played(side, number) if running.media.playing.get(&side) == Some(&number) => {
                    running.media.playing.remove(&side);
                    Event::Media(Box::new(MediaEvent::PlayFinished { side }))
                }
                Pending::Silence if running.media.open => Event::Media(Box::new(MediaEvent::Silence)),
                Pending::Key(_) | Pending::Played(..) | Pending::Silence | Pending::Place => continue,
            };
            self.feed(call, event, now);
        }
        for call in 0..self.calls.len() {
            let due = |running: &Running| {
                running.call.as_ref().and_then(Call::deadline).is_some_and(|at| at <= now)
            };
            if due(&self.calls[call]) {
                self.feed(call, Event::Timeout, now);
                if due(&self.calls[call]) {
                    self.judge.fault("after Timeout the deadline does not lie after now".into());
                    self.drop_call(call);
                }
            }
        }
    }

    /// A message has arrived: the same way as `Dispatcher::route` takes.
    pub fn receive(&mut self, wire: &Bytes, from: SocketAddr, protocol: Protocol, now: Instant) {
        let connection = (protocol != Protocol::Udp).then(|| ConnectionId::new(protocol, 7));
        let flow = Flow { protocol, local: self.address, peer: from, connection };
        let message = match Message::parse(wire.clone()) {
            Ok(message) => message,
            Err(error) => return self.judge.fault(format!("a phone's message cannot be read: {error}")),
        };
        let known = match &message {
            Message::Response(response) => {
                DialogKey::of_response(response).and_then(|key| self.dialogs.get(&key))
            }
            Message::Request(request) if request.method == Method::CANCEL => {
                self.invites.get(&TransactionKey::of_invite(request))
            }
            Message::Request(request) => match DialogKey::of_request(request) {
                Some(key) => self.dialogs.get(&key),
                None if request.method == Method::INVITE || request.method == Method::ACK => {
                    self.invites.get(&TransactionKey::of_invite(request))
                }
                None => None,
            },
        }
        .copied();
        match (known, message) {
            (Some(call), message) => {
                self.judge.received(call, wire, now);
                self.feed(call, Event::Message(Box::new((message, flow))), now);
            }
            (None, Message::Response(_)) => {}
            (None, Message::Request(request)) => self.answer(&request, &flow, now),
        }
    }

    fn answer(&mut self, request: &Request, flow: &Flow, now: Instant) {
        let in_dialog = request.head.to.tag().is_some();
        let status = match &request.method {
            method if *method == Method::ACK => return,
            method if *method == Method::CANCEL => 481,
            _ if in_dialog => 481,
            method if *method == Method::INVITE => {
                if self.merges.contains(&merge_key(request)) {
                    482
                } else {
                    return self.new_call(request, flow, now);
                }
            }
            method if *method == Method::OPTIONS => 200,
            _ => 405,
        };
        self.reply(request, flow, status, vec![]);
    }

    fn reply(&mut self, request: &Request, flow: &Flow, status: u16, headers: Vec<HeaderOut>) {
        let mut response = identity::response(&request.response_head(flow.peer), status, Some("stateless"));
        response.headers.extend(headers);
        let to = response_hop(request, flow);
        self.send(response.encode(), &to);
    }

    fn leg_address(&mut self, protocol: Protocol) -> LegAddress {
        LegAddress {
            protocol,
            sip: self.address,
            media: self.address.ip(),
            bind: self.address.ip(),
            contact_user: self.ids.contact_user(),
            sips: false,
        }
    }

    fn new_call(&mut self, invite: &Request, flow: &Flow, now: Instant) {
        let address = self.leg_address(flow.protocol);
        let parameters = self.parameters(Arc::clone(&self.trunk_in), now);
        let made = catch_unwind(AssertUnwindSafe(|| Call::offered(invite, flow, address, parameters, now)));
        let Ok(made) = made else { return self.judge.fault("panic in Call::offered".into()) };
        let (call, actions) = match made {
            Ok(made) => made,
            Err(refusal) => return self.reply(invite, flow, refusal.status, refusal.headers),
        };
        let index = self.calls.len();
        let (key, merge) = (TransactionKey::of_invite(invite), merge_key(invite));
        self.invites.insert(key.clone(), index);
        self.merges.insert(merge.clone());
        self.judge.opened(index, Some((flow.peer, &invite.head.call_id)), now);
        self.begin(call, Some(flow.peer), Some((key, merge)), actions, now);
    }

    /// What `Shell::initiate` does.
    fn place(&mut self, now: Instant) {
        let session = Arc::new(self.plan.sessions[0].clone());
        let (dialled, caller) = (session.virtual_number.clone(), session.first_party.clone());
        let found = self.found(&Query { dialled, caller }, now);
        if !found.route.is_some_and(|route| route.sessions.iter().any(|found| found.uuid == session.uuid)) {
            return;
        }
        let parameters = self.parameters(Arc::clone(&self.trunk_out), now);
        let outlets = found.outlets;
        let made = catch_unwind(AssertUnwindSafe(|| Call::initiated(&session, outlets, parameters, now)));
        let Ok((call, actions)) = made else { return self.judge.fault("panic in Call::initiated".into()) };
        self.judge.opened(self.calls.len(), None, now);
        self.begin(call, None, None, actions, now);
    }

    fn parameters(&self, trunk: Arc<Trunk>, now: Instant) -> CallParameters {
        CallParameters {
            trunk,
            ids: IdSource::from_seed(self.plan.seed ^ (self.calls.len() as u64 + 1) << 40),
            prompts: self.prompts.clone(),
            clock: ClockPair { instant: now, wall: self.wall(now) },
            recordings: PathBuf::from("/recordings"),
        }
    }

    fn begin(
        &mut self,
        call: Call,
        caller: Option<SocketAddr>,
        invite: Option<(TransactionKey, Merge)>,
        actions: Vec<Action>,
        now: Instant,
    ) {
        let index = self.calls.len();
        let media = MediaModel::default();
        let call = Some(call);
        self.calls.push(Running { call, caller, dialogs: vec![], invite, media, prompts_heard: 0 });
        self.perform(index, actions, now);
        self.after(index, now);
    }

    /// Gives the call one event, and those that its actions bring about at once.
    fn feed(&mut self, index: usize, event: Event, now: Instant) {
        let Some(call) = self.calls.get_mut(index).and_then(|running| running.call.as_mut()) else { return };
        self.judge.event(index, &event, now);
        let Ok(actions) = catch_unwind(AssertUnwindSafe(|| call.handle(event, now))) else {
            self.judge.fault(format!("panic in call {index}"));
            return self.drop_call(index);
        };
        self.judge.actions(index, &actions, now);
        self.perform(index, actions, now);
        self.after(index, now);
    }

    fn after(&mut self, index: usize, now: Instant) {
        let Some(call) = self.calls.get(index).and_then(|running| running.call.as_ref()) else { return };
        self.judge.state(index, call, now);
        if call.is_finished() {
            if call.deadline().is_some() {
                self.judge.fault("a finished call waits".into());
            }
            self.drop_call(index);
        }
    }

    fn drop_call(&mut self, index: usize) {
        let Some(running) = self.calls.get_mut(index) else { return };
        running.call = None;
        for key in running.dialogs.drain(..) {
            self.dialogs.remove(&key);
        }
        if let Some((invite, merge)) = &running.invite {
            self.invites.remove(invite);
            self.merges.remove(merge);
        }
        // Ports that the call never heard of: in service its task lets go of them.
        let unheard = |pending: &Pending| matches!(pending, Pending::Event(Event::MediaOpened(Ok(_))));
        if self.agenda.values().any(|(call, pending)| *call == index && unheard(pending)) {
            self.judge.ports_freed(index);
        }
        self.agenda.retain(|_, (call, _)| *call != index);
    }

    fn perform(&mut self, index: usize, actions: Vec<Action>, now: Instant) {
        for action in actions {
            self.judge.action(index, &action, now);
            match action {
                Action::Send { wire, to } => {
                    let by_new_connection = to.protocol == Protocol::Tcp && to.connection.is_none();
                    if let Some(after) = self.plan.tcp_fails.filter(|_| by_new_connection) {
                        let Some(token) = to.token else { continue };
                        let event = Event::SendFailed(token.branch, SendFault::NotSent);
                        self.later(now + after, index, Pending::Event(event));
                    } else {
                        self.send(wire, &to);
                    }
                }
                Action::FindSession(look_up, query, _) => self.find(index, look_up, &query, now),
                Action::Index(key) => {
                    self.dialogs.insert(key.clone(), index);
                    self.calls[index].dialogs.push(key);
                }
                Action::OpenMedia { .. } => self.open_media(index, now),
                Action::Media(command) => self.media(index, command, now),
                Action::LegOpened(_)
                | Action::LegAnswered(..)
                | Action::Happened(_)
                | Action::ForgiveGuess(_)
                | Action::Unauthorized { .. }
                | Action::Learned(_) => {}
                Action::Pace(..) => {
                    let turn = self
                        .pace
                        .as_mut()
                        .map_or(Some(Duration::ZERO), |pace| pace.reserve(now, self.plan.longest_queue));
                    let event = Event::Paced(turn.is_some());
                    self.later(now + turn.unwrap_or_default(), index, Pending::Event(event));
                }
                Action::FileRecording(..) => {
                    let at = now + self.plan.media.filing_delay;
                    self.later(at, index, Pending::Event(Event::RecordingFiled));
                }
                Action::CloseCall(cdr) => {
                    self.remember_talk(&cdr);
                    if let Some(delay) = self.plan.media.cdr_delay {
                        self.later(now + delay, index, Pending::Event(Event::CdrStored));
                    }
                }
                Action::Bridged => {
                    let Some(after) = self.plan.both_hang_up_after else { continue };
                    match self.calls[index].caller {
                        Some(caller) => self.prompted.push(Prompted::Caller(caller, now + after, Deed::Bye)),
                        None => self.prompted.push(Prompted::First(now + after, Deed::Bye)),
                    }
                    for n in 0..self.plan.gateways.len() {
                        self.prompted.push(Prompted::Callee(gateway_address(n), now + after, Deed::Bye));
                    }
                }
            }
        }
    }

    fn send(&mut self, wire: Bytes, to: &Hop) {
        match to.place {
            Place::Address(address) => {
                self.out.push(Outgoing { to: address, protocol: to.protocol, wire });
            }
            Place::Name(..) => self.judge.fault("a message goes to a name".into()),
        }
    }

    /// What the store would find of it later.
    fn remember_talk(&mut self, cdr: &Cdr) {
        let answered =
            |side| cdr.legs.iter().find(|leg| leg.opened.side == side && leg.answered_at.is_some()).cloned();
        if let (Some(session), Some(a), Some(b)) = (cdr.session, answered(Side::A), answered(Side::B)) {
            self.talks.insert(session.as_u128(), [a.opened.party, b.opened.party]);
        }
    }

    /// As `Store::last_partner` knows it.
    fn partner(&self, query: &Query, sessions: &[MaskingSession]) -> Option<E164> {
        let known = query.caller.as_ref()?;
        let own = sessions.iter().find(|session| session.role_of(known).is_some())?;
        let [caller, callee] = self.talks.get(&own.uuid.as_u128()).filter(|_| own.is_incomplete())?.clone();
        if caller.as_ref() == Some(known) { callee } else { caller }
    }

    fn find(&mut self, index: usize, id: maskline::call::LookUp, query: &Query, now: Instant) {
        let ordinary = LookUp::Found(Duration::from_millis(5));
        let look_up = self.plan.look_ups.get(self.look_ups).copied().unwrap_or(ordinary);
        self.look_ups += 1;
        let (delay, found) = match look_up {
            LookUp::Never => return,
            LookUp::Fails(delay) => (delay, Err(StoreFailed)),
            LookUp::Found(delay) => (delay, Ok(Box::new(self.found(query, now + delay)))),
        };
        if let Ok(found) = &found {
            self.judge.told(index, found);
        }
        self.later(now + delay, index, Pending::Event(Event::Found(id, found)));
    }

    /// What `Store::find_route` would find at that moment, and where the gateways are.
    fn found(&mut self, query: &Query, at: Instant) -> Found {
        let mut outlets = vec![];
        for n in 0..self.plan.gateways.len() {
            let gateway = gateway_address(n);
            let tcp = self.plan.gateways[n].tcp;
            let protocol = if tcp { Protocol::Tcp } else { Protocol::Udp };
            outlets.push(Outlet {
                trunk: Arc::clone(&self.trunk_out),
                hop: Hop {
                    protocol,
                    place: Place::Address(gateway),
                    connection: None,
                    local: None,
                    pinned: self.plan.pinned || tcp,
                    name: None,
                    token: None,
                },
                host: gateway.to_string(),
                address: self.leg_address(protocol),
                target: Target {
                    transport: if tcp { Transport::Tcp } else { Transport::Udp },
                    address: gateway,
                },
                is_news: true,
            });
        }
        let at = at - self.start;
        let deleted = self.plan.delete_at.filter(|deleted| *deleted <= at);
        let mut active = self.plan.sessions.clone();
        for session in &mut active {
            session.ended_at = session.ended_at.or(deleted.map(epoch_plus));
        }
        let wall = epoch_plus(at);
        active.retain(|session| session.is_active(wall));
        let own = |caller| active.iter().filter(move |session| session.role_of(caller).is_some()).cloned();
        let mut sessions: Vec<_> =
            query.caller.as_ref().map(|caller| own(caller).collect()).unwrap_or_default();
        if sessions.is_empty() {
            let strangers = |session: &&maskline::masking::session::MaskingSession| {
                session.takes_strangers() || !session.unknown_caller_play.is_empty()
            };
            sessions = active.iter().filter(strangers).cloned().collect();
        }
        let ours = query.dialled.to_string() == super::plan::DID;
        let number = VirtualNumber {
            did: query.dialled.clone(),
            trunk: "carrier-out".into(),
            account: "MASIMULATIONSIMULATI".into(),
            no_session: self.plan.no_session.clone(),
        };
        let partner = self.partner(query, &sessions);
        Found {
            route: ours.then(|| Route { number, sessions: sessions.into_iter().map(Arc::new).collect() }),
            partner,
            outlets,
            at: wall,
            may_judge: true,
        }
    }

    fn open_media(&mut self, index: usize, now: Instant) {
        let ports = if self.plan.media.no_port {
            Err(NoPort)
        } else {
            self.next_port += 4;
            self.judge.ports_bound(index);
            self.calls[index].media.open = true;
            if let Some(after) = self.plan.media.silence_after {
                self.later(now + after, index, Pending::Silence);
            }
            Ok((self.next_port - 4, self.next_port - 2))
        };
        let at = now + self.plan.media.open_delay;
        self.later(at, index, Pending::Event(Event::MediaOpened(ports)));
    }

    fn media(&mut self, index: usize, command: MediaCommand, now: Instant) {
        match command {
            MediaCommand::Play { side, prompt, mode } => self.play(index, side, &prompt, mode, now),
            MediaCommand::StopPlay { side } => drop(self.calls[index].media.playing.remove(&side)),
            MediaCommand::CollectDigits { on, .. } => self.calls[index].media.collecting = on,
            MediaCommand::Record { directory } => self.calls[index].media.recording = Some(directory),
            MediaCommand::Close => self.close_media(index, now),
            MediaCommand::Configure { .. }
            | MediaCommand::Bridge
            | MediaCommand::Answered
            | MediaCommand::SendDigit { .. } => {}
        }
    }

    fn play(&mut self, index: usize, side: Side, prompt: &media::Prompt, mode: PlayMode, now: Instant) {
        self.number += 1;
        let number = self.number;
        self.calls[index].media.playing.insert(side, number);
        if mode == PlayMode::Once {
            self.later(now + prompt.duration(), index, Pending::Played(side, number));
        }
        if prompt.name() != "enter_pin" {
            return;
        }
        let heard = self.calls[index].prompts_heard;
        self.calls[index].prompts_heard += 1;
        let address = self.calls[index].caller;
        let plan = Arc::clone(&self.plan);
        let caller = (0..plan.callers.len()).find(|n| Some(super::plan::caller_address(*n)) == address);
        let typing = match (caller, &plan.placed) {
            (Some(n), _) => plan.callers[n].typing.get(heard),
            (None, placed) => placed.as_ref().and_then(|placed| placed.typing.get(heard)),
        };
        let Some(typing) = typing else { return };
        let mut at = now + typing.after;
        for key in typing.keys.chars() {
            if typing.by_info {
                self.prompted.push(match address {
                    Some(address) => Prompted::Caller(address, at, Deed::Info(key)),
                    None => Prompted::First(at, Deed::Info(key)),
                });
            } else if let Some(digit) = Digit::from_char(key) {
                self.later(at, index, Pending::Key(digit));
            }
            at += typing.gap;
        }
    }

    fn close_media(&mut self, index: usize, now: Instant) {
        self.judge.ports_freed(index);
        let media = &mut self.calls[index].media;
        (media.open, media.collecting) = (false, false);
        media.playing.clear();
        let recording = media.recording.take();
        let Some(delay) = self.plan.media.close_delay else { return };
        if let Some(directory) = recording {
            let report = RecordingReport {
                directory,
                sample_rate_hz: 8000,
                samples: 8000,
                a: LegRecording::default(),
                b: LegRecording::default(),
                complete: true,
            };
            let event = Event::Media(Box::new(MediaEvent::Recorded(report)));
            self.later(now + delay, index, Pending::Event(event));
        }
        let event = Event::Media(Box::new(MediaEvent::Closed(CallStatistics::default())));
        self.later(now + delay, index, Pending::Event(event));
    }
}

fn merge_key(invite: &Request) -> Merge {
    (invite.head.call_id.clone(), invite.head.from.tag().cloned(), invite.head.cseq.number)
}
