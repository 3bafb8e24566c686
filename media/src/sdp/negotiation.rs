//! Offer and answer of one leg (RFC 3264): from descriptions to a [`Stream`], and to our own text.

use super::parse::{Connection, Description, Kind, Media, Protocol, parse};
use super::{LocalMedia, OfferError};
use crate::srtp::sdes::Crypto;
use crate::srtp::{SrtpKeys, Suite};
use crate::{Codec, Direction, Stream, TelephoneEventFormat};
use std::fmt::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

/// What we offer for telephone-events, if the session does not use the number otherwise.
const EVENT_PAYLOAD_TYPE: u8 = 101;
/// Of audio, G.722 included, and telephone-events (RFC 3551 §4.5.2, §6; RFC 4733 §2.1).
const CLOCK_RATE: u32 = 8000;
/// Milliseconds per packet when nobody says otherwise (RFC 3551 §4.2).
const PTIME_MS: u8 = 20;
/// What we offer, in the order of preference: the first is the one that everybody has.
const SUITES: [Suite; 3] = [Suite::Aes128Sha80, Suite::Aes256Sha80, Suite::Aes128Sha32];

/// One leg's offer/answer state (RFC 3264): what was last sent and what was agreed.
///
/// The version in `o=` grows by one with each description that differs from the one before it. Keys of ours are
/// new with each first offer and with each key of the peer's that is new; a description that changes nothing of
/// the encryption repeats them (RFC 3264 §8), so that the streams go on.
#[derive(Clone)]
pub struct Negotiation {
    local: LocalMedia,
    /// Version of `sent`; 0 before the first.
    version: u64,
    sent: Option<String>,
    /// Our audio line of the last offer, which an answer is read against.
    offered: Option<AudioLine>,
    /// Our audio line in `sent`.
    last: Option<AudioLine>,
    /// The `m=` lines of the session, which later offers must repeat (RFC 3264 §8).
    lines: Vec<Line>,
    stream: Option<Stream>,
    /// Profile of `stream` and, when it is encrypted, the tag of its `a=crypto`.
    agreed: Option<(Protocol, Option<u32>)>,
    /// Keys made of the leg's secret so far.
    keys: u32,
}

/// The descriptions have keys in them.
impl fmt::Debug for Negotiation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (version, stream) = (&self.version, &self.stream);
        f.debug_struct("Negotiation")
            .field("version", version)
            .field("stream", stream)
            .finish_non_exhaustive()
    }
}

/// Which streams are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Protection {
    /// Plain ones.
    Never,
    /// Encrypted ones, else plain ones.
    IfOffered,
    /// Encrypted ones.
    Always,
}

/// One of our `m=` lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Line {
    /// The audio stream.
    Audio,
    /// A stream that we do not take, in words of our own lists.
    Refused { kind: Kind, protocol: Protocol, format: u8 },
}

/// What we say of our audio stream.
#[derive(Debug, Clone, PartialEq, Eq)]
struct AudioLine {
    protocol: Protocol,
    codecs: Vec<(u8, Codec)>,
    /// With its clock rate.
    telephone_event: Option<(u8, u32)>,
    rtcp_mux: bool,
    ptime_ms: u8,
    direction: Direction,
    /// Our keys: all that we offer, or the one that we answer with.
    crypto: Vec<Crypto>,
}

impl Negotiation {
    /// Nothing is sent or agreed yet.
    #[must_use]
    pub fn new(local: LocalMedia) -> Self {
        Self {
            local,
            version: 0,
            sent: None,
            offered: None,
            last: None,
            lines: vec![Line::Audio],
            stream: None,
            agreed: None,
            keys: 0,
        }
    }

    /// Our own offer: all our codecs in our order, telephone-events, both directions. In a session that has
    /// been agreed on it repeats the lines that we refused (RFC 3264 §8) and keeps the number of the events
    /// (§8.3.2).
    #[must_use]
    pub fn offer(&mut self) -> String {
        let audio = self.own_line();
        self.keys = self.keys.wrapping_add(SUITES.len() as u32);
        let text = self.describe(&self.lines, &audio);
        self.offered = Some(audio.clone());
        self.last = Some(audio);
        self.send(text)
    }

    /// The description last sent, once more as an offer, which asks for no change (RFC 3264 §8): a session refresh
    /// (RFC 4028 §7.4).
    #[must_use]
    pub fn repeat_offer(&mut self) -> String {
        match (&self.sent, &self.last) {
            (Some(sent), Some(last)) => {
                self.offered = Some(last.clone());
                sent.clone()
            }
            _ => self.offer(),
        }
    }

    /// The answer to our last offer. May be called again, for a 200 after a 183 or for another fork; the
    /// latest answer counts.
    ///
    /// # Errors
    /// [`OfferError`]; then what was agreed before still holds.
    pub fn on_answer(&mut self, body: &[u8]) -> Result<Stream, OfferError> {
        let description = parse(body)?;
        let offered = self.offered.clone().unwrap_or_else(|| self.own_line());
        // RFC 3264 §6.1: the answer may name several codecs; the first is the one it prefers. We receive
        // under the numbers of our offer (§5.1), whatever numbers the answer gives them.
        let ours = |codec: Codec| offered.codecs.iter().find(|own| own.1 == codec).copied();
        let own_key = |theirs: &Crypto| {
            let of = |own: &&Crypto| own.tag == theirs.tag && own.key.suite() == theirs.key.suite();
            offered.crypto.iter().find(of)
        };
        let protection = if offered.crypto.is_empty() { Protection::Never } else { self.protection() };
        let fits = |theirs: &Crypto| own_key(theirs).is_some();
        let (audio, theirs) = usable(&description, protection, fits, |codec| ours(codec).is_some())?;
        // Keys that answer none of ours are not a stream in plain.
        if theirs.is_none() && audio.has_crypto && protection != Protection::Never {
            return Err(OfferError::NoEncryption);
        }
        let srtp = theirs.and_then(|theirs| {
            let send = own_key(theirs)?.key.clone();
            Some(self.keys_of(SrtpKeys { send, receive: theirs.key.clone() }))
        });
        let receive: Vec<(u8, Codec)> = offered
            .codecs
            .iter()
            .copied()
            .filter(|own| audio.codecs().any(|theirs| theirs.1 == own.1))
            .collect();
        let event = offered.telephone_event.and_then(|ours| {
            let theirs = audio.telephone_events().find(|theirs| theirs.1 == ours.1)?;
            Some(event_format(theirs, ours.0))
        });
        // RFC 5761 §5.1.1: an answer takes it only when the offer had it.
        let rtcp_mux = audio.rtcp_mux && offered.rtcp_mux;
        let stream = self.agree(audio, receive, event, rtcp_mux, srtp)?;
        self.agreed = Some((audio.protocol, theirs.map(|theirs| theirs.tag)));
        self.stream = Some(stream.clone());
        Ok(stream)
    }

    /// The peer's offer, at first or later: our answer and what is agreed by it.
    ///
    /// # Errors
    /// [`OfferError`]; then nothing has changed and the session goes on as it was (RFC 6141 §3).
    pub fn on_offer(&mut self, body: &[u8]) -> Result<(String, Stream), OfferError> {
        let description = parse(body)?;
        let (audio, stream, tag) = self.answer_to(&description)?;
        let crypto = tag.zip(stream.srtp.as_ref()).map(|(tag, keys)| Crypto { tag, key: keys.send.clone() });
        let line = AudioLine {
            protocol: audio.protocol,
            codecs: stream.receive.clone(),
            telephone_event: stream
                .telephone_event
                .map(|event| (event.receive_payload_type, event.clock_rate)),
            rtcp_mux: stream.rtcp_mux,
            ptime_ms: stream.ptime_ms,
            direction: stream.direction,
            crypto: crypto.into_iter().collect(),
        };
        // RFC 3264 §6: as many m= lines as the offer has, in its order; port 0 refuses.
        let lines = description
            .media
            .iter()
            .map(|media| if media.line == audio.line { Line::Audio } else { refusal(media) });
        self.lines = lines.collect();
        let text = self.describe(&self.lines, &line);
        self.last = Some(line);
        self.agreed = Some((audio.protocol, tag));
        self.keys = self.keys.wrapping_add(1);
        self.stream = Some(stream.clone());
        Ok((self.send(text), stream))
    }

    /// The description last sent, to be repeated byte for byte in a 200 after a 183.
    #[must_use]
    pub fn local(&self) -> Option<&str> {
        self.sent.as_deref()
    }

    /// What was agreed last.
    #[must_use]
    pub fn stream(&self) -> Option<&Stream> {
        self.stream.as_ref()
    }

    /// True when an offer would leave the stream as it is, but for its direction: a session refresh, hold or
    /// resume. The peer's `o=` is not asked, since careless peers change the rest without it.
    #[must_use]
    pub fn is_refresh(&self, body: &[u8]) -> bool {
        let Some(now) = &self.stream else { return false };
        let Ok(description) = parse(body) else { return false };
        self.answer_to(&description).is_ok_and(|(_, next, _)| {
            let event = |stream: &Stream| stream.telephone_event.map(|event| event.send_payload_type);
            let what = |stream: &Stream| {
                let codec = (stream.codec, stream.send_payload_type, event(stream));
                (stream.remote, stream.remote_rtcp, codec, stream.rtcp_mux)
            };
            what(&next) == what(now) && next.srtp == now.srtp
        })
    }

    /// The stream of the offer that we would take, what it comes to, and the tag of its key.
    fn answer_to<'a>(
        &self,
        description: &'a Description,
    ) -> Result<(&'a Media, Stream, Option<u32>), OfferError> {
        // RFC 4568 §5.1.2: the first key that can be taken is the one that the peer likes best.
        let (audio, theirs) =
            usable(description, self.protection(), |_| true, |codec| self.local.codecs.contains(&codec))?;
        let srtp = theirs.zip(self.local.srtp.as_ref()).map(|(theirs, local)| {
            let before = self.stream.as_ref().and_then(|stream| stream.srtp.as_ref());
            let same_tag = self.agreed.is_some_and(|(_, tag)| tag == Some(theirs.tag));
            match before.filter(|keys| same_tag && keys.receive == theirs.key) {
                Some(keys) => Arc::clone(keys),
                None => {
                    let send = local.secret.key(theirs.key.suite(), self.keys);
                    Arc::new(SrtpKeys { send, receive: theirs.key.clone() })
                }
            }
        });
        // RFC 3264 §6.1: one codec, the first of the offer that is ours, so that nobody has to switch in
        // mid-call.
        let receive =
            audio.codecs().find(|theirs| self.local.codecs.contains(&theirs.1)).into_iter().collect();
        // Both sides use the numbers of the offer. RFC 4733 §2.1: at the clock of the audio, if there is one.
        let events = || audio.telephone_events();
        let event = events().find(|event| event.1 == CLOCK_RATE).or_else(|| events().next());
        let event = event.map(|event| event_format(event, event.0));
        Ok((audio, self.agree(audio, receive, event, audio.rtcp_mux, srtp)?, theirs.map(|theirs| theirs.tag)))
    }

    fn protection(&self) -> Protection {
        match &self.local.srtp {
            None => Protection::Never,
            Some(local) if local.required => Protection::Always,
            Some(_) => Protection::IfOffered,
        }
    }

    /// The same keys stay one value.
    fn keys_of(&self, keys: SrtpKeys) -> Arc<SrtpKeys> {
        let before = self.stream.as_ref().and_then(|stream| stream.srtp.as_ref());
        before.filter(|before| ***before == keys).map_or_else(|| Arc::new(keys), Arc::clone)
    }

    /// Joins a peer's audio stream with what may arrive.
    fn agree(
        &self,
        audio: &Media,
        receive: Vec<(u8, Codec)>,
        telephone_event: Option<TelephoneEventFormat>,
        rtcp_mux: bool,
        srtp: Option<Arc<SrtpKeys>>,
    ) -> Result<Stream, OfferError> {
        let codec = audio.codecs().find(|theirs| receive.iter().any(|own| own.1 == theirs.1));
        let (send_payload_type, codec) = codec.ok_or_else(|| no_common_codec(audio))?;
        let (remote, remote_rtcp, on_hold) = self.transport(audio)?;
        let theirs = audio.direction.unwrap_or(Direction::SendRecv);
        Ok(Stream {
            remote,
            remote_rtcp: if rtcp_mux { remote } else { remote_rtcp },
            codec,
            send_payload_type,
            receive,
            telephone_event,
            ptime_ms: packet_time(audio.ptime_ms, audio.maxptime_ms),
            max_packet_ms: audio
                .maxptime_ms
                .filter(|most| *most >= 10)
                .and_then(|most| u8::try_from(most).ok()),
            rtcp_mux,
            direction: seen_from_us(theirs, on_hold),
            source: self.local.source,
            srtp,
        })
    }

    /// Where RTP and RTCP go, and whether the address means hold.
    fn transport(&self, audio: &Media) -> Result<(SocketAddr, SocketAddr, bool), OfferError> {
        let line = audio.line;
        let (address, on_hold) = match audio.connection {
            Some(Connection::Address(address)) if self.may_send_to(address) => (address, false),
            Some(Connection::Address(address)) => return Err(OfferError::NotAllowed { address }),
            // RFC 3264 §8.4: 0.0.0.0 is not an address but "do not send". What still comes, comes from
            // before.
            Some(Connection::Hold) => (self.address_before_hold(), true),
            Some(Connection::HostName { line }) => return Err(OfferError::HostName { line }),
            Some(Connection::Unreadable { line }) => {
                return Err(OfferError::Malformed { line, reason: "unreadable connection address" });
            }
            None => return Err(OfferError::Malformed { line, reason: "no connection address" }),
        };
        let remote = SocketAddr::new(address, audio.port);
        // RFC 3550 §11: the port above. The last port has none above, and RTCP stays with RTP.
        let default = SocketAddr::new(address, audio.port.checked_add(1).unwrap_or(audio.port));
        let remote_rtcp = match audio.rtcp {
            Some(rtcp) => match rtcp.address {
                None => SocketAddr::new(address, rtcp.port),
                Some(other) if self.may_send_to(other) => SocketAddr::new(other, rtcp.port),
                Some(_) => default,
            },
            None => default,
        };
        Ok((remote, remote_rtcp, on_hold))
    }

    fn may_send_to(&self, address: IpAddr) -> bool {
        // Our socket is of one family.
        address.is_ipv4() == self.local.address.to_canonical().is_ipv4() && self.local.allow.permits(address)
    }

    fn address_before_hold(&self) -> IpAddr {
        match (&self.stream, self.local.address.to_canonical()) {
            (Some(stream), _) => stream.remote.ip(),
            (None, IpAddr::V4(_)) => Ipv4Addr::UNSPECIFIED.into(),
            (None, IpAddr::V6(_)) => Ipv6Addr::UNSPECIFIED.into(),
        }
    }

    /// What we offer.
    fn own_line(&self) -> AudioLine {
        let codecs = self.local.codecs.iter().map(|codec| (static_payload_type(*codec), *codec)).collect();
        let (protocol, crypto) = self.own_protection();
        AudioLine {
            protocol,
            codecs,
            telephone_event: Some(self.own_event()),
            // RFC 5761 §5.1.1: offered again once agreed on; at first it is the peer's to ask for.
            rtcp_mux: self.stream.as_ref().is_some_and(|stream| stream.rtcp_mux),
            ptime_ms: PTIME_MS,
            direction: Direction::SendRecv,
            crypto,
        }
    }

    /// What was agreed on, again; at first each of our suites with a key of its own. Where plain RTP would do, the
    /// profile is that of plain RTP (RFC 8643 §3.1).
    fn own_protection(&self) -> (Protocol, Vec<Crypto>) {
        let Some(local) = &self.local.srtp else { return (Protocol::Avp, vec![]) };
        if let (Some((protocol, tag)), Some(stream)) = (self.agreed, &self.stream) {
            let key = tag.zip(stream.srtp.as_ref());
            let crypto = key.map(|(tag, keys)| Crypto { tag, key: keys.send.clone() });
            return (protocol, crypto.into_iter().collect());
        }
        let numbered = SUITES.into_iter().zip(0u32..);
        let crypto = numbered.map(|(suite, number)| Crypto {
            tag: number + 1,
            key: local.secret.key(suite, self.keys.wrapping_add(number)),
        });
        (if local.required { Protocol::Savp } else { Protocol::Avp }, crypto.collect())
    }

    /// RFC 3264 §8.3.2: a number keeps its meaning for the whole session, so the events keep the number
    /// agreed on, with its clock, and never take one that stood for a codec.
    fn own_event(&self) -> (u8, u32) {
        let Some(stream) = &self.stream else { return (EVENT_PAYLOAD_TYPE, CLOCK_RATE) };
        let agreed = stream.telephone_event.map(|event| event.receive_payload_type);
        let clock = stream.telephone_event.map_or(CLOCK_RATE, |event| event.clock_rate);
        let free = |number: &u8| stream.receive.iter().all(|taken| taken.0 != *number);
        let candidates = agreed.into_iter().chain([EVENT_PAYLOAD_TYPE]).chain(96..=127);
        (candidates.into_iter().find(free).unwrap_or(EVENT_PAYLOAD_TYPE), clock)
    }

    /// Our description but for the `o=` line's version, which [`Self::send`] puts into the gap.
    fn describe(&self, lines: &[Line], audio: &AudioLine) -> (String, String) {
        let address = self.local.address.to_canonical();
        let family = if address.is_ipv4() { "IP4" } else { "IP6" };
        let head = format!("v=0\r\no=- {} ", self.local.session_id & (u64::MAX >> 1));
        let mut tail = format!(" IN {family} {address}\r\ns=-\r\nc=IN {family} {address}\r\nt=0 0\r\n");
        for line in lines {
            // Invariant: writing to a String cannot fail.
            let _ = match line {
                Line::Audio => audio.write(self.local.port, &mut tail),
                Line::Refused { kind, protocol, format } => {
                    write_refusal(*kind, *protocol, *format, &mut tail)
                }
            };
        }
        (head, tail)
    }

    /// Gives a description its version: a new one when it differs from the last, else the same.
    fn send(&mut self, (head, tail): (String, String)) -> String {
        let same = format!("{head}{}{tail}", self.version);
        if self.sent.as_ref() == Some(&same) {
            return same;
        }
        self.version += 1;
        let text = format!("{head}{}{tail}", self.version);
        self.sent = Some(text.clone());
        text
    }
}

impl AudioLine {
    fn write(&self, port: u16, out: &mut String) -> std::fmt::Result {
        write!(out, "m=audio {port} {}", self.protocol.name())?;
        let codecs = self.codecs.iter().map(|codec| codec.0);
        for payload_type in codecs.chain(self.telephone_event.map(|event| event.0)) {
            write!(out, " {payload_type}")?;
        }
        write!(out, "\r\n")?;
        for (payload_type, codec) in &self.codecs {
            write!(out, "a=rtpmap:{payload_type} {}/{CLOCK_RATE}\r\n", encoding_name(*codec))?;
        }
        if let Some((event, clock)) = self.telephone_event {
            write!(out, "a=rtpmap:{event} telephone-event/{clock}\r\na=fmtp:{event} 0-15\r\n")?;
        }
        if self.rtcp_mux {
            write!(out, "a=rtcp-mux\r\n")?;
        }
        write!(out, "a=ptime:{}\r\na={}\r\n", self.ptime_ms, attribute(self.direction))?;
        self.crypto.iter().try_for_each(|crypto| crypto.write(out))
    }
}

/// RFC 3264 §6: a refused stream has port 0 and at least one format, which means nothing.
fn write_refusal(kind: Kind, protocol: Protocol, format: u8, out: &mut String) -> std::fmt::Result {
    let name = protocol.name();
    match protocol {
        Protocol::Udptl => write!(out, "m={} 0 {name} t38\r\n", kind.name()),
        Protocol::Sctp => write!(out, "m={} 0 {name} webrtc-datachannel\r\n", kind.name()),
        Protocol::Msrp | Protocol::MsrpTls | Protocol::Bfcp => {
            write!(out, "m={} 0 {name} *\r\n", kind.name())
        }
        _ => write!(out, "m={} 0 {name} {format}\r\n", kind.name()),
    }
}

fn refusal(media: &Media) -> Line {
    let format = media.formats.first().copied().unwrap_or(0);
    Line::Refused { kind: media.kind, protocol: media.protocol, format }
}

/// The first audio stream that has a port, a codec of ours and the right protection, with its key; encrypted ones
/// go first, for a peer may offer an encrypted stream and a plain one side by side.
fn usable(
    description: &Description,
    protection: Protection,
    fits: impl Fn(&Crypto) -> bool,
    ours: impl Fn(Codec) -> bool,
) -> Result<(&Media, Option<&Crypto>), OfferError> {
    let encrypts = protection != Protection::Never;
    let streams = description.media.iter().filter(|media| {
        let protocol = media.protocol;
        let rtp = protocol.is_plain_rtp() || (encrypts && protocol.is_secure_rtp());
        media.kind == Kind::Audio && media.port > 0 && rtp
    });
    let mut candidates: Vec<(&Media, Option<&Crypto>)> = vec![];
    if encrypts {
        let key = |media: &&'_ Media| media.crypto.iter().any(&fits);
        let secured = streams.clone().filter(key);
        candidates.extend(secured.map(|media| (media, media.crypto.iter().find(|crypto| fits(crypto)))));
    }
    if protection != Protection::Always {
        candidates
            .extend(streams.clone().filter(|media| media.protocol.is_plain_rtp()).map(|media| (media, None)));
    }
    let Some((first, _)) = candidates.first().copied() else {
        // What is left out for its protection alone is told apart from what is no audio at all.
        let any = encrypts && streams.clone().next().is_some();
        return Err(if any { OfferError::NoEncryption } else { OfferError::NoAudio });
    };
    let spoken = |(media, _): &(&Media, Option<&Crypto>)| media.codecs().any(|codec| ours(codec.1));
    candidates.into_iter().find(spoken).ok_or_else(|| no_common_codec(first))
}

fn event_format((theirs, clock_rate): (u8, u32), ours: u8) -> TelephoneEventFormat {
    TelephoneEventFormat { send_payload_type: theirs, receive_payload_type: ours, clock_rate }
}

fn no_common_codec(media: &Media) -> OfferError {
    OfferError::NoCommonCodec { offered: media.formats.clone() }
}

/// RFC 3264 §6.1: the answer mirrors the offer. An address that means hold takes our right to send.
fn seen_from_us(theirs: Direction, on_hold: bool) -> Direction {
    match (theirs, on_hold) {
        (Direction::SendRecv, false) => Direction::SendRecv,
        (Direction::SendOnly, _) | (Direction::SendRecv, true) => Direction::RecvOnly,
        (Direction::RecvOnly, false) => Direction::SendOnly,
        (Direction::Inactive, _) | (Direction::RecvOnly, true) => Direction::Inactive,
    }
}

/// What the peer wants to receive, in whole tens of milliseconds from 10 to 60; a figure outside is ignored.
fn packet_time(ptime_ms: Option<u32>, maxptime_ms: Option<u32>) -> u8 {
    let sane = |time: Option<u32>| {
        let time = u8::try_from(time?).ok().filter(|time| (10..=60).contains(time))?;
        Some(time - time % 10)
    };
    let wanted = sane(ptime_ms).unwrap_or(PTIME_MS);
    sane(maxptime_ms).map_or(wanted, |most| wanted.min(most))
}

fn static_payload_type(codec: Codec) -> u8 {
    match codec {
        Codec::Pcmu => 0,
        Codec::Pcma => 8,
        Codec::G722 => 9,
    }
}

fn encoding_name(codec: Codec) -> &'static str {
    match codec {
        Codec::Pcmu => "PCMU",
        Codec::Pcma => "PCMA",
        Codec::G722 => "G722",
    }
}

fn attribute(direction: Direction) -> &'static str {
    match direction {
        Direction::SendRecv => "sendrecv",
        Direction::SendOnly => "sendonly",
        Direction::RecvOnly => "recvonly",
        Direction::Inactive => "inactive",
    }
}

#[cfg(test)]
#[path = "negotiation_tests.rs"]
mod tests;
