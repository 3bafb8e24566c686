//! Where a received packet belongs in a recording: order, gaps and silence.
//!
//! A recording's timeline is wall time, sample 0 is the instant of the record command. A leg's first packet
//! is put where it arrived; the RTP timestamps (RFC 3550 §5.1) place all that follow it, so that jitter, loss
//! and reordering do not move what was said. Another SSRC, a jump of the timestamps, or a sender's clock that
//! has drifted away from ours puts the anchor anew. Relayed audio never waits here: it passes at once.
//!
//! ```text
//!   written │←──────── held back for late packets ────────→│ now │←─ early ─→│
//! ```
//!
//! Pure: arrival is an argument, and the audio that is old enough goes to a sink.

use crate::rtp::{sequence_delta, timestamp_delta};
use crate::time::milliseconds;

/// Audio is written so long after it was said; what comes later than this is lost to the recording.
pub const WINDOW: u64 = milliseconds(600);
/// A packet may be placed so far ahead of its arrival, when the first packet came late.
const EARLY: i64 = milliseconds(300) as i64;
/// Longer stretches than the window between two emissions are emitted on the way. At 8000 Hz.
const CAPACITY: usize = milliseconds(1600) as usize;
/// A clock that differs by this much ...
const DRIFT: i64 = milliseconds(150) as i64;
/// ... for so long has drifted.
const DRIFT_LASTS: i64 = milliseconds(1000) as i64;
/// In-order packets that are too late for so long are not a stall being made up, but a clock that had
/// stopped.
const STALL_LASTS: i64 = milliseconds(200) as i64;
/// No stall is so long.
const STALL_LATEST: i64 = milliseconds(3000) as i64;
/// Packets further behind the newest are a new start (RFC 3550 A.1).
const MAX_MISORDER: i16 = 100;
/// As many gaps are listed one by one; the last one then stands for all that follows.
const MAX_GAPS: usize = 4096;
/// Stands for "nothing here yet" in the ring. No G.711 code decodes to it; [`Timeline::insert`] avoids it for others.
const EMPTY: i16 = i16::MIN;

/// What placement must know of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrived {
    /// Samples from the start of the recording to the packet's arrival.
    pub arrival: u64,
    /// As received.
    pub ssrc: u32,
    /// As received.
    pub sequence: u16,
    /// As received.
    pub timestamp: u32,
    /// As received.
    pub marker: bool,
    /// Samples in it.
    pub duration: u32,
}

/// Decides where packets belong.
#[derive(Debug, Default)]
pub struct Placement {
    anchor: Option<Anchor>,
}

/// One packet whose place is known, and what was seen since.
#[derive(Debug)]
struct Anchor {
    ssrc: u32,
    /// The newest packet in order: its timestamp stands for `position`.
    timestamp: u32,
    position: i64,
    sequence: u16,
    duration: u32,
    drifts_since: Option<i64>,
    late_since: Option<i64>,
}

impl Placement {
    /// Where the packet's first sample belongs, in samples from the start of the recording, negative when it
    /// was said before; `None` when the packet comes too late.
    pub fn place(&mut self, packet: &Arrived) -> Option<i64> {
        let arrival = i64::try_from(packet.arrival).unwrap_or(i64::MAX);
        let Some(anchor) = self.anchor.as_mut().filter(|anchor| anchor.ssrc == packet.ssrc) else {
            return Some(self.anchor_at(packet, arrival));
        };
        let position = anchor.position_of(packet.timestamp);
        let late = arrival.saturating_sub(position);
        let timely = (-EARLY..=WINDOW as i64).contains(&late);
        let ahead = sequence_delta(packet.sequence, anchor.sequence);
        if ahead <= 0 {
            if ahead < -MAX_MISORDER && !timely {
                return Some(self.anchor_at(packet, arrival));
            }
            return timely.then_some(position);
        }
        if !timely && !anchor.is_stall(packet, ahead, late, arrival) {
            return Some(self.anchor_at(packet, arrival));
        }
        anchor.drifts_since = (late.abs() > DRIFT).then_some(anchor.drifts_since.unwrap_or(arrival));
        if timely && anchor.drifts_since.is_some_and(|since| arrival - since >= DRIFT_LASTS) {
            return Some(self.anchor_at(packet, arrival));
        }
        anchor.late_since = (!timely).then_some(anchor.late_since.unwrap_or(arrival));
        (anchor.timestamp, anchor.position) = (packet.timestamp, position);
        (anchor.sequence, anchor.duration) = (packet.sequence, packet.duration);
        timely.then_some(position)
    }

    /// Where a telephone-event's first sample belongs. Events never move the anchor.
    #[must_use]
    pub fn place_event(&self, packet: &Arrived) -> i64 {
        let arrival = i64::try_from(packet.arrival).unwrap_or(i64::MAX);
        let down = arrival.saturating_sub(i64::from(packet.duration));
        let by_timestamp = self.anchor.as_ref().filter(|anchor| anchor.ssrc == packet.ssrc);
        by_timestamp
            .map(|anchor| anchor.position_of(packet.timestamp))
            .filter(|position| position.abs_diff(down) <= WINDOW)
            .unwrap_or(down)
    }

    fn anchor_at(&mut self, packet: &Arrived, arrival: i64) -> i64 {
        self.anchor = Some(Anchor {
            ssrc: packet.ssrc,
            timestamp: packet.timestamp,
            position: arrival,
            sequence: packet.sequence,
            duration: packet.duration,
            drifts_since: None,
            late_since: None,
        });
        arrival
    }
}

impl Anchor {
    fn position_of(&self, timestamp: u32) -> i64 {
        self.position.saturating_add(i64::from(timestamp_delta(timestamp, self.timestamp)))
    }

    /// True while packets that come too late look like a network's backlog: it ends soon, and then the
    /// timestamps are right again. A jump of the timestamps, or a talk-spurt after a pause, is none.
    fn is_stall(&self, packet: &Arrived, ahead: i16, late: i64, arrival: i64) -> bool {
        let steps = u32::from(ahead.unsigned_abs());
        let continuous = timestamp_delta(packet.timestamp, self.timestamp)
            == self.duration.wrapping_mul(steps).cast_signed();
        let lasts = self.late_since.map_or(0, |since| arrival - since);
        continuous && !packet.marker && (0..=STALL_LATEST).contains(&late) && lasts < STALL_LASTS
    }
}

/// One leg's audio between its arrival and its writing, in samples of the file.
#[derive(Debug)]
pub struct Timeline {
    /// Sample `position` lies at `position` modulo the length.
    ring: Box<[i16]>,
    /// All before it has been emitted.
    base: u64,
    gaps: Vec<(u64, u64)>,
}

impl Default for Timeline {
    fn default() -> Self {
        Self::new(1)
    }
}

impl Timeline {
    /// For files with `scale` times 8000 samples per second.
    #[must_use]
    pub fn new(scale: usize) -> Self {
        Self { ring: vec![EMPTY; CAPACITY.saturating_mul(scale.max(1))].into(), base: 0, gaps: Vec::new() }
    }

    /// Samples emitted so far.
    #[must_use]
    pub fn emitted(&self) -> u64 {
        self.base
    }

    /// Where nothing was when it was emitted: first sample and number of samples.
    #[must_use]
    pub fn into_gaps(self) -> Vec<(u64, u64)> {
        self.gaps
    }

    /// Puts audio in its place. The first to come stays: a repeated packet changes nothing. What lies before
    /// the audio already emitted, or too far ahead, is cut off.
    pub fn insert(&mut self, position: i64, samples: &[i16]) {
        self.pieces(position, samples.len(), |piece, offset| {
            for (slot, sample) in piece.iter_mut().zip(samples.get(offset..).unwrap_or_default()) {
                if *slot == EMPTY {
                    *slot = (*sample).max(EMPTY + 1);
                }
            }
        });
    }

    /// Puts silence in place of whatever was or will be said there.
    pub fn mute(&mut self, position: i64, samples: usize) {
        self.pieces(position, samples, |piece, _| piece.fill(0));
    }

    /// Visits `count` samples from `position` on, as far as the ring holds them, in contiguous pieces; the
    /// second argument counts from `position`.
    fn pieces(&mut self, position: i64, count: usize, mut visit: impl FnMut(&mut [i16], usize)) {
        let capacity = self.ring.len();
        let limit = self.base.saturating_add(capacity as u64);
        let end = position.saturating_add(i64::try_from(count).unwrap_or(i64::MAX));
        let end = u64::try_from(end).unwrap_or(0).min(limit);
        let mut at = u64::try_from(position).unwrap_or(0).max(self.base);
        while at < end {
            let from = (at % capacity as u64) as usize;
            let length = (capacity - from).min((end - at) as usize);
            let offset = i64::try_from(at).unwrap_or(i64::MAX).saturating_sub(position);
            let Some(piece) = self.ring.get_mut(from..from + length) else { return };
            visit(piece, usize::try_from(offset).unwrap_or(usize::MAX));
            at += length as u64;
        }
    }

    /// Emits all up to `until`, in order and without a hole.
    ///
    /// # Errors
    /// Whatever the sink says; audio that it refused is not emitted again.
    pub fn emit<E>(&mut self, until: u64, mut sink: impl FnMut(&[i16]) -> Result<(), E>) -> Result<(), E> {
        let mut outcome = Ok(());
        let capacity = self.ring.len();
        while self.base < until {
            let from = (self.base % capacity as u64) as usize;
            let wanted = usize::try_from(until - self.base).unwrap_or(capacity);
            let to = capacity.min(from.saturating_add(wanted));
            let base = self.base;
            self.base += (to - from) as u64;
            let Some(piece) = self.ring.get_mut(from..to) else { break };
            list_gaps(&mut self.gaps, base, piece);
            if outcome.is_ok() {
                outcome = sink(piece);
            }
            piece.fill(EMPTY);
        }
        outcome
    }
}

/// Turns what is empty into silence and lists it.
fn list_gaps(gaps: &mut Vec<(u64, u64)>, base: u64, piece: &mut [i16]) {
    if !piece.contains(&EMPTY) {
        return;
    }
    for (at, sample) in (base..).zip(piece).filter(|(_, sample)| **sample == EMPTY) {
        *sample = 0;
        let full = gaps.len() >= MAX_GAPS;
        match gaps.last_mut() {
            Some((start, length)) if *start + *length == at || full => *length = at + 1 - *start,
            _ => gaps.push((at, 1)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const FRAME: usize = 160;

    /// The audio of frame `number`: no two frames are alike.
    fn frame(number: usize) -> Vec<i16> {
        (0..FRAME).map(|index| (number * FRAME + index) as i16 & 0x3fff | 1).collect()
    }

    fn packet(number: usize, arrival_ms: u64) -> Arrived {
        Arrived {
            arrival: milliseconds(arrival_ms),
            ssrc: 9,
            sequence: (65_530 + number) as u16,
            timestamp: 0xffff_ff00u32.wrapping_add((number * FRAME) as u32),
            marker: number == 0,
            duration: FRAME as u32,
        }
    }

    struct Leg {
        placement: Placement,
        timeline: Timeline,
        file: Vec<i16>,
    }

    impl Leg {
        fn new() -> Self {
            Self { placement: Placement::default(), timeline: Timeline::default(), file: vec![] }
        }
        fn emit(&mut self, until: u64) {
            self.timeline
                .emit(until, |piece| {
                    self.file.extend_from_slice(piece);
                    Ok::<(), ()>(())
                })
                .unwrap();
        }
        fn take(&mut self, packet: &Arrived, samples: &[i16]) {
            self.emit(packet.arrival.saturating_sub(WINDOW));
            if let Some(position) = self.placement.place(packet) {
                self.timeline.insert(position, samples);
            }
        }
        /// The file at `ms` and its gaps in milliseconds.
        fn finish(mut self, ms: u64) -> (Vec<i16>, Vec<(u64, u64)>) {
            self.emit(milliseconds(ms));
            let gaps = self.timeline.into_gaps();
            (self.file, gaps.into_iter().map(|(start, length)| (start / 8, length / 8)).collect())
        }
    }

    /// The file that should come of frames placed at these milliseconds.
    fn expected(length_ms: u64, frames: &[(usize, u64)]) -> Vec<i16> {
        let mut file = vec![0; milliseconds(length_ms) as usize];
        for &(number, ms) in frames {
            let start = milliseconds(ms) as usize;
            file[start..start + FRAME].copy_from_slice(&frame(number));
        }
        file
    }

    /// Packets arrive as told (number, ms) and must lie in the file as told; gaps in ms.
    fn check(
        fact: &str,
        arrivals: &[(usize, u64)],
        places: &[(usize, u64)],
        gaps: &[(u64, u64)],
        length_ms: u64,
    ) {
        let mut leg = Leg::new();
        for &(number, ms) in arrivals {
            leg.take(&packet(number, ms), &frame(number));
        }
        let (file, found) = leg.finish(length_ms);
        assert_eq!(found, gaps, "{fact}");
        assert!(file == expected(length_ms, places), "{fact}");
    }

    #[test]
    fn the_file_is_sample_exact_whatever_the_network_does() {
        check("in order", &[(0, 0), (1, 20), (2, 40)], &[(0, 0), (1, 20), (2, 40)], &[], 60);
        check("the start is silence", &[(0, 100), (1, 120)], &[(0, 100), (1, 120)], &[(0, 100)], 140);
        check("jitter moves nothing", &[(0, 0), (1, 37), (2, 41)], &[(0, 0), (1, 20), (2, 40)], &[], 60);
        check("a loss is a gap", &[(0, 0), (2, 40)], &[(0, 0), (2, 40)], &[(20, 20)], 60);
        check(
            "reordered",
            &[(0, 0), (2, 20), (1, 300), (3, 301)],
            &[(0, 0), (1, 20), (2, 40), (3, 60)],
            &[],
            80,
        );
        check(
            "repeated",
            &[(0, 0), (1, 20), (1, 21), (0, 22), (2, 40)],
            &[(0, 0), (1, 20), (2, 40)],
            &[],
            60,
        );
        check("the end is silence", &[(0, 0)], &[(0, 0)], &[(20, 80)], 100);
        check("nothing came", &[], &[], &[(0, 100)], 100);
        check(
            "too late is lost",
            &[(0, 0), (2, 40), (40, 800), (1, 801)],
            &[(0, 0), (2, 40), (40, 800)],
            &[(20, 20), (60, 740)],
            820,
        );
        check("cut at the end", &[(0, 0), (1, 20)], &[(0, 0)], &[], 20);
    }

    #[test]
    fn a_backlog_after_a_stall_lies_where_it_was_said() {
        // 400 ms of stall, then all at once: nothing is lost.
        let mut arrivals: Vec<_> = (0..5).map(|n| (n, 20 * n as u64)).collect();
        arrivals.extend((5..25).map(|n| (n, 480)));
        arrivals.extend((25..30).map(|n| (n, 20 * n as u64)));
        let places: Vec<_> = (0..30).map(|n| (n, 20 * n as u64)).collect();
        check("400 ms", &arrivals, &places, &[], 600);

        // 2 s of stall: what is older than the window is lost, the rest lies right.
        let mut arrivals: Vec<_> = (0..5).map(|n| (n, 20 * n as u64)).collect();
        arrivals.extend((5..105).map(|n| (n, 2100)));
        arrivals.extend((105..110).map(|n| (n, 20 * n as u64)));
        let places: Vec<_> = (0..5).chain(75..110).map(|n| (n, 20 * n as u64)).collect();
        check("2 s", &arrivals, &places, &[(100, 1400)], 2200);
    }

    #[test]
    fn another_ssrc_is_put_where_it_arrived() {
        let mut leg = Leg::new();
        leg.take(&packet(0, 0), &frame(0));
        let other = Arrived { ssrc: 10, timestamp: 5, sequence: 5, ..packet(1, 100) };
        leg.take(&other, &frame(1));
        let (file, gaps) = leg.finish(120);
        assert!(file == expected(120, &[(0, 0), (1, 100)]));
        assert_eq!(gaps, [(20, 80)]);
    }

    #[test]
    fn a_jump_of_the_timestamps_is_put_where_it_arrived() {
        for leap in [8_000_000u32, 0u32.wrapping_sub(8_000_000)] {
            let mut leg = Leg::new();
            for number in 0..10 {
                let mut packet = packet(number, 20 * number as u64);
                if number >= 5 {
                    packet.timestamp = packet.timestamp.wrapping_add(leap);
                }
                leg.take(&packet, &frame(number));
            }
            let places: Vec<_> = (0..10).map(|n| (n, 20 * n as u64)).collect();
            assert!(leg.finish(200).0 == expected(200, &places), "leap of {leap}");
        }
    }

    #[test]
    fn a_clock_that_stopped_over_a_pause_is_put_right() {
        let mut leg = Leg::new();
        for number in 0..5 {
            leg.take(&packet(number, 20 * number as u64), &frame(number));
        }
        for number in 5..10 {
            let marker = number == 5;
            leg.take(&Arrived { marker, ..packet(number, 5000 + 20 * number as u64) }, &frame(number));
        }
        let (_, gaps) = leg.finish(5200);
        assert_eq!(gaps, [(100, 5000)]);
    }

    /// A sender whose clock runs 1 % slow or fast for a minute.
    #[test]
    fn a_drifting_clock_stays_within_200_ms() {
        for per_mille in [990u64, 1010] {
            let mut placement = Placement::default();
            for number in 0..3000usize {
                let arrived = Arrived { marker: false, ..packet(number, 0) };
                let arrival = number as u64 * 160 * per_mille / 1000;
                let position = placement.place(&Arrived { arrival, ..arrived }).unwrap();
                assert!(
                    position.abs_diff(arrival as i64) <= milliseconds(200),
                    "{number}: {position} at {arrival}"
                );
            }
        }
    }

    #[test]
    fn a_key_is_silence_whatever_is_said_meanwhile() {
        let mut leg = Leg::new();
        for number in 0..5 {
            leg.take(&packet(number, 20 * number as u64), &frame(number));
            if number == 2 {
                let event = Arrived { duration: 320, timestamp: packet(2, 0).timestamp, ..packet(2, 41) };
                leg.timeline.mute(leg.placement.place_event(&event), 320);
            }
        }
        let (file, gaps) = leg.finish(100);
        assert!(file == expected(100, &[(0, 0), (1, 20), (4, 80)]), "frames 2 and 3 are mute");
        assert_eq!(gaps, [], "a key is no gap");
    }

    #[test]
    fn gaps_are_listed_up_to_a_limit() {
        let mut timeline = Timeline::default();
        for at in 0..20_000 {
            timeline.insert(2 * at, &[1]);
            timeline.emit(2 * at as u64 + 2, |_| Ok::<(), ()>(())).unwrap();
        }
        let gaps = timeline.into_gaps();
        assert_eq!((gaps.len(), gaps[0], gaps[4095]), (MAX_GAPS, (1, 1), (8191, 31_809)));
    }

    proptest! {
        /// No stream, however wild, makes a file of another length or panics; gaps are in order and within
        /// it.
        #[test]
        fn the_file_has_its_length_whatever_arrives(
            packets in prop::collection::vec(
                (any::<u16>(), any::<u32>(), 0u32..2, any::<bool>(), 0u64..3000, 0usize..400),
                0..100,
            ),
        ) {
            let mut leg = Leg::new();
            let mut arrival = 0;
            for (sequence, timestamp, ssrc, marker, wait, length) in packets {
                arrival += wait;
                let arrived = Arrived { arrival, ssrc, sequence, timestamp, marker, duration: length as u32 };
                leg.take(&arrived, &vec![i16::MIN; length]);
                leg.timeline.mute(leg.placement.place_event(&arrived), length);
            }
            leg.emit(arrival);
            prop_assert_eq!(leg.file.len() as u64, arrival);
            prop_assert!(leg.file.iter().all(|sample| *sample != EMPTY));
            let mut end = 0;
            for (start, length) in leg.timeline.into_gaps() {
                prop_assert!(start >= end && length > 0 && start + length <= arrival);
                end = start + length;
            }
        }

        /// Jitter, reordering and repeats within the window leave no trace.
        #[test]
        fn disorder_within_the_window_leaves_no_trace(
            delays in prop::collection::vec((0u64..250, any::<bool>()), 40),
        ) {
            let mut arrivals: Vec<(u64, usize)> = vec![(0, 0)];
            for (number, (delay, twice)) in delays.iter().enumerate().skip(1) {
                arrivals.push((20 * number as u64 + delay, number));
                if *twice { arrivals.push((20 * number as u64 + delay + 3, number)); }
            }
            arrivals.sort_unstable();
            let mut leg = Leg::new();
            for (ms, number) in arrivals {
                leg.take(&packet(number, ms), &frame(number));
            }
            let places: Vec<_> = (0..40).map(|n| (n, 20 * n as u64)).collect();
            let (file, gaps) = leg.finish(800);
            prop_assert!(file == expected(800, &places));
            prop_assert_eq!(gaps, []);
        }
    }
}
