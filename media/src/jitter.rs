//! Where a received packet belongs in a recording: order, gaps and silence.
//!
//! A recording's timeline is wall time, sample 0 is the instant of the record command. A leg's first packet
//! is put where it arrived; the RTP timestamps (RFC 3550 §5.1) place all that follow it, so that jitter, loss
//! and reordering do not move what was said. Another SSRC or a jump of the timestamps puts the anchor anew: right
//! behind what came before when it arrives about then, else where it arrives.
//!
//! ```text
//!   written │←──────── held back for late packets ────────→│ now │←─ early ─→│
//! ```
//!
//! A sender's clock is not ours. What the packets with the least delay say of it over some seconds is the truth:
//! when they wander from our clock, the leg follows by single samples, repeated or left out, and at once where it is
//! silent anyway. So two legs stay within 20 ms of each other for as long as a call lasts.
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
/// ... for so long has been set anew, or is worse than any crystal: following by single samples takes too long.
const DRIFT_LASTS: i64 = milliseconds(1000) as i64;
/// In-order packets that are too late for so long are not a stall being made up, but a clock that had
/// stopped.
const STALL_LASTS: i64 = milliseconds(200) as i64;
/// No stall is so long.
const STALL_LATEST: i64 = milliseconds(3000) as i64;
/// Packets further behind the newest are a new start (RFC 3550 A.1).
const MAX_MISORDER: i16 = 100;
/// A new stream that arrives less than this, and less than a packet, from the end of the one before it follows without a
/// seam: the rest is jitter.
const SEAM: i64 = milliseconds(20) as i64;
/// The least delay is that of so long a time ...
const PACE_LASTS: i64 = milliseconds(10_000) as i64;
/// ... and of so many packets, that jitter cannot be all there is.
const PACE_PACKETS: u32 = 100;
/// A leg may be so far from the wall clock before it is led back: more than packets wait for their batch.
const PACE_SLACK: i64 = milliseconds(5) as i64;
/// One sample in so many: 0.05 %, beyond what crystals differ by and far below what can be heard.
const PACE_STEP: i64 = milliseconds(250) as i64;
/// Who is so far off is led back faster ...
const PACE_FAR: i64 = milliseconds(20) as i64;
/// ... by one sample in so many: 0.6 %.
const PACE_FAST: i64 = milliseconds(20) as i64;
/// As many stretches are listed one by one; the last one then stands for all that follows.
const MAX_LISTED: usize = 4096;
/// Stands for "nothing here yet" in the ring. No G.711 code decodes to it; [`Timeline::insert`] avoids it for others.
const EMPTY: i16 = i16::MIN;
/// Stands for "came, and could not be kept".
const LOST: i16 = i16::MIN + 1;

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

/// Where a packet belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Its first sample, in samples from the start of the recording; negative when it was said before.
    pub position: i64,
    /// So many samples before it are to be filled by its first one: the leg has been moved to keep step with our clock.
    pub stretch: u32,
}

/// Decides where packets belong.
#[derive(Debug, Default)]
pub struct Placement {
    anchor: Option<Anchor>,
    /// Of the stream before, for its stragglers, and should it come back.
    before: Option<Anchor>,
    slipped: i64,
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
    pace: Pace,
}

/// How a sender's clock compares with ours.
#[derive(Debug)]
struct Pace {
    since: i64,
    packets: u32,
    /// By how much the packet with the least delay came later than its place, since then.
    least: i64,
    /// The leg is still to be moved by so many samples, later ones being positive ...
    owed: i64,
    /// ... and by the next one from here on.
    due: i64,
}

impl Placement {
    /// Where the packet belongs; `None` when it comes too late.
    pub fn place(&mut self, packet: &Arrived) -> Option<Place> {
        let arrival = i64::try_from(packet.arrival).unwrap_or(i64::MAX);
        let is_own = |anchor: &Anchor| anchor.ssrc == packet.ssrc;
        if !self.anchor.as_ref().is_some_and(is_own) {
            let returns =
                |anchor: &Anchor| is_own(anchor) && is_timely(arrival - anchor.position_of(packet.timestamp));
            if !self.before.as_ref().is_some_and(returns) {
                let begun = self.begin(packet, arrival, 1);
                return Some(begun);
            }
            std::mem::swap(&mut self.anchor, &mut self.before);
        }
        let anchor = self.anchor.as_mut()?;
        let position = anchor.position_of(packet.timestamp);
        let late = arrival.saturating_sub(position);
        let timely = is_timely(late);
        let ahead = sequence_delta(packet.sequence, anchor.sequence);
        if ahead <= 0 {
            if ahead < -MAX_MISORDER && !timely {
                return Some(self.begin(packet, arrival, 1));
            }
            return timely.then_some(Place { position, stretch: 0 });
        }
        if !timely && !anchor.is_stall(packet, ahead, late, arrival) {
            return Some(self.begin(packet, arrival, ahead));
        }
        anchor.drifts_since = (late.abs() > DRIFT).then_some(anchor.drifts_since.unwrap_or(arrival));
        if timely && anchor.drifts_since.is_some_and(|since| arrival - since >= DRIFT_LASTS) {
            return Some(self.begin(packet, arrival, ahead));
        }
        anchor.late_since = (!timely).then_some(anchor.late_since.unwrap_or(arrival));
        // What was silent before the packet, or lies right before it, is all that may be touched.
        let pause = position > anchor.end(ahead);
        let slip = match timely && (pause || ahead == 1) {
            true => anchor.pace.follow(late, arrival, pause),
            false => 0,
        };
        let position = position.saturating_add(slip);
        (anchor.timestamp, anchor.position) = (packet.timestamp, position);
        (anchor.sequence, anchor.duration) = (packet.sequence, packet.duration);
        self.slipped = self.slipped.saturating_add(slip);
        let stretch = if pause { 0 } else { u32::try_from(slip).unwrap_or(0) };
        timely.then_some(Place { position, stretch })
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

    /// Samples that the leg was moved by to keep step with our clock: repeated ones less those left out.
    #[must_use]
    pub fn slipped(&self) -> i64 {
        self.slipped
    }

    /// A new start, `ahead` packets after the newest one when it is of the same stream.
    fn begin(&mut self, packet: &Arrived, arrival: i64, ahead: i16) -> Place {
        // A packet that is missing at the seam must not be taken for jitter.
        let seam = self.anchor.as_ref().map(|anchor| (anchor.end(ahead), SEAM.min(anchor.duration.into())));
        let seam = seam.filter(|(end, most)| end.abs_diff(arrival) < most.unsigned_abs());
        let position = seam.map_or(arrival, |(end, _)| end);
        let begun = Anchor {
            ssrc: packet.ssrc,
            timestamp: packet.timestamp,
            position,
            sequence: packet.sequence,
            duration: packet.duration,
            drifts_since: None,
            late_since: None,
            pace: Pace::new(arrival),
        };
        let before = self.anchor.replace(begun);
        if before.as_ref().is_some_and(|before| before.ssrc != packet.ssrc) {
            self.before = before;
        }
        Place { position, stretch: 0 }
    }
}

fn is_timely(late: i64) -> bool {
    (-EARLY..=WINDOW as i64).contains(&late)
}

impl Anchor {
    fn position_of(&self, timestamp: u32) -> i64 {
        self.position.saturating_add(i64::from(timestamp_delta(timestamp, self.timestamp)))
    }

    /// Where the packet so many after the newest one would begin.
    fn end(&self, ahead: i16) -> i64 {
        self.position.saturating_add(i64::from(self.duration).saturating_mul(i64::from(ahead)))
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

impl Pace {
    fn new(since: i64) -> Self {
        Self { since, packets: 0, least: i64::MAX, owed: 0, due: 0 }
    }

    /// By how much the packet is to be moved, which came `late` samples after its place. After a `pause` it may move all
    /// at once.
    fn follow(&mut self, late: i64, arrival: i64, pause: bool) -> i64 {
        if self.owed == 0 {
            self.least = self.least.min(late);
            self.packets = self.packets.saturating_add(1);
            if arrival.saturating_sub(self.since) < PACE_LASTS || self.packets < PACE_PACKETS {
                return 0;
            }
            let least = self.least;
            *self = Self::new(arrival);
            if least.abs() <= PACE_SLACK {
                return 0;
            }
            self.owed = least;
        }
        let slip = match pause {
            true => self.owed,
            false if arrival < self.due => 0,
            false => self.owed.signum(),
        };
        if slip != 0 {
            let step = if self.owed.abs() > PACE_FAR { PACE_FAST } else { PACE_STEP };
            self.due = arrival.saturating_add(step);
            self.owed -= slip;
        }
        if self.owed == 0 {
            *self = Self::new(arrival);
        }
        slip
    }
}

/// Stretches of a file: first sample and number of samples, in order.
pub type Stretches = Vec<(u64, u64)>;

/// Adds a stretch that begins where the last one ends, or later.
pub fn list(stretches: &mut Stretches, start: u64, count: u64) {
    let full = stretches.len() >= MAX_LISTED;
    match stretches.last_mut() {
        _ if count == 0 => {}
        Some((first, length)) if start <= first.saturating_add(*length) || full => {
            *length = (*length).max(start.saturating_add(count).saturating_sub(*first));
        }
        _ => stretches.push((start, count)),
    }
}

/// Both in one list.
#[must_use]
pub fn joined(mut stretches: Stretches, others: Stretches) -> Stretches {
    stretches.extend(others);
    stretches.sort_unstable();
    let mut joined = Stretches::new();
    stretches.into_iter().for_each(|(start, count)| list(&mut joined, start, count));
    joined
}

/// One leg's audio between its arrival and its writing, in samples of the file.
#[derive(Debug)]
pub struct Timeline {
    /// Sample `position` lies at `position` modulo the length.
    ring: Box<[i16]>,
    /// All before it has been emitted.
    base: u64,
    gaps: Stretches,
    lost: Stretches,
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
        let ring = vec![EMPTY; CAPACITY.saturating_mul(scale.max(1))].into();
        Self { ring, base: 0, gaps: Stretches::new(), lost: Stretches::new() }
    }

    /// Samples emitted so far.
    #[must_use]
    pub fn emitted(&self) -> u64 {
        self.base
    }

    /// Where nothing had come when it was emitted, and where what came was lost.
    #[must_use]
    pub fn into_gaps_and_lost(self) -> (Stretches, Stretches) {
        (self.gaps, self.lost)
    }

    /// Puts audio in its place. The first to come stays: a repeated packet changes nothing. What lies before
    /// the audio already emitted, or too far ahead, is cut off.
    pub fn insert(&mut self, position: i64, samples: &[i16]) {
        self.pieces(position, samples.len(), |piece, offset| {
            for (slot, sample) in piece.iter_mut().zip(samples.get(offset..).unwrap_or_default()) {
                if *slot == EMPTY {
                    *slot = (*sample).max(LOST + 1);
                }
            }
        });
    }

    /// Puts silence in place of whatever was or will be said there.
    pub fn mute(&mut self, position: i64, samples: usize) {
        self.pieces(position, samples, |piece, _| piece.fill(0));
    }

    /// Says that something came for this place and could not be kept.
    pub fn lose(&mut self, position: i64, samples: usize) {
        self.pieces(position, samples, |piece, _| {
            piece.iter_mut().filter(|slot| **slot == EMPTY).for_each(|slot| *slot = LOST);
        });
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
    pub fn emit(&mut self, until: u64, mut sink: impl FnMut(&[i16])) {
        let capacity = self.ring.len();
        while self.base < until {
            let from = (self.base % capacity as u64) as usize;
            let wanted = usize::try_from(until - self.base).unwrap_or(capacity);
            let to = capacity.min(from.saturating_add(wanted));
            let base = self.base;
            self.base += (to - from) as u64;
            let Some(piece) = self.ring.get_mut(from..to) else { break };
            // Both marks are below all that can be heard.
            if piece.iter().any(|sample| *sample <= LOST) {
                list_silence(&mut self.gaps, &mut self.lost, base, piece);
            }
            sink(piece);
            piece.fill(EMPTY);
        }
    }
}

/// Turns what is empty or lost into silence and lists it.
fn list_silence(gaps: &mut Stretches, lost: &mut Stretches, base: u64, piece: &mut [i16]) {
    for (at, sample) in (base..).zip(piece).filter(|(_, sample)| **sample <= LOST) {
        list(if *sample == EMPTY { gaps } else { lost }, at, 1);
        *sample = 0;
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
            self.timeline.emit(until, |piece| self.file.extend_from_slice(piece));
        }
        fn take(&mut self, packet: &Arrived, samples: &[i16]) {
            self.emit(packet.arrival.saturating_sub(WINDOW));
            if let Some(place) = self.placement.place(packet) {
                self.timeline.insert(place.position, samples);
            }
        }
        /// The file at `ms` and its gaps in milliseconds.
        fn finish(mut self, ms: u64) -> (Vec<i16>, Vec<(u64, u64)>) {
            self.emit(milliseconds(ms));
            let (gaps, _) = self.timeline.into_gaps_and_lost();
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
                let position = placement.place(&Arrived { arrival, ..arrived }).unwrap().position;
                assert!(
                    position.abs_diff(arrival as i64) <= milliseconds(200),
                    "{number}: {position} at {arrival}"
                );
            }
        }
    }

    /// Senders whose clocks differ from ours by as much as crystals do, and a network that delays each packet by up
    /// to 60 ms: an hour of talk with a pause in each minute.
    #[test]
    fn two_legs_stay_within_20_ms_of_each_other_for_an_hour() {
        const HOUR: i64 = 3_600_000;
        for ppm in [[100, -100], [-100, 100], [200, -150], [0, 0]] {
            let mut noise = 1u64;
            let (mut worst, mut slipped) = ([(0i64, 0i64); 2], [0; 2]);
            for (leg, ppm) in ppm.into_iter().enumerate() {
                let mut placement = Placement::default();
                let mut number = 0u16;
                for frame in (0..HOUR / 20).filter(|frame| frame % 3000 < 2900) {
                    noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    // The frame's first sample is spoken at its time by the sender's clock, which is this by ours.
                    let said = frame * 160 * 1_000_000 / (1_000_000 + ppm);
                    let jitter = if frame == 0 { 0 } else { (noise >> 40) % 480 };
                    let arrived = Arrived {
                        arrival: said as u64 + jitter,
                        ssrc: 1,
                        sequence: number,
                        timestamp: (frame * 160) as u32,
                        marker: frame % 3000 == 0,
                        duration: 160,
                    };
                    let off = placement.place(&arrived).unwrap().position - said;
                    worst[leg] = (worst[leg].0.min(off), worst[leg].1.max(off));
                    number = number.wrapping_add(1);
                }
                slipped[leg] = placement.slipped();
            }
            let apart = (worst[0].1 - worst[1].0).max(worst[1].1 - worst[0].0);
            assert!(apart < milliseconds(20) as i64, "{ppm:?}: {apart} samples apart at worst, {worst:?}");
            for (ppm, slipped) in ppm.into_iter().zip(slipped) {
                // 100 ppm of an hour are 2880 samples.
                let expected = -ppm * 2880 / 100;
                assert!((slipped - expected).abs() < 160, "{ppm} ppm: {slipped} samples slipped");
            }
        }
    }

    #[test]
    fn a_leg_that_began_late_by_jitter_is_led_back_and_one_with_jitter_alone_is_not_moved() {
        for (first, late_ones) in [(40u64, 0u64), (0, 40)] {
            let mut placement = Placement::default();
            let mut last = 0;
            for number in 0..6000usize {
                let delay = if number == 0 {
                    first
                } else if number % 7 == 1 {
                    late_ones
                } else {
                    0
                };
                let arrived = Arrived { marker: false, ..packet(number, 20 * number as u64 + delay) };
                let position = placement.place(&arrived).unwrap().position;
                last = position - milliseconds(20 * number as u64) as i64;
            }
            assert!(last.abs() <= PACE_SLACK, "{last}");
            assert_eq!(placement.slipped() == 0, first == 0, "{}", placement.slipped());
        }
    }

    #[test]
    fn a_leg_that_is_led_back_has_neither_hole_nor_gap() {
        for per_mille in [999u64, 1001] {
            let mut leg = Leg::new();
            for number in 0..3000usize {
                let arrival = number as u64 * 160 * per_mille / 1000;
                let arrived = Arrived { arrival, marker: false, ..packet(number, 0) };
                leg.emit(arrival.saturating_sub(WINDOW));
                let place = leg.placement.place(&arrived).unwrap();
                leg.timeline.insert(place.position, &[7; FRAME]);
                leg.timeline
                    .insert(place.position - i64::from(place.stretch), &vec![7; place.stretch as usize]);
            }
            let slipped = leg.placement.slipped();
            let (file, gaps) = leg.finish(59_000);
            assert!(gaps.is_empty() && file.iter().all(|sample| *sample == 7), "{per_mille}: {gaps:?}");
            assert!(if per_mille > 1000 { slipped > 100 } else { slipped < -100 }, "{per_mille}: {slipped}");
        }
    }

    /// Frame `number` of another stream.
    fn of_another_stream(number: usize, ms: u64) -> Arrived {
        let packet = packet(number, ms);
        let (timestamp, sequence) =
            (packet.timestamp.wrapping_add(0x5555_0000), packet.sequence.wrapping_add(0x5555));
        Arrived { ssrc: 10, timestamp, sequence, ..packet }
    }

    #[test]
    fn a_stream_that_follows_within_a_packet_has_no_seam() {
        let mut leg = Leg::new();
        leg.take(&packet(0, 0), &frame(0));
        leg.take(&of_another_stream(1, 33), &frame(1));
        leg.take(&of_another_stream(2, 41), &frame(2));
        let (file, gaps) = leg.finish(60);
        assert!(file == expected(60, &[(0, 0), (1, 20), (2, 40)]), "{gaps:?}");
    }

    #[test]
    fn a_straggler_of_the_stream_before_is_put_where_it_was_said() {
        let mut leg = Leg::new();
        leg.take(&packet(0, 0), &frame(0));
        leg.take(&of_another_stream(2, 73), &frame(2));
        leg.take(&packet(1, 75), &frame(1));
        leg.take(&of_another_stream(3, 99), &frame(3));
        let (file, gaps) = leg.finish(113);
        assert!(file == expected(113, &[(0, 0), (1, 20), (2, 73), (3, 93)]), "{gaps:?}");
        assert_eq!(gaps, [(40, 33)]);
    }

    #[test]
    fn what_was_lost_is_listed_apart_from_what_never_came() {
        let mut timeline = Timeline::default();
        timeline.insert(0, &[1; 160]);
        timeline.lose(100, 220);
        timeline.insert(400, &[2; 80]);
        let mut file = vec![];
        timeline.emit(500, |piece| file.extend_from_slice(piece));
        assert_eq!(timeline.into_gaps_and_lost(), (vec![(320, 80), (480, 20)], vec![(160, 160)]));
        assert!(file[160..400].iter().all(|sample| *sample == 0));
    }

    #[test]
    fn lists_are_joined_in_order() {
        assert_eq!(
            joined(vec![(0, 5), (20, 5)], vec![(5, 5), (18, 10), (40, 1)]),
            [(0, 10), (18, 10), (40, 1)]
        );
        assert_eq!(joined(vec![], vec![]), []);
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
            timeline.emit(2 * at as u64 + 2, |_| {});
        }
        let (gaps, _) = timeline.into_gaps_and_lost();
        assert_eq!((gaps.len(), gaps[0], gaps[4095]), (MAX_LISTED, (1, 1), (8191, 31_809)));
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
            prop_assert!(leg.file.iter().all(|sample| *sample > LOST));
            let mut end = 0;
            for (start, length) in leg.timeline.into_gaps_and_lost().0 {
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
