//! Keys as telephone-events: RFC 4733.
//!
//! [`TelephoneEvent`] is the payload, [`EventDetector`] turns a leg's packets into key presses, each told
//! once, [`EventSender`] makes the packets of a press and [`EventRelay`] carries a press into another
//! stream. A press is known by SSRC, timestamp and event; the marker bit is not trusted, for carriers lose
//! and forge it.
//!
//! ```text
//! key down                          key up
//! │ 160    320    480    640 ...     │ 960 E  960 E  960 E   duration; the timestamp is that of "key down"
//! ▼ one press: told at the first of these packets that comes, whichever it is
//! ```
//!
//! Nothing here prints an event code: it is a digit of a PIN.

use crate::Digit;
use crate::rtp::{Header, TooShort, timestamp_delta};
use bytes::{Buf, BufMut};
use std::fmt;
use std::time::{Duration, Instant};
use webrtc_util::marshal::{Marshal, MarshalSize, Unmarshal};

/// Length of a payload.
pub const EVENT_LENGTH: usize = 4;

/// Longest duration that one event or segment can tell (RFC 4733 §2.5.1.3).
const SEGMENT: u32 = 0xffff;

/// One telephone-event payload: a key at one instant (RFC 4733 §2.3).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct TelephoneEvent {
    /// Event code; 0–15 stand for `0`–`9`, `*`, `#`, `A`–`D` (RFC 4733 §3.2).
    pub event: u8,
    /// Set on the last packet of an event and on its two repeats (RFC 4733 §2.5.1.4).
    pub end: bool,
    /// Tone power in dBm0 with the sign dropped: 0 is loudest, 63 quietest.
    pub volume: u8,
    /// Time since the key went down, in RTP timestamp units (8 per millisecond at 8 kHz).
    pub duration: u16,
}

impl fmt::Debug for TelephoneEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TelephoneEvent(·, end: {}, duration: {})", self.end, self.duration)
    }
}

impl TelephoneEvent {
    /// Decodes the first four bytes of an RTP payload; trailing bytes are ignored.
    ///
    /// # Errors
    /// [`TooShort`] when `payload` holds fewer than four bytes.
    #[inline]
    pub fn decode(payload: &[u8]) -> Result<Self, TooShort> {
        let &[event, flags, high, low] = payload.first_chunk().ok_or(TooShort)?;
        let duration = u16::from_be_bytes([high, low]);
        Ok(Self { event, end: flags & 0x80 != 0, volume: flags & 0x3f, duration })
    }

    /// The payload; the reserved bit is zero (RFC 4733 §2.3.3).
    #[inline]
    #[must_use]
    pub fn encode(&self) -> [u8; EVENT_LENGTH] {
        let [high, low] = self.duration.to_be_bytes();
        [self.event, (u8::from(self.end) << 7) | (self.volume & 0x3f), high, low]
    }
}

impl MarshalSize for TelephoneEvent {
    fn marshal_size(&self) -> usize {
        EVENT_LENGTH
    }
}

impl Marshal for TelephoneEvent {
    fn marshal_to(&self, mut buf: &mut [u8]) -> webrtc_util::Result<usize> {
        if buf.len() < EVENT_LENGTH {
            return Err(webrtc_util::Error::ErrBufferShort);
        }
        buf.put_slice(&self.encode());
        Ok(EVENT_LENGTH)
    }
}

impl Unmarshal for TelephoneEvent {
    fn unmarshal<B: Buf>(buf: &mut B) -> webrtc_util::Result<Self> {
        let mut payload = [0; EVENT_LENGTH];
        let short = |_| webrtc_util::Error::ErrBufferShort;
        buf.try_copy_to_slice(&mut payload).map_err(short)?;
        Self::decode(&payload).map_err(|TooShort| webrtc_util::Error::ErrBufferShort)
    }
}

/// How many events and segments are remembered: at 12 keys per second, more than a second.
const REMEMBERED: usize = 16;

/// An event of which no packet came for so long is forgotten. No network delays a packet so much, and there
/// are senders that give each press the same timestamp.
const FORGET_AFTER: Duration = Duration::from_secs(5);

/// One event, or one segment of a long one.
#[derive(Clone, Copy)]
struct Seen {
    ssrc: u32,
    timestamp: u32,
    event: u8,
    /// Longest duration told so far.
    extent: u16,
    ended: bool,
    /// Number of the press; segments share it.
    press: u32,
    /// From the start of the press to the start of this segment, in timestamp units.
    offset: u32,
    /// The timestamp that the segment has in the stream that it is relayed into.
    mapped: u32,
    last_arrival: Instant,
}

/// What a packet is to the presses before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Novelty {
    /// The first packet of a press.
    Press,
    /// The first packet of a later segment of a long press (RFC 4733 §2.5.1.3).
    Segment,
    /// Another packet of what is known.
    Known,
}

/// The latest events of a stream.
#[derive(Clone, Default)]
struct Presses {
    seen: [Option<Seen>; REMEMBERED],
    /// Where the next one goes.
    next: usize,
    newest: u32,
}

impl Presses {
    /// Finds or remembers the event of a packet. `mapped` becomes the timestamp of a new press in the stream
    /// that it is relayed into, where durations are scaled by `scale`.
    fn observe(
        &mut self,
        header: &Header,
        event: &TelephoneEvent,
        arrival: Instant,
        mapped: u32,
        scale: impl Fn(u32) -> u32,
    ) -> (Novelty, Seen) {
        let alive = |seen: &&mut Seen| {
            seen.ssrc == header.ssrc
                && seen.event == event.event
                && arrival.saturating_duration_since(seen.last_arrival) < FORGET_AFTER
        };
        let known =
            self.seen.iter_mut().flatten().filter(alive).find(|seen| seen.timestamp == header.timestamp);
        if let Some(seen) = known {
            seen.extent = seen.extent.max(event.duration);
            seen.ended |= event.end;
            seen.last_arrival = arrival;
            return (Novelty::Known, *seen);
        }
        // RFC 4733 §2.5.1.3: a segment begins where the one before it ended, which had no end bit. A
        // timestamp within a press that has not ended is that of a sender which wrongly moves it on with
        // each packet.
        let follows = |seen: &&mut Seen| {
            let ahead = timestamp_delta(header.timestamp, seen.timestamp);
            let extent = i32::from(seen.extent);
            !seen.ended && ((1..=extent).contains(&ahead) || ahead.unsigned_abs() == SEGMENT && ahead > 0)
        };
        let parent = self.seen.iter_mut().flatten().filter(alive).find(follows).map(|seen| *seen);
        let (novelty, press, offset, mapped) = match parent {
            Some(parent) => {
                let step = header.timestamp.wrapping_sub(parent.timestamp);
                let offset = parent.offset.saturating_add(step);
                (Novelty::Segment, parent.press, offset, parent.mapped.wrapping_add(scale(step)))
            }
            None => {
                self.newest = self.newest.wrapping_add(1);
                (Novelty::Press, self.newest, 0, mapped)
            }
        };
        let seen = Seen {
            ssrc: header.ssrc,
            timestamp: header.timestamp,
            event: event.event,
            extent: event.duration,
            ended: event.end,
            press,
            offset,
            mapped,
            last_arrival: arrival,
        };
        if let Some(place) = self.seen.get_mut(self.next) {
            *place = Some(seen);
        }
        self.next = (self.next + 1) % REMEMBERED;
        (novelty, seen)
    }
}

/// The press that a packet belongs to, as far as it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Press {
    /// The key.
    pub digit: Digit,
    /// This packet was the first one of the press that came.
    pub is_new: bool,
    /// The key is up again; `duration` is final.
    pub ended: bool,
    /// How long the key is known to have been down, in RTP timestamp units, over all segments.
    pub duration: u32,
}

/// Tells the key presses of one leg, each once, whatever the network did to its packets.
#[derive(Clone, Default)]
pub struct EventDetector {
    presses: Presses,
}

impl fmt::Debug for EventDetector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EventDetector")
    }
}

impl EventDetector {
    /// Knows of no press.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A telephone-event packet came: the key when it is the first packet of its press.
    pub fn on_packet(&mut self, header: &Header, payload: &[u8], arrival: Instant) -> Option<Digit> {
        self.observe(header, payload, arrival).filter(|press| press.is_new).map(|press| press.digit)
    }

    /// A telephone-event packet came: the state of its press, unless a later press has begun since, or it is
    /// none of the sixteen keys. For a leg to which keys go as tones of the same length.
    pub fn observe(&mut self, header: &Header, payload: &[u8], arrival: Instant) -> Option<Press> {
        let event = TelephoneEvent::decode(payload).ok()?;
        let digit = Digit::from_event(event.event)?;
        let (novelty, seen) = self.presses.observe(header, &event, arrival, 0, |step| step);
        let is_new = novelty == Novelty::Press;
        let duration = seen.offset.saturating_add(u32::from(seen.extent));
        (seen.press == self.presses.newest).then_some(Press { digit, is_new, ended: seen.ended, duration })
    }
}

/// One telephone-event packet to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventPacket {
    /// Marker bit: first packet of a press (RFC 4733 §2.2).
    pub marker: bool,
    /// Start of the event or segment.
    pub timestamp: u32,
    /// The payload.
    pub event: TelephoneEvent,
}

/// Makes the packets of one press: one item per packet interval, the end three times (RFC 4733 §2.5.1).
#[derive(Clone)]
pub struct EventSender {
    event: u8,
    volume: u8,
    /// Timestamp units per packet interval.
    step: u32,
    /// Start of the current segment.
    timestamp: u32,
    /// What has been told of the current segment, and what the press has from its start on.
    told: u32,
    total: u32,
    marker: bool,
    ends_left: u8,
}

impl fmt::Debug for EventSender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventSender")
            .field("told", &self.told)
            .field("total", &self.total)
            .finish_non_exhaustive()
    }
}

impl EventSender {
    /// A press of `digit` that begins at `timestamp` and lasts `duration`, told every `step`; all three in
    /// RTP timestamp units. The first item is due one step after the key went down.
    #[must_use]
    pub fn new(digit: Digit, timestamp: u32, duration: u32, step: u32) -> Self {
        Self {
            event: digit.event(),
            volume: 10,
            step: step.clamp(1, SEGMENT),
            timestamp,
            told: 0,
            total: duration,
            marker: true,
            ends_left: 3,
        }
    }
}

impl Iterator for EventSender {
    type Item = EventPacket;

    fn next(&mut self) -> Option<EventPacket> {
        if self.ends_left == 0 {
            return None;
        }
        // RFC 4733 §2.5.1.3: a segment that is full is followed by another, without marker and end bit.
        if self.told == SEGMENT && self.total > SEGMENT {
            self.timestamp = self.timestamp.wrapping_add(SEGMENT);
            self.total -= SEGMENT;
            self.told = 0;
        }
        self.told = self.told.saturating_add(self.step).min(self.total).min(SEGMENT);
        let end = self.told == self.total;
        self.ends_left -= u8::from(end);
        let duration = u16::try_from(self.told).unwrap_or(u16::MAX);
        let marker = std::mem::replace(&mut self.marker, false);
        let event = TelephoneEvent { event: self.event, end, volume: self.volume, duration };
        Some(EventPacket { marker, timestamp: self.timestamp, event })
    }
}

/// Carries the presses of one stream into another: the start is mapped once per press, so that all packets
/// of a press tell one timestamp although the audio around it moves.
#[derive(Clone)]
pub struct EventRelay {
    presses: Presses,
    from_hz: u32,
    to_hz: u32,
}

impl fmt::Debug for EventRelay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EventRelay({} Hz to {} Hz)", self.from_hz, self.to_hz)
    }
}

impl EventRelay {
    /// From a stream whose events count `from_hz` into one whose events count `to_hz`.
    #[must_use]
    pub fn new(from_hz: u32, to_hz: u32) -> Self {
        Self { presses: Presses::default(), from_hz: from_hz.max(1), to_hz: to_hz.max(1) }
    }

    /// The rates of both streams from now on: either may be agreed on anew.
    pub fn set_rates(&mut self, from_hz: u32, to_hz: u32) {
        (self.from_hz, self.to_hz) = (from_hz.max(1), to_hz.max(1));
    }

    /// The packet to send for one that came; `None` when it is none of the sixteen keys. `mapped` is what the
    /// packet's timestamp would be in the outgoing stream; it counts for the first packet of a press only.
    pub fn relay(
        &mut self,
        header: &Header,
        payload: &[u8],
        arrival: Instant,
        mapped: u32,
    ) -> Option<EventPacket> {
        let event = TelephoneEvent::decode(payload).ok()?;
        Digit::from_event(event.event)?;
        let (from_hz, to_hz) = (self.from_hz, self.to_hz);
        let scale = |units: u32| {
            u32::try_from(u64::from(units) * u64::from(to_hz) / u64::from(from_hz)).unwrap_or(u32::MAX)
        };
        let (novelty, seen) = self.presses.observe(header, &event, arrival, mapped, scale);
        let duration = u16::try_from(scale(u32::from(event.duration))).unwrap_or(u16::MAX);
        let marker = novelty == Novelty::Press;
        Some(EventPacket { marker, timestamp: seen.mapped, event: TelephoneEvent { duration, ..event } })
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "a test takes its one starting instant from the system")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SSRC: u32 = 7;
    const AUDIO: Option<EventPacket> = None;

    fn digit(key: char) -> Digit {
        Digit::from_char(key).unwrap()
    }

    fn header(ssrc: u32, packet: &EventPacket) -> Header {
        Header { marker: packet.marker, payload_type: 101, sequence: 0, timestamp: packet.timestamp, ssrc }
    }

    /// A packet as it is sent: millisecond, SSRC, event or audio.
    type Sent = (u64, u32, Option<EventPacket>);

    /// Keys of `press` ms with `gap` ms between them, packets every 20 ms, the ends repeated in the gap.
    fn typed(keys: &str, press: u32, gap: u32) -> Vec<Sent> {
        let mut sent = vec![];
        for (n, key) in keys.chars().enumerate() {
            let start = n as u32 * (press + gap);
            for (k, packet) in EventSender::new(digit(key), 1000 + start * 8, press * 8, 160).enumerate() {
                sent.push((u64::from(start) + (k as u64 + 1) * 20, SSRC, Some(packet)));
            }
        }
        sent
    }

    /// What the detector makes of packets in order of arrival.
    fn heard(mut packets: Vec<Sent>) -> String {
        packets.sort_by_key(|packet| packet.0);
        let (start, mut detector) = (Instant::now(), EventDetector::new());
        let digits = packets.iter().filter_map(|(millis, ssrc, packet)| {
            let packet = packet.as_ref()?;
            detector.on_packet(
                &header(*ssrc, packet),
                &packet.event.encode(),
                start + Duration::from_millis(*millis),
            )
        });
        digits.map(Digit::key).collect()
    }

    fn ends(packet: &Sent) -> bool {
        packet.2.is_some_and(|packet| packet.event.end)
    }

    /// Keeps what `keep` says of (index within the press, packet).
    fn kept(packets: Vec<Sent>, keep: impl Fn(usize, &Sent) -> bool) -> Vec<Sent> {
        let (mut index, mut timestamp) = (0, None);
        packets
            .into_iter()
            .filter(|packet| {
                let now = packet.2.map(|packet| packet.timestamp);
                index = if now == timestamp { index + 1 } else { 0 };
                timestamp = now;
                keep(index, packet)
            })
            .collect()
    }

    /// A fixed sequence that looks like chance.
    fn noise(n: usize) -> u64 {
        (n as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33
    }

    #[test]
    fn rfc4733_2_3_the_payload_has_its_bits_in_place() {
        let table = [
            ([11, 0x8a, 0x03, 0x20], TelephoneEvent { event: 11, end: true, volume: 10, duration: 800 }),
            ([0, 0x3f, 0xff, 0xff], TelephoneEvent { event: 0, end: false, volume: 63, duration: 0xffff }),
        ];
        for (wire, event) in table {
            assert_eq!(TelephoneEvent::decode(&wire), Ok(event));
            assert_eq!(event.encode(), wire);
            assert_eq!(event.marshal().unwrap(), wire.as_slice());
        }
        assert!(
            !TelephoneEvent::decode(&[1, 0x40, 0, 0]).unwrap().end,
            "the reserved bit is not the end bit"
        );
        assert_eq!(TelephoneEvent::decode(&[1, 2, 3]), Err(TooShort));
        assert!(!format!("{:?}", EventSender::new(digit('7'), 0, 9, 9).next()).contains('7'));
    }

    #[test]
    fn each_press_is_told_once_whatever_happens_to_its_packets() {
        const PIN: &str = "1729#";
        let clean = || typed(PIN, 100, 100);
        let table: Vec<(&str, Vec<Sent>)> = vec![
            ("clean", clean()),
            ("first packet lost", kept(clean(), |n, _| n > 0)),
            ("first three lost", kept(clean(), |n, _| n > 2)),
            ("all ends but one lost", kept(clean(), |n, p| !ends(p) || n == 5)),
            ("all ends lost", kept(clean(), |_, p| !ends(p))),
            ("end only", kept(clean(), |n, _| n == 6)),
            (
                "no marker",
                clean()
                    .into_iter()
                    .map(|(t, s, p)| (t, s, p.map(|p| EventPacket { marker: false, ..p })))
                    .collect(),
            ),
            (
                "marker on every packet",
                clean()
                    .into_iter()
                    .map(|(t, s, p)| (t, s, p.map(|p| EventPacket { marker: true, ..p })))
                    .collect(),
            ),
            (
                "every packet doubled",
                clean().into_iter().flat_map(|(t, s, p)| [(t, s, p), (t + 3, s, p)]).collect(),
            ),
            (
                "shuffled within 60 ms",
                clean().into_iter().enumerate().map(|(n, (t, s, p))| (t + noise(n) % 60, s, p)).collect(),
            ),
            (
                "late by 200 ms",
                clean()
                    .into_iter()
                    .enumerate()
                    .map(|(n, (t, s, p))| (t + u64::from(n % 3 == 2) * 200, s, p))
                    .collect(),
            ),
            ("40 ms keys 40 ms apart", typed(PIN, 40, 40)),
            (
                "40 ms keys, shuffled",
                typed(PIN, 40, 40)
                    .into_iter()
                    .enumerate()
                    .map(|(n, (t, s, p))| (t + noise(n) % 60, s, p))
                    .collect(),
            ),
            (
                "audio interleaved",
                clean().into_iter().flat_map(|(t, s, p)| [(t - 10, s, AUDIO), (t, s, p)]).collect(),
            ),
        ];
        for (pattern, packets) in table {
            assert_eq!(heard(packets), PIN, "{pattern}");
        }
    }

    #[test]
    fn the_same_key_twice_is_two_presses() {
        assert_eq!(heard(typed("0000", 100, 100)), "0000");
        assert_eq!(heard(typed("0000", 40, 40)), "0000");
        assert_eq!(heard(kept(typed("0000", 40, 40), |n, _| n == 0)), "0000", "one packet of each, no end");
        assert_eq!(
            heard(typed("00", 100, 0)),
            "00",
            "the end bit tells them apart when nothing lies between"
        );
    }

    #[test]
    fn a_packet_of_an_old_press_does_not_tell_it_again() {
        let mut packets = typed("12", 100, 100);
        let late = packets[2].2;
        packets.extend([(350, SSRC, late), (600, SSRC, late), (900, SSRC, late)]);
        assert_eq!(heard(packets), "12");
    }

    #[test]
    fn rfc4733_2_5_1_3_a_long_press_is_one_in_all_its_segments() {
        for press in [2_000, 8_000, 8_192, 9_000, 30_000] {
            assert_eq!(heard(typed("5", press, 100)), "5", "{press} ms");
            assert_eq!(
                heard(kept(typed("55", press, 100), |n, _| n % 3 != 2)),
                "55",
                "{press} ms, a third lost"
            );
        }
    }

    #[test]
    fn a_segment_whose_last_packets_are_lost_is_still_followed() {
        let early = |packet: &Sent| packet.2.is_some_and(|packet| packet.event.duration < 40_000);
        assert_eq!(heard(kept(typed("5", 20_000, 100), |_, packet| early(packet))), "5");
    }

    #[test]
    fn another_key_is_another_press_even_with_the_same_timestamp() {
        let still = |(t, s, p): Sent| (t, s, p.map(|p| EventPacket { timestamp: 1000, ..p }));
        assert_eq!(heard(typed("1729", 100, 100).into_iter().map(still).collect()), "1729");
    }

    #[test]
    fn a_sender_that_moves_its_timestamp_within_a_press_is_understood() {
        let moved = |(t, s, p): Sent| {
            let before_end = |p: &EventPacket| u32::from(p.event.duration) - 160;
            (t, s, p.map(|p| EventPacket { timestamp: p.timestamp + before_end(&p), ..p }))
        };
        assert_eq!(heard(typed("551", 100, 100).into_iter().map(moved).collect()), "551");
    }

    #[test]
    fn a_new_ssrc_begins_anew_even_with_the_old_timestamps() {
        let again = typed("31", 100, 100).into_iter().map(|(t, _, p)| (t + 1000, 99, p));
        assert_eq!(heard(typed("31", 100, 100).into_iter().chain(again).collect()), "3131");
    }

    #[test]
    fn a_sender_that_repeats_its_timestamps_is_understood_after_a_while() {
        let again = typed("4", 100, 100).into_iter().map(|(t, s, p)| (t + 6000, s, p));
        assert_eq!(heard(typed("4", 100, 100).into_iter().chain(again).collect()), "44");
    }

    #[test]
    fn what_is_no_key_is_no_digit() {
        let now = Instant::now();
        let mut detector = EventDetector::new();
        let packet = EventSender::new(digit('1'), 0, 800, 160).next().unwrap();
        for payload in [&[16u8, 10, 0, 160][..], &[255, 10, 0, 160], &[1, 10, 0], &[]] {
            assert_eq!(detector.on_packet(&header(SSRC, &packet), payload, now), None);
        }
        assert_eq!(detector.on_packet(&header(SSRC, &packet), &[1, 10, 0, 160, 9, 9], now), Some(digit('1')));
    }

    #[test]
    fn a_press_is_told_with_its_growing_length() {
        let now = Instant::now();
        let mut detector = EventDetector::new();
        let mut states = vec![];
        for (_, ssrc, packet) in typed("5", 9_000, 0) {
            let packet = packet.unwrap();
            states.extend(detector.observe(&header(ssrc, &packet), &packet.event.encode(), now));
        }
        assert_eq!(states[0], Press { digit: digit('5'), is_new: true, ended: false, duration: 160 });
        assert!(states.windows(2).all(|w| w[0].duration <= w[1].duration && !w[1].is_new));
        let last = Press { digit: digit('5'), is_new: false, ended: true, duration: 72_000 };
        assert_eq!(states[states.len() - 3..], [last; 3]);
        assert!(!states[states.len() - 4].ended);
    }

    #[test]
    fn a_late_packet_of_an_old_press_says_nothing_of_the_new_one() {
        let now = Instant::now();
        let mut detector = EventDetector::new();
        let [old, new] = ['1', '2'].map(|key| {
            let packet = EventSender::new(digit(key), u32::from(key) * 8000, 800, 160).next().unwrap();
            detector.on_packet(&header(SSRC, &packet), &packet.event.encode(), now);
            packet
        });
        assert_eq!(detector.observe(&header(SSRC, &old), &old.event.encode(), now), None);
        assert!(detector.observe(&header(SSRC, &new), &new.event.encode(), now).is_some());
    }

    #[test]
    fn rfc4733_2_5_1_a_press_is_sent_with_growing_duration_and_three_ends() {
        let sent = |duration, step| -> Vec<(bool, u32, u16, bool)> {
            let packets = EventSender::new(digit('9'), 1000, duration, step);
            packets.map(|p| (p.marker, p.timestamp, p.event.duration, p.event.end)).collect()
        };
        let end = (false, 1000, 400, true);
        assert_eq!(sent(400, 160), [(true, 1000, 160, false), (false, 1000, 320, false), end, end, end]);
        assert_eq!(sent(80, 160), [(true, 1000, 80, true), (false, 1000, 80, true), (false, 1000, 80, true)]);
        assert_eq!(sent(0, 0).len(), 3);
        // 0xffff units are told, then the next segment begins there.
        let long = sent(0xffff + 200, 160);
        assert_eq!(
            long[408..412],
            [
                (false, 1000, 65_440, false),
                (false, 1000, 65_535, false),
                (false, 66_535, 160, false),
                (false, 66_535, 200, true)
            ]
        );
        assert_eq!(sent(0xffff, 160).last(), Some(&(false, 1000, 0xffff, true)));
    }

    #[test]
    fn a_relayed_press_keeps_one_start_whatever_the_audio_does() {
        let now = Instant::now();
        let mut relay = EventRelay::new(8000, 8000);
        let packets: Vec<EventPacket> = EventSender::new(digit('9'), 1000, 0x1_0100, 160).collect();
        for (n, packet) in packets.iter().enumerate() {
            let mapped = 50_000 + n as u32; // The mapping of audio drifts meanwhile.
            let out = relay.relay(&header(SSRC, packet), &packet.event.encode(), now, mapped).unwrap();
            let expected = EventPacket { timestamp: packet.timestamp + 49_000, ..*packet };
            assert_eq!(out, expected, "{n}");
        }
        assert_eq!(relay.relay(&header(SSRC, &packets[0]), &[16, 0, 0, 0], now, 0), None, "no key");
    }

    #[test]
    fn an_event_clock_that_differs_is_rescaled() {
        let now = Instant::now();
        let mut relay = EventRelay::new(48_000, 8000);
        let packets: Vec<EventPacket> = EventSender::new(digit('9'), 6000, 4800, 960).collect();
        let out: Vec<(u32, u16, bool)> = packets
            .iter()
            .map(|packet| relay.relay(&header(SSRC, packet), &packet.event.encode(), now, 77).unwrap())
            .map(|packet| (packet.timestamp, packet.event.duration, packet.event.end))
            .collect();
        let end = (77, 800, true);
        assert_eq!(
            out,
            [(77, 160, false), (77, 320, false), (77, 480, false), (77, 640, false), end, end, end]
        );
    }

    proptest! {
        /// Whatever keys are typed, loss of packets never adds a press, and a press of which one packet comes
        /// is told, in order.
        #[test]
        fn loss_and_repetition_change_nothing(
            keys in "[0-9*#A-D]{1,12}", press in 40u32..400, gap in 40u32..200,
            lost in prop::collection::vec(any::<bool>(), 400),
            doubled in prop::collection::vec(any::<bool>(), 400),
        ) {
            let packets = typed(&keys, press, gap);
            let mut survivors = vec![];
            for (n, packet) in packets.iter().enumerate() {
                let same_press = |other: &Sent| other.2.unwrap().timestamp == packet.2.unwrap().timestamp;
                let last_of_press = !packets.get(n + 1).is_some_and(same_press);
                let press_has_one = survivors.iter().any(same_press);
                if !lost[n % 400] || (last_of_press && !press_has_one) {
                    survivors.push(*packet);
                    if doubled[n % 400] { survivors.push((packet.0 + 150, packet.1, packet.2)); }
                }
            }
            // Ends repeat into the gap; the order of presses is that of their first packets.
            let mut first: Vec<(u64, u32, char)> = vec![];
            let mut by_time = survivors.clone();
            by_time.sort_by_key(|packet| packet.0);
            for (millis, _, packet) in by_time {
                let packet = packet.unwrap();
                if !first.iter().any(|known| known.1 == packet.timestamp) {
                    let digit = Digit::from_event(packet.event.event).unwrap();
                    first.push((millis, packet.timestamp, digit.key()));
                }
            }
            let expected: String = first.iter().map(|known| known.2).collect();
            prop_assert_eq!(heard(survivors), expected);
        }

        /// Any packets at all: no panic, and never more digits than packets.
        #[test]
        fn junk_is_borne(
            packets in prop::collection::vec((any::<u32>(), 0u32..2, any::<[u8; 4]>(), 0u64..9000), 0..100),
        ) {
            let (mut now, mut detector) = (Instant::now(), EventDetector::new());
            let mut relay = EventRelay::new(1, u32::MAX);
            for (timestamp, ssrc, payload, wait) in packets {
                now += Duration::from_millis(wait);
                let header = Header { marker: false, payload_type: 101, sequence: 0, timestamp, ssrc };
                detector.observe(&header, &payload, now);
                relay.relay(&header, &payload, now, timestamp);
            }
        }
    }
}
