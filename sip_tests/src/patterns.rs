//! The ways in which the digits of a telephone keypad arrive (RFC 4733): twelve of them, from clean to ugly.
//!
//! A schedule lists packets in order of arrival. Sequence numbers and timestamps are those of the undisturbed
//! stream, so that loss, repetition and reordering look as they do after a bad network.

use std::time::Duration;

use media::Digit;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::rtp::TelephoneEvent;

/// How digits arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Pattern {
    /// As the RFC shows it: marker, growing duration, three end packets.
    Clean,
    /// The first packet of each digit, with the marker, is lost.
    FirstLost,
    /// Of the three end packets one arrives.
    EndsButOneLost,
    /// Of each digit a single end packet arrives.
    EndOnly,
    /// No packet has the marker bit.
    NoMarker,
    /// The network delivers every packet twice.
    Doubled,
    /// Every packet is delayed by 0–60 ms of its own.
    Shuffled,
    /// Telephone-events come 200 ms late, while the audio around them comes in time.
    Late,
    /// Each key is held for two seconds.
    Held,
    /// Keys of 40 ms, 40 ms apart.
    Short,
    /// An audio packet between any two event packets.
    Interleaved,
    /// Clean digits, typed before the prompt is over: whoever sends it must not wait for the prompt.
    TypedAhead,
}

impl Pattern {
    /// All twelve.
    pub const ALL: [Self; 12] = [
        Self::Clean,
        Self::FirstLost,
        Self::EndsButOneLost,
        Self::EndOnly,
        Self::NoMarker,
        Self::Doubled,
        Self::Shuffled,
        Self::Late,
        Self::Held,
        Self::Short,
        Self::Interleaved,
        Self::TypedAhead,
    ];

    /// False for [`Pattern::TypedAhead`].
    #[must_use]
    pub fn waits_for_prompt(self) -> bool {
        self != Self::TypedAhead
    }
}

/// What a packet carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// One key at one instant.
    Event(TelephoneEvent),
    /// 20 ms of what the phone's microphone hears.
    Audio,
}

/// A packet of a schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scheduled {
    /// When it leaves the phone, counted from the beginning of the schedule.
    pub at: Duration,
    /// Counted from the first packet of the schedule.
    pub sequence: u16,
    /// Samples counted from the beginning of the schedule.
    pub timestamp: u32,
    /// Marker bit.
    pub marker: bool,
    /// What it carries.
    pub content: Content,
}

/// Packets in order of departure, and what they take up of the stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule {
    /// In order of departure.
    pub packets: Vec<Scheduled>,
    /// How many sequence numbers were used, lost packets included.
    pub sequences: u16,
    /// How long the stream is occupied; a multiple of 20 ms.
    pub length: Duration,
}

const STEP: u32 = 20;

/// The schedule of `digits` typed in `pattern`.
#[must_use]
pub fn schedule(digits: &[Digit], pattern: Pattern, seed: u64) -> Schedule {
    let (key_ms, gap_ms) = match pattern {
        Pattern::Held => (2000, 100),
        Pattern::Short => (40, 40),
        _ => (100, 100),
    };
    let mut builder = Builder { packets: vec![], sequence: 0 };
    let mut begin_ms = 0;
    for digit in digits {
        builder.key(*digit, begin_ms, key_ms, pattern);
        begin_ms += key_ms;
        for ms in (begin_ms..begin_ms + gap_ms).step_by(STEP as usize) {
            builder.push(ms, ms * 8, false, Content::Audio);
        }
        begin_ms += gap_ms;
    }
    let mut random = StdRng::seed_from_u64(seed);
    let mut packets = builder.packets;
    match pattern {
        Pattern::Doubled => packets = packets.iter().flat_map(|packet| [*packet, *packet]).collect(),
        Pattern::Shuffled => {
            for packet in &mut packets {
                packet.at += Duration::from_millis(random.random_range(0..=60));
            }
        }
        Pattern::Late => {
            for packet in packets.iter_mut().filter(|p| matches!(p.content, Content::Event(_))) {
                packet.at += Duration::from_millis(200);
            }
        }
        _ => {}
    }
    packets.sort_by_key(|packet| packet.at);
    Schedule { packets, sequences: builder.sequence, length: Duration::from_millis(u64::from(begin_ms)) }
}

struct Builder {
    packets: Vec<Scheduled>,
    sequence: u16,
}

impl Builder {
    fn push(&mut self, at_ms: u32, timestamp: u32, marker: bool, content: Content) {
        let at = Duration::from_millis(u64::from(at_ms));
        self.packets.push(Scheduled { at, sequence: self.sequence, timestamp, marker, content });
        self.sequence = self.sequence.wrapping_add(1);
    }

    fn lose(&mut self) {
        self.sequence = self.sequence.wrapping_add(1);
    }

    fn key(&mut self, digit: Digit, begin_ms: u32, key_ms: u32, pattern: Pattern) {
        let packet = |duration_ms: u32, end| {
            let duration = u16::try_from(duration_ms * 8).unwrap_or(u16::MAX);
            Content::Event(TelephoneEvent { event: digit.event(), end, volume: 10, duration })
        };
        // The packet sent at t covers the time up to t + 20 ms, like an audio packet would.
        for ms in (0..key_ms - STEP).step_by(STEP as usize) {
            let first = ms == 0;
            if pattern == Pattern::EndOnly || (pattern == Pattern::FirstLost && first) {
                self.lose();
            } else {
                let marker = first && pattern != Pattern::NoMarker;
                self.push(begin_ms + ms, begin_ms * 8, marker, packet(ms + STEP, false));
            }
            if pattern == Pattern::Interleaved {
                self.push(begin_ms + ms + STEP / 2, (begin_ms + ms) * 8, false, Content::Audio);
            }
        }
        for repeat in 0..3 {
            let kept = match pattern {
                Pattern::EndsButOneLost => repeat == 1,
                Pattern::EndOnly => repeat == 2,
                _ => true,
            };
            if kept {
                self.push(begin_ms + key_ms - STEP, begin_ms * 8, false, packet(key_ms, true));
            } else {
                self.lose();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digits(keys: &str) -> Vec<Digit> {
        keys.chars().filter_map(Digit::from_char).collect()
    }

    fn events(pattern: Pattern) -> Vec<(Scheduled, TelephoneEvent)> {
        let made = schedule(&digits("42"), pattern, 7).packets;
        made.into_iter()
            .filter_map(|p| if let Content::Event(e) = p.content { Some((p, e)) } else { None })
            .collect()
    }

    #[test]
    fn each_pattern_keeps_its_promise() {
        let clean = events(Pattern::Clean);
        assert_eq!(clean.len(), 2 * (4 + 3));
        assert_eq!(clean.iter().filter(|(p, _)| p.marker).count(), 2);
        assert_eq!(clean.iter().filter(|(_, e)| e.end && e.duration == 800).count(), 6);
        assert_eq!(
            clean
                .iter()
                .map(|(p, e)| (p.timestamp, e.event))
                .collect::<std::collections::BTreeSet<_>>()
                .len(),
            2
        );

        assert!(events(Pattern::FirstLost).iter().all(|(p, _)| !p.marker && p.sequence != 0));
        assert_eq!(events(Pattern::EndsButOneLost).iter().filter(|(_, e)| e.end).count(), 2);
        assert!(events(Pattern::EndOnly).iter().all(|(_, e)| e.end) && events(Pattern::EndOnly).len() == 2);
        assert!(
            events(Pattern::NoMarker).iter().all(|(p, _)| !p.marker) && events(Pattern::NoMarker).len() == 14
        );
        assert!(
            events(Pattern::Doubled).chunks(2).all(|pair| pair[0] == pair[1])
                && events(Pattern::Doubled).len() == 28
        );
        let shuffled = events(Pattern::Shuffled);
        assert!(shuffled.windows(2).any(|w| w[0].0.sequence > w[1].0.sequence) && shuffled.len() == 14);
        assert!(events(Pattern::Held).iter().any(|(_, e)| e.end && e.duration == 16000));
        let short = events(Pattern::Short);
        assert_eq!((short.len(), short[4].0.timestamp - short[0].0.timestamp), (8, 640));
        assert_eq!(events(Pattern::TypedAhead), clean);
    }

    #[test]
    fn late_events_overlap_audio_that_came_in_time() {
        let made = schedule(&digits("4"), Pattern::Late, 1);
        let first_event = made.packets.iter().position(|p| matches!(p.content, Content::Event(_))).unwrap();
        assert_eq!(made.packets[first_event].at, Duration::from_millis(200));
        assert!(made.packets[..first_event].iter().all(|p| p.sequence > made.packets[first_event].sequence));
    }

    #[test]
    fn interleaved_audio_stands_between_any_two_updates() {
        let made = schedule(&digits("4"), Pattern::Interleaved, 1);
        let updates =
            made.packets.iter().take(8).map(|p| matches!(p.content, Content::Audio)).collect::<Vec<_>>();
        assert_eq!(updates, [false, true, false, true, false, true, false, true]);
    }

    #[test]
    fn every_sequence_number_of_a_clean_stream_is_used_once_and_packets_leave_in_order() {
        for pattern in Pattern::ALL {
            let made = schedule(&digits("159#"), pattern, 3);
            assert!(made.packets.windows(2).all(|w| w[0].at <= w[1].at), "{pattern:?}");
            assert!(made.packets.iter().all(|p| p.sequence < made.sequences), "{pattern:?}");
            assert_eq!(made.length.as_millis() % 20, 0);
        }
        let clean = schedule(&digits("159#"), Pattern::Clean, 3);
        assert!(clean.packets.iter().zip(0..).all(|(p, n)| p.sequence == n));
    }
}
