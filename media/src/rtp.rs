//! RTP packets as they lie on the wire, and what a receiver counts of them.
//!
//! RFC 3550 §5.1 (fixed header), §5.3.1 (extension), §6.4.1 with appendices A.1, A.3 and A.8 (sequence, loss
//! and jitter). What arrives is read in place, and every length in it is taken for a lie until it is checked.
//! What leaves has our own header of twelve bytes, so no CSRC, extension or padding of a peer can cross: this
//! module has no function that copies a header.

use crate::time::MediaTime;
use bytes::Buf;
use webrtc_util::marshal::{Marshal, MarshalSize, Unmarshal};

/// Length of the fixed header, and of every header that we send.
pub const HEADER_LENGTH: usize = 12;

/// A buffer ends before the thing that should be in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too short")]
pub struct TooShort;

/// Why a datagram is no RTP packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PacketError {
    /// It ends within its header, CSRC list or extension.
    #[error("packet ends within its header")]
    TooShort,
    /// The version field is not 2.
    #[error("RTP version {0} is not 2")]
    Version(u8),
    /// The padding count is zero or longer than the payload.
    #[error("padding of {0} bytes does not fit")]
    Padding(u8),
}

/// The fixed header without the fields that never leave us (RFC 3550 §5.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// First packet after silence, or of a telephone-event.
    pub marker: bool,
    /// 0–127.
    pub payload_type: u8,
    /// Grows by one per packet, modulo 2^16.
    pub sequence: u16,
    /// Sampling instant of the first sample, in units of the payload's clock.
    pub timestamp: u32,
    /// The stream's random name.
    pub ssrc: u32,
}

impl Header {
    /// The twelve bytes on the wire: version 2, no padding, no extension, no CSRC.
    #[inline]
    #[must_use]
    pub fn encode(&self) -> [u8; HEADER_LENGTH] {
        let [s0, s1] = self.sequence.to_be_bytes();
        let [t0, t1, t2, t3] = self.timestamp.to_be_bytes();
        let [r0, r1, r2, r3] = self.ssrc.to_be_bytes();
        let marker_pt = (u8::from(self.marker) << 7) | (self.payload_type & 0x7f);
        [0x80, marker_pt, s0, s1, t0, t1, t2, t3, r0, r1, r2, r3]
    }

    /// Reads the fixed fields; the flags that say what follows them come first.
    #[inline]
    fn decode(fixed: &[u8; HEADER_LENGTH]) -> Result<(Flags, Self), PacketError> {
        let &[flags, marker_pt, s0, s1, t0, t1, t2, t3, r0, r1, r2, r3] = fixed;
        if flags >> 6 != 2 {
            return Err(PacketError::Version(flags >> 6));
        }
        let header = Self {
            marker: marker_pt & 0x80 != 0,
            payload_type: marker_pt & 0x7f,
            sequence: u16::from_be_bytes([s0, s1]),
            timestamp: u32::from_be_bytes([t0, t1, t2, t3]),
            ssrc: u32::from_be_bytes([r0, r1, r2, r3]),
        };
        Ok((Flags(flags), header))
    }
}

/// First byte of a packet: what stands between the fixed header and the payload, and after it.
#[derive(Debug, Clone, Copy)]
struct Flags(u8);

impl Flags {
    fn csrc_bytes(self) -> usize {
        usize::from(self.0 & 0x0f) * 4
    }
    fn has_extension(self) -> bool {
        self.0 & 0x10 != 0
    }
    fn has_padding(self) -> bool {
        self.0 & 0x20 != 0
    }
}

/// A received packet, read in place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet<'a> {
    /// The fixed header.
    pub header: Header,
    /// What follows CSRC list and extension, without padding; may be empty.
    pub payload: &'a [u8],
}

impl<'a> Packet<'a> {
    /// Reads a datagram. CSRC list and extension are skipped: nothing of us uses them.
    ///
    /// # Errors
    /// [`PacketError`] when the datagram is no RTP packet of version 2.
    #[inline]
    pub fn parse(datagram: &'a [u8]) -> Result<Self, PacketError> {
        let (fixed, rest) = datagram.split_first_chunk().ok_or(PacketError::TooShort)?;
        let (flags, header) = Header::decode(fixed)?;
        let mut payload = rest.get(flags.csrc_bytes()..).ok_or(PacketError::TooShort)?;
        if flags.has_extension() {
            // RFC 3550 §5.3.1: the length counts 32-bit words after these four bytes.
            let (&[_, _, high, low], after) = payload.split_first_chunk().ok_or(PacketError::TooShort)?;
            let length = usize::from(u16::from_be_bytes([high, low])) * 4;
            payload = after.get(length..).ok_or(PacketError::TooShort)?;
        }
        if flags.has_padding() {
            // RFC 3550 §5.1: the last byte counts the padding, itself included.
            let count = payload.last().copied().unwrap_or(0);
            let kept = payload.len().checked_sub(usize::from(count)).filter(|_| count > 0);
            payload = kept.and_then(|kept| payload.get(..kept)).ok_or(PacketError::Padding(count))?;
        }
        Ok(Self { header, payload })
    }
}

/// Writes one packet into `buffer` and returns its length.
///
/// # Errors
/// [`TooShort`] when `buffer` cannot hold header and payload.
#[inline]
pub fn encode(header: &Header, payload: &[u8], buffer: &mut [u8]) -> Result<usize, TooShort> {
    let (head, rest) = buffer.split_first_chunk_mut::<HEADER_LENGTH>().ok_or(TooShort)?;
    *head = header.encode();
    rest.get_mut(..payload.len()).ok_or(TooShort)?.copy_from_slice(payload);
    Ok(HEADER_LENGTH + payload.len())
}

impl MarshalSize for Header {
    fn marshal_size(&self) -> usize {
        HEADER_LENGTH
    }
}

impl Marshal for Header {
    fn marshal_to(&self, buf: &mut [u8]) -> webrtc_util::Result<usize> {
        encode(self, &[], buf).map_err(|TooShort| webrtc_util::Error::ErrBufferShort)
    }
}

impl Unmarshal for Header {
    /// Leaves `buf` at the payload: CSRC list and extension are consumed, padding is not.
    fn unmarshal<B: Buf>(buf: &mut B) -> webrtc_util::Result<Self> {
        let short = || webrtc_util::Error::ErrBufferShort;
        let mut fixed = [0; HEADER_LENGTH];
        buf.try_copy_to_slice(&mut fixed).map_err(|_| short())?;
        let (flags, header) = Self::decode(&fixed).map_err(|e| webrtc_util::Error::Other(e.to_string()))?;
        let mut skip = flags.csrc_bytes();
        if flags.has_extension() {
            buf.remaining().checked_sub(skip).filter(|left| *left >= 4).ok_or_else(short)?;
            buf.advance(skip);
            skip = usize::from((buf.get_u32() & 0xffff) as u16) * 4;
        }
        buf.remaining().checked_sub(skip).ok_or_else(short)?;
        buf.advance(skip);
        Ok(header)
    }
}

/// How far `a` is ahead of `b` modulo 2^16; negative when it is behind.
#[inline]
#[must_use]
pub fn sequence_delta(a: u16, b: u16) -> i16 {
    a.wrapping_sub(b).cast_signed()
}

/// How far `a` is ahead of `b` modulo 2^32, in RTP timestamp units; negative when it is behind.
#[inline]
#[must_use]
pub fn timestamp_delta(a: u32, b: u32) -> i32 {
    a.wrapping_sub(b).cast_signed()
}

/// A jump of so many packets or more is a new start and not a loss (RFC 3550 A.1).
const MAX_DROPOUT: u16 = 3000;
/// Packets at most so far behind the newest are late and not a new start (RFC 3550 A.1).
const MAX_MISORDER: u16 = 100;

/// Where a packet stands in its stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// The first of its SSRC, or the second after a jump: the sequence begins anew.
    First,
    /// So many places after the newest before it; 1 is the next in line, more is a gap (RFC 3550 A.1).
    Ahead(u16),
    /// Late or repeated: so many places before the newest; 0 repeats it.
    Behind(u16),
    /// Far away from all that came before. Not counted until its successor confirms a new start.
    Jump,
}

/// What the reports about a source say (RFC 3550 §6.4.1), without the fields of its last sender report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reception {
    /// The source.
    pub ssrc: u32,
    /// Share lost since the report before, in 1/256.
    pub fraction_lost: u8,
    /// Lost since the source began, clamped to 24 bits with sign; repeats make it negative.
    pub cumulative_lost: i32,
    /// Highest sequence number; cycles in the upper half.
    pub extended_sequence: u32,
    /// Interarrival jitter in RTP timestamp units.
    pub jitter: u32,
}

/// What was received of a leg's stream over its whole length, derived when it is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Received {
    /// Sequence numbers from the first packet to the highest one, over all sources.
    pub expected: u64,
    /// Of these, those that never came. Repeats do not hide a loss here, as they do in [`Reception`].
    pub lost: u64,
    /// Packets whose number had come before.
    pub repeated: u64,
    /// Packets that came after one with a higher number.
    pub reordered: u64,
    /// Runs of numbers that never came, whatever their length: `lost` divided by this is the mean length of a burst.
    pub loss_runs: u64,
    /// The longest of them, in packets.
    pub longest_loss: u64,
    /// Jitter now, in RTP timestamp units (RFC 3550 A.8): 8 are a millisecond.
    pub jitter: u32,
    /// Mean difference of transit between neighbouring packets, in RTP timestamp units: what the jitter tends to.
    pub mean_jitter: u32,
    /// The highest that the jitter ever was.
    pub max_jitter: u32,
}

/// Counts one leg's received stream across changes of SSRC (RFC 3550 A.1, A.3, A.8).
///
/// There is no probation: the packets were checked for their source address already, which says more than two
/// sequence numbers in a row. A packet costs some additions and shifts: no division, no floating point.
#[derive(Debug, Clone, Default)]
pub struct ReceiverStatistics {
    current: Option<Source>,
    tally: Tally,
}

/// What goes on over changes of SSRC.
#[derive(Debug, Clone, Copy, Default)]
struct Tally {
    /// Of sources before the current one.
    expected: u64,
    lost: u64,
    repeated: u64,
    reordered: u64,
    loss_runs: u64,
    longest_loss: u64,
    /// The run of lost packets that the window has left behind, as long as nothing ended it.
    run: u64,
    /// Sum and number of the differences that the jitter is made of.
    differences: u64,
    measured: u64,
    /// Jitter times 16.
    max_jitter: u32,
}

impl Tally {
    /// A number is so old that its packet will not be waited for any more.
    fn settle(&mut self, came: bool) {
        if !came {
            self.run += 1;
        } else if self.run > 0 {
            self.end_run();
        }
    }

    fn end_run(&mut self) {
        self.loss_runs += 1;
        self.longest_loss = self.longest_loss.max(self.run);
        self.run = 0;
    }
}

/// Packets that are remembered: more than may be late.
const WINDOW: u16 = 128;

#[derive(Debug, Clone)]
struct Source {
    ssrc: u32,
    /// Extended sequence numbers: the first one and the highest.
    base: u64,
    highest: u64,
    /// With repeats, as RFC 3550 A.3 counts.
    received: u64,
    /// Of these, those that fill no place between the first number and the highest.
    spare: u64,
    /// Which of the latest numbers came: bit 0 is the highest. What was before the first counts as come.
    window: u128,
    expected_prior: u64,
    received_prior: u64,
    /// What must come next for a jump to be a new start.
    after_jump: Option<u16>,
    /// Arrival minus timestamp of the last audio packet, modulo 2^32.
    transit: Option<u32>,
    /// Jitter times 16 (RFC 3550 A.8).
    jitter: u32,
}

impl Source {
    fn new(header: &Header) -> Self {
        let base = u64::from(header.sequence);
        Self {
            ssrc: header.ssrc,
            base,
            highest: base,
            received: 1,
            spare: 0,
            window: u128::MAX,
            expected_prior: 0,
            received_prior: 0,
            after_jump: None,
            transit: None,
            jitter: 0,
        }
    }

    fn expected(&self) -> u64 {
        self.highest - self.base + 1
    }

    /// As RFC 3550 A.3 has it: repeats make it negative.
    fn cumulative_lost(&self) -> i64 {
        self.expected().cast_signed().saturating_sub(self.received.cast_signed())
    }

    /// Numbers that never came.
    fn lost(&self) -> u64 {
        self.expected().saturating_sub(self.received.saturating_sub(self.spare))
    }

    #[inline]
    fn place(&mut self, sequence: u16, tally: &mut Tally) -> Arrival {
        let ahead = sequence.wrapping_sub(self.highest as u16);
        let behind = ahead.wrapping_neg();
        if ahead == 0 || behind <= MAX_MISORDER {
            self.received += 1;
            self.fill(behind, tally);
            return Arrival::Behind(behind);
        }
        if ahead < MAX_DROPOUT {
            self.received += 1;
            self.highest += u64::from(ahead);
            self.after_jump = None;
            self.slide(ahead, tally);
            return Arrival::Ahead(ahead);
        }
        if self.after_jump == Some(sequence) {
            return Arrival::First;
        }
        self.after_jump = Some(sequence.wrapping_add(1));
        Arrival::Jump
    }

    /// A packet that is not the newest.
    fn fill(&mut self, behind: u16, tally: &mut Tally) {
        let place = 1u128 << behind.min(WINDOW - 1);
        let before_first = u64::from(behind) > self.highest - self.base;
        if before_first {
            tally.reordered += 1;
            self.spare += 1;
        } else if self.window & place == 0 {
            tally.reordered += 1;
            self.window |= place;
        } else {
            tally.repeated += 1;
            self.spare += 1;
        }
    }

    #[inline]
    fn slide(&mut self, ahead: u16, tally: &mut Tally) {
        const OLDEST: u128 = 1 << (WINDOW - 1);
        if ahead == 1 && self.window & OLDEST != 0 && tally.run == 0 {
            self.window = self.window << 1 | 1;
            return;
        }
        for _ in 0..ahead.min(WINDOW) {
            tally.settle(self.window & OLDEST != 0);
            self.window <<= 1;
        }
        tally.run += u64::from(ahead.saturating_sub(WINDOW));
        self.window |= 1;
    }

    /// Adds what this source came to, none of whose packets will be waited for any more.
    fn leave(&self, tally: &mut Tally) {
        for place in (0..WINDOW).rev() {
            tally.settle(self.window >> place & 1 != 0);
        }
        tally.expected += self.expected();
        tally.lost += self.lost();
    }

    #[inline]
    fn measure(&mut self, timestamp: u32, arrival: MediaTime, tally: &mut Tally) {
        // Both count 125 µs (RFC 3551 §4.5.2, §4.5.14).
        let transit = (arrival.samples() as u32).wrapping_sub(timestamp);
        if let Some(before) = self.transit.replace(transit) {
            // A peer that jumps its timestamps may not overflow the estimate; no real transit differs by
            // 2^24.
            let difference = timestamp_delta(transit, before).unsigned_abs().min(1 << 24);
            self.jitter = self.jitter + difference - ((self.jitter + 8) >> 4);
            tally.max_jitter = tally.max_jitter.max(self.jitter);
            tally.differences += u64::from(difference);
            tally.measured += 1;
        }
    }
}

impl ReceiverStatistics {
    /// Nothing has come yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Counts an audio packet.
    #[inline]
    pub fn on_packet(&mut self, header: &Header, arrival: MediaTime) -> Arrival {
        let place = self.on_event_packet(header);
        if let Some(source) = self.current.as_mut().filter(|_| place != Arrival::Jump) {
            source.measure(header.timestamp, arrival, &mut self.tally);
        }
        place
    }

    /// Counts a telephone-event packet. Its timestamp stands still while the key is down (RFC 4733 §2.2), so
    /// it says nothing of jitter.
    #[inline]
    pub fn on_event_packet(&mut self, header: &Header) -> Arrival {
        let place = match &mut self.current {
            Some(source) if source.ssrc == header.ssrc => source.place(header.sequence, &mut self.tally),
            _ => Arrival::First,
        };
        if place == Arrival::First
            && let Some(before) = self.current.replace(Source::new(header))
        {
            before.leave(&mut self.tally);
        }
        place
    }

    /// The report about the current source since the one before; `None` before the first packet.
    pub fn report(&mut self) -> Option<Reception> {
        let source = self.current.as_mut()?;
        let expected = source.expected() - source.expected_prior;
        let received = source.received - source.received_prior;
        source.expected_prior = source.expected();
        source.received_prior = source.received;
        // RFC 3550 A.3: repeats can make the loss of an interval negative, which is reported as none.
        let lost = expected.saturating_sub(received);
        let fraction = (lost * 256).checked_div(expected).unwrap_or(0);
        Some(Reception {
            ssrc: source.ssrc,
            fraction_lost: u8::try_from(fraction).unwrap_or(u8::MAX),
            cumulative_lost: source.cumulative_lost().clamp(-0x80_0000, 0x7f_ffff) as i32,
            extended_sequence: source.highest as u32,
            jitter: source.jitter >> 4,
        })
    }

    /// What has come of it so far, over all sources of the leg.
    #[must_use]
    pub fn received(&self) -> Received {
        let mut tally = self.tally;
        if let Some(source) = &self.current {
            source.leave(&mut tally);
        }
        if tally.run > 0 {
            tally.end_run();
        }
        let mean = tally.differences.checked_div(tally.measured).unwrap_or(0);
        Received {
            expected: tally.expected,
            lost: tally.lost,
            repeated: tally.repeated,
            reordered: tally.reordered,
            loss_runs: tally.loss_runs,
            longest_loss: tally.longest_loss,
            jitter: self.current.as_ref().map_or(0, |source| source.jitter >> 4),
            mean_jitter: u32::try_from(mean).unwrap_or(u32::MAX),
            max_jitter: tally.max_jitter >> 4,
        }
    }

    /// SSRC of the current source.
    #[must_use]
    pub fn ssrc(&self) -> Option<u32> {
        self.current.as_ref().map(|source| source.ssrc)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::milliseconds;
    use proptest::prelude::*;

    const HEADER: Header =
        Header { marker: true, payload_type: 8, sequence: 0x1234, timestamp: 0x5678_9abc, ssrc: 0xdead_beef };

    fn sequence(sequence: u16) -> Header {
        Header { sequence, timestamp: u32::from(sequence) * 160, ..HEADER }
    }

    #[test]
    fn rfc3550_5_1_the_header_has_its_bytes_in_place() {
        let wire = [0x80, 0x88, 0x12, 0x34, 0x56, 0x78, 0x9a, 0xbc, 0xde, 0xad, 0xbe, 0xef];
        assert_eq!(HEADER.encode(), wire);
        assert_eq!(HEADER.marshal().unwrap(), wire.as_slice());
        assert_eq!(Packet::parse(&wire).unwrap(), Packet { header: HEADER, payload: &[] });
    }

    #[test]
    fn rfc3550_5_1_every_length_is_checked() {
        let with = |first: u8, rest: &[u8]| {
            let mut wire = HEADER.encode().to_vec();
            wire[0] = first;
            wire.extend_from_slice(rest);
            wire
        };
        type Row = (&'static str, Vec<u8>, Result<&'static [u8], PacketError>);
        let table: &[Row] = &[
            ("plain", with(0x80, b"ab"), Ok(b"ab")),
            ("§5.1: two CSRC are skipped", with(0x82, b"........ab"), Ok(b"ab")),
            ("§5.1: more CSRC than bytes", with(0x8f, b"........"), Err(PacketError::TooShort)),
            ("§5.3.1: extension of one word", with(0x90, b"\0\0\0\x01....ab"), Ok(b"ab")),
            ("§5.3.1: empty extension", with(0x90, b"\0\0\0\0ab"), Ok(b"ab")),
            ("§5.3.1: extension longer than all", with(0x90, b"\0\0\xff\xffab"), Err(PacketError::TooShort)),
            ("§5.3.1: extension cut in its head", with(0x90, b"\0\0\0"), Err(PacketError::TooShort)),
            ("CSRC and extension", with(0x91, b"....\0\0\0\x01....ab"), Ok(b"ab")),
            ("§5.1: padding of three", with(0xa0, b"ab\0\0\x03"), Ok(b"ab")),
            ("§5.1: padding is all", with(0xa0, b"\0\x02"), Ok(b"")),
            ("§5.1: padding longer than all", with(0xa0, b"ab\x04"), Err(PacketError::Padding(4))),
            ("§5.1: padding of nothing", with(0xa0, b"ab\0"), Err(PacketError::Padding(0))),
            ("§5.1: padding without a byte", with(0xa0, b""), Err(PacketError::Padding(0))),
            ("§5.1: version 1", with(0x40, b"ab"), Err(PacketError::Version(1))),
            ("STUN has version 0", with(0x00, b"ab"), Err(PacketError::Version(0))),
            ("empty datagram", vec![], Err(PacketError::TooShort)),
            ("eleven bytes", vec![0x80; 11], Err(PacketError::TooShort)),
        ];
        for (fact, wire, outcome) in table {
            assert_eq!(Packet::parse(wire).map(|packet| packet.payload), *outcome, "{fact}");
        }
    }

    #[test]
    fn a_packet_needs_room_for_header_and_payload() {
        let mut buffer = [0; 14];
        assert_eq!(encode(&HEADER, b"ab", &mut buffer), Ok(14));
        assert_eq!(Packet::parse(&buffer).unwrap(), Packet { header: HEADER, payload: b"ab" });
        assert_eq!(encode(&HEADER, b"abc", &mut buffer), Err(TooShort));
        assert_eq!(encode(&HEADER, b"", &mut buffer[..11]), Err(TooShort));
    }

    #[test]
    fn arithmetic_goes_round() {
        assert_eq!(sequence_delta(2, 65_535), 3);
        assert_eq!(sequence_delta(65_535, 2), -3);
        assert_eq!(timestamp_delta(159, u32::MAX), 160);
        assert_eq!(timestamp_delta(u32::MAX, 159), -160);
    }

    fn at(ms: u64) -> MediaTime {
        MediaTime::from_samples(milliseconds(ms))
    }

    /// Feeds sequence numbers 20 ms apart.
    fn count(numbers: impl IntoIterator<Item = u16>) -> (ReceiverStatistics, Vec<Arrival>) {
        let mut statistics = ReceiverStatistics::new();
        let places = (1..)
            .zip(numbers)
            .map(|(n, number)| statistics.on_packet(&sequence(number), at(n * 20)))
            .collect();
        (statistics, places)
    }

    #[test]
    fn rfc3550_a1_a3_losses_repeats_wraps_and_jumps_are_told_apart() {
        use Arrival::*;
        type Row = (&'static str, &'static [u16], &'static [Arrival], u64, i32, u32);
        let table: &[Row] = &[
            ("in order", &[7, 8, 9], &[First, Ahead(1), Ahead(1)], 0, 0, 9),
            ("two lost", &[7, 10], &[First, Ahead(3)], 2, 2, 10),
            ("late is not lost", &[7, 9, 8], &[First, Ahead(2), Behind(1)], 0, 0, 9),
            ("repeated", &[7, 7, 8], &[First, Behind(0), Ahead(1)], 0, -1, 8),
            ("a repeat hides no loss", &[7, 9, 9], &[First, Ahead(2), Behind(0)], 1, 0, 9),
            ("before the first", &[7, 6], &[First, Behind(1)], 0, -1, 7),
            ("the cycle is counted", &[65_535, 0, 1], &[First, Ahead(1), Ahead(1)], 0, 0, 0x1_0001),
            ("late across the cycle", &[65_534, 0, 65_535], &[First, Ahead(2), Behind(1)], 0, 0, 0x1_0000),
            ("one stray is no new start", &[7, 30_000, 8], &[First, Jump, Ahead(1)], 0, 0, 8),
            ("two in a row are", &[7, 9, 30_000, 30_001], &[First, Ahead(2), Jump, First], 1, 0, 30_001),
        ];
        for (fact, numbers, places, lost, cumulative, extended) in table {
            let (mut statistics, arrivals) = count(numbers.iter().copied());
            let report = statistics.report().unwrap();
            assert_eq!(arrivals, *places, "{fact}");
            assert_eq!(statistics.received().lost, *lost, "{fact}");
            assert_eq!(
                (report.cumulative_lost, report.extended_sequence),
                (*cumulative, *extended),
                "{fact}"
            );
        }
    }

    #[test]
    fn losses_are_counted_by_the_run_and_repeats_and_late_ones_by_the_packet() {
        let gaps = |lost: &[(u16, u16)]| {
            (0..1000u16)
                .filter(|n| !lost.iter().any(|(from, to)| (*from..*to).contains(n)))
                .collect::<Vec<_>>()
        };
        let mut late = gaps(&[]);
        late.swap(10, 12); // 12, 11 and 10 in this order.
        let mut very_late = gaps(&[(20, 23)]);
        very_late.insert(100, 21);
        let mut too_late = gaps(&[(20, 23)]);
        too_late.insert(130, 21); // Further behind than is waited for.
        let mut twice = gaps(&[(40, 41)]);
        twice.insert(50, 5);
        twice.insert(50, 5);
        // Expected, lost, runs, longest, repeated, reordered.
        let table: &[(&str, Vec<u16>, [u64; 6])] = &[
            ("whole", gaps(&[]), [1000, 0, 0, 0, 0, 0]),
            ("one here, three there", gaps(&[(10, 11), (700, 703)]), [1000, 4, 2, 3, 0, 0]),
            ("the newest are lost in the window", gaps(&[(990, 995)]), [1000, 5, 1, 5, 0, 0]),
            ("longer than the window", gaps(&[(100, 400)]), [1000, 300, 1, 300, 0, 0]),
            ("at the window's edge", gaps(&[(100, 228), (300, 301)]), [1000, 129, 2, 128, 0, 0]),
            ("three turned round", late, [1000, 0, 0, 0, 0, 2]),
            ("a late one parts a run", very_late, [1000, 2, 2, 1, 0, 1]),
            ("two repeats", twice, [1000, 1, 1, 1, 2, 0]),
        ];
        for (fact, numbers, expected) in table {
            let got = count(numbers.iter().copied()).0.received();
            let figures =
                [got.expected, got.lost, got.loss_runs, got.longest_loss, got.repeated, got.reordered];
            assert_eq!(figures, *expected, "{fact}");
        }
        assert_eq!(count(too_late).0.received().lost, 3, "so far behind it is a jump");
    }

    #[test]
    fn rfc3550_a3_the_fraction_is_that_of_the_interval() {
        let (mut statistics, _) = count((0..100).filter(|n| n % 4 != 1));
        assert_eq!(statistics.report().unwrap().fraction_lost, 64);
        assert_eq!(statistics.report().unwrap().fraction_lost, 0, "nothing came since");
        statistics.on_packet(&sequence(100), at(2000));
        let report = statistics.report().unwrap();
        assert_eq!((report.fraction_lost, report.cumulative_lost), (0, 25));
    }

    #[test]
    fn losses_add_up_over_a_change_of_ssrc() {
        let (mut statistics, _) = count([1, 4]);
        let other = Header { ssrc: 1, ..sequence(900) };
        assert_eq!(statistics.on_packet(&other, at(60)), Arrival::First);
        statistics.on_packet(&Header { sequence: 902, ..other }, at(80));
        let received = statistics.received();
        assert_eq!((received.expected, received.lost, received.loss_runs), (7, 3, 2));
        assert_eq!(statistics.report().unwrap().cumulative_lost, 1);
    }

    #[test]
    fn rfc3550_a8_jitter_converges_to_the_mean_deviation() {
        let mut statistics = ReceiverStatistics::new();
        for n in 0..1000u16 {
            // Every second packet comes 5 ms (40 units) late.
            let late = u64::from(n % 2) * 5;
            statistics.on_packet(&sequence(n), at(u64::from(n) * 20 + late));
        }
        let Received { jitter, mean_jitter, max_jitter, .. } = statistics.received();
        assert!((38..=40).contains(&jitter), "{jitter}");
        assert_eq!(mean_jitter, 40);
        assert!((jitter..=40).contains(&max_jitter), "{max_jitter}");
        // It calms down; what was is remembered.
        for n in 1000..1200u16 {
            statistics.on_packet(&sequence(n), at(u64::from(n) * 20));
        }
        let calm = statistics.received();
        assert!(calm.jitter < 2 && calm.max_jitter == max_jitter && (30..40).contains(&calm.mean_jitter));
    }

    #[test]
    fn a_held_key_is_no_jitter() {
        let mut statistics = ReceiverStatistics::new();
        for n in 0..100u16 {
            if (40..60).contains(&n) {
                statistics.on_event_packet(&Header { timestamp: 40 * 160, ..sequence(n) });
            } else {
                statistics.on_packet(&sequence(n), at(u64::from(n) * 20));
            }
        }
        let received = statistics.received();
        assert_eq!((received.jitter, received.max_jitter, received.lost), (0, 0, 0));
    }

    proptest! {
        /// Whatever arrives, the payload lies within the datagram and the trait reads the same header.
        #[test]
        fn what_parses_lies_within_and_reads_alike(
            mut wire in prop::collection::vec(any::<u8>(), 0..64), version in any::<bool>(),
        ) {
            if let Some(first) = wire.first_mut().filter(|_| version) {
                *first = (*first & 0x3f) | 0x80;
            }
            let header = Header::unmarshal(&mut wire.as_slice());
            if let Ok(packet) = Packet::parse(&wire) {
                prop_assert!(packet.payload.len() + HEADER_LENGTH <= wire.len());
                prop_assert_eq!(header.unwrap(), packet.header);
            }
        }

        /// What we write is read back, by the view and by the trait.
        #[test]
        fn a_header_survives_the_wire(
            (marker, sequence, timestamp, ssrc) in any::<(bool, u16, u32, u32)>(),
            payload_type in 0u8..128,
            payload in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let header = Header { marker, payload_type, sequence, timestamp, ssrc };
            let mut buffer = [0; 256];
            let length = encode(&header, &payload, &mut buffer).unwrap();
            prop_assert_eq!(Packet::parse(&buffer[..length]).unwrap(), Packet { header, payload: &payload });
            prop_assert_eq!(Header::unmarshal(&mut header.marshal().unwrap()).unwrap(), header);
        }

        /// No sequence of packets, however wild, breaks the counters, and they agree with a plain count.
        #[test]
        fn counters_bear_any_stream(
            packets in prop::collection::vec((any::<u16>(), any::<u32>(), 0u32..2, 0u64..100_000), 0..200),
            steps in prop::collection::vec(0u16..60, 1..200),
        ) {
            let mut statistics = ReceiverStatistics::new();
            let mut now = 0;
            for (sequence, timestamp, ssrc, wait) in packets {
                now += wait;
                statistics.on_packet(&Header { sequence, timestamp, ssrc, ..HEADER }, at(now));
                prop_assert!(statistics.report().is_some());
                let received = statistics.received();
                prop_assert!(received.lost <= received.expected && received.loss_runs <= received.lost);
                prop_assert!(received.longest_loss <= received.lost);
            }
            // One stream that goes forward by these steps, 0 being a repeat.
            let mut number = 7u16;
            let mut numbers = vec![number];
            for step in &steps {
                number = number.wrapping_add(*step);
                numbers.push(number);
            }
            let received = count(numbers).0.received();
            let ahead: u64 = steps.iter().map(|step| u64::from(*step)).sum();
            let runs = steps.iter().filter(|step| **step > 1);
            prop_assert_eq!(received.expected, ahead + 1);
            prop_assert_eq!(received.lost, runs.clone().map(|step| u64::from(*step) - 1).sum::<u64>());
            prop_assert_eq!(received.loss_runs, runs.clone().count() as u64);
            prop_assert_eq!(received.longest_loss, runs.max().map_or(0, |step| u64::from(*step) - 1));
            prop_assert_eq!(received.repeated, steps.iter().filter(|step| **step == 0).count() as u64);
        }
    }
}
