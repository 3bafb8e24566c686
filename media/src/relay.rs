//! One leg's outgoing RTP stream: a single SSRC from the first prompt to the last relayed packet.
//!
//! RFC 3550 §5.1: whatever the leg hears, prompts, tones or the other party, leaves in one sequence space and
//! on one timeline that follows our clock. What is relayed keeps its losses and its order, as far as they are
//! plausible: the numbers of the far stream are shifted, and shifted anew ("anchored") when another SSRC, a
//! jump or a prompt comes between. Nothing of the far header is copied but these differences and the marker.
//! Reads no clock, touches no socket.
//!
//! ```text
//! prompt │ 1000 1001 1002 │                        relayed: number + offset
//! far in │                │ 7 8 · 10 9 11          a loss and a reordering stay what they are
//! out    │ 1000 1001 1002 │ 1003 1004 · 1006 1005 1007
//! ```

use crate::rtp::{sequence_delta, timestamp_delta};
use crate::time::{MediaTime, milliseconds};

/// A jump of so many packets or more is a new start and not a loss (RFC 3550 A.1).
const MAX_DROPOUT: i16 = 3000;
/// Packets so far behind the newest, counted from 0 downwards, are late; further ones are misplaced (RFC 3550
/// A.1).
const LATEST: i16 = -100;
/// A step of the far timestamps so much longer than the time that passed is a jump.
const MAX_LEAP: i64 = milliseconds(1000) as i64;
/// A stream so far behind our clock stopped its own while it was silent.
const MAX_LAG: i64 = milliseconds(3000) as i64;

/// What the relay must know of a packet that came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Incoming {
    /// The far stream's name; it is compared and never sent.
    pub ssrc: u32,
    /// As received.
    pub sequence: u16,
    /// As received.
    pub timestamp: u32,
    /// As received.
    pub marker: bool,
    /// Samples of audio in it, or the duration so far of a telephone-event.
    pub duration: u32,
}

/// Where a packet of ours stands in the leg's stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outgoing {
    /// Set when the audio before was another's or silence.
    pub marker: bool,
    /// Grows by one per packet.
    pub sequence: u16,
    /// In samples.
    pub timestamp: u32,
}

/// One leg's outgoing stream.
#[derive(Debug, Clone)]
pub struct OutStream {
    ssrc: u32,
    /// Timestamp at [`MediaTime`] 0.
    origin: u32,
    /// Number of the next packet in line.
    sequence: u16,
    /// End of the audio sent so far; `None` before the first packet.
    end: Option<u32>,
    relayed: Option<Mapping>,
}

/// How the far stream's numbers become ours.
#[derive(Debug, Clone, Copy)]
struct Mapping {
    ssrc: u32,
    sequence_offset: u16,
    timestamp_offset: u32,
    /// Far numbers before this one belong to an older mapping.
    first: u16,
    newest: u16,
    /// Of the newest audio packet; `None` while only events came.
    audio: Option<(u32, MediaTime)>,
    /// After a jump: the number that would confirm it (RFC 3550 A.1).
    after_jump: Option<u16>,
}

/// Where an incoming packet stands in the mapped stream.
enum Place {
    Newer,
    Older,
    /// To be dropped.
    Outside,
    /// Another stream begins.
    New,
}

impl OutStream {
    /// All three are random (RFC 3550 §5.1).
    #[must_use]
    pub fn new(ssrc: u32, first_sequence: u16, origin: u32) -> Self {
        Self { ssrc, origin, sequence: first_sequence, end: None, relayed: None }
    }

    /// The leg's own SSRC, the same for the whole call.
    #[must_use]
    pub fn ssrc(&self) -> u32 {
        self.ssrc
    }

    /// The RTP timestamp that stands for `now`: what a sender report pairs with the wall clock (RFC 3550
    /// §6.4.1).
    #[must_use]
    pub fn timestamp_at(&self, now: MediaTime) -> u32 {
        self.origin.wrapping_add(now.samples() as u32)
    }

    /// The next packet of our own making, `duration` samples long. `begins` starts a talk-spurt: the time
    /// since the last packet becomes a gap.
    pub fn originate(&mut self, duration: u32, begins: bool, now: MediaTime) -> Outgoing {
        let begins = begins || self.end.is_none() || self.relayed.is_some();
        self.relayed = None;
        let timestamp = if begins { self.earliest(now) } else { self.end.unwrap_or(self.origin) };
        Outgoing { marker: begins, sequence: self.step(timestamp.wrapping_add(duration)), timestamp }
    }

    /// The place of a relayed audio packet; `None` when it comes too late for the mapping, or from nowhere.
    pub fn relay(&mut self, packet: Incoming, now: MediaTime) -> Option<Outgoing> {
        let (place, mapping) = self.place(&packet)?;
        let Some(mut mapping) = mapping.filter(|_| !matches!(place, Place::New)) else {
            return Some(self.anchor(packet, self.earliest(now), now));
        };
        let timestamp = packet.timestamp.wrapping_add(mapping.timestamp_offset);
        let lag = i64::from(timestamp_delta(self.timestamp_at(now), timestamp));
        if matches!(place, Place::Older) {
            // A late packet that claims a later time than its successors is no late packet.
            let plausible =
                mapping.audio.is_none_or(|(newest, _)| timestamp_delta(packet.timestamp, newest) <= 0);
            return (plausible && lag <= MAX_LAG).then(|| self.insert(mapping, &packet, timestamp));
        }
        if mapping.is_jump(&packet, lag, now) {
            return Some(self.anchor(packet, self.earliest(now), now));
        }
        mapping.newest = packet.sequence;
        mapping.audio = Some((packet.timestamp, now));
        Some(self.keep(mapping, &packet, timestamp))
    }

    /// The instant, in our timeline, at which the key of an event went down, judged by its first packet. All
    /// packets of one event carry the same (RFC 4733 §2.2), so [`crate::dtmf::EventRelay`] keeps it for the
    /// others.
    #[must_use]
    pub fn event_timestamp(&self, packet: &Incoming, now: MediaTime) -> u32 {
        let mapped = self.relayed.as_ref().filter(|mapping| mapping.ssrc == packet.ssrc);
        match mapped.filter(|mapping| mapping.is_plausible_event(packet, now)) {
            Some(mapping) => packet.timestamp.wrapping_add(mapping.timestamp_offset),
            None => self.later_end(self.timestamp_at(now).wrapping_sub(packet.duration)),
        }
    }

    /// The place of a relayed telephone-event packet whose timestamp is to be `timestamp`, with the packet's
    /// own marker; `None` as for audio.
    pub fn relay_event(&mut self, packet: Incoming, timestamp: u32, now: MediaTime) -> Option<Outgoing> {
        let (place, mapping) = self.place(&packet)?;
        let Some(mut mapping) = mapping.filter(|_| !matches!(place, Place::New)) else {
            let outgoing = self.anchor(packet, timestamp, now);
            if let Some(mapping) = &mut self.relayed {
                mapping.audio = None;
            }
            return Some(outgoing);
        };
        if matches!(place, Place::Older) {
            return Some(self.insert(mapping, &packet, timestamp));
        }
        mapping.newest = packet.sequence;
        Some(self.keep(mapping, &packet, timestamp))
    }

    /// A packet of the far stream is not relayed on purpose: its number is not left out, so it looks like no
    /// loss.
    pub fn skip(&mut self, ssrc: u32, sequence: u16) {
        if let Some(mapping) = self.relayed.as_mut().filter(|mapping| mapping.ssrc == ssrc)
            && sequence_delta(sequence, mapping.newest) == 1
        {
            mapping.newest = sequence;
            mapping.first = sequence.wrapping_add(1);
            mapping.sequence_offset = mapping.sequence_offset.wrapping_sub(1);
        }
    }

    /// True for the packet that was placed last, unless it was a late one.
    #[must_use]
    pub fn is_newest(&self, placed: &Outgoing) -> bool {
        placed.sequence.wrapping_add(1) == self.sequence
    }

    /// The newest relayed packet leaves as so many packets, instead of one: what follows is numbered after them, and
    /// what would have come before them is late.
    pub fn recut(&mut self, packets: u16) {
        self.renumber(packets.wrapping_sub(1));
    }

    /// A packet more, of audio that was placed already; returns its number.
    pub fn another(&mut self) -> u16 {
        let sequence = self.sequence;
        self.renumber(1);
        sequence
    }

    fn renumber(&mut self, by: u16) {
        self.sequence = self.sequence.wrapping_add(by);
        if let Some(mapping) = &mut self.relayed {
            mapping.sequence_offset = mapping.sequence_offset.wrapping_add(by);
            mapping.first = mapping.newest.wrapping_add(1);
        }
    }

    /// Nothing is relayed for a while; what comes after it begins a talk-spurt at its own time.
    pub fn interrupt(&mut self) {
        self.relayed = None;
    }

    /// Classifies a packet by its number. `None`: dropped, and that may have changed the mapping.
    fn place(&mut self, packet: &Incoming) -> Option<(Place, Option<Mapping>)> {
        let Some(mapping) = &mut self.relayed else { return Some((Place::New, None)) };
        match mapping.place(packet) {
            Place::Outside => None,
            place => Some((place, Some(*mapping))),
        }
    }

    /// Begins a mapping at `packet`, whose timestamp becomes `timestamp`.
    fn anchor(&mut self, packet: Incoming, timestamp: u32, now: MediaTime) -> Outgoing {
        let sequence = self.step(timestamp.wrapping_add(packet.duration));
        self.relayed = Some(Mapping {
            ssrc: packet.ssrc,
            sequence_offset: sequence.wrapping_sub(packet.sequence),
            timestamp_offset: timestamp.wrapping_sub(packet.timestamp),
            first: packet.sequence,
            newest: packet.sequence,
            audio: Some((packet.timestamp, now)),
            after_jump: None,
        });
        Outgoing { marker: true, sequence, timestamp }
    }

    /// Takes over the mapping after a packet that is the newest.
    fn keep(&mut self, mut mapping: Mapping, packet: &Incoming, timestamp: u32) -> Outgoing {
        mapping.after_jump = None;
        self.relayed = Some(mapping);
        let outgoing = mapping.outgoing(packet, timestamp);
        self.sequence = outgoing.sequence.wrapping_add(1);
        self.end = Some(self.later_end(timestamp.wrapping_add(packet.duration)));
        outgoing
    }

    /// A late packet takes the place that was left for it.
    fn insert(&mut self, mapping: Mapping, packet: &Incoming, timestamp: u32) -> Outgoing {
        self.end = Some(self.later_end(timestamp.wrapping_add(packet.duration)));
        mapping.outgoing(packet, timestamp)
    }

    /// Takes the next number and moves the end of the stream to `end`.
    fn step(&mut self, end: u32) -> u16 {
        let sequence = self.sequence;
        self.sequence = sequence.wrapping_add(1);
        self.end = Some(self.later_end(end));
        sequence
    }

    /// Our clock, but never before the end of what was sent.
    fn earliest(&self, now: MediaTime) -> u32 {
        self.later_end(self.timestamp_at(now))
    }

    fn later_end(&self, timestamp: u32) -> u32 {
        self.end.filter(|end| timestamp_delta(*end, timestamp) > 0).unwrap_or(timestamp)
    }
}

impl Mapping {
    fn place(&mut self, packet: &Incoming) -> Place {
        if packet.ssrc != self.ssrc {
            return Place::New;
        }
        match sequence_delta(packet.sequence, self.newest) {
            1..MAX_DROPOUT => Place::Newer,
            // Before the anchor our numbers belong to what was sent before it.
            LATEST..=0 if sequence_delta(packet.sequence, self.first) >= 0 => Place::Older,
            LATEST..=0 => Place::Outside,
            // RFC 3550 A.1: a far number alone is a stray; with its successor it is a sender's new start.
            _ if self.after_jump == Some(packet.sequence) => Place::New,
            _ => {
                self.after_jump = Some(packet.sequence.wrapping_add(1));
                Place::Outside
            }
        }
    }

    fn is_jump(&self, packet: &Incoming, lag: i64, now: MediaTime) -> bool {
        let Some((newest, at)) = self.audio else { return lag.abs() > MAX_LEAP };
        let step = i64::from(timestamp_delta(packet.timestamp, newest));
        let elapsed = i64::try_from(now.since(at)).unwrap_or(i64::MAX);
        step <= 0 || (step > elapsed.saturating_add(MAX_LEAP) && lag < -MAX_LEAP) || lag > MAX_LAG
    }

    /// An event begins about where the audio is, unless its sender numbers events on a line of their own.
    fn is_plausible_event(&self, packet: &Incoming, now: MediaTime) -> bool {
        let Some((newest, at)) = self.audio else { return true };
        let up = packet.timestamp.wrapping_add(packet.duration);
        let step = i64::from(timestamp_delta(up, newest));
        let elapsed = i64::try_from(now.since(at)).unwrap_or(i64::MAX);
        step >= -MAX_LEAP && step <= elapsed.saturating_add(MAX_LEAP)
    }

    fn outgoing(&self, packet: &Incoming, timestamp: u32) -> Outgoing {
        let sequence = packet.sequence.wrapping_add(self.sequence_offset);
        Outgoing { marker: packet.marker, sequence, timestamp }
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "a test takes its one starting instant from the system")]
mod tests {
    use super::*;
    use crate::dtmf::{EventRelay, TelephoneEvent};
    use crate::rtp::Header;
    use proptest::prelude::*;
    use std::sync::OnceLock;
    use std::time::{Duration, Instant};

    const FRAME: u32 = 160;
    static START: OnceLock<Instant> = OnceLock::new();

    fn at(ms: u64) -> MediaTime {
        MediaTime::from_samples(milliseconds(ms))
    }

    fn stream() -> OutStream {
        OutStream::new(77, 1000, 5_000_000)
    }

    fn audio(sequence: u16, timestamp: u32) -> Incoming {
        Incoming { ssrc: 1, sequence, timestamp, marker: false, duration: FRAME }
    }

    /// Relays 20 ms packets with these far numbers, each at its own time.
    fn relay(stream: &mut OutStream, numbers: &[u16], start_ms: u64) -> Vec<Option<(u16, u32, bool)>> {
        let first = numbers[0];
        numbers
            .iter()
            .map(|&number| {
                let index = number.wrapping_sub(first);
                let packet = audio(number, 9_000 + u32::from(index) * FRAME);
                let out = stream.relay(packet, at(start_ms + 20 * u64::from(index)));
                out.map(|out| (out.sequence, out.timestamp, out.marker))
            })
            .collect()
    }

    #[test]
    fn a_prompt_and_the_bridge_are_one_stream() {
        let mut stream = stream();
        for frame in 0..3u16 {
            let out = stream.originate(FRAME, false, at(100 + 20 * u64::from(frame)));
            let expected = 5_000_000 + 800 + u32::from(frame) * FRAME;
            assert_eq!((out.sequence, out.timestamp, out.marker), (1000 + frame, expected, frame == 0));
        }
        // The bridge begins while the last prompt frame still plays: audio follows it without overlap.
        assert_eq!(
            relay(&mut stream, &[7, 8], 150),
            [Some((1003, 5_001_280, true)), Some((1004, 5_001_440, false))]
        );
        let prompt = stream.originate(FRAME, true, at(1150));
        assert_eq!(
            (prompt.sequence, prompt.timestamp, prompt.marker),
            (1005, 5_000_000 + 9200, true),
            "a pause is a gap"
        );
    }

    #[test]
    fn losses_and_reordering_stay_what_they_are() {
        let numbers: Vec<_> = relay(&mut stream(), &[65_534, 65_535, 1, 0, 2], 0)
            .into_iter()
            .map(|out| out.unwrap().0)
            .collect();
        assert_eq!(numbers, [1000, 1001, 1003, 1002, 1004]);
    }

    #[test]
    fn numbers_from_before_the_anchor_are_dropped() {
        let mut stream = stream();
        assert!(stream.relay(audio(10, 1600), at(0)).is_some());
        assert_eq!(stream.relay(audio(9, 1440), at(1)), None, "its number was a prompt's");
    }

    #[test]
    fn rfc3550_a1_a_stray_is_dropped_and_a_restart_is_followed() {
        let mut stream = stream();
        assert!(stream.relay(audio(10, 1600), at(0)).is_some());
        assert_eq!(stream.relay(audio(30_000, 1), at(20)), None);
        let next = stream.relay(audio(11, 1760), at(20)).unwrap();
        assert_eq!((next.sequence, next.marker), (1001, false), "a stray changes nothing");
        assert_eq!(stream.relay(audio(40_000, 1), at(40)), None);
        let restarted = stream.relay(audio(40_001, 161), at(60)).unwrap();
        assert_eq!((restarted.sequence, restarted.marker), (1002, true));
        assert_eq!(restarted.timestamp, 5_000_000 + 480, "a restart is at its own time");
    }

    #[test]
    fn another_ssrc_goes_on_where_the_first_one_ended() {
        let mut stream = stream();
        assert!(stream.relay(audio(10, 1600), at(0)).is_some());
        let other = Incoming { ssrc: 2, ..audio(50_000, 4_000_000_000) };
        let out = stream.relay(other, at(20)).unwrap();
        assert_eq!((out.sequence, out.timestamp, out.marker), (1001, 5_000_160, true));
    }

    #[test]
    fn timestamps_follow_a_pause_but_neither_a_leap_nor_a_step_back() {
        let table = [
            ("silence suppression: the far clock ran on", 1600 + 80_000, 10_000, 5_080_000, false),
            ("the far clock stopped for 10 s", 1760, 10_000, 5_080_000, true),
            ("a leap of an hour", 1600 + 28_800_000, 20, 5_000_160, true),
            ("a step back", 100, 20, 5_000_160, true),
            ("a repeated timestamp", 1600, 20, 5_000_160, true),
            ("late by half a second", 1760, 520, 5_000_160, false),
        ];
        for (fact, timestamp, ms, expected, marker) in table {
            let mut stream = stream();
            assert!(stream.relay(audio(10, 1600), at(0)).is_some());
            let out = stream.relay(audio(11, timestamp), at(ms)).unwrap();
            assert_eq!((out.sequence, out.timestamp, out.marker), (1001, expected, marker), "{fact}");
        }
    }

    /// Relays an event packet as the engine does.
    fn key(stream: &mut OutStream, relay: &mut EventRelay, packet: Incoming, ms: u64) -> Option<Outgoing> {
        let Incoming { ssrc, sequence, timestamp, marker, duration } = packet;
        let header = Header { marker, payload_type: 101, sequence, timestamp, ssrc };
        let event = TelephoneEvent { event: 5, end: false, volume: 10, duration: duration as u16 };
        let mapped = stream.event_timestamp(&packet, at(ms));
        let arrival = *START.get_or_init(Instant::now) + Duration::from_millis(ms);
        let told = relay.relay(&header, &event.encode(), arrival, mapped)?;
        stream.relay_event(packet, told.timestamp, at(ms))
    }

    #[test]
    fn rfc4733_2_2_all_packets_of_an_event_carry_the_instant_of_the_key() {
        let (mut stream, mut relay) = (stream(), EventRelay::new(8000, 8000));
        assert!(stream.relay(audio(10, 1600), at(0)).is_some());
        let event = |sequence, timestamp, duration| Incoming { duration, ..audio(sequence, timestamp) };
        for (index, duration) in [160, 320, 480, 480, 480].into_iter().enumerate() {
            let sequence = 11 + index as u16;
            let out = key(&mut stream, &mut relay, event(sequence, 1760, duration), 20 + 20 * index as u64)
                .unwrap();
            assert_eq!((out.sequence, out.timestamp), (1001 + index as u16, 5_000_160));
        }
        let after = stream.relay(audio(16, 1760 + 480), at(120)).unwrap();
        assert_eq!((after.timestamp, after.marker), (5_000_640, false), "audio goes on after the event");
    }

    #[test]
    fn an_event_on_a_timeline_of_its_own_is_put_where_the_key_went_down() {
        let (mut stream, mut relay) = (stream(), EventRelay::new(8000, 8000));
        assert!(stream.relay(audio(10, 1600), at(0)).is_some());
        let first =
            key(&mut stream, &mut relay, Incoming { duration: 160, ..audio(11, 3_000_000) }, 40).unwrap();
        assert_eq!(first.timestamp, 5_000_160, "40 ms after the start it had lasted 20 ms");
        let second =
            key(&mut stream, &mut relay, Incoming { duration: 320, ..audio(12, 3_000_000) }, 60).unwrap();
        assert_eq!(second.timestamp, first.timestamp);
        let after = stream.relay(audio(13, 1600 + 640), at(80)).unwrap();
        assert_eq!((after.timestamp, after.marker), (5_000_640, false), "the audio keeps its own offset");
    }

    #[test]
    fn an_event_may_be_the_first_that_is_relayed() {
        let (mut stream, mut relay) = (stream(), EventRelay::new(8000, 8000));
        let event = |sequence, duration| Incoming { duration, ..audio(sequence, 800) };
        let first = key(&mut stream, &mut relay, event(5, 320), 100).unwrap();
        assert_eq!((first.sequence, first.timestamp, first.marker), (1000, 5_000_000 + 480, true));
        assert_eq!(key(&mut stream, &mut relay, event(6, 480), 120).unwrap().timestamp, first.timestamp);
        assert_eq!(stream.relay(audio(7, 1280), at(140)).unwrap().timestamp, 5_000_000 + 960);
    }

    #[test]
    fn what_is_left_out_on_purpose_is_no_loss() {
        let mut stream = stream();
        assert!(stream.relay(audio(10, 1600), at(0)).is_some());
        stream.skip(1, 11);
        stream.skip(1, 12);
        assert_eq!(stream.relay(audio(13, 2080), at(60)).unwrap().sequence, 1001);
        assert_eq!(stream.relay(audio(9, 1440), at(61)), None, "older numbers would meet used ones");
    }

    #[derive(Debug, Clone)]
    enum Step {
        Prompt { begins: bool },
        Audio { ssrc: u32, sequence: u16, timestamp: u32 },
        Event { sequence: u16, timestamp: u32, duration: u16 },
        Interrupt,
        Skip { sequence: u16 },
    }

    fn step() -> impl Strategy<Value = Step> {
        let number = prop_oneof![0u16..300, any::<u16>()];
        let time = prop_oneof![0u32..50_000, any::<u32>()];
        prop_oneof![
            any::<bool>().prop_map(|begins| Step::Prompt { begins }),
            (0u32..2, number.clone(), time.clone()).prop_map(|(ssrc, sequence, timestamp)| Step::Audio {
                ssrc,
                sequence,
                timestamp
            }),
            (number.clone(), time, any::<u16>()).prop_map(|(sequence, timestamp, duration)| Step::Event {
                sequence,
                timestamp,
                duration
            }),
            Just(Step::Interrupt),
            number.prop_map(|sequence| Step::Skip { sequence }),
        ]
    }

    proptest! {
        /// Whatever arrives in whatever order, the newest number that we sent never falls back by more than a
        /// late packet may, and our own frames follow it without a step back.
        #[test]
        fn the_stream_never_runs_backwards(steps in prop::collection::vec((step(), 0u64..100), 1..200)) {
            let mut stream = stream();
            let mut now = 0;
            let (mut newest, mut end): (Option<u16>, Option<u32>) = (None, None);
            for (step, wait) in steps {
                now += wait;
                let now = at(now);
                let (out, duration, own) = match step {
                    Step::Prompt { begins } => (Some(stream.originate(FRAME, begins, now)), FRAME, true),
                    Step::Audio { ssrc, sequence, timestamp } => {
                        let packet = Incoming { ssrc, ..audio(sequence, timestamp) };
                        (stream.relay(packet, now), FRAME, false)
                    }
                    Step::Event { sequence, timestamp, duration } => {
                        let packet = Incoming { duration: duration.into(), ..audio(sequence, timestamp) };
                        let mapped = stream.event_timestamp(&packet, now);
                        (stream.relay_event(packet, mapped, now), duration.into(), false)
                    }
                    Step::Interrupt => { stream.interrupt(); (None, 0, false) }
                    Step::Skip { sequence } => { stream.skip(1, sequence); (None, 0, false) }
                };
                let Some(out) = out else { continue };
                if let Some(newest) = newest {
                    let ahead = sequence_delta(out.sequence, newest);
                    prop_assert!((LATEST..MAX_DROPOUT).contains(&ahead), "{ahead}");
                    prop_assert!(!own || ahead == 1, "our own frames leave no hole");
                }
                if own && let Some(end) = end {
                    prop_assert!(timestamp_delta(out.timestamp, end) >= 0);
                }
                let later = newest.filter(|newest| sequence_delta(out.sequence, *newest) <= 0);
                newest = Some(later.unwrap_or(out.sequence));
                let this = out.timestamp.wrapping_add(duration);
                end = Some(end.filter(|end| timestamp_delta(this, *end) <= 0).unwrap_or(this));
            }
        }

        /// An orderly stream with losses is shifted and nothing else, wherever it begins.
        #[test]
        fn an_orderly_stream_is_shifted_by_constants(
            (first, base, ssrc) in any::<(u16, u32, u32)>(),
            lost in prop::collection::vec(any::<bool>(), 1..300),
        ) {
            let mut stream = stream();
            let mut offsets = None;
            for (index, lost) in lost.into_iter().enumerate().skip_while(|(_, lost)| *lost) {
                if lost { continue }
                let sequence = first.wrapping_add(index as u16);
                let timestamp = base.wrapping_add(index as u32 * FRAME);
                let packet = Incoming { ssrc, ..audio(sequence, timestamp) };
                let out = stream.relay(packet, at(20 * index as u64)).unwrap();
                let these = (out.sequence.wrapping_sub(sequence), out.timestamp.wrapping_sub(timestamp));
                prop_assert_eq!(*offsets.get_or_insert(these), these);
            }
        }
    }
}
