//! Every byte that the phones received and sent, with time and direction; the ladder that shows it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::leak::{Finder, Finding, Marks};
use crate::message::{self, Message};
use crate::rtp::Packet;

/// Which way, seen from the phone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// The phone got it.
    Received,
    /// The phone sent it.
    Sent,
}

/// What it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A SIP message.
    Sip,
    /// A packet on an RTP port.
    Rtp,
    /// A packet on an RTCP port.
    Rtcp,
}

/// One message or packet.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Since the transcript began.
    pub at: Duration,
    /// The phone's name.
    pub phone: Arc<str>,
    /// Which way.
    pub direction: Direction,
    /// What it was.
    pub kind: Kind,
    /// The other end.
    pub peer: SocketAddr,
    /// All of it.
    pub bytes: Vec<u8>,
}

/// A record shared by all phones of a test. Cloning shares it.
#[derive(Debug, Clone)]
pub struct Transcript(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    start: Instant,
    keep_audio: bool,
    entries: Mutex<Vec<Entry>>,
}

impl Default for Transcript {
    fn default() -> Self {
        Self::new()
    }
}

impl Transcript {
    /// Keeps everything.
    #[must_use]
    pub fn new() -> Self {
        Self::begin(true)
    }

    /// Keeps SIP and RTCP; for tests with many calls.
    #[must_use]
    pub fn without_audio() -> Self {
        Self::begin(false)
    }

    fn begin(keep_audio: bool) -> Self {
        Self(Arc::new(Inner { start: crate::clock::now(), keep_audio, entries: Mutex::default() }))
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Entry>> {
        self.0.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds one message or packet.
    pub fn add(&self, phone: &Arc<str>, direction: Direction, kind: Kind, peer: SocketAddr, bytes: &[u8]) {
        if kind == Kind::Rtp && !self.0.keep_audio {
            return;
        }
        let at = crate::clock::now().saturating_duration_since(self.0.start);
        self.lock().push(Entry { at, phone: phone.clone(), direction, kind, peer, bytes: bytes.to_vec() });
    }

    /// All entries so far, in order of time.
    #[must_use]
    pub fn entries(&self) -> Vec<Entry> {
        let mut entries = self.lock().clone();
        entries.sort_by_key(|entry| entry.at);
        entries
    }

    /// What `phone` received.
    #[must_use]
    pub fn received_by(&self, phone: &str) -> Vec<Entry> {
        let received = |entry: &&Entry| &*entry.phone == phone && entry.direction == Direction::Received;
        self.lock().iter().filter(received).cloned().collect()
    }

    /// The SIP messages that `phone` received.
    #[must_use]
    pub fn messages_to(&self, phone: &str) -> Vec<Message> {
        self.received_by(phone)
            .iter()
            .filter(|e| e.kind == Kind::Sip)
            .filter_map(|e| Message::read(&e.bytes))
            .collect()
    }

    /// Marks in anything that `phone` received. Audio itself is searched as plain text only, the rest of RTP
    /// (header, extension, other payloads), RTCP and SIP in every disguise.
    #[must_use]
    pub fn leaks_to(&self, phone: &str, marks: &Marks) -> Vec<Finding> {
        let (mut findings, finder) = (vec![], Finder::new(marks));
        for entry in self.received_by(phone) {
            let found = leaks_in(&entry, &finder);
            for mut finding in found {
                let what = Message::read(&entry.bytes)
                    .map_or_else(|| format!("{:?}", entry.kind), |m| m.start_line().to_owned());
                finding.excerpt = format!("{what}: {}", finding.excerpt);
                findings.push(finding);
            }
        }
        findings
    }

    /// True when `needle` stands anywhere in what `phone` received, as plain bytes.
    #[must_use]
    pub fn contains(&self, phone: &str, needle: &[u8]) -> bool {
        self.received_by(phone).iter().any(|entry| message::find(&entry.bytes, needle).is_some())
    }

    /// The exchange as a ladder: first phone, server, further phones in order of appearance. RTP between two
    /// messages is summed up; digits are counted, never shown.
    #[must_use]
    pub fn ladder(&self, server: &str) -> String {
        let entries = self.entries();
        let mut columns: Vec<String> = vec![];
        for entry in &entries {
            if !columns.iter().any(|name| **name == *entry.phone) {
                columns.push(entry.phone.to_string());
            }
        }
        columns.insert(columns.len().min(1), server.to_owned());
        let mut ladder = Ladder { text: String::new(), columns };
        ladder.head();
        let mut audio: BTreeMap<(Arc<str>, Direction, &'static str), usize> = BTreeMap::new();
        for entry in &entries {
            match entry.kind {
                Kind::Sip => {
                    ladder.audio(&mut audio, server);
                    if let Some(message) = Message::read(&entry.bytes) {
                        ladder.arrow(Some(entry.at), &entry.phone, server, entry.direction, &label(&message));
                    }
                }
                Kind::Rtp => {
                    let what = match Packet::decode(&entry.bytes).map(|packet| packet.payload_type) {
                        Some(0) => "RTP PCMU",
                        Some(8) => "RTP PCMA",
                        Some(96..) => "RTP telephone-event",
                        _ => "RTP",
                    };
                    *audio.entry((entry.phone.clone(), entry.direction, what)).or_default() += 1;
                }
                Kind::Rtcp => *audio.entry((entry.phone.clone(), entry.direction, "RTCP")).or_default() += 1,
            }
        }
        ladder.audio(&mut audio, server);
        ladder.text
    }
}

/// What the finder finds in one message or packet; of sound, plain text only.
#[must_use]
pub fn leaks_in(entry: &Entry, finder: &Finder) -> Vec<Finding> {
    match entry.kind {
        Kind::Sip | Kind::Rtcp => finder.find(&entry.bytes),
        Kind::Rtp => rtp_leaks(&entry.bytes, finder),
    }
}

fn rtp_leaks(bytes: &[u8], finder: &Finder) -> Vec<Finding> {
    let Some(packet) = Packet::decode(bytes) else { return finder.find(bytes) };
    if !matches!(packet.payload_type, 0 | 8) {
        return finder.find(bytes);
    }
    // What stands behind the audio is padding, of which only the last byte means anything.
    let padding = usize::from(packet.extras.padding);
    let (front, padding) = bytes.split_at(bytes.len().saturating_sub(padding));
    let header = front.get(..front.len().saturating_sub(packet.payload.len())).unwrap_or_default();
    let mut found = finder.find(header);
    found.extend(finder.find(padding));
    found.extend(finder.find_plain(&packet.payload));
    found
}

fn label(message: &Message) -> String {
    let body = if message.sdp().is_some() { " SDP" } else { "" };
    match (message.method(), message.status()) {
        (Some(method), _) => {
            let user = message.uri().and_then(message::user_of).unwrap_or_default();
            let shown =
                if method == "INVITE" && !user.is_empty() { format!(" {user}") } else { String::new() };
            format!("{method}{shown}{body}")
        }
        (_, status) => format!(
            "{} {} ({}){body}",
            status.unwrap_or(0),
            message.phrase().unwrap_or_default(),
            message.cseq().1
        ),
    }
}

const WIDTH: usize = 36;

struct Ladder {
    text: String,
    columns: Vec<String>,
}

impl Ladder {
    fn head(&mut self) {
        let mut line = format!("{:>9} ", "");
        for name in &self.columns {
            let _ = write!(line, "{name:<width$}", width = WIDTH + 1);
        }
        self.text.push_str(line.trim_end());
        self.text.push('\n');
    }

    fn audio(&mut self, audio: &mut BTreeMap<(Arc<str>, Direction, &'static str), usize>, server: &str) {
        for ((phone, direction, what), count) in std::mem::take(audio) {
            self.arrow(None, &phone, server, direction, &format!("{what} ×{count}"));
        }
    }

    fn arrow(&mut self, at: Option<Duration>, phone: &str, server: &str, direction: Direction, label: &str) {
        let column = |name: &str| self.columns.iter().position(|column| column == name).unwrap_or(0);
        let (from, to) = match direction {
            Direction::Sent => (column(phone), column(server)),
            Direction::Received => (column(server), column(phone)),
        };
        let (left, right) = (from.min(to), from.max(to));
        let space = (right - left) * (WIDTH + 1) - 1;
        let shown: String = label.chars().take(space.saturating_sub(6)).collect();
        let fill = space.saturating_sub(shown.chars().count() + 3);
        let arrow = if from < to {
            format!("─ {shown} {}▶", "─".repeat(fill.saturating_sub(1)))
        } else {
            format!("◀─ {shown} {}", "─".repeat(fill.saturating_sub(1)))
        };
        let time = at.map_or_else(String::new, |at| format!("{:.3} s", at.as_secs_f64()));
        let mut line = format!("{time:>9} ");
        for index in 0..self.columns.len() {
            line.push('│');
            if index == left {
                line.push_str(&arrow);
            } else if (index < left || index >= right) && index + 1 < self.columns.len() {
                line.push_str(&" ".repeat(WIDTH));
            }
            if index >= left && index < right && index != left {
                line.pop();
            }
        }
        self.text.push_str(line.trim_end());
        self.text.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ladder_shows_who_sent_what_and_audio_is_summed_up() {
        let transcript = Transcript::new();
        let (a, b): (Arc<str>, Arc<str>) = ("caller".into(), "callee".into());
        let peer = "127.0.0.1:5060".parse().unwrap();
        let invite = |to: &str| format!("INVITE sip:{to}@h SIP/2.0\r\nContent-Length: 0\r\n\r\n");
        transcript.add(&a, Direction::Sent, Kind::Sip, peer, invite("+12025550100").as_bytes());
        transcript.add(&b, Direction::Received, Kind::Sip, peer, invite("+33155512345").as_bytes());
        for _ in 0..3 {
            transcript.add(&a, Direction::Sent, Kind::Rtp, peer, &Packet::default().encode());
        }
        transcript.add(&b, Direction::Sent, Kind::Sip, peer, b"SIP/2.0 200 OK\r\nCSeq: 1 BYE\r\n\r\n");
        let ladder = transcript.ladder("maskline");
        let lines: Vec<&str> = ladder.lines().collect();
        assert_eq!(lines.len(), 5, "{ladder}");
        assert!(lines[0].contains("caller") && lines[0].find("maskline") < lines[0].find("callee"));
        assert!(lines[1].contains("INVITE +12025550100 ─") && lines[1].contains('▶'));
        assert!(lines[3].contains("RTP PCMU ×3"));
        assert!(lines[4].contains("◀─ 200 OK (BYE)"));
        let widths: Vec<usize> = lines[1..].iter().map(|line| line.chars().count()).collect();
        assert!(widths.iter().all(|width| *width == widths[0]), "{ladder}");
    }

    #[test]
    fn a_leak_is_looked_for_on_the_receiving_side_only() {
        let transcript = Transcript::new();
        let phone: Arc<str> = "callee".into();
        let peer = "127.0.0.1:5060".parse().unwrap();
        let marks = Marks::default().number("+4915112345678");
        transcript.add(
            &phone,
            Direction::Sent,
            Kind::Sip,
            peer,
            b"INVITE sip:4915112345678@h SIP/2.0\r\n\r\n",
        );
        assert!(transcript.leaks_to("callee", &marks).is_empty());
        transcript.add(&phone, Direction::Received, Kind::Rtcp, peer, b"\x80\xc9\x00\x014915112345678");
        assert_eq!(transcript.leaks_to("callee", &marks).len(), 1);
        assert!(transcript.contains("callee", b"112345"));
    }
}
