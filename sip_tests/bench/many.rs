//! Many recorded calls at once, each packet with its name in its sound: what each leg said is looked for in its file.
//!
//! A packet begins with a mark, the number of its stream and its own number, spelt in codes that G.711 decodes to
//! distinct samples; so a file tells whose it is and which packets are in it. Nothing that the service sends is read:
//! this is about files.

use std::collections::HashMap;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use media::Codec;
use serde_json::{Value, json};
use sip_tests::{clock, g711};
use socket2::SockRef;

use crate::Failure;
use crate::recordings::interactions;

/// Loud, and in no spelt number.
const MARK: [u8; 4] = [0x00, 0x80, 0x00, 0x80];
/// Samples before the mark: one of them may be left out where a leg is kept in step with the service's clock.
const LEAD: usize = 8;
/// Mark, stream and number, a byte for each half of their bytes.
const NAME: usize = MARK.len() + 16;
/// Of the recorder's headers.
const HEADER: usize = 44;
/// RTP ports of the load lie here, outside those of the service under test.
const PORTS: std::ops::Range<u16> = 34_000..60_000;
/// A new batch of calls is dialled when all before it are up.
pub(crate) const BATCH: usize = 50;

/// One end of a call: what it sends, and where to.
struct Stream {
    socket: UdpSocket,
    /// Takes RTCP unread, so that no ICMP error answers it.
    _rtcp: UdpSocket,
    destination: Option<SocketAddr>,
    sent: u32,
}

/// The speakers of all calls: callers have even numbers, callees odd ones.
pub(crate) struct Crowd {
    streams: Vec<Stream>,
    packet: Vec<u8>,
    packet_ms: u16,
    started: Instant,
    ticks: u64,
    by_address: HashMap<SocketAddr, usize>,
    sending: bool,
    /// Ticks that came more than one packet late.
    late: u64,
}

impl Crowd {
    pub(crate) fn new(calls: usize, packet_ms: u16) -> Result<Self, Failure> {
        let offset = u16::try_from(std::process::id() % 2000)? * 2;
        let mut ports = PORTS.skip(offset.into()).step_by(2);
        let (mut streams, mut by_address) = (vec![], HashMap::new());
        for index in 0..calls * 2 {
            let stream = ports.by_ref().find_map(Stream::bind).ok_or("no free ports for RTP of the load")?;
            by_address.insert(stream.socket.local_addr()?, index);
            streams.push(stream);
        }
        let mut packet = vec![0x80, 0];
        packet.resize(12, 0);
        // A loud buzz: no part of it is silence.
        packet.extend((0..8 * packet_ms).map(|n| if n % 20 < 10 { 0xa0 } else { 0x20 }));
        let started = clock::now();
        Ok(Self { streams, packet, packet_ms, started, ticks: 0, by_address, sending: true, late: 0 })
    }

    /// The addresses of callers, or of callees, in order.
    pub(crate) fn ports(&self, callees: bool) -> Result<Vec<SocketAddr>, Failure> {
        let ends = self.streams.iter().skip(usize::from(callees)).step_by(2);
        Ok(ends.map(|stream| stream.socket.local_addr()).collect::<Result<_, _>>()?)
    }

    pub(crate) fn aim(&mut self, own: SocketAddr, destination: SocketAddr) {
        let stream = self.by_address.get(&own).and_then(|index| self.streams.get_mut(*index));
        if let Some(stream) = stream {
            stream.destination = Some(destination);
        }
    }

    /// Whoever speaks stops in the middle of the sentence.
    pub(crate) fn hush(&mut self) {
        self.sending = false;
    }

    pub(crate) fn late(&self) -> u64 {
        self.late
    }

    pub(crate) fn sent(&self) -> u64 {
        self.streams.iter().map(|stream| u64::from(stream.sent)).sum()
    }

    /// Sends what is due: each stream has its own millisecond of the packet time.
    pub(crate) fn tick(&mut self, now: Instant) {
        let now = u64::try_from((now - self.started).as_millis()).unwrap_or_default();
        self.late += u64::from(now > self.ticks + u64::from(self.packet_ms));
        while self.ticks < now {
            self.ticks += 1;
            if self.sending {
                let slots = usize::from(self.packet_ms);
                let slot = usize::try_from(self.ticks).unwrap_or_default() % slots;
                for (index, stream) in self.streams.iter_mut().enumerate().skip(slot).step_by(slots) {
                    stream.send(u32::try_from(index).unwrap_or_default(), &mut self.packet);
                }
            }
        }
    }
}

impl Stream {
    fn bind(port: u16) -> Option<Self> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).ok()?;
        let rtcp = UdpSocket::bind((Ipv4Addr::LOCALHOST, port + 1)).ok()?;
        socket.set_nonblocking(true).ok()?;
        // Nobody reads: what comes may be dropped at once.
        for socket in [&socket, &rtcp] {
            let _ = SockRef::from(socket).set_recv_buffer_size(1);
        }
        Some(Self { socket, _rtcp: rtcp, destination: None, sent: 0 })
    }

    fn send(&mut self, own: u32, packet: &mut [u8]) {
        let Some(destination) = self.destination else { return };
        let samples = u32::try_from(packet.len().saturating_sub(12)).unwrap_or_default();
        let Some((header, payload)) = packet.split_first_chunk_mut::<12>() else { return };
        let [_, _, s0, s1, t0, t1, t2, t3, ssrc @ ..] = header;
        [*s0, *s1] = u16::try_from(self.sent & 0xffff).unwrap_or_default().to_be_bytes();
        [*t0, *t1, *t2, *t3] = self.sent.wrapping_mul(samples).to_be_bytes();
        *ssrc = (own + 1).to_be_bytes();
        let name = MARK.into_iter().chain(spell(own)).chain(spell(self.sent));
        payload.iter_mut().skip(LEAD).zip(name).for_each(|(byte, letter)| *byte = letter);
        if self.socket.send_to(packet, destination).is_ok() {
            self.sent += 1;
        }
    }
}

/// A number in codes that no two of decode to one sample.
fn spell(number: u32) -> impl Iterator<Item = u8> {
    number.to_be_bytes().into_iter().flat_map(|byte| [0x90 | (byte >> 4), 0x90 | (byte & 15)])
}

fn read_number(letters: &[u8]) -> Option<u32> {
    let digits = letters.first_chunk::<8>()?;
    digits
        .iter()
        .try_fold(0, |number, letter| (letter >> 4 == 9).then(|| (number << 4) | u32::from(letter & 15)))
}

/// What a file holds.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Heard {
    stream: u32,
    packets: u32,
    /// Packets whose place is more than a sample away from where the one before says.
    misplaced: u32,
    length_ms: u32,
}

/// Finds the packets in a file's bytes. `None`: it is no WAV of ours, or packets of two streams are in it.
fn hear(file: &[u8], packet_ms: u16) -> Option<Heard> {
    let (header, audio) = file.split_at_checked(HEADER)?;
    let said = u32::from_le_bytes(*header.get(40..)?.first_chunk()?);
    if !header.starts_with(b"RIFF") || said as usize != audio.len() {
        return None;
    }
    let samples = audio.as_chunks::<2>().0.iter().map(|bytes| i16::from_le_bytes(*bytes));
    let codes: Vec<u8> = samples.map(|sample| g711::encode(Codec::Pcmu, sample)).collect();
    let step = 8 * usize::from(packet_ms);
    let mut heard: Option<(Heard, u32, usize)> = None;
    let mut at = 0;
    while let Some(rest) = codes.get(at..).filter(|rest| rest.len() >= NAME) {
        let name = rest.strip_prefix(&MARK);
        let Some((stream, number)) =
            name.and_then(|name| Some((read_number(name)?, read_number(name.get(8..)?)?)))
        else {
            at += 1;
            continue;
        };
        match &mut heard {
            None => heard = Some((Heard { stream, packets: 1, misplaced: 0, length_ms: 0 }, number, at)),
            Some((heard, _, _)) if heard.stream != stream => return None,
            Some((heard, last, place)) => {
                let ahead = number.checked_sub(*last).filter(|ahead| *ahead > 0)?;
                heard.packets += 1;
                heard.misplaced += u32::from(at.abs_diff(*place + step * ahead as usize) > ahead as usize);
                (*last, *place) = (number, at);
            }
        }
        at += NAME;
    }
    let length_ms = u32::try_from(codes.len() / 8).ok()?;
    heard.map(|(heard, _, _)| Heard { length_ms, ..heard })
}

/// Looks at every file: whose it is, whether all that was said is in it, how long it is, and its SHA-256.
pub(crate) fn check(
    directory: &Path,
    crowd: &Crowd,
    talks_ms: &[u32],
    patience: Duration,
) -> Result<Value, Failure> {
    let end = clock::now() + patience;
    let filed = || interactions(directory).into_iter().filter(|folder| folder.join("call.json").exists());
    let mut folders: Vec<PathBuf> = filed().collect();
    while folders.len() < talks_ms.len() && clock::now() < end {
        std::thread::sleep(Duration::from_millis(200));
        folders = filed().collect();
    }
    let mut found = Found::default();
    let mut seen = vec![false; crowd.streams.len()];
    for folder in &folders {
        found.read(folder, crowd, talks_ms, &mut seen)?;
    }
    Ok(json!({
        "files_expected": talks_ms.len() * 2,
        "files": found.files,
        "legs_found_once": seen.iter().filter(|seen| **seen).count(),
        "packets_sent": crowd.sent(),
        "packets_recorded": found.packets,
        "files_with_every_packet": found.whole,
        "files_within_one_packet_of_their_leg": found.within,
        "packets_misplaced": found.misplaced,
        "samples_slipped": found.slipped,
        "most_missing_in_a_file": found.most_missing,
        "length_within_one_packet_of_the_call": found.length_right,
        "sha256_right": found.sha256_right,
        "calls_with_equal_lengths": found.equal,
        "calls_complete": found.complete,
    }))
}

#[derive(Debug, Default)]
struct Found {
    files: u64,
    packets: u64,
    whole: u64,
    within: u64,
    misplaced: u64,
    slipped: u64,
    most_missing: u32,
    length_right: u64,
    sha256_right: u64,
    equal: u64,
    complete: u64,
}

impl Found {
    fn read(
        &mut self,
        folder: &Path,
        crowd: &Crowd,
        talks_ms: &[u32],
        seen: &mut [bool],
    ) -> Result<(), Failure> {
        let manifest: Value = serde_json::from_slice(&fs::read(folder.join("call.json"))?)?;
        self.complete += u64::from(manifest.get("complete") == Some(&json!(true)));
        let paths = ["a-leg.wav", "b-leg.wav"].map(|name| folder.join(name));
        let digests = sha256(&paths)?;
        let mut talk_ms = None;
        let mut lengths = vec![];
        for (leg, path) in paths.iter().enumerate() {
            let Ok(file) = fs::read(path) else { continue };
            self.files += 1;
            lengths.push(file.len());
            let said = manifest.pointer(&format!("/legs/{leg}/sha256")).and_then(Value::as_str);
            self.sha256_right += u64::from(said.is_some() && said == digests.get(leg).map(String::as_str));
            let slipped = manifest.pointer(&format!("/legs/{leg}/slipped")).and_then(Value::as_i64);
            self.slipped += slipped.unwrap_or_default().unsigned_abs();
            let Some(heard) = hear(&file, crowd.packet_ms) else { continue };
            let index = usize::try_from(heard.stream)?;
            let Some((stream, seen)) = crowd.streams.get(index).zip(seen.get_mut(index)) else { continue };
            // Twice the same leg, or a caller in the callee's file, is found by its absence.
            *seen = !*seen && index % 2 == leg;
            let missing = stream.sent.saturating_sub(heard.packets);
            self.packets += u64::from(heard.packets);
            self.misplaced += u64::from(heard.misplaced);
            self.most_missing = self.most_missing.max(missing);
            self.whole += u64::from(missing == 0 && heard.misplaced == 0);
            self.within += u64::from(missing <= 1 && heard.misplaced == 0);
            if leg == 0 {
                talk_ms = talks_ms.get(index / 2);
            }
            let apart = talk_ms.map(|talk_ms| talk_ms.abs_diff(heard.length_ms));
            self.length_right += u64::from(apart.is_some_and(|apart| apart <= crowd.packet_ms.into()));
        }
        self.equal += u64::from(matches!(lengths.as_slice(), [a, b] if a == b));
        Ok(())
    }
}

/// By the system's own program: what is checked should not check itself.
fn sha256(paths: &[PathBuf]) -> Result<Vec<String>, Failure> {
    let output = Command::new("sha256sum").args(paths).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(stream: u32, numbers: &[u32], hole: usize) -> Vec<u8> {
        let mut codes = vec![0xff; hole];
        for number in numbers {
            let name = MARK.into_iter().chain(spell(stream)).chain(spell(*number));
            let start = codes.len();
            codes.extend(name);
            codes.resize(start + 480, 0xa0);
        }
        let audio: Vec<u8> =
            codes.iter().flat_map(|code| g711::decode(Codec::Pcmu, *code).to_le_bytes()).collect();
        let mut file = b"RIFF".to_vec();
        file.resize(40, 0);
        file.extend(u32::try_from(audio.len()).unwrap().to_le_bytes());
        file.extend(audio);
        file
    }

    #[test]
    fn a_file_tells_whose_it_is_and_what_is_missing() {
        let heard = hear(&file(0x1234, &[0, 1, 2, 3], 100), 60).unwrap();
        assert_eq!(heard, Heard { stream: 0x1234, packets: 4, misplaced: 0, length_ms: 252 });
        // A packet is missing, and its place is closed up instead of left open.
        assert_eq!(hear(&file(7, &[0, 1, 3], 0), 60).unwrap().misplaced, 1);
        let mut two = file(7, &[0], 0);
        two.extend(&file(8, &[1], 0)[HEADER..]);
        let length = u32::try_from(two.len() - HEADER).unwrap();
        two[40..44].copy_from_slice(&length.to_le_bytes());
        assert_eq!(hear(&two, 60), None, "two streams");
        assert_eq!(hear(&file(7, &[0], 0)[..900], 60), None, "shorter than its header says");
        assert_eq!(hear(&file(7, &[], 4000), 60), None, "silence");
    }

    #[test]
    fn the_systems_digest_is_that_of_the_file() {
        let path = std::env::temp_dir().join(format!("bench-many-{}", std::process::id()));
        fs::write(&path, "abc").unwrap();
        let digest = sha256(std::slice::from_ref(&path)).unwrap();
        fs::remove_file(&path).unwrap();
        assert_eq!(digest, ["ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"]);
    }
}
