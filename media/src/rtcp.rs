//! RTCP: the reports that we send about a leg, and what we want to know from the peer's.
//!
//! RFC 3550 §6 (SR, RR, SDES with CNAME only, BYE without reason), A.2 (validity of a compound), A.8; RFC
//! 7022 (random CNAME). RTCP ends at us: no byte of a peer's report is ever sent on, and nothing but a CNAME
//! made of random bits can be put into an SDES. A peer's BYE is told to the caller of [`decode`], who must
//! not end a call for it.

use crate::rtp::Reception;
use bytes::{Buf, BufMut};
use std::fmt;
use std::time::{Duration, Instant};
use webrtc_util::marshal::{Marshal, MarshalSize, Unmarshal};

const SENDER_REPORT: u8 = 200;
const RECEIVER_REPORT: u8 = 201;
const SOURCE_DESCRIPTION: u8 = 202;
const BYE: u8 = 203;

const SENDER_INFO_LENGTH: usize = 20;
const REPORT_BLOCK_LENGTH: usize = 24;

/// Why a datagram is no compound packet that A.2 would let pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RtcpError {
    /// A length field does not fit the datagram.
    #[error("lengths do not add up")]
    Length,
    /// The version field of a packet is not 2.
    #[error("RTCP version {0} is not 2")]
    Version(u8),
    /// The first packet is neither SR nor RR.
    #[error("compound begins with packet type {0}")]
    NoReport(u8),
    /// A packet other than the last is padded, or the padding does not fit.
    #[error("padding out of place")]
    Padding,
}

/// A 64-bit NTP timestamp: seconds, and 1/2^32 of a second (RFC 3550 §4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NtpTime(pub u64);

impl NtpTime {
    /// The time since an origin of our own, which RFC 3550 §6.4.1 allows in place of wall time: it tells the
    /// peer nothing about our clock.
    #[must_use]
    pub fn since(origin: Instant, now: Instant) -> Self {
        let elapsed = now.saturating_duration_since(origin);
        let fraction = (u64::from(elapsed.subsec_nanos()) << 32) / 1_000_000_000;
        Self((elapsed.as_secs() << 32) | fraction)
    }
    /// The middle 32 bits: seconds modulo 65536, in 1/65536 s.
    #[must_use]
    pub fn middle(self) -> u32 {
        (self.0 >> 16) as u32
    }
}

/// A canonical name of 96 random bits in base64 (RFC 7022 §5): no user, host or address is in it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Cname([u8; 16]);

impl Cname {
    /// Makes the name of `bits`, which the caller drew from its generator.
    #[must_use]
    pub fn from_random(bits: [u8; 12]) -> Self {
        let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let mut text = [0; 16];
        for (four, three) in text.chunks_exact_mut(4).zip(bits.chunks_exact(3)) {
            let group = three.iter().fold(0u32, |group, byte| group << 8 | u32::from(*byte));
            for (letter, shift) in four.iter_mut().zip([18, 12, 6, 0]) {
                let index = (group >> shift & 0x3f) as usize;
                *letter = alphabet.get(index).copied().unwrap_or(b'A');
            }
        }
        Self(text)
    }
}

impl fmt::Debug for Cname {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cname({})", String::from_utf8_lossy(&self.0))
    }
}

/// What a sender says about its own stream (RFC 3550 §6.4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SenderInfo {
    /// When the report was made.
    pub ntp: NtpTime,
    /// The same moment in the stream's RTP timestamp units.
    pub rtp_timestamp: u32,
    /// RTP packets sent, modulo 2^32.
    pub packets: u32,
    /// Payload octets sent, modulo 2^32.
    pub octets: u32,
}

impl MarshalSize for SenderInfo {
    fn marshal_size(&self) -> usize {
        SENDER_INFO_LENGTH
    }
}

impl Marshal for SenderInfo {
    fn marshal_to(&self, mut buf: &mut [u8]) -> webrtc_util::Result<usize> {
        if buf.len() < SENDER_INFO_LENGTH {
            return Err(webrtc_util::Error::ErrBufferShort);
        }
        self.put(&mut buf);
        Ok(SENDER_INFO_LENGTH)
    }
}

impl Unmarshal for SenderInfo {
    fn unmarshal<B: Buf>(buf: &mut B) -> webrtc_util::Result<Self> {
        if buf.remaining() < SENDER_INFO_LENGTH {
            return Err(webrtc_util::Error::ErrBufferShort);
        }
        let ntp = NtpTime(buf.get_u64());
        Ok(Self { ntp, rtp_timestamp: buf.get_u32(), packets: buf.get_u32(), octets: buf.get_u32() })
    }
}

impl SenderInfo {
    fn put(&self, out: &mut impl BufMut) {
        out.put_u64(self.ntp.0);
        out.put_u32(self.rtp_timestamp);
        out.put_u32(self.packets);
        out.put_u32(self.octets);
    }
}

/// What a receiver says about one source (RFC 3550 §6.4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReportBlock {
    /// Which source, and how much of it came.
    pub reception: Reception,
    /// Middle bits of the source's last SR; 0 when none came.
    pub last_sr: u32,
    /// Time since that SR came, in 1/65536 s; 0 when none came.
    pub delay_since_last_sr: u32,
}

impl ReportBlock {
    /// Joins what was received with when the source's last SR came.
    #[must_use]
    pub fn new(reception: Reception, last: Option<&LastSenderReport>, now: Instant) -> Self {
        let last = last.filter(|last| last.ssrc == reception.ssrc);
        Self {
            reception,
            last_sr: last.map_or(0, |last| last.middle),
            delay_since_last_sr: last.map_or(0, |last| {
                NtpTime::since(last.arrival, now)
                    .0
                    .checked_shr(16)
                    .and_then(|d| d.try_into().ok())
                    .unwrap_or(u32::MAX)
            }),
        }
    }

    /// The round trip that this block about *our* stream tells: arrival − LSR − DLSR (RFC 3550 §6.4.1).
    /// `None` when the peer had no SR of us yet, or when its figures cannot be true.
    #[must_use]
    pub fn round_trip(&self, arrival: NtpTime) -> Option<Duration> {
        if self.last_sr == 0 {
            return None;
        }
        let ticks = arrival.middle().wrapping_sub(self.last_sr).checked_sub(self.delay_since_last_sr)?;
        Some(Duration::from_micros(u64::from(ticks) * 1_000_000 / 65_536))
    }

    fn put(&self, out: &mut impl BufMut) {
        let reception = &self.reception;
        out.put_u32(reception.ssrc);
        out.put_u8(reception.fraction_lost);
        out.put_int(i64::from(reception.cumulative_lost.clamp(-0x80_0000, 0x7f_ffff)), 3);
        out.put_u32(reception.extended_sequence);
        out.put_u32(reception.jitter);
        out.put_u32(self.last_sr);
        out.put_u32(self.delay_since_last_sr);
    }
}

impl MarshalSize for ReportBlock {
    fn marshal_size(&self) -> usize {
        REPORT_BLOCK_LENGTH
    }
}

impl Marshal for ReportBlock {
    fn marshal_to(&self, mut buf: &mut [u8]) -> webrtc_util::Result<usize> {
        if buf.len() < REPORT_BLOCK_LENGTH {
            return Err(webrtc_util::Error::ErrBufferShort);
        }
        self.put(&mut buf);
        Ok(REPORT_BLOCK_LENGTH)
    }
}

impl Unmarshal for ReportBlock {
    fn unmarshal<B: Buf>(buf: &mut B) -> webrtc_util::Result<Self> {
        if buf.remaining() < REPORT_BLOCK_LENGTH {
            return Err(webrtc_util::Error::ErrBufferShort);
        }
        let reception = Reception {
            ssrc: buf.get_u32(),
            fraction_lost: buf.get_u8(),
            cumulative_lost: buf.get_int(3) as i32,
            extended_sequence: buf.get_u32(),
            jitter: buf.get_u32(),
        };
        Ok(Self { reception, last_sr: buf.get_u32(), delay_since_last_sr: buf.get_u32() })
    }
}

/// When the peer's last SR came, for LSR and DLSR of our next report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastSenderReport {
    ssrc: u32,
    middle: u32,
    arrival: Instant,
}

impl LastSenderReport {
    /// `ssrc` sent `info`, which came at `arrival`.
    #[must_use]
    pub fn new(ssrc: u32, info: &SenderInfo, arrival: Instant) -> Self {
        Self { ssrc, middle: info.ntp.middle(), arrival }
    }
}

/// Appends SR (with `sender`) or RR (without), and SDES with the CNAME: the smallest compound that RFC 3550
/// §6.1 allows. A leg has one peer, so there is at most one block.
pub fn encode_report(
    ssrc: u32,
    sender: Option<&SenderInfo>,
    block: Option<&ReportBlock>,
    cname: &Cname,
    out: &mut Vec<u8>,
) {
    let packet_type = if sender.is_some() { SENDER_REPORT } else { RECEIVER_REPORT };
    let words = 1 + sender.map_or(0, |_| 5) + block.map_or(0, |_| 6);
    put_header(out, u8::from(block.is_some()), packet_type, words);
    out.put_u32(ssrc);
    if let Some(sender) = sender {
        sender.put(out);
    }
    if let Some(block) = block {
        block.put(out);
    }
    // RFC 3550 §6.5: one chunk, closed by one to four null octets at a word boundary.
    put_header(out, 1, SOURCE_DESCRIPTION, 6);
    out.put_u32(ssrc);
    out.put_slice(&[1, 16]);
    out.put_slice(&cname.0);
    out.put_slice(&[0, 0]);
}

/// Appends a BYE without reason (RFC 3550 §6.6); [`encode_report`] must have begun the compound.
pub fn encode_bye(ssrc: u32, out: &mut Vec<u8>) {
    put_header(out, 1, BYE, 1);
    out.put_u32(ssrc);
}

fn put_header(out: &mut Vec<u8>, count: u8, packet_type: u8, words: u16) {
    out.put_slice(&[0x80 | count, packet_type]);
    out.put_u16(words);
}

/// What a compound packet of the peer tells us.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PeerReport {
    /// Its SR: SSRC and figures.
    pub sender: Option<(u32, SenderInfo)>,
    /// Its report block about our stream.
    pub about_us: Option<ReportBlock>,
    /// It says BYE for any source.
    pub bye: bool,
}

/// Reads a compound packet; `ssrc` is that of our stream. Types other than SR, RR and BYE are stepped over.
///
/// # Errors
/// [`RtcpError`] when the datagram does not pass the checks of RFC 3550 A.2; then nothing of it counts.
pub fn decode(datagram: &[u8], ssrc: u32) -> Result<PeerReport, RtcpError> {
    let mut report = PeerReport::default();
    let mut rest = datagram;
    let mut first = true;
    while first || !rest.is_empty() {
        let (&[flags, packet_type, high, low], after) = rest.split_first_chunk().ok_or(RtcpError::Length)?;
        if flags >> 6 != 2 {
            return Err(RtcpError::Version(flags >> 6));
        }
        if first && !matches!(packet_type, SENDER_REPORT | RECEIVER_REPORT) {
            return Err(RtcpError::NoReport(packet_type));
        }
        let length = usize::from(u16::from_be_bytes([high, low])) * 4;
        let (mut body, after) = after.split_at_checked(length).ok_or(RtcpError::Length)?;
        if flags & 0x20 != 0 {
            body = unpad(body).filter(|_| !first && after.is_empty()).ok_or(RtcpError::Padding)?;
        }
        report.read(flags & 0x1f, packet_type, body, ssrc);
        (rest, first) = (after, false);
    }
    Ok(report)
}

/// RFC 3550 §6.4.1: the last octet counts the padding, itself included, in whole words.
fn unpad(body: &[u8]) -> Option<&[u8]> {
    let count = usize::from(*body.last()?);
    let kept = body.len().checked_sub(count).filter(|_| count > 0 && count.is_multiple_of(4))?;
    body.get(..kept)
}

impl PeerReport {
    /// One packet of the compound; what is cut short within it says nothing.
    fn read(&mut self, count: u8, packet_type: u8, body: &[u8], our_ssrc: u32) {
        let mut rest = body;
        match packet_type {
            SENDER_REPORT => {
                let Ok(ssrc) = rest.try_get_u32() else { return };
                let Ok(info) = SenderInfo::unmarshal(&mut rest) else { return };
                self.sender = Some((ssrc, info));
            }
            RECEIVER_REPORT if rest.try_get_u32().is_err() => return,
            RECEIVER_REPORT => {}
            BYE => {
                self.bye |= count > 0 && body.len() >= 4;
                return;
            }
            _ => return,
        }
        for _ in 0..count {
            let Ok(block) = ReportBlock::unmarshal(&mut rest) else { return };
            if block.reception.ssrc == our_ssrc {
                self.about_us = Some(block);
            }
        }
    }
}

/// When to report next: five seconds, spread between half and one and a half so that peers do not fall into
/// step, over e − 3/2 (RFC 3550 §6.2, §6.3.1). `random` is uniform over its whole range.
#[must_use]
pub fn report_interval(random: u32) -> Duration {
    let spread = 0.5 + f64::from(random) / f64::from(u32::MAX);
    Duration::from_secs_f64(5.0 * spread / (std::f64::consts::E - 1.5))
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "a test takes its one starting instant from the system")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const US: u32 = 0x1111_1111;
    const PEER: u32 = 0x2222_2222;
    const INFO: SenderInfo =
        SenderInfo { ntp: NtpTime(0x0001_0002_8000_0000), rtp_timestamp: 160, packets: 50, octets: 8000 };
    const BLOCK: ReportBlock = ReportBlock {
        reception: Reception {
            ssrc: US,
            fraction_lost: 12,
            cumulative_lost: -3,
            extended_sequence: 0x1_0005,
            jitter: 7,
        },
        last_sr: 9,
        delay_since_last_sr: 10,
    };

    fn cname() -> Cname {
        Cname::from_random(*b"\0\x10\x83\x10\x51\x87\x20\x92\x8b\xff\xff\xff")
    }

    fn compound(sender: Option<&SenderInfo>, block: Option<&ReportBlock>, bye: bool) -> Vec<u8> {
        let mut out = vec![];
        encode_report(PEER, sender, block, &cname(), &mut out);
        if bye {
            encode_bye(PEER, &mut out);
        }
        out
    }

    #[test]
    fn rfc3550_6_4_to_6_6_packets_have_their_bytes_in_place() {
        let mut wire = vec![0x80, 201, 0, 1, 0x22, 0x22, 0x22, 0x22];
        wire.extend_from_slice(&[0x81, 202, 0, 6, 0x22, 0x22, 0x22, 0x22, 1, 16]);
        wire.extend_from_slice(b"ABCDEFGHIJKL////\0\0");
        wire.extend_from_slice(&[0x81, 203, 0, 1, 0x22, 0x22, 0x22, 0x22]);
        assert_eq!(compound(None, None, true), wire);

        let full = compound(Some(&INFO), Some(&BLOCK), false);
        assert_eq!(full[..4], [0x81, 200, 0, 12]);
        assert_eq!(full[8..16], [0, 1, 0, 2, 0x80, 0, 0, 0]);
        assert_eq!(full[32..36], [12, 0xff, 0xff, 0xfd], "the loss is signed, in 24 bits");
        assert_eq!(full.len(), 52 + 28);
    }

    #[test]
    fn rfc3550_a2_only_whole_compounds_count() {
        let sr = compound(Some(&INFO), None, false);
        let changed = |at: usize, value: u8| {
            let mut wire = sr.clone();
            wire[at] = value;
            wire
        };
        let joined = |parts: &[&[u8]]| parts.concat();
        let padded_bye: &[u8] = &[0xa1, 203, 0, 2, 0, 0, 0, 5, 0, 0, 0, 4];
        let table: &[(&str, Vec<u8>, Result<bool, RtcpError>)] = &[
            ("SR and SDES", sr.clone(), Ok(false)),
            ("§6.1: with BYE", compound(Some(&INFO), None, true), Ok(true)),
            ("§6.4.1: last packet padded", joined(&[&sr, padded_bye]), Ok(true)),
            ("§6.4.1: padded in the middle", joined(&[&sr, padded_bye, &sr]), Err(RtcpError::Padding)),
            ("padding too long", joined(&[&sr, &[0xa1, 203, 0, 1, 0, 0, 0, 8]]), Err(RtcpError::Padding)),
            ("padding of no word", joined(&[&sr, &[0xa1, 203, 0, 1, 0, 0, 0, 3]]), Err(RtcpError::Padding)),
            ("padding flag on nothing", joined(&[&sr, &[0xa1, 203, 0, 0]]), Err(RtcpError::Padding)),
            ("first packet padded", changed(0, 0xa0), Err(RtcpError::Padding)),
            ("unknown type is stepped over", joined(&[&sr, &[0x81, 205, 0, 1, 9, 9, 9, 9]]), Ok(false)),
            ("BYE of nobody", joined(&[&sr, &[0x80, 203, 0, 0]]), Ok(false)),
            ("BYE alone", vec![0x81, 203, 0, 1, 0, 0, 0, 5], Err(RtcpError::NoReport(203))),
            ("RTP", vec![0x80, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0], Err(RtcpError::NoReport(0))),
            ("version 1", changed(0, 0x40), Err(RtcpError::Version(1))),
            ("length beyond the end", changed(3, 200), Err(RtcpError::Length)),
            ("length into the next packet's middle", changed(3, 5), Err(RtcpError::Version(0))),
            ("cut within a header", sr[..30].to_vec(), Err(RtcpError::Length)),
            ("four octets", vec![0x80, 201, 0, 0], Ok(false)),
            ("three octets", vec![0x80, 201, 0], Err(RtcpError::Length)),
            ("empty", vec![], Err(RtcpError::Length)),
        ];
        for (fact, wire, outcome) in table {
            assert_eq!(decode(wire, US).map(|report| report.bye), *outcome, "{fact}");
        }
    }

    #[test]
    fn the_block_about_us_is_found_among_others() {
        let mut other = BLOCK;
        other.reception.ssrc = 77;
        let mut wire = vec![0x83, 201, 0, 19, 0, 0, 0, 9];
        for block in [other, BLOCK, other] {
            block.put(&mut wire);
        }
        assert_eq!(decode(&wire, US).unwrap(), PeerReport { about_us: Some(BLOCK), ..PeerReport::default() });
        wire[0] = 0x9f;
        assert_eq!(decode(&wire, US).unwrap().about_us, Some(BLOCK), "the count is a lie");
        assert_eq!(decode(&compound(Some(&INFO), None, false), US).unwrap().sender, Some((PEER, INFO)));
    }

    #[test]
    fn rfc3550_6_4_1_round_trip_is_arrival_minus_lsr_minus_dlsr() {
        let start = Instant::now();
        let ours = SenderInfo { ntp: NtpTime::since(start, start + Duration::from_secs(100)), ..INFO };
        // The peer gets our SR, waits 4 s and reports; its block reaches us 4.1 s after our SR left.
        let last = LastSenderReport::new(US, &ours, start);
        let block = ReportBlock::new(BLOCK.reception, Some(&last), start + Duration::from_secs(4));
        assert_eq!((block.last_sr, block.delay_since_last_sr), (100 << 16, 4 << 16));
        let arrival = NtpTime::since(start, start + Duration::from_millis(104_100));
        let millis = block.round_trip(arrival).unwrap().as_secs_f64() * 1000.0;
        assert!((99.9..100.1).contains(&millis), "{millis}");

        let never = ReportBlock::new(BLOCK.reception, None, start);
        assert_eq!((never.last_sr, never.delay_since_last_sr, never.round_trip(arrival)), (0, 0, None));
        let of_another = LastSenderReport::new(99, &ours, start);
        assert_eq!(ReportBlock::new(BLOCK.reception, Some(&of_another), start).last_sr, 0);
        let much_later = start + Duration::from_secs(100_000);
        assert_eq!(ReportBlock::new(BLOCK.reception, Some(&last), much_later).delay_since_last_sr, u32::MAX);
    }

    #[test]
    fn rfc3550_6_3_1_the_interval_is_spread() {
        let millis = |random| report_interval(random).as_millis();
        assert_eq!((millis(0), millis(u32::MAX / 2), millis(u32::MAX)), (2052, 4104, 6156));
    }

    proptest! {
        /// Any bytes, cut or changed compounds: an answer, never a panic.
        #[test]
        fn junk_is_borne(
            junk in prop::collection::vec(any::<u8>(), 0..120),
            (at, value, cut) in (0usize..88, any::<u8>(), 0usize..88),
        ) {
            let _ = decode(&junk, US);
            let mut wire = compound(Some(&INFO), Some(&BLOCK), true);
            wire[at] = value;
            wire.truncate(cut);
            let _ = decode(&wire, US);
        }

        /// What we send passes the peer's checks and says what we meant.
        #[test]
        fn a_report_survives_the_wire(
            (ntp, rtp_timestamp, packets, octets) in any::<(u64, u32, u32, u32)>(),
            (fraction_lost, extended_sequence, jitter) in any::<(u8, u32, u32)>(),
            cumulative_lost in -0x80_0000..=0x7f_ffff,
            (last_sr, delay_since_last_sr, bye) in any::<(u32, u32, bool)>(),
        ) {
            let info = SenderInfo { ntp: NtpTime(ntp), rtp_timestamp, packets, octets };
            let reception = Reception { ssrc: US, fraction_lost, cumulative_lost, extended_sequence, jitter };
            let block = ReportBlock { reception, last_sr, delay_since_last_sr };
            let expected = PeerReport { sender: Some((PEER, info)), about_us: Some(block), bye };
            prop_assert_eq!(decode(&compound(Some(&info), Some(&block), bye), US).unwrap(), expected);
            prop_assert_eq!(ReportBlock::unmarshal(&mut block.marshal().unwrap()).unwrap(), block);
            prop_assert_eq!(SenderInfo::unmarshal(&mut info.marshal().unwrap()).unwrap(), info);
        }
    }
}
