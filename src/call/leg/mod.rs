//! One leg: a dialog, its transactions and its offer/answer state (RFC 3261, 3264, 6026, 6141).
//!
//! Pure: messages, orders and time in, [`Action`]s and [`Signal`]s out. A leg knows SIP and not the other leg.
//! [`caller`] is the set-up of a leg where we are UAS, [`callee`] of one where we are UAC, [`in_dialog`] what
//! may come in an established dialog of either, [`refresh`] what we ask there ourselves, [`reliable`] the provisional
//! responses that are acknowledged.

mod callee;
mod caller;
mod challenge;
mod in_dialog;
mod refresh;
mod reliable;
#[cfg(test)]
mod tests;

use super::cdr::HangupCause;
use super::identity::{self, LegAddress};
use super::signal::{Order, Signal};
use super::{Action, Hop, Place};
use crate::ids::IdSource;
use crate::sip::dialog::Dialog;
use crate::sip::digest;
use crate::sip::encode::{HeaderOut, RequestOut, ResponseOut};
use crate::sip::key::{DialogKey, TransactionKey};
use crate::sip::message::{Message, Method, Request, Response};
use crate::sip::transaction::timer::{T1, T2};
use crate::sip::transaction::{InviteServer, NonInviteClient, NonInviteServer};
use crate::sip::transaction::{invite_server, non_invite_client, non_invite_server};
use crate::sip::transport::{ConnectionId, Flow, Protocol, SendFault, SendToken};
use crate::sip::uri::{Scheme, Uri};
use crate::sip::wire::ByteStr;
use crate::trunk::Trunk;
use bytes::Bytes;
use callee::Outgoing;
use caller::Incoming;
use media::Stream;
use media::sdp::{LocalMedia, Negotiation};
use refresh::{Reinvite, Session};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use callee::Dial;
pub use caller::Refusal;

/// A request over this size tries TCP first (RFC 3261 §18.1.1: within 200 bytes of an MTU of 1500).
const LARGEST_UDP_REQUEST: usize = 1300;
/// Server transactions that a leg keeps; a peer that begins more is answered by nobody until some end.
const MAX_SERVERS: usize = 16;

/// One leg of a call.
#[derive(Debug)]
pub struct Leg {
    call_id: ByteStr,
    local_tag: ByteStr,
    address: LegAddress,
    /// Where a request goes whose target names no usable address, and the connection that it should use.
    route: Route,
    /// What the gateway may be told when it asks who we are; only of a leg of ours whose trunk has credentials.
    credentials: Option<Box<digest::Client>>,
    set_up: SetUp,
    /// The caller's leg: from the INVITE on. A leg of ours: once answered.
    dialog: Option<Dialog>,
    negotiation: Option<Negotiation>,
    invites: Vec<InviteEntry>,
    servers: Vec<ServerEntry>,
    clients: Vec<Client>,
    /// Our 2xx to an INVITE, until its ACK comes.
    ok: Option<PendingOk>,
    /// Hang-up ordered while the ACK was missing: BYE must wait for it (RFC 3261 §15).
    bye_after_ack: bool,
    /// The session interval that we ask for, in seconds.
    interval: Option<u32>,
    /// The peer takes UPDATE (RFC 3311); asked only where a session timer runs.
    takes_update: bool,
    session: Option<Box<Session>>,
    reinvites: Vec<Reinvite>,
    /// The Q.850 cause in the peer's final failure, CANCEL or BYE, and in ours.
    told: Option<u8>,
    said: Option<u16>,
    state: State,
}

#[derive(Debug)]
enum SetUp {
    Incoming(Box<Incoming>),
    Outgoing(Box<Outgoing>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    SettingUp,
    Answered,
    /// Refused, cancelled or hung up; transactions may linger.
    Ended,
}

/// How the peer was reached so far.
#[derive(Debug, Clone)]
pub(crate) struct Route {
    pub(crate) protocol: Protocol,
    pub(crate) peer: Option<SocketAddr>,
    pub(crate) connection: Option<ConnectionId>,
    pub(crate) local: Option<SocketAddr>,
    /// The gateway's name, which the far end of a new TLS connection must prove where a target names none.
    pub(crate) name: Option<Arc<str>>,
}

#[derive(Debug)]
struct InviteEntry {
    key: TransactionKey,
    machine: InviteServer,
    hop: Hop,
}

#[derive(Debug)]
struct ServerEntry {
    key: TransactionKey,
    machine: NonInviteServer,
    hop: Hop,
}

#[derive(Debug)]
struct Client {
    request: RequestOut,
    hop: Hop,
    machine: NonInviteClient,
    /// Challenges of it that were answered before.
    answered: u8,
}

#[derive(Debug)]
struct PendingOk {
    cseq: u32,
    wire: Bytes,
    hop: Hop,
    next: Instant,
    interval: Duration,
    give_up: Instant,
    /// The 2xx carried our offer, so the ACK brings the answer.
    awaits_answer: bool,
}

/// What a leg's input led to.
pub(crate) struct Output<'a> {
    pub(crate) actions: &'a mut Vec<Action>,
    pub(crate) signals: Vec<Signal>,
    pub(crate) ids: &'a mut IdSource,
    pub(crate) now: Instant,
}

impl Output<'_> {
    fn send(&mut self, wire: Bytes, hop: &Hop) {
        self.actions.push(Action::Send { wire, to: hop.clone() });
    }
    fn signal(&mut self, signal: Signal) {
        self.signals.push(signal);
    }
}

impl Leg {
    /// Is this message the leg's? Call-IDs of the two legs always differ, because one of them is ours.
    #[must_use]
    pub fn owns(&self, message: &Message) -> bool {
        message.head().call_id == self.call_id
    }

    /// Whether a message from there needs no further proof of where it comes from: the INVITE went there, or came from
    /// there, or went to a name of which the leg knows no address.
    pub(crate) fn is_peer(&self, source: IpAddr) -> bool {
        self.route.peer.is_none_or(|peer| peer.ip().to_canonical() == source.to_canonical())
    }

    /// The trunk that a leg of ours left by.
    pub(crate) fn left_by(&self) -> Option<&Trunk> {
        match &self.set_up {
            SetUp::Outgoing(outgoing) => Some(outgoing.trunk()),
            SetUp::Incoming(_) => None,
        }
    }

    /// What finds this leg's call for requests inside the dialog and responses to its own requests.
    #[must_use]
    pub fn dialog_key(&self) -> DialogKey {
        DialogKey { call_id: self.call_id.clone(), local_tag: self.local_tag.clone() }
    }

    /// What the leg shows of us.
    #[must_use]
    pub fn address(&self) -> &LegAddress {
        &self.address
    }

    /// What was agreed on last.
    #[must_use]
    pub fn stream(&self) -> Option<&Stream> {
        self.negotiation.as_ref().and_then(Negotiation::stream)
    }

    /// True when its INVITE is ours.
    #[must_use]
    pub fn is_outgoing(&self) -> bool {
        matches!(self.set_up, SetUp::Outgoing(_))
    }

    /// True from the 2xx until the leg ends.
    #[must_use]
    pub fn is_answered(&self) -> bool {
        self.state == State::Answered
    }

    /// The Q.850 cause of the peer's final failure, as far as it named one.
    #[must_use]
    pub fn told_cause(&self) -> Option<u8> {
        self.told
    }

    /// The Q.850 cause that the leg ended with on the wire, as far as one was named: the peer's, else ours.
    #[must_use]
    pub fn last_cause(&self) -> Option<u16> {
        self.told.map(u16::from).or(self.said)
    }

    /// The Reason that the leg ends with, if nobody has ended it before.
    fn say(&mut self, cause: HangupCause) -> HeaderOut {
        if self.state != State::Ended {
            self.said = Some(cause.q850());
        }
        identity::reason(cause)
    }

    /// True when the leg is answered and nobody waits for the ACK of our 2xx.
    #[must_use]
    pub fn is_acknowledged(&self) -> bool {
        self.is_answered() && self.ok.is_none()
    }

    /// True when the leg was refused, cancelled or hung up, by whomever.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.state == State::Ended
    }

    /// True when nothing of the leg is left to wait for.
    #[must_use]
    pub fn is_done(&self) -> bool {
        let set_up_done = match &self.set_up {
            SetUp::Incoming(_) => true,
            SetUp::Outgoing(outgoing) => outgoing.is_done(),
        };
        self.state == State::Ended
            && set_up_done
            && self.ok.is_none()
            && self.invites.is_empty()
            && self.servers.is_empty()
            && self.clients.is_empty()
            && self.reinvites.is_empty()
    }

    /// A message of this leg has come.
    pub(crate) fn handle(&mut self, message: &Message, flow: &Flow, out: &mut Output<'_>) {
        match message {
            Message::Request(request) => self.on_request(request, flow, out),
            Message::Response(response) => self.on_response(response, flow, out),
        }
    }

    /// Does what the call says.
    pub(crate) fn obey(&mut self, order: Order, out: &mut Output<'_>) {
        match order {
            Order::Ring { early_media } => self.ring(early_media, out),
            Order::Answer => self.answer(out),
            Order::Refuse { status, retry_after, cause } => {
                let (retry_after, reason) = (retry_after.map(HeaderOut::RetryAfter), self.say(cause));
                self.refuse(status, retry_after.into_iter().chain([reason]), out);
            }
            Order::HangUp(cause) => self.hang_up(cause, out),
        }
    }

    /// Ends the leg in whatever state it is.
    fn hang_up(&mut self, cause: HangupCause, out: &mut Output<'_>) {
        match (self.state, &self.set_up) {
            (State::Ended, _) => {}
            (State::Answered, _) => {
                self.state = State::Ended;
                if self.ok.is_some() && matches!(self.set_up, SetUp::Incoming(_)) {
                    self.bye_after_ack = true;
                } else {
                    self.send_bye(Some(cause), out);
                }
            }
            (State::SettingUp, SetUp::Incoming(_)) => {
                let reason = self.say(cause);
                self.refuse(480, [reason], out);
            }
            (State::SettingUp, SetUp::Outgoing(_)) => {
                self.state = State::Ended;
                self.cancel(cause, out);
            }
        }
    }

    fn send_bye(&mut self, cause: Option<HangupCause>, out: &mut Output<'_>) {
        let Some(mut dialog) = self.dialog.clone() else { return };
        self.said = cause.map(HangupCause::q850);
        // The dialog is over: no 2xx is repeated into it.
        self.ok = None;
        self.send_bye_on(&mut dialog, cause, out);
        self.dialog = Some(dialog);
    }

    fn send_bye_on(&mut self, dialog: &mut Dialog, cause: Option<HangupCause>, out: &mut Output<'_>) {
        let Some(hop) = self.hop_of(dialog.next_hop().as_ref()) else { return };
        let via = self.address.via(hop.protocol, out.ids.branch());
        let mut bye = dialog.request(Method::BYE, via, None);
        bye.headers.extend(cause.map(identity::reason));
        self.start_client(bye, hop, out);
    }

    /// Where a request to `target` goes. A target without an address of its own goes where the peer was last seen.
    fn hop_of(&self, target: Option<&Uri>) -> Option<Hop> {
        Self::hop_to(&self.route, target)
    }

    fn hop_to(route: &Route, target: Option<&Uri>) -> Option<Hop> {
        let Some(target) = target else {
            return Some(Hop {
                protocol: route.protocol,
                place: Place::Address(route.peer?),
                connection: route.connection,
                local: route.local,
                pinned: true,
                name: route.name.clone(),
                token: None,
            });
        };
        let protocol = match target.transport().map(str::to_ascii_lowercase).as_deref() {
            // RFC 3261 §26.2.2: sips is TLS, whatever carries it.
            _ if target.scheme() == Scheme::Sips => Protocol::Tls,
            Some("tcp") => Protocol::Tcp,
            Some("tls") => Protocol::Tls,
            Some(_) => Protocol::Udp,
            // A peer on a stream that names no transport is reached over that stream.
            None => route.protocol,
        };
        let port = target.port().unwrap_or(protocol.default_port());
        let maddr = target.maddr();
        let host = maddr.as_deref().unwrap_or(target.host());
        let place = match host.parse::<IpAddr>() {
            Ok(ip) => Place::Address(SocketAddr::new(ip, port)),
            Err(_) => Place::Name(host.to_owned(), port),
        };
        // RFC 5922 §4: whoever is reached by a name must prove that one and no other.
        let name = match &place {
            Place::Name(name, _) => Some(Arc::from(name.as_str())),
            // A gateway without a name can only prove its own address.
            Place::Address(address) => {
                let may_prove =
                    |name: &Arc<str>| name.parse().ok().is_none_or(|ip: IpAddr| ip == address.ip());
                route.name.clone().filter(may_prove)
            }
        };
        Some(Hop {
            protocol,
            place,
            connection: route.connection.filter(|connection| connection.protocol() == protocol),
            local: route.local.filter(|_| protocol == Protocol::Udp),
            pinned: target.transport().is_some() || protocol == Protocol::Tls,
            name: name.filter(|_| protocol == Protocol::Tls),
            token: None,
        })
    }

    /// Starts a non-INVITE client transaction.
    fn start_client(&mut self, mut request: RequestOut, hop: Hop, out: &mut Output<'_>) {
        self.authorize(&mut request, &hop, out);
        let hop = Self::choose_transport(self.dialog_key(), &mut request, hop);
        self.start_client_as_is(request, hop, 0, out);
    }

    /// CANCEL goes just where its INVITE went, by the same transport (RFC 3261 §9.1).
    fn start_client_as_is(&mut self, request: RequestOut, hop: Hop, answered: u8, out: &mut Output<'_>) {
        let reliable = hop.protocol != Protocol::Udp;
        let (machine, actions) = NonInviteClient::start(request.encode(), reliable, out.now);
        let mut client = Client { request, hop, machine, answered };
        client.perform(actions, out);
        push(&mut self.clients, client);
    }

    /// Gives the hop its failure token, and moves a request that is too large for a datagram to TCP
    /// (RFC 3261 §18.1.1). [`Self::fall_back_to_udp`] moves it back.
    fn choose_transport(dialog: DialogKey, request: &mut RequestOut, mut hop: Hop) -> Hop {
        if hop.protocol == Protocol::Udp && !hop.pinned && request.encode().len() > LARGEST_UDP_REQUEST {
            hop.protocol = Protocol::Tcp;
            request.via.transport = Protocol::Tcp.via_name();
        }
        hop.token = Some(SendToken { dialog, branch: ByteStr::from(request.via.branch.as_str()) });
        hop
    }

    /// A request that went by TCP for its size alone, and could not be sent there, becomes one over UDP, of a transaction
    /// of its own (RFC 3261 §18.1.1). `None` when it went by `hop` for another reason.
    fn fall_back_to_udp(request: &mut RequestOut, hop: &Hop, ids: &mut IdSource) -> Option<Hop> {
        let mut hop = hop.by_udp()?;
        request.via.transport = Protocol::Udp.via_name();
        request.via.branch = ids.branch();
        if let Some(token) = &mut hop.token {
            token.branch = ByteStr::from(request.via.branch.as_str());
        }
        Some(hop)
    }

    /// A request of ours could not be sent.
    pub(crate) fn on_send_failed(&mut self, branch: &str, why: SendFault, out: &mut Output<'_>) {
        if let SetUp::Outgoing(outgoing) = &self.set_up
            && outgoing.branch() == branch
        {
            return self.on_invite_not_sent(why, out);
        }
        if let Some(index) = self.reinvites.iter().position(|reinvite| reinvite.branch() == branch) {
            return self.on_reinvite_not_sent(index, out);
        }
        let Some(index) = self.clients.iter().position(|client| client.request.via.branch == branch) else {
            return;
        };
        let mut client = self.clients.swap_remove(index);
        if let Some(hop) = Self::fall_back_to_udp(&mut client.request, &client.hop, out.ids) {
            client.hop = hop;
            let (machine, actions) = NonInviteClient::start(client.request.encode(), false, out.now);
            client.machine = machine;
            client.perform(actions, out);
            push(&mut self.clients, client);
            return;
        }
        let actions = client.machine.handle(non_invite_client::Event::TransportFailed, out.now);
        client.perform(actions, out);
        if client.request.method == Method::UPDATE {
            self.on_update_answered(503, None, out);
        }
    }

    fn on_response(&mut self, response: &Response, flow: &Flow, out: &mut Output<'_>) {
        let head = &response.head;
        let Some(branch) = head.via.branch.as_ref() else { return };
        if head.cseq.method == Method::INVITE {
            if let Some(index) = self.reinvites.iter().position(|reinvite| reinvite.branch() == &**branch) {
                return self.on_reinvite_response(response, index, flow, out);
            }
            return self.on_invite_response(response, branch, flow, out);
        }
        let Some(index) = self.clients.iter().position(|client| {
            client.request.via.branch == **branch && client.request.method == head.cseq.method
        }) else {
            return;
        };
        let Some(client) = self.clients.get_mut(index) else { return };
        let actions = client.machine.handle(non_invite_client::Event::Response(response.status), out.now);
        let deliver = client.perform(actions, out).0;
        let of_update = client.request.method == Method::UPDATE;
        let mut repeated = false;
        if deliver && matches!(response.status, 401 | 407) {
            let client = self.clients.swap_remove(index);
            repeated = self.repeat_with_credentials(&client, response, flow, out);
            push(&mut self.clients, client);
        }
        self.clients.retain(|client| !client.machine.is_terminated());
        if deliver && of_update && !repeated && response.status >= 200 {
            self.on_update_answered(response.status, Some(head), out);
        }
    }

    /// A response to a request that this leg received, through a new or existing server transaction.
    fn respond(&mut self, request: &Request, flow: &Flow, response: &ResponseOut, out: &mut Output<'_>) {
        let hop = response_hop(request, flow);
        let wire = response.encode();
        if self.servers.len() >= MAX_SERVERS {
            // Stateless: a repeated request is answered again by the leg itself.
            out.send(wire, &hop);
            return;
        }
        let mut machine = NonInviteServer::new(flow.protocol != Protocol::Udp);
        let actions = machine.handle(non_invite_server::Event::Respond(response.status, wire), out.now);
        let mut entry = ServerEntry { key: TransactionKey::of_request(request), machine, hop };
        entry.perform(actions, out);
        if !entry.machine.is_terminated() {
            push(&mut self.servers, entry);
        }
    }

    /// When [`Self::on_timeout`] is due.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        let set_up = match &self.set_up {
            SetUp::Incoming(incoming) => incoming.deadline(),
            SetUp::Outgoing(outgoing) => outgoing.deadline(),
        };
        self.invites
            .iter()
            .filter_map(|entry| entry.machine.deadline())
            .chain(self.servers.iter().filter_map(|entry| entry.machine.deadline()))
            .chain(self.clients.iter().filter_map(|client| client.machine.deadline()))
            .chain(self.ok.as_ref().map(|ok| ok.next.min(ok.give_up)))
            .chain(set_up)
            .chain(self.session_deadline())
            .chain(self.reinvites.iter().filter_map(Reinvite::deadline))
            .min()
    }

    /// Fires every timer that is due.
    pub(crate) fn on_timeout(&mut self, out: &mut Output<'_>) {
        let due = |deadline: Option<Instant>, now| deadline.is_some_and(|at| at <= now);
        for entry in &mut self.invites {
            if due(entry.machine.deadline(), out.now) {
                // Timer H may end it unacknowledged; a leg that was refused has ended anyway.
                let actions = entry.machine.handle(invite_server::Event::Timeout, out.now);
                entry.perform(actions, out);
            }
        }
        self.invites.retain(|entry| !entry.machine.is_terminated());
        for entry in &mut self.servers {
            if due(entry.machine.deadline(), out.now) {
                let actions = entry.machine.handle(non_invite_server::Event::Timeout, out.now);
                entry.perform(actions, out);
            }
        }
        self.servers.retain(|entry| !entry.machine.is_terminated());
        let mut unanswered = false;
        for client in &mut self.clients {
            if due(client.machine.deadline(), out.now) {
                let actions = client.machine.handle(non_invite_client::Event::Timeout, out.now);
                let timed_out = client.perform(actions, out).1;
                unanswered |= timed_out && client.request.method == Method::UPDATE;
            }
        }
        self.clients.retain(|client| !client.machine.is_terminated());
        match &self.set_up {
            SetUp::Outgoing(_) => self.on_set_up_timeout(out),
            SetUp::Incoming(_) => self.repeat_provisional(out),
        }
        self.repeat_ok(out);
        if !self.reinvites.is_empty() {
            self.on_reinvite_timeout(out);
        }
        if unanswered {
            // RFC 3261 §8.1.3.1: a time-out is treated like a 408.
            self.on_update_answered(408, None, out);
        }
        self.on_session_timeout(out);
    }

    /// Repeats our 2xx until the ACK comes, on any transport, and gives up after 64·T1 with BYE
    /// (RFC 3261 §13.3.1.4).
    fn repeat_ok(&mut self, out: &mut Output<'_>) {
        let Some(ok) = &mut self.ok else { return };
        if ok.give_up <= out.now {
            self.ok = None;
            let was_live = self.state == State::Answered;
            self.state = State::Ended;
            self.bye_after_ack = false;
            self.send_bye(Some(HangupCause::NetworkError), out);
            if was_live {
                out.signal(Signal::HungUp(HangupCause::NetworkError));
            }
        } else if ok.next <= out.now {
            ok.interval = (ok.interval * 2).min(T2);
            ok.next = out.now + ok.interval;
            let (wire, hop) = (ok.wire.clone(), ok.hop.clone());
            out.send(wire, &hop);
        }
    }

    fn await_ack(&mut self, cseq: u32, wire: Bytes, hop: Hop, awaits_answer: bool, now: Instant) {
        self.ok = Some(PendingOk {
            cseq,
            wire,
            hop,
            next: now + T1,
            interval: T1,
            give_up: now + 64 * T1,
            awaits_answer,
        });
    }
}

impl ServerEntry {
    fn perform(&mut self, actions: Vec<non_invite_server::Action>, out: &mut Output<'_>) {
        for action in actions {
            if let non_invite_server::Action::Send(wire) = action {
                out.send(wire, &self.hop);
            }
        }
    }
}

impl InviteEntry {
    /// The leg itself looks for the ACK of its 2xx, so that only what is to be sent matters here.
    fn perform(&mut self, actions: Vec<invite_server::Action>, out: &mut Output<'_>) {
        for action in actions {
            if let invite_server::Action::Send(wire) = action {
                out.send(wire, &self.hop);
            }
        }
    }
}

impl Client {
    /// Sends what the machine says. Returns whether the response is to be looked at, and whether none came. Only what
    /// becomes of an UPDATE matters to anybody: BYE, CANCEL and PRACK change nothing by their outcome.
    fn perform(&mut self, actions: Vec<non_invite_client::Action>, out: &mut Output<'_>) -> (bool, bool) {
        let (mut deliver, mut timed_out) = (false, false);
        for action in actions {
            match action {
                non_invite_client::Action::Send(wire) => out.send(wire, &self.hop),
                non_invite_client::Action::Deliver(_) => deliver = true,
                non_invite_client::Action::TimedOut => timed_out = true,
                non_invite_client::Action::Terminated => {}
            }
        }
        (deliver, timed_out)
    }
}

/// Where a response goes: to the source address. By UDP to the source port only with `rport` (RFC 3581 §4), otherwise
/// to the Via's port; on a stream over its connection, and when that is gone over a new one to the Via's port
/// (RFC 3261 §18.2.2), because nobody listens at the port that a connection came from. `maddr` is ignored: answers go
/// only where the question came from.
#[must_use]
pub fn response_hop(request: &Request, flow: &Flow) -> Hop {
    let via = &request.head.via;
    let port = match flow.protocol {
        Protocol::Udp if via.rport.is_some() => flow.peer.port(),
        protocol => via.port.unwrap_or(protocol.default_port()),
    };
    Hop {
        protocol: flow.protocol,
        place: Place::Address(SocketAddr::new(flow.peer.ip(), port)),
        connection: flow.connection,
        local: Some(flow.local),
        pinned: true,
        name: None,
        token: None,
    }
}

/// Makes room for one more only: a leg has one transaction of a kind as a rule, keeps it for half a minute after
/// the call, and room for four would be most of what it keeps.
fn push<T>(list: &mut Vec<T>, entry: T) {
    list.reserve_exact(1);
    list.push(entry);
}

/// A leg's media as its SDP shows it.
pub(crate) fn negotiation(local: LocalMedia) -> Negotiation {
    Negotiation::new(local)
}
