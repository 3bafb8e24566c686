//! Fills the places in with marked texts, and remembers each of them.

// Parts of one test.
#![allow(unreachable_pub)]

use crate::party::{Party, Side};
use crate::places::{BODIES, FURTHER_MEDIA, HEADERS, MEDIA_LINES, REQUEST_HEADERS, SESSION_LINES};
use sip_tests::agent::Reply;
use sip_tests::leak::disguise::{Disguise, Room};
use sip_tests::rtp::{HeaderExtras, Packet};
use sip_tests::sdp::SdpOptions;
use sip_tests::stream::{MediaOptions, MediaSession};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

/// One text that was put somewhere.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Planting {
    pub row: u8,
    pub side: Side,
    pub needle: Vec<u8>,
}

/// Everything that was planted, and what the URIs of the phones say besides: `;transport=tcp`, or nothing.
#[derive(Default)]
pub struct Ledger(pub BTreeSet<Planting>, pub &'static str);

impl Ledger {
    pub fn bytes(&mut self, row: u8, party: &Party, needle: &[u8]) {
        self.0.insert(Planting { row, side: party.side, needle: needle.to_vec() });
    }

    pub fn text(&mut self, row: u8, party: &Party, template: &str) -> String {
        let text = party.fill(row, template);
        // What holds no mark is judged by [`assert_ours`] alone.
        if text != template {
            self.bytes(row, party, text.as_bytes());
        }
        text
    }

    /// What is no text: digits two to a byte, UTF-16 and the like, between bytes of something else.
    fn binary(&mut self, row: u8, party: &Party, place: &str) -> Vec<u8> {
        let Some((_, mark)) = party.disguised(row, place, Room::Bytes) else { return vec![] };
        self.bytes(row, party, &mark);
        [&[0, 1, 0x3b], mark.as_slice(), &[0x3b, 0, 0]].concat()
    }

    pub fn headers(&mut self, party: &Party, own: SocketAddr, is_request: bool) -> Vec<(String, String)> {
        let more = if is_request { REQUEST_HEADERS } else { &[] };
        let mut headers: Vec<(String, String)> = HEADERS
            .iter()
            .chain(more)
            .map(|(row, name, value)| ((*name).to_owned(), self.text(*row, party, value)))
            .collect();
        // A route that leads back to the one who recorded it, so that the call works.
        let route = self.text(7, party, &format!("<sip:{{s}}@{own}{};lr;x={{n}}>", self.1));
        headers.push(("Record-Route".to_owned(), route));
        headers
    }

    pub fn sdp(&mut self, party: &Party) -> SdpOptions {
        let mut lines = |table: &[(u8, &str)]| -> Vec<String> {
            table.iter().map(|(row, line)| self.text(*row, party, line)).collect()
        };
        let (session_lines, media_lines) = (lines(SESSION_LINES), lines(MEDIA_LINES));
        let further_media = lines(FURTHER_MEDIA);
        // The address of the audio itself, which the kit writes.
        self.bytes(42, party, format!("c=IN IP4 {}", party.address).as_bytes());
        self.bytes(36, party, format!("c=IN IP4 {}", party.address).as_bytes());
        SdpOptions {
            telephone_event_pt: Some(113),
            origin_user: self.text(35, party, "{s}"),
            origin_host: Some(self.text(35, party, "{h}")),
            session_name: self.text(35, party, "{s} +{n}"),
            session_lines,
            media_lines,
            further_media,
            ..SdpOptions::default()
        }
    }

    pub fn body(&mut self, party: &Party, index: usize) -> (String, Vec<u8>) {
        let (row, kind, template) = BODIES[index % BODIES.len()];
        let mut content = self.text(row, party, template).into_bytes();
        content.extend(self.binary(row, party, template));
        // Where no body is expected it is row 40 as well.
        self.bytes(40, party, &content);
        (kind.to_owned(), content)
    }

    /// All bodies in one, every part marked in its own headers too, and the description among them.
    pub fn multipart(&mut self, party: &Party, sdp: &[u8]) -> (String, Vec<u8>) {
        // RFC 2046 §5.1.1: up to 70 characters, and no "%" among them.
        let drawn = party.fill(41, "edge-{s}");
        let is_legal = drawn.len() <= 70 && !drawn.contains('%');
        let boundary = if is_legal { drawn } else { format!("edge-{}41", party.stem) };
        self.bytes(41, party, boundary.as_bytes());
        let mut content = format!("--{boundary}\r\nContent-Type: application/sdp\r\n\r\n").into_bytes();
        content.extend_from_slice(sdp);
        let mut add = |head: &str, body: &[u8]| {
            content.extend_from_slice(format!("\r\n--{boundary}\r\n{head}\r\n").as_bytes());
            content.extend_from_slice(body);
        };
        for (row, kind, template) in BODIES {
            let identity = self.text(33, party, "P-Asserted-Identity: \"{s} in a part\" <sip:+{n}@{h}>");
            let id = self.text(41, party, "Content-ID: <{s}.part@{h}>");
            let body = self.text(*row, party, template);
            let optional = "Content-Disposition: render; handling=optional";
            add(&format!("Content-Type: {kind}\r\n{optional}\r\n{id}\r\n{identity}\r\n"), body.as_bytes());
        }
        // ISUP: the calling party number, two digits to a byte, the first one low (Q.763 §3.10).
        let packed = Disguise::PackedSwapped.apply(&party.number, 0).unwrap();
        self.bytes(39, party, &packed);
        let isup = "Content-Type: application/isup;version=itu-t92+\r\n\
                    Content-Disposition: signal; handling=optional\r\n";
        add(isup, &[b"\x01\x00\x49\x00\x00\x03\x02\x00\x07\x04\x10".as_slice(), &packed].concat());
        content.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
        (format!("multipart/mixed;boundary=\"{boundary}\""), content)
    }

    pub fn media(&mut self, party: &Party) -> MediaOptions {
        let ssrc = u32::from_be_bytes(*party.stem.as_bytes().first_chunk().unwrap());
        let mark = party.disguised(43, "CSRC", Room::Bytes).map(|(_, mark)| mark);
        // 15 words at most.
        let mut digits =
            mark.filter(|mark| mark.len() <= 60).unwrap_or_else(|| party.number.clone().into_bytes());
        self.bytes(43, party, &digits);
        digits.resize(digits.len().next_multiple_of(4), 0);
        let csrc: Vec<u32> =
            digits.chunks(4).take(15).map(|four| u32::from_be_bytes(*four.first_chunk().unwrap())).collect();
        // The one-byte elements of RFC 8285 are too short for it: two-byte ones, and SDES items in them
        // (RFC 7941).
        let word = self.text(43, party, "{n}@{h}");
        let length = u8::try_from(word.len()).unwrap();
        let mut extension = [&[1, length], word.as_bytes()].concat();
        let binary = self.binary(43, party, "extension");
        if !binary.is_empty() {
            extension.extend([2, u8::try_from(binary.len()).unwrap()]);
            extension.extend(binary);
        }
        let items = [
            (1, "{n}@{h}"),
            (2, "{s} of +{n}"),
            (3, "{n}@{h}"),
            (4, "+{n}"),
            (5, "{s}, {ip}"),
            (6, "{s} 1.0"),
            (7, "on the phone with {s}"),
            (8, "\u{3}{s}+{n}"),
            (7, "{text} is on the phone"),
            (2, "{text}"),
        ];
        MediaOptions {
            ssrc: Some(ssrc),
            first_sequence: Some(0x6162),
            first_timestamp: Some(0x6364_6566),
            extras: HeaderExtras { csrc, extension: Some((0x1000, extension)), padding: 8 },
            sdes: items.iter().map(|(kind, text)| (*kind, self.text(44, party, text))).collect(),
            rtcp_interval: Some(Duration::from_millis(300)),
            goodbye: Some(self.text(44, party, "{s} +{n} hung up, {text}")),
            ..MediaOptions::default()
        }
    }

    /// RTP and RTCP that no ordinary phone sends.
    pub fn odd_packets(&mut self, party: &Party, media: &MediaSession) {
        let mut word = self.text(43, party, "padding {text} +{n}").into_bytes();
        word.extend(self.binary(43, party, "padding"));
        let padding = u8::try_from(word.len() + 1).unwrap();
        let extras = HeaderExtras { padding, ..HeaderExtras::default() };
        let mut packet = Packet { payload: vec![0xff; 160], ssrc: media.ssrc(), extras, ..Packet::default() };
        (packet.sequence, packet.timestamp) = (0x7000, 0x6464_6566);
        let mut wire = packet.encode();
        let end = wire.len();
        wire[end - 1 - word.len()..end - 1].copy_from_slice(&word);
        media.send_raw(&wire);
        let ssrc = media.ssrc().to_be_bytes();
        let name = *b"qApp";
        for (kind, head) in [
            (204, [ssrc, name].concat()),
            (207, ssrc.to_vec()),
            (205, [ssrc, ssrc].concat()),
            (210, ssrc.to_vec()),
        ] {
            let mut content = head;
            content.extend_from_slice(
                self.text(44, party, &format!("packet {kind} of {{s}} +{{n}}")).as_bytes(),
            );
            content.extend(self.binary(44, party, &format!("packet {kind}")));
            content.resize(content.len().next_multiple_of(4), 0);
            let words = u16::try_from(content.len() / 4).unwrap();
            let [high, low] = words.to_be_bytes();
            let receiver_report = [&[0x80, 201, 0, 1], ssrc.as_slice()].concat();
            media.send_raw_rtcp(&[&receiver_report, &[0x80, kind, high, low][..], &content].concat());
            // As if RTP and RTCP shared a port (RFC 5761).
            media.send_raw(&[&[0x80, kind, high, low][..], &content].concat());
        }
    }

    pub fn reply(&mut self, party: &Party, own: SocketAddr, status: u16, tag: &str) -> Reply {
        let contact = "\"{s}\" <sip:{n}@OWN;gr={u};x={s}>;+sip.instance=\"<urn:uuid:{u}>\";isfocus"
            .replace("OWN", &format!("{own}{}", self.1));
        Reply {
            status,
            phrase: Some(self.text(30, party, "{s} +{n} says so")),
            to_tag: Some(self.text(3, party, tag)),
            headers: self.headers(party, own, false),
            contact: Some(self.text(4, party, &contact)),
            ..Reply::default()
        }
    }

    /// What a phone answers by itself: 200 to BYE and CANCEL.
    pub fn answers(&mut self, party: &Party, own: SocketAddr) -> Reply {
        Reply {
            phrase: Some(self.text(30, party, "{s} +{n} says goodbye")),
            headers: self.headers(party, own, false),
            body: Some(self.body(party, 7)),
            ..Reply::default()
        }
    }
}
