//! A received SIP message as types: start line, the headers that every message has, and access to the rest
//! (RFC 3261 §7, §8.1.1, §20).
//!
//! `Message::parse` either gives a message whose mandatory parts are all there and consistent, or says what
//! is wrong and whether the peer must be told. It does not judge: unknown methods, unknown schemes, Require
//! and Max-Forwards of zero are for those who know what we support. `Debug` shows nothing that could name a
//! party.

use std::borrow::Cow;
use std::fmt;
use std::net::SocketAddr;

use bytes::Bytes;

use super::address::{NameAddr, Via};
use super::encode::{Repeated, ResponseHead, ResponseOut};
use super::grammar::{is_free_of, is_token, number, split_list, split_while, trim, unfold};
pub use super::method::{Method, UnknownMethod};
use super::uri::Uri;
use super::wire::{self, ByteStr, Field, Index, MAX_MESSAGE, MAX_TOKEN, MAX_URI, MAX_VIAS, Malformed, Name};

/// CSeq (RFC 3261 §20.16).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct CSeq {
    /// Below 2^31 (RFC 3261 §8.1.1.5).
    pub number: u32,
    /// Equal to the request's own method.
    pub method: Method,
}

/// One received message.
#[derive(Debug, Clone)]
pub enum Message {
    /// A peer asks.
    Request(Request),
    /// A peer answers.
    Response(Response),
}

/// A received request.
#[derive(Clone)]
pub struct Request {
    /// Its method, known or not.
    pub method: Method,
    /// The Request-URI; of any scheme.
    pub uri: Uri,
    /// Its headers.
    pub head: Head,
    /// Its body, as long as Content-Length says.
    pub body: Bytes,
}

/// A received response. The peer's reason phrase is not kept: it must not pass, and nobody may judge by it.
#[derive(Clone)]
pub struct Response {
    /// 100 to 699.
    pub status: u16,
    /// Its headers.
    pub head: Head,
    /// Its body, as long as Content-Length says.
    pub body: Bytes,
}

/// The headers of a message.
#[derive(Clone)]
pub struct Head {
    /// At most [`MAX_TOKEN`] bytes.
    pub call_id: ByteStr,
    /// Sequence number and method.
    pub cseq: CSeq,
    /// Who began the dialog or asks outside of one; RFC 2543 peers send no tag.
    pub from: NameAddr,
    /// Whom it is for.
    pub to: NameAddr,
    /// The topmost Via value.
    pub via: Via,
    /// All Via values as received, topmost first; those below the topmost are not checked.
    pub vias: Vec<ByteStr>,
    /// Of requests, when present; at most 255.
    pub max_forwards: Option<u8>,
    /// The first Contact value; `None` also for `*`, and for what cannot be read in a response.
    pub contact: Option<NameAddr>,
    /// All Record-Route values in the order of the message; each of them reads as a [`NameAddr`].
    pub record_routes: Vec<ByteStr>,
    /// The message, and where its headers lie.
    wire: Bytes,
    fields: Vec<Field>,
}

impl Message {
    /// Reads one message: a datagram, or what [`super::wire::frame`] cut out of a stream.
    ///
    /// Line ends before it are skipped; what follows the body is ignored; without Content-Length the body
    /// goes to the end (RFC 3261 §18.3). The message and all its parts share the memory of `wire`.
    ///
    /// # Errors
    /// [`ParseError`] names the fault and knows whether the RFC wants it answered.
    pub fn parse(wire: Bytes) -> Result<Self, ParseError> {
        let (index, scanned) = Index::scan(&wire);
        let checked = scanned.and(if wire.len() > MAX_MESSAGE { Err(Malformed::TooLarge) } else { Ok(()) });
        match checked.and_then(|()| Self::read(&wire, &index)) {
            Ok((start, head, body)) => {
                let head = Head { wire, fields: index.fields, ..head };
                Ok(match start {
                    Start::Request { method, uri } => Self::Request(Request { method, uri, head, body }),
                    Start::Status(status) => Self::Response(Response { status, head, body }),
                })
            }
            Err(cause) => Err(ParseError::new(cause, &wire, &index)),
        }
    }

    fn read(wire: &Bytes, index: &Index) -> Result<(Start, Head, Bytes), Malformed> {
        let start = Start::read(index.start_line.share(wire))?;
        let is_request = matches!(start, Start::Request { .. });
        let head = Head::read(wire, &index.fields, is_request)?;
        if let Start::Request { method, .. } = &start
            && *method != head.cseq.method
        {
            return Err(Malformed::MethodMismatch);
        }
        let rest = wire.get(index.body..).unwrap_or_default();
        let length = wire::content_length(wire, &index.fields)?.unwrap_or(rest.len());
        let body = rest.get(..length).ok_or(Malformed::BodyTooShort)?;
        Ok((start, head, wire.slice_ref(body)))
    }

    /// The headers, of whatever kind the message is.
    #[must_use]
    pub fn head(&self) -> &Head {
        match self {
            Self::Request(request) => &request.head,
            Self::Response(response) => &response.head,
        }
    }
}

/// What the start line says.
enum Start {
    Request { method: Method, uri: Uri },
    Status(u16),
}

impl Start {
    fn read(line: Bytes) -> Result<Self, Malformed> {
        if line.starts_with(b"SIP/") {
            return Self::read_status(&line);
        }
        let line = ByteStr::from_utf8(line).ok_or(Malformed::StartLine)?;
        let (method, uri, version) = split_request_line(&line).ok_or(Malformed::StartLine)?;
        let method = Method::parse(&line.share(method)).ok_or(Malformed::StartLine)?;
        if !version.eq_ignore_ascii_case("SIP/2.0") {
            let is_version = version.get(..4).is_some_and(|v| v.eq_ignore_ascii_case("SIP/"));
            return Err(if is_version { Malformed::Version } else { Malformed::StartLine });
        }
        if uri.len() > MAX_URI {
            return Err(Malformed::UriTooLong);
        }
        // RFC 3261 §19.1.1: a Request-URI has no headers; what an escaped Route or From would do is no
        // question that we want to be asked (RFC 4475 §3.1.2.11).
        let uri = Uri::read(line.share(uri)).filter(|u| !u.has_headers()).ok_or(Malformed::Uri)?;
        Ok(Self::Request { method, uri })
    }

    /// `SIP/2.0 200 OK`; the phrase may be of any bytes, and may be missing with its space.
    fn read_status(line: &[u8]) -> Result<Self, Malformed> {
        let rest = line.strip_prefix(b"SIP/2.0 ").ok_or(Malformed::StartLine)?;
        let (code, phrase) = rest.split_first_chunk::<3>().ok_or(Malformed::StatusCode)?;
        let code = std::str::from_utf8(code).ok().and_then(|c| number(c, 699));
        let code = code.and_then(|c| u16::try_from(c).ok()).filter(|&c| c >= 100);
        match phrase.first() {
            None | Some(b' ') => code.map(Self::Status).ok_or(Malformed::StatusCode),
            Some(_) => Err(Malformed::StatusCode),
        }
    }
}

/// Method, URI and version; exactly one space between them (RFC 3261 §7.1).
fn split_request_line(line: &str) -> Option<(&str, &str, &str)> {
    let (method, rest) = line.split_once(' ')?;
    let (uri, version) = rest.rsplit_once(' ')?;
    Some((method, uri, version))
}

/// Keeps the first occurrence of a header that may occur once.
fn once<'a>(slot: &mut Option<&'a Field>, field: &'a Field, name: &'static str) -> Result<(), Malformed> {
    if slot.replace(field).is_some() { Err(Malformed::Repeated(name)) } else { Ok(()) }
}

/// Adds the values of one header line to `values`.
fn append(values: &mut Vec<ByteStr>, line: &ByteStr, name: &'static str) -> Result<(), Malformed> {
    for value in split_list(line) {
        if value.is_empty() || !is_free_of(value, |b| (b < b' ' && b != b'\t') || b == 0x7f) {
            return Err(Malformed::Invalid(name));
        }
        if values.len() == MAX_VIAS {
            return Err(Malformed::TooMany(name));
        }
        values.push(line.share(value));
    }
    Ok(())
}

impl Head {
    /// `wire` and `fields` of the result are left empty for the caller to fill.
    fn read(wire: &Bytes, fields: &[Field], is_request: bool) -> Result<Self, Malformed> {
        let (mut from, mut to, mut call_id, mut cseq, mut max_forwards) = (None, None, None, None, None);
        let (mut contact, mut vias, mut record_routes) = (None, Vec::new(), Vec::new());
        for field in fields {
            match field.kind {
                Name::From => once(&mut from, field, "From")?,
                Name::To => once(&mut to, field, "To")?,
                Name::CallId => once(&mut call_id, field, "Call-ID")?,
                Name::CSeq => once(&mut cseq, field, "CSeq")?,
                Name::MaxForwards if is_request => once(&mut max_forwards, field, "Max-Forwards")?,
                Name::Contact if contact.is_none() => contact = Some(field),
                Name::Via => append(&mut vias, &strict(wire, field, "Via")?, "Via")?,
                Name::RecordRoute => {
                    append(&mut record_routes, &strict(wire, field, "Record-Route")?, "Record-Route")?;
                }
                _ => {}
            }
        }
        if record_routes.iter().any(|route| NameAddr::parse(route).is_none()) {
            return Err(Malformed::Invalid("Record-Route"));
        }
        let via =
            Via::parse(vias.first().ok_or(Malformed::Missing("Via"))?).ok_or(Malformed::Invalid("Via"))?;
        Ok(Self {
            call_id: read_call_id(wire, call_id.ok_or(Malformed::Missing("Call-ID"))?)?,
            cseq: read_cseq(wire, cseq.ok_or(Malformed::Missing("CSeq"))?)?,
            from: read_party(wire, from.ok_or(Malformed::Missing("From"))?, "From")?,
            to: read_party(wire, to.ok_or(Malformed::Missing("To"))?, "To")?,
            via,
            vias,
            max_forwards: max_forwards.map(|f| read_max_forwards(wire, f)).transpose()?,
            contact: contact.map_or(Ok(None), |f| read_contact(wire, f, is_request))?,
            record_routes,
            wire: Bytes::new(),
            fields: Vec::new(),
        })
    }

    fn named(&self, name: &str) -> impl Iterator<Item = &Field> {
        self.fields.iter().filter(move |f| wire::same_name(f.name.of(&self.wire), name.as_bytes()))
    }

    /// The first header of that name, whatever its case and also in its compact form: on one line, with
    /// U+FFFD in place of what is not UTF-8.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<Cow<'_, str>> {
        self.named(name).next().map(|f| self.text(f))
    }

    /// All headers of that name, each line as it came: a list stays one value.
    pub fn headers(&self, name: &str) -> impl Iterator<Item = Cow<'_, str>> {
        self.named(name).map(|f| self.text(f))
    }

    /// All values of a header that is a list, such as Require or P-Asserted-Identity, in order; empty ones
    /// are left out.
    #[must_use]
    pub fn tokens(&self, name: &str) -> Vec<String> {
        let mut tokens = Vec::new();
        for line in self.headers(name) {
            tokens.extend(split_list(&line).filter(|v| !v.is_empty()).map(str::to_owned));
        }
        tokens
    }

    /// Media type and subtype of the body in lower case, without parameters: `application/sdp`.
    #[must_use]
    pub fn content_type(&self) -> Option<String> {
        let value = self.header("Content-Type")?;
        let (media, _) = split_while(&value, |b| b != b';');
        let (kind, subtype) = media.split_once('/')?;
        Some(format!("{}/{}", trim(kind).to_ascii_lowercase(), trim(subtype).to_ascii_lowercase()))
    }

    fn text(&self, field: &Field) -> Cow<'_, str> {
        let raw = field.raw(&self.wire);
        match unfold(raw) {
            Some(plain) => String::from_utf8_lossy(&plain).into_owned().into(),
            None => String::from_utf8_lossy(raw),
        }
    }
}

/// A value in which nothing but UTF-8 can be meant.
fn strict(wire: &Bytes, field: &Field, name: &'static str) -> Result<ByteStr, Malformed> {
    ByteStr::from_utf8(field.value(wire)).ok_or(Malformed::Invalid(name))
}

/// RFC 3261 §20.8: words, with at most one `@` between them; here anything printable that is not blank.
fn read_call_id(wire: &Bytes, field: &Field) -> Result<ByteStr, Malformed> {
    let call_id = strict(wire, field, "Call-ID")?;
    let fits = (1..=MAX_TOKEN).contains(&call_id.len()) && is_free_of(&call_id, |b| b <= b' ' || b >= 0x7f);
    fits.then_some(call_id).ok_or(Malformed::Invalid("Call-ID"))
}

fn read_cseq(wire: &Bytes, field: &Field) -> Result<CSeq, Malformed> {
    let value = strict(wire, field, "CSeq")?;
    let (digits, rest) = split_while(&value, |b| b.is_ascii_digit());
    // RFC 3261 §8.1.1.5: less than 2^31.
    let number = number(digits, (1 << 31) - 1);
    let name = trim(rest);
    let method = (name.len() < rest.len()).then(|| Method::parse(&value.share(name))).flatten();
    number.zip(method).map(|(number, method)| CSeq { number, method }).ok_or(Malformed::Invalid("CSeq"))
}

/// From and To. A display name in Latin-1 is no reason to refuse a call; nothing else there may be of such
/// bytes, because U+FFFD in host, parameter name or tag is refused or means nothing.
fn read_party(wire: &Bytes, field: &Field, name: &'static str) -> Result<NameAddr, Malformed> {
    NameAddr::parse(&ByteStr::from_utf8_lossy(&field.value(wire))).ok_or(Malformed::Invalid(name))
}

/// RFC 3261 §20.22: 0 to 255.
fn read_max_forwards(wire: &Bytes, field: &Field) -> Result<u8, Malformed> {
    let value = strict(wire, field, "Max-Forwards")?;
    let number = number(&value, 255).and_then(|n| u8::try_from(n).ok());
    number.ok_or(Malformed::Invalid("Max-Forwards"))
}

/// The first value. A bad one makes a request bad; a response is taken all the same, because a call that is
/// up at the peer must be acknowledged and ended, and the target we have will do for that.
fn read_contact(wire: &Bytes, field: &Field, is_request: bool) -> Result<Option<NameAddr>, Malformed> {
    let line = ByteStr::from_utf8_lossy(&field.value(wire));
    let value = split_list(&line).next().unwrap_or_default();
    let contact = NameAddr::parse(&line.share(value));
    if contact.is_none() && is_request && value != "*" {
        return Err(Malformed::Invalid("Contact"));
    }
    Ok(contact)
}

impl Request {
    /// Its length as it came, in bytes.
    #[must_use]
    pub fn size(&self) -> usize {
        self.head.wire.len()
    }

    /// What every response to this request repeats of it (RFC 3261 §8.2.6.2), with the topmost Via completed
    /// by where the request came from (§18.2.1, RFC 3581 §4).
    #[must_use]
    pub fn response_head(&self, source: SocketAddr) -> ResponseHead {
        let repeated = Repeated::collect(&self.head.wire, &self.head.fields);
        repeated.head(source)
    }
}

impl Response {
    /// Whether it reached us by mistake: RFC 3261 §8.1.3.3 has a client drop a response that carries more
    /// Vias than its own.
    #[must_use]
    pub fn is_misrouted(&self) -> bool {
        self.head.vias.len() > 1
    }

    /// The status as rsip names it.
    #[must_use]
    pub fn status_code(&self) -> rsip::StatusCode {
        self.status.into()
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Request({:?}, {:?}, {} bytes)", self.method, self.head, self.body.len())
    }
}

impl fmt::Debug for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Response({}, {:?}, {} bytes)", self.status, self.head, self.body.len())
    }
}

impl fmt::Debug for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Head")
            .field("call_id", &self.call_id)
            .field("cseq", &self.cseq)
            .field("from_tag", &self.from.tag())
            .field("to_tag", &self.to.tag())
            .field("branch", &self.via.branch)
            .finish_non_exhaustive()
    }
}

/// Why a message was not taken.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{cause}")]
pub struct ParseError {
    cause: Malformed,
    reply: Option<Box<MalformedReply>>,
}

impl ParseError {
    fn new(cause: Malformed, wire: &Bytes, index: &Index) -> Self {
        Self { cause, reply: reply_to(cause, wire, index).map(Box::new) }
    }

    /// What is wrong, without a word of what was sent.
    #[must_use]
    pub fn cause(&self) -> Malformed {
        self.cause
    }

    /// What to answer; `None` means silence. Only requests are answered, never an ACK (RFC 3261 §17.1.1.3),
    /// and only if they have a Via, without which no client could tell what the answer is about.
    #[must_use]
    pub fn answer(&self) -> Option<MalformedReply> {
        self.reply.as_deref().cloned()
    }
}

fn reply_to(cause: Malformed, wire: &Bytes, index: &Index) -> Option<MalformedReply> {
    let line = index.start_line.of(wire);
    let (method, rest) = line.split_at_checked(line.iter().position(|&b| !is_token(b))?)?;
    let asks = !method.is_empty() && method != b"ACK" && rest.first() == Some(&b' ');
    // Noise that has spaces is not yet a request: it must claim some version of SIP at its end.
    let version = rest.trim_ascii_end().rsplit(|&b| b == b' ').next()?;
    let claims = version.get(..4).is_some_and(|v| v.eq_ignore_ascii_case(b"SIP/"));
    // What is too short to be a request would get an answer twice its size (reflection).
    if !asks || !claims || wire.len() < 100 {
        return None;
    }
    let repeated = Repeated::collect(wire, &index.fields);
    repeated.has_via().then_some(MalformedReply { status: cause.sip_status(), repeated })
}

/// The answer that a malformed request gets, as far as the request could be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MalformedReply {
    /// 400, 414, 505 or 513.
    pub status: u16,
    repeated: Repeated,
}

impl MalformedReply {
    /// The response, to be sent statelessly to where the request came from (RFC 3261 §8.2.7). Headers that
    /// the request lacks are missing here too.
    #[must_use]
    pub fn response(&self, source: SocketAddr, to_tag: String) -> ResponseOut {
        ResponseOut {
            head: self.repeated.clone().head(source),
            status: self.status,
            to_tag: Some(to_tag),
            contact: None,
            record_route: false,
            headers: Vec::new(),
            body: None,
        }
    }
}
