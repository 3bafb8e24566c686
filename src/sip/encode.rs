//! Messages that we send, built from nothing (RFC 3261 §7, §8.1.1, §8.2.6).
//!
//! Every value is our own, or is repeated to the very peer that sent it: what RFC 3261 §8.2.6.2 and §12.1.1
//! have a response repeat, and the route set of that peer's dialog. There is no way to put a received header
//! into a message for somebody else. Whatever the values hold, the text is one well-formed message:
//! characters that could end a line, a value or a URI are left out.

use std::fmt;
use std::net::SocketAddr;

use bytes::Bytes;

use super::address::{NameAddr, Via};
use super::digest::{Authorization, ChallengeOut};
use super::grammar::split_first;
use super::message::Method;
use super::wire::{ByteStr, Field, Name};

/// What we name ourselves in User-Agent and Server: no version, which would only help those who look for
/// holes.
const PRODUCT: &str = "Maskline";
/// The methods that we take, for Allow.
const ALLOWED: &str = "INVITE, ACK, CANCEL, BYE, OPTIONS, UPDATE, INFO, PRACK";

/// The headers of a request as a response repeats them, each as raw as it came but on one line.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Repeated {
    /// The topmost Via value, when it could be read.
    top: Option<Via>,
    /// The other Via text, one entry for each line; a list stays as it is.
    vias: Vec<Bytes>,
    from: Option<Bytes>,
    to: Option<Bytes>,
    call_id: Option<Bytes>,
    cseq: Option<Bytes>,
    timestamp: Option<Bytes>,
    record_routes: Vec<Bytes>,
}

impl Repeated {
    /// Works on malformed requests too: takes what is there. Never longer than what was sent.
    pub(crate) fn collect(wire: &Bytes, fields: &[Field]) -> Self {
        let mut repeated = Self::default();
        for field in fields {
            let value = || field.value(wire);
            let slot = match field.kind {
                Name::From => &mut repeated.from,
                Name::To => &mut repeated.to,
                Name::CallId => &mut repeated.call_id,
                Name::CSeq => &mut repeated.cseq,
                Name::Timestamp => &mut repeated.timestamp,
                Name::Via => {
                    repeated.add_via(value());
                    continue;
                }
                Name::RecordRoute => {
                    repeated.record_routes.push(value());
                    continue;
                }
                _ => continue,
            };
            slot.get_or_insert_with(value);
        }
        repeated
    }

    fn add_via(&mut self, line: Bytes) {
        if self.has_via() {
            return self.vias.push(line);
        }
        let text = ByteStr::from_utf8(line.clone()).unwrap_or_default();
        let (first, rest) = split_first(&text);
        self.top = Via::parse(&text.share(first));
        match rest {
            _ if self.top.is_none() => self.vias.push(line),
            Some(rest) => self.vias.push(text.share(rest.trim_ascii()).as_bytes().clone()),
            None => {}
        }
    }

    pub(crate) fn has_via(&self) -> bool {
        self.top.is_some() || !self.vias.is_empty()
    }

    pub(crate) fn head(self, source: SocketAddr) -> ResponseHead {
        let to_is_tagged = self.to.as_ref().is_some_and(|to| {
            NameAddr::parse(&ByteStr::from_utf8_lossy(to)).is_some_and(|to| to.tag().is_some())
        });
        ResponseHead { top: self.top.as_ref().map(|via| via.stamped(source)), to_is_tagged, repeated: self }
    }
}

impl fmt::Debug for Repeated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // From, To and the routes can name a party.
        f.debug_struct("Repeated")
            .field("call_id", &self.call_id)
            .field("cseq", &self.cseq)
            .finish_non_exhaustive()
    }
}

/// What a response repeats of its request: Via (with the request's source), From, To, Call-ID, CSeq;
/// Record-Route and Timestamp where they belong. `Debug` shows none of the parties.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResponseHead {
    top: Option<String>,
    to_is_tagged: bool,
    repeated: Repeated,
}

/// A response of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResponseOut {
    /// From [`super::message::Request::response_head`] of the request that it answers.
    pub head: ResponseHead,
    /// 100 to 699; the phrase is [`phrase`]'s.
    pub status: u16,
    /// Added to To unless the request had one (RFC 3261 §8.2.6.2); only a 100 may go without.
    pub to_tag: Option<String>,
    /// Our URI, without `<>`; mandatory in what creates a dialog (RFC 3261 §12.1.1).
    pub contact: Option<String>,
    /// Whether to repeat Record-Route: in what creates a dialog.
    pub record_route: bool,
    /// Others, in this order.
    pub headers: Vec<HeaderOut>,
    /// The body.
    pub body: Option<BodyOut>,
}

impl ResponseOut {
    /// The text as it goes on the wire.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut text = Text::for_message(self.body.as_ref());
        text.plain("SIP/2.0 ").number(self.status.into()).plain(" ").plain(phrase(self.status)).plain("\r\n");
        let Repeated { vias, from, to, call_id, cseq, timestamp, record_routes, .. } = &self.head.repeated;
        if let Some(top) = &self.head.top {
            text.plain("Via: ").repeated(top.as_bytes()).plain("\r\n");
        }
        for via in vias {
            text.plain("Via: ").repeated(via).plain("\r\n");
        }
        for route in record_routes.iter().filter(|_| self.record_route) {
            text.plain("Record-Route: ").repeated(route).plain("\r\n");
        }
        if let Some(from) = from {
            text.plain("From: ").repeated(from).plain("\r\n");
        }
        if let Some(to) = to {
            text.plain("To: ").repeated(to);
            if let Some(tag) = self.to_tag.as_ref().filter(|_| !self.head.to_is_tagged) {
                text.plain(";tag=").word(tag);
            }
            text.plain("\r\n");
        }
        if let Some(call_id) = call_id {
            text.plain("Call-ID: ").repeated(call_id).plain("\r\n");
        }
        if let Some(cseq) = cseq {
            text.plain("CSeq: ").repeated(cseq).plain("\r\n");
        }
        // RFC 3261 §8.2.6.1: in a 100 only.
        if let Some(timestamp) = timestamp.as_ref().filter(|_| self.status == 100) {
            text.plain("Timestamp: ").repeated(timestamp).plain("\r\n");
        }
        text.rest(self.contact.as_deref(), &self.headers, self.body.as_ref())
    }
}

/// Our Via.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ViaOut {
    /// `UDP`, `TCP` or `TLS`.
    pub transport: &'static str,
    /// Our host, with brackets if it is an IPv6 address, and port.
    pub sent_by: String,
    /// With the cookie of RFC 3261 §8.1.1.7.
    pub branch: String,
}

/// From or To of a request. `Debug` shows the tag only.
#[derive(Clone, PartialEq, Eq)]
pub struct AddressOut {
    /// The URI, without `<>`.
    pub uri: String,
    /// Ours in From; the peer's in To once there is a dialog.
    pub tag: Option<String>,
}

impl fmt::Debug for AddressOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AddressOut").field("tag", &self.tag).finish_non_exhaustive()
    }
}

/// A request of ours. `Debug` shows none of the parties.
#[derive(Clone, PartialEq, Eq)]
pub struct RequestOut {
    /// The method; CSeq gets the same.
    pub method: Method,
    /// The Request-URI.
    pub uri: String,
    /// The only Via; it asks for the response at the source port (RFC 3581).
    pub via: ViaOut,
    /// What is left of the way.
    pub max_forwards: u8,
    /// Who we say we are.
    pub from: AddressOut,
    /// Whom we address.
    pub to: AddressOut,
    /// Of the dialog.
    pub call_id: String,
    /// Below 2^31.
    pub cseq: u32,
    /// Our URI, without `<>`.
    pub contact: Option<String>,
    /// The dialog's route set, first hop first: Record-Route values of this very peer, or URIs.
    pub routes: Vec<String>,
    /// Others, in this order.
    pub headers: Vec<HeaderOut>,
    /// The body.
    pub body: Option<BodyOut>,
}

impl fmt::Debug for RequestOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestOut")
            .field("method", &self.method)
            .field("call_id", &self.call_id)
            .field("cseq", &self.cseq)
            .field("branch", &self.via.branch)
            .finish_non_exhaustive()
    }
}

impl RequestOut {
    /// The credentials among its headers: the ACK of a 2xx repeats its INVITE's (RFC 3261 §22.1).
    pub fn credentials(&self) -> impl Iterator<Item = &HeaderOut> {
        self.headers.iter().filter(|header| matches!(header, HeaderOut::Authorization(_)))
    }

    /// The text as it goes on the wire.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut text = Text::for_message(self.body.as_ref());
        text.word(self.method.as_str()).plain(" ").uri(&self.uri).plain(" SIP/2.0\r\n");
        text.plain("Via: SIP/2.0/").word(self.via.transport).plain(" ").word(&self.via.sent_by);
        text.plain(";branch=").word(&self.via.branch).plain(";rport\r\n");
        text.plain("Max-Forwards: ").number(self.max_forwards.into()).plain("\r\n");
        for route in &self.routes {
            text.plain("Route: ");
            if route.contains('<') { text.line(route) } else { text.bracketed(route) }.plain("\r\n");
        }
        for (name, address) in [("From: ", &self.from), ("To: ", &self.to)] {
            text.plain(name).bracketed(&address.uri);
            if let Some(tag) = &address.tag {
                text.plain(";tag=").word(tag);
            }
            text.plain("\r\n");
        }
        text.plain("Call-ID: ").call_id(&self.call_id).plain("\r\n");
        text.plain("CSeq: ").number(self.cseq).plain(" ").word(self.method.as_str()).plain("\r\n");
        text.rest(self.contact.as_deref(), &self.headers, self.body.as_ref())
    }
}

/// A header that we may add. Lists that are empty are left out, but for Recv-Info.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HeaderOut {
    /// The methods that we take (RFC 3261 §20.5).
    Allow,
    /// `application/sdp` (RFC 3261 §20.1; mandatory in a 415).
    Accept,
    /// Option tags that we support (RFC 3261 §20.37).
    Supported(&'static [&'static str]),
    /// Option tags that the peer must support (RFC 3261 §20.32).
    Require(&'static [&'static str]),
    /// Option tags of the peer's Require that we do not know; mandatory in a 420 (RFC 3261 §8.2.2.3).
    Unsupported(Vec<String>),
    /// Seconds (RFC 3261 §20.33).
    RetryAfter(u32),
    /// Why a request or response was sent, for the log of the peer (RFC 3326).
    Reason {
        /// `SIP` or `Q.850`.
        protocol: &'static str,
        /// Status code or Q.850 cause.
        cause: u16,
    },
    /// The session interval (RFC 4028 §4).
    SessionExpires {
        /// At least 90.
        seconds: u32,
        /// `uac` or `uas`; mandatory in a 2xx.
        refresher: Option<&'static str>,
    },
    /// The least interval, in seconds; mandatory in a 422 (RFC 4028 §5).
    MinSe(u32),
    /// The number of a reliable provisional response (RFC 3262 §7.1).
    RSeq(u32),
    /// Which one a PRACK acknowledges (RFC 3262 §7.2).
    RAck {
        /// Its RSeq.
        rseq: u32,
        /// The number of the INVITE's CSeq.
        cseq: u32,
    },
    /// Who sends the request.
    UserAgent,
    /// Who sends the response.
    Server,
    /// No Info Package is wanted: an empty list (RFC 6086 §5.2, mandatory in a 469).
    RecvInfo,
    /// Our credentials, for the peer that asked for them (RFC 3261 §20.7, §20.28).
    Authorization(Box<Authorization>),
    /// What a caller must prove (RFC 3261 §20.44).
    WwwAuthenticate(Box<ChallengeOut>),
    /// The virtual number's URI, for a carrier that wants it here (RFC 3325 §9.1).
    PAssertedIdentity(String),
    /// The same for carriers of an older habit (draft-ietf-sip-privacy-04).
    RemotePartyId(String),
    /// Seconds (RFC 3261 §20.19).
    Expires(u32),
}

/// A body that we may send.
#[derive(Clone, PartialEq, Eq)]
pub enum BodyOut {
    /// `application/sdp`.
    Sdp(String),
}

impl fmt::Debug for BodyOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::Sdp(sdp) = self;
        write!(f, "Sdp({} bytes)", sdp.len())
    }
}

/// The message as far as it is written. Each method leaves out what its place in the grammar cannot hold.
struct Text(Vec<u8>);

impl Text {
    /// With room for what most messages take: some are kept for half a minute, to be repeated.
    fn for_message(body: Option<&BodyOut>) -> Self {
        let body = body.map_or(0, |BodyOut::Sdp(sdp)| sdp.as_str().len());
        Self(Vec::with_capacity(512 + body))
    }

    /// Words of this file.
    fn plain(&mut self, text: &'static str) -> &mut Self {
        self.0.extend_from_slice(text.as_bytes());
        self
    }

    fn number(&mut self, number: u32) -> &mut Self {
        self.0.extend_from_slice(number.to_string().as_bytes());
        self
    }

    fn filtered(&mut self, text: &[u8], keep: impl Fn(u8) -> bool) -> &mut Self {
        // As a rule nothing is left out; all bytes are looked at, so that the compiler can look at many at once.
        if text.iter().fold(true, |all, &byte| all & keep(byte)) {
            self.0.extend_from_slice(text);
        } else {
            self.0.extend(text.iter().filter(|&&byte| keep(byte)));
        }
        self
    }

    /// A token or host: printable ASCII that separates nothing.
    fn word(&mut self, text: &str) -> &mut Self {
        self.filtered(text.as_bytes(), |b| {
            b.is_ascii_graphic() && !matches!(b, b';' | b',' | b'<' | b'>' | b'"')
        })
    }

    /// A Call-ID may hold separators (RFC 3261 §25.1, word).
    fn call_id(&mut self, text: &str) -> &mut Self {
        self.filtered(text.as_bytes(), |b| b.is_ascii_graphic())
    }

    fn uri(&mut self, text: &str) -> &mut Self {
        self.filtered(text.as_bytes(), |b| !b.is_ascii_control() && !matches!(b, b' ' | b'<' | b'>' | b'"'))
    }

    fn bracketed(&mut self, uri: &str) -> &mut Self {
        self.plain("<").uri(uri).plain(">")
    }

    fn line(&mut self, text: &str) -> &mut Self {
        self.filtered(text.as_bytes(), |b| !b.is_ascii_control())
    }

    /// What the peer itself sent, byte for byte; it was cut out of one line, so it cannot end one.
    fn repeated(&mut self, value: &[u8]) -> &mut Self {
        debug_assert!(!value.iter().any(|b| matches!(b, b'\r' | b'\n')), "unfolded when it was read");
        self.filtered(value, |b| !matches!(b, b'\r' | b'\n'))
    }

    fn list<S: AsRef<str>>(&mut self, name: &'static str, values: &[S]) -> &mut Self {
        let mut values = values.iter();
        let Some(first) = values.next() else { return self };
        self.plain(name).word(first.as_ref());
        for value in values {
            self.plain(", ").word(value.as_ref());
        }
        self.plain("\r\n")
    }

    fn header(&mut self, header: &HeaderOut) {
        match header {
            HeaderOut::Allow => self.plain("Allow: ").plain(ALLOWED).plain("\r\n"),
            HeaderOut::Accept => self.plain("Accept: application/sdp\r\n"),
            HeaderOut::Supported(tags) => self.list("Supported: ", tags),
            HeaderOut::Require(tags) => self.list("Require: ", tags),
            HeaderOut::Unsupported(tags) => self.list("Unsupported: ", tags),
            HeaderOut::RetryAfter(seconds) => self.plain("Retry-After: ").number(*seconds).plain("\r\n"),
            HeaderOut::Reason { protocol, cause } => {
                self.plain("Reason: ").word(protocol).plain(";cause=").number((*cause).into()).plain("\r\n")
            }
            HeaderOut::SessionExpires { seconds, refresher } => {
                self.plain("Session-Expires: ").number(*seconds);
                if let Some(refresher) = refresher {
                    self.plain(";refresher=").plain(refresher);
                }
                self.plain("\r\n")
            }
            HeaderOut::MinSe(seconds) => self.plain("Min-SE: ").number(*seconds).plain("\r\n"),
            HeaderOut::RSeq(number) => self.plain("RSeq: ").number(*number).plain("\r\n"),
            HeaderOut::RAck { rseq, cseq } => {
                self.plain("RAck: ").number(*rseq).plain(" ").number(*cseq).plain(" INVITE\r\n")
            }
            HeaderOut::UserAgent => self.plain("User-Agent: ").plain(PRODUCT).plain("\r\n"),
            HeaderOut::Server => self.plain("Server: ").plain(PRODUCT).plain("\r\n"),
            HeaderOut::RecvInfo => self.plain("Recv-Info:\r\n"),
            HeaderOut::Authorization(authorization) => {
                let (name, text) = authorization.header();
                self.plain(name).line(&text).plain("\r\n")
            }
            HeaderOut::WwwAuthenticate(challenge) => {
                self.plain("WWW-Authenticate: ").line(&challenge.text()).plain("\r\n")
            }
            HeaderOut::PAssertedIdentity(uri) => {
                self.plain("P-Asserted-Identity: ").bracketed(uri).plain("\r\n")
            }
            HeaderOut::RemotePartyId(uri) => self
                .plain("Remote-Party-ID: ")
                .bracketed(uri)
                .plain(";party=calling;privacy=off;screen=yes\r\n"),
            HeaderOut::Expires(seconds) => self.plain("Expires: ").number(*seconds).plain("\r\n"),
        };
    }

    /// What ends every message.
    fn rest(mut self, contact: Option<&str>, headers: &[HeaderOut], body: Option<&BodyOut>) -> Bytes {
        if let Some(contact) = contact {
            self.plain("Contact: ").bracketed(contact).plain("\r\n");
        }
        for header in headers {
            self.header(header);
        }
        let body = match body {
            Some(BodyOut::Sdp(sdp)) => {
                self.plain("Content-Type: application/sdp\r\n");
                sdp.as_str()
            }
            None => "",
        };
        self.plain("Content-Length: ");
        self.0.extend_from_slice(body.len().to_string().as_bytes());
        self.plain("\r\n\r\n");
        self.0.extend_from_slice(body.as_bytes());
        self.0.into()
    }
}

/// Our own reason phrase for a status (RFC 3261 §21 and the registered extensions); that of its class for a
/// status which has none.
#[must_use]
pub fn phrase(status: u16) -> &'static str {
    match status {
        100 => "Trying",
        180 => "Ringing",
        181 => "Call Is Being Forwarded",
        182 => "Queued",
        183 => "Session Progress",
        199 => "Early Dialog Terminated",
        200 => "OK",
        202 => "Accepted",
        204 => "No Notification",
        300 => "Multiple Choices",
        301 => "Moved Permanently",
        302 => "Moved Temporarily",
        305 => "Use Proxy",
        380 => "Alternative Service",
        400 => "Bad Request",
        401 => "Unauthorized",
        402 => "Payment Required",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        407 => "Proxy Authentication Required",
        408 => "Request Timeout",
        410 => "Gone",
        412 => "Conditional Request Failed",
        413 => "Request Entity Too Large",
        414 => "Request-URI Too Long",
        415 => "Unsupported Media Type",
        416 => "Unsupported URI Scheme",
        417 => "Unknown Resource-Priority",
        420 => "Bad Extension",
        421 => "Extension Required",
        422 => "Session Interval Too Small",
        423 => "Interval Too Brief",
        424 => "Bad Location Information",
        428 => "Use Identity Header",
        429 => "Provide Referrer Identity",
        430 => "Flow Failed",
        433 => "Anonymity Disallowed",
        436 => "Bad Identity Info",
        437 => "Unsupported Credential",
        438 => "Invalid Identity Header",
        439 => "First Hop Lacks Outbound Support",
        440 => "Max-Breadth Exceeded",
        469 => "Bad Info Package",
        470 => "Consent Needed",
        480 => "Temporarily Unavailable",
        481 => "Call/Transaction Does Not Exist",
        482 => "Loop Detected",
        483 => "Too Many Hops",
        484 => "Address Incomplete",
        485 => "Ambiguous",
        486 => "Busy Here",
        487 => "Request Terminated",
        488 => "Not Acceptable Here",
        489 => "Bad Event",
        491 => "Request Pending",
        493 => "Undecipherable",
        494 => "Security Agreement Required",
        500 => "Server Internal Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Server Time-out",
        505 => "Version Not Supported",
        513 => "Message Too Large",
        555 => "Push Notification Service Not Supported",
        580 => "Precondition Failure",
        600 => "Busy Everywhere",
        603 => "Decline",
        604 => "Does Not Exist Anywhere",
        606 => "Not Acceptable",
        607 => "Unwanted",
        608 => "Rejected",
        _ => match status / 100 {
            1 => "Progress",
            2 => "Success",
            3 => "Redirection",
            4 => "Request Failure",
            5 => "Server Failure",
            _ => "Failure",
        },
    }
}
