//! Offers and answers as text (RFC 8866, RFC 3264): what a plain phone writes and reads.

use std::net::{IpAddr, SocketAddr};

use data_encoding::BASE64;
use media::Codec;
use media::srtp::MasterKey;

use crate::{g711, srtp};

/// What a phone offers or answers with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SdpOptions {
    /// In order of preference.
    pub codecs: Vec<Codec>,
    /// Payload type announced for telephone-event; `None`: not offered.
    pub telephone_event_pt: Option<u8>,
    /// `a=ptime`, and the length of the packets that the phone sends.
    pub ptime_ms: Option<u8>,
    /// `sendrecv`, `sendonly`, `recvonly`, `inactive`; an answer to a hold mirrors the offer instead.
    pub direction: &'static str,
    /// The user name of `o=`.
    pub origin_user: String,
    /// The host of `o=`; the phone's address when `None`.
    pub origin_host: Option<String>,
    /// The text of `s=`.
    pub session_name: String,
    /// `c=` address to show instead of the phone's own.
    pub connection: Option<IpAddr>,
    /// Whole lines (`i=…`, `e=…`, `a=…`) put where the session level takes them.
    pub session_lines: Vec<String>,
    /// Whole lines put at the end of the audio description.
    pub media_lines: Vec<String>,
    /// Whole further descriptions, lines joined by `\r\n`, after the audio.
    pub further_media: Vec<String>,
    /// The profile of an offer; an answer has that of its offer.
    pub profile: &'static str,
    /// The key that this phone encrypts with, written into `a=crypto` (RFC 4568); `None`: plain RTP.
    pub key: Option<MasterKey>,
}

impl Default for SdpOptions {
    fn default() -> Self {
        Self {
            codecs: vec![Codec::Pcmu, Codec::Pcma],
            telephone_event_pt: Some(101),
            ptime_ms: Some(20),
            direction: "sendrecv",
            origin_user: "-".into(),
            origin_host: None,
            session_name: "-".into(),
            connection: None,
            session_lines: vec![],
            media_lines: vec![],
            further_media: vec![],
            profile: "RTP/AVP",
            key: None,
        }
    }
}

impl SdpOptions {
    /// Encrypted RTP with a key of its own; each `number` is another key.
    #[must_use]
    pub fn encrypted(suite: media::srtp::Suite, number: u8) -> Self {
        Self { profile: "RTP/SAVP", key: srtp::key(suite, number), ..Self::default() }
    }

    /// PCMA only.
    #[must_use]
    pub fn pcma() -> Self {
        Self { codecs: vec![Codec::Pcma], ..Self::default() }
    }

    /// PCMU only.
    #[must_use]
    pub fn pcmu() -> Self {
        Self { codecs: vec![Codec::Pcmu], ..Self::default() }
    }
}

/// One phone's side of an offer/answer exchange: renders descriptions whose `o=` version grows.
#[derive(Debug, Clone)]
pub struct LocalMedia {
    /// Where RTP is received.
    pub address: SocketAddr,
    /// What is offered.
    pub options: SdpOptions,
    session_id: u64,
    version: u64,
}

impl LocalMedia {
    /// `session_id` goes into `o=`.
    #[must_use]
    pub fn new(address: SocketAddr, options: SdpOptions, session_id: u64) -> Self {
        Self { address, options, session_id, version: session_id }
    }

    /// A new offer.
    pub fn offer(&mut self) -> Vec<u8> {
        let options = self.options.clone();
        let mut formats: Vec<(u8, String)> = options
            .codecs
            .iter()
            .map(|c| (g711::payload_type(*c), format!("{}/8000", g711::name(*c))))
            .collect();
        formats.extend(options.telephone_event_pt.map(|pt| (pt, "telephone-event/8000".to_owned())));
        let key = options.key.as_ref().map(|key| (1, key));
        self.render(&formats, options.direction, &options.further_media, (options.profile, key))
    }

    /// The answer to `offer`: its codecs in its order as far as they are ours, our own telephone-event number,
    /// the mirrored direction, port 0 for further media. `None` when there is nothing in common.
    pub fn answer(&mut self, offer: &[u8]) -> Option<Vec<u8>> {
        let theirs = RemoteMedia::read(offer)?;
        let mut formats: Vec<(u8, String)> = theirs
            .payload_types
            .iter()
            .filter_map(|pt| Some((*pt, g711::codec(*pt)?)))
            .filter(|(_, codec)| self.options.codecs.contains(codec))
            .map(|(pt, codec)| (pt, format!("{}/8000", g711::name(codec))))
            .collect();
        if formats.is_empty() {
            return None;
        }
        if theirs.telephone_event_pt.is_some() {
            formats.extend(self.options.telephone_event_pt.map(|pt| (pt, "telephone-event/8000".to_owned())));
        }
        let direction = match theirs.direction.as_str() {
            "sendonly" => "recvonly",
            "recvonly" => "sendonly",
            "inactive" => "inactive",
            _ => self.options.direction,
        };
        let refused: Vec<String> = theirs.further_media.iter().map(|line| refuse(line)).collect();
        // RFC 4568 §5.1.2: the same tag and suite, and a key of our own.
        let own = self.options.key.clone();
        let key = own.as_ref().and_then(|own| {
            let suite = own.suite().name();
            Some((theirs.crypto.iter().find(|line| line.suite == suite)?.tag, own))
        });
        Some(self.render(&formats, direction, &refused, (&theirs.profile, key)))
    }

    fn render(
        &mut self,
        formats: &[(u8, String)],
        direction: &str,
        further: &[String],
        (profile, key): (&str, Option<(u32, &MasterKey)>),
    ) -> Vec<u8> {
        self.version += 1;
        let options = &self.options;
        let shown = options.connection.unwrap_or(self.address.ip());
        let host = options.origin_host.clone().unwrap_or_else(|| self.address.ip().to_string());
        let origin_family = if host.contains(':') { "IP6" } else { "IP4" };
        let family = if shown.is_ipv6() { "IP6" } else { "IP4" };
        let (id, version) = (self.session_id, self.version);
        let mut lines = vec![
            "v=0".to_owned(),
            format!("o={} {id} {version} IN {origin_family} {host}", options.origin_user),
            format!("s={}", options.session_name),
        ];
        let (attributes, described): (Vec<_>, Vec<_>) =
            options.session_lines.iter().cloned().partition(|line| line.starts_with("a="));
        lines.extend(described);
        lines.push(format!("c=IN {family} {shown}"));
        lines.push("t=0 0".to_owned());
        lines.extend(attributes);
        let numbers: Vec<String> = formats.iter().map(|(pt, _)| pt.to_string()).collect();
        lines.push(format!("m=audio {} {profile} {}", self.address.port(), numbers.join(" ")));
        for (pt, name) in formats {
            lines.push(format!("a=rtpmap:{pt} {name}"));
            if name.starts_with("telephone-event") {
                lines.push(format!("a=fmtp:{pt} 0-15"));
            }
        }
        lines.extend(options.ptime_ms.map(|ms| format!("a=ptime:{ms}")));
        lines.push(format!("a={direction}"));
        lines.extend(key.map(|(tag, key)| {
            let inline = BASE64.encode(&srtp::keying(key));
            format!("a=crypto:{tag} {} inline:{inline}", key.suite().name())
        }));
        lines.extend(options.media_lines.iter().cloned());
        lines.extend(further.iter().cloned());
        (lines.join("\r\n") + "\r\n").into_bytes()
    }
}

fn refuse(line: &str) -> String {
    let mut words: Vec<&str> = line.split(' ').collect();
    if let Some(port) = words.get_mut(1) {
        *port = "0";
    }
    words.join(" ")
}

/// What the far side's description says about its audio.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteMedia {
    /// Where it wants RTP.
    pub rtp: SocketAddr,
    /// Where it wants RTCP.
    pub rtcp: SocketAddr,
    /// In its order.
    pub payload_types: Vec<u8>,
    /// What it wants to receive telephone-events as.
    pub telephone_event_pt: Option<u8>,
    /// As it wrote it; `sendrecv` when it did not.
    pub direction: String,
    /// Its `a=ptime`.
    pub ptime_ms: Option<u8>,
    /// Its `o=` line.
    pub origin: String,
    /// The `m=` lines other than the first audio.
    pub further_media: Vec<String>,
    /// The profile of the audio.
    pub profile: String,
    /// Its `a=crypto` lines.
    pub crypto: Vec<Crypto>,
}

/// An `a=crypto` line as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Crypto {
    /// Names the line.
    pub tag: u32,
    /// The name of the suite.
    pub suite: String,
    /// Master key and salt.
    pub keying: Vec<u8>,
}

impl Crypto {
    fn read(value: &str) -> Option<Self> {
        let mut words = value.split(' ');
        let (tag, suite) = (words.next()?.parse().ok()?, words.next()?.to_owned());
        let inline = words.next()?.strip_prefix("inline:")?.split('|').next()?;
        Some(Self { tag, suite, keying: BASE64.decode(inline.as_bytes()).ok()? })
    }
}

impl RemoteMedia {
    /// `None` when there is no audio with an address.
    #[must_use]
    pub fn read(body: &[u8]) -> Option<Self> {
        let text = String::from_utf8_lossy(body);
        let (mut connection, mut port, mut rtcp_port) = (None::<IpAddr>, None::<u16>, None::<u16>);
        let (mut payload_types, mut telephone_event_pt, mut ptime_ms) = (vec![], None, None);
        let (mut direction, mut origin, mut further_media) = ("sendrecv".to_owned(), String::new(), vec![]);
        let (mut in_audio, mut media_seen) = (false, false);
        let (mut profile, mut crypto) = (String::new(), vec![]);
        for line in text.lines() {
            let Some((kind, value)) = line.split_once('=') else { continue };
            let relevant = in_audio || !media_seen;
            match kind {
                "o" => origin = value.to_owned(),
                "c" if relevant => {
                    connection = value.split(' ').nth(2).and_then(|ip| ip.parse().ok()).or(connection)
                }
                "m" => {
                    media_seen = true;
                    in_audio = value.starts_with("audio ") && port.is_none();
                    if in_audio {
                        let mut words = value.split(' ').skip(1);
                        port = words.next().and_then(|p| p.parse().ok());
                        words.next().unwrap_or_default().clone_into(&mut profile);
                        payload_types = words.filter_map(|pt| pt.parse().ok()).collect();
                    } else {
                        further_media.push(line.to_owned());
                    }
                }
                "a" if relevant => match value.split_once(':').unwrap_or((value, "")) {
                    ("rtpmap", map) => {
                        if let Some((pt, name)) = map.split_once(' ')
                            && name.to_ascii_lowercase().starts_with("telephone-event/8000")
                        {
                            telephone_event_pt = pt.parse().ok();
                        }
                    }
                    ("crypto", value) => crypto.extend(Crypto::read(value)),
                    ("ptime", ms) => ptime_ms = ms.trim().parse().ok(),
                    ("rtcp", value) => rtcp_port = value.split(' ').next().and_then(|p| p.parse().ok()),
                    (word @ ("sendrecv" | "sendonly" | "recvonly" | "inactive"), _) => {
                        word.clone_into(&mut direction)
                    }
                    _ => {}
                },
                _ => {}
            }
        }
        let (ip, port) = (connection?, port?);
        Some(Self {
            rtp: SocketAddr::new(ip, port),
            rtcp: SocketAddr::new(ip, rtcp_port.unwrap_or(port.saturating_add(1))),
            payload_types,
            telephone_event_pt,
            direction,
            ptime_ms,
            origin,
            further_media,
            profile,
            crypto,
        })
    }

    /// The first codec that the far side takes.
    #[must_use]
    pub fn codec(&self) -> Option<Codec> {
        self.payload_types.iter().find_map(|pt| g711::codec(*pt))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offer_is_answered_with_what_is_common() {
        let mut a = LocalMedia::new("127.0.0.1:4000".parse().unwrap(), SdpOptions::default(), 5);
        a.options.further_media = vec!["m=video 4002 RTP/AVP 96\r\na=rtpmap:96 H264/90000".into()];
        let mut b = LocalMedia::new(
            "127.0.0.2:6000".parse().unwrap(),
            SdpOptions { telephone_event_pt: Some(96), ..SdpOptions::pcma() },
            6,
        );
        let offer = a.offer();
        let answer = RemoteMedia::read(&b.answer(&offer).unwrap()).unwrap();
        assert_eq!(
            (answer.rtp, answer.rtcp),
            ("127.0.0.2:6000".parse().unwrap(), "127.0.0.2:6001".parse().unwrap())
        );
        assert_eq!(
            (answer.payload_types.as_slice(), answer.telephone_event_pt),
            ([8u8, 96].as_slice(), Some(96))
        );
        assert_eq!(
            (answer.codec(), answer.further_media),
            (Some(Codec::Pcma), vec!["m=video 0 RTP/AVP 96".to_owned()])
        );
        a.options.direction = "sendonly";
        assert_eq!(RemoteMedia::read(&b.answer(&a.offer()).unwrap()).unwrap().direction, "recvonly");
        let first = RemoteMedia::read(&offer).unwrap().origin;
        assert_ne!(RemoteMedia::read(&a.offer()).unwrap().origin, first, "the version grows");
    }
}
