//! One phone's SIP side without any IO: bytes and time in, bytes and events out (RFC 3261 §8, §9, §12–§15, §17).
//!
//! It answers what a plain phone answers by itself (100, OPTIONS, BYE, CANCEL, re-INVITE, repeated requests and
//! responses) and leaves the rest to whoever drives it: a test through `phone`, a script through `sim`. What the
//! far side does against the RFC is kept as a list of faults.

mod answer;
mod call;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::message::Message;
use crate::sdp::{LocalMedia, RemoteMedia};
use answer::respond_to;
use call::{Call, SDP};

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
    /// A connection that is encrypted.
    Tls,
}

impl Transport {
    fn name(self) -> &'static str {
        match self {
            Self::Udp => "UDP",
            Self::Tcp => "TCP",
            Self::Tls => "TLS",
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
    reordering: bool,
    answers: Reply,
    allow: String,
}

/// The methods that a phone takes, unless it is told otherwise.
const ALLOW: &str = "INVITE, ACK, BYE, CANCEL, OPTIONS, UPDATE, INFO, PRACK";

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
    scripted: BTreeMap<String, VecDeque<Reply>>,
    user_agent: Option<String>,
}

impl Agent {
    /// `address` is what Via and Contact show; `seed` decides tags, branches and Call-IDs.
    #[must_use]
    pub fn new(address: SocketAddr, transport: Transport, seed: u64) -> Self {
        let random = StdRng::seed_from_u64(seed);
        let out = Out {
            output: Output::default(),
            faults: vec![],
            random,
            address,
            transport,
            lose_acks: 0,
            reordering: false,
            answers: Reply::default(),
            allow: ALLOW.to_owned(),
        };
        let (replies, scripted) = (VecDeque::new(), BTreeMap::new());
        Self { out, calls: vec![], replies, scripted, user_agent: None }
    }

    /// What User-Agent and Server say; nothing when `None`.
    pub fn set_user_agent(&mut self, text: Option<String>) {
        self.user_agent = text;
    }

    /// Phrase, headers and body of answers that the phone gives by itself within a call; the status is its own.
    pub fn set_answers(&mut self, answers: Reply) {
        self.out.answers = answers;
    }

    /// The methods that Allow names; what is missing gets 405.
    pub fn set_allow(&mut self, methods: &str) {
        methods.clone_into(&mut self.out.allow);
    }

    /// The next requests of this method get these answers instead of the phone's own, in a call or outside, one each.
    /// Not for INVITE and ACK.
    pub fn script(&mut self, method: &str, replies: impl IntoIterator<Item = Reply>) {
        self.scripted.entry(method.to_owned()).or_default().extend(replies);
    }

    /// So many ACKs for 2xx are made but not sent.
    pub fn lose_acks(&mut self, count: u32) {
        self.out.lose_acks = count;
    }

    /// The network may reorder requests, so an older CSeq is not held against the far side.
    pub fn expect_reordering(&mut self) {
        self.out.reordering = true;
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
            self.on_response(&message, now);
        } else {
            self.on_request(message, from, now);
        }
    }

    fn on_response(&mut self, response: &Message, now: Instant) {
        let call = self
            .calls
            .iter_mut()
            .find(|call| call.call_id == response.call_id() && call.sent_branch(response));
        match call {
            Some(call) => call.on_response(&mut self.out, response, now),
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
        if let Some(reply) = self.scripted.get_mut(&method).and_then(VecDeque::pop_front) {
            let tag = self.out.token();
            let bytes = respond_to(&request, from, &reply, &tag, &[], None);
            return self.reply(key, from, bytes);
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
        let trying = respond_to(&request, from, &Reply::status(100), "", &[], None);
        self.out.send(from, &trying);
        self.calls.push(Call::new_called(&mut self.out, number, &request, from, trying));
        self.out.event(number, Event::Invited(request));
    }

    /// The last response to the INVITE that is being answered, as sent.
    #[must_use]
    pub fn last_response(&self, call: CallNumber) -> Option<Vec<u8>> {
        self.calls.get(call)?.server.as_ref()?.last.clone()
    }

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
