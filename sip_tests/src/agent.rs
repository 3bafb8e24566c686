//! One phone's SIP side without any IO: bytes and time in, bytes and events out (RFC 3261 §8, §9, §12–§15, §17).
//!
//! It answers what a plain phone answers by itself (100, OPTIONS, BYE, CANCEL, re-INVITE, repeated requests and
//! responses) and leaves the rest to whoever drives it: a test through `phone`, a script through `sim`. What the
//! far side does against the RFC is kept as a list of faults.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::message::{self, Message};
use crate::sdp::{LocalMedia, RemoteMedia};

/// RFC 3261 §17.1.1.1.
pub const T1: Duration = Duration::from_millis(500);
/// RFC 3261 §17.1.2.2.
pub const T2: Duration = Duration::from_secs(4);
/// 64·T1: when a transaction gives up.
pub const GIVE_UP: Duration = Duration::from_secs(32);

/// What carries the messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// Datagrams; requests are repeated.
    Udp,
    /// A connection; only 2xx responses to INVITE are repeated.
    Tcp,
}

impl Transport {
    fn name(self) -> &'static str {
        match self {
            Self::Udp => "UDP",
            Self::Tcp => "TCP",
        }
    }
}

/// What a caller says in its INVITE.
#[derive(Debug, Clone)]
pub struct Invite {
    /// Request-URI.
    pub uri: String,
    /// From without tag, `"Name" <sip:user@host>`.
    pub from: String,
    /// To without tag.
    pub to: String,
    /// Chosen at random when `None`.
    pub call_id: Option<String>,
    /// Chosen at random when `None`.
    pub from_tag: Option<String>,
    /// Goes into the first branch, after the magic cookie.
    pub branch_mark: Option<String>,
    /// Whole Contact value; the phone's own when `None`.
    pub contact: Option<String>,
    /// First CSeq.
    pub cseq: Option<u32>,
    /// Max-Forwards.
    pub max_forwards: u8,
    /// Further headers in order.
    pub headers: Vec<(String, String)>,
    /// Body instead of the offer: content type and content.
    pub body: Option<(String, Vec<u8>)>,
    /// False: late offer, the answer goes into the ACK.
    pub offer: bool,
}

/// What a called phone answers.
#[derive(Debug, Clone, Default)]
pub struct Reply {
    /// 101–699.
    pub status: u16,
    /// The usual one when `None`.
    pub phrase: Option<String>,
    /// Another To tag than the phone's usual one, as a forking proxy's branches have.
    pub to_tag: Option<String>,
    /// Further headers in order.
    pub headers: Vec<(String, String)>,
    /// Our description: the answer, or our offer when the INVITE had none.
    pub sdp: bool,
    /// Body instead: content type and content.
    pub body: Option<(String, Vec<u8>)>,
    /// Whole Contact value instead of the phone's own.
    pub contact: Option<String>,
}

impl Reply {
    /// Nothing but a status.
    #[must_use]
    pub fn status(status: u16) -> Self {
        Self { status, ..Self::default() }
    }

    /// With our description.
    #[must_use]
    pub fn with_sdp(status: u16) -> Self {
        Self { status, sdp: true, ..Self::default() }
    }

    /// With another To tag.
    #[must_use]
    pub fn tagged(mut self, tag: &str) -> Self {
        self.to_tag = Some(tag.to_owned());
        self
    }

    /// With a header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }
}

/// What a called phone does when the INVITE is cancelled before it answered; CANCEL itself always gets 200.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnCancel {
    /// 487 to the INVITE.
    #[default]
    Terminate,
    /// Nothing yet: the driver answers 200 although it was cancelled, or never.
    Keep,
}

/// How a call ended, seen from this phone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum End {
    /// Our BYE was the first.
    ByeSent,
    /// The far side's BYE.
    ByeReceived,
    /// Our CANCEL led to 487.
    CancelSent,
    /// The far side cancelled.
    Cancelled,
    /// The far side refused with this status.
    Refused(u16),
    /// We refused with this status.
    Rejected(u16),
    /// Nobody answered for 64·T1.
    TimedOut,
    /// Our 2xx was never acknowledged; we sent BYE.
    NoAck,
}

/// What the driver is told.
#[derive(Debug, Clone)]
pub enum Event {
    /// A new call came in.
    Invited(Message),
    /// A response to one of the call's requests; repeated ones too.
    Response(Message),
    /// A request within the call: ACK, BYE, CANCEL, re-INVITE, UPDATE, INFO.
    Request(Message),
    /// The call is over.
    Ended(End),
}

/// A call's place in its agent.
pub type CallNumber = usize;

/// What an agent wants done.
#[derive(Debug, Default)]
pub struct Output {
    /// Messages with their destination, in order.
    pub send: Vec<(SocketAddr, Vec<u8>)>,
    /// What happened, in order.
    pub events: Vec<(CallNumber, Event)>,
}

#[derive(Debug)]
struct Out {
    output: Output,
    faults: Vec<String>,
    random: StdRng,
    address: SocketAddr,
    transport: Transport,
    lose_acks: u32,
}

impl Out {
    fn send(&mut self, to: SocketAddr, bytes: &[u8]) {
        self.output.send.push((to, bytes.to_vec()));
    }

    fn send_ack(&mut self, to: SocketAddr, bytes: &[u8]) {
        if self.lose_acks > 0 {
            self.lose_acks -= 1;
        } else {
            self.send(to, bytes);
        }
    }

    fn event(&mut self, call: CallNumber, event: Event) {
        self.output.events.push((call, event));
    }

    fn token(&mut self) -> String {
        format!("{:016x}", self.random.random::<u64>())
    }

    fn via(&self, branch: &str) -> (String, String) {
        ("Via".into(), format!("SIP/2.0/{} {};branch={branch};rport", self.transport.name(), self.address))
    }
}

/// One phone's SIP side.
#[derive(Debug)]
pub struct Agent {
    out: Out,
    calls: Vec<Call>,
    replies: VecDeque<(String, SocketAddr, Vec<u8>)>,
    user_agent: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Caller,
    Called,
}

#[derive(Debug)]
struct ClientInvite {
    bytes: Vec<u8>,
    uri: String,
    to: SocketAddr,
    branch: String,
    cseq: u32,
    initial: bool,
    offered: bool,
    /// While unanswered on UDP.
    next: Option<(Instant, Duration)>,
    give_up: Option<Instant>,
    provisional: bool,
    ended: bool,
    cancel_wanted: bool,
    cancel_sent: bool,
    /// The ACK of a 3xx–6xx.
    ack: Option<Vec<u8>>,
}

#[derive(Debug)]
struct ServerInvite {
    request: Message,
    source: SocketAddr,
    last: Option<Vec<u8>>,
    final_status: Option<u16>,
    next: Option<(Instant, Duration)>,
    give_up: Option<Instant>,
    acknowledged: bool,
    cancelled: bool,
    initial: bool,
}

#[derive(Debug)]
struct ClientRequest {
    method: String,
    branch: String,
    bytes: Vec<u8>,
    to: SocketAddr,
    next: Option<(Instant, Duration)>,
    give_up: Instant,
}

#[derive(Debug)]
struct Call {
    number: CallNumber,
    role: Role,
    peer: SocketAddr,
    call_id: String,
    local: String,
    local_tag: String,
    other_tags: Vec<String>,
    remote: String,
    remote_tag: Option<String>,
    target: String,
    routes: Vec<String>,
    contact: String,
    cseq: u32,
    remote_cseq: u32,
    media: Option<LocalMedia>,
    /// Descriptions sent so far in answer to the first INVITE, by To tag.
    answers: BTreeMap<String, Vec<u8>>,
    client: Option<ClientInvite>,
    acks: Vec<(u32, String, SocketAddr, Vec<u8>)>,
    server: Option<ServerInvite>,
    requests: Vec<ClientRequest>,
    on_cancel: OnCancel,
    refuse_reinvites: Option<u16>,
    confirmed: bool,
    end: Option<End>,
}

impl Agent {
    /// `address` is what Via and Contact show; `seed` decides tags, branches and Call-IDs.
    #[must_use]
    pub fn new(address: SocketAddr, transport: Transport, seed: u64) -> Self {
        let random = StdRng::seed_from_u64(seed);
        let out = Out { output: Output::default(), faults: vec![], random, address, transport, lose_acks: 0 };
        Self { out, calls: vec![], replies: VecDeque::new(), user_agent: None }
    }

    /// What User-Agent and Server say; nothing when `None`.
    pub fn set_user_agent(&mut self, text: Option<String>) {
        self.user_agent = text;
    }

    /// So many ACKs for 2xx are made but not sent.
    pub fn lose_acks(&mut self, count: u32) {
        self.out.lose_acks = count;
    }

    /// Messages to send and events since the last time.
    pub fn take_output(&mut self) -> Output {
        std::mem::take(&mut self.out.output)
    }

    /// What the far side did against the RFC.
    #[must_use]
    pub fn faults(&self) -> &[String] {
        &self.out.faults
    }

    /// How many calls there have been.
    #[must_use]
    pub fn calls(&self) -> usize {
        self.calls.len()
    }

    /// How the call ended, once it has.
    #[must_use]
    pub fn end(&self, call: CallNumber) -> Option<End> {
        self.calls.get(call).and_then(|call| call.end)
    }

    /// True once the call was answered and acknowledged or we acknowledged its answer.
    #[must_use]
    pub fn is_confirmed(&self, call: CallNumber) -> bool {
        self.calls.get(call).is_some_and(|call| call.confirmed)
    }

    /// True when every call is over and no transaction waits.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.calls.iter().all(|call| call.end.is_some() && call.deadline().is_none())
    }

    /// Sends an INVITE to `peer`.
    pub fn call(
        &mut self,
        peer: SocketAddr,
        invite: &Invite,
        mut media: Option<LocalMedia>,
        now: Instant,
    ) -> CallNumber {
        let number = self.calls.len();
        let out = &mut self.out;
        let body = match (&invite.body, &mut media) {
            (Some(body), _) => Some(body.clone()),
            (None, Some(media)) if invite.offer => Some((SDP.to_owned(), media.offer())),
            _ => None,
        };
        let offered = body.is_some();
        let mut call = Call::new_caller(out, number, peer, invite, media);
        let branch = format!("z9hG4bK{}{}", invite.branch_mark.as_deref().unwrap_or_default(), out.token());
        let mut headers = invite.headers.clone();
        headers.extend(self.user_agent.iter().map(|text| ("User-Agent".to_owned(), text.clone())));
        call.send_invite(out, &branch, invite.max_forwards, &headers, body, (true, offered), now);
        self.calls.push(call);
        number
    }

    /// Answers the INVITE that is waiting, first or later. Nothing happens when none waits.
    pub fn respond(&mut self, call: CallNumber, reply: &Reply, now: Instant) {
        if let Some(call) = self.calls.get_mut(call) {
            call.respond(&mut self.out, reply, self.user_agent.as_deref(), now);
        }
    }

    /// Sends CANCEL, as soon as RFC 3261 §9.1 allows. Should a 2xx win the race, it is acknowledged and BYE sent.
    pub fn cancel(&mut self, call: CallNumber, now: Instant) {
        if let Some(call) = self.calls.get_mut(call) {
            call.cancel(&mut self.out, now);
        }
    }

    /// Sends BYE.
    pub fn bye(&mut self, call: CallNumber, headers: &[(String, String)], now: Instant) {
        if let Some(call) = self.calls.get_mut(call).filter(|call| call.end.is_none()) {
            call.request(&mut self.out, "BYE", headers, None, now);
            call.finish(&mut self.out, End::ByeSent);
        }
    }

    /// Sends any other request within the call and returns its CSeq.
    pub fn request(
        &mut self,
        call: CallNumber,
        method: &str,
        headers: &[(String, String)],
        body: Option<(String, Vec<u8>)>,
        now: Instant,
    ) -> Option<u32> {
        let call = self.calls.get_mut(call)?;
        call.request(&mut self.out, method, headers, body, now);
        Some(call.cseq)
    }

    /// Sends a request outside any call, `Invite::offer` and the body of `invite` aside; its responses are this
    /// call's events, and the call counts as over. `to_tag` makes it look like one of a dialog.
    pub fn outside(
        &mut self,
        peer: SocketAddr,
        method: &str,
        invite: &Invite,
        to_tag: Option<&str>,
        now: Instant,
    ) -> CallNumber {
        let number = self.calls.len();
        let mut call = Call::new_caller(&mut self.out, number, peer, invite, None);
        call.remote_tag = to_tag.map(str::to_owned);
        call.end = Some(End::ByeSent);
        call.request(&mut self.out, method, &invite.headers, invite.body.clone(), now);
        self.calls.push(call);
        number
    }

    /// Sends a re-INVITE with a new offer in that direction, or without SDP (`None`), and returns its CSeq.
    pub fn reinvite(
        &mut self,
        call: CallNumber,
        direction: Option<&'static str>,
        now: Instant,
    ) -> Option<u32> {
        let call = self.calls.get_mut(call).filter(|call| call.end.is_none())?;
        let body = call.offer(direction);
        call.cseq += 1;
        let branch = format!("z9hG4bK{}", self.out.token());
        let offered = body.is_some();
        call.send_invite(&mut self.out, &branch, 70, &[], body, (false, offered), now);
        Some(call.cseq)
    }

    /// Sends UPDATE with a new offer in that direction, or without SDP (`None`), and returns its CSeq.
    pub fn update(&mut self, call: CallNumber, direction: Option<&'static str>, now: Instant) -> Option<u32> {
        let call = self.calls.get_mut(call)?;
        let body = call.offer(direction);
        call.request(&mut self.out, "UPDATE", &[], body, now);
        Some(call.cseq)
    }

    /// What happens when the INVITE is cancelled.
    pub fn on_cancel(&mut self, call: CallNumber, on_cancel: OnCancel) {
        if let Some(call) = self.calls.get_mut(call) {
            call.on_cancel = on_cancel;
        }
    }

    /// Refuses re-INVITEs with this status instead of answering them.
    pub fn refuse_reinvites(&mut self, call: CallNumber, status: Option<u16>) {
        if let Some(call) = self.calls.get_mut(call) {
            call.refuse_reinvites = status;
        }
    }

    /// The call's own media description; set before answering, or to change what a later offer says.
    pub fn set_media(&mut self, call: CallNumber, media: LocalMedia) {
        if let Some(call) = self.calls.get_mut(call) {
            call.media = Some(media);
        }
    }

    /// The call's own media description.
    pub fn media_mut(&mut self, call: CallNumber) -> Option<&mut LocalMedia> {
        self.calls.get_mut(call)?.media.as_mut()
    }

    /// Sends the last request or response that the call sent once more, as a network would that duplicates.
    pub fn repeat_invite(&mut self, call: CallNumber) {
        if let Some(client) = self.calls.get(call).and_then(|call| call.client.as_ref()) {
            self.out.send(client.to, &client.bytes);
        }
    }

    /// When [`Self::timeout`] is due.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.calls.iter().filter_map(Call::deadline).min()
    }

    /// Fires what is due.
    pub fn timeout(&mut self, now: Instant) {
        for call in &mut self.calls {
            call.timeout(&mut self.out, now);
        }
    }

    /// Takes one message.
    pub fn receive(&mut self, bytes: &[u8], from: SocketAddr, now: Instant) {
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return; // A keep-alive (RFC 5626 §3.5.1).
        }
        let Some(message) = Message::read(bytes) else {
            self.out.faults.push(format!("not a SIP message: {:?}", String::from_utf8_lossy(bytes)));
            return;
        };
        self.out.faults.extend(message.faults());
        if message.status().is_some() {
            self.on_response(message, now);
        } else {
            self.on_request(message, from, now);
        }
    }

    fn on_response(&mut self, response: Message, now: Instant) {
        let call = self
            .calls
            .iter_mut()
            .find(|call| call.call_id == response.call_id() && call.sent_branch(&response));
        match call {
            Some(call) => call.on_response(&mut self.out, &response, now),
            None => self.out.faults.push(format!("belongs to no request: {}", response.start_line())),
        }
    }

    fn on_request(&mut self, request: Message, from: SocketAddr, now: Instant) {
        let method = request.method().unwrap_or_default().to_owned();
        let key = format!("{method} {} {}", request.branch().unwrap_or_default(), request.call_id());
        if let Some((_, to, bytes)) = self.replies.iter().find(|(seen, _, _)| *seen == key) {
            self.out.send(*to, bytes);
            return;
        }
        let known =
            self.calls.iter_mut().find(|call| call.call_id == request.call_id() && call.is_meant(&request));
        if let Some(call) = known {
            let reply = call.on_request(&mut self.out, &request, from, self.user_agent.as_deref(), now);
            if let Some(bytes) = reply {
                self.reply(key, from, bytes);
            }
            return;
        }
        match method.as_str() {
            "INVITE" if request.to_tag().is_none() => self.on_invite(request, from),
            "ACK" => self.out.faults.push(format!("ACK belongs to no call: {}", request.start_line())),
            _ => {
                let status = match method.as_str() {
                    "OPTIONS" if request.to_tag().is_none() => 200,
                    "BYE" | "CANCEL" | "INVITE" | "UPDATE" | "INFO" | "OPTIONS" => 481,
                    _ => 405,
                };
                if status == 481 {
                    self.out.faults.push(format!("belongs to no call: {}", request.start_line()));
                }
                let tag = self.out.token();
                let bytes = respond_to(&request, from, &Reply::status(status), &tag, &[], None);
                self.reply(key, from, bytes);
            }
        }
    }

    fn reply(&mut self, key: String, to: SocketAddr, bytes: Vec<u8>) {
        self.out.send(to, &bytes);
        self.replies.push_back((key, to, bytes));
        if self.replies.len() > 256 {
            self.replies.pop_front();
        }
    }

    fn on_invite(&mut self, request: Message, from: SocketAddr) {
        let number = self.calls.len();
        let out = &mut self.out;
        let strip = |name: &str| {
            let value = request.header(name).unwrap_or_default();
            value.rsplit_once(";tag=").map_or(value, |(before, _)| before).to_owned()
        };
        let trying = respond_to(&request, from, &Reply::status(100), "", &[], None);
        out.send(from, &trying);
        let server = ServerInvite {
            request: request.clone(),
            source: from,
            last: Some(trying),
            final_status: None,
            next: None,
            give_up: None,
            acknowledged: false,
            cancelled: false,
            initial: true,
        };
        let call = Call {
            number,
            role: Role::Called,
            peer: from,
            call_id: request.call_id().to_owned(),
            local: strip("to"),
            local_tag: out.token(),
            other_tags: vec![],
            remote: strip("from"),
            remote_tag: request.from_tag().map(str::to_owned),
            target: request.header("contact").map(message::uri_of).unwrap_or_default().to_owned(),
            routes: request.values("record-route").into_iter().map(str::to_owned).collect(),
            contact: own_contact(out),
            cseq: out.random.random_range(1..50_000),
            remote_cseq: request.cseq().0,
            media: None,
            answers: BTreeMap::new(),
            client: None,
            acks: vec![],
            server: Some(server),
            requests: vec![],
            on_cancel: OnCancel::default(),
            refuse_reinvites: None,
            confirmed: false,
            end: None,
        };
        self.calls.push(call);
        out.event(number, Event::Invited(request));
    }
}

const SDP: &str = "application/sdp";

fn own_contact(out: &Out) -> String {
    match out.transport {
        Transport::Udp => format!("<sip:phone@{}>", out.address),
        Transport::Tcp => format!("<sip:phone@{};transport=tcp>", out.address),
    }
}

/// The response to `request` (RFC 3261 §8.2.6), with `rport` filled in (RFC 3581 §4).
fn respond_to(
    request: &Message,
    source: SocketAddr,
    reply: &Reply,
    tag: &str,
    more: &[(String, String)],
    sdp: Option<Vec<u8>>,
) -> Vec<u8> {
    let mut headers: Vec<(String, String)> = vec![];
    for (index, via) in request.values("via").into_iter().enumerate() {
        let mut via = via.to_owned();
        if index == 0 && message::parameter(&via, "rport") == Some("") {
            via = via.replacen(";rport", &format!(";received={};rport={}", source.ip(), source.port()), 1);
        }
        headers.push(("Via".into(), via));
    }
    let mut push = |name: &str, value: &str| headers.push((name.to_owned(), value.to_owned()));
    for route in request.values("record-route") {
        push("Record-Route", route);
    }
    push("From", request.header("from").unwrap_or_default());
    let to = request.header("to").unwrap_or_default();
    match request.to_tag() {
        None if !tag.is_empty() => push("To", &format!("{to};tag={tag}")),
        _ => push("To", to),
    }
    push("Call-ID", request.call_id());
    push("CSeq", request.header("cseq").unwrap_or_default());
    headers.extend(more.iter().cloned());
    headers.extend(reply.headers.iter().cloned());
    let body = match (&reply.body, sdp) {
        (Some((kind, content)), _) => Some((kind.clone(), content.clone())),
        (None, Some(sdp)) => Some((SDP.to_owned(), sdp)),
        _ => None,
    };
    if let Some((kind, _)) = &body {
        headers.push(("Content-Type".into(), kind.clone()));
    }
    let phrase = reply.phrase.as_deref().unwrap_or_else(|| message::phrase(reply.status));
    message::write(
        &format!("SIP/2.0 {} {phrase}", reply.status),
        &headers,
        &body.map(|(_, content)| content).unwrap_or_default(),
    )
}

impl Call {
    fn new_caller(
        out: &mut Out,
        number: CallNumber,
        peer: SocketAddr,
        invite: &Invite,
        media: Option<LocalMedia>,
    ) -> Self {
        Self {
            number,
            role: Role::Caller,
            peer,
            call_id: invite.call_id.clone().unwrap_or_else(|| out.token()),
            local: invite.from.clone(),
            local_tag: invite.from_tag.clone().unwrap_or_else(|| out.token()),
            other_tags: vec![],
            remote: invite.to.clone(),
            remote_tag: None,
            target: invite.uri.clone(),
            routes: vec![],
            contact: invite.contact.clone().unwrap_or_else(|| own_contact(out)),
            cseq: invite.cseq.unwrap_or_else(|| out.random.random_range(1..50_000)),
            remote_cseq: 0,
            media,
            answers: BTreeMap::new(),
            client: None,
            acks: vec![],
            server: None,
            requests: vec![],
            on_cancel: OnCancel::default(),
            refuse_reinvites: None,
            confirmed: false,
            end: None,
        }
    }

    fn offer(&mut self, direction: Option<&'static str>) -> Option<(String, Vec<u8>)> {
        let (direction, media) = (direction?, self.media.as_mut()?);
        media.options.direction = direction;
        Some((SDP.to_owned(), media.offer()))
    }

    fn sent_branch(&self, response: &Message) -> bool {
        let branch = response.branch().unwrap_or_default();
        let (cseq, method) = response.cseq();
        match method {
            "INVITE" => {
                self.client.as_ref().is_some_and(|client| client.branch == branch)
                    || self.acks.iter().any(|(seen, ..)| *seen == cseq)
            }
            // A transaction that is over may still be answered again; its call is not blamed on anybody.
            _ => true,
        }
    }

    /// True when the request carries our tag, or belongs to the INVITE that is being answered.
    fn is_meant(&self, request: &Message) -> bool {
        match request.to_tag() {
            Some(tag) => tag == self.local_tag || self.other_tags.iter().any(|other| other == tag),
            None => {
                let branch = request.branch();
                self.server.as_ref().is_some_and(|server| server.request.branch() == branch)
                    && matches!(request.method(), Some("INVITE" | "CANCEL"))
            }
        }
    }

    fn destination(&self) -> SocketAddr {
        if self.role == Role::Caller && self.client.is_none() {
            return self.peer; // Outside a dialog.
        }
        let next = self.routes.first().map_or(self.target.as_str(), |route| message::uri_of(route));
        message::socket_of(next).unwrap_or(self.peer)
    }

    fn identity(&self, tag: &str) -> (String, String) {
        ("From".into(), format!("{};tag={tag}", self.local))
    }

    fn to_header(&self, tag: Option<&str>) -> (String, String) {
        ("To".into(), tag.map_or_else(|| self.remote.clone(), |tag| format!("{};tag={tag}", self.remote)))
    }

    #[allow(clippy::too_many_arguments)]
    fn send_invite(
        &mut self,
        out: &mut Out,
        branch: &str,
        max_forwards: u8,
        more: &[(String, String)],
        body: Option<(String, Vec<u8>)>,
        (initial, offered): (bool, bool),
        now: Instant,
    ) {
        let mut headers = vec![out.via(branch), ("Max-Forwards".into(), max_forwards.to_string())];
        headers.extend(self.routes.iter().map(|route| ("Route".to_owned(), route.clone())));
        headers.push(self.identity(&self.local_tag));
        headers.push(self.to_header(self.remote_tag.as_deref()));
        headers.push(("Call-ID".into(), self.call_id.clone()));
        headers.push(("CSeq".into(), format!("{} INVITE", self.cseq)));
        headers.push(("Contact".into(), self.contact.clone()));
        headers.push(("Allow".into(), "INVITE, ACK, BYE, CANCEL, OPTIONS, UPDATE, INFO".into()));
        headers.extend(more.iter().cloned());
        if let Some((kind, _)) = &body {
            headers.push(("Content-Type".into(), kind.clone()));
        }
        let content = body.map(|(_, content)| content).unwrap_or_default();
        let bytes = message::write(&format!("INVITE {} SIP/2.0", self.target), &headers, &content);
        let to = if initial { self.peer } else { self.destination() };
        out.send(to, &bytes);
        self.client = Some(ClientInvite {
            bytes,
            uri: self.target.clone(),
            to,
            branch: branch.to_owned(),
            cseq: self.cseq,
            initial,
            offered,
            next: (out.transport == Transport::Udp).then_some((now + T1, T1)),
            give_up: Some(now + GIVE_UP),
            provisional: false,
            ended: false,
            cancel_wanted: false,
            cancel_sent: false,
            ack: None,
        });
    }

    fn request(
        &mut self,
        out: &mut Out,
        method: &str,
        more: &[(String, String)],
        body: Option<(String, Vec<u8>)>,
        now: Instant,
    ) {
        self.cseq += 1;
        let branch = format!("z9hG4bK{}", out.token());
        let tag = self.remote_tag.clone();
        let bytes = self.in_dialog(out, method, self.cseq, &branch, tag.as_deref(), more, body);
        let to = self.destination();
        self.transact(out, method, &branch, to, bytes, now);
    }

    fn transact(
        &mut self,
        out: &mut Out,
        method: &str,
        branch: &str,
        to: SocketAddr,
        bytes: Vec<u8>,
        now: Instant,
    ) {
        out.send(to, &bytes);
        let next = (out.transport == Transport::Udp).then_some((now + T1, T1));
        let request = ClientRequest {
            method: method.to_owned(),
            branch: branch.to_owned(),
            bytes,
            to,
            next,
            give_up: now + GIVE_UP,
        };
        self.requests.push(request);
    }

    #[allow(clippy::too_many_arguments)]
    fn in_dialog(
        &self,
        out: &Out,
        method: &str,
        cseq: u32,
        branch: &str,
        tag: Option<&str>,
        more: &[(String, String)],
        body: Option<(String, Vec<u8>)>,
    ) -> Vec<u8> {
        let mut headers = vec![out.via(branch), ("Max-Forwards".into(), "70".into())];
        headers.extend(self.routes.iter().map(|route| ("Route".to_owned(), route.clone())));
        headers.push(self.identity(&self.local_tag));
        headers.push(self.to_header(tag));
        headers.push(("Call-ID".into(), self.call_id.clone()));
        headers.push(("CSeq".into(), format!("{cseq} {method}")));
        if method == "UPDATE" {
            headers.push(("Contact".into(), self.contact.clone()));
        }
        headers.extend(more.iter().cloned());
        if let Some((kind, _)) = &body {
            headers.push(("Content-Type".into(), kind.clone()));
        }
        let content = body.map(|(_, content)| content).unwrap_or_default();
        message::write(&format!("{method} {} SIP/2.0", self.target), &headers, &content)
    }

    fn finish(&mut self, out: &mut Out, end: End) {
        if self.end.is_none() {
            self.end = Some(end);
            out.event(self.number, Event::Ended(end));
        }
    }

    fn cancel(&mut self, out: &mut Out, now: Instant) {
        let Some(client) = self.client.as_mut().filter(|client| !client.ended) else { return };
        client.cancel_wanted = true;
        if !client.provisional || client.cancel_sent {
            return;
        }
        client.cancel_sent = true;
        let (branch, to, cseq, uri) = (client.branch.clone(), client.to, client.cseq, client.uri.clone());
        let headers = [
            out.via(&branch),
            ("Max-Forwards".into(), "70".into()),
            self.identity(&self.local_tag),
            self.to_header(None),
            ("Call-ID".into(), self.call_id.clone()),
            ("CSeq".into(), format!("{cseq} CANCEL")),
        ];
        let bytes = message::write(&format!("CANCEL {uri} SIP/2.0"), &headers, &[]);
        self.transact(out, "CANCEL", &branch, to, bytes, now);
    }

    fn on_response(&mut self, out: &mut Out, response: &Message, now: Instant) {
        let status = response.status().unwrap_or(0);
        let (cseq, method) = response.cseq();
        let method = method.to_owned();
        out.event(self.number, Event::Response(response.clone()));
        if method != "INVITE" {
            let branch = response.branch().unwrap_or_default();
            if status >= 200 {
                self.requests.retain(|request| request.branch != branch || request.method != method);
            }
            return;
        }
        if status >= 200
            && let Some((_, _, to, ack)) = self
                .acks
                .iter()
                .find(|(seen, tag, ..)| *seen == cseq && Some(tag.as_str()) == response.to_tag())
        {
            out.send_ack(*to, ack);
            return;
        }
        let Some(client) = self.client.as_mut().filter(|client| client.cseq == cseq) else { return };
        match status {
            ..=199 => {
                client.provisional = true;
                client.next = None;
                client.give_up = None;
                if client.cancel_wanted {
                    self.cancel(out, now);
                }
            }
            200..=299 => self.on_success(out, &response, cseq, now),
            _ => self.on_failure(out, &response, status),
        }
    }

    /// A 2xx: ACK (RFC 3261 §13.2.2.4), with the answer when the offer was late. A second dialog, from a fork, is
    /// acknowledged and ended.
    fn on_success(&mut self, out: &mut Out, response: &Message, cseq: u32, now: Instant) {
        let Some(client) = self.client.as_mut() else { return };
        let (initial, offered, cancelled) = (client.initial, client.offered, client.cancel_wanted);
        (client.next, client.give_up, client.ended) = (None, None, true);
        let tag = response.to_tag().unwrap_or_default().to_owned();
        let second = initial && self.confirmed;
        let kept = second.then(|| (self.remote_tag.clone(), self.target.clone(), self.routes.clone()));
        if initial {
            self.remote_tag = Some(tag.clone());
            self.routes = response.values("record-route").into_iter().rev().map(str::to_owned).collect();
        }
        if let Some(contact) = response.header("contact") {
            message::uri_of(contact).clone_into(&mut self.target);
        }
        let body =
            if offered { None } else { response.sdp().and_then(|sdp| self.media.as_mut()?.answer(sdp)) };
        let branch = format!("z9hG4bK{}", out.token());
        let ack =
            self.in_dialog(out, "ACK", cseq, &branch, Some(&tag), &[], body.map(|sdp| (SDP.to_owned(), sdp)));
        let to = self.destination();
        out.send_ack(to, &ack);
        self.acks.push((cseq, tag, to, ack));
        self.confirmed = true;
        if second || cancelled || self.end.is_some() {
            self.request(out, "BYE", &[], None, now);
            if !second {
                self.finish(out, End::ByeSent);
            }
        }
        if let Some((tag, target, routes)) = kept {
            (self.remote_tag, self.target, self.routes) = (tag, target, routes);
        }
    }

    /// A 3xx–6xx: ACK within the transaction (RFC 3261 §17.1.1.3).
    fn on_failure(&mut self, out: &mut Out, response: &Message, status: u16) {
        let Some(client) = self.client.as_ref() else { return };
        let (initial, cancelled, to, cseq) = (client.initial, client.cancel_sent, client.to, client.cseq);
        let headers = [
            out.via(&client.branch),
            ("Max-Forwards".to_owned(), "70".to_owned()),
            self.identity(&self.local_tag),
            ("To".to_owned(), response.header("to").unwrap_or_default().to_owned()),
            ("Call-ID".to_owned(), self.call_id.clone()),
            ("CSeq".to_owned(), format!("{cseq} ACK")),
        ];
        let ack = message::write(&format!("ACK {} SIP/2.0", client.uri), &headers, &[]);
        out.send(to, &ack);
        if let Some(client) = self.client.as_mut() {
            (client.next, client.give_up, client.ended, client.ack) = (None, None, true, Some(ack));
        }
        if initial && !self.confirmed {
            self.finish(out, if cancelled && status == 487 { End::CancelSent } else { End::Refused(status) });
        } else if matches!(status, 408 | 481) {
            // RFC 3261 §12.2.1.2: the dialog is gone.
            self.finish(out, End::Refused(status));
        }
    }

    /// A request of this call; returns the reply to a request other than INVITE and ACK.
    fn on_request(
        &mut self,
        out: &mut Out,
        request: &Message,
        from: SocketAddr,
        server_name: Option<&str>,
        now: Instant,
    ) -> Option<Vec<u8>> {
        let method = request.method().unwrap_or_default();
        let same_invite =
            self.server.as_ref().is_some_and(|server| server.request.branch() == request.branch());
        if method == "INVITE" && same_invite {
            if let Some(server) = &self.server
                && let Some(last) = &server.last
            {
                out.send(from, last); // The INVITE again: the last response again (RFC 3261 §17.2.1).
            }
            return None;
        }
        let cseq = request.cseq().0;
        if !matches!(method, "ACK" | "CANCEL") {
            if cseq <= self.remote_cseq && self.remote_cseq != 0 {
                out.faults.push(format!(
                    "CSeq {cseq} after {} (RFC 3261 §12.2.1.1): {}",
                    self.remote_cseq,
                    request.start_line()
                ));
            }
            self.remote_cseq = self.remote_cseq.max(cseq);
        }
        if request.from_tag() != self.remote_tag.as_deref()
            && self.remote_tag.is_some()
            && self.role == Role::Called
        {
            out.faults.push(format!("From tag changed: {}", request.start_line()));
        }
        out.event(self.number, Event::Request(request.clone()));
        let tag = self.local_tag.clone();
        let simple = |status| Some(respond_to(request, from, &Reply::status(status), &tag, &[], None));
        match method {
            "ACK" => {
                self.on_ack(out, request);
                None
            }
            "CANCEL" => self.on_cancel_request(out, request, from, server_name, now),
            "BYE" => {
                if self.server.as_ref().is_some_and(|server| server.final_status.is_none()) {
                    self.respond(out, &Reply::status(487), server_name, now);
                }
                // No 2xx is repeated into a dialog that is over.
                if let Some(server) = self.server.as_mut() {
                    (server.next, server.give_up) = (None, None);
                }
                self.finish(out, End::ByeReceived);
                simple(200)
            }
            "INVITE" if self.end.is_some() => simple(481),
            "INVITE" => {
                self.on_reinvite(out, request, from, server_name, now);
                None
            }
            "UPDATE" => {
                let answer =
                    request.sdp().map(|offer| self.media.as_mut().and_then(|media| media.answer(offer)));
                if matches!(answer, Some(None)) {
                    return simple(488);
                }
                let contact = [("Contact".to_owned(), self.contact.clone())];
                Some(respond_to(request, from, &Reply::status(200), &tag, &contact, answer.flatten()))
            }
            "INFO" | "OPTIONS" => simple(200),
            _ => simple(405),
        }
    }

    fn on_ack(&mut self, out: &mut Out, request: &Message) {
        let Some(server) = self.server.as_mut() else { return };
        if request.cseq().0 != server.request.cseq().0 {
            out.faults.push(format!("CSeq of ACK is not its INVITE's (§13.2.2.4): {:?}", request.cseq()));
        }
        (server.next, server.give_up, server.acknowledged) = (None, None, true);
        if server.final_status.is_some_and(|status| status < 300) {
            self.confirmed = true;
        }
    }

    fn on_cancel_request(
        &mut self,
        out: &mut Out,
        request: &Message,
        from: SocketAddr,
        server_name: Option<&str>,
        now: Instant,
    ) -> Option<Vec<u8>> {
        let tag = self.local_tag.clone();
        let reply = |status| Some(respond_to(request, from, &Reply::status(status), &tag, &[], None));
        let Some(server) = self.server.as_mut().filter(|server| server.request.branch() == request.branch())
        else {
            out.faults.push(format!("CANCEL matches no INVITE (RFC 3261 §9.1): {}", request.start_line()));
            return reply(481);
        };
        server.cancelled = true;
        if server.final_status.is_none() && self.on_cancel == OnCancel::Terminate {
            self.respond(out, &Reply::status(487), server_name, now);
            self.finish(out, End::Cancelled);
        }
        reply(200)
    }

    fn on_reinvite(
        &mut self,
        out: &mut Out,
        request: &Message,
        from: SocketAddr,
        server_name: Option<&str>,
        now: Instant,
    ) {
        if let Some(contact) = request.header("contact") {
            message::uri_of(contact).clone_into(&mut self.target);
        }
        self.server = Some(ServerInvite {
            request: request.clone(),
            source: from,
            last: None,
            final_status: None,
            next: None,
            give_up: None,
            acknowledged: false,
            cancelled: false,
            initial: false,
        });
        let reply = self.refuse_reinvites.map_or_else(|| Reply::with_sdp(200), Reply::status);
        self.respond(out, &reply, server_name, now);
    }

    fn respond(&mut self, out: &mut Out, reply: &Reply, server_name: Option<&str>, now: Instant) {
        let Some(server) = self.server.as_mut().filter(|server| server.final_status.is_none()) else {
            return;
        };
        let tag = reply.to_tag.clone().unwrap_or_else(|| self.local_tag.clone());
        let sdp = match (&mut self.media, reply.sdp) {
            (Some(media), true) => match self.answers.get(&tag).filter(|_| server.initial) {
                Some(sent) => Some(sent.clone()),
                None => match server.request.sdp() {
                    Some(offer) => media.answer(offer),
                    None => Some(media.offer()),
                },
            },
            _ => None,
        };
        if let Some(sdp) = &sdp
            && server.initial
        {
            self.answers.insert(tag.clone(), sdp.clone());
        }
        let mut more = vec![];
        if reply.status < 300 {
            more.push(("Contact".to_owned(), reply.contact.clone().unwrap_or_else(|| self.contact.clone())));
            more.push(("Allow".to_owned(), "INVITE, ACK, BYE, CANCEL, OPTIONS, UPDATE, INFO".to_owned()));
        } else if let Some(contact) = &reply.contact {
            more.push(("Contact".to_owned(), contact.clone()));
        }
        more.extend(server_name.map(|name| ("Server".to_owned(), name.to_owned())));
        let bytes = respond_to(&server.request, server.source, reply, &tag, &more, sdp);
        out.send(server.source, &bytes);
        server.last = Some(bytes);
        if tag != self.local_tag && !self.other_tags.contains(&tag) {
            self.other_tags.push(tag.clone());
        }
        if reply.status >= 200 {
            server.final_status = Some(reply.status);
            let repeats = reply.status < 300 || out.transport == Transport::Udp;
            server.next = repeats.then_some((now + T1, T1));
            server.give_up = Some(now + GIVE_UP);
            if reply.status < 300 && tag != self.local_tag {
                let usual = std::mem::replace(&mut self.local_tag, tag);
                self.other_tags.push(usual);
            }
            if reply.status >= 300 && server.initial {
                let end = if server.cancelled { End::Cancelled } else { End::Rejected(reply.status) };
                self.finish(out, end);
            }
        }
    }

    fn deadline(&self) -> Option<Instant> {
        let client = self.client.iter().flat_map(|c| [c.next.map(|(at, _)| at), c.give_up]);
        let server = self.server.iter().flat_map(|s| [s.next.map(|(at, _)| at), s.give_up]);
        let requests = self.requests.iter().flat_map(|r| [r.next.map(|(at, _)| at), Some(r.give_up)]);
        client.chain(server).chain(requests).flatten().min()
    }

    fn timeout(&mut self, out: &mut Out, now: Instant) {
        for request in &mut self.requests {
            repeat(&mut request.next, T2, now, || out.send(request.to, &request.bytes));
        }
        self.requests.retain(|request| request.give_up > now);
        if let Some(client) = &mut self.client {
            repeat(&mut client.next, GIVE_UP, now, || out.send(client.to, &client.bytes));
            if client.give_up.is_some_and(|at| at <= now) {
                (client.next, client.give_up, client.ended) = (None, None, true);
                if client.initial {
                    self.finish(out, End::TimedOut);
                }
            }
        }
        if let Some(server) = &mut self.server {
            let (source, last) = (server.source, server.last.clone().unwrap_or_default());
            repeat(&mut server.next, T2, now, || out.send(source, &last));
            if server.give_up.is_some_and(|at| at <= now) {
                (server.next, server.give_up) = (None, None);
                if server.final_status.is_some_and(|status| status < 300) && self.end.is_none() {
                    self.request(out, "BYE", &[], None, now);
                    self.finish(out, End::NoAck);
                }
            }
        }
    }

    /// The far side's last description in an INVITE or ACK that this phone answers to.
    fn offered(&self) -> Option<RemoteMedia> {
        self.server.as_ref().and_then(|server| server.request.sdp()).and_then(RemoteMedia::read)
    }
}

impl Agent {
    /// What the INVITE that is being answered offers.
    #[must_use]
    pub fn offered(&self, call: CallNumber) -> Option<RemoteMedia> {
        self.calls.get(call).and_then(Call::offered)
    }

    /// True when the INVITE of this call was cancelled by the far side.
    #[must_use]
    pub fn is_cancelled(&self, call: CallNumber) -> bool {
        self.calls.get(call).and_then(|call| call.server.as_ref()).is_some_and(|server| server.cancelled)
    }

    /// A token from the agent's generator, for markers.
    pub fn token(&mut self) -> String {
        self.out.token()
    }

    /// A session id for `o=`.
    pub fn session_id(&mut self) -> u64 {
        self.out.random.random_range(1..1 << 40)
    }
}

/// Sends again when it is time, and doubles the interval up to `most`.
fn repeat(next: &mut Option<(Instant, Duration)>, most: Duration, now: Instant, send: impl FnOnce()) {
    if let Some((at, interval)) = next
        && *at <= now
    {
        send();
        *interval = (*interval * 2).min(most);
        *at = now + *interval;
    }
}

#[cfg(test)]
mod tests {
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
            a.call(
                socket(2),
                &invite(offer),
                Some(LocalMedia::new(socket(4000), SdpOptions::default(), 1)),
                now,
            );
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
}
