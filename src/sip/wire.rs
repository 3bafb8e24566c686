//! The bytes of a SIP message: limits, header index, and framing on streams.
//!
//! RFC 3261 §7, §18.3 and §25.1, with the torture messages of RFC 4475 and RFC 5118 in mind. Everything here
//! is total and linear in the length of the input, reads each byte a bounded number of times, and copies
//! nothing but a folded header value. It never decides what a message means: [`super::message`] does.

use std::fmt;
use std::ops::Deref;

use bytes::Bytes;
use bytestring::ByteString;
use memchr::memchr;

use super::grammar::{is_blank, is_token, number, unfold};

/// Longest message in bytes; also what one UDP datagram can carry.
pub const MAX_MESSAGE: usize = 64 * 1024;
/// Longest start line and headers together, in bytes, including the empty line.
pub const MAX_HEAD: usize = 16 * 1024;
/// Most header lines of one message; a folded header counts once.
pub const MAX_HEADERS: usize = 200;
/// Longest header in bytes, with its name and its folds.
pub const MAX_HEADER: usize = 8 * 1024;
/// Most values of Via, and of Record-Route: as many as the hops that a usual Max-Forwards of 70 allows (RFC
/// 3261 §8.1.1.6). RFC 4475 §3.1.1.7 wants at least 34.
pub const MAX_VIAS: usize = 70;
/// Longest URI in bytes.
pub const MAX_URI: usize = 2 * 1024;
/// Longest method, tag, branch and Call-ID in bytes.
pub const MAX_TOKEN: usize = 256;

/// A piece of a received message, known to be UTF-8, that shares the message's memory.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteStr(ByteString);

impl ByteStr {
    /// `None` when the bytes are not UTF-8.
    #[must_use]
    pub fn from_utf8(bytes: Bytes) -> Option<Self> {
        ByteString::try_from(bytes).ok().map(Self)
    }

    /// Shares the memory when the bytes are UTF-8, else copies and puts U+FFFD where they are not.
    pub(crate) fn from_utf8_lossy(bytes: &Bytes) -> Self {
        match ByteString::try_from(bytes.clone()) {
            Ok(text) => Self(text),
            Err(_) => String::from_utf8_lossy(bytes).into_owned().into(),
        }
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The same text as shared bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &Bytes {
        self.0.as_bytes()
    }

    /// `part`, which must have been borrowed from `self`, as a value that shares the memory.
    pub(crate) fn share(&self, part: &str) -> Self {
        Self(self.0.slice_ref(part))
    }
}

impl Deref for ByteStr {
    type Target = str;

    fn deref(&self) -> &str {
        self.as_str()
    }
}

impl AsRef<str> for ByteStr {
    fn as_ref(&self) -> &str {
        self.as_str()
    }
}

impl From<&str> for ByteStr {
    fn from(text: &str) -> Self {
        Self(text.into())
    }
}

impl From<String> for ByteStr {
    fn from(text: String) -> Self {
        Self(text.into())
    }
}

impl PartialEq<str> for ByteStr {
    fn eq(&self, other: &str) -> bool {
        *self.0 == *other
    }
}

impl PartialEq<&str> for ByteStr {
    fn eq(&self, other: &&str) -> bool {
        *self == **other
    }
}

impl fmt::Debug for ByteStr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl fmt::Display for ByteStr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What is wrong with a message. Every cause is the peer's doing; none carries a word of what it sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// A keep-alive, if anything (RFC 5626 §3.5.1).
    #[error("nothing but line ends")]
    Empty,
    /// Over [`MAX_MESSAGE`].
    #[error("message is too large")]
    TooLarge,
    /// Over [`MAX_HEAD`].
    #[error("headers are too large")]
    HeadTooLarge,
    /// Over [`MAX_HEADERS`].
    #[error("too many headers")]
    TooManyHeaders,
    /// Over [`MAX_HEADER`].
    #[error("a header is too long")]
    HeaderTooLong,
    /// The datagram ends, or the stream was cut, before the body could begin.
    #[error("no empty line ends the headers")]
    NoEndOfHeaders,
    /// Neither a request line nor a status line.
    #[error("bad start line")]
    StartLine,
    /// A request of another SIP version than 2.0.
    #[error("unknown SIP version")]
    Version,
    /// A status code that is not 100 to 699.
    #[error("bad status code")]
    StatusCode,
    /// The Request-URI is longer than [`MAX_URI`].
    #[error("Request-URI is too long")]
    UriTooLong,
    /// The Request-URI breaks the grammar or carries headers (RFC 3261 §19.1.1).
    #[error("bad Request-URI")]
    Uri,
    /// A header line without name or colon.
    #[error("bad header line")]
    HeaderLine,
    /// A mandatory header is missing (RFC 3261 §8.1.1).
    #[error("{0} is missing")]
    Missing(&'static str),
    /// A header that may occur once, or whose values must agree, occurs more often.
    #[error("{0} occurs more than once")]
    Repeated(&'static str),
    /// A header that we read breaks its grammar, its range or its limit.
    #[error("bad {0}")]
    Invalid(&'static str),
    /// More values than [`MAX_VIAS`].
    #[error("too many values of {0}")]
    TooMany(&'static str),
    /// CSeq names another method than the request line (RFC 3261 §8.1.1.5).
    #[error("method of CSeq differs")]
    MethodMismatch,
    /// Content-Length announces more than there is (RFC 3261 §18.3).
    #[error("body is shorter than announced")]
    BodyTooShort,
}

impl Malformed {
    /// What a request with this fault is refused with: 400, 414, 505 or 513 (RFC 3261 §21.4.1, §21.4.12,
    /// §21.5.6, §21.5.7).
    #[must_use]
    pub fn sip_status(self) -> u16 {
        match self {
            Self::Version => 505,
            Self::UriTooLong => 414,
            Self::TooLarge | Self::HeadTooLarge | Self::TooManyHeaders | Self::HeaderTooLong => 513,
            _ => 400,
        }
    }
}

/// The headers which [`super::message`] reads in every message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Name {
    Via,
    From,
    To,
    CallId,
    CSeq,
    MaxForwards,
    Contact,
    RecordRoute,
    ContentLength,
    Timestamp,
    Other,
}

impl Name {
    /// Full and compact names, whatever their case (RFC 3261 §7.3.1, §7.3.3).
    fn of(name: &[u8]) -> Self {
        let is = |text: &str| name.eq_ignore_ascii_case(text.as_bytes());
        match name.len() {
            1 => match name.first().map(u8::to_ascii_lowercase) {
                Some(b'v') => Self::Via,
                Some(b'f') => Self::From,
                Some(b't') => Self::To,
                Some(b'i') => Self::CallId,
                Some(b'm') => Self::Contact,
                Some(b'l') => Self::ContentLength,
                _ => Self::Other,
            },
            2 if is("to") => Self::To,
            3 if is("via") => Self::Via,
            4 if is("from") => Self::From,
            4 if is("cseq") => Self::CSeq,
            7 if is("call-id") => Self::CallId,
            7 if is("contact") => Self::Contact,
            9 if is("timestamp") => Self::Timestamp,
            12 if is("max-forwards") => Self::MaxForwards,
            12 if is("record-route") => Self::RecordRoute,
            14 if is("content-length") => Self::ContentLength,
            _ => Self::Other,
        }
    }
}

/// The registered one-letter names (RFC 3261 §7.3.3, RFC 3515, RFC 3841, RFC 3892, RFC 4028, RFC 6665, RFC
/// 8224).
const COMPACT: [(u8, &str); 19] = [
    (b'a', "Accept-Contact"),
    (b'b', "Referred-By"),
    (b'c', "Content-Type"),
    (b'd', "Request-Disposition"),
    (b'e', "Content-Encoding"),
    (b'f', "From"),
    (b'i', "Call-ID"),
    (b'j', "Reject-Contact"),
    (b'k', "Supported"),
    (b'l', "Content-Length"),
    (b'm', "Contact"),
    (b'n', "Identity-Info"),
    (b'o', "Event"),
    (b'r', "Refer-To"),
    (b's', "Subject"),
    (b't', "To"),
    (b'u', "Allow-Events"),
    (b'v', "Via"),
    (b'x', "Session-Expires"),
];

/// Whether two header names mean the same header: case is ignored, compact names are known.
pub(crate) fn same_name(left: &[u8], right: &[u8]) -> bool {
    fn full(name: &[u8]) -> &[u8] {
        let [letter] = name else { return name };
        let letter = letter.to_ascii_lowercase();
        COMPACT.iter().find(|(c, _)| *c == letter).map_or(name, |(_, long)| long.as_bytes())
    }
    full(left).eq_ignore_ascii_case(full(right))
}

/// A range of the message's bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Span {
    start: u32,
    end: u32,
}

impl Span {
    /// Of the head, so below 2^32.
    fn new(start: usize, end: usize) -> Self {
        Self { start: u32::try_from(start).unwrap_or(u32::MAX), end: u32::try_from(end).unwrap_or(u32::MAX) }
    }

    pub(crate) fn of(self, wire: &[u8]) -> &[u8] {
        wire.get(self.start as usize..self.end as usize).unwrap_or_default()
    }

    pub(crate) fn share(self, wire: &Bytes) -> Bytes {
        wire.slice_ref(self.of(wire))
    }
}

/// One header line: where its name and its value lie; the value is trimmed but may still be folded.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Field {
    pub(crate) kind: Name,
    pub(crate) name: Span,
    value: Span,
}

impl Field {
    /// The value as it came, folds included.
    pub(crate) fn raw<'a>(&self, wire: &'a [u8]) -> &'a [u8] {
        self.value.of(wire)
    }

    /// The value on one line; copied only when it was folded.
    pub(crate) fn value(&self, wire: &Bytes) -> Bytes {
        match unfold(self.raw(wire)) {
            Some(value) => value.into(),
            None => self.value.share(wire),
        }
    }
}

/// Where the parts of a message lie.
#[derive(Debug, Default)]
pub(crate) struct Index {
    pub(crate) start_line: Span,
    pub(crate) fields: Vec<Field>,
    /// Where the body begins; meaningful only when the scan found no fault.
    pub(crate) body: usize,
}

impl Index {
    /// Indexes start line and headers. On a fault the index holds what was read before it, so that a 400 can
    /// repeat it.
    pub(crate) fn scan(wire: &[u8]) -> (Self, Result<(), Malformed>) {
        // Most requests have 12 to 25 headers.
        let mut index = Self { fields: Vec::with_capacity(24), ..Self::default() };
        let result = index.fill(wire);
        (index, result)
    }

    fn fill(&mut self, wire: &[u8]) -> Result<(), Malformed> {
        // RFC 3261 §7.5: line ends before the start line are ignored.
        let start = wire.iter().position(|b| !matches!(b, b'\r' | b'\n')).ok_or(Malformed::Empty)?;
        // Where the head must have ended; a longer line is not even looked at.
        let head = wire.get(..start.saturating_add(MAX_HEAD).min(wire.len())).unwrap_or_default();
        let cut = if head.len() < wire.len() { Malformed::HeadTooLarge } else { Malformed::NoEndOfHeaders };

        let (end, mut at) = line(head, start).ok_or(cut)?;
        self.start_line = Span::new(start, end);
        loop {
            let (mut end, mut next) = line(head, at).ok_or(cut)?;
            if end == at {
                self.body = next;
                return Ok(());
            }
            while matches!(head.get(next), Some(b' ' | b'\t')) {
                (end, next) = line(head, next).ok_or(cut)?;
            }
            if end - at > MAX_HEADER {
                return Err(Malformed::HeaderTooLong);
            }
            if self.fields.len() == MAX_HEADERS {
                return Err(Malformed::TooManyHeaders);
            }
            self.fields.push(field(head, at, end).ok_or(Malformed::HeaderLine)?);
            at = next;
        }
    }
}

/// The line that begins at `at`: where its text ends, and where the next one begins. CRLF ends a line, and so
/// does a bare LF: peers send it, and nothing else could be meant.
fn line(wire: &[u8], at: usize) -> Option<(usize, usize)> {
    let rest = wire.get(at..)?;
    let feed = memchr(b'\n', rest)?;
    let text = rest.get(..feed)?;
    let text = text.strip_suffix(b"\r").unwrap_or(text);
    Some((at + text.len(), at + feed + 1))
}

/// `Name : value` (RFC 3261 §25.1, HCOLON: blanks may stand before the colon, line ends may not).
fn field(wire: &[u8], start: usize, end: usize) -> Option<Field> {
    let text = wire.get(start..end)?;
    let length = text.iter().position(|&b| !is_token(b))?;
    let (name, rest) = text.split_at_checked(length)?;
    let blanks = rest.iter().position(|b| !matches!(b, b' ' | b'\t'))?;
    let value = rest.get(blanks..)?.strip_prefix(b":")?;
    let value_start = start + length + blanks + 1;
    let leading = value.iter().position(|&b| !is_blank(b)).unwrap_or(value.len());
    let trailing = value.iter().rev().take(value.len() - leading).take_while(|&&b| is_blank(b)).count();
    let value = Span::new(value_start + leading, end - trailing);
    (length > 0).then(|| Field { kind: Name::of(name), name: Span::new(start, start + length), value })
}

/// What Content-Length says: `None` when it is absent. Several are one if they agree (RFC 4475 §3.3.9).
pub(crate) fn content_length(wire: &Bytes, fields: &[Field]) -> Result<Option<usize>, Malformed> {
    lengths(fields.iter().filter(|f| f.kind == Name::ContentLength).map(|f| f.raw(wire)))
}

fn lengths<'a>(values: impl Iterator<Item = &'a [u8]>) -> Result<Option<usize>, Malformed> {
    let mut length = None;
    for value in values {
        let value = std::str::from_utf8(value).ok().and_then(|v| number(v, u32::MAX));
        let value = value.ok_or(Malformed::Invalid("Content-Length"))?;
        if length.is_some_and(|l| l != value) {
            return Err(Malformed::Repeated("Content-Length"));
        }
        length = Some(value);
    }
    Ok(length.map(|l| usize::try_from(l).unwrap_or(usize::MAX)))
}

/// What the first bytes of a stream are (RFC 3261 §18.3, RFC 5626 §3.5.1). The caller drops `length` bytes
/// and asks again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Frame {
    /// Line ends between messages.
    KeepAlive {
        /// How many bytes they take.
        length: usize,
        /// Whether they complete a double CRLF, which wants a single CRLF back; a single CRLF is such an
        /// answer.
        ping: bool,
    },
    /// More must be read before anything can be said.
    Incomplete,
    /// A whole message.
    Message {
        /// How many bytes it takes, body included.
        length: usize,
    },
    /// Where this message ends cannot be known, so nothing after it can be read: the connection must go.
    /// Parsing what was read so far as a message tells whether a 400 is due first.
    Bad(Malformed),
}

/// Finds message after message in a growing buffer, and remembers between calls what it has read already, so
/// that a message that comes byte by byte costs no more than one that comes at once.
#[derive(Debug, Clone, Default)]
pub struct Framer {
    /// No empty line ends before this offset.
    scanned: usize,
    /// The length of the message at the front, once its headers are complete.
    length: Option<usize>,
    /// The last bytes taken were a single CRLF, which may have been half of a ping.
    half_ping: bool,
}

impl Framer {
    /// At the start of a stream.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// What `buffer` begins with. Until this returns something else than `Incomplete`, the next call must
    /// bring the same bytes and more; after it, the buffer without the bytes that were reported.
    pub fn frame(&mut self, buffer: &[u8]) -> Frame {
        if let Some(keep_alive) = self.keep_alive(buffer) {
            return keep_alive;
        }
        if self.length.is_none() {
            match self.head(buffer) {
                Ok(length) => self.length = length,
                Err(reason) => return Frame::Bad(reason),
            }
        }
        match self.length {
            Some(length) if buffer.len() >= length => {
                *self = Self::default();
                Frame::Message { length }
            }
            _ => Frame::Incomplete,
        }
    }

    fn keep_alive(&mut self, buffer: &[u8]) -> Option<Frame> {
        let (length, ping) = match buffer {
            [] | [b'\r'] => return Some(Frame::Incomplete),
            [b'\r', b'\n', b'\r', b'\n', ..] => (4, true),
            [b'\r', b'\n', ..] => (2, self.half_ping),
            [b'\n', ..] => (1, false),
            // A CR that ends no line: left to the parser, which skips it before a start line.
            _ => return None,
        };
        *self = Self { half_ping: length == 2 && !ping, ..Self::default() };
        Some(Frame::KeepAlive { length, ping })
    }

    /// The length of the message, once the empty line after its headers is there.
    fn head(&mut self, buffer: &[u8]) -> Result<Option<usize>, Malformed> {
        let Some(body) = self.find_body(buffer) else {
            return if buffer.len() >= MAX_HEAD { Err(Malformed::HeadTooLarge) } else { Ok(None) };
        };
        let (index, result) = Index::scan(buffer.get(..body).unwrap_or_default());
        result?;
        let lengths_of = index.fields.iter().filter(|f| f.kind == Name::ContentLength).map(|f| f.raw(buffer));
        // RFC 3261 §20.14: on a stream, Content-Length is mandatory.
        let length = lengths(lengths_of)?.ok_or(Malformed::Missing("Content-Length"))?;
        let total = body.checked_add(length).filter(|&t| t <= MAX_MESSAGE);
        total.map(Some).ok_or(Malformed::TooLarge)
    }

    /// Where the body begins; looks at no byte twice but for the last two.
    fn find_body(&mut self, buffer: &[u8]) -> Option<usize> {
        loop {
            let rest = buffer.get(self.scanned..)?;
            let feed = memchr(b'\n', rest)?;
            let next = self.scanned + feed + 1;
            match buffer.get(next..)? {
                [b'\n', ..] => return Some(next + 1),
                [b'\r', b'\n', ..] => return Some(next + 2),
                [] | [b'\r'] => {
                    self.scanned += feed;
                    return None;
                }
                _ => self.scanned = next,
            }
        }
    }
}

/// What `buffer` begins with, for a caller that has the whole of it or does not mind reading it again; a
/// stream that grows wants a [`Framer`].
#[must_use]
pub fn frame(buffer: &[u8]) -> Frame {
    Framer::new().frame(buffer)
}
