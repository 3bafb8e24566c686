//! Bytes → [`Description`]: total, linear, bounded, and tolerant where carriers are careless.
//!
//! RFC 8866 §5 and §9. Taken as well: lines that end in CR or LF alone, a missing `v=`, `o=`, `s=` or `t=`,
//! bytes that are no UTF-8, NULs at the end, superfluous blanks, numbers of any length where we do not need
//! them. What we do need and cannot read is an error with its line; everything else is skipped.

use super::OfferError;
use crate::srtp::sdes::Crypto;
use crate::{Codec, Direction};
use std::net::IpAddr;

const MAX_LENGTH: usize = 64 * 1024;
const MAX_LINES: usize = 500;
const MAX_MEDIA: usize = 16;
const MAX_FORMATS: usize = 64;
/// Keys of one stream; each costs a base64 decoding.
const MAX_CRYPTO: usize = 16;
/// Clock rates of telephone-events that there are audio codecs for.
const EVENT_CLOCKS: [u32; 5] = [8000, 16_000, 24_000, 32_000, 48_000];

/// What a peer described, as far as it concerns us. Session-level values are in each stream that has none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Description {
    /// The `m=` lines, in order.
    pub(super) media: Vec<Media>,
}

/// One `m=` line and what follows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Media {
    /// Where it stands, counted from 1.
    pub(super) line: usize,
    pub(super) kind: Kind,
    pub(super) protocol: Protocol,
    /// 0: the stream is refused or over. Also 0 when it cannot be read and the stream is no audio.
    pub(super) port: u16,
    /// Payload types, 0–127, in order; other formats are left out.
    pub(super) formats: Vec<u8>,
    pub(super) connection: Option<Connection>,
    /// `a=rtcp` (RFC 3605).
    pub(super) rtcp: Option<Rtcp>,
    /// `a=rtcp-mux` (RFC 5761 §5.1.1).
    pub(super) rtcp_mux: bool,
    /// From the peer's view.
    pub(super) direction: Option<Direction>,
    pub(super) ptime_ms: Option<u32>,
    pub(super) maxptime_ms: Option<u32>,
    /// `a=crypto` lines that can be taken, in order.
    pub(super) crypto: Vec<Crypto>,
    /// There are `a=crypto` lines, of whatever kind.
    pub(super) has_crypto: bool,
    /// `a=rtpmap`: the first for each payload type counts.
    maps: Vec<(u8, Encoding)>,
    /// Payload types whose `a=fmtp` lists events, but not one of the ten digits.
    without_digits: Vec<u8>,
}

/// Media types that we know by name (RFC 8866 §8.2.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Audio,
    Video,
    Text,
    Image,
    Message,
    /// Also stands for whatever else the peer wrote.
    Application,
}

impl Kind {
    const ALL: [Self; 6] =
        [Self::Audio, Self::Video, Self::Text, Self::Image, Self::Message, Self::Application];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Audio => "audio",
            Self::Video => "video",
            Self::Text => "text",
            Self::Image => "image",
            Self::Message => "message",
            Self::Application => "application",
        }
    }

    fn parse(token: &[u8]) -> Self {
        let known = Self::ALL.into_iter().find(|kind| token.eq_ignore_ascii_case(kind.name().as_bytes()));
        known.unwrap_or(Self::Application)
    }
}

/// Transport protocols that we know by name (RFC 8866 §8.2.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    Avp,
    Avpf,
    Savp,
    Savpf,
    DtlsSavp,
    DtlsSavpf,
    Udptl,
    Sctp,
    Msrp,
    MsrpTls,
    Bfcp,
    /// Also stands for whatever else the peer wrote.
    Udp,
}

impl Protocol {
    const ALL: [Self; 12] = [
        Self::Avp,
        Self::Avpf,
        Self::Savp,
        Self::Savpf,
        Self::DtlsSavp,
        Self::DtlsSavpf,
        Self::Udptl,
        Self::Sctp,
        Self::Msrp,
        Self::MsrpTls,
        Self::Bfcp,
        Self::Udp,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Avp => "RTP/AVP",
            Self::Avpf => "RTP/AVPF",
            Self::Savp => "RTP/SAVP",
            Self::Savpf => "RTP/SAVPF",
            Self::DtlsSavp => "UDP/TLS/RTP/SAVP",
            Self::DtlsSavpf => "UDP/TLS/RTP/SAVPF",
            Self::Udptl => "udptl",
            Self::Sctp => "UDP/DTLS/SCTP",
            Self::Msrp => "TCP/MSRP",
            Self::MsrpTls => "TCP/TLS/MSRP",
            Self::Bfcp => "UDP/BFCP",
            Self::Udp => "udp",
        }
    }

    /// True for RTP without encryption, or with it where the peer pleases (RFC 8643).
    pub(super) fn is_plain_rtp(self) -> bool {
        matches!(self, Self::Avp | Self::Avpf)
    }

    /// True for RTP whose keys stand in the SDP (RFC 4568).
    pub(super) fn is_secure_rtp(self) -> bool {
        matches!(self, Self::Savp | Self::Savpf)
    }

    fn parse(token: &[u8]) -> Self {
        let known = Self::ALL.into_iter().find(|known| token.eq_ignore_ascii_case(known.name().as_bytes()));
        known.unwrap_or(Self::Udp)
    }
}

/// `c=` (RFC 8866 §5.7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Connection {
    Address(IpAddr),
    /// 0.0.0.0 or `::`: do not send (RFC 3264 §8.4).
    Hold,
    HostName {
        line: usize,
    },
    Unreadable {
        line: usize,
    },
}

/// `a=rtcp` (RFC 3605 §2.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rtcp {
    pub(super) port: u16,
    /// `None`: that of the stream.
    pub(super) address: Option<IpAddr>,
}

/// What a payload type carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encoding {
    Audio(Codec),
    /// With its clock rate.
    TelephoneEvent(u32),
    /// Not ours; also one of ours at another rate or with two channels.
    Other,
}

impl Media {
    /// What `payload_type` carries: its `a=rtpmap`, else what RFC 3551 §6 gives the number for good. One of
    /// those three numbers that is mapped to something else is neither.
    pub(super) fn encoding(&self, payload_type: u8) -> Encoding {
        let mapped = self.maps.iter().find(|map| map.0 == payload_type).map(|map| map.1);
        let fixed = match payload_type {
            0 => Some(Encoding::Audio(Codec::Pcmu)),
            8 => Some(Encoding::Audio(Codec::Pcma)),
            9 => Some(Encoding::Audio(Codec::G722)),
            _ => None,
        };
        match (mapped, fixed) {
            (Some(mapped), Some(fixed)) if mapped != fixed => Encoding::Other,
            (Some(encoding), _) | (None, Some(encoding)) => encoding,
            (None, None) => Encoding::Other,
        }
    }

    /// The codecs of the stream in the peer's order, with their payload types.
    pub(super) fn codecs(&self) -> impl Iterator<Item = (u8, Codec)> {
        self.formats.iter().filter_map(|payload_type| match self.encoding(*payload_type) {
            Encoding::Audio(codec) => Some((*payload_type, codec)),
            Encoding::TelephoneEvent(_) | Encoding::Other => None,
        })
    }

    /// The payload types of telephone-events with their clock rates, in the peer's order.
    pub(super) fn telephone_events(&self) -> impl Iterator<Item = (u8, u32)> {
        self.formats.iter().filter_map(|payload_type| match self.encoding(*payload_type) {
            Encoding::TelephoneEvent(_) if self.without_digits.contains(payload_type) => None,
            Encoding::TelephoneEvent(clock) => Some((*payload_type, clock)),
            Encoding::Audio(_) | Encoding::Other => None,
        })
    }
}

/// Reads a description.
///
/// # Errors
/// [`OfferError::Malformed`] only; whether the streams are of use is another question.
pub(super) fn parse(body: &[u8]) -> Result<Description, OfferError> {
    let malformed = |line, reason| Err(OfferError::Malformed { line, reason });
    if body.len() > MAX_LENGTH {
        return malformed(1, "longer than 64 KB");
    }
    let lines = body.split(|byte| matches!(byte, b'\r' | b'\n')).map(trim).filter(|line| !line.is_empty());
    let mut session = Session::default();
    let mut media: Vec<Media> = vec![];
    let mut has_version = false;
    for (line, text) in (1..).zip(lines) {
        if line > MAX_LINES {
            return malformed(line, "more than 500 lines");
        }
        let [kind, b'=', value @ ..] = text else { continue };
        let value = trim(value);
        let streams = media.len();
        match (kind, media.last_mut()) {
            (b'v', _) if value != b"0" => return malformed(line, "v= is not 0"),
            (b'v', _) => has_version = true,
            (b'm', _) if streams == MAX_MEDIA => return malformed(line, "more than 16 m= lines"),
            (b'm', _) => media.push(media_line(line, value)?),
            (b'c', None) => session.connection = session.connection.or(Some(connection(line, value))),
            (b'c', Some(media)) => media.connection = media.connection.or(Some(connection(line, value))),
            (b'a', None) => session.direction = direction(value).or(session.direction),
            (b'a', Some(media)) => media.attribute(value),
            _ => {}
        }
    }
    if !has_version && media.is_empty() {
        return malformed(1, "no session description");
    }
    for media in &mut media {
        media.connection = media.connection.or(session.connection);
        media.direction = media.direction.or(session.direction);
    }
    Ok(Description { media })
}

/// What stands before the first `m=` and counts for every stream that does not say otherwise.
#[derive(Default)]
struct Session {
    connection: Option<Connection>,
    direction: Option<Direction>,
}

/// `m=<media> <port>[/<count>] <proto> <fmt>...` (RFC 8866 §5.14).
fn media_line(line: usize, value: &[u8]) -> Result<Media, OfferError> {
    let mut tokens = tokens(value);
    let kind = Kind::parse(tokens.next().unwrap_or_default());
    let port = tokens.next().and_then(|token| number(token.split(|b| *b == b'/').next()?));
    let port = port.and_then(|port| u16::try_from(port).ok());
    let protocol = tokens.next().map(Protocol::parse);
    let (port, protocol) = match (kind, port, protocol) {
        // A stream that is refused anyway needs no port.
        (Kind::Audio, None, _) => return Err(OfferError::Malformed { line, reason: "no port in m=audio" }),
        (Kind::Audio, _, None) => {
            return Err(OfferError::Malformed { line, reason: "no protocol in m=audio" });
        }
        (_, port, protocol) => (port.unwrap_or(0), protocol.unwrap_or(Protocol::Udp)),
    };
    let formats = tokens.take(MAX_FORMATS).filter_map(payload_type).collect();
    Ok(Media {
        line,
        kind,
        protocol,
        port,
        formats,
        connection: None,
        rtcp: None,
        rtcp_mux: false,
        direction: None,
        ptime_ms: None,
        maxptime_ms: None,
        crypto: vec![],
        has_crypto: false,
        maps: vec![],
        without_digits: vec![],
    })
}

/// `c=IN IP4 192.0.2.1[/ttl]`; the address decides on its family, whatever the line says of it.
fn connection(line: usize, value: &[u8]) -> Connection {
    let mut tokens = tokens(value);
    let (network, _family, address) = (tokens.next(), tokens.next(), tokens.next().unwrap_or_default());
    let address = address.split(|byte| *byte == b'/').next().unwrap_or_default();
    match ip(address) {
        _ if !network.is_some_and(|network| network.eq_ignore_ascii_case(b"IN")) => {
            Connection::Unreadable { line }
        }
        Some(address) if address.is_unspecified() => Connection::Hold,
        Some(address) => Connection::Address(address),
        None if address.iter().any(u8::is_ascii_alphabetic) && !address.contains(&b':') => {
            Connection::HostName { line }
        }
        None => Connection::Unreadable { line },
    }
}

fn direction(attribute: &[u8]) -> Option<Direction> {
    Some(match attribute {
        b"sendrecv" => Direction::SendRecv,
        b"sendonly" => Direction::SendOnly,
        b"recvonly" => Direction::RecvOnly,
        b"inactive" => Direction::Inactive,
        _ => return None,
    })
}

impl Media {
    fn attribute(&mut self, text: &[u8]) {
        self.direction = direction(text).or(self.direction);
        let mut parts = text.splitn(2, |byte| *byte == b':');
        let (name, value) = (parts.next().unwrap_or_default(), trim(parts.next().unwrap_or_default()));
        match name {
            b"rtpmap" => self.maps.extend(rtpmap(value)),
            b"fmtp" => self.without_digits.extend(events_without_digits(value)),
            b"ptime" => self.ptime_ms = self.ptime_ms.or(milliseconds(value)),
            b"maxptime" => self.maxptime_ms = self.maxptime_ms.or(milliseconds(value)),
            b"rtcp" => self.rtcp = self.rtcp.or_else(|| rtcp(value)),
            b"rtcp-mux" => self.rtcp_mux = true,
            b"crypto" => {
                self.has_crypto = true;
                if self.crypto.len() < MAX_CRYPTO {
                    self.crypto.extend(Crypto::parse(value));
                }
            }
            _ => {}
        }
    }
}

/// `<payload type> <encoding>/<clock>[/<channels>]` (RFC 8866 §6.6).
fn rtpmap(value: &[u8]) -> Option<(u8, Encoding)> {
    let mut tokens = tokens(value);
    let payload_type = tokens.next().and_then(payload_type)?;
    let mut parts = tokens.next()?.split(|byte| *byte == b'/');
    let (name, clock, channels) = (parts.next()?, parts.next(), parts.next());
    let clock = clock.map_or(Some(8000), number);
    let one_channel = channels.is_none_or(|count| count == b"1");
    let ours = clock == Some(8000) && one_channel;
    let encoding = match name {
        // RFC 4733 §2.1 ties it to the audio's clock; who offers wideband audio may have it at that clock only.
        name if name.eq_ignore_ascii_case(b"telephone-event") => match clock {
            Some(clock) if one_channel && EVENT_CLOCKS.contains(&clock) => Encoding::TelephoneEvent(clock),
            _ => Encoding::Other,
        },
        _ if !ours => Encoding::Other,
        name if name.eq_ignore_ascii_case(b"PCMU") => Encoding::Audio(Codec::Pcmu),
        name if name.eq_ignore_ascii_case(b"PCMA") => Encoding::Audio(Codec::Pcma),
        // RFC 3551 §4.5.2: 8000, although it has twice as many samples.
        name if name.eq_ignore_ascii_case(b"G722") => Encoding::Audio(Codec::G722),
        _ => Encoding::Other,
    };
    Some((payload_type, encoding))
}

/// The payload type when the value is a list of events without any digit (RFC 4733 §2.4.1). A list that
/// cannot be read, or is about something else, says nothing.
fn events_without_digits(value: &[u8]) -> Option<u8> {
    let mut tokens = tokens(value);
    let payload_type = tokens.next().and_then(payload_type)?;
    let mut listed = false;
    for item in tokens.flat_map(|token| token.split(|byte| *byte == b',')).filter(|item| !item.is_empty()) {
        let mut ends = item.splitn(2, |byte| *byte == b'-');
        let first = ends.next().and_then(number)?;
        let last = ends.next().map_or(Some(first), number)?;
        if first <= 9 || last < first {
            return None;
        }
        listed = true;
    }
    listed.then_some(payload_type)
}

/// `<port> [IN <family> <address>]`. An address that we cannot read takes its port with it.
fn rtcp(value: &[u8]) -> Option<Rtcp> {
    let mut tokens = tokens(value);
    let port =
        tokens.next().and_then(number).and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0)?;
    match tokens.next() {
        None => Some(Rtcp { port, address: None }),
        Some(_network) => Some(Rtcp { port, address: Some(ip(tokens.nth(1)?)?) }),
    }
}

/// The whole milliseconds of `20` or `20.0`.
fn milliseconds(value: &[u8]) -> Option<u32> {
    number(value.split(|byte| !byte.is_ascii_digit()).next()?)
}

fn payload_type(token: &[u8]) -> Option<u8> {
    number(token).and_then(|number| u8::try_from(number).ok()).filter(|number| *number < 128)
}

/// Digits alone; `None` beyond 32 bits.
fn number(token: &[u8]) -> Option<u32> {
    if token.is_empty() {
        return None;
    }
    token.iter().try_fold(0u32, |number, byte| {
        let digit = byte.is_ascii_digit().then(|| u32::from(byte - b'0'))?;
        number.checked_mul(10)?.checked_add(digit)
    })
}

fn ip(token: &[u8]) -> Option<IpAddr> {
    let address: IpAddr = std::str::from_utf8(token).ok()?.parse().ok()?;
    Some(address.to_canonical())
}

fn tokens(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| matches!(byte, b' ' | b'\t')).filter(|token| !token.is_empty())
}

/// Without blanks and NULs at both ends.
fn trim(mut text: &[u8]) -> &[u8] {
    while let [b' ' | b'\t' | 0, rest @ ..] | [rest @ .., b' ' | b'\t' | 0] = text {
        text = rest;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HEAD: &str = "v=0\r\no=- 1 1 IN IP4 192.0.2.1\r\ns=-\r\nc=IN IP4 192.0.2.1\r\nt=0 0\r\n";

    fn one(lines: &str) -> Media {
        let media = parse(format!("{HEAD}{lines}").as_bytes()).unwrap().media;
        assert_eq!(media.len(), 1);
        media.into_iter().next().unwrap()
    }

    fn address(text: &str) -> Option<Connection> {
        Some(Connection::Address(text.parse().unwrap()))
    }

    #[test]
    fn rfc8866_5_careless_descriptions_are_read() {
        let m = "m=audio 4000 RTP/AVP 0";
        let table: Vec<(&str, Vec<u8>)> = vec![
            ("as it should be", format!("{HEAD}{m}\r\n").into_bytes()),
            ("LF alone", format!("{HEAD}{m}\r\n").replace('\r', "").into_bytes()),
            ("CR alone", format!("{HEAD}{m}\r\n").replace('\n', "").into_bytes()),
            ("no end of the last line", format!("{HEAD}{m}").into_bytes()),
            ("NULs at the end", format!("{HEAD}{m}\r\n\0\0").into_bytes()),
            ("NUL within the last line's end", format!("{HEAD}{m}\0").into_bytes()),
            (
                "no s= and t=",
                format!("v=0\r\no=- 1 1 IN IP4 192.0.2.1\r\nc=IN IP4 192.0.2.1\r\n{m}").into_bytes(),
            ),
            ("no v= and o=", format!("c=IN IP4 192.0.2.1\r\n{m}").into_bytes()),
            ("empty s=", format!("{HEAD}{m}").replace("s=-", "s=").into_bytes()),
            ("o= with 30 digits", format!("{HEAD}{m}").replace("- 1 1", &"9".repeat(30)).into_bytes()),
            (
                "blanks",
                format!("{HEAD}{m}")
                    .replace(" RTP/AVP ", "\t RTP/AVP   ")
                    .replace("\r\n", " \r\n")
                    .into_bytes(),
            ),
            (
                "lower case",
                format!("{HEAD}{m}").replace("IN IP4", "in ip4").replace("RTP/AVP", "rtp/avp").into_bytes(),
            ),
            (
                "two c= of a stream",
                format!("v=0\r\n{m}\r\nc=IN IP4 192.0.2.1\r\nc=IN IP4 192.0.2.2").into_bytes(),
            ),
            ("two c=", format!("{HEAD}c=IN IP4 192.0.2.99\r\n{m}").into_bytes()),
            ("two ports", format!("{HEAD}{m}").replace("4000", "4000/2").into_bytes()),
            ("junk lines", format!("{HEAD}hello\r\n=\r\nm\r\nz\r\n\r\n{m}").into_bytes()),
            ("Latin-1", [HEAD.as_bytes(), b"i=Ren\xe9\xff\r\n", m.as_bytes()].concat()),
        ];
        for (fact, body) in table {
            let media = parse(&body).unwrap().media;
            assert_eq!(media.len(), 1, "{fact}");
            assert_eq!((media[0].kind, media[0].protocol), (Kind::Audio, Protocol::Avp), "{fact}");
            assert_eq!((media[0].port, media[0].formats.as_slice()), (4000, &[0][..]), "{fact}");
            assert_eq!(media[0].connection, address("192.0.2.1"), "{fact}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_an_error_with_its_line() {
        let many = |line: &str, count: usize| format!("v=0\r\n{}", line.repeat(count));
        let table: Vec<(&str, String, usize)> = vec![
            ("empty", String::new(), 1),
            ("no description", "hello world".into(), 1),
            ("another version", "v=1\r\n".into(), 1),
            ("port 65536", format!("{HEAD}m=audio 65536 RTP/AVP 0"), 6),
            ("port of 30 digits", format!("{HEAD}m=audio {} RTP/AVP 0", "1".repeat(30)), 6),
            ("negative port", format!("{HEAD}m=audio -1 RTP/AVP 0"), 6),
            ("no port", format!("{HEAD}m=audio"), 6),
            ("no protocol", format!("{HEAD}m=audio 4000"), 6),
            ("17 streams", many("m=video 4000 RTP/AVP 31\r\n", 17), 18),
            ("501 lines", many("a=x\r\n", 500), 501),
            ("65537 bytes", "a".repeat(65_537), 1),
        ];
        for (fact, body, at) in table {
            match parse(body.as_bytes()) {
                Err(OfferError::Malformed { line, .. }) => assert_eq!(line, at, "{fact}"),
                other => panic!("{fact}: {other:?}"),
            }
        }
        assert!(parse(many("m=video 4000 RTP/AVP 31\r\n", 16).as_bytes()).is_ok());
        assert!(parse(many("a=x\r\n", 499).as_bytes()).is_ok());
    }

    #[test]
    fn numbers_out_of_range_are_left_out() {
        let formats = "0 300 128 127 4294967296 4294967295 999999999999999999999999999999 -1 x 8";
        let media = one(&format!("m=audio 4000 RTP/AVP {formats}\r\na=rtpmap:300 PCMA/8000\r\n"));
        assert_eq!(media.formats, [0, 127, 8]);
        let lots: Vec<String> = (0..200).map(|n| (n % 100).to_string()).collect();
        assert_eq!(one(&format!("m=audio 4000 RTP/AVP {}", lots.join(" "))).formats.len(), 64);
        let odd = one("m=audio 4000 RTP/AVP 0\r\na=ptime:99999999999\r\na=maxptime:x\r\na=rtcp:65536\r\n");
        assert_eq!((odd.ptime_ms, odd.maxptime_ms, odd.rtcp), (None, None, None));
        assert_eq!(one("m=audio 4000 RTP/AVP 0\r\na=ptime:20.0").ptime_ms, Some(20));
    }

    #[test]
    fn rfc8866_6_6_payload_types_mean_what_they_are_mapped_to() {
        use Encoding::*;
        let table = [
            ("RFC 3551 §6: static", 0, "", Audio(Codec::Pcmu)),
            ("RFC 3551 §6: static", 8, "", Audio(Codec::Pcma)),
            ("RFC 3551 §4.5.2: static", 9, "", Audio(Codec::G722)),
            ("RFC 3551 §4.5.2: clock of 8000", 96, "96 g722/8000/1", Audio(Codec::G722)),
            ("G.722 at another clock", 9, "9 G722/16000", Other),
            ("static and mapped", 0, "0 PCMU/8000", Audio(Codec::Pcmu)),
            ("any case", 0, "0 pcmu/8000/1", Audio(Codec::Pcmu)),
            ("no clock", 0, "0 PCMU", Audio(Codec::Pcmu)),
            ("static against its mapping", 0, "0 PCMA/8000", Other),
            ("dynamic", 97, "97 PCMA/8000", Audio(Codec::Pcma)),
            ("dynamic without a mapping", 97, "", Other),
            ("another rate", 97, "97 PCMA/16000", Other),
            ("two channels", 97, "97 PCMA/8000/2", Other),
            ("another codec", 97, "97 opus/48000/2", Other),
            ("superfluous blanks", 97, "  97   PCMA/8000  ", Audio(Codec::Pcma)),
            ("events", 101, "101 Telephone-Event/8000", TelephoneEvent(8000)),
            ("events without a clock", 101, "101 telephone-event", TelephoneEvent(8000)),
            ("events at another clock", 101, "101 telephone-event/48000/1", TelephoneEvent(48_000)),
            ("events at no clock", 101, "101 telephone-event/0", Other),
            ("events at a clock that nothing has", 101, "101 telephone-event/11025", Other),
            ("clock of 30 digits", 97, "97 PCMA/888888888888888888888888888888", Other),
        ];
        for (fact, payload_type, map, encoding) in table {
            let media = one(&format!("m=audio 4000 RTP/AVP {payload_type}\r\na=rtpmap:{map}\r\n"));
            assert_eq!(media.encoding(payload_type), encoding, "{fact}");
        }
        let twice = one(
            "m=audio 4000 RTP/AVP 101\r\na=rtpmap:101 opus/48000/2\r\na=rtpmap:101 telephone-event/8000\r\n",
        );
        assert_eq!(twice.telephone_events().next(), None, "the first mapping of a number counts");
    }

    #[test]
    fn rfc4733_2_4_1_an_event_format_without_digits_is_of_no_use() {
        let table: &[(&str, &[u8], bool)] = &[
            ("no list", b"", true),
            ("the usual", b"a=fmtp:101 0-15", true),
            ("with flash", b"a=fmtp:101 0-15,66,70", true),
            ("with blanks", b"a=fmtp:101 0-11, 16", true),
            ("single", b"a=fmtp:101 5", true),
            ("fax tones only", b"a=fmtp:101 32-36,66", false),
            ("of another number", b"a=fmtp:100 32-36", true),
            ("junk", b"a=fmtp:101 bogus=1", true),
            ("NUL", b"a=fmtp:101 0\x0015", true),
            ("only a NUL", b"a=fmtp:101 \0", true),
            ("turned round", b"a=fmtp:101 15-0", true),
            ("overflow", b"a=fmtp:101 4294967296-99999999999", true),
            ("Latin-1", b"a=fmtp:101 \xe9", true),
            ("nothing", b"a=fmtp:", true),
        ];
        for (fact, line, useful) in table {
            let body =
                [HEAD.as_bytes(), b"m=audio 4000 RTP/AVP 0 101\na=rtpmap:101 telephone-event/8000\n", line];
            let media = parse(&body.concat()).unwrap().media;
            assert_eq!(media[0].telephone_events().next(), useful.then_some((101, 8000)), "{fact}");
        }
        let several = "m=audio 4000 RTP/AVP 0 110 101 96\r\na=rtpmap:110 telephone-event/48000\r\n\
                       a=rtpmap:96 telephone-event/8000\r\na=rtpmap:101 telephone-event/8000\r\n";
        let found: Vec<_> = one(several).telephone_events().collect();
        assert_eq!(found, [(110, 48_000), (101, 8000), (96, 8000)], "in the order of m=");
    }

    #[test]
    fn rfc8866_5_7_addresses_of_both_families_are_read() {
        let table: &[(&str, &str, Connection)] = &[
            ("IPv4", "IN IP4 192.0.2.9", Connection::Address("192.0.2.9".parse().unwrap())),
            ("IPv6", "IN IP6 2001:db8::9", Connection::Address("2001:db8::9".parse().unwrap())),
            ("with TTL", "IN IP4 192.0.2.9/127", Connection::Address("192.0.2.9".parse().unwrap())),
            (
                "IPv4 within IPv6",
                "IN IP6 ::ffff:192.0.2.9",
                Connection::Address("192.0.2.9".parse().unwrap()),
            ),
            ("RFC 3264 §8.4: hold", "IN IP4 0.0.0.0", Connection::Hold),
            ("hold in IPv6", "IN IP6 ::", Connection::Hold),
            ("host name", "IN IP4 media.example.com", Connection::HostName { line: 7 }),
            ("number out of range", "IN IP4 192.0.2.256", Connection::Unreadable { line: 7 }),
            ("leading zeros", "IN IP4 192.000.002.009", Connection::Unreadable { line: 7 }),
            ("another network", "ATM NSAP 47.0091", Connection::Unreadable { line: 7 }),
            ("nothing", "", Connection::Unreadable { line: 7 }),
        ];
        for (fact, value, connection) in table {
            let media = one(&format!("m=audio 4000 RTP/AVP 0\r\nc={value}\r\n"));
            assert_eq!(media.connection, Some(*connection), "{fact}");
        }
    }

    #[test]
    fn rfc3605_a_rtcp_names_port_and_perhaps_address() {
        type Row = (&'static str, &'static str, Option<(u16, Option<&'static str>)>);
        let table: &[Row] = &[
            ("port", "53020", Some((53_020, None))),
            ("with address", "53020 IN IP4 192.0.2.7", Some((53_020, Some("192.0.2.7")))),
            ("with IPv6 address", "53020 IN IP6 2001:db8::7", Some((53_020, Some("2001:db8::7")))),
            ("with host name", "53020 IN IP4 host.example", None),
            ("cut short", "53020 IN", None),
            ("zero", "0", None),
            ("junk", "x", None),
        ];
        for (fact, value, expected) in table {
            let media = one(&format!("m=audio 4000 RTP/AVP 0\r\na=rtcp:{value}\r\n"));
            let expected =
                expected.map(|(port, ip)| Rtcp { port, address: ip.map(|ip| ip.parse().unwrap()) });
            assert_eq!(media.rtcp, expected, "{fact}");
        }
    }

    #[test]
    fn rfc3264_5_1_direction_of_the_stream_overrides_that_of_the_session() {
        let body =
            format!("{HEAD}a=sendonly\r\nm=audio 1 RTP/AVP 0\r\na=inactive\r\nm=audio 2 RTP/AVP 0\r\n");
        let media = parse(body.as_bytes()).unwrap().media;
        assert_eq!(media[0].direction, Some(Direction::Inactive));
        assert_eq!(media[1].direction, Some(Direction::SendOnly));
    }

    proptest! {
        /// Any bytes get an answer, and so does any description with some of its bytes changed.
        #[test]
        fn junk_is_borne(
            junk in prop::collection::vec(any::<u8>(), 0..300),
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..12),
        ) {
            let _ = parse(&junk);
            let mut body = format!(
                "{HEAD}a=inactive\r\nm=audio 4000 RTP/AVP 0 8 101\r\nc=IN IP6 2001:db8::1\r\n\
                 a=rtpmap:0 PCMU/8000\r\na=rtpmap:101 telephone-event/8000\r\na=fmtp:101 0-15\r\n\
                 a=ptime:20\r\na=rtcp:4001 IN IP4 192.0.2.1\r\na=rtcp-mux\r\nm=video 5000 RTP/AVP 31\r\n"
            ).into_bytes();
            for (at, byte) in changes {
                let at = at.index(body.len());
                body[at] = byte;
            }
            if let Ok(description) = parse(&body) {
                let mut formats = description.media.iter().flat_map(|media| &media.formats);
                prop_assert!(formats.all(|format| *format < 128));
            }
        }

        /// Lines of the right shape with any numbers.
        #[test]
        fn any_number_is_borne(
            a in "[0-9]{0,30}", b in "[0-9]{0,30}", c in "[0-9./:a-f]{0,30}", d in "[0-9,-]{0,30}",
        ) {
            let body = format!(
                "v=0\r\nc=IN IP4 {c}\r\nm=audio {a} RTP/AVP {b} 0\r\na=rtpmap:{b} PCMA/{a}/{b}\r\n\
                 a=fmtp:{b} {d}\r\na=ptime:{a}\r\na=maxptime:{b}\r\na=rtcp:{a} IN IP4 {c}\r\n\
                 a=crypto:{a} AES_CM_128_HMAC_SHA1_80 inline:{c}|2^{b}\r\n"
            );
            let _ = parse(body.as_bytes());
        }
    }
}
