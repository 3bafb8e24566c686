//! Keys as tones in the audio (ITU-T Q.23), for a caller whose phone has no telephone-event.
//!
//! [`ToneDetector`] hears keys as ITU-T Q.24 asks: each frequency within 1.5 %, tones of 40 ms with 40 ms between
//! them, −36 to 0 dBm0, the upper frequency at most 4 dB above and 8 dB below the lower one, noise 15 dB below.
//! [`ToneEar`] feeds it a leg's packets. A false key costs a caller one of his tries, so a tone must pass more
//! than Q.24's tests: the phase of both frequencies from block to block tells them to a few hertz, and they must
//! stay where they are, which voices do not do. It runs in the PIN stage only; the caller of this module sees
//! to that. Nothing here prints a key.
//!
//! ```text
//! samples  │ 51 │ 51 │ 51 │ 51 │ 51 │ ...          6.4 ms each: eight Goertzel filters
//! blocks   │    1    │    2 ...                    two neighbours: 12.75 ms, 78 Hz wide
//!               │    1½   │                        the same key in several in a row, steady: a key
//! ```

use crate::rtp::{Header, sequence_delta, timestamp_delta};
use crate::{Codec, Digit, g711, g722};
use std::f32::consts::TAU;
use std::fmt;
use std::sync::LazyLock;

const RATE_HZ: f32 = 8000.0;
/// Samples of half a block.
const HALF: usize = 51;
/// Rows, then columns.
const FREQUENCIES: [f32; 8] = [697.0, 770.0, 852.0, 941.0, 1209.0, 1336.0, 1477.0, 1633.0];
const KEYS: [[char; 4]; 4] =
    [['1', '2', '3', 'A'], ['4', '5', '6', 'B'], ['7', '8', '9', 'C'], ['*', '0', '#', 'D']];

/// So many blocks in a row tell a key: 32 ms of tone lie in them.
const ENOUGH: u8 = 4;
/// So many blocks without it end a key: an interruption of 10 ms, which Q.24 wants bridged, spoils four.
const GONE: u8 = 5;
/// Of the stronger tone: −39 dBm0, which leaves 3 dB for a frequency at the edge of what is taken.
const LEAST_STRONGER: f32 = 256.0;
/// Of the weaker tone: −47 dBm0.
const LEAST_WEAKER: f32 = 102.0;
/// The columns may be so much stronger than the rows, in power: 4 dB, and 2 for the error of measurement.
const MOST_TWIST: f32 = 4.0;
/// The rows may be so much stronger than the columns, in power: 8 dB and 3.
const MOST_REVERSE_TWIST: f32 = 12.6;
/// The tone is so much stronger than the next one of its group, in power: 6 dB.
const ABOVE_NEIGHBOURS: f32 = 4.0;
/// Both tones hold so much of all energy.
const SHARE: f32 = 0.6;
/// The second harmonic is so much weaker, in power: 10 dB.
const ABOVE_HARMONIC: f32 = 10.0;
/// How far a frequency may be from its own: Q.24 takes 1.5 % and refuses 3.5 %.
const OFF_BY: f32 = 0.025;
/// A tone does not change so much from block to block, in power: 3 dB.
const STEADY: f32 = 2.0;
/// Nor does its frequency, in hertz.
const STEADY_HZ: f32 = 12.0;

/// A frequency's constants.
#[derive(Clone, Copy)]
struct Filter {
    coefficient: f32,
    /// e^(−jω).
    turn: Complex,
    /// e^(−jω·(HALF − 1)): from what the recursion leaves to a phase that counts from the half's first sample.
    to_start: Complex,
    /// e^(−jω·HALF).
    hop: Complex,
}

#[derive(Clone, Copy, Default)]
struct Complex {
    re: f32,
    im: f32,
}

impl Complex {
    fn at(angle: f32) -> Self {
        Self { re: angle.cos(), im: angle.sin() }
    }
    fn plus(self, other: Self) -> Self {
        Self { re: self.re + other.re, im: self.im + other.im }
    }
    fn times(self, other: Self) -> Self {
        let (a, b) = (self, other);
        Self { re: a.re * b.re - a.im * b.im, im: a.re * b.im + a.im * b.re }
    }
    fn minus(self, other: Self) -> Self {
        self.plus(other.scaled(-1.0))
    }
    fn scaled(self, by: f32) -> Self {
        Self { re: self.re * by, im: self.im * by }
    }
    fn conjugate(self) -> Self {
        Self { im: -self.im, ..self }
    }
    fn power(self) -> f32 {
        self.re * self.re + self.im * self.im
    }
}

impl Filter {
    fn new(hz: f32) -> Self {
        let omega = TAU * hz / RATE_HZ;
        Self {
            coefficient: 2.0 * omega.cos(),
            turn: Complex::at(-omega),
            to_start: Complex::at(-omega * (HALF - 1) as f32),
            hop: Complex::at(-omega * HALF as f32),
        }
    }

    /// What the recursion left of its last two values.
    fn result(&self, s1: f32, s2: f32) -> Complex {
        let back = Complex { re: self.turn.re * s2, im: self.turn.im * s2 };
        Complex { re: s1 - back.re, im: -back.im }.times(self.to_start)
    }
}

static FILTERS: LazyLock<[Filter; 8]> = LazyLock::new(|| FREQUENCIES.map(Filter::new));

/// How much of a column's tone each row's filter hears in a block of 12.75 ms: the two are told apart by it.
static LEAKS: LazyLock<[[Complex; 4]; 4]> = LazyLock::new(|| {
    let leak = |row: f32, column: f32| {
        let step = TAU * (column - row) / RATE_HZ;
        let sum = (0..2 * HALF).fold(Complex::default(), |sum, n| sum.plus(Complex::at(step * n as f32)));
        sum.scaled(1.0 / (2.0 * HALF as f32))
    };
    let (rows, columns) = FREQUENCIES.split_at(4);
    let mut leaks = [[Complex::default(); 4]; 4];
    for (leaks, row) in leaks.iter_mut().zip(rows) {
        for (place, column) in leaks.iter_mut().zip(columns) {
            *place = leak(*row, *column);
        }
    }
    leaks
});

/// One half of a block: what of each frequency is in it, and its energy.
#[derive(Clone, Copy)]
struct Half {
    samples: [f32; HALF],
    parts: [Complex; 8],
    energy: f32,
}

impl Half {
    const SILENCE: Self =
        Self { samples: [0.0; HALF], parts: [Complex { re: 0.0, im: 0.0 }; 8], energy: 0.0 };

    fn of(samples: [f32; HALF]) -> Self {
        let filters = &*FILTERS;
        let coefficients = filters.map(|filter| filter.coefficient);
        let (mut s1, mut s2) = ([0.0f32; 8], [0.0f32; 8]);
        let mut energy = 0.0;
        for sample in samples {
            energy += sample * sample;
            let mut s0 = [0.0f32; 8];
            for (((s0, s1), s2), coefficient) in s0.iter_mut().zip(&s1).zip(&s2).zip(&coefficients) {
                *s0 = sample + coefficient * s1 - s2;
            }
            (s1, s2) = (s0, s1);
        }
        let mut parts = [Complex::default(); 8];
        for (((part, filter), s1), s2) in parts.iter_mut().zip(filters).zip(&s1).zip(&s2) {
            *part = filter.result(*s1, *s2);
        }
        Self { samples, parts, energy }
    }
}

/// A block that sounds like a key.
#[derive(Clone, Copy)]
struct Candidate {
    row: usize,
    column: usize,
    low: Complex,
    high: Complex,
    /// How far both frequencies were from their own, in hertz, when the block before was of the same key.
    off: Option<[f32; 2]>,
}

/// Hears keys in linear audio at 8000 Hz.
#[derive(Clone)]
pub struct ToneDetector {
    filling: [f32; HALF],
    filled: usize,
    before: Half,
    last: Option<Candidate>,
    /// Blocks in a row that agree with each other.
    run: u8,
    /// The key that was told and still sounds, and for how many blocks it has not been heard.
    sounding: Option<(usize, usize)>,
    missing: u8,
}

impl fmt::Debug for ToneDetector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ToneDetector")
    }
}

impl Default for ToneDetector {
    fn default() -> Self {
        Self {
            filling: [0.0; HALF],
            filled: 0,
            before: Half::SILENCE,
            last: None,
            run: 0,
            sounding: None,
            missing: 0,
        }
    }
}

impl ToneDetector {
    /// Hears the next samples. Each key is told once, when so much of it was heard that it is one.
    pub fn hear(&mut self, samples: &[i16], mut told: impl FnMut(Digit)) {
        for sample in samples {
            if let Some(place) = self.filling.get_mut(self.filled) {
                *place = f32::from(*sample);
            }
            self.filled += 1;
            if self.filled >= HALF {
                self.filled = 0;
                let half = Half::of(self.filling);
                if let Some(digit) = self.on_half(half) {
                    told(digit);
                }
            }
        }
    }

    /// A key that was told has not ended yet.
    #[must_use]
    pub fn is_sounding(&self) -> bool {
        self.sounding.is_some()
    }

    fn on_half(&mut self, half: Half) -> Option<Digit> {
        let candidate = self.candidate(&half);
        self.before = half;
        let mut agrees = false;
        let candidate = candidate.map(|candidate| match self.last {
            Some(last) if (last.row, last.column) == (candidate.row, candidate.column) => {
                let candidate = candidate.measured(&last);
                agrees = candidate.agrees_with(&last);
                candidate
            }
            _ => candidate,
        });
        self.last = candidate;
        self.run = match candidate {
            None => 0,
            Some(_) if agrees => self.run.saturating_add(1),
            Some(_) => 1,
        };
        let key = candidate.map(|candidate| (candidate.row, candidate.column));
        if self.sounding.is_some() {
            if key == self.sounding {
                self.missing = 0;
                return None;
            }
            self.missing += 1;
            if self.missing >= GONE {
                self.sounding = None;
            }
        }
        let (row, column) = key.filter(|_| self.run >= ENOUGH)?;
        self.sounding = key;
        self.missing = 0;
        KEYS.get(row)?.get(column).copied().and_then(Digit::from_char)
    }

    /// What the half before and this one sound like together.
    fn candidate(&self, half: &Half) -> Option<Candidate> {
        let filters = &*FILTERS;
        let energy = self.before.energy + half.energy;
        // |X|² of a sine of amplitude A is (A·N/2)², its energy A²·N/2.
        let samples = 2.0 * HALF as f32;
        let power_of = |amplitude: f32| (amplitude * samples / 2.0) * (amplitude * samples / 2.0);
        if energy * samples / 2.0 < power_of(LEAST_STRONGER) {
            return None;
        }
        let mut parts = [Complex::default(); 8];
        for (((part, filter), a), b) in parts.iter_mut().zip(filters).zip(&self.before.parts).zip(&half.parts)
        {
            *part = a.plus(b.times(filter.hop));
        }
        let (rows, columns) = parts.split_at_mut(4);
        let (row, column) = (loudest(rows)?, loudest(columns)?);
        let (low, high) = (*rows.get(row)?, *columns.get(column)?);
        // Each filter hears a little of the other tone.
        let leaks = LEAKS.get(row)?;
        let leak = *leaks.get(column)?;
        let clear = 1.0 / (1.0 - leak.power());
        let (low, high) = (
            low.minus(leak.times(high)).scaled(clear),
            high.minus(leak.conjugate().times(low)).scaled(clear),
        );
        for (part, leak) in columns.iter_mut().zip(leaks) {
            *part = part.minus(leak.conjugate().times(low));
        }
        for (part, leaks) in rows.iter_mut().zip(&*LEAKS) {
            *part = part.minus(leaks.get(column)?.times(high));
        }
        if !(stands_out(rows, row) && stands_out(columns, column)) {
            return None;
        }
        let (low_power, high_power) = (low.power(), high.power());
        let both = low_power + high_power + 2.0 * low.conjugate().times(leak).times(high).re;
        let loud = low_power.max(high_power) >= power_of(LEAST_STRONGER)
            && low_power.min(high_power) >= power_of(LEAST_WEAKER);
        let balanced = high_power <= low_power * MOST_TWIST && low_power <= high_power * MOST_REVERSE_TWIST;
        let pure = both * 2.0 / samples >= energy * SHARE;
        if !(loud && balanced && pure) {
            return None;
        }
        let candidate = Candidate { row, column, low, high, off: None };
        self.is_without_harmonics(half, &candidate).then_some(candidate)
    }

    /// Voices have harmonics, and telephones' tones have not. The second one of a row is measured only where it is
    /// far enough from the column's own frequency.
    fn is_without_harmonics(&self, half: &Half, candidate: &Candidate) -> bool {
        let (Some(low_hz), Some(high_hz)) =
            (FREQUENCIES.get(candidate.row), FREQUENCIES.get(4 + candidate.column))
        else {
            return false;
        };
        let block = || self.before.samples.iter().chain(&half.samples);
        let is_weak = |hz: f32, power: f32| goertzel(block(), hz) * ABOVE_HARMONIC <= power;
        let apart = (2.0 * low_hz - high_hz).abs() > 160.0;
        is_weak(2.0 * high_hz, candidate.high.power())
            && (!apart || is_weak(2.0 * low_hz, candidate.low.power().max(candidate.high.power())))
    }
}

impl Candidate {
    /// With its frequencies, which the phase tells since the block before.
    fn measured(self, last: &Self) -> Self {
        let hz = |now: Complex, then: Complex, index: usize| {
            let filter = FILTERS.get(index)?;
            let turned = now.times(then.conjugate()).times(filter.hop);
            Some(turned.im.atan2(turned.re) / TAU * RATE_HZ / HALF as f32)
        };
        let low = hz(self.low, last.low, self.row);
        let high = hz(self.high, last.high, 4 + self.column);
        Self { off: low.zip(high).map(|(low, high)| [low, high]), ..self }
    }

    /// The same tone goes on.
    fn agrees_with(&self, last: &Self) -> bool {
        let steady = |now: Complex, then: Complex| {
            let (now, then) = (now.power(), then.power());
            now <= then * STEADY && then <= now * STEADY
        };
        let Some([low, high]) = self.off else { return false };
        let within =
            |off: f32, index: usize| FREQUENCIES.get(index).is_some_and(|hz| off.abs() <= hz * OFF_BY);
        let stays = last.off.is_none_or(|[low_before, high_before]| {
            (low - low_before).abs() <= STEADY_HZ && (high - high_before).abs() <= STEADY_HZ
        });
        within(low, self.row)
            && within(high, 4 + self.column)
            && stays
            && steady(self.low, last.low)
            && steady(self.high, last.high)
    }
}

fn loudest(group: &[Complex]) -> Option<usize> {
    let parts = group.iter().enumerate();
    parts.max_by(|a, b| a.1.power().total_cmp(&b.1.power())).map(|(index, _)| index)
}

/// True when the others of the group are far weaker.
fn stands_out(group: &[Complex], index: usize) -> bool {
    let Some(best) = group.get(index) else { return false };
    let mut others = group.iter().enumerate().filter(|(other, _)| *other != index);
    others.all(|(_, other)| other.power() * ABOVE_NEIGHBOURS <= best.power())
}

/// Power of one frequency.
fn goertzel<'a>(samples: impl Iterator<Item = &'a f32>, hz: f32) -> f32 {
    let coefficient = 2.0 * (TAU * hz / RATE_HZ).cos();
    let (mut s1, mut s2) = (0.0f32, 0.0f32);
    for sample in samples {
        (s1, s2) = (sample + coefficient * s1 - s2, s1);
    }
    s1 * s1 + s2 * s2 - coefficient * s1 * s2
}

/// A gap in the timestamps up to this many samples, with packets missing, may be anything; what is longer is taken
/// for silence.
const UNKNOWN: i32 = 800;
/// So much silence ends every key.
const LONG_SILENCE: usize = 8 * HALF;
/// Samples that are decoded at once.
const PIECE: usize = 160;

/// Hears keys in a leg's packets.
#[derive(Default)]
pub struct ToneEar {
    detector: ToneDetector,
    decoder: Option<Box<g722::Decoder>>,
    last: Option<Last>,
}

/// The newest packet.
#[derive(Clone, Copy)]
struct Last {
    ssrc: u32,
    sequence: u16,
    /// Where the next one begins, when nothing is missing.
    end: u32,
}

impl fmt::Debug for ToneEar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ToneEar")
    }
}

impl ToneEar {
    /// Hears nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A key that was told has not ended yet.
    #[must_use]
    pub fn is_sounding(&self) -> bool {
        self.detector.is_sounding()
    }

    /// Audio came. A packet that was overtaken is left out: a tone with a hole is one key, whereas one that is
    /// put together in the wrong order is none.
    pub fn on_packet(&mut self, header: &Header, codec: Codec, payload: &[u8], mut told: impl FnMut(Digit)) {
        if let Some(last) = self.last.filter(|last| last.ssrc == header.ssrc) {
            let ahead = sequence_delta(header.sequence, last.sequence);
            if (-100..=0).contains(&ahead) {
                return;
            }
            let gap = timestamp_delta(header.timestamp, last.end);
            // A sender that paused was silent; what was lost may have been more of the same tone.
            let silent = if ahead == 1 { 1..=i32::MAX } else { UNKNOWN..=i32::MAX };
            if silent.contains(&gap) {
                let silence = [0; LONG_SILENCE];
                let length = usize::try_from(gap).unwrap_or(LONG_SILENCE).min(LONG_SILENCE);
                self.detector.hear(silence.get(..length).unwrap_or_default(), &mut told);
            }
        }
        let end = header.timestamp.wrapping_add(payload.len() as u32);
        self.last = Some(Last { ssrc: header.ssrc, sequence: header.sequence, end });
        let mut samples = [0; PIECE];
        for piece in payload.chunks(PIECE) {
            let count = match codec.law() {
                Some(law) => g711::decode(law, piece, &mut samples),
                None => {
                    let decoder = self.decoder.get_or_insert_with(|| Box::new(g722::Decoder::narrow()));
                    decoder.decode(piece, &mut samples)
                }
            };
            self.detector.hear(samples.get(..count).unwrap_or_default(), &mut told);
        }
    }
}

#[cfg(test)]
mod tests;
